//! `tls`, `protocols`, `websocket`, `proxy_protocol` and `identity` of a listener: what is between
//! its sockets and MQTT. The files that they name are read elsewhere.

use super::diagnostic::{Diagnostic, Span, shown};
use super::place::Place;
use super::read::{At, Cx, Section};
use super::tree::{Entry, Value};
use crate::gateway::settings::{
    Bind, CertificateName, Network, Protocols, TlsSettings, TransportSettings, WebSocketSettings,
};

/// Origins, and addresses of proxies, at most.
const LIST_MAX: usize = 64;

/// The longest path of a WebSocket.
const PATH_MAX: usize = 255;

/// What identifies a client by its certificate.
pub(super) const NAMES: [(&str, CertificateName); 3] = [
    ("common_name", CertificateName::CommonName),
    ("subject", CertificateName::Subject),
    ("san", CertificateName::Alternative),
];

/// What a listener's sockets say of their clients, besides what clients say of themselves.
pub(super) fn read(cx: &mut Cx<'_>, section: &Section<'_>, bind: &[Bind]) -> TransportSettings {
    let protocols = section.get(cx, "protocols");
    let protocols = protocols.map_or(Protocols::Mqtt, |entry| self::protocols(cx, entry));
    let websocket = match section.get(cx, "websocket") {
        None => WebSocketSettings::default(),
        Some(entry) => {
            if protocols == Protocols::Mqtt {
                cx.error(
                    entry.key,
                    "`websocket` is without effect: nobody may speak it here",
                    "",
                    "add `protocols = [\"mqtt\", \"websocket\"]`, or take it out",
                );
            }
            websocket(cx, section, entry)
        }
    };
    TransportSettings {
        protocols,
        websocket,
        tls: section
            .get(cx, "tls")
            .and_then(|entry| tls(cx, section, entry)),
        proxies: section
            .get(cx, "proxy_protocol")
            .map(|entry| proxies(cx, section, entry, bind))
            .unwrap_or_default(),
        peer_credentials: section
            .get(cx, "identity")
            .is_some_and(|entry| peer_credentials(cx, entry, bind)),
    }
}

/// Whether every client of a listener may have a name that the transport vouches for.
pub(super) fn vouches(settings: &TransportSettings, bind: &[Bind]) -> bool {
    let by_certificate = settings
        .tls
        .as_ref()
        .is_some_and(|tls| tls.identity.is_some());
    let by_kernel =
        settings.peer_credentials && bind.iter().all(|bind| matches!(bind, Bind::Unix { .. }));
    by_certificate || by_kernel
}

fn protocols(cx: &mut Cx<'_>, entry: &Entry) -> Protocols {
    const EXAMPLE: &str = "[\"mqtt\", \"websocket\"]";
    const WORDS: [(&str, Protocols); 2] = [
        ("mqtt", Protocols::Mqtt),
        ("websocket", Protocols::WebSocket),
    ];
    let (mut mqtt, mut websocket) = (false, false);
    for text in cx.texts(entry, EXAMPLE) {
        match cx.word("protocols", text.value, text.span, &WORDS) {
            Some(Protocols::WebSocket) => websocket = true,
            _ => mqtt = true,
        }
    }
    match (mqtt, websocket) {
        (true, true) => Protocols::Both,
        (false, true) => Protocols::WebSocket,
        (true, false) => Protocols::Mqtt,
        (false, false) => {
            if matches!(&entry.node.value, Value::Array(items) if items.is_empty()) {
                let help = format!("for example `protocols = {EXAMPLE}`");
                cx.error(entry.node.span, "`protocols` is empty", "", help);
            }
            Protocols::Mqtt
        }
    }
}

fn websocket(cx: &mut Cx<'_>, listener: &Section<'_>, entry: &Entry) -> WebSocketSettings {
    let mut to = WebSocketSettings::default();
    let path = listener.key_path("websocket");
    let Some(section) = Section::open(cx, Place::WebSocket, path, entry) else {
        return to;
    };
    if let Some(entry) = section.get(cx, "path")
        && let Some(text) = cx.text(entry, "\"/mqtt\"")
    {
        let is_fine = text.starts_with('/')
            && text.len() <= PATH_MAX
            && text.bytes().all(|byte| byte.is_ascii_graphic())
            && !text.contains(['?', '#']);
        if is_fine {
            to.path = text.into();
        } else {
            cx.error(
                entry.node.span,
                format!("{} is not the path of a WebSocket", shown(text)),
                "",
                "it starts with `/` and has neither `?` nor `#`: `path = \"/mqtt\"`",
            );
        }
    }
    if let Some(entry) = section.get(cx, "origins") {
        const EXAMPLE: &str = "[\"https://panel.example\"]";
        let mut origins = Vec::new();
        for text in cx.texts(entry, EXAMPLE) {
            if is_origin(text.value) {
                origins.push(text.value.into());
            } else {
                cx.error(
                    text.span,
                    format!("{} is not an origin", shown(text.value)),
                    "",
                    "it is as browsers send it: scheme, host and a port that is not the usual one, \
                     without a path: \"https://panel.example\", \"http://localhost:3000\"; \"*\" \
                     is every page",
                );
            }
        }
        too_many(cx, entry, origins.len());
        to.origins = Some(origins);
    }
    to
}

fn is_origin(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else {
        return text == "*";
    };
    let is_scheme = !scheme.is_empty()
        && scheme
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    let is_usual = (scheme == "http" && rest.ends_with(":80"))
        || (scheme == "https" && rest.ends_with(":443"));
    is_scheme
        && !is_usual
        && !rest.is_empty()
        && rest.bytes().all(|byte| byte.is_ascii_graphic())
        && !rest.contains(['/', '?', '#', '@', '*'])
}

fn too_many(cx: &mut Cx<'_>, entry: &Entry, count: usize) {
    if count > LIST_MAX {
        let title = format!("more than {LIST_MAX} of `{}`", entry.name);
        cx.error(entry.node.span, title, "", "take some out");
    }
}

fn tls(cx: &mut Cx<'_>, listener: &Section<'_>, entry: &Entry) -> Option<TlsSettings> {
    let path = listener.key_path("tls");
    let section = Section::open(cx, Place::Tls, path, entry)?;
    let mut file = |key: &'static str, example: &str| {
        let entry = section.get(cx, key)?;
        Some((cx.path(entry, example), entry.key))
    };
    let certificate = file("certificate", "\"cert.pem\"");
    let key = file("key", "\"key.pem\"");
    let client_ca = file("client_ca", "\"ca.pem\"");
    for (name, value, help) in [
        (
            "certificate",
            &certificate,
            "`certificate = \"cert.pem\"`: ours, and those above it",
        ),
        (
            "key",
            &key,
            "`key = \"key.pem\"`: the private key of the certificate",
        ),
    ] {
        if value.is_none() {
            section.missing(cx, name, help);
        }
    }
    let require_entry = section.get(cx, "require_client");
    let require_client = require_entry
        .and_then(|entry| cx.flag(entry))
        .unwrap_or(false);
    let identity_entry = section.get(cx, "identity");
    let identity = identity_entry.and_then(|entry| cx.choice(entry, &NAMES));
    for (is_set, entry, what) in [
        (
            require_client,
            require_entry,
            "clients' certificates are required, and none is trusted",
        ),
        (
            identity.is_some(),
            identity_entry,
            "clients are to be named by their certificates, and none is trusted",
        ),
    ] {
        if let Some(entry) = entry
            && is_set
            && client_ca.is_none()
        {
            let help = "`client_ca = \"ca.pem\"`: the authority that has signed them";
            cx.error(entry.key, what, "", help);
        }
    }
    Some(TlsSettings {
        certificate: certificate?.0?,
        key: key?.0?,
        client_ca: client_ca.and_then(|(path, _)| path),
        require_client,
        identity,
    })
}

fn proxies(cx: &mut Cx<'_>, listener: &Section<'_>, entry: &Entry, bind: &[Bind]) -> Vec<Network> {
    const EXAMPLE: &str = "[\"10.0.0.0/8\"]";
    let path = listener.key_path("proxy_protocol");
    let Some(section) = Section::open(cx, Place::Proxy, path, entry) else {
        return Vec::new();
    };
    if !bind.is_empty() && !bind.iter().any(|bind| matches!(bind, Bind::Tcp(_))) {
        cx.error(
            entry.key,
            "`proxy_protocol` is for addresses of the network",
            "without effect here",
            "take it out: a unix socket's peer is told by the kernel",
        );
    }
    let Some(from) = section.get(cx, "from") else {
        let help = format!("whom to believe: `from = {EXAMPLE}`");
        section.missing(cx, "from", help);
        return Vec::new();
    };
    if matches!(&from.node.value, Value::Array(items) if items.is_empty()) {
        let help = format!("whom to believe: `from = {EXAMPLE}`");
        cx.error(from.node.span, "`from` is empty", "", help);
    }
    let networks = networks(cx, from, EXAMPLE);
    for network in &networks {
        if network.value.is_everybody() {
            warn_of_everybody(cx, network.span);
        }
    }
    networks.into_iter().map(|network| network.value).collect()
}

/// The addresses of this machine alone.
pub(super) fn loopback() -> Vec<Network> {
    let parse = |text: &str| text.parse().expect("a network");
    vec![parse("127.0.0.0/8"), parse("::1/128")]
}

/// A list of networks, which may be empty.
pub(super) fn networks(cx: &mut Cx<'_>, entry: &Entry, example: &str) -> Vec<At<Network>> {
    let mut networks = Vec::new();
    for text in cx.texts(entry, example) {
        match text.value.parse::<Network>() {
            Ok(value) => networks.push(At {
                value,
                span: text.span,
            }),
            Err(_) => cx.error(
                text.span,
                format!("{} is neither an address nor a network", shown(text.value)),
                "",
                "it is \"192.168.1.5\", \"10.0.0.0/8\" or \"fd00::/8\"; after the prefix there \
                 are only zeros",
            ),
        }
    }
    too_many(cx, entry, networks.len());
    networks
}

fn warn_of_everybody(cx: &mut Cx<'_>, span: Span) {
    cx.push(
        Diagnostic::warning("everybody may say who they are")
            .at(span, "every address")
            .help("name the proxies alone: whoever is believed can pass for any address"),
    );
}

fn peer_credentials(cx: &mut Cx<'_>, entry: &Entry, bind: &[Bind]) -> bool {
    if let Value::Text(text) = &entry.node.value
        && NAMES.iter().any(|(word, _)| word == text)
    {
        cx.error(
            entry.node.span,
            format!("{} names clients by their certificates", shown(text)),
            "",
            format!("write it in `tls`: `tls = {{ …, identity = \"{text}\" }}`"),
        );
        return false;
    }
    if cx.choice(entry, &[("peer_credentials", ())]).is_none() {
        return false;
    }
    if !bind.is_empty() && !bind.iter().any(|bind| matches!(bind, Bind::Unix { .. })) {
        cx.error(
            entry.key,
            "`identity = \"peer_credentials\"` is for unix sockets",
            "without effect here",
            "take it out, or add \"unix:/run/fieldgate/mqtt.sock\" to `bind`",
        );
    }
    true
}
