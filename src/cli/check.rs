//! `fieldgate check`: every error of the configuration at once, or what it means.

use lexopt::Parser;
use serde_json::{Value, json};

use crate::bridge::settings::Endpoint;
use crate::config::{self, Diagnostics, Loaded, Meant, Severity};
use crate::host::credentials;
use crate::host::probe::{self, Probe};
use crate::host::upstream;

use super::configuration::environment;
use super::{Argument, Failure, Globals, code, help, other_argument, output};

pub(crate) fn run(mut parser: Parser, mut globals: Globals) -> Result<u8, Failure> {
    let (mut print, mut strict, mut hardware) = (false, false, false);
    while let Some(argument) = Argument::next(&mut parser)? {
        match &argument {
            Argument::Long(name) if name == "print" => print = true,
            Argument::Long(name) if name == "strict" => strict = true,
            Argument::Long(name) if name == "hardware" => hardware = true,
            _ => {
                let ended = other_argument(argument, &mut parser, &mut globals, help::CHECK)?;
                if let Some(code) = ended {
                    return Ok(code);
                }
            }
        }
    }
    let path = globals.config_path();
    let (meant, diagnostics) = match config::load(&path, &environment()) {
        Ok(mut loaded) => {
            look_at_credentials(&mut loaded);
            look_at_bridges(&mut loaded);
            let is_right = loaded.warnings.errors() == 0;
            (is_right.then_some(loaded.meant), loaded.warnings)
        }
        Err(diagnostics) => (None, diagnostics),
    };
    let probes = match &meant {
        Some(meant) if hardware => probe_all(meant),
        _ => Vec::new(),
    };
    if globals.json {
        output::print_json(&as_json(&diagnostics, &probes))?;
    } else {
        if !diagnostics.is_empty() {
            let text = diagnostics.render(output::color_on_stderr());
            output::complain(text.trim_end());
        }
        if let Some(meant) = &meant {
            if print {
                output::print(&meant.print())?;
            }
            output::print(&render(&probes))?;
            if !print && probes.is_empty() {
                output::print(&format!("{}: {}\n", path.display(), summary(meant)))?;
            }
        }
    }
    Ok(match meant {
        None => code::CONFIG,
        Some(_) if strict && diagnostics.warnings() > 0 => code::FAILED,
        Some(_) if probes.iter().any(|(_, probe)| probe.is_failure()) => code::FAILED,
        Some(_) => code::DONE,
    })
}

/// Reads the certificates and keys that listeners name, and says what is wrong with them.
fn look_at_credentials(loaded: &mut Loaded) {
    let listeners = loaded.meant.gateway.listeners.clone();
    for (name, listener) in listeners {
        let Some(tls) = &listener.transport.tls else {
            continue;
        };
        let (problems, severity) = match credentials::check(tls) {
            Ok(odd) => (odd, Severity::Warning),
            // Whoever checks may not be who runs it.
            Err(problem) if problem.is_hidden => (vec![problem], Severity::Warning),
            Err(problem) => (vec![problem], Severity::Error),
        };
        for problem in problems {
            let title = format!("{} cannot be used: {}", problem.path, problem.what);
            let title = match severity {
                Severity::Error => title,
                Severity::Warning => format!("{}: {}", problem.path, problem.what),
            };
            let help = match (problem.is_hidden, problem.key) {
                (true, _) => "the user that runs fieldgate must be able to read it",
                (_, "key") => "it is the private key of `certificate`, in PEM",
                (_, "client_ca") => "it is what has signed the clients' certificates, in PEM",
                _ => "it is our certificate and those above it, in PEM",
            };
            let key = format!("listener.{name}.tls.{}", problem.key);
            loaded.found(&key, severity, title, help);
        }
    }
}

/// The same for bridges.
fn look_at_bridges(loaded: &mut Loaded) {
    let bridges = loaded.meant.gateway.bridges.clone();
    for (name, settings) in bridges {
        let host = settings
            .endpoints
            .iter()
            .find_map(|endpoint| match endpoint {
                Endpoint::Network { host, .. } if endpoint.is_encrypted() => Some(host),
                _ => None,
            });
        let Some(Err(problem)) = host.map(|host| upstream::check(&settings.tls, host)) else {
            continue;
        };
        let title = format!("{} cannot be used: {}", problem.path, problem.what);
        let (severity, help) = match (problem.is_hidden, problem.key) {
            // Whoever checks may not be who runs it.
            (true, _) => (
                Severity::Warning,
                "the user that runs fieldgate must be able to read it",
            ),
            (_, "key") => (
                Severity::Error,
                "it is the private key of `certificate`, in PEM",
            ),
            (_, "ca") => (
                Severity::Error,
                "it is what has signed the broker's certificate, in PEM",
            ),
            _ => (
                Severity::Error,
                "it is our certificate and those above it, in PEM",
            ),
        };
        let key = format!("bridge.{name}.tls.{}", problem.key);
        loaded.found(&key, severity, title, help);
    }
}

/// What there is, in a line.
fn summary(meant: &Meant) -> String {
    let count = |count: usize, one: &str| match count {
        1 => format!("1 {one}"),
        _ => format!("{count} {one}s"),
    };
    let gateway = &meant.gateway;
    let points = gateway
        .devices
        .values()
        .map(|device| device.points.len())
        .sum();
    let bridges = match gateway.bridges.len() {
        0 => String::new(),
        bridges => format!(", {}", count(bridges, "bridge")),
    };
    format!(
        "right: {}, {}, {}{bridges}",
        count(gateway.listeners.len(), "listener"),
        count(gateway.devices.len(), "device"),
        count(points, "point"),
    )
}

/// Each device of the configuration, and what was found of what it needs.
fn probe_all(meant: &Meant) -> Vec<(String, Probe)> {
    let mut found = Vec::new();
    for (name, device) in &meant.gateway.devices {
        for probe in probe::device(&device.field.driver) {
            found.push((name.to_string(), probe));
        }
    }
    found
}

fn render(probes: &[(String, Probe)]) -> String {
    let rows: Vec<_> = probes
        .iter()
        .map(|(device, probe)| {
            let said = match &probe.outcome {
                Ok(said) => said.clone(),
                Err(why) => format!("FAILED: {why}"),
            };
            vec![device.clone(), probe.what.clone(), said]
        })
        .collect();
    output::columns(&rows, "")
}

fn as_json(diagnostics: &Diagnostics, probes: &[(String, Probe)]) -> Value {
    let list: Vec<_> = diagnostics
        .iter()
        .map(|(place, diagnostic)| {
            json!({
                "severity": match diagnostic.severity() {
                    Severity::Error => "error",
                    Severity::Warning => "warning",
                },
                "title": diagnostic.title(),
                "place": place.map(|place| place.to_string()),
                "help": diagnostic.helps().collect::<Vec<_>>(),
            })
        })
        .collect();
    let hardware: Vec<_> = probes
        .iter()
        .map(|(device, probe)| {
            json!({
                "device": device,
                "what": probe.what,
                "found": probe.outcome.as_ref().ok(),
                "error": probe.outcome.as_ref().err(),
            })
        })
        .collect();
    json!({
        "errors": diagnostics.errors(),
        "warnings": diagnostics.warnings(),
        "diagnostics": list,
        "hardware": hardware,
    })
}
