//! [`Cluster`]: the model, and which steps are possible in a state.

use std::sync::Arc;

use consensus::AcceptorState;
use stateright::{Model, Property};
use wal_types::Term;

use crate::action::{Action, EARLIER_TERMS};
use crate::bounds::{Bounds, Kind};
use crate::coverage::Coverage;
use crate::invariant::{INVARIANTS, Invariant};
use crate::ledger::Ledger;
use crate::link::Link;
use crate::names::{WRITERS, id, initial_configuration};
use crate::node::Node;
use crate::properties;
use crate::seen::Seen;
use crate::shared::Shared;
use crate::state::State;
use crate::step::Step;
use crate::writer::Writer;

/// The model: bounds, and counters of what was seen.
pub(crate) struct Cluster {
    pub(crate) bounds: Bounds,
    pub(crate) coverage: Arc<Coverage>,
    /// What the checks of whole states have in common.
    pub(crate) seen: Arc<Seen>,
}

impl Cluster {
    fn initial(&self) -> State {
        let nodes = self.bounds.nodes();
        let configuration = initial_configuration();
        let disk = AcceptorState { configuration, ..AcceptorState::default() };
        State {
            writers: vec![Shared::new(Writer::default()); WRITERS],
            links: vec![Shared::new(Link::default()); WRITERS * nodes],
            ledger: Shared::new(Ledger {
                voters: vec![vec![0, 1, 2]],
                held: vec![(Term::ZERO, initial_configuration())],
                ..Ledger::default()
            }),
            crashes_left: self.bounds.crashes,
            cuts_left: self.bounds.cuts,
            term: 0,
            symmetry: self.bounds.symmetry,
            nodes: (0..nodes)
                .map(|node| Shared::new(Node::new(id(node), disk.clone(), self.bounds.crashes > 0)))
                .collect(),
        }
    }

    /// The configurations that a survey before `term` may hear of. Who tells one of a term is in that term. Who heard the
    /// same one as it was written by an earlier term does the same, only that it gives up sooner.
    fn surveys(state: &State, term: u64) -> impl Iterator<Item = usize> {
        let held = state.ledger.held.as_slice();
        let possible = held.partition_point(move |(by, _)| by.0 < term);
        (0..possible)
            .filter(move |&heard| held[heard + 1..possible].iter().all(|(_, same)| *same != held[heard].1))
    }

    /// Campaigns that may begin.
    fn begins(&self, state: &State, actions: &mut Vec<Action>) {
        if self.bounds.interleaved {
            // Any term that a survey could lead to.
            let highest =
                state.nodes.iter().map(|node| node.acceptor.state().term.0).max().unwrap_or_default();
            for writer in 0..WRITERS {
                for term in state.writers[writer].floor + 1..=self.bounds.terms.min(highest + 1) {
                    let surveys = Self::surveys(state, term);
                    actions.extend(surveys.map(|heard| Action::Begin { writer, term, heard }));
                }
            }
        } else if state.term < self.bounds.terms {
            for one in Self::surveys(state, state.term + 1) {
                let surveys = Self::surveys(state, state.term + 1);
                actions.extend(surveys.map(|other| Action::Term { heard: [one, other] }));
            }
        }
    }

    fn writer_actions(&self, state: &State, writer: usize, actions: &mut Vec<Action>) {
        let in_flight = self.bounds.messages_wait();
        if state.writers[writer].is_leading() {
            let choices = 0..self.bounds.changes();
            actions.extend(choices.map(|choice| Action::Change { writer, choice }));
        }
        let campaigns = state.writers[writer].campaign.is_some();
        for node in 0..state.nodes.len() {
            let link = &state.links[writer * state.nodes.len() + node];
            if !link.late.is_empty() {
                actions.push(Action::ArriveLate { writer, node });
            }
            if !campaigns {
                continue;
            }
            if !in_flight || !link.is_open {
                actions.push(Action::Exchange { writer, node });
                let effects_max = if state.crashes_left > 0 { self.bounds.effects_max() } else { 0 };
                let crashing = 1..=effects_max;
                actions.extend(crashing.map(|effects| Action::CrashWithin { writer, node, effects }));
            }
            if !link.to_node.is_empty() && in_flight {
                actions.push(Action::Arrive { writer, node });
            }
            if !link.to_writer.is_empty() {
                actions.push(Action::Answer { writer, node });
            }
            if in_flight && link.is_open && link.to_node.len() < self.bounds.in_flight {
                actions.push(Action::Send { writer, node });
            }
            if link.is_open && state.cuts_left > 0 {
                actions.push(Action::Cut { writer, node });
            }
        }
    }
}

impl Model for Cluster {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let scripted: &[Action] = if self.bounds.kind == Kind::EarlierTerms { &EARLIER_TERMS } else { &[] };
        let step = |state: State, action: &Action| self.next_state(&state, *action);
        scripted.iter().try_fold(self.initial(), step).into_iter().collect()
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.ledger.broken.is_some() {
            return;
        }
        self.begins(state, actions);
        for writer in 0..state.writers.len() {
            self.writer_actions(state, writer, actions);
        }
        for node in 0..state.nodes.len() {
            if state.crashes_left > 0 {
                actions.push(Action::Crash { node });
            }
            if self.bounds.checkpoints && state.nodes[node].would_forget() {
                actions.push(Action::Checkpoint { node });
            }
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let step = Step::new(&self.bounds, &self.coverage, state);
        match action {
            Action::Begin { writer, term, heard } => step.begin(writer, term, heard),
            Action::Term { heard } => Some(step.term(heard)),
            Action::Exchange { writer, node } => step.exchange(writer, node, usize::MAX),
            Action::CrashWithin { writer, node, effects } => step.exchange(writer, node, effects),
            Action::Change { writer, choice } => step.change(writer, choice),
            Action::Crash { node } => step.crash(node),
            Action::Checkpoint { node } => step.checkpoint(node),
            Action::Send { writer, node } => step.send(writer, node),
            Action::Arrive { writer, node } => step.arrive(writer, node),
            Action::ArriveLate { writer, node } => step.arrive_late(writer, node),
            Action::Answer { writer, node } => step.answer(writer, node),
            Action::Cut { writer, node } => step.cut(writer, node),
        }
    }

    fn properties(&self) -> Vec<Property<Self>> {
        INVARIANTS.iter().map(|invariant| property(*invariant)).collect()
    }
}

/// A property takes a plain function, so each invariant needs one of its own.
fn property(invariant: Invariant) -> Property<Cluster> {
    macro_rules! always {
        ($($which:ident),*) => {
            match invariant {
                $(Invariant::$which => Property::always(Invariant::$which.name(), |model: &Cluster, state: &State| {
                    properties::holds(Invariant::$which, &model.seen, state)
                }),)*
            }
        };
    }
    always!(
        OneLeaderPerTerm,
        LogsMatchWhereHistoriesMatch,
        CommittedBytesNeverChange,
        CommitIsDurableOnAQuorum,
        NodeKeepsCommittedBytes,
        PromiseIsDurable,
        LogHasNoHoles,
        OneConfigurationPerGeneration,
        EarlierTermIsOver
    )
}
