//! [`Retention`]: which old WAL is kept, for which reason, and what is given up. A rule without IO.
//!
//! Consensus needs no WAL below the persisted commit position: it is a prefix of every later leader's log. What is kept
//! below serves those that may still ask for it. Each [`HoldReason`] wants WAL from a position on and has a limit below the
//! commit position, because one member or reader that never comes back would fill the disk, and a full disk stops
//! commits. Beyond its limit a reason is *given up*: its WAL is removed, and the status names it.
//!
//! The shards of a safekeeper call it, and so does the simulation. `removal` carries the result out.

use consensus::Dialect;
use wal_types::Lsn;

use crate::snapshot::Snapshot;

/// Default of [`Retention::wal_keep_bytes`]: 1 GiB.
const WAL_KEEP_BYTES_DEFAULT: u64 = 1 << 30;
/// Default of [`Retention::reader_keep_bytes_max`]: 16 GiB.
const READER_KEEP_BYTES_MAX_DEFAULT: u64 = 16 << 30;
/// Default of [`Retention::member_keep_bytes_max`]: 4 GiB.
const MEMBER_KEEP_BYTES_MAX_DEFAULT: u64 = 4 << 30;
/// Default of [`Retention::slot_keep_bytes_max`]: 16 GiB.
const SLOT_KEEP_BYTES_MAX_DEFAULT: u64 = 16 << 30;

/// A reason to keep WAL below the commit position, in the order in which they are given up when the disk is nearly full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HoldReason {
    /// Readers that may connect again. Nothing was promised, so it is never given up, only shortened.
    Comfort,
    /// A connected reader that is behind. Given up: it gets PostgreSQL's error 58P01.
    Reader,
    /// A member of the configuration that lags or is away. Given up: it must be re-seeded.
    Member,
    /// A replication slot. Given up: it is lost, and its reader gets error 58P01.
    Slot,
}

impl HoldReason {
    /// All reasons, in the order in which they are given up.
    pub const ALL: [Self; 4] = [Self::Comfort, Self::Reader, Self::Member, Self::Slot];
    /// How many of them may be given up when the disk is nearly full. Slots go only when nothing else is left.
    pub const AT_HIGH_LEVEL: u8 = 3;

    /// Name in metrics and in the status.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Comfort => "comfort",
            Self::Reader => "reader",
            Self::Member => "member",
            Self::Slot => "slot",
        }
    }
}

/// Limits of the reasons, for each timeline, in bytes below the commit position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// [`HoldReason::Comfort`]: WAL that nothing is known to need.
    pub wal_keep_bytes: u64,
    /// [`HoldReason::Reader`].
    pub reader_keep_bytes_max: u64,
    /// [`HoldReason::Member`]. Dialect `neon` has no way to seed a member anew, so it has no limit there.
    pub member_keep_bytes_max: u64,
    /// [`HoldReason::Slot`].
    pub slot_keep_bytes_max: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            wal_keep_bytes: WAL_KEEP_BYTES_DEFAULT,
            reader_keep_bytes_max: READER_KEEP_BYTES_MAX_DEFAULT,
            member_keep_bytes_max: MEMBER_KEEP_BYTES_MAX_DEFAULT,
            slot_keep_bytes_max: SLOT_KEEP_BYTES_MAX_DEFAULT,
        }
    }
}

/// How many of [`HoldReason::ALL`] are given up now because the disk is nearly full; 0 without pressure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pressure(pub u8);

/// What one reason keeps of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// The reason.
    pub reason: HoldReason,
    /// Position from which on it wants WAL.
    pub wants: Lsn,
    /// Position from which on it gets WAL; above `wants` when it is beyond its limit.
    pub granted: Lsn,
}

/// What is kept of a log, by reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetentionPlan {
    /// Commit position that the plan was made for.
    pub commit_lsn: Lsn,
    /// First byte that the log had.
    pub oldest_lsn: Lsn,
    /// The reasons that want something, in the order of [`HoldReason::ALL`].
    pub holds: Vec<Hold>,
}

impl Retention {
    /// Decides what is kept of the log of `snapshot`. `reader_at` is where the reader that is furthest behind would resume,
    /// and `slot_at` the lowest position of a slot.
    pub fn plan(
        &self,
        snapshot: &Snapshot,
        reader_at: Option<Lsn>,
        slot_at: Option<Lsn>,
        pressure: Pressure,
    ) -> RetentionPlan {
        let commit_lsn = snapshot.commit_lsn;
        let start_lsn = snapshot.lineage.start_lsn;
        let below_commit = |bytes: u64| Lsn(commit_lsn.0.saturating_sub(bytes));

        let wanted = |reason| match reason {
            HoldReason::Comfort => Some(below_commit(self.wal_keep_bytes)),
            HoldReason::Reader => reader_at,
            HoldReason::Slot => slot_at,
            // Below the horizon all members have everything; it stands still at the member that is furthest behind.
            HoldReason::Member => Some(snapshot.horizon_lsn),
        };
        let limit = |reason: HoldReason| match reason {
            _ if (reason as u8) < pressure.0 => 0,
            HoldReason::Comfort => self.wal_keep_bytes,
            HoldReason::Reader => self.reader_keep_bytes_max,
            HoldReason::Member if snapshot.lineage.dialect == Dialect::Neon => u64::MAX,
            HoldReason::Member => self.member_keep_bytes_max,
            HoldReason::Slot => self.slot_keep_bytes_max,
        };

        let hold = |&reason: &HoldReason| {
            // A position outside of the log counts as its nearest end.
            let wants = wanted(reason)?.max(start_lsn).min(commit_lsn.max(start_lsn));
            Some(Hold { reason, wants, granted: wants.max(below_commit(limit(reason))) })
        };
        let holds = HoldReason::ALL.iter().filter_map(hold).collect();
        RetentionPlan { commit_lsn, oldest_lsn: snapshot.oldest_lsn, holds }
    }
}

impl RetentionPlan {
    /// Position from which on the log is kept.
    pub fn keep_from(&self) -> Lsn {
        self.holds.iter().map(|hold| hold.granted).fold(self.commit_lsn, Lsn::min)
    }

    /// WAL that is there and that would go if this pressure came on top, in bytes.
    pub fn freed_by(&self, pressure: Pressure) -> u64 {
        let stays = self.holds.iter().filter(|hold| hold.reason as u8 >= pressure.0);
        let keep_from = stays.map(|hold| hold.granted).fold(self.commit_lsn, Lsn::min);
        keep_from.0.saturating_sub(self.keep_from().max(self.oldest_lsn).0)
    }

    /// WAL below the commit position that is there and that `reason` alone would keep, in bytes.
    pub fn held_bytes(&self, reason: HoldReason) -> u64 {
        let hold = self.holds.iter().find(|hold| hold.reason == reason);
        hold.map_or(0, |hold| self.commit_lsn.bytes_since(hold.granted.max(self.oldest_lsn)))
    }

    /// WAL that `reason` wants and that was removed, as a range; `None` when it has all that it wants.
    pub fn given_up(&self, reason: HoldReason) -> Option<(Lsn, Lsn)> {
        let hold = self.holds.iter().find(|hold| hold.reason == reason && reason != HoldReason::Comfort)?;
        (hold.wants < self.oldest_lsn).then_some((hold.wants, self.oldest_lsn))
    }
}

#[cfg(test)]
mod tests;
