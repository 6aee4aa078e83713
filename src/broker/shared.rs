//! Shared subscriptions (4.8.2): every message goes to one member of the group.
//!
//! A group is named by its whole filter, `$share/NAME/FILTER`; in the trie it is one taker under
//! `FILTER`. Members take turns. A member that is connected and can take the message now comes
//! before one whose messages pile up, and that one before one that is away, so that a slow or lost
//! member does not hold up what the others could do.
//!
//! | when | what happens to the group's messages of a member |
//! |---|---|
//! | its connection is lost, its session stays | unsent ones go to one that is connected, if any |
//! | its session ends | unsent ones, and QoS 1 without PUBACK, go to any other member |
//! | it unsubscribes | unsent ones go to any other member, or else stay |
//! | QoS 2 under way | stays with the member, and ends with its session [MQTT-4.8.2-4] [MQTT-4.8.2-5] |
//! | it refuses a message | the message is discarded [MQTT-4.8.2-6] |

use std::rc::Rc;

use super::inflight::Stage;
use super::keep::Spilled;
use super::queue::{Identifiers, Reference};
use super::session::Session;
use super::subscriptions::{Subscription, Subscriptions};
use super::{Broker, Room, Taker};
use crate::buffer::{Charge, HIGH_WATER, Memory, Outbox};
use crate::id::{Lsn, SessionId, ShareId};
use crate::mqtt::{QoS, TopicFilter};
use crate::rng::{HashMap, Rng};
use crate::slab::GenSlab;

/// Members that one message looks at before it takes the best of those.
const LOOKED_AT_MAX: usize = 64;

/// All groups.
#[derive(Debug)]
pub(super) struct Shared {
    groups: GenSlab<ShareId, Group>,
    by_filter: HashMap<Rc<str>, ShareId>,
    memory: Memory,
    /// Of all groups together.
    members: usize,
}

#[derive(Debug)]
struct Group {
    /// `$share/NAME/FILTER`.
    filter: Rc<str>,
    /// Never empty.
    members: Vec<Member>,
    /// Whose turn it is, modulo the number of members.
    next: usize,
    charge: Charge,
}

/// One session's membership.
#[derive(Debug, Clone, Copy)]
pub(super) struct Member {
    pub(super) session: SessionId,
    pub(super) subscription: Subscription,
}

impl Shared {
    pub(super) fn new(memory: &Memory, rng: &mut Rng) -> Self {
        Self {
            groups: GenSlab::new(),
            by_filter: HashMap::with_hasher(rng.hash_state()),
            memory: memory.clone(),
            members: 0,
        }
    }

    /// The group with this filter, `$share/NAME/` included.
    pub(super) fn find(&self, filter: &str) -> Option<ShareId> {
        self.by_filter.get(filter).copied()
    }

    /// What a group is called, `$share/NAME/` included.
    pub(super) fn filter(&self, share: ShareId) -> Option<&str> {
        Some(&self.groups.get(share)?.filter)
    }

    /// How a session has subscribed as a member of these groups.
    pub(super) fn of(&self, session: SessionId, shares: &[ShareId]) -> Vec<(String, Subscription)> {
        let all = shares.iter().filter_map(|share| {
            let group = self.groups.get(*share)?;
            let member = &group.members[group.position(session)?];
            Some((group.filter.to_string(), member.subscription))
        });
        all.collect()
    }

    /// Groups, each of which is one taker in the trie.
    pub(super) fn groups(&self) -> usize {
        self.groups.len()
    }

    /// Memberships of all groups together.
    pub(super) fn members(&self) -> usize {
        self.members
    }

    fn join(&mut self, filter: &str, member: Member) -> (ShareId, Joined) {
        let Some(share) = self.find(filter) else {
            let filter: Rc<str> = filter.into();
            let group = Group {
                filter: filter.clone(),
                members: vec![member],
                next: 0,
                charge: self.memory.charge(group_bytes(&filter, 1)),
            };
            let share = self.groups.insert(group);
            self.by_filter.insert(filter, share);
            self.members += 1;
            return (share, Joined::First);
        };
        let group = self.groups.get_mut(share).expect("a name leads to a group");
        if let Some(known) = group.member_mut(member.session) {
            known.subscription = member.subscription;
            return (share, Joined::Again);
        }
        group.members.push(member);
        group.charge_members();
        self.members += 1;
        (share, Joined::Another)
    }

    /// Whether it was a member, and the last one.
    fn leave(&mut self, share: ShareId, session: SessionId) -> Option<Left> {
        let group = self.groups.get_mut(share)?;
        let at = group.position(session)?;
        group.members.remove(at);
        if at < group.next {
            group.next -= 1;
        }
        self.members -= 1;
        if !group.members.is_empty() {
            group.charge_members();
            return Some(Left::Others);
        }
        if let Some(group) = self.groups.remove(share) {
            self.by_filter.remove(&group.filter);
        }
        Some(Left::Nobody)
    }
}

impl Group {
    fn position(&self, session: SessionId) -> Option<usize> {
        self.members
            .iter()
            .position(|member| member.session == session)
    }

    fn member_mut(&mut self, session: SessionId) -> Option<&mut Member> {
        self.members
            .iter_mut()
            .find(|member| member.session == session)
    }

    fn charge_members(&mut self) {
        self.charge
            .set(group_bytes(&self.filter, self.members.len()));
    }
}

/// What a group costs beside its place in the trie.
fn group_bytes(filter: &str, members: usize) -> usize {
    size_of::<Group>() + 64 + filter.len() + members * size_of::<Member>()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Joined {
    /// And the group is new.
    First,
    Another,
    /// It was a member, and has subscribed in another way now.
    Again,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Others,
    Nobody,
}

/// How well a member can take a message now; the least is the best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fitness {
    /// It is connected, and can be sent the message now.
    Free,
    /// It is connected.
    Busy,
    /// It is away, and its session keeps the message.
    Away,
}

impl Broker {
    /// Makes a session a member, or changes how it is one; the most that this costs has been asked
    /// for. `true` if it was none.
    pub(super) fn join_share(
        &mut self,
        id: SessionId,
        filter: TopicFilter<'_>,
        subscription: Subscription,
    ) -> bool {
        let Some((_, inner)) = filter.share() else {
            return false;
        };
        let member = Member {
            session: id,
            subscription,
        };
        let (share, joined) = self.shared.join(filter.as_str(), member);
        if joined == Joined::First {
            // How each member has subscribed is the group's to know.
            let subscription = Subscription {
                maximum_qos: QoS::ExactlyOnce,
                no_local: false,
                retain_as_published: true,
                identifier: None,
            };
            self.subscriptions
                .insert(Taker::Shared(share), inner.as_str(), subscription);
        }
        if joined != Joined::Again {
            self.session_mut(id).shares.push(share);
        }
        joined != Joined::Again
    }

    /// Ends a membership; whether there was one. Messages that wait for this member go to others.
    pub(super) fn leave_share(&mut self, id: SessionId, filter: &str) -> bool {
        let Some(share) = self.shared.find(filter) else {
            return false;
        };
        let Some(left) = self.shared.leave(share, id) else {
            return false;
        };
        self.session_mut(id).shares.retain(|other| *other != share);
        match left {
            Left::Nobody => self.subscriptions.remove_all(Taker::Shared(share)),
            Left::Others => self.hand_over(id, Away::Unsubscribed(share)),
        }
        true
    }

    /// Ends all memberships of a session that has been taken out of the table, and hands its
    /// messages to others.
    pub(super) fn leave_all_shares(&mut self, id: SessionId, session: &mut Session) {
        for share in core::mem::take(&mut session.shares) {
            if self.shared.leave(share, id) == Some(Left::Nobody) {
                self.subscriptions.remove_all(Taker::Shared(share));
            }
        }
        // In the order in which they would have been sent.
        let mut unsent = Vec::new();
        session.inflight.take_shared_at_least_once(&mut unsent);
        let (count, bytes) = session.queue.purge(
            |reference| reference.share.is_some(),
            |reference| unsent.push(reference),
        );
        self.queued -= count;
        self.queued_bytes -= bytes;
        for reference in unsent {
            if self.give(&reference, Fitness::Away).is_none() {
                self.messages.release(reference.message);
                self.stats.dropped_offline += 1;
            }
        }
    }

    /// Hands messages of groups that wait in a session's queue to other members.
    pub(super) fn hand_over(&mut self, id: SessionId, why: Away) {
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        if session.shares.is_empty() && matches!(why, Away::Lost) {
            return;
        }
        let mut waiting = Vec::new();
        let (count, bytes) = session.queue.purge(
            |reference| match why {
                Away::Lost => reference.share.is_some(),
                Away::Unsubscribed(share) => reference.share == Some(share),
            },
            |reference| waiting.push(reference),
        );
        self.queued -= count;
        self.queued_bytes -= bytes;
        session.is_searched = session.queue.is_spilling();
        self.look_at(id);
        let worst = match why {
            Away::Lost => Fitness::Busy,
            Away::Unsubscribed(_) => Fitness::Away,
        };
        for reference in waiting {
            if self.give(&reference, worst).is_some() {
                self.consumed(id, reference.sequence);
            } else {
                // Nobody is better off: it waits where it was.
                self.push_reference(id, reference);
            }
        }
    }

    /// Gives a reference that its member has not been sent to a member of at least this fitness.
    /// `None`: there is none; the reference is still the caller's.
    pub(super) fn give(&mut self, reference: &Reference, worst: Fitness) -> Option<()> {
        let share = reference.share?;
        let message = self.messages.get(reference.message).message.clone();
        let (published, retain) = (message.qos(), message.retain());
        let offer = Offer {
            topic: message.topic(),
            qos: published,
            cost: reference.cost,
        };
        let member = self.choose(share, offer, worst, None)?;
        let mut given = Reference {
            qos: published.min(member.subscription.maximum_qos),
            retain: member.subscription.retain_as_published && retain,
            is_again: false,
            identifiers: identifiers_of(&member),
            ..reference.clone()
        };
        let spills = self.spills(member.session, given.qos, given.cost);
        let change = self.keep_entry(member.session, &mut given);
        match change.filter(|_| spills) {
            Some(lsn) => self.spill_given(member.session, &given, lsn),
            None => self.push_reference(member.session, given),
        }
        Some(())
    }

    /// A message that has been handed over is in the journal alone.
    fn spill_given(&mut self, id: SessionId, given: &Reference, lsn: Lsn) {
        let spilled = Spilled {
            session: id,
            sequence: given.sequence,
            cost: given.cost,
            is_awaited: false,
        };
        let expires_at = self.messages.get(given.message).expires_at();
        self.count_spilled(&spilled, expires_at);
        self.note_spilled(lsn, spilled);
        self.messages.release(given.message);
    }

    /// Whose turn it is to take a message, among those of at least this fitness. Afterwards it is
    /// the turn of the next one.
    pub(super) fn choose(
        &mut self,
        share: ShareId,
        offer: Offer<'_>,
        worst: Fitness,
        outbox: Option<&Outbox>,
    ) -> Option<Member> {
        let group = self.shared.groups.get(share)?;
        let len = group.members.len();
        let mut best: Option<(Fitness, usize)> = None;
        for step in 0..len.min(LOOKED_AT_MAX) {
            let at = (group.next + step) % len;
            let Some(fitness) = self.fitness(&group.members[at], offer, outbox) else {
                continue;
            };
            if fitness <= worst && best.is_none_or(|(than, _)| fitness < than) {
                best = Some((fitness, at));
                if fitness == Fitness::Free {
                    break;
                }
            }
        }
        let group = self.shared.groups.get_mut(share)?;
        let (_, at) = best?;
        group.next = (at + 1) % len;
        Some(group.members[at])
    }

    /// `None`: it would lose the message.
    fn fitness(
        &self,
        member: &Member,
        offer: Offer<'_>,
        outbox: Option<&Outbox>,
    ) -> Option<Fitness> {
        let session = self.sessions.get(member.session)?;
        if !session.may_receive(offer.topic) {
            return None;
        }
        let has_room = matches!(
            self.room(member.session, offer.cost),
            Room::Yes | Room::ForgetExpired
        );
        let qos = offer.qos.min(member.subscription.maximum_qos);
        let Some(link) = &session.link else {
            return (has_room && qos > QoS::AtMostOnce).then_some(Fitness::Away);
        };
        // What this turn has queued is not sent yet, and takes its place in the window
        // nevertheless.
        let ahead = session.queue.messages();
        let has_window = if qos == QoS::AtMostOnce {
            ahead == 0
        } else {
            usize::from(link.unacknowledged) + ahead < usize::from(link.window)
        };
        let is_free = link.is_open
            && has_window
            && outbox
                .and_then(|outbox| outbox.queue(link.conn))
                .is_none_or(|queue| queue.len() < HIGH_WATER);
        if is_free {
            Some(Fitness::Free)
        } else {
            has_room.then_some(Fitness::Busy)
        }
    }

    /// The least that one more membership can cost in memory.
    pub(super) fn cost_of_share(filter: TopicFilter<'_>) -> usize {
        let inner = filter.share().map_or("", |(_, inner)| inner.as_str());
        group_bytes(filter.as_str(), 1) + Subscriptions::cost_of(inner)
    }
}

/// A message that somebody is to take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Offer<'a> {
    pub(super) topic: &'a str,
    /// As published.
    pub(super) qos: QoS,
    /// In a queue.
    pub(super) cost: usize,
}

/// Why a member's messages are handed to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Away {
    /// Its connection is lost, and its session stays.
    Lost,
    /// It has left this group.
    Unsubscribed(ShareId),
}

/// The subscription identifier that a member has given, as a delivery carries it.
pub(super) fn identifiers_of(member: &Member) -> Identifiers {
    member.subscription.identifier.into_iter().collect()
}

/// A member that any fitness will do for.
pub(super) const ANYBODY: Fitness = Fitness::Away;

impl super::inflight::Inflight {
    /// Takes out what was sent at QoS 1 for a group and not acknowledged.
    fn take_shared_at_least_once(&mut self, into: &mut Vec<Reference>) {
        let is_shared = |stage: &Stage| {
            matches!(stage, Stage::Published(reference)
                if reference.share.is_some() && reference.qos == QoS::AtLeastOnce)
        };
        let orders: Vec<u64> = self
            .iter()
            .filter(|sent| is_shared(&sent.stage))
            .map(|sent| sent.order)
            .collect();
        for order in orders {
            if let Some(sent) = self.remove(order)
                && let Stage::Published(reference) = sent.stage
            {
                into.push(reference);
            }
        }
    }
}
