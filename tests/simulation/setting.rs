//! How a run with power cuts is to be: what a seed draws, and what can be made less of it, so that
//! a failure is easier to look at.

use std::fmt;

use fieldgate::rng::Rng;

/// What of a [`Setting`] can be less.
const PARTS: usize = 9;

/// How a run is to be: a seed, and how much of what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    pub seed: u64,
    /// Each publisher's messages.
    pub messages: u32,
    /// Turns after which there is peace, whatever is acknowledged.
    pub trouble: u32,
    /// How often connections are cut and the power goes, in 1000 turns.
    pub cuts: u32,
    pub crashes: u32,
    /// KiB of the journal.
    pub size: u32,
    /// Whether the disk fails, fills and is slow.
    pub disk: u32,
    /// Whether subscribers stop reading for a while.
    pub idle: u32,
    /// Whether there are the clients of `guests.rs`.
    pub guests: u32,
    /// Whether a bit rots in the end.
    pub rot: u32,
}

impl Setting {
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::from_seed(seed ^ 0x5e77_1465);
        let mut one_of = |choices: [u32; 4]| *rng.choose(&choices).expect("some");
        Self {
            seed,
            messages: 40,
            trouble: one_of([1_000, 1_500, 2_000, 3_000]),
            cuts: one_of([5, 10, 20, 40]),
            crashes: one_of([3, 6, 12, 24]),
            size: one_of([384, 512, 768, 8192]),
            disk: 1,
            idle: 1,
            guests: 1,
            rot: 1,
        }
    }

    /// The names and values that can be given behind a seed.
    fn parts(&mut self) -> [(&'static str, &mut u32); PARTS] {
        [
            ("messages", &mut self.messages),
            ("trouble", &mut self.trouble),
            ("cuts", &mut self.cuts),
            ("crashes", &mut self.crashes),
            ("size", &mut self.size),
            ("disk", &mut self.disk),
            ("idle", &mut self.idle),
            ("guests", &mut self.guests),
            ("rot", &mut self.rot),
        ]
    }

    /// As it is written: `4711` or `4711,messages=3,cuts=0`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(',');
        let mut setting = Self::new(words.next()?.parse().ok()?);
        for word in words {
            let (name, value) = word.split_once('=')?;
            let mut parts = setting.parts();
            *parts.iter_mut().find(|(of, _)| *of == name)?.1 = value.parse().ok()?;
        }
        Some(setting)
    }

    /// Settings with less in them, the least first.
    pub fn smaller(self) -> Vec<Self> {
        let mut found = Vec::new();
        for index in 0..PARTS {
            let (name, value) = {
                let mut copy = self;
                let (name, value) = &copy.parts()[index];
                (*name, **value)
            };
            let least = match name {
                "messages" => 1,
                "size" => 256,
                _ => 0,
            };
            let mut steps: Vec<u32> = [least, value / 4, value / 2, value - value / 4]
                .into_iter()
                .chain(value.checked_sub(1))
                .filter(|less| (least..value).contains(less))
                .collect();
            steps.dedup();
            for less in steps {
                let mut setting = self;
                *setting.parts()[index].1 = less;
                found.push(setting);
            }
        }
        found
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.seed)?;
        let (mut own, mut usual) = (*self, Self::new(self.seed));
        for ((name, value), (_, usual)) in own.parts().into_iter().zip(usual.parts()) {
            if value != usual {
                write!(f, ",{name}={value}")?;
            }
        }
        Ok(())
    }
}
