//! The options that `pub` and `sub` share: mosquitto's clients' own, so that a script needs another
//! name and nothing else.

use std::hash::{BuildHasher, RandomState};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use lexopt::Parser;
use lexopt::prelude::*;

use crate::buffer::Payload;
use crate::host::dial::{Address, Layers, Secured, TlsOptions, TlsVersion, Upgrade};
use crate::mqtt::client::{ConnectOptions, WillOptions};
use crate::mqtt::message::ApplicationMessage;
use crate::mqtt::{ProtocolVersion, QoS, TopicName};
use crate::time::{Duration, Instant};

use super::property::Properties;
use super::{Argument, Failure};

/// Where and how to connect.
#[derive(Debug, Clone)]
pub(crate) struct ClientOptions {
    host: Option<String>,
    port: Option<u16>,
    unix: Option<PathBuf>,
    /// Some option or URL asks for TLS.
    wants_tls: bool,
    tls: TlsOptions,
    /// Of a WebSocket, if the URL asks for one.
    websocket_path: Option<String>,
    username: Option<String>,
    password: Option<String>,
    id: Option<String>,
    id_prefix: Option<String>,
    keep_alive: u16,
    clean_start: bool,
    version: Option<ProtocolVersion>,
    session_expiry: Option<u32>,
    will_topic: Option<String>,
    will_payload: Option<String>,
    will_qos: Option<QoS>,
    will_retain: bool,
    inflight_maximum: u16,
    /// `-q`: of what is published, or subscribed.
    pub(crate) qos: QoS,
    /// `-t`, in order.
    pub(crate) topics: Vec<String>,
    /// `-D`.
    pub(crate) properties: Properties,
    /// `-d`: say what is sent and received.
    pub(crate) debug: bool,
    /// `--quiet`: say nothing that is not wrong usage.
    pub(crate) quiet: bool,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            host: None,
            port: None,
            unix: None,
            wants_tls: false,
            tls: TlsOptions::default(),
            websocket_path: None,
            username: None,
            password: None,
            id: None,
            id_prefix: None,
            keep_alive: 60,
            clean_start: true,
            version: None,
            session_expiry: None,
            will_topic: None,
            will_payload: None,
            will_qos: None,
            will_retain: false,
            inflight_maximum: 20,
            qos: QoS::AtMostOnce,
            topics: Vec::new(),
            properties: Properties::default(),
            debug: false,
            quiet: false,
        }
    }
}

/// Options of mosquitto's clients that come with TLS and are not here, and what there is instead.
const NOT_OF_TLS: &[(&str, &str)] = &[
    (
        "ciphers",
        "those of TLS 1.2 and 1.3 that are safe are offered",
    ),
    ("tls13-ciphers", "those that are safe are offered"),
    ("keyform", "a key is a PEM file"),
    ("psk", "use certificates"),
    ("psk-identity", "use certificates"),
    ("tls-engine", "a key is a PEM file"),
    ("tls-engine-kpass-sha1", "a key is a PEM file"),
];

const PORT_TLS: u16 = 8883;
const PORT_WS: u16 = 80;
const PORT_WSS: u16 = 443;
const PORT: u16 = 1883;

impl ClientOptions {
    /// Takes an option if it is one of those that both verbs have; `false` leaves it to the verb.
    /// `commands`: the packets that `-D` may name.
    pub(crate) fn take(
        &mut self,
        argument: &Argument,
        parser: &mut Parser,
        commands: &[&str],
    ) -> Result<bool, Failure> {
        let name = match argument {
            Argument::Short(option) => short_to_long(*option),
            Argument::Long(option) => option.as_str(),
            Argument::Value(_) => return Ok(false),
        };
        match name {
            "host" => self.host = Some(text(parser)?),
            "port" => self.port = Some(port(&text(parser)?)?),
            "unix" => self.unix = Some(parser.value()?.into()),
            "username" => self.username = Some(text(parser)?),
            "pw" => self.password = Some(text(parser)?),
            "id" => self.id = Some(text(parser)?),
            "id-prefix" => self.id_prefix = Some(text(parser)?),
            "keepalive" => self.keep_alive = parser.value()?.parse()?,
            "disable-clean-session" => self.clean_start = false,
            "protocol-version" => self.version = Some(version(&text(parser)?)?),
            "session-expiry-interval" => self.session_expiry = Some(expiry(&text(parser)?)?),
            "qos" => self.qos = qos(&text(parser)?)?,
            "topic" => self.topics.push(text(parser)?),
            "url" => self.take_url(&text(parser)?)?,
            "max-inflight" => self.inflight_maximum = parser.value()?.parse()?,
            "will-topic" => self.will_topic = Some(text(parser)?),
            "will-payload" => self.will_payload = Some(text(parser)?),
            "will-qos" => self.will_qos = Some(qos(&text(parser)?)?),
            "will-retain" => self.will_retain = true,
            "debug" => self.debug = true,
            "quiet" => self.quiet = true,
            // Always so: small messages do not wait for company.
            "nodelay" => {}
            "property" => {
                let (command, identifier) = (text(parser)?, text(parser)?);
                let values: Result<Vec<_>, _> = (0..Properties::word_count(&identifier))
                    .map(|_| text(parser))
                    .collect();
                self.properties
                    .take(&command, &identifier, &values?, commands)?;
            }
            "cafile" => self.take_tls(|tls, path| tls.authorities = Some(path.into()), parser)?,
            "capath" => {
                self.take_tls(
                    |tls, path| tls.authorities_folder = Some(path.into()),
                    parser,
                )?;
            }
            "cert" => self.take_tls(|tls, path| tls.certificate = Some(path.into()), parser)?,
            "key" => self.take_tls(|tls, path| tls.key = Some(path.into()), parser)?,
            "tls-alpn" => self.take_tls(|tls, name| tls.alpn = vec![name], parser)?,
            "tls-version" => {
                let version = tls_version(&text(parser)?)?;
                self.wants_tls = true;
                self.tls.version = Some(version);
            }
            // Without --cafile and --capath they are what is trusted anyway.
            "tls-use-os-certs" => self.wants_tls = true,
            "insecure" => self.tls.any_name = true,
            "bind-address" => return Err(not_available("-A")),
            "srv" => return Err(not_available("-S")),
            "proxy" => return Err(not_available("--proxy")),
            other => {
                let Some((_, instead)) = NOT_OF_TLS.iter().find(|(name, _)| *name == other) else {
                    return Ok(false);
                };
                let text = format!("--{other} is not available in this version");
                return Err(Failure::usage(text).hint(*instead));
            }
        }
        Ok(true)
    }

    fn take_tls(
        &mut self,
        put: impl FnOnce(&mut TlsOptions, String),
        parser: &mut Parser,
    ) -> Result<(), Failure> {
        self.wants_tls = true;
        put(&mut self.tls, text(parser)?);
        Ok(())
    }

    /// `-L mqtt://[USER[:PASSWORD]@]HOST[:PORT]/TOPIC`, also `mqtts`. For `ws` and `wss` what
    /// follows the port is where the WebSocket is.
    fn take_url(&mut self, url: &str) -> Result<(), Failure> {
        let wrong = |what: &str| Failure::usage(format!("-L {url}: {what}"));
        let Some((scheme, rest)) = url.split_once("://") else {
            return Err(wrong(
                "a URL looks like mqtt://[user[:password]@]host[:port]/topic",
            ));
        };
        let (tls, websocket) = match scheme {
            "mqtt" => (false, false),
            "mqtts" => (true, false),
            "ws" => (false, true),
            "wss" => (true, true),
            _ => return Err(wrong("the scheme is mqtt, mqtts, ws or wss")),
        };
        self.wants_tls |= tls;
        let (authority, topic) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, host) = match authority.rsplit_once('@') {
            Some((login, host)) => (Some(login), host),
            None => (None, authority),
        };
        if let Some(login) = login {
            let (user, password) = match login.split_once(':') {
                Some((user, password)) => (user, Some(password)),
                None => (login, None),
            };
            let decode = |text| {
                percent_decode(text).ok_or_else(|| wrong("a % is followed by two hex digits"))
            };
            self.username = Some(decode(user)?);
            self.password = password.map(decode).transpose()?;
        }
        // An IPv6 address stands in brackets, as its colons are not the port's.
        let (host, at) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, rest)) => (host, rest.strip_prefix(':')),
            None => match host.split_once(':') {
                Some((host, at)) => (host, Some(at)),
                None => (host, None),
            },
        };
        if host.is_empty() {
            return Err(wrong("the host is missing"));
        }
        self.host = Some(host.to_owned());
        if let Some(at) = at {
            self.port = Some(port(at)?);
        }
        if websocket {
            self.websocket_path = Some(format!("/{topic}"));
        } else if !topic.is_empty() {
            self.topics.push(topic.to_owned());
        }
        Ok(())
    }

    /// What lies over the socket. Reads the files of certificates.
    pub(crate) fn layers(&self) -> Result<Layers, Failure> {
        if self.tls.certificate.is_some() != self.tls.key.is_some() {
            return Err(Failure::usage("--cert and --key go together"));
        }
        let is_layered = self.wants_tls || self.websocket_path.is_some();
        if self.unix.is_some() && is_layered {
            return Err(Failure::usage(
                "--unix has neither TLS nor WebSocket over it",
            ));
        }
        if self.tls.any_name && !self.wants_tls {
            return Err(Failure::usage(
                "--insecure says something of TLS, which nothing here asks for",
            )
            .hint("--cafile FILE, or -L mqtts://… asks for it"));
        }
        let tls = self
            .wants_tls
            .then(|| Secured::new(&self.tls, self.host()))
            .transpose()
            .map_err(|problem| Failure::failed(problem.to_string()))?;
        let websocket = self.websocket_path.as_ref().map(|path| Upgrade {
            authority: self.place(),
            path: path.clone(),
        });
        Ok(Layers { tls, websocket })
    }

    fn host(&self) -> &str {
        self.host.as_deref().unwrap_or("localhost")
    }

    fn port(&self) -> u16 {
        let usual = match (self.wants_tls, self.websocket_path.is_some()) {
            (false, false) => PORT,
            (true, false) => PORT_TLS,
            (false, true) => PORT_WS,
            (true, true) => PORT_WSS,
        };
        self.port.unwrap_or(usual)
    }

    /// What is spoken: 3.1.1 as mosquitto's clients do, but 5 if a property needs it.
    pub(crate) fn version(&self) -> ProtocolVersion {
        let needs_v5 = self.properties.any() || self.session_expiry.is_some();
        self.version.unwrap_or(if needs_v5 {
            ProtocolVersion::V5
        } else {
            ProtocolVersion::V4
        })
    }

    /// Checks the options against one another and makes what the client machine needs.
    pub(crate) fn connect_options(&self, verb: &str) -> Result<ConnectOptions, Failure> {
        let version = self.version();
        if !version.is_v5() && self.properties.any() {
            return Err(Failure::usage("-D: properties need -V 5"));
        }
        if !version.is_v5() && self.session_expiry.is_some() {
            return Err(Failure::usage("-x: a session expiry needs -V 5"));
        }
        if self.id.is_some() && self.id_prefix.is_some() {
            return Err(Failure::usage("-i and -I exclude each other"));
        }
        let session_expiry = self.session_expiry.or(self.properties.session_expiry);
        let outlives = !self.clean_start || session_expiry == Some(u32::MAX);
        if outlives && self.id.is_none() && self.id_prefix.is_none() {
            return Err(Failure::usage(
                "a session that outlives the connection needs -i ID",
            ));
        }
        let client_id = match (&self.id, &self.id_prefix) {
            (Some(id), _) => id.clone(),
            (None, Some(prefix)) => format!("{prefix}{}", std::process::id()),
            // The server chooses.
            (None, None) if version.is_v5() => String::new(),
            (None, None) => random_id(verb),
        };
        let mut options = ConnectOptions {
            version,
            client_id,
            clean_start: self.clean_start,
            keep_alive: self.keep_alive,
            username: self.username.clone(),
            password: self.password.as_ref().map(|text| text.clone().into_bytes()),
            will: self.will()?,
            session_expiry_interval: session_expiry.unwrap_or(if self.clean_start {
                0
            } else {
                u32::MAX
            }),
            inflight_maximum: self.inflight_maximum.max(1),
            connect_timeout: Duration::from_secs(30),
            // Any broker may send what it takes, and a person wants to see it.
            maximum_packet_size: crate::mqtt::frame::PACKET_SIZE_MAX,
            ..ConnectOptions::default()
        };
        self.properties.apply(&mut options);
        options
            .check()
            .map_err(|error| Failure::usage("these options make no CONNECT").because(error))?;
        Ok(options)
    }

    fn will(&self) -> Result<Option<WillOptions>, Failure> {
        let Some(topic) = &self.will_topic else {
            let orphan = self.will_payload.is_some() || self.will_qos.is_some() || self.will_retain;
            return if orphan || self.properties.will.any() {
                Err(Failure::usage("a will needs --will-topic"))
            } else {
                Ok(None)
            };
        };
        let name = TopicName::new(topic)
            .map_err(|error| Failure::usage(format!("--will-topic {topic}")).because(error))?;
        let payload = self.will_payload.as_deref().unwrap_or_default();
        Ok(Some(WillOptions {
            message: ApplicationMessage::new(
                name,
                Payload::copy_from(payload.as_bytes()),
                self.will_qos.unwrap_or_default(),
                self.will_retain,
                &self.properties.will.as_publish(),
                Instant::default(),
            ),
            delay_interval: self.properties.will.will_delay,
        }))
    }

    /// Where to dial: the socket, or every address that the host's name has.
    pub(crate) fn addresses(&self) -> Result<Vec<Address>, Failure> {
        if let Some(path) = &self.unix {
            return Ok(vec![Address::Unix(path.clone())]);
        }
        resolve(self.host(), self.port())
    }

    /// For messages: `localhost:1883`.
    pub(crate) fn place(&self) -> String {
        match &self.unix {
            Some(path) => path.display().to_string(),
            None => format!("{}:{}", self.host(), self.port()),
        }
    }
}

/// Every address of a name, in the system's order.
pub(crate) fn resolve(host: &str, port: u16) -> Result<Vec<Address>, Failure> {
    let found: Vec<SocketAddr> = (host, port)
        .to_socket_addrs()
        .map_err(|error| Failure::failed(format!("cannot resolve {host}")).because(error))?
        .collect();
    if found.is_empty() {
        return Err(Failure::failed(format!("{host} has no address")));
    }
    Ok(found.into_iter().map(Address::Tcp).collect())
}

/// A client identifier that nobody else has: 64 bits of chance.
pub(crate) fn random_id(verb: &str) -> String {
    format!(
        "fieldgate-{verb}-{:016x}",
        RandomState::new().hash_one(verb)
    )
}

/// The long form of mosquitto's short options; empty for others. `-v`, `-m` and their like belong
/// to one verb.
fn short_to_long(option: char) -> &'static str {
    match option {
        'h' => "host",
        'p' => "port",
        'u' => "username",
        'P' => "pw",
        'i' => "id",
        'I' => "id-prefix",
        'k' => "keepalive",
        'c' => "disable-clean-session",
        'V' => "protocol-version",
        'x' => "session-expiry-interval",
        'q' => "qos",
        't' => "topic",
        'L' => "url",
        'M' => "max-inflight",
        'd' => "debug",
        'D' => "property",
        'A' => "bind-address",
        'S' => "srv",
        _ => "",
    }
}

fn not_available(option: &str) -> Failure {
    Failure::usage(format!("{option} is not available in this version"))
}

/// A value that is text: topics and names are UTF-8 in MQTT.
pub(crate) fn text(parser: &mut Parser) -> Result<String, Failure> {
    Ok(parser.value()?.string()?)
}

pub(crate) fn qos(text: &str) -> Result<QoS, Failure> {
    let bits = text.parse().ok().and_then(QoS::from_bits);
    bits.ok_or_else(|| Failure::usage(format!("a QoS is 0, 1 or 2, not `{text}`")))
}

pub(crate) fn port(text: &str) -> Result<u16, Failure> {
    match text.parse() {
        Ok(0) | Err(_) => Err(Failure::usage(format!(
            "a port is a number from 1 to 65535, not `{text}`"
        ))),
        Ok(port) => Ok(port),
    }
}

fn tls_version(text: &str) -> Result<TlsVersion, Failure> {
    match text {
        "tlsv1.2" => Ok(TlsVersion::V12),
        "tlsv1.3" => Ok(TlsVersion::V13),
        _ => Err(Failure::usage(format!(
            "a TLS version is tlsv1.2 or tlsv1.3, not `{text}`"
        ))),
    }
}

pub(crate) fn version(text: &str) -> Result<ProtocolVersion, Failure> {
    match text {
        "5" | "5.0" | "mqttv5" => Ok(ProtocolVersion::V5),
        "311" | "3.1.1" | "mqttv311" => Ok(ProtocolVersion::V4),
        "31" | "3.1" | "mqttv31" => Ok(ProtocolVersion::V3),
        _ => Err(Failure::usage(format!(
            "a protocol version is 5, 311 or 31, not `{text}`"
        ))),
    }
}

fn expiry(text: &str) -> Result<u32, Failure> {
    match text {
        "-1" | "∞" => Ok(u32::MAX),
        _ => text.parse().map_err(|_| {
            Failure::usage(format!(
                "-x takes seconds, or -1 for a session that does not expire, not `{text}`"
            ))
        }),
    }
}

/// `%3A` is `:`; `None` if a `%` is not followed by two hex digits, or the result is not UTF-8.
fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digit = |byte: Option<u8>| (byte? as char).to_digit(16);
            bytes.push((digit(rest.next())? * 16 + digit(rest.next())?) as u8);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<ClientOptions, Failure> {
        let mut parser = Parser::from_args(arguments);
        let mut options = ClientOptions::default();
        while let Some(argument) = Argument::next(&mut parser)? {
            let commands = &["connect", "publish", "will"];
            if !options.take(&argument, &mut parser, commands)? {
                return Err(Failure::usage(format!("{argument:?}")));
            }
        }
        Ok(options)
    }

    fn connect(arguments: &[&str]) -> Result<ConnectOptions, Failure> {
        parse(arguments)?.connect_options("test")
    }

    #[test]
    fn a_url_says_everything_at_once() {
        let options = parse(&["-L", "mqtt://anna:a%3Ab%40c@broker.example:1884/a/b"]).unwrap();
        assert_eq!(options.place(), "broker.example:1884");
        assert_eq!(options.topics, ["a/b"]);
        assert_eq!(options.username.as_deref(), Some("anna"));
        assert_eq!(options.password.as_deref(), Some("a:b@c"));
        let options = parse(&["-L", "mqtt://[::1]:1884/x"]).unwrap();
        assert_eq!(options.host.as_deref(), Some("::1"));
        assert_eq!(options.port, Some(1884));
        for url in [
            "broker/x",
            "http://b/x",
            "mqtt:///x",
            "mqtt://a%zz@b/x",
            "mqtt://b:0/x",
        ] {
            assert_eq!(parse(&["-L", url]).unwrap_err().code(), 2, "{url}");
        }
    }

    #[test]
    fn the_version_is_3_1_1_unless_something_needs_5() {
        let version = |arguments: &[&str]| connect(arguments).map(|options| options.version);
        assert_eq!(version(&[]).unwrap(), ProtocolVersion::V4);
        assert_eq!(version(&["-V", "mqttv5"]).unwrap(), ProtocolVersion::V5);
        let with_property = ["-D", "connect", "user-property", "a", "b"];
        assert_eq!(version(&with_property).unwrap(), ProtocolVersion::V5);
        assert_eq!(version(&["-x", "10"]).unwrap(), ProtocolVersion::V5);
        assert!(version(&["-V", "311", "-x", "10"]).is_err());
    }

    #[test]
    fn sessions_that_last_need_an_id() {
        assert!(connect(&["-c"]).is_err());
        let options = connect(&["-c", "-i", "a", "-V", "5"]).unwrap();
        assert!(!options.clean_start);
        assert_eq!(options.session_expiry_interval, u32::MAX);
        assert_eq!(
            connect(&["-x", "-1", "-i", "a"])
                .unwrap()
                .session_expiry_interval,
            u32::MAX
        );
        assert_eq!(connect(&["-x", "60"]).unwrap().session_expiry_interval, 60);
    }

    #[test]
    fn ids_differ_from_run_to_run() {
        assert_ne!(random_id("pub"), random_id("pub"));
        assert!(connect(&["-V", "5"]).unwrap().client_id.is_empty());
        assert!(
            connect(&[])
                .unwrap()
                .client_id
                .starts_with("fieldgate-test-")
        );
    }

    #[test]
    fn a_will_needs_its_topic() {
        assert!(connect(&["--will-payload", "x"]).is_err());
        assert!(connect(&["--will-topic", "a/#"]).is_err());
        let options = connect(&[
            "--will-topic",
            "a",
            "--will-payload",
            "x",
            "--will-qos",
            "1",
        ])
        .unwrap();
        let will = options.will.unwrap();
        assert_eq!(will.message.topic(), "a");
        assert_eq!(&**will.message.payload(), b"x");
        assert_eq!(will.message.qos(), QoS::AtLeastOnce);
    }

    #[test]
    fn tls_and_websocket_have_ports_of_their_own() {
        for (arguments, place) in [
            (&["-h", "b"][..], "b:1883"),
            (&["-h", "b", "--cafile", "ca.pem"], "b:8883"),
            (&["-h", "b", "--cafile", "ca.pem", "-p", "1"], "b:1"),
            (&["-h", "b", "--tls-use-os-certs"], "b:8883"),
            (&["-L", "mqtts://b/t"], "b:8883"),
            (&["-L", "ws://b/mqtt"], "b:80"),
            (&["-L", "wss://b:9001/mqtt"], "b:9001"),
            (&["-L", "wss://b"], "b:443"),
        ] {
            assert_eq!(parse(arguments).unwrap().place(), place, "{arguments:?}");
        }
        let options = parse(&["-L", "ws://b:9001/some/where", "-t", "a"]).unwrap();
        let layers = options.layers().unwrap();
        assert!(layers.tls.is_none());
        let upgrade = layers.websocket.unwrap();
        assert_eq!(
            (&*upgrade.authority, &*upgrade.path),
            ("b:9001", "/some/where")
        );
        assert_eq!(options.topics, ["a"]);
    }

    #[test]
    fn tls_options_that_make_no_sense_are_wrong_usage() {
        for (arguments, wanted) in [
            (&["--cert", "c.pem"][..], "--cert and --key go together"),
            (&["--key", "k.pem"], "--cert and --key go together"),
            (&["--insecure"], "which nothing here asks for"),
            (&["--unix", "s", "--cafile", "ca.pem"], "--unix"),
            (
                &["--cafile", "/nowhere/ca.pem"],
                "--cafile /nowhere/ca.pem: No such file",
            ),
        ] {
            let failure = parse(arguments).unwrap().layers().unwrap_err();
            assert!(failure.to_string().contains(wanted), "{failure}");
        }
        for (option, _) in NOT_OF_TLS {
            let failure = parse(&[&format!("--{option}"), "x"]).unwrap_err();
            assert!(
                failure
                    .to_string()
                    .contains("not available in this version"),
                "{failure}"
            );
        }
        let failure = parse(&["--tls-version", "tlsv1.1"]).unwrap_err();
        assert!(
            failure.to_string().contains("tlsv1.2 or tlsv1.3"),
            "{failure}"
        );
    }
}
