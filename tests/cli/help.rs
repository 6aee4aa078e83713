//! What the commands say of themselves, and what they say to arguments that make no sense.

use crate::support::fieldgate;

/// Help is a contract with people's eyes: a change of it is to be seen in a change of a snapshot.
#[test]
fn help_texts() {
    let verbs = [
        "run", "demo", "check", "scan", "read", "set", "queue", "pub", "sub", "passwd", "journal",
        "bench",
    ];
    for arguments in [&[][..], &["--help"]]
        .into_iter()
        .map(<[&str]>::to_vec)
        .chain(verbs.iter().map(|verb| vec![*verb, "--help"]))
    {
        let ended = fieldgate(&arguments);
        assert_eq!(
            (ended.code, ended.err.as_str()),
            (Some(0), ""),
            "{arguments:?}"
        );
        let name = match arguments.as_slice() {
            [] => "short".to_owned(),
            arguments => arguments.join("_").replace("--", ""),
        };
        insta::assert_snapshot!(name, ended.out);
        let too_wide: Vec<_> = ended
            .out
            .lines()
            .filter(|line| line.chars().count() > 92)
            .collect();
        assert!(too_wide.is_empty(), "{too_wide:?}");
        let again = match arguments.as_slice() {
            [verb, "--help"] => fieldgate(&["help", verb]).out,
            _ => ended.out.clone(),
        };
        assert_eq!(again, ended.out);
    }
}

#[test]
fn without_a_verb_the_demo_comes_first() {
    let ended = fieldgate(&[]);
    assert!(ended.out.starts_with("fieldgate demo"), "{}", ended.out);
}

#[test]
fn the_version_is_that_of_the_package() {
    let ended = fieldgate(&["--version"]);
    assert_eq!(
        ended.out,
        concat!("fieldgate ", env!("CARGO_PKG_VERSION"), "\n")
    );
}

#[test]
fn wrong_arguments_exit_2_and_say_what_is_wrong() {
    for (arguments, wanted) in [
        (&["demmo"][..], "did you mean `demo`?"),
        (&["watch"], "`watch` is not available in this version"),
        (&["rr", "-t", "a"], "`rr` is not available in this version"),
        (&["--bogus"], "--bogus"),
        (&["--json"], "a verb is missing"),
        (&["check", "--bogus"], "--bogus"),
        (&["check", "file.toml"], "unexpected argument `file.toml`"),
        (
            &["run", "--record", "x"],
            "--record is not available in this version",
        ),
        (&["run", "-v", "-q"], "exclude each other"),
        (&["read"], "DEVICE/POINT"),
        (&["set", "a/b"], "VALUE"),
        (&["queue", "drop"], "whose queue"),
        (&["queue", "empty", "x"], "nothing that can be done"),
        (&["pub", "-t", "a"], "exactly one of -m, -f, -n, -s and -l"),
        (
            &["pub", "-t", "a", "-m", "x", "--psk", "y"],
            "--psk is not available in this version",
        ),
        (&["sub"], "-t FILTER"),
        (&["sub", "-t", "a", "-q", "3"], "a QoS is 0, 1 or 2"),
        (&["sub", "-t"], "missing argument"),
        (&["bench", "--clients", "many"], "--clients"),
        (&["bench", "field"], "not available in this version"),
        (&["demo", "--port", "0"], "1 to 65535"),
    ] {
        let ended = fieldgate(arguments);
        assert_eq!(ended.code, Some(2), "{arguments:?}: {}", ended.err);
        assert!(ended.err.contains(wanted), "{arguments:?}: {}", ended.err);
        assert_eq!(ended.out, "", "{arguments:?}");
    }
}

#[test]
fn scan_works_on_any_machine() {
    let ended = fieldgate(&["scan"]);
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert!(ended.out.contains("Serial ports"), "{}", ended.out);
    let ended = fieldgate(&["scan", "--json"]);
    let found: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
    assert!(found["gpio"].is_array() && found["problems"].is_array());
}
