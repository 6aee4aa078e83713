//! `fieldgate pub`: publishes one message, or one for each line of standard input, and ends.
//!
//! The exit codes are mosquitto_pub's: 0 when every message was handed over (and, with QoS 1 and 2,
//! acknowledged), CONNACK's code when the broker refuses, else 1.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Read};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread;

use lexopt::Parser;

use crate::buffer::Payload;
use crate::host::dial::Wake;
use crate::mqtt::client::{CloseCause, Event, Refusal};
use crate::mqtt::message::ApplicationMessage;
use crate::mqtt::{PacketId, ReasonCode, TopicName};
use crate::time::{Duration, Instant};

use super::client::{ClientOptions, text};
use super::link::{Happened, Link};
use super::{Argument, Failure, Globals, code, help, other_argument, output};

/// A payload has a length of four bytes at most, minus the packet's other parts.
const PAYLOAD_MAX: u64 = 268_435_455;

/// Lines that are read ahead of the broker.
const LINES_AHEAD: usize = 64;

/// Between two attempts to reach a broker that was lost with messages under way.
const RECONNECT: Duration = Duration::from_secs(1);

pub(crate) fn run(parser: Parser, globals: Globals) -> Result<u8, Failure> {
    match Options::parse(parser, globals)? {
        Parsed::Ended(code) => Ok(code),
        Parsed::Options(options) => {
            let quiet = options.client.quiet;
            publish(&options).map_err(|failure| failure.hushed(quiet))
        }
    }
}

#[derive(Debug)]
struct Options {
    client: ClientOptions,
    source: Source,
    retain: bool,
    repeat: u64,
    repeat_delay: Duration,
}

enum Parsed {
    Ended(u8),
    Options(Box<Options>),
}

/// Where payloads come from.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    Text(Vec<u8>),
    File(PathBuf),
    /// All of standard input.
    Whole,
    /// Each line of standard input.
    Lines,
}

impl Options {
    fn parse(mut parser: Parser, mut globals: Globals) -> Result<Parsed, Failure> {
        let mut client = ClientOptions::default();
        let mut sources = Vec::new();
        let (mut retain, mut repeat, mut repeat_delay) = (false, 1, Duration::ZERO);
        while let Some(argument) = Argument::next(&mut parser)? {
            if client.take(&argument, &mut parser, &["connect", "publish", "will"])? {
                continue;
            }
            let name = match &argument {
                Argument::Short(option) => option.to_string(),
                Argument::Long(option) => option.clone(),
                Argument::Value(_) => String::new(),
            };
            match name.as_str() {
                "m" | "message" => {
                    use std::os::unix::ffi::OsStringExt;
                    let bytes = parser.value()?.into_vec();
                    sources.push(Source::Text(bytes));
                }
                "f" | "file" => sources.push(Source::File(parser.value()?.into())),
                "n" | "null-message" => sources.push(Source::Text(Vec::new())),
                "s" | "stdin-file" => sources.push(Source::Whole),
                "l" | "stdin-line" => sources.push(Source::Lines),
                "r" | "retain" => retain = true,
                "repeat" => repeat = number(&text(&mut parser)?, "--repeat", 1)?,
                "repeat-delay" => repeat_delay = seconds(&text(&mut parser)?)?,
                _ => {
                    let ended = other_argument(argument, &mut parser, &mut globals, help::PUB)?;
                    if let Some(code) = ended {
                        return Ok(Parsed::Ended(code));
                    }
                }
            }
        }
        let Ok([source]) = <[Source; 1]>::try_from(sources) else {
            return Err(Failure::usage(
                "what to send is said by exactly one of -m, -f, -n, -s and -l",
            ));
        };
        let Ok([_]) = <[String; 1]>::try_from(client.topics.clone()) else {
            return Err(Failure::usage("where to is said by exactly one -t TOPIC"));
        };
        if repeat != 1 && source == Source::Lines {
            return Err(Failure::usage("--repeat and -l exclude each other"));
        }
        Ok(Parsed::Options(Box::new(Self {
            client,
            source,
            retain,
            repeat,
            repeat_delay,
        })))
    }
}

fn number(text: &str, option: &str, min: u64) -> Result<u64, Failure> {
    let value = text.parse().ok().filter(|value| *value >= min);
    value.ok_or_else(|| {
        Failure::usage(format!(
            "{option} takes a number from {min} on, not `{text}`"
        ))
    })
}

/// Seconds, with a fraction if need be.
pub(crate) fn seconds(text: &str) -> Result<Duration, Failure> {
    let value = text.parse().ok();
    let duration = value.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    duration.ok_or_else(|| Failure::usage(format!("`{text}` is not a number of seconds")))
}

fn publish(options: &Options) -> Result<u8, Failure> {
    let client = &options.client;
    let topic = TopicName::new(&client.topics[0])
        .map_err(|error| Failure::usage(format!("-t {}", client.topics[0])).because(error))?;
    let connect = client.connect_options("pub")?;
    // What cannot be read is said before anybody is connected to.
    let whole = read_whole(&options.source)?;
    let mut link = Link::new(connect, client)?;
    let mut publisher = Publisher {
        topic,
        options,
        feed: match whole {
            Some(payload) => Feed::Whole {
                payload: Payload::from(payload),
                left: options.repeat,
                delay: options.repeat_delay,
                not_before: link.now(),
            },
            None => Feed::lines(link.wake_handle())?,
        },
        under_way: BTreeMap::new(),
        exhausted: false,
        refused: None,
    };
    link.dial()?;
    publisher.run(&mut link)
}

/// The whole payload, unless it comes in lines.
fn read_whole(source: &Source) -> Result<Option<Vec<u8>>, Failure> {
    Ok(Some(match source {
        Source::Text(bytes) => bytes.clone(),
        Source::File(path) => read_file(path)?,
        Source::Whole => read_limited(io::stdin().lock())
            .map_err(|error| Failure::failed("cannot read standard input").because(error))?,
        Source::Lines => return Ok(None),
    }))
}

fn read_file(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::File::open(path)
        .and_then(read_limited)
        .map_err(|error| Failure::failed(format!("cannot read {}", path.display())).because(error))
}

fn read_limited(from: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(PAYLOAD_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > PAYLOAD_MAX {
        return Err(io::Error::other(
            "more than the 256 MiB that MQTT can carry",
        ));
    }
    Ok(bytes)
}

/// Payloads, one after the other.
#[derive(Debug)]
enum Feed {
    /// One, perhaps again and again.
    Whole {
        payload: Payload,
        left: u64,
        delay: Duration,
        not_before: Instant,
    },
    /// From a thread that reads lines, for standard input cannot be polled if it is a file.
    Lines(Receiver<io::Result<Vec<u8>>>),
}

/// What a [`Feed`] has.
enum Next {
    Payload(Payload),
    /// Not before.
    Later(Option<Instant>),
    End,
}

impl Feed {
    fn lines(wake: Wake) -> Result<Self, Failure> {
        let (lines, receiver) = sync_channel(LINES_AHEAD);
        thread::Builder::new()
            .name("stdin".into())
            .spawn(move || {
                read_lines(&lines, &wake);
                // The channel closes before the wake-up, so that its end is seen then.
                drop(lines);
                let _ = wake.wake();
            })
            .map_err(|error| Failure::failed("cannot start a thread").because(error))?;
        Ok(Self::Lines(receiver))
    }

    fn next(&mut self, now: Instant) -> Result<Next, Failure> {
        match self {
            Self::Whole { left: 0, .. } => Ok(Next::End),
            Self::Whole { not_before, .. } if *not_before > now => {
                Ok(Next::Later(Some(*not_before)))
            }
            Self::Whole { payload, left, .. } => {
                *left -= 1;
                Ok(Next::Payload(payload.clone()))
            }
            Self::Lines(lines) => match lines.try_recv() {
                Ok(Ok(line)) => Ok(Next::Payload(Payload::from(line))),
                Ok(Err(error)) => Err(Failure::failed("cannot read standard input").because(error)),
                Err(TryRecvError::Empty) => Ok(Next::Later(None)),
                Err(TryRecvError::Disconnected) => Ok(Next::End),
            },
        }
    }

    /// A message was handed over; the next one of a repetition waits from here.
    fn delivered(&mut self, now: Instant) {
        if let Self::Whole {
            delay, not_before, ..
        } = self
        {
            *not_before = now + *delay;
        }
    }
}

fn read_lines(lines: &SyncSender<io::Result<Vec<u8>>>, wake: &Wake) {
    let mut input = io::stdin().lock();
    loop {
        let mut line = Vec::new();
        let outcome = match (&mut input)
            .take(PAYLOAD_MAX + 2)
            .read_until(b'\n', &mut line)
        {
            Ok(0) => break,
            Ok(_) => {
                if line.ends_with(b"\n") {
                    line.pop();
                }
                Ok(line)
            }
            Err(error) => Err(error),
        };
        let failed = outcome.is_err();
        // The other end is gone when the verb ends, and then nobody needs this thread.
        if lines.send(outcome).is_err() || wake.wake().is_err() || failed {
            break;
        }
    }
}

struct Publisher<'a> {
    topic: TopicName<'a>,
    options: &'a Options,
    feed: Feed,
    /// What waits for its acknowledgement, and how long it is, for `-d`.
    under_way: BTreeMap<PacketId, usize>,
    exhausted: bool,
    /// The first message that was not taken.
    refused: Option<ReasonCode>,
}

impl Publisher<'_> {
    fn run(&mut self, link: &mut Link) -> Result<u8, Failure> {
        let mut connected_once = false;
        let mut redial_at = None;
        loop {
            let mut until = redial_at;
            if connected_once && link.client().is_connected() {
                let feed_at = self.publish_more(link)?;
                if self.exhausted && self.under_way.is_empty() {
                    link.say_goodbye()?;
                    return self.ended();
                }
                until = feed_at;
            }
            match link.next(until)? {
                Happened::Client(Event::Connected { .. }) => {
                    self.say(|| format!("connected to {}", link.place()));
                    connected_once = true;
                }
                Happened::Client(Event::Published { packet_id, reason }) => {
                    self.settled(link.now(), packet_id, reason);
                }
                Happened::Client(Event::Closed(cause)) => {
                    let gives_up = !cause.may_retry() || matches!(cause, CloseCause::Refused(_));
                    if gives_up || !connected_once {
                        return Err(link.failure(&cause));
                    }
                    self.say(|| cause.to_string());
                }
                Happened::Client(_) | Happened::Woken | Happened::Room => {}
                Happened::Unreachable(error) if !connected_once => {
                    return Err(link.unreachable(error));
                }
                Happened::Unreachable(_) | Happened::Down => {
                    redial_at = Some(link.now() + RECONNECT);
                }
                Happened::Timeout => {
                    if redial_at.is_some_and(|at| at <= link.now()) {
                        redial_at = match link.dial() {
                            Ok(()) => None,
                            // A unix socket that is not back yet says so at once.
                            Err(_) => Some(link.now() + RECONNECT),
                        };
                    }
                }
                Happened::Stop => {
                    link.say_goodbye()?;
                    return Err(Failure::silent(code::FAILED));
                }
            }
        }
    }

    /// Hands over as much as the client takes. Returns when there will be more.
    fn publish_more(&mut self, link: &mut Link) -> Result<Option<Instant>, Failure> {
        let qos = self.options.client.qos;
        loop {
            let repeats_wait =
                matches!(self.feed, Feed::Whole { .. }) && !self.under_way.is_empty();
            if self.exhausted || repeats_wait {
                return Ok(None);
            }
            // A QoS that the broker does not take is found out by trying.
            let takes = qos <= link.client().limits().maximum_qos;
            if takes && !link.client().can_publish(qos) {
                link.wait_for_room(qos);
                return Ok(None);
            }
            let now = link.now();
            let payload = match self.feed.next(now)? {
                Next::Payload(payload) => payload,
                Next::Later(at) => return Ok(at),
                Next::End => {
                    self.exhausted = true;
                    return Ok(None);
                }
            };
            let len = payload.len();
            let message = Rc::new(ApplicationMessage::new(
                self.topic,
                payload,
                qos,
                self.options.retain,
                &self.options.client.properties.publish.as_publish(),
                now,
            ));
            match link.with(|client| client.publish(message)) {
                Ok(Some(packet_id)) => {
                    self.under_way.insert(packet_id, len);
                    self.say(|| format!("sent PUBLISH (m{packet_id}, q{qos}, {len} bytes)"));
                }
                Ok(None) => {
                    self.say(|| format!("sent PUBLISH (q0, {len} bytes)"));
                    self.feed.delivered(now);
                }
                Err(refusal) => return Err(not_taken(refusal)),
            }
        }
    }

    fn settled(&mut self, now: Instant, packet_id: PacketId, reason: ReasonCode) {
        self.under_way.remove(&packet_id);
        self.feed.delivered(now);
        self.say(|| format!("acknowledged (m{packet_id}, {reason})"));
        if reason.is_error() {
            self.refused.get_or_insert(reason);
            if !self.options.client.quiet {
                output::complain(&format!("fieldgate pub: not published: {reason}"));
            }
        }
    }

    /// mosquitto_pub warns of a message that was not taken, and goes on; whoever looks at the code
    /// should know too.
    fn ended(&self) -> Result<u8, Failure> {
        match self.refused {
            Some(_) => Err(Failure::silent(code::FAILED)),
            None => Ok(code::DONE),
        }
    }

    fn say(&self, text: impl FnOnce() -> String) {
        if self.options.client.debug {
            output::complain(&text());
        }
    }
}

fn not_taken(refusal: Refusal) -> Failure {
    Failure::failed("not published").because(refusal)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Box<Options>, Failure> {
        match Options::parse(Parser::from_args(arguments), Globals::default())? {
            Parsed::Options(options) => Ok(options),
            Parsed::Ended(_) => panic!("ended"),
        }
    }

    #[test]
    fn exactly_one_message_source_and_one_topic() {
        for arguments in [
            &["-t", "a"][..],
            &["-m", "x"],
            &["-t", "a", "-m", "x", "-n"],
            &["-t", "a", "-t", "b", "-m", "x"],
            &["-t", "a", "-l", "--repeat", "2"],
            &["-t", "a", "-m", "x", "--repeat", "0"],
            &["-t", "a", "-m", "x", "--repeat-delay", "-1"],
            &["-t", "a", "-m", "x", "y"],
            &["-t", "a", "-m", "x", "-v"],
        ] {
            assert_eq!(parse(arguments).unwrap_err().code(), 2, "{arguments:?}");
        }
        let options =
            parse(&["-t", "a", "-m", "-5", "-r", "-q1", "--repeat-delay", "0.5"]).unwrap();
        assert_eq!(options.source, Source::Text(b"-5".to_vec()));
        assert!(options.retain);
        assert_eq!(options.repeat_delay, Duration::from_millis(500));
    }
}
