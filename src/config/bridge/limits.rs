//! What the broker of a profile is known to take, held against the configuration: better here than
//! as a connection that breaks without a word. What only messages show is the bridge's to obey.

use super::super::diagnostic::{Diagnostic, Span};
use super::super::print::word;
use super::super::read::{At, Cx, Section};
use super::PROFILES;
use super::rules::Rules;
use crate::bridge::settings::{Endpoint, Profile, ProfileLimits, Settings, Version};
use crate::mqtt::{ProtocolVersion, TopicFilter};
use crate::time::Duration;
use crate::units::format_duration;

/// Where AWS tells MQTT from HTTPS by the protocol that is offered.
const HTTPS: u16 = 443;

/// The protocols that it knows there.
const AWS_PROTOCOLS: [&str; 2] = ["x-amzn-mqtt-ca", "mqtt"];

pub(super) fn check(
    cx: &mut Cx<'_>,
    section: &Section<'_>,
    settings: &Settings,
    endpoints: Option<&[At<Endpoint>]>,
    rules: &Rules,
) {
    if settings.profile == Profile::Generic {
        return;
    }
    let mut checker = Checker {
        cx,
        name: word(&PROFILES, settings.profile),
        limits: settings.profile.limits(),
    };
    checker.connection(section, settings);
    checker.transport(section, settings, endpoints.unwrap_or_default());
    checker.topics(section, settings, rules);
}

struct Checker<'c, 'e> {
    cx: &'c mut Cx<'e>,
    /// The profile's.
    name: &'static str,
    limits: ProfileLimits,
}

impl Checker<'_, '_> {
    fn error(&mut self, span: Span, what: &str, label: &str, help: impl Into<String>) {
        let title = format!("{what}, as `profile = \"{}\"` has it", self.name);
        self.cx.error(span, title, label, help);
    }

    /// Of a key, or of the table where it is not written.
    fn span(&mut self, section: &Section<'_>, key: &'static str) -> Span {
        let entry = section.get(self.cx, key);
        entry.map_or(section.span, |entry| entry.node.span)
    }

    fn connection(&mut self, section: &Section<'_>, settings: &Settings) {
        let limits = self.limits;
        if settings.version == Version::Pinned(ProtocolVersion::V5)
            && limits.version != ProtocolVersion::V5
        {
            let span = self.span(section, "version");
            self.error(
                span,
                "5.0 is not spoken there",
                "",
                "write `version = \"auto\"`",
            );
        }
        let (min, max) = limits.keep_alive;
        if !(min..=max).contains(&settings.keep_alive) {
            let span = self.span(section, "keep_alive");
            let text = |seconds: u16| format_duration(Duration::from_secs(seconds.into()));
            let help = format!("it goes from \"{}\" to \"{}\"", text(min), text(max));
            self.error(span, "the keep-alive is out of range", "", help);
        }
        if settings.client_id.len() > limits.client_id_len_max {
            let span = self.span(section, "client_id");
            let label = format!("{} bytes", settings.client_id.len());
            let help = format!("it has {} at most", limits.client_id_len_max);
            self.error(span, "the client identifier is too long", &label, help);
        }
        if settings.profile == Profile::Azure && section.get(self.cx, "client_id").is_none() {
            let help = "it is the device's name there: `client_id = \"shed\"`";
            self.error(section.span, "the client identifier is given", "", help);
        }
        if settings.inflight_maximum > limits.inflight_maximum {
            let span = self.span(section, "inflight_maximum");
            let help = format!("it is {} at most", limits.inflight_maximum);
            self.error(span, "fewer messages may be under way", "", help);
        }
    }

    fn transport(
        &mut self,
        section: &Section<'_>,
        settings: &Settings,
        endpoints: &[At<Endpoint>],
    ) {
        let is_cloud = matches!(
            settings.profile,
            Profile::Aws | Profile::Azure | Profile::AzureEventGrid
        );
        for endpoint in endpoints.iter().filter(|_| is_cloud) {
            if !endpoint.value.is_encrypted() {
                let help = "write `mqtts://` or `wss://`";
                self.error(endpoint.span, "it is reached by TLS alone", "", help);
            }
            let is_https = matches!(
                &endpoint.value,
                Endpoint::Network { scheme, port: HTTPS, .. } if !scheme.is_websocket()
            );
            let mut offered = settings.tls.alpn.iter();
            if settings.profile == Profile::Aws
                && is_https
                && !offered.any(|name| AWS_PROTOCOLS.contains(&&**name))
            {
                let span = self.span(section, "tls");
                let help = "`tls = { …, alpn = [\"x-amzn-mqtt-ca\"] }`, or port 8883";
                self.error(span, "port 443 is told by the protocol", "", help);
            }
        }
    }

    fn topics(&mut self, section: &Section<'_>, settings: &Settings, rules: &Rules) {
        for placed in &rules.send {
            let rule = &placed.rule;
            let above = rule.to.as_deref().unwrap_or(&rule.filter);
            // `/#` may stand for nothing at all.
            self.topic(above.strip_suffix("/#").unwrap_or(above), placed.to);
            if let Some(above) = &rule.backlog_to {
                self.topic(above.strip_suffix("/#").unwrap_or(above), placed.to);
            }
            if rule.qos > self.limits.maximum_qos {
                let help = format!("`qos = {}`", self.limits.maximum_qos);
                self.error(placed.qos, "this QoS is not acknowledged there", "", help);
            }
        }
        for placed in &rules.receive {
            let rule = &placed.rule;
            let filter = TopicFilter::new(&rule.filter).map(TopicFilter::share);
            let filter = match &filter {
                Ok(Some((_, filter))) => filter.as_str(),
                _ => &rule.filter,
            };
            self.topic(filter, placed.filter);
            if rule.qos > self.limits.maximum_qos {
                let help = format!("`qos = {}`", self.limits.maximum_qos);
                self.error(placed.qos, "this QoS is not granted there", "", help);
            }
        }
        if let Some(topic) = &settings.state_topic
            && section.get(self.cx, "state_topic").is_some()
        {
            let span = self.span(section, "state_topic");
            self.topic(topic, span);
            if !self.limits.retain {
                let warning = Diagnostic::warning("`state_topic` is not retained there");
                let help = "who asks later is not told: `state_topic = \"\"` leaves it out";
                self.cx.push(warning.at(span, "").help(help));
            }
        }
    }

    /// A topic or a filter.
    fn topic(&mut self, topic: &str, span: Span) {
        let limits = self.limits;
        let separators = topic.bytes().filter(|byte| *byte == b'/').count();
        if separators > limits.topic_separators_max {
            let label = format!("{separators} of `/`");
            let help = format!("it has {} at most", limits.topic_separators_max);
            self.error(span, "the topic has too many levels", &label, help);
        }
        if topic.len() > limits.topic_len_max {
            let label = format!("{} bytes", topic.len());
            let help = format!("it has {} at most", limits.topic_len_max);
            self.error(span, "the topic is too long", &label, help);
        }
        let unspeakable = topic.chars().find(|c| c.is_whitespace());
        if self.name == "nats"
            && let Some(c) = unspeakable
        {
            let label = format!("{c:?} is in it");
            let help = "subjects have no spaces there: take it out";
            self.error(span, "the topic is no subject", &label, help);
        }
    }
}
