//! What is wrong with a configuration, shown where it is wrong.
//!
//! Every [`Diagnostic`] names a place (`file:line:column`), shows that line with a caret, and says
//! what would be right. They are collected, never thrown: a file with nine mistakes gets nine
//! messages, in the order of the file. How many are kept and how many are printed is limited, and
//! the rest is counted.
//!
//! Lines that look as if they held a secret are shown with the value masked.

use core::fmt::{self, Write as _};
use std::borrow::Cow;
use std::path::{Path, PathBuf};

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

/// One file of the configuration, as read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// As messages show it. Paths in the file are relative to its folder.
    pub path: PathBuf,
    /// All of it.
    pub text: String,
}

impl Source {
    /// A file's name and content.
    pub fn new(path: impl Into<PathBuf>, text: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            text: text.into(),
        }
    }
}

/// A range of bytes in one of the sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Span {
    /// Index of the source.
    pub(super) file: u32,
    /// First byte.
    pub(super) start: u32,
    /// One past the last byte.
    pub(super) end: u32,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The configuration cannot be used.
    Error,
    /// It can be used, and probably does not do what was wanted.
    Warning,
}

impl Severity {
    /// The word in front of the message.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    severity: Severity,
    title: String,
    /// `None`: about a file as a whole, or about no file.
    primary: Option<(Span, String)>,
    others: Vec<(Span, String)>,
    help: Vec<String>,
}

impl Diagnostic {
    /// An error without a place.
    pub(super) fn error(title: impl Into<String>) -> Self {
        Self::new(Severity::Error, title.into())
    }

    /// A warning without a place.
    pub(super) fn warning(title: impl Into<String>) -> Self {
        Self::new(Severity::Warning, title.into())
    }

    fn new(severity: Severity, title: String) -> Self {
        Self {
            severity,
            title,
            primary: None,
            others: Vec::new(),
            help: Vec::new(),
        }
    }

    /// Where the caret points; `label` stands beside it and may be empty.
    #[must_use]
    pub(super) fn at(mut self, span: Span, label: impl Into<String>) -> Self {
        self.primary = Some((span, label.into()));
        self
    }

    /// Another place that belongs to it.
    #[must_use]
    pub(super) fn also(mut self, span: Span, label: impl Into<String>) -> Self {
        self.others.push((span, label.into()));
        self
    }

    /// What would be right.
    #[must_use]
    pub(super) fn help(mut self, text: impl Into<String>) -> Self {
        self.help.push(text.into());
        self
    }

    /// How bad it is.
    pub fn severity(&self) -> Severity {
        self.severity
    }

    /// What is wrong, in one line.
    pub fn title(&self) -> &str {
        &self.title
    }

    /// What would be right, a sentence each.
    pub fn helps(&self) -> impl Iterator<Item = &str> {
        self.help.iter().map(String::as_str)
    }
}

/// Where a diagnostic points.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place<'a> {
    /// Of the file.
    pub path: &'a Path,
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
}

/// `fieldgate.toml:12:3`
impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.path.display(), self.line, self.column)
    }
}

/// Everything that is wrong with a configuration, in the order of its files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diagnostics {
    sources: Vec<Source>,
    /// Where the lines of each source start.
    line_starts: Vec<Vec<usize>>,
    items: Vec<Diagnostic>,
    /// Errors beyond [`Diagnostics::KEPT_MAX`].
    errors_dropped: usize,
    /// Warnings beyond it.
    warnings_dropped: usize,
}

impl Diagnostics {
    /// How many are kept; those beyond are only counted.
    pub const KEPT_MAX: usize = 1000;
    /// How many [`Diagnostics::render`] prints; those beyond are only counted.
    pub const SHOWN_MAX: usize = 50;

    pub(super) fn new(sources: Vec<Source>) -> Self {
        let starts_of = |source: &Source| {
            let newlines = source.text.match_indices('\n').map(|(at, _)| at + 1);
            core::iter::once(0).chain(newlines).collect()
        };
        Self {
            line_starts: sources.iter().map(starts_of).collect(),
            sources,
            ..Self::default()
        }
    }

    /// The line (from 1), the column in characters (from 1), and where the line starts in the text.
    fn position(&self, file: u32, at: usize) -> (usize, usize, usize) {
        let text = &self.sources[file as usize].text;
        let starts = &self.line_starts[file as usize];
        let at = floor_char_boundary(text, at);
        let line = starts.partition_point(|start| *start <= at);
        let line_start = starts[line - 1];
        (line, text[line_start..at].chars().count() + 1, line_start)
    }

    pub(super) fn push(&mut self, diagnostic: Diagnostic) {
        if self.items.len() < Self::KEPT_MAX {
            self.items.push(diagnostic);
        } else if diagnostic.severity == Severity::Error {
            self.errors_dropped += 1;
        } else {
            self.warnings_dropped += 1;
        }
    }

    /// Puts them in the order of the files, what has no place first, and forgets exact repetitions.
    pub(super) fn sort(&mut self) {
        self.items.sort_by(|a, b| {
            let key = |d: &Diagnostic| d.primary.as_ref().map(|(span, _)| (span.file, span.start));
            key(a)
                .cmp(&key(b))
                .then(a.severity.cmp(&b.severity))
                .then_with(|| a.title.cmp(&b.title))
        });
        self.items.dedup();
    }

    pub(super) fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// How many are errors.
    pub fn errors(&self) -> usize {
        self.count(Severity::Error) + self.errors_dropped
    }

    /// How many are warnings.
    pub fn warnings(&self) -> usize {
        self.count(Severity::Warning) + self.warnings_dropped
    }

    /// Whether there is nothing to say.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// In order, each with the place it points at.
    pub fn iter(&self) -> impl Iterator<Item = (Option<Place<'_>>, &Diagnostic)> {
        self.items.iter().map(|diagnostic| {
            let place = diagnostic
                .primary
                .as_ref()
                .map(|(span, _)| self.place(*span));
            (place, diagnostic)
        })
    }

    /// For people: each with its line and a caret, then how many there are. Ends with a newline,
    /// unless there is nothing.
    pub fn render(&self, color: bool) -> String {
        if self.is_empty() {
            return String::new();
        }
        let renderer = if color {
            Renderer::styled()
        } else {
            Renderer::plain()
        };
        let mut out = String::new();
        for diagnostic in self.items.iter().take(Self::SHOWN_MAX) {
            out.push_str(&self.render_one(&renderer, diagnostic));
            out.push_str("\n\n");
        }
        out.push_str(&self.summary());
        out.push('\n');
        out
    }

    /// `2 errors, 1 warning`, and how many of them are not shown.
    fn summary(&self) -> String {
        let plural = |count: usize, word: &str| match count {
            0 => None,
            1 => Some(format!("1 {word}")),
            _ => Some(format!("{count} {word}s")),
        };
        let (errors, warnings) = (self.errors(), self.warnings());
        let parts: Vec<String> = [plural(errors, "error"), plural(warnings, "warning")]
            .into_iter()
            .flatten()
            .collect();
        let hidden = (errors + warnings).saturating_sub(Self::SHOWN_MAX);
        let mut summary = parts.join(", ");
        if hidden > 0 {
            let _ = write!(summary, ", {hidden} of them not shown");
        }
        summary
    }

    pub(super) fn place(&self, span: Span) -> Place<'_> {
        let (line, column, _) = self.position(span.file, span.start as usize);
        Place {
            path: &self.sources[span.file as usize].path,
            line,
            column,
        }
    }

    fn render_one(&self, renderer: &Renderer, diagnostic: &Diagnostic) -> String {
        let level = match diagnostic.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let mut group: Group<'_> = Group::with_title(level.primary_title(&*diagnostic.title));
        let marks = diagnostic
            .primary
            .iter()
            .map(|(span, label)| (AnnotationKind::Primary, *span, label))
            .chain(
                diagnostic
                    .others
                    .iter()
                    .map(|(span, label)| (AnnotationKind::Context, *span, label)),
            );
        let mut by_file: Vec<(u32, Vec<Mark<'_>>)> = Vec::new();
        for mark in marks {
            match by_file.iter_mut().find(|(file, _)| *file == mark.1.file) {
                Some((_, marks)) => marks.push(mark),
                None => by_file.push((mark.1.file, vec![mark])),
            }
        }
        for (file, marks) in by_file {
            group = group.element(self.excerpt(file, &marks));
        }
        for help in &diagnostic.help {
            group = group.element(Level::HELP.message(&**help));
        }
        renderer.render(&[group])
    }

    /// The lines from the first mark to the last, with carets. Marks end with their line, so that a
    /// caret never runs on.
    fn excerpt<'a>(
        &'a self,
        file: u32,
        marks: &[Mark<'a>],
    ) -> Snippet<'a, annotate_snippets::Annotation<'a>> {
        let source = &self.sources[file as usize];
        let text = &source.text;
        let line_end = |at: usize| {
            let end = text[at..].find('\n').map_or(text.len(), |n| at + n);
            end - usize::from(end > at && text.as_bytes()[end - 1] == b'\r')
        };
        let clamped = marks.iter().map(|(kind, span, label)| {
            let start = floor_char_boundary(text, span.start as usize);
            let end = floor_char_boundary(text, span.end as usize).clamp(start, line_end(start));
            (*kind, start, end, *label)
        });
        let first = clamped.clone().map(|mark| mark.1).min().unwrap_or(0);
        let last = clamped.clone().map(|mark| mark.1).max().unwrap_or(0);
        let (line, _, from) = self.position(file, first);
        let shown = mask_secrets(&text[from..line_end(last)]);
        let mut snippet = Snippet::source(shown)
            .line_start(line)
            .path(source.path.display().to_string());
        for (kind, start, end, label) in clamped {
            let annotation = kind.span(start - from..end - from);
            snippet = snippet.annotation(if label.is_empty() {
                annotation
            } else {
                annotation.label(&**label)
            });
        }
        snippet
    }

    fn count(&self, severity: Severity) -> usize {
        self.items
            .iter()
            .filter(|item| item.severity == severity)
            .count()
    }
}

/// A place in a source, what it is to the message, and the label beside it.
type Mark<'a> = (AnnotationKind, Span, &'a String);

/// Hides what stands behind the `=` on lines that name a secret, and before the `@` of a URL. Every
/// character is replaced by one
/// of the same length, so that carets stay where they are.
fn mask_secrets(text: &str) -> Cow<'_, str> {
    if secret_word(text).is_none() && !text.contains('@') {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let value_at = secret_word(line)
            .and_then(|word| line[word..].find(['=', ' ', ':']).map(|n| word + n + 1));
        let (line, hidden) = line.split_at(value_at.unwrap_or(line.len()));
        let mut rest = line;
        while let Some((before, url)) = rest.split_once("://") {
            let end = url.find(['"', '\'', ' ']).unwrap_or(url.len());
            let login = url[..end].rfind('@').unwrap_or(0);
            out.push_str(before);
            out.push_str("://");
            out.extend(url[..login].chars().map(masked));
            rest = &url[login..];
        }
        out.push_str(rest);
        out.extend(hidden.chars().map(|c| match c {
            '=' | '"' | '\'' | '{' | '}' | ',' => c,
            c if c.is_whitespace() => c,
            c => masked(c),
        }));
    }
    Cow::Owned(out)
}

/// One of the same length in UTF-8.
fn masked(c: char) -> char {
    ['*', '·', '•', '𝄽'][c.len_utf8() - 1]
}

/// Where a line names something that holds a secret.
pub(super) fn secret_word(line: &str) -> Option<usize> {
    const WORDS: [&str; 4] = ["passw", "secret", "token", "psk"];
    let lower = line.to_ascii_lowercase();
    WORDS.iter().filter_map(|word| lower.find(word)).min()
}

/// The nearest boundary at or before `at`.
fn floor_char_boundary(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// Text from a file for use in a message: quoted in backticks, escaped, and cut when it is long.
pub(super) fn shown(text: &str) -> String {
    const SHOWN_CHARS_MAX: usize = 60;
    let mut out = String::from("`");
    for (index, c) in text.chars().enumerate() {
        if index == SHOWN_CHARS_MAX {
            out.push('…');
            break;
        }
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out.push('`');
    out
}

/// `a`, `b` or `c`: names in a sentence.
pub(super) fn one_of<T: fmt::Display>(names: impl IntoIterator<Item = T>) -> String {
    joined(names, "or")
}

/// `a`, `b` and `c`: names in a sentence.
pub(super) fn all_of<T: fmt::Display>(names: impl IntoIterator<Item = T>) -> String {
    joined(names, "and")
}

fn joined<T: fmt::Display>(names: impl IntoIterator<Item = T>, word: &str) -> String {
    let names: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
    match names.split_last() {
        None => String::from("nothing"),
        Some((only, [])) => only.clone(),
        Some((last, rest)) => format!("{} {word} {last}", rest.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(start: u32, end: u32) -> Span {
        Span {
            file: 0,
            start,
            end,
        }
    }

    #[test]
    fn columns_count_characters() {
        let all = Diagnostics::new(vec![Source::new("x", "a\nbär = 1\n")]);
        let position = |at| all.position(0, at);
        assert_eq!(position(6).1, 4);
        assert_eq!(position(6).0, 2);
        assert_eq!(position(4).1, 2, "inside of a character");
        assert_eq!(position(1000).0, 3, "beyond the end");
    }

    #[test]
    fn a_secret_is_masked_and_the_caret_stays() {
        let text = "password = \"grün\"\n";
        let masked = mask_secrets(text);
        assert_eq!(masked, "password = \"**·*\"\n");
        assert_eq!(masked.len(), text.len());
    }

    #[test]
    fn what_is_too_much_is_counted() {
        let mut all = Diagnostics::new(vec![Source::new("x", "")]);
        for number in 0..Diagnostics::KEPT_MAX + 5 {
            all.push(Diagnostic::error(format!("number {number}")).at(span(0, 0), ""));
        }
        assert_eq!(all.errors(), Diagnostics::KEPT_MAX + 5);
        let text = all.render(false);
        assert!(
            text.ends_with("1005 errors, 955 of them not shown\n"),
            "{text}"
        );
        assert_eq!(text.matches("error: ").count(), Diagnostics::SHOWN_MAX);
    }

    #[test]
    fn marks_at_the_very_end_and_across_lines_are_shown() {
        let mut all = Diagnostics::new(vec![Source::new("x", "a = \"\"\"\r\nb\r\n")]);
        for (start, end) in [(4, 12), (12, 12), (900, 901), (8, 9)] {
            all.push(Diagnostic::error("it").at(span(start, end), "here"));
        }
        assert_eq!(all.render(false).matches("here").count(), 4);
    }

    #[test]
    fn long_and_strange_text_is_tamed() {
        assert_eq!(shown("a\u{1b}[1mb"), "`a\\u{1b}[1mb`");
        assert!(shown(&"x".repeat(1000)).len() < 80);
    }
}
