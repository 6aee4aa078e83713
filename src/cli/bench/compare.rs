//! `bench compare`: this broker against mosquitto on the same machine, in the same minutes.
//!
//! Both are started fresh for every plan, on loopback, without persistence, pinned to the same CPU
//! if `taskset` is there; this process moves to another one. The plans are run in turn, first one
//! broker, then the other, so that a machine that changes its speed changes it for both.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use serde_json::{Value, json};

use super::load::{self, Outcome, Plan};
use super::process::Process;
use super::{Options, report};
use crate::cli::client::random_id;
use crate::cli::{Failure, code, output};
use crate::host::dial::Address;
use crate::time::Duration;

/// How long a broker may take until it accepts connections.
const START: Duration = Duration::from_secs(10);

/// Between two looks whether it does.
const LOOK: Duration = Duration::from_millis(20);

/// Folders of system programs, which are not in everybody's path.
const SYSTEM_FOLDERS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

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
    let folder = Folder::new()?;
    let mut results = Vec::new();
    for plan in options.plans() {
        let ours = measure(&plan, &folder, Kind::Fieldgate(&own), pinning.as_ref())?;
        let theirs = measure(
            &plan,
            &folder,
            Kind::Mosquitto(&mosquitto),
            pinning.as_ref(),
        )?;
        if !options.json {
            output::print(&text(&plan, &ours, &theirs))?;
        }
        results.push(as_json(&plan, &ours, &theirs));
    }
    if options.json {
        output::print_json(&Value::Array(results))?;
    }
    Ok(code::DONE)
}

fn text(plan: &Plan, ours: &Outcome, theirs: &Outcome) -> String {
    let cell = |value: Option<f64>, digits: usize| {
        value.map_or_else(|| "?".to_owned(), |value| format!("{value:.digits$}"))
    };
    let row = |name: &str, ours: Option<f64>, theirs: Option<f64>, digits| {
        let ratio = ours.zip(theirs).map(|(ours, theirs)| ours / theirs);
        vec![
            name.to_owned(),
            cell(ours, digits),
            cell(theirs, digits),
            cell(ratio, 2),
        ]
    };
    let millis =
        |outcome: &Outcome, per_mille| Some(outcome.latency.percentile(per_mille) as f64 / 1e6);
    let rss = |outcome: &Outcome| outcome.broker_memory.map(|(_, peak)| report::mib(peak));
    let head = ["", "fieldgate", "mosquitto", "ratio"];
    let rows = [
        head.map(str::to_owned).to_vec(),
        row(
            "CPU s per million",
            ours.cpu_per_million(),
            theirs.cpu_per_million(),
            3,
        ),
        row(
            "deliveries/s",
            Some(ours.throughput()),
            Some(theirs.throughput()),
            0,
        ),
        row("p50 ms", millis(ours, 500), millis(theirs, 500), 3),
        row("p99 ms", millis(ours, 990), millis(theirs, 990), 3),
        row("p99.9 ms", millis(ours, 999), millis(theirs, 999), 3),
        row("peak RSS MiB", rss(ours), rss(theirs), 1),
        row("lost", Some(ours.lost as f64), Some(theirs.lost as f64), 0),
    ];
    format!(
        "{}\n{}\n",
        report::title(plan),
        output::columns(&rows, "  ")
    )
}

fn as_json(plan: &Plan, ours: &Outcome, theirs: &Outcome) -> Value {
    let ratio = ours
        .cpu_per_million()
        .zip(theirs.cpu_per_million())
        .map(|(ours, theirs)| ours / theirs);
    json!({
        "fieldgate": report::json(plan, ours),
        "mosquitto": report::json(plan, theirs),
        "cpu_ratio": ratio,
    })
}

/// A broker of the comparison, and its program.
#[derive(Debug, Clone, Copy)]
enum Kind<'a> {
    Fieldgate(&'a Path),
    Mosquitto(&'a Path),
}

impl Kind<'_> {
    const fn name(self) -> &'static str {
        match self {
            Self::Fieldgate(_) => "fieldgate",
            Self::Mosquitto(_) => "mosquitto",
        }
    }
}

fn measure(
    plan: &Plan,
    folder: &Folder,
    kind: Kind<'_>,
    pinning: Option<&Pinning>,
) -> Result<Outcome, Failure> {
    let broker = Broker::start(kind, folder, pinning)?;
    let plan = Plan {
        broker: Process::new(broker.child.id()),
        ..plan.clone()
    };
    load::run(&plan, &Address::Tcp(broker.address))
}

/// A broker that lives as long as this value.
struct Broker {
    child: Child,
    address: SocketAddr,
}

impl Broker {
    fn start(kind: Kind<'_>, folder: &Folder, pinning: Option<&Pinning>) -> Result<Self, Failure> {
        let name = kind.name();
        let failed =
            |error: io::Error| Failure::failed(format!("cannot start {name}")).because(error);
        let address = free_port().map_err(failed)?;
        let file = folder.0.join(name);
        fs::write(&file, configuration(kind, address, &folder.0)).map_err(failed)?;
        let (program, arguments): (&Path, Vec<&std::ffi::OsStr>) = match kind {
            Kind::Fieldgate(program) => (
                program,
                vec![
                    "run".as_ref(),
                    "-q".as_ref(),
                    "--config".as_ref(),
                    file.as_os_str(),
                ],
            ),
            Kind::Mosquitto(program) => (program, vec!["-c".as_ref(), file.as_os_str()]),
        };
        let mut command = match pinning {
            // It becomes the program, so the process is the broker's own.
            Some(pinning) => {
                let mut command = Command::new(&pinning.taskset);
                command.args(["-c", &pinning.broker_cpu]).arg(program);
                command
            }
            None => Command::new(program),
        };
        let child = command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(failed)?;
        let mut broker = Self { child, address };
        broker.wait_until_it_listens(name)?;
        Ok(broker)
    }

    fn wait_until_it_listens(&mut self, name: &str) -> Result<(), Failure> {
        let mut waited = Duration::ZERO;
        while waited < START {
            if TcpStream::connect(self.address).is_ok() {
                return Ok(());
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(Failure::failed(format!("{name} ended at once: {status}")));
            }
            thread::sleep(LOOK);
            waited += LOOK;
        }
        Err(Failure::failed(format!("{name} does not listen")))
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // One that has ended by itself cannot be killed, and need not be.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The same for both, in each one's own words: loopback, everybody may come, nothing is kept.
fn configuration(kind: Kind<'_>, address: SocketAddr, folder: &Path) -> String {
    match kind {
        Kind::Fieldgate(_) => format!(
            "[gateway]\nname = \"bench\"\n[listener.bench]\nbind = \"{address}\"\n\
             [control]\nsocket = \"{}\"\n",
            folder.join("control.sock").display()
        ),
        Kind::Mosquitto(_) => format!(
            "listener {} {}\nallow_anonymous true\npersistence false\nlog_dest none\n\
             set_tcp_nodelay true\nmax_queued_messages 10000\n",
            address.port(),
            address.ip()
        ),
    }
}

/// A port that was free a moment ago.
fn free_port() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

/// Which CPU is whose.
struct Pinning {
    taskset: PathBuf,
    broker_cpu: String,
}

impl Pinning {
    /// Moves this process to the last CPU and leaves the first for the brokers. `None` if there is
    /// one CPU or no way of doing it.
    fn find() -> Option<Self> {
        let taskset = find("taskset")?;
        let count = thread::available_parallelism().ok()?.get();
        if count < 2 {
            return None;
        }
        let moved = Command::new(&taskset)
            .args(["-a", "-p", "-c", &(count - 1).to_string()])
            .arg(std::process::id().to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .ok()?;
        moved.success().then(|| Self {
            taskset,
            broker_cpu: "0".to_owned(),
        })
    }
}

/// A program in the path, or where system programs are.
fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(SYSTEM_FOLDERS.iter().map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// A folder for the two configurations, gone afterwards.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self, Failure> {
        let path = std::env::temp_dir().join(random_id("bench"));
        fs::create_dir(&path).map_err(|error| {
            Failure::failed(format!("cannot make the folder {}", path.display())).because(error)
        })?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed from the system's own folder for such things is removed by it.
        let _ = fs::remove_dir_all(&self.0);
    }
}
