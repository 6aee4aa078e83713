//! Messages about a point, as INTERFACE promises them: payload, properties, retain.
//!
//! The texts are made in buffers that are used again, so that a message costs what it keeps and
//! nothing besides.

use core::fmt::Write;

use super::json::{Object, write_bare};
use super::number::Rounding;
use super::pending::Reply;
use super::point::{Point, Sample, Saying};
use super::settings::{PayloadFormat, PointSettings, TimeFormat};
use crate::buffer::Payload;
use crate::mqtt::{self, ApplicationMessage, PublishProperties, QoS, TopicName, UserPropertiesBuf};
use crate::point::{Fault, Quality, Value};
use crate::time::{Duration, Now, WallTime};

/// The longest reason that is published, in bytes; drivers write shorter ones, but a device's own
/// words may be in them.
const REASON_MAX: usize = 1024;

const TEXT: &str = "text/plain";
const JSON: &str = "application/json";

/// Writes messages, and keeps the buffers for it.
#[derive(Debug, Default)]
pub(super) struct Writer {
    topic: String,
    text: String,
    /// Of one property.
    scratch: String,
    user: UserPropertiesBuf,
}

/// What there is to say about a command that has ended.
#[derive(Debug)]
pub(super) struct Ending<'a> {
    pub(super) outcome: Result<&'a Value, &'a Fault>,
    pub(super) latency: Duration,
}

/// What a message is besides its text.
struct Envelope<'a> {
    qos: QoS,
    retain: bool,
    content_type: Option<&'static str>,
    expiry: Option<Duration>,
    correlation_data: Option<&'a [u8]>,
}

impl Writer {
    /// What a point has to say. `None` if its topic is none, which the configuration prevents.
    pub(super) fn saying(
        &mut self,
        now: Now,
        point: &Point,
        saying: &Saying,
    ) -> Option<ApplicationMessage> {
        self.start(&point.settings.topic, "");
        match saying {
            Saying::Event(sample, seq) => {
                self.event(now, &point.settings, sample, *seq);
                self.finish_value(now, point)
            }
            Saying::Value(seq) => {
                match point.settings.payload {
                    PayloadFormat::Value => {
                        let sample = point.good()?;
                        self.bare(now, &point.settings, sample, *seq);
                    }
                    PayloadFormat::Json => self.state(now, point, *seq)?,
                }
                self.finish_value(now, point)
            }
            Saying::Quality(quality) => {
                self.topic.push_str("/quality");
                self.text.push_str(quality.as_str());
                self.finish(now, &retained(point.settings.qos))
            }
            Saying::Reason(reason) => {
                self.topic.push_str("/reason");
                if let Some(reason) = reason {
                    let _ = write!(self.text, "{reason}");
                    truncate(&mut self.text, REASON_MAX);
                }
                self.finish(now, &retained(point.settings.qos))
            }
        }
    }

    /// An empty retained message, which clears `topic` and what lies `below` it.
    pub(super) fn clear(
        &mut self,
        now: Now,
        topic: &str,
        below: &str,
        qos: QoS,
    ) -> Option<ApplicationMessage> {
        self.start(topic, below);
        self.finish(now, &retained(qos))
    }

    /// A word under a retained topic of its own.
    pub(super) fn word(
        &mut self,
        now: Now,
        topic: &str,
        word: &str,
        qos: QoS,
    ) -> Option<ApplicationMessage> {
        self.start(topic, "");
        self.text.push_str(word);
        self.finish(now, &retained(qos))
    }

    /// The result of a command: on the point's own topic, and on the one that its sender asked for.
    pub(super) fn results(
        &mut self,
        now: Now,
        settings: &PointSettings,
        reply: &Reply,
        ending: &Ending<'_>,
    ) -> [Option<ApplicationMessage>; 2] {
        self.start(&settings.topic, "/result");
        self.write_result(settings, reply, ending);
        self.pair("simulated", settings.simulated.then_some("true"));
        let envelope = Envelope {
            qos: settings.qos,
            retain: false,
            content_type: Some(JSON),
            expiry: None,
            correlation_data: reply.correlation_data.as_deref(),
        };
        let own = self.finish(now, &envelope);
        let asked_for = reply.response_topic.as_deref().and_then(|topic| {
            self.topic.clear();
            self.topic.push_str(topic);
            self.finish(now, &envelope)
        });
        [own, asked_for]
    }

    fn write_result(&mut self, settings: &PointSettings, reply: &Reply, ending: &Ending<'_>) {
        let millis = ending.latency.as_secs_f64() * 1000.0;
        let mut object = Object::begin(&mut self.text);
        match ending.outcome {
            Ok(value) => {
                object.text("status", "ok");
                object.value("value", value);
            }
            Err(fault) => {
                object.text("status", "error");
                object.display("error", fault);
            }
        }
        if let Some(transaction) = &reply.transaction {
            object.raw("transaction", transaction);
        }
        let latency = Value::Float(Rounding::Places(3).round(millis));
        object.value("latency_ms", &latency);
        if settings.simulated {
            object.flag("simulated", true);
        }
        object.end();
    }

    fn event(&mut self, now: Now, settings: &PointSettings, sample: &Sample, seq: u64) {
        if settings.payload == PayloadFormat::Value {
            return self.bare(now, settings, sample, seq);
        }
        let said = Said {
            value: Some(&sample.value),
            time: sample.wall.or_else(|| now.wall_at(sample.at)),
            quality: sample.quality,
            reason: sample.doubt.as_ref(),
            last: None,
            seq,
        };
        self.object(settings, &said);
        self.describe(settings, said.time, said.quality, seq);
    }

    fn bare(&mut self, now: Now, settings: &PointSettings, sample: &Sample, seq: u64) {
        match &sample.value {
            Value::Bool(false) => self.text.push_str(&settings.booleans.0),
            Value::Bool(true) => self.text.push_str(&settings.booleans.1),
            value => write_bare(&mut self.text, value),
        }
        let time = sample.wall.or_else(|| now.wall_at(sample.at));
        self.describe(settings, time, sample.quality, seq);
    }

    /// The present state as JSON.
    fn state(&mut self, now: Now, point: &Point, seq: u64) -> Option<()> {
        let condition = point.condition()?;
        let time_of = |wall: Option<WallTime>, at| wall.or_else(|| now.wall_at(at));
        let good = point.good();
        let last = good.map(|sample| (&sample.value, time_of(sample.wall, sample.at)));
        let is_fault = condition.quality == Quality::Fault;
        let said = Said {
            value: if is_fault {
                None
            } else {
                last.map(|(value, _)| value)
            },
            time: time_of(condition.wall, condition.at),
            quality: condition.quality,
            reason: condition.reason.as_ref(),
            last: if is_fault { last } else { None },
            seq,
        };
        self.object(&point.settings, &said);
        self.describe(&point.settings, said.time, said.quality, seq);
        Some(())
    }

    fn object(&mut self, settings: &PointSettings, said: &Said<'_>) {
        let mut object = Object::begin(&mut self.text);
        match said.value {
            Some(value) => object.value("value", value),
            None => object.null("value"),
        }
        if !settings.spec.unit.is_empty() {
            object.text("unit", &settings.spec.unit);
        }
        write_time(&mut object, "time", settings.time_format, said.time);
        object.text("quality", said.quality.as_str());
        object.number("seq", said.seq);
        if let Some(reason) = said.reason {
            object.display("reason", reason);
        }
        if let Some((value, time)) = said.last {
            object.value("last", value);
            write_time(&mut object, "last_time", settings.time_format, time);
        }
        if settings.simulated {
            object.flag("simulated", true);
        }
        object.end();
    }

    /// The user properties of a value.
    fn describe(
        &mut self,
        settings: &PointSettings,
        time: Option<WallTime>,
        quality: Quality,
        seq: u64,
    ) {
        let simulated = settings.simulated.then_some("true");
        let unit = Some(&*settings.spec.unit).filter(|unit| !unit.is_empty());
        self.pair("unit", unit);
        self.pair_of_time("time", settings.time_format, time);
        self.pair("quality", Some(quality.as_str()));
        self.scratch.clear();
        let _ = write!(self.scratch, "{seq}");
        self.push_scratch("seq");
        self.pair("simulated", simulated);
    }

    fn pair_of_time(&mut self, name: &str, format: TimeFormat, time: Option<WallTime>) {
        let Some(time) = time else { return };
        self.scratch.clear();
        let _ = match format {
            TimeFormat::Rfc3339 => write!(self.scratch, "{time}"),
            TimeFormat::UnixMillis => write!(self.scratch, "{}", time.unix_millis()),
            TimeFormat::UnixNanos => write!(self.scratch, "{}", time.unix_nanos()),
        };
        self.push_scratch(name);
    }

    fn push_scratch(&mut self, name: &str) {
        let _ = self.user.push(name, &self.scratch);
    }

    fn pair(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            // What MQTT cannot carry (a NUL in a unit) is left out: it stands in the payload, or is
            // worth nothing.
            let _ = self.user.push(name, value);
        }
    }

    fn start(&mut self, topic: &str, below: &str) {
        self.topic.clear();
        self.topic.push_str(topic);
        self.topic.push_str(below);
        self.text.clear();
        self.user.clear();
    }

    fn finish_value(&mut self, now: Now, point: &Point) -> Option<ApplicationMessage> {
        let settings = &point.settings;
        let content_type = match settings.payload {
            PayloadFormat::Value => TEXT,
            PayloadFormat::Json => JSON,
        };
        self.finish(
            now,
            &Envelope {
                qos: settings.qos,
                retain: settings.retain,
                content_type: Some(content_type),
                expiry: settings.expiry,
                correlation_data: None,
            },
        )
    }

    fn finish(&mut self, now: Now, envelope: &Envelope<'_>) -> Option<ApplicationMessage> {
        let topic = TopicName::new(&self.topic).ok()?;
        let is_empty = self.text.is_empty();
        let properties = PublishProperties {
            payload_format_indicator: (!is_empty).then_some(mqtt::PayloadFormat::Utf8),
            message_expiry_interval: envelope.expiry.map(whole_seconds),
            correlation_data: envelope.correlation_data,
            content_type: envelope.content_type.filter(|_| !is_empty),
            user_properties: self.user.as_properties(),
            ..PublishProperties::default()
        };
        Some(ApplicationMessage::new(
            topic,
            Payload::copy_from(self.text.as_bytes()),
            envelope.qos,
            envelope.retain,
            &properties,
            now.monotonic,
        ))
    }
}

/// What a JSON payload says.
struct Said<'a> {
    value: Option<&'a Value>,
    time: Option<WallTime>,
    quality: Quality,
    reason: Option<&'a Fault>,
    last: Option<(&'a Value, Option<WallTime>)>,
    seq: u64,
}

fn retained(qos: QoS) -> Envelope<'static> {
    Envelope {
        qos,
        retain: true,
        content_type: Some(TEXT),
        expiry: None,
        correlation_data: None,
    }
}

/// Writes a time in the configured format, null while the clock is not known.
pub(super) fn write_time(
    object: &mut Object<'_>,
    name: &str,
    format: TimeFormat,
    time: Option<WallTime>,
) {
    match (time, format) {
        (None, _) => object.null(name),
        (Some(time), TimeFormat::Rfc3339) => object.display(name, &time),
        (Some(time), TimeFormat::UnixMillis) => {
            object.value(name, &Value::Int(time.unix_millis()));
        }
        (Some(time), TimeFormat::UnixNanos) => object.value(name, &Value::Int(time.unix_nanos())),
    }
}

/// Rounded up: a message must not die before its time, and 0 would be dead at birth.
fn whole_seconds(duration: Duration) -> u32 {
    let seconds = duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
    u32::try_from(seconds).unwrap_or(u32::MAX).max(1)
}

fn truncate(text: &mut String, len_max: usize) {
    if text.len() > len_max {
        let end = (0..=len_max).rev().find(|at| text.is_char_boundary(*at));
        text.truncate(end.unwrap_or(0));
        text.push('…');
    }
}
