//! Runner and feed together, on paused time.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::BoxStream};
use isocenter_domain::{Kind, Kinded, Time};
use isocenter_reconcile::{
    Everything, Failed, Feed, Hooks, KeySource, Options, Outcome, Queue, Reconciler, Runner, Share,
};
use isocenter_runtime::{
    clock::{Clock as _, TestClock},
    metrics::Metrics,
    task::{Drained, Tasks},
};
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, broadcast, mpsc, watch};

#[derive(Debug, thiserror::Error)]
#[error("unavailable, on purpose")]
struct Unavailable;
impl Kinded for Unavailable {
    fn kind(&self) -> Kind {
        Kind::Unavailable
    }
}

/// Records when each key ran, and what runs at once; `plan` says how a run of a key ends.
struct Recorder {
    clock: TestClock,
    runs: mpsc::Sender<(u32, Time)>,
    beside: Mutex<BTreeMap<u32, usize>>,
    now: AtomicUsize,
    most: AtomicUsize,
    takes: Duration,
    plan: fn(u32, usize) -> Result<Outcome, Failed>,
    counts: Mutex<BTreeMap<u32, usize>>,
}

#[async_trait::async_trait]
impl Reconciler for Recorder {
    type Key = u32;

    async fn reconcile(&self, key: &u32) -> Result<Outcome, Failed> {
        let here = *self.beside.lock().entry(*key).and_modify(|n| *n += 1).or_insert(1);
        assert_eq!(here, 1, "key {key} runs beside itself");
        self.most.fetch_max(self.now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        let at = self.clock.now();
        tokio::time::sleep(self.takes).await;
        self.now.fetch_sub(1, Ordering::SeqCst);
        self.beside.lock().insert(*key, 0);
        let count = *self.counts.lock().entry(*key).and_modify(|n| *n += 1).or_insert(1);
        self.runs.try_send((*key, at)).unwrap();
        (self.plan)(*key, count)
    }
}

struct Bench {
    tasks: Tasks,
    queue: Queue<u32>,
    recorder: Arc<Recorder>,
    runs: mpsc::Receiver<(u32, Time)>,
    metrics: Metrics,
}

fn bench(concurrency: usize, takes: Duration, plan: fn(u32, usize) -> Result<Outcome, Failed>) -> Bench {
    let clock = TestClock::paused(Time::ZERO);
    // No test here makes more runs than this.
    let (sender, runs) = mpsc::channel(10_000);
    let recorder = Arc::new(Recorder {
        clock: clock.clone(),
        runs: sender,
        beside: Mutex::default(),
        now: AtomicUsize::new(0),
        most: AtomicUsize::new(0),
        takes,
        plan,
        counts: Mutex::default(),
    });
    let (tasks, metrics) = (Tasks::new(), Metrics::new());
    let queue = Queue::bounded(clock.shared(), 1_000);
    let options = Options { concurrency, deadline: Duration::from_secs(30), ..Options::new("test") };
    let runner = Runner::new(options, Hooks::new(&metrics));
    tasks.background("runner", runner.run(queue.clone(), recorder.clone(), tasks.token()));
    Bench { tasks, queue, recorder, runs, metrics }
}

#[tokio::test(start_paused = true)]
async fn each_key_runs_alone_and_no_more_at_once_than_allowed() {
    let mut bench = bench(4, Duration::from_millis(10), |_, _| Ok(Outcome::Done));
    for round in 0..5 {
        for key in 0..40 {
            bench.queue.wake(key);
        }
        tokio::time::advance(Duration::from_millis(round)).await;
    }
    while !bench.queue.is_empty() {
        bench.runs.recv().await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(bench.recorder.most.load(Ordering::SeqCst), 4);
    assert_eq!(bench.tasks.drain(Duration::from_secs(1)).await, Drained::Clean);
    assert_eq!(bench.tasks.panics(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_key_is_looked_at_again_when_it_said_and_not_before() {
    let mut bench = bench(1, Duration::ZERO, |_, count| {
        Ok(if count == 1 { Outcome::At(Time::ZERO.plus(Duration::from_secs(3_600))) } else { Outcome::Done })
    });
    bench.queue.wake(1);
    assert_eq!(bench.runs.recv().await, Some((1, Time::ZERO)));
    let (_, again) = bench.runs.recv().await.unwrap();
    let late = again.since(Time::ZERO.plus(Duration::from_secs(3_600)));
    assert!(
        again >= Time::ZERO.plus(Duration::from_secs(3_600)) && late < Duration::from_millis(5),
        "{again:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn failures_back_off_and_panics_and_late_runs_are_failures() {
    let mut bench = bench(2, Duration::ZERO, |key, count| match (key, count) {
        (1, ..5) => Err(Unavailable.into()),
        (2, 1) => panic!("on purpose"),
        _ => Ok(Outcome::Done),
    });
    bench.queue.wake(1);
    bench.queue.wake(2);
    let mut times = BTreeMap::<u32, Vec<Time>>::new();
    for _ in 0..7 {
        let (key, at) = bench.runs.recv().await.unwrap();
        times.entry(key).or_default().push(at);
    }
    while !bench.queue.is_empty() {
        tokio::task::yield_now().await;
    }
    let gaps: Vec<Duration> = times[&1].windows(2).map(|w| w[1].since(w[0])).collect();
    assert!(gaps.len() == 4 && gaps.is_sorted() && gaps[0] >= Duration::from_millis(250), "{gaps:?}");
    assert_eq!(times[&2].len(), 2);
    let text = bench.metrics.render().unwrap();
    for line in ["result=\"failed\"} 4", "result=\"panicked\"} 1", "result=\"ok\"} 2"] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_that_never_ends_is_dropped_at_its_deadline() {
    struct Stuck(Arc<Notify>);
    #[async_trait::async_trait]
    impl Reconciler for Stuck {
        type Key = u32;
        async fn reconcile(&self, _: &u32) -> Result<Outcome, Failed> {
            self.0.notify_one();
            std::future::pending().await
        }
    }
    let clock = TestClock::paused(Time::ZERO);
    let (tasks, queue, began) = (Tasks::new(), Queue::new(clock.shared()), Arc::new(Notify::new()));
    let runner = Runner::new(Options::new("test"), Hooks::new(&Metrics::new()));
    tasks.background("runner", runner.run(queue.clone(), Arc::new(Stuck(Arc::clone(&began))), tasks.token()));
    queue.wake(1);
    began.notified().await;
    began.notified().await;
    assert!(clock.now() >= Time::ZERO.plus(Duration::from_secs(60)));
}

/// A source whose list and changes the test controls.
struct Source {
    keys: Mutex<Vec<u32>>,
    changes: Mutex<broadcast::Sender<u32>>,
    lists: AtomicUsize,
    subscribed: Notify,
}

#[async_trait::async_trait]
impl KeySource for Source {
    type Key = u32;

    async fn list(&self) -> Result<Vec<u32>, Failed> {
        if self.lists.fetch_add(1, Ordering::SeqCst) == 0 {
            return Err(Unavailable.into());
        }
        Ok(self.keys.lock().clone())
    }

    async fn changes(&self) -> Result<BoxStream<'static, u32>, Failed> {
        let receiver = self.changes.lock().subscribe();
        self.subscribed.notify_one();
        let keys =
            futures::stream::unfold(receiver, |mut r| async { r.recv().await.ok().map(|key| (key, r)) });
        Ok(keys.boxed())
    }

    fn shard(&self, key: &u32) -> u8 {
        u8::try_from(key % 256).unwrap()
    }
}

impl Source {
    fn of(keys: Vec<u32>) -> Arc<Self> {
        Arc::new(Self {
            keys: Mutex::new(keys),
            changes: Mutex::new(broadcast::channel(16).0),
            // Only the first list fails.
            lists: AtomicUsize::new(1),
            subscribed: Notify::new(),
        })
    }

    /// How often a source that was made by [`Source::of`] was listed.
    fn lists(&self) -> usize {
        self.lists.load(Ordering::SeqCst) - 1
    }
}

/// A share that the test moves.
#[derive(Debug)]
struct Half(watch::Sender<fn(u8) -> bool>);

impl Share for Half {
    fn owns(&self, shard: u8) -> bool {
        (self.0.borrow())(shard)
    }

    fn changes(&self) -> BoxStream<'static, ()> {
        let mut moved = self.0.subscribe();
        moved.mark_unchanged();
        let next = |mut moved: watch::Receiver<fn(u8) -> bool>| async {
            moved.changed().await.ok()?;
            Some(((), moved))
        };
        futures::stream::unfold(moved, next).boxed()
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_works_on_its_own_shards_and_takes_over_what_becomes_its_own() {
    let mut bench = bench(4, Duration::ZERO, |key, _| {
        // Odd keys wait for a time that is far away.
        Ok(if key % 2 == 1 { Outcome::At(Time::ZERO.plus(Duration::from_secs(120))) } else { Outcome::Done })
    });
    let source = Source::of(vec![1, 2, 3, 4]);
    let share = Arc::new(Half(watch::Sender::new(|shard| shard <= 2)));
    let feed = Feed::new("test");
    let (fed, queue) =
        (feed.run(source.clone(), share.clone(), bench.queue.clone(), bench.tasks.token()), &bench.queue);
    bench.tasks.background("feed", fed);
    let mut seen = vec![bench.runs.recv().await.unwrap().0, bench.runs.recv().await.unwrap().0];
    seen.sort_unstable();
    assert_eq!(seen, [1, 2], "nothing of another's shards");
    // A change of another's key is none of ours, and neither is one that somebody wakes by hand.
    source.changes.lock().send(4).unwrap();
    queue.wake(3);
    source.changes.lock().send(2).unwrap();
    assert_eq!(bench.runs.recv().await.unwrap().0, 2);
    while queue.len() > 1 {
        tokio::task::yield_now().await;
    }
    // The shares move: 1 is forgotten though its time was set, 3 and 4 are found by listing.
    share.0.send_replace(|shard| shard >= 3);
    let mut seen = [bench.runs.recv().await.unwrap(), bench.runs.recv().await.unwrap()];
    seen.sort_unstable();
    assert_eq!(seen.iter().map(|(key, _)| *key).collect::<Vec<_>>(), [3, 4]);
    assert!(seen[1].1 < Time::ZERO.plus(Duration::from_secs(60)), "at once, not by the resync");
    while queue.len() > 1 {
        tokio::task::yield_now().await;
    }
    // The next to run is 3 again at its time: 1 is not in the queue.
    assert_eq!(bench.runs.recv().await.unwrap().0, 3);
    assert_eq!(bench.tasks.drain(Duration::from_secs(5)).await, Drained::Clean);
}

/// Everything, of which the first look is held back while the semaphore is empty.
#[derive(Debug)]
struct Later(Arc<Semaphore>);

impl Share for Later {
    fn owns(&self, _: u8) -> bool {
        true
    }

    fn changes(&self) -> BoxStream<'static, ()> {
        futures::stream::pending().boxed()
    }

    fn first_look(&self) -> BoxFuture<'static, ()> {
        let held = Arc::clone(&self.0);
        async move { drop(held.acquire_owned().await) }.boxed()
    }
}

#[tokio::test(start_paused = true)]
async fn what_changes_is_looked_at_while_the_first_look_at_everything_is_held_back() {
    let mut bench = bench(4, Duration::ZERO, |_, _| Ok(Outcome::Done));
    let (source, held) = (Source::of(vec![1]), Arc::new(Semaphore::new(0)));
    let share = Arc::new(Later(Arc::clone(&held)));
    let fed = Feed::new("test").run(source.clone(), share, bench.queue.clone(), bench.tasks.token());
    bench.tasks.background("feed", fed);
    source.subscribed.notified().await;
    source.changes.lock().send(2).unwrap();
    let (key, at) = bench.runs.recv().await.unwrap();
    assert_eq!(key, 2);
    // Not an `advance`, which would be over before whoever sleeps until then is woken.
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    assert!(bench.runs.try_recv().is_err() && source.lists() == 0, "no resync shortens it");
    held.add_permits(1);
    let (key, looked) = bench.runs.recv().await.unwrap();
    assert!(key == 1 && looked.since(at) >= Duration::from_secs(3_600), "{key} at {looked:?}");
    assert_eq!(bench.tasks.drain(Duration::from_secs(5)).await, Drained::Clean);
}

#[tokio::test(start_paused = true)]
async fn keys_come_by_list_by_change_by_resync_and_after_a_lost_watch() {
    let mut bench = bench(4, Duration::ZERO, |_, _| Ok(Outcome::Done));
    let source = Arc::new(Source {
        keys: Mutex::new(vec![1]),
        changes: Mutex::new(broadcast::channel(16).0),
        lists: AtomicUsize::new(0),
        subscribed: Notify::new(),
    });
    let feed = Feed::new("test");
    bench.tasks.background(
        "feed",
        feed.run(source.clone(), Arc::new(Everything), bench.queue.clone(), bench.tasks.token()),
    );
    // The first list fails; the second finds the key.
    assert_eq!(bench.runs.recv().await.unwrap().0, 1);
    source.changes.lock().send(2).unwrap();
    assert_eq!(bench.runs.recv().await.unwrap().0, 2);
    // Nothing changes any more: the resync comes.
    let (key, at) = bench.runs.recv().await.unwrap();
    assert!(key == 1 && at >= Time::ZERO.plus(feed.resync), "{at:?}");
    // The watch is lost, and a key with it.
    source.keys.lock().push(3);
    *source.changes.lock() = broadcast::channel(16).0;
    let mut seen = vec![bench.runs.recv().await.unwrap().0, bench.runs.recv().await.unwrap().0];
    seen.sort_unstable();
    assert_eq!(seen, [1, 3]);
    assert_eq!(bench.tasks.drain(Duration::from_secs(5)).await, Drained::Clean);
}
