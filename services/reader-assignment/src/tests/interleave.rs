//! Several readers at two replicas doing anything in any order, against what must always hold.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicUsize, Ordering},
};

use isocenter_domain::{
    id::{ReadId, ReaderId},
    record::read::{Read, ReadState},
};
use isocenter_store::table::kind_range;
use isocenter_wire::v1;
use proptest::{prelude::*, test_runner::TestRunner};

use super::{Node, World, read_key, signature, unique};

const READERS: u32 = 3;
const CASES: u32 = 3;

/// What one reader does at one replica.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Next,
    Open,
    /// The last open request once more.
    OpenAgain,
    Return,
    Sign,
    /// The last signature once more.
    SignAgain,
    /// A lead takes back what the reader holds.
    Reassign,
    /// What the reader has open is set aside.
    Suspend,
    /// What the reader has in hand is handed to the next reader.
    Transfer,
    /// The reader takes a read by its name.
    OpenByName(u32),
    /// A minute passes and offers lapse.
    Lapse,
}

#[derive(Clone, Copy, Debug)]
struct Step {
    reader: u32,
    node: usize,
    deed: Deed,
    /// Whether the next step begins before this one has ended.
    beside: bool,
}

fn step() -> impl Strategy<Value = Step> {
    let deed = prop_oneof![
        4 => Just(Deed::Next),
        4 => Just(Deed::Open),
        1 => Just(Deed::OpenAgain),
        1 => Just(Deed::Return),
        3 => Just(Deed::Sign),
        1 => Just(Deed::SignAgain),
        1 => Just(Deed::Reassign),
        1 => Just(Deed::Suspend),
        1 => Just(Deed::Transfer),
        1 => (1..=CASES).prop_map(Deed::OpenByName),
        1 => Just(Deed::Lapse),
    ];
    (0..READERS, 0_usize..2, deed, any::<bool>()).prop_map(|(reader, node, deed, beside)| Step {
        reader,
        node,
        deed,
        beside,
    })
}

/// What a workstation remembers.
#[derive(Default)]
struct Workstation {
    offered: Option<String>,
    open: Option<v1::Read>,
    open_request: Option<(String, String)>,
    signature: Option<v1::SignReadRequest>,
    answers: BTreeMap<String, v1::SignReadResponse>,
}

fn reader(n: u32) -> ReaderId {
    format!("r{n}").parse().unwrap()
}

async fn act(
    world: &World,
    nodes: &[Node; 2],
    who: &ReaderId,
    memory: &tokio::sync::Mutex<Workstation>,
    step: Step,
) {
    let node = &nodes[step.node];
    let mut memory = memory.lock().await;
    match step.deed {
        Deed::Next => {
            // The leader is asked: the other one could not reach it here.
            for node in nodes {
                if let Ok(Some(read)) = node.next(who).await {
                    memory.offered = Some(read.read_id);
                    break;
                }
            }
        }
        Deed::Open => {
            let Some(read) = memory.offered.clone() else { return };
            let request = unique();
            memory.open_request = Some((read.clone(), request.clone()));
            if let Ok(open) = node.open(&read, who, &request).await {
                memory.open = Some(open);
            }
        }
        Deed::OpenAgain => {
            let Some((read, request)) = memory.open_request.clone() else { return };
            if let Ok(open) = node.open(&read, who, &request).await {
                memory.open = Some(open);
            }
        }
        Deed::Return => {
            let Some(open) = memory.open.clone() else { return };
            drop(node.give_back(&open.read_id, who, &open.open_token, &unique()).await);
        }
        Deed::Sign => {
            let Some(open) = memory.open.clone() else { return };
            sign(node, &mut memory, signature(&open, who)).await;
        }
        Deed::SignAgain => {
            let Some(request) = memory.signature.clone() else { return };
            sign(node, &mut memory, request).await;
        }
        Deed::Reassign => {
            if let Some(read) = memory.offered.clone() {
                drop(node.reassign(&read, who).await);
            }
        }
        Deed::Suspend => {
            let Some(open) = memory.open.clone() else { return };
            drop(node.suspend(&open, who, &unique()).await);
        }
        Deed::Transfer => {
            let Some(open) = memory.open.clone() else { return };
            drop(node.transfer(&open, who, &reader((step.reader + 1) % READERS), &unique()).await);
        }
        Deed::OpenByName(case) => {
            let read = read_key(case, 1).read.to_string();
            let request = unique();
            memory.open_request = Some((read.clone(), request.clone()));
            if let Ok(open) = node.open_by_name(&read, who, &request).await {
                memory.open = Some(open);
            }
        }
        Deed::Lapse => {
            world.clock.advance(std::time::Duration::from_secs(61));
            for n in 1..=CASES {
                drop(node.desk.reconcile(&super::case_key(n)).await);
            }
        }
    }
}

async fn sign(node: &Node, memory: &mut Workstation, request: v1::SignReadRequest) {
    memory.signature = Some(request.clone());
    if let Ok(answer) = node.sign(request.clone()).await {
        let first = memory.answers.entry(request.request_id).or_insert_with(|| answer.clone());
        assert_eq!(*first, answer, "a repeat has the first answer");
    }
}

/// Read and holding are one pair, whatever happened.
async fn check(world: &World, memories: &[tokio::sync::Mutex<Workstation>]) {
    let (reads, _) =
        world.tables.list::<Read>(&kind_range(isocenter_domain::record::RecordKind::Read)).await.unwrap();
    let mut open = BTreeMap::new();
    let mut offered = BTreeMap::new();
    let mut aside: BTreeMap<ReaderId, BTreeSet<ReadId>> = BTreeMap::new();
    for read in &reads {
        match &read.record.state {
            ReadState::Open { reader, .. } => {
                assert_eq!(
                    open.insert(reader.clone(), read.key.read.clone()),
                    None,
                    "two open reads of one reader"
                );
            }
            ReadState::Offered { reader, .. } => {
                assert_eq!(
                    offered.insert(reader.clone(), read.key.read.clone()),
                    None,
                    "two offers to one reader"
                );
            }
            ReadState::Suspended { reader, .. } => {
                aside.entry(reader.clone()).or_default().insert(read.key.read.clone());
            }
            ReadState::Waiting
            | ReadState::AwaitingFinal
            | ReadState::Signed { .. }
            | ReadState::NonDiagnostic { .. }
            | ReadState::Cancelled { .. } => {}
        }
    }
    for n in 0..READERS {
        let holding = world.holding(&reader(n)).await;
        assert_eq!(holding.open.as_ref(), open.get(&reader(n)), "the hands name the open read");
        assert_eq!(holding.offered.as_ref(), offered.get(&reader(n)), "the hands name the offer");
        let suspended: BTreeSet<_> = holding.suspended.into_iter().collect();
        assert_eq!(
            suspended,
            aside.remove(&reader(n)).unwrap_or_default(),
            "the hands name what is set aside"
        );
    }
    for case in 1..=CASES {
        let read = world.read(case, 1).await;
        let signed = read.concluded().map(|(reader, ..)| reader.clone());
        assert_eq!(
            world.report(case, 1).await.map(|report| report.author),
            signed,
            "a report for each signature"
        );
    }
    let mut answered = BTreeMap::new();
    for memory in memories {
        for (request, answer) in &memory.lock().await.answers {
            let report = world
                .tables
                .load::<isocenter_domain::record::report::Report>(&isocenter_domain::key::ReportKey {
                    tenant: super::tenant(),
                    read: answer.report_id.parse().unwrap(),
                    version: 1,
                })
                .await
                .unwrap()
                .expect("what was answered is there");
            assert_eq!(report.record.request_id, *request);
            assert_eq!(answered.insert(answer.report_id.clone(), request.clone()), None, "signed once");
        }
    }
}

/// How many reads were signed in the end: a test in which nothing happens proves nothing.
async fn run(steps: Vec<Step>) -> usize {
    let world = World::new().await;
    for n in 0..READERS {
        world.register(&reader(n), "CT").await;
        world.present(&reader(n)).await;
    }
    // The first leads before there is a second to be elected.
    let leader = world.node("127.0.0.1:1").await;
    leader.leads().await;
    let nodes = [leader, world.node("127.0.0.1:2").await];
    for n in 1..=CASES {
        world.waiting(n, &nodes[0]).await;
    }
    let memories: Vec<_> = (0..READERS).map(|_| tokio::sync::Mutex::default()).collect();
    let mut beside = Vec::new();
    for step in steps {
        let memory = &memories[step.reader as usize];
        let who = reader(step.reader);
        let (world, nodes) = (&world, &nodes);
        beside.push(async move { act(world, nodes, &who, memory, step).await });
        if !step.beside {
            futures::future::join_all(beside.drain(..)).await;
            check(world, &memories).await;
        }
    }
    futures::future::join_all(beside).await;
    check(&world, &memories).await;
    assert!(world.get::<Read>(&read_key(1, 2)).await.is_none(), "nobody made up a discrepancy");
    for node in &nodes {
        node.tasks.drain(std::time::Duration::from_secs(5)).await;
    }
    let mut signed = 0;
    for case in 1..=CASES {
        signed += usize::from(world.report(case, 1).await.is_some());
    }
    signed
}

#[test]
fn no_order_of_deeds_puts_a_read_into_two_hands_or_signs_it_twice() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut runner = TestRunner::new(ProptestConfig { cases: 16, ..ProptestConfig::default() });
    let steps = prop::collection::vec(step(), 30..60);
    let signed = AtomicUsize::new(0);
    let result = runner.run(&steps, |steps| {
        signed.fetch_add(runtime.block_on(run(steps)), Ordering::Relaxed);
        Ok(())
    });
    result.unwrap();
    assert!(signed.into_inner() >= 8, "hardly anything was signed");
}
