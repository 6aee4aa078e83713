//! `BASE/DEVICE/availability`: whether a device is there, from what its points say.
//!
//! A device is online if one of its points was measured, or answered wrongly: it answers. It is offline if all that is
//! known of its points is silence, and when the gateway stops. Until anything is known, nothing is said.

use std::collections::BTreeSet;

use super::{Output, Pipeline};
use crate::id::{DeviceId, PointId};
use crate::mqtt::QoS;
use crate::time::Now;

/// One device, as far as its availability goes.
#[derive(Debug)]
pub(super) struct Device {
    topic: Box<str>,
    qos: QoS,
    points: BTreeSet<PointId>,
    /// What the topic says.
    announced: Option<bool>,
}

impl Pipeline {
    /// A device exists, whose availability is published on `topic` (retained, `online` or `offline`). Points are given to it
    /// with [`Pipeline::assign_point`]. A second time, it changes the topic, and the old one is cleared.
    pub fn add_device(&mut self, now: Now, device: DeviceId, topic: &str, qos: QoS) {
        self.now = now;
        if let Some(known) = self.devices.get(device) {
            if &*known.topic == topic && known.qos == qos {
                return;
            }
        }
        let before = self.devices.remove(device);
        let mut points = BTreeSet::new();
        if let Some(before) = before {
            if &*before.topic != topic {
                self.clear_availability(&before);
            }
            points = before.points;
        }
        let added = Device {
            topic: topic.into(),
            qos,
            points,
            announced: None,
        };
        let evicted = self.devices.insert(device, added);
        debug_assert!(
            evicted.is_none(),
            "a slot's tenant is removed before the next"
        );
        self.refresh_device(device);
    }

    /// A device is gone, and so is its availability. Its points stay until they are removed themselves.
    pub fn remove_device(&mut self, now: Now, device: DeviceId) {
        self.now = now;
        let Some(removed) = self.devices.remove(device) else {
            return;
        };
        for point in &removed.points {
            if let Some(state) = self.points.get_mut(*point) {
                state.device = None;
            }
        }
        self.clear_availability(&removed);
    }

    /// From here on `point` bears on the availability of `device`. Both must exist; nothing happens otherwise.
    pub fn assign_point(&mut self, now: Now, point: PointId, device: DeviceId) {
        self.now = now;
        let Some(state) = self.points.get_mut(point) else {
            return;
        };
        if !self.devices.contains(device) {
            return;
        }
        let before = state.device.replace(device);
        if let Some(before) = before.filter(|before| *before != device) {
            self.leave_device(point, before);
        }
        if let Some(joined) = self.devices.get_mut(device) {
            joined.points.insert(point);
        }
        self.refresh_device(device);
    }

    pub(super) fn leave_device(&mut self, point: PointId, device: DeviceId) {
        if let Some(left) = self.devices.get_mut(device) {
            left.points.remove(&point);
            self.refresh_device(device);
        }
    }

    /// Publishes a device's availability if it has changed.
    pub(super) fn refresh_device(&mut self, device: DeviceId) {
        let Some(state) = self.devices.get_mut(device) else {
            return;
        };
        let reached = state
            .points
            .iter()
            .filter_map(|point| self.points.get(*point)?.reach());
        // One that answers is enough; `None` is less than offline.
        let is_online = reached
            .max()
            .map(|is_reached| is_reached && !self.is_stopping);
        if is_online.is_none() || is_online == state.announced {
            return;
        }
        state.announced = is_online;
        let word = if is_online == Some(true) {
            "online"
        } else {
            "offline"
        };
        let message = self.writer.word(self.now, &state.topic, word, state.qos);
        self.queue.extend(message.map(Output::Publish));
    }

    fn clear_availability(&mut self, device: &Device) {
        let message = self.writer.clear(self.now, &device.topic, "", device.qos);
        self.queue.extend(message.map(Output::Publish));
    }
}
