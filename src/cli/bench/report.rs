//! A run's outcome, for people and for programs.

use serde_json::{Value, json};

use super::load::{Outcome, Plan, Workload};
use crate::cli::output;

/// What is being measured, in a line.
pub(super) fn title(plan: &Plan) -> String {
    let who = match plan.workload {
        Workload::FanIn => format!("{} publishers to 1 subscriber", plan.clients),
        Workload::FanOut => format!("1 publisher to {} subscribers", plan.clients),
        Workload::PointToPoint => format!("{} pairs", plan.clients),
        Workload::Wildcards => format!("10 filters of {} subscribers", plan.clients),
        Workload::Queue => format!("{} publishers to 1 who is away", plan.clients),
        Workload::Drain => format!("{} publishers to 1 who comes back", plan.clients),
    };
    let rate = plan
        .rate
        .map_or_else(|| "unlimited".to_owned(), |rate| format!("{rate}/s"));
    format!(
        "{} QoS {}: {who}, {} messages of {} bytes, {} a write, {rate}, MQTT {}",
        plan.workload.name(),
        plan.qos,
        plan.messages,
        plan.payload,
        plan.batch,
        plan.version,
    )
}

/// For people.
pub(super) fn text(plan: &Plan, outcome: &Outcome) -> String {
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let mut rows = vec![
        row(
            "throughput",
            format!(
                "{:.0} deliveries/s in {:.2} s",
                outcome.throughput(),
                outcome.elapsed.as_secs_f64()
            ),
        ),
        row("latency", latency(plan, outcome)),
    ];
    if let Some(cpu) = outcome.cpu_per_million() {
        rows.push(row(
            "broker CPU",
            format!("{cpu:.3} s per million deliveries"),
        ));
    }
    if let Some((now, peak)) = outcome.broker_memory {
        rows.push(row(
            "broker RSS",
            format!("{:.1} MiB, peak {:.1}", mib(now), mib(peak)),
        ));
    }
    let busy = busy(outcome);
    rows.push(row(
        "this process",
        format!(
            "{:.0} % of a CPU{}",
            busy * 100.0,
            if busy > 0.9 {
                ": it may be the bottleneck"
            } else {
                ""
            }
        ),
    ));
    if outcome.lost > 0 {
        rows.push(row(
            "lost",
            format!("{} of {}", outcome.lost, outcome.lost + outcome.delivered),
        ));
    }
    format!("{}\n{}", title(plan), output::columns(&rows, "  "))
}

/// Which part of a CPU the load itself took.
pub(super) fn busy(outcome: &Outcome) -> f64 {
    outcome.own_cpu.as_secs_f64() / outcome.elapsed.as_secs_f64().max(1e-9)
}

fn latency(plan: &Plan, outcome: &Outcome) -> String {
    let at = |per_mille| micros(outcome.latency.percentile(per_mille));
    let meaning = if plan.rate.is_some() {
        "from when it was due"
    } else {
        "from sending: without --rate it says how full the window is"
    };
    format!(
        "p50 {}  p99 {}  p99.9 {}  max {} ({meaning})",
        at(500),
        at(990),
        at(999),
        micros(outcome.latency.max())
    )
}

/// For programs. Times are in nanoseconds, memory in bytes; what could not be measured is null.
pub(super) fn json(plan: &Plan, outcome: &Outcome) -> Value {
    json!({
        "workload": plan.workload.name(),
        "qos": plan.qos.bits(),
        "clients": plan.clients,
        "topics": plan.topics,
        "payload": plan.payload,
        "batch": plan.batch,
        "window": plan.window,
        "rate": plan.rate,
        "version": plan.version.to_string(),
        "published": outcome.published,
        "delivered": outcome.delivered,
        "lost": outcome.lost,
        "elapsed_ns": outcome.elapsed.as_nanos() as u64,
        "deliveries_per_second": outcome.throughput(),
        "latency_ns": {
            "corrected": plan.rate.is_some(),
            "count": outcome.latency.count(),
            "p50": outcome.latency.percentile(500),
            "p99": outcome.latency.percentile(990),
            "p99_9": outcome.latency.percentile(999),
            "max": outcome.latency.max(),
        },
        "broker_cpu_seconds_per_million": outcome.cpu_per_million(),
        "broker_rss": outcome.broker_memory.map(|(now, _)| now),
        "broker_rss_peak": outcome.broker_memory.map(|(_, peak)| peak),
        "own_cpu_ns": outcome.own_cpu.as_nanos() as u64,
    })
}

/// `431 µs`, `2.4 ms`, `1.2 s`
pub(super) fn micros(nanos: u64) -> String {
    let nanos = nanos as f64;
    if nanos < 1e6 {
        format!("{:.0} µs", nanos / 1e3)
    } else if nanos < 1e9 {
        format!("{:.1} ms", nanos / 1e6)
    } else {
        format!("{:.2} s", nanos / 1e9)
    }
}

pub(super) fn mib(bytes: u64) -> f64 {
    bytes as f64 / (1024.0 * 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_the_unit_that_suits_them() {
        assert_eq!(micros(431_400), "431 µs");
        assert_eq!(micros(2_449_000), "2.4 ms");
        assert_eq!(micros(1_240_000_000), "1.24 s");
    }
}
