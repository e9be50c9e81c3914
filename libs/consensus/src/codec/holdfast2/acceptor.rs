//! Messages of an acceptor in version `holdfast-2`.

use bytes::{BufMut, BytesMut};
use wal_types::{CopyId, Generation, Lsn, NodeId, ReplicaId, Term};

use super::configuration::{encode_configuration, get_configuration};
use super::fields::{
    VERSION, get_digest, get_heard, get_history, get_lost, get_switches, put_digest, put_heard, put_history,
    put_switches,
};
use crate::codec::error::CodecError;
use crate::codec::reader::{MessageReader, flag};
use crate::codec::tag::{APPEND, CHECKSUM, CONFIGURE, GREETING, PRE_VOTE, TICKET, VOTE, WATCH};
use crate::codec::v3;
use crate::message::{
    AcceptorGreeting, AcceptorMessage, AppendResponse, ChecksumResponse, ConfigureResponse, PreVoteResponse,
    TicketResponse, VoteResponse, WatchResponse,
};

pub(in crate::codec) fn put_acceptor(
    message: &AcceptorMessage,
    out: &mut BytesMut,
) -> Result<(), CodecError> {
    match message {
        AcceptorMessage::Greeting(greeting) => {
            out.put_u8(GREETING);
            out.put_u64(greeting.node_id.0);
            out.put_slice(&greeting.replica.0);
            put_digest(greeting.birth, out);
            out.put_u64(greeting.term.0);
            out.put_u64(greeting.configuration_term.0);
            encode_configuration(&greeting.configuration, out)?;
        }
        AcceptorMessage::PreVote(response) => put_pre_vote_response(response, out)?,
        AcceptorMessage::Vote(response) => {
            v3::put_vote_response_head(response, out);
            out.put_u64(response.commit_lsn.0);
            out.put_u64(response.timeline_start_lsn.0);
            put_heard(response.heard, out);
            out.put_u8(response.lost.into());
            put_history(&response.history, out);
            put_switches(&response.tli_switches, out);
            out.put_u64(response.configuration_term.0);
            encode_configuration(&response.configuration, out)?;
        }
        AcceptorMessage::Append(response) => {
            v3::put_append_response(response, out);
            out.put_u64(response.oldest_lsn.0);
        }
        AcceptorMessage::Checksum(response) => put_checksum_response(response, out),
        AcceptorMessage::Configure(response) => {
            out.put_u8(CONFIGURE);
            out.put_u64(response.term.0);
            out.put_u32(response.generation.0);
        }
        AcceptorMessage::Ticket(response) => {
            out.put_u8(TICKET);
            out.put_u64(response.term.0);
            out.put_u64(response.number);
        }
        AcceptorMessage::Watch(response) => put_watch_response(response, out)?,
    }

    Ok(())
}

pub(in crate::codec) fn get_acceptor(reader: &mut MessageReader) -> Result<AcceptorMessage, CodecError> {
    Ok(match reader.u8()? {
        GREETING => AcceptorMessage::Greeting(AcceptorGreeting {
            node_id: NodeId(reader.u64()?),
            replica: ReplicaId(reader.array()?),
            birth: get_digest("birth present", reader)?,
            term: Term(reader.u64()?),
            configuration_term: Term(reader.u64()?),
            configuration: get_configuration(reader)?,
        }),
        PRE_VOTE => AcceptorMessage::PreVote(get_pre_vote_response(reader)?),
        VOTE => {
            let head = v3::get_vote_response_head(reader)?;
            AcceptorMessage::Vote(VoteResponse {
                commit_lsn: Lsn(reader.u64()?),
                timeline_start_lsn: Lsn(reader.u64()?),
                heard: get_heard(reader)?,
                lost: get_lost(reader)?,
                history: get_history(reader)?,
                tli_switches: get_switches(reader)?,
                configuration_term: Term(reader.u64()?),
                configuration: get_configuration(reader)?,
                ..head
            })
        }
        APPEND => {
            let response = v3::get_append_response(reader)?;
            AcceptorMessage::Append(AppendResponse { oldest_lsn: Lsn(reader.u64()?), ..response })
        }
        CHECKSUM => AcceptorMessage::Checksum(get_checksum_response(reader)?),
        CONFIGURE => AcceptorMessage::Configure(ConfigureResponse {
            term: Term(reader.u64()?),
            generation: Generation(reader.u32()?),
        }),
        TICKET => {
            AcceptorMessage::Ticket(TicketResponse { term: Term(reader.u64()?), number: reader.u64()? })
        }
        WATCH => AcceptorMessage::Watch(get_watch_response(reader)?),
        tag => return Err(CodecError::UnknownTag { tag, version: VERSION }),
    })
}

fn put_pre_vote_response(response: &PreVoteResponse, out: &mut BytesMut) -> Result<(), CodecError> {
    out.put_u8(PRE_VOTE);
    out.put_u32(response.generation.0);
    out.put_u64(response.term.0);
    out.put_u64(response.flush_lsn.0);
    out.put_u64(response.commit_lsn.0);
    out.put_u64(response.start_lsn.0);
    put_heard(response.heard, out);
    out.put_u8(response.lost.into());
    put_history(&response.history, out);
    put_switches(&response.tli_switches, out);
    out.put_u64(response.configuration_term.0);
    encode_configuration(&response.configuration, out)
}

fn get_pre_vote_response(reader: &mut MessageReader) -> Result<PreVoteResponse, CodecError> {
    Ok(PreVoteResponse {
        generation: Generation(reader.u32()?),
        term: Term(reader.u64()?),
        flush_lsn: Lsn(reader.u64()?),
        commit_lsn: Lsn(reader.u64()?),
        start_lsn: Lsn(reader.u64()?),
        heard: get_heard(reader)?,
        lost: get_lost(reader)?,
        history: get_history(reader)?,
        tli_switches: get_switches(reader)?,
        configuration_term: Term(reader.u64()?),
        configuration: get_configuration(reader)?,
    })
}

fn put_checksum_response(response: &ChecksumResponse, out: &mut BytesMut) {
    out.put_u8(CHECKSUM);
    out.put_u64(response.from.0);
    out.put_u64(response.to.0);
    out.put_u8(response.crc32c.is_some().into());
    out.put_u32(response.crc32c.unwrap_or(0));
}

fn get_checksum_response(reader: &mut MessageReader) -> Result<ChecksumResponse, CodecError> {
    let (from, to) = (Lsn(reader.u64()?), Lsn(reader.u64()?));
    let present = flag("checksum present", reader.u8()?.into())?;
    let crc32c = reader.u32()?;
    Ok(ChecksumResponse { from, to, crc32c: present.then_some(crc32c) })
}

fn put_watch_response(response: &WatchResponse, out: &mut BytesMut) -> Result<(), CodecError> {
    out.put_u8(WATCH);
    out.put_u64(response.copy.node.0);
    out.put_slice(&response.copy.replica.0);
    out.put_u64(response.term.0);
    out.put_u64(response.flush_lsn.0);
    out.put_u64(response.commit_lsn.0);
    out.put_u64(response.oldest_lsn.0);
    put_heard(response.heard, out);
    out.put_u8(response.lost.into());
    out.put_u64(response.configuration_term.0);
    encode_configuration(&response.configuration, out)
}

fn get_watch_response(reader: &mut MessageReader) -> Result<WatchResponse, CodecError> {
    Ok(WatchResponse {
        copy: CopyId { node: NodeId(reader.u64()?), replica: ReplicaId(reader.array()?) },
        term: Term(reader.u64()?),
        flush_lsn: Lsn(reader.u64()?),
        commit_lsn: Lsn(reader.u64()?),
        oldest_lsn: Lsn(reader.u64()?),
        heard: get_heard(reader)?,
        lost: get_lost(reader)?,
        configuration_term: Term(reader.u64()?),
        configuration: get_configuration(reader)?,
    })
}
