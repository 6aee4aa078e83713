//! Which devices and points there are, under which ids, and what a reload changes.
//!
//! A reload is a difference: a device whose settings compare equal is not touched, least of all an
//! output; a point that stays keeps its id, its last value and its sequence; what goes is cleared
//! from the broker.

use std::collections::BTreeMap;

use super::Gateway;
use super::settings::{Config, DeviceConfig};
use crate::broker::Taker;
use crate::id::{DeviceId, PointId};
use crate::mqtt::{QoS, SubscriptionOptions, TopicFilter};
use crate::pipeline::settings::PointSettings;
use crate::slab::GenSlab;
use crate::time::Now;

/// Names to ids and back.
#[derive(Debug, Default)]
pub(super) struct Registry {
    by_name: BTreeMap<Box<str>, DeviceId>,
    devices: GenSlab<DeviceId, Device>,
    points: GenSlab<PointId, Point>,
    /// What the points were called that the last reload has taken out: their drivers' last words
    /// are heard after they are gone.
    retired: Vec<(PointId, String)>,
}

#[derive(Debug)]
struct Device {
    name: Box<str>,
    config: DeviceConfig,
    points: BTreeMap<Box<str>, PointId>,
}

#[derive(Debug)]
struct Point {
    device: DeviceId,
    name: Box<str>,
    /// Its command topics are below it.
    topic: Box<str>,
}

impl Registry {
    /// The point that a user names `DEVICE/POINT`.
    pub(super) fn find(&self, path: &str) -> Option<PointId> {
        let (device, point) = path.split_once('/')?;
        let device = self.devices.get(*self.by_name.get(device)?)?;
        device.points.get(point).copied()
    }

    /// Devices by name, each with its points by name.
    pub(super) fn iter(&self) -> impl Iterator<Item = DeviceView<'_>> {
        self.by_name.iter().filter_map(|(name, id)| {
            let device = self.devices.get(*id)?;
            Some(DeviceView {
                id: *id,
                name,
                points: &device.points,
            })
        })
    }

    /// `DEVICE/POINT`, for people.
    pub(super) fn path(&self, point: PointId) -> Option<String> {
        let point = self.points.get(point)?;
        let device = self.devices.get(point.device)?;
        Some(format!("{}/{}", device.name, point.name))
    }

    /// The same, also of one that the last reload has taken out.
    pub(super) fn path_or_former(&self, point: PointId) -> Option<String> {
        let former = || self.retired.iter().find(|(it, _)| *it == point);
        self.path(point)
            .or_else(|| former().map(|(_, path)| path.clone()))
    }
}

/// One device, to look at.
pub(super) struct DeviceView<'a> {
    pub id: DeviceId,
    pub name: &'a str,
    pub points: &'a BTreeMap<Box<str>, PointId>,
}

impl Gateway {
    /// What does not hang on a device: the gateway's own state and its request topics.
    pub(super) fn open_house(&mut self, now: Now) {
        let base = self.config.base_topic.clone();
        self.publish_retained(now, &format!("{base}/gateway/state"), "online");
        self.publish_info(now);
        self.subscribe(Taker::Requests, &format!("{base}/gateway/request/+"));
    }

    /// Takes over a new configuration by difference.
    pub(super) fn reconfigure(&mut self, now: Now, config: Config) {
        if config == self.config {
            return;
        }
        let before = core::mem::replace(&mut self.config, config);
        if before.broker != self.config.broker {
            let settings = self.config.broker.clone();
            self.broker.reconfigure(now, settings, &mut self.outbox);
        }
        if before.broker.sys_interval != self.config.broker.sys_interval {
            self.reconfigure_system(now);
        }
        let moved = before.base_topic != self.config.base_topic;
        if self.is_recovering() {
            // Nothing is open yet: it will be by this one. To open it now would be to forget what
            // is about to come back.
            self.broker.protect(&self.config.base_topic);
            self.pipeline.set_base_topic(&self.config.base_topic);
            return;
        }
        if moved {
            self.broker.unsubscribe_all(Taker::Requests);
            self.publish_retained(now, &format!("{}/gateway/state", before.base_topic), "");
            self.move_health(now, &before.base_topic);
            self.broker.protect(&self.config.base_topic);
            self.pipeline.set_base_topic(&self.config.base_topic);
            self.open_house(now);
        } else if before.name != self.config.name {
            self.publish_info(now);
        }
        // What goes, goes first: a line or an address may move from one device to another. Nothing
        // is routed in between: a bus or port that a device takes over from another stays open.
        self.registry.retired.clear();
        let names: Vec<_> = self.registry.by_name.keys().cloned().collect();
        for name in &names {
            self.retire_device(now, name);
        }
        if !self.is_closed() {
            self.add_devices(now);
        }
        if before.bridges != self.config.bridges {
            self.update_bridges(now);
            self.tell_connections(now);
        }
        if before.listeners != self.config.listeners && !self.is_closed() {
            let redirecting = self.update_listeners();
            self.redirect_clients(now, &redirecting);
        }
    }

    /// Removes what the configuration no longer has of one device, and leaves the rest as it is.
    fn retire_device(&mut self, now: Now, name: &str) {
        let id = self.registry.by_name[name];
        let wanted = self.config.devices.get(name);
        let device = self
            .registry
            .devices
            .get_mut(id)
            .expect("a name leads to a device");
        let gone: Vec<(Box<str>, PointId)> = device
            .points
            .iter()
            .filter(|(point, _)| wanted.is_none_or(|wanted| !wanted.points.contains_key(*point)))
            .map(|(point, id)| (point.clone(), *id))
            .collect();
        let rebuilt = wanted.is_none_or(|wanted| wanted.field != device.config.field);
        if rebuilt {
            self.field.remove_device(now, id);
        }
        for (point_name, point) in gone {
            self.broker.unsubscribe_all(Taker::Commands(point));
            self.pipeline.remove_point(now, point);
            if let Some(path) = self.registry.path(point) {
                self.registry.retired.push((point, path));
            }
            self.registry.points.remove(point);
            if let Some(device) = self.registry.devices.get_mut(id) {
                device.points.remove(&point_name);
            }
        }
        // A device that only changed keeps its name and its points, without a device in the field
        // until `add_devices` makes one.
        if wanted.is_none() {
            self.pipeline.remove_device(now, id);
            self.registry.by_name.remove(name);
            self.registry.devices.remove(id);
        }
    }

    /// Adds what the configuration has and the registry has not, and updates what differs.
    pub(super) fn add_devices(&mut self, now: Now) {
        let wanted: Vec<(Box<str>, DeviceConfig)> = self
            .config
            .devices
            .iter()
            .map(|(name, config)| (name.clone(), config.clone()))
            .collect();
        for (name, config) in wanted {
            let (id, rebuild) = self.enrol_device(&name, &config);
            let availability = format!("{}/{name}/availability", self.config.base_topic);
            self.pipeline
                .add_device(now, id, &availability, QoS::AtLeastOnce);
            let device = self.registry.devices.get(id).expect("enrolled just now");
            let known = device.points.clone();
            let mut points = known.clone();
            for (point_name, settings) in &config.points {
                let point = self.enrol_point(
                    now,
                    id,
                    point_name,
                    settings,
                    known.get(point_name).copied(),
                );
                points.insert(point_name.clone(), point);
            }
            if rebuild {
                let listed: Vec<(PointId, Box<str>)> = points
                    .iter()
                    .map(|(name, id)| (*id, name.clone()))
                    .collect();
                self.field
                    .add_device(now, id, &name, config.field.clone(), &listed);
                for (point, point_name) in &listed {
                    self.restore_total(&format!("{name}/{point_name}"), *point);
                }
            }
            let device = self
                .registry
                .devices
                .get_mut(id)
                .expect("enrolled just now");
            device.points = points;
            device.config = config;
        }
    }

    /// Finds or makes the device; true if the field has to build it.
    fn enrol_device(&mut self, name: &str, config: &DeviceConfig) -> (DeviceId, bool) {
        if let Some(id) = self.registry.by_name.get(name) {
            let device = self
                .registry
                .devices
                .get(*id)
                .expect("a name leads to a device");
            return (*id, device.config.field != config.field);
        }
        let device = Device {
            name: name.into(),
            config: config.clone(),
            points: BTreeMap::new(),
        };
        let id = self.registry.devices.insert(device);
        self.registry.by_name.insert(name.into(), id);
        (id, true)
    }

    fn enrol_point(
        &mut self,
        now: Now,
        device: DeviceId,
        name: &str,
        settings: &PointSettings,
        known: Option<PointId>,
    ) -> PointId {
        let Some(point) = known else {
            let entry = Point {
                device,
                name: name.into(),
                topic: settings.topic.clone(),
            };
            let point = self.registry.points.insert(entry);
            self.pipeline.add_point(now, point, settings.clone());
            self.subscribe_commands(point, &settings.topic);
            return point;
        };
        let entry = self
            .registry
            .points
            .get_mut(point)
            .expect("a device's points are registered");
        if entry.topic != settings.topic {
            entry.topic = settings.topic.clone();
            self.broker.unsubscribe_all(Taker::Commands(point));
            self.subscribe_commands(point, &settings.topic);
        }
        self.pipeline.update_point(now, point, settings.clone());
        point
    }

    /// Every point has both: a command for one that cannot be written is answered, not ignored.
    fn subscribe_commands(&mut self, point: PointId, topic: &str) {
        self.subscribe(Taker::Commands(point), &format!("{topic}/set"));
        self.subscribe(Taker::Commands(point), &format!("{topic}/get"));
    }

    fn subscribe(&mut self, taker: Taker, filter: &str) {
        match TopicFilter::new(filter) {
            Ok(filter) => {
                let options = SubscriptionOptions::new(QoS::ExactlyOnce);
                self.broker.subscribe(taker, filter, options);
            }
            Err(error) => log::error!("cannot subscribe filter={filter}: {error}"),
        }
    }
}
