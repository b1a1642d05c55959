//! Two replicas over one store, killed and overtaken at the worst moments.

use std::time::Duration;

use isocenter_domain::{
    Time,
    key::LaneKey,
    record::{
        delivery::{Delivery, DeliveryEvent, DeliveryState, Lane},
        registry::Via,
    },
};
use isocenter_hl7::{AckCode, ack::ack_for, mllp::Listener, parse_message};
use isocenter_peers::receiver::Answer;
use isocenter_report_delivery::Config;
use isocenter_runtime::{config::Period, random::Seeded};
use isocenter_store::table::Cause;

use crate::{
    bench::{Bench, config, delivery_key, tenant},
    taken, unhurried,
};

/// The answer to a message.
fn answer(to: &[u8], code: AckCode) -> String {
    ack_for(parse_message(to).unwrap().header(), code, "R1", Time(0), None).unwrap()
}

#[tokio::test]
async fn an_answer_that_comes_after_another_replica_has_delivered_changes_nothing() {
    for late in [AckCode::ApplicationReject, AckCode::ApplicationError, AckCode::ApplicationAccept] {
        let bench = Bench::new().await;
        let listener = Listener::bind("127.0.0.1:0", 1 << 20).await.unwrap();
        bench.register("ris", listener.local_addr().unwrap()).await;
        bench.case(1, &["ris"]).await;
        bench.sign(1, 1).await;
        bench.sign(1, 2).await;
        // The first replica has sent, and is then paused: its claim lapses as the clocks of the others see it.
        let paused = bench.serve(unhurried());
        let (mut connection, _) = listener.accept().await.unwrap();
        let message = connection.receive().await.unwrap().expect("a message");
        let key = delivery_key(1, 1, "ris");
        let stored = bench.tables.load::<Delivery>(&key).await.unwrap().unwrap();
        let lane = LaneKey {
            tenant: tenant(),
            destination: "ris".parse().unwrap(),
            accession: stored.record.accession,
        };
        let held = bench.tables.load::<Lane>(&lane).await.unwrap().unwrap();
        let mut change = bench.tables.change(Cause::role("report-delivery"));
        let now = change.now();
        let (lapsed, _) = stored.record.clone().transition(DeliveryEvent::Lapsed, now).unwrap();
        change.update(&stored, &lapsed, "lapsed");
        change.delete(&held, "freed");
        change.commit().await.unwrap();
        // The second takes over, under the same id, and goes on with the correction.
        let _other = bench.serve(unhurried());
        for n in 1..=2 {
            let (mut next, _) = listener.accept().await.unwrap();
            let again = next.receive().await.unwrap().expect("a message");
            assert_eq!(again == message, n == 1);
            next.reply(&answer(&again, AckCode::ApplicationAccept)).await.unwrap();
            bench.until_accepted(&delivery_key(1, n, "ris")).await;
        }
        let before = bench.deliveries().await;
        // The first one wakes, with its answer at last.
        connection.reply(&answer(&message, late)).await.unwrap();
        paused.until_counted(r#"attempts_total{outcome="overtaken"} 1"#).await;
        assert_eq!(bench.deliveries().await, before);
        assert_eq!(bench.lanes().await, []);
    }
}

#[tokio::test]
async fn replicas_killed_at_random_moments_deliver_each_report_once_and_in_order() {
    let seeded = Seeded::fresh();
    let seed = seeded.seed();
    let bench = Bench::new().await;
    let ris = bench.receiver("ris").await;
    // Claims that the killed leave behind are over in a second.
    let quick = Config { hl7_ack_timeout: Period(Duration::from_millis(250)), ..config() };
    let (cases, reports) = (6, 4);
    for case in 1..=cases {
        bench.case(case, &["ris"]).await;
    }
    let mut random = seeded.fork("kills");
    let mut replicas = [bench.serve(quick.clone()), bench.serve(quick.clone())];
    let answers =
        [Answer::Accept, Answer::DropAckAfterCommit, Answer::Nothing, Answer::HalfFrame, Answer::CloseBefore];
    for n in 1..=reports {
        for case in 1..=cases {
            bench.sign(case, n).await;
            ris.set_answer(*random.pick(&answers).unwrap());
            // From before the claim to after the answer is written.
            tokio::time::sleep(random.duration(Duration::ZERO..Duration::from_millis(40))).await;
            let killed = usize::from(random.chance(0.5));
            replicas[killed] = bench.serve(quick.clone());
        }
    }
    ris.set_answer(Answer::Accept);
    for case in 1..=cases {
        bench.until_accepted(&delivery_key(case, reports, "ris")).await;
    }
    let ids: Vec<String> = taken(&ris).into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids.len(), usize::try_from(cases * reports).unwrap(), "seed {seed}: {:?}", ris.counts());
    for case in 1..=cases {
        let mut places = Vec::new();
        for n in 1..=reports {
            let id = bench.delivery(&delivery_key(case, n, "ris")).await.unwrap().message_id;
            places.push(ids.iter().position(|taken| *taken == id));
        }
        assert!(places.iter().all(Option::is_some) && places.is_sorted(), "seed {seed}, {case}: {places:?}");
    }
    assert_eq!(bench.lanes().await, [], "seed {seed}");
}

#[tokio::test]
async fn what_failed_is_sent_at_once_when_its_destination_is_registered_or_moves() {
    let bench = Bench::new().await;
    bench.case(1, &["ris"]).await;
    bench.sign(1, 1).await;
    // Nothing is tried again by itself as long as this test lasts.
    let hour = Period(Duration::from_secs(3_600));
    let patient = Config { first_retry: hour, max_retry: hour, ..unhurried() };
    let _running = bench.serve(patient);
    let key = delivery_key(1, 1, "ris");
    assert_eq!(bench.until_retrying(&key).await, "destination ris is not registered");
    bench.register_via("ris", Via::Grpc).await;
    let ris = bench.receiver_at("127.0.0.1:0".parse().unwrap()).await;
    bench.move_to("ris", Via::Mllp(ris.address().to_string())).await;
    let delivery = bench.until_accepted(&key).await;
    assert_eq!((delivery.attempts, ris.counts().accepted), (2, 1));
    assert!(matches!(delivery.state, DeliveryState::ApplicationAccepted { .. }));
}
