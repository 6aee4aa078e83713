//! The topic filters of rules: with `%u` and `%c` as written, and for one client as meant.
//!
//! What stands for a user name or a client identifier is one level of its own, and only ever equal
//! to itself: a name with `+`, `#` or `/` in it never makes a rule mean more than it says.

use super::Effect;
use crate::mqtt::{TopicError, TopicFilter};

/// A rule's filter as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    text: Box<str>,
    /// `%u` and `%c` stand for nothing but themselves.
    is_literal: bool,
}

impl Pattern {
    /// Checks a filter. `%u` and `%c` stand for the user name and the client identifier where each
    /// is a whole level.
    ///
    /// # Errors
    /// If it is no topic filter.
    pub fn new(text: &str) -> Result<Self, TopicError> {
        TopicFilter::new(text)?;
        Ok(Self {
            text: text.into(),
            is_literal: false,
        })
    }

    /// Checks a filter in which `%u` and `%c` are levels like any other.
    ///
    /// # Errors
    /// If it is no topic filter.
    pub fn literal(text: &str) -> Result<Self, TopicError> {
        Ok(Self {
            is_literal: true,
            ..Self::new(text)?
        })
    }

    /// As written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// For one client. `None`: there is nothing that it could mean for this one.
    pub(super) fn bind(&self, user: Option<&str>, client: &str, effect: Effect) -> Option<Filter> {
        let mut levels = Vec::new();
        for level in self.text.split('/') {
            let name = match level {
                "+" => {
                    levels.push(Level::Any);
                    continue;
                }
                "#" => {
                    levels.push(Level::Rest);
                    continue;
                }
                "%u" if !self.is_literal => user?,
                "%c" if !self.is_literal => client,
                literal => {
                    levels.push(Level::Is(literal.into()));
                    continue;
                }
            };
            // A name that is no level by itself is never what a rule allows. What a rule denies it
            // denies also below such a name.
            if effect == Effect::Allow && (name.is_empty() || name.contains(['+', '#', '/'])) {
                return None;
            }
            levels.extend(name.split('/').map(|part| Level::Is(part.into())));
        }
        Some(Filter(levels.into()))
    }
}

/// A rule's filter for one client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Filter(Box<[Level]>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Level {
    Is(Box<str>),
    /// `+`.
    Any,
    /// `#`: this level and all below it, and the one above.
    Rest,
}

impl Filter {
    /// Whether a topic is one of its topics.
    pub(super) fn matches(&self, topic: &str) -> bool {
        if topic.starts_with('$') && self.starts_wild() {
            return false; // [MQTT-4.7.2-1]
        }
        let mut levels = self.0.iter();
        for part in topic.split('/') {
            match levels.next() {
                Some(Level::Rest) => return true,
                Some(Level::Any) => {}
                Some(Level::Is(name)) if **name == *part => {}
                Some(Level::Is(_)) | None => return false,
            }
        }
        matches!(levels.next(), None | Some(Level::Rest))
    }

    /// Whether a topic can be one of both.
    pub(super) fn overlaps(&self, filter: &str) -> bool {
        if self.is_hidden_from(filter) {
            return false;
        }
        let mut theirs = filter.split('/');
        for ours in &self.0 {
            match (ours, theirs.next()) {
                (Level::Rest, _) | (_, Some("#")) => return true,
                (_, None) => return false,
                (Level::Any, _) | (_, Some("+")) => {}
                (Level::Is(name), Some(part)) if **name == *part => {}
                (Level::Is(_), Some(_)) => return false,
            }
        }
        matches!(theirs.next(), None | Some("#"))
    }

    /// Whether all topics of `filter` are its topics too.
    pub(super) fn covers(&self, filter: &str) -> bool {
        if self.is_hidden_from(filter) {
            return false;
        }
        if filter == "#" {
            // `+/#` has every topic too: each has a first level.
            return matches!(*self.0, [Level::Rest] | [Level::Any, Level::Rest]);
        }
        let mut ours = self.0.iter();
        for part in filter.split('/') {
            match (ours.next(), part) {
                (Some(Level::Rest), _) => return true,
                (Some(Level::Is(_) | Level::Any), "#") | (None, _) => return false,
                (Some(Level::Any), _) => {}
                (Some(Level::Is(_)), "+") => return false,
                (Some(Level::Is(name)), part) if **name == *part => {}
                (Some(Level::Is(_)), _) => return false,
            }
        }
        matches!(ours.next(), None | Some(Level::Rest))
    }

    fn starts_wild(&self) -> bool {
        matches!(self.0.first(), Some(Level::Any | Level::Rest))
    }

    /// Whether one of the two begins with `$` and the other with a wildcard, which does not reach
    /// there [MQTT-4.7.2-1].
    fn is_hidden_from(&self, filter: &str) -> bool {
        let theirs_is_wild = filter.starts_with(['+', '#']);
        let ours_is_dollar =
            matches!(self.0.first(), Some(Level::Is(name)) if name.starts_with('$'));
        (filter.starts_with('$') && self.starts_wild()) || (ours_is_dollar && theirs_is_wild)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mqtt::topic;

    fn filter(text: &str) -> Filter {
        let pattern = Pattern::new(text).unwrap();
        pattern.bind(None, "client", Effect::Allow).unwrap()
    }

    #[test]
    fn names_stand_for_one_level_and_never_for_more() {
        let bind = |text: &str, user: Option<&str>, client: &str, effect| {
            Pattern::new(text).unwrap().bind(user, client, effect)
        };
        let own = bind("clients/%c/%u/#", Some("anna"), "panel", Effect::Allow).unwrap();
        assert!(own.matches("clients/panel/anna/x"));
        assert!(!own.matches("clients/panel/bert/x"));
        for hostile in ["+", "#", "a/b", "", "a+"] {
            assert_eq!(bind("clients/%c", None, hostile, Effect::Allow), None);
            assert_eq!(bind("users/%u/x", Some(hostile), "c", Effect::Allow), None);
        }
        assert_eq!(bind("users/%u", None, "c", Effect::Allow), None);
        assert_eq!(bind("users/%u", None, "c", Effect::Deny), None);
        let denied = bind("clients/%c/secret", None, "a/b", Effect::Deny).unwrap();
        assert!(denied.matches("clients/a/b/secret"));
        let denied = bind("clients/%c/secret", None, "+", Effect::Deny).unwrap();
        assert!(
            !denied.matches("clients/x/secret"),
            "a wildcard is a name here"
        );
        let literal = bind("a/%cx/%%c", None, "c", Effect::Allow).unwrap();
        assert!(
            literal.matches("a/%cx/%%c"),
            "only a whole level stands for a name"
        );
    }

    #[test]
    fn wildcards_do_not_reach_into_what_begins_with_a_dollar() {
        assert!(!filter("#").matches("$SYS/x"));
        assert!(!filter("#").covers("$SYS/#"));
        assert!(!filter("#").overlaps("$SYS/#"));
        assert!(!filter("$SYS/#").overlaps("#"));
        assert!(filter("$SYS/#").covers("$SYS/broker/+"));
    }

    fn text() -> impl Strategy<Value = String> {
        let level = prop_oneof![Just("a"), Just("b"), Just("+"), Just("")];
        (proptest::collection::vec(level, 1..4), any::<bool>()).prop_map(|(levels, tail)| {
            let text = levels.join("/") + if tail { "/#" } else { "" };
            if text.is_empty() { "#".into() } else { text }
        })
    }

    /// Every topic of up to five of the levels there are, and of one more; also the one that is no
    /// topic, for it is what `/#` has above it.
    fn topics() -> Vec<String> {
        let mut all: Vec<String> = ["a", "b", "", "z"].map(str::to_owned).to_vec();
        let mut last = all.clone();
        for _ in 0..4 {
            last = last
                .iter()
                .flat_map(|topic| ["a", "b", "", "z"].map(|level| format!("{topic}/{level}")))
                .collect();
            all.extend(last.iter().cloned());
        }
        all
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn agrees_with_a_look_at_every_topic(ours in text(), theirs in text()) {
            let filter = filter(&ours);
            let topics = topics();
            for topic in &topics {
                prop_assert_eq!(filter.matches(topic), topic::matches(&ours, topic), "{}", topic);
            }
            let of_theirs = || topics.iter().filter(|topic| topic::matches(&theirs, topic));
            let overlaps = of_theirs().any(|topic| filter.matches(topic));
            prop_assert_eq!(filter.overlaps(&theirs), overlaps);
            let covers = of_theirs().all(|topic| filter.matches(topic));
            prop_assert_eq!(filter.covers(&theirs), covers);
        }
    }
}
