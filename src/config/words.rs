//! Words of other programs: what mosquitto and mqtt-io call things, and what they are called here.
//! Many who write their first file bring one of these along.

/// A word, whose it is, and what to write here.
const WORDS: [(&str, &str, &str); 84] = [
    // mosquitto.conf
    ("port", MOSQUITTO, "`bind = \"*:1883\"` in [listener.NAME]"),
    (
        "bind_address",
        MOSQUITTO,
        "`bind = \"192.168.1.5:1883\"` in [listener.NAME]",
    ),
    (
        "bind_interface",
        MOSQUITTO,
        "`bind` with the interface's address in [listener.NAME]",
    ),
    (
        "socket_domain",
        MOSQUITTO,
        "an IPv4 or an IPv6 address in `bind` of [listener.NAME]",
    ),
    (
        "persistence",
        MOSQUITTO,
        "`data_dir` in [gateway]: what is to outlive a restart is in its journal",
    ),
    ("persistence_file", MOSQUITTO, "`data_dir` in [gateway]"),
    ("persistence_location", MOSQUITTO, "`data_dir` in [gateway]"),
    (
        "persistent_client_expiration",
        MOSQUITTO,
        "`max_session_expiry` in [broker]",
    ),
    (
        "autosave_interval",
        MOSQUITTO,
        "nothing: there is no database to save",
    ),
    (
        "autosave_on_changes",
        MOSQUITTO,
        "nothing: there is no database to save",
    ),
    (
        "max_inflight_messages",
        MOSQUITTO,
        "`inflight_maximum` in [broker]",
    ),
    (
        "max_inflight_bytes",
        MOSQUITTO,
        "`inflight_maximum` in [broker], in messages",
    ),
    (
        "max_queued_messages",
        MOSQUITTO,
        "`queue = { messages = 10000 }` in [broker]",
    ),
    (
        "max_queued_bytes",
        MOSQUITTO,
        "`queue = { bytes = \"16MiB\" }` in [broker]",
    ),
    (
        "message_size_limit",
        MOSQUITTO,
        "`max_packet_size = \"1MiB\"` in [broker]",
    ),
    (
        "memory_limit",
        MOSQUITTO,
        "`memory = \"96MiB\"` in [broker]",
    ),
    (
        "max_keepalive",
        MOSQUITTO,
        "`keep_alive_override` in [broker]",
    ),
    (
        "max_topic_alias",
        MOSQUITTO,
        "`topic_alias_maximum` in [broker]",
    ),
    ("max_qos", MOSQUITTO, "nothing: every QoS is served"),
    (
        "retain_available",
        MOSQUITTO,
        "`retained = { messages = 100000 }` in [broker]",
    ),
    (
        "queue_qos0_messages",
        MOSQUITTO,
        "nothing: QoS 0 is not queued for clients that are away",
    ),
    ("set_tcp_nodelay", MOSQUITTO, "nothing: it is always on"),
    (
        "sys_interval",
        MOSQUITTO,
        "`sys_interval = \"10s\"` in [broker]",
    ),
    (
        "upgrade_outgoing_qos",
        MOSQUITTO,
        "nothing: a message keeps its QoS",
    ),
    (
        "allow_zero_length_clientid",
        MOSQUITTO,
        "nothing: they are allowed",
    ),
    (
        "auto_id_prefix",
        MOSQUITTO,
        "nothing: ids that we give start with the gateway's name",
    ),
    (
        "per_listener_settings",
        MOSQUITTO,
        "nothing: each [listener.NAME] has its own",
    ),
    (
        "include_dir",
        MOSQUITTO,
        "nothing: `conf.d/*.toml` beside this file is always read",
    ),
    ("pid_file", MOSQUITTO, "nothing: systemd knows the process"),
    (
        "user",
        "mosquitto's or mqtt-io's",
        "`User=` of the systemd unit",
    ),
    (
        "log_dest",
        MOSQUITTO,
        "nothing: it is stderr, which systemd keeps",
    ),
    ("log_type", MOSQUITTO, "`level = \"info\"` in [log]"),
    ("log_timestamp", MOSQUITTO, "nothing: journald has the time"),
    (
        "connection_messages",
        MOSQUITTO,
        "`levels = { broker = \"debug\" }` in [log]",
    ),
    ("password_file", MOSQUITTO, "`password_file` in [access]"),
    ("acl_file", MOSQUITTO, "`acl_file` in [access]"),
    ("plugin", MOSQUITTO, "nothing: [access] has users and rules"),
    (
        "auth_plugin",
        MOSQUITTO,
        "nothing: [access] has users and rules",
    ),
    (
        "psk_file",
        MOSQUITTO,
        "nothing: pre-shared keys are not supported, certificates are",
    ),
    (
        "cafile",
        MOSQUITTO,
        "`tls = { …, client_ca = \"ca.pem\" }` in [listener.NAME]",
    ),
    (
        "capath",
        MOSQUITTO,
        "one file with all of them: `tls = { …, client_ca = \"ca.pem\" }` in [listener.NAME]",
    ),
    (
        "certfile",
        MOSQUITTO,
        "`tls = { certificate = \"cert.pem\", key = \"key.pem\" }` in [listener.NAME]",
    ),
    (
        "keyfile",
        MOSQUITTO,
        "`tls = { certificate = \"cert.pem\", key = \"key.pem\" }` in [listener.NAME]",
    ),
    (
        "require_certificate",
        MOSQUITTO,
        "`tls = { …, require_client = true }` in [listener.NAME]",
    ),
    (
        "use_identity_as_username",
        MOSQUITTO,
        "`tls = { …, identity = \"common_name\" }` in [listener.NAME]",
    ),
    (
        "protocol",
        MOSQUITTO,
        "`protocols = [\"mqtt\", \"websocket\"]` in [listener.NAME]",
    ),
    (
        "http_dir",
        MOSQUITTO,
        "[http], which is not available in this version",
    ),
    (
        "mount_point",
        MOSQUITTO,
        "nothing: topics are the same on every listener",
    ),
    (
        "connection",
        MOSQUITTO,
        "[bridge.NAME] with `url`, `[[bridge.NAME.send]]` and `[[bridge.NAME.receive]]`",
    ),
    ("remote_username", MOSQUITTO, "`username` in [bridge.NAME]"),
    ("remote_password", MOSQUITTO, "`password` in [bridge.NAME]"),
    (
        "max_connection",
        MOSQUITTO,
        "`max_connections` in [broker] or [listener.NAME]",
    ),
    // mqtt-io
    (
        "mqtt",
        MQTT_IO,
        "[broker] and [listener.NAME]: the broker is built in",
    ),
    (
        "host",
        MQTT_IO,
        "[listener.NAME] with `bind`: the broker is built in; another one is a [bridge.NAME], \
      which is not available in this version",
    ),
    ("topic_prefix", MQTT_IO, "`base_topic` in [gateway]"),
    ("client_id", MQTT_IO, "`name` in [gateway]"),
    ("clean_session", MQTT_IO, "nothing: the broker is built in"),
    (
        "keepalive",
        MQTT_IO,
        "nothing: clients choose theirs; `keep_alive_override` in [broker] overrides it",
    ),
    ("status_topic", MQTT_IO, "nothing: it is BASE/gateway/state"),
    (
        "status_payload_running",
        MQTT_IO,
        "nothing: BASE/gateway/state says `online`",
    ),
    (
        "status_payload_stopped",
        MQTT_IO,
        "nothing: BASE/gateway/state says `offline`",
    ),
    (
        "status_payload_dead",
        MQTT_IO,
        "nothing: BASE/gateway/state says `offline`",
    ),
    (
        "ha_discovery",
        MQTT_IO,
        "[home_assistant], which is not available in this version",
    ),
    (
        "gpio_modules",
        MQTT_IO,
        "nothing: gpio.header is there without a table; other chips are [gpio.NAME]",
    ),
    (
        "sensor_modules",
        MQTT_IO,
        "[device.NAME] with `driver = \"bme280\"` and `bus = \"i2c.1\"`",
    ),
    (
        "stream_modules",
        MQTT_IO,
        "[serial.NAME] and [device.NAME] with `driver = \"lines\"`",
    ),
    (
        "digital_inputs",
        MQTT_IO,
        "[device.NAME] with `driver = \"gpio\"`, and in it [device.NAME.point.NAME] with \
      `kind = \"input\"`",
    ),
    (
        "digital_outputs",
        MQTT_IO,
        "[device.NAME] with `driver = \"gpio\"`, and in it [device.NAME.point.NAME] with \
      `kind = \"output\"`",
    ),
    (
        "sensor_inputs",
        MQTT_IO,
        "nothing: a device publishes all its points; [device.NAME.point.NAME] adjusts one",
    ),
    ("module", MQTT_IO, "`driver` in [device.NAME]"),
    (
        "pin",
        MQTT_IO,
        "`line = 17` (the BCM number), `line = \"GPIO17\"` or `line = \"pin:11\"`",
    ),
    ("pullup", MQTT_IO, "`bias = \"pull-up\"`"),
    ("pulldown", MQTT_IO, "`bias = \"pull-down\"`"),
    ("inverted", MQTT_IO, "`active_low = true`"),
    ("interval", MQTT_IO, "`every = \"10s\"`"),
    (
        "poll_interval",
        MQTT_IO,
        "`every = \"10s\"`; inputs are not polled",
    ),
    (
        "interrupt",
        MQTT_IO,
        "`edge = \"rising\"`, \"falling\" or \"both\" on a point of kind \"event\" or \"counter\"",
    ),
    ("bounce_ms", MQTT_IO, "`debounce = \"5ms\"`"),
    ("on_payload", MQTT_IO, "`booleans = [\"OFF\", \"ON\"]`"),
    ("off_payload", MQTT_IO, "`booleans = [\"OFF\", \"ON\"]`"),
    ("initial", MQTT_IO, "`safe_state = false`"),
    ("digits", MQTT_IO, "`precision = 2`"),
    ("chip_addr", MQTT_IO, "`address = 0x76`"),
    ("i2c_bus_num", MQTT_IO, "`bus = \"i2c.1\"`"),
];

const MOSQUITTO: &str = "mosquitto's";
const MQTT_IO: &str = "mqtt-io's";

/// Help for a key that another program knows.
pub(super) fn of_key(key: &str) -> Option<String> {
    WORDS
        .iter()
        .find(|(word, _, _)| *word == key)
        .map(|(word, whose, here)| match here.strip_prefix("nothing: ") {
            Some(reason) => format!("`{word}` is {whose} word and not needed here: {reason}"),
            None => format!("`{word}` is {whose} word; here: {here}"),
        })
}

/// Help for a line that is not TOML and starts as a line of `mosquitto.conf` does.
pub(super) fn of_line(line: &str) -> Option<String> {
    let mut fields = line.split_whitespace();
    let word = fields.next()?;
    match word {
        "listener" => {
            let port = fields.next().filter(|port| port.parse::<u16>().is_ok());
            let port = port.unwrap_or("1883");
            let address = fields
                .next()
                .filter(|text| text.parse::<core::net::IpAddr>().is_ok());
            let address = address.unwrap_or("*");
            let address = if address.contains(':') {
                format!("[{address}]")
            } else {
                address.to_owned()
            };
            Some(format!(
                "this is mosquitto's way; here: a table `[listener.lan]`, and below it `bind = \
                    \"{address}:{port}\"`"
            ))
        }
        "allow_anonymous" | "max_connections" => Some(format!(
            "this is mosquitto's way; here: `{word} = {}` in [listener.NAME]",
            fields
                .next()
                .filter(|text| is_plain(text))
                .unwrap_or("true")
        )),
        _ => of_key(word.trim_end_matches([':', '='])),
    }
}

fn is_plain(text: &str) -> bool {
    text.len() <= 10 && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_word_is_explained_twice() {
        let words: BTreeSet<_> = WORDS.iter().map(|(word, _, _)| word).collect();
        assert_eq!(words.len(), WORDS.len());
    }

    #[test]
    fn a_line_of_mosquitto_is_translated() {
        let help = of_line("listener 8883 ::1").unwrap();
        assert!(help.contains("bind = \"[::1]:8883\""), "{help}");
        let help = of_line("persistence true").unwrap();
        assert!(help.contains("data_dir"), "{help}");
        assert_eq!(of_line("hello world"), None);
        assert_eq!(of_line(""), None);
    }
}
