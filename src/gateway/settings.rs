//! The configuration as meant: validated whole, complete, comparable. Reloading is a difference of
//! two of these.

use core::fmt;
use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::broker;
use crate::field;
use crate::pipeline;

/// What the gateway is to be.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Its name, for client ids and people.
    pub name: Box<str>,
    /// The first levels of every topic that it owns.
    pub base_topic: Box<str>,
    /// The broker's limits.
    pub broker: broker::settings::Settings,
    /// Where clients may connect, by the table's name.
    pub listeners: BTreeMap<Box<str>, ListenerSettings>,
    /// By name.
    pub devices: BTreeMap<Box<str>, DeviceConfig>,
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
