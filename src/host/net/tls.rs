//! TLS over a socket, as a server and as a client: `rustls`, fed and drained by hand.
//!
//! It is read until the socket has no more: `rustls` takes about 4 KiB a call, and may have
//! decrypted bytes left when the socket has none. It is given at most a record's worth when
//! everything it made of the last one is out, so that what waits encrypted stays small; that is
//! charged to the memory account, and so is what every session holds by itself.

use std::io::{self, BufRead, IoSlice, Read, Write};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{
    CertificateError, ClientConfig, ClientConnection, Connection, Error, ServerConfig,
    ServerConnection,
};

use super::certificate::name_of;
use super::{Got, Layer, Offence, Shaken, Stream, Trouble, Wire};
use crate::buffer::{CHUNK_SIZE, Charge, Memory};
use crate::gateway::settings::CertificateName;

/// The most that is encrypted at once: one record.
pub(super) const RECORD_MAX: usize = CHUNK_SIZE;

/// What a session holds besides itself, in bytes: keys, the verified certificate, and the buffer in
/// which records come together. Measured as resident memory of 400 idle clients: one over TLS 1.2
/// or 1.3 has 7.4 KB more than a plain one, with a certificate of its own 8.3 KB.
pub const SESSION_BYTES: usize = 7 * 1024;

/// What a record that is not written out holds beyond its contents.
const RECORD_OVERHEAD: usize = 64;

/// Steps of a handshake in one turn. Each reads up to 4 KiB.
const STEPS_PER_TURN: usize = 8;

/// A session and its socket.
#[derive(Debug)]
pub(in crate::host) struct Tls {
    stream: Stream,
    session: Connection,
    /// What of the client's certificate is its name, where we are the server.
    identity: Option<CertificateName>,
    charge: Charge,
}

impl Tls {
    /// Over a socket on which nothing has been read.
    pub(in crate::host) fn new(
        stream: Stream,
        config: Arc<ServerConfig>,
        identity: Option<CertificateName>,
        memory: &Memory,
    ) -> Result<Self, Error> {
        let session = ServerConnection::new(config)?.into();
        Ok(Self::over(stream, session, identity, memory))
    }

    /// Over a socket to the server of this name, on which nothing has been written.
    pub(in crate::host) fn to(
        stream: Stream,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        memory: &Memory,
    ) -> Result<Self, Error> {
        let session = ClientConnection::new(config, name)?.into();
        Ok(Self::over(stream, session, None, memory))
    }

    fn over(
        stream: Stream,
        session: Connection,
        identity: Option<CertificateName>,
        memory: &Memory,
    ) -> Self {
        Self {
            stream,
            session,
            identity,
            charge: memory.charge(size_of::<Self>() + SESSION_BYTES),
        }
    }

    /// What was agreed to be spoken inside.
    pub(super) fn protocol(&self) -> Option<&[u8]> {
        self.session.alpn_protocol()
    }

    /// Reads from the socket once. `false`: it has ended.
    fn take_in(&mut self) -> Result<bool, Trouble> {
        let count = loop {
            match self.session.read_tls(&mut self.stream) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        if count == 0 {
            return Ok(false);
        }
        if let Err(error) = self.session.process_new_packets() {
            // The alert says why, if there is anybody to read it.
            let _ = self.flush();
            return Err(offence(match self.session {
                Connection::Client(_) => said_of_server(&error),
                Connection::Server(_) => error.to_string(),
            }));
        }
        // A handshake's answers, a new key: a full socket brings us back.
        self.flush_some()?;
        Ok(true)
    }

    /// Writes what the socket takes.
    fn flush_some(&mut self) -> io::Result<()> {
        match self.flush() {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(()),
        }
    }

    /// Who the client's certificate says it is.
    fn identify(&mut self) -> Result<Option<Box<str>>, Trouble> {
        let Some(which) = self.identity else {
            return Ok(None);
        };
        let Some(certificate) = self.session.peer_certificates().and_then(<[_]>::first) else {
            // It was not required: it logs in as others do.
            return Ok(None);
        };
        match name_of(certificate, which) {
            Ok(name) => Ok(Some(name)),
            Err(error) => Err(offence(error.as_str())),
        }
    }
}

/// What is wrong with a server, in words for who dialled it.
fn said_of_server(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "no authority that is trusted has signed the server's certificate".to_owned()
        }
        Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        ) => "the server's certificate has expired".to_owned(),
        Error::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        ) => "the server's certificate is not valid yet".to_owned(),
        Error::InvalidCertificate(CertificateError::NotValidForName) => {
            "the server's certificate is for another host".to_owned()
        }
        Error::InvalidCertificate(CertificateError::NotValidForNameContext {
            expected,
            presented,
        }) => format!(
            "the server's certificate is for {}, not for {}",
            presented.join(", "),
            expected.to_str()
        ),
        Error::AlertReceived(alert) => format!("the server ends TLS with {alert:?}"),
        Error::InvalidMessage(_) => format!("the server does not speak TLS: {error}"),
        other => other.to_string(),
    }
}

fn offence(what: impl Into<Box<str>>) -> Trouble {
    Trouble::Peer(Offence {
        layer: Layer::Tls,
        what: what.into(),
    })
}

impl Wire for Tls {
    fn shake(&mut self) -> Result<Shaken, Trouble> {
        for _ in 0..STEPS_PER_TURN {
            // A client speaks first.
            self.flush_some()?;
            if !self.session.is_handshaking() {
                return Ok(Shaken::Open(self.identify()?));
            }
            if !self.take_in()? {
                return Ok(Shaken::End);
            }
        }
        Ok(Shaken::More)
    }

    fn peek(&mut self) -> Result<Option<u8>, Trouble> {
        loop {
            match self.session.reader().fill_buf() {
                Ok(bytes) => return Ok(bytes.first().copied()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Ok(None),
            }
            if !self.take_in()? {
                return Ok(None);
            }
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<Got, Trouble> {
        for is_first in [true, false] {
            match self.session.reader().read(buffer) {
                Ok(0) => return Ok(Got::End),
                Ok(count) => return Ok(Got::Bytes(count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // An end without close_notify is an end too: MQTT has a DISCONNECT of its own, and
                // many clients close without one.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Got::End),
                Err(error) => return Err(error.into()),
            }
            if is_first && !self.take_in()? {
                return Ok(Got::End);
            }
        }
        Ok(Got::Bytes(0))
    }

    fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        Wire::flush(self)?;
        let taken = self.session.writer().write_vectored(slices)?;
        self.flush_some()?;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        let outcome = loop {
            if !self.session.wants_write() {
                break Ok(());
            }
            match self.session.write_tls(&mut self.stream) {
                Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        let waiting = if self.session.wants_write() {
            RECORD_MAX + RECORD_OVERHEAD
        } else {
            0
        };
        let held = size_of::<Self>() + SESSION_BYTES + waiting;
        if held != self.charge.bytes() {
            self.charge.set(held);
        }
        outcome
    }

    fn goodbye(&mut self) {
        // It says so once, however often it is asked.
        self.session.send_close_notify();
    }

    fn stream(&mut self) -> &mut Stream {
        &mut self.stream
    }

    fn into_stream(self) -> Stream {
        self.stream
    }
}
