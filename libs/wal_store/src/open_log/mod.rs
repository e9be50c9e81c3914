//! [`OpenLog`]: an acceptor and its files, as long as the disk does not fail.
//!
//! Room for all effects of a message is reserved before the message is decided ([`prepare`]), because after that nothing
//! may be refused. Effects are carried out in the acceptor's order ([`execute`]). After an error memory and disk may
//! differ: [`crate::replica`] then drops the open log and recovers from the disk.

mod execute;
mod prepare;
mod snapshot_parts;
mod upkeep;

use std::sync::Arc;
use std::time::Duration;

use consensus::{
    Acceptor, AcceptorMessage, AppendRequest, BootstrapRefused, ConnectionId, Effect, Member,
    ProposerMessage, Refusal,
};
use wal_format::RecordScanner;
use wal_types::{Lsn, ReplicaId};

use crate::blank_segment::spare_at_percent;
use crate::control_codec::Control;
use crate::control_file::ControlFile;
use crate::disk::Disk;
use crate::error::{Misuse, StoreError};
use crate::recover::Recovered;
use crate::removal::RemovalPlanner;
use crate::snapshot::{Health, Snapshot};
use crate::start_history;
use crate::writer::Writer;
use snapshot_parts::SnapshotParts;

/// How the handling of a message ended.
pub(crate) enum MessageOutcome {
    /// Decided and carried out; replies are posted.
    Done,
    /// Refused; the connection has to be closed.
    Refused(Refusal),
    /// Not decided: the disk has no room for its effects.
    NoRoom,
}

/// An acceptor and its files. Dropped after the first error.
pub(crate) struct OpenLog<D: Disk> {
    acceptor: Acceptor,
    control: ControlFile<D>,
    writer: Writer<D>,
    /// Has scanned the log up to the last byte that was written.
    scanner: RecordScanner,
    /// Becomes the scanner when the message that is being decided truncates the log or names its cluster. Made before
    /// the decision, because making it checks the log.
    prepared_scanner: Option<RecordScanner>,
    parts: SnapshotParts,
    removal: RemovalPlanner,
    quarantined: Arc<[String]>,
    start_history: Option<Arc<[u8]>>,
    /// See [`Snapshot::truncations`].
    truncations: u64,
    /// The disk had no room for the last message that needed some.
    disk_full: bool,
    /// The last message that needs files found too few descriptors.
    lacks_handles: bool,
    /// An append was decided since the last flush.
    unflushed: bool,
    /// WAL was written since the last tick.
    appended: bool,
    /// First tick after the last write.
    appended_at: Duration,
    /// Tick of the last checkpoint.
    checkpoint_at: Duration,
    /// See [`Snapshot::receives_wal`].
    receives_wal: bool,
    /// How full the segment is when the next one is prepared.
    spare_at_percent: u64,
    /// The disk had no room for a segment that no WAL waits for yet. Not tried again before this tick.
    no_room_until: Option<Duration>,
    /// Time of the last tick.
    ticked_at: Duration,
}

/// Receiver of the effects that do not go to the disk.
pub(crate) trait EffectSink {
    /// Queues a reply.
    fn reply(&mut self, to: ConnectionId, message: AcceptorMessage);
    /// Publishes a snapshot to readers at once.
    fn publish(&mut self, snapshot: Snapshot);
    /// Counts one sync of WAL.
    fn count_sync(&mut self);
}

impl<D: Disk> OpenLog<D> {
    /// Starts an acceptor on a recovered log. `truncations` continues the counter of earlier snapshots.
    pub(crate) fn new(recovered: Recovered<D>, truncations: u64) -> Self {
        let Recovered { control, writer, scanner, quarantined } = recovered;
        let Control { copy, lineage, state, oldest_lsn, .. } = control.content().clone();
        let start_history = start_history::read(&writer.segments().disk, &lineage);
        let mut acceptor = Acceptor::new(copy, lineage, state, writer.end());
        acceptor.removed_below(oldest_lsn);
        let mut log = Self {
            parts: SnapshotParts::of(&acceptor),
            acceptor,
            control,
            writer,
            scanner,
            prepared_scanner: None,
            removal: RemovalPlanner::default(),
            quarantined: quarantined.into(),
            start_history,
            disk_full: false,
            lacks_handles: false,
            truncations,
            unflushed: false,
            appended: false,
            appended_at: Duration::ZERO,
            checkpoint_at: Duration::ZERO,
            receives_wal: false,
            spare_at_percent: spare_at_percent(copy.node),
            no_room_until: None,
            ticked_at: Duration::ZERO,
        };
        log.close_files();
        log
    }

    /// Random number of the data directory that the log was created in.
    pub(crate) fn disk_id(&self) -> [u8; 16] {
        self.control.content().disk_id
    }

    /// The log as it is now, for readers.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let state = self.acceptor.state();
        Snapshot {
            health: match state.lost {
                Some(_) => Health::Lost,
                None if self.disk_full || self.lacks_handles => Health::Full,
                None => Health::Healthy,
            },
            term: state.term,
            last_log_term: self.acceptor.last_log_term(),
            history: self.parts.history.clone(),
            tli_switches: self.parts.tli_switches.clone(),
            copy: self.control.content().copy,
            lineage: self.parts.lineage.clone(),
            start_history: self.start_history.clone(),
            configuration: self.parts.configuration.clone(),
            configuration_term: state.configuration_term,
            lost: state.lost,
            quarantined: self.quarantined.clone(),
            write_lsn: self.acceptor.write_lsn(),
            flush_lsn: self.acceptor.flush_lsn(),
            commit_lsn: state.commit_lsn,
            persisted_commit_lsn: self.acceptor.persisted_commit_lsn(),
            horizon_lsn: state.horizon_lsn,
            oldest_lsn: self.writer.segments().oldest_lsn,
            truncations: self.truncations,
            receives_wal: self.receives_wal,
        }
    }

    /// The copy of the log that this one is.
    pub(crate) fn replica_id(&self) -> ReplicaId {
        self.control.content().copy.replica
    }

    /// Tells a new copy its first members; see [`Acceptor::bootstrap`].
    pub(crate) fn bootstrap(
        &mut self,
        members: Vec<Member>,
        sink: &mut impl EffectSink,
    ) -> Result<Result<(), BootstrapRefused>, StoreError> {
        self.prepared_scanner = None;
        match self.acceptor.bootstrap(members) {
            Ok(effects) => self.execute(effects, sink).map(Ok),
            Err(refused) => Ok(Err(refused)),
        }
    }

    /// Forgets a connection.
    pub(crate) fn disconnected(&mut self, connection: ConnectionId) {
        self.acceptor.disconnected(connection);
    }

    /// The reply to an append that has to wait for room.
    pub(crate) fn unchanged_response(&self, to: ConnectionId) -> Effect {
        self.acceptor.unchanged_response(to)
    }

    /// Decides one message and carries out its effects.
    ///
    /// An append is answered by the next [`OpenLog::flush`]. Any other message but a watch request is decided on a flushed
    /// log, because a vote has to report everything that an older term could have acknowledged.
    pub(crate) fn handle_message(
        &mut self,
        from: ConnectionId,
        message: ProposerMessage,
        sink: &mut impl EffectSink,
    ) -> Result<MessageOutcome, StoreError> {
        if let ProposerMessage::Append(append) = message {
            return self.append(from, append, sink);
        }
        // A watch reports what is durable, and waits for nothing.
        if !matches!(message, ProposerMessage::Watch) {
            self.flush(sink)?;
        }
        self.prepared_scanner = None;
        let begins_to_write = matches!(message, ProposerMessage::Elected(_));
        match self.decide(from, message)? {
            Ok(effects) => {
                self.execute(effects, sink)?;
                // WAL is about to come. Where its first byte has no segment, that one is prepared now.
                self.appended |= begins_to_write && self.writer.files_upto() <= self.writer.end();
                Ok(MessageOutcome::Done)
            }
            Err(outcome) => Ok(outcome),
        }
    }

    /// Decides an append and writes its WAL. The bytes are scanned, and room for them is reserved, before the decision:
    /// afterwards the append could no longer be refused.
    fn append(
        &mut self,
        from: ConnectionId,
        append: AppendRequest,
        sink: &mut impl EffectSink,
    ) -> Result<MessageOutcome, StoreError> {
        let mut ahead = match self.prepare_append(&append)? {
            Ok(ahead) => ahead,
            // The acceptor's own refusal comes first: bad WAL from a proposer that does not lead says nothing about
            // this log. A copy of the acceptor is asked and dropped, because the append must not be decided.
            Err(outcome) => match self.acceptor.clone().step(from, ProposerMessage::Append(append)) {
                Ok(_) => {
                    let is_refused = matches!(outcome, MessageOutcome::Refused(_));
                    if is_refused && self.scanner.position() > self.scanner.record_end() {
                        self.acceptor.reject_partial_record();
                    }
                    return Ok(outcome);
                }
                Err(refusal) => return Ok(MessageOutcome::Refused(refusal)),
            },
        };

        let effects = match self.acceptor.step(from, ProposerMessage::Append(append)) {
            Ok(effects) => effects,
            Err(refusal) => return Ok(MessageOutcome::Refused(refusal)),
        };

        self.unflushed = true;
        for effect in effects {
            match effect {
                Effect::Write { at, wal } => {
                    self.appended = true;
                    self.writer.write(at, &wal)?;
                    self.scanner = ahead.take().ok_or(Misuse::WriteNotScanned { at })?;
                    if self.scanner.position() != self.writer.end() {
                        return Err(Misuse::WriteNotScanned { at: self.scanner.position() }.into());
                    }
                }
                other => self.execute(vec![other], sink)?,
            }
        }
        Ok(MessageOutcome::Done)
    }

    /// Persists which segments have a file: before a segment is written to, so that it is missed when its file vanishes,
    /// and before a file is removed, so that it is not missed.
    fn persist_files_upto(&mut self, files_upto: Lsn) -> Result<(), StoreError> {
        if self.control.content().files_upto == files_upto {
            return Ok(());
        }
        self.control.store(Control { files_upto, ..self.control.content().clone() })
    }

    /// Makes durable what was written, and answers the appends since the last flush: one reply for each connection.
    pub(crate) fn flush(&mut self, sink: &mut impl EffectSink) -> Result<(), StoreError> {
        if !std::mem::take(&mut self.unflushed) {
            return Ok(());
        }
        if self.writer.is_dirty() {
            self.writer.flush(self.acceptor.flush_lsn(), self.acceptor.state().term)?;
            sink.count_sync();
        }
        self.cover_unchecked()?;
        let effects = self.acceptor.flushed(self.writer.end(), self.scanner.record_end());
        self.execute(effects, sink)
    }

    /// Lets a footer cover the bytes that no checksum covers, before they count as acknowledged.
    ///
    /// A recovery finds acknowledged records by their checksums. The partial record of a crashed server and the rest of
    /// a switched segment have none, so a durable footer must say that they are complete.
    fn cover_unchecked(&mut self) -> Result<(), StoreError> {
        if self.scanner.unchecked_end() <= self.writer.covered_upto() {
            return Ok(());
        }
        self.writer.cover(self.scanner.record_end(), self.acceptor.state().term)
    }
}
