//! Feedback of a page server (a reader of dialect `neon` that stores pages): the tail of append responses in versions 2
//! and 3.
//!
//! It is always big-endian, and also the body of the `z` message that a page server sends in START_REPLICATION:
//!
//! ```text
//! keys u8, then per key: name (zero-terminated), length i32, value
//!
//! current_timeline_size  8  u64, bytes
//! ps_writelsn            8  u64      also read as last_received_lsn
//! ps_flushlsn            8  u64      also read as disk_consistent_lsn
//! ps_applylsn            8  u64      also read as remote_consistent_lsn
//! ps_replytime           8  i64, us  also read as replytime
//! shard_number           4  u32      written when above zero
//! corruption_detected    1  u8       written when true
//! ```
//!
//! A key that is not in this list is skipped by its length.

use bytes::{BufMut, Bytes, BytesMut};
use wal_types::Lsn;

use super::error::CodecError;
use super::reader::MessageReader;
use crate::message::PageserverFeedback;

/// Appends the keys and values of `feedback` to `out`.
pub fn encode_feedback(feedback: &PageserverFeedback, out: &mut BytesMut) {
    let shard = feedback.shard_number > 0;
    out.put_u8(5 + u8::from(shard) + u8::from(feedback.corruption_detected));
    put_value(out, "current_timeline_size", &feedback.current_timeline_size.to_be_bytes());
    put_value(out, "ps_writelsn", &feedback.last_received_lsn.0.to_be_bytes());
    put_value(out, "ps_flushlsn", &feedback.disk_consistent_lsn.0.to_be_bytes());
    put_value(out, "ps_applylsn", &feedback.remote_consistent_lsn.0.to_be_bytes());
    put_value(out, "ps_replytime", &feedback.reply_time.to_be_bytes());
    if shard {
        put_value(out, "shard_number", &feedback.shard_number.to_be_bytes());
    }
    if feedback.corruption_detected {
        put_value(out, "corruption_detected", &[1]);
    }
}

/// Decodes the feedback at the beginning of `bytes`; bytes behind it are ignored. Fails when a key is unterminated or its
/// value has the wrong size.
pub fn decode_feedback(bytes: Bytes) -> Result<PageserverFeedback, CodecError> {
    get_feedback(&mut MessageReader::new(bytes))
}

pub(super) fn get_feedback(reader: &mut MessageReader) -> Result<PageserverFeedback, CodecError> {
    let mut feedback = PageserverFeedback::default();
    for _ in 0..reader.u8()? {
        let key = reader.cstr("key of page server feedback", usize::MAX)?;
        let length = i32::from_be_bytes(reader.array()?);
        let length = usize::try_from(length).map_err(|_| CodecError::FeedbackValue(length.into()))?;
        let value = reader.bytes(length)?;
        match &key[..] {
            b"current_timeline_size" => feedback.current_timeline_size = u64::from_be_bytes(fixed(&value)?),
            b"ps_writelsn" | b"last_received_lsn" => feedback.last_received_lsn = lsn(&value)?,
            b"ps_flushlsn" | b"disk_consistent_lsn" => feedback.disk_consistent_lsn = lsn(&value)?,
            b"ps_applylsn" | b"remote_consistent_lsn" => feedback.remote_consistent_lsn = lsn(&value)?,
            b"ps_replytime" | b"replytime" => feedback.reply_time = i64::from_be_bytes(fixed(&value)?),
            b"shard_number" => feedback.shard_number = u32::from_be_bytes(fixed(&value)?),
            b"corruption_detected" => feedback.corruption_detected = fixed(&value)? != [0],
            _ => {}
        }
    }

    Ok(feedback)
}

fn put_value(out: &mut BytesMut, key: &str, value: &[u8]) {
    out.put_slice(key.as_bytes());
    out.put_u8(0);
    out.put_u32(value.len() as u32);
    out.put_slice(value);
}

fn lsn(value: &[u8]) -> Result<Lsn, CodecError> {
    fixed(value).map(u64::from_be_bytes).map(Lsn)
}

fn fixed<const N: usize>(value: &[u8]) -> Result<[u8; N], CodecError> {
    value.try_into().map_err(|_| CodecError::FeedbackValue(value.len() as i64))
}
