//! What a client has to say, in order, until the transport has room for it.
//!
//! Control packets are encoded at once, side by side. A publication is a reference, and encoded
//! when it is drawn: until then it can lose its connection without having cost a copy, and its
//! expiry is told as of then, and a Topic Alias stands for its topic if the server takes some.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use crate::buffer::{COPY_MAX, SendQueue};
use crate::mqtt::basic::{PacketId, ProtocolVersion, QoS, TopicAlias};
use crate::mqtt::message::ApplicationMessage;
use crate::mqtt::packet::Packet;
use crate::time::Instant;

/// Packets that wait to be sent.
#[derive(Debug, Default)]
pub(super) struct TransmitQueue {
    items: VecDeque<Item>,
    /// The control packets of `items`, encoded. Invariant: their lengths sum up to `control.len() -
    /// control_start`.
    control: Vec<u8>,
    control_start: usize,
    /// Invariant: the weights of the publications in `items`.
    publish_bytes: usize,
    aliases: Aliases,
}

/// The Topic Aliases of a connection. The first topics get them and keep them: with more topics
/// than aliases, replacing them would cost three bytes each time and gain nothing.
#[derive(Debug, Default)]
struct Aliases {
    /// Invariant: at most `maximum`, numbered from 1 without a gap.
    known: BTreeMap<Box<str>, TopicAlias>,
    maximum: u16,
    /// Bytes of a packet that the server takes.
    packet_max: usize,
}

/// Bytes of the property that a Topic Alias is: its identifier and two of number.
const ALIAS_LEN: usize = 3;

#[derive(Debug)]
enum Item {
    Control { len: usize },
    Publish(Publication),
}

/// A message on its way out.
#[derive(Debug, Clone)]
pub(super) struct Publication {
    pub message: Rc<ApplicationMessage>,
    /// There exactly with QoS 1 and 2.
    pub packet_id: Option<PacketId>,
    pub dup: bool,
}

impl TransmitQueue {
    /// The server takes so many aliases, and packets of so many bytes.
    pub(super) fn begin(&mut self, alias_maximum: u16, packet_max: usize) {
        self.aliases = Aliases {
            known: BTreeMap::new(),
            maximum: alias_maximum,
            packet_max,
        };
    }

    pub(super) fn push(&mut self, version: ProtocolVersion, packet: &Packet<'_>) {
        let start = self.control.len();
        packet.encode_into(version, &mut self.control);
        let added = self.control.len() - start;
        if let Some(Item::Control { len }) = self.items.back_mut() {
            *len += added;
        } else {
            self.items.push_back(Item::Control { len: added });
        }
    }

    pub(super) fn push_publication(&mut self, publication: Publication) {
        self.publish_bytes += weight(&publication.message);
        self.items.push_back(Item::Publish(publication));
    }

    /// Encoded bytes of control packets that wait.
    pub(super) fn control_bytes(&self) -> usize {
        self.control.len() - self.control_start
    }

    /// About as many bytes of publications as wait.
    pub(super) fn publish_bytes(&self) -> usize {
        self.publish_bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Moves packets to `out` while it holds fewer than `high_water` bytes, and tells `sent` each
    /// packet identifier whose PUBLISH went. Returns whether any packet did.
    pub(super) fn drain(
        &mut self,
        version: ProtocolVersion,
        now: Instant,
        out: &mut SendQueue,
        high_water: usize,
        mut sent: impl FnMut(PacketId),
    ) -> bool {
        let before = self.items.len();
        while out.len() < high_water
            && let Some(item) = self.items.pop_front()
        {
            match item {
                Item::Control { len } => {
                    let end = self.control_start + len;
                    out.reserve(len)
                        .copy_from_slice(&self.control[self.control_start..end]);
                    self.control_start = end;
                }
                Item::Publish(publication) => {
                    self.publish_bytes -= weight(&publication.message);
                    encode(&publication, version, now, &mut self.aliases, out);
                    if let Some(id) = publication.packet_id {
                        sent(id);
                    }
                }
            }
        }
        // What has been sent is cut off once it is most of the buffer, so each byte moves at most
        // once.
        if self.control_start > self.control.len() / 2 {
            self.control.drain(..self.control_start);
            self.control_start = 0;
        }
        self.items.len() < before
    }
}

/// Bytes that a publication has at most on the wire, less its fixed header: an upper bound is
/// enough here.
fn weight(message: &ApplicationMessage) -> usize {
    message.footprint()
}

/// Bytes of a message as a packet, if nothing of its expiry has passed.
pub(super) fn packet_len(message: &ApplicationMessage, version: ProtocolVersion) -> usize {
    let mut publish = message.as_publish(version, Instant::default());
    if publish.qos != QoS::AtMostOnce {
        publish.packet_id = Some(PacketId::FIRST);
    }
    publish.encoded_len(version)
}

fn encode(
    publication: &Publication,
    version: ProtocolVersion,
    now: Instant,
    aliases: &mut Aliases,
    out: &mut SendQueue,
) {
    let mut publish = publication.message.as_publish(version, now);
    publish.packet_id = publication.packet_id;
    publish.dup = publication.dup;
    if aliases.maximum > 0 && version.is_v5() {
        let topic = publish.topic;
        let mut alias = aliases.known.get(topic).copied();
        if alias.is_some() {
            publish.topic = ""; // 5.0, 3.3.2.3.4
        } else if aliases.known.len() < usize::from(aliases.maximum)
            && publish.encoded_len(version) + 2 * ALIAS_LEN <= aliases.packet_max
        {
            // The lengths before them may grow by a byte each too.
            alias = TopicAlias::new(aliases.known.len() as u16 + 1);
            aliases
                .known
                .extend(alias.map(|alias| (topic.into(), alias)));
        }
        publish.properties.topic_alias = alias;
    }
    let len = publish.encoded_len(version);
    if len <= COPY_MAX {
        publish.encode(version, out.reserve(len));
        return;
    }
    let payload = publication.message.payload();
    let head_len = publish.head_len(version, payload.len());
    publish.encode_head(version, payload.len(), out.reserve(head_len));
    out.push_payload(payload);
}
