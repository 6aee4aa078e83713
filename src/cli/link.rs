//! One connection of `pub` and `sub`, driven to its end: dials every address in turn, waits, says
//! goodbye.

use std::io;

use crate::host::dial::{Address, Dialer, Happening, LinkId, Wake};
use crate::mqtt::client::{Client, CloseCause, ConnectOptions, Event, Farewell};
use crate::mqtt::{ProtocolVersion, QoS, ReasonCode};
use crate::time::{Duration, Instant};

use super::client::ClientOptions;
use super::{Failure, code};

/// How long the other side may take to close after our DISCONNECT.
const GOODBYE: Duration = Duration::from_secs(1);

/// A client and the addresses of its broker.
#[derive(Debug)]
pub(crate) struct Link {
    dialer: Dialer,
    id: LinkId,
    addresses: Vec<Address>,
    /// Of the address that was tried last.
    tried: usize,
    /// Somebody waits until a message of this QoS can be published.
    wants_room: Option<QoS>,
    /// For messages.
    place: String,
    version: ProtocolVersion,
}

/// What [`Link::next`] waits for.
#[derive(Debug)]
pub(crate) enum Happened {
    /// The client says something.
    Client(Event),
    /// None of the addresses answers; the last one's error.
    Unreachable(io::Error),
    /// The transport is closed.
    Down,
    /// There is room for a message, which [`Link::wait_for_room`] asked for.
    Room,
    /// Another thread woke us.
    Woken,
    /// SIGINT or SIGTERM.
    Stop,
    /// The time is up.
    Timeout,
}

impl Link {
    /// Not connected yet. Takes over SIGINT and SIGTERM, so that a goodbye can be said.
    pub(crate) fn new(connect: ConnectOptions, options: &ClientOptions) -> Result<Self, Failure> {
        let addresses = options.addresses()?;
        let layers = options.layers()?;
        let version = connect.version;
        let client = Client::new(connect)
            .map_err(|error| Failure::usage("these options make no CONNECT").because(error))?;
        let failed = |error| Failure::failed("cannot set up a poll").because(error);
        let mut dialer = Dialer::new().map_err(failed)?;
        dialer.catch_signals().map_err(failed)?;
        let id = dialer.add(client);
        dialer.put_over(id, layers);
        Ok(Self {
            dialer,
            id,
            addresses,
            tried: 0,
            wants_room: None,
            place: options.place(),
            version,
        })
    }

    /// Starts to connect, with the first address.
    pub(crate) fn dial(&mut self) -> Result<(), Failure> {
        self.tried = 0;
        self.try_address().map_err(|error| self.unreachable(error))
    }

    /// Tries the current address, and those behind it if it fails at once.
    fn try_address(&mut self) -> io::Result<()> {
        loop {
            match self.dialer.dial(self.id, &self.addresses[self.tried]) {
                Err(_) if self.tried + 1 < self.addresses.len() => self.tried += 1,
                outcome => return outcome,
            }
        }
    }

    /// Waits for the next thing to happen, until `until` at the longest.
    pub(crate) fn next(&mut self, until: Option<Instant>) -> Result<Happened, Failure> {
        loop {
            if self.wants_room.is_some() {
                // What is sent at once makes room without anything happening.
                self.dialer.settle();
            }
            while let Some(happening) = self.dialer.poll_happening() {
                match happening {
                    Happening::Client(_, event) => return Ok(Happened::Client(event)),
                    Happening::Down(_) => return Ok(Happened::Down),
                    Happening::Woken => return Ok(Happened::Woken),
                    Happening::Stop => return Ok(Happened::Stop),
                    Happening::Unreachable(_, error) => {
                        if self.tried + 1 < self.addresses.len() {
                            self.tried += 1;
                            if self.try_address().is_ok() {
                                continue;
                            }
                        }
                        return Ok(Happened::Unreachable(error));
                    }
                }
            }
            if self
                .wants_room
                .is_some_and(|qos| self.client().can_publish(qos))
            {
                self.wants_room = None;
                return Ok(Happened::Room);
            }
            if until.is_some_and(|until| until <= self.dialer.now()) {
                return Ok(Happened::Timeout);
            }
            self.dialer.turn(until).map_err(|error| {
                Failure::failed("cannot wait for the connection").because(error)
            })?;
        }
    }

    /// Asks for [`Happened::Room`] once the client takes a message of this QoS.
    pub(crate) fn wait_for_room(&mut self, qos: QoS) {
        self.wants_room = Some(qos);
    }

    /// Does something with the client.
    pub(crate) fn with<T>(&mut self, act: impl FnOnce(&mut Client) -> T) -> T {
        self.dialer.with(self.id, act)
    }

    /// The client, to look at.
    pub(crate) fn client(&self) -> &Client {
        self.dialer.client(self.id)
    }

    /// `CLOCK_MONOTONIC`.
    pub(crate) fn now(&self) -> Instant {
        self.dialer.now()
    }

    /// For another thread.
    pub(crate) fn wake_handle(&self) -> Wake {
        self.dialer.wake_handle()
    }

    /// DISCONNECT, behind all that is queued, and then the transport's orderly end; a peer that
    /// does not close is left.
    pub(crate) fn say_goodbye(&mut self) -> Result<(), Failure> {
        self.with(|client| client.disconnect(ReasonCode::NORMAL_DISCONNECTION));
        let until = self.now() + GOODBYE;
        loop {
            match self.next(Some(until))? {
                Happened::Down | Happened::Timeout | Happened::Unreachable(_) | Happened::Stop => {
                    return Ok(());
                }
                Happened::Client(_) | Happened::Woken | Happened::Room => {}
            }
        }
    }

    /// What to say when nobody answers.
    pub(crate) fn unreachable(&self, error: io::Error) -> Failure {
        Failure::failed(format!("cannot connect to {}", self.place)).because(error)
    }

    /// What to say about the end of a connection, with mosquitto's exit code: CONNACK's own code
    /// where it refuses.
    pub(crate) fn failure(&self, cause: &CloseCause) -> Failure {
        let code = match cause {
            CloseCause::Refused(farewell) => self.refusal_code(farewell),
            _ => code::FAILED,
        };
        let failure = Failure::with_code(code, format!("{}: {cause}", self.place));
        match self.dialer.trouble(self.id) {
            // With TLS 1.3 the server says after the handshake that it does not like a certificate.
            Some(trouble) if *cause == CloseCause::TransportClosed => {
                failure.because(trouble.to_string())
            }
            _ => failure,
        }
    }

    fn refusal_code(&self, farewell: &Farewell) -> u8 {
        if self.version.is_v5() {
            farewell.reason.code()
        } else {
            farewell
                .reason
                .to_connect_return_code()
                .unwrap_or(code::FAILED)
        }
    }

    /// Where the broker is.
    pub(crate) fn place(&self) -> &str {
        &self.place
    }
}
