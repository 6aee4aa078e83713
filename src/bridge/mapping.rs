//! Which topics a rule takes, and what they are called at the other end.
//!
//! A rule has a filter and a target with the same wildcards in the same order; the n-th wildcard of
//! the target takes what the n-th of the filter matched. `shed/+/temperature` to
//! `plants/shed/+/t` sends `shed/tank/temperature` as `plants/shed/tank/t`.
//!
//! **Commands.** A topic whose last level is `set` or `get`, or that is below
//! `BASE/gateway/request`, makes a gateway act. A wildcard never matches one: a rule takes commands
//! only if its filter says so in words, with `set` or `get` as its last level, or with
//! `gateway/request` behind the base topic. So `shed/#` carries readings, and nobody's commands by
//! accident. For what comes down the local side decides: the target's words, if the rule has one.

use core::fmt;

use crate::mqtt::topic::{self, TopicError};
use crate::mqtt::{TopicFilter, TopicName};

/// Where the gateway's own requests are, behind its base topic.
const REQUESTS: &str = "/gateway/request";

/// A filter and what becomes of the topics that it matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// Invariant: a Topic Filter, without a share.
    filter: Box<str>,
    /// Invariant: a Topic Filter with the wildcards of `filter`, in kind and order.
    target: Option<Box<str>>,
    /// Invariant: Topic Filters, without a share.
    except: Vec<Box<str>>,
}

/// Which commands a filter names in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Named {
    /// `set` or `get`, if that is its last level.
    verb: Option<&'static str>,
    /// It is below the gateway's requests.
    requests: bool,
}

impl Mapping {
    /// Of a rule of the configuration. A share (`$share/NAME/`) before `filter` is not part of what
    /// is mapped.
    ///
    /// # Errors
    /// If a filter is none, or the target's wildcards are not those of the filter.
    pub fn new(
        filter: &str,
        target: Option<&str>,
        except: &[Box<str>],
    ) -> Result<Self, MappingError> {
        let filter = TopicFilter::new(filter).map_err(MappingError::Filter)?;
        let filter = filter.share().map_or(filter, |(_, filter)| filter).as_str();
        for topic in except {
            topic::check_filter(topic).map_err(MappingError::Except)?;
        }
        if let Some(target) = target {
            topic::check_filter(target).map_err(MappingError::Target)?;
            if TopicFilter::new(target).is_ok_and(TopicFilter::is_shared) {
                return Err(MappingError::SharedTarget);
            }
            if !wildcards(filter).eq(wildcards(target)) {
                return Err(MappingError::Wildcards);
            }
        }
        Ok(Self {
            filter: filter.into(),
            target: target.map(Into::into),
            except: except.to_vec(),
        })
    }

    /// What `topic` is called at the other end. `None` if the rule does not take it, or if the name
    /// would be none (it may be too long).
    pub fn map(&self, topic: &str) -> Option<Box<str>> {
        if !self.matches(topic) {
            return None;
        }
        let Some(target) = &self.target else {
            return Some(topic.into());
        };
        let mapped = translate(&self.filter, target, topic);
        TopicName::new(&mapped).ok()?;
        Some(mapped.into())
    }

    /// Whether the rule takes this topic, commands aside.
    pub fn matches(&self, topic: &str) -> bool {
        topic::matches(&self.filter, topic)
            && !self.except.iter().any(|it| topic::matches(it, topic))
    }

    /// Whether the filter names in words the command that `topic` is; `true` if it is none.
    pub fn source_names(&self, base: &str, topic: &str) -> bool {
        names(&self.filter, base, topic)
    }

    /// The same for the target and a mapped topic.
    pub fn target_names(&self, base: &str, topic: &str) -> bool {
        names(self.target.as_deref().unwrap_or(&self.filter), base, topic)
    }
}

/// Whether a topic makes a gateway with this base topic, or another one, act.
pub fn is_command(base: &str, topic: &str) -> bool {
    verb_of(topic).is_some() || is_request(base, topic)
}

fn names(filter: &str, base: &str, topic: &str) -> bool {
    let named = Named {
        verb: verb_of(filter),
        requests: is_request(base, filter),
    };
    let verb_is_named = verb_of(topic).is_none_or(|verb| named.verb == Some(verb));
    let request_is_named = !is_request(base, topic) || named.requests;
    // A request's last level may happen to be a verb: `request/set` is one.
    if is_request(base, topic) {
        request_is_named
    } else {
        verb_is_named
    }
}

/// `set` or `get`, if that is the last of several levels.
fn verb_of(topic: &str) -> Option<&'static str> {
    let (_, last) = topic.rsplit_once('/')?;
    ["set", "get"].into_iter().find(|verb| *verb == last)
}

fn is_request(base: &str, topic: &str) -> bool {
    topic
        .strip_prefix(base)
        .and_then(|rest| rest.strip_prefix(REQUESTS))
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn wildcards(filter: &str) -> impl Iterator<Item = &str> {
    filter
        .split('/')
        .filter(|level| matches!(*level, "+" | "#"))
}

/// `topic`, which matches `filter`, by the words of `target`.
fn translate(filter: &str, target: &str, topic: &str) -> String {
    // What each `+` matched, and what `#` did: nothing, if it stands for the level above it
    // (4.7.1.2).
    let mut levels = topic.split('/');
    let mut matched = Vec::new();
    let mut tail = None;
    for wanted in filter.split('/') {
        match wanted {
            "#" => tail = Some(levels.by_ref().collect::<Vec<_>>()),
            "+" => matched.extend(levels.next()),
            _ => {
                levels.next();
            }
        }
    }
    let mut matched = matched.into_iter();
    let mut mapped = Vec::new();
    for level in target.split('/') {
        match level {
            "#" => mapped.extend(tail.take().unwrap_or_default()),
            "+" => mapped.extend(matched.next()),
            word => mapped.push(word),
        }
    }
    mapped.join("/")
}

/// Why a rule maps nothing: the operator's to fix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MappingError {
    /// The filter is none.
    Filter(TopicError),
    /// One of the exceptions is no filter.
    Except(TopicError),
    /// The target is neither a topic nor a filter.
    Target(TopicError),
    /// The target begins with `$share/`.
    SharedTarget,
    /// The target has other wildcards than the filter, or in another order.
    Wildcards,
}

impl fmt::Display for MappingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Filter(error) => write!(f, "the filter: {error}"),
            Self::Except(error) => write!(f, "an exception: {error}"),
            Self::Target(error) => write!(f, "the target: {error}"),
            Self::SharedTarget => f.write_str("a target has no share"),
            Self::Wildcards => {
                f.write_str("the target needs the wildcards of the filter, in the same order")
            }
        }
    }
}

impl std::error::Error for MappingError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(filter: &str, target: &str, topic: &str) -> Option<String> {
        let mapping = Mapping::new(filter, Some(target), &[]).unwrap();
        mapping.map(topic).map(String::from)
    }

    #[test]
    fn the_nth_wildcard_takes_what_the_nth_matched() {
        for (filter, target, topic, expected) in [
            (
                "shed/#",
                "plants/shed/#",
                "shed/a/b",
                Some("plants/shed/a/b"),
            ),
            ("shed/#", "plants/shed/#", "shed", Some("plants/shed")),
            ("shed/#", "#", "shed/a", Some("a")),
            ("shed/#", "#", "shed", None), // a name has at least one character
            ("#", "all/#", "a/b", Some("all/a/b")),
            ("#", "all/#", "$SYS/a", None),
            ("a/+/b/+", "+/x/+", "a/1/b/2", Some("1/x/2")),
            ("a/+/b/#", "+/x/#", "a//b/2/3", Some("/x/2/3")),
            ("a/+", "b/+", "a/", Some("b/")),
            ("a/b", "c", "a/b", Some("c")),
            ("a/b", "c", "a/c", None),
        ] {
            let mapped = map(filter, target, topic);
            assert_eq!(mapped.as_deref(), expected, "{filter} {target} {topic}");
        }
        let long = format!("shed/{}", "x".repeat(65_530));
        assert_eq!(map("shed/#", "a/longer/one/#", &long), None);
        let as_it_is = Mapping::new("$share/g/a/+", None, &["a/no".into()]).unwrap();
        assert_eq!(as_it_is.map("a/yes").as_deref(), Some("a/yes"));
        assert_eq!(as_it_is.map("a/no"), None);
    }

    #[test]
    fn a_target_has_the_wildcards_of_its_filter() {
        let refused = |filter, target| Mapping::new(filter, Some(target), &[]).unwrap_err();
        assert_eq!(refused("a/+/#", "b/#"), MappingError::Wildcards);
        assert_eq!(refused("a/+/#", "b/+"), MappingError::Wildcards);
        assert_eq!(refused("a", "b/+"), MappingError::Wildcards);
        assert_eq!(refused("a/#", "$share/g/#"), MappingError::SharedTarget);
        assert!(matches!(refused("a/#b", "#"), MappingError::Filter(_)));
        assert!(matches!(refused("a/#", "#/b"), MappingError::Target(_)));
        let except = Mapping::new("a", None, &["#/".into()]);
        assert!(matches!(except, Err(MappingError::Except(_))));
    }

    #[test]
    fn a_command_is_taken_only_where_it_is_named() {
        for (filter, topic, expected) in [
            ("shed/#", "shed/pump/running", true),
            ("shed/#", "shed/pump/running/set", false),
            ("shed/+/+/+", "shed/pump/running/get", false),
            ("shed/+/+/set", "shed/pump/running/set", true),
            ("shed/+/+/set", "shed/pump/running/get", false),
            ("shed/#", "shed/gateway/request/reload", false),
            ("shed/gateway/#", "shed/gateway/request/set", false),
            ("shed/gateway/request/#", "shed/gateway/request/set", true),
            ("shed/gateway/request/+", "shed/gateway/request/set", true),
            ("+/+/request/#", "shed/gateway/request/set", false),
            // Not ours, so not a request; and a word is no verb without a level before it.
            ("#", "barn/gateway/request/reload", true),
            ("#", "set", true),
            ("shed/#", "shed/gateway/requests", true),
        ] {
            let mapping = Mapping::new(filter, None, &[]).unwrap();
            assert_eq!(
                mapping.source_names("shed", topic),
                expected,
                "{filter} {topic}"
            );
        }
        let down = Mapping::new("plants/shed/+/+/do", Some("shed/+/+/set"), &[]).unwrap();
        assert!(down.target_names("shed", "shed/pump/running/set"));
        let down = Mapping::new("plants/#", Some("shed/#"), &[]).unwrap();
        assert!(!down.target_names("shed", "shed/pump/running/set"));
        assert!(is_command("shed", "shed/gateway/request/reload"));
        assert!(!is_command("shed", "shed/pump/running"));
    }
}
