//! Who must say what, and how often, while nobody writes.

use super::*;
use crate::scripted_server;
use bytes::{Buf, Bytes, BytesMut};
use pq_proto::BackendMessage;
use pq_proto::replication::{FromStandby, PrimaryKeepalive};
use tokio::io::DuplexStream;

/// Far beyond every limit.
const LONG: Duration = Duration::from_secs(600);
/// CopyData of a status update: type, length, payload.
const STATUS_FRAME_BYTES: usize = 5 + 34;

fn keepalive() -> BackendMessage {
    let keepalive = PrimaryKeepalive { server_end: Lsn(100), sent_at_micros: 0, reply_requested: false };
    let mut payload = BytesMut::new();
    keepalive.encode(&mut payload);
    BackendMessage::CopyData(payload.freeze())
}

/// The status updates that have come.
async fn statuses(server: &mut DuplexStream) -> Vec<StandbyStatusUpdate> {
    let mut said = Bytes::from(scripted_server::receive(server).await);
    let mut statuses = Vec::new();
    while said.len() >= STATUS_FRAME_BYTES {
        let FromStandby::StatusUpdate(status) =
            FromStandby::decode(said.slice(5..STATUS_FRAME_BYTES)).unwrap()
        else {
            panic!("no status update")
        };
        statuses.push(status);
        said.advance(STATUS_FRAME_BYTES);
    }
    assert!(said.is_empty());
    statuses
}

#[tokio::test(start_paused = true)]
async fn a_primary_that_says_nothing_is_down() {
    let (copy, mut server) = scripted_server::copy_both().await;
    let (items, _received) = mpsc::channel(1);
    let (_report, reported) = watch::channel(Lsn::INVALID);
    let started = Instant::now();
    // It reads, as a peer behind a broken way back would.
    let read = async {
        loop {
            scripted_server::receive(&mut server).await;
        }
    };
    let ended = tokio::select! {
        ended = timeout(LONG, converse(copy, items, reported)) => ended.expect("it hangs"),
        () = read => unreachable!(),
    };
    assert!(matches!(ended, Ended::Failed(PrimaryError::Down(_))), "{ended:?}");
    assert_eq!(started.elapsed().as_secs(), PRIMARY_SILENCE_MAX.as_secs());
}

#[tokio::test(start_paused = true)]
async fn an_idle_primary_that_answers_when_it_is_asked_is_not_down() {
    let (copy, mut server) = scripted_server::copy_both().await;
    let (items, mut received) = mpsc::channel(1);
    let (_report, reported) = watch::channel(Lsn::INVALID);
    let mut questions = 0;
    let answer_questions = async {
        loop {
            for status in statuses(&mut server).await {
                if status.reply_requested {
                    questions += 1;
                    scripted_server::send(&mut server, &[keepalive()]).await;
                }
            }
        }
    };
    let take = async { while received.recv().await.is_some() {} };
    let conversation = async { tokio::join!(converse(copy, items, reported), take) };
    tokio::select! {
        (ended, ()) = conversation => panic!("{ended:?}"),
        () = answer_questions => unreachable!(),
        () = tokio::time::sleep(LONG) => {}
    }
    let asked_every = LONG.as_secs() / questions;
    assert!(asked_every.abs_diff(PRIMARY_QUESTION_INTERVAL.as_secs()) <= 1, "every {asked_every} s");
}
