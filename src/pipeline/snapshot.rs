//! What is known of a point at this moment, and the one way in which that is written: as the JSON
//! payload of its topic, and in the answers to `read` and `devices`.

use super::Pipeline;
use super::json::Object;
use super::point::{Point, Sample};
use super::settings::{PointSettings, TimeFormat};
use crate::id::PointId;
use crate::point::{Fault, Quality, Value};
use crate::time::{Duration, Instant, Now, WallTime};

/// What is known of a point.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Snapshot<'a> {
    /// How it is published.
    pub settings: &'a PointSettings,
    /// What it is, in the published unit; `None` before anything was measured, and on a fault. Mind
    /// the quality.
    pub value: Option<&'a Value>,
    /// When that was captured, on a fault when the fault was found; `None` while the clock is not
    /// known.
    pub time: Option<WallTime>,
    /// `None`: nothing has been heard yet.
    pub quality: Option<Quality>,
    /// Why it is not good.
    pub reason: Option<&'a Fault>,
    /// On a fault, the last value measured before it, and when that was.
    pub last: Option<(&'a Value, Option<WallTime>)>,
    /// When `value`, else `last`, was captured.
    pub at: Option<Instant>,
    /// Of the last value message; 0 before the first.
    pub seq: u64,
    /// Commands that wait for the device.
    pub pending: usize,
}

impl<'a> Snapshot<'a> {
    pub(super) fn of(now: Now, point: &'a Point) -> Self {
        let wall = |wall: Option<WallTime>, at| wall.or_else(|| now.wall_at(at));
        let condition = point.condition();
        let quality = condition.map(|condition| condition.quality);
        let measured = point.good();
        let known = measured.map(|sample| (&sample.value, wall(sample.wall, sample.at)));
        let (value, last) = match quality {
            Some(Quality::Fault) => (None, known),
            _ => (known.map(|(value, _)| value), None),
        };
        Self {
            settings: &point.settings,
            value,
            time: condition.and_then(|condition| wall(condition.wall, condition.at)),
            quality,
            reason: condition.and_then(|condition| condition.reason.as_ref()),
            last,
            at: measured.map(|sample| sample.at),
            seq: point.seq(),
            pending: point.pending.len(),
        }
    }

    /// An event as it was when it happened, whatever has become of the point since.
    pub(super) fn of_event(now: Now, point: &'a Point, sample: &'a Sample) -> Self {
        Self {
            settings: &point.settings,
            value: Some(&sample.value),
            time: sample.wall.or_else(|| now.wall_at(sample.at)),
            quality: Some(sample.quality),
            reason: sample.doubt.as_ref(),
            last: None,
            at: Some(sample.at),
            seq: point.seq(),
            pending: point.pending.len(),
        }
    }

    /// How old the value is, on a fault the last one.
    pub fn age(&self, now: Now) -> Option<Duration> {
        self.at.map(|at| now.monotonic.since(at))
    }

    /// The fields of the JSON payload: `value` (null on a fault), `unit`, `time`, `quality` (null
    /// before anything was heard), `seq`, `reason`, on a fault `last` and `last_time`, `simulated`.
    pub fn write_state(&self, object: &mut Object<'_>) {
        let settings = self.settings;
        match self.value {
            Some(value) => object.value("value", value),
            None => object.null("value"),
        }
        if !settings.spec.unit.is_empty() {
            object.text("unit", &settings.spec.unit);
        }
        write_time(object, "time", settings.time_format, self.time);
        match self.quality {
            Some(quality) => object.text("quality", quality.as_str()),
            None => object.null("quality"),
        }
        object.number("seq", self.seq);
        if let Some(reason) = self.reason {
            object.display("reason", reason);
        }
        if let Some((value, time)) = self.last {
            object.value("last", value);
            write_time(object, "last_time", settings.time_format, time);
        }
        if settings.simulated {
            object.flag("simulated", true);
        }
    }

    /// What somebody who asks gets besides: `age_ms` (of the value, on a fault of the last one),
    /// `topic`, `writable`.
    pub fn write_details(&self, now: Now, object: &mut Object<'_>) {
        match self.age(now) {
            Some(age) => {
                object.number("age_ms", u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
            }
            None => object.null("age_ms"),
        }
        object.text("topic", &self.settings.topic);
        object.flag("writable", self.settings.spec.writable);
    }
}

impl Pipeline {
    /// What is known of a point; `None` if there is no such point.
    pub fn snapshot(&self, point: PointId) -> Option<Snapshot<'_>> {
        let point = self.points.get(point)?;
        Some(Snapshot::of(self.now, point))
    }
}

/// Writes a time in the configured format, null while the clock is not known.
fn write_time(object: &mut Object<'_>, name: &str, format: TimeFormat, time: Option<WallTime>) {
    match (time, format) {
        (None, _) => object.null(name),
        (Some(time), TimeFormat::Rfc3339) => object.display(name, &time),
        (Some(time), TimeFormat::UnixMillis) => {
            object.value(name, &Value::Int(time.unix_millis()));
        }
        (Some(time), TimeFormat::UnixNanos) => object.value(name, &Value::Int(time.unix_nanos())),
    }
}
