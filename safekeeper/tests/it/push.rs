//! START_WAL_PUSH: elections, WAL, and refused proposers.

use bytes::BytesMut;
use consensus::{
    AcceptorMessage, ChecksumRequest, Dialect, PreVoteRequest, ProposerMessage, ProtocolVersion, codec,
};
use postgres_backend::client::ClientError;
use pq_proto::SqlState;
use wal_types::{Generation, Lsn, ProposerId, Term};

use crate::support::{Address, Proposer, START, Server, Wal, eventually, timeline, within};

const VERSIONS: [ProtocolVersion; 3] = [ProtocolVersion::V2, ProtocolVersion::V3, ProtocolVersion::Holdfast2];

#[tokio::test(flavor = "multi_thread")]
async fn pushed_wal_is_read_back_in_every_version() {
    let server = Server::start().await;
    for (number, version) in (1..).zip(VERSIONS) {
        let id = timeline(number);
        server.at.create(id, version.dialect()).await;
        let mut wal = Wal::new();
        wal.grow(300_000);

        let mut proposer = Proposer::elected(server.at, id, version, &[(1, START)]).await;
        let response = proposer.push(1, START, &wal.bytes, START).await;
        assert_eq!((response.term, response.commit_lsn), (Term(1), START), "{version:?}");
        proposer.push(1, wal.end(), &[], wal.end()).await;

        let request = format!("PHYSICAL {START}");
        let mut reader = server.at.read(id, &request).await;
        assert_eq!(reader.bytes(START, wal.end()).await, wal.bytes, "{version:?}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_wal_survives_restart() {
    let directory = tempfile::tempdir().unwrap();
    let (id, version) = (timeline(1), ProtocolVersion::Holdfast2);
    let mut wal = Wal::new();
    let first = wal.grow(150_000);
    let end_of_first = wal.end();

    let server = Server::start_in(directory.path()).await;
    server.at.create(id, version.dialect()).await;
    let mut proposer = Proposer::elected(server.at, id, version, &[(3, START)]).await;
    proposer.push(3, START, &first, end_of_first).await;
    drop(proposer);
    server.stop().await;

    let server = Server::start_in(directory.path()).await;
    let mut proposer = Proposer::greeted(server.at, id, version).await;
    let vote = proposer.vote(4).await;
    assert_eq!((vote.flush_lsn, vote.history.last().unwrap().term), (end_of_first, Term(3)));
    proposer.send_elected(end_of_first, &[(3, START), (4, end_of_first)], &[]).await;
    let second = wal.grow(100_000);
    proposer.push(4, end_of_first, &second, wal.end()).await;
    let mut reader = server.at.read(id, &START.to_string()).await;
    assert_eq!(reader.bytes(START, wal.end()).await, wal.bytes);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vote_is_granted_once_per_term() {
    let server = Server::start().await;
    for (number, version) in (1..).zip(VERSIONS) {
        let id = timeline(number);
        server.at.create(id, version.dialect()).await;
        let mut first = Proposer::greeted(server.at, id, version).await;
        assert!(first.vote(5).await.vote_given);
        // Only the holdfast dialect names the proposer, so only there the same candidate may get its vote again.
        assert_eq!(first.vote(5).await.vote_given, version == ProtocolVersion::Holdfast2);

        let mut second = Proposer::greeted(server.at, id, version).await;
        second.proposer_id = ProposerId([9; 16]);
        for term in [4, 5] {
            let vote = second.vote(term).await;
            assert_eq!((vote.vote_given, vote.term), (false, Term(5)), "{version:?}");
        }
        assert!(second.vote(6).await.vote_given);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn second_connection_of_a_term_takes_over() {
    let server = Server::start().await;
    let (id, version) = (timeline(1), ProtocolVersion::Holdfast2);
    server.at.create(id, version.dialect()).await;
    let mut wal = Wal::new();
    let first = wal.grow(30_000);
    let middle = wal.end();
    let mut old = Proposer::elected(server.at, id, version, &[(1, START)]).await;
    old.push(1, START, &first, START).await;

    let mut new = Proposer::greeted(server.at, id, version).await;
    new.send_elected(middle, &[(1, START)], &[]).await;
    let second = wal.grow(30_000);
    new.push(1, middle, &second, wal.end()).await;

    // The old connection no longer owns the term.
    old.send(&old.append(1, middle, &second[..16], middle)).await;
    let refusal = old.refusal().await;
    assert!(refusal.is_fatal() && refusal.message.contains("does not lead term 1"), "{refusal}");
    let mut reader = server.at.read(id, &START.to_string()).await;
    assert_eq!(reader.bytes(START, wal.end()).await, wal.bytes);
    server.stop().await;
}

/// The deposed proposer learns the new term, and its uncommitted WAL is truncated.
#[tokio::test(flavor = "multi_thread")]
async fn deposed_proposer_loses_its_dead_tail() {
    let server = Server::start().await;
    for (number, version) in (1..).zip(VERSIONS) {
        let id = timeline(number);
        server.at.create(id, version.dialect()).await;
        let mut wal = Wal::new();
        let common = wal.grow(70_000);
        let parting = wal.end();
        let mut dead = wal.fork(b"never committed");
        dead.grow(90_000);
        let mut old = Proposer::elected(server.at, id, version, &[(1, START)]).await;
        old.push(1, START, &common, parting).await;
        old.push(1, parting, &dead.bytes[common.len()..], parting).await;

        let mut new = Proposer::greeted(server.at, id, version).await;
        let vote = new.vote(2).await;
        assert_eq!(vote.flush_lsn, dead.end());
        old.send(&old.append(1, dead.end(), &[], parting)).await;
        let response = old.append_response().await;
        assert_eq!((response.term, response.flush_lsn), (Term(2), Lsn(0)), "{version:?}");

        new.send_elected(parting, &[(1, START), (2, parting)], &[]).await;
        let live = wal.grow(20_000);
        new.push(2, parting, &live, wal.end()).await;
        let mut reader = server.at.read(id, &START.to_string()).await;
        assert_eq!(reader.bytes(START, wal.end()).await, wal.bytes, "{version:?}");
        assert!(server.at.status(id).await["truncations"].as_u64().unwrap() > 0);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn acceptor_sends_only_replies() {
    let server = Server::start().await;
    let (id, version) = (timeline(1), ProtocolVersion::V3);
    server.at.create(id, version.dialect()).await;
    let mut waiting = Proposer::greeted(server.at, id, version).await;
    let mut wal = Wal::new();
    let bytes = wal.grow(50_000);
    let mut leader = Proposer::elected(server.at, id, version, &[(1, START)]).await;
    leader.push(1, START, &bytes, wal.end()).await;
    // The other connection gets only the reply to its own request.
    let vote = waiting.vote(1).await;
    assert_eq!((vote.vote_given, vote.flush_lsn), (false, wal.end()));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn holdfast_dialect_has_prevote_and_checksum() {
    let server = Server::start().await;
    let (id, version) = (timeline(1), ProtocolVersion::Holdfast2);
    server.at.create(id, version.dialect()).await;
    let mut wal = Wal::new();
    let bytes = wal.grow(40_000);
    let mut proposer = Proposer::elected(server.at, id, version, &[(1, START)]).await;
    proposer.push(1, START, &bytes, START).await;

    proposer.send(&ProposerMessage::PreVote(PreVoteRequest { generation: Generation(0) })).await;
    let AcceptorMessage::PreVote(answer) = proposer.receive().await else { panic!("no answer") };
    assert_eq!((answer.term, answer.flush_lsn, answer.start_lsn), (Term(1), wal.end(), START));

    let (from, to) = (START.advance(8), START.advance(20_000));
    let request = ChecksumRequest { generation: Generation(0), term: Term(1), from, to };
    proposer.send(&ProposerMessage::Checksum(request)).await;
    let AcceptorMessage::Checksum(answer) = proposer.receive().await else { panic!("no answer") };
    assert_eq!(answer.crc32c, Some(crc32c::crc32c(&bytes[8..20_000])));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_wal_is_refused_and_not_stored() {
    let server = Server::start().await;
    let (id, version) = (timeline(1), ProtocolVersion::Holdfast2);
    server.at.create(id, version.dialect()).await;
    let mut wal = Wal::new();
    let mut bytes = wal.grow(20_000);
    bytes[10_000] ^= 1;
    let mut proposer = Proposer::elected(server.at, id, version, &[(1, START)]).await;
    proposer.send(&proposer.append(1, START, &bytes, START)).await;
    let refusal = proposer.refusal().await;
    assert_eq!(refusal.sqlstate, SqlState::PROTOCOL_VIOLATION, "{refusal}");
    assert_eq!(server.at.status(id).await["flush_lsn"], START.to_string());

    // The proposer reconnects and sends the right bytes.
    bytes[10_000] ^= 1;
    let mut proposer = Proposer::greeted(server.at, id, version).await;
    proposer.send_elected(START, &[(1, START)], &[]).await;
    proposer.push(1, START, &bytes, START).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn protocol_violation_closes_connection_with_reason() {
    let server = Server::start().await;
    let (id, version) = (timeline(1), ProtocolVersion::Holdfast2);
    server.at.create(id, version.dialect()).await;
    let greeting = |id, version| async move {
        let proposer = Proposer::connect(server.at, id, version).await;
        let mut payload = BytesMut::new();
        codec::encode_proposer(version, &proposer.greeting(), &mut payload).unwrap();
        payload.to_vec()
    };
    let good = greeting(id, version).await;
    for (what, payload, part) in [
        ("an empty message", vec![], "message ends inside a field of 1 bytes"),
        ("an unknown message", b"?".to_vec(), "unknown message tag 0x3f"),
        ("half a greeting", good[..good.len() / 2].to_vec(), ""),
        (
            "a vote without a greeting",
            {
                let mut payload = BytesMut::new();
                let vote = consensus::VoteRequest {
                    replica: wal_types::ReplicaId::default(),
                    generation: Generation(0),
                    term: Term(1),
                    proposer_id: ProposerId::default(),
                };
                codec::encode_proposer(version, &ProposerMessage::Vote(vote), &mut payload).unwrap();
                payload.to_vec()
            },
            "must be a greeting",
        ),
    ] {
        let mut proposer = Proposer::connect(server.at, id, version).await;
        proposer.copy.writer.send(&payload).await.unwrap();
        let refusal = proposer.refusal().await;
        assert!(refusal.is_fatal() && refusal.message.contains(part), "{what}: {refusal}");
    }
    // A message of impossible length closes the connection before its bytes are read.
    let mut proposer = Proposer::connect(server.at, id, version).await;
    let too_long = vec![b'a'; 200 * 1024];
    let _ = proposer.copy.writer.send(&too_long).await;
    let ended = within("the end", proposer.copy.reader.next(1 << 20)).await;
    assert!(ended.is_err(), "{ended:?}");
    eventually("all proposers gone", async || {
        (server.at.status(id).await["wal_receivers"] == 0).then_some(())
    })
    .await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn push_in_other_dialect_is_refused() {
    let server = Server::start().await;
    let (ours, theirs) = (timeline(1), timeline(2));
    server.at.create(ours, Dialect::Holdfast).await;
    server.at.create(theirs, Dialect::Neon).await;
    for (id, push, part) in [
        (ours, "START_WAL_PUSH", "proto_version '2' is of dialect neon"),
        (ours, "START_WAL_PUSH (proto_version '3')", "created for dialect holdfast"),
        (theirs, "START_WAL_PUSH (proto_version 'holdfast-2')", "created for dialect neon"),
    ] {
        let message = push_error(server.at, id, push).await;
        assert!(message.contains(part), "{push}: {message}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn push_creates_no_timeline() {
    let server = Server::start().await;
    let message = push_error(server.at, timeline(9), "START_WAL_PUSH").await;
    assert!(message.contains("does not exist on this safekeeper"), "{message}");
    assert_eq!(server.at.get("/v1/timelines").await.as_array().unwrap().len(), 0);
    server.stop().await;
}

async fn push_error(at: Address, id: wal_types::TenantTimelineId, push: &str) -> String {
    match within("a refusal", at.connect(id).await.copy_both(push)).await {
        Err(ClientError::Server(response)) => response.message,
        other => panic!("{other:?}"),
    }
}
