//! Serial ports: opened once for all of their devices, and again when they come back.

use std::borrow::Cow;

use super::Output;
use super::backoff::Backoff;
use super::context::Context;
use super::lines::{Piece, Splitter};
use super::port::{PortCommand, PortSettings};
use super::stats::PortStats;
use super::timers::Timer;
use crate::buffer::Payload;
use crate::id::{DeviceId, PortId};
use crate::point::{Fault, FaultKind};
use crate::slab::GenSlab;
use crate::time::{Duration, Instant};

/// A port that could not be opened is opened again after a delay doubled from this, …
pub const PORT_BACKOFF_BASE: Duration = Duration::from_millis(500);
/// … up to this: an adapter that is plugged in again works within half a minute at worst.
pub const PORT_BACKOFF_MAX: Duration = Duration::from_secs(30);

/// All ports.
#[derive(Debug, Default)]
pub(super) struct Ports {
    slab: GenSlab<PortId, Port>,
    has_unused: bool,
}

#[derive(Debug)]
pub(super) struct Port {
    /// As the configuration calls it: `serial.scale`.
    name: Box<str>,
    settings: PortSettings,
    /// With the longest line that each takes.
    users: Vec<(DeviceId, usize)>,
    state: State,
    backoff: Backoff,
    splitter: Splitter,
    stats: PortStats,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// The host has been asked.
    Opening,
    Open,
    /// It is not, and why.
    Closed(Fault),
}

impl Ports {
    /// The port with these settings, opened if it is not: one user more.
    pub(super) fn acquire(
        &mut self,
        cx: &mut Context,
        name: &str,
        settings: &PortSettings,
        device: DeviceId,
        line_max: usize,
    ) -> PortId {
        let known = self
            .slab
            .iter()
            .find(|(_, port)| port.settings == *settings)
            .map(|(id, _)| id);
        let id = known.unwrap_or_else(|| {
            let id = self.slab.insert(Port {
                name: format!("serial.{name}").into(),
                settings: settings.clone(),
                users: Vec::new(),
                state: State::Opening,
                backoff: Backoff::new(PORT_BACKOFF_BASE, PORT_BACKOFF_MAX),
                splitter: Splitter::new(line_max),
                stats: PortStats::default(),
            });
            cx.emit(Output::Port(PortCommand::Open {
                port: id,
                settings: settings.clone(),
            }));
            id
        });
        if let Some(port) = self.slab.get_mut(id) {
            port.users.push((device, line_max));
            port.refresh_line_max();
        }
        id
    }

    /// One user less.
    pub(super) fn release(&mut self, port: PortId, device: DeviceId) {
        if let Some(state) = self.slab.get_mut(port) {
            state.users.retain(|(user, _)| *user != device);
            state.refresh_line_max();
            self.has_unused |= state.users.is_empty();
        }
    }

    /// Closes the ports that nobody uses: once a call's outputs are drained, so that a device
    /// which is replaced by another finds its port open.
    pub(super) fn close_unused(&mut self, cx: &mut Context) {
        if !core::mem::take(&mut self.has_unused) {
            return;
        }
        for id in self.slab.keys() {
            let is_used = self.slab.get(id).is_none_or(|port| !port.users.is_empty());
            if is_used {
                continue;
            }
            cx.timers.disarm(Timer::Port(id));
            if let Some(port) = self.slab.remove(id)
                && !matches!(port.state, State::Closed(_))
            {
                cx.emit(Output::Port(PortCommand::Close { port: id }));
            }
        }
    }

    pub(super) fn get(&self, port: PortId) -> Option<&Port> {
        self.slab.get(port)
    }

    pub(super) fn get_mut(&mut self, port: PortId) -> Option<&mut Port> {
        self.slab.get_mut(port)
    }

    /// Nothing is opened any more.
    pub(super) fn stop(&self, cx: &mut Context) {
        for (id, _) in self.slab.iter() {
            cx.timers.disarm(Timer::Port(id));
        }
    }

    /// It is to be opened again.
    pub(super) fn handle_retry(&mut self, cx: &mut Context, id: PortId) {
        let Some(port) = self.slab.get_mut(id) else {
            return;
        };
        if !cx.is_stopping && matches!(port.state, State::Closed(_)) {
            port.state = State::Opening;
            cx.emit(Output::Port(PortCommand::Open {
                port: id,
                settings: port.settings.clone(),
            }));
        }
    }

    /// Hands bytes to an open port.
    pub(super) fn write(
        &mut self,
        cx: &mut Context,
        id: PortId,
        bytes: Payload,
    ) -> Result<(), Fault> {
        let port = self
            .slab
            .get_mut(id)
            .expect("a device holds its port until it goes");
        match &port.state {
            State::Open => {
                port.stats.bytes_sent += bytes.len() as u64;
                port.splitter.expect_answer();
                cx.emit(Output::Port(PortCommand::Write { port: id, bytes }));
                Ok(())
            }
            State::Opening => Err(Fault::new(
                FaultKind::Unplugged,
                format!("{} is not open yet", port.name),
            )),
            State::Closed(fault) => Err(fault.clone()),
        }
    }

    /// The counters, by name.
    pub(super) fn stats(&self) -> Vec<(Box<str>, PortStats)> {
        self.slab
            .iter()
            .map(|(_, port)| (port.name.clone(), port.stats))
            .collect()
    }
}

impl Port {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Its devices.
    pub(super) fn users(&self) -> impl Iterator<Item = DeviceId> {
        self.users.iter().map(|(device, _)| *device)
    }

    /// Why it is closed, if it is.
    pub(super) fn fault(&self) -> Option<&Fault> {
        match &self.state {
            State::Closed(fault) => Some(fault),
            State::Opening | State::Open => None,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// The host has opened it.
    pub(super) fn become_open(&mut self, cx: &Context) {
        self.state = State::Open;
        self.stats.opened += 1;
        self.backoff.succeed();
        self.splitter.open(cx.now);
        log::info!("port open port={}", self.name);
    }

    /// It is gone, or could not be opened.
    pub(super) fn become_closed(&mut self, cx: &mut Context, id: PortId, fault: Fault) {
        self.stats.lost += 1;
        if self.fault() != Some(&fault) && self.backoff.attempts() == 0 {
            log::warn!("port closed port={} reason={fault}", self.name);
        }
        self.state = State::Closed(fault);
        self.splitter.open(cx.now);
        if !cx.is_stopping {
            let delay = self.backoff.fail(&mut cx.rng);
            cx.wake_after(Timer::Port(id), delay);
        }
    }

    /// Takes bytes in and hands every line that they complete to `on`, with the port's devices;
    /// `None` stands for one that was too long. `on` says whether somebody understood it.
    pub(super) fn receive(
        &mut self,
        now: Instant,
        bytes: &[u8],
        mut on: impl FnMut(&[(DeviceId, usize)], Option<&str>) -> bool,
    ) {
        let Self {
            splitter,
            stats,
            users,
            ..
        } = self;
        stats.bytes_received += bytes.len() as u64;
        splitter.feed(now, bytes, |piece| match piece {
            Piece::Line(line) => {
                stats.lines += 1;
                let text = String::from_utf8_lossy(line);
                stats.lines_not_utf8 += u64::from(matches!(text, Cow::Owned(_)));
                stats.lines_unclaimed += u64::from(!on(users, Some(&text)));
            }
            Piece::TooLong => {
                stats.lines_too_long += 1;
                on(users, None);
            }
            Piece::Partial => stats.lines_partial += 1,
        });
    }

    fn refresh_line_max(&mut self) {
        if let Some(longest) = self.users.iter().map(|(_, line_max)| *line_max).max() {
            self.splitter.set_line_max(longest);
        }
    }
}
