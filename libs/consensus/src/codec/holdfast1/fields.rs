//! Fields that only version `holdfast-1` has: timelines in histories, timeline switches, primaries.

use bytes::{BufMut, BytesMut};
use wal_types::{Lsn, PrimaryId, Term, Tli};

use crate::codec::error::CodecError;
use crate::codec::fields;
use crate::codec::reader::{MessageReader, flag};
use crate::configuration::Configuration;
use crate::term_history::{TERM_HISTORY_ENTRIES_MAX, TLI_SWITCHES_MAX, TermHistory, TermStart, TliSwitch};

const HISTORY_ENTRY_BYTES: usize = 20;
const TLI_SWITCH_BYTES: usize = 16;

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

/// The configuration of version 3 and its primary.
pub(super) fn put_configuration(configuration: &Configuration, out: &mut BytesMut) -> Result<(), CodecError> {
    fields::put_configuration(configuration, out)?;
    put_primary(configuration.primary, out);
    Ok(())
}

pub(super) fn get_configuration(reader: &mut MessageReader) -> Result<Configuration, CodecError> {
    let configuration = fields::get_configuration(reader)?;
    Ok(Configuration { primary: get_primary(reader)?, ..configuration })
}

pub(super) fn put_primary(primary: Option<PrimaryId>, out: &mut BytesMut) {
    out.put_u8(primary.is_some().into());
    out.put_slice(&primary.unwrap_or_default().0);
}

pub(super) fn get_primary(reader: &mut MessageReader) -> Result<Option<PrimaryId>, CodecError> {
    let present = flag("primary present", reader.u8()?.into())?;
    let primary = PrimaryId(reader.array()?);
    Ok(present.then_some(primary))
}

/// Flag of a lost node.
pub(super) fn get_lost(reader: &mut MessageReader) -> Result<bool, CodecError> {
    flag("lost", reader.u8()?.into())
}
