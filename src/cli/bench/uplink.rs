//! The way from a bridge to its upstream broker, which can be cut: a relay of one port in threads
//! of its own.
//!
//! The brokers at both ends stay what they are, as they do when a router fails: nobody restarts, no
//! session upstream is lost, and who subscribed there is there when the first message comes.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

/// Bytes moved at once.
const PIECE: usize = 64 * 1024;

/// A relay from a port of its own to a broker.
pub(super) struct Uplink {
    pub(super) address: SocketAddr,
    upstream: SocketAddr,
    /// `None`: it is cut.
    open: Option<Open>,
}

struct Open {
    is_over: Arc<AtomicBool>,
    /// Both ends of every connection.
    streams: Streams,
    thread: JoinHandle<()>,
}

type Streams = Arc<Mutex<Vec<TcpStream>>>;

impl Uplink {
    /// Open from the beginning.
    pub(super) fn new(address: SocketAddr, upstream: SocketAddr) -> io::Result<Self> {
        let mut uplink = Self {
            address,
            upstream,
            open: None,
        };
        uplink.restore()?;
        Ok(uplink)
    }

    /// Takes connections.
    pub(super) fn restore(&mut self) -> io::Result<()> {
        let listener = TcpListener::bind(self.address)?;
        let (is_over, streams) = (Arc::new(AtomicBool::new(false)), Streams::default());
        let (upstream, over, all) = (self.upstream, Arc::clone(&is_over), Arc::clone(&streams));
        let thread = thread::spawn(move || {
            for stream in listener.incoming() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                // A connection that is not made the bridge tries again.
                let _ = stream.and_then(|stream| join(stream, upstream, &all));
            }
        });
        self.open = Some(Open {
            is_over,
            streams,
            thread,
        });
        Ok(())
    }

    /// Ends every connection, and takes none: when this returns, nothing goes through.
    pub(super) fn cut(&mut self) {
        let Some(open) = self.open.take() else {
            return;
        };
        open.is_over.store(true, Ordering::SeqCst);
        // It waits for a connection, and this is one.
        let _ = TcpStream::connect(self.address);
        let _ = open.thread.join();
        let streams = open.streams.lock().unwrap_or_else(PoisonError::into_inner);
        for stream in &*streams {
            // One that its peer has ended is not there to be ended.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Uplink {
    fn drop(&mut self) {
        self.cut();
    }
}

/// Connects one end with the other.
fn join(down: TcpStream, upstream: SocketAddr, all: &Streams) -> io::Result<()> {
    let up = TcpStream::connect(upstream)?;
    for stream in [&down, &up] {
        stream.set_nodelay(true)?;
    }
    let (from_down, from_up) = (down.try_clone()?, up.try_clone()?);
    all.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .extend([down.try_clone()?, up.try_clone()?]);
    thread::spawn(move || carry(from_down, up));
    thread::spawn(move || carry(from_up, down));
    Ok(())
}

/// Moves bytes until either end is over, and ends both.
fn carry(mut from: TcpStream, mut to: TcpStream) {
    let mut bytes = vec![0; PIECE];
    while let Ok(count) = from.read(&mut bytes)
        && count > 0
        && to.write_all(&bytes[..count]).is_ok()
    {}
    for stream in [from, to] {
        let _ = stream.shutdown(Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use super::super::broker::free_port;
    use super::*;

    #[test]
    fn nothing_goes_through_while_it_is_cut() {
        let far = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let mut uplink = Uplink::new(free_port().unwrap(), far.local_addr().unwrap()).unwrap();
        for _ in 0..2 {
            let mut near = TcpStream::connect(uplink.address).unwrap();
            near.write_all(b"up").unwrap();
            let (mut other, _) = far.accept().unwrap();
            let mut got = [0; 2];
            other.read_exact(&mut got).unwrap();
            other.write_all(&got).unwrap();
            near.read_exact(&mut got).unwrap();
            assert_eq!(&got, b"up");

            uplink.cut();
            assert_eq!(near.read(&mut got).unwrap_or(0), 0, "it has ended");
            assert_eq!(
                other.read(&mut got).unwrap_or(0),
                0,
                "and so has the other end"
            );
            assert!(TcpStream::connect(uplink.address).is_err());
            uplink.restore().unwrap();
        }
    }
}
