//! What a command says: the payload of `…/set` and `…/get`, as strangers send it.
//!
//! | payload | means |
//! |---|---|
//! | a word: `true false on off 1 0 open closed toggle` in any case, or one of the point's own | for a boolean |
//! | a decimal number, also with an exponent | for a number; a comma, `nan` or `0x` is an error |
//! | anything in UTF-8 | for text |
//! | `{"value":…,"for":"500ms","transaction":"7"}` | the same, as a pulse, with a name that the result repeats |
//!
//! JSON is a command only as an object with `value`, in which every other key is known: one that is
//! misspelt would turn a pulse into a state. For text points an object without `value` is text like
//! any other.

use core::fmt;

use serde::Deserialize;
use serde_json::Value as Json;

use super::settings::ValueType;
use crate::point::{Fault, FaultKind, Value};
use crate::time::Duration;
use crate::units::parse_duration;

/// The longest payload of a command that is read, in bytes; a longer one is a `bad_value`.
pub const COMMAND_MAX: usize = 4096;

/// The longest `transaction`, in bytes of JSON.
pub const TRANSACTION_MAX: usize = 256;

/// The longest `for`: a pulse that outlives a week is not a pulse.
pub const HOLD_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// A payload of `…/set`, understood.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Parsed {
    pub(crate) wanted: Wanted,
    /// Of a pulse.
    pub(crate) hold: Option<Duration>,
    /// JSON, for the result.
    pub(crate) transaction: Option<Box<str>>,
}

/// What the point is to become.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Wanted {
    /// This, in the published unit.
    Value(Value),
    /// The opposite of what it is.
    Toggle,
}

/// A payload that is no command, with what its result can still repeat.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Refusal {
    pub(crate) fault: Fault,
    pub(crate) transaction: Option<Box<str>>,
}

/// Reads the payload of `…/set`. `booleans` are the point's own words, inactive and active; they
/// win over ours.
pub(crate) fn parse_set(
    payload: &[u8],
    value_type: ValueType,
    booleans: &(Box<str>, Box<str>),
) -> Result<Parsed, Refusal> {
    let words = Words {
        value_type,
        booleans,
    };
    let text = text_of(payload).map_err(refusal)?;
    let Some(object) = object_of(text, value_type).map_err(refusal)? else {
        let wanted = words.bare(text).map_err(refusal)?;
        return Ok(Parsed {
            wanted,
            hold: None,
            transaction: None,
        });
    };
    let transaction = object
        .transaction
        .as_ref()
        .map(|given| transaction_of(given).map_err(refusal))
        .transpose()?;
    let command = serde_json::from_str::<SetObject>(text)
        .map_err(|error| bad_value(format_args!("{error}")))
        .and_then(|object| {
            let wanted = words.json(&object.value)?;
            let hold = object.hold.as_ref().map(hold_of).transpose()?;
            Ok((wanted, hold))
        });
    match command {
        Ok((wanted, hold)) => Ok(Parsed {
            wanted,
            hold,
            transaction,
        }),
        Err(fault) => Err(Refusal { fault, transaction }),
    }
}

/// Reads the payload of `…/get`, which says nothing but may carry a `transaction`. What is not such
/// an object is ignored.
pub(crate) fn parse_get(payload: &[u8]) -> Result<Option<Box<str>>, Refusal> {
    if !payload.trim_ascii_start().starts_with(b"{") || payload.len() > COMMAND_MAX {
        return Ok(None);
    }
    match serde_json::from_slice::<Named>(payload) {
        Ok(Named {
            transaction: Some(given),
        }) => transaction_of(&given).map(Some).map_err(refusal),
        _ => Ok(None),
    }
}

/// How a point's values are written.
struct Words<'a> {
    value_type: ValueType,
    booleans: &'a (Box<str>, Box<str>),
}

impl Words<'_> {
    /// A bare payload, or a JSON string.
    fn bare(&self, text: &str) -> Result<Wanted, Fault> {
        match self.value_type {
            ValueType::Bool => self.boolean(text.trim_ascii()),
            ValueType::Number => number(text.trim_ascii()).map(Wanted::Value),
            ValueType::Text => Ok(Wanted::Value(Value::Text(text.into()))),
        }
    }

    /// The `value` of an object.
    fn json(&self, json: &Json) -> Result<Wanted, Fault> {
        let expected = match self.value_type {
            ValueType::Bool => "true, false or \"toggle\"",
            ValueType::Number => "a number",
            ValueType::Text => "a string",
        };
        match (json, self.value_type) {
            (Json::String(text), _) => self.bare(text),
            (Json::Bool(active), ValueType::Bool) => Ok(Wanted::Value(Value::Bool(*active))),
            (Json::Number(number), ValueType::Bool) => match number.as_u64() {
                Some(0) => Ok(Wanted::Value(Value::Bool(false))),
                Some(1) => Ok(Wanted::Value(Value::Bool(true))),
                _ => Err(bad_value(format_args!("{number} is not {expected}"))),
            },
            (Json::Number(given), ValueType::Number) => {
                // The text of a JSON number is a number to us too.
                number(&given.to_string()).map(Wanted::Value)
            }
            _ => Err(bad_value(format_args!("`value` must be {expected}"))),
        }
    }

    fn boolean(&self, word: &str) -> Result<Wanted, Fault> {
        let (inactive, active) = (&*self.booleans.0, &*self.booleans.1);
        let value = |active| Ok(Wanted::Value(Value::Bool(active)));
        // Exactly as configured first, for the two words may differ by case only.
        for (own, is_active) in [(active, true), (inactive, false)] {
            if word == own {
                return value(is_active);
            }
        }
        for (own, is_active) in [(active, true), (inactive, false)] {
            if !own.is_empty() && word.eq_ignore_ascii_case(own) {
                return value(is_active);
            }
        }
        let is = |known: &[&str]| known.iter().any(|known| word.eq_ignore_ascii_case(known));
        if is(&["true", "on", "1", "open"]) {
            value(true)
        } else if is(&["false", "off", "0", "closed"]) {
            value(false)
        } else if is(&["toggle"]) {
            Ok(Wanted::Toggle)
        } else {
            Err(bad_value(format_args!(
                "{} is not {active}, {inactive} or toggle",
                Quoted(word)
            )))
        }
    }
}

/// A number, strictly: what JSON calls one, and a leading `+` or zeros, which people write.
fn number(text: &str) -> Result<Value, Fault> {
    if !is_decimal(text) {
        let hint = if is_decimal(&text.replace(',', ".")) {
            "; the decimal separator is a point"
        } else {
            ""
        };
        return Err(bad_value(format_args!(
            "{} is not a number{hint}",
            Quoted(text)
        )));
    }
    if let Ok(value) = text.parse::<i64>() {
        return Ok(Value::Int(value));
    }
    if let Ok(value) = text.parse::<u64>() {
        return Ok(Value::Uint(value));
    }
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(Value::Float(value)),
        _ => Err(bad_value(format_args!("{} is too large", Quoted(text)))),
    }
}

/// `[+-]digits[.digits][(e|E)[+-]digits]`.
fn is_decimal(text: &str) -> bool {
    let text = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (text, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_digits(whole)
        && fraction.is_none_or(is_digits)
        && exponent.is_none_or(|text| is_digits(text.strip_prefix(['+', '-']).unwrap_or(text)))
}

/// The payload as text.
fn text_of(payload: &[u8]) -> Result<&str, Fault> {
    if payload.len() > COMMAND_MAX {
        let len = payload.len();
        return Err(bad_value(format_args!(
            "a command has at most {COMMAND_MAX} bytes, this one has {len}"
        )));
    }
    str::from_utf8(payload).map_err(|error| {
        let at = error.valid_up_to();
        bad_value(format_args!("byte {at} of the command is not UTF-8"))
    })
}

/// Whether the payload is an object that means a command; an error if it can only have been meant
/// as one and is none.
fn object_of(text: &str, value_type: ValueType) -> Result<Option<Named>, Fault> {
    if !text.trim_ascii_start().starts_with('{') {
        return Ok(None);
    }
    let object = serde_json::from_str::<serde_json::Map<String, Json>>(text);
    match (object, value_type) {
        (Ok(mut object), _) if object.contains_key("value") => Ok(Some(Named {
            transaction: object.remove("transaction"),
        })),
        (_, ValueType::Text) => Ok(None),
        (Ok(_), _) => Err(bad_value(format_args!("the object has no `value`"))),
        (Err(error), _) => Err(bad_value(format_args!("{error}"))),
    }
}

fn transaction_of(given: &Json) -> Result<Box<str>, Fault> {
    let json = match given {
        Json::String(_) | Json::Number(_) => given.to_string(),
        _ => {
            return Err(bad_value(format_args!(
                "`transaction` must be a string or a number"
            )));
        }
    };
    if json.len() > TRANSACTION_MAX {
        return Err(bad_value(format_args!(
            "`transaction` has at most {TRANSACTION_MAX} bytes"
        )));
    }
    Ok(json.into())
}

fn hold_of(given: &Json) -> Result<Duration, Fault> {
    let Json::String(text) = given else {
        return Err(bad_value(format_args!(
            "`for` is a string with a unit: \"500ms\", \"2s\", \"1h30m\""
        )));
    };
    let hold = parse_duration(text).map_err(|error| bad_value(format_args!("`for`: {error}")))?;
    if hold.is_zero() {
        return Err(bad_value(format_args!("`for` must be longer than 0")));
    }
    if hold > HOLD_MAX {
        return Err(bad_value(format_args!("`for` is at most 7d")));
    }
    Ok(hold)
}

/// A command as an object. Its derived reader refuses unknown and repeated keys.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetObject {
    value: Json,
    #[serde(rename = "for")]
    hold: Option<Json>,
    #[serde(rename = "transaction")]
    _transaction: Option<Json>,
}

/// What an object's sender will know its result by.
#[derive(Deserialize)]
struct Named {
    transaction: Option<Json>,
}

fn bad_value(detail: fmt::Arguments<'_>) -> Fault {
    Fault::new(FaultKind::BadValue, detail.to_string())
}

fn refusal(fault: Fault) -> Refusal {
    Refusal {
        fault,
        transaction: None,
    }
}

/// The beginning of a stranger's word, with what a terminal must not see escaped.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN_MAX: usize = 40;
        match self.0.char_indices().nth(SHOWN_MAX) {
            Some((end, _)) => write!(f, "{:?}…", &self.0[..end]),
            None => write!(f, "{:?}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(inactive: &str, active: &str) -> (Box<str>, Box<str>) {
        (inactive.into(), active.into())
    }

    fn set(payload: &str, value_type: ValueType) -> Result<Wanted, String> {
        let own = words("zu", "AUF");
        match parse_set(payload.as_bytes(), value_type, &own) {
            Ok(parsed) => {
                assert_eq!((parsed.hold, parsed.transaction), (None, None));
                Ok(parsed.wanted)
            }
            Err(refusal) => Err(refusal.fault.to_string()),
        }
    }

    #[test]
    fn words_for_booleans() {
        for (payload, active) in [
            ("true", true),
            ("FALSE", false),
            ("On", true),
            ("off", false),
            ("1", true),
            ("0", false),
            ("Open", true),
            ("closed", false),
            ("auf", true),
            ("ZU", false),
            (" on\n", true),
            ("{\"value\":true}", true),
            ("{\"value\":0}", false),
            ("{\"value\":1}", true),
            (" {\"value\": \"OFF\"} ", false),
        ] {
            let expected = Ok(Wanted::Value(Value::Bool(active)));
            assert_eq!(set(payload, ValueType::Bool), expected, "{payload}");
        }
        for payload in ["toggle", "TOGGLE", "{\"value\":\"Toggle\"}"] {
            assert_eq!(set(payload, ValueType::Bool), Ok(Wanted::Toggle));
        }
        for payload in [
            "",
            "2",
            "yes",
            "truee",
            "{\"value\":2}",
            "{\"value\":null}",
            "{\"value\":[]}",
        ] {
            assert!(set(payload, ValueType::Bool).is_err(), "{payload}");
        }
    }

    #[test]
    fn the_points_own_words_win() {
        let own = words("1", "0");
        let parsed = parse_set(b"1", ValueType::Bool, &own).unwrap();
        assert_eq!(parsed.wanted, Wanted::Value(Value::Bool(false)));
        let own = words("x", "X");
        let parsed = parse_set(b"x", ValueType::Bool, &own).unwrap();
        assert_eq!(parsed.wanted, Wanted::Value(Value::Bool(false)));
    }

    #[test]
    fn numbers_are_read_strictly() {
        for (payload, value) in [
            ("21", Value::Int(21)),
            ("-21", Value::Int(-21)),
            ("+5", Value::Int(5)),
            ("007", Value::Int(7)),
            (" 21.50\r\n", Value::Float(21.5)),
            ("1e3", Value::Float(1000.0)),
            ("1.5E-3", Value::Float(0.0015)),
            ("18446744073709551615", Value::Uint(u64::MAX)),
            ("{\"value\":21}", Value::Int(21)),
            ("{\"value\":-0.5}", Value::Float(-0.5)),
            ("{\"value\":1e2}", Value::Float(100.0)),
            (
                "{\"value\":\"18446744073709551615\"}",
                Value::Uint(u64::MAX),
            ),
        ] {
            let expected = Ok(Wanted::Value(value));
            assert_eq!(set(payload, ValueType::Number), expected, "{payload}");
        }
        for payload in [
            "",
            "-",
            "+",
            ".",
            "5.",
            ".5",
            "1e",
            "e5",
            "nan",
            "inf",
            "-Infinity",
            "1e999",
            "0x10",
            "1_000",
            "1 000",
            "21.4 °C",
            "--1",
            "true",
            "toggle",
            "[1]",
            "{\"value\":true}",
            "{\"value\":1e999}",
        ] {
            assert!(set(payload, ValueType::Number).is_err(), "{payload}");
        }
        assert_eq!(
            set("21,5", ValueType::Number),
            Err("bad_value: \"21,5\" is not a number; the decimal separator is a point".into())
        );
    }

    #[test]
    fn text_is_taken_as_it_is() {
        for (payload, text) in [
            ("hello ", "hello "),
            ("", ""),
            ("{\"x\":1}", "{\"x\":1}"),
            ("{no json", "{no json"),
            ("{\"value\":\"a\\nb\"}", "a\nb"),
        ] {
            let expected = Ok(Wanted::Value(Value::Text(text.into())));
            assert_eq!(set(payload, ValueType::Text), expected, "{payload}");
        }
        assert!(set("{\"value\":1}", ValueType::Text).is_err());
    }

    #[test]
    fn an_object_may_say_for_how_long_and_be_named() {
        let own = words("false", "true");
        let parsed = parse_set(
            br#"{"value":true,"for":"1m30s","transaction":"a\"b"}"#,
            ValueType::Bool,
            &own,
        );
        let expected = Parsed {
            wanted: Wanted::Value(Value::Bool(true)),
            hold: Some(Duration::from_secs(90)),
            transaction: Some(r#""a\"b""#.into()),
        };
        assert_eq!(parsed, Ok(expected));
    }

    #[test]
    fn a_wrong_object_is_refused_and_keeps_its_name() {
        let own = words("false", "true");
        for (payload, story) in [
            (
                r#"{"value":1,"fro":"2s","transaction":7}"#,
                "unknown field `fro`",
            ),
            (
                r#"{"value":true,"value":false,"transaction":7}"#,
                "duplicate field `value`",
            ),
            (r#"{"value":true,"for":2,"transaction":7}"#, "with a unit"),
            (
                r#"{"value":true,"for":"2","transaction":7}"#,
                "`for`: `2` has no unit; write \"2s\"",
            ),
            (
                r#"{"value":true,"for":"0s","transaction":7}"#,
                "longer than 0",
            ),
            (r#"{"value":true,"for":"8d","transaction":7}"#, "at most 7d"),
            (
                r#"{"value":true,"for":"2 s","transaction":7}"#,
                "write \"2s\"",
            ),
            (
                r#"{"value":"maybe","transaction":7}"#,
                "\"maybe\" is not true, false or toggle",
            ),
        ] {
            let refusal = parse_set(payload.as_bytes(), ValueType::Bool, &own).unwrap_err();
            assert_eq!(refusal.transaction.as_deref(), Some("7"), "{payload}");
            assert!(refusal.fault.detail.contains(story), "{}", refusal.fault);
        }
        for payload in [
            &br#"{"transaction":7}"#[..],
            br#"{"value":true,"transaction":{}}"#,
            b"{",
            b"\xff",
            &[b'1'; COMMAND_MAX + 1],
        ] {
            let refusal = parse_set(payload, ValueType::Bool, &own).unwrap_err();
            assert_eq!(refusal.fault.kind, FaultKind::BadValue);
        }
    }

    #[test]
    fn a_get_may_be_named() {
        assert_eq!(parse_get(b""), Ok(None));
        assert_eq!(parse_get(b"anything \xff"), Ok(None));
        assert_eq!(
            parse_get(b"{\"transaction\":\"x\"}"),
            Ok(Some("\"x\"".into()))
        );
        assert!(parse_get(b"{\"transaction\":[]}").is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_command_or_an_error(
            bytes in proptest::collection::vec(any::<u8>(), 0..64),
            json in r#"\{("(value|for|transaction)":([0-9a-z"\[{\\-]{0,8}),?){0,4}\}?"#,
        ) {
            let own = words("false", "true");
            for value_type in [ValueType::Bool, ValueType::Number, ValueType::Text] {
                for payload in [&bytes[..], json.as_bytes()] {
                    let parsed = parse_set(payload, value_type, &own);
                    if let Ok(Parsed { wanted: Wanted::Value(Value::Float(number)), .. }) = parsed {
                        prop_assert!(number.is_finite());
                    }
                    let _ = parse_get(payload);
                }
            }
        }

        #[test]
        fn what_we_print_we_also_read(number in any::<f64>(), whole in any::<i64>()) {
            prop_assume!(number.is_finite());
            for value in [Value::Float(number), Value::Int(whole)] {
                let mut text = String::new();
                super::super::json::write_bare(&mut text, &value);
                match set(&text, ValueType::Number) {
                    Ok(Wanted::Value(read)) => prop_assert_eq!(read.as_f64(), value.as_f64()),
                    other => prop_assert!(false, "{:?}", other),
                }
            }
        }
    }
}
