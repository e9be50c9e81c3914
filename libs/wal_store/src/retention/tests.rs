//! Tables of the rule: positions, limits, and the order in which reasons are given up.

use std::sync::Arc;

use consensus::{Configuration, Lineage, TermHistory};
use wal_types::{CopyId, SegmentSize, SystemId, TenantTimelineId, Term, Tli};

use super::*;
use crate::snapshot::Health;

const RETENTION: Retention = Retention {
    wal_keep_bytes: 100,
    reader_keep_bytes_max: 1000,
    member_keep_bytes_max: 2000,
    slot_keep_bytes_max: 2000,
};

fn snapshot(dialect: Dialect, commit: u64, horizon: u64, oldest: u64) -> Snapshot {
    let lineage = Lineage {
        id: TenantTimelineId::default(),
        dialect,
        system_id: SystemId(7),
        pg_version: 150_018,
        segment_size: SegmentSize::new(1 << 20).unwrap(),
        start_lsn: Lsn(10),
        start_tli: Tli::FIRST,
        birth: None,
        start_history: None,
    };
    Snapshot {
        copy: CopyId::default(),
        start_history: None,
        health: Health::Healthy,
        term: Term(1),
        last_log_term: Term(1),
        history: Arc::new(TermHistory::default()),
        tli_switches: Arc::new([]),
        lineage: Arc::new(lineage),
        configuration: Arc::new(Configuration::default()),
        configuration_term: Term(0),
        lost: None,
        quarantined: Arc::new([]),
        write_lsn: Lsn(commit),
        flush_lsn: Lsn(commit),
        commit_lsn: Lsn(commit),
        persisted_commit_lsn: Lsn(commit),
        horizon_lsn: Lsn(horizon),
        oldest_lsn: Lsn(oldest),
        truncations: 0,
        receives_wal: false,
    }
}

#[test]
fn each_reason_keeps_up_to_its_limit() {
    for (commit, horizon, reader, expected) in [
        // Nothing lags: comfort alone.
        (5000, 5000, None, 4900),
        (5000, 4950, Some(4990), 4900),
        // A horizon above the commit position counts as the commit position.
        (5000, 6000, None, 4900),
        // A reader, up to its limit.
        (5000, 5000, Some(4300), 4300),
        (5000, 5000, Some(3000), 4000),
        // A member, up to its limit: one that is away does not fill the disk.
        (5000, 3500, None, 3500),
        (5000, 3500, Some(4300), 3500),
        (5000, 200, None, 3000),
        (5000, 200, Some(4900), 3000),
        (5000, 0, None, 3000),
        // Nothing is below the start of the log.
        (50, 40, None, 10),
        (50, 0, Some(0), 10),
        // Nothing is committed yet.
        (0, 0, None, 0),
    ] {
        let at = snapshot(Dialect::Holdfast, commit, horizon, 10);
        let plan = RETENTION.plan(&at, reader.map(Lsn), None, Pressure::default());
        assert_eq!(plan.keep_from(), Lsn(expected), "{commit} {horizon} {reader:?}");
    }
}

#[test]
fn slot_keeps_up_to_its_limit() {
    let at = snapshot(Dialect::Holdfast, 5000, 5000, 10);
    for (reader, slot, expected) in [
        (None, 4950, 4900),
        (None, 3500, 3500),
        (Some(4500), 3500, 3500),
        (Some(3500), 4500, 4000),
        (None, 2000, 3000),
        (None, 0, 3000),
    ] {
        let plan = |pressure| RETENTION.plan(&at, reader.map(Lsn), Some(Lsn(slot)), Pressure(pressure));
        assert_eq!(plan(0).keep_from(), Lsn(expected), "{reader:?} {slot}");
        assert_eq!(plan(HoldReason::AT_HIGH_LEVEL).keep_from(), Lsn(slot.max(3000)), "slots stay");
        assert_eq!(plan(4).keep_from(), Lsn(5000), "nothing else is left");
    }
}

/// Dialect `neon` cannot seed a member anew.
#[test]
fn neon_member_has_no_limit() {
    let at = snapshot(Dialect::Neon, 5000, 200, 10);
    assert_eq!(RETENTION.plan(&at, None, None, Pressure::default()).keep_from(), Lsn(200));
    assert_eq!(RETENTION.plan(&at, None, None, Pressure(3)).keep_from(), Lsn(5000), "a full disk is worse");
}

#[test]
fn pressure_gives_reasons_up_in_order() {
    let at = snapshot(Dialect::Holdfast, 5000, 4600, 10);
    for (pressure, reader, expected) in [
        (0, Some(4500), 4500),
        (1, Some(4990), 4600),
        (1, Some(4500), 4500),
        (2, Some(4500), 4600),
        (3, Some(4500), 5000),
        (9, Some(4500), 5000),
    ] {
        let plan = RETENTION.plan(&at, reader.map(Lsn), None, Pressure(pressure));
        assert_eq!(plan.keep_from(), Lsn(expected), "{pressure} {reader:?}");
        let calm = RETENTION.plan(&at, reader.map(Lsn), None, Pressure::default());
        assert_eq!(calm.freed_by(Pressure(pressure)), expected - calm.keep_from().0, "{pressure} {reader:?}");
    }
    let begins_late = RETENTION.plan(&snapshot(Dialect::Holdfast, 5000, 4600, 4800), None, None, Pressure(0));
    assert_eq!(begins_late.freed_by(Pressure(3)), 200, "the rest is not there");
}

#[test]
fn plan_names_what_is_held_and_given_up() {
    use HoldReason::{Comfort, Member, Reader};
    let plan = |oldest| {
        let at = snapshot(Dialect::Holdfast, 5000, 200, oldest);
        RETENTION.plan(&at, Some(Lsn(3500)), None, Pressure::default())
    };
    // The member is beyond its limit, and nothing was removed yet.
    let before = plan(10);
    assert_eq!([Comfort, Reader, Member].map(|reason| before.held_bytes(reason)), [100, 1000, 2000]);
    assert_eq!(Member.label(), "member");
    assert_eq!(before.given_up(Member), None, "it can still be fed");

    let after = plan(3000);
    assert_eq!(after.given_up(Member), Some((Lsn(200), Lsn(3000))));
    assert_eq!((after.given_up(Reader), after.given_up(Comfort)), (None, None));
    // The reader was refused what it needs; comfort promises nothing.
    let removed = plan(4950);
    assert_eq!(removed.given_up(Reader), Some((Lsn(3500), Lsn(4950))));
    assert_eq!((removed.given_up(Comfort), removed.held_bytes(Comfort)), (None, 50));
}

/// A new log that begins above zero has a horizon of zero until its first leader reports one.
#[test]
fn new_log_gives_nothing_up() {
    let mut at = snapshot(Dialect::Holdfast, 5000, 0, 4000);
    Arc::make_mut(&mut at.lineage).start_lsn = Lsn(4000);
    let plan = RETENTION.plan(&at, None, None, Pressure::default());
    assert_eq!(plan.given_up(HoldReason::Member), None);
}
