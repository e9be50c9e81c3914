//! START_REPLICATION and the commands of stock readers.

use bytes::BytesMut;
use consensus::{Dialect, ProtocolVersion};
use postgres_backend::client::ClientError;
use pq_proto::SqlState;
use pq_proto::replication::{FromPrimary, HotStandbyFeedback, StandbyStatusUpdate};
use wal_types::{Lsn, TenantTimelineId};

use crate::support::{Proposer, START, SYSTEM, Server, Wal, eventually, timeline, within};

/// A timeline whose WAL is committed in part.
struct Log {
    server: Server,
    id: TenantTimelineId,
    proposer: Proposer,
    wal: Wal,
    commit: Lsn,
}

async fn log() -> Log {
    let server = Server::start().await;
    let (id, version) = (timeline(1), ProtocolVersion::Holdfast2);
    server.at.create(id, version.dialect()).await;
    let mut wal = Wal::new();
    let committed = wal.grow(150_000);
    let commit = wal.end();
    let more = wal.grow(50_000);
    let mut proposer = Proposer::elected(server.at, id, version, &[(1, START)]).await;
    proposer.push(1, START, &committed, commit).await;
    proposer.push(1, commit, &more, commit).await;
    Log { server, id, proposer, wal, commit }
}

fn status(flush: Lsn, reply_requested: bool) -> Vec<u8> {
    let mut payload = BytesMut::new();
    let update =
        StandbyStatusUpdate { write: flush, flush, apply: Lsn(0), sent_at_micros: 1, reply_requested };
    update.encode(&mut payload);
    payload.to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn reader_gets_wal_as_it_is_committed() {
    let Log { server, id, mut proposer, wal, commit } = log().await;
    let mut reader = server.at.read(id, &format!("{START} TIMELINE 1")).await;
    let committed = commit.bytes_since(START) as usize;
    assert_eq!(reader.bytes(START, commit).await, wal.bytes[..committed]);
    // Only keepalives come, although more is durable.
    for _ in 0..2 {
        assert_eq!(reader.keepalive().await.server_end, commit);
    }
    proposer.push(1, wal.end(), &[], wal.end()).await;
    assert_eq!(reader.bytes(commit, wal.end()).await, wal.bytes[committed..]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commit_wakes_reader_before_keepalive() {
    let Log { server, id, mut proposer, mut wal, .. } = log().await;
    proposer.push(1, wal.end(), &[], wal.end()).await;
    let mut reader = server.at.read(id, &wal.end().to_string()).await;
    // A reader that waited for the clock would get a keepalive first. A slow machine may be late sometimes, not each time.
    for _ in 0..10 {
        reader.keepalive().await;
        let (begin, bytes) = (wal.end(), wal.grow(100));
        proposer.push(1, begin, &bytes, wal.end()).await;
        proposer.push(1, wal.end(), &[], wal.end()).await;
        let first = reader.next().await.unwrap();
        if matches!(first, Some(FromPrimary::XLogData(_))) {
            return server.stop().await;
        }
        reader.bytes(begin, wal.end()).await;
    }
    panic!("every commit waited for the clock");
}

#[tokio::test(flavor = "multi_thread")]
async fn proposer_reads_durable_wal_of_its_term() {
    let Log { server, id, wal, .. } = log().await;
    let mut reader = server.at.read(id, &format!("PHYSICAL {START} (term='1')")).await;
    assert_eq!(reader.bytes(START, wal.end()).await, wal.bytes);
    let mut other = Proposer::greeted(server.at, id, ProtocolVersion::Holdfast2).await;
    assert!(other.vote(2).await.vote_given);
    let error = reader.error().await;
    assert!(error.is_fatal() && error.message.contains("is at term 2"), "{error}");

    let command = format!("START_REPLICATION PHYSICAL {START} (term='1')");
    let late = server.at.connect(id).await.copy_both(&command).await;
    assert!(matches!(late, Err(ClientError::Server(_))));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reader_may_start_at_any_position() {
    let Log { server, id, mut proposer, mut wal, .. } = log().await;
    let old_end = wal.end();
    let new = wal.grow(20_000);
    let ahead = old_end.advance(64);
    let mut early = server.at.read(id, &ahead.to_string()).await;
    let mut inside = server.at.read(id, &START.advance(12_345).to_string()).await;
    early.keepalive().await;
    proposer.push(1, old_end, &new, wal.end()).await;
    proposer.push(1, wal.end(), &[], wal.end()).await;
    assert_eq!(early.bytes(ahead, wal.end()).await, new[64..]);
    assert_eq!(inside.bytes(START.advance(12_345), wal.end()).await, wal.bytes[12_345..]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wal_before_log_start_is_reported_removed() {
    let Log { server, id, .. } = log().await;
    let copy = server.at.connect(id).await.copy_both("START_REPLICATION 0/10000 TIMELINE 1").await;
    let Err(ClientError::Server(error)) = copy else { panic!("{copy:?}") };
    assert_eq!(error.sqlstate, SqlState::UNDEFINED_FILE);
    assert_eq!(error.message, "requested WAL segment 000000010000000000000001 has already been removed");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reader_may_send_commands_after_copy() {
    let Log { server, id, wal, commit, .. } = log().await;
    let mut reader = server.at.read(id, &START.to_string()).await;
    let committed = commit.bytes_since(START) as usize;
    assert_eq!(reader.bytes(START, commit).await, wal.bytes[..committed]);
    let (mut client, rows) = within("the end of the copy", reader.0.finish(1 << 20)).await.unwrap();
    assert!(rows.is_empty());
    let rows = client.simple_query("IDENTIFY_SYSTEM").await.unwrap();
    assert_eq!(rows[0].get("xlogpos"), Some(commit.to_string().as_str()));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn status_update_may_request_keepalive() {
    let Log { server, id, wal, mut proposer, .. } = log().await;
    proposer.push(1, wal.end(), &[], wal.end()).await;
    let mut reader = server.at.read(id, &wal.end().to_string()).await;
    reader.0.writer.send(&status(wal.end(), true)).await.unwrap();
    assert_eq!(reader.keepalive().await.server_end, wal.end());
    server.stop().await;
}

/// The feedback of a standby is in append responses until the standby disconnects.
#[tokio::test(flavor = "multi_thread")]
async fn hot_standby_feedback_reaches_proposer() {
    let Log { server, id, mut proposer, wal, commit } = log().await;
    let mut reader = server.at.read(id, &commit.to_string()).await;
    let feedback = HotStandbyFeedback {
        sent_at_micros: 5,
        xmin: 700,
        xmin_epoch: 2,
        catalog_xmin: 0,
        catalog_xmin_epoch: 0,
    };
    let mut payload = BytesMut::new();
    feedback.encode(&mut payload);
    reader.0.writer.send(&payload).await.unwrap();
    // One heartbeat, one response: the feedback may need a moment to arrive.
    let mut needs = async |wanted: u64| loop {
        let response = proposer.push(1, wal.end(), &[], commit).await;
        if response.hot_standby.xmin == wanted {
            return;
        }
    };
    within("the need of the standby", needs(2 << 32 | 700)).await;
    assert_eq!(server.at.status(id).await["wal_senders"], 1);

    drop(reader);
    within("the end of the need", needs(0)).await;
    eventually("no reader", async || (server.at.status(id).await["wal_senders"] == 0).then_some(())).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wal_messages_end_at_pages() {
    let Log { server, id, mut proposer, wal, .. } = log().await;
    proposer.push(1, wal.end(), &[], wal.end()).await;
    let mut reader = server.at.read(id, &START.advance(100).to_string()).await;
    let mut at = START.advance(100);
    while at < wal.end() {
        let Some(FromPrimary::XLogData(data)) = reader.next().await.unwrap() else { continue };
        assert_eq!((data.start, data.server_end), (at, wal.end()));
        at = at.advance(data.data.len() as u64);
        assert!(at.0.is_multiple_of(8192) || at == wal.end(), "{at}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn drain_closes_readers_with_a_reason() {
    let Log { server, id, proposer, commit, .. } = log().await;
    let mut reader = server.at.read(id, &commit.to_string()).await;
    let mut idle = server.at.connect(id).await;
    server.drain();
    let error = reader.error().await;
    assert_eq!(error.sqlstate, SqlState::ADMIN_SHUTDOWN);
    let Err(ClientError::Server(error)) = idle.simple_query("IDENTIFY_SYSTEM").await else {
        panic!("served")
    };
    assert_eq!(error.sqlstate, SqlState::ADMIN_SHUTDOWN);
    drop(proposer);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_answer_as_stock_clients_expect() {
    let Log { server, id, commit, wal, .. } = log().await;
    let mut client = server.at.connect(id).await;
    for (name, value) in
        [("server_version", "15.18"), ("integer_datetimes", "on"), ("client_encoding", "UTF8")]
    {
        assert_eq!(client.parameter(name), Some(value), "{name}");
    }
    let (commit, flush, system) = (commit.to_string(), wal.end().to_string(), SYSTEM.to_string());
    let table: &[(&str, &[Option<&str>])] = &[
        ("IDENTIFY_SYSTEM", &[Some(&system), Some("1"), Some(&commit), None]),
        ("SHOW wal_segment_size", &[Some("64kB")]),
        ("SHOW data_directory_mode", &[Some("0700")]),
        ("SHOW server_version", &[Some("15.18")]),
        ("READ_REPLICATION_SLOT \"any\"", &[None, None, None]),
        (
            "CREATE_REPLICATION_SLOT \"any\" TEMPORARY PHYSICAL ( RESERVE_WAL)",
            &[Some("any"), Some("0/0"), None, None],
        ),
        ("TIMELINE_STATUS", &[Some(&flush), Some(&commit)]),
    ];
    for (query, expected) in table {
        let rows = client.simple_query(query).await.unwrap();
        let values: Vec<_> = (0..expected.len()).map(|index| rows[0].at(index)).collect();
        assert_eq!(values, *expected, "{query}");
    }
    assert!(client.simple_query("DROP_REPLICATION_SLOT \"any\"").await.unwrap().is_empty());
    // A refused command leaves the connection open.
    for (query, sqlstate) in [
        ("SELECT 1", SqlState::SYNTAX_ERROR),
        ("SHOW shared_buffers", SqlState::UNDEFINED_OBJECT),
        ("BASE_BACKUP ( LABEL 'x' )", SqlState::FEATURE_NOT_SUPPORTED),
        ("TIMELINE_HISTORY 2", SqlState::UNDEFINED_FILE),
    ] {
        let Err(ClientError::Server(error)) = client.simple_query(query).await else { panic!("{query}") };
        assert_eq!(error.sqlstate, sqlstate, "{query}: {error}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unnamed_timeline_is_the_only_one() {
    let server = Server::start().await;
    let refused = async || match server.at.try_connect(&[], None).await {
        Err(ClientError::Server(error)) => error,
        other => panic!("{other:?}"),
    };
    let error = refused().await;
    assert!(error.message.contains("has no timeline yet") && error.hint.unwrap().contains("-c tenant_id="));

    server.at.create(timeline(1), Dialect::Holdfast).await;
    let mut client = server.at.try_connect(&[], None).await.unwrap();
    let rows = client.simple_query("TIMELINE_STATUS").await.unwrap();
    assert_eq!(rows.len(), 1);

    server.at.create(timeline(2), Dialect::Holdfast).await;
    let error = refused().await;
    assert!(error.message.contains("has 2 timelines"), "{error}");

    // A named timeline that does not exist is reported by the command.
    let mut client = server.at.connect(timeline(3)).await;
    assert!(client.simple_query("TIMELINE_STATUS").await.unwrap().is_empty());
    let mut client = server.at.connect(timeline(3)).await;
    let Err(ClientError::Server(error)) = client.simple_query("IDENTIFY_SYSTEM").await else {
        panic!("served")
    };
    assert_eq!(error.sqlstate, SqlState::INVALID_CATALOG_NAME);
    server.stop().await;
}
