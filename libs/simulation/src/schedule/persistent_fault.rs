//! One fault that lasts: a member is dead, its disk is full, fails or is slow, for half a simulated minute in which the leader
//! is replaced now and then. The others must go on committing. When the fault ends, all members must catch up.

use std::time::Duration;

use consensus::{Dialect, Proposer};
use wal_store::Fault;
use wal_types::NodeId;

use super::Schedule;
use super::diverged_rival::Side;
use super::heal::{HEALING_ROUNDS_MAX, ROUND};
use crate::invariants::{
    Violation, buffered_wal_is_bounded, full_cluster_elects, healed_cluster_commits_and_catches_up,
    persistent_fault_stops_no_commit,
};
use crate::node::Death;
use crate::writer::{SEND_BUFFER_BYTES_MAX, Writer};

/// Rounds of the fault.
const ROUNDS: u64 = 300;
/// Rounds within which a record is committed, an election in between included: five seconds.
const COMMIT_ROUNDS_MAX: u64 = 50;
/// WAL beside the limit of a buffer: the piece that was compared, up to a segment, goes as a whole, and a little is not flushed.
const BESIDE_BUFFER_BYTES_MAX: u64 = 20 * 1024;
/// The leader's process ends after each so many rounds.
const LEADER_RESTARTS_EVERY: u64 = 90;
/// A slow disk serves in one round of so many.
const SLOW_EVERY: u64 = 20;
/// Members of the smallest set that survives one failure.
const MEMBERS_MIN: usize = 3;
/// Rounds within which a cluster on full disks elects.
const FULL_ROUNDS_MAX: u64 = 100;
/// Records of a dead tail on a full disk.
const TAIL_RECORDS: u64 = 8;

/// What is wrong with one member until the fault ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lasting {
    Dead,
    Full,
    Fails(Fault),
    Slow,
    /// No operation ends, and all connections stay.
    Hangs,
}

const FAULTS: [Lasting; 8] = [
    Lasting::Dead,
    Lasting::Full,
    Lasting::Fails(Fault::Sync),
    Lasting::Fails(Fault::SyncDir),
    Lasting::Fails(Fault::Write),
    Lasting::Fails(Fault::Read),
    Lasting::Slow,
    Lasting::Hangs,
];

impl Schedule {
    /// Half a minute with one fault, on a healed cluster whose leader writes the WAL of `primary`.
    pub(super) fn persistent_fault(&mut self, primary: usize) -> Result<(), Violation> {
        let Some(member) = self.member_to_spare() else { return Ok(()) };
        let fault = FAULTS[self.random_below(FAULTS.len() as u64) as usize];
        self.cluster.trace.line(format_args!("node {member}: a fault that lasts: {fault:?}"));
        self.cluster.stats.persistent_faults += 1;
        if fault == Lasting::Fails(Fault::Read) {
            // What cannot be read for so long counts as lost.
            self.cluster.oracle.record_damage(member);
        }

        let mut leader = Side::new(0, primary, 0);
        let mut waiting = None;
        for round in 0..ROUNDS {
            self.keep_faulty(member, fault, round)?;
            if round % LEADER_RESTARTS_EVERY == LEADER_RESTARTS_EVERY - 1 {
                self.cluster.end_writer(0);
                leader.starts_at = round;
            }
            self.step_side(&mut leader, round);
            let cluster = &mut self.cluster;
            cluster.primaries[primary].write_plain(&mut cluster.rng);
            self.short_round()?;
            self.check_buffer()?;

            let (end, committed) =
                (self.cluster.primaries[primary].flush_lsn(), self.cluster.oracle.commit_lsn());
            let (wanted, since) = *waiting.get_or_insert((end, round));
            if committed >= wanted {
                waiting = None;
            } else if round - since > COMMIT_ROUNDS_MAX {
                self.trace_positions();
            }
            persistent_fault_stops_no_commit(&format!("{fault:?}"), round - since, COMMIT_ROUNDS_MAX)?;
        }

        self.end_fault(member, fault)?;
        let rounds = self.run_until(Some(primary), |schedule| schedule.has_caught_up(primary))?;
        healed_cluster_commits_and_catches_up(rounds, HEALING_ROUNDS_MAX)
    }

    /// Checks the memory of a leader that has committed something in its term.
    fn check_buffer(&self) -> Result<(), Violation> {
        let writer = self.cluster.writers[0].as_ref();
        let commits = |writer: &&Writer| {
            writer.engine.election().is_some_and(|election| writer.engine.commit_lsn() > election.start)
        };
        let proposer = writer.filter(commits).and_then(|writer| writer.engine.holdfast());
        let bytes = proposer.map_or(0, Proposer::buffered_bytes);
        buffered_wal_is_bounded(bytes, SEND_BUFFER_BYTES_MAX + BESIDE_BUFFER_BYTES_MAX)
    }

    /// A member without which the others are still a majority, with all disks whole.
    fn member_to_spare(&mut self) -> Option<NodeId> {
        let sets = self.cluster.sets(0);
        let members = sets.first().filter(|set| sets.len() == 1 && set.len() >= MEMBERS_MIN)?;
        let member = members[self.random_below(members.len() as u64) as usize];
        let is_possible = self.cluster.dialect == Dialect::Holdfast
            && !self.cluster.is_beyond_budget
            && self.cluster.budget_allows_loss(member);
        is_possible.then_some(member)
    }

    /// Lets the fault go on in this round.
    fn keep_faulty(&mut self, member: NodeId, fault: Lasting, round: u64) -> Result<(), Violation> {
        let index = self.cluster.index(member);
        let node = &mut self.cluster.nodes[index];
        match fault {
            Lasting::Dead => return self.cluster.crash(member, Death::Power),
            // What the node removes is filled again.
            Lasting::Full => node.fill_disk(true),
            Lasting::Fails(kind) => node.disk.fail_for_good(Some(kind)),
            Lasting::Hangs => node.is_stalled = true,
            Lasting::Slow => node.is_stalled = !round.is_multiple_of(SLOW_EVERY),
        }
        Ok(())
    }

    /// Ends the fault. An operator restarts the node.
    fn end_fault(&mut self, member: NodeId, fault: Lasting) -> Result<(), Violation> {
        self.cluster.trace.line(format_args!("node {member}: the fault {fault:?} ends"));
        let index = self.cluster.index(member);
        let node = &mut self.cluster.nodes[index];
        node.is_stalled = false;
        node.fill_disk(false);
        node.disk.fail_for_good(None);
        if fault != Lasting::Slow {
            self.cluster.crash(member, Death::Process)?;
            self.cluster.start_node(member)?;
        }
        Ok(())
    }

    /// All members hold and commit everything that `primary` wrote. Members that no one can feed are replaced.
    pub(super) fn has_caught_up(&mut self, primary: usize) -> bool {
        let end = self.cluster.primaries[primary].flush_lsn();
        if self.cluster.dialect == Dialect::Holdfast && !self.cluster.replace_dead_members(0) {
            return false;
        }
        let cluster = &self.cluster;
        let holds = |id: &NodeId| {
            let at = cluster.nodes[cluster.index(*id)].serving();
            at.is_some_and(|at| at.flush_lsn == end && at.lost.is_none())
        };
        cluster.oracle.commit_lsn() >= end && cluster.sets(0).iter().flatten().all(holds)
    }

    /// Every disk is full, one of them with a dead tail, and all nodes lost power: they must elect, and follow, all the same.
    pub(super) fn full_cluster(&mut self, primary: usize) -> Result<(), Violation> {
        let Some(with_tail) = self.member_to_spare() else { return Ok(()) };
        self.cluster.stats.full_clusters += 1;
        let members: Vec<NodeId> = self.cluster.sets(0).concat();
        let others: Vec<NodeId> = members.iter().copied().filter(|id| *id != with_tail).collect();
        for _ in 0..TAIL_RECORDS {
            let cluster = &mut self.cluster;
            cluster.primaries[primary].write_plain(&mut cluster.rng);
        }
        (0..2).try_for_each(|_| self.serve(0, &[with_tail]))?;

        self.cluster.end_writer(0);
        for &node in &members {
            let index = self.cluster.index(node);
            self.cluster.crash(node, Death::Power)?;
            self.cluster.nodes[index].fill_disk(true);
        }
        others.iter().try_for_each(|&node| self.cluster.start_node(node))?;
        self.recover_full(&others)?;
        self.cluster.start_node(with_tail)?;
        self.recover_full(&members)?;

        for &node in &members {
            let index = self.cluster.index(node);
            self.cluster.nodes[index].fill_disk(false);
        }
        let rounds = self.run_until(Some(primary), |schedule| schedule.has_caught_up(primary))?;
        healed_cluster_commits_and_catches_up(rounds, HEALING_ROUNDS_MAX)
    }

    /// Runs a recovery until it is finished and all of these nodes follow it.
    fn recover_full(&mut self, nodes: &[NodeId]) -> Result<(), Violation> {
        let follows = |schedule: &Self| {
            let Some(writer) = schedule.cluster.writers[0].as_ref().filter(|one| one.primary.is_none())
            else {
                return false;
            };
            let term = writer.engine.term();
            let is_led = |id: &NodeId| {
                let at = schedule.cluster.nodes[schedule.cluster.index(*id)].serving();
                at.is_some_and(|at| at.history.last().is_some_and(|last| last.term == term))
            };
            Writer::is_recovery_done(writer) && nodes.iter().all(is_led)
        };
        let mut rounds = 0;
        while rounds < FULL_ROUNDS_MAX && !follows(self) {
            if self.cluster.writers[0].is_none() {
                self.cluster.start_writer(0, None);
            }
            self.connect_all(0);
            self.short_round()?;
            rounds += 1;
        }
        if rounds == FULL_ROUNDS_MAX {
            self.trace_positions();
        }
        full_cluster_elects(rounds, FULL_ROUNDS_MAX)
    }

    /// One round of [`ROUND`].
    fn short_round(&mut self) -> Result<(), Violation> {
        let passed: Duration = ROUND;
        self.cluster.node_ids().into_iter().try_for_each(|node| self.cluster.tick(node, passed))?;
        self.proposer_timers(0);
        self.work_round()
    }
}
