//! What tests of several crates need: real etcd and PostgreSQL servers, waiting for a predicate, a file layer that loses power.
//!
//! A development dependency only. Where a program is missing these helpers panic and name its package; no test is
//! skipped.

mod etcd;
mod postgres;
mod power_cut;
mod wait;

pub use etcd::{EtcdCluster, EtcdServer, Signal};
pub use postgres::PostgresServer;
pub use power_cut::{NoSyncFs, PowerCutFs};
pub use wait::wait_for;
