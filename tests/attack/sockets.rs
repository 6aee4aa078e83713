//! Attacks that need a socket.

use std::time::{Duration, Instant};

use fieldgate::gateway::settings::Protocols;

use crate::bench::{Bench, CONNACK, Client, Plan, connect, publish, subscribe};

/// The loop has nothing to do: it waits for as long as it may, which is a millisecond.
fn sleeps(bench: &mut Bench, what: &str) {
    // What is under way is done first.
    for _ in 0..20 {
        bench.turn();
    }
    let before = bench.counters().turns;
    let start = Instant::now();
    bench.until("time has passed", |_| {
        (start.elapsed() > Duration::from_millis(100)).then_some(())
    });
    let turns = bench.counters().turns - before;
    assert!(turns < 120, "{turns} turns in 100 ms: {what}");
}

fn websockets() -> Plan {
    let mut plan = Plan::tcp();
    plan.transport.protocols = Protocols::Both;
    plan
}

const REQUEST: &str = "GET /mqtt HTTP/1.1\r\nHost: broker\r\nUpgrade: websocket\r\n\
     Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\
     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

#[test]
fn no_half_state_keeps_the_loop_awake() {
    let mut bench = websockets().start();
    let mut kept = Vec::new();
    let silent = bench.tcp();
    sleeps(&mut bench, "nothing said");
    kept.push(silent);
    for (what, bytes) in [
        ("half a CONNECT", &connect("half")[..7]),
        ("half a length", &[0x10, 0x80][..]),
        ("half a request", b"GET /mqtt HT"),
    ] {
        let mut client = bench.tcp();
        client.send(bytes);
        sleeps(&mut bench, what);
        // And its writing half is shut down.
        client.shutdown_write().unwrap();
        sleeps(&mut bench, what);
        kept.push(client);
    }
    let mut upgraded = bench.tcp();
    upgraded.send(REQUEST.as_bytes());
    sleeps(&mut bench, "an upgrade and no frame");
    upgraded.send(&[0x82, 0xFE]);
    sleeps(&mut bench, "half a frame");
    kept.push(upgraded);
    // A subscriber that does not read, with more waiting than its socket takes.
    let mut deaf = bench.connected("deaf");
    let (ask, granted) = subscribe("flood", 0);
    deaf.send(&ask);
    bench.expect(&mut deaf, &granted);
    let mut publisher = bench.connected("publisher");
    let message = publish("flood", &vec![0; 60_000]);
    for _ in 0..200 {
        publisher.send(&message);
        bench.turn();
    }
    sleeps(&mut bench, "a subscriber that does not read");
    // And is half closed on top of it.
    deaf.shutdown_write().unwrap();
    sleeps(&mut bench, "and has hung up one half");
    let half = bench.connected("half-closed");
    half.shutdown_write().unwrap();
    sleeps(&mut bench, "a client that has hung up one half");
    drop((kept, deaf, publisher, half));
    bench.until("all are gone", |bench| {
        (bench.counters().connections == 0).then_some(())
    });
    bench.assert_nothing_is_held();
}

#[test]
fn packets_cut_anywhere_between_frames() {
    let mut bench = websockets().start();
    let mut client = bench.tcp();
    client.send(REQUEST.as_bytes());
    bench.until("the upgrade", |_| {
        client.receive();
        client.input.ends_with(b"\r\n\r\n").then_some(())
    });
    client.input.clear();
    let (ask, granted) = subscribe("a", 0);
    let message = publish("a", b"cut");
    let all = [connect("page"), ask, message.clone()].concat();
    // Single bytes, with frames of nothing between them, and lengths of the long form for none.
    for byte in all {
        client.send(&[0x82, 0x81, 0, 0, 0, 0, byte]);
        client.send(&[0x82, 0x80, 1, 2, 3, 4]);
    }
    let expected = [&CONNACK[..], &granted, &message].concat();
    let mut data = Vec::new();
    bench.until("the answers", |_| {
        client.receive();
        while let [0x82, len, ..] = client.input[..]
            && client.input.len() >= 2 + usize::from(len)
        {
            data.extend(client.input.drain(..2 + usize::from(len)).skip(2));
        }
        (data.len() >= expected.len()).then_some(())
    });
    assert_eq!(data, expected);
    // A packet that says that it is longer than its frame waits for the next one, and ends the
    // connection if that is no frame.
    client.send(&[0x82, 0x82, 0, 0, 0, 0, 0x30, 0x7F]);
    client.send(&[0x82, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF]);
    bench.until("it is gone", |bench| {
        (bench.counters().connections == 0).then_some(())
    });
    assert_eq!(bench.counters().websocket_failed, 1);
}

#[test]
fn an_upgrade_where_there_is_no_websocket() {
    let mut bench = Plan::tcp().start();
    let mut good = bench.connected("good");
    let mut client: Client = bench.tcp();
    client.send(REQUEST.as_bytes());
    bench.until("it is gone", |bench| {
        (bench.counters().connections == 1).then_some(())
    });
    client.receive();
    assert!(client.input.is_empty(), "nothing is said to it");
    good.send(&crate::bench::PINGREQ);
    bench.expect(&mut good, &crate::bench::PINGRESP);
}
