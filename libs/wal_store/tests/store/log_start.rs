//! A log that begins inside a record, as that of a new member does.

use wal_store::{Health, ModelDisk, Replica};
use wal_types::Lsn;

use crate::common::{
    Proposer, SEGMENT_BYTES, START, builder, configuration, lineage, nothing_survives, open, send,
};
use crate::log_checks::read_log;

/// A new member has no log at all, and begins where the other members still have theirs: anywhere in a record.
#[test]
fn log_may_start_inside_a_record() {
    let start = Lsn(START.0 + 3 * SEGMENT_BYTES);
    let mut whole = builder();
    let (mut log, mut ends) = (Vec::new(), Vec::new());
    while log.len() < 6 * SEGMENT_BYTES as usize {
        let appended = whole.record(0, 0x20, &[5; 3000]);
        log.extend_from_slice(&appended.bytes);
        ends.push(appended.range.end);
    }
    assert!(!ends.contains(&start));
    let disk = ModelDisk::new();
    let mut begins_late = lineage();
    begins_late.start_lsn = start;
    Replica::create(&disk, crate::common::COPY, [5; 16], begins_late, configuration()).unwrap();
    let mut replica = open(&disk);
    assert_eq!(replica.snapshot().flush_lsn, start);
    let mut proposer = Proposer::first(1);
    (proposer.log, proposer.sent) = (log, start);
    send(&mut replica, vec![proposer.greet(), proposer.vote(), proposer.elected(start)]);
    // Half of the record's rest, and then all of it.
    let first = *ends.iter().find(|&&end| end > start).unwrap();
    let mut at = start;
    for (to, flush_lsn) in
        [(Lsn(first.0 - 8), start), (first, first), (*ends.last().unwrap(), *ends.last().unwrap())]
    {
        proposer.commit_lsn = flush_lsn;
        let append = proposer.append_range(at, to);
        send(&mut replica, vec![append]);
        assert_eq!(replica.snapshot().flush_lsn, flush_lsn);
        at = to;
        let again = open(&disk.fork().crash(&mut nothing_survives)).snapshot();
        assert_eq!((again.flush_lsn, again.health), (flush_lsn, Health::Healthy));
    }
    assert!(read_log(&replica) == proposer.log[start.bytes_since(START) as usize..]);
}
