//! The worklist as it changes.

use isocenter_domain::access::Role;
use isocenter_wire::v1::{
    self, reader_assignment_server::ReaderAssignment as _, watch_worklist_response::Change,
};
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Code, Status};

use super::{Node, PATIENCE, World, anna, boris, by, read_key, refusal, signature, unique};

type Answers = std::pin::Pin<Box<dyn Stream<Item = Result<v1::WatchWorklistResponse, Status>> + Send>>;

async fn watch(node: &Node, reader: &str, role: Role) -> Result<Answers, Status> {
    let request = v1::WatchWorklistRequest { reader_id: reader.into(), states: Vec::new() };
    Ok(node.rpc.watch_worklist(by(request, role)).await?.into_inner())
}

async fn next(answers: &mut Answers) -> Result<Change, Status> {
    let answer = tokio::time::timeout(PATIENCE, answers.next()).await.expect("an answer in time");
    Ok(answer.expect("the stream goes on")?.change.expect("an answer says something"))
}

/// The answers up to one that is so.
async fn until(answers: &mut Answers, wanted: impl Fn(&Change) -> bool) {
    while !wanted(&next(answers).await.unwrap()) {}
}

fn is(change: &Change, read: &str, state: v1::ReadState) -> bool {
    matches!(change, Change::Read(r) if r.read_id == read && r.state() == state)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workstation_is_told_everything_and_then_each_change() {
    let world = World::new().await;
    let node = world.node("a:1").await;
    node.leads().await;
    world.present(&anna()).await;
    world.waiting(1, &node).await;
    node.caught_up(1).await;
    let mut answers = watch(&node, "", Role::Reader(anna())).await.unwrap();
    let first = read_key(1, 1).read.to_string();
    assert!(is(&next(&mut answers).await.unwrap(), &first, v1::ReadState::Waiting));
    assert_eq!(next(&mut answers).await.unwrap(), Change::Listed(true));

    let open = node.take(&anna()).await;
    until(&mut answers, |change| is(change, &first, v1::ReadState::Open)).await;
    node.sign(signature(&open, &anna())).await.unwrap();
    until(&mut answers, |change| is(change, &first, v1::ReadState::Signed)).await;
    world.case(2).await;
    node.reconcile(2).await;
    let second = read_key(2, 1).read.to_string();
    until(&mut answers, |change| is(change, &second, v1::ReadState::Waiting)).await;
    // What he gives back he may not have again, and so does not see.
    world.queued(2, &node).await;
    let open = node.take(&anna()).await;
    node.give_back(&open.read_id, &anna(), &open.open_token, &unique()).await.unwrap();
    until(&mut answers, |change| *change == Change::GoneReadId(second.clone())).await;
    node.tasks.drain(std::time::Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workstation_calls_again_when_its_reader_changes_and_watches_nobody_else() {
    let world = World::new().await;
    let node = world.node("a:1").await;
    let denied = watch(&node, "boris", Role::Reader(anna())).await.map(drop);
    assert_eq!(refusal(denied).0, Code::PermissionDenied);
    let unknown = watch(&node, "nobody", Role::Operator).await.map(drop);
    assert_eq!(refusal(unknown).1, "NOT_REGISTERED");
    let mut answers = watch(&node, "boris", Role::Operator).await.unwrap();
    assert_eq!(next(&mut answers).await.unwrap(), Change::Listed(true));
    world.register(&boris(), "MR").await;
    assert_eq!(next(&mut answers).await.unwrap_err().code(), Code::OutOfRange);
    node.tasks.drain(std::time::Duration::from_secs(5)).await;
}
