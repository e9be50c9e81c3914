//! Healing after the random events: all faults end, and the cluster must make progress.

use std::time::Duration;

use candidacy::{EndKind, RetryDelays, RetryPolicy};
use consensus::{Dialect, Proposer};
use wal_types::{NodeId, Term};

use super::Schedule;
use crate::cluster::{Cluster, WRITERS_MAX};
use crate::invariants::{
    Violation, healed_cluster_commits_and_catches_up, recovery_finishes, rival_proposers_converge,
};
use crate::node::Death;
use crate::writer::{Writer, primary_id};

/// Rounds in which a healed cluster must finish its recovery, and must commit new WAL.
pub(super) const HEALING_ROUNDS_MAX: u64 = 400;
/// Records written after healing, all of which must be committed.
const LAST_RECORDS: u64 = 5;
/// Time that a round stands for while rivals wait: one message to a node and its reply.
pub(super) const ROUND: Duration = Duration::from_millis(100);
/// Rounds after which an undecided campaign ends: two campaigns may have split the votes and wait for a node that is
/// gone.
pub(super) const CAMPAIGN_ROUNDS_MAX: u64 = 40;
/// One schedule in this many ends with a duel: rivals campaign at once until each has finished.
const DUEL_EVERY_SCHEDULES: u64 = 3;
/// One schedule in this many has a diverged rival for ten simulated minutes.
const DIVERGED_RIVAL_EVERY_SCHEDULES: u64 = 6;
/// One schedule in this many goes on with a fault that lasts, and another one with full disks everywhere.
const PERSISTENT_FAULT_EVERY_SCHEDULES: u64 = 6;
/// Elections within which all rivals must have finished.
const DUEL_ELECTIONS_MAX: u64 = 30;

/// A rival: a campaign that starts again after each end.
struct Rival {
    slot: usize,
    primary: Option<usize>,
    policy: RetryPolicy,
    /// Round in which it starts again.
    starts_at: u64,
    /// Round in which it ends unless it leads.
    ends_at: u64,
    is_done: bool,
}

impl Schedule {
    /// Ends all faults. Then come a recovery, a promotion, and new WAL that must be committed despite rivals.
    pub(super) fn heal(&mut self) -> Result<(), Violation> {
        self.cluster.trace.line(format_args!("healing"));
        self.cluster.is_healing = true;
        (0..WRITERS_MAX).for_each(|slot| self.cluster.end_writer(slot));
        self.cluster.close_half_open();

        for node in self.cluster.node_ids() {
            let index = self.cluster.index(node);
            self.cluster.nodes[index].fill_disk(false);
            // Nodes that are down crash again: that ends the faults planned for their disks.
            self.cluster.crash(node, Death::Process)?;
            if !self.cluster.nodes[index].is_gone {
                let cluster = &mut self.cluster;
                cluster.nodes[index].die(Death::Process, &mut cluster.rng);
                cluster.start_node(node)?;
                self.retire_hidden_damage(node)?;
            }
        }

        let rounds = self.run_until(None, |schedule| {
            let has_recovered = schedule.cluster.writers[0].as_ref().is_some_and(Writer::is_recovery_done);
            let is_holdfast = schedule.cluster.dialect == Dialect::Holdfast;
            has_recovered && (!is_holdfast || schedule.cluster.replace_dead_members(0))
        })?;
        recovery_finishes(rounds, HEALING_ROUNDS_MAX)?;

        let primary = self.cluster.promote(0);
        self.designate(primary)?;
        self.write_final_records(primary);

        // In dialect `neon` a proposer whose server was overtaken by another campaign is replaced together with its
        // server, so there is no duel.
        if self.cluster.dialect == Dialect::Holdfast && self.random_below(DUEL_EVERY_SCHEDULES) == 0 {
            self.duel(primary)?;
            self.write_final_records(primary);
        }
        let may_have_rival =
            self.cluster.dialect == Dialect::Holdfast && self.cluster.designated(0).is_none();
        if may_have_rival && self.random_below(DIVERGED_RIVAL_EVERY_SCHEDULES) == 0 {
            self.diverged_rival(primary)?;
        }

        // Every node must catch up, not only a quorum.
        let rounds = self.run_until(Some(primary), |schedule| schedule.has_caught_up(primary))?;
        healed_cluster_commits_and_catches_up(rounds, HEALING_ROUNDS_MAX)?;
        match self.random_below(PERSISTENT_FAULT_EVERY_SCHEDULES) {
            0 => self.persistent_fault(primary),
            1 => self.full_cluster(primary),
            _ => Ok(()),
        }
    }

    /// A leader does not repair damage that a start does not find: the operator who knows of it removes the node.
    fn retire_hidden_damage(&mut self, node: NodeId) -> Result<(), Violation> {
        let index = self.cluster.index(node);
        let is_hidden = self.cluster.oracle.is_damaged(node) && !self.cluster.nodes[index].is_lost();
        if is_hidden { self.cluster.retire_node(node) } else { Ok(()) }
    }

    /// Designates the new primary when another primary is designated, and in some other schedules.
    fn designate(&mut self, primary: usize) -> Result<(), Violation> {
        let is_reserved = self.cluster.designated(0).is_some();
        if self.cluster.dialect == Dialect::Neon || !(is_reserved || self.random_below(4) == 0) {
            return Ok(());
        }
        let rounds = self.run_until(None, |schedule| {
            schedule.cluster.designate(0, primary);
            schedule.cluster.designated(0) == Some(primary_id(primary))
                && schedule.cluster.writers[0].as_ref().is_some_and(|writer| writer.has_designated)
        })?;
        healed_cluster_commits_and_catches_up(rounds, HEALING_ROUNDS_MAX)
    }

    fn write_final_records(&mut self, primary: usize) {
        for _ in 0..LAST_RECORDS {
            let cluster = &mut self.cluster;
            cluster.primaries[primary].write(&mut cluster.rng);
        }
    }

    /// Two recoveries and the primary's own proposer start at once; each starts again when another deposes it.
    fn duel(&mut self, primary: usize) -> Result<(), Violation> {
        let rival = |(slot, primary)| Rival {
            slot,
            primary,
            policy: RetryPolicy::new(RetryDelays::default()),
            starts_at: 0,
            ends_at: u64::MAX,
            is_done: false,
        };
        let mut rivals: Vec<Rival> = [Some(primary), None, None].into_iter().enumerate().map(rival).collect();

        (0..WRITERS_MAX).for_each(|slot| self.cluster.end_writer(slot));
        let before = self.cluster.stats.elections;
        let elections = |schedule: &Self| schedule.cluster.stats.elections - before;
        let mut round = 0;

        while !rivals.iter().all(|rival| rival.is_done) && elections(self) <= DUEL_ELECTIONS_MAX {
            for rival in &mut rivals {
                self.step_rival(rival, round);
            }
            self.round()?;
            round += 1;
            if round > HEALING_ROUNDS_MAX * 4 {
                self.trace_positions();
                return healed_cluster_commits_and_catches_up(round, HEALING_ROUNDS_MAX);
            }
        }

        self.cluster.stats.duel_elections += elections(self);
        rival_proposers_converge(elections(self), DUEL_ELECTIONS_MAX)
    }

    /// Lets a rival start, end or finish in this round.
    fn step_rival(&mut self, rival: &mut Rival, round: u64) {
        match (&self.cluster.writers[rival.slot], rival.primary) {
            (Some(writer), None) if writer.is_recovery_done() => {
                // A recovery ends with its report.
                rival.is_done = true;
                self.cluster.end_writer(rival.slot);
            }
            (Some(writer), _) if !writer.engine.leads() && round >= rival.ends_at => {
                self.cluster.end_writer(rival.slot);
                self.cluster.end_kinds[rival.slot] = EndKind::Rival { term: Term::ZERO };
            }
            (Some(writer), Some(primary)) => {
                let end = self.cluster.primaries[primary].flush_lsn();
                rival.is_done = writer.engine.leads() && writer.engine.commit_lsn() >= end;
                self.connect_all(rival.slot);
            }
            (Some(_), None) => self.connect_all(rival.slot),
            (None, None) if rival.is_done => {}
            (None, _) if rival.starts_at == round => {
                self.cluster.start_writer(rival.slot, rival.primary);
                self.connect_all(rival.slot);
                rival.starts_at = u64::MAX;
                rival.ends_at = round + CAMPAIGN_ROUNDS_MAX;
            }
            (None, _) if rival.starts_at == u64::MAX => {
                let kind = self.cluster.end_kinds[rival.slot];
                let delay = rival.policy.delay_after(kind, Duration::ZERO, &mut self.cluster.rng);
                rival.starts_at = round + 1 + (delay.as_millis() / ROUND.as_millis()) as u64;
                rival.is_done = false;
            }
            (None, _) => {}
        }
    }

    /// Runs undisturbed rounds until `done`, restarting writer 0 whenever it ends. Returns the number of rounds.
    pub(super) fn run_until(
        &mut self,
        primary: Option<usize>,
        mut done: impl FnMut(&mut Self) -> bool,
    ) -> Result<u64, Violation> {
        for rounds in 0..HEALING_ROUNDS_MAX {
            if done(self) {
                return Ok(rounds);
            }
            if self.cluster.writers[0].as_ref().is_none_or(|writer| writer.primary != primary) {
                self.cluster.start_writer(0, primary);
            }
            self.connect_all(0);
            self.round()?;
        }
        self.trace_positions();
        Ok(HEALING_ROUNDS_MAX)
    }

    /// Adds the positions of all nodes and writers to the trace, to explain a lack of progress.
    pub(super) fn trace_positions(&mut self) {
        let Cluster { nodes, writers, oracle, trace, .. } = &mut self.cluster;
        for node in nodes {
            let (id, is_gone, is_damaged) = (node.id, node.is_gone, oracle.is_damaged(node.id));
            let seen = node.snapshot().map(|at| {
                let known_from = at.history.entries().first().map(|entry| entry.start);
                (at.health, at.term, at.oldest_lsn, at.flush_lsn, at.commit_lsn, at.horizon_lsn, known_from)
            });
            trace.line(format_args!("node {id}: gone {is_gone}, damaged {is_damaged}, {seen:?}"));
        }

        for writer in writers.iter().flatten() {
            let (commit, received) = (writer.engine.commit_lsn(), writer.engine.received_lsn());
            trace.line(format_args!("writer for {:?}: commit {commit}, received {received}", writer.primary));
            for peer in writer.engine.holdfast().map(Proposer::status).unwrap_or_default() {
                trace.line(format_args!("  {peer:?}"));
            }
        }
    }

    pub(super) fn round(&mut self) -> Result<(), Violation> {
        for node in self.cluster.node_ids() {
            self.cluster.tick(node, Duration::from_secs(1))?;
        }
        (0..WRITERS_MAX).for_each(|slot| self.proposer_timers(slot));
        self.work_round()
    }
}
