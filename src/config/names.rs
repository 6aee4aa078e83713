//! Names: of devices, points and buses, and the levels of topics that are made of them.

use super::diagnostic::shown;

/// Characters of a name at most: it is part of topics, client ids and Home Assistant ids.
pub(super) const NAME_MAX: usize = 63;

/// Levels that the gateway writes below every point and device itself.
pub(super) const RESERVED_POINTS: [&str; 7] = [
    "availability",
    "set",
    "get",
    "result",
    "quality",
    "reason",
    "state",
];

/// The device name under which the gateway speaks of itself.
pub(super) const RESERVED_DEVICE: &str = "gateway";

/// Bytes of a topic at most. MQTT allows 65 535; what is below it (`/quality`, `/result`) must fit
/// too.
pub(super) const TOPIC_MAX: usize = 1024;

/// Whether it matches `[a-z0-9][a-z0-9_-]{0,62}`.
pub(super) fn is_name(text: &str) -> bool {
    let body = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    text.len() <= NAME_MAX
        && text.bytes().next().is_some_and(body)
        && text
            .bytes()
            .all(|byte| body(byte) || byte == b'_' || byte == b'-')
}

/// The nearest name to what was written: `Shed 1.local` becomes `shed-1-local`. `None` if nothing
/// is left of it.
pub(super) fn nearest_name(text: &str) -> Option<String> {
    let mut out = String::new();
    for c in text.chars() {
        let c = match c {
            'ä' | 'Ä' => "ae",
            'ö' | 'Ö' => "oe",
            'ü' | 'Ü' => "ue",
            'ß' => "ss",
            c if c.is_ascii_alphanumeric() || c == '_' => {
                out.push(c.to_ascii_lowercase());
                continue;
            }
            _ if out.is_empty() || out.ends_with('-') => continue,
            _ => "-",
        };
        out.push_str(c);
    }
    out.truncate(NAME_MAX);
    let name = out.trim_start_matches(['_', '-']).trim_end_matches('-');
    is_name(name).then(|| name.to_owned())
}

/// Two names with one folded form differ only by `-` and `_`: Home Assistant and people take them
/// for the same.
pub(super) fn folded(name: &str) -> String {
    name.replace('-', "_")
}

/// The gateway's name when the file gives none: the first label of the host's name.
pub(super) fn from_hostname(hostname: &str) -> String {
    hostname
        .split('.')
        .next()
        .and_then(nearest_name)
        .unwrap_or_else(|| String::from("fieldgate"))
}

/// What is wrong with a topic to publish to, if anything is.
pub(super) fn topic_error(topic: &str) -> Option<String> {
    if topic.is_empty() {
        return Some(String::from("a topic is not empty"));
    }
    if topic.len() > TOPIC_MAX {
        return Some(format!(
            "it is {} bytes long, {TOPIC_MAX} are allowed",
            topic.len()
        ));
    }
    if let Some(wildcard) = topic.chars().find(|c| matches!(c, '+' | '#')) {
        return Some(format!(
            "`{wildcard}` is a wildcard: it stands in filters, not in topics"
        ));
    }
    if topic.starts_with('$') {
        return Some(String::from(
            "topics that start with `$` belong to the broker",
        ));
    }
    if let Some(control) = topic.chars().find(|c| c.is_control()) {
        return Some(format!(
            "{} has no place in a topic",
            shown(&control.to_string())
        ));
    }
    if topic.split('/').any(str::is_empty) {
        return Some(String::from(
            "it has an empty level: no `/` at the start, at the end, or doubled",
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names() {
        for name in ["a", "0", "pump-1", "a_b", &"x".repeat(63)] {
            assert!(is_name(name), "{name}");
        }
        for name in [
            "",
            "-a",
            "_a",
            "A",
            "a b",
            "a.b",
            "ä",
            "a/b",
            "a+",
            &"x".repeat(64),
        ] {
            assert!(!is_name(name), "{name}");
        }
    }

    #[test]
    fn the_nearest_name() {
        for (text, name) in [
            ("Shed 1", Some("shed-1")),
            ("Gewächshaus", Some("gewaechshaus")),
            ("--", None),
            ("", None),
            ("_x_", Some("x_")),
            ("tank (left)", Some("tank-left")),
            ("温度", None),
        ] {
            assert_eq!(nearest_name(text).as_deref(), name, "{text}");
        }
    }

    #[test]
    fn a_host_always_gives_a_name() {
        assert_eq!(from_hostname("RaspberryPi.local"), "raspberrypi");
        assert_eq!(from_hostname(""), "fieldgate");
        assert_eq!(from_hostname("..."), "fieldgate");
    }

    #[test]
    fn topics() {
        assert_eq!(topic_error("a/b c/ü"), None);
        for topic in [
            "",
            "a/+",
            "#",
            "$SYS/x",
            "/a",
            "a/",
            "a//b",
            "a\0b",
            &"a".repeat(1025),
        ] {
            assert!(topic_error(topic).is_some(), "{topic}");
        }
    }

    proptest! {
        #[test]
        fn what_is_suggested_is_a_name(text in "\\PC{0,80}") {
            if let Some(name) = nearest_name(&text) {
                prop_assert!(is_name(&name), "{}", name);
            }
            prop_assert!(is_name(&from_hostname(&text)));
        }
    }
}
