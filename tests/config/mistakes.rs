//! Mistakes that people make, and what they are told. One snapshot each: a message is part of the
//! product.

use fieldgate::config::{Source, parse};

use super::{machine, read, said};

/// A name for the snapshot, and the file.
const MISTAKES: &[(&str, &str)] = &[
    // not TOML
    (
        "unquoted_quantity",
        "[gateway.defaults]\nevery = 10s\nqos = 7\n",
    ),
    (
        "unquoted_yes",
        "[listener.a]\nbind = \"[::1]:1883\"\nallow_anonymous = yes\n",
    ),
    ("yaml", "mqtt:\n  host: localhost\n"),
    (
        "mosquitto_conf",
        "listener 8883 192.168.1.5\nallow_anonymous true\npersistence true\n",
    ),
    ("unclosed_header", "[gateway\nname = \"a\"\n"),
    (
        "unclosed_text",
        "[gateway]\nname = \"a\nbase_topic = \"b\"\n",
    ),
    ("key_twice", "[gateway]\nname = \"a\"\nname = \"b\"\n"),
    (
        "table_twice",
        "[gateway]\nname = \"a\"\n[log]\n[gateway]\nbase_topic = \"b\"\n",
    ),
    // keys
    ("unknown_key_near", "[gateway.defaults]\nevry = \"10s\"\n"),
    ("unknown_key_far", "[control]\ncolour = \"red\"\n"),
    (
        "limits_of_strangers",
        "[broker]\nmax_connections_per_address = 0\nconnect_rate = 20\nexempt_addresses = \
      [\"10.0.0.1/8\"]\nmax_connect_size = \"2MiB\"\npublish_quota = { messages = \"0/s\", bytes = \
      \"64k/s\", rate = 1 }\n",
    ),
    ("unknown_table", "[devices.a]\ndriver = \"system\"\n"),
    (
        "key_of_another_table",
        "[broker]\nallow_anonymous = true\nname = \"shed\"\n",
    ),
    ("key_at_top", "base_topic = \"shed\"\nevery = \"10s\"\n"),
    (
        "table_is_a_value",
        "listener = 1883\nbroker = true\n[device]\ndriver = \"system\"\n",
    ),
    (
        "mosquitto_words",
        "[broker]\npersistence = true\nautosave_interval = 300\nmax_inflight_messages = 20\n\
      max_queued_messages = 1000\nmessage_size_limit = 1000000\n[listener.a]\nport = 1883\nhost = \
      \"0.0.0.0\"\n",
    ),
    (
        "mqtt_io_words",
        "[mqtt]\nhost = \"localhost\"\ntopic_prefix = \"home\"\nha_discovery = true\n\
      [[digital_inputs]]\nname = \"door\"\npin = 17\n[[sensor_modules]]\nname = \"bme\"\n",
    ),
    (
        "mqtt_io_point",
        "[device.d]\ndriver = \"gpio\"\nbus = \"gpio.header\"\n[device.d.point.door]\n\
      kind = \"input\"\npin = 17\npullup = true\ninverted = true\ninterval = 10\n",
    ),
    (
        "later_tables",
        "[bridge.cloud]\nurl = \"mqtts://x\"\n[[bridge.cloud.send]]\nfilter = \"a\"\npayload = \"json\"\n[http]\nbind = \
            \"127.0.0.1:9480\"\n\
      [home_assistant]\nprefix = \"ha\"\n[broker.durability]\ndefault = \"none\"\n",
    ),
    (
        "later_values",
        "[gateway.defaults]\npayload = \"cbor\"\n[device.m]\ndriver = \"modbus\"\nunit_id = 1\n",
    ),
    // names
    (
        "bad_names",
        "[device.\"Grüner Raum\"]\ndriver = \"system\"\n[serial.\"a.b\"]\npath = \
            \"/dev/ttyAMA0\"\n",
    ),
    (
        "names_that_differ_by_a_dash",
        "[device.pump-1]\ndriver = \"system\"\n[device.pump_1]\ndriver = \"system\"\n",
    ),
    (
        "reserved_names",
        "[device.gateway]\ndriver = \"system\"\n[device.d]\ndriver = \"gpio\"\nbus = \
            \"gpio.header\"\n\
      [device.d.point.set]\nkind = \"input\"\nline = 4\n",
    ),
    ("gateway_name", "[gateway]\nname = \"My Shed\"\n"),
    ("base_topic", "[gateway]\nbase_topic = \"/shed/#\"\n"),
    (
        "base_topic_dollar",
        "[gateway]\nbase_topic = \"$SYS/shed\"\n",
    ),
    // units
    (
        "bare_duration",
        "[gateway.defaults]\nevery = 10\nmin_interval = 0\nexpiry = 2.5\n",
    ),
    (
        "bare_size",
        "[broker]\nmax_packet_size = 1048576\nmemory = \"96\"\n",
    ),
    (
        "wrong_units",
        "[gateway.defaults]\nevery = \"10 sec\"\nmax_interval = \"1.5h\"\nstale_after = \"1h30\"\n\
      [broker]\nmemory = \"96M\"\nqueues = \"unlimited\"\n",
    ),
    (
        "out_of_range",
        "[gateway.defaults]\nqos = 3\nprecision = 12\nexpiry = \"1500ms\"\nevery = \"1ms\"\n\
      [broker]\nreceive_maximum = 0\nmax_packet_size = \"1GiB\"\n",
    ),
    (
        "wrong_types",
        "[gateway]\nname = 5\n[gateway.defaults]\nretain = \"true\"\nscale = \"2\"\nqos = \"1\"\n\
      booleans = [\"on\"]\npayload = true\n[log]\nlevels = \"debug\"\n",
    ),
    (
        "words",
        "[gateway]\ntime_format = \"iso\"\n[gateway.defaults]\npayload = \"jason\"\n[log]\nlevel \
            = \"warning\"\n\
      levels = { brokr = \"debug\" }\n",
    ),
    (
        "zero_scale",
        "[gateway.defaults]\nscale = 0\ndeadband = 0\n",
    ),
    // listeners
    (
        "bind_forms",
        "[listener.a]\nbind = [\"1883\", \"localhost:1883\", \"::1\", \"192.168.1.5\", \
            \"mqtt://10.0.0.1:1884\", \
      \"/run/mqtt.sock\", \"eth0:1883\", 1883]\n",
    ),
    (
        "open_without_anonymous",
        "[listener.lan]\nbind = \"*:1883\"\n",
    ),
    (
        "nobody_could_connect",
        "[listener.local]\nbind = \"127.0.0.1:1883\"\nallow_anonymous = false\n",
    ),
    (
        "passwords_in_the_clear",
        "[access]\npassword_file = \"passwd\"\n[listener.lan]\nbind = \"*:1883\"\n",
    ),
    (
        "tls_incomplete",
        "[listener.lan]\nbind = \"*:8883\"\nallow_anonymous = true\ntls = { key = \"key.pem\", \
      require_client = true, identity = \"san\" }\n",
    ),
    (
        "tls_words",
        "[listener.lan]\nbind = \"*:8883\"\ntls = { certfile = \"c.pem\", keyfile = \"k.pem\", \
      cafile = \"ca.pem\", identity = \"cn\" }\n",
    ),
    (
        "tls_without_a_name",
        "[listener.lan]\nbind = \"*:8883\"\ntls = { certificate = \"c.pem\", key = \"k.pem\", \
      client_ca = \"ca.pem\", require_client = true }\n",
    ),
    (
        "websocket_without_protocol",
        "[listener.web]\nbind = \"[::1]:9001\"\nwebsocket = { path = \"mqtt\", origins = \
      [\"panel.example\", \"https://panel.example/\", \"https://panel.example:443\", \"*\"] }\n",
    ),
    (
        "protocols_wrong",
        "[listener.a]\nbind = \"[::1]:1\"\nprotocols = []\n[listener.b]\nbind = \
      \"[::1]:2\"\nprotocols = [\"websockets\"]\n",
    ),
    (
        "proxies_wrong",
        "[listener.a]\nbind = \"[::1]:1\"\nproxy_protocol = { from = [\"10.0.0.1/8\", \
      \"haproxy\", \"0.0.0.0/0\"] }\n[listener.b]\nbind = \
      \"unix:/run/b.sock\"\nproxy_protocol = { from = [] }\n[listener.c]\nbind = \
      \"[::1]:3\"\nproxy_protocol = {}\n[listener.d]\nbind = \"[::1]:4\"\nproxy_protocol = true\n",
    ),
    (
        "redirect_wrong",
        "[listener.a]\nbind = \"127.0.0.1:1883\"\nredirect = { to = [\"127.0.0.1:1883\", \
      \"a b\", \"mqtt://a\", \"a:0\", \"::1\", \"a:\", \"\", \"[::1\"] }\n[listener.b]\nbind = \
      \"[::1]:2\"\nredirect = { to = [], permanent = 1 }\n[listener.c]\nbind = \
      \"[::1]:3\"\nredirect = {}\n[listener.d]\nbind = \"[::1]:4\"\nredirect = \"a:1\"\n",
    ),
    (
        "identity_of_another_place",
        "[listener.a]\nbind = \"[::1]:1\"\nidentity = \"common_name\"\n[listener.b]\nbind = \
      \"[::1]:2\"\nidentity = \"peer_credentials\"\n[listener.c]\nbind = [\"[::1]:3\", \
      \"unix:/run/c.sock\"]\nidentity = \"peer_credentials\"\nallow_anonymous = false\n",
    ),
    (
        "bound_twice",
        "[listener.a]\nbind = \"127.0.0.1:1883\"\n[listener.b]\nbind = \
            \"*:1883\"\nallow_anonymous = true\n",
    ),
    (
        "unix_options_without_unix",
        "[listener.a]\nbind = \"127.0.0.1:1883\"\nmode = 660\ngroup = \"mqtt\"\n",
    ),
    (
        "listen_false_and_a_listener",
        "[broker]\nlisten = false\n[listener.a]\nbind = \"[::1]:1883\"\n",
    ),
    (
        "listener_without_bind",
        "[listener.a]\n[listener.b]\nbind = []\n",
    ),
    (
        "listener_on_control_socket",
        "[listener.a]\nbind = \"unix:/run/fieldgate/control.sock\"\n",
    ),
    (
        "queue_larger_than_queues",
        "[broker]\nqueue = { bytes = \"512MiB\" }\nmax_packet_size = \"200MiB\"\n",
    ),
    (
        "durability_wrong",
        "[broker.durability]\ndefault = \"interval\"\nrules = [{ filter = \"a/#/b\", level = \
      \"strict\" }, { filter = \"$share/g/a\", level = { interval = \"1d\" } }, { filter = \"a\" }, \
      { level = { within = \"1s\" } }, \"a\", { filter = \"b\", level = \"lazy\" }, { filter = \"c\", \
      level = 1 }]\n",
    ),
    (
        "durability_is_no_table",
        "[broker]\ndurability = \"strict\"\n",
    ),
    (
        "durability_rules_are_no_list",
        "[broker.durability]\nrules = { filter = \"a\", level = \"none\" }\n",
    ),
    (
        "journal_wrong",
        "[journal]\nsize = 100\nsegment = \"1000000B\"\nsync_within = \"1ms\"\nfolder = \"x\"\n",
    ),
    ("journal_of_few_segments", "[journal]\nsize = \"16MiB\"\n"),
    (
        "journal_of_too_few_small_segments",
        "[journal]\nsize = \"512KiB\"\nsegment = \"72KiB\"\n",
    ),
    (
        "journal_of_many_segments",
        "[journal]\nsize = \"1000GiB\"\nsegment = \"1MiB\"\n",
    ),
    (
        "journal_meets_its_limits_first",
        "[broker]\nqueues = \"1GiB\"\nmax_packet_size = \"3MiB\"\n[journal]\nsize = \"1GiB\"\n",
    ),
    // buses
    (
        "bus_nobody_declared",
        "[serial.scale]\npath = \"/dev/serial/by-id/a\"\n[device.s]\ndriver = \"lines\"\n\
      bus = \"serial.scales\"\npattern = '(?<a>.)'\n[device.g]\ndriver = \"gpio\"\nbus = \
      \"gpio.expander\"\n",
    ),
    (
        "bus_of_another_kind",
        "[device.t]\ndriver = \"bme280\"\nbus = \"/dev/i2c-1\"\n[device.g]\ndriver = \"gpio\"\n\
      bus = \"i2c.1\"\n[device.l]\ndriver = \"lines\"\nbus = \"/dev/ttyUSB0\"\npattern = \
      '(?<a>.)'\n",
    ),
    (
        "two_at_one_address",
        "[device.a]\ndriver = \"bme280\"\nbus = \"i2c.1\"\n[device.b]\ndriver = \"bmp280\"\n\
      bus = \"i2c.1\"\naddress = 0x76\n",
    ),
    (
        "address_without_hex",
        "[device.a]\ndriver = \"bme280\"\nbus = \"i2c.1\"\naddress = 76\n[device.b]\n\
      driver = \"tmp102\"\nbus = \"i2c.1\"\naddress = \"0x48\"\n[device.c]\ndriver = \
      \"lm75\"\nbus = \"i2c.1\"\n\
      address = 0x20\n",
    ),
    (
        "transfer_timeout_steps",
        "[i2c.1]\ntransfer_timeout = \"25ms\"\n[device.a]\ndriver = \"lm75\"\nbus = \"i2c.1\"\n",
    ),
    ("gpio_chip", "[gpio.a]\n[gpio.b]\nchip = \"gpiochip0\"\n"),
    (
        "serial_port",
        "[serial.a]\npath = \"/dev/ttyUSB0\"\nbaud = \"9600\"\nformat = \"8n1\"\n[serial.b]\n\
      baud = 9600\n[serial.c]\npath = \"/dev/ttyUSB0\"\n",
    ),
    (
        "serial_port_twice",
        "[serial.a]\npath = \"/dev/ttyAMA0\"\n[serial.b]\npath = \"/dev/ttyAMA0\"\n",
    ),
    // devices
    (
        "no_driver",
        "[device.a]\nbus = \"i2c.1\"\n[device.b]\nmodule = \"bme280\"\n",
    ),
    (
        "unknown_driver",
        "[device.a]\ndriver = \"bme208\"\nbus = \"i2c.1\"\n[device.b]\ndriver = \"toaster\"\n",
    ),
    (
        "no_bus",
        "[device.a]\ndriver = \"bme280\"\n[device.b]\ndriver = \"gpio\"\n[device.c]\ndriver = \
            \"lines\"\n",
    ),
    (
        "point_that_is_not_there",
        "[device.a]\ndriver = \"bme280\"\nbus = \"i2c.1\"\n[device.a.point.temprature]\n\
      deadband = 0.1\n[device.a.point.wind]\nunit = \"m/s\"\n",
    ),
    (
        "keys_without_effect",
        "[device.g]\ndriver = \"gpio\"\nbus = \"gpio.header\"\nevery = \"1m\"\nprecision = 1\n\
      accept_retained = true\n[device.g.point.door]\nkind = \"input\"\nline = 4\nunit = \
      \"V\"\nstale_after = \"1m\"\n",
    ),
    (
        "key_of_another_kind",
        "[device.g]\ndriver = \"gpio\"\nbus = \"gpio.header\"\n[device.g.point.door]\n\
      kind = \"input\"\nline = 4\nsafe_state = false\nedge = \"rising\"\npattern = \"x\"\n",
    ),
    (
        "gpio_without_points",
        "[device.g]\ndriver = \"gpio\"\nbus = \"gpio.header\"\n",
    ),
    (
        "gpio_point_incomplete",
        "[device.g]\ndriver = \"gpio\"\nbus = \"gpio.header\"\n[device.g.point.a]\nline = 4\n\
      [device.g.point.b]\nkind = \"output\"\nline = 5\n[device.g.point.c]\nkind = \
      \"input\"\n[device.g.point.d]\n\
      kind = \"outptu\"\n",
    ),
    (
        "safe_state",
        "[device.g]\ndriver = \"gpio\"\nbus = \"gpio.header\"\n[device.g.point.a]\nkind = \
            \"output\"\n\
      line = 4\nsafe_state = \"off\"\n[device.g.point.b]\nkind = \"output\"\nline = 5\nsafe_state \
      = \"keep\"\n\
      lease = \"1m\"\n",
    ),
    (
        "header_pins",
        "[device.g]\ndriver = \"gpio\"\nbus = \"gpio.header\"\n[device.g.point.a]\nkind = \
            \"input\"\n\
      line = \"pin:6\"\n[device.g.point.b]\nkind = \"input\"\nline = \
      \"pin:41\"\n[device.g.point.c]\nkind = \"input\"\n\
      line = \"17\"\n[device.g.point.d]\nkind = \"input\"\nline = \
      \"BCM17\"\n[device.g.point.e]\nkind = \"input\"\nline = -1\n",
    ),
    (
        "pin_of_another_chip",
        "[gpio.x]\nchip = \"mcp23017\"\n[device.g]\ndriver = \"gpio\"\nbus = \"gpio.x\"\n\
      [device.g.point.a]\nkind = \"input\"\nline = \"pin:11\"\n",
    ),
    (
        "line_used_twice",
        "[device.g]\ndriver = \"gpio\"\nbus = \"gpio.header\"\n[device.g.point.a]\nkind = \
            \"input\"\n\
      line = 17\n[device.h]\ndriver = \"gpio\"\nbus = \"gpio.header\"\n[device.h.point.b]\nkind = \
      \"input\"\n\
      line = \"pin:11\"\n",
    ),
    (
        "line_is_sda",
        "[device.t]\ndriver = \"lm75\"\nbus = \"i2c.1\"\n[device.g]\ndriver = \"gpio\"\nbus = \
            \"gpio.header\"\n\
      [device.g.point.a]\nkind = \"input\"\nline = 2\n",
    ),
    (
        "line_is_txd",
        "[serial.s]\npath = \"/dev/serial0\"\n[device.l]\ndriver = \"lines\"\nbus = \"serial.s\"\n\
      pattern = '(?<a>.)'\n[device.g]\ndriver = \"gpio\"\nbus = \
      \"gpio.header\"\n[device.g.point.a]\n\
      kind = \"input\"\nline = 14\n[device.g.point.b]\nkind = \"input\"\nline = 40\n",
    ),
    // lines
    (
        "patterns",
        "[serial.s]\npath = \"/dev/ttyAMA0\"\n[device.a]\ndriver = \"lines\"\nbus = \"serial.s\"\n\
      pattern = '(?<a>['\n[device.b]\ndriver = \"lines\"\nbus = \"serial.s\"\npattern = \
      '([0-9]+)'\n[device.c]\n\
      driver = \"lines\"\nbus = \"serial.s\"\npattern = \
      '(?<Weight>.)(?<state>.)'\n[device.d]\ndriver = \"lines\"\n\
      bus = \"serial.s\"\npoll = \"W\\n\"\n",
    ),
    (
        "lines_points",
        "[serial.s]\npath = \"/dev/ttyAMA0\"\n[device.a]\ndriver = \"lines\"\nbus = \"serial.s\"\n\
      pattern = '(?<weight>.)'\npoll = 'W\\r\\n'\n[device.a.point.wieght]\nunit = \
      \"kg\"\n[device.a.point.pump]\n\
      command = \"P\\n\"\n[device.a.point.valve]\ncommand = \"V {value}\"\nwords = [\"0\", \
      \"1\"]\n",
    ),
    (
        "lines_point_differs_by_a_dash",
        "[serial.s]\npath = \"/dev/ttyAMA0\"\n[device.a]\ndriver = \"lines\"\nbus = \"serial.s\"\n\
         pattern = '(?<net_weight>.)'\n[device.a.point.net-weight]\nunit = \"kg\"\n",
    ),
    (
        "settings_of_a_chips_point",
        "[device.t]\ndriver = \"lm75\"\nbus = \"i2c.1\"\n[device.t.point.temperature]\n\
         enabled = false\nevery = \"1s\"\nicon = \"mdi:thermometer\"\n",
    ),
    // across
    (
        "one_topic_twice",
        "[device.m]\ndriver = \"gpio\"\nbus = \"gpio.header\"\n[device.m.point.a]\nkind = \
            \"input\"\n\
      line = 4\ntopic = \"shed/m/b\"\n[device.m.point.b]\nkind = \"input\"\nline = 5\n",
    ),
    (
        "topics",
        "[gateway.defaults]\ntopic = \"a/+\"\n[device.m]\ndriver = \"gpio\"\nbus = \
            \"gpio.header\"\n\
      [device.m.point.a]\nkind = \"input\"\nline = 4\ntopic = \
      \"shed/gateway/x\"\n[device.m.point.b]\nkind = \"input\"\n\
      line = 5\ntopic = \"x/set\"\n[device.m.point.c]\nkind = \"input\"\nline = 6\ntopic = \
      \"shed/m\"\n",
    ),
    (
        "device_topic",
        "[device.t]\ndriver = \"bme280\"\nbus = \"i2c.1\"\ntopic = \"weather\"\n",
    ),
    (
        "inherited_topic",
        "[gateway.defaults]\ntopic = \"x\"\n[device.a]\ndriver = \"lm75\"\nbus = \"i2c.1\"\n\
         [device.b]\ndriver = \"tmp102\"\nbus = \"i2c.3\"\n[device.c]\ndriver = \"lm75\"\n\
         bus = \"i2c.4\"\ntopic = \"shed/gateway\"\n",
    ),
    (
        "everything_at_once",
        "[device.g]\ndriver = \"gpio\"\nbus = \"gpio.hedder\"\n[device.g.point.a]\nkind = \"input\"\n\
         [device.g.point.b]\nkind = \"counter\"\nline = 4\nmin = 5\nmax = 1\n[device.t]\n\
         driver = \"lm75\"\nbus = \"1\"\nstale_after = \"1s\"\n[device.l]\ndriver = \"lines\"\n\
         bus = \"serial.x\"\npattern = '(?<w>.)'\nline_max = 5\n[device.l.point.w]\nscale = 0\n\
         booleans = [\"a\", \"b\"]\n",
    ),
    (
        "stale_below_every",
        "[gateway.defaults]\nevery = \"1m\"\n[device.t]\ndriver = \"lm75\"\nbus = \"i2c.1\"\n\
      stale_after = \"30s\"\n",
    ),
    (
        "intervals_crossed",
        "[device.t]\ndriver = \"lm75\"\nbus = \"i2c.1\"\nmin_interval = \"5m\"\nmax_interval = \
            \"1m\"\n",
    ),
    (
        "range_crossed",
        "[device.t]\ndriver = \"lm75\"\nbus = \"i2c.1\"\nmin = 50\nmax = 10\n",
    ),
    // odd, but possible
    (
        "warnings",
        "[serial.unused]\npath = \"/dev/ttyACM0\"\n[listener.a]\nbind = \"127.0.0.1:0\"\n",
    ),
    (
        "secret_is_masked",
        "[gateway]\npasswort = \"hunter2\"\npassword = hunter2\n",
    ),
    // access
    (
        "access_rules",
        "[access]\ndefault = \"maybe\"\ngroup = { staff = [\"anna\"] }\n[[access.rule]]\n\
         filter = \"a/#\"\n[[access.rule]]\nallow = [\"read\"]\nfilter = \"a/#/b\"\n\
         [[access.rule]]\nallow = [\"publish\"]\ndeny = [\"subscribe\"]\nfilter = \"a\"\n\
         [[access.rule]]\ngroup = \"stuff\"\nallow = []\nfilter = \"$share/g/a\"\n\
         [[access.rule]]\nuser = \"anna\"\nclient = \"x\"\nallow = [\"subscribe\"]\nown = true\n\
         filter = \"a\"\n[[access.rule]]\nanonymous = false\ndeny = [\"publish\"]\n",
    ),
    (
        "access_in_two_places",
        "[access]\nacl_file = \"acl\"\ndefault = \"deny\"\n[[access.rule]]\nallow = \
         [\"publish\"]\nfilter = \"#\"\n",
    ),
    (
        "access_rule_is_no_table",
        "[access]\nrule = { allow = [\"publish\"], filter = \"#\" }\n",
    ),
    // bridges
    (
        "bridge_urls",
        "[bridge.none]\n[bridge.two]\nurl = \"mqtt://a\"\nurls = [\"mqtt://b\"]\n[bridge.empty]\nurls = \
         []\n[bridge.bad]\nurls = [\"broker.example\", \"tcp://b:1883\", \"ssl://b\", \"http://b/mqtt\", \
         \"amqp://b\", \"mqtt:b\", \"mqtt://\", \"mqtt://b:0\", \"mqtt://b:port\", \"mqtt://::1\", \
         \"mqtt://b/path\", \"ws://b/a#b\", \"mqtt://b..c\", \"mqtt://b\", \"mqtt://b:1883\"]\n\
         [bridge.list]\nurl = [\"mqtt://a\"]\n",
    ),
    (
        "bridge_url_with_a_password",
        "[bridge.b]\nurl = \"mqtts://shed:hunter2@broker.example\"\n[bridge.c]\nurls = [\"tcp://é:hunter2@b\", \"mqtt://a\"]\n",
    ),
    (
        "bridge_secrets",
        "[bridge.a]\nurl = \"mqtt://b\"\npassword = \"hunter2\"\n[bridge.b]\nurl = \"mqtt://b\"\n\
         username = { file = \"a\", env = \"B\" }\npassword = {}\n[bridge.c]\nurl = \"mqtt://b\"\nusername = \
         7\npassword = { credential = \"../../etc/shadow\" }\n[bridge.d]\nurl = \"mqtt://b\"\nusername = \
         \"\"\n",
    ),
    (
        "bridge_tls",
        "[bridge.a]\nurl = \"mqtt://b\"\ntls = { ca = \"ca.pem\" }\n[bridge.b]\nurl = \"mqtts://b\"\ntls = { \
         key = \"k.pem\", alpn = [\"\"], server_name = \"a b\", client_ca = \"x\" }\n",
    ),
    (
        "bridge_values",
        "[bridge.a]\nurl = \"mqtt://b\"\nfailback = \"5m\"\nversion = 5\nclient_id = \"\"\nkeep_alive = 60\n\
         session_expiry = \"1500ms\"\nreconnect = { min = \"5m\", max = \"1m\" }\nstalled_after = 0\n\
         profile = \"google\"\nstate_topic = \"a/#\"\nqueue = { age = \"0s\", when_full = \"refuse\" }\n\
         replay_rate = 200\ninflight_maximum = 0\nurls_ = 1\n",
    ),
    (
        "bridge_rules",
        "[bridge.a]\nurl = \"mqtt://b\"\nreceive = 5\n[[bridge.a.send]]\nto = \"a\"\n[[bridge.a.send]]\n\
         filter = \"a/#/b\"\n[[bridge.a.send]]\nfilter = \"$share/g/a\"\n[[bridge.a.send]]\nfilter = \
         \"a/+/c\"\nto = \"up/+/+\"\n[[bridge.a.send]]\nfilter = \"a/+/#\"\nto = \"up/#\"\nbacklog_to = \
         \"$share/g/+/#\"\n[[bridge.a.send]]\nfilter = \"a/+\"\nto = \"up/#\"\nqos = 3\nkeep = \"some\"\n\
         lanes = 3\n[[bridge.a.send]]\nfilter = \"shed/#\"\nexcept = [\"shad/x\", \"#/x\"]\n",
    ),
    (
        "bridge_in_circles",
        "[bridge.a]\nurl = \"mqtt://b\"\n[[bridge.a.send]]\nfilter = \"shed/#\"\nto = \"plants/shed/#\"\n\
         [[bridge.a.receive]]\nfilter = \"plants/#\"\nto = \"#\"\n[bridge.b]\nurl = \"mqtt://b\"\n\
         [[bridge.b.send]]\nfilter = \"#\"\n[[bridge.b.receive]]\nfilter = \"$share/g/news/+\"\n",
    ),
    (
        "bridge_to_aws",
        "[bridge.a]\nurls = [\"mqtt://a\", \"mqtts://a:443\"]\nprofile = \"aws\"\nkeep_alive = \"10s\"\n\
         inflight_maximum = 200\n[[bridge.a.send]]\nfilter = \"a/b/c/d/e/f/g/h/i\"\nqos = 2\n\
         [[bridge.a.receive]]\nfilter = \"$share/g/1/2/3/4/5/6/7/8/#\"\nqos = 2\n[[bridge.a.receive]]\n\
         filter = \"1/2/3/4/5/6/7/8/#\"\n",
    ),
    (
        "bridge_to_azure",
        "[bridge.a]\nurl = \"mqtts://a\"\nprofile = \"azure\"\nversion = \"5\"\nkeep_alive = \"off\"\n\
         state_topic = \"devices/shed/messages/events\"\n",
    ),
    (
        "bridge_to_nats",
        "[bridge.a]\nurl = \"mqtt://a\"\nprofile = \"nats\"\n[[bridge.a.send]]\nfilter = \"my \
         shed/#\"\nqos = 2\n",
    ),
    (
        "bridge_keeps_what_it_loses",
        "[bridge.a]\nurl = \"mqtt://a\"\nversion = \"3.1.1\"\n[[bridge.a.send]]\nfilter = \"shed/#\"\n\
         keep = \"all\"\nqos = 0\n[device.m]\ndriver = \"system\"\n",
    ),
    (
        "mosquitto_bridge",
        "connection = \"cloud\"\n[bridge.a]\nurl = \"mqtt://a\"\nremote_username = \"shed\"\n\
         remote_password = \"hunter2\"\naddress = \"b:1883\"\n",
    ),
    (
        "broker_features",
        "[broker]\nmaximum_qos = 3\nretain_available = \"no\"\nresponse_information = \"a/#\"\n",
    ),
];

#[test]
fn every_mistake_has_its_message() {
    for (name, text) in MISTAKES {
        insta::with_settings!({
            prepend_module_to_snapshot => false,
            omit_expression => true,
            snapshot_path => "snapshots/mistakes",
        }, {
            insta::assert_snapshot!(*name, said(text));
        });
    }
}

#[test]
fn what_is_called_a_mistake_is_refused_and_what_is_odd_is_not() {
    for (name, text) in MISTAKES {
        let is_odd = [
            "warnings",
            "line_is_txd",
            "serial_port_odd",
            "passwords_in_the_clear",
            "journal_meets_its_limits_first",
            "bridge_keeps_what_it_loses",
        ]
        .contains(name);
        assert_eq!(read(text).is_ok(), is_odd, "{name}");
    }
}

#[test]
fn every_error_says_where_and_what_would_be_right() {
    for (name, text) in MISTAKES {
        let Err(errors) = read(text) else { continue };
        for (place, error) in errors.iter() {
            let place = place.unwrap_or_else(|| panic!("{name}: {}", error.title()));
            assert!(place.line >= 1 && place.column >= 1);
        }
        // A label beside the caret, or a line of help: one of the two says what would be right.
        let rendered = errors.render(false);
        assert!(rendered.contains('^'), "{name}");
        assert!(!rendered.contains("hunter2"), "{name}:\n{rendered}");
    }
}

#[test]
fn a_mistake_across_files_names_both() {
    let sources = [
        Source::new(
            "/etc/fieldgate/fieldgate.toml",
            "[device.a]\ndriver = \"lm75\"\nbus = \"i2c.1\"\n",
        ),
        Source::new(
            "/etc/fieldgate/conf.d/b.toml",
            "[device.b]\ndriver = \"tmp102\"\nbus = \"i2c.1\"\n",
        ),
    ];
    let text = parse(sources, &machine()).unwrap_err().render(false);
    insta::assert_snapshot!("across_files", text);
}

#[test]
fn errors_stand_in_the_order_of_the_file() {
    let errors = read("[log]\nlevel = 1\n[broker]\nmemory = 1\n[gateway]\nname = 1\n").unwrap_err();
    let lines: Vec<usize> = errors
        .iter()
        .map(|(place, _)| place.unwrap().line)
        .collect();
    assert_eq!(lines, [2, 4, 6]);
}

#[test]
fn colours_are_there_when_asked_for() {
    let errors = read("x = 1\n").unwrap_err();
    assert!(errors.render(true).contains('\u{1b}'));
    assert!(!errors.render(false).contains('\u{1b}'));
}
