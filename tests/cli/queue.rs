//! `queue export`: what waits for a bridge whose other end is gone, as lines.

use std::fs;

use data_encoding::HEXLOWER;
use serde_json::{Value, json};

use crate::support::{
    Ended, Gateway, Running, fieldgate, fieldgate_with_input, free_port, path_text,
};

/// A gateway whose bridge has nobody to send to.
fn bridged() -> (Gateway, Vec<String>) {
    let port = free_port();
    let tables = format!(
        "[bridge.cloud]\nurl = \"mqtt://127.0.0.1:{port}\"\n[[bridge.cloud.send]]\n\
         filter = \"plant/#\"\nto = \"up/plant/#\"\nqos = 1\n"
    );
    let gateway = Gateway::start_keeping(&tables);
    let socket = path_text(&gateway.folder.path("control.sock"));
    let reach = ["--socket".to_owned(), socket];
    (gateway, reach.to_vec())
}

fn queue(words: &[&str], reach: &[String]) -> Ended {
    let mut all = vec!["queue"];
    all.extend(words);
    all.extend(reach.iter().map(String::as_str));
    fieldgate(&all)
}

fn publish(gateway: &Gateway, topic: &str, payload: &[u8], more: &[&str]) {
    let port = gateway.port();
    let mut all = vec!["pub", "-p", &port, "-q", "1", "-t", topic, "-s"];
    all.extend(more);
    let ended = fieldgate_with_input(&all, payload);
    assert_eq!(ended.code, Some(0), "{}", ended.err);
}

fn publish_lines(gateway: &Gateway, topic: &str, lines: &str) {
    let port = gateway.port();
    let arguments = ["pub", "-p", &port, "-q", "1", "-t", topic, "-l"];
    let ended = fieldgate_with_input(&arguments, lines.as_bytes());
    assert_eq!(ended.code, Some(0), "{}", ended.err);
}

fn exported(reach: &[String]) -> Vec<Value> {
    let ended = queue(&["export", "cloud"], reach);
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    let lines = ended
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    let lines: Vec<Value> = lines.collect();
    assert_eq!(ended.err, format!("{} messages\n", lines.len()));
    lines
}

#[test]
fn what_waits_is_exported_oldest_first_and_goes_on_waiting() {
    let (gateway, reach) = bridged();
    assert_eq!(exported(&reach), [] as [Value; 0]);
    // One piece does not hold it, nor would one answer.
    let long: Vec<u8> = (0..700_000_u32).map(|at| (at % 251) as u8).collect();
    publish(&gateway, "plant/a", "21.4 °C".as_bytes(), &["-r"]);
    publish(&gateway, "plant/long", &long, &[]);
    publish(&gateway, "plant/bytes", b"\xff\x00", &[]);
    let numbers: Vec<String> = (0..600).map(|number| number.to_string()).collect();
    publish_lines(&gateway, "plant/many", &numbers.join("\n"));
    for _ in 0..2 {
        let lines = exported(&reach);
        assert_eq!(lines.len(), 603);
        let sequences: Vec<_> = lines
            .iter()
            .map(|line| line["seq"].as_u64().unwrap())
            .collect();
        assert!(sequences.is_sorted_by(|a, b| a < b), "{sequences:?}");
        let (first, long_one) = (&lines[0], &lines[1]);
        assert_eq!(first["payload"], "21.4 °C");
        assert_eq!(first["topic"], "plant/a", "as it was published");
        assert_eq!((&first["qos"], &first["retain"]), (&json!(1), &json!(true)));
        assert!(first["time"].as_str().unwrap().ends_with('Z'), "{first}");
        let hex = long_one["payload_hex"].as_str().unwrap();
        assert!(hex == HEXLOWER.encode(&long), "the long one is whole");
        assert_eq!(lines[2]["payload_hex"], "ff00");
        let texts = lines[3..]
            .iter()
            .map(|line| line["payload"].as_str().unwrap());
        assert!(texts.eq(numbers.iter().map(String::as_str)));
    }
    let shown = queue(&["--json"], &reach);
    let shown: Value = serde_json::from_str(&shown.out).unwrap();
    assert_eq!(shown["bridges"]["cloud"]["messages"], 603);

    // A bridge that is configured no more keeps its queue, and that can be had.
    let config = gateway.folder.path("fieldgate.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.split("[bridge.").next().unwrap()).unwrap();
    let mut gateway = gateway;
    gateway.running.signal("HUP");
    gateway.running.wait_for_err("bridge cloud is taken out");
    assert_eq!(exported(&reach).len(), 603);
    assert_eq!(queue(&["drop", "cloud"], &reach).code, Some(0));
    let ended = queue(&["export", "cloud"], &reach);
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("no bridge has a queue"), "{}", ended.err);
}

#[test]
fn nothing_is_exported_of_what_is_not_kept_or_over_mqtt() {
    let port = free_port();
    let gateway = Gateway::start(&format!(
        "[bridge.cloud]\nurl = \"mqtt://127.0.0.1:{port}\"\n[[bridge.cloud.send]]\n\
         filter = \"plant/#\"\n"
    ));
    let socket = path_text(&gateway.folder.path("control.sock"));
    let reach = ["--socket".to_owned(), socket];
    for (name, why) in [
        ("cloud", "there is no data_dir"),
        ("clod", "no bridge has a queue"),
    ] {
        let ended = queue(&["export", name], &reach);
        assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""));
        assert!(ended.err.contains(why), "{}", ended.err);
    }
    for words in [
        &["export"][..],
        &["export", "cloud", "--format", "csv"],
        &["--format", "jsonl"],
    ] {
        assert_eq!(queue(words, &reach).code, Some(2), "{words:?}");
    }
    let (gateway, _) = bridged();
    publish(&gateway, "plant/a", b"secret", &[]);
    let port = gateway.port();
    let answer = "test/gateway/response/queue";
    let mut sub = Running::start(&["sub", "-d", "-p", &port, "-t", answer, "-C", "1"]);
    sub.wait_for_err("subscribed");
    let request = br#"{"export":"cloud"}"#;
    publish(&gateway, "test/gateway/request/queue", request, &[]);
    let ended = sub.end();
    assert!(
        ended.out.contains("on the control socket alone"),
        "{ended:?}"
    );
}
