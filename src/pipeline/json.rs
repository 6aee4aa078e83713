//! JSON as we write it: one object, fields in a fixed order, numbers by the rules of
//! `super::number`.
//!
//! Written by hand because `serde_json` prints floats with exponents and large integers as numbers
//! that JavaScript would round.

use core::fmt::{self, Write};

use super::number::{EXACT_INTEGER_MAX, Rounding, write_float};
use crate::point::Value;
use crate::time::Duration;

/// An object in the making, at the end of a string that the caller owns.
#[derive(Debug)]
pub struct Object<'a> {
    out: &'a mut String,
    is_empty: bool,
}

impl<'a> Object<'a> {
    /// Writes `{`.
    pub fn begin(out: &'a mut String) -> Self {
        out.push('{');
        Self {
            out,
            is_empty: true,
        }
    }

    /// A point's value, by the rules that INTERFACE gives numbers.
    pub fn value(&mut self, name: &str, value: &Value) {
        self.name(name);
        write_value(self.out, value);
    }

    /// A string.
    pub fn text(&mut self, name: &str, text: &str) {
        self.name(name);
        write_text(self.out, text);
    }

    /// A string that is printed first.
    pub fn display(&mut self, name: &str, text: &impl fmt::Display) {
        self.name(name);
        self.out.push('"');
        let _ = write!(Escape(self.out), "{text}");
        self.out.push('"');
    }

    /// A number; beyond 2^53 a string.
    pub fn number(&mut self, name: &str, number: u64) {
        self.name(name);
        write_value(self.out, &Value::Uint(number));
    }

    /// How long something took, in milliseconds with up to three decimals.
    pub fn millis(&mut self, name: &str, duration: Duration) {
        let millis = Rounding::Places(3).round(duration.as_secs_f64() * 1000.0);
        self.value(name, &Value::Float(millis));
    }

    /// `true` or `false`.
    pub fn flag(&mut self, name: &str, flag: bool) {
        self.name(name);
        self.out.push_str(if flag { "true" } else { "false" });
    }

    /// `null`.
    pub fn null(&mut self, name: &str) {
        self.name(name);
        self.out.push_str("null");
    }

    /// What is JSON already.
    pub fn raw(&mut self, name: &str, json: &str) {
        self.name(name);
        self.out.push_str(json);
    }

    /// An object in this one, until its own end.
    pub fn object(&mut self, name: &str) -> Object<'_> {
        self.name(name);
        Object::begin(self.out)
    }

    /// Writes `}`.
    pub fn end(self) {
        self.out.push('}');
    }

    fn name(&mut self, name: &str) {
        if !self.is_empty {
            self.out.push(',');
        }
        self.is_empty = false;
        write_text(self.out, name);
        self.out.push(':');
    }
}

/// Writes a value: booleans as such, numbers by the rules, integers beyond 2^53 as strings, for a
/// reader whose numbers are doubles would change them.
pub fn write_value(out: &mut String, value: &Value) {
    let is_beyond = match value {
        Value::Int(value) => value.unsigned_abs() > EXACT_INTEGER_MAX,
        Value::Uint(value) => *value > EXACT_INTEGER_MAX,
        Value::Bool(_) | Value::Float(_) => false,
        Value::Text(text) => return write_text(out, text),
    };
    if is_beyond {
        out.push('"');
    }
    write_bare(out, value);
    if is_beyond {
        out.push('"');
    }
}

/// Writes a value as the bare payload has it, with `false` and `true` for booleans and text as it
/// is.
pub(super) fn write_bare(out: &mut String, value: &Value) {
    let _ = match value {
        Value::Bool(active) => write!(out, "{active}"),
        Value::Int(value) => write!(out, "{value}"),
        Value::Uint(value) => write!(out, "{value}"),
        Value::Float(value) => write_float(out, *value),
        Value::Text(text) => out.write_str(text),
    };
}

/// Writes a string with its quotes.
pub fn write_text(out: &mut String, text: &str) {
    out.push('"');
    let _ = Escape(out).write_str(text);
    out.push('"');
}

/// What is written through it is escaped: quotes, backslashes and control characters, nothing else
/// (RFC 8259, 7).
struct Escape<'a>(&'a mut String);

impl Write for Escape<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut plain = 0;
        for (at, byte) in text.bytes().enumerate() {
            if byte >= b' ' && byte != b'"' && byte != b'\\' {
                continue;
            }
            self.0.push_str(&text[plain..at]);
            plain = at + 1;
            match byte {
                b'"' => self.0.push_str("\\\""),
                b'\\' => self.0.push_str("\\\\"),
                b'\n' => self.0.push_str("\\n"),
                b'\r' => self.0.push_str("\\r"),
                b'\t' => self.0.push_str("\\t"),
                _ => write!(self.0, "\\u{byte:04x}")?,
            }
        }
        self.0.push_str(&text[plain..]);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn json(value: &Value) -> String {
        let mut out = String::new();
        write_value(&mut out, value);
        out
    }

    #[test]
    fn values_are_written_so_that_no_reader_changes_them() {
        for (value, text) in [
            (Value::Bool(true), "true"),
            (Value::Int(-3), "-3"),
            (Value::Int(9_007_199_254_740_992), "9007199254740992"),
            (Value::Int(9_007_199_254_740_993), "\"9007199254740993\""),
            (Value::Int(i64::MIN), "\"-9223372036854775808\""),
            (Value::Uint(u64::MAX), "\"18446744073709551615\""),
            (Value::Float(21.4), "21.4"),
            (Value::Float(-0.0), "0"),
            (Value::Float(1e22), "10000000000000000000000"),
            (
                Value::Text("a \"b\"\\\n\u{1}ü".into()),
                r#""a \"b\"\\\n\u0001ü""#,
            ),
        ] {
            assert_eq!(json(&value), text);
        }
    }

    #[test]
    fn fields_stand_in_the_order_in_which_they_were_written() {
        let mut out = String::new();
        let mut object = Object::begin(&mut out);
        object.value("value", &Value::Float(21.4));
        object.text("unit", "°C");
        object.null("time");
        object.number("seq", 1042);
        object.flag("simulated", true);
        object.raw("raw", "[1]");
        object.display("reason", &"bad_answer: \"x\"");
        object.millis("latency_ms", Duration::from_nanos(12_345_678));
        let mut inner = object.object("inner");
        inner.flag("a", false);
        inner.flag("b", true);
        inner.end();
        object.object("empty").end();
        object.end();
        assert_eq!(
            out,
            concat!(
                r#"{"value":21.4,"unit":"°C","time":null,"seq":1042,"simulated":true,"#,
                r#""raw":[1],"reason":"bad_answer: \"x\"","latency_ms":12.346,"#,
                r#""inner":{"a":false,"b":true},"empty":{}}"#
            )
        );
        let mut out = String::new();
        Object::begin(&mut out).end();
        assert_eq!(out, "{}");
    }

    proptest! {
        #[test]
        fn any_text_reads_back(text in any::<String>()) {
            let mut out = String::new();
            write_text(&mut out, &text);
            prop_assert_eq!(serde_json::from_str::<String>(&out).unwrap(), text);
        }
    }
}
