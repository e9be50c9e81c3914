//! Round trips of random messages: each is equal after encoding and decoding, and no bytes make a decoder panic.

#![expect(clippy::unwrap_used, reason = "a panic is how a test reports")]

mod messages;

use bytes::{Bytes, BytesMut};
use pq_proto::replication::{FromPrimary, FromStandby};
use pq_proto::{BackendMessage, Encode, Frame, FrontendMessage, StartupPacket, authentication, startup};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::messages::{backend, from_primary, from_standby, frontend, startup_packet, words};

/// The frame of an encoded message; checks that the length word is right.
fn framed(message: &impl Encode) -> Frame {
    let mut out = BytesMut::new();
    message.encode(&mut out).unwrap();
    let wire = out.freeze();
    assert_eq!(wire[1..5], (wire.len() as i32 - 1).to_be_bytes());
    Frame { tag: wire[0], body: wire.slice(5..) }
}

/// Any body behind a type byte that exists in one direction at least.
fn any_frame() -> impl Strategy<Value = Frame> {
    let tag =
        prop_oneof![proptest::sample::select(&b"QPBDECHSXpdcfFRSKZTDCIEN123ntsGHWdcvAV"[..]), any::<u8>(),];
    let body = prop_oneof![
        vec(any::<u8>(), 0..60),
        // Mostly small numbers: counts and lengths that nearly fit.
        vec(prop_oneof![4 => Just(0u8), 3 => 0u8..6, 1 => any::<u8>()], 0..60),
    ];
    (tag, body).prop_map(|(tag, body)| Frame { tag, body: body.into() })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn frontend_message_round_trips(message in frontend()) {
        prop_assert_eq!(FrontendMessage::decode(framed(&message)), Ok(message));
    }

    #[test]
    fn backend_message_round_trips(message in backend()) {
        prop_assert_eq!(BackendMessage::decode(framed(&message)), Ok(message));
    }

    #[test]
    fn startup_packet_round_trips(packet in startup_packet()) {
        let mut out = BytesMut::new();
        packet.encode(&mut out).unwrap();
        prop_assert_eq!(&out[..4], (out.len() as i32).to_be_bytes());
        prop_assert_eq!(StartupPacket::decode(out.freeze().slice(4..)), Ok(packet));
    }

    #[test]
    fn replication_payload_round_trips(primary in from_primary(), standby in from_standby()) {
        let mut out = BytesMut::new();
        primary.encode(&mut out);
        prop_assert_eq!(FromPrimary::decode(out.split().freeze()), Ok(primary));
        standby.encode(&mut out);
        prop_assert_eq!(FromStandby::decode(out.freeze()), Ok(standby));
    }

    #[test]
    fn truncated_message_never_panics(message in backend(), other in frontend(), cut in any::<prop::sample::Index>()) {
        for mut frame in [framed(&message), framed(&other)] {
            frame.body.truncate(cut.index(frame.body.len() + 1));
            let _ = BackendMessage::decode(frame.clone());
            let _ = FrontendMessage::decode(frame);
        }
    }

    #[test]
    fn decoded_message_survives_encoding_again(frame in any_frame()) {
        if let Ok(message) = FrontendMessage::decode(frame.clone()) {
            prop_assert_eq!(FrontendMessage::decode(framed(&message)), Ok(message));
        }
        if let Ok(message) = BackendMessage::decode(frame) {
            prop_assert_eq!(BackendMessage::decode(framed(&message)), Ok(message));
        }
    }

    #[test]
    fn other_decoders_never_panic(
        code in prop_oneof![
            Just(4 << 24 | 0xd2_162e), Just(3u32 << 16), any::<u32>()
        ],
        rest in vec(prop_oneof![Just(0u8), any::<u8>()], 0..400),
        options in words(),
    ) {
        let bytes = Bytes::from([&code.to_be_bytes()[..], &rest].concat());
        let _ = StartupPacket::decode(bytes.clone());
        let _ = FromPrimary::decode(bytes.clone());
        let _ = FromStandby::decode(bytes.clone());
        let _ = authentication::SaslInitialResponse::decode(bytes.clone());
        let _ = authentication::decode_password(bytes);
        let _ = startup::option_words(&options);
    }
}
