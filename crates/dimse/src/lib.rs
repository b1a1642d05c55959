//! The DICOM network edge: associations in, domain events out; objects out to other nodes.
//!
//! The upper layer's PDUs are `dicom-ul`'s; the state machine of an association, the DIMSE messages and the framing
//! are here, because verbatim storage needs what a general library does not give: any transfer syntax accepted,
//! fragments passed on unbuffered, transient rejections, and every wait under a bound. Nothing here decodes pixels,
//! and nothing here knows where objects go: that is behind [`StorageService`].

mod channel;
mod command;
pub mod part10;
pub mod scp;
pub mod scu;
pub mod service;
pub mod status;
pub mod uid;

pub use channel::ChannelError;
pub use scu::Scu;
pub use service::{Closed, Peer, Rejection, StorageAssociation, StorageService, StoreRequest, StoreSink};
pub use status::{StatusClass, StoreStatus};

#[cfg(test)]
mod tests;
