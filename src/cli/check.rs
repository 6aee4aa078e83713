//! `fieldgate check`: every error of the configuration at once, or what it means.

use lexopt::Parser;
use serde_json::{Value, json};

use crate::config::{self, Diagnostics, Meant, Severity};
use crate::host::probe::{self, Probe};

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
    let outcome = config::load(&path, &environment());
    let (meant, diagnostics) = match outcome {
        Ok(loaded) => (Some(loaded.meant), loaded.warnings),
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
    format!(
        "right: {}, {}, {}",
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
