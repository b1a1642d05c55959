//! HL7 v2 at the edge: reports written as ORU^R01, answers read, and MLLP that carries both.
//!
//! - [`mllp`] frames messages on a TCP connection, with a bound on everything it holds.
//! - [`message`] writes [`message::Oru`] and reads any message far enough to answer it.
//! - [`ack`] reads an answer and says what it means for the delivery: [`ack::Verdict`].
//! - [`text`] escapes and unescapes values.
//!
//! Section numbers are those of HL7 v2.5.1. What a message says is patient identity: nothing here logs it, and no
//! error repeats it.

pub mod ack;
pub mod message;
pub mod mllp;
pub mod text;

pub use ack::{Ack, AckCode, Verdict};
pub use message::{Message, Oru, message_id, parse_message};
