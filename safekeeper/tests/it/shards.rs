//! Connections of proposers on shards: they arrive there whole, and none delays another one.

use std::time::Duration;

use bytes::BytesMut;
use consensus::{AcceptorMessage, Dialect, ProposerMessage, ProtocolVersion, VoteRequest, codec};
use pq_proto::wire::Encode as _;
use pq_proto::{BackendMessage, FramedReader, FrontendMessage, ProtocolVersion as PgVersion, StartupPacket};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, split};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use wal_types::{Generation, ProposerId, ReplicaId, TenantTimelineId, Term};

use crate::support::{PATIENCE, Proposer, START, Server, Wal, eventually, timeline, within};
use crate::tls::server_with_certificate;

const OWN: ProtocolVersion = ProtocolVersion::Holdfast2;
const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// Timelines are dealt to the shards in turn, so this one shares a shard with the first.
const ON_THE_SAME_SHARD: u8 = 5;

fn startup(id: TenantTimelineId) -> BytesMut {
    let options = format!("-c tenant_id={} -c timeline_id={}", id.tenant, id.timeline);
    let params = [("user", "any"), ("options", options.as_str()), ("replication", "true")];
    let packet = StartupPacket::Startup { version: PgVersion::V3_0, params: params.into_iter().collect() };
    let mut out = BytesMut::new();
    packet.encode(&mut out).unwrap();
    out
}

fn copy_data(message: &ProposerMessage) -> FrontendMessage {
    let mut payload = BytesMut::new();
    codec::encode_proposer(OWN, message, &mut payload).unwrap();
    FrontendMessage::CopyData(payload.freeze())
}

/// Sends the command, a greeting and half of a vote request at once, before it has read CopyBothResponse, then the rest.
/// Returns the term of the granted vote.
async fn push_without_waiting<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    id: TenantTimelineId,
    greeting: &ProposerMessage,
    (term, replica): (u64, ReplicaId),
) -> Term {
    let (reader, mut writer) = split(stream);
    let mut reader = FramedReader::new(reader);
    writer.write_all(&startup(id)).await.unwrap();
    writer.flush().await.unwrap();
    loop {
        let frame = reader.read_frame(MESSAGE_BYTES_MAX).await.unwrap().unwrap();
        if let BackendMessage::ReadyForQuery(_) = BackendMessage::decode(frame).unwrap() {
            break;
        }
    }

    let vote = VoteRequest {
        replica,
        generation: Generation(0),
        term: Term(term),
        proposer_id: ProposerId([7; 16]),
    };
    let mut bytes = BytesMut::new();
    let command = FrontendMessage::Query("START_WAL_PUSH (proto_version 'holdfast-2')".into());
    for message in [command, copy_data(greeting), copy_data(&ProposerMessage::Vote(vote))] {
        message.encode(&mut bytes).unwrap();
    }
    let (first, rest) = bytes.split_at(bytes.len() - 10);
    writer.write_all(first).await.unwrap();
    writer.flush().await.unwrap();

    let mut is_rest_sent = false;
    loop {
        let frame = reader.read_frame(MESSAGE_BYTES_MAX).await.unwrap().unwrap();
        let BackendMessage::CopyData(payload) = BackendMessage::decode(frame).unwrap() else { continue };
        match codec::decode_acceptor(OWN, payload).unwrap() {
            AcceptorMessage::Greeting(_) if !is_rest_sent => {
                is_rest_sent = true;
                writer.write_all(rest).await.unwrap();
                writer.flush().await.unwrap();
            }
            AcceptorMessage::Vote(vote) if vote.vote_given => return vote.term,
            other => panic!("{other:?}"),
        }
    }
}

/// What was read ahead of the move, decrypted or not, is not lost.
#[tokio::test(flavor = "multi_thread")]
async fn early_messages_move_to_shard() {
    let (directory, id) = (tempfile::tempdir().unwrap(), timeline(1));
    let plain = Server::start().await;
    plain.at.create(id, Dialect::Holdfast).await;
    let first = Proposer::greeted(plain.at, id, OWN).await;
    let (greeting, replica) = (first.greeting(), first.replica);
    for term in 1..20 {
        let stream = TcpStream::connect(plain.at.pg).await.unwrap();
        let granted = within("a vote", push_without_waiting(stream, id, &greeting, (term, replica))).await;
        assert_eq!(granted, Term(term));
    }
    plain.stop().await;

    let (encrypted, config) = server_with_certificate(directory.path()).await;
    encrypted.at.create(id, Dialect::Holdfast).await;
    let replica = encrypted.at.status(id).await["replica_id"].as_str().unwrap().parse().unwrap();
    for term in 1..20 {
        let mut stream = TcpStream::connect(encrypted.at.pg).await.unwrap();
        let mut request = BytesMut::new();
        StartupPacket::Ssl.encode(&mut request).unwrap();
        stream.write_all(&request).await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'S');
        let name = ServerName::try_from("localhost").unwrap();
        let stream = TlsConnector::from(config.clone()).connect(name, stream).await.unwrap();
        let granted = within("a vote", push_without_waiting(stream, id, &greeting, (term, replica))).await;
        assert_eq!(granted, Term(term));
    }
    encrypted.stop().await;
}

/// A proposer that sends and never reads delays neither its own timeline's other proposers nor another timeline of its
/// shard.
#[tokio::test(flavor = "multi_thread")]
async fn unread_replies_delay_no_commit() {
    let server = Server::start().await;
    for number in 1..=ON_THE_SAME_SHARD {
        server.at.create(timeline(number), Dialect::Holdfast).await;
    }
    let (busy, other) = (timeline(1), timeline(ON_THE_SAME_SHARD));
    let mut stalled = Proposer::elected(server.at, busy, OWN, &[(1, START)]).await;
    // Far more responses than sockets and the safekeeper keep.
    let flood = tokio::spawn(async move {
        let heartbeat = stalled.append(1, START, &[], START);
        loop {
            if tokio::time::timeout(PATIENCE, stalled.send(&heartbeat)).await.is_err() {
                return;
            }
        }
    });

    let mut wal = Wal::new();
    let mut proposer = Proposer::elected(server.at, other, OWN, &[(1, START)]).await;
    for _ in 0..300 {
        let (from, bytes) = (wal.end(), wal.grow(1000));
        proposer.push(1, from, &bytes, from).await;
    }
    assert!(!flood.is_finished(), "the safekeeper stopped reading");
    let mut next = Proposer::greeted(server.at, busy, OWN).await;
    assert!(next.vote(2).await.vote_given);
    flood.abort();
    server.stop().await;
}

/// A proposer that sends requests and never reads is closed.
#[tokio::test(flavor = "multi_thread")]
async fn unread_replies_close_connection() {
    let server = Server::start().await;
    let id = timeline(1);
    server.at.create(id, Dialect::Holdfast).await;
    let greeting = Proposer::connect(server.at, id, OWN).await.greeting();

    // Small buffers at this end: the safekeeper's fill up soon.
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(server.at.pg).await.unwrap();
    let mut bytes = startup(id);
    FrontendMessage::Query("START_WAL_PUSH (proto_version 'holdfast-2')".into()).encode(&mut bytes).unwrap();
    stream.write_all(&bytes).await.unwrap();
    let mut requests = BytesMut::new();
    for _ in 0..1000 {
        copy_data(&greeting).encode(&mut requests).unwrap();
    }
    // The safekeeper stops reading when it has closed the connection.
    while let Ok(Ok(())) = tokio::time::timeout(Duration::from_secs(2), stream.write_all(&requests)).await {}

    eventually("the end of the connection", async || {
        (server.at.status(id).await["wal_receivers"] == 0).then_some(())
    })
    .await;
    drop(stream);
    server.stop().await;
}
