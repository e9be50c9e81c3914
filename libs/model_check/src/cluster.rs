//! [`Cluster`]: the model for stateright: initial state, possible actions, next states, properties.

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
use crate::state::ClusterState;
use crate::step::Step;
use crate::writer::Writer;

/// The model: bounds, counters, and the memory of checked parts.
pub(crate) struct Cluster {
    pub(crate) bounds: Bounds,
    pub(crate) coverage: Arc<Coverage>,
    /// Parts of states that were checked already.
    pub(crate) seen: Arc<Seen>,
}

impl Cluster {
    /// The state before the first action.
    fn initial(&self) -> ClusterState {
        let nodes = self.bounds.nodes();
        let configuration = initial_configuration();
        let disk_matters = self.bounds.crashes > 0 || self.bounds.disconnects > 0;
        let disk = AcceptorState { configuration, ..AcceptorState::default() };
        ClusterState {
            writers: vec![Shared::new(Writer::default()); WRITERS],
            links: vec![Shared::new(Link::default()); WRITERS * nodes],
            ledger: Shared::new(Ledger {
                voters: vec![vec![0, 1, 2]],
                configurations: vec![(Term::ZERO, initial_configuration())],
                ..Ledger::default()
            }),
            crashes_left: self.bounds.crashes,
            disconnects_left: self.bounds.disconnects,
            term: 0,
            symmetry: self.bounds.symmetry,
            nodes: (0..nodes)
                .map(|node| Shared::new(Node::new(id(node), disk.clone(), disk_matters)))
                .collect(),
        }
    }

    /// The configurations that a pre-vote before `term` may report. A node that reports a configuration of a term is in
    /// that term. The same configuration as an earlier term wrote it has the same effect, except that the campaign ends
    /// sooner.
    fn known_configurations(state: &ClusterState, term: u64) -> impl Iterator<Item = usize> {
        let known = state.ledger.configurations.as_slice();
        let possible = known.partition_point(move |(by, _)| by.0 < term);
        (0..possible).filter(move |&configuration| {
            known[configuration + 1..possible].iter().all(|(_, same)| *same != known[configuration].1)
        })
    }

    /// Adds the campaigns that may begin.
    fn campaign_starts(&self, state: &ClusterState, actions: &mut Vec<Action>) {
        if self.bounds.interleaved {
            // Any term that a pre-vote could lead to.
            let highest =
                state.nodes.iter().map(|node| node.acceptor.state().term.0).max().unwrap_or_default();
            for writer in 0..WRITERS {
                for term in state.writers[writer].last_term + 1..=self.bounds.terms.min(highest + 1) {
                    let choices = Self::known_configurations(state, term);
                    actions.extend(choices.map(|configuration| Action::BeginCampaign {
                        writer,
                        term,
                        configuration,
                    }));
                }
            }
        } else if state.term < self.bounds.terms {
            for one in Self::known_configurations(state, state.term + 1) {
                let choices = Self::known_configurations(state, state.term + 1);
                actions.extend(choices.map(|other| Action::NextTerm { configuration: [one, other] }));
            }
        }
    }

    /// Adds the actions of one writer.
    fn writer_actions(&self, state: &ClusterState, writer: usize, actions: &mut Vec<Action>) {
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
                actions.push(Action::Reply { writer, node });
            }
            if in_flight && link.is_open && link.to_node.len() < self.bounds.in_flight {
                actions.push(Action::Send { writer, node });
            }
            if link.is_open && state.disconnects_left > 0 {
                actions.push(Action::Disconnect { writer, node });
            }
        }
    }
}

impl Model for Cluster {
    type State = ClusterState;
    type Action = Action;

    fn init_states(&self) -> Vec<ClusterState> {
        let scripted: &[Action] = if self.bounds.kind == Kind::EarlierTerms { &EARLIER_TERMS } else { &[] };
        let step = |state: ClusterState, action: &Action| self.next_state(&state, *action);
        scripted.iter().try_fold(self.initial(), step).into_iter().collect()
    }

    fn actions(&self, state: &ClusterState, actions: &mut Vec<Action>) {
        if state.ledger.violated.is_some() {
            return;
        }
        self.campaign_starts(state, actions);
        for writer in 0..state.writers.len() {
            self.writer_actions(state, writer, actions);
        }
        for node in 0..state.nodes.len() {
            if state.crashes_left > 0 {
                actions.push(Action::Crash { node });
            }
            if self.bounds.checkpoints && state.nodes[node].has_unpersisted_state() {
                actions.push(Action::Checkpoint { node });
            }
        }
    }

    fn next_state(&self, state: &ClusterState, action: Action) -> Option<ClusterState> {
        let step = Step::new(&self.bounds, &self.coverage, state);
        match action {
            Action::BeginCampaign { writer, term, configuration } => {
                step.begin_campaign(writer, term, configuration)
            }
            Action::NextTerm { configuration } => Some(step.next_term(configuration)),
            Action::Exchange { writer, node } => step.exchange(writer, node, usize::MAX),
            Action::CrashWithin { writer, node, effects } => step.exchange(writer, node, effects),
            Action::Change { writer, choice } => step.change(writer, choice),
            Action::Crash { node } => step.crash(node),
            Action::Checkpoint { node } => step.checkpoint(node),
            Action::Send { writer, node } => step.send(writer, node),
            Action::Arrive { writer, node } => step.arrive(writer, node),
            Action::ArriveLate { writer, node } => step.arrive_late(writer, node),
            Action::Reply { writer, node } => step.reply(writer, node),
            Action::Disconnect { writer, node } => step.break_connection(writer, node),
        }
    }

    fn properties(&self) -> Vec<Property<Self>> {
        INVARIANTS.iter().map(|invariant| property(*invariant)).collect()
    }
}

/// The stateright property of an invariant. A property takes a plain function, so each invariant needs its own.
fn property(invariant: Invariant) -> Property<Cluster> {
    macro_rules! always {
        ($($which:ident),*) => {
            match invariant {
                $(Invariant::$which => Property::always(Invariant::$which.name(), |model: &Cluster, state: &ClusterState| {
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
