//! `bench bridge`: what a bridge forwards live, what it keeps while the other end is away, and how
//! fast that goes out afterwards.
//!
//! A gateway is started with a bridge that keeps all, and a broker for its far end: this one again,
//! or mosquitto. Between them is a relay that can be cut ([`super::uplink`]), so that both live on.
//! Publishers are connected to the gateway and a subscriber to the far end; every message has a
//! number, so that what is missing and what comes twice are known.
//!
//! *Live*: as many messages are under way as the window allows, and one is under way until it is
//! acknowledged and has arrived at the far end. So nothing is left behind for a backlog, and the
//! rate is what can be forwarded for ever. *Queued*: the same without the far end. *Drained*: what
//! was queued, from the first message that arrives to the last.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::Options;
use super::broker::{Broker, Folder, free_port};
use super::load::{Load, Passed, Plan, Workload};
use super::pinning::{Pinning, find};
use super::process::Process;
use super::uplink::Uplink;
use crate::cli::{Failure, code, output};
use crate::host::dial::Address;
use crate::mqtt::QoS;
use crate::time::Duration;

/// How long a broker may take until it accepts connections.
const START: Duration = Duration::from_secs(10);

/// So long nothing comes before what is missing is lost: a disk that takes gigabytes stops for
/// seconds now and then, and the bridge waits a second at most before it tries again.
const PATIENCE: Duration = Duration::from_secs(60);

/// Forwarded before anything is measured.
const WARM_UP_MAX: u64 = 5000;

/// Forwarded live, at most: a few seconds.
const LIVE_MAX: u64 = 200_000;

/// What a queued message may count besides its payload, at most: its topic, and what it takes in
/// memory where it is in memory. On the disk it is about 100 bytes.
const BESIDE_PAYLOAD: u64 = 600;

/// Messages under way without being told otherwise, and their bytes: a gateway that is given more
/// than its disk takes disconnects who gives it.
const WINDOW: u64 = 2000;
const WINDOW_BYTES: u64 = 2 * 1024 * 1024;

/// A queue is at least so large, as it is without being told.
const QUEUE_MIN: u64 = 256 * 1024 * 1024;

/// A backlog goes out at this part of the speed of what is live, or faster.
const RATIO_MIN: f64 = 0.5;

/// Megabytes that a backlog may take in memory, however long it is.
const MEGABYTES_MAX: f64 = 40.0;

/// Who is at the far end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Upstream {
    Fieldgate,
    Mosquitto,
}

impl Upstream {
    /// By name.
    pub(super) fn find(name: &str) -> Option<Self> {
        let all = [Self::Fieldgate, Self::Mosquitto];
        all.into_iter().find(|upstream| upstream.name() == name)
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Fieldgate => "fieldgate",
            Self::Mosquitto => "mosquitto",
        }
    }
}

/// Seconds of CPU time of a gateway for a million messages, if it can be told.
type Cpu = Option<f64>;

/// What one run has shown. Memory is in bytes.
struct Outcome {
    live: (Passed, Cpu),
    queued: (Passed, Cpu),
    drained: (Passed, Cpu),
    /// Resident with everybody connected and before the first message, with all that is queued, and
    /// at most.
    idle: u64,
    waiting: u64,
    peak: u64,
    /// Of all that were acknowledged, and messages that came again.
    missing: u64,
    repeated: u64,
}

impl Outcome {
    fn ratio(&self) -> f64 {
        self.drained.0.rate() / self.live.0.rate()
    }

    /// What the queue takes.
    fn megabytes(&self) -> f64 {
        self.waiting.saturating_sub(self.idle) as f64 / 1e6
    }
}

pub(super) fn run(options: &Options) -> Result<u8, Failure> {
    let own = std::env::current_exe()
        .map_err(|error| Failure::failed("cannot find this program's file").because(error))?;
    let mosquitto = match options.upstream {
        Upstream::Fieldgate => None,
        Upstream::Mosquitto => Some(find("mosquitto").ok_or_else(|| {
            Failure::failed("there is no mosquitto to send to")
                .hint("on Debian: apt-get install mosquitto; it need not run as a service")
        })?),
    };
    let pinning = Pinning::find();
    if pinning.is_none() {
        output::complain("taskset is missing, or there is one CPU: nothing is pinned");
    }
    let plan = plan(options);
    if !options.json {
        output::print(&format!("{}\n", title(&plan, options.upstream)))?;
    }
    let mut outcomes = Vec::new();
    for _ in 0..options.repeat.unwrap_or(1) {
        let outcome = measure(&plan, &own, mosquitto.as_deref(), pinning.as_ref())?;
        if !options.json {
            output::print(&text(&outcome))?;
        }
        outcomes.push(outcome);
    }
    let verdict = Verdict::of(&outcomes);
    if options.json {
        output::print_json(&as_json(&plan, options.upstream, &outcomes, &verdict))?;
    } else {
        output::print(&verdict.text())?;
    }
    Ok(if verdict.is_met() {
        code::DONE
    } else {
        code::FAILED
    })
}

fn plan(options: &Options) -> Plan {
    let clients = options.clients.unwrap_or(10);
    let window = (WINDOW_BYTES / options.payload as u64).clamp(1, WINDOW);
    Plan {
        workload: Workload::FanIn,
        clients,
        topics: options.topics.unwrap_or(clients),
        qos: QoS::AtLeastOnce,
        payload: options.payload,
        messages: options.messages,
        batch: options.batch.unwrap_or(20),
        rate: None,
        window: options.window.unwrap_or(window),
        has_properties: false,
        version: options.version,
        broker: None,
    }
}

/// What all runs have come to.
struct Verdict {
    /// The one in the middle.
    ratio: f64,
    /// The most.
    megabytes: f64,
    /// In all.
    missing: u64,
    repeated: u64,
}

impl Verdict {
    fn of(outcomes: &[Outcome]) -> Self {
        let mut ratios: Vec<f64> = outcomes.iter().map(Outcome::ratio).collect();
        ratios.sort_by(f64::total_cmp);
        let megabytes = outcomes.iter().map(Outcome::megabytes);
        Self {
            ratio: ratios.get(ratios.len() / 2).copied().unwrap_or(f64::NAN),
            megabytes: megabytes.fold(0.0, f64::max),
            missing: outcomes.iter().map(|outcome| outcome.missing).sum(),
            repeated: outcomes.iter().map(|outcome| outcome.repeated).sum(),
        }
    }

    fn is_fast(&self) -> bool {
        self.ratio >= RATIO_MIN
    }

    fn is_small(&self) -> bool {
        self.megabytes <= MEGABYTES_MAX
    }

    fn is_met(&self) -> bool {
        self.is_fast() && self.is_small() && self.missing == 0
    }

    fn text(&self) -> String {
        let word = |is_met: bool| if is_met { "" } else { ": MISSED" };
        format!(
            "drained / live: {:.2}, at least {RATIO_MIN}{}\n\
             memory beyond idle: {:.1} MB, at most {MEGABYTES_MAX}{}\n\
             acknowledged and missing: {}{}; arrived again: {}\n",
            self.ratio,
            word(self.is_fast()),
            self.megabytes,
            word(self.is_small()),
            self.missing,
            word(self.missing == 0),
            self.repeated,
        )
    }
}

fn title(plan: &Plan, upstream: Upstream) -> String {
    format!(
        "bridge to {}: {} publishers, QoS 1, {} messages of {} bytes, {} a write, {} under way, \
         MQTT {}",
        upstream.name(),
        plan.clients,
        plan.messages,
        plan.payload,
        plan.batch,
        plan.window,
        plan.version,
    )
}

fn text(outcome: &Outcome) -> String {
    let row = |name: &str, (passed, cpu): (Passed, Cpu)| {
        let (count, seconds) = (passed.count, passed.elapsed.as_secs_f64());
        let cpu = cpu.map_or_else(String::new, |cpu| format!("{cpu:.2} s of CPU per million"));
        vec![
            name.to_owned(),
            format!("{:.0}/s", passed.rate()),
            format!("{count} in {seconds:.1} s"),
            cpu,
        ]
    };
    let rows = [
        row("live", outcome.live),
        row("queued", outcome.queued),
        row("drained", outcome.drained),
        vec![
            "memory".to_owned(),
            format!("{:.1} MB", outcome.waiting as f64 / 1e6),
            format!("idle {:.1} MB", outcome.idle as f64 / 1e6),
            format!("peak {:.1} MB", outcome.peak as f64 / 1e6),
        ],
    ];
    output::columns(&rows, "  ")
}

/// Rates are messages a second, memory is in bytes; what could not be measured is null.
fn as_json(plan: &Plan, upstream: Upstream, outcomes: &[Outcome], verdict: &Verdict) -> Value {
    let part = |(passed, cpu): (Passed, Cpu)| {
        json!({
            "count": passed.count,
            "elapsed_ns": passed.elapsed.as_nanos() as u64,
            "per_second": passed.rate(),
            "cpu_seconds_per_million": cpu,
        })
    };
    let runs = outcomes.iter().map(|outcome| {
        json!({
            "live": part(outcome.live),
            "queued": part(outcome.queued),
            "drained": part(outcome.drained),
            "rss_idle": outcome.idle,
            "rss_waiting": outcome.waiting,
            "rss_peak": outcome.peak,
            "missing": outcome.missing,
            "repeated": outcome.repeated,
        })
    });
    json!({
        "upstream": upstream.name(),
        "clients": plan.clients,
        "topics": plan.topics,
        "payload": plan.payload,
        "messages": plan.messages,
        "batch": plan.batch,
        "window": plan.window,
        "version": plan.version.to_string(),
        "runs": runs.collect::<Vec<_>>(),
        "drained_to_live": verdict.ratio,
        "megabytes_beyond_idle": verdict.megabytes,
        "missing": verdict.missing,
        "repeated": verdict.repeated,
        "met": verdict.is_met(),
    })
}

fn measure(
    plan: &Plan,
    own: &Path,
    mosquitto: Option<&Path>,
    pinning: Option<&Pinning>,
) -> Result<Outcome, Failure> {
    let failed = |what: &'static str| move |error| Failure::failed(what).because(error);
    let folder = Folder::new().map_err(failed("cannot make a folder"))?;
    let far = match mosquitto {
        Some(program) => start_mosquitto(program, &folder),
        None => start_far(own, &folder),
    };
    let far = far.map_err(failed("cannot start the broker at the far end"))?;
    let uplink = free_port().and_then(|address| Uplink::new(address, far.address));
    let mut uplink = uplink.map_err(failed("cannot relay"))?;
    let mut load = Load::numbered(plan, PATIENCE)?;
    let gateway = start_gateway(own, &folder, plan, &load.filter(), uplink.address, pinning);
    let gateway = gateway.map_err(failed("cannot start the gateway"))?;
    let process = gateway.process();
    let memory = || {
        let memory = process.and_then(Process::memory);
        memory.ok_or_else(|| Failure::failed("the gateway's memory is not told"))
    };
    load.connect(&Address::Tcp(gateway.address), &Address::Tcp(far.address))?;
    let (idle, _) = memory()?;

    let warm_up = (plan.messages / 10).clamp(1, WARM_UP_MAX);
    if load.pass(warm_up)?.count < warm_up {
        return Err(Failure::failed("the bridge does not forward"));
    }
    let live = costed(process, || load.pass(plan.messages.min(LIVE_MAX)))?;
    uplink.cut();
    let queued = costed(process, || load.fill(plan.messages))?;
    let (waiting, _) = memory()?;
    uplink
        .restore()
        .map_err(failed("cannot take up the relay again"))?;
    let drained = costed(process, || load.drain(plan.messages))?;
    let (_, peak) = memory()?;
    load.disconnect()?;
    let (missing, repeated) = load.missing_and_repeated();
    Ok(Outcome {
        live,
        queued,
        drained,
        idle,
        waiting,
        peak,
        missing,
        repeated,
    })
}

/// With what it has cost the gateway.
fn costed(
    process: Option<Process>,
    part: impl FnOnce() -> Result<Passed, Failure>,
) -> Result<(Passed, Cpu), Failure> {
    let before = process.and_then(Process::cpu);
    let passed = part()?;
    let after = process.and_then(Process::cpu);
    let cpu = before.zip(after).map(|(before, after)| {
        after.saturating_sub(before).as_secs_f64() * 1e6 / passed.count.max(1) as f64
    });
    Ok((passed, cpu))
}

// Nothing at either end is so small that it decides, and nothing is forgotten; otherwise both are
// as they are without being told.

fn start_gateway(
    program: &Path,
    folder: &Folder,
    plan: &Plan,
    filter: &str,
    uplink: SocketAddr,
    pinning: Option<&Pinning>,
) -> io::Result<Broker> {
    let address = free_port()?;
    let (clients, folder_path) = (plan.clients + 10, folder.path().display());
    let bytes = (plan.messages * (plan.payload as u64 + BESIDE_PAYLOAD)).max(QUEUE_MIN);
    let text = format!(
        "[gateway]\nname = \"bench\"\ndata_dir = \"{folder_path}/data\"\n\
         [control]\nsocket = \"{folder_path}/gateway.sock\"\n\
         [listener.bench]\nbind = \"{address}\"\n\
         [broker]\nmax_connections = {clients}\nreceive_maximum = 1000\n\
         [bridge.bench]\nurl = \"mqtt://{uplink}\"\nstate_topic = \"\"\n\
         reconnect = {{ min = \"100ms\", max = \"1s\" }}\nreplay_rate = \"unlimited\"\n\
         queue = {{ bytes = \"{}KiB\", age = \"off\" }}\n\
         [[bridge.bench.send]]\nfilter = \"{filter}\"\nqos = 1\nkeep = \"all\"\n",
        bytes.div_ceil(1024),
    );
    let file = folder.written("gateway.toml", &text)?;
    let mut command = Pinning::command(pinning, program);
    command.args(["run", "-q", "--config"]).arg(file);
    Broker::start(&mut command, address, START)
}

fn start_far(program: &Path, folder: &Folder) -> io::Result<Broker> {
    let address = free_port()?;
    let text = format!(
        "[gateway]\nname = \"far\"\n\
         [control]\nsocket = \"{}/far.sock\"\n\
         [listener.bench]\nbind = \"{address}\"\n\
         [broker]\nreceive_maximum = 1000\ninflight_maximum = 65535\nmemory = \"1GiB\"\n\
         queue = {{ messages = 1000000, bytes = \"1GiB\" }}\nqueues = \"1GiB\"\n",
        folder.path().display()
    );
    let file = folder.written("far.toml", &text)?;
    let mut command = Command::new(program);
    command.args(["run", "-q", "--config"]).arg(file);
    Broker::start(&mut command, address, START)
}

fn start_mosquitto(program: &Path, folder: &Folder) -> io::Result<Broker> {
    let address = free_port()?;
    let text = format!(
        "listener {} {}\nallow_anonymous true\npersistence false\nlog_dest none\n\
         max_inflight_messages 0\nmax_queued_messages 0\n",
        address.port(),
        address.ip(),
    );
    let file = folder.written("mosquitto.conf", &text)?;
    let mut command = Command::new(program);
    command.arg("-c").arg(file);
    Broker::start(&mut command, address, START)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(live: u64, drained: u64, waiting: u64, missing: u64) -> Outcome {
        let passed = |count| {
            let elapsed = Duration::from_secs(1);
            (Passed { count, elapsed }, None)
        };
        Outcome {
            live: passed(live),
            queued: passed(1),
            drained: passed(drained),
            idle: 6_000_000,
            waiting,
            peak: waiting,
            missing,
            repeated: 0,
        }
    }

    #[test]
    fn each_of_the_three_can_be_missed() {
        let right = || outcome(1000, 500, 46_000_000, 0);
        assert!(Verdict::of(&[right()]).is_met());
        for wrong in [
            outcome(1000, 499, 46_000_000, 0),
            outcome(1000, 500, 46_000_001, 0),
            outcome(1000, 500, 46_000_000, 1),
        ] {
            let verdict = Verdict::of(&[wrong]);
            assert!(!verdict.is_met());
            assert_eq!(
                verdict.text().matches("MISSED").count(),
                1,
                "{}",
                verdict.text()
            );
        }
        // Of several runs the ratio in the middle, and all that is wrong.
        let runs = [
            right(),
            outcome(1000, 10, 46_000_000, 0),
            outcome(1000, 900, 7_000_000, 0),
        ];
        assert!(Verdict::of(&runs).is_met());
        let runs = [right(), right(), outcome(1000, 900, 46_000_000, 3)];
        assert_eq!(Verdict::of(&runs).missing, 3);
        assert!(!Verdict::of(&runs).is_met());
    }
}
