//! Certificates made by the test, and what clients and listeners do with them.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use fieldgate::gateway::settings::{TlsSettings, TransportSettings};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};

use crate::bench::Folder;

/// Signs for everybody in a test.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
}

/// A certificate and its key.
pub struct Credential {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self {
            issuer: Issuer::new(params, key),
            certificate,
        }
    }

    /// For `localhost`.
    pub fn server(&self) -> Credential {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(&params)
    }

    pub fn client(&self, name: &str) -> Credential {
        self.client_until(name, 4000)
    }

    /// Until the beginning of a year.
    pub fn client_until(&self, name: &str, year: i32) -> Credential {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        self.sign(&params)
    }

    fn sign(&self, params: &CertificateParams) -> Credential {
        let key = KeyPair::generate().unwrap();
        Credential {
            certificate: params.signed_by(&key, &self.issuer).unwrap(),
            key,
        }
    }

    pub fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// A client that trusts this authority.
    pub fn trusted(&self, plan: &Dial<'_>) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(plan.versions)
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match plan.credential {
            None => builder.with_no_client_auth(),
            Some(own) => {
                let key = PrivateKeyDer::try_from(own.key.serialize_der()).unwrap();
                let chain = vec![own.certificate.der().clone()];
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        config.alpn_protocols = plan.alpn.iter().map(|name| name.to_vec()).collect();
        Arc::new(config)
    }
}

impl Credential {
    /// Writes certificate and key as a renewal does: beside, then renamed.
    pub fn write(&self, folder: &Folder) {
        replace(&folder.join("cert.pem"), &self.certificate.pem());
        replace(&folder.join("key.pem"), &self.key.serialize_pem());
    }

    pub fn der(&self) -> &[u8] {
        self.certificate.der()
    }
}

/// How a client dials.
pub struct Dial<'a> {
    pub versions: &'a [&'static SupportedProtocolVersion],
    pub credential: Option<&'a Credential>,
    pub alpn: &'a [&'a [u8]],
}

impl Default for Dial<'_> {
    fn default() -> Self {
        Self {
            versions: rustls::ALL_VERSIONS,
            credential: None,
            alpn: &[],
        }
    }
}

/// A file, in one step.
pub fn replace(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    fs::write(&beside, text).unwrap();
    fs::rename(&beside, path).unwrap();
}

/// Writes an authority and a server's certificate, and the settings that name them.
pub fn tls(folder: &Folder, authority: &Authority) -> TlsSettings {
    authority.server().write(folder);
    replace(&folder.join("ca.pem"), &authority.pem());
    let path = |name: &str| folder.join(name).to_str().unwrap().into();
    TlsSettings {
        certificate: path("cert.pem"),
        key: path("key.pem"),
        client_ca: None,
        require_client: false,
        identity: None,
    }
}

/// The settings of a listener with TLS and nothing else.
pub fn over_tls(tls: TlsSettings) -> TransportSettings {
    TransportSettings {
        tls: Some(tls),
        ..TransportSettings::default()
    }
}
