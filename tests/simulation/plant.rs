//! The plant of the world of [`uplink`](super::uplink): a meter whose pulses are counted, a door, a
//! thermometer on a bus and a scale on a serial port. They vanish and come back.
//!
//! It knows what it has told, and when: that is what has to arrive upstream, by way of drivers,
//! pipeline, journal and bridge.
//!
//! * Each value that was told for longer than `sync_within` when the power went has arrived, with
//!   the time at which it was told. Nothing arrives that was not told then.
//! * One sequence number of a point stands for one message, whatever was restarted meanwhile, and
//!   they grow in the order of telling. In each lane they arrive in order.
//! * What the counter says is between two bounds: every pulse that was given, and that less what
//!   `persist` allows each power cut to take.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use fieldgate::field::bus::{BusError, BusOp};
use fieldgate::field::line::{LineCommand, LineEvent, LineRef};
use fieldgate::field::port::{PortCommand, PortEvent};
use fieldgate::gateway::boundary::{Input, Output};
use fieldgate::id::{LineId, PortId, RequestId};
use fieldgate::point::{Fault, FaultKind};
use fieldgate::rng::Rng;
use fieldgate::time::{Duration, Instant, WallTime};

use super::devices::{Lm75, Scale};
use super::ledger::GRACE;
use super::site::Site;

/// What all that it says is below, on the gateway and upstream.
pub const BASE: &str = "edge";

const TURNS: &str = "edge/meter/turns";
const DOOR: &str = "edge/meter/door";
const ROOM: &str = "edge/room/temperature";
const SCALE: &str = "edge/scale/grams";

/// The lines on the header.
const TURNS_LINE: u32 = 17;
const DOOR_LINE: u32 = 27;

/// `interval` of the counter's `persist`.
const INTERVAL: Duration = Duration::from_secs(1);

/// So much later than `INTERVAL` a total may be kept: `every`, and a gateway that was asleep.
const LATE: Duration = Duration::from_millis(700);

/// Nothing is said on a port that was opened so short a time ago: it would be taken for the end of
/// a line.
const QUIET: Duration = Duration::from_millis(60);

/// So long after the power was back a gateway waits for its sequence numbers, and was it off.
const RESERVED_WITHIN: Duration = Duration::from_secs(11);

/// What else is known of a reading when it is told.
#[derive(Debug)]
struct Told {
    topic: &'static str,
    value: String,
    /// By the gateway's clock; `None`: that is not set.
    millis: Option<i64>,
    at: Instant,
    /// The power went too soon.
    may_be_lost: bool,
    /// Nothing changes any more, and what does not change is not said again.
    is_calm: bool,
    /// Of each bridge: it was not there.
    unseen: BTreeSet<usize>,
}

/// A line that the gateway has.
#[derive(Debug)]
struct Wire {
    offset: u32,
    /// `None`: it is being requested.
    ready_since: Option<Instant>,
    edges: u32,
}

/// What the hardware does in a moment.
#[derive(Debug)]
enum Later {
    Line(LineId),
    Transfer(RequestId, BusOp),
    Port(PortId),
}

/// A message of a point that has arrived upstream.
#[derive(Debug, Clone)]
struct Said {
    topic: String,
    payload: String,
    value: String,
    millis: Option<i64>,
    seq: u64,
    /// By which lane; `None`: the peer cannot be told.
    is_backlog: Option<bool>,
    epoch: u32,
}

/// What the counter may say.
#[derive(Debug, Default)]
struct Total {
    least: u64,
    most: u64,
    /// Of this process: when `least` became what.
    history: Vec<(Instant, u64)>,
    /// What it was when this process began: on the disk.
    first: u64,
    /// By the gateway's clock in milliseconds: the bounds, and the process.
    bounds: BTreeMap<i64, Vec<(u64, u64)>>,
}

/// How the plant is configured.
#[derive(Debug, Clone, Copy)]
pub struct Equipment {
    /// `pulses` of the counter's `persist`.
    pulses: u64,
    has_meter: bool,
}

pub struct Plant {
    rng: Rng,
    pub equipment: Equipment,
    lm75: Lm75,
    scale: Scale,
    door: bool,
    wires: BTreeMap<LineId, Wire>,
    later: Vec<(Instant, Later)>,
    port: Option<PortId>,
    /// `None`: it is not open.
    quiet_until: Option<Instant>,
    /// Until then nothing of it answers.
    chip_gone_until: Instant,
    adapter_gone_until: Instant,
    told: Vec<Told>,
    /// Those before this were told to processes that are over.
    process_from: usize,
    /// Of each bridge that is away: what had been told when it left.
    left_at: BTreeMap<usize, usize>,
    total: Total,
    said: BTreeMap<usize, Vec<Said>>,
    pub vanished: u64,
    pub pulses: u64,
    /// When the process began; and one has, with a disk that did not take the reservation of its
    /// sequence numbers in time: they may have been given out again.
    began: Instant,
    is_excused: bool,
}

impl Equipment {
    pub fn draw(rng: &mut Rng) -> Self {
        Self {
            pulses: *rng.choose(&[1, 5, 20, 100]).expect("some"),
            has_meter: true,
        }
    }

    pub fn write(&self, text: &mut String) {
        text.push_str(
            r#"
[serial.scale]
path = "/dev/scale"
baud = 9600
[device.scale]
driver = "lines"
bus = "serial.scale"
pattern = 'ST,GS,(?<grams>[0-9]+)g'
payload = "json"
[device.room]
driver = "lm75"
bus = "i2c.1"
address = 0x48
every = "100ms"
payload = "json"
"#,
        );
        if self.has_meter {
            let pulses = self.pulses;
            let wrote = write!(
                text,
                r#"
[device.meter]
driver = "gpio"
bus = "gpio.header"
every = "100ms"
payload = "json"
[device.meter.point.turns]
kind = "counter"
line = {TURNS_LINE}
persist = {{ pulses = {pulses}, interval = "1s" }}
[device.meter.point.door]
kind = "event"
line = {DOOR_LINE}
edge = "both"
"#
            );
            wrote.expect("a text takes everything");
        }
    }
}

impl Plant {
    pub fn new(mut rng: Rng, equipment: Equipment) -> Self {
        let mut scale = Scale::new();
        scale.grams = rng.below(1_000);
        Self {
            rng,
            equipment,
            lm75: Lm75::new(),
            scale,
            door: false,
            wires: BTreeMap::new(),
            later: Vec::new(),
            port: None,
            quiet_until: None,
            chip_gone_until: Instant::default(),
            adapter_gone_until: Instant::default(),
            told: Vec::new(),
            process_from: 0,
            left_at: BTreeMap::new(),
            total: Total::default(),
            said: BTreeMap::new(),
            vanished: 0,
            pulses: 0,
            began: Instant::default(),
            is_excused: false,
        }
    }

    // ---- what the gateway asks

    /// What is asked of the hardware; anything else comes back.
    pub fn obey(&mut self, now: Instant, output: Output) -> Option<Output> {
        match output {
            Output::Bus { request, op, .. } => self.do_later(now, Later::Transfer(request, op)),
            Output::Line(LineCommand::Request { line, settings }) => {
                let LineRef::Offset(offset) = settings.line else {
                    panic!("a line of the header has a number, not {settings:?}");
                };
                let wire = Wire {
                    offset,
                    ready_since: None,
                    edges: 0,
                };
                self.wires.insert(line, wire);
                self.do_later(now, Later::Line(line));
            }
            Output::Line(LineCommand::Release { line }) => {
                self.wires.remove(&line);
            }
            Output::Port(PortCommand::Open { port, .. }) => {
                self.port = Some(port);
                self.do_later(now, Later::Port(port));
            }
            Output::Port(PortCommand::Close { .. }) => {
                self.port = None;
                self.quiet_until = None;
            }
            other => return Some(other),
        }
        None
    }

    fn do_later(&mut self, now: Instant, later: Later) {
        let millis = self.rng.below(30);
        self.later
            .push((now + Duration::from_millis(millis), later));
    }

    // ---- turns

    /// Before the gateway's turn.
    pub fn turn(&mut self, site: &mut Site) {
        while let Some(at) = self.later.iter().position(|(at, _)| *at <= site.now) {
            let (_, later) = self.later.swap_remove(at);
            self.answer(site, later);
        }
        if !site.trouble {
            return;
        }
        match self.rng.below(500) {
            0 => self.lose_chip(site),
            1 => self.lose_adapter(site),
            2..4 => self.lm75.absent = !self.lm75.absent,
            _ => {}
        }
        if self.rng.chance(1, 3) {
            self.pulse(site);
        }
        if self.rng.chance(1, 20) {
            self.turn_door(site);
        }
        if self.rng.chance(1, 15) && self.scale.unsent.is_empty() {
            self.scale.grams += 1 + self.rng.below(5);
            self.scale.speak();
        }
        self.carry(site);
    }

    /// After it: what the counter may have said in it. `is_disk_calm`: it works, and is fast.
    pub fn end_turn(&mut self, site: &Site, is_disk_calm: bool) {
        self.is_excused |= !is_disk_calm && site.now.since(self.began) < RESERVED_WITHIN;
        self.note_total(site, site.now);
    }

    /// Everything is there from now on.
    pub fn end_trouble(&mut self) {
        self.lm75.absent = false;
        self.chip_gone_until = Instant::default();
        self.adapter_gone_until = Instant::default();
        self.equipment.has_meter = true;
    }

    /// The meter is taken out of the configuration, or put into it again.
    pub fn reconfigure(&mut self) {
        self.equipment.has_meter = !self.equipment.has_meter;
    }

    fn answer(&mut self, site: &mut Site, later: Later) {
        match later {
            Later::Transfer(request, op) => {
                let fails = site.trouble && self.rng.chance(1, 30);
                let outcome = if fails {
                    Err(BusError::Failed(5))
                } else {
                    self.lm75.transfer(&op)
                };
                if is_temperature(&op) && outcome.is_ok() {
                    self.tell(site, ROOM, self.lm75.celsius().to_string(), site.now);
                    if site.trouble {
                        // From -20 to 80 °C, and no two in a row are the same.
                        let next = self.lm75.half_degrees + 1;
                        self.lm75.half_degrees = if next > 160 { -40 } else { next };
                    }
                }
                site.input(Input::Bus { request, outcome });
            }
            Later::Line(line) => {
                let Some(wire) = self.wires.get_mut(&line) else {
                    return;
                };
                let event = if site.now < self.chip_gone_until {
                    self.wires.remove(&line);
                    LineEvent::Lost(Fault::new(FaultKind::Unplugged, "there is no such chip"))
                } else {
                    wire.ready_since = Some(site.now);
                    LineEvent::Ready { active: false }
                };
                site.input(Input::Line { line, event });
            }
            Later::Port(port) => {
                if self.port != Some(port) {
                    return;
                }
                let event = if site.now < self.adapter_gone_until {
                    PortEvent::Closed(Fault::new(FaultKind::Unplugged, "there is no such device"))
                } else {
                    self.scale.unsent.clear();
                    self.quiet_until = Some(site.now + QUIET);
                    PortEvent::Opened
                };
                site.input(Input::Port { port, event });
            }
        }
    }

    /// One of the chip's lines shows that it is gone.
    fn lose_chip(&mut self, site: &mut Site) {
        let ready = self.wires.iter().find(|(_, it)| it.ready_since.is_some());
        let Some(line) = ready.map(|(line, _)| *line) else {
            return;
        };
        self.vanished += 1;
        self.chip_gone_until = site.now + Duration::from_millis(self.rng.below(1_500));
        self.wires.clear();
        let fault = Fault::new(FaultKind::Unplugged, "the chip is gone");
        let event = LineEvent::Lost(fault);
        site.input(Input::Line { line, event });
    }

    fn lose_adapter(&mut self, site: &mut Site) {
        let Some(port) = self.port.filter(|_| self.quiet_until.is_some()) else {
            return;
        };
        self.vanished += 1;
        self.adapter_gone_until = site.now + Duration::from_millis(self.rng.below(1_500));
        self.quiet_until = None;
        let fault = Fault::new(FaultKind::Unplugged, "the adapter is gone");
        let event = PortEvent::Closed(fault);
        site.input(Input::Port { port, event });
    }

    fn ready(&mut self, offset: u32) -> Option<(LineId, &mut Wire)> {
        let mut wires = self.wires.iter_mut();
        let found = wires.find(|(_, it)| it.offset == offset && it.ready_since.is_some());
        found.map(|(line, wire)| (*line, wire))
    }

    fn pulse(&mut self, site: &mut Site) {
        // Sometimes more than the kernel keeps come at once, and the numbers show it.
        let lost = if self.rng.chance(1, 50) {
            self.rng.below(8) as u32
        } else {
            0
        };
        let Some((line, wire)) = self.ready(TURNS_LINE) else {
            return;
        };
        wire.edges += 1 + lost;
        let line_seqno = wire.edges;
        let count = 1 + u64::from(lost);
        self.pulses += count;
        self.total.least += count;
        self.total.most += count;
        self.total.history.push((site.now, self.total.least));
        self.note_total(site, site.now);
        let event = LineEvent::Edge {
            at: site.now,
            active: true,
            line_seqno,
        };
        site.input(Input::Line { line, event });
    }

    fn turn_door(&mut self, site: &mut Site) {
        let open = !self.door;
        // The kernel's stamp is that of the edge.
        let ago = Duration::from_micros(self.rng.below(3_000));
        let Some((line, wire)) = self.ready(DOOR_LINE) else {
            return;
        };
        wire.edges += 1;
        let line_seqno = wire.edges;
        self.door = open;
        let at = site.now.saturating_sub(ago);
        self.tell(site, DOOR, open.to_string(), at);
        let event = LineEvent::Edge {
            at,
            active: open,
            line_seqno,
        };
        site.input(Input::Line { line, event });
    }

    /// Some bytes of the scale's, one line's at most.
    fn carry(&mut self, site: &mut Site) {
        let Some(port) = self.port else { return };
        if self.quiet_until.is_none_or(|until| site.now < until) || self.scale.unsent.is_empty() {
            return;
        }
        let most = self.scale.unsent.len() as u64;
        let count = 1 + self.rng.below(most) as usize;
        // A line is over with its `\r` already.
        let is_whole = self.scale.unsent[..count].contains(&b'\r');
        let bytes: Vec<u8> = self.scale.unsent.drain(..count).collect();
        if is_whole {
            self.tell(site, SCALE, self.scale.grams.to_string(), site.now);
        }
        let buffer = site.gateway.port_buffer(port).expect("the port is open");
        buffer.spare()[..count].copy_from_slice(&bytes);
        let event = PortEvent::Received { count };
        site.input(Input::Port { port, event });
    }

    fn tell(&mut self, site: &Site, topic: &'static str, value: String, at: Instant) {
        let millis = site.at().wall_at(at).map(WallTime::unix_millis);
        self.told.push(Told {
            topic,
            value,
            millis,
            at: site.now,
            may_be_lost: false,
            is_calm: !site.trouble,
            unseen: self.left_at.keys().copied().collect(),
        });
    }

    fn note_total(&mut self, site: &Site, at: Instant) {
        let Some(wall) = site.at().wall_at(at) else {
            return;
        };
        let bounds = (self.total.least, self.total.most);
        let known = self.total.bounds.entry(wall.unix_millis()).or_default();
        if known.last() != Some(&bounds) {
            known.push(bounds);
        }
    }

    // ---- what may be lost

    /// The power is about to go. `is_certain`: the disk had been in order for long enough. Returns
    /// how many readings have to survive.
    pub fn crash(&mut self, now: Instant, is_certain: bool) -> u64 {
        self.began = now;
        let mut certain = 0;
        for told in &mut self.told[self.process_from..] {
            if is_certain && told.at + GRACE < now {
                certain += 1;
            } else {
                told.may_be_lost = true;
            }
        }
        self.process_from = self.told.len();
        let total = &mut self.total;
        let before = |ago: Duration| {
            let until = now.saturating_sub(ago);
            let known = total.history.iter().rev().find(|(at, _)| *at < until);
            known.map_or(total.first, |(_, least)| *least)
        };
        let mut least = total.first;
        if is_certain {
            least = least.max(before(GRACE).saturating_sub(self.equipment.pulses - 1));
            let since = self.wires.values().find(|it| it.offset == TURNS_LINE);
            let since = since.and_then(|wire| wire.ready_since);
            let late = INTERVAL + LATE + GRACE;
            if since.is_some_and(|since| since + late < now) {
                least = least.max(before(late));
            }
        }
        assert!(least <= total.least, "a bound does not grow by a crash");
        total.least = least;
        total.first = least;
        total.history.clear();
        self.wires.clear();
        self.later.clear();
        self.port = None;
        self.quiet_until = None;
        self.scale.unsent.clear();
        certain
    }

    /// A bridge is taken out of the configuration. `is_kept`: the journal has taken everything.
    pub fn leave(&mut self, line: usize, is_kept: bool) {
        if !is_kept {
            for told in &mut self.told {
                told.unseen.insert(line);
            }
        }
        self.left_at.insert(line, self.told.len());
    }

    /// It is back.
    pub fn come_back(&mut self, line: usize) {
        self.left_at.remove(&line);
    }

    // ---- what arrives

    /// Something below [`BASE`] has arrived. `properties`: `time` and `seq`, of a peer that has
    /// them.
    pub fn arrive(
        &mut self,
        line: usize,
        (topic, payload): (&str, &str),
        properties: Option<(Option<&str>, Option<&str>)>,
        is_backlog: Option<bool>,
        epoch: u32,
    ) {
        let points = [TURNS, DOOR, ROOM, SCALE];
        if !points.contains(&topic) || payload.is_empty() {
            return;
        }
        let json: serde_json::Value = serde_json::from_str(payload)
            .unwrap_or_else(|error| panic!("{topic} says {payload}: {error}"));
        let seq = json["seq"].as_u64().expect("each value has a number");
        let millis = json["time"].as_i64();
        if let Some((time, number)) = properties {
            assert_eq!(number, Some(&*seq.to_string()), "{topic} {payload}");
            if let Some(millis) = millis {
                assert_eq!(time, Some(&*millis.to_string()), "{topic} {payload}");
            }
        }
        self.said.entry(line).or_default().push(Said {
            topic: topic.to_owned(),
            payload: payload.to_owned(),
            value: json["value"].to_string(),
            millis,
            seq,
            is_backlog,
            epoch,
        });
    }

    /// What never came. Everything that did is as it was told.
    pub fn judge(&self, line: usize) -> Vec<String> {
        let none = Vec::new();
        let said = self.said.get(&line).unwrap_or(&none);
        if !self.is_excused {
            Self::judge_order(said);
        }
        // Without a time one reading may look like another.
        let key = |topic, value, millis: Option<i64>| millis.map(|millis| (topic, value, millis));
        let mut told = BTreeMap::new();
        // Which of those that say the same of the same moment has come is not to be seen.
        let mut twins = BTreeSet::new();
        for (at, it) in self.told.iter().enumerate() {
            if let Some(key) = key(it.topic, &*it.value, it.millis)
                && told.insert(key, at).is_some()
            {
                twins.insert(key);
            }
        }
        let mut came = BTreeMap::new();
        for it in said.iter().filter(|it| it.value != "null") {
            if it.topic == TURNS {
                self.judge_total(it);
            } else if let Some(key) = key(&*it.topic, &*it.value, it.millis) {
                let Some(at) = told.get(&key) else {
                    // It may have been told before the clock was set, and said again since, as one
                    // that is good no more.
                    let is_it = |told: &&Told| {
                        told.millis.is_none() && told.topic == it.topic && told.value == it.value
                    };
                    let is_told = self.told.iter().any(|told| is_it(&told))
                        && !it.payload.contains(r#""quality":"good""#);
                    assert!(is_told, "nobody has told that: {it:?}");
                    continue;
                };
                // Said again with another quality, it has another number.
                let first = came.entry(*at).or_insert(it.seq);
                *first = it.seq.min(*first);
            }
        }
        let mut last: BTreeMap<&str, u64> = BTreeMap::new();
        for (at, seq) in &came {
            let it = &self.told[*at];
            if key(it.topic, &*it.value, it.millis).is_some_and(|key| twins.contains(&key)) {
                continue;
            }
            let before = last.insert(it.topic, *seq);
            let is_ordered = before < Some(*seq) || self.is_excused;
            assert!(is_ordered, "{it:?} is {seq} behind {before:?}");
        }
        let missing = self.told.iter().enumerate().filter(|(at, it)| {
            it.millis.is_some()
                && !it.may_be_lost
                && !it.is_calm
                && !it.unseen.contains(&line)
                && !came.contains_key(at)
                && !key(it.topic, &*it.value, it.millis)
                    .and_then(|key| told.get(&key))
                    .is_some_and(|twin| came.contains_key(twin))
        });
        missing.map(|(_, it)| format!("{it:?}")).collect()
    }

    fn judge_order(said: &[Said]) {
        let mut numbers: BTreeMap<(&str, u64), &str> = BTreeMap::new();
        let mut last: BTreeMap<(&str, bool, u32), u64> = BTreeMap::new();
        for it in said {
            let Some(before) = numbers.insert((&it.topic, it.seq), &it.payload) else {
                if let Some(lane) = it.is_backlog {
                    let before = last.insert((&it.topic, lane, it.epoch), it.seq);
                    assert!(before < Some(it.seq), "{it:?} came after {before:?}");
                }
                continue;
            };
            assert_eq!(before, it.payload, "{} has said {} twice", it.topic, it.seq);
        }
    }

    fn judge_total(&self, it: &Said) {
        let Some(millis) = it.millis else {
            return;
        };
        let value: u64 = it.value.parse().expect("a total is a number");
        let bounds = self.total.bounds.get(&millis);
        let is_right = bounds.is_some_and(|known| {
            let mut known = known.iter();
            known.any(|(least, most)| (*least..=*most).contains(&value))
        });
        assert!(is_right, "{it:?} has to be within {bounds:?}");
    }

    /// What is retained upstream is what was said last, unless the power went too soon after it:
    /// then it may be retained here no more.
    pub fn judge_retained(&self, line: usize, there: &BTreeMap<String, String>) {
        for topic in [TURNS, ROOM, SCALE] {
            let said = self.said.get(&line).into_iter().flatten();
            let said = said.filter(|it| it.topic == topic);
            let Some(last) = said.max_by_key(|it| it.seq) else {
                continue;
            };
            let is_lost = if topic == TURNS {
                self.process_from > 0
            } else {
                let is_it = |it: &&Told| (it.topic, it.millis) == (topic, last.millis);
                self.told.iter().filter(is_it).any(|it| it.may_be_lost)
            };
            let found = there.get(&format!("up/{topic}"));
            assert!(
                is_lost || found == Some(&last.payload),
                "retained upstream: {found:?} instead of {last:?}"
            );
        }
    }
}

fn is_temperature(op: &BusOp) -> bool {
    matches!(op, BusOp::I2c { write, read: 2, .. } if write.as_slice() == [0])
}
