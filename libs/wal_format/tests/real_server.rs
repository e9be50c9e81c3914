//! WAL of a PostgreSQL server that runs now, compared with the server's own reader. Recorded WAL of all versions is read
//! in `real/`.
//!
//! Needs PostgreSQL's programs, in `HOLDFAST_PG_BIN`, or found by `pg_config` or in Debian's directory. Without them the
//! tests say so and pass.

#![allow(clippy::unwrap_used, reason = "a panic here is the report of a test")]

mod common;
mod server;

use std::collections::BTreeMap;

use common::Log;
use server::{LoggedRecord, Server};
use wal_format::{
    PAGE_BYTES, PageMagic, RecordScanner, ScanContext, SegmentName, StopReason, WalBuilder, find_end_of_log,
    page_header_bytes,
};
use wal_types::{Lsn, SegmentSize, SystemId, Tli};

const SEGMENT_SIZE: u32 = 1 << 20;

const LOAD: [&str; 7] = [
    "CREATE TABLE IF NOT EXISTS t (id bigserial PRIMARY KEY, v text)",
    "INSERT INTO t (v) SELECT repeat('x', (i % 500)::int) FROM generate_series(1, 4000) i",
    "SELECT pg_logical_emit_message(false, 'test', repeat('m', 200000))",
    "SELECT pg_switch_wal()",
    "UPDATE t SET v = v || 'y' WHERE id % 3 = 0",
    "SELECT pg_logical_emit_message(true, 'test', repeat('n', 3000000))",
    "CHECKPOINT",
];

#[test]
fn server_record_ends_match_pg_waldump() {
    let Some(mut server) = Server::init(SEGMENT_SIZE) else { return };
    server.start();
    server.sql(&LOAD);
    server.sql(&["SELECT pg_switch_wal()", "SELECT pg_switch_wal()"]);
    server.sql(&LOAD[1..]);
    server.stop("fast");
    check_wal(&server);
}

/// A server that crashed inside a record overwrites it; the scan leaves it out as the server does.
#[test]
fn server_crash_leaves_out_the_partial_record() {
    let Some(mut server) = Server::init(SEGMENT_SIZE) else { return };
    server.start();
    server.sql(&LOAD);
    let before: Lsn = server.sql(&["SELECT pg_current_wal_insert_lsn()"]).parse().unwrap();
    server.sql(&[LOAD[5]]);
    server.stop("immediate");
    // As if the server had died before it wrote this page; what is behind it is there, as it may be.
    let lost = before.advance(1_500_000).align_down(PAGE_BYTES as u64);
    server.zero_page(lost);
    server.start();
    server.sql(&LOAD[1..3]);
    server.stop("immediate");
    server.start();
    server.stop("fast");
    let records = check_wal(&server);
    assert!(records.iter().any(|record| record.overwrites.is_some()), "the server has seen the gap");
}

/// The WAL of a promoted server scans as one log over both of its timelines.
#[test]
fn server_promotion_scans_as_one_log() {
    let Some(mut server) = Server::init(SEGMENT_SIZE) else { return };
    server.start();
    server.sql(&LOAD);
    server.stop("fast");
    server.start_on_next_timeline();
    server.sql(&LOAD[1..]);
    server.stop("fast");
    let end = scan_to_end(&server);
    assert_eq!(end.scanner.tli(), Tli(2));
    check_wal(&server);
}

/// Scans all WAL of the server's directory, and compares start and end of each record with the server's reader.
fn check_wal(server: &Server) -> Vec<LoggedRecord> {
    let wal = server.wal();
    let mut records = BTreeMap::new();
    for tli in [Tli(1), Tli(2)] {
        if let Some(start) = wal.start_of(tli) {
            records.extend(server.waldump(tli, start).into_iter().map(|record| (record.start, record)));
        }
    }
    let records: Vec<LoggedRecord> = records.into_values().collect();
    assert!(records.len() > 1000, "the load leaves records, pg_waldump listed {}", records.len());

    let found = whole_records(context(server), wal.start, &wal.bytes);
    let starts: Vec<Lsn> = records.iter().map(|record| record.start).collect();
    assert_same(&found.iter().map(|(start, _)| *start).collect::<Vec<_>>(), &starts);
    for (pair, (start, end)) in records.windows(2).zip(&found) {
        // A record that was never finished is between these two.
        let next = pair[1].overwrites.unwrap_or(pair[1].start);
        assert_eq!(*end, without_page_header(next), "end of the record at {start}");
    }

    let end = scan_to_end(server);
    assert_eq!(
        (end.last_record_start, end.record_end),
        (found.last().map(|last| last.0), found.last().unwrap().1)
    );
    assert_eq!(
        end.last_record_start,
        Some(server.last_checkpoint()),
        "a clean stop ends with its checkpoint"
    );
    assert!(matches!(end.stopped, StopReason::NotWal(_)), "{:?}", end.stopped);
    records
}

/// Reports the first difference of two long lists of record starts.
fn assert_same(found: &[Lsn], servers: &[Lsn]) {
    let at = found.iter().zip(servers).take_while(|(found, servers)| found == servers).count();
    assert_eq!(found.get(at), servers.get(at), "the records differ after {at}, at {:?}", found[..at].last());
}

/// Start and end of each record that the scanner sees whole.
fn whole_records(ctx: ScanContext, start: Lsn, bytes: &[u8]) -> Vec<(Lsn, Lsn)> {
    let mut scanner = RecordScanner::at_segment_start(ctx, start);
    let mut records = Vec::new();
    for piece in bytes.chunks(8) {
        let before = scanner.record_end();
        let failed = scanner.feed(piece).is_err();
        match scanner.last_record_start() {
            Some(start) if scanner.record_end() > before => records.push((start, scanner.record_end())),
            _ => {}
        }
        if failed {
            break;
        }
    }
    records
}

fn scan_to_end(server: &Server) -> wal_format::ScanEnd {
    let wal = server.wal();
    let scanner = RecordScanner::at_segment_start(context(server), wal.start);
    find_end_of_log(scanner, |lsn, buffer| {
        let left = &wal.bytes[lsn.bytes_since(wal.start) as usize..];
        let count = left.len().min(buffer.len());
        buffer[..count].copy_from_slice(&left[..count]);
        Ok(count)
    })
    .unwrap()
}

fn context(server: &Server) -> ScanContext {
    ScanContext { segment_size: SegmentSize::new(SEGMENT_SIZE).unwrap(), system_id: server.system_id() }
}

fn without_page_header(record_start: Lsn) -> Lsn {
    let page = record_start.align_down(PAGE_BYTES as u64);
    let header = page_header_bytes(SegmentSize::new(SEGMENT_SIZE).unwrap(), record_start);
    if record_start == page.advance(header as u64) { page } else { record_start }
}

#[test]
fn pg_waldump_reads_what_the_builder_writes() {
    let Some(programs) = server::find_programs() else { return };
    let mut log = Log::new(1 << 10);
    log.ctx.system_id = SystemId(1);
    let magic = PageMagic::of_major(programs.major()).expect("a known version");
    log.builder = WalBuilder::new(log.ctx, magic, Tli(1), log.start, Lsn(0));
    for length in (24..9000).step_by(37) {
        log.noop(length);
    }
    log.switch();
    log.noop(3_000_000);
    log.overwrite_contrecord(100_000, 3);
    log.fill_segment_up_to(8);
    log.switch();
    log.noop(24);
    let starts: Vec<Lsn> = log.ends.iter().map(|(_, start)| *start).collect();

    let directory = tempfile::tempdir().unwrap();
    let segment_bytes = SEGMENT_SIZE as usize;
    log.bytes.resize(log.bytes.len().next_multiple_of(segment_bytes), 0);
    for (bytes, segment) in log.bytes.chunks(segment_bytes).zip(1..) {
        let name = SegmentName { tli: Tli(1), segment, size: log.ctx.segment_size };
        std::fs::write(directory.path().join(name.to_string()), bytes).unwrap();
    }
    let listed = programs.waldump(directory.path(), Tli(1), log.start);
    assert_same(&starts, &listed.iter().map(|record| record.start).collect::<Vec<_>>());
}
