//! `fieldgate queue`: what waits for upstream brokers and for sessions, in the running gateway.
//!
//! `queue export` fetches what waits for one bridge piece by piece and writes a line for each
//! message; it stays in its queue. Neither end holds more than a piece and the one message that it
//! ends in.

use data_encoding::HEXLOWER;
use lexopt::Parser;
use serde_json::{Map, Value, json};

use super::control::{Answer, ControlClient, Reach, not_running};
use super::{Argument, Failure, Globals, code, help, other_argument, output};
use crate::time::Duration;
use crate::units::{about_size, format_duration};

pub(crate) fn run(mut parser: Parser, mut globals: Globals) -> Result<u8, Failure> {
    let (mut words, mut reach) = (Vec::new(), Reach::default());
    let mut has_format = false;
    while let Some(argument) = Argument::next(&mut parser)? {
        match &argument {
            Argument::Value(value) if words.len() < 2 => {
                words.push(value.to_string_lossy().into_owned());
            }
            Argument::Long(name) if name == "format" => {
                let format = super::client::text(&mut parser)?;
                if format != "jsonl" {
                    let text = format!("--format takes jsonl, not `{format}`");
                    return Err(Failure::usage(text));
                }
                has_format = true;
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
    let mut exported = None;
    match &words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => {}
        ["export", bridge] => exported = Some((*bridge).to_owned()),
        ["export"] => return Err(Failure::usage("whose queue is to be exported?")),
        ["drop", bridge] => {
            fields.insert("drop".to_owned(), json!(bridge));
        }
        ["drop"] => return Err(Failure::usage("whose queue is to be dropped?")),
        [word, ..] => {
            let text = format!("`{word}` is nothing that can be done with a queue");
            return Err(
                Failure::usage(text).hint("export BRIDGE, drop BRIDGE, or nothing to see them all")
            );
        }
    }
    if has_format && exported.is_none() {
        return Err(Failure::usage("--format is for `queue export`"));
    }
    let timeout = reach.timeout;
    let socket = reach.socket(&globals.config_path());
    let Some(mut gateway) = ControlClient::connect(&socket)? else {
        return Err(not_running(&socket));
    };
    if let Some(bridge) = exported {
        return export(&mut gateway, &bridge, timeout);
    }
    match gateway.request("queue", fields, timeout)? {
        Answer::Ok(data) if globals.json => output::print_json(&data),
        Answer::Ok(data) => output::print(&table(&data)),
        Answer::Error { error, .. } => Err(Failure::failed(error)),
    }
}

/// Writes what waits for a bridge, and was there when this began.
fn export(gateway: &mut ControlClient, bridge: &str, timeout: Duration) -> Result<u8, Failure> {
    let mut export = Export::default();
    while let Some((from, skip)) = export.wanted() {
        let fields = Map::from_iter([
            ("export".to_owned(), json!(bridge)),
            ("from".to_owned(), json!(from)),
            ("skip".to_owned(), json!(skip)),
        ]);
        match gateway.request("queue", fields, timeout)? {
            Answer::Ok(data) => output::print(&export.lines(&data))?,
            Answer::Error { error, .. } => return Err(Failure::failed(error)),
        };
    }
    output::complain(&format!("{} messages", export.count));
    if export.unreadable > 0 {
        let text = format!("{} messages cannot be read", export.unreadable);
        return Err(Failure::failed(text));
    }
    Ok(code::DONE)
}

/// How far an export is.
#[derive(Debug)]
struct Export {
    /// The entry that is wanted next; `None`: there is no other.
    next: Option<u64>,
    /// What came after the beginning is not exported: it might never end.
    end: Option<u64>,
    /// The message that the last piece ended in, and its payload so far.
    begun: Option<(u64, Vec<u8>)>,
    count: u64,
    unreadable: u64,
}

impl Default for Export {
    fn default() -> Self {
        Self {
            next: Some(0),
            end: None,
            begun: None,
            count: 0,
            unreadable: 0,
        }
    }
}

impl Export {
    /// What to ask for: an entry, and bytes of its payload to leave out. `None`: that was all.
    fn wanted(&self) -> Option<(u64, usize)> {
        let next = self
            .next
            .filter(|next| self.end.is_none_or(|end| *next < end))?;
        let had = self.begun.as_ref().filter(|(seq, _)| *seq == next);
        Some((next, had.map_or(0, |(_, payload)| payload.len())))
    }

    /// The lines of one answer's messages that are whole with it.
    fn lines(&mut self, data: &Value) -> String {
        self.end = self.end.or(data.get("end").and_then(Value::as_u64));
        // Were an answer to lead back, this would not end.
        let next = data.get("next").and_then(Value::as_u64);
        self.next = next.filter(|next| self.next.is_none_or(|before| *next >= before));
        self.unreadable += number(data, "unreadable");
        let mut lines = String::new();
        let messages = data.get("messages").and_then(Value::as_array);
        for message in messages.into_iter().flatten() {
            let seq = number(message, "seq");
            if self.end.is_some_and(|end| seq >= end) {
                break;
            }
            // One that was sent while it was being read is not there any more: it has arrived.
            let begun = self.begun.take().filter(|(begun, _)| *begun == seq);
            let mut payload = begun.map_or_else(Vec::new, |(_, payload)| payload);
            let part = message.get("payload_hex").and_then(Value::as_str);
            match HEXLOWER.decode(part.unwrap_or_default().as_bytes()) {
                Ok(part) => payload.extend(part),
                Err(_) => self.unreadable += 1,
            }
            if message.get("more") == Some(&Value::Bool(true)) {
                self.begun = Some((seq, payload));
                break;
            }
            self.count += 1;
            lines.push_str(&line(message, payload).to_string());
            lines.push('\n');
        }
        lines
    }
}

/// As dead letters have it: a payload that is text as text.
fn line(message: &Value, payload: Vec<u8>) -> Value {
    let mut line = Map::new();
    for key in ["seq", "topic", "qos", "retain", "time"] {
        line.insert(
            key.to_owned(),
            message.get(key).cloned().unwrap_or_default(),
        );
    }
    match String::from_utf8(payload) {
        Ok(text) => line.insert("payload".to_owned(), text.into()),
        Err(error) => {
            let hex = HEXLOWER.encode(error.as_bytes());
            line.insert("payload_hex".to_owned(), hex.into())
        }
    };
    Value::Object(line)
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
            about_size(count("bytes")),
            format!("{} under way", count("inflight")),
            format!("{} on disk alone", count("on_disk")),
            format!(
                "oldest {}",
                format_duration(Duration::from_secs(count("age_s")))
            ),
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
            about_size(number(queue, "bytes")),
            format!("{} under way", number(queue, "inflight")),
            format!("{} on disk alone", number(queue, "on_disk")),
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

    fn piece(messages: &Value, next: Option<u64>) -> Value {
        json!({ "messages": messages, "next": next, "end": 9, "unreadable": 0 })
    }

    #[test]
    fn an_export_is_put_together_from_pieces() {
        let mut export = Export::default();
        assert_eq!(export.wanted(), Some((0, 0)));
        let first = json!([
            { "seq": 4, "topic": "a", "qos": 1, "retain": true, "time": null,
                "payload_hex": "6869" },
            { "seq": 7, "topic": "b", "qos": 2, "retain": false, "time": "t", "payload_hex": "00",
                "more": true },
        ]);
        let lines = export.lines(&piece(&first, Some(7)));
        let expected = r#"{"payload":"hi","qos":1,"retain":true,"seq":4,"time":null,"topic":"a"}"#;
        assert_eq!(lines, format!("{expected}\n"));
        assert_eq!(export.wanted(), Some((7, 1)));
        let second = json!([
            { "seq": 7, "topic": "b", "qos": 2, "retain": false, "time": "t", "payload_hex": "ff" },
            { "seq": 9, "topic": "late", "qos": 0, "retain": false, "time": null,
                "payload_hex": "" },
        ]);
        let lines = export.lines(&piece(&second, Some(10)));
        let expected =
            r#"{"payload_hex":"00ff","qos":2,"retain":false,"seq":7,"time":"t","topic":"b"}"#;
        assert_eq!(lines, format!("{expected}\n"));
        assert_eq!((export.wanted(), export.count), (None, 2));
    }

    #[test]
    fn what_is_sent_while_it_is_exported_is_left_out() {
        let mut export = Export::default();
        let first = json!([{ "seq": 4, "payload_hex": "61", "more": true }]);
        assert_eq!(export.lines(&piece(&first, Some(4))), "");
        let second = json!([{ "seq": 5, "payload_hex": "62" }]);
        assert!(
            export
                .lines(&piece(&second, None))
                .contains(r#""payload":"b""#)
        );
        assert_eq!((export.wanted(), export.count), (None, 1));
    }

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
                    "bytes": 512, "on_disk": 4, "inflight": 0 }],
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
        assert!(line("bridge cloud").contains("oldest 1m1s"), "{text}");
        assert!(line("bridge gone").contains("not configured"), "{text}");
        assert!(line("bridge gone").contains("1.0KB"), "{text}");
        assert!(line("session a").contains("away"), "{text}");
        assert!(line("session a").contains("4 on disk alone"), "{text}");
        assert_eq!(table(&json!({})), "nothing waits\n");
    }
}
