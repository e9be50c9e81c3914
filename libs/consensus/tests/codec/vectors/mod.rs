//! Fixed bytes of every message, computed field by field from the layouts, without the codec.

mod feedback;
mod holdfast2;
mod v2;
mod v3;

use bytes::{Bytes, BytesMut};
use consensus::ProtocolVersion::{Holdfast2, V2, V3};
use consensus::codec::{
    EARLIER_VERSION_NAME, birth_of, decode_configuration, decode_feedback, encode_configuration,
    encode_feedback, parse_version, version_name,
};
use consensus::{
    AcceptorGreeting, AcceptorMessage, AppendRequest, AppendResponse, ChecksumRequest, ChecksumResponse,
    Configuration, ConfigureRequest, ConfigureResponse, HotStandbyFeedback, LeaderHeard, Lease, Member,
    PageserverFeedback, Paused, PreVoteRequest, PreVoteResponse, Primary, ProposerElected, ProposerGreeting,
    ProposerMessage, ProtocolVersion, TermHistory, TermStart, Ticket, TicketResponse, TliSwitch,
    UnknownField, VoteRequest, VoteResponse, WatchResponse,
};
use wal_types::{
    CopyId, Digest, Generation, InstanceId, Lsn, NodeId, PrimaryId, ProposerId, ReplicaId, SystemId,
    TenantTimelineId, Term, Tli,
};

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
    let member = |id, host: &str, port| Member {
        id: NodeId(id),
        host: host.to_owned(),
        port,
        replica: ReplicaId::default(),
    };
    Configuration {
        generation: Generation(7),
        members: vec![member(1, "sk1.example", 5454), member(2, "::1", 65535)],
        new_members: vec![member(3, "sk3", 1)],
        ..Configuration::default()
    }
}

fn acceptor_greeting(configuration: Configuration) -> AcceptorGreeting {
    AcceptorGreeting {
        node_id: NodeId(1),
        replica: ReplicaId::default(),
        birth: None,
        term: Term(2),
        configuration,
        configuration_term: Term::ZERO,
    }
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
        replica: ReplicaId::default(),
        rebase: None,
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
        commit_lsn: Lsn::INVALID,
        history: TermHistory::new(vec![entry]).expect("in order"),
        timeline_start_lsn: Lsn::INVALID,
        tli_switches: Vec::new(),
        configuration: Configuration::default(),
        configuration_term: Term::ZERO,
        lost: false,
        heard: LeaderHeard::default(),
    }
}

fn append_response() -> AppendResponse {
    AppendResponse {
        generation: Generation(0),
        term: Term(3),
        flush_lsn: LOG_END,
        commit_lsn: TERM_START,
        oldest_lsn: Lsn::INVALID,
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
fn parse_version_reverses_version_name() {
    for version in VERSIONS {
        assert_eq!(parse_version(version_name(version)), Some(version));
    }
    for name in ["", "1", "4", "02", "holdfast", EARLIER_VERSION_NAME, "holdfast-3", " 2"] {
        assert_eq!(parse_version(name), None, "{name:?}");
    }
}
