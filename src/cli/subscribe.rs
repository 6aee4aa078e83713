//! `fieldgate sub`: subscribes, and prints what comes until it is told to stop.
//!
//! A connection that is lost is dialled again every second, as mosquitto_sub does; one that never
//! came up ends the verb. The exit codes are mosquitto_sub's: 0 after `-C` messages or a signal, 27
//! when `-W` has passed, CONNACK's code when the broker refuses, else 1.

use std::time::SystemTime;

use lexopt::Parser;

use crate::buffer::Payload;
use crate::mqtt::client::{CloseCause, Event, ReceivedMessage};
use crate::mqtt::message::ApplicationMessage;
use crate::mqtt::{
    PublishProperties, QoS, ReasonCode, SubscriptionOptions, SubscriptionRequest, TopicFilter,
    TopicName,
};
use crate::time::{Duration, Instant, WallTime};

use super::client::{ClientOptions, text};
use super::format::Format;
use super::link::{Happened, Link};
use super::publish::seconds;
use super::{Argument, Failure, Globals, code, help, other_argument, output};

/// Between two attempts to reach a broker that was lost.
const RECONNECT: Duration = Duration::from_secs(1);

pub(crate) fn run(parser: Parser, globals: Globals) -> Result<u8, Failure> {
    match Options::parse(parser, globals)? {
        Parsed::Ended(code) => Ok(code),
        Parsed::Options(options) => {
            let quiet = options.client.quiet;
            Subscriber::start(*options).map_err(|failure| failure.hushed(quiet))
        }
    }
}

#[derive(Debug)]
struct Options {
    client: ClientOptions,
    format: Format,
    /// `-C`
    count: Option<u64>,
    /// `-W`
    wait: Option<Duration>,
    /// `-T`
    except: Vec<String>,
    /// `-U`
    unsubscribe: Vec<String>,
    /// `-R`
    fresh_only: bool,
    retained_only: bool,
    remove_retained: bool,
    retain_as_published: bool,
    /// `-E`
    end_when_subscribed: bool,
}

enum Parsed {
    Ended(u8),
    Options(Box<Options>),
}

impl Options {
    fn parse(mut parser: Parser, mut globals: Globals) -> Result<Parsed, Failure> {
        let mut options = Self {
            client: ClientOptions::default(),
            format: Format::plain(false),
            count: None,
            wait: None,
            except: Vec::new(),
            unsubscribe: Vec::new(),
            fresh_only: false,
            retained_only: false,
            remove_retained: false,
            retain_as_published: false,
            end_when_subscribed: false,
        };
        let (mut verbose, mut bare, mut format) = (false, false, None);
        while let Some(argument) = Argument::next(&mut parser)? {
            if options
                .client
                .take(&argument, &mut parser, &["connect", "will"])?
            {
                continue;
            }
            let name = match &argument {
                Argument::Short(option) => option.to_string(),
                Argument::Long(option) => option.clone(),
                Argument::Value(_) => String::new(),
            };
            match name.as_str() {
                "v" | "verbose" => verbose = true,
                "N" => bare = true,
                "F" => format = Some(Format::parse(&text(&mut parser)?)?),
                "C" => options.count = Some(count(&text(&mut parser)?)?),
                "W" => options.wait = Some(seconds(&text(&mut parser)?)?),
                "T" | "filter-out" => options.except.push(text(&mut parser)?),
                "U" | "unsubscribe" => options.unsubscribe.push(text(&mut parser)?),
                "R" => options.fresh_only = true,
                "E" => options.end_when_subscribed = true,
                "retained-only" => options.retained_only = true,
                "remove-retained" => options.remove_retained = true,
                "retain-as-published" => options.retain_as_published = true,
                _ => {
                    let ended = other_argument(argument, &mut parser, &mut globals, help::SUB)?;
                    if let Some(code) = ended {
                        return Ok(Parsed::Ended(code));
                    }
                }
            }
        }
        options.format = match format {
            Some(format) => format,
            None if globals.json => Format::json(),
            None => Format::plain(verbose),
        };
        if bare {
            options.format = options.format.bare();
        }
        options.check()?;
        Ok(Parsed::Options(Box::new(options)))
    }

    fn check(&self) -> Result<(), Failure> {
        if self.client.topics.is_empty() && self.unsubscribe.is_empty() {
            return Err(Failure::usage("what to receive is said by -t FILTER"));
        }
        let filters = [
            ("-t", &self.client.topics),
            ("-T", &self.except),
            ("-U", &self.unsubscribe),
        ];
        for (option, filters) in filters {
            for filter in filters {
                TopicFilter::new(filter)
                    .map_err(|error| Failure::usage(format!("{option} {filter}")).because(error))?;
            }
        }
        if self.fresh_only && self.retained_only {
            return Err(Failure::usage("-R and --retained-only exclude each other"));
        }
        if self.retain_as_published && !self.client.version().is_v5() {
            return Err(Failure::usage("--retain-as-published needs -V 5"));
        }
        Ok(())
    }
}

fn count(text: &str) -> Result<u64, Failure> {
    let value = text.parse().ok().filter(|count| *count > 0);
    value.ok_or_else(|| Failure::usage(format!("-C takes a number from 1 on, not `{text}`")))
}

/// One run of the verb.
struct Subscriber {
    options: Options,
    printed: u64,
    /// When `-W` has passed; counts from the first CONNACK.
    until: Option<Instant>,
    /// SUBACKs and UNSUBACKs that have not come.
    unanswered: usize,
}

/// What a message or an event means for the whole verb.
enum Then {
    Continue,
    End(u8),
}

impl Subscriber {
    fn start(options: Options) -> Result<u8, Failure> {
        let connect = options.client.connect_options("sub")?;
        let mut link = Link::new(connect, &options.client)?;
        link.dial()?;
        let mut subscriber = Self {
            options,
            printed: 0,
            until: None,
            unanswered: 0,
        };
        subscriber.run(&mut link)
    }

    fn run(&mut self, link: &mut Link) -> Result<u8, Failure> {
        let mut connected_once = false;
        let mut redial_at = None;
        loop {
            let until = [self.until, redial_at].into_iter().flatten().min();
            match link.next(until)? {
                Happened::Client(event) => {
                    if let Event::Connected { .. } = event {
                        connected_once = true;
                    }
                    if let Event::Closed(cause) = &event {
                        self.closed(link, cause, connected_once)?;
                    } else if let Then::End(code) = self.handle(link, event)? {
                        link.say_goodbye()?;
                        return Ok(code);
                    }
                }
                Happened::Unreachable(error) if !connected_once => {
                    return Err(link.unreachable(error));
                }
                Happened::Unreachable(_) | Happened::Down => {
                    redial_at = Some(link.now() + RECONNECT);
                }
                Happened::Timeout => {
                    if self.until.is_some_and(|at| at <= link.now()) {
                        link.say_goodbye()?;
                        return Err(Failure::with_code(code::TIMED_OUT, "timed out"));
                    }
                    redial_at = match link.dial() {
                        Ok(()) => None,
                        // A unix socket that is not back yet says so at once.
                        Err(_) => Some(link.now() + RECONNECT),
                    };
                }
                Happened::Stop => {
                    link.say_goodbye()?;
                    return Ok(code::DONE);
                }
                Happened::Woken | Happened::Room => {}
            }
        }
    }

    fn closed(&self, link: &Link, cause: &CloseCause, connected_once: bool) -> Result<(), Failure> {
        let refused = matches!(cause, CloseCause::Refused(_));
        if !connected_once || refused || !cause.may_retry() {
            return Err(link.failure(cause));
        }
        self.say(|| cause.to_string());
        Ok(())
    }

    fn handle(&mut self, link: &mut Link, event: Event) -> Result<Then, Failure> {
        match event {
            Event::Connected {
                session_present, ..
            } => {
                self.say(|| {
                    let session = if session_present {
                        " to its session"
                    } else {
                        ""
                    };
                    format!("connected to {}{session}", link.place())
                });
                if self.until.is_none() {
                    self.until = self.options.wait.map(|wait| link.now() + wait);
                }
                // Also on a session that was kept: it may be without a filter that is new on the
                // command line.
                self.subscribe(link)?;
                Ok(Then::Continue)
            }
            Event::Message(received) => self.receive(link, &received),
            Event::Subscribed { reasons, .. } => {
                self.unanswered -= 1;
                self.subscribed(&reasons)
            }
            Event::Unsubscribed { .. } => {
                self.unanswered -= 1;
                Ok(self.all_answered())
            }
            Event::Published { .. } | Event::Waits { .. } | Event::Closed(_) => Ok(Then::Continue),
        }
    }

    fn subscribe(&mut self, link: &mut Link) -> Result<(), Failure> {
        let checked = |filter| TopicFilter::new(filter).expect("checked when options were read");
        let options = SubscriptionOptions {
            retain_as_published: self.options.retain_as_published,
            ..SubscriptionOptions::new(self.options.client.qos)
        };
        let topics = self.options.client.topics.iter();
        let requests: Vec<_> = topics
            .map(|filter| SubscriptionRequest {
                filter: checked(filter),
                options,
            })
            .collect();
        let unsubscribe: Vec<_> = self
            .options
            .unsubscribe
            .iter()
            .map(|it| checked(it))
            .collect();
        self.unanswered = 0;
        let refused = |error| Failure::failed("cannot subscribe").because(error);
        if !requests.is_empty() {
            link.with(|client| client.subscribe(&requests, None))
                .map_err(refused)?;
            self.unanswered += 1;
        }
        if !unsubscribe.is_empty() {
            link.with(|client| client.unsubscribe(&unsubscribe))
                .map_err(refused)?;
            self.unanswered += 1;
        }
        Ok(())
    }

    /// mosquitto_sub ends when every filter was refused, and warns of those that were.
    fn subscribed(&self, reasons: &[ReasonCode]) -> Result<Then, Failure> {
        for (filter, reason) in self.options.client.topics.iter().zip(reasons) {
            if reason.is_error() && !self.options.client.quiet {
                output::complain(&format!("fieldgate sub: {filter} was refused: {reason}"));
            } else {
                self.say(|| format!("subscribed {filter} ({reason})"));
            }
        }
        match reasons.iter().find(|reason| reason.is_error()) {
            Some(_) if reasons.iter().all(|reason| reason.is_error()) => {
                Err(Failure::failed("all subscriptions were refused"))
            }
            _ => Ok(self.all_answered()),
        }
    }

    fn all_answered(&self) -> Then {
        if self.unanswered > 0 {
            Then::Continue
        } else if self.options.end_when_subscribed || self.options.client.topics.is_empty() {
            // With -U alone there is nothing to wait for either.
            Then::End(code::DONE)
        } else {
            Then::Continue
        }
    }

    fn receive(&mut self, link: &mut Link, received: &ReceivedMessage) -> Result<Then, Failure> {
        let message = &received.message;
        let matches = |filter: &String| crate::mqtt::topic::matches(filter, message.topic());
        if self.options.retained_only && !message.retain() && !self.options.retain_as_published {
            // The first fresh message says that all retained ones have come.
            return Ok(Then::End(code::DONE));
        }
        if self.options.except.iter().any(matches) {
            return Ok(Then::Continue);
        }
        if self.options.remove_retained && message.retain() {
            self.clear(link, message.topic())?;
        }
        if self.options.fresh_only && message.retain() {
            return Ok(Then::Continue);
        }
        match self.options.format.print(received, link.now(), wall_now()) {
            Ok(bytes) => output::write_bytes(&bytes)?,
            Err(why) => {
                if !self.options.client.quiet {
                    output::complain(&format!("fieldgate sub: {why}"));
                }
                return Ok(Then::Continue);
            }
        }
        self.printed += 1;
        if self.options.count == Some(self.printed) {
            return Ok(Then::End(code::DONE));
        }
        Ok(Then::Continue)
    }

    /// A retained message is removed by an empty one.
    fn clear(&self, link: &mut Link, topic: &str) -> Result<(), Failure> {
        let Ok(topic) = TopicName::new(topic) else {
            return Ok(());
        };
        let nothing = PublishProperties::default();
        let now = link.now();
        let message =
            ApplicationMessage::new(topic, Payload::EMPTY, QoS::AtMostOnce, true, &nothing, now);
        self.say(|| format!("removing {topic}"));
        link.with(|client| client.publish(message.into()))
            .map(drop)
            .map_err(|error| Failure::failed(format!("cannot remove {topic}")).because(error))
    }

    fn say(&self, text: impl FnOnce() -> String) {
        if self.options.client.debug {
            output::complain(&text());
        }
    }
}

fn wall_now() -> WallTime {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let nanos = since.map_or(0, |since| since.as_nanos());
    WallTime::from_unix_nanos(i64::try_from(nanos).unwrap_or(i64::MAX))
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
    fn options_that_make_no_sense_are_wrong_usage() {
        for arguments in [
            &[][..],
            &["-t", "a#"],
            &["-t", "a", "-T", "#/b"],
            &["-t", "a", "-C", "0"],
            &["-t", "a", "-W", "soon"],
            &["-t", "a", "-R", "--retained-only"],
            &["-t", "a", "--retain-as-published"],
            &["-t", "a", "-m", "x"],
            &["-t", "a", "-F", "%k"],
        ] {
            assert_eq!(parse(arguments).unwrap_err().code(), 2, "{arguments:?}");
        }
    }

    #[test]
    fn options_mean_what_mosquitto_sub_means_by_them() {
        let arguments = [
            "-h", "x", "-v", "-t", "a/#", "-T", "a/b", "-C", "3", "-W", "5", "-U", "c", "-N",
        ];
        let options = parse(&arguments).unwrap();
        assert_eq!(options.client.topics, ["a/#"]);
        assert_eq!(options.except, ["a/b"]);
        assert_eq!(options.unsubscribe, ["c"]);
        assert_eq!(options.count, Some(3));
        assert_eq!(options.wait, Some(Duration::from_secs(5)));
        assert_eq!(options.format, Format::plain(true).bare());
    }
}
