//! Finding a chip and a line on it, requesting it from the kernel, and what the kernel answers in
//! words of the field. Everything in here may block: workers call it.

use std::path::PathBuf;
use std::sync::Arc;

use gpiocdev::line::{EdgeDetection, EventClock, Value};
use nix::errno::Errno;

use super::Handle;
use crate::field::line::{Bias, Chip, Direction, Drive, Edges, LineRef, LineSettings};
use crate::point::{Fault, FaultKind};

/// Labels of the chip behind the 40-pin header: Pi 0 to 3, Pi 4, Pi 5.
pub(in crate::host) const HEADER_LABELS: [&str; 3] =
    ["pinctrl-bcm2835", "pinctrl-bcm2711", "pinctrl-rp1"];

/// As `gpioinfo` shows who holds a line.
const CONSUMER: &str = "fieldgate";

/// Finds chip and line and requests it. Blocks; called by workers.
pub(super) fn request(settings: &LineSettings) -> Result<(Handle, bool), Fault> {
    let path = find_chip(&settings.chip)?;
    let chip =
        gpiocdev::Chip::from_path(&path).map_err(|error| fault_of(&error, "opening the chip"))?;
    let offset = find_line(&chip, &settings.line)?;
    let mut builder = gpiocdev::Request::builder();
    builder
        .on_chip(&path)
        .with_consumer(CONSUMER)
        .with_line(offset);
    if settings.active_low {
        builder.as_active_low();
    }
    let has_edges = matches!(settings.direction, Direction::Input { .. });
    let mut as_it_is = false;
    match &settings.direction {
        Direction::Input {
            edges,
            debounce,
            event_buffer,
        } => {
            builder
                .as_input()
                .with_bias(bias_of(settings.bias))
                .with_edge_detection(edges_of(*edges))
                .with_event_clock(EventClock::Monotonic);
            if !debounce.is_zero() {
                builder.with_debounce_period(*debounce);
            }
            if *event_buffer > 0 {
                builder.with_kernel_event_buffer_size(*event_buffer);
            }
        }
        Direction::Output {
            initial: Some(active),
            drive,
        } => {
            builder
                .as_output(value_of(*active))
                .with_bias(bias_of(settings.bias))
                .with_drive(drive_of(*drive));
        }
        Direction::Output { initial: None, .. } => {
            // Look first, then drive what was seen: the kernel cannot do both in one step.
            builder.as_is();
            as_it_is = true;
        }
    }
    let request = builder
        .request()
        .map_err(|error| refused(&chip, offset, &error))?;
    let abi = chip.detect_abi_version().ok();
    let handle = Handle {
        request: Arc::new(request),
        offset,
        counted: (abi == Some(gpiocdev::AbiVersion::V1)).then_some(0),
        has_edges,
    };
    let active = level(&handle)?;
    if as_it_is && let Direction::Output { drive, .. } = &settings.direction {
        let mut config = gpiocdev::request::Config::default();
        config
            .with_line(offset)
            .as_output(value_of(active))
            .with_bias(bias_of(settings.bias))
            .with_drive(drive_of(*drive));
        if settings.active_low {
            config.as_active_low();
        }
        handle
            .request
            .reconfigure(&config)
            .map_err(|error| fault_of(&error, "driving the line as it is"))?;
    }
    Ok((handle, active))
}

fn find_chip(chip: &Chip) -> Result<PathBuf, Fault> {
    let labels: &[&str] = match chip {
        Chip::Path(path) => return Ok(PathBuf::from(&**path)),
        Chip::Header => &HEADER_LABELS,
        Chip::Label(label) => &[label],
    };
    // A machine without any chip has no GPIO; to the user that is the same as not having this one.
    let mut seen = Vec::new();
    for path in gpiocdev::chip::chips().unwrap_or_default() {
        let Ok(info) = gpiocdev::Chip::from_path(&path).and_then(|chip| chip.info()) else {
            continue;
        };
        if labels.contains(&info.label.as_str()) {
            return Ok(path);
        }
        seen.push(info.label);
    }
    let wanted = match chip {
        Chip::Header => "of a 40-pin header".to_owned(),
        _ => format!("labelled '{}'", labels[0]),
    };
    let there = if seen.is_empty() {
        "there is none that we may open".to_owned()
    } else {
        format!("there is {}", seen.join(", "))
    };
    Err(Fault::new(
        FaultKind::BusError,
        format!("no GPIO chip {wanted}; {there}"),
    ))
}

fn find_line(chip: &gpiocdev::Chip, line: &LineRef) -> Result<u32, Fault> {
    match line {
        LineRef::Offset(offset) => Ok(*offset),
        LineRef::Name(name) => chip
            .find_line_info(name)
            .map(|info| info.offset)
            .ok_or_else(|| {
                let chip = chip.name();
                Fault::new(
                    FaultKind::BusError,
                    format!("{chip} has no line named '{name}'"),
                )
            }),
        LineRef::Pin(pin) => Err(Fault::new(
            FaultKind::BusError,
            format!("header pin {pin} is no line of this chip"),
        )),
    }
}

/// A request that failed, with who holds the line if somebody does.
fn refused(chip: &gpiocdev::Chip, offset: u32, error: &gpiocdev::Error) -> Fault {
    let name = chip.name();
    if errno_of(error) == Some(Errno::EBUSY)
        && let Ok(info) = chip.line_info(offset)
    {
        return Fault::new(
            FaultKind::BusError,
            format!("line {offset} of {name} is in use by '{}'", info.consumer),
        );
    }
    let mut fault = fault_of(error, "requesting the line");
    fault.detail = format!("line {offset} of {name}: {}", fault.detail).into();
    fault
}

pub(super) fn fault_of(error: &gpiocdev::Error, doing: &str) -> Fault {
    let kind = match errno_of(error) {
        // The kernel's answer for a chip that is gone.
        Some(Errno::ENODEV) => FaultKind::Unplugged,
        // A driver's for one behind I2C that is silent.
        Some(Errno::ENXIO | Errno::EREMOTEIO) => FaultKind::NoAnswer,
        Some(Errno::ETIMEDOUT | Errno::EAGAIN) => FaultKind::Timeout,
        _ => FaultKind::BusError,
    };
    Fault::new(kind, format!("{doing}: {error}"))
}

pub(super) fn errno_of(error: &gpiocdev::Error) -> Option<Errno> {
    match error {
        gpiocdev::Error::Os(errno) | gpiocdev::Error::Uapi(_, gpiocdev_uapi::Error::Os(errno)) => {
            Some(Errno::from_raw(errno.0))
        }
        _ => None,
    }
}

/// The logical level of a line that is held.
pub(super) fn level(handle: &Handle) -> Result<bool, Fault> {
    handle
        .request
        .value(handle.offset)
        .map(|value| value == Value::Active)
        .map_err(|error| fault_of(&error, "reading the line"))
}

pub(super) fn value_of(active: bool) -> Value {
    if active {
        Value::Active
    } else {
        Value::Inactive
    }
}

fn edges_of(edges: Edges) -> EdgeDetection {
    match edges {
        Edges::Rising => EdgeDetection::RisingEdge,
        Edges::Falling => EdgeDetection::FallingEdge,
        Edges::Both => EdgeDetection::BothEdges,
    }
}

fn bias_of(bias: Bias) -> Option<gpiocdev::line::Bias> {
    match bias {
        Bias::AsIs => None,
        Bias::Disabled => Some(gpiocdev::line::Bias::Disabled),
        Bias::PullUp => Some(gpiocdev::line::Bias::PullUp),
        Bias::PullDown => Some(gpiocdev::line::Bias::PullDown),
    }
}

fn drive_of(drive: Drive) -> gpiocdev::line::Drive {
    match drive {
        Drive::PushPull => gpiocdev::line::Drive::PushPull,
        Drive::OpenDrain => gpiocdev::line::Drive::OpenDrain,
        Drive::OpenSource => gpiocdev::line::Drive::OpenSource,
    }
}
