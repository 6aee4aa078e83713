//! The configuration as meant: validated whole, complete, comparable. Reloading is a difference of
//! two of these.

use core::fmt;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use crate::bridge;
use crate::bridge::settings::{Endpoint, SecretSource};
use crate::broker;
use crate::field;
use crate::pipeline;
use crate::time::Duration;

/// What the gateway is to be.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Its name, for client ids and people.
    pub name: Box<str>,
    /// The first levels of every topic that it owns.
    pub base_topic: Box<str>,
    /// The broker's limits.
    pub broker: broker::settings::Settings,
    /// What outlives the process. `None`: nothing does, for there is no folder to keep it in.
    pub journal: Option<JournalSettings>,
    /// The broker's limits of one address are not for these.
    pub exempt_addresses: Vec<Network>,
    /// Where clients may connect, by the table's name.
    pub listeners: BTreeMap<Box<str>, ListenerSettings>,
    /// By name.
    pub devices: BTreeMap<Box<str>, DeviceConfig>,
    /// Upstream brokers, by name.
    pub bridges: BTreeMap<Box<str>, bridge::settings::Settings>,
}

/// `[journal]`. Where it is kept is the host's to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalSettings {
    /// Bytes of all its segments together, at most.
    pub size: u64,
    /// Bytes of one of them: a multiple of 4096, and an eighth of `size` at most.
    pub segment: u32,
    /// What nobody waits for is on the disk within this time.
    pub sync_within: Duration,
}

impl Default for JournalSettings {
    fn default() -> Self {
        Self {
            // A small part of the smallest card that one buys, and three times what the broker's
            // own limits let it keep: cleaning then copies little.
            size: 1 << 30,
            // About what an SD card erases at once.
            segment: 4 << 20,
            sync_within: Duration::from_secs(1),
        }
    }
}

/// One device: what it is, and how its points are published.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceConfig {
    /// For the field.
    pub field: field::settings::DeviceSettings,
    /// For the pipeline, by name of the point: exactly the points that the driver has.
    pub points: BTreeMap<Box<str>, pipeline::settings::PointSettings>,
}

/// One `[listener.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerSettings {
    /// Each is a socket of its own.
    pub bind: Vec<Bind>,
    /// Whether clients without credentials may connect.
    pub allow_anonymous: bool,
    /// Connections at once through this listener.
    pub max_connections: Option<u32>,
    /// Its clients are told to use another server.
    pub redirect: Option<broker::settings::Redirect>,
    /// How MQTT's bytes are wrapped, and who vouches for whom.
    pub transport: TransportSettings,
}

/// What is between a listener's sockets and MQTT. A change concerns those who connect after it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TransportSettings {
    /// What clients may speak.
    pub protocols: Protocols,
    /// For those who speak WebSocket.
    pub websocket: WebSocketSettings,
    /// `None`: no encryption.
    pub tls: Option<TlsSettings>,
    /// From these addresses a PROXY header is required; from others it is none.
    pub proxies: Vec<Network>,
    /// On unix sockets: the user of the peer's process is who the client is.
    pub peer_credentials: bool,
}

/// What clients of a listener may speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocols {
    /// MQTT as it is.
    #[default]
    Mqtt,
    /// MQTT in WebSocket frames.
    WebSocket,
    /// Either, told apart by the first byte.
    Both,
}

/// `websocket = { … }`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebSocketSettings {
    /// What the request must name.
    pub path: Box<str>,
    /// Pages of these origins may connect; `*` is any. `None`: pages of the host that they connect
    /// to. Who is no browser has no origin, and may connect anyway.
    pub origins: Option<Vec<Box<str>>>,
}

impl Default for WebSocketSettings {
    fn default() -> Self {
        Self {
            path: "/mqtt".into(),
            origins: None,
        }
    }
}

/// `tls = { … }`. The files are PEM, and are read by the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    /// Our certificate and those between it and its root.
    pub certificate: Box<str>,
    /// Its private key.
    pub key: Box<str>,
    /// Certificates that clients' certificates must lead to. `None`: clients are not asked for any.
    pub client_ca: Option<Box<str>>,
    /// Nobody comes in without a certificate.
    pub require_client: bool,
    /// What in a client's certificate is its name. `None`: it logs in as others do.
    pub identity: Option<CertificateName>,
}

/// A name in a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateName {
    /// The common name of its subject.
    CommonName,
    /// Its whole subject, as RFC 4514 writes it.
    Subject,
    /// The first e-mail address, DNS name or URI of its alternative names.
    Alternative,
}

/// Where an upstream broker is, what is between its socket and MQTT, and what is to be read before
/// it is dialled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Name or address, and the path of a WebSocket.
    pub endpoint: Endpoint,
    /// For an endpoint that is encrypted.
    pub tls: bridge::settings::TlsSettings,
    /// Read anew at each dial, so that a secret may change while the gateway runs.
    pub username: Option<SecretSource>,
    /// See `username`. A file that cannot be read fails the dial.
    pub password: Option<SecretSource>,
}

/// Addresses that begin alike: `10.0.0.0/8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// Whether it is every address of its family.
    pub fn is_everybody(&self) -> bool {
        self.prefix == 0
    }

    /// Whether the address is one of them. An IPv4 address in IPv6's clothes is an IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        fn same(ours: &[u8], theirs: &[u8], prefix: u8) -> bool {
            let (whole, rest) = (usize::from(prefix / 8), prefix % 8);
            ours[..whole] == theirs[..whole]
                && (rest == 0 || (ours[whole] ^ theirs[whole]) >> (8 - rest) == 0)
        }
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => {
                same(&ours.octets(), &theirs.octets(), self.prefix)
            }
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => {
                same(&ours.octets(), &theirs.octets(), self.prefix)
            }
            _ => false,
        }
    }
}

/// `10.0.0.0/8`, `fd00::/8`, or one address. Bits after the prefix must be zero.
impl FromStr for Network {
    type Err = NotANetwork;

    fn from_str(text: &str) -> Result<Self, NotANetwork> {
        let (address, prefix) = text.split_once('/').unwrap_or((text, ""));
        let address: IpAddr = address.parse().map_err(|_| NotANetwork)?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = if text.contains('/') {
            prefix.parse().map_err(|_| NotANetwork)?
        } else {
            bits
        };
        let network = Self { address, prefix };
        let set = match address {
            IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
            IpAddr::V6(address) => address.to_bits(),
        };
        let is_fine = prefix <= bits && set.checked_shl(prefix.into()).unwrap_or(0) == 0;
        is_fine.then_some(network).ok_or(NotANetwork)
    }
}

/// A text is not what [`Network`] is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotANetwork;

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// An address to listen at. `*:PORT` is already two of them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bind {
    /// TCP; an IPv6 address accepts IPv6 only.
    Tcp(SocketAddr),
    /// A unix stream socket.
    Unix {
        /// Its path; a stale socket there is replaced, any other file is not.
        path: Box<str>,
        /// Permission bits.
        mode: u32,
        /// The group that owns it.
        group: Option<Box<str>>,
    },
}

/// As it is written in the configuration.
impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix { path, .. } => write!(f, "unix:{path}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_have_the_addresses_that_begin_alike() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
            ("192.168.128.0/17", "192.168.129.1", "192.168.127.1"),
            ("127.0.0.1", "127.0.0.1", "127.0.0.2"),
            ("0.0.0.0/0", "8.8.8.8", "::1"),
            ("10.0.0.0/8", "::ffff:10.1.2.3", "::10.1.2.3"),
            ("fd00::/8", "fdff::1", "fe00::1"),
            ("::1", "::1", "127.0.0.1"),
        ] {
            let network: Network = network.parse().unwrap();
            assert!(
                network.contains(inside.parse().unwrap()),
                "{network} {inside}"
            );
            assert!(
                !network.contains(outside.parse().unwrap()),
                "{network} {outside}"
            );
        }
        for wrong in [
            "",
            "10/8",
            "10.0.0.0/33",
            "10.0.0.1/8",
            "::/129",
            "a.example",
            "10.0.0.0/",
        ] {
            assert_eq!(wrong.parse::<Network>(), Err(NotANetwork), "{wrong}");
        }
    }
}
