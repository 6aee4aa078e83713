//! What must be true when the faults have stopped and everything has settled.

use std::collections::BTreeMap;

use fieldgate::mqtt::QoS;

use super::client::{Client, Outgoing};

/// Messages of one topic, as published and as delivered. A topic carries one QoS, so that its order
/// is defined.
pub fn check_delivery(published: &[Outgoing], publisher: &Client, subscriber: &Client) {
    let mut topics: BTreeMap<&str, (QoS, Vec<&[u8]>)> = BTreeMap::new();
    for message in published {
        let entry = topics
            .entry(&message.topic)
            .or_insert((message.qos, Vec::new()));
        entry.1.push(&message.payload);
    }
    for (topic, (qos, sent)) in topics {
        let got: Vec<&[u8]> = subscriber
            .inbox
            .iter()
            .filter(|m| m.topic == topic)
            .map(|m| &*m.payload)
            .collect();
        let acknowledged: Vec<&[u8]> = publisher
            .acknowledged
            .iter()
            .filter(|m| m.topic == topic)
            .map(|m| &*m.payload)
            .collect();
        let mut first_seen: Vec<usize> = Vec::new();
        let mut count: BTreeMap<&[u8], u32> = BTreeMap::new();
        for payload in &got {
            let place = sent.iter().position(|one| one == payload);
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
        for payload in &sent {
            let times = count.get(payload).copied().unwrap_or(0);
            let text = String::from_utf8_lossy(payload);
            let was_acknowledged = acknowledged.contains(payload);
            match qos {
                QoS::AtMostOnce => assert!(times <= 1, "{topic}: QoS 0 {text} came {times} times"),
                QoS::AtLeastOnce if was_acknowledged => {
                    assert!(
                        times >= 1,
                        "{topic}: QoS 1 {text} was acknowledged and is missing"
                    );
                }
                QoS::ExactlyOnce if was_acknowledged => {
                    assert!(times == 1, "{topic}: QoS 2 {text} came {times} times");
                }
                QoS::ExactlyOnce => assert!(times <= 1, "{topic}: QoS 2 {text} came {times} times"),
                QoS::AtLeastOnce => {}
            }
        }
    }
}
