//! Any packet, from a handful of ingredients: which fields are there is decided by bits, what is in
//! them by lists.

use core::num::NonZeroU32;

use fieldgate::mqtt::{
    Ack, AckProperties, Auth, AuthProperties, Connack, ConnackProperties, Connect,
    ConnectProperties, Disconnect, DisconnectProperties, Packet, PacketId, PacketType,
    PayloadFormat, ProtocolVersion, Publish, PublishProperties, QoS, ReasonCode, ReasonCodes,
    ReceiveMaximum, RetainHandling, Suback, Subscribe, SubscribeProperties, SubscriptionIdentifier,
    SubscriptionIdentifiers, SubscriptionOptions, SubscriptionRequest, SubscriptionRequests,
    TopicAlias, TopicFilter, TopicFilters, TopicName, Unsuback, Unsubscribe, UnsubscribeProperties,
    UserProperties, UserPropertiesBuf, Will, WillProperties,
};
use proptest::prelude::*;

pub const VERSIONS: [ProtocolVersion; 3] = [
    ProtocolVersion::V3,
    ProtocolVersion::V4,
    ProtocolVersion::V5,
];

/// What packets are made of.
#[derive(Debug, Clone)]
pub struct Ingredients {
    /// Each optional field takes one bit, from the lowest.
    pub bits: u64,
    /// Each number takes some of it.
    pub number: u64,
    pub texts: Vec<String>,
    pub blobs: Vec<Vec<u8>>,
    pub names: Vec<String>,
    pub filters: Vec<String>,
    pub pairs: Vec<(String, String)>,
    pub identifiers: Vec<u32>,
}

impl Ingredients {
    /// Everything is there.
    pub fn full() -> Self {
        let strings = |texts: &[&str]| texts.iter().map(ToString::to_string).collect();
        Self {
            bits: u64::MAX,
            number: 0x0123_4567_89AB_CDEF,
            texts: strings(&["client-7", "süß", ""]),
            blobs: vec![b"\0\xFF payload".to_vec(), b"secret".to_vec()],
            names: strings(&["plant/pump/value", "$x", "/"]),
            filters: strings(&["plant/+/value", "#", "$share/group/a/#"]),
            pairs: vec![("unit".into(), "°C".into()), ("unit".into(), String::new())],
            identifiers: vec![1, 127, 128, 268_435_455],
        }
    }

    /// Nothing optional is there.
    pub fn bare() -> Self {
        Self {
            bits: 0,
            number: 0,
            pairs: Vec::new(),
            identifiers: Vec::new(),
            ..Self::full()
        }
    }

    pub fn any() -> impl Strategy<Value = Self> {
        let text = || "[^\0]{0,12}";
        let name = "[^\0+#]{1,12}(/[^\0+#/]{0,5}){0,3}";
        let filter =
            "(\\$share/[^\0+#/]{1,4}/)?([^\0+#/$]{1,5}|\\+)(/([^\0+#/]{0,5}|\\+)){0,3}(/#)?";
        let blob = proptest::collection::vec(any::<u8>(), 0..40);
        (
            (any::<u64>(), any::<u64>()),
            proptest::collection::vec(text(), 3..6),
            proptest::collection::vec(blob, 2..4),
            proptest::collection::vec(name, 3..4),
            proptest::collection::vec(filter, 1..5),
            proptest::collection::vec((text(), text()), 0..4),
            proptest::collection::vec(1_u32..=268_435_455, 0..4),
        )
            .prop_map(
                |((bits, number), texts, blobs, names, filters, pairs, identifiers)| Self {
                    bits,
                    number,
                    texts,
                    blobs,
                    names,
                    filters,
                    pairs,
                    identifiers,
                },
            )
    }
}

/// Hands out the ingredients one after another.
struct Cook<'a> {
    ingredients: &'a Ingredients,
    bits: u64,
    taken: usize,
}

impl<'a> Cook<'a> {
    fn yes(&mut self) -> bool {
        let bit = self.bits & 1 == 1;
        self.bits >>= 1;
        bit
    }

    fn maybe<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.yes().then(|| make(self))
    }

    fn next<T>(&mut self, list: &'a [T]) -> &'a T {
        self.taken += 1;
        &list[self.taken % list.len()]
    }

    fn text(&mut self) -> &'a str {
        self.next::<String>(&self.ingredients.texts)
    }

    fn blob(&mut self) -> &'a [u8] {
        self.next::<Vec<u8>>(&self.ingredients.blobs)
    }

    fn name(&mut self) -> TopicName<'a> {
        let name = self.next(&self.ingredients.names);
        TopicName::new(name).expect("a name")
    }

    fn u32(&mut self) -> u32 {
        self.taken += 1;
        self.ingredients.number.rotate_left(self.taken as u32 * 7) as u32
    }

    fn u16(&mut self) -> u16 {
        self.u32() as u16
    }

    fn qos(&mut self) -> QoS {
        QoS::from_bits((self.u32() % 3) as u8).expect("below 3")
    }

    fn packet_id(&mut self) -> PacketId {
        PacketId::new(self.u16().max(1)).expect("not 0")
    }

    fn reason(&mut self, packet: PacketType) -> ReasonCode {
        let allowed: Vec<_> = ReasonCode::ALL
            .iter()
            .filter(|reason| reason.is_allowed_in(packet))
            .collect();
        *allowed[self.u32() as usize % allowed.len()]
    }
}

/// Makes a packet of this type that this version can carry whole, and shows it.
pub fn with_packet<R>(
    ingredients: &Ingredients,
    version: ProtocolVersion,
    packet_type: PacketType,
    show: impl FnOnce(Packet<'_>) -> R,
) -> R {
    let is_v5 = version == ProtocolVersion::V5;
    let mut pairs = UserPropertiesBuf::new();
    for (name, value) in &ingredients.pairs {
        assert!(pairs.push(name, value));
    }
    let user_properties = if is_v5 {
        pairs.as_properties()
    } else {
        UserProperties::EMPTY
    };
    let identifiers: Vec<_> = ingredients
        .identifiers
        .iter()
        .filter_map(|&id| SubscriptionIdentifier::new(id))
        .collect();
    let mut cook = Cook {
        ingredients,
        // Before 5.0 nothing optional is said, except where a packet asks again below.
        bits: if is_v5 { ingredients.bits } else { 0 },
        taken: (ingredients.number % 7) as usize,
    };
    let c = &mut cook;
    let ack = |c: &mut Cook<'_>, packet| Ack {
        packet_id: c.packet_id(),
        reason: if is_v5 {
            c.reason(packet)
        } else {
            ReasonCode::Success
        },
        ..Ack::success(PacketId::FIRST)
    };
    let filters: Vec<_> = ingredients
        .filters
        .iter()
        .map(|filter| TopicFilter::new(filter).expect("a filter"))
        .collect();
    match packet_type {
        PacketType::Connect => {
            let properties = ConnectProperties {
                session_expiry_interval: c.maybe(Cook::u32),
                receive_maximum: c.maybe(|c| ReceiveMaximum::new(c.u16().max(1)).expect("not 0")),
                maximum_packet_size: c.maybe(|c| NonZeroU32::new(c.u32().max(1)).expect("not 0")),
                topic_alias_maximum: c.maybe(Cook::u16),
                request_response_information: c.maybe(Cook::yes),
                request_problem_information: c.maybe(Cook::yes),
                authentication_method: c.maybe(Cook::text),
                authentication_data: None,
                user_properties,
            };
            let authentication_data = properties
                .authentication_method
                .and_then(|_| c.maybe(Cook::blob));
            let will_properties = WillProperties {
                will_delay_interval: c.maybe(Cook::u32),
                payload_format_indicator: c.maybe(|_| PayloadFormat::Utf8),
                message_expiry_interval: c.maybe(Cook::u32),
                content_type: c.maybe(Cook::text),
                response_topic: c.maybe(Cook::name),
                correlation_data: c.maybe(Cook::blob),
                user_properties,
            };
            c.bits = ingredients.bits >> 32;
            let username = c.maybe(Cook::text);
            show(Packet::Connect(Connect {
                version,
                clean_start: c.yes(),
                keep_alive: c.u16(),
                client_id: c.text(),
                will: c.maybe(|c| Will {
                    topic: c.name(),
                    payload: c.blob(),
                    qos: c.qos(),
                    retain: c.yes(),
                    properties: will_properties,
                }),
                username,
                password: c.maybe(Cook::blob).filter(|_| is_v5 || username.is_some()),
                properties: ConnectProperties {
                    authentication_data,
                    ..properties
                },
            }))
        }
        PacketType::Connack => {
            let reason = if is_v5 {
                c.reason(packet_type)
            } else {
                ReasonCode::from_connect_return_code((c.u32() % 6) as u8).expect("below 6")
            };
            let authentication_method = c.maybe(Cook::text);
            let properties = ConnackProperties {
                session_expiry_interval: c.maybe(Cook::u32),
                receive_maximum: c.maybe(|c| ReceiveMaximum::new(c.u16().max(1)).expect("not 0")),
                maximum_qos: c.maybe(|_| QoS::AtLeastOnce),
                retain_available: c.maybe(Cook::yes),
                maximum_packet_size: c.maybe(|c| NonZeroU32::new(c.u32().max(1)).expect("not 0")),
                assigned_client_identifier: c.maybe(Cook::text),
                topic_alias_maximum: c.maybe(Cook::u16),
                reason_string: c.maybe(Cook::text),
                wildcard_subscription_available: c.maybe(Cook::yes),
                subscription_identifier_available: c.maybe(Cook::yes),
                shared_subscription_available: c.maybe(Cook::yes),
                server_keep_alive: c.maybe(Cook::u16),
                response_information: c.maybe(Cook::text),
                server_reference: c.maybe(Cook::text),
                authentication_method,
                authentication_data: authentication_method.and_then(|_| c.maybe(Cook::blob)),
                user_properties,
            };
            show(Packet::Connack(Connack {
                session_present: reason == ReasonCode::Success && ingredients.number & 1 == 1,
                reason,
                properties,
            }))
        }
        PacketType::Publish => {
            let properties = PublishProperties {
                payload_format_indicator: c.maybe(|_| PayloadFormat::Bytes),
                message_expiry_interval: c.maybe(Cook::u32),
                topic_alias: c.maybe(|c| TopicAlias::new(c.u16().max(1)).expect("not 0")),
                response_topic: c.maybe(Cook::name),
                correlation_data: c.maybe(Cook::blob),
                subscription_identifiers: if is_v5 {
                    SubscriptionIdentifiers::from_slice(&identifiers)
                } else {
                    SubscriptionIdentifiers::EMPTY
                },
                content_type: c.maybe(Cook::text),
                user_properties,
            };
            let by_alias = properties.topic_alias.is_some() && c.yes();
            c.bits = ingredients.bits >> 32;
            let qos = c.qos();
            show(Packet::Publish(Publish {
                dup: qos != QoS::AtMostOnce && c.yes(),
                qos,
                retain: c.yes(),
                topic: if by_alias { "" } else { c.name().as_str() },
                packet_id: (qos != QoS::AtMostOnce).then(|| c.packet_id()),
                properties,
                payload: c.blob(),
            }))
        }
        PacketType::Puback | PacketType::Pubrec | PacketType::Pubrel | PacketType::Pubcomp => {
            let mut packet = ack(c, packet_type);
            packet.properties = AckProperties {
                reason_string: c.maybe(Cook::text),
                user_properties,
            };
            show(match packet_type {
                PacketType::Puback => Packet::Puback(packet),
                PacketType::Pubrec => Packet::Pubrec(packet),
                PacketType::Pubrel => Packet::Pubrel(packet),
                _ => Packet::Pubcomp(packet),
            })
        }
        PacketType::Subscribe => {
            let requests: Vec<_> = filters
                .iter()
                .map(|&filter| SubscriptionRequest {
                    filter,
                    options: SubscriptionOptions {
                        maximum_qos: c.qos(),
                        no_local: c.yes() && !filter.is_shared(),
                        retain_as_published: c.yes(),
                        retain_handling: if c.yes() {
                            RetainHandling::DoNotSend
                        } else {
                            RetainHandling::Send
                        },
                    },
                })
                .collect();
            show(Packet::Subscribe(Subscribe {
                packet_id: c.packet_id(),
                properties: SubscribeProperties {
                    subscription_identifier: identifiers.first().copied().filter(|_| is_v5),
                    user_properties,
                },
                requests: SubscriptionRequests::from_slice(&requests),
            }))
        }
        PacketType::Suback => {
            let reasons: Vec<_> = filters
                .iter()
                .map(|_| {
                    if is_v5 {
                        c.reason(packet_type)
                    } else if c.u32() % 4 == 3 {
                        ReasonCode::UnspecifiedError
                    } else {
                        ReasonCode::granted(c.qos())
                    }
                })
                .collect();
            show(Packet::Suback(Suback {
                packet_id: c.packet_id(),
                properties: AckProperties {
                    reason_string: c.maybe(Cook::text),
                    user_properties,
                },
                reasons: ReasonCodes::from_slice(&reasons),
            }))
        }
        PacketType::Unsubscribe => show(Packet::Unsubscribe(Unsubscribe {
            packet_id: c.packet_id(),
            properties: UnsubscribeProperties { user_properties },
            filters: TopicFilters::from_slice(&filters),
        })),
        PacketType::Unsuback => {
            let reasons: Vec<_> = filters
                .iter()
                .filter(|_| is_v5)
                .map(|_| c.reason(packet_type))
                .collect();
            show(Packet::Unsuback(Unsuback {
                packet_id: c.packet_id(),
                properties: AckProperties {
                    reason_string: c.maybe(Cook::text),
                    user_properties,
                },
                reasons: ReasonCodes::from_slice(&reasons),
            }))
        }
        PacketType::Pingreq => show(Packet::Pingreq),
        PacketType::Pingresp => show(Packet::Pingresp),
        PacketType::Disconnect => show(Packet::Disconnect(Disconnect {
            reason: if is_v5 {
                c.reason(packet_type)
            } else {
                ReasonCode::NORMAL_DISCONNECTION
            },
            properties: DisconnectProperties {
                session_expiry_interval: c.maybe(Cook::u32),
                reason_string: c.maybe(Cook::text),
                server_reference: c.maybe(Cook::text),
                user_properties,
            },
        })),
        PacketType::Auth => show(Packet::Auth(Auth {
            reason: c.reason(packet_type),
            properties: AuthProperties {
                authentication_method: Some(c.text()),
                authentication_data: c.maybe(Cook::blob),
                reason_string: c.maybe(Cook::text),
                user_properties,
            },
        })),
    }
}

/// The packet types that a version has.
pub fn types_of(version: ProtocolVersion) -> impl Iterator<Item = PacketType> {
    PacketType::ALL
        .into_iter()
        .filter(move |packet| version == ProtocolVersion::V5 || *packet != PacketType::Auth)
}

/// A packet's bytes.
pub fn bytes_of(packet: &Packet<'_>, version: ProtocolVersion) -> Vec<u8> {
    let mut bytes = Vec::new();
    packet.encode_into(version, &mut bytes);
    bytes
}
