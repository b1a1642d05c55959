//! A sender and a receiver on a real connection.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use futures::FutureExt;
use isocenter_domain::Time;
use isocenter_hl7::{
    AckCode, Verdict,
    ack::ack_for,
    message::parse_message,
    mllp::{ANSWER_LIMIT, Client, Connection, DEFAULT_FRAME_LIMIT, Listener, MllpError},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// Long enough never to pass in a test that does not wait for it to pass.
const AMPLE: Duration = Duration::from_secs(60);

fn message(control_id: &str) -> String {
    format!(
        "MSH|^~\\&|ISO|C|EMR|N|20260102030405+0000||ORU^R01^ORU_R01|{control_id}|P|2.5.1\rPID|1||SECRET\r"
    )
}

fn answer(to: &[u8], code: AckCode) -> String {
    ack_for(parse_message(to).unwrap().header(), code, "77", Time::ZERO, None).unwrap()
}

async fn pair() -> (Client, Connection) {
    let listener = Listener::bind("127.0.0.1:0", DEFAULT_FRAME_LIMIT).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (client, accepted) = tokio::join!(Client::connect(&address, AMPLE), listener.accept());
    (client.unwrap(), accepted.unwrap().0)
}

/// A receiver that reads a whole message and answers with these very bytes, then closes if told to.
async fn answered_with(bytes: &[u8], close: bool) -> (MllpError, Client) {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = socket.local_addr().unwrap();
    let mut client = Client::connect(&address.to_string(), AMPLE).await.unwrap();
    let (mut stream, _) = socket.accept().await.unwrap();
    let text = message("1");
    let receiver = async {
        let mut whole = vec![0; text.len() + 3];
        stream.read_exact(&mut whole).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        if close {
            stream.shutdown().await.unwrap();
        }
    };
    let (sent, ()) = tokio::join!(client.send(&text, AMPLE), receiver);
    (sent.unwrap_err(), client)
}

async fn answer_once(connection: &mut Connection, code: AckCode) -> Bytes {
    let received = connection.receive().await.unwrap().unwrap();
    connection.reply(&answer(&received, code)).await.unwrap();
    received
}

#[tokio::test]
async fn messages_are_answered_one_after_another() {
    let (mut client, mut connection) = pair().await;
    for (id, code, verdict) in [
        ("1", AckCode::ApplicationAccept, Verdict::Accepted),
        ("2", AckCode::CommitError, Verdict::Retry),
        ("3", AckCode::ApplicationAccept, Verdict::Accepted),
    ] {
        let text = message(id);
        let (sent, received) = tokio::join!(client.send(&text, AMPLE), answer_once(&mut connection, code));
        assert_eq!(Verdict::of(&sent), verdict);
        assert_eq!(received, text);
    }
    assert!(client.is_usable());
    drop(client);
    assert!(connection.receive().await.unwrap().is_none(), "closed between two frames");
}

#[tokio::test]
async fn an_application_answers_after_the_commit() {
    let (mut client, mut connection) = pair().await;
    let text = message("1");
    let (sent, received) =
        tokio::join!(client.send(&text, AMPLE), answer_once(&mut connection, AckCode::CommitAccept));
    assert_eq!(Verdict::of(&sent), Verdict::CommitAccepted);
    connection.reply(&answer(&received, AckCode::ApplicationAccept)).await.unwrap();
    let late = client.application_answer("1", AMPLE).await;
    assert_eq!(Verdict::of(&late), Verdict::Accepted);
}

#[tokio::test]
async fn silence_ends_in_time_and_closes_the_connection() {
    let (mut client, mut connection) = pair().await;
    let error = client.send(&message("1"), Duration::from_millis(20)).await.unwrap_err();
    assert!(matches!(error, MllpError::NoAnswer { .. }), "{error:?}");
    assert!(!error.is_certainly_not_sent(), "the receiver has it");
    assert_eq!(connection.receive().await.unwrap().unwrap(), message("1"));
    assert!(connection.receive().await.unwrap().is_none(), "the connection is closed");
    let error = client.send(&message("2"), AMPLE).await.unwrap_err();
    assert!(matches!(error, MllpError::Unusable) && error.is_certainly_not_sent());
}

#[tokio::test]
async fn a_send_that_is_given_up_closes_the_connection() {
    let (mut client, mut connection) = pair().await;
    let text = message("1");
    tokio::select! {
        _sent = client.send(&text, AMPLE) => panic!("nobody answers"),
        received = connection.receive() => assert_eq!(received.unwrap().unwrap(), text),
    }
    assert!(!client.is_usable());
    assert!(connection.receive().await.unwrap().is_none());
}

#[tokio::test]
async fn every_bad_answer_is_named_and_leaves_the_outcome_open() {
    let other = format!("\u{b}{}\u{1c}\r", answer(message("2").as_bytes(), AckCode::ApplicationAccept));
    let long = format!("\u{b}{}", "x".repeat(ANSWER_LIMIT + 1));
    type Is = fn(&MllpError) -> bool;
    let cases: [(&str, bool, Is); 8] = [
        ("", true, |e| matches!(e, MllpError::Closed)),
        ("\u{b}MSH|^~\\&|half", true, |e| matches!(e, MllpError::HalfAnswer { bytes: 13 })),
        ("\u{b}SECRET\u{1c}\r", false, |e| matches!(e, MllpError::NotHl7(_))),
        ("\u{b}MSH|^~\\&|EMR\r\u{1c}\r", false, |e| matches!(e, MllpError::NotHl7(_))),
        ("\u{b}MSH\u{b}MSH", false, |e| matches!(e, MllpError::NotMllp(_))),
        ("HTTP/1.1 400 SECRET", true, |e| matches!(e, MllpError::Closed)),
        (&other, false, |e| matches!(e, MllpError::OtherMessage)),
        (&long, false, |e| matches!(e, MllpError::AnswerTooLong)),
    ];
    for (bytes, close, is) in cases {
        let (error, mut client) = answered_with(bytes.as_bytes(), close).await;
        assert!(is(&error), "{bytes:.40?}: {error:?}");
        assert!(!error.is_certainly_not_sent());
        assert_eq!(Verdict::of(&Err(error)), Verdict::Retry);
        assert!(matches!(client.send(&message("3"), AMPLE).await, Err(MllpError::Unusable)));
    }
}

#[tokio::test]
async fn an_answer_out_of_turn_is_never_taken_for_the_next_one() {
    let (mut client, mut connection) = pair().await;
    let text = message("1");
    let (sent, received) =
        tokio::join!(client.send(&text, AMPLE), answer_once(&mut connection, AckCode::ApplicationAccept));
    assert_eq!(Verdict::of(&sent), Verdict::Accepted);
    connection.reply(&answer(&received, AckCode::ApplicationAccept)).await.unwrap();
    // Seen before the message is written, or read in the place of its answer: refused either way.
    let error = client.send(&message("2"), AMPLE).await.unwrap_err();
    assert!(matches!(error, MllpError::Unusable | MllpError::OtherMessage), "{error:?}");
}

#[tokio::test]
async fn a_receiver_that_left_between_two_messages_is_noticed() {
    let (mut client, connection) = pair().await;
    drop(connection);
    let error = client.send(&message("1"), AMPLE).await.unwrap_err();
    assert!(matches!(error, MllpError::Unusable | MllpError::Closed | MllpError::Io(_)), "{error:?}");
    assert_eq!(Verdict::of(&Err(error)), Verdict::Retry);
    assert!(!client.is_usable());
}

#[tokio::test]
async fn a_connection_that_is_refused_has_sent_nothing() {
    // A port that was free a moment ago, and that nobody listens on while this socket keeps it.
    let held = tokio::net::TcpSocket::new_v4().unwrap();
    held.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = held.local_addr().unwrap().to_string();
    let error = Client::connect(&address, AMPLE).await.unwrap_err();
    assert!(matches!(error, MllpError::Connect { .. }), "{error:?}");
    assert!(error.is_certainly_not_sent());
    assert!(error.to_string().contains(&address));
}

#[tokio::test]
async fn what_is_no_message_is_not_sent_and_costs_no_connection() {
    let (mut client, mut connection) = pair().await;
    let huge = format!("{}{}", message("1"), "x".repeat(DEFAULT_FRAME_LIMIT));
    for bad in ["", "PID|1", "MSH|^~\\&|A\r", "MSH|^~\\&|||||||ORU|1\u{1c}\r", &huge] {
        let error = client.send(bad, AMPLE).await.unwrap_err();
        assert!(matches!(error, MllpError::Unsendable { .. }) && error.is_certainly_not_sent(), "{error:?}");
        assert!(matches!(Verdict::of(&Err(error)), Verdict::DeadLetter(_)));
    }
    assert!(connection.receive().now_or_never().is_none(), "nothing was sent");
    let text = message("1");
    let (sent, _) =
        tokio::join!(client.send(&text, AMPLE), answer_once(&mut connection, AckCode::ApplicationAccept));
    assert_eq!(Verdict::of(&sent), Verdict::Accepted);
}

#[tokio::test]
async fn a_receiver_refuses_what_is_too_long_and_counts_what_is_between() {
    let listener = Listener::bind("127.0.0.1:0", 8).await.unwrap();
    let mut sender = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (mut connection, _) = listener.accept().await.unwrap();
    sender.write_all(b"\r\n\x0b12345678\x1c\x0d\x0b123456789\x1c\x0d").await.unwrap();
    assert_eq!(connection.receive().await.unwrap().unwrap(), "12345678");
    assert_eq!(connection.skipped(), 2);
    let error = connection.receive().await.unwrap_err();
    assert_eq!(error.to_string(), "frame is longer than 8 bytes");
}
