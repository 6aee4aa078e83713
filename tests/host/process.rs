//! The binary as a process: signals, and a limit on descriptors.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::bench::{CONNACK, Folder, PATIENCE, PINGREQ, PINGRESP, connect};

/// A gateway in a process of its own. Killed at the end, if it still runs.
struct Gateway {
    child: Child,
    log: BufReader<ChildStderr>,
    address: String,
    folder: Folder,
}

impl Gateway {
    /// Starts the binary, below `limit` descriptors if there is one, and waits until it listens.
    fn start(name: &str, limit: Option<u32>) -> Self {
        let folder = Folder::new(name);
        let file = folder.join("fieldgate.toml");
        let socket = folder.join("control.sock");
        let text = format!(
            "[gateway]\nname = \"test\"\n[listener.local]\nbind = \"127.0.0.1:0\"\n\
             [control]\nsocket = \"{}\"\n",
            socket.display()
        );
        std::fs::write(&file, text).unwrap();
        let limit = limit.map_or_else(String::new, |limit| format!("ulimit -n {limit}; "));
        let script = format!("{limit}exec \"$0\" run --config \"$1\"");
        let mut child = Command::new("/bin/sh")
            .args(["-c", &script, env!("CARGO_BIN_EXE_fieldgate")])
            .arg(&file)
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let mut gateway = Self {
            child,
            log,
            address: String::new(),
            folder,
        };
        let line = gateway.until_logged("listening");
        let address = line.split("address=").nth(1).unwrap();
        address.trim().clone_into(&mut gateway.address);
        gateway
    }

    /// Reads the log up to a line with `text` in it.
    fn until_logged(&mut self, text: &str) -> String {
        let mut all = String::new();
        loop {
            let mut line = String::new();
            let count = self.log.read_line(&mut line).unwrap();
            assert!(count > 0, "no line with {text:?}: {all}");
            if line.contains(text) {
                return line;
            }
            all.push_str(&line);
        }
    }

    fn client(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        kill(pid, signal).unwrap();
    }

    /// CPU time used so far, in clock ticks (10 ms).
    fn ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        // utime and stime are the 14th and 15th field, the 2nd is a name in parentheses.
        let after_name = stat.rsplit(") ").next().unwrap();
        let fields: Vec<_> = after_name.split(' ').collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn expect(stream: &mut TcpStream, bytes: &[u8]) {
    let mut here = vec![0; bytes.len()];
    stream.read_exact(&mut here).unwrap();
    assert_eq!(here, bytes);
}

#[test]
fn sigterm_stops_cleanly_within_five_seconds() {
    let mut gateway = Gateway::start("sigterm", None);
    let mut client = gateway.client();
    client.write_all(&connect("client")).unwrap();
    expect(&mut client, &CONNACK);
    let start = Instant::now();
    gateway.signal(Signal::SIGTERM);
    let status = gateway.child.wait().unwrap();
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(start.elapsed() < Duration::from_secs(5));
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).unwrap();
    assert!(!gateway.folder.join("control.sock").exists());
}

#[test]
fn sighup_reads_the_configuration_again_and_a_bad_one_changes_nothing() {
    let mut gateway = Gateway::start("sighup", None);
    let mut client = gateway.client();
    client.write_all(&connect("client")).unwrap();
    expect(&mut client, &CONNACK);
    gateway.signal(Signal::SIGHUP);
    gateway.until_logged("reloaded");
    std::fs::write(gateway.folder.join("fieldgate.toml"), "[gatway]\n").unwrap();
    gateway.signal(Signal::SIGHUP);
    gateway.until_logged("refused");
    client.write_all(&PINGREQ).unwrap();
    expect(&mut client, &PINGRESP);
}

#[test]
fn running_out_of_descriptors_neither_spins_nor_harms_who_is_there() {
    const LIMIT: u32 = 40;
    let mut gateway = Gateway::start("emfile", Some(LIMIT));
    let mut clients: Vec<_> = (0..LIMIT).map(|_| gateway.client()).collect();
    for (index, client) in clients.iter_mut().enumerate() {
        client
            .write_all(&connect(&format!("client-{index}")))
            .unwrap();
    }
    // Every descriptor is taken now; the last client waits in the kernel.
    gateway.until_logged("cannot accept");
    expect(&mut clients[0], &CONNACK);
    // A second in which hardly anything is asked of it, to see whether anybody spins.
    let (start, before) = (Instant::now(), gateway.ticks());
    let quiet = Duration::from_millis(100);
    clients[1].set_read_timeout(Some(quiet)).unwrap();
    expect(&mut clients[1], &CONNACK);
    while start.elapsed() < Duration::from_secs(1) {
        clients[0].write_all(&PINGREQ).unwrap();
        expect(&mut clients[0], &PINGRESP);
        assert!(clients[1].read(&mut [0]).is_err(), "nobody speaks to it");
    }
    let used = gateway.ticks() - before;
    assert!(used < 30, "{used} ticks of 10 ms in a second of waiting");
    let mut last = clients.pop().unwrap();
    clients.truncate(LIMIT as usize / 2);
    expect(&mut last, &CONNACK);
}
