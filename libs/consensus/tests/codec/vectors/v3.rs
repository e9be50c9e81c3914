//! Fixed bytes of version 3.

use super::*;

#[test]
fn v3_proposer_messages_have_fixed_bytes() {
    proposer(
        V3,
        ProposerMessage::Greeting(greeting(V3)),
        "67636630343830393239373037656537353337323333376566616135656366393600313132646564363634323261613565393533653534343066613534323761633400000000000000000000000000000222e50123456789abcdef01000000",
    );
    let vote = VoteRequest {
        generation: Generation(0),
        term: Term(3),
        proposer_id: ProposerId::default(),
        replica: ReplicaId::default(),
    };
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
