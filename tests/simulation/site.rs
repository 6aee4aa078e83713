//! A gateway on a disk that loses its power, its clients, and the network between them: what the
//! worlds of [`power`](super::power) and [`uplink`](super::uplink) have in common.

use std::collections::{BTreeSet, VecDeque};
use std::io::IoSlice;

use fieldgate::gateway::Gateway;
use fieldgate::gateway::boundary::{CloseCause, Input, JournalCommand, JournalEvent, Output, Peer};
use fieldgate::gateway::settings::Config;
use fieldgate::id::{ConnId, ListenerId};
use fieldgate::rng::Rng;
use fieldgate::slab::GenSlab;
use fieldgate::time::{Duration, Instant, Now, WallTime};

use super::disk::Disk;
use super::people::{Client, Role};

/// Who is at the other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Client(usize),
    /// Somebody whom the gateway has dialled: their world's affair.
    Dialled(usize),
}

pub struct Site {
    pub rng: Rng,
    pub now: Instant,
    pub wall: WallTime,
    pub gateway: Gateway,
    pub disk: Disk,
    /// In force, and after the next crash too.
    pub config: String,
    listener: Option<ListenerId>,
    pub conns: GenSlab<ConnId, End>,
    pub clients: Vec<Client>,
    /// Things go wrong.
    pub trouble: bool,
    /// A client that may publish does so once in so many turns.
    pub pace: u64,
    /// What the gateway has asked of its world.
    pub outputs: VecDeque<Output>,
    /// What the gateway has said to those whom it has dialled.
    pub said: Vec<(ConnId, Vec<u8>)>,
    pub cuts: u64,
    pub crashes: u64,
    pub unkept: u64,
}

impl Site {
    pub fn new(mut rng: Rng, config: String, clients: Vec<Client>) -> Self {
        let disk = Disk::new(rng.next_u64());
        let now = Instant::from_nanos(1_000_000_000);
        let wall = WallTime::EARLIEST_PLAUSIBLE;
        let gateway = open(&mut rng, &config, now, wall);
        Self {
            rng,
            now,
            wall,
            gateway,
            disk,
            config,
            listener: None,
            conns: GenSlab::new(),
            clients,
            trouble: true,
            pace: 6,
            outputs: VecDeque::new(),
            said: Vec::new(),
            cuts: 0,
            crashes: 0,
            unkept: 0,
        }
    }

    pub fn at(&self) -> Now {
        Now {
            monotonic: self.now,
            wall: self.wall,
        }
    }

    pub fn input(&mut self, input: Input) {
        self.gateway.handle_input(self.at(), input);
        self.drain();
    }

    pub fn advance(&mut self, step: Duration) {
        self.now = self.now + step;
        self.wall = self.wall.saturating_add(step);
    }

    pub fn turn(&mut self) {
        let step = Duration::from_micros(self.rng.below(8_000));
        self.advance(step);
        let now = self.at();
        self.hear_disk(self.now);
        for index in 0..self.clients.len() {
            self.serve(index);
            self.hear_disk_meanwhile();
        }
        if self
            .gateway
            .poll_timeout()
            .is_some_and(|(at, _)| at <= self.now)
        {
            self.gateway.handle_timeout(now);
        }
        self.gateway.end_turn(now);
        self.drain();
        while let Some(conn) = self.gateway.poll_resumed() {
            self.gateway
                .handle_input(now, Input::Received { conn, count: 0 });
        }
        self.drain();
        self.write_out();
        self.drain();
    }

    /// What the disk has done by `until` is heard, and what it is to do next is handed over at
    /// once, though the turn goes on.
    fn hear_disk(&mut self, until: Instant) {
        let now = self.at();
        while let Some(event) = self.disk.poll_event(until) {
            self.gateway.handle_input(now, Input::Disk(event));
            while let Some(command) = self.gateway.poll_disk() {
                self.disk.submit(self.now, command);
            }
        }
    }

    /// A turn takes time, though its `now` stands still: the disk may be done with something while
    /// clients are read.
    fn hear_disk_meanwhile(&mut self) {
        if self.rng.chance(1, 8) {
            let meanwhile = Duration::from_micros(self.rng.below(4_000));
            self.hear_disk(self.now + meanwhile);
        }
    }

    /// The connection of a client breaks: what was on its way either way is lost.
    pub fn cut(&mut self, index: usize) {
        if let Some(conn) = self.clients[index].forget_connection() {
            self.cuts += 1;
            self.cut_conn(conn);
        }
    }

    pub fn cut_conn(&mut self, conn: ConnId) {
        if self.conns.remove(conn).is_some() {
            let cause = CloseCause::Peer;
            self.input(Input::Closed { conn, cause });
        }
    }

    /// The power goes, and comes back.
    pub fn crash(&mut self) {
        self.crashes += 1;
        log::info!("crash at {:?}", self.now);
        self.unkept += self.gateway.broker().stats().unkept;
        self.disk.crash();
        for client in &mut self.clients {
            client.forget_connection();
        }
        for conn in self.conns.keys() {
            self.conns.remove(conn);
        }
        self.outputs.clear();
        self.said.clear();
        self.listener = None;
        let off = Duration::from_millis(self.rng.below(5_000));
        self.advance(off);
        self.gateway = open(&mut self.rng, &self.config, self.now, self.wall);
    }

    pub fn reload(&mut self, config: String) {
        let outcome = Ok(Box::new(parse(&config)));
        self.config = config;
        self.input(Input::Loaded {
            request: None,
            outcome,
        });
    }

    pub fn drain(&mut self) {
        while let Some(output) = self.gateway.poll_output() {
            let now = self.at();
            match output {
                Output::Listen { listener, .. } => {
                    self.listener = Some(listener);
                    let outcome = Ok("127.0.0.1:1883".into());
                    self.gateway
                        .handle_input(now, Input::Listening { listener, outcome });
                }
                Output::Disk(command) => self.disk.submit(self.now, command),
                Output::Close { conn, how } => match self.conns.get(conn).copied() {
                    // What is queued is lost, which it may be.
                    Some(End::Client(index)) => {
                        self.clients[index].forget_connection();
                        self.closed(conn);
                    }
                    Some(End::Dialled(_)) => self.outputs.push_back(Output::Close { conn, how }),
                    None => {}
                },
                Output::Journal(JournalCommand::Fetch { message }) => {
                    let payload = None;
                    let event = JournalEvent::Fetched { message, payload };
                    self.gateway.handle_input(now, Input::Journal(event));
                }
                output => self.outputs.push_back(output),
            }
        }
    }

    /// A connection is closed as the gateway wanted.
    pub fn closed(&mut self, conn: ConnId) {
        if self.conns.remove(conn).is_some() {
            let cause = CloseCause::Ours;
            self.gateway
                .handle_input(self.at(), Input::Closed { conn, cause });
        }
    }

    /// A client dials, says what it has to, and some of its bytes arrive.
    fn serve(&mut self, index: usize) {
        let now = self.at();
        let Some(listener) = self.listener else {
            return;
        };
        let client = &mut self.clients[index];
        client.clock = self.now;
        if client.conn.is_none() {
            if self.trouble && !self.rng.chance(1, 20) {
                return;
            }
            let conn = self.conns.insert(End::Client(index));
            client.connect(conn);
            let peer = Peer::Tcp("127.0.0.1:40000".parse().expect("an address"));
            self.gateway.handle_input(
                now,
                Input::Accepted {
                    conn,
                    listener,
                    peer,
                },
            );
        }
        // Nobody publishes before all are there to hear it.
        let are_there = self.clients.iter().all(|client| match &client.role {
            Role::Taker(taker) => taker.is_subscribed || taker.is_late,
            Role::Sender(_) => true,
        });
        let client = &mut self.clients[index];
        if client.is_welcome
            && are_there
            && let Role::Sender(sender) = &mut client.role
            && (!self.trouble || self.rng.chance(1, self.pace))
        {
            sender.publish(client.version, &mut client.unsent);
        }
        let Some(conn) = client.conn else {
            return;
        };
        let some = if self.trouble {
            self.rng.below(300) as usize
        } else {
            usize::MAX
        };
        let client = &mut self.clients[index];
        deliver(&mut self.gateway, now, conn, &mut client.unsent, some);
        self.drain();
    }

    /// Some of the bytes that somebody has said arrive.
    pub fn receive(&mut self, conn: ConnId, bytes: &mut VecDeque<u8>, most: usize) {
        let now = self.at();
        deliver(&mut self.gateway, now, conn, bytes, most);
        self.drain();
    }

    fn write_out(&mut self) {
        let mut ready: Vec<ConnId> = Vec::new();
        while let Some(conn) = self.gateway.poll_writable() {
            ready.push(conn);
        }
        // Whoever has something left comes again.
        ready.extend(self.conns.keys());
        let mut seen = BTreeSet::new();
        ready.retain(|conn| seen.insert(*conn));
        for conn in ready {
            self.write_to(conn);
        }
    }

    /// Some of what waits for a connection is sent; whether there was anything.
    pub fn write_to(&mut self, conn: ConnId) -> bool {
        let Some(end) = self.conns.get(conn).copied() else {
            return false;
        };
        let is_idle = match end {
            End::Client(index) => {
                matches!(&self.clients[index].role, Role::Taker(it) if it.is_idle)
            }
            End::Dialled(_) => false,
        };
        if self.trouble && (is_idle || self.rng.chance(1, 4)) {
            return false;
        }
        let now = self.at();
        let Some(queue) = self.gateway.fill(now, conn, 4096) else {
            return false;
        };
        let mut slices = [IoSlice::new(&[]); 16];
        let count = queue.gather(&mut slices, usize::MAX);
        let bytes: Vec<u8> = slices[..count].iter().flat_map(|it| it.to_vec()).collect();
        let some = if self.trouble {
            (self.rng.below(600) as usize).min(bytes.len())
        } else {
            bytes.len()
        };
        queue.consume(some);
        match end {
            End::Client(index) => {
                let client = &mut self.clients[index];
                client.recv.extend_from_slice(&bytes[..some]);
                client.read();
            }
            End::Dialled(_) if some > 0 => self.said.push((conn, bytes[..some].to_vec())),
            End::Dialled(_) => {}
        }
        some > 0
    }
}

fn deliver(gateway: &mut Gateway, now: Now, conn: ConnId, bytes: &mut VecDeque<u8>, most: usize) {
    let Some(buffer) = gateway.recv_buffer(conn) else {
        return;
    };
    let spare = buffer.spare();
    let count = bytes.len().min(spare.len()).min(most);
    for (place, byte) in spare.iter_mut().zip(bytes.drain(..count)) {
        *place = byte;
    }
    if count > 0 {
        gateway.handle_input(now, Input::Received { conn, count });
    } else {
        buffer.commit(0);
    }
}

pub fn parse(config: &str) -> Config {
    let source = fieldgate::config::Source {
        path: "site.toml".into(),
        text: config.to_owned(),
    };
    let environment = fieldgate::config::Environment::default();
    let loaded = fieldgate::config::parse(vec![source], &environment);
    loaded
        .unwrap_or_else(|errors| panic!("{}", errors.render(false)))
        .meant
        .gateway
}

fn open(rng: &mut Rng, config: &str, now: Instant, wall: WallTime) -> Gateway {
    let now = Now {
        monotonic: now,
        wall,
    };
    Gateway::new(parse(config), rng.next_u64(), now)
}
