//! Files on a disk: the named one, `conf.d`, and what cannot be read.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use fieldgate::config::{Environment, Source, load, parse};

use super::machine;

/// A folder of this test's own, removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "fieldgate-config-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(path.join("conf.d")).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, content).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn conf_d_is_merged_key_by_key_in_the_order_of_its_names() {
    let folder = Folder::new();
    let main = folder.write(
        "fieldgate.toml",
        "[listener.a]\nbind = [\"127.0.0.1:1\"]\n[device.m]\ndriver = \"system\"\n",
    );
    folder.write("conf.d/20.toml", "listener.a.bind = [\"127.0.0.1:3\"]\n");
    folder.write(
        "conf.d/10.toml",
        "listener = { a = { bind = [\"127.0.0.1:2\"] } }\n",
    );
    folder.write("conf.d/30.toml", "[device.m]\nevery = \"1m\"\n");
    folder.write("conf.d/.#40.toml", "this is left by an editor");
    folder.write("conf.d/README", "this is no TOML");
    let loaded =
        load(&main, &machine()).unwrap_or_else(|errors| panic!("{}", errors.render(false)));
    let config = loaded.meant.gateway;
    let bind = format!("{:?}", config.listeners["a"].bind);
    assert_eq!(
        bind,
        "[Tcp(127.0.0.1:1), Tcp(127.0.0.1:2), Tcp(127.0.0.1:3)]"
    );
    assert_eq!(config.devices["m"].field.every.as_secs(), 60);
}

#[test]
fn one_key_in_two_files_names_both_places() {
    let folder = Folder::new();
    let main = folder.write("fieldgate.toml", "[gateway]\nname = \"a\"\n");
    folder.write("conf.d/x.toml", "gateway.name = \"b\"\n");
    let text = load(&main, &machine()).unwrap_err().render(false);
    assert!(text.contains("conf.d/x.toml:1:9"), "{text}");
    assert!(text.contains("fieldgate.toml:2:1"), "{text}");
}

#[test]
fn a_file_that_is_not_there_says_what_to_do() {
    let folder = Folder::new();
    let errors = load(&folder.0.join("none.toml"), &machine()).unwrap_err();
    let text = errors.render(false);
    assert!(text.contains("none.toml: No such file"), "{text}");
    assert!(text.contains("fieldgate demo"), "{text}");
    assert_eq!(errors.errors(), 1);
}

#[test]
fn bytes_that_are_no_text_are_shown_in_their_line() {
    let folder = Folder::new();
    let main = folder.write("fieldgate.toml", b"[gateway]\nname = \"b\xfc\"\n");
    let text = load(&main, &machine()).unwrap_err().render(false);
    assert!(text.contains("fieldgate.toml:2:10"), "{text}");
    assert!(text.contains("UTF-8"), "{text}");
}

#[test]
fn a_file_without_end_is_not_read_to_its_end() {
    let text = load("/dev/zero".as_ref(), &machine())
        .unwrap_err()
        .render(false);
    assert!(text.contains("1MiB are read at most"), "{text}");
}

#[test]
fn a_folder_is_no_file() {
    let folder = Folder::new();
    let text = load(&folder.0, &machine()).unwrap_err().render(false);
    assert!(text.contains("cannot read"), "{text}");
}

#[test]
fn too_many_files_are_refused() {
    let sources: Vec<Source> = (0..300)
        .map(|n| Source::new(format!("{n}.toml"), ""))
        .collect();
    let text = parse(sources, &machine()).unwrap_err().render(false);
    assert!(text.contains("256"), "{text}");
}

#[test]
fn paths_are_relative_to_the_file_that_says_them() {
    let sources = [
        Source::new("etc/fieldgate.toml", "[gateway]\ndata_dir = \"state\"\n"),
        Source::new("etc/conf.d/a.toml", "[control]\nsocket = \"run/c.sock\"\n"),
    ];
    let environment = Environment::default().at("/srv");
    let meant = parse(sources, &environment).unwrap().meant;
    assert_eq!(meant.data_dir.unwrap().to_str(), Some("/srv/etc/state"));
    assert_eq!(&*meant.control.socket, "/srv/etc/conf.d/run/c.sock");
}

#[test]
fn the_service_manager_says_where_we_keep_things() {
    let environment = Environment::new("h", |name| match name {
        "STATE_DIRECTORY" => Some("/var/lib/fieldgate:/var/lib/other".into()),
        "RUNTIME_DIRECTORY" => Some("/run/fieldgate".into()),
        _ => None,
    });
    let meant = parse([Source::new("x", "")], &environment).unwrap().meant;
    assert_eq!(meant.data_dir.unwrap().to_str(), Some("/var/lib/fieldgate"));
    assert_eq!(&*meant.control.socket, "/run/fieldgate/control.sock");
    let bare = parse([Source::new("x", "")], &Environment::default())
        .unwrap()
        .meant;
    assert_eq!(bare.data_dir, None);
    assert_eq!(&*bare.gateway.name, "fieldgate");
}

const HASH: &str = "$7$101$c2FsdA==$AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4v\
    MDEyMzQ1Njc4OTo7PD0+Pw==";

#[test]
fn the_files_of_access_are_read_and_a_wrong_line_is_named_without_its_hash() {
    let folder = Folder::new();
    let text = "[access]\npassword_file = \"passwd\"\nacl_file = \"acl\"\n[listener.a]\n\
        bind = \"*:1883\"\n";
    let main = folder.write("fieldgate.toml", text);
    let error = load(&main, &machine()).unwrap_err().render(false);
    assert!(error.contains("passwd: No such file"), "{error}");
    assert!(error.contains("fieldgate.toml:2:1 names it"), "{error}");
    folder.write("passwd", format!("anna:{HASH}\n"));
    folder.write("acl", "user anna\ntopic shed/#\n");
    let meant = load(&main, &machine())
        .unwrap_or_else(|errors| panic!("{}", errors.render(false)))
        .meant;
    let access = &meant.gateway.broker.access;
    let users = access.users.as_ref().expect("users");
    assert_eq!(users.len(), 1);
    assert_eq!(access.rules.as_ref().map(|rules| rules.list.len()), Some(1));
    assert!(!meant.gateway.listeners["a"].allow_anonymous);
    assert!(
        !meant.print().contains("c2FsdA"),
        "what is secret is not printed"
    );
    folder.write("passwd", format!("anna:{HASH}x\nbert\n"));
    folder.write("acl", "user anna\ntopic rw shed/#\n");
    let error = load(&main, &machine()).unwrap_err().render(false);
    for place in ["passwd:1:6", "passwd:2:1", "acl:2:7"] {
        assert!(error.contains(place), "{error}");
    }
    assert!(!error.contains("c2FsdA"), "{error}");
}
