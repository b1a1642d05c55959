//! Small reads that are asked at one time, asked together.
//!
//! A role loads a handful of records before each change, four or five for one that it writes, and many are under way at once. A call costs the cluster and
//! this process several times what its read does. So while calls are under way, the reads that come wait for one of these to
//! end, and then go as one transaction of reads: as linearizable as each would be, since all were asked before it is sent. A
//! read that comes alone goes at once, and is not slower by this.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::Error;

/// Calls under way at once: one is on its way while the answer to the other is worked on.
const CALLS: usize = 2;

/// Reads of one call, below etcd's 128 operations. What waits beyond that waits in its callers, each of which has one place.
const READS: usize = 64;

/// The reads of `Q` that wait for their `A`, and how many calls are under way.
pub(super) struct Together<Q, A>(Mutex<Waiting<Q, A>>);

struct Waiting<Q, A> {
    reads: VecDeque<(Q, Told<Q, A>)>,
    calls: usize,
    /// With so many in the line it is looked through for callers that are gone.
    look: usize,
}

type Told<Q, A> = oneshot::Sender<Turn<Q, A>>;

impl<Q, A> Default for Together<Q, A> {
    fn default() -> Self {
        Self(Mutex::new(Waiting { reads: VecDeque::new(), calls: 0, look: READS }))
    }
}

/// What a read that waits is told.
enum Turn<Q, A> {
    /// What another one's call has read for it.
    Read(Result<A, Error>),
    /// That the next call is its own to make.
    Call(Place<Q, A>),
}

/// The right to make one call. Dropped, it goes to who waits longest, however its owner ended.
struct Place<Q, A> {
    together: Arc<Together<Q, A>>,
    given: bool,
}

impl<Q, A> Drop for Place<Q, A> {
    fn drop(&mut self) {
        if self.given {
            return;
        }
        loop {
            let next = {
                let mut waiting = self.together.0.lock();
                let next = waiting.reads.pop_front();
                if next.is_none() {
                    waiting.calls -= 1;
                }
                next
            };
            let Some((_, turn)) = next else { return };
            let place = Self { together: Arc::clone(&self.together), given: false };
            match turn.send(Turn::Call(place)) {
                // Who is gone gives it back: it goes to the next, here and not by its own end.
                Err(Turn::Call(mut place)) => place.given = true,
                Err(Turn::Read(_)) | Ok(()) => return,
            }
        }
    }
}

impl<Q: Clone, A> Together<Q, A> {
    /// Reads `query`, with others by `call`, which answers each query in their order.
    pub async fn read<F>(self: &Arc<Self>, query: Q, call: impl Fn(Vec<Q>) -> F) -> Result<A, Error>
    where
        F: Future<Output = Result<Vec<A>, Error>>,
    {
        let place = match self.enter(&query) {
            Ok(place) => place,
            Err(turn) => match turn.await {
                Ok(Turn::Read(read)) => return read,
                Ok(Turn::Call(place)) => place,
                // Who called for it gave up, or was refused, which may concern another query.
                Err(_) => return call(vec![query]).await?.pop().ok_or_else(missing_answer),
            },
        };
        let (mut queries, mut turns) = (vec![query.clone()], Vec::new());
        for (query, turn) in self.carried() {
            queries.push(query);
            turns.push(turn);
        }
        let alone = turns.is_empty();
        let read = call(queries).await;
        // Before the place is given on: who waits for it need not find out by itself what is known.
        if read.as_ref().is_err_and(|e| everyones(e).is_some()) {
            turns.extend(self.0.lock().reads.drain(..).map(|(_, turn)| turn));
        }
        drop(place);
        // Who gave up meanwhile wants no answer.
        let tell = |turn: Told<Q, A>, read| drop(turn.send(Turn::Read(read)));
        match read {
            Ok(found) => {
                let mut found = found.into_iter();
                let own = found.next().ok_or_else(missing_answer);
                turns.into_iter().for_each(|turn| tell(turn, found.next().ok_or_else(missing_answer)));
                own
            }
            Err(e) if alone || everyones(&e).is_some() => {
                for (turn, e) in turns.into_iter().filter_map(|turn| Some((turn, everyones(&e)?))) {
                    tell(turn, Err(e));
                }
                Err(e)
            }
            // Those that were carried ask for themselves, and so does who carried them.
            Err(_) => {
                drop(turns);
                call(vec![query]).await?.pop().ok_or_else(missing_answer)
            }
        }
    }

    /// Those that wait longest and still wait, taken out of the line.
    fn carried(&self) -> Vec<(Q, Told<Q, A>)> {
        let mut waiting = self.0.lock();
        let mut carried = Vec::new();
        while carried.len() < READS - 1
            && let Some((query, turn)) = waiting.reads.pop_front()
        {
            if !turn.is_closed() {
                carried.push((query, turn));
            }
        }
        carried
    }

    /// The right to call now, or the place in the line.
    fn enter(self: &Arc<Self>, query: &Q) -> Result<Place<Q, A>, oneshot::Receiver<Turn<Q, A>>> {
        let mut waiting = self.0.lock();
        if waiting.calls < CALLS {
            waiting.calls += 1;
            return Ok(Place { together: Arc::clone(self), given: false });
        }
        if waiting.reads.len() >= waiting.look {
            // Callers that come again and again while the store is slow leave their places behind.
            waiting.reads.retain(|(_, turn)| !turn.is_closed());
            waiting.look = READS.max(2 * waiting.reads.len());
        }
        let (turn, told) = oneshot::channel();
        waiting.reads.push_back((query.clone(), turn));
        Err(told)
    }
}

/// The same error once more, where it concerns everybody who asks now. `None` where it may concern one of the reads alone:
/// the user may not read its range, the store holds there what cannot be understood, or all answers together are too long.
fn everyones(error: &Error) -> Option<Error> {
    match error {
        Error::Unavailable { why } => Some(Error::Unavailable { why: why.clone() }),
        // It is told once: the calls that follow are answered by the other cluster.
        Error::OtherCluster { was, is } => Some(Error::OtherCluster { was: *was, is: *is }),
        Error::Ambiguous { .. }
        | Error::Compacted { .. }
        | Error::FutureRevision { .. }
        | Error::Lost { .. }
        | Error::LeaseExpired
        | Error::TooLarge { .. }
        | Error::TooManyOps { .. }
        | Error::DuplicateKey
        | Error::NoSpace
        | Error::Locked { .. }
        | Error::Corrupt { .. }
        | Error::Io { .. }
        | Error::Poisoned { .. }
        | Error::Refused
        | Error::InvalidKey { .. }
        | Error::InvalidAddress { .. }
        | Error::Denied { .. }
        | Error::Protocol { .. } => None,
    }
}

fn missing_answer() -> Error {
    Error::Protocol { why: "an answer lacks a read".to_owned() }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::{FutureExt as _, future::join_all};
    use tokio::sync::Semaphore;

    use super::*;

    type Store = Together<usize, String>;

    fn found(n: usize) -> String {
        format!("what is at {n}")
    }

    /// A store that answers as often as it is let.
    #[derive(Default)]
    struct Held {
        answers: Option<Semaphore>,
        calls: AtomicUsize,
        most: AtomicUsize,
    }

    impl Held {
        fn new() -> Self {
            Self { answers: Some(Semaphore::new(0)), ..Self::default() }
        }

        async fn call(&self, keys: Vec<usize>) -> Result<Vec<String>, Error> {
            self.calls.fetch_add(1, Ordering::Relaxed);
            self.most.fetch_max(keys.len(), Ordering::Relaxed);
            if let Some(answers) = &self.answers {
                answers.acquire().await.unwrap().forget();
            }
            Ok(keys.into_iter().map(found).collect())
        }

        fn answer(&self, calls: usize) {
            self.answers.as_ref().unwrap().add_permits(calls);
        }
    }

    #[tokio::test]
    async fn a_read_alone_goes_at_once_and_many_go_together_each_with_its_own_answer() {
        let (together, store) = (Arc::new(Store::default()), Held::new());
        let reads = (0..1000).map(|n| {
            let (together, store) = (&together, &store);
            async move { together.read(n, |keys| store.call(keys)).await }
        });
        let all = join_all(reads);
        tokio::pin!(all);
        assert!(all.as_mut().now_or_never().is_none());
        assert_eq!(store.calls.load(Ordering::Relaxed), CALLS, "the first go at once, alone");
        store.answer(1000);
        let read = all.await;
        for (n, read) in read.into_iter().enumerate() {
            assert_eq!(read.unwrap(), found(n));
        }
        assert_eq!(store.most.load(Ordering::Relaxed), READS);
        let calls = store.calls.load(Ordering::Relaxed);
        assert!(calls <= CALLS + (1000 - CALLS).div_ceil(READS) + CALLS, "{calls}");
        assert_eq!(together.0.lock().calls, 0);
    }

    #[tokio::test]
    async fn whoever_gives_up_holds_up_nobody() {
        let (together, store) = (Arc::new(Store::default()), Held::new());
        let mut reads: Vec<_> = (0..6)
            .map(|n| {
                let (together, store) = (&together, &store);
                Box::pin(async move { together.read(n, |keys| store.call(keys)).await })
            })
            .collect();
        for read in &mut reads {
            assert!(read.as_mut().now_or_never().is_none());
        }
        // The callers, and the first who would call next.
        drop(reads.drain(..CALLS + 1));
        store.answer(100);
        for (n, read) in join_all(reads).await.into_iter().enumerate() {
            assert_eq!(read.unwrap(), found(n + CALLS + 1));
        }
        assert_eq!(together.0.lock().calls, 0);
        // A caller that carries others' reads and gives up: they ask for themselves.
        let (together, store) = (Arc::new(Store::default()), Held::new());
        let get = |n| {
            let (together, store) = (&together, &store);
            Box::pin(async move { together.read(n, |keys| store.call(keys)).await })
        };
        let (mut a, mut b, mut c, mut d) = (get(1), get(2), get(3), get(4));
        for read in [&mut a, &mut b, &mut c, &mut d] {
            assert!(read.as_mut().now_or_never().is_none());
        }
        store.answer(1);
        assert_eq!(a.await.unwrap(), found(1));
        assert!(c.as_mut().now_or_never().is_none(), "it calls for the fourth too");
        drop(c);
        store.answer(100);
        assert_eq!(d.await.unwrap(), found(4));
        assert_eq!(b.await.unwrap(), found(2));
        assert_eq!(together.0.lock().calls, 0);
    }

    #[tokio::test]
    async fn what_nobody_waits_for_is_not_asked_and_leaves_no_place_behind() {
        let (together, store) = (Arc::new(Store::default()), Held::new());
        let get = |n| {
            let (together, store) = (&together, &store);
            Box::pin(async move { together.read(n, |keys| store.call(keys)).await })
        };
        let mut first: Vec<_> = (0..=CALLS).map(get).collect();
        assert!(first.iter_mut().all(|read| read.as_mut().now_or_never().is_none()));
        // Many come, and give up.
        for n in 0..10_000 {
            assert!(get(n).now_or_never().is_none());
        }
        assert!(together.0.lock().reads.len() <= 2 * READS, "{}", together.0.lock().reads.len());
        let mut last = get(7);
        assert!(last.as_mut().now_or_never().is_none());
        store.answer(100);
        for (n, read) in join_all(first).await.into_iter().enumerate() {
            assert_eq!(read.unwrap(), found(n));
        }
        assert_eq!(last.await.unwrap(), found(7));
        assert!(store.most.load(Ordering::Relaxed) <= 2, "those that still wait, and no other");
        assert!(store.calls.load(Ordering::Relaxed) <= CALLS + 2);
        assert_eq!(together.0.lock().calls, 0);
    }

    #[tokio::test]
    async fn a_store_that_is_away_is_told_to_all_and_another_error_to_whom_it_concerns() {
        // The third and fourth are carried by one that is not refused itself, or by one that is.
        for (refused, key) in [(false, 0), (true, 3), (true, 4)] {
            let together = Arc::new(Store::default());
            let calls = AtomicUsize::new(0);
            let call = async |keys: Vec<usize>| {
                calls.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
                match (refused, keys.contains(&key)) {
                    (false, _) => Err(Error::unavailable("away")),
                    (true, true) => Err(Error::Protocol { why: "no".to_owned() }),
                    (true, false) => Ok(keys.into_iter().map(found).collect()),
                }
            };
            let reads = (1..=5).map(|n| {
                let (together, call) = (&together, &call);
                async move { together.read(n, call).await }
            });
            let read = join_all(reads).await;
            let failed: Vec<_> = read.iter().map(Result::is_err).collect();
            match refused {
                false => {
                    assert_eq!(failed, [true; 5]);
                    assert_eq!(calls.load(Ordering::Relaxed), CALLS, "whoever waits is told at once");
                }
                true => assert_eq!(failed, [1, 2, 3, 4, 5].map(|n| n == key)),
            }
            assert_eq!(together.0.lock().calls, 0);
        }
    }
}
