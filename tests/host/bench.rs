//! A loop with a gateway in it, and clients that speak MQTT 3.1.1 by hand.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fieldgate::broker;
use fieldgate::gateway::boundary::Notice;
use fieldgate::gateway::settings::{
    Bind, Config, DeviceConfig, ListenerSettings, Network, TransportSettings,
};
use fieldgate::host::{ControlSettings, EventLoop, Flow, HostCounters, HostEvent, HostSettings};

/// After this long a test gives up. Nothing waits for it to pass.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What a gateway of the tests is made of.
pub struct Plan {
    pub binds: Vec<Bind>,
    pub devices: BTreeMap<Box<str>, DeviceConfig>,
    pub control: Option<ControlSettings>,
    pub broker: broker::settings::Settings,
    pub exempt_addresses: Vec<Network>,
    pub transport: TransportSettings,
    pub allow_anonymous: bool,
}

impl Plan {
    /// TCP on a free port of loopback.
    pub fn tcp() -> Self {
        Self {
            binds: vec![Bind::Tcp("127.0.0.1:0".parse().unwrap())],
            devices: BTreeMap::new(),
            control: None,
            broker: broker::settings::Settings::default(),
            exempt_addresses: vec!["127.0.0.0/8".parse().unwrap()],
            transport: TransportSettings::default(),
            allow_anonymous: true,
        }
    }

    pub fn config(&self) -> Config {
        let listener = ListenerSettings {
            bind: self.binds.clone(),
            allow_anonymous: self.allow_anonymous,
            max_connections: None,
            redirect: None,
            transport: self.transport.clone(),
        };
        Config {
            name: "test".into(),
            base_topic: "test".into(),
            broker: self.broker.clone(),
            journal: None,
            exempt_addresses: self.exempt_addresses.clone(),
            listeners: BTreeMap::from([("default".into(), listener)]),
            devices: self.devices.clone(),
            bridges: BTreeMap::new(),
        }
    }

    /// Starts it and turns until it is ready.
    pub fn start(self) -> Bench {
        let heard = Rc::new(RefCell::new(Heard::default()));
        let settings = HostSettings {
            control: self.control.clone(),
            on_event: Some(Box::new({
                let heard = heard.clone();
                move |event| heard.borrow_mut().note(event)
            })),
            seed: Some(1),
            ..HostSettings::default()
        };
        let event_loop = EventLoop::new(self.config(), settings).unwrap();
        let mut bench = Bench {
            event_loop,
            heard,
            memory_at_start: 0,
        };
        bench.until("it is ready", |bench| {
            bench
                .heard
                .borrow()
                .notices
                .contains(&Notice::Ready)
                .then_some(())
        });
        bench.memory_at_start = bench.memory_used();
        bench
    }
}

#[derive(Default)]
struct Heard {
    addresses: Vec<Result<String, String>>,
    notices: Vec<Notice>,
}

impl Heard {
    fn note(&mut self, event: HostEvent<'_>) {
        match event {
            HostEvent::Listening { outcome, .. } => {
                let outcome = outcome.map(str::to_owned).map_err(str::to_owned);
                self.addresses.push(outcome);
            }
            HostEvent::Notice(notice) => self.notices.push(notice.clone()),
        }
    }
}

/// A loop that the test turns.
pub struct Bench {
    event_loop: EventLoop,
    heard: Rc<RefCell<Heard>>,
    /// What the memory account had when it was ready.
    pub memory_at_start: usize,
}

impl Bench {
    /// One turn that does not wait.
    pub fn turn(&mut self) -> Flow {
        self.event_loop.turn(Some(Duration::ZERO)).unwrap()
    }

    /// Turns until `done` gives something, waiting in between for whatever happens.
    pub fn until<T>(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(result) = done(self) {
                return result;
            }
            assert!(start.elapsed() < PATIENCE, "never: {what}");
            // Peers are served by this thread too, so the wait is short.
            let limit = Some(Duration::from_millis(1));
            assert_eq!(
                self.event_loop.turn(limit).unwrap(),
                Flow::Continue,
                "{what}"
            );
        }
    }

    /// Asks for a clean stop and turns until it is over.
    pub fn stop(mut self) -> fieldgate::host::ExitReason {
        let start = Instant::now();
        self.event_loop.stop();
        loop {
            if let Flow::Exit(reason) = self.event_loop.turn(None).unwrap() {
                return reason;
            }
            assert!(
                start.elapsed() < Duration::from_secs(5),
                "the stop takes too long"
            );
        }
    }

    pub fn counters(&self) -> HostCounters {
        self.event_loop.counters()
    }

    /// What the broker has counted.
    pub fn stats(&self) -> broker::Stats {
        self.event_loop.gateway().broker().stats().clone()
    }

    /// Bytes in the memory account.
    pub fn memory_used(&self) -> usize {
        self.event_loop.gateway().memory().used()
    }

    /// That nothing of connections is held any more: what is published about them is all.
    pub fn assert_nothing_is_held(&self) {
        let more = self.memory_used().saturating_sub(self.memory_at_start);
        assert!(more < 4096, "{more} bytes are still held");
    }

    /// What came of each bind, in order.
    pub fn addresses(&self) -> Vec<Result<String, String>> {
        self.heard.borrow().addresses.clone()
    }

    /// Connects over TCP to the first address.
    pub fn tcp(&self) -> Client {
        let address = self.addresses()[0].clone().unwrap();
        Client::to(&address)
    }

    /// Connects over TCP and TLS.
    pub fn tls(&self, config: &Arc<rustls::ClientConfig>) -> Client {
        self.tcp().encrypt(config.clone())
    }

    /// Connects over TCP and says CONNECT.
    pub fn connected(&mut self, client_id: &str) -> Client {
        let mut client = self.tcp();
        client.send(&connect(client_id));
        self.expect(&mut client, &CONNACK);
        client
    }

    /// Turns until the client has received exactly these bytes next.
    pub fn expect(&mut self, client: &mut Client, bytes: &[u8]) {
        self.until("what was expected arrives", |_| {
            client.receive();
            (client.input.len() >= bytes.len()).then_some(())
        });
        let here: Vec<_> = client.input.drain(..bytes.len()).collect();
        assert_eq!(here, bytes, "client got something else");
    }

    /// Turns until the client's connection has ended, and returns what came before that.
    pub fn rest(&mut self, client: &mut Client) -> Vec<u8> {
        self.until("the connection ends", |_| {
            client.receive();
            client.ended.then_some(())
        });
        std::mem::take(&mut client.input)
    }
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A peer of the broker in the test's own thread.
pub struct Client {
    stream: Stream,
    /// What encrypts it.
    pub session: Option<rustls::ClientConnection>,
    /// What is wrong with the encryption.
    pub error: Option<rustls::Error>,
    /// Received and not looked at.
    pub input: Vec<u8>,
    /// The other end has closed, or has reset.
    pub ended: bool,
    /// It has reset: what it had said may have been lost on a longer way than loopback.
    pub was_reset: bool,
    /// It has said so before, in TLS.
    pub has_parted: bool,
}

impl Client {
    fn new(stream: Stream) -> Self {
        match &stream {
            Stream::Tcp(stream) => {
                stream.set_nodelay(true).unwrap();
                stream.set_nonblocking(true).unwrap();
            }
            Stream::Unix(stream) => stream.set_nonblocking(true).unwrap(),
        }
        Self {
            stream,
            session: None,
            error: None,
            input: Vec::new(),
            ended: false,
            was_reset: false,
            has_parted: false,
        }
    }

    /// Over TCP.
    pub fn to(address: &str) -> Self {
        Self::new(Stream::Tcp(TcpStream::connect(address).unwrap()))
    }

    pub fn unix(path: &Path) -> Self {
        Self::new(Stream::Unix(UnixStream::connect(path).unwrap()))
    }

    /// Sends all of it; short enough for the kernel to take at once.
    pub fn send(&mut self, bytes: &[u8]) {
        assert_eq!(self.try_send(bytes), bytes.len());
    }

    /// Encrypts from here on. The handshake takes turns of both sides.
    pub fn encrypt(mut self, config: Arc<rustls::ClientConfig>) -> Self {
        let name = "localhost".try_into().unwrap();
        let mut session = rustls::ClientConnection::new(config, name).unwrap();
        session.set_buffer_limit(None);
        self.session = Some(session);
        self
    }

    /// Sends what the kernel takes.
    pub fn try_send(&mut self, bytes: &[u8]) -> usize {
        if let Some(session) = &mut self.session {
            session.writer().write_all(bytes).unwrap();
            self.write_encrypted();
            return bytes.len();
        }
        let sent = match &mut self.stream {
            Stream::Tcp(stream) => stream.write(bytes),
            Stream::Unix(stream) => stream.write(bytes),
        };
        match sent {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => panic!("{error}"),
        }
    }

    /// Sends of what is encrypted as much as the kernel takes.
    pub fn write_encrypted(&mut self) {
        let Some(session) = &mut self.session else {
            return;
        };
        while session.wants_write() {
            let written = match &mut self.stream {
                Stream::Tcp(stream) => session.write_tls(stream),
                Stream::Unix(stream) => session.write_tls(stream),
            };
            match written {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // Whoever refuses us closes.
                Err(_) => return,
            }
        }
    }

    fn receive_encrypted(&mut self) {
        let session = self.session.as_mut().unwrap();
        loop {
            let read = match &mut self.stream {
                Stream::Tcp(stream) => session.read_tls(stream),
                Stream::Unix(stream) => session.read_tls(stream),
            };
            match read {
                Ok(0) => self.ended = true,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => self.ended = true,
            }
            if let Err(error) = session.process_new_packets() {
                self.error.get_or_insert(error);
                self.ended = true;
            }
            let mut buffer = [0; 16 * 1024];
            loop {
                match session.reader().read(&mut buffer) {
                    Ok(0) => {
                        self.has_parted = true;
                        break;
                    }
                    Ok(count) => self.input.extend_from_slice(&buffer[..count]),
                    Err(_) => break,
                }
            }
            if self.ended {
                break;
            }
        }
        self.write_encrypted();
    }

    /// Takes in what is there.
    pub fn receive(&mut self) {
        if self.session.is_some() {
            return self.receive_encrypted();
        }
        let mut buffer = [0; 16 * 1024];
        loop {
            let read = match &mut self.stream {
                Stream::Tcp(stream) => stream.read(&mut buffer),
                Stream::Unix(stream) => stream.read(&mut buffer),
            };
            match read {
                Ok(0) => self.ended = true,
                Ok(count) => {
                    self.input.extend_from_slice(&buffer[..count]);
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                    self.ended = true;
                    self.was_reset = true;
                }
                Err(error) => panic!("{error}"),
            }
            return;
        }
    }

    /// Says that nothing more will be sent.
    pub fn shutdown_write(&self) -> io::Result<()> {
        match &self.stream {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Stream::Unix(stream) => stream.shutdown(Shutdown::Write),
        }
    }
}

/// A publisher that always has more in the kernel's buffers than the loop has taken out.
pub struct Flood {
    client: Client,
    torrent: Vec<u8>,
    sent: usize,
}

impl Flood {
    pub fn start(bench: &mut Bench) -> Self {
        Self {
            client: bench.connected("flood"),
            torrent: publish("nobody/listens", &[b'x'; 200]).repeat(1000),
            sent: 0,
        }
    }

    /// Fills the kernel's buffers up again.
    pub fn go_on(&mut self) {
        let before = self.sent;
        loop {
            let next = self.sent % self.torrent.len();
            match self.client.try_send(&self.torrent[next..]) {
                0 => return,
                count => self.sent += count,
            }
            let taken = self.sent - before;
            assert!(taken < 64 << 20, "the kernel's buffers have no end");
        }
    }
}

/// A publisher in a thread of its own, which writes while the loop reads: there is always more.
pub struct River {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<bool>,
}

impl River {
    pub fn start(bench: &mut Bench) -> Self {
        let Stream::Tcp(mut stream) = bench.connected("river").stream else {
            panic!("it dials by TCP");
        };
        stream.set_nonblocking(false).unwrap();
        let often = Some(Duration::from_millis(50));
        stream.set_write_timeout(often).unwrap();
        let is_over = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let is_over = is_over.clone();
            move || {
                let torrent = publish("nobody/listens", &[b'x'; 200]).repeat(1000);
                let (start, mut sent) = (Instant::now(), 0);
                while !is_over.load(Ordering::Relaxed) {
                    if start.elapsed() > PATIENCE {
                        return false;
                    }
                    // What the kernel does not take in time is tried again.
                    sent += stream.write(&torrent[sent % torrent.len()..]).unwrap_or(0);
                }
                true
            }
        });
        Self { is_over, thread }
    }

    /// Whether it flowed to the end. It runs dry when nobody has ended it for long: otherwise a loop
    /// that reads to the last byte would never come back to say so.
    pub fn stop(self) -> bool {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// The answer to [`connect`].
pub const CONNACK: [u8; 4] = [0x20, 2, 0, 0];
pub const PINGREQ: [u8; 2] = [0xC0, 0];
pub const PINGRESP: [u8; 2] = [0xD0, 0];

/// A clean session of 3.1.1 with a keep-alive of a minute.
pub fn connect(client_id: &str) -> Vec<u8> {
    let mut body = b"\0\x04MQTT\x04\x02\0\x3C".to_vec();
    string(&mut body, client_id);
    packet(0x10, &body)
}

/// A SUBSCRIBE with packet id 1, and the SUBACK that answers it.
pub fn subscribe(filter: &str, qos: u8) -> (Vec<u8>, Vec<u8>) {
    let mut body = vec![0, 1];
    string(&mut body, filter);
    body.push(qos);
    (packet(0x82, &body), packet(0x90, &[0, 1, qos]))
}

/// QoS 0.
pub fn publish(topic: &str, payload: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    string(&mut body, topic);
    body.extend_from_slice(payload);
    packet(0x30, &body)
}

/// QoS 1, and the PUBACK that answers it.
pub fn publish_qos1(topic: &str, id: u16, payload: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let mut body = Vec::new();
    string(&mut body, topic);
    body.extend_from_slice(&id.to_be_bytes());
    body.extend_from_slice(payload);
    (packet(0x32, &body), packet(0x40, &id.to_be_bytes()))
}

fn packet(head: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![head];
    let mut left = body.len();
    loop {
        let byte = (left % 128) as u8;
        left /= 128;
        bytes.push(if left > 0 { byte | 0x80 } else { byte });
        if left == 0 {
            break;
        }
    }
    bytes.extend_from_slice(body);
    bytes
}

fn string(body: &mut Vec<u8>, text: &str) {
    body.extend_from_slice(&u16::try_from(text.len()).unwrap().to_be_bytes());
    body.extend_from_slice(text.as_bytes());
}

/// A folder of one test's own, removed with everything in it.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let name = format!("fieldgate-host-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
