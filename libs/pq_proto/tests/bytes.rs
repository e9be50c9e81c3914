//! Messages compared with bytes written by hand from "Message Formats" in the PostgreSQL documentation. A codec that is
//! wrong in both directions would pass every round trip.

#![expect(clippy::unwrap_used, reason = "a panic is how a test reports")]

use bytes::{Bytes, BytesMut};
use pq_proto::backend::CopyFormat;
use pq_proto::frontend::{Bind, Parse};
use pq_proto::replication::{FromPrimary, FromStandby, PrimaryKeepalive, StandbyStatusUpdate, XLogData};
use pq_proto::{
    Authentication, BackendMessage, Encode, ErrorResponse, FieldDescription, Frame, FrontendMessage,
    ProtocolVersion, SqlState, StartupPacket, Target, TransactionStatus,
};
use wal_types::Lsn;

fn encoded(message: &impl Encode) -> Bytes {
    let mut out = BytesMut::new();
    message.encode(&mut out).unwrap();
    out.freeze()
}

fn frame(wire: &'static [u8]) -> Frame {
    Frame { tag: wire[0], body: Bytes::from_static(&wire[5..]) }
}

#[test]
fn frontend_messages_have_the_documented_bytes() {
    let cases: &[(FrontendMessage, &'static [u8])] = &[
        (FrontendMessage::Query("abc".into()), b"Q\0\0\0\x08abc\0"),
        (
            FrontendMessage::Parse(Parse {
                statement: "s".into(),
                query: "q".into(),
                parameter_types: vec![23],
            }),
            b"P\0\0\0\x0es\0q\0\0\x01\0\0\0\x17",
        ),
        (
            FrontendMessage::Bind(Bind {
                portal: "p".into(),
                statement: "s".into(),
                parameter_formats: vec![1],
                parameters: vec![None, Some("v".into())],
                result_formats: vec![],
            }),
            b"B\0\0\0\x19p\0s\0\0\x01\0\x01\0\x02\xff\xff\xff\xff\0\0\0\x01v\0\0",
        ),
        (FrontendMessage::Describe(Target::Portal("p".into())), b"D\0\0\0\x07Pp\0"),
        (FrontendMessage::Execute { portal: "".into(), rows_max: 5 }, b"E\0\0\0\x09\0\0\0\0\x05"),
        (FrontendMessage::Close(Target::Statement("s".into())), b"C\0\0\0\x07Ss\0"),
        (FrontendMessage::Sync, b"S\0\0\0\x04"),
        (FrontendMessage::Terminate, b"X\0\0\0\x04"),
        (FrontendMessage::PasswordMessage("pw\0".into()), b"p\0\0\0\x07pw\0"),
        (FrontendMessage::CopyFail("no".into()), b"f\0\0\0\x07no\0"),
        (FrontendMessage::CopyDone, b"c\0\0\0\x04"),
    ];
    for (message, wire) in cases {
        assert_eq!(encoded(message), *wire, "{message:?}");
        assert_eq!(FrontendMessage::decode(frame(wire)).as_ref(), Ok(message));
    }
}

#[test]
fn backend_messages_have_the_documented_bytes() {
    let sasl = Authentication::Sasl { mechanisms: vec!["A".into(), "B".into()] };
    let error = ErrorResponse::fatal(SqlState::ADMIN_SHUTDOWN, "bye").with_detail("d").with_hint("h");
    let cases: &[(BackendMessage, &'static [u8])] = &[
        (BackendMessage::Authentication(Authentication::Ok), b"R\0\0\0\x08\0\0\0\0"),
        (
            BackendMessage::Authentication(Authentication::Md5Password { salt: *b"salt" }),
            b"R\0\0\0\x0c\0\0\0\x05salt",
        ),
        (BackendMessage::Authentication(sasl), b"R\0\0\0\x0d\0\0\0\x0aA\0B\0\0"),
        (BackendMessage::BackendKeyData { pid: 1, key: "keys".into() }, b"K\0\0\0\x0c\0\0\0\x01keys"),
        (BackendMessage::ParameterStatus { name: "n".into(), value: "v".into() }, b"S\0\0\0\x08n\0v\0"),
        (BackendMessage::ReadyForQuery(TransactionStatus::Idle), b"Z\0\0\0\x05I"),
        (
            BackendMessage::RowDescription(vec![FieldDescription::text("x")]),
            b"T\0\0\0\x1a\0\x01x\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0",
        ),
        (
            BackendMessage::DataRow(vec![None, Some("v".into())]),
            b"D\0\0\0\x0f\0\x02\xff\xff\xff\xff\0\0\0\x01v",
        ),
        (BackendMessage::CommandComplete("SHOW".into()), b"C\0\0\0\x09SHOW\0"),
        (BackendMessage::ErrorResponse(error), b"E\0\0\0\x25SFATAL\0VFATAL\0C57P01\0Mbye\0Dd\0Hh\0\0"),
        (BackendMessage::CopyBothResponse(CopyFormat::default()), b"W\0\0\0\x07\0\0\0"),
        (
            BackendMessage::NegotiateProtocolVersion {
                newest: ProtocolVersion::V3_0,
                unsupported: vec!["_pq_.a".into()],
            },
            b"v\0\0\0\x13\0\x03\0\0\0\0\0\x01_pq_.a\0",
        ),
        (
            BackendMessage::NotificationResponse { pid: 1, channel: "c".into(), payload: "p".into() },
            b"A\0\0\0\x0c\0\0\0\x01c\0p\0",
        ),
        (BackendMessage::FunctionCallResponse(None), b"V\0\0\0\x08\xff\xff\xff\xff"),
    ];
    for (message, wire) in cases {
        assert_eq!(encoded(message), *wire, "{message:?}");
        assert_eq!(BackendMessage::decode(frame(wire)).as_ref(), Ok(message));
    }
}

#[test]
fn startup_packets_have_the_documented_bytes() {
    let startup = StartupPacket::Startup {
        version: ProtocolVersion::V3_0,
        params: [("user", "u"), ("database", "d")].into_iter().collect(),
    };
    let cancel = StartupPacket::Cancel { pid: 7, key: "keys".into() };
    let cases: &[(StartupPacket, &'static [u8])] = &[
        (StartupPacket::Ssl, b"\0\0\0\x08\x04\xd2\x16\x2f"),
        (StartupPacket::GssEnc, b"\0\0\0\x08\x04\xd2\x16\x30"),
        (cancel, b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\x07keys"),
        (startup, b"\0\0\0\x1b\0\x03\0\0user\0u\0database\0d\0\0"),
    ];
    for (packet, wire) in cases {
        assert_eq!(encoded(packet), *wire, "{packet:?}");
        assert_eq!(StartupPacket::decode(Bytes::from_static(&wire[4..])).as_ref(), Ok(packet));
    }
}

#[test]
fn replication_payloads_have_the_documented_bytes() {
    let data = FromPrimary::XLogData(XLogData {
        start: Lsn(1),
        server_end: Lsn(2),
        sent_at_micros: 3,
        data: "wal".into(),
    });
    let keepalive = FromPrimary::Keepalive(PrimaryKeepalive {
        server_end: Lsn(1),
        sent_at_micros: -1,
        reply_requested: true,
    });
    for (message, wire) in [
        (data, &b"w\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03wal"[..]),
        (keepalive, b"k\0\0\0\0\0\0\0\x01\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
    ] {
        let mut out = BytesMut::new();
        message.encode(&mut out);
        assert_eq!(out, wire);
        assert_eq!(FromPrimary::decode(Bytes::from_static(wire)), Ok(message));
    }
    let status = FromStandby::StatusUpdate(StandbyStatusUpdate {
        write: Lsn(1),
        flush: Lsn(2),
        apply: Lsn(3),
        sent_at_micros: 4,
        reply_requested: false,
    });
    let wire = b"r\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x04\0";
    let mut out = BytesMut::new();
    status.encode(&mut out);
    assert_eq!(out, &wire[..]);
}
