//! What is in a record of the broker's, for people: nothing is made of it.

use super::KeyKind;
use super::record::{
    Stage, decode_sent, decode_session, decode_subscription, decode_will, read_publish,
};
use crate::mqtt::{Publish, QoS};
use crate::time::WallTime;

/// What a record says. Borrowed from its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Description<'a> {
    /// A session.
    Session {
        /// Whose.
        client_id: &'a str,
        /// Who has made it.
        user: Option<&'a str>,
        /// How long it outlives its connection, in seconds.
        expiry_seconds: u32,
        /// When it ends, if its client was away when this was written.
        end: Option<WallTime>,
    },
    /// A subscription.
    Subscription {
        /// To what.
        filter: &'a str,
        /// The highest that is delivered at.
        maximum_qos: QoS,
    },
    /// A message.
    Message(DescribedMessage<'a>),
    /// The packet that was sent last of a QoS 2 message.
    Sent {
        /// PUBLISH, PUBREL, or nothing more.
        stage: &'static str,
        /// Under this identifier.
        packet_id: u16,
    },
    /// A will.
    Will {
        /// Whose.
        client_id: &'a str,
        /// Who that was.
        user: Option<&'a str>,
        /// How long after the connection it is to be published, in seconds.
        delay_seconds: u32,
        /// When that is, if its client was away when this was written.
        due: Option<WallTime>,
        /// What.
        message: DescribedMessage<'a>,
    },
    /// Nothing but that its key is there.
    Presence,
}

/// A message as a record says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescribedMessage<'a> {
    /// Its topic.
    pub topic: &'a str,
    /// As it was published, or is to be.
    pub qos: QoS,
    /// The same.
    pub retain: bool,
    /// When it was kept; 1970 or thereabouts if the clock was not set.
    pub kept_at: WallTime,
    /// What it says.
    pub payload: &'a [u8],
}

impl<'a> DescribedMessage<'a> {
    fn of(kept_at: WallTime, publish: &Publish<'a>) -> Self {
        Self {
            topic: publish.topic,
            qos: publish.qos,
            retain: publish.retain,
            kept_at,
            payload: publish.payload,
        }
    }
}

/// Tells what a record says whose first target is a key of this kind, or an entry of a queue if
/// `kind` is `None`. `None` of what no version that we know has written.
pub fn describe(kind: Option<KeyKind>, body: &[u8]) -> Option<Description<'_>> {
    match kind {
        Some(KeyKind::Session) => {
            let session = decode_session(body)?;
            Some(Description::Session {
                client_id: session.client_id,
                user: session.user,
                expiry_seconds: session.expiry_seconds,
                end: session.end,
            })
        }
        Some(KeyKind::Subscription) => {
            let (filter, subscription) = decode_subscription(body)?;
            Some(Description::Subscription {
                filter: filter.as_str(),
                maximum_qos: subscription.maximum_qos,
            })
        }
        Some(KeyKind::Sent) => {
            let sent = decode_sent(0, body)?;
            Some(Description::Sent {
                stage: match sent.stage {
                    Stage::Published => "PUBLISH",
                    Stage::Released => "PUBREL",
                    Stage::Over => "over",
                },
                packet_id: sent.packet_id.value(),
            })
        }
        Some(KeyKind::Will) => {
            let will = decode_will(body)?;
            Some(Description::Will {
                client_id: will.client_id,
                user: will.user,
                delay_seconds: will.delay_seconds,
                due: will.due,
                message: DescribedMessage::of(will.kept_at, &will.publish),
            })
        }
        Some(KeyKind::Estate) => super::record::is_presence(body).then_some(Description::Presence),
        Some(KeyKind::Received | KeyKind::Brought) if body.len() == 1 => {
            super::record::is_presence(body).then_some(Description::Presence)
        }
        Some(KeyKind::Received | KeyKind::Brought | KeyKind::Retained) | None => {
            let (kept_at, publish) = read_publish(body)?;
            Some(Description::Message(DescribedMessage::of(
                kept_at, &publish,
            )))
        }
    }
}
