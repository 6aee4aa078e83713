//! The house rules that a compiler does not check.
//!
//! * Who may import whom (the table in `src/lib.rs`): never sideways between machines, never
//!   upwards.
//! * What the deterministic core may not touch: clocks, sockets, files, threads, the environment,
//!   shared mutability, maps whose order is random.
//! * Where unsafe code may be, and that every file says what it is for.
//! * That a new file stands in a room that the map knows.

use std::fs;
use std::path::{Path, PathBuf};

/// A room of the house: how its modules are told, and which others they may import from.
struct Room {
    name: &'static str,
    /// Modules (first path segment below `src/`) in this room.
    modules: &'static [&'static str],
    /// Rooms below, from which its modules may import. Modules of one room see each other only if
    /// `own` says so.
    below: &'static [&'static str],
    /// Whether modules of this room may import one another.
    own: bool,
    /// Whether its code is deterministic: no clock, no socket, no file, no thread.
    pure: bool,
}

const HOUSE: &[Room] = &[
    Room {
        name: "vocabulary",
        modules: &[
            "time",
            "units",
            "deadlines",
            "rng",
            "id",
            "slab",
            "buffer",
            "point",
            "credential",
        ],
        below: &[],
        own: true,
        pure: true,
    },
    Room {
        name: "mqtt",
        modules: &["mqtt"],
        below: &["vocabulary"],
        own: true,
        pure: true,
    },
    Room {
        name: "machines",
        modules: &["broker", "bridge", "journal", "field", "pipeline"],
        below: &["vocabulary", "mqtt"],
        own: false,
        pure: true,
    },
    Room {
        name: "gateway",
        modules: &["gateway"],
        below: &["vocabulary", "mqtt", "machines"],
        own: true,
        pure: true,
    },
    Room {
        name: "config",
        modules: &["config"],
        below: &["vocabulary", "mqtt", "machines", "gateway"],
        own: true,
        pure: false,
    },
    Room {
        name: "host",
        modules: &["host"],
        below: &["vocabulary", "mqtt", "machines", "gateway"],
        own: true,
        pure: false,
    },
    Room {
        name: "cli",
        modules: &["cli"],
        below: &[
            "vocabulary",
            "mqtt",
            "machines",
            "gateway",
            "config",
            "host",
        ],
        own: true,
        pure: false,
    },
];

/// What the deterministic core may not name, and what to do instead.
const BANNED_IN_THE_CORE: &[(&str, &str)] = &[
    (
        "std::time",
        "time comes in as `Now`; durations are `crate::time::Duration`",
    ),
    ("SystemTime", "wall time comes in as `Now::wall`"),
    ("std::net::Tcp", "sockets are the host's"),
    ("std::net::Udp", "sockets are the host's"),
    ("std::net::ToSocketAddrs", "names are resolved by the host"),
    ("std::os::", "the operating system is the host's"),
    ("std::fs", "files are the host's"),
    ("std::thread", "one thread owns all state"),
    ("std::sync", "one thread owns all state"),
    ("std::env", "the environment is the host's"),
    ("std::process", "processes are the host's"),
    ("mio::", "readiness is the host's"),
    ("libc::", "system calls are the host's"),
    ("nix::", "system calls are the host's"),
    ("rppal::", "buses are the host's"),
    ("gpiocdev::", "lines are the host's"),
    ("serialport::", "ports are the host's"),
    ("thread_local!", "no globals"),
    ("static mut", "no globals"),
    ("OnceLock", "no globals"),
    ("LazyLock", "no globals"),
    (
        "RefCell",
        "no shared mutability: `route` carries values between machines",
    ),
    ("Mutex", "one thread owns all state"),
    (
        "collections::HashMap",
        "its order is random: BTreeMap, or crate::rng::HashMap",
    ),
    ("collections::HashSet", "its order is random: BTreeSet"),
    (
        "RandomState::new",
        "hashers are seeded by `Rng::hash_state`",
    ),
    ("todo!", "finish it"),
    ("unimplemented!", "finish it"),
];

/// The one exception: the seeded map is made of the standard one.
const EXCEPTIONS: &[(&str, &str)] = &[("src/rng.rs", "collections::HashMap")];

/// What only the host may import, also outside the pure rooms (`cli` reads arguments and files, but
/// opens no device).
const HOST_ONLY: &[&str] = &["mio::", "libc::", "rppal::", "gpiocdev::", "serialport::"];

/// Files and folders that the top level may have, each with its reason in DESIGN or in being a file
/// any repository has.
const TOP_LEVEL: &[&str] = &[
    ".ci",
    ".git",
    ".gitignore",
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "cross.toml",
    "src",
    "systemd",
    "target",
    "tests",
    ".fieldgate-cache",
];

#[test]
fn imports_go_down_and_never_sideways() {
    let mut wrong = Vec::new();
    for file in sources() {
        let module = module_of(&file.path);
        if module == "lib" || module == "main" {
            continue;
        }
        let room = room_of(&module);
        for (line, target) in file.crate_paths() {
            let Some(other) = HOUSE
                .iter()
                .find(|room| room.modules.contains(&target.as_str()))
            else {
                wrong.push(format!(
                    "{}:{line}: crate::{target} is in no room of the map",
                    file.name()
                ));
                continue;
            };
            let same_module = target == module;
            let same_room = other.name == room.name && room.own;
            if !(same_module || same_room || room.below.contains(&other.name)) {
                wrong.push(format!(
                    "{}:{line}: {module} may not import {target}",
                    file.name()
                ));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "imports against the table of src/lib.rs:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn the_core_touches_nothing_outside() {
    let mut wrong = Vec::new();
    for file in sources() {
        let module = module_of(&file.path);
        if matches!(module.as_str(), "lib" | "main") || !room_of(&module).pure {
            continue;
        }
        for (line, code) in file.code_lines() {
            for (pattern, instead) in BANNED_IN_THE_CORE {
                let excepted = EXCEPTIONS.contains(&(file.name().as_str(), pattern));
                if code.contains(pattern) && !excepted {
                    wrong.push(format!("{}:{line}: {pattern}: {instead}", file.name()));
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "the deterministic core names what it may not:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn devices_and_readiness_are_the_hosts_alone() {
    let mut wrong = Vec::new();
    for file in sources() {
        if module_of(&file.path) == "host" {
            continue;
        }
        for (line, code) in file.code_lines() {
            for pattern in HOST_ONLY {
                if code.contains(pattern) {
                    wrong.push(format!("{}:{line}: {pattern}", file.name()));
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "only src/host may name these:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn unsafe_code_is_the_hosts_alone() {
    let mut wrong = Vec::new();
    for file in sources() {
        if module_of(&file.path) == "host" {
            continue;
        }
        for (line, code) in file.code_lines() {
            let words: Vec<_> = code
                .split(|c: char| !c.is_alphanumeric() && c != '_')
                .collect();
            if words.contains(&"unsafe") {
                wrong.push(format!("{}:{line}", file.name()));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "unsafe code outside src/host:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn every_file_says_what_it_is_for() {
    let wrong: Vec<_> = sources()
        .into_iter()
        .filter(|file| !file.text.starts_with("//! ") || file.text.starts_with("//! (skeleton)"))
        .map(|file| file.name())
        .collect();
    assert!(
        wrong.is_empty(),
        "files that do not open with `//!` and their purpose:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn every_file_stands_in_a_room() {
    for file in sources() {
        let module = module_of(&file.path);
        if module != "lib" && module != "main" {
            room_of(&module);
        }
    }
    let lib = fs::read_to_string(root().join("src/lib.rs")).expect("src/lib.rs");
    for room in HOUSE {
        for module in room.modules {
            if !lib.contains(&format!("pub mod {module};")) {
                // A room that is planned: its place is kept, and nothing may be in it.
                assert!(
                    !root().join("src").join(module).exists(),
                    "{module} is not in lib.rs"
                );
                continue;
            }
            assert!(
                lib.contains(&format!("[`{module}`]")),
                "{module} is not in the table of lib.rs"
            );
        }
    }
    let mut strangers = Vec::new();
    for entry in fs::read_dir(root()).expect("the project's folder") {
        let name = entry
            .expect("an entry")
            .file_name()
            .to_string_lossy()
            .into_owned();
        if !TOP_LEVEL.contains(&name.as_str()) && !is_ignored(&name) {
            strangers.push(name);
        }
    }
    assert!(
        strangers.is_empty(),
        "files that the top level does not know: {strangers:?}"
    );
}

#[test]
fn lines_fit_and_lints_are_expected_not_allowed() {
    let mut wrong = Vec::new();
    for file in sources() {
        for (number, line) in file.text.lines().enumerate() {
            let is_table = line
                .trim_start()
                .trim_start_matches('/')
                .trim_start_matches('!')
                .starts_with(" |");
            if line.chars().count() > 100 && !is_table {
                wrong.push(format!("{}:{}: over 100 columns", file.name(), number + 1));
            }
            if line.trim_start().starts_with("#[allow(")
                || line.trim_start().starts_with("#![allow(")
            {
                wrong.push(format!(
                    "{}:{}: `expect` with a reason, not `allow`",
                    file.name(),
                    number + 1
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The rules must be able to fail: what they are made of is tried on text that breaks them.
#[test]
fn the_rules_see_what_they_should() {
    let file = Source {
        path: PathBuf::from("src/broker/x.rs"),
        text:
            "use crate::field::Field;\n// std::fs in a comment\nlet x = \"std::fs in a string\";\n\
               use crate::{id::ConnId, host::run};\nstd::fs::read(p);\nlet y = crate::cli::z();\n"
                .to_owned(),
    };
    let targets: Vec<_> = file
        .crate_paths()
        .into_iter()
        .map(|(_, target)| target)
        .collect();
    assert_eq!(targets, ["field", "id", "host", "cli"]);
    let hits = file
        .code_lines()
        .into_iter()
        .filter(|(_, code)| code.contains("std::fs"))
        .count();
    assert_eq!(hits, 1);
}

struct Source {
    path: PathBuf,
    text: String,
}

impl Source {
    fn name(&self) -> String {
        self.path.to_string_lossy().into_owned()
    }

    /// Lines without comments and without what stands in string literals.
    fn code_lines(&self) -> Vec<(usize, String)> {
        let mut lines = Vec::new();
        for (number, line) in self.text.lines().enumerate() {
            let mut code = String::new();
            let mut chars = line.chars().peekable();
            let mut in_string = false;
            while let Some(c) = chars.next() {
                match c {
                    '\\' if in_string => {
                        chars.next();
                    }
                    '"' => in_string = !in_string,
                    '/' if !in_string && chars.peek() == Some(&'/') => break,
                    _ if !in_string => code.push(c),
                    _ => {}
                }
            }
            lines.push((number + 1, code));
        }
        lines
    }

    /// Every first segment behind `crate::`, inside braces too.
    fn crate_paths(&self) -> Vec<(usize, String)> {
        let mut found = Vec::new();
        let lines = self.code_lines();
        for (index, (number, code)) in lines.iter().enumerate() {
            for (at, _) in code.match_indices("crate::") {
                let rest = &code[at + "crate::".len()..];
                if let Some(inner) = rest.strip_prefix('{') {
                    let mut text = inner.to_owned();
                    for (_, more) in &lines[index + 1..] {
                        if text.matches('}').count() > text.matches('{').count() {
                            break;
                        }
                        text.push_str(more);
                    }
                    let mut depth = 0_i32;
                    let mut item = String::new();
                    for c in text.chars() {
                        match c {
                            '{' => depth += 1,
                            '}' if depth == 0 => break,
                            '}' => depth -= 1,
                            ',' if depth == 0 => {
                                found.push((*number, first_segment(&item)));
                                item.clear();
                            }
                            _ if depth == 0 => item.push(c),
                            _ => {}
                        }
                    }
                    if !item.trim().is_empty() {
                        found.push((*number, first_segment(&item)));
                    }
                } else {
                    found.push((*number, first_segment(rest)));
                }
            }
        }
        found
    }
}

fn first_segment(path: &str) -> String {
    path.trim_start()
        .chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect()
}

fn room_of(module: &str) -> &'static Room {
    HOUSE
        .iter()
        .find(|room| room.modules.contains(&module))
        .unwrap_or_else(|| {
            panic!("src/{module} is in no room of the map: see DESIGN and src/lib.rs")
        })
}

fn module_of(path: &Path) -> String {
    let below = path.strip_prefix("src").expect("a path below src");
    let first = below
        .components()
        .next()
        .expect("a file")
        .as_os_str()
        .to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    collect(&root().join("src"), &mut found);
    assert!(found.len() > 20, "the walk over src found next to nothing");
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn collect(folder: &Path, found: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).expect("a folder below src") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, found);
        } else {
            assert!(
                path.extension().is_some_and(|ending| ending == "rs"),
                "{} is not Rust",
                path.display()
            );
            let text = fs::read_to_string(&path).expect("a source file in UTF-8");
            let path = path
                .strip_prefix(root())
                .expect("below the root")
                .to_path_buf();
            found.push(Source { path, text });
        }
    }
}

fn is_ignored(name: &str) -> bool {
    // Editors' and tools' leavings that git ignores anyway.
    name.starts_with(".#") || name.ends_with('~')
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
