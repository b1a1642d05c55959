//! The same log, the same clock, the same seed: the same decisions.

use std::{collections::BTreeMap, time::Duration};

use isocenter_assign::{Item, Needs, Ppm, Queue, ReaderProfile, Sites, Skill, Urgency, Work};
use isocenter_domain::{
    Time,
    id::{CaseId, ReadId, ReaderId, StudyUid},
};
use isocenter_peers::synthetic::StudyKind;
use isocenter_policy::{Facts, Policy};
use isocenter_runtime::random::Seeded;

use crate::{
    calls::seeds,
    desk::Desk,
    world::{Settings, Sim, policy, tenant},
};

const STUDIES: u64 = 200;

/// A day's arrivals: facts of each study and when it was complete.
fn log(seed: u64) -> Vec<(StudyUid, Facts, Time)> {
    let mut rng = Seeded::new(seed);
    let mut now = Time(0);
    let entry = |n: u64| {
        now = now.plus(rng.gap(Duration::from_secs(30)));
        let mut facts = Facts::of("north".parse().unwrap());
        facts.modalities = vec![(*rng.pick(&["CT", "MG", "CR", "SR"]).unwrap()).into()];
        facts.order_priority = (*rng.pick(&["STAT", "ROUTINE", ""]).unwrap()).into();
        facts.image_count = u32::from(rng.chance(0.9));
        (format!("1.2.{n}").parse().unwrap(), facts, now)
    };
    (0..STUDIES).map(entry).collect()
}

/// Routes the log and hands the reads out; `order` is in which order the queue learns of them, as after a restart.
fn decide(log: &[(StudyUid, Facts, Time)], order: &[usize], seed: u64) -> Vec<(ReaderId, Option<ReadId>)> {
    let policy = Policy::parse(&policy(Duration::from_secs(60))).unwrap();
    let mut queue = Queue::default();
    for n in order {
        let (study, facts, complete_at) = &log[*n];
        let decision = policy.decide(facts);
        assert_eq!(decision, policy.decide(facts));
        if !decision.read {
            continue;
        }
        let class = policy.class_of(&decision);
        queue.insert(Item {
            read: ReadId { case: CaseId::of(&tenant(), study), n: 1 },
            class: decision.class.clone(),
            urgency: Urgency {
                target: class.deadline,
                weight: 2,
                critical: 40,
                prior: Ppm::ZERO,
                next_up: decision.class.as_str() != "STAT",
                may_outwait: decision.class.as_str() != "STAT",
            },
            complete_at: *complete_at,
            waiting_since: *complete_at,
            probability: None,
            work: Work { minutes: Duration::from_secs(360), points: 1_000 },
            needs: Needs::new(&facts.modalities, "", "north".parse().unwrap(), decision.pools.clone()),
            excluded: BTreeMap::new(),
            prefers: None,
        });
    }
    let readers = [("anna", "CT"), ("boris", "*"), ("clara", "MG")].map(|(id, modality)| ReaderProfile {
        skills: [Skill::new(modality, "*")].into(),
        sites: Sites::All,
        pools: ["center".parse().unwrap()].into(),
        present: true,
        accepting: true,
        ..ReaderProfile::new(id.parse().unwrap())
    });
    let mut rng = Seeded::new(seed).fork("asking");
    let mut now = log.last().unwrap().2;
    let mut given = Vec::new();
    while !queue.is_empty() {
        now = now.plus(rng.gap(Duration::from_secs(60)));
        let reader = rng.pick(&readers).unwrap();
        let read = queue.pick(reader, now).map(|item| item.read.clone());
        read.iter().for_each(|read| drop(queue.remove(read)));
        given.push((reader.id.clone(), read));
    }
    given
}

#[test]
fn the_same_log_is_routed_and_handed_out_alike_in_whatever_order_it_is_learnt() {
    for seed in seeds(&[71, 72, 73, 74, 75]) {
        let log = log(seed.0);
        let mut order: Vec<usize> = (0..log.len()).collect();
        let first = decide(&log, &order, seed.0);
        seed.rng().shuffle(&mut order);
        assert_eq!(first, decide(&log, &order, seed.0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_systems_that_received_the_same_hand_it_out_in_the_same_order() {
    for seed in seeds(&[76]) {
        let (first, second) = tokio::join!(order(seed.0), order(seed.0));
        assert_eq!(first, second);
        assert_eq!(first.len(), 6);
        assert_eq!(first[0].1, "STAT", "the urgent study was not the first");
    }
}

/// Studies and classes in the order in which one reader is given them, after all of them were complete in turn.
async fn order(seed: u64) -> Vec<(String, String)> {
    let mut sim = Sim::start(seed, Settings { replicas: 1, ..Settings::default() }).await;
    let mut kinds = [
        StudyKind::CrChest,
        StudyKind::MrBrain,
        StudyKind::CtStroke,
        StudyKind::DxChest,
        StudyKind::UsAbdomen,
        StudyKind::CtHead,
    ];
    sim.rng.shuffle(&mut kinds);
    for kind in kinds {
        let study = sim.study(kind);
        sim.send(&study).await;
        let waits = isocenter_wire::v1::StudyStage::WaitingForReader;
        sim.until("the read to wait", &study.study_uid, |s| s.stage() == waits).await;
    }
    let desk = Desk::sit(&sim, "anna", 0);
    let mut given = Vec::new();
    for _ in kinds {
        let open = desk.take().await;
        given.push((open.studies[0].study_instance_uid.clone(), open.clinical_class.clone()));
        desk.sign(&desk.signature(&open)).await.unwrap();
    }
    sim.end().await;
    given
}
