//! Dead tails on purpose: a primary reaches only one node, another primary takes over without that node, and the node
//! crashes inside the truncation when it learns of the new leader. By chance alone the bytes that replace a tail are
//! mostly the same bytes, written again by the same primary, and a tail that stays in place does no harm.

use wal_types::NodeId;

use super::Schedule;
use crate::cluster::WRITERS_MAX;
use crate::invariants::Violation;
use crate::writer::Writer;

/// Rounds in which an undisturbed quorum decides.
const ROUNDS_MAX: u64 = 10;
/// Records of a tail: a few, or more than fill a segment.
const TAIL_RECORDS: [u64; 4] = [2, 8, 30, 90];
/// Bytes of WAL that a writer takes from its primary in a round. This bounds the tail that the node gets.
const ROUND_BYTES: u64 = 16 * 1024;
/// Disk operations of a truncation, and of the steps before and after it.
const TRUNCATION_OPERATIONS: u64 = 40;

impl Schedule {
    /// Makes a dead tail on `node`, and crashes the node in its truncation.
    pub(super) fn dead_tail(&mut self, node: NodeId) -> Result<(), Violation> {
        for id in self.cluster.node_ids() {
            self.cluster.start_node(id)?;
        }

        let Some((slot, primary)) = self.leading_writer()? else { return Ok(()) };
        let mut others = self.cluster.node_ids();
        others.retain(|id| *id != node);

        let records = TAIL_RECORDS[self.random_below(TAIL_RECORDS.len() as u64) as usize];
        self.write_records(primary, records);
        for _ in 0..2 {
            self.serve(slot, &[node])?;
        }

        // The primary is gone, and the node with its last records is unreachable for now.
        for &other in &others {
            self.cluster.start_node(other)?;
        }

        self.cluster.start_writer(slot, None);
        if !self.serve_until(slot, &others, Writer::is_recovery_done)?
            || self.cluster.designated(slot).is_some()
        {
            return Ok(());
        }

        let successor = self.cluster.promote(slot);
        self.write_records(successor, records / 2 + 1);
        self.cluster.start_writer(slot, Some(successor));
        if self.serve_until(slot, &others, |writer| writer.engine.leads() && writer.is_recovery_done())? {
            self.truncate_and_crash(slot, node)?;
            let all = self.cluster.node_ids();
            for _ in 0..3 {
                self.serve(slot, &all)?;
            }
        }

        self.cluster.compare_logs()
    }

    /// A leading writer (its slot) and its primary; a writer is started when there is none.
    fn leading_writer(&mut self) -> Result<Option<(usize, usize)>, Violation> {
        let writes = |schedule: &Self, slot: usize| {
            let writer = schedule.cluster.writers[slot].as_ref().filter(|writer| writer.engine.leads())?;
            Some((slot, writer.primary?))
        };
        if let Some(found) = (0..WRITERS_MAX).find_map(|slot| writes(self, slot)) {
            return Ok(Some(found));
        }
        let (slot, all) = (self.random_below(WRITERS_MAX as u64) as usize, self.cluster.node_ids());
        self.cluster.start_writer(slot, Some(self.cluster.primaries.len() - 1));
        self.serve_until(slot, &all, |writer| writer.engine.leads())?;
        Ok(writes(self, slot))
    }

    /// A node learns of a leader, crashes inside the truncation, and starts again.
    fn truncate_and_crash(&mut self, slot: usize, node: NodeId) -> Result<(), Violation> {
        let index = self.cluster.index(node);
        for _ in 0..ROUNDS_MAX {
            self.cluster.connect(slot, node);
            self.cluster.send(slot, node, 4)?;
            self.cluster.deliver(slot, node, 4);
            let truncates = self.cluster.nodes[index].may_truncate(4);
            if truncates {
                self.cluster.stats.dead_tails += 1;
                let cluster = &mut self.cluster;
                cluster.nodes[index].plan_crash(&mut cluster.rng, TRUNCATION_OPERATIONS);
            }
            self.cluster.run_node(node, 4)?;
            self.cluster.receive(slot, node)?;
            if truncates {
                break;
            }
        }

        for _ in 0..2 {
            self.cluster.start_node(node)?;
        }
        Ok(())
    }

    fn write_records(&mut self, primary: usize, records: u64) {
        for _ in 0..records {
            let cluster = &mut self.cluster;
            cluster.primaries[primary].write(&mut cluster.rng);
        }
    }

    /// Lets only these nodes and this writer work, until `done` is true of the writer; false when it does not become
    /// true.
    fn serve_until(
        &mut self,
        slot: usize,
        nodes: &[NodeId],
        done: impl Fn(&Writer) -> bool,
    ) -> Result<bool, Violation> {
        for _ in 0..ROUNDS_MAX {
            match &self.cluster.writers[slot] {
                None => return Ok(false),
                Some(writer) if done(writer) => return Ok(true),
                Some(_) => self.serve(slot, nodes)?,
            }
        }
        Ok(false)
    }

    /// One round of one writer and these nodes.
    pub(super) fn serve(&mut self, slot: usize, nodes: &[NodeId]) -> Result<(), Violation> {
        self.cluster.stream(slot, ROUND_BYTES);
        self.proposer_timers(slot);
        for &node in nodes {
            self.cluster.connect(slot, node);
            self.cluster.send(slot, node, 4)?;
            self.cluster.deliver(slot, node, 4);
            self.cluster.run_node(node, 8)?;
            self.cluster.receive(slot, node)?;
        }
        Ok(())
    }
}
