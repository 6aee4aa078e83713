//! The commands: one file per verb, and what they share.
//!
//! A verb takes its arguments and the global options, does its work, and returns an exit code or a
//! `Failure`, which is printed here and nowhere else. What a verb *answers* goes to standard
//! output; what it says about itself goes to standard error. Devices and sockets that need a poll
//! are the host's: a verb drives them through `crate::host`.

mod bench;
mod check;
mod client;
mod configuration;
mod control;
mod demo;
mod direct;
mod failure;
mod format;
mod help;
mod journal;
mod link;
mod output;
mod passwd;
mod property;
mod publish;
mod queue;
mod read;
mod run;
mod scan;
mod set;
mod subscribe;
mod table;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use lexopt::Parser;
use lexopt::prelude::*;

pub(crate) use failure::{Failure, code};

/// Where the configuration is if nothing says otherwise.
pub const CONFIG_DEFAULT: &str = "/etc/fieldgate/fieldgate.toml";

/// The environment variable that names the configuration.
pub const CONFIG_VARIABLE: &str = "FIELDGATE_CONFIG";

/// Runs the command that `arguments` (with the program's own name first) ask for, and says how it
/// ended.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut said = None;
    match dispatch(Parser::from_iter(arguments), &mut said) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            report(&failure, said);
            ExitCode::from(failure.code())
        }
    }
}

/// The options that every verb takes.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Globals {
    /// `--config`.
    pub(crate) config: Option<PathBuf>,
    /// `--json`.
    pub(crate) json: bool,
}

impl Globals {
    /// Takes an option if it is a global one; `false` leaves it to the verb.
    pub(crate) fn take(&mut self, option: &str, parser: &mut Parser) -> Result<bool, Failure> {
        match option {
            "config" => self.config = Some(parser.value()?.into()),
            "json" => self.json = true,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The configuration's path: `--config`, else the environment's, else the system's. Never one
    /// of the current folder.
    pub(crate) fn config_path(&self) -> PathBuf {
        self.config.clone().unwrap_or_else(|| {
            std::env::var_os(CONFIG_VARIABLE)
                .filter(|path| !path.is_empty())
                .map_or_else(|| CONFIG_DEFAULT.into(), PathBuf::from)
        })
    }
}

/// A verb that is there.
struct Verb {
    name: &'static str,
    /// Its long help.
    help: &'static str,
    run: Run,
}

const VERBS: &[Verb] = &[
    verb("run", help::RUN, run::run),
    verb("demo", help::DEMO, demo::run),
    verb("check", help::CHECK, check::run),
    verb("scan", help::SCAN, scan::run),
    verb("read", help::READ, read::run),
    verb("set", help::SET, set::run),
    verb("queue", help::QUEUE, queue::run),
    verb("pub", help::PUB, publish::run),
    verb("sub", help::SUB, subscribe::run),
    verb("passwd", help::PASSWD, passwd::run),
    verb("journal", help::JOURNAL, journal::run),
    verb("bench", help::BENCH, bench::run),
];

/// Takes the arguments behind the verb's name, and the global options before it.
type Run = fn(Parser, Globals) -> Result<u8, Failure>;

const fn verb(name: &'static str, help: &'static str, run: Run) -> Verb {
    Verb { name, help, run }
}

/// Verbs of the interface that a later version brings: refused by name, so that nobody takes them
/// for a typing error.
const LATER: &[&str] = &[
    "init", "watch", "rr", "explain", "replay", "import", "doctor", "wiring", "schema",
];

fn dispatch(mut parser: Parser, said: &mut Option<&'static str>) -> Result<u8, Failure> {
    let mut globals = Globals::default();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("help") => return output::print(help::LONG),
            Long("version") => {
                return output::print(&format!("fieldgate {}\n", env!("CARGO_PKG_VERSION")));
            }
            Long(option) => {
                let option = option.to_owned();
                if !globals.take(&option, &mut parser)? {
                    return Err(unknown_option(&format!("--{option}")));
                }
            }
            Short(option) => return Err(unknown_option(&format!("-{option}"))),
            Value(name) => {
                let name = name.string()?;
                if name == "help" {
                    return help_of(&mut parser);
                }
                let verb = find(&name)?;
                *said = Some(verb.name);
                return (verb.run)(parser, globals);
            }
        }
    }
    if globals == Globals::default() {
        output::print(help::SHORT)
    } else {
        Err(Failure::usage("a verb is missing").hint("fieldgate --help names them"))
    }
}

fn unknown_option(option: &str) -> Failure {
    Failure::usage(format!("unknown option {option} before the verb"))
        .hint("global options are --help, --version, --config FILE and --json")
}

fn help_of(parser: &mut Parser) -> Result<u8, Failure> {
    match parser.next()? {
        None => output::print(help::LONG),
        Some(Value(name)) => output::print(find(&name.string()?)?.help),
        Some(other) => Err(other.unexpected().into()),
    }
}

fn find(name: &str) -> Result<&'static Verb, Failure> {
    if let Some(verb) = VERBS.iter().find(|verb| verb.name == name) {
        return Ok(verb);
    }
    if LATER.contains(&name) {
        let text = format!("`{name}` is not available in this version");
        return Err(Failure::usage(text));
    }
    let failure = Failure::usage(format!("there is no verb `{name}`"));
    let nearest = VERBS
        .iter()
        .map(|verb| (strsim::damerau_levenshtein(verb.name, name), verb.name))
        .min();
    Err(match nearest {
        Some((distance, meant)) if distance <= 2 && distance < meant.len() => {
            failure.hint(format!("did you mean `{meant}`?"))
        }
        _ => failure.hint("fieldgate --help names them"),
    })
}

/// What a verb does with an option or a value that it does not know itself: a global one is taken,
/// `--help` is answered.
///
/// `Ok(None)`: it was a global option. `Ok(Some(code))`: the verb ends here.
pub(crate) fn other_argument(
    argument: Argument,
    parser: &mut Parser,
    globals: &mut Globals,
    help: &str,
) -> Result<Option<u8>, Failure> {
    match argument {
        Argument::Long(option) if option == "help" => output::print(help).map(Some),
        Argument::Long(option) => {
            if globals.take(&option, parser)? {
                Ok(None)
            } else {
                Err(Failure::usage(format!("unknown option --{option}")))
            }
        }
        Argument::Short(option) => Err(Failure::usage(format!("unknown option -{option}"))),
        Argument::Value(value) => Err(Failure::usage(format!(
            "unexpected argument `{}`",
            value.to_string_lossy()
        ))),
    }
}

/// An argument that no longer borrows the parser, so that its value can be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Argument {
    Short(char),
    Long(String),
    Value(OsString),
}

impl Argument {
    /// The next one.
    pub(crate) fn next(parser: &mut Parser) -> Result<Option<Self>, Failure> {
        Ok(parser.next()?.map(|argument| match argument {
            Short(option) => Self::Short(option),
            Long(option) => Self::Long(option.to_owned()),
            Value(value) => Self::Value(value),
        }))
    }
}

/// Prints why a verb ended, in the one format that all share.
fn report(failure: &Failure, verb: Option<&str>) {
    if failure.is_silent() {
        return;
    }
    let name = verb.map_or_else(
        || "fieldgate".to_owned(),
        |verb| format!("fieldgate {verb}"),
    );
    output::complain(&format!("{name}: {failure}"));
    if failure.code() == code::USAGE && verb.is_some() {
        output::complain(&format!("  {name} --help says more"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(arguments: &[&str]) -> Result<u8, Failure> {
        dispatch(Parser::from_args(arguments), &mut None)
    }

    #[test]
    fn verbs_of_later_versions_are_refused_by_name() {
        for name in LATER {
            let failure = run(&[name]).unwrap_err();
            assert_eq!(failure.code(), code::USAGE);
            assert!(
                failure
                    .to_string()
                    .contains("not available in this version")
            );
        }
    }

    #[test]
    fn a_misspelt_verb_is_guessed() {
        let failure = run(&["chekc"]).unwrap_err();
        assert_eq!(failure.code(), code::USAGE);
        assert!(
            failure.to_string().contains("did you mean `check`?"),
            "{failure}"
        );
    }

    #[test]
    fn the_configuration_is_the_named_one_first() {
        let globals = Globals {
            config: Some("a.toml".into()),
            json: false,
        };
        assert_eq!(globals.config_path(), PathBuf::from("a.toml"));
    }

    #[test]
    fn unknown_global_options_are_wrong_usage() {
        for arguments in [["--bogus"], ["-v"]] {
            assert_eq!(run(&arguments).unwrap_err().code(), code::USAGE);
        }
    }
}
