//! The demo's plant: a tank with a pump, a valve and a heater, behind a real pty that speaks lines.
//!
//! It plays a device that somebody else built. So it has what a foreign device has and nothing of
//! ours may have: a thread and a clock of its own. It shares nothing with the gateway but the pty,
//! through which the `lines` driver reads and commands it like any instrument; it dies with the
//! process that started it.
//!
//! | it says, every second and after every command | it understands |
//! |---|---|
//! | `LEVEL=61.3 TEMP=21.4 FLOW=18.2 PUMP=0 VALVE=1` | `PUMP 0`, `PUMP 1`, `VALVE 0`, `VALVE 1` |
//!
//! LEVEL is in %, TEMP in °C, FLOW (out of the valve) in l/min. What it does not understand it
//! answers with `ERR`. [`Physics`] is a pure function of its state and a time step; [`Plant`] is
//! the thread.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::pty::openpty;
use nix::sys::signal::{SigSet, SigmaskHow};
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::ttyname;

/// How often it speaks unasked.
const PERIOD: Duration = Duration::from_secs(1);

/// A command longer than this is thrown away up to its end.
const COMMAND_MAX: usize = 64;

/// The running plant. Dropping it stops the thread and closes the pty.
#[derive(Debug)]
pub struct Plant {
    path: String,
    waker: Arc<Waker>,
    thread: Option<JoinHandle<()>>,
    /// Held open, for a pty whose other side nobody has open answers with EIO.
    _other_side: OwnedFd,
}

impl Plant {
    /// Opens a pty and starts the plant behind it.
    pub fn start() -> io::Result<Self> {
        let pty = openpty(None, None)?;
        // A serial line has no echo and no line editing. Whoever opens it sets this again, but what
        // we say before must not come back to us as a command.
        let mut settings = tcgetattr(&pty.slave)?;
        cfmakeraw(&mut settings);
        tcsetattr(&pty.slave, SetArg::TCSANOW, &settings)?;
        let flags = OFlag::from_bits_retain(fcntl(&pty.master, FcntlArg::F_GETFL)?);
        fcntl(&pty.master, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        let path = ttyname(&pty.slave)?.to_string_lossy().into_owned();

        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), STOP)?);
        poll.registry().register(
            &mut SourceFd(&pty.master.as_raw_fd()),
            COMMAND,
            Interest::READABLE,
        )?;
        let panel = Panel {
            port: File::from(pty.master),
            physics: Physics::default(),
            partial: Vec::new(),
            overlong: false,
        };
        Ok(Self {
            path,
            waker,
            thread: Some(spawn_without_signals("plant", move || panel.run(poll))?),
            _other_side: pty.slave,
        })
    }

    /// The device node to open: `/dev/pts/7`.
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl Drop for Plant {
    fn drop(&mut self) {
        if self.waker.wake().is_ok()
            && let Some(thread) = self.thread.take()
        {
            // It cannot fail but by a panic, which has been printed; there is nobody to tell twice.
            let _ = thread.join();
        }
    }
}

/// Starts a thread of the demo that takes no signal. They are the gateway's: one that came here
/// would end the process without a clean stop.
pub fn spawn_without_signals(
    name: &str,
    run: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    let thread = thread::Builder::new().name(name.to_owned()).spawn(run);
    before.thread_set_mask()?;
    thread
}

/// Asks this process for a clean end, as Ctrl-C does, from any thread.
pub fn stop_this_process() {
    // A process may always send itself a signal.
    let _ = nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGTERM);
}

const STOP: Token = Token(0);
const COMMAND: Token = Token(1);

/// The plant's control panel: its serial port, and what it does with commands.
#[derive(Debug)]
struct Panel {
    port: File,
    physics: Physics,
    /// A command whose end has not come yet.
    partial: Vec<u8>,
    /// The command that is being read is too long; wait for its end.
    overlong: bool,
}

impl Panel {
    fn run(mut self, mut poll: Poll) {
        let mut events = Events::with_capacity(4);
        let mut before = Instant::now();
        let mut next = before;
        loop {
            let now = Instant::now();
            self.physics.advance(now - before);
            before = now;
            if now >= next {
                self.say(&self.physics.line());
                next = now + PERIOD;
            }
            let timeout = next.saturating_duration_since(now);
            match poll.poll(&mut events, Some(timeout)) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return,
                _ => {}
            }
            for event in &events {
                if event.token() == STOP || !self.listen() {
                    return;
                }
            }
        }
    }

    /// Reads what has come. `false`: the pty is gone.
    fn listen(&mut self) -> bool {
        let mut bytes = [0; 256];
        loop {
            match self.port.read(&mut bytes) {
                Ok(0) => return false,
                Ok(count) => self.take_in(&bytes[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
    }

    fn take_in(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if matches!(byte, b'\n' | b'\r') {
                let command = std::mem::take(&mut self.partial);
                let overlong = std::mem::take(&mut self.overlong);
                if command.is_empty() && !overlong {
                    continue;
                }
                if !overlong && self.physics.command(&command) {
                    self.say(&self.physics.line());
                } else {
                    self.say("ERR");
                }
            } else if self.partial.len() < COMMAND_MAX {
                self.partial.push(byte);
            } else {
                self.overlong = true;
            }
        }
    }

    /// If nobody reads, the pty fills up, and a line that does not fit is lost as on a wire.
    fn say(&self, line: &str) {
        let _ = (&self.port).write(format!("{line}\r\n").as_bytes());
    }
}

/// The tank: 100 l, fed by a pump and a small spring of cold water, drained by a valve, heated by a
/// thermostat.
///
/// | what | how much |
/// |---|---|
/// | pump | 0.9 l/s while it runs |
/// | spring | 0.12 l/s, always |
/// | valve | 0.6 l/s at full level, less as the root of the level (Torricelli), times the demand |
/// | demand | swings by a fifth, once in 47 s |
/// | heater | 3 kW, on below 40 °C, off above 45 °C |
/// | losses | 30 W for each °C above the room's 20 °C |
#[derive(Debug, Clone, PartialEq)]
pub struct Physics {
    litres: f64,
    celsius: f64,
    outflow: f64,
    pump_runs: bool,
    valve_is_open: bool,
    heater_is_on: bool,
    /// Seconds since the start, for the demand.
    elapsed: f64,
    /// Time that has passed and is shorter than a step.
    left_over: f64,
}

const TANK_LITRES: f64 = 100.0;
const PUMP_LITRES_PER_S: f64 = 0.9;
const SPRING_LITRES_PER_S: f64 = 0.12;
const VALVE_LITRES_PER_S: f64 = 0.6;
const DEMAND_SWING: f64 = 0.2;
const DEMAND_PERIOD_S: f64 = 47.0;
const SUPPLY_CELSIUS: f64 = 12.0;
const ROOM_CELSIUS: f64 = 20.0;
const HEATER_WATTS: f64 = 3000.0;
const HEATER_ON_BELOW: f64 = 40.0;
const HEATER_OFF_ABOVE: f64 = 45.0;
const LOSS_WATTS_PER_KELVIN: f64 = 30.0;
/// A litre of water is a kilogram, nearly.
const JOULES_PER_LITRE_KELVIN: f64 = 4186.0;
/// A tank that runs dry still holds this much, so that its temperature means something.
const DREGS_LITRES: f64 = 2.0;

/// One step of the integration: short against everything that happens in the tank.
const STEP_S: f64 = 0.1;

/// A process that was stopped for a while does not spend as long catching up.
const ADVANCE_MAX_S: f64 = 60.0;

impl Default for Physics {
    /// Two thirds full and lukewarm; the valve is open, the pump waits for a command.
    fn default() -> Self {
        Self {
            litres: 62.0,
            celsius: 38.0,
            outflow: 0.0,
            pump_runs: false,
            valve_is_open: true,
            heater_is_on: true,
            elapsed: 0.0,
            left_over: 0.0,
        }
    }
}

impl Physics {
    /// Lets time pass, in whole steps; the rest of it is kept for the next call.
    pub fn advance(&mut self, time: Duration) {
        self.left_over = (self.left_over + time.as_secs_f64()).min(ADVANCE_MAX_S);
        while self.left_over >= STEP_S {
            self.left_over -= STEP_S;
            self.step();
        }
    }

    fn step(&mut self) {
        self.elapsed += STEP_S;
        let demand =
            1.0 + DEMAND_SWING * (self.elapsed / DEMAND_PERIOD_S * core::f64::consts::TAU).sin();
        self.outflow = if self.valve_is_open && self.litres > DREGS_LITRES {
            VALVE_LITRES_PER_S * (self.litres / TANK_LITRES).sqrt() * demand
        } else {
            0.0
        };
        let pumped = if self.pump_runs {
            PUMP_LITRES_PER_S
        } else {
            0.0
        };
        let inflow = (pumped + SPRING_LITRES_PER_S) * STEP_S;

        // Cold water mixes in; what overflows or runs out has the tank's own temperature.
        self.celsius =
            (self.celsius * self.litres + SUPPLY_CELSIUS * inflow) / (self.litres + inflow);
        self.litres =
            (self.litres + inflow - self.outflow * STEP_S).clamp(DREGS_LITRES, TANK_LITRES);

        if self.celsius < HEATER_ON_BELOW {
            self.heater_is_on = true;
        } else if self.celsius > HEATER_OFF_ABOVE {
            self.heater_is_on = false;
        }
        let heat = if self.heater_is_on { HEATER_WATTS } else { 0.0 };
        let loss = LOSS_WATTS_PER_KELVIN * (self.celsius - ROOM_CELSIUS);
        self.celsius += (heat - loss) * STEP_S / (self.litres * JOULES_PER_LITRE_KELVIN);
    }

    /// Does what a line without its end asks for; `false` if it is no command.
    pub fn command(&mut self, line: &[u8]) -> bool {
        let Some((what, value)) = std::str::from_utf8(line)
            .ok()
            .and_then(|line| line.trim().split_once(' '))
        else {
            return false;
        };
        let value = match value.trim() {
            "0" => false,
            "1" => true,
            _ => return false,
        };
        match what {
            "PUMP" => self.pump_runs = value,
            "VALVE" => self.valve_is_open = value,
            _ => return false,
        }
        true
    }

    /// What it says, without the line's end.
    pub fn line(&self) -> String {
        format!(
            "LEVEL={:.1} TEMP={:.2} FLOW={:.2} PUMP={} VALVE={}",
            self.level_percent(),
            self.celsius,
            self.outflow * 60.0,
            u8::from(self.pump_runs),
            u8::from(self.valve_is_open),
        )
    }

    /// How full the tank is.
    pub fn level_percent(&self) -> f64 {
        self.litres / TANK_LITRES * 100.0
    }

    /// How warm its water is.
    pub fn celsius(&self) -> f64 {
        self.celsius
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};

    use super::*;

    fn after(physics: &Physics, seconds: u64) -> Physics {
        let mut later = physics.clone();
        for _ in 0..seconds {
            later.advance(Duration::from_secs(1));
        }
        later
    }

    #[test]
    fn one_state_and_one_time_have_one_future() {
        let start = Physics::default();
        assert_eq!(after(&start, 100), after(&start, 100));
        // The same time in other portions is the same number of steps.
        let mut portions = start.clone();
        for _ in 0..400 {
            portions.advance(Duration::from_millis(250));
        }
        assert!((portions.level_percent() - after(&start, 100).level_percent()).abs() < 0.1);
    }

    #[test]
    fn the_pump_fills_the_tank_and_no_further_than_full() {
        let mut plant = Physics::default();
        let without = after(&plant, 60).level_percent();
        assert!(plant.command(b"PUMP 1"));
        assert!(after(&plant, 60).level_percent() > without + 40.0);
        assert!(plant.command(b"VALVE 0"));
        assert!((after(&plant, 600).level_percent() - 100.0).abs() < 1e-9);
    }

    #[test]
    fn the_open_valve_drains_it_down_to_what_the_spring_brings() {
        let plant = Physics::default();
        let level = after(&plant, 3600).level_percent();
        assert!((2.0..10.0).contains(&level), "{level}");
        let mut closed = plant.clone();
        assert!(closed.command(b"VALVE 0"));
        let line = after(&closed, 5).line();
        assert!(line.contains("FLOW=0.00"), "{line}");
        assert!(line.ends_with("PUMP=0 VALVE=0"), "{line}");
    }

    #[test]
    fn the_water_is_never_colder_than_the_supply_nor_hotter_than_the_thermostat() {
        let mut plant = Physics::default();
        for second in 0..7200_u64 {
            match second % 600 {
                0 => assert!(plant.command(b"PUMP 1")),
                90 => assert!(plant.command(b"PUMP 0")),
                _ => {}
            }
            plant.advance(Duration::from_secs(1));
            assert!(
                (SUPPLY_CELSIUS..HEATER_OFF_ABOVE + 1.0).contains(&plant.celsius()),
                "{plant:?}"
            );
        }
    }

    #[test]
    fn values_change_from_line_to_line() {
        let plant = Physics::default();
        assert_ne!(after(&plant, 1).line(), after(&plant, 2).line());
    }

    #[test]
    fn what_is_no_command_changes_nothing() {
        let mut plant = Physics::default();
        let commands: [&[u8]; 7] = [
            b"",
            b"PUMP",
            b"PUMP 2",
            b"PUMP 1 1",
            b"pump 1",
            b"\xff\xfe 1",
            b"HEATER 1",
        ];
        for command in commands {
            assert!(!plant.command(command), "{command:?}");
        }
        assert_eq!(plant, Physics::default());
    }

    #[test]
    fn a_long_stop_is_not_caught_up_with() {
        let mut plant = Physics::default();
        plant.advance(Duration::from_secs(1_000_000));
        assert!(plant.elapsed <= ADVANCE_MAX_S + 1.0);
    }

    #[test]
    fn through_the_pty_it_speaks_and_obeys() {
        let plant = Plant::start().unwrap();
        let port = File::options()
            .read(true)
            .write(true)
            .open(plant.path())
            .unwrap();
        let mut lines = BufReader::new(&port).lines();
        let mut next = || lines.next().unwrap().unwrap();
        let first = next();
        assert!(first.starts_with("LEVEL=6"), "{first}");
        assert!(first.ends_with("PUMP=0 VALVE=1"), "{first}");

        (&port).write_all(b"PUMP 1\n").unwrap();
        let answered = (0..3)
            .map(|_| next())
            .any(|line| line.ends_with("PUMP=1 VALVE=1"));
        assert!(answered);

        let overlong = [b'x'; 1000];
        (&port).write_all(&overlong).unwrap();
        (&port).write_all(b"\nVALVE 0\n").unwrap();
        let said: Vec<_> = (0..4).map(|_| next()).collect();
        assert!(said.iter().any(|line| line == "ERR"), "{said:?}");
        assert!(
            said.iter().any(|line| line.ends_with("VALVE=0")),
            "{said:?}"
        );
    }

    #[test]
    fn dropping_it_ends_its_thread() {
        let plant = Plant::start().unwrap();
        let path = plant.path().to_owned();
        assert!(path.starts_with("/dev/pts/"), "{path}");
        drop(plant);
    }
}
