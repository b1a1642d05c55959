//! The wire: generated messages, servers and clients, and the conversions to and from the domain. The only crate that
//! names prost.

pub mod document;
pub mod error;
pub mod node;
pub mod record;

pub use error::Malformed;
pub use pbjson_types::{Duration, Timestamp};

/// The public contract, package `isocenter.v1`.
#[expect(clippy::all, clippy::too_many_lines, reason = "generated; the protos are documented")]
pub mod v1 {
    tonic::include_proto!("isocenter.v1");
    include!(concat!(env!("OUT_DIR"), "/isocenter.v1.serde.rs"));
}

/// The stored form. Not public: only conversions leave this crate.
#[expect(clippy::too_many_lines, reason = "generated; the protos are documented")]
mod stored {
    tonic::include_proto!("isocenter.store.v1");
    include!(concat!(env!("OUT_DIR"), "/isocenter.store.v1.serde.rs"));
}

/// All public descriptors, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// A time as gRPC carries it.
#[must_use]
pub fn timestamp(time: isocenter_domain::Time) -> Timestamp {
    let nanos = i32::try_from(time.0.rem_euclid(1_000_000) * 1_000).unwrap_or(0);
    Timestamp { seconds: time.0.div_euclid(1_000_000), nanos }
}

/// A time as gRPC carried it; an error where it is none.
pub fn time(t: &Timestamp, field: &'static str) -> Result<isocenter_domain::Time, Malformed> {
    let micros = t.seconds.checked_mul(1_000_000).and_then(|s| s.checked_add(i64::from(t.nanos) / 1_000));
    match micros {
        Some(micros) if (0..1_000_000_000).contains(&t.nanos) => Ok(isocenter_domain::Time(micros)),
        Some(_) | None => Err(Malformed::new(field, "is not a time")),
    }
}

/// A duration as gRPC carries it, saturating.
#[must_use]
pub fn duration(d: std::time::Duration) -> Duration {
    Duration {
        seconds: i64::try_from(d.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(d.subsec_nanos()).unwrap_or(0),
    }
}

/// A duration as gRPC carried it; an error where it is negative.
pub fn std_duration(d: &Duration, field: &'static str) -> Result<std::time::Duration, Malformed> {
    match (u64::try_from(d.seconds), u32::try_from(d.nanos)) {
        (Ok(seconds), Ok(nanos)) if nanos < 1_000_000_000 => Ok(std::time::Duration::new(seconds, nanos)),
        (Ok(_) | Err(_), Ok(_) | Err(_)) => Err(Malformed::new(field, "is negative or not a duration")),
    }
}
