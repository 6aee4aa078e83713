//! Password files in mosquitto's format: `NAME:HASH` a line, and comments that begin with `#`. One
//! hash is ours alone: what SCRAM needs.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::LineError;
use crate::credential::PasswordHash;

/// Users at most.
pub const USERS_MAX: usize = 100_000;

/// The users of a password file.
///
/// # Errors
/// Every line that is wrong. No message repeats a hash.
pub fn parse(text: &str) -> Result<BTreeMap<Box<str>, PasswordHash>, Vec<LineError>> {
    let mut users = BTreeMap::new();
    let mut errors = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let mut error = |column: usize, what: String| {
            errors.push(LineError {
                line: index + 1,
                column,
                what: what.into(),
            });
        };
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((name, hash)) = line.split_once(':') else {
            error(1, "a line is NAME:HASH, and here is no colon".into());
            continue;
        };
        if name.is_empty() || name.chars().any(char::is_control) {
            error(
                1,
                "a user's name is missing, or has control characters".into(),
            );
            continue;
        }
        match (
            PasswordHash::parse(hash.trim_end()),
            users.entry(name.into()),
        ) {
            (_, Entry::Occupied(_)) => error(1, format!("the user {name} stands twice")),
            (Ok(hash), Entry::Vacant(vacant)) => {
                vacant.insert(hash);
            }
            (Err(what), Entry::Vacant(_)) => {
                error(name.len() + 2, format!("{what} (user {name})"));
            }
        }
        if users.len() > USERS_MAX {
            errors.push(LineError {
                line: index + 1,
                column: 1,
                what: format!("more than {USERS_MAX} users").into(),
            });
            break;
        }
    }
    if errors.is_empty() {
        Ok(users)
    } else {
        Err(errors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "$7$101$c2FsdA==$AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUm\
        JygpKissLS4vMDEyMzQ1Njc4OTo7PD0+Pw==";

    #[test]
    fn users_are_read_and_comments_are_not() {
        let text = format!("# staff\n\nanna:{HASH}\r\nbert b.:{HASH}\n");
        let users = parse(&text).unwrap();
        let names: Vec<&str> = users.keys().map(|name| &**name).collect();
        assert_eq!(names, ["anna", "bert b."]);
    }

    #[test]
    fn every_wrong_line_is_told_and_no_hash_is() {
        let text = format!("anna:{HASH}\nanna:{HASH}\nnobody\nbert:$9$secret\n:{HASH}\n");
        let errors: Vec<String> = parse(&text)
            .unwrap_err()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            errors,
            [
                "2:1: the user anna stands twice",
                "3:1: a line is NAME:HASH, and here is no colon",
                "4:6: a password hash begins with $6$, $7$, $argon2id$ or $scram-sha-256$ \
                    (user bert)",
                "5:1: a user's name is missing, or has control characters",
            ]
        );
    }
}
