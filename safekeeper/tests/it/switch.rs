//! The end of a PostgreSQL timeline, as standbys and pg_receivewal see it.

use consensus::{ProtocolVersion, TliSwitch};
use postgres_backend::client::ClientError;
use wal_types::{Lsn, TenantTimelineId, Tli};

use crate::support::{Proposer, START, Server, Wal, timeline, within};

struct Switched {
    server: Server,
    id: TenantTimelineId,
    proposer: Proposer,
    wal: Wal,
    at: Lsn,
}

/// A log whose second term is on PostgreSQL timeline 2, not yet committed there.
async fn switched() -> Switched {
    let server = Server::start().await;
    let (id, version) = (timeline(1), ProtocolVersion::Holdfast2);
    server.at.create(id, version.dialect()).await;
    let mut wal = Wal::new();
    let first = wal.grow(100_000);
    let at = wal.end();
    let mut old = Proposer::elected(server.at, id, version, &[(1, START)]).await;
    old.push(1, START, &first, at).await;

    let mut proposer = Proposer::greeted(server.at, id, version).await;
    assert!(proposer.vote(2).await.vote_given);
    let switch = TliSwitch { parent: Tli(1), tli: Tli(2), at };
    proposer.send_elected(at, &[(1, START), (2, at)], &[switch]).await;
    wal.set_tli(Tli(2));
    let second = wal.grow(50_000);
    proposer.push(2, at, &second, at).await;
    Switched { server, id, proposer, wal, at }
}

#[tokio::test(flavor = "multi_thread")]
async fn reader_of_old_timeline_gets_the_next() {
    let Switched { server, id, mut proposer, wal, at } = switched().await;
    let first = at.bytes_since(START) as usize;
    let mut reader = server.at.read(id, &format!("{START} TIMELINE 1")).await;
    assert_eq!(reader.bytes(START, at).await, wal.bytes[..first]);
    // No byte of the new timeline is committed: another timeline may still replace it.
    reader.keepalive().await;

    proposer.push(2, wal.end(), &[], wal.end()).await;
    while reader.next().await.unwrap().is_some() {}
    let (mut client, rows) = within("the end of the copy", reader.0.finish(1 << 20)).await.unwrap();
    assert_eq!(rows[0].get("next_tli"), Some("2"));
    assert_eq!(rows[0].get("next_tli_startpos"), Some(at.to_string().as_str()));

    let rows = client.simple_query("IDENTIFY_SYSTEM").await.unwrap();
    assert_eq!(rows[0].get("timeline"), Some("2"));
    let rows = client.simple_query("TIMELINE_HISTORY 2").await.unwrap();
    assert_eq!(rows[0].get("filename"), Some("00000002.history"));
    let line = format!("1\t{at}\tno recovery target specified\n");
    assert_eq!(rows[0].get("content"), Some(line.as_str()));
    drop(client);

    // Stock readers continue at the start of the segment in which the timeline changed.
    let again = at.align_down(0x1_0000);
    let mut reader = server.at.read(id, &format!("{again} TIMELINE 2")).await;
    let offset = again.bytes_since(START) as usize;
    assert_eq!(reader.bytes(again, wal.end()).await, wal.bytes[offset..]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reader_at_switch_gets_next_without_copy() {
    let Switched { server, id, mut proposer, wal, at } = switched().await;
    proposer.push(2, wal.end(), &[], wal.end()).await;
    let mut client = server.at.connect(id).await;
    let rows = client.simple_query(&format!("START_REPLICATION {at} TIMELINE 1")).await.unwrap();
    assert_eq!(rows[0].get("next_tli"), Some("2"));

    let beyond = at.advance(8);
    let answer = client.simple_query(&format!("START_REPLICATION {beyond} TIMELINE 1")).await;
    let Err(ClientError::Server(error)) = answer else { panic!("{answer:?}") };
    assert!(error.message.contains("is not in this server's history"), "{error}");
    assert!(error.detail.unwrap().contains(&format!("forked from timeline 1 at {at}")));

    let answer = client.simple_query(&format!("START_REPLICATION {at} TIMELINE 3")).await;
    let Err(ClientError::Server(error)) = answer else { panic!("{answer:?}") };
    assert_eq!(error.message, "requested timeline 3 is not in this server's history");
    server.stop().await;
}
