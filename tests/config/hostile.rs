//! Any bytes at all: a configuration or a list of mistakes, never a panic, and never without end.

use std::time::Instant;

use fieldgate::bridge::settings::SecretSource;
use proptest::prelude::*;

use super::example::EXAMPLE;
use super::{read, said};

/// Renders what it says, which must not panic either, and prints what it means, which must mean the
/// same.
fn survive(text: &str) {
    match read(text) {
        Ok(loaded) => {
            let _ = loaded.warnings.render(true);
            let printed = loaded.meant.print();
            let again = read(&printed).map(|again| again.meant.gateway);
            // A password that stands in the file is not printed.
            let mut meant = loaded.meant.gateway;
            for bridge in meant.bridges.values_mut() {
                let is_literal = |source: &SecretSource| matches!(source, SecretSource::Literal(_));
                bridge.password = bridge.password.take().filter(|it| !is_literal(it));
            }
            assert_eq!(again.as_ref(), Ok(&meant), "{text:?}\n{printed}");
        }
        Err(errors) => {
            assert!(errors.errors() > 0, "refused without an error: {text:?}");
            let _ = errors.render(false);
            let _ = errors.render(true);
        }
    }
}

#[test]
fn kept_samples_are_survived() {
    let deep_header = format!("[{}]\nx = 1\n", vec!["a"; 5000].join("."));
    let deep_array = format!("x = {}{}\n", "[".repeat(5000), "]".repeat(5000));
    let deep_inline = format!("x = {}{}\n", "{a=".repeat(5000), "}".repeat(5000));
    let open = "[".repeat(100_000);
    let long_key = format!("{} = 1\n", "k".repeat(100_000));
    let long_text = format!("[gateway]\nname = \"{}\"\n", "é".repeat(100_000));
    for text in [
        "",
        "\u{feff}",
        "\u{feff}[gateway]\nnam = \"x\"\n",
        "\r",
        "\r\n\r\n[gateway]\r\nnam = 1\r\n",
        "\0",
        "a = \"\0\"",
        "[gateway]\nname = \"\u{202e}evil\"\n",
        "[[device]]\n[device.x]\n",
        "device = [1, 2]\n",
        "device = { x = { driver = 5 } }",
        "[device.x.point]\n[[device.x.point.y]]\n",
        "[device.x]\ndriver = \"gpio\"\nbus = \"gpio.header\"\npoint = 5\n",
        "[device.x]\ndriver = \"gpio\"\nbus = \"gpio.header\"\npoint = [{}]\n",
        "[device.x]\ndriver = \"lines\"\nbus = \"serial.\"\npattern = '('\n",
        "[device.x]\ndriver = \"lm75\"\nbus = \"i2c.999999\"\naddress = -1\n",
        "[i2c.00]\n[i2c.1]\n[i2c.+1]\n",
        "[gateway.defaults]\nscale = nan\noffset = inf\nmin = -inf\nprecision = \
            99999999999999999999\n",
        "[gateway.defaults]\nevery = 1979-05-27T07:32:00Z\n",
        "[broker]\nqueue = 1\nretained = []\n",
        "[listener.a]\nbind = [[], {}, 1, \"\", \"*:\", \":\", \"*:99999\", \"[::1\"]\n",
        "[listener.a]\nbind = \"unix:\"\nmode = \"9999\"\ngroup = \"\"\n",
        "[log]\nlevels = { \"\" = \"info\", \"::\" = 1, \"host::\" = \"off\" }\n",
        "x = 0x\ny = 0b\nz = 1__0\n",
        "\"\" = 1\n\"\\n\" = 2\n",
        "[\"\"]\n[\"\".\"\"]\n",
        "[device.\"\"]\ndriver = \"system\"\n[device.\"a b\"]\ndriver = \"system\"\n",
        "a.b.c = 1\na.b = 2\na = 3\n",
        "[a]\n[a]\n[[a]]\n[a.b]\n[a.b.c]\n[[a.b]]\n",
        &deep_header,
        &deep_array,
        &deep_inline,
        &open,
        &long_key,
        &long_text,
    ] {
        survive(text);
    }
}

#[test]
fn thousands_of_mistakes_are_counted_and_not_all_shown() {
    use std::fmt::Write;
    let mut text = String::from("[gateway]\n");
    for number in 0..20_000 {
        let _ = writeln!(text, "nonsense_{number} = {number}");
    }
    let start = Instant::now();
    let said = said(&text);
    assert!(said.ends_with("20000 errors, 19950 of them not shown\n"));
    assert!(said.len() < 100_000);
    // Generous: it takes a fraction of a second, and must not take time in the square of the file.
    assert!(start.elapsed().as_secs() < 20);
}

#[test]
fn a_file_of_one_endless_line_is_read_and_shown() {
    use std::fmt::Write;
    let mut many = String::from("log = { levels = { ");
    let mut wrong = String::from("gateway = { ");
    for number in 0..20_000 {
        let _ = write!(many, "\"host::m{number}\" = \"info\", ");
        let _ = write!(wrong, "k{number} = \"é\", ");
    }
    many.push_str("host = \"warn\" } }\n");
    wrong.push_str("name = 1 }\n");
    let start = Instant::now();
    survive(&many);
    survive(&wrong);
    // Each place is a count of characters in that one line.
    assert!(start.elapsed().as_secs() < 60);
}

#[test]
fn a_file_beyond_the_limit_is_refused() {
    let said = said(&"# comment\n".repeat(200_000));
    assert!(said.contains("1MiB are read at most"), "{said}");
}

#[test]
fn cut_off_anywhere_it_does_not_panic() {
    for end in (0..EXAMPLE.len())
        .step_by(3)
        .filter(|end| EXAMPLE.is_char_boundary(*end))
    {
        survive(&EXAMPLE[..end]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400,
        // What was ever found stands among the kept samples, in words.
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_text_is_survived(text in "\\PC{0,200}") {
        survive(&text);
    }

    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        survive(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn toml_like_text_is_survived(text in "([\\[\\]{}=.,\"'#\\\\a-c0-2 \
        \\n\\r\\t-]|\"\"\"|'''|true|0x|é){0,60}") {
        survive(&text);
    }

    #[test]
    fn the_example_with_a_hole_is_survived(start in 0usize..3000, length in 0usize..40) {
        let mut chars: Vec<char> = EXAMPLE.chars().collect();
        let start = start.min(chars.len());
        let end = (start + length).min(chars.len());
        chars.drain(start..end);
        survive(&chars.into_iter().collect::<String>());
    }

    #[test]
    fn the_example_with_something_put_in_is_survived(
        at in 0usize..3000,
        what in concat!(
            "(\\[|\\]|\\{|\\}|=|\"|'|,|\\n|[a-z]{1,5}|-?[0-9]{1,22}|true|1e999",
            "|\"[a-z0-9./:*-]{0,9}\"){1,3}",
        ),
    ) {
        let mut chars: Vec<char> = EXAMPLE.chars().collect();
        let at = at.min(chars.len());
        chars.splice(at..at, what.chars());
        survive(&chars.into_iter().collect::<String>());
    }

    #[test]
    fn any_value_for_any_key_is_survived(
        line in 0usize..200,
        value in "(-?[0-9]{1,25}|-?[0-9]{1,5}\\.[0-9]{1,5}|true|false|\"\\PC{0,12}\"|\\[\\]|\\[1, \
            \"a\"\\]|\\{ a = 1 \\}|inf|nan|1979-05-27)",
    ) {
        let lines: Vec<&str> = EXAMPLE.lines().collect();
        let line = line % lines.len();
        let mut text = String::new();
        for (index, original) in lines.iter().enumerate() {
            match original.split_once('=') {
                Some((key, _)) if index == line => text.extend([key, "= ", &value, "\n"]),
                _ => text.extend([original, "\n"]),
            }
        }
        survive(&text);
    }
}
