//! Reads a whole log, and checks that only zeros are behind its end.

use wal_format::SegmentName;
use wal_store::{Disk, DiskFile, ReadMode, ReadOutcome, Replica};
use wal_types::Lsn;

use crate::common::{SEGMENT_BYTES, lineage};

/// Attempts before a read is given up: more than faults that are injected in one story.
const ATTEMPTS: usize = 20;

/// The log of a replica from its oldest byte on, read through a [`wal_store::WalReader`].
pub(crate) fn read_log<D: Disk>(replica: &Replica<D>) -> Vec<u8> {
    let mut reader = replica.reader(ReadMode::Flushed(replica.snapshot().term));
    let (mut log, mut buffer) = (Vec::new(), [0; 5000]);
    let (mut failures, oldest) = (0, replica.snapshot().oldest_lsn);
    loop {
        match reader.read(oldest.advance(log.len() as u64), &mut buffer) {
            Ok(ReadOutcome::Bytes(count)) => log.extend_from_slice(&buffer[..count]),
            Ok(ReadOutcome::Nothing) => return log,
            Ok(ReadOutcome::Changed) => panic!("the files changed during the read"),
            // An injected fault.
            Err(error) => {
                failures += 1;
                assert!(failures < ATTEMPTS, "{error}");
            }
        }
    }
}

/// Checks in the files that only zeros are behind `end`, and that no unfinished file is left.
pub(crate) fn check_dead_tail<D: Disk>(disk: &D, end: Lsn) {
    for name in disk.list().unwrap() {
        assert!(!name.ends_with(".unfinished"), "{name} is left");
        let Ok(segment) = SegmentName::parse(&name, lineage().segment_size) else { continue };
        let start = lineage().segment_size.start_of(segment.segment);
        let mut wal = vec![0; SEGMENT_BYTES as usize];
        disk.open(&name).unwrap().read_at(0, &mut wal).unwrap();
        let dead = &wal[end.bytes_since(start).min(SEGMENT_BYTES) as usize..];
        assert!(dead.iter().all(|&byte| byte == 0), "bytes behind {end} in {name}");
    }
}
