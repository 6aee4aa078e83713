//! A gateway for one command: the same machine and the same host, with one device and nobody else.
//!
//! `read` without a running gateway and `set --direct` use a device through the very code that a
//! gateway would use: a configuration with that device alone, no listener, and a control socket in
//! a folder that only this user may enter.

use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::{fs, io};

use serde_json::{Map, Value};

use crate::config::Meant;
use crate::field::settings::{Driver, GpioKind};
use crate::gateway::settings::Config;
use crate::host::{ControlSettings, EventLoop, ExitReason, Flow, HostError, HostSettings};
use crate::time::Duration;

use super::client::random_id;
use super::control::{Answer, ControlClient};
use super::{Failure, code};

/// How long a turn may wait before we look for an answer.
const LOOK: Duration = Duration::from_millis(20);

/// A gateway that runs as long as somebody turns it.
pub(crate) struct Direct {
    gateway: EventLoop,
    client: ControlClient,
    /// Dropped last: it holds the socket.
    _folder: Folder,
}

/// What the device is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use<'a> {
    /// All its points, but no outputs: asking for one as an output would drive it.
    Read,
    /// This point, and no other that can be driven.
    Set(&'a str),
}

impl Direct {
    /// Starts a gateway with one device of a configuration.
    pub(crate) fn start(meant: &Meant, device: &str, wanted: Use<'_>) -> Result<Self, Failure> {
        let config = only(&meant.gateway, device, wanted)?;
        let folder = Folder::new()
            .map_err(|error| Failure::failed("cannot make a folder").because(error))?;
        let path = folder.0.join("control.sock");
        let settings = HostSettings {
            control: Some(ControlSettings {
                path: path.to_string_lossy().into(),
                group: None,
            }),
            handle_signals: true,
            ..HostSettings::default()
        };
        let failed = |error| Failure::failed("cannot use the device").because(error);
        let mut gateway = EventLoop::new(config, settings).map_err(failed)?;
        gateway.turn(Some(Duration::ZERO)).map_err(failed)?;
        let client = ControlClient::connect(&path)?
            .ok_or_else(|| Failure::failed("the control socket has no other end"))?;
        // Until its lines and its port are open, a device refuses what it is told. The host gives
        // up each that takes too long.
        while gateway.is_opening() {
            if let Flow::Exit(_) = turn(&mut gateway, LOOK)? {
                return Err(Failure::silent(code::FAILED));
            }
        }
        Ok(Self {
            gateway,
            client,
            _folder: folder,
        })
    }

    /// Asks, and lets the gateway do its work until it answers.
    pub(crate) fn request(
        &mut self,
        verb: &str,
        fields: Map<String, Value>,
        timeout: Duration,
    ) -> Result<Answer, Failure> {
        let gateway = &mut self.gateway;
        self.client.request_while(
            verb,
            fields,
            timeout,
            "the device",
            |client, left| match turn(gateway, left.min(LOOK))? {
                Flow::Continue => client.receive(Duration::ZERO).map(drop),
                Flow::Exit(_) => Err(Failure::silent(code::FAILED)),
            },
        )
    }

    /// Goes on until the time is up, or a signal asks for the end. `true`: a signal did.
    pub(crate) fn hold(&mut self, time: Option<Duration>) -> Result<bool, Failure> {
        let started = std::time::Instant::now();
        while time.is_none_or(|time| started.elapsed() < time) {
            if let Flow::Exit(_) = turn(&mut self.gateway, LOOK)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Stops cleanly: outputs go to their safe state.
    pub(crate) fn stop(mut self) -> Result<(), Failure> {
        self.gateway.stop();
        loop {
            match turn(&mut self.gateway, LOOK)? {
                Flow::Continue => {}
                Flow::Exit(ExitReason::Stopped) => return Ok(()),
                Flow::Exit(ExitReason::Interrupted) => {
                    return Err(Failure::failed("stopped before the device was safe"));
                }
            }
        }
    }
}

fn turn(gateway: &mut EventLoop, limit: Duration) -> Result<Flow, Failure> {
    gateway
        .turn(Some(limit))
        .map_err(|error: HostError| Failure::failed("cannot go on with the device").because(error))
}

/// The configuration with one device, and of that what is wanted.
fn only(config: &Config, name: &str, wanted: Use<'_>) -> Result<Config, Failure> {
    let Some(device) = config.devices.get(name) else {
        let names: Vec<_> = config.devices.keys().map(AsRef::as_ref).collect();
        return Err(Failure::failed(format!("there is no device `{name}`"))
            .hint(format!("the configuration has {}", names.join(", "))));
    };
    let mut device = device.clone();
    if let Driver::Gpio(gpio) = &mut device.field.driver {
        gpio.points.retain(|point, settings| match wanted {
            Use::Read => !matches!(settings.kind, GpioKind::Output(_)),
            Use::Set(wanted) => **point == *wanted,
        });
        if gpio.points.is_empty() {
            return Err(match wanted {
                Use::Read => Failure::failed(format!("`{name}` has outputs alone"))
                    .hint("without a running gateway, reading one would mean to drive it"),
                Use::Set(point) => no_point(name, point),
            });
        }
        let kept = &gpio.points;
        device.points.retain(|point, _| kept.contains_key(point));
    }
    if let Use::Set(point) = wanted
        && !device.points.contains_key(point)
    {
        return Err(no_point(name, point));
    }
    // What is asked for is wanted now, whatever the schedule of a gateway would be.
    Ok(Config {
        journal: None,
        listeners: std::collections::BTreeMap::new(),
        bridges: std::collections::BTreeMap::new(),
        devices: [(name.into(), device)].into(),
        ..config.clone()
    })
}

fn no_point(device: &str, point: &str) -> Failure {
    Failure::failed(format!("`{device}` has no point `{point}`"))
}

/// A folder of this user alone, gone afterwards.
struct Folder(PathBuf);

impl Folder {
    fn new() -> io::Result<Self> {
        let path = std::env::temp_dir().join(random_id("direct"));
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed from the system's own folder for such things is removed by it.
        let _ = fs::remove_dir_all(&self.0);
    }
}
