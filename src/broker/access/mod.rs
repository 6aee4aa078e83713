//! Who may publish and subscribe where: asked before anything is matched, and again before anything
//! is delivered.
//!
//! The gateway owns `BASE/…`. Clients and bridges may publish below it only commands (`…/set`,
//! `…/get`) and requests (`BASE/gateway/request/…`), unless a rule says `own`, and never to a topic
//! that begins with `$`. Beyond that the operator's rules decide, if there are any.
//!
//! | asked | when |
//! |---|---|
//! | [`Access::may_publish`] | CONNECT, for the will; PUBLISH; again when a will is published |
//! | [`Permissions::may_subscribe`] | SUBSCRIBE |
//! | [`Permissions::may_receive`] | each delivery, live or retained; what is queued, after a reload |

mod filter;
mod rules;

use std::collections::BTreeMap;

pub use self::filter::Pattern;
pub(super) use self::rules::Permissions;
use self::rules::Publishing;
pub use self::rules::{Effect, Order, Rule, Rules, Who};
use super::taker::Origin;
use crate::credential::PasswordHash;
use crate::credential::scram::Secret;

/// `[access]`: who is who, and who may do what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AccessSettings {
    /// The users of the password file. `None`: there is no such file, and nobody has a name by a
    /// password.
    pub users: Option<BTreeMap<Box<str>, PasswordHash>>,
    /// `None`: whoever is let in may do everything but write what the gateway owns.
    pub rules: Option<Rules>,
    /// What the salts of unknown users are made of, so that they stay the same over restarts as
    /// those of the others do. `None`: another one at each start.
    pub secret: Option<Secret>,
}

/// What may be published by whom.
#[derive(Debug, Clone, Default)]
pub(super) struct Access {
    /// What the gateway owns. Invariant: without a trailing slash; empty is nothing.
    base: Box<str>,
}

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// As it is.
    Allowed,
    /// It is a command: delivered with its RETAIN flag, so that whoever obeys commands can refuse
    /// it, but never stored.
    AllowedNeverRetained,
    /// It reaches nobody.
    Refused,
}

impl Access {
    /// Makes `BASE/…` the gateway's own, and what was that before anybody's.
    pub(super) fn protect(&mut self, base_topic: &str) {
        self.base = base_topic.trim_end_matches('/').into();
    }

    /// Whether `origin` may publish to `topic`. `permissions` are a client's, if there are rules.
    pub(super) fn may_publish(
        &self,
        origin: Origin,
        permissions: Option<&Permissions>,
        topic: &str,
    ) -> Verdict {
        let is_own = matches!(origin, Origin::Field | Origin::System);
        // An application cannot use such a topic for its own purposes (4.7.2).
        if topic.starts_with('$') {
            return if is_own {
                Verdict::Allowed
            } else {
                Verdict::Refused
            };
        }
        let publishing = permissions.map_or(Publishing::Allowed, |rules| rules.publishing(topic));
        if publishing == Publishing::Denied {
            return Verdict::Refused;
        }
        match self.below_base(topic) {
            None => Verdict::Allowed,
            Some(below) if is_command(below) => Verdict::AllowedNeverRetained,
            Some(_) if is_own || publishing == Publishing::AllowedOwn => Verdict::Allowed,
            Some(_) => Verdict::Refused,
        }
    }

    /// What follows `BASE/`; empty for `BASE` itself, and `None` for topics elsewhere.
    fn below_base<'t>(&self, topic: &'t str) -> Option<&'t str> {
        if self.base.is_empty() {
            return None;
        }
        let rest = topic.strip_prefix(&*self.base)?;
        if rest.is_empty() {
            return Some(rest);
        }
        rest.strip_prefix('/')
    }
}

/// Whether what follows `BASE/` is a command or a request.
fn is_command(below: &str) -> bool {
    let is_request = below
        .strip_prefix("gateway/request/")
        .is_some_and(|verb| !verb.is_empty());
    let is_point = below
        .rsplit_once('/')
        .is_some_and(|(point, verb)| !point.is_empty() && matches!(verb, "set" | "get"));
    is_request || is_point
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{BridgeId, SessionId};
    use crate::slab::Key;

    #[test]
    fn clients_and_bridges_command_but_do_not_speak_for_the_gateway() {
        use Verdict::{Allowed, AllowedNeverRetained as Command, Refused};
        let mut access = Access::default();
        access.protect("plants/shed");
        let client = Origin::Client(SessionId::from_parts(0, 0));
        let bridge = Origin::Bridge(BridgeId::from_parts(0, 0));
        for (topic, theirs, ours) in [
            ("plants/shed", Refused, Allowed),
            ("plants/shed/", Refused, Allowed),
            ("plants/shed/pump/running", Refused, Allowed),
            ("plants/shed/pump/running/quality", Refused, Allowed),
            ("plants/shed/pump/running/set", Command, Command),
            ("plants/shed/pump/running/get", Command, Command),
            ("plants/shed/pump/running/set/x", Refused, Allowed),
            ("plants/shed/set", Refused, Allowed),
            ("plants/shed//set", Refused, Allowed),
            ("plants/shed/gateway/request/read", Command, Command),
            ("plants/shed/gateway/request/", Refused, Allowed),
            ("plants/shed/gateway/state", Refused, Allowed),
            ("plants/shedding/pump", Allowed, Allowed),
            ("plants", Allowed, Allowed),
            ("other/pump/running", Allowed, Allowed),
            ("other/pump/running/set", Allowed, Allowed),
            ("$SYS/broker/version", Refused, Allowed),
            ("$anything", Refused, Allowed),
        ] {
            assert_eq!(access.may_publish(client, None, topic), theirs, "{topic}");
            assert_eq!(access.may_publish(bridge, None, topic), theirs, "{topic}");
            assert_eq!(
                access.may_publish(Origin::Field, None, topic),
                ours,
                "{topic}"
            );
            assert_eq!(
                access.may_publish(Origin::System, None, topic),
                ours,
                "{topic}"
            );
        }
        access.protect("barn");
        assert_eq!(access.may_publish(client, None, "plants/shed"), Allowed);
        assert_eq!(access.may_publish(client, None, "barn"), Refused);
    }
}
