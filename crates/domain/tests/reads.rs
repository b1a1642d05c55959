//! What each kind of read asks of a signature and what follows it, and the limits of a reader's hands.

use isocenter_domain::{
    Time,
    id::{CaseId, ReadId, ReaderId},
    record::{
        Illegal,
        read::{
            Agreement, Assessment, Change, Conclusion, Holding, Insufficiency, Pair, Read, ReadEffect as Do,
            ReadEvent, ReadKind, ReadState, ReturnReason, Score, SuspendReason,
        },
        report::StudyRevision,
    },
};

fn anna() -> ReaderId {
    "anna".parse().unwrap()
}

fn boris() -> ReaderId {
    "boris".parse().unwrap()
}

fn studies() -> Vec<StudyRevision> {
    vec![StudyRevision { study: "1.2".parse().unwrap(), revision: 1 }]
}

fn open(kind: ReadKind) -> Read {
    let state = ReadState::Open { reader: anna(), token: "t".into(), since: Time(1), studies: studies() };
    Read { state, ..Read::waiting(kind, Time(1)) }
}

fn sign(read: Read, conclusion: Option<Conclusion>) -> Result<(Read, Vec<Do>), Illegal> {
    let version = read.next_version();
    let newer_images = false;
    let event = ReadEvent::Signed {
        reader: anna(),
        token: "t".into(),
        version,
        studies: studies(),
        conclusion,
        newer_images,
    };
    read.transition(event, Time(2))
}

fn blinded(assessment: &str, pair: Pair) -> Option<Conclusion> {
    let assessment: Option<Assessment> = (!assessment.is_empty()).then(|| assessment.parse().unwrap());
    Some(Conclusion::Blinded { assessment, pair })
}

#[test]
fn each_kind_takes_its_own_conclusion_and_no_other() {
    let conclusions = [
        None,
        Some(Conclusion::Final(Change::None)),
        Some(Conclusion::Opinion(Agreement::Agrees)),
        blinded("recall", Pair::First),
        blinded("", Pair::First),
        Some(Conclusion::Review(Score::Concur)),
    ];
    let takes = |read: &Read| -> Vec<usize> {
        let taken = conclusions.iter().enumerate().filter(|(_, c)| sign(read.clone(), (*c).clone()).is_ok());
        taken.map(|(n, _)| n).collect()
    };
    let primary = open(ReadKind::Primary);
    assert_eq!(takes(&primary), [0]);
    assert_eq!(takes(&open(ReadKind::Consultation)), [0]);
    assert_eq!(takes(&open(ReadKind::Arbitration { of: 1, with: 2 })), [0]);
    assert_eq!(takes(&open(ReadKind::Discrepancy { of: 1, with: None })), [0]);
    assert_eq!(takes(&open(ReadKind::SecondOpinion { of: 1 })), [0, 2]);
    assert_eq!(takes(&open(ReadKind::Blinded { with: 2 })), [3]);
    assert_eq!(takes(&open(ReadKind::Review { of: 1 })), [5]);
    let event = ReadEvent::SignedPreliminary { reader: anna(), token: "t".into(), studies: studies() };
    let (preliminary, effects) = primary.transition(event.clone(), Time(2)).unwrap();
    assert_eq!(effects, [Do::Release(anna()), Do::CreateReport]);
    assert_eq!((&preliminary.state, preliminary.released()), (&ReadState::AwaitingFinal, 1));
    assert!(preliminary.needs_attending());
    let offered = ReadEvent::Offered { reader: boris(), until: Time(9) };
    let (offered, _) = preliminary.clone().transition(offered, Time(3)).unwrap();
    let (lapsed, _) = offered.transition(ReadEvent::Lapsed, Time(4)).unwrap();
    assert_eq!(lapsed, preliminary, "it goes back to the queue of the attendings");
    let again = Read { state: open(ReadKind::Primary).state, ..preliminary };
    assert_eq!(takes(&again), [1]);
    assert!(again.clone().transition(event, Time(3)).is_err(), "what is preliminary is made final");
    let (signed, _) = sign(again, conclusions[1].clone()).unwrap();
    assert_eq!((signed.released(), signed.concluded().map(|(_, _, version, _)| version)), (2, Some(2)));
}

#[test]
fn what_disagrees_opens_what_decides() {
    let follow = |kind, conclusion| {
        let (read, effects) = sign(open(kind), conclusion).unwrap();
        (effects[2..].to_vec(), read.released())
    };
    let doubt = |of| vec![Do::CreateDiscrepancy { disagrees_with: Some(of) }];
    let opinion = |agreement| Some(Conclusion::Opinion(agreement));
    assert_eq!(follow(ReadKind::SecondOpinion { of: 3 }, opinion(Agreement::Disagrees)), (doubt(3), 1));
    assert_eq!(follow(ReadKind::SecondOpinion { of: 3 }, opinion(Agreement::Agrees)), (vec![], 1));
    let pair = ReadKind::Blinded { with: 2 };
    assert_eq!(follow(pair, blinded("recall", Pair::First)), (vec![], 0));
    assert_eq!(follow(pair, blinded("recall", Pair::Agreed)), (vec![], 1));
    assert_eq!(follow(pair, blinded("recall", Pair::Disagreed)), (vec![Do::CreateArbitration], 0));
    for score in Score::ALL {
        let expected = if score.is_significant() { doubt(1) } else { vec![] };
        assert_eq!(follow(ReadKind::Review { of: 1 }, Some(Conclusion::Review(score))), (expected, 0));
    }
    let told: Vec<_> = Score::ALL.into_iter().filter(|s| s.needs_comment()).map(Score::name).collect();
    assert_eq!(told, ["2b", "3a", "3b"]);
}

#[test]
fn only_first_reads_and_what_decides_end_as_non_diagnostic_and_only_the_rest_is_cancelled() {
    let kinds = [
        ReadKind::Primary,
        ReadKind::Blinded { with: 2 },
        ReadKind::Arbitration { of: 1, with: 2 },
        ReadKind::Discrepancy { of: 1, with: Some(2) },
        ReadKind::SecondOpinion { of: 1 },
        ReadKind::Consultation,
        ReadKind::Review { of: 1 },
    ];
    for kind in kinds {
        let blinded = matches!(kind, ReadKind::Blinded { .. }).then(|| blinded("", Pair::First)).flatten();
        let event = ReadEvent::DeclaredNonDiagnostic {
            reader: anna(),
            token: "t".into(),
            version: 1,
            studies: studies(),
            reason: Insufficiency::Motion,
            repeat: true,
            conclusion: blinded,
        };
        assert_eq!(open(kind).transition(event, Time(2)).is_ok(), kind.is_of_record(), "{kind:?}");
        let cancelled = open(kind).transition(ReadEvent::Cancelled, Time(2));
        assert_eq!(cancelled.is_ok(), !kind.is_of_record(), "{kind:?}");
    }
}

#[test]
fn a_read_set_aside_stays_its_readers_until_he_opens_it_hands_it_on_or_gives_it_back() {
    let reason = SuspendReason::AwaitingPriors;
    let suspend =
        |token: &str| ReadEvent::Suspended { reader: anna(), token: token.into(), reason, until: Time(9) };
    assert!(open(ReadKind::Primary).transition(suspend("stale"), Time(2)).is_err());
    let (aside, effects) = open(ReadKind::Primary).transition(suspend("t"), Time(2)).unwrap();
    assert_eq!((effects, aside.holder()), (vec![Do::HoldSuspended(anna())], Some(&anna())));
    let reopen = |reader, token: &str| ReadEvent::Opened { reader, token: token.into(), studies: studies() };
    assert!(aside.clone().transition(reopen(boris(), "u"), Time(3)).is_err());
    let (again, effects) = aside.clone().transition(reopen(anna(), "u"), Time(3)).unwrap();
    assert_eq!((effects, again.token()), (vec![Do::HoldOpen(anna())], Some(&"u".to_owned())));

    let hand = |by, to| ReadEvent::Transferred { by, to, until: Time(9) };
    let stale = hand(Some((anna(), "stale".into())), boris());
    assert!(aside.clone().transition(stale, Time(3)).is_err());
    assert!(aside.clone().transition(hand(None, anna()), Time(3)).is_err(), "not to oneself");
    let (handed, effects) = aside.transition(hand(Some((anna(), "t".into())), boris()), Time(3)).unwrap();
    assert_eq!(effects, [Do::Release(anna()), Do::HoldOffered(boris())]);
    assert_eq!(handed.returns[0].reason, ReturnReason::Transferred);
    let declined = ReadEvent::Returned { reader: boris(), token: None, reason: ReturnReason::NotCompetent };
    let (declined, _) = handed.transition(declined, Time(4)).unwrap();
    assert_eq!((declined.state, declined.waiting_since), (ReadState::Waiting, Time(1)));
}

#[test]
fn hands_hold_one_open_one_offered_and_eight_set_aside() {
    let case = CaseId::of(&"t".parse().unwrap(), &"1.2".parse().unwrap());
    let read = |n| ReadId { case: case.clone(), n };
    let hold = |holding: Holding, n, effect: Do| holding.apply(&read(n), &effect);
    let mut hands = Holding::default();
    for n in 1..=8 {
        hands = hold(hands, n, Do::HoldOpen(anna())).unwrap();
        assert!(hold(hands.clone(), 20, Do::HoldOpen(anna())).is_err());
        hands = hold(hands, n, Do::HoldSuspended(anna())).unwrap();
    }
    hands = hold(hands, 9, Do::HoldOpen(anna())).unwrap();
    assert!(hold(hands.clone(), 9, Do::HoldSuspended(anna())).is_err());
    hands = hold(hands, 10, Do::HoldOffered(anna())).unwrap();
    assert!(hold(hands.clone(), 11, Do::HoldOffered(anna())).is_err());
    for n in 1..=10 {
        hands = hold(hands, n, Do::Release(anna())).unwrap();
    }
    assert_eq!(hands, Holding::default());
}
