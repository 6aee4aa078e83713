//! `bench compare`: this broker against mosquitto on the same machine, in the same minutes.
//!
//! Each workload has a name and fixed parameters, so that figures can be held against one another.
//! Both brokers are started fresh for every run, on loopback, without persistence (but for this one
//! in the workloads that say so: what nobody else promises, mosquitto need not do), pinned to the
//! same CPU if `taskset` is there; this process moves to another one. They are run in turn, first
//! one, then the other, so that a machine that changes its speed changes it for both, and of each
//! figure that several runs have shown the middle one counts.
//!
//! Where nearly all that a broker does is system calls, a relay of the same bytes is run with them
//! ([`super::relay`]): it shows how low the figure can be.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

use super::broker::{Broker, Folder, free_port};
use super::load::{self, Outcome, Plan, Workload};
use super::pinning::{Pinning, find};
use super::{Options, report};
use crate::cli::{Failure, code, output};
use crate::host::dial::Address;
use crate::mqtt::{ProtocolVersion, QoS};
use crate::time::Duration;

/// How long a broker may take until it accepts connections.
const START: Duration = Duration::from_secs(10);

/// A workload of the comparison.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scenario {
    pub(super) name: &'static str,
    /// Its parameters in words.
    about: &'static str,
    workload: Workload,
    clients: usize,
    topics: usize,
    qos: QoS,
    payload: usize,
    batch: usize,
    window: u64,
    /// To publish.
    messages: u64,
    rate: Option<f64>,
    has_properties: bool,
    /// A bare relay of its bytes is measured as well.
    has_relay: bool,
    /// This broker acknowledges what is on the disk; mosquitto keeps nothing there.
    is_strict: bool,
}

/// What the others differ from.
const FAN_IN: Scenario = Scenario {
    name: "fan-in",
    about: "50 publishers, 1 subscriber, 20 a write, 2000 outstanding",
    workload: Workload::FanIn,
    clients: 50,
    topics: 50,
    qos: QoS::AtMostOnce,
    payload: 64,
    batch: 20,
    window: 2000,
    messages: 400_000,
    rate: None,
    has_properties: false,
    has_relay: false,
    is_strict: false,
};

/// What is kept for a client that is away.
const QUEUE: Scenario = Scenario {
    name: "queue",
    about: "10 publishers, 20 a write, 2000 outstanding, subscriber away",
    workload: Workload::Queue,
    clients: 10,
    topics: 10,
    qos: QoS::AtLeastOnce,
    messages: 50_000,
    ..FAN_IN
};

/// All of them.
pub(super) const SCENARIOS: [Scenario; 16] = [
    FAN_IN,
    Scenario {
        name: "fan-in-single",
        about: "the same, 1 a write",
        batch: 1,
        messages: 200_000,
        has_relay: true,
        ..FAN_IN
    },
    Scenario {
        name: "p2p",
        about: "20 pairs, 20 a write, 2000 outstanding",
        workload: Workload::PointToPoint,
        clients: 20,
        ..FAN_IN
    },
    Scenario {
        name: "fan-out",
        about: "1 publisher, 200 subscribers, 8 a write, 40 outstanding",
        workload: Workload::FanOut,
        clients: 200,
        topics: 1,
        batch: 8,
        window: 40,
        messages: 2000,
        ..FAN_IN
    },
    Scenario {
        name: "fan-out-4k",
        about: "the same, 4 KiB, 4 a write, 20 outstanding",
        workload: Workload::FanOut,
        clients: 200,
        topics: 1,
        payload: 4096,
        batch: 4,
        window: 20,
        messages: 1000,
        ..FAN_IN
    },
    Scenario {
        name: "fan-in-qos1",
        about: "50 publishers, 20 a write, 2000 outstanding",
        qos: QoS::AtLeastOnce,
        messages: 100_000,
        ..FAN_IN
    },
    Scenario {
        name: "p2p-qos1",
        about: "20 pairs, 20 a write, 4000 outstanding",
        workload: Workload::PointToPoint,
        clients: 20,
        qos: QoS::AtLeastOnce,
        window: 4000,
        messages: 100_000,
        ..FAN_IN
    },
    Scenario {
        name: "p2p-qos2",
        about: "the same",
        workload: Workload::PointToPoint,
        clients: 20,
        qos: QoS::ExactlyOnce,
        window: 4000,
        messages: 50_000,
        ..FAN_IN
    },
    Scenario {
        name: "wildcards",
        about: "10 000 subscriptions of 1000 clients, 4.5 deliveries a message, 10 publishers, \
                1000 topics, 20 a write, 2000 outstanding",
        workload: Workload::Wildcards,
        clients: 1000,
        topics: 1000,
        messages: 50_000,
        ..FAN_IN
    },
    Scenario {
        name: "properties",
        about: "5 pairs, 5.0, topic alias and three properties, 20 a write, 2000 outstanding",
        workload: Workload::PointToPoint,
        clients: 5,
        has_properties: true,
        messages: 200_000,
        ..FAN_IN
    },
    QUEUE,
    Scenario {
        name: "queue-strict",
        about: "the same, and fieldgate acknowledges what is on the disk",
        is_strict: true,
        ..QUEUE
    },
    Scenario {
        name: "drain",
        about: "50 000 messages of `queue`",
        workload: Workload::Drain,
        ..QUEUE
    },
    Scenario {
        name: "drain-strict",
        about: "50 000 messages of `queue-strict`",
        workload: Workload::Drain,
        is_strict: true,
        ..QUEUE
    },
    Scenario {
        name: "latency",
        about: "10 pairs, 5000 a second",
        workload: Workload::PointToPoint,
        clients: 10,
        messages: 25_000,
        rate: Some(5000.0),
        batch: 1,
        ..FAN_IN
    },
    Scenario {
        name: "latency-qos1",
        about: "the same",
        workload: Workload::PointToPoint,
        clients: 10,
        qos: QoS::AtLeastOnce,
        messages: 25_000,
        rate: Some(5000.0),
        batch: 1,
        ..FAN_IN
    },
];

impl Scenario {
    /// By name.
    pub(super) fn find(name: &str) -> Option<Self> {
        SCENARIOS.into_iter().find(|scenario| scenario.name == name)
    }

    fn plan(&self) -> Plan {
        Plan {
            workload: self.workload,
            clients: self.clients,
            topics: self.topics,
            qos: self.qos,
            payload: self.payload,
            messages: self.messages,
            batch: self.batch,
            rate: self.rate,
            window: self.window,
            has_properties: self.has_properties,
            version: if self.has_properties {
                ProtocolVersion::V5
            } else {
                ProtocolVersion::V4
            },
            broker: None,
        }
    }
}

pub(super) fn run(options: &Options) -> Result<u8, Failure> {
    let mosquitto = find("mosquitto").ok_or_else(|| {
        Failure::failed("there is no mosquitto to compare with")
            .hint("on Debian: apt-get install mosquitto; it need not run as a service")
    })?;
    let own = std::env::current_exe()
        .map_err(|error| Failure::failed("cannot find this program's file").because(error))?;
    let pinning = Pinning::find();
    if pinning.is_none() {
        output::complain("taskset is missing, or there is one CPU: nothing is pinned");
    }
    let folder =
        Folder::new().map_err(|error| Failure::failed("cannot make a folder").because(error))?;
    let mut table = vec![
        [
            "workload",
            "QoS",
            "parameters",
            "fieldgate",
            "mosquitto",
            "ratio",
        ]
        .map(str::to_owned),
        ["---", "---", "---", "---", "---", "---"].map(str::to_owned),
    ];
    let mut results = Vec::new();
    for scenario in &options.scenarios {
        let plan = scenario.plan();
        let ours = if scenario.is_strict {
            Kind::Strict(&own)
        } else {
            Kind::Fieldgate(&own)
        };
        let mut kinds = vec![ours, Kind::Mosquitto(&mosquitto)];
        if scenario.has_relay {
            kinds.push(Kind::Relay(&own));
        }
        let mut runs = vec![Runs::default(); kinds.len()];
        for _ in 0..options.repeat.unwrap_or(3) {
            for (kind, runs) in kinds.iter().zip(&mut runs) {
                runs.0
                    .push(measure(&plan, &folder, *kind, pinning.as_ref())?);
            }
        }
        let (ours, theirs, relay) = (&runs[0], &runs[1], runs.get(2));
        if !options.json {
            let name = scenario.name;
            output::print(&text(name, &plan, ours, theirs))?;
        }
        table.extend(rows(scenario, ours, theirs, relay));
        results.push(as_json(scenario, &plan, ours, theirs, relay));
    }
    if options.json {
        output::print_json(&Value::Array(results))?;
    } else {
        let lines = table.iter().map(|row| format!("| {} |\n", row.join(" | ")));
        output::print(&lines.collect::<String>())?;
    }
    Ok(code::DONE)
}

/// What one broker has shown, run after run. Not empty.
#[derive(Clone, Default)]
struct Runs(Vec<Outcome>);

impl Runs {
    /// Of a figure, the one in the middle; `None` if a run has not got it.
    fn middle(&self, figure: impl Fn(&Outcome) -> Option<f64>) -> Option<f64> {
        let mut figures: Vec<f64> = self.0.iter().map(figure).collect::<Option<_>>()?;
        figures.sort_by(f64::total_cmp);
        figures.get(figures.len() / 2).copied()
    }

    /// CPU seconds for a million deliveries.
    fn cpu(&self) -> Option<f64> {
        self.middle(Outcome::cpu_per_million)
    }

    fn millis(&self, per_mille: u64) -> Option<f64> {
        self.middle(|outcome| Some(outcome.latency.percentile(per_mille) as f64 / 1e6))
    }
}

/// A workload's row of the table, of a workload with a rate a row for each latency, and the relay's
/// if there is one.
fn rows(scenario: &Scenario, ours: &Runs, theirs: &Runs, relay: Option<&Runs>) -> Vec<[String; 6]> {
    let row = |name: String, about: &str, ours: Option<f64>, theirs: Option<f64>| {
        let cell = |value: Option<f64>| value.map_or("?".to_owned(), |value| format!("{value:.3}"));
        [
            name,
            scenario.qos.to_string(),
            about.to_owned(),
            cell(ours),
            cell(theirs),
            ratio(ours, theirs).map_or_else(String::new, |ratio| format!("{ratio:.2}")),
        ]
    };
    let mut rows = Vec::new();
    let (name, about) = (scenario.name, scenario.about);
    rows.push(row(name.to_owned(), about, ours.cpu(), theirs.cpu()));
    if let Some(relay) = relay {
        let name = format!("{name} relay");
        let about = "no broker: the same bytes moved";
        rows.push(row(name, about, relay.cpu(), theirs.cpu()));
    }
    if scenario.rate.is_some() {
        for (word, per_mille) in [("p50", 500), ("p99", 990), ("p99.9", 999)] {
            let name = format!("{name} {word} ms");
            let [ours, theirs] = [ours, theirs].map(|runs| runs.millis(per_mille));
            rows.push(row(name, about, ours, theirs));
        }
    }
    rows
}

fn ratio(ours: Option<f64>, theirs: Option<f64>) -> Option<f64> {
    let ratio = ours.zip(theirs).map(|(ours, theirs)| ours / theirs);
    ratio.filter(|ratio| ratio.is_finite())
}

fn text(name: &str, plan: &Plan, ours: &Runs, theirs: &Runs) -> String {
    let cell = |value: Option<f64>, digits: usize| {
        value.map_or_else(|| "?".to_owned(), |value| format!("{value:.digits$}"))
    };
    let row = |name: &str, digits, figure: &dyn Fn(&Outcome) -> Option<f64>| {
        let [ours, theirs] = [ours, theirs].map(|runs| runs.middle(figure));
        vec![
            name.to_owned(),
            cell(ours, digits),
            cell(theirs, digits),
            ratio(ours, theirs).map_or_else(String::new, |ratio| format!("{ratio:.2}")),
        ]
    };
    let millis = |per_mille| {
        move |outcome: &Outcome| Some(outcome.latency.percentile(per_mille) as f64 / 1e6)
    };
    let head = ["", "fieldgate", "mosquitto", "ratio"];
    // Without a rate, latency says how full the window is; throughput and CPU time are what counts.
    let [p50, p99, p99_9] = if plan.rate.is_some() {
        ["p50 ms", "p99 ms", "p99.9 ms"]
    } else {
        ["p50 ms (window)", "p99 ms (window)", "p99.9 ms (window)"]
    };
    let rows = [
        head.map(str::to_owned).to_vec(),
        row("CPU s per million", 3, &Outcome::cpu_per_million),
        row("deliveries/s", 0, &|outcome| Some(outcome.throughput())),
        row(p50, 3, &millis(500)),
        row(p99, 3, &millis(990)),
        row(p99_9, 3, &millis(999)),
        row("peak RSS MiB", 1, &|outcome| {
            outcome.broker_memory.map(|(_, peak)| report::mib(peak))
        }),
        row("lost", 0, &|outcome| Some(outcome.lost as f64)),
        row("this process, % of a CPU", 0, &|outcome| {
            Some(100.0 * report::busy(outcome))
        }),
    ];
    format!(
        "{name}: {}\n{}\n",
        report::title(plan),
        output::columns(&rows, "  ")
    )
}

/// Every run, and the ratios of the figures in the middle.
fn as_json(
    scenario: &Scenario,
    plan: &Plan,
    ours: &Runs,
    theirs: &Runs,
    relay: Option<&Runs>,
) -> Value {
    let every = |runs: &Runs| -> Vec<Value> {
        let each = runs.0.iter();
        each.map(|outcome| report::json(plan, outcome)).collect()
    };
    json!({
        "name": scenario.name,
        "fieldgate": every(ours),
        "mosquitto": every(theirs),
        "relay": relay.map(every),
        "cpu_ratio": ratio(ours.cpu(), theirs.cpu()),
        "relay_cpu_ratio": relay.and_then(|relay| ratio(relay.cpu(), theirs.cpu())),
    })
}

/// A broker of the comparison, and its program.
#[derive(Debug, Clone, Copy)]
enum Kind<'a> {
    Fieldgate(&'a Path),
    /// The same, with a folder to keep things in.
    Strict(&'a Path),
    Mosquitto(&'a Path),
    /// This program again, as a relay.
    Relay(&'a Path),
}

impl Kind<'_> {
    const fn name(self) -> &'static str {
        match self {
            Self::Fieldgate(_) | Self::Strict(_) => "fieldgate",
            Self::Mosquitto(_) => "mosquitto",
            Self::Relay(_) => "relay",
        }
    }
}

fn measure(
    plan: &Plan,
    folder: &Folder,
    kind: Kind<'_>,
    pinning: Option<&Pinning>,
) -> Result<Outcome, Failure> {
    let broker = start(kind, plan, folder, pinning)
        .map_err(|error| Failure::failed(format!("cannot start {}", kind.name())).because(error))?;
    let plan = Plan {
        broker: broker.process(),
        ..plan.clone()
    };
    load::run(&plan, &Address::Tcp(broker.address))
}

fn start(
    kind: Kind<'_>,
    plan: &Plan,
    folder: &Folder,
    pinning: Option<&Pinning>,
) -> io::Result<Broker> {
    let address = free_port()?;
    let (program, arguments): (&Path, Vec<OsString>) = match kind {
        Kind::Fieldgate(program) | Kind::Strict(program) => {
            let data = folder.path().join("data");
            if matches!(kind, Kind::Strict(_)) && data.exists() {
                fs::remove_dir_all(&data)?;
            }
            let data = matches!(kind, Kind::Strict(_)).then_some(data);
            let text = own_configuration(address, folder.path(), data.as_deref());
            let file = folder.written("fieldgate.toml", &text)?;
            (
                program,
                vec!["run".into(), "-q".into(), "--config".into(), file],
            )
        }
        Kind::Mosquitto(program) => {
            let text = mosquitto_configuration(plan, address);
            let file = folder.written("mosquitto.conf", &text)?;
            (program, vec!["-c".into(), file])
        }
        Kind::Relay(program) => {
            let port = address.port().to_string();
            let words = ["bench", "relay", "--port", &port];
            (program, words.map(OsString::from).to_vec())
        }
    };
    let mut command = Pinning::command(pinning, program);
    Broker::start(command.args(arguments), address, START)
}

// The same for both, in each one's own words: loopback, everybody may come, nothing is kept on a
// disk unless the workload says so, and no queue is so short that it decides.

fn own_configuration(address: SocketAddr, folder: &Path, data: Option<&Path>) -> String {
    let data = data.map_or_else(String::new, |data| {
        format!("data_dir = \"{}\"\n", data.display())
    });
    format!(
        "[gateway]\nname = \"bench\"\n{data}[listener.bench]\nbind = \"{address}\"\n\
         [control]\nsocket = \"{}\"\n\
         [broker]\nmax_connections = 21000\nmax_sessions = 21000\n\
         inflight_maximum = 65535\nmemory = \"1GiB\"\nqueues = \"1GiB\"\n\
         queue = {{ messages = 1000000, bytes = \"1GiB\" }}\n",
        folder.join("control.sock").display()
    )
}

fn mosquitto_configuration(plan: &Plan, address: SocketAddr) -> String {
    format!(
        "listener {} {}\nallow_anonymous true\npersistence false\nlog_dest none\n\
         max_inflight_messages 0\nmax_queued_messages 0\n{}",
        address.port(),
        address.ip(),
        // With Nagle's delay its latencies are those of acknowledgements that are put off.
        if plan.rate.is_some() {
            "set_tcp_nodelay true\n"
        } else {
            ""
        }
    )
}
