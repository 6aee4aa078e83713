//! The devices wired to the machine: drivers as step machines, schedules, back-off, outputs that
//! are safe.
//!
//! The field owns its devices' state. It never touches a bus: it asks for transfers, lines and
//! ports with [`Output`], and the host answers. One silent device holds up nothing but itself.

pub mod bus;
pub mod line;
pub mod port;
pub mod settings;
