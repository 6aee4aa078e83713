//! Wills that survive a power cut: a gateway that is gone cannot tell that its clients are, and
//! whoever has not come back when it runs again is gone for everybody who has seen its retained
//! "online".
//!
//! The server may put the publication of wills off until it starts again (3.1.2.5), and that is
//! what happens here:
//!
//! | a will | is written |
//! |---|---|
//! | of a session that is kept | with its session, so before CONNACK leaves; nothing waits longer for it |
//! | of a session that ends with its connection | by itself, within `sync_within`; CONNACK does not wait |
//! | to a topic that is not kept (`none`, `$…`) | not |
//! | whose delay has begun | once more, with the wall time at which it is due |
//!
//! A record ends with its connection's end by DISCONNECT 0x00 [MQTT-3.14.4-3], with the session's
//! next CONNECT, and behind what its publication had to be kept for: between those two a crash
//! repeats a will, and none is lost. Each connection has a record of its own, so that the end of
//! one does not end the next one's.
//!
//! After a start, a connection that was there is a connection that was lost. When that was nobody
//! knows, so a Will Delay Interval that had not begun runs from the start; one that had goes on by
//! the wall clock, or begins again while that is not set. In any case clients have
//! [`RETURN_GRACE`] to come back, for it was we who left: a will with no delay would be published
//! although its client is on its way. The end of a kept session brings its will forward, as ever
//! [MQTT-3.1.2-8]. A session that ended with its connection has nothing to resume; of such a client
//! it is enough that it is back.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::record::{WillEntry, decode_will, encode_will};
use super::{Keeper, Key, KeyKind, What};
use crate::broker::session::WaitingWill;
use crate::broker::settings::Level;
use crate::broker::{Broker, LastWill, Origin};
use crate::buffer::{Charge, Payload};
use crate::id::{ConnId, Lsn, SessionId};
use crate::mqtt::{ApplicationMessage, TopicName, Will, WillProperties};
use crate::time::{Duration, Instant};

/// How long after a start nobody is taken for gone whose connection the start has ended. A client
/// with a keep-alive of a minute, which most have, has noticed by then that its connection is dead;
/// in life it would be given half as much again.
pub const RETURN_GRACE: Duration = Duration::from_secs(60);

/// What there is to know of wills beside those that connections and sessions have.
#[derive(Debug, Default)]
pub(super) struct Wills {
    /// The number of the last one that was kept.
    last: u64,
    /// Wills from before the start whose sessions are no more, by client.
    strays: BTreeMap<Rc<str>, Stray>,
    /// When those are due. Invariant: `None` if there are none.
    strays_due: Option<Instant>,
    /// Records of wills that the journal has not looked at yet.
    fresh: Vec<Lsn>,
    /// Publications of kept wills that it has not looked at yet.
    published: Vec<Publication>,
    /// Records of wills that were published and must stay, for the journal did not take the
    /// publication: until the client's next CONNECT, or a start.
    left: Vec<(Rc<str>, Key)>,
}

/// A will whose client has no session.
#[derive(Debug)]
struct Stray {
    user: Option<Rc<str>>,
    message: Box<ApplicationMessage>,
    kept: Key,
    _charge: Charge,
}

/// A will that was published, and the change behind it that ends its record.
#[derive(Debug)]
struct Publication {
    /// What is kept of it.
    first: Lsn,
    last: Lsn,
    end: Lsn,
    client_id: Rc<str>,
    kept: Key,
}

impl Wills {
    /// The journal has taken what there was, or said that it has not.
    pub(super) fn settle(&mut self) {
        self.fresh.clear();
        self.published.clear();
    }

    fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }
}

impl Keeper {
    /// A change was not taken. If it is of what a will's publication is kept for, the will's record
    /// stays. Whether it is such a record itself.
    pub(super) fn unkeep_will(&mut self, lsn: Lsn) -> bool {
        let is_of = |it: &Publication| it.first <= lsn && lsn <= it.last;
        if let Some(at) = self.wills.published.iter().position(is_of) {
            let publication = self.wills.published.swap_remove(at);
            self.changes.retain(|change| change.lsn != publication.end);
            let left = (publication.client_id, publication.kept);
            self.wills.left.push(left);
        }
        self.wills.fresh.contains(&lsn)
    }
}

impl Broker {
    /// How soon what nobody waits for is synced, if it is of a will.
    fn will_level(&self) -> Level {
        if self.is_stopping {
            Level::Strict
        } else {
            Level::Interval(self.sync_within())
        }
    }

    /// A client is there with a kept session: its will is kept with that, by the same sync.
    pub(in crate::broker) fn keep_will(&mut self, conn: ConnId, id: SessionId) {
        let kept = self.sessions.get(id).and_then(|session| session.kept);
        if let Some(kept) = kept {
            // What CONNACK waits for was logged just now; this goes along, and if it is not taken
            // nobody waits in vain.
            self.keep_will_as(conn, id, kept.queue.0, None);
        }
    }

    /// A client is there whose session ends with its connection: its will is kept all the same.
    pub(in crate::broker) fn keep_lone_will(&mut self, conn: ConnId, id: SessionId) {
        let session = self.sessions.get(id);
        let is_kept = session.is_some_and(|session| session.kept.is_some());
        if !is_kept && self.session_level().is_some() {
            self.keep_will_as(conn, id, 0, Some(self.will_level()));
        }
    }

    fn keep_will_as(&mut self, conn: ConnId, id: SessionId, owner: u64, level: Option<Level>) {
        let (Some(connection), Some(session)) = (self.connections.get(conn), self.sessions.get(id))
        else {
            return;
        };
        let Some(message) = &connection.will else {
            return;
        };
        if self.level_of(message.topic()).is_none() {
            return;
        }
        let names = (&*session.client_id, session.user.as_deref());
        let delay = connection.will_delay.as_secs() as u32;
        let body = encode_will(names, delay, None, message, self.now);
        let Some(keeper) = &mut self.keeper else {
            return;
        };
        let key = Key {
            kind: KeyKind::Will,
            id: owner,
            sub: keeper.wills.number(),
        };
        self.log_will(level, key, body);
        if let Some(connection) = self.connections.get_mut(conn) {
            connection.kept_will = Some(key);
        }
    }

    /// A client is gone, and its will's delay has begun.
    pub(in crate::broker) fn keep_waiting_will(&mut self, id: SessionId, delay: Duration) {
        let Some(session) = self.sessions.get(id) else {
            return;
        };
        let Some(will) = &session.will else {
            return;
        };
        let Some(key) = will.kept else {
            return;
        };
        let wall = self.now.wall;
        let due = wall.is_plausible().then(|| wall.saturating_add(delay));
        let names = (&*session.client_id, session.user.as_deref());
        let delay = delay.as_secs() as u32;
        let body = encode_will(names, delay, due, &will.message, self.now);
        // Without this its delay runs from the next start.
        self.log_will(None, key, body);
    }

    fn log_will(&mut self, level: Option<Level>, key: Key, body: Vec<u8>) {
        let lsn = self.log_value(level, key, body);
        if let Some(keeper) = &mut self.keeper {
            keeper.wills.fresh.push(lsn);
        }
    }

    /// A will is not to be published any more: of a session that is kept as surely as whatever else
    /// becomes of that.
    pub(in crate::broker) fn forget_will(&mut self, id: SessionId, kept: Option<Key>) {
        let Some(key) = kept else {
            return;
        };
        let session = self.sessions.get(id);
        let is_kept = session.is_some_and(|session| session.kept.is_some());
        let level = if is_kept {
            self.session_level()
        } else {
            Some(self.will_level())
        };
        self.log(level, What::Delete(key));
    }

    /// A will has been published; what is kept of that was logged after `before`. Its record ends
    /// behind that.
    pub(in crate::broker) fn will_is_published(&mut self, will: &LastWill, before: Lsn) {
        let Some(kept) = will.kept else {
            return;
        };
        if will.message.retain() {
            self.keep_dirty_topic(will.message.topic());
        }
        let last = self.last_lsn();
        let end = self.log(Some(self.will_level()), What::Delete(kept));
        let Some(keeper) = &mut self.keeper else {
            return;
        };
        if last > before {
            keeper.wills.published.push(Publication {
                first: Lsn(before.0 + 1),
                last,
                end,
                client_id: will.client_id.clone(),
                kept,
            });
        }
    }

    /// A client has come in. It is not gone, whatever was left of it from before the start.
    pub(in crate::broker) fn find_stray(&mut self, client_id: &str, user: Option<&str>) {
        let Some(keeper) = &mut self.keeper else {
            return;
        };
        let left = keeper.wills.left.iter();
        let left = left.filter(|(of, _)| **of == *client_id);
        let mut over: Vec<Key> = left.map(|(_, key)| *key).collect();
        keeper.wills.left.retain(|(of, _)| **of != *client_id);
        if let Some((client_id, stray)) = keeper.wills.strays.remove_entry(client_id) {
            if keeper.wills.strays.is_empty() {
                keeper.wills.strays_due = None;
            }
            if stray.user.as_deref() == user {
                over.push(stray.kept);
            } else {
                // Of another user's client that had the name before.
                self.lose_stray(client_id, stray);
            }
        }
        for key in over {
            self.log(Some(self.will_level()), What::Delete(key));
        }
    }

    /// When the wills of clients without a session are due that have not come back.
    pub(in crate::broker) fn next_stray(&self) -> Option<Instant> {
        self.keeper.as_ref()?.wills.strays_due
    }

    /// Those are published when it is time.
    pub(in crate::broker) fn lose_strays(&mut self) {
        let Some(keeper) = &mut self.keeper else {
            return;
        };
        let due = keeper.wills.strays_due;
        if due.is_none_or(|due| due > self.now.monotonic) {
            return;
        }
        keeper.wills.strays_due = None;
        for (client_id, stray) in core::mem::take(&mut keeper.wills.strays) {
            self.lose_stray(client_id, stray);
        }
    }

    fn lose_stray(&mut self, client_id: Rc<str>, stray: Stray) {
        let rules = self.settings.access.rules.as_ref();
        let user = stray.user.as_deref();
        let permissions = rules.map(|rules| Rc::new(rules.bind(user, &client_id)));
        self.wills.push_back(LastWill {
            // A client, and none of those that are there.
            origin: Origin::Client(self.sessions.vacant_key()),
            client_id,
            permissions,
            message: stray.message,
            kept: Some(stray.kept),
        });
    }

    /// The wills that were kept, when the sessions are there, by their numbers.
    pub(super) fn recover_wills(
        &mut self,
        values: &[(Key, Payload)],
        sessions: &BTreeMap<u64, SessionId>,
    ) {
        let mut newest: BTreeMap<&str, (Key, WillEntry<'_>)> = BTreeMap::new();
        for (key, body) in values.iter().filter(|(key, _)| key.kind == KeyKind::Will) {
            if let Some(keeper) = &mut self.keeper {
                keeper.wills.last = keeper.wills.last.max(key.sub);
            }
            let Some(entry) = decode_will(body) else {
                self.stats.unrecovered += 1;
                self.log(None, What::Delete(*key));
                continue;
            };
            // A client that has connected once more was back: the end of the earlier record was on
            // its way.
            let over = match newest.get(entry.client_id) {
                Some((newer, _)) if newer.sub > key.sub => Some(*key),
                _ => {
                    let before = newest.insert(entry.client_id, (*key, entry));
                    before.map(|(older, _)| older)
                }
            };
            if let Some(over) = over {
                self.log(None, What::Delete(over));
            }
        }
        for (key, entry) in newest.into_values() {
            self.recover_will(key, &entry, sessions.get(&key.id).copied());
        }
        let count = self.stats.recovered_wills;
        if count > 0 {
            let grace = RETURN_GRACE.as_secs();
            log::info!("wills of clients that have to come back count={count} within={grace}s");
        }
    }

    fn recover_will(&mut self, key: Key, entry: &WillEntry<'_>, session: Option<SessionId>) {
        let Some(message) = message_of(entry) else {
            self.stats.unrecovered += 1;
            self.log(None, What::Delete(key));
            return;
        };
        self.stats.recovered_wills += 1;
        let now = self.now;
        let delay = Duration::from_secs(entry.delay_seconds.into());
        let left = match entry.due {
            // A clock that was set back does not prolong it.
            Some(due) if now.wall.is_plausible() => due.since(now.wall).min(delay),
            _ => delay,
        };
        let session = session.and_then(|id| self.sessions.get_mut(id));
        if let Some(session) = session
            && *session.client_id == *entry.client_id
        {
            let at = now.monotonic + left.max(RETURN_GRACE);
            session.will = Some(WaitingWill::new(message, at, Some(key), &self.memory));
            return;
        }
        let stray = Stray {
            user: entry.user.map(Rc::from),
            _charge: self.memory.charge(message.footprint()),
            message,
            kept: key,
        };
        if let Some(keeper) = &mut self.keeper {
            // Its session is over, and so is its delay.
            keeper.wills.strays_due = Some(now.monotonic + RETURN_GRACE);
            keeper.wills.strays.insert(entry.client_id.into(), stray);
        }
    }
}

/// A will as its client left it: its expiry begins when it is published.
fn message_of(entry: &WillEntry<'_>) -> Option<Box<ApplicationMessage>> {
    let publish = &entry.publish;
    let will = Will {
        topic: TopicName::new(publish.topic).ok()?,
        payload: publish.payload,
        qos: publish.qos,
        retain: publish.retain,
        properties: WillProperties {
            will_delay_interval: None,
            payload_format_indicator: publish.properties.payload_format_indicator,
            message_expiry_interval: publish.properties.message_expiry_interval,
            content_type: publish.properties.content_type,
            response_topic: publish.properties.response_topic,
            correlation_data: publish.properties.correlation_data,
            user_properties: publish.properties.user_properties,
        },
    };
    Some(Box::new(ApplicationMessage::from_will(&will)))
}
