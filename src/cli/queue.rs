//! `fieldgate queue`: what waits for upstream brokers and for sessions, in the running gateway.

use lexopt::Parser;
use serde_json::{Map, Value, json};

use super::control::{Answer, ControlClient, Reach, not_running};
use super::{Argument, Failure, Globals, help, other_argument, output};
use crate::units::format_size;

pub(crate) fn run(mut parser: Parser, mut globals: Globals) -> Result<u8, Failure> {
    let (mut words, mut reach) = (Vec::new(), Reach::default());
    while let Some(argument) = Argument::next(&mut parser)? {
        match &argument {
            Argument::Value(value) if words.len() < 2 => {
                words.push(value.to_string_lossy().into_owned());
            }
            argument if reach.take(argument, &mut parser)? => {}
            _ => {
                let ended = other_argument(argument, &mut parser, &mut globals, help::QUEUE)?;
                if let Some(code) = ended {
                    return Ok(code);
                }
            }
        }
    }
    let mut fields = Map::new();
    match &words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => {}
        ["drop", bridge] => {
            fields.insert("drop".to_owned(), json!(bridge));
        }
        ["drop"] => return Err(Failure::usage("whose queue is to be dropped?")),
        [word, ..] => {
            let text = format!("`{word}` is nothing that can be done with a queue");
            return Err(Failure::usage(text).hint("drop BRIDGE, or nothing to see them all"));
        }
    }
    let timeout = reach.timeout;
    let socket = reach.socket(&globals.config_path());
    let Some(mut gateway) = ControlClient::connect(&socket)? else {
        return Err(not_running(&socket));
    };
    match gateway.request("queue", fields, timeout)? {
        Answer::Ok(data) if globals.json => output::print_json(&data),
        Answer::Ok(data) => output::print(&table(&data)),
        Answer::Error { error, .. } => Err(Failure::failed(error)),
    }
}

/// For people.
fn table(data: &Value) -> String {
    let mut rows = Vec::new();
    let bridges = data.get("bridges").and_then(Value::as_object);
    for (name, queue) in bridges.into_iter().flatten() {
        let is_configured = queue.get("configured") == Some(&Value::Bool(true));
        let state = queue.get("state").and_then(Value::as_str);
        let state = state.filter(|_| is_configured).unwrap_or("not configured");
        let count = |key| number(queue, key);
        rows.push(vec![
            format!("bridge {name}"),
            state.to_owned(),
            format!("{} messages", count("messages")),
            format_size(count("bytes")),
            format!("{} under way", count("inflight")),
            format!("{} on disk alone", count("on_disk")),
            format!("oldest {} s", count("age_s")),
        ]);
    }
    let sessions = data.get("sessions");
    let longest = sessions.and_then(|sessions| sessions.get("longest")?.as_array());
    for queue in longest.into_iter().flatten() {
        let is = |key| queue.get(key) == Some(&Value::Bool(true));
        let client_id = queue.get("client_id").and_then(Value::as_str);
        rows.push(vec![
            format!("session {}", client_id.unwrap_or_default()),
            if is("connected") { "connected" } else { "away" }.to_owned(),
            format!("{} messages", number(queue, "messages")),
            format_size(number(queue, "bytes")),
            format!("{} under way", number(queue, "inflight")),
            if is("kept") { "kept" } else { "in memory" }.to_owned(),
        ]);
    }
    let mut text = output::columns(&rows, "");
    if let Some(dropped) = data.get("dropped").and_then(Value::as_u64) {
        text = format!("{dropped} messages dropped\n{text}");
    }
    match sessions.map_or(0, |sessions| number(sessions, "others")) {
        0 if text.is_empty() => "nothing waits\n".to_owned(),
        0 => text,
        others => format!("{text}and {others} sessions with less\n"),
    }
}

fn number(of: &Value, key: &str) -> u64 {
    of.get(key).and_then(Value::as_u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_told_and_what_is_not_configured_any_more_is_called_so() {
        let text = table(&json!({
            "dropped": 7,
            "bridges": {
                "cloud": { "configured": true, "state": "up", "messages": 3, "bytes": 2048,
                    "inflight": 1, "on_disk": 2, "age_s": 61 },
                "gone": { "configured": false, "messages": 9, "bytes": 1024 },
            },
            "sessions": {
                "longest": [{ "client_id": "a", "connected": false, "kept": true, "messages": 5,
                    "bytes": 512, "inflight": 0 }],
                "others": 2,
            },
        }));
        for line in ["7 messages dropped", "and 2 sessions with less"] {
            assert!(text.contains(line), "{text}");
        }
        let line = |start: &str| {
            let line = text.lines().find(|line| line.starts_with(start));
            line.unwrap_or_else(|| panic!("{start}: {text}")).to_owned()
        };
        assert!(line("bridge cloud").contains("3 messages"), "{text}");
        assert!(line("bridge cloud").contains("oldest 61 s"), "{text}");
        assert!(line("bridge gone").contains("not configured"), "{text}");
        assert!(line("session a").contains("away"), "{text}");
        assert_eq!(table(&json!({})), "nothing waits\n");
    }
}
