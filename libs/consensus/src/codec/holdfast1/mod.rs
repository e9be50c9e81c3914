//! Version `holdfast-1`: version 3 with the PostgreSQL timelines of the log, the campaign's id, a pre-vote, checksums and
//! configurations.
//!
//! Packed, big-endian, 1-byte tag. "v3" stands for the layout of the same message there.
//!
//! ```text
//! proposer
//!   g  v3, tli u32, proposer id 16, primary                                       120 + configuration
//!   p  tag u8, generation u32                                                                       5
//!   v  v3, proposer id 16                                                                          29
//!   e  tag u8, generation u32, term u64, start streaming at u64, history, switches, configuration, primary
//!   a  v3                                                                                    45 + wal
//!   c  tag u8, generation u32, term u64, from u64, to u64                                          29
//!   m  tag u8, term u64, configuration, primary                                    26 + configuration
//! acceptor
//!   g  v3, primary, configuration term u64                                         42 + configuration
//!   p  tag u8, generation u32, term u64, flush u64, commit u64, start u64, history, switches,
//!      configuration, primary, configuration term u64, lost u8
//!   v  tag u8, generation u32, term u64, vote given u8, flush u64, truncate u64, history,
//!      timeline start u64, switches, configuration, primary, configuration term u64, lost u8
//!   a  v3 without a page server's feedback                                                         53
//!   c  tag u8, from u64, to u64, present u8, crc u32 (zero when not present)                       22
//!   m  tag u8, term u64, generation u32                                                            13
//!
//! history   n u32, n * {term u64, start u64, tli u32}
//! switches  n u32, n * {parent u32, tli u32, at u64}
//! primary   present u8, primary id 16 (zeros when not present)
//! ```

mod fields;

use bytes::{BufMut, BytesMut};
use wal_types::{Generation, Lsn, ProposerId, Term, Tli};

use self::fields::{
    get_configuration, get_history, get_lost, get_primary, get_switches, put_configuration, put_history,
    put_primary, put_switches,
};
use super::error::CodecError;
use super::reader::{MessageReader, flag};
use super::tag::{APPEND, CHECKSUM, CONFIGURE, ELECTED, GREETING, PRE_VOTE, VOTE};
use super::v3;
use crate::lineage::ProtocolVersion;
use crate::message::{
    AcceptorGreeting, AcceptorMessage, ChecksumRequest, ChecksumResponse, ConfigureRequest,
    ConfigureResponse, PreVoteRequest, PreVoteResponse, ProposerElected, ProposerGreeting, ProposerMessage,
    VoteRequest, VoteResponse,
};

const VERSION: ProtocolVersion = ProtocolVersion::Holdfast1;

pub(super) fn put_proposer(message: &ProposerMessage, out: &mut BytesMut) -> Result<(), CodecError> {
    match message {
        ProposerMessage::Greeting(greeting) => {
            v3::put_greeting(greeting, out)?;
            out.put_u32(greeting.tli.0);
            out.put_slice(&greeting.proposer_id.0);
            put_primary(greeting.configuration.primary, out);
        }
        ProposerMessage::PreVote(request) => {
            out.put_u8(PRE_VOTE);
            out.put_u32(request.generation.0);
        }
        ProposerMessage::Vote(request) => {
            v3::put_vote(request, out);
            out.put_slice(&request.proposer_id.0);
        }
        ProposerMessage::Elected(elected) => {
            v3::put_elected_head(elected, out);
            put_history(&elected.history, out);
            put_switches(&elected.tli_switches, out);
            put_configuration(&elected.configuration, out)?;
        }
        ProposerMessage::Append(request) => v3::put_append(request, out),
        ProposerMessage::Checksum(request) => put_checksum(request, out),
        ProposerMessage::Configure(request) => {
            out.put_u8(CONFIGURE);
            out.put_u64(request.term.0);
            put_configuration(&request.configuration, out)?;
        }
    }

    Ok(())
}

pub(super) fn get_proposer(reader: &mut MessageReader) -> Result<ProposerMessage, CodecError> {
    Ok(match reader.u8()? {
        GREETING => {
            let mut greeting = v3::get_greeting(reader)?;
            let tli = Tli(reader.u32()?);
            let proposer_id = ProposerId(reader.array()?);
            greeting.configuration.primary = get_primary(reader)?;
            ProposerMessage::Greeting(ProposerGreeting { version: VERSION, tli, proposer_id, ..greeting })
        }
        PRE_VOTE => ProposerMessage::PreVote(PreVoteRequest { generation: Generation(reader.u32()?) }),
        VOTE => {
            let request = v3::get_vote(reader)?;
            ProposerMessage::Vote(VoteRequest { proposer_id: ProposerId(reader.array()?), ..request })
        }
        ELECTED => {
            let head = v3::get_elected_head(reader)?;
            let history = get_history(reader)?;
            let tli_switches = get_switches(reader)?;
            let configuration = get_configuration(reader)?;
            ProposerMessage::Elected(ProposerElected { history, tli_switches, configuration, ..head })
        }
        APPEND => ProposerMessage::Append(v3::get_append(reader)?),
        CHECKSUM => ProposerMessage::Checksum(get_checksum(reader)?),
        CONFIGURE => ProposerMessage::Configure(ConfigureRequest {
            term: Term(reader.u64()?),
            configuration: get_configuration(reader)?,
        }),
        tag => return Err(CodecError::UnknownTag { tag, version: VERSION }),
    })
}

pub(super) fn put_acceptor(message: &AcceptorMessage, out: &mut BytesMut) -> Result<(), CodecError> {
    match message {
        AcceptorMessage::Greeting(greeting) => {
            v3::put_acceptor_greeting(greeting, out)?;
            put_primary(greeting.configuration.primary, out);
            out.put_u64(greeting.configuration_term.0);
        }
        AcceptorMessage::PreVote(response) => put_pre_vote_response(response, out)?,
        AcceptorMessage::Vote(response) => {
            v3::put_vote_response_head(response, out);
            put_history(&response.history, out);
            out.put_u64(response.timeline_start_lsn.0);
            put_switches(&response.tli_switches, out);
            put_configuration(&response.configuration, out)?;
            out.put_u64(response.configuration_term.0);
            out.put_u8(response.lost.into());
        }
        AcceptorMessage::Append(response) => v3::put_append_response(response, out),
        AcceptorMessage::Checksum(response) => put_checksum_response(response, out),
        AcceptorMessage::Configure(response) => {
            out.put_u8(CONFIGURE);
            out.put_u64(response.term.0);
            out.put_u32(response.generation.0);
        }
    }

    Ok(())
}

pub(super) fn get_acceptor(reader: &mut MessageReader) -> Result<AcceptorMessage, CodecError> {
    Ok(match reader.u8()? {
        GREETING => {
            let mut greeting = v3::get_acceptor_greeting(reader)?;
            greeting.configuration.primary = get_primary(reader)?;
            let configuration_term = Term(reader.u64()?);
            AcceptorMessage::Greeting(AcceptorGreeting { configuration_term, ..greeting })
        }
        PRE_VOTE => AcceptorMessage::PreVote(get_pre_vote_response(reader)?),
        VOTE => {
            let head = v3::get_vote_response_head(reader)?;
            let history = get_history(reader)?;
            let timeline_start_lsn = Lsn(reader.u64()?);
            let tli_switches = get_switches(reader)?;
            AcceptorMessage::Vote(VoteResponse {
                history,
                timeline_start_lsn,
                tli_switches,
                configuration: get_configuration(reader)?,
                configuration_term: Term(reader.u64()?),
                lost: get_lost(reader)?,
                ..head
            })
        }
        APPEND => AcceptorMessage::Append(v3::get_append_response(reader)?),
        CHECKSUM => AcceptorMessage::Checksum(get_checksum_response(reader)?),
        CONFIGURE => AcceptorMessage::Configure(ConfigureResponse {
            term: Term(reader.u64()?),
            generation: Generation(reader.u32()?),
        }),
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
    put_history(&response.history, out);
    put_switches(&response.tli_switches, out);
    put_configuration(&response.configuration, out)?;
    out.put_u64(response.configuration_term.0);
    out.put_u8(response.lost.into());
    Ok(())
}

fn get_pre_vote_response(reader: &mut MessageReader) -> Result<PreVoteResponse, CodecError> {
    Ok(PreVoteResponse {
        generation: Generation(reader.u32()?),
        term: Term(reader.u64()?),
        flush_lsn: Lsn(reader.u64()?),
        commit_lsn: Lsn(reader.u64()?),
        start_lsn: Lsn(reader.u64()?),
        history: get_history(reader)?,
        tli_switches: get_switches(reader)?,
        configuration: get_configuration(reader)?,
        configuration_term: Term(reader.u64()?),
        lost: get_lost(reader)?,
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
