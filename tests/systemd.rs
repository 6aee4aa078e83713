//! The systemd unit says what the program relies on.
//!
//! Above all: a kind of device that the configuration can name, and that the unit does not allow,
//! works on the bench and fails as a service. How much the unit exposes is `systemd-analyze`'s to
//! say, in `tests/run`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use fieldgate::field::settings::Driver;

/// Which character devices (as `/proc/devices` lists them) each kind of driver opens. `spi` is a
/// bus that the configuration's language names, and whose drivers come next.
const DEVICES: [(&str, &[&str]); 5] = [
    ("system", &[]),
    ("gpio", &["gpiochip"]),
    ("i2c", &["i2c"]),
    ("spi", &["spi"]),
    ("serial", &["ttyUSB", "ttyACM", "ttyAMA", "ttyS"]),
];

/// The row of [`DEVICES`] for a driver. A new kind of driver does not compile until it has one.
fn row_of(driver: &Driver) -> &'static str {
    match driver {
        Driver::System(_) => "system",
        Driver::Gpio(_) => "gpio",
        Driver::I2c(_) => "i2c",
        Driver::Lines(_) => "serial",
    }
}

/// Classes whose devices exist only once a kernel module is loaded, and that module.
const MODULES: [(&str, &str); 4] = [
    ("i2c", "i2c_dev"),
    ("spi", "spidev"),
    ("ttyUSB", "usbserial"),
    ("ttyACM", "cdc_acm"),
];

/// A unit file: its settings in order, without sections, for no key of ours is in two of them.
struct Unit(Vec<(String, String)>);

impl Unit {
    fn read() -> Self {
        let text = project_file("systemd/fieldgate.service");
        let lines = text.lines().map(str::trim);
        let settings = lines.filter(|line| !line.is_empty() && !line.starts_with(['#', '[']));
        Self(
            settings
                .map(|line| {
                    let (key, value) = line.split_once('=').expect(line);
                    (key.to_owned(), value.to_owned())
                })
                .collect(),
        )
    }

    fn all(&self, key: &str) -> Vec<&str> {
        let matching = self.0.iter().filter(|(name, _)| name == key);
        matching.map(|(_, value)| value.as_str()).collect()
    }

    /// The words of every setting of this key.
    fn words(&self, key: &str) -> BTreeSet<&str> {
        let values = self.all(key);
        values.iter().flat_map(|v| v.split_whitespace()).collect()
    }

    fn one(&self, key: &str) -> &str {
        match self.all(key)[..] {
            [value] => value,
            ref found => panic!("{key} is set {} times", found.len()),
        }
    }
}

fn project_file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn every_device_that_a_configuration_can_name_is_allowed() {
    // The table is held complete by the compiler.
    let _: fn(&Driver) -> &'static str = row_of;
    let unit = Unit::read();
    let allowed = unit.all("DeviceAllow");
    for (kind, classes) in DEVICES {
        for class in classes {
            let line = format!("char-{class} rw");
            assert!(
                allowed.contains(&line.as_str()),
                "{kind}: DeviceAllow={line} is missing"
            );
        }
    }
    assert_eq!(unit.one("DevicePolicy"), "closed");
}

#[test]
fn modules_are_loaded_before_their_devices_are_allowed() {
    let unit = Unit::read();
    for (class, module) in MODULES {
        let service = format!("modprobe@{module}.service");
        for key in ["Wants", "After"] {
            assert!(
                unit.words(key).contains(service.as_str()),
                "{class}: {key}={service} is missing"
            );
        }
    }
}

#[test]
fn nothing_hides_devices_or_what_the_system_driver_reads() {
    let unit = Unit::read();
    for key in [
        "PrivateDevices",
        "PrivateUsers",
        "PrivateNetwork",
        "ProcSubset",
    ] {
        assert!(unit.all(key).is_empty(), "{key} must not be set");
    }
}

#[test]
fn the_service_is_watched_and_restarted_unless_its_configuration_is_wrong() {
    let unit = Unit::read();
    assert_eq!(unit.one("Type"), "notify");
    assert!(!unit.one("WatchdogSec").is_empty());
    assert_eq!(unit.one("Restart"), "on-failure");
    assert_eq!(unit.one("RestartPreventExitStatus"), "78");
    assert_eq!(unit.one("StartLimitIntervalSec"), "0");
    assert!(unit.one("ExecStart").contains("fieldgate run"));
    // Looked at first, so that `systemctl reload` fails where SIGHUP would only be without effect.
    let start = unit.one("ExecStart");
    let check = start.replace("fieldgate run", "fieldgate check");
    assert_eq!(
        unit.all("ExecReload"),
        [check.as_str(), "/bin/kill -HUP $MAINPID"]
    );
}

#[test]
fn the_service_has_its_own_user_with_the_groups_of_its_devices() {
    let unit = Unit::read();
    assert_eq!(unit.one("User"), "fieldgate");
    let groups = unit.words("SupplementaryGroups");
    let users = project_file("systemd/fieldgate.sysusers");
    for group in ["gpio", "i2c", "spi", "dialout"] {
        assert!(groups.contains(group), "SupplementaryGroups lacks {group}");
        assert!(
            users
                .lines()
                .any(|line| { line.split_whitespace().eq(["m", "fieldgate", group]) }),
            "sysusers does not make fieldgate a member of {group}"
        );
    }
}

#[test]
fn the_service_keeps_its_state_its_socket_and_its_credentials_where_the_program_looks() {
    let unit = Unit::read();
    assert_eq!(unit.one("StateDirectory"), "fieldgate");
    assert_eq!(unit.one("RuntimeDirectory"), "fieldgate");
    let (name, folder) = unit
        .one("LoadCredential")
        .split_once(':')
        .expect("NAME:FOLDER");
    assert_eq!(name, "fieldgate");
    let folders = project_file("systemd/fieldgate.tmpfiles");
    assert!(
        folders.lines().any(|line| line
            .split_whitespace()
            .take(4)
            .eq(["d", folder, "0700", "root"])),
        "tmpfiles does not make {folder}"
    );
    // The default of the same name, without which a missing folder would keep the unit from starting.
    assert!(unit.one("SetCredential").starts_with("fieldgate:"));
}
