//! Preconditions of a message: disk space is reserved, and its WAL is valid, before it takes effect.

use consensus::{AppendRequest, ConnectionId, Effect, ProposerGreeting, ProposerMessage, Refusal};
use wal_format::{PageMagic, RecordScanner};
use wal_types::{Lsn, SystemId};

use super::{MessageOutcome, OpenLog};
use crate::control_codec::Control;
use crate::disk::Disk;
use crate::error::StoreError;
use crate::scan::{PageExpectations, ScanFailure, scanner_at, scanner_at_record_end};

impl<D: Disk> OpenLog<D> {
    /// Decides a message that is no append. Returns its effects, with room reserved for them, or the reason why nothing
    /// was decided.
    ///
    /// A message that may need room is decided on a copy of the acceptor, because only its effects tell how much room
    /// it needs, and where it truncates the log. Without the room, or without valid WAL there, the copy is dropped and
    /// nothing has happened. Otherwise the copy becomes the acceptor.
    pub(super) fn decide(
        &mut self,
        from: ConnectionId,
        message: ProposerMessage,
    ) -> Result<Result<Vec<Effect>, MessageOutcome>, StoreError> {
        let needs_handles = may_need_room(&message) || matches!(message, ProposerMessage::Checksum(_));
        if needs_handles && !self.has_handles() {
            return Ok(Err(MessageOutcome::NoRoom));
        }
        // An idle log has closed it, and a vote must not fail behind its decision.
        match self.control.open() {
            Err(error) if error.is_no_room() => {
                self.lacks_handles = true;
                return Ok(Err(MessageOutcome::NoRoom));
            }
            opened => opened?,
        }
        if !may_need_room(&message) {
            return Ok(self.acceptor.step(from, message).map_err(MessageOutcome::Refused));
        }
        let mut decided = self.acceptor.clone();
        let effects = match decided.step(from, message.clone()) {
            Ok(effects) => effects,
            Err(refusal) => return Ok(Err(MessageOutcome::Refused(refusal))),
        };

        if let ProposerMessage::Greeting(greeting) = &message
            && let Some(refusal) = self.prepare_cluster(greeting)?
        {
            return Ok(Err(MessageOutcome::Refused(refusal)));
        }
        let truncate_at = effects.iter().find_map(|effect| match effect {
            Effect::Truncate(at) => Some(*at),
            _ => None,
        });
        if let Some(refusal) = truncate_at.map(|at| self.prepare_truncation(at)).transpose()?.flatten() {
            return Ok(Err(MessageOutcome::Refused(refusal)));
        }

        match self.reserve(&effects, truncate_at) {
            Ok(took_room) => {
                // A message that needs no room does not show whether the disk has any.
                self.disk_full &= !took_room;
                self.acceptor = decided;
                Ok(Ok(effects))
            }
            Err(error) if error.is_no_room() => {
                self.disk_full = true;
                Ok(Err(MessageOutcome::NoRoom))
            }
            Err(error) => Err(error),
        }
    }

    /// Scans the part of an append that would be written, and looks for room for it.
    ///
    /// Returns a scanner behind that part, `None` when no byte would be written, or the outcome of an append that is
    /// refused or has to wait for room.
    pub(super) fn prepare_append(
        &mut self,
        append: &AppendRequest,
    ) -> Result<Result<Option<RecordScanner>, MessageOutcome>, StoreError> {
        let (written, begin, end) = (self.acceptor.write_lsn(), append.begin_lsn, append.end_lsn());
        let goes_on = append.term == self.acceptor.state().term
            && begin <= written
            && written < end
            && append.wal.len() <= consensus::APPEND_WAL_BYTES_MAX;
        if !goes_on {
            return Ok(Ok(None));
        }

        let mut ahead = self.expected_pages().apply_to(self.scanner.clone());
        let unknown = append.wal.get(written.bytes_since(begin) as usize..).unwrap_or_default();
        if let Err(error) = ahead.feed(unknown) {
            return Ok(Err(MessageOutcome::Refused(Refusal::NotWal(error.to_string()))));
        }

        if !self.writer.has_room(end) {
            return Ok(Err(MessageOutcome::NoRoom));
        }
        match self.control.open().and_then(|()| self.writer.open_segments(end)) {
            Err(error) if error.is_no_room() => {
                self.disk_full = true;
                return Ok(Err(MessageOutcome::NoRoom));
            }
            opened => opened?,
        }
        self.persist_files_upto(self.writer.files_upto())?;
        self.disk_full = false;
        Ok(Ok(Some(ahead)))
    }

    /// True when the files that a decision needs can be opened after it.
    pub(super) fn has_handles(&mut self) -> bool {
        self.lacks_handles = self.writer.segments().disk.ensure_handles().is_err();
        !self.lacks_handles
    }

    /// Checks a log whose cluster is not known yet: its WAL must be of the cluster that the greeting names.
    fn prepare_cluster(&mut self, greeting: &ProposerGreeting) -> Result<Option<Refusal>, StoreError> {
        let lineage = self.acceptor.lineage();
        if lineage.system_id != SystemId(0) || greeting.system_id == SystemId(0) {
            return Ok(None);
        }
        let magic = PageMagic::of_major(greeting.pg_version / 10_000).or(self.expected_pages().magic);
        let expected = PageExpectations { system_id: greeting.system_id, magic, ..self.expected_pages() };
        match scanner_at(self.writer.segments(), expected, self.acceptor.write_lsn()) {
            Ok(scanner) => self.prepared_scanner = Some(scanner),
            Err(ScanFailure::Store(error)) => return Err(error),
            Err(failure) => return Ok(Some(Refusal::NotWal(failure.to_string()))),
        }
        Ok(None)
    }

    /// Checks that the log may be truncated at `at`: only at a record end, because a recovery would not find an end
    /// elsewhere.
    fn prepare_truncation(&mut self, at: Lsn) -> Result<Option<Refusal>, StoreError> {
        match scanner_at_record_end(self.writer.segments(), self.expected_pages(), at) {
            Ok(scanner) => self.prepared_scanner = Some(scanner),
            Err(failure @ ScanFailure::NotARecordEnd { .. }) => {
                return Ok(Some(Refusal::NotWal(failure.to_string())));
            }
            Err(ScanFailure::Store(error)) => return Err(error),
            Err(ScanFailure::NotWal(_) | ScanFailure::NoSegment(_)) => {
                return Err(StoreError::DurableWalGone { below: self.writer.end() });
            }
        }
        Ok(None)
    }

    /// What page headers must say, as far as the log is known before the message is decided.
    fn expected_pages(&self) -> PageExpectations {
        PageExpectations::of_lineage(self.acceptor.lineage(), self.parts.highest_tli)
    }

    /// Makes room for a larger control file, when the history has outgrown it, and for the segment that a truncation
    /// writes. True when room was needed.
    fn reserve(&mut self, effects: &[Effect], truncate_at: Option<Lsn>) -> Result<bool, StoreError> {
        let mut took_room = false;
        for effect in effects {
            if let Effect::Persist(state) = effect {
                let content = Control { state: state.clone(), ..self.control.content().clone() };
                took_room |= self.control.reserve(&content)?;
            }
        }
        let Some(at) = truncate_at else { return Ok(took_room) };
        if let Some(spare) = self.writer.spare_for_truncation(at) {
            self.persist_files_upto(self.writer.segments().start_of(spare))?;
        }
        self.writer.reserve_truncation(at, self.acceptor.state().term)?;
        Ok(true)
    }
}

/// True for messages whose effects may need disk space. A vote needs none: it overwrites the vote before it.
fn may_need_room(message: &ProposerMessage) -> bool {
    match message {
        ProposerMessage::Greeting(_) | ProposerMessage::Elected(_) | ProposerMessage::Configure(_) => true,
        ProposerMessage::PreVote(_)
        | ProposerMessage::Vote(_)
        | ProposerMessage::Ticket(_)
        | ProposerMessage::Watch
        | ProposerMessage::Checksum(_)
        | ProposerMessage::Append(_) => false,
    }
}
