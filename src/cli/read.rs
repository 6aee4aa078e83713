//! `fieldgate read`: one reading, through the running gateway, else directly.

use lexopt::Parser;
use serde_json::{Map, Value, json};

use crate::point::FaultKind;
use crate::time::Duration;
use crate::units::parse_duration;

use super::configuration::load;
use super::control::{Answer, ControlClient, Reach};
use super::direct::{Direct, Use};
use super::{Argument, Failure, Globals, code, help, other_argument, output};

pub(crate) fn run(mut parser: Parser, mut globals: Globals) -> Result<u8, Failure> {
    let (mut what, mut reach) = (None, Reach::default());
    while let Some(argument) = Argument::next(&mut parser)? {
        match &argument {
            Argument::Value(value) if what.is_none() => {
                what = Some(value.to_string_lossy().into_owned());
            }
            argument if reach.take(argument, &mut parser)? => {}
            _ => {
                let ended = other_argument(argument, &mut parser, &mut globals, help::READ)?;
                if let Some(code) = ended {
                    return Ok(code);
                }
            }
        }
    }
    let what =
        what.ok_or_else(|| Failure::usage("what to read is said by DEVICE or DEVICE/POINT"))?;
    let target = Target::parse(&what)?;
    let config = globals.config_path();
    let timeout = reach.timeout;
    let socket = reach.socket(&config);
    let points = if let Some(mut gateway) = ControlClient::connect(&socket)? {
        read(&target, |verb, fields| {
            gateway.request(verb, fields, timeout)
        })?
    } else {
        let meant = load(&config)?.meant;
        let mut direct = Direct::start(&meant, target.device, Use::Read)?;
        let points = read(&target, |verb, fields| {
            direct.request(verb, fields, timeout)
        })?;
        direct.stop()?;
        points
    };
    let code = exit_code(&points);
    if let ([point], Some(_), false) = (&points[..], target.point, globals.json)
        && let Answer::Error { error, .. } = &point.answer
    {
        let failure = Failure::with_code(code, format!("{}: {error}", point.path));
        return Err(match point.last() {
            Some(last) => failure.hint(format!("it was {last}")),
            None => failure,
        });
    }
    print(&target, &points, globals.json)?;
    Ok(code)
}

/// A time that is not zero, as it is written everywhere: `500ms`, `2s`, `1m30s`.
pub(crate) fn duration(text: &str) -> Result<Duration, Failure> {
    match parse_duration(text) {
        Ok(Duration::ZERO) => Err(Failure::usage("a time must be longer than 0")),
        Ok(time) => Ok(time),
        Err(error) => Err(Failure::usage(format!("`{text}` is not a time: {error}"))
            .hint("a time looks like 500ms, 2s or 1m30s")),
    }
}

/// What is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Target<'a> {
    device: &'a str,
    /// `None`: all of them.
    point: Option<&'a str>,
}

impl<'a> Target<'a> {
    fn parse(text: &'a str) -> Result<Self, Failure> {
        let mut parts = text.split('/');
        match (parts.next(), parts.next(), parts.next()) {
            (Some(device), point, None) if !device.is_empty() && point != Some("") => {
                Ok(Self { device, point })
            }
            _ => Err(Failure::usage(format!(
                "a point is named DEVICE/POINT, not `{text}`"
            ))),
        }
    }
}

/// A point, and what came of reading it.
#[derive(Debug, Clone, PartialEq)]
struct Point {
    path: String,
    answer: Answer,
}

impl Point {
    fn field(&self, name: &str) -> Option<&Value> {
        let (Answer::Ok(data) | Answer::Error { data, .. }) = &self.answer;
        data.get(name).filter(|value| !value.is_null())
    }

    /// The field `name` as a person reads it, with the unit behind it.
    fn with_unit(&self, name: &str) -> Option<String> {
        let value = plain(self.field(name)?);
        Some(match self.field("unit") {
            Some(unit) => format!("{value} {}", plain(unit)),
            None => value,
        })
    }

    /// What it was before it failed, and when.
    fn last(&self) -> Option<String> {
        let last = self.with_unit("last")?;
        Some(match self.field("last_time") {
            Some(time) => format!("{last} at {}", plain(time)),
            None => last,
        })
    }

    fn is_good(&self) -> bool {
        self.field("quality").and_then(Value::as_str) == Some("good")
    }
}

/// Asks for the point, or for every point that the device has.
fn read(
    target: &Target<'_>,
    mut request: impl FnMut(&str, Map<String, Value>) -> Result<Answer, Failure>,
) -> Result<Vec<Point>, Failure> {
    let names: Vec<String> = match target.point {
        Some(point) => vec![point.to_owned()],
        None => match request("devices", Map::new())? {
            Answer::Ok(devices) => names_of(&devices, target.device)?,
            Answer::Error { error, .. } => return Err(Failure::failed(error)),
        },
    };
    let mut points = Vec::new();
    for name in names {
        let path = format!("{}/{name}", target.device);
        let fields = Map::from_iter([("point".to_owned(), json!(path))]);
        let answer = request("read", fields)?;
        points.push(Point { path, answer });
    }
    Ok(points)
}

fn names_of(devices: &Value, device: &str) -> Result<Vec<String>, Failure> {
    let Some(found) = devices.get(device) else {
        let names: Vec<&str> = devices
            .as_object()
            .map(|devices| devices.keys().map(String::as_str).collect())
            .unwrap_or_default();
        return Err(Failure::failed(format!("there is no device `{device}`"))
            .hint(format!("the gateway has {}", names.join(", "))));
    };
    let points = found.get("points").and_then(Value::as_object);
    Ok(points
        .map(|points| points.keys().cloned().collect())
        .unwrap_or_default())
}

fn print(target: &Target<'_>, points: &[Point], json: bool) -> Result<(), Failure> {
    if json {
        let mut values: Vec<Value> = points.iter().map(as_json).collect();
        let value = match target.point {
            Some(_) => values.pop().unwrap_or(Value::Null),
            None => Value::Array(values),
        };
        return output::print_json(&value).map(drop);
    }
    let rows: Vec<_> = points.iter().map(row).collect();
    output::print(&output::columns(&rows, "")).map(drop)
}

fn as_json(point: &Point) -> Value {
    match &point.answer {
        Answer::Ok(data) => data.clone(),
        Answer::Error { error, data } => {
            let mut fields = data.as_object().cloned().unwrap_or_default();
            fields.insert("point".to_owned(), json!(point.path));
            fields.insert("error".to_owned(), json!(error));
            Value::Object(fields)
        }
    }
}

fn row(point: &Point) -> Vec<String> {
    let word = |name| point.field(name).map(plain).unwrap_or_default();
    let value = point.with_unit("value").unwrap_or_default();
    match &point.answer {
        Answer::Ok(_) => vec![point.path.clone(), value, word("quality"), word("reason")],
        Answer::Error { error, .. } => {
            let story = match point.last() {
                Some(last) => format!("{error} (it was {last})"),
                None => error.clone(),
            };
            vec![point.path.clone(), String::new(), word("quality"), story]
        }
    }
}

/// A value as a person reads it: text without quotes.
pub(crate) fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn exit_code(points: &[Point]) -> u8 {
    let errors = points.iter().find_map(|point| match &point.answer {
        Answer::Error { error, .. } if is_fault(error) => Some(code::NOT_GOOD),
        Answer::Error { .. } => Some(code::FAILED),
        Answer::Ok(_) => None,
    });
    match errors {
        Some(code) => code,
        None if points.iter().all(Point::is_good) => code::DONE,
        None => code::NOT_GOOD,
    }
}

/// Whether an error is the device's, and not a question that nobody can answer: then it starts with
/// the kind of fault.
fn is_fault(error: &str) -> bool {
    let kind = error.split_once(':').map(|(kind, _)| kind);
    FaultKind::ALL
        .iter()
        .any(|fault| kind == Some(fault.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(
        devices: Value,
        read: Value,
    ) -> impl FnMut(&str, Map<String, Value>) -> Result<Answer, Failure> {
        move |verb, fields| {
            Ok(Answer::Ok(if verb == "devices" {
                devices.clone()
            } else {
                let mut data = read.clone();
                data["point"] = fields["point"].clone();
                data
            }))
        }
    }

    #[test]
    fn a_device_is_all_its_points() {
        let devices = json!({"g": {"points": {"humidity": {}, "temperature": {}}}});
        let good = json!({"value": 21.4, "unit": "°C", "quality": "good"});
        let target = Target::parse("g").unwrap();
        let points = read(&target, answers(devices.clone(), good)).unwrap();
        let paths: Vec<_> = points.iter().map(|point| point.path.as_str()).collect();
        assert_eq!(paths, ["g/humidity", "g/temperature"]);
        assert_eq!(exit_code(&points), 0);
        assert_eq!(row(&points[1]), ["g/temperature", "21.4 °C", "good", ""]);

        let other = Target::parse("h").unwrap();
        let failure = read(&other, answers(devices, Value::Null)).unwrap_err();
        assert!(
            failure.to_string().contains("the gateway has g"),
            "{failure}"
        );
    }

    #[test]
    fn quality_and_errors_decide_the_exit_code() {
        let stale = json!({"value": 1, "quality": "stale", "reason": "silent: 30 s"});
        let target = Target::parse("g/p").unwrap();
        let points = read(&target, answers(Value::Null, stale)).unwrap();
        assert_eq!(exit_code(&points), code::NOT_GOOD);
        let point = |error: &str| Point {
            path: "g/p".to_owned(),
            answer: Answer::Error {
                error: error.to_owned(),
                data: Value::Null,
            },
        };
        assert_eq!(
            exit_code(&[point("no_answer: nothing at 0x76")]),
            code::NOT_GOOD
        );
        assert_eq!(
            exit_code(&[point("there is no point \"g/p\"")]),
            code::FAILED
        );
    }

    #[test]
    fn a_fault_shows_what_was_last_known() {
        let data = json!({
            "point": "g/p", "value": null, "unit": "°C", "quality": "fault",
            "last": 21.4, "last_time": "2026-11-23T10:00:00.000Z",
        });
        let error = "no_answer: gone".to_owned();
        let point = Point {
            path: "g/p".to_owned(),
            answer: Answer::Error { error, data },
        };
        assert_eq!(
            row(&point),
            [
                "g/p",
                "",
                "fault",
                "no_answer: gone (it was 21.4 °C at 2026-11-23T10:00:00.000Z)"
            ]
        );
        let printed = as_json(&point);
        assert_eq!(printed["error"], "no_answer: gone");
        assert_eq!(printed["last"], 21.4);
    }

    #[test]
    fn numbers_stay_as_the_gateway_wrote_them() {
        for number in ["9373", "21.4", "0.0000001", "10000000000000000000000"] {
            let value: Value = serde_json::from_str(number).unwrap();
            assert_eq!(plain(&value), number);
            assert_eq!(format!("{value:#}"), number);
        }
    }

    #[test]
    fn names_and_times_are_checked() {
        for text in ["", "/p", "g/", "g/p/q"] {
            assert!(Target::parse(text).is_err(), "{text}");
        }
        assert_eq!(duration("500ms").unwrap(), Duration::from_millis(500));
        assert_eq!(duration("1d").unwrap(), Duration::from_secs(86_400));
        assert_eq!(duration("1m30s").unwrap(), Duration::from_secs(90));
        for text in ["", "5", "s", "-1s", "0s", "1.5s", "1 s", "infs", "nans"] {
            assert!(duration(text).is_err(), "{text}");
        }
        let told = duration("1.5s").unwrap_err().to_string();
        assert!(told.contains("write \"1s500ms\""), "{told}");
    }
}
