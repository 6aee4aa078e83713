//! The nearest wins: defaults, device, point.

use std::time::Duration;

use fieldgate::mqtt::QoS;
use fieldgate::pipeline::settings::PayloadFormat;

use super::{meant, said};

const CHIP: &str = "[device.t]\ndriver = \"bme280\"\nbus = \"i2c.1\"\n";

#[test]
fn the_nearest_level_wins() {
    let config = meant(
        r#"
        [gateway.defaults]
        qos = 0
        payload = "json"
        expiry = "1h"
        every = "20s"
        [device.t]
        driver = "bme280"
        bus = "i2c.1"
        qos = 2
        expiry = "off"
        [device.t.point.humidity]
        qos = 1
        [device.u]
        driver = "bme280"
        bus = "i2c.3"
        every = "5s"
        stale_after = "off"
        "#,
    )
    .meant
    .gateway;
    let points = &config.devices["t"].points;
    assert_eq!(points["humidity"].qos, QoS::AtLeastOnce);
    assert_eq!(points["temperature"].qos, QoS::ExactlyOnce);
    assert_eq!(points["temperature"].payload, PayloadFormat::Json);
    assert_eq!(
        points["temperature"].expiry, None,
        "off is nearer than an hour"
    );
    assert_eq!(
        points["temperature"].stale_after,
        Some(Duration::from_secs(60))
    );
    let other = &config.devices["u"].points["temperature"];
    assert_eq!(other.qos, QoS::AtMostOnce);
    assert_eq!(other.expiry, Some(Duration::from_secs(3600)));
    assert_eq!(other.stale_after, None);
    assert_eq!(config.devices["u"].field.every, Duration::from_secs(5));
}

#[test]
fn a_range_is_of_what_is_published() {
    let config = meant(&format!(
        "{CHIP}[device.t.point.temperature]\nunit = \"°F\"\nscale = 1.8\noffset = 32\n"
    ))
    .meant
    .gateway;
    let plain = meant(CHIP).meant.gateway;
    let celsius = &plain.devices["t"].points["temperature"].spec;
    let fahrenheit = &config.devices["t"].points["temperature"].spec;
    assert_eq!(&*fahrenheit.unit, "°F");
    let (low, high) = celsius.range.expect("the sensor has one");
    let (cold, hot) = fahrenheit.range.expect("and keeps it");
    assert!((cold - (low * 1.8 + 32.0)).abs() < 1e-9);
    assert!((hot - (high * 1.8 + 32.0)).abs() < 1e-9);
    assert!((fahrenheit.resolution - celsius.resolution * 1.8).abs() < 1e-9);
}

#[test]
fn one_end_of_a_range_leaves_the_other_to_the_driver() {
    let config = meant(&format!("{CHIP}[device.t.point.temperature]\nmin = 0\n"))
        .meant
        .gateway;
    let plain = meant(CHIP).meant.gateway;
    let (_, high) = plain.devices["t"].points["temperature"].spec.range.unwrap();
    assert_eq!(
        config.devices["t"].points["temperature"].spec.range,
        Some((0.0, high))
    );
}

#[test]
fn defaults_that_fit_some_points_are_ignored_by_the_others() {
    let text = r#"
        [gateway.defaults]
        deadband = 0.5
        stale_after = "1m"
        min_interval = "1s"
        [device.g]
        driver = "gpio"
        bus = "gpio.header"
        [device.g.point.door]
        kind = "input"
        line = 4
        [device.g.point.bell]
        kind = "event"
        line = 5
        [device.g.point.water]
        kind = "counter"
        line = 6
        "#;
    let config = meant(text).meant.gateway;
    let points = &config.devices["g"].points;
    assert!(points["door"].deadband.abs() < f64::EPSILON);
    assert_eq!(points["door"].stale_after, None);
    assert_eq!(points["door"].min_interval, Some(Duration::from_secs(1)));
    assert_eq!(points["bell"].min_interval, None);
    assert!((points["water"].deadband - 0.5).abs() < f64::EPSILON);
    assert_eq!(points["water"].stale_after, Some(Duration::from_secs(60)));
}

#[test]
fn what_is_switched_off_is_checked_and_left_out() {
    let text = r#"
        [gateway.defaults]
        enabled = false
        [device.a]
        driver = "lm75"
        bus = "i2c.1"
        [device.b]
        driver = "tmp102"
        bus = "i2c.1"
        enabled = true
        "#;
    let config = meant(text).meant.gateway;
    assert_eq!(
        config
            .devices
            .keys()
            .map(|name| &**name)
            .collect::<Vec<_>>(),
        ["b"]
    );
    let wrong = said("[device.a]\ndriver = \"lm75\"\nenabled = false\n");
    assert!(wrong.contains("has no `bus`"), "{wrong}");
}

#[test]
fn a_points_own_pace_is_the_devices_if_all_its_points_agree() {
    let counters = |second: &str| {
        format!(
            "[device.g]\ndriver = \"gpio\"\nbus = \"gpio.header\"\n\
             [device.g.point.a]\nkind = \"counter\"\nline = 4\nevery = \"1s\"\n\
             [device.g.point.b]\nkind = \"counter\"\nline = 5\n{second}\
             [device.g.point.c]\nkind = \"input\"\nline = 6\n"
        )
    };
    let config = meant(&counters("every = \"1s\"\n")).meant.gateway;
    assert_eq!(config.devices["g"].field.every, Duration::from_secs(1));
    let stale = config.devices["g"].points["a"].stale_after;
    assert_eq!(stale, Some(Duration::from_secs(3)));
    let refused = said(&counters(""));
    assert!(
        refused.contains("is not available in this version"),
        "{refused}"
    );
    let refused = said(&counters("every = \"2s\"\n"));
    assert!(refused.ends_with("2 errors\n"), "{refused}");
}

#[test]
fn a_point_that_is_switched_off_is_left_out() {
    let config = meant(
        "[device.g]\ndriver = \"gpio\"\nbus = \"gpio.header\"\n\
         [device.g.point.a]\nkind = \"input\"\nline = 4\n\
         [device.g.point.b]\nkind = \"input\"\nline = 4\nenabled = false\n",
    )
    .meant
    .gateway;
    assert_eq!(config.devices["g"].points.len(), 1);
}

#[test]
fn an_event_is_retained_only_when_it_says_so_itself() {
    let text = |own: &str| {
        format!(
            "[gateway.defaults]\nretain = true\n\
             [device.g]\ndriver = \"gpio\"\nbus = \"gpio.header\"\n\
             [device.g.point.bell]\nkind = \"event\"\nline = 4\n{own}"
        )
    };
    assert!(!meant(&text("")).meant.gateway.devices["g"].points["bell"].retain);
    let own = meant(&text("retain = true\n"));
    assert!(own.meant.gateway.devices["g"].points["bell"].retain);
    assert_eq!(own.warnings.warnings(), 1);
}
