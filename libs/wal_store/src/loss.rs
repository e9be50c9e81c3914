//! Handling of a log that has lost WAL: persists the loss, then puts damaged files aside.
//!
//! One write of the control file comes first. It says that **this node is lost**, up to where it may have acknowledged,
//! and where its log ends now. A crash before that write leaves everything as it was, to be found again. A crash after
//! it leaves a node that does not vote, however many of the later steps were done. Files are renamed only after that
//! write.
//!
//! No file is deleted. A damaged file gets another name and stays for the operator: the log is repaired from the leader,
//! but the last copy of a byte may be here.

use consensus::Loss;
use wal_types::Lsn;

use crate::ack_evidence::AckEvidence;
use crate::control_codec::Control;
use crate::control_file::ControlFile;
use crate::disk::Disk;
use crate::error::{Corruption, StoreError};
use crate::footer::Footer;
use crate::segment::Segments;

/// Persists that the log ends at `end` and that its node is lost, then quarantines the files above.
pub(crate) fn record_loss<D: Disk>(
    control: &mut ControlFile<D>,
    segments: &Segments<D>,
    evidence: &AckEvidence,
    end: Lsn,
    why: &Corruption,
) -> Result<(), StoreError> {
    let mut state = control.content().state.clone();
    let found = Loss { term: state.term, acked_upto: evidence.acked_at_most };
    let lost = state.lost.map_or(found, |before| Loss {
        term: before.term.max(found.term),
        acked_upto: before.acked_upto.max(found.acked_upto),
    });

    tracing::error!(
        timeline = %segments.lineage.id, %end, acked_upto = %lost.acked_upto, %why,
        "acknowledged WAL is lost, this copy of the log does not vote until a leader has repaired it"
    );

    state.lost = Some(lost);
    state.commit_lsn = state.commit_lsn.min(end);
    state.horizon_lsn = state.horizon_lsn.min(end);
    let files_upto = segments.files_upto(end);
    control.store(Control { state, files_upto, ..control.content().clone() })?;
    quarantine_files(control.content(), segments, evidence, end)
}

/// Gives another name to every file that may hold acknowledged WAL above `end`. The segment that `end` is in keeps what
/// is good. Files that are higher still were never acknowledged; they are removed as after any crash.
fn quarantine_files<D: Disk>(
    control: &Control,
    segments: &Segments<D>,
    evidence: &AckEvidence,
    end: Lsn,
) -> Result<(), StoreError> {
    let above = segments.number_of(control.files_upto);
    let unclaimed = segments.number_of(segments.files_upto(evidence.acked_at_most));
    for &number in evidence.listed.range(above..unclaimed.max(above)).rev() {
        segments.quarantine(number)?;
    }

    if end > segments.oldest_lsn {
        let last = above - 1;
        let upto = end.min(segments.start_of(last + 1));
        // A footer that cannot be read is treated like one that covers too much.
        let footer = segments.footer(last, &segments.open(last)?);
        let is_good = footer.is_ok_and(|footer| footer.acked_upto <= upto);
        if !is_good || !segments.is_zero_behind(last, upto)? {
            let footer = Footer::first(&segments.lineage, last, control.state.term, upto);
            segments.rebuild_and_quarantine(upto, &footer)?;
        }
    }
    segments.disk.sync_dir().map_err(StoreError::io("sync the directory"))
}

/// Persists that the log begins at `lsn`: a file below is gone, and no member needs it from another.
pub(crate) fn record_later_start<D: Disk>(
    control: &mut ControlFile<D>,
    lsn: Lsn,
    why: &Corruption,
) -> Result<(), StoreError> {
    let content = control.content();
    tracing::error!(
        timeline = %content.lineage.id, oldest_lsn = %lsn, %why,
        "old WAL is gone that no member needs, the log begins later"
    );
    let files_upto = content.files_upto.max(lsn);
    control.store(Control { oldest_lsn: lsn, files_upto, ..content.clone() })
}
