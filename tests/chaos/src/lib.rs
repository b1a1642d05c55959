//! The fault harness: a whole cluster of real processes over real etcd and PostgreSQL, a network around it that writes down what
//! it is told, faults by seed, and checks against the store's own history.

pub mod check;
pub mod cluster;
pub mod collect;
pub mod evidence;
pub mod peers;
pub mod record;
pub mod run;
pub mod scenario;
pub mod stage;
pub mod witness;
