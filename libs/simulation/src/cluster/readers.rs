//! Readers: standbys, and proposers that feed a lagging safekeeper from a donor.

use rand::RngExt;
use wal_types::NodeId;

use super::Cluster;
use crate::invariants::Violation;
use crate::node::Node;
use crate::standby::Received;

/// Largest read from a donor, in bytes; a standby reads up to four times as much.
const READ_BYTES_MAX: u64 = 4096;

impl Cluster {
    /// A standby reads committed WAL from its node.
    pub(crate) fn read(&mut self, standby: usize) -> Result<(), Violation> {
        let (node, from) = (self.standbys[standby].node, self.standbys[standby].position);
        let index = self.index(node);
        // Damaged bytes fail a checksum at the standby, which is not simulated.
        if self.oracle.is_damaged(node) {
            return Ok(());
        }

        let bytes_max = self.rng.random_range(1..=4 * READ_BYTES_MAX) as usize;
        match self.standbys[standby].receive(&self.nodes[index], bytes_max) {
            Received::Bytes(bytes) => {
                self.stats.reads += 1;
                self.oracle.reader_sees_only_committed_bytes(node, from, &bytes)
            }
            Received::Nothing => Ok(()),
            Received::Removed => {
                // The standby is rebuilt from a backup.
                self.standbys[standby].position = self.oracle.commit_lsn();
                Ok(())
            }
        }
    }

    /// A standby connects to another node.
    pub(crate) fn move_standby(&mut self, standby: usize) {
        let ids = self.node_ids();
        let node = ids[self.rng.random_range(0..ids.len())];
        self.standbys[standby].connect(node);
    }

    /// Feeds a lagging safekeeper from its donor, while the donor is in the leader's term.
    pub(super) fn fetch(&mut self, slot: usize, node: NodeId) -> Result<(), Violation> {
        let Some(writer) = &mut self.writers[slot] else { return Ok(()) };
        let Some(fetch) = writer.engine.poll_fetch(node) else { return Ok(()) };

        let donor = self.nodes.iter().find(|one| one.id == fetch.donor);
        let term = writer.engine.term();
        let read = donor.and_then(|donor| {
            let snapshot = donor.serving().filter(|snapshot| snapshot.term == term)?;
            let until = fetch.until.min(snapshot.flush_lsn).min(fetch.from.advance(READ_BYTES_MAX));
            Some((donor, donor.read(fetch.from, until))).filter(|(_, wal)| !wal.is_empty())
        });

        let Some((donor, wal)) = read else {
            let removed = donor.and_then(Node::serving).is_some_and(|at| at.oldest_lsn > fetch.from);
            if let Some(proposer) = writer.engine.holdfast_mut() {
                if removed {
                    proposer.donor_removed(fetch.donor, fetch.from);
                }
                proposer.donor_failed(node, fetch.donor);
            }
            return Ok(());
        };

        self.stats.fetches += 1;
        let end = fetch.from.advance(wal.len() as u64);
        // The mirror of a node whose disk has just stopped is out of date.
        if donor.is_mirrored() && fetch.from >= donor.mirror.base() && end <= donor.mirror.end() {
            let held = donor.mirror.slice(fetch.from, end);
            self.oracle.donor_serves_its_own_log(fetch.donor, fetch.from, &wal, held)?;
        }

        let is_taken = writer.engine.fetched(node, fetch.donor, fetch.from, &wal.into());
        assert!(is_taken, "the proposer takes what it asked for");
        Ok(())
    }
}
