//! [`Stats`]: how rich the schedules were. A simulation that never crashes or never elects proves nothing.

use std::fmt;
use std::ops::AddAssign;

/// Counts over one schedule, or summed over many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Schedules.
    pub schedules: u64,
    /// Events.
    pub events: u64,
    /// Terms in which somebody led.
    pub elections: u64,
    /// Nodes that lost power or were killed.
    pub crashes: u64,
    /// Logs that were cut above a position where another term's bytes lay.
    pub truncations: u64,
    /// Segments that a node began beyond its first.
    pub segment_changes: u64,
    /// Records that were committed.
    pub committed_records: u64,
    /// Disk faults that were injected: failed fsync, failed write, full disk.
    pub disk_faults: u64,
    /// Primaries that took over from the committed log.
    pub failovers: u64,
}

/// Schedules from which on a run must be rich enough.
pub const RICHNESS_SCHEDULES_MIN: u64 = 1000;

impl Stats {
    /// The first count whose average is too low, in words. Short runs are not judged.
    pub fn poverty(&self) -> Option<String> {
        if self.schedules < RICHNESS_SCHEDULES_MIN {
            return None;
        }
        let floors = [
            ("events", self.events, 300),
            ("elections", self.elections, 2),
            ("crashes", self.crashes, 3),
            ("truncations", self.truncations, 1),
            ("segment changes", self.segment_changes, 1),
            ("committed records", self.committed_records, 100),
        ];
        let low = floors.into_iter().find(|(_, count, floor)| *count < floor * self.schedules);
        low.map(|(name, count, floor)| {
            format!(
                "schedules are too poor: {:.2} {name} on average, at least {floor} are needed",
                self.average(count)
            )
        })
    }

    fn average(&self, count: u64) -> f64 {
        count as f64 / self.schedules.max(1) as f64
    }
}

impl AddAssign for Stats {
    fn add_assign(&mut self, other: Self) {
        self.schedules += other.schedules;
        self.events += other.events;
        self.elections += other.elections;
        self.crashes += other.crashes;
        self.truncations += other.truncations;
        self.segment_changes += other.segment_changes;
        self.committed_records += other.committed_records;
        self.disk_faults += other.disk_faults;
        self.failovers += other.failovers;
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} schedules; on average {:.0} events, {:.2} elections, {:.2} crashes, {:.2} truncations, {:.2} segment changes, \
             {:.0} committed records, {:.2} disk faults, {:.2} failovers",
            self.schedules,
            self.average(self.events),
            self.average(self.elections),
            self.average(self.crashes),
            self.average(self.truncations),
            self.average(self.segment_changes),
            self.average(self.committed_records),
            self.average(self.disk_faults),
            self.average(self.failovers),
        )
    }
}
