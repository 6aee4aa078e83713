//! Who may publish and subscribe where: the rules as meant, and what they come to for one client.
//!
//! For each session the rules that speak of it are picked out once, names filled in, so that a
//! publication or a delivery looks at nothing else.

use std::collections::BTreeSet;

use super::filter::{Filter, Pattern};

/// The rules of `[access]` or of an ACL file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// In the order of the file.
    pub list: Vec<Rule>,
    /// Which of those that match decides.
    pub order: Order,
    /// If none matches.
    pub default: Effect,
}

/// Which rule decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The first that matches.
    FirstMatch,
    /// One that denies, before one that allows: as mosquitto reads its files.
    DenyWins,
}

/// What a rule says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Yes.
    Allow,
    /// No.
    Deny,
}

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Publish,
    /// To subscribe, and to be delivered to.
    Subscribe,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Of whom it speaks.
    pub who: Who,
    /// What it says.
    pub effect: Effect,
    /// It speaks of publishing.
    pub publish: bool,
    /// It speaks of subscribing and of what is delivered.
    pub subscribe: bool,
    /// Where.
    pub filter: Pattern,
    /// It allows to publish also what the gateway otherwise keeps for itself.
    pub own: bool,
}

/// Of whom a rule speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// Of all clients.
    Everybody,
    /// Of clients without a name.
    Anonymous,
    /// Of these users.
    Users(BTreeSet<Box<str>>),
    /// Of the client with this identifier.
    Client(Box<str>),
}

impl Who {
    fn is(&self, user: Option<&str>, client: &str) -> bool {
        match self {
            Self::Everybody => true,
            Self::Anonymous => user.is_none(),
            Self::Users(users) => user.is_some_and(|user| users.contains(user)),
            Self::Client(id) => **id == *client,
        }
    }
}

impl Rules {
    /// What they come to for one client.
    pub(in crate::broker) fn bind(&self, user: Option<&str>, client: &str) -> Permissions {
        let speaks = |rule: &&Rule| rule.who.is(user, client);
        let bind = |rule: &Rule| {
            Some(Bound {
                effect: rule.effect,
                publish: rule.publish,
                subscribe: rule.subscribe,
                own: rule.own,
                filter: rule.filter.bind(user, client, rule.effect)?,
            })
        };
        Permissions {
            rules: self.list.iter().filter(speaks).filter_map(bind).collect(),
            order: self.order,
            default: self.default,
        }
    }
}

/// The rules that speak of one client.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::broker) struct Permissions {
    rules: Box<[Bound]>,
    order: Order,
    default: Effect,
}

#[derive(Debug, PartialEq, Eq)]
struct Bound {
    effect: Effect,
    publish: bool,
    subscribe: bool,
    own: bool,
    filter: Filter,
}

/// Whether something may be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Publishing {
    Denied,
    Allowed,
    /// Also if the topic is the gateway's.
    AllowedOwn,
}

impl Permissions {
    /// Whether the client may be delivered to from this topic.
    pub(in crate::broker) fn may_receive(&self, topic: &str) -> bool {
        match self.decide(Verb::Subscribe, |filter| filter.matches(topic)) {
            Some(rule) => rule.effect == Effect::Allow,
            None => self.default == Effect::Allow,
        }
    }

    /// Whether the client may publish to this topic.
    pub(super) fn publishing(&self, topic: &str) -> Publishing {
        match self.decide(Verb::Publish, |filter| filter.matches(topic)) {
            Some(rule) if rule.effect == Effect::Deny => Publishing::Denied,
            Some(rule) if rule.own => Publishing::AllowedOwn,
            Some(_) => Publishing::Allowed,
            None if self.default == Effect::Allow => Publishing::Allowed,
            None => Publishing::Denied,
        }
    }

    /// Whether a subscription could bring anything at all; what it may bring is asked at each
    /// delivery.
    pub(in crate::broker) fn may_subscribe(&self, filter: &str) -> bool {
        let speaking = || {
            self.rules
                .iter()
                .filter(|rule| rule.speaks_of(Verb::Subscribe))
        };
        let denies_all = |rule: &Bound| rule.effect == Effect::Deny && rule.filter.covers(filter);
        let allows_some =
            |rule: &Bound| rule.effect == Effect::Allow && rule.filter.overlaps(filter);
        match self.order {
            Order::DenyWins => {
                !speaking().any(denies_all)
                    && (speaking().any(allows_some) || self.default == Effect::Allow)
            }
            Order::FirstMatch => {
                for rule in speaking() {
                    if allows_some(rule) {
                        return true;
                    }
                    if denies_all(rule) {
                        return false;
                    }
                }
                self.default == Effect::Allow
            }
        }
    }

    fn decide(&self, verb: Verb, fits: impl Fn(&Filter) -> bool) -> Option<&Bound> {
        let mut matching = self
            .rules
            .iter()
            .filter(|rule| rule.speaks_of(verb) && fits(&rule.filter));
        match self.order {
            Order::FirstMatch => matching.next(),
            Order::DenyWins => {
                let first = matching.next()?;
                if first.effect == Effect::Deny {
                    return Some(first);
                }
                Some(
                    matching
                        .find(|rule| rule.effect == Effect::Deny)
                        .unwrap_or(first),
                )
            }
        }
    }
}

impl Bound {
    fn speaks_of(&self, verb: Verb) -> bool {
        match verb {
            Verb::Publish => self.publish,
            Verb::Subscribe => self.subscribe,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(who: Who, effect: Effect, verbs: &str, filter: &str) -> Rule {
        Rule {
            who,
            effect,
            publish: verbs.contains('p'),
            subscribe: verbs.contains('s'),
            filter: Pattern::new(filter).unwrap(),
            own: verbs.contains('o'),
        }
    }

    fn users(names: &[&str]) -> Who {
        Who::Users(names.iter().map(|name| Box::from(*name)).collect())
    }

    fn rules(order: Order) -> Rules {
        use Effect::{Allow, Deny};
        Rules {
            list: vec![
                rule(users(&["anna", "panel"]), Allow, "ps", "shed/#"),
                rule(Who::Everybody, Deny, "ps", "shed/secret/#"),
                rule(Who::Anonymous, Allow, "s", "public/+"),
                rule(Who::Client("x".into()), Allow, "po", "shed/x"),
                rule(Who::Everybody, Allow, "ps", "own/%c/#"),
            ],
            order,
            default: Deny,
        }
    }

    #[test]
    fn the_first_that_matches_decides_or_a_deny_wins() {
        let anna = rules(Order::FirstMatch).bind(Some("anna"), "c");
        assert!(
            anna.may_receive("shed/secret/a"),
            "allowed before it is denied"
        );
        let anna = rules(Order::DenyWins).bind(Some("anna"), "c");
        assert!(!anna.may_receive("shed/secret/a"));
        assert_eq!(anna.publishing("shed/secret/a"), Publishing::Denied);
        assert!(anna.may_receive("shed/pump"));
        assert_eq!(anna.publishing("shed/pump"), Publishing::Allowed);
        assert!(
            !anna.may_receive("public/x"),
            "that is for those without a name"
        );
        assert_eq!(anna.publishing("own/c/x"), Publishing::Allowed);
        assert_eq!(anna.publishing("own/d/x"), Publishing::Denied);
        let nobody = rules(Order::DenyWins).bind(None, "x");
        assert!(nobody.may_receive("public/x"));
        assert_eq!(nobody.publishing("public/x"), Publishing::Denied);
        assert_eq!(nobody.publishing("shed/x"), Publishing::AllowedOwn);
    }

    #[test]
    fn a_subscription_is_refused_if_it_could_bring_nothing() {
        for order in [Order::FirstMatch, Order::DenyWins] {
            let anna = rules(order).bind(Some("anna"), "c");
            for (filter, expected) in [
                ("#", true),
                ("shed/+", true),
                ("shed/pump", true),
                ("own/+/x", true),
                ("own/d/#", false),
                ("public/#", false),
                ("other", false),
            ] {
                assert_eq!(anna.may_subscribe(filter), expected, "{filter} {order:?}");
            }
            let nobody = rules(order).bind(None, "c");
            assert!(!nobody.may_subscribe("shed/secret/#"), "{order:?}");
        }
        let anna = rules(Order::DenyWins).bind(Some("anna"), "c");
        assert!(!anna.may_subscribe("shed/secret/+"));
    }
}
