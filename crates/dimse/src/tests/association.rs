//! One association over a pipe, with a peer that writes its own PDUs. Time is paused: it advances only where all wait.

use std::{sync::Arc, time::Duration};

use bytes::BytesMut;
use dicom_ul::{
    association::read_pdu_from_wire_async,
    pdu::{
        AssociationRQ, Pdu, PresentationContextProposed, PresentationContextResultReason, UserVariableItem,
        write_pdu,
    },
};
use proptest::prelude::*;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
    sync::Semaphore,
};
use tokio_util::sync::CancellationToken;

use super::{CT, EXPLICIT, Event, IMPLICIT, Recorder, Script, ae};
use crate::{
    Closed, Rejection, StoreStatus,
    command::{Command, UNRECOGNIZED_OPERATION, field},
    scp::{
        Config,
        association::{Acceptor, serve},
    },
    uid::VERIFICATION,
};

const ADDRESS: std::net::SocketAddr =
    std::net::SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 4242);

/// The client's end of a connection that is being served.
struct Client {
    stream: DuplexStream,
    buffer: BytesMut,
    served: tokio::task::JoinSet<()>,
    drain: CancellationToken,
    stop: CancellationToken,
}

fn connect(recorder: &Recorder, change: impl FnOnce(&mut Config)) -> Client {
    let mut config = Config::new(ADDRESS);
    config.ae_titles = vec![ae("ARCHIVE")];
    change(&mut config);
    let (drain, stop) = (CancellationToken::new(), CancellationToken::new());
    let acceptor = Acceptor {
        places: Arc::new(Semaphore::new(config.max_associations)),
        config,
        service: Arc::new(recorder.clone()),
        drain: drain.clone(),
        stop: stop.clone(),
    };
    // More than one PDU, so that neither side waits for the other to read in the middle of one.
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let mut served = tokio::task::JoinSet::new();
    served.spawn(async move {
        let artim = Box::pin(tokio::time::sleep(acceptor.config.artim));
        serve(&acceptor, theirs, ADDRESS, None, artim).await;
    });
    Client { stream: ours, buffer: BytesMut::new(), served, drain, stop }
}

fn proposal(id: u8, class: &str, syntax: &str) -> PresentationContextProposed {
    PresentationContextProposed { id, abstract_syntax: class.into(), transfer_syntaxes: vec![syntax.into()] }
}

fn request(calling: &str, called: &str) -> AssociationRQ {
    AssociationRQ {
        protocol_version: 1,
        calling_ae_title: calling.into(),
        called_ae_title: called.into(),
        application_context_name: crate::uid::APPLICATION_CONTEXT.into(),
        presentation_contexts: vec![
            proposal(1, VERIFICATION, IMPLICIT),
            proposal(3, CT, EXPLICIT),
            proposal(5, "1.2.840.10008.5.1.4.1.2.2.1", IMPLICIT),
        ],
        user_variables: vec![UserVariableItem::MaxLength(16384)],
    }
}

impl Client {
    async fn send(&mut self, pdu: Pdu) {
        let mut bytes = Vec::new();
        write_pdu(&mut bytes, &pdu).unwrap();
        self.stream.write_all(&bytes).await.unwrap();
    }

    async fn receive(&mut self) -> Pdu {
        read_pdu_from_wire_async(&mut self.stream, &mut self.buffer, 1 << 20, true).await.unwrap()
    }

    /// What has been sent to us in one piece up to the end of the connection.
    async fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).await.unwrap();
        rest
    }

    async fn associate(&mut self) {
        self.send(Pdu::AssociationRQ(request("CT-1", "ARCHIVE"))).await;
        let Pdu::AssociationAC(answer) = self.receive().await else { panic!("not accepted") };
        let accepted: Vec<bool> = answer
            .presentation_contexts
            .iter()
            .map(|c| c.reason == PresentationContextResultReason::Acceptance)
            .collect();
        assert_eq!(accepted, [true, true, false]);
    }

    /// Result, source and reason of the rejection: as bytes, for the library's types hide the numbers.
    async fn rejection(&mut self, request: AssociationRQ) -> [u8; 3] {
        self.send(Pdu::AssociationRQ(request)).await;
        let mut pdu = [0; 10];
        self.stream.read_exact(&mut pdu).await.unwrap();
        assert_eq!(pdu[..6], [3, 0, 0, 0, 0, 4]);
        [pdu[7], pdu[8], pdu[9]]
    }

    /// One P-DATA-TF with one value.
    async fn fragment(&mut self, context: u8, control: u8, data: &[u8]) {
        let len = u32::try_from(data.len()).unwrap();
        self.stream.write_all(&[4, 0]).await.unwrap();
        self.stream.write_all(&(len + 6).to_be_bytes()).await.unwrap();
        self.stream.write_all(&(len + 2).to_be_bytes()).await.unwrap();
        self.stream.write_all(&[context, control]).await.unwrap();
        self.stream.write_all(data).await.unwrap();
    }

    async fn command(&mut self, context: u8, command: &Command) {
        self.fragment(context, 3, &command.to_bytes()).await;
    }

    async fn begin_store(&mut self, instance: &str) {
        self.command(3, &store(instance)).await;
    }

    async fn answer(&mut self) -> (u16, u16) {
        let Pdu::PData { data } = self.receive().await else { panic!("not data") };
        let command = Command::parse(&data[0].data).unwrap();
        (command.field, command.status.unwrap())
    }

    /// Ends the connection from our side, and waits until it is served to its end.
    async fn close(mut self) {
        drop(self.stream);
        self.served.join_next().await.unwrap().unwrap();
    }
}

fn store(instance: &str) -> Command {
    Command {
        field: field::C_STORE_RQ,
        message_id: Some(1),
        data_set: true,
        sop_class: Some(CT.into()),
        sop_instance: Some(instance.into()),
        ..Command::default()
    }
}

fn closed(recorder: &Recorder) -> Vec<Event> {
    recorder.events().into_iter().skip(1).collect()
}

#[tokio::test(start_paused = true)]
async fn fragments_are_passed_on_and_answered_once_finished() {
    let recorder = Recorder::new(Script::default());
    let mut client = connect(&recorder, |_| {});
    client.associate().await;
    let echo = Command { field: field::C_ECHO_RQ, message_id: Some(9), ..Command::default() };
    client.command(1, &echo).await;
    assert_eq!(client.answer().await, (field::C_ECHO_RSP, 0));
    client.begin_store("1.2.3.4").await;
    client.fragment(3, 0, &[1; 1000]).await;
    client.fragment(3, 0, &[]).await;
    client.fragment(3, 2, &[2; 24]).await;
    assert_eq!(client.answer().await, (field::C_STORE_RSP, 0));
    client.send(Pdu::ReleaseRQ).await;
    assert_eq!(client.receive().await, Pdu::ReleaseRP);
    client.close().await;
    assert_eq!(
        recorder.events(),
        [
            Event::Admitted("CT-1 ARCHIVE".into()),
            Event::Store("1.2.3.4".into(), EXPLICIT.into()),
            Event::Finished(1024),
            Event::Closed(Closed::Released)
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_command_may_come_in_pieces() {
    let recorder = Recorder::new(Script::default());
    let mut client = connect(&recorder, |_| {});
    client.associate().await;
    let bytes = store("1.2.3.4").to_bytes();
    client.fragment(3, 1, &bytes[..7]).await;
    client.fragment(3, 3, &bytes[7..]).await;
    client.fragment(3, 2, &[0; 8]).await;
    assert_eq!(client.answer().await, (field::C_STORE_RSP, 0));
}

#[tokio::test(start_paused = true)]
async fn rejections_say_why_and_reach_the_peer() {
    let recorder = Recorder::new(Script::default());
    let rejected = |calling: &'static str, called: &'static str, change: fn(&mut Config), script| {
        let recorder = Recorder::new(script);
        async move { connect(&recorder, change).rejection(request(calling, called)).await }
    };
    let none = Script::default();
    let unknown = Script { reject: Some(Rejection::UnknownCallingAe), ..none };
    let congested = Script { reject: Some(Rejection::TemporaryCongestion), ..none };
    assert_eq!(rejected("CT-1", "OTHER", |_| {}, none).await, [1, 1, 7]);
    assert_eq!(rejected("CT\\1", "ARCHIVE", |_| {}, none).await, [1, 1, 3]);
    assert_eq!(rejected("CT-1", "ARCHIVE", |_| {}, unknown).await, [1, 1, 3]);
    assert_eq!(rejected("CT-1", "ARCHIVE", |_| {}, congested).await, [2, 3, 1]);
    assert_eq!(rejected("CT-1", "ARCHIVE", |c| c.max_associations = 0, none).await, [2, 3, 2]);

    let mut draining = connect(&recorder, |_| {});
    draining.drain.cancel();
    assert_eq!(draining.rejection(request("CT-1", "ARCHIVE")).await, [2, 3, 1]);
    let mut other_context = request("CT-1", "ARCHIVE");
    other_context.application_context_name = "1.2.3".into();
    assert_eq!(connect(&recorder, |_| {}).rejection(other_context).await, [1, 1, 2]);
    let mut other_version = request("CT-1", "ARCHIVE");
    other_version.protocol_version = 2;
    assert_eq!(connect(&recorder, |_| {}).rejection(other_version).await, [1, 2, 2]);
    assert_eq!(recorder.events(), []);
}

#[tokio::test(start_paused = true)]
async fn other_operations_are_answered_as_unrecognized_and_the_association_goes_on() {
    let recorder = Recorder::new(Script::default());
    let mut client = connect(&recorder, |_| {});
    client.associate().await;
    let find = Command { field: 0x0020, message_id: Some(4), data_set: true, ..Command::default() };
    client.command(3, &find).await;
    client.fragment(3, 2, &[0; 16]).await;
    assert_eq!(client.answer().await, (0x8020, UNRECOGNIZED_OPERATION));
    client.begin_store("1.2.3.4").await;
    client.fragment(3, 2, &[0; 16]).await;
    assert_eq!(client.answer().await, (field::C_STORE_RSP, 0));
}

#[tokio::test(start_paused = true)]
async fn a_refused_object_is_read_to_its_end_and_the_next_is_stored() {
    let full = StoreStatus::out_of_resources("the spool is full");
    let recorder = Recorder::new(Script { full_at: Some((1500, full)), ..Script::default() });
    let mut client = connect(&recorder, |_| {});
    client.associate().await;
    client.begin_store("1.2.3.4").await;
    for control in [0, 0, 0, 2] {
        client.fragment(3, control, &[1; 1000]).await;
    }
    assert_eq!(client.answer().await, (field::C_STORE_RSP, 0xA700));
    client.begin_store("1.2.3.5").await;
    client.fragment(3, 2, &[1; 1000]).await;
    assert_eq!(client.answer().await, (field::C_STORE_RSP, 0));
    assert_eq!(closed(&recorder)[1], Event::Abandoned(1000));

    let refused = Script { refuse_store: Some(StoreStatus::cannot_understand("no")), ..Script::default() };
    let mut client = connect(&Recorder::new(refused), |_| {});
    client.associate().await;
    client.begin_store("1.2.3.4").await;
    client.fragment(3, 2, &[1; 1000]).await;
    assert_eq!(client.answer().await, (field::C_STORE_RSP, 0xC000));
}

#[tokio::test(start_paused = true)]
async fn identifiers_that_are_no_uids_never_reach_the_service() {
    let recorder = Recorder::new(Script::default());
    let mut client = connect(&recorder, |_| {});
    client.associate().await;
    client.begin_store("../../etc/passwd").await;
    client.fragment(3, 2, &[0; 16]).await;
    let Pdu::PData { data } = client.receive().await else { panic!("not data") };
    let answer = Command::parse(&data[0].data).unwrap();
    assert_eq!((answer.status, answer.sop_instance), (Some(0xC000), None));
    assert_eq!(closed(&recorder), []);
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_and_an_abort_abandon_the_object() {
    for abort in [false, true] {
        let recorder = Recorder::new(Script::default());
        let mut client = connect(&recorder, |_| {});
        client.associate().await;
        client.begin_store("1.2.3.4").await;
        client.fragment(3, 0, &[1; 500]).await;
        if abort {
            client.stream.write_all(&[7, 0, 0, 0, 0, 4, 0, 0, 0, 0]).await.unwrap();
        }
        client.close().await;
        assert_eq!(closed(&recorder)[1..], [Event::Abandoned(500), Event::Closed(Closed::Aborted)]);
    }
}

#[tokio::test(start_paused = true)]
async fn what_breaks_the_protocol_is_aborted_with_the_reason() {
    // Bytes sent within an object, and the A-ABORT's reason.
    let mut oversized = vec![4, 0];
    oversized.extend_from_slice(&(128 * 1024 + 1u32).to_be_bytes());
    let cases: [(&[u8], u8); 6] = [
        (&oversized, 6),
        (b"GET / HTTP/1.1\r\n\r\n", 6),
        (&[9, 0, 0, 0, 0, 0], 1),
        (&[6, 0, 0, 0, 0, 4, 0, 0, 0, 0], 2),
        // Released within a message.
        (&[5, 0, 0, 0, 0, 4, 0, 0, 0, 0], 2),
        // A command within a data set.
        (&[4, 0, 0, 0, 0, 6, 0, 0, 0, 2, 3, 3], 5),
    ];
    for (bytes, reason) in cases {
        let recorder = Recorder::new(Script::default());
        let mut client = connect(&recorder, |_| {});
        client.associate().await;
        client.begin_store("1.2.3.4").await;
        client.fragment(3, 0, &[1; 500]).await;
        client.stream.write_all(bytes).await.unwrap();
        assert_eq!(client.rest().await, [7, 0, 0, 0, 0, 4, 0, 0, 2, reason], "{bytes:?}");
        client.close().await;
        assert_eq!(closed(&recorder)[1..], [Event::Abandoned(500), Event::Closed(Closed::Failed)]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_command_without_end_is_aborted() {
    let recorder = Recorder::new(Script::default());
    let mut client = connect(&recorder, |_| {});
    client.associate().await;
    client.fragment(3, 1, &[0; 60_000]).await;
    client.fragment(3, 1, &[0; 60_000]).await;
    assert_eq!(client.rest().await, [7, 0, 0, 0, 0, 4, 0, 0, 2, 6]);
    client.close().await;
    assert_eq!(closed(&recorder), [Event::Closed(Closed::Failed)]);
}

#[tokio::test(start_paused = true)]
async fn a_fragment_on_a_context_that_was_refused_is_aborted() {
    let recorder = Recorder::new(Script::default());
    let mut client = connect(&recorder, |_| {});
    client.associate().await;
    client.command(5, &store("1.2.3.4")).await;
    assert_eq!(client.rest().await, [7, 0, 0, 0, 0, 4, 0, 0, 2, 6]);
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_let_go_at_the_artim_bound() {
    let recorder = Recorder::new(Script::default());
    let mut client = connect(&recorder, |_| {});
    // One byte short of a header, so that the bound is on the request and not on its first byte.
    client.stream.write_all(&[1, 0, 0, 0, 0]).await.unwrap();
    let before = tokio::time::timeout(Duration::from_secs(29), client.rest()).await;
    assert!(before.is_err(), "closed before the bound");
    assert_eq!(client.rest().await, b"", "a word was said");
    client.close().await;
    assert_eq!(recorder.events(), []);
}

#[tokio::test(start_paused = true)]
async fn an_idle_association_is_aborted_and_a_slow_one_is_not() {
    let recorder = Recorder::new(Script::default());
    let mut client = connect(&recorder, |_| {});
    client.associate().await;
    client.begin_store("1.2.3.4").await;
    for _ in 0..5 {
        // Virtual: time jumps there once the server, too, has nothing left to do.
        tokio::time::sleep(Duration::from_secs(55)).await;
        client.fragment(3, 0, &[1; 10]).await;
    }
    assert_eq!(client.rest().await, [7, 0, 0, 0, 0, 4, 0, 0, 2, 0]);
    client.close().await;
    assert_eq!(closed(&recorder)[1..], [Event::Abandoned(50), Event::Closed(Closed::TimedOut)]);
}

#[tokio::test(start_paused = true)]
async fn stopping_aborts_even_within_a_call_that_never_ends() {
    let recorder = Recorder::new(Script { stuck: true, ..Script::default() });
    let mut client = connect(&recorder, |_| {});
    client.associate().await;
    client.begin_store("1.2.3.4").await;
    client.fragment(3, 2, &[1; 10]).await;
    recorder.wait_for(Event::Store("1.2.3.4".into(), EXPLICIT.into())).await;
    client.stop.cancel();
    assert_eq!(client.rest().await, [7, 0, 0, 0, 0, 4, 0, 0, 0, 0]);
    client.close().await;
    assert_eq!(closed(&recorder)[1..], [Event::Closed(Closed::Aborted)]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever a peer sends, before or after it associated: the connection ends, and an admitted association is
    /// closed exactly once, last.
    #[test]
    fn any_bytes_end_in_one_close(
        associated in any::<bool>(),
        pieces in proptest::collection::vec((0u8..9, proptest::collection::vec(any::<u8>(), 0..64)), 1..6),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let recorder = Recorder::new(Script::default());
        runtime.block_on(async {
            let mut client = connect(&recorder, |_| {});
            if associated {
                client.associate().await;
            }
            for (kind, body) in pieces {
                let len = u32::try_from(body.len()).unwrap();
                let head = [&[kind, 0][..], &len.to_be_bytes()].concat();
                // The peer may be gone already; that is the point.
                if client.stream.write_all(&[head, body].concat()).await.is_err() {
                    break;
                }
            }
            client.close().await;
        });
        let events = recorder.events();
        let closes = events.iter().filter(|e| matches!(e, Event::Closed(_))).count();
        prop_assert_eq!(closes, usize::from(associated));
        prop_assert!(!associated || matches!(events.last(), Some(Event::Closed(_))));
    }
}
