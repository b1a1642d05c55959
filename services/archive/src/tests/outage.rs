//! PostgreSQL that is not there, goes away, freezes, comes back; and two archives over one of everything.

use std::time::Duration;

use isocenter_domain::{
    key::{StudyKey, text},
    record::study::{Facts, Study},
};
use isocenter_runtime::{config::Period, random::Seeded, task::Tasks};
use isocenter_store::table::Mirrors;
use isocenter_testkit::{Signal, wait_for};
use isocenter_wire::v1::{self, archive_server::Archive as _};
use tonic::Code;
use tonic_types::StatusExt as _;

use super::fixture::{Fixture, Given, asked};
use crate::{Config, Deps, Records, Service, Serving};

/// For a machine that does other things as well.
const PATIENCE: Duration = Duration::from_secs(60);

/// A whole archive with its own connections, as another process has them.
async fn archive(fixture: &Fixture, url: &str) -> (Tasks, Records) {
    let tasks = Tasks::new();
    let records = Records::open(url).await.unwrap();
    let deps = Deps {
        mirrors: Mirrors::new(fixture.tables.clone(), &tasks),
        records: records.clone(),
        metrics: isocenter_runtime::metrics::Metrics::new(),
        tasks: tasks.clone(),
        ..fixture.deps()
    };
    let config = Config { journal_interval: Period(Duration::ZERO), ..Config::default() };
    let service = Service::build(config, deps).unwrap();
    tasks.essential("archive", service.run());
    (tasks, records)
}

async fn serves(records: &Records) {
    wait_for("the records to serve", PATIENCE, || async { records.serving() == Serving::Yes }).await;
}

async fn is_down(records: &Records) {
    wait_for("the loss to be noticed", PATIENCE, || async { matches!(records.serving(), Serving::No(_)) })
        .await;
}

async fn journaled(fixture: &Fixture) {
    wait_for("the outbox to be journaled", PATIENCE, || async { fixture.keys("outbox/").await.is_empty() })
        .await;
}

async fn caught_up(fixture: &Fixture) {
    journaled(fixture).await;
    wait_for("the records to catch up", PATIENCE, || async { fixture.keys("journaled/").await.is_empty() })
        .await;
}

async fn touch(fixture: &Fixture, key: &StudyKey, revisions: std::ops::Range<u32>) {
    for revision in revisions {
        let counted = |study: Study| Facts { images: revision, ..study.facts };
        fixture
            .update::<Study>(key, "touched", |study| Study { facts: counted(study.clone()), ..study })
            .await;
    }
}

/// Every event once, in SQL as in the journal, and the newest values.
async fn whole(fixture: &Fixture, key: &StudyKey, revision: u32) {
    fixture.records.prepare().await.unwrap();
    let history = fixture.records.history(&fixture.blobs, &key.tenant).await.unwrap();
    assert_eq!(history.gaps, []);
    let live = fixture.load::<Study>(key).await.unwrap();
    assert_eq!(live.record.facts.images, revision);
    assert_eq!(fixture.records.applied_one(&text(key)).await.unwrap(), (live.head.seq, false));
    let events = fixture.records.events(key, None, 10_000).await.unwrap();
    let seqs: Vec<u64> = events.iter().filter(|e| e.key == text(key)).map(|e| e.seq).collect();
    assert_eq!(seqs, (1..=live.head.seq).collect::<Vec<_>>());
    let fresh = fixture.database(&format!("fresh{revision}")).await;
    crate::replay(&fixture.blobs, &fresh).await.unwrap();
    assert_eq!(Fixture::dump(&fresh).await, Fixture::dump(&fixture.records).await);
}

#[tokio::test]
async fn an_archive_starts_works_and_answers_without_postgresql_and_catches_up_when_it_comes() {
    let mut fixture = Fixture::new().await;
    let url = fixture.postgres.as_ref().unwrap().url_of("records");
    let key = fixture.complete(&Given::default()).await;
    fixture.postgres.as_mut().unwrap().stop();

    let (tasks, records) = archive(&fixture, &url).await;
    journaled(&fixture).await;
    assert!(!fixture.keys("journaled/").await.is_empty());
    is_down(&records).await;
    let rpc = crate::rpc::Rpc { records: records.clone(), ..fixture.rpc() };
    let refused = rpc.search_studies(asked(v1::SearchStudiesRequest::default())).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.get_error_details().retry_info().is_some(), "{refused:?}");

    touch(&fixture, &key, 2..5).await;
    journaled(&fixture).await;
    fixture.postgres.as_mut().unwrap().restart();
    serves(&records).await;
    touch(&fixture, &key, 5..7).await;
    caught_up(&fixture).await;
    assert!(rpc.search_studies(asked(v1::SearchStudiesRequest::default())).await.is_ok());
    assert!(tasks.failure().is_none());
    tasks.drain(PATIENCE).await;
    whole(&fixture, &key, 6).await;
}

#[tokio::test]
#[expect(clippy::print_stdout, reason = "a failed test shows the seed with which it is repeated")]
async fn a_database_killed_or_frozen_in_the_middle_of_commits_loses_and_repeats_nothing() {
    let seed: u64 = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(7);
    println!("SEED={seed}");
    let mut rng = Seeded::new(seed);
    let mut fixture = Fixture::new().await;
    let url = fixture.postgres.as_ref().unwrap().url_of("records");
    let key = fixture.complete(&Given::default()).await;
    let (first, records) = archive(&fixture, &url).await;
    let (second, others) = archive(&fixture, &url).await;
    serves(&records).await;
    let mut revision = 1;
    for _ in 0..4 {
        let next = revision + 1 + u32::try_from(rng.range(5..25)).unwrap();
        touch(&fixture, &key, revision + 1..next).await;
        revision = next - 1;
        if rng.chance(0.5) {
            fixture.postgres.as_mut().unwrap().kill();
            touch(&fixture, &key, revision + 1..revision + 4).await;
            is_down(&records).await;
            fixture.postgres.as_mut().unwrap().restart();
        } else {
            fixture.postgres.as_ref().unwrap().signal(Signal::Stop);
            touch(&fixture, &key, revision + 1..revision + 4).await;
            is_down(&records).await;
            fixture.postgres.as_ref().unwrap().signal(Signal::Cont);
        }
        revision += 3;
        serves(&records).await;
    }
    serves(&others).await;
    caught_up(&fixture).await;
    assert!(first.failure().is_none() && second.failure().is_none());
    first.drain(PATIENCE).await;
    second.drain(PATIENCE).await;
    // What one of them had in hand as it ended.
    fixture.records.prepare().await.unwrap();
    fixture.drain().await;
    fixture.drainer().catch_up(&isocenter_reconcile::Everything).await.unwrap();
    whole(&fixture, &key, revision).await;
}

#[tokio::test]
async fn connections_that_are_cut_are_made_again() {
    let fixture = Fixture::new().await;
    let url = fixture.postgres.as_ref().unwrap().url_of("records");
    let key = fixture.complete(&Given::default()).await;
    let (tasks, records) = archive(&fixture, &url).await;
    serves(&records).await;
    for round in 0..3 {
        touch(&fixture, &key, round * 10 + 2..round * 10 + 12).await;
        let cut =
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'isocenter'";
        let server = fixture.postgres.as_ref().unwrap();
        wait_for("a connection to cut", PATIENCE, || async { !server.query("postgres", cut).is_empty() })
            .await;
    }
    touch(&fixture, &key, 32..34).await;
    caught_up(&fixture).await;
    tasks.drain(PATIENCE).await;
    whole(&fixture, &key, 33).await;
}
