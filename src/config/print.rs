//! `check --print`: what the configuration means, as TOML that means the same, with the origin of
//! every line behind it.

use core::fmt::Write as _;

use super::{
    LogLevel, Meant, access, bridge, broker, common, durability, gateway, gpio, lines, transport,
};
use crate::bridge::settings::{Endpoint, ReceiveRule, SecretSource, SendRule};
use crate::bridge::settings::{Settings as BridgeSettings, TlsSettings as BridgeTls};
use crate::broker::settings::{Effect, Level, Who};
use crate::field::line::{Chip, LineRef};
use crate::field::port::{Parity, PortSettings};
use crate::field::settings::{
    Driver, GpioKind, GpioPoint, I2cChip, LinesPoint, LinesSettings, OutputSettings, SafeState,
    TextKind,
};
use crate::gateway::settings::{
    Bind, DeviceConfig, ListenerSettings, Protocols, TransportSettings,
};
use crate::mqtt::QoS;
use crate::pipeline::settings::{PointSettings, ValueType};
use crate::point::PointKind;
use crate::time::Duration;
use crate::units::{format_duration, format_rate, format_size, format_size_rate};

impl Meant {
    /// The merged result, defaults filled in: TOML that means the same. Behind each value stands
    /// the place that gives it, or `default`. Secrets are not part of it.
    pub fn print(&self) -> String {
        let mut out = Printer {
            meant: self,
            text: String::new(),
            path: String::new(),
        };
        out.gateway();
        out.broker();
        out.journal();
        out.access();
        for (name, listener) in &self.gateway.listeners {
            out.listener(name, listener);
        }
        for (name, settings) in &self.gateway.bridges {
            out.bridge(name, settings);
        }
        out.buses();
        for (name, device) in &self.gateway.devices {
            out.device(name, device);
        }
        for name in &self.disabled {
            let _ = write!(out.text, "\n# [device.{name}] is switched off\n");
        }
        out.host();
        out.text
    }
}

/// Lines of TOML, each with its origin.
struct Printer<'a> {
    meant: &'a Meant,
    text: String,
    /// Of the table that is being written.
    path: String,
}

/// Where origins start, if the value leaves room.
const ORIGIN_COLUMN: usize = 44;

impl Printer<'_> {
    fn table(&mut self, path: impl Into<String>) {
        self.path = path.into();
        let gap = if self.text.is_empty() { "" } else { "\n" };
        let _ = writeln!(self.text, "{gap}[{}]", self.path);
    }

    /// `key = value`, where `value` is TOML.
    fn line(&mut self, key: &str, value: &str) {
        let path = format!("{}.{key}", self.path);
        let origin = self.meant.origins.get(&path).cloned();
        self.line_from(key, value, &origin.unwrap_or_else(|| "default".into()));
    }

    /// Like [`Printer::line`], for what the driver knows when the file says nothing.
    fn driver_says(&mut self, key: &str, value: &str) {
        let origin = self
            .meant
            .origins
            .get(&format!("{}.{key}", self.path))
            .cloned();
        self.line_from(key, value, &origin.unwrap_or_else(|| "driver".into()));
    }

    fn line_from(&mut self, key: &str, value: &str, origin: &str) {
        let line = format!("{} = {value}", bare_or_quoted(key));
        let pad = ORIGIN_COLUMN.saturating_sub(line.chars().count());
        let origin: String = origin
            .chars()
            .map(|c| if c.is_control() { '?' } else { c })
            .collect();
        let _ = writeln!(self.text, "{line}{:pad$} # {origin}", "");
    }

    fn text(&mut self, key: &str, value: &str) {
        self.line(key, &quoted(value));
    }

    fn number(&mut self, key: &str, value: impl core::fmt::Display) {
        self.line(key, &value.to_string());
    }

    /// Floats as Rust writes them for debugging: always with a point or an exponent, and they read
    /// back the same.
    fn float(&mut self, key: &str, value: f64) {
        self.line(key, &format!("{value:?}"));
    }

    fn duration(&mut self, key: &str, value: Duration) {
        self.line(key, &quoted(&format_duration(value)));
    }

    fn duration_or_off(&mut self, key: &str, value: Option<Duration>) {
        match value {
            Some(duration) => self.duration(key, duration),
            None => self.text(key, "off"),
        }
    }

    fn size(&mut self, key: &str, value: usize) {
        self.line(key, &quoted(&format_size(value as u64)));
    }

    fn pair(&mut self, key: &str, pair: &(Box<str>, Box<str>)) {
        self.line(key, &format!("[{}, {}]", quoted(&pair.0), quoted(&pair.1)));
    }

    fn label(&mut self) {
        if let Some(label) = self.meant.labels.get(&self.path) {
            self.text("label", label);
        }
    }

    fn gateway(&mut self) {
        let meant = self.meant;
        self.table("gateway");
        self.text("name", &meant.gateway.name);
        self.text("base_topic", &meant.gateway.base_topic);
        if let Some(folder) = &meant.data_dir {
            self.text("data_dir", &folder.to_string_lossy());
        }
        let format = word(&gateway::TIME_FORMATS, meant.time_format);
        self.text("time_format", format);
    }

    fn broker(&mut self) {
        let settings = &self.meant.gateway.broker;
        self.table("broker");
        self.number("max_connections", settings.max_connections);
        match settings.max_connections_per_address {
            Some(count) => self.number("max_connections_per_address", count),
            None => self.text("max_connections_per_address", "unlimited"),
        }
        let rate = settings.connect_rate.map(format_rate);
        self.text("connect_rate", rate.as_deref().unwrap_or("unlimited"));
        let exempt = self.meant.gateway.exempt_addresses.iter();
        let exempt: Vec<String> = exempt.map(|network| quoted(&network.to_string())).collect();
        self.line("exempt_addresses", &format!("[{}]", exempt.join(", ")));
        self.size("max_connect_size", settings.max_connect_size as usize);
        self.size("max_packet_size", settings.max_packet_size as usize);
        self.number("receive_maximum", settings.receive_maximum);
        match settings.topic_alias_maximum {
            0 => self.text("topic_alias_maximum", "off"),
            count => self.number("topic_alias_maximum", count),
        }
        match settings.outgoing_topic_aliases {
            0 => self.text("outgoing_topic_aliases", "off"),
            count => self.number("outgoing_topic_aliases", count),
        }
        let keep_alive = settings.keep_alive_override;
        let keep_alive = keep_alive.map(|seconds| Duration::from_secs(seconds.into()));
        self.duration_or_off("keep_alive_override", keep_alive);
        match settings.max_session_expiry {
            Some(expiry) => self.duration("max_session_expiry", expiry),
            None => self.text("max_session_expiry", "unlimited"),
        }
        self.number("inflight_maximum", settings.inflight_maximum);
        self.size("memory", settings.memory);
        self.size("queues", settings.queues_bytes);
        self.number("max_sessions", settings.max_sessions);
        self.number("max_subscriptions", settings.max_subscriptions);
        self.duration("connect_timeout", settings.connect_timeout);
        self.duration_or_off("sys_interval", settings.sys_interval);
        if self.meant.gateway.listeners.is_empty() {
            self.line("listen", "false");
        }
        self.number("maximum_qos", settings.maximum_qos);
        self.number("retain_available", settings.retain_available);
        self.number("wildcard_subscriptions", settings.wildcard_subscriptions);
        self.number("shared_subscriptions", settings.shared_subscriptions);
        self.number(
            "subscription_identifiers",
            settings.subscription_identifiers,
        );
        self.number("check_payload_format", settings.check_payload_format);
        if let Some(information) = &settings.response_information {
            self.text("response_information", information);
        }
        self.table("broker.queue");
        self.number("messages", settings.queue.messages);
        self.size("bytes", settings.queue.bytes);
        self.text(
            "when_full",
            word(&broker::WHEN_FULL, settings.queue.when_full),
        );
        self.table("broker.retained");
        self.number("messages", settings.retained_messages);
        self.size("bytes", settings.retained_bytes);
        self.table("broker.publish_quota");
        let quota = settings.publish_quota;
        let rates = [
            ("messages", quota.messages.map(format_rate)),
            ("bytes", quota.bytes.map(format_size_rate)),
        ];
        for (key, rate) in rates {
            self.text(key, rate.as_deref().unwrap_or("unlimited"));
        }
        self.durability();
    }

    fn durability(&mut self) {
        let durability = &self.meant.gateway.broker.durability;
        self.table("broker.durability");
        self.line("default", &level(durability.default));
        if !durability.rules.is_empty() {
            let rules = durability.rules.iter();
            let rules = rules.map(|(filter, of)| {
                let (filter, level) = (quoted(filter), level(*of));
                format!("{{ filter = {filter}, level = {level} }}")
            });
            let rules: Vec<_> = rules.collect();
            self.line("rules", &format!("[{}]", rules.join(", ")));
        }
    }

    fn journal(&mut self) {
        if let Some(journal) = self.meant.gateway.journal {
            self.table("journal");
            self.text("size", &format_size(journal.size));
            self.text("segment", &format_size(journal.segment.into()));
            self.duration("sync_within", journal.sync_within);
        }
    }

    /// Without the contents of the files; groups are written out, user by user.
    fn access(&mut self) {
        let meant = self.meant;
        let files = &meant.access_files;
        let rules = meant.gateway.broker.access.rules.as_ref();
        let rules = rules.filter(|_| files.acl.is_none());
        if files.passwords.is_none() && files.acl.is_none() && rules.is_none() {
            return;
        }
        self.table("access");
        if let Some(path) = &files.passwords {
            self.text("password_file", path);
        }
        if let Some(path) = &files.acl {
            self.text("acl_file", path);
        }
        let Some(rules) = rules else {
            return;
        };
        self.text("default", word(&access::DEFAULTS, rules.default));
        for (index, rule) in rules.list.iter().enumerate() {
            self.path = format!("access.rule.{index}");
            self.text.push_str("\n[[access.rule]]\n");
            match &rule.who {
                Who::Everybody => {}
                Who::Anonymous => self.line("anonymous", "true"),
                Who::Client(client) => self.text("client", client),
                Who::Users(users) => {
                    let users: Vec<String> = users.iter().map(|user| quoted(user)).collect();
                    self.line("user", &format!("[{}]", users.join(", ")));
                }
            }
            let verbs = [
                (rule.publish, "\"publish\""),
                (rule.subscribe, "\"subscribe\""),
            ];
            let verbs: Vec<&str> = verbs
                .iter()
                .filter(|verb| verb.0)
                .map(|verb| verb.1)
                .collect();
            let effect = match rule.effect {
                Effect::Allow => "allow",
                Effect::Deny => "deny",
            };
            self.line(effect, &format!("[{}]", verbs.join(", ")));
            self.text("filter", rule.filter.as_str());
            if rule.own {
                self.line("own", "true");
            }
        }
    }

    fn listener(&mut self, name: &str, listener: &ListenerSettings) {
        self.table(format!("listener.{name}"));
        let addresses: Vec<String> = listener
            .bind
            .iter()
            .map(|bind| match bind {
                Bind::Tcp(address) => quoted(&address.to_string()),
                Bind::Unix { path, .. } => quoted(&format!("unix:{path}")),
            })
            .collect();
        self.line("bind", &format!("[{}]", addresses.join(", ")));
        self.number("allow_anonymous", listener.allow_anonymous);
        if let Some(count) = listener.max_connections {
            self.number("max_connections", count);
        }
        if let Some(redirect) = &listener.redirect {
            let servers: Vec<_> = redirect.reference.split(' ').map(quoted).collect();
            let to = format!("[{}]", servers.join(", "));
            let permanent = redirect.is_permanent;
            self.line(
                "redirect",
                &format!("{{ to = {to}, permanent = {permanent} }}"),
            );
        }
        self.transport(&listener.transport);
        let unix = listener.bind.iter().find_map(|bind| match bind {
            Bind::Unix { mode, group, .. } => Some((*mode, group)),
            Bind::Tcp(_) => None,
        });
        if let Some((mode, group)) = unix {
            self.text("mode", &format!("{mode:04o}"));
            if let Some(group) = group {
                self.text("group", group);
            }
        }
    }

    fn transport(&mut self, transport: &TransportSettings) {
        let list = |texts: Vec<String>| format!("[{}]", texts.join(", "));
        let protocols = match transport.protocols {
            Protocols::Mqtt => None,
            Protocols::WebSocket => Some("[\"websocket\"]"),
            Protocols::Both => Some("[\"mqtt\", \"websocket\"]"),
        };
        if let Some(protocols) = protocols {
            self.line("protocols", protocols);
            let websocket = &transport.websocket;
            let mut text = format!("{{ path = {}", quoted(&websocket.path));
            if let Some(origins) = &websocket.origins {
                let origins = origins.iter().map(|origin| quoted(origin)).collect();
                let _ = write!(text, ", origins = {}", list(origins));
            }
            self.line("websocket", &(text + " }"));
        }
        if let Some(tls) = &transport.tls {
            let mut text = format!(
                "{{ certificate = {}, key = {}",
                quoted(&tls.certificate),
                quoted(&tls.key)
            );
            if let Some(path) = &tls.client_ca {
                let _ = write!(text, ", client_ca = {}", quoted(path));
                let _ = write!(text, ", require_client = {}", tls.require_client);
            }
            if let Some(identity) = tls.identity {
                let identity = quoted(word(&transport::NAMES, identity));
                let _ = write!(text, ", identity = {identity}");
            }
            self.line("tls", &(text + " }"));
        }
        if !transport.proxies.is_empty() {
            let from = transport.proxies.iter();
            let from = from.map(|network| quoted(&network.to_string())).collect();
            self.line("proxy_protocol", &format!("{{ from = {} }}", list(from)));
        }
        if transport.peer_credentials {
            self.text("identity", "peer_credentials");
        }
    }

    fn bridge(&mut self, name: &str, settings: &BridgeSettings) {
        self.table(format!("bridge.{name}"));
        let urls: Vec<String> = settings.endpoints.iter().map(url).collect();
        match &urls[..] {
            [one] => self.line("url", one),
            several => self.line("urls", &format!("[{}]", several.join(", "))),
        }
        if urls.len() > 1 {
            self.duration_or_off("failback", settings.failback);
        }
        self.text("version", word(&bridge::VERSIONS, settings.version));
        self.text("client_id", &settings.client_id);
        match &settings.username {
            // It is no secret, unless the file says so by keeping it elsewhere.
            Some(SecretSource::Literal(name)) => self.text("username", name),
            source => self.secret("username", source.as_ref()),
        }
        self.secret("password", settings.password.as_ref());
        self.bridge_tls(&settings.tls);
        let keep_alive = u64::from(settings.keep_alive);
        let keep_alive = (keep_alive > 0).then(|| Duration::from_secs(keep_alive));
        self.duration_or_off("keep_alive", keep_alive);
        match settings.session_expiry {
            u32::MAX => self.text("session_expiry", "unlimited"),
            seconds => self.duration("session_expiry", Duration::from_secs(seconds.into())),
        }
        self.number("clean_start", settings.clean_start);
        let pause = |pause| quoted(&format_duration(pause));
        let (min, max) = (pause(settings.reconnect.min), pause(settings.reconnect.max));
        self.line("reconnect", &format!("{{ min = {min}, max = {max} }}"));
        self.duration_or_off("stalled_after", settings.stalled_after);
        self.text("profile", word(&bridge::PROFILES, settings.profile));
        self.text(
            "state_topic",
            settings.state_topic.as_deref().unwrap_or_default(),
        );
        let queue = &settings.queue;
        let messages = match queue.messages {
            Some(count) => count.to_string(),
            None => quoted("unlimited"),
        };
        let age = queue.age.map_or_else(|| quoted("off"), pause);
        let text = format!(
            "{{ messages = {messages}, bytes = {}, age = {age}, when_full = {} }}",
            quoted(&format_size(queue.bytes)),
            quoted(word(&bridge::WHEN_FULL, queue.when_full))
        );
        self.line("queue", &text);
        let rate = settings.replay_rate.map(format_rate);
        self.text("replay_rate", rate.as_deref().unwrap_or("unlimited"));
        self.number("inflight_maximum", settings.inflight_maximum);
        for (index, rule) in settings.send.iter().enumerate() {
            self.path = format!("bridge.{name}.send.{index}");
            let _ = write!(self.text, "\n[[bridge.{name}.send]]\n");
            self.send_rule(rule);
        }
        for (index, rule) in settings.receive.iter().enumerate() {
            self.path = format!("bridge.{name}.receive.{index}");
            let _ = write!(self.text, "\n[[bridge.{name}.receive]]\n");
            self.receive_rule(rule);
        }
    }

    /// Where it is found; what stands in the file itself is not shown.
    fn secret(&mut self, key: &str, source: Option<&SecretSource>) {
        let (kind, place) = match source {
            None => return,
            Some(SecretSource::Literal(_)) => {
                let origin = self.meant.origin_of(&format!("{}.{key}", self.path));
                let _ = writeln!(self.text, "# {key} is not shown: {origin}");
                return;
            }
            Some(SecretSource::File(path)) => ("file", path),
            Some(SecretSource::Credential(name)) => ("credential", name),
            Some(SecretSource::Environment(name)) => ("env", name),
        };
        self.line(key, &format!("{{ {kind} = {} }}", quoted(place)));
    }

    fn bridge_tls(&mut self, tls: &BridgeTls) {
        let identity = tls.identity.as_ref();
        let mut parts = Vec::new();
        for (key, value) in [
            ("ca", tls.ca.as_deref()),
            ("certificate", identity.map(|own| &*own.certificate)),
            ("key", identity.map(|own| &*own.key)),
            ("server_name", tls.server_name.as_deref()),
        ] {
            parts.extend(value.map(|value| format!("{key} = {}", quoted(value))));
        }
        if !tls.alpn.is_empty() {
            let names: Vec<String> = tls.alpn.iter().map(|name| quoted(name)).collect();
            parts.push(format!("alpn = [{}]", names.join(", ")));
        }
        if !parts.is_empty() {
            self.line("tls", &format!("{{ {} }}", parts.join(", ")));
        }
    }

    fn send_rule(&mut self, rule: &SendRule) {
        self.text("filter", &rule.filter);
        if !rule.except.is_empty() {
            let except: Vec<String> = rule.except.iter().map(|it| quoted(it)).collect();
            self.line("except", &format!("[{}]", except.join(", ")));
        }
        for (key, to) in [("to", &rule.to), ("backlog_to", &rule.backlog_to)] {
            if let Some(to) = to {
                self.text(key, to);
            }
        }
        self.number("qos", rule.qos);
        self.text("keep", word(&bridge::KEEPS, rule.keep));
        let lanes = bridge::LANES.iter().find(|(_, lanes)| *lanes == rule.lanes);
        let lanes = lanes.map(|(number, _)| *number);
        self.number("lanes", lanes.expect("the table has every number of lanes"));
    }

    fn receive_rule(&mut self, rule: &ReceiveRule) {
        self.text("filter", &rule.filter);
        if let Some(to) = &rule.to {
            self.text("to", to);
        }
        self.number("qos", rule.qos);
        self.text("queued", word(&bridge::QUEUED, rule.queued));
    }

    fn buses(&mut self) {
        let buses = &self.meant.buses;
        for (number, timeout) in &buses.i2c {
            self.table(format!("i2c.{number}"));
            self.duration("transfer_timeout", *timeout);
        }
        for (name, chip) in &buses.gpio {
            match chip {
                Chip::Header => {}
                Chip::Label(chip) | Chip::Path(chip) => {
                    self.table(format!("gpio.{name}"));
                    self.text("chip", chip);
                }
            }
        }
        for (name, port) in &buses.serial {
            self.table(format!("serial.{name}"));
            self.text("path", &port.path);
            self.number("baud", port.baud);
            self.text("format", &port_format(port));
            self.text("rs485", "adapter");
        }
    }

    fn device(&mut self, name: &str, device: &DeviceConfig) {
        self.table(format!("device.{name}"));
        self.label();
        let driver = &device.field.driver;
        self.text("driver", driver_word(driver));
        match driver {
            Driver::System(settings) => {
                if let Some(path) = &settings.temperature {
                    self.text("temperature", path);
                }
                self.text("disk", &settings.disk);
            }
            Driver::Gpio(_) => self.bus(name),
            Driver::I2c(settings) => {
                self.bus(name);
                self.line("address", &format!("{:#04x}", settings.address));
            }
            Driver::Lines(settings) => {
                self.bus(name);
                self.lines(settings);
            }
        }
        let points = || device.points.values();
        if points().any(|point| common::is_sampled(point.spec.kind)) {
            self.duration("every", device.field.every);
        }
        if points().any(|point| point.accept_retained) {
            self.line("accept_retained", "true");
        }
        if points().any(|point| point.simulated) {
            self.line("simulated", "true");
        }
        for (point_name, point) in &device.points {
            self.table(format!("device.{name}.point.{point_name}"));
            self.label();
            match driver {
                Driver::Gpio(settings) => {
                    if let Some(point) = settings.points.get(point_name) {
                        self.gpio(point);
                    }
                }
                Driver::Lines(settings) => {
                    if let Some(point) = settings.points.get(point_name) {
                        self.text_point(point);
                    }
                }
                Driver::System(_) | Driver::I2c(_) => {}
            }
            self.point(point);
        }
    }

    fn bus(&mut self, device: &str) {
        if let Some(bus) = self.meant.buses.of_device.get(device) {
            self.text("bus", bus);
        }
    }

    fn lines(&mut self, settings: &LinesSettings) {
        if let Some(pattern) = &settings.pattern {
            self.text("pattern", pattern);
        }
        if let Some(poll) = &settings.poll {
            self.text("poll", poll);
        }
        self.size("line_max", settings.line_max);
    }

    fn gpio(&mut self, point: &GpioPoint) {
        let kind = match &point.kind {
            GpioKind::Input { .. } => "input",
            GpioKind::Event { .. } => "event",
            GpioKind::Counter { .. } => "counter",
            GpioKind::Output(_) => "output",
        };
        self.text("kind", kind);
        match &point.line {
            LineRef::Offset(offset) => self.number("line", offset),
            LineRef::Name(name) => self.text("line", name),
            LineRef::Pin(pin) => self.text("line", &format!("pin:{pin}")),
        }
        self.number("active_low", point.active_low);
        self.text("bias", word(&gpio::BIASES, point.bias));
        match &point.kind {
            GpioKind::Input { debounce } => self.debounce(*debounce),
            GpioKind::Event { edges, debounce } => {
                self.text("edge", word(&gpio::EDGES, *edges));
                self.debounce(*debounce);
            }
            GpioKind::Counter {
                edges,
                debounce,
                persist,
            } => {
                self.text("edge", word(&gpio::EDGES, *edges));
                self.debounce(*debounce);
                let (pulses, interval) = (persist.pulses, format_duration(persist.interval));
                let table = format!("{{ pulses = {pulses}, interval = \"{interval}\" }}");
                self.line("persist", &table);
            }
            GpioKind::Output(output) => self.output(output),
        }
    }

    fn debounce(&mut self, debounce: Duration) {
        self.duration_or_off("debounce", Some(debounce).filter(|time| !time.is_zero()));
    }

    fn output(&mut self, output: &OutputSettings) {
        match output.safe_state {
            SafeState::Active => self.line("safe_state", "true"),
            SafeState::Inactive => self.line("safe_state", "false"),
            SafeState::Keep => self.text("safe_state", "keep"),
        }
        self.text("on_start", word(&gpio::ON_STARTS, output.on_start));
        self.duration_or_off("lease", output.lease);
        self.text("drive", word(&gpio::DRIVES, output.drive));
    }

    fn text_point(&mut self, point: &LinesPoint) {
        self.text("type", word(&lines::TYPES, point.kind));
        if let Some(command) = &point.command {
            self.text("command", command);
        }
        if point.kind == TextKind::Bool {
            self.pair("words", &point.booleans);
        }
    }

    fn point(&mut self, point: &PointSettings) {
        self.text("topic", &point.topic);
        self.number(
            "qos",
            match point.qos {
                QoS::AtMostOnce => 0,
                QoS::AtLeastOnce => 1,
                QoS::ExactlyOnce => 2,
            },
        );
        self.number("retain", point.retain);
        self.text("payload", word(&common::PAYLOADS, point.payload));
        match point.value_type {
            ValueType::Bool => self.pair("booleans", &point.booleans),
            ValueType::Number => self.numeric(point),
            ValueType::Text => {}
        }
        let kind = point.spec.kind;
        if common::is_sampled(kind) {
            self.duration_or_off("stale_after", point.stale_after);
        }
        if kind != PointKind::Event {
            self.duration_or_off("min_interval", point.min_interval);
            self.duration_or_off("max_interval", point.max_interval);
        }
        self.duration_or_off("expiry", point.expiry);
    }

    fn numeric(&mut self, point: &PointSettings) {
        self.driver_says("unit", &quoted(&point.spec.unit));
        self.float("scale", point.scale);
        self.float("offset", point.offset);
        if let Some((min, max)) = point.spec.range {
            if min.is_finite() {
                self.driver_says("min", &format!("{min:?}"));
            }
            if max.is_finite() {
                self.driver_says("max", &format!("{max:?}"));
            }
        }
        if let Some(digits) = point.precision {
            self.number("precision", digits);
        }
        if point.deadband > 0.0 {
            self.float("deadband", point.deadband);
        } else {
            self.text("deadband", "off");
        }
    }

    fn host(&mut self) {
        let meant = self.meant;
        self.table("log");
        self.text("level", meant.log.level.as_str());
        if !meant.log.levels.is_empty() {
            self.table("log.levels");
            for (module, level) in &meant.log.levels {
                self.text(module, LogLevel::as_str(*level));
            }
        }
        self.table("control");
        self.text("socket", &meant.control.socket);
        if let Some(group) = &meant.control.group {
            self.text("group", group);
        }
    }
}

/// The word of a value in a table of words.
pub(super) fn word<T: Copy + PartialEq>(words: &[(&'static str, T)], value: T) -> &'static str {
    words
        .iter()
        .find(|(_, known)| *known == value)
        .map(|(word, _)| *word)
        .expect("the table has a word for every value")
}

fn driver_word(driver: &Driver) -> &'static str {
    match driver {
        Driver::System(_) => "system",
        Driver::Gpio(_) => "gpio",
        Driver::Lines(_) => "lines",
        Driver::I2c(settings) => match settings.chip {
            I2cChip::Lm75 => "lm75",
            I2cChip::Tmp102 => "tmp102",
            I2cChip::Tmp105 => "tmp105",
            I2cChip::Bme280 => "bme280",
            I2cChip::Bmp280 => "bmp280",
        },
    }
}

fn url(endpoint: &Endpoint) -> String {
    quoted(&endpoint.to_string())
}

fn port_format(port: &PortSettings) -> String {
    let parity = match port.parity {
        Parity::None => 'N',
        Parity::Even => 'E',
        Parity::Odd => 'O',
    };
    format!("{}{parity}{}", port.data_bits, port.stop_bits)
}

/// A basic string of TOML.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn bare_or_quoted(key: &str) -> String {
    let is_bare = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if !key.is_empty() && key.bytes().all(is_bare) {
        key.to_owned()
    } else {
        quoted(key)
    }
}

fn level(level: Level) -> String {
    match level {
        Level::Interval(within) => {
            format!("{{ interval = {} }}", quoted(&format_duration(within)))
        }
        level => quoted(word(&durability::LEVELS, level)),
    }
}
