//! `fieldgate bench`: a load generator with a latency histogram, against any broker.
//!
//! `bench` measures the broker that is named; `bench compare` starts this one and mosquitto, each
//! pinned to the same CPU, and measures both in turn; `bench memory` starts this one and measures
//! what it keeps; `bench bridge` starts two of them and measures what goes from one to the other
//! and what waits in between; `bench relay` is what the comparison holds both against. [`load`]
//! says how a run goes and what its latencies mean.

mod arrivals;
mod bridge;
mod broker;
mod compare;
mod histogram;
mod load;
mod memory;
mod pinning;
mod process;
mod relay;
mod report;
mod uplink;

use lexopt::Parser;

use crate::host::dial::Address;
use crate::mqtt::{ProtocolVersion, QoS};

use self::bridge::Upstream;
use self::compare::{SCENARIOS, Scenario};
use self::load::{CLIENTS_MAX, PAYLOAD_MIN, Plan, Workload};
use self::process::Process;
use super::client::{port, qos, resolve, text, version};
use super::{Argument, Failure, Globals, code, help, other_argument, output};

pub(crate) fn run(parser: Parser, globals: Globals) -> Result<u8, Failure> {
    let Some(options) = Options::parse(parser, globals)? else {
        return Ok(code::DONE);
    };
    if options.compare {
        return compare::run(&options);
    }
    if options.bridge {
        return bridge::run(&options);
    }
    if options.relay {
        return relay::run(options.port);
    }
    if options.memory {
        let clients = options.clients.unwrap_or(2000);
        return memory::run(clients, options.messages as usize, options.json);
    }
    let address = options.address()?;
    let mut reports = Vec::new();
    for plan in options.plans() {
        let outcome = load::run(&plan, &address)?;
        if !options.json {
            output::print(&report::text(&plan, &outcome))?;
        }
        reports.push(report::json(&plan, &outcome));
    }
    if options.json {
        output::print_json(&serde_json::Value::Array(reports))?;
    }
    Ok(code::DONE)
}

/// What `bench bridge` takes, beside what all take.
const OF_BRIDGE: [&str; 9] = [
    "messages", "payload", "clients", "topics", "batch", "window", "version", "repeat", "upstream",
];

/// What the command line says.
#[derive(Debug, Clone)]
struct Options {
    compare: bool,
    memory: bool,
    bridge: bool,
    relay: bool,
    json: bool,
    host: String,
    port: u16,
    unix: Option<std::path::PathBuf>,
    /// Empty: fan-in.
    workloads: Vec<Workload>,
    /// Of a comparison and of a bridge, how often each is run.
    repeat: Option<usize>,
    /// Of a comparison, which.
    scenarios: Vec<Scenario>,
    qos: Vec<QoS>,
    batch: Option<usize>,
    /// Of a bridge.
    upstream: Upstream,
    clients: Option<usize>,
    topics: Option<usize>,
    payload: usize,
    messages: u64,
    rate: Option<f64>,
    window: Option<u64>,
    version: ProtocolVersion,
    broker: Option<Process>,
}

impl Options {
    /// `None`: help was asked for and given.
    fn parse(mut parser: Parser, mut globals: Globals) -> Result<Option<Self>, Failure> {
        let mut options = Self {
            compare: false,
            memory: false,
            bridge: false,
            relay: false,
            json: false,
            host: "localhost".to_owned(),
            port: 1883,
            unix: None,
            workloads: Vec::new(),
            repeat: None,
            scenarios: Vec::new(),
            qos: Vec::new(),
            batch: None,
            upstream: Upstream::Fieldgate,
            clients: None,
            topics: None,
            payload: 64,
            messages: 100_000,
            rate: None,
            window: None,
            version: ProtocolVersion::V5,
            broker: None,
        };
        while let Some(argument) = Argument::next(&mut parser)? {
            let name = match &argument {
                Argument::Long(name) => name.as_str(),
                Argument::Short('h') => "host",
                Argument::Short('p') => "port",
                Argument::Short('q') => "qos",
                Argument::Short('V') => "version",
                Argument::Short(_) => "",
                Argument::Value(word) if word == "compare" && options.is_plain() => {
                    options.compare = true;
                    continue;
                }
                Argument::Value(word) if word == "memory" && options.is_plain() => {
                    options.memory = true;
                    continue;
                }
                Argument::Value(word) if word == "bridge" && options.is_plain() => {
                    options.bridge = true;
                    continue;
                }
                Argument::Value(word) if word == "relay" && options.is_plain() => {
                    options.relay = true;
                    continue;
                }
                Argument::Value(word) if word == "field" => {
                    let text = "`bench field` is not available in this version";
                    return Err(Failure::usage(text));
                }
                Argument::Value(word) if options.compare => {
                    options.scenarios.push(scenario(&word.to_string_lossy())?);
                    continue;
                }
                Argument::Value(_) => "",
            };
            let is_for_compare = matches!(name, "repeat" | "json" | "help" | "");
            if options.compare && !is_for_compare {
                return Err(Failure::usage(format!(
                    "the workloads of `bench compare` are what they are: there is no --{name}"
                )));
            }
            let is_for_all = matches!(name, "json" | "help" | "");
            if options.bridge && !is_for_all && !OF_BRIDGE.contains(&name) {
                let text = format!("`bench bridge` has no --{name}");
                return Err(Failure::usage(text));
            }
            match name {
                "host" => options.host = text(&mut parser)?,
                "port" => options.port = port(&text(&mut parser)?)?,
                "unix" => options.unix = Some(parser.value()?.into()),
                "workload" => options.workloads.push(workload(&text(&mut parser)?)?),
                "qos" => options.qos.push(qos(&text(&mut parser)?)?),
                "clients" => {
                    let clients = count(&mut parser, "--clients", 1, CLIENTS_MAX as u64)?;
                    options.clients = Some(clients as usize);
                }
                "topics" => {
                    let topics = count(&mut parser, "--topics", 1, 1_000_000)?;
                    options.topics = Some(topics as usize);
                }
                "payload" => {
                    let (min, max) = (PAYLOAD_MIN as u64, 1024 * 1024 - 1024);
                    options.payload = count(&mut parser, "--payload", min, max)? as usize;
                }
                "repeat" if options.compare || options.bridge => {
                    options.repeat = Some(count(&mut parser, "--repeat", 1, 99)? as usize);
                }
                "upstream" if options.bridge => {
                    options.upstream = upstream(&text(&mut parser)?)?;
                }
                "batch" => {
                    options.batch = Some(count(&mut parser, "--batch", 1, 1000)? as usize);
                }
                "messages" => options.messages = count(&mut parser, "--messages", 1, 1 << 40)?,
                "rate" => options.rate = Some(rate(&text(&mut parser)?)?),
                "window" => options.window = Some(count(&mut parser, "--window", 1, 1 << 20)?),
                "version" if matches!(argument, Argument::Short(_)) || has_value(&mut parser) => {
                    options.version = version(&text(&mut parser)?)?;
                }
                "protocol-version" => options.version = version(&text(&mut parser)?)?,
                "pid" => options.broker = Some(pid(&text(&mut parser)?)?),
                _ => {
                    let ended = other_argument(argument, &mut parser, &mut globals, help::BENCH)?;
                    if ended.is_some() {
                        return Ok(None);
                    }
                }
            }
        }
        options.json = globals.json;
        if options.memory && (options.broker.is_some() || options.unix.is_some()) {
            return Err(Failure::usage("`bench memory` starts its broker itself"));
        }
        let is_kept = |workload: &Workload| matches!(workload, Workload::Queue | Workload::Drain);
        let is_qos_0 = options.qos.is_empty() || options.qos.contains(&QoS::AtMostOnce);
        if is_qos_0 && options.workloads.iter().any(is_kept) {
            let text = "nothing is queued at QoS 0: --qos 1 or --qos 2";
            return Err(Failure::usage(text));
        }
        if options.scenarios.is_empty() {
            options.scenarios = SCENARIOS.to_vec();
        }
        Ok(Some(options))
    }

    /// No other kind of benchmark was asked for yet.
    const fn is_plain(&self) -> bool {
        !(self.compare || self.memory || self.bridge || self.relay)
    }

    /// Every combination that is to be measured.
    fn plans(&self) -> Vec<Plan> {
        let workloads = match &self.workloads[..] {
            [] => &Workload::ALL[..1],
            some => some,
        };
        let qos = match &self.qos[..] {
            [] => &[QoS::AtMostOnce],
            some => some,
        };
        let clients = self.clients.unwrap_or(10);
        let plan = |workload, qos| Plan {
            workload,
            qos,
            clients,
            topics: self.topics.unwrap_or(match workload {
                Workload::FanOut => 1,
                Workload::Wildcards => 1000,
                _ => clients,
            }),
            payload: self.payload,
            // A fan-out delivers each message many times: the same number of deliveries takes as
            // long.
            messages: match workload {
                Workload::FanOut => (self.messages / clients as u64).max(1),
                _ => self.messages,
            },
            batch: self.batch.unwrap_or(1),
            rate: self.rate,
            window: self.window.unwrap_or(1000),
            has_properties: false,
            version: self.version,
            broker: self.broker,
        };
        workloads
            .iter()
            .flat_map(|workload| qos.iter().map(|qos| plan(*workload, *qos)))
            .collect()
    }

    fn address(&self) -> Result<Address, Failure> {
        if let Some(path) = &self.unix {
            return Ok(Address::Unix(path.clone()));
        }
        // The first that answers is found by asking; a load is for one.
        for address in resolve(&self.host, self.port)? {
            if let Address::Tcp(at) = address
                && std::net::TcpStream::connect(at).is_ok()
            {
                return Ok(address);
            }
        }
        let text = format!("nothing listens at {}:{}", self.host, self.port);
        Err(Failure::failed(text))
    }
}

/// `--version` alone asks for ours; with a value it is the protocol's.
fn has_value(parser: &mut Parser) -> bool {
    parser
        .try_raw_args()
        .and_then(|arguments| {
            arguments
                .peek()
                .map(|next| !next.to_string_lossy().starts_with('-'))
        })
        .unwrap_or(true)
}

fn workload(text: &str) -> Result<Workload, Failure> {
    let found = Workload::ALL.into_iter().find(|it| it.name() == text);
    found.ok_or_else(|| {
        Failure::usage(format!(
            "a workload is fan-in, fan-out, p2p, wildcards, queue or drain, not `{text}`"
        ))
    })
}

fn upstream(text: &str) -> Result<Upstream, Failure> {
    Upstream::find(text).ok_or_else(|| {
        Failure::usage(format!(
            "--upstream takes fieldgate or mosquitto, not `{text}`"
        ))
    })
}

fn scenario(text: &str) -> Result<Scenario, Failure> {
    Scenario::find(text).ok_or_else(|| {
        let names = SCENARIOS.map(|scenario| scenario.name).join(", ");
        Failure::usage(format!(
            "a workload of the comparison is one of {names}, not `{text}`"
        ))
    })
}

fn count(parser: &mut Parser, option: &str, min: u64, max: u64) -> Result<u64, Failure> {
    let text = text(parser)?;
    let value = text
        .parse()
        .ok()
        .filter(|value| (min..=max).contains(value));
    value.ok_or_else(|| {
        Failure::usage(format!(
            "{option} takes a number from {min} to {max}, not `{text}`"
        ))
    })
}

fn rate(text: &str) -> Result<f64, Failure> {
    let value: Option<f64> = text.trim_end_matches("/s").parse().ok();
    value
        .filter(|rate| rate.is_finite() && (0.001..=1e8).contains(rate))
        .ok_or_else(|| Failure::usage(format!("--rate takes messages a second, not `{text}`")))
}

fn pid(text: &str) -> Result<Process, Failure> {
    let found = text.parse().ok().and_then(Process::new);
    found.ok_or_else(|| Failure::usage(format!("--pid {text}: there is no such process")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Options, Failure> {
        let parsed = Options::parse(Parser::from_args(arguments), Globals::default())?;
        Ok(parsed.expect("no help was asked for"))
    }

    #[test]
    fn one_broker_is_one_run_unless_more_are_named() {
        assert_eq!(parse(&[]).unwrap().plans().len(), 1);
        let arguments = [
            "--workload",
            "fan-in",
            "--workload",
            "p2p",
            "--qos",
            "0",
            "--qos",
            "1",
        ];
        assert_eq!(parse(&arguments).unwrap().plans().len(), 4);
    }

    #[test]
    fn a_comparison_has_its_workloads_by_name() {
        assert_eq!(
            parse(&["compare"]).unwrap().scenarios.len(),
            SCENARIOS.len()
        );
        let options = parse(&["compare", "p2p-qos1", "fan-out", "--repeat", "1"]).unwrap();
        let names: Vec<_> = options.scenarios.iter().map(|found| found.name).collect();
        assert_eq!(
            (&names[..], options.repeat),
            (&["p2p-qos1", "fan-out"][..], Some(1))
        );
    }

    #[test]
    fn a_fan_out_makes_as_many_deliveries_as_asked_for() {
        let arguments = [
            "--workload",
            "fan-out",
            "--clients",
            "50",
            "--messages",
            "1000",
        ];
        let plans = parse(&arguments).unwrap().plans();
        assert_eq!((plans[0].messages, plans[0].topics), (20, 1));
    }

    #[test]
    fn numbers_out_of_range_are_wrong_usage() {
        for arguments in [
            &["--clients", "0"][..],
            &["--payload", "15"],
            &["--rate", "0"],
            &["--rate", "nan"],
            &["--workload", "mesh"],
            &["--pid", "4294967295"],
            &["compare", "--unix", "/x"],
            &["memory", "--unix", "/x"],
            &["memory", "compare"],
            &["bridge", "memory"],
            &["bridge", "--qos", "2"],
            &["bridge", "--upstream", "kafka"],
            &["--upstream", "mosquitto"],
            &["relay", "memory"],
            &["compare", "mesh"],
            &["compare", "--clients", "3"],
            &["--repeat", "3"],
            &["--batch", "0"],
            &["--workload", "queue"],
            &["field"],
            &["--version", "6"],
        ] {
            assert_eq!(parse(arguments).unwrap_err().code(), 2, "{arguments:?}");
        }
        let options = parse(&["--version", "3.1.1", "--rate", "500/s"]).unwrap();
        assert_eq!(options.version, ProtocolVersion::V4);
        assert_eq!(options.rate, Some(500.0));
    }
}
