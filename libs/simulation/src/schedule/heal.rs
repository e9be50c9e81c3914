//! What comes after the trouble: everything is mended, and the cluster has to show that it lives.

use std::time::Duration;

use consensus::{Dialect, Proposer};
use utils::Backoff;
use wal_types::NodeId;

use super::Schedule;
use crate::cluster::{Cluster, WRITERS_MAX};
use crate::invariants::{
    Violation, healed_cluster_commits_and_catches_up, recovery_finishes, rival_proposers_converge,
};
use crate::node::Death;
use crate::writer::{Writer, primary_id};

/// Rounds in which a healed cluster must settle, and must commit something new.
const HEALING_ROUNDS_MAX: u64 = 400;
/// Records written after healing; all of them must be committed.
const LAST_RECORDS: u64 = 5;
/// What a round stands for when rivals wait: a message goes to a node and an answer comes back.
const ROUND: Duration = Duration::from_millis(100);
/// Between two attempts of one rival, as walproposer and its recovery have it.
const RETRY_DELAY_MIN: Duration = Duration::from_millis(200);
const RETRY_DELAY_MAX: Duration = Duration::from_secs(5);
/// Rounds after which an undecided campaign is given up: two may have split the votes, and wait for a node that is gone.
const CAMPAIGN_ROUNDS_MAX: u64 = 40;
/// Rivals come at the end of one schedule in this many.
const DUEL_EVERY_SCHEDULES: u64 = 3;
/// Elections that rivals may need until the last of them is content.
const DUEL_ELECTIONS_MAX: u64 = 30;

/// A campaign that is begun again whenever it ends.
struct Rival {
    slot: usize,
    primary: Option<usize>,
    backoff: Backoff,
    /// Round in which it begins again.
    begins_at: u64,
    /// Round in which it gives up unless it leads.
    gives_up_at: u64,
    is_done: bool,
}

impl Schedule {
    /// Everything that is broken is mended; then a recovery, a promotion, and new WAL that must be committed in spite of
    /// rivals.
    pub(super) fn heal(&mut self) -> Result<(), Violation> {
        self.cluster.trace.line(format_args!("healing"));
        self.cluster.is_healing = true;
        (0..WRITERS_MAX).for_each(|slot| self.cluster.end_writer(slot));
        self.cluster.close_half_open();
        for node in self.cluster.node_ids() {
            let index = self.cluster.index(node);
            self.cluster.nodes[index].fill_disk(false);
            // Also those that are down: what was set to go wrong on their disks ends with them.
            self.cluster.crash(node, Death::Process)?;
            if !self.cluster.nodes[index].is_gone {
                let cluster = &mut self.cluster;
                cluster.nodes[index].die(Death::Process, &mut cluster.rng);
                cluster.start_node(node)?;
                self.retire_hidden_damage(node)?;
            }
        }
        let rounds = self.run_until(None, |schedule| {
            let is_settled = schedule.cluster.writers[0].as_ref().is_some_and(Writer::is_recovery_done);
            let is_own = schedule.cluster.dialect == Dialect::Holdfast;
            is_settled && (!is_own || schedule.cluster.replace_dead_members(0))
        })?;
        recovery_finishes(rounds, HEALING_ROUNDS_MAX)?;
        let primary = self.cluster.promote(0);
        self.designate(primary)?;
        self.write_final_records(primary);
        // A public proposer whose server was overtaken by another campaign is replaced together with the server.
        if self.cluster.dialect == Dialect::Holdfast && self.random_below(DUEL_EVERY_SCHEDULES) == 0 {
            self.duel(primary)?;
            self.write_final_records(primary);
        }
        let end = self.cluster.primaries[primary].flush_lsn();
        // Not only a quorum: everybody catches up.
        let rounds = self.run_until(Some(primary), |schedule| {
            let is_own = schedule.cluster.dialect == Dialect::Holdfast;
            if is_own && !schedule.cluster.replace_dead_members(0) {
                return false;
            }
            let cluster = &schedule.cluster;
            let holds = |id: &NodeId| {
                cluster.nodes[cluster.index(*id)]
                    .serving()
                    .is_some_and(|at| at.flush_lsn == end && at.lost.is_none())
            };
            cluster.oracle.commit_lsn() >= end && cluster.sets(0).iter().flatten().all(holds)
        })?;
        healed_cluster_commits_and_catches_up(rounds, HEALING_ROUNDS_MAX)
    }

    /// Damage that a start does not find is not repaired by a leader: whoever knows of it takes the node away.
    fn retire_hidden_damage(&mut self, node: NodeId) -> Result<(), Violation> {
        let index = self.cluster.index(node);
        let is_hidden = self.cluster.oracle.is_damaged(node) && !self.cluster.nodes[index].is_lost();
        if is_hidden { self.cluster.retire_node(node) } else { Ok(()) }
    }

    /// Where somebody else may write, and now and then elsewhere, the new primary is designated.
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

    /// Two recoveries and the primary's own proposer begin at once; each begins again when another deposes it.
    fn duel(&mut self, primary: usize) -> Result<(), Violation> {
        let rival = |(slot, primary)| Rival {
            slot,
            primary,
            backoff: Backoff::new(RETRY_DELAY_MIN, RETRY_DELAY_MAX),
            begins_at: 0,
            gives_up_at: u64::MAX,
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

    fn step_rival(&mut self, rival: &mut Rival, round: u64) {
        match (&self.cluster.writers[rival.slot], rival.primary) {
            (Some(writer), None) if writer.is_recovery_done() => {
                // A recovery is over when it has reported.
                rival.is_done = true;
                self.cluster.end_writer(rival.slot);
            }
            (Some(writer), _) if !writer.engine.leads() && round >= rival.gives_up_at => {
                self.cluster.end_writer(rival.slot);
            }
            (Some(writer), Some(primary)) => {
                let end = self.cluster.primaries[primary].flush_lsn();
                rival.is_done = writer.engine.leads() && writer.engine.commit_lsn() >= end;
                self.connect_all(rival.slot);
            }
            (Some(_), None) => self.connect_all(rival.slot),
            (None, None) if rival.is_done => {}
            (None, _) if rival.begins_at == round => {
                self.cluster.start_writer(rival.slot, rival.primary);
                self.connect_all(rival.slot);
                rival.begins_at = u64::MAX;
                rival.gives_up_at = round + CAMPAIGN_ROUNDS_MAX;
            }
            (None, _) if rival.begins_at == u64::MAX => {
                let delay = rival.backoff.next_delay(&mut self.cluster.rng);
                rival.begins_at = round + 1 + (delay.as_millis() / ROUND.as_millis()) as u64;
                rival.is_done = false;
            }
            (None, _) => {}
        }
    }

    /// Works undisturbed until `done`, starting writer 0 again whenever it ends; how many rounds that took.
    fn run_until(
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

    /// Who stands where, for whoever wants to know why nothing moves.
    fn trace_positions(&mut self) {
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

    fn round(&mut self) -> Result<(), Violation> {
        for node in self.cluster.node_ids() {
            self.cluster.tick(node, Duration::from_secs(1))?;
        }
        (0..WRITERS_MAX).for_each(|slot| self.proposer_timers(slot));
        self.work_round()
    }
}
