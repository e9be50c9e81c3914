//! [`Link`]: one connection of a proposer to one safekeeper, from the greeting to the appends.
//!
//! It speaks `holdfast-2` with the product's codec and decides nothing: the benchmarks elect it on new timelines, where
//! nothing can refuse it.

use anyhow::{Result, bail};
use bytes::{Bytes, BytesMut};
use consensus::{
    AcceptorMessage, AppendRequest, Configuration, ProposerElected, ProposerGreeting, ProposerMessage,
    ProtocolVersion, TermHistory, TermStart, VoteRequest, codec,
};
use pq_proto::wire::write_frame;
use wal_types::{Generation, Lsn, ProposerId, ReplicaId, SegmentSize, TenantTimelineId, Term, Tli};

use super::socket::Socket;
use super::source::{SYSTEM_ID, WalPiece};

/// `PG_VERSION_NUM` of the timelines of the benchmarks.
pub(crate) const PG_VERSION: u32 = 150_018;

const VERSION: ProtocolVersion = ProtocolVersion::Holdfast2;
const PROPOSER: ProposerId = ProposerId([7; 16]);
/// The only term of a timeline of the benchmarks.
const TERM: Term = Term(1);

/// A timeline of the benchmarks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BenchTimeline {
    pub(crate) id: TenantTimelineId,
    pub(crate) segment_size: SegmentSize,
    /// First byte of its WAL.
    pub(crate) start: Lsn,
}

/// A connection whose proposer leads the timeline.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) socket: Socket,
    /// Highest position that the safekeeper has acknowledged.
    pub(crate) flushed: Lsn,
}

impl Link {
    /// Connects to the PostgreSQL port of a safekeeper and wins the first term of an empty timeline.
    pub(crate) fn elect(pg_port: u16, timeline: &BenchTimeline) -> Result<Self> {
        let options = format!("-c tenant_id={} -c timeline_id={}", timeline.id.tenant, timeline.id.timeline);
        let parameters = [("user", "bench"), ("replication", "true"), ("options", options.as_str())];
        let mut socket = Socket::open(pg_port, &parameters, "")?;
        let name = codec::version_name(VERSION);
        socket.copy_both(&format!(
            "START_WAL_PUSH (proto_version '{name}', allow_timeline_creation 'false')"
        ))?;
        let mut link = Self { socket, flushed: Lsn::INVALID };

        link.send(&greeting(timeline))?;
        let AcceptorMessage::Greeting(greeted) = link.receive()? else { bail!("no greeting came") };
        let vote = VoteRequest {
            generation: Generation(0),
            term: TERM,
            proposer_id: PROPOSER,
            replica: greeted.replica,
        };
        link.send(&ProposerMessage::Vote(vote))?;
        match link.receive()? {
            AcceptorMessage::Vote(vote) if vote.is_granted() => {}
            other => bail!("the safekeeper did not grant the term: {other:?}"),
        }
        link.send(&elected(timeline, greeted.replica)?)?;
        Ok(link)
    }

    /// Handles all answers that were received whole.
    pub(crate) fn take_answers(&mut self) -> Result<()> {
        while let Some(frame) = self.socket.frame() {
            let payload = Bytes::copy_from_slice(frame.copy_data()?);
            match codec::decode_acceptor(VERSION, payload)? {
                AcceptorMessage::Append(response) if response.term == TERM => {
                    self.flushed = self.flushed.max(response.flush_lsn);
                }
                other => bail!("the safekeeper answered an append with {other:?}"),
            }
        }
        Ok(())
    }

    fn send(&mut self, message: &ProposerMessage) -> Result<()> {
        let mut bytes = BytesMut::new();
        put_message(message, &mut bytes)?;
        Ok(self.socket.send(&bytes)?)
    }

    fn receive(&mut self) -> Result<AcceptorMessage> {
        loop {
            if let Some(frame) = self.socket.frame() {
                let payload = Bytes::copy_from_slice(frame.copy_data()?);
                return Ok(codec::decode_acceptor(VERSION, payload)?);
            }
            self.socket.receive()?;
        }
    }
}

/// Appends the frame of an append to `out`.
pub(crate) fn put_append(piece: &WalPiece, commit: Lsn, out: &mut BytesMut) -> Result<()> {
    let append = AppendRequest {
        generation: Generation(0),
        term: TERM,
        epoch_start_lsn: Lsn::INVALID,
        begin_lsn: piece.begin,
        commit_lsn: commit,
        truncate_lsn: commit,
        proposer_id: PROPOSER,
        wal: piece.bytes.clone(),
    };
    put_message(&ProposerMessage::Append(append), out)
}

fn put_message(message: &ProposerMessage, out: &mut BytesMut) -> Result<()> {
    let mut encoded = Ok(());
    write_frame(out, b'd', |out| {
        encoded = codec::encode_proposer(VERSION, message, out);
        Ok(())
    })?;
    Ok(encoded?)
}

fn greeting(timeline: &BenchTimeline) -> ProposerMessage {
    ProposerMessage::Greeting(ProposerGreeting {
        version: VERSION,
        id: timeline.id,
        pg_version: PG_VERSION,
        system_id: SYSTEM_ID,
        segment_bytes: timeline.segment_size.bytes(),
        tli: Tli::FIRST,
        proposer_id: PROPOSER,
        configuration: Configuration::default(),
    })
}

fn elected(timeline: &BenchTimeline, replica: ReplicaId) -> Result<ProposerMessage> {
    let start = timeline.start;
    let history = TermHistory::new(vec![TermStart { term: TERM, start, tli: Tli::FIRST }]);
    Ok(ProposerMessage::Elected(ProposerElected {
        generation: Generation(0),
        term: TERM,
        start_streaming_at: start,
        history: history.map_err(|error| anyhow::anyhow!("{error:?}"))?,
        timeline_start_lsn: start,
        tli_switches: Vec::new(),
        configuration: Configuration::default(),
        replica,
        rebase: None,
    }))
}
