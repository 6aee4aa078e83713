//! `$SYS/broker/…`: what the broker says about itself, under mosquitto's names where they mean the
//! same.
//!
//! Nothing is made while nobody looks: the numbers are counted anyway, and become messages at an
//! interval for as long as there is a subscription below `$SYS`. Whoever subscribes finds them
//! retained and current, for they are restated before the subscription draws them. They have QoS 0:
//! a number that is replaced every ten seconds is not worth a queue for clients that are away.
//!
//! `connection/NAME/state` is 1 while the bridge of that name is up, else 0, and is said on change.
//! `heap/…` is the account of buffers, queues and tables (see `buffer::Memory`), which is what
//! `[broker] memory` limits. `load/…` are exponentially decaying averages per minute over the time
//! that has really passed, so they stay right although nobody looked for a while.

use std::collections::BTreeMap;

use super::Gateway;
use crate::broker::{Origin, SYSTEM_LEVEL};
use crate::mqtt::{Publish, PublishProperties, QoS};
use crate::time::{Instant, Now};

/// What has been said, and when to speak again.
#[derive(Debug)]
pub(super) struct System {
    said: BTreeMap<String, Said>,
    /// `Some` as long as somebody watches, and until it is noticed that nobody does any more.
    next: Option<Instant>,
    load: Load,
}

#[derive(Debug, Default)]
struct Said {
    /// What the retained store has.
    stored: String,
    /// What those who watch were told last, or found.
    told: String,
}

/// Averages over 1, 5 and 15 minutes.
#[derive(Debug)]
struct Load {
    at: Instant,
    counters: [u64; LOADS.len()],
    per_minute: [[f64; 3]; LOADS.len()],
}

/// What has a load, below `load/`.
const LOADS: [&str; 8] = [
    "bytes/received",
    "bytes/sent",
    "messages/received",
    "messages/sent",
    "publish/dropped",
    "publish/received",
    "publish/sent",
    "sockets",
];

/// Above the names of bridges.
const CONNECTIONS: &str = "$SYS/broker/connection/";

const MINUTES: [(&str, f64); 3] = [("1min", 1.0), ("5min", 5.0), ("15min", 15.0)];

impl System {
    pub(super) fn new(started: Instant) -> Self {
        Self {
            said: BTreeMap::new(),
            next: None,
            load: Load {
                at: started,
                counters: [0; LOADS.len()],
                per_minute: [[0.0; 3]; LOADS.len()],
            },
        }
    }

    /// When [`Gateway::tell_system`] is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.next
    }
}

impl Load {
    /// Takes in what the counters have grown by since the last time.
    fn sample(&mut self, now: Instant, counters: [u64; LOADS.len()]) {
        let minutes = now.since(self.at).as_secs_f64() / 60.0;
        if minutes <= 0.0 {
            return;
        }
        for (index, counter) in counters.into_iter().enumerate() {
            let grown = counter.saturating_sub(self.counters[index]);
            let rate = grown as f64 / minutes;
            for (average, (_, window)) in self.per_minute[index].iter_mut().zip(MINUTES) {
                *average = rate + (-minutes / window).exp() * (*average - rate);
            }
        }
        self.at = now;
        self.counters = counters;
    }
}

impl Gateway {
    /// Somebody has subscribed below `$SYS`: what is retained there is made current, and from here
    /// on kept so.
    pub(super) fn show_system(&mut self, now: Now) {
        let Some(interval) = self.config.broker.sys_interval else {
            return;
        };
        let is_first = self.system.next.is_none();
        for (name, value) in self.system_values(now) {
            let said = self.system.said.entry(name.clone()).or_default();
            if is_first {
                said.told.clone_from(&value);
            }
            if said.stored != value {
                said.stored.clone_from(&value);
                self.broker.restate(now, &message(&name, &value));
            }
        }
        if is_first {
            self.system.next = Some(now.monotonic + interval);
        }
    }

    /// The interval has passed: what has changed is published, if anybody still looks.
    pub(super) fn tell_system(&mut self, now: Now) {
        if self.system.next.is_none_or(|at| at > now.monotonic) {
            return;
        }
        let interval = self.config.broker.sys_interval;
        let Some(interval) = interval.filter(|_| self.broker.is_system_watched()) else {
            self.system.next = None;
            return;
        };
        self.system.next = Some(now.monotonic + interval);
        let values = self.system_values(now);
        self.tell_values(now, values);
    }

    /// A bridge has come up or gone down, or there is another one, or one less: who looks is told
    /// at once.
    pub(super) fn tell_connections(&mut self, now: Now) {
        let values = self.connection_values();
        let is_over = |topic: &&String| {
            topic.starts_with(CONNECTIONS) && !values.iter().any(|(name, _)| name == *topic)
        };
        let over: Vec<String> = self.system.said.keys().filter(is_over).cloned().collect();
        for topic in over {
            self.system.said.remove(&topic);
            let message = message(&topic, "");
            self.broker
                .publish(now, Origin::System, &message, &mut self.outbox);
        }
        if self.system.next.is_some() {
            self.tell_values(now, values);
        }
    }

    fn tell_values(&mut self, now: Now, values: Vec<(String, String)>) {
        for (name, value) in values {
            let said = self.system.said.entry(name.clone()).or_default();
            if said.told == value {
                continue;
            }
            said.told.clone_from(&value);
            said.stored.clone_from(&value);
            let message = message(&name, &value);
            self.broker
                .publish(now, Origin::System, &message, &mut self.outbox);
        }
    }

    /// The interval may have changed.
    pub(super) fn reconfigure_system(&mut self, now: Now) {
        self.system.next = None;
        if self.broker.is_system_watched() {
            self.show_system(now);
        }
    }

    /// Every bridge's topic, and whether it is up.
    fn connection_values(&self) -> Vec<(String, String)> {
        let links = self.bridges.links_up();
        let topic = |name: &str| format!("{CONNECTIONS}{name}/state");
        links
            .map(|(name, is_up)| (topic(name), u8::from(is_up).to_string()))
            .collect()
    }

    /// Every topic with its value.
    fn system_values(&mut self, now: Now) -> Vec<(String, String)> {
        let stats = self.broker.stats();
        let dropped = stats.dropped_queue_full + stats.dropped_over_budget;
        let messages_sent = stats.publishes_sent + stats.answers_sent;
        let received = self.counters.bytes_received;
        let sent = self.outbox.sent();
        let counters = [
            received,
            sent,
            stats.packets_received,
            messages_sent,
            dropped,
            stats.publishes_received,
            stats.publishes_sent,
            stats.accepted,
        ];
        let numbers = [
            ("bytes/received", received),
            ("bytes/sent", sent),
            ("clients/connected", stats.connected),
            ("clients/disconnected", stats.sessions - stats.connected),
            ("clients/expired", stats.expired_sessions),
            ("clients/maximum", stats.connected_maximum),
            ("clients/total", stats.sessions),
            ("heap/current", self.memory.used() as u64),
            ("heap/maximum", self.memory.peak() as u64),
            ("messages/received", stats.packets_received),
            ("messages/sent", messages_sent),
            ("messages/stored", stats.messages),
            ("publish/messages/dropped", dropped),
            ("publish/messages/received", stats.publishes_received),
            ("publish/messages/sent", stats.publishes_sent),
            ("retained messages/count", stats.retained),
            ("store/messages/count", stats.messages),
            ("subscriptions/count", stats.subscriptions),
        ];
        self.system.load.sample(now.monotonic, counters);
        let uptime = now.monotonic.since(self.started).as_secs();
        let words = [
            ("uptime", format!("{uptime} seconds")),
            (
                "version",
                concat!("fieldgate version ", env!("CARGO_PKG_VERSION")).to_owned(),
            ),
        ];
        let load = LOADS.into_iter().zip(self.system.load.per_minute);
        let load = load.flat_map(|(name, averages)| {
            let windows = MINUTES.into_iter().zip(averages);
            windows.map(move |((window, _), average)| {
                (format!("load/{name}/{window}"), format!("{average:.2}"))
            })
        });
        numbers
            .into_iter()
            .map(|(name, number)| (name.to_owned(), number.to_string()))
            .chain(words.map(|(name, word)| (name.to_owned(), word)))
            .chain(load)
            .map(|(name, value)| (format!("{SYSTEM_LEVEL}/broker/{name}"), value))
            .chain(self.connection_values())
            .collect()
    }
}

fn message<'a>(topic: &'a str, value: &'a str) -> Publish<'a> {
    Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: true,
        topic,
        packet_id: None,
        properties: PublishProperties::default(),
        payload: value.as_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Duration;

    #[test]
    fn a_steady_rate_is_its_own_average_whether_looked_at_often_or_once() {
        let at = |seconds| Instant::default() + Duration::from_secs(seconds);
        let counters = |count| [count; LOADS.len()];
        let mut often = System::new(at(0)).load;
        let mut once = System::new(at(0)).load;
        // Two a second, for an hour.
        for seconds in (10..=3600).step_by(10) {
            often.sample(at(seconds), counters(2 * seconds));
        }
        once.sample(at(3600), counters(7200));
        for (index, (_, window)) in MINUTES.into_iter().enumerate() {
            let expected = 120.0 * (1.0 - (-60.0 / window).exp());
            for load in [&often, &once] {
                let average = load.per_minute[0][index];
                assert!((average - expected).abs() < 1e-6, "{average} {expected}");
            }
        }
        // A minute of silence takes the average of a minute down by e.
        often.sample(at(3660), counters(7200));
        let average = often.per_minute[0][0];
        assert!(
            (average - 120.0 / core::f64::consts::E).abs() < 1e-3,
            "{average}"
        );
        // No time has passed: nothing is divided by it.
        often.sample(at(3660), counters(9000));
        assert!((often.per_minute[0][0] - average).abs() < 1e-9);
    }
}
