//! Vendors and receivers that fail: studies are read all the same, and reports arrive in the end.

use std::collections::{BTreeMap, BTreeSet};

use isocenter_peers::{
    LOOPBACK,
    receiver::{Answer, Receiver},
    sample::Algorithm,
    synthetic::{StudyKind, Synthetic},
    vendor::{Misbehaviour, Vendor, VendorConfig},
};
use isocenter_wire::v1::{AiReceives, AiService, Delivery, DeliveryState, StudyStage, registry_entry::Entry};

use crate::harness::{Bench, PATIENCE, metric, registry};

/// Vendors, how they behave, and what becomes of their task. The bound on an analysis is longer than the rest of the test
/// takes, so that a case that waited for its AI would be seen to.
const VENDORS: [(&str, Misbehaviour, &str); 6] = [
    ("good", Misbehaviour::None, "succeeded"),
    ("garbage", Misbehaviour::Garbage, "failed"),
    ("wrong-study", Misbehaviour::WrongStudy, "failed"),
    ("error", Misbehaviour::Error, "failed"),
    ("refuses", Misbehaviour::RefuseAll, "rejected"),
    ("hangs", Misbehaviour::Hang, "timed-out"),
];

fn policy() -> String {
    let services: Vec<_> = VENDORS.map(|(id, ..)| format!("{{service: {id}, timeout: 20s}}")).into();
    format!(
        "name: north\nschema: 1\nclasses:\n  ROUTINE: {{deadline: 24h}}\nrules:\n  - name: film\n    \
         when: \"'CR' in modalities\"\n    ai: [{}]\ndefault: {{class: ROUTINE, read: true, pools: [general], \
         destinations: ['site:{{site}}']}}\n",
        services.join(", ")
    )
}

#[tokio::test]
async fn vendors_that_fail_delay_nothing() {
    let bench = Bench::start(&["--ai.first_retry", "100ms"]).await;
    bench.site("north").await;
    bench.reader("r1", 1).await;
    for (id, how, _) in VENDORS {
        let config = VendorConfig::new(Algorithm::Opacity);
        let vendor = Vendor::start(LOOPBACK, config, &bench.tasks).await.unwrap();
        vendor.misbehave(how);
        let service = AiService {
            service_id: id.to_owned(),
            address: vendor.url(),
            receives: AiReceives::Original.into(),
            max_concurrency: 2,
        };
        registry(bench.server.channel(), Entry::AiService(service)).await;
    }
    let file = bench.path("policy.yaml");
    std::fs::write(&file, policy()).unwrap();
    bench.server.cli(&["policy", "apply", &file.display().to_string()]).await.succeeded();

    let study = Synthetic::new(1).study(StudyKind::CrChestOpacity).unwrap().study;
    let uids = [study.study_uid.to_string()].into();
    bench.send("north", &[study]).await;
    let studies = bench.settled(&uids, PATIENCE).await;
    assert!(studies.values().all(|study| study.stage() == StudyStage::Delivered));
    let name = |service: &str, outcome: &str| {
        format!("isocenter_ai_dispatch_tasks_total{{outcome=\"{outcome}\",service=\"{service}\"}}")
    };
    let text = bench.server.metrics().await;
    assert_eq!(
        metric(&text, &name("hangs", "timed-out")),
        None,
        "delivered only after the last vendor was given up"
    );

    let ended = || async {
        let text = bench.server.metrics().await;
        VENDORS.iter().all(|(id, _, outcome)| metric(&text, &name(id, outcome)) == Some(1.0))
    };
    isocenter_testkit::wait_for("every task to end as it should", PATIENCE, ended).await;
    bench.reconciled(1).await;
}

/// Sites, how their receivers answer at first, and whether the message comes to rest as a dead letter.
const RECEIVERS: [(&str, Answer, bool); 8] = [
    ("ae", Answer::AnswerAe(None), true),
    ("ae-passing", Answer::AnswerAe(Some(207)), false),
    ("ar", Answer::AnswerAr(None), true),
    ("ar-lasting", Answer::AnswerAr(Some(204)), true),
    ("silent", Answer::Nothing, false),
    ("half", Answer::HalfFrame, false),
    ("hangs-up", Answer::CloseBefore, false),
    ("loses-ack", Answer::DropAckAfterCommit, false),
];

async fn by_site(bench: &Bench) -> BTreeMap<String, Delivery> {
    let deliveries = bench.deliveries().await;
    deliveries.into_iter().map(|delivery| (delivery.destination_id.clone(), delivery)).collect()
}

#[tokio::test]
async fn receivers_that_fail_get_each_report_once_in_the_end() {
    let bench = Bench::start(&[]).await;
    let mut receivers: BTreeMap<&str, Receiver> = BTreeMap::new();
    let mut synthetic = Synthetic::new(2);
    let mut uids = BTreeSet::new();
    for (site, answer, _) in RECEIVERS {
        let receiver = bench.site(site).await;
        receiver.set_answer(answer);
        receivers.insert(site, receiver);
        let study = synthetic.study(StudyKind::DxChest).unwrap().study;
        uids.insert(study.study_uid.to_string());
        bench.send(site, &[study]).await;
    }
    bench.reader("r1", 2).await;

    let failing = || async {
        let deliveries = by_site(&bench).await;
        RECEIVERS.iter().all(|(site, answer, dead)| {
            let settles = matches!(answer, Answer::HalfFrame | Answer::DropAckAfterCommit);
            deliveries.get(*site).is_some_and(|delivery| match delivery.state() {
                DeliveryState::DeadLetter => *dead,
                // Committed at the first attempt: the next one finds it there.
                DeliveryState::ApplicationAccepted => settles && delivery.attempts > 1,
                _ => !dead && delivery.attempts > 1,
            })
        })
    };
    isocenter_testkit::wait_for("every receiver to have failed", PATIENCE, failing).await;

    receivers.values().for_each(|receiver| receiver.set_answer(Answer::Accept));
    for (site, _, _) in RECEIVERS.iter().filter(|(_, _, dead)| *dead) {
        let delivery = &by_site(&bench).await[*site];
        let replay = ["delivery", "replay", &delivery.report_id, site, "--json"];
        let replayed = bench.server.cli(&replay).await.json();
        assert_eq!(replayed["messageId"].as_str(), Some(delivery.message_id.as_str()), "{replayed}");
    }
    bench.settled(&uids, PATIENCE).await;
    let deliveries = by_site(&bench).await;
    for (site, receiver) in &receivers {
        let ids: Vec<_> = receiver.received().into_iter().map(|message| message.control_id).collect();
        assert_eq!(ids, [deliveries[*site].message_id.clone()], "{site}");
    }
    bench.reconciled(uids.len()).await;
}
