//! Events of nodes: they process messages, time passes, they crash and start.

use std::time::Duration;

use consensus::Dialect;
use rand::RngExt;
use wal_store::{Fault, Health, HoldReason, Pressure, Retention, Snapshot, StoreError, UNREADABLE_TRIES_MAX};
use wal_types::{Lsn, NodeId};

use super::Cluster;
use crate::invariants::{
    Violation, full_node_starts, kept_wal_is_bounded, removed_wal_is_committed, wal_of_a_member_is_kept,
};
use crate::node::{Death, Node, lowest_truncation};
use crate::primary::SEGMENT_SIZE;

impl Cluster {
    /// A node processes up to `count` waiting messages as one batch.
    pub(crate) fn run_node(&mut self, node: NodeId, count: usize) -> Result<(), Violation> {
        let index = self.index(node);
        // Only a few of a thousand operations belong to a truncation: a crash at a random operation seldom interrupts
        // one, so some crashes are planned there.
        if !self.is_healing && self.nodes[index].may_truncate(count) && self.rng.random_range(0..4) == 0 {
            self.nodes[index].plan_crash(&mut self.rng, 40);
        }

        let before = self.nodes[index].snapshot();
        let Some((batch, output)) = self.nodes[index].run(count) else { return Ok(()) };
        let crashed = self.nodes[index].disk.has_crashed();
        // The work of the other thread may fail without a message.
        let is_serving = !crashed && self.nodes[index].serving().is_some();
        if batch.is_empty() && output.refused.is_empty() && is_serving {
            return Ok(());
        }

        if crashed || self.nodes[index].serving().is_none() {
            self.oracle.record_interrupted_batch(node, lowest_truncation(batch.iter()));
        }
        if crashed {
            let death = if self.rng.random() { Death::Power } else { Death::Process };
            return self.crash(node, death);
        }

        self.route_replies(node, output)?;

        if let (Some(before), Some(after)) = (before, self.nodes[index].snapshot()) {
            // Each truncation counts twice: before its first file is removed and when it is done.
            self.stats.truncations += after.truncations.saturating_sub(before.truncations) / 2;
            let segment = |lsn: Lsn| SEGMENT_SIZE.segment_of(lsn);
            self.stats.segment_changes += segment(after.flush_lsn).saturating_sub(segment(before.flush_lsn));
            self.trace.mix(&[node.0, after.term.0, after.flush_lsn.0, after.commit_lsn.0]);
            self.trace.line(format_args!(
                "node {node}: {} messages, term {}, flush {}, commit {}",
                batch.len(),
                after.term,
                after.flush_lsn,
                after.commit_lsn
            ));
        }
        self.check_node(node)
    }

    /// Time passes on a node.
    pub(crate) fn tick(&mut self, node: NodeId, passed: Duration) -> Result<(), Violation> {
        let index = self.index(node);
        self.apply_retention(node);
        let before = self.nodes[index].snapshot();
        let Some(output) = self.nodes[index].tick(passed) else { return Ok(()) };
        if let (Some(before), Some(after)) = (before, self.nodes[index].snapshot()) {
            self.stats.removals += u64::from(after.oldest_lsn > before.oldest_lsn);
            if !self.nodes[index].disk.has_crashed() {
                self.check_removal(&before, &after)?;
            }
        }

        if self.nodes[index].disk.has_crashed() {
            self.oracle.record_interrupted_batch(node, None);
            return self.crash(node, Death::Power);
        }
        if self.nodes[index].serving().is_none() {
            self.oracle.record_interrupted_batch(node, None);
        }

        self.route_replies(node, output)?;
        self.check_node(node)
    }

    /// The limits that apply now. A damaged disk and a member beyond its limit are two failures, and three members survive
    /// one. So in half of the schedules members are kept, whatever they lack, while a disk is damaged, hidden or not, and every one
    /// of them must heal. In the others nothing is kept for the sake of damage that the product cannot know of.
    fn limits(&self) -> Option<Retention> {
        let retention = self.retention?;
        if self.gives_up_beside_damage || !self.has_damage() {
            return Some(retention);
        }
        Some(Retention { member_keep_bytes_max: u64::MAX, ..retention })
    }

    fn has_damage(&self) -> bool {
        self.nodes.iter().any(|node| self.oracle.is_damaged(node.id))
    }

    /// Applies the product's rule to the node: close to the commit position in some schedules, unlimited in others.
    fn apply_retention(&mut self, node: NodeId) {
        let index = self.index(node);
        if let (Some(retention), Some(at)) = (self.limits(), self.nodes[index].snapshot()) {
            let plan = retention.plan(&at, None, None, Pressure::default());
            self.nodes[index].keep_from(plan.keep_from());
        }
    }

    /// Checks what a removal left, and counts the members that it gave up.
    fn check_removal(&mut self, before: &Snapshot, after: &Snapshot) -> Result<(), Violation> {
        removed_wal_is_committed(after)?;
        let Some(retention) = self.limits() else { return Ok(()) };
        let plan = |at: &Snapshot| retention.plan(at, None, None, Pressure::default());
        let given_up = |at: &Snapshot| plan(at).given_up(HoldReason::Member).is_some();
        let is_given_up = given_up(after) && !given_up(before);
        self.stats.given_up += u64::from(is_given_up);
        if self.has_damage() && after.oldest_lsn > before.oldest_lsn && !self.every_set_has_whole_majority() {
            self.is_beyond_budget = true;
        }
        if self.dialect == Dialect::Neon || after.health != Health::Healthy {
            return Ok(());
        }
        wal_of_a_member_is_kept(before, after, retention.member_keep_bytes_max)?;
        let limit = retention.wal_keep_bytes.max(retention.member_keep_bytes_max);
        kept_wal_is_bounded(after, limit)
    }

    /// Checks the invariants of one node.
    fn check_node(&mut self, node: NodeId) -> Result<(), Violation> {
        let index = self.index(node);
        if self.nodes[index].anew > 0 {
            return Ok(());
        }
        self.check_loss(node)?;
        if let Some(seen) = self.nodes[index].serving() {
            self.oracle.record_truncation(node, &seen);
        }
        let Some(changed_from) = self.nodes[index].refresh_mirror() else { return Ok(()) };
        self.oracle.forget_comparison(node, changed_from);
        self.oracle.node_commit_position_is_valid(&self.nodes[index])?;
        self.oracle.node_keeps_committed_bytes(&self.nodes[index], changed_from)
    }

    /// Handles a node's new report of lost WAL, or the end of its repair.
    fn check_loss(&mut self, node: NodeId) -> Result<(), Violation> {
        let index = self.index(node);
        let Some(seen) = self.nodes[index].serving() else { return Ok(()) };
        let was_lost = std::mem::replace(&mut self.nodes[index].was_lost, seen.lost.is_some());
        match (was_lost, &seen.lost) {
            (false, Some(loss)) => {
                self.trace
                    .line(format_args!("node {node} reports lost WAL: {loss:?}, log end {}", seen.flush_lsn));
                self.stats.lost_nodes += 1;
                self.oracle.undamaged_node_starts(node, &"it reports lost WAL")?;
                self.oracle.record_loss(node, &seen);
            }
            (true, None) => self.check_repaired(node),
            _ => {}
        }
        Ok(())
    }

    /// A node goes down, and its connections end.
    pub(crate) fn crash(&mut self, node: NodeId, death: Death) -> Result<(), Violation> {
        let index = self.index(node);
        if !self.nodes[index].is_up() {
            return Ok(());
        }
        self.stats.crashes += 1;
        self.trace.line(format_args!("node {node} dies: {death:?}"));
        self.trace.mix(&[node.0, u64::from(death == Death::Power)]);
        self.nodes[index].die(death, &mut self.rng);
        self.lose_connections(node);
        Ok(())
    }

    /// Starts a node that is down.
    pub(crate) fn start_node(&mut self, node: NodeId) -> Result<(), Violation> {
        let index = self.index(node);
        let stays_away = self.nodes[index].is_gone && self.nodes[index].anew == 0;
        if self.nodes[index].is_up() || stays_away {
            return Ok(());
        }

        // A start may come after a wait for an unreadable sector. No wait hides an error that passes.
        if !self.is_healing {
            match self.rng.random_range(0..16) {
                0..4 => self.nodes[index].plan_crash(&mut self.rng, 40),
                // The first reads are of the control file, then of the footers, then of the log.
                4..6 => self.nodes[index].plan_fault(Fault::Read, &mut self.rng, 12),
                6 => self.nodes[index].plan_fault(Fault::Sync, &mut self.rng, 4),
                7 => self.nodes[index].plan_fault(Fault::SyncDir, &mut self.rng, 4),
                8 => self.nodes[index].plan_fault(Fault::Write, &mut self.rng, 4),
                _ => {}
            }
        }

        let is_patient = self.oracle.is_damaged(node) && (self.is_healing || self.rng.random());
        match self.nodes[index].start(if is_patient { UNREADABLE_TRIES_MAX } else { 0 }) {
            Ok(()) => {}
            Err(StoreError::Corrupt(what)) => {
                self.oracle.undamaged_node_starts(node, &what)?;
                self.trace.line(format_args!("node {node} cannot start any more: {what}"));
                self.nodes[index].is_gone = true;
                self.oracle.record_damage(node);
                return Ok(());
            }
            // The node crashed again, or its damaged files need room: a later start can succeed.
            Err(error) => {
                full_node_starts(&error, self.oracle.is_damaged(node))?;
                self.trace.line(format_args!("node {node} does not start: {error}"));
                let death = if self.rng.random() { Death::Power } else { Death::Process };
                self.nodes[index].die(death, &mut self.rng);
                return Ok(());
            }
        }

        self.trace.line(format_args!("node {node} starts"));
        if self.nodes[index].anew > 0 {
            return Ok(());
        }
        self.oracle.restart_forgets_nothing(&self.nodes[index])?;
        self.check_node(node)?;
        self.check_repaired(node);
        Ok(())
    }

    /// Compares all logs with each other.
    pub(crate) fn compare_logs(&mut self) -> Result<(), Violation> {
        let members: Vec<&Node> = self.nodes.iter().filter(|node| node.anew == 0).collect();
        for (index, one) in members.iter().enumerate() {
            for other in &members[index + 1..] {
                self.oracle.logs_match_where_histories_match(one, other)?;
            }
        }
        Ok(())
    }

    /// Reads all logs completely again and compares them.
    pub(crate) fn compare_everything(&mut self) -> Result<(), Violation> {
        for node in self.node_ids() {
            let index = self.index(node);
            self.nodes[index].invalidate_mirror();
            self.check_node(node)?;
        }
        self.compare_logs()
    }
}
