//! `journal inspect`: what a gateway has kept is told, damage too, and nothing is written.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use fieldgate::journal::{Found, inspect};
use serde_json::Value;

use crate::support::{Ended, Folder, Running, fieldgate, path_text};

/// Everything in a folder, by name.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        files.insert(name, fs::read(&path).unwrap());
    }
    files
}

/// A gateway that has kept a session with two messages, its client's will while that was there, and
/// one message retained, and has ended.
fn kept(folder: &Folder) -> String {
    let data = folder.path("data");
    let text = format!(
        "[gateway]\nname = \"test\"\ndata_dir = \"{}\"\n[listener.test]\nbind = \
         \"127.0.0.1:0\"\n[control]\nsocket = \"{}\"\n[journal]\nsize = \"2MiB\"\nsegment = \
         \"128KiB\"\n[broker]\nmax_packet_size = \"32KiB\"\n",
        path_text(&data),
        path_text(&folder.path("control.sock")),
    );
    let config = path_text(&folder.file("fieldgate.toml", &text));
    let mut gateway = Running::start(&["run", "--config", &config]);
    let line = gateway.wait_for_err("listening name=test");
    let port = line.rsplit(':').next().unwrap().to_owned();
    let mut sub = Running::start(&[
        "sub",
        "-d",
        "-p",
        &port,
        "-c",
        "-i",
        "reader",
        "-q",
        "1",
        "-t",
        "shed/#",
        "-C",
        "1",
        "--will-topic",
        "shed/gone",
        "--will-payload",
        "bye",
        "--will-retain",
    ]);
    sub.wait_for_err("subscribed");
    let publish = |arguments: &[&str]| {
        let mut all = vec!["pub", "-p", &port, "-q", "1"];
        all.extend(arguments);
        let ended = fieldgate(&all);
        assert_eq!(ended.code, Some(0), "{}", ended.err);
    };
    publish(&["-t", "shed/a", "-m", "first"]);
    assert_eq!(sub.end().code, Some(0));
    publish(&["-t", "shed/b", "-m", "second\u{1b}[31m"]);
    publish(&["-t", "shed/kept", "-m", "third", "-r"]);
    gateway.signal("TERM");
    assert_eq!(gateway.end().code, Some(0));
    path_text(&data)
}

fn inspected(arguments: &[&str]) -> Ended {
    let mut all = vec!["journal", "inspect"];
    all.extend(arguments);
    let ended = fieldgate(&all);
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""));
    ended
}

fn json(arguments: &[&str]) -> Value {
    let mut all = vec!["--json"];
    all.extend(arguments);
    serde_json::from_str(&inspected(&all).out).unwrap()
}

/// The offsets of a segment's batches, with the bytes of their records.
fn batches(bytes: &[u8]) -> Vec<(usize, u32)> {
    let mut found = Vec::new();
    inspect(bytes, &mut |part| {
        if let Found::Batch { offset, len, .. } = part {
            found.push((offset as usize, len));
        }
    });
    found
}

#[test]
fn what_was_kept_is_told_and_nothing_is_written() {
    let folder = Folder::new();
    let data = kept(&folder);
    let journal = folder.path("data/journal");
    let before = files(&journal);

    let told = json(&[&data]);
    let live = &told["live"];
    for (kind, count) in [
        ("sessions", 1),
        ("subscriptions", 1),
        ("queue_entries", 2),
        ("received", 0),
        ("sent", 0),
        ("wills", 0),
    ] {
        assert_eq!(live[kind], count, "{kind}: {told:#}");
        assert!(told["written"][kind].as_u64() >= Some(count), "{kind}");
    }
    assert_eq!(told["written"]["queue_entries"], 3, "{told:#}");
    assert_eq!(told["written"]["wills"], 1, "{told:#}");
    // The client's, and the gateway's own.
    assert!(live["retained"].as_u64() > Some(1), "{told:#}");
    assert_eq!(live["queues"][0]["entries"], 2);
    assert_eq!(told["damage"], Value::Array(Vec::new()));
    assert!(told.get("records").is_none());
    let logs: Vec<&Value> = told["segments"].as_array().unwrap().iter().collect();
    let log = logs.iter().find(|segment| segment["state"] == "log");
    let log = log.expect("a segment of the log");
    assert_eq!(log["version"], 1);
    assert!(log["records"].as_u64() > Some(6), "{log}");

    // The folder itself does as well, and so does the file that everything is in.
    let same = json(&[&path_text(&journal)]);
    assert_eq!(same, told);
    let segment = journal.join(log["file"].as_str().unwrap());
    let one = json(&[&path_text(&segment)]);
    assert_eq!(one["segments"][0]["sequence"], log["sequence"]);
    assert_eq!(one["live"], Value::Null);

    let told = json(&[&data, "--records"]);
    let records = told["records"].as_array().unwrap();
    let what = |name: &str| {
        let found = records.iter().find(|record| record["what"] == name);
        found.unwrap_or_else(|| panic!("no {name}: {told:#}"))
    };
    assert_eq!(what("session")["client_id"], "reader");
    assert_eq!(what("subscription")["filter"], "shed/#");
    assert_eq!(what("will")["client_id"], "reader");
    assert_eq!(what("will")["topic"], "shed/gone");
    assert_eq!(what("will")["delay"], 0);
    assert_eq!(what("will")["due"], Value::Null);
    assert_eq!(what("will")["targets"][0]["kind"], "will");
    assert_eq!(what("message")["topic"], "shed/a");
    assert_eq!(what("message")["size"], 5);
    assert!(what("message").get("payload").is_none());
    assert_eq!(what("message")["targets"][0]["kind"], "queue_entry");
    let with = json(&[&data, "--payloads"]);
    assert!(
        with.to_string().contains("\"payload\":\"first\""),
        "{with:#}"
    );

    let text = inspected(&[&data]).out;
    for wanted in [
        "Segments",
        "sessions",
        "queue states",
        "from 2 to 4",
        "Damage\n  none",
    ] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
    // Of all that a start finds, how many there are of it is told.
    for name in ["sent", "others"] {
        let mut lines = text.lines().map(str::split_whitespace);
        let row = lines.find_map(|mut words| (words.next() == Some(name)).then_some(words));
        let numbers: Vec<String> = row.expect("a row").map(str::to_owned).collect();
        let wanted = [&told["written"][name], &live[name]].map(Value::to_string);
        assert_eq!(numbers, wanted, "{name}: {text}");
    }
    let text = inspected(&[&data, "--records"]).out;
    assert!(text.contains("session \"reader\", expiry "), "{text}");
    assert!(
        text.contains("message \"shed/kept\", QoS 1, RETAIN, 5 bytes: "),
        "{text}"
    );
    assert!(
        text.contains("will of \"reader\", delay 0 s: \"shed/gone\", QoS 0, RETAIN, 3 bytes"),
        "{text}"
    );
    assert!(!text.contains("third"), "{text}");
    let text = inspected(&[&data, "--payloads"]).out;
    assert!(text.contains("\"third\""), "{text}");
    assert!(
        text.contains("second\\u{1b}[31m"),
        "a terminal is told nothing: {text}"
    );

    assert_eq!(files(&journal), before);
}

#[test]
fn damage_a_torn_tail_and_a_newer_version_are_told_apart() {
    let folder = Folder::new();
    kept(&folder);
    let journal = folder.path("data/journal");
    let before = files(&journal);
    let full = before.iter().max_by_key(|(_, bytes)| batches(bytes).len());
    let (name, bytes) = full.unwrap();
    let places = batches(bytes);
    assert!(places.len() >= 3, "{places:?}");
    let path = journal.join(name);
    let flipped = |at: usize| {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1;
        fs::write(&path, bytes).unwrap();
        json(&[&path_text(&journal)])
    };
    // A record of the first batch, which the second says was synced; then one of the last.
    let (first, last) = (places[0].0, places[places.len() - 1].0);
    let told = flipped(first + 64 + 20);
    assert_eq!(told["damage"][0]["file"], name.as_str(), "{told:#}");
    assert_eq!(told["damage"][0]["offset"], first + 64);
    assert_eq!(told["damage"][0]["is_damage"], true);
    let told = flipped(last + 64 + 20);
    assert_eq!(told["damage"][0]["offset"], last + 64, "{told:#}");
    assert_eq!(told["damage"][0]["is_damage"], false);
    let text = inspected(&[&path_text(&journal)]).out;
    assert!(text.contains("torn: was being written"), "{text}");
    // Its header is gone: the batches are still told.
    let told = flipped(0);
    let mut segments = told["segments"].as_array().unwrap().iter();
    let segment = segments.find(|segment| segment["file"] == name.as_str());
    let segment = segment.unwrap();
    assert_eq!(segment["state"], "no_header");
    assert_eq!(segment["batches"], places.len());
    assert_eq!(told["live"]["sessions"], 1);

    // Version 2, with the checksum of the first twelve bytes.
    let mut newer = bytes.clone();
    newer[8] = 2;
    let guard = crc32c(&newer[..12]);
    newer[12..16].copy_from_slice(&guard.to_le_bytes());
    fs::write(&path, newer).unwrap();
    let text = inspected(&[&path_text(&journal)]).out;
    assert!(
        text.contains("newer version 2; this program knows 1"),
        "{text}"
    );
    assert_eq!(json(&[&path_text(&journal)])["live"], Value::Null);

    // What is no journal at all is one without anything in it.
    let other = folder.file("other", "nothing of ours");
    let told = json(&[&path_text(&other)]);
    assert_eq!(told["segments"][0]["state"], "no_header");
    let empty = folder.file("empty", "");
    assert_eq!(json(&[&path_text(&empty)])["segments"][0]["records"], 0);
}

#[test]
fn what_cannot_be_read_and_what_makes_no_sense_are_told() {
    let folder = Folder::new();
    let nowhere = path_text(&folder.path("nowhere"));
    let ended = fieldgate(&["journal", "inspect", &nowhere]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("cannot read"), "{}", ended.err);
    let ended = fieldgate(&["journal", "inspect", &path_text(&folder.path(""))]);
    assert_eq!(ended.code, Some(1));
    assert!(
        ended.err.contains("there are no segments in"),
        "{}",
        ended.err
    );
    for arguments in [
        &["journal"][..],
        &["journal", "inspect"],
        &["journal", "look", &nowhere],
        &["journal", "inspect", &nowhere, &nowhere],
        &["journal", "inspect", &nowhere, "--bodies"],
    ] {
        assert_eq!(fieldgate(arguments).code, Some(2), "{arguments:?}");
    }
}

fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0x82F6_3B78 * (crc & 1))
        })
    })
}
