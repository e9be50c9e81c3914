//! Removal of WAL: old WAL that no member needs, and damaged WAL.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use consensus::{Dialect, ProposerMessage, ProtocolVersion};
use postgres_backend::client::ClientError;
use pq_proto::SqlState;
use safekeeper::{Config, Retention};
use serde_json::{Value, json};
use wal_types::Lsn;

use crate::support::{
    Proposer, SEGMENT_BYTES, START, Server, Wal, config, eventually, timeline, timeline_body, within,
};

fn lsn(status: &Value, field: &str) -> Lsn {
    status[field].as_str().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn removed_wal_is_refused_in_postgresql_words() {
    let directory = tempfile::tempdir().unwrap();
    let retention = Retention { wal_keep_bytes: 0, ..Retention::default() };
    let server = Server::start_with(Config { retention, ..config(directory.path()) }).await;
    let id = timeline(1);
    server.at.create(id, Dialect::Holdfast).await;
    let mut wal = Wal::new();
    let bytes = wal.grow(5 * SEGMENT_BYTES as usize);
    let mut proposer = Proposer::elected(server.at, id, ProtocolVersion::Holdfast2, &[(1, START)]).await;
    proposer.push(1, START, &bytes, wal.end()).await;
    assert_eq!(lsn(&server.at.status(id).await, "oldest_lsn"), START, "a member may need it");

    // All members have it.
    let ProposerMessage::Append(mut append) = proposer.append(1, wal.end(), &[], wal.end()) else { panic!() };
    append.truncate_lsn = wal.end();
    proposer.send(&ProposerMessage::Append(append)).await;
    let oldest = eventually("the removal of old WAL", async || {
        let oldest = lsn(&server.at.status(id).await, "oldest_lsn");
        (oldest > START).then_some(oldest)
    })
    .await;
    assert_eq!(oldest.0 % u64::from(SEGMENT_BYTES), 0);
    let refused =
        within("an answer", server.at.connect(id).await.copy_both(&format!("START_REPLICATION {START}")))
            .await;
    let Err(ClientError::Server(error)) = refused else { panic!("not refused") };
    assert_eq!(error.sqlstate, SqlState::UNDEFINED_FILE);
    assert_eq!(error.message, "requested WAL segment 000000010000000000000002 has already been removed");
    let mut reader = server.at.read(id, &oldest.to_string()).await;
    let skipped = oldest.bytes_since(START) as usize;
    assert!(reader.bytes(oldest, wal.end()).await == wal.bytes[skipped..]);
    let text = reqwest::get(server.at.url("/metrics")).await.unwrap().text().await.unwrap();
    let line =
        text.lines().find(|line| line.starts_with("holdfast_safekeeper_timeline_oldest_lsn{")).unwrap();
    assert!(line.ends_with(&format!(" {}", oldest.0)), "{line}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_safekeeper_votes_only_after_repair() {
    let directory = tempfile::tempdir().unwrap();
    let id = timeline(1);
    let server = Server::start_in(directory.path()).await;
    server.at.create(id, Dialect::Holdfast).await;
    let mut wal = Wal::new();
    let bytes = wal.grow(5 * SEGMENT_BYTES as usize / 2);
    let mut proposer = Proposer::elected(server.at, id, ProtocolVersion::Holdfast2, &[(1, START)]).await;
    proposer.push(1, START, &bytes, START).await;
    server.stop().await;

    let files = directory.path().join(id.tenant.to_string()).join(id.timeline.to_string());
    let damaged = OpenOptions::new().write(true).open(files.join("000000010000000000000003")).unwrap();
    damaged.write_all_at(b"rot", 30_000).unwrap();
    let server = Server::start_in(directory.path()).await;
    let status = server.at.status(id).await;
    assert_eq!((&status["health"], lsn(&status["lost"], "acked_upto")), (&json!("lost"), wal.end()));
    let left = lsn(&status, "flush_lsn");
    assert!(left.0 / u64::from(SEGMENT_BYTES) == 3 && left < wal.end(), "{left}");
    let kept = status["quarantined"].as_array().unwrap();
    assert_eq!(kept.len(), 2, "{kept:?}");
    assert!(kept.iter().all(|name| files.join(name.as_str().unwrap()).exists()));

    let mut candidate = Proposer::greeted(server.at, id, ProtocolVersion::Holdfast2).await;
    let vote = candidate.vote(2).await;
    assert_eq!((vote.vote_given, vote.lost), (false, true), "{vote:?}");
    // Other safekeepers elected it. Its log starts with what is left on this safekeeper.
    let end = wal.end();
    candidate.send_elected(left, &[(1, START), (2, end)], &[]).await;
    let rest = wal.bytes[left.bytes_since(START) as usize..].to_vec();
    candidate.push(2, left, &rest, end).await;
    let status = server.at.status(id).await;
    assert_eq!((&status["health"], &status["lost"]), (&json!("healthy"), &Value::Null));
    assert!(candidate.vote(3).await.vote_given);
    server.stop().await;
}

/// A copy that was not told its members grants no vote. A leader that others elected may feed it.
#[tokio::test(flavor = "multi_thread")]
async fn unconfigured_copy_grants_no_vote() {
    let server = Server::start().await;
    for (number, version) in [(1, ProtocolVersion::Holdfast2), (2, ProtocolVersion::V3)] {
        let id = timeline(number);
        let dialect = version.dialect();
        let (_, text) = server.at.post(&timeline_body(id, dialect)).await;
        let created: Value = serde_json::from_str(&text).unwrap();
        let mut candidate = Proposer::greeted(server.at, id, version).await;
        if dialect == Dialect::Holdfast {
            assert!(!candidate.vote(1).await.vote_given);
        } else {
            candidate.send_vote(1).await;
            assert!(candidate.refusal().await.message.contains("no members yet"));
        }
        let (status, text) = server.at.bootstrap(id, created["replica_id"].as_str().unwrap()).await;
        assert_eq!(status, 200, "{text}");
        let mut candidate = Proposer::greeted(server.at, id, version).await;
        assert!(candidate.vote(2).await.vote_given);
    }
    server.stop().await;
}

/// A message that means another copy is refused with a sentence.
#[tokio::test(flavor = "multi_thread")]
async fn vote_for_another_copy_is_refused() {
    let server = Server::start().await;
    server.at.create(timeline(1), Dialect::Holdfast).await;
    let mut candidate = Proposer::greeted(server.at, timeline(1), ProtocolVersion::Holdfast2).await;
    candidate.replica = wal_types::ReplicaId([0xee; 16]);
    candidate.send_vote(1).await;
    let refusal = candidate.refusal().await;
    assert!(refusal.message.contains("its log was created anew"), "{refusal:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vanished_timeline_is_not_created_anew() {
    let directory = tempfile::tempdir().unwrap();
    let id = timeline(1);
    let server = Server::start_in(directory.path()).await;
    server.at.create(id, Dialect::Holdfast).await;
    server.stop().await;
    std::fs::remove_dir_all(directory.path().join(id.tenant.to_string()).join(id.timeline.to_string()))
        .unwrap();
    let server = Server::start_in(directory.path()).await;
    let status = server.at.status(id).await;
    assert_eq!(status["health"], "corrupt");
    assert!(status["error"].as_str().unwrap().contains("directory of this timeline is gone"), "{status}");
    let (code, text) = server.at.post(&timeline_body(id, Dialect::Holdfast)).await;
    assert!(code == 409 && text.contains("exists and cannot be opened"), "{code} {text}");
    server.at.create(timeline(2), Dialect::Holdfast).await;
    server.stop().await;
}
