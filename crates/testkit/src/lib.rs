//! What tests of several crates need: real etcd and PostgreSQL servers, waiting for a predicate, a file layer that loses power.
//!
//! A development dependency only. Where a program is missing these helpers panic and name its package; no test is
//! skipped.

mod etcd;
mod guarded;
mod http;
mod netns;
mod pki;
mod postgres;
mod power_cut;
mod proxy;
mod wait;

pub use etcd::{EtcdCluster, EtcdServer, Signal, Snapshot};
pub use http::http_get;
pub use netns::{Host, Network, is_allowed};
pub use pki::{Pair, Pki, Usage, Validity};
pub use postgres::PostgresServer;
pub use power_cut::{NoSyncFs, PowerCutFs};
pub use proxy::{Link, Proxy};
pub use wait::wait_for;
