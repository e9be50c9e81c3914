//! Messages of a proposer in version `holdfast-2`.

use bytes::{BufMut, BytesMut};
use wal_types::{
    Generation, Lsn, ProposerId, ReplicaId, SystemId, TenantId, TenantTimelineId, Term, TimelineId, Tli,
};

use super::configuration::{encode_configuration, get_configuration};
use super::fields::{VERSION, get_history, get_position, get_switches, put_history, put_switches};
use crate::codec::error::CodecError;
use crate::codec::reader::MessageReader;
use crate::codec::tag::{APPEND, CHECKSUM, CONFIGURE, ELECTED, GREETING, PRE_VOTE, TICKET, VOTE, WATCH};
use crate::codec::v3;
use crate::configuration::Configuration;
use crate::message::{
    ChecksumRequest, ConfigureRequest, PreVoteRequest, ProposerElected, ProposerGreeting, ProposerMessage,
    Ticket, VoteRequest,
};

pub(in crate::codec) fn put_proposer(
    message: &ProposerMessage,
    out: &mut BytesMut,
) -> Result<(), CodecError> {
    match message {
        ProposerMessage::Greeting(greeting) => put_greeting(greeting, out),
        ProposerMessage::PreVote(request) => {
            out.put_u8(PRE_VOTE);
            out.put_u32(request.generation.0);
        }
        ProposerMessage::Vote(request) => {
            v3::put_vote(request, out);
            out.put_slice(&request.proposer_id.0);
            out.put_slice(&request.replica.0);
        }
        ProposerMessage::Elected(elected) => {
            v3::put_elected_head(elected, out);
            out.put_slice(&elected.replica.0);
            out.put_u64(elected.rebase.unwrap_or_default().0);
            put_history(&elected.history, out);
            put_switches(&elected.tli_switches, out);
            encode_configuration(&elected.configuration, out)?;
        }
        ProposerMessage::Append(request) => v3::put_append(request, out),
        ProposerMessage::Checksum(request) => put_checksum(request, out),
        ProposerMessage::Configure(request) => {
            out.put_u8(CONFIGURE);
            out.put_u64(request.term.0);
            encode_configuration(&request.configuration, out)?;
        }
        ProposerMessage::Ticket(ticket) => {
            out.put_u8(TICKET);
            out.put_u64(ticket.term.0);
            out.put_u64(ticket.number);
        }
        ProposerMessage::Watch => out.put_u8(WATCH),
    }

    Ok(())
}

pub(in crate::codec) fn get_proposer(reader: &mut MessageReader) -> Result<ProposerMessage, CodecError> {
    Ok(match reader.u8()? {
        GREETING => ProposerMessage::Greeting(get_greeting(reader)?),
        PRE_VOTE => ProposerMessage::PreVote(PreVoteRequest { generation: Generation(reader.u32()?) }),
        VOTE => {
            let request = v3::get_vote(reader)?;
            let proposer_id = ProposerId(reader.array()?);
            ProposerMessage::Vote(VoteRequest { proposer_id, replica: ReplicaId(reader.array()?), ..request })
        }
        ELECTED => {
            let head = v3::get_elected_head(reader)?;
            let replica = ReplicaId(reader.array()?);
            let rebase = get_position(reader)?;
            let history = get_history(reader)?;
            let tli_switches = get_switches(reader)?;
            let configuration = get_configuration(reader)?;
            ProposerMessage::Elected(ProposerElected {
                replica,
                rebase,
                history,
                tli_switches,
                configuration,
                ..head
            })
        }
        APPEND => ProposerMessage::Append(v3::get_append(reader)?),
        CHECKSUM => ProposerMessage::Checksum(get_checksum(reader)?),
        CONFIGURE => ProposerMessage::Configure(ConfigureRequest {
            term: Term(reader.u64()?),
            configuration: get_configuration(reader)?,
        }),
        TICKET => ProposerMessage::Ticket(Ticket { term: Term(reader.u64()?), number: reader.u64()? }),
        WATCH => ProposerMessage::Watch,
        tag => return Err(CodecError::UnknownTag { tag, version: VERSION }),
    })
}

fn put_greeting(greeting: &ProposerGreeting, out: &mut BytesMut) {
    out.put_u8(GREETING);
    out.put_slice(&greeting.id.tenant.0);
    out.put_slice(&greeting.id.timeline.0);
    out.put_u32(greeting.pg_version);
    out.put_u64(greeting.system_id.0);
    out.put_u32(greeting.segment_bytes);
    out.put_u32(greeting.tli.0);
    out.put_slice(&greeting.proposer_id.0);
}

fn get_greeting(reader: &mut MessageReader) -> Result<ProposerGreeting, CodecError> {
    let (tenant, timeline) = (TenantId(reader.array()?), TimelineId(reader.array()?));
    Ok(ProposerGreeting {
        version: VERSION,
        id: TenantTimelineId { tenant, timeline },
        pg_version: reader.u32()?,
        system_id: SystemId(reader.u64()?),
        segment_bytes: reader.u32()?,
        tli: Tli(reader.u32()?),
        proposer_id: ProposerId(reader.array()?),
        configuration: Configuration::default(),
    })
}

fn put_checksum(request: &ChecksumRequest, out: &mut BytesMut) {
    out.put_u8(CHECKSUM);
    out.put_u32(request.generation.0);
    out.put_u64(request.term.0);
    out.put_u64(request.from.0);
    out.put_u64(request.to.0);
}

fn get_checksum(reader: &mut MessageReader) -> Result<ChecksumRequest, CodecError> {
    let generation = Generation(reader.u32()?);
    let term = Term(reader.u64()?);
    let (from, to) = (Lsn(reader.u64()?), Lsn(reader.u64()?));
    if from > to {
        return Err(CodecError::Range { from, to });
    }
    Ok(ChecksumRequest { generation, term, from, to })
}
