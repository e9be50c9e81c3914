//! Records the fixtures: a server works, crashes inside a record, recovers and is promoted. Its WAL is kept, with what its
//! own reader reports. `record.sh` calls this once for each major version.

use std::collections::BTreeMap;
use std::path::Path;

use wal_format::{PAGE_BYTES, page_header_bytes};
use wal_types::{Lsn, SegmentSize, Tli};

use crate::fixture::{Fixture, RecordRange, SEGMENT_BYTES};
use crate::server::{LoggedRecord, Server, run};

/// The writer of WAL sleeps, and its buffer is small: most of a long record is written when the next one is asked
/// for, the last pages are not.
const SETTINGS: &str = "wal_buffers = '64kB'\nwal_writer_delay = '10s'\nwal_writer_flush_after = '1GB'\n\
     checkpoint_timeout = '1h'\nautovacuum = off\n";

const LOAD: [&str; 9] = [
    "CHECKPOINT",
    "INSERT INTO t (v) SELECT repeat('x', (i % 50)::int) FROM generate_series(1, 300) i",
    "UPDATE t SET v = v || 'y' WHERE id % 3 = 0",
    "SELECT pg_logical_emit_message(false, '', repeat('m', n)) FROM generate_series(0, 9000, 31) n",
    "SELECT pg_logical_emit_message(true, 'test', repeat('n', 2500000))",
    "INSERT INTO t (v) SELECT 'z' FROM generate_series(1, 20)",
    "SELECT pg_switch_wal()",
    "SELECT pg_switch_wal()",
    "DELETE FROM t WHERE id % 7 = 0",
];
const LONG_RECORD: &str = "SELECT pg_logical_emit_message(false, 'test', repeat('c', 1500000))";

#[test]
#[ignore = "writes the fixtures anew, needs the programs of one server"]
fn record() {
    let mut server = Server::init(SEGMENT_BYTES).unwrap();
    server.configure(SETTINGS);
    server.start();
    server.sql(&["CREATE TABLE t (id bigserial PRIMARY KEY, v text)", "SELECT pg_switch_wal()"]);
    server.stop("immediate");
    let before = server.data().with_file_name("before");
    run(server.program("/bin/cp").arg("-a").arg(server.data()).arg(&before));

    server.start();
    server.sql(&["SELECT pg_switch_wal()"]);
    let segment_size = SegmentSize::new(SEGMENT_BYTES).unwrap();
    let current: Lsn = server.sql(&["SELECT pg_current_wal_insert_lsn()"]).parse().unwrap();
    let start = segment_size.start_of(segment_size.segment_of(current));
    server.sql(&LOAD);
    server.sql(&[LONG_RECORD]);
    server.stop("immediate");
    server.start();
    server.sql(&LOAD[2..4]);
    server.stop("fast");
    server.start_on_next_timeline();
    server.sql(&LOAD[1..3]);
    server.stop("fast");

    let wal = server.wal();
    let records = if server.programs.have("pg_waldump") {
        records_by_waldump(&server, start)
    } else {
        records_by_recovery(&server, &before, start)
    };
    let end = segment_size.start_of(segment_size.segment_of(records.last().unwrap().1) + 1);
    let from_to = start.bytes_since(wal.start) as usize..end.bytes_since(wal.start) as usize;
    let version = server.programs.version();
    let bytes = wal.bytes[from_to].to_vec();
    let system_id = server.system_id();
    Fixture { version, system_id, start, bytes, records }.save(server.programs.major());
}

/// `pg_waldump` reports where records begin. A record ends where the next one, or a partial record, begins.
fn records_by_waldump(server: &Server, start: Lsn) -> Vec<RecordRange> {
    let mut records: BTreeMap<Lsn, LoggedRecord> = BTreeMap::new();
    let second = server.wal().start_of(Tli(2)).unwrap();
    for (tli, start) in [(Tli(1), start), (Tli(2), second)] {
        records.extend(server.waldump(tli, start).into_iter().map(|record| (record.start, record)));
    }
    let records: Vec<LoggedRecord> = records.into_values().collect();
    assert!(records.iter().any(|record| record.overwrites.is_some()), "the server wrote all of the record");
    let begins = |record: &LoggedRecord| without_page_header(record.overwrites.unwrap_or(record.start));
    let mut ranges: Vec<RecordRange> =
        records.windows(2).map(|pair| (pair[0].start, begins(&pair[1]))).collect();
    let last = records.last().unwrap();
    ranges.push((last.start, end_of_short(last)));
    ranges
}

/// The last record, of a shutdown, has no successor. It is shorter than a page, so it crosses one boundary at most.
fn end_of_short(record: &LoggedRecord) -> Lsn {
    assert!(record.total_bytes < 1000);
    let mut end = record.start.advance(record.total_bytes);
    let next_page = record.start.align_down(PAGE_BYTES as u64).advance(PAGE_BYTES as u64);
    if end > next_page {
        end = end.advance(page_header_bytes(SegmentSize::new(SEGMENT_BYTES).unwrap(), next_page) as u64);
    }
    end.align_up(8)
}

fn without_page_header(record_start: Lsn) -> Lsn {
    let page = record_start.align_down(PAGE_BYTES as u64);
    let header = page_header_bytes(SegmentSize::new(SEGMENT_BYTES).unwrap(), record_start);
    if record_start == page.advance(header as u64) { page } else { record_start }
}

/// For a version without `pg_waldump`: a copy from `before` recovers from all the WAL, and a debugger looks at what
/// the server's reader (`XLogReaderState`) has read.
fn records_by_recovery(server: &Server, before: &Path, start: Lsn) -> Vec<RecordRange> {
    let script = include_str!("records_by_recovery.gdb.py");
    let path = before.with_file_name("records_by_recovery.py");
    std::fs::write(&path, script).unwrap();
    run(server.program("/bin/rm").arg("-rf").arg(before.join("pg_wal")));
    run(server.program("/bin/cp").arg("-a").arg(server.data().join("pg_wal")).arg(before));
    std::fs::write(before.join("recovery.signal"), "").unwrap();
    let settings = before.join("postgresql.conf");
    let text = std::fs::read_to_string(&settings).unwrap();
    std::fs::write(&settings, text + "restore_command = 'false'\n").unwrap();

    let postgres = server.program("postgres").get_args().last().unwrap().to_owned();
    let mut command = server.program("/usr/bin/gdb");
    command.args(["-batch", "-nx", "-x"]).arg(&path).arg("--args").arg(postgres);
    command.args(["--single", "-D"]).arg(before).arg("postgres");
    command.stdin(std::process::Stdio::null());
    let ranges = parse_ranges(&run(&mut command));
    ranges.into_iter().filter(|(record_start, _)| *record_start >= start).collect()
}

fn parse_ranges(said: &str) -> Vec<RecordRange> {
    let lsn = |hex: &str| Lsn(u64::from_str_radix(hex, 16).unwrap());
    let range = |line: &str| {
        let (start, end) = line.strip_prefix("record ")?.split_once(' ')?;
        Some((lsn(start), lsn(end)))
    };
    let ranges: BTreeMap<Lsn, Lsn> = said.lines().filter_map(range).collect();
    ranges.into_iter().collect()
}
