//! [`recover`]: from what a directory shows to a log that can be trusted.
//!
//! Runs when a timeline is opened and after any failure of its disk, before the first message is answered. It ends
//! with a log whose every byte is durable and behind which are only zeros, or with an error, and then nothing is durable_upto.
//!
//! What a scan shows comes from the page cache. After a failed sync the cache may show bytes that the disk lacks, and
//! no later sync of that file would write them; so a segment that holds anything above what was acknowledged is
//! written to a new file.
//!
//! A log that ends below what was acknowledged has lost something. That is written down before anything else is
//! touched ([`crate::loss`]); then the rest is a log like any other, of a node that does not vote.

use std::collections::BTreeSet;
use std::io;

use wal_format::{RecordScanner, ScanEnd, StopReason};
use wal_types::{Lsn, NodeId, SegmentNumber, Term};

use crate::ack_evidence::{AckEvidence, committed};
use crate::control_codec::Control;
use crate::control_file::ControlFile;
use crate::disk::{Disk, DiskFile};
use crate::error::{Corruption, StoreError};
use crate::footer::Footer;
use crate::loss::{record_later_start, record_loss};
use crate::scan::{PageExpectations, ScanFailure, scan_to_end, scanner_at};
use crate::segment::{Segments, UNFINISHED_SUFFIX, UnreadablePolicy};
use crate::writer::Writer;

const READ_BYTES: usize = 64 * 1024;
/// A log loses its oldest part, then its newest, and is whole.
const ASSESSMENTS_MAX: usize = 4;

/// A log that can be trusted.
pub(crate) struct Recovered<D: Disk> {
    pub(crate) control: ControlFile<D>,
    pub(crate) writer: Writer<D>,
    /// Stands at the end of the log.
    pub(crate) scanner: RecordScanner,
    /// Names of damaged files that were put aside.
    pub(crate) quarantined: Vec<String>,
}

/// What the files come to.
enum Assessment {
    /// Nothing is lost. Here is the end.
    Whole(Box<ScanEnd>),
    /// Something is missing that every member has, and below which nobody needs anything: the log begins above it.
    StartsAt(Lsn, Corruption),
    /// Something that may have been acknowledged is gone; what is left ends here.
    EndsTooLow { end: Lsn, why: Corruption },
}

/// See the module.
pub(crate) fn recover<D: Disk>(
    disk: &D,
    node: NodeId,
    unreadable: UnreadablePolicy,
) -> Result<Recovered<D>, StoreError> {
    // A process that was killed may have left names that a power failure takes away.
    disk.sync_dir().map_err(StoreError::io("sync the directory"))?;
    remove_unfinished(disk)?;
    let mut control = ControlFile::load(disk.clone(), node)?;
    for _ in 0..ASSESSMENTS_MAX {
        let Control { lineage, oldest_lsn, .. } = control.content().clone();
        let segments = Segments { disk: disk.clone(), lineage, oldest_lsn, unreadable };
        let mut evidence = AckEvidence::gather(&segments, control.content())?;
        match assess(&segments, control.content(), &mut evidence)? {
            Assessment::Whole(end) => return finalize(control, segments, &evidence, *end),
            Assessment::StartsAt(lsn, why) => record_later_start(&mut control, lsn, &why)?,
            Assessment::EndsTooLow { end, why } => {
                record_loss(&mut control, &segments, &evidence, end, &why)?
            }
        }
    }
    Err(unstable_reads())
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

fn assess<D: Disk>(
    segments: &Segments<D>,
    control: &Control,
    evidence: &mut AckEvidence,
) -> Result<Assessment, StoreError> {
    let (oldest, commit_lsn) = (control.oldest_lsn, committed(control));
    let held_by_all = control.state.horizon_lsn.min(commit_lsn).max(oldest);
    let is_needed = |&number: &SegmentNumber| segments.start_of(number + 1) > held_by_all;
    if let Some(&hole) = evidence.missing.iter().rev().find(|number| !is_needed(number)) {
        return Ok(Assessment::StartsAt(segments.start_of(hole + 1), Corruption::MissingSegment(hole)));
    }
    let readable_upto = evidence.missing.first().map_or(Lsn::MAX, |&number| segments.start_of(number));
    // As little as possible is read. From where nothing is wrong in front of a scan, what is further down does not
    // count: all members have it.
    for from in [commit_lsn, held_by_all, oldest] {
        if from > readable_upto {
            continue;
        }
        let Some(end) = find_end(segments, PageExpectations::of(control), from, evidence.acked_upto)? else {
            continue;
        };
        if let StopReason::NoMoreBytes { at } = end.stopped {
            evidence.add_unreadable_end(segments, at);
        }
        if end.record_end >= evidence.acked_at_most {
            return Ok(Assessment::Whole(Box::new(end)));
        }
        let why = why_too_short(&end, commit_lsn, evidence);
        return Ok(Assessment::EndsTooLow { end: end.record_end, why });
    }
    Err(unstable_reads())
}

/// The end of the log, read from the segment of `from` on; `None` when it is not even reached. Above what was
/// acknowledged only bytes under a checksum count: of the others a crash may have left any part.
fn find_end<D: Disk>(
    segments: &Segments<D>,
    expected: PageExpectations,
    from: Lsn,
    acked_upto: Lsn,
) -> Result<Option<ScanEnd>, StoreError> {
    match scanner_at(segments, expected, from) {
        Ok(scanner) => {
            let end = scan_to_end(segments, scanner.trust_unchecked_up_to(acked_upto))?;
            Ok((end.record_end >= from).then_some(end))
        }
        Err(ScanFailure::Store(error)) => Err(error),
        Err(ScanFailure::NotWal(_) | ScanFailure::NoSegment(_) | ScanFailure::NotARecordEnd { .. }) => {
            Ok(None)
        }
    }
}

fn why_too_short(found: &ScanEnd, commit_lsn: Lsn, evidence: &AckEvidence) -> Corruption {
    let end = found.record_end;
    let reason = match found.stopped {
        StopReason::NotWal(error) => error.to_string(),
        StopReason::NoMoreBytes { at } => format!("nothing can be read at {at}"),
        StopReason::AmbiguousStart => "the log may begin inside a segment switch".into(),
    };
    match &evidence.fault {
        Some(fault) if end >= evidence.acked_upto => fault.clone(),
        _ if end < commit_lsn => Corruption::BelowCommit { end, commit_lsn, reason },
        _ => Corruption::BelowAcknowledged { end, acked_upto: evidence.acked_upto, reason },
    }
}

/// Leaves nothing but the log, and that durable.
fn finalize<D: Disk>(
    mut control: ControlFile<D>,
    segments: Segments<D>,
    evidence: &AckEvidence,
    found: ScanEnd,
) -> Result<Recovered<D>, StoreError> {
    let (end, mut scanner) = (found.record_end, found.scanner);
    let (term, durable_upto) = (control.content().state.term, evidence.acked_upto);
    let files_upto = segments.files_upto(end);
    if control.content().files_upto != files_upto {
        control.store(Control { files_upto, ..control.content().clone() })?;
    }
    let first = segments.number_of(segments.oldest_lsn);
    segments.remove_all(evidence.listed.range(..first).copied())?;

    let present = evidence.listed.range(first..).copied().collect();
    let mut writer = Writer::new(segments, present, end);
    let rebuilt = rebuild_without_footer(writer.segments(), evidence, term, durable_upto, end)?;
    // The footer that says what is durable_upto may be in a segment that goes now.
    writer.flush_footer(durable_upto, term)?;
    writer.remove_segments_behind_end()?;
    if make_durable(writer.segments(), term, durable_upto, end)? || rebuilt {
        // Between the scan and the copy the cache may have dropped pages, and shown what the disk has instead.
        let again = find_end(
            writer.segments(),
            PageExpectations::of(control.content()),
            committed(control.content()),
            durable_upto,
        )?;
        let again = again.filter(|again| again.record_end == end).ok_or_else(unstable_reads)?;
        scanner = again.scanner;
        writer.close_files();
    }
    writer.flush_footer(end, term)?;
    writer.require_readable();
    let quarantined = writer.segments().quarantined_names()?;
    Ok(Recovered { control, writer, scanner, quarantined })
}

/// A fault of the disk, not of the log: what it really holds is found when it is asked again.
fn unstable_reads() -> StoreError {
    let source = io::Error::other("what is read changes from one time to the next");
    StoreError::Io { action: "recover the log", source }
}

/// Writes those segments anew that are whole but for their footers. True when there was one.
fn rebuild_without_footer<D: Disk>(
    segments: &Segments<D>,
    evidence: &AckEvidence,
    term: Term,
    durable_upto: Lsn,
    end: Lsn,
) -> Result<bool, StoreError> {
    let used: BTreeSet<_> =
        evidence.without_footer.iter().filter(|&&number| segments.start_of(number) < end).collect();
    for &&number in &used {
        let upto = end.min(segments.start_of(number + 1));
        segments.rebuild(upto, &Footer::first(&segments.lineage, number, term, durable_upto.min(upto)))?;
    }
    Ok(!used.is_empty())
}

/// Writes every segment anew that holds more than what is `durable_upto` to be on disk, or anything behind the end. True when
/// there was one. The new footers promise no more than the old ones did.
fn make_durable<D: Disk>(
    segments: &Segments<D>,
    term: Term,
    durable_upto: Lsn,
    end: Lsn,
) -> Result<bool, StoreError> {
    if end <= segments.oldest_lsn {
        return Ok(false);
    }
    let last = segments.number_of(Lsn(end.0 - 1));
    if end == durable_upto && is_zero_behind(segments, last, end)? {
        return Ok(false);
    }
    for number in segments.number_of(durable_upto).min(last)..=last {
        let upto = end.min(segments.start_of(number + 1));
        segments.rebuild(upto, &Footer::first(&segments.lineage, number, term, durable_upto))?;
    }
    Ok(true)
}

/// True when there are only zeros behind `end` in the segment's file.
pub(crate) fn is_zero_behind<D: Disk>(
    segments: &Segments<D>,
    segment: SegmentNumber,
    end: Lsn,
) -> Result<bool, StoreError> {
    let file = segments.open(segment)?;
    let mut at = end.bytes_since(segments.start_of(segment));
    let mut buffer = vec![0; READ_BYTES.min((segments.wal_bytes() - at) as usize)];
    while at < segments.wal_bytes() {
        let part = &mut buffer[..((segments.wal_bytes() - at) as usize).min(READ_BYTES)];
        match file.read_at(at, part) {
            Ok(()) => {}
            Err(_) if segments.unreadable == UnreadablePolicy::TreatAsLost => return Ok(false),
            Err(error) => return Err(StoreError::unreadable("read WAL")(error)),
        }
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
            assert!(read(&writer) == acknowledged, "killed after {killed_after} operations of the cut");
            if is_cut {
                break;
            }
        }
        assert!(cuts_seen >= 2, "one cut was done, and one at least was not durable: {cuts_seen}");
    }
}
