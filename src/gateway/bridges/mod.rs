//! Bridges in the house: from the configuration to machines, and between them, the broker, the
//! journal and their connections.
//!
//! ```text
//! broker ── Delivery, with its place ──▶ bridge ── Dial, Close ──▶ host
//!   ▲  ▲                                  │  ▲
//!   │  └───── Publish, settled later ─────┘  │
//!   │                                        │ what is kept and not in memory
//!   └─ numbers entries of its queue        journal ◀── consumed
//! ```
//!
//! A bridge has a queue in the journal under its name: the record with key [`BRIDGE_QUEUE`]. A
//! queue whose bridge the configuration has no more stays there until the bridge is back or
//! somebody drops it (`queue`).

mod queues;
mod status;
mod steps;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

pub(super) use self::queues::BRIDGE_QUEUE;
use self::queues::{decode_name, hash_of, kept_of};
use self::status::letter;
use self::steps::Steps;
pub(super) use self::steps::{BRIDGE_OVER, BRIDGE_SENT, is_step};
use super::Gateway;
use super::boundary::{CloseCause, CloseHow, Dialled, FLUSH_TIMEOUT, Output};
use super::durable::Durable;
use super::settings::Target;
use crate::bridge::settings::{SendRule, Settings};
use crate::bridge::{self, Bridge, Kept, Phase, Place, Restored, Ticket};
use crate::broker::keep::{decode_rule, read_message};
use crate::broker::{BridgeEntry, Origin, Taker};
use crate::id::{BridgeId, ConnId, Lsn, QueueId, RuleId};
use crate::journal::Draw;
use crate::mqtt::frame::{self, Frame};
use crate::mqtt::{
    ApplicationMessage, PacketId, ProtocolVersion, QoS, ReasonCode, RetainHandling,
    SubscriptionOptions, TopicFilter,
};
use crate::rng::Rng;
use crate::slab::{GenSlab, IdTable};
use crate::time::{Instant, Now, WallTime};

/// The bridges.
pub(super) struct Bridges {
    rng: Rng,
    by_name: BTreeMap<Box<str>, BridgeId>,
    links: GenSlab<BridgeId, Link>,
    /// Those of `links`, to go through without asking for memory.
    order: Vec<BridgeId>,
    conns: IdTable<ConnId, BridgeId>,
    /// Queues in the journal, by the name of their bridge.
    queues: BTreeMap<Box<str>, KeptQueue>,
    /// How far messages of QoS 2 are, by the queue of their bridge.
    steps: BTreeMap<QueueId, Steps>,
    /// Received messages whose acknowledgement waits for a sync, in its order.
    tickets: VecDeque<Waiting>,
    /// Counts up with every bridge that comes up, goes down, or fails to come up.
    changes: u64,
}

/// A received message whose acknowledgement waits.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    lsn: Lsn,
    bridge: BridgeId,
    ticket: Ticket,
    /// Of QoS 2.
    packet_id: Option<PacketId>,
}

/// A queue in the journal.
#[derive(Debug)]
struct KeptQueue {
    queue: QueueId,
    /// Of the rules that are subscribed, as far as the journal says so.
    rules: Vec<u64>,
    /// The journal says so.
    is_named: bool,
}

struct Link {
    name: Box<str>,
    bridge: Bridge,
    queue: Option<QueueId>,
    /// Sending rules that are subscribed.
    rules: u16,
    /// The journal does not say yet which rules it has.
    is_unnamed: bool,
    /// The journal reads for it.
    is_fetching: bool,
    /// Received bytes wait for room in the bridge.
    is_jammed: bool,
    /// The configuration has it no more: it ends when it is idle.
    is_retiring: bool,
    /// As it was when people were last told.
    was_up: bool,
    had_failed: bool,
}

impl Bridges {
    pub(super) fn new(rng: &mut Rng) -> Self {
        Self {
            rng: rng.fork(),
            by_name: BTreeMap::new(),
            links: GenSlab::new(),
            order: Vec::new(),
            conns: IdTable::new(),
            queues: BTreeMap::new(),
            steps: BTreeMap::new(),
            tickets: VecDeque::new(),
            changes: 0,
        }
    }

    /// Whose connection it is.
    pub(super) fn of(&self, conn: ConnId) -> Option<BridgeId> {
        self.conns.get(conn).copied()
    }

    /// Whether nothing is to be read from a connection now.
    pub(super) fn is_jammed(&self, id: BridgeId) -> bool {
        self.links.get(id).is_some_and(|link| link.is_jammed)
    }

    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    /// Whether all have said goodbye.
    pub(super) fn are_idle(&self) -> bool {
        self.links.iter().all(|(_, link)| link.bridge.is_idle())
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let timeouts = self
            .links
            .iter()
            .filter_map(|(_, link)| link.bridge.poll_timeout());
        timeouts.min()
    }

    /// A record of the journal that says whose queue a queue is.
    pub(super) fn recover_name(&mut self, queue: QueueId, body: &[u8]) {
        match decode_name(body) {
            Some((name, rules)) => {
                let is_named = true;
                let kept = KeptQueue {
                    queue,
                    rules,
                    is_named,
                };
                self.queues.insert(name.into(), kept);
            }
            None => log::error!("journal: the name of queue {} cannot be read", queue.0),
        }
    }

    /// The queue in the journal of a bridge that is configured, or was.
    pub(super) fn kept_queue(&self, name: &str) -> Option<QueueId> {
        self.queues.get(name).map(|kept| kept.queue)
    }

    pub(super) fn is_configured(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    fn link_of(&mut self, conn: ConnId) -> Option<&mut Link> {
        self.links.get_mut(self.of(conn)?)
    }

    /// The links by name, and whether they are up.
    pub(super) fn links_up(&self) -> impl Iterator<Item = (&str, bool)> {
        let links = self.configured();
        links.map(|link| (&*link.name, link.bridge.phase() == Phase::Up))
    }

    /// The links that the configuration has.
    fn configured(&self) -> impl Iterator<Item = &Link> {
        let links = self.links.iter().map(|(_, link)| link);
        links.filter(|link| !link.is_retiring)
    }
}

impl Link {
    /// It has been taken out, and has said goodbye.
    fn is_over(&self) -> bool {
        self.is_retiring && self.bridge.is_idle()
    }
}

// ---- from the configuration

impl Gateway {
    /// Makes bridges what the configuration says; what did not change is not touched.
    pub(super) fn update_bridges(&mut self, now: Now) {
        let wanted = self.config.bridges.clone();
        let gone: Vec<_> = self
            .bridges
            .by_name
            .iter()
            .filter(|(name, _)| !wanted.contains_key(*name))
            .map(|(name, id)| (name.clone(), *id))
            .collect();
        for (name, id) in gone {
            log::info!("bridge {name} is taken out");
            self.bridges.by_name.remove(&name);
            self.retire_bridge(now, id);
        }
        // What is retained while a bridge is away it has not sent: its rules are new when it is
        // back.
        let away: Vec<_> = self.bridges.queues.keys().cloned().collect();
        for name in away.iter().filter(|name| !wanted.contains_key(*name)) {
            self.name_queue(now, name, Vec::new());
        }
        for (name, settings) in wanted {
            match self.bridges.by_name.get(&name).copied() {
                Some(id) => self.reconfigure_bridge(now, id, settings),
                None => self.add_bridge(now, &name, settings),
            }
        }
    }

    fn add_bridge(&mut self, now: Now, name: &str, settings: Settings) {
        let rules = settings.send.clone();
        let made = Bridge::new(name, settings, &self.memory, &mut self.bridges.rng);
        let mut bridge = match made {
            Ok(bridge) => bridge,
            Err(error) => return log::error!("bridge {name} cannot be made: {error}"),
        };
        let is_known = self.bridges.queues.contains_key(name);
        let known = self.find_queue(now, name);
        let queue = known.as_ref().map(|(queue, _)| *queue);
        if let (Some(queue), Some(durable)) = (queue, &mut self.durable) {
            durable.journal.rewind(queue);
            let mut kept = Kept {
                is_whole: is_known && !durable.is_damaged(),
                next: 1,
                ..Kept::default()
            };
            if let Some(state) = durable.journal.queue(queue) {
                kept.entries = state.entries;
                kept.bytes = state.bytes;
                kept.next = state.next;
            }
            if let Some(steps) = self.bridges.steps.get(&queue) {
                steps.tell(&mut kept);
            }
            bridge.recover(kept);
        }
        bridge.start();
        let id = self.bridges.links.insert(Link {
            name: name.into(),
            bridge,
            queue,
            rules: 0,
            is_unnamed: false,
            is_fetching: false,
            is_jammed: false,
            is_retiring: false,
            was_up: false,
            had_failed: false,
        });
        self.bridges.order.push(id);
        self.bridges.by_name.insert(name.into(), id);
        let before = known.map_or_else(Vec::new, |(_, rules)| rules);
        self.subscribe_rules(id, &rules, &before);
    }

    fn reconfigure_bridge(&mut self, now: Now, id: BridgeId, settings: Settings) {
        let Some(link) = self.bridges.links.get_mut(id) else {
            return;
        };
        let before = link.bridge.settings();
        if *before == settings {
            return;
        }
        let (old, rules) = (before.send.clone(), settings.send.clone());
        if let Err(error) = link.bridge.reconfigure(now, settings) {
            return log::error!("bridge {} stays as it was: {error}", link.name);
        }
        if old != rules {
            let before: Vec<_> = old.iter().map(hash_of).collect();
            self.subscribe_rules(id, &rules, &before);
        }
    }

    fn retire_bridge(&mut self, now: Now, id: BridgeId) {
        self.unsubscribe_rules(id);
        self.broker.forget_bridge(id);
        if let Some(link) = self.bridges.links.get_mut(id) {
            link.is_retiring = true;
            link.bridge.stop(now);
        }
    }

    fn unsubscribe_rules(&mut self, id: BridgeId) {
        let rules = self.bridges.links.get(id).map_or(0, |link| link.rules);
        for rule in 0..rules {
            self.broker.unsubscribe_all(Taker::Bridge(id, RuleId(rule)));
        }
    }

    /// Subscribes sending rules. One that was not there before also gets what is retained: nobody
    /// has sent that for it.
    fn subscribe_rules(&mut self, id: BridgeId, rules: &[SendRule], before: &[u64]) {
        self.unsubscribe_rules(id);
        let Some(link) = self.bridges.links.get_mut(id) else {
            return;
        };
        link.rules = rules.len() as u16;
        // What is retained is to be in the journal before this is: or it would not be sent if the
        // power went between.
        link.is_unnamed = true;
        if let Some(queue) = link.queue {
            let next = link.bridge.next_number();
            self.broker.keep_bridge(id, queue, next, kept_of(rules));
        }
        for (index, rule) in rules.iter().enumerate() {
            let taker = Taker::Bridge(id, RuleId(index as u16));
            let excepted = rule.except.iter();
            for filter in excepted.filter_map(|filter| TopicFilter::new(filter).ok()) {
                self.broker.except(taker, filter);
            }
            let is_new = !before.contains(&hash_of(rule));
            let options = SubscriptionOptions {
                retain_handling: if is_new {
                    RetainHandling::Send
                } else {
                    RetainHandling::DoNotSend
                },
                ..SubscriptionOptions::new(QoS::ExactlyOnce)
            };
            match TopicFilter::new(&rule.filter) {
                Ok(filter) => self.broker.subscribe(taker, filter, options),
                Err(error) => log::error!("cannot subscribe filter={}: {error}", rule.filter),
            }
        }
    }

    /// Says in the journal which rules are subscribed, if it does not say so.
    fn name_rules(&mut self, now: Now, id: BridgeId) {
        if let Some(link) = self.bridges.links.get_mut(id)
            && core::mem::take(&mut link.is_unnamed)
            && !link.is_retiring
        {
            let name = link.name.clone();
            let rules = link.bridge.settings().send.iter();
            let hashes = rules.map(hash_of).collect();
            self.name_queue(now, &name, hashes);
        }
    }
}

// ---- what comes from outside

impl Gateway {
    pub(super) fn handle_dialled(
        &mut self,
        now: Now,
        id: BridgeId,
        outcome: Result<Dialled, Box<str>>,
    ) {
        let link = self.bridges.links.get_mut(id);
        match (outcome, link) {
            (Ok(Dialled { conn, credentials }), Some(link)) => {
                self.outbox.open(conn);
                let recv = crate::buffer::RecvBuffer::new(&self.memory);
                self.recv.insert(conn, recv);
                self.bridges.conns.insert(conn, id);
                link.is_jammed = false;
                link.bridge.handle_dialled(now, conn, credentials);
            }
            (Err(error), Some(link)) => link.bridge.handle_unreachable(now, &error),
            // Its bridge is gone.
            (Ok(Dialled { conn, .. }), None) => self.outputs.push_back(Output::Close {
                conn,
                how: CloseHow::Now,
            }),
            (Err(_), None) => {}
        }
    }

    /// Bytes of a peer lie in its connection's buffer.
    pub(super) fn feed_bridge(&mut self, now: Now, conn: ConnId) {
        let Some(link) = self.bridges.link_of(conn) else {
            return;
        };
        let Some(recv) = self.recv.get_mut(conn) else {
            return;
        };
        if self.durable.as_ref().is_some_and(Durable::is_behind) {
            link.is_jammed = true;
            return;
        }
        link.is_jammed = false;
        let consumed = link.bridge.handle_input(now, conn, recv.bytes());
        recv.consume(consumed);
        let limit = link.bridge.settings().max_packet_size;
        match frame::peek(recv.bytes(), limit) {
            Ok(Frame::Complete { .. }) => link.is_jammed = true,
            Ok(Frame::Incomplete {
                needed: Some(total),
            }) if recv.expect_frame(total).is_err() => {
                let why = format!("no memory for a packet of {total} bytes");
                link.bridge.give_up_connection(now, &why);
            }
            // What is wrong with them the bridge has seen.
            Ok(Frame::Incomplete { .. }) | Err(_) => {}
        }
    }

    /// The connection of a bridge is gone.
    pub(super) fn close_bridge(&mut self, now: Now, conn: ConnId, cause: CloseCause) {
        if let Some(link) = self.bridges.link_of(conn) {
            link.is_jammed = false;
            let by_peer = cause == CloseCause::Peer;
            link.bridge.handle_closed(now, conn, by_peer);
        }
        self.bridges.conns.remove(conn);
    }

    /// Draws what a bridge has to send.
    pub(super) fn fill_bridge(&mut self, now: Now, id: BridgeId, conn: ConnId, budget: usize) {
        let Some(link) = self.bridges.links.get_mut(id) else {
            return;
        };
        let Some(queue) = self.outbox.queue_mut(conn) else {
            return;
        };
        let before = queue.len();
        link.bridge.fill(now, conn, budget, queue);
        // What made room may have let in what waits. Otherwise a settled ticket does.
        if link.is_jammed && queue.len() > before {
            self.resumed.push_back(conn);
        }
    }

    /// Bridges whose time has come.
    pub(super) fn time_bridges(&mut self, now: Now) {
        for (_, link) in self.bridges.links.iter_mut() {
            if link
                .bridge
                .poll_timeout()
                .is_some_and(|at| at <= now.monotonic)
            {
                link.bridge.handle_timeout(now);
            }
        }
    }

    /// Changes up to `synced` are on the disk.
    pub(super) fn settle_bridges(&mut self, now: Now, synced: Lsn) {
        let durable = self.durable.as_ref();
        let notes = durable.map_or(Lsn(0), |durable| durable.journal.synced());
        for (_, link) in self.bridges.links.iter_mut() {
            link.bridge.handle_synced(synced);
            link.bridge.handle_notes_synced(now.monotonic, notes);
        }
        while let Some(waiting) = self.bridges.tickets.front().copied()
            && waiting.lsn <= synced
        {
            self.bridges.tickets.pop_front();
            self.settle_ticket(waiting.bridge, waiting.ticket, ReasonCode::Success);
        }
        self.tell_links(now);
    }

    fn settle_ticket(&mut self, id: BridgeId, ticket: Ticket, reason: ReasonCode) {
        let Some(link) = self.bridges.links.get_mut(id) else {
            return;
        };
        link.bridge.settle(ticket, reason);
        self.resume_if_jammed(id);
    }

    /// What was not read may be.
    pub(super) fn resume_jammed(&mut self) {
        for at in 0..self.bridges.order.len() {
            self.resume_if_jammed(self.bridges.order[at]);
        }
    }

    fn resume_if_jammed(&mut self, id: BridgeId) {
        let link = self.bridges.links.get_mut(id);
        if link.is_some_and(|link| core::mem::take(&mut link.is_jammed)) {
            let conns = self.bridges.conns.iter();
            let conns = conns.filter(|(_, it)| **it == id).map(|(conn, _)| conn);
            self.resumed.extend(conns);
        }
    }

    /// A change is not kept.
    pub(super) fn unkeep_bridges(&mut self, now: Now, lsn: Lsn, is_awaited: bool) {
        for (_, link) in self.bridges.links.iter_mut() {
            link.bridge.handle_unkept(lsn, is_awaited);
        }
        if !is_awaited {
            return;
        }
        let (links, mut given_up) = (&mut self.bridges.links, BTreeSet::new());
        let steps = &mut self.bridges.steps;
        self.bridges.tickets.retain(|waiting| {
            let is_it = waiting.lsn == lsn;
            if is_it && let Some(link) = links.get_mut(waiting.bridge) {
                if given_up.insert(waiting.bridge) {
                    let why = "what the peer has sent cannot be kept";
                    link.bridge.give_up_connection(now, why);
                }
                link.bridge.disown(waiting.ticket);
                let steps = link.queue.and_then(|queue| steps.get_mut(&queue));
                if let (Some(packet_id), Some(steps)) = (waiting.packet_id, steps) {
                    steps.received.remove(&packet_id);
                }
            }
            !is_it
        });
    }

    /// All say goodbye.
    pub(super) fn stop_bridges(&mut self, now: Now) {
        for (_, link) in self.bridges.links.iter_mut() {
            link.bridge.stop(now);
        }
    }
}

// ---- between the machines

impl Gateway {
    /// A message for a sending rule.
    pub(super) fn route_to_bridge(
        &mut self,
        now: Now,
        (id, rule): (BridgeId, RuleId),
        message: &ApplicationMessage,
        entry: Option<BridgeEntry>,
    ) {
        let place = entry.map(|entry| Place {
            sequence: entry.sequence,
            lsn: entry.lsn,
            is_held: entry.is_held,
        });
        if let Some(link) = self.bridges.links.get_mut(id) {
            link.bridge.send(now, rule, message, place);
        }
    }

    /// Does what the bridges say; whether there was anything.
    pub(super) fn route_bridges(&mut self, now: Now) -> bool {
        let mut is_busy = false;
        let mut has_retired = false;
        for at in 0..self.bridges.order.len() {
            let id = self.bridges.order[at];
            self.name_rules(now, id);
            is_busy |= self.route_bridge(now, id);
            let link = self.bridges.links.get(id);
            has_retired |= link.is_some_and(Link::is_over);
        }
        if has_retired {
            let links = &mut self.bridges.links;
            self.bridges.order.retain(|id| {
                let is_over = links.get(*id).is_some_and(Link::is_over);
                if is_over {
                    links.remove(*id);
                }
                !is_over
            });
        }
        is_busy
    }

    fn route_bridge(&mut self, now: Now, id: BridgeId) -> bool {
        let mut is_busy = false;
        while let Some(link) = self.bridges.links.get_mut(id)
            && let Some(output) = link.bridge.poll_output()
        {
            is_busy = true;
            self.do_for_bridge(now, id, output);
        }
        let Some(link) = self.bridges.links.get_mut(id) else {
            return is_busy;
        };
        if let (Some(queue), Some(durable)) = (link.queue, &mut self.durable) {
            let mut has_consumed = false;
            while let Some(sequence) = link.bridge.poll_consumed() {
                durable.journal.consume(now, queue, sequence);
                has_consumed = true;
            }
            let steps = self.bridges.steps.entry(queue).or_default();
            // After what was consumed: what is forgotten too early would be sent once more.
            while let Some(sequence) = link.bridge.poll_over() {
                let first = link.bridge.first_unfinished();
                steps.end(now, &mut durable.journal, (queue, sequence), first);
            }
            if has_consumed && steps.has_marks() {
                let first = link.bridge.first_unfinished();
                steps.forget_below(now, &mut durable.journal, queue, first);
            }
            // What one draws that says goodbye would be kept from the next of its name.
            while !link.is_fetching
                && !link.is_retiring
                && let Some(from) = link.bridge.wants_kept()
            {
                let was_underway = link.bridge.wants_underway();
                match durable.journal.draw_from(queue, from) {
                    Draw::Ready {
                        sequence,
                        note,
                        body,
                    } => {
                        let is_over = steps.is_over(sequence);
                        let read = read_message(&body, now).filter(|_| !is_over);
                        let kept_at: Option<WallTime> = read.as_ref().and_then(|(_, at)| *at);
                        let message = read.as_ref().map(|(message, _)| message);
                        let kept = Restored {
                            rule: decode_rule(&note),
                            message,
                            kept_at,
                            is_current: message.is_some_and(|it| self.broker.has_retained(it)),
                        };
                        link.bridge.restore(now, sequence, kept);
                    }
                    Draw::Pending => link.is_fetching = true,
                    Draw::Empty => link.bridge.nothing_kept(),
                }
                if was_underway && !link.bridge.wants_underway() {
                    durable.journal.rewind(queue);
                }
                is_busy = true;
            }
        }
        if let Some(conn) = link.bridge.poll_wake() {
            self.outbox.wake(conn);
        }
        is_busy
    }

    /// A read that a bridge waited for is done.
    pub(super) fn handle_drawable(&mut self, queue: QueueId) {
        for (_, link) in self.bridges.links.iter_mut() {
            if link.queue == Some(queue) {
                link.is_fetching = false;
            }
        }
    }

    fn do_for_bridge(&mut self, now: Now, id: BridgeId, output: bridge::Output) {
        let Some(link) = self.bridges.links.get(id) else {
            return;
        };
        match output {
            bridge::Output::Dial { endpoint } => {
                let settings = link.bridge.settings();
                let target = Box::new(Target {
                    endpoint,
                    tls: settings.tls.clone(),
                    username: settings.username.clone(),
                    password: settings.password.clone(),
                });
                self.outputs.push_back(Output::Dial { bridge: id, target });
            }
            bridge::Output::Undial => self.outputs.push_back(Output::Undial { bridge: id }),
            bridge::Output::Close { conn, after_flush } => {
                if let Some(recv) = self.recv.get_mut(conn) {
                    recv.clear();
                }
                let how = if after_flush {
                    CloseHow::AfterFlush {
                        deadline: now.monotonic + FLUSH_TIMEOUT,
                    }
                } else {
                    CloseHow::Now
                };
                self.outputs.push_back(Output::Close { conn, how });
            }
            bridge::Output::Publish {
                message,
                packet_id,
                ticket,
            } => {
                let mut view = message.as_publish(ProtocolVersion::V5, now.monotonic);
                view.packet_id = packet_id;
                let origin = Origin::Bridge(id);
                let published = self.broker.publish(now, origin, &view, &mut self.outbox);
                if let Some(reason) = published.refused {
                    let (name, topic) = (&link.name, message.topic());
                    log::warn!("bridge {name}: refused topic={topic} reason={reason}");
                } else if let (Some(packet_id), Some(queue)) = (packet_id, link.queue) {
                    let steps = self.bridges.steps.entry(queue).or_default();
                    steps.received.insert(packet_id);
                }
                if let Some(ticket) = ticket {
                    match published.refused {
                        Some(reason) => self.settle_ticket(id, ticket, reason),
                        None => {
                            self.bridges.tickets.push_back(Waiting {
                                lsn: published.lsn,
                                bridge: id,
                                ticket,
                                packet_id,
                            });
                        }
                    }
                }
            }
            bridge::Output::Note(note) => self.note_step(now, id, note),
            bridge::Output::DeadLetter {
                message,
                time,
                reason,
            } => {
                let name = link.name.clone();
                let line = letter(&message, time, reason).to_string();
                let what = format!("{name}: {}: {reason}", message.topic());
                self.outputs.push_back(Output::DeadLetter {
                    bridge: name,
                    line: line.into(),
                });
                self.tell_event(now, "dead_letter", &what);
            }
        }
    }

    /// Says which bridges have come up or gone down.
    fn tell_links(&mut self, now: Now) {
        for at in 0..self.bridges.order.len() {
            let id = self.bridges.order[at];
            let Some(link) = self.bridges.links.get_mut(id) else {
                continue;
            };
            let is_up = link.bridge.phase() == Phase::Up;
            let has_failed = !is_up && link.bridge.last_error().is_some();
            let is_changed = has_failed != core::mem::replace(&mut link.had_failed, has_failed);
            self.bridges.changes += u64::from(is_changed);
            if is_up == link.was_up {
                continue;
            }
            link.was_up = is_up;
            self.bridges.changes += 1;
            let event = if is_up { "bridge_up" } else { "bridge_down" };
            let what = match link.bridge.last_error().filter(|_| !is_up) {
                Some(why) => format!("{}: {why}", link.name),
                None => link.name.to_string(),
            };
            self.tell_event(now, event, &what);
            self.tell_connections(now);
        }
    }
}
