//! Round trips: any message in any version, and any bytes.

use bytes::{BufMut, Bytes, BytesMut};
use consensus::codec::{CodecError, decode_acceptor, decode_feedback, decode_proposer, encode_proposer};
use consensus::{
    APPEND_WAL_BYTES_MAX, AcceptorGreeting, AcceptorMessage, AppendRequest, AppendResponse, Configuration,
    LeaderHeard, Member, PreVoteRequest, ProposerMessage, ProtocolVersion, TermHistory, TermStart, TliSwitch,
};
use proptest::prelude::*;
use proptest::sample::select;
use wal_types::{Generation, Lsn, NodeId, ProposerId, ReplicaId, Term, Tli};

use crate::messages::message;
use crate::{Message, VERSIONS};

fn config() -> ProptestConfig {
    ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    /// A message decodes to itself, as far as its version carries it.
    #[test]
    fn message_round_trips_in_its_version(version in select(&VERSIONS), message in message()) {
        match carried(version, message.clone()) {
            Some(expected) => {
                let bytes = message.encode(version).unwrap();
                prop_assert_eq!(message.decode_like(version, bytes), Ok(expected));
            }
            None => {
                let refused = matches!(message.encode(version), Err(CodecError::NotInVersion { .. }));
                prop_assert!(refused);
            }
        }
    }

    /// A message that ends inside a field is an error.
    #[test]
    fn truncated_message_is_refused(
        version in select(&VERSIONS),
        message in message(),
        at in any::<prop::sample::Index>(),
    ) {
        let Some(expected) = carried(version, message) else { return Ok(()) };
        let bytes = expected.encode(version).unwrap();
        let cut = bytes.slice(..at.index(bytes.len()));
        match (expected.decode_like(version, cut), &expected) {
            (Err(_), _) => {}
            // The feedback is optional, so without it the message is whole.
            (Ok(Message::Acceptor(AcceptorMessage::Append(shorter))), Message::Acceptor(AcceptorMessage::Append(whole))) => {
                prop_assert!(whole.pageserver.is_some());
                prop_assert_eq!(shorter, AppendResponse { pageserver: None, ..whole.clone() });
            }
            (Ok(other), _) => prop_assert!(false, "{:?}", other),
        }
    }

    /// Only an acceptor ignores bytes behind a message; a proposer refuses them. The WAL of an append must be exact.
    #[test]
    fn only_decode_proposer_ignores_trailing_bytes(
        version in select(&VERSIONS),
        message in message(),
        tail in prop::collection::vec(any::<u8>(), 1..20),
    ) {
        let Some(expected) = carried(version, message) else { return Ok(()) };
        let mut bytes = BytesMut::from(expected.encode(version).unwrap());
        bytes.extend_from_slice(&tail);
        let decoded = expected.decode_like(version, bytes.freeze());
        match &expected {
            Message::Proposer(ProposerMessage::Append(request)) => {
                let announced = request.wal.len();
                let error = CodecError::AppendLength { announced, carried: announced + tail.len() };
                prop_assert_eq!(decoded, Err(error));
            }
            Message::Proposer(_) => prop_assert_eq!(decoded, Ok(expected)),
            // Here the tail would be the optional feedback.
            Message::Acceptor(AcceptorMessage::Append(AppendResponse { pageserver: None, .. }))
                if version != ProtocolVersion::Holdfast2 => {}
            Message::Acceptor(_) => prop_assert_eq!(decoded, Err(CodecError::Trailing(tail.len()))),
        }
    }

    #[test]
    fn arbitrary_bytes_do_not_panic(
        version in select(&VERSIONS),
        tag in select(b"gpveacmtwz".as_slice()),
        body in prop::collection::vec(prop_oneof![Just(0), any::<u8>()], 0..400),
    ) {
        let wide = version == ProtocolVersion::V2;
        let mut bytes = vec![tag];
        bytes.resize(if wide { 8 } else { 1 }, 0);
        bytes.extend_from_slice(&body);
        decode_everything(version, bytes.into());
        decode_everything(version, body.into());
    }

    #[test]
    fn damaged_messages_do_not_panic(
        version in select(&VERSIONS),
        message in message(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let Ok(bytes) = message.encode(version) else { return Ok(()) };
        let mut bytes = bytes.to_vec();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        decode_everything(version, bytes.into());
    }
}

fn decode_everything(version: ProtocolVersion, bytes: Bytes) {
    let _ = decode_proposer(version, bytes.clone());
    let _ = decode_acceptor(version, bytes.clone());
    let _ = decode_feedback(bytes);
}

/// An append may be as long as the limit and not longer, and its WAL is a slice of the frame.
#[test]
fn longest_append_is_decoded_without_a_copy() {
    for version in VERSIONS {
        for (length, fits) in [(APPEND_WAL_BYTES_MAX, true), (APPEND_WAL_BYTES_MAX + 1, false)] {
            let request = AppendRequest {
                generation: Generation(0),
                term: Term(1),
                epoch_start_lsn: Lsn::INVALID,
                begin_lsn: Lsn(8),
                commit_lsn: Lsn(8),
                truncate_lsn: Lsn(8),
                proposer_id: ProposerId::default(),
                wal: vec![7; length].into(),
            };
            let mut out = BytesMut::new();
            encode_proposer(version, &ProposerMessage::Append(request.clone()), &mut out).unwrap();
            let frame = out.freeze();
            match decode_proposer(version, frame.clone()) {
                Ok(ProposerMessage::Append(decoded)) if fits => {
                    assert_eq!(decoded, request);
                    assert_eq!(decoded.wal.as_ptr(), frame[frame.len() - length..].as_ptr());
                }
                other => {
                    assert!(!fits);
                    assert_eq!(other, Err(CodecError::AppendTooLong(length as u64)));
                }
            }
        }
    }
}

/// A message that cannot be written leaves the output as it was.
#[test]
fn failed_encode_leaves_the_buffer_unchanged() {
    let host =
        |host: &str| Member { id: NodeId(1), host: host.to_owned(), port: 1, replica: ReplicaId::default() };
    for (host, fits) in
        [(host(&"x".repeat(255)), true), (host(&"x".repeat(256)), false), (host("a\0b"), false)]
    {
        let configuration = Configuration { members: vec![host], ..Configuration::default() };
        let message = AcceptorMessage::Greeting(AcceptorGreeting {
            node_id: NodeId(1),
            replica: ReplicaId::default(),
            birth: None,
            term: Term(1),
            configuration,
            configuration_term: Term::ZERO,
        });
        let mut out = BytesMut::from("before".as_bytes());
        let written = consensus::codec::encode_acceptor(ProtocolVersion::V3, &message, &mut out);
        match fits {
            true => assert_eq!(decode_acceptor(ProtocolVersion::V3, out.split_off(6).freeze()), Ok(message)),
            false => assert_eq!(written, Err(CodecError::Text("host"))),
        }
        assert_eq!(out, "before");
    }

    let mut out = BytesMut::new();
    out.put_u8(1);
    let message = ProposerMessage::PreVote(PreVoteRequest { generation: Generation(1) });
    let error = CodecError::NotInVersion { kind: "pre-vote request", version: ProtocolVersion::V2 };
    assert_eq!(encode_proposer(ProtocolVersion::V2, &message, &mut out), Err(error));
    assert_eq!(out.len(), 1);
}

/// The message as `version` carries it; `None` when the version has no such message.
fn carried(version: ProtocolVersion, message: Message) -> Option<Message> {
    Some(match message {
        Message::Proposer(message) => Message::Proposer(carried_proposer(version, message)?),
        Message::Acceptor(message) => Message::Acceptor(carried_acceptor(version, message)?),
    })
}

fn carried_proposer(version: ProtocolVersion, mut message: ProposerMessage) -> Option<ProposerMessage> {
    let (v2, v3, own) = which(version);
    match &mut message {
        ProposerMessage::Greeting(greeting) => {
            greeting.version = version;
            greeting.configuration = carried_configuration(version, greeting.configuration.clone());
            if own {
                greeting.configuration = Configuration::default();
            }
            if v3 {
                (greeting.tli, greeting.proposer_id) = (Tli::FIRST, ProposerId::default());
            }
        }
        ProposerMessage::PreVote(_)
        | ProposerMessage::Checksum(_)
        | ProposerMessage::Configure(_)
        | ProposerMessage::Ticket(_)
        | ProposerMessage::Watch => {
            return own.then_some(message);
        }
        ProposerMessage::Vote(request) => {
            if !own {
                request.replica = ReplicaId::default();
            }
            request.generation = carried_generation(version, request.generation);
            if v3 {
                request.proposer_id = ProposerId::default();
            }
        }
        ProposerMessage::Elected(elected) => {
            elected.generation = carried_generation(version, elected.generation);
            if !v2 {
                elected.timeline_start_lsn = Lsn::INVALID;
            }
            if !own {
                elected.configuration = Configuration::default();
                (elected.replica, elected.rebase) = (ReplicaId::default(), None);
            }
            carried_log(version, &mut elected.history, &mut elected.tli_switches);
        }
        ProposerMessage::Append(request) => {
            request.generation = carried_generation(version, request.generation);
            if !v2 {
                (request.epoch_start_lsn, request.proposer_id) = (Lsn::INVALID, ProposerId::default());
            }
        }
    }

    Some(message)
}

fn carried_acceptor(version: ProtocolVersion, mut message: AcceptorMessage) -> Option<AcceptorMessage> {
    let (_, v3, own) = which(version);
    match &mut message {
        AcceptorMessage::Greeting(greeting) => {
            greeting.configuration = carried_configuration(version, greeting.configuration.clone());
            if !own {
                greeting.configuration_term = Term::ZERO;
                (greeting.replica, greeting.birth) = (ReplicaId::default(), None);
            }
        }
        AcceptorMessage::PreVote(_)
        | AcceptorMessage::Checksum(_)
        | AcceptorMessage::Configure(_)
        | AcceptorMessage::Ticket(_)
        | AcceptorMessage::Watch(_) => {
            return own.then_some(message);
        }
        AcceptorMessage::Vote(response) => {
            response.generation = carried_generation(version, response.generation);
            if v3 {
                response.timeline_start_lsn = Lsn::INVALID;
            }
            if !own {
                response.configuration = Configuration::default();
                (response.configuration_term, response.lost) = (Term::ZERO, false);
                (response.commit_lsn, response.heard) = (Lsn::INVALID, LeaderHeard::default());
            }
            carried_log(version, &mut response.history, &mut response.tli_switches);
        }
        AcceptorMessage::Append(response) => {
            response.generation = carried_generation(version, response.generation);
            if own {
                response.pageserver = None;
            } else {
                response.oldest_lsn = Lsn::INVALID;
            }
        }
    }

    Some(message)
}

fn which(version: ProtocolVersion) -> (bool, bool, bool) {
    (version == ProtocolVersion::V2, version == ProtocolVersion::V3, version == ProtocolVersion::Holdfast2)
}

fn carried_generation(version: ProtocolVersion, generation: Generation) -> Generation {
    if version == ProtocolVersion::V2 { Generation(0) } else { generation }
}

/// The public versions carry members and no more of a configuration.
fn carried_configuration(version: ProtocolVersion, configuration: Configuration) -> Configuration {
    let bare = |members: Vec<Member>| {
        members.into_iter().map(|member| Member { replica: ReplicaId::default(), ..member }).collect()
    };
    let Configuration { generation, members, new_members, .. } = configuration.clone();
    match version {
        ProtocolVersion::V2 => Configuration::default(),
        ProtocolVersion::V3 => Configuration {
            generation,
            members: bare(members),
            new_members: bare(new_members),
            ..Configuration::default()
        },
        ProtocolVersion::Holdfast2 => configuration,
    }
}

fn carried_log(version: ProtocolVersion, history: &mut TermHistory, switches: &mut Vec<TliSwitch>) {
    if version == ProtocolVersion::Holdfast2 {
        return;
    }
    switches.clear();
    let entries = history.entries().iter().map(|entry| TermStart { tli: Tli::FIRST, ..*entry });
    *history = TermHistory::new(entries.collect()).expect("in order as before");
}
