//! A host without Linux: virtual time, and hardware made of maps.

use std::collections::BTreeMap;

use fieldgate::buffer::{Memory, RecvBuffer};
use fieldgate::field::bus::{BusError, BusOp, BusOutcome, BusReply, BusSettings, Fact, Question};
use fieldgate::field::line::{Direction, LineCommand, LineEvent, LineRef, LineSettings};
use fieldgate::field::port::{PortCommand, PortEvent};
use fieldgate::field::settings::{DeviceSettings, Driver, I2cChip, I2cSettings};
use fieldgate::field::{DeviceStats, Field, Output, points_of};
use fieldgate::id::{BusId, DeviceId, LineId, PointId, PortId, RequestId};
use fieldgate::point::{Fault, FaultKind, Outcome, PointWrite, Value};
use fieldgate::rng::Rng;
use fieldgate::slab::{GenSlab, Key};
use fieldgate::time::{Duration, Instant, Now, WallTime};

use crate::chips::Chip;

/// A field, and everything that is wired to it.
pub struct Bench {
    pub field: Field,
    pub now: Instant,
    /// By bus and address.
    pub chips: BTreeMap<(u8, u8), Chip>,
    /// What goes wrong, by bus and address; `None` for the address: with the whole bus.
    pub trouble: BTreeMap<(u8, Option<u8>), Trouble>,
    pub files: BTreeMap<String, Vec<u8>>,
    pub disk: Option<(u64, u64)>,
    pub uptime: Duration,
    /// By offset.
    pub lines: BTreeMap<u32, Line>,
    /// By path.
    pub ports: BTreeMap<String, Port>,
    /// Everything that the field has said.
    pub said: Vec<(Instant, Said)>,
    pub open_buses: BTreeMap<BusId, BusSettings>,
    pub transfers: Vec<(Instant, BusSettings, BusOp)>,
    pub wakes: u64,
    ids: GenSlab<DeviceId, ()>,
    point_ids: GenSlab<PointId, ()>,
    names: BTreeMap<PointId, String>,
    devices: BTreeMap<String, DeviceId>,
    memory: Memory,
    /// What the host has yet to say, by time and order.
    due: BTreeMap<(Instant, u64), Due>,
    order: u64,
    /// When each bus has carried out what it was asked.
    busy_until: BTreeMap<BusId, Instant>,
    requests: u64,
}

/// What a transfer meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing acknowledges.
    Absent,
    /// It hangs until the kernel's limit, a file until the deadline.
    Stuck,
    /// This error.
    Error(BusError),
    /// The host itself forgets to answer.
    Forgotten,
}

/// A line of the one chip that the bench has.
#[derive(Debug, Clone, Default)]
pub struct Line {
    pub level: bool,
    /// Why it cannot be requested, and cannot be set or read if it is ours.
    pub refused: Option<Fault>,
    /// Sets fail.
    pub is_broken: bool,
    /// Every level that it was driven to, with the time.
    pub driven: Vec<(Instant, bool)>,
    pub owner: Option<LineId>,
    pub settings: Option<LineSettings>,
    pub requests: u64,
    pub seqno: u32,
}

/// What is at the end of a path.
#[derive(Debug, Clone, Default)]
pub struct Port {
    pub is_plugged: bool,
    pub open: Option<PortId>,
    /// What was written to it.
    pub sent: Vec<(Instant, String)>,
    /// Answers each write with this, after 10 ms.
    pub answer: Option<&'static str>,
    pub opens: u64,
}

/// What the field says to the gateway.
#[derive(Debug, Clone, PartialEq)]
pub enum Said {
    Reading(String, Instant, Outcome),
    Total(String, u64),
    Recovered(String),
    Written(RequestId, Result<Value, Fault>),
    Online(String, bool),
}

enum Due {
    Bus(RequestId, BusOutcome),
    Line(LineId, LineEvent),
    Port(PortId, PortEvent, Vec<u8>),
}

impl Bench {
    pub fn new() -> Self {
        Self::with_seed(1)
    }

    pub fn with_seed(seed: u64) -> Self {
        Self {
            field: Field::new(&mut Rng::from_seed(seed)),
            now: Instant::from_nanos(1_000_000_000),
            chips: BTreeMap::new(),
            trouble: BTreeMap::new(),
            files: BTreeMap::new(),
            disk: None,
            uptime: Duration::ZERO,
            lines: BTreeMap::new(),
            ports: BTreeMap::new(),
            said: Vec::new(),
            open_buses: BTreeMap::new(),
            transfers: Vec::new(),
            wakes: 0,
            ids: GenSlab::new(),
            point_ids: GenSlab::new(),
            names: BTreeMap::new(),
            devices: BTreeMap::new(),
            memory: Memory::new(usize::MAX),
            due: BTreeMap::new(),
            order: 0,
            busy_until: BTreeMap::new(),
            requests: 0,
        }
    }

    /// Both clocks.
    pub fn clocks(&self) -> Now {
        Now {
            monotonic: self.now,
            wall: WallTime::default(),
        }
    }

    /// Adds a device; its points are then known as `NAME/POINT`.
    pub fn add(&mut self, name: &str, driver: Driver, every: Duration) -> DeviceId {
        let device = self.add_without_draining(name, driver, every);
        self.drain();
        device
    }

    pub fn add_without_draining(
        &mut self,
        name: &str,
        driver: Driver,
        every: Duration,
    ) -> DeviceId {
        let device = self.ids.insert(());
        self.devices.insert(name.to_owned(), device);
        let mut points = Vec::new();
        for spec in points_of(&driver) {
            let point = self.point_ids.insert(());
            self.names.insert(point, format!("{name}/{}", spec.name));
            points.push((point, spec.name));
        }
        let settings = DeviceSettings { driver, every };
        let now = self.clocks();
        self.field.add_device(now, device, name, settings, &points);
        device
    }

    /// An I2C device on bus 1.
    pub fn add_i2c(&mut self, name: &str, chip: I2cChip, address: u8, every: Duration) {
        let driver = i2c(1, chip, address);
        self.add(name, driver, every);
    }

    pub fn remove(&mut self, name: &str) {
        let device = self.devices.remove(name).expect("a device of that name");
        let now = self.clocks();
        self.field.remove_device(now, device);
    }

    /// Lets time pass.
    pub fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            let host = self.due.keys().next().map(|(at, _)| *at);
            let next = [host, self.field.poll_timeout()]
                .into_iter()
                .flatten()
                .min();
            let Some(next) = next.filter(|next| *next <= end) else {
                break;
            };
            self.now = self.now.max(next);
            self.turn();
        }
        self.now = end;
    }

    pub fn run_secs(&mut self, seconds: u64) {
        self.run(Duration::from_secs(seconds));
    }

    pub fn run_millis(&mut self, millis: u64) {
        self.run(Duration::from_millis(millis));
    }

    /// One turn of the host: what has happened, then time.
    fn turn(&mut self) {
        let now = self.clocks();
        while let Some(entry) = self.due.first_entry() {
            if entry.key().0 > now.monotonic {
                break;
            }
            match entry.remove() {
                Due::Bus(request, outcome) => {
                    self.field.handle_bus(now, request, outcome);
                }
                Due::Line(line, event) => self.field.handle_line(now, line, event),
                Due::Port(port, event, bytes) => self.deliver(port, &event, &bytes),
            }
            self.drain();
        }
        if self.field.poll_timeout().is_some_and(|at| at <= self.now) {
            self.wakes += 1;
            let now = self.clocks();
            self.field.handle_timeout(now);
            assert!(
                self.field.poll_timeout().is_none_or(|at| at > self.now),
                "time must advance"
            );
            self.drain();
        }
    }

    fn deliver(&mut self, port: PortId, event: &PortEvent, bytes: &[u8]) {
        let now = self.clocks();
        let mut recv = RecvBuffer::new(&self.memory);
        if bytes.is_empty() {
            self.field.handle_port(now, port, event.clone(), &mut recv);
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let spare = recv.spare();
            let count = rest.len().min(spare.len());
            spare[..count].copy_from_slice(&rest[..count]);
            recv.commit(count);
            rest = &rest[count..];
            let event = PortEvent::Received { count };
            self.field.handle_port(now, port, event, &mut recv);
            assert!(recv.bytes().is_empty(), "what lies there is taken");
        }
        assert_eq!(self.memory.used(), 0, "an idle port holds no buffer");
    }

    /// Does what the field asks.
    pub fn drain(&mut self) {
        while let Some(output) = self.field.poll_output() {
            match output {
                Output::OpenBus { bus, settings } => {
                    assert!(self.open_buses.insert(bus, settings).is_none());
                }
                Output::CloseBus { bus } => {
                    assert!(self.open_buses.remove(&bus).is_some());
                    self.busy_until.remove(&bus);
                }
                Output::Bus {
                    bus,
                    request,
                    op,
                    deadline,
                } => self.transfer(bus, request, op, deadline),
                Output::Line(command) => self.command_line(command),
                Output::Port(command) => self.command_port(command),
                Output::Reading(reading) => {
                    let name = self.names[&reading.point].clone();
                    self.say(Said::Reading(name, reading.at, reading.outcome));
                }
                Output::Total { point, total } => {
                    let name = self.names[&point].clone();
                    self.say(Said::Total(name, total));
                }
                Output::Recovered { point } => {
                    let name = self.names[&point].clone();
                    self.say(Said::Recovered(name));
                }
                Output::Written(written) => {
                    self.say(Said::Written(written.request, written.outcome));
                }
                Output::Availability { device, online } => {
                    let (name, _) = self
                        .devices
                        .iter()
                        .find(|(_, known)| **known == device)
                        .expect("a device that exists");
                    let name = name.clone();
                    self.say(Said::Online(name, online));
                }
            }
        }
    }

    fn say(&mut self, said: Said) {
        self.said.push((self.now, said));
    }

    fn later(&mut self, delay: Duration, due: Due) {
        self.order += 1;
        self.due.insert((self.now + delay, self.order), due);
    }

    fn transfer(&mut self, bus: BusId, request: RequestId, op: BusOp, deadline: Instant) {
        let settings = self.open_buses[&bus].clone();
        // One after the other, in the order in which they came.
        let begins = self.busy_until.get(&bus).copied().unwrap_or_default();
        let begins = begins.max(self.now);
        assert!(deadline > begins, "those before it have their time");
        self.transfers
            .push((self.now, settings.clone(), op.clone()));
        let (number, address) = match (&settings, &op) {
            (BusSettings::I2c { number, .. }, BusOp::I2c { address, .. }) => {
                (*number, Some(*address))
            }
            (BusSettings::Machine, BusOp::Machine(_)) => (255, None),
            other => panic!("a transfer on the wrong bus: {other:?}"),
        };
        let trouble = self
            .trouble
            .get(&(number, address))
            .or_else(|| self.trouble.get(&(number, None)));
        let quick = begins + Duration::from_micros(200);
        let (ends, outcome) = match trouble {
            Some(Trouble::Forgotten) => return,
            Some(Trouble::Absent) => (quick, Err(BusError::NoAnswer)),
            Some(Trouble::Stuck) => {
                let ends = match &settings {
                    BusSettings::I2c {
                        transfer_timeout, ..
                    } => begins + *transfer_timeout,
                    BusSettings::Machine => deadline,
                };
                (ends, Err(BusError::Timeout))
            }
            Some(Trouble::Error(error)) => (quick, Err(*error)),
            None => {
                let ends = begins + Duration::from_micros(500);
                (ends, self.honest(begins, number, op))
            }
        };
        self.busy_until.insert(bus, ends);
        self.later(ends.since(self.now), Due::Bus(request, outcome));
    }

    fn honest(&mut self, now: Instant, number: u8, op: BusOp) -> BusOutcome {
        match op {
            BusOp::I2c {
                address,
                write,
                read,
            } => match self.chips.get_mut(&(number, address)) {
                Some(chip) => {
                    let bytes = chip.transfer(now, &write, usize::from(read));
                    Ok(BusReply::Bytes(bytes.as_slice().into()))
                }
                None => Err(BusError::NoAnswer),
            },
            BusOp::Machine(questions) => {
                let facts = questions.iter().map(|question| self.fact(question));
                Ok(BusReply::Machine(facts.collect()))
            }
        }
    }

    fn fact(&self, question: &Question) -> Result<Fact, BusError> {
        match question {
            Question::File { path, max } => match self.files.get(&**path) {
                Some(text) => {
                    let count = text.len().min(*max as usize);
                    Ok(Fact::File(text[..count].into()))
                }
                None => Err(BusError::NoAnswer),
            },
            Question::DiskSpace { .. } => self
                .disk
                .map(|(total, available)| Fact::DiskSpace { total, available })
                .ok_or(BusError::Failed(5)),
            Question::Uptime => Ok(Fact::Uptime(self.uptime)),
        }
    }

    fn command_line(&mut self, command: LineCommand) {
        let now = self.now;
        match command {
            LineCommand::Request { line, settings } => {
                let LineRef::Offset(offset) = settings.line else {
                    panic!("the bench knows offsets only");
                };
                let place = self.lines.entry(offset).or_default();
                place.requests += 1;
                let event = if let Some(fault) = &place.refused {
                    LineEvent::Lost(fault.clone())
                } else if place.owner.is_some() {
                    LineEvent::Lost(Fault::new(FaultKind::BusError, "held by another"))
                } else {
                    place.owner = Some(line);
                    place.seqno = 0;
                    if let Direction::Output {
                        initial: Some(level),
                        ..
                    } = settings.direction
                    {
                        place.level = level;
                        place.driven.push((now, level));
                    }
                    place.settings = Some(settings);
                    LineEvent::Ready {
                        active: place.level,
                    }
                };
                self.later(Duration::from_micros(300), Due::Line(line, event));
            }
            LineCommand::Set {
                line,
                request,
                active,
            } => {
                let place = self.line_of(line);
                let outcome = if place.is_broken {
                    Err(Fault::new(FaultKind::BusError, "the line does not obey"))
                } else if let Some(fault) = &place.refused {
                    Err(fault.clone())
                } else {
                    place.level = active;
                    place.driven.push((now, active));
                    Ok(active)
                };
                let event = LineEvent::Set { request, outcome };
                self.later(Duration::from_micros(50), Due::Line(line, event));
            }
            LineCommand::Read { line } => {
                let active = self.line_of(line).level;
                let event = LineEvent::Level { active };
                self.later(Duration::from_micros(50), Due::Line(line, event));
            }
            LineCommand::Release { line } => {
                // It may have been lost already, and the word of it be on its way.
                let mut places = self.lines.values_mut();
                if let Some(place) = places.find(|place| place.owner == Some(line)) {
                    place.owner = None;
                }
                self.forget_line(line);
            }
        }
    }

    /// Of what is gone an honest host says nothing more.
    fn forget_line(&mut self, line: LineId) {
        self.due
            .retain(|_, due| !matches!(due, Due::Line(owner, _) if *owner == line));
    }

    fn forget_port(&mut self, port: PortId) {
        self.due
            .retain(|_, due| !matches!(due, Due::Port(owner, ..) if *owner == port));
    }

    fn line_of(&mut self, line: LineId) -> &mut Line {
        self.lines
            .values_mut()
            .find(|place| place.owner == Some(line))
            .expect("a line that is ours")
    }

    fn command_port(&mut self, command: PortCommand) {
        match command {
            PortCommand::Open { port, settings } => {
                let path = settings.path.to_string();
                let place = self.ports.entry(path.clone()).or_default();
                assert!(place.open.is_none(), "opened twice");
                place.opens += 1;
                let event = if place.is_plugged {
                    place.open = Some(port);
                    PortEvent::Opened
                } else {
                    let story = format!("{path} is not there");
                    PortEvent::Closed(Fault::new(FaultKind::Unplugged, story))
                };
                self.later(Duration::from_millis(2), Due::Port(port, event, Vec::new()));
            }
            PortCommand::Write { port, bytes } => {
                let now = self.now;
                let place = self.port_of(port);
                let text = String::from_utf8_lossy(&bytes).into_owned();
                place.sent.push((now, text));
                if let Some(answer) = place.answer {
                    self.later(
                        Duration::from_millis(10),
                        Due::Port(port, PortEvent::Received { count: 0 }, answer.into()),
                    );
                }
            }
            PortCommand::Close { port } => {
                self.port_of(port).open = None;
                self.forget_port(port);
            }
        }
    }

    fn port_of(&mut self, port: PortId) -> &mut Port {
        self.ports
            .values_mut()
            .find(|place| place.open == Some(port))
            .expect("a port that is open")
    }

    /// Changes an input from outside: the kernel stamps and counts the edge, if anyone listens.
    pub fn edge(&mut self, offset: u32, level: bool) {
        let place = self.lines.entry(offset).or_default();
        place.level = level;
        place.seqno += 1;
        if let Some(line) = place.owner {
            let event = LineEvent::Edge {
                at: self.now,
                active: level,
                line_seqno: place.seqno,
            };
            self.later(Duration::ZERO, Due::Line(line, event));
        }
    }

    /// The chip that the line is on disappears.
    pub fn pull_line(&mut self, offset: u32) {
        let fault = Fault::new(FaultKind::Unplugged, "the gpio chip is gone");
        let place = self.lines.entry(offset).or_default();
        place.refused = Some(fault.clone());
        if let Some(line) = place.owner.take() {
            self.forget_line(line);
            self.later(Duration::ZERO, Due::Line(line, LineEvent::Lost(fault)));
        }
    }

    pub fn plug(&mut self, path: &str) {
        self.ports.entry(path.to_owned()).or_default().is_plugged = true;
    }

    pub fn unplug(&mut self, path: &str) {
        let place = self.ports.entry(path.to_owned()).or_default();
        place.is_plugged = false;
        if let Some(port) = place.open.take() {
            self.forget_port(port);
            let fault = Fault::new(FaultKind::Unplugged, format!("{path} was unplugged"));
            let event = PortEvent::Closed(fault);
            self.later(Duration::ZERO, Due::Port(port, event, Vec::new()));
        }
    }

    /// Bytes come in on a port, and are handled at once.
    pub fn receive(&mut self, path: &str, bytes: impl AsRef<[u8]>) {
        let port = self.ports[path].open.expect("an open port");
        let event = PortEvent::Received {
            count: bytes.as_ref().len(),
        };
        self.later(
            Duration::ZERO,
            Due::Port(port, event, bytes.as_ref().into()),
        );
        self.run(Duration::ZERO);
    }

    /// A command, carried out in this turn.
    pub fn set(&mut self, name: &str, value: Value, hold: Option<Duration>) -> RequestId {
        self.requests += 1;
        let request = RequestId(self.requests);
        let write = PointWrite {
            point: self.point(name),
            request,
            value,
            hold,
        };
        let now = self.clocks();
        self.field.handle_write(now, write);
        self.drain();
        request
    }

    /// A command, and its answer.
    pub fn set_and_wait(&mut self, name: &str, value: Value) -> Result<Value, Fault> {
        let request = self.set(name, value, None);
        self.run_millis(1);
        self.answer(request)
    }

    /// The one answer to a command.
    pub fn answer(&self, request: RequestId) -> Result<Value, Fault> {
        let mut answers = self.said.iter().filter_map(|(_, said)| match said {
            Said::Written(answered, outcome) if *answered == request => Some(outcome.clone()),
            _ => None,
        });
        let answer = answers.next().expect("an answer");
        assert!(answers.next().is_none(), "exactly one answer");
        answer
    }

    pub fn get(&mut self, name: &str) {
        let point = self.point(name);
        let now = self.clocks();
        self.field.handle_sample(now, point);
        self.drain();
    }

    pub fn stop(&mut self) {
        let now = self.clocks();
        self.field.stop(now);
        self.drain();
    }

    pub fn point(&self, name: &str) -> PointId {
        let (point, _) = self
            .names
            .iter()
            .rev()
            .find(|(_, known)| *known == name)
            .expect("a point of that name");
        *point
    }

    /// Every reading of a point: when it was said, when it was captured, what it was.
    pub fn readings(&self, name: &str) -> Vec<(Instant, Instant, Outcome)> {
        self.said
            .iter()
            .filter_map(|(said_at, said)| match said {
                Said::Reading(point, at, outcome) if point == name => {
                    Some((*said_at, *at, outcome.clone()))
                }
                _ => None,
            })
            .collect()
    }

    /// What a counter wanted kept.
    pub fn totals(&self, name: &str) -> Vec<u64> {
        let totals = self.said.iter().filter_map(|(_, said)| match said {
            Said::Total(of, total) if of == name => Some(*total),
            _ => None,
        });
        totals.collect()
    }

    /// A counter goes on from what was kept.
    pub fn restore_total(&mut self, name: &str, total: u64) {
        let found = self.names.iter().find(|(_, known)| *known == name);
        let (point, _) = found.expect("a point that exists");
        self.field.restore_total(*point, total);
    }

    pub fn outcomes(&self, name: &str) -> Vec<Outcome> {
        self.readings(name)
            .into_iter()
            .map(|(_, _, outcome)| outcome)
            .collect()
    }

    /// The last reading of a point.
    pub fn last(&self, name: &str) -> Outcome {
        self.outcomes(name).pop().expect("a reading")
    }

    /// The last reading as text: a value, or a quality with its reason.
    pub fn last_text(&self, name: &str) -> String {
        text_of(&self.last(name))
    }

    pub fn online(&self, name: &str) -> Option<bool> {
        self.said.iter().rev().find_map(|(_, said)| match said {
            Said::Online(device, online) if device == name => Some(*online),
            _ => None,
        })
    }

    /// Forgets what was said.
    pub fn forget(&mut self) {
        self.said.clear();
        self.transfers.clear();
        self.wakes = 0;
    }

    pub fn stats(&self, name: &str) -> DeviceStats {
        let stats = self.field.stats();
        stats
            .device(self.devices[name])
            .expect("a device that exists")
            .clone()
    }

    /// The levels that a line was driven to, with the milliseconds since `since`.
    pub fn driven(&self, offset: u32, since: Instant) -> Vec<(u64, bool)> {
        self.lines[&offset]
            .driven
            .iter()
            .filter(|(at, _)| *at >= since)
            .map(|(at, level)| (at.since(since).as_millis() as u64, *level))
            .collect()
    }

    pub fn an_unknown_point() -> PointId {
        PointId::from_parts(9999, 7)
    }
}

pub fn text_of(outcome: &Outcome) -> String {
    let value_text = |value: &Value| match value {
        Value::Text(text) => text.to_string(),
        Value::Bool(active) => active.to_string(),
        Value::Int(number) => number.to_string(),
        Value::Uint(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
    };
    match outcome {
        Outcome::Good(value) => value_text(value),
        Outcome::Uncertain(value, fault) => format!("{} ({fault})", value_text(value)),
        Outcome::Fault(fault) => fault.to_string(),
    }
}

/// An I2C device.
pub fn i2c(bus: u8, chip: I2cChip, address: u8) -> Driver {
    Driver::I2c(I2cSettings {
        bus,
        address,
        transfer_timeout: Duration::from_millis(50),
        chip,
    })
}
