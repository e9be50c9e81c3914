//! One schedule: a few hundred random events, then healing, then the last comparison.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use wal_store::Fault;
use wal_types::NodeId;

use crate::cluster::{Cluster, WRITERS_MAX};
use crate::node::Death;
use crate::oracle::Violation;
use crate::primary::Layout;
use crate::stats::Stats;
use crate::trace::Trace;

/// Events before healing begins: from, to.
const EVENTS: std::ops::Range<u64> = 500..1500;
/// All logs are compared this often: healing mends what a schedule broke before the last comparison could see it.
const COMPARE_EVERY_EVENTS: u64 = 10;
/// Rounds in which a healed cluster must commit something new.
const HEALING_ROUNDS_MAX: u64 = 400;
/// Records written after healing; all of them must be committed.
const LAST_RECORDS: u64 = 5;

/// What came of a seed.
pub struct Outcome {
    /// How rich it was.
    pub stats: Stats,
    /// Equal in every run of the seed.
    pub trace_hash: u64,
    /// What happened, line by line, if asked for.
    pub lines: Vec<String>,
    /// The first invariant that broke.
    pub violation: Option<Violation>,
}

/// Runs the schedule of `seed`.
pub fn run(seed: u64, keep_lines: bool) -> Outcome {
    let mut rng = SmallRng::seed_from_u64(seed);
    let nodes = if rng.random_range(0..4) == 0 { 5 } else { 3 };
    let layout = if rng.random_range(0..4) == 0 { Layout::Equal } else { Layout::Mixed };
    let mut schedule = Schedule { cluster: Cluster::new(nodes, layout, Trace::new(keep_lines)), rng };
    let violation = schedule.play().err();
    let cluster = schedule.cluster;
    Outcome {
        stats: cluster.stats,
        trace_hash: cluster.trace.hash(),
        lines: cluster.trace.into_lines(),
        violation,
    }
}

struct Schedule {
    cluster: Cluster,
    rng: SmallRng,
}

impl Schedule {
    fn play(&mut self) -> Result<(), Violation> {
        let events = self.rng.random_range(EVENTS);
        self.cluster.start_writer(0, Some(0));
        for number in 0..events {
            self.event()?;
            if number % COMPARE_EVERY_EVENTS == 0 {
                self.cluster.compare_logs()?;
            }
        }
        self.heal()?;
        self.cluster.compare_logs()
    }

    /// One thing happens. The weights keep a cluster mostly at work and often enough in trouble.
    fn event(&mut self) -> Result<(), Violation> {
        self.cluster.stats.events += 1;
        let slot = self.rng.random_range(0..WRITERS_MAX);
        let node = self.any_node();
        match self.rng.random_range(0..1000) {
            0..330 => self.work(),
            330..480 => {
                let count = self.rng.random_range(1..6);
                self.cluster.run_node(node, count, &mut self.rng)
            }
            480..600 => {
                let count = self.rng.random_range(1..8);
                self.cluster.send(slot, node, count);
                let delivered = self.rng.random_range(1..8);
                self.cluster.deliver(slot, node, delivered);
                Ok(())
            }
            600..720 => self.cluster.receive(slot, node),
            720..860 => {
                self.write();
                Ok(())
            }
            860..900 => {
                self.cluster.connect(slot, node);
                Ok(())
            }
            900..920 => {
                self.proposer_time(slot);
                Ok(())
            }
            920..935 => {
                self.cluster.cut(slot, node);
                Ok(())
            }
            935..950 => self.fault(node),
            950..960 => {
                let passed = Duration::from_millis(self.rng.random_range(1..1500));
                self.cluster.tick(node, passed, &mut self.rng)
            }
            960..975 => self.cluster.start_node(node, &mut self.rng),
            975..985 => {
                self.restart_writer(slot);
                Ok(())
            }
            _ => {
                self.fail_over(slot);
                Ok(())
            }
        }
    }

    /// A round in which every writer and every node does what it would do at once if nothing hindered it.
    fn work(&mut self) -> Result<(), Violation> {
        for slot in 0..WRITERS_MAX {
            let bytes = self.rng.random_range(1..4000);
            self.cluster.stream(slot, bytes);
            for node in self.nodes() {
                self.cluster.send(slot, node, 4);
                self.cluster.deliver(slot, node, 4);
                self.cluster.run_node(node, 8, &mut self.rng)?;
                self.cluster.receive(slot, node)?;
            }
        }
        Ok(())
    }

    fn write(&mut self) {
        let newest = self.cluster.primaries.len() - 1;
        let primary =
            if self.rng.random_range(0..4) == 0 { self.rng.random_range(0..=newest) } else { newest };
        let records = self.rng.random_range(1..12);
        for _ in 0..records {
            self.cluster.primaries[primary].write(&mut self.rng);
        }
    }

    fn proposer_time(&mut self, slot: usize) {
        if let Some(writer) = &mut self.cluster.writers[slot] {
            writer.proposer.heartbeat();
            writer.proposer.tell_commit();
        }
    }

    fn fault(&mut self, node: NodeId) -> Result<(), Violation> {
        let index = self.cluster.index(node);
        match self.rng.random_range(0..10) {
            0..2 => self.cluster.crash(node, Death::Power, &mut self.rng),
            2 => self.cluster.crash(node, Death::Process, &mut self.rng),
            3..7 => {
                self.cluster.nodes[index].plan_crash(&mut self.rng);
                Ok(())
            }
            7 => {
                self.cluster.stats.disk_faults += 1;
                self.cluster.nodes[index].plan_fault(Fault::Sync, &mut self.rng);
                Ok(())
            }
            8 => {
                self.cluster.stats.disk_faults += 1;
                self.cluster.nodes[index].plan_fault(Fault::Write, &mut self.rng);
                Ok(())
            }
            _ => {
                self.cluster.stats.disk_faults += 1;
                let full = self.rng.random();
                self.cluster.nodes[index].fill_disk(full);
                Ok(())
            }
        }
    }

    /// A writer begins anew: for the newest primary, or for one that others believe dead.
    fn restart_writer(&mut self, slot: usize) {
        let newest = self.cluster.primaries.len() - 1;
        let primary =
            if self.rng.random_range(0..3) == 0 { self.rng.random_range(0..=newest) } else { newest };
        self.cluster.start_writer(slot, Some(primary));
        self.connect_all(slot);
    }

    /// Begins a recovery, or promotes a standby when one has just settled the log.
    fn fail_over(&mut self, slot: usize) {
        let settled = |writer: &crate::writer::Writer| writer.primary.is_none() && writer.is_settled();
        if self.cluster.writers[slot].as_ref().is_some_and(settled) {
            let primary = self.cluster.promote();
            self.cluster.start_writer(slot, Some(primary));
        } else {
            self.cluster.start_writer(slot, None);
        }
        self.connect_all(slot);
    }

    /// Everything that is broken is mended; then a recovery, a promotion, and new WAL that must be committed.
    fn heal(&mut self) -> Result<(), Violation> {
        self.cluster.trace.line(format_args!("healing"));
        self.cluster.is_calm = true;
        (0..WRITERS_MAX).for_each(|slot| self.cluster.end_writer(slot));
        for node in self.nodes() {
            let index = self.cluster.index(node);
            self.cluster.nodes[index].fill_disk(false);
            // Also those that are down: what was set to go wrong on their disks ends with them.
            self.cluster.crash(node, Death::Process, &mut self.rng)?;
            self.cluster.nodes[index].die(Death::Process, &mut self.rng);
            self.cluster.start_node(node, &mut self.rng)?;
        }
        self.until("a_recovery_settles_the_log", None, |cluster| {
            cluster.writers[0].as_ref().is_some_and(crate::writer::Writer::is_settled)
        })?;
        let primary = self.cluster.promote();
        for _ in 0..LAST_RECORDS {
            self.cluster.primaries[primary].write(&mut self.rng);
        }
        let end = self.cluster.primaries[primary].flush_lsn();
        // Not only a quorum: everybody catches up.
        self.until("a_healed_cluster_commits_and_catches_up", Some(primary), |cluster| {
            cluster.oracle.commit_lsn() >= end
                && cluster.nodes.iter().all(|node| node.snapshot().is_some_and(|at| at.flush_lsn == end))
        })
    }

    /// L1: works undisturbed until `done`, starting writer 0 again whenever it ends.
    fn until(
        &mut self,
        name: &'static str,
        primary: Option<usize>,
        done: impl Fn(&Cluster) -> bool,
    ) -> Result<(), Violation> {
        for _ in 0..HEALING_ROUNDS_MAX {
            if done(&self.cluster) {
                return Ok(());
            }
            if self.cluster.writers[0].as_ref().is_none_or(|writer| writer.primary != primary) {
                self.cluster.start_writer(0, primary);
            }
            self.connect_all(0);
            for node in self.nodes() {
                self.cluster.tick(node, Duration::from_secs(1), &mut self.rng)?;
            }
            self.proposer_time(0);
            self.work()?;
        }
        Err(Violation { invariant: name, detail: format!("not within {HEALING_ROUNDS_MAX} rounds") })
    }

    fn connect_all(&mut self, slot: usize) {
        for node in self.nodes() {
            self.cluster.connect(slot, node);
        }
    }

    fn nodes(&self) -> Vec<NodeId> {
        self.cluster.nodes.iter().map(|node| node.id).collect()
    }

    fn any_node(&mut self) -> NodeId {
        let count = self.cluster.nodes.len();
        self.cluster.nodes[self.rng.random_range(0..count)].id
    }
}
