//! `[bridge.NAME]`: an upstream broker, and what is carried to it and from it.
//!
//! | file | reads |
//! |---|---|
//! | `url` | where the broker is |
//! | `secret` | user name and password, or where they are |
//! | `rules` | `[[bridge.NAME.send]]` and `[[bridge.NAME.receive]]`, and whether they make a loop |
//! | `limits` | what the profile's broker is known to take |

mod limits;
mod rules;
mod secret;
mod url;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::broker::{Broker, KEEP_ALIVE, SESSION_EXPIRY, whole_seconds};
use super::diagnostic::{Diagnostic, Span, shown};
use super::gateway::Gateway;
use super::names;
use super::place::Place;
use super::read::{Cx, Section, Times, times, times_or_off};
use super::tree::{Entry, Value};
use crate::bridge::settings::{
    ClientCertificate, Profile, QueueLimits, Reconnect, Settings, TlsSettings, Version, WhenFull,
};
use crate::gateway::settings::DeviceConfig;
use crate::mqtt::ProtocolVersion;
use crate::mqtt::topic::check_name;
use crate::time::Duration;
use crate::units::{Rate, parse_rate};

/// Bridges at most.
const BRIDGES_MAX: usize = 64;

/// Protocols that are offered in TLS at most.
const ALPN_MAX: usize = 16;

/// Bytes of a client identifier at most.
const CLIENT_ID_MAX: usize = 1024;

/// Messages of the backlog in a second, when nobody says.
const REPLAY_RATE: &str = "200/s";

/// QoS 1 and 2 messages under way, when nobody says. A link of 100 ms takes a thousand a second.
const INFLIGHT: u16 = 100;

const FAILBACK: Times = times_or_off(
    "m",
    Duration::from_secs(1),
    Duration::from_secs(30 * 86_400),
    "5m",
);
const STALLED: Times = times_or_off(
    "s",
    Duration::from_secs(1),
    Duration::from_secs(86_400),
    "30s",
);
const PAUSES: Times = times(
    "s",
    Duration::from_millis(100),
    Duration::from_secs(86_400),
    "1s",
);
/// On the disk: what fills most of the largest journal of segments of 4 MiB.
const QUEUE_SIZES: RangeInclusive<u64> = 64 << 10..=128 << 30;

const AGES: Times = times_or_off(
    "d",
    Duration::from_secs(1),
    Duration::from_secs(3650 * 86_400),
    "30d",
);

/// What a bridge speaks, by its word.
pub(super) const VERSIONS: [(&str, Version); 3] = [
    ("auto", Version::Auto),
    ("5", Version::Pinned(ProtocolVersion::V5)),
    ("3.1.1", Version::Pinned(ProtocolVersion::V4)),
];

/// What is upstream, by its word.
pub(super) const PROFILES: [(&str, Profile); 6] = [
    ("generic", Profile::Generic),
    ("aws", Profile::Aws),
    ("azure", Profile::Azure),
    ("azure_event_grid", Profile::AzureEventGrid),
    ("rabbitmq", Profile::RabbitMq),
    ("nats", Profile::Nats),
];

/// What gives way in a full queue, by its word.
pub(super) const WHEN_FULL: [(&str, WhenFull); 2] = [
    ("drop_oldest", WhenFull::DropOldest),
    ("drop_newest", WhenFull::DropNewest),
];

pub(super) use rules::{KEEPS, LANES, QUEUED};

/// Every `[bridge.NAME]`.
pub(super) fn read(
    cx: &mut Cx<'_>,
    root: &Section<'_>,
    gateway: &Gateway,
    broker: &Broker,
    devices: &BTreeMap<Box<str>, DeviceConfig>,
) -> BTreeMap<Box<str>, Settings> {
    let entries = cx.named(root.table(), "bridge", "[bridge.NAME]", names::is_name);
    let mut bridges = BTreeMap::new();
    for entry in entries.iter().take(BRIDGES_MAX) {
        let path = format!("bridge.{}", entry.name);
        let Some(section) = Section::open(cx, Place::Bridge, path, entry) else {
            continue;
        };
        let reader = Reader {
            section: &section,
            gateway,
            broker,
            devices,
        };
        if let Some(settings) = reader.bridge(cx, &entry.name) {
            bridges.insert(entry.name.as_str().into(), settings);
        }
    }
    if let Some(entry) = entries.get(BRIDGES_MAX) {
        let help = "one bridge may carry any number of topics";
        cx.error(
            entry.key,
            format!("more than {BRIDGES_MAX} bridges"),
            "",
            help,
        );
    }
    bridges
}

/// Gives every bridge the part that tells this gateway from others of its name; a client identifier
/// that is written stays as it is.
pub(super) fn identify(
    bridges: &mut BTreeMap<Box<str>, Settings>,
    is_written: impl Fn(&str) -> bool,
    part: &str,
) {
    for (name, settings) in bridges {
        settings.origin = format!("{}-{part}", settings.origin).into();
        if !is_written(name) {
            settings.client_id = format!("{}-{part}", settings.client_id).into();
        }
    }
}

/// One table, and what it is read beside.
struct Reader<'r, 't> {
    section: &'r Section<'t>,
    gateway: &'r Gateway,
    broker: &'r Broker,
    devices: &'r BTreeMap<Box<str>, DeviceConfig>,
}

impl<'t> Reader<'_, 't> {
    fn bridge(&self, cx: &mut Cx<'_>, name: &str) -> Option<Settings> {
        let section = self.section;
        let endpoints = url::read(cx, section);
        let profile = self.word(cx, "profile", &PROFILES).unwrap_or_default();
        let version = self.word(cx, "version", &VERSIONS).unwrap_or_default();
        let username = self.entry(cx, "username");
        let password = self.entry(cx, "password");
        if let (None, Some(password)) = (username, password)
            && version != Version::Pinned(ProtocolVersion::V5)
        {
            // [MQTT-3.1.2-22/3.1.1]
            cx.error(
                password.key,
                "a password without a user name",
                "only 5.0 has that",
                "add `username`, or pin the version: `version = \"5\"`",
            );
        }
        let encrypted = endpoints.iter().flatten().any(|it| it.value.is_encrypted());
        let rules = rules::read(cx, section);
        let settings = Settings {
            origin: self.gateway.name.clone(),
            base_topic: self.gateway.base_topic.clone(),
            failback: url::failback(cx, section, &FAILBACK),
            version,
            client_id: self.client_id(cx, name),
            username: username.and_then(|entry| secret::read(cx, section, entry)),
            password: password.and_then(|entry| secret::read(cx, section, entry)),
            tls: self.tls(cx, encrypted || endpoints.is_none()),
            keep_alive: self.keep_alive(cx),
            session_expiry: self.session_expiry(cx),
            clean_start: self
                .entry(cx, "clean_start")
                .and_then(|entry| cx.flag(entry))
                .unwrap_or(false),
            reconnect: self.reconnect(cx),
            stalled_after: match self.entry(cx, "stalled_after") {
                Some(entry) => cx.duration_or_off(entry, &STALLED).flatten(),
                None => Some(Duration::from_secs(30)),
            },
            profile,
            state_topic: self.state_topic(cx, &rules),
            queue: self.queue(cx),
            replay_rate: self.replay_rate(cx),
            inflight_maximum: self.inflight(cx, profile),
            receive_maximum: self.broker.settings.receive_maximum,
            max_packet_size: self.broker.settings.max_packet_size,
            send: rules.send.iter().map(|it| it.rule.clone()).collect(),
            receive: rules.receive.iter().map(|it| it.rule.clone()).collect(),
            endpoints: endpoints
                .iter()
                .flatten()
                .map(|it| it.value.clone())
                .collect(),
        };
        rules::check_loops(cx, &rules, &settings.base_topic);
        rules::check_times(cx, &rules, &settings, self.devices);
        limits::check(cx, section, &settings, endpoints.as_deref(), &rules);
        (!settings.endpoints.is_empty()).then_some(settings)
    }

    fn entry(&self, cx: &mut Cx<'_>, key: &'static str) -> Option<&'t Entry> {
        self.section.get(cx, key)
    }

    fn word<T: Copy>(&self, cx: &mut Cx<'_>, key: &'static str, words: &[(&str, T)]) -> Option<T> {
        let entry = self.entry(cx, key)?;
        cx.choice(entry, words)
    }

    /// By default the gateway's and the bridge's name; see [`identify`].
    fn client_id(&self, cx: &mut Cx<'_>, name: &str) -> Box<str> {
        let own = || format!("{}-{name}", self.gateway.name).into();
        let Some(entry) = self.entry(cx, "client_id") else {
            return own();
        };
        let Some(text) = cx.text(entry, "\"shed\"") else {
            return own();
        };
        if text.is_empty() || text.len() > CLIENT_ID_MAX || text.chars().any(char::is_control) {
            cx.error(
                entry.node.span,
                format!("{} is not a client identifier", shown(text)),
                "",
                format!("it has 1 to {CLIENT_ID_MAX} characters, and none that cannot be seen"),
            );
            return own();
        }
        text.into()
    }

    fn tls(&self, cx: &mut Cx<'_>, encrypted: bool) -> TlsSettings {
        let Some(entry) = self.entry(cx, "tls") else {
            return TlsSettings::default();
        };
        if !encrypted {
            cx.error(
                entry.key,
                "`tls` is without effect: the bridge does not encrypt",
                "",
                "write `mqtts://` or `wss://` in `url`, or take it out",
            );
        }
        let path = self.section.key_path("tls");
        let Some(section) = Section::open(cx, Place::BridgeTls, path, entry) else {
            return TlsSettings::default();
        };
        let mut file = |key, example: &str| {
            let entry = section.get(cx, key)?;
            Some((cx.path(entry, example), entry.key))
        };
        let ca = file("ca", "\"ca.pem\"");
        let certificate = file("certificate", "\"cert.pem\"");
        let key = file("key", "\"key.pem\"");
        let alone = match (&certificate, &key) {
            (Some((_, span)), None) => Some((span, "key", "`key = \"key.pem\"`")),
            (None, Some((_, span))) => Some((span, "certificate", "`certificate = \"cert.pem\"`")),
            _ => None,
        };
        if let Some((span, other, help)) = alone {
            let title = "`certificate` and `key` go together";
            cx.error(*span, title, format!("there is no `{other}`"), help);
        }
        let identity = match (certificate, key) {
            (Some((Some(certificate), _)), Some((Some(key), _))) => {
                Some(ClientCertificate { certificate, key })
            }
            _ => None,
        };
        TlsSettings {
            ca: ca.and_then(|(path, _)| path),
            identity,
            alpn: alpn(cx, &section),
            server_name: server_name(cx, &section),
        }
    }

    fn keep_alive(&self, cx: &mut Cx<'_>) -> u16 {
        const DEFAULT: u16 = 60;
        let Some(entry) = self.entry(cx, "keep_alive") else {
            return DEFAULT;
        };
        match cx.duration_or_off(entry, &KEEP_ALIVE) {
            Some(None) => 0,
            Some(Some(time)) if whole_seconds(cx, entry, time) => time.as_secs() as u16,
            _ => DEFAULT,
        }
    }

    fn session_expiry(&self, cx: &mut Cx<'_>) -> u32 {
        const DEFAULT: u32 = 7 * 86_400;
        let Some(entry) = self.entry(cx, "session_expiry") else {
            return DEFAULT;
        };
        if matches!(&entry.node.value, Value::Text(text) if text == "unlimited") {
            return u32::MAX;
        }
        match cx.duration(entry, &SESSION_EXPIRY) {
            Some(time) if whole_seconds(cx, entry, time) => time.as_secs() as u32,
            _ => DEFAULT,
        }
    }

    fn reconnect(&self, cx: &mut Cx<'_>) -> Reconnect {
        let mut to = Reconnect::default();
        let Some(entry) = self.entry(cx, "reconnect") else {
            return to;
        };
        let path = self.section.key_path("reconnect");
        let Some(section) = Section::open(cx, Place::Reconnect, path, entry) else {
            return to;
        };
        let min = section.get(cx, "min");
        let max = section.get(cx, "max");
        if let Some(pause) = min.and_then(|entry| cx.duration(entry, &PAUSES)) {
            to.min = pause;
        }
        if let Some(pause) = max.and_then(|entry| cx.duration(entry, &PAUSES)) {
            to.max = pause;
        }
        if to.min > to.max
            && let Some(entry) = min.or(max)
        {
            cx.error(
                entry.node.span,
                "`min` is longer than `max`",
                "",
                "pauses grow from `min` to `max`: `reconnect = { min = \"1s\", max = \"2m\" }`",
            );
        }
        to
    }

    /// As it is written; by default what `BASE/gateway/state` is called upstream, if it is sent
    /// there at all.
    fn state_topic(&self, cx: &mut Cx<'_>, rules: &rules::Rules) -> Option<Box<str>> {
        let Some(entry) = self.entry(cx, "state_topic") else {
            let local = format!(
                "{}/{}/state",
                self.gateway.base_topic,
                names::RESERVED_DEVICE
            );
            return rules.upstream_of(&local);
        };
        let text = cx.text(entry, "\"plants/shed/gateway/state\"")?;
        if text.is_empty() {
            return None;
        }
        if let Err(error) = check_name(text) {
            let title = format!("{} cannot be a topic", shown(text));
            let help =
                "for example `state_topic = \"plants/shed/gateway/state\"`, or \"\" for none";
            cx.error(entry.node.span, title, error.to_string(), help);
            return None;
        }
        Some(text.into())
    }

    fn queue(&self, cx: &mut Cx<'_>) -> QueueLimits {
        let mut to = QueueLimits::default();
        let Some(entry) = self.entry(cx, "queue") else {
            return to;
        };
        let path = self.section.key_path("queue");
        let Some(section) = Section::open(cx, Place::BridgeQueue, path, entry) else {
            return to;
        };
        if let Some(entry) = section.get(cx, "messages")
            && let Some(count) = cx.whole_or_unlimited(entry, 1..=1_000_000_000)
        {
            to.messages = count;
        }
        let bytes = section.get(cx, "bytes");
        if let Some(bytes) = bytes.and_then(|entry| cx.size(entry, QUEUE_SIZES, "256MiB")) {
            to.bytes = bytes;
        }
        let age = section.get(cx, "age");
        if let Some(age) = age.and_then(|entry| cx.duration_or_off(entry, &AGES)) {
            to.age = age;
        }
        let when_full = section.get(cx, "when_full");
        if let Some(policy) = when_full.and_then(|entry| cx.choice(entry, &WHEN_FULL)) {
            to.when_full = policy;
        }
        to
    }

    fn replay_rate(&self, cx: &mut Cx<'_>) -> Option<Rate> {
        let default = || parse_rate(REPLAY_RATE).ok();
        let Some(entry) = self.entry(cx, "replay_rate") else {
            return default();
        };
        cx.rate_or_unlimited(entry, parse_rate, REPLAY_RATE)
            .unwrap_or_else(default)
    }

    fn inflight(&self, cx: &mut Cx<'_>, profile: Profile) -> u16 {
        let entry = self.entry(cx, "inflight_maximum");
        let count = entry.and_then(|entry| cx.whole(entry, 1..=65_535));
        count.map_or_else(
            || INFLIGHT.min(profile.limits().inflight_maximum),
            |count| count as u16,
        )
    }
}

fn alpn(cx: &mut Cx<'_>, section: &Section<'_>) -> Vec<Box<str>> {
    const EXAMPLE: &str = "[\"mqtt\"]";
    let Some(entry) = section.get(cx, "alpn") else {
        return Vec::new();
    };
    let texts = cx.texts(entry, EXAMPLE);
    if texts.len() > ALPN_MAX {
        let title = format!("more than {ALPN_MAX} of `alpn`");
        cx.error(entry.node.span, title, "", "take some out");
    }
    let mut names = Vec::new();
    for text in texts {
        // A length of one byte (RFC 7301, 3.1).
        if text.value.is_empty() || text.value.len() > usize::from(u8::MAX) {
            let help = format!("it has 1 to 255 characters: `alpn = {EXAMPLE}`");
            cx.error(text.span, "this is no protocol's name", "", help);
        } else {
            names.push(text.value.into());
        }
    }
    names
}

fn server_name(cx: &mut Cx<'_>, section: &Section<'_>) -> Option<Box<str>> {
    let entry = section.get(cx, "server_name")?;
    let text = cx.text(entry, "\"broker.example\"")?;
    if url::is_host(text) {
        return Some(text.into());
    }
    let title = format!("{} is neither a host's name nor an address", shown(text));
    let help = "what the broker's certificate is for: `server_name = \"broker.example\"`";
    cx.error(entry.node.span, title, "", help);
    None
}

/// An error that names two places.
fn two_places(
    cx: &mut Cx<'_>,
    title: impl Into<String>,
    first: (Span, &str),
    second: (Span, &str),
    help: impl Into<String>,
) {
    cx.push(
        Diagnostic::error(title)
            .at(first.0, first.1)
            .also(second.0, second.1)
            .help(help),
    );
}
