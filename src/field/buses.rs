//! Buses: fair between devices, and never stalled by one of them.
//!
//! A device has at most one transfer under way or waiting, and a bus carries them out in the order
//! in which they came, one after the other: so between two transfers of one device every other gets
//! its turn. What is asked in one turn is all under way at once, each with the time of those before
//! it on top of its own, for handing them over together costs one wake-up of the bus's worker and
//! one of the loop.

use std::collections::{BTreeMap, VecDeque};

use super::Output;
use super::bus::{BusError, BusOp, BusOutcome, BusSettings};
use super::context::Context;
use super::stats::BusStats;
use super::timers::Timer;
use crate::id::{BusId, DeviceId, RequestId};
use crate::slab::GenSlab;
use crate::time::Duration;

/// Transfers that wait for one bus. An I2C bus has 112 addresses, and a device waits at most once.
pub const BUS_QUEUE_MAX: usize = 128;

/// Transfers under way at once on one bus; more of them wait.
const UNDER_WAY_MAX: usize = 32;

/// What a transfer may take above the kernel's own limit: the wake-up of a worker on a busy Pi.
pub const I2C_DEADLINE_SLACK: Duration = Duration::from_millis(100);

/// What reading a file or asking a file system may take. Only a network file system, or a sensor
/// behind a stuck bus, takes longer.
pub const MACHINE_DEADLINE: Duration = Duration::from_secs(2);

/// So long after its deadline a transfer is given up although the host has not answered, which it
/// has promised to.
pub const HOST_GRACE: Duration = Duration::from_secs(1);

/// All buses, and what is under way on them.
#[derive(Debug, Default)]
pub(super) struct Buses {
    slab: GenSlab<BusId, Bus>,
    /// Invariant: exactly those that some bus has under way.
    flights: BTreeMap<RequestId, Flight>,
    /// A bus may have lost its last user.
    has_unused: bool,
}

#[derive(Debug)]
struct Bus {
    settings: BusSettings,
    users: usize,
    waiting: VecDeque<(DeviceId, BusOp)>,
    /// At most [`UNDER_WAY_MAX`].
    in_flight: Vec<RequestId>,
    stats: BusStats,
}

#[derive(Debug)]
struct Flight {
    bus: BusId,
    device: DeviceId,
}

/// The queue in front of a bus is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct QueueFull;

impl Buses {
    /// The bus with these settings, opened if it is not: one user more.
    pub(super) fn acquire(&mut self, cx: &mut Context, settings: &BusSettings) -> BusId {
        let known = self
            .slab
            .iter_mut()
            .find(|(_, bus)| bus.settings == *settings);
        if let Some((id, bus)) = known {
            bus.users += 1;
            return id;
        }
        let id = self.slab.insert(Bus {
            settings: settings.clone(),
            users: 1,
            waiting: VecDeque::new(),
            in_flight: Vec::new(),
            stats: BusStats::default(),
        });
        cx.emit(Output::OpenBus {
            bus: id,
            settings: settings.clone(),
        });
        id
    }

    /// One user less; what it has waiting is forgotten, what it has under way will find nobody.
    pub(super) fn release(&mut self, bus: BusId, device: DeviceId) {
        let Some(state) = self.slab.get_mut(bus) else {
            return;
        };
        state.waiting.retain(|(owner, _)| *owner != device);
        state.users = state.users.saturating_sub(1);
        self.has_unused |= state.users == 0;
    }

    /// Closes the buses that nobody uses: once a call's outputs are drained, so that a device
    /// which is replaced by another finds its bus open.
    pub(super) fn close_unused(&mut self, cx: &mut Context) {
        if !core::mem::take(&mut self.has_unused) {
            return;
        }
        for id in self.slab.keys() {
            if self.slab.get(id).is_none_or(|bus| bus.users > 0) {
                continue;
            }
            for request in self
                .slab
                .remove(id)
                .into_iter()
                .flat_map(|bus| bus.in_flight)
            {
                self.flights.remove(&request);
                cx.timers.disarm(Timer::Transfer(request));
            }
            cx.emit(Output::CloseBus { bus: id });
        }
    }

    /// A device wants a transfer. Its answer names the device in [`Buses::complete`].
    pub(super) fn submit(
        &mut self,
        cx: &mut Context,
        bus: BusId,
        device: DeviceId,
        op: BusOp,
    ) -> Result<(), QueueFull> {
        let state = self
            .slab
            .get_mut(bus)
            .expect("a device holds its bus until it goes");
        if state.waiting.len() >= BUS_QUEUE_MAX {
            state.stats.queue_full += 1;
            return Err(QueueFull);
        }
        state.waiting.push_back((device, op));
        self.start_next(cx, bus);
        Ok(())
    }

    /// A transfer is over: whose it was, and the next one begins. `None`: nobody asked, or nobody
    /// does any more.
    pub(super) fn complete(
        &mut self,
        cx: &mut Context,
        request: RequestId,
        outcome: &BusOutcome,
    ) -> Option<DeviceId> {
        let flight = self.flights.remove(&request)?;
        cx.timers.disarm(Timer::Transfer(request));
        let bus = self
            .slab
            .get_mut(flight.bus)
            .expect("a bus takes what it has under way along");
        bus.in_flight.retain(|flying| *flying != request);
        let counter = match outcome {
            Ok(_) => &mut bus.stats.answered,
            Err(BusError::NoAnswer) => &mut bus.stats.no_answer,
            Err(BusError::Timeout) => &mut bus.stats.timeouts,
            Err(BusError::Busy) => &mut bus.stats.queue_full,
            Err(BusError::Unavailable(_) | BusError::Failed(_)) => &mut bus.stats.errors,
        };
        *counter += 1;
        self.start_next(cx, flight.bus);
        Some(flight.device)
    }

    /// The host is long overdue with the answer to this transfer.
    pub(super) fn count_unanswered(&mut self, request: RequestId) {
        let flight = self.flights.get(&request);
        if let Some(bus) = flight.and_then(|flight| self.slab.get_mut(flight.bus)) {
            bus.stats.unanswered += 1;
        }
    }

    /// Whether this transfer is under way.
    pub(super) fn has_under_way(&self, request: RequestId) -> bool {
        self.flights.contains_key(&request)
    }

    /// Nothing further is begun.
    pub(super) fn stop(&mut self) {
        for (_, bus) in self.slab.iter_mut() {
            bus.waiting.clear();
        }
    }

    /// The counters, by name.
    pub(super) fn stats(&self) -> Vec<(Box<str>, BusStats)> {
        self.slab
            .iter()
            .map(|(_, bus)| (name_of(&bus.settings), bus.stats))
            .collect()
    }

    pub(super) fn check_invariants(&self) {
        let under_way: usize = self.slab.iter().map(|(_, bus)| bus.in_flight.len()).sum();
        debug_assert_eq!(under_way, self.flights.len());
        for (id, bus) in self.slab.iter() {
            debug_assert!(bus.in_flight.len() <= UNDER_WAY_MAX);
            debug_assert!(bus.waiting.is_empty() || bus.in_flight.len() == UNDER_WAY_MAX);
            for request in &bus.in_flight {
                debug_assert_eq!(self.flights.get(request).map(|flight| flight.bus), Some(id));
            }
        }
    }

    fn start_next(&mut self, cx: &mut Context, bus: BusId) {
        let Some(state) = self.slab.get_mut(bus) else {
            return;
        };
        if state.in_flight.len() >= UNDER_WAY_MAX {
            return;
        }
        let Some((device, op)) = state.waiting.pop_front() else {
            return;
        };
        let request = cx.new_request();
        let deadline = cx.now + time_for(&state.settings, state.in_flight.len());
        state.in_flight.push(request);
        state.stats.transfers += 1;
        self.flights.insert(request, Flight { bus, device });
        cx.wake_at(Timer::Transfer(request), deadline + HOST_GRACE);
        cx.emit(Output::Bus {
            bus,
            request,
            op,
            deadline,
        });
    }
}

/// What a transfer may take behind so many others. A chip that hangs takes the kernel's limit from
/// all that come after it; a file that hangs has a limit for all of them, for it may hang for ever.
fn time_for(settings: &BusSettings, ahead: usize) -> Duration {
    match settings {
        BusSettings::I2c {
            transfer_timeout, ..
        } => transfer_timeout
            .saturating_add(I2C_DEADLINE_SLACK)
            .saturating_mul(ahead as u32 + 1),
        BusSettings::Machine => MACHINE_DEADLINE,
    }
}

fn name_of(settings: &BusSettings) -> Box<str> {
    match settings {
        BusSettings::I2c { number, .. } => format!("i2c.{number}").into(),
        BusSettings::Machine => "machine".into(),
    }
}
