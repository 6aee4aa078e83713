//! x
pub(crate) const SHORT: &str = "";
pub(crate) const LONG: &str = "";
