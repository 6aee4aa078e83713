//! What there is and what is counted, as JSON: for `read`, `devices` and `status`.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};

use super::Gateway;
use crate::id::PointId;
use crate::point::{Quality, Value};
use crate::time::Now;

impl Gateway {
    /// One point as it stands: value, unit, quality, reason, time, age.
    pub(super) fn point_json(&self, now: Now, point: PointId) -> Option<Json> {
        let path = self.registry.path(point)?;
        let snapshot = self.pipeline.snapshot(point)?;
        let mut data = Map::new();
        data.insert("point".to_owned(), json!(path));
        data.insert(
            "value".to_owned(),
            snapshot.value.map_or(Json::Null, value_json),
        );
        let settings = snapshot.settings;
        if !settings.spec.unit.is_empty() {
            data.insert("unit".to_owned(), json!(settings.spec.unit));
        }
        data.insert(
            "quality".to_owned(),
            json!(snapshot.quality.map(Quality::as_str)),
        );
        if let Some(reason) = &snapshot.reason {
            data.insert("reason".to_owned(), json!(reason.to_string()));
        }
        if let Some(age) = snapshot.age(now) {
            data.insert(
                "time".to_owned(),
                json!(snapshot.time.map(|time| time.to_string())),
            );
            data.insert("age_ms".to_owned(), json!(age.as_millis() as u64));
        }
        if settings.simulated {
            data.insert("simulated".to_owned(), json!(true));
        }
        Some(Json::Object(data))
    }

    /// Every device with its points.
    pub(super) fn devices_json(&self, now: Now) -> Json {
        let mut devices = Map::new();
        for device in self.registry.iter() {
            let points: Map<String, Json> = device
                .points
                .iter()
                .filter_map(|(name, id)| Some((name.to_string(), self.point_json(now, *id)?)))
                .collect();
            let online = self.pipeline.availability(device.id);
            let availability = online.map(|online| if online { "online" } else { "offline" });
            let entry = json!({ "availability": availability, "points": points });
            devices.insert(device.name.to_owned(), entry);
        }
        Json::Object(devices)
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
                "connections_starved": counters.starved,
                "reloads": counters.reloads,
                "reloads_refused": counters.reloads_refused,
                "requests_refused": counters.requests_refused,
            },
            "broker": self.broker.stats().entries().collect::<BTreeMap<_, _>>(),
            "field": self.field_json(),
            "pipeline": self.pipeline.stats(),
        })
    }
}

/// A value as JSON; integers that a double cannot hold are text.
fn value_json(value: &Value) -> Json {
    const EXACT_MAX: u64 = 1 << 53;
    match value {
        Value::Bool(active) => json!(active),
        Value::Int(number) if number.unsigned_abs() > EXACT_MAX => json!(number.to_string()),
        Value::Int(number) => json!(number),
        Value::Uint(number) if *number > EXACT_MAX => json!(number.to_string()),
        Value::Uint(number) => json!(number),
        Value::Float(number) => json!(number),
        Value::Text(text) => json!(text),
    }
}
