//! Live and backlog: order, pace, RETAIN, and what is kept while the link is down.

use super::house::*;
use fieldgate::bridge::settings::{Keep, Lanes, QueueLimits, Version, WhenFull};
use fieldgate::mqtt::ConnackProperties;
use fieldgate::time::Duration;

#[test]
fn live_messages_pass_the_backlog_and_the_backlog_keeps_its_pace() {
    let mut slow = settings();
    slow.replay_rate = Some(per_second(10));
    let mut rig = Rig::new(slow);
    for number in 0..30 {
        rig.send("shed/a", &number.to_string(), false);
    }
    rig.connect();
    let first = rig.publishes();
    assert!(
        first.iter().all(Sent::is_backlog) && first.len() <= 2,
        "{first:?}"
    );
    rig.ack_all(&first);
    rig.send("shed/a", "live", false);
    let live = rig.publishes();
    assert_eq!(payloads(&live), ["live"]);
    assert!(!live[0].is_backlog());
    rig.ack_all(&live);
    let mut replayed = first.len();
    for _ in 0..10 {
        rig.wait(Duration::from_millis(100));
        let sent = rig.publishes();
        replayed += sent.len();
        rig.ack_all(&sent);
    }
    assert!((9..=13).contains(&replayed), "{replayed}");
    let time = fieldgate::time::WallTime::EARLIEST_PLAUSIBLE.to_string();
    let pairs: Vec<_> = first[0].pairs.iter().map(|(k, v)| (&**k, &**v)).collect();
    assert_eq!(
        pairs,
        [
            ("fieldgate-origin", "shed-1"),
            ("fieldgate-hops", "1"),
            ("fieldgate-backlog", "1"),
            ("time", &time),
        ]
    );
}

#[test]
fn a_backlog_leaves_room_for_live_messages_in_the_window() {
    let mut rig = Rig::new(settings());
    for number in 0..30 {
        rig.send("shed/a", &number.to_string(), false);
    }
    rig.connect();
    let backlog = rig.publishes();
    assert_eq!(backlog.len(), usize::from(WINDOW) * 3 / 4);
    rig.send("shed/b", "live", false);
    assert_eq!(payloads(&rig.publishes()), ["live"]);
    assert_eq!(rig.status().inflight, backlog.len() + 1);
}

#[test]
fn an_old_value_is_not_retained_over_a_newer_one() {
    let mut rig = Rig::new(settings());
    rig.send("shed/a", "1", true);
    rig.send("shed/a", "2", true);
    rig.send("shed/b", "3", true);
    rig.send("shed/b", "4", false);
    rig.connect();
    let sent = rig.publishes();
    let retains: Vec<_> = sent.iter().map(|it| (&*it.payload, it.retain)).collect();
    assert_eq!(
        retains,
        [("1", false), ("2", true), ("3", true), ("4", false)]
    );
    rig.ack_all(&sent);
    assert_eq!(rig.bridge.stats().cleared_retain, 1);
    // One that was sent meanwhile is newer too.
    let mut slow = settings();
    slow.replay_rate = Some(per_second(1));
    let mut rig = Rig::new(slow);
    for payload in ["1", "2", "3"] {
        rig.send("shed/a", payload, payload == "3");
    }
    rig.connect();
    rig.send("shed/a", "live", true);
    let mut sent = rig.publishes();
    rig.ack_all(&sent);
    rig.seconds(5);
    sent.extend(rig.publishes());
    let last: Vec<_> = sent.iter().filter(|it| it.payload == "3").collect();
    assert_eq!((last.len(), last[0].retain), (1, false));
}

#[test]
fn one_lane_lets_nothing_pass_of_the_same_topic() {
    let mut strict = settings();
    strict.replay_rate = Some(per_second(1));
    strict.send[0].lanes = Lanes::One;
    let mut rig = Rig::new(strict);
    for payload in ["1", "2", "3"] {
        rig.send("shed/a", payload, false);
    }
    rig.connect();
    rig.send("shed/a", "4", false);
    rig.send("shed/b", "other", false);
    let mut sent = rig.publishes();
    assert_eq!(payloads(&sent), ["1", "other"]);
    rig.ack_all(&sent);
    for _ in 0..10 {
        rig.seconds(1);
        let more = rig.publishes();
        rig.ack_all(&more);
        sent.extend(more);
    }
    assert_eq!(payloads(&sent), ["1", "other", "2", "3", "4"]);
}

#[test]
fn the_latest_of_each_topic_is_kept_where_that_is_enough() {
    let mut latest = settings();
    latest.send[0].keep = Keep::Latest;
    let mut rig = Rig::new(latest);
    for number in 0..10 {
        rig.send(&format!("shed/{}", number % 2), &number.to_string(), true);
    }
    assert_eq!(rig.status().queue_length, 2);
    assert_eq!(rig.bridge.stats().coalesced, 8);
    rig.connect();
    let sent = rig.publishes();
    assert_eq!(payloads(&sent), ["8", "9"]);
    assert!(sent.iter().all(|it| it.retain));
    // Also while the peer is slow: what waits is replaced, what is under way is not.
    for number in 0..20 {
        rig.send("shed/a", &format!("a{number}"), true);
    }
    let window = usize::from(WINDOW) - 2;
    assert_eq!(rig.publishes().len(), window);
    assert_eq!(rig.status().queue_length, 2 + window as u64 + 1);
    rig.ack_all(&sent);
    assert_eq!(payloads(&rig.publishes()), ["a19"]);
}

#[test]
fn what_nobody_wants_kept_is_dropped_while_the_link_is_down() {
    let mut fleeting = settings();
    fleeting.send[0].keep = Keep::Nothing;
    fleeting.send[0].qos = Q0;
    let mut rig = Rig::new(fleeting);
    rig.send("shed/a", "1", false);
    rig.connect();
    assert!(rig.publishes().is_empty());
    rig.send("shed/a", "2", false);
    assert_eq!(payloads(&rig.publishes()), ["2"]);
    rig.cut(false);
    rig.send("shed/a", "3", false);
    assert_eq!(rig.bridge.stats().dropped_link_down, 2);
    assert_eq!(rig.status().queue_length, 0);
}

#[test]
fn the_queue_keeps_to_its_limits_and_counts_what_goes() {
    let with = |queue: QueueLimits| {
        let mut limited = settings();
        limited.queue = queue;
        let mut rig = Rig::new(limited);
        for number in 0..10 {
            rig.send("shed/a", &number.to_string(), false);
            rig.seconds(1);
        }
        rig
    };
    let three = QueueLimits {
        messages: Some(3),
        ..QueueLimits::default()
    };
    let mut rig = with(three);
    assert_eq!(rig.bridge.stats().dropped_full, 7);
    rig.connect();
    assert_eq!(payloads(&rig.publishes()), ["7", "8", "9"]);
    let mut rig = with(QueueLimits {
        when_full: WhenFull::DropNewest,
        ..three
    });
    rig.connect();
    assert_eq!(payloads(&rig.publishes()), ["0", "1", "2"]);
    let mut rig = with(QueueLimits {
        age: Some(Duration::from_secs(4)),
        ..QueueLimits::default()
    });
    rig.connect();
    assert_eq!(payloads(&rig.publishes()), ["7", "8", "9"]);
    assert_eq!(rig.bridge.stats().dropped_aged, 7);
    let rig = with(QueueLimits {
        bytes: 2000,
        ..QueueLimits::default()
    });
    assert!(rig.status().queue_bytes <= 2000 && rig.status().queue_length > 1);
    // The memory of the whole gateway is a limit too.
    let mut rig = Rig::new(settings());
    rig.send("shed/a", "0", false);
    rig.memory.set_limit(rig.memory.used() + 10);
    rig.send("shed/a", "1", false);
    assert_eq!(rig.status().queue_length, 1);
    assert!(rig.bridge.stats().dropped_over_budget > 0);
    drop(rig.bridge);
    assert_eq!(rig.memory.used(), 0, "all of it is given back");
}

#[test]
fn towards_3_1_1_a_backlog_may_have_a_topic_of_its_own() {
    let mut old = settings();
    old.version = Version::Pinned(V4);
    old.send[0].to = Some("plants/#".into());
    old.send[0].backlog_to = Some("history/#".into());
    let mut rig = Rig::new(old);
    rig.version = V4;
    rig.send("shed/a", "1", false);
    rig.connect_with(false, ConnackProperties::default());
    rig.send("shed/a", "2", false);
    let sent = rig.publishes();
    let topics: Vec<_> = sent.iter().map(|it| &*it.topic).collect();
    assert_eq!(topics, ["history/a", "plants/a"]);
}

#[test]
fn commands_are_sent_only_if_they_are_named_and_exceptions_not_at_all() {
    let mut rules = settings();
    rules.send[0].except = vec!["shed/+/raw".into()];
    rules.send.push(send_rule("shed/+/+/set", Q1));
    let mut rig = Rig::new(rules);
    rig.connect();
    for rule in [0, 1] {
        rig.send_by(
            rule,
            &message("shed/pump/running/set", &rule.to_string(), false),
        );
    }
    rig.send("shed/pump/raw", "no", false);
    assert_eq!(payloads(&rig.publishes()), ["1"]);
    assert_eq!(rig.bridge.stats().commands_kept, 1);
}
