//! Certificates and keys of listeners: read on a worker, and again when they change.
//!
//! The folders of the files are watched, for a certificate is renewed by a new file, or by a link
//! that points elsewhere. What is read replaces what is in force for those who connect from then
//! on; what cannot be used leaves it in force, is logged once and counted. A session can be resumed
//! as long as the files that it was made under are in force.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mio::unix::SourceFd;
use mio::{Interest, Registry};
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use ring::digest;
use rustls::crypto::ring as provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{RootCertStore, ServerConfig};

use super::certificate;
use crate::gateway::settings::{CertificateName, Protocols, TlsSettings, TransportSettings};
use crate::host::clock;
use crate::host::timer::{TimerKey, Timers};
use crate::host::token::Source;
use crate::host::worker::{Answer, Errands, Mailbox};
use crate::id::ListenerId;
use crate::slab::IdTable;
use crate::time::{Duration, Instant};

/// The longest file that is read.
const FILE_MAX: u64 = 1024 * 1024;

/// How long changes are gathered: a certificate and its key are written one after the other.
const SETTLE: Duration = Duration::from_millis(500);

/// TLS sessions that are remembered for clients that take no tickets.
const SESSIONS_MAX: usize = 256;

/// What is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key of the configuration that names it.
    pub key: &'static str,
    /// Its path.
    pub path: Box<str>,
    /// What is wrong, and where in it.
    pub what: String,
    /// It may be right; whoever looks must not read it.
    pub is_hidden: bool,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}: {}", self.key, self.path, self.what)
    }
}

/// Reads the files and says what is wrong with them; what is right may still be odd.
///
/// # Errors
/// The first file that cannot be used.
pub fn check(settings: &TlsSettings) -> Result<Vec<Problem>, Problem> {
    let files = Files::read(settings)?;
    files.config(settings, Protocols::Mqtt)?;
    Ok(files.expired(settings, clock::now().wall.unix_millis() / 1000))
}

/// What a worker has read.
#[derive(Debug)]
pub(in crate::host) struct Loaded {
    config: Arc<ServerConfig>,
    digest: Digest,
    odd: Vec<Problem>,
}

/// What the files hold, to tell whether anything has changed.
type Digest = [u8; digest::SHA256_OUTPUT_LEN];

/// What a worker says: `None` if the files are as they were.
pub(in crate::host) type Outcome = Result<Option<Loaded>, Problem>;

/// What clients of a listener are met with.
#[derive(Debug, Clone)]
pub(in crate::host) struct InForce {
    pub config: Arc<ServerConfig>,
    pub identity: Option<CertificateName>,
}

/// The credentials of every listener with TLS.
pub(in crate::host) struct Credentials {
    mailbox: Mailbox,
    errands: Arc<Errands>,
    sets: Vec<Set>,
    next_set: u64,
    in_force: IdTable<ListenerId, InForce>,
    watch: Watch,
    /// Times that files could not be used.
    failures: u64,
}

/// Files that listeners share: `*:8883` is two of them.
struct Set {
    number: u64,
    settings: TlsSettings,
    protocols: Protocols,
    listeners: Vec<ListenerId>,
    /// The last that was read without an error.
    config: Option<(Arc<ServerConfig>, Digest)>,
    is_being_read: bool,
    /// Something has changed since that began.
    is_stale: bool,
    /// What was last said to be wrong.
    said: Option<Problem>,
}

/// What an answer means for some listeners.
pub(in crate::host) struct Settled {
    pub listeners: Vec<ListenerId>,
    pub outcome: Result<(), Box<str>>,
}

impl Credentials {
    pub(in crate::host) fn new(mailbox: Mailbox, errands: Arc<Errands>) -> Self {
        Self {
            mailbox,
            errands,
            sets: Vec::new(),
            next_set: 0,
            in_force: IdTable::new(),
            watch: Watch::default(),
            failures: 0,
        }
    }

    /// What a listener's clients are met with; `None`: nothing was read yet that can be used.
    pub(in crate::host) fn in_force(&self, listener: ListenerId) -> Option<&InForce> {
        self.in_force.get(listener)
    }

    /// Times that files could not be used.
    pub(in crate::host) fn failures(&self) -> u64 {
        self.failures
    }

    /// Sees to it that a listener has what it asks for. Until it is read, what it had stays in
    /// force.
    pub(in crate::host) fn want(
        &mut self,
        registry: &Registry,
        timers: &mut Timers,
        listener: ListenerId,
        transport: &TransportSettings,
    ) {
        self.leave(listener);
        let Some(tls) = &transport.tls else {
            self.in_force.remove(listener);
            return;
        };
        let known = self
            .sets
            .iter_mut()
            .find(|set| set.settings == *tls && set.protocols == transport.protocols);
        if let Some(set) = known {
            set.listeners.push(listener);
            if let Some((config, _)) = &set.config {
                let in_force = InForce {
                    config: config.clone(),
                    identity: set.settings.identity,
                };
                self.in_force.insert(listener, in_force);
            }
        } else {
            self.sets.push(Set {
                number: self.next_set,
                settings: tls.clone(),
                protocols: transport.protocols,
                listeners: vec![listener],
                config: None,
                is_being_read: false,
                is_stale: true,
                said: None,
            });
            self.next_set += 1;
        }
        self.watch(registry);
        self.read_stale(timers);
    }

    /// A listener is gone.
    pub(in crate::host) fn forget(&mut self, registry: &Registry, listener: ListenerId) {
        self.leave(listener);
        self.in_force.remove(listener);
        self.watch(registry);
    }

    fn leave(&mut self, listener: ListenerId) {
        for set in &mut self.sets {
            set.listeners.retain(|other| *other != listener);
        }
        self.sets.retain(|set| !set.listeners.is_empty());
    }

    /// Reads everything again.
    pub(in crate::host) fn read_again(&mut self, timers: &mut Timers) {
        for set in &mut self.sets {
            set.is_stale = true;
        }
        self.read_stale(timers);
    }

    fn read_stale(&mut self, timers: &mut Timers) {
        let waiting = self
            .sets
            .iter_mut()
            .filter(|set| set.is_stale && !set.is_being_read);
        for set in waiting {
            let (number, protocols) = (set.number, set.protocols);
            let settings = set.settings.clone();
            let known = set.config.as_ref().map(|(_, digest)| *digest);
            let mailbox = self.mailbox.clone();
            let errand = move || {
                let outcome = load(&settings, protocols, known);
                mailbox.post(Answer::Credentials { number, outcome });
            };
            if self.errands.run("certificates", errand).is_err() {
                // Every thread hangs in something. It is tried again.
                timers.arm(TimerKey::Credentials, clock::monotonic() + SETTLE);
                return;
            }
            set.is_stale = false;
            set.is_being_read = true;
        }
    }

    /// A worker has read a set. `None`: nothing has changed for anybody.
    pub(in crate::host) fn answered(
        &mut self,
        timers: &mut Timers,
        number: u64,
        outcome: Outcome,
    ) -> Option<Settled> {
        let set = self.sets.iter_mut().find(|set| set.number == number)?;
        set.is_being_read = false;
        let outcome = match outcome {
            Ok(None) => {
                set.said = None;
                None
            }
            Ok(Some(loaded)) => {
                for odd in &loaded.odd {
                    log::warn!("{odd}");
                }
                log::info!("certificate in force path={}", set.settings.certificate);
                set.said = None;
                for listener in &set.listeners {
                    let in_force = InForce {
                        config: loaded.config.clone(),
                        identity: set.settings.identity,
                    };
                    self.in_force.insert(*listener, in_force);
                }
                set.config = Some((loaded.config, loaded.digest));
                Some(Ok(()))
            }
            Err(problem) => {
                self.failures += 1;
                if set.said.as_ref() != Some(&problem) {
                    let stays = match &set.config {
                        Some(_) => "what was read before stays in force",
                        None => "nobody can connect",
                    };
                    log::error!("certificate cannot be used, {stays}: {problem}");
                }
                let text = problem.to_string().into_boxed_str();
                set.said = Some(problem);
                Some(Err(text))
            }
        };
        let settled = outcome.map(|outcome| Settled {
            listeners: set.listeners.clone(),
            outcome,
        });
        self.read_stale(timers);
        settled
    }

    /// The watch has something to say.
    pub(in crate::host) fn changed(&mut self, timers: &mut Timers, now: Instant) {
        if self.watch.drain() && !self.watch.is_settling {
            self.watch.is_settling = true;
            timers.arm(TimerKey::Credentials, now + SETTLE);
        }
    }

    /// What has changed has had its time to settle.
    pub(in crate::host) fn settled(&mut self, timers: &mut Timers) {
        self.watch.is_settling = false;
        self.read_again(timers);
    }

    /// Watches the folders of all files, and no others.
    fn watch(&mut self, registry: &Registry) {
        let folders = self.sets.iter().flat_map(|set| {
            let tls = &set.settings;
            [
                Some(&tls.certificate),
                Some(&tls.key),
                tls.client_ca.as_ref(),
            ]
        });
        let mut wanted: Vec<PathBuf> = folders
            .flatten()
            .filter_map(|path| Path::new(&**path).parent().map(Path::to_owned))
            .collect();
        wanted.sort();
        wanted.dedup();
        if let Err(error) = self.watch.set(registry, &wanted) {
            log::warn!(
                "folders of certificates cannot be watched, a reload reads them again: {error}"
            );
        }
    }
}

/// Watched folders.
#[derive(Default)]
struct Watch {
    inotify: Option<Inotify>,
    folders: BTreeMap<PathBuf, WatchDescriptor>,
    is_settling: bool,
}

impl Watch {
    fn set(&mut self, registry: &Registry, wanted: &[PathBuf]) -> io::Result<()> {
        if self.inotify.is_none() {
            if wanted.is_empty() {
                return Ok(());
            }
            let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
            registry.register(
                &mut SourceFd(&inotify.as_fd().as_raw_fd()),
                Source::Credentials.token(),
                Interest::READABLE,
            )?;
            self.inotify = Some(inotify);
        }
        let Some(inotify) = &self.inotify else {
            return Ok(());
        };
        self.folders.retain(|folder, watch| {
            let stays = wanted.contains(folder);
            if !stays {
                // It may be gone with its folder.
                let _ = inotify.rm_watch(*watch);
            }
            stays
        });
        let mut outcome = Ok(());
        for folder in wanted {
            if self.folders.contains_key(folder) {
                continue;
            }
            let events = AddWatchFlags::IN_CLOSE_WRITE
                | AddWatchFlags::IN_MOVED_TO
                | AddWatchFlags::IN_CREATE
                | AddWatchFlags::IN_ATTRIB;
            let path = if folder.as_os_str().is_empty() {
                Path::new(".")
            } else {
                folder
            };
            match inotify.add_watch(path, events) {
                Ok(watch) => {
                    self.folders.insert(folder.clone(), watch);
                }
                Err(error) => {
                    let text = format!("{}: {}", path.display(), error.desc());
                    outcome = Err(io::Error::other(text));
                }
            }
        }
        outcome
    }

    /// Takes what has happened; whether anything has.
    fn drain(&mut self) -> bool {
        let Some(inotify) = &self.inotify else {
            return false;
        };
        let mut any = false;
        loop {
            match inotify.read_events() {
                Ok(events) => any |= !events.is_empty(),
                Err(Errno::EINTR) => {}
                Err(_) => return any,
            }
        }
    }
}

/// On a worker.
fn load(settings: &TlsSettings, protocols: Protocols, known: Option<Digest>) -> Outcome {
    let files = Files::read(settings)?;
    let digest = files.digest();
    if known == Some(digest) {
        return Ok(None);
    }
    Ok(Some(Loaded {
        config: Arc::new(files.config(settings, protocols)?),
        digest,
        odd: files.expired(settings, clock::now().wall.unix_millis() / 1000),
    }))
}

/// The files as they are.
struct Files {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl Files {
    fn read(settings: &TlsSettings) -> Result<Self, Problem> {
        Ok(Self {
            certificate: read("certificate", &settings.certificate)?,
            key: read("key", &settings.key)?,
            client_ca: settings
                .client_ca
                .as_ref()
                .map(|path| read("client_ca", path))
                .transpose()?,
        })
    }

    fn digest(&self) -> Digest {
        let mut context = digest::Context::new(&digest::SHA256);
        let parts = [
            Some(&self.certificate),
            Some(&self.key),
            self.client_ca.as_ref(),
        ];
        for part in parts.into_iter().flatten() {
            context.update(&part.len().to_le_bytes());
            context.update(part);
        }
        let mut digest = Digest::default();
        digest.copy_from_slice(context.finish().as_ref());
        digest
    }

    /// Makes of them what TLS needs.
    fn config(
        &self,
        settings: &TlsSettings,
        protocols: Protocols,
    ) -> Result<ServerConfig, Problem> {
        let wrong =
            |key, path: &str, what: &dyn std::fmt::Display| problem(key, path, what.to_string());
        let path = &*settings.certificate;
        let chain = certificates("certificate", path, &self.certificate)?;
        let provider = Arc::new(provider::default_provider());
        let key = private_key("key", &settings.key, &self.key)?;
        let key = provider
            .key_provider
            .load_private_key(key)
            .map_err(|_| problem("key", &settings.key, "a key of this sort is not supported"))?;
        let key = CertifiedKey::new(chain, key);
        match key.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
            Err(rustls::Error::InconsistentKeys(_)) => {
                let what = format!("it is not the key of the certificate in {path}");
                return Err(problem("key", &settings.key, what));
            }
            Err(error) => return Err(wrong("certificate", path, &error)),
        }
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| wrong("certificate", path, &error))?;
        let builder = match (&settings.client_ca, &self.client_ca) {
            (Some(path), Some(pem)) => {
                let mut roots = RootCertStore::empty();
                for root in certificates("client_ca", path, pem)? {
                    roots
                        .add(root)
                        .map_err(|error| wrong("client_ca", path, &error))?;
                }
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                let verifier = if settings.require_client {
                    verifier
                } else {
                    verifier.allow_unauthenticated()
                };
                let verifier = verifier
                    .build()
                    .map_err(|error| wrong("client_ca", path, &error))?;
                builder.with_client_cert_verifier(verifier)
            }
            _ => builder.with_no_client_auth(),
        };
        // SNI names are accepted, whatever they are: there is one certificate.
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
        config.alpn_protocols = match protocols {
            Protocols::Mqtt => vec![b"mqtt".to_vec()],
            Protocols::WebSocket => vec![b"http/1.1".to_vec()],
            Protocols::Both => vec![b"mqtt".to_vec(), b"http/1.1".to_vec()],
        };
        config.session_storage = rustls::server::ServerSessionMemoryCache::new(SESSIONS_MAX);
        config.ticketer = provider::Ticketer::new()
            .map_err(|error| wrong("certificate", &settings.certificate, &error))?;
        Ok(config)
    }

    /// Certificates that have ended, by a clock that says how many seconds 1970 is ago.
    fn expired(&self, settings: &TlsSettings, now: i64) -> Vec<Problem> {
        let mut odd = Vec::new();
        let files = [
            (
                "certificate",
                Some(&settings.certificate),
                Some(&self.certificate),
            ),
            (
                "client_ca",
                settings.client_ca.as_ref(),
                self.client_ca.as_ref(),
            ),
        ];
        for (key, path, pem) in files {
            let (Some(path), Some(pem)) = (path, pem) else {
                continue;
            };
            let certificates = certificates(key, path, pem).unwrap_or_default();
            for end in certificates
                .iter()
                .filter_map(|certificate| certificate::valid_until(certificate))
            {
                if unix_seconds(&end).is_some_and(|end| end < now) {
                    let date = format!("{}-{}-{}", &end[..4], &end[4..6], &end[6..8]);
                    odd.push(problem(key, path, format!("it has expired on {date}")));
                }
            }
        }
        odd
    }
}

pub(in crate::host) fn problem(key: &'static str, path: &str, what: impl Into<String>) -> Problem {
    Problem {
        key,
        path: path.into(),
        what: what.into(),
        is_hidden: false,
    }
}

pub(in crate::host) fn read(key: &'static str, path: &str) -> Result<Vec<u8>, Problem> {
    let mut bytes = Vec::new();
    let outcome =
        fs::File::open(path).and_then(|file| file.take(FILE_MAX + 1).read_to_end(&mut bytes));
    if let Err(error) = outcome {
        // The kernel's words, without the number that Rust adds.
        let text = error.to_string();
        let text = text.split(" (os error").next().unwrap_or_default();
        return Err(Problem {
            is_hidden: error.kind() == io::ErrorKind::PermissionDenied,
            ..problem(key, path, text)
        });
    }
    if bytes.len() as u64 > FILE_MAX {
        return Err(problem(key, path, "it is longer than 1 MiB"));
    }
    Ok(bytes)
}

/// Every certificate of a file, of which there must be one.
pub(in crate::host) fn certificates(
    key: &'static str,
    path: &str,
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let mut found = Vec::new();
    let mut sections = CertificateDer::pem_slice_iter(pem);
    loop {
        let start = pem.len() - sections.remainder().len();
        match sections.next() {
            None => break,
            Some(Ok(certificate)) => {
                if certificate::valid_until(&certificate).is_none() {
                    let line = line_of_section(pem, start);
                    let what = format!("the section of line {line} is no certificate");
                    return Err(problem(key, path, what));
                }
                found.push(certificate);
            }
            Some(Err(error)) => return Err(problem(key, path, said(&error, pem, start))),
        }
    }
    if found.is_empty() {
        return Err(problem(key, path, "there is no certificate in it"));
    }
    Ok(found)
}

pub(in crate::host) fn private_key(
    key: &'static str,
    path: &str,
    pem: &[u8],
) -> Result<PrivateKeyDer<'static>, Problem> {
    match PrivateKeyDer::from_pem_slice(pem) {
        Ok(found) => Ok(found),
        Err(pem::Error::NoItemsFound) => {
            let is_locked = memchr::memmem::find(pem, b"ENCRYPTED").is_some();
            let what = if is_locked {
                "its key is protected by a passphrase, which nobody could type at start"
            } else {
                "there is no private key in it"
            };
            Err(problem(key, path, what))
        }
        Err(error) => Err(problem(key, path, said(&error, pem, 0))),
    }
}

/// What is wrong with a section of a PEM file, which begins at or after `start`.
fn said(error: &pem::Error, pem: &[u8], start: usize) -> String {
    let line = line_of_section(pem, start);
    match error {
        pem::Error::MissingSectionEnd { .. } => format!("the section of line {line} has no end"),
        pem::Error::IllegalSectionStart { .. } => format!("line {line} begins no section"),
        pem::Error::Base64Decode(_) => format!("the section of line {line} is not base64"),
        other => format!("the section of line {line}: {other}"),
    }
}

/// The line, from 1, of the first section at or after `start`.
fn line_of_section(pem: &[u8], start: usize) -> usize {
    let start = memchr::memmem::find(&pem[start..], b"-----BEGIN").map_or(start, |at| start + at);
    1 + memchr::memchr_iter(b'\n', &pem[..start]).count()
}

/// Seconds since 1970 of `YYYYMMDDHHMMSSZ`.
fn unix_seconds(text: &str) -> Option<i64> {
    let number = |range: core::ops::Range<usize>| text.get(range)?.parse::<i64>().ok();
    let (year, month, day) = (number(0..4)?, number(4..6)?, number(6..8)?);
    if !(1..=12).contains(&month) {
        return None;
    }
    // Days since 1 March of year 0, when leap days come last in their year.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    let seconds = number(8..10)? * 3600 + number(10..12)? * 60 + number(12..14)?;
    Some((days - 719_468) * 86_400 + seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_certificates_are_seconds_since_1970() {
        for (text, seconds) in [
            ("19700101000000Z", 0),
            ("20000229120000Z", 951_825_600),
            ("20380119031408Z", 2_147_483_648),
            ("19691231235959Z", -1),
        ] {
            assert_eq!(unix_seconds(text), Some(seconds), "{text}");
        }
        assert_eq!(unix_seconds("20001301000000Z"), None);
    }
}
