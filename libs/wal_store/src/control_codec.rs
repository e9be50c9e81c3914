//! Codec of the control file's content: little-endian, fixed fields, lists with a count in front.
//!
//! Not here: slots, checksums and syncs ([`crate::control_file`]). The bytes have passed a checksum before they are
//! decoded. So a field that does not fit is damage or another release, and it is refused, never guessed.

use consensus::{
    AcceptorState, Configuration, Dialect, Lineage, Loss, Member, TermHistory, TermStart, TliSwitch,
};
use wal_types::{
    Generation, Lsn, NodeId, PrimaryId, ProposerId, SegmentSize, SystemId, TenantId, TenantTimelineId, Term,
    TimelineId, Tli,
};

use crate::content_reader::{ContentReader, invalid};
use crate::error::{Corruption, InvalidLineage, StoreError};

/// Version of the format: the first field of the content.
pub(crate) const FORMAT_VERSION: u32 = 2;

/// Everything that a node must never forget about one log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Control {
    /// Safekeeper that made the promises.
    pub(crate) node: NodeId,
    /// Random number of the data directory: a directory that was copied or wiped cannot pass for another.
    pub(crate) disk_id: [u8; 16],
    /// Identity of the log.
    pub(crate) lineage: Lineage,
    /// Where the log begins now. WAL below it was removed, or may be at any time. The start of a segment.
    pub(crate) oldest_lsn: Lsn,
    /// Every segment between `oldest_lsn` and here has a file, and no segment above ever held acknowledged WAL. So a
    /// recovery notices any file that vanished, even the last one. The start of a segment.
    pub(crate) files_upto: Lsn,
    /// Promises and positions of the acceptor.
    pub(crate) state: AcceptorState,
}

impl Control {
    /// Content for an empty log.
    pub(crate) fn new(node: NodeId, disk_id: [u8; 16], lineage: Lineage, state: AcceptorState) -> Self {
        let start = lineage.start_lsn;
        Self { node, disk_id, lineage, oldest_lsn: start, files_upto: start, state }
    }

    /// Content in format [`FORMAT_VERSION`].
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        out.extend_from_slice(&self.node.0.to_le_bytes());
        out.extend_from_slice(&self.disk_id);
        encode_lineage(&self.lineage, &mut out);
        out.extend_from_slice(&self.oldest_lsn.0.to_le_bytes());
        out.extend_from_slice(&self.files_upto.0.to_le_bytes());
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
        let control = Self {
            node: NodeId(input.u64()?),
            disk_id: input.array()?,
            lineage: decode_lineage(&mut input)?,
            oldest_lsn: Lsn(input.u64()?),
            files_upto: Lsn(input.u64()?),
            state: decode_state(&mut input)?,
        };

        if !input.is_empty() {
            return Err(invalid("bytes behind the last field"));
        }
        let bounds = [control.lineage.start_lsn, control.oldest_lsn, control.files_upto];
        if !bounds.is_sorted() || bounds.iter().any(|&at| control.lineage.segment_size.offset_of(at) != 0) {
            return Err(invalid("positions of the log's files"));
        }
        Ok(control)
    }
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
    };
    check_lineage(&lineage).map_err(Corruption::ControlLineage)?;
    Ok(lineage)
}

/// Checks what the store relies on: a log begins at the start of a segment, and not at position zero.
pub(crate) fn check_lineage(lineage: &Lineage) -> Result<(), InvalidLineage> {
    if lineage.segment_size.offset_of(lineage.start_lsn) != 0 {
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
    out.extend_from_slice(&state.configuration.generation.0.to_le_bytes());
    for members in [&state.configuration.members, &state.configuration.new_members] {
        push_count(members.len(), out);
        for member in members {
            out.extend_from_slice(&member.id.0.to_le_bytes());
            out.extend_from_slice(&member.port.to_le_bytes());
            push_count(member.host.len(), out);
            out.extend_from_slice(member.host.as_bytes());
        }
    }
    out.push(state.configuration.primary.is_some().into());
    out.extend_from_slice(&state.configuration.primary.unwrap_or_default().0);
    out.extend_from_slice(&state.configuration_term.0.to_le_bytes());
    let loss = state.lost.unwrap_or(Loss { term: Term::ZERO, acked_upto: Lsn::INVALID });
    out.push(state.lost.is_some().into());
    out.extend_from_slice(&loss.term.0.to_le_bytes());
    out.extend_from_slice(&loss.acked_upto.0.to_le_bytes());
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
    let generation = Generation(input.u32()?);
    let (members, new_members) = (decode_members(input)?, decode_members(input)?);
    let has_primary = input.u8()? != 0;
    let primary = PrimaryId(input.array()?);
    let primary = has_primary.then_some(primary);
    let configuration = Configuration { generation, members, new_members, primary };
    configuration.validate().map_err(|_| invalid("configuration"))?;
    let configuration_term = Term(input.u64()?);
    let lost = input.u8()? != 0;
    let loss = Loss { term: Term(input.u64()?), acked_upto: Lsn(input.u64()?) };
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

fn decode_members(input: &mut ContentReader<'_>) -> Result<Vec<Member>, StoreError> {
    input.list(14, |input| {
        let (id, port) = (NodeId(input.u64()?), input.u16()?);
        let bytes = input.u32()? as usize;
        let host = input.bytes(bytes)?.to_vec();
        Ok(Member { id, host: String::from_utf8(host).map_err(|_| invalid("host name"))?, port })
    })
}

fn push_count(items: usize, out: &mut Vec<u8>) {
    let items = u32::try_from(items).expect("a list in memory is shorter than 4 Gi");
    out.extend_from_slice(&items.to_le_bytes());
}

#[cfg(test)]
mod tests;
