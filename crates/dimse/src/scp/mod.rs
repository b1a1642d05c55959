//! The storage and verification SCP: listens, negotiates, hands objects to a [`StorageService`](crate::StorageService).

pub(crate) mod association;
mod listener;
pub(crate) mod negotiate;

use std::{net::SocketAddr, time::Duration};

use isocenter_domain::id::AeTitle;
use isocenter_runtime::tls::Tls;

pub use listener::Listener;

/// How to listen. All bounds are hard.
#[derive(Clone, Debug)]
pub struct Config {
    /// The address to listen on; port 0 takes a free one.
    pub bind: SocketAddr,
    /// The AE titles answered to; a call for any other is rejected. Empty: `admit` alone decides.
    pub ae_titles: Vec<AeTitle>,
    /// The longest PDU accepted, in bytes of its variable field (PS3.8 §D.1). A longer one aborts the association.
    pub max_pdu: u32,
    /// Associations at once; a further one is rejected with "local limit exceeded", transient.
    pub max_associations: usize,
    /// The ARTIM bound (PS3.8 §9.1.5): from connection to association.
    pub artim: Duration,
    /// The longest silence between two PDUs, and the longest time the peer may take to read an answer.
    pub idle: Duration,
    /// How long running associations may go on once the process drains; then they are aborted.
    pub drain: Duration,
    /// Our side of TLS (PS3.15 §B.12, the BCP 195 profile; both sides show certificates); `None`: plaintext. The handshake counts
    /// against the ARTIM bound. Whose certificate does not name a system of a network gets no association.
    pub tls: Option<Tls>,
}

impl Config {
    /// The defaults, on `bind`: PDUs of 128 KiB, 512 associations, 30 s to associate, 60 s idle, 30 s to drain.
    ///
    /// 512 associations of at most three PDU buffers each bound the listener's memory at 192 MiB.
    #[must_use]
    pub fn new(bind: SocketAddr) -> Self {
        Self {
            bind,
            ae_titles: Vec::new(),
            max_pdu: 128 * 1024,
            max_associations: 512,
            artim: Duration::from_secs(30),
            idle: Duration::from_secs(60),
            drain: Duration::from_secs(30),
            tls: None,
        }
    }
}
