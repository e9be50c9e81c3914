//! Fixed bytes of page server feedback.

use super::*;

#[test]
fn feedback_has_fixed_bytes() {
    let five = "63757272656e745f74696d656c696e655f73697a650000000008000000000000303970735f77726974656c736e0000000008000000000169607870735f666c7573686c736e0000000008000000000169607070735f6170706c796c736e00000000080000000001493ab870735f7265706c7974696d650000000008fffffffffffffffe";
    let seven = PageserverFeedback { shard_number: 3, corruption_detected: true, ..feedback() };
    let more = "73686172645f6e756d626572000000000400000003636f7272757074696f6e5f6465746563746564000000000101";
    for (feedback, hex) in [(feedback(), format!("05{five}")), (seven, format!("07{five}{more}"))] {
        let mut out = BytesMut::new();
        encode_feedback(&feedback, &mut out);
        assert_eq!(hex::encode(&out), hex);
        assert_eq!(decode_feedback(out.freeze()), Ok(feedback));
        let response = AppendResponse { pageserver: Some(feedback), ..append_response() };
        let v2 = "6100000000000000030000000000000078606901000000007060690100000000000000000000000000000000000000000000000000000000";
        acceptor(V2, AcceptorMessage::Append(response.clone()), &format!("{v2}{hex}"));
        let v3 = "6100000000000000000000000300000000016960780000000001696070000000000000000000000000000000000000000000000000";
        acceptor(V3, AcceptorMessage::Append(response), &format!("{v3}{hex}"));
    }
}

/// Feedback is read under the other names of its keys, and unknown keys are skipped.
#[test]
fn decode_feedback_knows_aliases_and_skips_unknown_keys() {
    let hex = "066c6173745f72656365697665645f6c736e000000000800000000016960786272616e645f6e6577000000000378797a6469736b5f636f6e73697374656e745f6c736e0000000008000000000169607072656d6f74655f636f6e73697374656e745f6c736e00000000080000000001493ab8656d70747900000000007265706c7974696d650000000008fffffffffffffffe";
    let bytes = Bytes::from(hex::decode(hex).unwrap());
    assert_eq!(decode_feedback(bytes), Ok(PageserverFeedback { current_timeline_size: 0, ..feedback() }));
}
