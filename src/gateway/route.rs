//! The only place where one machine's output becomes another's input.
//!
//! ```text
//! field ── Reading ──▶ pipeline ── Publish ──▶ broker ──▶ sessions
//!   ▲                     ▲                    │  ▲  │
//!   └──── PointWrite ─────┴───── Delivery ─────┘  │  └─ Delivery ──▶ bridges
//!                                                 └──── Publish ──────┘
//! ```

use super::Gateway;
use super::boundary::{CloseHow, FLUSH_TIMEOUT, JournalCommand, Output};
use super::{Awaited, Life};
use crate::broker::{self, Origin, Taker};
use crate::buffer::{Payload, RecvBuffer};
use crate::field;
use crate::field::line::LineCommand;
use crate::field::port::PortCommand;
use crate::id::PointId;
use crate::mqtt::{ApplicationMessage, ProtocolVersion, PublishProperties, QoS, TopicName};
use crate::pipeline::{self, Command, Verb};
use crate::time::Now;

impl Gateway {
    /// Carries values between the machines until each of them is quiet.
    ///
    /// This ends: a reading makes messages, a command makes at most one write and one result, and
    /// nothing that we publish ourselves is taken for a command.
    pub(super) fn route(&mut self, now: Now) {
        loop {
            let mut quiet = true;
            while let Some(output) = self.field.poll_output() {
                quiet = false;
                self.route_field(now, output);
            }
            while let Some(output) = self.pipeline.poll_output() {
                quiet = false;
                self.route_pipeline(now, output);
            }
            while let Some(output) = self.broker.poll_output() {
                quiet = false;
                self.route_broker(now, output);
            }
            quiet &= !self.route_journal(now);
            quiet &= !self.route_sessions(now);
            // Behind the journal, which must know an entry before it hears that it is done with.
            quiet &= !self.route_bridges(now);
            if quiet {
                break;
            }
        }
        self.finish_stop(now);
    }

    fn route_field(&mut self, now: Now, output: field::Output) {
        match output {
            field::Output::Reading(reading) => self.pipeline.handle_reading(now, reading),
            field::Output::Written(written) => self.pipeline.handle_written(now, written),
            field::Output::Recovered { point } => self.pipeline.handle_recovered(now, point),
            field::Output::Availability { device, online } => {
                self.pipeline.handle_availability(now, device, online);
            }
            field::Output::OpenBus { bus, settings } => {
                self.outputs.push_back(Output::OpenBus { bus, settings });
            }
            field::Output::CloseBus { bus } => self.outputs.push_back(Output::CloseBus { bus }),
            field::Output::Bus {
                bus,
                request,
                op,
                deadline,
            } => {
                self.outputs.push_back(Output::Bus {
                    bus,
                    request,
                    op,
                    deadline,
                });
            }
            field::Output::Total { point, total } => self.keep_total(now, point, total),
            field::Output::Line(command) => {
                match &command {
                    LineCommand::Request { line, .. } if self.life == Life::Starting => {
                        self.awaited.insert(Awaited::Line(*line));
                    }
                    LineCommand::Release { line } => {
                        self.awaited.remove(&Awaited::Line(*line));
                    }
                    _ => {}
                }
                self.outputs.push_back(Output::Line(command));
            }
            field::Output::Port(command) => {
                match &command {
                    PortCommand::Open { port, .. } => {
                        self.ports.insert(*port, RecvBuffer::new(&self.memory));
                    }
                    PortCommand::Close { port } => {
                        self.ports.remove(*port);
                    }
                    PortCommand::Write { .. } => {}
                }
                self.outputs.push_back(Output::Port(command));
            }
        }
    }

    fn route_pipeline(&mut self, now: Now, output: pipeline::Output) {
        match output {
            pipeline::Output::Publish(message) => self.publish(now, Origin::Field, &message),
            pipeline::Output::Write(write) => self.field.handle_write(now, write),
            pipeline::Output::Sample(point) => self.field.handle_sample(now, point),
            pipeline::Output::Answer(answer) => self.answer_command(now, &answer),
        }
    }

    fn route_broker(&mut self, now: Now, output: broker::Output) {
        match output {
            broker::Output::Close { conn, how } => {
                // What it sent and we did not parse is not going to be parsed: give the memory
                // back.
                if let Some(recv) = self.recv.get_mut(conn) {
                    recv.clear();
                }
                let how = match how {
                    broker::CloseHow::AfterFlush => CloseHow::AfterFlush {
                        deadline: now.monotonic + FLUSH_TIMEOUT,
                    },
                    broker::CloseHow::Now => CloseHow::Now,
                };
                self.outputs.push_back(Output::Close { conn, how });
            }
            broker::Output::SystemSubscribed => self.show_system(now),
            broker::Output::Verify {
                conn,
                hash,
                password,
            } => self.outputs.push_back(Output::Verify {
                conn,
                hash,
                password,
            }),
            broker::Output::Fetch { message } => {
                self.outputs
                    .push_back(Output::Journal(JournalCommand::Fetch { message }));
            }
            broker::Output::Delivery {
                taker,
                message,
                is_replay,
                entry,
                ..
            } => match taker {
                Taker::Commands(point) => self.route_command(now, point, &message, is_replay),
                Taker::Requests => self.handle_request_message(now, &message, is_replay),
                Taker::Bridge(bridge, rule) => {
                    self.route_to_bridge(now, (bridge, rule), &message, entry);
                }
                // Sessions are served inside the broker.
                Taker::Session(_) | Taker::Shared(_) => {
                    debug_assert!(false, "delivered to a taker that route does not serve");
                }
            },
        }
    }

    fn route_command(
        &mut self,
        now: Now,
        point: PointId,
        message: &ApplicationMessage,
        is_replay: bool,
    ) {
        let properties = message.properties();
        let verb = if message.topic().ends_with("/get") {
            Verb::Get
        } else {
            Verb::Set
        };
        let command = Command {
            retained: message.retain(),
            stored: is_replay,
            response_topic: properties.response_topic.map(TopicName::as_str),
            correlation_data: properties.correlation_data,
            ..Command::new(verb, message.payload())
        };
        self.pipeline.handle_command(now, point, command);
    }

    /// Publishes something of our own.
    pub(super) fn publish(&mut self, now: Now, origin: Origin, message: &ApplicationMessage) {
        let view = message.as_publish(ProtocolVersion::V5, now.monotonic);
        let published = self.broker.publish(now, origin, &view, &mut self.outbox);
        if let Some(reason) = published.refused {
            log::warn!(
                "own message refused topic={} reason={reason}",
                message.topic()
            );
        }
    }

    /// Publishes a word under a topic of ours, retained: the gateway's state. An empty word clears
    /// it.
    pub(super) fn publish_retained(&mut self, now: Now, topic: &str, word: &str) {
        self.publish_text(now, topic, word, true, &PublishProperties::default());
    }

    /// Publishes text under a topic that the gateway chose, or that a stranger named.
    pub(super) fn publish_text(
        &mut self,
        now: Now,
        topic: &str,
        text: &str,
        retain: bool,
        properties: &PublishProperties<'_>,
    ) {
        let topic = match TopicName::new(topic) {
            Ok(topic) => topic,
            Err(error) => return log::debug!("not published topic={topic:?}: {error}"),
        };
        let payload = Payload::copy_from(text.as_bytes());
        let qos = QoS::AtLeastOnce;
        let message =
            ApplicationMessage::new(topic, payload, qos, retain, properties, now.monotonic);
        self.publish(now, Origin::System, &message);
    }
}
