//! `bench relay`: moves publications from socket to socket and does nothing else.
//!
//! What it costs is what the kernel costs: no broker that reads and writes the same sockets can
//! cost less, so it is the floor under a figure of the comparison. It answers the first packets of
//! an MQTT 3.1.1 client, and after that looks at no byte: what comes from any connection goes to
//! the one that subscribed last, with one write a turn. That is enough for a fan-in at QoS 0.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use crate::cli::Failure;
use crate::host::swarm::Swarm;
use crate::mqtt::frame::{self, Frame, PACKET_SIZE_MAX};
use crate::mqtt::{Packet, PacketType, ProtocolVersion};

/// Nothing more is to be said by a client that says this.
const DISCONNECT: [u8; 2] = [0xE0, 0];

/// Until it is killed.
pub(super) fn run(port: u16) -> Result<u8, Failure> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let failed = |error: io::Error| Failure::failed("the relay has stopped").because(error);
    let mut swarm = Swarm::new().map_err(failed)?;
    swarm.listen(address).map_err(failed)?;
    let mut relay = Relay::default();
    loop {
        let arrived =
            |index, bytes: &[u8], answers: &mut Vec<u8>| relay.take_in(index, bytes, answers);
        swarm.turn(None, arrived, |_| {}).map_err(failed)?;
        if let Some(taker) = relay.taker
            && !relay.moved.is_empty()
        {
            swarm.write(taker, &relay.moved).map_err(failed)?;
        }
        relay.moved.clear();
    }
}

#[derive(Debug, Default)]
struct Relay {
    /// By number of the connection: it has been welcomed.
    is_welcome: Vec<bool>,
    /// Who subscribed last.
    taker: Option<usize>,
    /// What came in this turn.
    moved: Vec<u8>,
}

impl Relay {
    /// Answers a client's first packets and keeps the rest to be moved; how many bytes it used.
    fn take_in(&mut self, index: usize, bytes: &[u8], answers: &mut Vec<u8>) -> usize {
        if index >= self.is_welcome.len() {
            self.is_welcome.resize(index + 1, false);
        }
        let mut used = 0;
        while !self.is_welcome[index] || self.taker == Some(index) || is_subscribe(&bytes[used..]) {
            let Ok(Frame::Complete { total_len, .. }) =
                frame::peek(&bytes[used..], PACKET_SIZE_MAX)
            else {
                return used;
            };
            self.answer(index, &bytes[used..used + total_len], answers);
            used += total_len;
        }
        if bytes[used..] != DISCONNECT {
            self.moved.extend_from_slice(&bytes[used..]);
        }
        bytes.len()
    }

    fn answer(&mut self, index: usize, packet: &[u8], answers: &mut Vec<u8>) {
        match Packet::parse(ProtocolVersion::V4, packet) {
            Ok(Packet::Connect(_)) => {
                self.is_welcome[index] = true;
                answers.extend_from_slice(&[0x20, 2, 0, 0]);
            }
            Ok(Packet::Subscribe(subscribe)) => {
                self.taker = Some(index);
                let [high, low] = subscribe.packet_id.value().to_be_bytes();
                answers.extend_from_slice(&[0x90, 3, high, low, 0]);
            }
            // The taker's own goodbye, or what a fan-in does not have.
            _ => {}
        }
    }
}

fn is_subscribe(bytes: &[u8]) -> bool {
    let first = bytes.first().copied();
    first.and_then(PacketType::from_first_byte) == Some(PacketType::Subscribe)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONNECT: &[u8] = b"\x10\x0d\0\x04MQTT\x04\x02\0\0\0\x01a";
    const SUBSCRIBE: &[u8] = b"\x82\x06\0\x09\0\x01#\0";
    const PUBLISH: &[u8] = b"\x30\x05\0\x01tab";

    #[test]
    fn what_comes_from_one_goes_to_the_other_as_it_is() {
        let mut relay = Relay::default();
        let mut answers = Vec::new();
        let greeting = [CONNECT, SUBSCRIBE].concat();
        assert_eq!(relay.take_in(0, &greeting[..5], &mut answers), 0);
        assert_eq!(relay.take_in(0, &greeting, &mut answers), greeting.len());
        assert_eq!(answers, b"\x20\x02\0\0\x90\x03\0\x09\0");
        assert_eq!(relay.taker, Some(0));

        answers.clear();
        let busy = [CONNECT, PUBLISH, &PUBLISH[..3]].concat();
        assert_eq!(relay.take_in(1, &busy, &mut answers), busy.len());
        assert_eq!(answers, b"\x20\x02\0\0");
        assert_eq!(relay.take_in(1, &PUBLISH[3..], &mut answers), 4);
        assert_eq!(relay.moved, [PUBLISH, PUBLISH].concat());
        relay.take_in(1, &DISCONNECT, &mut answers);
        assert_eq!(relay.moved.len(), 2 * PUBLISH.len());
    }
}
