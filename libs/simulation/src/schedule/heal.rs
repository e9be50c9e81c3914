//! What comes after the trouble: everything is mended, and the cluster has to show that it lives.

use std::time::Duration;

use consensus::Dialect;
use utils::Backoff;

use super::Schedule;
use crate::cluster::WRITERS_MAX;
use crate::invariants::{
    Violation, a_healed_cluster_commits_and_catches_up, a_recovery_settles_the_log, rival_proposers_converge,
};
use crate::node::Death;

/// Rounds in which a healed cluster must settle, and must commit something new.
const HEALING_ROUNDS_MAX: u64 = 400;
/// Records written after healing; all of them must be committed.
const LAST_RECORDS: u64 = 5;
/// What a round stands for when rivals wait: a message goes to a node and an answer comes back.
const ROUND: Duration = Duration::from_millis(50);
/// Between two attempts of one rival, as walproposer and its recovery have it.
const RETRY_DELAY_MIN: Duration = Duration::from_millis(200);
const RETRY_DELAY_MAX: Duration = Duration::from_secs(5);
/// Elections that rivals may need until the last of them is content.
const DUEL_ELECTIONS_MAX: u64 = 30;

/// A campaign that is begun again whenever it ends.
struct Rival {
    slot: usize,
    primary: Option<usize>,
    backoff: Backoff,
    /// Round in which it begins again.
    begins_at: u64,
    is_content: bool,
}

impl Schedule {
    /// Everything that is broken is mended; then a recovery, a promotion, and new WAL that must be committed in spite of
    /// rivals.
    pub(super) fn heal(&mut self) -> Result<(), Violation> {
        self.cluster.trace.line(format_args!("healing"));
        self.cluster.is_calm = true;
        (0..WRITERS_MAX).for_each(|slot| self.cluster.end_writer(slot));
        self.cluster.end_strays();
        for node in self.cluster.node_ids() {
            let index = self.cluster.index(node);
            self.cluster.nodes[index].fill_disk(false);
            // Also those that are down: what was set to go wrong on their disks ends with them.
            self.cluster.crash(node, Death::Process)?;
            let cluster = &mut self.cluster;
            cluster.nodes[index].die(Death::Process, &mut cluster.rng);
            cluster.start_node(node)?;
        }
        let rounds = self.until(None, |schedule| {
            schedule.cluster.writers[0].as_ref().is_some_and(crate::writer::Writer::is_settled)
        })?;
        a_recovery_settles_the_log(rounds, HEALING_ROUNDS_MAX)?;
        let primary = self.cluster.promote(0);
        self.write_last(primary);
        // A public proposer whose server was overtaken by another campaign is replaced together with the server.
        if self.cluster.dialect == Dialect::Holdfast {
            self.duel(primary)?;
            self.write_last(primary);
        }
        let end = self.cluster.primaries[primary].flush_lsn();
        // Not only a quorum: everybody catches up.
        let rounds = self.until(Some(primary), |schedule| {
            let mut nodes = schedule.cluster.nodes.iter().filter(|node| !node.is_gone);
            schedule.cluster.oracle.commit_lsn() >= end
                && nodes.all(|node| node.snapshot().is_some_and(|at| at.flush_lsn == end))
        })?;
        a_healed_cluster_commits_and_catches_up(rounds, HEALING_ROUNDS_MAX)
    }

    fn write_last(&mut self, primary: usize) {
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
            is_content: false,
        };
        let mut rivals: Vec<Rival> = [Some(primary), None, None].into_iter().enumerate().map(rival).collect();
        (0..WRITERS_MAX).for_each(|slot| self.cluster.end_writer(slot));
        let before = self.cluster.stats.elections;
        let elections = |schedule: &Self| schedule.cluster.stats.elections - before;
        let mut round = 0;
        while !rivals.iter().all(|rival| rival.is_content) && elections(self) <= DUEL_ELECTIONS_MAX {
            for rival in &mut rivals {
                self.take_turn(rival, round);
            }
            self.round()?;
            round += 1;
            if round > HEALING_ROUNDS_MAX * 4 {
                return a_healed_cluster_commits_and_catches_up(round, HEALING_ROUNDS_MAX);
            }
        }
        self.cluster.stats.duel_elections += elections(self);
        rival_proposers_converge(elections(self), DUEL_ELECTIONS_MAX)
    }

    fn take_turn(&mut self, rival: &mut Rival, round: u64) {
        match (&self.cluster.writers[rival.slot], rival.primary) {
            (Some(writer), None) if writer.is_settled() => {
                // A recovery is over when it has reported.
                rival.is_content = true;
                self.cluster.end_writer(rival.slot);
            }
            (Some(writer), Some(primary)) => {
                let end = self.cluster.primaries[primary].flush_lsn();
                rival.is_content = writer.engine.leads() && writer.engine.commit_lsn() >= end;
                self.connect_all(rival.slot);
            }
            (Some(_), None) => self.connect_all(rival.slot),
            (None, None) if rival.is_content => {}
            (None, _) if rival.begins_at == round => {
                self.cluster.start_writer(rival.slot, rival.primary);
                self.connect_all(rival.slot);
                rival.begins_at = u64::MAX;
            }
            (None, _) if rival.begins_at == u64::MAX => {
                let delay = rival.backoff.next_delay(&mut self.cluster.rng);
                rival.begins_at = round + 1 + (delay.as_millis() / ROUND.as_millis()) as u64;
                rival.is_content = false;
            }
            (None, _) => {}
        }
    }

    /// Works undisturbed until `done`, starting writer 0 again whenever it ends; how many rounds that took.
    fn until(&mut self, primary: Option<usize>, done: impl Fn(&Self) -> bool) -> Result<u64, Violation> {
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
        Ok(HEALING_ROUNDS_MAX)
    }

    fn round(&mut self) -> Result<(), Violation> {
        for node in self.cluster.node_ids() {
            self.cluster.tick(node, Duration::from_secs(1))?;
        }
        (0..WRITERS_MAX).for_each(|slot| self.proposer_time(slot));
        self.work()
    }
}
