//! Streaming: sends followers the election, WAL from the buffer or from a donor, and heartbeats.

use bytes::Bytes;
use wal_types::{CopyId, Lsn, NodeId};

use super::peer::{Peer, PeerState};
use super::{CampaignPhase, DonorRange, Proposer};
use crate::APPEND_WAL_BYTES_MAX;
use crate::message::{AppendRequest, ProposerElected, ProposerMessage};
use crate::term_history;

impl Proposer {
    /// Buffers WAL from the primary. Returns false, and buffers nothing, when `at` is not the end of the buffer.
    #[must_use]
    pub fn append(&mut self, at: Lsn, wal: Bytes) -> bool {
        let continues = self.wal.push(at, wal);
        self.trim();
        continues
    }

    /// True while the primary may be read further. A full buffer stops the reading, because bytes that no safekeeper has
    /// flushed are never dropped. The reading goes on when some safekeeper was sent all that is buffered: one record may be
    /// larger than the buffer, and safekeepers acknowledge only whole records.
    pub fn wants_wal(&self) -> bool {
        let end = self.wal.end();
        self.phase == CampaignPhase::Leading
            && (self.wal.len() < self.options.send_buffer_bytes_max
                || self.peers.values().any(|peer| peer.sent() == Some(end)))
    }

    /// WAL in memory, in bytes.
    pub fn buffered_bytes(&self) -> u64 {
        self.wal.len()
    }

    /// The next message for `node`. The driver calls it as often as the connection takes a message.
    pub fn poll_send(&mut self, node: NodeId) -> Option<ProposerMessage> {
        let peer = self.peers.get_mut(&node)?;
        if let Some(message) = peer.outbox.pop_front() {
            return Some(message);
        }
        let sent = peer.sent()?;
        let wal = self.wal.read(sent, APPEND_WAL_BYTES_MAX);
        if wal.is_empty() && !peer.heartbeat {
            return None;
        }
        Some(self.append_message(node, sent, wal))
    }

    /// What `node` needs from a donor before the buffer can serve it.
    pub fn poll_fetch(&self, node: NodeId) -> Option<DonorRange> {
        let lagging = self.peers.get(&node)?;
        let from = lagging.sent()?;
        if from >= self.wal.start() {
            return None;
        }

        let holds = |(&id, peer): (&NodeId, &Peer)| {
            let vote = peer.vote.as_ref().filter(|_| peer.oldest_lsn <= from)?;
            peer.sent()?;
            // Any follower may give what its log has in common with the newest one, not only the donor of the election:
            // among equal logs that one was chosen by its id.
            let common = if vote.lost { Lsn::INVALID } else { peer.common };
            Some((peer.acked.max(common), id))
        };
        let donors = self.peers.iter().filter_map(holds);
        let donors = donors.filter(|&(end, id)| id != node && end > from);
        let (until, donor) =
            donors.max_by_key(|&(end, id)| (lagging.donors.distrusted != Some(id), end, id))?;
        Some(DonorRange { donor, from, until: until.min(self.wal.start()) })
    }

    /// Queues bytes that were fetched from `donor` for `node`. False when they do not continue its stream.
    #[must_use]
    pub fn fetched(&mut self, node: NodeId, donor: NodeId, at: Lsn, wal: &Bytes) -> bool {
        let Some(peer) = self.peers.get_mut(&node).filter(|peer| peer.sent() == Some(at)) else {
            return false;
        };

        peer.donors.last = Some(donor);
        let mut sent = at;
        let mut unsent = wal.clone();
        while !unsent.is_empty() {
            let piece = unsent.split_to(unsent.len().min(APPEND_WAL_BYTES_MAX));
            let end = sent.advance(piece.len() as u64);
            let message = self.append_message(node, sent, piece);
            if let Some(peer) = self.peers.get_mut(&node) {
                peer.outbox.push_back(message);
            }
            sent = end;
        }

        true
    }

    /// Reports that `donor` could not give what `node` needs: another donor is asked, if there is one.
    pub fn donor_failed(&mut self, node: NodeId, donor: NodeId) {
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.donors.distrusted = Some(donor);
        }
    }

    /// Reports that `donor` has removed the WAL at `at`. It is asked for nothing below any more. A safekeeper that nobody
    /// can feed waits, see [`PeerStatus::needs_reseed`](super::PeerStatus::needs_reseed).
    pub fn donor_removed(&mut self, donor: NodeId, at: Lsn) {
        // Its next append response tells the exact beginning.
        if let Some(peer) = self.peers.get_mut(&donor) {
            peer.oldest_lsn = peer.oldest_lsn.max(at.advance(1));
        }
    }

    /// Makes an append due for every follower, even an empty one: it proves that the proposer lives.
    pub fn heartbeat(&mut self) {
        self.peers.values_mut().filter(|peer| peer.sent().is_some()).for_each(|peer| peer.heartbeat = true);
    }

    /// Sends a voter the election with the common point of both logs, and streams to it from there. A voter whose log is
    /// new and begins too high (`new_log_start_max`) stays in `Voted`; every acknowledgement tries it again.
    pub(super) fn start_streaming(&mut self, node: NodeId) {
        let generation = self.membership.generation();
        let configuration = self.membership.configuration().cloned().unwrap_or_default();
        // The voter can follow only from a position at which the buffer or another safekeeper still has WAL, and not from
        // one above all WAL.
        let others = self.peers.iter().filter(|&(&id, _)| id != node);
        let oldest = others.filter_map(|(_, peer)| peer.vote.as_ref().map(|_| peer.oldest_lsn)).min();
        let served_from = oldest.unwrap_or(Lsn::MAX).min(self.wal.start());
        let end = self.wal.end().max(self.term_start());
        let servable = |start: &Lsn| (served_from..=end).contains(start);
        let new_log_start_max = self.new_log_start_max(node);

        let Some(peer) = self.peers.get_mut(&node) else { return };
        let Some(vote) = peer.vote.as_ref() else { return };
        let Some(start) = term_history::common_point(&self.history, &vote.extent()).filter(servable) else {
            peer.state = PeerState::CannotFollow;
            return;
        };
        if vote.is_of_new_log() && start > new_log_start_max {
            return;
        }
        peer.outbox.push_back(ProposerMessage::Elected(ProposerElected {
            generation,
            term: self.term,
            start_streaming_at: start,
            history: self.history.clone(),
            timeline_start_lsn: vote.timeline_start_lsn,
            tli_switches: self.tli_switches.clone(),
            configuration,
            replica: peer.replica.unwrap_or_default(),
            rebase: None,
        }));
        peer.state = PeerState::Streaming { sent: start };
        peer.common = start;
        // The response to this append reports what the node holds under this term.
        peer.heartbeat = true;
    }

    /// Highest position at which a new log on `node` may begin. Nothing below that position will be needed from `node`.
    ///
    /// From its first byte on, a log that begins higher would look like a log that holds everything below. In a quorum it
    /// would count for bytes that it never had, and in the next election it might be the newest log, without those bytes.
    ///
    /// The highest of these positions is safe:
    ///
    /// * the oldest byte and the removal horizon of each voter that has WAL, and the start of the first history entry: what
    ///   is below was committed before it was removed, or all members have had it, or nothing was ever below. A newcomer
    ///   must not be counted for bytes that are *not decided yet*, and none of these is;
    /// * for a node that votes already: what all current members, or a quorum, have acknowledged. A node with a new log has
    ///   acknowledged nothing, so the others hold that without it;
    /// * for a node that is to vote later: only what is committed and on all members. A member that lags may need
    ///   anything above from it.
    fn new_log_start_max(&self, node: NodeId) -> Lsn {
        let sets = self.voting_sets();
        let is_voter = |voter: &CopyId| voter.node == node && self.peer_of(*voter).is_some();
        let held = if sets.iter().flatten().any(is_voter) {
            let by_all = sets.first().and_then(|set| set.iter().map(|&voter| self.acked(voter)).min());
            by_all.unwrap_or_default().max(self.acknowledged_by_quorum())
        } else {
            self.agreed_lsn()
        };
        let votes = self.peers.values().filter_map(|peer| peer.vote.as_ref());
        let agreed = votes
            .filter(|vote| !vote.is_of_new_log())
            .map(|vote| vote.timeline_start_lsn.max(vote.truncate_lsn));
        let first = self.history.entries().first().map(|entry| entry.start);
        agreed.chain(first).fold(held, Lsn::max)
    }

    /// Builds an append for `node`, and counts it as sent.
    fn append_message(&mut self, node: NodeId, begin_lsn: Lsn, wal: Bytes) -> ProposerMessage {
        let truncate_lsn = self.agreed_lsn();
        let append = AppendRequest {
            generation: self.membership.generation(),
            term: self.term,
            epoch_start_lsn: Lsn::INVALID,
            begin_lsn,
            commit_lsn: self.commit_lsn,
            truncate_lsn,
            proposer_id: self.options.proposer_id,
            wal,
        };

        if let Some(peer) = self.peers.get_mut(&node) {
            peer.state = PeerState::Streaming { sent: append.end_lsn() };
            peer.announced_commit = self.commit_lsn;
            peer.heartbeat = false;
        }

        ProposerMessage::Append(append)
    }

    /// Drops from the buffer what every safekeeper has flushed. When the buffer is over its size limit, drops as well what
    /// at least one safekeeper has flushed.
    pub(super) fn trim(&mut self) {
        let acked = || self.peers.values().map(|peer| peer.acked);
        let flushed_by_all = acked().min().unwrap_or_default();
        let flushed_by_one = acked().max().unwrap_or_default();
        let oldest_wanted = Lsn(self.wal.end().0.saturating_sub(self.options.send_buffer_bytes_max));
        self.wal.drop_below(flushed_by_all.max(oldest_wanted.min(flushed_by_one)));
    }
}
