//! Memory cost of decoding: a length or count that a peer announces does not decide how much memory its message costs.
//!
//! Alone in its binary because it replaces the allocator.

mod counting_allocator;

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};

use bytes::{Bytes, BytesMut};
use pq_proto::authentication::{SaslInitialResponse, decode_password};
use pq_proto::{BackendMessage, Frame, FramedReader, FrontendMessage};
use tokio::io::AsyncRead;

use crate::counting_allocator::cost;

/// Memory that a byte may cost which has arrived: the entry of a list is larger than on the wire, and a list that
/// grows is copied.
const COST_PER_BYTE_MAX: usize = 128;
/// Memory that reading may cost before a byte has arrived: room for one read, and the error.
const COST_MAX: usize = 3 * 8 * 1024;

const LENGTHS: [[u8; 4]; 8] = [
    [0xff; 4],
    [0x7f, 0xff, 0xff, 0xff],
    [0x80, 0, 0, 0],
    [0, 0xff, 0xff, 0xff],
    [0, 1, 0, 0],
    [0, 0, 0x27, 0x10],
    [0, 0, 0, 8],
    [0, 0, 0, 0],
];

#[test]
fn startup_packet_costs_only_what_has_arrived() {
    for length in LENGTHS {
        for code in [[0, 3, 0, 0], [0, 3, 0, 2], [4, 210, 22, 46], [4, 210, 22, 47], [0x47, 0x45, 0x54, 0x20]]
        {
            for rest in [&b""[..], b"user\0me\0\0", &[b'x'; 300], b"a\0\0b\0\0c\0\0d\0\0e\0\0f\0\0g\0\0\0"] {
                let bytes = [&length[..], &code, rest].concat();
                assert_cheap(&bytes, |reader| drop(poll_once(reader.read_startup_packet())));
            }
        }
    }
}

#[test]
fn frame_costs_only_what_has_arrived() {
    for length in LENGTHS {
        for rest in [&b""[..], b"SCRAM", &[0; 300]] {
            let bytes = [&b"p"[..], &length, rest].concat();
            for bytes_max in [16 * 1024, usize::MAX] {
                assert_cheap(&bytes, |reader| drop(poll_once(reader.read_frame(bytes_max))));
            }
        }
    }
}

/// Every place in a message where a count or a length can stand is overwritten with every one that is tempting.
#[test]
fn counts_inside_a_message_cost_nothing() {
    for tag in (b'A'..=b'Z').chain(b'a'..=b'z').chain(b'1'..=b'3') {
        for at in 0..60 {
            for length in LENGTHS {
                let mut body = BytesMut::zeroed(64);
                body[at..at + 4].copy_from_slice(&length);
                let body = body.freeze();
                let frame = Frame { tag, body: body.clone() };
                let cost = cost(|| {
                    drop(FrontendMessage::decode(frame.clone()));
                    drop(BackendMessage::decode(frame.clone()));
                    drop(SaslInitialResponse::decode(body.clone()));
                    drop(decode_password(body.clone()));
                });
                assert!(cost <= 64 * COST_PER_BYTE_MAX, "{cost} bytes for {} {body:?}", char::from(tag));
            }
        }
    }
}

fn assert_cheap(bytes: &[u8], read: impl FnOnce(&mut FramedReader<ThenSilence>)) {
    let mut reader = FramedReader::new(ThenSilence(Bytes::copy_from_slice(bytes)));
    let cost = cost(|| read(&mut reader));
    assert!(cost > 0, "nothing was measured");
    let limit = COST_MAX + bytes.len() * COST_PER_BYTE_MAX;
    assert!(cost <= limit, "{cost} bytes allocated for {bytes:?}");
}

fn poll_once<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        std::task::Poll::Ready(value) => Some(value),
        std::task::Poll::Pending => None,
    }
}

/// A stream that gives these bytes and then waits for ever.
struct ThenSilence(Bytes);

impl AsyncRead for ThenSilence {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        if self.0.is_empty() {
            return std::task::Poll::Pending;
        }
        let count = self.0.len().min(buffer.remaining());
        buffer.put_slice(&self.0.split_to(count));
        std::task::Poll::Ready(Ok(()))
    }
}
