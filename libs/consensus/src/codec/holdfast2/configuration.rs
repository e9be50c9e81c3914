//! Own encoding of a configuration: on the wire of version `holdfast-2`, and in the control file.
//!
//! ```text
//! configuration  generation u32, members, new members, n u16, n * field
//! members        n u8, n * {node id u64, replica 16, port u16, host length u16, host}
//! field          tag u16, since u16, length u16, value        tags rise
//!
//! 1 primary    name 16, instance 16             absent: any primary
//! 2 void to    term u64                         absent: 0
//! 3 automatic  nothing                          absent: no
//! 4 paused     length u16, by, why              absent: not paused
//! ```
//!
//! `since` is the number of the protocol version that brought the field. This release writes its own four with 2, and keeps
//! any other field as it came. A field with its default value is absent, so a configuration has one encoding, and its hash
//! one value.

use bytes::{BufMut, Bytes, BytesMut};
use sha2::{Digest as _, Sha256};
use wal_types::{Digest, Generation, InstanceId, NodeId, PrimaryId, ReplicaId, Term};

use crate::codec::error::CodecError;
use crate::codec::reader::MessageReader;
use crate::configuration::{
    Configuration, HOST_BYTES_MAX, MEMBERS_MAX, Member, Paused, Primary, UNKNOWN_FIELD_BYTES_MAX,
    UNKNOWN_FIELDS_MAX, UnknownField,
};

/// Number of this protocol version, in the fields that it brought.
const SINCE: u16 = 2;

const PRIMARY: u16 = 1;
const VOID_TO: u16 = 2;
const AUTOMATIC: u16 = 3;
const PAUSED: u16 = 4;

const MEMBER_BYTES_MIN: usize = 28;
const FIELD_BYTES_MIN: usize = 6;
const KNOWN_FIELDS: usize = 4;

/// Appends the encoding of a configuration. Fails for one that [`Configuration::validate`] refuses.
pub fn encode_configuration(configuration: &Configuration, out: &mut BytesMut) -> Result<(), CodecError> {
    configuration.validate()?;
    out.put_u32(configuration.generation.0);
    for set in [&configuration.members, &configuration.new_members] {
        out.put_u8(set.len() as u8);
        for member in set {
            out.put_u64(member.id.0);
            out.put_slice(&member.replica.0);
            out.put_u16(member.port);
            out.put_u16(member.host.len() as u16);
            out.put_slice(member.host.as_bytes());
        }
    }

    let fields = fields_of(configuration);
    out.put_u16(fields.len() as u16);
    for UnknownField { tag, since, value } in fields {
        out.put_u16(tag);
        out.put_u16(since);
        out.put_u16(value.len() as u16);
        out.put_slice(&value);
    }
    Ok(())
}

/// Reads a configuration that fills all of `bytes`.
pub fn decode_configuration(bytes: Bytes) -> Result<Configuration, CodecError> {
    let mut reader = MessageReader::new(bytes);
    let configuration = get_configuration(&mut reader)?;
    match reader.bytes_left() {
        0 => Ok(configuration),
        left => Err(CodecError::Trailing(left)),
    }
}

/// Birth of a log: the hash of its first configuration. Fails for one that [`Configuration::validate`] refuses.
pub fn birth_of(first: &Configuration) -> Result<Digest, CodecError> {
    let mut bytes = BytesMut::new();
    encode_configuration(first, &mut bytes)?;
    Ok(Digest(Sha256::digest(&bytes).into()))
}

pub(super) fn get_configuration(reader: &mut MessageReader) -> Result<Configuration, CodecError> {
    let generation = Generation(reader.u32()?);
    let members = get_members(reader)?;
    let new_members = get_members(reader)?;
    let mut configuration = Configuration { generation, members, new_members, ..Configuration::default() };

    let count = reader.u16()?.into();
    let fields_max = UNKNOWN_FIELDS_MAX + KNOWN_FIELDS;
    let count = reader.checked_count("configuration fields", count, fields_max, FIELD_BYTES_MIN)?;
    let mut last = None;
    for _ in 0..count {
        let field = get_field(reader)?;
        if last >= Some(field.tag) {
            return Err(CodecError::Text("order of configuration fields"));
        }
        last = Some(field.tag);
        adopt(field, &mut configuration)?;
    }
    configuration.validate()?;
    Ok(configuration)
}

fn get_members(reader: &mut MessageReader) -> Result<Vec<Member>, CodecError> {
    let count = reader.u8()?.into();
    let count = reader.checked_count("members", count, MEMBERS_MAX, MEMBER_BYTES_MIN)?;
    let mut members = Vec::with_capacity(count);
    for _ in 0..count {
        let id = NodeId(reader.u64()?);
        let replica = ReplicaId(reader.array()?);
        let port = reader.u16()?;
        let length = usize::from(reader.u16()?);
        if length > HOST_BYTES_MAX {
            return Err(CodecError::Text("host"));
        }
        let host = get_text("host", length, reader)?;
        members.push(Member { id, host, port, replica });
    }
    Ok(members)
}

fn get_field(reader: &mut MessageReader) -> Result<UnknownField, CodecError> {
    let (tag, since) = (reader.u16()?, reader.u16()?);
    let length = usize::from(reader.u16()?);
    if length > UNKNOWN_FIELD_BYTES_MAX {
        return Err(CodecError::Text("configuration field"));
    }
    // A copy: the value outlives the message, whose memory may be far larger.
    let value = Bytes::copy_from_slice(&reader.bytes(length)?);
    Ok(UnknownField { tag, since, value })
}

/// Takes over the value of a field. The value of a known one must be exact, and not the default.
fn adopt(field: UnknownField, configuration: &mut Configuration) -> Result<(), CodecError> {
    let is_known = matches!(field.tag, PRIMARY | VOID_TO | AUTOMATIC | PAUSED);
    if !is_known {
        configuration.unknown.push(field);
        return Ok(());
    }
    if field.since != SINCE {
        return Err(CodecError::Text("version of a configuration field"));
    }
    let mut value = MessageReader::new(field.value);
    match field.tag {
        PRIMARY => {
            let (name, instance) = (PrimaryId(value.array()?), InstanceId(value.array()?));
            configuration.primary = Some(Primary { name, instance });
        }
        VOID_TO => {
            configuration.void_to = Term(value.u64()?);
            if configuration.void_to == Term::ZERO {
                return Err(CodecError::Text("void_to"));
            }
        }
        AUTOMATIC => configuration.automatic = true,
        _ => {
            let by_length = usize::from(value.u16()?);
            let by = get_text("paused by", by_length, &mut value)?;
            let why_length = value.bytes_left();
            configuration.paused = Some(Paused { by, why: get_text("paused why", why_length, &mut value)? });
        }
    }
    match value.bytes_left() {
        0 => Ok(()),
        left => Err(CodecError::Trailing(left)),
    }
}

/// The fields that differ from their defaults, by rising tag.
fn fields_of(configuration: &Configuration) -> Vec<UnknownField> {
    let mut fields = Vec::new();
    let mut own =
        |tag, value: BytesMut| fields.push(UnknownField { tag, since: SINCE, value: value.freeze() });
    if let Some(Primary { name, instance }) = configuration.primary {
        own(PRIMARY, BytesMut::from([name.0, instance.0].concat().as_slice()));
    }
    if configuration.void_to != Term::ZERO {
        own(VOID_TO, BytesMut::from(configuration.void_to.0.to_be_bytes().as_slice()));
    }
    if configuration.automatic {
        own(AUTOMATIC, BytesMut::new());
    }
    if let Some(Paused { by, why }) = &configuration.paused {
        let mut value = BytesMut::new();
        value.put_u16(by.len() as u16);
        value.put_slice(by.as_bytes());
        value.put_slice(why.as_bytes());
        own(PAUSED, value);
    }
    fields.extend(configuration.unknown.iter().cloned());
    fields.sort_by_key(|field| field.tag);
    fields
}

fn get_text(what: &'static str, length: usize, reader: &mut MessageReader) -> Result<String, CodecError> {
    let bytes = reader.bytes(length)?;
    str::from_utf8(&bytes).map(str::to_owned).map_err(|_| CodecError::Text(what))
}
