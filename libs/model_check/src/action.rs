//! [`Action`]: one step of a model.

use crate::names::WRITERS;

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// A writer drops its campaign, if it has one, and starts a campaign for `term`. In its pre-vote the nodes report
    /// one of the configurations that nodes ever held.
    BeginCampaign { writer: usize, term: u64, configuration: usize },
    /// Nothing more happens in the terms so far; both writers campaign for the next term. `configuration` is what each
    /// pre-vote reports.
    ///
    /// One term may follow the other because nothing that a term does depends on a higher term. A node acts for a term
    /// only before it promises a higher one (checked in every state:
    /// [`Invariant::EarlierTermIsOver`](crate::invariant::Invariant::EarlierTermIsOver)). A campaign learns from a
    /// higher term only that it is over (checked as well), and then it might as well have ended by itself. It begins
    /// with the WAL that its own earlier campaigns left in the primary, and with a configuration that some node once
    /// held, because a pre-vote may report any of them. So in each run two neighbouring steps can change places when
    /// the later one belongs to a lower term. Whatever state the nodes reach in any run, a run that takes the terms one
    /// by one reaches it too.
    ///
    /// Both writers campaign: a campaign without any delivered message is the same as none. They start at once, because
    /// no node is in the term when they run their pre-votes.
    NextTerm { configuration: [usize; WRITERS] },
    /// The next message reaches the node, and its replies reach the writer.
    Exchange { writer: usize, node: usize },
    /// As `Exchange`, but the node crashes after this many effects.
    CrashWithin { writer: usize, node: usize, effects: usize },
    /// The leader changes the configuration.
    Change { writer: usize, choice: usize },
    /// A node restarts.
    Crash { node: usize },
    /// A node persists its commit position.
    Checkpoint { node: usize },
    /// A message leaves the proposer.
    Send { writer: usize, node: usize },
    /// The next message reaches the node.
    Arrive { writer: usize, node: usize },
    /// The next message of a connection that the writer has left reaches the node.
    ArriveLate { writer: usize, node: usize },
    /// The next reply reaches the writer.
    Reply { writer: usize, node: usize },
    /// A connection breaks, and its messages are lost.
    Disconnect { writer: usize, node: usize },
}

/// Two terms that each leave records on one node which no other node has, and commit nothing.
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
