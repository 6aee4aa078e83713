//! A pipeline on the bench: virtual time, everything it says written down, and what a broker would
//! retain of it.

use std::collections::BTreeMap;

use fieldgate::id::{DeviceId, PointId};
use fieldgate::mqtt::{ApplicationMessage, QoS};
use fieldgate::pipeline::settings::{PayloadFormat, PointSettings, TimeFormat, ValueType};
use fieldgate::pipeline::{Answer, Command, Output, Pipeline, Verb};
use fieldgate::point::{
    Fault, FaultKind, Outcome, PointKind, PointSpec, PointWrite, Reading, Value, Written,
};
use fieldgate::slab::Key;
use fieldgate::time::{Duration, Instant, Now, WallTime};

/// 2026-11-23T10:00:00Z, when the bench's monotonic clock is at 0.
pub const START: WallTime = WallTime::from_unix_millis(1_795_428_000_000);

/// The pipeline and its surroundings.
pub struct Bench {
    pub pipeline: Pipeline,
    pub now: Now,
    /// What a broker has retained, by topic.
    pub retained: BTreeMap<String, String>,
    /// Undrawn by the test: everything said, in order.
    pub said: Vec<ApplicationMessage>,
    pub writes: Vec<PointWrite>,
    pub samples: Vec<PointId>,
    pub answers: Vec<Answer>,
}

pub fn point(slot: u32) -> PointId {
    PointId::from_parts(slot, 0)
}

pub fn device(slot: u32) -> DeviceId {
    DeviceId::from_parts(slot, 0)
}

pub fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A temperature, sampled.
pub fn temperature() -> PointSettings {
    PointSettings {
        spec: PointSpec {
            name: "temperature".into(),
            kind: PointKind::Sampled,
            unit: "°C".into(),
            resolution: 0.1,
            range: Some((-40.0, 85.0)),
            writable: false,
        },
        value_type: ValueType::Number,
        topic: "shed/greenhouse/temperature".into(),
        qos: QoS::AtLeastOnce,
        retain: true,
        payload: PayloadFormat::Value,
        time_format: TimeFormat::Rfc3339,
        booleans: ("false".into(), "true".into()),
        scale: 1.0,
        offset: 0.0,
        precision: None,
        deadband: 0.0,
        min_interval: None,
        max_interval: None,
        stale_after: None,
        expiry: None,
        accept_retained: false,
        simulated: false,
    }
}

/// A switch that can be written.
pub fn pump() -> PointSettings {
    let base = temperature();
    PointSettings {
        spec: PointSpec {
            name: "running".into(),
            kind: PointKind::State,
            unit: "".into(),
            resolution: 0.0,
            range: None,
            writable: true,
        },
        value_type: ValueType::Bool,
        topic: "shed/pump/running".into(),
        ..base
    }
}

/// A level that can be written, in percent of a register of 0 to 1000.
pub fn valve() -> PointSettings {
    let base = pump();
    PointSettings {
        spec: PointSpec {
            name: "position".into(),
            unit: "%".into(),
            resolution: 0.1,
            range: Some((0.0, 100.0)),
            ..base.spec
        },
        value_type: ValueType::Number,
        topic: "shed/valve/position".into(),
        scale: 0.1,
        ..base
    }
}

/// A button.
pub fn button() -> PointSettings {
    let base = pump();
    PointSettings {
        spec: PointSpec {
            name: "pressed".into(),
            kind: PointKind::Event,
            writable: false,
            ..base.spec
        },
        topic: "shed/panel/pressed".into(),
        retain: false,
        ..base
    }
}

impl Bench {
    pub fn new() -> Self {
        let mut pipeline = Pipeline::new();
        pipeline.set_base_topic("shed");
        Self {
            pipeline,
            now: Now {
                monotonic: Instant::from_nanos(0),
                wall: START,
            },
            retained: BTreeMap::new(),
            said: Vec::new(),
            writes: Vec::new(),
            samples: Vec::new(),
            answers: Vec::new(),
        }
    }

    /// One point, in slot 0.
    pub fn with(settings: PointSettings) -> Self {
        let mut bench = Self::new();
        bench.pipeline.add_point(bench.now, point(0), settings);
        bench.drain();
        bench
    }

    /// Moves time on, firing every deadline on the way at its own moment.
    pub fn advance(&mut self, by: Duration) {
        let end = self.now.monotonic + by;
        while let Some(at) = self.pipeline.poll_timeout().filter(|at| *at <= end) {
            self.set_time(at);
            self.pipeline.handle_timeout(self.now);
            let next = self.pipeline.poll_timeout();
            assert!(next.is_none_or(|next| next > at), "time strictly advances");
            self.drain();
        }
        self.set_time(end);
    }

    fn set_time(&mut self, to: Instant) {
        let passed = to.since(self.now.monotonic);
        self.now.monotonic = to;
        self.now.wall = self.now.wall.saturating_add(passed);
    }

    pub fn outcome(&mut self, slot: u32, outcome: Outcome) {
        let reading = Reading {
            point: point(slot),
            at: self.now.monotonic,
            outcome,
        };
        self.pipeline.handle_reading(self.now, reading);
        self.drain();
    }

    pub fn good(&mut self, value: Value) {
        self.outcome(0, Outcome::Good(value));
    }

    pub fn float(&mut self, value: f64) {
        self.good(Value::Float(value));
    }

    pub fn fault(&mut self, kind: FaultKind, detail: &str) {
        self.outcome(0, Outcome::Fault(Fault::new(kind, detail)));
    }

    pub fn set(&mut self, payload: &str) {
        self.command(Command::new(Verb::Set, payload.as_bytes()));
    }

    pub fn command(&mut self, command: Command<'_>) {
        self.pipeline.handle_command(self.now, point(0), command);
        self.drain();
    }

    /// Answers the oldest write that has not been answered.
    pub fn carry_out(&mut self) {
        let write = self.writes.remove(0);
        self.written(&write, Ok(write.value.clone()));
    }

    pub fn written(&mut self, write: &PointWrite, outcome: Result<Value, Fault>) {
        let written = Written {
            point: write.point,
            request: write.request,
            outcome,
        };
        self.pipeline.handle_written(self.now, written);
        self.drain();
    }

    /// Takes whatever the pipeline wants, as the gateway does in every turn.
    pub fn drain(&mut self) {
        while let Some(output) = self.pipeline.poll_output() {
            match output {
                Output::Publish(message) => {
                    if message.retain() {
                        let topic = message.topic().to_owned();
                        match text(&message) {
                            "" => self.retained.remove(&topic),
                            text => self.retained.insert(topic, text.to_owned()),
                        };
                    }
                    self.said.push(message);
                }
                Output::Write(write) => self.writes.push(write),
                Output::Sample(point) => self.samples.push(point),
                Output::Answer(answer) => self.answers.push(answer),
            }
        }
    }

    /// What was said since the last time, as `topic payload`, under the point's last level.
    pub fn take(&mut self) -> Vec<String> {
        let said = std::mem::take(&mut self.said);
        said.iter()
            .map(|message| format!("{} {}", short(message.topic()), text(message)))
            .collect()
    }

    /// The payloads on the value topic since the last time; what else was said is dropped.
    pub fn take_values(&mut self) -> Vec<String> {
        let is_side = |topic: &str| {
            ["/quality", "/reason", "/result"]
                .iter()
                .any(|end| topic.ends_with(end))
        };
        let said = std::mem::take(&mut self.said);
        said.iter()
            .filter(|message| !is_side(message.topic()))
            .map(|message| text(message).to_owned())
            .collect()
    }

    /// Results since the last time, without their latency; what else was said is dropped.
    pub fn take_results(&mut self) -> Vec<String> {
        let said = std::mem::take(&mut self.said);
        said.iter()
            .filter(|message| message.topic().ends_with("/result"))
            .map(|message| {
                let (head, tail) = text(message)
                    .split_once(",\"latency_ms\":")
                    .expect("every result has a latency");
                let rest = tail.trim_start_matches(|byte: char| "0123456789.".contains(byte));
                format!("{head}{rest}")
            })
            .collect()
    }
}

pub fn text(message: &ApplicationMessage) -> &str {
    std::str::from_utf8(message.payload()).expect("what we say is text")
}

/// The user properties of a message, as `name=value`.
pub fn pairs(message: &ApplicationMessage) -> Vec<String> {
    let pairs = message.properties().user_properties;
    pairs
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect()
}

/// `shed/pump/running/result` as `running/result`.
fn short(topic: &str) -> &str {
    topic.splitn(3, '/').nth(2).unwrap_or(topic)
}
