//! Dead letters: messages that an upstream broker never takes, written down for people.
//!
//! A file for each bridge, `dead-letters/NAME.jsonl` in the gateway's folder, with one JSON object
//! a line. A thread writes what has come meanwhile, so that the loop does not wait.
//!
//! | limit | there |
//! |---|---|
//! | [`FILE_MAX`] bytes in a file | it becomes `NAME.1.jsonl`, and that one is gone |
//! | [`WAITING_MAX`] letters that wait to be written | the next ones are lost, and counted |

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::worker::{Answer, Errands, Mailbox};

/// Bytes of a file from which on it is set aside.
const FILE_MAX: u64 = 1024 * 1024;

/// Letters that wait to be written.
const WAITING_MAX: usize = 1000;

/// What waits to be written: lines by bridge.
type Lines = BTreeMap<Box<str>, Vec<Box<str>>>;

/// What becomes of dead letters.
pub(super) struct Letters {
    mailbox: Mailbox,
    errands: Arc<Errands>,
    /// `None`: there is nowhere to write to.
    folder: Option<PathBuf>,
    waiting: Lines,
    count: usize,
    is_writing: bool,
}

impl Letters {
    pub(super) fn new(mailbox: Mailbox, errands: Arc<Errands>, data_dir: Option<&Path>) -> Self {
        Self {
            mailbox,
            errands,
            folder: data_dir.map(|folder| folder.join("dead-letters")),
            waiting: Lines::new(),
            count: 0,
            is_writing: false,
        }
    }

    /// Takes a letter; how many are lost.
    pub(super) fn keep(&mut self, bridge: Box<str>, line: Box<str>) -> u64 {
        if self.folder.is_none() || self.count >= WAITING_MAX {
            return 1;
        }
        self.waiting.entry(bridge).or_default().push(line);
        self.count += 1;
        self.write()
    }

    /// What was being written is, or `lost` of it; how many are lost in all.
    pub(super) fn written(&mut self, lost: u64) -> u64 {
        self.is_writing = false;
        lost + self.write()
    }

    fn write(&mut self) -> u64 {
        let Some(folder) = self.folder.clone() else {
            return 0;
        };
        if self.is_writing || self.count == 0 {
            return 0;
        }
        let count = core::mem::take(&mut self.count);
        let lines = core::mem::take(&mut self.waiting);
        let mailbox = self.mailbox.clone();
        let errand = move || {
            let mut lost = 0;
            for (bridge, lines) in &lines {
                if let Err(error) = append(&folder, bridge, lines) {
                    log::error!("dead letters of bridge {bridge} cannot be written: {error}");
                    lost += lines.len() as u64;
                }
            }
            mailbox.post(Answer::Letters { lost });
        };
        if self.errands.run("letters", errand).is_err() {
            return count as u64;
        }
        self.is_writing = true;
        0
    }
}

/// Blocks; called by errands.
fn append(folder: &Path, bridge: &str, lines: &[Box<str>]) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let path = folder.join(format!("{bridge}.jsonl"));
    if fs::metadata(&path).is_ok_and(|found| found.len() >= FILE_MAX) {
        fs::rename(&path, folder.join(format!("{bridge}.1.jsonl")))?;
    }
    let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
    let mut text = String::new();
    for line in lines {
        text.push_str(line);
        text.push('\n');
    }
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_full_is_set_aside_once() {
        let name = format!("fieldgate-letters-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        let line: Box<str> = "x".repeat(FILE_MAX as usize - 1).into();
        for round in 0..3 {
            append(&folder, "cloud", &[format!("{round}").into(), line.clone()]).unwrap();
        }
        append(&folder, "cloud", &["last".into()]).unwrap();
        let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
        assert_eq!(read("cloud.jsonl"), "last\n");
        assert!(read("cloud.1.jsonl").starts_with("2\n"));
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2);
        fs::remove_dir_all(&folder).unwrap();
    }
}
