//! The places of a configuration file: which table takes which keys, and what to say about a key
//! that it does not take.

use super::diagnostic::{Diagnostic, all_of, shown};
use super::later::{self, Group};
use super::tree::Entry;
use super::words;

/// A kind of table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// The file itself.
    Root,
    Gateway,
    Defaults,
    Broker,
    Queue,
    Retained,
    /// `publish_quota = { … }`
    Quota,
    Durability,
    /// One of `rules` of `[broker.durability]`.
    DurabilityRule,
    /// `{ interval = … }`
    Interval,
    Journal,
    Access,
    /// One of `[[access.rule]]`.
    Rule,
    Listener,
    /// `tls = { … }` of a listener
    Tls,
    /// `websocket = { … }`
    WebSocket,
    /// `proxy_protocol = { … }`
    Proxy,
    /// `redirect = { … }`
    Redirect,
    Bridge,
    /// `tls = { … }` of a bridge
    BridgeTls,
    /// `reconnect = { … }`
    Reconnect,
    /// `queue = { … }` of a bridge
    BridgeQueue,
    /// `password = { … }`
    Secret,
    /// One of `[[bridge.NAME.send]]`.
    Send,
    /// One of `[[bridge.NAME.receive]]`.
    Receive,
    I2c,
    Gpio,
    Serial,
    Log,
    Control,
    /// `driver = "system"`
    System,
    /// A chip on I2C.
    Chip,
    /// `driver = "gpio"`
    Lines,
    /// `driver = "lines"`
    Text,
    /// A point that the driver brings along.
    FixedPoint,
    InputPoint,
    EventPoint,
    CounterPoint,
    Persist,
    OutputPoint,
    /// A point of `driver = "lines"`.
    TextPoint,
}

impl Place {
    const ALL: [Self; 41] = [
        Self::Root,
        Self::Gateway,
        Self::Defaults,
        Self::Broker,
        Self::Queue,
        Self::Retained,
        Self::Quota,
        Self::Durability,
        Self::DurabilityRule,
        Self::Interval,
        Self::Journal,
        Self::Access,
        Self::Rule,
        Self::Listener,
        Self::Tls,
        Self::WebSocket,
        Self::Proxy,
        Self::Redirect,
        Self::Bridge,
        Self::BridgeTls,
        Self::Reconnect,
        Self::BridgeQueue,
        Self::Secret,
        Self::Send,
        Self::Receive,
        Self::I2c,
        Self::Gpio,
        Self::Serial,
        Self::Log,
        Self::Control,
        Self::System,
        Self::Chip,
        Self::Lines,
        Self::Text,
        Self::FixedPoint,
        Self::InputPoint,
        Self::EventPoint,
        Self::CounterPoint,
        Self::Persist,
        Self::OutputPoint,
        Self::TextPoint,
    ];

    /// Its own keys; those of [`COMMON`] come on top where [`Place::has_common`], and `label` but
    /// for the defaults.
    const fn own_keys(self) -> &'static [&'static str] {
        match self {
            Self::Root => &[
                "gateway", "broker", "journal", "access", "listener", "bridge", "i2c", "gpio",
                "serial", "device", "log", "control",
            ],
            Self::Gateway => &["name", "base_topic", "data_dir", "time_format", "defaults"],
            Self::Defaults | Self::FixedPoint => &[],
            Self::Broker => &[
                "max_connections",
                "max_connections_per_address",
                "connect_rate",
                "exempt_addresses",
                "max_connect_size",
                "publish_quota",
                "max_packet_size",
                "receive_maximum",
                "topic_alias_maximum",
                "outgoing_topic_aliases",
                "keep_alive_override",
                "max_session_expiry",
                "inflight_maximum",
                "memory",
                "queue",
                "queues",
                "retained",
                "max_sessions",
                "max_subscriptions",
                "connect_timeout",
                "sys_interval",
                "listen",
                "maximum_qos",
                "retain_available",
                "wildcard_subscriptions",
                "shared_subscriptions",
                "subscription_identifiers",
                "check_payload_format",
                "response_information",
                "durability",
            ],
            Self::Queue => &["messages", "bytes", "when_full"],
            Self::Retained | Self::Quota => &["messages", "bytes"],
            Self::Durability => &["default", "rules"],
            Self::DurabilityRule => &["filter", "level"],
            Self::Interval => &["interval"],
            Self::Journal => &["size", "segment", "sync_within"],
            Self::Access => &["password_file", "acl_file", "default", "group", "rule"],
            Self::Rule => &[
                "user",
                "group",
                "client",
                "anonymous",
                "allow",
                "deny",
                "filter",
                "own",
            ],
            Self::Listener => &[
                "bind",
                "allow_anonymous",
                "max_connections",
                "protocols",
                "websocket",
                "tls",
                "proxy_protocol",
                "redirect",
                "identity",
                "mode",
                "group",
            ],
            Self::Tls => &[
                "certificate",
                "key",
                "client_ca",
                "require_client",
                "identity",
            ],
            Self::WebSocket => &["path", "origins"],
            Self::Proxy => &["from"],
            Self::Redirect => &["to", "permanent"],
            Self::Bridge => &[
                "url",
                "urls",
                "failback",
                "version",
                "client_id",
                "username",
                "password",
                "tls",
                "keep_alive",
                "session_expiry",
                "clean_start",
                "reconnect",
                "stalled_after",
                "profile",
                "state_topic",
                "queue",
                "replay_rate",
                "inflight_maximum",
                "send",
                "receive",
            ],
            Self::BridgeTls => &["ca", "certificate", "key", "alpn", "server_name"],
            Self::Reconnect => &["min", "max"],
            Self::BridgeQueue => &["messages", "bytes", "age", "when_full"],
            Self::Secret => &["file", "credential", "env"],
            Self::Send => &[
                "filter",
                "except",
                "to",
                "backlog_to",
                "qos",
                "keep",
                "lanes",
            ],
            Self::Receive => &["filter", "to", "qos", "queued"],
            Self::I2c => &["transfer_timeout"],
            Self::Gpio => &["chip"],
            Self::Serial => &["path", "baud", "format", "rs485"],
            Self::Log => &["level", "levels"],
            Self::Control => &["socket", "group"],
            Self::System => &[
                "driver",
                "point",
                "accept_retained",
                "simulated",
                "temperature",
                "disk",
            ],
            Self::Chip => &[
                "driver",
                "point",
                "accept_retained",
                "simulated",
                "bus",
                "address",
            ],
            Self::Lines => &["driver", "point", "accept_retained", "simulated", "bus"],
            Self::Text => &[
                "driver",
                "point",
                "accept_retained",
                "simulated",
                "bus",
                "pattern",
                "poll",
                "line_max",
            ],
            Self::InputPoint => &["kind", "line", "active_low", "bias", "debounce"],
            Self::EventPoint => &["kind", "line", "active_low", "bias", "debounce", "edge"],
            Self::CounterPoint => &[
                "kind",
                "line",
                "active_low",
                "bias",
                "debounce",
                "edge",
                "persist",
            ],
            Self::Persist => &["pulses", "interval"],
            Self::OutputPoint => &[
                "kind",
                "line",
                "active_low",
                "bias",
                "safe_state",
                "on_start",
                "lease",
                "drive",
            ],
            Self::TextPoint => &["type", "command", "words"],
        }
    }

    /// Whether the keys that cascade from `[gateway.defaults]` to devices and points may stand
    /// here.
    pub(super) const fn has_common(self) -> bool {
        matches!(
            self,
            Self::Defaults
                | Self::System
                | Self::Chip
                | Self::Lines
                | Self::Text
                | Self::FixedPoint
                | Self::InputPoint
                | Self::EventPoint
                | Self::CounterPoint
                | Self::OutputPoint
                | Self::TextPoint
        )
    }

    /// Whether a key that cascades may stand here.
    fn takes(self, common: &str) -> bool {
        match (self.group(), common) {
            // A driver's own points come all together.
            (Group::FixedPoint, "enabled") => false,
            _ => self.has_common(),
        }
    }

    /// Every key that may stand here.
    pub(super) fn keys(self) -> impl Iterator<Item = &'static str> {
        let label: &[&str] = if self.has_common() && self != Self::Defaults {
            &["label"]
        } else {
            &[]
        };
        let common = COMMON.iter().filter(move |key| self.takes(key));
        self.own_keys().iter().chain(common).chain(label).copied()
    }

    /// For the table of what comes later.
    fn group(self) -> Group {
        match self {
            Self::Root => Group::Root,
            Self::Send => Group::Send,
            Self::Defaults | Self::System | Self::Chip | Self::Lines | Self::Text => Group::Common,
            Self::FixedPoint => Group::FixedPoint,
            Self::InputPoint
            | Self::EventPoint
            | Self::CounterPoint
            | Self::OutputPoint
            | Self::TextPoint => Group::Point,
            _ => Group::Other,
        }
    }

    /// How a user writes it.
    const fn header(self) -> &'static str {
        match self {
            Self::Root => "the top level",
            Self::Gateway => "[gateway]",
            Self::Defaults => "[gateway.defaults]",
            Self::Broker => "[broker]",
            Self::Queue => "[broker.queue]",
            Self::Retained => "[broker.retained]",
            Self::Quota => "[broker.publish_quota]",
            Self::Durability => "[broker.durability]",
            Self::DurabilityRule => "`rules` of [broker.durability]",
            Self::Interval => "`{ interval = … }`",
            Self::Journal => "[journal]",
            Self::Access => "[access]",
            Self::Rule => "[[access.rule]]",
            Self::Listener => "[listener.NAME]",
            Self::Tls => "`tls` of [listener.NAME]",
            Self::WebSocket => "`websocket` of [listener.NAME]",
            Self::Proxy => "`proxy_protocol` of [listener.NAME]",
            Self::Redirect => "`redirect` of [listener.NAME]",
            Self::Bridge => "[bridge.NAME]",
            Self::BridgeTls => "`tls` of [bridge.NAME]",
            Self::Reconnect => "`reconnect` of [bridge.NAME]",
            Self::Persist => "`persist` of a counter",
            Self::BridgeQueue => "`queue` of [bridge.NAME]",
            Self::Secret => "`username` or `password` of [bridge.NAME]",
            Self::Send => "[[bridge.NAME.send]]",
            Self::Receive => "[[bridge.NAME.receive]]",
            Self::I2c => "[i2c.N]",
            Self::Gpio => "[gpio.NAME]",
            Self::Serial => "[serial.NAME]",
            Self::Log => "[log]",
            Self::Control => "[control]",
            Self::System | Self::Chip | Self::Lines | Self::Text => "[device.NAME]",
            Self::FixedPoint
            | Self::InputPoint
            | Self::EventPoint
            | Self::CounterPoint
            | Self::OutputPoint
            | Self::TextPoint => "[device.NAME.point.NAME]",
        }
    }
}

/// Keys of `[gateway.defaults]`, of devices and of points: the nearest wins.
pub(super) const COMMON: [&str; 18] = [
    "every",
    "qos",
    "retain",
    "payload",
    "booleans",
    "stale_after",
    "min_interval",
    "max_interval",
    "deadband",
    "precision",
    "expiry",
    "unit",
    "scale",
    "offset",
    "min",
    "max",
    "topic",
    "enabled",
];

/// What to say about a key that `place` (written `[path]`) does not take.
pub(super) fn unknown_key(place: Place, path: &str, entry: &Entry) -> Diagnostic {
    let name = &entry.name;
    if let Some(what) = later::key(place.group(), name) {
        return later::refusal(what, entry.key);
    }
    let here = if path.is_empty() {
        String::from("the top level")
    } else {
        format!("[{path}]")
    };
    let error = Diagnostic::error(format!("{} is not a key of {here}", shown(name)));
    if let Some(help) = words::of_key(name) {
        return error.at(entry.key, "").help(help);
    }
    let elsewhere = elsewhere(place, name);
    if !elsewhere.is_empty() {
        let label = format!("belongs in {}", elsewhere.join(" or "));
        return error.at(entry.key, label);
    }
    let error = match nearest(name, place.keys()) {
        Some(meant) => return error.at(entry.key, format!("did you mean `{meant}`?")),
        None => error.at(entry.key, ""),
    };
    error.help(format!("its keys are {}", all_of(place.keys())))
}

/// The headers of the other tables that take this key.
fn elsewhere(place: Place, name: &str) -> Vec<&'static str> {
    let mut headers: Vec<&'static str> = Vec::new();
    for other in Place::ALL {
        let header = other.header();
        if other != place
            && other.keys().any(|key| key == name)
            && header != place.header()
            && !headers.contains(&header)
        {
            headers.push(header);
        }
    }
    if headers.is_empty() {
        // Another driver or another kind of point takes it.
        let kinds = Place::ALL
            .iter()
            .filter(|other| other.keys().any(|key| key == name));
        for other in kinds {
            headers.push(match other {
                Place::System => "a device with driver = \"system\"",
                Place::Chip => "a device on I2C",
                Place::Lines => "a device with driver = \"gpio\"",
                Place::Text => "a device with driver = \"lines\"",
                Place::InputPoint => "a point of kind \"input\"",
                Place::EventPoint => "a point of kind \"event\"",
                Place::CounterPoint => "a point of kind \"counter\"",
                Place::OutputPoint => "a point of kind \"output\"",
                Place::TextPoint => "a point of driver \"lines\"",
                _ => continue,
            });
        }
    }
    headers
}

/// The candidate that is spelt most like `name`, if one is near enough to be meant.
pub(super) fn nearest<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    // Longer names are not compared: the distance takes time in the square of the length.
    const COMPARED_MAX: usize = 64;
    if name.len() > COMPARED_MAX {
        return None;
    }
    let name = name.to_lowercase().replace('-', "_");
    let candidates: Vec<&str> = candidates.into_iter().collect();
    if name.len() >= 3 {
        let mut longer = candidates
            .iter()
            .filter(|candidate| candidate.starts_with(&name));
        if let (Some(only), None) = (longer.next(), longer.next()) {
            return Some(only);
        }
        let shorter = candidates
            .iter()
            .find(|word| word.len() >= 3 && name.starts_with(**word));
        if let Some(shorter) = shorter {
            return Some(shorter);
        }
    }
    candidates
        .into_iter()
        .map(|candidate| {
            let folded = candidate.replace('-', "_");
            (strsim::damerau_levenshtein(&name, &folded), candidate)
        })
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, candidate)| *distance <= candidate.len().max(name.len()) / 3)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_is_understood() {
        for (written, meant) in [
            ("evry", Some("every")),
            ("max-interval", Some("max_interval")),
            ("stale", Some("stale_after")),
            ("m", None),
            ("topics", Some("topic")),
            ("x", None),
            ("precison", Some("precision")),
        ] {
            assert_eq!(nearest(written, COMMON), meant, "{written}");
        }
        assert_eq!(nearest(&"every".repeat(1000), COMMON), None);
    }

    #[test]
    fn no_key_stands_twice_in_a_place() {
        for place in Place::ALL {
            let mut keys: Vec<_> = place.keys().collect();
            let count = keys.len();
            keys.sort_unstable();
            keys.dedup();
            assert_eq!(keys.len(), count, "{place:?}");
        }
    }
}
