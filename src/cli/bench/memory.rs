//! `bench memory`: what an idle connection, a retained or queued message and a subscription keep
//! resident.
//!
//! This broker is started afresh for each of them. Its resident memory is looked at before and
//! after so many have been made, and so is its own account (`$SYS/broker/heap/current`): what the
//! account does not know, the memory budget cannot limit.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::broker::{Broker, Folder, free_port};
use super::process::Process;
use crate::cli::{Failure, code, output};
use crate::mqtt::frame::{self, Frame, PACKET_SIZE_MAX};
use crate::mqtt::{
    Ack, Connect, ConnectProperties, Packet, PacketId, ProtocolVersion, Publish, PublishProperties,
    QoS, Subscribe, SubscribeProperties, SubscriptionOptions, SubscriptionRequest,
    SubscriptionRequests, TopicFilter,
};
use crate::time::Duration;

/// How long a broker may take until it accepts connections, and a client until it is answered.
const PATIENCE: Duration = Duration::from_secs(30);

/// Made before the first look, so that what is there once is not counted.
const WARM: usize = 100;

/// Bytes of a message.
const PAYLOAD: usize = 64;

/// Messages or filters that are sent before their answers are read.
const BATCH: usize = 500;

/// Filters of one client.
const FILTERS: usize = 500;

/// Things that are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Connections,
    Retained,
    Queued,
    Subscriptions,
}

/// What they have taken.
#[derive(Debug)]
struct Outcome {
    kind: Kind,
    count: usize,
    /// Bytes of each that are the user's own: topic and payload.
    own: usize,
    /// Bytes that the process has grown by.
    resident: u64,
    /// Bytes that its account has.
    accounted: u64,
}

pub(super) fn run(connections: usize, messages: usize, as_json: bool) -> Result<u8, Failure> {
    let own = std::env::current_exe()
        .map_err(|error| Failure::failed("cannot find this program's file").because(error))?;
    let mut rows = vec![
        ["", "count", "bytes each", "beyond its own", "accounted"]
            .map(str::to_owned)
            .to_vec(),
    ];
    let mut results = Vec::new();
    for (kind, count) in [
        (Kind::Connections, connections),
        (Kind::Retained, messages),
        (Kind::Queued, messages),
        (Kind::Subscriptions, messages),
    ] {
        let outcome = measure(&own, kind, count)
            .map_err(|error| Failure::failed("cannot measure").because(error))?;
        rows.push(outcome.row());
        results.push(outcome.json());
    }
    if as_json {
        output::print_json(&Value::Array(results))?;
    } else {
        output::print(&format!("{}\n", output::columns(&rows, "  ")))?;
    }
    Ok(code::DONE)
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Connections => "idle connection",
            Self::Retained => "retained message",
            Self::Queued => "queued message",
            Self::Subscriptions => "subscription",
        }
    }
}

impl Outcome {
    fn each(&self, bytes: u64) -> f64 {
        bytes as f64 / self.count as f64
    }

    fn beyond(&self) -> f64 {
        self.each(self.resident) - self.own as f64
    }

    fn row(&self) -> Vec<String> {
        vec![
            self.kind.name().to_owned(),
            self.count.to_string(),
            format!("{:.0}", self.each(self.resident)),
            format!("{:.0}", self.beyond()),
            format!("{:.0}", self.each(self.accounted)),
        ]
    }

    fn json(&self) -> Value {
        json!({
            "kind": self.kind.name(),
            "count": self.count,
            "bytes_each": self.each(self.resident),
            "bytes_beyond_its_own": self.beyond(),
            "bytes_accounted": self.each(self.accounted),
        })
    }
}

fn measure(program: &Path, kind: Kind, count: usize) -> io::Result<Outcome> {
    let folder = Folder::new()?;
    let broker = start(program, &folder, count)?;
    let mut kept = Vec::new();
    let mut own = make(kind, &broker, "warm", 0..WARM, &mut kept)?;
    let before = look(&broker)?;
    if count > 0 {
        own = make(kind, &broker, "made", WARM..WARM + count, &mut kept)?;
    }
    let after = look(&broker)?;
    Ok(Outcome {
        kind,
        count,
        own,
        resident: after.0.saturating_sub(before.0),
        accounted: after.1.saturating_sub(before.1),
    })
}

/// Makes so many of them; the connections that they need stay in `kept`. Bytes of each that are the
/// user's own.
fn make(
    kind: Kind,
    broker: &Broker,
    part: &str,
    range: core::ops::Range<usize>,
    kept: &mut Vec<Client>,
) -> io::Result<usize> {
    let retained = |number: usize| format!("memory/retained/{number:07}");
    let queued = "memory/queued/value";
    match kind {
        Kind::Connections => {
            for number in range {
                let id = format!("idle-{number:07}");
                kept.push(Client::connect(broker.address, &id, true)?);
            }
            Ok(0)
        }
        Kind::Retained => {
            let mut client = Client::connect(broker.address, "publisher", true)?;
            let numbers: Vec<usize> = range.collect();
            for batch in numbers.chunks(BATCH) {
                let topics: Vec<String> = batch.iter().map(|number| retained(*number)).collect();
                client.publish(topics.iter().map(String::as_str), true)?;
            }
            Ok(retained(0).len() + PAYLOAD)
        }
        Kind::Queued => {
            let mut absent = Client::connect(broker.address, "absent", false)?;
            absent.subscribe(&["memory/queued/#".to_owned()])?;
            drop(absent);
            let mut client = Client::connect(broker.address, "publisher", true)?;
            let mut left = range.len();
            while left > 0 {
                let batch = left.min(BATCH);
                client.publish(core::iter::repeat_n(queued, batch), false)?;
                left -= batch;
            }
            Ok(queued.len() + PAYLOAD)
        }
        Kind::Subscriptions => {
            let numbers: Vec<usize> = range.collect();
            for (client, batch) in numbers.chunks(FILTERS).enumerate() {
                let id = format!("subscriber-{part}-{client:05}");
                let mut client = Client::connect(broker.address, &id, true)?;
                let filters = batch
                    .iter()
                    .map(|number| format!("memory/{number:07}/value"));
                client.subscribe(&filters.collect::<Vec<_>>())?;
                kept.push(client);
            }
            Ok(0)
        }
    }
}

fn start(program: &Path, folder: &Folder, count: usize) -> io::Result<Broker> {
    let address = free_port()?;
    let (room, sessions) = (count + 2 * WARM, (count + 2 * WARM).min(100_000));
    let configuration = format!(
        "[gateway]\nname = \"bench\"\n[broker]\nmax_connections = {sessions}\n\
         max_sessions = {sessions}\nmemory = \"2GiB\"\nqueues = \"2GiB\"\n\
         queue = {{ messages = {room}, bytes = \"1GiB\" }}\n\
         retained = {{ messages = {room}, bytes = \"1GiB\" }}\n\
         [listener.bench]\nbind = \"{address}\"\n[control]\nsocket = \"{}\"\n",
        folder.path().join("control.sock").display()
    );
    let file = folder.written("fieldgate.toml", &configuration)?;
    let mut command = Command::new(program);
    Broker::start(
        command.args(["run", "-q", "--config"]).arg(&file),
        address,
        PATIENCE,
    )
}

/// Resident memory, and what its account says.
fn look(broker: &Broker) -> io::Result<(u64, u64)> {
    let mut client = Client::connect(broker.address, "look", true)?;
    client.subscribe(&["$SYS/broker/heap/current".to_owned()])?;
    let accounted = client.await_packet(|packet| match packet {
        Packet::Publish(publish) => core::str::from_utf8(publish.payload).ok()?.parse().ok(),
        _ => None,
    })?;
    let memory = broker.process().and_then(Process::memory);
    let (resident, _) = memory.ok_or_else(|| io::Error::other("its memory is not told"))?;
    Ok((resident, accounted))
}

const VERSION: ProtocolVersion = ProtocolVersion::V4;

/// A client that waits for its answers.
struct Client {
    stream: TcpStream,
    /// What has come and was not looked at.
    got: Vec<u8>,
}

impl Client {
    fn connect(address: SocketAddr, id: &str, clean_start: bool) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut client = Self {
            stream,
            got: Vec::new(),
        };
        client.send(&[Packet::Connect(Connect {
            version: VERSION,
            clean_start,
            keep_alive: 0,
            properties: ConnectProperties::default(),
            client_id: id,
            will: None,
            username: None,
            password: None,
        })])?;
        client.await_packet(|packet| match packet {
            Packet::Connack(connack) => Some(connack.reason),
            _ => None,
        })?;
        Ok(client)
    }

    fn subscribe(&mut self, filters: &[String]) -> io::Result<()> {
        let requests: Result<Vec<_>, _> = filters
            .iter()
            .map(|filter| {
                Ok(SubscriptionRequest {
                    filter: TopicFilter::new(filter)?,
                    options: SubscriptionOptions::new(QoS::AtLeastOnce),
                })
            })
            .collect();
        let requests =
            requests.map_err(|error: crate::mqtt::TopicError| io::Error::other(error))?;
        self.send(&[Packet::Subscribe(Subscribe {
            packet_id: PacketId::FIRST,
            properties: SubscribeProperties::default(),
            requests: SubscriptionRequests::from_slice(&requests),
        })])?;
        self.await_packet(|packet| matches!(packet, Packet::Suback(_)).then_some(()))
    }

    /// Publishes at QoS 1, and waits for every acknowledgement.
    fn publish<'t>(
        &mut self,
        topics: impl Iterator<Item = &'t str>,
        retain: bool,
    ) -> io::Result<()> {
        let payload = [b'x'; PAYLOAD];
        let packets: Vec<_> = topics
            .map(|topic| {
                Packet::Publish(Publish {
                    dup: false,
                    qos: QoS::AtLeastOnce,
                    retain,
                    topic,
                    packet_id: Some(PacketId::FIRST),
                    properties: PublishProperties::default(),
                    payload: &payload,
                })
            })
            .collect();
        self.send(&packets)?;
        for _ in &packets {
            self.await_packet(|packet| matches!(packet, Packet::Puback(Ack { .. })).then_some(()))?;
        }
        Ok(())
    }

    fn send(&mut self, packets: &[Packet<'_>]) -> io::Result<()> {
        let mut bytes = Vec::new();
        for packet in packets {
            packet.encode_into(VERSION, &mut bytes);
        }
        self.stream.write_all(&bytes)
    }

    /// Waits for a packet that `look` knows; others are passed over.
    fn await_packet<T>(&mut self, look: impl Fn(&Packet<'_>) -> Option<T>) -> io::Result<T> {
        loop {
            while let Ok(Frame::Complete { total_len, .. }) =
                frame::peek(&self.got, PACKET_SIZE_MAX)
            {
                let packet = Packet::parse(VERSION, &self.got[..total_len]);
                let found = packet.ok().and_then(|packet| look(&packet));
                self.got.drain(..total_len);
                if let Some(found) = found {
                    if self.got.is_empty() {
                        self.got = Vec::new();
                    }
                    return Ok(found);
                }
            }
            let mut part = [0; 4096];
            match self.stream.read(&mut part)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => self.got.extend_from_slice(&part[..count]),
            }
        }
    }
}
