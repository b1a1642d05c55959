//! The worklist and its reasons, and presence streams.

use std::sync::Arc;

use isocenter_domain::access::Role;
use isocenter_runtime::{metrics::Metrics, nodes::Nodes, task::Tasks};
use isocenter_testkit::wait_for;
use isocenter_wire::v1::{self, reader_assignment_server::ReaderAssignment as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::{Node, PATIENCE, World, anna, boris, by, by_developer, read_key, refusal, signature, tenant};
use crate::{rpc::Rpc, session::Workstation};

async fn list(node: &Node, reader: &str, page_size: i32, page_token: &str) -> v1::ListWorklistResponse {
    let request = v1::ListWorklistRequest {
        reader_id: reader.into(),
        states: Vec::new(),
        page_size,
        page_token: page_token.into(),
    };
    node.rpc.list_worklist(by_developer(request)).await.unwrap().into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_does_not_know_the_queue_yet_says_nothing_of_it() {
    let world = World::new().await;
    let other = world.node("a:1").await;
    world.waiting(1, &other).await;
    let tasks = Tasks::new();
    let service = world.service(&tasks, &Metrics::new(), Arc::clone(&world.kv), "b:1").await;
    let desk = Arc::clone(&service.desk);
    let rpc = Rpc::new(Arc::clone(&desk), Nodes::default());
    let request = v1::ListWorklistRequest { reader_id: "anna".into(), ..v1::ListWorklistRequest::default() };
    let mut asked = rpc.list_worklist(by_developer(request));
    desk.view.synced().await;
    assert!(futures::poll!(&mut asked).is_pending(), "the queue is not in order yet");
    tasks.background("board", Arc::clone(&desk).follow(tasks.token()));
    assert_eq!(asked.await.unwrap().into_inner().reads.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_worklist_is_the_queue_then_what_is_in_hand_then_what_is_signed() {
    let world = World::new().await;
    let node = world.node("a:1").await;
    node.leads().await;
    world.present(&anna()).await;
    world.present(&boris()).await;
    for n in 1..=5 {
        world.waiting(n, &node).await;
    }
    let open = node.take(&anna()).await;
    node.sign(signature(&open, &anna())).await.unwrap();
    node.take(&boris()).await;
    for n in 1..=5 {
        node.caught_up(n).await;
    }
    let all = list(&node, "", 0, "").await;
    let states: Vec<_> = all.reads.iter().map(v1::Read::state).collect();
    let (waiting, in_hand, signed) = (v1::ReadState::Waiting, v1::ReadState::Open, v1::ReadState::Signed);
    assert_eq!(states, [waiting, waiting, waiting, in_hand, signed]);
    let mut paged = Vec::new();
    let mut token = String::new();
    loop {
        let page = list(&node, "", 2, &token).await;
        paged.extend(page.reads);
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(paged, all.reads);

    world.register(&anna(), "MR").await;
    wait_for("the registry", PATIENCE, || async {
        let list = list(&node, "anna", 0, "").await;
        list.reads.iter().map(v1::Read::state).collect::<Vec<_>>() == [signed]
    })
    .await;
    let explained =
        node.rpc.explain_read(by_developer(v1::ExplainReadRequest { read_id: all.reads[0].read_id.clone() }));
    let explained = explained.await.unwrap().into_inner();
    assert_eq!((explained.position, explained.rule.as_str()), (1, "head-ct"));
    assert_eq!(explained.policy_version.len(), 64);
    let against = |reader: &str| {
        let verdict = explained.readers.iter().find(|v| v.reader_id == reader).unwrap();
        verdict.rejected_by.clone()
    };
    assert_eq!((against("anna").as_str(), against("boris").as_str()), ("skill", "already-holds"));
    assert!(explained.terms.iter().any(|term| term.name == "index"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_acts_only_as_himself_and_does_not_operate() {
    let world = World::new().await;
    let node = world.node("a:1").await;
    let next = v1::NextReadRequest { reader_id: "boris".into(), request_id: "r".into() };
    let refused = node.rpc.next_read(by(next, Role::Reader(anna()))).await;
    assert_eq!(refusal(refused).0, Code::PermissionDenied);
    let read_id = read_key(1, 1).read.to_string();
    let take = v1::ReassignReadRequest {
        read_id,
        reader_id: "boris".into(),
        reason: "mine".into(),
        request_id: "r".into(),
    };
    let refused = node.rpc.reassign_read(by(take, Role::Reader(anna()))).await;
    assert_eq!(refusal(refused).0, Code::PermissionDenied);
    let bare = tonic::Request::new(v1::NextReadRequest::default());
    assert_eq!(refusal(node.rpc.next_read(bare).await).0, Code::Unauthenticated);
}

type Stream = (mpsc::Sender<Result<bool, Status>>, mpsc::Receiver<Result<v1::SetPresenceResponse, Status>>);

fn stream(node: &Node) -> Stream {
    let (signs, said) = mpsc::channel(4);
    let (answers, answered) = mpsc::channel(4);
    let workstation = Workstation::new(Arc::clone(&node.desk), tenant(), anna(), true);
    node.tasks.background("presence", workstation.run(ReceiverStream::new(said), answers));
    (signs, answered)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_stream_takes_over_and_the_last_ones_end_is_absence() {
    let world = World::new().await;
    let (a, b) = (world.node("a:1").await, world.node("b:1").await);
    let (first, mut first_answers) = stream(&a);
    assert!(first_answers.recv().await.unwrap().is_ok());
    first.send(Ok(false)).await.unwrap();
    assert!(first_answers.recv().await.unwrap().is_ok());
    wait_for("the sign everywhere", PATIENCE, || async {
        b.desk.view.presence.of(&tenant(), &anna()).is_some_and(|sign| !sign.accepting)
    })
    .await;
    let (second, mut second_answers) = stream(&b);
    assert!(second_answers.recv().await.unwrap().is_ok());
    assert_eq!(first_answers.recv().await.unwrap().unwrap_err().code(), Code::Aborted);
    assert!(first_answers.recv().await.is_none());
    assert!(a.desk.view.presence.now(&tenant(), &anna()).await.unwrap().sign.is_some());
    drop(second);
    wait_for("absence", PATIENCE, || async {
        a.desk.view.presence.now(&tenant(), &anna()).await.unwrap().sign.is_none()
    })
    .await;
    drop(first);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_survives_a_store_that_is_away() {
    let world = World::new().await;
    let faulty = world.faulty(1);
    let node = world.node_over(Arc::clone(&faulty) as Arc<dyn isocenter_store::Kv>, "a:1").await;
    faulty.set(isocenter_store::faulty::Faults { timeout_before: 1.0, ..Default::default() });
    let (signs, mut answers) = stream(&node);
    signs.send(Ok(true)).await.unwrap();
    faulty.set(isocenter_store::faulty::Faults::default());
    assert!(answers.recv().await.unwrap().is_ok());
    assert!(node.desk.view.presence.now(&tenant(), &anna()).await.unwrap().sign.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_between_subscribing_and_the_first_look_is_told() {
    use futures::StreamExt as _;
    let world = World::new().await;
    let node = world.node("a:1").await;
    world.case(1).await;
    node.caught_up(1).await;
    let mut changes = node.desk.view.changes();
    // Nobody looks at the stream while the case changes.
    world.case(1).await;
    node.caught_up(1).await;
    assert_eq!(changes.next().await, Some(super::case_key(1)));
}
