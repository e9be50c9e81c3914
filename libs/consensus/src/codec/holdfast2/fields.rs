//! Fields that only version `holdfast-2` has: timelines in histories, timeline switches, leases.

use bytes::{BufMut, BytesMut};
use wal_types::{Digest, InstanceId, Lsn, Term, Tli};

use crate::codec::error::CodecError;
use crate::codec::fields;
use crate::codec::reader::{MessageReader, flag};
use crate::lineage::ProtocolVersion;
use crate::message::{LeaderHeard, Lease};
use crate::term_history::{TERM_HISTORY_ENTRIES_MAX, TLI_SWITCHES_MAX, TermHistory, TermStart, TliSwitch};

const HISTORY_ENTRY_BYTES: usize = 20;
const TLI_SWITCH_BYTES: usize = 16;

/// The version of these messages.
pub(super) const VERSION: ProtocolVersion = ProtocolVersion::Holdfast2;

/// A leader that was never heard.
const NEVER_MS: u32 = u32::MAX;

pub(super) fn put_history(history: &TermHistory, out: &mut BytesMut) {
    out.put_u32(history.entries().len() as u32);
    for entry in history.entries() {
        out.put_u64(entry.term.0);
        out.put_u64(entry.start.0);
        out.put_u32(entry.tli.0);
    }
}

pub(super) fn get_history(reader: &mut MessageReader) -> Result<TermHistory, CodecError> {
    let count = reader.u32()?;
    let count =
        reader.checked_count("history entries", count, TERM_HISTORY_ENTRIES_MAX, HISTORY_ENTRY_BYTES)?;
    fields::history_of(count, || {
        Ok(TermStart { term: Term(reader.u64()?), start: Lsn(reader.u64()?), tli: Tli(reader.u32()?) })
    })
}

pub(super) fn put_switches(switches: &[TliSwitch], out: &mut BytesMut) {
    out.put_u32(switches.len() as u32);
    for switch in switches {
        out.put_u32(switch.parent.0);
        out.put_u32(switch.tli.0);
        out.put_u64(switch.at.0);
    }
}

pub(super) fn get_switches(reader: &mut MessageReader) -> Result<Vec<TliSwitch>, CodecError> {
    let count = reader.u32()?;
    let count = reader.checked_count("timeline switches", count, TLI_SWITCHES_MAX, TLI_SWITCH_BYTES)?;
    let mut switches = Vec::with_capacity(count);
    for _ in 0..count {
        let (parent, tli) = (Tli(reader.u32()?), Tli(reader.u32()?));
        switches.push(TliSwitch { parent, tli, at: Lsn(reader.u64()?) });
    }
    Ok(switches)
}

/// A hash, or none: a byte that says which, and 32 bytes.
pub(super) fn put_digest(digest: Option<Digest>, out: &mut BytesMut) {
    out.put_u8(digest.is_some().into());
    out.put_slice(&digest.map_or([0; 32], |digest| digest.0));
}

pub(super) fn get_digest(
    what: &'static str,
    reader: &mut MessageReader,
) -> Result<Option<Digest>, CodecError> {
    let present = flag(what, reader.u8()?.into())?;
    let digest = Digest(reader.array()?);
    Ok(present.then_some(digest))
}

/// A position, or none: position zero.
pub(super) fn get_position(reader: &mut MessageReader) -> Result<Option<Lsn>, CodecError> {
    Ok(Some(Lsn(reader.u64()?)).filter(|lsn| lsn.is_valid()))
}

pub(super) fn put_heard(heard: LeaderHeard, out: &mut BytesMut) {
    out.put_u32(heard.ago_ms.unwrap_or(NEVER_MS));
    let none = Lease { term: Term::ZERO, instance: InstanceId::default(), left_ms: 0 };
    let lease = heard.lease.unwrap_or(none);
    out.put_u8(heard.lease.is_some().into());
    out.put_u64(lease.term.0);
    out.put_slice(&lease.instance.0);
    out.put_u32(lease.left_ms);
}

pub(super) fn get_heard(reader: &mut MessageReader) -> Result<LeaderHeard, CodecError> {
    let ago_ms = Some(reader.u32()?).filter(|&ago_ms| ago_ms != NEVER_MS);
    let present = flag("lease present", reader.u8()?.into())?;
    let lease =
        Lease { term: Term(reader.u64()?), instance: InstanceId(reader.array()?), left_ms: reader.u32()? };
    Ok(LeaderHeard { ago_ms, lease: present.then_some(lease) })
}

/// Flag of a lost node.
pub(super) fn get_lost(reader: &mut MessageReader) -> Result<bool, CodecError> {
    flag("lost", reader.u8()?.into())
}
