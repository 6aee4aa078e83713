//! The machine itself as a device: temperature, load, memory, disk, uptime.
//!
//! The kernel's files are read through the bus worker, for a thermal sensor behind a slow bus or a
//! network file system can block. Each figure stands for itself: a machine without a thermal zone
//! has a fault on that point and readings on the others. Formats: `proc(5)`,
//! `Documentation/driver-api/thermal/sysfs-api.rst` and `Documentation/hwmon/sysfs-interface.rst`.

use super::bus::{BusError, BusOp, BusOutcome, BusReply, error_text};
use super::driver::{Completion, Sample, Step};
use super::settings::SystemSettings;
use crate::point::{Fault, FaultKind, Outcome, PointKind, PointSpec, Value};
use crate::time::Instant;

/// The first thermal zone: on every Pi that of the processor.
pub const THERMAL_ZONE: &str = "/sys/class/thermal/thermal_zone0/temp";

/// The most that is read of any file: `/proc/meminfo` has about 1.5 KiB.
pub const FILE_MAX: u32 = 8192;

/// What is measured, in the order of the table.
const FIGURES: [Figure; 5] = [
    Figure::Temperature,
    Figure::Load,
    Figure::Memory,
    Figure::Disk,
    Figure::Uptime,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Figure {
    Temperature,
    Load,
    Memory,
    Disk,
    Uptime,
}

/// The points of a `system` device.
pub(super) fn points() -> Vec<PointSpec> {
    FIGURES.map(Figure::spec).into()
}

/// The driver: one figure after the other.
#[derive(Debug)]
pub(super) struct System {
    temperature: Box<str>,
    disk: Box<str>,
    /// The figure whose answer is awaited.
    at: usize,
    sample: Sample,
}

impl System {
    pub(super) fn new(settings: SystemSettings) -> Self {
        Self {
            temperature: settings.temperature.unwrap_or_else(|| THERMAL_ZONE.into()),
            disk: settings.disk,
            at: 0,
            sample: Sample::new(),
        }
    }

    pub(super) fn reset(&mut self) {
        self.at = 0;
        self.sample.clear();
    }

    pub(super) fn step(&mut self, _now: Instant, completion: &Completion) -> Step {
        match completion {
            Completion::Begin | Completion::Woken => self.reset(),
            Completion::Bus(outcome) => {
                let outcome = match self.understand(outcome) {
                    Ok(value) => Outcome::Good(value),
                    Err(fault) => Outcome::Fault(fault),
                };
                self.sample.push((self.at, outcome));
                self.at += 1;
            }
        }
        match FIGURES.get(self.at) {
            Some(figure) => Step::Transfer(self.ask(*figure)),
            None => Step::Reading(core::mem::take(&mut self.sample)),
        }
    }

    fn ask(&self, figure: Figure) -> BusOp {
        match figure {
            Figure::Disk => BusOp::DiskSpace {
                path: self.disk.clone(),
            },
            _ => BusOp::ReadFile {
                path: self.path_of(figure).into(),
                max: FILE_MAX,
            },
        }
    }

    fn path_of(&self, figure: Figure) -> &str {
        match figure {
            Figure::Temperature => &self.temperature,
            Figure::Load => "/proc/loadavg",
            Figure::Memory => "/proc/meminfo",
            Figure::Disk => &self.disk,
            Figure::Uptime => "/proc/uptime",
        }
    }

    fn understand(&self, outcome: &BusOutcome) -> Result<Value, Fault> {
        let Some(figure) = FIGURES.get(self.at).copied() else {
            return Err(Fault::new(FaultKind::BadAnswer, "an answer to nothing"));
        };
        let path = self.path_of(figure);
        let reply = outcome.as_ref().map_err(|error| match *error {
            BusError::NoAnswer if figure == Figure::Temperature => Fault::new(
                FaultKind::NotMeasured,
                format!("this machine has no {path}"),
            ),
            BusError::NoAnswer => Fault::new(FaultKind::NoAnswer, format!("there is no {path}")),
            BusError::Timeout => Fault::new(
                FaultKind::Timeout,
                format!("{path} could not be read in time"),
            ),
            BusError::Busy => Fault::new(
                FaultKind::Busy,
                format!("{path}: too many reads are waiting"),
            ),
            BusError::Unavailable(number) | BusError::Failed(number) => Fault::new(
                FaultKind::BusError,
                format!("{path} could not be read ({})", error_text(number)),
            ),
        })?;
        let measured = match (reply, figure) {
            (BusReply::DiskSpace { total, available }, Figure::Disk) => {
                used_percent(*total, *available)
            }
            (BusReply::Bytes(bytes), Figure::Temperature) => temperature(bytes),
            (BusReply::Bytes(bytes), Figure::Load) => load(bytes),
            (BusReply::Bytes(bytes), Figure::Memory) => memory_used(bytes),
            (BusReply::Bytes(bytes), Figure::Uptime) => uptime(bytes),
            _ => None,
        };
        let value = measured.ok_or_else(|| {
            let story = format!("{path} does not say what it should");
            Fault::new(FaultKind::BadAnswer, story)
        })?;
        match figure.spec().range {
            Some((low, high)) if !(low..=high).contains(&value) => Err(Fault::new(
                FaultKind::OutOfRange,
                format!("{path} says {value}, which cannot be"),
            )),
            _ => Ok(Value::Float(value)),
        }
    }
}

impl Figure {
    fn spec(self) -> PointSpec {
        let (name, unit, resolution, range) = match self {
            Self::Temperature => ("cpu_temperature", "°C", 0.1, Some((-60.0, 200.0))),
            Self::Load => ("load", "", 0.01, None),
            Self::Memory => ("memory_used", "%", 0.1, Some((0.0, 100.0))),
            Self::Disk => ("disk_used", "%", 0.1, Some((0.0, 100.0))),
            Self::Uptime => ("uptime", "s", 1.0, None),
        };
        PointSpec {
            name: name.into(),
            kind: PointKind::Sampled,
            unit: unit.into(),
            resolution,
            range,
            writable: false,
        }
    }
}

/// Milli-degrees Celsius, as thermal zones and hwmon channels say it.
fn temperature(file: &[u8]) -> Option<f64> {
    let text = core::str::from_utf8(file).ok()?;
    let milli: i32 = text.trim().parse().ok()?;
    Some(f64::from(milli) / 1000.0)
}

/// The first word of `/proc/loadavg`: processes that ran or wanted to, over the last minute.
fn load(file: &[u8]) -> Option<f64> {
    first_number(file)
}

/// The first word of `/proc/uptime`, in seconds.
fn uptime(file: &[u8]) -> Option<f64> {
    first_number(file)
}

/// What cannot be had without swapping, in percent: `MemTotal` without `MemAvailable`.
fn memory_used(file: &[u8]) -> Option<f64> {
    let text = core::str::from_utf8(file).ok()?;
    let kilobytes = |key: &str| -> Option<u64> {
        text.lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?
            .trim()
            .strip_suffix("kB")?
            .trim()
            .parse()
            .ok()
    };
    used_percent(kilobytes("MemTotal")?, kilobytes("MemAvailable")?)
}

/// `None` if the two cannot be of one thing.
fn used_percent(total: u64, available: u64) -> Option<f64> {
    if total == 0 {
        return None;
    }
    let used = total.checked_sub(available)?;
    Some(used as f64 / total as f64 * 100.0)
}

/// A number that is finite and not below zero.
fn first_number(file: &[u8]) -> Option<f64> {
    let text = core::str::from_utf8(file).ok()?;
    let number: f64 = text.split_ascii_whitespace().next()?.parse().ok()?;
    (number.is_finite() && number >= 0.0).then_some(number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn files_as_a_pi_has_them() {
        assert_eq!(temperature(b"48312\n"), Some(48.312));
        assert_eq!(temperature(b"-5000\n"), Some(-5.0));
        assert_eq!(load(b"0.52 0.41 0.30 1/214 12345\n"), Some(0.52));
        assert_eq!(uptime(b"350735.47 1393402.51\n"), Some(350_735.47));
        let meminfo = b"MemTotal:         948304 kB\nMemFree:           90000 kB\n\
                        MemAvailable:     711228 kB\nBuffers:           50000 kB\n";
        assert_eq!(memory_used(meminfo), Some(25.0));
        assert_eq!(used_percent(4000, 1000), Some(75.0));
    }

    #[test]
    fn files_that_say_something_else() {
        for bad in [
            &b""[..],
            b"\n",
            b"hot",
            b"nan",
            b"inf 1 2",
            b"-1 2",
            b"\xff\xfe",
            b"1e999",
            b"99999999999999999999",
        ] {
            assert_eq!(temperature(bad).filter(|_| bad != b"-1 2"), None);
            if bad != b"99999999999999999999" {
                assert_eq!(load(bad), None);
            }
        }
        assert_eq!(memory_used(b"MemTotal: 10 kB\n"), None);
        assert_eq!(memory_used(b"MemTotal: 0 kB\nMemAvailable: 0 kB\n"), None);
        assert_eq!(memory_used(b"MemTotal: 1 kB\nMemAvailable: 2 kB\n"), None);
    }

    proptest! {
        #[test]
        fn any_answers_end_in_a_sample_of_every_point(
            answers in proptest::collection::vec(
                prop_oneof![
                    proptest::collection::vec(any::<u8>(), 0..64)
                        .prop_map(|bytes| Ok(BusReply::Bytes(bytes.into()))),
                    any::<(u64, u64)>().prop_map(|(total, available)| {
                        Ok(BusReply::DiskSpace { total, available })
                    }),
                    Just(Err(BusError::NoAnswer)),
                    any::<i32>().prop_map(|number| Err(BusError::Failed(number))),
                ],
                5,
            )
        ) {
            let mut driver = System::new(SystemSettings { temperature: None, disk: "/".into() });
            let now = Instant::default();
            let mut step = driver.step(now, &Completion::Begin);
            for answer in answers {
                prop_assert!(matches!(step, Step::Transfer(_)));
                step = driver.step(now, &Completion::Bus(answer));
            }
            let Step::Reading(sample) = step else {
                return Err(TestCaseError::fail("no reading"));
            };
            let places: Vec<_> = sample.iter().map(|(place, _)| *place).collect();
            prop_assert_eq!(places, vec![0, 1, 2, 3, 4]);
            for (_, outcome) in &sample {
                if let Outcome::Good(value) = outcome {
                    prop_assert!(value.as_f64().is_some_and(f64::is_finite));
                }
            }
        }
    }
}
