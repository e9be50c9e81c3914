//! Fixed bytes of version `holdfast-2`.

use super::*;

const REPLICA: &str = "c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1";
const BIRTH: &str = "01e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1";

/// Generation 7; members 1 and 2, next member 3.
const MEMBERS: &str = concat!(
    "00000007",
    "02",
    "0000000000000001",
    "c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1",
    "154e",
    "000b736b312e6578616d706c65",
    "0000000000000002",
    "c2c2c2c2c2c2c2c2c2c2c2c2c2c2c2c2",
    "ffff",
    "00033a3a31",
    "01",
    "0000000000000003",
    "c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3",
    "0001",
    "0003736b33",
);
/// Primary, void to, automatic, paused, and a field of a later release.
const FIELDS: &str = concat!(
    "0005",
    "000100020020b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1",
    "0002000200080000000000000005",
    "000300020000",
    "00040002000700026d65776879",
    "000900030003fedcba",
);
/// Heard 1,500 ms ago, with a lease.
const HEARD: &str = "000005dc010000000000000003d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1000003e8";
const NEVER_HEARD: &str = "ffffffff0000000000000000000000000000000000000000000000000000000000";

fn copies() -> Configuration {
    let mut configuration = configuration();
    let members = configuration.members.iter_mut().chain(&mut configuration.new_members);
    members.for_each(|member| member.replica = ReplicaId([0xc0 + member.id.0 as u8; 16]));
    configuration
}

fn designated() -> Configuration {
    let field = UnknownField { tag: 9, since: 3, value: Bytes::from_static(&[0xfe, 0xdc, 0xba]) };
    Configuration {
        primary: Some(Primary { name: PrimaryId([0xb0; 16]), instance: InstanceId([0xd1; 16]) }),
        void_to: Term(5),
        automatic: true,
        paused: Some(Paused { by: "me".to_owned(), why: "why".to_owned() }),
        unknown: vec![field],
        ..copies()
    }
}

fn heard() -> LeaderHeard {
    let lease = Lease { term: Term(3), instance: InstanceId([0xd1; 16]), left_ms: 1000 };
    LeaderHeard { ago_ms: Some(1500), lease: Some(lease) }
}

#[test]
fn configuration_has_fixed_bytes_and_a_birth() {
    let mut bytes = BytesMut::new();
    encode_configuration(&designated(), &mut bytes).unwrap();
    assert_eq!(hex::encode(&bytes), format!("{MEMBERS}{FIELDS}"));
    assert_eq!(decode_configuration(bytes.freeze()), Ok(designated()));
    assert_eq!(designated().needs_version(), Some(3));

    // sha256 of 00000007 02 … 0000, computed without this program.
    let birth = birth_of(&copies()).unwrap();
    assert_eq!(birth.to_string(), "ec61b713d94eb9984f8a8b04c56f8ca03c4712f6bd7e5e6cb058771b8f611aab");
}

/// A field that is known is read exactly; one that is not is kept.
#[test]
fn decode_refuses_a_damaged_configuration_field() {
    let decode = |fields: &str| {
        decode_configuration(hex::decode(format!("{MEMBERS}{fields}")).unwrap().into()).map(|_| ())
    };
    assert_eq!(decode("0000"), Ok(()));
    assert_eq!(decode("0001ffff00090000"), Ok(()), "any later field");
    for wrong in [
        "0001000300030000",                 // automatic of another version
        "000100030002000101",               // automatic with a value
        "00010001000200020102",             // a primary of two bytes
        "00010002000200080000000000000000", // void_to zero
        "0002000300020000000300020000",     // twice
        "0002000900030000000300020000",     // tags fall
        "00010009000304010000",             // a value of 1025 bytes
        "0001000400020003ffff61",           // pause that ends too early
        "0025",                             // more fields than possible
        "000100030002000000",               // bytes behind the end
    ] {
        assert!(decode(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn holdfast2_proposer_messages_have_fixed_bytes() {
    let generation = Generation(7);
    let greeting =
        ProposerGreeting { pg_version: 150_018, tli: Tli(2), proposer_id: campaign(), ..greeting(Holdfast2) };

    proposer(
        Holdfast2,
        ProposerMessage::Greeting(greeting),
        &format!(
            "67cf0480929707ee75372337efaa5ecf96112ded66422aa5e953e5440fa5427ac400024a020123456789abcdef0100000000000002{CAMPAIGN}"
        ),
    );
    proposer(Holdfast2, ProposerMessage::PreVote(PreVoteRequest { generation }), "7000000007");
    let replica = ReplicaId([0xc1; 16]);
    let vote = VoteRequest { generation, term: Term(3), proposer_id: campaign(), replica };
    proposer(
        Holdfast2,
        ProposerMessage::Vote(vote),
        &format!("76000000070000000000000003{CAMPAIGN}{REPLICA}"),
    );
    for (rebase, position) in [(None, "0000000000000000"), (Some(LOG_END), "0000000001696078")] {
        proposer(
            Holdfast2,
            ProposerMessage::Elected(ProposerElected {
                generation,
                history: history(Tli(2)),
                tli_switches: switches(),
                configuration: designated(),
                replica,
                rebase,
                ..elected()
            }),
            &format!(
                "650000000700000000000000030000000001696070{REPLICA}{position}{OWN_HISTORY}{OWN_SWITCHES}{MEMBERS}{FIELDS}"
            ),
        );
    }
    proposer(
        Holdfast2,
        ProposerMessage::Append(AppendRequest { generation, ..append() }),
        "610000000700000000000000030000000001696070000000000169607800000000016960700000000001493ab84142434445464748",
    );
    let checksum = ChecksumRequest { generation, term: Term(3), from: LOG_START, to: TERM_START };
    proposer(
        Holdfast2,
        ProposerMessage::Checksum(checksum),
        "630000000700000000000000030000000001493ab80000000001696070",
    );
    let configure = ConfigureRequest { term: Term(3), configuration: copies() };
    proposer(Holdfast2, ProposerMessage::Configure(configure), &format!("6d0000000000000003{MEMBERS}0000"));
    let ticket = Ticket { term: Term(3), number: 17 };
    proposer(Holdfast2, ProposerMessage::Ticket(ticket), "7400000000000000030000000000000011");
    proposer(Holdfast2, ProposerMessage::Watch, "77");
}

#[test]
fn holdfast2_acceptor_messages_have_fixed_bytes() {
    let generation = Generation(7);
    let greeting = AcceptorGreeting {
        replica: ReplicaId([0xc1; 16]),
        birth: Some(Digest([0xe1; 32])),
        configuration_term: Term(1),
        ..acceptor_greeting(designated())
    };
    acceptor(
        Holdfast2,
        AcceptorMessage::Greeting(greeting),
        &format!("670000000000000001{REPLICA}{BIRTH}00000000000000020000000000000001{MEMBERS}{FIELDS}"),
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
        heard: heard(),
    };

    acceptor(
        Holdfast2,
        AcceptorMessage::PreVote(pre_vote),
        &format!(
            "70000000070000000000000003000000000169607800000000016960700000000001493ab8{HEARD}01{OWN_HISTORY}{OWN_SWITCHES}0000000000000002{MEMBERS}{FIELDS}"
        ),
    );
    let vote = VoteResponse {
        generation,
        commit_lsn: LOG_END,
        history: history(Tli(2)),
        timeline_start_lsn: LOG_START,
        tli_switches: switches(),
        configuration: copies(),
        configuration_term: Term(2),
        ..vote_response()
    };

    acceptor(
        Holdfast2,
        AcceptorMessage::Vote(vote),
        &format!(
            "760000000700000000000000030100000000016960700000000001493ab800000000016960780000000001493ab8{NEVER_HEARD}00{OWN_HISTORY}{OWN_SWITCHES}0000000000000002{MEMBERS}0000"
        ),
    );
    let hot_standby = HotStandbyFeedback { timestamp: -1, xmin: 5, catalog_xmin: 6 };
    let response = AppendResponse { generation, hot_standby, oldest_lsn: LOG_START, ..append_response() };
    acceptor(
        Holdfast2,
        AcceptorMessage::Append(response),
        "6100000007000000000000000300000000016960780000000001696070ffffffffffffffff000000000000000500000000000000060000000001493ab8",
    );
    let configured = ConfigureResponse { term: Term(3), generation };
    acceptor(Holdfast2, AcceptorMessage::Configure(configured), "6d000000000000000300000007");
    for (crc32c, tail) in [(Some(0xdead_beef), "01deadbeef"), (None, "0000000000")] {
        let response = ChecksumResponse { from: LOG_START, to: TERM_START, crc32c };
        acceptor(
            Holdfast2,
            AcceptorMessage::Checksum(response),
            &format!("630000000001493ab80000000001696070{tail}"),
        );
    }
    let ticket = TicketResponse { term: Term(4), number: 17 };
    acceptor(Holdfast2, AcceptorMessage::Ticket(ticket), "7400000000000000040000000000000011");
    let watch = WatchResponse {
        copy: CopyId { node: NodeId(1), replica: ReplicaId([0xc1; 16]) },
        term: Term(3),
        flush_lsn: LOG_END,
        commit_lsn: TERM_START,
        oldest_lsn: LOG_START,
        configuration: designated(),
        configuration_term: Term(2),
        lost: false,
        heard: heard(),
    };
    acceptor(
        Holdfast2,
        AcceptorMessage::Watch(watch),
        &format!(
            "770000000000000001{REPLICA}0000000000000003000000000169607800000000016960700000000001493ab8{HEARD}000000000000000002{MEMBERS}{FIELDS}"
        ),
    );
}
