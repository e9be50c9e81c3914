//! Proposer: one campaign, from the first greeting to commits and to its end.

mod commit;
mod election;
mod stream;

use bytes::Bytes;
use consensus::{
    AcceptorGreeting, AcceptorMessage, Action, AppendRequest, AppendResponse, Configuration, Election,
    HotStandbyFeedback, LostTerm, PreVoteResponse, Proposer, ProposerElected, ProposerMessage,
    ProposerOptions, TermHistory, TermStart, VoteResponse, WalBuffer,
};
use wal_types::{Generation, Lsn, NodeId, ProposerId, SegmentSize, SystemId, TenantTimelineId, Term, Tli};

/// Position and history of a safekeeper's log: flush, `[(term, start)]`.
type Log<'a> = (u64, &'a [(u64, u64)]);

fn proposer() -> Proposer {
    Proposer::new(ProposerOptions {
        id: TenantTimelineId::default(),
        proposer_id: ProposerId([1; 16]),
        segment_size: SegmentSize::POSTGRES_DEFAULT,
        system_id: SystemId(7),
        pg_version: 150_018,
        tli: Some(Tli::FIRST),
        term_floor: Term::ZERO,
        primary: None,
        safekeepers: vec![NodeId(1), NodeId(2), NodeId(3)],
        send_buffer_bytes_max: 64,
    })
}

fn history(entries: &[(u64, u64)]) -> TermHistory {
    let entry =
        |&(term, start): &(u64, u64)| TermStart { term: Term(term), start: Lsn(start), tli: Tli::FIRST };
    TermHistory::new(entries.iter().map(entry).collect()).unwrap()
}

fn drain(proposer: &mut Proposer, node: u64) -> Vec<ProposerMessage> {
    std::iter::from_fn(|| proposer.poll_send(NodeId(node))).collect()
}

fn greet(proposer: &mut Proposer, node: u64, term: u64) -> Result<Vec<Action>, LostTerm> {
    proposer.connected(NodeId(node));
    assert!(matches!(drain(proposer, node).as_slice(), [ProposerMessage::Greeting(_)]));
    let greeting = AcceptorGreeting {
        replica: wal_types::ReplicaId([node as u8; 16]),
        birth: None,
        node_id: NodeId(node),
        term: Term(term),
        configuration: crate::cluster::configuration(0, &[1, 2, 3], &[]),
        configuration_term: Term::ZERO,
    };
    proposer.receive(NodeId(node), AcceptorMessage::Greeting(greeting))
}

fn pre_vote(proposer: &mut Proposer, node: u64, term: u64, (flush, entries): Log<'_>) -> Vec<Action> {
    let response = PreVoteResponse {
        heard: consensus::LeaderHeard::default(),
        generation: Generation(0),
        term: Term(term),
        flush_lsn: Lsn(flush),
        commit_lsn: Lsn::INVALID,
        start_lsn: Lsn(8),
        history: history(entries),
        tli_switches: Vec::new(),
        configuration: crate::cluster::configuration(0, &[1, 2, 3], &[]),
        configuration_term: Term::ZERO,
        lost: false,
    };
    proposer.receive(NodeId(node), AcceptorMessage::PreVote(response)).unwrap()
}

fn vote(
    proposer: &mut Proposer,
    node: u64,
    given: bool,
    term: u64,
    (flush, entries): Log<'_>,
) -> Result<Vec<Action>, LostTerm> {
    let response = VoteResponse {
        heard: consensus::LeaderHeard::default(),
        commit_lsn: Lsn::INVALID,
        generation: Generation(0),
        term: Term(term),
        vote_given: given,
        flush_lsn: Lsn(flush),
        truncate_lsn: Lsn::INVALID,
        history: history(entries),
        timeline_start_lsn: Lsn(8),
        tli_switches: Vec::new(),
        configuration: crate::cluster::configuration(0, &[1, 2, 3], &[]),
        configuration_term: Term::ZERO,
        lost: false,
    };
    proposer.receive(NodeId(node), AcceptorMessage::Vote(response))
}

fn acknowledge(
    proposer: &mut Proposer,
    node: u64,
    term: u64,
    flush: u64,
    commit: u64,
) -> Result<Vec<Action>, LostTerm> {
    let response = AppendResponse {
        oldest_lsn: Lsn::INVALID,
        generation: Generation(0),
        term: Term(term),
        flush_lsn: Lsn(flush),
        commit_lsn: Lsn(commit),
        hot_standby: HotStandbyFeedback::default(),
        pageserver: None,
    };
    proposer.receive(NodeId(node), AcceptorMessage::Append(response))
}

/// A proposer that campaigns in `term` among `logs`, those of safekeepers 1, 2, ...
fn campaigning(term: u64, logs: &[Log<'_>]) -> Proposer {
    let mut proposer = proposer();
    for (node, log) in (1..).zip(logs) {
        greet(&mut proposer, node, term - 1).unwrap();
        pre_vote(&mut proposer, node, term - 1, *log);
    }
    proposer.request_votes().unwrap();
    for node in 1..=logs.len() as u64 {
        drain(&mut proposer, node);
    }
    proposer
}

/// A proposer that leads `term` and has sent what it had to.
fn leading(term: u64, logs: &[Log<'_>]) -> Proposer {
    let mut proposer = campaigning(term, logs);
    for (node, log) in (1..).zip(logs) {
        vote(&mut proposer, node, true, term, *log).unwrap();
    }
    let start = proposer.election().unwrap().start;
    proposer.approve(WalBuffer::new(start));
    proposer
}

fn elected_of(messages: &[ProposerMessage]) -> &ProposerElected {
    match messages.first() {
        Some(ProposerMessage::Elected(elected)) => elected,
        other => panic!("expected Elected, got {other:?}"),
    }
}

fn appends<'a>(messages: &'a [ProposerMessage]) -> Vec<&'a AppendRequest> {
    let append = |message: &'a ProposerMessage| match message {
        ProposerMessage::Append(append) => Some(append),
        _ => None,
    };
    messages.iter().filter_map(append).collect()
}
