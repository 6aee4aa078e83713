//! `fieldgate passwd`: edits a password file in mosquitto's formats, and in one for SCRAM.
//!
//! Comments and the lines of other users stay as they are. The file is replaced whole, so that a
//! gateway that reads it meanwhile sees the old one or the new one.

use core::num::NonZeroU32;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use lexopt::Parser;

use crate::config::access::parse_passwords;
use crate::credential::{PasswordHash, SCRAM_ITERATIONS_MIN, Scheme};
use crate::host::{password, secret};

use super::{Argument, Failure, Globals, code, help, other_argument, output};

/// Rounds of PBKDF2 if nothing is said: about a tenth of a second on a Pi 3, for us and for whoever
/// guesses.
const ITERATIONS: u32 = 50_000;

/// mosquitto's own choice: 46 MiB for each login.
const ARGON2ID: Scheme = Scheme::Argon2id {
    memory_kib: 47_104,
    passes: 1,
    lanes: 1,
};

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    /// Set a user's password.
    Set,
    /// Remove a user.
    Delete,
}

pub(crate) fn run(mut parser: Parser, mut globals: Globals) -> Result<u8, Failure> {
    let mut action = Action::Set;
    let (mut create, mut is_given) = (false, false);
    let (mut kind, mut iterations) = (String::from("sha512-pbkdf2"), None);
    let mut values = Vec::new();
    while let Some(argument) = Argument::next(&mut parser)? {
        match argument {
            Argument::Short('c') => create = true,
            Argument::Short('D') => action = Action::Delete,
            Argument::Short('b') => is_given = true,
            Argument::Short('H') => kind = text(&parser.value()?)?,
            Argument::Short('I') => iterations = Some(text(&parser.value()?)?),
            Argument::Value(value) => values.push(value),
            other => {
                let ended = other_argument(other, &mut parser, &mut globals, help::PASSWD)?;
                if let Some(code) = ended {
                    return Ok(code);
                }
            }
        }
    }
    let takes_password = is_given && action == Action::Set;
    if values.len() != if takes_password { 3 } else { 2 } {
        let wanted = if takes_password {
            "-b takes a file, a user and a password"
        } else {
            "a file and a user are wanted"
        };
        return Err(Failure::usage(wanted));
    }
    let scheme = scheme(&kind, iterations.as_deref())?;
    let path = PathBuf::from(&values[0]);
    let user = text(&values[1])?;
    if user.is_empty() || user.contains(':') || user.chars().any(char::is_control) {
        return Err(Failure::usage(
            "a user's name has no colon and no control characters",
        ));
    }
    let before = read(&path, create && action == Action::Set)?;
    let line = match action {
        Action::Delete => None,
        Action::Set if takes_password => Some(text(&values[2])?.into_bytes()),
        Action::Set => Some(ask(&user)?),
    };
    let line = match line {
        Some(password) => Some(format!("{user}:{}", hashed(scheme, &password)?)),
        None => None,
    };
    let after = edited(&before, &user, line.as_deref()).ok_or_else(|| {
        let name = path.display();
        Failure::failed(format!("there is no user {user} in {name}"))
    })?;
    secret::replace(&path, after.as_bytes())
        .map_err(|error| Failure::failed(path.display().to_string()).because(error))?;
    if action == Action::Set {
        output::complain("a running gateway takes it at its next reload");
    }
    Ok(code::DONE)
}

fn text(value: &std::ffi::OsStr) -> Result<String, Failure> {
    let text = value.to_str().map(str::to_owned);
    text.ok_or_else(|| Failure::usage("an argument is not UTF-8"))
}

fn scheme(kind: &str, iterations: Option<&str>) -> Result<Scheme, Failure> {
    let iterations = match iterations {
        None => NonZeroU32::new(ITERATIONS),
        Some(text) => text.parse().ok(),
    };
    let wrong = || Failure::usage("-I takes a number of iterations from 1 to 10000000");
    let iterations = iterations
        .filter(|iterations| iterations.get() <= 10_000_000)
        .ok_or_else(wrong)?;
    match kind {
        "sha512" => Ok(Scheme::Sha512),
        "sha512-pbkdf2" => Ok(Scheme::Pbkdf2Sha512 { iterations }),
        "argon2id" => Ok(ARGON2ID),
        "scram-sha-256" if iterations.get() < SCRAM_ITERATIONS_MIN => Err(Failure::usage(format!(
            "-I takes at least {SCRAM_ITERATIONS_MIN} iterations of scram-sha-256"
        ))),
        "scram-sha-256" => Ok(Scheme::ScramSha256 { iterations }),
        other => Err(Failure::usage(format!("there is no hash `{other}`"))
            .hint("it is one of sha512, sha512-pbkdf2, argon2id, scram-sha-256")),
    }
}

/// The file as it is; with `-c` one that is not there is empty. What cannot be read as a password
/// file is not edited.
fn read(path: &Path, create: bool) -> Result<String, Failure> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound && create => return Ok(String::new()),
        Err(error) => {
            let failure = Failure::failed(path.display().to_string());
            let is_missing = error.kind() == ErrorKind::NotFound;
            let failure = failure.because(error);
            return Err(if is_missing {
                failure.hint("-c makes a new file")
            } else {
                failure
            });
        }
    };
    if let Err(errors) = parse_passwords(&text) {
        let first = errors.first().map(ToString::to_string).unwrap_or_default();
        let name = path.display();
        return Err(Failure::failed(format!("{name}:{first}")).hint("the file is left as it is"));
    }
    Ok(text)
}

fn ask(user: &str) -> Result<Vec<u8>, Failure> {
    let failed = |error| Failure::failed("reading the password").because(error);
    let password = secret::ask(&format!("Password of {user}: ")).map_err(failed)?;
    if output::is_asked_on_terminal() {
        let again = secret::ask("Again: ").map_err(failed)?;
        if again != password {
            return Err(Failure::failed("the two passwords differ"));
        }
    }
    Ok(password)
}

fn hashed(scheme: Scheme, password: &[u8]) -> Result<PasswordHash, Failure> {
    if password.is_empty() {
        return Err(Failure::failed("a password has at least one character"));
    }
    let is_plain = password.iter().all(|byte| matches!(byte, b' '..=b'~'));
    if matches!(scheme, Scheme::ScramSha256 { .. }) && !is_plain {
        // A client prepares others before it computes with them (RFC 4013), and we do not.
        return Err(Failure::failed(
            "for scram-sha-256 a password has ASCII characters only, and no control characters",
        ));
    }
    let salt = secret::salt().map_err(|error| Failure::failed("drawing a salt").because(error))?;
    password::hash(scheme, &salt, password)
        .ok_or_else(|| Failure::failed("this hash cannot be computed here"))
}

/// The text with a user's line replaced, appended or removed; `None`: there is none to remove.
fn edited(text: &str, user: &str, line: Option<&str>) -> Option<String> {
    let is_theirs = |other: &str| {
        !other.starts_with('#') && other.split_once(':').is_some_and(|(name, _)| name == user)
    };
    let mut found = false;
    let mut lines: Vec<&str> = Vec::new();
    for other in text.lines() {
        if is_theirs(other) {
            found = true;
            lines.extend(line);
        } else {
            lines.push(other);
        }
    }
    if !found {
        lines.push(line?);
    }
    let mut text = lines.join("\n");
    if !text.is_empty() {
        text.push('\n');
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_changes_and_the_others_stay() {
        let text = "# staff\nanna:1\nbert:2\n#anna:3";
        let edit = |user, line| edited(text, user, line);
        assert_eq!(
            edit("anna", Some("anna:9")).unwrap(),
            "# staff\nanna:9\nbert:2\n#anna:3\n"
        );
        assert_eq!(edit("anna", None).unwrap(), "# staff\nbert:2\n#anna:3\n");
        assert_eq!(
            edit("carl", Some("carl:4")).unwrap(),
            "# staff\nanna:1\nbert:2\n#anna:3\ncarl:4\n"
        );
        assert_eq!(edit("carl", None), None);
        assert_eq!(edited("anna:1\n", "anna", None).unwrap(), "");
    }
}
