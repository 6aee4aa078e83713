//! A secret: as it is, or where it is read from at each connect. It is never printed.

use super::super::diagnostic::shown;
use super::super::place::Place;
use super::super::read::{Cx, Section};
use super::super::tree::{Entry, Value};
use crate::bridge::settings::SecretSource;

/// Characters of a name of a credential or a variable at most.
const NAME_MAX: usize = 255;

const HELP: &str = "one of `{ file = \"secret\" }`, `{ credential = \"cloud\" }` and \
    `{ env = \"CLOUD_SECRET\" }`, or the text itself";

/// What a key like `password` says.
pub(super) fn read(cx: &mut Cx<'_>, section: &Section<'_>, entry: &Entry) -> Option<SecretSource> {
    if cx.is_unquoted(entry) {
        return None;
    }
    match &entry.node.value {
        Value::Text(text) if text.is_empty() => {
            let title = format!("`{}` is empty", entry.name);
            cx.error(entry.node.span, title, "", "take it out, or write it");
            None
        }
        Value::Text(text) => Some(SecretSource::Literal(text.as_str().into())),
        Value::Table(_) => {
            let path = section.key_path(&entry.name);
            let section = Section::open(cx, Place::Secret, path, entry)?;
            source(cx, &section)
        }
        _ => {
            let title = format!("`{}` is a text in quotes, or where it is found", entry.name);
            cx.error(entry.node.span, title, "", HELP);
            None
        }
    }
}

fn source(cx: &mut Cx<'_>, section: &Section<'_>) -> Option<SecretSource> {
    let file = section.get(cx, "file");
    let credential = section.get(cx, "credential");
    let variable = section.get(cx, "env");
    let given: Vec<&Entry> = [file, credential, variable].into_iter().flatten().collect();
    if given.len() != 1 {
        let span = given.get(1).map_or(section.span, |entry| entry.key);
        cx.error(span, "a secret is in one place", "", HELP);
        return None;
    }
    if let Some(entry) = file {
        return cx.path(entry, "\"secret\"").map(SecretSource::File);
    }
    let entry = credential.or(variable)?;
    let text = cx.text(entry, "\"cloud\"")?;
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let is_name = !text.is_empty()
        && text.len() <= NAME_MAX
        && text.chars().all(is_of_name)
        && !text.starts_with('.');
    if !is_name {
        let title = format!("{} is no name of that", shown(text));
        cx.error(entry.node.span, title, "", HELP);
        return None;
    }
    Some(if credential.is_some() {
        SecretSource::Credential(text.into())
    } else {
        SecretSource::Environment(text.into())
    })
}
