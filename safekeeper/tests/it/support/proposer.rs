//! [`Proposer`]: a scripted proposer on one connection.

use bytes::{Bytes, BytesMut};
use consensus::{
    AcceptorMessage, AppendRequest, AppendResponse, Configuration, ProposerElected, ProposerGreeting,
    ProposerMessage, ProtocolVersion, TermHistory, TermStart, TliSwitch, VoteRequest, VoteResponse, codec,
};
use postgres_backend::client::{ClientCopyBoth, ClientCopyMessage, ClientError};
use pq_proto::ErrorResponse;
use wal_types::{Generation, Lsn, NodeId, ProposerId, ReplicaId, TenantTimelineId, Term, Tli};

use super::{Address, MESSAGE_BYTES_MAX, NODE, PG_VERSION, SEGMENT_BYTES, START, SYSTEM, within};

/// A scripted proposer on one connection.
pub(crate) struct Proposer {
    pub(crate) copy: ClientCopyBoth,
    pub(crate) version: ProtocolVersion,
    id: TenantTimelineId,
    pub(crate) proposer_id: ProposerId,
    /// The copy that greeted.
    pub(crate) replica: ReplicaId,
}

impl Proposer {
    /// Connects and sends nothing.
    pub(crate) async fn connect(at: Address, id: TenantTimelineId, version: ProtocolVersion) -> Self {
        let name = codec::version_name(version);
        let command = format!("START_WAL_PUSH (proto_version '{name}', allow_timeline_creation 'false')");
        let copy = within("the beginning of a push", at.connect(id).await.copy_both(&command)).await.unwrap();
        Self { copy, version, id, proposer_id: ProposerId([7; 16]), replica: ReplicaId::default() }
    }

    /// Connects and exchanges greetings.
    pub(crate) async fn greeted(at: Address, id: TenantTimelineId, version: ProtocolVersion) -> Self {
        let mut proposer = Self::connect(at, id, version).await;
        proposer.send(&proposer.greeting()).await;
        let AcceptorMessage::Greeting(greeting) = proposer.receive().await else { panic!("no greeting") };
        assert_eq!(greeting.node_id, NodeId(NODE));
        proposer.replica = greeting.replica;
        proposer
    }

    /// Connects and wins the last term of `history`, on a log that ends where that term starts.
    pub(crate) async fn elected(
        at: Address,
        id: TenantTimelineId,
        version: ProtocolVersion,
        history: &[(u64, Lsn)],
    ) -> Self {
        let mut proposer = Self::greeted(at, id, version).await;
        let (term, start) = *history.last().unwrap();
        let vote = proposer.vote(term).await;
        assert!(vote.vote_given, "{vote:?}");
        proposer.send_elected(start, history, &[]).await;
        proposer
    }

    pub(crate) fn greeting(&self) -> ProposerMessage {
        ProposerMessage::Greeting(ProposerGreeting {
            version: self.version,
            id: self.id,
            pg_version: PG_VERSION,
            system_id: SYSTEM,
            segment_bytes: SEGMENT_BYTES,
            tli: Tli::FIRST,
            proposer_id: self.proposer_id,
            configuration: Configuration::default(),
        })
    }

    pub(crate) async fn vote(&mut self, term: u64) -> VoteResponse {
        self.send_vote(term).await;
        match self.receive().await {
            AcceptorMessage::Vote(vote) => vote,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn send_vote(&mut self, term: u64) {
        let (term, proposer_id) = (Term(term), self.proposer_id);
        self.send(&ProposerMessage::Vote(VoteRequest {
            generation: Generation(0),
            term,
            proposer_id,
            replica: self.replica,
        }))
        .await;
    }

    pub(crate) async fn send_elected(&mut self, at: Lsn, history: &[(u64, Lsn)], switches: &[TliSwitch]) {
        let tli_at = |lsn: Lsn| {
            switches.iter().rev().find(|switch| switch.at <= lsn).map_or(Tli::FIRST, |switch| switch.tli)
        };
        let entries =
            history.iter().map(|&(term, start)| TermStart { term: Term(term), start, tli: tli_at(start) });
        self.send(&ProposerMessage::Elected(ProposerElected {
            generation: Generation(0),
            term: Term(history.last().unwrap().0),
            start_streaming_at: at,
            history: TermHistory::new(entries.collect()).unwrap(),
            timeline_start_lsn: START,
            tli_switches: switches.to_vec(),
            configuration: Configuration::default(),
            replica: self.replica,
            rebase: None,
        }))
        .await;
    }

    pub(crate) fn append(&self, term: u64, begin: Lsn, wal: &[u8], commit: Lsn) -> ProposerMessage {
        ProposerMessage::Append(AppendRequest {
            generation: Generation(0),
            term: Term(term),
            epoch_start_lsn: START,
            begin_lsn: begin,
            commit_lsn: commit,
            truncate_lsn: START,
            proposer_id: self.proposer_id,
            wal: Bytes::copy_from_slice(wal),
        })
    }

    /// Sends `wal` in pieces that end at any byte, and waits until all of it is acknowledged.
    pub(crate) async fn push(&mut self, term: u64, begin: Lsn, wal: &[u8], commit: Lsn) -> AppendResponse {
        let mut at = begin;
        for piece in wal.chunks(20_011) {
            self.send(&self.append(term, at, piece, commit)).await;
            at = at.advance(piece.len() as u64);
        }
        if wal.is_empty() {
            self.send(&self.append(term, at, &[], commit)).await;
        }
        self.acknowledged(at).await
    }

    /// Waits for the first response with this flush position.
    pub(crate) async fn acknowledged(&mut self, flush: Lsn) -> AppendResponse {
        loop {
            let response = self.append_response().await;
            if response.flush_lsn >= flush {
                assert_eq!(response.flush_lsn, flush);
                return response;
            }
        }
    }

    pub(crate) async fn append_response(&mut self) -> AppendResponse {
        match self.receive().await {
            AcceptorMessage::Append(response) => response,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn send(&mut self, message: &ProposerMessage) {
        let mut payload = BytesMut::new();
        codec::encode_proposer(self.version, message, &mut payload).unwrap();
        within("room for a message", self.copy.writer.send(&payload)).await.unwrap();
    }

    pub(crate) async fn receive(&mut self) -> AcceptorMessage {
        match within("a reply", self.copy.reader.next(MESSAGE_BYTES_MAX)).await {
            Ok(ClientCopyMessage::Data(payload)) => codec::decode_acceptor(self.version, payload).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    /// Waits for the closing message of the server.
    pub(crate) async fn refusal(&mut self) -> ErrorResponse {
        loop {
            match within("a refusal", self.copy.reader.next(MESSAGE_BYTES_MAX)).await {
                Ok(ClientCopyMessage::Data(_)) => {}
                Err(ClientError::Server(response)) => return response,
                other => panic!("{other:?}"),
            }
        }
    }
}
