//! The test of the manifest: nothing is missing in it, and what it names is there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use regex_lite::Regex;
use serde::Deserialize;

/// What a version calls its clauses: the sections that have any, with the highest number in each.
struct Standard {
    manifest: &'static str,
    /// What stands behind the number.
    suffix: &'static str,
    sections: &'static [(&'static str, u16)],
    /// Numbers that the standard leaves out.
    gaps: &'static [(&'static str, u16)],
}

const STANDARDS: [Standard; 2] = [
    Standard {
        manifest: include_str!("mqtt5.toml"),
        suffix: "",
        sections: &[
            ("1.5.4", 3),
            ("1.5.5", 1),
            ("1.5.7", 1),
            ("2.1.3", 1),
            ("2.2.1", 6),
            ("2.2.2", 1),
            ("3.1.0", 2),
            ("3.1.2", 30),
            ("3.1.3", 12),
            ("3.1.4", 6),
            ("3.2.0", 2),
            ("3.2.2", 22),
            ("3.3.1", 13),
            ("3.3.2", 20),
            ("3.3.4", 10),
            ("3.4.2", 3),
            ("3.5.2", 3),
            ("3.6.1", 1),
            ("3.6.2", 3),
            ("3.7.2", 3),
            ("3.8.1", 1),
            ("3.8.3", 5),
            ("3.8.4", 8),
            ("3.9.2", 2),
            ("3.9.3", 2),
            ("3.10.1", 1),
            ("3.10.3", 2),
            ("3.10.4", 6),
            ("3.11.2", 2),
            ("3.11.3", 2),
            ("3.12.4", 1),
            ("3.14.0", 1),
            ("3.14.1", 1),
            ("3.14.2", 4),
            ("3.14.4", 3),
            ("3.15.1", 1),
            ("3.15.2", 3),
            ("4.1.0", 2),
            ("4.2", 1),
            ("4.3.1", 1),
            ("4.3.2", 5),
            ("4.3.3", 13),
            ("4.4.0", 2),
            ("4.5.0", 2),
            ("4.6.0", 6),
            ("4.7.0", 1),
            ("4.7.1", 2),
            ("4.7.2", 1),
            ("4.7.3", 4),
            ("4.8.2", 6),
            ("4.9.0", 3),
            ("4.12.0", 7),
            ("4.12.1", 2),
            ("4.13.1", 1),
            ("4.13.2", 1),
            ("6.0.0", 4),
        ],
        gaps: &[("2.2.1", 1)],
    },
    Standard {
        manifest: include_str!("mqtt311.toml"),
        suffix: "/3.1.1",
        sections: &[
            ("1.5.3", 3),
            ("2.2.2", 2),
            ("2.3.1", 7),
            ("3.1.0", 2),
            ("3.1.2", 24),
            ("3.1.3", 11),
            ("3.1.4", 5),
            ("3.2.0", 1),
            ("3.2.2", 6),
            ("3.3.1", 12),
            ("3.3.2", 3),
            ("3.3.4", 1),
            ("3.3.5", 2),
            ("3.6.1", 1),
            ("3.8.1", 1),
            ("3.8.3", 4),
            ("3.8.4", 6),
            ("3.9.3", 2),
            ("3.10.1", 1),
            ("3.10.3", 2),
            ("3.10.4", 6),
            ("3.12.4", 1),
            ("3.14.1", 1),
            ("3.14.4", 3),
            ("4.1.0", 2),
            ("4.3.1", 1),
            ("4.3.2", 2),
            ("4.3.3", 2),
            ("4.4.0", 1),
            ("4.5.0", 2),
            ("4.6.0", 6),
            ("4.7.1", 3),
            ("4.7.2", 1),
            ("4.7.3", 4),
            ("4.8.0", 2),
            ("6.0.0", 4),
            ("7.0.0", 2),
            ("7.1.1", 1),
            ("7.1.2", 1),
        ],
        gaps: &[],
    },
];

/// A clause, and how it is met.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Clause {
    /// What it demands, in our words.
    says: String,
    /// `target::module::name` of each test that proves it; the target `lib` is the unit tests.
    #[serde(default)]
    tests: Vec<String>,
    /// `client`: it demands nothing of a server. Tests may show what becomes of a client that
    /// breaks it.
    binds: Option<Who>,
    /// What we do where the clause leaves a choice, or why there is nothing to prove, and the
    /// reason.
    choice: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Who {
    Client,
}

fn clauses() -> BTreeMap<String, Clause> {
    let mut all = BTreeMap::new();
    for standard in &STANDARDS {
        let read: BTreeMap<String, Clause> = toml::from_str(standard.manifest).unwrap();
        let count = all.len() + read.len();
        all.extend(read);
        assert_eq!(all.len(), count, "no clause is in both files");
    }
    all
}

#[test]
fn every_clause_of_both_standards_is_there() {
    for standard in &STANDARDS {
        let read: BTreeMap<String, Clause> = toml::from_str(standard.manifest).unwrap();
        let mut expected = BTreeSet::new();
        for (section, last) in standard.sections {
            let numbers = (1..=*last).filter(|number| !standard.gaps.contains(&(section, *number)));
            expected.extend(
                numbers.map(|number| format!("MQTT-{section}-{number}{}", standard.suffix)),
            );
        }
        let there: BTreeSet<_> = read.into_keys().collect();
        let missing: Vec<_> = expected.difference(&there).collect();
        assert!(missing.is_empty(), "not in the manifest: {missing:?}");
        let unknown: Vec<_> = there.difference(&expected).collect();
        assert!(unknown.is_empty(), "not in the standard: {unknown:?}");
    }
}

#[test]
fn every_clause_is_mapped() {
    let wrong: Vec<_> = clauses()
        .into_iter()
        .filter_map(|(id, clause)| Some(format!("{id}: {}", is_unmapped(&clause)?)))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What is wrong with an entry.
fn is_unmapped(clause: &Clause) -> Option<&'static str> {
    if !clause.says.ends_with('.') {
        return Some("it does not say what it demands");
    }
    match (&clause.binds, &clause.choice) {
        (Some(Who::Client), Some(_)) => Some("what binds the client only leaves us no choice"),
        (_, Some(reason)) if !reason.ends_with('.') => Some("a choice has a reason"),
        (None, None) if clause.tests.is_empty() => Some("no test, no choice"),
        _ => None,
    }
}

#[test]
fn every_test_that_is_named_is_there() {
    let mut sources = Sources::default();
    let mut gone = Vec::new();
    for (id, clause) in clauses() {
        let distinct: BTreeSet<_> = clause.tests.iter().collect();
        assert_eq!(distinct.len(), clause.tests.len(), "{id} names one twice");
        for test in &clause.tests {
            if !sources.has(test) {
                gone.push(format!("{id}: {test}"));
            }
        }
    }
    assert!(gone.is_empty(), "no such tests:\n{}", gone.join("\n"));
}

/// Above each test of this folder stands what it is for, and the manifest says the same.
#[test]
fn tests_and_manifest_agree() {
    let mut cited = BTreeSet::new();
    let mut sources = Sources::default();
    let here = root().join("tests/conformance");
    for file in files_below(&here) {
        let module = file.file_stem().unwrap().to_str().unwrap();
        if matches!(module, "main" | "manifest" | "support") {
            continue;
        }
        for (name, clauses) in sources.tests_of(&file) {
            assert!(!clauses.is_empty(), "{module}::{name} is for no clause");
            cited.extend(
                clauses
                    .iter()
                    .map(|clause| (clause.clone(), format!("conformance::{module}::{name}"))),
            );
        }
    }
    let mut named = BTreeSet::new();
    for (id, clause) in clauses() {
        let ours = |test: &String| test.starts_with("conformance::");
        named.extend(
            clause
                .tests
                .into_iter()
                .filter(ours)
                .map(|test| (id.clone(), test)),
        );
    }
    let missing: Vec<_> = cited.difference(&named).collect();
    assert!(missing.is_empty(), "not in the manifest: {missing:#?}");
    let unfounded: Vec<_> = named.difference(&cited).collect();
    assert!(unfounded.is_empty(), "not above the test: {unfounded:#?}");
}

#[test]
fn every_clause_that_the_code_cites_exists() {
    let known = clauses();
    let mut unknown = Vec::new();
    let mut count = 0;
    for folder in ["src", "tests"] {
        for file in files_below(&root().join(folder)) {
            if file.ends_with("conformance/manifest.rs") {
                continue;
            }
            for clause in citations(&fs::read_to_string(&file).unwrap()) {
                count += 1;
                if !known.contains_key(&clause) {
                    unknown.push(format!("{}: {clause}", file.display()));
                }
            }
        }
    }
    assert!(count > 300, "next to nothing is cited");
    assert!(
        unknown.is_empty(),
        "no such clauses:\n{}",
        unknown.join("\n")
    );
}

/// The checks must be able to fail: they are tried on what is wrong.
#[test]
fn the_checks_see_what_they_should() {
    let text = "
// [MQTT-1.0.0-1] and
// [MQTT-1.0.0-2/3.1.1]
#[test]
fn one() {}

// [MQTT-1.0.0-3]

fn helper() {}
#[test]
#[ignore]
fn ignored() {}
    // [MQTT-4.2-1]
    fn two(b: &mut House) {
        let _ = \"fn three(b: &mut House) {\";
    fn script(wire: &mut dyn Wire, version) {
";
    let tests = tests_in(text);
    let named = |name: &str| tests.get(name).map(|clauses| clauses.join(" "));
    assert_eq!(
        named("one").as_deref(),
        Some("MQTT-1.0.0-1 MQTT-1.0.0-2/3.1.1")
    );
    assert_eq!(named("two").as_deref(), Some("MQTT-4.2-1"));
    assert_eq!(named("script").as_deref(), Some(""));
    assert_eq!(tests.len(), 3, "{tests:?}");

    let mut sources = Sources::default();
    assert!(sources.has("conformance::manifest::the_checks_see_what_they_should"));
    assert!(sources.has("lib::mqtt::wire::strings_are_utf_8_without_null"));
    for gone in [
        "conformance::manifest::one_that_is_gone",
        "conformance::manifest::root",
        "conformance::nowhere::the_checks_see_what_they_should",
        "lib::mqtt::wire::variable_len",
    ] {
        assert!(!sources.has(gone), "{gone}");
    }

    let read = |text: &str| toml::from_str::<Clause>(text).unwrap();
    for (text, is_mapped) in [
        ("says = 'It does.'", false),
        ("says = 'It does.'\ntests = ['a::b::c']", true),
        ("says = ''\ntests = ['a::b::c']", false),
        ("says = 'It does.'\nbinds = 'client'", true),
        (
            "says = 'It does.'\nbinds = 'client'\nchoice = 'We do.'",
            false,
        ),
        ("says = 'It does.'\nchoice = 'We do.'", true),
        ("says = 'It does.'\nchoice = ''", false),
    ] {
        assert_eq!(is_unmapped(&read(text)).is_none(), is_mapped, "{text}");
    }
    assert!(toml::from_str::<Clause>("says = 'It does.'\nbinds = 'server'").is_err());
}

/// The tests of each file, read once.
#[derive(Default)]
struct Sources(BTreeMap<PathBuf, BTreeMap<String, Vec<String>>>);

impl Sources {
    /// Whether there is a test of this name.
    fn has(&mut self, test: &str) -> bool {
        let (modules, name) = test.rsplit_once("::").unwrap_or(("", test));
        let below = match modules.strip_prefix("lib::") {
            Some(module) => format!("src/{}", module.replace("::", "/")),
            None => format!("tests/{}", modules.replace("::", "/")),
        };
        let candidates = [
            format!("{below}.rs"),
            format!("{below}/mod.rs"),
            format!("{below}/main.rs"),
        ];
        let mut files = candidates.into_iter().map(|file| root().join(file));
        let Some(file) = files.find(|file| file.is_file()) else {
            return false;
        };
        self.tests_of(&file).contains_key(name)
    }

    /// Name, and the clauses above it.
    fn tests_of(&mut self, file: &Path) -> BTreeMap<String, Vec<String>> {
        let read = || tests_in(&fs::read_to_string(file).unwrap());
        let tests = self.0.entry(file.to_owned()).or_insert_with(read);
        tests.clone()
    }
}

/// Tests in a source file, each with the clauses in the comment above it: functions with `#[test]`,
/// and those in the blocks that make tests of them, which are known by what they take.
fn tests_in(text: &str) -> BTreeMap<String, Vec<String>> {
    let head =
        Regex::new(r"^\s*fn ([a-z_0-9]+)(\(b: &mut House\)|\(wire: &mut dyn Wire, version\))?")
            .unwrap();
    let mut tests = BTreeMap::new();
    let (mut clauses, mut is_test, mut is_ignored) = (Vec::new(), false, false);
    for line in text.lines() {
        let code = line.trim_start();
        if code.starts_with("//") {
            clauses.extend(citations(code));
            continue;
        }
        if code.starts_with("#[") {
            is_test |= code == "#[test]";
            is_ignored |= code.starts_with("#[ignore");
            continue;
        }
        if let Some(found) = head.captures(line)
            && (is_test || (found.get(2).is_some() && line.ends_with('{')))
            && !is_ignored
        {
            tests.insert(found[1].to_owned(), core::mem::take(&mut clauses));
        }
        clauses.clear();
        (is_test, is_ignored) = (false, false);
    }
    tests
}

/// The clauses that a text cites, in their order.
fn citations(text: &str) -> Vec<String> {
    let clause = Regex::new(r"\[(MQTT-[0-9.]+-[0-9]+(?:/3\.1\.1)?)\]").unwrap();
    clause
        .captures_iter(text)
        .map(|found| found[1].to_owned())
        .collect()
}

/// Every Rust file in a folder and below it.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_below(&path));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
    found
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
