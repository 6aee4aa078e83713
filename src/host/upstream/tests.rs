//! Dialling against real listeners on loopback, with certificates made here.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use mio::{Events, Poll};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::crypto::ring as provider;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use super::*;
use crate::bridge::settings::{ClientCertificate, Endpoint, Scheme, SecretSource, TlsSettings};
use crate::gateway::settings::WebSocketSettings;
use crate::host::clock::monotonic;
use crate::host::net::frames::{self, Deframer};
use crate::host::net::{Got, Trouble, upgrade};

const PATIENCE: Duration = Duration::from_secs(20);

/// The part of the loop that dials.
struct Rig {
    poll: Poll,
    timers: Timers,
    mailbox: Mailbox,
    upstreams: Upstreams,
    memory: Memory,
    ready: Vec<u32>,
}

impl Rig {
    fn new() -> Self {
        Self::with(Dialling::default())
    }

    fn with(dialling: Dialling) -> Self {
        let poll = Poll::new().unwrap();
        let mailbox = Mailbox::new(poll.registry()).unwrap();
        let errands = Arc::new(Errands::new(mailbox.clone()));
        Self {
            upstreams: Upstreams::new(mailbox.clone(), errands, dialling),
            poll,
            timers: Timers::default(),
            mailbox,
            memory: Memory::new(usize::MAX),
            ready: Vec::new(),
        }
    }

    fn dial(&mut self, bridge: BridgeId, target: &Target) {
        let target = Box::new(target.clone());
        let failed = self
            .upstreams
            .dial(&mut self.timers, monotonic(), bridge, target);
        assert!(failed.is_none(), "{failed:?}");
    }

    /// One turn, which waits for something to happen.
    fn turn(&mut self) -> Vec<Outcome> {
        let mut over = Vec::new();
        let mut cx = Cx {
            registry: self.poll.registry(),
            timers: &mut self.timers,
            memory: &self.memory,
            now: monotonic(),
        };
        let mut answers = Vec::new();
        self.mailbox.take(&mut answers);
        for answer in answers {
            let Answer::Upstream {
                bridge,
                number,
                outcome,
            } = answer
            else {
                panic!("{answer:?}");
            };
            over.extend(self.upstreams.answered(&mut cx, bridge, number, *outcome));
        }
        for slot in std::mem::take(&mut self.ready) {
            match self.upstreams.serve(&mut cx, slot) {
                Progress::Waiting => {}
                Progress::More => self.ready.push(slot),
                Progress::Over(outcome) => over.push(outcome),
            }
        }
        while let Some(key) = cx.timers.pop_due(cx.now) {
            let TimerKey::Dial(bridge) = key else {
                panic!("{key:?}");
            };
            over.extend(self.upstreams.expired(&mut cx, bridge));
        }
        if over.is_empty() {
            self.wait();
        }
        over
    }

    fn wait(&mut self) {
        let next = self.timers.next().map(|at| at.since(monotonic()));
        let limit = if self.ready.is_empty() {
            next.unwrap_or(PATIENCE).min(PATIENCE)
        } else {
            Duration::ZERO
        };
        let mut events = Events::with_capacity(16);
        self.poll.poll(&mut events, Some(limit)).unwrap();
        for event in &events {
            if let Some(Source::Upstream(slot)) = Source::from_token(event.token())
                && self.upstreams.event(slot, Readiness::from(event))
            {
                self.ready.push(slot);
            }
        }
    }

    fn until_over(&mut self) -> Outcome {
        let start = monotonic();
        loop {
            let mut over = self.turn();
            if let Some(outcome) = over.pop() {
                assert!(over.is_empty());
                assert_eq!(self.timers.next(), None, "no deadline is left behind");
                return outcome;
            }
            assert!(monotonic().since(start) < PATIENCE, "it is never over");
        }
    }

    fn dialled(&mut self, target: &Target) -> Result<(Transport, Credentials), String> {
        self.dial(bridge(0), target);
        let over = self.until_over();
        assert_eq!(over.bridge, bridge(0));
        over.outcome
    }

    fn refused(&mut self, target: &Target) -> String {
        self.dialled(target).map(|_| ()).expect_err("it is open")
    }

    /// That what is said through a transport comes back.
    fn echoes(&mut self, mut transport: Transport) {
        for len in [1, 100, 40_000] {
            let said: Vec<u8> = (0..len).map(|index| (index / 3) as u8).collect();
            let (mut sent, mut heard) = (0_usize, Vec::new());
            let start = monotonic();
            while heard.len() < len {
                assert!(monotonic().since(start) < PATIENCE, "nothing comes back");
                let mut is_stuck = true;
                let end = said.len().min(sent.saturating_add(transport.take_max()));
                if sent < end {
                    match transport.write(&[io::IoSlice::new(&said[sent..end])]) {
                        Ok(count) => {
                            is_stuck = count == 0;
                            sent += count;
                        }
                        Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
                    }
                }
                match transport.flush() {
                    Ok(()) => {}
                    Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
                }
                let mut buffer = [0; 1000];
                match transport.read(&mut buffer) {
                    Ok(Got::Bytes(count)) => {
                        is_stuck = false;
                        heard.extend_from_slice(&buffer[..count]);
                    }
                    Ok(Got::End) => panic!("it has ended"),
                    Err(Trouble::Io(error)) => {
                        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                    }
                    Err(Trouble::Peer(offence)) => panic!("{offence:?}"),
                }
                if is_stuck {
                    self.wait();
                }
            }
            assert!(heard == said, "{len}");
        }
    }
}

fn bridge(slot: u32) -> BridgeId {
    BridgeId::from_parts(slot, 1)
}

fn target(scheme: Scheme, host: &str, port: u16) -> Target {
    Target {
        endpoint: Endpoint::Network {
            scheme,
            host: host.into(),
            port,
            path: "/mqtt".into(),
        },
        tls: TlsSettings::default(),
        username: None,
        password: None,
    }
}

/// `localhost` is here, `nowhere.example` is not, and `both.example` is at `first` too.
fn resolver(first: Option<SocketAddr>) -> Arc<Resolver> {
    Arc::new(move |host, port| match host {
        "localhost" => Ok(vec![(Ipv4Addr::LOCALHOST, port).into()]),
        "both.example" => Ok(first
            .into_iter()
            .chain([(Ipv4Addr::LOCALHOST, port).into()])
            .collect()),
        "empty.example" => Ok(Vec::new()),
        _ => Err(io::Error::other(
            "failed to lookup address information: Name or service not known",
        )),
    })
}

fn limited(limit: Duration) -> Dialling {
    Dialling {
        limit,
        resolver: resolver(None),
    }
}

fn named() -> Dialling {
    limited(DIAL_TIMEOUT)
}

/// A server for one connection.
struct Peer {
    port: u16,
    thread: JoinHandle<()>,
}

impl Peer {
    fn new(serve: impl FnOnce(std::net::TcpStream) + Send + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let thread = thread::spawn(move || {
            let (socket, _) = listener.accept().unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            serve(socket);
        });
        Self { port, thread }
    }

    fn over_tls(config: &Arc<ServerConfig>, websocket: bool) -> Self {
        let session = ServerConnection::new(config.clone()).unwrap();
        Self::new(move |socket| {
            let stream = StreamOwned::new(session, socket);
            if websocket {
                echo_frames(stream);
            } else {
                echo(stream);
            }
        })
    }

    fn join(self) {
        self.thread.join().unwrap();
    }
}

/// Until the end, however that comes.
fn echo(mut stream: impl Read + Write) {
    let mut buffer = [0; 4096];
    while let Ok(count) = stream.read(&mut buffer)
        && count > 0
        && stream.write_all(&buffer[..count]).is_ok()
    {}
}

/// The same in a WebSocket.
fn echo_frames(mut stream: impl Read + Write) {
    let mut head = Vec::new();
    let mut byte = [0];
    while upgrade::head_len(&head, 0).is_none() {
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let answer = upgrade::accept(&head, &WebSocketSettings::default()).unwrap();
    // A ping comes in the same piece as the answer.
    stream
        .write_all(&[&answer[..], &[0x89, 0]].concat())
        .unwrap();
    let mut deframer = Deframer::new(u64::MAX);
    let mut buffer = [0; 4096];
    while let Ok(count) = stream.read(&mut buffer)
        && count > 0
        && deframer.end().is_none()
    {
        let kept = deframer.decode(&mut buffer[..count], |_| {});
        let mut out = Vec::new();
        frames::frame(&mut out, frames::BINARY, &[&buffer[..kept]], None);
        if stream.write_all(&out).is_err() {
            return;
        }
    }
}

/// Certificates for a test, and the folder that they are in.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
    folder: PathBuf,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let folder = format!("fieldgate-upstream-{name}-{}", std::process::id());
        let folder = std::env::temp_dir().join(folder);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("ca.pem"), certificate.pem()).unwrap();
        Self {
            issuer: Issuer::new(params, key),
            certificate,
            folder,
        }
    }

    fn sign(&self, name: &str, usage: ExtendedKeyUsagePurpose) -> (rcgen::Certificate, KeyPair) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    /// A server of this name.
    fn server(&self, name: &str, is_mutual: bool, alpn: &[&[u8]]) -> Arc<ServerConfig> {
        let (certificate, key) = self.sign(name, ExtendedKeyUsagePurpose::ServerAuth);
        let provider = Arc::new(provider::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = if is_mutual {
            let mut roots = RootCertStore::empty();
            roots.add(self.certificate.der().clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        } else {
            builder.with_no_client_auth()
        };
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let mut config = builder
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Arc::new(config)
    }

    fn path(&self, name: &str) -> Box<str> {
        self.folder.join(name).to_str().unwrap().into()
    }

    /// For whoever trusts this authority.
    fn trusted(&self) -> TlsSettings {
        TlsSettings {
            ca: Some(self.path("ca.pem")),
            ..TlsSettings::default()
        }
    }

    /// With a certificate of one's own.
    fn known(&self) -> TlsSettings {
        let (certificate, key) = self.sign("shed", ExtendedKeyUsagePurpose::ClientAuth);
        fs::write(self.folder.join("own.pem"), certificate.pem()).unwrap();
        fs::write(self.folder.join("own.key"), key.serialize_pem()).unwrap();
        TlsSettings {
            identity: Some(ClientCertificate {
                certificate: self.path("own.pem"),
                key: self.path("own.key"),
            }),
            ..self.trusted()
        }
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn bytes_go_both_ways_through_every_transport() {
    let authority = Authority::new("transports");
    let server = authority.server("localhost", false, &[]);
    for scheme in Scheme::ALL {
        let peer = match scheme {
            Scheme::Mqtt => Peer::new(echo),
            Scheme::Ws => Peer::new(echo_frames),
            Scheme::Mqtts | Scheme::Wss => Peer::over_tls(&server, scheme.is_websocket()),
        };
        let mut rig = Rig::with(named());
        let mut target = target(scheme, "localhost", peer.port);
        target.tls = authority.trusted();
        let (transport, _) = rig.dialled(&target).unwrap();
        rig.echoes(transport);
        peer.join();
        assert_eq!(rig.memory.used(), 0, "{scheme:?}");
    }
}

#[test]
fn a_unix_socket_is_dialled_by_its_path() {
    let authority = Authority::new("unix");
    let path = authority.folder.join("mqtt.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let thread = thread::spawn(move || echo(listener.accept().unwrap().0));
    let mut rig = Rig::new();
    let mut target = target(Scheme::Mqtt, "", 0);
    target.endpoint = Endpoint::Unix {
        path: path.to_str().unwrap().into(),
    };
    let (transport, _) = rig.dialled(&target).unwrap();
    rig.echoes(transport);
    thread.join().unwrap();
    fs::remove_file(&path).unwrap();
    let why = rig.refused(&target);
    let wanted = format!("no such file or directory ({})", path.display());
    assert_eq!(why, wanted);
}

#[test]
fn each_address_is_tried_and_the_failures_are_all_told() {
    let closed = || {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.local_addr().unwrap()
    };
    let first = closed();
    let dialling = || Dialling {
        resolver: resolver(Some(first)),
        ..Dialling::default()
    };
    let peer = Peer::new(echo);
    let mut rig = Rig::with(dialling());
    let (transport, _) = rig
        .dialled(&target(Scheme::Mqtt, "both.example", peer.port))
        .unwrap();
    rig.echoes(transport);
    peer.join();
    let second = closed();
    let why = rig.refused(&target(Scheme::Mqtt, "both.example", second.port()));
    assert_eq!(
        why,
        format!("connection refused ({first}); connection refused ({second})")
    );
}

#[test]
fn an_address_that_is_silent_leaves_time_for_the_next() {
    let (first, silent) = silent();
    let peer = Peer::new(echo_frames);
    let mut rig = Rig::with(Dialling {
        limit: Duration::from_millis(300),
        resolver: resolver(Some(first)),
    });
    let (transport, _) = rig
        .dialled(&target(Scheme::Ws, "both.example", peer.port))
        .unwrap();
    rig.echoes(transport);
    peer.join();
    silent.join().unwrap();
}

/// A server that accepts, says nothing, and waits to be left.
fn silent() -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let thread = thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut buffer = [0; 4096];
        while socket.read(&mut buffer).unwrap_or(0) > 0 {}
    });
    (address, thread)
}

#[test]
fn a_name_that_does_not_resolve_is_named() {
    let mut rig = Rig::with(named());
    for (host, why) in [
        ("nowhere.example", "Name or service not known"),
        ("empty.example", "it has no address"),
    ] {
        let said = rig.refused(&target(Scheme::Mqtt, host, 1883));
        assert_eq!(said, format!("cannot resolve {host}: {why}"));
    }
}

#[test]
fn a_certificate_must_lead_to_the_authority_and_be_for_the_name() {
    let (authority, other) = (Authority::new("ours"), Authority::new("theirs"));
    let dial = |server: &Arc<ServerConfig>, tls: TlsSettings| {
        let peer = Peer::over_tls(server, false);
        let mut target = target(Scheme::Mqtts, "localhost", peer.port);
        target.tls = tls;
        let mut rig = Rig::with(named());
        let dialled = rig.dialled(&target);
        let outcome = dialled.map(|(transport, _)| rig.echoes(transport));
        let address = format!(" (127.0.0.1:{})", peer.port);
        peer.join();
        outcome.map_err(|why| why.replace(&address, " (HERE)"))
    };
    let ours = authority.server("localhost", false, &[]);
    let elsewhere = authority.server("broker.example", false, &[]);
    assert_eq!(dial(&ours, authority.trusted()), Ok(()));
    assert_eq!(
        dial(&ours, other.trusted()).unwrap_err(),
        "no authority that is trusted has signed the server's certificate (HERE)"
    );
    let why = dial(&elsewhere, authority.trusted()).unwrap_err();
    assert!(
        why.contains("certificate is for") && why.contains("broker.example"),
        "{why}"
    );
    assert!(why.ends_with("not for localhost (HERE)"), "{why}");
    // The name that the configuration says is what counts.
    let named = TlsSettings {
        server_name: Some("broker.example".into()),
        ..authority.trusted()
    };
    assert_eq!(dial(&elsewhere, named), Ok(()));
}

#[test]
fn a_certificate_of_our_own_is_shown() {
    let authority = Authority::new("mutual");
    let server = authority.server("localhost", true, &[]);
    let peer = Peer::over_tls(&server, true);
    let mut target = target(Scheme::Wss, "localhost", peer.port);
    target.tls = authority.known();
    let mut rig = Rig::with(named());
    let (transport, _) = rig.dialled(&target).unwrap();
    rig.echoes(transport);
    peer.join();
    // Without one the server ends it, which TLS 1.3 tells after the handshake: a WebSocket waits
    // for what comes after it.
    let peer = Peer::new(move |socket| {
        let session = ServerConnection::new(server).unwrap();
        let mut stream = StreamOwned::new(session, socket);
        assert!(stream.read(&mut [0; 100]).is_err());
    });
    let Endpoint::Network { port, .. } = &mut target.endpoint else {
        panic!("it is a network's");
    };
    *port = peer.port;
    target.tls = authority.trusted();
    let why = rig.refused(&target);
    assert!(why.contains("CertificateRequired"), "{why}");
    peer.join();
    // A key that is not the certificate's is found before anything is dialled.
    let mut tls = authority.known();
    let (_, key) = authority.sign("other", ExtendedKeyUsagePurpose::ClientAuth);
    fs::write(authority.folder.join("own.key"), key.serialize_pem()).unwrap();
    target.tls = tls.clone();
    let why = rig.refused(&target);
    assert!(
        why.contains("it is not the key of the certificate"),
        "{why}"
    );
    tls.ca = Some(authority.path("nothing.pem"));
    target.tls = tls;
    let why = rig.refused(&target);
    assert!(
        why.starts_with("ca ") && why.contains("No such file"),
        "{why}"
    );
}

#[test]
fn protocols_are_offered_and_a_server_that_takes_none_is_named() {
    let authority = Authority::new("alpn");
    for (offered, is_fine) in [("mqtt", true), ("x-amzn-mqtt-ca", false)] {
        let server = authority.server("localhost", false, &[b"mqtt"]);
        let peer = Peer::over_tls(&server, false);
        let mut target = target(Scheme::Mqtts, "localhost", peer.port);
        target.tls = authority.trusted();
        target.tls.alpn = vec![offered.into()];
        let mut rig = Rig::with(named());
        match rig.dialled(&target) {
            Ok((transport, _)) => {
                assert!(is_fine);
                rig.echoes(transport);
            }
            Err(why) => {
                assert!(!is_fine, "{why}");
                assert!(why.contains("NoApplicationProtocol"), "{why}");
            }
        }
        peer.join();
    }
}

#[test]
fn a_server_that_speaks_something_else_is_named() {
    let authority = Authority::new("strange");
    for (scheme, says, wanted) in [
        (
            Scheme::Mqtts,
            &b"220 mail.example ESMTP\r\n"[..],
            "does not speak TLS",
        ),
        (Scheme::Mqtts, b"", "closed in the TLS handshake"),
        (
            Scheme::Ws,
            b"220 mail.example ESMTP\r\n",
            "does not speak WebSocket",
        ),
        (
            Scheme::Ws,
            b"HTTP/1.1 404 Not Found\r\n\r\n",
            "404 Not Found",
        ),
        (Scheme::Ws, b"", "closed in the WebSocket request"),
    ] {
        let peer = Peer::new(move |mut socket| {
            let mut buffer = [0; 4096];
            assert!(socket.read(&mut buffer).unwrap() > 0);
            socket.write_all(says).unwrap();
            socket.shutdown(std::net::Shutdown::Write).unwrap();
            while socket.read(&mut buffer).unwrap_or(0) > 0 {}
        });
        let mut target = target(scheme, "localhost", peer.port);
        target.tls = authority.trusted();
        let why = Rig::with(named()).refused(&target);
        assert!(why.contains(wanted), "{why}");
        assert!(
            why.ends_with(&format!(" (127.0.0.1:{})", peer.port)),
            "{why}"
        );
        peer.join();
    }
}

#[test]
fn a_server_that_says_nothing_is_given_up_in_time() {
    let authority = Authority::new("silent");
    for (scheme, wanted) in [
        (Scheme::Mqtts, "no answer in the TLS handshake"),
        (Scheme::Ws, "no answer in the WebSocket request"),
    ] {
        let (address, thread) = silent();
        let mut target = target(scheme, "localhost", address.port());
        target.tls = authority.trusted();
        let why = Rig::with(limited(Duration::from_millis(100))).refused(&target);
        assert_eq!(why, format!("{wanted} ({address})"));
        thread.join().unwrap();
    }
}

/// A resolver that answers when it is told to.
fn hanging() -> (Arc<Resolver>, Sender<()>) {
    let (release, gate) = channel();
    let gate = Mutex::new(gate);
    let resolver = move |_: &str, port| {
        let _ = gate.lock().unwrap().recv();
        Ok(vec![(Ipv4Addr::LOCALHOST, port).into()])
    };
    (Arc::new(resolver), release)
}

#[test]
fn a_resolver_that_hangs_holds_up_nobody_else() {
    let (resolver, release) = hanging();
    let mut rig = Rig::with(Dialling {
        limit: Duration::from_millis(300),
        resolver,
    });
    let peer = Peer::new(echo);
    // An address needs no resolver.
    rig.dial(bridge(1), &target(Scheme::Mqtt, "broker.example", 1883));
    rig.dial(bridge(0), &target(Scheme::Mqtt, "127.0.0.1", peer.port));
    let start = monotonic();
    let first = loop {
        let mut over = rig.turn();
        if let Some(outcome) = over.pop() {
            break outcome;
        }
        assert!(monotonic().since(start) < PATIENCE);
    };
    assert_eq!(first.bridge, bridge(0));
    rig.echoes(first.outcome.unwrap().0);
    peer.join();
    let second = rig.until_over();
    assert_eq!(second.bridge, bridge(1));
    let why = second.outcome.map(|_| ()).unwrap_err();
    assert!(why.contains("takes too long"), "{why}");
    // A second attempt starts no second thread: it waits for the first one's.
    rig.dial(bridge(1), &target(Scheme::Mqtt, "broker.example", 1883));
    assert_eq!(rig.upstreams.errands.running(), 1);
    let why = rig.until_over().outcome.map(|_| ()).unwrap_err();
    assert_eq!(why, "mqtt://broker.example:1883 is still being looked up");
    drop(release);
}

#[test]
fn a_dial_is_forgotten_in_every_phase() {
    let (resolver, release) = hanging();
    let mut rig = Rig::with(Dialling {
        resolver,
        ..Dialling::default()
    });
    let peer = Peer::new(echo);
    let waiting = target(Scheme::Mqtt, "broker.example", peer.port);
    // While it is looked up; and while it waits to be.
    for _ in 0..2 {
        rig.dial(bridge(0), &waiting);
        rig.upstreams.undial(&mut rig.timers, bridge(0));
        assert_eq!(rig.timers.next(), None);
    }
    // The answer to the first is not taken for the third's.
    rig.dial(bridge(0), &waiting);
    release.send(()).unwrap();
    release.send(()).unwrap();
    let (transport, _) = rig.until_over().outcome.unwrap();
    rig.echoes(transport);
    peer.join();
    // While it shakes hands: the socket is closed.
    let authority = Authority::new("undial");
    let (address, silent) = silent();
    let mut encrypted = target(Scheme::Mqtts, "127.0.0.1", address.port());
    encrypted.tls = authority.trusted();
    rig.dial(bridge(0), &encrypted);
    while !matches!(
        rig.upstreams.connecting_at(0),
        Some((_, Connecting { channel: Some(channel), .. })) if channel.has_connected()
    ) {
        assert!(rig.turn().is_empty());
    }
    rig.upstreams.undial(&mut rig.timers, bridge(0));
    silent.join().unwrap();
    assert_eq!(rig.timers.next(), None);
    assert_eq!(rig.memory.used(), 0);
}

#[test]
fn secrets_are_read_anew_at_each_dial() {
    let authority = Authority::new("secrets");
    let path = authority.folder.join("password");
    let mut rig = Rig::new();
    for (content, secret) in [
        ("hunter2\n", "hunter2"),
        ("two words \r\n", "two words "),
        ("last\n\n", "last\n"),
    ] {
        fs::write(&path, content).unwrap();
        let peer = Peer::new(echo);
        let mut target = target(Scheme::Mqtt, "127.0.0.1", peer.port);
        target.username = Some(SecretSource::Literal("shed".into()));
        target.password = Some(SecretSource::File(path.to_str().unwrap().into()));
        let (transport, credentials) = rig.dialled(&target).unwrap();
        assert_eq!(credentials.username.as_deref(), Some("shed"));
        assert_eq!(credentials.password.as_deref(), Some(secret.as_bytes()));
        drop(transport);
        peer.join();
    }
}

#[test]
fn a_secret_that_cannot_be_read_fails_the_dial() {
    let authority = Authority::new("no-secrets");
    let path = |name: &str, content: &[u8]| {
        fs::write(authority.folder.join(name), content).unwrap();
        SecretSource::File(authority.path(name))
    };
    let mut rig = Rig::new();
    for (username, password, wanted) in [
        (
            None,
            Some(SecretSource::File(authority.path("missing"))),
            "password: cannot read ",
        ),
        (
            Some(path("latin1", b"caf\xe9")),
            None,
            "username: it is not UTF-8",
        ),
        (
            None,
            Some(path("long", &vec![b'x'; 70_000])),
            "password: it is longer than 65535 bytes",
        ),
        (
            None,
            Some(SecretSource::Environment("FIELDGATE_NO_SUCH_NAME".into())),
            "password: $FIELDGATE_NO_SUCH_NAME is not set",
        ),
    ] {
        let mut target = target(Scheme::Mqtt, "127.0.0.1", 9);
        (target.username, target.password) = (username, password);
        let why = rig.refused(&target);
        assert!(why.starts_with(wanted), "{why}");
    }
}
