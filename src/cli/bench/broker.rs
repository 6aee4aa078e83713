//! A broker that a benchmark starts for itself: a process of its own, on loopback, gone afterwards.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use super::process::Process;
use crate::cli::client::random_id;
use crate::time::Duration;

/// Between two looks whether it listens.
const LOOK: Duration = Duration::from_millis(20);

/// A broker that lives as long as this value.
pub(super) struct Broker {
    child: Child,
    pub(super) address: SocketAddr,
}

impl Broker {
    /// Starts it, and returns when it listens at this address.
    ///
    /// # Errors
    /// If it cannot be started, ends at once, or does not listen in time.
    pub(super) fn start(
        command: &mut Command,
        address: SocketAddr,
        patience: Duration,
    ) -> io::Result<Self> {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let mut broker = Self { child, address };
        broker.wait_until_it_listens(patience)?;
        Ok(broker)
    }

    fn wait_until_it_listens(&mut self, patience: Duration) -> io::Result<()> {
        let mut waited = Duration::ZERO;
        while waited < patience {
            if TcpStream::connect(self.address).is_ok() {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                return Err(io::Error::other(format!("it ended at once: {status}")));
            }
            thread::sleep(LOOK);
            waited += LOOK;
        }
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "it does not listen",
        ))
    }

    /// What the kernel says of it; `None`: it is gone.
    pub(super) fn process(&self) -> Option<Process> {
        Process::new(self.child.id())
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // One that has ended by itself cannot be killed, and need not be.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that was free a moment ago.
pub(super) fn free_port() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

/// A folder for configurations, gone afterwards.
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn new() -> io::Result<Self> {
        let path = std::env::temp_dir().join(random_id("bench"));
        fs::create_dir(&path)?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// A file of this name and text in it; its path.
    pub(super) fn written(&self, name: &str, text: &str) -> io::Result<OsString> {
        let file = self.0.join(name);
        fs::write(&file, text)?;
        Ok(file.into())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed from the system's own folder for such things is removed by it.
        let _ = fs::remove_dir_all(&self.0);
    }
}
