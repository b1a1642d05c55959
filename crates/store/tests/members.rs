//! Who is there, who works on what, and who may not be there any more. Time is virtual.

mod common;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use common::key;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use isocenter_domain::{
    Time,
    key::{self as keys, StudyKey},
    record::study::Study,
};
use isocenter_runtime::{
    clock::TestClock,
    random::Seeded,
    secret::Secret,
    task::{Drained, Tasks, chain},
};
use isocenter_store::{
    Event, Kv, Op, Range, Revision, Txn,
    check::{check, dump},
    embedded::{Embedded, EmbeddedOptions},
    list_all,
    members::{Members, NodeOptions, Shares},
    table::{Cause, MetaError, Mirrors, TableError, Tables, store_key},
};
use isocenter_testkit::{PowerCutFs, wait_for};
use isocenter_wire::{error::Undecodable, record as wire};

/// Virtual: nothing waits for it.
const LONG: Duration = Duration::from_secs(600);

struct World {
    kv: Arc<dyn Kv>,
    clock: TestClock,
}

/// A process: its records and its place among the others.
struct Process {
    tables: Tables,
    members: Members,
    shares: Shares,
    tasks: Tasks,
}

async fn world() -> World {
    let (disk, clock) = (PowerCutFs::new(), TestClock::paused(Time(1)));
    let options = EmbeddedOptions::new("/store").over(disk.shared()).with_clock(clock.shared());
    World { kv: Arc::new(Embedded::open(options).await.unwrap()), clock }
}

impl World {
    async fn tables(&self, level: u32) -> Result<Tables, MetaError> {
        let cell = "cell".parse().unwrap();
        let secret = Secret::new([1; 32]);
        Tables::open_at(Arc::clone(&self.kv), self.clock.shared(), cell, &secret, level).await
    }

    async fn process(&self, id: &str, level: u32) -> Process {
        self.start(id, self.tables(level).await.unwrap())
    }

    fn start(&self, id: &str, tables: Tables) -> Process {
        let tasks = Tasks::new();
        let me = NodeOptions {
            id: id.parse().unwrap(),
            address: format!("{id}:1"),
            roles: vec!["routing", "archive"],
            version: "test".into(),
        };
        let members = Members::start(&tables, me, &tasks);
        let shares = members.shares("routing");
        Process { tables, members, shares, tasks }
    }

    async fn keys(&self, prefix: &str) -> Vec<String> {
        let listing = list_all(&*self.kv, &Range::prefix(prefix).unwrap()).await.unwrap();
        listing.items.iter().map(|kv| kv.key.to_string()).collect()
    }
}

impl Process {
    fn shards(&self) -> usize {
        (0..=u8::MAX).filter(|shard| self.shares.owns(*shard)).count()
    }

    fn failure(&self) -> Option<String> {
        self.tasks.failure().map(|failure| chain(&*failure))
    }

    async fn create(&self, study: &StudyKey) {
        let mut change = self.tables.change(Cause::role("tester"));
        change.create(study, &record(), "created", "");
        change.commit().await.unwrap();
    }
}

/// Each shard has exactly one of the processes.
fn shared_out(processes: &[&Process]) -> bool {
    let owners = |shard: u8| processes.iter().filter(|p| p.shares.owns(shard)).count();
    (0..=u8::MAX).all(|shard| owners(shard) == 1)
        && processes.iter().all(|p| p.shares.replicas() == processes.len())
}

fn study_key(n: usize) -> StudyKey {
    StudyKey { tenant: "t".parse().unwrap(), study: format!("1.2.{n}").parse().unwrap() }
}

fn record() -> Study {
    Study::receiving("north".parse().unwrap(), "CT1".parse().unwrap(), Time(5))
}

#[tokio::test(start_paused = true)]
async fn processes_share_the_shards_and_take_over_from_one_that_leaves() {
    let world = world().await;
    let (a, b, c) = (world.process("a", 1).await, world.process("b", 1).await, world.process("c", 1).await);
    wait_for("three shares", LONG, || async { shared_out(&[&a, &b, &c]) }).await;
    assert!([&a, &b, &c].iter().all(|p| p.shards() > 40));
    let there = a.members.nodes("routing");
    assert_eq!(there.iter().map(|m| m.id.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!((there[1].node.address.as_str(), there[1].node.level), ("b:1", 1));
    assert_eq!(a.members.shares("ingestion").replicas(), 1, "nobody runs it");

    assert_eq!(c.tasks.drain(LONG).await, Drained::Clean);
    assert_eq!(world.keys("presence/").await.len(), 4, "revoked, not expired");
    wait_for("two shares", LONG, || async { shared_out(&[&a, &b]) }).await;

    // One that vanishes without a word is gone when its lease is.
    b.tasks.drain(Duration::ZERO).await;
    wait_for("one share", LONG, || async { a.shards() == 256 && a.shares.replicas() == 1 }).await;
    assert_eq!(a.failure(), None);
    a.tasks.drain(LONG).await;
}

#[tokio::test(start_paused = true)]
async fn the_first_look_of_every_role_waits_while_anybody_holds_it_back() {
    let process = world().await.process("a", 1).await;
    let other = process.members.shares("another role");
    let looks = || [&process.shares, &other].map(|shares| shares.first_look().now_or_never().is_some());
    assert_eq!(looks(), [true; 2]);
    let held = [process.members.hold_first_look(), process.members.hold_first_look()];
    let waits = other.first_look();
    let [first, second] = held;
    drop(first);
    assert_eq!(looks(), [false; 2]);
    drop(second);
    assert_eq!(looks(), [true; 2]);
    tokio::time::timeout(LONG, waits).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_process_that_lost_its_lease_registers_again() {
    let world = world().await;
    let (a, b) = (world.process("a", 1).await, world.process("b", 1).await);
    wait_for("two shares", LONG, || async { shared_out(&[&a, &b]) }).await;
    let mine = key("presence/node/routing/a");
    let before: Vec<bool> = (0..=u8::MAX).map(|shard| a.shares.owns(shard)).collect();
    for _ in 0..3 {
        let lease = world.kv.get(&mine).await.unwrap().unwrap().lease.unwrap();
        world.kv.revoke(lease).await.unwrap();
        wait_for("the key again", LONG, || async { world.kv.get(&mine).await.unwrap().is_some() }).await;
    }
    wait_for("two shares again", LONG, || async { shared_out(&[&a, &b]) }).await;
    assert!((0..=u8::MAX).all(|shard| a.shares.owns(shard) == before[usize::from(shard)]));
    assert_eq!((a.failure(), b.failure()), (None, None));
}

#[tokio::test(start_paused = true)]
async fn a_level_is_raised_when_all_know_it_and_who_does_not_is_refused() {
    let world = world().await;
    let (old, new) = (world.process("old", 1).await, world.process("new", 2).await);
    tokio::join!(old.members.registered(), new.members.registered());
    assert_eq!((new.tables.level(), new.tables.known_level()), (1, 2));
    new.create(&study_key(1)).await;
    assert!(old.tables.load::<Study>(&study_key(1)).await.unwrap().is_some(), "written for all to read");

    let behind = new.tables.raise_level(2).await.unwrap_err();
    assert!(matches!(&behind, MetaError::Behind { to: 2, nodes } if nodes.len() == 2), "{behind}");
    assert!(behind.to_string().contains("routing/old"), "{behind}");
    assert!(matches!(old.tables.raise_level(2).await, Err(MetaError::Level { .. })));
    let sleeper = old.tables.clone();
    let asleep = Mirrors::new(sleeper.clone(), &new.tasks);
    let mirror = asleep.of::<Study>();
    mirror.synced().await;
    old.tasks.drain(LONG).await;
    new.tables.raise_level(2).await.unwrap();
    assert_eq!(new.tables.level(), 2);
    assert!(matches!(new.tables.raise_level(2).await, Err(MetaError::NotRaised { stored: 2, to: 2 })));

    // A record of the new level is left alone by a process that slept through it all, and listed.
    let mut changes = mirror.changes();
    new.create(&study_key(2)).await;
    changes.next().await.unwrap();
    assert!(mirror.get(&study_key(2)).is_none());
    assert_eq!(asleep.undecodable().len(), 1);
    assert_eq!(check(&sleeper).await.unwrap().future, [store_key(&study_key(2)).to_string()]);
    // It cannot come back, neither as it is nor anew.
    let back = world.start("old", sleeper);
    back.tasks.token().cancelled().await;
    let failure = back.failure().unwrap();
    assert!(failure.contains("level 2") && failure.contains("newer build"), "{failure}");
    assert_eq!(world.keys("presence/node/routing/old").await, Vec::<String>::new());
    assert!(matches!(world.tables(1).await, Err(MetaError::Level { stored: 2, ours: 1 })));
    // Another new process learns of the level when it is raised elsewhere.
    assert_eq!(world.tables(3).await.unwrap().level(), 2);
    new.tasks.drain(LONG).await;
}

/// Changes studies until it has done so `times`; answers how many it had to leave alone.
async fn load(tables: &Tables, studies: usize, times: usize, seed: u64) -> usize {
    let mut rng = Seeded::new(seed);
    let (mut done, mut left_alone) = (0, 0);
    while done + left_alone < times {
        let key = study_key(usize::try_from(rng.range(0..studies as u64)).unwrap());
        let loaded = match tables.load::<Study>(&key).await {
            Ok(loaded) => loaded,
            Err(TableError::Undecodable { source: Undecodable::FromTheFuture { .. }, .. }) => {
                left_alone += 1;
                continue;
            }
            Err(e) => panic!("{}", chain(&e)),
        };
        tokio::task::yield_now().await;
        let mut change = tables.change(Cause::role("tester"));
        match &loaded {
            Some(stored) => change.update(stored, &stored.record, "touched"),
            None => change.create(&key, &record(), "created", ""),
        }
        match change.commit().await {
            Ok(_) => done += 1,
            Err(TableError::Conflict) => {}
            Err(e) => panic!("{}", chain(&e)),
        }
    }
    left_alone
}

#[tokio::test(start_paused = true)]
async fn two_levels_under_load_leave_no_record_behind_its_level() {
    let world = world().await;
    let (old, new) = (world.process("old", 1).await, world.process("new", 2).await);
    tokio::join!(old.members.registered(), new.members.registered());
    let both = tokio::join!(load(&old.tables, 40, 300, 1), load(&new.tables, 40, 300, 2));
    assert_eq!(both, (0, 0), "before the level is raised all read everything");
    // The old process stops being registered, yet goes on writing: asleep, then awake again.
    old.tasks.drain(LONG).await;
    new.tables.raise_level(2).await.unwrap();
    let (left_alone, _) = tokio::join!(load(&old.tables, 40, 300, 3), load(&new.tables, 40, 300, 4));
    assert!(left_alone > 0);

    let report = check(&new.tables).await.unwrap();
    assert_eq!((report.problems, report.future, report.found), (vec![], vec![], 0));
    assert_eq!(report.records.values().sum::<u64>(), 40);
    let studies = Range::prefix("study/").unwrap();
    let listing = list_all(&*world.kv, &studies).await.unwrap();
    let last = listing.items.iter().map(|kv| kv.mod_revision).max().unwrap();
    let mut levels = BTreeMap::new();
    for (_, events) in common::history(&*world.kv, &studies, Revision(2), last).await {
        for event in events {
            let Event::Put(kv) = event else { continue };
            let level = wire::decode_head(&kv.value).unwrap().level;
            let before = levels.insert(kv.key.clone(), level).unwrap_or(0);
            assert!(level >= before, "{} went from level {before} to {level}", kv.key);
        }
    }
    assert!(levels.values().any(|level| *level == 2));
}

#[tokio::test(start_paused = true)]
async fn a_new_epoch_ends_every_process_of_the_old_one() {
    let world = world().await;
    let (a, b) = (world.process("a", 1).await, world.process("b", 1).await);
    tokio::join!(a.members.registered(), b.members.registered());
    a.create(&study_key(1)).await;
    assert_eq!(a.tables.bump_epoch("restored from a snapshot").await.unwrap(), 2);
    for process in [&a, &b] {
        process.tasks.token().cancelled().await;
        let failure = process.failure().unwrap();
        assert!(failure.contains("epoch 2") && failure.contains("start it again"), "{failure}");
        let mut change = process.tables.change(Cause::role("tester"));
        change.create(&study_key(2), &record(), "created", "");
        assert!(matches!(change.commit().await, Err(TableError::Conflict)));
        process.tasks.drain(LONG).await;
    }
    let after = world.process("a", 1).await;
    after.members.registered().await;
    after.create(&study_key(2)).await;
    assert_eq!(after.tables.bump_epoch("again").await.unwrap(), 3);
    assert_eq!(world.keys("meta/era/").await.len(), 1, "that of an epoch goes with it");
}

#[tokio::test(start_paused = true)]
async fn a_check_finds_what_should_not_be_and_a_dump_shows_what_is() {
    let world = world().await;
    let a = world.process("a", 1).await;
    a.members.registered().await;
    for n in 1..=3 {
        a.create(&study_key(n)).await;
    }
    let sound = check(&a.tables).await.unwrap();
    assert_eq!((sound.found, sound.outbox, sound.leased), (0, 3, 2), "{sound:?}");

    let shown: Vec<_> = dump(&a.tables, Range::all()).try_collect().await.unwrap();
    let of = |key: &str| &shown.iter().find(|d| d.key.as_str() == key).unwrap().json;
    assert!(of(&keys::text(&study_key(1))).contains("\"callingAe\":\"CT1\""), "{shown:?}");
    assert!(of("presence/node/routing/a").contains("\"address\":\"a:1\""));
    assert!(of("meta/epoch").starts_with("\"1 "));
    assert!(shown.iter().any(|d| d.key.as_str().starts_with("outbox/") && d.json.contains("\"created\"")));

    let text = keys::text(&study_key(1));
    let other_shard = format!("study/{:02x}{}", u8::from_str_radix(&text[6..8], 16).unwrap() ^ 1, &text[8..]);
    let lease = world.kv.grant(Duration::from_secs(60)).await.unwrap();
    let value = world.kv.get(&key(text.clone())).await.unwrap().unwrap().value;
    let case = isocenter_domain::id::CaseId::of(&"t".parse().unwrap(), &study_key(1).study);
    let holding = isocenter_domain::record::read::Holding {
        open: Some(isocenter_domain::id::ReadId { case: case.clone(), n: 1 }),
        ..Default::default()
    };
    let holder = keys::HoldingKey { tenant: "t".parse().unwrap(), reader: "anna".parse().unwrap() };
    let head = wire::Head { level: 1, seq: 1, ..wire::Head::default() };
    let events = world.keys("outbox/").await;
    let outbox = events.iter().find(|event| event.contains(&text)).unwrap().clone();
    let (record, _) = outbox.rsplit_once('/').unwrap();
    let event = world.kv.get(&key(outbox.clone())).await.unwrap().unwrap().value;
    let bad = [
        (other_shard, "not of its kind", value.clone(), None),
        (keys::text(&study_key(2)), "damaged", b"\xff\xff".to_vec().into(), None),
        (keys::text(&study_key(3)), "has a lease", value, Some(lease)),
        (keys::text(&holder), "does not exist", wire::encode(&head, &holding).into(), None),
        ("leader/x".to_owned(), "no lease", "x".into(), None),
        ("strange/x".to_owned(), "nothing that is known", "x".into(), None),
        (format!("{record}/{:020}", 5), "missing", event, None),
    ];
    for (at, _, value, lease) in &bad {
        let put = Op::Put { key: key(at.clone()), value: value.clone(), lease: *lease };
        world.kv.txn(Txn::always(vec![put])).await.unwrap();
    }
    let report = check(&a.tables).await.unwrap();
    for (at, what, ..) in &bad {
        let told = report.problems.iter().any(|p| p.key == *at && p.what.contains(what));
        assert!(told, "{at}: {what} is not in {:#?}", report.problems);
    }
    // The gap in the events is told as the end of the record's events too.
    assert_eq!(report.found as usize, bad.len() + 1, "{:#?}", report.problems);
}
