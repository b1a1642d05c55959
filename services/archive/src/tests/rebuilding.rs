//! The records made again from the journal, and their tables' versions.

use futures::StreamExt as _;
use isocenter_domain::{
    Kind, Kinded as _,
    record::study::{Facts, Study},
};
use isocenter_wire::v1::{self, archive_server::Archive as _};

use super::fixture::{Fixture, Given, asked};
use crate::{
    Error, Migration, Records, Serving,
    records::schema::{STEPS, Step},
};

async fn rebuild(fixture: &Fixture) -> Vec<v1::RebuildRecordsResponse> {
    let request = asked(v1::RebuildRecordsRequest { reason: "disk replaced".into() });
    let answers = fixture.rpc().rebuild_records(request).await.unwrap().into_inner();
    answers.map(|answer| answer.unwrap()).collect().await
}

#[tokio::test]
async fn rebuilt_records_equal_the_old_row_by_row_and_what_was_wrong_with_them_is_gone() {
    let fixture = Fixture::new().await;
    let key = fixture.delivered(&Given::default()).await;
    fixture.delivered(&Given { uid: "1.2.4", ..Given::default() }).await;
    fixture.drain().await;
    fixture.clock.advance(std::time::Duration::from_secs(7_200));
    fixture.closer().consider(&key).await.unwrap();
    fixture.drain().await;
    let before = Fixture::dump(&fixture.records).await;
    for harm in ["DELETE FROM events", "DELETE FROM reads", "UPDATE studies SET revision = 77"] {
        sqlx::query(harm).execute(&fixture.records.pool()).await.unwrap();
    }
    let answers = rebuild(&fixture).await;
    let last = answers.last().unwrap();
    assert!(last.done && last.forks == 0 && last.objects > 4, "{last:?}");
    assert_eq!(Fixture::dump(&fixture.records).await, before);
    // Again, and what happens afterwards is applied to the new tables.
    assert!(rebuild(&fixture).await.last().unwrap().done);
    assert_eq!(Fixture::dump(&fixture.records).await, before);
    fixture.delivered(&Given { uid: "1.2.5", ..Given::default() }).await;
    fixture.drain().await;
    let history = fixture.records.history(&fixture.blobs, &key.tenant).await.unwrap();
    assert_eq!(history.gaps, []);
    let nobody = asked(v1::RebuildRecordsRequest::default());
    let refused = fixture.rpc().rebuild_records(nobody).await.err().unwrap();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
}

#[tokio::test]
async fn what_happens_while_the_records_are_made_again_is_in_them() {
    let fixture = Fixture::new().await;
    let key = fixture.delivered(&Given::default()).await;
    fixture.drain().await;
    let going_on = async {
        for images in 2..40 {
            let counted = |study: Study| Facts { images, ..study.facts };
            fixture
                .update::<Study>(&key, "touched", |study| Study { facts: counted(study.clone()), ..study })
                .await;
            fixture.drain().await;
        }
    };
    let ((), answers) = tokio::join!(going_on, rebuild(&fixture));
    assert!(answers.last().unwrap().done);
    // Whatever was refused for a moment while the tables were exchanged was noted.
    fixture.drainer().catch_up(&isocenter_reconcile::Everything).await.unwrap();
    assert_eq!(fixture.records.history(&fixture.blobs, &key.tenant).await.unwrap().gaps, []);
    let before = Fixture::dump(&fixture.records).await;
    let fresh = fixture.database("fresh").await;
    crate::replay(&fixture.blobs, &fresh).await.unwrap();
    assert_eq!(Fixture::dump(&fresh).await, before);
}

#[tokio::test]
async fn a_damaged_journal_object_ends_a_rebuild_and_the_old_records_stay() {
    let fixture = Fixture::new().await;
    fixture.delivered(&Given::default()).await;
    fixture.drain().await;
    let before = Fixture::dump(&fixture.records).await;
    let object = isocenter_blobs::path::journal(255, isocenter_domain::Time(9), 1);
    fixture.blobs.put_new(&object, "not a journal".into()).await.unwrap();
    let (progress, _heard) = tokio::sync::mpsc::channel(1);
    let failed =
        fixture.records.rebuild(&fixture.blobs, isocenter_domain::Time(1), progress).await.unwrap_err();
    assert!(matches!(failed, Error::Undecodable { .. }), "{failed}");
    assert_eq!(Fixture::dump(&fixture.records).await, before);
    fixture.blobs.delete(&object).await.unwrap();
    assert!(rebuild(&fixture).await.last().unwrap().done);
}

/// This build's steps and one more: it adds a column, and later takes away a table that only the version before used.
static NEXT: &[Step] = &[
    STEPS[0],
    Step {
        version: 2,
        expand: "ALTER TABLE studies ADD COLUMN note TEXT NOT NULL DEFAULT ''",
        contract: "DROP TABLE verified",
    },
];

#[tokio::test]
async fn tables_are_expanded_first_and_contracted_when_nobody_needs_the_old_ones() {
    let fixture = Fixture::new().await;
    let key = fixture.delivered(&Given::default()).await;
    fixture.drain().await;
    let url = match &fixture.postgres {
        Some(server) => server.url_of("records"),
        None => format!("sqlite:{}", fixture.folder.path().join("records.db").display()),
    };
    let next = Records::open_as(&url, NEXT).await.unwrap();
    if fixture.postgres.is_some() {
        // Nothing is changed under processes that may be running: it waits for whoever upgrades, and says so.
        let waits = next.prepare().await.unwrap_err();
        assert_eq!(waits.kind(), Kind::FailedPrecondition);
        assert!(waits.to_string().contains("run `isocenter records migrate`"), "{waits}");
        assert!(matches!(next.serving(), Serving::No(_)));
        let early = next.migrate(Migration::Contract).await.unwrap_err();
        assert!(matches!(early, Error::Schema(_)), "{early}");
        next.migrate(Migration::Expand).await.unwrap();
    }
    next.prepare().await.unwrap();
    assert_eq!(next.schema().await.unwrap().expanded, 2);
    // The version before goes on working on the expanded tables.
    fixture.update::<Study>(&key, "touched", |study| Study { revision: 2, ..study }).await;
    fixture.drain().await;
    fixture.records.prepare().await.unwrap();
    assert_eq!(fixture.only_study().await.revision, 2);
    assert_eq!(fixture.keys("journaled/").await, Vec::<String>::new());

    let (one, other) = tokio::join!(next.migrate(Migration::Contract), next.migrate(Migration::Contract));
    assert_eq!((one.unwrap().oldest, other.unwrap().oldest), (2, 2));
    next.prepare().await.unwrap();
    let too_old = fixture.records.prepare().await.unwrap_err();
    assert!(too_old.to_string().contains("upgrade it"), "{too_old}");
}
