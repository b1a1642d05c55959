//! One transport connection as a channel of PDUs (PS3.8 §9.3), each way under a bound of size and time.

use std::{io, time::Duration};

use bytes::BytesMut;
use dicom_ul::{
    association::{Error as UlError, read_pdu_from_wire_async},
    pdu::{AbortRQServiceProviderReason, AbortRQSource, PDataValueType, Pdu, ReadError, write_pdu},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    time::timeout,
};

/// The smallest PDU limit respected. A peer that announces less could not receive a useful fragment.
const MIN_PEER_PDU: u32 = 1024;

/// The longest P-DATA fragment sent, whatever the peer would accept.
const MAX_SENT_PDU: u32 = 128 * 1024;

/// Bytes of a fragment's P-DATA-TF that are not data: PDU header and PDV header, six each.
const FRAGMENT_OVERHEAD: usize = 12;

/// How long we wait for the peer to close after our last PDU, and at most read meanwhile. Closing at once, with
/// bytes of the peer unread, would reset the connection and might take our last PDU from its receive buffer.
const LINGER: Duration = Duration::from_secs(2);

/// Why a PDU could not be received or sent.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// Nothing complete arrived, or nothing was read by the peer, for that long.
    #[error("the peer was silent for {0:?}")]
    TimedOut(Duration),
    /// The peer closed the connection, or it broke.
    #[error("the connection is closed")]
    Closed(#[source] Option<io::Error>),
    /// The peer sent a PDU above the limit we announced.
    #[error("a PDU of {length} bytes exceeds the limit of {max}")]
    TooLong {
        /// The length announced in the PDU's header.
        length: u32,
        /// Our limit.
        max: u32,
    },
    /// The peer sent what is not a PDU.
    #[error("the peer's bytes are not a PDU")]
    Malformed(#[source] Box<UlError>),
}

/// A stream that carries PDUs.
pub(crate) struct Channel<S> {
    stream: S,
    buffer: BytesMut,
    out: Vec<u8>,
    max_pdu: u32,
    peer_max_pdu: u32,
    idle: Duration,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Channel<S> {
    /// A channel that accepts PDUs up to `max_pdu` bytes and waits at most `idle` for each.
    pub(crate) fn new(stream: S, max_pdu: u32, idle: Duration) -> Self {
        Self { stream, buffer: BytesMut::new(), out: Vec::new(), max_pdu, peer_max_pdu: MIN_PEER_PDU, idle }
    }

    /// Takes over the peer's Maximum Length (PS3.8 Annex D.1); 0 means no limit.
    pub(crate) fn set_peer_max_pdu(&mut self, announced: u32) {
        self.peer_max_pdu = match announced {
            0 => MAX_SENT_PDU,
            n => n.clamp(MIN_PEER_PDU, MAX_SENT_PDU),
        };
    }

    /// The next PDU. Cancelling loses nothing: what has arrived stays in the buffer.
    pub(crate) async fn receive(&mut self) -> Result<Pdu, ChannelError> {
        // Room for a whole PDU, so that it arrives in few reads; the buffer never grows beyond two.
        let whole = usize::try_from(self.max_pdu).unwrap_or(usize::MAX).saturating_add(6);
        self.buffer.reserve(whole.saturating_sub(self.buffer.len()));
        let read = read_pdu_from_wire_async(&mut self.stream, &mut self.buffer, self.max_pdu, true);
        match timeout(self.idle, read).await {
            Ok(Ok(pdu)) => Ok(pdu),
            Ok(Err(e)) => Err(classify(e)),
            Err(_) => Err(ChannelError::TimedOut(self.idle)),
        }
    }

    /// Sends one PDU that is not data.
    pub(crate) async fn send(&mut self, pdu: &Pdu) -> Result<(), ChannelError> {
        self.out.clear();
        write_pdu(&mut self.out, pdu).map_err(|e| ChannelError::Closed(Some(io::Error::other(e))))?;
        self.flush_out().await
    }

    /// Sends a command set, in as many fragments as the peer's limit asks for.
    pub(crate) async fn send_command(&mut self, context: u8, command: &[u8]) -> Result<(), ChannelError> {
        let mut chunks = command.chunks(self.fragment_len()).peekable();
        while let Some(chunk) = chunks.next() {
            self.send_fragment(context, PDataValueType::Command, chunk, chunks.peek().is_none()).await?;
        }
        Ok(())
    }

    /// Sends one fragment of a data set, at most [`Channel::fragment_len`] bytes.
    pub(crate) async fn send_data(
        &mut self,
        context: u8,
        data: &[u8],
        last: bool,
    ) -> Result<(), ChannelError> {
        self.send_fragment(context, PDataValueType::Data, data, last).await
    }

    /// The most bytes of data one fragment can carry: even, as PS3.8 §9.3.5.1 asks of all but the last.
    pub(crate) fn fragment_len(&self) -> usize {
        (usize::try_from(self.peer_max_pdu).unwrap_or(usize::MAX) - FRAGMENT_OVERHEAD) & !1
    }

    /// Frames by hand: the library's own writers send the last fragment when they are dropped unfinished, which makes
    /// a truncated object look whole.
    async fn send_fragment(
        &mut self,
        context: u8,
        kind: PDataValueType,
        data: &[u8],
        last: bool,
    ) -> Result<(), ChannelError> {
        let len = u32::try_from(data.len()).expect("a fragment is at most 128 KiB");
        let control = u8::from(kind == PDataValueType::Command) | (u8::from(last) << 1);
        self.out.clear();
        self.out.extend_from_slice(&[0x04, 0]);
        self.out.extend_from_slice(&(len + 6).to_be_bytes());
        self.out.extend_from_slice(&(len + 2).to_be_bytes());
        self.out.extend_from_slice(&[context, control]);
        self.out.extend_from_slice(data);
        self.flush_out().await
    }

    async fn flush_out(&mut self) -> Result<(), ChannelError> {
        let write = async {
            self.stream.write_all(&self.out).await?;
            self.stream.flush().await
        };
        match timeout(self.idle, write).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(e)) => Err(ChannelError::Closed(Some(e))),
            Err(_) => Err(ChannelError::TimedOut(self.idle)),
        }
    }

    /// Sends A-ABORT and ends the connection. Nothing is reported: the association is over in any case.
    pub(crate) async fn abort(mut self, source: AbortRQSource) {
        if self.send(&Pdu::AbortRQ { source }).await.is_ok() {
            self.linger().await;
        }
    }

    /// Ends the connection after our last PDU, once the peer has had the time to read it.
    pub(crate) async fn linger(mut self) {
        let close = async {
            self.stream.shutdown().await?;
            loop {
                self.buffer.clear();
                self.buffer.reserve(8192);
                if self.stream.read_buf(&mut self.buffer).await? == 0 {
                    return Ok::<_, io::Error>(());
                }
            }
        };
        // Neither outcome matters: the connection is dropped next.
        drop(timeout(LINGER, close).await);
    }
}

/// The reason an A-ABORT of ours states for a channel error (PS3.8 §9.3.8).
pub(crate) fn abort_reason(error: &ChannelError) -> AbortRQSource {
    AbortRQSource::ServiceProvider(match error {
        ChannelError::TooLong { .. } => AbortRQServiceProviderReason::InvalidPduParameter,
        ChannelError::Malformed(_) => AbortRQServiceProviderReason::UnrecognizedPdu,
        ChannelError::TimedOut(_) | ChannelError::Closed(_) => {
            AbortRQServiceProviderReason::ReasonNotSpecified
        }
    })
}

fn classify(error: UlError) -> ChannelError {
    match error {
        UlError::ConnectionClosed { .. } => ChannelError::Closed(None),
        UlError::ReceivePdu { source: ReadError::ReadPdu { source, .. }, .. } => {
            ChannelError::Closed(Some(source))
        }
        UlError::ReceivePdu { source: ReadError::PduTooLarge { pdu_length, max_pdu_length, .. }, .. } => {
            ChannelError::TooLong { length: pdu_length, max: max_pdu_length }
        }
        other => ChannelError::Malformed(Box::new(other)),
    }
}
