//! Fixed bytes of every message, computed field by field from the layouts, without the codec.

use bytes::{Bytes, BytesMut};
use consensus::ProtocolVersion::{Holdfast1, V2, V3};
use consensus::codec::{decode_feedback, encode_feedback, parse_version, version_name};
use consensus::{
    AcceptorGreeting, AcceptorMessage, AppendRequest, AppendResponse, ChecksumRequest, ChecksumResponse,
    Configuration, ConfigureRequest, ConfigureResponse, HotStandbyFeedback, Member, PageserverFeedback,
    PreVoteRequest, PreVoteResponse, ProposerElected, ProposerGreeting, ProposerMessage, ProtocolVersion,
    TermHistory, TermStart, TliSwitch, VoteRequest, VoteResponse,
};
use wal_types::{Generation, Lsn, NodeId, PrimaryId, ProposerId, SystemId, TenantTimelineId, Term, Tli};

use crate::{Message, VERSIONS, check};

const LOG_START: Lsn = Lsn(0x149_3ab8);
const TERM_START: Lsn = Lsn(0x169_6070);
const LOG_END: Lsn = Lsn(0x169_6078);

/// Members in both lists of a configuration.
const CONFIGURATION: &str = concat!(
    "00000007000000020000000000000001736b312e6578616d706c6500154e",
    "00000000000000023a3a3100ffff000000010000000000000003736b33000001",
);
const OWN_HISTORY: &str =
    "0000000200000000000000010000000001493ab8000000010000000000000003000000000169607000000002";
const OWN_SWITCHES: &str = "0000000100000001000000020000000001696070";
/// Designated primary `b0b0...`, or none.
const PRIMARY: &str = "01b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0";
const NO_PRIMARY: &str = "0000000000000000000000000000000000";
const CAMPAIGN: &str = "a0a1a2a3a4a5a6a7a8a9aaabacadaeaf";

fn proposer(version: ProtocolVersion, message: ProposerMessage, hex: &str) {
    check(version, Message::Proposer(message), hex);
}

fn acceptor(version: ProtocolVersion, message: AcceptorMessage, hex: &str) {
    check(version, Message::Acceptor(message), hex);
}

fn greeting(version: ProtocolVersion) -> ProposerGreeting {
    ProposerGreeting {
        version,
        id: TenantTimelineId {
            tenant: "cf0480929707ee75372337efaa5ecf96".parse().expect("an id"),
            timeline: "112ded66422aa5e953e5440fa5427ac4".parse().expect("an id"),
        },
        pg_version: 140_005,
        system_id: SystemId(0x0123_4567_89ab_cdef),
        segment_bytes: 16 << 20,
        tli: Tli::FIRST,
        proposer_id: ProposerId::default(),
        configuration: Configuration::default(),
    }
}

fn configuration() -> Configuration {
    let member = |id, host: &str, port| Member { id: NodeId(id), host: host.to_owned(), port };
    Configuration {
        generation: Generation(7),
        members: vec![member(1, "sk1.example", 5454), member(2, "::1", 65535)],
        new_members: vec![member(3, "sk3", 1)],
        primary: None,
    }
}

/// The same, reserved for one primary.
fn designated() -> Configuration {
    Configuration { primary: Some(PrimaryId([0xb0; 16])), ..configuration() }
}

fn acceptor_greeting(configuration: Configuration) -> AcceptorGreeting {
    AcceptorGreeting { node_id: NodeId(1), term: Term(2), configuration, configuration_term: Term::ZERO }
}

fn campaign() -> ProposerId {
    ProposerId(std::array::from_fn(|index| 0xa0 + index as u8))
}

fn history(tli: Tli) -> TermHistory {
    let first = TermStart { term: Term(1), start: LOG_START, tli: Tli::FIRST };
    TermHistory::new(vec![first, TermStart { term: Term(3), start: TERM_START, tli }]).expect("in order")
}

fn switches() -> Vec<TliSwitch> {
    vec![TliSwitch { parent: Tli(1), tli: Tli(2), at: TERM_START }]
}

fn elected() -> ProposerElected {
    ProposerElected {
        generation: Generation(0),
        term: Term(3),
        start_streaming_at: TERM_START,
        history: history(Tli::FIRST),
        timeline_start_lsn: Lsn::INVALID,
        tli_switches: Vec::new(),
        configuration: Configuration::default(),
    }
}

fn append() -> AppendRequest {
    AppendRequest {
        generation: Generation(0),
        term: Term(3),
        epoch_start_lsn: Lsn::INVALID,
        begin_lsn: TERM_START,
        commit_lsn: TERM_START,
        truncate_lsn: LOG_START,
        proposer_id: ProposerId::default(),
        wal: Bytes::from_static(b"ABCDEFGH"),
    }
}

/// Granted by an acceptor that holds one entry.
fn vote_response() -> VoteResponse {
    let entry = TermStart { term: Term(1), start: LOG_START, tli: Tli::FIRST };
    VoteResponse {
        generation: Generation(0),
        term: Term(3),
        vote_given: true,
        flush_lsn: TERM_START,
        truncate_lsn: LOG_START,
        history: TermHistory::new(vec![entry]).expect("in order"),
        timeline_start_lsn: Lsn::INVALID,
        tli_switches: Vec::new(),
        configuration: Configuration::default(),
        configuration_term: Term::ZERO,
        lost: false,
    }
}

fn append_response() -> AppendResponse {
    AppendResponse {
        generation: Generation(0),
        term: Term(3),
        flush_lsn: LOG_END,
        commit_lsn: TERM_START,
        hot_standby: HotStandbyFeedback::default(),
        pageserver: None,
    }
}

fn feedback() -> PageserverFeedback {
    PageserverFeedback {
        current_timeline_size: 12345,
        last_received_lsn: LOG_END,
        disk_consistent_lsn: TERM_START,
        remote_consistent_lsn: LOG_START,
        reply_time: -2,
        shard_number: 0,
        corruption_detected: false,
    }
}

#[test]
fn v2_proposer_messages_have_fixed_bytes() {
    proposer(
        V2,
        ProposerMessage::Greeting(greeting(V2)),
        "670000000000000002000000e522020000000000000000000000000000000000efcdab8967452301112ded66422aa5e953e5440fa5427ac4cf0480929707ee75372337efaa5ecf960100000000000001",
    );
    let vote = VoteRequest { generation: Generation(0), term: Term(3), proposer_id: ProposerId::default() };
    proposer(
        V2,
        ProposerMessage::Vote(vote),
        "7600000000000000030000000000000000000000000000000000000000000000",
    );
    proposer(
        V2,
        ProposerMessage::Vote(VoteRequest { proposer_id: campaign(), ..vote }),
        &format!("76000000000000000300000000000000{CAMPAIGN}"),
    );
    proposer(
        V2,
        ProposerMessage::Elected(ProposerElected { timeline_start_lsn: LOG_START, ..elected() }),
        "650000000000000003000000000000007060690100000000020000000100000000000000b83a49010000000003000000000000007060690100000000b83a490100000000",
    );
    proposer(
        V2,
        ProposerMessage::Append(AppendRequest { epoch_start_lsn: TERM_START, ..append() }),
        "610000000000000003000000000000007060690100000000706069010000000078606901000000007060690100000000b83a490100000000000000000000000000000000000000004142434445464748",
    );
}

#[test]
fn v2_acceptor_messages_have_fixed_bytes() {
    let greeting = acceptor_greeting(Configuration::default());
    acceptor(V2, AcceptorMessage::Greeting(greeting), "670000000000000002000000000000000100000000000000");
    acceptor(
        V2,
        AcceptorMessage::Vote(vote_response()),
        "7600000000000000030000000000000001000000000000007060690100000000b83a490100000000010000000100000000000000b83a4901000000000000000000000000",
    );
    acceptor(
        V2,
        AcceptorMessage::Vote(VoteResponse { timeline_start_lsn: LOG_START, ..vote_response() }),
        "7600000000000000030000000000000001000000000000007060690100000000b83a490100000000010000000100000000000000b83a490100000000b83a490100000000",
    );
    acceptor(
        V2,
        AcceptorMessage::Append(append_response()),
        "6100000000000000030000000000000078606901000000007060690100000000000000000000000000000000000000000000000000000000",
    );
}

#[test]
fn v3_proposer_messages_have_fixed_bytes() {
    proposer(
        V3,
        ProposerMessage::Greeting(greeting(V3)),
        "67636630343830393239373037656537353337323333376566616135656366393600313132646564363634323261613565393533653534343066613534323761633400000000000000000000000000000222e50123456789abcdef01000000",
    );
    let vote = VoteRequest { generation: Generation(0), term: Term(3), proposer_id: ProposerId::default() };
    proposer(V3, ProposerMessage::Vote(vote), "76000000000000000000000003");
    proposer(
        V3,
        ProposerMessage::Elected(elected()),
        "6500000000000000000000000300000000016960700000000200000000000000010000000001493ab800000000000000030000000001696070",
    );
    proposer(
        V3,
        ProposerMessage::Append(append()),
        "610000000000000000000000030000000001696070000000000169607800000000016960700000000001493ab84142434445464748",
    );
}

#[test]
fn v3_acceptor_messages_have_fixed_bytes() {
    let greeting = acceptor_greeting(Configuration::default());
    acceptor(
        V3,
        AcceptorMessage::Greeting(greeting.clone()),
        "6700000000000000010000000000000000000000000000000000000002",
    );
    acceptor(
        V3,
        AcceptorMessage::Greeting(AcceptorGreeting { configuration: configuration(), ..greeting }),
        &format!("670000000000000001{CONFIGURATION}0000000000000002"),
    );
    acceptor(
        V3,
        AcceptorMessage::Vote(vote_response()),
        "760000000000000000000000030100000000016960700000000001493ab80000000100000000000000010000000001493ab8",
    );
    acceptor(
        V3,
        AcceptorMessage::Append(append_response()),
        "6100000000000000000000000300000000016960780000000001696070000000000000000000000000000000000000000000000000",
    );
}

#[test]
fn holdfast1_proposer_messages_have_fixed_bytes() {
    let generation = Generation(7);
    let greeting = ProposerGreeting {
        pg_version: 150_018,
        tli: Tli(2),
        proposer_id: campaign(),
        configuration: designated(),
        ..greeting(Holdfast1)
    };
    proposer(
        Holdfast1,
        ProposerMessage::Greeting(greeting),
        &format!(
            "67636630343830393239373037656537353337323333376566616135656366393600313132646564363634323261613565393533653534343066613534323761633400{CONFIGURATION}00024a020123456789abcdef0100000000000002{CAMPAIGN}{PRIMARY}"
        ),
    );
    proposer(Holdfast1, ProposerMessage::PreVote(PreVoteRequest { generation }), "7000000007");
    let vote = VoteRequest { generation, term: Term(3), proposer_id: campaign() };
    proposer(Holdfast1, ProposerMessage::Vote(vote), &format!("76000000070000000000000003{CAMPAIGN}"));
    proposer(
        Holdfast1,
        ProposerMessage::Elected(ProposerElected {
            generation,
            history: history(Tli(2)),
            tli_switches: switches(),
            configuration: designated(),
            ..elected()
        }),
        &format!(
            "650000000700000000000000030000000001696070{OWN_HISTORY}{OWN_SWITCHES}{CONFIGURATION}{PRIMARY}"
        ),
    );
    proposer(
        Holdfast1,
        ProposerMessage::Append(AppendRequest { generation, ..append() }),
        "610000000700000000000000030000000001696070000000000169607800000000016960700000000001493ab84142434445464748",
    );
    let checksum = ChecksumRequest { generation, term: Term(3), from: LOG_START, to: TERM_START };
    proposer(
        Holdfast1,
        ProposerMessage::Checksum(checksum),
        "630000000700000000000000030000000001493ab80000000001696070",
    );
    let configure =
        ConfigureRequest { term: Term(3), configuration: Configuration { primary: None, ..designated() } };
    proposer(
        Holdfast1,
        ProposerMessage::Configure(configure),
        &format!("6d0000000000000003{CONFIGURATION}{NO_PRIMARY}"),
    );
}

#[test]
fn holdfast1_acceptor_messages_have_fixed_bytes() {
    let generation = Generation(7);
    let greeting = AcceptorGreeting { configuration_term: Term(2), ..acceptor_greeting(designated()) };
    acceptor(
        Holdfast1,
        AcceptorMessage::Greeting(greeting),
        &format!("670000000000000001{CONFIGURATION}0000000000000002{PRIMARY}0000000000000002"),
    );
    let pre_vote = PreVoteResponse {
        generation,
        term: Term(3),
        flush_lsn: LOG_END,
        commit_lsn: TERM_START,
        start_lsn: LOG_START,
        history: history(Tli(2)),
        tli_switches: switches(),
        configuration: designated(),
        configuration_term: Term(2),
        lost: true,
    };
    acceptor(
        Holdfast1,
        AcceptorMessage::PreVote(pre_vote),
        &format!(
            "70000000070000000000000003000000000169607800000000016960700000000001493ab8{OWN_HISTORY}{OWN_SWITCHES}{CONFIGURATION}{PRIMARY}000000000000000201"
        ),
    );
    let vote = VoteResponse {
        generation,
        history: history(Tli(2)),
        timeline_start_lsn: LOG_START,
        tli_switches: switches(),
        configuration: designated(),
        configuration_term: Term(2),
        ..vote_response()
    };
    acceptor(
        Holdfast1,
        AcceptorMessage::Vote(vote),
        &format!(
            "760000000700000000000000030100000000016960700000000001493ab8{OWN_HISTORY}0000000001493ab8{OWN_SWITCHES}{CONFIGURATION}{PRIMARY}000000000000000200"
        ),
    );
    let hot_standby = HotStandbyFeedback { timestamp: -1, xmin: 5, catalog_xmin: 6 };
    acceptor(
        Holdfast1,
        AcceptorMessage::Append(AppendResponse { generation, hot_standby, ..append_response() }),
        "6100000007000000000000000300000000016960780000000001696070ffffffffffffffff00000000000000050000000000000006",
    );
    let configured = ConfigureResponse { term: Term(3), generation };
    acceptor(Holdfast1, AcceptorMessage::Configure(configured), "6d000000000000000300000007");
    for (crc32c, tail) in [(Some(0xdead_beef), "01deadbeef"), (None, "0000000000")] {
        let response = ChecksumResponse { from: LOG_START, to: TERM_START, crc32c };
        acceptor(
            Holdfast1,
            AcceptorMessage::Checksum(response),
            &format!("630000000001493ab80000000001696070{tail}"),
        );
    }
}

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

#[test]
fn parse_version_reverses_version_name() {
    for version in VERSIONS {
        assert_eq!(parse_version(version_name(version)), Some(version));
    }
    for name in ["", "1", "4", "02", "holdfast", "holdfast-2", " 2"] {
        assert_eq!(parse_version(name), None, "{name:?}");
    }
}
