//! Tests of both halves over pipes in memory: futures dropped half way, lengths that lie, streams that end.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::reader::READ_CHUNK_BYTES;
use super::{FramedReader, FramedWriter};
use crate::error::{FramedError, ProtocolError};
use crate::startup::STARTUP_PACKET_BYTES_MAX;
use crate::{BackendMessage, Encode, FrontendMessage, StartupPacket};

const PIPE_BYTES: usize = 1 << 20;
const BODY_BYTES_MAX: usize = 1 << 20;

/// One poll, then the future is dropped: what `select!` does with an arm that lost.
fn poll_once<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

async fn reader_of(bytes: &[u8]) -> (FramedReader<DuplexStream>, DuplexStream) {
    let (mut peer, ours) = duplex(PIPE_BYTES);
    peer.write_all(bytes).await.unwrap();
    (FramedReader::new(ours), peer)
}

#[tokio::test]
async fn read_frame_survives_dropped_futures() {
    let mut wire = BytesMut::new();
    for text in ["first", "second"] {
        FrontendMessage::Query(text.into()).encode(&mut wire).unwrap();
    }
    let (mut reader, mut peer) = reader_of(&[]).await;
    let mut queries = Vec::new();
    for byte in wire {
        peer.write_all(&[byte]).await.unwrap();
        if let Some(frame) = poll_once(reader.read_frame(BODY_BYTES_MAX)) {
            queries.push(FrontendMessage::decode(frame.unwrap().unwrap()).unwrap());
        }
    }
    assert_eq!(queries, [FrontendMessage::Query("first".into()), FrontendMessage::Query("second".into())]);
}

#[tokio::test]
async fn read_frame_allocates_little_for_announced_bytes() {
    let (mut reader, _peer) = reader_of(b"d\x7f\xff\xff\xffsome").await;
    assert!(poll_once(reader.read_frame(usize::MAX)).is_none());
    assert!(reader.buffer_capacity() <= 2 * READ_CHUNK_BYTES, "{} bytes", reader.buffer_capacity());
}

#[tokio::test]
async fn read_buffer_grows_with_what_arrived() {
    let (mut reader, mut peer) = reader_of(b"d\x7f\xff\xff\xff").await;
    for arrived in (4096..=128 * 1024).step_by(4096) {
        peer.write_all(&[0; 4096]).await.unwrap();
        assert!(poll_once(reader.read_frame(usize::MAX)).is_none());
        assert!(reader.buffer_capacity() <= 2 * (arrived + 2 * READ_CHUNK_BYTES), "after {arrived} bytes");
    }
}

#[tokio::test]
async fn read_frame_refuses_a_length_before_its_body() {
    for (header, expected) in [
        (&b"d\0\0\0\x03"[..], ProtocolError::InvalidLength(3)),
        (b"d\0\0\0\0", ProtocolError::InvalidLength(0)),
        (b"d\xff\xff\xff\xff", ProtocolError::InvalidLength(-1)),
        (b"d\0\0\0\x0f", ProtocolError::TooLong { announced: 15, max: 14 }),
    ] {
        let (mut reader, _peer) = reader_of(header).await;
        match poll_once(reader.read_frame(10)) {
            Some(Err(FramedError::Protocol(error))) => assert_eq!(error, expected),
            other => panic!("{header:?}: {other:?}"),
        }
    }
    let (mut reader, _peer) = reader_of(b"d\0\0\0\x0e0123456789").await;
    assert_eq!(reader.read_frame(10).await.unwrap().unwrap().body.len(), 10);
}

#[tokio::test]
async fn stream_end_is_clean_only_between_messages() {
    let (mut reader, peer) = reader_of(b"S\0\0\0\x04").await;
    drop(peer);
    assert!(reader.read_frame(BODY_BYTES_MAX).await.unwrap().is_some());
    assert!(reader.read_frame(BODY_BYTES_MAX).await.unwrap().is_none());
    for torn in [&b"d"[..], b"d\0\0\0", b"d\0\0\0\x06a"] {
        let (mut reader, peer) = reader_of(torn).await;
        drop(peer);
        assert!(
            matches!(reader.read_frame(BODY_BYTES_MAX).await, Err(FramedError::ClosedInsideMessage)),
            "{torn:?}"
        );
    }
}

#[tokio::test]
async fn startup_packet_has_10000_bytes_at_most() {
    for (value_bytes, fits) in [(9_985, true), (9_986, false)] {
        let params = [("user", "x".repeat(value_bytes))].into_iter().collect();
        let packet = StartupPacket::Startup { version: crate::ProtocolVersion::V3_0, params };
        let mut wire = BytesMut::new();
        packet.encode(&mut wire).unwrap();
        assert_eq!(wire.len() <= STARTUP_PACKET_BYTES_MAX, fits);
        let (mut reader, _peer) = reader_of(&wire).await;
        let read = poll_once(reader.read_startup_packet()).expect("everything is there");
        assert_eq!(read.is_ok_and(|read| read == Some(packet)), fits);
    }
}

#[tokio::test]
async fn dropped_flush_loses_and_repeats_nothing() {
    let (mut peer, ours) = duplex(7);
    let mut writer = FramedWriter::new(ours);
    let message = BackendMessage::CopyData(vec![b'x'; 100].into());
    let mut expected = BytesMut::new();
    message.encode(&mut expected).unwrap();
    writer.put(&message).unwrap();
    let mut received = BytesMut::new();
    while writer.buffered_bytes() > 0 {
        let _ = poll_once(writer.flush());
        let _ = poll_once(peer.read_buf(&mut received));
    }
    while received.len() < expected.len() {
        peer.read_buf(&mut received).await.unwrap();
    }
    assert_eq!(received, expected);
}

#[tokio::test]
async fn peek_byte_consumes_nothing() {
    let (mut reader, peer) = reader_of(b"S").await;
    drop(peer);
    assert_eq!(reader.peek_byte().await.unwrap(), Some(b'S'));
    assert_eq!(reader.read_byte().await.unwrap(), Some(b'S'));
    assert_eq!(reader.read_byte().await.unwrap(), None);
}
