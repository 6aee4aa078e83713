//! `url`, `urls` and `failback` of a bridge.

use std::net::{IpAddr, Ipv6Addr};

use super::super::diagnostic::shown;
use super::super::listener::fits_socket;
use super::super::read::{At, Cx, Section, Times};
use super::super::tree::Value;
use super::two_places;
use crate::bridge::settings::{Endpoint, Scheme};
use crate::time::Duration;

/// Addresses of one bridge at most.
const URLS_MAX: usize = 16;

/// Bytes of a host's name, and of a WebSocket's path, at most.
const HOST_MAX: usize = 253;
const PATH_MAX: usize = 1024;

/// Where MQTT is when a WebSocket's URL has no path.
const PATH: &str = "/mqtt";

const EXAMPLE: &str = "\"mqtts://broker.example:8883\"";

/// Where the broker is, each with its place, the best first. `None`: that has been complained
/// about.
pub(super) fn read(cx: &mut Cx<'_>, section: &Section<'_>) -> Option<Vec<At<Endpoint>>> {
    let entry = match (section.get(cx, "url"), section.get(cx, "urls")) {
        (None, None) => {
            section.missing(cx, "url", format!("for example `url = {EXAMPLE}`"));
            return None;
        }
        (Some(one), Some(many)) => {
            let help = "write all of them in `urls`, the best first";
            let title = "a bridge has `url` or `urls`";
            two_places(
                cx,
                title,
                (many.key, "here again"),
                (one.key, "first here"),
                help,
            );
            return None;
        }
        (Some(one), None) => {
            if matches!(one.node.value, Value::Array(_)) {
                let help = "several are `urls = […]`, the best first";
                cx.error(one.node.span, "`url` is one address", "", help);
                return None;
            }
            one
        }
        (None, Some(many)) => many,
    };
    let texts = cx.texts(entry, EXAMPLE);
    if matches!(&entry.node.value, Value::Array(items) if items.is_empty()) {
        let help = format!("for example `urls = [{EXAMPLE}]`");
        cx.error(entry.node.span, "`urls` is empty", "", help);
    }
    if let Some(text) = texts.get(URLS_MAX) {
        let title = format!("more than {URLS_MAX} addresses of one bridge");
        cx.error(text.span, title, "", "take some out");
    }
    let mut endpoints: Vec<At<Endpoint>> = Vec::new();
    for text in texts.into_iter().take(URLS_MAX) {
        let Some(value) = parse(cx, &text, &entry.name) else {
            continue;
        };
        if let Some(other) = endpoints.iter().find(|other| other.value == value) {
            let title = format!("{value} is there twice");
            let help = "take out one of the two";
            two_places(
                cx,
                title,
                (text.span, "here again"),
                (other.span, "first here"),
                help,
            );
            continue;
        }
        endpoints.push(At {
            value,
            span: text.span,
        });
    }
    (!endpoints.is_empty()).then_some(endpoints)
}

pub(super) fn failback(cx: &mut Cx<'_>, section: &Section<'_>, times: &Times) -> Option<Duration> {
    let has_several = section
        .table()
        .get("urls")
        .is_some_and(|entry| matches!(&entry.node.value, Value::Array(items) if items.len() > 1));
    let Some(entry) = section.get(cx, "failback") else {
        return has_several.then_some(Duration::from_secs(300));
    };
    if !has_several {
        let title = "`failback` is without effect: there is one address";
        cx.error(
            entry.key,
            title,
            "",
            "take it out, or name several in `urls`",
        );
    }
    cx.duration_or_off(entry, times).flatten()
}

fn parse(cx: &mut Cx<'_>, text: &At<&str>, key: &str) -> Option<Endpoint> {
    let mut wrong = |title: String, help: String| {
        cx.error(text.span, title, "", help);
        None
    };
    // Before anything is said that shows it.
    if text.value.contains('@') && !text.value.starts_with("unix:") {
        return wrong(
            "a URL has no user name and no password here".into(),
            "they are keys of their own: `username` and `password = { file = \"…\" }`".into(),
        );
    }
    let Some((scheme, rest)) = text.value.split_once(':') else {
        let title = format!("{} is not a URL", shown(text.value));
        return wrong(title, format!("for example `{key} = {EXAMPLE}`"));
    };
    if scheme == "unix" {
        let path = match rest.strip_prefix("//") {
            Some(path) if path.starts_with('/') => path,
            _ => rest,
        };
        let path = cx.resolve(path, text.span, key, "\"unix:/run/other/mqtt.sock\"")?;
        return fits_socket(cx, &path, text.span).then_some(Endpoint::Unix { path });
    }
    let known = Scheme::ALL.into_iter().find(|it| it.name() == scheme);
    let (Some(scheme), Some(rest)) = (known, rest.strip_prefix("//")) else {
        return wrong(
            format!("{} is no URL of a broker", shown(text.value)),
            instead(text.value),
        );
    };
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    let Some((host, port)) = split(authority, scheme) else {
        return wrong(
            format!("{} names no host and port", shown(text.value)),
            "it is a name or an address, an IPv6 address in brackets, and a port from 1 to 65535: \
             \"mqtt://[2001:db8::1]:1883\""
                .into(),
        );
    };
    let path = match (scheme.is_websocket(), path) {
        (true, "") => PATH,
        (true, path) => path,
        (false, "" | "/") => "",
        (false, _) => {
            return wrong(
                format!("{} has a path, which is WebSocket's", shown(text.value)),
                "take it out, or write `ws://` or `wss://`".into(),
            );
        }
    };
    let is_fine = path.len() <= PATH_MAX
        && path.bytes().all(|byte| byte.is_ascii_graphic())
        && !path.contains('#');
    if !is_fine {
        return wrong(
            format!("{} is not the path of a WebSocket", shown(path)),
            "for example \"wss://broker.example/mqtt\"".into(),
        );
    }
    Some(Endpoint::Network {
        scheme,
        host: host.into(),
        port,
        path: path.into(),
    })
}

/// What was probably meant by another scheme.
fn instead(text: &str) -> String {
    let (scheme, rest) = text.split_once(':').unwrap_or(("", text));
    let scheme = match scheme {
        "tcp" | "mqtt" | "MQTT" | "mqtt-tcp" => "mqtt",
        "ssl" | "tls" | "mqtts" | "tcps" | "mqtt+ssl" | "MQTTS" => "mqtts",
        "http" | "mqtt+ws" | "ws" => "ws",
        "https" | "mqtt+wss" | "wss" => "wss",
        _ => {
            let schemes: Vec<String> = Scheme::ALL
                .iter()
                .map(|scheme| format!("`{}://`", scheme.name()))
                .collect();
            return format!("it starts with {} or `unix:`", schemes.join(", "));
        }
    };
    format!(
        "write {}",
        shown(&format!("{scheme}://{}", rest.trim_start_matches('/')))
    )
}

/// Host, without brackets, and port.
fn split(authority: &str, scheme: Scheme) -> Option<(&str, u16)> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            host.parse::<Ipv6Addr>().ok()?;
            let port = match port {
                "" => None,
                port => Some(port.strip_prefix(':')?),
            };
            (host, port)
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let port = match port {
        None => scheme.default_port(),
        Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            port.parse().ok().filter(|port| *port > 0)?
        }
        Some(_) => return None,
    };
    is_host(host).then_some((host, port))
}

/// Whether it can be a host's name or an address, without brackets.
pub(super) fn is_host(text: &str) -> bool {
    if text.parse::<IpAddr>().is_ok() {
        return true;
    }
    let is_of_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !text.is_empty()
        && text.len() <= HOST_MAX
        && text.bytes().all(is_of_name)
        && !text.starts_with(['.', '-'])
        && !text.contains("..")
}
