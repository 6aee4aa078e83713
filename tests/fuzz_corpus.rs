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

/// A byte of how it is cut, then frames.
const FRAMES: &[(&str, &[u8])] = &[
    (
        "hello-in-three",
        b"\x00\x02\x83\x01\x02\x03\x04IgoG\x80\x80\x01\x02\x03\x04\x80\x82\x01\x02\x03\x04mm",
    ),
    ("ping", b"\x02\x89\x84\x01\x02\x03\x04qkmc"),
    (
        "ping-within-a-message",
        b"\x00\x02\x80\0\0\0\0\x89\x80\0\0\0\0\x80\x81\0\0\0\0x",
    ),
    ("pong-unasked", b"\x00\x8A\x80\0\0\0\0"),
    ("close", b"\x01\x88\x82\0\0\0\0\x03\xE8"),
    ("close-empty", b"\x01\x88\x80\0\0\0\0rest"),
    ("close-of-one-byte", b"\x01\x88\x81\0\0\0\0\x03"),
    ("close-1005", b"\x01\x88\x82\0\0\0\0\x03\xED"),
    ("close-not-utf-8", b"\x01\x88\x83\0\0\0\0\x03\xE8\xC0"),
    ("length-16", b"\x00\x82\xFE\x00\x7E\0\0\0\0xxxxxxxx"),
    ("length-16-padded", b"\x00\x82\xFE\x00\x7D\0\0\0\0"),
    ("length-64", b"\x00\x82\xFF\0\0\0\0\0\x01\x00\x00\0\0\0\0x"),
    (
        "length-64-padded",
        b"\x00\x82\xFF\0\0\0\0\0\0\xFF\xFF\0\0\0\0",
    ),
    (
        "length-64-negative",
        b"\x00\x82\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF",
    ),
    ("length-64-huge", b"\x00\x82\xFF\0\0\0\x7F\xFF\xFF\xFF\xFF"),
    ("not-masked", b"\x00\x82\x01x"),
    ("text", b"\x00\x81\x81\0\0\0\0x"),
    ("compressed", b"\x00\xC2\x81\0\0\0\0x"),
    ("opcode-3", b"\x00\x83"),
    ("continuation-of-nothing", b"\x00\x80\x81\0\0\0\0x"),
    (
        "message-within-another",
        b"\x00\x02\x80\0\0\0\0\x82\x80\0\0\0\0",
    ),
    ("ping-fragmented", b"\x00\x09\x80\0\0\0\0"),
    ("ping-of-126", b"\x00\x89\xFE\x00\x7E\0\0\0\0"),
];

const PROXY: &[(&str, &[u8])] = &[
    (
        "v1-tcp4",
        b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n\x10\x0C",
    ),
    ("v1-tcp6", b"PROXY TCP6 2001:db8::1 ::1 1 65535\r\n"),
    ("v1-unknown", b"PROXY UNKNOWN ffff::1 1 2\r\n"),
    ("v1-no-return", b"PROXY UNKNOWN\n"),
    (
        "v1-two-spaces",
        b"PROXY TCP4 192.0.2.1  198.51.100.1 1 2\r\n",
    ),
    (
        "v1-padded-port",
        b"PROXY TCP4 192.0.2.1 198.51.100.1 01 2\r\n",
    ),
    ("v1-endless", &[b'P'; 120]),
    (
        "v2-tcp4",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0C\xC0\x00\x02\x01\x0A\x00\x00\x01\x12\x34\x07\x5B",
    ),
    (
        "v2-tcp4-with-tlv",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x10\xC0\x00\x02\x01\x0A\x00\x00\x01\x12\x34\x07\x5B\x04\
          \x00\x01\x00",
    ),
    ("v2-local", b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00GET"),
    ("v2-unix", b"\r\n\r\n\0\r\nQUIT\n\x21\x31\x00\x01x"),
    ("v2-too-short", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0B"),
    ("v2-too-long", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xFF\xFF"),
    ("v2-version-1", b"\r\n\r\n\0\r\nQUIT\n\x11\x11\x00\x00"),
    ("mqtt", b"\x10\x0C\x00\x04MQTT\x04\x02\x00\x00\x00\x00"),
];

const UPGRADE: &[(&str, &[u8])] = &[
    (
        "good",
        b"GET /mqtt HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
          Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\
          Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    ),
    (
        "origin-elsewhere",
        b"GET /mqtt HTTP/1.1\r\nHost: a\r\nOrigin: http://b\r\nUpgrade: websocket\r\n\
          Connection: upgrade\r\nSec-WebSocket-Version: 13\r\n\r\n",
    ),
    ("page", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("no-host", b"GET /mqtt HTTP/1.1\r\n\r\n"),
    ("post", b"POST /mqtt HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("old", b"GET /mqtt HTTP/1.0\r\n\r\n"),
    ("not-http", b"\x10\x0C\x00\x04MQTT\r\n\r\n"),
    (
        "host-twice",
        b"GET /mqtt HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    ),
    (
        "host-with-bracket",
        b"GET /mqtt HTTP/1.1\r\nHost: [::1\r\nOrigin: x://[\r\n\r\n",
    ),
    ("folded", b"GET /mqtt HTTP/1.1\r\nHost: a\r\n b\r\n\r\n"),
    ("not-utf-8", b"GET /mqtt HTTP/1.1\r\nHost: \xFF\r\n\r\n"),
];

/// Bodies of certificates; whole ones are made by the tests of the reader.
const CERTIFICATES: &[(&str, &[u8])] = &[
    ("empty", b""),
    ("endless-length", b"\x30\x80\x00"),
    ("length-beyond", b"\x30\x82\xFF\xFF\x30"),
    ("length-of-five-bytes", b"\x30\x85\x00\x00\x00\x00\x01\x00"),
    ("long-tag", b"\x3F\x81\x00\x00"),
    (
        "common-name",
        b"\x30\x2F\x30\x2D\x02\x01\x01\x30\x00\x30\x00\x30\x1E\x17\x0D260101000000Z\x17\x0D310101000000Z\
          \x30\x00\x30\x00",
    ),
    (
        "subject",
        b"\x30\x1D\x30\x1B\x02\x01\x01\x30\x00\x30\x00\x30\x00\x30\x0C\x31\x0A\x30\x08\x06\x03\x55\x04\x03\
          \x0C\x01a\x30\x00",
    ),
    (
        "subject-of-set-alone",
        b"\x30\x13\x30\x11\x02\x01\x01\x30\x00\x30\x00\x30\x00\x30\x02\x31\x00\x30\x00\xA3\x00",
    ),
    (
        "alternative",
        b"\x30\x21\x30\x1F\x02\x01\x01\x30\x00\x30\x00\x30\x00\x30\x00\x30\x00\xA3\x10\x30\x0E\x30\x0C\x06\
          \x03\x55\x1D\x11\x04\x05\x30\x03\x82\x01a",
    ),
    (
        "alternative-not-a-text",
        b"\x30\x21\x30\x1F\x02\x01\x01\x30\x00\x30\x00\x30\x00\x30\x00\x30\x00\xA3\x10\x30\x0E\x30\x0C\x06\
          \x03\x55\x1D\x11\x04\x05\x30\x03\x82\x01\xFF",
    ),
    ("sequence-of-itself", b"\x30\x06\x30\x04\x30\x02\x30\x00"),
];

/// The kind of a key, and what a record of that kind says.
const JOURNALS: &[(&str, &[u8])] = &[
    (
        "session",
        b"\x01\x01\x01\x3C\0\0\0\0\0\0\0\0\0\0\0\x04\0pumpanna",
    ),
    (
        "session-without-user",
        b"\x01\x01\0\xFF\xFF\xFF\xFF\0\0\0\0\0\0\0\x80\0\0",
    ),
    (
        "session-shorter-than-its-name",
        b"\x01\x01\0\x3C\0\0\0\0\0\0\0\0\0\0\0\xFF\xFFpump",
    ),
    (
        "session-not-utf-8",
        b"\x01\x01\x01\x3C\0\0\0\0\0\0\0\0\0\0\0\x01\0\xFF\xFE",
    ),
    ("subscription", b"\x02\x01\x0D\x07\0\0\0shed/+/a/#"),
    ("subscription-no-filter", b"\x02\x01\x01\0\0\0\0a#"),
    ("subscription-qos-3", b"\x02\x01\x03\0\0\0\0a"),
    ("received", b"\x03\x01"),
    ("received-version-2", b"\x03\x02"),
    ("sent", b"\x04\x01\x01\x09\0"),
    ("sent-stage-3", b"\x04\x01\x03\x09\0"),
    ("sent-identifier-0", b"\x04\x01\0\0\0"),
    (
        "message",
        b"\0\x01\xE8\x03\0\0\0\0\0\0\x05\x30\x07\0\x03a/b\0x",
    ),
    (
        "retained",
        b"\x05\x01\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x7F\x06\x30\x06\0\x03a/b\0",
    ),
    (
        "message-that-is-no-publish",
        b"\0\x01\0\0\0\0\0\0\0\0\0\xC0\0",
    ),
    (
        "message-qos-3",
        b"\0\x01\0\0\0\0\0\0\0\0\x03\x30\x06\0\x03a/b\0",
    ),
    ("segment-without-anything", b"FGJRNSEG\x01\0\0\0"),
];

/// A client's first message, a line feed, its last.
const SCRAM: &[(&str, &[u8])] = &[
    (
        "rfc-7677",
        b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO\nc=biws,r=rOprNGfwEbeRWgbNEkqOours,\
          p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
    ),
    ("binding-unused", b"y,,n=user,r=x\nc=eSws,r=xours,p=AAAA"),
    ("binding-wanted", b"p=tls-unique,,n=user,r=x\nc=,r=x,p="),
    (
        "identity",
        b"n,a=b=2Cc,n=b=2Cc,r=x\nc=bixhPWI9MkNjLA==,r=xours,p=AA==",
    ),
    ("identity-other", b"n,a=b,n=c,r=x"),
    (
        "escaped",
        b"n,,n==3D=2C=2C,r=x,t=ext\nc=biws,r=xours,t=1,p=",
    ),
    ("escaped-wrong", b"n,,n==3d,r=x"),
    ("escaped-half", b"n,,n=a=2,r=x"),
    ("mandatory", b"n,,m=1,n=a,r=x"),
    ("mandatory-late", b"n,,n=a,r=x\nc=biws,r=xours,m=1,p=AAAA"),
    ("not-utf-8", b"n,,n=\xC3\xBC\xFF,r=x"),
    ("name-of-two-bytes", b"n,,n=\xC3\xBC,r=x\n"),
    ("proof-within", b"n,,n=a,r=x\nc=biws,r=xours,p=AAAA,p=AAAA"),
    ("null", b"n,,n=a\0,r=x"),
];

/// ACL files, right and wrong.
const ACLS: &[(&str, &[u8])] = &[
    (
        "user-and-topics",
        b"user anna\ntopic read a/#\ntopic write a/b\ntopic readwrite c\ntopic deny a/secret\n",
    ),
    ("anonymous", b"topic read $SYS/#\ntopic open/+\n"),
    (
        "patterns",
        b"pattern read user/%u/#\npattern write client/%c\n",
    ),
    ("comments", b"# nothing\n\n  # indented\n\ttopic a\n"),
    ("crlf", b"user a\r\ntopic read b\r\n"),
    ("spaces-in-names", b"user anna maria\ntopic a b/c d\n"),
    ("no-filter", b"topic\ntopic read\npattern\n"),
    ("no-name", b"user\nuser \n"),
    ("unknown-word", b"topics a\nallow a\n"),
    ("unknown-access", b"topic append a\n"),
    (
        "wrong-filter",
        b"topic read a#\ntopic read a/#/b\ntopic +a\n",
    ),
    ("percent-inside", b"pattern x%u/a\npattern %c%c\n"),
    ("control", b"top\x1Bic a\ntopic a\x07 b\n"),
    ("not-utf-8", b"topic read \xFF\xFE\n"),
    ("null", b"topic a\x00b\n"),
    ("empty", b""),
    ("no-newline", b"topic read a"),
    ("share", b"topic read $share/g/a\n"),
];

/// Password files, right and wrong.
const PASSWORDS: &[(&str, &[u8])] = &[
    ("pbkdf2", b"anna:$7$101$c2FsdA==$AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+Pw==\n"),
    ("sha512", b"bert:$6$c2FsdA==$AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+Pw==\n"),
    ("argon2id", b"cyd:$argon2id$v=19$m=47104,t=1,p=1$c2FsdHNhbHRzYWx0$AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8\n"),
    ("twice", b"a:$7$101$c2FsdA==$AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+Pw==\na:$7$101$c2FsdA==$AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+Pw==\n"),
    ("comments", b"# staff\n\n   \n"),
    ("no-colon", b"nobody\n"),
    ("no-name", b":$7$101$c2FsdA==$AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+Pw==\n"),
    ("control-in-name", b"a\x07b:$7$101$c2FsdA==$AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+Pw==\n"),
    ("plain", b"a:secret\n"),
    ("no-hash", b"a:\n"),
    ("no-salt", b"a:$7$101$$AAEC\n"),
    ("iterations-0", b"a:$7$0$c2FsdA==$AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+Pw==\n"),
    ("iterations-huge", b"a:$7$99999999999999999999$c2FsdA==$AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+Pw==\n"),
    ("iterations-negative", b"a:$7$-1$c2FsdA==$AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+Pw==\n"),
    ("not-base64", b"a:$6$!!!!$????\n"),
    ("padding", b"a:$6$c2FsdA=$AA==\n"),
    ("argon-zeros", b"a:$argon2id$v=19$m=0,t=0,p=0$c2FsdHNhbHQ$AAEC\n"),
    ("argon-huge", b"a:$argon2id$v=19$m=4294967295,t=4294967295,p=255$c2FsdHNhbHQ$AAEC\n"),
    ("not-utf-8", b"\xFF:$6$c2FsdA==$AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+Pw==\n"),
    ("crlf", b"a:$7$101$c2FsdA==$AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+Pw==\r\n"),
    ("empty", b""),
];

/// Lives of connections: a byte of options, then steps; see `fuzz/lives.rs`.
const LIVES: &[(&str, &[u8])] = &[
    ("v4-to-itself", b"\x00\x00\x07\x11\x08\n\x82\x08\x00\x01\x00\x03a/#\x02\x08\n4\x08\x00\x03a/b\x00\x01x\x08\x04b\x02\x00\x01\x08\x04P\x02\x00\x01\x08\x04p\x02\x00\x01"),
    (
        "connect-of-another-version-behind-the-first",
        b"\x00\x00\x07\x12\x08\x0E\x10\x0C\x00\x04MQTT\x09\x02\x00\x00\x00\x00",
    ),
    ("v5-to-itself", b"\x00\x00\x07\x12\x08\t\x82\x07\x00\x01\x00\x00\x01+\x01\x08\t2\x07\x00\x01t\x00\x01\x00x\x08\x04@\x02\x00\x01"),
    ("takeover", b"\x00\x00\x00\x07\x02\x08\t\x82\x07\x00\x01\x00\x00\x01#\x01\x17\x02\x18\t2\x07\x00\x01t\x00\x01\x00x\x01"),
    ("queue-and-resume", b"\x01\x00\x07\x01\x08\x08\x82\x06\x00\x01\x00\x01q\x01\x01\x00\x07Q\x08\x082\x06\x00\x01q\x00\x010\x08\x082\x06\x00\x01q\x00\x011\x08\x082\x06\x00\x01q\x00\x012\x08\x082\x06\x00\x01q\x00\x013\x08\x082\x06\x00\x01q\x00\x014\x08\x082\x06\x00\x01q\x00\x015\x08\x082\x06\x00\x01q\x00\x016\x08\x082\x06\x00\x01q\x00\x017\x00\x17\x01\x02\n"),
    ("refuse-when-full", b"\x02\x00\x07\x02\x08\t\x82\x07\x00\x01\x00\x00\x01q\x01\x01\x00\x07R\x08\t2\x07\x00\x01q\x00\x01\x000\x08\t2\x07\x00\x01q\x00\x01\x001\x08\t2\x07\x00\x01q\x00\x01\x002\x08\t2\x07\x00\x01q\x00\x01\x003\x08\t2\x07\x00\x01q\x00\x01\x004\x08\t2\x07\x00\x01q\x00\x01\x005\x08\t2\x07\x00\x01q\x00\x01\x006\x08\t2\x07\x00\x01q\x00\x01\x007"),
    ("disconnect-when-full", b"\x03\x00\x07\x02\x08\t\x82\x07\x00\x01\x00\x00\x01q\x01\x03\x00\x17R\x18\t2\x07\x00\x01q\x00\x01\x000\x18\t2\x07\x00\x01q\x00\x01\x001\x18\t2\x07\x00\x01q\x00\x01\x002\x18\t2\x07\x00\x01q\x00\x01\x003\x18\t2\x07\x00\x01q\x00\x01\x004\x18\t2\x07\x00\x01q\x00\x01\x005\x18\t2\x07\x00\x01q\x00\x01\x006\x18\t2\x07\x00\x01q\x00\x01\x007\x18\t2\x07\x00\x01q\x00\x01\x008\x18\t2\x07\x00\x01q\x00\x01\x009\x18\n2\x08\x00\x01q\x00\x01\x0010\x18\n2\x08\x00\x01q\x00\x01\x0011\x03"),
    ("will-delayed", b"\x00\x00\x00\x07\"\x17R\x18\t\x82\x07\x00\x01\x00\x00\x01w\x01\x01\x022\x02x"),
    ("will-and-back", b"\x00\x00\x00\x07\"\x17R\x01\x022\x00\x17\x02\x02x"),
    ("retained-and-replay", b"\x00\x00\x07\x12\x08\t1\x07\x00\x03r/0\x00x\x08\t1\x07\x00\x03r/1\x00x\x08\t1\x07\x00\x03r/2\x00x\x08\t1\x07\x00\x03r/3\x00x\x08\t1\x07\x00\x03r/4\x00x\x08\t1\x07\x00\x03r/5\x00x\x08\x0B\x82\t\x00\x01\x00\x00\x03r/+\x01\x08\n\xA2\x08\x00\x01\x00\x00\x03r/+\x08\x081\x06\x00\x03r/1\x00"),
    ("expiry", b"\x00\x00\x07\x12\x08\x0E3\x0C\x00\x01e\x00\x01\x05\x02\x00\x00\x00\x05x\x02d\x08\t\x82\x07\x00\x01\x00\x00\x01e\x01"),
    ("aliases", b"\x00\x00\x07\x12\x08\x0B0\t\x00\x02al\x03#\x00\x01x\x08\t0\x07\x00\x00\x03#\x00\x01y\x08\t0\x07\x00\x00\x03#\x00\x02z"),
    ("shared", b"\x00\x00\x00\x00\x07\x12\x17R'\x92\x08\x12\x82\x10\x00\x01\x00\x00\n$share/g/s\x01\x18\x12\x82\x10\x00\x01\x00\x00\n$share/g/s\x01(\t2\x07\x00\x01s\x00\x01\x000(\t2\x07\x00\x01s\x00\x01\x001(\t2\x07\x00\x01s\x00\x01\x002(\t2\x07\x00\x01s\x00\x01\x003\x01"),
    ("fetched", b" \x00\x07\x12\x08\t\x82\x07\x00\x01\x00\x00\x01f\x01\x08\t2\x07\x00\x01f\x00\x01\x00x\x04\x01\x08\x04@\x02\x00\x01"),
    ("journal-behind", b"\x00\x00\x07\x01\x05\x08\x08\x82\x06\x00\x01\x00\x01j\x01\x08\x082\x06\x00\x01j\x00\x01x\x08\x082\x06\x00\x01j\x00\x02x\x08\x082\x06\x00\x01j\x00\x03x\x08\x082\x06\x00\x01j\x00\x04x\x08\x082\x06\x00\x01j\x00\x05x\x05"),
    ("quota", b"\x10\x00\x07\x11\x08\x082\x06\x00\x01q\x00\x01x\x08\x082\x06\x00\x01q\x00\x02x\x08\x082\x06\x00\x01q\x00\x03x\x08\x082\x06\x00\x01q\x00\x04x\x08\x082\x06\x00\x01q\x00\x05x\x02\x14"),
    ("reload", b"\x00\x00\x07\x02\x08\t\x82\x07\x00\x01\x00\x00\x01#\x02\x06\x03\x08\t4\x07\x00\x01t\x00\x01\x00x\x06\x11"),
    ("receive-maximum", b"\x00\x00\x07\x12\x08\t4\x07\x00\x01m\x00\x01\x00x\x08\t4\x07\x00\x01m\x00\x02\x00x\x08\t4\x07\x00\x01m\x00\x03\x00x\x08\t4\x07\x00\x01m\x00\x04\x00x\x08\t4\x07\x00\x01m\x00\x05\x00x"),
    ("too-many", b"\x00\x00\x00\x00\x00\x07\x11\x17R'\x917\xD2\x02n"),
    ("too-large", b"\x00\x00\x07\x12\x08\x030\xFF\x7F\x00\x08\x03\x10\xFF\x7F"),
    ("mqisdp", b"\x00\x00\x07\x10\x08\x08\x82\x06\x00\x01\x00\x01a\x01\x08\x082\x06\x00\x01a\x00\x01x\x08\x02\xE0\x00"),
    ("silence", b"\x00\x00\x00\x07\x11\x02\xFF\x02\xFF"),
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
        ("frames", FRAMES),
        ("proxy", PROXY),
        ("upgrade", UPGRADE),
        ("certificate", CERTIFICATES),
        ("scram", SCRAM),
        ("acl", ACLS),
        ("passwords", PASSWORDS),
        ("journal", JOURNALS),
        ("broker", LIVES),
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

#[test]
fn frames_of_the_corpus() {
    run("frames", checks::frames);
}

#[test]
fn proxy_headers_of_the_corpus() {
    run("proxy", checks::proxy);
}

#[test]
fn upgrades_of_the_corpus() {
    run("upgrade", checks::upgrade);
}

#[test]
fn scram_messages_of_the_corpus() {
    run("scram", checks::scram);
}

#[test]
fn certificates_of_the_corpus() {
    run("certificate", checks::certificate);
}

#[test]
fn acl_files_of_the_corpus() {
    run("acl", checks::acl);
}

#[test]
fn password_files_of_the_corpus() {
    run("passwords", checks::passwords);
}

#[test]
fn journals_of_the_corpus() {
    run("journal", checks::journal);
}

#[test]
fn lives_of_the_corpus() {
    run("broker", checks::broker);
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
            ("frames", checks::frames),
            ("proxy", checks::proxy),
            ("upgrade", checks::upgrade),
            ("certificate", checks::certificate),
            ("scram", checks::scram),
            ("acl", checks::acl),
            ("passwords", checks::passwords),
            ("journal", checks::journal),
            ("broker", checks::broker),
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
