//! The peers of a network, for the demo and for networks' own integration tests: whoever sends studies, analyses
//! them, reads them and takes the reports.
//!
//! Everything here speaks the same protocols as the real peer would, on its own port, and knows nothing of Isocenter's
//! store or services.

pub mod directory;
pub mod modality;
pub mod reader;
pub mod receiver;
pub mod sample;
pub mod study;
pub mod synthetic;
pub mod vendor;

/// Any free port of this machine, reachable from this machine only.
pub const LOOPBACK: std::net::SocketAddr =
    std::net::SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);
