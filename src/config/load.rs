//! The files: the one that is named, and `conf.d/*.toml` beside it. The only part of the
//! configuration that reads a disk.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::{fs, io};

use super::diagnostic::{Diagnostic, Diagnostics, Source, Span};
use super::{Environment, Loaded, SOURCE_BYTES_MAX, SOURCES_MAX, access, parse};
use crate::units;

/// Reads `path` and every `conf.d/*.toml` beside it, in the order of their names, and says what
/// they mean.
///
/// # Errors
/// What cannot be read, or every mistake in what can.
pub fn load(path: &Path, environment: &Environment) -> Result<Loaded, Diagnostics> {
    let mut sources = vec![source(path)?];
    for extra in beside(path)? {
        sources.push(source(&extra)?);
    }
    let mut loaded = parse(sources, environment)?;
    access::attach(&mut loaded.meant)?;
    Ok(loaded)
}

/// The text of a file that the configuration names.
///
/// # Errors
/// Why it cannot be read, in the kernel's words.
pub(super) fn read_text(path: &Path) -> Result<String, String> {
    let mut bytes = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(NAMED_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|error| reason(&error))?;
    if bytes.len() as u64 > NAMED_BYTES_MAX {
        let limit = units::format_size(NAMED_BYTES_MAX);
        return Err(format!("it is too large, {limit} are read at most"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        format!("byte {} is not UTF-8", at + 1)
    })
}

/// Bytes of a file that the configuration names at most.
const NAMED_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The files of `conf.d`, sorted by name. No folder means none of them.
fn beside(path: &Path) -> Result<Vec<PathBuf>, Diagnostics> {
    let folder = path
        .parent()
        .unwrap_or_else(|| Path::new(""))
        .join("conf.d");
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(Vec::new());
        }
        Err(error) => return Err(unreadable(&folder, &error)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let file = entry.map_err(|error| unreadable(&folder, &error))?.path();
        // Editors leave `.#name.toml` and the like behind.
        let is_hidden = file
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if file
            .extension()
            .is_some_and(|extension| extension == "toml")
            && !is_hidden
        {
            files.push(file);
            if files.len() > SOURCES_MAX {
                break;
            }
        }
    }
    files.sort();
    Ok(files)
}

fn source(path: &Path) -> Result<Source, Diagnostics> {
    let mut bytes = Vec::new();
    fs::File::open(path)
        .and_then(|file| {
            file.take(SOURCE_BYTES_MAX as u64 + 1)
                .read_to_end(&mut bytes)
        })
        .map_err(|error| unreadable(path, &error))?;
    if bytes.len() > SOURCE_BYTES_MAX {
        let limit = units::format_size(SOURCE_BYTES_MAX as u64);
        return Err(whole_file(
            Diagnostic::error(format!("{} is too large", path.display()))
                .help(format!("{limit} are read at most")),
        ));
    }
    String::from_utf8(bytes)
        .map(|text| Source::new(path, text))
        .map_err(|error| not_text(path, &error))
}

fn unreadable(path: &Path, error: &io::Error) -> Diagnostics {
    let help = match error.kind() {
        io::ErrorKind::NotFound => {
            "name the file with `--config FILE` or $FIELDGATE_CONFIG; `fieldgate demo` needs none"
        }
        io::ErrorKind::PermissionDenied => "the user that runs fieldgate must be able to read it",
        _ => "it is a text file in TOML",
    };
    let reason = reason(error);
    whole_file(Diagnostic::error(format!("cannot read {}: {reason}", path.display())).help(help))
}

/// The kernel's words, without the number that Rust adds.
fn reason(error: &io::Error) -> String {
    let reason = error.to_string();
    reason
        .split(" (os error")
        .next()
        .unwrap_or_default()
        .to_owned()
}

fn whole_file(diagnostic: Diagnostic) -> Diagnostics {
    let mut out = Diagnostics::default();
    out.push(diagnostic);
    out
}

/// TOML is UTF-8. What is not is shown as it can be.
fn not_text(path: &Path, error: &std::string::FromUtf8Error) -> Diagnostics {
    // Up to the first bad byte the lossy text is the text.
    let at = error.utf8_error().valid_up_to();
    let bad = error.as_bytes()[at];
    let text = String::from_utf8_lossy(error.as_bytes());
    let span = Span {
        file: 0,
        start: at as u32,
        end: at as u32 + 3,
    };
    let mut out = Diagnostics::new(vec![Source::new(path, text)]);
    out.push(
        Diagnostic::error(format!("byte {bad:#04x} is not UTF-8"))
            .at(span, "")
            .help("save the file as UTF-8"),
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_byte_is_shown_in_its_line() {
        let bytes = b"[gateway]\nname = \"b\xfcro\"\n".to_vec();
        let error = String::from_utf8(bytes).unwrap_err();
        let text = not_text(Path::new("x.toml"), &error).render(false);
        assert!(text.contains("x.toml:2:10"), "{text}");
        assert!(text.contains("0xfc"), "{text}");
    }
}
