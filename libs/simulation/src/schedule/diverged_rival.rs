//! A diverged rival: a clone of the primary that was rolled back, has written other WAL since, and tries to lead for ten
//! simulated minutes beside the rightful primary. Both wait between two attempts as the product's policy says.

use std::time::Duration;

use candidacy::{EndKind, RetryDelays, RetryPolicy};
use wal_types::{Lsn, Term};

use super::Schedule;
use super::heal::{CAMPAIGN_ROUNDS_MAX, HEALING_ROUNDS_MAX, ROUND};
use crate::cluster::WRITERS_MAX;
use crate::invariants::{
    Violation, diverged_rival_spends_no_term, diverged_rival_stays_away,
    healed_cluster_commits_and_catches_up, rightful_leader_leads,
};
use crate::primary::SEGMENT_SIZE;

/// Rounds of ten minutes.
const ROUNDS: u64 = 6000;
/// Attempts of the rival in that time: at once, and then at least two minutes after each other.
const ATTEMPTS_MAX: u64 = 6;
/// Rounds in which all nodes learn what was written last.
const SETTLING_ROUNDS: u64 = 10;
/// Records that the rightful primary writes after each attempt of the rival.
const RECORDS: u64 = 2;
/// Where in a segment the log ends at first: far enough behind its start that the clone parts from the log in this
/// segment, and far enough before its end that both stay in it.
const END_OFFSETS: std::ops::Range<u64> = 2000..6000;

/// A candidate: it starts again after each end, when the product's policy says so.
pub(super) struct Side {
    slot: usize,
    primary: usize,
    policy: RetryPolicy,
    /// Round of the last start, and of the next one.
    started_at: u64,
    pub(super) starts_at: u64,
    attempts: u64,
    /// Before an attempt its server writes at least up to here.
    writes_up_to: Lsn,
}

impl Side {
    pub(super) fn new(slot: usize, primary: usize, starts_at: u64) -> Self {
        let policy = RetryPolicy::new(RetryDelays::default());
        Self { slot, primary, policy, started_at: 0, starts_at, attempts: 0, writes_up_to: Lsn::INVALID }
    }
}

impl Schedule {
    /// Ten minutes with a diverged rival in slot 1, while `primary` leads in slot 0.
    pub(super) fn diverged_rival(&mut self, primary: usize) -> Result<(), Violation> {
        self.cluster.stats.diverged_rivals += 1;
        while !END_OFFSETS
            .contains(&SEGMENT_SIZE.offset_of(self.cluster.primaries[primary].flush_lsn()).into())
        {
            self.write_plain(primary);
        }
        self.commit_all(primary)?;
        let clone = self.cluster.roll_back(primary);
        self.cluster.trace.line(format_args!("primary {clone} is a diverged clone of primary {primary}"));

        // The rightful primary begins to lead before the rival comes.
        let mut sides = [Side::new(0, primary, 0), Side::new(1, clone, SETTLING_ROUNDS * 4)];
        sides[1].writes_up_to = self.cluster.primaries[primary].flush_lsn();
        (0..WRITERS_MAX).for_each(|slot| self.cluster.end_writer(slot));
        let (mut round, mut led, mut terms, mut written_at) = (0, 0, Term::ZERO, 0);
        while round < ROUNDS {
            for side in &mut sides {
                if self.step_side(side, round) && side.slot == 1 {
                    (0..RECORDS).for_each(|_| self.write_plain(primary));
                    side.writes_up_to = self.cluster.primaries[primary].flush_lsn();
                    written_at = round;
                }
            }
            self.round()?;
            let rival = self.cluster.writers[1].as_ref();
            terms = terms.max(rival.map_or(Term::ZERO, |writer| writer.engine.term()));
            let leads = self.cluster.writers[0].as_ref().is_some_and(|writer| writer.engine.leads());
            led += u64::from(leads);
            round += 1;

            // While the one leads and the other waits, nothing happens.
            let waits = rival.is_none() && sides[1].starts_at != u64::MAX;
            if leads && waits && round > written_at + SETTLING_ROUNDS {
                let next = sides[1].starts_at.min(ROUNDS).max(round);
                led += next - round;
                round = next;
            }
        }

        self.cluster.end_writer(1);
        rightful_leader_leads(led, ROUNDS)?;
        diverged_rival_spends_no_term(terms)?;
        diverged_rival_stays_away(sides[1].attempts, ATTEMPTS_MAX)
    }

    /// Lets a candidate start, end or wait in this round. True when it has ended.
    pub(super) fn step_side(&mut self, side: &mut Side, round: u64) -> bool {
        match &self.cluster.writers[side.slot] {
            Some(writer) if !writer.engine.leads() && round >= side.started_at + CAMPAIGN_ROUNDS_MAX => {
                self.cluster.end_writer(side.slot);
                self.cluster.end_kinds[side.slot] = EndKind::Rival { term: Term::ZERO };
            }
            Some(_) => self.connect_all(side.slot),
            None if side.starts_at == round => {
                // The clone has as much WAL as the log: its position gives it no excuse.
                while self.cluster.primaries[side.primary].flush_lsn() < side.writes_up_to {
                    self.write_plain(side.primary);
                }
                self.cluster.start_writer(side.slot, Some(side.primary));
                self.connect_all(side.slot);
                (side.started_at, side.starts_at) = (round, u64::MAX);
                side.attempts += 1;
            }
            None if side.starts_at == u64::MAX => {
                let lasted = ROUND * u32::try_from(round - side.started_at).unwrap_or(u32::MAX);
                let kind = self.cluster.end_kinds[side.slot];
                let delay: Duration = side.policy.delay_after(kind, lasted, &mut self.cluster.rng);
                side.starts_at = round + 1 + (delay.as_millis() / ROUND.as_millis()) as u64;
                return true;
            }
            None => {}
        }
        false
    }

    fn commit_all(&mut self, primary: usize) -> Result<(), Violation> {
        let end = self.cluster.primaries[primary].flush_lsn();
        let rounds = self.run_until(Some(primary), |schedule| schedule.cluster.oracle.commit_lsn() >= end)?;
        healed_cluster_commits_and_catches_up(rounds, HEALING_ROUNDS_MAX)
    }

    fn write_plain(&mut self, primary: usize) {
        let cluster = &mut self.cluster;
        cluster.primaries[primary].write_plain(&mut cluster.rng);
    }
}
