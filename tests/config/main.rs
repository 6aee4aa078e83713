//! The configuration as a user meets it: a file goes in, a meaning or a list of mistakes comes out.

mod cascade;
mod example;
mod files;
mod hostile;
mod mistakes;
mod printing;

use fieldgate::config::{Diagnostics, Environment, Loaded, Source, parse};

/// The machine that these tests pretend to run on.
fn machine() -> Environment {
    Environment {
        hostname: "shed.local".into(),
        state_directory: Some("/var/lib/fieldgate".into()),
        runtime_directory: Some("/run/fieldgate".into()),
        ..Environment::default()
    }
}

/// One file.
fn read(text: &str) -> Result<Loaded, Diagnostics> {
    parse(
        [Source::new("/etc/fieldgate/fieldgate.toml", text)],
        &machine(),
    )
}

/// One file that is right.
fn meant(text: &str) -> Loaded {
    read(text).unwrap_or_else(|errors| panic!("{text}\n{}", errors.render(false)))
}

/// Everything that is said about one file, right or wrong.
fn said(text: &str) -> String {
    match read(text) {
        Ok(loaded) => loaded.warnings.render(false),
        Err(errors) => errors.render(false),
    }
}
