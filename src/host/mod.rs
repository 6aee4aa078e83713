//! (skeleton)

pub mod dial;
pub mod local_time;
pub mod plant;
pub mod scan;
