//! [`DiskLevel`]: how full the disk is, from a measurement and the limits. [`DiskState`] shares it with other threads.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use wal_store::HoldReason;

/// Percent points below `--disk-high` at which the level ends.
const RELIEF_PERCENT: u64 = 5;
/// `--disk-stop` without the flag: the larger of this many bytes and [`STOP_FREE_PERCENT`] …
const STOP_FREE_BYTES: u64 = 2 << 30;
const STOP_FREE_PERCENT: u64 = 1;
/// … and at most this part of the disk.
const STOP_FREE_PERCENT_MAX: u64 = 10;

/// When old WAL is given up for want of room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskLimits {
    /// Percent of the disk from which on old WAL is given up; 100 for never.
    pub high_percent: u8,
    /// Free bytes below which slots are given up as well; 0 for never, `None` for a default that depends on the disk's size.
    pub stop_free_bytes: Option<u64>,
}

impl Default for DiskLimits {
    fn default() -> Self {
        Self { high_percent: 80, stop_free_bytes: None }
    }
}

/// How full the disk is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum DiskLevel {
    /// Old WAL is kept up to its limits.
    #[default]
    Normal,
    /// Old WAL is given up that readers and members want.
    High,
    /// Old WAL is given up that slots want, and the safekeeper is not ready.
    Stop,
}

impl DiskLevel {
    const ALL: [Self; 3] = [Self::Normal, Self::High, Self::Stop];

    /// Name in the status.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::High => "high",
            Self::Stop => "stop",
        }
    }

    /// Reasons of [`HoldReason::ALL`] that may be given up.
    pub(super) const fn reasons(self) -> u8 {
        match self {
            Self::Normal => 0,
            Self::High => HoldReason::AT_HIGH_LEVEL,
            Self::Stop => HoldReason::ALL.len() as u8,
        }
    }
}

/// A measurement of the disk, in bytes. As `df` counts: room that only root may use is neither used nor available.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct DiskUse {
    pub(crate) used: u64,
    pub(crate) available: u64,
}

impl DiskUse {
    pub(crate) const fn total(&self) -> u64 {
        self.used.saturating_add(self.available)
    }

    const fn percent_of(&self, percent: u64) -> u64 {
        self.total() / 100 * percent
    }
}

impl DiskLimits {
    /// Used bytes from which on the level is [`DiskLevel::High`].
    fn high_bytes(&self, disk: &DiskUse) -> u64 {
        if self.high_percent < 100 { disk.percent_of(self.high_percent.into()) } else { u64::MAX }
    }

    /// Free bytes below which the level is [`DiskLevel::Stop`].
    pub(super) fn stop_free(&self, disk: &DiskUse) -> u64 {
        let default = STOP_FREE_BYTES
            .max(disk.percent_of(STOP_FREE_PERCENT))
            .min(disk.percent_of(STOP_FREE_PERCENT_MAX));
        self.stop_free_bytes.unwrap_or(default)
    }

    /// The level after a measurement. Each level ends a little below its beginning.
    pub(super) fn next_level(&self, now: DiskLevel, disk: &DiskUse) -> DiskLevel {
        if disk.total() == 0 {
            return now;
        }
        let stop_free = self.stop_free(disk);
        let stop_ends_at = stop_free.saturating_add(stop_free / 4);
        let is_stop = disk.available < if now == DiskLevel::Stop { stop_ends_at } else { stop_free };
        let is_high = match now {
            DiskLevel::Normal => disk.used >= self.high_bytes(disk),
            _ => self.excess(disk) > 0,
        };
        match (is_stop, is_high) {
            (true, _) => DiskLevel::Stop,
            (false, true) => DiskLevel::High,
            (false, false) => DiskLevel::Normal,
        }
    }

    /// Bytes to free until the level is [`DiskLevel::Normal`] again.
    pub(super) fn excess(&self, disk: &DiskUse) -> u64 {
        if self.high_percent >= 100 {
            return 0;
        }
        let relief = u64::from(self.high_percent).saturating_sub(RELIEF_PERCENT);
        disk.used.saturating_sub(disk.percent_of(relief))
    }

    /// Bytes to free until the level is no longer [`DiskLevel::Stop`].
    pub(super) fn excess_of_stop(&self, disk: &DiskUse) -> u64 {
        let stop_free = self.stop_free(disk);
        stop_free.saturating_add(stop_free / 4).saturating_sub(disk.available)
    }

    /// True when the disk is below `--disk-high` once `bytes` are free that are used now.
    pub(super) fn suffices(&self, disk: &DiskUse, bytes: u64) -> bool {
        disk.used.saturating_sub(bytes) < self.high_bytes(disk)
    }
}

/// The newest measurement, shared by all threads.
#[derive(Debug, Default)]
pub(crate) struct DiskState {
    total: AtomicU64,
    available: AtomicU64,
    level: AtomicU8,
    /// Plus one; zero for none.
    seconds_to_full: AtomicU64,
}

impl DiskState {
    pub(super) fn record(&self, disk: &DiskUse, level: DiskLevel, to_full: Option<Duration>) {
        let seconds = to_full.map_or(0, |left| left.as_secs().saturating_add(1));
        self.seconds_to_full.store(seconds, Ordering::Relaxed);
        self.total.store(disk.total(), Ordering::Relaxed);
        self.available.store(disk.available, Ordering::Relaxed);
        self.level.store(level as u8, Ordering::Relaxed);
    }

    pub(crate) fn level(&self) -> DiskLevel {
        DiskLevel::ALL[usize::from(self.level.load(Ordering::Relaxed)).min(DiskLevel::ALL.len() - 1)]
    }

    /// Seconds until nothing is free at the rate of the last minutes, and appends pause; `None` while that is not in sight.
    pub(crate) fn seconds_to_full(&self) -> Option<u64> {
        self.seconds_to_full.load(Ordering::Relaxed).checked_sub(1)
    }

    /// Size of the file system, and its free bytes. Zero before the first measurement.
    pub(crate) fn total_and_free(&self) -> (u64, u64) {
        (self.total.load(Ordering::Relaxed), self.available.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use DiskLevel::{High, Normal, Stop};

    const GB: u64 = 1 << 30;

    #[test]
    fn levels_begin_at_their_limits_and_end_below() {
        let limits = DiskLimits::default();
        for (now, used_percent, expected) in [
            (Normal, 79, Normal),
            (Normal, 80, High),
            (High, 76, High),
            (High, 75, Normal),
            (Normal, 99, Stop),
            // 2 GiB of 100 GiB are free at the beginning, 2.5 GiB at the end.
            (High, 97, High),
            (Stop, 98, Stop),
            (Stop, 97, High),
            (Stop, 50, Normal),
        ] {
            let disk = DiskUse { used: used_percent * GB, available: (100 - used_percent) * GB };
            assert_eq!(limits.next_level(now, &disk), expected, "{now:?} {used_percent}");
        }
        assert_eq!(limits.next_level(Normal, &DiskUse::default()), Normal, "nothing is known");
    }

    #[test]
    fn stop_limit_depends_on_the_disk() {
        let disk = |total: u64| DiskUse { used: 0, available: total };
        let limits = DiskLimits::default();
        for (total, expected) in [(10 * GB, GB), (100 * GB, 2 * GB), (1000 * GB, 10 * GB)] {
            let found = limits.stop_free(&disk(total));
            assert!(expected - found < 100, "{total}: {found}");
        }
        let limits = DiskLimits { stop_free_bytes: Some(7), ..limits };
        assert_eq!(limits.stop_free(&disk(GB)), 7);
        let never = DiskLimits { high_percent: 100, stop_free_bytes: Some(0) };
        let full = DiskUse { used: GB, available: 0 };
        for level in [Normal, High, Stop] {
            assert_eq!((never.next_level(level, &full), never.excess(&full)), (Normal, 0));
        }
    }

    #[test]
    fn excess_reaches_the_end_of_the_level() {
        let limits = DiskLimits::default();
        let disk = DiskUse { used: 900, available: 100 };
        assert_eq!(
            (limits.excess(&disk), limits.suffices(&disk, 100), limits.suffices(&disk, 101)),
            (150, false, true)
        );
        let limits = DiskLimits { stop_free_bytes: Some(200), ..limits };
        assert_eq!(limits.excess_of_stop(&disk), 150);
    }
}
