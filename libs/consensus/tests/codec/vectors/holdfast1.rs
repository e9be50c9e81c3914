//! Fixed bytes of version `holdfast-1`.

use super::*;

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
