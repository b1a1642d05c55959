//! One association, from its request to its end.

use std::{net::SocketAddr, pin::Pin, sync::Arc};

use bytes::Bytes;
use dicom_ul::pdu::{
    AbortRQServiceProviderReason as Provider, AbortRQSource, AssociationRQ, PDataValue, PDataValueType, Pdu,
};
use isocenter_domain::{
    access::{Principal, Role},
    id::{AeTitle, InstanceUid, SopClassUid},
};
use isocenter_runtime::{
    task::chain,
    tls::{Certified, Protocol},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{Sleep, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    Config,
    negotiate::{self, Context},
};
use crate::{
    Closed, Peer, Rejection, StorageAssociation, StorageService, StoreRequest, StoreSink, StoreStatus,
    channel::{Channel, ChannelError, abort_reason},
    command::{Command, MAX_COMMAND, UNRECOGNIZED_OPERATION, field},
    uid::VERIFICATION,
};

/// What a connection needs to become an association.
pub(crate) struct Acceptor {
    pub config: Config,
    pub service: Arc<dyn StorageService>,
    /// Cancelled: no new association.
    pub drain: CancellationToken,
    /// Cancelled: running associations are aborted.
    pub stop: CancellationToken,
    /// A permit per association.
    pub places: Arc<tokio::sync::Semaphore>,
}

/// Why an association that ran is over, beside its release.
enum End {
    Released,
    PeerAborted,
    Stopped,
    /// The channel failed.
    Channel(ChannelError),
    /// The peer broke the protocol above the PDUs; the text says how.
    Protocol(Provider, &'static str),
}

impl From<ChannelError> for End {
    fn from(e: ChannelError) -> Self {
        Self::Channel(e)
    }
}

/// The time that is left until a connection must be an association (ARTIM, PS3.8 §9.1.5).
pub(crate) type Artim = Pin<Box<Sleep>>;

/// Serves one connection to its end, its handshake first where the listener speaks TLS.
pub(crate) async fn arrive(acceptor: &Acceptor, stream: TcpStream, address: SocketAddr) {
    let mut artim = Box::pin(sleep(acceptor.config.artim));
    let Some(tls) = &acceptor.config.tls else {
        return serve(acceptor, stream, address, None, artim).await;
    };
    let handshake = tokio::select! {
        () = acceptor.stop.cancelled() => return,
        () = &mut artim => {
            tracing::info!(%address, "connection closed: no TLS handshake within the ARTIM bound");
            return;
        }
        handshake = tls.accept(Protocol::Dicom, stream) => handshake,
    };
    match handshake {
        Ok((stream, Ok(Certified { principal, .. }))) if principal.role == Role::Network => {
            serve(acceptor, stream, address, Some(principal), artim).await;
        }
        Ok((_, Ok(Certified { principal, .. }))) => {
            let subject = principal.subject;
            tracing::info!(%address, subject, "connection closed: not a certificate of OU=network");
        }
        Ok((_, Err(why))) => tracing::info!(%address, %why, "connection closed"),
        Err(error) => tracing::info!(%address, error = chain(&error), "connection closed"),
    }
}

/// Serves one connection to its end. Every error is handled and logged here.
pub(crate) async fn serve<S>(
    acceptor: &Acceptor,
    stream: S,
    address: SocketAddr,
    principal: Option<Principal>,
    mut artim: Artim,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let config = &acceptor.config;
    let mut channel = Channel::new(stream, config.max_pdu, config.idle);
    // ARTIM: on expiry the connection is closed without a word (PS3.8 §9.2.3, action AA-2).
    let requested = tokio::select! {
        () = acceptor.stop.cancelled() => return,
        () = &mut artim => Err(()),
        requested = request(acceptor, &mut channel, address, principal) => Ok(requested),
    };
    let (established, _place) = match requested {
        Err(()) => {
            tracing::info!(%address, "connection closed: no association within the ARTIM bound");
            return;
        }
        Ok(Err(Refused::Rejected(why))) => {
            tracing::info!(%address, reason = %why, "association rejected");
            if channel.send(&negotiate::rejection(why)).await.is_ok() {
                channel.linger().await;
            }
            return;
        }
        Ok(Err(Refused::Aborted(source, error))) => {
            tracing::info!(%address, %error, "connection aborted before an association");
            channel.abort(source).await;
            return;
        }
        Ok(Ok(admitted)) => admitted,
    };
    run(acceptor, channel, established).await;
}

struct Established {
    peer: Peer,
    contexts: Vec<Context>,
    domain: Box<dyn StorageAssociation>,
    answer: Pdu,
}

enum Refused {
    Rejected(Rejection),
    Aborted(AbortRQSource, String),
}

type Place = tokio::sync::OwnedSemaphorePermit;

async fn request<S>(
    acceptor: &Acceptor,
    channel: &mut Channel<S>,
    address: SocketAddr,
    principal: Option<Principal>,
) -> Result<(Established, Place), Refused>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let aborted = |reason, what: String| Refused::Aborted(AbortRQSource::ServiceProvider(reason), what);
    let request = match channel.receive().await {
        Ok(Pdu::AssociationRQ(request)) => request,
        Ok(other) => {
            let what = format!("{} instead of an association request", other.short_description());
            return Err(aborted(Provider::UnexpectedPdu, what));
        }
        Err(e) => return Err(Refused::Aborted(abort_reason(&e), e.to_string())),
    };
    let identified = identify(&acceptor.config, &request, address, principal);
    let peer = identified.map_err(Refused::Rejected)?;
    if acceptor.drain.is_cancelled() {
        return Err(Refused::Rejected(Rejection::TemporaryCongestion));
    }
    let place = Arc::clone(&acceptor.places).try_acquire_owned();
    let place = place.map_err(|_| Refused::Rejected(Rejection::LocalLimit))?;
    let Some((contexts, results)) = negotiate::contexts(&request.presentation_contexts) else {
        let what = "presentation context identifiers are even or repeated".to_owned();
        return Err(aborted(Provider::InvalidPduParameter, what));
    };
    let domain = acceptor.service.admit(&peer).await.map_err(Refused::Rejected)?;
    channel.set_peer_max_pdu(negotiate::peer_max_pdu(&request.user_variables));
    let answer = negotiate::acceptance(&request, results, acceptor.config.max_pdu);
    Ok((Established { peer, contexts, domain, answer }, place))
}

fn identify(
    config: &Config,
    request: &AssociationRQ,
    address: SocketAddr,
    principal: Option<Principal>,
) -> Result<Peer, Rejection> {
    negotiate::check_protocol(request)?;
    let called = AeTitle::new(request.called_ae_title.trim()).map_err(|_| Rejection::UnknownCalledAe)?;
    if !config.ae_titles.is_empty() && !config.ae_titles.contains(&called) {
        return Err(Rejection::UnknownCalledAe);
    }
    let calling = AeTitle::new(request.calling_ae_title.trim()).map_err(|_| Rejection::UnknownCallingAe)?;
    Ok(Peer { calling, called, address, principal })
}

async fn run<S>(acceptor: &Acceptor, channel: Channel<S>, established: Established)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let Established { peer, contexts, domain, answer } = established;
    tracing::info!(calling = %peer.calling, called = %peer.called, address = %peer.address, "association accepted");
    let mut talk = Conversation {
        channel,
        domain,
        contexts,
        calling: peer.calling.clone(),
        state: State::Command(None),
        stored: 0,
    };
    let end = tokio::select! {
        // Within a call of the domain this drops the call; a sink that was being finished is then abandoned by drop.
        () = acceptor.stop.cancelled() => End::Stopped,
        end = talk.run(&answer) => end,
    };
    let Conversation { channel, domain, state, stored, .. } = talk;
    if let State::Data(Message { sink: Sink::Open(sink), .. }) = state {
        sink.abandon().await;
    }
    let (how, why) = match &end {
        End::Released => (Closed::Released, String::new()),
        End::PeerAborted => (Closed::Aborted, "aborted by the peer".to_owned()),
        End::Stopped => (Closed::Aborted, "aborted: this process stops".to_owned()),
        End::Channel(e @ ChannelError::TimedOut(_)) => (Closed::TimedOut, e.to_string()),
        End::Channel(e @ ChannelError::Closed(_)) => (Closed::Aborted, e.to_string()),
        End::Channel(e @ (ChannelError::TooLong { .. } | ChannelError::Malformed(_))) => {
            (Closed::Failed, e.to_string())
        }
        End::Protocol(_, what) => (Closed::Failed, (*what).to_owned()),
    };
    tracing::info!(calling = %peer.calling, address = %peer.address, stored, how = ?how, why, "association closed");
    // The domain learns of the end before the peer does, so that a peer which calls again finds it settled.
    domain.closed(how).await;
    match end {
        End::Released => release(channel).await,
        End::PeerAborted | End::Channel(ChannelError::Closed(_)) => {}
        End::Stopped => channel.abort(AbortRQSource::ServiceUser).await,
        End::Channel(e) => channel.abort(abort_reason(&e)).await,
        End::Protocol(reason, _) => channel.abort(AbortRQSource::ServiceProvider(reason)).await,
    }
}

async fn release<S: AsyncRead + AsyncWrite + Unpin + Send>(mut channel: Channel<S>) {
    if channel.send(&Pdu::ReleaseRP).await.is_ok() {
        channel.linger().await;
    }
}

/// What the next P-DATA value is expected to be.
enum State {
    /// A command, or the rest of one: context and bytes so far.
    Command(Option<(u8, Vec<u8>)>),
    /// A data set, or the rest of one.
    Data(Message),
}

/// A request whose data set is arriving.
struct Message {
    context: u8,
    command: Command,
    sink: Sink,
}

enum Sink {
    Open(Box<dyn StoreSink>),
    /// The rest is read and dropped; then this is the answer: status and comment.
    Refused(u16, &'static str),
}

impl From<StoreStatus> for Sink {
    fn from(status: StoreStatus) -> Self {
        Self::Refused(status.code(), status.comment())
    }
}

struct Conversation<S> {
    channel: Channel<S>,
    domain: Box<dyn StorageAssociation>,
    contexts: Vec<Context>,
    calling: AeTitle,
    state: State,
    stored: u64,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Conversation<S> {
    async fn run(&mut self, answer: &Pdu) -> End {
        match self.talk(answer).await {
            Ok(end) | Err(end) => end,
        }
    }

    async fn talk(&mut self, answer: &Pdu) -> Result<End, End> {
        self.channel.send(answer).await?;
        loop {
            match self.channel.receive().await? {
                Pdu::PData { data } => {
                    for value in data {
                        self.value(value).await?;
                    }
                }
                Pdu::ReleaseRQ => {
                    return match self.state {
                        State::Command(None) => Ok(End::Released),
                        _ => Err(End::Protocol(Provider::UnexpectedPdu, "released within a message")),
                    };
                }
                Pdu::AbortRQ { .. } => return Ok(End::PeerAborted),
                Pdu::Unknown { .. } => {
                    return Err(End::Protocol(Provider::UnrecognizedPdu, "an unknown type of PDU"));
                }
                Pdu::AssociationRQ(_) | Pdu::AssociationAC(_) | Pdu::AssociationRJ(_) | Pdu::ReleaseRP => {
                    return Err(End::Protocol(Provider::UnexpectedPdu, "a PDU out of place"));
                }
            }
        }
    }

    async fn value(&mut self, value: PDataValue) -> Result<(), End> {
        let PDataValue { presentation_context_id: id, value_type, is_last, data } = value;
        if !self.contexts.iter().any(|c| c.id == id) {
            let what = "a fragment on a presentation context that was not accepted";
            return Err(End::Protocol(Provider::InvalidPduParameter, what));
        }
        match (std::mem::replace(&mut self.state, State::Command(None)), value_type) {
            (State::Command(begun), PDataValueType::Command) => {
                let (context, mut bytes) = begun.unwrap_or_else(|| (id, Vec::new()));
                if context != id || bytes.len() + data.len() > MAX_COMMAND {
                    let what = "a command set that changes context or exceeds 64 KiB";
                    return Err(End::Protocol(Provider::InvalidPduParameter, what));
                }
                bytes.extend_from_slice(&data);
                if is_last {
                    return self.command(id, &bytes).await;
                }
                self.state = State::Command(Some((id, bytes)));
                Ok(())
            }
            (State::Data(message), PDataValueType::Data) if message.context == id => {
                self.data(message, data.into(), is_last).await
            }
            // Put back, so that a sink in progress is abandoned by name and not by drop.
            (state, _) => {
                self.state = state;
                let what = "a fragment of a command within a data set, or the reverse";
                Err(End::Protocol(Provider::UnexpectedPduParameter, what))
            }
        }
    }

    async fn command(&mut self, context: u8, bytes: &[u8]) -> Result<(), End> {
        let command = Command::parse(bytes)
            .map_err(|_| End::Protocol(Provider::InvalidPduParameter, "a command set that cannot be read"))?;
        if command.field & field::RESPONSE != 0 {
            return Err(End::Protocol(Provider::UnexpectedPduParameter, "a response to no request"));
        }
        let sink = match command.field {
            // Every operation is answered before the next is read: there is nothing left to cancel.
            field::C_CANCEL_RQ => return Ok(()),
            field::C_ECHO_RQ => Sink::Refused(StoreStatus::SUCCESS.code(), ""),
            field::C_STORE_RQ if command.data_set => self.open(context, &command).await,
            field::C_STORE_RQ => StoreStatus::cannot_understand("no data set follows").into(),
            _ => Sink::Refused(UNRECOGNIZED_OPERATION, ""),
        };
        if command.data_set {
            self.state = State::Data(Message { context, command, sink });
            return Ok(());
        }
        match sink {
            Sink::Refused(status, comment) => self.answer(context, &command, status, comment).await,
            Sink::Open(_) => unreachable!("a sink is opened only where a data set follows"),
        }
    }

    /// Asks the domain where the data set goes.
    async fn open(&mut self, context: u8, command: &Command) -> Sink {
        let context = self.contexts.iter().find(|c| c.id == context).expect("checked for every fragment");
        if context.abstract_syntax.as_str() == VERIFICATION {
            return StoreStatus::does_not_match_sop_class("C-STORE on a Verification context").into();
        }
        let class = command.sop_class.as_deref().map(SopClassUid::new);
        let Some(Ok(sop_class)) = class else {
            return StoreStatus::cannot_understand("Affected SOP Class UID is not a UID").into();
        };
        let instance = command.sop_instance.as_deref().map(InstanceUid::new);
        let Some(Ok(sop_instance)) = instance else {
            return StoreStatus::cannot_understand("Affected SOP Instance UID is not a UID").into();
        };
        let Some(message_id) = command.message_id else {
            return StoreStatus::cannot_understand("no Message ID").into();
        };
        let request = StoreRequest {
            sop_class,
            sop_instance,
            transfer_syntax: context.transfer_syntax.clone(),
            message_id,
            calling: self.calling.clone(),
        };
        match self.domain.store(request).await {
            Ok(sink) => Sink::Open(sink),
            Err(status) => status.into(),
        }
    }

    async fn data(&mut self, message: Message, data: Bytes, last: bool) -> Result<(), End> {
        // Kept in `self` over each await, so that whatever ends this task first can still abandon the sink.
        self.state = State::Data(message);
        let State::Data(message) = &mut self.state else { unreachable!("set on the line before") };
        if let Sink::Open(sink) = &mut message.sink
            && !data.is_empty()
            && let Err(status) = sink.write(data).await
            && let Sink::Open(sink) = std::mem::replace(&mut message.sink, status.into())
        {
            sink.abandon().await;
        }
        if !last {
            return Ok(());
        }
        let State::Data(message) = std::mem::replace(&mut self.state, State::Command(None)) else {
            unreachable!("set above, and nothing else has run")
        };
        let Message { context, command, sink } = message;
        let (status, comment) = match sink {
            Sink::Refused(status, comment) => (status, comment),
            Sink::Open(sink) => {
                let status = sink.finish().await;
                self.stored += u64::from(status.is_stored());
                (status.code(), status.comment())
            }
        };
        self.answer(context, &command, status, comment).await
    }

    /// Answers a request, repeating the UIDs it named (PS3.7 §9.3).
    async fn answer(
        &mut self,
        context: u8,
        request: &Command,
        status: u16,
        comment: &'static str,
    ) -> Result<(), End> {
        let response = Command {
            field: request.field | field::RESPONSE,
            responded_to: request.message_id,
            data_set: false,
            // Repeated only where it is a UID: what is not is not ours to send on.
            sop_class: request.sop_class.clone().filter(|uid| SopClassUid::new(uid).is_ok()),
            sop_instance: request.sop_instance.clone().filter(|uid| InstanceUid::new(uid).is_ok()),
            status: Some(status),
            comment,
            ..Command::default()
        };
        Ok(self.channel.send_command(context, &response.to_bytes()).await?)
    }
}
