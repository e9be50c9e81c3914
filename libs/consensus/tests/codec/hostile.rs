//! Hostile frames: bytes that no correct peer sends, each with the error that decoding returns.

use bytes::{BufMut, Bytes, BytesMut};
use consensus::ProtocolVersion::{Holdfast2, V2, V3};
use consensus::codec::{CodecError, decode_acceptor, decode_feedback, decode_proposer};
use consensus::term_history::{
    HistoryOutOfOrder, NEON_HISTORY_ENTRIES_MAX, TERM_HISTORY_ENTRIES_MAX, TLI_SWITCHES_MAX,
};
use consensus::{InvalidConfiguration, ProtocolVersion};
use wal_types::{Generation, Lsn, NodeId, ReplicaId};

const TENANT: &str = "cf0480929707ee75372337efaa5ecf96";

/// Bytes put together field by field, big-endian unless the name says otherwise.
#[derive(Default)]
struct Wire(BytesMut);

impl Wire {
    fn u8(mut self, value: u8) -> Self {
        self.0.put_u8(value);
        self
    }

    fn u16(mut self, value: u16) -> Self {
        self.0.put_u16(value);
        self
    }

    fn u32(mut self, value: u32) -> Self {
        self.0.put_u32(value);
        self
    }

    fn u64s(mut self, values: &[u64]) -> Self {
        values.iter().for_each(|&value| self.0.put_u64(value));
        self
    }

    fn u32_le(mut self, value: u32) -> Self {
        self.0.put_u32_le(value);
        self
    }

    fn u64s_le(mut self, values: &[u64]) -> Self {
        values.iter().for_each(|&value| self.0.put_u64_le(value));
        self
    }

    fn text(mut self, text: impl AsRef<[u8]>) -> Self {
        self.0.put_slice(text.as_ref());
        self.u8(0)
    }

    fn zeros(mut self, count: usize) -> Self {
        self.0.put_bytes(0, count);
        self
    }

    fn done(self) -> Bytes {
        self.0.freeze()
    }
}

fn wire(tag: u8) -> Wire {
    Wire::default().u8(tag)
}

fn wire_v2(tag: u8) -> Wire {
    Wire::default().u64s_le(&[tag.into()])
}

#[track_caller]
fn refused_proposer(version: ProtocolVersion, bytes: Wire, error: CodecError) {
    assert_eq!(decode_proposer(version, bytes.done()), Err(error));
}

#[track_caller]
fn refused_acceptor(version: ProtocolVersion, bytes: Wire, error: CodecError) {
    assert_eq!(decode_acceptor(version, bytes.done()), Err(error));
}

/// A tag of another version or direction is refused.
#[test]
fn foreign_tags_are_unknown() {
    for (version, proposer, acceptor) in
        [(V2, "gvea", "gva"), (V3, "gvea", "gva"), (Holdfast2, "gpveacmtw", "gpvacmtw")]
    {
        for tag in 0..=u8::MAX {
            let bytes = Bytes::from(vec![tag; 100]);
            let unknown = Some(CodecError::UnknownTag { tag, version });
            let known = |tags: &str| tags.as_bytes().contains(&tag);
            let error = decode_proposer(version, bytes.clone()).err();
            assert_eq!(error == unknown, !known(proposer), "{tag} of a proposer in {version:?}: {error:?}");
            let error = decode_acceptor(version, bytes).err();
            assert_eq!(error == unknown, !known(acceptor), "{tag} of an acceptor in {version:?}: {error:?}");
        }
    }
}

#[test]
fn empty_frame_is_too_short() {
    for (version, needed) in [(V2, 8), (V3, 1), (Holdfast2, 1)] {
        let error = CodecError::Short { needed, left: 0 };
        assert_eq!(decode_proposer(version, Bytes::new()), Err(error.clone()));
        assert_eq!(decode_acceptor(version, Bytes::new()), Err(error));
    }
}

/// The upper bytes of a version 2 tag are not looked at by either public side.
#[test]
fn v2_tag_counts_its_lowest_byte_only() {
    let vote = |tag| decode_proposer(V2, Wire::default().u64s_le(&[tag, 3]).zeros(16).done());
    assert!(vote(b'v'.into()).is_ok());
    assert_eq!(vote(!0xff | u64::from(b'v')), vote(b'v'.into()));
}

#[test]
fn v2_greeting_must_name_version_2() {
    refused_proposer(V2, wire_v2(b'g').u32_le(3).zeros(68), CodecError::GreetingVersion(3));
}

#[test]
fn v3_identifiers_are_32_digits() {
    let bad = |id: &[u8]| wire(b'g').text(id).text(TENANT).zeros(28);
    let uneven = [&TENANT.as_bytes()[..31], b"g"].concat();
    for id in [b"".as_slice(), &TENANT.as_bytes()[..31], &uneven, &[0xff; 32], &[b'a'; 33], &[b'a'; 3000]] {
        refused_proposer(V3, bad(id), CodecError::Text("tenant id"));
    }
    refused_proposer(V3, wire(b'g').text(TENANT).text("x").zeros(48), CodecError::Text("timeline id"));
}

#[test]
fn decode_refuses_long_or_unordered_histories() {
    let (max, neon_max) = (TERM_HISTORY_ENTRIES_MAX, NEON_HISTORY_ENTRIES_MAX);
    let too_many = |count, max| CodecError::TooMany { what: "history entries", count, max };
    let elected = || wire(b'e').u32(0).u64s(&[3, 8]);
    // Copy and re-base come before the history.
    let own = || elected().zeros(24);
    let elected_v2 = || wire_v2(b'e').u64s_le(&[3, 8]);
    let short = |needed, left| CodecError::Short { needed, left };
    for count in [neon_max as u32 + 1, u32::MAX] {
        refused_proposer(V2, elected_v2().u32_le(count).zeros(100), too_many(count, neon_max));
        refused_proposer(V3, elected().u32(count).zeros(100), too_many(count, neon_max));
    }
    for count in [max as u32 + 1, u32::MAX] {
        refused_proposer(Holdfast2, own().u32(count).zeros(100), too_many(count, max));
    }
    refused_proposer(V2, elected_v2().u32_le(neon_max as u32).zeros(100), short(neon_max * 16, 100));
    refused_proposer(V3, elected().u32(neon_max as u32).zeros(100), short(neon_max * 16, 100));
    refused_proposer(Holdfast2, own().u32(max as u32).zeros(100), short(max * 20, 100));

    let fallen = CodecError::History(HistoryOutOfOrder(1));
    refused_proposer(V2, elected_v2().u32_le(2).u64s_le(&[2, 8, 1, 9, 8]), fallen.clone());
    refused_proposer(V3, elected().u32(2).u64s(&[1, 9, 2, 8]), fallen.clone());
    let own = own().u32(2).u64s(&[1, 8]).u32(1).u64s(&[1, 8]).u32(1).u32(0);
    refused_proposer(Holdfast2, own, fallen.clone());
    let vote = wire(b'v').u32(0).u64s(&[3]).u8(1).u64s(&[8, 8]).u32(2).u64s(&[1, 9, 2, 8]);
    refused_acceptor(V3, vote, fallen);
}

#[test]
fn decode_refuses_too_many_timeline_switches() {
    let elected = |count| wire(b'e').u32(0).u64s(&[3, 8]).zeros(24).u32(0).u32(count).zeros(15);
    let max = TLI_SWITCHES_MAX;
    let too_many = CodecError::TooMany { what: "timeline switches", count: max as u32 + 1, max };
    refused_proposer(Holdfast2, elected(max as u32 + 1), too_many);
    refused_proposer(Holdfast2, elected(1), CodecError::Short { needed: 16, left: 15 });
}

/// A configuration that no node may hold is refused: without members, with too many, with one twice.
#[test]
fn decode_refuses_an_invalid_configuration() {
    let invalid = CodecError::Configuration;
    let greeting = |generation| wire(b'g').u64s(&[1]).u32(generation);
    let member = |wire: Wire, id| wire.u64s(&[id]).text("sk").u16(5454);
    let too_many = |count| CodecError::TooMany { what: "members", count, max: 31 };

    refused_acceptor(V3, greeting(7).zeros(16), invalid(InvalidConfiguration::Empty(Generation(7))));
    refused_acceptor(V3, greeting(7).u32(32).zeros(1000), too_many(32));
    refused_acceptor(V3, greeting(7).u32(u32::MAX).zeros(1000), too_many(u32::MAX));
    // Node, copy, birth and two terms come before the own configuration.
    let own = |generation| wire(b'g').u64s(&[1]).zeros(16 + 33 + 16).u32(generation);
    refused_acceptor(Holdfast2, own(0).u8(0).u8(32).zeros(1000), too_many(32));
    let needed = 31 * 11;
    refused_acceptor(V3, greeting(7).u32(31).zeros(100), CodecError::Short { needed, left: 100 });
    let twice = member(member(greeting(7).u32(2), 5), 5).zeros(12);
    refused_acceptor(V3, twice, invalid(InvalidConfiguration::Duplicate(NodeId(5))));
    let own_member = |wire: Wire, id, copy| wire.u64s(&[id]).zeros(15).u8(copy).u16(5454).u16(0);
    let twice = own_member(own_member(own(7).u8(2), 6, 1), 6, 1).u8(0).u16(0);
    refused_acceptor(Holdfast2, twice, invalid(InvalidConfiguration::Duplicate(NodeId(6))));
    let one_copy = own_member(own_member(own(7).u8(2), 6, 1), 7, 1).u8(0).u16(0);
    let mut copy = ReplicaId::default();
    copy.0[15] = 1;
    refused_acceptor(Holdfast2, one_copy, invalid(InvalidConfiguration::TwoNumbers(copy)));
    let twice = wire(b'g').text(TENANT).text(TENANT).u32(7).u32(2);
    let twice = member(member(twice, 5), 5).zeros(20);
    refused_proposer(V3, twice, invalid(InvalidConfiguration::Duplicate(NodeId(5))));
}

#[test]
fn decode_refuses_an_overlong_or_binary_host() {
    for host in [vec![b'h'; 256], vec![b'h'; 100_000], vec![0xff, 0xfe]] {
        let greeting = wire(b'g').u64s(&[1]).u32(7).u32(1).u64s(&[1]).text(host).zeros(100);
        refused_acceptor(V3, greeting, CodecError::Text("host"));
    }
    let mut unterminated = wire(b'g').u64s(&[1]).u32(7).u32(1).u64s(&[1]);
    unterminated.0.put_bytes(b'h', 100);
    refused_acceptor(V3, unterminated, CodecError::Text("host"));
}

#[test]
fn append_carries_exactly_what_it_announces() {
    let append = |begin, end, carried| {
        let v2 = wire_v2(b'a').u64s_le(&[3, 0, begin, end, 8, 8]).zeros(16 + carried);
        let v3 = || wire(b'a').u32(0).u64s(&[3, begin, end, 8, 8]).zeros(carried);
        [(V2, v2), (V3, v3()), (Holdfast2, v3())]
    };

    let length = |announced, carried| CodecError::AppendLength { announced, carried };
    let table = [
        (16, 8, 0, CodecError::Range { from: Lsn(16), to: Lsn(8) }),
        (u64::MAX, 0, 0, CodecError::Range { from: Lsn::MAX, to: Lsn(0) }),
        (0, u64::MAX, 0, CodecError::AppendTooLong(u64::MAX)),
        (8, 8 + 131_073, 0, CodecError::AppendTooLong(131_073)),
        (8, 8 + 131_072, 100, length(131_072, 100)),
        (8, 16, 7, length(8, 7)),
        (8, 16, 9, length(8, 9)),
        (8, 8, 1, length(0, 1)),
    ];

    for (begin, end, carried, error) in table {
        for (version, bytes) in append(begin, end, carried) {
            refused_proposer(version, bytes, error.clone());
        }
    }
}

/// A range that ends before it begins is refused.
#[test]
fn decode_refuses_a_reversed_checksum_range() {
    let request = wire(b'c').u32(0).u64s(&[3, 16, 8]);
    refused_proposer(Holdfast2, request, CodecError::Range { from: Lsn(16), to: Lsn(8) });
}

/// A yes is 1 and a no is 0; a vote is not guessed from any other value.
#[test]
fn flags_are_0_or_1() {
    let flag = |what, value| CodecError::Flag { what, value };
    let vote_v2 = wire_v2(b'v').u64s_le(&[3, 256, 8, 8]).zeros(12);
    refused_acceptor(V2, vote_v2, flag("vote given", 256));
    for version in [V3, Holdfast2] {
        let vote = wire(b'v').u32(0).u64s(&[3]).u8(2).zeros(100);
        refused_acceptor(version, vote, flag("vote given", 2));
    }
    refused_acceptor(Holdfast2, wire(b'c').u64s(&[8, 16]).u8(255).u32(0), flag("checksum present", 255));
}

#[test]
fn decode_feedback_refuses_impossible_lengths() {
    let one = |key: &str, length: i32, carried| {
        let bytes = Wire::default().u8(1).text(key).u32(length as u32).zeros(carried).done();
        // The tail of an append response is read by the same rules.
        let response = Wire::default().u8(b'a').zeros(52).done();
        let response = decode_acceptor(V3, [response, bytes.clone()].concat().into());
        let error = decode_feedback(bytes).unwrap_err();
        assert_eq!(response, Err(error.clone()));
        error
    };
    let value = CodecError::FeedbackValue;
    for key in ["current_timeline_size", "ps_writelsn", "disk_consistent_lsn", "ps_applylsn", "replytime"] {
        assert_eq!(one(key, 7, 7), value(7));
        assert_eq!(one(key, 9, 9), value(9));
    }
    assert_eq!(one("shard_number", 8, 8), value(8));
    assert_eq!(one("corruption_detected", 0, 0), value(0));
    assert_eq!(one("unheard_of", -1, 8), value(-1));
    assert_eq!(one("unheard_of", i32::MIN, 8), value(i32::MIN.into()));
    assert_eq!(one("unheard_of", 9, 8), CodecError::Short { needed: 9, left: 8 });
    assert_eq!(one("unheard_of", i32::MAX, 0), CodecError::Short { needed: i32::MAX as usize, left: 0 });

    let key = "key of page server feedback";
    assert_eq!(decode_feedback(Bytes::from_static(b"\x01unterminated")), Err(CodecError::Text(key)));
    assert_eq!(decode_feedback(Bytes::from_static(b"\xff")), Err(CodecError::Text(key)));
    assert_eq!(decode_feedback(Bytes::new()), Err(CodecError::Short { needed: 1, left: 0 }));
}
