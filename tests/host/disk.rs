//! The journal's folder on a real filesystem, in a real second process, on a full and on a
//! read-only one.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use fieldgate::host::disk::Folder as Disk;
use fieldgate::journal::disk::{BatchId, DiskCommand, DiskError, DiskEvent, ReadId, Slot};

use crate::bench::Folder;

const BLOCK: usize = 4096;

fn open(disk: &mut Disk) -> Result<Vec<(Slot, u32)>, DiskError> {
    match disk.perform(DiskCommand::Open) {
        Some(DiskEvent::Opened(outcome)) => outcome,
        other => panic!("{other:?}"),
    }
}

fn make(disk: &mut Disk, slot: u32, size: u32) -> Result<(), DiskError> {
    let slot = Slot(slot);
    match disk.perform(DiskCommand::Make { slot, size }) {
        Some(DiskEvent::Made {
            slot: told,
            outcome,
        }) => {
            assert_eq!(told, slot);
            outcome
        }
        other => panic!("{other:?}"),
    }
}

fn commit(disk: &mut Disk, slot: u32, offset: u32, bytes: &[u8]) -> Result<(), DiskError> {
    let command = DiskCommand::Commit {
        batch: BatchId(7),
        slot: Slot(slot),
        offset,
        bytes: bytes.to_vec(),
    };
    match disk.perform(command) {
        Some(DiskEvent::Synced {
            batch,
            outcome,
            bytes: back,
        }) => {
            assert_eq!(
                (batch, back.as_slice()),
                (BatchId(7), bytes),
                "they come back"
            );
            outcome
        }
        other => panic!("{other:?}"),
    }
}

fn read(disk: &mut Disk, slot: u32, offset: u32, len: u32) -> Result<Vec<u8>, DiskError> {
    let command = DiskCommand::Read {
        read: ReadId(9),
        slot: Slot(slot),
        offset,
        len,
    };
    match disk.perform(command) {
        Some(DiskEvent::Read { read, outcome }) => {
            assert_eq!(read, ReadId(9));
            outcome.map(|payload| payload.to_vec())
        }
        other => panic!("{other:?}"),
    }
}

fn segment(root: &Path, slot: u32) -> PathBuf {
    root.join(format!("journal/{slot:08}.seg"))
}

#[test]
fn a_folder_is_made_for_us_alone_and_holds_what_was_committed() {
    let folder = Folder::new("disk");
    let root = folder.join("data");
    let mut disk = Disk::new(&root);
    assert!(!root.exists(), "nothing is touched before it is asked for");
    assert_eq!(open(&mut disk), Ok(vec![]));
    for path in [&root, &root.join("journal")] {
        let mode = fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "{}", path.display());
    }
    assert_eq!(make(&mut disk, 3, 200_000), Ok(()));
    assert_eq!(make(&mut disk, 1, 8192), Ok(()));
    assert_eq!(fs::read(segment(&root, 3)).unwrap(), vec![0; 200_000]);
    let mode = fs::metadata(segment(&root, 3))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);

    let (first, second) = ([b'a'; BLOCK], [b'b'; 2 * BLOCK]);
    assert_eq!(commit(&mut disk, 3, 4096, &first), Ok(()));
    assert_eq!(commit(&mut disk, 3, 8192, &second), Ok(()));
    assert_eq!(read(&mut disk, 3, 4096, 4096), Ok(first.to_vec()));
    assert_eq!(read(&mut disk, 3, 8192, 8192), Ok(second.to_vec()));
    assert_eq!(read(&mut disk, 3, 199_999, 4096), Ok(vec![0]), "the end");
    assert_eq!(read(&mut disk, 3, 200_000, 4096), Ok(vec![]));
    let len = fs::metadata(segment(&root, 3)).unwrap().len();
    assert_eq!(len, 200_000, "no write changes a length");
    drop(disk);

    let mut disk = Disk::new(&root);
    let found = vec![(Slot(1), 8192), (Slot(3), 200_000)];
    assert_eq!(open(&mut disk), Ok(found.clone()));
    assert_eq!(
        open(&mut disk),
        Ok(found),
        "who has the lock may look again"
    );
    assert_eq!(read(&mut disk, 3, 8192, 8192), Ok(second.to_vec()));
    assert_eq!(make(&mut disk, 3, 4096), Ok(()));
    assert_eq!(read(&mut disk, 3, 0, 8192), Ok(vec![0; 4096]), "replaced");
    let last = [b'c'; BLOCK];
    assert_eq!(commit(&mut disk, 3, 0, &last), Ok(()));
    assert_eq!(read(&mut disk, 3, 0, 8192), Ok(last.to_vec()));
}

/// More segments than are kept open are written all the same.
#[test]
fn every_segment_can_be_written_in_any_order() {
    let folder = Folder::new("disk-many");
    let mut disk = Disk::new(folder.path());
    assert_eq!(open(&mut disk), Ok(vec![]));
    for slot in 0..20 {
        assert_eq!(make(&mut disk, slot, 8192), Ok(()));
    }
    for round in 0..2 {
        for slot in (0..20).rev().chain(0..20) {
            let bytes = [slot as u8 + round; BLOCK];
            assert_eq!(commit(&mut disk, slot, 4096, &bytes), Ok(()));
            assert_eq!(read(&mut disk, slot, 4096, 4096), Ok(bytes.to_vec()));
        }
    }
}

#[test]
fn what_is_damaged_is_kept_and_what_is_not_needed_goes() {
    let folder = Folder::new("disk-aside");
    let root = folder.path();
    let mut disk = Disk::new(root);
    assert_eq!(open(&mut disk), Ok(vec![]));
    for slot in 0..3 {
        assert_eq!(make(&mut disk, slot, 4096), Ok(()));
        assert_eq!(commit(&mut disk, slot, 0, &[slot as u8; BLOCK]), Ok(()));
    }
    assert_eq!(disk.perform(DiskCommand::SetAside { slot: Slot(1) }), None);
    assert_eq!(disk.perform(DiskCommand::Remove { slot: Slot(2) }), None);
    assert_eq!(disk.perform(DiskCommand::Remove { slot: Slot(9) }), None);
    assert_eq!(disk.perform(DiskCommand::SetAside { slot: Slot(9) }), None);
    for gone in [1, 2] {
        // Not even by a descriptor that is still open.
        let outcome = commit(&mut disk, gone, 0, &[b'x'; BLOCK]);
        assert!(
            matches!(outcome, Err(DiskError::Failed(2, _))),
            "{outcome:?}"
        );
        let outcome = read(&mut disk, gone, 0, 4096);
        assert!(
            matches!(outcome, Err(DiskError::Failed(2, _))),
            "{outcome:?}"
        );
    }
    let aside = root.join("journal/00000001.seg.damaged");
    assert_eq!(fs::read(&aside).unwrap(), [1; BLOCK]);
    // What is not ours stays, what a power cut left unfinished does not.
    fs::write(root.join("journal/notes.txt"), "mine").unwrap();
    fs::create_dir(root.join("journal/00000005.seg")).unwrap();
    fs::write(root.join("journal/00000006.new"), "half").unwrap();
    drop(disk);
    let mut disk = Disk::new(root);
    assert_eq!(open(&mut disk), Ok(vec![(Slot(0), 4096)]));
    assert!(aside.exists() && root.join("journal/notes.txt").exists());
    assert!(!root.join("journal/00000006.new").exists());
}

#[test]
fn what_cannot_be_is_said_with_its_path() {
    let folder = Folder::new("disk-wrong");
    let missing = folder.join("missing/data");
    let Err(DiskError::Failed(2, what)) = open(&mut Disk::new(&missing)) else {
        panic!("it is made below what is not there");
    };
    assert!(what.contains(missing.to_str().unwrap()), "{what}");
    assert!(
        !missing.parent().unwrap().exists(),
        "a mount point may be missing"
    );
    let file = folder.join("file");
    fs::write(&file, "").unwrap();
    let outcome = open(&mut Disk::new(&file));
    assert!(
        matches!(outcome, Err(DiskError::Failed(20, _))),
        "{outcome:?}"
    );
}

/// The kernel's own full device takes the place of a segment's file; and one that takes every byte
/// and cannot sync them.
#[test]
fn a_write_and_a_sync_that_fail_are_told() {
    let folder = Folder::new("disk-devices");
    let mut disk = Disk::new(folder.path());
    assert_eq!(open(&mut disk), Ok(vec![]));
    symlink("/dev/full", segment(folder.path(), 0)).unwrap();
    symlink("/dev/null", segment(folder.path(), 1)).unwrap();
    for _ in 0..2 {
        let outcome = commit(&mut disk, 0, 0, &[1; BLOCK]);
        assert_eq!(outcome, Err(DiskError::Full));
        let Err(DiskError::Failed(22, what)) = commit(&mut disk, 1, 0, &[1; BLOCK]) else {
            panic!("a sync that failed is ignored");
        };
        assert!(what.starts_with("cannot sync "), "{what}");
    }
}

// Parts that need a process or a filesystem of their own: this test program runs again there, with
// one test and a word in its environment.

const PART: &str = "FIELDGATE_TEST_DISK_PART";
const ROOT: &str = "FIELDGATE_TEST_DISK_ROOT";

/// What [`part`] runs as.
const ENTRY: &str = "disk::part_of_another_process";

#[test]
#[ignore = "it is a part of others, which run it as a process of its own"]
fn part_of_another_process() {
    let [part, root] = [PART, ROOT].map(|name| std::env::var(name).expect(name));
    let mut disk = Disk::new(&root);
    match part.as_str() {
        "lock" => {
            say(&format!("{:?}", open(&mut disk)));
            // Until the other side lets go, or ends us.
            let mut line = String::new();
            std::io::stdin().read_line(&mut line).unwrap();
        }
        "full" => fill(&mut disk, Path::new(&root)),
        "readonly" => only_read(&mut disk, Path::new(&root)),
        other => panic!("{other}"),
    }
    say("done");
}

/// The test harness keeps what goes through `println!`.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("said {line}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

/// Runs a part of this file as another process, by way of `through` if that is not empty.
fn part(name: &str, root: &Path, through: &[&str]) -> Other {
    let program = std::env::current_exe().unwrap();
    let program = program.to_str().unwrap();
    let words = [
        program,
        "--exact",
        ENTRY,
        "--include-ignored",
        "--nocapture",
    ];
    let words: Vec<&str> = through.iter().copied().chain(words).collect();
    let mut child = Command::new(words[0])
        .args(&words[1..])
        .env(PART, name)
        .env(ROOT, root)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    Other { child, out }
}

struct Other {
    child: Child,
    out: BufReader<std::process::ChildStdout>,
}

impl Other {
    /// The next thing that it says; `None` at its end.
    fn said(&mut self) -> Option<String> {
        loop {
            let mut line = String::new();
            if self.out.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            // The harness does not end its own line before ours.
            if let Some((_, said)) = line.split_once("said ") {
                return Some(said.trim_end().to_owned());
            }
        }
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_second_process_is_told_who_has_the_folder() {
    let folder = Folder::new("disk-lock");
    let mut first = part("lock", folder.path(), &[]);
    assert_eq!(first.said().as_deref(), Some("Ok([])"));
    let pid = first.child.id();
    let mut disk = Disk::new(folder.path());
    let locked = Err(DiskError::Locked(Some(pid)));
    assert_eq!(open(&mut disk), locked);
    let mut second = part("lock", folder.path(), &[]);
    assert_eq!(second.said(), Some(format!("Err(Locked(Some({pid})))")));
    drop(second);
    assert_eq!(
        open(&mut disk),
        locked,
        "whoever was refused takes nothing away"
    );

    // However it ends.
    drop(first);
    assert_eq!(open(&mut disk), Ok(vec![]));
    let mut third = part("lock", folder.path(), &[]);
    let us = std::process::id();
    assert_eq!(third.said(), Some(format!("Err(Locked(Some({us})))")));
    drop(disk);
    let mut fourth = part("lock", folder.path(), &[]);
    assert_eq!(fourth.said().as_deref(), Some("Ok([])"));
}

/// A command line that runs another one with a small filesystem of its own mounted at `root`, for
/// which it needs to be root or to be allowed a user namespace.
fn mounting(root: &Path) -> Option<Vec<&str>> {
    let script = "mount -t tmpfs -o size=1m tmpfs \"$0\" && exec \"$@\"";
    let root = root.to_str().unwrap();
    for options in ["-m", "-rm"] {
        let words = vec!["unshare", options, "sh", "-c", script, root];
        let tried = Command::new(words[0])
            .args(&words[1..])
            .arg("true")
            .stderr(Stdio::null())
            .status();
        if tried.is_ok_and(|status| status.success()) {
            return Some(words);
        }
    }
    eprintln!("SKIPPED: no filesystem of our own can be mounted here, not even with unshare");
    None
}

#[test]
fn a_full_filesystem_is_told_and_takes_what_has_its_place_already() {
    let folder = Folder::new("disk-full");
    if let Some(through) = mounting(folder.path()) {
        let mut other = part("full", folder.path(), &through);
        assert_eq!(other.said().as_deref(), Some("done"));
    }
}

fn fill(disk: &mut Disk, root: &Path) {
    assert_eq!(open(disk), Ok(vec![]));
    assert_eq!(make(disk, 0, 512 * 1024), Ok(()));
    assert_eq!(make(disk, 1, 1024 * 1024), Err(DiskError::Full));
    let files = || fs::read_dir(root.join("journal")).unwrap().count();
    assert_eq!(files(), 1, "what could not be finished takes up no room");
    assert_eq!(make(disk, 2, 256 * 1024), Ok(()));
    // Somebody else takes the rest.
    let rest = fs::write(root.join("rest"), vec![1; 1024 * 1024]);
    assert_eq!(rest.unwrap_err().raw_os_error(), Some(28));
    assert_eq!(make(disk, 3, 64 * 1024), Err(DiskError::Full));
    for offset in (0..512 * 1024).step_by(BLOCK) {
        assert_eq!(commit(disk, 0, offset, &[7; BLOCK]), Ok(()), "{offset}");
    }
    assert_eq!(read(disk, 0, 0, 512 * 1024), Ok(vec![7; 512 * 1024]));
    // One that is replaced makes room for itself.
    assert_eq!(make(disk, 2, 256 * 1024), Ok(()));
    assert_eq!(
        open(disk),
        Ok(vec![(Slot(0), 512 * 1024), (Slot(2), 256 * 1024)])
    );
    fs::remove_file(root.join("rest")).unwrap();
    assert_eq!(make(disk, 3, 64 * 1024), Ok(()), "room is back");
}

#[test]
fn a_read_only_filesystem_is_told() {
    let folder = Folder::new("disk-readonly");
    if let Some(through) = mounting(folder.path()) {
        let mut other = part("readonly", folder.path(), &through);
        assert_eq!(other.said().as_deref(), Some("done"));
    }
}

fn only_read(disk: &mut Disk, root: &Path) {
    assert_eq!(open(disk), Ok(vec![]));
    assert_eq!(make(disk, 0, 8192), Ok(()));
    assert_eq!(commit(disk, 0, 4096, &[5; BLOCK]), Ok(()));
    // A descriptor that is open for writing would hold the filesystem back.
    *disk = Disk::new(root);
    let remounted = Command::new("mount")
        .args(["-o", "remount,ro"])
        .arg(root)
        .status();
    assert!(remounted.unwrap().success());
    assert_eq!(open(disk), Err(DiskError::ReadOnly));
    assert_eq!(commit(disk, 0, 4096, &[6; BLOCK]), Err(DiskError::ReadOnly));
    assert_eq!(make(disk, 1, 4096), Err(DiskError::ReadOnly));
    assert_eq!(read(disk, 0, 4096, 4096), Ok(vec![5; BLOCK]));
    assert_eq!(
        open(&mut Disk::new(root.join("new"))),
        Err(DiskError::ReadOnly)
    );
}
