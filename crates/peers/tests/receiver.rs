//! The receiver, as a sender meets it.

use std::time::Duration;

use isocenter_hl7::{
    AckCode,
    mllp::{Client, MllpError},
};
use isocenter_peers::{
    LOOPBACK,
    receiver::{Answer, Receiver},
};
use isocenter_runtime::{clock, task::Tasks};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// Far more than an answer on the loopback needs; only a test that fails waits for it.
const WAIT: Duration = Duration::from_secs(20);

fn message(id: &str) -> String {
    format!("MSH|^~\\&|ISOCENTER|HUB|EMR|SITE|20260101000000||ORU^R01^ORU_R01|{id}|P|2.5.1\rPID|1||X\r")
}

async fn receiver(tasks: &Tasks) -> Receiver {
    Receiver::start(LOOPBACK, clock::system(), tasks).await.unwrap()
}

async fn send(receiver: &Receiver, id: &str) -> Result<isocenter_hl7::Ack, MllpError> {
    let mut client = Client::connect(&receiver.address().to_string(), WAIT).await.unwrap();
    client.send(&message(id), WAIT).await
}

#[tokio::test]
async fn a_repeated_message_gets_the_first_answer_and_is_kept_once() {
    let tasks = Tasks::new();
    let receiver = receiver(&tasks).await;
    let mut client = Client::connect(&receiver.address().to_string(), WAIT).await.unwrap();
    for id in ["1", "2", "1"] {
        let ack = client.send(&message(id), WAIT).await.unwrap();
        assert_eq!((ack.code, ack.control_id.as_str()), (AckCode::ApplicationAccept, id));
    }
    let kept: Vec<_> = receiver.received().into_iter().map(|r| r.control_id).collect();
    assert_eq!(kept, ["1", "2"]);
    assert_eq!((receiver.counts().accepted, receiver.counts().duplicates), (2, 1));
    assert_eq!(receiver.received()[0].raw.reveal(), message("1").as_bytes());
    assert_eq!(tasks.drain(WAIT).await, isocenter_runtime::task::Drained::Clean);
}

#[tokio::test]
async fn refusals_are_not_kept_and_the_next_try_is_a_new_one() {
    let tasks = Tasks::new();
    let receiver = receiver(&tasks).await;
    for (answer, code) in [
        (Answer::AnswerAe(Some(207)), AckCode::ApplicationError),
        (Answer::AnswerAr(None), AckCode::ApplicationReject),
    ] {
        receiver.set_answer(answer);
        assert_eq!(send(&receiver, "1").await.unwrap().code, code);
    }
    receiver.set_answer(Answer::Accept);
    assert_eq!(send(&receiver, "1").await.unwrap().code, AckCode::ApplicationAccept);
    assert_eq!((receiver.counts().accepted, receiver.counts().refused), (1, 2));
}

#[tokio::test]
async fn what_is_committed_without_an_answer_is_answered_when_it_comes_again() {
    for (answer, id) in [(Answer::DropAckAfterCommit, "1"), (Answer::HalfFrame, "2")] {
        let tasks = Tasks::new();
        let receiver = receiver(&tasks).await;
        receiver.set_answer(answer);
        let lost = send(&receiver, id).await.unwrap_err();
        assert!(
            matches!(lost, MllpError::Closed | MllpError::HalfAnswer { .. } | MllpError::Io(_)),
            "{lost}"
        );
        assert_eq!(receiver.until(|c| c.accepted == 1).await.duplicates, 0);
        assert_eq!(send(&receiver, id).await.unwrap().code, AckCode::ApplicationAccept);
        assert_eq!((receiver.counts().accepted, receiver.counts().duplicates), (1, 1));
    }
}

#[tokio::test]
async fn silence_and_a_closed_connection_keep_nothing() {
    let tasks = Tasks::new();
    let receiver = receiver(&tasks).await;
    receiver.set_answer(Answer::CloseBefore);
    assert!(send(&receiver, "1").await.is_err());
    receiver.set_answer(Answer::Nothing);
    let mut client = Client::connect(&receiver.address().to_string(), WAIT).await.unwrap();
    let sent = message("2");
    tokio::select! {
        answer = client.send(&sent, WAIT) => panic!("{answer:?}"),
        _ = receiver.until(|c| c.refused == 2) => {}
    }
    assert!(receiver.received().is_empty());
}

#[tokio::test]
async fn what_is_no_message_closes_the_connection_and_a_stopped_receiver_is_gone() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let tasks = Tasks::new();
    let receiver = receiver(&tasks).await;
    let mut stream = tokio::net::TcpStream::connect(receiver.address()).await.unwrap();
    stream.write_all(b"\x0bGET / HTTP/1.1\x1c\x0d").await.unwrap();
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    assert_eq!(receiver.until(|c| c.unreadable > 0).await.accepted, 0);
    tasks.drain(WAIT).await;
    assert!(Client::connect(&receiver.address().to_string(), WAIT).await.is_err());
}

#[tokio::test]
async fn what_drips_is_garbage_or_names_another_message_is_no_answer_and_the_message_is_kept() {
    for (answer, id) in [(Answer::Drip, "1"), (Answer::Garbage, "2"), (Answer::OtherMessage, "3")] {
        let tasks = Tasks::new();
        let receiver = receiver(&tasks).await;
        receiver.set_answer(answer);
        let mut client = Client::connect(&receiver.address().to_string(), WAIT).await.unwrap();
        let error = client.send(&message(id), Duration::from_millis(500)).await.unwrap_err();
        let named = match answer {
            Answer::Drip => matches!(error, MllpError::NoAnswer { .. }),
            Answer::Garbage => matches!(error, MllpError::NotMllp(_)),
            _ => matches!(error, MllpError::OtherMessage),
        };
        assert!(named, "{answer:?}: {error:?}");
        assert_eq!(receiver.counts().accepted, 1);
        let again = send(&receiver, id).await.unwrap();
        assert_eq!((again.code, receiver.counts().duplicates), (AckCode::ApplicationAccept, 1));
    }
}

#[tokio::test]
async fn senders_that_never_end_a_message_make_room_for_others() {
    let tasks = Tasks::new();
    let patience = Duration::from_millis(500);
    let receiver = Receiver::start_with(LOOPBACK, clock::system(), &tasks, patience).await.unwrap();
    let mut slow = Vec::new();
    // As many as are served at a time.
    for n in 0..256 {
        let mut stream = TcpStream::connect(receiver.address()).await.unwrap();
        stream.write_all(if n % 2 == 0 { b"" } else { b"\x0bMSH|" }).await.unwrap();
        slow.push(stream);
    }
    let ack = send(&receiver, "1").await.unwrap();
    assert_eq!(ack.code, AckCode::ApplicationAccept);
    for mut stream in slow {
        assert_eq!(stream.read(&mut [0; 8]).await.unwrap_or(0), 0, "it was answered");
    }
}
