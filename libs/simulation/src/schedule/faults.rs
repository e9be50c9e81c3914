//! Faults of nodes, their disks and the network.

use wal_store::Fault;
use wal_types::NodeId;

use super::Schedule;
use crate::cluster::WRITERS_MAX;
use crate::invariants::Violation;
use crate::node::Death;

impl Schedule {
    /// A random fault of a node: it crashes now or soon, or its disk fails.
    pub(super) fn fault(&mut self, node: NodeId) -> Result<(), Violation> {
        match self.random_below(10) {
            0..2 => self.cluster.crash(node, Death::Power),
            2 => self.cluster.crash(node, Death::Process),
            3..6 => {
                let index = self.cluster.index(node);
                let cluster = &mut self.cluster;
                cluster.nodes[index].plan_crash(&mut cluster.rng, 12);
                Ok(())
            }
            _ => {
                self.disk_fault(node);
                Ok(())
            }
        }
    }

    /// Makes a disk operation fail soon, or fills or empties the disk.
    fn disk_fault(&mut self, node: NodeId) {
        self.cluster.stats.disk_faults += 1;
        let fault = match self.random_below(7) {
            0..2 => Some(Fault::Sync),
            2..4 => Some(Fault::Write),
            4 => Some(Fault::SyncDir),
            5 => Some(Fault::Read),
            _ => None,
        };

        let full = self.random_below(2) == 0;

        let index = self.cluster.index(node);
        let cluster = &mut self.cluster;
        cluster.trace.line(format_args!("node {node}: the disk will fail: {fault:?}"));
        match fault {
            Some(fault) => cluster.nodes[index].plan_fault(fault, &mut cluster.rng, 4),
            None => cluster.nodes[index].fill_disk(full),
        }
    }

    /// Partitions the network while members change: a leader loses most of the old members and is told to continue with
    /// the nodes that it still reaches; most of the old members hear only of a rival.
    pub(super) fn partition_during_change(&mut self, rival: usize) {
        let Some(leader) =
            (0..WRITERS_MAX).find(|&slot| slot != rival && self.cluster.can_change_members(slot))
        else {
            return;
        };
        let others = self.cluster.lose_majority(leader);
        if others.is_empty() {
            return;
        }
        let primary = (self.random_below(2) == 0).then(|| self.cluster.primaries.len() - 1);
        self.cluster.start_writer(rival, primary);
        others.into_iter().for_each(|node| self.cluster.connect(rival, node));
    }
}
