//! The demo's live view: an MQTT client of the demo's own broker, on a thread of its own.
//!
//! On a terminal it is a table that is drawn over itself, elsewhere a line for each message. It
//! knows nothing but what the broker sends: what it shows is what any subscriber gets.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;

use crate::host::dial::{Address, Dialer, Happening, LinkId, Wake};
use crate::host::plant::{spawn_without_signals, stop_this_process};
use crate::mqtt::client::{Client, ConnectOptions, Event, ReceivedMessage};
use crate::mqtt::{QoS, SubscriptionOptions, SubscriptionRequest, TopicFilter};
use crate::time::{Duration, Instant};

use super::client::random_id;
use super::{Failure, output};

/// The table is drawn at most this often.
const REDRAW: Duration = Duration::from_millis(250);

/// Ages are told in seconds.
const TICK: Duration = Duration::from_secs(1);

/// Between two attempts while the gateway starts.
const RECONNECT: Duration = Duration::from_millis(100);

/// Results that are shown below the points.
const RESULTS: usize = 3;

/// Points that are shown at most: more than the demo has.
const POINTS_MAX: usize = 64;

/// The running view. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Table {
    stop: Arc<AtomicBool>,
    wake: Wake,
    thread: Option<JoinHandle<()>>,
}

impl Table {
    /// Starts to look at the broker as soon as it is there.
    pub(crate) fn start(broker: SocketAddr, is_terminal: bool) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let asked_to_stop = Arc::clone(&stop);
        // A client is not to be moved between threads, so it is made on its own.
        let (ready, made) = sync_channel(1);
        let thread = spawn_without_signals("view", move || {
            let mut viewer = match Viewer::new(broker, is_terminal, asked_to_stop) {
                Ok(viewer) => viewer,
                Err(error) => {
                    let _ = ready.send(Err(error));
                    return;
                }
            };
            if ready.send(Ok(viewer.dialer.wake_handle())).is_ok() && viewer.run().is_err() {
                // Nobody reads any more, as behind `| head`: the demo has no purpose then.
                stop_this_process();
            }
        })?;
        let wake = made.recv().map_err(io::Error::other)??;
        Ok(Self {
            stop,
            wake,
            thread: Some(thread),
        })
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if self.wake.wake().is_ok()
            && let Some(thread) = self.thread.take()
        {
            // It cannot fail but by a panic, which has been printed.
            let _ = thread.join();
        }
    }
}

struct Viewer {
    dialer: Dialer,
    link: LinkId,
    broker: Address,
    stop: Arc<AtomicBool>,
    is_terminal: bool,
    view: View,
    /// Lines that the last drawing has left on the terminal.
    drawn: usize,
}

impl Viewer {
    fn new(broker: SocketAddr, is_terminal: bool, stop: Arc<AtomicBool>) -> io::Result<Self> {
        let mut dialer = Dialer::new()?;
        let options = ConnectOptions {
            client_id: random_id("demo"),
            ..ConnectOptions::default()
        };
        let client = Client::new(options).map_err(io::Error::other)?;
        let link = dialer.add(client);
        Ok(Self {
            dialer,
            link,
            broker: Address::Tcp(broker),
            stop,
            is_terminal,
            view: View::default(),
            drawn: 0,
        })
    }

    fn run(&mut self) -> Result<(), Failure> {
        let mut redial_at = Some(self.dialer.now());
        let mut draw_at = None;
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            let until = [redial_at, draw_at].into_iter().flatten().min();
            self.dialer
                .turn(until)
                .map_err(|error| Failure::failed("cannot wait").because(error))?;
            let now = self.dialer.now();
            while let Some(happening) = self.dialer.poll_happening() {
                match happening {
                    Happening::Client(_, Event::Connected { .. }) => self.subscribe(),
                    Happening::Client(_, Event::Message(received)) => {
                        self.received(&received, now)?;
                        let soon = now + REDRAW;
                        draw_at = Some(draw_at.map_or(soon, |at: Instant| at.min(soon)));
                    }
                    Happening::Unreachable(..) | Happening::Down(_) => {
                        redial_at = Some(now + RECONNECT);
                    }
                    _ => {}
                }
            }
            if redial_at.is_some_and(|at| at <= now) {
                redial_at = None;
                if self.dialer.dial(self.link, &self.broker).is_err() {
                    redial_at = Some(now + RECONNECT);
                }
            }
            if self.is_terminal && draw_at.is_some_and(|at| at <= now) {
                self.draw(now)?;
                draw_at = Some(now + TICK);
            }
        }
    }

    fn subscribe(&mut self) {
        let request = SubscriptionRequest {
            filter: TopicFilter::new("demo/#").expect("a filter"),
            options: SubscriptionOptions::new(QoS::AtMostOnce),
        };
        // A connection that has just come up has room for one request.
        let _ = self
            .dialer
            .with(self.link, |client| client.subscribe(&[request], None));
    }

    fn received(&mut self, received: &ReceivedMessage, now: Instant) -> Result<(), Failure> {
        let payload = String::from_utf8_lossy(received.message.payload());
        if self.is_terminal {
            let properties = received.message.properties();
            let unit = properties.user_properties.find("unit").unwrap_or_default();
            self.view
                .take(received.message.topic(), &payload, unit, now);
            return Ok(());
        }
        output::print(&format!("{} {payload}\n", received.message.topic())).map(drop)
    }

    fn draw(&mut self, now: Instant) -> Result<(), Failure> {
        let text = self.view.draw(now, output::color_on_stdout());
        // A line that is too wide is cut, not wrapped: the count of lines must be right.
        let mut frame = String::from("\x1b[?7l");
        if self.drawn > 0 {
            // Up to where the last one began, and away with it.
            write!(frame, "\x1b[{}A\x1b[J", self.drawn).expect("a string takes everything");
        }
        frame.push_str(&text);
        frame.push_str("\x1b[?7h");
        self.drawn = text.lines().count();
        output::print(&frame).map(drop)
    }
}

/// What is known from the messages that have come.
#[derive(Debug, Default)]
struct View {
    /// By `DEVICE/POINT`. At most [`POINTS_MAX`]; others are not shown.
    points: BTreeMap<String, Shown>,
    /// The last few, newest last.
    results: Vec<String>,
}

#[derive(Debug, Default)]
struct Shown {
    value: String,
    unit: String,
    quality: String,
    reason: String,
    at: Instant,
}

impl View {
    fn take(&mut self, topic: &str, payload: &str, unit: &str, now: Instant) {
        let levels: Vec<&str> = topic.split('/').collect();
        let (path, what) = match levels[..] {
            // State, availability and health are not points.
            ["demo", "gateway", ..] | ["demo", _] => return,
            ["demo", _, "availability"] => return,
            ["demo", device, point] => (format!("{device}/{point}"), "value"),
            ["demo", device, point, what] => (format!("{device}/{point}"), what),
            _ => return,
        };
        if what == "result" {
            if self.results.len() == RESULTS {
                self.results.remove(0);
            }
            self.results.push(format!("{path}: {payload}"));
            return;
        }
        if self.points.len() == POINTS_MAX && !self.points.contains_key(&path) {
            return;
        }
        if !matches!(what, "value" | "quality" | "reason") {
            return;
        }
        let shown = self.points.entry(path).or_default();
        match what {
            "value" => {
                payload.clone_into(&mut shown.value);
                unit.clone_into(&mut shown.unit);
                shown.at = now;
            }
            "quality" => payload.clone_into(&mut shown.quality),
            _ => payload.clone_into(&mut shown.reason),
        }
    }

    fn draw(&self, now: Instant, color: bool) -> String {
        let head = ["point", "value", "", "age", "quality"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        rows.extend(self.points.iter().map(|(path, shown)| {
            let age = if shown.value.is_empty() {
                String::new()
            } else {
                format!("{} s", now.since(shown.at).as_secs())
            };
            vec![
                path.clone(),
                shown.value.clone(),
                shown.unit.clone(),
                age,
                format!("{} {}", shown.quality, shown.reason)
                    .trim()
                    .to_owned(),
            ]
        }));
        let mut text = output::columns(&rows, "  ");
        if color && let Some((head, rest)) = text.split_once('\n') {
            text = format!("\x1b[1m{head}\x1b[0m\n{rest}");
        }
        for result in &self.results {
            writeln!(text, "  {result}").expect("a string takes everything");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_become_rows() {
        let at = |seconds| Instant::default() + Duration::from_secs(seconds);
        let mut view = View::default();
        view.take("demo/plant/level", "61.3", "%", at(1));
        view.take("demo/plant/level/quality", "good", "", at(1));
        view.take("demo/plant/pump", "false", "", at(2));
        view.take("demo/plant/availability", "online", "", at(2));
        view.take("demo/gateway/state", "online", "", at(2));
        view.take("demo/plant/pump/set", "on", "", at(2));
        view.take("demo/plant/pump/result", "{\"status\":\"ok\"}", "", at(2));
        assert_eq!(
            view.draw(at(4), false),
            "  point        value     age  quality\n\
             \x20 plant/level  61.3   %  3 s  good\n\
             \x20 plant/pump   false     2 s\n\
             \x20 plant/pump: {\"status\":\"ok\"}\n"
        );
        assert!(view.draw(at(4), true).starts_with("\x1b[1m"));
    }

    #[test]
    fn it_does_not_grow_without_end() {
        let mut view = View::default();
        for number in 0..1000 {
            view.take(&format!("demo/d/p{number}"), "1", "", Instant::default());
            view.take("demo/d/p1/result", "x", "", Instant::default());
        }
        assert_eq!(view.points.len(), POINTS_MAX);
        assert_eq!(view.results.len(), RESULTS);
    }
}
