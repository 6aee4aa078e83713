//! The other end of the control socket: one JSON object a line, both ways.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use lexopt::Parser;
use serde_json::{Map, Value, json};

use super::configuration::control_socket;
use super::read::duration;
use super::{Argument, Failure, code};
use crate::time::Duration;
use crate::units::format_duration;

/// An answer longer than this is not one of ours: a device list of thousands of points fits.
const ANSWER_MAX: usize = 16 * 1024 * 1024;

/// How long to wait for one answer when nobody says.
const TIMEOUT: Duration = Duration::from_secs(10);

/// `--socket` and `--timeout` of the verbs that ask a running gateway.
#[derive(Debug)]
pub(crate) struct Reach {
    socket: Option<PathBuf>,
    pub(crate) timeout: Duration,
}

impl Default for Reach {
    fn default() -> Self {
        Self {
            socket: None,
            timeout: TIMEOUT,
        }
    }
}

impl Reach {
    /// Takes an argument if it is one of these.
    pub(crate) fn take(
        &mut self,
        argument: &Argument,
        parser: &mut Parser,
    ) -> Result<bool, Failure> {
        match argument {
            Argument::Long(name) if name == "socket" => self.socket = Some(parser.value()?.into()),
            Argument::Long(name) if name == "timeout" => {
                self.timeout = duration(&super::client::text(parser)?)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Where the gateway is, by the option or by the configuration.
    pub(crate) fn socket(self, config: &Path) -> PathBuf {
        self.socket.unwrap_or_else(|| control_socket(config))
    }
}

/// There is nobody to ask.
pub(crate) fn not_running(socket: &Path) -> Failure {
    Failure::failed(format!("no gateway is running at {}", socket.display()))
}

/// A connection to a running gateway.
#[derive(Debug)]
pub(crate) struct ControlClient {
    stream: UnixStream,
    path: PathBuf,
    /// What came behind the last answer.
    rest: Vec<u8>,
}

/// How a request has ended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Answer {
    /// `data`, or null.
    Ok(Value),
    /// It was refused or has failed.
    Error {
        /// In the gateway's words.
        error: String,
        /// What the gateway adds, or null: with a `read`, what was known before.
        data: Value,
    },
}

impl ControlClient {
    /// `Ok(None)`: no gateway is running there.
    pub(crate) fn connect(path: &Path) -> Result<Option<Self>, Failure> {
        match UnixStream::connect(path) {
            Ok(stream) => Ok(Some(Self {
                stream,
                path: path.to_owned(),
                rest: Vec::new(),
            })),
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::NotFound | ErrorKind::ConnectionRefused | ErrorKind::NotADirectory
                ) =>
            {
                Ok(None)
            }
            Err(error) => {
                let denied = error.kind() == ErrorKind::PermissionDenied;
                let failure =
                    Failure::failed(format!("cannot speak to the gateway at {}", path.display()))
                        .because(error);
                Err(if denied {
                    failure.hint("root, the gateway's own user and its group may")
                } else {
                    failure
                })
            }
        }
    }

    /// Sends a request and waits for its answer.
    pub(crate) fn request(
        &mut self,
        verb: &str,
        fields: Map<String, Value>,
        timeout: Duration,
    ) -> Result<Answer, Failure> {
        self.request_while(verb, fields, timeout, "the gateway", |client, left| {
            client.receive(left).map(drop)
        })
    }

    /// Sends a request and calls `wait`, which receives what comes within the time that is left at
    /// most, until the answer is there. `who` has not answered if that takes longer than `timeout`.
    pub(crate) fn request_while(
        &mut self,
        verb: &str,
        fields: Map<String, Value>,
        timeout: Duration,
        who: &str,
        mut wait: impl FnMut(&mut Self, Duration) -> Result<(), Failure>,
    ) -> Result<Answer, Failure> {
        self.send(verb, fields)?;
        let started = std::time::Instant::now();
        loop {
            if let Some(answer) = self.take_answer()? {
                return Ok(answer);
            }
            let left = timeout.saturating_sub(started.elapsed());
            if left.is_zero() {
                let timeout = format_duration(timeout);
                let text = format!("{who} has not answered within {timeout}");
                return Err(Failure::with_code(code::NO_ANSWER, text));
            }
            wait(self, left)?;
        }
    }

    /// Sends a request and does not wait.
    fn send(&mut self, verb: &str, mut fields: Map<String, Value>) -> Result<(), Failure> {
        fields.insert("verb".to_owned(), json!(verb));
        let mut line = Value::Object(fields).to_string();
        line.push('\n');
        self.stream
            .write_all(line.as_bytes())
            .map_err(|error| self.lost(error))
    }

    /// Reads what there is, waiting for it up to `timeout`; `false` if nothing has come.
    pub(crate) fn receive(&mut self, timeout: Duration) -> Result<bool, Failure> {
        // Zero would mean for ever.
        let timeout = timeout.max(Duration::from_millis(1));
        self.stream
            .set_read_timeout(Some(timeout))
            .map_err(|error| self.lost(error))?;
        let mut bytes = [0; 4096];
        match self.stream.read(&mut bytes) {
            Ok(0) => Err(self.lost(ErrorKind::UnexpectedEof.into())),
            Ok(count) => {
                self.rest.extend_from_slice(&bytes[..count]);
                Ok(true)
            }
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) =>
            {
                Ok(false)
            }
            Err(error) => Err(self.lost(error)),
        }
    }

    /// The next whole line of what was read.
    fn take_answer(&mut self) -> Result<Option<Answer>, Failure> {
        let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') else {
            if self.rest.len() > ANSWER_MAX {
                return Err(self.nonsense());
            }
            return Ok(None);
        };
        let line: Vec<u8> = self.rest.drain(..=end).collect();
        let Ok(Value::Object(mut answer)) = serde_json::from_slice(&line) else {
            return Err(self.nonsense());
        };
        match answer.get("status").and_then(Value::as_str) {
            Some("ok") => Ok(Some(Answer::Ok(
                answer.remove("data").unwrap_or(Value::Null),
            ))),
            Some("error") => {
                let error = answer.get("error").and_then(Value::as_str);
                Ok(Some(Answer::Error {
                    error: error.unwrap_or("no reason given").to_owned(),
                    data: answer.remove("data").unwrap_or(Value::Null),
                }))
            }
            _ => Err(self.nonsense()),
        }
    }

    fn nonsense(&self) -> Failure {
        Failure::failed(format!(
            "what answers at {} is no gateway",
            self.path.display()
        ))
    }

    fn lost(&self, error: io::Error) -> Failure {
        let text = format!(
            "the gateway at {} has closed the connection",
            self.path.display()
        );
        Failure::failed(text).because(error)
    }
}

/// The exit code of an error that the gateway answers: its words start with the kind of fault.
pub(crate) fn code_of(error: &str) -> u8 {
    match error.split_once(':').map(|(kind, _)| kind) {
        Some("no_answer" | "timeout") => code::NO_ANSWER,
        _ => code::FAILED,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    fn served(
        answers: &'static [&'static [u8]],
    ) -> (ControlClient, thread::JoinHandle<Vec<String>>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let client = ControlClient {
            stream: ours,
            path: "test".into(),
            rest: Vec::new(),
        };
        let server = thread::spawn(move || {
            let mut seen = Vec::new();
            let mut lines = BufReader::new(&theirs).lines();
            for answer in answers {
                seen.push(lines.next().unwrap().unwrap());
                for piece in answer.chunks(5) {
                    (&theirs).write_all(piece).unwrap();
                }
            }
            seen
        });
        (client, server)
    }

    const LONG: Duration = Duration::from_secs(10);

    #[test]
    fn an_answer_is_put_together_from_pieces() {
        let (mut client, server) = served(&[
            b"{\"status\":\"ok\",\"data\":{\"value\":21.4}}\n",
            b"{\"status\":\"error\",\"error\":\"timeout: no reading\",\"data\":{\"value\":null}}\n",
        ]);
        let point = Map::from_iter([("point".to_owned(), json!("a/b"))]);
        let answer = client.request("read", point, LONG).unwrap();
        assert_eq!(answer, Answer::Ok(json!({"value": 21.4})));
        let answer = client.request("devices", Map::new(), LONG).unwrap();
        let error = "timeout: no reading".to_owned();
        let data = json!({"value": null});
        assert_eq!(answer, Answer::Error { error, data });
        let seen = server.join().unwrap();
        let first: Value = serde_json::from_str(&seen[0]).unwrap();
        assert_eq!(first, json!({"verb": "read", "point": "a/b"}));
    }

    #[test]
    fn silence_nonsense_and_an_end_are_told_apart() {
        let (mut client, server) = served(&[]);
        server.join().unwrap();
        assert_eq!(
            client.request("read", Map::new(), LONG).unwrap_err().code(),
            1
        );

        let (mut client, server) = served(&[b"hello\n"]);
        let failure = client.request("read", Map::new(), LONG).unwrap_err();
        assert!(failure.to_string().contains("no gateway"), "{failure}");
        server.join().unwrap();

        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut client = ControlClient {
            stream: ours,
            path: "test".into(),
            rest: Vec::new(),
        };
        let short = Duration::from_millis(1);
        let failure = client.request("read", Map::new(), short).unwrap_err();
        assert_eq!(failure.code(), code::NO_ANSWER);
    }

    #[test]
    fn nobody_there_is_no_failure() {
        let path = std::env::temp_dir().join(format!("fieldgate-control-{}", std::process::id()));
        assert!(ControlClient::connect(&path).unwrap().is_none());
        // A stale socket of a gateway that has crashed.
        drop(UnixListener::bind(&path).unwrap());
        assert!(ControlClient::connect(&path).unwrap().is_none());
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn faults_have_exit_codes() {
        assert_eq!(code_of("no_answer: nothing at 0x76"), 4);
        assert_eq!(code_of("timeout: 5 s"), 4);
        assert_eq!(code_of("refused: not writable"), 1);
        assert_eq!(code_of("there is no point \"a\": name it DEVICE/POINT"), 1);
    }
}
