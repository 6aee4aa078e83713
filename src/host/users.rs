//! Names of the users at the other end of unix sockets.
//!
//! The kernel tells their numbers; a name comes from the system's user database, which may ask the
//! network, so that a thread asks it. Names are kept until the configuration is read again. A user
//! without a name is called by its number.

use std::collections::BTreeMap;
use std::sync::Arc;

use nix::unistd::{Uid, User};

use super::worker::{Answer, Errands, Mailbox};
use crate::id::ConnId;

/// Names that are kept; beyond this they are all asked for again.
const NAMES_MAX: usize = 1024;

/// What is known, and who waits to know.
pub(super) struct Users {
    mailbox: Mailbox,
    errands: Arc<Errands>,
    names: BTreeMap<u32, Box<str>>,
    /// Bounded by the connections.
    waiting: BTreeMap<u32, Vec<ConnId>>,
}

/// What came of a question.
pub(super) enum Asked {
    /// It is known.
    Known(Box<str>),
    /// [`Answer::UserName`] will tell.
    Waiting,
    /// There is no thread to ask.
    Nobody,
}

impl Users {
    pub(super) fn new(mailbox: Mailbox, errands: Arc<Errands>) -> Self {
        Self {
            mailbox,
            errands,
            names: BTreeMap::new(),
            waiting: BTreeMap::new(),
        }
    }

    /// Asks for the name of a connection's user.
    pub(super) fn ask(&mut self, uid: u32, conn: ConnId) -> Asked {
        if let Some(name) = self.names.get(&uid) {
            return Asked::Known(name.clone());
        }
        if let Some(waiting) = self.waiting.get_mut(&uid) {
            waiting.push(conn);
            return Asked::Waiting;
        }
        let mailbox = self.mailbox.clone();
        let errand = move || {
            let found = User::from_uid(Uid::from_raw(uid)).ok().flatten();
            let name = found.map(|user| user.name.into_boxed_str());
            mailbox.post(Answer::UserName { uid, name });
        };
        if self.errands.run("user", errand).is_err() {
            return Asked::Nobody;
        }
        self.waiting.insert(uid, vec![conn]);
        Asked::Waiting
    }

    /// The answer: who waited for it, and the name.
    pub(super) fn answered(&mut self, uid: u32, name: Option<Box<str>>) -> (Vec<ConnId>, Box<str>) {
        if self.names.len() >= NAMES_MAX {
            self.names.clear();
        }
        let name = name.unwrap_or_else(|| uid.to_string().into());
        self.names.insert(uid, name.clone());
        (self.waiting.remove(&uid).unwrap_or_default(), name)
    }

    /// Forgets what is known.
    pub(super) fn forget(&mut self) {
        self.names.clear();
    }
}
