//! The cases: one message, encoded or decoded again and again.

use std::hint::black_box;

use bytes::{Bytes, BytesMut};
use consensus::{
    AcceptorMessage, AppendRequest, AppendResponse, HotStandbyFeedback, ProposerMessage, ProtocolVersion,
    codec,
};
use pq_proto::replication::{FromPrimary, FromStandby, StandbyStatusUpdate, XLogData};
use pq_proto::wire::{Frame, write_frame};
use pq_proto::{BackendMessage, FrontendMessage};
use wal_types::{Generation, Lsn, ProposerId, Term};

/// One pass.
pub(crate) type Step = Box<dyn FnMut()>;

/// A message and what is done with it.
pub(crate) struct Case {
    pub(crate) what: String,
    pub(crate) variant: &'static str,
    pub(crate) step: Step,
}

/// Sizes of WAL in a message: a commit of one row, a page, the most.
const SIZES: [(usize, &str); 3] = [(120, "120 B"), (8 * 1024, "8 KiB"), (128 * 1024, "128 KiB")];
const VERSIONS: [ProtocolVersion; 3] = [ProtocolVersion::V2, ProtocolVersion::V3, ProtocolVersion::Holdfast2];
const REPLICATION: &str = "replication protocol";

/// All cases.
pub(crate) fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    for (bytes, size) in SIZES {
        for version in VERSIONS {
            let message = append(bytes);
            let encoded = encoded(|out| codec::encode_proposer(version, &message, out).is_ok());
            cases.push(case(format!("append of {size}, encode"), name(version), move |out| {
                codec::encode_proposer(version, &message, out).is_ok()
            }));
            cases.push(decode(format!("append of {size}, decode"), name(version), encoded, move |bytes| {
                codec::decode_proposer(version, bytes).is_ok()
            }));
        }
    }
    for version in VERSIONS {
        let message = response();
        let encoded = encoded(|out| codec::encode_acceptor(version, &message, out).is_ok());
        cases.push(case("append response, encode".into(), name(version), move |out| {
            codec::encode_acceptor(version, &message, out).is_ok()
        }));
        cases.push(decode("append response, decode".into(), name(version), encoded, move |bytes| {
            codec::decode_acceptor(version, bytes).is_ok()
        }));
    }
    cases.extend(SIZES.into_iter().flat_map(|(bytes, size)| wal_frames(bytes, size)));
    cases.extend(status_frames());
    cases
}

/// WAL for a standby: a payload in a CopyData frame.
fn wal_frames(bytes: usize, size: &str) -> [Case; 2] {
    let data = Bytes::from(vec![0x5a; bytes]);
    let message =
        FromPrimary::XLogData(XLogData { start: Lsn(1), server_end: Lsn(2), sent_at_micros: 3, data });
    let body = encoded(|out| {
        message.encode(out);
        true
    });
    let encode = case(format!("frame with {size} of WAL, encode"), REPLICATION, move |out| {
        let body = |out: &mut BytesMut| {
            message.encode(out);
            Ok(())
        };
        write_frame(out, b'd', body).is_ok()
    });
    let decode = decode(format!("frame with {size} of WAL, decode"), REPLICATION, body, |body| {
        match BackendMessage::decode(Frame { tag: b'd', body }) {
            Ok(BackendMessage::CopyData(payload)) => FromPrimary::decode(payload).is_ok(),
            _ => false,
        }
    });
    [encode, decode]
}

/// A standby's report.
fn status_frames() -> [Case; 2] {
    let lsn = Lsn(0x100_0000);
    let message =
        StandbyStatusUpdate { write: lsn, flush: lsn, apply: lsn, sent_at_micros: 3, reply_requested: false };
    let body = encoded(|out| {
        message.encode(out);
        true
    });
    let encode = case("frame with a standby's report, encode".into(), REPLICATION, move |out| {
        let body = |out: &mut BytesMut| {
            message.encode(out);
            Ok(())
        };
        write_frame(out, b'd', body).is_ok()
    });
    let decode = decode("frame with a standby's report, decode".into(), REPLICATION, body, |body| {
        match FrontendMessage::decode(Frame { tag: b'd', body }) {
            Ok(FrontendMessage::CopyData(payload)) => FromStandby::decode(payload).is_ok(),
            _ => false,
        }
    });
    [encode, decode]
}

/// A case that encodes into a buffer that it keeps.
fn case(
    what: String,
    variant: &'static str,
    mut encode: impl FnMut(&mut BytesMut) -> bool + 'static,
) -> Case {
    let mut out = BytesMut::new();
    let step = Box::new(move || {
        out.clear();
        assert!(encode(&mut out), "a message cannot be encoded");
        black_box(&out);
    });
    Case { what, variant, step }
}

fn decode(
    what: String,
    variant: &'static str,
    bytes: Bytes,
    decode: impl Fn(Bytes) -> bool + 'static,
) -> Case {
    let step = Box::new(move || assert!(decode(black_box(&bytes).clone()), "a message cannot be decoded"));
    Case { what, variant, step }
}

fn encoded(encode: impl FnOnce(&mut BytesMut) -> bool) -> Bytes {
    let mut out = BytesMut::new();
    assert!(encode(&mut out), "a message cannot be encoded");
    out.freeze()
}

fn append(bytes: usize) -> ProposerMessage {
    ProposerMessage::Append(AppendRequest {
        generation: Generation(0),
        term: Term(7),
        epoch_start_lsn: Lsn(0x100_0000),
        begin_lsn: Lsn(0x200_0000),
        commit_lsn: Lsn(0x200_0000),
        truncate_lsn: Lsn(0x100_0000),
        proposer_id: ProposerId([7; 16]),
        wal: vec![0x5a; bytes].into(),
    })
}

fn response() -> AcceptorMessage {
    AcceptorMessage::Append(AppendResponse {
        oldest_lsn: Lsn::INVALID,
        generation: Generation(0),
        term: Term(7),
        flush_lsn: Lsn(0x200_0078),
        commit_lsn: Lsn(0x200_0000),
        hot_standby: HotStandbyFeedback::default(),
        pageserver: None,
    })
}

/// Dialect and version.
fn name(version: ProtocolVersion) -> &'static str {
    match version {
        ProtocolVersion::V2 => "neon, version 2",
        ProtocolVersion::V3 => "neon, version 3",
        ProtocolVersion::Holdfast2 => "holdfast-2",
    }
}
