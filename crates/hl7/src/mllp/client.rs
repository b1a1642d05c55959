//! The sending side.

use std::{fmt, io, time::Duration};

use futures::{FutureExt, SinkExt, StreamExt};
use isocenter_domain::{Kind, Kinded};
use isocenter_runtime::tls;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
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
    /// The TLS handshake failed, e.g. because the receiver's certificate is not believed or names another host. Certainly
    /// not sent.
    #[error("could not agree on TLS with {address}")]
    Handshake {
        /// Where to.
        address: String,
        /// Why not.
        source: io::Error,
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
            Self::Connect { .. }
            | Self::ConnectTimeout { .. }
            | Self::Handshake { .. }
            | Self::Unsendable { .. }
            | Self::Unusable => true,
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
            Self::Connect { .. } | Self::ConnectTimeout { .. } | Self::Handshake { .. } | Self::Unusable => {
                Kind::Unavailable
            }
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

/// What carries frames: TCP, or TLS over it.
trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

type Frames = Framed<Box<dyn Transport>, Codec>;

/// A connection to a receiver that carries one message at a time.
///
/// Whatever goes wrong closes it, and so does dropping a [`Client::send`] before its end: a late answer can never be
/// taken for the answer to the next message.
pub struct Client {
    /// Taken out while a message is under way, and put back only once its answer is read.
    frames: Option<Frames>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("is_usable", &self.is_usable()).finish()
    }
}

impl Client {
    /// Connects to `address` (`host:port`), name resolution included, within `connect_timeout`.
    pub async fn connect(address: &str, connect_timeout: Duration) -> Result<Self, MllpError> {
        Self::within(connect_timeout, address, async { Ok(Self::over(tcp(address).await?)) }).await
    }

    /// As [`Client::connect`], within TLS (IHE ITI TF-2, ITI-19; MLLP itself knows no security). The receiver's certificate
    /// names the host of `address`, and leads to an authority of `tls`.
    pub async fn connect_tls(
        address: &str,
        tls: &tls::Client,
        connect_timeout: Duration,
    ) -> Result<Self, MllpError> {
        let connecting = async {
            let stream = tcp(address).await?;
            let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
            let failed = |source| MllpError::Handshake { address: address.to_owned(), source };
            Ok(Self::over(tls.connect_plain(host, stream).await.map_err(failed)?))
        };
        Self::within(connect_timeout, address, connecting).await
    }

    async fn within(
        waited: Duration,
        address: &str,
        connecting: impl Future<Output = Result<Self, MllpError>>,
    ) -> Result<Self, MllpError> {
        let address = address.to_owned();
        timeout(waited, connecting).await.map_err(|_| MllpError::ConnectTimeout { address, waited })?
    }

    fn over(stream: impl Transport + 'static) -> Self {
        Self { frames: Some(Framed::new(Box::new(stream), Codec::new(ANSWER_LIMIT))) }
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

async fn tcp(address: &str) -> Result<TcpStream, MllpError> {
    let failed = |source| MllpError::Connect { address: address.to_owned(), source };
    let stream = TcpStream::connect(address).await.map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    Ok(stream)
}

async fn read_answer(frames: &mut Frames, control_id: &str) -> Result<Ack, MllpError> {
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
