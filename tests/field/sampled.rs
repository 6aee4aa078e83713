//! Devices that are asked: chips on a bus, and the machine itself.

use fieldgate::field::bus::{BusError, BusSettings};
use fieldgate::field::settings::{Driver, I2cChip, SystemSettings};
use fieldgate::field::{BACKOFF_MAX, OFFLINE_AFTER};
use fieldgate::point::{FaultKind, Outcome, Value};
use fieldgate::time::Duration;

use crate::bench::{Bench, Said, Trouble, i2c};
use crate::chips::{Chip, Thermometer, Weather};

const EVERY: Duration = Duration::from_secs(10);

fn greenhouse() -> Bench {
    let mut bench = Bench::new();
    bench
        .chips
        .insert((1, 0x76), Chip::Weather(Box::new(Weather::bme280())));
    bench.add_i2c("greenhouse", I2cChip::Bme280, 0x76, EVERY);
    bench
}

#[test]
fn a_bme280_is_read_within_two_seconds_of_the_start() {
    let mut bench = greenhouse();
    bench.run_secs(2);
    assert_eq!(bench.last_text("greenhouse/temperature"), "25.08");
    assert_eq!(bench.online("greenhouse"), Some(true));
    let Outcome::Good(Value::Float(hpa)) = bench.last("greenhouse/pressure") else {
        panic!("no pressure");
    };
    assert!((hpa - 1006.53).abs() < 0.01, "{hpa}");
    let Outcome::Good(Value::Float(percent)) = bench.last("greenhouse/humidity") else {
        panic!("no humidity");
    };
    assert!((0.0..=100.0).contains(&percent), "{percent}");
    // Availability first: whoever sees the value knows that it is live.
    assert!(matches!(bench.said[0].1, Said::Online(_, true)));
}

#[test]
fn a_device_is_sampled_on_its_grid_without_drift() {
    let mut bench = greenhouse();
    bench.run_secs(1000);
    let times: Vec<_> = bench
        .readings("greenhouse/temperature")
        .into_iter()
        .map(|(at, _, _)| at)
        .collect();
    assert!((99..=101).contains(&times.len()), "{}", times.len());
    for pair in times[1..].windows(2) {
        assert_eq!(pair[1].since(pair[0]), EVERY, "exactly, whatever it took");
    }
    assert_eq!(bench.stats("greenhouse").ticks_missed, 0);
}

#[test]
fn an_idle_field_wakes_for_nothing_but_its_own_deadlines() {
    let mut bench = greenhouse();
    bench.run_secs(100);
    bench.forget();
    bench.run_secs(100);
    // Ten times: its due time, and the end of its conversion.
    assert_eq!(bench.wakes, 20);
}

#[test]
fn one_dead_device_does_not_slow_the_others() {
    let mut bench = Bench::new();
    let every = Duration::from_secs(1);
    for address in 0x48..0x4C {
        let chip = Thermometer::lm75(0x1900);
        bench.chips.insert((1, address), Chip::Thermometer(chip));
        bench.add_i2c(&format!("t{address:x}"), I2cChip::Lm75, address, every);
    }
    bench.trouble.insert((1, Some(0x49)), Trouble::Stuck);
    bench.run_secs(60);
    for name in ["t48", "t4a", "t4b"] {
        let outcomes = bench.outcomes(&format!("{name}/temperature"));
        assert!(outcomes.len() >= 59, "{name}: {}", outcomes.len());
        assert!(
            outcomes
                .iter()
                .all(|outcome| matches!(outcome, Outcome::Good(_)))
        );
        assert_eq!(bench.online(name), Some(true));
    }
    assert_eq!(bench.online("t49"), Some(false));
    let faults = bench.outcomes("t49/temperature");
    assert_eq!(faults.len(), 1, "told once");
    assert_eq!(
        bench.last_text("t49/temperature"),
        "timeout: i2c.1 did not answer in time for 0x49"
    );
    // Backed off: the dead one costs the bus less than one in thirty of its time.
    let tries = bench.stats("t49").faults.of(FaultKind::Timeout);
    assert!((4..=9).contains(&tries), "{tries}");
}

#[test]
fn a_sensor_that_dies_is_a_fault_then_offline_and_comes_back_by_itself() {
    let mut bench = greenhouse();
    bench.run_secs(15);
    bench.trouble.insert((1, Some(0x76)), Trouble::Absent);
    bench.forget();
    bench.run_secs(15);
    for point in ["temperature", "pressure", "humidity"] {
        let name = format!("greenhouse/{point}");
        assert_eq!(bench.outcomes(&name).len(), 1, "once for each point");
        assert_eq!(
            bench.last_text(&name),
            "no_answer: nothing answered at 0x76 on i2c.1"
        );
    }
    bench.run_secs(120);
    assert_eq!(bench.online("greenhouse"), Some(false));
    assert_eq!(bench.outcomes("greenhouse/temperature").len(), 1);
    let failures = bench.stats("greenhouse").faults.of(FaultKind::NoAnswer);
    assert!(failures >= u64::from(OFFLINE_AFTER) * 3);

    bench.trouble.clear();
    bench.forget();
    bench.run(BACKOFF_MAX);
    assert_eq!(bench.last_text("greenhouse/temperature"), "25.08");
    assert_eq!(bench.online("greenhouse"), Some(true));
}

#[test]
fn one_missed_answer_is_a_fault_but_not_offline() {
    let mut bench = greenhouse();
    bench.run_secs(15);
    bench
        .trouble
        .insert((1, Some(0x76)), Trouble::Error(BusError::Failed(5)));
    bench.forget();
    bench.run_secs(10);
    assert_eq!(
        bench.last_text("greenhouse/humidity"),
        "bus_error: i2c.1 failed for 0x76 (input/output error, error 5)"
    );
    bench.trouble.clear();
    bench.run_secs(20);
    assert_eq!(bench.last_text("greenhouse/temperature"), "25.08");
    assert_eq!(bench.online("greenhouse"), None, "nothing new to say");
}

#[test]
fn a_fault_that_changes_is_told_again() {
    let mut bench = greenhouse();
    bench.trouble.insert((1, None), Trouble::Absent);
    bench.run_secs(60);
    bench
        .trouble
        .insert((1, None), Trouble::Error(BusError::Unavailable(13)));
    bench.run_secs(60);
    let texts: Vec<_> = bench
        .outcomes("greenhouse/pressure")
        .iter()
        .map(crate::bench::text_of)
        .collect();
    assert_eq!(
        texts,
        [
            "no_answer: nothing answered at 0x76 on i2c.1",
            "bus_error: i2c.1 cannot be used (no permission, error 13)"
        ]
    );
}

#[test]
fn a_chip_that_lost_its_power_is_set_up_again() {
    let mut bench = greenhouse();
    bench.run_secs(15);
    let Some(Chip::Weather(chip)) = bench.chips.get_mut(&(1, 0x76)) else {
        panic!("no chip");
    };
    // A measurement that never begins: the settings are gone right after they were written.
    chip.takes = Duration::from_secs(3600);
    bench.run_secs(10);
    assert_eq!(
        bench.last_text("greenhouse/temperature"),
        "timeout: the chip says that it is still busy, at 0x76 on i2c.1"
    );
    let Some(Chip::Weather(chip)) = bench.chips.get_mut(&(1, 0x76)) else {
        panic!("no chip");
    };
    chip.takes = Duration::from_millis(9);
    chip.power_on();
    bench.run_secs(30);
    assert_eq!(bench.last_text("greenhouse/temperature"), "25.08");
}

#[test]
fn a_bmp280_sold_as_a_bme280_is_named() {
    let mut bench = Bench::new();
    bench
        .chips
        .insert((1, 0x77), Chip::Weather(Box::new(Weather::bmp280())));
    bench.add_i2c("shed", I2cChip::Bme280, 0x77, EVERY);
    bench.run_secs(5);
    assert_eq!(
        bench.last_text("shed/humidity"),
        "wrong_device: chip id 0x58: a bmp280, which has no humidity sensor, at 0x77 on i2c.1"
    );
    bench.add_i2c("right", I2cChip::Bmp280, 0x77, EVERY);
    bench.run_secs(5);
    assert_eq!(bench.last_text("right/temperature"), "25.08");
}

#[test]
fn a_tmp105_is_set_to_twelve_bits_and_a_sleeping_tmp102_is_woken() {
    let mut bench = Bench::new();
    let mut asleep = Thermometer::tmp102(0xE700);
    asleep.configuration[0] |= 0x01;
    bench
        .chips
        .insert((1, 0x48), Chip::Thermometer(Thermometer::tmp105(0x1990)));
    bench.chips.insert((1, 0x49), Chip::Thermometer(asleep));
    bench.add_i2c("fine", I2cChip::Tmp105, 0x48, EVERY);
    bench.add_i2c("cold", I2cChip::Tmp102, 0x49, EVERY);
    bench.run_secs(3);
    assert_eq!(bench.last_text("fine/temperature"), "25.5625");
    assert_eq!(bench.last_text("cold/temperature"), "-25");
    let Chip::Thermometer(cold) = &bench.chips[&(1, 0x49)] else {
        panic!("no chip");
    };
    assert_eq!(cold.configuration, [0x60, 0xA0]);
    // A moment without power between two readings leaves a TMP105 at its nine bits.
    let again = Chip::Thermometer(Thermometer::tmp105(0x1990));
    bench.chips.insert((1, 0x48), again);
    bench.run_secs(20);
    assert_eq!(bench.last_text("fine/temperature"), "25.5625");
}

#[test]
fn a_stop_begins_no_further_transfer() {
    let mut bench = Bench::new();
    for address in 0x48..0x4C {
        let chip = Thermometer::lm75(0x1900);
        bench.chips.insert((1, address), Chip::Thermometer(chip));
        let name = format!("t{address:x}");
        bench.add_i2c(&name, I2cChip::Lm75, address, EVERY);
    }
    bench.run_secs(5);
    for address in 0x48..0x4C {
        bench.get(&format!("t{address:x}/temperature"));
    }
    bench.stop();
    bench.forget();
    bench.run_secs(100);
    assert!(bench.transfers.is_empty());
    assert!(bench.said.is_empty());
    assert_eq!(bench.wakes, 0);
}

#[test]
fn a_wish_is_answered_at_once_even_during_a_back_off() {
    let mut bench = greenhouse();
    bench.trouble.insert((1, None), Trouble::Absent);
    bench.run_secs(100);
    bench.forget();
    bench.get("greenhouse/temperature");
    bench.run_millis(5);
    assert_eq!(
        bench.outcomes("greenhouse/temperature").len(),
        1,
        "the fault again"
    );
    assert!(bench.outcomes("greenhouse/pressure").is_empty());
    bench.trouble.clear();
    bench.get("greenhouse/temperature");
    bench.run_millis(100);
    assert_eq!(bench.last_text("greenhouse/temperature"), "25.08");
}

#[test]
fn many_wishes_at_once_are_one_or_two_readings() {
    let mut bench = greenhouse();
    bench.run_secs(5);
    bench.forget();
    for _ in 0..50 {
        bench.get("greenhouse/temperature");
    }
    bench.run_secs(1);
    assert_eq!(bench.outcomes("greenhouse/temperature").len(), 2);
}

#[test]
fn wishes_do_not_move_the_grid() {
    let mut bench = greenhouse();
    bench.run_secs(25);
    bench.forget();
    for _ in 0..10 {
        bench.get("greenhouse/temperature");
        bench.run_secs(10);
    }
    assert_eq!(bench.outcomes("greenhouse/temperature").len(), 20);
}

#[test]
fn a_stuck_bus_does_not_hold_up_another_one() {
    let mut bench = Bench::new();
    for bus in [1, 3] {
        let chip = Thermometer::lm75(0x1900);
        bench.chips.insert((bus, 0x48), Chip::Thermometer(chip));
        let name = format!("on-{bus}");
        bench.add(&name, i2c(bus, I2cChip::Lm75, 0x48), Duration::from_secs(1));
    }
    bench.trouble.insert((1, None), Trouble::Stuck);
    bench.run_secs(30);
    assert!(bench.outcomes("on-3/temperature").len() >= 29);
    assert_eq!(bench.online("on-1"), Some(false));
    let stats = bench.field.stats();
    let stuck = stats.bus("i2c.1").expect("a bus");
    assert_eq!(stuck.timeouts, stuck.transfers);
}

#[test]
fn a_host_that_forgets_an_answer_stalls_no_bus() {
    let mut bench = Bench::new();
    for address in [0x48, 0x49] {
        let chip = Thermometer::lm75(0x1900);
        bench.chips.insert((1, address), Chip::Thermometer(chip));
        let name = format!("t{address:x}");
        bench.add_i2c(&name, I2cChip::Lm75, address, Duration::from_secs(2));
    }
    bench.run_secs(10);
    bench.trouble.insert((1, Some(0x48)), Trouble::Forgotten);
    bench.run_secs(3);
    bench.trouble.clear();
    bench.forget();
    bench.run_secs(20);
    assert!(bench.outcomes("t49/temperature").len() >= 8);
    assert!(matches!(bench.last("t48/temperature"), Outcome::Good(_)));
    assert!(bench.field.stats().bus("i2c.1").expect("a bus").unanswered >= 1);
}

#[test]
fn an_answer_that_is_lost_during_a_back_off_is_not_waited_for_until_its_end() {
    let mut bench = greenhouse();
    bench.run_secs(15);
    bench.trouble.insert((1, Some(0x76)), Trouble::Absent);
    bench.run_secs(300);
    bench.trouble.insert((1, Some(0x76)), Trouble::Forgotten);
    bench.forget();
    bench.get("greenhouse/temperature");
    bench.run_secs(2);
    assert_eq!(
        bench.last_text("greenhouse/temperature"),
        "timeout: i2c.1 did not answer in time for 0x76"
    );
}

#[test]
fn a_device_slower_than_its_interval_skips_and_counts() {
    let mut bench = Bench::new();
    bench
        .chips
        .insert((1, 0x76), Chip::Weather(Box::new(Weather::bme280())));
    // A forced measurement takes 10 ms and more.
    bench.add_i2c("eager", I2cChip::Bme280, 0x76, Duration::from_millis(4));
    bench.run_secs(10);
    let stats = bench.stats("eager");
    assert!(stats.readings > 1000, "{}", stats.readings);
    assert!(stats.ticks_missed > 1000, "{}", stats.ticks_missed);
}

#[test]
fn a_removed_device_says_nothing_more_and_its_bus_is_closed() {
    let mut bench = greenhouse();
    bench.run_secs(5);
    bench.get("greenhouse/temperature");
    bench.remove("greenhouse");
    bench.drain();
    assert!(bench.open_buses.is_empty());
    bench.forget();
    bench.run_secs(60);
    assert!(bench.said.is_empty());
    assert_eq!(bench.field.stats().strays.answers, 1, "the one under way");
    assert_eq!(bench.field.poll_timeout(), None);
}

#[test]
fn a_device_that_is_replaced_finds_its_bus_open() {
    let mut bench = greenhouse();
    bench.run_secs(5);
    let before = bench.open_buses.clone();
    bench.remove("greenhouse");
    let driver = i2c(1, I2cChip::Bme280, 0x76);
    bench.add_without_draining("again", driver, EVERY);
    bench.drain();
    assert_eq!(bench.open_buses, before);
    bench.run_secs(5);
    assert_eq!(bench.last_text("again/temperature"), "25.08");
}

fn machine() -> Bench {
    let mut bench = Bench::new();
    for (path, text) in [
        ("/sys/class/thermal/thermal_zone0/temp", "48312\n"),
        ("/proc/loadavg", "0.52 0.41 0.30 1/214 12345\n"),
        (
            "/proc/meminfo",
            "MemTotal: 1000 kB\nMemFree: 10 kB\nMemAvailable: 750 kB\n",
        ),
    ] {
        bench.files.insert(path.to_owned(), text.into());
    }
    bench.disk = Some((4_000, 1_000));
    bench.uptime = Duration::from_millis(350_735_470);
    let settings = SystemSettings {
        temperature: None,
        disk: "/".into(),
    };
    bench.add("machine", Driver::System(settings), EVERY);
    bench
}

#[test]
fn the_machine_itself_is_a_device() {
    let mut bench = machine();
    bench.run_secs(2);
    for (point, expected) in [
        ("cpu_temperature", "48.312"),
        ("load", "0.52"),
        ("memory_used", "25"),
        ("disk_used", "75"),
        ("uptime", "350735.47"),
    ] {
        assert_eq!(bench.last_text(&format!("machine/{point}")), expected);
    }
    assert_eq!(
        bench.open_buses.values().next(),
        Some(&BusSettings::Machine)
    );
}

#[test]
fn a_machine_without_a_thermal_zone_has_a_fault_on_that_point_alone() {
    let mut bench = machine();
    bench.files.remove("/sys/class/thermal/thermal_zone0/temp");
    bench.run_secs(60);
    assert_eq!(
        bench.last_text("machine/cpu_temperature"),
        "not_measured: this machine has no /sys/class/thermal/thermal_zone0/temp"
    );
    assert_eq!(bench.outcomes("machine/cpu_temperature").len(), 1);
    assert!(
        bench.outcomes("machine/load").len() >= 6,
        "no back-off for that"
    );
    assert_eq!(bench.online("machine"), Some(true));
}

#[test]
fn a_disk_that_hangs_is_a_fault_on_that_point_alone() {
    let mut bench = machine();
    bench.disk = None;
    bench.run_secs(5);
    assert_eq!(
        bench.last_text("machine/disk_used"),
        "bus_error: / could not be read (input/output error, error 5)"
    );
    assert_eq!(bench.last_text("machine/load"), "0.52");
}

#[test]
fn devices_of_one_interval_are_asked_in_one_turn() {
    let mut bench = machine();
    for (name, disk) in [("data", "/data"), ("boot", "/boot")] {
        let settings = SystemSettings {
            temperature: None,
            disk: disk.into(),
        };
        bench.add(name, Driver::System(settings), EVERY);
    }
    for address in 0x48..0x4C {
        let chip = Thermometer::lm75(0x1900);
        bench.chips.insert((1, address), Chip::Thermometer(chip));
        bench.add_i2c(&format!("t{address:x}"), I2cChip::Lm75, address, EVERY);
    }
    bench.run_secs(20);
    bench.forget();
    bench.run_secs(100);
    assert_eq!(bench.wakes, 10);
    // What is asked in one turn can be handed to the bus's worker together.
    let turns = |machine: bool| {
        let is_asked = |bus: &BusSettings| (*bus == BusSettings::Machine) == machine;
        let asked: Vec<_> = bench
            .transfers
            .iter()
            .filter(|(_, bus, _)| is_asked(bus))
            .map(|(at, _, _)| *at)
            .collect();
        let mut turns = asked.clone();
        turns.dedup();
        (asked.len(), turns.len())
    };
    assert_eq!(turns(true), (30, 10));
    // All configurations in one turn, then each temperature as the bench answers.
    assert_eq!(turns(false), (80, 50));
}

#[test]
fn a_machine_that_answers_late_is_asked_for_one_figure_after_the_other() {
    let mut bench = machine();
    bench.run_secs(15);
    bench.trouble.insert((255, None), Trouble::Stuck);
    bench.forget();
    bench.run_secs(30);
    assert_eq!(
        bench.last_text("machine/load"),
        "timeout: /proc/loadavg could not be read in time"
    );
    bench.trouble.clear();
    bench.run_secs(120);
    assert_eq!(bench.last_text("machine/load"), "0.52");
    bench.forget();
    bench.run_secs(100);
    assert_eq!(bench.transfers.len(), 10, "together again");
}

#[test]
fn what_only_measures_refuses_commands_and_unknown_points_are_answered_too() {
    let mut bench = greenhouse();
    let answer = bench.set_and_wait("greenhouse/temperature", Value::Float(1.0));
    assert_eq!(
        answer.map_err(|fault| fault.to_string()),
        Err("refused: greenhouse only measures".to_owned())
    );
}
