//! Hostile proposers: whatever they send, in any order, an acceptor does not panic and keeps its promises.

use bytes::Bytes;
use consensus::{
    Acceptor, AcceptorMessage, AcceptorState, AppendRequest, ChecksumRequest, Configuration,
    ConfigureRequest, ConnectionId, Dialect, Effect, Loss, PreVoteRequest, ProposerElected, ProposerMessage,
    ProtocolVersion, TermHistory, TermStart, VoteRequest,
};
use proptest::prelude::*;
use wal_types::{Generation, Lsn, ProposerId, Term, Tli};

use crate::cluster::{self, START, lineage, members};

#[derive(Clone, Debug)]
enum Step {
    Send(u64, ProposerMessage),
    /// The same, with the fields filled in that make the acceptor listen; the rest stays as hostile as it was.
    SendFitting(u64, ProposerMessage),
    /// All that was written is durable, up to so many bytes before its end; the last record ends that much earlier.
    Flush(u64, u64),
    Checkpoint,
    Disconnect(u64),
    Unchanged(u64),
    /// Starts anew from what was persisted.
    Restart,
}

/// Few values, so that they meet; and the ends of the range.
fn lsn() -> impl Strategy<Value = Lsn> {
    prop_oneof![
        8 => (0..24_u64).prop_map(|at| START.advance(at)),
        1 => Just(Lsn(0)),
        1 => Just(Lsn(u64::MAX)),
    ]
}

fn term() -> impl Strategy<Value = Term> {
    prop_oneof![12 => 0..6_u64, 1 => Just(u64::MAX)].prop_map(Term)
}

fn history() -> impl Strategy<Value = TermHistory> {
    prop::collection::vec((0..2_u64, 0..6_u64), 0..5).prop_map(|steps| {
        let (mut term, mut start) = (0, START);
        let entries = steps.into_iter().map(|(skipped, bytes)| {
            term += 1 + skipped;
            start = start.advance(bytes);
            TermStart { term: Term(term), start, tli: Tli::FIRST }
        });
        TermHistory::new(entries.collect()).unwrap()
    })
}

fn configuration() -> impl Strategy<Value = Configuration> {
    (0..3_u32, prop::collection::vec(1..4_u64, 0..3)).prop_map(|(generation, ids)| Configuration {
        generation: Generation(generation),
        members: members(&ids),
        ..Configuration::default()
    })
}

fn greeting(version: ProtocolVersion) -> ProposerMessage {
    ProposerMessage::Greeting(cluster::greeting(version, Configuration::default()))
}

fn elected() -> impl Strategy<Value = ProposerElected> {
    let fits = prop_oneof![4 => Just(true), 1 => Just(false)];
    (0..2_u32, term(), lsn(), history(), configuration(), fits).prop_map(
        |(generation, term, start_streaming_at, history, configuration, fits)| ProposerElected {
            replica: wal_types::ReplicaId([1; 16]),
            rebase: None,
            generation: if fits { configuration.generation } else { Generation(generation) },
            term: history.last().filter(|_| fits).map_or(term, |last| last.term),
            start_streaming_at,
            history,
            timeline_start_lsn: START,
            tli_switches: Vec::new(),
            configuration,
        },
    )
}

fn append() -> impl Strategy<Value = AppendRequest> {
    (term(), lsn(), lsn(), lsn(), 0..8_usize).prop_map(
        |(term, begin_lsn, commit_lsn, truncate_lsn, bytes)| AppendRequest {
            generation: Generation(0),
            term,
            epoch_start_lsn: Lsn::INVALID,
            begin_lsn,
            commit_lsn,
            truncate_lsn,
            proposer_id: ProposerId::default(),
            wal: Bytes::from(vec![0; bytes]),
        },
    )
}

fn message(version: ProtocolVersion) -> impl Strategy<Value = ProposerMessage> {
    let generation = Generation(0);
    prop_oneof![
        1 => Just(greeting(version)),
        1 => Just(ProposerMessage::PreVote(PreVoteRequest { generation })),
        4 => (term(), any::<bool>()).prop_map(move |(term, one)| ProposerMessage::Vote(VoteRequest { replica: wal_types::ReplicaId([1; 16]),
            generation,
            term,
            proposer_id: ProposerId([one.into(); 16]),
        })),
        8 => elected().prop_map(ProposerMessage::Elected),
        8 => append().prop_map(ProposerMessage::Append),
        1 => (term(), lsn(), lsn()).prop_map(move |(term, from, to)| {
            ProposerMessage::Checksum(ChecksumRequest { generation, term, from, to })
        }),
        3 => (term(), configuration()).prop_map(|(term, configuration)| {
            ProposerMessage::Configure(ConfigureRequest { term, configuration })
        }),
    ]
}

fn step(version: ProtocolVersion) -> impl Strategy<Value = Step> {
    let connection = 1..3_u64;
    prop_oneof![
        16 => (connection.clone(), message(version)).prop_map(|(from, message)| Step::Send(from, message)),
        16 => (connection.clone(), message(version)).prop_map(|(from, message)| Step::SendFitting(from, message)),
        6 => (0..4_u64, 0..4_u64).prop_map(|(pending, inside)| Step::Flush(pending, inside)),
        1 => Just(Step::Checkpoint),
        1 => connection.clone().prop_map(Step::Disconnect),
        1 => connection.prop_map(Step::Unchanged),
        1 => Just(Step::Restart),
    ]
}

/// An acceptor with what its disk would hold.
struct Subject {
    acceptor: Acceptor,
    dialect: Dialect,
    durable: AcceptorState,
    written: Lsn,
    /// Highest flush LSN that was reported since the last truncation.
    reported: Lsn,
}

impl Subject {
    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Persist(state) => {
                    assert!(state.term >= self.durable.term, "the term fell");
                    assert!(state.commit_lsn <= self.acceptor.flush_lsn().max(START));
                    let same_term = state.term == self.durable.term;
                    let other = same_term && state.voted_for != self.durable.voted_for;
                    assert!(!other || self.durable.voted_for.is_none(), "two votes in one term");
                    let configured =
                        |state: &AcceptorState| (state.configuration_term, state.configuration.generation);
                    assert!(configured(&state) >= configured(&self.durable) || self.dialect == Dialect::Neon);
                    self.durable = state;
                }
                Effect::Truncate(at) => {
                    assert!(at >= self.durable.commit_lsn, "committed bytes were truncated");
                    self.written = self.written.min(at);
                    self.reported = self.reported.min(at);
                }
                Effect::Write { at, wal } => {
                    assert_eq!(at, self.written, "a hole");
                    self.written = at.advance(wal.len() as u64);
                }
                Effect::Reply { message, .. } => self.reply(&message),
                Effect::PersistLineage(_) | Effect::Checksum { .. } => {}
            }
        }
    }

    fn reply(&mut self, message: &AcceptorMessage) {
        let (term, flush) = match message {
            AcceptorMessage::Greeting(greeting) => (greeting.term, Lsn::INVALID),
            AcceptorMessage::PreVote(response) => (response.term, response.flush_lsn),
            AcceptorMessage::Vote(response) => {
                assert!(!(response.lost && response.vote_given));
                (response.term, response.flush_lsn)
            }
            AcceptorMessage::Append(response) => (response.term, response.flush_lsn),
            AcceptorMessage::Configure(response) => (response.term, Lsn::INVALID),
            AcceptorMessage::Checksum(_) | AcceptorMessage::Ticket(_) => return,
            AcceptorMessage::Watch(response) => (response.term, response.flush_lsn),
        };
        assert_eq!(term, self.durable.term, "a term was reported before it was durable");
        assert!(flush <= self.written);
        self.reported = self.reported.max(flush);
    }

    /// Gives a message a term and a position that fit; otherwise most messages would be refused for these alone.
    fn fit(&self, mut message: ProposerMessage) -> ProposerMessage {
        let state = self.acceptor.state();
        match &mut message {
            ProposerMessage::Append(append) => {
                (append.term, append.begin_lsn) = (state.term, self.acceptor.write_lsn());
            }
            ProposerMessage::Elected(elected) => {
                // The winner stands on this log up to somewhere below its end.
                let at = elected.start_streaming_at.clamp(START, self.acceptor.flush_lsn());
                let term = state.term.next().unwrap();
                elected.history = state.history.with_election(term, at, Tli::FIRST, START);
                (elected.term, elected.start_streaming_at) = (term, at);
                elected.generation = match self.dialect {
                    Dialect::Holdfast => elected.configuration.generation,
                    Dialect::Neon => Generation(0),
                };
            }
            ProposerMessage::Configure(request) => request.term = state.term,
            ProposerMessage::Vote(request) => request.term = state.term.next().unwrap(),
            _ => {}
        }

        message
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::SendFitting(from, message) => {
                let message = self.fit(message);
                return self.step(Step::Send(from, message));
            }
            Step::Send(from, message) => {
                if !matches!(message, ProposerMessage::Append(_)) {
                    let effects = self.acceptor.flushed(self.written, self.acceptor.write_lsn());
                    self.carry_out(effects);
                }
                let before = self.acceptor.clone();
                match self.acceptor.step(ConnectionId(from), message) {
                    Ok(effects) => self.carry_out(effects),
                    Err(_) => assert_eq!(self.acceptor, before, "a refusal changes nothing"),
                }
            }
            Step::Flush(pending, inside) => {
                let durable = Lsn(self.written.0 - pending).max(self.acceptor.flush_lsn());
                let record_end = Lsn(durable.0 - inside).max(START);
                let effects = self.acceptor.flushed(durable, record_end);
                self.carry_out(effects);
            }
            Step::Checkpoint => {
                let effect = self.acceptor.checkpoint();
                self.carry_out(effect.into_iter().collect());
            }
            Step::Disconnect(connection) => self.acceptor.disconnected(ConnectionId(connection)),
            Step::Unchanged(connection) => {
                let effect = self.acceptor.unchanged_response(ConnectionId(connection));
                self.carry_out(vec![effect]);
            }
            Step::Restart => {
                let lineage = self.acceptor.lineage().clone();
                let end = self.acceptor.flush_lsn();
                self.written = end;
                self.acceptor = Acceptor::new(cluster::copy(1), lineage, self.durable.clone(), end);
            }
        }

        let acceptor = &self.acceptor;
        assert!(acceptor.flush_lsn() <= acceptor.write_lsn() && acceptor.write_lsn() == self.written);
        assert!(acceptor.flush_lsn() >= self.reported, "what was acknowledged is gone");
        let state = acceptor.state();
        assert!(state.commit_lsn <= acceptor.flush_lsn() && state.horizon_lsn <= acceptor.flush_lsn());
        assert!(state.history.last().is_none_or(|last| last.term <= state.term));
        assert!(state.configuration_term <= state.term);
    }
}

fn abuse(dialect: Dialect, lost: bool, steps: Vec<Step>) {
    let lost = lost.then_some(Loss { term: Term(1), acked_upto: START.advance(10) });
    let durable = AcceptorState { term: Term(1), commit_lsn: START, lost, ..cluster::founded() };
    let acceptor = Acceptor::new(cluster::copy(1), lineage(dialect), durable.clone(), START);
    let mut subject = Subject { acceptor, dialect, durable, written: START, reported: Lsn::INVALID };
    let version = if dialect == Dialect::Neon { ProtocolVersion::V3 } else { ProtocolVersion::Holdfast2 };
    for connection in [1, 2] {
        subject.step(Step::Send(connection, greeting(version)));
    }
    steps.into_iter().for_each(|step| subject.step(step));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// No sequence of messages of a `holdfast` proposer breaks a promise of the acceptor.
    #[test]
    fn holdfast_messages_break_no_promise(
        lost in any::<bool>(),
        steps in prop::collection::vec(step(ProtocolVersion::Holdfast2), 0..60),
    ) {
        abuse(Dialect::Holdfast, lost, steps);
    }

    /// No sequence of messages of a `neon` proposer breaks a promise of the acceptor.
    #[test]
    fn neon_messages_break_no_promise(
        lost in any::<bool>(),
        steps in prop::collection::vec(step(ProtocolVersion::V3), 0..60),
    ) {
        abuse(Dialect::Neon, lost, steps);
    }
}
