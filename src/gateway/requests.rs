//! The verbs that ask a running gateway for something: one JSON object a line on the control
//! socket, or a message to `BASE/gateway/request/VERB`, answered on `BASE/gateway/response/VERB`.
//!
//! | verb | takes | answers |
//! |---|---|---|
//! | `read` | `point` | one fresh reading |
//! | `set` | `point`, `value`, `for` | what the point now is |
//! | `devices` | | every device with its points |
//! | `status` | | what is counted |
//! | `reload` | | whether the configuration was taken over |
//!
//! Every request ends in exactly one answer `{"status","data","error","transaction"}`.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};

use super::Gateway;
use super::boundary::{ControlEvent, Output};
use crate::id::{ControlId, RequestId};
use crate::mqtt::{ApplicationMessage, PayloadFormat, PublishProperties};
use crate::pipeline::{Answer, Command, Ticket, Verb};
use crate::time::Now;

/// Requests that may wait for an answer at once; the next one is refused and counted.
pub(super) const PENDING_MAX: usize = 64;

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
}

#[derive(Debug, Clone)]
enum Asker {
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
                self.respond(now, &asker, transaction.as_ref(), Ok(data));
            }
            "status" => {
                let data = self.status_json(now);
                self.respond(now, &asker, transaction.as_ref(), Ok(data));
            }
            "reload" => {
                if let Some(request) = self.remember(now, asker, transaction) {
                    self.outputs.push_back(Output::Load { request });
                }
            }
            other => {
                let error =
                    format!("there is no request {other:?}: read, set, devices, status, reload");
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
        let (verb, payload) = if verb == "read" {
            (Verb::Get, String::new())
        } else {
            let Some(value) = request.get("value") else {
                return self.refuse(now, &asker, transaction.as_ref(), "`value` is missing");
            };
            let mut command = Map::new();
            command.insert("value".to_owned(), value.clone());
            if let Some(hold) = request.get("for") {
                command.insert("for".to_owned(), hold.clone());
            }
            (Verb::Set, Json::Object(command).to_string())
        };
        let Some(id) = self.remember(now, asker, transaction) else {
            return;
        };
        let command = Command {
            ticket: Some(Ticket(id.0)),
            ..Command::new(verb, payload.as_bytes())
        };
        self.pipeline.handle_command(now, point, command);
    }

    /// Keeps a place for an answer, or refuses when too many are waiting.
    fn remember(&mut self, now: Now, asker: Asker, transaction: Option<Json>) -> Option<RequestId> {
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
        self.requests
            .pending
            .insert(request, Pending { asker, transaction });
        Some(request)
    }

    /// The one answer to a `read` or `set`.
    pub(super) fn answer_command(&mut self, now: Now, answer: &Answer) {
        let Some(pending) = self.requests.pending.remove(&RequestId(answer.ticket.0)) else {
            return;
        };
        let outcome = match &answer.outcome {
            Ok(_) => {
                let mut data = self.point_json(now, answer.point).unwrap_or(Json::Null);
                if let Json::Object(data) = &mut data {
                    data.insert(
                        "latency_ms".to_owned(),
                        json!(answer.latency.as_millis() as u64),
                    );
                }
                Ok(data)
            }
            Err(fault) => Err(fault.to_string()),
        };
        self.respond(now, &pending.asker, pending.transaction.as_ref(), outcome);
    }

    /// The one answer to a `reload`.
    pub(super) fn answer_reload(
        &mut self,
        now: Now,
        request: RequestId,
        outcome: Result<(), Box<str>>,
    ) {
        if let Some(pending) = self.requests.pending.remove(&request) {
            let outcome = outcome.map(|()| Json::Null).map_err(Into::into);
            self.respond(now, &pending.asker, pending.transaction.as_ref(), outcome);
        }
    }

    fn refuse(&mut self, now: Now, asker: &Asker, transaction: Option<&Json>, error: &str) {
        self.respond(now, asker, transaction, Err(error.to_owned()));
    }

    fn respond(
        &mut self,
        now: Now,
        asker: &Asker,
        transaction: Option<&Json>,
        outcome: Result<Json, String>,
    ) {
        let mut answer = Map::new();
        match outcome {
            Ok(data) => {
                answer.insert("status".to_owned(), json!("ok"));
                if !data.is_null() {
                    answer.insert("data".to_owned(), data);
                }
            }
            Err(error) => {
                answer.insert("status".to_owned(), json!("error"));
                answer.insert("error".to_owned(), json!(error));
            }
        }
        if let Some(transaction) = transaction {
            answer.insert("transaction".to_owned(), transaction.clone());
        }
        let line = Json::Object(answer).to_string();
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
