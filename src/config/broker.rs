//! `[broker]`: its limits, each with the default of [`Settings`] where the file says nothing.

use core::ops::RangeInclusive;

use super::diagnostic::Diagnostic;
use super::place::Place;
use super::read::{At, Cx, Section, Times, times, times_or_off};
use super::tree::{Entry, Value};
use crate::broker::ALIASES_MAX;
use crate::broker::settings::{Settings, WhenFull};
use crate::gateway::settings::Network;
use crate::mqtt::{QoS, TopicName};
use crate::time::Duration;
use crate::units::{parse_rate, parse_size_rate};

/// `[broker]`, and whether it listens at all.
#[derive(Debug)]
pub(super) struct Broker {
    pub(super) settings: Settings,
    /// `exempt_addresses`.
    pub(super) exempt: Vec<Network>,
    /// `listen = false`, and where that stands.
    pub(super) listens: At<bool>,
}

/// What gives way in a full queue, by its word.
pub(super) const WHEN_FULL: [(&str, WhenFull); 4] = [
    ("drop_newest", WhenFull::DropNewest),
    ("drop_oldest", WhenFull::DropOldest),
    ("refuse", WhenFull::Refuse),
    ("disconnect", WhenFull::Disconnect),
];

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// What MQTT can say in its length field, and no more: a fixed header of 5 bytes and 268 435 455
/// behind it, rounded down to what has a name.
const PACKET_SIZES: RangeInclusive<u64> = KIB..=255 * MIB;

/// A client identifier, a name, a password and a will.
const CONNECT_SIZES: RangeInclusive<u64> = KIB..=MIB;

/// Any table, any queue. Up to 2 GiB: a 32-bit Pi cannot address more.
pub(super) const SIZES: RangeInclusive<u64> = 64 * KIB..=2 * GIB;

/// Keep-alive is a number of seconds in 16 bits.
pub(super) const KEEP_ALIVE: Times = times_or_off(
    "s",
    Duration::from_secs(1),
    Duration::from_secs(u16::MAX as u64),
    "60s",
);

/// Session expiry is a number of seconds in 32 bits, of which the largest means "never".
pub(super) const SESSION_EXPIRY: Times = times(
    "s",
    Duration::from_secs(1),
    Duration::from_secs(u32::MAX as u64 - 1),
    "7d",
);

const SYS_INTERVAL: Times = times_or_off(
    "s",
    Duration::from_secs(1),
    Duration::from_secs(3600),
    "10s",
);

const CONNECT_TIMEOUT: Times = times("s", Duration::from_secs(1), Duration::from_secs(300), "10s");

impl Broker {
    pub(super) fn read(cx: &mut Cx<'_>, root: &Section<'_>) -> Self {
        let mut broker = Self {
            settings: Settings::default(),
            exempt: super::transport::loopback(),
            listens: At {
                value: true,
                span: root.span,
            },
        };
        let section = root
            .get(cx, "broker")
            .and_then(|entry| Section::open(cx, Place::Broker, "broker", entry));
        if let Some(section) = section {
            broker.limits(cx, &section);
            broker.strangers(cx, &section);
            broker.queues(cx, &section);
            broker.features(cx, &section);
            broker.settings.durability = super::durability::read(cx, &section);
            if let Some(entry) = section.get(cx, "listen")
                && let Some(value) = cx.flag(entry)
            {
                broker.listens = At {
                    value,
                    span: entry.key,
                };
            }
        }
        broker
    }

    fn limits(&mut self, cx: &mut Cx<'_>, section: &Section<'_>) {
        let to = &mut self.settings;
        if let Some(count) = whole(cx, section, "max_connections", 1..=100_000) {
            to.max_connections = count as u32;
        }
        let packet = section.get(cx, "max_packet_size");
        if let Some(bytes) = packet.and_then(|entry| cx.size(entry, PACKET_SIZES, "1MiB")) {
            to.max_packet_size = bytes as u32;
        }
        if let Some(count) = whole(cx, section, "receive_maximum", 1..=65_535) {
            to.receive_maximum = count as u16;
        }
        if let Some(entry) = section.get(cx, "topic_alias_maximum")
            && let Some(count) = cx.whole_or_off(entry, 1..=65_535)
        {
            to.topic_alias_maximum = count.unwrap_or(0) as u16;
        }
        if let Some(entry) = section.get(cx, "outgoing_topic_aliases")
            && let Some(count) = cx.whole_or_off(entry, 1..=u64::from(ALIASES_MAX))
        {
            to.outgoing_topic_aliases = count.unwrap_or(0) as u16;
        }
        if let Some(entry) = section.get(cx, "keep_alive_override")
            && let Some(duration) = cx.duration_or_off(entry, &KEEP_ALIVE)
        {
            to.keep_alive_override = duration
                .filter(|duration| whole_seconds(cx, entry, *duration))
                .map(|duration| duration.as_secs() as u16);
        }
        if let Some(entry) = section.get(cx, "max_session_expiry") {
            let unlimited = matches!(&entry.node.value, Value::Text(text) if text == "unlimited");
            if unlimited {
                to.max_session_expiry = None;
            } else if let Some(duration) = cx.duration(entry, &SESSION_EXPIRY)
                && whole_seconds(cx, entry, duration)
            {
                to.max_session_expiry = Some(duration);
            }
        }
        if let Some(count) = whole(cx, section, "inflight_maximum", 1..=65_535) {
            to.inflight_maximum = count as u16;
        }
        let memory = section.get(cx, "memory");
        if let Some(bytes) = memory.and_then(|entry| cx.size(entry, 4 * MIB..=2 * GIB, "96MiB")) {
            to.memory = bytes as usize;
        }
        if let Some(count) = whole(cx, section, "max_sessions", 1..=1_000_000) {
            to.max_sessions = count as u32;
        }
        if let Some(count) = whole(cx, section, "max_subscriptions", 1..=1_000_000) {
            to.max_subscriptions = count as u32;
        }
        if let Some(entry) = section.get(cx, "connect_timeout")
            && let Some(duration) = cx.duration(entry, &CONNECT_TIMEOUT)
        {
            to.connect_timeout = duration;
        }
        if let Some(entry) = section.get(cx, "sys_interval")
            && let Some(interval) = cx.duration_or_off(entry, &SYS_INTERVAL)
        {
            to.sys_interval = interval;
        }
        let (packet_size, memory_size) = (u64::from(to.max_packet_size), to.memory as u64);
        if packet_size > memory_size
            && let Some(entry) = packet.or(memory)
        {
            cx.error(
                entry.node.span,
                "`max_packet_size` is larger than `memory`",
                "",
                "a packet of that size could never be taken: make it smaller, or `memory` larger",
            );
        }
    }

    /// What is for those who are not known, and for those who want too much.
    fn strangers(&mut self, cx: &mut Cx<'_>, section: &Section<'_>) {
        let to = &mut self.settings;
        if let Some(entry) = section.get(cx, "max_connections_per_address")
            && let Some(count) = cx.whole_or_unlimited(entry, 1..=100_000)
        {
            to.max_connections_per_address = count.map(|count| count as u32);
        }
        if let Some(entry) = section.get(cx, "connect_rate")
            && let Some(rate) = cx.rate_or_unlimited(entry, parse_rate, "20/s")
        {
            to.connect_rate = rate;
        }
        if let Some(entry) = section.get(cx, "exempt_addresses") {
            let example = "[\"127.0.0.0/8\", \"::1\"]";
            let networks = super::transport::networks(cx, entry, example);
            self.exempt = networks.into_iter().map(|network| network.value).collect();
        }
        let connect = section.get(cx, "max_connect_size");
        if let Some(bytes) = connect.and_then(|entry| cx.size(entry, CONNECT_SIZES, "16KiB")) {
            to.max_connect_size = bytes as u32;
        }
        if let Some(entry) = section.get(cx, "publish_quota")
            && let Some(quota) = Section::open(cx, Place::Quota, "broker.publish_quota", entry)
        {
            let messages = quota.get(cx, "messages");
            if let Some(rate) =
                messages.and_then(|entry| cx.rate_or_unlimited(entry, parse_rate, "100/s"))
            {
                to.publish_quota.messages = rate;
            }
            let bytes = quota.get(cx, "bytes");
            if let Some(rate) =
                bytes.and_then(|entry| cx.rate_or_unlimited(entry, parse_size_rate, "64KiB/s"))
            {
                to.publish_quota.bytes = rate;
            }
        }
    }

    /// What clients are offered.
    fn features(&mut self, cx: &mut Cx<'_>, section: &Section<'_>) {
        let to = &mut self.settings;
        if let Some(qos) = whole(cx, section, "maximum_qos", 0..=2) {
            to.maximum_qos = match qos {
                0 => QoS::AtMostOnce,
                1 => QoS::AtLeastOnce,
                _ => QoS::ExactlyOnce,
            };
        }
        for (key, flag) in [
            ("retain_available", &mut to.retain_available),
            ("wildcard_subscriptions", &mut to.wildcard_subscriptions),
            ("shared_subscriptions", &mut to.shared_subscriptions),
            ("subscription_identifiers", &mut to.subscription_identifiers),
            ("check_payload_format", &mut to.check_payload_format),
        ] {
            if let Some(entry) = section.get(cx, key)
                && let Some(value) = cx.flag(entry)
            {
                *flag = value;
            }
        }
        if let Some(entry) = section.get(cx, "response_information")
            && let Some(text) = cx.text(entry, "\"reply\"")
        {
            match TopicName::new(text) {
                Ok(_) => to.response_information = Some(text.into()),
                Err(error) => {
                    let title = "clients are told topics to be answered on";
                    let error = error.to_string();
                    cx.push(Diagnostic::error(title).at(entry.node.span, error));
                }
            }
        }
    }

    fn queues(&mut self, cx: &mut Cx<'_>, section: &Section<'_>) {
        let to = &mut self.settings;
        let mut queue_bytes = None;
        if let Some(entry) = section.get(cx, "queue")
            && let Some(queue) = Section::open(cx, Place::Queue, "broker.queue", entry)
        {
            if let Some(count) = whole(cx, &queue, "messages", 1..=10_000_000) {
                to.queue.messages = count as usize;
            }
            if let Some(entry) = queue.get(cx, "bytes")
                && let Some(bytes) = cx.size(entry, SIZES, "16MiB")
            {
                to.queue.bytes = bytes as usize;
                queue_bytes = Some(entry);
            }
            if let Some(entry) = queue.get(cx, "when_full")
                && let Some(policy) = cx.choice(entry, &WHEN_FULL)
            {
                to.queue.when_full = policy;
            }
        }
        let queues = section.get(cx, "queues");
        if let Some(bytes) = queues.and_then(|entry| cx.size(entry, SIZES, "256MiB")) {
            to.queues_bytes = bytes as usize;
        }
        if to.queue.bytes > to.queues_bytes
            && let Some(entry) = queue_bytes.or(queues)
        {
            cx.push(
                Diagnostic::error("one session's queue is larger than all queues together")
                    .at(entry.node.span, "")
                    .help("`queue.bytes` is for each session, `queues` for all of them"),
            );
        }
        if let Some(entry) = section.get(cx, "retained")
            && let Some(retained) = Section::open(cx, Place::Retained, "broker.retained", entry)
        {
            if let Some(count) = whole(cx, &retained, "messages", 1..=10_000_000) {
                to.retained_messages = count as usize;
            }
            if let Some(entry) = retained.get(cx, "bytes")
                && let Some(bytes) = cx.size(entry, SIZES, "64MiB")
            {
                to.retained_bytes = bytes as usize;
            }
        }
    }
}

fn whole(
    cx: &mut Cx<'_>,
    section: &Section<'_>,
    key: &'static str,
    range: RangeInclusive<u64>,
) -> Option<u64> {
    let entry = section.get(cx, key)?;
    cx.whole(entry, range)
}

/// MQTT counts these in seconds.
pub(super) fn whole_seconds(cx: &mut Cx<'_>, entry: &Entry, duration: Duration) -> bool {
    if duration.subsec_nanos() == 0 {
        return true;
    }
    cx.error(
        entry.node.span,
        format!("`{}` is counted in whole seconds by MQTT", entry.name),
        "",
        format!("for example \"{}s\"", duration.as_secs() + 1),
    );
    false
}
