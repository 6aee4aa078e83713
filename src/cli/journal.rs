//! `fieldgate journal inspect`: what a journal, or a copy of one, holds.
//!
//! Files are opened for reading only, and nothing is locked: a journal in use can be looked at,
//! although what is being written meanwhile may look torn. What is *written* is what a walk over
//! the segments of the log finds. What is *live* is what a start would bring back: the journal's
//! own recovery, on a disk that takes no command but reads.

use core::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write as _};
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use lexopt::Parser;
use serde::ser::{Error as _, SerializeSeq};
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use super::failure::output_failed;
use super::{Argument, Failure, Globals, code, help, other_argument, output};
use crate::broker::keep::{DescribedMessage, Description, KeyKind, describe};
use crate::buffer::{Memory, Payload};
use crate::gateway::key_name;
use crate::host::disk::{read_up_to, slot_of};
use crate::id::QueueId;
use crate::journal::disk::{DiskCommand, DiskError, DiskEvent, Slot};
use crate::journal::{
    self, Found, FoundTarget, Journal, Key, QueueState, Recovered, Unusable, inspect,
};
use crate::time::{Instant, Now, WallTime};

/// Of a longer file only so much is looked at: no configuration makes one.
const SEGMENT_MAX: u64 = 512 << 20;

pub(crate) fn run(mut parser: Parser, mut globals: Globals) -> Result<u8, Failure> {
    let (mut is_inspect, mut path) = (false, None);
    let (mut records, mut payloads) = (false, false);
    while let Some(argument) = Argument::next(&mut parser)? {
        match argument {
            Argument::Value(word) if !is_inspect => {
                if word != "inspect" {
                    let word = word.to_string_lossy();
                    return Err(Failure::usage(format!(
                        "journal has no `{word}`, but inspect"
                    )));
                }
                is_inspect = true;
            }
            Argument::Value(value) if path.is_none() => path = Some(PathBuf::from(value)),
            Argument::Long(option) if option == "records" => records = true,
            Argument::Long(option) if option == "payloads" => payloads = true,
            other => {
                if let Some(code) = other_argument(other, &mut parser, &mut globals, help::JOURNAL)?
                {
                    return Ok(code);
                }
            }
        }
    }
    let Some(path) = path.filter(|_| is_inspect) else {
        return Err(Failure::usage("journal inspect wants a PATH"));
    };
    let journal = Inspected::read(&path)?;
    let listed = (records || payloads).then_some(Records {
        segments: &journal.segments,
        payloads,
    });
    let mut out = BufWriter::new(io::stdout().lock());
    let printed = if globals.json {
        print_json(&journal, listed.as_ref(), &mut out)
    } else {
        print_text(&journal, listed.as_ref(), &mut out)
    };
    printed.and_then(|()| out.flush()).map_err(output_failed)?;
    Ok(code::DONE)
}

/// How many of each: every target of a record is counted by itself.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
struct Counts {
    sessions: u64,
    subscriptions: u64,
    queue_entries: u64,
    retained: u64,
    wills: u64,
    received: u64,
    sent: u64,
    /// Values of keys that this program gives no meaning.
    others: u64,
    /// Keys that have ended.
    deletions: u64,
    /// Cursors of queues.
    queue_states: u64,
    queues_dropped: u64,
    /// Lists of the places of a queue's entries.
    blocks: u64,
}

impl Counts {
    fn key(&mut self, key: Key) {
        *match KeyKind::from_u8(key.kind) {
            Some(KeyKind::Session) => &mut self.sessions,
            Some(KeyKind::Subscription) => &mut self.subscriptions,
            Some(KeyKind::Received | KeyKind::Brought) => &mut self.received,
            Some(KeyKind::Sent) => &mut self.sent,
            Some(KeyKind::Retained) => &mut self.retained,
            Some(KeyKind::Will) => &mut self.wills,
            Some(KeyKind::Estate) | None => &mut self.others,
        } += 1;
    }

    fn found(&mut self, found: &Found<'_>) {
        match found {
            Found::Data { targets, .. } => {
                for target in targets {
                    match target {
                        FoundTarget::Key(key, _) => self.key(*key),
                        FoundTarget::Entry(..) => self.queue_entries += 1,
                    }
                }
            }
            Found::Delete { .. } => self.deletions += 1,
            Found::Queue { .. } => self.queue_states += 1,
            Found::Dropped { .. } => self.queues_dropped += 1,
            Found::Block { .. } => self.blocks += 1,
            _ => {}
        }
    }

    fn add(&mut self, other: &Self) {
        self.sessions += other.sessions;
        self.subscriptions += other.subscriptions;
        self.queue_entries += other.queue_entries;
        self.retained += other.retained;
        self.wills += other.wills;
        self.received += other.received;
        self.sent += other.sent;
        self.others += other.others;
        self.deletions += other.deletions;
        self.queue_states += other.queue_states;
        self.queues_dropped += other.queues_dropped;
        self.blocks += other.blocks;
    }

    fn rows(&self) -> [(&'static str, u64); 12] {
        [
            ("sessions", self.sessions),
            ("subscriptions", self.subscriptions),
            ("queue entries", self.queue_entries),
            ("retained", self.retained),
            ("wills", self.wills),
            ("received", self.received),
            ("sent", self.sent),
            ("others", self.others),
            ("deletions", self.deletions),
            ("queue states", self.queue_states),
            ("queues dropped", self.queues_dropped),
            ("blocks", self.blocks),
        ]
    }
}

/// What a segment is to the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    /// A part of the log.
    Log,
    /// What is in it was copied forward or has ended; it waits to be used again.
    Over,
    /// Not used yet.
    Free,
    /// Its first block is not what was written.
    NoHeader,
    /// Of a newer program.
    NewerVersion,
}

impl State {
    const fn name(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Over => "over",
            Self::Free => "free",
            Self::NoHeader => "no header",
            Self::NewerVersion => "newer version",
        }
    }
}

/// A place that is not what was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Bad {
    file: String,
    offset: u32,
    /// It had been synced. Otherwise it was being written when the power failed, or is now.
    is_damage: bool,
}

/// One file.
#[derive(Debug, Serialize)]
struct Segment {
    file: String,
    #[serde(skip)]
    path: PathBuf,
    slot: Option<u32>,
    state: State,
    /// `None` where no header says.
    version: Option<u32>,
    epoch: Option<u64>,
    sequence: Option<u64>,
    #[serde(skip)]
    held: Vec<u32>,
    /// Of the file, in bytes.
    size: u64,
    /// From its beginning, in bytes.
    used: u32,
    batches: u64,
    records: u64,
    #[serde(flatten)]
    counts: Counts,
    #[serde(skip)]
    bad: Vec<Bad>,
}

impl Segment {
    fn read(path: &Path, slot: Option<Slot>) -> Result<Self, Failure> {
        let (bytes, size) = read(path).map_err(|error| cannot_read(path, error))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let file = name.into_owned();
        let mut segment = Self {
            file: file.clone(),
            path: path.to_owned(),
            slot: slot.map(|slot| slot.0),
            state: State::Log,
            version: None,
            epoch: None,
            sequence: None,
            held: Vec::new(),
            size,
            used: 0,
            batches: 0,
            records: 0,
            counts: Counts::default(),
            bad: Vec::new(),
        };
        inspect(&bytes, &mut |found| {
            segment.counts.found(&found);
            match found {
                Found::Segment {
                    epoch,
                    sequence,
                    held,
                } => {
                    segment.version = Some(journal::VERSION);
                    segment.epoch = Some(epoch);
                    segment.sequence = Some(sequence);
                    segment.held = held;
                }
                Found::NoHeader => {
                    let head = &bytes[..bytes.len().min(journal::BLOCK as usize)];
                    segment.state = if head.iter().all(|byte| *byte == 0) {
                        State::Free
                    } else {
                        State::NoHeader
                    };
                }
                Found::NewerVersion(version) => {
                    segment.version = Some(version);
                    segment.state = State::NewerVersion;
                }
                Found::Batch { .. } => segment.batches += 1,
                Found::Bad { offset, proven } => segment.bad.push(Bad {
                    file: file.clone(),
                    offset,
                    is_damage: proven,
                }),
                Found::End { used } => segment.used = used,
                Found::Data { .. }
                | Found::Delete { .. }
                | Found::Queue { .. }
                | Found::Dropped { .. }
                | Found::Block { .. } => segment.records += 1,
            }
        });
        if segment.state == State::Free && segment.batches > 0 {
            segment.state = State::NoHeader;
        }
        Ok(segment)
    }

    fn row(&self) -> Vec<String> {
        let number = |number: Option<u64>| number.map_or("-".to_owned(), |it| it.to_string());
        vec![
            self.file.clone(),
            self.state.name().to_owned(),
            number(self.version.map(u64::from)),
            number(self.epoch),
            number(self.sequence),
            self.used.to_string(),
            self.batches.to_string(),
            self.records.to_string(),
        ]
    }
}

/// A queue as a start would find it.
#[derive(Debug, Serialize)]
struct LiveQueue {
    queue: u64,
    head: u64,
    next: u64,
    entries: u64,
    bytes: u64,
}

/// What a start would bring back.
#[derive(Debug, Default, Serialize)]
struct Live {
    #[serde(flatten)]
    counts: Counts,
    queues: Vec<LiveQueue>,
}

/// A journal, or one segment of it.
#[derive(Debug)]
struct Inspected {
    /// In the order of the log; those that say nothing of it last.
    segments: Vec<Segment>,
    /// Damaged files that were put aside.
    set_aside: Vec<String>,
    /// `None` of a single segment, and of what a newer program has written.
    live: Option<Live>,
}

impl Inspected {
    fn read(path: &Path) -> Result<Self, Failure> {
        let metadata = fs::metadata(path).map_err(|error| cannot_read(path, error))?;
        if !metadata.is_dir() {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let slot = slot_of(&name, ".seg");
            return Ok(Self {
                segments: vec![Segment::read(path, slot)?],
                set_aside: Vec::new(),
                live: None,
            });
        }
        // Whoever names `data_dir` means the journal in it.
        let inner = path.join("journal");
        let folder = if inner.is_dir() { &inner } else { path };
        let (mut files, mut set_aside) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(folder).map_err(|error| cannot_read(folder, error))? {
            let entry = entry.map_err(|error| cannot_read(folder, error))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some(slot) = slot_of(&name, ".seg") {
                files.push((slot, entry.path()));
            } else if slot_of(&name, ".seg.damaged").is_some() {
                set_aside.push(name);
            }
        }
        files.sort_unstable();
        set_aside.sort_unstable();
        if files.is_empty() {
            let text = format!("there are no segments in {}", folder.display());
            return Err(Failure::failed(text)
                .hint("a journal's are called 00000000.seg, 00000001.seg and so on"));
        }
        let mut segments = Vec::new();
        for (slot, path) in &files {
            segments.push(Segment::read(path, Some(*slot))?);
        }
        let top = segments
            .iter()
            .filter_map(|segment| Some((segment.sequence?, segment.held.clone())))
            .max();
        for segment in &mut segments {
            if let (Some((last, held)), Some(sequence)) = (&top, segment.sequence)
                && sequence < *last
                && segment.slot.is_some_and(|slot| !held.contains(&slot))
            {
                segment.state = State::Over;
            }
        }
        segments.sort_by_key(|segment| (segment.sequence.is_none(), segment.sequence));
        Ok(Self {
            live: live(&files)?,
            segments,
            set_aside,
        })
    }

    /// Of the log: what is over is left out.
    fn written(&self) -> Counts {
        let mut counts = Counts::default();
        for segment in &self.segments {
            if segment.state != State::Over {
                counts.add(&segment.counts);
            }
        }
        counts
    }

    fn bad(&self) -> impl Iterator<Item = &Bad> {
        self.segments.iter().flat_map(|segment| &segment.bad)
    }
}

fn cannot_read(path: &Path, error: io::Error) -> Failure {
    Failure::failed(format!("cannot read {}", path.display())).because(error)
}

/// The bytes of a file, and how long it is.
fn read(path: &Path) -> io::Result<(Vec<u8>, u64)> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let size = metadata.len();
    let mut bytes = Vec::with_capacity(size.min(SEGMENT_MAX) as usize);
    File::open(path)?
        .take(SEGMENT_MAX)
        .read_to_end(&mut bytes)?;
    Ok((bytes, size))
}

/// Lets the journal start on these files. `Ok(None)`: a newer program has written some.
fn live(files: &[(Slot, PathBuf)]) -> Result<Option<Live>, Failure> {
    let mut found = Vec::new();
    for (slot, path) in files {
        let metadata = fs::metadata(path).map_err(|error| cannot_read(path, error))?;
        let size = u32::try_from(metadata.len().min(SEGMENT_MAX)).unwrap_or(u32::MAX);
        found.push((*slot, size));
    }
    let slots = found.last().map_or(0, |(slot, _)| u64::from(slot.0) + 1);
    let segment = found.iter().map(|(_, size)| *size).max().unwrap_or(0);
    let settings = journal::Settings {
        size: slots * u64::from(segment),
        segment,
    };
    let mut journal = Journal::new(settings, &Memory::new(usize::MAX));
    // Nothing of what is read depends on the time.
    let now = Now {
        monotonic: Instant::from_nanos(0),
        wall: WallTime::EARLIEST_PLAUSIBLE,
    };
    let mut live = Live::default();
    loop {
        while let Some(event) = journal.poll_event() {
            match event {
                journal::Event::Recovered(told) => live.take(told),
                journal::Event::RecoveryDone(_) => return Ok(Some(live)),
                journal::Event::Unusable(Unusable::NewerVersion { .. }) => return Ok(None),
                journal::Event::Unusable(Unusable::Disk(error)) => {
                    return Err(Failure::failed(format!("cannot read the journal: {error}")));
                }
                _ => {}
            }
        }
        let event = match journal.poll_command() {
            Some(DiskCommand::Open) => DiskEvent::Opened(Ok(found.clone())),
            Some(DiskCommand::Read {
                read,
                slot,
                offset,
                len,
            }) => DiskEvent::Read {
                read,
                outcome: read_at(files, slot, offset, len),
            },
            // Whatever else it wants to be done is not for us to do.
            Some(_) => continue,
            None => return Err(Failure::failed("the journal cannot be read to its end")),
        };
        journal.handle_disk(now, event);
    }
}

fn read_at(
    files: &[(Slot, PathBuf)],
    slot: Slot,
    offset: u32,
    len: u32,
) -> Result<Payload, DiskError> {
    let failed = |error: io::Error| {
        DiskError::Failed(error.raw_os_error().unwrap_or(0), error.to_string().into())
    };
    let gone = || failed(io::ErrorKind::NotFound.into());
    let (_, path) = files.iter().find(|(at, _)| *at == slot).ok_or_else(gone)?;
    let file = File::open(path).map_err(failed)?;
    let bytes = read_up_to(&file, offset, len).map_err(failed)?;
    Ok(Payload::from(bytes))
}

impl Live {
    fn take(&mut self, told: Recovered) {
        match told {
            Recovered::Record { keys, .. } => {
                for (key, _) in keys {
                    self.counts.key(key);
                }
            }
            Recovered::Queue { queue, state } => {
                self.counts.queue_states += 1;
                self.counts.queue_entries += state.entries;
                let QueueState {
                    head,
                    next,
                    entries,
                    bytes,
                } = state;
                self.queues.push(LiveQueue {
                    queue: queue.0,
                    head,
                    next,
                    entries,
                    bytes,
                });
            }
        }
    }
}

fn print_text(
    journal: &Inspected,
    listed: Option<&Records<'_>>,
    out: &mut impl io::Write,
) -> io::Result<()> {
    if let Some(records) = listed {
        writeln!(out, "Records: offset, bytes, what")?;
        records.each(&mut |file, found| {
            let text = record_text(found, records.payloads);
            text.map_or(Ok(()), |text| writeln!(out, "  {file} {text}"))
        })?;
        writeln!(out)?;
    }
    let heads = [
        "file", "state", "version", "epoch", "sequence", "used", "batches", "records",
    ];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    rows.extend(journal.segments.iter().map(Segment::row));
    writeln!(out, "Segments\n{}", output::columns(&rows, "  "))?;

    let heads = ["", "written", "live"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    let live = journal.live.as_ref().map(|live| live.counts.rows());
    for (at, (name, written)) in journal.written().rows().into_iter().enumerate() {
        // Only what has ended something, or leads to it, is not told by a start.
        let live = live.filter(|_| !matches!(name, "deletions" | "queues dropped" | "blocks"));
        let live = live.map_or(String::new(), |live| live[at].1.to_string());
        rows.push(vec![name.to_owned(), written.to_string(), live]);
    }
    writeln!(out, "Totals\n{}", output::columns(&rows, "  "))?;

    if let Some(live) = &journal.live {
        let rows: Vec<_> = live.queues.iter().map(LiveQueue::row).collect();
        section(out, "Queues", &rows)?;
    }
    let mut rows: Vec<_> = journal.bad().map(Bad::row).collect();
    for segment in &journal.segments {
        let what = match segment.state {
            State::NoHeader => "its header cannot be read".to_owned(),
            State::NewerVersion => {
                let version = segment.version.unwrap_or(0);
                format!(
                    "newer version {version}; this program knows {}",
                    journal::VERSION
                )
            }
            _ => continue,
        };
        rows.push(vec![segment.file.clone(), "at 0".to_owned(), what]);
    }
    for file in &journal.set_aside {
        rows.push(vec![
            file.clone(),
            String::new(),
            "was set aside".to_owned(),
        ]);
    }
    section(out, "Damage", &rows)
}

fn section(out: &mut impl io::Write, title: &str, rows: &[Vec<String>]) -> io::Result<()> {
    let text = if rows.is_empty() {
        "  none\n".to_owned()
    } else {
        output::columns(rows, "  ")
    };
    let end = if title == "Damage" { "" } else { "\n" };
    write!(out, "{title}\n{text}{end}")
}

impl LiveQueue {
    fn row(&self) -> Vec<String> {
        vec![
            self.queue.to_string(),
            format!("from {} to {}", self.head, self.next),
            format!("{} entries", self.entries),
            format!("{} bytes", self.bytes),
        ]
    }
}

impl Bad {
    fn row(&self) -> Vec<String> {
        let what = if self.is_damage {
            "had been synced, and is not what was written"
        } else {
            "torn: was being written"
        };
        vec![
            self.file.clone(),
            format!("at {}", self.offset),
            what.to_owned(),
        ]
    }
}

fn print_json(
    journal: &Inspected,
    listed: Option<&Records<'_>>,
    out: &mut impl io::Write,
) -> io::Result<()> {
    #[derive(Serialize)]
    struct Report<'a> {
        segments: &'a [Segment],
        written: Counts,
        live: Option<&'a Live>,
        damage: Vec<&'a Bad>,
        set_aside: &'a [String],
        #[serde(skip_serializing_if = "Option::is_none")]
        records: Option<&'a Records<'a>>,
    }
    let report = Report {
        segments: &journal.segments,
        written: journal.written(),
        live: journal.live.as_ref(),
        damage: journal.bad().collect(),
        set_aside: &journal.set_aside,
        records: listed,
    };
    serde_json::to_writer_pretty(&mut *out, &report)?;
    writeln!(out)
}

/// The records of all segments, read again when they are printed: they may be millions.
struct Records<'a> {
    segments: &'a [Segment],
    payloads: bool,
}

impl Records<'_> {
    /// Until `tell` fails.
    fn each<E: From<io::Error>>(
        &self,
        tell: &mut impl FnMut(&str, &Found<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        for segment in self.segments {
            let (bytes, _) = read(&segment.path)?;
            let mut outcome = Ok(());
            inspect(&bytes, &mut |found| {
                if outcome.is_ok() {
                    outcome = tell(&segment.file, &found);
                }
            });
            outcome?;
        }
        Ok(())
    }
}

impl Serialize for Records<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        /// What can fail on the way.
        enum Why<E> {
            Reading(io::Error),
            Writing(E),
        }
        impl<E> From<io::Error> for Why<E> {
            fn from(error: io::Error) -> Self {
                Self::Reading(error)
            }
        }
        let mut list = serializer.serialize_seq(None)?;
        let told = self.each(&mut |file, found| {
            let value = record_json(file, found, self.payloads);
            value.map_or(Ok(()), |value| {
                list.serialize_element(&value).map_err(Why::Writing)
            })
        });
        match told {
            Ok(()) => list.end(),
            Err(Why::Reading(error)) => Err(S::Error::custom(error)),
            Err(Why::Writing(error)) => Err(error),
        }
    }
}

/// What the body of a record of data says, as far as it is the broker's.
fn body_of<'a>(targets: &[FoundTarget<'_>], body: &'a [u8]) -> Option<Description<'a>> {
    let mut kind = None;
    for target in targets {
        match target {
            // Whatever else it is, it is a message then.
            FoundTarget::Entry(..) => return describe(None, body),
            FoundTarget::Key(key, _) => {
                let of = KeyKind::from_u8(key.kind)?;
                if kind.is_none() || of == KeyKind::Retained {
                    kind = Some(of);
                }
            }
        }
    }
    describe(Some(kind?), body)
}

/// A line without its file; `None`: it is no record.
fn record_text(found: &Found<'_>, payloads: bool) -> Option<String> {
    Some(match found {
        Found::Batch {
            offset,
            number,
            synced,
            len,
        } => format!("{offset} {len} batch {number}, {synced} was synced"),
        Found::Data {
            offset,
            len,
            targets,
            body,
        } => {
            let mut text = format!("{offset} {len} ");
            // Writing into a string does not fail.
            let _ = match body_of(targets, body) {
                None => write!(text, "unknown, {} bytes", body.len()),
                Some(description) => description_text(&mut text, &description, payloads),
            };
            for (at, target) in targets.iter().enumerate() {
                let before = if at == 0 { ": " } else { ", " };
                let _ = write!(text, "{before}{}", target_text(target));
            }
            text
        }
        Found::Delete { offset, len, key } => {
            format!("{offset} {len} deleted: {}", key_text(*key))
        }
        Found::Queue {
            offset,
            len,
            queue: QueueId(queue),
            head,
            next,
        } => format!("{offset} {len} state of queue {queue}: from {head} to {next}"),
        Found::Dropped {
            offset,
            len,
            queue: QueueId(queue),
        } => format!("{offset} {len} dropped: queue {queue}"),
        Found::Block {
            offset,
            len,
            queue: QueueId(queue),
            sequence,
            first,
            entries,
        } => format!(
            "{offset} {len} block of queue {queue}: {entries} entries from {first}, in segment \
             {sequence}"
        ),
        Found::Bad { offset, proven } => {
            let what = if *proven { "damage" } else { "torn" };
            format!("{offset} - {what}")
        }
        Found::Segment { .. } | Found::NoHeader | Found::NewerVersion(_) | Found::End { .. } => {
            return None;
        }
    })
}

fn description_text(
    text: &mut String,
    description: &Description<'_>,
    payloads: bool,
) -> core::fmt::Result {
    match description {
        Description::Session {
            client_id,
            user,
            expiry_seconds,
            end,
        } => {
            write!(text, "session {client_id:?}, expiry {expiry_seconds} s")?;
            if let Some(user) = user {
                write!(text, ", user {user:?}")?;
            }
            if let Some(end) = end {
                write!(text, ", ends {end}")?;
            }
            Ok(())
        }
        Description::Subscription {
            filter,
            maximum_qos,
        } => write!(text, "subscription {filter:?}, QoS {}", maximum_qos.bits()),
        Description::Message(message) => {
            text.write_str("message ")?;
            write_message(text, message, payloads)
        }
        Description::Will {
            client_id,
            user,
            delay_seconds,
            due,
            message,
        } => {
            write!(text, "will of {client_id:?}")?;
            if let Some(user) = user {
                write!(text, ", user {user:?}")?;
            }
            match due {
                Some(due) => write!(text, ", due {due}: ")?,
                None => write!(text, ", delay {delay_seconds} s: ")?,
            }
            write_message(text, message, payloads)
        }
        Description::Sent { stage, packet_id } => write!(text, "sent {stage} {packet_id}"),
        Description::Presence => text.write_str("received"),
    }
}

fn write_message(
    text: &mut String,
    message: &DescribedMessage<'_>,
    payloads: bool,
) -> core::fmt::Result {
    let DescribedMessage { topic, payload, .. } = message;
    let retained = if message.retain { ", RETAIN" } else { "" };
    let (qos, len) = (message.qos.bits(), payload.len());
    write!(text, "{topic:?}, QoS {qos}{retained}, {len} bytes")?;
    if payloads {
        match str::from_utf8(payload) {
            Ok(payload) => write!(text, " {payload:?}")?,
            Err(_) => write!(text, " 0x{}", HEXLOWER.encode(payload))?,
        }
    }
    Ok(())
}

fn target_text(target: &FoundTarget<'_>) -> String {
    match target {
        FoundTarget::Key(key, _) => key_text(*key),
        FoundTarget::Entry(QueueId(queue), sequence, _) => {
            format!("entry {sequence} of queue {queue}")
        }
    }
}

fn key_text(key: Key) -> String {
    let Key { kind, id, sub } = key;
    match KeyKind::from_u8(kind) {
        Some(KeyKind::Session) => format!("session of queue {id}"),
        Some(KeyKind::Subscription) => format!("subscription of queue {id}"),
        Some(KeyKind::Received | KeyKind::Brought) => format!("received {sub} of queue {id}"),
        Some(KeyKind::Sent) => format!("sent {sub} of queue {id}"),
        Some(KeyKind::Retained) => format!("retained {id}"),
        Some(KeyKind::Will) if id == 0 => format!("will {sub}"),
        Some(KeyKind::Will) => format!("will {sub} of queue {id}"),
        Some(KeyKind::Estate) => format!("estate from {sub} of queue {id}"),
        None => match key_name(kind) {
            Some(name) => format!("{name} {id}"),
            None => format!("key {kind} {id} {sub}"),
        },
    }
}

/// `None`: it is no record.
fn record_json(file: &str, found: &Found<'_>, payloads: bool) -> Option<Value> {
    let mut value = match found {
        Found::Batch {
            offset,
            number,
            synced,
            len,
        } => json!({
            "what": "batch", "offset": offset, "len": len, "number": number, "synced": synced,
        }),
        Found::Data {
            offset,
            len,
            targets,
            body,
        } => {
            let targets_json: Vec<_> = targets.iter().map(target_json).collect();
            let mut value = body_of(targets, body).map_or_else(
                || json!({ "what": "unknown", "size": body.len() }),
                |description| description_json(&description, payloads),
            );
            value["offset"] = json!(offset);
            value["len"] = json!(len);
            value["targets"] = json!(targets_json);
            value
        }
        Found::Delete { offset, len, key } => json!({
            "what": "deleted", "offset": offset, "len": len, "targets": [key_json(*key)],
        }),
        Found::Queue {
            offset,
            len,
            queue,
            head,
            next,
        } => json!({
            "what": "queue_state", "offset": offset, "len": len, "queue": queue.0,
            "head": head, "next": next,
        }),
        Found::Dropped { offset, len, queue } => json!({
            "what": "queue_dropped", "offset": offset, "len": len, "queue": queue.0,
        }),
        Found::Block {
            offset,
            len,
            queue,
            sequence,
            first,
            entries,
        } => json!({
            "what": "block", "offset": offset, "len": len, "queue": queue.0,
            "sequence": sequence, "first": first, "entries": entries,
        }),
        Found::Bad { offset, proven } => json!({
            "what": if *proven { "damage" } else { "torn" }, "offset": offset,
        }),
        Found::Segment { .. } | Found::NoHeader | Found::NewerVersion(_) | Found::End { .. } => {
            return None;
        }
    };
    value["file"] = json!(file);
    Some(value)
}

fn description_json(description: &Description<'_>, payloads: bool) -> Value {
    match description {
        Description::Session {
            client_id,
            user,
            expiry_seconds,
            end,
        } => json!({
            "what": "session", "client_id": client_id, "user": user, "expiry": expiry_seconds,
            "end": end.map(|end| end.to_string()),
        }),
        Description::Subscription {
            filter,
            maximum_qos,
        } => json!({ "what": "subscription", "filter": filter, "qos": maximum_qos.bits() }),
        Description::Message(message) => message_json("message", message, payloads),
        Description::Will {
            client_id,
            user,
            delay_seconds,
            due,
            message,
        } => {
            let mut value = message_json("will", message, payloads);
            value["client_id"] = json!(client_id);
            value["user"] = json!(user);
            value["delay"] = json!(delay_seconds);
            value["due"] = json!(due.map(|due| due.to_string()));
            value
        }
        Description::Sent { stage, packet_id } => {
            json!({ "what": "sent", "stage": stage, "packet_id": packet_id })
        }
        Description::Presence => json!({ "what": "received" }),
    }
}

fn message_json(what: &str, message: &DescribedMessage<'_>, payloads: bool) -> Value {
    let mut value = json!({
        "what": what, "topic": message.topic, "qos": message.qos.bits(),
        "retain": message.retain, "kept_at": message.kept_at.to_string(),
        "size": message.payload.len(),
    });
    if payloads {
        match str::from_utf8(message.payload) {
            Ok(text) => value["payload"] = json!(text),
            Err(_) => value["payload_hex"] = json!(HEXLOWER.encode(message.payload)),
        }
    }
    value
}

fn target_json(target: &FoundTarget<'_>) -> Value {
    match target {
        FoundTarget::Key(key, _) => key_json(*key),
        FoundTarget::Entry(queue, sequence, _) => json!({
            "kind": "queue_entry", "queue": queue.0, "sequence": sequence,
        }),
    }
}

fn key_json(key: Key) -> Value {
    let kind = match KeyKind::from_u8(key.kind) {
        Some(KeyKind::Session) => json!("session"),
        Some(KeyKind::Subscription) => json!("subscription"),
        Some(KeyKind::Received) => json!("received"),
        Some(KeyKind::Brought) => json!("received from an upstream"),
        Some(KeyKind::Sent) => json!("sent"),
        Some(KeyKind::Retained) => json!("retained"),
        Some(KeyKind::Will) => json!("will"),
        Some(KeyKind::Estate) => json!("estate"),
        None => key_name(key.kind).map_or_else(|| json!(key.kind), Into::into),
    };
    json!({ "kind": kind, "id": key.id, "sub": key.sub })
}
