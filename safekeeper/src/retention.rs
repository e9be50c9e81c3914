//! [`TimelineHolds`]: why a timeline keeps old WAL, and what it has given up, for status and metrics.
//!
//! [`wal_store::Retention`] is the rule. The shard that owns a timeline applies it at each tick and records the plan here;
//! `http` and `timeline_metrics` read it.

use std::sync::atomic::{AtomicU8, Ordering};

use parking_lot::Mutex;
use wal_store::{HoldReason, Pressure, RetentionPlan};
use wal_types::Lsn;

/// The newest plan of one timeline. Empty before the first tick.
#[derive(Debug, Default)]
pub(crate) struct TimelineHolds {
    plan: Mutex<Option<RetentionPlan>>,
    /// Set by `disk` while the disk is nearly full.
    pressure: AtomicU8,
}

/// WAL that a reason wanted and that was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GivenUp {
    pub(crate) reason: HoldReason,
    /// First byte that it wanted.
    pub(crate) from: Lsn,
    /// First byte that is left.
    pub(crate) to: Lsn,
}

impl TimelineHolds {
    /// Records a plan. Returns the reasons whose WAL was removed since the last one: one for each transition.
    pub(crate) fn record(&self, plan: RetentionPlan) -> Vec<GivenUp> {
        let mut last = self.plan.lock();
        let before = last.as_ref().map(given_up).unwrap_or_default();
        let is_new = |now: &GivenUp| !before.iter().any(|then| then.reason == now.reason);
        let new = given_up(&plan).into_iter().filter(is_new).collect();
        *last = Some(plan);
        new
    }

    /// What the timeline gives up because the disk is nearly full.
    pub(crate) fn pressure(&self) -> Pressure {
        Pressure(self.pressure.load(Ordering::Relaxed))
    }

    /// Changes it from the next tick on.
    pub(crate) fn set_pressure(&self, pressure: Pressure) {
        self.pressure.store(pressure.0, Ordering::Relaxed);
    }

    /// The newest plan.
    pub(crate) fn plan(&self) -> Option<RetentionPlan> {
        self.plan.lock().clone()
    }

    /// WAL that `reason` keeps, in bytes.
    pub(crate) fn held_bytes(&self, reason: HoldReason) -> u64 {
        self.plan.lock().as_ref().map_or(0, |plan| plan.held_bytes(reason))
    }

    /// What is given up now, by reason.
    pub(crate) fn given_up(&self) -> Vec<GivenUp> {
        self.plan.lock().as_ref().map(given_up).unwrap_or_default()
    }

    /// True while a member lacks WAL that this safekeeper has removed.
    pub(crate) fn needs_reseed(&self) -> bool {
        self.given_up().iter().any(|one| one.reason == HoldReason::Member)
    }
}

fn given_up(plan: &RetentionPlan) -> Vec<GivenUp> {
    let one = |&reason: &HoldReason| plan.given_up(reason).map(|(from, to)| GivenUp { reason, from, to });
    HoldReason::ALL.iter().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use wal_store::Hold;

    fn plan(member: u64, oldest: u64) -> RetentionPlan {
        let hold = Hold { reason: HoldReason::Member, wants: Lsn(member), granted: Lsn(member) };
        RetentionPlan { commit_lsn: Lsn(100), oldest_lsn: Lsn(oldest), holds: vec![hold] }
    }

    #[test]
    fn each_transition_is_told_once() {
        let holds = TimelineHolds::default();
        let given_up = |from, to| GivenUp { reason: HoldReason::Member, from: Lsn(from), to: Lsn(to) };
        assert_eq!(holds.record(plan(10, 10)), []);
        assert_eq!(holds.record(plan(10, 20)), [given_up(10, 20)]);
        assert_eq!(holds.record(plan(10, 40)), []);
        assert_eq!((holds.given_up(), holds.needs_reseed()), (vec![given_up(10, 40)], true));
        assert_eq!(holds.record(plan(90, 40)), []);
        assert_eq!((holds.given_up(), holds.needs_reseed()), (vec![], false));
        assert_eq!(holds.record(plan(90, 95)), [given_up(90, 95)]);
        assert_eq!(holds.held_bytes(HoldReason::Member), 5);
    }
}
