//! `[access]`: who is who, and who may do what.
//!
//! The table itself is read like any other. The two files that it may name are read by
//! `attach`, after the configuration has turned out to be right: a file that does not parse is
//! an error with its own line, and on a reload leaves everything as it was.

mod acl;
mod passwords;

use core::fmt;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

pub use acl::parse as parse_acl;
pub use passwords::{USERS_MAX, parse as parse_passwords};

use super::Meant;
use super::diagnostic::{Diagnostic, Diagnostics, Span, shown};
use super::load;
use super::place::Place;
use super::read::{At, Cx, Section};
use super::tree::{Entry, Value};
use crate::broker::settings::{Effect, Order, Pattern, Rule, Rules, Who};
use crate::credential::scram::Secret;

/// Rules at most, in the table or in an ACL file.
pub const RULES_MAX: usize = 10_000;

/// What is wrong with a line of a password file or an ACL file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineError {
    /// Counted from 1.
    pub line: usize,
    /// Bytes before it in that line, counted from 1.
    pub column: usize,
    /// What is wrong there.
    pub what: Box<str>,
}

/// `3:7: what`.
impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.what)
    }
}

/// `[access]`, without the contents of its files.
#[derive(Debug, Default)]
pub(super) struct Access {
    pub(super) rules: Option<Rules>,
    pub(super) files: AccessFiles,
}

/// The files that `[access]` names, as absolute as they can be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AccessFiles {
    /// In mosquitto's formats.
    pub passwords: Option<Box<str>>,
    /// In mosquitto's format.
    pub acl: Option<Box<str>>,
}

/// What an allowed or denied thing is called.
const VERBS: [(&str, Verb); 2] = [("publish", Verb::Publish), ("subscribe", Verb::Subscribe)];

/// If no rule matches.
pub(super) const DEFAULTS: [(&str, Effect); 2] = [("deny", Effect::Deny), ("allow", Effect::Allow)];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Publish,
    Subscribe,
}

/// Lists of users by name.
type Groups = BTreeMap<String, BTreeSet<Box<str>>>;

pub(super) fn read(cx: &mut Cx<'_>, root: &Section<'_>) -> Access {
    let section = root
        .get(cx, "access")
        .and_then(|entry| Section::open(cx, Place::Access, "access", entry));
    let Some(section) = section else {
        return Access::default();
    };
    let passwords = section.get(cx, "password_file");
    let acl = section.get(cx, "acl_file");
    let files = AccessFiles {
        passwords: passwords.and_then(|entry| cx.path(entry, "\"passwd\"")),
        acl: acl.and_then(|entry| cx.path(entry, "\"acl\"")),
    };
    let default = section
        .get(cx, "default")
        .map(|entry| (entry, cx.choice(entry, &DEFAULTS)));
    let groups = groups(cx, &section);
    let rules = section.get(cx, "rule");
    if let (Some(acl), Some(other)) = (acl, rules.or(default.map(|(entry, _)| entry))) {
        cx.push(
            Diagnostic::error("rules stand here and in an ACL file")
                .at(other.key, "here")
                .also(acl.key, "in the file")
                .help("take out one of the two: which of them would decide?"),
        );
    }
    let list = rules.map(|entry| list(cx, entry, &groups));
    let default = default.and_then(|(_, default)| default);
    let rules = (list.is_some() || default.is_some()).then(|| Rules {
        list: list.unwrap_or_default(),
        order: Order::FirstMatch,
        default: default.unwrap_or(Effect::Deny),
    });
    Access { rules, files }
}

fn groups(cx: &mut Cx<'_>, section: &Section<'_>) -> Groups {
    let mut groups = Groups::new();
    let Some(entry) = section.get(cx, "group") else {
        return groups;
    };
    let Value::Table(table) = &entry.node.value else {
        let help = "for example `group = { operators = [\"anna\", \"bert\"] }`";
        cx.error(
            entry.node.span,
            "`group` is a table of lists of users",
            "",
            help,
        );
        return groups;
    };
    for entry in table.entries() {
        let users = cx.texts(entry, "[\"anna\", \"bert\"]");
        let users = users.into_iter().map(|user| user.value.into()).collect();
        groups.insert(entry.name.clone(), users);
    }
    groups
}

fn list(cx: &mut Cx<'_>, entry: &Entry, groups: &Groups) -> Vec<Rule> {
    let Value::Array(items) = &entry.node.value else {
        let help = "each rule is a table of its own: `[[access.rule]]`";
        cx.error(entry.node.span, "`rule` is a list of tables", "", help);
        return Vec::new();
    };
    let mut rules = Vec::new();
    for (index, item) in items.iter().enumerate() {
        if index == RULES_MAX {
            cx.push(Diagnostic::error(format!("more than {RULES_MAX} rules")).at(item.span, ""));
            break;
        }
        let item = Entry {
            name: "rule".into(),
            key: item.span,
            node: item.clone(),
        };
        let path = format!("access.rule.{index}");
        if let Some(section) = Section::open(cx, Place::Rule, path, &item) {
            rules.extend(rule(cx, &section, groups));
        }
    }
    rules
}

fn rule(cx: &mut Cx<'_>, section: &Section<'_>, groups: &Groups) -> Option<Rule> {
    let who = who(cx, section, groups);
    let allow = section.get(cx, "allow");
    let deny = section.get(cx, "deny");
    let (effect, verbs) = match (allow, deny) {
        (Some(allow), None) => (Effect::Allow, allow),
        (None, Some(deny)) => (Effect::Deny, deny),
        (None, None) => {
            section.missing(
                cx,
                "allow",
                "for example `allow = [\"subscribe\", \"publish\"]`",
            );
            return None;
        }
        (Some(allow), Some(deny)) => {
            cx.push(
                Diagnostic::error("a rule allows or denies")
                    .at(deny.key, "denies")
                    .also(allow.key, "allows")
                    .help("make two rules of it: the first that matches decides"),
            );
            return None;
        }
    };
    let mut of = [false; 2];
    for verb in cx.texts(verbs, "[\"subscribe\", \"publish\"]") {
        match cx.word(&verbs.name, verb.value, verb.span, &VERBS) {
            Some(Verb::Publish) => of[0] = true,
            Some(Verb::Subscribe) => of[1] = true,
            None => {}
        }
    }
    if of == [false, false] && matches!(&verbs.node.value, Value::Array(items) if items.is_empty())
    {
        let help = "for example `allow = [\"subscribe\", \"publish\"]`";
        cx.error(
            verbs.node.span,
            "a rule without a verb is without effect",
            "",
            help,
        );
    }
    let own = section.get(cx, "own");
    let is_own = own.and_then(|entry| cx.flag(entry)).unwrap_or(false);
    if let Some(own) = own
        && is_own
        && (effect == Effect::Deny || !of[0])
    {
        let help = "`own = true` lets clients publish what the gateway says otherwise: it goes \
            with `allow = [\"publish\"]`";
        cx.error(own.key, "`own` is without effect here", "", help);
    }
    let Some(entry) = section.get(cx, "filter") else {
        section.missing(cx, "filter", "for example `filter = \"shed/#\"`");
        return None;
    };
    let text = cx.text(entry, "\"shed/#\"")?;
    match Pattern::new(text) {
        Ok(filter) if !text.starts_with("$share/") => Some(Rule {
            who: who?,
            effect,
            publish: of[0],
            subscribe: of[1],
            filter,
            own: is_own,
        }),
        Ok(_) => {
            let help = "a rule for the filter behind `$share/NAME/` holds for shared ones too";
            cx.error(entry.node.span, "a rule has no shared filter", "", help);
            None
        }
        Err(error) => {
            let title = format!("{} is no topic filter", shown(text));
            let error = error.to_string();
            cx.push(Diagnostic::error(title).at(entry.node.span, error));
            None
        }
    }
}

/// Of whom a rule speaks: of everybody if it says nothing.
fn who(cx: &mut Cx<'_>, section: &Section<'_>, groups: &Groups) -> Option<Who> {
    let mut said: Vec<(&Entry, Option<Who>)> = Vec::new();
    if let Some(entry) = section.get(cx, "user") {
        let users = cx.texts(entry, "\"anna\"").into_iter();
        let users: BTreeSet<Box<str>> = users.map(|user| user.value.into()).collect();
        said.push((entry, Some(Who::Users(users))));
    }
    if let Some(entry) = section.get(cx, "group") {
        let mut users = BTreeSet::new();
        for At { value, span } in cx.texts(entry, "\"operators\"") {
            match groups.get(value) {
                Some(group) => users.extend(group.iter().cloned()),
                None => no_group(cx, value, span, groups),
            }
        }
        said.push((entry, Some(Who::Users(users))));
    }
    if let Some(entry) = section.get(cx, "client") {
        let client = cx.text(entry, "\"panel-1\"");
        said.push((entry, client.map(|client| Who::Client(client.into()))));
    }
    if let Some(entry) = section.get(cx, "anonymous") {
        let flag = cx.flag(entry);
        if flag == Some(false) {
            let help = "leave it out, or write `anonymous = true`: those without a name";
            cx.error(entry.node.span, "a rule speaks of somebody", "", help);
        }
        said.push((entry, flag.map(|_| Who::Anonymous)));
    }
    match said.len() {
        0 => Some(Who::Everybody),
        1 => said.pop()?.1,
        _ => {
            cx.push(
                Diagnostic::error("a rule speaks of one sort of people")
                    .at(said[1].0.key, "")
                    .also(said[0].0.key, "")
                    .help("`user`, `group`, `client` and `anonymous` exclude one another"),
            );
            None
        }
    }
}

fn no_group(cx: &mut Cx<'_>, name: &str, span: Span, groups: &Groups) {
    let title = format!("there is no group {}", shown(name));
    let help = match super::read::declared(groups.keys().map(String::as_str)) {
        Some(groups) => format!("`group` in [access] has {groups}"),
        None => format!("declare it in [access]: `group = {{ {name} = [\"anna\"] }}`"),
    };
    cx.error(span, title, "", help);
}

/// Reads the files that `[access]` names.
///
/// # Errors
/// What cannot be read, or every line that is wrong. A line of a password file is not shown.
pub(super) fn attach(meant: &mut Meant) -> Result<(), Diagnostics> {
    let mut out = Diagnostics::default();
    let files = meant.access_files.clone();
    if let Some(path) = &files.passwords {
        let named = meant.origin_of("access.password_file");
        match text_of(path, &named).map(|text| parse_passwords(&text)) {
            Ok(Ok(users)) => {
                meant.gateway.broker.access.users = Some(users);
                meant.gateway.broker.access.secret = secret_of_machine();
            }
            Ok(Err(errors)) => report(
                &mut out,
                path,
                &errors,
                "`fieldgate passwd` writes the file",
            ),
            Err(error) => out.push(error),
        }
    }
    if let Some(path) = &files.acl {
        let named = meant.origin_of("access.acl_file");
        match text_of(path, &named).map(|text| parse_acl(&text)) {
            Ok(Ok(rules)) => meant.gateway.broker.access.rules = Some(rules),
            Ok(Err(errors)) => report(&mut out, path, &errors, acl::HELP),
            Err(error) => out.push(error),
        }
    }
    if out.is_empty() { Ok(()) } else { Err(out) }
}

/// What this machine has and nobody outside of it knows: systemd's machine id, of which only a hash
/// may leave (machine-id(5)). `None` if it has none.
fn secret_of_machine() -> Option<Secret> {
    let id = load::read_text(Path::new("/etc/machine-id")).ok()?;
    let id = id.trim();
    let is_one = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_one.then(|| Secret::new(format!("fieldgate scram {id}").as_bytes()))
}

fn text_of(path: &str, named: &str) -> Result<String, Diagnostic> {
    load::read_text(Path::new(path)).map_err(|reason| {
        Diagnostic::error(format!("cannot read {path}: {reason}")).help(format!(
            "{named} names it; the user that runs fieldgate must be able to read it"
        ))
    })
}

/// Errors of one file that are told; there may be as many as lines.
const TOLD_MAX: usize = 20;

fn report(out: &mut Diagnostics, path: &str, errors: &[LineError], help: &str) {
    for error in errors.iter().take(TOLD_MAX) {
        out.push(Diagnostic::error(format!("{path}:{error}")).help(help));
    }
    if errors.len() > TOLD_MAX {
        let more = errors.len() - TOLD_MAX;
        out.push(Diagnostic::error(format!(
            "{path}: {more} more lines are wrong"
        )));
    }
}
