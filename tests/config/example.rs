//! The documented example, as far as its parts are built, and what it means.

use std::time::Duration;

use fieldgate::bridge::settings::{
    self as bridge, Endpoint, Keep, Lanes, Profile, Queued, Scheme, SecretSource, Version,
};
use fieldgate::broker::settings::{Effect, Level, WhenFull, Who};
use fieldgate::config::{Environment, LogLevel, Source, parse};
use fieldgate::field::line::{Bias, Chip, Edges, LineRef};
use fieldgate::field::port::Parity;
use fieldgate::field::settings::{
    Driver, GpioKind, I2cChip, OnStart, Persist, SafeState, TextKind,
};
use fieldgate::gateway::settings::{Bind, JournalSettings};
use fieldgate::mqtt::QoS;
use fieldgate::pipeline::settings::{PayloadFormat, TimeFormat};
use fieldgate::point::PointKind;

use super::meant;

pub const EXAMPLE: &str = r#"
[gateway]
name = "shed"
base_topic = "plant/shed"
data_dir = "/var/lib/fieldgate"
time_format = "rfc3339"
[gateway.defaults]
every = "10s"
qos = 1
retain = true
payload = "value"
booleans = ["false", "true"]

[broker]
max_connections = 1000
max_packet_size = "1MiB"
receive_maximum = 20
topic_alias_maximum = 16
keep_alive_override = "off"
max_session_expiry = "7d"
inflight_maximum = 20
memory = "96MiB"
queue = { messages = 10000, bytes = "16MiB", when_full = "drop_newest" }
queues = "256MiB"
retained = { messages = 100000, bytes = "64MiB" }
[broker.durability]
default = "strict"
rules = [
    { filter = "shed/+/raw/#", level = "none" },
    { filter = "shed/#", level = { interval = "1s" } },
]

[journal]
size = "2GiB"
segment = "4MiB"
sync_within = "1s"

[access]
default = "deny"
group = { operators = ["anna", "panel"] }
[[access.rule]]
group = "operators"
allow = ["subscribe", "publish"]
filter = "shed/#"
[[access.rule]]
deny = ["publish"]
filter = "shed/%u/%c"

[listener.local]
bind = ["127.0.0.1:1883", "[::1]:1883", "unix:mqtt.sock"]
allow_anonymous = true
mode = "0660"
group = "fieldgate"
[listener.lan]
bind = "*:1884"
protocols = ["mqtt"]
allow_anonymous = true
max_connections = 200

[i2c.1]
transfer_timeout = "50ms"
[gpio.header]
[gpio.expander]
chip = "mcp23017"
[serial.scale]
path = "/dev/serial/by-path/platform-3f980000.usb-usb-0:1.3:1.0-port0"
baud = 19200
format = "7E1"
rs485 = "adapter"

[device.greenhouse]
driver = "bme280"
bus = "i2c.1"
address = 0x76
[device.greenhouse.point.temperature]
deadband = 0.1
min_interval = "1s"
max_interval = "5m"

[device.pump]
driver = "gpio"
bus = "gpio.header"
accept_retained = true
[device.pump.point.running]
label = "Water pump"
kind = "output"
line = 17
active_low = true
safe_state = false
on_start = "safe"
lease = "10m"
[device.pump.point.volume]
kind = "counter"
line = "GPIO27"
edge = "rising"
bias = "pull-up"
debounce = "2ms"
scale = 0.0022
unit = "m³"
[device.pump.point.bell]
kind = "event"
line = "pin:16"
edge = "both"
[device.pump.point.door]
kind = "input"
line = "SPI_CE1_N"
debounce = "off"
payload = "json"
booleans = ["closed", "open"]

[device.relays]
driver = "gpio"
bus = "gpio.expander"
[device.relays.point.heater]
kind = "output"
line = "relay-1"
drive = "open-drain"
safe_state = "keep"
on_start = "keep"

[device.scale]
driver = "lines"
bus = "serial.scale"
pattern = 'ST,(?<stable>\w+),\s*(?<weight>[-+0-9.]+)\s*kg'
poll = "W\r\n"
[device.scale.point.stable]
type = "bool"
words = ["US", "GS"]
[device.scale.point.tare]
type = "bool"
command = "T\r\n"

[device.machine]
driver = "system"
every = "1m"

[bridge.cloud]
urls = ["mqtts://broker.example:8883", "wss://other.example/mqtt/v1", "mqtt://[2001:db8::1]"]
failback = "10m"
version = "auto"
client_id = "shed-7"
username = "shed"
password = { credential = "cloud" }
tls = { ca = "ca.pem", certificate = "c.pem", key = "k.pem", alpn = ["mqtt"], server_name = "broker.example" }
keep_alive = "60s"
session_expiry = "7d"
clean_start = false
reconnect = { min = "1s", max = "2m" }
stalled_after = "30s"
profile = "generic"
state_topic = "plants/shed/gateway/state"
queue = { messages = 100000, bytes = "256MiB", age = "30d", when_full = "drop_newest" }
replay_rate = "200/s"
inflight_maximum = 50
[[bridge.cloud.send]]
filter = "plant/shed/#"
except = ["plant/shed/+/raw"]
to = "plants/shed/#"
backlog_to = "late/shed/#"
qos = 1
keep = "all"
lanes = 2
[[bridge.cloud.send]]
filter = "plant/shed/+/raw"
qos = 0
keep = "latest"
lanes = 1
[[bridge.cloud.receive]]
filter = "$share/edge/plants/shed/+/+/set"
to = "plant/shed/+/+/set"
qos = 0
queued = "obey"
[bridge.ha]
url = "unix:ha.sock"
username = { env = "HA_USER" }
password = { file = "ha-password" }

[log]
level = "info"
levels = { bridge = "debug", "host::net" = "trace" }
[control]
socket = "/run/fieldgate/control.sock"
group = "fieldgate"
"#;

#[test]
fn the_documented_example_means_what_it_says() {
    let loaded = meant(EXAMPLE);
    assert!(
        loaded.warnings.is_empty(),
        "{}",
        loaded.warnings.render(false)
    );
    let meant = loaded.meant;
    assert_eq!(&*meant.gateway.name, "shed");
    assert_eq!(&*meant.gateway.base_topic, "plant/shed");
    assert_eq!(meant.log.level, LogLevel::Info);
    assert_eq!(meant.log.levels["host::net"], LogLevel::Trace);
    assert_eq!(&*meant.control.socket, "/run/fieldgate/control.sock");
    assert_eq!(meant.control.group.as_deref(), Some("fieldgate"));
    assert_eq!(
        meant.labels["device.pump.point.running"],
        "Water pump".into()
    );

    let mut broker = meant.gateway.broker.clone();
    let rules = broker.access.rules.take().expect("rules");
    assert_eq!((rules.list.len(), rules.default), (2, Effect::Deny));
    let operators = ["anna", "panel"].map(Box::from);
    assert_eq!(rules.list[0].who, Who::Users(operators.into()));
    assert!(!rules.list[1].subscribe && rules.list[1].effect == Effect::Deny);
    let durability = std::mem::take(&mut broker.durability);
    assert_eq!(durability.default, Level::Strict);
    let within = Level::Interval(Duration::from_secs(1));
    let rules = [
        ("shed/+/raw/#".into(), Level::None),
        ("shed/#".into(), within),
    ];
    assert_eq!(durability.rules, rules);
    let journal = JournalSettings {
        size: 2 << 30,
        ..JournalSettings::default()
    };
    assert_eq!(meant.gateway.journal, Some(journal));
    assert_eq!(broker, fieldgate::broker::settings::Settings::default());
    assert_eq!(broker.queue.when_full, WhenFull::DropNewest);

    let local = &meant.gateway.listeners["local"];
    assert!(local.allow_anonymous);
    assert_eq!(local.bind[0], Bind::Tcp("127.0.0.1:1883".parse().unwrap()));
    assert_eq!(local.bind[1], Bind::Tcp("[::1]:1883".parse().unwrap()));
    let unix = Bind::Unix {
        path: "/etc/fieldgate/mqtt.sock".into(),
        mode: 0o660,
        group: Some("fieldgate".into()),
    };
    assert_eq!(local.bind[2], unix, "paths are relative to the file");
    let lan = &meant.gateway.listeners["lan"];
    assert_eq!(lan.bind[0], Bind::Tcp("0.0.0.0:1884".parse().unwrap()));
    assert_eq!(lan.bind[1], Bind::Tcp("[::]:1884".parse().unwrap()));
    assert_eq!(lan.max_connections, Some(200));

    let devices = &meant.gateway.devices;
    assert_eq!(devices.len(), 5);
    let Driver::I2c(chip) = &devices["greenhouse"].field.driver else {
        panic!("a chip");
    };
    assert_eq!(
        (chip.bus, chip.address, chip.chip),
        (1, 0x76, I2cChip::Bme280)
    );
    assert_eq!(chip.transfer_timeout, Duration::from_millis(50));
    assert_eq!(devices["greenhouse"].field.every, Duration::from_secs(10));
    let temperature = &devices["greenhouse"].points["temperature"];
    assert_eq!(&*temperature.topic, "plant/shed/greenhouse/temperature");
    assert_eq!(temperature.qos, QoS::AtLeastOnce);
    assert!(temperature.retain);
    assert!((temperature.deadband - 0.1).abs() < 1e-12);
    assert_eq!(temperature.min_interval, Some(Duration::from_secs(1)));
    assert_eq!(temperature.max_interval, Some(Duration::from_secs(300)));
    assert_eq!(temperature.stale_after, Some(Duration::from_secs(30)));
    assert_eq!(temperature.time_format, TimeFormat::Rfc3339);
    assert_eq!(devices["machine"].field.every, Duration::from_secs(60));

    let Driver::Gpio(pump) = &devices["pump"].field.driver else {
        panic!("lines");
    };
    assert_eq!(pump.chip, Chip::Header);
    let GpioKind::Output(running) = &pump.points["running"].kind else {
        panic!("an output");
    };
    assert_eq!(running.safe_state, SafeState::Inactive);
    assert_eq!(running.on_start, OnStart::Safe);
    assert_eq!(running.lease, Some(Duration::from_secs(600)));
    assert!(pump.points["running"].active_low);
    assert!(devices["pump"].points["running"].accept_retained);
    assert!(
        !devices["pump"].points["door"].accept_retained,
        "it takes no commands"
    );
    assert_eq!(pump.points["volume"].line, LineRef::Offset(27));
    assert_eq!(pump.points["volume"].bias, Bias::PullUp);
    let counter = GpioKind::Counter {
        edges: Edges::Rising,
        debounce: Duration::from_millis(2),
        persist: Persist::default(),
    };
    assert_eq!(pump.points["volume"].kind, counter);
    let volume = &devices["pump"].points["volume"];
    assert_eq!(volume.spec.kind, PointKind::Counter);
    assert_eq!(&*volume.spec.unit, "m³");
    assert_eq!(pump.points["bell"].line, LineRef::Offset(23), "pin 16");
    let bell = &devices["pump"].points["bell"];
    assert!(!bell.retain, "an event is not retained because states are");
    assert_eq!(bell.stale_after, None);
    assert_eq!(
        pump.points["door"].line,
        LineRef::Offset(7),
        "by its other name"
    );
    let door = &devices["pump"].points["door"];
    assert_eq!(door.payload, PayloadFormat::Json);
    assert_eq!(door.booleans, ("closed".into(), "open".into()));
    assert_eq!(door.stale_after, None, "silence is no fault");

    let Driver::Gpio(relays) = &devices["relays"].field.driver else {
        panic!("lines");
    };
    assert_eq!(relays.chip, Chip::Label("mcp23017".into()));
    assert_eq!(
        relays.points["heater"].line,
        LineRef::Name("relay-1".into())
    );

    let Driver::Lines(scale) = &devices["scale"].field.driver else {
        panic!("text");
    };
    assert_eq!(&*scale.port_name, "scale");
    assert_eq!((scale.port.baud, scale.port.data_bits), (19_200, 7));
    assert_eq!(scale.port.parity, Parity::Even);
    assert_eq!(scale.poll.as_deref(), Some("W\r\n"));
    assert_eq!(scale.points["weight"].kind, TextKind::Number);
    assert_eq!(scale.points["stable"].booleans, ("US".into(), "GS".into()));
    assert!(!scale.points["tare"].read);
}

#[test]
fn the_documented_bridges_mean_what_they_say() {
    let bridges = meant(EXAMPLE).meant.gateway.bridges;
    let cloud = &bridges["cloud"];
    let network = |scheme, host: &str, port, path: &str| Endpoint::Network {
        scheme,
        host: host.into(),
        port,
        path: path.into(),
    };
    assert_eq!(
        cloud.endpoints,
        [
            network(Scheme::Mqtts, "broker.example", 8883, ""),
            network(Scheme::Wss, "other.example", 443, "/mqtt/v1"),
            network(Scheme::Mqtt, "2001:db8::1", 1883, ""),
        ]
    );
    assert_eq!(cloud.failback, Some(Duration::from_secs(600)));
    assert_eq!((&*cloud.origin, &*cloud.base_topic), ("shed", "plant/shed"));
    assert_eq!(&*cloud.client_id, "shed-7");
    assert_eq!(cloud.username, Some(SecretSource::Literal("shed".into())));
    assert_eq!(
        cloud.password,
        Some(SecretSource::Credential("cloud".into()))
    );
    let identity = cloud.tls.identity.as_ref().unwrap();
    assert_eq!(&*identity.certificate, "/etc/fieldgate/c.pem");
    assert_eq!(cloud.tls.server_name.as_deref(), Some("broker.example"));
    assert_eq!((cloud.keep_alive, cloud.session_expiry), (60, 604_800));
    assert_eq!(cloud.queue.messages, Some(100_000));
    assert_eq!(cloud.queue.when_full, bridge::WhenFull::DropNewest);
    assert_eq!(cloud.inflight_maximum, 50);
    let [all, raw] = &cloud.send[..] else {
        panic!("two rules");
    };
    assert_eq!(all.to.as_deref(), Some("plants/shed/#"));
    assert_eq!(all.backlog_to.as_deref(), Some("late/shed/#"));
    assert_eq!((all.keep, all.lanes), (Keep::All, Lanes::Two));
    assert_eq!(all.except, ["plant/shed/+/raw".into()]);
    assert_eq!((raw.keep, raw.lanes), (Keep::Latest, Lanes::One));
    let [commands] = &cloud.receive[..] else {
        panic!("one rule");
    };
    assert_eq!(&*commands.filter, "$share/edge/plants/shed/+/+/set");
    assert_eq!(
        (commands.qos, commands.queued),
        (QoS::AtMostOnce, Queued::Obey)
    );
    let ha = &bridges["ha"];
    let path = "/etc/fieldgate/ha.sock".into();
    assert_eq!(ha.endpoints, [Endpoint::Unix { path }]);
    assert_eq!(
        ha.username,
        Some(SecretSource::Environment("HA_USER".into()))
    );
    let file = SecretSource::File("/etc/fieldgate/ha-password".into());
    assert_eq!(ha.password, Some(file));
}

#[test]
fn a_bridge_that_says_little_has_the_defaults() {
    let bridges = meant(
        "[bridge.up]\nurl = \"ws://broker.example\"\n[[bridge.up.send]]\nfilter = \"shed/#\"\nto = \
         \"plants/shed/#\"\n[[bridge.up.send]]\nfilter = \"other/#\"\nqos = 0\n[[bridge.up.receive]]\n\
         filter = \"news/#\"\n",
    );
    let up = &bridges.meant.gateway.bridges["up"];
    let Endpoint::Network { port, path, .. } = &up.endpoints[0] else {
        panic!("a network's");
    };
    assert_eq!((*port, &**path), (80, "/mqtt"));
    assert_eq!(up.failback, None, "there is nothing to go back to");
    assert_eq!(&*up.client_id, "shed-up");
    assert_eq!((up.version, up.profile), (Version::Auto, Profile::Generic));
    assert_eq!((up.keep_alive, up.session_expiry), (60, 7 * 86_400));
    assert!(!up.clean_start);
    assert_eq!(up.reconnect, bridge::Reconnect::default());
    assert_eq!(up.stalled_after, Some(Duration::from_secs(30)));
    assert_eq!(up.queue, bridge::QueueLimits::default());
    let rate = up.replay_rate.unwrap();
    assert_eq!(fieldgate::units::format_rate(rate), "200/s");
    assert_eq!(
        up.state_topic.as_deref(),
        Some("plants/shed/gateway/state"),
        "as the rules call it"
    );
    assert_eq!(up.send[0].qos, QoS::AtLeastOnce);
    assert_eq!(
        (up.send[0].keep, up.send[1].keep),
        (Keep::All, Keep::Nothing)
    );
    assert_eq!(up.receive[0].qos, QoS::AtLeastOnce);
    assert_eq!(up.receive[0].queued, Queued::Refuse);
    let silent = meant("[bridge.up]\nurl = \"mqtt://a\"\n").meant.gateway;
    assert_eq!(silent.bridges["up"].state_topic, None, "it is sent nowhere");
    let several = meant("[bridge.up]\nurls = [\"mqtt://a\", \"mqtt://b\"]\n")
        .meant
        .gateway;
    assert_eq!(
        several.bridges["up"].failback,
        Some(Duration::from_secs(300))
    );
}

/// A session's queue is in memory; a bridge's is on the disk, and so is the journal that it needs.
#[test]
fn a_bridge_may_keep_weeks_of_messages() {
    let meant = meant(
        "[gateway]\ndata_dir = \"data\"\n[bridge.up]\nurl = \"mqtt://broker.example\"\n\
         queue = { bytes = \"100GiB\" }\n[[bridge.up.send]]\nfilter = \"shed/#\"\n",
    );
    let gateway = &meant.meant.gateway;
    assert_eq!(gateway.bridges["up"].queue.bytes, 100 << 30);
    let journal = gateway.journal.as_ref().expect("a folder");
    assert!(journal.size >= 125 << 30);
    assert!(
        journal.size / u64::from(journal.segment) < 65_536,
        "{journal:?}"
    );
}

#[test]
fn gateways_of_one_name_are_told_apart_upstream() {
    let mut loaded = meant(EXAMPLE).meant;
    loaded.identify("1f3a9c2e");
    let bridges = &loaded.gateway.bridges;
    assert_eq!(&*bridges["ha"].client_id, "shed-ha-1f3a9c2e");
    assert_eq!(&*bridges["cloud"].client_id, "shed-7", "it is written");
    for bridge in bridges.values() {
        assert_eq!(&*bridge.origin, "shed-1f3a9c2e");
    }
}

#[test]
fn nothing_at_all_is_a_broker_on_loopback() {
    let loaded = meant("");
    assert!(loaded.warnings.is_empty());
    let config = loaded.meant.gateway;
    assert_eq!(&*config.name, "shed", "the host's name");
    assert_eq!(&*config.base_topic, "shed");
    assert!(config.devices.is_empty());
    assert_eq!(
        config.listeners["local"].bind,
        [Bind::Tcp("127.0.0.1:1883".parse().unwrap())]
    );
    assert!(config.listeners["local"].allow_anonymous);
    assert_eq!(&*loaded.meant.control.socket, "/run/fieldgate/control.sock");
    assert_eq!(
        loaded.meant.data_dir.unwrap().to_str(),
        Some("/var/lib/fieldgate")
    );
}

/// Nothing is durable then, and whoever wants it to be is told.
#[test]
fn without_a_folder_there_is_no_journal() {
    let nowhere = Environment {
        state_directory: None,
        ..super::machine()
    };
    let said = |text: &str| {
        let loaded = parse([Source::new("x.toml", text)], &nowhere).expect(text);
        assert_eq!(loaded.meant.gateway.journal, None, "{text}");
        loaded.warnings.render(false)
    };
    assert_eq!(said(""), "");
    assert_eq!(said("[broker.durability]\ndefault = \"none\"\n"), "");
    insta::assert_snapshot!(
        "no_folder_for_a_journal",
        said("[journal]\nsize = \"1GiB\"\n")
    );
    for asking in [
        "[broker.durability]\ndefault = \"strict\"\n",
        "[broker.durability]\ndefault = \"none\"\nrules = [{ filter = \"a\", level = \"strict\" }]\n",
    ] {
        assert!(said(asking).contains("x.toml:1:9"), "{}", said(asking));
    }
    let here = "[gateway]\ndata_dir = \"data\"\n[journal]\nsegment = \"64KiB\"\n";
    let loaded = parse([Source::new("/etc/x.toml", here)], &nowhere).expect(here);
    assert_eq!(
        loaded.warnings.warnings(),
        1,
        "a packet is larger than a segment"
    );
    let journal = loaded.meant.gateway.journal.expect("a journal");
    assert_eq!(journal.segment, 64 << 10);
    assert_eq!(loaded.meant.data_dir, Some("/etc/data".into()));
}

#[test]
fn a_broker_may_be_told_not_to_listen() {
    let config = meant("[broker]\nlisten = false\n").meant.gateway;
    assert!(config.listeners.is_empty());
}

#[test]
fn a_chip_has_its_usual_address_without_being_told() {
    for (driver, address) in [
        ("lm75", 0x48),
        ("tmp102", 0x48),
        ("tmp105", 0x48),
        ("bme280", 0x76),
        ("bmp280", 0x76),
    ] {
        let text = format!("[device.t]\ndriver = \"{driver}\"\nbus = \"i2c.0\"\n");
        let config = meant(&text).meant.gateway;
        let Driver::I2c(chip) = &config.devices["t"].field.driver else {
            panic!("a chip");
        };
        assert_eq!((chip.address, chip.bus), (address, 0));
    }
}

/// What the virtual machines run is right.
#[test]
fn the_files_of_the_virtual_machines_mean_something() {
    let header = meant(include_str!("../pi/raspi3b.toml"));
    assert!(
        header.warnings.is_empty(),
        "{}",
        header.warnings.render(false)
    );
    let usb = meant(include_str!("../pi/virt.toml"));
    assert_eq!(usb.warnings.warnings(), 1, "a USB adapter by its number");
    assert_eq!(usb.meant.gateway.devices["panel"].field.every.as_secs(), 1);
}

/// The whole of the documented example, with what is not built yet: each of that is refused by
/// name, and nothing else is wrong with it.
#[test]
fn of_the_whole_documentation_only_what_comes_later_is_refused() {
    let errors = super::read(include_str!("interface.toml")).expect_err("much comes later");
    let titles: Vec<&str> = errors.iter().map(|(_, error)| error.title()).collect();
    let others: Vec<&&str> = titles
        .iter()
        .filter(|title| !title.ends_with("is not available in this version"))
        .collect();
    // It shows both ways to write rules.
    assert_eq!(others, [&"rules stand here and in an ACL file"]);
    insta::assert_snapshot!("not_available_yet", titles.join("\n"));
}
