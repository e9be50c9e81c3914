//! [`recover`]: from what a directory shows to a log that can be trusted.
//!
//! Runs when a timeline is opened and after any failure of its disk, before the first message is answered. It ends
//! with one of three: a log whose every byte is durable and behind which are only zeros, a verdict that something that
//! was acknowledged is gone, or an error of the disk, and then nothing is known.
//!
//! What a scan shows comes from the page cache. After a failed sync the cache may show bytes that the disk lacks, and
//! no later sync of that file would write them; so a segment that holds anything above what was acknowledged is
//! written to a new file.

use std::collections::BTreeSet;
use std::io;

use consensus::AcceptorState;
use wal_format::{RecordScanner, ScanEnd, Stop};
use wal_types::{Lsn, NodeId, SegmentNumber, Term};

use crate::control_file::ControlFile;
use crate::disk::{Disk, DiskFile};
use crate::error::{Corruption, StoreError};
use crate::footer::Footer;
use crate::scan::{ScanFailure, scan_to_end, scanner_at};
use crate::segment::{Segments, UNFINISHED_SUFFIX};
use crate::writer::Writer;

const READ_BYTES: usize = 64 * 1024;

/// A log that can be trusted.
pub(crate) struct Recovered<D: Disk> {
    pub(crate) control: ControlFile<D>,
    pub(crate) writer: Writer<D>,
    /// Stands at the end of the log.
    pub(crate) scanner: RecordScanner,
}

/// See the module.
pub(crate) fn recover<D: Disk>(disk: &D, node: NodeId) -> Result<Recovered<D>, StoreError> {
    // A process that was killed may have left names that a power failure takes away.
    disk.sync_dir().map_err(StoreError::io("sync the directory"))?;
    remove_unfinished(disk)?;
    let control = ControlFile::load(disk.clone(), node)?;
    let segments = Segments { disk: disk.clone(), lineage: control.content().lineage.clone() };
    let present = segments.list().map_err(StoreError::io("list the segments"))?;
    let state = &control.content().state;
    let commit_lsn = state.commit_lsn.max(segments.lineage.start_lsn);

    let acked_upto = highest_acknowledged(&segments, &present, state, commit_lsn)?;
    let ScanEnd { record_end: end, stopped, mut scanner, .. } = find_end(&segments, commit_lsn, acked_upto)?;
    if end < commit_lsn {
        return Err(Corruption::BelowCommit { end, commit_lsn, reason: reason(stopped) }.into());
    }
    if end < acked_upto {
        return Err(Corruption::BelowAcknowledged { end, acked_upto, reason: reason(stopped) }.into());
    }
    check_complete(&segments, &present, end)?;

    let (term, known) = (state.term, acked_upto.max(commit_lsn));
    // The footer that says so may be in a segment that goes now.
    let mut writer = Writer::new(segments, present, end);
    writer.flush_footer(known, term)?;
    writer.drop_segments_behind_end()?;
    if make_durable(writer.segments(), term, known, end)? {
        // Between the scan and the copy the cache may have dropped pages, and shown what the disk has instead.
        let again = find_end(writer.segments(), commit_lsn, acked_upto)?;
        if again.record_end != end {
            // A fault of the disk, not of the log: what it really holds is found when it is asked again.
            let source = io::Error::other("it changed meanwhile");
            return Err(StoreError::Io { action: "recover the log", source });
        }
        scanner = again.scanner;
        writer.reopen();
    }
    writer.flush_footer(end, term)?;
    Ok(Recovered { control, writer, scanner })
}

fn remove_unfinished<D: Disk>(disk: &D) -> Result<(), StoreError> {
    for name in disk.list().map_err(StoreError::io("list the directory"))? {
        // A control file may be unfinished, too; then the finished one is the one that counts.
        if name.ends_with(UNFINISHED_SUFFIX) {
            disk.unlink(&name).map_err(StoreError::io("remove an unfinished file"))?;
        }
    }
    Ok(())
}

/// Below the segment of the commit position no footer can say more than the commit position does.
fn highest_acknowledged<D: Disk>(
    segments: &Segments<D>,
    present: &BTreeSet<SegmentNumber>,
    state: &AcceptorState,
    commit_lsn: Lsn,
) -> Result<Lsn, StoreError> {
    let mut highest = Lsn::INVALID;
    for &segment in present.range(segments.number_of(commit_lsn)..) {
        let file = segments.open(segment)?;
        let footer = segments.footer(segment, &file)?;
        // It may be in the page cache only, and the next footer goes to the other slot: if that was torn, both would be
        // bad. Written again it is dirty again, and this sync counts; if it was on the disk, nothing changes there.
        segments.write_footer(&file, &footer)?;
        file.sync_data().map_err(StoreError::io("sync a footer"))?;
        if footer.term > state.term {
            return Err(Corruption::TermAhead { segment, found: footer.term, known: state.term }.into());
        }
        highest = highest.max(footer.acked_upto);
    }
    Ok(highest)
}

/// Above what was acknowledged only bytes under a checksum count: of the others a crash may have left any part.
fn find_end<D: Disk>(
    segments: &Segments<D>,
    commit_lsn: Lsn,
    acked_upto: Lsn,
) -> Result<ScanEnd, StoreError> {
    match scanner_at(segments, segments.lineage.system_id, commit_lsn) {
        Ok(scanner) => scan_to_end(segments, scanner.trusting_up_to(acked_upto.max(commit_lsn))),
        Err(ScanFailure::Store(error)) => Err(error),
        Err(ScanFailure::NotWal(error)) => {
            let end = error.position();
            Err(Corruption::BelowCommit { end, commit_lsn, reason: error.to_string() }.into())
        }
        Err(ScanFailure::NoSegment(end) | ScanFailure::NotARecordEnd { lsn: end, .. }) => {
            Err(Corruption::BelowCommit { end, commit_lsn, reason: "there is no segment".into() }.into())
        }
    }
}

fn reason(stopped: Stop) -> String {
    match stopped {
        Stop::NotWal(error) => error.to_string(),
        Stop::NoMoreBytes { at } => format!("there is no segment at {at}"),
        Stop::AmbiguousStart => "the log may begin inside a segment switch".into(),
    }
}

fn check_complete<D: Disk>(
    segments: &Segments<D>,
    present: &BTreeSet<SegmentNumber>,
    end: Lsn,
) -> Result<(), StoreError> {
    let first = segments.number_of(segments.lineage.start_lsn);
    let missing =
        (first..).take_while(|&number| segments.start_of(number) < end).find(|n| !present.contains(n));
    missing.map_or(Ok(()), |number| Err(Corruption::MissingSegment(number).into()))
}

/// Writes every segment anew that holds more than what is `known` to be on disk, or anything behind the end. True when
/// there was one. The new footers promise no more than the old ones did.
fn make_durable<D: Disk>(
    segments: &Segments<D>,
    term: Term,
    known: Lsn,
    end: Lsn,
) -> Result<bool, StoreError> {
    if end <= segments.lineage.start_lsn {
        return Ok(false);
    }
    let last = segments.number_of(Lsn(end.0 - 1));
    if end == known && is_zero_behind(segments, last, end)? {
        return Ok(false);
    }
    for number in segments.number_of(known).min(last)..=last {
        let upto = end.min(segments.start_of(number + 1));
        segments.rebuild(upto, &Footer::first(&segments.lineage, number, term, known))?;
    }
    Ok(true)
}

fn is_zero_behind<D: Disk>(
    segments: &Segments<D>,
    segment: SegmentNumber,
    end: Lsn,
) -> Result<bool, StoreError> {
    let file = segments.open(segment)?;
    let mut buffer = vec![0; READ_BYTES];
    let mut at = end.bytes_since(segments.start_of(segment));
    while at < segments.wal_bytes() {
        let part = &mut buffer[..((segments.wal_bytes() - at) as usize).min(READ_BYTES)];
        file.read_at(at, part).map_err(StoreError::io("read WAL"))?;
        if part.iter().any(|&byte| byte != 0) {
            return Ok(false);
        }
        at += part.len() as u64;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use consensus::{Configuration, Dialect, Lineage};
    use wal_format::{PageMagic, ScanContext, WalBuilder};
    use wal_types::{SegmentSize, SystemId, TenantTimelineId, Tli};

    use super::*;
    use crate::disk::ModelDisk;
    use crate::replica::Replica;

    const NODE: NodeId = NodeId(1);
    const TERM: Term = Term(0);
    const START: Lsn = Lsn(0x4000);
    /// A power failure takes everything that was not synced.
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
        };
        let context = ScanContext { segment_size: lineage.segment_size, system_id: lineage.system_id };
        let disk = ModelDisk::new();
        Replica::create(&disk, NODE, [5; 16], lineage, Configuration::default()).unwrap();
        (disk, WalBuilder::new(context, PageMagic::POSTGRES_15, Tli::FIRST, START, Lsn(0)))
    }

    /// Appends, so that it may be acknowledged.
    fn append(writer: &mut Writer<ModelDisk>, wal: &[u8]) {
        let begin = writer.end();
        writer.reserve(begin.advance(wal.len() as u64), TERM).unwrap();
        writer.write(begin, wal).unwrap();
        writer.flush(begin, TERM).unwrap();
    }

    fn read(writer: &Writer<ModelDisk>) -> Vec<u8> {
        let mut wal = vec![0; writer.end().bytes_since(START) as usize];
        writer.segments().read(START, &mut wal).unwrap();
        wal
    }

    /// A cut gives the new file of a segment its name, and the process is killed before that is durable. What is then
    /// acknowledged goes to the new file, so its name must be durable first, or the old one is back after a power
    /// failure.
    #[test]
    fn what_is_acknowledged_in_a_file_whose_name_was_not_durable_survives_a_power_failure() {
        let mut cuts_seen = 0;
        for killed_after in 0.. {
            let (disk, mut builder) = empty_log();
            let mut writer = recover(&disk, NODE).unwrap().writer;
            let first = builder.record(0, 0x20, &[1; 500]).bytes;
            let mut fork = builder.clone();
            append(&mut writer, &first);
            append(&mut writer, &builder.record(0, 0x20, &[2; 500]).bytes);
            disk.crash_after(killed_after);
            let is_cut = writer.cut(START.advance(first.len() as u64), TERM).is_ok();

            let disk = disk.kill();
            let mut writer = recover(&disk, NODE).unwrap().writer;
            if writer.end() == START.advance(first.len() as u64) {
                cuts_seen += 1;
                append(&mut writer, &fork.record(0, 0x20, &[3; 700]).bytes);
            }
            let acknowledged = read(&writer);
            let disk = disk.crash(&mut || NOTHING_SURVIVES);
            let writer = recover(&disk, NODE).unwrap().writer;
            // Not compared by a macro that prints all of both.
            assert!(read(&writer) == acknowledged, "killed after {killed_after} operations of the cut");
            if is_cut {
                break;
            }
        }
        assert!(cuts_seen >= 2, "one cut was done, and one at least was not durable: {cuts_seen}");
    }
}
