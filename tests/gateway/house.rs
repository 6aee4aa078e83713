//! The host of these tests: clients made of bytes, a thermometer, lines, control clients, and a
//! clock that moves when told.

use std::collections::{BTreeMap, VecDeque};
use std::io::IoSlice;

use fieldgate::bridge::Credentials;
use fieldgate::field::bus::{BusError, BusOp, BusOutcome, BusReply};
use fieldgate::field::line::{Direction, LineCommand, LineEvent, LineRef};
use fieldgate::gateway::Gateway;
use fieldgate::gateway::boundary::{
    CloseCause, CloseHow, ControlEvent, Dialled, HostCounters, Input, Output, Peer, TimerKind,
};
use fieldgate::gateway::settings::Config;
use fieldgate::id::{BridgeId, ConnId, ControlId, LineId, ListenerId, RequestId};
use fieldgate::journal::disk::DiskCommand;
use fieldgate::mqtt::frame::{self, Frame};
use fieldgate::mqtt::{
    Ack, Connack, ConnackProperties, Connect, ConnectProperties, Disconnect, Packet, PacketId,
    ProtocolVersion, Publish, PublishProperties, QoS, ReasonCode, Subscribe, SubscribeProperties,
    SubscriptionOptions, SubscriptionRequest, SubscriptionRequests, TopicFilter, TopicFilters,
    TopicName, Unsubscribe, UnsubscribeProperties,
};
use fieldgate::slab::Key;
use fieldgate::time::{Duration, Instant, Now, WallTime};

use super::platter::Disk;

pub use ProtocolVersion::{V4, V5};
pub use QoS::{AtLeastOnce as Q1, AtMostOnce as Q0, ExactlyOnce as Q2};

/// A thermometer, and two outputs of one chip.
pub const SHED: &str = r#"
[gateway]
name = "shed"
[device.room]
driver = "lm75"
bus = "i2c.1"
address = 0x48
[device.relay]
driver = "gpio"
bus = "gpio.header"
[device.relay.point.lamp]
kind = "output"
line = 17
safe_state = false
[device.relay.point.fan]
kind = "output"
line = 27
safe_state = true
on_start = "keep"
"#;

pub const START: WallTime = WallTime::from_unix_millis(1_795_428_000_000);

/// A gateway and everything around it.
pub struct House {
    pub gateway: Gateway,
    pub now: Now,
    /// What the gateway has said since the last [`House::take_said`], in words: all but transfers
    /// and what goes to clients.
    said: Vec<String>,
    /// What happens next.
    inputs: VecDeque<Input>,
    listeners: BTreeMap<ListenerId, String>,
    clients: BTreeMap<ConnId, Client>,
    lines: BTreeMap<LineId, (u32, bool)>,
    edge_count: u32,
    loads: VecDeque<RequestId>,
    /// What is dialled, and for whom.
    dials: VecDeque<(BridgeId, String)>,
    next_conn: u32,
    /// In steps of 0.5 °C; `None`: it does not answer.
    pub half_degrees: Option<i16>,
    /// Transfers stay without an answer.
    pub holds_bus: bool,
    /// Lines that are set do not answer.
    pub holds_lines: bool,
    /// Connections that are to be closed stay.
    pub holds_closes: bool,
    /// Nothing can listen here.
    pub refused_bind: Option<&'static str>,
    /// The journal's, if there is one.
    pub disk: Disk,
    /// It does not answer.
    pub holds_disk: bool,
    /// It answers, but not that anything is written.
    pub holds_commits: bool,
    commits: VecDeque<DiskCommand>,
    host: HostCounters,
}

struct Client {
    version: ProtocolVersion,
    received: Vec<u8>,
    /// The last packet identifier that it has used.
    last_id: u16,
}

/// What a file says.
pub fn config(text: &str) -> Config {
    let source = fieldgate::config::Source {
        path: "shed.toml".into(),
        text: text.to_owned(),
    };
    let environment = fieldgate::config::Environment::default();
    fieldgate::config::parse(vec![source], &environment)
        .unwrap_or_else(|errors| panic!("{}", errors.render(false)))
        .meant
        .gateway
}

impl House {
    /// With the devices of [`SHED`], started and read once.
    pub fn new() -> Self {
        Self::with(SHED)
    }

    pub fn with(text: &str) -> Self {
        Self::built(text, |_| {})
    }

    /// As [`House::with`], with something arranged before the gateway is heard for the first time.
    pub fn built(text: &str, arrange: impl FnOnce(&mut Self)) -> Self {
        let now = Now {
            monotonic: Instant::from_nanos(1_000_000_000),
            wall: START,
        };
        let mut house = Self {
            gateway: Gateway::new(config(text), 7, now),
            now,
            said: Vec::new(),
            inputs: VecDeque::new(),
            listeners: BTreeMap::new(),
            clients: BTreeMap::new(),
            lines: BTreeMap::new(),
            edge_count: 0,
            loads: VecDeque::new(),
            dials: VecDeque::new(),
            next_conn: 0,
            half_degrees: Some(42),
            holds_bus: false,
            holds_lines: false,
            holds_closes: false,
            refused_bind: None,
            disk: Disk::new(3),
            holds_disk: false,
            holds_commits: false,
            commits: VecDeque::new(),
            host: HostCounters::default(),
        };
        arrange(&mut house);
        house.turn();
        // Every device has had its first turn.
        house.wait(Duration::from_secs(5));
        house
    }

    // ---- time and turns

    /// Moves time on, to each deadline in turn.
    pub fn wait(&mut self, duration: Duration) {
        let until = self.now.monotonic + duration;
        while let Some((at, kind)) = self.gateway.poll_timeout()
            && at <= until
        {
            self.advance_to(at);
            self.gateway.handle_timeout(self.now);
            self.turn();
            let next = self.gateway.poll_timeout();
            assert!(
                next.is_none_or(|(next, _)| next > self.now.monotonic),
                "{kind:?} was handled at {at:?}, and {next:?} is due again"
            );
        }
        self.advance_to(until);
    }

    fn advance_to(&mut self, at: Instant) {
        let passed = at.since(self.now.monotonic);
        self.now.monotonic = self.now.monotonic + passed;
        self.now.wall = self.now.wall.saturating_add(passed);
    }

    /// Turns until there is nothing more to do now.
    pub fn turn(&mut self) {
        loop {
            let mut busy = false;
            while !self.holds_commits
                && let Some(command) = self.commits.pop_front()
            {
                self.disk.submit(command);
            }
            while let Some(input) = self.inputs.pop_front() {
                busy = true;
                self.gateway.handle_input(self.now, input);
            }
            let due = self.gateway.poll_timeout();
            if due.is_some_and(|(at, _)| at <= self.now.monotonic) {
                self.gateway.handle_timeout(self.now);
            }
            *self.gateway.host_counters_mut() = self.host;
            self.gateway.end_turn(self.now);
            while let Some(output) = self.gateway.poll_output() {
                busy = true;
                self.output(output);
            }
            while !self.holds_disk
                && let Some(event) = self.disk.step()
            {
                busy = true;
                self.inputs.push_back(Input::Disk(event));
            }
            while let Some(conn) = self.gateway.poll_resumed() {
                self.inputs.push_back(Input::Received { conn, count: 0 });
            }
            while let Some(conn) = self.gateway.poll_writable() {
                busy |= self.write(conn);
            }
            let is_due = |(at, _): (Instant, TimerKind)| at <= self.now.monotonic;
            if !busy && !self.gateway.poll_timeout().is_some_and(is_due) {
                return;
            }
        }
    }

    /// Whose deadlines the gateway has, if it has any of its own.
    pub fn has_own_deadline(&self) -> bool {
        matches!(self.gateway.poll_timeout(), Some((_, TimerKind::Gateway)))
    }

    /// Whether nothing is left to do, not even what can do nothing.
    pub fn is_quiet(&self) -> bool {
        self.inputs.is_empty()
    }

    pub fn input(&mut self, input: Input) {
        self.inputs.push_back(input);
        self.turn();
    }

    /// The host has counted something.
    pub fn count(&mut self, change: impl FnOnce(&mut HostCounters)) {
        change(&mut self.host);
        self.turn();
    }

    fn output(&mut self, output: Output) {
        match output {
            Output::Listen { listener, bind, .. } => {
                let bind = bind.to_string();
                self.said.push(format!("listen {bind}"));
                let outcome = if self.refused_bind == Some(bind.as_str()) {
                    Err("address in use".into())
                } else {
                    Ok(bind.as_str().into())
                };
                self.listeners.insert(listener, bind);
                self.inputs
                    .push_back(Input::Listening { listener, outcome });
            }
            Output::Retune { listener, .. } => {
                let bind = &self.listeners[&listener];
                self.said.push(format!("retune {bind}"));
            }
            Output::Unlisten { listener } => {
                let bind = self.listeners.remove(&listener).expect("it was opened");
                self.said.push(format!("unlisten {bind}"));
            }
            Output::Close { conn, how } => {
                let how = match how {
                    CloseHow::AfterFlush { .. } => "after flush",
                    CloseHow::Now => "now",
                };
                self.said.push(format!("close {} {how}", conn.slot()));
                if !self.holds_closes {
                    self.write(conn);
                    self.inputs.push_back(Input::Closed {
                        conn,
                        cause: CloseCause::Ours,
                    });
                }
            }
            Output::Bus { request, op, .. } => {
                if !self.holds_bus {
                    let outcome = self.transfer(&op);
                    self.inputs.push_back(Input::Bus { request, outcome });
                }
            }
            Output::OpenBus { .. } => self.said.push("open bus".into()),
            Output::CloseBus { .. } => self.said.push("close bus".into()),
            Output::Line(command) => self.line(command),
            Output::Control { client, line } => {
                self.said.push(format!("to {}: {line}", client.slot()));
            }
            Output::Load { request } => {
                self.said.push("load".into());
                self.loads.push_back(request);
            }
            Output::Notice(notice) => self.said.push(format!("{notice:?}").to_lowercase()),
            Output::Dial { bridge, target } => {
                self.dials.push_back((bridge, target.endpoint.to_string()));
            }
            Output::Undial { .. } => self.said.push("undial".into()),
            Output::DeadLetter { bridge, line } => {
                self.said.push(format!("dead letter {bridge}: {line}"));
            }
            Output::Disk(command @ DiskCommand::Commit { .. }) if self.holds_commits => {
                self.commits.push_back(command);
            }
            Output::Disk(command) => self.disk.submit(command),
            Output::Port(_) | Output::Journal(_) | Output::Verify { .. } => {
                panic!("nobody asked for {output:?}")
            }
        }
    }

    /// An LM75 at 0x48, awake.
    fn transfer(&self, op: &BusOp) -> BusOutcome {
        let BusOp::I2c {
            address: 0x48,
            write,
            read,
        } = op
        else {
            return Err(BusError::NoAnswer);
        };
        let half_degrees = self.half_degrees.ok_or(BusError::NoAnswer)?;
        let temperature = (half_degrees << 7).to_be_bytes();
        let register: &[u8] = match write.first() {
            Some(0) => &temperature,
            _ => &[0, 0],
        };
        let bytes = register.iter().copied().take(usize::from(*read));
        Ok(BusReply::Bytes(bytes.collect()))
    }

    fn line(&mut self, command: LineCommand) {
        match command {
            LineCommand::Request { line, settings } => {
                let LineRef::Offset(offset) = settings.line else {
                    panic!("lines are configured by offset here")
                };
                let Direction::Output { initial, .. } = settings.direction else {
                    // An input, whose edges a test makes, and the kernel counts from here.
                    self.edge_count = 0;
                    self.lines.insert(line, (offset, false));
                    let event = LineEvent::Ready { active: false };
                    self.inputs.push_back(Input::Line { line, event });
                    return;
                };
                self.said.push(format!("request {offset} {initial:?}"));
                // A line that is left as it is was active when we came.
                let active = initial.unwrap_or(true);
                self.lines.insert(line, (offset, active));
                let event = LineEvent::Ready { active };
                self.inputs.push_back(Input::Line { line, event });
            }
            LineCommand::Set {
                line,
                request,
                active,
            } => {
                let (offset, level) = self.lines.get_mut(&line).expect("it was requested");
                *level = active;
                self.said.push(format!("set {offset} {active}"));
                if !self.holds_lines {
                    let outcome = Ok(active);
                    let event = LineEvent::Set { request, outcome };
                    self.inputs.push_back(Input::Line { line, event });
                }
            }
            LineCommand::Read { line } => {
                let (_, active) = self.lines[&line];
                let event = LineEvent::Level { active };
                self.inputs.push_back(Input::Line { line, event });
            }
            LineCommand::Release { line } => {
                let (offset, _) = self.lines.remove(&line).expect("it was requested");
                self.said.push(format!("release {offset}"));
            }
        }
    }

    /// So many edges of an input.
    pub fn edges(&mut self, offset: u32, count: u32) {
        let found = self.lines.iter().find(|(_, (known, _))| *known == offset);
        let line = *found.expect("somebody listens to it").0;
        for _ in 0..count {
            self.edge_count += 1;
            let event = LineEvent::Edge {
                at: self.now.monotonic,
                active: true,
                line_seqno: self.edge_count,
            };
            self.input(Input::Line { line, event });
        }
    }

    /// Whether the gateway has asked for a line.
    pub fn has_lines(&self) -> bool {
        !self.lines.is_empty()
    }

    /// What the gateway has said since the last time.
    pub fn take_said(&mut self) -> Vec<String> {
        std::mem::take(&mut self.said)
    }

    /// The level of each line that is ours.
    pub fn levels(&self) -> BTreeMap<u32, bool> {
        self.lines.values().copied().collect()
    }

    /// The power goes and comes back: what is not on the disk is lost.
    pub fn cut_power(&mut self, text: &str) {
        self.disk.crash();
        self.commits.clear();
        self.inputs.clear();
        self.listeners.clear();
        self.clients.clear();
        self.dials.clear();
        self.lines.clear();
        self.edge_count = 0;
        self.gateway = Gateway::new(config(text), 8, self.now);
        self.turn();
    }

    // ---- reload and control

    /// A signal asks for this configuration.
    pub fn reload(&mut self, text: &str) {
        let outcome = Ok(Box::new(config(text)));
        self.input(Input::Loaded {
            request: None,
            outcome,
        });
    }

    /// The oldest [`Output::Load`] is answered.
    pub fn loaded(&mut self, outcome: Result<&str, &str>) {
        let request = self.loads.pop_front().expect("somebody asked");
        self.input(Input::Loaded {
            request: Some(request),
            outcome: outcome
                .map(|text| Box::new(config(text)))
                .map_err(Into::into),
        });
    }

    /// A line comes from a control client.
    pub fn ask(&mut self, client: u32, line: &str) {
        self.ask_bytes(client, line.as_bytes());
    }

    pub fn ask_bytes(&mut self, client: u32, line: &[u8]) {
        self.control(client, ControlEvent::Line(line.into()));
    }

    pub fn control(&mut self, client: u32, event: ControlEvent) {
        let client = ControlId::from_parts(client, 0);
        self.input(Input::Control { client, event });
    }

    /// What control clients have been told since the last time, as `(client, answer)`; what else
    /// was said is dropped.
    pub fn take_answers(&mut self) -> Vec<(u32, serde_json::Value)> {
        let answer = |said: &String| {
            let (client, line) = said.strip_prefix("to ")?.split_once(": ")?;
            let json = serde_json::from_str(line).expect("an answer is JSON");
            Some((client.parse().expect("a number"), json))
        };
        self.take_said().iter().filter_map(answer).collect()
    }

    /// Asks, and takes the one answer that comes at once.
    pub fn answer(&mut self, line: &str) -> serde_json::Value {
        self.take_said();
        self.ask(0, line);
        let mut answers = self.take_answers();
        assert_eq!(answers.len(), 1, "{line}: {answers:?}");
        answers.remove(0).1
    }

    // ---- upstream brokers

    /// What is being dialled.
    pub fn dialled(&self) -> Vec<&str> {
        self.dials.iter().map(|(_, url)| &**url).collect()
    }

    /// The oldest dial succeeds. The other end speaks as a client does here.
    pub fn open_dialled(&mut self) -> ConnId {
        self.open_dialled_as(V5)
    }

    /// The same, in this version.
    pub fn open_dialled_as(&mut self, version: ProtocolVersion) -> ConnId {
        let (bridge, _) = self.dials.pop_front().expect("somebody dials");
        let conn = self.other_end(version);
        let credentials = Credentials::default();
        let outcome = Ok(Dialled { conn, credentials });
        self.input(Input::Dialled { bridge, outcome });
        conn
    }

    /// The oldest dial succeeds, and the bridge is let in: what it has to send it has sent.
    pub fn let_bridge_in(&mut self, version: ProtocolVersion) -> ConnId {
        let (conn, _) = self.welcome_bridge(version, false);
        conn
    }

    /// The same, with the session that the peer has kept if it is `session_present`; and whether
    /// the bridge had asked for a clean one.
    pub fn welcome_bridge(
        &mut self,
        version: ProtocolVersion,
        session_present: bool,
    ) -> (ConnId, bool) {
        let conn = self.open_dialled_as(version);
        let said = self.read_all(conn);
        assert!(said[0].starts_with("Connect("), "{said:?}");
        let is_clean = said[0].contains("clean_start: true");
        let connack = Packet::Connack(Connack {
            session_present,
            reason: ReasonCode::Success,
            properties: ConnackProperties::default(),
        });
        self.send(conn, &connack);
        (conn, is_clean)
    }

    /// Whoever is at the other end of a connection that is about to be opened.
    fn other_end(&mut self, version: ProtocolVersion) -> ConnId {
        let conn = ConnId::from_parts(self.next_conn, 0);
        self.next_conn += 1;
        let client = Client {
            version,
            received: Vec::new(),
            last_id: 0,
        };
        self.clients.insert(conn, client);
        conn
    }

    /// The oldest dial fails.
    pub fn fail_dialled(&mut self, why: &str) {
        let (bridge, _) = self.dials.pop_front().expect("somebody dials");
        let outcome = Err(why.into());
        self.input(Input::Dialled { bridge, outcome });
    }

    // ---- clients

    /// A connected client that leaves nothing behind.
    pub fn client(&mut self, version: ProtocolVersion, id: &str) -> ConnId {
        let conn = self.dial(version, id);
        assert_eq!(self.read_all(conn), ["CONNACK Success"]);
        conn
    }

    /// A client that has sent CONNECT.
    pub fn dial(&mut self, version: ProtocolVersion, id: &str) -> ConnId {
        self.dial_with(&Connect {
            version,
            clean_start: true,
            keep_alive: 0,
            client_id: id,
            will: None,
            username: None,
            password: None,
            properties: ConnectProperties::default(),
        })
    }

    /// The same, with a CONNECT of its own.
    pub fn dial_with(&mut self, connect: &Connect<'_>) -> ConnId {
        let conn = self.other_end(connect.version);
        let listener = *self.listeners.keys().next().expect("somebody listens");
        let peer = Peer::Unix { uid: 0, pid: 0 };
        self.input(Input::Accepted {
            conn,
            listener,
            peer,
        });
        self.send(conn, &Packet::Connect(*connect));
        conn
    }

    pub fn send(&mut self, conn: ConnId, packet: &Packet<'_>) {
        let mut bytes = Vec::new();
        packet.encode_into(self.clients[&conn].version, &mut bytes);
        self.offer(conn, &mut bytes);
        assert!(bytes.is_empty(), "it is read");
    }

    /// As much of it as is read.
    pub fn offer(&mut self, conn: ConnId, bytes: &mut Vec<u8>) {
        while !bytes.is_empty()
            && let Some(buffer) = self.gateway.recv_buffer(conn)
        {
            let spare = buffer.spare();
            let count = spare.len().min(bytes.len());
            spare[..count].copy_from_slice(&bytes[..count]);
            bytes.drain(..count);
            self.input(Input::Received { conn, count });
        }
    }

    /// Several packets in one read.
    pub fn send_together(&mut self, conn: ConnId, packets: &[Packet<'_>]) {
        self.take_in(conn, packets);
        self.turn();
    }

    /// The same in the middle of a turn, which does not end here.
    pub fn take_in(&mut self, conn: ConnId, packets: &[Packet<'_>]) {
        let mut bytes = Vec::new();
        for packet in packets {
            packet.encode_into(self.clients[&conn].version, &mut bytes);
        }
        let spare = self.gateway.recv_buffer(conn).expect("it is read").spare();
        spare[..bytes.len()].copy_from_slice(&bytes);
        let count = bytes.len();
        self.gateway
            .handle_input(self.now, Input::Received { conn, count });
    }

    /// The disk does one commit in the middle of a turn, and is told at once what to do next.
    pub fn commit_one(&mut self) {
        let before = self.disk.commits;
        while self.disk.commits == before {
            let event = self.disk.step().expect("there is something to commit");
            self.gateway.handle_input(self.now, Input::Disk(event));
            while let Some(command) = self.gateway.poll_disk() {
                self.disk.submit(command);
            }
        }
    }

    fn write(&mut self, conn: ConnId) -> bool {
        let Some(queue) = self.gateway.fill(self.now, conn, 64 * 1024) else {
            return false;
        };
        let Some(client) = self.clients.get_mut(&conn) else {
            return false;
        };
        let wrote = !queue.is_empty();
        while !queue.is_empty() {
            let mut slices = [IoSlice::new(&[]); 8];
            let count = queue.gather(&mut slices, usize::MAX);
            let bytes: usize = slices[..count].iter().map(|slice| slice.len()).sum();
            for slice in &slices[..count] {
                client.received.extend_from_slice(slice);
            }
            queue.consume(bytes);
        }
        if queue.has_more() {
            return self.write(conn) || wrote;
        }
        wrote
    }

    /// Everything that the client has got since the last time, in words.
    pub fn read_all(&mut self, conn: ConnId) -> Vec<String> {
        self.read_as(conn, describe)
    }

    /// The same, with packet identifiers and DUP.
    pub fn read_exactly(&mut self, conn: ConnId) -> Vec<String> {
        self.read_as(conn, |packet| match packet {
            Packet::Publish(publish) => {
                let id = publish.packet_id.map_or(0, PacketId::value);
                let dup = if publish.dup { " again" } else { "" };
                let payload = String::from_utf8_lossy(publish.payload);
                format!("PUBLISH {id}{dup} {} = {payload}", publish.topic)
            }
            Packet::Pubrec(ack) => format!("PUBREC {}", ack.packet_id.value()),
            Packet::Pubrel(ack) => format!("PUBREL {}", ack.packet_id.value()),
            Packet::Pubcomp(ack) => format!("PUBCOMP {}", ack.packet_id.value()),
            Packet::Subscribe(_) => "SUBSCRIBE".into(),
            other => describe(other),
        })
    }

    fn read_as(&mut self, conn: ConnId, describe: impl Fn(&Packet<'_>) -> String) -> Vec<String> {
        let client = self.clients.get_mut(&conn).expect("it was made");
        let bytes = std::mem::take(&mut client.received);
        let mut rest = &bytes[..];
        let mut all = Vec::new();
        while let Frame::Complete { total_len, .. } = frame::peek(rest, u32::MAX).unwrap() {
            let packet = Packet::parse(client.version, &rest[..total_len]).unwrap();
            all.push(describe(&packet));
            rest = &rest[total_len..];
        }
        assert!(rest.is_empty(), "half a packet was sent");
        all
    }

    /// The publications among them, as `topic payload`.
    pub fn read_values(&mut self, conn: ConnId) -> Vec<String> {
        let all = self.read_all(conn).into_iter();
        all.filter_map(|packet| packet.strip_prefix("PUBLISH ").map(str::to_owned))
            .collect()
    }

    /// A client that has subscribed at QoS 0, and has read what was retained.
    pub fn listener(&mut self, id: &str, filter: &str) -> ConnId {
        let conn = self.client(V5, id);
        self.subscribe(conn, filter);
        self.read_all(conn);
        conn
    }

    /// At QoS 0: nothing has to be acknowledged.
    pub fn subscribe(&mut self, conn: ConnId, filter: &str) {
        self.subscribe_at(conn, filter, Q0);
    }

    pub fn subscribe_at(&mut self, conn: ConnId, filter: &str, qos: QoS) {
        let packet_id = self.next_id(conn);
        let requests = [SubscriptionRequest {
            filter: TopicFilter::new(filter).unwrap(),
            options: SubscriptionOptions::new(qos),
        }];
        let subscribe = Subscribe {
            packet_id,
            properties: SubscribeProperties::default(),
            requests: SubscriptionRequests::from_slice(&requests),
        };
        self.send(conn, &Packet::Subscribe(subscribe));
    }

    pub fn unsubscribe(&mut self, conn: ConnId, filter: &str) {
        let packet_id = self.next_id(conn);
        let filters = [TopicFilter::new(filter).unwrap()];
        let unsubscribe = Unsubscribe {
            packet_id,
            properties: UnsubscribeProperties::default(),
            filters: TopicFilters::from_slice(&filters),
        };
        self.send(conn, &Packet::Unsubscribe(unsubscribe));
    }

    pub fn publish(&mut self, conn: ConnId, qos: QoS, topic: &str, payload: &str) {
        self.publish_with(conn, qos, topic, payload, |_| {});
    }

    pub fn publish_with(
        &mut self,
        conn: ConnId,
        qos: QoS,
        topic: &str,
        payload: &str,
        change: impl FnOnce(&mut Publish<'_>),
    ) {
        let packet_id = (qos > Q0).then(|| self.next_id(conn));
        let mut publish = Publish {
            dup: false,
            qos,
            retain: false,
            topic,
            packet_id,
            properties: PublishProperties::default(),
            payload: payload.as_bytes(),
        };
        change(&mut publish);
        self.send(conn, &Packet::Publish(publish));
    }

    pub fn pubrel(&mut self, conn: ConnId, number: u16) {
        let packet_id = PacketId::new(number).unwrap();
        self.send(conn, &Packet::Pubrel(Ack::success(packet_id)));
    }

    fn next_id(&mut self, conn: ConnId) -> PacketId {
        let client = self.clients.get_mut(&conn).expect("it was made");
        client.last_id += 1;
        PacketId::new(client.last_id).unwrap()
    }

    /// What a new subscriber finds, by topic.
    pub fn retained(&mut self, filter: &str) -> BTreeMap<String, String> {
        let conn = self.client(V5, "looker");
        self.subscribe(conn, filter);
        let found = self.read_values(conn).into_iter().map(|line| {
            let (topic, payload) = line.split_once(" = ").expect("a publication");
            let payload = payload
                .strip_prefix("(retained) ")
                .expect("it was retained");
            (topic.to_owned(), payload.to_owned())
        });
        let found = found.collect();
        self.input(Input::Closed {
            conn,
            cause: CloseCause::Peer,
        });
        found
    }
}

/// With a Response Topic and Correlation Data.
pub fn asks_for(publish: &mut Publish<'_>, topic: &'static str) {
    publish.properties.response_topic = Some(TopicName::new(topic).unwrap());
    publish.properties.correlation_data = Some(b"42");
}

fn describe(packet: &Packet<'_>) -> String {
    match packet {
        Packet::Connack(connack) => format!("CONNACK {}", connack.reason.name()),
        Packet::Disconnect(Disconnect { reason, properties })
            if properties.server_reference.is_some() =>
        {
            let server = properties.server_reference.unwrap_or_default();
            format!("DISCONNECT {} {server}", reason.name())
        }
        Packet::Publish(publish) => {
            let retained = if publish.retain { "(retained) " } else { "" };
            let correlation = match publish.properties.correlation_data {
                Some(data) => format!(" #{}", String::from_utf8_lossy(data)),
                None => String::new(),
            };
            let payload = String::from_utf8_lossy(publish.payload);
            format!(
                "PUBLISH {} = {retained}{payload}{correlation}",
                publish.topic
            )
        }
        Packet::Puback(ack) => format!("PUBACK {:#04x}", ack.reason.code()),
        Packet::Pubrec(ack) => format!("PUBREC {:#04x}", ack.reason.code()),
        Packet::Pubcomp(ack) => format!("PUBCOMP {:#04x}", ack.reason.code()),
        Packet::Suback(_) => "SUBACK".into(),
        Packet::Unsuback(_) => "UNSUBACK".into(),
        Packet::Disconnect(disconnect) => format!("DISCONNECT {:#04x}", disconnect.reason.code()),
        other => format!("{other:?}"),
    }
}
