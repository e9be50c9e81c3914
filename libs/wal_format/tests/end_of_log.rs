//! The end of stored WAL: found whatever is behind it, and the log can be continued there.

mod common;

use std::io;

use common::Log;
use wal_format::{PageMagic, RecordScanner, StopReason, WalBuilder, find_end_of_log};
use wal_types::{Lsn, Tli};

fn log() -> Log {
    let mut log = Log::new(16);
    [100, 8200, 24, 40_000, 500].iter().for_each(|length| _ = log.noop(*length));
    log.switch();
    log.overwrite_contrecord(20_000, 2);
    log.noop(300);
    log
}

/// Reads from `stored`, which begins at `start`, in pieces of `piece` bytes.
fn reader(start: Lsn, stored: &[u8], piece: usize) -> impl FnMut(Lsn, &mut [u8]) -> io::Result<usize> {
    move |lsn, buffer| {
        let left = &stored[lsn.bytes_since(start) as usize..];
        let count = left.len().min(buffer.len()).min(piece);
        buffer[..count].copy_from_slice(&left[..count]);
        Ok(count)
    }
}

/// Bytes that may be behind the end of a log, 64 KiB of each kind.
fn leftovers(log: &Log, cut: usize) -> Vec<(&'static str, Vec<u8>)> {
    let older = log.bytes.iter().cycle().skip(cut % 5000 + 9000).take(64 << 10).copied().collect();
    vec![
        ("nothing", vec![]),
        ("zeros", vec![0; 64 << 10]),
        ("ones", vec![0xff; 64 << 10]),
        ("older WAL", older),
    ]
}

#[test]
fn end_of_log_is_before_a_torn_record() {
    let log = log();
    for cut in (0..log.bytes.len()).step_by(61).chain([log.bytes.len()]) {
        for (name, leftover) in leftovers(&log, cut) {
            let stored = [&log.bytes[..cut], &leftover].concat();
            let found = find_end_of_log(log.scanner(), reader(log.start, &stored, 7000)).unwrap();
            let expected = log.expected_at(log.start.advance(cut as u64));
            // Bytes that belong to no record may be anything; if no others are missing, the end is there.
            let same = stored.iter().zip(&log.bytes).take_while(|(stored, log)| stored == log).count();
            let at_most = log.expected_if_unused_bytes_follow(log.start.advance(same as u64));
            let at_most = if name == "nothing" { expected } else { at_most };
            assert!(
                [expected, at_most].contains(&(found.record_end, found.last_record_start)),
                "{cut} bytes, then {name}: {found:?}, expected {expected:?}"
            );
            assert_eq!(matches!(found.stopped, StopReason::NoMoreBytes { .. }), name == "nothing");
        }
    }
}

#[test]
fn end_of_log_tells_zeros_from_other_bytes() {
    let log = log();
    for (name, leftover) in leftovers(&log, 0).into_iter().skip(1) {
        let stored = [&log.bytes[..], &leftover].concat();
        let found = find_end_of_log(log.scanner(), reader(log.start, &stored, usize::MAX)).unwrap();
        match found.stopped {
            StopReason::NotWal(error) => {
                assert_eq!((error.is_end_of_log(), error.position()), (name == "zeros", log.end()))
            }
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn end_of_log_scanner_continues_there() {
    let log = log();
    for cut in (0..log.bytes.len()).step_by(997) {
        let stored = [&log.bytes[..cut], &[0xff; 10_000]].concat();
        let mut found = find_end_of_log(log.scanner(), reader(log.start, &stored, 5000)).unwrap();
        assert_eq!(found.scanner.position(), found.record_end);
        let prev = found.last_record_start.unwrap_or(Lsn(0));
        let mut builder = WalBuilder::new(log.ctx, PageMagic::POSTGRES_15, Tli(2), found.record_end, prev);
        for length in [50, 20_000, 50] {
            found.scanner.feed(&builder.noop(length).bytes).unwrap();
            assert_eq!(found.scanner.record_end(), builder.position());
        }
    }
}

/// A scan that starts inside a record and never meets its end knows no record end.
#[test]
fn end_of_log_in_one_record_is_unknown() {
    let mut log = Log::new(16);
    log.noop(100_000);
    log.noop(100);
    let start = log.ctx.segment_size.start_of(2);
    let stored = &log.from(start)[..20_000];
    let scanner = RecordScanner::at_segment_start(log.ctx, start);
    let mut found = find_end_of_log(scanner, reader(start, stored, 5000)).unwrap();
    assert_eq!((found.record_end, found.last_record_start), (start, None));
    // The scanner that is handed out begins anew, with the same record.
    found.scanner.feed(log.from(start)).unwrap();
    assert_eq!(found.scanner.record_end(), log.end());
}

#[test]
fn end_of_log_returns_read_errors() {
    let failed = find_end_of_log(log().scanner(), |_, _| Err(io::ErrorKind::PermissionDenied.into()));
    assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
}
