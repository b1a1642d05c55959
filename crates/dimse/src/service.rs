//! What the network edge asks of whoever stores the objects: three traits, from association to instance to fragment.
//!
//! The edge calls them in this order, on one task per association, never two calls at once:
//!
//! `admit` → ( `store` → `write`\* → `finish` | `abandon` )\* → `closed`
//!
//! `closed` is the last call whatever happens, and comes after the sink in progress was abandoned.

use std::net::SocketAddr;

use async_trait::async_trait;
use bytes::Bytes;
use isocenter_domain::{
    access::Principal,
    id::{AeTitle, InstanceUid, SopClassUid, TransferSyntaxUid},
};

use crate::StoreStatus;

/// Who asks for an association. Titles are what the peer says of itself; the address is observed, and the principal proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The calling AE title.
    pub calling: AeTitle,
    /// The called AE title.
    pub called: AeTitle,
    /// The peer's address.
    pub address: SocketAddr,
    /// Whom the peer's certificate names, a system of a network; `None` without TLS.
    pub principal: Option<Principal>,
}

/// Why an association is refused: result, source and reason of A-ASSOCIATE-RJ (PS3.8 §9.3.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Rejection {
    /// Calling AE title not recognized (1, 1, 3).
    #[error("calling AE title not recognized")]
    UnknownCallingAe,
    /// Called AE title not recognized (1, 1, 7).
    #[error("called AE title not recognized")]
    UnknownCalledAe,
    /// Application context name not supported (1, 1, 2).
    #[error("application context name not supported")]
    ApplicationContext,
    /// Protocol version not supported (1, 2, 2).
    #[error("protocol version not supported")]
    ProtocolVersion,
    /// Rejected for good, without a reason (1, 1, 1): e.g. the address is not one this peer may call from.
    #[error("rejected without a reason")]
    NoReason,
    /// Temporary congestion (2, 3, 1): the peer may try again. Also said while draining.
    #[error("temporary congestion")]
    TemporaryCongestion,
    /// Local limit exceeded (2, 3, 2): the peer may try again once others are done.
    #[error("local limit exceeded")]
    LocalLimit,
}

/// One C-STORE request (PS3.7 §9.3.1.1), its UIDs checked to be UIDs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreRequest {
    /// Affected SOP Class UID (0000,0002). The data set's own is not known yet.
    pub sop_class: SopClassUid,
    /// Affected SOP Instance UID (0000,1000). The data set's own is not known yet.
    pub sop_instance: InstanceUid,
    /// The transfer syntax negotiated for the presentation context: the encoding of the fragments.
    pub transfer_syntax: TransferSyntaxUid,
    /// Message ID (0000,0110), unique among the requests outstanding on the association.
    pub message_id: u16,
    /// The calling AE title of the association.
    pub calling: AeTitle,
}

/// How an association ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Closed {
    /// The peer released it: everything it meant to send is sent.
    Released,
    /// The peer aborted it or closed the connection, or we aborted it because this process stops.
    Aborted,
    /// The peer was silent, or did not read our answers, for longer than the idle bound.
    TimedOut,
    /// The peer broke the protocol and was aborted.
    Failed,
}

/// Decides who may send, and receives what they send.
#[async_trait]
pub trait StorageService: Send + Sync + 'static {
    /// Admits or refuses an association. Called once the request is read, before it is answered; the time taken
    /// counts against the ARTIM bound.
    async fn admit(&self, peer: &Peer) -> Result<Box<dyn StorageAssociation>, Rejection>;
}

/// One association that was admitted.
#[async_trait]
pub trait StorageAssociation: Send {
    /// A C-STORE request has arrived. An `Err` is the answer to the peer; its fragments are read and dropped.
    async fn store(&mut self, request: StoreRequest) -> Result<Box<dyn StoreSink>, StoreStatus>;

    /// The association is over. Called exactly once, last.
    async fn closed(self: Box<Self>, how: Closed);
}

/// Takes the data set of one instance, fragment by fragment, exactly as the peer encoded it.
///
/// A sink that is dropped without `finish` must treat the instance as abandoned: that happens where a task is
/// cancelled between two calls.
#[async_trait]
pub trait StoreSink: Send {
    /// The next bytes of the data set, in order. Each is at most one PDU long. While this future is pending nothing
    /// more is read from the peer. An `Err` is the answer to the peer: the sink is abandoned, the rest read and dropped.
    async fn write(&mut self, data: Bytes) -> Result<(), StoreStatus>;

    /// The data set is complete. The status is the answer to the peer: success promises durability.
    async fn finish(self: Box<Self>) -> StoreStatus;

    /// The data set will not be completed.
    async fn abandon(self: Box<Self>);
}
