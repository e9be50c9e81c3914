//! [`Bounds`]: limits of one check.

use consensus::ConfigurationChange;

use crate::names::{MEMBERS, member, primary};

/// Kinds of models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A message and its replies are one step.
    Atomic,
    /// Messages and replies wait in queues, and those of other connections may overtake them.
    InFlight,
    /// As `Atomic`, and a leader may change the members: from nodes 1, 2, 3 to 1, 2, 4 or to 1, 3, 4.
    Members,
    /// As `Atomic`, and a leader may designate either primary.
    Primary,
    /// As `Atomic`, after two finished terms: the first left two records on one node, the second another record on
    /// another node, and nothing is committed. A proposer that counts copies of an earlier term's records loses them.
    EarlierTerms,
}

impl Kind {
    /// Name in the output.
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
    /// Kind of model.
    pub kind: Kind,
    /// Highest term.
    pub terms: u64,
    /// Longest log, in records.
    pub log: usize,
    /// Crashes of nodes, in total.
    pub crashes: u8,
    /// Broken connections, in total.
    pub disconnects: u8,
    /// Messages on their way on one connection, in one direction. Without a limit where only replies wait.
    pub in_flight: usize,
    /// For [`Kind::InFlight`]: only replies wait, and a message arrives as soon as it is sent. That reaches the same
    /// states of nodes; the reason is at `replies_wait`.
    pub only_replies_wait: bool,
    /// Announces a commit position at once; else with the next record.
    pub heartbeats: bool,
    /// Lets a node persist its commit position at any time.
    pub checkpoints: bool,
    /// Explores every order of steps of different terms. Else one term follows the other, which reaches the same states
    /// of nodes; the reason is at `Action::NextTerm`.
    pub interleaved: bool,
    /// Explores states that differ only in names once.
    pub symmetry: bool,
}

impl Bounds {
    /// Number of safekeepers.
    pub(crate) const fn nodes(&self) -> usize {
        match self.kind {
            Kind::Atomic | Kind::InFlight | Kind::Primary | Kind::EarlierTerms => MEMBERS,
            Kind::Members => MEMBERS + 1,
        }
    }

    /// Number of different changes of the configuration.
    pub(crate) const fn changes(&self) -> usize {
        match self.kind {
            Kind::Atomic | Kind::InFlight | Kind::EarlierTerms => 0,
            // In one term both changes of members differ only in names.
            Kind::Members if self.terms == 1 => 1,
            Kind::Members | Kind::Primary => 2,
        }
    }

    /// The change with this number.
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

    /// Messages wait until they arrive, and so do replies.
    pub(crate) fn messages_wait(&self) -> bool {
        self.kind == Kind::InFlight && (self.interleaved || !self.only_replies_wait)
    }

    /// Messages arrive as soon as they are sent; replies to a leader wait, any number of them.
    ///
    /// No state of nodes is left out where one term follows the other. A term has one leader, the nodes talk only to
    /// it, and the content of a message is fixed when it is sent. So the arrival of a message can be moved to the
    /// moment of its sending: what the node did in between belongs to earlier messages of the same connection, which
    /// are moved as well, and the reply waits for the moment in which it was received. A message that never arrives is
    /// the same as one that was never sent. Before a leader is elected nothing waits: nodes hold the same state from
    /// the request of a vote to the election, so a vote that is received later than it is given is the same as one that
    /// is requested later.
    pub(crate) fn replies_wait(&self) -> bool {
        self.kind == Kind::InFlight && !self.messages_wait()
    }

    /// Largest number of effects of one message, less one.
    pub(crate) const fn effects_max(&self) -> usize {
        3
    }
}

impl Bounds {
    /// The largest bounds that end within ten minutes on two cores.
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

    /// Bounds that end within seconds.
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

    /// Bounds without crashes and without broken connections.
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
