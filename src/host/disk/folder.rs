//! The journal's folder, done as told: calls that block, for a worker's thread or for a program
//! that has nothing else to do (a bench, a test).
//!
//! Nothing here decides or retries. What is answered as done is done: a segment's file appears
//! under its name only when all of it is on the disk, a commit is answered after its `fdatasync`,
//! and a file that failed one is closed, so that no later sync of it can succeed by the kernel's
//! having forgotten the error.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::buffer::Payload;
use crate::journal::disk::{DiskCommand, DiskError, DiskEvent, Slot};

/// Segments whose files stay open for writing: the one that is being filled, and those that were
/// made ahead of it.
const OPEN_FILES_MAX: usize = 8;

/// Zeros are written in pieces of this size.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// Only we may look into what clients have entrusted to us.
const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// Who has it has the folder. The lock ends with it, and at the latest with the process.
pub(super) type Lock = Flock<File>;

/// `DATA_DIR`, and the journal in it. Its lock ends with it.
#[derive(Debug)]
pub struct Folder {
    segments: Segments,
    lock: Option<Lock>,
}

impl Folder {
    /// Touches nothing before [`DiskCommand::Open`].
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            segments: Segments::new(data_dir),
            lock: None,
        }
    }

    /// Does it, however long that takes; `None` for what is not answered.
    pub fn perform(&mut self, command: DiskCommand) -> Option<DiskEvent> {
        let segments = &mut self.segments;
        match command {
            DiskCommand::Open => {
                let opened = segments.open(self.lock.is_some());
                Some(DiskEvent::Opened(opened.map(|opened| {
                    self.lock = opened.lock.or(self.lock.take());
                    opened.found
                })))
            }
            DiskCommand::Make { slot, size } => {
                let outcome = segments.make(slot, size);
                Some(DiskEvent::Made { slot, outcome })
            }
            DiskCommand::Commit {
                batch,
                slot,
                offset,
                bytes,
            } => Some(DiskEvent::Synced {
                batch,
                outcome: segments.commit(slot, offset, &bytes),
                bytes,
            }),
            DiskCommand::Read {
                read,
                slot,
                offset,
                len,
            } => Some(DiskEvent::Read {
                read,
                outcome: self::read(&segments.folder, slot, offset, len).map(Payload::from),
            }),
            DiskCommand::SetAside { slot } => {
                segments.set_aside(slot);
                None
            }
            DiskCommand::Remove { slot } => {
                segments.remove(slot);
                None
            }
        }
    }
}

/// What was found when the folder was opened.
#[derive(Debug)]
pub(super) struct Opened {
    /// `None`: whoever asked has it already.
    pub(super) lock: Option<Lock>,
    /// By slot.
    pub(super) found: Vec<(Slot, u32)>,
}

/// The files, and which of them are open for writing.
#[derive(Debug)]
pub(super) struct Segments {
    data_dir: PathBuf,
    folder: PathBuf,
    /// In the order of their last use, at most [`OPEN_FILES_MAX`].
    open: Vec<(Slot, File)>,
}

impl Segments {
    pub(super) fn new(data_dir: impl Into<PathBuf>) -> Self {
        let data_dir = data_dir.into();
        Self {
            folder: folder_of(&data_dir),
            data_dir,
            open: Vec::new(),
        }
    }

    /// See [`DiskCommand::Open`].
    pub(super) fn open(&mut self, is_locked: bool) -> Result<Opened, DiskError> {
        self.open.clear();
        make_folder(&self.data_dir)?;
        // Before the journal's folder is made: another process may be about to do the same.
        let lock = if is_locked {
            None
        } else {
            Some(lock(&self.data_dir.join("lock"))?)
        };
        make_folder(&self.folder)?;
        let found = list(&self.folder).map_err(error("look into", &self.folder))?;
        Ok(Opened { lock, found })
    }

    /// See [`DiskCommand::Make`].
    pub(super) fn make(&mut self, slot: Slot, size: u32) -> Result<(), DiskError> {
        self.close(slot);
        let (path, unfinished) = (path_of(&self.folder, slot), unfinished(&self.folder, slot));
        let made = self.make_at(&path, &unfinished, size);
        match made {
            Ok(file) => {
                self.keep(slot, file);
                Ok(())
            }
            Err(error) => {
                // What it takes up is what others lack now.
                let _ = fs::remove_file(&unfinished);
                Err(error)
            }
        }
    }

    fn make_at(&self, path: &Path, unfinished: &Path, size: u32) -> Result<File, DiskError> {
        // The one that is there goes first: there may be no room for both.
        remove_file(path).map_err(error("remove", path))?;
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(FILE_MODE)
            .open(unfinished)
            .map_err(error("make", unfinished))?;
        let mut at = 0;
        while at < size {
            let len = ZEROS.len().min((size - at) as usize);
            file.write_all_at(&ZEROS[..len], at.into())
                .map_err(error("write to", unfinished))?;
            at += len as u32;
        }
        file.sync_all().map_err(error("sync", unfinished))?;
        fs::rename(unfinished, path).map_err(error("rename", unfinished))?;
        self.sync()?;
        Ok(file)
    }

    /// See [`DiskCommand::Commit`].
    pub(super) fn commit(
        &mut self,
        slot: Slot,
        offset: u32,
        bytes: &[u8],
    ) -> Result<(), DiskError> {
        let path = path_of(&self.folder, slot);
        let place = self.open.iter().position(|(open, _)| *open == slot);
        let file = match place {
            Some(place) => self.open.remove(place).1,
            None => OpenOptions::new()
                .write(true)
                .open(&path)
                .map_err(error("open", &path))?,
        };
        file.write_all_at(bytes, offset.into())
            .map_err(error("write to", &path))?;
        file.sync_data().map_err(error("sync", &path))?;
        self.keep(slot, file);
        Ok(())
    }

    /// See [`DiskCommand::SetAside`]. An earlier one of its name makes room for it.
    pub(super) fn set_aside(&mut self, slot: Slot) {
        self.close(slot);
        let path = path_of(&self.folder, slot);
        let mut aside = path.clone().into_os_string();
        aside.push(".damaged");
        let done = fs::rename(&path, &aside).map_err(error("set aside", &path));
        if let Err(error) = done.and_then(|()| self.sync()) {
            log::warn!("journal: {error}");
        }
    }

    /// See [`DiskCommand::Remove`].
    pub(super) fn remove(&mut self, slot: Slot) {
        self.close(slot);
        let path = path_of(&self.folder, slot);
        let done = remove_file(&path).map_err(error("remove", &path));
        if let Err(error) = done.and_then(|()| self.sync()) {
            log::warn!("journal: {error}");
        }
    }

    /// What the folder says of its files is on the disk then.
    fn sync(&self) -> Result<(), DiskError> {
        sync_folder(&self.folder)
    }

    fn keep(&mut self, slot: Slot, file: File) {
        if self.open.len() == OPEN_FILES_MAX {
            // All that was written to it is synced.
            self.open.remove(0);
        }
        self.open.push((slot, file));
    }

    fn close(&mut self, slot: Slot) {
        self.open.retain(|(open, _)| *open != slot);
    }
}

/// See [`DiskCommand::Read`]. The file is opened each time: under its name there may be another one
/// since the last time.
pub(super) fn read(folder: &Path, slot: Slot, offset: u32, len: u32) -> Result<Vec<u8>, DiskError> {
    let path = path_of(folder, slot);
    let file = File::open(&path).map_err(error("open", &path))?;
    read_up_to(&file, offset, len).map_err(error("read", &path))
}

/// `len` bytes of a file from `offset` on, or what there is of them. Blocks.
///
/// # Errors
/// What the system says.
pub fn read_up_to(file: &File, offset: u32, len: u32) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len as usize];
    let mut count = 0;
    while count < bytes.len() {
        match file.read_at(&mut bytes[count..], u64::from(offset) + count as u64) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(failed) if failed.kind() == ErrorKind::Interrupted => {}
            Err(failed) => return Err(failed),
        }
    }
    bytes.truncate(count);
    Ok(bytes)
}

/// Where the journal is.
pub(super) fn folder_of(data_dir: &Path) -> PathBuf {
    data_dir.join("journal")
}

fn path_of(folder: &Path, slot: Slot) -> PathBuf {
    folder.join(format!("{:08}.seg", slot.0))
}

/// What a segment is called until all of it is on the disk.
fn unfinished(folder: &Path, slot: Slot) -> PathBuf {
    folder.join(format!("{:08}.new", slot.0))
}

/// Which slot's file it is: eight digits, and this ending.
pub fn slot_of(name: &str, ending: &str) -> Option<Slot> {
    let digits = name.strip_suffix(ending)?;
    let is_number = digits.len() == 8 && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| digits.parse().ok().map(Slot))?
}

/// The segments of a folder. What was not finished when the power failed is removed; what is not
/// ours is left alone.
fn list(folder: &Path) -> io::Result<Vec<(Slot, u32)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else {
            continue;
        };
        if slot_of(name, ".new").is_some() {
            remove_file(&entry.path())?;
        } else if let Some(slot) = slot_of(name, ".seg") {
            let metadata = entry.metadata()?;
            if metadata.is_file() {
                found.push((slot, u32::try_from(metadata.len()).unwrap_or(u32::MAX)));
            }
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Takes the lock, and leaves our process's number in it for those who come after.
fn lock(path: &Path) -> Result<Lock, DiskError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(FILE_MODE)
        .open(path)
        .map_err(error("open", path))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => {
            // A full disk is no reason not to have it.
            let number = format!("{}\n", process::id());
            let said = lock
                .set_len(0)
                .and_then(|()| lock.write_all_at(number.as_bytes(), 0));
            if let Err(error) = said {
                log::debug!("the lock does not say whose it is: {error}");
            }
            Ok(lock)
        }
        Err((file, Errno::EWOULDBLOCK)) => Err(DiskError::Locked(holder(&file))),
        Err((_, errno)) => Err(error("lock", path)(errno.into())),
    }
}

/// Who has said that it has the lock.
fn holder(file: &File) -> Option<u32> {
    let mut bytes = [0; 16];
    let count = file.read_at(&mut bytes, 0).ok()?;
    let text = str::from_utf8(&bytes[..count]).ok()?;
    text.trim().parse().ok()
}

/// Makes one folder, if it is not there, in a way that outlives a power cut.
fn make_folder(path: &Path) -> Result<(), DiskError> {
    match DirBuilder::new().mode(FOLDER_MODE).create(path) {
        Ok(()) => match path.parent() {
            Some(parent) if parent.as_os_str().is_empty() => sync_folder(Path::new(".")),
            Some(parent) => sync_folder(parent),
            None => Ok(()),
        },
        // One that may not be written to still says first that it is there.
        Err(failed) if failed.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(failed) => Err(error("make", path)(failed)),
    }
}

fn sync_folder(path: &Path) -> Result<(), DiskError> {
    File::open(path)
        .and_then(|folder| folder.sync_all())
        .map_err(error("sync", path))
}

/// Removes a file, if it is there.
fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(failed) if failed.kind() != ErrorKind::NotFound => Err(failed),
        _ => Ok(()),
    }
}

/// What the journal is told of a failure.
fn error<'a>(what: &'a str, path: &'a Path) -> impl FnOnce(io::Error) -> DiskError + 'a {
    move |error| {
        // The standard library makes some up itself: a write that takes nothing.
        let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
        match errno {
            Errno::ENOSPC | Errno::EDQUOT => DiskError::Full,
            Errno::EROFS => DiskError::ReadOnly,
            errno => {
                let (path, why) = (path.display(), errno.desc());
                let text = format!("cannot {what} {path}: {why}");
                DiskError::Failed(errno as i32, text.into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_says_is_told_apart() {
        for (errno, expected) in [
            (Errno::ENOSPC, DiskError::Full),
            (Errno::EDQUOT, DiskError::Full),
            (Errno::EROFS, DiskError::ReadOnly),
            (
                Errno::EIO,
                DiskError::Failed(Errno::EIO as i32, "cannot sync /a: I/O error".into()),
            ),
        ] {
            let told = error("sync", Path::new("/a"))(errno.into());
            assert_eq!(told, expected);
        }
        let made_up = error("write to", Path::new("/a"))(ErrorKind::WriteZero.into());
        assert!(matches!(made_up, DiskError::Failed(number, _) if number == Errno::EIO as i32));
    }

    #[test]
    fn a_segments_name_is_eight_digits_and_its_ending() {
        assert_eq!(slot_of("00000007.seg", ".seg"), Some(Slot(7)));
        assert_eq!(slot_of("99999999.new", ".new"), Some(Slot(99_999_999)));
        for other in [
            "7.seg",
            "000000007.seg",
            "+0000007.seg",
            "00000007.seg.damaged",
            "00000007",
            ".seg",
        ] {
            assert_eq!(slot_of(other, ".seg"), None, "{other}");
        }
        let path = path_of(Path::new("/j"), Slot(7));
        assert_eq!(path, Path::new("/j/00000007.seg"));
    }
}
