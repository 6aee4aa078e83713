//! What waits for a bridge, for somebody who wants it out of here: piece by piece over the control
//! socket, and nothing of it is consumed.
//!
//! A request has `export`, the bridge's name, and where to go on: `from`, the number of an entry,
//! and `skip`, bytes of its payload that were had before. Its answer has
//!
//! | field | |
//! |---|---|
//! | `messages` | oldest first: `seq`, `topic`, `qos`, `retain`, `time` (when it was published; null if the clock was not set) and `payload_hex`; `more` if its payload goes on |
//! | `next` | `from` of the next request; null: nothing follows |
//! | `end` | the number that the next message gets: what has it, or a higher one, came after this |
//! | `unreadable` | how many could not be read, and are passed over |
//!
//! Nothing is remembered between two requests. An answer is a piece that the control socket takes
//! at once, and a request reads from the disk what a bridge's own window would.

use data_encoding::HEXLOWER;
use serde_json::{Map, Value as Json, json};

use super::Gateway;
use super::requests::{Asked, Asker, Outcome};
use crate::broker::keep::read_message;
use crate::id::{QueueId, RequestId};
use crate::journal::Looked;
use crate::time::Now;

/// Bytes of topics and payloads in one answer; in JSON it is a few times as long.
const PIECE: usize = 128 * 1024;

/// Where an answer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Export {
    queue: QueueId,
    from: u64,
    skip: usize,
}

impl Gateway {
    pub(super) fn handle_export(
        &mut self,
        now: Now,
        name: &str,
        request: &Map<String, Json>,
        asker: Asker,
        transaction: Option<Json>,
    ) {
        // Whoever may ask by a message need not be allowed to read the topics of what waits.
        if !matches!(asker, Asker::Control(_)) {
            let error = "what waits is told on the control socket alone";
            return self.refuse(now, &asker, transaction.as_ref(), error);
        }
        let number = |key: &str| request.get(key).and_then(Json::as_u64).unwrap_or(0);
        let queue = self.bridges.kept_queue(name);
        let (Some(queue), Some(_)) = (queue, &self.durable) else {
            let error = if self.bridges.is_configured(name) {
                format!("nothing of bridge {name} is kept: there is no data_dir")
            } else {
                format!("no bridge has a queue of the name {name:?}")
            };
            return self.refuse(now, &asker, transaction.as_ref(), &error);
        };
        let export = Export {
            queue,
            from: number("from"),
            skip: number("skip") as usize,
        };
        let Some(id) = self.remember(now, asker, transaction, Asked::Export(export)) else {
            return;
        };
        let is_looking = self
            .durable
            .as_mut()
            .is_some_and(|durable| durable.journal.look(id.0, queue, export.from));
        if !is_looking {
            let error = "busy: the journal cannot be looked at now".to_owned();
            self.answer(now, id, &Outcome::failed(error));
        }
    }

    /// The one answer to an export. Who asked may be gone.
    pub(super) fn answer_export(&mut self, now: Now, looked: &Looked) {
        let id = RequestId(looked.ask);
        let Some(Asked::Export(export)) = self.requests.asked(id) else {
            return;
        };
        let (mut messages, mut unreadable) = (Vec::new(), looked.unreadable);
        let (mut next, mut room) = (looked.next, PIECE);
        for entry in &looked.entries {
            let seq = entry.sequence;
            let Some((message, time)) = read_message(&entry.body, now) else {
                unreadable += 1;
                continue;
            };
            let skip = if seq == export.from { export.skip } else { 0 };
            let payload = message.payload();
            let rest = payload.get(skip..).unwrap_or(&[]);
            let size = message.topic().len() + rest.len();
            if size > room && !messages.is_empty() {
                next = Some(seq);
                break;
            }
            let part = &rest[..rest.len().min(PIECE)];
            room = room.saturating_sub(size);
            let mut json = json!({
                "seq": seq,
                "topic": message.topic(),
                "qos": message.qos().bits(),
                "retain": message.retain(),
                "time": time.map(|time| time.to_string()),
                "payload_hex": HEXLOWER.encode(part),
            });
            if part.len() < rest.len() {
                json["more"] = true.into();
                messages.push(json);
                next = Some(seq);
                break;
            }
            messages.push(json);
        }
        let journal = self.durable.as_ref().map(|durable| &durable.journal);
        let state = journal.and_then(|journal| journal.queue(export.queue));
        let data = json!({
            "messages": messages,
            "next": next,
            "end": state.map(|state| state.next),
            "unreadable": unreadable,
        });
        self.answer(now, id, &Outcome::ok(data.to_string()));
    }
}
