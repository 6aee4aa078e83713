//! What the world of [`uplink`](super::uplink) knows: what publishers were promised, and what has
//! arrived upstream.

use std::collections::{BTreeMap, BTreeSet};

use fieldgate::mqtt::QoS;
use fieldgate::time::Duration;

use super::people::{Role, Sender};
use super::plan::{AREAS, Area, BAD, PRIVATE};
use super::site::Site;

/// What nobody waits for is on the disk after this: `sync_within`, a turn, and a commit before its
/// own.
pub const GRACE: Duration = Duration::from_millis(150);

/// A message has arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    /// That it had here.
    pub topic: String,
    pub number: u32,
    /// By which lane; `None`: the peer cannot be told.
    pub is_backlog: Option<bool>,
}

/// Of one upstream broker.
#[derive(Default)]
struct Account {
    /// With the epoch, which ends when the process or the session does, and the session.
    arrived: Vec<(Arrival, u32, u32)>,
    epoch: u32,
    session: u32,
    /// Its broker has forgotten what it has said: identifiers of QoS 2 that it has released stand
    /// for messages there that it had long ago, and what comes under them it takes for those.
    is_betrayed: bool,
    /// By area: what may have been published while the bridge was not there.
    unseen: Vec<BTreeSet<u32>>,
    /// By area: what had been published when it left.
    left_at: Option<Vec<u32>>,
}

pub struct Ledger {
    accounts: Vec<Account>,
    /// By area: what may have been lost in a crash, for nobody waited for it.
    young: Vec<BTreeSet<u32>>,
}

impl Ledger {
    pub fn new(lines: usize) -> Self {
        let accounts = (0..lines).map(|_| Account {
            unseen: vec![BTreeSet::new(); AREAS.len()],
            ..Account::default()
        });
        Self {
            accounts: accounts.collect(),
            young: vec![BTreeSet::new(); AREAS.len()],
        }
    }

    pub fn arrive(&mut self, line: usize, arrival: Arrival) {
        let account = &mut self.accounts[line];
        let account_of = (account.epoch, account.session);
        account.arrived.push((arrival, account_of.0, account_of.1));
    }

    pub fn epoch(&self, line: usize) -> u32 {
        self.accounts[line].epoch
    }

    /// The upstream broker has forgotten what it has acknowledged.
    pub fn betray(&mut self, line: usize) {
        self.lose_session(line);
        self.accounts[line].is_betrayed = true;
    }

    /// The upstream broker has forgotten the bridge's session.
    pub fn lose_session(&mut self, line: usize) {
        self.accounts[line].epoch += 1;
        self.accounts[line].session += 1;
    }

    /// The power is about to go. `is_certain`: the disk had been in order for long enough. Returns
    /// how many readings have to survive.
    pub fn crash(&mut self, site: &Site, is_certain: bool) -> u64 {
        for account in &mut self.accounts {
            account.epoch += 1;
        }
        let mut certain = 0;
        for (area, sender) in senders(site) {
            if sender.qos > QoS::AtMostOnce {
                continue;
            }
            for (number, at) in &sender.promised {
                let is_old = is_certain && *at + GRACE < site.now;
                if is_old && AREAS[area].keep == "all" {
                    certain += 1;
                } else {
                    self.young[area].insert(*number);
                }
            }
        }
        certain
    }

    /// A bridge is taken out of the configuration. `is_kept`: the journal has taken everything.
    pub fn leave(&mut self, line: usize, site: &Site, is_kept: bool) {
        let account = &mut self.accounts[line];
        account.epoch += 1;
        account.left_at = Some(senders(site).map(|(_, sender)| sender.next).collect());
        for (area, sender) in senders(site) {
            if sender.qos == QoS::AtMostOnce && !is_kept {
                // It goes, and with it what the journal did not take.
                account.unseen[area].extend(sender.promised.keys());
            }
            let underway = sender.underway.iter().map(|(_, number, _)| *number);
            account.unseen[area].extend(underway.chain(sender.unconfirmed()));
        }
    }

    /// It is back.
    pub fn come_back(&mut self, line: usize, site: &Site) {
        let account = &mut self.accounts[line];
        let Some(left_at) = account.left_at.take() else {
            return;
        };
        account.epoch += 1;
        for (area, sender) in senders(site) {
            account.unseen[area].extend(left_at[area]..sender.next);
        }
    }

    /// `missing`: what else never came.
    pub fn judge(&self, line: usize, site: &Site, missing: Vec<String>, dropped: u64) {
        let account = &self.accounts[line];
        self.judge_complete(account, site, missing, dropped);
        let mut seen = BTreeSet::new();
        let mut last: BTreeMap<(&str, bool, u32), u32> = BTreeMap::new();
        let mut sessions: BTreeMap<(&str, u32), u32> = BTreeMap::new();
        for (arrival, epoch, session) in &account.arrived {
            let Arrival {
                topic,
                number,
                is_backlog,
            } = arrival;
            let (index, area) = area_of(topic);
            let below = topic.split('/').nth(1);
            assert!(below != Some(PRIVATE) && below != Some(BAD), "{arrival:?}");
            let before = sessions.insert((topic, *number), *session);
            if area.rule_qos == 2 {
                assert_ne!(before, Some(*session), "came twice: {arrival:?}");
            }
            let is_first = seen.insert((topic.as_str(), *number));
            let lane = match area.lanes {
                1 => Some(false),
                _ => *is_backlog,
            };
            // Where a limit has dropped the first copy of something, the one that a client has sent
            // again stands behind what came after the first.
            // And what it has dropped may come back after a crash, behind what was half way at QoS 2.
            let is_ordered = dropped == 0 || area.qos != QoS::AtLeastOnce && area.rule_qos != 2;
            // What was published before the bridge was there comes behind what it has got since, if it
            // is sent again because it was not acknowledged.
            let is_old = account.unseen[index].contains(number);
            if area.keep == "all"
                && is_first
                && is_ordered
                && !is_old
                && let Some(lane) = lane
            {
                // What a limit has dropped may come back after a crash; and what nobody was promised
                // and waited then, is sent again and may be live.
                let life = if dropped > 0 || area.lanes == 2 {
                    *epoch
                } else {
                    0
                };
                let before = last.insert((topic, lane, life), *number);
                assert!(before < Some(*number), "{arrival:?} came after {before:?}");
            }
        }
    }

    /// Nothing is missing.
    fn judge_complete(
        &self,
        account: &Account,
        site: &Site,
        mut missing: Vec<String>,
        dropped: u64,
    ) {
        let arrived: BTreeSet<(&str, u32)> = account
            .arrived
            .iter()
            .map(|(arrival, ..)| (arrival.topic.as_str(), arrival.number))
            .collect();
        for (area, sender) in senders(site) {
            let is_to_be = |number: &u32| {
                let below = sender.topic(*number).split('/').nth(1);
                let is_taken = below != Some(PRIVATE) && below != Some(BAD);
                let is_latest = *number + sender.topics.len() as u32 >= sender.messages;
                let is_kept = match AREAS[area].keep {
                    "all" => true,
                    "latest" => is_latest,
                    _ => false,
                };
                let is_sure = !account.is_betrayed || AREAS[area].rule_qos < 2;
                is_taken
                    && is_kept
                    && is_sure
                    && !account.unseen[area].contains(number)
                    && !self.young[area].contains(number)
                    && !arrived.contains(&(sender.topic(*number), *number))
            };
            let numbers = sender.promised.keys().copied().filter(is_to_be);
            missing.extend(numbers.map(|number| format!("{} {number}", sender.topic(number))));
        }
        assert!(
            missing.len() as u64 <= dropped,
            "{} messages never came, and {dropped} were dropped: {missing:?}",
            missing.len()
        );
    }

    /// What is retained upstream is what was retained here last.
    pub fn judge_retained(site: &Site, there: &BTreeMap<String, String>) {
        for (_, sender) in senders(site).filter(|(_, sender)| sender.retain) {
            if sender.qos == QoS::AtMostOnce {
                continue;
            }
            for number in sender.messages - sender.topics.len() as u32..sender.messages {
                let topic = sender.topic(number);
                let found = there.get(&format!("up/{topic}"));
                let found = found.map(|payload| payload.trim());
                assert_eq!(
                    found,
                    Some(&*number.to_string()),
                    "retained upstream: {topic}"
                );
            }
        }
    }

    /// What was promised, what came, and what came again.
    pub fn totals(&self, site: &Site) -> (u64, u64, u64) {
        let promised = senders(site).map(|(_, sender)| sender.promised.len() as u64);
        let (mut arrived, mut again) = (0, 0);
        for account in &self.accounts {
            let all: BTreeSet<_> = account
                .arrived
                .iter()
                .map(|(arrival, ..)| (&arrival.topic, arrival.number))
                .collect();
            arrived += all.len() as u64;
            again += (account.arrived.len() - all.len()) as u64;
        }
        (promised.sum(), arrived, again)
    }
}

/// Where a topic belongs.
pub fn area_of(topic: &str) -> (usize, &'static Area) {
    let name = topic.split('/').next();
    let mut areas = AREAS.iter().enumerate();
    let found = areas.find(|(_, area)| Some(area.name) == name);
    found.expect("everything is published in an area")
}

/// Those who publish, by area.
fn senders(site: &Site) -> impl Iterator<Item = (usize, &Sender)> {
    let senders = site.clients.iter().filter_map(|client| match &client.role {
        Role::Sender(sender) => Some(sender),
        Role::Taker(_) => None,
    });
    senders.enumerate()
}
