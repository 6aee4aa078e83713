//! Word of GPIO chips that are unplugged.
//!
//! The kernel takes the node of such a chip out of `/dev`. Before Linux 6.7 nothing else wakes a
//! program that waits for edges of its lines, and nothing ever tells one that drives them: without
//! this, their last levels would be shown as true for ever.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use mio::unix::SourceFd;
use mio::{Interest, Registry};
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::host::token::Source;

/// Where the nodes are, …
pub(super) const FOLDER: &str = "/dev";
/// … and what their names begin with.
const PREFIX: &[u8] = b"gpiochip";

/// A folder with the nodes of chips, in the poll.
#[derive(Debug)]
pub(super) struct ChipWatch {
    inotify: Inotify,
}

impl ChipWatch {
    /// Watches `folder`, as [`Source::Chips`].
    pub(super) fn new(registry: &Registry, folder: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        inotify.add_watch(folder, AddWatchFlags::IN_DELETE | AddWatchFlags::IN_ONLYDIR)?;
        let fd = inotify.as_fd().as_raw_fd();
        registry.register(
            &mut SourceFd(&fd),
            Source::Chips.token(),
            Interest::READABLE,
        )?;
        Ok(Self { inotify })
    }

    /// Whether a chip may have gone since the last time. Reads everything that the kernel has.
    pub(super) fn has_news(&mut self) -> bool {
        let mut is_one_gone = false;
        loop {
            match self.inotify.read_events() {
                Ok(events) => {
                    is_one_gone |= events.iter().any(|event| match &event.name {
                        Some(name) => name.as_bytes().starts_with(PREFIX),
                        // More happened than the kernel keeps: one of it may have been this.
                        None => event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW),
                    });
                }
                Err(Errno::EINTR) => {}
                Err(_) => return is_one_gone,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;
    use std::time::Duration;

    use mio::{Events, Poll};

    use super::*;

    struct Folder(PathBuf);

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_node_that_goes_is_news_if_it_is_a_chips() {
        let name = format!("fieldgate-chip-watch-{}", std::process::id());
        let folder = Folder(std::env::temp_dir().join(name));
        fs::create_dir(&folder.0).unwrap();
        for name in ["gpiochip7", "ttyUSB0"] {
            fs::write(folder.0.join(name), "").unwrap();
        }
        let mut poll = Poll::new().unwrap();
        let mut watch = ChipWatch::new(poll.registry(), &folder.0).unwrap();
        fs::write(folder.0.join("gpiochip8"), "").unwrap();
        assert!(!watch.has_news(), "one that comes is asked for anyway");

        let mut expect = |name: &str, news: bool| {
            fs::remove_file(folder.0.join(name)).unwrap();
            let mut events = Events::with_capacity(1);
            poll.poll(&mut events, Some(Duration::from_secs(10)))
                .unwrap();
            let woken_by = events.iter().map(|event| Source::from_token(event.token()));
            assert_eq!(woken_by.collect::<Vec<_>>(), [Some(Source::Chips)]);
            assert_eq!(watch.has_news(), news, "{name}");
        };
        expect("ttyUSB0", false);
        expect("gpiochip7", true);
        expect("gpiochip8", true);
        assert!(!watch.has_news(), "told once");
    }
}
