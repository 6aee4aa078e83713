//! The link to an upstream broker.

pub mod settings;

use core::fmt;

/// The user property that names the gateway which put a message on a bridge first.
pub const ORIGIN_PROPERTY: &str = "fieldgate-origin";

/// What the host has read from where the settings say, for one connection.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// The user name.
    pub username: Option<Box<str>>,
    /// The password.
    pub password: Option<Box<[u8]>>,
}

/// Secrets are never printed, and a user name may be one.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("has_username", &self.username.is_some())
            .field("has_password", &self.password.is_some())
            .finish()
    }
}
