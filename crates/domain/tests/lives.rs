//! Random lives of records: what must hold after any sequence of events.

use std::time::Duration;

use isocenter_domain::{
    Time,
    document::{Images, Instance, Series},
    id::{CaseId, ReadId, ReaderId},
    record::{
        delivery::{Delivery, DeliveryEvent, DeliveryState},
        read::{
            Change, Conclusion, Holding, Insufficiency, Read, ReadEvent, ReadKind, ReadState, ReturnReason,
            SuspendReason,
        },
        report::{ReportKind, StudyRevision},
        study::{Evidence, Facts, Study, StudyEvent, StudyState},
    },
    refs::{Digest, Ref},
};
use proptest::prelude::*;

const READERS: [&str; 3] = ["anna", "boris", "clara"];

fn reader(n: usize) -> ReaderId {
    READERS[n % READERS.len()].parse().unwrap()
}

fn studies() -> Vec<StudyRevision> {
    vec![StudyRevision { study: "1.2".parse().unwrap(), revision: 1 }]
}

/// An event by who and what; tokens are drawn from few, so that stale ones are common.
fn read_event(kind: u8, who: usize, token: u8) -> ReadEvent {
    let (by, token) = (reader(who), format!("t{}", token % 3));
    match kind % KINDS {
        0 => ReadEvent::Offered { reader: by, until: Time(9) },
        1 => ReadEvent::Lapsed,
        2 => ReadEvent::Opened { reader: by, token, studies: studies() },
        3 => ReadEvent::Returned { reader: by, token: Some(token), reason: ReturnReason::Interrupted },
        4 => ReadEvent::Reassigned,
        5 => ReadEvent::Signed {
            reader: by,
            token,
            version: 1,
            studies: studies(),
            conclusion: None,
            newer_images: false,
        },
        6 => ReadEvent::OpenedByName { reader: by, token, studies: studies() },
        7 => {
            ReadEvent::Suspended { reader: by, token, reason: SuspendReason::AwaitingPriors, until: Time(99) }
        }
        8 => ReadEvent::Transferred { by: None, to: by, until: Time(9) },
        9 => ReadEvent::Transferred { by: Some((by, token)), to: reader(who + 1), until: Time(9) },
        10 => ReadEvent::SignedPreliminary { reader: by, token, studies: studies() },
        11 => ReadEvent::Signed {
            reader: by,
            token,
            version: 2,
            studies: studies(),
            conclusion: Some(Conclusion::Final(Change::Minor)),
            newer_images: false,
        },
        12 => ReadEvent::DeclaredNonDiagnostic {
            reader: by,
            token,
            version: 1,
            studies: studies(),
            reason: Insufficiency::Motion,
            repeat: true,
            conclusion: None,
        },
        13 => ReadEvent::Cancelled,
        _ => ReadEvent::DraftKept { body: Digest([u8::try_from(who).unwrap_or(0); 32]) },
    }
}

const KINDS: u8 = 15;

proptest! {
    /// Two reads, three readers, any events: a read is in the hands of one reader at most, a reader has one read open at most,
    /// a signed read never changes, and waiting keeps its age.
    #[test]
    fn reads_and_holdings_agree(events in prop::collection::vec((0..2usize, 0..KINDS, 0..3usize, 0..3u8), 0..80)) {
        let case = CaseId::of(&"t".parse().unwrap(), &"1.2".parse().unwrap());
        let ids = [ReadId { case: case.clone(), n: 1 }, ReadId { case, n: 2 }];
        let mut reads = [Read::waiting(ReadKind::Primary, Time(1)), Read::waiting(ReadKind::Primary, Time(1))];
        let mut holdings = vec![Holding::default(); READERS.len()];
        for (at, (which, kind, who, token)) in events.into_iter().enumerate() {
            let before = reads[which].clone();
            let now = Time(i64::try_from(at).unwrap());
            let Ok((next, effects)) = before.clone().transition(read_event(kind, who, token), now) else { continue };
            // What a change commits: the read and every holding an effect names, or nothing.
            let mut changed = holdings.clone();
            let mut refused = false;
            for effect in &effects {
                let Some(who) = effect.reader() else { continue };
                let n = READERS.iter().position(|r| *r == who.as_str()).unwrap();
                match changed[n].clone().apply(&ids[which], effect) {
                    Ok(holding) => changed[n] = holding,
                    Err(_) => refused = true,
                }
            }
            if refused {
                continue;
            }
            prop_assert!(before.is_live(), "a read that is done changed");
            prop_assert!(before.preliminary.is_none() || next.preliminary == before.preliminary);
            (reads[which], holdings) = (next, changed);
            prop_assert_eq!(reads[which].waiting_since, Time(1));
            prop_assert!(reads[which].drafts.len() <= Read::MAX_DRAFTS);
            prop_assert!(reads[which].returns.len() <= Read::MAX_RETURNS);
            for (n, read) in reads.iter().enumerate() {
                let holders: Vec<_> = (0..READERS.len())
                    .flat_map(|r| {
                        let Holding { offered, open, suspended } = &holdings[r];
                        let held = offered.iter().chain(open).chain(suspended);
                        held.filter(|held| **held == ids[n]).map(move |_| reader(r))
                    })
                    .collect();
                prop_assert_eq!(read.preliminary.is_some() && read.state == ReadState::Waiting, false);
                prop_assert_eq!(holders.iter().collect::<Vec<_>>(), read.holder().into_iter().collect::<Vec<_>>());
            }
        }
    }

    /// Revisions only grow, the clinical clock starts once, and a closed study takes nothing but a reopening.
    #[test]
    fn a_study_only_grows(events in prop::collection::vec(0..5u8, 0..60)) {
        let mut study = Study::receiving("north".parse().unwrap(), "CT1".parse().unwrap(), Time(1));
        for (at, kind) in events.into_iter().enumerate() {
            let event = match kind {
                0 => StudyEvent::Received,
                1 => StudyEvent::Completed {
                    evidence: Evidence::QuietPeriod,
                    doubt: None,
                    manifest: Digest([0; 32]),
                    facts: Facts::default(),
                },
                2 => StudyEvent::NothingNew,
                3 => StudyEvent::Closed,
                _ => StudyEvent::Reopened,
            };
            let reopens = event == StudyEvent::Reopened;
            let now = Time(i64::try_from(at + 2).unwrap());
            if let Ok((next, _)) = study.clone().transition(event, now) {
                prop_assert!(next.revision == study.revision || next.revision == study.revision + 1);
                prop_assert!(study.complete_at.is_none() || next.complete_at == study.complete_at);
                prop_assert!(study.state != StudyState::Closed || reopens);
                prop_assert_eq!(next.revision == 0, next.complete_at.is_none());
                study = next;
            }
        }
    }

    /// The message id never changes, and what the application has accepted is never sent again.
    #[test]
    fn an_accepted_delivery_stays_accepted(events in prop::collection::vec(0..6u8, 0..60)) {
        let mut delivery = Delivery {
            state: DeliveryState::Pending,
            message_id: "ID".into(),
            kind: ReportKind::Final,
            accession: Ref([0; 16]),
            signed_at: Time(0),
            attempts: 0,
            since: Time(0),
        };
        for (at, kind) in events.into_iter().enumerate() {
            let now = Time(i64::try_from(at).unwrap());
            let event = match kind {
                0 => DeliveryEvent::Claimed { until: now.plus(Duration::from_secs(1)) },
                1 => DeliveryEvent::Accepted,
                2 => DeliveryEvent::NotAccepted { retry_at: now, error: "no answer".into() },
                3 => DeliveryEvent::Refused { reason: "AR".into() },
                4 => DeliveryEvent::Lapsed,
                _ => DeliveryEvent::Replayed,
            };
            if let Ok((next, _)) = delivery.clone().transition(event, now) {
                prop_assert!(!delivery.settled());
                prop_assert_eq!(&next.message_id, "ID");
                delivery = next;
            }
        }
    }

    /// Merging segments loses no instance, never replaces one, and merging again changes nothing.
    #[test]
    fn merging_images_only_adds(parts in prop::collection::vec(prop::collection::vec((0..3u8, 0..6u8, 0..4u8), 0..8), 0..5)) {
        let images: Vec<Images> = parts.iter().map(|part| images(part)).collect();
        let mut merged = Images::default();
        for part in &images {
            let before = merged.clone();
            merged.merge(part.clone());
            for (_, _, kept) in before.instances() {
                prop_assert_eq!(merged.find(&kept.instance), Some(kept));
            }
            for (_, _, new) in part.instances() {
                prop_assert!(merged.find(&new.instance).is_some());
            }
        }
        let once = merged.clone();
        for part in images {
            merged.merge(part);
        }
        prop_assert_eq!(merged, once);
    }
}

fn images(part: &[(u8, u8, u8)]) -> Images {
    let mut images = Images::default();
    for (series, instance, content) in part {
        // An instance belongs to one series for ever, as its UID does.
        let series = series % 3 + 3 * (instance % 2);
        let instance = Instance {
            sop_class: "1.2.840.10008.5.1.4.1.1.2".parse().unwrap(),
            instance: format!("1.{series}.{instance}").parse().unwrap(),
            transfer_syntax: "1.2.840.10008.1.2.1".parse().unwrap(),
            size: 1,
            sha256: Digest([*content; 32]),
            data_set: Digest([*content; 32]),
            number: 0,
            frames: 1,
            image: true,
        };
        let series: &mut Series = images.series.entry(format!("1.{series}").parse().unwrap()).or_default();
        series.instances.entry(instance.instance.clone()).or_insert(instance);
    }
    images
}
