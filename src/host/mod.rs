//! (skeleton)

pub mod plant;
