//! `check --print`: TOML that means the same, with the origin of every line.

use super::example::EXAMPLE;
use super::{meant, read};

/// What is printed means the same, and is printed the same.
fn round_trip(text: &str) -> String {
    let first = meant(text).meant;
    let printed = first.print();
    let second = read(&printed)
        .unwrap_or_else(|errors| panic!("{printed}\n{}", errors.render(false)))
        .meant;
    assert_eq!(first.gateway, second.gateway, "{printed}");
    assert_eq!(first.log, second.log);
    assert_eq!(first.control, second.control);
    assert_eq!(first.data_dir, second.data_dir);
    assert_eq!(first.labels, second.labels);
    let strip = |text: &str| -> Vec<String> {
        let lines = text
            .lines()
            .filter(|line| !line.starts_with('#') && !line.is_empty());
        lines
            .map(|line| {
                line.rsplit_once(" # ")
                    .map_or(line, |(value, _)| value)
                    .trim()
                    .to_owned()
            })
            .collect()
    };
    assert_eq!(strip(&printed), strip(&second.print()));
    printed
}

#[test]
fn the_example_prints_as_it_means() {
    round_trip(EXAMPLE);
}

#[test]
fn a_small_file_prints_whole() {
    let text = "[gateway]\nname = \"shed\"\n[gateway.defaults]\nqos = 0\n\n\
                [device.pump]\ndriver = \"gpio\"\nbus = \"gpio.header\"\n\
                [device.pump.point.running]\nkind = \"output\"\nline = \"pin:11\"\nsafe_state = \
                false\n";
    insta::assert_snapshot!("print_small", round_trip(text));
}

#[test]
fn nothing_prints_as_its_defaults() {
    insta::assert_snapshot!("print_nothing", round_trip(""));
}

#[test]
fn what_is_between_sockets_and_mqtt_prints_as_it_means() {
    let text = "[listener.lan]\nbind = \"*:8883\"\nprotocols = [\"mqtt\", \"websocket\"]\n\
        websocket = { path = \"/ws\", origins = [\"https://panel.example\"] }\n\
        tls = { certificate = \"c.pem\", key = \"/k.pem\", client_ca = \"ca.pem\", \
        require_client = true, identity = \"subject\" }\n\
        proxy_protocol = { from = [\"10.0.0.0/8\", \"::1\"] }\n\
        redirect = { to = [\"a.example\", \"[2001:db8::1]:8883\"], permanent = true }\n\
        [listener.page]\nbind = \"[::1]:9001\"\nprotocols = \"websocket\"\n\
        [listener.local]\nbind = \"unix:/run/fieldgate/mqtt.sock\"\n\
        identity = \"peer_credentials\"\nallow_anonymous = false\n";
    let printed = round_trip(text);
    let listeners = &printed[printed.find("[listener.lan]").unwrap()..];
    let listeners = &listeners[..listeners.find("[log]").unwrap_or(listeners.len())];
    insta::assert_snapshot!("print_transports", listeners);
}

#[test]
fn bridges_print_as_they_mean_without_their_secrets() {
    let printed = round_trip(EXAMPLE);
    let bridges = &printed[printed.find("[bridge.cloud]").unwrap()..];
    let bridges = &bridges[..bridges.find("[i2c.1]").unwrap()];
    insta::assert_snapshot!("print_bridges", bridges);
    let text = "[bridge.a]\nurl = \"mqtt://a\"\nusername = \"a\"\npassword = \"hunter2\"\n";
    let printed = meant(text).meant.print();
    assert!(!printed.contains("hunter2"), "{printed}");
    assert!(
        printed.contains("# password is not shown: /etc/fieldgate/fieldgate.toml:4:1"),
        "{printed}"
    );
    round_trip(
        "[bridge.a]\nurl = \"wss://[::1]/a/b\"\nkeep_alive = \"off\"\nsession_expiry = \"unlimited\"\n\
         stalled_after = \"off\"\nstate_topic = \"\"\nreplay_rate = \"unlimited\"\nversion = \"5\"\n\
         queue = { age = \"off\", messages = \"unlimited\" }\nclean_start = true\nprofile = \"rabbitmq\"\n",
    );
}

#[test]
fn odd_settings_print_as_they_mean() {
    round_trip(
        "[broker]\nlisten = false\ntopic_alias_maximum = \"off\"\noutgoing_topic_aliases = \"off\"\nmax_session_expiry = \
            \"unlimited\"\n",
    );
    round_trip("[broker]\nkeep_alive_override = \"1m\"\nmemory = \"1GB\"\n");
    round_trip(
        "[broker.durability]\ndefault = { interval = \"90s\" }\nrules = [{ filter = 'a\"/#', level = \
         { interval = \"250ms\" } }, { filter = \"#\", level = \"none\" }]\n[journal]\nsize = \
         \"64MiB\"\nsegment = \"260KiB\"\nsync_within = \"10ms\"\n",
    );
    round_trip(
        "[gateway]\ntime_format = \"unix_ns\"\n[device.m]\ndriver = \"system\"\nenabled = false\n\
         [device.n]\ndriver = \"system\"\nsimulated = true\nlabel = 'a \"b\" \\ c'\n",
    );
    round_trip(
        "[device.a]\ndriver = \"lm75\"\nbus = \"i2c.7\"\nscale = -1.8\noffset = 1e-9\nmin = -1e9\n\
         stale_after = \"off\"\nprecision = 0\nunit = \"\"\ntopic = \"x/y\"\n",
    );
    round_trip(
        "[serial.s]\npath = \"/dev/ttyAMA0\"\n\
         [device.l]\ndriver = \"lines\"\nbus = \"serial.s\"\npattern = '(?P<a>\"[^\"]*\")\\t'\n\
         [device.l.point.a]\ntype = \"text\"\n\
         [device.l.point.b]\ncommand = \"\\u0002{value}\\u007f\\r\\n\"\nmax = 5\n",
    );
}

#[test]
fn every_line_says_where_it_comes_from() {
    let printed = round_trip(
        "[gateway.defaults]\nqos = 0\n[device.t]\ndriver = \"lm75\"\nbus = \"i2c.1\"\nexpiry = \
            \"1h\"\n",
    );
    let origin = |start: &str| {
        let line = printed
            .lines()
            .find(|line| line.starts_with(start))
            .unwrap();
        line.rsplit_once("# ").unwrap().1.to_owned()
    };
    assert_eq!(origin("qos = 0"), "/etc/fieldgate/fieldgate.toml:2:1");
    assert_eq!(
        origin("expiry = \"1h\""),
        "/etc/fieldgate/fieldgate.toml:6:1"
    );
    assert_eq!(origin("retain = true"), "default");
}
