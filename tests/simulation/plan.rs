//! What the world of [`uplink`](super::uplink) is made of: its configuration, drawn from the seed
//! and changed by reloads, and who publishes what in it.

use std::fmt::Write as _;

use fieldgate::mqtt::QoS;
use fieldgate::rng::Rng;

use super::people::{Client, Role, Sender, Taker};
use super::plant::{BASE, Equipment};

/// The rest is said by [`Plan::config`].
const CONFIG: &str = r#"
[gateway]
name = "edge"
time_format = "unix_ms"
data_dir = "/nowhere"
[gateway.defaults]
every = "5s"
[journal]
sync_within = "50ms"
"#;

/// What is published below one name, and how it goes up.
pub struct Area {
    pub name: &'static str,
    /// Below that.
    pub topics: &'static [&'static str],
    /// Of its publisher.
    pub qos: QoS,
    pub retain: bool,
    pub messages: u32,
    /// Of its rule.
    pub rule_qos: u8,
    pub keep: &'static str,
    pub lanes: u8,
}

impl Area {
    /// Towards 3.1.1 its backlog has topics of its own. What is retained would be there too.
    pub fn has_backlog_topic(&self) -> bool {
        self.keep == "all" && self.lanes == 2 && !self.retain
    }
}

/// Below this name of an area a rule takes nothing.
pub const PRIVATE: &str = "private";

/// Its publisher publishes when it is told to.
pub const BEAT: &str = "beat";

/// Below this name of an area the upstream broker takes nothing.
pub const BAD: &str = "bad";

pub const AREAS: [Area; 8] = [
    Area {
        name: "often",
        topics: &["a", "b", "private/x", "c", "bad/x"],
        qos: QoS::AtLeastOnce,
        retain: false,
        messages: 500,
        rule_qos: 1,
        keep: "all",
        lanes: 2,
    },
    Area {
        name: "once",
        topics: &["a", "b"],
        qos: QoS::ExactlyOnce,
        retain: false,
        messages: 200,
        rule_qos: 2,
        keep: "all",
        lanes: 2,
    },
    Area {
        name: "strict",
        topics: &["a", "b"],
        qos: QoS::ExactlyOnce,
        retain: false,
        messages: 150,
        rule_qos: 1,
        keep: "all",
        lanes: 1,
    },
    Area {
        name: "last",
        topics: &["a", "b"],
        qos: QoS::AtLeastOnce,
        retain: false,
        messages: 150,
        rule_qos: 1,
        keep: "latest",
        lanes: 2,
    },
    // As readings are: nobody waits for them.
    Area {
        name: "read",
        topics: &["a", "b", "c"],
        qos: QoS::AtMostOnce,
        retain: false,
        messages: 400,
        rule_qos: 1,
        keep: "all",
        lanes: 2,
    },
    Area {
        name: "kept",
        topics: &["a", "b", "c"],
        qos: QoS::AtLeastOnce,
        retain: true,
        messages: 200,
        rule_qos: 1,
        keep: "all",
        lanes: 2,
    },
    Area {
        name: "loose",
        topics: &["a"],
        qos: QoS::AtMostOnce,
        retain: false,
        messages: 100,
        rule_qos: 0,
        keep: "none",
        lanes: 2,
    },
    // What is to overtake a backlog, as soon as there is one.
    Area {
        name: BEAT,
        topics: &["a"],
        qos: QoS::AtLeastOnce,
        retain: false,
        messages: 0,
        rule_qos: 1,
        keep: "all",
        lanes: 2,
    },
];

/// A bridge as it is configured.
pub struct Line {
    pub name: &'static str,
    /// Of MQTT, as the configuration says.
    pub version: &'static str,
    pub queue: &'static str,
    pub replay_rate: &'static str,
    pub failback: &'static str,
    pub inflight_maximum: u32,
    /// The hosts' names end so.
    pub domain: u32,
    /// It is in the configuration.
    pub is_there: bool,
    /// By so many its rules are turned.
    turned: usize,
    /// It has a rule more.
    has_extra: bool,
}

pub struct Plan {
    size: &'static str,
    segment: &'static str,
    pub lines: Vec<Line>,
    /// Of the plant, if there is one.
    pub equipment: Option<Equipment>,
}

impl Plan {
    pub fn draw(rng: &mut Rng, equipment: Option<Equipment>) -> Self {
        let sizes = [("4MiB", "256KiB"), ("1MiB", "64KiB"), ("16MiB", "1MiB")];
        let (size, segment) = pick(rng, &sizes);
        let mut lines = vec![Line::draw(rng, "cloud")];
        if rng.chance(1, 3) {
            lines.push(Line::draw(rng, "spare"));
        }
        Self {
            size,
            segment,
            lines,
            equipment,
        }
    }

    pub fn config(&self) -> String {
        let (size, segment) = (self.size, self.segment);
        let mut text = format!("{CONFIG}size = \"{size}\"\nsegment = \"{segment}\"\n");
        text.push_str(
            "[broker]\nconnect_rate = \"unlimited\"\n\
             queue = { messages = 10000, bytes = \"16MiB\", when_full = \"refuse\" }\n",
        );
        for line in self.lines.iter().filter(|line| line.is_there) {
            line.write(&mut text);
            if self.equipment.is_some() {
                let name = line.name;
                let wrote = writeln!(
                    text,
                    "[[bridge.{name}.send]]\nfilter = \"{BASE}/+/+\"\nto = \"up/{BASE}/+/+\""
                );
                wrote.expect("a text takes everything");
            }
        }
        if let Some(equipment) = &self.equipment {
            equipment.write(&mut text);
        }
        text
    }
}

impl Line {
    fn draw(rng: &mut Rng, name: &'static str) -> Self {
        let few = "{ messages = 300, when_full = \"drop_oldest\" }";
        let fewer = "{ messages = 350, when_full = \"drop_newest\" }";
        Self {
            name,
            version: pick(rng, &["5", "auto", "3.1.1"]),
            queue: pick(rng, &["{}", "{}", "{}", few, fewer]),
            replay_rate: pick(rng, &["unlimited", "400/s", "2000/s"]),
            failback: pick(rng, &["off", "10s"]),
            inflight_maximum: pick(rng, &[1, 5, 20, 100]),
            domain: 0,
            is_there: true,
            turned: 0,
            has_extra: false,
        }
    }

    pub fn is_v5(&self) -> bool {
        self.version != "3.1.1"
    }

    /// A backlog of some hundred takes longer than what is live may wait, and no limit drops that.
    pub fn is_slow(&self) -> bool {
        self.queue == "{}" && (self.replay_rate == "400/s" || self.inflight_maximum == 1)
    }

    /// Other settings, as somebody may want them.
    pub fn change(&mut self, rng: &mut Rng) {
        match rng.below(4) {
            0 => self.domain += 1,
            1 => self.has_extra = !self.has_extra,
            2 => self.replay_rate = pick(rng, &["unlimited", "400/s", "2000/s"]),
            _ => self.turned += 1,
        }
    }

    fn write(&self, text: &mut String) {
        let Self {
            name,
            version,
            queue,
            replay_rate,
            failback,
            inflight_maximum,
            domain,
            ..
        } = self;
        let wrote = write!(
            text,
            r#"
[bridge.{name}]
urls = ["mqtt://one.{name}-{domain}.example", "mqtt://two.{name}-{domain}.example"]
client_id = "edge-{name}"
version = "{version}"
reconnect = {{ min = "1s", max = "3s" }}
stalled_after = "2s"
failback = "{failback}"
state_topic = ""
queue = {queue}
replay_rate = "{replay_rate}"
inflight_maximum = {inflight_maximum}
[[bridge.{name}.receive]]
filter = "down/{name}/#"
qos = 2
"#
        );
        wrote.expect("a text takes everything");
        if self.has_extra {
            let wrote = write!(
                text,
                "[[bridge.{name}.send]]\nfilter = \"extra/#\"\nkeep = \"none\"\n"
            );
            wrote.expect("a text takes everything");
        }
        for at in 0..AREAS.len() {
            let area = &AREAS[(at + self.turned) % AREAS.len()];
            let Area {
                name: below,
                rule_qos,
                keep,
                lanes,
                ..
            } = area;
            let wrote = write!(
                text,
                r#"
[[bridge.{name}.send]]
filter = "{below}/#"
to = "up/{below}/#"
except = ["{below}/{PRIVATE}/#"]
qos = {rule_qos}
keep = "{keep}"
lanes = {lanes}
"#
            );
            wrote.expect("a text takes everything");
            if !self.is_v5() && area.has_backlog_topic() {
                let wrote = writeln!(text, "backlog_to = \"old/{below}/#\"");
                wrote.expect("a text takes everything");
            }
        }
    }
}

/// Who publishes, by area, and at last who listens to what comes down.
pub fn people(rng: &mut Rng) -> Vec<Client> {
    let retains_readings = rng.chance(1, 2);
    let mut clients: Vec<Client> = AREAS
        .iter()
        .map(|area| {
            let topics: Vec<String> = area
                .topics
                .iter()
                .map(|topic| format!("{}/{topic}", area.name))
                .collect();
            let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
            let mut sender = Sender::new(&topics, area.qos, area.messages);
            sender.retain = area.retain || area.name == "read" && retains_readings;
            sender.lens = [4, 30, 90, 700];
            Client::new(rng, format!("p-{}", area.name), Role::Sender(sender))
        })
        .collect();
    let taker = Taker {
        filter: "down/#",
        ..Taker::default()
    };
    clients.push(Client::new(rng, "s".to_owned(), Role::Taker(taker)));
    clients
}

pub fn pick<T: Copy>(rng: &mut Rng, from: &[T]) -> T {
    *rng.choose(from).expect("there are some")
}
