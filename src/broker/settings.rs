//! The broker's limits and policies: what `[broker]` may say, with every default filled in.
//!
//! The defaults suit a Pi with 512 MiB. Every limit has a counter that says how often it was met.

pub use super::access::{AccessSettings, Effect, Order, Pattern, Rule, Rules, Who};
use crate::mqtt::QoS;
use crate::mqtt::topic;
use crate::time::Duration;
use crate::units::Rate;

/// The broker's settings. A reload applies them to what comes after it; sessions keep what they
/// were told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Network connections at once; the next one is closed, after CONNACK 0x97 if there is time for
    /// it.
    pub max_connections: u32,
    /// Of those: from one address (IPv6: from one /64). `None`: no limit of its own. Not for
    /// addresses that are exempt.
    pub max_connections_per_address: Option<u32>,
    /// How fast one address may connect in the long run; see [`super::admission`]. `None`: as fast
    /// as it can. Not for addresses that are exempt.
    pub connect_rate: Option<Rate>,
    /// Largest CONNECT that we take, in bytes; a larger one is refused with 0x95 by what its first
    /// bytes say. Before it nobody holds more memory than this.
    pub max_connect_size: u32,
    /// Largest packet that we take, in bytes, told in CONNACK [MQTT-3.2.2-15]; a larger one closes
    /// with 0x95.
    pub max_packet_size: u32,
    /// QoS 1 and 2 messages that a client may have unacknowledged towards us.
    pub receive_maximum: u16,
    /// Topic aliases that we take from a client.
    pub topic_alias_maximum: u16,
    /// Topic aliases that we give to a client that takes some; at most
    /// [`ALIASES_MAX`](super::ALIASES_MAX).
    pub outgoing_topic_aliases: u16,
    /// Overrides the client's keep-alive and tells it so. `None`: the client's own.
    pub keep_alive_override: Option<u16>,
    /// Sessions live at most this long without a connection. `None`: without limit.
    pub max_session_expiry: Option<Duration>,
    /// QoS 1 and 2 messages that we keep unacknowledged towards a subscriber that names no Receive
    /// Maximum.
    pub inflight_maximum: u16,
    /// All buffers, queues and tables together, in bytes.
    pub memory: usize,
    /// Of each session.
    pub queue: QueueLimits,
    /// Queued bytes of all sessions together.
    pub queues_bytes: usize,
    /// How many retained messages, and how many bytes of them.
    pub retained_messages: usize,
    /// See `retained_messages`.
    pub retained_bytes: usize,
    /// Sessions, connected or not; the next new one is refused with 0x97.
    pub max_sessions: u32,
    /// Subscriptions of one client; the next SUBSCRIBE is answered 0x97.
    pub max_subscriptions: u32,
    /// How much one client may publish.
    pub publish_quota: PublishQuota,
    /// From accepting a connection to its CONNECT, and to the end of its authentication.
    pub connect_timeout: Duration,
    /// How often `$SYS` is published while somebody looks. `None`: there is no `$SYS`.
    pub sys_interval: Option<Duration>,
    /// The highest QoS that clients may publish at, told in CONNACK [MQTT-3.2.2-9].
    pub maximum_qos: QoS,
    /// Whether clients may publish with RETAIN and have a will with it [MQTT-3.2.2-13].
    pub retain_available: bool,
    /// Whether filters may have wildcards.
    pub wildcard_subscriptions: bool,
    /// Whether SUBSCRIBE may carry a Subscription Identifier.
    pub subscription_identifiers: bool,
    /// Whether filters may be shared.
    pub shared_subscriptions: bool,
    /// Whether a payload that says that it is UTF-8 is looked at, and refused with 0x99 if it is
    /// not (3.3.2.3.2).
    pub check_payload_format: bool,
    /// What CONNACK tells clients that ask for Response Information (3.2.2.3.15).
    pub response_information: Option<Box<str>>,
    /// What an acknowledgement waits for. Without a journal nothing is durable, whatever this says.
    pub durability: Durability,
    /// Who is who, and who may do what.
    pub access: AccessSettings,
}

impl Default for Settings {
    fn default() -> Self {
        const MIB: usize = 1024 * 1024;
        Self {
            max_connections: 1000,
            max_connections_per_address: Some(250),
            connect_rate: Some(Rate::per_second(20)),
            max_connect_size: 16 * 1024,
            max_packet_size: MIB as u32,
            receive_maximum: 20,
            topic_alias_maximum: 16,
            outgoing_topic_aliases: 16,
            keep_alive_override: None,
            max_session_expiry: Some(Duration::from_secs(7 * 24 * 3600)),
            inflight_maximum: 20,
            memory: 96 * MIB,
            queue: QueueLimits::default(),
            queues_bytes: 256 * MIB,
            retained_messages: 100_000,
            retained_bytes: 64 * MIB,
            max_sessions: 10_000,
            max_subscriptions: 1000,
            publish_quota: PublishQuota::default(),
            connect_timeout: Duration::from_secs(10),
            sys_interval: Some(Duration::from_secs(10)),
            maximum_qos: QoS::ExactlyOnce,
            retain_available: true,
            wildcard_subscriptions: true,
            subscription_identifiers: true,
            shared_subscriptions: true,
            check_payload_format: false,
            response_information: None,
            durability: Durability::default(),
            access: AccessSettings::default(),
        }
    }
}

/// How durable messages are, by their topics.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Durability {
    /// Of a topic that no rule matches.
    pub default: Level,
    /// Checked Topic Filters, not shared ones; the first that matches decides.
    pub rules: Vec<(Box<str>, Level)>,
}

impl Durability {
    /// How durable messages of this topic are. It must have been checked.
    pub fn level_of(&self, topic: &str) -> Level {
        self.rules
            .iter()
            .find(|(filter, _)| topic::matches(filter, topic))
            .map_or(self.default, |(_, level)| *level)
    }
}

/// How durable a message is that somebody durable takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Level {
    /// It is acknowledged when it is on the disk.
    #[default]
    Strict,
    /// It is acknowledged at once, and on the disk within this time.
    Interval(Duration),
    /// It is acknowledged at once, and lost when the power fails.
    None,
}

/// Where the clients of a listener are to go instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// The Server Reference: one server or several, with a space between (4.11).
    pub reference: Box<str>,
    /// For good (0x9D), or for the time being (0x9C).
    pub is_permanent: bool,
}

/// How much one client may publish in the long run; a second's worth at once. A client that
/// publishes more is not read until it has waited for it, so nothing is lost and nothing is
/// refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PublishQuota {
    /// PUBLISH packets. `None`: no limit.
    pub messages: Option<Rate>,
    /// Their bytes. `None`: no limit.
    pub bytes: Option<Rate>,
}

/// Limits of one queue, and what happens there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueLimits {
    /// Messages waiting, those in flight not counted.
    pub messages: usize,
    /// Their bytes. As many again may be in flight before their next one is sent.
    pub bytes: usize,
    /// What gives way.
    pub when_full: WhenFull,
}

impl Default for QueueLimits {
    fn default() -> Self {
        Self {
            messages: 10_000,
            bytes: 16 * 1024 * 1024,
            when_full: WhenFull::DropNewest,
        }
    }
}

/// What gives way when a queue is full. Each drop is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenFull {
    /// The message that arrives.
    #[default]
    DropNewest,
    /// The one that has waited longest.
    DropOldest,
    /// The publisher is told 0x97 if it is a 5.0 client that waits for an answer; the message
    /// reaches nobody.
    Refuse,
    /// The subscriber's connection is closed with 0x97; its session and queue stay.
    Disconnect,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rule_that_matches_a_topic_decides() {
        let interval = Level::Interval(Duration::from_secs(1));
        let durability = Durability {
            default: Level::Strict,
            rules: vec![
                ("shed/+/raw/#".into(), Level::None),
                ("shed/#".into(), interval),
                ("shed/pump/#".into(), Level::Strict),
            ],
        };
        for (topic, level) in [
            ("shed/pump/raw", Level::None),
            ("shed/pump/raw/a/b", Level::None),
            ("shed/pump/state", interval),
            ("shed", interval),
            ("barn/pump/raw", Level::Strict),
            ("$SYS/broker/uptime", Level::Strict),
        ] {
            assert_eq!(durability.level_of(topic), level, "{topic}");
        }
        assert_eq!(Durability::default().level_of("shed"), Level::Strict);
    }
}
