//! `BASE/gateway/info/…` and `BASE/gateway/health/…`: what the gateway is, and what is wrong with
//! it, for the operator.
//!
//! | topic, retained | payload |
//! |---|---|
//! | `info/name`, `info/version` | of the gateway |
//! | `health/state` | `ok` or `fault`: something is wrong now |
//! | `health/reason` | what, cleared when it is over |
//! | `health/COUNTER` | how often something has gone wrong since the start; not there as long as it never has |
//!
//! Faults are a listener that cannot listen, a bridge that is down, and a worker (of a bus, a GPIO
//! chip) that is silent past its deadline: the watchdog does not look at those. Everything is said
//! on change, and what changes within [`HEALTH_INTERVAL`] is said together.

use core::fmt::Write as _;
use std::collections::BTreeMap;

use super::Gateway;
use crate::time::{Duration, Instant, Now};

/// What flaps is published at most this often.
pub const HEALTH_INTERVAL: Duration = Duration::from_secs(1);

/// How many counters of trouble there are.
const COUNTERS: usize = 17;

/// What has been said, and when to speak again.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// What `said` was made of; `None` before the first time.
    seen: Option<Seen>,
    /// By topic below `health/`; what is not there is clear.
    said: BTreeMap<&'static str, String>,
    /// Not before then.
    quiet_until: Instant,
    /// Something waits for that.
    waits: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    counters: [u64; COUNTERS],
    workers_stuck: u64,
    /// Changes of what listeners have come to.
    listenings: u64,
    /// Bridges that have come up or gone down, and attempts that have failed.
    links: u64,
}

impl Health {
    /// When [`Gateway::tell_health`] is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.waits.then_some(self.quiet_until)
    }
}

impl Gateway {
    /// What does not change while it runs.
    pub(super) fn publish_info(&mut self, now: Now) {
        let base = self.config.base_topic.clone();
        let name = self.config.name.clone();
        self.publish_retained(now, &format!("{base}/gateway/info/name"), &name);
        let version = env!("CARGO_PKG_VERSION");
        self.publish_retained(now, &format!("{base}/gateway/info/version"), version);
    }

    /// The base topic has changed from this one: what was said below it is cleared, and will be
    /// said again.
    pub(super) fn move_health(&mut self, now: Now, before: &str) {
        for name in ["name", "version"] {
            self.publish_retained(now, &format!("{before}/gateway/info/{name}"), "");
        }
        for name in core::mem::take(&mut self.health.said).into_keys() {
            self.publish_retained(now, &format!("{before}/gateway/health/{name}"), "");
        }
        self.health.seen = None;
    }

    /// Publishes what has changed, or remembers that it must wait for that.
    pub(super) fn tell_health(&mut self, now: Now) {
        let seen = Seen {
            counters: self.troubles().map(|(_, count)| count),
            workers_stuck: self.host.workers_stuck,
            listenings: self.counters.listenings,
            links: self.bridges.changes(),
        };
        if self.health.seen == Some(seen) {
            self.health.waits = false;
            return;
        }
        self.health.waits = now.monotonic < self.health.quiet_until;
        if self.health.waits {
            return;
        }
        self.health.seen = Some(seen);
        self.health.quiet_until = now.monotonic + HEALTH_INTERVAL;
        let reason = self.health_reason();
        let state = if reason.is_empty() { "ok" } else { "fault" };
        if state == "fault" && self.health.said.get("reason") != Some(&reason) {
            log::warn!("health fault: {reason}");
        } else if state == "ok" && self.health.said.contains_key("reason") {
            log::info!("health ok again");
        }
        // The reason first: who reads "fault" can then already ask why.
        self.say_health(now, "reason", reason);
        self.say_health(now, "state", state.to_owned());
        for (name, count) in self.troubles() {
            let count = if count == 0 {
                String::new()
            } else {
                count.to_string()
            };
            self.say_health(now, name, count);
        }
    }

    /// Says something below `health/` if it is new; nothing clears.
    fn say_health(&mut self, now: Now, name: &'static str, text: String) {
        if self.health.said.get(name).map_or("", String::as_str) == text {
            return;
        }
        let topic = format!("{}/gateway/health/{name}", self.config.base_topic);
        self.publish_retained(now, &topic, &text);
        if text.is_empty() {
            self.health.said.remove(name);
        } else {
            self.health.said.insert(name, text);
        }
    }

    /// What is wrong now; nothing if all is well.
    pub(super) fn health_reason(&self) -> String {
        let mut reason = String::new();
        for (_, listener) in self.listeners.iter() {
            if let Some(error) = &listener.error {
                let _ = write!(
                    reason,
                    "; listener {} cannot listen at {}: {error}",
                    listener.name, listener.bind
                );
            }
        }
        match self.host.workers_stuck {
            0 => {}
            1 => reason.push_str("; a worker is silent past its deadline"),
            many => {
                let _ = write!(reason, "; {many} workers are silent past their deadlines");
            }
        }
        for fault in self.bridge_faults() {
            let _ = write!(reason, "; {fault}");
        }
        reason.trim_start_matches("; ").to_owned()
    }

    /// What should not happen, and how often it has.
    fn troubles(&self) -> [(&'static str, u64); COUNTERS] {
        let host = &self.host;
        [
            ("accepts_exhausted", host.accepts_exhausted),
            ("accepts_refused", host.accepts_refused),
            ("connections_starved", self.counters.starved),
            ("control_overflowed", host.control_overflowed),
            ("control_refused", host.control_refused),
            ("credentials_failed", host.credentials_failed),
            ("dead_letters_lost", host.dead_letters_lost),
            ("flushes_expired", host.flushes_expired),
            ("linger_cut_short", host.linger_cut_short),
            ("log_lines_lost", host.log_lines_lost),
            ("proxies_refused", host.proxies_refused),
            ("reloads_refused", self.counters.reloads_refused),
            ("requests_refused", self.counters.requests_refused),
            ("tls_failed", host.tls_failed),
            ("websocket_failed", host.websocket_failed),
            ("worker_expired", host.worker_expired),
            ("worker_late", host.worker_late),
        ]
    }
}
