//! What the gateway says, done.

use super::{EventLoop, LOAD_LIMIT, LOADS_MAX, line_input};
use crate::field::line::LineCommand;
use crate::field::port::{PortCommand, PortEvent};
use crate::gateway::boundary::{Input, JournalCommand, JournalEvent, Notice, Output};
use crate::gateway::settings::Config;
use crate::host::serial::Progress;
use crate::host::timer::TimerKey;
use crate::host::token::Source;
use crate::host::worker::Answer;
use crate::host::{HostEvent, clock, footprint};
use crate::id::{ControlId, RequestId};
use crate::journal::disk::DiskCommand;
use crate::slab::Key;
use crate::time::Now;

impl EventLoop {
    pub(super) fn do_outputs(&mut self, now: Now) {
        while let Some(output) = self.gateway.poll_output() {
            self.do_output(now, output);
        }
        let inputs = &mut self.inputs;
        self.buses.hand_over(&mut self.timers, |request, outcome| {
            inputs.push_back(Input::Bus { request, outcome });
        });
        while let Some(conn) = self.gateway.poll_resumed() {
            self.inputs.push_back(Input::Received { conn, count: 0 });
            if let Some(connection) = self.connections.get_mut(conn)
                && connection.is_readable()
                && !std::mem::replace(&mut connection.is_ready_to_read, true)
            {
                self.ready.push_back(Source::Connection(conn.slot()));
            }
        }
    }

    pub(super) fn do_output(&mut self, now: Now, output: Output) {
        match output {
            Output::Listen {
                listener,
                bind,
                transport,
            } => self.listen(listener, bind, *transport),
            Output::Retune {
                listener,
                transport,
            } => self.retune(listener, *transport),
            Output::Unlisten { listener } => self.unlisten(listener),
            Output::Close { conn, how } => self.start_to_close(conn, how),
            Output::Verify {
                conn,
                hash,
                password,
            } => {
                if !self.passwords.compare(conn, hash, password) {
                    let is_right = false;
                    self.inputs.push_back(Input::Verified { conn, is_right });
                }
            }
            Output::OpenBus { bus, settings } => self.buses.open(bus, settings),
            Output::CloseBus { bus } => self.buses.close(bus),
            Output::Bus {
                bus,
                request,
                op,
                deadline,
            } => {
                let refused = self
                    .buses
                    .submit(&mut self.timers, bus, request, op, deadline);
                if let Some(outcome) = refused {
                    self.inputs.push_back(Input::Bus { request, outcome });
                }
            }
            Output::Line(command) => self.command_line(now, command),
            Output::Port(command) => self.command_port(now, command),
            Output::Control { client, line } => self.answer_control(client, &line),
            Output::Load { request } => self.load(Some(request)),
            Output::Journal(JournalCommand::Fetch { message }) => {
                // Everything that a session waits for is in memory.
                let payload = None;
                self.inputs
                    .push_back(Input::Journal(JournalEvent::Fetched { message, payload }));
            }
            Output::Disk(command) => self.command_disk(now, command),
            Output::Dial { bridge, target } => self.dial(now, bridge, target),
            Output::Undial { bridge } => self.upstreams.undial(&mut self.timers, bridge),
            Output::DeadLetter { bridge, line } => {
                self.counters.dead_letters_lost += self.letters.keep(bridge, line);
            }
            Output::Notice(notice) => self.notice(now, &notice),
        }
    }

    /// Hands over what the journal wants of its disk. Also in the middle of a turn, when the disk
    /// has just become free: it does not wait until every source has been read.
    pub(super) fn feed_disk(&mut self, now: Now) {
        while let Some(command) = self.gateway.poll_disk() {
            self.command_disk(now, command);
        }
    }

    fn command_disk(&mut self, now: Now, command: DiskCommand) {
        let (timers, inputs) = (&mut self.timers, &mut self.inputs);
        self.disk.submit(timers, now.monotonic, command, |event| {
            inputs.push_back(Input::Disk(event));
        });
    }

    pub(super) fn command_line(&mut self, now: Now, command: LineCommand) {
        let registry = self.poll.registry();
        let answer = self
            .lines
            .command(registry, &mut self.timers, now.monotonic, command);
        self.inputs.extend(answer.map(line_input));
    }

    pub(super) fn command_port(&mut self, now: Now, command: PortCommand) {
        let registry = self.poll.registry();
        let timers = &mut self.timers;
        let (port, lost) = match command {
            PortCommand::Open { port, settings } => {
                let refused = self
                    .ports
                    .open(registry, timers, now.monotonic, port, settings);
                (port, refused)
            }
            PortCommand::Write { port, bytes } => {
                match self.ports.write(registry, timers, port, bytes) {
                    Progress::Lost(fault) => (port, Some(fault)),
                    Progress::Some(_) | Progress::Blocked => (port, None),
                }
            }
            PortCommand::Close { port } => {
                self.ports.close(registry, timers, port);
                (port, None)
            }
        };
        if let Some(fault) = lost {
            log::warn!("serial port lost: {fault}");
            let event = PortEvent::Closed(fault);
            self.inputs.push_back(Input::Port { port, event });
        }
    }

    pub(super) fn answer_control(&mut self, client: ControlId, line: &str) {
        if let Some(control) = &mut self.control
            && control.send(client, line)
        {
            self.ready.push_back(Source::Control(client.slot()));
        }
    }

    pub(super) fn notice(&mut self, now: Now, notice: &Notice) {
        match notice {
            Notice::Ready => {
                self.is_starting_since = None;
                self.systemd.ready();
                footprint::forget_start();
                self.settled_at = Some(now.monotonic + footprint::SETTLED_AFTER);
            }
            Notice::Reloaded => self.systemd.ready(),
            Notice::Reloading => self.systemd.reloading(),
            Notice::Stopped => self.last_bytes(now),
            Notice::Failed { why } => self.failed = Some(why.clone()),
        }
        self.tell(HostEvent::Notice(notice));
    }

    pub(super) fn tell(&mut self, event: HostEvent<'_>) {
        if let Some(on_event) = &mut self.on_event {
            on_event(event);
        }
    }

    pub(super) fn load(&mut self, request: Option<RequestId>) {
        let refusal = if self.loader.is_none() {
            "there is no configuration file to read again"
        } else if self.loads.len() >= LOADS_MAX {
            "too many reloads wait for one another"
        } else {
            self.loads.push_back(request);
            if self.loads.len() == 1 {
                self.start_load();
            }
            return;
        };
        let outcome = Err(refusal.into());
        self.inputs.push_back(Input::Loaded { request, outcome });
    }

    pub(super) fn start_load(&mut self) {
        let Some(loader) = self.loader.clone() else {
            return;
        };
        self.load_count += 1;
        let (count, mailbox) = (self.load_count, self.mailbox.clone());
        let errand = move || {
            let outcome = match loader() {
                Ok(config) => Ok(Box::new(config)),
                Err(errors) => Err(errors.into_boxed_str()),
            };
            mailbox.post(Answer::Loaded { count, outcome });
        };
        // Without a thread for it, the deadline answers.
        let _ = self.errands.run("load", errand);
        let limit = clock::monotonic() + LOAD_LIMIT;
        self.timers.arm(TimerKey::Load, limit);
    }

    pub(super) fn loaded(&mut self, now: Now, outcome: Result<Box<Config>, Box<str>>) {
        self.timers.disarm(TimerKey::Load);
        // A late answer belongs to nobody from here on.
        self.load_count += 1;
        if outcome.is_ok() {
            // What is named by a path may have changed, though the path has not.
            self.credentials.read_again(&mut self.timers);
            self.users.forget();
        }
        if let Some(request) = self.loads.pop_front() {
            self.gateway
                .handle_input(now, Input::Loaded { request, outcome });
        }
        if !self.loads.is_empty() {
            self.start_load();
        }
    }
}
