//! How a client connects: what its CONNECT says, and the limits it keeps to itself.

use core::fmt;
use core::num::NonZeroU32;

use crate::mqtt::basic::{ProtocolVersion, ReceiveMaximum};
use crate::mqtt::frame::PACKET_SIZE_MAX;
use crate::mqtt::message::ApplicationMessage;
use crate::mqtt::packet::{Connect, Will};
use crate::mqtt::property::{ConnectProperties, UserPropertiesBuf, WillProperties};
use crate::mqtt::topic::TopicName;
use crate::mqtt::wire::FIELD_LEN_MAX;
use crate::mqtt::{Packet, QoS};
use crate::time::{Duration, Instant};

/// What to connect with. Fields that only 5.0 knows are ignored in older versions.
#[derive(Clone)]
pub struct ConnectOptions {
    /// What to speak.
    pub version: ProtocolVersion,
    /// May be empty where the server may choose: in 5.0, and with `clean_start` in 3.1.1.
    pub client_id: String,
    /// Clean Start, or Clean Session before 5.0: have the server forget what it kept for us.
    pub clean_start: bool,
    /// Seconds, 0 is off. The server may set another [MQTT-3.1.2-21].
    pub keep_alive: u16,
    /// The user name.
    pub username: Option<String>,
    /// The password; never printed. Before 5.0 only together with a user name.
    pub password: Option<Vec<u8>>,
    /// To be published by the server when it loses us.
    pub will: Option<WillOptions>,
    /// Seconds that the server keeps our session after the connection; 5.0 only.
    pub session_expiry_interval: u32,
    /// How many QoS 1 and 2 messages may come in unacknowledged; 5.0 tells the server so.
    pub receive_maximum: ReceiveMaximum,
    /// The largest packet that we take, in bytes, fixed header included. 5.0 tells the server so;
    /// in all versions a larger one closes the connection, so it is also the most that a receive
    /// buffer must hold.
    pub maximum_packet_size: u32,
    /// The highest Topic Alias that the server may use towards us; 5.0 only. Each costs a topic's
    /// memory.
    pub topic_alias_maximum: u16,
    /// Topic Aliases that we use towards the server, if it takes as many; 5.0 only. The first
    /// topics of a connection get them, and each costs its topic's memory.
    pub outgoing_topic_aliases: u16,
    /// User Properties of the CONNECT; 5.0 only.
    pub user_properties: UserPropertiesBuf,
    /// From the transport being there to CONNACK.
    pub connect_timeout: Duration,
    /// How many QoS 1 and 2 messages of ours may be under way, whatever the server would take.
    pub inflight_maximum: u16,
    /// Who says that a received message may be acknowledged.
    pub acknowledge: Acknowledge,
    /// Who says that a QoS 2 message may go one step further.
    pub steps: Steps,
}

/// A will and how long the server waits with it.
#[derive(Debug, Clone)]
pub struct WillOptions {
    /// Its payload is at most 65 535 bytes.
    pub message: ApplicationMessage,
    /// Seconds; 5.0 only.
    pub delay_interval: u32,
}

/// Who says that a received QoS 1 or 2 message may be acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Acknowledge {
    /// Nobody: it is when it is handed over.
    #[default]
    OnReceipt,
    /// Whoever it was handed to, by [`Client::acknowledge`](super::Client::acknowledge), in any
    /// order; the acknowledgements leave in the order of the messages [MQTT-4.6.0-2].
    ByCaller,
}

/// Who says that a QoS 2 message may go one [`Step`](super::Step) further. A session that is to
/// survive its process has to be written down before each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Steps {
    /// Nobody: it goes on at once.
    #[default]
    AtOnce,
    /// Whoever has the client, by [`Client::take_step`](super::Client::take_step).
    ByCaller,
}

impl Default for ConnectOptions {
    /// 5.0, clean, 60 s of keep-alive, packets up to 1 MiB, at most 20 messages under way each way.
    fn default() -> Self {
        Self {
            version: ProtocolVersion::V5,
            client_id: String::new(),
            clean_start: true,
            keep_alive: 60,
            username: None,
            password: None,
            will: None,
            session_expiry_interval: 0,
            receive_maximum: ReceiveMaximum::new(20).expect("20 is not 0"),
            maximum_packet_size: 1024 * 1024,
            topic_alias_maximum: 0,
            outgoing_topic_aliases: 0,
            user_properties: UserPropertiesBuf::new(),
            connect_timeout: Duration::from_secs(30),
            inflight_maximum: 20,
            acknowledge: Acknowledge::OnReceipt,
            steps: Steps::AtOnce,
        }
    }
}

/// All but the password.
impl fmt::Debug for ConnectOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectOptions")
            .field("version", &self.version)
            .field("client_id", &self.client_id)
            .field("clean_start", &self.clean_start)
            .field("keep_alive", &self.keep_alive)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

impl ConnectOptions {
    /// Whether a CONNECT can be made of it.
    pub fn check(&self) -> Result<(), OptionsError> {
        check_text("client identifier", &self.client_id)?;
        check_text("user name", self.username.as_deref().unwrap_or_default())?;
        check_len("password", self.password.as_ref().map_or(0, Vec::len))?;
        if let Some(will) = &self.will {
            check_len("will payload", will.message.payload().len())?;
        }
        if !self.version.is_v5() && self.password.is_some() && self.username.is_none() {
            return Err(OptionsError::PasswordWithoutUserName); // [MQTT-3.1.2-22/3.1.1]
        }
        if !self.version.is_v5() && self.client_id.is_empty() && !self.clean_start {
            return Err(OptionsError::SessionWithoutClientId); // [MQTT-3.1.3-7/3.1.1]
        }
        if self.maximum_packet_size == 0 {
            return Err(OptionsError::Zero("maximum packet size"));
        }
        if self.inflight_maximum == 0 {
            return Err(OptionsError::Zero("inflight maximum"));
        }
        let len = Packet::Connect(self.connect("")).encoded_len(self.version);
        if len > PACKET_SIZE_MAX as usize {
            return Err(OptionsError::TooLong("CONNECT"));
        }
        Ok(())
    }

    /// The CONNECT. `assigned` is the client identifier that the server chose earlier, empty if it
    /// did not.
    pub(super) fn connect<'a>(&'a self, assigned: &'a str) -> Connect<'a> {
        let is_v5 = self.version.is_v5();
        let some_if_v5 = |value: u32| Some(value).filter(|value| is_v5 && *value != 0);
        let properties = if is_v5 {
            ConnectProperties {
                session_expiry_interval: some_if_v5(self.session_expiry_interval),
                receive_maximum: Some(self.receive_maximum)
                    .filter(|count| *count != ReceiveMaximum::DEFAULT),
                maximum_packet_size: NonZeroU32::new(self.maximum_packet_size)
                    .filter(|size| size.get() < PACKET_SIZE_MAX),
                topic_alias_maximum: Some(self.topic_alias_maximum).filter(|count| *count != 0),
                user_properties: self.user_properties.as_properties(),
                ..ConnectProperties::default()
            }
        } else {
            ConnectProperties::default()
        };
        Connect {
            version: self.version,
            clean_start: self.clean_start,
            keep_alive: self.keep_alive,
            client_id: if self.client_id.is_empty() {
                assigned
            } else {
                &self.client_id
            },
            will: self.will.as_ref().map(|will| will.as_will(self.version)),
            username: self.username.as_deref(),
            password: self.password.as_deref(),
            properties,
        }
    }
}

impl WillOptions {
    fn as_will(&self, version: ProtocolVersion) -> Will<'_> {
        // The expiry interval is told whole: it runs from when the will is published.
        let publish = self.message.as_publish(version, Instant::default());
        let delay = Some(self.delay_interval).filter(|delay| version.is_v5() && *delay != 0);
        Will {
            topic: TopicName::new(publish.topic).expect("a message's topic is a Topic Name"),
            payload: publish.payload,
            qos: publish.qos,
            retain: publish.retain,
            properties: WillProperties {
                will_delay_interval: delay,
                payload_format_indicator: publish.properties.payload_format_indicator,
                message_expiry_interval: publish.properties.message_expiry_interval,
                content_type: publish.properties.content_type,
                response_topic: publish.properties.response_topic,
                correlation_data: publish.properties.correlation_data,
                user_properties: publish.properties.user_properties,
            },
        }
    }
}

fn check_text(field: &'static str, text: &str) -> Result<(), OptionsError> {
    if text.contains('\0') {
        return Err(OptionsError::NullCharacter(field)); // [MQTT-1.5.4-2]
    }
    check_len(field, text.len())
}

fn check_len(field: &'static str, len: usize) -> Result<(), OptionsError> {
    if len > FIELD_LEN_MAX {
        return Err(OptionsError::TooLong(field));
    }
    Ok(())
}

/// Why no CONNECT can be made: the operator's to fix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OptionsError {
    /// More bytes than the wire can say.
    TooLong(&'static str),
    /// U+0000 in a string.
    NullCharacter(&'static str),
    /// A limit of nothing.
    Zero(&'static str),
    /// 3.1.1 has no password without a user name.
    PasswordWithoutUserName,
    /// 3.1.1 has no lasting session without a client identifier.
    SessionWithoutClientId,
}

impl fmt::Display for OptionsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong(field) => write!(f, "the {field} is too long"),
            Self::NullCharacter(field) => write!(f, "the {field} contains the null character"),
            Self::Zero(field) => write!(f, "the {field} is 0"),
            Self::PasswordWithoutUserName => {
                f.write_str("MQTT before 5.0 has no password without a user name")
            }
            Self::SessionWithoutClientId => {
                f.write_str("MQTT before 5.0 keeps no session without a client identifier")
            }
        }
    }
}

impl std::error::Error for OptionsError {}

/// What the server takes, from its CONNACK. Before 5.0 it says nothing, and everything is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerLimits {
    /// How many QoS 1 and 2 messages of ours it takes unacknowledged.
    pub receive_maximum: ReceiveMaximum,
    /// The largest packet, in bytes, fixed header included.
    pub maximum_packet_size: u32,
    /// The highest QoS to publish at.
    pub maximum_qos: QoS,
    /// Whether RETAIN may be set.
    pub retain_available: bool,
    /// The highest Topic Alias that it takes.
    pub topic_alias_maximum: u16,
    /// Whether filters may have wildcards.
    pub wildcard_subscriptions: bool,
    /// Whether a SUBSCRIBE may carry an identifier.
    pub subscription_identifiers: bool,
    /// Whether `$share/` is understood.
    pub shared_subscriptions: bool,
    /// Seconds that count: the server's, else ours; 0 is off.
    pub keep_alive: u16,
    /// Seconds that the session is kept; `u32::MAX` is for ever.
    pub session_expiry_interval: u32,
}
