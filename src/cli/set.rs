//! `fieldgate set`: one command, through the running gateway; without one only if `--direct` says
//! so.

use lexopt::Parser;
use serde_json::{Map, Value, json};

use crate::time::Duration;
use crate::units::format_duration;

use super::configuration::load;
use super::control::{Answer, ControlClient, Reach, code_of, not_running};
use super::direct::{Direct, Use};
use super::read::{duration, plain};
use super::{Argument, Failure, Globals, help, other_argument, output};

/// A pulse's end is waited for a little longer than the pulse.
const PULSE_SLACK: Duration = Duration::from_millis(500);

pub(crate) fn run(mut parser: Parser, mut globals: Globals) -> Result<u8, Failure> {
    let mut words: Vec<String> = Vec::new();
    let (mut hold, mut direct, mut reach) = (None, false, Reach::default());
    while let Some(argument) = next(&mut parser, &words)? {
        match &argument {
            Argument::Long(name) if name == "for" => {
                hold = Some(super::client::text(&mut parser)?);
            }
            Argument::Long(name) if name == "direct" => direct = true,
            Argument::Value(value) if words.len() < 2 => {
                words.push(value.to_string_lossy().into_owned());
            }
            argument if reach.take(argument, &mut parser)? => {}
            _ => {
                let ended = other_argument(argument, &mut parser, &mut globals, help::SET)?;
                if let Some(code) = ended {
                    return Ok(code);
                }
            }
        }
    }
    let Ok([path, value]) = <[String; 2]>::try_from(words) else {
        return Err(Failure::usage(
            "what to set is said by DEVICE/POINT and VALUE",
        ));
    };
    let Some((device, point)) = path
        .split_once('/')
        .filter(|(_, point)| !point.contains('/'))
    else {
        return Err(Failure::usage(format!(
            "a point is named DEVICE/POINT, not `{path}`"
        )));
    };
    let pulse = hold.as_deref().map(duration).transpose()?;
    let mut fields = Map::new();
    fields.insert("point".to_owned(), json!(path));
    fields.insert("value".to_owned(), json_value(&value));
    if let Some(pulse) = pulse {
        fields.insert("for".to_owned(), json!(format_duration(pulse)));
    }
    let config = globals.config_path();
    let timeout = reach.timeout;
    let socket = reach.socket(&config);
    if let Some(mut gateway) = ControlClient::connect(&socket)? {
        if direct {
            let text = format!("a gateway is running at {}", socket.display());
            return Err(Failure::failed(text).hint("it drives its devices alone: without --direct"));
        }
        let answer = gateway.request("set", fields, timeout)?;
        return tell(&path, answer, globals.json);
    }
    if !direct {
        return Err(not_running(&socket)
            .hint("`fieldgate run` starts one; --direct drives the device without it"));
    }
    let meant = load(&config)?.meant;
    let mut gateway = Direct::start(&meant, device, Use::Set(point))?;
    let answer = gateway.request("set", fields, timeout)?;
    let done = matches!(answer, Answer::Ok(_));
    let told = tell(&path, answer, globals.json);
    if done {
        if pulse.is_none() {
            output::complain("held until Ctrl-C");
        }
        if gateway.hold(pulse.map(|time| time + PULSE_SLACK))? {
            return told;
        }
    }
    gateway.stop()?;
    told
}

/// `-5` in the place of the value is a value, and not an option.
fn next(parser: &mut Parser, words: &[String]) -> Result<Option<Argument>, Failure> {
    if words.len() == 1
        && let Some(mut arguments) = parser.try_raw_args()
        && arguments
            .peek()
            .is_some_and(|next| next.to_string_lossy().parse::<f64>().is_ok())
    {
        return Ok(arguments.next().map(Argument::Value));
    }
    Argument::next(parser)
}

/// Numbers are numbers; everything else is a word that the gateway knows, or text.
fn json_value(text: &str) -> Value {
    match serde_json::from_str::<Value>(text) {
        Ok(value @ (Value::Number(_) | Value::Bool(_))) => value,
        _ => json!(text),
    }
}

fn tell(path: &str, answer: Answer, json: bool) -> Result<u8, Failure> {
    match answer {
        Answer::Ok(data) => {
            if json {
                return output::print_json(&json!({ "status": "ok", "data": data }));
            }
            let word = |name| data.get(name).map(plain).unwrap_or_default();
            let text = format!("{path} {} {}", word("value"), word("unit"));
            output::print(&format!("{}\n", text.trim_end()))
        }
        Answer::Error { error, .. } => {
            let code = code_of(&error);
            if json {
                output::print_json(&json!({ "status": "error", "error": error }))?;
                return Ok(code);
            }
            Err(Failure::with_code(code, format!("{path}: {error}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::code;
    use super::*;

    #[test]
    fn numbers_are_numbers_and_words_are_words() {
        assert_eq!(json_value("1.5"), json!(1.5));
        assert_eq!(json_value("-5"), json!(-5));
        assert_eq!(json_value("true"), json!(true));
        assert_eq!(json_value("on"), json!("on"));
        assert_eq!(json_value("{\"a\":1}"), json!("{\"a\":1}"));
        assert_eq!(json_value("\"1\""), json!("\"1\""));
    }

    #[test]
    fn a_negative_number_is_no_option() {
        let mut parser = Parser::from_args(["-5", "--for", "1s"]);
        let words = ["g/p".to_owned()];
        assert_eq!(
            next(&mut parser, &words).unwrap(),
            Some(Argument::Value("-5".into()))
        );
        let second = next(&mut parser, &["g/p".to_owned(), "-5".to_owned()]).unwrap();
        assert_eq!(second, Some(Argument::Long("for".to_owned())));
    }

    #[test]
    fn what_is_missing_is_wrong_usage() {
        for arguments in [
            &[][..],
            &["g/p"],
            &["g", "1"],
            &["g/p/q", "1"],
            &["g/p", "1", "2"],
            &["g/p", "1", "--for", "2"],
        ] {
            let failure = run(Parser::from_args(arguments), Globals::default()).unwrap_err();
            assert_eq!(failure.code(), code::USAGE, "{arguments:?}");
        }
    }
}
