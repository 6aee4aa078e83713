//! The verbs that ask a running gateway for something: one JSON object a line on the control
//! socket, or a message to `BASE/gateway/request/VERB`, answered on `BASE/gateway/response/VERB`.
//!
//! | verb | takes | answers |
//! |---|---|---|
//! | `read` | `point` | one fresh reading |
//! | `set` | `point`, `value`, `for` | what the point now is, as `…/result` has it |
//! | `devices` | | every device with its points |
//! | `status` | | what is counted |
//! | `queue` | `drop` | what waits for each bridge and for each session; before that, what is to be dropped |
//! | `queue` | `export`, `from`, `skip` | a piece of what waits for a bridge: [`super::export`] |
//! | `reload` | | whether the configuration was taken over |
//!
//! Every request ends in exactly one answer `{"status","data","error","transaction"}`. A `read`
//! that fails has `data` too: what was known before.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};

use super::Gateway;
use super::boundary::{ControlEvent, Output};
use super::export::Export;
use crate::id::{ControlId, PointId, RequestId};
use crate::mqtt::{ApplicationMessage, PayloadFormat, PublishProperties};
use crate::pipeline::json::Object;
use crate::pipeline::{Answer, Command, Ticket, Verb};
use crate::point::Value;
use crate::time::Now;

/// Requests that may wait for an answer at once; the next one is refused and counted.
pub(super) const PENDING_MAX: usize = 64;

/// Sessions whose queues are shown, the longest first.
const SESSIONS_SHOWN: usize = 100;

/// Who waits for which answer.
#[derive(Debug, Default)]
pub(super) struct Requests {
    last: u64,
    pending: BTreeMap<RequestId, Pending>,
}

#[derive(Debug)]
struct Pending {
    asker: Asker,
    transaction: Option<Json>,
    asked: Asked,
}

/// For what an answer is awaited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    Read,
    Set,
    Reload,
    Export(Export),
}

/// What a request has come to.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// JSON.
    data: Option<String>,
    /// Why it failed; else it did not.
    error: Option<String>,
}

#[derive(Debug, Clone)]
pub(super) enum Asker {
    Control(ControlId),
    /// A message, whose answer goes to the verb's response topic and to the one that it names
    /// itself.
    Message {
        verb: Box<str>,
        response_topic: Option<Box<str>>,
        correlation_data: Option<Box<[u8]>>,
    },
}

impl Gateway {
    pub(super) fn handle_control(&mut self, now: Now, client: ControlId, event: ControlEvent) {
        match event {
            ControlEvent::Opened => {}
            ControlEvent::Closed => {
                self.requests.pending.retain(
                    |_, pending| !matches!(pending.asker, Asker::Control(asker) if asker == client),
                );
            }
            ControlEvent::Line(line) => {
                let asker = Asker::Control(client);
                match serde_json::from_slice::<Json>(&line) {
                    Ok(Json::Object(request)) => {
                        let verb = request
                            .get("verb")
                            .and_then(Json::as_str)
                            .unwrap_or("")
                            .to_owned();
                        self.handle_request(now, &verb, &request, asker);
                    }
                    Ok(_) => self.refuse(now, &asker, None, "a request is a JSON object"),
                    Err(error) => self.refuse(now, &asker, None, &format!("not JSON: {error}")),
                }
            }
        }
    }

    pub(super) fn handle_request_message(
        &mut self,
        now: Now,
        message: &ApplicationMessage,
        is_replay: bool,
    ) {
        let properties = message.properties();
        let verb: Box<str> = message.topic().rsplit('/').next().unwrap_or("").into();
        let asker = Asker::Message {
            verb: verb.clone(),
            response_topic: properties.response_topic.map(|topic| topic.as_str().into()),
            correlation_data: properties.correlation_data.map(Into::into),
        };
        if is_replay || message.retain() {
            self.refuse(now, &asker, None, "a retained request is not obeyed");
            return;
        }
        let request = if message.payload().is_empty() {
            Map::new()
        } else {
            match serde_json::from_slice::<Json>(message.payload()) {
                Ok(Json::Object(request)) => request,
                Ok(_) => return self.refuse(now, &asker, None, "a request is a JSON object"),
                Err(error) => return self.refuse(now, &asker, None, &format!("not JSON: {error}")),
            }
        };
        self.handle_request(now, &verb, &request, asker);
    }

    fn handle_request(&mut self, now: Now, verb: &str, request: &Map<String, Json>, asker: Asker) {
        let transaction = request.get("transaction").cloned();
        match verb {
            "read" | "set" => self.handle_point_request(now, verb, request, asker, transaction),
            "devices" => {
                let data = self.devices_json(now);
                self.respond(now, &asker, transaction.as_ref(), &Outcome::ok(data));
            }
            "queue" => match request.get("export") {
                Some(name) => {
                    let name = name.as_str().unwrap_or_default();
                    self.handle_export(now, name, request, asker, transaction);
                }
                None => self.handle_queue_request(now, request, &asker, transaction.as_ref()),
            },
            "status" => {
                let data = self.status_json(now).to_string();
                self.respond(now, &asker, transaction.as_ref(), &Outcome::ok(data));
            }
            "reload" => {
                if let Some(request) = self.remember(now, asker, transaction, Asked::Reload) {
                    self.outputs.push_back(Output::Load { request });
                }
            }
            other => {
                let error = format!(
                    "there is no request {other:?}: read, set, devices, status, queue, reload"
                );
                self.refuse(now, &asker, transaction.as_ref(), &error);
            }
        }
    }

    fn handle_point_request(
        &mut self,
        now: Now,
        verb: &str,
        request: &Map<String, Json>,
        asker: Asker,
        transaction: Option<Json>,
    ) {
        let path = request.get("point").and_then(Json::as_str).unwrap_or("");
        let Some(point) = self.registry.find(path) else {
            let error = format!("there is no point {path:?}: name it DEVICE/POINT");
            return self.refuse(now, &asker, transaction.as_ref(), &error);
        };
        let (asked, verb, payload) = if verb == "read" {
            (Asked::Read, Verb::Get, String::new())
        } else {
            let Some(value) = request.get("value") else {
                return self.refuse(now, &asker, transaction.as_ref(), "`value` is missing");
            };
            let mut command = Map::new();
            command.insert("value".to_owned(), value.clone());
            if let Some(hold) = request.get("for") {
                command.insert("for".to_owned(), hold.clone());
            }
            (Asked::Set, Verb::Set, Json::Object(command).to_string())
        };
        let Some(id) = self.remember(now, asker, transaction, asked) else {
            return;
        };
        let command = Command {
            ticket: Some(Ticket(id.0)),
            ..Command::new(verb, payload.as_bytes())
        };
        self.pipeline.handle_command(now, point, command);
    }

    /// Keeps a place for an answer, or refuses when too many are waiting.
    pub(super) fn remember(
        &mut self,
        now: Now,
        asker: Asker,
        transaction: Option<Json>,
        asked: Asked,
    ) -> Option<RequestId> {
        if self.requests.pending.len() >= PENDING_MAX {
            self.counters.requests_refused += 1;
            self.refuse(
                now,
                &asker,
                transaction.as_ref(),
                "busy: too many requests wait for an answer",
            );
            return None;
        }
        self.requests.last += 1;
        let request = RequestId(self.requests.last);
        let pending = Pending {
            asker,
            transaction,
            asked,
        };
        self.requests.pending.insert(request, pending);
        Some(request)
    }

    /// The one answer to a `read` or `set`.
    pub(super) fn answer_command(&mut self, now: Now, answer: &Answer) {
        let Some(pending) = self.requests.pending.remove(&RequestId(answer.ticket.0)) else {
            return;
        };
        let mut data = String::new();
        let mut object = Object::begin(&mut data);
        match (pending.asked, &answer.outcome) {
            (Asked::Set, Ok(value)) => self.write_written(answer.point, value, &mut object),
            _ => self.write_point(now, answer.point, &mut object),
        }
        if answer.outcome.is_ok() {
            object.millis("latency_ms", answer.latency);
        }
        object.end();
        let is_told = pending.asked == Asked::Read || answer.outcome.is_ok();
        let outcome = Outcome {
            data: Some(data).filter(|_| is_told),
            error: answer.outcome.as_ref().err().map(ToString::to_string),
        };
        self.respond(now, &pending.asker, pending.transaction.as_ref(), &outcome);
    }

    /// What waits for whom. With `drop`, what waits for that bridge is forgotten first.
    fn handle_queue_request(
        &mut self,
        now: Now,
        request: &Map<String, Json>,
        asker: &Asker,
        transaction: Option<&Json>,
    ) {
        let mut data = Map::new();
        if let Some(name) = request.get("drop") {
            let name = name.as_str().unwrap_or_default();
            let Some(count) = self.drop_bridge_queue(now, name) else {
                let error = format!("no bridge has a queue of the name {name:?}");
                return self.refuse(now, asker, transaction, &error);
            };
            log::warn!("queue of bridge {name} dropped messages={count}");
            data.insert("dropped".into(), count.into());
        }
        data.insert("bridges".into(), self.bridge_queues_json(now));
        data.insert("sessions".into(), self.session_queues_json());
        let data = Json::Object(data).to_string();
        self.respond(now, asker, transaction, &Outcome::ok(data));
    }

    /// What waits for sessions: the longest queues, and how many others there are.
    fn session_queues_json(&self) -> Json {
        let mut queues: Vec<_> = self.broker.queues().collect();
        queues.sort_by_key(|queue| core::cmp::Reverse(queue.bytes));
        let others = queues.len().saturating_sub(SESSIONS_SHOWN);
        queues.truncate(SESSIONS_SHOWN);
        let shown = queues.into_iter().map(|queue| {
            json!({
                "client_id": queue.client_id,
                "connected": queue.is_connected,
                "kept": queue.is_kept,
                "messages": queue.messages,
                "bytes": queue.bytes,
                "on_disk": queue.on_disk,
                "inflight": queue.inflight,
            })
        });
        json!({ "longest": shown.collect::<Vec<_>>(), "others": others })
    }

    /// What a point has become. Not what is known of it: that may be a reading from before.
    fn write_written(&self, point: PointId, value: &Value, object: &mut Object<'_>) {
        if let Some(path) = self.registry.path(point) {
            object.text("point", &path);
        }
        object.value("value", value);
        let Some(snapshot) = self.pipeline.snapshot(point) else {
            return;
        };
        if !snapshot.settings.spec.unit.is_empty() {
            object.text("unit", &snapshot.settings.spec.unit);
        }
        if snapshot.settings.simulated {
            object.flag("simulated", true);
        }
    }

    /// The one answer to a request that was remembered.
    pub(super) fn answer(&mut self, now: Now, request: RequestId, outcome: &Outcome) {
        if let Some(pending) = self.requests.pending.remove(&request) {
            self.respond(now, &pending.asker, pending.transaction.as_ref(), outcome);
        }
    }

    /// The one answer to a `reload`.
    pub(super) fn answer_reload(
        &mut self,
        now: Now,
        request: RequestId,
        outcome: Result<(), Box<str>>,
    ) {
        let outcome = Outcome {
            error: outcome.err().map(Into::into),
            ..Outcome::default()
        };
        self.answer(now, request, &outcome);
    }

    pub(super) fn refuse(
        &mut self,
        now: Now,
        asker: &Asker,
        transaction: Option<&Json>,
        error: &str,
    ) {
        self.respond(now, asker, transaction, &Outcome::failed(error.to_owned()));
    }

    fn respond(&mut self, now: Now, asker: &Asker, transaction: Option<&Json>, outcome: &Outcome) {
        let mut line = String::new();
        let mut answer = Object::begin(&mut line);
        match &outcome.error {
            None => answer.text("status", "ok"),
            Some(error) => {
                answer.text("status", "error");
                answer.text("error", error);
            }
        }
        if let Some(data) = &outcome.data {
            answer.raw("data", data);
        }
        if let Some(transaction) = transaction {
            answer.raw("transaction", &transaction.to_string());
        }
        answer.end();
        match asker {
            Asker::Control(client) => {
                self.outputs.push_back(Output::Control {
                    client: *client,
                    line: line.into(),
                });
            }
            Asker::Message {
                verb,
                response_topic,
                correlation_data,
            } => {
                let own = format!("{}/gateway/response/{verb}", self.config.base_topic);
                let named = response_topic
                    .as_deref()
                    .filter(|topic| self.may_answer_on(topic));
                for topic in [Some(own.as_str()), named].into_iter().flatten() {
                    self.publish_answer(now, topic, &line, correlation_data.as_deref());
                }
            }
        }
    }

    /// A stranger's Response Topic must not make us speak where only we may: on our own topics, or
    /// as a command.
    fn may_answer_on(&self, topic: &str) -> bool {
        let base = &*self.config.base_topic;
        let ours = topic
            .strip_prefix(base)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        !ours && !topic.starts_with('$')
    }

    fn publish_answer(&mut self, now: Now, topic: &str, line: &str, correlation: Option<&[u8]>) {
        let properties = PublishProperties {
            correlation_data: correlation,
            content_type: Some("application/json"),
            payload_format_indicator: Some(PayloadFormat::Utf8),
            ..PublishProperties::default()
        };
        self.publish_text(now, topic, line, false, &properties);
    }
}

impl Requests {
    /// What is awaited by it, if anybody waits.
    pub(super) fn asked(&self, request: RequestId) -> Option<Asked> {
        self.pending.get(&request).map(|pending| pending.asked)
    }
}

impl Outcome {
    pub(super) fn ok(data: String) -> Self {
        Self {
            data: Some(data),
            error: None,
        }
    }

    pub(super) fn failed(error: String) -> Self {
        Self {
            data: None,
            error: Some(error),
        }
    }
}
