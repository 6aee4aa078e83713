//! What is wrong is published: the operator sees it without looking for it.

use std::time::Duration;

use fieldgate::gateway::HEALTH_INTERVAL;
use serde_json::json;

use crate::house::{House, SHED};

#[test]
fn what_the_gateway_is_and_that_all_is_well_lies_retained() {
    let mut house = House::new();
    assert_eq!(
        house.retained("shed/gateway/#"),
        [
            ("shed/gateway/health/state", "ok"),
            ("shed/gateway/info/name", "shed"),
            ("shed/gateway/info/version", env!("CARGO_PKG_VERSION")),
            ("shed/gateway/state", "online"),
        ]
        .map(|(topic, payload)| (topic.to_owned(), payload.to_owned()))
        .into()
    );
    // Deeper by one level than values, availability and state.
    let shallow = house.retained("shed/+/+");
    assert!(
        !shallow.keys().any(|topic| topic.contains("health")),
        "{shallow:?}"
    );
}

#[test]
fn a_silent_worker_is_a_fault_until_it_answers() {
    let mut house = House::new();
    let watcher = house.listener("watcher", "shed/gateway/health/#");
    house.count(|host| {
        host.workers_stuck = 1;
        host.worker_expired = 1;
    });
    assert_eq!(
        house.read_values(watcher),
        [
            "shed/gateway/health/reason = a worker is silent past its deadline",
            "shed/gateway/health/state = fault",
            "shed/gateway/health/worker_expired = 1",
        ]
    );
    let status = house.answer(r#"{"verb":"status"}"#);
    let reason = "a worker is silent past its deadline";
    assert_eq!(
        status["data"]["health"],
        json!({"state": "fault", "reason": reason})
    );
    house.wait(HEALTH_INTERVAL);
    house.count(|host| {
        host.workers_stuck = 0;
        host.worker_late = 1;
    });
    assert_eq!(
        house.read_values(watcher),
        [
            "shed/gateway/health/reason = ",
            "shed/gateway/health/state = ok",
            "shed/gateway/health/worker_late = 1",
        ]
    );
    let found = house.retained("shed/gateway/health/#");
    assert!(
        !found.contains_key("shed/gateway/health/reason"),
        "{found:?}"
    );
}

#[test]
fn what_flaps_is_said_at_most_once_a_second_and_ends_with_what_is_true() {
    let mut house = House::new();
    let watcher = house.listener("watcher", "shed/gateway/health/#");
    for count in 1..=100 {
        house.count(|host| host.log_lines_lost = count);
        house.wait(Duration::from_millis(5));
    }
    house.wait(HEALTH_INTERVAL);
    assert_eq!(
        house.read_values(watcher),
        [
            "shed/gateway/health/log_lines_lost = 1",
            "shed/gateway/health/log_lines_lost = 100"
        ]
    );
    assert!(!house.has_own_deadline());
    // What is over before its time to be told is not told.
    house.wait(HEALTH_INTERVAL);
    house.count(|host| host.log_lines_lost = 101);
    house.count(|host| host.workers_stuck = 1);
    house.count(|host| host.workers_stuck = 0);
    house.wait(HEALTH_INTERVAL);
    assert_eq!(
        house.read_values(watcher),
        ["shed/gateway/health/log_lines_lost = 101"]
    );
    assert!(!house.has_own_deadline());
}

#[test]
fn busy_counters_are_no_news() {
    let mut house = House::new();
    let watcher = house.listener("watcher", "#");
    house.count(|host| {
        host.turns = 10;
        host.accepted = 20;
        host.connections = 3;
        host.errands = 1;
    });
    assert_eq!(house.read_values(watcher), [""; 0]);
}

#[test]
fn a_listener_that_cannot_listen_is_a_fault_until_it_is_taken_away() {
    let taken = format!(
        "[listener.local]\nbind = \"127.0.0.1:1\"\n[listener.lan]\nbind = \"127.0.0.1:2\"\n{SHED}"
    );
    let mut house = House::built(&taken, |house| house.refused_bind = Some("127.0.0.1:2"));
    let found = house.retained("shed/gateway/health/#");
    assert_eq!(found["shed/gateway/health/state"], "fault");
    assert_eq!(
        found["shed/gateway/health/reason"],
        "listener lan cannot listen at 127.0.0.1:2: address in use"
    );
    house.reload(&format!("[listener.local]\nbind = \"127.0.0.1:1\"\n{SHED}"));
    house.wait(HEALTH_INTERVAL);
    let found = house.retained("shed/gateway/health/#");
    assert_eq!(found["shed/gateway/health/state"], "ok");
    assert!(!found.contains_key("shed/gateway/health/reason"));
}
