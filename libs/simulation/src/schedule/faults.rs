//! What goes wrong with nodes and their disks.

use wal_store::Fault;
use wal_types::NodeId;

use super::Schedule;
use crate::invariants::Violation;
use crate::node::Death;

impl Schedule {
    pub(super) fn fault(&mut self, node: NodeId) -> Result<(), Violation> {
        match self.below(10) {
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

    /// An operation of the disk will fail, or there is no room on it any more.
    fn disk_fault(&mut self, node: NodeId) {
        self.cluster.stats.disk_faults += 1;
        let fault = match self.below(7) {
            0..2 => Some(Fault::Sync),
            2..4 => Some(Fault::Write),
            4 => Some(Fault::SyncDir),
            5 => Some(Fault::Read),
            _ => None,
        };
        let full = self.below(2) == 0;
        let index = self.cluster.index(node);
        let cluster = &mut self.cluster;
        cluster.trace.line(format_args!("node {node}: the disk will fail: {fault:?}"));
        match fault {
            Some(fault) => cluster.nodes[index].plan_fault(fault, &mut cluster.rng),
            None => cluster.nodes[index].fill_disk(full),
        }
    }
}
