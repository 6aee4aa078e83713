//! The kept corpus of the fuzz targets, through the same checks, with stable Rust.
//!
//! The corpus has a sample of every packet in every version, and whatever was ever found to be
//! nasty. What a fuzzer finds is added to `tests/fuzz/corpus/TARGET/` under a name that says what
//! it is; what can be said in code stands here, and is written by `cargo test --test fuzz_corpus --
//! --ignored`.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use fieldgate::mqtt::PacketType;
use proptest::prelude::*;

#[path = "fuzz/checks.rs"]
mod checks;
#[expect(dead_code, reason = "the strategies are for tests/codec")]
#[path = "codec/samples.rs"]
mod samples;

/// Bytes that went, or could go, down a path of their own.
const NASTY_PACKETS: &[(&str, &[u8])] = &[
    ("nasty-empty-publish", b"\x30\x00"),
    ("nasty-type-0", b"\x00\x00"),
    ("nasty-endless-length", b"\x30\xFF\xFF\xFF\xFF\xFF"),
    ("nasty-longest-length", b"\x30\xFF\xFF\xFF\x7F"),
    ("nasty-padded-pingreq", b"\xC0\x80\x80\x00"),
    ("nasty-topic-longer-than-packet", b"\x30\x04\xFF\xFFab"),
    (
        "nasty-topic-with-surrogate",
        b"\x30\x05\x00\x03\xED\xA0\x80",
    ),
    ("nasty-topic-of-null", b"\x30\x03\x00\x01\x00"),
    ("nasty-publish-qos-3", b"\x36\x05\x00\x01t\x00\x01"),
    ("nasty-publish-dup-qos-0", b"\x38\x03\x00\x01t"),
    ("nasty-publish-id-0", b"\x32\x05\x00\x01t\x00\x00"),
    ("nasty-publish-alias-0", b"\x30\x06\x00\x00\x03\x23\x00\x00"),
    (
        "nasty-publish-properties-longer-than-packet",
        b"\x30\x06\x00\x01t\x7F\x26\x00",
    ),
    (
        "nasty-publish-user-property-without-value",
        b"\x30\x09\x00\x01t\x05\x26\x00\x01kv\x00",
    ),
    (
        "nasty-publish-subscription-id-padded",
        b"\x30\x08\x00\x01t\x03\x0B\x80\x00x",
    ),
    (
        "nasty-publish-property-id-padded",
        b"\x30\x07\x00\x01t\x03\xA6\x00\x00",
    ),
    (
        "nasty-connect-name",
        b"\x10\x0C\x00\x04HTTP\x04\x02\x00\x00\x00\x00",
    ),
    (
        "nasty-connect-level-6",
        b"\x10\x0D\x00\x04MQTT\x06\x02\x00\x00\x00\x00\x00",
    ),
    (
        "nasty-connect-bridge-bit",
        b"\x10\x0C\x00\x04MQTT\x84\x02\x00\x00\x00\x00",
    ),
    (
        "nasty-connect-all-flags",
        b"\x10\x0C\x00\x04MQTT\x04\xFF\x00\x00\x00\x00",
    ),
    (
        "nasty-connect-padded-length-5-0",
        b"\x10\x8D\x80\x00\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x00",
    ),
    ("nasty-subscribe-no-filter", b"\x82\x02\x00\x01"),
    ("nasty-subscribe-no-options", b"\x82\x05\x00\x01\x00\x01f"),
    (
        "nasty-subscribe-share-without-filter",
        b"\x82\x0D\x00\x01\x00\x08$share/g\x00",
    ),
    ("nasty-suback-no-reason", b"\x90\x03\x00\x01\x00"),
    ("nasty-auth-no-method", b"\xF0\x02\x18\x00"),
    ("nasty-http", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    (
        "nasty-tls-hello",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xFC\x03\x03",
    ),
];

const TOPICS: &[(&str, &[u8])] = &[
    ("plain", b"a/b\na/b"),
    ("single", b"+/b/+\na/b/"),
    ("multi-parent", b"sport/#\nsport"),
    ("multi-hidden", b"#\n$SYS/x"),
    ("single-hidden", b"+/x\n$SYS/x"),
    ("share", b"$share/g/a/#\na"),
    ("share-hidden", b"$share/g/#\n$x"),
    ("share-without-filter", b"$share/g\n$share/g"),
    ("empty-levels", b"//+//\n////"),
    ("hash-inside", b"a#/b\na/b"),
    ("plus-inside", b"a+/b\na/b"),
    ("null", b"a\0b\na\0b"),
    ("not-utf-8", b"\xFF\xFE\n\xC0\x80"),
    ("prefix", b"a/b\na/bc"),
    ("longer-filter", b"a/b/c\na/b"),
    ("empty", b""),
];

/// Byte 1: the version by its remainder by 3, 0x10 clean start, 0x20 acknowledgement by the caller.
/// Then steps.
const CLIENTS: &[(&str, &[u8])] = &[
    (
        "v4-connack-and-qos-1",
        b"\x11\x00\x0A\x04\x20\x02\x00\x00\x03\x0A\x04\x40\x02\x00\x01",
    ),
    (
        "v5-connack-and-qos-2",
        b"\x02\x00\x0A\x05\x20\x03\x00\x00\x00\x04\x0A\x04\x50\x02\x00\x01\x0A\x04\x70\x02\x00\x01",
    ),
    (
        "v5-resumed",
        b"\x02\x00\x0A\x05\x20\x03\x00\x00\x00\x03\x04\x01\x00\x0A\x05\x20\x03\x01\x00\x00\x0A\
          \x04\x40\x02\x00\x01",
    ),
    (
        "v5-session-lost",
        b"\x02\x00\x0A\x05\x20\x03\x00\x00\x00\x03\x04\x01\x00\x0A\x05\x20\x03\x00\x00\x00",
    ),
    (
        "v5-incoming-qos-2-by-caller",
        b"\x32\x00\x0A\x05\x20\x03\x00\x00\x00\x0A\x08\x34\x06\x00\x01t\x00\x07\x00\x07\x0A\x04\
          \x62\x02\x00\x07",
    ),
    (
        "v5-alias",
        b"\x02\x00\x0A\x05\x20\x03\x00\x00\x00\x0A\x09\x30\x07\x00\x01t\x03\x23\x00\x01\x0A\x08\
          \x30\x06\x00\x00\x03\x23\x00\x01",
    ),
    (
        "v5-publish-before-connack",
        b"\x02\x00\x0A\x06\x30\x04\x00\x01t\x00",
    ),
    (
        "v5-refused-in-old-words",
        b"\x02\x00\x0A\x04\x20\x02\x00\x01",
    ),
    (
        "v5-receive-maximum-1",
        b"\x02\x00\x0A\x08\x20\x06\x00\x00\x03\x21\x00\x01\x03\x03\x0A\x04\x40\x02\x00\x01",
    ),
    (
        "v4-pings-until-dead",
        b"\x01\x00\x0A\x04\x20\x02\x00\x00\xBC\xBC\xBC\xBC",
    ),
    (
        "v4-disconnect",
        b"\x01\x00\x0A\x04\x20\x02\x00\x00\x02\x09\x01",
    ),
    (
        "v3-resumed",
        b"\x00\x00\x0A\x04\x20\x02\x00\x00\x03\x01\x00\x0A\x04\x20\x02\x00\x00",
    ),
    (
        "v5-requests",
        b"\x02\x00\x0A\x05\x20\x03\x00\x00\x00\x05\x06\x0A\x06\x90\x04\x00\x01\x00\x01\x0A\x06\
          \xB0\x04\x00\x02\x00\x11",
    ),
];

fn corpus(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fuzz/corpus")
        .join(target)
}

/// What the corpus has by construction: by target and name.
fn constructed() -> BTreeMap<(&'static str, String), Vec<u8>> {
    let mut files = BTreeMap::new();
    for version in samples::VERSIONS {
        for packet_type in samples::types_of(version) {
            for (kind, ingredients) in [
                ("full", samples::Ingredients::full()),
                ("bare", samples::Ingredients::bare()),
            ] {
                let bytes = samples::with_packet(&ingredients, version, packet_type, |packet| {
                    samples::bytes_of(&packet, version)
                });
                let name = format!("{version}-{}-{kind}", packet_type.name().to_lowercase());
                files.insert(("packet", name), bytes);
            }
        }
    }
    for (target, list) in [
        ("packet", NASTY_PACKETS),
        ("topic", TOPICS),
        ("client", CLIENTS),
    ] {
        for (name, bytes) in list {
            files.insert((target, (*name).to_owned()), bytes.to_vec());
        }
    }
    files
}

fn run(target: &str, check: fn(&[u8])) {
    let mut count = 0;
    for entry in fs::read_dir(corpus(target)).expect("the corpus is kept beside the targets") {
        let path = entry.expect("a readable folder").path();
        let bytes = fs::read(&path).expect("a readable file");
        // If a check panics, this says on what.
        println!("{}", path.display());
        check(&bytes);
        // And all of its beginnings: what a slow network shows first.
        for cut in 0..bytes.len() {
            check(&bytes[..cut]);
        }
        count += 1;
    }
    assert!(count > 10, "{target}: only {count} files");
}

#[test]
fn packets_of_the_corpus() {
    run("packet", checks::packet);
}

#[test]
fn topics_of_the_corpus() {
    run("topic", checks::topic);
}

#[test]
fn clients_of_the_corpus() {
    run("client", checks::client);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// A short fuzzing run without a fuzzer: pieces of the corpus, joined and damaged.
    #[test]
    fn what_the_corpus_can_be_made_into(
        pieces in proptest::collection::vec(
            (any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 1..5),
    ) {
        let files = constructed();
        for (target, check) in [
            ("packet", checks::packet as fn(&[u8])),
            ("topic", checks::topic),
            ("client", checks::client),
        ] {
            let own: Vec<_> = files.iter().filter(|file| file.0.0 == target).collect();
            let mut bytes = Vec::new();
            for (file, at, byte) in &pieces {
                let start = bytes.len();
                bytes.extend_from_slice(own[file.index(own.len())].1);
                if bytes.len() > start && byte % 4 != 0 {
                    let at = start + at.index(bytes.len() - start);
                    bytes[at] = *byte;
                }
            }
            check(&bytes);
        }
    }
}

#[test]
fn the_corpus_has_every_packet_and_everything_nasty() {
    assert_eq!(PacketType::ALL.len(), 15);
    for ((target, name), bytes) in constructed() {
        let kept = fs::read(corpus(target).join(&name));
        assert_eq!(
            kept.ok(),
            Some(bytes),
            "{target}/{name}: `cargo test --test fuzz_corpus -- --ignored` writes it anew"
        );
    }
}

#[test]
#[ignore = "writes into the source tree"]
fn write_the_corpus() {
    for ((target, name), bytes) in constructed() {
        let folder = corpus(target);
        fs::create_dir_all(&folder).expect("a writable tree");
        fs::write(folder.join(name), bytes).expect("a writable tree");
    }
}
