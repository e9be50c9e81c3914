//! [`Bounds`]: how far a check goes.

use consensus::ConfigurationChange;

use crate::names::{MEMBERS, member, primary};

/// What is explored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A message and its answers are one step.
    Atomic,
    /// Messages and answers wait in queues, and may be overtaken by those of other connections.
    InFlight,
    /// As `Atomic`, and a leader may give the log to other members: from nodes 1, 2, 3 to 1, 2, 4 or to 1, 3, 4.
    Members,
    /// As `Atomic`, and a leader may reserve the log for either primary.
    Primary,
    /// As `Atomic`, and two terms are over before it begins: the first left two records on one node, the second another
    /// record on another node, and nothing is committed. Whoever counts copies of what an earlier term wrote loses it.
    EarlierTerms,
}

impl Kind {
    /// Its name in the output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Atomic => "atomic",
            Self::InFlight => "in-flight",
            Self::Members => "members",
            Self::Primary => "primary",
            Self::EarlierTerms => "earlier-terms",
        }
    }
}

/// The limits of one check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// What is explored.
    pub kind: Kind,
    /// Highest term.
    pub terms: u64,
    /// Longest log, in records.
    pub log: usize,
    /// Crashes of nodes, in all.
    pub crashes: u8,
    /// Broken connections, in all.
    pub disconnects: u8,
    /// Messages on their way on one connection, in one direction. Without a limit where only answers wait.
    pub in_flight: usize,
    /// Where messages are on their way, only answers are: a message arrives as soon as it is sent. That leads to the same
    /// nodes; see [`Bounds::answers_wait`].
    pub only_replies_wait: bool,
    /// True when a commit position is told at once; else the next record brings it.
    pub heartbeats: bool,
    /// True when a node may write down its commit position at any time.
    pub checkpoints: bool,
    /// Explores every order of steps of different terms. Else one term comes after the other, which leads to the same
    /// nodes; see [`Action::Term`](crate::action::Action::Term).
    pub interleaved: bool,
    /// Explores states once that differ only in names.
    pub symmetry: bool,
}

impl Bounds {
    /// Safekeepers.
    pub(crate) const fn nodes(&self) -> usize {
        match self.kind {
            Kind::Atomic | Kind::InFlight | Kind::Primary | Kind::EarlierTerms => MEMBERS,
            Kind::Members => MEMBERS + 1,
        }
    }

    /// How many different changes of the configuration there are.
    pub(crate) const fn changes(&self) -> usize {
        match self.kind {
            Kind::Atomic | Kind::InFlight | Kind::EarlierTerms => 0,
            // In one term both changes of members are the same but for names.
            Kind::Members if self.terms == 1 => 1,
            Kind::Members | Kind::Primary => 2,
        }
    }

    /// One of them.
    pub(crate) fn change(&self, choice: usize) -> Option<ConfigurationChange> {
        match self.kind {
            Kind::Atomic | Kind::InFlight | Kind::EarlierTerms => None,
            Kind::Primary => Some(ConfigurationChange::Primary(primary(choice))),
            Kind::Members => {
                let nodes = if choice == 0 { [0, 1, 3] } else { [0, 2, 3] };
                Some(ConfigurationChange::Members(nodes.into_iter().map(member).collect()))
            }
        }
    }

    /// Messages wait until they arrive, and so do answers.
    pub(crate) fn messages_wait(&self) -> bool {
        self.kind == Kind::InFlight && (self.interleaved || !self.only_replies_wait)
    }

    /// Messages arrive as soon as they are sent, what a leader is answered waits, any number of answers.
    ///
    /// Nothing is left out where one term comes after the other. A term has one leader, the nodes talk to it alone, and
    /// what it sends is settled when it is sent. So the arrival of a message can be moved to where it was sent: what the
    /// node did in between belongs to earlier messages of the same connection, which are moved as well; its answer waits
    /// for the moment in which it was heard. A message that never arrives might as well not have been sent. Before
    /// somebody leads nothing waits at all: nodes hold the same when they are asked for a vote as until somebody was
    /// elected, so a vote that is heard later than it is given might as well be asked for later.
    pub(crate) fn replies_wait(&self) -> bool {
        self.kind == Kind::InFlight && !self.messages_wait()
    }

    /// Most effects that one message has, less one.
    pub(crate) const fn effects_max(&self) -> usize {
        3
    }
}

impl Bounds {
    /// What is worth minutes: the largest that ends within ten of them on two cores.
    pub const fn full(kind: Kind) -> Self {
        let (terms, log) = match kind {
            Kind::Atomic => (3, 3),
            Kind::InFlight => (2, 2),
            Kind::Primary => (2, 1),
            Kind::Members => (1, 1),
            Kind::EarlierTerms => (4, 2),
        };
        Self::plain(kind, terms, log)
    }

    /// What is done in seconds.
    pub const fn short(kind: Kind) -> Self {
        let (terms, log) = match kind {
            Kind::Atomic => (2, 1),
            Kind::Primary => (1, 1),
            Kind::InFlight => (1, 1),
            Kind::Members => (1, 0),
            Kind::EarlierTerms => (3, 2),
        };
        Self::plain(kind, terms, log)
    }

    /// Without crashes, without broken connections.
    const fn plain(kind: Kind, terms: u64, log: usize) -> Self {
        let (crashes, disconnects, in_flight) = (0, 0, 1);
        Self {
            kind,
            terms,
            log,
            crashes,
            disconnects,
            in_flight,
            only_replies_wait: true,
            heartbeats: false,
            checkpoints: false,
            interleaved: false,
            symmetry: true,
        }
    }
}
