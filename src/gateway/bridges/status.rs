//! How bridges are, for people and for whoever watches them.

use data_encoding::HEXLOWER;
use serde_json::{Value as Json, json};

use super::{Gateway, Link};
use crate::bridge::{DeadReason, Phase};
use crate::mqtt::ApplicationMessage;
use crate::time::{Now, WallTime};

impl Gateway {
    /// What is wrong with links now.
    pub(in crate::gateway) fn bridge_faults(&self) -> Vec<String> {
        let faults = self.bridges.configured().filter_map(|link| {
            let error = link.bridge.last_error();
            let error = error.filter(|_| link.bridge.phase() != Phase::Up)?;
            Some(format!("bridge {} is down: {error}", link.name))
        });
        faults.collect()
    }

    /// How the bridges are, by name.
    pub(in crate::gateway) fn bridges_json(&self, now: Now) -> Json {
        let links = self.bridges.configured();
        let links = links.map(|link| (link.name.to_string(), link_json(now, link)));
        Json::Object(links.collect())
    }

    /// What waits for whom, by name: for bridges, and for those that are configured no more.
    pub(in crate::gateway) fn bridge_queues_json(&self, now: Now) -> Json {
        let mut all = serde_json::Map::new();
        for (name, kept) in &self.bridges.queues {
            if self.bridges.by_name.contains_key(name) {
                continue;
            }
            let journal = self.durable.as_ref().map(|durable| &durable.journal);
            let state = journal.and_then(|journal| journal.queue(kept.queue));
            if let Some(state) = state {
                let json = json!({
                    "configured": false,
                    "messages": state.entries,
                    "bytes": state.bytes,
                });
                all.insert(name.to_string(), json);
            }
        }
        for link in self.bridges.configured() {
            let status = link.bridge.status(now);
            let json = json!({
                "configured": true,
                "state": status.phase.name(),
                "messages": status.queue_length,
                "bytes": status.queue_bytes,
                "backlog": status.backlog_length,
                "on_disk": status.on_disk,
                "inflight": status.inflight,
                "age_s": status.lag.as_secs(),
                "kept": link.queue.is_some(),
            });
            all.insert(link.name.to_string(), json);
        }
        Json::Object(all)
    }
}

fn link_json(now: Now, link: &Link) -> Json {
    let status = link.bridge.status(now);
    let endpoints = &link.bridge.settings().endpoints;
    json!({
        "state": status.phase.name(),
        "endpoint": endpoints.get(status.endpoint).map(ToString::to_string),
        "version": status.version.to_string(),
        "up_s": status.up_for.map(|it| it.as_secs()),
        "queue": status.queue_length,
        "queue_bytes": status.queue_bytes,
        "backlog": status.backlog_length,
        "on_disk": status.on_disk,
        "inflight": status.inflight,
        "waiting_for_disk": status.held,
        "lag_ms": status.lag.as_millis(),
        "last_error": status.last_error,
        "counters": link.bridge.stats(),
    })
}

/// A dead letter, for people and for whoever sends it again.
pub(super) fn letter(
    message: &ApplicationMessage,
    time: Option<WallTime>,
    reason: DeadReason,
) -> Json {
    let payload = message.payload();
    let mut json = json!({
        "reason": reason.to_string(),
        "topic": message.topic(),
        "qos": message.qos().bits(),
        "retain": message.retain(),
        "time": time.map(|time| time.to_string()),
    });
    match core::str::from_utf8(payload) {
        Ok(text) => json["payload"] = text.into(),
        Err(_) => {
            json["payload_hex"] = HEXLOWER.encode(payload).into();
        }
    }
    json
}
