//! Version 3 of the public protocol: packed, big-endian, 1-byte tag.
//!
//! ```text
//! proposer
//!   g  tag u8, tenant id and timeline id (each 32 hexadecimal digits and a zero byte), configuration,
//!      pg_version u32, system id u64, segment bytes u32                            83 + configuration
//!   v  tag u8, generation u32, term u64                                                            13
//!   e  tag u8, generation u32, term u64, start streaming at u64, n u32, n * {term u64, start u64}
//!                                                                                         25 + 16 n
//!   a  tag u8, generation u32, term u64, begin u64, end u64, commit u64, truncate u64, WAL   45 + wal
//! acceptor
//!   g  tag u8, node id u64, configuration, term u64                                17 + configuration
//!   v  tag u8, generation u32, term u64, vote given u8, flush u64, truncate u64, n u32,
//!      n * {term u64, start u64}                                                          34 + 16 n
//!   a  tag u8, generation u32, term u64, flush u64, commit u64, standbys {timestamp i64, xmin u64,
//!      catalog xmin u64}, optionally the page server's feedback                                    53
//!
//! configuration  generation u32, members, new members
//! members        n u32, n * {node id u64, host zero-terminated, port u16}
//! ```
//!
//! No proposer id, no start of the timeline, and the PostgreSQL timeline of all WAL is 1. Version `holdfast-2` uses the
//! functions of this file for the layouts that are equal.

use bytes::{BufMut, BytesMut};
use wal_types::{Generation, Lsn, NodeId, ProposerId, ReplicaId, SystemId, TenantTimelineId, Term, Tli};

use super::error::CodecError;
use super::feedback::{encode_feedback, get_feedback};
use super::fields::{append_wal, get_configuration, history_of, put_configuration};
use super::reader::{MessageReader, flag};
use super::tag::{APPEND, ELECTED, GREETING, VOTE, acceptor_kind, proposer_kind};
use crate::configuration::Configuration;
use crate::lineage::ProtocolVersion;
use crate::message::{
    AcceptorGreeting, AcceptorMessage, AppendRequest, AppendResponse, HotStandbyFeedback, LeaderHeard,
    ProposerElected, ProposerGreeting, ProposerMessage, VoteRequest, VoteResponse,
};
use crate::term_history::{NEON_HISTORY_ENTRIES_MAX, TermHistory, TermStart};

const VERSION: ProtocolVersion = ProtocolVersion::V3;

const ID_TEXT_BYTES: usize = 32;
const HISTORY_ENTRY_BYTES: usize = 16;

pub(super) fn put_proposer(message: &ProposerMessage, out: &mut BytesMut) -> Result<(), CodecError> {
    match message {
        ProposerMessage::Greeting(greeting) => put_greeting(greeting, out)?,
        ProposerMessage::Vote(request) => put_vote(request, out),
        ProposerMessage::Elected(elected) => {
            put_elected_head(elected, out);
            put_history(&elected.history, out);
        }
        ProposerMessage::Append(request) => put_append(request, out),
        own => return Err(CodecError::NotInVersion { kind: proposer_kind(own), version: VERSION }),
    }
    Ok(())
}

pub(super) fn get_proposer(reader: &mut MessageReader) -> Result<ProposerMessage, CodecError> {
    match reader.u8()? {
        GREETING => get_greeting(reader).map(ProposerMessage::Greeting),
        VOTE => get_vote(reader).map(ProposerMessage::Vote),
        ELECTED => {
            let head = get_elected_head(reader)?;
            Ok(ProposerMessage::Elected(ProposerElected { history: get_history(reader)?, ..head }))
        }
        APPEND => get_append(reader).map(ProposerMessage::Append),
        tag => Err(CodecError::UnknownTag { tag, version: VERSION }),
    }
}

pub(super) fn put_acceptor(message: &AcceptorMessage, out: &mut BytesMut) -> Result<(), CodecError> {
    match message {
        AcceptorMessage::Greeting(greeting) => put_acceptor_greeting(greeting, out)?,
        AcceptorMessage::Vote(response) => {
            put_vote_response_head(response, out);
            put_history(&response.history, out);
        }
        AcceptorMessage::Append(response) => {
            put_append_response(response, out);
            if let Some(feedback) = &response.pageserver {
                encode_feedback(feedback, out);
            }
        }
        own => return Err(CodecError::NotInVersion { kind: acceptor_kind(own), version: VERSION }),
    }

    Ok(())
}

pub(super) fn get_acceptor(reader: &mut MessageReader) -> Result<AcceptorMessage, CodecError> {
    match reader.u8()? {
        GREETING => get_acceptor_greeting(reader).map(AcceptorMessage::Greeting),
        VOTE => {
            let head = get_vote_response_head(reader)?;
            Ok(AcceptorMessage::Vote(VoteResponse { history: get_history(reader)?, ..head }))
        }
        APPEND => {
            let response = get_append_response(reader)?;
            let pageserver = if reader.bytes_left() > 0 { Some(get_feedback(reader)?) } else { None };
            Ok(AcceptorMessage::Append(AppendResponse { pageserver, ..response }))
        }
        tag => Err(CodecError::UnknownTag { tag, version: VERSION }),
    }
}

fn put_greeting(greeting: &ProposerGreeting, out: &mut BytesMut) -> Result<(), CodecError> {
    out.put_u8(GREETING);
    for id in [greeting.id.tenant.to_string(), greeting.id.timeline.to_string()] {
        out.put_slice(id.as_bytes());
        out.put_u8(0);
    }
    put_configuration(&greeting.configuration, out)?;
    out.put_u32(greeting.pg_version);
    out.put_u64(greeting.system_id.0);
    out.put_u32(greeting.segment_bytes);
    Ok(())
}

fn get_greeting(reader: &mut MessageReader) -> Result<ProposerGreeting, CodecError> {
    let tenant = reader.text("tenant id", ID_TEXT_BYTES)?;
    let timeline = reader.text("timeline id", ID_TEXT_BYTES)?;
    let id = TenantTimelineId {
        tenant: tenant.parse().map_err(|_| CodecError::Text("tenant id"))?,
        timeline: timeline.parse().map_err(|_| CodecError::Text("timeline id"))?,
    };

    Ok(ProposerGreeting {
        version: VERSION,
        id,
        configuration: get_configuration(reader)?,
        pg_version: reader.u32()?,
        system_id: SystemId(reader.u64()?),
        segment_bytes: reader.u32()?,
        tli: Tli::FIRST,
        proposer_id: ProposerId::default(),
    })
}

pub(super) fn put_vote(request: &VoteRequest, out: &mut BytesMut) {
    out.put_u8(VOTE);
    out.put_u32(request.generation.0);
    out.put_u64(request.term.0);
}

pub(super) fn get_vote(reader: &mut MessageReader) -> Result<VoteRequest, CodecError> {
    Ok(VoteRequest {
        generation: Generation(reader.u32()?),
        term: Term(reader.u64()?),
        proposer_id: ProposerId::default(),
        replica: ReplicaId::default(),
    })
}

pub(super) fn put_elected_head(elected: &ProposerElected, out: &mut BytesMut) {
    out.put_u8(ELECTED);
    out.put_u32(elected.generation.0);
    out.put_u64(elected.term.0);
    out.put_u64(elected.start_streaming_at.0);
}

/// All fields but the history and what follows it.
pub(super) fn get_elected_head(reader: &mut MessageReader) -> Result<ProposerElected, CodecError> {
    Ok(ProposerElected {
        generation: Generation(reader.u32()?),
        term: Term(reader.u64()?),
        start_streaming_at: Lsn(reader.u64()?),
        history: TermHistory::default(),
        timeline_start_lsn: Lsn::INVALID,
        tli_switches: Vec::new(),
        configuration: Configuration::default(),
        replica: ReplicaId::default(),
        rebase: None,
    })
}

pub(super) fn put_append(request: &AppendRequest, out: &mut BytesMut) {
    out.put_u8(APPEND);
    out.put_u32(request.generation.0);
    out.put_u64(request.term.0);
    let positions = [request.begin_lsn, request.end_lsn(), request.commit_lsn, request.truncate_lsn];
    positions.iter().for_each(|lsn| out.put_u64(lsn.0));
    out.put_slice(&request.wal);
}

pub(super) fn get_append(reader: &mut MessageReader) -> Result<AppendRequest, CodecError> {
    let generation = Generation(reader.u32()?);
    let term = Term(reader.u64()?);
    let begin_lsn = Lsn(reader.u64()?);
    let end_lsn = Lsn(reader.u64()?);
    Ok(AppendRequest {
        generation,
        term,
        epoch_start_lsn: Lsn::INVALID,
        begin_lsn,
        commit_lsn: Lsn(reader.u64()?),
        truncate_lsn: Lsn(reader.u64()?),
        proposer_id: ProposerId::default(),
        wal: append_wal(reader, begin_lsn, end_lsn)?,
    })
}

fn put_acceptor_greeting(greeting: &AcceptorGreeting, out: &mut BytesMut) -> Result<(), CodecError> {
    out.put_u8(GREETING);
    out.put_u64(greeting.node_id.0);
    put_configuration(&greeting.configuration, out)?;
    out.put_u64(greeting.term.0);
    Ok(())
}

fn get_acceptor_greeting(reader: &mut MessageReader) -> Result<AcceptorGreeting, CodecError> {
    Ok(AcceptorGreeting {
        node_id: NodeId(reader.u64()?),
        replica: ReplicaId::default(),
        birth: None,
        configuration: get_configuration(reader)?,
        term: Term(reader.u64()?),
        configuration_term: Term::ZERO,
    })
}

pub(super) fn put_vote_response_head(response: &VoteResponse, out: &mut BytesMut) {
    out.put_u8(VOTE);
    out.put_u32(response.generation.0);
    out.put_u64(response.term.0);
    out.put_u8(response.vote_given.into());
    out.put_u64(response.flush_lsn.0);
    out.put_u64(response.truncate_lsn.0);
}

/// All fields but the history and what follows it.
pub(super) fn get_vote_response_head(reader: &mut MessageReader) -> Result<VoteResponse, CodecError> {
    Ok(VoteResponse {
        generation: Generation(reader.u32()?),
        term: Term(reader.u64()?),
        vote_given: flag("vote given", reader.u8()?.into())?,
        flush_lsn: Lsn(reader.u64()?),
        truncate_lsn: Lsn(reader.u64()?),
        commit_lsn: Lsn::INVALID,
        history: TermHistory::default(),
        timeline_start_lsn: Lsn::INVALID,
        tli_switches: Vec::new(),
        configuration: Configuration::default(),
        configuration_term: Term::ZERO,
        lost: false,
        heard: LeaderHeard::default(),
    })
}

/// All fields but the page server's feedback.
pub(super) fn put_append_response(response: &AppendResponse, out: &mut BytesMut) {
    out.put_u8(APPEND);
    out.put_u32(response.generation.0);
    out.put_u64(response.term.0);
    out.put_u64(response.flush_lsn.0);
    out.put_u64(response.commit_lsn.0);
    out.put_i64(response.hot_standby.timestamp);
    out.put_u64(response.hot_standby.xmin);
    out.put_u64(response.hot_standby.catalog_xmin);
}

/// All fields but the page server's feedback.
pub(super) fn get_append_response(reader: &mut MessageReader) -> Result<AppendResponse, CodecError> {
    Ok(AppendResponse {
        generation: Generation(reader.u32()?),
        term: Term(reader.u64()?),
        flush_lsn: Lsn(reader.u64()?),
        commit_lsn: Lsn(reader.u64()?),
        oldest_lsn: Lsn::INVALID,
        hot_standby: HotStandbyFeedback {
            timestamp: i64::from_be_bytes(reader.array()?),
            xmin: reader.u64()?,
            catalog_xmin: reader.u64()?,
        },
        pageserver: None,
    })
}

fn put_history(history: &TermHistory, out: &mut BytesMut) {
    out.put_u32(history.entries().len() as u32);
    for entry in history.entries() {
        out.put_u64(entry.term.0);
        out.put_u64(entry.start.0);
    }
}

fn get_history(reader: &mut MessageReader) -> Result<TermHistory, CodecError> {
    let count = reader.u32()?;
    let count =
        reader.checked_count("history entries", count, NEON_HISTORY_ENTRIES_MAX, HISTORY_ENTRY_BYTES)?;
    history_of(count, || {
        Ok(TermStart { term: Term(reader.u64()?), start: Lsn(reader.u64()?), tli: Tli::FIRST })
    })
}
