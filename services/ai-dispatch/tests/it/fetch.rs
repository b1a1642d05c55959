//! Pixels, for those who may have them.

use std::time::Duration;

use isocenter_ai_dispatch::Config;
use isocenter_blobs::path;
use isocenter_domain::refs::Digest;
use isocenter_runtime::config::Period;
use isocenter_wire::v1::{
    AnalyzeRequest, FetchInstancesRequest, ai_dispatch_client::AiDispatchClient,
    fetch_instances_response::Part,
};
use tonic::{Code, Status};

use crate::{
    vendor::{Reply, Vendor},
    world::{Running, World, config, content, images, study_key, tenant},
};

const LONG: Duration = Duration::from_secs(60);

async fn asked(world: &World, config: Config) -> (Running, Vendor, AnalyzeRequest) {
    let (vendor, address) = Vendor::start(&world.tasks).await;
    vendor.always(Reply::Hang);
    world.register("a", &address, 1, true).await;
    let running = world.start(config).await;
    world.study(&["a"], LONG).await;
    let request = vendor.until("the call", |s| !s.requests.is_empty()).await.requests.remove(0);
    (running, vendor, request)
}

/// The instances that are sent: UID, bytes, digest; and the longest chunk.
async fn fetch(
    request: &AnalyzeRequest,
    uids: &[&str],
) -> Result<(Vec<(String, Vec<u8>, Vec<u8>)>, usize), Status> {
    let mut client = AiDispatchClient::connect(request.fetch_address.clone()).await.unwrap();
    let fetch = FetchInstancesRequest {
        request_id: request.request_id.clone(),
        fetch_token: request.fetch_token.clone(),
        sop_instance_uids: uids.iter().map(|uid| (*uid).to_owned()).collect(),
    };
    let mut stream = client.fetch_instances(fetch).await?.into_inner();
    let (mut all, mut longest) = (Vec::new(), 0);
    let mut open: Option<(String, Vec<u8>)> = None;
    while let Some(message) = stream.message().await? {
        match (message.part.unwrap(), &mut open) {
            (Part::Begin(instance), None) => open = Some((instance.sop_instance_uid, Vec::new())),
            (Part::Chunk(chunk), Some((_, bytes))) => {
                longest = longest.max(chunk.len());
                bytes.extend_from_slice(&chunk);
            }
            (Part::End(end), Some(_)) => {
                let (uid, bytes) = open.take().unwrap();
                all.push((uid, bytes, end.sha256.to_vec()));
            }
            (part, _) => panic!("out of order: {part:?}"),
        }
    }
    assert!(open.is_none());
    Ok((all, longest))
}

#[tokio::test]
async fn all_instances_come_in_order_whole_and_in_small_parts() {
    let world = World::new().await;
    let (running, _vendor, request) = asked(&world, config()).await;
    let (all, longest) = fetch(&request, &[]).await.unwrap();
    let order: Vec<&str> = all.iter().map(|(uid, ..)| uid.as_str()).collect();
    assert_eq!(order, ["1.2.3.2.5", "1.2.3.2.6", "1.2.3.1.2", "1.2.3.1.1"]);
    for (uid, bytes, sha256) in &all {
        assert!(*bytes == content(uid), "{uid}");
        assert_eq!(sha256.as_slice(), Digest::of(bytes).0);
    }
    assert_eq!(longest, 256 << 10);
    let (some, _) = fetch(&request, &["1.2.3.1.2", "1.2.3.2.6"]).await.unwrap();
    assert_eq!(some.iter().map(|(uid, ..)| uid.as_str()).collect::<Vec<_>>(), ["1.2.3.2.6", "1.2.3.1.2"]);
    let unknown = fetch(&request, &["1.2.3.2.6", "1.2.3.9.9"]).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    running.stop().await;
}

#[tokio::test]
async fn a_token_opens_nothing_but_its_own_request() {
    let world = World::new().await;
    let (running, _vendor, request) = asked(&world, config()).await;
    let (claim, seal) = request.fetch_token.split_once('.').unwrap();
    let other_seal =
        if seal.starts_with('a') { seal.replacen('a', "b", 1) } else { format!("a{}", &seal[1..]) };
    for token in
        [String::new(), claim.to_owned(), format!("{claim}.{other_seal}"), format!("A{claim}.{seal}")]
    {
        let forged = AnalyzeRequest { fetch_token: token, ..request.clone() };
        assert_eq!(fetch(&forged, &[]).await.unwrap_err().code(), Code::Unauthenticated);
    }
    let other = AnalyzeRequest { request_id: "other".into(), ..request.clone() };
    assert_eq!(fetch(&other, &[]).await.unwrap_err().code(), Code::Unauthenticated);
    assert!(running.metrics.render().unwrap().contains("isocenter_ai_dispatch_fetches_refused_total 5"));
    running.stop().await;
}

#[tokio::test]
async fn a_token_dies_with_its_claim() {
    let world = World::new().await;
    let short = Config { claim: Period(Duration::from_millis(200)), ..config() };
    let (running, _vendor, request) = asked(&world, short).await;
    isocenter_testkit::wait_for("the token's end", Duration::from_secs(10), || async {
        fetch(&request, &["1.2.3.2.5"]).await.is_err_and(|e| e.code() == Code::Unauthenticated)
    })
    .await;
    running.stop().await;
}

#[tokio::test]
async fn a_service_that_may_no_longer_receive_originals_gets_none() {
    let world = World::new().await;
    let (running, _vendor, request) = asked(&world, config()).await;
    assert!(fetch(&request, &["1.2.3.2.5"]).await.is_ok());
    world.register("a", "http://127.0.0.1:1", 1, false).await;
    isocenter_testkit::wait_for("the refusal", Duration::from_secs(10), || async {
        fetch(&request, &["1.2.3.2.5"]).await.is_err_and(|e| e.code() == Code::Unauthenticated)
    })
    .await;
    running.stop().await;
}

#[tokio::test]
async fn an_altered_instance_is_not_passed_off_as_the_one_received() {
    let world = World::new().await;
    let images = images();
    let first = images.find(&"1.2.3.2.5".parse().unwrap()).unwrap();
    let name = path::instance(&tenant(), &study_key().study, &first.instance, &first.sha256);
    let (running, _vendor, request) = asked(&world, config()).await;
    assert!(world.blobs.delete(&name).await.unwrap());
    world.blobs.put_new(&name, vec![0; 1000].into()).await.unwrap();
    assert_eq!(fetch(&request, &[]).await.unwrap_err().code(), Code::DataLoss);
    running.stop().await;
}
