//! Acceptor: which messages it accepts and refuses, and the order of its effects.

mod append;
mod elected;
mod greeting;
mod vote;

use bytes::Bytes;
use consensus::{
    Acceptor, AcceptorMessage, AppendRequest, AppendResponse, Configuration, ConnectionId, Dialect, Effect,
    ProposerElected, ProposerGreeting, ProposerMessage, ProtocolVersion, Refusal, TermHistory, TermStart,
    VoteRequest, VoteResponse,
};
use wal_types::{Generation, Lsn, ProposerId, SystemId, Term, Tli};

use crate::cluster::{START, greeting, lineage};

const A: ConnectionId = ConnectionId(1);
const B: ConnectionId = ConnectionId(2);
const ONE: ProposerId = ProposerId([1; 16]);
const TWO: ProposerId = ProposerId([2; 16]);

/// An acceptor of dialect `holdfast` to which `A` and `B` have greeted.
fn acceptor() -> Acceptor {
    greeted(Dialect::Holdfast, ProtocolVersion::Holdfast2)
}

fn greeted(dialect: Dialect, version: ProtocolVersion) -> Acceptor {
    let mut acceptor =
        Acceptor::new(crate::cluster::copy(1), lineage(dialect), crate::cluster::founded(), START);
    for connection in [A, B] {
        acceptor
            .step(connection, ProposerMessage::Greeting(greeting(version, Configuration::default())))
            .unwrap();
    }
    acceptor
}

fn vote(term: u64, proposer_id: ProposerId) -> ProposerMessage {
    ProposerMessage::Vote(VoteRequest {
        replica: wal_types::ReplicaId([1; 16]),
        generation: Generation(0),
        term: Term(term),
        proposer_id,
    })
}

/// History entries as `(term, bytes behind START)`.
fn elected(start: u64, entries: &[(u64, u64)]) -> ProposerMessage {
    let entry =
        |&(term, at): &(u64, u64)| TermStart { term: Term(term), start: START.advance(at), tli: Tli::FIRST };
    ProposerMessage::Elected(ProposerElected {
        replica: wal_types::ReplicaId([1; 16]),
        rebase: None,
        generation: Generation(0),
        term: Term(entries.last().unwrap().0),
        start_streaming_at: START.advance(start),
        history: TermHistory::new(entries.iter().map(entry).collect()).unwrap(),
        timeline_start_lsn: START,
        tli_switches: Vec::new(),
        configuration: Configuration::default(),
    })
}

fn append(term: u64, at: u64, wal: &'static [u8], commit: u64) -> ProposerMessage {
    ProposerMessage::Append(AppendRequest {
        generation: Generation(0),
        term: Term(term),
        epoch_start_lsn: Lsn::INVALID,
        begin_lsn: START.advance(at),
        commit_lsn: START.advance(commit),
        truncate_lsn: Lsn::INVALID,
        proposer_id: ONE,
        wal: Bytes::from_static(wal),
    })
}

/// Elects `A` in `term` on whatever the acceptor holds and has it write `wal` up to a record end.
fn write(acceptor: &mut Acceptor, term: u64, wal: &'static [u8]) {
    let at = acceptor.flush_lsn().bytes_since(START);
    let mut entries: Vec<_> =
        acceptor.state().history.entries().iter().map(|e| (e.term.0, e.start.bytes_since(START))).collect();
    entries.push((term, at));
    acceptor.step(A, vote(term, ONE)).unwrap();
    acceptor.step(A, elected(at, &entries)).unwrap();
    acceptor.step(A, append(term, at, wal, 0)).unwrap();
    flush(acceptor);
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

fn appended(effects: &[Effect]) -> &AppendResponse {
    match effects.last() {
        Some(Effect::Reply { message: AcceptorMessage::Append(response), .. }) => response,
        other => panic!("expected an append response, got {other:?}"),
    }
}
