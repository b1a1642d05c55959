//! Two whole replicas behind their servers, as workstations see them.

use std::{sync::Arc, time::Duration};

use isocenter_domain::id::ReaderId;
use isocenter_runtime::{
    metrics::Metrics,
    readiness::Readiness,
    server::{Options, Served, bind},
    task::Tasks,
    telemetry::testing::TestSpans,
};
use isocenter_testkit::wait_for;
use isocenter_wire::v1::{self, reader_assignment_client::ReaderAssignmentClient};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{service::RoutesBuilder, transport::Channel};

use super::{PATIENCE, World, anna, signature, tenant, unique};
use crate::{STREAMING, desk::Desk};

struct Replica {
    desk: Arc<Desk>,
    tasks: Tasks,
    metrics: Metrics,
    address: String,
}

async fn replica(world: &World) -> Replica {
    let (tasks, metrics) = (Tasks::new(), Metrics::new());
    let bound = bind(Options { streaming: &[STREAMING], ..Options::local(tenant()) }).await.unwrap();
    let address = bound.address().to_string();
    let service = world.service(&tasks, &metrics, Arc::clone(&world.kv), &address).await;
    let desk = Arc::clone(&service.desk);
    let mut routes = RoutesBuilder::default();
    service.routes(&mut routes);
    let (readiness, starting) = Readiness::new();
    bound.serve(&tasks, Served { grpc: routes.routes(), ..Served::default() }, &metrics, &readiness);
    drop(starting);
    tasks.essential("service", service.run());
    Replica { desk, tasks, metrics, address }
}

async fn client(replica: &Replica) -> ReaderAssignmentClient<Channel> {
    ReaderAssignmentClient::connect(format!("http://{}", replica.address)).await.unwrap()
}

/// Becomes present; the stream lives as long as what is returned.
async fn present(
    client: &mut ReaderAssignmentClient<Channel>,
    reader: &ReaderId,
) -> (mpsc::Sender<v1::SetPresenceRequest>, tonic::Streaming<v1::SetPresenceResponse>) {
    let (signs, said) = mpsc::channel(1);
    signs.send(v1::SetPresenceRequest { reader_id: reader.to_string(), accepting: true }).await.unwrap();
    let mut answers = client.set_presence(ReceiverStream::new(said)).await.unwrap().into_inner();
    assert!(answers.message().await.unwrap().unwrap().present_until.is_some());
    (signs, answers)
}

/// Asks until a read is offered.
async fn next(client: &ReaderAssignmentClient<Channel>, reader: &ReaderId) -> v1::Read {
    let offered = tokio::sync::Mutex::new(None);
    wait_for("an offer", PATIENCE, || async {
        let request = v1::NextReadRequest { reader_id: reader.to_string(), request_id: unique() };
        let read = client.clone().next_read(request).await.ok().and_then(|answer| answer.into_inner().read);
        let found = read.is_some();
        *offered.lock().await = read;
        found
    })
    .await;
    offered.into_inner().expect("was waited for")
}

async fn work(client: &mut ReaderAssignmentClient<Channel>, reader: &ReaderId) -> v1::SignReadResponse {
    let offered = next(client, reader).await;
    let open = v1::OpenReadRequest {
        reason: String::new(),
        read_id: offered.read_id,
        reader_id: reader.to_string(),
        request_id: unique(),
    };
    let open = client.open_read(open).await.unwrap().into_inner();
    client.sign_read(signature(&open, reader)).await.unwrap().into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workstation_works_at_any_replica_and_goes_on_when_the_leader_stops() {
    let spans = TestSpans::install();
    let world = World::new().await;
    let replicas = [replica(&world).await, replica(&world).await];
    wait_for("a leader known to both", PATIENCE, || async {
        replicas.iter().all(|r| r.desk.leadership.address().is_some())
            && replicas.iter().any(|r| r.desk.leadership.fence().is_some())
    })
    .await;
    let leads = |r: &Replica| r.desk.leadership.fence().is_some();
    let [leader, follower] = if leads(&replicas[0]) { [0, 1] } else { [1, 0] }.map(|n| &replicas[n]);
    let mut workstation = client(follower).await;
    let _present = present(&mut workstation, &anna()).await;

    world.case(1).await;
    let signed = work(&mut workstation, &anna()).await;
    let metrics = follower.metrics.render().unwrap();
    assert!(metrics.contains("isocenter_reader_assignment_forwarded_total"), "{metrics}");
    let named = |name: &str| spans.of(&world.trace).iter().any(|span| span.name == name);
    for name in ["assign reads", "offer read", "open read", "sign read"] {
        wait_for(name, PATIENCE, || async { named(name) }).await;
    }

    leader.tasks.drain(Duration::from_secs(5)).await;
    world.case(2).await;
    let next = work(&mut workstation, &anna()).await;
    assert_ne!(signed.report_id, next.report_id);
    follower.tasks.drain(Duration::from_secs(5)).await;
}
