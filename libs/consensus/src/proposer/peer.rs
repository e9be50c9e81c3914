//! [`Peer`]: what a proposer knows of one safekeeper, and what it still has to tell it.

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};

use wal_types::{Generation, Lsn, NodeId, Term};

use crate::message::{ProposerMessage, VoteResponse};
use crate::term_history::TermHistory;

/// How far the conversation with a safekeeper has come. Each stage follows from the one before by an answer of the
/// safekeeper, and every stage falls back to `Offline` when the connection ends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum PeerState {
    /// Not connected.
    #[default]
    Offline,
    /// Connected, greeting sent.
    Greeting,
    /// It answered; asked for its position, or waits for the campaign.
    Greeted,
    /// Vote requested.
    Voting,
    /// It answered the vote request; waits for the election to be decided and checked.
    Voted,
    /// It follows this term. `sent` is the end of what was handed to the connection.
    Streaming {
        /// Next byte to send.
        sent: Lsn,
    },
    /// It can't follow: its log ends below everything that this term's history knows.
    Unseeded,
}

/// Position told by a vote or a pre-vote.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Position {
    pub(super) flush_lsn: Lsn,
    pub(super) history: TermHistory,
}

impl Position {
    /// The order of logs: by the term that wrote the end, then by length.
    pub(super) fn age(&self) -> (Term, Lsn) {
        (self.history.last_log_term(self.flush_lsn), self.flush_lsn)
    }
}

/// Who feeds a laggard. A donor's old WAL may be rotten, and nobody notices before the laggard refuses it: then its
/// connection ends, and somebody else is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Feeding {
    /// Whose bytes it was sent last on this connection.
    pub(super) donor: Option<NodeId>,
    /// After whose bytes its last connection ended, or who could not give any. Asked only when nobody else has them.
    pub(super) distrusted: Option<NodeId>,
}

/// Says whom to ask first, not what may be done: states that differ in it alone count as one.
impl Hash for Feeding {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

/// One safekeeper.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Peer {
    pub(super) state: PeerState,
    /// Messages to send before any append.
    pub(super) outbox: VecDeque<ProposerMessage>,
    /// Highest term it was seen in.
    pub(super) term: Term,
    /// From the pre-vote.
    pub(super) surveyed: Option<Position>,
    /// From the vote of this campaign, granted or answered.
    pub(super) vote: Option<VoteResponse>,
    /// Highest flush position that it acknowledged in this term. Outlives the connection: what was durable stays so.
    pub(super) acked: Lsn,
    /// Highest commit position that it reported as persisted in this term.
    pub(super) persisted_commit: Lsn,
    /// Newest generation that it accepted in this term.
    pub(super) configured: Option<Generation>,
    /// Commit position that it was last told.
    pub(super) announced_commit: Lsn,
    /// An empty append is due.
    pub(super) heartbeat: bool,
    /// Who gives it what the buffer no longer has.
    pub(super) feeding: Feeding,
}

impl Peer {
    /// A new connection: the conversation starts over, what is known stays known.
    pub(super) fn connected(&mut self, greeting: ProposerMessage) {
        self.disconnected();
        self.state = PeerState::Greeting;
        self.outbox.push_back(greeting);
    }

    pub(super) fn disconnected(&mut self) {
        self.state = PeerState::Offline;
        self.outbox.clear();
        self.announced_commit = Lsn::INVALID;
        self.heartbeat = false;
        let Feeding { donor, distrusted } = self.feeding;
        self.feeding = Feeding { donor: None, distrusted: donor.or(distrusted) };
    }

    pub(super) const fn is_connected(&self) -> bool {
        !matches!(self.state, PeerState::Offline)
    }

    pub(super) const fn sent(&self) -> Option<Lsn> {
        match self.state {
            PeerState::Streaming { sent } => Some(sent),
            _ => None,
        }
    }
}
