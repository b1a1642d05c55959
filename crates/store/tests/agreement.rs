//! Random histories: the embedded store and a real etcd answer every operation of the same sequence alike.

mod common;

use std::{sync::Arc, time::Duration};

use common::{etcd, key};
use isocenter_store::{
    Answer, Compare, Error, Event, KeyValue, Kv, LeaseId, Op, Page, Range, Revision, Txn,
    embedded::{Embedded, EmbeddedOptions},
    kv::Target,
};
use isocenter_testkit::{EtcdServer, PowerCutFs};
use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, TestRunner},
};

/// Few keys, so that operations meet; one is a prefix of another.
const KEYS: [&str; 6] = ["k/a", "k/a/b", "k/b", "k/c", "k/d", "m"];

/// An operation whose revisions count from the beginning of its sequence, and whose leases are numbered.
#[derive(Clone, Debug)]
enum Step {
    Txn { compare: Vec<(u8, u8, u64, u8)>, then: Vec<(u8, u8, u8)>, or_else: Vec<(u8, u8, u8)> },
    Get(u8),
    List { range: u8, limit: usize, after: Option<u8>, at: Option<u64> },
    Grant,
    KeepAlive(u8),
    Revoke(u8),
    Compact(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let op = || (0..3_u8, 0..9_u8, 0..5_u8);
    prop_oneof![
        8 => (vec((0..9_u8, 0..4_u8, 0..30_u64, 0..4_u8), 0..3), vec(op(), 0..4), vec(op(), 0..3))
            .prop_map(|(compare, then, or_else)| Step::Txn { compare, then, or_else }),
        1 => (0..6_u8).prop_map(Step::Get),
        2 => (0..9_u8, 0..4_usize, proptest::option::of(0..6_u8), proptest::option::of(0..30_u64))
            .prop_map(|(range, limit, after, at)| Step::List { range, limit, after, at }),
        1 => Just(Step::Grant),
        1 => (0..4_u8).prop_map(Step::KeepAlive),
        1 => (0..4_u8).prop_map(Step::Revoke),
        1 => (0..20_u64).prop_map(Step::Compact),
    ]
}

fn range(n: u8) -> Range {
    match n {
        0..6 => Range::key(&key(KEYS[n as usize])),
        6 => Range::prefix("k/").unwrap(),
        7 => Range::span("k/a/", "k/c").unwrap(),
        _ => Range::all(),
    }
}

/// One store in the course of a sequence.
struct Run {
    kv: Arc<dyn Kv>,
    base: u64,
    leases: Vec<LeaseId>,
}

impl Run {
    async fn new(kv: Arc<dyn Kv>) -> Self {
        let base = common::always(&*kv, vec![Op::Delete { range: Range::all() }]).await.revision.0;
        Self { kv, base, leases: Vec::new() }
    }

    fn lease(&self, n: u8) -> LeaseId {
        // A number nobody granted stands for every unknown lease.
        self.leases.get(n as usize).copied().unwrap_or(LeaseId(987_654_321))
    }

    fn ops(&self, ops: &[(u8, u8, u8)]) -> Vec<Op> {
        ops.iter()
            .map(|(what, on, value)| match what {
                0 if *on < 6 => Op::Put {
                    key: key(KEYS[*on as usize]),
                    value: vec![*value; 3].into(),
                    lease: (*value < 3).then(|| self.lease(*value)),
                },
                0 | 1 => Op::Get { range: range(*on) },
                _ => Op::Delete { range: range(*on) },
            })
            .collect()
    }

    fn compare(&self, (on, what, number, is): (u8, u8, u64, u8)) -> Compare {
        let revision = Revision(if number == 0 { 0 } else { self.base + number });
        let target = match what {
            0 => Target::CreateRevision(revision),
            1 => Target::ModRevision(revision),
            2 => Target::Version(number % 4),
            _ => Target::Lease((number % 2 == 1).then(|| self.lease(0))),
        };
        let is = [Answer::Equal, Answer::NotEqual, Answer::Greater, Answer::Less][is as usize];
        // Leases are numbered differently by each store: their order says nothing.
        let is = if what == 3 && is != Answer::NotEqual { Answer::Equal } else { is };
        Compare { range: range(on), target, is }
    }

    async fn step(&mut self, step: &Step) -> String {
        match step {
            Step::Txn { compare, then, or_else } => {
                let compare = compare.iter().map(|c| self.compare(*c)).collect();
                let txn = Txn { compare, then: self.ops(then), or_else: self.ops(or_else) };
                self.told(self.kv.txn(txn).await.map(|a| {
                    let reads: Vec<_> = a.reads.iter().map(|kvs| self.key_values(kvs)).collect();
                    format!("{} {} {reads:?}", a.succeeded, self.relative(a.revision))
                }))
            }
            Step::Get(k) => {
                let found = self.kv.get(&key(KEYS[*k as usize])).await;
                self.told(found.map(|kv| format!("{:?}", self.key_values(kv.as_slice()))))
            }
            Step::List { range: r, limit, after, at } => {
                let after = after.map(|k| key(KEYS[k as usize]));
                let page = Page { limit: *limit, after, at: at.map(|at| Revision(self.base + at)) };
                self.told(self.kv.list(&range(*r), page).await.map(|l| {
                    format!("{:?} {} {}", self.key_values(&l.items), self.relative(l.revision), l.more)
                }))
            }
            Step::Grant => {
                self.leases.push(self.kv.grant(Duration::from_secs(600)).await.unwrap());
                String::new()
            }
            Step::KeepAlive(n) => {
                self.told(self.kv.keep_alive(self.lease(*n)).await.map(|ttl| format!("{ttl:?}")))
            }
            Step::Revoke(n) => self.told(self.kv.revoke(self.lease(*n)).await.map(|()| String::new())),
            Step::Compact(at) => {
                let at = Revision(self.base + at);
                self.told(self.kv.compact(at).await.map(|()| String::new()))
            }
        }
    }

    /// Every event since the beginning, or since the compaction.
    async fn history(&self, mut from: u64, to: Revision) -> String {
        let mut seen = String::new();
        loop {
            let at = Revision(self.base + from);
            if at > to {
                return seen;
            }
            let first = match self.kv.watch(&Range::all(), at).await {
                Ok(mut watch) => common::next(&mut watch).await,
                Err(e) => Err(e),
            };
            match first {
                Ok(_) => break,
                // At the compacted revision itself etcd 3.4 may lack that revision's deletions: begin after it.
                Err(Error::Compacted { at }) => from = at.0.saturating_sub(self.base) + 1,
                Err(e) => panic!("{e}"),
            }
        }
        for (revision, events) in
            common::history(&*self.kv, &Range::all(), Revision(self.base + from), to).await
        {
            let events: Vec<_> = events.iter().map(|e| self.event(e)).collect();
            seen += &format!("{}: {events:?}\n", self.relative(revision));
        }
        seen
    }

    fn relative(&self, revision: Revision) -> i128 {
        i128::from(revision.0) - i128::from(self.base)
    }

    fn key_values(&self, kvs: &[KeyValue]) -> Vec<String> {
        kvs.iter().map(|kv| self.key_value(kv)).collect()
    }

    fn key_value(&self, kv: &KeyValue) -> String {
        let lease = kv.lease.map(|l| self.leases.iter().position(|known| *known == l));
        let (created, changed) = (self.relative(kv.create_revision), self.relative(kv.mod_revision));
        format!("{}={:?} {created} {changed} {} {lease:?}", kv.key, kv.value, kv.version)
    }

    fn event(&self, event: &Event) -> String {
        match event {
            Event::Put(kv) => self.key_value(kv),
            Event::Delete { key, mod_revision } => format!("{key} gone {}", self.relative(*mod_revision)),
        }
    }

    /// An answer, or the kind of its error: the numbers in errors differ between the stores.
    fn told(&self, answer: Result<String, Error>) -> String {
        answer.unwrap_or_else(|e| {
            let all = format!("{e:?}");
            all.split([' ', '{']).next().unwrap_or_default().to_owned()
        })
    }
}

#[test]
fn embedded_and_etcd_answer_random_histories_alike() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let server = EtcdServer::start();
    let real = runtime.block_on(etcd(&[server.endpoint()]));
    let config = Config { cases: 32, failure_persistence: None, max_shrink_iters: 400, ..Config::default() };
    let mut runner = TestRunner::new(config);
    let agree = |steps: Vec<Step>| {
        runtime.block_on(async {
            let options = EmbeddedOptions::new("/store").over(PowerCutFs::new().shared());
            let ours: Arc<dyn Kv> = Arc::new(Embedded::open(options).await.unwrap());
            let (mut ours, mut theirs) = (Run::new(ours).await, Run::new(Arc::clone(&real)).await);
            let mut answers = Vec::new();
            for step in &steps {
                let (a, b) = (ours.step(step).await, theirs.step(step).await);
                prop_assert_eq!(&a, &b, "ours, then etcd's, at {:?} after {:#?}", step, answers);
                answers.push(a);
            }
            // A last put marks the end of the history.
            let end = common::put(&*ours.kv, "end", "x").await;
            let their_end = common::put(&*theirs.kv, "end", "x").await;
            prop_assert_eq!(ours.relative(end), theirs.relative(their_end));
            prop_assert_eq!(ours.history(1, end).await, theirs.history(1, their_end).await);
            Ok(())
        })
    };
    if let Err(e) = runner.run(&vec(step(), 1..30), agree) {
        panic!("{e}");
    }
}
