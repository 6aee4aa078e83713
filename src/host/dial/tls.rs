//! TLS of outgoing connections: what is trusted and shown.
//!
//! The server's certificate is checked against the authorities of a file, a folder, or the system's
//! own file. A certificate that is in there itself is trusted as it is, as people do who made one
//! for their broker and no authority.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{VerifierBuilderError, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, ring as provider};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::version::{TLS12, TLS13};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

use crate::buffer::Memory;
use crate::host::net::credentials::{Problem, certificates, private_key, problem, read};
use crate::host::net::{Stream, Tls};

/// Where Linux systems have the authorities that they trust, in one file.
const SYSTEM: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsVersion {
    /// 1.2.
    V12,
    /// 1.3.
    V13,
}

/// What the options of a command, or a bridge's `tls`, say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsOptions {
    /// How messages call the options.
    pub names: Names,
    /// `--cafile`: trusted authorities, PEM.
    pub authorities: Option<PathBuf>,
    /// `--capath`: a folder of such files.
    pub authorities_folder: Option<PathBuf>,
    /// `--cert`: who we are.
    pub certificate: Option<PathBuf>,
    /// `--key`: of the certificate.
    pub key: Option<PathBuf>,
    /// `--insecure`: the certificate may be for another host.
    pub any_name: bool,
    /// `--tls-version`; both without it.
    pub version: Option<TlsVersion>,
    /// `--tls-alpn`: the best first.
    pub alpn: Vec<String>,
}

/// Whose words messages use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Names {
    /// A command's.
    #[default]
    Options,
    /// The configuration's.
    Settings,
}

impl Names {
    const fn authorities(self) -> &'static str {
        match self {
            Self::Options => "--cafile",
            Self::Settings => "ca",
        }
    }

    const fn certificate(self) -> &'static str {
        match self {
            Self::Options => "--cert",
            Self::Settings => "certificate",
        }
    }

    const fn key(self) -> &'static str {
        match self {
            Self::Options => "--key",
            Self::Settings => "key",
        }
    }

    const fn host(self) -> &'static str {
        match self {
            Self::Options => "--host",
            Self::Settings => "server_name",
        }
    }
}

/// TLS to one host, ready for any number of connections.
#[derive(Debug, Clone)]
pub struct Secured {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Secured {
    /// Reads the files.
    ///
    /// # Errors
    /// The first file, or other option, that cannot be used.
    pub fn new(options: &TlsOptions, host: &str) -> Result<Self, Problem> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| problem(options.names.host(), host, "no certificate can be for this"))?;
        let provider = Arc::new(provider::default_provider());
        let trusted = options.trusted()?;
        let verifier = Verifier::new(trusted, options, &provider)?;
        let versions = match options.version {
            None => &[&TLS12, &TLS13][..],
            Some(TlsVersion::V12) => &[&TLS12],
            Some(TlsVersion::V13) => &[&TLS13],
        };
        let unusable = |error: Error| problem("--tls-version", "", error.to_string());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(unusable)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match (&options.certificate, &options.key) {
            (Some(certificate), Some(key)) => {
                let (shown, key_shown) = (certificate.display(), key.display());
                let (path, name) = (shown.to_string(), options.names.certificate());
                let chain = certificates(name, &path, &read(name, &path)?)?;
                let (path, name) = (key_shown.to_string(), options.names.key());
                let secret = private_key(name, &path, &read(name, &path)?)?;
                builder
                    .with_client_auth_cert(chain, secret)
                    .map_err(|error| {
                        let what = match error {
                            Error::InconsistentKeys(_) => {
                                format!("it is not the key of the certificate in {shown}")
                            }
                            _ => "a key of this sort is not supported".to_owned(),
                        };
                        problem(name, &path, what)
                    })?
            }
            _ => builder.with_no_client_auth(),
        };
        config.alpn_protocols = options
            .alpn
            .iter()
            .map(|name| name.clone().into_bytes())
            .collect();
        Ok(Self {
            config: Arc::new(config),
            name,
        })
    }

    /// A session over a socket, which has not begun.
    pub(super) fn over(&self, stream: Stream, memory: &Memory) -> io::Result<Tls> {
        Tls::to(stream, self.config.clone(), self.name.clone(), memory).map_err(io::Error::other)
    }
}

impl TlsOptions {
    /// The certificates that are trusted.
    fn trusted(&self) -> Result<Vec<CertificateDer<'static>>, Problem> {
        let mut trusted = Vec::new();
        if let Some(path) = &self.authorities {
            trusted.extend(all_of(self.names.authorities(), path)?);
        }
        if let Some(folder) = &self.authorities_folder {
            let shown = folder.display().to_string();
            let unreadable = |error: io::Error| problem("--capath", &shown, error.to_string());
            for entry in fs::read_dir(folder).map_err(unreadable)? {
                let path = entry.map_err(unreadable)?.path();
                // Keys lie there too, and lists of what was revoked.
                if path.is_file() {
                    trusted.extend(all_of("--capath", &path).unwrap_or_default());
                }
            }
            if trusted.is_empty() {
                return Err(problem("--capath", &shown, "there is no certificate in it"));
            }
        }
        if self.authorities.is_none() && self.authorities_folder.is_none() {
            let known = SYSTEM.iter().find(|path| Path::new(path).exists());
            let path = known.ok_or_else(|| {
                let what = "this system has no file of trusted authorities: name one";
                problem(self.names.authorities(), "", what)
            })?;
            trusted.extend(all_of("the system's authorities in", Path::new(path))?);
        }
        Ok(trusted)
    }
}

fn all_of(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let shown = path.display().to_string();
    certificates(key, &shown, &read(key, &shown)?)
}

/// Checks a server's certificate.
struct Verifier {
    chains: Option<Arc<WebPkiServerVerifier>>,
    /// What is trusted, byte by byte.
    trusted: Vec<CertificateDer<'static>>,
    any_name: bool,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn new(
        trusted: Vec<CertificateDer<'static>>,
        options: &TlsOptions,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, Problem> {
        let mut roots = RootCertStore::empty();
        // One that cannot be an authority can still be the server's own.
        roots.add_parsable_certificates(trusted.iter().cloned());
        let chains = if roots.is_empty() {
            None
        } else {
            let built =
                WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone());
            let built = built.build();
            let unusable = |error: VerifierBuilderError| {
                problem(options.names.authorities(), "", error.to_string())
            };
            Some(built.map_err(unusable)?)
        };
        Ok(Self {
            chains,
            trusted,
            any_name: options.any_name,
            provider: provider.clone(),
        })
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Verifier({} certificates)", self.trusted.len())
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.trusted.contains(end_entity) {
            if !self.any_name {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
            }
            return Ok(ServerCertVerified::assertion());
        }
        let Some(chains) = &self.chains else {
            return Err(CertificateError::UnknownIssuer.into());
        };
        let names_another = |error: &Error| {
            matches!(
                error,
                Error::InvalidCertificate(
                    CertificateError::NotValidForName
                        | CertificateError::NotValidForNameContext { .. }
                )
            )
        };
        match chains.verify_server_cert(end_entity, intermediates, server_name, ocsp, now) {
            // All the rest of it was right.
            Err(error) if self.any_name && names_another(&error) => {
                Ok(ServerCertVerified::assertion())
            }
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}
