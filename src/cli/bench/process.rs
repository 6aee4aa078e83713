//! What a process has cost, from `/proc`: CPU time and resident memory.

use std::fs;
use std::path::PathBuf;

use crate::time::Duration;

/// A process that is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Process(u32);

/// `USER_HZ`, in which `/proc/PID/stat` counts on every Linux that we run on.
const TICKS_PER_SECOND: u64 = 100;

impl Process {
    /// By number; `None` if there is no such process, or it may not be looked at.
    pub(super) fn new(pid: u32) -> Option<Self> {
        let process = Self(pid);
        process.cpu().map(|_| process)
    }

    /// This one.
    pub(super) fn own() -> Self {
        Self(std::process::id())
    }

    /// CPU time of all its threads since it started, user and system together.
    pub(super) fn cpu(self) -> Option<Duration> {
        // The scheduler counts nanoseconds for each living thread, `stat` hundredths of a second
        // for all. A thread that has ended is only in the latter.
        let ticks = self.cpu_in_ticks()?;
        let precise = self.cpu_in_nanos().unwrap_or_default();
        let tick = Duration::from_millis(1000 / TICKS_PER_SECOND);
        if precise + tick * 2 >= ticks {
            Some(precise)
        } else {
            Some(ticks)
        }
    }

    fn cpu_in_nanos(self) -> Option<Duration> {
        let mut nanos = 0_u64;
        for thread in fs::read_dir(self.file("task")).ok()? {
            let text = fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
            nanos += text.split(' ').next()?.parse::<u64>().ok()?;
        }
        Some(Duration::from_nanos(nanos))
    }

    fn cpu_in_ticks(self) -> Option<Duration> {
        let text = fs::read_to_string(self.file("stat")).ok()?;
        let ticks = ticks_of_stat(&text)?;
        Some(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
    }

    /// Bytes that are resident now, and the most that ever were.
    pub(super) fn memory(self) -> Option<(u64, u64)> {
        let text = fs::read_to_string(self.file("status")).ok()?;
        Some((
            kib_of_status(&text, "VmRSS:")?,
            kib_of_status(&text, "VmHWM:")?,
        ))
    }

    fn file(self, name: &str) -> PathBuf {
        format!("/proc/{}/{name}", self.0).into()
    }
}

/// `utime` and `stime` of proc(5), fields 14 and 15. The second field is a name that may contain
/// anything, so counting starts behind its closing parenthesis.
fn ticks_of_stat(text: &str) -> Option<u64> {
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

fn kib_of_status(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_blanks_and_parentheses_is_no_field() {
        let text = "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 1 0 9 1 1";
        assert_eq!(ticks_of_stat(text), Some(300));
        assert_eq!(ticks_of_stat("7 (a"), None);
        assert_eq!(ticks_of_stat("7 (a) S 1"), None);
    }

    #[test]
    fn memory_is_in_bytes() {
        let text = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!(kib_of_status(text, "VmRSS:"), Some(1024 * 1024));
        assert_eq!(kib_of_status(text, "VmHWM:"), Some(2048 * 1024));
        assert_eq!(kib_of_status(text, "VmPeak:"), None);
    }

    #[test]
    fn this_process_costs_something_and_others_may_not_exist() {
        let own = Process::own();
        assert!(own.cpu().is_some());
        let (now, peak) = own.memory().unwrap();
        assert!(now > 0 && peak >= now);
        assert_eq!(Process::new(u32::MAX), None);
    }
}
