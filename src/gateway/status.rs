//! What there is and what is counted, as JSON: for `read`, `devices` and `status`.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use super::Gateway;
use crate::id::PointId;
use crate::pipeline::json::Object;
use crate::time::Now;

impl Gateway {
    /// One point as it stands: its name, the fields of its JSON payload, and what else is known.
    pub(super) fn write_point(&self, now: Now, point: PointId, object: &mut Object<'_>) {
        if let Some(path) = self.registry.path(point) {
            object.text("point", &path);
        }
        if let Some(snapshot) = self.pipeline.snapshot(point) {
            snapshot.write_state(object);
            snapshot.write_details(now, object);
        }
    }

    /// Every device with its points.
    pub(super) fn devices_json(&self, now: Now) -> String {
        let mut text = String::new();
        let mut devices = Object::begin(&mut text);
        for device in self.registry.iter() {
            let mut entry = devices.object(device.name);
            match self.pipeline.availability(device.id) {
                Some(true) => entry.text("availability", "online"),
                Some(false) => entry.text("availability", "offline"),
                None => entry.null("availability"),
            }
            let mut points = entry.object("points");
            for (name, point) in device.points {
                let mut object = points.object(name);
                self.write_point(now, *point, &mut object);
                object.end();
            }
            points.end();
            entry.end();
        }
        devices.end();
        text
    }

    fn field_json(&self) -> Json {
        let stats = self.field.stats();
        let devices = stats
            .devices
            .iter()
            .map(|(_, name, counters)| (name, counters));
        json!({
            "buses": stats.buses.iter().cloned().collect::<BTreeMap<_, _>>(),
            "ports": stats.ports.iter().cloned().collect::<BTreeMap<_, _>>(),
            "devices": devices.collect::<BTreeMap<_, _>>(),
            "strays": stats.strays,
        })
    }

    /// Counters and gauges of every machine.
    pub(super) fn status_json(&self, now: Now) -> Json {
        let counters = self.counters;
        let reason = self.health_reason();
        json!({
            "name": self.config.name,
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_s": now.monotonic.since(self.started).as_secs(),
            "memory": {
                "used": self.memory.used(),
                "peak": self.memory.peak(),
                "limit": self.memory.limit(),
                "refused": self.memory.refused(),
                "unsent": self.outbox.bytes(),
            },
            "gateway": {
                "bytes_received": counters.bytes_received,
                "bytes_sent": self.outbox.sent(),
                "connections_starved": counters.starved,
                "reloads": counters.reloads,
                "reloads_refused": counters.reloads_refused,
                "requests_refused": counters.requests_refused,
            },
            "health": {
                "state": if reason.is_empty() { "ok" } else { "fault" },
                "reason": reason,
            },
            "host": self.host,
            "journal": self.journal_json(),
            "bridges": self.bridges_json(now),
            "broker": self.broker.stats().entries().collect::<BTreeMap<_, _>>(),
            "field": self.field_json(),
            "pipeline": self.pipeline.stats(),
        })
    }
}
