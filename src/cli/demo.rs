//! `fieldgate demo`: the whole gateway with no file and no hardware.
//!
//! It is the gateway that `run` runs, with a configuration that is written here and read as any
//! other: the machine's own figures, and the plant of `host::plant` behind a pty, through the
//! driver that a user's scale would have. What it shows, it has received as an MQTT client of its
//! own broker.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use lexopt::Parser;

use crate::config::{self, Environment, Source};
use crate::host::plant::Plant;
use crate::host::{self, HostEvent, HostSettings};

use super::client::{port, text};
use super::run::{Verbosity, directives, ended};
use super::table::Table;
use super::{Argument, Failure, Globals, help, other_argument, output};

/// Everybody's first guess.
const PORT: u16 = 1883;

/// Ports that are tried behind it.
const PORTS: u16 = 100;

pub(crate) fn run(mut parser: Parser, mut globals: Globals) -> Result<u8, Failure> {
    let (mut wanted, mut verbosity) = (None, Verbosity::default());
    while let Some(argument) = Argument::next(&mut parser)? {
        match &argument {
            Argument::Long(name) if name == "port" => {
                wanted = Some(port(&text(&mut parser)?)?);
            }
            Argument::Short('p') => wanted = Some(port(&text(&mut parser)?)?),
            Argument::Short('v') => verbosity.more += 1,
            _ => {
                let ended = other_argument(argument, &mut parser, &mut globals, help::DEMO)?;
                if let Some(code) = ended {
                    return Ok(code);
                }
            }
        }
    }
    let address = match wanted {
        Some(port) => probe(port).map_err(|error| {
            Failure::failed(format!("port {port} cannot be used")).because(error)
        })?,
        None => free_address()?,
    };
    let plant = Plant::start()
        .map_err(|error| Failure::failed("cannot open a pty for the plant").because(error))?;
    let file = configuration(address, plant.path());
    let loaded = config::parse(
        vec![Source::new("demo.toml", file)],
        &Environment::default(),
    )
    .map_err(|errors| Failure::failed(format!("the demo's own file:\n{}", errors.render(false))))?;
    // Its log is for who asks for it: on a terminal it would run through the table.
    let quiet = Verbosity {
        quiet: verbosity.more == 0,
        more: verbosity.more.saturating_sub(1),
    };
    let _log = host::log::init(&directives(&loaded.meant.log, quiet))
        .map_err(|error| Failure::failed("cannot set up the log").because(error))?;

    output::print(&where_to_look(address.port()))?;
    let table = Table::start(address, output::is_terminal() && verbosity.more == 0)
        .map_err(|error| Failure::failed("cannot start a thread").because(error))?;
    let settings = HostSettings {
        handle_signals: true,
        on_event: Some(Box::new(move |event| {
            // Somebody took the port between our look at it and the gateway's.
            if let HostEvent::Listening {
                outcome: Err(why), ..
            } = event
            {
                output::complain(&format!("fieldgate demo: cannot listen: {why}"));
                host::plant::stop_this_process();
            }
        })),
        ..HostSettings::default()
    };
    let outcome = host::run(loaded.meant.gateway, settings);
    drop(table);
    drop(plant);
    ended(outcome)
}

/// The first of the ports that can be listened at.
fn free_address() -> Result<SocketAddr, Failure> {
    for port in PORT..PORT + PORTS {
        match probe(port) {
            Ok(address) => return Ok(address),
            Err(error) if matches!(error.kind(), ErrorKind::AddrInUse) => {}
            Err(error) => {
                return Err(Failure::failed("cannot listen on loopback").because(error));
            }
        }
    }
    Err(Failure::failed(format!(
        "the ports {PORT} to {} are all in use",
        PORT + PORTS - 1
    ))
    .hint("--port names another one"))
}

fn probe(port: u16) -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))?.local_addr()
}

/// A line of the plant, with a group for each point.
const PATTERN: &str = concat!(
    r"^LEVEL=(?<level>\S+) TEMP=(?<temperature>\S+) FLOW=(?<flow>\S+)",
    r" PUMP=(?<pump>\S+) VALVE=(?<valve>\S+)$"
);

/// What a user would write for this. Every key is one of the interface's.
fn configuration(address: SocketAddr, plant: &str) -> String {
    format!(
        r#"
[gateway]
name = "demo"
base_topic = "demo"
[gateway.defaults]
every = "2s"
max_interval = "30s"

[listener.demo]
bind = "{address}"

[device.machine]
driver = "system"

[serial.plant]
path = "{plant}"
baud = 115200

[device.plant]
driver = "lines"
bus = "serial.plant"
pattern = '{PATTERN}'
simulated = true
stale_after = "5s"
[device.plant.point.level]
unit = "%"
deadband = 0.1
[device.plant.point.temperature]
unit = "°C"
deadband = 0.02
[device.plant.point.flow]
unit = "l/min"
deadband = 0.05
[device.plant.point.pump]
type = "bool"
command = "PUMP {{value}}\n"
[device.plant.point.valve]
type = "bool"
command = "VALVE {{value}}\n"
"#
    )
}

fn where_to_look(port: u16) -> String {
    format!(
        "\
fieldgate demo: an MQTT broker at 127.0.0.1:{port}, this machine and a small plant behind it

  watch         mosquitto_sub -p {port} -v -t 'demo/#'
  switch        mosquitto_pub -p {port} -t demo/plant/pump/set -m on
  the answer    mosquitto_sub -p {port} -v -t 'demo/+/+/result'
  without mosquitto's clients: fieldgate sub, fieldgate pub, with the same options
  the end       Ctrl-C

"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::settings::Driver;
    use crate::host::plant::Physics;

    #[test]
    fn its_configuration_is_right_without_a_warning() {
        let address = "127.0.0.1:1884".parse().unwrap();
        let file = configuration(address, "/dev/pts/7");
        let source = Source::new("demo.toml", file);
        let loaded = config::parse(vec![source], &Environment::default())
            .unwrap_or_else(|errors| panic!("{}", errors.render(false)));
        assert!(
            loaded.warnings.is_empty(),
            "{}",
            loaded.warnings.render(false)
        );
        let devices = &loaded.meant.gateway.devices;
        let plant = &devices["plant"];
        assert!(plant.points.values().all(|point| point.simulated));
        assert!(
            devices["machine"]
                .points
                .values()
                .all(|point| !point.simulated)
        );
        let writable: Vec<_> = plant
            .points
            .iter()
            .filter(|(_, point)| point.spec.writable)
            .map(|(name, _)| &**name)
            .collect();
        assert_eq!(writable, ["pump", "valve"]);
    }

    #[test]
    fn its_pattern_reads_what_the_plant_says() {
        let address = "127.0.0.1:1884".parse().unwrap();
        let source = Source::new("demo.toml", configuration(address, "/dev/pts/7"));
        let loaded = config::parse(vec![source], &Environment::default()).unwrap();
        let Driver::Lines(lines) = &loaded.meant.gateway.devices["plant"].field.driver else {
            panic!("the plant is a `lines` device");
        };
        let pattern = regex_lite::Regex::new(lines.pattern.as_deref().unwrap()).unwrap();
        let line = Physics::default().line();
        let found = pattern.captures(&line).unwrap_or_else(|| panic!("{line}"));
        assert_eq!(&found["level"], "62.0");
        assert_eq!(&found["valve"], "1");
    }
}
