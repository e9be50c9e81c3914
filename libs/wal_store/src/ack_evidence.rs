//! [`AckEvidence`]: what the files of a log say about how far it was acknowledged, before any of its WAL is looked at.
//!
//! Three witnesses: the control file knows a commit position and which files there are, and each file's footers say
//! what was acknowledged when it was written last. Where a witness is gone, anything that it could have said counts as
//! said: a file that vanished or lost its footers may have been acknowledged up to its end.

use std::collections::BTreeSet;
use std::io;

use wal_types::{Lsn, SegmentNumber};

use crate::control_codec::Control;
use crate::disk::{Disk, DiskFile};
use crate::error::{Corruption, StoreError};
use crate::segment::{Segments, UnreadablePolicy};

/// See the module.
#[derive(Debug)]
pub(crate) struct AckEvidence {
    /// Every segment that has a file, whatever is in it.
    pub(crate) listed: BTreeSet<SegmentNumber>,
    /// Segments that should have a file and have none, or one that cannot be read as one.
    pub(crate) missing: BTreeSet<SegmentNumber>,
    /// Segments whose file has lost its footers.
    pub(crate) without_footer: BTreeSet<SegmentNumber>,
    /// What was acknowledged, as far as somebody says so.
    pub(crate) acked_upto: Lsn,
    /// What may have been acknowledged: nothing above it was.
    pub(crate) acked_at_most: Lsn,
    /// The first thing that is wrong.
    pub(crate) fault: Option<Corruption>,
}

impl AckEvidence {
    /// Below the segment of the commit position no footer can say more than the commit position does, so there it is
    /// enough that the files exist.
    pub(crate) fn gather<D: Disk>(segments: &Segments<D>, control: &Control) -> Result<Self, StoreError> {
        let commit_lsn = committed(control);
        let mut evidence = Self {
            listed: segments.list().map_err(StoreError::io("list the segments"))?,
            missing: BTreeSet::new(),
            without_footer: BTreeSet::new(),
            acked_upto: commit_lsn,
            acked_at_most: commit_lsn,
            fault: None,
        };
        let first = segments.number_of(control.oldest_lsn);
        let expected = first..segments.number_of(control.files_upto);
        let to_read: BTreeSet<_> = evidence.listed.range(first..).copied().chain(expected.clone()).collect();
        for segment in to_read {
            if !evidence.listed.contains(&segment) {
                evidence.add_missing(segments, segment, Corruption::MissingSegment(segment));
            } else if segment >= segments.number_of(commit_lsn) {
                evidence.read_footer(segments, control, segment, expected.contains(&segment))?;
            }
        }
        Ok(evidence)
    }

    /// What one file says.
    fn read_footer<D: Disk>(
        &mut self,
        segments: &Segments<D>,
        control: &Control,
        segment: SegmentNumber,
        expected: bool,
    ) -> Result<(), StoreError> {
        let file = match segments.open(segment) {
            Ok(file) => file,
            // Nothing was ever written to a file that is not expected.
            Err(StoreError::Corrupt(_)) if !expected => return Ok(()),
            Err(StoreError::Corrupt(fault)) => {
                self.add_missing(segments, segment, fault);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        match segments.footer(segment, &file) {
            Ok(footer) => {
                let known = control.state.term;
                if footer.term > known {
                    return Err(Corruption::TermAhead { segment, found: footer.term, known }.into());
                }
                // It may be in the page cache only, and the next footer goes to the other slot: if that was torn, both
                // would be bad. Written again it is dirty again, and this sync counts; if it was on the disk, nothing
                // changes there.
                segments.write_footer(&file, &footer)?;
                file.sync_data().map_err(StoreError::io("sync a footer"))?;
                self.acked_upto = self.acked_upto.max(footer.acked_upto);
                self.acked_at_most = self.acked_at_most.max(footer.acked_upto);
            }
            Err(StoreError::Unreadable { .. }) if segments.unreadable == UnreadablePolicy::TreatAsLost => {
                self.add_without_footer(segments, segment, expected);
            }
            Err(StoreError::Corrupt(_)) => self.add_without_footer(segments, segment, expected),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// A scan came to bytes that are there and cannot be read. No witness knows of the last batch, so it may have been in
    /// them: only zeros, or another record, that are *read* say that the log had ended before.
    pub(crate) fn add_unreadable_end<D: Disk>(&mut self, segments: &Segments<D>, at: Lsn) {
        let segment = segments.number_of(at);
        if self.listed.contains(&segment) && !self.missing.contains(&segment) {
            self.claim_whole_segment(segments, segment, Corruption::CannotBeRead(at));
        }
    }

    fn add_missing<D: Disk>(&mut self, segments: &Segments<D>, segment: SegmentNumber, fault: Corruption) {
        self.missing.insert(segment);
        self.claim_whole_segment(segments, segment, fault);
    }

    fn add_without_footer<D: Disk>(
        &mut self,
        segments: &Segments<D>,
        segment: SegmentNumber,
        expected: bool,
    ) {
        self.without_footer.insert(segment);
        if expected {
            self.claim_whole_segment(segments, segment, Corruption::Footer(segment));
        }
    }

    fn claim_whole_segment<D: Disk>(
        &mut self,
        segments: &Segments<D>,
        segment: SegmentNumber,
        fault: Corruption,
    ) {
        self.acked_at_most = self.acked_at_most.max(segments.start_of(segment + 1));
        self.fault.get_or_insert(fault);
    }
}

/// The commit position; that of a log without a byte is its start.
pub(crate) fn committed(control: &Control) -> Lsn {
    control.state.commit_lsn.max(control.oldest_lsn)
}

/// True when a file that should be there is not.
pub(crate) fn is_not_found(error: &StoreError) -> bool {
    matches!(error, StoreError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
}
