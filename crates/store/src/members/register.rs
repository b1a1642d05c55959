//! Keeps this process registered: one lease, one key for each role.

use std::{sync::Arc, time::Duration};

use isocenter_domain::Kinded as _;
use isocenter_wire::node::Node;
use tokio_util::sync::CancellationToken;

use super::{Members, NODES, TTL};
use crate::{
    Compare, Error, Key,
    session::{Session, SessionOptions},
    table::MetaError,
};

/// The pause between attempts while the store is away: short beside the lease, long beside a call.
const RETRY: Duration = Duration::from_millis(500);

/// Registers, and registers again whenever the lease was lost, until `ended`; then revokes the lease.
///
/// # Errors
/// [`MetaError::Level`] and [`MetaError::Epoch`] where this process may not be registered any more.
pub(super) async fn run(members: Members, ended: CancellationToken) -> Result<(), MetaError> {
    loop {
        let guard = tokio::select! {
            () = ended.cancelled() => return Ok(()),
            guard = guard(&members) => guard?,
        };
        match keep(&members, guard, &ended).await {
            Ok(()) => return Ok(()),
            // The level or the epoch is another than a moment ago: the next look says whether that ends this process.
            Err(Error::Refused) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// What a registration rests on, as soon as the store says so.
async fn guard(members: &Members) -> Result<Vec<Compare>, MetaError> {
    loop {
        match members.inner.tables.admitted().await {
            Err(MetaError::Store(e)) if e.is_retryable() => {
                tracing::debug!(error = %e, "could not ask whether this process may register; asks again");
                tokio::time::sleep(RETRY).await;
            }
            admitted => return admitted,
        }
    }
}

async fn keep(members: &Members, guard: Vec<Compare>, ended: &CancellationToken) -> Result<(), Error> {
    let inner = &members.inner;
    let clock = Arc::clone(inner.tables.clock());
    let options = SessionOptions { ttl: TTL, guard, clock };
    let (session, keeper) = Session::new(Arc::clone(inner.tables.kv()), options);
    say(members, &session);
    let told = async {
        session.held().await;
        inner.registered.send_replace(true);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        kept = keeper.run(ended.clone()) => kept,
        () = told => Ok(()),
    }
}

/// Puts the key of each role, as this process is now.
fn say(members: &Members, session: &Session) {
    let inner = &members.inner;
    let node = Node {
        address: inner.me.address.clone(),
        level: inner.tables.known_level(),
        version: inner.me.version.clone(),
        started_at: inner.started_at,
    };
    for role in &inner.me.roles {
        let key = format!("{NODES}{role}/{}", inner.me.id);
        let key = Key::new(key).expect("a role's name and an id make a valid key");
        session.register(key, node.encode());
    }
}
