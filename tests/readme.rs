//! The README says what is so: its configurations are right and name every key, its commands exist,
//! its paths are there, its map is the source's.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use fieldgate::config::{self, Environment, Source};
use fieldgate::gateway::settings::JournalSettings;
use regex_lite::Regex;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    let path = root().join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The fenced blocks of a language, without their fences.
fn blocks<'t>(text: &'t str, language: &str) -> Vec<&'t str> {
    let fence = format!("```{language}\n");
    let parts = text.split(fence.as_str()).skip(1);
    parts
        .map(|part| part.split("```").next().expect("what is before the fence"))
        .collect()
}

/// What is set as code, blocks and spans alike, and nothing of the prose around it.
fn code(text: &str) -> Vec<String> {
    let spans = Regex::new("`([^`\n]+)`").expect("a pattern");
    let mut code = Vec::new();
    for (index, part) in text.split("```").enumerate() {
        if index % 2 == 1 {
            code.push(part.to_owned());
        } else {
            code.extend(spans.captures_iter(part).map(|span| span[1].to_owned()));
        }
    }
    code
}

/// The section below a heading, up to the next one.
fn section<'t>(text: &'t str, heading: &str) -> &'t str {
    let start = format!("\n{heading}\n");
    let (_, after) = text
        .split_once(start.as_str())
        .unwrap_or_else(|| panic!("no section {heading:?}"));
    let end = after.find("\n## ").or_else(|| after.find("\n# "));
    &after[..end.unwrap_or(after.len())]
}

#[test]
fn every_configuration_is_right() {
    let readme = read("README.md");
    let files = blocks(&readme, "toml");
    assert!(files.len() >= 3, "an example, a listener and the reference");
    for file in files {
        let source = Source::new("README.md", file);
        match config::parse(vec![source], &Environment::default()) {
            Ok(loaded) => {
                let warnings = &loaded.warnings;
                assert!(warnings.is_empty(), "{}", warnings.render(false));
            }
            Err(errors) => panic!("{}", errors.render(false)),
        }
    }
}

#[test]
fn the_example_has_ten_lines() {
    let readme = read("README.md");
    let example = section(&readme, "## A Raspberry Pi with real devices");
    assert_eq!(blocks(example, "toml")[0].lines().count(), 10);
}

/// The reference shows what is the default as the default.
#[test]
fn the_limits_shown_are_the_defaults() {
    let readme = read("README.md");
    let reference = blocks(section(&readme, "## Configuration"), "toml")[0];
    let parse = |text: &str| {
        let source = Source::new("README.md", text);
        let loaded = config::parse(vec![source], &Environment::default());
        loaded.expect("right").meant
    };
    let shown = parse(reference);
    let silent = parse("[gateway]\nname = \"shed\"\n");
    let mut broker = shown.gateway.broker.clone();
    assert!(
        broker.access.rules.take().is_some(),
        "by default there are no rules"
    );
    assert!(
        broker.response_information.take().is_some(),
        "nor are clients told where to be answered"
    );
    let rules = std::mem::take(&mut broker.durability.rules);
    assert!(
        !rules.is_empty(),
        "and nothing else decides what waits for the disk"
    );
    assert_eq!(broker, silent.gateway.broker);
    assert_eq!(shown.gateway.journal, Some(JournalSettings::default()));
    assert_eq!(shown.control.socket, silent.control.socket);
    assert_eq!(shown.log.level, silent.log.level);
    let local = &shown.gateway.listeners["local"];
    assert_eq!(local.bind, silent.gateway.listeners["local"].bind);

    // Of a bridge, what must be given and what has no default is taken from what is shown.
    let mut bridges = shown.gateway.bridges.clone();
    let silent = parse(
        r#"[gateway]
        name = "shed"
        [bridge.cloud]
        url = "mqtts://broker.example:8883"
        [[bridge.cloud.send]]
        filter = "shed/#"
        to = "plants/shed/#"
        [[bridge.cloud.receive]]
        filter = "plants/shed/+/+/set"
        [bridge.spare]
        urls = ["mqtt://one.example", "mqtt://two.example"]
        "#,
    );
    let cloud = bridges.get_mut("cloud").expect("a bridge");
    assert!(cloud.username.take().is_some() && cloud.password.take().is_some());
    assert!(cloud.tls.identity.is_some());
    let spare = bridges.get_mut("spare").expect("another");
    assert!(spare.username.take().is_some() && spare.password.take().is_some());
    spare.queue = silent.gateway.bridges["spare"].queue;
    let cloud = bridges.get_mut("cloud").expect("a bridge");
    cloud.tls = silent.gateway.bridges["cloud"].tls.clone();
    assert!(cloud.send[0].backlog_to.take().is_some());
    cloud.send[0].except.clear();
    assert!(cloud.receive[0].to.take().is_some());
    assert_eq!(bridges, silent.gateway.bridges);

    let named = r#"[device.greenhouse]
        driver = "bme280"
        bus = "i2c.1"
        point.temperature = { precision = 2 }
    "#;
    let plain = parse(&format!("[gateway]\nname = \"shed\"\n{named}"));
    let mut shown = shown.gateway.devices["greenhouse"].clone();
    let plain = &plain.gateway.devices["greenhouse"];
    assert_eq!(shown.field, plain.field);
    let shown = shown.points.remove("temperature").expect("a temperature");
    assert_eq!(shown, plain.points["temperature"]);
}

/// A table in which nothing but an unknown key is wrong, for each kind of table: the message lists
/// the keys that are known.
const TABLES: [&str; 35] = [
    "",
    "[gateway]\n",
    "[gateway.defaults]\n",
    "[broker]\n",
    "[broker.queue]\n",
    "[broker.retained]\n",
    "[broker.publish_quota]\n",
    "[broker.durability]\n",
    "[broker.durability]\ndefault = { interval = \"1s\", @ = 1 }\n",
    "[broker.durability]\nrules = [{ filter = \"a\", level = \"none\", @ = 1 }]\n",
    "[journal]\n",
    "[listener.x]\nbind = \"[::1]:1\"\n",
    "[listener.x]\nbind = \"[::1]:1\"\ntls = { certificate = \"a\", key = \"b\", @ = 1 }\n",
    "[listener.x]\nbind = \"[::1]:1\"\nprotocols = [\"websocket\"]\nwebsocket = { @ = 1 }\n",
    "[listener.x]\nbind = \"[::1]:1\"\nproxy_protocol = { from = [\"::1\"], @ = 1 }\n",
    "[listener.x]\nbind = \"[::1]:1\"\nredirect = { to = \"a\", @ = 1 }\n",
    "[bridge.x]\nurl = \"mqtt://a\"\n",
    "[bridge.x]\nurl = \"mqtts://a\"\ntls = { @ = 1 }\n",
    "[bridge.x]\nurl = \"mqtt://a\"\nreconnect = { @ = 1 }\n",
    "[bridge.x]\nurl = \"mqtt://a\"\nqueue = { @ = 1 }\n",
    "[bridge.x]\nurl = \"mqtt://a\"\nusername = { file = \"a\", @ = 1 }\n",
    "[bridge.x]\nurl = \"mqtt://a\"\n[[bridge.x.send]]\nfilter = \"a\"\n@ = 1\n",
    "[bridge.x]\nurl = \"mqtt://a\"\n[[bridge.x.receive]]\nfilter = \"a\"\n@ = 1\n",
    "[i2c.1]\n",
    "[gpio.header]\n",
    "[serial.x]\npath = \"/dev/x\"\n",
    "[log]\n",
    "[control]\n",
    "[device.x]\ndriver = \"system\"\n",
    "[device.x]\ndriver = \"lm75\"\nbus = \"i2c.1\"\n",
    "[device.x]\ndriver = \"gpio\"\nbus = \"gpio.header\"\npoint.a = { kind = \"input\", line = 4, \
     @ = 1 }\n",
    "[device.x]\ndriver = \"gpio\"\nbus = \"gpio.header\"\npoint.a = { kind = \"event\", line = 4, \
     @ = 1 }\n",
    "[device.x]\ndriver = \"gpio\"\nbus = \"gpio.header\"\npoint.a = { kind = \"output\", line = \
     4, safe_state = false, @ = 1 }\n",
    "[device.x]\ndriver = \"lines\"\nbus = \"serial.x\"\npattern = '(?<a>.)'\npoint.a = { @ = 1 \
     }\n[serial.x]\npath = \"/dev/x\"\n",
    "[device.x]\ndriver = \"lines\"\nbus = \"serial.x\"\npattern = '(?<a>.)'\n@ = 1\n\
     [serial.x]\npath = \"/dev/x\"\n",
];

#[test]
fn every_key_that_the_program_knows_is_in_the_reference() {
    const UNKNOWN: &str = "qqqqqqqqqqqqqqqqqqqqqqqq";
    let readme = read("README.md");
    let reference = blocks(section(&readme, "## Configuration"), "toml")[0];
    // Words of comments are no keys.
    let lines = reference
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default());
    let written = Regex::new("[a-z0-9_]+").expect("a pattern");
    let written: BTreeSet<_> = lines
        .flat_map(|line| written.find_iter(line).map(|word| word.as_str()))
        .collect();
    for table in TABLES {
        let text = if table.contains('@') {
            table.replace('@', UNKNOWN)
        } else {
            format!("{table}{UNKNOWN} = 1\n")
        };
        let source = Source::new("x.toml", text.as_str());
        let errors = config::parse(vec![source], &Environment::default()).expect_err(&text);
        assert_eq!(errors.errors(), 1, "{}", errors.render(false));
        let message = errors.render(false);
        let (_, keys) = message.split_once("its keys are ").expect(&message);
        let keys = keys.lines().next().expect("a line").split('`');
        let keys: Vec<_> = keys.skip(1).step_by(2).collect();
        assert!(!keys.is_empty(), "{message}");
        for key in keys {
            assert!(
                written.contains(key),
                "the reference lacks {key} of {table:?}"
            );
        }
    }
}

/// What a command says of itself.
fn help(verb: &str) -> String {
    let help = Command::new(env!("CARGO_BIN_EXE_fieldgate"))
        .args([verb, "--help"])
        .output()
        .expect("the program");
    assert!(help.status.success(), "there is no `fieldgate {verb}`");
    String::from_utf8(help.stdout).expect("text")
}

#[test]
fn every_command_exists_with_its_options() {
    let command = Regex::new(r"(?:fieldgate|cargo run --release --) ([a-z]+)([^`\n#|]*)");
    let command = command.expect("a pattern");
    let option = Regex::new("--[a-z]+").expect("a pattern");
    let readme = read("README.md");
    let mut seen = BTreeSet::new();
    let check = |verb: &str, options: &str| {
        let help = help(verb);
        for option in option.find_iter(options) {
            let option = option.as_str();
            assert!(help.contains(option), "fieldgate {verb} has no {option}");
        }
    };
    for code in code(&readme) {
        for found in command.captures_iter(&code) {
            check(&found[1], &found[2]);
            seen.insert(found[1].to_owned());
        }
    }
    let all = [
        "bench", "check", "demo", "journal", "passwd", "pub", "queue", "read", "run", "scan",
        "set", "sub",
    ];
    assert_eq!(seen, all.map(str::to_owned).into(), "every command");

    // A row of the table tells options of its own command.
    for row in section(&readme, "## Commands").lines() {
        if let Some(found) = command.captures(row).filter(|_| row.starts_with('|')) {
            check(&found[1], row);
        }
    }
}

/// The table of figures has the workloads that there are, with their parameters' names as the
/// program prints them.
#[test]
fn the_figures_are_those_of_the_comparison() {
    let readme = read("README.md");
    let rows = section(&readme, "## Speed")
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| ---"))
        .skip(1);
    let shown: BTreeSet<String> = rows
        .map(|row| {
            let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
            assert_eq!(cells.len(), 6, "{row}");
            let [ours, theirs, ratio] = [3, 4, 5].map(|at| cells[at].parse::<f64>().expect(row));
            assert!((ours / theirs - ratio).abs() < 0.02, "the ratio of {row}");
            let mut words = cells[0].split(' ');
            words.next().expect("a name").to_owned()
        })
        .collect();
    let help = help("bench").replace('\n', " ");
    let (_, names) = help.split_once("which it prints: ").expect("the workloads");
    let (names, _) = names.split_once("; without").expect("their end");
    let there: BTreeSet<String> = names.split(", ").map(str::to_owned).collect();
    assert_eq!(shown, there);
}

#[test]
fn every_file_that_it_names_is_there() {
    let path = Regex::new("(?:^|[ `(])((?:src|tests|systemd)/[a-zA-Z0-9_./-]*|cross.toml)");
    let path = path.expect("a pattern");
    let mut count = 0;
    for code in code(&read("README.md")) {
        for found in path.captures_iter(&code) {
            let name = &found[1];
            assert!(root().join(name).exists(), "there is no {name}");
            count += 1;
        }
    }
    assert!(count > 5, "paths are found");
}

/// Each file of `systemd/` goes where its own first line says, and to where the program is told to
/// be.
#[test]
fn the_service_is_installed_where_it_belongs() {
    let readme = read("README.md");
    let commands = blocks(section(&readme, "## Install it as a service"), "sh")[0];
    let install = Regex::new("sudo install -m [0-7]+ ([^ ]+) ([^ \n]+)").expect("a pattern");
    let mut installed = BTreeSet::new();
    for found in install.captures_iter(commands) {
        let (from, to) = (&found[1], PathBuf::from(&found[2]));
        let name = Path::new(from).file_name().expect("a file");
        let to = if found[2].ends_with('/') {
            to.join(name)
        } else {
            to
        };
        if from.starts_with("systemd/") {
            let text = read(from);
            let first = text.lines().next().unwrap_or_default();
            if let Some(rest) = first.strip_prefix("# To ") {
                let said = rest.split(". ").next().expect("a place");
                assert!(
                    to.starts_with(said),
                    "{from} goes to {said}, not {}",
                    to.display()
                );
            }
        } else {
            let unit = read("systemd/fieldgate.service");
            let start = format!("ExecStart={} run", to.display());
            assert!(
                unit.contains(&start),
                "the unit does not start {}",
                to.display()
            );
        }
        installed.insert(from.to_owned());
    }
    let there = fs::read_dir(root().join("systemd")).expect("a folder");
    for file in there {
        let name = file.expect("a file").file_name();
        let name = format!("systemd/{}", name.to_string_lossy());
        assert!(installed.contains(&name), "{name} is not installed");
    }
    assert!(commands.contains("/etc/fieldgate/fieldgate.toml"));
}

#[test]
fn the_map_is_the_sources() {
    let readme = read("README.md");
    let map = blocks(section(&readme, "## A map of the source"), "text")[0];
    let source = map.split_once("src/\n").expect("src/").1;
    let source = source.split("tests/\n").next().expect("what is before");
    let name = Regex::new(r"^  ((?:[a-z]+, )*[a-z]+)/ ").expect("a pattern");
    let on_the_map: BTreeSet<String> = source
        .lines()
        .filter_map(|line| name.captures(line))
        .flat_map(|names| {
            let names = names[1].split(", ").map(str::to_owned);
            names.collect::<Vec<_>>()
        })
        .collect();
    let lib = read("src/lib.rs");
    let modules = lib.lines().filter_map(|line| {
        let name = line.strip_prefix("pub mod ")?.strip_suffix(';')?;
        Some(name.to_owned())
    });
    assert_eq!(on_the_map, modules.collect());
}

/// Every target that `cross.toml` prepares is in the table that says which Pi takes it.
#[test]
fn its_targets_are_those_of_cross() {
    let cross: toml::Table = read("cross.toml").parse().expect("TOML");
    let prepared = cross["target"].as_table().expect("a table").keys();
    let readme = read("README.md");
    let text = section(&readme, "## Cross-compile");
    let row = Regex::new(r"(?m)^\| `([a-z0-9_-]+)` \|").expect("a pattern");
    let rows: BTreeSet<_> = row
        .captures_iter(text)
        .map(|row| row[1].to_owned())
        .collect();
    assert_eq!(rows, prepared.cloned().collect());
    for target in rows {
        let command = format!("CROSS_CONFIG=cross.toml cross build --release --target {target}\n");
        assert!(text.contains(&command), "no command for {target}");
    }
}
