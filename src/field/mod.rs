//! The devices wired to the machine: drivers as step machines, schedules, back-off, outputs that
//! are safe.
//!
//! The field owns its devices' state. It never touches a bus: it asks for transfers, lines and
//! ports with [`Output`], and the host answers. One silent device holds up nothing but itself.
//!
//! | limit | what happens there | counter |
//! |---|---|---|
//! | [`BUS_QUEUE_MAX`] transfers wait for a bus | `busy` on the device | [`BusStats::queue_full`] |
//! | a transfer's deadline | `timeout` on the device; the next one begins | [`BusStats::timeouts`] |
//! | [`HOST_GRACE`] after it | the same, without the host | [`BusStats::unanswered`] |
//! | [`BACKOFF_MAX`] | the longest that a failing device is left alone | [`DeviceStats::faults`] |
//! | [`OFFLINE_AFTER`] failures in a row | the device is offline | |
//! | [`SETS_PENDING_MAX`] unanswered sets of a line | `busy` on the command | [`DeviceStats::queue_full`] |
//! | [`EVENT_BUFFER`] events of a line between two turns | `edges_lost`; a counter counts them all the same | [`DeviceStats::edges_lost`] |
//! | `line_max` bytes of a line of text | it is discarded to its end | [`PortStats::lines_too_long`] |
//! | [`UNCLAIMED_LINES_MAX`] lines that match nothing | `bad_answer` | [`PortStats::lines_unclaimed`] |
//! | [`POLLS_UNANSWERED_MAX`] polls without an answer | `no_answer`; offline | [`DeviceStats::polls`] |
//!
//! A fault is reported once, and again when it changes or when somebody asks for a fresh reading;
//! each one is counted.

mod backoff;
pub mod bus;
mod buses;
mod context;
mod driver;
mod gpio;
mod i2c;
pub mod line;
mod lines;
pub mod port;
mod ports;
mod report;
mod sampled;
mod schedule;
pub mod settings;
mod stats;
mod system;
mod timers;

use self::bus::{BusError, BusOp, BusOutcome, BusSettings};
use self::buses::Buses;
use self::context::Context;
use self::driver::{Completion, Driver};
use self::gpio::{Gpio, LineOwners};
use self::line::{LineCommand, LineEvent};
use self::lines::Lines;
use self::port::{PortCommand, PortEvent};
use self::ports::Ports;
use self::report::Reporter;
use self::sampled::Sampled;
use self::settings::DeviceSettings;
use self::timers::Timer;
use crate::buffer::RecvBuffer;
use crate::id::{BusId, DeviceId, LineId, PointId, PortId, RequestId};
use crate::point::{Fault, FaultKind, Outcome, PointWrite, Reading, Written};
use crate::rng::Rng;
use crate::slab::IdTable;
use crate::time::{Instant, Now};

pub use self::buses::{BUS_QUEUE_MAX, HOST_GRACE, I2C_DEADLINE_SLACK, MACHINE_DEADLINE};
pub use self::driver::points_of;
pub use self::gpio::{
    EVENT_BUFFER, LINE_BACKOFF_BASE, LINE_BACKOFF_MAX, SET_BACKOFF_BASE, SET_BACKOFF_MAX,
    SETS_PENDING_MAX, STOP_ATTEMPTS_MAX,
};
pub use self::lines::{FIRST_LINE_QUIET, POLL_GAP, POLLS_UNANSWERED_MAX, UNCLAIMED_LINES_MAX};
pub use self::ports::{PORT_BACKOFF_BASE, PORT_BACKOFF_MAX};
pub use self::report::OFFLINE_AFTER;
pub use self::sampled::BACKOFF_MAX;
pub use self::schedule::{EVERY_MIN, FIRST_WITHIN};
pub use self::stats::{BusStats, DeviceStats, FaultCounts, PortStats, Stats, Strays};
pub use self::system::{FILE_MAX, THERMAL_ZONE};

/// All devices, and the buses, lines and ports that they need.
#[derive(Debug)]
pub struct Field {
    cx: Context,
    devices: IdTable<DeviceId, Device>,
    /// Whose each point is, and its place in the driver's table.
    points: IdTable<PointId, (DeviceId, usize)>,
    buses: Buses,
    ports: Ports,
    lines: LineOwners,
    strays: Strays,
}

/// Do this.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// A bus is needed.
    OpenBus {
        /// As transfers will name it.
        bus: BusId,
        /// What to open.
        settings: BusSettings,
    },
    /// A bus is no longer needed. Answers to its transfers may still come.
    CloseBus {
        /// Which.
        bus: BusId,
    },
    /// One transfer, to be carried out after those that the bus has already; answered by
    /// [`Field::handle_bus`]. What comes in one turn is best handed to the bus's worker together.
    Bus {
        /// On which bus.
        bus: BusId,
        /// Named by the answer.
        request: RequestId,
        /// What to do.
        op: BusOp,
        /// After this the answer is [`BusError::Timeout`], whatever the bus does.
        deadline: Instant,
    },
    /// For a GPIO line. Commands for one line are carried out in order: what is set before a
    /// release is set.
    Line(LineCommand),
    /// For a serial port. A port that is opened again keeps its id.
    Port(PortCommand),
    /// A counter has counted so far, which is to be kept.
    Total {
        /// Which.
        point: PointId,
        /// Edges, in all.
        total: u64,
    },
    /// A driver has found something out.
    Reading(Reading),
    /// What was wrong with a point is over, although there is no value to show for it: an event's
    /// line is ours again, a port to which a point is only written is open again.
    Recovered {
        /// Which.
        point: PointId,
    },
    /// The one answer to a [`PointWrite`].
    Written(Written),
    /// A device is there, or is not. Said when it changes; nothing is said until something is
    /// known.
    Availability {
        /// Which.
        device: DeviceId,
        /// Whether it is.
        online: bool,
    },
}

#[derive(Debug)]
struct Device {
    reporter: Reporter,
    body: Body,
}

#[derive(Debug)]
enum Body {
    Sampled(Sampled),
    Gpio(Gpio),
    Lines(Lines),
}

impl Field {
    /// No devices.
    pub fn new(rng: &mut Rng) -> Self {
        Self {
            cx: Context::new(rng.fork()),
            devices: IdTable::new(),
            points: IdTable::new(),
            buses: Buses::default(),
            ports: Ports::default(),
            lines: LineOwners::new(),
            strays: Strays::default(),
        }
    }

    /// Adds a device. `points` has an id for each name of [`points_of`] its driver; a point that
    /// has none there is measured but never heard of. A device with the same id is removed first.
    pub fn add_device(
        &mut self,
        now: Now,
        device: DeviceId,
        name: &str,
        settings: DeviceSettings,
        points: &[(PointId, Box<str>)],
    ) {
        if self.devices.contains(device) {
            self.remove_device(now, device);
        }
        self.cx.now = now.monotonic;
        if self.cx.is_stopping {
            return;
        }
        let ids: Vec<_> = points_of(&settings.driver)
            .iter()
            .map(|spec| {
                let known = points.iter().find(|(_, name)| *name == spec.name);
                known.map(|(point, _)| *point)
            })
            .collect();
        for (index, point) in ids.iter().enumerate() {
            if let Some(point) = point {
                self.points.insert(*point, (device, index));
            }
        }
        let reporter = Reporter::new(device, name, ids);
        let cx = &mut self.cx;
        let every = settings.every;
        let body = match settings.driver {
            settings::Driver::System(settings) => {
                let bus = self.buses.acquire(cx, &BusSettings::Machine);
                let driver = Driver::system(settings);
                Body::Sampled(Sampled::new(&reporter, cx, bus, driver, every))
            }
            settings::Driver::I2c(settings) => {
                let bus = self.buses.acquire(cx, &driver::bus_of(&settings));
                let driver = Driver::i2c(&settings);
                Body::Sampled(Sampled::new(&reporter, cx, bus, driver, every))
            }
            settings::Driver::Gpio(settings) => {
                let gpio = Gpio::new(&reporter, cx, &mut self.lines, settings, every);
                Body::Gpio(gpio)
            }
            settings::Driver::Lines(settings) => {
                let port = self.ports.acquire(
                    cx,
                    &settings.port_name,
                    &settings.port,
                    device,
                    settings.line_max,
                );
                let lines = Lines::new(&reporter, cx, &self.ports, port, settings, every);
                Body::Lines(lines)
            }
        };
        self.devices.insert(device, Device { reporter, body });
        self.greet(device);
        self.check_invariants();
    }

    /// Removes a device: its outputs go to their safe state, its lines back to the kernel, its
    /// commands that wait are answered. A bus or port that nobody uses any more is closed when the
    /// outputs have been drained: a device that takes its place before that finds it open.
    pub fn remove_device(&mut self, now: Now, device: DeviceId) {
        self.cx.now = now.monotonic;
        let Some(mut gone) = self.devices.remove(device) else {
            return;
        };
        let (cx, reporter) = (&mut self.cx, &mut gone.reporter);
        match &mut gone.body {
            Body::Sampled(sampled) => {
                sampled.stop(reporter, cx);
                self.buses.release(sampled.bus(), device);
            }
            Body::Gpio(gpio) => gpio.remove(reporter, cx, &mut self.lines),
            Body::Lines(lines) => {
                lines.stop(reporter, cx, &mut self.ports);
                self.ports.release(lines.port(), device);
            }
        }
        for point in gone.reporter.points() {
            self.points.remove(point);
        }
        self.check_invariants();
    }

    /// A counter goes on from here, if it has not counted further by itself.
    pub fn restore_total(&mut self, point: PointId, total: u64) {
        let owner = self.points.get(point).copied();
        let found = owner.and_then(|(device, index)| Some((self.devices.get_mut(device)?, index)));
        if let Some((Device { body, .. }, index)) = found
            && let Body::Gpio(gpio) = body
        {
            gpio.restore_total(index, total);
        }
    }

    /// The answer to a transfer.
    pub fn handle_bus(&mut self, now: Now, request: RequestId, outcome: BusOutcome) {
        self.cx.now = now.monotonic;
        self.complete(request, outcome);
        self.check_invariants();
    }

    /// What the host says of a line.
    pub fn handle_line(&mut self, now: Now, line: LineId, event: LineEvent) {
        self.cx.now = now.monotonic;
        let owner = self.lines.get(line).copied();
        let understood = owner.is_some_and(|(device, index)| match self.devices.get_mut(device) {
            Some(Device {
                reporter,
                body: Body::Gpio(gpio),
            }) => gpio.handle_line(reporter, &mut self.cx, index, event),
            _ => false,
        });
        if !understood {
            self.strays.line_events += 1;
        }
        self.check_invariants();
    }

    /// What the host says of a port. All that lies in `recv` is taken.
    pub fn handle_port(&mut self, now: Now, port: PortId, event: PortEvent, recv: &mut RecvBuffer) {
        self.cx.now = now.monotonic;
        let Some(state) = self.ports.get_mut(port) else {
            self.strays.port_events += 1;
            recv.clear();
            return;
        };
        match event {
            PortEvent::Opened => {
                recv.clear();
                state.become_open(&self.cx);
                let users: Vec<_> = state.users().collect();
                for device in users {
                    self.greet(device);
                }
            }
            PortEvent::Received { .. } => {
                if state.is_open() {
                    self.receive(port, recv.bytes());
                } else {
                    self.strays.port_events += 1;
                }
                recv.clear();
            }
            PortEvent::Closed(fault) => {
                recv.clear();
                state.become_closed(&mut self.cx, port, fault);
                let users: Vec<_> = state.users().collect();
                for device in users {
                    self.greet(device);
                }
            }
        }
        self.check_invariants();
    }

    /// A command; answered by exactly one [`Output::Written`].
    pub fn handle_write(&mut self, now: Now, write: PointWrite) {
        self.cx.now = now.monotonic;
        let cx = &mut self.cx;
        let owner = self.points.get(write.point).copied();
        let found = owner.and_then(|(device, index)| Some((self.devices.get_mut(device)?, index)));
        let Some((Device { reporter, body }, index)) = found else {
            self.strays.points += 1;
            let fault = Fault::new(FaultKind::Refused, "there is no such point");
            cx.emit(Output::Written(Written {
                point: write.point,
                request: write.request,
                outcome: Err(fault),
            }));
            return;
        };
        if cx.is_stopping {
            let fault = Fault::new(FaultKind::Stopping, "the gateway is stopping");
            reporter.answer(cx, &write, Err(fault));
            return;
        }
        match body {
            Body::Sampled(_) => {
                let story = format!("{} only measures", reporter.name());
                reporter.answer(cx, &write, Err(Fault::new(FaultKind::Refused, story)));
            }
            Body::Gpio(gpio) => gpio.handle_write(reporter, cx, index, write),
            Body::Lines(lines) => lines.handle_write(reporter, cx, &mut self.ports, index, &write),
        }
        self.check_invariants();
    }

    /// Somebody wants a fresh reading of a point: it follows as soon as the device can, or the
    /// fault that keeps it from that. (An event has none: nothing follows.)
    pub fn handle_sample(&mut self, now: Now, point: PointId) {
        self.cx.now = now.monotonic;
        if self.cx.is_stopping {
            return;
        }
        let cx = &mut self.cx;
        let owner = self.points.get(point).copied();
        let found = owner.and_then(|(device, index)| Some((self.devices.get_mut(device)?, index)));
        let Some((Device { reporter, body }, index)) = found else {
            self.strays.points += 1;
            let fault = Fault::new(FaultKind::Refused, "there is no such point");
            cx.emit(Output::Reading(Reading {
                point,
                at: now.monotonic,
                outcome: Outcome::Fault(fault),
            }));
            return;
        };
        match body {
            Body::Sampled(sampled) => sampled.handle_wish(reporter, cx, &mut self.buses, index),
            Body::Gpio(gpio) => gpio.handle_wish(reporter, cx, index),
            Body::Lines(lines) => lines.handle_wish(reporter, cx, &mut self.ports, index),
        }
        self.check_invariants();
    }

    /// Time has passed. What is due is done; [`Field::poll_timeout`] is later than `now` then.
    pub fn handle_timeout(&mut self, now: Now) {
        self.cx.now = now.monotonic;
        while let Some(timer) = self.cx.timers.pop_due(now.monotonic) {
            self.fire(timer);
        }
        self.check_invariants();
    }

    /// When [`Field::handle_timeout`] is wanted.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.cx.timers.next()
    }

    /// What to do, in order, until there is nothing.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.cx.take_output().or_else(|| {
            self.buses.close_unused(&mut self.cx);
            self.ports.close_unused(&mut self.cx);
            self.cx.take_output()
        })
    }

    /// Every output goes to its safe state and every pulse ends. Nothing is sampled, polled or
    /// opened any more, and every further command is refused.
    pub fn stop(&mut self, now: Now) {
        self.cx.now = now.monotonic;
        self.cx.is_stopping = true;
        let cx = &mut self.cx;
        self.buses.stop();
        self.ports.stop(cx);
        for (_, Device { reporter, body }) in self.devices.iter_mut() {
            match body {
                Body::Sampled(sampled) => sampled.stop(reporter, cx),
                Body::Gpio(gpio) => gpio.stop(reporter, cx),
                Body::Lines(lines) => lines.stop(reporter, cx, &mut self.ports),
            }
        }
        self.check_invariants();
    }

    /// Whether [`Field::stop`] was called and every output has answered since. One that refuses
    /// [`STOP_ATTEMPTS_MAX`] times is not waited for.
    pub fn is_stopped(&self) -> bool {
        self.cx.is_stopping
            && self.devices.iter().all(|(_, device)| match &device.body {
                Body::Gpio(gpio) => gpio.is_stopped(),
                Body::Sampled(_) | Body::Lines(_) => true,
            })
    }

    /// What was counted, at this moment.
    pub fn stats(&self) -> Stats {
        Stats {
            buses: self.buses.stats(),
            ports: self.ports.stats(),
            devices: self
                .devices
                .iter()
                .map(|(id, device)| {
                    let reporter = &device.reporter;
                    (id, reporter.name().into(), reporter.stats.clone())
                })
                .collect(),
            strays: self.strays,
        }
    }

    fn complete(&mut self, request: RequestId, outcome: BusOutcome) {
        let owner = self.buses.complete(&mut self.cx, request, &outcome);
        let found = owner.and_then(|device| self.devices.get_mut(device));
        match found {
            Some(Device {
                reporter,
                body: Body::Sampled(sampled),
            }) => {
                let completion = Completion::Bus(outcome);
                sampled.handle_answer(reporter, &mut self.cx, &mut self.buses, &completion);
            }
            _ => self.strays.answers += 1,
        }
    }

    fn fire(&mut self, timer: Timer) {
        let cx = &mut self.cx;
        match timer {
            Timer::Sample(device) => {
                let Some(Device { reporter, body }) = self.devices.get_mut(device) else {
                    return;
                };
                match body {
                    Body::Sampled(sampled) => sampled.handle_due(reporter, cx, &mut self.buses),
                    Body::Gpio(gpio) => gpio.handle_due(reporter, cx),
                    Body::Lines(lines) => lines.handle_due(reporter, cx, &mut self.ports),
                }
            }
            Timer::Step(device) => {
                if let Some(Device {
                    reporter,
                    body: Body::Sampled(sampled),
                }) = self.devices.get_mut(device)
                {
                    sampled.handle_woken(reporter, cx, &mut self.buses);
                }
            }
            Timer::Transfer(request) => {
                // The host has lost it, and neither the device nor its bus must stand still.
                log::error!("transfer never answered request={request}");
                self.buses.count_unanswered(request);
                self.complete(request, Err(BusError::Timeout));
            }
            Timer::Line(line) | Timer::Pulse(line) | Timer::Lease(line) => {
                let Some((device, index)) = self.lines.get(line).copied() else {
                    return;
                };
                if let Some(Device {
                    reporter,
                    body: Body::Gpio(gpio),
                }) = self.devices.get_mut(device)
                {
                    match timer {
                        Timer::Line(_) => gpio.handle_retry(cx, index),
                        _ => gpio.handle_output_timer(reporter, cx, index, timer),
                    }
                }
            }
            Timer::Port(port) => self.ports.handle_retry(cx, port),
            Timer::Hold(device, index) => {
                if let Some(Device {
                    body: Body::Lines(lines),
                    ..
                }) = self.devices.get_mut(device)
                {
                    lines.handle_hold_end(cx, &mut self.ports, usize::from(index));
                }
            }
        }
    }

    /// Bytes of a port to the devices on it.
    fn receive(&mut self, port: PortId, bytes: &[u8]) {
        let (cx, devices) = (&mut self.cx, &mut self.devices);
        let Some(state) = self.ports.get_mut(port) else {
            return;
        };
        let name: Box<str> = state.name().into();
        state.receive(cx.now, bytes, |users, text| {
            let mut is_claimed = false;
            for (device, _) in users {
                if let Some((reporter, lines)) = lines_of(devices, *device)
                    && let Some(text) = text
                {
                    is_claimed |= lines.handle_text(reporter, cx, text);
                }
            }
            if !is_claimed {
                for (device, _) in users {
                    if let Some((reporter, lines)) = lines_of(devices, *device) {
                        lines.handle_unclaimed(reporter, cx, &name);
                    }
                }
            }
            is_claimed
        });
    }

    /// Tells a device of a port how the port is.
    fn greet(&mut self, device: DeviceId) {
        let Some(Device {
            reporter,
            body: Body::Lines(lines),
        }) = self.devices.get_mut(device)
        else {
            return;
        };
        let Some(port) = self.ports.get(lines.port()) else {
            return;
        };
        if port.is_open() {
            lines.handle_opened(reporter, &mut self.cx, &mut self.ports);
        } else if let Some(fault) = port.fault().cloned() {
            lines.handle_closed(reporter, &mut self.cx, &fault);
        }
    }

    /// What must hold between two calls.
    fn check_invariants(&self) {
        if !cfg!(debug_assertions) {
            return;
        }
        self.buses.check_invariants();
        for timer in self.cx.timers.keys() {
            let has_owner = match timer {
                Timer::Sample(device) | Timer::Step(device) | Timer::Hold(device, _) => {
                    self.devices.contains(device)
                }
                Timer::Line(line) | Timer::Pulse(line) | Timer::Lease(line) => {
                    self.lines.contains(line)
                }
                Timer::Transfer(request) => self.buses.has_under_way(request),
                Timer::Port(port) => self.ports.get(port).is_some(),
            };
            debug_assert!(has_owner, "{timer:?} belongs to nobody");
        }
        for (point, (device, index)) in self.points.iter() {
            let owner = self.devices.get(*device);
            debug_assert!(
                owner.is_some_and(|owner| *index < owner.reporter.len()),
                "{point} belongs to nobody"
            );
        }
        for (line, (device, _)) in self.lines.iter() {
            debug_assert!(self.devices.contains(*device), "{line} belongs to nobody");
        }
    }
}

fn lines_of(
    devices: &mut IdTable<DeviceId, Device>,
    device: DeviceId,
) -> Option<(&mut Reporter, &mut Lines)> {
    match devices.get_mut(device)? {
        Device {
            reporter,
            body: Body::Lines(lines),
        } => Some((reporter, lines)),
        _ => None,
    }
}
