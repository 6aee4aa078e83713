//! Resident memory: what only the start needed does not stay.
//!
//! The kernel maps code in large steps, the program's and that of its libraries, so that after the
//! start nearly all of it is resident, most of which (reading the configuration, its diagnostics,
//! the other commands) is not needed again. Once the gateway is ready its code is given up, and
//! once more when its devices and clients have had time to begin, which they do once too; what runs
//! comes back from the page cache at its next use, at the cost of a few minor faults.

use std::fs;

use nix::libc;

use crate::time::Duration;

/// After the gateway is ready: devices and clients have begun. No timer of its own: with the next
/// turn.
pub(super) const SETTLED_AFTER: Duration = Duration::from_secs(30);

/// Gives up the resident pages of all code. Nothing is lost: they are the files'.
pub(super) fn forget_start() {
    let Ok(maps) = fs::read_to_string("/proc/self/maps") else {
        return;
    };
    for (start, len) in code(&maps) {
        // SAFETY: these pages are a private mapping of a file that can be executed and never
        // written (`r-xp`), so each comes back as it was, from the file, when it is touched.
        let failed = unsafe { libc::madvise(start as *mut _, len, libc::MADV_DONTNEED) } != 0;
        if failed {
            log::debug!("code stays resident: {}", std::io::Error::last_os_error());
        }
    }
}

/// Where the code of files lies, by the lines of proc_pid_maps(5): address and length.
fn code(maps: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    for line in maps.lines() {
        let mut fields = line.split_ascii_whitespace();
        let (range, permissions) = (fields.next(), fields.next());
        let path = fields.nth(3).unwrap_or_default();
        let is_code = path.starts_with('/') && permissions == Some("r-xp");
        let Some((start, end)) = range
            .filter(|_| is_code)
            .and_then(|range| range.split_once('-'))
        else {
            continue;
        };
        if let (Ok(start), Ok(end)) = (
            usize::from_str_radix(start, 16),
            usize::from_str_radix(end, 16),
        ) && start < end
        {
            found.push((start, end - start));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_what_can_be_executed_and_not_written_of_files() {
        let maps = "\
            55d0-55d8 r--p 00000000 fe:00 1 /usr/bin/fieldgate\n\
            55d8-55f0 r-xp 00008000 fe:00 1 /usr/bin/fieldgate\n\
            55f0-5600 rw-p 00020000 fe:00 1 /usr/bin/fieldgate\n\
            7f00-7f10 r-xp 00000000 fe:00 2 /usr/lib/libc.so.6\n\
            ffff-fffe r-xp 00000000 00:00 0 [vdso]\n";
        assert_eq!(code(maps), [(0x55d8, 0x18), (0x7f00, 0x10)]);
    }

    #[test]
    fn the_program_goes_on_without_its_start() {
        forget_start();
        assert!(code(&fs::read_to_string("/proc/self/maps").unwrap()).len() > 1);
    }
}
