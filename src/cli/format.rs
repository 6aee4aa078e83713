//! What `sub` prints of a message: the payload, the topic with it, or what `-F` says, in
//! mosquitto_sub's language.
//!
//! | sequence | prints |
//! |---|---|
//! | `%t` `%p` `%x` `%X` `%l` | topic; payload as it is, in hex, in HEX; its length in bytes |
//! | `%q` `%r` `%m` | QoS, RETAIN flag, packet identifier (0 with QoS 0) |
//! | `%C` `%D` `%E` `%F` `%P` `%R` `%S` | content type, correlation data, expiry, payload format, user properties, response topic, subscription identifiers |
//! | `%j` `%J` | everything as JSON; the payload as a string, or as the JSON that it is |
//! | `%I` `%U` | local time as ISO 8601, Unix time with nanoseconds |
//! | `@X` `@N` | `strftime`'s `%X` in local time; nanoseconds of the second |
//! | `%%` `@@` `\\` `\0` `\a` `\e` `\n` `\r` `\t` `\v` | that character |
//!
//! Between `%` and the letter may stand `-` (to the left) or `0` (padded with zeros), a width, and
//! for text `.` and a greatest width. A sequence that is not in the table is refused when the
//! options are read.

use std::fmt::Write as _;

use serde::Serialize;

use crate::host::local_time::strftime;
use crate::mqtt::client::ReceivedMessage;
use crate::mqtt::{ProtocolVersion, Publish};
use crate::time::{Instant, WallTime};

use super::Failure;

/// How messages are printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Format {
    pieces: Vec<Piece>,
    /// Without the end of line (`-N`).
    bare: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Literal(Vec<u8>),
    Field(Field, Layout),
    /// One conversion of `strftime`.
    Time(String),
    Nanos,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Topic,
    Payload,
    HexLower,
    HexUpper,
    Length,
    Qos,
    Retain,
    PacketId,
    ContentType,
    CorrelationData,
    Expiry,
    PayloadFormat,
    UserProperties,
    ResponseTopic,
    SubscriptionIdentifiers,
    Json,
    JsonPayload,
    Iso8601,
    UnixTime,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Layout {
    left: bool,
    zeros: bool,
    width: usize,
    width_max: Option<usize>,
}

/// Wider than any line that somebody reads, and too narrow to be a way of filling memory.
const WIDTH_MAX: usize = 10_000;

impl Format {
    /// Payloads alone; with `verbose`, each behind its topic and a space.
    pub(crate) fn plain(verbose: bool) -> Self {
        let field = |field| Piece::Field(field, Layout::default());
        let mut pieces = vec![field(Field::Payload)];
        if verbose {
            let topic = [field(Field::Topic), Piece::Literal(b" ".to_vec())];
            pieces.splice(0..0, topic);
        }
        Self {
            pieces,
            bare: false,
        }
    }

    /// One JSON object a line.
    pub(crate) fn json() -> Self {
        Self {
            pieces: vec![Piece::Field(Field::Json, Layout::default())],
            bare: false,
        }
    }

    /// Reads a `-F`.
    pub(crate) fn parse(text: &str) -> Result<Self, Failure> {
        let mut pieces = Vec::new();
        let mut literal = Vec::new();
        let mut rest = text.chars();
        while let Some(c) = rest.next() {
            let piece = match c {
                '%' => parse_field(&mut rest)?,
                '@' => parse_time(&mut rest)?,
                '\\' => Piece::Literal(vec![parse_escape(&mut rest)?]),
                other => Piece::Literal(other.to_string().into_bytes()),
            };
            match piece {
                Piece::Literal(bytes) => literal.extend(bytes),
                piece => {
                    if !literal.is_empty() {
                        pieces.push(Piece::Literal(std::mem::take(&mut literal)));
                    }
                    pieces.push(piece);
                }
            }
        }
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal));
        }
        Ok(Self {
            pieces,
            bare: false,
        })
    }

    /// Leaves the end of line away.
    #[must_use]
    pub(crate) fn bare(mut self) -> Self {
        self.bare = true;
        self
    }

    /// What to print of a message that has come now. The error says why this one cannot be printed
    /// so.
    pub(crate) fn print(
        &self,
        received: &ReceivedMessage,
        now: Instant,
        wall: WallTime,
    ) -> Result<Vec<u8>, String> {
        let publish = received.message.as_publish(ProtocolVersion::V5, now);
        let mut out = Vec::new();
        for piece in &self.pieces {
            match piece {
                Piece::Literal(bytes) => out.extend_from_slice(bytes),
                Piece::Time(conversion) => {
                    out.extend(strftime(conversion, wall).unwrap_or_default().bytes());
                }
                Piece::Nanos => out.extend(format!("{:09}", nanos(wall)).bytes()),
                Piece::Field(field, layout) => {
                    let value = value_of(*field, received, &publish, wall)?;
                    layout.put(&value, &mut out);
                }
            }
        }
        if !self.bare {
            out.push(b'\n');
        }
        Ok(out)
    }
}

impl Layout {
    fn put(self, value: &[u8], out: &mut Vec<u8>) {
        // A width counts characters where there are any, and bytes in binary data.
        let text = std::str::from_utf8(value).ok();
        let value = match (self.width_max, text) {
            (None, _) => value,
            (Some(max), Some(text)) => match text.char_indices().nth(max) {
                Some((end, _)) => &value[..end],
                None => value,
            },
            (Some(max), None) => &value[..value.len().min(max)],
        };
        let count = std::str::from_utf8(value).map_or(value.len(), |text| text.chars().count());
        let padding = self.width.saturating_sub(count);
        if self.left {
            out.extend_from_slice(value);
            out.extend(std::iter::repeat_n(b' ', padding));
        } else {
            let fill = if self.zeros { b'0' } else { b' ' };
            out.extend(std::iter::repeat_n(fill, padding));
            out.extend_from_slice(value);
        }
    }
}

fn parse_field(rest: &mut std::str::Chars<'_>) -> Result<Piece, Failure> {
    let mut layout = Layout::default();
    let mut has_layout = false;
    let mut next = rest.next();
    while let Some(flag @ ('-' | '0')) = next {
        layout.left |= flag == '-';
        layout.zeros |= flag == '0';
        has_layout = true;
        next = rest.next();
    }
    if let Some(width) = parse_number(&mut next, rest)? {
        layout.width = width;
        has_layout = true;
    }
    let has_max = next == Some('.');
    if has_max {
        next = rest.next();
        layout.width_max = Some(parse_number(&mut next, rest)?.unwrap_or(0));
    }
    let Some(letter) = next else {
        return Err(wrong("it ends within a sequence"));
    };
    let field = match letter {
        '%' if !has_layout && !has_max => return Ok(Piece::Literal(vec![b'%'])),
        't' => Field::Topic,
        'p' => Field::Payload,
        'x' => Field::HexLower,
        'X' => Field::HexUpper,
        'l' => Field::Length,
        'q' => Field::Qos,
        'r' => Field::Retain,
        'm' => Field::PacketId,
        'C' => Field::ContentType,
        'D' => Field::CorrelationData,
        'E' => Field::Expiry,
        'F' => Field::PayloadFormat,
        'P' => Field::UserProperties,
        'R' => Field::ResponseTopic,
        'S' => Field::SubscriptionIdentifiers,
        'j' => Field::Json,
        'J' => Field::JsonPayload,
        'I' => Field::Iso8601,
        'U' => Field::UnixTime,
        'A' => return Err(wrong("%A: topic aliases are not shown by this client")),
        other => return Err(wrong(&format!("there is no %{other}"))),
    };
    if has_max && !field.is_text() {
        return Err(wrong(&format!("%{letter} has no greatest width")));
    }
    layout.zeros &= !field.is_text();
    Ok(Piece::Field(field, layout))
}

/// Digits, of which `next` may be the first; afterwards it is what follows them.
fn parse_number(
    next: &mut Option<char>,
    rest: &mut std::str::Chars<'_>,
) -> Result<Option<usize>, Failure> {
    let mut value = None;
    while let Some(digit) = next.and_then(|c| c.to_digit(10)) {
        let so_far = value.unwrap_or(0) * 10 + digit as usize;
        if so_far > WIDTH_MAX {
            return Err(wrong(&format!("a width is at most {WIDTH_MAX}")));
        }
        value = Some(so_far);
        *next = rest.next();
    }
    Ok(value)
}

impl Field {
    const fn is_text(self) -> bool {
        matches!(
            self,
            Self::Topic
                | Self::Payload
                | Self::ContentType
                | Self::CorrelationData
                | Self::ResponseTopic
                | Self::UserProperties
                | Self::Iso8601
        )
    }
}

fn parse_time(rest: &mut std::str::Chars<'_>) -> Result<Piece, Failure> {
    match rest.next() {
        None => Err(wrong("it ends with @")),
        Some('@') => Ok(Piece::Literal(vec![b'@'])),
        Some('N') => Ok(Piece::Nanos),
        Some(letter) if letter.is_ascii_alphabetic() => Ok(Piece::Time(format!("%{letter}"))),
        Some(other) => Err(wrong(&format!("there is no @{other}"))),
    }
}

fn parse_escape(rest: &mut std::str::Chars<'_>) -> Result<u8, Failure> {
    Ok(match rest.next() {
        None => return Err(wrong("it ends with \\")),
        Some('\\') => b'\\',
        Some('0') => 0,
        Some('a') => 0x07,
        Some('e') => 0x1B,
        Some('n') => b'\n',
        Some('r') => b'\r',
        Some('t') => b'\t',
        Some('v') => 0x0B,
        Some(other) => return Err(wrong(&format!("there is no \\{other}"))),
    })
}

fn wrong(what: &str) -> Failure {
    Failure::usage(format!("-F: {what}"))
}

fn value_of(
    field: Field,
    received: &ReceivedMessage,
    publish: &Publish<'_>,
    wall: WallTime,
) -> Result<Vec<u8>, String> {
    fn number(value: Option<u32>) -> String {
        value.map(|value| value.to_string()).unwrap_or_default()
    }
    fn owned(text: Option<&str>) -> String {
        text.unwrap_or_default().to_owned()
    }
    let properties = &publish.properties;
    let text = match field {
        Field::Payload => return Ok(publish.payload.to_vec()),
        Field::CorrelationData => {
            return Ok(properties.correlation_data.unwrap_or_default().to_vec());
        }
        Field::Topic => publish.topic.to_owned(),
        Field::HexLower => hex(publish.payload, |text, byte| write!(text, "{byte:02x}")),
        Field::HexUpper => hex(publish.payload, |text, byte| write!(text, "{byte:02X}")),
        Field::Length => publish.payload.len().to_string(),
        Field::Qos => publish.qos.to_string(),
        Field::Retain => u8::from(publish.retain).to_string(),
        Field::PacketId => received
            .packet_id
            .map_or(0, super::super::mqtt::basic::PacketId::value)
            .to_string(),
        Field::ContentType => owned(properties.content_type),
        Field::Expiry => number(properties.message_expiry_interval),
        Field::PayloadFormat => number(
            properties
                .payload_format_indicator
                .map(|format| format as u32),
        ),
        Field::UserProperties => {
            let pairs = properties.user_properties.iter();
            let pairs: Vec<_> = pairs
                .map(|(name, value)| format!("{name}:{value}"))
                .collect();
            pairs.join(" ")
        }
        Field::ResponseTopic => owned(
            properties
                .response_topic
                .map(crate::mqtt::TopicName::as_str),
        ),
        Field::SubscriptionIdentifiers => {
            let ids = received.subscription_identifiers.iter();
            let ids: Vec<_> = ids.map(|id| id.value().to_string()).collect();
            ids.join(" ")
        }
        Field::Json => return Ok(json(received, publish, wall, true)),
        Field::JsonPayload => {
            if serde_json::from_slice::<serde::de::IgnoredAny>(publish.payload).is_err() {
                return Err(format!(
                    "the payload of a message on {} is not JSON",
                    publish.topic
                ));
            }
            return Ok(json(received, publish, wall, false));
        }
        Field::Iso8601 => strftime("%Y-%m-%dT%H:%M:%S%z", wall).unwrap_or_default(),
        Field::UnixTime => format!("{}.{:09}", seconds(wall), nanos(wall)),
    };
    Ok(text.into_bytes())
}

fn hex(bytes: &[u8], put: impl Fn(&mut String, u8) -> std::fmt::Result) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for &byte in bytes {
        put(&mut text, byte).expect("a string takes everything");
    }
    text
}

fn seconds(wall: WallTime) -> i64 {
    wall.unix_nanos().div_euclid(1_000_000_000)
}

fn nanos(wall: WallTime) -> i64 {
    wall.unix_nanos().rem_euclid(1_000_000_000)
}

/// In the order in which they are written: scripts that cut lines apart depend on it.
#[derive(Serialize)]
struct JsonMessage<'a> {
    tst: String,
    topic: &'a str,
    qos: u8,
    retain: u8,
    payloadlen: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    mid: Option<u16>,
    #[serde(skip_serializing_if = "JsonProperties::is_empty")]
    properties: JsonProperties<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct JsonProperties<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_format_indicator: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_expiry_interval: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_topic: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_data: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subscription_identifier: Option<OneOrMore>,
    #[serde(skip_serializing_if = "Pairs::is_empty")]
    user_properties: Pairs<'a>,
}

/// Nearly always one.
#[derive(Serialize)]
#[serde(untagged)]
enum OneOrMore {
    One(u32),
    More(Vec<u32>),
}

/// An object with its names in the order in which they came. A name that came twice stands twice,
/// as with mosquitto_sub.
struct Pairs<'a>(crate::mqtt::UserProperties<'a>);

impl Pairs<'_> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Pairs<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter())
    }
}

impl JsonProperties<'_> {
    fn is_empty(&self) -> bool {
        self.payload_format_indicator.is_none()
            && self.message_expiry_interval.is_none()
            && self.content_type.is_none()
            && self.response_topic.is_none()
            && self.correlation_data.is_none()
            && self.subscription_identifier.is_none()
            && self.user_properties.is_empty()
    }
}

fn json(
    received: &ReceivedMessage,
    publish: &Publish<'_>,
    wall: WallTime,
    quoted: bool,
) -> Vec<u8> {
    let lossy = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let zone = strftime("%z", wall).unwrap_or_default();
    let properties = &publish.properties;
    let message = JsonMessage {
        tst: format!(
            "{}.{:06}{zone}",
            strftime("%Y-%m-%dT%H:%M:%S", wall).unwrap_or_default(),
            nanos(wall) / 1000
        ),
        topic: publish.topic,
        qos: publish.qos.bits(),
        retain: u8::from(publish.retain),
        payloadlen: publish.payload.len(),
        mid: received.packet_id.map(crate::mqtt::PacketId::value),
        properties: JsonProperties {
            payload_format_indicator: properties.payload_format_indicator.map(|is| is as u8),
            message_expiry_interval: properties.message_expiry_interval,
            content_type: properties.content_type,
            response_topic: properties
                .response_topic
                .map(crate::mqtt::TopicName::as_str),
            correlation_data: properties.correlation_data.map(lossy),
            subscription_identifier: match &received.subscription_identifiers[..] {
                [] => None,
                [one] => Some(OneOrMore::One(one.value())),
                more => Some(OneOrMore::More(more.iter().map(|id| id.value()).collect())),
            },
            user_properties: Pairs(properties.user_properties),
        },
        payload: quoted.then(|| lossy(publish.payload)),
    };
    let mut text = serde_json::to_vec(&message).expect("strings and numbers are always JSON");
    if !quoted {
        // As it is: parsing it and writing it again would change its numbers.
        text.pop();
        text.extend_from_slice(b",\"payload\":");
        text.extend_from_slice(publish.payload.trim_ascii());
        text.push(b'}');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::Payload;
    use crate::mqtt::message::ApplicationMessage;
    use crate::mqtt::{
        PacketId, PublishProperties, QoS, SubscriptionIdentifier, TopicName, UserPropertiesBuf,
    };

    fn received(payload: &[u8]) -> ReceivedMessage {
        let mut user = UserPropertiesBuf::new();
        assert!(user.push("unit", "°C") && user.push("seq", "7"));
        let properties = PublishProperties {
            message_expiry_interval: Some(60),
            content_type: Some("text/plain"),
            correlation_data: Some(b"\xff1"),
            user_properties: user.as_properties(),
            ..PublishProperties::default()
        };
        let topic = TopicName::new("shed/temperature").unwrap();
        ReceivedMessage {
            message: ApplicationMessage::new(
                topic,
                Payload::copy_from(payload),
                QoS::AtLeastOnce,
                true,
                &properties,
                Instant::default(),
            ),
            ack: None,
            packet_id: PacketId::new(42),
            dup: false,
            subscription_identifiers: vec![SubscriptionIdentifier::new(3).unwrap()],
        }
    }

    fn print(format: &str, payload: &[u8]) -> String {
        let wall = WallTime::from_unix_nanos(1_795_428_000_123_456_789);
        let format = Format::parse(format).unwrap().bare();
        let bytes = format.print(&received(payload), Instant::default(), wall);
        String::from_utf8_lossy(&bytes.unwrap()).into_owned()
    }

    #[test]
    fn every_sequence_prints_what_the_table_says() {
        for (format, wanted) in [
            ("%t=%p", "shed/temperature=21.4"),
            ("%x %X %l", "32312e34 32312E34 4"),
            ("%q%r%m", "1142"),
            ("%C|%E|%F|%R|%S", "text/plain|60|||3"),
            ("%P", "unit:°C seq:7"),
            ("%D", "\u{fffd}1"),
            ("%U @N @s", "1795428000.123456789 123456789 1795428000"),
            ("100%% a@@b", "100% a@b"),
            (r"\\\t\e\0", "\\\t\u{1b}\0"),
            ("", ""),
        ] {
            assert_eq!(print(format, b"21.4"), wanted, "{format}");
        }
    }

    #[test]
    fn widths_pad_and_cut() {
        for (format, wanted) in [
            ("[%6p]", "[  21.4]"),
            ("[%-6p]", "[21.4  ]"),
            ("[%06l]", "[000004]"),
            ("[%4.4t]", "[shed]"),
            ("[%-20.4t]", "[shed                ]"),
            ("[%2t]", "[shed/temperature]"),
        ] {
            assert_eq!(print(format, b"21.4"), wanted, "{format}");
        }
    }

    #[test]
    fn json_escapes_the_payload_or_trusts_it() {
        let text = print("%j", b"say \"hi\"\n");
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["payload"], "say \"hi\"\n");
        assert_eq!(value["mid"], 42);
        assert_eq!(value["properties"]["user-properties"]["seq"], "7");
        assert_eq!(value["properties"]["subscription-identifier"], 3);
        assert!(text.starts_with("{\"tst\":\"2026-11-2"), "{text}");
        assert!(text.contains(".123456"), "{text}");

        let text = print("%J", b" {\"t\":27.0, \"n\":1e400} ");
        assert!(
            text.ends_with(",\"payload\":{\"t\":27.0, \"n\":1e400}}"),
            "{text}"
        );
        let format = Format::parse("%J").unwrap();
        let wall = WallTime::from_unix_millis(0);
        assert!(
            format
                .print(&received(b"{"), Instant::default(), wall)
                .is_err()
        );
    }

    #[test]
    fn what_is_not_in_the_table_is_refused() {
        for format in [
            "%", "%k", "%A", "%5%", "%.3l", "%99999p", "@", "@1", "\\", "\\q", "%-",
        ] {
            assert_eq!(Format::parse(format).unwrap_err().code(), 2, "{format}");
        }
    }

    #[test]
    fn without_a_format_it_is_the_payload() {
        let wall = WallTime::from_unix_millis(0);
        let print = |format: Format| format.print(&received(b"x"), Instant::default(), wall);
        assert_eq!(print(Format::plain(false)).unwrap(), b"x\n");
        assert_eq!(print(Format::plain(true)).unwrap(), b"shed/temperature x\n");
        assert_eq!(
            print(Format::plain(true).bare()).unwrap(),
            b"shed/temperature x"
        );
    }
}
