//! The one writer: requests queue, a batch of them is one frame of the log, answers go out once it is synced.
//!
//! There is no standing thread. Who finds the queue unattended hands it to a blocking task, which works until the queue
//! is empty. Nothing runs while nothing happens, and a paused clock does not move while a batch is being written.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{
    Shared, codec,
    log::Log,
    state::{Record, State},
};
use crate::{
    Error,
    kv::{LeaseId, Revision, Txn, TxnAnswer},
};

/// Requests that wait at a time, callers that gave up included; more callers wait in line without a place in memory.
/// Far above the number of tasks that write in one process, so that a batch is never kept small by it.
pub(super) const QUEUE: usize = 4096;

/// Requests in one frame: bounds the frame at some hundred MiB in the worst case, a few hundred KiB in the usual one.
const BATCH: usize = 512;

type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// What the writer is asked to do.
#[derive(Debug)]
pub(super) enum Ask {
    Txn(Txn, Reply<TxnAnswer>),
    Grant(Duration, Reply<LeaseId>),
    Revoke(LeaseId, Reply<()>),
    Compact(Revision, Reply<()>),
    /// End what is due; asked by reads and watches, so that no expired key is ever shown.
    Expire(Reply<()>),
}

#[derive(Debug)]
pub(super) struct Request {
    pub ask: Ask,
    pub now: Instant,
    pub permit: OwnedSemaphorePermit,
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    pending: VecDeque<Request>,
    writing: bool,
}

impl Queue {
    pub fn is_writing(&self) -> bool {
        self.writing
    }
}

/// Queues a request and sees to it that somebody works.
pub(super) fn enqueue(shared: &Arc<Shared>, request: Request) {
    {
        let mut queue = shared.queue.lock();
        queue.pending.push_back(request);
        if std::mem::replace(&mut queue.writing, true) {
            return;
        }
    }
    // Handed over without the lock: a runtime that was shut down drops the duty here and now, which takes the lock.
    let duty = Duty { shared: Arc::clone(shared), done: false };
    // The handle is not joined: the answers say how it went.
    drop(tokio::task::spawn_blocking(move || duty.work()));
}

/// The right to write. Given back when dropped, even where the task panicked or its runtime was shut down before it
/// began; in both cases what was queued is answered by dropping it.
struct Duty {
    shared: Arc<Shared>,
    done: bool,
}

impl Duty {
    fn work(mut self) {
        loop {
            let batch: Vec<_> = {
                let mut queue = self.shared.queue.lock();
                let len = queue.pending.len().min(BATCH);
                if len == 0 {
                    queue.writing = false;
                    self.done = true;
                    break;
                }
                queue.pending.drain(..len).collect()
            };
            write(&self.shared, batch);
        }
        self.shared.idle.notify_waiters();
    }
}

impl Drop for Duty {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        self.shared.poison("the writer ended before its queue was empty");
        let abandoned = {
            let mut queue = self.shared.queue.lock();
            queue.writing = false;
            std::mem::take(&mut queue.pending)
        };
        drop(abandoned);
        self.shared.idle.notify_waiters();
    }
}

/// An answer that waits for the frame to be durable.
enum Held {
    Txn(Reply<TxnAnswer>, Result<TxnAnswer, Error>),
    Grant(Reply<LeaseId>, Result<LeaseId, Error>),
    Done(Reply<()>, Result<(), Error>),
}

impl Held {
    /// Delivers the answer. A caller that is gone does not want it.
    fn send(self) {
        match self {
            Self::Txn(reply, answer) => drop(reply.send(answer)),
            Self::Grant(reply, answer) => drop(reply.send(answer)),
            Self::Done(reply, answer) => drop(reply.send(answer)),
        }
    }

    /// Replaces every success by an error.
    fn fail(self, error: impl Fn() -> Error) -> Self {
        match self {
            Self::Txn(reply, answer) => Self::Txn(reply, answer.and_then(|_| Err(error()))),
            Self::Grant(reply, answer) => Self::Grant(reply, answer.and_then(|_| Err(error()))),
            Self::Done(reply, answer) => Self::Done(reply, answer.and_then(|()| Err(error()))),
        }
    }
}

fn write(shared: &Shared, batch: Vec<Request>) {
    let mut log = shared.log.lock();
    if let Some(why) = shared.poisoned() {
        let refuse = || Error::Poisoned { why: why.clone() };
        for request in batch {
            refused(request.ask, refuse);
        }
        return;
    }
    let mut frame = Vec::new();
    let mut held = Vec::with_capacity(batch.len());
    let mut permits = Vec::with_capacity(batch.len());
    let mut compactions = Vec::new();
    let Some(now) = batch.iter().map(|request| request.now).max() else { return };
    let revision = {
        let mut state = shared.state.write();
        state.expire(now).iter().for_each(|record| codec::put_record(&mut frame, record));
        for request in batch {
            permits.push(request.permit);
            let full = state.bytes() >= shared.options.quota_bytes;
            let (answer, records) = match request.ask {
                Ask::Compact(at, reply) => {
                    compactions.push((at, reply));
                    continue;
                }
                ask => evaluate(&mut state, ask, full, request.now),
            };
            records.iter().for_each(|record| codec::put_record(&mut frame, record));
            held.push(answer);
        }
        state.revision()
    };
    let written = if frame.is_empty() { Ok(()) } else { log.append(&frame) };
    match written {
        Ok(()) => {
            shared.publish(revision);
            held.into_iter().for_each(Held::send);
            compact(shared, &mut log, compactions, now);
        }
        Err(e) => {
            let why = e.to_string();
            shared.poison(&why);
            for answer in held {
                answer.fail(|| Error::Ambiguous { why: why.clone() }).send();
            }
            for (at, reply) in compactions {
                refused(Ask::Compact(at, reply), || Error::Poisoned { why: why.clone() });
            }
        }
    }
    drop(permits);
}

/// Compaction comes after the batch is durable: what readers are shown meanwhile must still be there.
fn compact(shared: &Shared, log: &mut Log, asked: Vec<(Revision, Reply<()>)>, now: Instant) {
    let mut frame = Vec::new();
    let mut answers = Vec::new();
    {
        let mut state = shared.state.write();
        for (at, reply) in asked {
            let answer = state.compact(at).map(|record| codec::put_record(&mut frame, &record));
            answers.push(Held::Done(reply, answer));
        }
        if let Some(record) = shared.compact_old(&mut state, now) {
            codec::put_record(&mut frame, &record);
        }
    }
    let mut done = if frame.is_empty() { Ok(()) } else { log.append(&frame) };
    // A new snapshot when asked to compact, and when the log has outgrown both its bound and the snapshot before it:
    // the cost of snapshots stays in proportion to what is written.
    let asked = !answers.is_empty() && !frame.is_empty();
    let outgrown = log.bytes() > shared.options.log_bytes.max(2 * log.snapshot_bytes());
    if done.is_ok() && (asked || outgrown) {
        done = log.rotate(&shared.state.read());
    }
    if let Err(e) = &done {
        shared.poison(&e.to_string());
    }
    for answer in answers {
        match &done {
            Ok(()) => answer.send(),
            Err(e) => answer.fail(|| Error::Ambiguous { why: e.to_string() }).send(),
        }
    }
}

fn evaluate(state: &mut State, ask: Ask, full: bool, now: Instant) -> (Held, Vec<Record>) {
    match ask {
        Ask::Txn(txn, reply) => match state.txn(&txn, full) {
            Ok((answer, record)) => (Held::Txn(reply, Ok(answer)), Vec::from_iter(record)),
            Err(e) => (Held::Txn(reply, Err(e)), Vec::new()),
        },
        Ask::Grant(_, reply) if full => (Held::Grant(reply, Err(Error::NoSpace)), Vec::new()),
        Ask::Grant(ttl, reply) => {
            let (lease, record) = state.grant(ttl, now);
            (Held::Grant(reply, Ok(lease)), vec![record])
        }
        Ask::Revoke(lease, reply) => match state.revoke(lease) {
            Ok(records) => (Held::Done(reply, Ok(())), records),
            Err(e) => (Held::Done(reply, Err(e)), Vec::new()),
        },
        // Compactions were taken out of the batch before: they come after it.
        Ask::Compact(_, reply) | Ask::Expire(reply) => (Held::Done(reply, Ok(())), Vec::new()),
    }
}

fn refused(ask: Ask, error: impl Fn() -> Error) {
    match ask {
        Ask::Txn(_, reply) => Held::Txn(reply, Err(error())).send(),
        Ask::Grant(_, reply) => Held::Grant(reply, Err(error())).send(),
        Ask::Revoke(_, reply) | Ask::Compact(_, reply) | Ask::Expire(reply) => {
            Held::Done(reply, Err(error())).send();
        }
    }
}
