//! Anything at all, in any order: what holds then.

use std::collections::BTreeMap;

use fieldgate::pipeline::settings::{PayloadFormat, PointSettings};
use fieldgate::pipeline::{Command, Ticket, Verb};
use fieldgate::point::{Fault, FaultKind, Outcome, Value};
use fieldgate::time::Duration;
use proptest::prelude::*;

use crate::support::{Bench, button, ms, pairs, point, pump, temperature, text, valve};

/// One thing that happens.
#[derive(Debug, Clone)]
enum Step {
    Reading(u32, Outcome),
    Command(u32, Verb, Vec<u8>, bool),
    /// The n-th write that is open, answered well or badly.
    Written(usize, bool),
    Pass(u64),
    Recovered(u32),
    Update(u32, usize),
    Remove(u32),
    Add(u32, usize),
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        any::<u64>().prop_map(Value::Uint),
        any::<u64>().prop_map(|bits| Value::Float(f64::from_bits(bits))),
        (-50.0..150.0).prop_map(Value::Float),
        ".{0,8}".prop_map(|text| Value::Text(text.into())),
    ]
}

fn outcome() -> impl Strategy<Value = Outcome> {
    let fault = || Fault::new(FaultKind::NoAnswer, "gone");
    prop_oneof![
        4 => value().prop_map(Outcome::Good),
        1 => value().prop_map(move |value| Outcome::Uncertain(value, fault())),
        1 => Just(Outcome::Fault(fault())),
    ]
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(b"on".to_vec()),
        Just(b"toggle".to_vec()),
        Just(b"50".to_vec()),
        Just(br#"{"value":1,"for":"2s","transaction":"t"}"#.to_vec()),
        proptest::collection::vec(any::<u8>(), 0..20),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let slot = 0..3_u32;
    let verb = prop_oneof![Just(Verb::Set), Just(Verb::Get)];
    prop_oneof![
        6 => (slot.clone(), outcome()).prop_map(|(slot, outcome)| Step::Reading(slot, outcome)),
        6 => (slot.clone(), verb, payload(), proptest::bool::weighted(0.1))
            .prop_map(|(slot, verb, payload, retained)| {
                Step::Command(slot, verb, payload, retained)
            }),
        4 => (any::<usize>(), any::<bool>()).prop_map(|(index, well)| Step::Written(index, well)),
        3 => (0..8000_u64).prop_map(Step::Pass),
        1 => slot.clone().prop_map(Step::Recovered),
        1 => (slot.clone(), any::<usize>()).prop_map(|(slot, which)| Step::Update(slot, which)),
        1 => slot.clone().prop_map(Step::Remove),
        1 => (slot, any::<usize>()).prop_map(|(slot, which)| Step::Add(slot, which)),
    ]
}

/// A variety of settings, each slot with topics of its own.
fn settings(slot: u32, which: usize) -> PointSettings {
    let kinds = [temperature(), pump(), valve(), button()];
    let base = kinds[which % kinds.len()].clone();
    let variant = which / kinds.len();
    PointSettings {
        topic: format!("shed/device{slot}/point{}", variant % 2).into(),
        payload: if variant.is_multiple_of(3) {
            PayloadFormat::Json
        } else {
            PayloadFormat::Value
        },
        deadband: if variant.is_multiple_of(5) { 0.5 } else { 0.0 },
        min_interval: (variant.is_multiple_of(2)).then_some(ms(700)),
        max_interval: (variant.is_multiple_of(3)).then_some(ms(2500)),
        stale_after: (variant % 7 < 4).then_some(ms(3000)),
        ..base
    }
}

/// What the bench's outputs must obey, whatever came in.
#[derive(Default)]
struct Rules {
    seqs: BTreeMap<String, u64>,
    tickets: BTreeMap<u64, u32>,
    results: u64,
}

impl Rules {
    fn check(&mut self, bench: &mut Bench) {
        for answer in bench.answers.drain(..) {
            *self.tickets.entry(answer.ticket.0).or_default() += 1;
        }
        for message in bench.said.drain(..) {
            let topic = message.topic();
            let payload = text(&message);
            assert!(payload.is_empty() || !payload.contains("NaN") || payload.contains("bad_"));
            if topic.ends_with("/result") {
                self.results += 1;
                let json: serde_json::Value = serde_json::from_str(payload).expect("JSON");
                let is_ok = json["status"] == "ok";
                assert_eq!(json.get("value").is_some(), is_ok);
                assert_eq!(json.get("error").is_some(), !is_ok);
                assert!(!message.retain());
            } else if topic.ends_with("/quality") {
                assert!(["", "good", "stale", "fault", "uncertain"].contains(&payload));
            } else if topic.ends_with("/reason") {
                assert!(message.retain());
            } else if let Some(seq) = pairs(&message)
                .iter()
                .find_map(|pair| pair.strip_prefix("seq="))
            {
                let seq = seq.parse().expect("a number");
                let last = self.seqs.insert(topic.to_owned(), seq);
                assert!(
                    last.is_none_or(|last| last < seq),
                    "{topic}: {last:?} then {seq}"
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_command_ends_in_exactly_one_result(steps in proptest::collection::vec(step(), 1..80)) {
        let mut bench = Bench::new();
        let mut rules = Rules::default();
        let mut commands = 0;
        let mut ticket = 0;
        for slot in 0..3 {
            bench.pipeline.add_point(bench.now, point(slot), settings(slot, slot as usize + 1));
        }
        for step in steps {
            match step {
                Step::Reading(slot, outcome) => bench.outcome(slot, outcome),
                Step::Command(slot, verb, payload, retained) => {
                    commands += u64::from(bench.pipeline.snapshot(point(slot)).is_some());
                    ticket += 1;
                    let command = Command {
                        retained,
                        ticket: Some(Ticket(ticket)),
                        ..Command::new(verb, &payload)
                    };
                    bench.pipeline.handle_command(bench.now, point(slot), command);
                }
                Step::Written(index, well) => {
                    if !bench.writes.is_empty() {
                        let write = bench.writes.remove(index % bench.writes.len());
                        let outcome = if well {
                            Ok(write.value.clone())
                        } else {
                            Err(Fault::new(FaultKind::BusError, "no"))
                        };
                        bench.written(&write, outcome);
                    }
                }
                Step::Pass(millis) => bench.advance(ms(millis)),
                Step::Recovered(slot) => {
                    bench.pipeline.handle_recovered(bench.now, point(slot));
                }
                Step::Update(slot, which) if bench.pipeline.snapshot(point(slot)).is_some() => {
                    bench.pipeline.update_point(bench.now, point(slot), settings(slot, which));
                }
                Step::Remove(slot) => {
                    bench.pipeline.remove_point(bench.now, point(slot));
                    bench.drain();
                    rules.check(&mut bench);
                    let prefix = format!("shed/device{slot}/");
                    prop_assert!(!bench.retained.keys().any(|topic| topic.starts_with(&prefix)));
                }
                Step::Update(slot, which) | Step::Add(slot, which) => {
                    bench.pipeline.add_point(bench.now, point(slot), settings(slot, which));
                }
            }
            bench.drain();
            rules.check(&mut bench);
        }
        bench.advance(Duration::from_secs(60));
        rules.check(&mut bench);
        prop_assert_eq!(rules.results, commands);
        prop_assert_eq!(rules.tickets.len() as u64, ticket);
        prop_assert!(rules.tickets.values().all(|answers| *answers == 1));
        let stats = *bench.pipeline.stats();
        let ended = stats.commands_ok
            + stats.commands_bad_value
            + stats.commands_refused
            + stats.commands_busy
            + stats.commands_failed
            + stats.commands_timed_out;
        prop_assert_eq!(stats.commands, commands);
        prop_assert_eq!(ended, commands);
    }

    #[test]
    fn a_rate_limited_point_keeps_its_limit_and_ends_at_the_latest_value(
        readings in proptest::collection::vec((0..900_u64, 0..30_u32), 1..60),
        json in any::<bool>(),
    ) {
        let mut bench = Bench::with(PointSettings {
            min_interval: Some(ms(1000)),
            payload: if json { PayloadFormat::Json } else { PayloadFormat::Value },
            ..temperature()
        });
        let mut last = 0.0;
        let mut published_at = Vec::new();
        for (pause, value) in readings {
            let end = bench.now.monotonic + ms(pause);
            while bench.now.monotonic < end {
                let left = end.since(bench.now.monotonic);
                bench.advance(left.min(ms(1)));
                note(&mut bench, &mut published_at);
            }
            last = f64::from(value) / 10.0;
            bench.float(last);
            note(&mut bench, &mut published_at);
        }
        bench.advance(ms(1000));
        let shown = bench.retained["shed/greenhouse/temperature"].clone();
        let shown = if json {
            let json: serde_json::Value = serde_json::from_str(&shown).unwrap();
            json["value"].to_string()
        } else {
            shown
        };
        prop_assert_eq!(shown, last.to_string());
        for pair in published_at.windows(2) {
            prop_assert!(pair[1] - pair[0] >= 1000, "{:?}", published_at);
        }
    }
}

fn note(bench: &mut Bench, published_at: &mut Vec<u64>) {
    if !bench.take_values().is_empty() {
        published_at.push(bench.now.monotonic.as_nanos() / 1_000_000);
    }
}
