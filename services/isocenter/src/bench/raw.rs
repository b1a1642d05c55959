//! What the store does by itself, and with all that one change of ours is.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail};
use isocenter_domain::{key::HoldingKey, record::read::Holding};
use isocenter_store::{
    Compare, Key, Kv, Op, Txn,
    table::{Cause, Tables},
};

use super::feed::TENANT;

/// A value as long as a typical record with its head.
const VALUE: [u8; 512] = [b'x'; 512];

/// Bare compare-and-swap: successes a second.
pub async fn swaps(tables: &Tables, clients: u32, span: Duration) -> Result<f64> {
    let kv = tables.kv();
    at_once(tables, clients, span, |n| swap(Arc::clone(kv), n, tables.clone(), span)).await
}

async fn swap(kv: Arc<dyn Kv>, n: u32, tables: Tables, span: Duration) -> Result<u64> {
    let key = Key::new(format!("bench/swap/{n}"))?;
    let mut at = kv.txn(Txn::always(vec![Op::put(&key, VALUE.as_slice())])).await?.revision;
    let began = tables.clock().monotonic();
    let mut done = 0;
    while tables.clock().monotonic() - began < span {
        let put = Op::put(&key, VALUE.as_slice());
        let answer = kv.txn(Txn::when(vec![Compare::unchanged(&key, at)], vec![put])).await?;
        if !answer.succeeded {
            bail!("somebody else writes to {key}");
        }
        at = answer.revision;
        done += 1;
    }
    Ok(done)
}

/// Changes of one record each, fenced by a leader's token: commits a second.
pub async fn commits(tables: &Tables, clients: u32, span: Duration) -> Result<f64> {
    at_once(tables, clients, span, |n| commit(tables.clone(), n, span)).await
}

async fn commit(tables: Tables, n: u32, span: Duration) -> Result<u64> {
    let leader = Key::new("leader/reader-assignment")?;
    let found = tables.kv().get(&leader).await?.context("nobody leads")?;
    let key = HoldingKey { tenant: TENANT.parse()?, reader: format!("bench-commit-{n}").parse()? };
    if tables.load::<Holding>(&key).await?.is_none() {
        let mut change = tables.change(Cause::role("bench"));
        change.create(&key, &Holding::default(), "offered", "");
        change.commit().await?;
    }
    let mut held = tables.load::<Holding>(&key).await?.context("it was created just now")?;
    let began = tables.clock().monotonic();
    let mut done = 0;
    while tables.clock().monotonic() - began < span {
        let mut change = tables.change(Cause::role("bench"));
        change.require(Compare::created(&leader, found.create_revision));
        change.update(&held, &Holding::default(), "offered");
        held.mod_revision = change.commit().await?;
        held.head.seq += 1;
        done += 1;
    }
    Ok(done)
}

/// What `clients` of a kind do together, a second.
async fn at_once<F: Future<Output = Result<u64>>>(
    tables: &Tables,
    clients: u32,
    span: Duration,
    client: impl Fn(u32) -> F,
) -> Result<f64> {
    let began = tables.clock().monotonic();
    let done: u64 = futures::future::try_join_all((0..clients).map(client)).await?.into_iter().sum();
    // Each client ends after the call during which the time was up.
    let took = (tables.clock().monotonic() - began).max(span);
    #[expect(clippy::cast_precision_loss, reason = "a count of some seconds' calls")]
    let done = done as f64;
    Ok(done / took.as_secs_f64())
}
