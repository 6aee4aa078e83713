//! What a device says of itself: readings, faults once per change, and whether it is there.

use super::Output;
use super::context::Context;
use super::stats::DeviceStats;
use crate::id::{DeviceId, PointId};
use crate::point::{Fault, Outcome, PointWrite, Reading, Value, Written};
use crate::time::Instant;

/// After this many failures in a row a device is offline.
pub const OFFLINE_AFTER: u32 = 3;

/// One device's voice.
#[derive(Debug)]
pub(super) struct Reporter {
    device: DeviceId,
    name: Box<str>,
    slots: Vec<Slot>,
    /// What was last said of it; `None`: nothing yet.
    is_online: Option<bool>,
    failures: u32,
    pub(super) stats: DeviceStats,
}

#[derive(Debug)]
struct Slot {
    /// `None`: the gateway does not want to hear of this point.
    point: Option<PointId>,
    /// The fault that was last reported, if nothing better has been since.
    fault: Option<Fault>,
    /// Somebody has asked: the next outcome is reported even if it is the same fault again.
    is_wanted: bool,
}

impl Reporter {
    pub(super) fn new(device: DeviceId, name: &str, points: Vec<Option<PointId>>) -> Self {
        Self {
            device,
            name: name.into(),
            slots: points
                .into_iter()
                .map(|point| Slot {
                    point,
                    fault: None,
                    is_wanted: false,
                })
                .collect(),
            is_online: None,
            failures: 0,
            stats: DeviceStats::default(),
        }
    }

    pub(super) fn device(&self) -> DeviceId {
        self.device
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The id of a point, if anyone wants to hear of it.
    pub(super) fn point(&self, index: usize) -> Option<PointId> {
        self.slots.get(index)?.point
    }

    /// The ids of its points.
    pub(super) fn points(&self) -> impl Iterator<Item = PointId> {
        self.slots.iter().filter_map(|slot| slot.point)
    }

    /// How many points it has, whether anyone wants to hear of them or not.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Somebody waits for the next outcome of this point, whatever it is.
    pub(super) fn want(&mut self, index: usize) {
        if let Some(slot) = self.slots.get_mut(index) {
            slot.is_wanted = true;
        }
    }

    /// Whether somebody waits for this point.
    pub(super) fn is_wanted(&self, index: usize) -> bool {
        self.slots.get(index).is_some_and(|slot| slot.is_wanted)
    }

    /// Whether the point's last report was a fault.
    pub(super) fn is_faulty(&self, index: usize) -> bool {
        self.slots
            .get(index)
            .is_some_and(|slot| slot.fault.is_some())
    }

    /// One outcome. The same fault again is counted, not repeated.
    pub(super) fn report(&mut self, cx: &mut Context, index: usize, at: Instant, outcome: Outcome) {
        let Some(slot) = self.slots.get_mut(index) else {
            debug_assert!(false, "a driver reports on the points of its table");
            return;
        };
        match &outcome {
            Outcome::Good(_) => {
                self.stats.readings += 1;
                slot.fault = None;
            }
            Outcome::Uncertain(_, doubt) => {
                self.stats.readings += 1;
                self.stats.faults.count(doubt.kind);
                slot.fault = None;
            }
            Outcome::Fault(fault) => {
                self.stats.faults.count(fault.kind);
                if slot.fault.as_ref() == Some(fault) && !slot.is_wanted {
                    return;
                }
                log::debug!("fault device={} point={index} reason={fault}", self.name);
                slot.fault = Some(fault.clone());
            }
        }
        slot.is_wanted = false;
        if let Some(point) = slot.point {
            cx.emit(Output::Reading(Reading { point, at, outcome }));
        }
    }

    /// The same fault on every point.
    pub(super) fn report_all(&mut self, cx: &mut Context, fault: &Fault) {
        let at = cx.now;
        for index in 0..self.slots.len() {
            self.report(cx, index, at, Outcome::Fault(fault.clone()));
        }
    }

    /// What was wrong with a point is over, although there is no value to show for it.
    pub(super) fn recover(&mut self, cx: &mut Context, index: usize) {
        let Some(slot) = self.slots.get_mut(index) else {
            return;
        };
        if slot.fault.take().is_some()
            && let Some(point) = slot.point
        {
            cx.emit(Output::Recovered { point });
        }
    }

    /// It works.
    pub(super) fn succeed(&mut self, cx: &mut Context) {
        self.failures = 0;
        self.be(cx, true);
    }

    /// It does not; after [`OFFLINE_AFTER`] times it is offline.
    pub(super) fn fail(&mut self, cx: &mut Context) {
        self.failures = self.failures.saturating_add(1);
        if self.failures >= OFFLINE_AFTER {
            self.be(cx, false);
        }
    }

    /// It is gone: unplugged.
    pub(super) fn vanish(&mut self, cx: &mut Context) {
        self.failures = OFFLINE_AFTER;
        self.be(cx, false);
    }

    fn be(&mut self, cx: &mut Context, online: bool) {
        if self.is_online == Some(online) {
            return;
        }
        self.is_online = Some(online);
        if online {
            log::info!("device online device={}", self.name);
        } else {
            log::warn!("device offline device={}", self.name);
        }
        cx.emit(Output::Availability {
            device: self.device,
            online,
        });
    }

    /// The one answer to a command.
    pub(super) fn answer(
        &mut self,
        cx: &mut Context,
        write: &PointWrite,
        outcome: Result<Value, Fault>,
    ) {
        if outcome.is_err() {
            self.stats.writes_refused += 1;
        }
        cx.emit(Output::Written(Written {
            point: write.point,
            request: write.request,
            outcome,
        }));
    }
}
