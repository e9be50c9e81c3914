//! [`State`] and [`Cluster`]: what is explored, and which steps are possible in a state.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use consensus::{AcceptorState, Configuration, Member};
use stateright::{Model, Property};
use wal_types::{Generation, Term};

use crate::bounds::{Bounds, Kind};
use crate::coverage::Coverage;
use crate::invariant::{INVARIANTS, Invariant};
use crate::node::Node;
use crate::record::Record;
use crate::seen::Seen;
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
    /// The term whose steps are taken, where one term comes after the other.
    pub(crate) term: u64,
    /// False when each state is its own.
    pub(crate) symmetry: bool,
}

impl Hash for State {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let print = |swapped: usize| {
            let (columns, common) = self.columns(swapped);
            symmetry::hash(&[columns.concat(), common].concat())
        };
        let print = if self.symmetry { print(0).min(print(1)) } else { print(0) };
        (print, self.crashes_left, self.cuts_left, self.term).hash(hasher);
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
        let mut told_apart = self.symmetry && nodes == MEMBERS;
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
    /// Configurations that a node ever held, and the terms that wrote them. A survey may hear each of them.
    pub(crate) held: Vec<(Term, Configuration)>,
    /// What a step has broken.
    pub(crate) broken: Option<Invariant>,
}

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// A writer drops its campaign, if it has one, hears of one of the configurations that nodes ever held, and campaigns.
    Begin { writer: usize, term: u64, heard: usize },
    /// Nothing happens any more in the terms so far; both writers begin to campaign for the next one.
    ///
    /// Terms may be taken one after the other because nothing that a term does depends on a higher one. What a node
    /// does for a term it does before it promises a higher one (checked in every state:
    /// [`Invariant::EarlierTermIsOver`]). A campaign hears of a higher term only that it is over itself (checked as
    /// well), and then it might as well have stopped by itself. It begins with what its own earlier campaigns left in
    /// the primary's WAL, and with a configuration that some node once held: a survey may hear of every one. So in each
    /// run two neighbouring steps of which the later one belongs to a lower term can change places, and whatever state
    /// the nodes are in at some moment of any run, a run that takes the terms one by one brings them there.
    ///
    /// Both writers campaign: who is never listened to has not campaigned. And they do so at once, because nobody is in
    /// the term yet when they are surveyed.
    Term { heard: [usize; WRITERS] },
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

/// Two terms of which each leaves records on one node, where no other one has them, and nothing is committed.
const EARLIER_TERMS: [Action; 11] = [
    Action::Term { heard: [0, 0] },
    Action::Exchange { writer: 0, node: 0 },
    Action::Exchange { writer: 0, node: 1 },
    Action::Exchange { writer: 0, node: 0 },
    Action::Exchange { writer: 0, node: 0 },
    Action::Exchange { writer: 0, node: 0 },
    Action::Term { heard: [0, 0] },
    Action::Exchange { writer: 1, node: 1 },
    Action::Exchange { writer: 1, node: 2 },
    Action::Exchange { writer: 1, node: 2 },
    Action::Exchange { writer: 1, node: 2 },
];

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
        let step = Step::new(self, state);
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
                    Invariant::$which.holds(model, state)
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
