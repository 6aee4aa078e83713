//! What the documentation of the configuration names and this version cannot do yet. It is refused
//! by name: a setting that is silently without effect is worse than none.
//!
//! One table. A feature that arrives takes its rows out.

use super::diagnostic::{Diagnostic, Span};

/// Kinds of tables, as far as this table tells them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Group {
    Root,
    /// `[gateway.defaults]` and devices. What is later there is later on points too.
    Common,
    /// A point that its driver brings along. What is later on other points is later there too.
    FixedPoint,
    Point,
    /// `[[bridge.NAME.send]]`
    Send,
    Other,
}

/// Keys that come later: where, the key, and how the message calls it.
const KEYS: [(Group, &str, &str); 14] = [
    (Group::Root, "spi", "[spi.N]"),
    (Group::Root, "onewire", "[onewire]"),
    (Group::Root, "tcp", "[tcp.NAME]"),
    (Group::Root, "home_assistant", "[home_assistant]"),
    (Group::Root, "http", "[http]"),
    (Group::Send, "payload", "re-encoding a payload on a bridge"),
    (Group::Common, "area", "area"),
    (Group::Common, "icon", "icon"),
    (Group::Common, "device_class", "device_class"),
    (Group::Common, "category", "category"),
    (Group::Point, "register", "register"),
    (Group::Point, "byte_order", "byte_order"),
    (Group::Common, "unit_id", "unit_id"),
    (
        Group::FixedPoint,
        "enabled",
        "switching off one point of a chip",
    ),
];

/// Values that come later: of which key, and the value.
const VALUES: [(&str, &str); 8] = [
    ("driver", "modbus"),
    ("kind", "rate"),
    ("kind", "frequency"),
    ("on_start", "restore"),
    ("payload", "device_json"),
    ("payload", "cbor"),
    ("rs485", "kernel"),
    ("rs485", "rts"),
];

/// Buses that come later: what `bus` starts with.
const BUSES: [&str; 3] = ["spi", "onewire", "tcp"];

/// How to call a key that comes later.
pub(super) fn key(group: Group, name: &str) -> Option<&'static str> {
    KEYS.iter()
        .find(|(at, key, _)| {
            let holds = match at {
                Group::Common => matches!(group, Group::Common | Group::Point | Group::FixedPoint),
                Group::Point => matches!(group, Group::Point | Group::FixedPoint),
                at => *at == group,
            };
            *key == name && holds
        })
        .map(|(_, _, what)| *what)
}

/// How to call a value that comes later.
pub(super) fn value(key: &str, value: &str) -> Option<String> {
    VALUES
        .iter()
        .find(|(of, later)| *of == key && *later == value)
        .map(|(of, later)| format!("{of} = \"{later}\""))
}

/// How to call a bus that comes later.
pub(super) fn bus(name: &str) -> Option<String> {
    let family = name.split('.').next().unwrap_or_default();
    BUSES
        .iter()
        .find(|later| **later == family)
        .map(|later| format!("a device on {later}"))
}

/// That the points of one device cannot be sampled each at its own pace yet.
pub(super) fn own_every(span: Span) -> Diagnostic {
    Diagnostic::error("an `every` for one of several points is not available in this version")
        .at(span, "the others are sampled at another pace")
        .help("a device is sampled as a whole: write `every` at the device")
}

/// Says so.
pub(super) fn refusal(what: &str, span: Span) -> Diagnostic {
    let quoted = if what.contains(' ') && !what.contains('=') {
        what.to_owned()
    } else {
        format!("`{what}`")
    };
    Diagnostic::error(format!("{quoted} is not available in this version"))
        .at(span, "")
        .help(
            "take it out: it would be without effect, and fieldgate does not ignore what it is \
            told",
        )
}

#[cfg(test)]
mod tests {
    use super::super::{Environment, Source, parse};
    use super::*;

    const POINT: &str =
        "[device.a]\ndriver = \"gpio\"\nbus = \"gpio.header\"\n[device.a.point.p]\n";

    fn refused(text: &str, what: &str) {
        let source = Source::new("x.toml", text);
        let errors = parse(vec![source], &Environment::default()).expect_err(text);
        let wanted = "is not available in this version";
        assert_eq!(errors.errors(), 1, "{text}\n{}", errors.render(false));
        let (_, error) = errors.iter().next().expect("one");
        assert!(error.title().contains(wanted), "{}", error.title());
        assert!(error.title().contains(what), "{}", error.title());
    }

    #[test]
    fn every_key_of_the_table_is_refused_by_name() {
        for (group, key, what) in KEYS {
            let text = match group {
                Group::Root => format!("[{key}.x]\ny = 1\n"),
                Group::Common => format!("[device.m]\ndriver = \"system\"\n{key} = \"x\"\n"),
                Group::Point => format!("{POINT}kind = \"input\"\nline = 4\n{key} = \"x\"\n"),
                Group::FixedPoint => format!(
                    "[device.m]\ndriver = \"lm75\"\nbus = \"i2c.1\"\n\
                     [device.m.point.temperature]\n{key} = false\n"
                ),
                Group::Send => format!(
                    "[bridge.b]\nurl = \"mqtt://b\"\n[[bridge.b.send]]\nfilter = \"a\"\n\
                     {key} = \"x\"\n"
                ),
                Group::Other => panic!("nothing is later there"),
            };
            refused(&text, what);
        }
    }

    #[test]
    fn what_is_later_on_a_device_is_later_on_a_point() {
        refused(
            &format!("{POINT}kind = \"input\"\nline = 4\nicon = \"mdi:pump\"\n"),
            "icon",
        );
    }

    #[test]
    fn every_value_of_the_table_is_refused_by_name() {
        for (key, value) in VALUES {
            let text = match key {
                "driver" => format!("[device.m]\ndriver = \"{value}\"\nbus = \"serial.x\"\n"),
                "kind" => format!("{POINT}kind = \"{value}\"\nline = 4\n"),
                "on_start" => format!(
                    "{POINT}kind = \"output\"\nline = 4\nsafe_state = false\non_start = \
                        \"{value}\"\n"
                ),
                "payload" => format!("[gateway.defaults]\npayload = \"{value}\"\n"),
                "rs485" => format!(
                    "[serial.s]\npath = \"/dev/serial/by-id/a\"\nrs485 = \"{value}\"\n\
                     [device.l]\ndriver = \"lines\"\nbus = \"serial.s\"\npattern = '(?<a>.)'\n"
                ),
                _ => panic!("no sample for {key}"),
            };
            refused(&text, value);
        }
    }

    #[test]
    fn every_bus_of_the_table_is_refused_by_name() {
        for bus in BUSES {
            refused(
                &format!("[device.t]\ndriver = \"bme280\"\nbus = \"{bus}.0\"\n"),
                bus,
            );
        }
    }
}
