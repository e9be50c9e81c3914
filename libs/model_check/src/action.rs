//! [`Action`]: one step of a model.

use crate::names::WRITERS;

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// A writer drops its campaign, if it has one, hears of one of the configurations that nodes ever held, and campaigns.
    BeginCampaign { writer: usize, term: u64, configuration: usize },
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
    NextTerm { configuration: [usize; WRITERS] },
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
    Reply { writer: usize, node: usize },
    /// A connection breaks; what was on its way is lost.
    Disconnect { writer: usize, node: usize },
}

/// Two terms of which each leaves records on one node, where no other one has them, and nothing is committed.
pub(crate) const EARLIER_TERMS: [Action; 11] = [
    Action::NextTerm { configuration: [0, 0] },
    Action::Exchange { writer: 0, node: 0 },
    Action::Exchange { writer: 0, node: 1 },
    Action::Exchange { writer: 0, node: 0 },
    Action::Exchange { writer: 0, node: 0 },
    Action::Exchange { writer: 0, node: 0 },
    Action::NextTerm { configuration: [0, 0] },
    Action::Exchange { writer: 1, node: 1 },
    Action::Exchange { writer: 1, node: 2 },
    Action::Exchange { writer: 1, node: 2 },
    Action::Exchange { writer: 1, node: 2 },
];
