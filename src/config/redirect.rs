//! `redirect` of a listener: which server its clients are told to use instead.

use std::net::{Ipv6Addr, SocketAddr};

use super::diagnostic::shown;
use super::place::Place;
use super::read::{At, Cx, Section};
use super::tree::{Entry, Value};
use crate::broker::settings::Redirect;
use crate::gateway::settings::Bind;

/// Servers at most.
const SERVERS_MAX: usize = 8;

/// Bytes of one: a name of the domain name system, and a port.
const SERVER_MAX: usize = 253 + ":65535".len();

const EXAMPLE: &str = "\"other.example:1883\"";

/// What `redirect = { … }` says; `bind` is where the listener is itself.
pub(super) fn read(
    cx: &mut Cx<'_>,
    listener: &Section<'_>,
    entry: &Entry,
    bind: &[Bind],
) -> Option<Redirect> {
    let path = listener.key_path("redirect");
    let section = Section::open(cx, Place::Redirect, path, entry)?;
    let permanent = section.get(cx, "permanent");
    let is_permanent = permanent.and_then(|entry| cx.flag(entry)).unwrap_or(false);
    let Some(to) = section.get(cx, "to") else {
        section.missing(cx, "to", format!("which server: `to = {EXAMPLE}`"));
        return None;
    };
    let texts = cx.texts(to, EXAMPLE);
    let is_list = matches!(&to.node.value, Value::Array(_));
    if is_list && (texts.is_empty() || texts.len() > SERVERS_MAX) {
        let title = format!("`to` has 1 to {SERVERS_MAX} servers");
        cx.error(
            to.node.span,
            title,
            "",
            format!("for example `to = {EXAMPLE}`"),
        );
        return None;
    }
    let mut servers: Vec<&str> = Vec::new();
    for text in texts {
        if is_server(cx, &text, bind) {
            servers.push(text.value);
        }
    }
    let is_right = !servers.is_empty();
    is_right.then(|| Redirect {
        // A list with a space between (4.11).
        reference: servers.join(" ").into(),
        is_permanent,
    })
}

/// Whether clients can make sense of it: a name or an address, and a port if it is another one than
/// usual. An IPv6 address stands in brackets.
fn is_server(cx: &mut Cx<'_>, text: &At<&str>, bind: &[Bind]) -> bool {
    let is_own = |address: SocketAddr| address.port() != 0 && bind.contains(&Bind::Tcp(address));
    if text.value.parse().is_ok_and(is_own) {
        let help = "clients would come back for ever: name another server";
        cx.error(text.span, "the listener redirects to itself", "", help);
        return false;
    }
    let (host, port) = match text.value.rsplit_once(':') {
        Some((host, port)) if !text.value.ends_with(']') => (host, Some(port)),
        _ => (text.value, None),
    };
    let is_name = if let Some(address) = host.strip_prefix('[') {
        let address = address.strip_suffix(']');
        address.is_some_and(|address| address.parse::<Ipv6Addr>().is_ok())
    } else {
        let is_of_name = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_');
        !host.is_empty() && host.chars().all(is_of_name)
    };
    let is_port = port.is_none_or(|port| {
        let is_decimal = port.bytes().all(|byte| byte.is_ascii_digit());
        is_decimal && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    if is_name && is_port && text.value.len() <= SERVER_MAX {
        return true;
    }
    cx.error(
        text.span,
        format!("{} is not a server", shown(text.value)),
        "",
        format!("a name or an address, and a port: {EXAMPLE}, \"[2001:db8::1]:1883\""),
    );
    false
}
