//! Hostile acceptors: whatever they send, in any order, a proposer does not panic and takes back no commit.

use bytes::Bytes;
use consensus::{
    AcceptorGreeting, AcceptorMessage, Action, AppendResponse, ChecksumResponse, Configuration,
    ConfigurationChange, ConfigureResponse, HotStandbyFeedback, PreVoteResponse, TermHistory, TermStart,
    VoteResponse, WalBuffer,
};
use proptest::prelude::*;
use wal_types::{Generation, Lsn, NodeId, Term, Tli};

use crate::cluster::{Campaign, START, members};

const ALL: &[u64] = &[1, 2, 3];

fn lsn() -> impl Strategy<Value = Lsn> {
    prop_oneof![
        8 => (0..40_u64).prop_map(|at| START.advance(at)),
        1 => Just(Lsn(0)),
        1 => Just(Lsn(u64::MAX)),
    ]
}

/// Mostly the term of the first campaign.
fn term() -> impl Strategy<Value = Term> {
    prop_oneof![30 => Just(1), 4 => Just(0), 1 => 2..4_u64, 1 => Just(u64::MAX)].prop_map(Term)
}

fn history() -> impl Strategy<Value = TermHistory> {
    prop::option::of((0..2_u64, lsn())).prop_map(|entry| {
        let entry = entry.map(|(term, start)| TermStart { term: Term(term), start, tli: Tli::FIRST });
        TermHistory::new(entry.into_iter().collect()).unwrap()
    })
}

fn configuration() -> impl Strategy<Value = (Configuration, Term)> {
    let listed = prop_oneof![20 => Just(0_u32), 1 => 1..3_u32].prop_map(|generation| Configuration {
        generation: Generation(generation),
        members: members(ALL),
        ..Configuration::default()
    });
    (listed, prop_oneof![20 => Just(0), 1 => Just(1_u64)].prop_map(Term))
}

fn message() -> impl Strategy<Value = AcceptorMessage> {
    let generation = Generation(0);
    let mostly = prop_oneof![6 => Just(true), 1 => Just(false)];
    prop_oneof![
        (term(), configuration()).prop_map(|(term, (configuration, configuration_term))| {
            let term = if term == Term(1) { Term::ZERO } else { term };
            let node_id = NodeId(1);
            AcceptorMessage::Greeting(AcceptorGreeting {
                replica: wal_types::ReplicaId([node_id.0 as u8; 16]),
                birth: None,
                node_id,
                term,
                configuration,
                configuration_term,
            })
        }),
        (term(), lsn(), history(), configuration(), any::<bool>()).prop_map(
            move |(term, flush_lsn, history, (configuration, configuration_term), lost)| {
                AcceptorMessage::PreVote(PreVoteResponse {
                    heard: consensus::LeaderHeard::default(),
                    generation,
                    term: if term == Term(1) { Term::ZERO } else { term },
                    flush_lsn,
                    commit_lsn: flush_lsn,
                    start_lsn: START,
                    history,
                    tli_switches: Vec::new(),
                    configuration,
                    configuration_term,
                    lost,
                })
            }
        ),
        (term(), mostly, (lsn(), lsn(), lsn()), history(), configuration(), any::<bool>()).prop_map(
            move |(term, vote_given, (flush_lsn, truncate_lsn, start), history, accepted, lost)| {
                AcceptorMessage::Vote(VoteResponse {
                    heard: consensus::LeaderHeard::default(),
                    commit_lsn: Lsn::INVALID,
                    generation,
                    term,
                    vote_given,
                    flush_lsn,
                    truncate_lsn,
                    history,
                    timeline_start_lsn: start,
                    tli_switches: Vec::new(),
                    configuration: accepted.0,
                    configuration_term: accepted.1,
                    lost: lost && !vote_given,
                })
            }
        ),
        (term(), lsn(), lsn()).prop_map(move |(term, flush_lsn, commit_lsn)| {
            let hot_standby = HotStandbyFeedback::default();
            let pageserver = None;
            AcceptorMessage::Append(AppendResponse {
                oldest_lsn: Lsn::INVALID,
                generation,
                term,
                flush_lsn,
                commit_lsn,
                hot_standby,
                pageserver,
            })
        }),
        (term(), 0..5_u32).prop_map(|(term, generation)| {
            AcceptorMessage::Configure(ConfigureResponse { term, generation: Generation(generation) })
        }),
        (lsn(), lsn()).prop_map(|(from, to)| {
            AcceptorMessage::Checksum(ChecksumResponse { from, to, crc32c: None })
        }),
    ]
}

#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "a step of a test is made once")]
enum Step {
    Receive(u64, AcceptorMessage),
    Connect(u64),
    Disconnect(u64),
    Append(usize),
    Send(u64),
    Change,
}

fn step() -> impl Strategy<Value = Step> {
    let node = 1..4_u64;
    prop_oneof![
        20 => (node.clone(), message()).prop_map(|(node, message)| Step::Receive(node, message)),
        2 => node.clone().prop_map(Step::Connect),
        1 => node.clone().prop_map(Step::Disconnect),
        4 => (1..30_usize).prop_map(Step::Append),
        8 => node.prop_map(Step::Send),
        1 => Just(Step::Change),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// No sequence of safekeeper messages makes a proposer panic or take back a commit.
    #[test]
    fn acceptor_messages_break_no_proposer(steps in prop::collection::vec(step(), 0..120)) {
        let mut proposer = Campaign::new(1, None, ALL).proposer;
        ALL.iter().for_each(|&node| proposer.connected(NodeId(node)));
        for step in steps {
            let before = proposer.commit_lsn();
            match step {
                Step::Receive(node, message) => {
                    let Ok(actions) = proposer.receive(NodeId(node), message) else { return Ok(()) };
                    for action in actions {
                        match action {
                            Action::PreVoted { .. } if proposer.request_votes().is_err() => return Ok(()),
                            Action::Elected(election) => proposer.approve(WalBuffer::new(election.start)),
                            _ => {}
                        }
                    }
                }
                Step::Connect(node) => proposer.connected(NodeId(node)),
                Step::Disconnect(node) => proposer.disconnected(NodeId(node)),
                Step::Append(bytes) => {
                    let _ = proposer.append(proposer.received_lsn(), Bytes::from(vec![0; bytes]));
                }
                Step::Send(node) => {
                    let _ = proposer.poll_fetch(NodeId(node));
                    let _ = proposer.poll_send(NodeId(node));
                }
                Step::Change => {
                    let _ = proposer.begin_change(ConfigurationChange::Members(members(&[2, 3, 4])));
                }
            }
            prop_assert!(proposer.commit_lsn() >= before);
            let known = proposer.election().map_or(Lsn::INVALID, |election| election.start);
            prop_assert!(proposer.commit_lsn() <= known.max(proposer.received_lsn()));
            let _ = (proposer.status(), proposer.is_stuck(), proposer.start_commit_is_persisted(), proposer.wants_wal());
        }
    }
}
