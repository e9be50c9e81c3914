//! [`give_up`]: which timelines give up which old WAL when the disk is nearly full. Pure.
//!
//! Reasons go in the order of [`HoldReason::ALL`], because what nothing needs is no loss, a reader needs a base backup at
//! worst, and a member is one of the copies. Within a reason the largest holder goes first: one database whose standby is
//! stuck must not cost all others theirs.

use std::collections::BTreeMap;

use wal_store::{HoldReason, Pressure, RetentionPlan};

use super::level::{DiskLevel, DiskLimits, DiskUse};

/// A timeline that keeps old WAL.
#[derive(Clone, Debug)]
pub(super) struct Holder {
    /// What it gives up already.
    pub(super) pressure: Pressure,
    pub(super) plan: RetentionPlan,
}

/// The holders that give up more, by index, with their new pressure.
pub(super) fn give_up(
    holders: &[Holder],
    level: DiskLevel,
    limits: &DiskLimits,
    disk: &DiskUse,
) -> BTreeMap<usize, Pressure> {
    let mut choice = Choice { holders, chosen: BTreeMap::new(), freed: 0 };
    // Where other files fill the disk, giving up what readers and members want would not help.
    let most: u64 = holders.iter().map(|one| one.plan.freed_by(Pressure(HoldReason::AT_HIGH_LEVEL))).sum();
    let helps = level == DiskLevel::Stop || limits.suffices(disk, most);
    let reasons = if helps { level.reasons().min(HoldReason::AT_HIGH_LEVEL) } else { level.reasons().min(1) };
    let of_stop = if level == DiskLevel::Stop { limits.excess_of_stop(disk) } else { 0 };
    for reason in 1..=reasons {
        // A loss needs a disk that is too full without it. What nothing needs goes until the level ends.
        let is_enough = choice.freed >= of_stop && limits.suffices(disk, choice.freed);
        if is_enough && reason > HoldReason::Comfort as u8 + 1 {
            break;
        }
        choice.raise(Pressure(reason), limits.excess(disk).max(of_stop));
    }
    for reason in HoldReason::AT_HIGH_LEVEL + 1..=level.reasons() {
        choice.raise(Pressure(reason), of_stop);
    }
    choice.chosen
}

struct Choice<'h> {
    holders: &'h [Holder],
    chosen: BTreeMap<usize, Pressure>,
    /// What those that were chosen will free, in bytes.
    freed: u64,
}

impl Choice<'_> {
    /// Raises holders to `pressure`, the largest first, until `wanted` bytes are freed in all.
    fn raise(&mut self, pressure: Pressure, wanted: u64) {
        let mut gains: Vec<(u64, usize)> = Vec::new();
        for (index, holder) in self.holders.iter().enumerate() {
            let already = self.chosen.get(&index).copied().unwrap_or(holder.pressure);
            let gain = holder.plan.freed_by(pressure).saturating_sub(holder.plan.freed_by(already));
            if already < pressure && gain > 0 {
                gains.push((gain, index));
            }
        }

        gains.sort_unstable_by(|one, other| other.cmp(one));
        for (gain, index) in gains {
            if self.freed >= wanted {
                return;
            }
            self.freed += gain;
            self.chosen.insert(index, pressure);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wal_store::Hold;
    use wal_types::Lsn;

    /// A log of 1000 bytes, with the positions that comfort, reader, member and slot hold it from.
    fn holder(positions: [u64; 4]) -> Holder {
        let hold = |(&reason, at): (&HoldReason, u64)| Hold { reason, wants: Lsn(at), granted: Lsn(at) };
        let plan = RetentionPlan {
            commit_lsn: Lsn(1000),
            oldest_lsn: Lsn(0),
            holds: HoldReason::ALL.iter().zip(positions).map(hold).collect(),
        };
        Holder { pressure: Pressure::default(), plan }
    }

    fn choose(holders: &[Holder], level: DiskLevel, used: u64) -> Vec<(usize, u8)> {
        let limits = DiskLimits { high_percent: 80, stop_free_bytes: Some(80) };
        let disk = DiskUse { used, available: 10_000 - used };
        give_up(holders, level, &limits, &disk)
            .into_iter()
            .map(|(index, pressure)| (index, pressure.0))
            .collect()
    }

    #[test]
    fn largest_holder_of_the_first_reason_goes_first() {
        // The first keeps 900 bytes that nothing needs, the second 300, the third 800 for a reader.
        let holders = [holder([0, 900, 900, 900]), holder([0, 300, 300, 300]), holder([200, 200, 900, 900])];
        assert_eq!(choose(&holders, DiskLevel::Normal, 9000), []);
        assert_eq!(choose(&holders, DiskLevel::High, 8300), [(0, 1)], "800 bytes are enough");
        assert_eq!(choose(&holders, DiskLevel::High, 8500), [(0, 1), (1, 1)]);
        assert_eq!(choose(&holders, DiskLevel::High, 9300), [(0, 1), (1, 1), (2, 2)]);
    }

    /// What nothing needs makes room until the level ends. Readers and members lose WAL only where the disk would stay above
    /// `--disk-high` without that.
    #[test]
    fn comfort_that_is_enough_spares_readers_and_members() {
        let holders = [holder([0, 600, 600, 900]), holder([100, 100, 800, 900])];
        assert_eq!(choose(&holders, DiskLevel::High, 8599), [(0, 1)], "7999 bytes are left");
        assert_eq!(choose(&holders, DiskLevel::High, 8600), [(0, 1), (1, 2)]);
        assert_eq!(choose(&holders[1..], DiskLevel::High, 7900), [], "nothing else is left to give up");
        assert_eq!(choose(&holders[1..], DiskLevel::High, 8400), [(0, 2)], "readers alone are enough, too");
    }

    #[test]
    fn members_follow_readers_and_slots_come_last() {
        let holders = [holder([0, 0, 0, 500]), holder([0, 0, 400, 400])];
        assert_eq!(choose(&holders, DiskLevel::High, 8700), [(0, 3), (1, 2)]);
        assert_eq!(
            choose(&holders, DiskLevel::Stop, 9930),
            [(0, 3), (1, 2)],
            "30 bytes more have to be free"
        );
        let holders = [holder([0, 0, 0, 0]), holder([500, 500, 500, 500])];
        assert_eq!(choose(&holders, DiskLevel::High, 8900), []);
        assert_eq!(choose(&holders, DiskLevel::Stop, 9930), [(0, 4)], "the largest slot");
    }

    /// Other files fill the disk: all WAL together would not make room, so readers and members keep theirs.
    #[test]
    fn nothing_is_lost_in_vain() {
        let holders = [holder([0, 100, 200, 900])];
        assert_eq!(choose(&holders, DiskLevel::High, 9500), [(0, 1)]);
        assert_eq!(choose(&holders, DiskLevel::Stop, 9950), [(0, 3)], "the disk is about to be full");
    }

    #[test]
    fn pressure_is_not_raised_twice() {
        let mut raised = holder([0, 900, 900, 900]);
        raised.pressure = Pressure(1);
        assert_eq!(choose(&[raised], DiskLevel::High, 8300), []);
    }
}
