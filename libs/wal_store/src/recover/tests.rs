//! Recovery against a writer that was killed at each of its steps.

use consensus::{Configuration, Dialect, Lineage};
use wal_format::{PageMagic, ScanContext, WalBuilder};
use wal_types::{SegmentSize, SystemId, TenantTimelineId, Tli};

use super::*;
use crate::disk::ModelDisk;
use crate::replica::Replica;
use crate::writer::Adopted;

const NODE: NodeId = NodeId(1);
const TERM: Term = Term(0);
const START: Lsn = Lsn(0x4000);
/// For a power failure: everything that was not synced is lost.
const NOTHING_SURVIVES: u64 = 0;

fn empty_log() -> (ModelDisk, WalBuilder) {
    let lineage = Lineage {
        id: TenantTimelineId::default(),
        dialect: Dialect::Holdfast,
        system_id: SystemId(7),
        pg_version: 150_018,
        segment_size: SegmentSize::new(0x4000).unwrap(),
        start_lsn: START,
        start_tli: Tli::FIRST,

        birth: None,
        start_history: None,
    };
    let context = ScanContext { segment_size: lineage.segment_size, system_id: lineage.system_id };
    let disk = ModelDisk::new();
    Replica::create(
        &disk,
        wal_types::CopyId { node: NODE, ..Default::default() },
        [5; 16],
        lineage,
        Configuration::default(),
    )
    .unwrap();
    (disk, WalBuilder::new(context, PageMagic::POSTGRES_15, Tli::FIRST, START, Lsn(0)))
}

/// Appends and flushes, so that the WAL may be acknowledged.
fn append(writer: &mut Writer<ModelDisk>, wal: &[u8]) {
    let begin = writer.end();
    while !writer.has_room(begin.advance(wal.len() as u64)) {
        let blank = writer.next_blank(None, TERM).unwrap();
        assert_eq!(writer.adopt_blank(blank.write()).unwrap(), Adopted::Added);
    }
    writer.write(begin, wal).unwrap();
    writer.flush(begin, TERM).unwrap();
}

fn read(writer: &Writer<ModelDisk>) -> Vec<u8> {
    let mut wal = vec![0; writer.end().bytes_since(START) as usize];
    writer.segments().read(START, &mut wal).unwrap();
    wal
}

/// A truncation gives the new file of a segment its name, and the process is killed before that is durable. WAL that is
/// acknowledged then goes to the new file, so its name must be durable first, or a power failure brings the old file
/// back.
#[test]
fn recover_keeps_wal_of_a_file_just_renamed() {
    let mut cuts_seen = 0;
    for killed_after in 0.. {
        let (disk, mut builder) = empty_log();
        let mut writer = recover(&disk, NODE, UnreadablePolicy::Fail).unwrap().writer;
        let first = builder.record(0, 0x20, &[1; 500]).bytes;
        let mut fork = builder.clone();
        append(&mut writer, &first);
        append(&mut writer, &builder.record(0, 0x20, &[2; 500]).bytes);
        disk.crash_after(killed_after);
        let is_cut = writer.truncate(START.advance(first.len() as u64), TERM).is_ok();

        let disk = disk.kill();
        let mut writer = recover(&disk, NODE, UnreadablePolicy::Fail).unwrap().writer;
        if writer.end() == START.advance(first.len() as u64) {
            cuts_seen += 1;
            append(&mut writer, &fork.record(0, 0x20, &[3; 700]).bytes);
        }
        let acknowledged = read(&writer);
        let disk = disk.crash(&mut || NOTHING_SURVIVES);
        let writer = recover(&disk, NODE, UnreadablePolicy::Fail).unwrap().writer;
        // Not compared by a macro that prints all of both.
        assert!(read(&writer) == acknowledged, "killed after {killed_after} operations of the truncation");
        if is_cut {
            break;
        }
    }
    assert!(cuts_seen >= 2, "one truncation was done, and one at least was not durable: {cuts_seen}");
}
