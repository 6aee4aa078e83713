//! What is read before an upstream broker is dialled: secrets, certificates, and the addresses of
//! a name. On a worker, for each of these may take long; each time anew, for each may change while
//! the gateway runs.

use std::fs;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use crate::bridge::Credentials;
use crate::bridge::settings::{Endpoint, SecretSource, TlsSettings};
use crate::gateway::settings::Target;
use crate::host::dial::{Address, Layers, Names, Secured, TlsOptions, Upgrade};
use crate::host::net::credentials::Problem;

/// Finds the addresses of a name, with a port. It may block.
pub type Resolver = dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync;

/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 16;

/// The longest secret that is read, in bytes: MQTT's length field ends there.
const SECRET_MAX: u64 = u16::MAX as u64;

/// What systemd puts before the names of our credentials: see `systemd/fieldgate.service`.
const CREDENTIAL_PREFIX: &str = "fieldgate_";

/// Everything that dialling needs.
#[derive(Debug)]
pub(in crate::host) struct Prepared {
    /// In the order in which they are tried; at least one.
    pub addresses: Vec<Address>,
    pub layers: Layers,
    pub credentials: Credentials,
}

/// By the system's own resolver.
///
/// # Errors
/// What it says.
pub fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    (host, port).to_socket_addrs().map(Iterator::collect)
}

/// # Errors
/// The first thing that cannot be read or found.
pub(super) fn prepare(target: &Target, resolver: &Resolver) -> Result<Prepared, String> {
    let credentials = Credentials {
        username: username(target.username.as_ref())?,
        password: secret("password", target.password.as_ref())?.map(Vec::into_boxed_slice),
    };
    Ok(Prepared {
        layers: layers(&target.endpoint, &target.tls)?,
        addresses: addresses(&target.endpoint, resolver)?,
        credentials,
    })
}

/// Reads the certificates and keys of a bridge, as each dial does.
///
/// # Errors
/// The first file that cannot be used.
pub fn check(tls: &TlsSettings, host: &str) -> Result<(), Problem> {
    secured(tls, host).map(drop)
}

fn layers(endpoint: &Endpoint, tls: &TlsSettings) -> Result<Layers, String> {
    let Endpoint::Network {
        scheme,
        host,
        port,
        path,
    } = endpoint
    else {
        return Ok(Layers::default());
    };
    let tls = endpoint.is_encrypted().then(|| secured(tls, host));
    let authority = if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    };
    let websocket = scheme.is_websocket().then(|| Upgrade {
        authority,
        path: path.to_string(),
    });
    Ok(Layers {
        tls: tls.transpose().map_err(|problem| problem.to_string())?,
        websocket,
    })
}

fn secured(tls: &TlsSettings, host: &str) -> Result<Secured, Problem> {
    let identity = tls.identity.as_ref();
    let options = TlsOptions {
        names: Names::Settings,
        authorities: tls.ca.as_deref().map(PathBuf::from),
        certificate: identity.map(|own| PathBuf::from(&*own.certificate)),
        key: identity.map(|own| PathBuf::from(&*own.key)),
        alpn: tls.alpn.iter().map(ToString::to_string).collect(),
        ..TlsOptions::default()
    };
    Secured::new(&options, tls.server_name.as_deref().unwrap_or(host))
}

fn addresses(endpoint: &Endpoint, resolver: &Resolver) -> Result<Vec<Address>, String> {
    let (host, port) = match endpoint {
        Endpoint::Unix { path } => return Ok(vec![Address::Unix(PathBuf::from(&**path))]),
        Endpoint::Network { host, port, .. } => (host, *port),
    };
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![Address::Tcp(SocketAddr::new(address, port))]);
    }
    let mut found = resolver(host, port).map_err(|error| {
        // What the C library says, without what Rust says before it.
        let error = error.to_string();
        let why = error.rsplit("information: ").next().unwrap_or_default();
        format!("cannot resolve {host}: {why}")
    })?;
    found.truncate(ADDRESSES_MAX);
    if found.is_empty() {
        return Err(format!("cannot resolve {host}: it has no address"));
    }
    Ok(found.into_iter().map(Address::Tcp).collect())
}

fn username(source: Option<&SecretSource>) -> Result<Option<Box<str>>, String> {
    let Some(bytes) = secret("username", source)? else {
        return Ok(None);
    };
    match String::from_utf8(bytes) {
        Ok(name) => Ok(Some(name.into())),
        Err(_) => Err("username: it is not UTF-8".to_owned()),
    }
}

/// `None`: there is none. What it is stays out of every message.
fn secret(key: &str, source: Option<&SecretSource>) -> Result<Option<Vec<u8>>, String> {
    let outcome = match source {
        None => return Ok(None),
        Some(SecretSource::Literal(text)) => Ok(text.as_bytes().to_vec()),
        Some(SecretSource::File(path)) => file(Path::new(&**path)),
        Some(SecretSource::Credential(name)) => credential(name),
        Some(SecretSource::Environment(name)) => match std::env::var_os(&**name) {
            Some(value) => Ok(value.into_encoded_bytes()),
            None => Err(format!("${name} is not set")),
        },
    };
    match outcome {
        Ok(secret) if secret.len() as u64 > SECRET_MAX => {
            Err(format!("{key}: it is longer than {SECRET_MAX} bytes"))
        }
        Ok(secret) => Ok(Some(secret)),
        Err(why) => Err(format!("{key}: {why}")),
    }
}

fn credential(name: &str) -> Result<Vec<u8>, String> {
    let folder = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    let folder = folder.ok_or("systemd has handed over no credentials")?;
    let ours = folder.join(format!("{CREDENTIAL_PREFIX}{name}"));
    // A unit may hand it over by its own name.
    let plain = folder.join(name);
    file(if ours.exists() { &ours } else { &plain })
}

/// Its content, without the end of its last line.
fn file(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(SECRET_MAX + 3).read_to_end(&mut bytes))
        .map_err(|error| format!("cannot read {}: {}", path.display(), said(&error)))?;
    if bytes.ends_with(b"\n") {
        bytes.pop();
        if bytes.ends_with(b"\r") {
            bytes.pop();
        }
    }
    Ok(bytes)
}

/// The kernel's words, without the number that Rust adds.
pub(super) fn said(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    match letters.next() {
        Some(first) if error.raw_os_error().is_some() => {
            first.to_lowercase().chain(letters).collect()
        }
        _ => text.to_owned(),
    }
}
