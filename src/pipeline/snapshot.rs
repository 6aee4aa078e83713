//! What is known of a point at this moment: for `read`, `watch`, the list of devices and the
//! dashboard.

use super::Pipeline;
use super::json::Object;
use super::message::write_time;
use super::settings::PointSettings;
use crate::id::PointId;
use crate::point::{Fault, Quality, Value};
use crate::time::{Duration, Instant, Now, WallTime};

/// What is known of a point.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Snapshot<'a> {
    /// How it is published.
    pub settings: &'a PointSettings,
    /// The last value measured, in the published unit; `None` before there was one. Mind the
    /// quality.
    pub value: Option<&'a Value>,
    /// `None`: nothing has been heard yet.
    pub quality: Option<Quality>,
    /// Why it is not good.
    pub reason: Option<&'a Fault>,
    /// When the value was captured, `None` while the clock is not known.
    pub time: Option<WallTime>,
    /// When the value was captured.
    pub at: Option<Instant>,
    /// Of the last value message; 0 before the first.
    pub seq: u64,
    /// Commands that wait for the device.
    pub pending: usize,
}

impl Snapshot<'_> {
    /// How old the value is.
    pub fn age(&self, now: Now) -> Option<Duration> {
        self.at.map(|at| now.monotonic.since(at))
    }

    /// The snapshot as one JSON object at the end of `out`, in the words of the JSON payload: on a
    /// fault `value` is null and `last` is what was last good. `quality` is null as long as nothing
    /// has been heard. `age_ms` is the value's.
    pub fn write_json(&self, now: Now, out: &mut String) {
        let spec = &self.settings.spec;
        let is_fault = self.quality == Some(Quality::Fault);
        let format = self.settings.time_format;
        let mut object = Object::begin(out);
        match self.value.filter(|_| !is_fault) {
            Some(value) => object.value("value", value),
            None => object.null("value"),
        }
        if !spec.unit.is_empty() {
            object.text("unit", &spec.unit);
        }
        write_time(&mut object, "time", format, self.time.filter(|_| !is_fault));
        match self.quality {
            Some(quality) => object.text("quality", quality.as_str()),
            None => object.null("quality"),
        }
        object.number("seq", self.seq);
        if let Some(reason) = self.reason {
            object.display("reason", reason);
        }
        if let (Some(last), true) = (self.value, is_fault) {
            object.value("last", last);
            write_time(&mut object, "last_time", format, self.time);
        }
        match self.age(now) {
            Some(age) => {
                object.number("age_ms", u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
            }
            None => object.null("age_ms"),
        }
        object.text("topic", &self.settings.topic);
        object.flag("writable", spec.writable);
        if self.settings.simulated {
            object.flag("simulated", true);
        }
        object.end();
    }
}

impl Pipeline {
    /// What is known of a point; `None` if there is no such point.
    pub fn snapshot(&self, point: PointId) -> Option<Snapshot<'_>> {
        let state = self.points.get(point)?;
        let good = state.good();
        let condition = state.condition();
        Some(Snapshot {
            settings: &state.settings,
            value: good.map(|sample| &sample.value),
            quality: condition.map(|condition| condition.quality),
            reason: condition.and_then(|condition| condition.reason.as_ref()),
            time: good.and_then(|sample| sample.wall.or_else(|| self.now.wall_at(sample.at))),
            at: good.map(|sample| sample.at),
            seq: state.seq(),
            pending: state.pending.len(),
        })
    }
}
