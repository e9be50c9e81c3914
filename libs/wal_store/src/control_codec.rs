//! The control file's content as bytes: little-endian, fixed fields, lists with a count in front.
//!
//! Not here: copies, checksums and syncing, which are [`crate::control_file`]'s. The bytes have passed a checksum when
//! they arrive, so whatever does not fit is damage or another release, and is told, never guessed.

use consensus::{
    AcceptorState, Configuration, Dialect, Lineage, Loss, Member, TermHistory, TermStart, TliSwitch,
};
use wal_types::{
    Generation, Lsn, NodeId, PrimaryId, ProposerId, SegmentSize, SystemId, TenantId, TenantTimelineId, Term,
    TimelineId, Tli,
};

use crate::error::{Corruption, InvalidLineage, StoreError};

/// First number of the content.
pub(crate) const FORMAT_VERSION: u32 = 2;

/// All that a node must never forget about one log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Control {
    /// Whose this is.
    pub(crate) node: NodeId,
    /// Random, one for each data directory: a directory that was copied or wiped cannot pass for another.
    pub(crate) disk_id: [u8; 16],
    pub(crate) lineage: Lineage,
    /// Where the log begins now: what is below was removed, or may be. The start of a segment.
    pub(crate) oldest_lsn: Lsn,
    /// Every segment between `oldest_lsn` and here has a file, and none above was ever acknowledged to hold anything: a
    /// file that vanished is missed, even the last one. The start of a segment.
    pub(crate) files_upto: Lsn,
    pub(crate) state: AcceptorState,
}

impl Control {
    /// Of a log without a byte.
    pub(crate) fn new(node: NodeId, disk_id: [u8; 16], lineage: Lineage, state: AcceptorState) -> Self {
        let start = lineage.start_lsn;
        Self { node, disk_id, lineage, oldest_lsn: start, files_upto: start, state }
    }

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

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        let mut input = ContentReader(bytes);
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
        if !input.0.is_empty() {
            return Err(invalid("bytes behind its end"));
        }
        let bounds = [control.lineage.start_lsn, control.oldest_lsn, control.files_upto];
        if !bounds.is_sorted() || bounds.iter().any(|&at| control.lineage.segment_size.offset_of(at) != 0) {
            return Err(invalid("where its files are"));
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

/// What the rest of the store relies on.
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

fn invalid(reason: &'static str) -> StoreError {
    Corruption::ControlContent(reason).into()
}

/// What is left to be read.
struct ContentReader<'a>(&'a [u8]);

impl<'a> ContentReader<'a> {
    fn bytes(&mut self, bytes: usize) -> Result<&'a [u8], StoreError> {
        let (taken, rest) = self.0.split_at_checked(bytes).ok_or_else(|| invalid("it ends too early"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], StoreError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or_else(|| invalid("it ends too early"))?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u8(&mut self) -> Result<u8, StoreError> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, StoreError> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, StoreError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, StoreError> {
        self.array().map(u64::from_le_bytes)
    }

    /// A count, and so many items of at least `item_bytes_min` each. The count is held against what is left before
    /// there is room made for it.
    fn list<T>(
        &mut self,
        item_bytes_min: usize,
        mut item: impl FnMut(&mut Self) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        let items = self.u32()? as usize;
        if items > self.0.len() / item_bytes_min {
            return Err(invalid("a list is longer than the content"));
        }
        (0..items).map(|_| item(self)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control() -> Control {
        let member = |id| Member { id: NodeId(id), host: format!("sk{id}.example"), port: 5454 };
        Control {
            node: NodeId(3),
            disk_id: [9; 16],
            lineage: Lineage {
                id: TenantTimelineId { tenant: TenantId([1; 16]), timeline: TimelineId([2; 16]) },
                dialect: Dialect::Holdfast,
                system_id: SystemId(u64::MAX),
                pg_version: 170_002,
                segment_size: SegmentSize::POSTGRES_DEFAULT,
                start_lsn: Lsn(0x300_0000),
                start_tli: Tli(2),
            },
            oldest_lsn: Lsn(0x300_0000),
            files_upto: Lsn(0x500_0000),
            state: AcceptorState {
                term: Term(8),
                voted_for: Some(ProposerId([4; 16])),
                history: TermHistory::new(vec![
                    TermStart { term: Term(2), start: Lsn(0x300_0000), tli: Tli(2) },
                    TermStart { term: Term(7), start: Lsn(0x300_4000), tli: Tli(3) },
                ])
                .unwrap(),
                tli_switches: vec![TliSwitch { parent: Tli(2), tli: Tli(3), at: Lsn(0x300_4000) }],
                commit_lsn: Lsn(0x300_5000),
                horizon_lsn: Lsn(0x300_4800),
                configuration: Configuration {
                    generation: Generation(5),
                    members: vec![member(1), member(2), member(3)],
                    new_members: vec![member(3), member(4)],
                    primary: Some(PrimaryId([6; 16])),
                },
                configuration_term: Term(7),
                lost: Some(Loss { term: Term(6), acked_upto: Lsn(0x300_4fe8) }),
            },
        }
    }

    #[test]
    fn control_content_round_trips() {
        assert_eq!(Control::decode(&control().encode()).unwrap(), control());
        let mut bare = control();
        bare.state = AcceptorState::default();
        bare.lineage.dialect = Dialect::Neon;
        assert_eq!(Control::decode(&bare.encode()).unwrap(), bare);
    }

    #[test]
    fn control_content_of_wrong_length_is_damage() {
        let whole = control().encode();
        for cut in 0..whole.len() {
            assert!(matches!(Control::decode(&whole[..cut]), Err(StoreError::Corrupt(_))), "cut at {cut}");
        }
        let longer = [&whole[..], &[0]].concat();
        assert!(matches!(Control::decode(&longer), Err(StoreError::Corrupt(_))));
    }

    /// No changed byte makes the decoder panic or allocate without a bound.
    #[test]
    fn control_decode_survives_any_changed_byte() {
        let whole = control().encode();
        for at in 0..whole.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut changed = whole.clone();
                changed[at] = value;
                // Either outcome is fine; what counts is that there is one.
                let _ = Control::decode(&changed);
            }
        }
    }

    #[test]
    fn control_format_of_another_release_is_named() {
        for other in [1, 3] {
            let mut content = control().encode();
            content[0] = other;
            let refused = Control::decode(&content);
            let found = other.into();
            assert!(matches!(refused, Err(StoreError::Format { found: f, known: 2 }) if f == found));
        }
    }
}
