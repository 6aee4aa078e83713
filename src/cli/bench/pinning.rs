//! A CPU for what is measured, and another for who measures it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

/// Folders of system programs, which are not in everybody's path.
const SYSTEM_FOLDERS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Which CPU is whose.
pub(super) struct Pinning {
    taskset: PathBuf,
    broker_cpu: String,
}

impl Pinning {
    /// Moves this process to the last CPU and leaves the first for the brokers. `None` if there is
    /// one CPU or no way of doing it.
    pub(super) fn find() -> Option<Self> {
        let taskset = find("taskset")?;
        let count = thread::available_parallelism().ok()?.get();
        if count < 2 {
            return None;
        }
        let moved = Command::new(&taskset)
            .args(["-a", "-p", "-c", &(count - 1).to_string()])
            .arg(std::process::id().to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .ok()?;
        moved.success().then(|| Self {
            taskset,
            broker_cpu: "0".to_owned(),
        })
    }

    /// A program on the broker's CPU, if there is one.
    pub(super) fn command(pinning: Option<&Self>, program: &Path) -> Command {
        let Some(pinning) = pinning else {
            return Command::new(program);
        };
        // It becomes the program, so the process is the broker's own.
        let mut command = Command::new(&pinning.taskset);
        command.args(["-c", &pinning.broker_cpu]).arg(program);
        command
    }
}

/// A program in the path, or where system programs are.
pub(super) fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(SYSTEM_FOLDERS.iter().map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}
