//! The files as one spanned tree: TOML to values that know where they stand, merged key by key.

use core::ops::Range;
use std::collections::btree_map;
use std::collections::{BTreeMap, BTreeSet};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::{Diagnostic, Diagnostics, Span, secret_word, shown};
use super::words;

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Node {
    /// Of a table with a header: the header.
    pub(super) span: Span,
    pub(super) value: Value,
}

#[derive(Debug, Clone)]
pub(super) enum Value {
    Text(String),
    /// `None`: it does not fit 128 bits.
    Integer(Option<i128>),
    Float(f64),
    Bool(bool),
    Datetime,
    Array(Vec<Node>),
    Table(Table),
}

impl Value {
    /// For messages: what was found.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Text(_) => "a text",
            Self::Integer(_) => "a whole number",
            Self::Float(_) => "a number",
            Self::Bool(_) => "true or false",
            Self::Datetime => "a date",
            Self::Array(_) => "a list",
            Self::Table(_) => "a table",
        }
    }
}

/// A key and its value.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) name: String,
    /// Of the key.
    pub(super) key: Span,
    pub(super) node: Node,
}

/// Keys in alphabetical order.
#[derive(Debug, Clone, Default)]
pub(super) struct Table(BTreeMap<String, Entry>);

impl Table {
    pub(super) fn get(&self, name: &str) -> Option<&Entry> {
        self.0.get(name)
    }

    pub(super) fn entries(&self) -> btree_map::Values<'_, String, Entry> {
        self.0.values()
    }

    /// Takes the entries of another file in: tables key by key, arrays append, anything else twice
    /// is an error.
    fn merge(&mut self, other: Self, out: &mut Diagnostics) {
        for (name, theirs) in other.0 {
            match self.0.entry(name) {
                btree_map::Entry::Vacant(vacant) => {
                    vacant.insert(theirs);
                }
                btree_map::Entry::Occupied(mut occupied) => {
                    let ours = occupied.get_mut();
                    match (&mut ours.node.value, theirs.node.value) {
                        (Value::Table(ours), Value::Table(theirs)) => ours.merge(theirs, out),
                        (Value::Array(ours), Value::Array(theirs)) => ours.extend(theirs),
                        _ => {
                            let title = format!("{} is given in two files", shown(&ours.name));
                            out.push(
                                Diagnostic::error(title)
                                    .at(theirs.key, "here again")
                                    .also(ours.key, "first here")
                                    .help("keep one of the two; only tables and lists are merged"),
                            );
                        }
                    }
                }
            }
        }
    }
}

/// Reads and merges every source of `out`; with the tree come the texts that stood without quotes.
/// `None`: something is so wrong that the rest cannot be judged.
pub(super) fn read(out: &mut Diagnostics) -> Option<(Table, BTreeSet<Span>)> {
    let mut merged = Table::default();
    let mut unquoted = BTreeSet::new();
    let mut usable = true;
    for file in 0..out.sources().len() {
        let text = out.sources()[file].text.clone();
        let (root, errors) = DeTable::parse_recoverable(&text);
        let file = file as u32;
        for error in &errors {
            let recovers = error.message().starts_with(UNQUOTED);
            usable &= recovers;
            if let Some(range) = error.span().filter(|_| recovers) {
                unquoted.insert(at(file, range));
            }
            out.push(syntax_error(file, &text, error));
        }
        let root = table(file, root.into_inner());
        merged.merge(root, out);
    }
    usable.then_some((merged, unquoted))
}

/// The error after which the parser's tree is still what the writer meant.
const UNQUOTED: &str = "string values must be quoted";

/// The parser's message in our words, with what would be right.
fn syntax_error(file: u32, text: &str, error: &toml::de::Error) -> Diagnostic {
    let range = error.span().unwrap_or(0..0);
    let span = at(file, range.clone());
    let found = text.get(range.clone()).unwrap_or_default();
    let before = text.get(..range.start).unwrap_or_default();
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = text[line_start..].lines().next().unwrap_or_default();
    let message = error.message();
    if message.starts_with(UNQUOTED) {
        let help = match found {
            "yes" | "on" | "True" | "TRUE" => String::from("write `true`, or a text in quotes"),
            "no" | "False" | "FALSE" => String::from("write `false`, or a text in quotes"),
            "off" => String::from("write `false`; \"off\" in quotes where that is a word"),
            _ if found.contains(['"', '\'', '\n', '\\']) || secret_word(line).is_some() => {
                String::from("put it in quotes, one value on a line")
            }
            _ => format!("write {}", shown(&format!("\"{}\"", found.trim_end()))),
        };
        Diagnostic::error("a text, or a quantity with its unit, stands in quotes")
            .at(span, "the quotes are missing")
            .help(help)
    } else if message == "duplicate key" {
        let error = Diagnostic::error(format!("{} is given twice", shown(found)))
            .at(span, "a second time")
            .help("it is already given further up in this file: keep one of the two");
        match first_of(text, line_start, line, found) {
            Some(range) => error.also(at(file, range), "the first time"),
            None => error,
        }
    } else if message.starts_with("key with no value") {
        let help = words::of_line(line).unwrap_or_else(|| match line.split_once(':') {
            Some((key, value)) if secret_word(line).is_none() => {
                let key = key.trim().trim_start_matches("- ");
                let toml = format!("{key} = {}", value.trim());
                format!("this is TOML, not YAML: {}", shown(toml.trim()))
            }
            _ => String::from("a line is `key = value`, or a `[table]` header"),
        });
        Diagnostic::error("a key without a value")
            .at(span, "`=` and a value are missing")
            .help(help)
    } else {
        Diagnostic::error(format!("this is not TOML: {message}")).at(span, "")
    }
}

/// The line before `line_start` that gives `key` first: the same header, or the key of the same
/// table. It is looked for in the text, since the parser does not tell.
fn first_of(text: &str, line_start: usize, line: &str, key: &str) -> Option<Range<usize>> {
    let is_header = line.trim_start().starts_with('[');
    let mut found = None;
    let mut start = 0;
    for before in text[..line_start].split_inclusive('\n') {
        let content = before.trim();
        let is_same = if is_header {
            content == line.trim()
        } else {
            let rest = content.strip_prefix(key);
            rest.is_some_and(|rest| rest.trim_start().starts_with('='))
        };
        if !is_header && content.starts_with('[') {
            found = None;
        } else if is_same && found.is_none() {
            let indent = before.len() - before.trim_start().len();
            let length = if is_header { content.len() } else { key.len() };
            found = Some(start + indent..start + indent + length);
        }
        start += before.len();
    }
    found
}

fn at(file: u32, range: Range<usize>) -> Span {
    Span {
        file,
        start: u32::try_from(range.start).unwrap_or(u32::MAX),
        end: u32::try_from(range.end).unwrap_or(u32::MAX),
    }
}

fn table(file: u32, raw: DeTable<'_>) -> Table {
    Table(
        raw.into_iter()
            .map(|(key, value)| {
                let entry = Entry {
                    name: key.get_ref().to_string(),
                    key: at(file, key.span()),
                    node: node(file, value),
                };
                (entry.name.clone(), entry)
            })
            .collect(),
    )
}

fn node(file: u32, raw: Spanned<DeValue<'_>>) -> Node {
    let span = at(file, raw.span());
    let value = match raw.into_inner() {
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Integer(integer) => {
            Value::Integer(i128::from_str_radix(integer.as_str(), integer.radix()).ok())
        }
        DeValue::Float(float) => Value::Float(float.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(flag) => Value::Bool(flag),
        DeValue::Datetime(_) => Value::Datetime,
        DeValue::Array(items) => {
            Value::Array(items.into_iter().map(|item| node(file, item)).collect())
        }
        DeValue::Table(inner) => Value::Table(table(file, inner)),
    };
    Node { span, value }
}

#[cfg(test)]
mod tests {
    use super::super::diagnostic::Source;
    use super::*;

    fn read_all(texts: &[&str]) -> (Option<Table>, Diagnostics) {
        let sources = texts
            .iter()
            .enumerate()
            .map(|(index, text)| Source::new(format!("{index}.toml"), *text))
            .collect();
        let mut out = Diagnostics::new(sources);
        let table = read(&mut out).map(|(table, _)| table);
        (table, out)
    }

    #[test]
    fn inline_and_expanded_tables_merge_alike() {
        let (table, out) = read_all(&[
            "a = { b = { x = 1 } }\nlist = [1]\n",
            "list = [2]\n[a.b]\ny = 2\n",
            "a.b.z = 3\n",
        ]);
        assert!(out.is_empty(), "{}", out.render(false));
        let table = table.unwrap();
        let Value::Table(a) = &table.get("a").unwrap().node.value else {
            panic!("not a table");
        };
        let Value::Table(b) = &a.get("b").unwrap().node.value else {
            panic!("not a table");
        };
        let names: Vec<_> = b.entries().map(|entry| entry.name.as_str()).collect();
        assert_eq!(names, ["x", "y", "z"]);
        let Value::Array(list) = &table.get("list").unwrap().node.value else {
            panic!("not a list");
        };
        assert_eq!(list.len(), 2);
    }

    #[test]
    fn one_key_in_two_files_names_both() {
        let (_, out) = read_all(&["[a]\nx = 1\n", "\n\na.x = 2\n"]);
        let text = out.render(false);
        assert!(text.contains("1.toml:3:3"), "{text}");
        assert!(text.contains("0.toml:2:1"), "{text}");
    }

    #[test]
    fn an_unquoted_text_does_not_hide_the_other_mistakes() {
        let (table, out) = read_all(&["a = 10s\nb = 2\n"]);
        assert_eq!(out.errors(), 1);
        assert!(table.unwrap().get("b").is_some());
    }
}
