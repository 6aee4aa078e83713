//! The journal on a real disk: what a record costs there, and what a start does.
//!
//! ```sh
//! cargo bench --bench journal                 # a minute, and 3 GB of the disk
//! cargo bench --bench journal -- bytes strict # some of it: raw speed bytes recovery memory strict
//! cargo bench --bench journal -- day          # eighteen minutes of a typical site
//! ```
//!
//! It works in a folder of its own below `$FIELDGATE_BENCH_FOLDER`, else below the build's, and
//! prints a line for each figure, with its target where there is one; it fails if a target is
//! missed. Bytes that a device has written are told by the device itself if the folder is on a loop
//! device, where nobody else writes; else what is handed to the kernel, padding and all, is taken
//! for them (what the kernel puts down to a process counts whole folios for a block in one):
//!
//! ```sh
//! truncate -s 4G disk.img && mkfs.ext4 disk.img && mkdir disk && sudo mount -o loop disk.img disk
//! ```

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant as Clock};

use fieldgate::buffer::Memory;
use fieldgate::host::disk::Folder;
use fieldgate::id::QueueId;
use fieldgate::journal::disk::{BatchId, DiskCommand, DiskError, DiskEvent, Slot};
use fieldgate::journal::{BLOCK, Class, Event, Journal, Refused, Settings, Summary, Target};
use fieldgate::time::{Instant, Now, WallTime};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use serde_json::Value;

const MIB: u64 = 1 << 20;

/// Bytes of a message.
const BODY: usize = 200;

/// Longer than anything here takes; reaching it is a failure.
const PATIENCE: Duration = Duration::from_secs(60);

/// A part of the bench: whether its targets are met.
type Part = fn(&Place) -> bool;

/// Memory comes first: what others have used and given back would hide it.
const PARTS: [(&str, Part); 7] = [
    ("memory", memory),
    ("raw", raw),
    ("speed", speed),
    ("bytes", bytes),
    ("recovery", recovery),
    ("strict", strict),
    ("day", day),
];

fn main() -> ExitCode {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    if !arguments.iter().any(|argument| argument == "--bench") {
        // Somebody only wants to know whether it can be run.
        return ExitCode::SUCCESS;
    }
    arguments.retain(|argument| !argument.starts_with("--"));
    for argument in &arguments {
        let is_known = PARTS.iter().any(|(name, _)| name == argument);
        assert!(is_known, "there is no {argument}");
    }
    let place = Place::new();
    println!(
        "in {}, device bytes by {}",
        place.path.display(),
        place.source()
    );
    let mut is_right = true;
    for (name, part) in PARTS {
        if (arguments.is_empty() && name != "day")
            || arguments.iter().any(|argument| argument == name)
        {
            is_right &= part(&place);
        }
    }
    if is_right {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Prints a figure; whether it meets its target.
fn at_most(what: &str, value: f64, most: f64) -> bool {
    let is_met = value <= most;
    let word = if is_met { "" } else { ": MISSED" };
    println!("{what}: {value:.2}, at most {most}{word}");
    is_met
}

/// A folder on the disk, gone afterwards.
struct Place {
    path: PathBuf,
    /// Its loop device's counters.
    device: Option<PathBuf>,
}

impl Place {
    fn new() -> Self {
        let base = std::env::var_os("FIELDGATE_BENCH_FOLDER")
            .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
        let path = base.join(format!("journal-{}", std::process::id()));
        fs::create_dir_all(&path).expect("a folder that can be written to");
        let number = fs::metadata(&path).expect("it was just made").dev();
        let (major, minor) = (nix::sys::stat::major(number), nix::sys::stat::minor(number));
        let device = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
        let is_loop = device.join("loop").exists();
        Self {
            path,
            device: is_loop.then(|| device.join("stat")),
        }
    }

    fn source(&self) -> &'static str {
        match self.device {
            Some(_) => "its loop device's counter",
            None => "what is handed to the kernel",
        }
    }

    /// An empty folder in it.
    fn fresh(&self, name: &str) -> PathBuf {
        let path = self.path.join(name);
        let _ = fs::remove_dir_all(&path);
        path
    }

    /// Bytes that have gone to the device so far, if somebody tells.
    fn written(&self) -> Option<u64> {
        let stat = self.device.as_ref()?;
        sync(&self.path);
        let text = fs::read_to_string(stat).expect("the device is there");
        // Sectors of 512 bytes.
        Some(512 * number(text.split_whitespace().nth(6)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

fn number(text: Option<&str>) -> u64 {
    text.and_then(|text| text.trim().parse().ok())
        .expect("a number of the kernel's")
}

/// A journal whose writes a thread does while the next batch fills, as the gateway's worker does.
struct House {
    journal: Journal,
    now: Now,
    started: Clock,
    events: VecDeque<Event>,
    /// Reads wait for nobody.
    reader: Folder,
    commands: Option<Sender<DiskCommand>>,
    done: Receiver<Done>,
    worker: Option<JoinHandle<()>>,
    under_way: usize,
}

/// What the thread has done.
enum Done {
    Opened(Result<Vec<(Slot, u32)>, DiskError>),
    Made(Slot, Result<(), DiskError>),
    Synced(BatchId, Result<(), DiskError>, Vec<u8>),
    Nothing,
}

impl House {
    fn new(folder: &Path, settings: Settings) -> Self {
        let (commands, orders) = channel();
        let (tell, done) = channel();
        let mut disk = Folder::new(folder);
        let worker = thread::spawn(move || {
            for command in orders {
                let done = match disk.perform(command) {
                    Some(DiskEvent::Opened(outcome)) => Done::Opened(outcome),
                    Some(DiskEvent::Made { slot, outcome }) => Done::Made(slot, outcome),
                    Some(DiskEvent::Synced {
                        batch,
                        outcome,
                        bytes,
                    }) => Done::Synced(batch, outcome, bytes),
                    Some(DiskEvent::Read { .. }) | None => Done::Nothing,
                };
                if tell.send(done).is_err() {
                    return;
                }
            }
        });
        Self {
            journal: Journal::new(settings, &Memory::new(usize::MAX)),
            now: Now {
                monotonic: Instant::from_nanos(0),
                wall: WallTime::EARLIEST_PLAUSIBLE,
            },
            started: Clock::now(),
            events: VecDeque::new(),
            reader: Folder::new(folder),
            commands: Some(commands),
            done,
            worker: Some(worker),
            under_way: 0,
        }
    }

    /// One with a recovery behind it.
    fn started(folder: &Path, settings: Settings) -> (Self, Summary) {
        let mut house = Self::new(folder, settings);
        loop {
            house.turn(false);
            while let Some(event) = house.events.pop_front() {
                match event {
                    Event::RecoveryDone(summary) => return (house, summary),
                    Event::Unusable(why) => panic!("{why:?}"),
                    _ => {}
                }
            }
            assert!(house.under_way > 0, "it waits for nothing");
            house.wait();
        }
    }

    fn tick(&mut self) {
        self.now.monotonic = Instant::from_nanos(self.started.elapsed().as_nanos() as u64);
    }

    /// What the gateway does in a turn; with `wait` at least one of the disk's answers.
    fn turn(&mut self, wait: bool) {
        self.tick();
        self.journal.end_turn(self.now);
        self.collect();
        if wait && self.under_way > 0 {
            self.wait();
        }
        while let Ok(done) = self.done.try_recv() {
            self.take(done);
        }
    }

    fn wait(&mut self) {
        let done = self.done.recv_timeout(PATIENCE).expect("the disk answers");
        self.take(done);
    }

    fn take(&mut self, done: Done) {
        self.under_way -= 1;
        let event = match done {
            Done::Opened(outcome) => DiskEvent::Opened(outcome),
            Done::Made(slot, outcome) => DiskEvent::Made { slot, outcome },
            Done::Synced(batch, outcome, bytes) => DiskEvent::Synced {
                batch,
                outcome,
                bytes,
            },
            Done::Nothing => return,
        };
        self.tick();
        self.journal.handle_disk(self.now, event);
        self.collect();
    }

    fn collect(&mut self) {
        loop {
            while let Some(event) = self.journal.poll_event() {
                if let Event::CommitFailed(error) = &event {
                    panic!("{error}");
                }
                self.events.push_back(event);
            }
            let Some(command) = self.journal.poll_command() else {
                return;
            };
            if matches!(command, DiskCommand::Read { .. }) {
                if let Some(event) = self.reader.perform(command) {
                    self.journal.handle_disk(self.now, event);
                }
            } else if let Some(commands) = &self.commands {
                commands.send(command).expect("the thread is there");
                self.under_way += 1;
            }
        }
    }

    /// Until everything is synced.
    fn settle(&mut self) {
        let asked = Clock::now();
        while self.journal.synced() < self.journal.last() || self.under_way > 0 {
            self.turn(true);
            assert!(asked.elapsed() < PATIENCE, "{:?}", self.journal.stats());
        }
    }

    fn queue(&mut self) -> QueueId {
        let id = self.journal.new_queue_id();
        let made = self.journal.make_queue(self.now, id, Class::Strict);
        made.expect("there is room");
        self.settle();
        id
    }

    fn enqueue(&mut self, queue: QueueId, body: &[u8]) -> Result<u64, Refused> {
        let target = [Target::Queue { queue, note: b"" }];
        let journal = &mut self.journal;
        journal.append(self.now, &target, &[body], Class::Strict)?;
        Ok(journal.sequences()[0])
    }
}

impl Drop for House {
    fn drop(&mut self) {
        drop(self.commands.take());
        if let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
    }
}

/// How often a second this disk can sync so many bytes of a file that is all there, one after the
/// other as in a segment, for a second: a disk is not the same from one moment to the next.
fn raw_syncs(place: &Path, len: u64) -> f64 {
    const FOR: Duration = Duration::from_secs(1);
    let path = place.join("raw");
    let file = File::create(&path).expect("a file");
    let bytes = vec![7; len as usize];
    let places = (32 * MIB / len).max(1);
    for at in 0..places {
        file.write_all_at(&bytes, at * len).expect("room");
    }
    file.sync_all().expect("a sync");
    let started = Clock::now();
    let mut count = 0;
    while started.elapsed() < FOR {
        file.write_all_at(&bytes, count % places * len)
            .expect("room");
        file.sync_data().expect("a sync");
        count += 1;
    }
    let elapsed = started.elapsed();
    let _ = fs::remove_file(&path);
    count as f64 / elapsed.as_secs_f64()
}

fn raw(place: &Place) -> bool {
    let raw = raw_syncs(&place.path, BLOCK.into());
    println!("raw: {raw:.0} fdatasyncs of a block a second");
    true
}

/// Messages of 200 bytes through a queue, so many of them under way.
fn speed(place: &Place) -> bool {
    let settings = Settings {
        size: 64 * MIB,
        segment: 4 * MIB as u32,
    };
    for outstanding in [1, 20, 100, 1000] {
        let (mut house, _) = House::started(&place.fresh("speed"), settings);
        let queue = house.queue();
        let before = house.journal.stats().clone();
        let started = Clock::now();
        let (mut count, mut consumed) = (0, 0);
        while started.elapsed() < Duration::from_secs(3) {
            let waiting = house.journal.last().0 - house.journal.synced().0;
            for _ in waiting..outstanding {
                count = house.enqueue(queue, &[7; BODY]).expect("there is room");
            }
            house.turn(true);
            let synced = count - (house.journal.last().0 - house.journal.synced().0).min(count);
            while consumed < synced {
                consumed += 1;
                house.journal.consume(house.now, queue, consumed);
            }
        }
        let elapsed = started.elapsed().as_secs_f64();
        house.settle();
        let commits = house.journal.stats().commits - before.commits;
        println!(
            "speed, {outstanding} outstanding: {:.0} records a second, {:.0} commits a second, \
             {:.1} records a commit",
            count as f64 / elapsed,
            commits as f64 / elapsed,
            count as f64 / commits as f64,
        );
    }
    true
}

/// In files that have been written before, as a journal's are after its first round.
fn bytes(place: &Place) -> bool {
    const COMMITS: u64 = 1000;
    let settings = Settings {
        size: 24 * MIB,
        segment: 4 * MIB as u32,
    };
    let mut is_right = true;
    for (each, most) in [(1, 22.0), (20, 2.5), (100, 1.5)] {
        let (mut house, _) = House::started(&place.fresh("bytes"), settings);
        let queue = house.queue();
        let mut last = 0;
        let mut commit = |house: &mut House, each: u64| {
            for _ in 0..each {
                last = house.enqueue(queue, &[7; BODY]).expect("there is room");
            }
            house.settle();
            for sequence in last + 1 - each..=last {
                house.journal.consume(house.now, queue, sequence);
            }
        };
        // Until every file has been made and filled.
        while house.journal.stats().segments_begun <= 2 * u64::from(house.journal.stats().segments)
        {
            commit(&mut house, 5000);
        }
        let (before, start) = (place.written(), house.journal.stats().bytes_written);
        for _ in 0..COMMITS {
            commit(&mut house, each);
        }
        let handed = house.journal.stats().bytes_written - start;
        let written = place.written().zip(before);
        let written = written.map_or(handed, |(after, before)| after - before);
        let payload = (COMMITS * each) as f64 * BODY as f64;
        let what = format!("bytes, {each} a commit: written for each of payload");
        is_right &= at_most(&what, written as f64 / payload, most);
    }
    is_right
}

/// What is still in the kernel's memory goes to the device, so that it is counted.
fn sync(place: &Path) {
    let folder = File::open(place).expect("it is there");
    nix::unistd::syncfs(&folder).expect("a sync");
}

fn recovery(place: &Place) -> bool {
    let settings = Settings {
        size: 256 * MIB,
        segment: 4 * MIB as u32,
    };
    let folder = place.fresh("recovery");
    let (mut house, _) = House::started(&folder, settings);
    let queue = house.queue();
    'full: loop {
        for _ in 0..5000 {
            if house.enqueue(queue, &[7; BODY]).is_err() {
                break 'full;
            }
        }
        house.settle();
    }
    drop(house);
    for is_cold in [true, false] {
        if is_cold {
            forget(&folder.join("journal"));
        }
        let started = Clock::now();
        let (house, summary) = House::started(&folder, settings);
        let took = started.elapsed().as_secs_f64();
        println!(
            "recovery, {}: {took:.2} s for {} MiB, {} records, {} entries",
            if is_cold {
                "from the disk"
            } else {
                "from memory"
            },
            summary.bytes / MIB,
            summary.records,
            summary.entries,
        );
        drop(house);
    }
    true
}

/// The kernel keeps nothing of these files in memory.
fn forget(folder: &Path) {
    for entry in fs::read_dir(folder).expect("it is there") {
        let file = File::open(entry.expect("a file").path()).expect("it can be read");
        posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).expect("advice");
    }
}

/// Bytes of this process that are resident.
fn resident() -> u64 {
    let text = fs::read_to_string("/proc/self/statm").expect("Linux counts memory");
    4096 * number(text.split_whitespace().nth(1))
}

fn memory(place: &Place) -> bool {
    const ENTRIES: u64 = 10_000_000;
    let settings = Settings {
        size: 2048 * MIB,
        segment: 4 * MIB as u32,
    };
    let folder = place.fresh("memory");
    let (mut house, _) = House::started(&folder, settings);
    let queue = house.queue();
    let idle = resident();
    let started = Clock::now();
    let mut count = 0;
    while count < ENTRIES {
        count = house.enqueue(queue, &[7; 64]).expect("there is room");
        if count.is_multiple_of(2000) {
            house.turn(false);
            if house.journal.stats().unsynced as u64 > MIB {
                house.turn(true);
            }
        }
    }
    house.settle();
    let queued = resident().saturating_sub(idle);
    println!(
        "memory, ten million queued: {:.1} s to write, {:.1} MB by the journal's own account",
        started.elapsed().as_secs_f64(),
        house.journal.stats().memory as f64 / 1e6,
    );
    let what = "memory, ten million queued: MB resident above idle";
    let mut is_right = at_most(what, queued as f64 / 1e6, 40.0);
    drop(house);
    let (house, summary) = House::started(&folder, settings);
    assert_eq!(summary.entries, ENTRIES);
    let after = resident().saturating_sub(idle);
    let what = "memory, the same after a start: MB resident above idle";
    is_right &= at_most(what, after as f64 / 1e6, 40.0);
    drop(house);
    let _ = fs::remove_dir_all(&folder);
    is_right
}

/// The gateway, ended with this value.
struct Gateway {
    child: Ended,
    socket: PathBuf,
    port: String,
}

impl Gateway {
    /// With these tables besides its listener and control socket.
    fn start(folder: &Path, tables: &str) -> Self {
        fs::create_dir_all(folder).expect("a folder");
        let socket = folder.join("control.sock");
        let text = format!(
            "[gateway]\nname = \"bench\"\ndata_dir = \"{}\"\n[listener.bench]\n\
             bind = \"127.0.0.1:0\"\n[control]\nsocket = \"{}\"\n{tables}",
            folder.join("data").display(),
            socket.display(),
        );
        let file = folder.join("fieldgate.toml");
        fs::write(&file, text).expect("room");
        let mut child = Command::new(env!("CARGO_BIN_EXE_fieldgate"))
            .args(["run", "--config"])
            .arg(&file)
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program");
        let said = child.stderr.take().expect("a pipe");
        let mut lines = BufReader::new(said).lines();
        let port = lines
            .by_ref()
            .map_while(Result::ok)
            .find(|line| line.contains("listening name=bench"))
            .and_then(|line| line.rsplit(':').next().map(str::to_owned))
            .expect("it listens");
        thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        Self {
            child: Ended(child),
            socket,
            port,
        }
    }

    /// What it says of itself.
    fn status(&self) -> Value {
        let mut stream = UnixStream::connect(&self.socket).expect("its control socket");
        let request = b"{\"verb\":\"status\"}\n";
        stream.write_all(request).expect("it reads");
        let mut line = String::new();
        let mut answers = BufReader::new(&stream);
        answers.read_line(&mut line).expect("it answers");
        let mut answer: Value = serde_json::from_str(&line).expect("JSON");
        answer["data"].take()
    }

    /// A counter of its journal's.
    fn counter(&self, name: &str) -> u64 {
        let counter = &self.status()["journal"][name];
        counter.as_u64().expect("it has a journal")
    }

    /// What it has done by now.
    fn sample(&self) -> Sample {
        let status = self.status();
        let at = Clock::now();
        let of = |machine: &str, name: &str| status[machine][name].as_u64().expect("a counter");
        let begun = of("journal", "segments_begun");
        let process = self.child.0.id();
        let (mut all, mut the_loop) = (Duration::ZERO, (Duration::ZERO, Duration::ZERO));
        for (thread, used) in threads(process) {
            all += used.0;
            if thread == process {
                the_loop = used;
            }
        }
        Sample {
            at,
            messages: of("broker", "publishes_received"),
            turns: of("host", "turns"),
            // The header of a segment is a commit too, and no batch.
            batches: of("journal", "commits") - begun,
            bytes: of("journal", "bytes_written") - begun * u64::from(BLOCK),
            cpu: all,
            the_loop,
        }
    }
}

/// Counters of a gateway at one moment.
struct Sample {
    at: Clock,
    messages: u64,
    turns: u64,
    batches: u64,
    /// Of batches, with what fills their last blocks.
    bytes: u64,
    /// Of all its threads.
    cpu: Duration,
    /// How long its loop had a processor, and how long it waited for one.
    the_loop: (Duration, Duration),
}

/// The threads of a process: how long each had a processor, and how long it waited for one.
fn threads(process: u32) -> Vec<(u32, (Duration, Duration))> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).expect("it is there");
    let threads = tasks.map(|task| {
        let task = task.expect("a thread");
        // One that ends meanwhile has used nothing that matters here.
        let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        let mut nanos = text
            .split_whitespace()
            .map(|word| Duration::from_nanos(number(Some(word))));
        let mut next = || nanos.next().unwrap_or_default();
        let used = (next(), next());
        (number(task.file_name().to_str()) as u32, used)
    });
    threads.collect()
}

/// Leaves a journal with all its files there and nothing in them, as one in its second round has it.
fn made(folder: &Path) {
    let settings = Settings {
        size: 512 * MIB,
        segment: 4 * MIB as u32,
    };
    fs::create_dir_all(folder).expect("a folder");
    let (mut house, _) = House::started(folder, settings);
    let queue = house.queue();
    'full: loop {
        for _ in 0..100 {
            if house.enqueue(queue, &[7; 10_000]).is_err() {
                break 'full;
            }
        }
        house.settle();
    }
    house.settle();
    house.journal.drop_queue(house.now, queue, Class::Strict);
    house.settle();
}

/// Fifty clients at QoS 1 with twenty messages each under way, for a session that is away.
///
/// Everything is measured in one stretch of time in which the load runs at full speed, by the
/// gateway's own counters: from when it has warmed up to shortly before its end. Only batches
/// count as commits. The raw figure is of writes as long as the batches of that round.
///
/// Besides, what the processors had to do with it: the loop is the limit if it had one or waited
/// for one all the time.
fn strict(place: &Place) -> bool {
    const CLIENTS: u64 = 50;
    const IN_FLIGHT: u64 = 20;
    // What the load sends before it measures.
    const WARM_UP: u64 = 5000;
    const MESSAGES: u64 = 100_000;
    const ROUNDS: usize = 7;
    let folder = place.fresh("strict");
    made(&folder.join("data"));
    let tables = "[journal]\nsize = \"512MiB\"\n[broker]\nmemory = \"1GiB\"\nqueues = \"1GiB\"\n\
                  queue = { messages = 10000000, bytes = \"1GiB\" }\n";
    let gateway = Gateway::start(&folder, tables);
    let load = || -> (Sample, Sample, f64) {
        let before = gateway.sample().messages;
        let child = Command::new(env!("CARGO_BIN_EXE_fieldgate"))
            .args(["bench", "--json", "--host", "127.0.0.1"])
            .args(["--port", &gateway.port])
            .args(["--workload", "queue", "--qos", "1"])
            .args(["--clients", &CLIENTS.to_string()])
            .args(["--window", &(CLIENTS * IN_FLIGHT).to_string()])
            .args(["--payload", &BODY.to_string()])
            .args(["--messages", &MESSAGES.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program");
        let asked = Clock::now();
        let reached = |messages: u64| loop {
            let sample = gateway.sample();
            if sample.messages >= before + messages {
                return sample;
            }
            assert!(asked.elapsed() < PATIENCE, "it stands still");
            thread::sleep(Duration::from_millis(10));
        };
        let first = reached(2 * WARM_UP);
        let last = reached(MESSAGES - WARM_UP);
        let output = child.wait_with_output().expect("it ends");
        assert!(output.status.success());
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let report = &report[0];
        assert_eq!(report["lost"], 0, "{report:#}");
        let cpu = report["own_cpu_ns"].as_f64().expect("a figure") / 1e9;
        (first, last, cpu / MESSAGES as f64)
    };
    // The first shows how large a batch is.
    let (first, last, _) = load();
    let len = |first: &Sample, last: &Sample| {
        let batches = (last.batches - first.batches).max(1);
        ((last.bytes - first.bytes) / batches).next_multiple_of(BLOCK.into())
    };
    // A disk that others use as well is not the same from one second to the next.
    let mut parts = Vec::new();
    let mut before = raw_syncs(&place.path, len(&first, &last));
    for _ in 0..ROUNDS {
        let (first, last, own) = load();
        let len = len(&first, &last);
        let after = raw_syncs(&place.path, len);
        let raw = f64::midpoint(before, after);
        let seconds = last.at.duration_since(first.at).as_secs_f64();
        let messages = (last.messages - first.messages) as f64;
        let batches = (last.batches - first.batches).max(1) as f64;
        let (rate, batch) = (messages / seconds, messages / batches);
        let part = rate / (raw * batch);
        println!(
            "strict, {CLIENTS} clients, {IN_FLIGHT} in flight each: {rate:.0} messages a second, \
             {batch:.0} a batch; raw {raw:.0} fdatasyncs of {len} bytes a second: {part:.2}"
        );
        let ran = last
            .the_loop
            .0
            .saturating_sub(first.the_loop.0)
            .as_secs_f64();
        let waited = last
            .the_loop
            .1
            .saturating_sub(first.the_loop.1)
            .as_secs_f64();
        let all = last.cpu.saturating_sub(first.cpu).as_secs_f64();
        let micros = |seconds: f64| seconds * 1e6 / messages;
        println!(
            "  the loop had a processor {:.0} % of the time and waited for one {:.0} %, {:.0} \
             messages a turn; microseconds a message: loop {:.1}, disk {:.1}, load {:.1}: with a \
             processor to itself the loop would take {:.0} a second",
            100.0 * ran / seconds,
            100.0 * waited / seconds,
            messages / (last.turns - first.turns).max(1) as f64,
            micros(ran),
            micros(all - ran),
            own * 1e6,
            messages / ran,
        );
        parts.push(part);
        before = after;
    }
    parts.sort_by(f64::total_cmp);
    let part = parts[parts.len() / 2];
    let is_met = part >= 0.5;
    let word = if is_met { "" } else { ": MISSED" };
    println!("strict: {part:.2} of raw fdatasyncs times the mean batch, at least 0.5{word}");
    is_met
}

/// A typical site: every ten seconds fifty values that are new, and for a panel whose session stays
/// a command a minute at QoS 1. What its journal writes in a day, and how many years a card lasts.
fn day(place: &Place) -> bool {
    const MINUTES: u32 = 5;
    // Of a small card, carefully: 32 GB, 500 times erased, ten bytes inside for one that is given.
    const CARD: f64 = 32e9 * 500.0 / 10.0;
    // Of five points each a third stays as it is.
    let temperature = place.path.join("temperature");
    fs::write(&temperature, "45123\n").expect("room");
    let devices: Vec<String> = (0..15)
        .map(|at| {
            format!(
                "[device.machine{at}]\ndriver = \"system\"\ntemperature = \"{}\"\n",
                temperature.display()
            )
        })
        .collect();
    let devices = devices.concat();
    for within in ["1s", "10s", "60s"] {
        let tables = format!(
            "[gateway.defaults]\nevery = \"10s\"\n[journal]\nsize = \"64MiB\"\n\
             sync_within = \"{within}\"\n{devices}"
        );
        let gateway = Gateway::start(&place.fresh("day"), &tables);
        let run = |arguments: &[&str]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_fieldgate"));
            command.arg(arguments[0]).args(["-p", &gateway.port]);
            command.args(&arguments[1..]);
            command.stdin(Stdio::null()).stdout(Stdio::null());
            command.spawn().expect("the program")
        };
        let panel = ["sub", "-c", "-i", "panel", "-q", "1", "-t", "panel/#"];
        let mut panel = Ended(run(&panel));
        // Files are made in the first minute, and what is new is retained.
        thread::sleep(Duration::from_secs(60));
        let (before, commits) = (place.written(), gateway.counter("commits"));
        let handed = gateway.counter("bytes_written");
        let started = Clock::now();
        for minute in 1..=MINUTES {
            let mut press = Ended(run(&["pub", "-q", "1", "-t", "panel/x", "-m", "on"]));
            assert!(press.0.wait().expect("it ends").success());
            let next = started + minute * Duration::from_secs(60);
            thread::sleep(next.saturating_duration_since(Clock::now()));
        }
        let days = started.elapsed().as_secs_f64() / 86_400.0;
        assert!(panel.0.try_wait().expect("it can be asked").is_none());
        let handed = (gateway.counter("bytes_written") - handed) as f64 / days;
        let device = place.written().zip(before);
        let device = device.map_or(handed, |(after, before)| (after - before) as f64 / days);
        println!(
            "day, sync_within {within}: {:.0} commits, {:.0} MB handed to the kernel, {:.0} MB \
             written: {:.1} years",
            (gateway.counter("commits") - commits) as f64 / days,
            handed / 1e6,
            device / 1e6,
            CARD / device / 365.0,
        );
    }
    true
}

/// A process that ends with this value.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
