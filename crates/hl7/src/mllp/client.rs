//! The sending side.

use std::{io, time::Duration};

use futures::{FutureExt, SinkExt, StreamExt};
use isocenter_domain::{Kind, Kinded};
use tokio::{net::TcpStream, time::timeout};
use tokio_util::codec::Framed;

use super::{Codec, DEFAULT_FRAME_LIMIT, FrameError};
use crate::{
    ack::{Ack, parse_ack},
    message::{ParseError, header_of},
};

/// How long an answer may be: 64 KiB. An acknowledgement is a few hundred bytes.
pub const ANSWER_LIMIT: usize = 64 << 10;

/// Why a message has no answer. Nothing of message or answer is repeated.
#[derive(Debug, thiserror::Error)]
pub enum MllpError {
    /// No connection to the receiver. Certainly not sent.
    #[error("could not connect to {address}")]
    Connect {
        /// Where to.
        address: String,
        /// Why not.
        source: io::Error,
    },
    /// No connection to the receiver in time. Certainly not sent.
    #[error("could not connect to {address} within {waited:?}")]
    ConnectTimeout {
        /// Where to.
        address: String,
        /// How long was waited.
        waited: Duration,
    },
    /// The message is none, or cannot be framed. Certainly not sent, and never will be.
    #[error("message cannot be sent: {why}")]
    Unsendable {
        /// What is wrong with it.
        why: &'static str,
    },
    /// The connection had ended, or could no longer be trusted, before this message. Certainly not sent: connect again.
    #[error("connection was no longer usable before the message was sent")]
    Unusable,
    /// The connection failed while the message was being written or the answer awaited.
    #[error("connection failed before the answer")]
    Io(#[source] io::Error),
    /// The receiver closed the connection without an answer.
    #[error("receiver closed the connection before it answered")]
    Closed,
    /// No whole answer in time.
    #[error("no answer within {waited:?}")]
    NoAnswer {
        /// How long was waited, writing included.
        waited: Duration,
    },
    /// The connection ended within the answer.
    #[error("receiver closed the connection within its answer, after {bytes} bytes")]
    HalfAnswer {
        /// How much of the answer had arrived, in bytes.
        bytes: usize,
    },
    /// The answer is longer than [`ANSWER_LIMIT`].
    #[error("answer is longer than {ANSWER_LIMIT} bytes")]
    AnswerTooLong,
    /// What arrived is not framed as MLLP asks.
    #[error("answer is not an MLLP frame")]
    NotMllp(#[source] FrameError),
    /// The answer is not an HL7 acknowledgement.
    #[error("answer is not an HL7 acknowledgement")]
    NotHl7(#[source] ParseError),
    /// The answer is for another message: its MSA-2 is not our MSH-10.
    #[error("answer is for another message")]
    OtherMessage,
}

impl MllpError {
    /// Whether the receiver certainly has not got the message. Otherwise it may have accepted it: the same message
    /// has to be sent again with the same MSH-10, by which the receiver knows it.
    #[must_use]
    pub const fn is_certainly_not_sent(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::ConnectTimeout { .. } | Self::Unsendable { .. } | Self::Unusable => {
                true
            }
            Self::Io(_)
            | Self::Closed
            | Self::NoAnswer { .. }
            | Self::HalfAnswer { .. }
            | Self::AnswerTooLong
            | Self::NotMllp(_)
            | Self::NotHl7(_)
            | Self::OtherMessage => false,
        }
    }
}

impl Kinded for MllpError {
    fn kind(&self) -> Kind {
        match self {
            Self::Connect { .. } | Self::ConnectTimeout { .. } | Self::Unusable => Kind::Unavailable,
            Self::Unsendable { .. } => Kind::Invalid,
            Self::Io(_)
            | Self::Closed
            | Self::NoAnswer { .. }
            | Self::HalfAnswer { .. }
            | Self::AnswerTooLong
            | Self::NotMllp(_)
            | Self::NotHl7(_)
            | Self::OtherMessage => Kind::Unknown,
        }
    }
}

/// A connection to a receiver that carries one message at a time.
///
/// Whatever goes wrong closes it, and so does dropping a [`Client::send`] before its end: a late answer can never be
/// taken for the answer to the next message.
#[derive(Debug)]
pub struct Client {
    /// Taken out while a message is under way, and put back only once its answer is read.
    frames: Option<Framed<TcpStream, Codec>>,
}

impl Client {
    /// Connects to `address` (`host:port`), name resolution included, within `connect_timeout`.
    pub async fn connect(address: &str, connect_timeout: Duration) -> Result<Self, MllpError> {
        let failed = |source| MllpError::Connect { address: address.to_owned(), source };
        let stream = match timeout(connect_timeout, TcpStream::connect(address)).await {
            Ok(stream) => stream.map_err(failed)?,
            Err(_) => {
                let address = address.to_owned();
                return Err(MllpError::ConnectTimeout { address, waited: connect_timeout });
            }
        };
        stream.set_nodelay(true).map_err(failed)?;
        Ok(Self { frames: Some(Framed::new(stream, Codec::new(ANSWER_LIMIT))) })
    }

    /// Whether another message can be sent. A receiver that has closed its side is noticed by [`Client::send`].
    #[must_use]
    pub const fn is_usable(&self) -> bool {
        self.frames.is_some()
    }

    /// Sends `message` and reads the answer to it, writing and waiting within `ack_timeout`.
    ///
    /// An answer is for this message only if its MSA-2 equals the message's MSH-10. After any error but
    /// [`MllpError::Unsendable`] the connection is closed.
    pub async fn send(&mut self, message: &str, ack_timeout: Duration) -> Result<Ack, MllpError> {
        let control_id = check(message)?;
        let mut frames = self.frames.take().ok_or(MllpError::Unusable)?;
        // Nothing may arrive between an answer and the next message: the end of the connection, an error and an
        // answer out of turn all mean that this connection is not to be used again.
        if frames.next().now_or_never().is_some() {
            return Err(MllpError::Unusable);
        }
        let exchange = async {
            frames.send(message).await.map_err(read_error)?;
            read_answer(&mut frames, &control_id).await
        };
        let answer = timeout(ack_timeout, exchange)
            .await
            .map_err(|_| MllpError::NoAnswer { waited: ack_timeout })??;
        self.frames = Some(frames);
        Ok(answer)
    }

    /// Reads the application's answer that follows a commit answer (`CA`, §2.9.3.2) on the same connection.
    ///
    /// `control_id` is the MSH-10 of the message sent. Errors and their consequences are those of [`Client::send`].
    pub async fn application_answer(&mut self, control_id: &str, wait: Duration) -> Result<Ack, MllpError> {
        let mut frames = self.frames.take().ok_or(MllpError::Closed)?;
        let answer = timeout(wait, read_answer(&mut frames, control_id))
            .await
            .map_err(|_| MllpError::NoAnswer { waited: wait })??;
        self.frames = Some(frames);
        Ok(answer)
    }
}

/// The MSH-10 of a message that can be sent.
fn check(message: &str) -> Result<String, MllpError> {
    let unsendable = |why| MllpError::Unsendable { why };
    if message.len() > DEFAULT_FRAME_LIMIT {
        return Err(unsendable("it is longer than 1 MiB"));
    }
    if message.contains(['\u{b}', '\u{1c}']) {
        return Err(unsendable("it has a byte in it that begins or ends a frame"));
    }
    let header =
        header_of(message).map_err(|_| unsendable("it does not begin with a readable MSH segment"))?;
    if header.control_id.is_empty() {
        return Err(unsendable("its MSH-10 is empty"));
    }
    Ok(header.control_id)
}

async fn read_answer(frames: &mut Framed<TcpStream, Codec>, control_id: &str) -> Result<Ack, MllpError> {
    let answer = frames.next().await.ok_or(MllpError::Closed)?.map_err(read_error)?;
    let ack = parse_ack(&answer).map_err(MllpError::NotHl7)?;
    if ack.control_id == control_id { Ok(ack) } else { Err(MllpError::OtherMessage) }
}

fn read_error(e: FrameError) -> MllpError {
    match e {
        FrameError::Io(e) => MllpError::Io(e),
        FrameError::HalfFrame { bytes } => MllpError::HalfAnswer { bytes },
        FrameError::TooLong { .. } => MllpError::AnswerTooLong,
        e @ (FrameError::NoStart
        | FrameError::Interrupted
        | FrameError::BadEnd
        | FrameError::NotFrameable) => MllpError::NotMllp(e),
    }
}
