//! `pub`, `sub` and `bench` against our own broker, and with mosquitto's clients at the other end
//! where they are installed.

use std::process::{Command, Stdio};

use crate::support::{Gateway, Running, configuration, fieldgate, fieldgate_with_input, free_port};

const VERSIONS: [&str; 3] = ["5", "311", "31"];

/// `sub` that has subscribed when this returns.
fn subscriber(arguments: &[&str]) -> Running {
    let mut all = vec!["sub", "-d"];
    all.extend(arguments);
    let mut running = Running::start(&all);
    running.wait_for_err("subscribed");
    running
}

#[test]
fn what_pub_says_sub_hears_in_every_version_and_qos() {
    let gateway = Gateway::start("");
    let port = gateway.port();
    for version in VERSIONS {
        for qos in ["0", "1", "2"] {
            let common = ["-p", &port, "-V", version, "-q", qos];
            let topic = format!("a/{version}/{qos}");
            let mut listen = vec!["-t", "a/#", "-C", "1", "-F", "%t %q %p"];
            listen.extend(common);
            let sub = subscriber(&listen);
            let mut say = vec!["pub", "-t", &topic, "-m", "grüße"];
            say.extend(common);
            let said = fieldgate(&say);
            assert_eq!((said.code, said.err.as_str()), (Some(0), ""));
            let heard = sub.end();
            assert_eq!(heard.code, Some(0), "{}", heard.err);
            assert_eq!(heard.out, format!("{topic} {qos} grüße\n"));
        }
    }
}

#[test]
fn each_line_of_standard_input_is_a_message() {
    let gateway = Gateway::start("");
    let port = gateway.port();
    let sub = subscriber(&["-p", &port, "-t", "lines", "-C", "3", "-q", "1"]);
    let arguments = ["pub", "-p", &port, "-t", "lines", "-l", "-q", "1"];
    let said = fieldgate_with_input(&arguments, b"one\n\nthree");
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert_eq!(sub.end().out, "one\n\nthree\n");
}

#[test]
fn a_whole_input_a_file_and_nothing_are_messages_too() {
    let gateway = Gateway::start("");
    let port = gateway.port();
    let sub = subscriber(&["-p", &port, "-t", "whole", "-C", "4", "-F", "%l:%x"]);
    let said = fieldgate_with_input(&["pub", "-p", &port, "-t", "whole", "-s"], b"a\nb");
    assert_eq!(said.code, Some(0), "{}", said.err);
    let file = gateway.folder.file("payload", "\0\n");
    let file = file.to_str().unwrap();
    assert_eq!(
        fieldgate(&["pub", "-p", &port, "-t", "whole", "-f", file]).code,
        Some(0)
    );
    assert_eq!(
        fieldgate(&["pub", "-p", &port, "-t", "whole", "-n"]).code,
        Some(0)
    );
    let twice = [
        "pub", "-p", &port, "-t", "other", "-m", "x", "--repeat", "2",
    ];
    assert_eq!(fieldgate(&twice).code, Some(0));
    let last = ["pub", "-p", &port, "-t", "whole", "-m", "z"];
    assert_eq!(fieldgate(&last).code, Some(0));
    assert_eq!(sub.end().out, "3:610a62\n2:000a\n0:\n1:7a\n");
}

#[test]
fn a_large_message_arrives_whole() {
    let gateway = Gateway::start("");
    let port = gateway.port();
    let payload = vec![b'x'; 900_000];
    for qos in ["0", "2"] {
        let sub = subscriber(&["-p", &port, "-t", "large", "-C", "1", "-q", qos, "-F", "%l"]);
        let arguments = ["pub", "-p", &port, "-t", "large", "-s", "-q", qos];
        let said = fieldgate_with_input(&arguments, &payload);
        assert_eq!(said.code, Some(0), "{}", said.err);
        assert_eq!(sub.end().out, "900000\n");
    }
}

#[test]
fn retained_messages_are_told_from_fresh_ones() {
    let gateway = Gateway::start("");
    let port = gateway.port();
    let keep = [
        "pub", "-p", &port, "-t", "kept", "-m", "old", "-r", "-q", "1",
    ];
    assert_eq!(fieldgate(&keep).code, Some(0));
    let common = ["-p", &port, "-t", "kept", "-v"];
    let sub = |more: &[&str]| {
        let mut all = common.to_vec();
        all.extend(more);
        all.insert(0, "sub");
        fieldgate(&all)
    };
    assert_eq!(sub(&["-C", "1", "-F", "%r%p"]).out, "1old\n");
    let nothing = sub(&["-R", "-W", "1"]);
    assert_eq!((nothing.code, nothing.out.as_str()), (Some(27), ""));
    let removed = sub(&["--remove-retained", "-C", "1"]);
    assert_eq!(removed.out, "kept old\n");
    assert_eq!(sub(&["-C", "1", "-W", "1"]).code, Some(27));
}

#[test]
fn properties_travel_with_a_message() {
    let gateway = Gateway::start("");
    let port = gateway.port();
    let format = "%C|%R|%D|%P|%F|%E";
    let sub = subscriber(&["-p", &port, "-V", "5", "-t", "p", "-C", "1", "-F", format]);
    let said = fieldgate(&[
        "pub",
        "-p",
        &port,
        "-t",
        "p",
        "-m",
        "x",
        "-D",
        "publish",
        "content-type",
        "text/plain",
        "-D",
        "publish",
        "response-topic",
        "answers",
        "-D",
        "publish",
        "correlation-data",
        "7",
        "-D",
        "publish",
        "user-property",
        "unit",
        "°C",
        "-D",
        "PUBLISH",
        "payload-format-indicator",
        "1",
        "-D",
        "publish",
        "message-expiry-interval",
        "60",
    ]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert_eq!(sub.end().out, "text/plain|answers|7|unit:°C|1|60\n");
}

#[test]
fn a_kept_session_has_what_came_meanwhile() {
    let gateway = Gateway::start("");
    let port = gateway.port();
    for version in ["5", "311"] {
        let id = format!("keeper-{version}");
        let session = [
            "-p", &port, "-V", version, "-i", &id, "-c", "-q", "1", "-t", "s",
        ];
        let with = |verb: &str, more: &[&str]| {
            let mut all = vec![verb];
            all.extend(session);
            all.extend(more);
            fieldgate(&all)
        };
        let subscribed = with("sub", &["-E"]);
        assert_eq!((subscribed.code, subscribed.out.as_str()), (Some(0), ""));
        let said = fieldgate(&["pub", "-p", &port, "-t", "s", "-m", version, "-q", "1"]);
        assert_eq!(said.code, Some(0));
        assert_eq!(with("sub", &["-C", "1"]).out, format!("{version}\n"));
    }
}

#[test]
fn a_will_is_published_when_its_client_is_lost() {
    let gateway = Gateway::start("");
    let port = gateway.port();
    let sub = subscriber(&["-p", &port, "-t", "will", "-C", "1"]);
    let doomed = subscriber(&[
        "-p",
        &port,
        "-t",
        "x",
        "--will-topic",
        "will",
        "--will-payload",
        "lost",
    ]);
    doomed.signal("KILL");
    drop(doomed);
    assert_eq!(sub.end().out, "lost\n");
}

#[test]
fn a_signal_ends_sub_in_order() {
    let gateway = Gateway::start("");
    let port = gateway.port();
    let will = subscriber(&["-p", &port, "-t", "will", "-C", "1"]);
    let sub = subscriber(&["-p", &port, "-t", "x", "--will-topic", "will"]);
    sub.signal("INT");
    let ended = sub.end();
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), ""));
    // Its DISCONNECT has taken the will with it: the next message is the first.
    let fence = fieldgate(&["pub", "-p", &port, "-t", "will", "-m", "fence"]);
    assert_eq!(fence.code, Some(0));
    assert_eq!(will.end().out, "fence\n");
}

#[test]
fn nobody_there_is_1_and_no_answer_in_time_is_27() {
    let port = free_port().to_string();
    for verb in [&["pub", "-m", "x"][..], &["sub"]] {
        let mut arguments = verb.to_vec();
        arguments.extend(["-p", &port, "-t", "a"]);
        let ended = fieldgate(&arguments);
        assert_eq!(ended.code, Some(1));
        assert!(
            ended.err.contains("cannot connect to localhost"),
            "{}",
            ended.err
        );
        arguments.push("--quiet");
        assert_eq!(fieldgate(&arguments).err, "");
    }
    let gateway = Gateway::start("");
    let ended = fieldgate(&["sub", "-p", &gateway.port(), "-t", "a", "-W", "0.1"]);
    assert_eq!(ended.code, Some(27), "{}", ended.err);
}

#[test]
fn sub_comes_back_when_its_broker_does() {
    let first = Gateway::start("");
    let port = first.port();
    let mut sub = subscriber(&["-p", &port, "-t", "a", "-C", "1"]);
    // At the same place as before.
    let config = configuration(&first.folder, first.port, "");
    first.running.signal("TERM");
    sub.wait_for_err("connection lost");
    let stopped = first.running.end();
    assert_eq!(stopped.code, Some(0), "{}", stopped.err);
    let mut second = Running::start(&["run", "--config", &config]);
    second.wait_for_err("listening");
    sub.wait_for_err("subscribed");
    assert_eq!(
        fieldgate(&["pub", "-p", &port, "-t", "a", "-m", "back"]).code,
        Some(0)
    );
    assert_eq!(sub.end().out, "back\n");
}

#[test]
fn a_unix_socket_is_a_place_too() {
    let folder = crate::support::Folder::new();
    let socket = folder.path("mqtt.sock");
    let socket = socket.to_str().unwrap();
    let tables = format!("[listener.unix]\nbind = \"unix:{socket}\"\n");
    let mut gateway = Gateway::start(&tables);
    gateway.running.wait_for_err("listening name=unix");
    let sub = subscriber(&["--unix", socket, "-t", "a", "-C", "1"]);
    let said = fieldgate(&["pub", "--unix", socket, "-t", "a", "-m", "x"]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert_eq!(sub.end().out, "x\n");
    drop(gateway);
}

#[test]
fn mosquittos_clients_and_ours_understand_each_other() {
    if !is_installed("mosquitto_pub") {
        eprintln!("skipped: mosquitto-clients is not installed");
        return;
    }
    let gateway = Gateway::start("");
    let port = gateway.port();
    for (version, theirs) in [("5", "mqttv5"), ("311", "mqttv311"), ("31", "mqttv31")] {
        let sub = subscriber(&["-p", &port, "-t", "a/#", "-q", "2", "-C", "1", "-v"]);
        let arguments = [
            "-p", &port, "-V", theirs, "-q", "2", "-t", "a/b", "-m", version,
        ];
        let said = Running::start_program("mosquitto_pub", &arguments).end();
        assert_eq!(said.code, Some(0), "{}", said.err);
        assert_eq!(sub.end().out, format!("a/b {version}\n"));
    }
}

/// A format that both print is the same to the byte.
#[test]
fn our_format_language_is_mosquitto_subs() {
    if !is_installed("mosquitto_sub") {
        eprintln!("skipped: mosquitto-clients is not installed");
        return;
    }
    let gateway = Gateway::start("");
    let port = gateway.port();
    let keep = [
        "pub",
        "-p",
        &port,
        "-t",
        "f",
        "-m",
        "{\"a\": 1}",
        "-r",
        "-q",
        "1",
        "-D",
        "publish",
        "user-property",
        "unit",
        "W",
        "-D",
        "publish",
        "content-type",
        "application/json",
    ];
    assert_eq!(fieldgate(&keep).code, Some(0));
    let format = r"%t|%p|%q|%r|%l|%x|%X|%C|%P|%R|%05l|%-8t|%4.2t|%%|\t\\|@@|@Y-@m-@d";
    let arguments = [
        "-p", &port, "-V", "5", "-t", "f", "-q", "1", "-C", "1", "-F", format,
    ];
    let theirs = Running::start_program("mosquitto_sub", &arguments).end();
    let mut own = vec!["sub"];
    own.extend(arguments);
    assert_eq!(fieldgate(&own).out, theirs.out);
}

#[test]
fn bench_measures_and_says_so_as_json() {
    let gateway = Gateway::start("");
    let port = gateway.port();
    for workload in ["fan-in", "fan-out", "p2p", "queue", "drain"] {
        for qos in ["0", "1", "2"] {
            if qos == "0" && matches!(workload, "queue" | "drain") {
                continue;
            }
            let ended = fieldgate(&[
                "bench",
                "--port",
                &port,
                "--workload",
                workload,
                "--qos",
                qos,
                "--clients",
                "5",
                "--messages",
                "500",
                "--batch",
                "7",
                "--json",
            ]);
            assert_eq!(ended.code, Some(0), "{}", ended.err);
            let found: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
            let run = &found[0];
            assert_eq!(run["delivered"], 500, "{run}");
            assert_eq!(run["lost"], 0);
            let latency = &run["latency_ns"];
            assert_eq!(latency["corrected"], false);
            assert!(latency["p50"].as_u64() <= latency["p99"].as_u64());
            assert!(latency["p99"].as_u64() <= latency["max"].as_u64());
        }
    }
}

/// 100 clients have a tenth of the filters of 1000.
#[test]
fn bench_counts_what_each_filter_of_many_takes() {
    let gateway = Gateway::start("");
    let ended = fieldgate(&[
        "bench",
        "--port",
        &gateway.port(),
        "--workload",
        "wildcards",
        "--clients",
        "100",
        "--messages",
        "2000",
        "--window",
        "100",
        "--json",
    ]);
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    let found: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
    let delivered = found[0]["delivered"].as_u64().unwrap();
    assert!(
        (500..1500).contains(&delivered),
        "0.45 a message: {delivered}"
    );
    assert_eq!(found[0]["lost"], 0);
}

#[test]
fn bench_memory_says_what_each_thing_keeps() {
    let arguments = [
        "bench",
        "memory",
        "--clients",
        "50",
        "--messages",
        "1000",
        "--json",
    ];
    let ended = fieldgate(&arguments);
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    let results: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
    let results = results.as_array().unwrap();
    let kinds: Vec<_> = results
        .iter()
        .map(|it| it["kind"].as_str().unwrap())
        .collect();
    let all = [
        "idle connection",
        "retained message",
        "queued message",
        "subscription",
    ];
    assert_eq!(kinds, all);
    for result in results {
        let accounted = result["bytes_accounted"].as_f64().unwrap();
        assert!((100.0..2000.0).contains(&accounted), "{result}");
    }
}

#[test]
fn bench_with_a_rate_measures_from_when_a_message_was_due() {
    let gateway = Gateway::start("");
    let arguments = [
        "bench",
        "--port",
        &gateway.port(),
        "--messages",
        "200",
        "--rate",
        "1000",
        "--json",
        "--version",
        "3.1.1",
    ];
    let ended = fieldgate(&arguments);
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    let found: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(found[0]["latency_ns"]["corrected"], true);
    assert_eq!(found[0]["version"], "3.1.1");
    // 200 messages, the first of them at once, at 1000 a second.
    assert!(found[0]["elapsed_ns"].as_u64().unwrap() >= 190_000_000);
}

fn is_installed(program: &str) -> bool {
    Command::new(program)
        .arg("--help")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok()
}
