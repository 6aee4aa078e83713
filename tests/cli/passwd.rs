//! `passwd`, and the broker that lets in whom its file names.

use std::fs;

use crate::support::{Folder, Gateway, Running, fieldgate, fieldgate_with_input, path_text};

fn set(file: &str, user: &str, password: &str, options: &[&str]) {
    let mut arguments = vec!["passwd", "-b"];
    arguments.extend(options);
    arguments.extend([file, user, password]);
    let ended = fieldgate(&arguments);
    assert_eq!(ended.code, Some(0), "{}", ended.err);
}

#[test]
fn a_file_is_made_edited_and_refused_when_it_is_wrong() {
    let folder = Folder::new();
    let file = path_text(&folder.path("passwd"));
    let missing = fieldgate(&["passwd", "-b", &file, "anna", "one"]);
    assert_eq!(missing.code, Some(1));
    assert!(
        missing.err.contains("-c makes a new file"),
        "{}",
        missing.err
    );

    set(&file, "anna", "one", &["-c", "-H", "argon2id"]);
    set(&file, "bert", "two", &["-I", "101"]);
    set(&file, "carl", "three", &["-H", "sha512"]);
    set(&file, "dora", "four", &["-H", "scram-sha-256"]);
    let lines = fs::read_to_string(&file).unwrap();
    let begins: Vec<_> = lines
        .lines()
        .map(|line| line.split('$').take(2).collect::<String>())
        .collect();
    assert_eq!(
        begins,
        ["anna:argon2id", "bert:7", "carl:6", "dora:scram-sha-256"]
    );
    assert!(lines.contains("dora:$scram-sha-256$i=50000$"), "{lines}");

    let typed = fieldgate_with_input(&["passwd", &file, "bert"], b"secret\n");
    assert_eq!(typed.code, Some(0), "{}", typed.err);
    let after = fs::read_to_string(&file).unwrap();
    assert!(
        after.lines().nth(1).unwrap().starts_with("bert:$7$50000$"),
        "{after}"
    );
    assert_eq!(after.lines().next(), lines.lines().next());

    assert_eq!(fieldgate(&["passwd", "-D", &file, "anna"]).code, Some(0));
    let gone = fieldgate(&["passwd", "-D", &file, "anna"]);
    assert_eq!(gone.code, Some(1));
    assert!(gone.err.contains("no user anna"), "{}", gone.err);

    let wrong = path_text(&folder.file("wrong", "anna:plain\n"));
    let refused = fieldgate(&["passwd", "-b", &wrong, "bert", "two"]);
    assert_eq!(refused.code, Some(1));
    assert!(
        refused.err.contains(":1:6: a password hash begins with"),
        "{}",
        refused.err
    );
    assert_eq!(fs::read_to_string(&wrong).unwrap(), "anna:plain\n");
    for arguments in [
        &["passwd", "-b", &*file, "a:b", "x"][..],
        &["passwd", &file],
        &["passwd", "-H", "md5", &file, "a"],
        &["passwd", "-H", "scram-sha-256", "-I", "4095", &file, "a"],
    ] {
        assert_eq!(fieldgate(arguments).code, Some(2), "{arguments:?}");
    }
    // A client would prepare such a password in a way of its own.
    let foreign = fieldgate(&[
        "passwd",
        "-b",
        "-H",
        "scram-sha-256",
        &file,
        "a",
        "\u{FC}ber",
    ]);
    assert_eq!(foreign.code, Some(1));
    assert!(foreign.err.contains("ASCII"), "{}", foreign.err);
}

#[test]
fn who_is_in_the_file_may_do_what_the_acl_says() {
    let folder = Folder::new();
    let file = path_text(&folder.path("passwd"));
    set(&file, "anna", "one", &["-c", "-I", "101"]);
    set(&file, "bert", "two", &["-H", "argon2id"]);
    // With a verifier for SCRAM one can log in as with any other hash.
    set(
        &file,
        "dora",
        "four",
        &["-H", "scram-sha-256", "-I", "4096"],
    );
    let acl = folder.file(
        "acl",
        "user anna\ntopic readwrite shed/#\nuser dora\ntopic readwrite shed/#\nuser bert\ntopic read shed/#\n",
    );
    let tables = format!(
        "[access]\npassword_file = \"{file}\"\nacl_file = \"{}\"\n",
        path_text(&acl)
    );
    let gateway = Gateway::start(&tables);
    let port = gateway.port();
    let mut sub = Running::start(&[
        "sub", "-d", "-p", &port, "-u", "bert", "-P", "two", "-t", "shed/#", "-C", "1", "-F",
        "%t %p",
    ]);
    sub.wait_for_err("subscribed");
    let publish = |user: &str, password: &str| {
        fieldgate(&[
            "pub", "-p", &port, "-V", "5", "-q", "1", "-u", user, "-P", password, "-t", "shed/x",
            "-m", user,
        ])
    };
    assert_ne!(publish("anna", "two").code, Some(0));
    assert_ne!(publish("carl", "two").code, Some(0));
    assert_ne!(publish("bert", "two").code, Some(0), "he may only read");
    assert_ne!(publish("dora", "two").code, Some(0));
    let said = publish("dora", "four");
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert_eq!(sub.end().out, "shed/x dora\n");
}
