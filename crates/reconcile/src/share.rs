//! Which keys are this process's to work on.

use std::fmt;

use futures::{
    FutureExt as _, StreamExt as _,
    future::{self, BoxFuture},
    stream,
    stream::BoxStream,
};

/// The shards that this process works on. It saves work and makes nothing safe: while nodes come and go, two processes may
/// work on one shard, and compare-and-swap decides.
pub trait Share: Send + Sync + fmt::Debug + 'static {
    /// Whether keys of `shard` are this process's now.
    fn owns(&self, shard: u8) -> bool;

    /// An item whenever [`Share::owns`] may answer otherwise than before, from now on. Never ends.
    fn changes(&self) -> BoxStream<'static, ()>;

    /// Returns once every key there is may be looked at, which is a second of work where tens of thousands are and would slow down
    /// what a process that has just started has to do first. What changes is looked at before that already.
    fn first_look(&self) -> BoxFuture<'static, ()> {
        future::ready(()).boxed()
    }
}

/// Every shard, for ever: a process that works alone, and work that every process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Everything;

impl Share for Everything {
    fn owns(&self, _: u8) -> bool {
        true
    }

    fn changes(&self) -> BoxStream<'static, ()> {
        stream::pending().boxed()
    }
}
