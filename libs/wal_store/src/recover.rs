//! [`recover`]: makes a durable log of the files in a directory, and records what is lost.
//!
//! Runs when a timeline is opened and after any failure of its disk, before the first message is answered. On success
//! every byte of the log is durable, and only zeros are behind its end. After an error nothing is known about the log.
//!
//! What a scan reads comes from the page cache. After a failed sync the cache may show bytes that the disk lacks, and
//! no later sync of that file would write them. So every segment that holds bytes above the acknowledged position is
//! written to a new file.
//!
//! A log that ends below its acknowledged position has lost WAL. The loss is persisted before anything else is touched
//! ([`crate::loss`]). From then on it is a log like any other, of a node that does not vote.

use std::collections::BTreeSet;

use wal_format::{RecordScanner, ScanEnd};
use wal_types::{Lsn, NodeId, Term};

use crate::ack_evidence::{AckEvidence, committed};
use crate::assess::{Assessment, assess, find_end, unstable_reads};
use crate::control_codec::Control;
use crate::control_file::ControlFile;
use crate::disk::Disk;
use crate::error::StoreError;
use crate::footer::Footer;
use crate::loss::{record_later_start, record_loss};
use crate::scan::PageExpectations;
use crate::segment::{Segments, UNFINISHED_SUFFIX, UnreadablePolicy};
use crate::writer::Writer;

/// Assessments of one recovery, at most. A log loses its oldest part in one, its newest in the next, and is whole in
/// the third. A recovery that needs more has read the same bytes differently each time.
const ASSESSMENTS_MAX: usize = 4;

/// A log whose every byte is durable, and behind which are only zeros.
pub(crate) struct Recovered<D: Disk> {
    pub(crate) control: ControlFile<D>,
    pub(crate) writer: Writer<D>,
    /// Has scanned the log up to its end.
    pub(crate) scanner: RecordScanner,
    /// Names of damaged files that were kept.
    pub(crate) quarantined: Vec<String>,
}

/// Recovers the log of `node` in `disk`. `unreadable` says what to do about WAL that the disk refuses to read.
///
/// # Errors
/// `Corrupt` when the node's promises are damaged; errors of the disk, after which another attempt may succeed.
pub(crate) fn recover<D: Disk>(
    disk: &D,
    node: NodeId,
    unreadable: UnreadablePolicy,
) -> Result<Recovered<D>, StoreError> {
    // A process that was killed may have left names that a power failure would take away.
    disk.sync_dir().map_err(StoreError::io("sync the directory"))?;
    remove_unfinished(disk)?;
    let mut control = ControlFile::load(disk.clone(), node)?;

    for _ in 0..ASSESSMENTS_MAX {
        let Control { lineage, oldest_lsn, .. } = control.content().clone();
        let segments = Segments { disk: disk.clone(), lineage, oldest_lsn, unreadable };
        let mut evidence = AckEvidence::gather(&segments, control.content())?;
        match assess(&segments, control.content(), &mut evidence)? {
            Assessment::Whole(end) => {
                let file_bytes = segments.file_bytes();
                let recovered = finalize(control, segments, &evidence, *end)?;
                disk.set_room_aside(file_bytes);
                return Ok(recovered);
            }
            Assessment::StartsAt(lsn, why) => record_later_start(&mut control, lsn, &why)?,
            Assessment::EndsTooLow { end, why } => {
                record_loss(&mut control, &segments, &evidence, end, &why)?
            }
        }
    }
    Err(unstable_reads())
}

/// Removes files that a crash interrupted: none of them has a name that counts.
fn remove_unfinished<D: Disk>(disk: &D) -> Result<(), StoreError> {
    for name in disk.list().map_err(StoreError::io("list the directory"))? {
        // Also an unfinished control file: the finished one counts.
        if name.ends_with(UNFINISHED_SUFFIX) {
            disk.unlink(&name).map_err(StoreError::io("remove an unfinished file"))?;
        }
    }
    Ok(())
}

/// Removes everything but the log, and makes the log durable.
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
    // The footer that holds the acknowledged position may be in a segment that is removed next.
    writer.flush_footer(durable_upto, term)?;
    writer.remove_segments_behind_end()?;
    if make_durable(writer.segments(), term, durable_upto, end)? || rebuilt {
        // Between the scan and the copy the page cache may have dropped pages, and the copy got the disk's instead.
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

/// Rebuilds the segments of the log whose footers are damaged. True when there was one.
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

/// Rebuilds every segment that holds bytes above `durable_upto`, or anything behind the end. True when there was one.
/// The new footers cover no more than the old ones did.
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
    if end == durable_upto && segments.is_zero_behind(last, end)? {
        return Ok(false);
    }

    for number in segments.number_of(durable_upto).min(last)..=last {
        let upto = end.min(segments.start_of(number + 1));
        segments.rebuild(upto, &Footer::first(&segments.lineage, number, term, durable_upto))?;
    }
    Ok(true)
}

#[cfg(test)]
mod tests;
