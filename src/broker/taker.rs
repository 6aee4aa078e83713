//! Who takes messages and who brings them: the two ends of every publication.
//!
//! Nothing enters the broker as a fake client. A bridge, the pipeline and the gateway itself
//! subscribe as a [`Taker`] and publish with an [`Origin`], which decides access, no-local and loop
//! checks.

use crate::id::{BridgeId, PointId, RuleId, SessionId, ShareId};

/// Who gets what a subscription matches. Sessions are served by the broker; for the others it
/// yields a [`Output::Delivery`](super::Output::Delivery).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Taker {
    /// A client's session, connected or not.
    Session(SessionId),
    /// One of the sessions that share a subscription; the broker chooses which.
    Shared(ShareId),
    /// A sending rule of a bridge.
    Bridge(BridgeId, RuleId),
    /// The commands of one point: `…/set` and `…/get`.
    Commands(PointId),
    /// The gateway's own request topics.
    Requests,
}

/// Who published a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// An MQTT client, or the will that it left.
    Client(SessionId),
    /// A receiving rule of a bridge.
    Bridge(BridgeId),
    /// The pipeline: readings, qualities, results.
    Field,
    /// The gateway itself: state, answers, `$SYS`.
    System,
}
