//! The storage and verification SCU: sends files as they are.

use std::{io, path::Path, time::Duration};

use bytes::{Bytes, BytesMut};
use dicom_ul::pdu::{
    AbortRQSource, AssociationAC, AssociationRJ, AssociationRJResult, AssociationRQ, PDataValue,
    PDataValueType, Pdu, PresentationContextProposed, PresentationContextResultReason,
};
use isocenter_domain::{
    Kind, Kinded,
    id::{AeTitle, SopClassUid, TransferSyntaxUid},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    net::{TcpStream, ToSocketAddrs},
    time::timeout,
};

use crate::{
    ChannelError, StoreStatus,
    channel::{Channel, abort_reason},
    command::{Command, CommandError, MAX_COMMAND, field},
    part10::{FileMeta, InspectError, MAX_META},
    scp::negotiate,
    uid::{APPLICATION_CONTEXT, IMPLICIT_VR_LITTLE_ENDIAN, VERIFICATION},
};

/// The most presentation contexts an association can have: their identifiers are the odd bytes (PS3.8 §9.3.2.2).
pub const MAX_CONTEXTS: usize = 128;

/// What is to be sent in which encoding: one presentation context.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProposedContext {
    /// The SOP class.
    pub sop_class: SopClassUid,
    /// The only transfer syntax proposed for it: a file is sent in its own or not at all.
    pub transfer_syntax: TransferSyntaxUid,
}

impl ProposedContext {
    /// Verification, for [`Scu::echo`].
    #[must_use]
    pub fn verification() -> Self {
        Self {
            sop_class: SopClassUid::new(VERIFICATION).expect("the standard's UIDs are UIDs"),
            transfer_syntax: TransferSyntaxUid::new(IMPLICIT_VR_LITTLE_ENDIAN)
                .expect("the standard's UIDs are UIDs"),
        }
    }

    /// What the Part 10 file at `path` needs.
    ///
    /// # Errors
    /// [`ScuError::File`].
    pub async fn of_file(path: &Path) -> Result<Self, ScuError> {
        Ok(Self::of_meta(&Part10::open(Source::Path(path)).await?.meta))
    }

    fn of_meta(meta: &FileMeta) -> Self {
        Self { sop_class: meta.sop_class.clone(), transfer_syntax: meta.transfer_syntax.clone() }
    }
}

/// A Part 10 file to send.
#[derive(Clone, Debug)]
pub enum Source<'a> {
    /// On disk; read piece by piece.
    Path(&'a Path),
    /// In memory.
    Bytes(Bytes),
}

/// How long to wait, and how much to accept.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// For the transport connection and again for the answer to the association request.
    pub connect: Duration,
    /// For each answer of the peer, and for the peer to take each fragment. An answer to C-STORE comes after the
    /// object is durable there, which can take long.
    pub response: Duration,
    /// The longest PDU accepted from the peer, in bytes.
    pub max_pdu: u32,
}

impl Default for Options {
    /// 10 s to connect, 60 s for an answer, PDUs of 128 KiB.
    fn default() -> Self {
        Self { connect: Duration::from_secs(10), response: Duration::from_secs(60), max_pdu: 128 * 1024 }
    }
}

/// Why something was not sent, or why it is not known whether it was.
#[derive(Debug, thiserror::Error)]
pub enum ScuError {
    /// No transport connection.
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    /// The peer rejected the association (PS3.8 §9.3.4).
    #[error("association rejected: {reason}")]
    Rejected {
        /// Whether trying again later may help.
        transient: bool,
        /// Source and reason in words.
        reason: String,
    },
    /// More than [`MAX_CONTEXTS`] distinct contexts were asked for.
    #[error("{0} presentation contexts asked for, an association has room for {MAX_CONTEXTS}")]
    TooManyContexts(usize),
    /// The peer did not accept this class in this transfer syntax, or it was not proposed. The association goes on.
    #[error("no presentation context for SOP class {sop_class} in transfer syntax {transfer_syntax}")]
    NoContext {
        /// The class.
        sop_class: SopClassUid,
        /// The transfer syntax.
        transfer_syntax: TransferSyntaxUid,
    },
    /// The file cannot be sent; nothing of it was. The association goes on.
    #[error("the file cannot be sent")]
    File(#[source] InspectError),
    /// The file could not be read to its end after part of it was sent. The association must be aborted.
    #[error("the file cannot be read to its end")]
    Read(#[source] io::Error),
    /// The peer aborted the association.
    #[error("the peer aborted the association")]
    Aborted,
    /// The connection failed.
    #[error("the connection failed")]
    Channel(#[source] ChannelError),
    /// The peer answered what was not asked.
    #[error("the peer broke the protocol: {0}")]
    Protocol(&'static str),
    /// The peer refused C-ECHO with this status.
    #[error("the peer answered C-ECHO with status {0:04X}")]
    EchoFailed(u16),
}

impl Kinded for ScuError {
    fn kind(&self) -> Kind {
        match self {
            Self::Rejected { transient: false, .. } | Self::NoContext { .. } | Self::EchoFailed(_) => {
                Kind::FailedPrecondition
            }
            Self::Connect(_) | Self::Rejected { transient: true, .. } | Self::Aborted => Kind::Unavailable,
            Self::TooManyContexts(_) => Kind::Invalid,
            Self::File(e) => e.kind(),
            Self::Read(_) => Kind::Unavailable,
            Self::Channel(ChannelError::TimedOut(_)) => Kind::DeadlineExceeded,
            Self::Channel(ChannelError::Closed(_)) => Kind::Unavailable,
            Self::Channel(ChannelError::TooLong { .. } | ChannelError::Malformed(_)) | Self::Protocol(_) => {
                Kind::FailedPrecondition
            }
        }
    }
}

impl From<ChannelError> for ScuError {
    fn from(e: ChannelError) -> Self {
        Self::Channel(e)
    }
}

/// An association of ours with a storage SCP. One operation at a time.
///
/// After an error other than [`ScuError::NoContext`] and [`ScuError::File`] the association is of no more use: call
/// [`Scu::abort`]. Dropping it closes the connection, which the peer takes as an abort.
pub struct Scu {
    channel: Channel<TcpStream>,
    accepted: Vec<(u8, ProposedContext)>,
    last_message: u16,
}

impl std::fmt::Debug for Scu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scu").field("accepted", &self.accepted.len()).finish_non_exhaustive()
    }
}

impl Scu {
    /// Associates with the node at `address`, with the default [`Options`].
    ///
    /// # Errors
    /// [`ScuError`]. That the peer accepts no context is no error here: it is told when a file needs one.
    pub async fn connect(
        address: impl ToSocketAddrs,
        calling: &AeTitle,
        called: &AeTitle,
        contexts: &[ProposedContext],
    ) -> Result<Self, ScuError> {
        Self::connect_with(address, calling, called, contexts, Options::default()).await
    }

    /// As [`Scu::connect`], with other bounds. `contexts` may repeat themselves.
    ///
    /// # Errors
    /// As [`Scu::connect`].
    pub async fn connect_with(
        address: impl ToSocketAddrs,
        calling: &AeTitle,
        called: &AeTitle,
        contexts: &[ProposedContext],
        options: Options,
    ) -> Result<Self, ScuError> {
        let proposed = identify(contexts)?;
        let timed_out = || ScuError::Channel(ChannelError::TimedOut(options.connect));
        let stream = timeout(options.connect, TcpStream::connect(address)).await.map_err(|_| timed_out())?;
        let stream = stream.map_err(ScuError::Connect)?;
        stream.set_nodelay(true).map_err(ScuError::Connect)?;
        let mut channel = Channel::new(stream, options.max_pdu, options.response);
        channel.send(&request(calling, called, &proposed, options.max_pdu)).await?;
        let answer = timeout(options.connect, channel.receive()).await.map_err(|_| timed_out())?;
        match answer {
            Ok(Pdu::AssociationAC(answer)) => {
                let accepted = accepted(proposed, &answer)?;
                channel.set_peer_max_pdu(negotiate::peer_max_pdu(&answer.user_variables));
                Ok(Self { channel, accepted, last_message: 0 })
            }
            Ok(Pdu::AssociationRJ(rejection)) => Err(rejected(&rejection)),
            Ok(Pdu::AbortRQ { .. }) => Err(ScuError::Aborted),
            Ok(_) => Err(ScuError::Protocol("neither acceptance nor rejection of the association")),
            Err(e) => {
                let reason = abort_reason(&e);
                channel.abort(reason).await;
                Err(e.into())
            }
        }
    }

    /// Whether the peer accepted this class in this transfer syntax.
    #[must_use]
    pub fn accepts(&self, context: &ProposedContext) -> bool {
        self.context_of(context).is_some()
    }

    /// C-ECHO (PS3.7 §9.1.5): whether the peer is there.
    ///
    /// # Errors
    /// [`ScuError`].
    pub async fn echo(&mut self) -> Result<(), ScuError> {
        let verification = ProposedContext::verification();
        let context = self.context_of(&verification).ok_or_else(|| no_context(verification.clone()))?;
        let message_id = self.next_message();
        let command = Command {
            field: field::C_ECHO_RQ,
            message_id: Some(message_id),
            sop_class: Some(VERIFICATION.to_owned()),
            ..Command::default()
        };
        self.channel.send_command(context, &command.to_bytes()).await?;
        match self.response(context, field::C_ECHO_RSP, message_id).await? {
            0x0000 => Ok(()),
            status => Err(ScuError::EchoFailed(status)),
        }
    }

    /// C-STORE (PS3.7 §9.1.1) of a Part 10 file: its data set, byte for byte, in its own transfer syntax.
    ///
    /// The peer's answer is returned whatever it is. After an error it is not known whether the peer has the object.
    ///
    /// # Errors
    /// [`ScuError`].
    pub async fn store(&mut self, source: Source<'_>) -> Result<StoreStatus, ScuError> {
        let mut file = Part10::open(source).await?;
        let needed = ProposedContext::of_meta(&file.meta);
        let context = self.context_of(&needed).ok_or_else(|| no_context(needed.clone()))?;
        let message_id = self.next_message();
        let command = Command {
            field: field::C_STORE_RQ,
            message_id: Some(message_id),
            data_set: true,
            sop_class: Some(file.meta.sop_class.to_string()),
            sop_instance: Some(file.meta.sop_instance.to_string()),
            ..Command::default()
        };
        self.channel.send_command(context, &command.to_bytes()).await?;
        let size = self.channel.fragment_len();
        loop {
            // The last fragment is marked as such only where the file is known to be at its end: never after an error.
            let (fragment, last) = file.next(size).await.map_err(ScuError::Read)?;
            if let Err(e) = self.channel.send_data(context, &fragment, last).await {
                return Err(self.why_unsent(e).await);
            }
            if last {
                break;
            }
        }
        let status = self.response(context, field::C_STORE_RSP, message_id).await?;
        Ok(StoreStatus::from_code(status))
    }

    /// Releases the association (PS3.8 §7.2): everything meant to be sent is sent.
    ///
    /// # Errors
    /// [`ScuError`], where the peer does not confirm. What it has answered stands in any case.
    pub async fn release(mut self) -> Result<(), ScuError> {
        self.channel.send(&Pdu::ReleaseRQ).await?;
        match self.channel.receive().await? {
            Pdu::ReleaseRP => Ok(()),
            Pdu::AbortRQ { .. } => Err(ScuError::Aborted),
            _ => Err(ScuError::Protocol("no confirmation of the release")),
        }
    }

    /// Aborts the association.
    pub async fn abort(self) {
        self.channel.abort(AbortRQSource::ServiceUser).await;
    }

    fn context_of(&self, context: &ProposedContext) -> Option<u8> {
        self.accepted.iter().find(|(_, c)| c == context).map(|(id, _)| *id)
    }

    fn next_message(&mut self) -> u16 {
        self.last_message = self.last_message.wrapping_add(1);
        self.last_message
    }

    /// A peer that aborts while we send breaks our writing; its A-ABORT, already on the way, is the better reason.
    async fn why_unsent(&mut self, error: ChannelError) -> ScuError {
        if matches!(error, ChannelError::Closed(_))
            && matches!(self.channel.receive().await, Ok(Pdu::AbortRQ { .. }))
        {
            return ScuError::Aborted;
        }
        error.into()
    }

    /// The status of the response to `message_id`.
    async fn response(&mut self, context: u8, expected: u16, message_id: u16) -> Result<u16, ScuError> {
        let mut bytes = Vec::new();
        loop {
            let values = match self.channel.receive().await? {
                Pdu::PData { data } => data,
                Pdu::AbortRQ { .. } => return Err(ScuError::Aborted),
                _ => return Err(ScuError::Protocol("a PDU other than data in place of a response")),
            };
            for PDataValue { presentation_context_id, value_type, is_last, data } in values {
                if presentation_context_id != context || value_type != PDataValueType::Command {
                    return Err(ScuError::Protocol("a fragment of something else than the response"));
                }
                if bytes.len() + data.len() > MAX_COMMAND {
                    return Err(ScuError::Protocol("a response above 64 KiB"));
                }
                bytes.extend_from_slice(&data);
                if is_last {
                    return status_of(&bytes, expected, message_id);
                }
            }
        }
    }
}

fn status_of(bytes: &[u8], expected: u16, message_id: u16) -> Result<u16, ScuError> {
    let response = Command::parse(bytes)
        .map_err(|_: CommandError| ScuError::Protocol("a response that cannot be read"))?;
    if response.field != expected || response.responded_to != Some(message_id) {
        return Err(ScuError::Protocol("a response to another request"));
    }
    response.status.ok_or(ScuError::Protocol("a response without a status"))
}

fn no_context(needed: ProposedContext) -> ScuError {
    ScuError::NoContext { sop_class: needed.sop_class, transfer_syntax: needed.transfer_syntax }
}

/// Gives each distinct context its identifier: 1, 3, 5, …
fn identify(contexts: &[ProposedContext]) -> Result<Vec<(u8, ProposedContext)>, ScuError> {
    let mut distinct: Vec<&ProposedContext> = Vec::new();
    for context in contexts {
        if !distinct.contains(&context) {
            distinct.push(context);
        }
    }
    if distinct.len() > MAX_CONTEXTS {
        return Err(ScuError::TooManyContexts(distinct.len()));
    }
    Ok((1..=u8::MAX).step_by(2).zip(distinct.into_iter().cloned()).collect())
}

fn request(calling: &AeTitle, called: &AeTitle, proposed: &[(u8, ProposedContext)], max_pdu: u32) -> Pdu {
    Pdu::AssociationRQ(AssociationRQ {
        protocol_version: 1,
        calling_ae_title: calling.to_string(),
        called_ae_title: called.to_string(),
        application_context_name: APPLICATION_CONTEXT.to_owned(),
        presentation_contexts: proposed
            .iter()
            .map(|(id, context)| PresentationContextProposed {
                id: *id,
                abstract_syntax: context.sop_class.to_string(),
                transfer_syntaxes: vec![context.transfer_syntax.to_string()],
            })
            .collect(),
        user_variables: negotiate::user_variables(max_pdu),
    })
}

fn accepted(
    proposed: Vec<(u8, ProposedContext)>,
    answer: &AssociationAC,
) -> Result<Vec<(u8, ProposedContext)>, ScuError> {
    let mut accepted = Vec::new();
    for (id, context) in proposed {
        let result = answer.presentation_contexts.iter().find(|r| r.id == id);
        let Some(result) = result.filter(|r| r.reason == PresentationContextResultReason::Acceptance) else {
            continue;
        };
        let chosen = result.transfer_syntax.trim_end_matches(['\0', ' ']);
        if chosen != context.transfer_syntax.as_str() {
            return Err(ScuError::Protocol("a transfer syntax accepted that was not proposed"));
        }
        accepted.push((id, context));
    }
    Ok(accepted)
}

fn rejected(rejection: &AssociationRJ) -> ScuError {
    ScuError::Rejected {
        transient: rejection.result == AssociationRJResult::Transient,
        reason: rejection.source.to_string(),
    }
}

/// A Part 10 file being read: its meta information, and a cursor on its data set.
struct Part10 {
    meta: FileMeta,
    rest: Box<dyn AsyncRead + Send + Unpin>,
    /// Bytes of the data set not returned yet.
    left: u64,
}

impl Part10 {
    async fn open(source: Source<'_>) -> Result<Self, ScuError> {
        let io = |e| ScuError::File(InspectError::Io(e));
        let (mut rest, len): (Box<dyn AsyncRead + Send + Unpin>, u64) = match source {
            Source::Path(path) => {
                let file = tokio::fs::File::open(path).await.map_err(io)?;
                let len = file.metadata().await.map_err(io)?.len();
                (Box::new(file), len)
            }
            Source::Bytes(bytes) => {
                let len = bytes.len() as u64;
                (Box::new(io::Cursor::new(bytes)), len)
            }
        };
        // The meta information is within the first `MAX_META` bytes; what is read beyond it is data set.
        let mut head = Vec::new();
        (&mut rest).take(MAX_META).read_to_end(&mut head).await.map_err(io)?;
        let meta = FileMeta::read(&mut head.as_slice()).map_err(ScuError::File)?;
        let offset = usize::try_from(meta.data_set_offset).expect("at most MAX_META");
        let begun = Bytes::from(head).slice(offset..);
        let left = len.saturating_sub(meta.data_set_offset);
        Ok(Self { meta, rest: Box::new(io::Cursor::new(begun).chain(rest)), left })
    }

    /// The next bytes, at most `size`, and whether they are the last. A file that has shrunk is an error.
    async fn next(&mut self, size: usize) -> io::Result<(BytesMut, bool)> {
        let len = usize::try_from(self.left).unwrap_or(usize::MAX).min(size);
        let mut fragment = BytesMut::zeroed(len);
        self.rest.read_exact(&mut fragment).await?;
        self.left -= len as u64;
        Ok((fragment, self.left == 0))
    }
}
