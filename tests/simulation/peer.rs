//! An upstream broker as a process that can be killed.
//!
//! It is the broker machine, which forgets everything with its process; so what has happened to it
//! is written down, and who comes up again is another one to whom the same has happened, as far as
//! it had been synced. What it says leaves it only after that: an honest broker keeps what it has
//! acknowledged, and of what it has not, nobody knows what it keeps. A liar acknowledges what it
//! has not synced.

use std::collections::BTreeMap;

use fieldgate::broker::settings::Settings;
use fieldgate::id::ConnId;
use fieldgate::mqtt::ApplicationMessage;
use fieldgate::time::Now;

use super::upstream::{Arrived, Upstream};

/// What can happen to it.
enum Act {
    Accept(ConnId),
    Lose(ConnId),
    Feed(ConnId, Vec<u8>),
    Take(ConnId),
    Publish(ApplicationMessage),
    Tick,
}

pub struct Peer {
    settings: Settings,
    upstream: Upstream,
    /// What has happened; `None`: it never dies.
    acts: Option<Vec<(Now, Act)>>,
    /// So much of that is on its disk.
    synced: usize,
    is_liar: bool,
    /// Said, and not to leave before it is synced.
    held: Vec<u8>,
    released: Vec<u8>,
    /// What has arrived, and what of that may be counted on.
    taken: Vec<Arrived>,
    arrived: Vec<Arrived>,
    /// Of messages that it had not acknowledged: they went with its process.
    pub undone: u64,
    /// Of those that it had.
    pub betrayed: u64,
}

impl Peer {
    pub fn new(settings: Settings, is_mortal: bool, is_liar: bool) -> Self {
        Self {
            upstream: Upstream::new(settings.clone()),
            settings,
            acts: is_mortal.then(Vec::new),
            synced: 0,
            is_liar,
            held: Vec::new(),
            released: Vec::new(),
            taken: Vec::new(),
            arrived: Vec::new(),
            undone: 0,
            betrayed: 0,
        }
    }

    pub fn is_mortal(&self) -> bool {
        self.acts.is_some()
    }

    pub fn is_liar(&self) -> bool {
        self.is_liar
    }

    fn forget_words(&mut self) {
        self.held.clear();
        self.released.clear();
    }

    /// What has happened has reached the disk, and what was said may leave.
    pub fn sync(&mut self) {
        if let Some(acts) = &self.acts {
            self.synced = acts.len();
        }
        self.arrived.append(&mut self.taken);
        self.released.append(&mut self.held);
    }

    /// The process is killed, and another begins with what is on the disk.
    pub fn crash(&mut self, now: Now) {
        let acts = self.acts.as_mut().expect("it can die");
        let lost = acts.split_off(self.synced);
        self.undone += self.taken.len() as u64;
        if self.is_liar {
            let fed = lost.iter().filter(|(_, act)| matches!(act, Act::Feed(..)));
            self.betrayed += fed.count() as u64;
        }
        self.taken.clear();
        self.held.clear();
        self.released.clear();
        self.upstream = Upstream::new(self.settings.clone());
        let mut conns = Vec::new();
        for (now, act) in acts {
            match act {
                Act::Accept(conn) => conns.push(*conn),
                Act::Lose(conn) => conns.retain(|it| it != conn),
                _ => {}
            }
            act.happen(&mut self.upstream, *now);
        }
        self.upstream.arrived.clear();
        self.upstream.closed.clear();
        for conn in conns {
            self.lose(now, conn);
        }
        self.sync();
    }

    pub fn accept(&mut self, now: Now, conn: ConnId) {
        self.forget_words();
        self.act(now, Act::Accept(conn));
    }

    pub fn lose(&mut self, now: Now, conn: ConnId) {
        self.forget_words();
        self.act(now, Act::Lose(conn));
    }

    /// Takes bytes in.
    pub fn feed(&mut self, now: Now, conn: ConnId, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.act(now, Act::Feed(conn, bytes.to_vec()));
        }
    }

    /// What it has to say.
    pub fn say(&mut self, now: Now, conn: ConnId) -> Vec<u8> {
        let bytes = self.act(now, Act::Take(conn));
        if self.is_liar || self.acts.is_none() {
            self.released.extend(bytes);
        } else {
            self.held.extend(bytes);
        }
        std::mem::take(&mut self.released)
    }

    pub fn publish(&mut self, now: Now, message: &ApplicationMessage) {
        self.act(now, Act::Publish(message.clone()));
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Now) {
        self.act(now, Act::Tick);
    }

    /// What has arrived for good since the last time.
    pub fn arrived(&mut self) -> Vec<Arrived> {
        std::mem::take(&mut self.arrived)
    }

    /// Whether it has closed this connection.
    pub fn has_closed(&mut self, conn: ConnId) -> bool {
        let has = self.upstream.closed.contains(&conn);
        if has {
            self.upstream.closed.clear();
        }
        has
    }

    /// What is retained, by topic.
    pub fn retained(&mut self, now: Now) -> BTreeMap<String, String> {
        self.upstream.retained(now)
    }

    fn act(&mut self, now: Now, act: Act) -> Vec<u8> {
        let said = act.happen(&mut self.upstream, now);
        self.taken.append(&mut self.upstream.arrived);
        if let Some(acts) = &mut self.acts {
            acts.push((now, act));
        }
        if self.is_liar || self.acts.is_none() {
            self.arrived.append(&mut self.taken);
        }
        said
    }
}

impl Act {
    fn happen(&self, upstream: &mut Upstream, now: Now) -> Vec<u8> {
        match self {
            Self::Accept(conn) => upstream.accept(now, *conn),
            Self::Lose(conn) => upstream.lose(now, *conn),
            Self::Feed(conn, bytes) => upstream.feed(now, *conn, bytes),
            Self::Take(conn) => return upstream.take(now, *conn),
            Self::Publish(message) => upstream.publish(now, message),
            Self::Tick => upstream.tick(now),
        }
        Vec::new()
    }
}
