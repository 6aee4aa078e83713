//! A folder, a broker, and commands that cannot hang.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// Longer than anything here takes on a slow machine; reaching it is a failure.
pub const LIMIT: Duration = Duration::from_secs(60);

/// A folder of one test, gone afterwards.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("fieldgate-cli-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// How a command ended, and what it said.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

/// Runs a command to its end.
pub fn fieldgate(arguments: &[&str]) -> Ended {
    Running::start(arguments).end()
}

/// Runs a command that reads `input`.
pub fn fieldgate_with_input(arguments: &[&str], input: &[u8]) -> Ended {
    let mut running = Running::start(arguments);
    let mut stdin = running.child.stdin.take().unwrap();
    stdin.write_all(input).unwrap();
    drop(stdin);
    running.end()
}

/// A command that is still at it.
pub struct Running {
    child: Child,
    out: Lines,
    err: Lines,
}

impl Running {
    pub fn start(arguments: &[&str]) -> Self {
        Self::start_program(env!("CARGO_BIN_EXE_fieldgate"), arguments)
    }

    pub fn start_program(program: &str, arguments: &[&str]) -> Self {
        let mut child = Command::new(program)
            .args(arguments)
            .env_remove("FIELDGATE_CONFIG")
            .env_remove("RUST_LOG")
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{program}: {error}"));
        let out = Lines::of(child.stdout.take().unwrap());
        let err = Lines::of(child.stderr.take().unwrap());
        Self { child, out, err }
    }

    /// Waits until it says a line on standard output with this in it, and gives that line.
    pub fn wait_for(&mut self, wanted: &str) -> String {
        self.out.wait_for(wanted)
    }

    /// The same on standard error.
    pub fn wait_for_err(&mut self, wanted: &str) -> String {
        self.err.wait_for(wanted)
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(status.unwrap().success());
    }

    /// Waits until it has ended, which is when both its pipes are closed: nobody else has them.
    pub fn end(mut self) -> Ended {
        drop(self.child.stdin.take());
        let (out, err) = (self.out.rest(), self.err.rest());
        let status = self.child.wait().unwrap();
        Ended {
            code: status.code(),
            out,
            err,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The lines of a pipe, as a thread reads them.
struct Lines {
    from: Receiver<String>,
    seen: String,
}

impl Lines {
    fn of(pipe: impl Read + Send + 'static) -> Self {
        let (to, from) = channel();
        thread::spawn(move || {
            let mut pipe = BufReader::new(pipe);
            let mut line = Vec::new();
            while matches!(pipe.read_until(b'\n', &mut line), Ok(count) if count > 0) {
                let text = String::from_utf8_lossy(&line).into_owned();
                if to.send(text).is_err() {
                    return;
                }
                line.clear();
            }
        });
        Self {
            from,
            seen: String::new(),
        }
    }

    fn wait_for(&mut self, wanted: &str) -> String {
        let started = Instant::now();
        while let Some(line) = self.next(started, wanted) {
            if line.contains(wanted) {
                return line.trim_end().to_owned();
            }
        }
        panic!("it ended without {wanted:?}:\n{}", self.seen)
    }

    /// Everything, once the pipe is closed.
    fn rest(&mut self) -> String {
        let started = Instant::now();
        while self.next(started, "its end").is_some() {}
        std::mem::take(&mut self.seen)
    }

    /// The next line, or nothing at the pipe's end. What is `awaited` has to come in time.
    fn next(&mut self, started: Instant, awaited: &str) -> Option<String> {
        let left = LIMIT.saturating_sub(started.elapsed());
        match self.from.recv_timeout(left) {
            Ok(line) => {
                self.seen.push_str(&line);
                Some(line)
            }
            Err(RecvTimeoutError::Timeout) => {
                panic!("waited in vain for {awaited:?}:\n{}", self.seen)
            }
            Err(RecvTimeoutError::Disconnected) => None,
        }
    }
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// Our own broker, and its configuration's folder.
pub struct Gateway {
    pub running: Running,
    pub port: u16,
    pub folder: Folder,
}

impl Gateway {
    /// With these tables besides its listener and control socket.
    pub fn start(tables: &str) -> Self {
        Self::start_in(Folder::new(), tables)
    }

    /// One that keeps what is to outlive it.
    pub fn start_keeping(tables: &str) -> Self {
        let folder = Folder::new();
        let more = format!(
            "[gateway]\ndata_dir = \"{}\"\n",
            folder.path("data").display()
        );
        fs::create_dir(folder.path("conf.d")).unwrap();
        folder.file("conf.d/data.toml", &more);
        Self::start_in(folder, tables)
    }

    fn start_in(folder: Folder, tables: &str) -> Self {
        let config = configuration(&folder, 0, tables);
        let mut running = Running::start(&["run", "--config", &config]);
        let line = running.wait_for_err("listening name=test");
        let address: SocketAddr = line.rsplit("address=").next().unwrap().parse().unwrap();
        Self {
            running,
            port: address.port(),
            folder,
        }
    }

    /// For `-p`.
    pub fn port(&self) -> String {
        self.port.to_string()
    }
}

/// With port 0, the system chooses one, and the log says which.
pub fn configuration(folder: &Folder, port: u16, tables: &str) -> String {
    let socket = folder.path("control.sock");
    let text = format!(
        "[gateway]\nname = \"test\"\n[listener.test]\nbind = \"127.0.0.1:{port}\"\n\
         [control]\nsocket = \"{}\"\n{tables}",
        socket.display()
    );
    path_text(&folder.file("fieldgate.toml", &text))
}

pub fn path_text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}
