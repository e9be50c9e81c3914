//! [`OpenLog`]: an acceptor and the files that it decides about, as long as the disk does not fail.
//!
//! Before a message is decided there is room for what may follow ([`prepare`]); after that nothing may be refused.
//! Carries effects out in the order in which the acceptor gave them. Every error that leaves here means that memory
//! and disk may differ: [`crate::replica`] then throws this away and recovers from the disk.

mod prepare;

use std::sync::Arc;
use std::time::Duration;

use consensus::{
    Acceptor, AcceptorMessage, AppendRequest, ChecksumResponse, Configuration, ConnectionId, Effect, Lineage,
    ProposerMessage, Refusal, TermHistory, TliSwitch,
};
use wal_format::RecordScanner;
use wal_types::{Lsn, NodeId, Tli};

use crate::control_codec::Control;
use crate::control_file::ControlFile;
use crate::disk::Disk;
use crate::error::{Misuse, StoreError};
use crate::recover::Recovered;
use crate::removal::RemovalPlanner;
use crate::snapshot::{Health, Snapshot};
use crate::writer::Writer;

/// How long a commit position may stay in memory only.
const COMMIT_PERSIST_INTERVAL: Duration = Duration::from_secs(1);
/// How long the last batch may be without a footer that says that it was acknowledged.
const FOOTER_IDLE: Duration = Duration::from_secs(1);

/// What became of a message.
pub(crate) enum MessageOutcome {
    /// It was decided; replies are posted.
    Done,
    /// Its connection must be closed.
    Refused(Refusal),
    /// There is no room for what it needs, so nothing was decided.
    NoRoom,
}

/// An acceptor and its files.
pub(crate) struct OpenLog<D: Disk> {
    acceptor: Acceptor,
    control: ControlFile<D>,
    writer: Writer<D>,
    /// Has seen the log up to the last byte that was written.
    scanner: RecordScanner,
    /// For after the message that is being decided, when it cuts the log or names its cluster: made, and with that
    /// checked, before the acceptor decides.
    prepared_scanner: Option<RecordScanner>,
    parts: SnapshotParts,
    removal: RemovalPlanner,
    quarantined: Arc<[String]>,
    truncations: u64,
    /// There was no room for the last message that needed some.
    disk_full: bool,
    /// An append was stepped since the last flush.
    unflushed: bool,
    /// Something was written since the last tick.
    appended: bool,
    appended_at: Duration,
    checkpoint_at: Duration,
    is_written: bool,
}

/// What follows from the state and changes seldom: most of it parts of a snapshot.
struct SnapshotParts {
    history: Arc<TermHistory>,
    tli_switches: Arc<[TliSwitch]>,
    lineage: Arc<Lineage>,
    configuration: Arc<Configuration>,
    highest_tli: Tli,
}

impl SnapshotParts {
    fn of(acceptor: &Acceptor) -> Self {
        let state = acceptor.state();
        Self {
            history: state.history.clone().into(),
            tli_switches: state.tli_switches.clone().into(),
            lineage: acceptor.lineage().clone().into(),
            configuration: state.configuration.clone().into(),
            highest_tli: state.highest_tli(acceptor.lineage()),
        }
    }
}

/// Where effects go that do not go to the disk.
pub(crate) trait EffectSink {
    /// Posts a reply.
    fn reply(&mut self, to: ConnectionId, message: AcceptorMessage);
    /// Publishes a snapshot at once.
    fn publish(&mut self, snapshot: Snapshot);
    /// WAL was made durable.
    fn count_sync(&mut self);
}

impl<D: Disk> OpenLog<D> {
    pub(crate) fn new(node: NodeId, recovered: Recovered<D>, truncations: u64) -> Self {
        let Recovered { control, writer, scanner, quarantined } = recovered;
        let Control { lineage, state, oldest_lsn, .. } = control.content().clone();
        let mut acceptor = Acceptor::new(node, lineage, state, writer.end());
        acceptor.removed_below(oldest_lsn);
        Self {
            parts: SnapshotParts::of(&acceptor),
            acceptor,
            control,
            writer,
            scanner,
            prepared_scanner: None,
            removal: RemovalPlanner::default(),
            quarantined: quarantined.into(),
            disk_full: false,
            truncations,
            unflushed: false,
            appended: false,
            appended_at: Duration::ZERO,
            checkpoint_at: Duration::ZERO,
            is_written: false,
        }
    }

    pub(crate) fn disk_id(&self) -> [u8; 16] {
        self.control.content().disk_id
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let state = self.acceptor.state();
        Snapshot {
            health: match state.lost {
                Some(_) => Health::Lost,
                None if self.disk_full => Health::Full,
                None => Health::Healthy,
            },
            term: state.term,
            last_log_term: self.acceptor.last_log_term(),
            history: self.parts.history.clone(),
            tli_switches: self.parts.tli_switches.clone(),
            lineage: self.parts.lineage.clone(),
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
            is_written: self.is_written,
        }
    }

    pub(crate) fn disconnected(&mut self, connection: ConnectionId) {
        self.acceptor.disconnected(connection);
    }

    /// The answer for an append that has to wait for room.
    pub(crate) fn unchanged_response(&self, to: ConnectionId) -> Effect {
        self.acceptor.unchanged_response(to)
    }

    /// Decides one message and carries out what follows. An append is answered by the next [`OpenLog::flush`]; anything
    /// else sees a flushed log, because a vote has to tell all that an older term could have acknowledged.
    pub(crate) fn handle_message(
        &mut self,
        from: ConnectionId,
        message: ProposerMessage,
        sink: &mut impl EffectSink,
    ) -> Result<MessageOutcome, StoreError> {
        if let ProposerMessage::Append(append) = message {
            return self.append(from, append, sink);
        }
        self.flush(sink)?;
        self.prepared_scanner = None;
        match self.prepare(from, &message)? {
            MessageOutcome::Done => {}
            other => return Ok(other),
        }
        match self.acceptor.step(from, message) {
            Ok(effects) => self.execute(effects, sink).map(|()| MessageOutcome::Done),
            Err(refusal) => Ok(MessageOutcome::Refused(refusal)),
        }
    }

    /// The bytes are looked at, and there is room for them, before anything is decided: afterwards the append could
    /// no longer be refused.
    fn append(
        &mut self,
        from: ConnectionId,
        append: AppendRequest,
        sink: &mut impl EffectSink,
    ) -> Result<MessageOutcome, StoreError> {
        let mut ahead = match self.prepare_append(&append)? {
            Ok(ahead) => ahead,
            // The acceptor may have a reason of its own.
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

    /// Writes down which segments have a file: before one is written to, so that it is missed when it vanishes, and
    /// before one is taken away, so that it is not.
    fn persist_files_upto(&mut self, files_upto: Lsn) -> Result<(), StoreError> {
        if self.control.content().files_upto == files_upto {
            return Ok(());
        }
        self.control.store(Control { files_upto, ..self.control.content().clone() })
    }

    /// Makes durable what was written, and answers the appends since the last flush.
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

    /// A recovery finds acknowledged records by their checksums. What an aborted record left and the rest of a switched
    /// segment have none: before they count as acknowledged a footer must say that they are complete.
    fn cover_unchecked(&mut self) -> Result<(), StoreError> {
        if self.scanner.unchecked_end() <= self.writer.covered_upto() {
            return Ok(());
        }
        self.writer.cover(self.scanner.record_end(), self.acceptor.state().term)
    }

    /// What has to happen now and then, but not while somebody waits.
    pub(crate) fn tick(
        &mut self,
        now: Duration,
        keep_from: Lsn,
        sink: &mut impl EffectSink,
    ) -> Result<(), StoreError> {
        if std::mem::take(&mut self.appended) {
            self.appended_at = now;
            self.is_written = true;
        }
        let state = self.acceptor.state();
        let segment_bytes = u64::from(self.acceptor.lineage().segment_size.bytes());
        let unpersisted = state.commit_lsn.bytes_since(self.acceptor.persisted_commit_lsn());
        if now.saturating_sub(self.checkpoint_at) >= COMMIT_PERSIST_INTERVAL || unpersisted >= segment_bytes {
            self.checkpoint_at = now;
            let effect = self.acceptor.checkpoint();
            self.execute(effect.into_iter().collect(), sink)?;
        }
        self.remove_old(keep_from, sink)?;
        if self.is_written {
            let term = self.acceptor.state().term;
            match self.writer.prepare_spare(term) {
                // The append that needs the segment will say so.
                Ok(()) | Err(StoreError::Full { .. }) => {}
                Err(error) => return Err(error),
            }
            self.persist_files_upto(self.writer.files_upto())?;
            if now.saturating_sub(self.appended_at) >= FOOTER_IDLE {
                self.is_written = false;
                self.writer.flush_footer(self.acceptor.flush_lsn(), term)?;
            }
        }
        Ok(())
    }

    /// What [`OpenLog::tick`] would do in the end, if nothing came in any more.
    pub(crate) fn checkpoint_for_shutdown(&mut self, sink: &mut impl EffectSink) -> Result<(), StoreError> {
        let effect = self.acceptor.checkpoint();
        self.execute(effect.into_iter().collect(), sink)?;
        self.is_written = false;
        self.writer.flush_footer(self.acceptor.flush_lsn(), self.acceptor.state().term)
    }

    /// What goes is written down and told to readers before the first file is touched.
    fn remove_old(&mut self, keep_from: Lsn, sink: &mut impl EffectSink) -> Result<(), StoreError> {
        let control = self.control.content();
        let oldest = self.removal.new_oldest(self.writer.segments(), control, keep_from)?;
        let Some(oldest_lsn) = oldest else { return Ok(()) };
        self.control.store(Control { oldest_lsn, ..control.clone() })?;
        self.writer.set_oldest_lsn(oldest_lsn);
        self.acceptor.removed_below(oldest_lsn);
        sink.publish(self.snapshot());
        self.writer.remove_old_segments(self.is_written, self.acceptor.state().term)
    }

    fn execute(&mut self, effects: Vec<Effect>, sink: &mut impl EffectSink) -> Result<(), StoreError> {
        for effect in effects {
            match effect {
                Effect::Reply { to, message } => sink.reply(to, message),
                Effect::Persist(state) => {
                    self.control.store(Control { state, ..self.control.content().clone() })?;
                    self.parts = SnapshotParts::of(&self.acceptor);
                }
                Effect::PersistLineage(lineage) => {
                    self.writer.set_lineage(lineage.clone());
                    self.scanner = self.prepared_scanner.take().unwrap_or_else(|| self.scanner.clone());
                    self.control.store(Control { lineage, ..self.control.content().clone() })?;
                    self.parts = SnapshotParts::of(&self.acceptor);
                }
                Effect::Truncate(at) => self.truncate(at, sink)?,
                Effect::Write { at, .. } => return Err(Misuse::WriteWithoutAppend { at }.into()),
                Effect::Checksum { reply_to, from, to } => {
                    let crc32c = Some(self.writer.segments().checksum(from, to)?);
                    let message = AcceptorMessage::Checksum(ChecksumResponse { from, to, crc32c });
                    sink.reply(reply_to, message);
                }
            }
        }
        Ok(())
    }

    fn truncate(&mut self, at: Lsn, sink: &mut impl EffectSink) -> Result<(), StoreError> {
        let scanner = self.prepared_scanner.take().filter(|scanner| scanner.position() == at);
        let scanner = scanner.ok_or(Misuse::TruncationNotPrepared { at })?;
        self.truncations += 1;
        sink.publish(self.snapshot());
        self.persist_files_upto(self.writer.segments().files_upto(at))?;
        self.writer.truncate(at, self.acceptor.state().term)?;
        self.scanner = scanner;
        // Who opened a file in between may have the old one.
        self.truncations += 1;
        sink.publish(self.snapshot());
        Ok(())
    }
}
