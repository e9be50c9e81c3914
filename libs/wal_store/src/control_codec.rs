//! Codec of the control file's content: little-endian, fixed fields, lists with a count in front.
//!
//! ```text
//! format u32 (= 3), node u64, disk id 16, replica 16, lineage, oldest u64, files upto u64, archived upto u64, rest, state
//! lineage  tenant 16, timeline 16, dialect u8, system id u64, pg_version u32, segment bytes u32, start u64, start tli u32,
//!          birth, start history
//! rest     present u8, end u64, last record start u64
//! state    term u64, voted u8, campaign 16, commit u64, horizon u64, history, switches, configuration term u64,
//!          lost u8, term u64, acked upto u64, configuration length u32, configuration
//! birth, start history   present u8, hash 32            absent: zeros follow
//! ```
//!
//! The configuration is encoded as in messages of version `holdfast-2`: fields of later releases are kept as they came.
//!
//! Not here: slots, checksums and syncs ([`crate::control_file`]). The bytes have passed a checksum before they are
//! decoded. So a field that does not fit is damage or another release, and it is refused, never guessed.

use bytes::{Bytes, BytesMut};
use consensus::codec::{birth_of, decode_configuration, encode_configuration};
use consensus::{AcceptorState, Configuration, Dialect, Lineage, Loss, TermHistory, TermStart, TliSwitch};
use wal_types::{
    CopyId, Digest, Lsn, NodeId, ProposerId, ReplicaId, SegmentSize, SystemId, TenantId, TenantTimelineId,
    Term, TimelineId, Tli,
};

use crate::content_reader::{ContentReader, invalid};
use crate::error::{Corruption, InvalidLineage, StoreError};

/// Version of the format: the first field of the content.
pub(crate) const FORMAT_VERSION: u32 = 3;

/// The end of a log that was put to rest: all of it is durable, and nothing is behind its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rest {
    /// End of the last record.
    pub(crate) end: Lsn,
    /// Start of the last record.
    pub(crate) last_record_start: Lsn,
}

/// Everything that a node must never forget about one log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Control {
    /// Safekeeper that made the promises, and this copy: drawn when the copy was created.
    pub(crate) copy: CopyId,
    /// Random number of the data directory: a directory that was copied or wiped cannot pass for another.
    pub(crate) disk_id: [u8; 16],
    /// Identity of the log.
    pub(crate) lineage: Lineage,
    /// Where the log begins now. WAL below it was removed, or may be at any time. The start of a segment, or of the log.
    pub(crate) oldest_lsn: Lsn,
    /// Every segment between `oldest_lsn` and here has a file, and no segment above ever held acknowledged WAL. So a
    /// recovery notices any file that vanished, even the last one. The start of a segment, or of the log.
    pub(crate) files_upto: Lsn,
    /// Everything below was found in the archive by this node; zero: nothing yet.
    pub(crate) archived_upto: Lsn,
    /// Set while the log rests. Cleared durably before the first write.
    pub(crate) rest: Option<Rest>,
    /// Promises and positions of the acceptor.
    pub(crate) state: AcceptorState,
}

impl Control {
    /// Content for an empty log, whose first members are those of the configuration.
    pub(crate) fn founded(
        copy: CopyId,
        disk_id: [u8; 16],
        mut lineage: Lineage,
        configuration: Configuration,
    ) -> Result<Self, StoreError> {
        check_lineage(&lineage)?;
        let start = lineage.start_lsn;
        if lineage.segment_size.offset_of(start) != 0 {
            return Err(InvalidLineage::StartInsideSegment(start).into());
        }
        configuration.validate()?;
        if !configuration.is_unset() {
            lineage.birth = birth_of(&configuration).ok();
        }
        let state = AcceptorState { commit_lsn: start, configuration, ..AcceptorState::default() };
        Ok(Self {
            copy,
            disk_id,
            lineage,
            oldest_lsn: start,
            files_upto: start,
            archived_upto: Lsn::INVALID,
            rest: None,
            state,
        })
    }

    /// Content in format [`FORMAT_VERSION`].
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        out.extend_from_slice(&self.copy.node.0.to_le_bytes());
        out.extend_from_slice(&self.disk_id);
        out.extend_from_slice(&self.copy.replica.0);
        encode_lineage(&self.lineage, &mut out);
        out.extend_from_slice(&self.oldest_lsn.0.to_le_bytes());
        out.extend_from_slice(&self.files_upto.0.to_le_bytes());
        out.extend_from_slice(&self.archived_upto.0.to_le_bytes());
        let rest = self.rest.unwrap_or(Rest { end: Lsn::INVALID, last_record_start: Lsn::INVALID });
        out.push(self.rest.is_some().into());
        out.extend_from_slice(&rest.end.0.to_le_bytes());
        out.extend_from_slice(&rest.last_record_start.0.to_le_bytes());
        encode_state(&self.state, &mut out);
        out
    }

    /// Reads a content that passed its checksum.
    ///
    /// # Errors
    /// [`StoreError::Format`] for another release, [`StoreError::Corrupt`] for impossible content.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        let mut input = ContentReader::new(bytes);
        let found = input.u32()?;
        if found != FORMAT_VERSION {
            return Err(StoreError::Format { found, known: FORMAT_VERSION });
        }
        let node = NodeId(input.u64()?);
        let disk_id = input.array()?;
        let control = Self {
            copy: CopyId { node, replica: ReplicaId(input.array()?) },
            disk_id,
            lineage: decode_lineage(&mut input)?,
            oldest_lsn: Lsn(input.u64()?),
            files_upto: Lsn(input.u64()?),
            archived_upto: Lsn(input.u64()?),
            rest: decode_rest(&mut input)?,
            state: decode_state(&mut input)?,
        };

        if !input.is_empty() {
            return Err(invalid("bytes behind the last field"));
        }
        let bounds = [control.lineage.start_lsn, control.oldest_lsn, control.files_upto];
        let is_possible =
            |at: &Lsn| *at == control.lineage.start_lsn || control.lineage.segment_size.offset_of(*at) == 0;
        if !bounds.is_sorted() || !bounds.iter().all(is_possible) {
            return Err(invalid("positions of the log's files"));
        }
        Ok(control)
    }
}

fn decode_rest(input: &mut ContentReader<'_>) -> Result<Option<Rest>, StoreError> {
    let present = input.u8()? != 0;
    let rest = Rest { end: Lsn(input.u64()?), last_record_start: Lsn(input.u64()?) };
    if present && rest.last_record_start > rest.end {
        return Err(invalid("end of a resting log"));
    }
    Ok(present.then_some(rest))
}

fn encode_lineage(lineage: &Lineage, out: &mut Vec<u8>) {
    out.extend_from_slice(&lineage.id.tenant.0);
    out.extend_from_slice(&lineage.id.timeline.0);
    out.push(match lineage.dialect {
        Dialect::Neon => 0,
        Dialect::Holdfast => 1,
    });
    out.extend_from_slice(&lineage.system_id.0.to_le_bytes());
    out.extend_from_slice(&lineage.pg_version.to_le_bytes());
    out.extend_from_slice(&lineage.segment_size.bytes().to_le_bytes());
    out.extend_from_slice(&lineage.start_lsn.0.to_le_bytes());
    out.extend_from_slice(&lineage.start_tli.0.to_le_bytes());
    for digest in [lineage.birth, lineage.start_history] {
        out.push(digest.is_some().into());
        out.extend_from_slice(&digest.map_or([0; 32], |digest| digest.0));
    }
}

fn decode_lineage(input: &mut ContentReader<'_>) -> Result<Lineage, StoreError> {
    let lineage = Lineage {
        id: TenantTimelineId { tenant: TenantId(input.array()?), timeline: TimelineId(input.array()?) },
        dialect: match input.u8()? {
            0 => Dialect::Neon,
            1 => Dialect::Holdfast,
            _ => return Err(invalid("unknown dialect")),
        },
        system_id: SystemId(input.u64()?),
        pg_version: input.u32()?,
        segment_size: SegmentSize::new(input.u32()?).map_err(|_| invalid("segment size"))?,
        start_lsn: Lsn(input.u64()?),
        start_tli: Tli(input.u32()?),
        birth: decode_digest(input)?,
        start_history: decode_digest(input)?,
    };
    check_lineage(&lineage).map_err(Corruption::ControlLineage)?;
    Ok(lineage)
}

fn decode_digest(input: &mut ContentReader<'_>) -> Result<Option<Digest>, StoreError> {
    let present = input.u8()? != 0;
    let digest = Digest(input.array()?);
    Ok(present.then_some(digest))
}

/// Checks what every reader of a control file relies on: a log begins at the start of a segment, or inside one in dialect
/// `neon`, and not at position zero.
pub(crate) fn check_lineage(lineage: &Lineage) -> Result<(), InvalidLineage> {
    let is_inside = lineage.segment_size.offset_of(lineage.start_lsn) != 0;
    if is_inside && lineage.dialect == Dialect::Holdfast {
        return Err(InvalidLineage::StartInsideSegment(lineage.start_lsn));
    }
    if !lineage.start_lsn.is_valid() {
        return Err(InvalidLineage::StartAtZero);
    }
    Ok(())
}

fn encode_state(state: &AcceptorState, out: &mut Vec<u8>) {
    out.extend_from_slice(&state.term.0.to_le_bytes());
    out.push(state.voted_for.is_some().into());
    out.extend_from_slice(&state.voted_for.unwrap_or_default().0);
    out.extend_from_slice(&state.commit_lsn.0.to_le_bytes());
    out.extend_from_slice(&state.horizon_lsn.0.to_le_bytes());
    push_count(state.history.entries().len(), out);
    for entry in state.history.entries() {
        out.extend_from_slice(&entry.term.0.to_le_bytes());
        out.extend_from_slice(&entry.start.0.to_le_bytes());
        out.extend_from_slice(&entry.tli.0.to_le_bytes());
    }
    push_count(state.tli_switches.len(), out);
    for switch in &state.tli_switches {
        out.extend_from_slice(&switch.parent.0.to_le_bytes());
        out.extend_from_slice(&switch.tli.0.to_le_bytes());
        out.extend_from_slice(&switch.at.0.to_le_bytes());
    }
    out.extend_from_slice(&state.configuration_term.0.to_le_bytes());
    let loss = state.lost.unwrap_or(Loss { term: Term::ZERO, acked_upto: Lsn::INVALID });
    out.push(state.lost.is_some().into());
    out.extend_from_slice(&loss.term.0.to_le_bytes());
    out.extend_from_slice(&loss.acked_upto.0.to_le_bytes());

    let mut configuration = BytesMut::new();
    encode_configuration(&state.configuration, &mut configuration)
        .expect("only a configuration that is valid is accepted");
    push_count(configuration.len(), out);
    out.extend_from_slice(&configuration);
}

fn decode_state(input: &mut ContentReader<'_>) -> Result<AcceptorState, StoreError> {
    let term = Term(input.u64()?);
    let voted = input.u8()? != 0;
    let voted_for = ProposerId(input.array()?);
    let (commit_lsn, horizon_lsn) = (Lsn(input.u64()?), Lsn(input.u64()?));
    let entries = input.list(20, |input| {
        Ok(TermStart { term: Term(input.u64()?), start: Lsn(input.u64()?), tli: Tli(input.u32()?) })
    })?;
    let tli_switches = input.list(16, |input| {
        Ok(TliSwitch { parent: Tli(input.u32()?), tli: Tli(input.u32()?), at: Lsn(input.u64()?) })
    })?;
    let configuration_term = Term(input.u64()?);
    let lost = input.u8()? != 0;
    let loss = Loss { term: Term(input.u64()?), acked_upto: Lsn(input.u64()?) };
    let bytes = input.u32()? as usize;
    let configuration = decode_configuration(Bytes::copy_from_slice(input.bytes(bytes)?))
        .map_err(|_| invalid("configuration"))?;
    Ok(AcceptorState {
        term,
        voted_for: voted.then_some(voted_for),
        history: TermHistory::new(entries).map_err(|_| invalid("term history"))?,
        tli_switches,
        commit_lsn,
        horizon_lsn,
        configuration,
        configuration_term,
        lost: lost.then_some(loss),
    })
}

fn push_count(items: usize, out: &mut Vec<u8>) {
    let items = u32::try_from(items).expect("a list in memory is shorter than 4 Gi");
    out.extend_from_slice(&items.to_le_bytes());
}

#[cfg(test)]
mod tests;
