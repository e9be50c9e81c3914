//! `AppendRequest`: accepts WAL from the connection that leads the current term.

use super::{Acceptor, Effect, Refusal};
use crate::lineage::ProtocolVersion;
use crate::message::AppendRequest;
use crate::{APPEND_WAL_BYTES_MAX, ConnectionId};

impl Acceptor {
    /// Bytes that the log already holds are skipped. The response follows from [`Acceptor::flushed`].
    pub(super) fn handle_append(
        &mut self,
        from: ConnectionId,
        version: ProtocolVersion,
        append: AppendRequest,
    ) -> Result<Vec<Effect>, Refusal> {
        self.check_generation(version, append.generation)?;
        if append.wal.len() > APPEND_WAL_BYTES_MAX {
            return Err(Refusal::Malformed("append carries more than 128 KiB of WAL"));
        }
        let Some(end) = append.begin_lsn.checked_add(append.wal.len() as u64) else {
            return Err(Refusal::Malformed("append ends beyond the highest LSN"));
        };
        if append.term < self.state.term {
            return Ok(vec![self.deposed_response(from)]);
        }
        let Some(leader) =
            self.leader.as_mut().filter(|leader| leader.connection == from && append.term == self.state.term)
        else {
            return Err(Refusal::NotElected { term: append.term, own: self.state.term });
        };
        if append.begin_lsn != leader.next_begin {
            return Err(Refusal::OutOfSequence { expected: leader.next_begin, got: append.begin_lsn });
        }

        leader.next_begin = end;
        leader.has_appended = true;
        self.commit_candidate = self.commit_candidate.max(append.commit_lsn);
        // All members hold what is below the horizon, and this node is one. A horizon above its own log is wrong and is
        // cut down.
        let horizon = append.truncate_lsn.min(append.commit_lsn).min(self.flush_lsn);
        self.state.horizon_lsn = self.state.horizon_lsn.max(horizon);
        self.unanswered.insert(from);

        let known = self.write_lsn.bytes_since(append.begin_lsn).min(append.wal.len() as u64) as usize;
        let wal = append.wal.slice(known..);
        if wal.is_empty() {
            return Ok(Vec::new());
        }
        let at = std::mem::replace(&mut self.write_lsn, end);
        Ok(vec![Effect::Write { at, wal }])
    }
}
