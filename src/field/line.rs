//! GPIO lines: what a driver may ask for, and what the kernel says of them.
//!
//! Levels are logical throughout: *active* and *inactive*. `active_low` is the kernel's to apply
//! (`GPIO_V2_LINE_FLAG_ACTIVE_LOW`), so nobody here ever inverts one.

use crate::id::{LineId, RequestId};
use crate::point::Fault;
use crate::time::{Duration, Instant};

/// A line as the host requests it (`struct gpio_v2_line_request`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineSettings {
    /// On which chip.
    pub chip: Chip,
    /// Which of its lines.
    pub line: LineRef,
    /// In or out.
    pub direction: Direction,
    /// A low level means active.
    pub active_low: bool,
    /// The pull resistor, where the chip has one.
    pub bias: Bias,
}

/// How a GPIO chip is named.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Chip {
    /// The chip behind the 40-pin header, found by its label on every Pi.
    Header,
    /// By label, as `gpiodetect` prints it in brackets.
    Label(Box<str>),
    /// By device path.
    Path(Box<str>),
}

/// How a line is named.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum LineRef {
    /// By offset on its chip: the BCM number on the header.
    Offset(u32),
    /// By the name that the device tree gives it: `GPIO17`.
    Name(Box<str>),
    /// By pin of the 40-pin header, 1 to 40. Translated to an offset when the configuration is
    /// read.
    Pin(u8),
}

/// What a line is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Direction {
    /// Read, with edges.
    Input {
        /// Which edges the kernel reports.
        edges: Edges,
        /// The kernel's debounce; zero for none.
        debounce: Duration,
        /// Events that the kernel keeps for us (`event_buffer_size`); 0 for its default, 16 a line.
        event_buffer: u32,
    },
    /// Driven.
    Output {
        /// The level from the moment of the request: there is no moment without one. `None`: as the
        /// line is now.
        initial: Option<bool>,
        /// How active and inactive are driven.
        drive: Drive,
    },
}

/// Which edges count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edges {
    /// To active.
    Rising,
    /// To inactive.
    Falling,
    /// Both.
    Both,
}

/// The pull resistor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Bias {
    /// As it is.
    #[default]
    AsIs,
    /// Off.
    Disabled,
    /// To high.
    PullUp,
    /// To low.
    PullDown,
}

/// How an output drives its line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Drive {
    /// Both levels.
    #[default]
    PushPull,
    /// Low only.
    OpenDrain,
    /// High only.
    OpenSource,
}

/// What the field asks of the host about a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LineCommand {
    /// Request it; answered by [`LineEvent::Ready`] or [`LineEvent::Lost`].
    Request {
        /// As the field will know it.
        line: LineId,
        /// What to request.
        settings: LineSettings,
    },
    /// Drive it; answered by [`LineEvent::Set`].
    Set {
        /// An output that is ready.
        line: LineId,
        /// Named by the answer.
        request: RequestId,
        /// The logical level.
        active: bool,
    },
    /// Ask for its level now; answered by [`LineEvent::Level`].
    Read {
        /// A line that is ready.
        line: LineId,
    },
    /// Give it back to the kernel. No answer, and no event of it from here on.
    Release {
        /// The line.
        line: LineId,
    },
}

/// What the host says about a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LineEvent {
    /// It is ours.
    Ready {
        /// Its logical level now.
        active: bool,
    },
    /// An edge (`struct gpio_v2_line_event`).
    Edge {
        /// The kernel's stamp. It may be later than this turn's `now`.
        at: Instant,
        /// To active, or to inactive.
        active: bool,
        /// Counts this line's edges; a gap proves that the kernel's buffer overflowed.
        line_seqno: u32,
    },
    /// The answer to [`LineCommand::Read`], or to an output being set.
    Level {
        /// The logical level.
        active: bool,
    },
    /// The answer to [`LineCommand::Set`].
    Set {
        /// Of the command.
        request: RequestId,
        /// The level as it now is.
        outcome: Result<bool, Fault>,
    },
    /// It could not be requested, or its chip is gone. The field asks again after a back-off.
    Lost(Fault),
}
