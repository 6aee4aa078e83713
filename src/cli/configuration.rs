//! The configuration as the verbs need it: read once, complained about once.

use std::fs;
use std::path::{Path, PathBuf};

use crate::config::{self, Diagnostics, Environment, Loaded};

use super::{Failure, code, output};

/// What this machine and its service manager say.
pub(crate) fn environment() -> Environment {
    let hostname = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let environment = Environment::new(hostname.trim(), |name| std::env::var_os(name));
    match std::env::current_dir() {
        Ok(folder) => environment.at(folder),
        Err(_) => environment,
    }
}

/// Reads the configuration. Errors and warnings go to standard error as they are.
pub(crate) fn load(path: &Path) -> Result<Loaded, Failure> {
    match config::load(path, &environment()) {
        Ok(loaded) => {
            complain(&loaded.warnings);
            Ok(loaded)
        }
        Err(diagnostics) => {
            complain(&diagnostics);
            Err(Failure::silent(code::CONFIG))
        }
    }
}

/// Where the gateway's control socket is: as the configuration says, and where there is none, or
/// one with errors, where it would be by itself.
pub(crate) fn control_socket(path: &Path) -> PathBuf {
    if let Ok(loaded) = config::load(path, &environment()) {
        return PathBuf::from(&*loaded.meant.control.socket);
    }
    let folder = environment().runtime_directory;
    folder
        .unwrap_or_else(|| "/run/fieldgate".into())
        .join("control.sock")
}

fn complain(diagnostics: &Diagnostics) {
    if !diagnostics.is_empty() {
        let text = diagnostics.render(output::color_on_stderr());
        output::complain(text.trim_end());
    }
}
