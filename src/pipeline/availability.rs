//! `BASE/DEVICE/availability`: whether a device is there, as the field has found out.
//!
//! Retained, `online` or `offline`, and published when it changes. Until anything is known, nothing
//! is said; when the gateway stops, every device is offline.

use super::{Output, Pipeline};
use crate::id::DeviceId;
use crate::mqtt::QoS;
use crate::time::Now;

/// One device, as far as its availability goes.
#[derive(Debug)]
pub(super) struct Device {
    topic: Box<str>,
    qos: QoS,
    /// What is known of it.
    is_online: Option<bool>,
    /// What the topic says.
    announced: Option<bool>,
}

impl Pipeline {
    /// A device exists, whose availability is published on `topic`. If it did already, what is
    /// known of it stays; another topic is told, and the old one cleared.
    pub fn add_device(&mut self, now: Now, device: DeviceId, topic: &str, qos: QoS) {
        self.now = now;
        let before = self.devices.remove(device);
        let mut added = Device {
            topic: topic.into(),
            qos,
            is_online: before.as_ref().and_then(|device| device.is_online),
            announced: None,
        };
        match before {
            Some(before) if before.topic == added.topic => added.announced = before.announced,
            Some(before) => self.clear_availability(&before),
            None => {}
        }
        let known = added.is_online;
        let evicted = self.devices.insert(device, added);
        debug_assert!(
            evicted.is_none(),
            "a slot's tenant is removed before the next"
        );
        if let Some(is_online) = known {
            self.publish_availability(device, is_online);
        }
    }

    /// A device is gone, and so is its availability. Its points are removed one by one.
    pub fn remove_device(&mut self, now: Now, device: DeviceId) {
        self.now = now;
        if let Some(removed) = self.devices.remove(device) {
            self.clear_availability(&removed);
        }
    }

    /// The field has found a device to be there, or not.
    pub fn handle_availability(&mut self, now: Now, device: DeviceId, is_online: bool) {
        self.now = now;
        if let Some(state) = self.devices.get_mut(device) {
            state.is_online = Some(is_online);
            self.publish_availability(device, is_online && !self.is_stopping);
        }
    }

    /// What is known of a device; `None` while nothing is.
    pub fn availability(&self, device: DeviceId) -> Option<bool> {
        self.devices.get(device)?.is_online
    }

    /// Publishes a device's availability, if that is a change.
    pub(super) fn publish_availability(&mut self, device: DeviceId, is_online: bool) {
        let Some(state) = self.devices.get_mut(device) else {
            return;
        };
        if state.announced.replace(is_online) == Some(is_online) {
            return;
        }
        let word = if is_online { "online" } else { "offline" };
        let message = self.writer.word(self.now, &state.topic, word, state.qos);
        self.queue.extend(message.map(Output::Publish));
    }

    fn clear_availability(&mut self, device: &Device) {
        let message = self.writer.clear(self.now, &device.topic, "", device.qos);
        self.queue.extend(message.map(Output::Publish));
    }
}
