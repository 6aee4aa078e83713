//! ACL files in mosquitto's format.
//!
//! | line | means |
//! |---|---|
//! | `topic [ACCESS] FILTER` before any `user` | of clients without a name |
//! | `user NAME` | the `topic` lines that follow are this user's |
//! | `topic [ACCESS] FILTER` | of that user |
//! | `pattern [ACCESS] FILTER` | of everybody, with `%u` and `%c` |
//!
//! `ACCESS` is `read`, `write`, `readwrite` (if it is missing) or `deny`. One that denies wins,
//! else one that allows; what no line allows is refused.

use std::collections::BTreeSet;

use super::{LineError, RULES_MAX};
use crate::broker::settings::{Effect, Order, Pattern, Rule, Rules, Who};

/// Said with every mistake.
pub(super) const HELP: &str =
    "a line is `user NAME`, `topic [read|write|readwrite|deny] FILTER` or `pattern …` likewise";

/// The rules of an ACL file.
///
/// # Errors
/// Every line that is wrong.
pub fn parse(text: &str) -> Result<Rules, Vec<LineError>> {
    let mut list = Vec::new();
    let mut errors = Vec::new();
    let mut user: Option<Box<str>> = None;
    for (index, line) in text.lines().enumerate() {
        let content = line.trim();
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        let before = line.len() - line.trim_start().len();
        let (word, rest) = split(content);
        // Where the rest of the line begins, for messages.
        let column = before + content.len() - rest.len() + 1;
        let parsed = match word {
            "user" if rest.is_empty() => Err("a user's name is missing".to_owned()),
            "user" => {
                user = Some(rest.into());
                Ok(None)
            }
            "topic" => {
                let who = match &user {
                    Some(user) => Who::Users(BTreeSet::from([user.clone()])),
                    None => Who::Anonymous,
                };
                // Names are filled in for `pattern` lines only.
                rule(who, rest, true).map(Some)
            }
            "pattern" => rule(Who::Everybody, rest, false).map(Some),
            other => Err(format!(
                "`{}` is no word of an ACL file",
                other.escape_debug()
            )),
        };
        match parsed {
            Ok(rule) => list.extend(rule),
            Err(what) => errors.push(LineError {
                line: index + 1,
                column,
                what: what.into(),
            }),
        }
        if list.len() > RULES_MAX {
            errors.push(LineError {
                line: index + 1,
                column: 1,
                what: format!("more than {RULES_MAX} rules").into(),
            });
            break;
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    Ok(Rules {
        list,
        order: Order::DenyWins,
        default: Effect::Deny,
    })
}

/// The first word, and what follows the spaces behind it.
fn split(text: &str) -> (&str, &str) {
    match text.split_once([' ', '\t']) {
        Some((word, rest)) => (word, rest.trim_start()),
        None => (text, ""),
    }
}

fn rule(who: Who, rest: &str, is_literal: bool) -> Result<Rule, String> {
    let (word, behind) = split(rest);
    let (access, filter) = if behind.is_empty() {
        ("readwrite", word)
    } else {
        (word, behind)
    };
    let (effect, publish, subscribe) = match access {
        "read" => (Effect::Allow, false, true),
        "write" => (Effect::Allow, true, false),
        "readwrite" => (Effect::Allow, true, true),
        "deny" => (Effect::Deny, true, true),
        other => {
            let other = other.escape_debug();
            return Err(format!("`{other}` is not read, write, readwrite or deny"));
        }
    };
    if filter.is_empty() {
        return Err("a filter is missing".into());
    }
    let pattern = if is_literal {
        Pattern::literal(filter)
    } else {
        Pattern::new(filter)
    };
    let filter = pattern.map_err(|error| format!("`{}`: {error}", filter.escape_debug()))?;
    Ok(Rule {
        who,
        effect,
        publish,
        subscribe,
        filter,
        own: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_as_people_have_it_is_read_as_they_mean_it() {
        use Effect::{Allow, Deny};
        let text = "# comment\n\
            topic read $SYS/#\n\
            topic readwrite open/with space\n\
            \n\
            user anna b.\n\
            topic readwrite shed/#\n\
            \ttopic deny shed/secret/#\n\
            topic write a/%c\n\
            pattern read clients/%c/%u/#\n";
        let rules = parse(text).unwrap();
        let said: Vec<_> = rules
            .list
            .iter()
            .map(|rule| {
                let verbs = [(rule.publish, 'p'), (rule.subscribe, 's')];
                let verbs: String = verbs
                    .iter()
                    .filter(|verb| verb.0)
                    .map(|verb| verb.1)
                    .collect();
                (
                    rule.who.clone(),
                    rule.effect,
                    verbs,
                    rule.filter.as_str().to_owned(),
                )
            })
            .collect();
        let anna = || Who::Users(BTreeSet::from(["anna b.".into()]));
        assert_eq!(
            said,
            [
                (Who::Anonymous, Allow, "s".to_owned(), "$SYS/#".to_owned()),
                (Who::Anonymous, Allow, "ps".into(), "open/with space".into()),
                (anna(), Allow, "ps".into(), "shed/#".into()),
                (anna(), Deny, "ps".into(), "shed/secret/#".into()),
                (anna(), Allow, "p".into(), "a/%c".into()),
                (Who::Everybody, Allow, "s".into(), "clients/%c/%u/#".into()),
            ]
        );
        assert_eq!((rules.order, rules.default), (Order::DenyWins, Deny));
    }

    #[test]
    fn every_wrong_line_is_told_with_its_place() {
        let text = "user\n topic rw a\ntopic\ntopics a\npattern read a/#/b\n";
        let errors: Vec<String> = parse(text)
            .unwrap_err()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            errors,
            [
                "1:5: a user's name is missing",
                "2:8: `rw` is not read, write, readwrite or deny",
                "3:6: a filter is missing",
                "4:8: `topics` is no word of an ACL file",
                "5:9: `a/#/b`: # stands alone, as the last level of a filter",
            ]
        );
    }
}
