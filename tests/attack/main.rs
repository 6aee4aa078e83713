//! What brokers have been brought down by, tried on this one.
//!
//! One row for each class of vulnerability that MQTT brokers have had. Each attack runs beside a
//! publisher and a subscriber who do nothing wrong: the attacker pays (is refused, closed,
//! counted), the two go on as if nothing was, and when the attacker is gone the memory account is
//! what it was before. [`the_table_is_true`] sees to it that every test named here exists.
//!
//! | had it | what | test |
//! |---|---|---|
//! | mosquitto CVE-2019-11779, aedes GHSA-xxqp-5qx8-gj5q | a topic of 65 000 levels, recursion | `bytes::topics_without_end` |
//! | mosquitto CVE-2020-13849 | idle connections hold all slots | `strangers::idle_connections_do_not_take_all_slots` |
//! | mosquitto CVE-2021-28166 | a packet that only a server sends, a packet out of its place | `bytes::every_packet_in_every_state` |
//! | mosquitto CVE-2021-34431, CVE-2023-3592 | leaks after malformed packets | `bytes::malformed_packets_leave_nothing_behind` |
//! | mosquitto CVE-2021-34432 | a topic of no length; boundaries of every length field | `bytes::lengths_at_their_boundaries` |
//! | mosquitto CVE-2021-34434 | an access rule is taken away, the subscription lives on | `access::a_right_that_is_taken_away_is_gone` |
//! | mosquitto CVE-2021-41039 | user properties without number | `bytes::properties_without_number` |
//! | mosquitto CVE-2023-0809 | a large allocation before CONNECT | `strangers::announced_bytes_cost_nothing` |
//! | mosquitto CVE-2023-28366 | QoS 2 identifiers that are never released | `sessions::identifiers_that_are_never_released` |
//! | mosquitto CVE-2023-5632 | an idle connection in some half state spins the CPU | `sockets::no_half_state_keeps_the_loop_awake` |
//! | mosquitto CVE-2024-8376, NanoMQ CVE-2024-25767, CVE-2025-59946, CVE-2026-22040 | subscriptions and takeovers, use after free | `sessions::subscriptions_and_takeovers_in_any_order` |
//! | NanoMQ CVE-2023-29994 and its like, CVE-2025-59947, mochi CVE-2024-50948, FlashMQ CVE-2024-42644 | parser overflows, assertions on crafted packets | `bytes::malformed_packets_leave_nothing_behind`, and the fuzz targets |
//! | NanoMQ CVE-2025-68699 | `$share/ab` without a second slash | `bytes::shared_filters_that_are_none` |
//! | NanoMQ CVE-2026-21888 | a length of five bytes, at every split | `bytes::lengths_at_every_split` |
//! | NanoMQ CVE-2026-25627 | WebSocket frames against packets | `sockets::packets_cut_anywhere_between_frames` |
//! | NanoMQ CVE-2026-32134 | resumption during takeover, will and expiry | `sessions::resumption_meets_takeover_will_and_expiry` |
//! | NanoMQ CVE-2026-32696 | no user name where a rule has `%u` | `access::templates_without_a_name` |
//! | EMQX CVE-2021-33175, VerneMQ CVE-2021-33176, RabbitMQ CVE-2021-22116 | memory without authentication | `strangers::a_flood_of_strangers_has_a_bound` |
//! | EMQX CVE-2026-6564 | another user's session by its client identifier | `access::a_session_is_its_users` |
//! | EMQX CVE-2026-8741 | QoS 2 delivered twice | `sessions::exactly_once_wherever_the_connection_breaks` |
//! | RabbitMQ CVE-2026-44838 | a client identifier that is a pattern | `access::names_are_not_patterns` |
//! | FlashMQ CVE-2026-42209 | zero where a number divides | `bytes::zeros_everywhere` |
//! | NATS CVE-2026-33217, GHSA-7qmq-8cc4-hxwg | internal topics, and rules that replay does not ask | `access::what_is_retained_queued_or_willed_is_asked_for_too` |
//! | NATS 2026 | a session under another identifier, packet identifiers in use, half a CONNECT | `sessions::a_session_comes_back_under_its_own_name_only`, `strangers::announced_bytes_cost_nothing` |
//! | NATS 2026 | WebSocket where there is none | `sockets::an_upgrade_where_there_is_no_websocket` |
//! | mosquitto issue 2076 | passwords tried one after the other | `strangers::guessing_passwords_gets_slower` |
//!
//! Lines of the log that a client makes up (HiveMQ CVE-2020-13821) and passwords where people see
//! them (NATS 2026) are in `tests/peers/test_operations.py`, which reads what the program prints.
//!
//! Bridges are not there yet: mosquitto CVE-2024-3935 and CVE-2024-10525 are about them.

use std::fs;
use std::path::Path;

#[expect(
    dead_code,
    reason = "the host's own tests use all of it, these only a part"
)]
#[path = "../host/bench.rs"]
mod bench;

#[expect(
    dead_code,
    reason = "the broker's own tests use all of it, these only a part"
)]
#[path = "../broker/house.rs"]
mod house;
#[expect(
    dead_code,
    reason = "the broker's own tests use all of it, these only a part"
)]
#[path = "../broker/ledger.rs"]
mod ledger;

#[expect(
    dead_code,
    reason = "the conformance tests use all of it, these only a part"
)]
#[path = "../conformance/support.rs"]
mod support;

mod access;
mod bytes;
mod sessions;
mod siege;
mod sockets;
mod strangers;

#[test]
fn the_table_is_true() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/attack");
    let read = |name: &str| fs::read_to_string(folder.join(format!("{name}.rs"))).unwrap();
    let main = read("main");
    let rows: Vec<_> = main
        .lines()
        .filter(|line| line.starts_with("//! | ") && line.contains("::"))
        .collect();
    assert!(rows.len() > 20, "the table is found");
    let mut named = 0;
    for row in rows {
        let words = row.split('`').skip(1).step_by(2);
        for (file, test) in words.filter_map(|word| word.split_once("::")) {
            let text = read(file);
            let found = text.contains(&format!("fn {test}("));
            assert!(found, "there is no {file}::{test}");
            named += 1;
        }
    }
    let files = ["access", "bytes", "sessions", "sockets", "strangers"];
    let cases = files.map(|file| {
        let text = read(file);
        let tests = text.matches("#[test]").count();
        let cases = text.split("cases! {").skip(1).flat_map(|it| it.lines());
        tests + cases.filter(|line| line.starts_with("    fn ")).count()
    });
    let cases: usize = cases.iter().sum();
    assert!(named >= cases, "every attack is in the table");
}
