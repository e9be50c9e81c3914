//! Fixed bytes of version 2.

use super::*;

#[test]
fn v2_proposer_messages_have_fixed_bytes() {
    proposer(
        V2,
        ProposerMessage::Greeting(greeting(V2)),
        "670000000000000002000000e522020000000000000000000000000000000000efcdab8967452301112ded66422aa5e953e5440fa5427ac4cf0480929707ee75372337efaa5ecf960100000000000001",
    );
    let vote = VoteRequest {
        generation: Generation(0),
        term: Term(3),
        proposer_id: ProposerId::default(),
        replica: ReplicaId::default(),
    };
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
