//! MQTT over TLS, with certificates made here and a client of `rustls`.

use std::sync::Arc;

use fieldgate::gateway::settings::CertificateName;
use fieldgate::host::ExitReason;
use fieldgate::time::Duration;
use rustls::{ClientConfig, HandshakeKind, SupportedProtocolVersion};

use crate::authority::{Authority, Credential, Dial, over_tls, replace, tls};
use crate::bench::{
    Bench, CONNACK, Client, Folder, PINGREQ, PINGRESP, Plan, connect, publish, subscribe,
};

/// A gateway whose only listener has TLS.
struct Fixture {
    authority: Authority,
    folder: Folder,
    bench: Bench,
}

impl Fixture {
    fn new(name: &str) -> Self {
        Self::with(name, |_, _| {})
    }

    fn with(name: &str, change: impl FnOnce(&mut Plan, &Folder)) -> Self {
        let authority = Authority::new();
        let folder = Folder::new(name);
        let mut plan = Plan::tcp();
        plan.transport = over_tls(tls(&folder, &authority));
        change(&mut plan, &folder);
        let bench = plan.start();
        Self {
            authority,
            folder,
            bench,
        }
    }

    /// Clients must show a certificate, whose common name is theirs.
    fn mutual(name: &str, is_required: bool) -> Self {
        Self::with(name, |plan, folder| {
            plan.allow_anonymous = false;
            let tls = plan.transport.tls.as_mut().unwrap();
            tls.client_ca = Some(folder.join("ca.pem").to_str().unwrap().into());
            tls.require_client = is_required;
            tls.identity = Some(CertificateName::CommonName);
        })
    }

    fn config(&self, dial: &Dial<'_>) -> Arc<ClientConfig> {
        self.authority.trusted(dial)
    }

    fn dial(&self, dial: &Dial<'_>) -> Client {
        self.bench.tls(&self.config(dial))
    }

    fn connected(&mut self, dial: &Dial<'_>, id: &str) -> Client {
        let mut client = self.dial(dial);
        client.send(&connect(id));
        self.bench.expect(&mut client, &CONNACK);
        client
    }

    /// What a client is told that is not let in.
    fn refused(&mut self, dial: &Dial<'_>) -> rustls::Error {
        let mut client = self.dial(dial);
        client.send(&connect("refused"));
        let before = self.bench.counters().tls_failed;
        assert_eq!(self.bench.rest(&mut client), b"");
        assert_eq!(self.bench.counters().tls_failed, before + 1);
        client.error.expect("an alert")
    }
}

fn is_alert(error: &rustls::Error, alert: rustls::AlertDescription) -> bool {
    *error == rustls::Error::AlertReceived(alert)
}

const TLS12: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];
const TLS13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

fn two_versions() -> [Dial<'static>; 2] {
    [TLS12, TLS13].map(|versions| Dial {
        versions,
        ..Dial::default()
    })
}

#[test]
fn messages_of_every_length_go_through_both_versions() {
    let mut fixture = Fixture::new("tls-versions");
    for dial in two_versions() {
        let mut client = fixture.connected(&dial, "client");
        let (ask, granted) = subscribe("plant/#", 0);
        client.send(&ask);
        fixture.bench.expect(&mut client, &granted);
        for len in [0, 1, 1000, 16_384, 70_000, 900_000] {
            let payload: Vec<u8> = (0..len).map(|index: u32| (index / 7) as u8).collect();
            let message = publish("plant/level", &payload);
            client.send(&message);
            fixture.bench.expect(&mut client, &message);
        }
        drop(client);
        fixture.bench.until("the host has noticed", |bench| {
            (bench.counters().connections == 0).then_some(())
        });
    }
    assert_eq!(fixture.bench.counters().tls_failed, 0);
    fixture.bench.assert_nothing_is_held();
    assert_eq!(fixture.bench.stop(), ExitReason::Stopped);
}

#[test]
fn a_clean_end_says_so_in_both_directions() {
    let mut fixture = Fixture::new("tls-end");
    for dial in two_versions() {
        let mut client = fixture.connected(&dial, "client");
        let (ask, granted) = subscribe("last/words", 0);
        client.send(&ask);
        fixture.bench.expect(&mut client, &granted);
        let mut other = fixture.connected(&dial, "other");
        // Everything at once: a message, the end of TLS and the end of the socket.
        let message = publish("last/words", b"good night");
        other.send(&message);
        other.session.as_mut().unwrap().send_close_notify();
        other.write_encrypted();
        other.shutdown_write().unwrap();
        fixture.bench.expect(&mut client, &message);
        assert_eq!(fixture.bench.rest(&mut other), b"");
        assert!(other.has_parted, "no close_notify came");
        // DISCONNECT.
        client.send(&[0xE0, 0]);
        assert_eq!(fixture.bench.rest(&mut client), b"");
        assert!(client.has_parted, "no close_notify came");
    }
    // A protocol error is answered and closed the same way.
    let mut client = fixture.connected(&Dial::default(), "client");
    client.send(&[0, 0]);
    assert_eq!(fixture.bench.rest(&mut client), b"");
    assert!(client.has_parted);
    assert_eq!(fixture.bench.counters().tls_failed, 0);
}

#[test]
fn a_subscriber_that_stops_reading_gets_everything_later() {
    let mut fixture = Fixture::new("tls-slow");
    let mut slow = fixture.connected(&Dial::default(), "slow");
    let (ask, granted) = subscribe("torrent", 1);
    slow.send(&ask);
    fixture.bench.expect(&mut slow, &granted);
    let mut publisher = fixture.connected(&Dial::default(), "publisher");
    let (message, answer) = crate::bench::publish_qos1("torrent", 1, &vec![b'x'; 200_000]);
    // More than the kernel's buffers hold, QoS 1: nothing may be lost of the first twenty.
    for _ in 0..40 {
        publisher.send(&message);
        fixture.bench.expect(&mut publisher, &answer);
    }
    let held = fixture.bench.memory_used();
    assert!(held > 200_000, "{held}: nothing is held back");
    fixture.bench.until("twenty are here", |_| {
        slow.receive();
        (slow.input.len() >= 20 * message.len()).then_some(())
    });
    for index in 0..20_usize {
        let here = &slow.input[index * message.len()..][..message.len()];
        let id = message.len() - 200_000 - 2;
        assert_eq!(here[..id], message[..id]);
        assert_eq!(here[id..id + 2], (index as u16 + 1).to_be_bytes());
        assert!(here[id + 2..] == message[id + 2..]);
    }
}

#[test]
fn what_is_spoken_inside_is_agreed_or_refused() {
    let mut fixture = Fixture::new("tls-alpn");
    let dial = Dial {
        alpn: &[b"x-other", b"mqtt"],
        ..Dial::default()
    };
    let client = fixture.connected(&dial, "client");
    let session = client.session.as_ref().unwrap();
    assert_eq!(session.alpn_protocol(), Some(&b"mqtt"[..]));
    for alpn in [&b"h2"[..], b"http/1.1"] {
        let error = fixture.refused(&Dial {
            alpn: &[alpn],
            ..Dial::default()
        });
        assert!(
            is_alert(&error, rustls::AlertDescription::NoApplicationProtocol),
            "{error}"
        );
    }
}

#[test]
fn who_speaks_no_tls_is_counted_and_costs_nothing() {
    let mut fixture = Fixture::new("tls-plain");
    let mut client = fixture.bench.tcp();
    client.send(&connect("plain"));
    let answer = fixture.bench.rest(&mut client);
    // An alert, in the clear.
    assert_eq!(answer.first(), Some(&0x15));
    assert_eq!(fixture.bench.counters().tls_failed, 1);
    fixture.bench.until("it has been forgotten", |bench| {
        (bench.counters().lingering == 0).then_some(())
    });
    fixture.bench.assert_nothing_is_held();
}

#[test]
fn a_handshake_that_does_not_come_is_under_the_limit_of_connect() {
    let mut fixture = Fixture::with("tls-silent", |plan, _| {
        plan.broker.connect_timeout = Duration::from_millis(50);
    });
    let before = fixture.bench.memory_used();
    let mut silent = fixture.bench.tcp();
    let mut slow = fixture.bench.tcp();
    // The beginning of a ClientHello.
    slow.send(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xFC, 3, 3]);
    fixture.bench.until("both are here", |bench| {
        (bench.counters().connections == 2).then_some(())
    });
    let each = (fixture.bench.memory_used() - before) / 2;
    assert!(each < 16 * 1024, "{each} bytes for a stranger");
    for client in [&mut silent, &mut slow] {
        assert_eq!(fixture.bench.rest(client), b"");
    }
    fixture.bench.until("both are gone", |bench| {
        (bench.counters().connections == 0).then_some(())
    });
}

#[test]
fn a_clients_certificate_says_who_it_is() {
    let mut fixture = Fixture::mutual("tls-mutual", true);
    let credential = fixture.authority.client("pump-7");
    for dial in two_versions() {
        let dial = Dial {
            credential: Some(&credential),
            ..dial
        };
        // Nobody without a name is let in by this listener.
        let client = fixture.connected(&dial, "client");
        drop(client);
        let Dial { versions, .. } = dial;
        let error = fixture.refused(&Dial {
            versions,
            ..Dial::default()
        });
        // Its name is of TLS 1.3; 1.2 says that the handshake failed.
        let is_as_expected = matches!(
            &error,
            rustls::Error::AlertReceived(
                rustls::AlertDescription::CertificateRequired
                    | rustls::AlertDescription::HandshakeFailure
            )
        );
        assert!(is_as_expected, "{error}");
    }
}

#[test]
fn certificates_of_others_and_old_ones_are_refused() {
    let mut fixture = Fixture::mutual("tls-others", true);
    let stranger = Authority::new().client("pump-7");
    let old = fixture.authority.client_until("pump-7", 2020);
    let mut refuse = |credential: &Credential| {
        fixture.refused(&Dial {
            credential: Some(credential),
            ..Dial::default()
        })
    };
    let error = refuse(&stranger);
    let is_as_expected = matches!(
        &error,
        rustls::Error::AlertReceived(
            rustls::AlertDescription::UnknownCA | rustls::AlertDescription::DecryptError
        )
    );
    assert!(is_as_expected, "{error}");
    let error = refuse(&old);
    assert!(
        is_alert(&error, rustls::AlertDescription::CertificateExpired),
        "{error}"
    );
    // A server's certificate is none of a client's.
    let server = fixture.authority.server();
    fixture.refused(&Dial {
        credential: Some(&server),
        ..Dial::default()
    });
}

#[test]
fn a_certificate_without_the_name_that_is_asked_for_is_refused() {
    let mut fixture = Fixture::with("tls-nameless", |plan, folder| {
        let tls = plan.transport.tls.as_mut().unwrap();
        tls.client_ca = Some(folder.join("ca.pem").to_str().unwrap().into());
        tls.identity = Some(CertificateName::Alternative);
    });
    let nameless = fixture.authority.client("pump-7");
    let mut client = fixture.dial(&Dial {
        credential: Some(&nameless),
        ..Dial::default()
    });
    client.send(&connect("nameless"));
    assert_eq!(fixture.bench.rest(&mut client), b"");
    assert_eq!(fixture.bench.counters().tls_failed, 1);
}

#[test]
fn a_certificate_that_is_not_required_may_be_missing() {
    let mut fixture = Fixture::mutual("tls-optional", false);
    let credential = fixture.authority.client("pump-7");
    fixture.connected(
        &Dial {
            credential: Some(&credential),
            ..Dial::default()
        },
        "with",
    );
    // TLS lets it in; the listener wants a name, and there are no passwords.
    let mut client = fixture.dial(&Dial::default());
    client.send(&connect("without"));
    assert_eq!(fixture.bench.rest(&mut client), [0x20, 2, 0, 5]);
    assert_eq!(fixture.bench.counters().tls_failed, 0);
    let stranger = Authority::new().client("pump-7");
    fixture.refused(&Dial {
        credential: Some(&stranger),
        ..Dial::default()
    });
}

#[test]
fn a_session_is_resumed_and_its_client_is_still_known() {
    let mut fixture = Fixture::mutual("tls-resumed", true);
    let credential = fixture.authority.client("pump-7");
    for dial in two_versions() {
        let config = fixture.config(&Dial {
            credential: Some(&credential),
            ..dial
        });
        let mut kinds = Vec::new();
        for id in ["first", "second"] {
            let mut client = fixture.bench.tls(&config);
            client.send(&connect(id));
            fixture.bench.expect(&mut client, &CONNACK);
            kinds.push(client.session.as_ref().unwrap().handshake_kind().unwrap());
        }
        assert_eq!(kinds, [HandshakeKind::Full, HandshakeKind::Resumed]);
    }
}

#[test]
fn renewed_certificates_are_taken_up_and_broken_ones_are_not() {
    let mut fixture = Fixture::new("tls-renewed");
    let shown = |client: &Client| {
        let session = client.session.as_ref().unwrap();
        session.peer_certificates().unwrap()[0].to_vec()
    };
    let mut first = fixture.connected(&Dial::default(), "first");
    let before = shown(&first);
    let renewed = fixture.authority.server();
    renewed.write(&fixture.folder);
    let config = fixture.config(&Dial::default());
    let mut count = 0;
    let mut visit = |bench: &mut Bench| {
        count += 1;
        let mut client = bench.tls(&config);
        client.send(&connect(&format!("visitor-{count}")));
        bench.expect(&mut client, &CONNACK);
        shown(&client)
    };
    fixture.bench.until("the new one is shown", |bench| {
        let now = visit(bench);
        assert!(now == before || now == renewed.der());
        (now == renewed.der()).then_some(())
    });
    // Somebody writes nonsense over it.
    replace(
        &fixture.folder.join("cert.pem"),
        "-----BEGIN CERTIFICATE-----\n%\n",
    );
    fixture.bench.until("that is noticed", |bench| {
        (bench.counters().credentials_failed > 0).then_some(())
    });
    assert_eq!(visit(&mut fixture.bench), renewed.der());
    let again = fixture.authority.server();
    again.write(&fixture.folder);
    fixture.bench.until("it is mended", |bench| {
        (visit(bench) == again.der()).then_some(())
    });
    // Nobody was disturbed.
    first.send(&PINGREQ);
    fixture.bench.expect(&mut first, &PINGRESP);
}

#[test]
fn a_listener_without_a_certificate_opens_when_there_is_one() {
    let mut fixture = Fixture::with("tls-late", |_, folder| {
        std::fs::remove_file(folder.join("key.pem")).unwrap();
    });
    let outcomes = fixture.bench.addresses();
    assert_eq!(outcomes.len(), 1);
    let why = outcomes[0].clone().unwrap_err();
    assert!(
        why.contains("key.pem") && why.contains("No such file"),
        "{why}"
    );
    fixture.authority.server().write(&fixture.folder);
    let address = fixture.bench.until("it opens", |bench| {
        let outcomes = bench.addresses();
        outcomes.get(1).map(|outcome| outcome.clone().unwrap())
    });
    let config = fixture.config(&Dial::default());
    let mut client = Client::to(&address).encrypt(config);
    client.send(&connect("late"));
    fixture.bench.expect(&mut client, &CONNACK);
}
