//! What must be true when the faults have stopped and everything has settled, seen from the
//! clients' side: it knows only what was acknowledged and what arrived.

use std::collections::{BTreeMap, BTreeSet};

use fieldgate::broker::Stats;
use fieldgate::mqtt::QoS;

use super::client::{Client, Outgoing};

/// The last that a client has heard on a topic.
pub fn last(client: &Client, topic: &str) -> Option<String> {
    let mut inbox = client.inbox.iter().rev();
    let message = inbox.find(|message| message.topic == topic);
    message.map(|message| String::from_utf8_lossy(&message.payload).into_owned())
}

/// Messages of one topic, as published and as delivered. A topic carries one publisher's messages
/// of one QoS, so that its order is defined.
pub fn check_delivery(published: &[Outgoing], publisher: &Client, subscriber: &Client) {
    let own = format!("app/{}/", publisher.name());
    let mut topics: BTreeMap<&str, (QoS, Vec<&Outgoing>)> = BTreeMap::new();
    for message in published {
        // What is empty has no number, and what expires may be missing: the model knows more.
        if message.topic.starts_with(&own) && !message.payload.is_empty() {
            let entry = topics
                .entry(&message.topic)
                .or_insert((message.qos, Vec::new()));
            entry.1.push(message);
        }
    }
    assert!(!topics.is_empty(), "{} has published", publisher.name());
    for (topic, (qos, sent)) in topics {
        let on_topic = subscriber.inbox.iter().filter(|m| m.topic == topic);
        let got = on_topic
            .map(|m| &*m.payload)
            .filter(|payload| !payload.is_empty());
        let mut first_seen: Vec<usize> = Vec::new();
        let mut count: BTreeMap<&[u8], u32> = BTreeMap::new();
        for payload in got {
            let place = sent.iter().position(|one| one.payload == payload);
            let place = place.unwrap_or_else(|| panic!("{topic}: delivered what nobody sent"));
            let times = count.entry(payload).or_default();
            *times += 1;
            if *times == 1 {
                first_seen.push(place);
            }
        }
        assert!(
            first_seen.is_sorted(),
            "{topic} ({qos}): out of order: {first_seen:?}"
        );
        for message in &sent {
            let times = count.get(&*message.payload).copied().unwrap_or(0);
            let text = String::from_utf8_lossy(&message.payload);
            let is_promised = message.expiry.is_none() && publisher.acknowledged.contains(message);
            match qos {
                QoS::AtMostOnce => assert!(times <= 1, "{topic}: QoS 0 {text} came {times} times"),
                QoS::AtLeastOnce => assert!(
                    times >= 1 || !is_promised,
                    "{topic}: QoS 1 {text} was acknowledged and is missing"
                ),
                QoS::ExactlyOnce => assert!(
                    times == 1 || times == 0 && !is_promised,
                    "{topic}: QoS 2 {text} came {times} times"
                ),
            }
        }
    }
}

/// Every command that reached the gateway got one result, as often as it did.
pub fn check_results(
    commands: &BTreeMap<String, u32>,
    transactions: u64,
    retained: &BTreeSet<u64>,
    witness: &Client,
    commander: &Client,
) {
    for number in 1..=transactions {
        let name = format!("\"transaction\":\"t{number}\"");
        let arrived: u32 = commands
            .iter()
            .filter(|(payload, _)| payload.contains(&name))
            .map(|(_, count)| *count)
            .sum();
        for client in [witness, commander] {
            let on_topic = client.inbox.iter();
            let on_topic = on_topic.filter(|message| message.topic == "sim/relay/out/result");
            let results: Vec<_> = on_topic
                .map(|message| String::from_utf8_lossy(&message.payload))
                .filter(|result| result.contains(&name))
                .collect();
            let is_error = |result: &str| result.contains("\"status\":\"error\"");
            assert!(
                !retained.contains(&number) || results.iter().all(|result| is_error(result)),
                "t{number} came with RETAIN and was obeyed: {results:?}"
            );
            let count = results.len() as u32;
            let who = client.name();
            // A client that is cut off may get a result of QoS 1 twice.
            let is_right = count == arrived || count > arrived && client.name() != witness.name();
            assert!(
                is_right,
                "{who}: t{number} reached the gateway {arrived} times and has {count} results"
            );
        }
    }
}

/// A client that was cut off again and again has heard what one has that never was: of each topic of
/// the gateway the same, in the same order, repetitions apart.
pub fn check_same_story(witness: &Client, subscriber: &Client) {
    let story = |client: &Client| {
        let mut topics: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
        for message in &client.inbox {
            if message.topic.starts_with("sim/") {
                let heard = topics.entry(message.topic.clone()).or_default();
                if heard.last() != Some(&message.payload) {
                    heard.push(message.payload.clone());
                }
            }
        }
        topics
    };
    let (whole, other) = (story(witness), story(subscriber));
    for (topic, heard) in &other {
        let whole = whole.get(topic).map_or(&[][..], |whole| whole);
        // The subscriber came later, and a resumption may have repeated a few.
        let mut rest = whole.iter();
        let (first, last) = (heard.first(), heard.last());
        assert!(
            rest.any(|one| Some(one) == first),
            "{topic}: {} has heard what the witness has not",
            subscriber.name()
        );
        assert_eq!(
            last,
            whole.last(),
            "{topic}: the last that {} has heard",
            subscriber.name()
        );
    }
}

/// Clients that are gone leave nothing: no session, no message, no byte.
pub fn check_nothing_is_left(before: &(Stats, usize), after: &(Stats, usize), slack: usize) {
    let ((before, used_before), (after, used_after)) = (before, after);
    let gauges = |stats: &Stats| {
        [
            ("connections", stats.connections),
            ("sessions", stats.sessions),
            ("subscriptions", stats.subscriptions),
            ("retained", stats.retained),
            ("messages", stats.messages),
            ("queued", stats.queued),
            ("queued_bytes", stats.queued_bytes),
        ]
    };
    assert_eq!(gauges(before), gauges(after), "what clients have left");
    assert!(
        used_after.abs_diff(*used_before) < slack,
        "memory was {used_before} bytes before the first client and is {used_after} after the last"
    );
}
