//! Acceptor rules of both dialects: greetings, positions in responses, configurations, repair of a loss.

mod configure;
mod greeting;
mod positions;
mod repair;

use consensus::{
    Acceptor, AcceptorMessage, AcceptorState, AppendRequest, Configuration, ConfigureRequest,
    ConfigureResponse, ConnectionId, Dialect, Effect, Loss, ProposerElected, ProposerMessage,
    ProtocolVersion, Refusal, TermHistory, TermStart, VoteRequest, VoteResponse,
};
use wal_types::{Generation, Lsn, ProposerId, SystemId, Term, Tli};

use crate::cluster::{self, START, configuration, lineage};

const A: ConnectionId = ConnectionId(1);
const B: ConnectionId = ConnectionId(2);

fn greeting(version: ProtocolVersion, configuration: Configuration) -> ProposerMessage {
    ProposerMessage::Greeting(cluster::greeting(version, configuration))
}

fn acceptor(dialect: Dialect, configuration: Configuration, lost: Option<Loss>) -> Acceptor {
    let state = AcceptorState { configuration, commit_lsn: START, lost, ..AcceptorState::default() };
    let mut acceptor = Acceptor::new(cluster::copy(1), lineage(dialect), state, START);
    let version = match dialect {
        Dialect::Neon => ProtocolVersion::V3,
        Dialect::Holdfast => ProtocolVersion::Holdfast2,
    };
    for connection in [A, B] {
        acceptor.step(connection, greeting(version, Configuration::default())).unwrap();
    }
    acceptor
}

fn vote(generation: u32, term: u64) -> ProposerMessage {
    let (generation, term) = (Generation(generation), Term(term));
    ProposerMessage::Vote(VoteRequest {
        replica: wal_types::ReplicaId([1; 16]),
        generation,
        term,
        proposer_id: ProposerId([1; 16]),
    })
}

fn elected(term: u64, configuration: Configuration) -> ProposerMessage {
    let first = TermStart { term: Term(term), start: START, tli: Tli::FIRST };
    ProposerMessage::Elected(ProposerElected {
        replica: wal_types::ReplicaId([1; 16]),
        rebase: None,
        generation: configuration.generation,
        term: Term(term),
        start_streaming_at: START,
        history: TermHistory::new(vec![first]).unwrap(),
        timeline_start_lsn: START,
        tli_switches: Vec::new(),
        configuration,
    })
}

fn append(generation: u32, term: u64, at: u64, bytes: usize, commit: u64, truncate: u64) -> ProposerMessage {
    ProposerMessage::Append(AppendRequest {
        generation: Generation(generation),
        term: Term(term),
        epoch_start_lsn: Lsn::INVALID,
        begin_lsn: START.advance(at),
        commit_lsn: START.advance(commit),
        truncate_lsn: START.advance(truncate),
        proposer_id: ProposerId::default(),
        wal: vec![0; bytes].into(),
    })
}

fn configure(term: u64, configuration: Configuration) -> ProposerMessage {
    ProposerMessage::Configure(ConfigureRequest { term: Term(term), configuration })
}

fn flush(acceptor: &mut Acceptor) -> Vec<Effect> {
    let end = acceptor.write_lsn();
    acceptor.flushed(end, end)
}

fn voted(effects: &[Effect]) -> &VoteResponse {
    match effects.last() {
        Some(Effect::Reply { message: AcceptorMessage::Vote(response), .. }) => response,
        other => panic!("expected a vote, got {other:?}"),
    }
}

fn configured(effects: &[Effect]) -> ConfigureResponse {
    match effects.last() {
        Some(Effect::Reply { message: AcceptorMessage::Configure(response), .. }) => *response,
        other => panic!("expected an answer to a configuration, got {other:?}"),
    }
}
