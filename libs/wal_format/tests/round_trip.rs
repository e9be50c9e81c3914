//! What the builder writes, the scanner reads, in pieces of any size.

use wal_format::{PageMagic, RecordScanner, ScanContext, WalBuilder};
use wal_types::{Lsn, SegmentSize, SystemId, Tli};

#[test]
fn smoke() {
    let ctx = ScanContext { segment_size: SegmentSize::new(16 << 10).unwrap(), system_id: SystemId(7) };
    let start = Lsn(16 << 10);
    let mut builder = WalBuilder::new(ctx, PageMagic::POSTGRES_15, Tli(1), start, Lsn(0));
    let mut scanner = RecordScanner::at_segment_start(ctx, start);
    for length in [24, 27, 300, 8192, 50_000, 100, 24] {
        let appended = builder.noop(length);
        for byte in &appended.bytes {
            scanner.feed(&[*byte]).unwrap();
        }
        assert_eq!(scanner.record_end(), appended.range.end);
        let appended = builder.switch();
        scanner.feed(&appended.bytes).unwrap();
        assert_eq!(scanner.record_end(), appended.range.end);
        let appended = builder.overwrite_contrecord(20000, 2);
        scanner.feed(&appended.bytes).unwrap();
        assert_eq!(scanner.record_end(), appended.range.end);
        assert_eq!(scanner.last_record_start(), Some(appended.record_start));
    }
}
