//! Invariants of readers: bytes that standbys and proposers are served.

use consensus::{AcceptorMessage, Dialect};
use wal_store::Snapshot;
use wal_types::{Lsn, NodeId};

use super::{Oracle, Violation, ensure};
use crate::mirror::{first_difference, offset};

impl Oracle {
    /// S6 excludes: a sender keeps a file open across a truncation and sends the dead tail from it, or sends WAL that
    /// is flushed but not committed: a standby replays bytes that the log will never have, and cannot undo them.
    pub(crate) fn reader_sees_only_committed_bytes(
        &self,
        node: NodeId,
        from: Lsn,
        bytes: &[u8],
    ) -> Result<(), Violation> {
        let name = "reader_sees_only_committed_bytes";
        let end = from.advance(bytes.len() as u64);
        ensure(name, end <= self.commit_lsn(), || {
            format!("node {node} serves [{from}, {end}), committed is {}", self.commit_lsn())
        })?;
        let expected = &self.committed[offset(from)..offset(end)];
        ensure(name, bytes == expected, || {
            let same = from.advance(first_difference(bytes, expected) as u64);
            format!("node {node} serves other bytes at {same} than the committed ones")
        })
    }

    /// S6, for a proposer that reads a donor's log to feed another node, excludes: the proposer gets bytes of another
    /// term than it named, or bytes above the donor's flush position, and sends them on as its own.
    pub(crate) fn donor_serves_its_own_log(
        &self,
        node: NodeId,
        from: Lsn,
        bytes: &[u8],
        log: &[u8],
    ) -> Result<(), Violation> {
        ensure("donor_serves_its_own_log", self.is_damaged(node) || bytes == log, || {
            let same = from.advance(first_difference(bytes, log) as u64);
            format!("node {node} serves other bytes at {same} than its log has")
        })
    }

    /// Excludes: a node reports that its log begins where it began before old segments were removed. The leader waits
    /// for it to feed a lagging safekeeper: nothing ever comes, and no operator learns that the lagging safekeeper must
    /// be rebuilt.
    pub(crate) fn node_offers_only_wal_it_has(
        &self,
        seen: &Snapshot,
        node: NodeId,
        message: &AcceptorMessage,
    ) -> Result<(), Violation> {
        let offered = match message {
            // The public protocol does not report where a log begins.
            _ if seen.lineage.dialect == Dialect::Neon => return Ok(()),
            AcceptorMessage::PreVote(response) => response.start_lsn,
            AcceptorMessage::Vote(response) => response.timeline_start_lsn,
            _ => return Ok(()),
        };
        let has = seen.oldest_lsn.min(seen.flush_lsn);
        ensure("node_offers_only_wal_it_has", offered >= has, || {
            format!("node {node} offers its log from {offered} on, it has none below {}", seen.oldest_lsn)
        })
    }
}
