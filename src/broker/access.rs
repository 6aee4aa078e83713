//! Who may publish where: one question with one answer, asked before anything is matched.
//!
//! The gateway owns `BASE/…`. Clients and bridges may publish below it only commands (`…/set`,
//! `…/get`) and requests (`BASE/gateway/request/…`), and never to a topic that begins with `$`.
//! Rules of an access list will have their place in [`Access::may_publish`].

use super::taker::Origin;

/// What may be published by whom.
#[derive(Debug, Clone, Default)]
pub(super) struct Access {
    /// Invariant: Topic Names without a trailing slash.
    bases: Vec<Box<str>>,
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
    /// Makes `BASE/…` the gateway's own.
    pub(super) fn protect(&mut self, base_topic: &str) {
        let base = base_topic.trim_end_matches('/');
        if !base.is_empty() && !self.bases.iter().any(|known| &**known == base) {
            self.bases.push(base.into());
        }
    }

    /// Whether `origin` may publish to `topic`.
    pub(super) fn may_publish(&self, origin: Origin, topic: &str) -> Verdict {
        let is_own = matches!(origin, Origin::Field | Origin::System);
        // An application cannot use such a topic for its own purposes (4.7.2).
        if topic.starts_with('$') {
            return if is_own {
                Verdict::Allowed
            } else {
                Verdict::Refused
            };
        }
        for base in &self.bases {
            let Some(rest) = topic.strip_prefix(&**base) else {
                continue;
            };
            let below = match rest.strip_prefix('/') {
                Some(below) => below,
                None if rest.is_empty() => "",
                None => continue,
            };
            return match (is_command(below), is_own) {
                (true, _) => Verdict::AllowedNeverRetained,
                (false, true) => Verdict::Allowed,
                (false, false) => Verdict::Refused,
            };
        }
        Verdict::Allowed
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
            assert_eq!(access.may_publish(client, topic), theirs, "{topic}");
            assert_eq!(access.may_publish(bridge, topic), theirs, "{topic}");
            assert_eq!(access.may_publish(Origin::Field, topic), ours, "{topic}");
            assert_eq!(access.may_publish(Origin::System, topic), ours, "{topic}");
        }
    }
}
