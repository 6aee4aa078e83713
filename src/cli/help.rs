//! x
pub(crate) const SHORT: &str = "";
pub(crate) const LONG: &str = "";
pub(crate) const PUB: &str = "";
pub(crate) const SUB: &str = "";
pub(crate) const SCAN: &str = "";
