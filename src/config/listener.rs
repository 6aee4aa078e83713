//! `[listener.NAME]`: where clients may connect.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::broker::Broker;
use super::diagnostic::{Diagnostic, Span, shown};
use super::names;
use super::place::Place;
use super::read::{At, Cx, Section};
use super::redirect;
use super::transport;
use super::tree::Entry;
use crate::gateway::settings::{Bind, ListenerSettings, TransportSettings};

/// Listeners at most.
const LISTENERS_MAX: usize = 64;

/// Addresses of one listener at most.
const BINDS_MAX: usize = 64;

/// The port of MQTT without TLS.
const PORT: u16 = 1883;

/// Permission bits of a unix socket when the file gives none.
pub(super) const MODE: u32 = 0o660;

/// Bytes of a unix socket's path: `sun_path` is 108 with its zero.
const SOCKET_PATH_MAX: usize = 107;

/// One address and where it is written.
type Bound = (Bind, Span);

/// Every `[listener.NAME]`, or the one that is there when nobody writes any.
pub(super) fn read(
    cx: &mut Cx<'_>,
    root: &Section<'_>,
    broker: &Broker,
    control: &At<super::ControlSettings>,
    has_passwords: bool,
) -> BTreeMap<Box<str>, ListenerSettings> {
    let entries = cx.named(root.table(), "listener", "[listener.NAME]", names::is_name);
    let mut listeners = BTreeMap::new();
    let mut bound: Vec<Bound> = Vec::new();
    for entry in entries.iter().take(LISTENERS_MAX) {
        let path = format!("listener.{}", entry.name);
        if let Some(section) = Section::open(cx, Place::Listener, path, entry) {
            let settings = one(cx, &section, &mut bound, control, has_passwords);
            listeners.insert(entry.name.as_str().into(), settings);
        }
    }
    if let Some(entry) = entries.get(LISTENERS_MAX) {
        let help = "one listener may have several addresses: `bind = [\"…\", \"…\"]`";
        cx.error(
            entry.key,
            format!("more than {LISTENERS_MAX} listeners"),
            "",
            help,
        );
    }
    if broker.listens.value && root.table().get("listener").is_none() {
        listeners.insert("local".into(), local());
    }
    if !broker.listens.value
        && let Some(first) = entries.first()
    {
        cx.push(
            Diagnostic::error("the broker is not to listen, and there is a listener")
                .at(broker.listens.span, "not to listen")
                .also(first.key, "a listener")
                .help("take out one of the two"),
        );
    }
    listeners
}

/// What is there without any `[listener]`.
fn local() -> ListenerSettings {
    ListenerSettings {
        bind: vec![Bind::Tcp(SocketAddr::new(
            IpAddr::V4(Ipv4Addr::LOCALHOST),
            PORT,
        ))],
        allow_anonymous: true,
        max_connections: None,
        redirect: None,
        transport: TransportSettings::default(),
    }
}

fn one(
    cx: &mut Cx<'_>,
    section: &Section<'_>,
    bound: &mut Vec<Bound>,
    control: &At<super::ControlSettings>,
    has_passwords: bool,
) -> ListenerSettings {
    let mode = section.get(cx, "mode").map(|entry| {
        let mode = mode(cx, entry).unwrap_or(MODE);
        (mode, entry)
    });
    let group_entry = section.get(cx, "group");
    let group = group_entry.and_then(|entry| group(cx, entry));
    let mut bind = Vec::new();
    let mut public = None;
    match section.get(cx, "bind") {
        None => section.missing(
            cx,
            "bind",
            "for example `bind = \"*:1883\"` for every interface, or \"127.0.0.1:1883\"",
        ),
        Some(entry) => {
            let texts = cx.texts(entry, "\"*:1883\"");
            if texts.is_empty()
                && matches!(&entry.node.value, super::tree::Value::Array(items) if items.is_empty())
            {
                let help = "for example `bind = \"*:1883\"`; without a listener: `[broker] listen \
                    = false`";
                cx.error(entry.node.span, "`bind` is empty", "", help);
            }
            if let Some(text) = texts.get(BINDS_MAX) {
                let title = format!("more than {BINDS_MAX} addresses of one listener");
                cx.error(
                    text.span,
                    title,
                    "",
                    "\"*:1883\" is every address of the machine",
                );
            }
            for text in texts.into_iter().take(BINDS_MAX) {
                for address in addresses(cx, &text) {
                    let address = match address {
                        Bind::Unix { path, .. } => Bind::Unix {
                            path,
                            mode: mode.as_ref().map_or(MODE, |(mode, _)| *mode),
                            group: group.clone(),
                        },
                        tcp @ Bind::Tcp(_) => tcp,
                    };
                    clashes(cx, bound, &address, text.span, control);
                    if !is_local(&address) {
                        public.get_or_insert(text.span);
                    }
                    bound.push((address.clone(), text.span));
                    bind.push(address);
                }
            }
        }
    }
    let has_unix = bind.iter().any(|bind| matches!(bind, Bind::Unix { .. }));
    for entry in [mode.map(|(_, entry)| entry), group_entry]
        .into_iter()
        .flatten()
    {
        if !has_unix && !bind.is_empty() {
            cx.error(
                entry.key,
                format!("`{}` is for unix sockets", entry.name),
                "without effect here",
                "take it out, or add \"unix:/run/fieldgate/mqtt.sock\" to `bind`",
            );
        }
    }
    let transport = transport::read(cx, section, &bind);
    if let Some(span) = public
        && has_passwords
        && transport.tls.is_none()
        && transport.proxies.is_empty()
    {
        cx.push(
            Diagnostic::warning("passwords cross the network as they are")
                .at(span, "others can reach this, and there is no TLS")
                .help("encrypt it: `tls = { certificate = \"cert.pem\", key = \"key.pem\" }`"),
        );
    }
    let redirect = section
        .get(cx, "redirect")
        .and_then(|entry| redirect::read(cx, section, entry, &bind));
    // Who is sent elsewhere does not have to.
    let may_log_in = has_passwords || transport::vouches(&transport, &bind) || redirect.is_some();
    let shows_certificates = transport
        .tls
        .as_ref()
        .is_some_and(|tls| tls.client_ca.is_some());
    let help = if shows_certificates {
        "call clients by their certificates: `identity = \"common_name\"` in `tls`; or name a \
         `password_file` in [access], or say `allow_anonymous = true`"
    } else {
        "name a `password_file` in [access], or say `allow_anonymous = true` if everybody \
         who reaches this address may connect, or bind to 127.0.0.1 or a unix socket"
    };
    ListenerSettings {
        allow_anonymous: anonymous(cx, section, public, may_log_in, help),
        bind,
        max_connections: section
            .get(cx, "max_connections")
            .and_then(|entry| cx.whole(entry, 1..=100_000))
            .map(|count| count as u32),
        redirect,
        transport,
    }
}

/// Whether clients may come without credentials. If there are none, and the transport vouches for
/// nobody, then nobody could come otherwise.
fn anonymous(
    cx: &mut Cx<'_>,
    section: &Section<'_>,
    public: Option<Span>,
    may_log_in: bool,
    help: &str,
) -> bool {
    if let Some(entry) = section.get(cx, "allow_anonymous") {
        let Some(allowed) = cx.flag(entry) else {
            return true;
        };
        if !allowed && !may_log_in {
            let title = format!("nobody could connect to {}", section.header());
            cx.error(entry.node.span, title, "", help);
        }
        allowed
    } else {
        if let Some(span) = public
            && !may_log_in
        {
            let title = format!("nobody could connect to {}", section.header());
            let label = "others can reach this, so that anonymous clients are refused";
            cx.error(span, title, label, help);
        }
        public.is_none()
    }
}

fn is_local(bind: &Bind) -> bool {
    match bind {
        Bind::Tcp(address) => address.ip().is_loopback(),
        Bind::Unix { .. } => true,
    }
}

/// `127.0.0.1:1883`, `[::1]:1883`, `*:1883`, `unix:/path`.
fn addresses(cx: &mut Cx<'_>, text: &At<&str>) -> Vec<Bind> {
    let example = "\"unix:/run/fieldgate/mqtt.sock\"";
    if let Some(path) = text.value.strip_prefix("unix:") {
        let path = cx.resolve(path, text.span, "bind", example);
        return path
            .filter(|path| fits_socket(cx, path, text.span))
            .map(|path| Bind::Unix {
                path,
                mode: MODE,
                group: None,
            })
            .into_iter()
            .collect();
    }
    let found = if let Some(port) = text.value.strip_prefix("*:") {
        port.parse().ok().map(|port| {
            vec![
                Bind::Tcp(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port)),
                Bind::Tcp(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port)),
            ]
        })
    } else {
        text.value
            .parse()
            .ok()
            .map(|address| vec![Bind::Tcp(address)])
    };
    if let Some(found) = found {
        if found
            .iter()
            .any(|bind| matches!(bind, Bind::Tcp(address) if address.port() == 0))
        {
            cx.push(
                Diagnostic::warning("port 0 is a free port, another one at every start")
                    .at(text.span, "")
                    .help("clients usually want a fixed one: 1883"),
            );
        }
        return found;
    }
    cx.error(
        text.span,
        format!("{} is not an address with a port", shown(text.value)),
        "",
        address_help(text.value),
    );
    Vec::new()
}

/// What was probably meant.
fn address_help(text: &str) -> String {
    let bare = text
        .trim()
        .trim_start_matches("mqtt://")
        .trim_start_matches("tcp://")
        .trim_end_matches('/');
    let (host, port) = match bare.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() => (host, port),
        _ => (bare, "1883"),
    };
    if bare.parse::<u16>().is_ok() {
        return format!("write \"*:{bare}\" for every interface, or \"127.0.0.1:{bare}\"");
    }
    if bare.starts_with('/') {
        return format!("a unix socket is {}", shown(&format!("\"unix:{bare}\"")));
    }
    if host.is_empty() || host == "*" {
        return format!("write \"*:{port}\" for every interface");
    }
    if host == "localhost" {
        return format!(
            "names are not resolved here: write \"127.0.0.1:{port}\" or \"[::1]:{port}\""
        );
    }
    if let Ok(IpAddr::V6(address)) = bare.parse() {
        return format!("write \"[{address}]:1883\"");
    }
    match host.trim_matches(['[', ']']).parse() {
        Ok(IpAddr::V4(address)) => format!("write \"{address}:{port}\""),
        Ok(IpAddr::V6(address)) => format!("write \"[{address}]:{port}\""),
        Err(_) => String::from(
            "it is \"192.168.1.5:1883\", \"[::1]:1883\", \"*:1883\" for every interface, or \
                \"unix:/path\"; names are \
             not resolved",
        ),
    }
}

/// Two sockets of one address cannot be: the second would fail at start.
fn clashes(
    cx: &mut Cx<'_>,
    bound: &[Bound],
    address: &Bind,
    span: Span,
    control: &At<super::ControlSettings>,
) {
    if let Bind::Unix { path, .. } = address
        && *path == control.value.socket
    {
        let help = "give one of the two another path";
        cx.error(span, "this is the control socket's path", "", help);
    }
    let Some((other, at)) = bound.iter().find(|(other, _)| overlaps(other, address)) else {
        return;
    };
    let what = match (other, address) {
        (Bind::Tcp(other), Bind::Tcp(address)) if other != address => {
            format!("{other} and {address} are the same port of the same address")
        }
        (Bind::Tcp(address), _) => format!("{address} is bound twice"),
        (Bind::Unix { path, .. }, _) => format!("{} is bound twice", shown(path)),
    };
    cx.push(
        Diagnostic::error(what)
            .at(span, "here again")
            .also(*at, "first here")
            .help("take out one of the two"),
    );
}

fn overlaps(a: &Bind, b: &Bind) -> bool {
    match (a, b) {
        (Bind::Tcp(a), Bind::Tcp(b)) => {
            a.port() == b.port()
                && a.port() != 0
                && a.is_ipv4() == b.is_ipv4()
                && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
        }
        (Bind::Unix { path: a, .. }, Bind::Unix { path: b, .. }) => a == b,
        _ => false,
    }
}

/// Whether the kernel can bind a socket to this path.
pub(super) fn fits_socket(cx: &mut Cx<'_>, path: &str, span: Span) -> bool {
    if path.len() <= SOCKET_PATH_MAX {
        return true;
    }
    cx.error(
        span,
        "a unix socket's path is too long",
        format!("{} bytes, {SOCKET_PATH_MAX} are allowed", path.len()),
        "for example \"/run/fieldgate/mqtt.sock\"",
    );
    false
}

/// `"0660"`
fn mode(cx: &mut Cx<'_>, entry: &Entry) -> Option<u32> {
    let text = match &entry.node.value {
        super::tree::Value::Text(text) => text.as_str(),
        _ => "",
    };
    let mode = u32::from_str_radix(text, 8).ok();
    let mode = mode.filter(|mode| *mode <= 0o777 && (3..=4).contains(&text.len()));
    if mode.is_none() {
        let title = "`mode` is permission bits: a text of octal digits";
        cx.error(entry.node.span, title, "", "for example `mode = \"0660\"`");
    }
    mode
}

/// A group's name.
pub(super) fn group(cx: &mut Cx<'_>, entry: &Entry) -> Option<Box<str>> {
    let text = cx.text(entry, "\"fieldgate\"")?;
    let fine = !text.is_empty()
        && text.len() <= 32
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_-.$".contains(&byte));
    if fine {
        return Some(text.into());
    }
    let title = format!("{} is not a group's name", shown(text));
    cx.error(
        entry.node.span,
        title,
        "",
        "for example `group = \"fieldgate\"`",
    );
    None
}
