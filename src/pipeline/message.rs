//! Messages about a point, as INTERFACE promises them: payload, properties, retain.
//!
//! The texts are made in buffers that are used again, so that a message costs what it keeps and
//! nothing besides.

use core::fmt::Write;

use super::json::{Object, write_bare};
use super::pending::Reply;
use super::point::{Point, Saying};
use super::settings::{PayloadFormat, PointSettings, TimeFormat};
use super::snapshot::Snapshot;
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
            Saying::Event(sample) => {
                let snapshot = Snapshot::of_event(now, point, sample);
                match point.settings.payload {
                    PayloadFormat::Value => self.bare(&snapshot),
                    PayloadFormat::Json => self.object(&snapshot),
                }
                self.finish_value(now, point)
            }
            Saying::Value => {
                match point.settings.payload {
                    // The last good one, and how good it was: a fault since then is said elsewhere.
                    PayloadFormat::Value => {
                        self.bare(&Snapshot::of_event(now, point, point.good()?));
                    }
                    PayloadFormat::Json => {
                        point.condition()?;
                        self.object(&Snapshot::of(now, point));
                    }
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
        object.millis("latency_ms", ending.latency);
        if settings.simulated {
            object.flag("simulated", true);
        }
        object.end();
    }

    /// A value alone, in the point's own words.
    fn bare(&mut self, snapshot: &Snapshot<'_>) {
        let settings = snapshot.settings;
        match snapshot.value {
            Some(Value::Bool(false)) => self.text.push_str(&settings.booleans.0),
            Some(Value::Bool(true)) => self.text.push_str(&settings.booleans.1),
            Some(value) => write_bare(&mut self.text, value),
            None => {}
        }
        self.describe(snapshot);
    }

    fn object(&mut self, snapshot: &Snapshot<'_>) {
        let mut object = Object::begin(&mut self.text);
        snapshot.write_state(&mut object);
        object.end();
        self.describe(snapshot);
    }

    /// The user properties of a value.
    fn describe(&mut self, snapshot: &Snapshot<'_>) {
        let settings = snapshot.settings;
        let unit = Some(&*settings.spec.unit).filter(|unit| !unit.is_empty());
        self.pair("unit", unit);
        self.pair_of_time("time", settings.time_format, snapshot.time);
        self.pair("quality", snapshot.quality.map(Quality::as_str));
        self.scratch.clear();
        let _ = write!(self.scratch, "{}", snapshot.seq);
        self.push_scratch("seq");
        self.pair("simulated", settings.simulated.then_some("true"));
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

fn retained(qos: QoS) -> Envelope<'static> {
    Envelope {
        qos,
        retain: true,
        content_type: Some(TEXT),
        expiry: None,
        correlation_data: None,
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
