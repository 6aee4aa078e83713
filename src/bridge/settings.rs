//! What `[bridge.NAME]` means: validated whole, every default filled in, comparable.
//!
//! The machine reads it, the host dials by it, and `fieldgate check` holds a target's limits
//! ([`Profile::limits`]) against it before anything is sent.

use core::fmt;

use crate::mqtt::{ProtocolVersion, QoS};
use crate::time::Duration;
use crate::units::Rate;

/// One upstream broker and what is carried to it and from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Who this gateway is among all that may be linked: said in the user property
    /// [`ORIGIN_PROPERTY`](super::ORIGIN_PROPERTY), so that what comes back to us is known as ours.
    /// The same for all bridges of one gateway, and for no two gateways.
    pub origin: Box<str>,
    /// The first levels of the gateway's own topics: says which local topics are commands.
    pub base_topic: Box<str>,
    /// Where the broker is, the best first; at least one.
    pub endpoints: Vec<Endpoint>,
    /// How long a connection to another than the first one lasts before the first one is tried
    /// again. `None`: for as long as it holds.
    pub failback: Option<Duration>,
    /// What to speak.
    pub version: Version,
    /// The client identifier. Not empty, for a session is kept under it.
    pub client_id: Box<str>,
    /// Where the user name is read from at each connect.
    pub username: Option<SecretSource>,
    /// Where the password is read from at each connect.
    pub password: Option<SecretSource>,
    /// For endpoints that are encrypted.
    pub tls: TlsSettings,
    /// Seconds, 0 is off.
    pub keep_alive: u16,
    /// Seconds that the peer keeps our session after a connection; `u32::MAX` is for ever. 5.0
    /// only.
    pub session_expiry: u32,
    /// Have the peer forget its session at each connect.
    pub clean_start: bool,
    /// The pauses between attempts.
    pub reconnect: Reconnect,
    /// Connected, something under way, and nothing acknowledged for so long: the connection is
    /// given up. `None`: never.
    pub stalled_after: Option<Duration>,
    /// What kind of broker it is.
    pub profile: Profile,
    /// Where `online` and `offline` are said upstream, retained, and by the will. `None`: nowhere.
    pub state_topic: Option<Box<str>>,
    /// How much may wait for this bridge.
    pub queue: QueueLimits,
    /// How fast a backlog is sent, in messages. `None`: as fast as the peer takes it.
    pub replay_rate: Option<Rate>,
    /// QoS 1 and 2 messages that may be under way to the peer at once, whatever it would take.
    pub inflight_maximum: u16,
    /// QoS 1 and 2 messages that the peer may have under way to us; 5.0 tells it so.
    pub receive_maximum: u16,
    /// The largest packet that we take from the peer, in bytes; a larger one closes the connection.
    pub max_packet_size: u32,
    /// What goes up. A [`RuleId`](crate::id::RuleId) is a place in this list.
    pub send: Vec<SendRule>,
    /// What comes down; the first rule that matches decides.
    pub receive: Vec<ReceiveRule>,
}

/// One of the `urls`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Endpoint {
    /// By name or address.
    Network {
        /// What is between the socket and MQTT.
        scheme: Scheme,
        /// A name to be resolved, or an address; an IPv6 address without brackets.
        host: Box<str>,
        /// The port, the scheme's own if the URL has none.
        port: u16,
        /// What a WebSocket request asks for, with its `/`. Without WebSocket of no meaning.
        path: Box<str>,
    },
    /// A unix stream socket.
    Unix {
        /// Its path.
        path: Box<str>,
    },
}

impl Endpoint {
    /// Whether MQTT's bytes are encrypted.
    pub fn is_encrypted(&self) -> bool {
        matches!(
            self,
            Self::Network {
                scheme: Scheme::Mqtts | Scheme::Wss,
                ..
            }
        )
    }
}

/// As a URL.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, host, port, path) = match self {
            Self::Unix { path } => return write!(f, "unix:{path}"),
            Self::Network {
                scheme,
                host,
                port,
                path,
            } => (scheme, host, port, path),
        };
        let scheme_name = scheme.name();
        if host.contains(':') {
            write!(f, "{scheme_name}://[{host}]:{port}")?;
        } else {
            write!(f, "{scheme_name}://{host}:{port}")?;
        }
        if scheme.is_websocket() {
            f.write_str(path)?;
        }
        Ok(())
    }
}

/// What is between a socket and MQTT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scheme {
    /// Nothing.
    Mqtt,
    /// TLS.
    Mqtts,
    /// WebSocket.
    Ws,
    /// WebSocket over TLS.
    Wss,
}

impl Scheme {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Mqtt, Self::Mqtts, Self::Ws, Self::Wss];

    /// As a URL has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mqtt => "mqtt",
            Self::Mqtts => "mqtts",
            Self::Ws => "ws",
            Self::Wss => "wss",
        }
    }

    /// The port of a URL that names none.
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Mqtt => 1883,
            Self::Mqtts => 8883,
            Self::Ws => 80,
            Self::Wss => 443,
        }
    }

    /// Whether MQTT is in WebSocket frames.
    pub const fn is_websocket(self) -> bool {
        matches!(self, Self::Ws | Self::Wss)
    }
}

/// What a bridge speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Version {
    /// 5.0; then 3.1.1, if the peer does not understand that.
    #[default]
    Auto,
    /// This, and nothing else.
    Pinned(ProtocolVersion),
}

/// Where a secret comes from. The host reads it, each time anew.
#[derive(Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// It stands in the configuration.
    Literal(Box<str>),
    /// A file's content, without its last line's end.
    File(Box<str>),
    /// A credential that systemd hands over, by name.
    Credential(Box<str>),
    /// A variable of the environment, by name.
    Environment(Box<str>),
}

/// A secret is never printed.
impl fmt::Debug for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal(_) => f.write_str("Literal(…)"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Credential(name) => f.debug_tuple("Credential").field(name).finish(),
            Self::Environment(name) => f.debug_tuple("Environment").field(name).finish(),
        }
    }
}

/// `tls = { … }` of a bridge. The files are PEM, and are read by the host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsSettings {
    /// Certificates that the peer's must lead to. `None`: those that the system trusts.
    pub ca: Option<Box<str>>,
    /// What we show.
    pub identity: Option<ClientCertificate>,
    /// Protocols to offer (ALPN), the best first.
    pub alpn: Vec<Box<str>>,
    /// What the peer's certificate must be for, and the name asked for (SNI). `None`: the
    /// endpoint's host.
    pub server_name: Option<Box<str>>,
}

/// A client's certificate and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// Ours, and those between it and its root.
    pub certificate: Box<str>,
    /// Its private key.
    pub key: Box<str>,
}

/// Between attempts the pause grows from `min` to `max`, with jitter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reconnect {
    /// The first pause; not zero.
    pub min: Duration,
    /// The longest one; not below `min`. Also the pause after a refusal that only a person can
    /// mend.
    pub max: Duration,
}

impl Default for Reconnect {
    fn default() -> Self {
        Self {
            min: Duration::from_secs(1),
            max: Duration::from_secs(120),
        }
    }
}

/// How much may wait for a bridge, in memory or on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueLimits {
    /// Bytes of messages: of what is on the disk alone its content and what the journal has around
    /// it, of the rest the memory that it takes.
    pub bytes: u64,
    /// Messages. `None`: as many as the bytes allow.
    pub messages: Option<u64>,
    /// What is older is dropped. `None`: nothing is too old.
    pub age: Option<Duration>,
    /// What happens at `bytes` or `messages`.
    pub when_full: WhenFull,
}

impl Default for QueueLimits {
    /// 256 MiB, 30 days, the oldest goes.
    fn default() -> Self {
        Self {
            bytes: 256 * 1024 * 1024,
            messages: None,
            age: Some(Duration::from_secs(30 * 24 * 3600)),
            when_full: WhenFull::DropOldest,
        }
    }
}

/// What a full queue does with one more message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenFull {
    /// The oldest that is not under way makes room.
    #[default]
    DropOldest,
    /// The new one is dropped.
    DropNewest,
}

/// `[[bridge.NAME.send]]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SendRule {
    /// Local topics; a Topic Filter that is not shared. Its wildcards never match command topics
    /// (see `bridge::mapping`).
    pub filter: Box<str>,
    /// Not these, although `filter` matches.
    pub except: Vec<Box<str>>,
    /// The topic upstream. `None`: as it is. Its wildcards are those of `filter`, in kind and
    /// order: the n-th takes what the n-th matched.
    pub to: Option<Box<str>>,
    /// The same for backlog, where the peer speaks a version without user properties to mark it
    /// by. `None`: it goes where live messages go.
    pub backlog_to: Option<Box<str>>,
    /// The QoS on this link, whatever the message was published with; less if the peer takes less.
    pub qos: QoS,
    /// What waits while the link is down.
    pub keep: Keep,
    /// Whether live messages pass the backlog.
    pub lanes: Lanes,
}

/// What a sending rule keeps while the link is down, or too slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Keep {
    /// Every message, within the queue's limits. What suits QoS 1 and 2.
    #[default]
    All,
    /// The latest of each topic.
    Latest,
    /// None: while the link is down messages are dropped and counted. What suits QoS 0.
    Nothing,
}

/// Whether live messages pass the backlog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Lanes {
    /// No: strict order, live behind the backlog.
    One,
    /// Yes: order holds within each of the two lanes.
    #[default]
    Two,
}

/// `[[bridge.NAME.receive]]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiveRule {
    /// Topics upstream; a Topic Filter, which may be shared.
    pub filter: Box<str>,
    /// The local topic. `None`: as it is. Its wildcards are those of `filter`, in kind and order.
    /// They never make a command topic (see `bridge::mapping`).
    pub to: Option<Box<str>>,
    /// The QoS to subscribe with.
    pub qos: QoS,
    /// What becomes of commands that come late.
    pub queued: Queued,
}

/// What becomes of a command that waited upstream while the link was down. Other messages are
/// taken, late or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Queued {
    /// It is refused and counted: commands are not obeyed late.
    #[default]
    Refuse,
    /// It is obeyed.
    Obey,
}

/// What kind of broker is upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Profile {
    /// One that says what its limits are, or has none.
    #[default]
    Generic,
    /// AWS IoT Core.
    Aws,
    /// Azure IoT Hub.
    Azure,
    /// The MQTT broker of Azure Event Grid.
    AzureEventGrid,
    /// RabbitMQ.
    RabbitMq,
    /// NATS server.
    Nats,
}

/// What a kind of broker is known to take, over and above what it says itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProfileLimits {
    /// The highest version it speaks.
    pub version: ProtocolVersion,
    /// The highest QoS to publish at.
    pub maximum_qos: QoS,
    /// Whether RETAIN may be set.
    pub retain: bool,
    /// Bytes of a payload.
    pub payload_max: usize,
    /// Bytes of a topic.
    pub topic_len_max: usize,
    /// `/` in a topic.
    pub topic_separators_max: usize,
    /// Bytes of a client identifier.
    pub client_id_len_max: usize,
    /// Seconds of keep-alive, from and to; 0 (off) is outside of both where there is a limit.
    pub keep_alive: (u16, u16),
    /// Messages unacknowledged each way.
    pub inflight_maximum: u16,
    /// PUBLISH packets in a second, in all.
    pub publish_rate: Option<u16>,
    /// Filters in one SUBSCRIBE.
    pub filters_per_subscribe: usize,
}

impl Profile {
    /// What it is known to take.
    pub const fn limits(self) -> ProfileLimits {
        let any = ProfileLimits {
            version: ProtocolVersion::V5,
            maximum_qos: QoS::ExactlyOnce,
            retain: true,
            payload_max: usize::MAX,
            topic_len_max: u16::MAX as usize,
            topic_separators_max: usize::MAX,
            client_id_len_max: u16::MAX as usize,
            keep_alive: (0, u16::MAX),
            inflight_maximum: u16::MAX,
            publish_rate: None,
            filters_per_subscribe: usize::MAX,
        };
        match self {
            Self::Generic => any,
            // A QoS 2 message is never acknowledged there.
            Self::Aws => ProfileLimits {
                maximum_qos: QoS::AtLeastOnce,
                payload_max: 128 * 1024,
                topic_len_max: 256,
                topic_separators_max: 7,
                client_id_len_max: 128,
                keep_alive: (30, 1200),
                inflight_maximum: 100,
                publish_rate: Some(100),
                filters_per_subscribe: 8,
                ..any
            },
            // What is retained is not stored, so it is not asked for.
            Self::Azure => ProfileLimits {
                version: ProtocolVersion::V4,
                maximum_qos: QoS::AtLeastOnce,
                retain: false,
                payload_max: 256 * 1024,
                client_id_len_max: 128,
                keep_alive: (1, 1140),
                ..any
            },
            Self::AzureEventGrid => ProfileLimits {
                maximum_qos: QoS::AtLeastOnce,
                retain: false,
                payload_max: 512 * 1024,
                keep_alive: (1, 1160),
                ..any
            },
            Self::RabbitMq => ProfileLimits {
                maximum_qos: QoS::AtLeastOnce,
                ..any
            },
            Self::Nats => ProfileLimits {
                version: ProtocolVersion::V4,
                maximum_qos: QoS::AtLeastOnce,
                payload_max: 1024 * 1024,
                ..any
            },
        }
    }
}
