//! The HTTP request that opens a WebSocket (RFC 6455, section 4), and what answers it, as a server
//! and as a client: without a socket.

use core::fmt::Write as _;

use data_encoding::BASE64;
use httparse::{EMPTY_HEADER, Request, Response, Status};
use ring::digest;

use crate::gateway::settings::WebSocketSettings;

/// The longest head of a request, and of an answer, in bytes.
pub const HEAD_MAX: usize = 8 * 1024;

/// Lines of a head at most.
const LINES_MAX: usize = 64;

/// What the key is joined with (1.3).
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The subprotocols that we speak: MQTT's own [MQTT-6.0.0-4], and what clients of 3.1 ask for.
const SUBPROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// It is not HTTP/1.1, or lacks something.
    BadRequest(&'static str),
    /// The page that asks is not one of those that may.
    Origin,
    /// We are not at this path.
    Path,
    /// Not a GET.
    Method,
    /// It does not ask for a WebSocket, or for one of another version.
    Upgrade,
    /// It is too long.
    TooLong,
}

impl Refused {
    /// Status and reason phrase.
    const fn status(self) -> &'static str {
        match self {
            Self::BadRequest(_) => "400 Bad Request",
            Self::Origin => "403 Forbidden",
            Self::Path => "404 Not Found",
            Self::Method => "405 Method Not Allowed",
            Self::Upgrade => "426 Upgrade Required",
            Self::TooLong => "431 Request Header Fields Too Large",
        }
    }

    /// For the log, and for whoever asked.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest(what) => what,
            Self::Origin => "pages of this origin may not connect",
            Self::Path => "MQTT is not at this path",
            Self::Method => "a WebSocket is opened with GET",
            Self::Upgrade => "here is MQTT over WebSocket, version 13",
            Self::TooLong => "the request's head is too long",
        }
    }

    /// The whole answer.
    pub fn answer(self) -> Vec<u8> {
        let mut out = format!("HTTP/1.1 {}\r\n", self.status());
        match self {
            Self::Method => out.push_str("Allow: GET\r\n"),
            Self::Upgrade => out.push_str(
                "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nConnection: Upgrade, close\r\n",
            ),
            _ => {}
        }
        if self != Self::Upgrade {
            out.push_str("Connection: close\r\n");
        }
        let body = self.as_str();
        let _ = write!(
            out,
            "Content-Type: text/plain\r\nContent-Length: {}\r\n\r\n{body}\n",
            body.len() + 1
        );
        out.into_bytes()
    }
}

/// The length of a head whose end is in `bytes`, of which the first `seen` have been looked at
/// before.
pub fn head_len(bytes: &[u8], seen: usize) -> Option<usize> {
    const END: &[u8] = b"\r\n\r\n";
    let from = seen.saturating_sub(END.len() - 1);
    let at = memchr::memmem::find(&bytes[from..], END)?;
    Some(from + at + END.len())
}

/// Looks at a whole head and answers it.
///
/// # Errors
/// If it is refused; [`Refused::answer`] says so to the client.
pub fn accept(head: &[u8], settings: &WebSocketSettings) -> Result<Vec<u8>, Refused> {
    let mut headers = [EMPTY_HEADER; LINES_MAX];
    let mut request = Request::new(&mut headers);
    match request.parse(head) {
        Ok(Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => return Err(Refused::TooLong),
        Ok(Status::Partial) | Err(_) => return Err(Refused::BadRequest("this is not HTTP")),
    }
    if request.version != Some(1) {
        return Err(Refused::BadRequest("this is not HTTP/1.1"));
    }
    if request.method != Some("GET") {
        return Err(Refused::Method);
    }
    let path = request.path.unwrap_or_default();
    if path.split('?').next() != Some(&*settings.path) {
        return Err(Refused::Path);
    }
    let lines = Lines(request.headers);
    let host = lines
        .only("host")?
        .ok_or(Refused::BadRequest("the request has no Host"))?;
    if !lines.lists("upgrade", |word| word.eq_ignore_ascii_case("websocket"))
        || !lines.lists("connection", |word| word.eq_ignore_ascii_case("upgrade"))
        || lines.only("sec-websocket-version")? != Some("13")
    {
        return Err(Refused::Upgrade);
    }
    if let Some(origin) = lines.only("origin")?
        && !may_connect(origin, host, settings)
    {
        return Err(Refused::Origin);
    }
    let key = lines.only("sec-websocket-key")?.unwrap_or_default();
    if BASE64
        .decode(key.as_bytes())
        .is_ok_and(|key| key.len() == 16)
    {
    } else {
        return Err(Refused::BadRequest("Sec-WebSocket-Key is not 16 bytes"));
    }
    // A client must offer MQTT [MQTT-6.0.0-3], and is told the name that was selected
    // [MQTT-6.0.0-4].
    let Some(subprotocol) = SUBPROTOCOLS
        .iter()
        .find(|ours| lines.lists("sec-websocket-protocol", |theirs| theirs == **ours))
    else {
        return Err(Refused::BadRequest(
            "Sec-WebSocket-Protocol does not offer mqtt",
        ));
    };
    let accept = accept_key(key);
    Ok(format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: {subprotocol}\r\n\r\n"
    )
    .into_bytes())
}

/// What is asked of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upgrade {
    /// Name and port, as in the URL.
    pub authority: String,
    /// Where MQTT is: `/mqtt`.
    pub path: String,
}

impl Upgrade {
    /// The head of the request; `key` is 16 bytes of chance in base64 (4.1).
    pub fn request(&self, key: &str) -> Vec<u8> {
        let Self { authority, path } = self;
        format!(
            "GET {path} HTTP/1.1\r\nHost: {authority}\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Protocol: mqtt\r\n\r\n"
        )
        .into_bytes()
    }
}

/// Whether what has come of an answer can still be one.
pub fn may_be_answer(bytes: &[u8]) -> bool {
    const START: &[u8] = b"HTTP/1.1 ";
    let len = bytes.len().min(START.len());
    bytes[..len] == START[..len]
}

/// Looks at the whole head of a server's answer to a request with this key.
///
/// # Errors
/// What is wrong with it.
pub fn check_answer(head: &[u8], key: &str) -> Result<(), String> {
    let mut headers = [EMPTY_HEADER; LINES_MAX];
    let mut response = Response::new(&mut headers);
    if !matches!(response.parse(head), Ok(Status::Complete(_))) {
        return Err("the server does not speak WebSocket".to_owned());
    }
    if response.code != Some(101) {
        let code = response.code.unwrap_or_default();
        let reason = response.reason.unwrap_or_default();
        return Err(format!("the server refuses WebSocket: {code} {reason}"));
    }
    let lines = Lines(response.headers);
    let says = |name: &str, value: &str| lines.all(name).eq([value.as_bytes()]);
    if !says("sec-websocket-accept", &accept_key(key)) {
        return Err("the server's answer to the WebSocket request is not its own".to_owned());
    }
    if !says("sec-websocket-protocol", "mqtt") {
        return Err("the server does not speak MQTT over this WebSocket".to_owned());
    }
    Ok(())
}

/// What proves that we have understood (4.2.2).
fn accept_key(key: &str) -> String {
    let joined = format!("{key}{GUID}");
    let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, joined.as_bytes());
    BASE64.encode(hash.as_ref())
}

/// Whether a page of this origin may connect to this host.
fn may_connect(origin: &str, host: &str, settings: &WebSocketSettings) -> bool {
    match &settings.origins {
        Some(origins) => origins
            .iter()
            .any(|allowed| &**allowed == "*" || allowed.eq_ignore_ascii_case(origin)),
        // Without a list: pages that the same host has given out, at whatever port.
        None => origin
            .split_once("://")
            .is_some_and(|(_, origin)| name_of(origin).eq_ignore_ascii_case(name_of(host))),
    }
}

/// A host's name or address without its port.
fn name_of(authority: &str) -> &str {
    if authority.starts_with('[') {
        return match authority.find(']') {
            Some(end) => &authority[..=end],
            None => authority,
        };
    }
    authority.split(':').next().unwrap_or_default()
}

/// The lines of a head.
struct Lines<'h, 'b>(&'h [httparse::Header<'b>]);

impl<'b> Lines<'_, 'b> {
    fn all(&self, name: &str) -> impl Iterator<Item = &'b [u8]> {
        self.0
            .iter()
            .filter(move |line| line.name.eq_ignore_ascii_case(name))
            .map(|line| line.value)
    }

    /// What stands there once at most.
    fn only(&self, name: &str) -> Result<Option<&'b str>, Refused> {
        const TWICE: Refused = Refused::BadRequest("a header stands there twice, or is not text");
        let mut lines = self.all(name);
        let first = lines.next();
        if lines.next().is_some() {
            return Err(TWICE);
        }
        first
            .map(|value| core::str::from_utf8(value).map(str::trim))
            .transpose()
            .map_err(|_| TWICE)
    }

    /// Whether a list of words has one like this.
    fn lists(&self, name: &str, is_it: impl Fn(&str) -> bool) -> bool {
        self.all(name)
            .filter_map(|value| core::str::from_utf8(value).ok())
            .flat_map(|value| value.split(','))
            .any(|word| is_it(word.trim()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    fn request(change: impl Fn(&mut Vec<String>)) -> Vec<u8> {
        let mut lines: Vec<String> = [
            "GET /mqtt HTTP/1.1",
            "Host: broker.example:9001",
            "Upgrade: websocket",
            "Connection: keep-alive, Upgrade",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Protocol: chat, mqtt",
        ]
        .map(String::from)
        .to_vec();
        lines.push(format!("Sec-WebSocket-Key: {KEY}"));
        change(&mut lines);
        format!("{}\r\n\r\n", lines.join("\r\n")).into_bytes()
    }

    fn said(head: &[u8], settings: &WebSocketSettings) -> Result<String, Refused> {
        accept(head, settings).map(|answer| String::from_utf8(answer).unwrap())
    }

    #[test]
    fn a_good_request_is_answered_with_the_hash_of_its_key() {
        let answer = said(&request(|_| {}), &WebSocketSettings::default()).unwrap();
        // The example of RFC 6455, section 1.3.
        assert!(answer.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"));
        assert!(answer.contains("\r\nSec-WebSocket-Protocol: mqtt\r\n"));
        assert!(answer.starts_with("HTTP/1.1 101 ") && answer.ends_with("\r\n\r\n"));
        let old = request(|lines| lines[5] = "sec-websocket-protocol: mqttv3.1".into());
        let answer = said(&old, &WebSocketSettings::default()).unwrap();
        assert!(answer.contains("\r\nSec-WebSocket-Protocol: mqttv3.1\r\n"));
        let query = request(|lines| lines[0] = "GET /mqtt?x=y HTTP/1.1".into());
        assert!(said(&query, &WebSocketSettings::default()).is_ok());
    }

    #[test]
    fn what_is_wrong_has_a_status_of_its_own() {
        let cases: &[(usize, &str, &str)] = &[
            (0, "GET / HTTP/1.1", "404"),
            (0, "GET /mqtts HTTP/1.1", "404"),
            (0, "POST /mqtt HTTP/1.1", "405"),
            (0, "GET /mqtt HTTP/1.0", "400"),
            (0, "GET /mqtt", "400"),
            (1, "Hostess: x", "400"),
            (1, "Host: a\r\nHost: b", "400"),
            (2, "Upgrade: h2c", "426"),
            (3, "Connection: close", "426"),
            (4, "Sec-WebSocket-Version: 8", "426"),
            (5, "Sec-WebSocket-Protocol: chat, MQTT", "400"),
            (5, "X: y", "400"),
            (6, "Sec-WebSocket-Key: c2hvcnQ=", "400"),
            (6, "X: y", "400"),
            (6, "Origin: https://elsewhere.example", "403"),
            (6, "bad header\0: x", "400"),
        ];
        for (line, text, status) in cases {
            let head = request(|lines| lines[*line] = (*text).to_owned());
            let refused = accept(&head, &WebSocketSettings::default()).unwrap_err();
            let answer = String::from_utf8(refused.answer()).unwrap();
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status} ")),
                "{text}: {answer}"
            );
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("Content-Length: {}", body.len())));
            assert_eq!(head.contains("Sec-WebSocket-Version: 13"), *status == "426");
        }
        let many = request(|lines| lines.extend((0..100).map(|index| format!("X-{index}: y"))));
        assert_eq!(
            accept(&many, &WebSocketSettings::default()),
            Err(Refused::TooLong)
        );
    }

    #[test]
    fn pages_connect_to_their_own_host_or_as_the_list_says() {
        let allows = |origins: Option<&[&str]>, origin: &str, host: &str| {
            let settings = WebSocketSettings {
                origins: origins.map(|list| list.iter().map(|origin| (*origin).into()).collect()),
                ..WebSocketSettings::default()
            };
            let head = request(|lines| {
                lines[1] = format!("Host: {host}");
                lines.push(format!("Origin: {origin}"));
            });
            accept(&head, &settings).is_ok()
        };
        assert!(allows(None, "http://shed.local:8080", "Shed.local:9001"));
        assert!(allows(None, "https://[::1]", "[::1]:9001"));
        assert!(!allows(None, "https://[::2]", "[::1]:9001"));
        assert!(!allows(
            None,
            "https://shed.local.evil.example",
            "shed.local"
        ));
        assert!(!allows(None, "null", "shed.local"));
        let list: Option<&[&str]> = Some(&["https://panel.example", "http://localhost:3000"]);
        assert!(allows(list, "https://panel.example", "shed.local"));
        assert!(allows(list, "http://localhost:3000", "shed.local"));
        assert!(!allows(list, "http://panel.example", "shed.local"));
        assert!(!allows(list, "http://shed.local", "shed.local"));
        assert!(allows(Some(&["*"]), "null", "shed.local"));
        assert!(!allows(Some(&[]), "http://shed.local", "shed.local"));
    }

    #[test]
    fn a_heads_end_is_found_however_it_comes() {
        let head = request(|_| {});
        let mut bytes = head.clone();
        bytes.extend_from_slice(b"\x82\x80");
        for seen in 0..head.len() {
            assert_eq!(head_len(&bytes[..head.len() - 1], seen), None);
            assert_eq!(head_len(&bytes, seen), Some(head.len()));
        }
    }
    fn answer(accept: &str) -> Vec<u8> {
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nsec-websocket-accept: {accept}\r\n\
             Sec-WebSocket-Protocol: mqtt\r\n\r\n"
        )
        .into_bytes()
    }

    #[test]
    fn what_we_ask_is_what_we_accept() {
        let key = "dGhlIHNhbXBsZSBub25jZQ==";
        let upgrade = Upgrade {
            authority: "broker.example:80".to_owned(),
            path: "/mqtt".to_owned(),
        };
        let answer = accept(&upgrade.request(key), &WebSocketSettings::default()).unwrap();
        assert_eq!(check_answer(&answer, key), Ok(()));
        assert!((0..answer.len()).all(|len| may_be_answer(&answer[..len])));
    }

    #[test]
    fn an_answer_that_is_not_right_is_named() {
        let key = "dGhlIHNhbXBsZSBub25jZQ==";
        // The example of 1.3.
        assert_eq!(
            check_answer(&answer("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), key),
            Ok(())
        );
        for (answer, wanted) in [
            (b"HTTP/1.1 403 Forbidden\r\n\r\n".to_vec(), "403 Forbidden"),
            (b"HTTP/1.1 x\r\n\r\n".to_vec(), "does not speak WebSocket"),
            (answer("x"), "not its own"),
            (
                b"HTTP/1.1 101 Yes\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
                    .to_vec(),
                "does not speak MQTT",
            ),
        ] {
            let error = check_answer(&answer, key).unwrap_err();
            assert!(error.contains(wanted), "{error}");
        }
        assert!(!may_be_answer(b"220 mail.example ESMTP\r\n"));
    }
}
