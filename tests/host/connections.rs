//! Clients of the broker: what arrives, what is fair, and how it ends.

use std::os::unix::fs::PermissionsExt;

use fieldgate::gateway::settings::Bind;
use fieldgate::host::ExitReason;

use crate::bench::{
    CONNACK, Client, Flood, Folder, PINGREQ, PINGRESP, Plan, River, connect, publish, publish_qos1,
    subscribe,
};

#[test]
fn a_message_goes_from_tcp_to_tcp() {
    let mut bench = Plan::tcp().start();
    let mut subscriber = bench.connected("subscriber");
    let (ask, granted) = subscribe("plant/#", 0);
    subscriber.send(&ask);
    bench.expect(&mut subscriber, &granted);
    let mut publisher = bench.connected("publisher");
    let message = publish("plant/level", b"41.5");
    publisher.send(&message);
    bench.expect(&mut subscriber, &message);
    assert_eq!(bench.counters().connections, 2);
    drop(publisher);
    bench.until("the host has noticed", |bench| {
        (bench.counters().connections == 1).then_some(())
    });
    assert_eq!(bench.stop(), ExitReason::Stopped);
}

/// More than one connection may have unsent, while its socket takes it: nothing of it is kept as a
/// message for a later turn.
#[test]
fn what_many_say_to_one_in_a_turn_is_sent_in_that_turn() {
    const SPEAKERS: usize = 25;
    let mut bench = Plan::tcp().start();
    let mut subscriber = bench.connected("subscriber");
    let (ask, granted) = subscribe("plant/#", 0);
    subscriber.send(&ask);
    bench.expect(&mut subscriber, &granted);
    let mut speakers: Vec<_> = (0..SPEAKERS)
        .map(|number| bench.connected(&format!("speaker-{number}")))
        .collect();
    let said = publish("plant/level", &[b'4'; 1000]).repeat(4);
    for speaker in &mut speakers {
        speaker.send(&said);
    }
    let before = bench.stats();
    bench.turn();
    let after = bench.stats();
    let sent = after.publishes_sent - before.publishes_sent;
    assert_eq!(sent, 4 * SPEAKERS as u64);
    assert_eq!((after.messages, after.queued), (before.messages, 0));
    bench.expect(&mut subscriber, &said.repeat(SPEAKERS));
}

#[test]
fn a_unix_socket_carries_mqtt_with_its_mode_and_is_unlinked_at_the_end() {
    let folder = Folder::new("unix");
    let path = folder.join("mqtt.sock");
    let mut plan = Plan::tcp();
    plan.binds = vec![Bind::Unix {
        path: path.to_str().unwrap().into(),
        mode: 0o640,
        group: None,
    }];
    // Left behind by a process that is gone.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let mut bench = plan.start();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
    let mut client = Client::unix(&path);
    client.send(&connect("local"));
    bench.expect(&mut client, &CONNACK);
    let (ask, granted) = subscribe("a", 0);
    client.send(&ask);
    bench.expect(&mut client, &granted);
    client.send(&publish("a", b"b"));
    bench.expect(&mut client, &publish("a", b"b"));
    assert_eq!(bench.stop(), ExitReason::Stopped);
    assert!(!path.exists());
}

#[test]
fn a_publisher_that_never_stops_holds_nobody_up() {
    let mut bench = Plan::tcp().start();
    let mut flood = Flood::start(&mut bench);
    let mut other = bench.connected("other");
    for _ in 0..20 {
        flood.go_on();
        other.send(&PINGREQ);
        // Loopback delivers at once: the request lies there before the next turn begins.
        for _ in 0..2 {
            flood.go_on();
            bench.turn();
        }
        other.receive();
        assert_eq!(other.input, PINGRESP, "it took more than two turns");
        other.input.clear();
    }
}

#[test]
fn a_turn_ends_while_its_publisher_goes_on() {
    let mut bench = Plan::tcp().start();
    let mut other = bench.connected("other");
    let river = River::start(&mut bench);
    for _ in 0..200 {
        other.send(&PINGREQ);
        bench.turn();
        bench.turn();
        other.receive();
        assert_eq!(other.input, PINGRESP, "it took more than two turns");
        other.input.clear();
    }
    assert!(river.stop(), "a turn took until it ran dry");
}

#[test]
fn data_and_end_that_arrive_together_are_both_handled() {
    let mut bench = Plan::tcp().start();
    let mut subscriber = bench.connected("subscriber");
    let (ask, granted) = subscribe("last/#", 0);
    subscriber.send(&ask);
    bench.expect(&mut subscriber, &granted);
    for round in 0..10 {
        let mut last = bench.tcp();
        let mut words = connect("short-lived");
        let payload = vec![b'w'; 100 << round];
        words.extend(publish("last/words", &payload));
        last.send(&words);
        drop(last);
        // The whole of it, and its end, lie in the kernel when the loop looks for the first time.
        bench.expect(&mut subscriber, &publish("last/words", &payload));
    }
    bench.until("all of them are gone", |bench| {
        (bench.counters().connections == 1).then_some(())
    });
}

#[test]
fn who_says_goodbye_first_still_gets_its_answer() {
    let mut bench = Plan::tcp().start();
    let mut client = bench.tcp();
    let (message, acknowledgement) = publish_qos1("a", 7, b"b");
    client.send(&[connect("polite"), message].concat());
    client.shutdown_write().unwrap();
    bench.expect(&mut client, &CONNACK);
    bench.expect(&mut client, &acknowledgement);
    assert_eq!(bench.rest(&mut client), b"");
}

#[test]
fn a_reason_code_arrives_before_the_end_although_input_lies_unread() {
    let mut bench = Plan::tcp().start();
    for _ in 0..20 {
        let mut client = bench.tcp();
        // MQTT 5.0, clean start, an empty client id that the server is to assign.
        client.send(b"\x10\x0D\0\x04MQTT\x05\x02\0\x3C\0\0\0");
        bench.until("CONNACK", |_| {
            client.receive();
            (!client.input.is_empty()).then_some(())
        });
        let length = usize::from(client.input[1]) + 2;
        bench.until("the rest of it", |_| {
            client.receive();
            (client.input.len() >= length).then_some(())
        });
        client.input.clear();
        // A packet that no client may send, and much after it that nobody will read.
        client.send(b"\xD0\0");
        client.try_send(&vec![0; 100_000]);
        let last_words = bench.rest(&mut client);
        assert_eq!(last_words.first(), Some(&0xE0), "{last_words:?}");
        assert!(last_words[2] >= 0x80, "{last_words:?}");
        assert!(
            !client.was_reset,
            "on a longer way the reason might be lost"
        );
    }
    bench.until("nobody lingers for long", |bench| {
        (bench.counters().lingering == 0 && bench.counters().connections == 0).then_some(())
    });
}

#[test]
fn many_clients_are_accepted_and_none_is_lost() {
    let mut bench = Plan::tcp().start();
    let mut clients: Vec<_> = (0..100).map(|_| bench.tcp()).collect();
    for (index, client) in clients.iter_mut().enumerate() {
        client.send(&connect(&format!("client-{index}")));
    }
    for client in &mut clients {
        bench.expect(client, &CONNACK);
    }
    assert_eq!(bench.counters().accepted, 100);
}

#[test]
fn a_large_message_comes_through_whole() {
    let mut bench = Plan::tcp().start();
    let mut client = bench.connected("large");
    let (ask, granted) = subscribe("large", 1);
    client.send(&ask);
    bench.expect(&mut client, &granted);
    let payload: Vec<u8> = (0..900_000_u32).map(|index| (index % 251) as u8).collect();
    let bytes = publish("large", &payload);
    let mut sent = 0;
    let mut heard = Vec::new();
    bench.until("it has come back", |_| {
        sent += client.try_send(&bytes[sent..]);
        client.receive();
        heard.append(&mut client.input);
        (heard.len() >= bytes.len()).then_some(())
    });
    assert!(heard == bytes, "it was changed on its way");
}
