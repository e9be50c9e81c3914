//! Status updates, keepalives and silence on a stream without WAL.

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

/// The status updates that the server has received.
async fn statuses(server: &mut DuplexStream) -> Vec<StandbyStatusUpdate> {
    let mut received = Bytes::from(scripted_server::receive(server).await);
    let mut statuses = Vec::new();
    while received.len() >= STATUS_FRAME_BYTES {
        let FromStandby::StatusUpdate(status) =
            FromStandby::decode(received.slice(5..STATUS_FRAME_BYTES)).unwrap()
        else {
            panic!("no status update")
        };
        statuses.push(status);
        received.advance(STATUS_FRAME_BYTES);
    }
    assert!(received.is_empty());
    statuses
}

#[tokio::test(start_paused = true)]
async fn wal_stream_fails_when_primary_is_silent() {
    let (copy, mut server) = scripted_server::copy_both().await;
    let mut stream = WalStream::new(copy);
    let started = Instant::now();
    // The server reads, as a peer would whose way back is broken.
    let read = async {
        loop {
            scripted_server::receive(&mut server).await;
        }
    };
    let ended = tokio::select! {
        ended = timeout(LONG, stream.next_or_end(true)) => ended.expect("the stream hangs"),
        () = read => unreachable!(),
    };
    assert!(matches!(ended, Err(PrimaryError::Down(_))), "{ended:?}");
    assert_eq!(started.elapsed().as_secs(), PRIMARY_SILENCE_MAX.as_secs());
}

#[tokio::test(start_paused = true)]
async fn wal_stream_survives_idle_primary_that_replies() {
    let (copy, mut server) = scripted_server::copy_both().await;
    let mut stream = WalStream::new(copy);
    let mut reply_requests = 0;
    let reply = async {
        loop {
            for status in statuses(&mut server).await {
                if status.reply_requested {
                    reply_requests += 1;
                    scripted_server::send(&mut server, &[keepalive()]).await;
                }
            }
        }
    };
    let receive = async {
        loop {
            if let Err(ended) = stream.next_or_end(true).await {
                return ended;
            }
        }
    };
    tokio::select! {
        ended = receive => panic!("{ended}"),
        () = reply => unreachable!(),
        () = tokio::time::sleep(LONG) => {}
    }
    let interval = LONG.as_secs() / reply_requests;
    assert!(interval.abs_diff(PRIMARY_REPLY_REQUEST_INTERVAL.as_secs()) <= 1, "every {interval} s");
}

/// A primary that does not read costs one waiting status update, and gets the newest position when it reads again.
#[tokio::test(start_paused = true)]
async fn wal_stream_keeps_one_status_for_slow_primary() {
    let (copy, mut server) = scripted_server::copy_both().await;
    let mut stream = WalStream::new(copy);
    let mut cx = Context::from_waker(std::task::Waker::noop());
    let reports = 1000;
    for lsn in 1..=reports {
        stream.report(Lsn(lsn));
        assert!(stream.poll_next_or_end(&mut cx, false).is_pending());
        assert!(stream.copy.writer.buffered_bytes() <= STATUS_FRAME_BYTES);
    }
    let mut received = Vec::new();
    let last = loop {
        received.extend(scripted_server::receive(&mut server).await);
        assert!(stream.poll_next_or_end(&mut cx, false).is_pending());
        let last = received.chunks_exact(STATUS_FRAME_BYTES).next_back().unwrap()[5..].to_vec();
        let FromStandby::StatusUpdate(status) = FromStandby::decode(last.into()).unwrap() else {
            panic!("no status update")
        };
        if status.flush == Lsn(reports) {
            break received.len() / STATUS_FRAME_BYTES;
        }
    };
    assert!(last < 200, "{last} status updates for {reports} positions");
}
