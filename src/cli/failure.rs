//! Why a verb ended without success: one line for a person, a chain of causes, and the exit code.

use core::fmt;
use std::error::Error;
use std::io;

/// Exit codes where INTERFACE gives no other.
pub(crate) mod code {
    /// Done.
    pub(crate) const DONE: u8 = 0;
    /// Failed while running, or refused.
    pub(crate) const FAILED: u8 = 1;
    /// The arguments are wrong.
    pub(crate) const USAGE: u8 = 2;
    /// A reading whose quality is not good.
    pub(crate) const NOT_GOOD: u8 = 3;
    /// A command to which nobody answered.
    pub(crate) const NO_ANSWER: u8 = 4;
    /// `pub` and `sub`: nothing more came in time (mosquitto's `MOSQ_ERR_TIMEOUT`).
    pub(crate) const TIMED_OUT: u8 = 27;
    /// The configuration is wrong (`EX_CONFIG`); the unit does not restart on it.
    pub(crate) const CONFIG: u8 = 78;
}

/// The end of a verb that did not do what it was asked.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    /// Empty: everything there is to say has been said.
    text: String,
    cause: Option<Box<dyn Error>>,
    /// What would help, for the line below.
    hint: Option<String>,
}

impl Failure {
    /// Something failed while running.
    pub(crate) fn failed(text: impl Into<String>) -> Self {
        Self::with_code(code::FAILED, text)
    }

    /// The arguments make no sense.
    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self::with_code(code::USAGE, text)
    }

    /// With an exit code of its own.
    pub(crate) fn with_code(code: u8, text: impl Into<String>) -> Self {
        Self {
            code,
            text: text.into(),
            cause: None,
            hint: None,
        }
    }

    /// Ends with this code and says nothing more.
    pub(crate) fn silent(code: u8) -> Self {
        Self::with_code(code, "")
    }

    /// Because of what.
    #[must_use]
    pub(crate) fn because(mut self, cause: impl Into<Box<dyn Error>>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// What would help.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// For the shell.
    pub(crate) const fn code(&self) -> u8 {
        self.code
    }

    /// Whether there is anything to print.
    pub(crate) fn is_silent(&self) -> bool {
        self.text.is_empty()
    }
}

/// The line, its causes behind colons, and the hint on a line of its own.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        let mut cause: Option<&dyn Error> = self.cause.as_deref();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n  {hint}")?;
        }
        Ok(())
    }
}

/// lexopt's words are good: `unexpected argument '--x'`, `missing argument for option '-t'`.
impl From<lexopt::Error> for Failure {
    fn from(error: lexopt::Error) -> Self {
        Self::usage(error.to_string())
    }
}

/// Of writing to standard output. A reader that has seen enough and is gone (`| head`) is no
/// failure.
pub(crate) fn output_failed(error: io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        Failure::silent(code::DONE)
    } else {
        Failure::failed("cannot write to standard output").because(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_stand_behind_colons_and_the_hint_below() {
        let cause = io::Error::new(io::ErrorKind::NotFound, "no such file");
        let failure = Failure::failed("cannot read a.toml")
            .because(cause)
            .hint("name it with --config");
        assert_eq!(
            failure.to_string(),
            "cannot read a.toml: no such file\n  name it with --config"
        );
        assert_eq!(failure.code(), 1);
    }

    #[test]
    fn a_closed_pipe_ends_quietly() {
        let failure = output_failed(io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(failure.is_silent());
        assert_eq!(failure.code(), code::DONE);
    }
}
