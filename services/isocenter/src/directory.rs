//! Where the services are that this process does not serve: with whoever registered the role.

use std::sync::atomic::{AtomicUsize, Ordering};

use isocenter_runtime::server::{self, Located};
use isocenter_store::members::Members;

use crate::config::Role;

/// The live processes by the services they serve.
#[derive(Debug)]
pub struct Directory {
    members: Members,
    /// Calls go round: each is answered by the next process of the role.
    turn: AtomicUsize,
}

impl Directory {
    /// The processes that `members` knows.
    #[must_use]
    pub const fn new(members: Members) -> Self {
        Self { members, turn: AtomicUsize::new(0) }
    }
}

impl server::Directory for Directory {
    fn locate(&self, service: &str) -> Located {
        let Some(name) = service.strip_prefix("isocenter.v1.") else { return Located::Unknown };
        let Some(role) = Role::EACH.into_iter().find(|role| role.services().contains(&name)) else {
            return Located::Unknown;
        };
        let role = role.name();
        let mut nodes = self.members.nodes(role);
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        match nodes.len() {
            0 => Located::Nowhere { role },
            count => Located::At { role, address: nodes.swap_remove(turn % count).node.address },
        }
    }
}
