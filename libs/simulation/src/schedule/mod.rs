//! One schedule: some hundred random events, then healing, then the final comparison.

mod abandon;
mod dead_tail;
mod diverged_rival;
mod faults;
mod heal;
mod persistent_fault;

use std::time::Duration;

use consensus::Dialect;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use wal_types::NodeId;

use crate::cluster::{Cluster, WRITERS_MAX};
use crate::invariants::Violation;
use crate::primary::Layout;
use crate::stats::Stats;
use crate::trace::Trace;

/// Number of events before healing begins.
const EVENTS: std::ops::Range<u64> = 300..420;
/// Records that an older image of a primary lacks, at most.
const RESTORED_RECORDS_MAX: usize = 40;
/// One schedule in this many gives members up also while a disk is damaged.
const GIVES_UP_BESIDE_DAMAGE_EVERY: u64 = 2;
/// All logs are compared after this many events: healing repairs damage before the final comparison could find it.
const COMPARE_EVERY_EVENTS: u64 = 10;

/// Result of one schedule.
pub struct ScheduleOutcome {
    /// Its counts.
    pub stats: Stats,
    /// Hash of its trace, equal in every run of the seed.
    pub trace_hash: u64,
    /// Its events as text, if the caller asked for them.
    pub lines: Vec<String>,
    /// The first violation.
    pub violation: Option<Violation>,
}

/// Runs the schedule of `seed`.
pub fn run(seed: u64, keep_lines: bool) -> ScheduleOutcome {
    let mut rng = SmallRng::seed_from_u64(seed);
    let nodes = if rng.random_range(0..4) == 0 { 5 } else { 3 };
    let layout = if rng.random_range(0..4) == 0 { Layout::Equal } else { Layout::Mixed };
    let dialect = if rng.random_range(0..6) == 0 { Dialect::Neon } else { Dialect::Holdfast };
    let mut schedule =
        Schedule { cluster: Cluster::new(nodes, dialect, layout, rng, Trace::new(keep_lines)) };
    schedule.cluster.gives_up_beside_damage = seed.is_multiple_of(GIVES_UP_BESIDE_DAMAGE_EVERY);
    let violation = schedule.play().err();
    let cluster = schedule.cluster;
    ScheduleOutcome {
        stats: cluster.stats,
        trace_hash: cluster.trace.hash(),
        lines: cluster.trace.into_lines(),
        violation,
    }
}

/// A running schedule.
struct Schedule {
    cluster: Cluster,
}

impl Schedule {
    fn play(&mut self) -> Result<(), Violation> {
        let events = self.cluster.rng.random_range(EVENTS);
        self.cluster.stats.neon_schedules += u64::from(self.cluster.dialect == Dialect::Neon);
        self.cluster.start_writer(0, Some(0));
        for number in 0..events {
            self.random_event()?;
            if number % COMPARE_EVERY_EVENTS == 0 {
                self.cluster.compare_logs()?;
            }
        }
        match self.heal() {
            Err(stuck) if stuck.is_of_liveness() && self.cluster.is_beyond_budget => {
                self.cluster.trace.line(format_args!("too many failures to heal: {stuck}"));
                self.cluster.stats.beyond_budget += 1;
            }
            healed => healed?,
        }
        self.cluster.compare_everything()
    }

    fn random_below(&mut self, bound: u64) -> u64 {
        self.cluster.rng.random_range(0..bound)
    }

    /// One random event. The weights keep a cluster mostly at work and often enough in trouble.
    fn random_event(&mut self) -> Result<(), Violation> {
        self.cluster.stats.events += 1;
        let slot = self.random_below(WRITERS_MAX as u64) as usize;
        let node = self.random_node();

        match self.random_below(1000) {
            0..329 => self.work_round(),
            329..330 => self.dead_tail(node),
            330..334 => self.change_in_vain(),
            334..338 => self.cluster.abandon_change(slot),
            338..470 => {
                let count = 1 + self.random_below(5) as usize;
                self.cluster.run_node(node, count)
            }
            470..590 => {
                let (count, delivered) =
                    (1 + self.random_below(7) as usize, 1 + self.random_below(7) as usize);
                self.cluster.send(slot, node, count)?;
                self.cluster.deliver(slot, node, delivered);
                Ok(())
            }
            590..700 => self.cluster.receive(slot, node),
            900..915 => self.fault(node),
            915..930 => {
                let passed = self.random_duration();
                self.cluster.tick(node, passed)
            }
            930..945 => self.cluster.start_node(node),
            960..966 => self.random_read(),
            966..974 => self.cluster.damage(node),
            974..975 => self.cluster.lose_disk(node),
            number => {
                self.unchecked_event(number, slot, node);
                Ok(())
            }
        }
    }

    /// The events of [`Schedule::random_event`] that check no invariant.
    fn unchecked_event(&mut self, number: u64, slot: usize, node: NodeId) {
        match number {
            700..830 => self.write(),
            830..865 => self.cluster.connect(slot, node),
            865..885 => self.proposer_timers(slot),
            885..900 => self.cluster.cut_connection(slot, node),
            945..950 => self.cluster.repeat(slot, node),
            950..960 => self.cluster.deliver_late(),
            975..977 => _ = self.cluster.add_node(),
            977..985 => self.cluster.change_members(slot),
            985..986 => self.partition_during_change(slot),
            986..992 => self.restart_writer(slot),
            992 => self.cluster.restore_primary(RESTORED_RECORDS_MAX),
            993 => self.cluster.start_writer_among_newcomers(slot),
            _ => self.fail_over(slot),
        }
    }

    /// A standby reads, in some cases from another node than before.
    fn random_read(&mut self) -> Result<(), Violation> {
        let standby = self.random_below(self.cluster.standbys.len() as u64) as usize;
        if self.random_below(4) == 0 {
            self.cluster.move_standby(standby);
        }
        self.cluster.read(standby)
    }

    /// A random step of the clock: it may stand still and may jump, and never goes back.
    fn random_duration(&mut self) -> Duration {
        match self.random_below(10) {
            0 => Duration::ZERO,
            1 => Duration::from_secs(3600 * (1 + self.random_below(10_000))),
            _ => Duration::from_millis(1 + self.random_below(1500)),
        }
    }

    /// One undisturbed round: each writer and each node does all work that is due.
    fn work_round(&mut self) -> Result<(), Violation> {
        for slot in 0..WRITERS_MAX {
            if self.cluster.writers[slot].is_none() {
                continue;
            }
            let bytes = 1 + self.random_below(4000);
            self.cluster.stream(slot, bytes);

            let mut nodes = self.cluster.node_ids();
            let first = self.random_below(nodes.len() as u64) as usize;
            nodes.rotate_left(first);
            for node in nodes {
                self.cluster.send(slot, node, 4)?;
                self.cluster.deliver(slot, node, 4);
                self.cluster.run_node(node, 8)?;
                self.cluster.receive(slot, node)?;
            }
        }

        let standby = self.random_below(self.cluster.standbys.len() as u64) as usize;
        self.cluster.read(standby)
    }

    fn write(&mut self) {
        let newest = self.cluster.primaries.len() as u64 - 1;
        let primary = if self.random_below(4) == 0 { self.random_below(newest + 1) } else { newest };
        for _ in 0..=self.random_below(19) {
            let cluster = &mut self.cluster;
            cluster.primaries[primary as usize].write(&mut cluster.rng);
        }
    }

    /// Fires the timers of the proposer in `slot`: heartbeat and commit announcement. A proposer that cannot progress
    /// ends.
    fn proposer_timers(&mut self, slot: usize) {
        if let Some(writer) = &mut self.cluster.writers[slot] {
            writer.engine.heartbeat();
            writer.engine.announce_commit();
            if writer.engine.is_stuck() {
                self.cluster.end_writer(slot);
            }
        }
    }

    /// Restarts a writer: for the newest primary, or for one that other writers consider dead.
    fn restart_writer(&mut self, slot: usize) {
        let newest = self.cluster.primaries.len() as u64 - 1;
        let primary = if self.random_below(3) == 0 { self.random_below(newest + 1) } else { newest };
        self.cluster.start_writer(slot, Some(primary as usize));
        self.connect_all(slot);
    }

    /// Starts a recovery, or promotes a standby after a finished recovery. In some schedules that standby is designated
    /// first, so that only it may write.
    fn fail_over(&mut self, slot: usize) {
        let designates = self.random_below(3) == 0;
        let primary = match &self.cluster.writers[slot] {
            Some(writer) if writer.has_designated => writer.designates,
            Some(writer) if writer.primary.is_none() && writer.is_recovery_done() => {
                let primary = self.cluster.promote(slot);
                if designates && self.cluster.dialect == Dialect::Holdfast {
                    return self.cluster.designate(slot, primary);
                }
                Some(primary)
            }
            _ => None,
        };
        self.cluster.start_writer(slot, primary);
        self.connect_all(slot);
    }

    fn connect_all(&mut self, slot: usize) {
        for node in self.cluster.node_ids() {
            self.cluster.connect(slot, node);
        }
    }

    fn random_node(&mut self) -> NodeId {
        let ids = self.cluster.node_ids();
        ids[self.random_below(ids.len() as u64) as usize]
    }
}
