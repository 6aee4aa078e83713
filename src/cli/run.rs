//! `fieldgate run`: the gateway in the foreground, which is what systemd starts.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use lexopt::Parser;

use crate::config::{self, LogLevel, LogSettings, Meant};
use crate::gateway::settings::Config;
use crate::host::{self, ControlSettings, ExitReason, HostError, HostSettings, identity};

use super::configuration::{environment, load};
use super::{Argument, Failure, Globals, code, help, other_argument};

pub(crate) fn run(mut parser: Parser, mut globals: Globals) -> Result<u8, Failure> {
    let mut verbosity = Verbosity::default();
    while let Some(argument) = Argument::next(&mut parser)? {
        match &argument {
            Argument::Short('v') => verbosity.more += 1,
            Argument::Short('q') => verbosity.quiet = true,
            Argument::Long(name) if name == "record" => {
                let text = "--record is not available in this version";
                return Err(Failure::usage(text));
            }
            _ => {
                let ended = other_argument(argument, &mut parser, &mut globals, help::RUN)?;
                if let Some(code) = ended {
                    return Ok(code);
                }
            }
        }
    }
    if verbosity.quiet && verbosity.more > 0 {
        return Err(Failure::usage("-v and -q exclude each other"));
    }
    let path = globals.config_path();
    let mut meant = load(&path)?.meant;
    identify(&mut meant).map_err(|why| Failure::failed("cannot tell who we are").because(why))?;
    let _log = host::log::init(&directives(&meant.log, verbosity))
        .map_err(|error| Failure::failed("cannot set up the log").because(error))?;
    let settings = HostSettings {
        control: Some(ControlSettings {
            path: meant.control.socket,
            group: meant.control.group,
        }),
        data_dir: meant.data_dir,
        loader: Some(Arc::new(move || reload(&path))),
        handle_signals: true,
        ..HostSettings::default()
    };
    ended(host::run(meant.gateway, settings))
}

/// `-v` and `-q`.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Verbosity {
    pub(crate) more: u8,
    pub(crate) quiet: bool,
}

/// What `RUST_LOG` would say: the file's levels, for everything that is ours; the command line wins
/// over the general one, and over those that it makes more talkative.
pub(crate) fn directives(log: &LogSettings, verbosity: Verbosity) -> String {
    let level = match (verbosity.quiet, verbosity.more) {
        (true, _) => LogLevel::Warn,
        (false, 0) => log.level,
        (false, 1) => log.level.max(LogLevel::Debug),
        (false, _) => LogLevel::Trace,
    };
    let mut text = level.as_str().to_owned();
    if matches!(level, LogLevel::Warn | LogLevel::Info) {
        // What it warns of is what strangers do, once for each time they do it. The host counts
        // that and says it in its own measure.
        text.push_str(",rustls=error");
    }
    for (module, own) in &log.levels {
        let own = if verbosity.quiet {
            (*own).min(level)
        } else {
            *own
        };
        let module = module.replace('/', "::");
        write!(text, ",fieldgate::{module}={}", own.as_str()).expect("a string takes everything");
    }
    text
}

fn reload(path: &Path) -> Result<Config, String> {
    let mut meant = config::load(path, &environment())
        .map(|loaded| loaded.meant)
        .map_err(|diagnostics| diagnostics.render(false))?;
    identify(&mut meant)?;
    Ok(meant.gateway)
}

/// Two gateways of one name must not be one client to an upstream broker.
fn identify(meant: &mut Meant) -> Result<(), String> {
    let Some(folder) = &meant.data_dir else {
        return Ok(());
    };
    if meant.gateway.bridges.is_empty() {
        return Ok(());
    }
    let part = identity::of(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    meant.identify(&part);
    Ok(())
}

/// How the gateway's end is told to the shell.
pub(crate) fn ended(outcome: Result<ExitReason, HostError>) -> Result<u8, Failure> {
    match outcome {
        Ok(ExitReason::Stopped) => Ok(code::DONE),
        Ok(ExitReason::Interrupted) => Err(Failure::failed("stopped before it was done")),
        Err(HostError::Control { path, error }) => {
            let folder = Path::new(&*path).parent().unwrap_or(Path::new("/"));
            let hint = format!(
                "this user must be able to write to {}; `[control] socket` names another place",
                folder.display()
            );
            let text = format!("cannot open the control socket {path}");
            Err(Failure::failed(text).because(error).hint(hint))
        }
        Err(error) => Err(Failure::failed("cannot run").because(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_wins_over_the_file() {
        let log = LogSettings {
            level: LogLevel::Info,
            levels: [
                ("broker".into(), LogLevel::Debug),
                ("host".into(), LogLevel::Error),
            ]
            .into(),
        };
        let say = |more, quiet| directives(&log, Verbosity { more, quiet });
        assert_eq!(
            say(0, false),
            "info,rustls=error,fieldgate::broker=debug,fieldgate::host=error"
        );
        assert!(say(1, false).starts_with("debug,"));
        assert!(say(2, false).starts_with("trace,"));
        assert_eq!(
            say(0, true),
            "warn,rustls=error,fieldgate::broker=warn,fieldgate::host=error"
        );
    }
}
