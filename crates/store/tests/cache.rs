//! Reflector, session and election over a store that fails on purpose. Time is virtual.

mod common;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use common::{key, put};
use isocenter_domain::Time;
use isocenter_runtime::{
    clock::{Clock as _, TestClock},
    random::Seeded,
    task::Tasks,
};
use isocenter_store::{
    Compare, Error, Key, Kv, Op, Range, Txn,
    election::{Candidate, Election},
    embedded::{Embedded, EmbeddedOptions},
    faulty::{Faults, FaultyStore},
    list_all,
    reflector::{Changed, Mirror, Reflector, ReflectorOptions},
    session::{Session, SessionOptions},
};
use isocenter_testkit::{PowerCutFs, wait_for};

/// Virtual: nothing waits for it.
const LONG: Duration = Duration::from_secs(3600);

struct World {
    kv: Arc<dyn Kv>,
    clock: TestClock,
    tasks: Tasks,
}

async fn world() -> World {
    let (disk, clock) = (PowerCutFs::new(), TestClock::paused(Time::ZERO));
    let options = EmbeddedOptions::new("/store").over(disk.shared()).with_clock(clock.shared());
    let kv: Arc<dyn Kv> = Arc::new(Embedded::open(options).await.unwrap());
    World { kv, clock, tasks: Tasks::new() }
}

impl World {
    fn reflect(&self, kv: &Arc<dyn Kv>, seed: u64) -> Mirror<Bytes> {
        let mut options = ReflectorOptions::new(Range::prefix("k/").unwrap());
        options.rng = Seeded::new(seed);
        let (reflector, mirror) = Reflector::new(Arc::clone(kv), options, |kv| kv.value.clone());
        self.tasks.background("reflector", reflector.run(self.tasks.token()));
        mirror
    }

    fn faulty(&self, faults: Faults, seed: u64) -> Arc<FaultyStore> {
        Arc::new(FaultyStore::new(Arc::clone(&self.kv), faults, Seeded::new(seed)))
    }

    fn session(&self, kv: Arc<dyn Kv>) -> Session {
        let ttl = Duration::from_secs(10);
        let options = SessionOptions { ttl, guard: vec![], clock: self.clock.shared() };
        let (session, keeper) = Session::new(kv, options);
        self.tasks.essential("session", keeper.run(self.tasks.token()));
        session
    }

    fn candidate(&self, kv: &Arc<dyn Kv>, address: &str) -> (Tasks, Session, Election) {
        let tasks = self.tasks.child();
        let session = self.session(Arc::clone(kv));
        let (candidate, election) =
            Candidate::new(Arc::clone(kv), session.clone(), key("leader/queue"), address);
        tasks.background("candidate", candidate.run(tasks.token()));
        (tasks, session, election)
    }
}

async fn write_at_random(kv: &dyn Kv, rng: &mut Seeded, writes: u64) {
    for i in 0..writes {
        let k = key(format!("k/{}", rng.range(0..30)));
        let op = if rng.chance(0.3) { Op::delete(&k) } else { Op::put(&k, format!("{i}")) };
        kv.txn(Txn::always(vec![op, Op::put(&key("k/last"), format!("{i}"))])).await.unwrap();
        if rng.chance(0.2) {
            tokio::time::sleep(Duration::from_millis(rng.range(1..2000))).await;
        }
    }
}

/// What a subscriber makes of the changes that it is told, and how often it had to read everything.
#[derive(Default)]
struct Shadow {
    items: BTreeMap<Key, Bytes>,
    relists: usize,
}

impl Shadow {
    /// One that follows `mirror`.
    fn of(mirror: &Mirror<Bytes>, tasks: &Tasks) -> Arc<parking_lot::Mutex<Self>> {
        let (shadow, mirror) = (Arc::new(parking_lot::Mutex::new(Self::default())), mirror.clone());
        let (mut changes, followed) = (mirror.subscribe(), Arc::clone(&shadow));
        tasks.background("subscriber", async move {
            while let Some(changed) = changes.next().await {
                followed.lock().follow(changed, &mirror);
            }
        });
        shadow
    }

    fn follow(&mut self, changed: Changed, mirror: &Mirror<Bytes>) {
        match changed {
            Changed::Relist => {
                let all = mirror.snapshot().items;
                self.items = all.iter().map(|(k, c)| (k.clone(), c.value.clone())).collect();
                self.relists += 1;
            }
            Changed::Keys(keys) => keys.into_iter().for_each(|k| match mirror.get(&k) {
                Some(cached) => drop(self.items.insert(k, cached.value.clone())),
                None => drop(self.items.remove(&k)),
            }),
        }
    }
}

/// Waits until mirror and subscriber are as the store is; how often the subscriber has read everything.
async fn agreed(
    world: &World,
    mirror: &Mirror<Bytes>,
    shadow: &parking_lot::Mutex<Shadow>,
    seed: u64,
) -> usize {
    let truth = list_all(&*world.kv, &Range::prefix("k/").unwrap()).await.unwrap();
    tokio::time::timeout(LONG, mirror.reached(truth.revision)).await.expect("the cache catches up");
    let cached: Vec<_> = mirror.snapshot().items.values().map(|c| c.kv.clone()).collect();
    assert!(cached == truth.items, "the mirror is not as the store, seed {seed}");
    let expected: BTreeMap<_, _> = truth.items.iter().map(|kv| (kv.key.clone(), kv.value.clone())).collect();
    let same = || async { shadow.lock().items == expected };
    wait_for(&format!("the subscriber to agree, seed {seed}"), Duration::from_secs(5), same).await;
    shadow.lock().relists
}

#[tokio::test(start_paused = true)]
async fn the_cache_equals_the_store_at_quiescence_whatever_fails() {
    for seed in 0..12 {
        let world = world().await;
        let mut rng = Seeded::new(seed);
        let faults = Faults {
            timeout_before: 0.2,
            cut_watch: 0.1,
            silence_watch: 0.05,
            compaction: 0.3,
            latency: Duration::from_millis(50),
            ..Faults::default()
        };
        let faulty = world.faulty(faults, seed);
        let kv: Arc<dyn Kv> = faulty.clone();
        let mirror = world.reflect(&kv, seed);
        let shadow = Shadow::of(&mirror, &world.tasks);
        write_at_random(&*world.kv, &mut rng, 200).await;
        agreed(&world, &mirror, &shadow, seed).await;
        world.tasks.drain(LONG).await;
    }
}

/// More keys than two pages have, evenly among the shards.
const WIDE: usize = 9_000;

fn wide(n: usize) -> Key {
    key(format!("k/{:02x}/k{n:05}", n % 256))
}

/// Changes, deletes and makes keys in the first shard, in the last, and in those between.
async fn change_everywhere(kv: &dyn Kv, rng: &mut Seeded, value: &str) {
    let shards = [0, 0x60, 0x80, 0xa0, 0xd8, 0xff];
    let ops = shards.into_iter().flat_map(|shard| {
        let mut at = |from: u64| wide(shard + 256 * usize::try_from(rng.range(from..from + 17)).unwrap());
        // Each is another key: in one transaction none may be named twice.
        [Op::put(&at(0), value.to_owned()), Op::delete(&at(17)), Op::put(&at(50), value.to_owned())]
    });
    common::always(kv, ops.collect()).await;
}

#[tokio::test(start_paused = true)]
async fn a_re_list_of_several_pages_is_right_whatever_fails_and_changes_between_them() {
    let mut world = world().await;
    let all: Vec<Op> = (0..WIDE).map(|n| Op::put(&wide(n), "old")).collect();
    for ops in all.chunks(100) {
        common::always(&*world.kv, ops.to_vec()).await;
    }
    for seed in 0..3 {
        world.tasks = Tasks::new();
        let mut rng = Seeded::new(seed);
        let faults = Faults {
            timeout_before: 0.1,
            compaction: 0.3,
            latency: Duration::from_millis(50),
            ..Faults::default()
        };
        let faulty = world.faulty(faults, seed);
        let kv: Arc<dyn Kv> = faulty.clone();
        let mirror = world.reflect(&kv, seed);
        let shadow = Shadow::of(&mirror, &world.tasks);
        let relists = agreed(&world, &mirror, &shadow, seed).await;
        for round in 0..2 {
            // Its watch is cut by the first event, and the store cannot be reached until all is changed.
            faulty.set(Faults { cut_watch: 1.0, timeout_before: 1.0, ..Faults::default() });
            put(&*world.kv, "k/last", format!("{seed} {round}")).await;
            wait_for("the cut", LONG, || async { !mirror.is_live() }).await;
            change_everywhere(&*world.kv, &mut rng, &format!("{seed} {round}")).await;
            let asked = faulty.requests();
            faulty.set(faults);
            // Amid its list all is changed once more, and what it reads is compacted.
            wait_for("the first pages", LONG, || async { faulty.requests() > asked + 1 }).await;
            change_everywhere(&*world.kv, &mut rng, &format!("{seed} {round} amid")).await;
            world.kv.compact(common::revision(&*world.kv).await).await.unwrap();
            assert_eq!(
                agreed(&world, &mirror, &shadow, seed).await,
                relists,
                "told of keys, not to list, seed {seed}"
            );
        }
        world.tasks.drain(LONG).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_re_list_tells_of_keys_that_vanished_meanwhile() {
    let world = world().await;
    for k in ["k/a", "k/b"] {
        put(&*world.kv, k, "1").await;
    }
    let faulty = world.faulty(Faults::default(), 1);
    let kv: Arc<dyn Kv> = faulty.clone();
    let mirror = world.reflect(&kv, 1);
    mirror.synced().await;
    let mut changes = mirror.subscribe();
    assert_eq!(changes.next().await, Some(Changed::Relist));
    // Its watch is cut by the first event, and the store cannot be reached until the key is gone.
    faulty.set(Faults { cut_watch: 1.0, timeout_before: 1.0, ..Faults::default() });
    put(&*world.kv, "k/b", "2").await;
    wait_for("the cut", LONG, || async { !mirror.is_live() }).await;
    let gone = common::always(&*world.kv, vec![Op::delete(&key("k/a"))]).await.revision;
    faulty.set(Faults::default());
    mirror.reached(gone).await;
    assert_eq!(changes.next().await, Some(Changed::Keys(vec![key("k/a"), key("k/b")])));
    assert!(mirror.get(&key("k/a")).is_none());
    world.tasks.drain(LONG).await;
    assert_eq!(changes.next().await, None, "it ends with its reflector");
}

#[tokio::test(start_paused = true)]
async fn a_periodic_re_list_repairs_what_the_store_never_delivered() {
    let world = world().await;
    let faulty = world.faulty(Faults { lose_events: 1.0, ..Faults::default() }, 1);
    let kv: Arc<dyn Kv> = faulty.clone();
    let mirror = world.reflect(&kv, 1);
    mirror.synced().await;
    put(&*world.kv, "k/a", "1").await;
    wait_for("the key that was never delivered", LONG, || async { mirror.get(&key("k/a")).is_some() }).await;
    world.tasks.drain(LONG).await;
}

#[tokio::test(start_paused = true)]
async fn a_lagging_subscriber_is_told_to_list_and_changes_are_coalesced() {
    let world = world().await;
    let mirror = world.reflect(&world.kv, 1);
    mirror.synced().await;
    let mut changes = mirror.subscribe();
    assert_eq!(changes.next().await, Some(Changed::Relist));
    for i in 0..5 {
        put(&*world.kv, "k/a", format!("{i}")).await;
    }
    let mut at = put(&*world.kv, "k/b", "x").await;
    mirror.reached(at).await;
    assert_eq!(changes.next().await, Some(Changed::Keys(vec![key("k/a"), key("k/b")])));
    for batch in 0..=isocenter_store::reflector::SUBSCRIBER_KEYS / 128 {
        let puts = (0..128).map(|i| Op::put(&key(format!("k/{batch}-{i}")), "x")).collect();
        at = common::always(&*world.kv, puts).await.revision;
    }
    mirror.reached(at).await;
    assert_eq!(changes.next().await, Some(Changed::Relist));
    world.tasks.drain(LONG).await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_lease_is_regained_with_its_keys() {
    for seed in 0..8 {
        let world = world().await;
        let faulty = world.faulty(Faults::default(), seed);
        let session = world.session(faulty.clone());
        session.register(key("presence/node/a"), "1");
        let first = session.held().await;
        assert_eq!(world.kv.get(&key("presence/node/a")).await.unwrap().unwrap().lease, Some(first));
        session.register(key("presence/node/b"), "2");
        let there = |k: &'static str| {
            let kv = Arc::clone(&world.kv);
            move || {
                let kv = Arc::clone(&kv);
                async move { kv.get(&key(k)).await.unwrap().is_some() }
            }
        };
        wait_for("the second key", LONG, there("presence/node/b")).await;
        faulty.set(Faults { timeout_before: 0.2, timeout_after: 0.2, lease_loss: 0.5, ..Faults::default() });
        let mut lease = session.lease();
        lease.wait_for(|lease| lease.is_some_and(|l| l != first)).await.unwrap();
        faulty.set(Faults::default());
        wait_for("a kept lease", LONG, there("presence/node/a")).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        session.unregister(&key("presence/node/b"));
        wait_for("one key", LONG, || async {
            list_all(&*world.kv, &Range::prefix("presence/").unwrap()).await.unwrap().items.len() == 1
        })
        .await;
        world.tasks.drain(LONG).await;
        assert_eq!(world.kv.get(&key("presence/node/a")).await.unwrap(), None, "revoked, not expired");
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_whose_guard_fails_ends() {
    let world = world().await;
    put(&*world.kv, "meta/level", "2").await;
    let guard = vec![Compare::absent(&key("meta/level"))];
    let options = SessionOptions { ttl: Duration::from_secs(10), guard, clock: world.clock.shared() };
    let (session, keeper) = Session::new(Arc::clone(&world.kv), options);
    session.register(key("presence/node/a"), "1");
    assert!(matches!(keeper.run(world.tasks.token()).await, Err(Error::Refused)));
    assert_eq!(world.kv.get(&key("presence/node/a")).await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn a_paused_leader_is_refused_after_another_was_elected() {
    let world = world().await;
    let faulty = world.faulty(Faults::default(), 1);
    let kv: Arc<dyn Kv> = faulty.clone();
    let (_, _, mut first) = world.candidate(&kv, "10.0.0.1:1");
    let old = first.elected().await.unwrap();
    let (_, _, mut second) = world.candidate(&world.kv, "10.0.0.2:1");
    let write = |fence: &isocenter_store::election::Fence, by: &'static str| {
        let txn = Txn::when(vec![fence.compare()], vec![Op::put(&key("queue/head"), by)]);
        let kv = Arc::clone(&world.kv);
        async move { kv.txn(txn).await.unwrap().succeeded }
    };
    assert!(write(&old, "first").await);
    wait_for("the second to see the first", LONG, || async {
        second.leader().is_some_and(|l| l.address == "10.0.0.1:1" && l.token == old.token())
    })
    .await;
    assert!(second.fence().is_none());
    // The first is cut off from the store for longer than its lease, and goes on believing in the fence it took.
    faulty.set(Faults { timeout_before: 1.0, ..Faults::default() });
    let new = second.elected().await.unwrap();
    assert!(new.token() > old.token());
    assert!(!write(&old, "first").await, "the paused leader's write is refused");
    assert!(write(&new, "second").await);
    wait_for("the first to know that it does not lead", LONG, || async { first.fence().is_none() }).await;
    faulty.set(Faults::default());
    wait_for("the first to see the second", LONG, || async {
        first.leader().is_some_and(|l| l.address == "10.0.0.2:1")
    })
    .await;
    world.tasks.drain(LONG).await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_resigns_is_followed_at_once() {
    let world = world().await;
    let (tasks, _, mut first) = world.candidate(&world.kv, "10.0.0.1:1");
    let old = first.elected().await.unwrap();
    let (_, _, mut second) = world.candidate(&world.kv, "10.0.0.2:1");
    wait_for("the second to look on", LONG, || async { second.leader().is_some() }).await;
    let before = world.clock.monotonic();
    tasks.drain(LONG).await;
    let new = second.elected().await.unwrap();
    assert!(new.token() > old.token());
    assert!(world.clock.monotonic() - before < Duration::from_secs(1), "not by expiry of a lease");
    world.tasks.drain(LONG).await;
}

#[tokio::test(start_paused = true)]
async fn at_most_one_fence_holds_whatever_fails() {
    for seed in 0..8 {
        let world = world().await;
        let faults = Faults {
            timeout_before: 0.1,
            timeout_after: 0.1,
            cut_watch: 0.2,
            lease_loss: 0.2,
            latency: Duration::from_millis(300),
            ..Faults::default()
        };
        let kvs: Vec<_> = (0..3).map(|i| world.faulty(faults, seed * 10 + i)).collect();
        let elections: Vec<_> = (0..3)
            .map(|i| {
                let kv: Arc<dyn Kv> = kvs[i].clone();
                world.candidate(&kv, &format!("10.0.0.{i}:1")).2
            })
            .collect();
        for _ in 0..200 {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let mut holding = 0;
            for fence in elections.iter().filter_map(Election::fence) {
                holding += u32::from(
                    world.kv.txn(Txn::when(vec![fence.compare()], vec![])).await.unwrap().succeeded,
                );
            }
            assert!(holding <= 1, "seed {seed}");
        }
        kvs.iter().for_each(|kv| kv.set(Faults::default()));
        let settled = || async { elections.iter().filter(|e| e.fence().is_some()).count() == 1 };
        wait_for("one leader", LONG, settled).await;
        world.tasks.drain(LONG).await;
    }
}
