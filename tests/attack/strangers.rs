//! Attacks of those who have not said who they are.

use std::collections::BTreeMap;

use fieldgate::mqtt::{Connect, Packet};
use fieldgate::units::Rate;

use crate::house::*;
use crate::siege::Siege;
use crate::support::packet;

cases! {
    fn idle_connections_do_not_take_all_slots(b: &mut House) {
        b.set(|settings| {
            settings.max_connections = 50;
            settings.max_connections_per_address = Some(20);
        });
        let mut b = Siege::of(b);
        let idle: Vec<_> = (0..100).map(|_| b.open_from("192.0.2.1")).collect();
        let open = idle.iter().filter(|conn| b.is_open(**conn)).count();
        assert_eq!(open, 20 + fieldgate::broker::REFUSALS_MAX);
        assert_eq!(b.stat("refused_per_address"), 80);
        b.calm();
        // Somebody else finds a place, and so does somebody of this address once they are gone.
        let other = b.open_from("192.0.2.2");
        b.send(other, &Packet::Connect(connect(V5, "other")));
        assert_eq!(b.read(other), "CONNACK Success");
        b.seconds(10);
        assert!(idle.iter().all(|conn| !b.is_open(*conn)));
        let again = b.open_from("192.0.2.1");
        assert!(b.is_open(again));
        b.drop_conn(again);
        b.disconnect(other);
        b.lifted();
    }

    fn announced_bytes_cost_nothing(b: &mut House) {
        let mut b = Siege::of(b);
        // CONNECT of 256 MB, of a mebibyte, and of as much as we take: with few bytes of each.
        for length in [&[0xFF, 0xFF, 0xFF, 0x7F][..], &[0x80, 0x80, 0x40], &[0xF0, 0x7F]] {
            let attackers: Vec<_> = (0..200).map(|_| b.open()).collect();
            for conn in &attackers {
                b.send_bytes(*conn, &[&[0x10][..], length, b"\x00\x04MQTT\x05"].concat());
            }
            let held = b.held();
            assert!(held < 200 * 1500, "{held} bytes");
            b.calm();
            b.seconds(10);
            assert!(attackers.iter().all(|conn| !b.is_open(*conn)));
        }
        // What is no CONNECT is not waited for at all.
        for first in [0x30, 0x82, 0xC0, 0xE0] {
            let conn = b.open();
            b.send_bytes(conn, &[first, 0xFF, 0xFF]);
            assert!(!b.is_open(conn));
        }
        b.lifted();
    }

    fn a_flood_of_strangers_has_a_bound(b: &mut House) {
        let mut b = Siege::of(b);
        let most = b.broker.stats().connections as usize + 900;
        // As much of a CONNECT as is taken, from as many as there is room for.
        let whole = packet(0x10, &[b"\x00\x04MQTT\x05\x02\x00\x00\x00", &[b'x'; 16_000][..]].concat());
        let mut open = Vec::new();
        while open.len() < most {
            let conn = b.open();
            b.send_bytes(conn, &whole[..whole.len() - 1]);
            open.push(conn);
        }
        let held = b.held();
        assert!(held < 20 * 1024 * 1024, "{held} bytes");
        b.calm();
        b.seconds(10);
        assert!(b.held() < 4096);
        b.lifted();
    }

    fn guessing_passwords_gets_slower(b: &mut House) {
        let mut b = Siege::of(b);
        b.set(|settings| {
            settings.connect_rate = Some(Rate::per_second(10));
            settings.access.users = Some(BTreeMap::default());
        });
        let (mut guesses, mut refused) = (0, 0);
        for _ in 0..600 {
            let conn = b.open_from("192.0.2.1");
            let guess = Connect {
                username: Some("root"),
                password: Some(b"1234"),
                ..connect(V5, "guess")
            };
            b.send(conn, &Packet::Connect(guess));
            match &*b.read(conn) {
                "CONNACK Bad User Name or Password" => guesses += 1,
                "CONNACK Connection rate exceeded" => refused += 1,
                other => panic!("{other}"),
            }
            b.wait(fieldgate::time::Duration::from_millis(100));
        }
        // Ten in a second would have been a minute's work.
        assert!(guesses < 60, "{guesses}");
        assert_eq!(guesses + refused, 600);
        assert_eq!(b.stat("refused_connect_rate"), refused);
        b.set(|_| {});
        b.lifted();
    }
}
