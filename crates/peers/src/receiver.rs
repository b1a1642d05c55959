//! A hospital's record system: takes reports as HL7 v2 over MLLP, on its own port.
//!
//! It does what a sender may count on: it commits a message before it answers, knows a message that it already has by
//! (MSH-3, MSH-10), and answers that one with the acknowledgement it gave before. [`Answer`] makes it fail in the ways
//! in which real ones do.

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use isocenter_domain::Phi;
use isocenter_hl7::{
    AckCode, Message,
    ack::ack_for,
    mllp::{Codec, DEFAULT_FRAME_LIMIT, FrameError},
    parse_message,
};
use isocenter_runtime::{clock::Clock, task::Tasks};
use parking_lot::Mutex;
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::timeout,
};
use tokio_util::{codec::Framed, sync::CancellationToken};

/// Messages kept, oldest dropped first; with them goes the knowledge that they were received. A test or a demo sends a
/// few thousand at most.
pub const LOG_LIMIT: usize = 10_000;
/// Connections served at once; more wait to be accepted. One sender uses one connection per lane.
const CONNECTIONS: usize = 256;

/// How long a sender may take for a message, from the end of the one before, or for reading its answer. Senders keep a
/// connection open between messages; one that is silent for longer only takes another's place.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Between two bytes of an answer that drips.
pub const DRIP: Duration = Duration::from_millis(100);
/// How many bytes without a frame are sent at a time.
const GARBAGE: [u8; 4096] = [b'?'; 4096];

/// How long a failed accept is not repeated.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the receiver does with a message it does not have yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Answer {
    /// Commits it and answers AA.
    #[default]
    Accept,
    /// Answers AE with this code of table 0357, and does not keep it.
    AnswerAe(Option<u16>),
    /// Answers AR with this code of table 0357, and does not keep it.
    AnswerAr(Option<u16>),
    /// Does not keep it and says nothing; the connection stays open.
    Nothing,
    /// Commits it and closes the connection in the middle of the answer.
    HalfFrame,
    /// Closes the connection without keeping it.
    CloseBefore,
    /// Commits it and closes the connection without an answer.
    DropAckAfterCommit,
    /// Commits it and sends the answer a byte at a time, [`DRIP`] apart.
    Drip,
    /// Commits it and answers with bytes that are no frame, and no end to them.
    Garbage,
    /// Commits it and answers as if to another message.
    OtherMessage,
}

/// A message as it was committed.
#[derive(Clone, Debug)]
pub struct Received {
    /// MSH-3, first component.
    pub sending_application: String,
    /// MSH-10.
    pub control_id: String,
    /// The message, unframed.
    pub raw: Phi<Bytes>,
}

/// What happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReceiverCounts {
    /// Messages committed.
    pub accepted: u64,
    /// Messages that were already committed, and were answered as before.
    pub duplicates: u64,
    /// Messages that [`Answer`] kept from being committed.
    pub refused: u64,
    /// Frames that hold no HL7 message, and connections that carry no frames.
    pub unreadable: u64,
    /// Connections accepted.
    pub connections: u64,
}

/// A running receiver. Dropping the handle stops nothing: the task group does.
#[derive(Clone)]
pub struct Receiver {
    address: SocketAddr,
    shared: Arc<Shared>,
}

/// MSH-3 and MSH-10: what a message is known by.
type Key = (String, String);

struct Shared {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    /// Says that counts have changed.
    counts: watch::Sender<ReceiverCounts>,
    permits: Semaphore,
    patience: Duration,
    stop: CancellationToken,
}

#[derive(Default)]
struct State {
    answer: Answer,
    log: VecDeque<Received>,
    /// The acknowledgement of each message in the log.
    acknowledged: HashMap<Key, String>,
    written: u64,
}

/// What goes back over the connection.
enum Reply {
    Whole(String),
    Half(String),
    Drip(String),
    Garbage,
    Silence,
    Close,
}

impl Receiver {
    /// Listens at `bind` (port 0: any free one) until `tasks` are cancelled. `clock` dates the answers.
    ///
    /// # Errors
    /// If the address cannot be bound.
    pub async fn start(bind: SocketAddr, clock: Arc<dyn Clock>, tasks: &Tasks) -> io::Result<Self> {
        Self::start_with(bind, clock, tasks, PATIENCE).await
    }

    /// As [`Receiver::start`], with another patience than [`PATIENCE`].
    ///
    /// # Errors
    /// As there.
    pub async fn start_with(
        bind: SocketAddr,
        clock: Arc<dyn Clock>,
        tasks: &Tasks,
        patience: Duration,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(bind).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            clock,
            state: Mutex::default(),
            counts: watch::Sender::default(),
            permits: Semaphore::new(CONNECTIONS),
            patience,
            stop: tasks.token(),
        });
        let (accepting, group) = (Arc::clone(&shared), tasks.clone());
        tasks.background("mllp receiver", async move { accept(listener, accepting, group).await });
        Ok(Self { address, shared })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on does this with messages that are new to it.
    pub fn set_answer(&self, answer: Answer) {
        self.shared.state.lock().answer = answer;
    }

    /// What happened so far.
    #[must_use]
    pub fn counts(&self) -> ReceiverCounts {
        *self.shared.counts.borrow()
    }

    /// Waits until `enough` holds of the counts, now or later; returns the counts for which it held.
    pub async fn until(&self, enough: impl FnMut(&ReceiverCounts) -> bool) -> ReceiverCounts {
        let mut counts = self.shared.counts.subscribe();
        *counts.wait_for(enough).await.expect("the sender lives in the same handle")
    }

    /// The committed messages, oldest first, at most [`LOG_LIMIT`].
    #[must_use]
    pub fn received(&self) -> Vec<Received> {
        self.shared.state.lock().log.iter().cloned().collect()
    }
}

impl std::fmt::Debug for Receiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receiver").field("address", &self.address).finish_non_exhaustive()
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, tasks: Tasks) {
    loop {
        let accepted = tokio::select! {
            () = shared.stop.cancelled() => return,
            accepted = async {
                let permit = shared.permits.acquire().await.ok()?;
                permit.forget();
                Some(listener.accept().await)
            } => accepted,
        };
        match accepted {
            None => return,
            Some(Err(error)) => {
                shared.permits.add_permits(1);
                tracing::warn!(%error, "mllp receiver cannot accept a connection");
                // Out of descriptors, most likely: trying again at once would only burn the processor.
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
            Some(Ok((stream, _))) => {
                shared.counts.send_modify(|c| c.connections += 1);
                let shared = Arc::clone(&shared);
                tasks.background("mllp connection", async move {
                    tokio::select! {
                        () = shared.stop.cancelled() => {}
                        () = serve(stream, &shared) => {}
                    }
                    shared.permits.add_permits(1);
                });
            }
        }
    }
}

/// Serves one connection to its end. A sender that goes away, whenever it does, is no error of the receiver.
async fn serve(stream: TcpStream, shared: &Shared) {
    let mut frames = Framed::new(stream, Codec::new(DEFAULT_FRAME_LIMIT));
    // However slowly bytes arrive, a whole message is there in time or the connection ends.
    while let Ok(Some(frame)) = timeout(shared.patience, frames.next()).await {
        let message = match &frame {
            Ok(frame) => parse_message(frame).ok(),
            Err(FrameError::Io(_) | FrameError::HalfFrame { .. }) => return,
            Err(_) => None,
        };
        let (Some(message), Ok(raw)) = (message, frame) else {
            shared.counts.send_modify(|c| c.unreadable += 1);
            return;
        };
        match shared.take(&message, raw) {
            Reply::Whole(answer) => {
                if !matches!(timeout(shared.patience, frames.send(answer.as_str())).await, Ok(Ok(()))) {
                    return;
                }
            }
            Reply::Half(answer) => {
                let half = &answer.as_bytes()[..answer.len() / 2];
                let stream = frames.get_mut();
                if stream.write_all(&[0x0b]).await.is_ok() && stream.write_all(half).await.is_ok() {
                    tracing::debug!("mllp receiver closes within its answer, as told");
                }
                return;
            }
            Reply::Drip(answer) => return drip(frames.get_mut(), &answer).await,
            Reply::Garbage => {
                while matches!(
                    timeout(shared.patience, frames.get_mut().write_all(&GARBAGE)).await,
                    Ok(Ok(()))
                ) {}
                return;
            }
            Reply::Silence => {}
            Reply::Close => return,
        }
    }
}

async fn drip(stream: &mut TcpStream, answer: &str) {
    let framed = [0x0b].into_iter().chain(answer.bytes()).chain([0x1c, 0x0d]);
    for byte in framed {
        if stream.write_all(&[byte]).await.is_err() {
            return;
        }
        tokio::time::sleep(DRIP).await;
    }
}

impl Shared {
    /// Decides what becomes of a message, commits it where it is to be committed, and only then gives the answer.
    fn take(&self, message: &Message, raw: Bytes) -> Reply {
        let header = message.header();
        let key = (header.sending_application.clone(), header.control_id.clone());
        let mut state = self.state.lock();
        if let Some(answer) = state.acknowledged.get(&key) {
            let answer = answer.clone();
            self.counts.send_modify(|c| c.duplicates += 1);
            return Reply::Whole(answer);
        }
        state.written += 1;
        let own_id = format!("R{}", state.written);
        let write = |code, error| ack_for(header, code, &own_id, self.clock.now(), error);
        let (answer, commit, reply): (_, bool, fn(String) -> Reply) = match state.answer {
            Answer::Accept => (write(AckCode::ApplicationAccept, None), true, Reply::Whole),
            Answer::HalfFrame => (write(AckCode::ApplicationAccept, None), true, Reply::Half),
            Answer::Drip => (write(AckCode::ApplicationAccept, None), true, Reply::Drip),
            Answer::Garbage => (write(AckCode::ApplicationAccept, None), true, |_| Reply::Garbage),
            Answer::OtherMessage => (write(AckCode::ApplicationAccept, None), true, |answer| {
                // MSA-2 is the last field of the answer's second segment.
                Reply::Whole(answer.replacen("MSA|AA|", "MSA|AA|X", 1))
            }),
            Answer::DropAckAfterCommit => (write(AckCode::ApplicationAccept, None), true, |_| Reply::Close),
            Answer::AnswerAe(error) => (write(AckCode::ApplicationError, error), false, Reply::Whole),
            Answer::AnswerAr(error) => (write(AckCode::ApplicationReject, error), false, Reply::Whole),
            Answer::Nothing => (Ok(String::new()), false, |_| Reply::Silence),
            Answer::CloseBefore => (Ok(String::new()), false, |_| Reply::Close),
        };
        let Ok(answer) = answer else {
            self.counts.send_modify(|c| c.unreadable += 1);
            return Reply::Close;
        };
        if commit {
            state.commit(key, raw, answer.clone());
        }
        // Counted after the commit, so that whoever waits for the count finds the message.
        self.counts.send_modify(|c| if commit { c.accepted += 1 } else { c.refused += 1 });
        reply(answer)
    }
}

impl State {
    fn commit(&mut self, key: Key, raw: Bytes, answer: String) {
        if self.log.len() == LOG_LIMIT
            && let Some(oldest) = self.log.pop_front()
        {
            self.acknowledged.remove(&(oldest.sending_application, oldest.control_id));
        }
        let (sending_application, control_id) = key.clone();
        self.log.push_back(Received { sending_application, control_id, raw: Phi::new(raw) });
        self.acknowledged.insert(key, answer);
    }
}
