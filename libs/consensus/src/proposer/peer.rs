//! [`Peer`]: what a proposer knows of one safekeeper, and the messages that wait for it.

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};

use thiserror::Error;
use wal_types::{Digest, Generation, Lsn, NodeId, ReplicaId, Term};

use crate::message::{ProposerMessage, VoteResponse};
use crate::term_history::TermHistory;

/// Stage of the conversation with a safekeeper. Each stage follows from the one before by a response of the
/// safekeeper, and every stage falls back to `Offline` when the connection ends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum PeerState {
    /// Not connected.
    #[default]
    Offline,
    /// Connected, greeting sent.
    Greeting,
    /// Greeted; asked for its position, or waiting for the vote request.
    Greeted,
    /// Vote requested.
    Voting,
    /// Responded to the vote request; waiting until the election is decided and checked.
    Voted,
    /// Follows this term.
    Streaming {
        /// Next byte to send: end of what was handed to the connection.
        sent: Lsn,
    },
    /// Connected, and not spoken with: its copy is none of this log.
    Foreign(ForeignCopy),
    /// Cannot follow: its log and this term's history have no common point, its log begins above the leader's WAL, or
    /// neither the buffer nor another voter holds the WAL that it lacks.
    CannotFollow,
}

/// Why the copy of a safekeeper is none of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Error)]
pub enum ForeignCopy {
    /// The configuration lists the number with another copy.
    #[error(
        "this safekeeper's log was created anew, as copy {found}, and has not the promises of the copy that is a member: it \
         does not count; remove the member, then add this copy as a new one"
    )]
    CreatedAnew {
        /// The copy that the safekeeper has.
        found: ReplicaId,
    },
    /// The log was created twice, with different members.
    #[error(
        "this safekeeper's copy belongs to another log of the same name, which was created with other members: it does not \
         count; delete it there"
    )]
    OtherBirth,
}

/// Status of one safekeeper.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PeerStatus {
    /// The safekeeper.
    pub id: NodeId,
    /// Stage of the conversation with it.
    pub state: PeerState,
    /// Flush LSN: acknowledged in this term, else as reported by its vote or pre-vote.
    pub flush_lsn: Lsn,
    /// Persisted commit LSN as reported in this term.
    pub commit_lsn: Lsn,
    /// True while it needs WAL that is no longer buffered.
    pub catching_up: bool,
    /// True when no one has told its copy who the members are: it grants no vote.
    pub unconfigured: bool,
    /// True when no known safekeeper can give it the WAL that it lacks, or nobody can tell where its log agrees with the
    /// leader's. It waits and stays visible; the others go on without it.
    pub needs_reseed: bool,
    /// True while it reports that it lost acknowledged WAL: it follows, and does not vote.
    pub lost: bool,
}

/// Position reported by a pre-vote.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct LogPosition {
    pub(super) start_lsn: Lsn,
    pub(super) flush_lsn: Lsn,
    pub(super) commit_lsn: Lsn,
    pub(super) history: TermHistory,
}

impl LogPosition {
    /// Key that orders logs from old to new: first by the term that wrote the end, then by length.
    pub(super) fn age(&self) -> (Term, Lsn) {
        (self.history.last_log_term(self.flush_lsn), self.flush_lsn)
    }
}

/// Which donor a lagging safekeeper is fed from. A donor's old WAL may be damaged. That shows only when the lagging
/// safekeeper refuses the bytes and closes the connection; then another donor is asked first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct DonorPreference {
    /// Donor of the bytes that were sent last on this connection.
    pub(super) last: Option<NodeId>,
    /// Donor after whose bytes the last connection ended, or that could not give any. Asked again only when no other
    /// safekeeper has the bytes.
    pub(super) distrusted: Option<NodeId>,
}

/// Hashes to nothing: the preference decides only which donor is asked first, so the model checker may treat states that
/// differ in nothing else as one.
impl Hash for DonorPreference {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

/// One safekeeper.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Peer {
    pub(super) state: PeerState,
    /// The copy that it greeted with last; `None` before the first greeting. What is known of the safekeeper is known of this copy.
    pub(super) replica: Option<ReplicaId>,
    /// Birth that it greeted with last.
    pub(super) birth: Option<Digest>,
    /// It greeted without members and without a log.
    pub(super) unconfigured: bool,
    /// First byte that it still holds, as it reported in this term.
    pub(super) oldest_lsn: Lsn,
    /// Messages to send before any append.
    pub(super) outbox: VecDeque<ProposerMessage>,
    /// Highest term that it reported.
    pub(super) term: Term,
    /// Position from its pre-vote.
    pub(super) pre_vote: Option<LogPosition>,
    /// Its last pre-vote or vote said that it lost acknowledged WAL.
    pub(super) lost: bool,
    /// Response to the vote request of this campaign, granted or not.
    pub(super) vote: Option<VoteResponse>,
    /// Position below which its log is this term's log, since it was sent the election on this connection.
    pub(super) common: Lsn,
    /// Highest flush LSN that it acknowledged in this term. Outlives the connection: what was durable stays durable.
    pub(super) acked: Lsn,
    /// Highest commit LSN that it reported as persisted in this term.
    pub(super) persisted_commit: Lsn,
    /// Newest generation that it accepted in this term.
    pub(super) configured: Option<Generation>,
    /// Commit LSN that it was last sent.
    pub(super) announced_commit: Lsn,
    /// An append is due, even an empty one.
    pub(super) heartbeat: bool,
    /// Donors of what the buffer no longer holds.
    pub(super) donors: DonorPreference,
}

impl Peer {
    /// Starts the conversation over. What the safekeeper reported and acknowledged is kept.
    pub(super) fn connected(&mut self, greeting: ProposerMessage) {
        self.disconnected();
        self.state = PeerState::Greeting;
        self.outbox.push_back(greeting);
    }

    /// Records which copy greeted. What another copy reported and acknowledged says nothing about this one.
    pub(super) fn greeted(&mut self, replica: ReplicaId, birth: Option<Digest>) {
        if self.replica != Some(replica) {
            let kept = std::mem::take(self);
            *self =
                Self { replica: Some(replica), state: kept.state, outbox: kept.outbox, ..Self::default() };
        }
        self.birth = birth;
    }

    /// Stops speaking with a copy that is none of this log, and forgets what it reported.
    pub(super) fn dismiss(&mut self, why: ForeignCopy) {
        let Self { replica, birth, .. } = *self;
        *self = Self { state: PeerState::Foreign(why), replica, birth, ..Self::default() };
    }

    pub(super) fn disconnected(&mut self) {
        self.state = PeerState::Offline;
        self.outbox.clear();
        self.common = Lsn::INVALID;
        self.announced_commit = Lsn::INVALID;
        self.heartbeat = false;
        let DonorPreference { last, distrusted } = self.donors;
        self.donors = DonorPreference { last: None, distrusted: last.or(distrusted) };
    }

    pub(super) const fn is_connected(&self) -> bool {
        !matches!(self.state, PeerState::Offline)
    }

    /// Next byte to send while the safekeeper follows.
    pub(super) const fn sent(&self) -> Option<Lsn> {
        match self.state {
            PeerState::Streaming { sent } => Some(sent),
            _ => None,
        }
    }
}
