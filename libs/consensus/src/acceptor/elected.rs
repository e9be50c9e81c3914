//! `ProposerElected`: truncates the log where it parts from the leader's, then adopts the leader's history.

use super::{Acceptor, Effect, LeaderConnection, Refusal};
use crate::ConnectionId;
use crate::lineage::ProtocolVersion;
use crate::message::ProposerElected;
use crate::term_history;

impl Acceptor {
    /// The acceptor computes the common point itself and refuses a leader that names another one.
    pub(super) fn handle_elected(
        &mut self,
        from: ConnectionId,
        version: ProtocolVersion,
        elected: ProposerElected,
    ) -> Result<Vec<Effect>, Refusal> {
        self.check_generation(version, elected.generation)?;
        self.check_copy(version, elected.replica)?;
        if elected.rebase.is_some() {
            return Err(Refusal::Unsupported("a re-base"));
        }
        self.check_term_leap(elected.term)?;
        if elected.term < self.state.term {
            // The proposer was deposed. The response to its first append says so.
            return Ok(Vec::new());
        }
        if elected.history.last().is_none_or(|last| last.term != elected.term) {
            return Err(Refusal::Malformed("history of an elected proposer does not end with its own term"));
        }
        let configured = version == ProtocolVersion::Holdfast2;
        if configured && elected.configuration.generation != elected.generation {
            return Err(Refusal::Malformed("message and its configuration name different generations"));
        }
        if configured {
            elected.configuration.validate().map_err(Refusal::Configuration)?;
        }
        if self.follows(elected.term) {
            return self.resume_leader(from, configured, elected);
        }

        let start = term_history::common_point(&elected.history, &self.log_extent())
            .ok_or(Refusal::NoCommonPoint { flush_lsn: self.flush_lsn })?;
        if start != elected.start_streaming_at {
            return Err(Refusal::StartPoint { expected: start, got: elected.start_streaming_at });
        }
        if start < self.state.commit_lsn {
            return Err(Refusal::BelowCommit { start, commit_lsn: self.state.commit_lsn });
        }

        // A rejected partial record goes with the tail.
        self.partial_record_rejected = false;
        let mut effects = Vec::new();
        if elected.term > self.state.term {
            self.enter_term(elected.term);
            self.state.voted_for = None;
            effects.push(self.persist());
        }
        // The tail is truncated before the history is adopted: the other way round a crash between the two would present
        // a dead proposer's tail as this term's log.
        if self.write_lsn > start {
            effects.push(Effect::Truncate(start));
            self.write_lsn = start;
            self.flush_lsn = start;
        }
        self.state.history = elected.history;
        self.state.tli_switches = elected.tli_switches;
        if configured {
            self.state.configuration = elected.configuration;
            self.state.configuration_term = elected.term;
        }
        effects.push(self.persist());
        self.leader = Some(LeaderConnection { connection: from, next_begin: start, has_appended: false });
        Ok(effects)
    }

    /// The leader of this term came back on another connection. The log is already its log, so nothing that was
    /// acknowledged is truncated, and bytes that it sends again are skipped. Only a rejected partial record is truncated.
    fn resume_leader(
        &mut self,
        from: ConnectionId,
        configured: bool,
        elected: ProposerElected,
    ) -> Result<Vec<Effect>, Refusal> {
        if elected.history != self.state.history {
            return Err(Refusal::TwoHistories(elected.term));
        }
        let start = elected.start_streaming_at;
        if start < self.state.commit_lsn {
            return Err(Refusal::BelowCommit { start, commit_lsn: self.state.commit_lsn });
        }
        if start > self.flush_lsn {
            return Err(Refusal::StartPoint { expected: self.flush_lsn, got: start });
        }
        let newer = configured && self.is_next_configuration(elected.term, &elected.configuration)?;

        self.leader = Some(LeaderConnection { connection: from, next_begin: start, has_appended: false });
        let mut effects = Vec::new();
        if std::mem::take(&mut self.partial_record_rejected) && self.write_lsn > self.flush_lsn {
            self.write_lsn = self.flush_lsn;
            effects.push(Effect::Truncate(self.flush_lsn));
        }
        if newer {
            self.state.configuration = elected.configuration;
            self.state.configuration_term = elected.term;
            effects.push(self.persist());
        }
        Ok(effects)
    }
}
