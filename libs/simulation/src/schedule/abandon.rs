//! A change of members in vain: the new members die or are cut off around the moment at which they learn of it, perhaps
//! before the old ones do, and leaders try to leave the joint configuration. By chance alone an earlier leader has seldom
//! done what the joint configuration hides from the next one, so two of its endings are played on purpose.

use wal_types::NodeId;

use super::Schedule;
use crate::cluster::WRITERS_MAX;
use crate::invariants::Violation;
use crate::node::Death;

/// Rounds in which new nodes catch up before they are to be members, and in which a few nodes do all that is due.
const ROUNDS: u64 = 4;
/// Most exchanges of a leader with single nodes, before and after the new members are gone.
const EXCHANGES_MAX: u64 = 12;
/// Most exchanges of the next leader with single nodes: enough to be elected.
const NEXT_LEADER_EXCHANGES_MAX: u64 = 40;
/// Most messages to a node until it follows and has acknowledged something.
const MESSAGES_MAX: usize = 8;

impl Schedule {
    pub(super) fn change_in_vain(&mut self) -> Result<(), Violation> {
        let Some(slot) = (0..WRITERS_MAX).find(|&slot| self.cluster.can_change_members(slot)) else {
            return Ok(());
        };
        for _ in 0..=self.random_below(3) {
            self.cluster.add_node();
        }
        self.connect_all(slot);
        for _ in 0..ROUNDS {
            self.work_round()?;
        }
        let old = self.cluster.members(slot);
        let new = self.cluster.change_to_strangers(slot);
        if new.is_empty() {
            return Ok(());
        }

        self.cluster.stats.changes_in_vain += 1;
        self.write();
        match self.random_below(4) {
            0..2 => self.lose_members_at_random(slot, &new),
            2 => self.leave_behind_new_members(slot, &old, &new),
            _ => self.leave_with_a_hidden_end(slot, &old, &new),
        }
    }

    /// Some messages arrive, some members are lost, and the leader or the next one leaves the joint configuration.
    fn lose_members_at_random(&mut self, slot: usize, new: &[NodeId]) -> Result<(), Violation> {
        self.exchange_with_some(slot)?;
        for &node in new {
            match self.random_below(4) {
                0 => self.cluster.crash(node, Death::Power)?,
                1 => self.cluster.crash(node, Death::Process)?,
                2 => self.cluster.cut_connection(slot, node),
                _ => {}
            }
        }
        if self.random_below(2) == 0 {
            self.exchange_with_some(slot)?;
            self.cluster.abandon_change(slot)?;
        }
        if self.random_below(2) == 0 {
            return Ok(());
        }

        let rival = self.start_rival(slot);
        for _ in 0..NEXT_LEADER_EXCHANGES_MAX {
            let (node, count) = (self.random_node(), 1 + self.random_below(3) as usize);
            self.exchange(rival, node, count)?;
            self.cluster.abandon_change(rival)?;
        }
        self.cluster.abandon_change(slot)
    }

    /// The new members alone hold the newest WAL when the old ones accept the joint configuration: then the leader commits
    /// it, dies, and has told no one that the new ones vote alone. The old ones hear of the next leader first.
    fn leave_behind_new_members(
        &mut self,
        slot: usize,
        old: &[NodeId],
        new: &[NodeId],
    ) -> Result<(), Violation> {
        for _ in 0..ROUNDS {
            self.serve(slot, new)?;
        }
        for &node in old {
            self.exchange(slot, node, 1)?;
        }
        self.cluster.end_writer(slot);

        let all: Vec<NodeId> = old.iter().chain(new).copied().collect();
        let rival = self.elect_rival(slot, &all)?;
        for node in all {
            self.exchange(rival, node, 2)?;
            self.cluster.abandon_change(rival)?;
        }
        for _ in 0..ROUNDS {
            self.serve(rival, old)?;
        }
        self.elect_rival(rival, old).map(|_| ())
    }

    /// One new member alone hears that the new ones vote alone. The next leader reaches all others, and leaves the joint
    /// configuration before the new members have it under its term. Then the new members hear of a third leader.
    fn leave_with_a_hidden_end(
        &mut self,
        slot: usize,
        old: &[NodeId],
        new: &[NodeId],
    ) -> Result<(), Violation> {
        let Some((&hidden, others)) = new.split_last() else { return Ok(()) };
        for &node in old {
            self.exchange(slot, node, 2)?;
        }
        for &node in others {
            for _ in 0..MESSAGES_MAX {
                if self.cluster.is_joint(slot) {
                    self.exchange(slot, node, 1)?;
                }
            }
        }
        for _ in 0..ROUNDS {
            self.serve(slot, &[hidden])?;
        }
        self.cluster.end_writer(slot);

        let reached: Vec<NodeId> = old.iter().chain(others).copied().collect();
        let rival = self.elect_rival(slot, &reached)?;
        for _ in 0..ROUNDS {
            self.serve(rival, old)?;
            self.cluster.abandon_change(rival)?;
        }
        let third = self.elect_rival(rival, new)?;
        for _ in 0..ROUNDS {
            self.serve(third, new)?;
        }
        Ok(())
    }

    /// Starts a campaign beside the writer in `slot`, which ends in half of the cases. Returns its slot.
    fn start_rival(&mut self, slot: usize) -> usize {
        if self.random_below(2) == 0 {
            self.cluster.end_writer(slot);
        }
        let rival = (slot + 1) % WRITERS_MAX;
        let primary = (self.random_below(2) == 0).then(|| self.cluster.primaries.len() - 1);
        self.cluster.start_writer(rival, primary);
        self.connect_all(rival);
        rival
    }

    /// Lets a campaign reach these nodes alone until it leads, and no further. Returns its slot.
    fn elect_rival(&mut self, slot: usize, nodes: &[NodeId]) -> Result<usize, Violation> {
        let rival = self.start_rival(slot);
        for _ in 0..MESSAGES_MAX {
            for &node in nodes {
                let leads = |writer: &crate::writer::Writer| writer.engine.leads();
                if !self.cluster.writers[rival].as_ref().is_some_and(leads) {
                    self.exchange(rival, node, 1)?;
                }
            }
        }
        Ok(rival)
    }

    /// Some exchanges with random nodes.
    fn exchange_with_some(&mut self, slot: usize) -> Result<(), Violation> {
        for _ in 0..self.random_below(EXCHANGES_MAX) {
            let (bytes, count) = (1 + self.random_below(4000), 1 + self.random_below(3) as usize);
            self.cluster.stream(slot, bytes);
            let node = self.random_node();
            self.exchange(slot, node, count)?;
        }
        Ok(())
    }

    fn exchange(&mut self, slot: usize, node: NodeId, count: usize) -> Result<(), Violation> {
        self.cluster.send(slot, node, count)?;
        self.cluster.deliver(slot, node, count);
        self.cluster.run_node(node, 8)?;
        self.cluster.receive(slot, node)
    }
}
