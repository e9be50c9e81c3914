//! Stalled proposers: they do not delay the votes of others.

use std::time::Duration;

use consensus::ProtocolVersion;
use wal_types::Lsn;

use crate::support::{Proposer, START, Server, Wal, timeline, within};

/// A proposer that sends and never reads does not delay the vote of another one.
#[tokio::test(flavor = "multi_thread")]
async fn unread_replies_do_not_delay_votes() {
    let server = Server::start().await;
    let (id, version) = (timeline(1), ProtocolVersion::Holdfast2);
    server.at.create(id, version.dialect()).await;
    let mut stalled = Proposer::elected(server.at, id, version, &[(1, START)]).await;
    let mut wal = Wal::new();
    wal.grow(4 << 20);
    // Sends as fast as it can, WAL and then heartbeats, and never reads a reply.
    let flood = tokio::spawn(async move {
        let mut at = START;
        for piece in wal.bytes.chunks(100_000) {
            stalled.send(&stalled.append(1, at, piece, START)).await;
            at = at.advance(piece.len() as u64);
        }
        loop {
            let heartbeat = stalled.append(1, at, &[], START);
            if tokio::time::timeout(Duration::from_secs(5), stalled.send(&heartbeat)).await.is_err() {
                return;
            }
        }
    });
    for term in 2..20 {
        let vote =
            within("a vote", async { Proposer::greeted(server.at, id, version).await.vote(term).await });
        let vote = vote.await;
        assert!(vote.vote_given && vote.flush_lsn > Lsn(0), "{vote:?}");
    }
    flood.abort();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_message_delays_no_vote() {
    let server = Server::start().await;
    let (id, version) = (timeline(1), ProtocolVersion::Holdfast2);
    server.at.create(id, version.dialect()).await;
    let mut stalled = tokio::net::TcpStream::connect(server.at.pg).await.unwrap();
    // A startup packet that never ends, and a leader that disconnected without ending the copy.
    tokio::io::AsyncWriteExt::write_all(&mut stalled, &[0, 0, 1, 0, 0, 3]).await.unwrap();
    let vanished = Proposer::elected(server.at, id, version, &[(1, START)]).await;
    drop(vanished);
    let mut next = Proposer::greeted(server.at, id, version).await;
    assert!(next.vote(2).await.vote_given);
    server.stop().await;
}
