//! Server redirection (4.11): clients of a listener are told to use another server.
//!
//! Who comes is refused with the reference in CONNACK, before anybody asks who it is; who is there
//! is disconnected with it. A client of 3.1.1 hears that the server is unavailable, or nothing.

use std::rc::Rc;

use super::Broker;
use super::connection::Phase;
use super::settings::Redirect;
use crate::buffer::Outbox;
use crate::id::ConnId;
use crate::mqtt::ReasonCode;
use crate::time::Now;

impl Redirect {
    /// Use another server, or Server moved.
    pub(super) fn reason(&self) -> ReasonCode {
        if self.is_permanent {
            ReasonCode::ServerMoved
        } else {
            ReasonCode::UseAnotherServer
        }
    }

    /// What stands beside this reason.
    pub(super) fn reference_for(&self, reason: ReasonCode) -> Option<&str> {
        (reason == self.reason()).then_some(&*self.reference)
    }
}

impl Broker {
    /// A connection's listener sends its clients elsewhere, or does not any more.
    pub fn handle_redirected(
        &mut self,
        now: Now,
        conn: ConnId,
        redirect: Option<Rc<Redirect>>,
        outbox: &mut Outbox,
    ) {
        self.now = now;
        if let Some(connection) = self.connections.get_mut(conn) {
            connection.redirect.clone_from(&redirect);
            if let (Phase::Live(_), Some(redirect)) = (connection.phase, redirect) {
                self.stats.redirects += 1;
                self.disconnect(conn, redirect.reason(), "", outbox);
            }
        }
        self.finish(outbox);
    }
}
