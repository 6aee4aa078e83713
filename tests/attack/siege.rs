//! An attack, and two clients beside it who do nothing wrong.

use std::ops::{Deref, DerefMut};

use fieldgate::id::ConnId;

use crate::house::*;

/// A house under attack.
pub struct Siege<'a> {
    house: &'a mut House,
    publisher: ConnId,
    subscriber: ConnId,
    memory: usize,
    sent: u32,
}

impl<'a> Siege<'a> {
    pub fn of(house: &'a mut House) -> Self {
        let subscriber = house.client(V5, "good-subscriber");
        house.subscribe(subscriber, "good/#", Q1);
        let publisher = house.client(V4, "good-publisher");
        let mut siege = Self {
            memory: 0,
            house,
            publisher,
            subscriber,
            sent: 0,
        };
        siege.calm();
        siege.pass();
        siege.memory = siege.house.memory.used();
        siege
    }

    /// The two notice nothing.
    pub fn calm(&mut self) {
        self.sent += 1;
        let text = format!("message {}", self.sent);
        let publisher = self.publisher;
        self.house.publish(publisher, Q1, "good/topic", &text);
        assert_eq!(self.house.read(publisher), "PUBACK 1");
        let got = self.house.read(self.subscriber);
        let number = self.sent as u16;
        assert_eq!(got, format!("PUBLISH good/topic q1 #{number} {text:?}"));
        self.house.puback(self.subscriber, number);
        assert_eq!(self.house.read(self.subscriber), "");
    }

    /// Memory that the attackers hold.
    pub fn held(&self) -> usize {
        self.house.memory.used().saturating_sub(self.memory)
    }

    /// So much time that every address but one is forgotten.
    fn pass(&mut self) {
        self.house.seconds(10_000);
        let last = self.house.open_from("203.0.113.1");
        self.house.drop_conn(last);
    }

    /// The attackers are gone, and so is what they held.
    pub fn lifted(&mut self) {
        self.calm();
        self.pass();
        assert_eq!(self.held(), 0, "bytes are left of the attackers");
        assert_eq!(self.house.stat("connected"), 2);
    }
}

impl Deref for Siege<'_> {
    type Target = House;

    fn deref(&self) -> &House {
        self.house
    }
}

impl DerefMut for Siege<'_> {
    fn deref_mut(&mut self) -> &mut House {
        self.house
    }
}
