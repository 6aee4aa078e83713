//! Devices through the loop: a serial port that is a pty, and the machine's own files.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use fieldgate::config::{self, Environment, Source};
use fieldgate::host::{EventLoop, HostSettings};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::openpty;
use nix::unistd::{ttyname, write};

use crate::bench::{Bench, Client, Flood, PATIENCE, PINGREQ, PINGRESP, Plan, publish, subscribe};

/// A pty whose master is the device. The slave is kept, to see what has reached it.
struct Scale {
    master: OwnedFd,
    slave: OwnedFd,
}

impl Scale {
    fn new() -> Self {
        let pty = openpty(None, None).unwrap();
        Self {
            master: pty.master,
            slave: pty.slave,
        }
    }

    fn config(&self) -> String {
        let path = ttyname(&self.slave).unwrap();
        format!(
            "[serial.scale]\npath = \"{}\"\nbaud = 9600\nformat = \"8N1\"\n\
             [device.scale]\ndriver = \"lines\"\nbus = \"serial.scale\"\n\
             pattern = 'weight=(?<weight>[0-9.]+)'\n",
            path.display()
        )
    }

    /// Says a line, and waits until the kernel has carried it to the other end.
    fn say(&self, line: &str) {
        assert_eq!(write(&self.master, line.as_bytes()), Ok(line.len()));
        wait_until_readable(self.slave.as_fd());
    }
}

fn wait_until_readable(fd: std::os::fd::BorrowedFd<'_>) {
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    let patience = PollTimeout::try_from(PATIENCE).unwrap();
    assert_eq!(poll(&mut fds, patience), Ok(1), "nothing arrives");
}

fn plan(devices: &str) -> Plan {
    let text = format!("[gateway]\nname = \"test\"\nbase_topic = \"test\"\n{devices}");
    let source = Source::new("test.toml", text);
    let loaded = config::parse(vec![source], &Environment::default())
        .unwrap_or_else(|errors| panic!("{}", errors.render(false)));
    let mut plan = Plan::tcp();
    plan.devices = loaded.meant.gateway.devices;
    plan
}

#[test]
fn a_line_on_a_serial_port_becomes_a_message() {
    let scale = Scale::new();
    let mut bench = plan(&scale.config()).start();
    let mut client = listen_to(&scale, &mut bench);
    scale.say("weight=12.5\r\n");
    bench.expect(&mut client, &publish("test/scale/weight", b"12.5"));
    // The adapter is pulled.
    drop(scale.master);
    let (ask, granted) = subscribe("test/scale/weight/quality", 0);
    let mut other = bench.connected("other");
    other.send(&ask);
    bench.expect(&mut other, &granted);
    bench.until("the fault is published", |_| {
        other.receive();
        other
            .input
            .windows(5)
            .any(|window| window == b"fault")
            .then_some(())
    });
}

/// Whoever commands a device as soon as there is one waits for this.
#[test]
fn a_port_and_a_line_are_being_opened_until_they_are_open_or_refused() {
    let scale = Scale::new();
    let no_chip = "[gpio.none]\nchip = \"no-such-chip\"\n\
        [device.panel]\ndriver = \"gpio\"\nbus = \"gpio.none\"\n\
        [device.panel.point.door]\nkind = \"input\"\nline = 0\n";
    for devices in [&*scale.config(), no_chip] {
        let config = plan(devices).config();
        let mut event_loop = EventLoop::new(config, HostSettings::default()).unwrap();
        assert!(
            !event_loop.is_opening(),
            "nothing is, before the first turn"
        );
        event_loop.turn(Some(Duration::ZERO)).unwrap();
        assert!(event_loop.is_opening(), "{devices}");
        let start = Instant::now();
        while event_loop.is_opening() {
            assert!(start.elapsed() < PATIENCE, "{devices}");
            event_loop.turn(Some(Duration::from_millis(1))).unwrap();
        }
    }
}

#[test]
fn a_flood_of_messages_delays_neither_a_ping_nor_a_line() {
    let scale = Scale::new();
    let mut bench = plan(&scale.config()).start();
    let mut client = listen_to(&scale, &mut bench);

    let mut flood = Flood::start(&mut bench);
    for round in 10..30 {
        flood.go_on();
        client.send(&PINGREQ);
        scale.say(&format!("weight={round}\n"));
        for _ in 0..2 {
            flood.go_on();
            bench.turn();
        }
        client.receive();
        let line = publish("test/scale/weight", round.to_string().as_bytes());
        let both = client.input.len() == line.len() + PINGRESP.len();
        assert!(both, "round {round}: {:?} after two turns", client.input);
        client.input.clear();
    }
}

#[test]
fn the_machine_reads_itself() {
    let mut bench = plan("[device.machine]\ndriver = \"system\"\nevery = \"1s\"\n").start();
    let mut client = bench.connected("reader");
    let (ask, granted) = subscribe("test/machine/uptime", 0);
    client.send(&ask);
    bench.expect(&mut client, &granted);
    bench.until("the uptime arrives", |_| {
        client.receive();
        client
            .input
            .windows(6)
            .any(|window| window == b"uptime")
            .then_some(())
    });
}

/// A client that hears the scale, whose port is open and has been read empty.
fn listen_to(scale: &Scale, bench: &mut Bench) -> Client {
    let mut client = bench.connected("reader");
    let (ask, granted) = subscribe("test/scale/weight", 0);
    client.send(&ask);
    bench.expect(&mut client, &granted);
    bench.until("the port listens", |_| {
        // Said until somebody hears it; what is said before the port opens is discarded.
        let _ = write(&scale.master, b"weight=1\n");
        client.receive();
        (!client.input.is_empty()).then_some(())
    });
    bench.until("the port is empty", |_| {
        let mut fds = [PollFd::new(scale.slave.as_fd(), PollFlags::POLLIN)];
        (poll(&mut fds, PollTimeout::ZERO) == Ok(0)).then_some(())
    });
    bench.turn();
    client.receive();
    client.input.clear();
    client
}
