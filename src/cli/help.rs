//! Help texts, by hand: what a person needs first stands first. `tests/cli` keeps snapshots of
//! them.

/// Without a verb.
pub(crate) const SHORT: &str = "\
fieldgate demo       a broker with this machine and a small plant, without any file
fieldgate check      what is wrong with a configuration, or what it means
fieldgate run        the gateway
fieldgate sub, pub   an MQTT client

fieldgate --help     everything else
";

/// `--help`.
pub(crate) const LONG: &str = "\
fieldgate: an MQTT gateway and broker for the hardware of this machine

Usage: fieldgate VERB [OPTIONS]

The gateway
  demo     runs with no file and no hardware: try this first
  run      runs the gateway in the foreground
  check    prints every error of the configuration, or what it means
Field devices
  scan     lists what is connected to this machine
  read     reads a point, through the running gateway or directly
  set      commands a point
MQTT
  queue    what waits for upstream brokers and for sessions
  pub      publishes, with mosquitto_pub's options
  sub      subscribes and prints, with mosquitto_sub's options
  passwd   edits a password file
  journal  tells what a copy of a journal holds
  bench    measures a broker

Every verb takes
  --help           what it does and takes
  --config FILE    the configuration; else $FIELDGATE_CONFIG, else
                   /etc/fieldgate/fieldgate.toml
  --json           the answer as JSON, where a program may want it
and fieldgate alone takes --version.

Exit codes: 0 done, 1 failed, 2 wrong usage, 78 wrong configuration;
others are told by the verb's help. NO_COLOR is obeyed.
";

pub(crate) const RUN: &str = "\
Runs the gateway in the foreground, as systemd does.

Usage: fieldgate run [--config FILE] [-v] [-q]

  -v    says more (debug); -vv everything (trace)
  -q    says less: only warnings and errors
  RUST_LOG wins over both, and both over [log] of the file.

SIGTERM and SIGINT stop it cleanly: outputs go to their safe state. A second one
stops it at once. SIGHUP reads the configuration again; one with errors leaves the
running one in place.

Exit codes: 0 stopped, 1 failed, 78 wrong configuration.
";

pub(crate) const DEMO: &str = "\
Runs the gateway with no file and no hardware: an MQTT broker on loopback, the
machine's own sensors as device `machine`, and a simulated tank with pump and valve
as device `plant`, behind a real serial driver. Base topic: demo.

Usage: fieldgate demo [--port PORT] [-v]

  --port PORT    the broker's port; else 1883, or the next one that is free
  -v             says what the gateway logs

It prints where to look, then a live table on a terminal, else a line for each value.
";

pub(crate) const CHECK: &str = "\
Prints every error of the configuration at once, with its place. Touches no hardware.

Usage: fieldgate check [--config FILE] [--print] [--strict] [--hardware] [--json]

  --print       the merged configuration, and where each setting comes from
  --strict      warnings fail too
  --hardware    also looks whether what it names is there and may be used;
                outputs are not driven

Exit codes: 0 right (also with warnings), 78 wrong, 1 with --strict and warnings, or
with --hardware and something missing.
";

pub(crate) const SCAN: &str = "\
Lists what is connected: the board, GPIO chips and their lines with consumers, I2C
buses, 1-Wire, SPI, serial ports by id, IIO and hardware monitors. Never writes to a
device, and sends nothing on a bus.

Usage: fieldgate scan [--json]
";

pub(crate) const READ: &str = "\
Reads a point, or all points of a device.

Usage: fieldgate read DEVICE[/POINT] [--config FILE] [--socket PATH] [--json]

Through the running gateway; without one, directly: then the configuration says how
the device is reached, and outputs are left out, for reading one would mean to drive it.

  --socket PATH    the gateway's control socket; else the configuration says
  --timeout TIME   how long to wait for an answer: 10s

Exit codes: 0 read, 3 the quality is not good, 4 the gateway does not answer, 1 anything
else.
";

pub(crate) const QUEUE: &str = "\
Shows what waits in the running gateway: for each bridge, and for each session.

Usage: fieldgate queue [--config FILE] [--socket PATH] [--json]
       fieldgate queue export BRIDGE [--format jsonl]
       fieldgate queue drop BRIDGE

  export BRIDGE    writes what is kept for that bridge to standard output, oldest first,
                   a JSON object a line: seq, topic, qos, retain, time (when it was
                   published) and payload, or payload_hex if that is no text. It stays
                   in the queue, and what comes meanwhile is left out
  drop BRIDGE      forgets what waits for that bridge, for good; what is under way stays.
                   A bridge that the configuration has no more keeps its queue until then
  --socket PATH    the gateway's control socket; else the configuration says
  --timeout TIME   how long to wait for an answer: 10s
";

pub(crate) const SET: &str = "\
Commands a point, through the running gateway.

Usage: fieldgate set DEVICE/POINT VALUE [--for TIME] [--direct]
                     [--config FILE] [--socket PATH] [--json]

  VALUE            true false on off 1 0 open closed toggle, or a number, or text
  --for TIME       goes back afterwards: 500ms, 2s, 1m
  --direct         without a running gateway: drives the device itself, holds it until
                   Ctrl-C or --for, and leaves it in its safe state
  --socket PATH    the gateway's control socket; else the configuration says
  --timeout TIME   how long to wait for an answer: 10s

Exit codes: 0 done, 1 refused, 4 no answer.
";

pub(crate) const PUB: &str = "\
Publishes a message, with mosquitto_pub's options.

Usage: fieldgate pub -t TOPIC {-m TEXT | -f FILE | -n | -s | -l} [OPTIONS]

What
  -t, --topic TOPIC        where to
  -m, --message TEXT       the payload
  -f, --file FILE          its content is the payload
  -n, --null-message       an empty payload
  -s, --stdin-file         all of standard input is the payload
  -l, --stdin-line         each line of standard input is a message
  -q, --qos 0|1|2          default 0
  -r, --retain             to be kept for later subscribers
  --repeat N               send it N times
  --repeat-delay SECONDS   and wait in between
Where
  -h, --host HOST          default localhost
  -p, --port PORT          default 1883
  --unix PATH              a unix socket instead
  -L, --url URL            mqtt://[user[:password]@]host[:port]/topic, or mqtts;
                           ws://host[:port]/path, or wss: MQTT over WebSocket
  -u, --username NAME
  -P, --pw PASSWORD
Encrypted (port 8883 then, if none is given)
  --cafile FILE            trust these authorities, or these certificates (PEM)
  --capath FOLDER          those of each file in a folder
  --tls-use-os-certs       those that the system trusts, as with mqtts and neither
  --cert FILE, --key FILE  who we are
  --insecure               a certificate for another host will do
  --tls-version VERSION    tlsv1.2 or tlsv1.3; default both
  --tls-alpn NAME          what is spoken inside: mqtt
How
  -V, --protocol-version   5, 311 (default) or 31
  -i, --id ID              the client identifier; else one by chance
  -I, --id-prefix TEXT     and the process's number behind it
  -c, --disable-clean-session   keep the session; needs -i
  -x SECONDS               how long, -1 for ever (MQTT 5)
  -k, --keepalive SECONDS  default 60
  -M, --max-inflight N     QoS 1 and 2 messages under way, default 20
  -D, --property COMMAND NAME VALUE
                           an MQTT 5 property; COMMAND is connect, publish or will:
      connect   receive-maximum maximum-packet-size topic-alias-maximum
                session-expiry-interval user-property
      publish   payload-format-indicator message-expiry-interval content-type
                response-topic correlation-data user-property
      will      the same, and will-delay-interval
                user-property takes a name and a value
  --will-topic TOPIC, --will-payload TEXT, --will-qos 0|1|2, --will-retain
Itself
  -d, --debug              say what happens
  --quiet                  say nothing

Exit codes: 0 published (with QoS 1 and 2: acknowledged), 2 wrong usage, CONNACK's code
if the broker refuses, else 1.
";

pub(crate) const SUB: &str = "\
Subscribes and prints what comes, with mosquitto_sub's options.

Usage: fieldgate sub -t FILTER [-t FILTER…] [OPTIONS]

What
  -t, --topic FILTER       what to receive; + and # are wildcards
  -T, --filter-out FILTER  not these
  -U, --unsubscribe FILTER undo a subscription of a kept session
  -q, --qos 0|1|2          the highest to receive at, default 0
  -C N                     end after N messages
  -W SECONDS               end after this time, with exit code 27
  -E                       end as soon as the broker has acknowledged
  -R                       nothing that was retained
  --retained-only          only what was retained; ends at the first that was not
  --retain-as-published    keep the flag as it was published (MQTT 5)
  --remove-retained        and remove it on the broker
How it is printed
  -v, --verbose            the topic, a space, the payload
  -N                       without an end of line
  --json                   one JSON object a line, as -F %j
  -F FORMAT                %t topic, %p payload, %x %X hex, %l length, %q QoS,
                           %r retained, %m packet id, %j JSON, %J JSON in JSON,
                           %C content type, %D correlation data, %E expiry,
                           %F payload format, %P user properties, %R response topic,
                           %S subscription ids, %I time, %U Unix time, %% percent;
                           @X as strftime's %X, @N nanoseconds, @@;
                           \\n \\t \\e \\0 and other escapes;
                           %-20t to the left, %05l with zeros, %8.8t cut
Where
  -h, --host HOST          default localhost
  -p, --port PORT          default 1883
  --unix PATH              a unix socket instead
  -L, --url URL            mqtt://[user[:password]@]host[:port]/topic, or mqtts;
                           ws://host[:port]/path, or wss: MQTT over WebSocket
  -u, --username NAME
  -P, --pw PASSWORD
Encrypted (port 8883 then, if none is given)
  --cafile FILE            trust these authorities, or these certificates (PEM)
  --capath FOLDER          those of each file in a folder
  --tls-use-os-certs       those that the system trusts, as with mqtts and neither
  --cert FILE, --key FILE  who we are
  --insecure               a certificate for another host will do
  --tls-version VERSION    tlsv1.2 or tlsv1.3; default both
  --tls-alpn NAME          what is spoken inside: mqtt
How
  -V, --protocol-version   5, 311 (default) or 31
  -i, --id ID              the client identifier; else one by chance
  -I, --id-prefix TEXT     and the process's number behind it
  -c, --disable-clean-session   keep the session; needs -i
  -x SECONDS               how long, -1 for ever (MQTT 5)
  -k, --keepalive SECONDS  default 60
  -D, --property COMMAND NAME VALUE
                           an MQTT 5 property; COMMAND is connect or will, see
                           fieldgate pub --help
  --will-topic TOPIC, --will-payload TEXT, --will-qos 0|1|2, --will-retain
Itself
  -d, --debug              say what happens
  --quiet                  say nothing

Exit codes: 0 told to end (-C, -E, a signal), 2 wrong usage, 27 -W has passed, CONNACK's
code if the broker refuses, else 1.
";

pub(crate) const BENCH: &str = "\
Measures a broker: CPU time, memory, throughput and latency.

Usage: fieldgate bench [OPTIONS]            the broker at --host and --port
       fieldgate bench compare [--repeat N] [WORKLOAD…]
                                            this one and mosquitto, started for it
       fieldgate bench memory [OPTIONS]     what each connection, message and subscription
                                            keeps resident here: --clients 2000 (as
                                            many files must be allowed), --messages
       fieldgate bench bridge [OPTIONS]     what a bridge forwards live and what it drains
                                            after the other end was away, and its memory
                                            with --messages waiting: two of this one,
                                            started for it
       fieldgate bench relay --port PORT    no broker: moves the bytes of a fan-in, so
                                            that what the kernel costs can be told

  --workload fan-in|fan-out|p2p|wildcards|queue|drain
                           many to one, one to many, pairs, ten filters for each client,
                           to a client that is away, to one that comes back; may be
                           repeated
  --qos 0|1|2              may be repeated; default 0
  --clients N              publishers, subscribers or pairs, default 10
  --topics N               default: one for each publisher
  --payload BYTES          default 64, at least 16
  --messages N             deliveries to make, default 100000
  --batch N                messages a write, default 1
  --rate N                 published a second, all together; default: as many as go
  --window N               without a rate: messages outstanding, all together, default 1000
  --version 3.1.1|5        of MQTT, default 5
  --host HOST, --port PORT, --unix PATH
  --pid PID                the broker's process: its CPU time and memory are told
  --json                   for programs
  --upstream fieldgate|mosquitto   (bridge) what is at the other end, default fieldgate
  --repeat N               (bridge) default 1; the ratio in the middle counts

With --rate, latency runs from the time at which a message was due, whether or not it
could be sent then: a broker that stalls is charged for all that should have gone
meanwhile. Without, latency says how full the window is, and no more.

The workloads of a comparison have fixed parameters, which it prints: fan-in,
fan-in-single, p2p, fan-out, fan-out-4k, fan-in-qos1, p2p-qos1, p2p-qos2, wildcards,
properties, queue, queue-strict, drain, drain-strict, latency, latency-qos1; without
a name, all. Each is run --repeat times for each broker, default 3; of each figure the
middle one counts. Where it is strict this broker writes to the temporary folder's disk.

So does the gateway of `bench bridge`, about 100 bytes and the payload for each message.
It takes --messages, --payload, --clients, --topics, --batch (default 20), --window
(default 2000, and 2 MiB at most) and --version; all is QoS 1. It fails if anything
that was acknowledged is missing, if the backlog goes out at less than half the speed
of what is live, or if it takes more than 40 MB of memory beyond idle.
";

pub(crate) const PASSWD: &str = "\
Sets a user's password in a password file, in the formats that mosquitto reads.

Usage: fieldgate passwd [-c] [-H HASH] FILE USER
       fieldgate passwd -b [-c] [-H HASH] FILE USER PASSWORD
       fieldgate passwd -D FILE USER

  -c         makes the file if it is not there
  -D         removes the user
  -b         takes the password from the arguments, where others can see it
  -H HASH    sha512-pbkdf2 (what mosquitto 2.0 reads; the default), argon2id
             (since mosquitto 2.1, 46 MiB for each login), sha512, or
             scram-sha-256 (for MQTT 5.0's SCRAM-SHA-256 as well; mosquitto does
             not read a file with it)
  -I NUMBER  iterations of sha512-pbkdf2 and scram-sha-256; the default is 50000.
             Those of scram-sha-256 are computed by the client too, and are 4096
             at least

The password is asked for twice on a terminal, else read as one line of standard
input. The configuration names the file as password_file in [access], and a running
gateway reads it again at a reload.
";

pub(crate) const JOURNAL: &str = "\
Tells what a journal holds: its segments, how much of each kind is in them and what
a start would bring back, and what is damaged.

Usage: fieldgate journal inspect PATH [--records] [--payloads] [--json]

PATH is a folder of segments, the data_dir that it is in, or one segment's file. It
is only read. Better take a copy: what a running gateway writes meanwhile may look
torn. Nothing is refused: of a newer version's segments it is said that they are.

  --records     lists every record: its place, its length, what it is and for whom;
                of a message topic and size
  --payloads    the same, with the payloads

Exit codes: 0 inspected, whatever was found; 1 it cannot be read.
";
