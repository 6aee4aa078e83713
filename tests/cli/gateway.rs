//! `run`, `check`, `read` and `set`.

use crate::support::{Folder, Gateway, Running, configuration, fieldgate, path_text};

const MACHINE: &str = "[device.machine]\ndriver = \"system\"\nevery = \"1s\"\n";

#[test]
fn check_says_what_is_right_and_what_is_wrong_by_its_exit_code() {
    let folder = Folder::new();
    let right = configuration(&folder, 1883, MACHINE);
    let ended = fieldgate(&["check", "--config", &right]);
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert!(ended.out.contains("1 listener, 1 device"), "{}", ended.out);

    let wrong = folder.file(
        "wrong.toml",
        "[gateway]\nname = 7\n[device.x]\ndriver = \"nixie\"\n",
    );
    let ended = fieldgate(&["check", "--config", &path_text(&wrong)]);
    assert_eq!(ended.code, Some(78));
    assert_eq!(ended.out, "");
    // Both errors at once, each with its place.
    assert!(ended.err.contains("wrong.toml:2:"), "{}", ended.err);
    assert!(ended.err.contains("wrong.toml:4:"), "{}", ended.err);
    assert!(!ended.err.contains('\x1b'), "no colours but on a terminal");

    let ended = fieldgate(&["check", "--config", &path_text(&wrong), "--json"]);
    assert_eq!(ended.code, Some(78));
    let found: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(found["errors"], 2);

    let missing = fieldgate(&["check", "--config", &path_text(&folder.path("none.toml"))]);
    assert_eq!(missing.code, Some(78));
    assert!(missing.err.contains("none.toml"), "{}", missing.err);
}

#[test]
fn check_reads_certificates_and_says_which_file_is_wrong_where() {
    let folder = Folder::new();
    let made = |names: &[&str]| {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        rcgen::generate_simple_self_signed(names).unwrap()
    };
    let (ours, other) = (made(&["localhost"]), made(&["localhost"]));
    let certificate = folder.file("cert.pem", &ours.cert.pem());
    let key = folder.file("key.pem", &ours.signing_key.serialize_pem());
    let config = folder.file(
        "fieldgate.toml",
        "[listener.lan]\nbind = \"127.0.0.1:8883\"\n[listener.lan.tls]\n\
         certificate = \"cert.pem\"\nkey = \"key.pem\"\nclient_ca = \"cert.pem\"\n",
    );
    let config = path_text(&config);
    let check = || fieldgate(&["check", "--config", &config]);
    assert_eq!(check().code, Some(0), "{}", check().err);

    let wrong = |place: &str, what: &str| {
        let ended = check();
        assert_eq!(ended.code, Some(78), "{}", ended.err);
        assert_eq!(ended.out, "");
        for text in [place, what] {
            assert!(ended.err.contains(text), "{text}: {}", ended.err);
        }
    };
    std::fs::write(&key, other.signing_key.serialize_pem()).unwrap();
    wrong("fieldgate.toml:5:1", "it is not the key of the certificate");
    std::fs::write(&key, "nothing").unwrap();
    wrong("fieldgate.toml:5:1", "there is no private key in it");
    std::fs::remove_file(&key).unwrap();
    wrong("fieldgate.toml:5:1", "No such file");
    std::fs::write(&key, ours.signing_key.serialize_pem()).unwrap();
    let broken = format!(
        "{}\n-----BEGIN CERTIFICATE-----\n%%%%\n-----END CERTIFICATE-----\n",
        ours.cert.pem()
    );
    std::fs::write(&certificate, &broken).unwrap();
    let line = 1 + broken[..broken.rfind("-----BEGIN").unwrap()]
        .lines()
        .count();
    wrong(
        "fieldgate.toml:4:1",
        &format!("the section of line {line} is not base64"),
    );

    let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let old = params.self_signed(&ours.signing_key).unwrap();
    std::fs::write(&certificate, old.pem()).unwrap();
    let ended = check();
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert!(
        ended.err.contains("it has expired on 2020-01-01"),
        "{}",
        ended.err
    );
    let strict = fieldgate(&["check", "--config", &config, "--strict"]);
    assert_eq!(strict.code, Some(1));
}

#[test]
fn check_prints_what_the_files_mean_together() {
    let folder = Folder::new();
    let config = configuration(&folder, 1883, MACHINE);
    std::fs::create_dir(folder.path("conf.d")).unwrap();
    folder.file("conf.d/10-name.toml", "[broker]\nmax_connections = 7\n");
    let ended = fieldgate(&["check", "--config", &config, "--print"]);
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert!(ended.out.contains("max_connections = 7"), "{}", ended.out);
    assert!(ended.out.contains("10-name.toml"), "{}", ended.out);
}

#[test]
fn check_looks_at_hardware_only_when_asked() {
    let folder = Folder::new();
    let tables = "[serial.scale]\npath = \"/dev/serial/by-id/no-such-port\"\n\
                  [device.scale]\ndriver = \"lines\"\nbus = \"serial.scale\"\npattern = '(?<w>.*)'\n";
    let config = configuration(&folder, 1883, tables);
    assert_eq!(fieldgate(&["check", "--config", &config]).code, Some(0));
    let ended = fieldgate(&["check", "--config", &config, "--hardware"]);
    assert_eq!(ended.code, Some(1), "{}", ended.err);
    assert!(ended.out.contains("is not there"), "{}", ended.out);
}

#[test]
fn the_environment_names_the_configuration_if_the_arguments_do_not() {
    let folder = Folder::new();
    let wrong = folder.file("wrong.toml", "[gatewya]\n");
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_fieldgate"))
        .arg("check")
        .env("FIELDGATE_CONFIG", &wrong)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(78));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("wrong.toml:1:"), "{said}");
}

#[test]
fn run_refuses_a_wrong_configuration_and_stops_with_0() {
    let folder = Folder::new();
    let wrong = folder.file("wrong.toml", "[gatewya]\n");
    let ended = fieldgate(&["run", "--config", &path_text(&wrong)]);
    assert_eq!(ended.code, Some(78));
    assert!(
        ended.err.contains("did you mean `gateway`"),
        "{}",
        ended.err
    );

    let gateway = Gateway::start("");
    gateway.running.signal("TERM");
    let ended = gateway.running.end();
    assert_eq!(
        (ended.code, ended.out.as_str()),
        (Some(0), ""),
        "{}",
        ended.err
    );
}

#[test]
fn run_needs_a_place_for_its_control_socket() {
    let folder = Folder::new();
    let text = format!(
        "[listener.l]\nbind = \"127.0.0.1:0\"\n[control]\nsocket = \"{}\"\n",
        folder.path("no/such/folder/control.sock").display()
    );
    let config = path_text(&folder.file("a.toml", &text));
    let ended = fieldgate(&["run", "--config", &config]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("[control] socket"), "{}", ended.err);
}

#[test]
fn read_goes_through_the_running_gateway_else_directly() {
    let folder = Folder::new();
    let config = configuration(&folder, 0, MACHINE);
    let check = || {
        let one = fieldgate(&["read", "machine/uptime", "--config", &config, "--json"]);
        assert_eq!(one.code, Some(0), "{}", one.err);
        let found: serde_json::Value = serde_json::from_str(&one.out).unwrap();
        assert_eq!(found["quality"], "good");
        assert!(found["value"].as_f64().unwrap() > 0.0, "{found}");
        let nothing = fieldgate(&["read", "machine/bogus", "--config", &config]);
        assert_eq!(nothing.code, Some(1), "{}", nothing.err);
        let nobody = fieldgate(&["read", "bogus", "--config", &config]);
        assert_eq!(nobody.code, Some(1), "{}", nobody.err);
        assert!(
            nobody.err.contains("there is no device `bogus`"),
            "{}",
            nobody.err
        );
    };
    check();
    let mut gateway = Running::start(&["run", "--config", &config]);
    gateway.wait_for_err("listening");
    check();
    let all = fieldgate(&["read", "machine", "--config", &config, "--json"]);
    let found: serde_json::Value = serde_json::from_str(&all.out).unwrap();
    assert!(found.as_array().unwrap().len() >= 4, "{found}");
}

#[test]
fn a_reading_that_is_not_good_exits_3() {
    let folder = Folder::new();
    let tables = "[device.machine]\ndriver = \"system\"\ntemperature = \"/no/such/file\"\n";
    let config = configuration(&folder, 0, tables);
    let ended = fieldgate(&["read", "machine/cpu_temperature", "--config", &config]);
    assert_eq!(ended.code, Some(3), "{} {}", ended.out, ended.err);
}

#[test]
fn set_is_for_a_running_gateway() {
    let folder = Folder::new();
    let config = configuration(&folder, 0, MACHINE);
    let arguments = ["set", "machine/uptime", "1", "--config", &config];
    let ended = fieldgate(&arguments);
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("--direct"), "{}", ended.err);
    let mut gateway = Running::start(&["run", "--config", &config]);
    gateway.wait_for_err("listening");
    let ended = fieldgate(&arguments);
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("refused"), "{}", ended.err);
    let mut direct = arguments.to_vec();
    direct.push("--direct");
    let ended = fieldgate(&direct);
    assert!(ended.err.contains("a gateway is running"), "{}", ended.err);
}

/// A device that somebody else built, on a port of its own: the demo's plant.
#[test]
fn a_device_can_be_used_without_a_gateway() {
    let plant = fieldgate::host::plant::Plant::start().unwrap();
    let folder = Folder::new();
    let tables = format!(
        "[serial.plant]\npath = \"{}\"\n[device.plant]\ndriver = \"lines\"\nbus = \"serial.plant\"\n\
         pattern = 'LEVEL=(?<level>[0-9.]+).* PUMP=(?<pump>[01])'\n\
         [device.plant.point.pump]\ntype = \"bool\"\ncommand = \"PUMP {{value}}\\n\"\n",
        plant.path()
    );
    let config = configuration(&folder, 0, &tables);
    let read = |point: &str| {
        let ended = fieldgate(&["read", point, "--config", &config, "--json"]);
        assert_eq!(ended.code, Some(0), "{} {}", ended.out, ended.err);
        let found: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
        found["value"].clone()
    };
    assert!(read("plant/level").as_f64().unwrap() > 50.0);
    assert_eq!(read("plant/pump"), false);
    let set = ["set", "plant/pump", "on", "--config", &config];
    let refused = fieldgate(&set);
    assert_eq!(refused.code, Some(1), "{}", refused.err);

    let mut direct = set.to_vec();
    direct.push("--direct");
    let mut held = Running::start(&direct);
    held.wait_for("plant/pump true");
    held.wait_for_err("held until Ctrl-C");
    held.signal("INT");
    let ended = held.end();
    assert_eq!(ended.code, Some(0), "{}", ended.err);

    let wrong = fieldgate(&["set", "plant/pump", "7", "--direct", "--config", &config]);
    assert_eq!(wrong.code, Some(1));
    assert!(wrong.err.contains("bad_value"), "{}", wrong.err);
    let pulse = fieldgate(&[
        "set",
        "plant/pump",
        "on",
        "--for",
        "300ms",
        "--direct",
        "--config",
        &config,
    ]);
    assert_eq!(pulse.code, Some(0), "{}", pulse.err);
    assert_eq!(read("plant/pump"), false);
}

/// What a dead process may have given out is not given out again.
#[test]
fn sequence_numbers_grow_over_a_kill() {
    let folder = Folder::new();
    let tables =
        format!("[gateway.defaults]\npayload = \"json\"\n{MACHINE}[broker]\nmax_connections = 9\n");
    let config = configuration(&folder, 0, &tables);
    let data_dir = folder.path("data");
    let text = std::fs::read_to_string(&config).unwrap();
    let text = text.replace(
        "name = \"test\"\n",
        &format!("name = \"test\"\ndata_dir = \"{}\"\n", data_dir.display()),
    );
    std::fs::write(&config, text).unwrap();
    let seq = || {
        let mut gateway = Running::start(&["run", "--config", &config]);
        let line = gateway.wait_for_err("listening");
        let port = line.trim().rsplit(':').next().expect("a port").to_owned();
        // Until it has spoken twice, a second apart.
        let sub = [
            "sub",
            "-p",
            &port,
            "-t",
            "test/machine/uptime",
            "-R",
            "-C",
            "2",
        ];
        assert_eq!(fieldgate(&sub).code, Some(0));
        let read = fieldgate(&["read", "machine/uptime", "--config", &config, "--json"]);
        let read: serde_json::Value = serde_json::from_str(&read.out).expect(&read.err);
        gateway.signal("KILL");
        gateway.end();
        read["seq"].as_u64().expect("a number")
    };
    let first = seq();
    let second = seq();
    assert!(second >= first + 30_000, "{first}, then {second}");
    assert!(seq() > second);
}
