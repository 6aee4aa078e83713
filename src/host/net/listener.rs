//! Sockets that accept: TCP and unix.
//!
//! A unix socket that a dead process left behind is replaced; one that somebody listens at is not,
//! nor is any other file. Its mode and group are set before it accepts anybody, and it is unlinked
//! when it closes, if it is still ours.

use std::fs::{self, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use mio::event::Source as EventSource;
use mio::net::{TcpListener, UnixListener, UnixStream};
use mio::{Interest, Registry, Token};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, UnixAddr, bind, getsockopt,
    listen, setsockopt, socket, sockopt,
};
use nix::unistd::{Gid, Group, chown};

use super::Stream;
use crate::gateway::boundary::Peer;
use crate::gateway::settings::{Bind, TransportSettings};

/// Connections that may wait in the kernel to be accepted.
const BACKLOG: i32 = 1024;

/// A socket that accepts.
#[derive(Debug)]
pub(in crate::host) struct Listener {
    socket: Socket,
    /// Held for its end: dropping it unlinks the name.
    _file: Option<SocketFile>,
    /// What is between its sockets and MQTT.
    pub(in crate::host) transport: Rc<TransportSettings>,
    /// There may be somebody to accept.
    pub(in crate::host) readable: bool,
    /// On the loop's ready list.
    pub(in crate::host) is_ready: bool,
    /// No descriptor was left; it is tried again later, and the log has said so.
    pub(in crate::host) is_paused: bool,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A socket's name in the file system. Dropping it unlinks the name, if the file is still the one
/// that we made.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

/// How one accept ended.
#[derive(Debug)]
pub(in crate::host) enum Accepted {
    /// Somebody.
    Peer(Stream, Peer),
    /// Somebody, who was gone again before we looked.
    Gone,
    /// Nobody: the poll will tell.
    Nobody,
    /// No descriptor or no memory is left; somebody waits.
    Exhausted(io::Error),
}

impl Listener {
    /// Opens a socket and puts it in the poll. Returns it with its address as bound.
    pub(in crate::host) fn open(
        address: &Bind,
        transport: Rc<TransportSettings>,
        registry: &Registry,
        token: Token,
    ) -> io::Result<(Self, Box<str>)> {
        let (mut socket, file, bound) = match address {
            Bind::Tcp(address) => {
                let listener = open_tcp(*address)?;
                let bound = listener.local_addr()?.to_string().into();
                (Socket::Tcp(listener), None, bound)
            }
            Bind::Unix { path, mode, group } => {
                let (listener, file) = open_unix(Path::new(&**path), *mode, group.as_deref())?;
                (Socket::Unix(listener), Some(file), path.clone())
            }
        };
        let source: &mut dyn EventSource = match &mut socket {
            Socket::Tcp(listener) => listener,
            Socket::Unix(listener) => listener,
        };
        source.register(registry, token, Interest::READABLE)?;
        let listener = Self {
            socket,
            _file: file,
            transport,
            readable: false,
            is_ready: false,
            is_paused: false,
        };
        Ok((listener, bound))
    }

    /// Accepts somebody, if somebody waits.
    pub(in crate::host) fn accept(&mut self) -> Accepted {
        let accepted = match &self.socket {
            Socket::Tcp(listener) => listener.accept().map(|(stream, address)| {
                // Packets are written whole; waiting for more only delays them.
                let _ = stream.set_nodelay(true);
                (Stream::Tcp(stream), Peer::Tcp(address))
            }),
            Socket::Unix(listener) => listener.accept().and_then(|(stream, _)| {
                let who = getsockopt(&stream, sockopt::PeerCredentials)?;
                let peer = Peer::Unix {
                    uid: who.uid(),
                    pid: who.pid(),
                };
                Ok((Stream::Unix(stream), peer))
            }),
        };
        let error = match accepted {
            Ok((stream, peer)) => return Accepted::Peer(stream, peer),
            Err(error) => error,
        };
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EAGAIN) => {
                self.readable = false;
                Accepted::Nobody
            }
            Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM) => {
                Accepted::Exhausted(error)
            }
            // accept(2): errors of the new connection, and interruptions, concern nobody else.
            _ => Accepted::Gone,
        }
    }
}

fn open_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let family = if address.is_ipv6() {
        AddressFamily::Inet6
    } else {
        AddressFamily::Inet
    };
    let fd = stream_socket(family)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    if address.is_ipv6() {
        // Whoever wants both says so and gets two sockets; then it does not depend on a sysctl.
        setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
    }
    bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
    listen(&fd, backlog())?;
    Ok(TcpListener::from_std(std::net::TcpListener::from(fd)))
}

fn open_unix(
    path: &Path,
    mode: u32,
    group: Option<&str>,
) -> io::Result<(UnixListener, SocketFile)> {
    let group = group.map(group_id).transpose()?;
    remove_stale(path)?;
    let fd = stream_socket(AddressFamily::Unix)?;
    bind(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    let made = fs::symlink_metadata(path)?;
    let file = SocketFile {
        path: path.to_owned(),
        device: made.dev(),
        inode: made.ino(),
    };
    // Nobody can connect before `listen`, so there is no moment with a mode too wide.
    if group.is_some() {
        chown(path, None, group)?;
    }
    fs::set_permissions(path, Permissions::from_mode(mode))?;
    listen(&fd, backlog())?;
    let listener = UnixListener::from_std(std::os::unix::net::UnixListener::from(fd));
    Ok((listener, file))
}

fn stream_socket(family: AddressFamily) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    Ok(socket(family, SockType::Stream, flags, None)?)
}

/// As long a queue as we want, or as the C library's idea of the system's limit allows: with musl
/// that is 128 connections, and nix takes no more.
fn backlog() -> Backlog {
    Backlog::new(BACKLOG).unwrap_or(Backlog::MAXCONN)
}

/// Makes way for a socket: removes one that nobody listens at, and leaves anything else alone.
fn remove_stale(path: &Path) -> io::Result<()> {
    let there = match fs::symlink_metadata(path) {
        Ok(there) => there,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !there.file_type().is_socket() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "another file is there, which is not a socket",
        ));
    }
    // Non-blocking: a listener whose backlog is full would make us wait.
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        Ok(_) | Err(_) => Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "another process listens there",
        )),
    }
}

/// The number of a group, given by name or by number.
pub(in crate::host) fn group_id(group: &str) -> io::Result<Gid> {
    if let Ok(number) = group.parse() {
        return Ok(Gid::from_raw(number));
    }
    match Group::from_name(group)? {
        Some(group) => Ok(group.gid),
        None => Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!("there is no group '{group}'"),
        )),
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|there| (there.dev(), there.ino()) == (self.device, self.inode));
        if is_ours && let Err(error) = fs::remove_file(&self.path) {
            log::warn!(
                "socket is left behind path={} error={error}",
                self.path.display()
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use mio::{Events, Poll};

    use super::*;
    use crate::time::Duration;

    /// A folder of this test's own, removed with everything in it.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let name = format!("fieldgate-listener-{name}-{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn bind(&self, mode: u32) -> Bind {
            Bind::Unix {
                path: self.socket().to_str().unwrap().into(),
                mode,
                group: None,
            }
        }

        fn socket(&self) -> PathBuf {
            self.0.join("mqtt.sock")
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn open(bind: &Bind) -> io::Result<(Listener, Box<str>)> {
        let poll = Poll::new().unwrap();
        Listener::open(bind, Rc::default(), poll.registry(), Token(0))
    }

    #[test]
    fn a_stale_socket_is_replaced_and_unlinked_at_the_end() {
        let folder = Folder::new("stale");
        let path = folder.socket();
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "the dead process left it behind");
        let (listener, bound) = open(&folder.bind(0o620)).unwrap();
        assert_eq!(&*bound, path.to_str().unwrap());
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o620);
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn a_socket_in_use_and_any_other_file_are_left_alone() {
        let folder = Folder::new("used");
        let path = folder.socket();
        let other = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let error = open(&folder.bind(0o660)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        drop(other);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "precious").unwrap();
        let error = open(&folder.bind(0o660)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn a_socket_that_somebody_else_has_made_since_is_not_unlinked() {
        let folder = Folder::new("since");
        let path = folder.socket();
        let (listener, _) = open(&folder.bind(0o660)).unwrap();
        // Kept under another name, so that its inode is not free for the next file.
        fs::rename(&path, folder.0.join("moved")).unwrap();
        fs::write(&path, "").unwrap();
        drop(listener);
        assert!(path.exists());
    }

    #[test]
    fn the_kernel_says_who_is_at_the_other_end() {
        let folder = Folder::new("peer");
        let (mut listener, _) = open(&folder.bind(0o660)).unwrap();
        assert!(matches!(listener.accept(), Accepted::Nobody));
        let _peer = std::os::unix::net::UnixStream::connect(folder.socket()).unwrap();
        let Accepted::Peer(_, Peer::Unix { uid, pid }) = listener.accept() else {
            panic!("nobody was accepted");
        };
        assert_eq!(uid, nix::unistd::geteuid().as_raw());
        assert_eq!(pid.unsigned_abs(), std::process::id());
    }

    #[test]
    fn tcp_listens_at_the_port_that_it_got() {
        let mut poll = Poll::new().unwrap();
        let address = Bind::Tcp("127.0.0.1:0".parse().unwrap());
        let (mut listener, bound) =
            Listener::open(&address, Rc::default(), poll.registry(), Token(7)).unwrap();
        let mut peer = std::net::TcpStream::connect(&*bound).unwrap();
        peer.write_all(b"x").unwrap();
        let mut events = Events::with_capacity(1);
        poll.poll(&mut events, Some(Duration::from_secs(10)))
            .unwrap();
        assert_eq!(
            events.iter().next().map(mio::event::Event::token),
            Some(Token(7))
        );
        let Accepted::Peer(Stream::Tcp(stream), Peer::Tcp(address)) = listener.accept() else {
            panic!("nobody was accepted");
        };
        assert!(stream.nodelay().unwrap());
        assert_eq!(address, peer.local_addr().unwrap());
        let again = Bind::Tcp(bound.parse().unwrap());
        let error = Listener::open(&again, Rc::default(), poll.registry(), Token(8)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn groups_go_by_name_or_number() {
        assert_eq!(group_id("1234").unwrap().as_raw(), 1234);
        assert_eq!(group_id("root").unwrap().as_raw(), 0);
        let error = group_id("no-such-group").unwrap_err();
        assert!(error.to_string().contains("no-such-group"));
    }
}
