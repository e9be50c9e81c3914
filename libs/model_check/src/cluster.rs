//! [`State`] and [`Cluster`]: what is explored, and which steps are possible in a state.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use consensus::{AcceptorState, Configuration, Member};
use stateright::{Model, Property};
use wal_types::Generation;

use crate::bounds::{Bounds, Kind};
use crate::coverage::Coverage;
use crate::invariant::{INVARIANTS, Invariant};
use crate::node::Node;
use crate::record::Record;
use crate::shared::{Printed, Shared};
use crate::step::Step;
use crate::symmetry::{self, Print, id};
use crate::writer::{Link, Writer};

/// Safekeepers that are members from the beginning.
pub(crate) const MEMBERS: usize = 3;
/// Proposers.
pub(crate) const WRITERS: usize = 2;

/// Everything that a step can change or depend on.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct State {
    pub(crate) nodes: Vec<Shared<Node>>,
    pub(crate) writers: Vec<Shared<Writer>>,
    /// Of writer `w` to node `n` at `w * nodes.len() + n`.
    pub(crate) links: Vec<Shared<Link>>,
    pub(crate) ledger: Shared<Ledger>,
    pub(crate) crashes_left: u8,
    pub(crate) cuts_left: u8,
}

impl Hash for State {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let print = |swapped: usize| {
            let (columns, common) = self.columns(swapped);
            symmetry::hash(&[columns.concat(), common].concat())
        };
        print(0).min(print(1)).hash(hasher);
        (self.crashes_left, self.cuts_left).hash(hasher);
    }
}

impl State {
    /// What belongs to each node, in an order that does not depend on names, and what belongs to none; with the writers
    /// as they are or in each other's place.
    fn columns(&self, swapped: usize) -> (Vec<Vec<u64>>, Vec<u64>) {
        let nodes = self.nodes.len();
        let mut columns: Vec<Vec<u64>> =
            self.nodes.iter().map(|node| vec![node.print().common[swapped]]).collect();
        let mut common = vec![self.ledger.print().common[swapped]];
        // Four nodes are not alike: one is no member.
        let mut told_apart = nodes == MEMBERS;
        for place in 0..WRITERS {
            let writer = place ^ swapped;
            let print = self.writers[writer].print();
            told_apart &= self.writers[writer].campaign.is_none() || print.columns.len() == nodes;
            common.push(print.common[swapped]);
            for (node, column) in columns.iter_mut().enumerate() {
                column.push(print.columns.get(node).map_or(0, |pair| pair[swapped]));
                column.push(self.links[writer * nodes + node].print().common[swapped]);
            }
        }
        if told_apart {
            columns.sort_unstable();
        }
        (columns, common)
    }
}

impl Printed for Ledger {
    fn print(&self) -> Print {
        Print::of(self)
    }
}

/// A node as configurations list it.
pub(crate) const fn member(node: usize) -> Member {
    Member { id: id(node), host: String::new(), port: 0 }
}

/// The configuration that logs are created with.
pub(crate) fn initial_configuration() -> Configuration {
    Configuration {
        generation: Generation(1),
        members: (0..MEMBERS).map(member).collect(),
        ..Configuration::default()
    }
}

/// What an observer wrote down who sees everything.
#[derive(Clone, Debug, Default, PartialEq, Hash)]
pub(crate) struct Ledger {
    /// The longest log that was ever committed.
    pub(crate) committed: Vec<Record>,
    /// Terms in which somebody was elected, by number.
    pub(crate) elected: Vec<bool>,
    /// Voting sets, by index of node: of the newest configuration that was decided. A commit needs one of them at least.
    pub(crate) voters: Vec<Vec<usize>>,
    /// Configurations that were decided.
    pub(crate) decided: Vec<Configuration>,
    /// What a step has broken.
    pub(crate) broken: Option<Invariant>,
}

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// A writer drops its campaign, if it has one, hears the configurations of the nodes of the mask, and campaigns.
    Begin { writer: usize, term: u64, mask: u8 },
    /// The next message reaches the node, and its answers reach the writer.
    Exchange { writer: usize, node: usize },
    /// The same, but the node crashes after so many effects.
    CrashWithin { writer: usize, node: usize, effects: usize },
    /// The leader changes the configuration.
    Change { writer: usize, choice: usize },
    /// A node restarts.
    Crash { node: usize },
    /// A node writes down its commit position.
    Checkpoint { node: usize },
    /// A message leaves the proposer.
    Send { writer: usize, node: usize },
    /// The next message reaches the node.
    Arrive { writer: usize, node: usize },
    /// The next message of a connection that the writer has left reaches the node.
    ArriveLate { writer: usize, node: usize },
    /// The next answer reaches the writer.
    Answer { writer: usize, node: usize },
    /// A connection breaks; what was on its way is lost.
    Cut { writer: usize, node: usize },
}

/// The model: bounds, and counters of what was seen.
pub(crate) struct Cluster {
    pub(crate) bounds: Bounds,
    pub(crate) coverage: Arc<Coverage>,
}

impl Cluster {
    fn initial(&self) -> State {
        let nodes = self.bounds.nodes();
        let configuration = initial_configuration();
        let disk = AcceptorState { configuration, ..AcceptorState::default() };
        State {
            writers: vec![Shared::new(Writer::default()); WRITERS],
            links: vec![Shared::new(Link::default()); WRITERS * nodes],
            ledger: Shared::new(Ledger { voters: vec![vec![0, 1, 2]], ..Ledger::default() }),
            crashes_left: self.bounds.crashes,
            cuts_left: self.bounds.cuts,
            nodes: (0..nodes).map(|node| Shared::new(Node::new(id(node), disk.clone()))).collect(),
        }
    }

    /// Sets of nodes whose configuration a survey may hear. It matters only once they have different ones.
    fn masks(&self, state: &State) -> Vec<u8> {
        let all = (1_u8 << state.nodes.len()) - 1;
        let initial = initial_configuration();
        let changed = state.nodes.iter().any(|node| node.acceptor.state().configuration != initial);
        if self.bounds.changes() > 0 && changed { (0..=all).collect() } else { vec![all] }
    }

    fn writer_actions(&self, state: &State, writer: usize, actions: &mut Vec<Action>) {
        let in_flight = self.bounds.kind == Kind::InFlight;
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
        // Any term that a survey could lead to.
        let highest = state.nodes.iter().map(|node| node.acceptor.state().term.0).max().unwrap_or_default();
        let terms = state.writers[writer].floor + 1..=self.bounds.terms.min(highest + 1);
        let masks = self.masks(state);
        let begins =
            terms.flat_map(|term| masks.iter().map(move |&mask| Action::Begin { writer, term, mask }));
        actions.extend(begins);
    }
}

impl Model for Cluster {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![self.initial()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.ledger.broken.is_some() {
            return;
        }
        // Writers are alike and so are nodes, until somebody does something.
        if *state == self.initial() {
            actions.push(Action::Begin { writer: 0, term: 1, mask: (1 << state.nodes.len()) - 1 });
            return;
        }
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
        let step = Step::new(self, state);
        match action {
            Action::Begin { writer, term, mask } => step.begin(writer, term, mask),
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
                $(Invariant::$which => Property::always(Invariant::$which.name(), |_: &Cluster, state: &State| {
                    Invariant::$which.holds(state)
                }),)*
            }
        };
    }
    always!(
        OneLeaderPerTerm,
        LogsMatchWhereHistoriesDo,
        CommittedBytesNeverChange,
        ACommitIsDurableOnAQuorum,
        ANodeKeepsWhatItKnowsCommitted,
        APromiseIsDurable,
        ALogHasNoHoles,
        OneConfigurationPerGeneration
    )
}
