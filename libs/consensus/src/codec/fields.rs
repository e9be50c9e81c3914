//! Fields that more than one version has, with their checks.

use bytes::{BufMut, Bytes, BytesMut};
use wal_types::{Generation, Lsn, NodeId, ReplicaId};

use super::error::CodecError;
use super::reader::MessageReader;
use crate::APPEND_WAL_BYTES_MAX;
use crate::configuration::{Configuration, HOST_BYTES_MAX, MEMBERS_MAX, Member};
use crate::term_history::{TermHistory, TermStart};

/// Length of a member with an empty host.
const MEMBER_BYTES_MIN: usize = 8 + 1 + 2;

/// The WAL behind the header of an append. Its length must be the one that the header announces.
pub(super) fn append_wal(reader: &mut MessageReader, begin: Lsn, end: Lsn) -> Result<Bytes, CodecError> {
    let announced = end.0.checked_sub(begin.0).ok_or(CodecError::Range { from: begin, to: end })?;
    if announced > APPEND_WAL_BYTES_MAX as u64 {
        return Err(CodecError::AppendTooLong(announced));
    }
    let (announced, carried) = (announced as usize, reader.bytes_left());
    if announced != carried {
        return Err(CodecError::AppendLength { announced, carried });
    }
    Ok(reader.remaining())
}

/// A history of `count` entries, each read by `entry`. The caller has checked `count`.
pub(super) fn history_of(
    count: usize,
    mut entry: impl FnMut() -> Result<TermStart, CodecError>,
) -> Result<TermHistory, CodecError> {
    let mut entries = Vec::with_capacity(count);
    for _ in 0..count {
        entries.push(entry()?);
    }
    Ok(TermHistory::new(entries)?)
}

/// The configuration of version 3, which carries neither copies nor a primary. Big-endian: generation u32, members, new members; each list n u32, n * {node id u64, host, port u16}.
pub(super) fn put_configuration(configuration: &Configuration, out: &mut BytesMut) -> Result<(), CodecError> {
    out.put_u32(configuration.generation.0);
    for set in [&configuration.members, &configuration.new_members] {
        out.put_u32(set.len() as u32);
        for member in set {
            let host = member.host.as_bytes();
            if host.len() > HOST_BYTES_MAX || host.contains(&0) {
                return Err(CodecError::Text("host"));
            }
            out.put_u64(member.id.0);
            out.put_slice(host);
            out.put_u8(0);
            out.put_u16(member.port);
        }
    }
    Ok(())
}

pub(super) fn get_configuration(reader: &mut MessageReader) -> Result<Configuration, CodecError> {
    let generation = Generation(reader.u32()?);
    let members = get_members(reader)?;
    let new_members = get_members(reader)?;
    let configuration = Configuration { generation, members, new_members, ..Configuration::default() };
    configuration.validate()?;
    Ok(configuration)
}

fn get_members(reader: &mut MessageReader) -> Result<Vec<Member>, CodecError> {
    let count = reader.u32()?;
    let count = reader.checked_count("members", count, MEMBERS_MAX, MEMBER_BYTES_MIN)?;
    let mut members = Vec::with_capacity(count);
    for _ in 0..count {
        let id = NodeId(reader.u64()?);
        let host = reader.text("host", HOST_BYTES_MAX)?;
        members.push(Member { id, host, port: reader.u16()?, replica: ReplicaId::default() });
    }
    Ok(members)
}
