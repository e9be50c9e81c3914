//! Builds an acknowledged log, damages it, and checks what a start makes of it.

use std::time::Duration;

use consensus::Loss;
use wal_store::{Health, ModelDisk};
use wal_types::{Lsn, Term};

use crate::common::{Proposer, SEGMENT_BYTES, START, create, open, send};
use crate::log_checks::{check_dead_tail, read_log};

/// Size of a slot of the control file.
pub(crate) const CONTROL_SLOT_BYTES: usize = 32 * 1024;
/// Distance of the footer slots.
pub(crate) const FOOTER_SLOT_BYTES: usize = 2048;

/// A log over three segments: the first half committed, all of it acknowledged, and idle when `idle` is set.
pub(crate) fn acknowledged_log(idle: bool) -> (ModelDisk, Proposer) {
    let disk = ModelDisk::new();
    create(&disk);
    let mut replica = open(&disk);
    let mut proposer = Proposer::first(1);
    proposer.lead(&mut replica, START);
    for _ in 0..20 {
        proposer.write(&[1; 2000]);
    }
    proposer.commit_lsn = proposer.ends[5];
    for append in proposer.appends_of(4000) {
        send(&mut replica, vec![append]);
    }
    send(&mut replica, vec![proposer.heartbeat()]);
    let _ = replica.run_tick(Duration::from_secs(1));
    if idle {
        let _ = replica.run_tick(Duration::from_secs(9));
    }
    (disk, proposer)
}

/// Name of a segment's file.
pub(crate) fn segment_name(segment: u64) -> String {
    format!("0000000100000000{segment:08X}")
}

/// Flips a bit of the WAL at `lsn`.
pub(crate) fn rot(disk: &ModelDisk, lsn: Lsn) {
    let bit = (lsn.0 % SEGMENT_BYTES) as usize * 8 + 3;
    disk.flip_bit(&segment_name(lsn.0 / SEGMENT_BYTES), bit).unwrap();
}

/// Flips a bit of a footer slot.
pub(crate) fn rot_footer(disk: &ModelDisk, segment: u64, slot: usize) {
    let bit = (SEGMENT_BYTES as usize + slot * FOOTER_SLOT_BYTES + 60) * 8;
    disk.flip_bit(&segment_name(segment), bit).unwrap();
}

/// Checks a lost node: its log ends at `end`, is a prefix of the proposer's, and it knows how far it may have been
/// acknowledged. Another start changes nothing.
pub(crate) fn check_lost(disk: &ModelDisk, proposer: &Proposer, end: Lsn, acked_upto: Lsn) {
    for start in 0..2 {
        let replica = open(disk);
        let snapshot = replica.snapshot();
        assert_eq!(snapshot.health, Health::Lost, "start {start}");
        assert_eq!(snapshot.lost, Some(Loss { term: Term(1), acked_upto }), "start {start}");
        assert_eq!(snapshot.flush_lsn, end, "start {start}");
        assert!(snapshot.commit_lsn <= end && snapshot.horizon_lsn <= end);
        assert!(proposer.log[..end.bytes_since(START) as usize] == read_log(&replica));
        check_dead_tail(disk, end);
    }
}

/// Checks that nothing is lost.
pub(crate) fn check_whole(disk: &ModelDisk, proposer: &Proposer) {
    let replica = open(disk);
    assert_eq!((replica.snapshot().health, replica.snapshot().lost), (Health::Healthy, None));
    assert!(read_log(&replica) == proposer.log);
}
