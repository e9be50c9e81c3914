//! Version 2 of the public protocol: little-endian structs, as a C compiler lays them out.
//!
//! The tag is 8 bytes wide, of which only the lowest counts. Lengths in bytes.
//!
//! ```text
//! proposer
//!   g  tag u64, protocol version u32 (= 2), pg_version u32, proposer id 16, system id u64,
//!      timeline id 16, tenant id 16 (in this order), tli u32, segment bytes u32                   80
//!   v  tag u64, term u64, proposer id 16                                                          32
//!   e  tag u64, term u64, start streaming at u64, n u32, n * {term u64, start u64},
//!      timeline start u64                                                                 36 + 16 n
//!   a  tag u64, term u64, epoch start u64, begin u64, end u64, commit u64, truncate u64,
//!      proposer id 16, WAL                                                                72 + wal
//! acceptor
//!   g  tag u64, term u64, node id u64                                                             24
//!   v  tag u64, term u64, vote given u64, flush u64, truncate u64, n u32,
//!      n * {term u64, start u64}, timeline start u64                                      52 + 16 n
//!   a  tag u64, term u64, flush u64, commit u64, standbys {timestamp i64, xmin u64,
//!      catalog xmin u64}, optionally the page server's feedback (big-endian)                      56
//! ```
//!
//! No generation (zero is meant), no configuration, and the PostgreSQL timeline of all WAL is 1.

use bytes::{BufMut, BytesMut};
use wal_types::{
    Generation, Lsn, NodeId, ProposerId, ReplicaId, SystemId, TenantId, TenantTimelineId, Term, TimelineId,
    Tli,
};

use super::error::CodecError;
use super::feedback::{encode_feedback, get_feedback};
use super::fields::{append_wal, history_of};
use super::reader::{MessageReader, flag};
use super::tag::{APPEND, ELECTED, GREETING, VOTE, acceptor_kind, proposer_kind};
use crate::configuration::Configuration;
use crate::lineage::ProtocolVersion;
use crate::message::{
    AcceptorGreeting, AcceptorMessage, AppendRequest, AppendResponse, HotStandbyFeedback, LeaderHeard,
    ProposerElected, ProposerGreeting, ProposerMessage, VoteRequest, VoteResponse,
};
use crate::term_history::{NEON_HISTORY_ENTRIES_MAX, TermHistory, TermStart};

const VERSION: ProtocolVersion = ProtocolVersion::V2;

/// Value of the greeting's version field.
const VERSION_NUMBER: u32 = 2;

const HISTORY_ENTRY_BYTES: usize = 16;

pub(super) fn put_proposer(message: &ProposerMessage, out: &mut BytesMut) -> Result<(), CodecError> {
    match message {
        ProposerMessage::Greeting(greeting) => put_greeting(greeting, out),
        ProposerMessage::Vote(request) => put_vote(request, out),
        ProposerMessage::Elected(elected) => put_elected(elected, out),
        ProposerMessage::Append(request) => put_append(request, out),
        own => return Err(CodecError::NotInVersion { kind: proposer_kind(own), version: VERSION }),
    }
    Ok(())
}

pub(super) fn get_proposer(reader: &mut MessageReader) -> Result<ProposerMessage, CodecError> {
    match get_tag(reader)? {
        GREETING => get_greeting(reader).map(ProposerMessage::Greeting),
        VOTE => get_vote(reader).map(ProposerMessage::Vote),
        ELECTED => get_elected(reader).map(ProposerMessage::Elected),
        APPEND => get_append(reader).map(ProposerMessage::Append),
        tag => Err(CodecError::UnknownTag { tag, version: VERSION }),
    }
}

pub(super) fn put_acceptor(message: &AcceptorMessage, out: &mut BytesMut) -> Result<(), CodecError> {
    match message {
        AcceptorMessage::Greeting(greeting) => {
            put_tag(GREETING, out);
            out.put_u64_le(greeting.term.0);
            out.put_u64_le(greeting.node_id.0);
        }
        AcceptorMessage::Vote(response) => put_vote_response(response, out),
        AcceptorMessage::Append(response) => put_append_response(response, out),
        own => return Err(CodecError::NotInVersion { kind: acceptor_kind(own), version: VERSION }),
    }
    Ok(())
}

pub(super) fn get_acceptor(reader: &mut MessageReader) -> Result<AcceptorMessage, CodecError> {
    match get_tag(reader)? {
        GREETING => {
            let term = Term(reader.u64_le()?);
            let node_id = NodeId(reader.u64_le()?);
            let configuration = Configuration::default();
            let configuration_term = Term::ZERO;
            Ok(AcceptorMessage::Greeting(AcceptorGreeting {
                node_id,
                replica: ReplicaId::default(),
                birth: None,
                term,
                configuration,
                configuration_term,
            }))
        }
        VOTE => get_vote_response(reader).map(AcceptorMessage::Vote),
        APPEND => get_append_response(reader).map(AcceptorMessage::Append),
        tag => Err(CodecError::UnknownTag { tag, version: VERSION }),
    }
}

fn put_greeting(greeting: &ProposerGreeting, out: &mut BytesMut) {
    put_tag(GREETING, out);
    out.put_u32_le(VERSION_NUMBER);
    out.put_u32_le(greeting.pg_version);
    out.put_slice(&greeting.proposer_id.0);
    out.put_u64_le(greeting.system_id.0);
    out.put_slice(&greeting.id.timeline.0);
    out.put_slice(&greeting.id.tenant.0);
    out.put_u32_le(greeting.tli.0);
    out.put_u32_le(greeting.segment_bytes);
}

fn get_greeting(reader: &mut MessageReader) -> Result<ProposerGreeting, CodecError> {
    let number = reader.u32_le()?;
    if number != VERSION_NUMBER {
        return Err(CodecError::GreetingVersion(number));
    }

    let pg_version = reader.u32_le()?;
    let proposer_id = ProposerId(reader.array()?);
    let system_id = SystemId(reader.u64_le()?);
    let timeline = TimelineId(reader.array()?);
    let tenant = TenantId(reader.array()?);
    Ok(ProposerGreeting {
        version: VERSION,
        id: TenantTimelineId { tenant, timeline },
        pg_version,
        system_id,
        tli: Tli(reader.u32_le()?),
        segment_bytes: reader.u32_le()?,
        proposer_id,
        configuration: Configuration::default(),
    })
}

fn put_vote(request: &VoteRequest, out: &mut BytesMut) {
    put_tag(VOTE, out);
    out.put_u64_le(request.term.0);
    out.put_slice(&request.proposer_id.0);
}

fn get_vote(reader: &mut MessageReader) -> Result<VoteRequest, CodecError> {
    Ok(VoteRequest {
        generation: Generation(0),
        term: Term(reader.u64_le()?),
        proposer_id: ProposerId(reader.array()?),
        replica: ReplicaId::default(),
    })
}

fn put_elected(elected: &ProposerElected, out: &mut BytesMut) {
    put_tag(ELECTED, out);
    out.put_u64_le(elected.term.0);
    out.put_u64_le(elected.start_streaming_at.0);
    put_history(&elected.history, out);
    out.put_u64_le(elected.timeline_start_lsn.0);
}

fn get_elected(reader: &mut MessageReader) -> Result<ProposerElected, CodecError> {
    Ok(ProposerElected {
        generation: Generation(0),
        term: Term(reader.u64_le()?),
        start_streaming_at: Lsn(reader.u64_le()?),
        history: get_history(reader)?,
        timeline_start_lsn: Lsn(reader.u64_le()?),
        tli_switches: Vec::new(),
        configuration: Configuration::default(),
        replica: ReplicaId::default(),
        rebase: None,
    })
}

fn put_append(request: &AppendRequest, out: &mut BytesMut) {
    put_tag(APPEND, out);
    let positions = [
        request.epoch_start_lsn,
        request.begin_lsn,
        request.end_lsn(),
        request.commit_lsn,
        request.truncate_lsn,
    ];
    out.put_u64_le(request.term.0);
    positions.iter().for_each(|lsn| out.put_u64_le(lsn.0));
    out.put_slice(&request.proposer_id.0);
    out.put_slice(&request.wal);
}

fn get_append(reader: &mut MessageReader) -> Result<AppendRequest, CodecError> {
    let term = Term(reader.u64_le()?);
    let epoch_start_lsn = Lsn(reader.u64_le()?);
    let begin_lsn = Lsn(reader.u64_le()?);
    let end_lsn = Lsn(reader.u64_le()?);
    Ok(AppendRequest {
        generation: Generation(0),
        term,
        epoch_start_lsn,
        begin_lsn,
        commit_lsn: Lsn(reader.u64_le()?),
        truncate_lsn: Lsn(reader.u64_le()?),
        proposer_id: ProposerId(reader.array()?),
        wal: append_wal(reader, begin_lsn, end_lsn)?,
    })
}

fn put_vote_response(response: &VoteResponse, out: &mut BytesMut) {
    put_tag(VOTE, out);
    out.put_u64_le(response.term.0);
    out.put_u64_le(response.vote_given.into());
    out.put_u64_le(response.flush_lsn.0);
    out.put_u64_le(response.truncate_lsn.0);
    put_history(&response.history, out);
    out.put_u64_le(response.timeline_start_lsn.0);
}

fn get_vote_response(reader: &mut MessageReader) -> Result<VoteResponse, CodecError> {
    Ok(VoteResponse {
        generation: Generation(0),
        term: Term(reader.u64_le()?),
        vote_given: flag("vote given", reader.u64_le()?)?,
        flush_lsn: Lsn(reader.u64_le()?),
        truncate_lsn: Lsn(reader.u64_le()?),
        commit_lsn: Lsn::INVALID,
        history: get_history(reader)?,
        timeline_start_lsn: Lsn(reader.u64_le()?),
        tli_switches: Vec::new(),
        configuration: Configuration::default(),
        configuration_term: Term::ZERO,
        lost: false,
        heard: LeaderHeard::default(),
    })
}

fn put_append_response(response: &AppendResponse, out: &mut BytesMut) {
    put_tag(APPEND, out);
    out.put_u64_le(response.term.0);
    out.put_u64_le(response.flush_lsn.0);
    out.put_u64_le(response.commit_lsn.0);
    out.put_i64_le(response.hot_standby.timestamp);
    out.put_u64_le(response.hot_standby.xmin);
    out.put_u64_le(response.hot_standby.catalog_xmin);
    if let Some(feedback) = &response.pageserver {
        encode_feedback(feedback, out);
    }
}

fn get_append_response(reader: &mut MessageReader) -> Result<AppendResponse, CodecError> {
    Ok(AppendResponse {
        generation: Generation(0),
        term: Term(reader.u64_le()?),
        flush_lsn: Lsn(reader.u64_le()?),
        commit_lsn: Lsn(reader.u64_le()?),
        oldest_lsn: Lsn::INVALID,
        hot_standby: HotStandbyFeedback {
            timestamp: i64::from_le_bytes(reader.array()?),
            xmin: reader.u64_le()?,
            catalog_xmin: reader.u64_le()?,
        },
        pageserver: if reader.bytes_left() > 0 { Some(get_feedback(reader)?) } else { None },
    })
}

fn put_tag(tag: u8, out: &mut BytesMut) {
    out.put_u64_le(tag.into());
}

fn get_tag(reader: &mut MessageReader) -> Result<u8, CodecError> {
    reader.array::<8>().map(|tag| tag[0])
}

fn put_history(history: &TermHistory, out: &mut BytesMut) {
    out.put_u32_le(history.entries().len() as u32);
    for entry in history.entries() {
        out.put_u64_le(entry.term.0);
        out.put_u64_le(entry.start.0);
    }
}

fn get_history(reader: &mut MessageReader) -> Result<TermHistory, CodecError> {
    let count = reader.u32_le()?;
    let count =
        reader.checked_count("history entries", count, NEON_HISTORY_ENTRIES_MAX, HISTORY_ENTRY_BYTES)?;
    history_of(count, || {
        Ok(TermStart { term: Term(reader.u64_le()?), start: Lsn(reader.u64_le()?), tli: Tli::FIRST })
    })
}
