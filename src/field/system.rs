//! The machine itself as a device: temperature, load, memory, disk, uptime.
//!
//! The kernel's files are read through the bus worker, for a thermal sensor behind a slow bus or a
//! network file system can block. All figures are asked for in one transfer; only while one of them
//! is not answered in time they are asked for one by one, so that it alone is missing. Each figure
//! stands for itself: a machine without a thermal zone has a fault on that point and readings on
//! the others. Formats: `proc(5)`, `Documentation/driver-api/thermal/sysfs-api.rst` and
//! `Documentation/hwmon/sysfs-interface.rst`.

use core::ops::Range;

use super::bus::{BusError, BusOp, BusOutcome, BusReply, Fact, Question, error_text};
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

/// The driver.
#[derive(Debug)]
pub(super) struct System {
    /// In the order of the table.
    questions: [Question; FIGURES.len()],
    /// The figures whose answer is awaited.
    asked: Range<usize>,
    /// A figure was not answered in time, and the others must not wait for it.
    one_by_one: bool,
    sample: Sample,
}

impl System {
    pub(super) fn new(settings: SystemSettings) -> Self {
        let file = |path: Box<str>| Question::File {
            path,
            max: FILE_MAX,
        };
        let SystemSettings { temperature, disk } = settings;
        let temperature = temperature.unwrap_or_else(|| THERMAL_ZONE.into());
        Self {
            questions: [
                file(temperature),
                file("/proc/loadavg".into()),
                file("/proc/meminfo".into()),
                Question::DiskSpace { path: disk },
                Question::Uptime,
            ],
            asked: 0..0,
            one_by_one: false,
            sample: Sample::new(),
        }
    }

    /// What is slow is still slow: that it was is not forgotten.
    pub(super) fn reset(&mut self) {
        self.asked = 0..0;
        self.sample.clear();
    }

    pub(super) fn step(&mut self, _now: Instant, completion: &Completion) -> Step {
        match completion {
            Completion::Begin | Completion::Woken => self.reset(),
            Completion::Bus(Err(BusError::Timeout)) if self.asked.len() > 1 => {
                self.one_by_one = true;
                self.reset();
            }
            Completion::Bus(outcome) => {
                for index in self.asked.clone() {
                    let outcome = match self.understand(index, outcome) {
                        Ok(value) => Outcome::Good(value),
                        Err(fault) => Outcome::Fault(fault),
                    };
                    self.sample.push((index, outcome));
                }
            }
        }
        let next = self.asked.end;
        if next < FIGURES.len() {
            return Step::Transfer(self.ask(next));
        }
        let was_slow = |outcome: &Outcome| match outcome {
            Outcome::Fault(fault) => fault.kind == FaultKind::Timeout,
            _ => false,
        };
        self.one_by_one = self.sample.iter().any(|(_, outcome)| was_slow(outcome));
        Step::Reading(core::mem::take(&mut self.sample))
    }

    fn ask(&mut self, next: usize) -> BusOp {
        self.asked = if self.one_by_one {
            next..next + 1
        } else {
            0..FIGURES.len()
        };
        BusOp::Machine(self.questions[self.asked.clone()].into())
    }

    fn path_of(&self, index: usize) -> &str {
        match &self.questions[index] {
            Question::File { path, .. } | Question::DiskSpace { path } => path,
            Question::Uptime => "the clock that runs from the start",
        }
    }

    /// What the answer to what was asked says of one figure.
    fn understand(&self, index: usize, outcome: &BusOutcome) -> Result<Value, Fault> {
        let figure = FIGURES[index];
        let path = self.path_of(index);
        let fact = match outcome {
            Ok(BusReply::Machine(facts)) => match facts.get(index - self.asked.start) {
                Some(fact) => fact.as_ref().map_err(|error| *error),
                None => return Err(nonsense(path)),
            },
            Ok(BusReply::Bytes(_)) => return Err(nonsense(path)),
            Err(error) => Err(*error),
        };
        let fact = fact.map_err(|error| match error {
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
        let measured = match (fact, figure) {
            (Fact::DiskSpace { total, available }, Figure::Disk) => {
                used_percent(*total, *available)
            }
            (Fact::File(bytes), Figure::Temperature) => temperature(bytes),
            (Fact::File(bytes), Figure::Load) => load(bytes),
            (Fact::File(bytes), Figure::Memory) => memory_used(bytes),
            (Fact::Uptime(since), Figure::Uptime) => Some(since.as_nanos() as f64 / 1e9),
            _ => None,
        };
        let value = measured.ok_or_else(|| nonsense(path))?;
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

fn nonsense(path: &str) -> Fault {
    let story = format!("{path} does not say what it should");
    Fault::new(FaultKind::BadAnswer, story)
}

/// Milli-degrees Celsius, as thermal zones and hwmon channels say it.
fn temperature(file: &[u8]) -> Option<f64> {
    let text = core::str::from_utf8(file).ok()?;
    let milli: i32 = text.trim().parse().ok()?;
    Some(f64::from(milli) / 1000.0)
}

/// The first word of `/proc/loadavg`: processes that ran or wanted to, over the last minute.
fn load(file: &[u8]) -> Option<f64> {
    let text = core::str::from_utf8(file).ok()?;
    let number: f64 = text.split_ascii_whitespace().next()?.parse().ok()?;
    (number.is_finite() && number >= 0.0).then_some(number)
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::time::Duration;

    #[test]
    fn files_as_a_pi_has_them() {
        assert_eq!(temperature(b"48312\n"), Some(48.312));
        assert_eq!(temperature(b"-5000\n"), Some(-5.0));
        assert_eq!(load(b"0.52 0.41 0.30 1/214 12345\n"), Some(0.52));
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

    fn machine() -> System {
        System::new(SystemSettings {
            temperature: None,
            disk: "/".into(),
        })
    }

    /// What a machine says that has everything.
    fn facts() -> Vec<Result<Fact, BusError>> {
        let file = |text: &str| Ok(Fact::File(text.as_bytes().into()));
        vec![
            file("48312\n"),
            file("0.52 0.41 0.30 1/214 12345\n"),
            file("MemTotal: 948304 kB\nMemAvailable: 711228 kB\n"),
            Ok(Fact::DiskSpace {
                total: 4000,
                available: 1000,
            }),
            Ok(Fact::Uptime(Duration::from_millis(350_735_470))),
        ]
    }

    /// The questions of a step, which must be a transfer.
    fn asked(step: &Step) -> &[Question] {
        match step {
            Step::Transfer(BusOp::Machine(questions)) => questions,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn one_transfer_asks_for_all_figures() {
        let mut driver = machine();
        for _ in 0..3 {
            let step = driver.step(Instant::default(), &Completion::Begin);
            assert_eq!(asked(&step).len(), FIGURES.len());
            let answer = Completion::Bus(Ok(BusReply::Machine(facts())));
            let Step::Reading(sample) = driver.step(Instant::default(), &answer) else {
                panic!("no reading");
            };
            let values: Vec<_> = sample
                .iter()
                .map(|(_, outcome)| match outcome {
                    Outcome::Good(Value::Float(value)) => *value,
                    other => panic!("{other:?}"),
                })
                .collect();
            assert_eq!(values, [48.312, 0.52, 25.0, 75.0, 350_735.47]);
        }
    }

    #[test]
    fn a_figure_that_is_slow_is_the_only_one_that_is_missing() {
        let slow = 3;
        let now = Instant::default();
        let late = Completion::Bus(Err(BusError::Timeout));
        let mut driver = machine();
        driver.step(now, &Completion::Begin);
        // All are late for the sake of one: so each is asked for by itself, here and the next time.
        let mut step = driver.step(now, &late);
        for _ in 0..2 {
            for (index, fact) in facts().into_iter().enumerate() {
                assert_eq!(asked(&step).len(), 1, "figure {index}");
                let answer = Completion::Bus(Ok(BusReply::Machine(vec![fact])));
                step = driver.step(now, if index == slow { &late } else { &answer });
            }
            let Step::Reading(sample) = &step else {
                panic!("no reading");
            };
            for (index, outcome) in sample {
                let is_good = matches!(outcome, Outcome::Good(_));
                assert_eq!(is_good, *index != slow, "{outcome:?}");
            }
            step = driver.step(now, &Completion::Begin);
        }
        // It answers again: they are asked for together.
        for fact in facts() {
            step = driver.step(now, &Completion::Bus(Ok(BusReply::Machine(vec![fact]))));
        }
        assert!(matches!(step, Step::Reading(_)));
        let step = driver.step(now, &Completion::Begin);
        assert_eq!(asked(&step).len(), FIGURES.len());
    }

    /// Any fact, and any error.
    fn any_fact() -> impl Strategy<Value = Result<Fact, BusError>> {
        prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..64)
                .prop_map(|bytes| Ok(Fact::File(bytes.into()))),
            any::<(u64, u64)>()
                .prop_map(|(total, available)| Ok(Fact::DiskSpace { total, available })),
            Just(Err(BusError::NoAnswer)),
            Just(Err(BusError::Timeout)),
            any::<i32>().prop_map(|number| Err(BusError::Failed(number))),
        ]
    }

    proptest! {
        #[test]
        fn any_answers_end_in_a_sample_of_every_point(
            answers in proptest::collection::vec(
                prop_oneof![
                    proptest::collection::vec(any_fact(), 0..8)
                        .prop_map(|facts| Ok(BusReply::Machine(facts))),
                    Just(Ok(BusReply::Bytes(b"1"[..].into()))),
                    Just(Err(BusError::NoAnswer)),
                    Just(Err(BusError::Timeout)),
                ],
                12,
            )
        ) {
            let mut driver = machine();
            let now = Instant::default();
            let mut step = driver.step(now, &Completion::Begin);
            // At most once all of them together, and then each by itself.
            for answer in answers {
                let Step::Transfer(_) = step else {
                    break;
                };
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
