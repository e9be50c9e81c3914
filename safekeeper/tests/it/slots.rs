//! Replication slots: what stock clients are answered, and the WAL that slots hold.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use bytes::BytesMut;
use consensus::{Dialect, ProposerMessage, ProtocolVersion};
use postgres_backend::client::{Client, ClientError, ConnectOptions};
use pq_proto::SqlState;
use pq_proto::replication::StandbyStatusUpdate;
use safekeeper::{Config, Retention};
use serde_json::{Value, json};
use wal_types::{Lsn, TenantTimelineId};

use crate::support::{
    Address, PATIENCE, Proposer, SEGMENT_BYTES, START, Server, Wal, config, eventually, timeline, within,
};

const SEGMENTS: usize = 5;

async fn connect_as(at: Address, id: TenantTimelineId, user: &str) -> Client {
    let options = format!("-c tenant_id={} -c timeline_id={}", id.tenant, id.timeline);
    let params = [("options", options.as_str()), ("replication", "true"), ("application_name", user)];
    let options = ConnectOptions {
        host: at.pg.ip().to_string(),
        port: at.pg.port(),
        user: user.into(),
        params: params.map(|(name, value)| (name.into(), value.into())).into(),
        password: None,
        tls: None,
    };
    within("a connection", Client::connect(&options, PATIENCE)).await.unwrap()
}

/// The error code of a command; `None` when it succeeds.
async fn sqlstate(client: &mut Client, command: &str) -> Option<SqlState> {
    match within("an answer", client.simple_query(command)).await {
        Ok(_) => None,
        Err(ClientError::Server(error)) => Some(error.sqlstate),
        Err(other) => panic!("{command}: {other:?}"),
    }
}

/// Type and position of a slot.
async fn read_slot(client: &mut Client, name: &str) -> (Option<String>, Option<String>) {
    let command = format!("READ_REPLICATION_SLOT \"{name}\"");
    let rows = within("an answer", client.simple_query(&command)).await.unwrap();
    let column = |name: &str| rows[0].get(name).map(ToOwned::to_owned);
    (column("slot_type"), column("restart_lsn"))
}

async fn slots(server: &Server, id: TenantTimelineId) -> Value {
    server.at.get(&format!("/v1/timelines/{}/{}/slots", id.tenant, id.timeline)).await
}

async fn oldest(server: &Server, id: TenantTimelineId) -> Lsn {
    server.at.status(id).await["oldest_lsn"].as_str().unwrap().parse().unwrap()
}

fn status(flush: Lsn) -> Vec<u8> {
    let mut payload = BytesMut::new();
    let reply_requested = false;
    StandbyStatusUpdate { write: flush, flush, apply: Lsn(0), sent_at_micros: 1, reply_requested }
        .encode(&mut payload);
    payload.to_vec()
}

/// A safekeeper that keeps no WAL by itself, and for slots this many segments.
async fn start(data_dir: &Path, slot_keep_segments: u64) -> Server {
    let retention = Retention {
        wal_keep_bytes: 0,
        slot_keep_bytes_max: slot_keep_segments * u64::from(SEGMENT_BYTES),
        ..Retention::default()
    };
    Server::start_with(Config { retention, ..config(data_dir) }).await
}

/// Writes five segments, all committed, that every member has.
async fn write_segments(server: &Server, id: TenantTimelineId) -> Wal {
    let mut wal = Wal::new();
    let bytes = wal.grow(SEGMENTS * SEGMENT_BYTES as usize);
    let mut proposer = Proposer::elected(server.at, id, ProtocolVersion::Holdfast2, &[(1, START)]).await;
    proposer.push(1, START, &bytes, wal.end()).await;
    let ProposerMessage::Append(mut append) = proposer.append(1, wal.end(), &[], wal.end()) else { panic!() };
    append.truncate_lsn = wal.end();
    proposer.send(&ProposerMessage::Append(append)).await;
    proposer.acknowledged(wal.end()).await;
    wal
}

#[tokio::test(flavor = "multi_thread")]
async fn slot_commands_answer_as_postgresql() {
    let server = Server::start().await;
    let id = timeline(1);
    server.at.create(id, Dialect::Holdfast).await;
    let mut standby = connect_as(server.at, id, "standby").await;
    assert_eq!(read_slot(&mut standby, "s").await, (None, None));
    let physical = Some("physical".to_owned());
    for (command, expected) in [
        ("START_REPLICATION SLOT s 0/20000", Some(SqlState::UNDEFINED_OBJECT)),
        ("DROP_REPLICATION_SLOT s", Some(SqlState::UNDEFINED_OBJECT)),
        ("CREATE_REPLICATION_SLOT \"S\" PHYSICAL", Some(SqlState::INVALID_NAME)),
        ("CREATE_REPLICATION_SLOT s PHYSICAL", None),
        ("CREATE_REPLICATION_SLOT s PHYSICAL", Some(SqlState::DUPLICATE_OBJECT)),
        ("CREATE_REPLICATION_SLOT s TEMPORARY PHYSICAL", Some(SqlState::DUPLICATE_OBJECT)),
        ("CREATE_REPLICATION_SLOT r PHYSICAL (RESERVE_WAL)", None),
    ] {
        assert_eq!(sqlstate(&mut standby, command).await, expected, "{command}");
    }
    let long = format!("CREATE_REPLICATION_SLOT {} PHYSICAL", "x".repeat(64));
    assert_eq!(sqlstate(&mut standby, &long).await, Some(SqlState::NAME_TOO_LONG));
    assert_eq!(read_slot(&mut standby, "s").await, (physical.clone(), None));
    assert_eq!(read_slot(&mut standby, "r").await, (physical, Some(START.to_string())));

    let mut stranger = connect_as(server.at, id, "stranger").await;
    for command in ["START_REPLICATION SLOT s 0/20000", "DROP_REPLICATION_SLOT s"] {
        assert_eq!(
            sqlstate(&mut stranger, command).await,
            Some(SqlState::INSUFFICIENT_PRIVILEGE),
            "{command}"
        );
    }
    for number in 2..32 {
        let command = format!("CREATE_REPLICATION_SLOT s{number} PHYSICAL");
        assert_eq!(sqlstate(&mut standby, &command).await, None, "{command}");
    }
    let surplus = sqlstate(&mut standby, "CREATE_REPLICATION_SLOT s32 PHYSICAL").await;
    assert_eq!(surplus, Some(SqlState::CONFIGURATION_LIMIT_EXCEEDED));
    assert_eq!(sqlstate(&mut standby, "DROP_REPLICATION_SLOT s").await, None);
    assert_eq!(read_slot(&mut standby, "s").await, (None, None));

    let listed = slots(&server, id).await;
    assert_eq!(listed.as_array().unwrap().len(), 31);
    assert_eq!(
        [&listed[0]["name"], &listed[0]["owner"], &listed[0]["wal_status"], &listed[0]["restart_lsn"]],
        [&json!("r"), &json!("standby"), &json!("reserved"), &json!(START.to_string())]
    );
    server.stop().await;
}

/// The slot's WAL stays, also over a restart, until its reader has it.
#[tokio::test(flavor = "multi_thread")]
async fn slot_holds_wal_until_reader_has_it() {
    let directory = tempfile::tempdir().unwrap();
    let id = timeline(1);
    let server = start(directory.path(), 100).await;
    server.at.create(id, Dialect::Holdfast).await;
    let mut standby = connect_as(server.at, id, "standby").await;
    assert_eq!(sqlstate(&mut standby, "CREATE_REPLICATION_SLOT s PHYSICAL RESERVE_WAL").await, None);
    let wal = write_segments(&server, id).await;
    server.stop().await;

    let server = start(directory.path(), 100).await;
    let mut standby = connect_as(server.at, id, "standby").await;
    eventually("ticks that could remove WAL", async || {
        let listed = slots(&server, id).await;
        (listed[0]["held_bytes"] == wal.end().bytes_since(START)).then_some(())
    })
    .await;
    assert_eq!(read_slot(&mut standby, "s").await.1, Some(START.to_string()));
    let start_replication = format!("START_REPLICATION SLOT s {START} TIMELINE 1");
    let copy = standby.copy_both(&start_replication);
    let mut reader = crate::support::WalStream(within("a copy", copy).await.unwrap());
    assert!(reader.bytes(START, wal.end()).await == wal.bytes);
    assert_eq!(oldest(&server, id).await, START);
    within("room", reader.0.writer.send(&status(wal.end()))).await.unwrap();
    eventually("the removal of old WAL", async || (oldest(&server, id).await > START).then_some(())).await;
    assert_eq!(slots(&server, id).await[0]["active_by"], "standby");
    server.stop().await;

    // The position is written when the reader ends.
    let server = start(directory.path(), 100).await;
    let mut standby = connect_as(server.at, id, "standby").await;
    assert_eq!(read_slot(&mut standby, "s").await.1, Some(wal.end().to_string()));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slot_beyond_limit_is_lost() {
    let directory = tempfile::tempdir().unwrap();
    let id = timeline(1);
    let server = start(directory.path(), 2).await;
    server.at.create(id, Dialect::Holdfast).await;
    let mut standby = connect_as(server.at, id, "standby").await;
    assert_eq!(sqlstate(&mut standby, "CREATE_REPLICATION_SLOT s PHYSICAL RESERVE_WAL").await, None);
    let wal = write_segments(&server, id).await;
    let lost = eventually("the loss of the slot", async || {
        let slot = slots(&server, id).await[0].clone();
        (slot["wal_status"] == "lost").then_some(slot)
    })
    .await;
    assert_eq!((&lost["restart_lsn"], &lost["safe_bytes"]), (&json!(START.to_string()), &Value::Null));
    assert!(oldest(&server, id).await.0 <= wal.end().0 - 2 * u64::from(SEGMENT_BYTES));
    let command = format!("START_REPLICATION SLOT s {START} TIMELINE 1");
    assert_eq!(sqlstate(&mut standby, &command).await, Some(SqlState::UNDEFINED_FILE));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn temporary_slot_ends_with_its_connection() {
    let directory = tempfile::tempdir().unwrap();
    let id = timeline(1);
    let server = start(directory.path(), 100).await;
    server.at.create(id, Dialect::Holdfast).await;
    let mut backup = connect_as(server.at, id, "backup").await;
    assert_eq!(
        sqlstate(&mut backup, "CREATE_REPLICATION_SLOT t TEMPORARY PHYSICAL (RESERVE_WAL)").await,
        None
    );
    assert_eq!(slots(&server, id).await[0]["temporary"], true);
    let mut other = connect_as(server.at, id, "backup").await;
    assert_eq!(sqlstate(&mut other, "DROP_REPLICATION_SLOT t").await, Some(SqlState::OBJECT_IN_USE));
    write_segments(&server, id).await;
    assert_eq!(oldest(&server, id).await, START);
    drop(backup);
    eventually("the removal of old WAL", async || (oldest(&server, id).await > START).then_some(())).await;
    assert_eq!(slots(&server, id).await, json!([]));
    server.stop().await;
}

/// A reader that answers keeps its slot; one that is silent loses it.
#[tokio::test(flavor = "multi_thread")]
async fn silent_reader_loses_its_slot() {
    let server = Server::start().await;
    let id = timeline(1);
    server.at.create(id, Dialect::Holdfast).await;
    let mut first = connect_as(server.at, id, "standby").await;
    assert_eq!(sqlstate(&mut first, "CREATE_REPLICATION_SLOT s PHYSICAL").await, None);
    let start = format!("START_REPLICATION SLOT s {START} TIMELINE 1");
    let first = within("a copy", first.copy_both(&start)).await.unwrap();
    let mut first = crate::support::WalStream(first);

    let mut second = connect_as(server.at, id, "standby").await;
    let (refused, ()) = tokio::join!(sqlstate(&mut second, &start), async {
        while !first.keepalive().await.reply_requested {}
        first.0.writer.send(&status(START)).await.unwrap();
    });
    assert_eq!(refused, Some(SqlState::OBJECT_IN_USE));
    assert_eq!(sqlstate(&mut second, "DROP_REPLICATION_SLOT s").await, Some(SqlState::OBJECT_IN_USE));

    let taken = tokio::time::timeout(Duration::from_secs(10), second.copy_both(&start)).await;
    let _second = taken.unwrap().unwrap();
    loop {
        match first.next().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the copy ended as if its timeline had"),
            Err(_) => break,
        }
    }
    server.stop().await;
}

/// Nobody knows what the slots need, so all WAL is kept up to the limit.
#[tokio::test(flavor = "multi_thread")]
async fn damaged_slots_keep_all_wal() {
    let directory = tempfile::tempdir().unwrap();
    let id = timeline(1);
    let server = start(directory.path(), 100).await;
    server.at.create(id, Dialect::Holdfast).await;
    let mut standby = connect_as(server.at, id, "standby").await;
    assert_eq!(sqlstate(&mut standby, "CREATE_REPLICATION_SLOT s PHYSICAL RESERVE_WAL").await, None);
    server.stop().await;

    let files = directory.path().join(id.tenant.to_string()).join(id.timeline.to_string());
    let file = OpenOptions::new().write(true).open(files.join("slots")).unwrap();
    for frame in [0, 16 * 1024] {
        file.write_all_at(b"rot", frame + 40).unwrap();
    }
    let server = start(directory.path(), 100).await;
    write_segments(&server, id).await;
    let mut standby = connect_as(server.at, id, "standby").await;
    let refused = sqlstate(&mut standby, "CREATE_REPLICATION_SLOT s PHYSICAL").await;
    assert_eq!(refused, Some(SqlState::DATA_CORRUPTED));
    assert_eq!(oldest(&server, id).await, START);
    server.stop().await;
}
