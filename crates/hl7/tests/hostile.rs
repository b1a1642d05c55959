//! Bytes from anywhere: nothing panics, nothing grows, and how the bytes are cut changes nothing.

use bytes::{Bytes, BytesMut};
use isocenter_hl7::{
    ack::{Verdict, parse_ack},
    mllp::Codec,
    parse_message,
    text::{Delimiters, unescape},
};
use proptest::prelude::*;
use tokio_util::codec::Decoder;

/// Bytes that often look like HL7.
fn hl7_like() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"MSH|^~\\&|".to_vec()),
        Just(b"MSH".to_vec()),
        Just(b"MSA|AA|1".to_vec()),
        Just(b"ERR|||207|E".to_vec()),
        Just(b"\r".to_vec()),
        Just(b"\r\n".to_vec()),
        Just(b"\\X".to_vec()),
        Just("ж\\".as_bytes().to_vec()),
        proptest::collection::vec(any::<u8>(), 0..12),
        "[|^~\\\\&.A-Z0-9]{0,12}".prop_map(String::into_bytes),
    ];
    (any::<bool>(), proptest::collection::vec(piece, 0..24)).prop_map(|(headed, pieces)| {
        let mut all = if headed { b"MSH|^~\\&|".to_vec() } else { Vec::new() };
        all.extend(pieces.concat());
        all
    })
}

/// What a stream reads as: its messages, and how it ended.
fn decoded(limit: usize, stream: &[u8], piece: usize) -> (Vec<Bytes>, Option<String>) {
    let mut codec = Codec::new(limit);
    let mut buffer = BytesMut::new();
    let mut messages = Vec::new();
    for chunk in stream.chunks(piece.max(1)) {
        buffer.extend_from_slice(chunk);
        loop {
            match codec.decode(&mut buffer) {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(e) => return (messages, Some(e.to_string())),
            }
        }
        assert!(buffer.len() <= limit + 1 + piece, "the buffer holds more than a frame");
    }
    match codec.decode_eof(&mut buffer) {
        Ok(_) => (messages, None),
        Err(e) => (messages, Some(e.to_string())),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn no_bytes_make_a_reader_panic(bytes in hl7_like(), nth in 0_usize..3, at in 0_usize..9) {
        if let Ok(ack) = parse_ack(&bytes) {
            let _verdict = Verdict::of_ack(&ack);
        }
        if let Ok(message) = parse_message(&bytes) {
            let names: Vec<String> = message.segment_names().map(str::to_owned).collect();
            prop_assert_eq!(names.first().map(String::as_str), Some("MSH"));
            for name in names {
                let _component = message.component(&name, nth, at, at);
                let _repetitions = message.repetitions(&name, nth, at);
            }
        }
        let _text = unescape(&String::from_utf8_lossy(&bytes), Delimiters::STANDARD);
    }

    #[test]
    fn how_a_stream_is_cut_does_not_change_what_it_says(
        stream in proptest::collection::vec(
            prop_oneof![Just(0x0b_u8), Just(0x1c), Just(0x0d), Just(b'a'), any::<u8>()], 0..200),
        limit in 0_usize..24,
        piece in 1_usize..32,
    ) {
        prop_assert_eq!(decoded(limit, &stream, piece), decoded(limit, &stream, 1));
    }

    #[test]
    fn every_stream_of_frames_is_read_whole(
        messages in proptest::collection::vec("[ -~\r\u{80}-\u{2ff}]{0,40}", 0..6),
        between in "[ \r\n]{0,3}",
        piece in 1_usize..64,
    ) {
        let mut stream = BytesMut::new();
        let mut codec = Codec::new(4096);
        for message in &messages {
            stream.extend_from_slice(between.as_bytes());
            tokio_util::codec::Encoder::encode(&mut codec, message.as_str(), &mut stream).unwrap();
        }
        let (read, error) = decoded(4096, &stream, piece);
        prop_assert_eq!(error, None);
        prop_assert_eq!(read, messages);
    }
}
