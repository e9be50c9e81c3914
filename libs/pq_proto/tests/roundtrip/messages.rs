//! Strategies that make random messages of each kind.

use bytes::Bytes;
use pq_proto::backend::CopyFormat;
use pq_proto::error_response::Notice;
use pq_proto::frontend::{Bind, FunctionCall, Parse};
use pq_proto::replication::{
    FromPrimary, FromStandby, HotStandbyFeedback, PrimaryKeepalive, StandbyStatusUpdate, XLogData,
};
use pq_proto::{
    Authentication, BackendMessage, ErrorResponse, FieldDescription, FrontendMessage, ProtocolVersion,
    Severity, SqlState, StartupPacket, Target, Text, TransactionStatus, startup,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use wal_types::Lsn;

pub(crate) fn bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}

pub(crate) fn text_of(length: std::ops::Range<usize>) -> impl Strategy<Value = Text> {
    vec(1..=u8::MAX, length).prop_map(Text::new)
}

pub(crate) fn text() -> impl Strategy<Value = Text> {
    text_of(0..20)
}

pub(crate) fn words() -> impl Strategy<Value = String> {
    "[a-zäß√ \n]{0,20}"
}

pub(crate) fn values() -> impl Strategy<Value = Vec<Option<Bytes>>> {
    vec(option::of(bytes()), 0..5)
}

pub(crate) fn formats() -> impl Strategy<Value = Vec<i16>> {
    vec(any::<i16>(), 0..5)
}

pub(crate) fn target() -> impl Strategy<Value = Target> {
    prop_oneof![text().prop_map(Target::Statement), text().prop_map(Target::Portal)]
}

pub(crate) fn frontend() -> impl Strategy<Value = FrontendMessage> {
    use FrontendMessage as M;
    prop_oneof![
        text().prop_map(M::Query),
        (text(), text(), vec(any::<u32>(), 0..5)).prop_map(|(statement, query, parameter_types)| M::Parse(
            Parse { statement, query, parameter_types }
        )),
        (text(), text(), formats(), values(), formats()).prop_map(
            |(portal, statement, parameter_formats, parameters, result_formats)| {
                M::Bind(Bind { portal, statement, parameter_formats, parameters, result_formats })
            }
        ),
        target().prop_map(M::Describe),
        (text(), any::<i32>()).prop_map(|(portal, rows_max)| M::Execute { portal, rows_max }),
        target().prop_map(M::Close),
        Just(M::Flush),
        Just(M::Sync),
        Just(M::Terminate),
        bytes().prop_map(M::PasswordMessage),
        bytes().prop_map(M::CopyData),
        Just(M::CopyDone),
        text().prop_map(M::CopyFail),
        (any::<u32>(), formats(), values(), any::<i16>()).prop_map(
            |(function_oid, argument_formats, arguments, result_format)| {
                M::FunctionCall(FunctionCall { function_oid, argument_formats, arguments, result_format })
            }
        ),
    ]
}

pub(crate) fn authentication_request() -> impl Strategy<Value = Authentication> {
    use Authentication as A;
    prop_oneof![
        Just(A::Ok),
        Just(A::KerberosV5),
        Just(A::CleartextPassword),
        any::<[u8; 4]>().prop_map(|salt| A::Md5Password { salt }),
        Just(A::Gss),
        bytes().prop_map(A::GssContinue),
        Just(A::Sspi),
        vec(text_of(1..20), 0..3).prop_map(|mechanisms| A::Sasl { mechanisms }),
        bytes().prop_map(A::SaslContinue),
        bytes().prop_map(A::SaslFinal),
    ]
}

pub(crate) fn error_response() -> impl Strategy<Value = ErrorResponse> {
    let severity = prop_oneof![
        Just(Severity::Error),
        Just(Severity::Fatal),
        Just(Severity::Panic),
        Just(Severity::Notice(Notice::Warning)),
        Just(Severity::Notice(Notice::Notice)),
        Just(Severity::Notice(Notice::Debug)),
        Just(Severity::Notice(Notice::Info)),
        Just(Severity::Notice(Notice::Log)),
    ];
    let sqlstate = "[0-9A-Z]{5}".prop_map(|code| SqlState::parse(code.as_bytes()).unwrap());
    let other = vec((prop_oneof![Just(b'P'), Just(b'W'), Just(b'F'), Just(b'z')], text()), 0..3);
    (severity, sqlstate, words(), option::of(words()), option::of(words()), other).prop_map(
        |(severity, sqlstate, message, detail, hint, other)| ErrorResponse {
            severity,
            sqlstate,
            message,
            detail,
            hint,
            other,
        },
    )
}

pub(crate) fn field() -> impl Strategy<Value = FieldDescription> {
    (text(), any::<u32>(), any::<i16>(), any::<u32>(), any::<i16>(), any::<i32>(), any::<i16>()).prop_map(
        |(name, table_oid, column, type_oid, type_len, type_modifier, format)| FieldDescription {
            name,
            table_oid,
            column,
            type_oid,
            type_len,
            type_modifier,
            format,
        },
    )
}

pub(crate) fn copy_format() -> impl Strategy<Value = CopyFormat> {
    (any::<u8>(), formats()).prop_map(|(overall, columns)| CopyFormat { overall, columns })
}

pub(crate) fn backend() -> impl Strategy<Value = BackendMessage> {
    use BackendMessage as M;
    let status = prop_oneof![
        Just(TransactionStatus::Idle),
        Just(TransactionStatus::InTransaction),
        Just(TransactionStatus::Failed)
    ];
    let without_body = prop_oneof![
        Just(M::EmptyQueryResponse),
        Just(M::ParseComplete),
        Just(M::BindComplete),
        Just(M::CloseComplete),
        Just(M::NoData),
        Just(M::PortalSuspended),
        Just(M::CopyDone),
    ];
    let copies = prop_oneof![
        copy_format().prop_map(M::CopyInResponse),
        copy_format().prop_map(M::CopyOutResponse),
        copy_format().prop_map(M::CopyBothResponse),
        bytes().prop_map(M::CopyData),
    ];
    prop_oneof![
        authentication_request().prop_map(M::Authentication),
        (text(), text()).prop_map(|(name, value)| M::ParameterStatus { name, value }),
        (any::<i32>(), bytes()).prop_map(|(pid, key)| M::BackendKeyData { pid, key }),
        status.prop_map(M::ReadyForQuery),
        vec(field(), 0..4).prop_map(M::RowDescription),
        values().prop_map(M::DataRow),
        text().prop_map(M::CommandComplete),
        error_response().prop_map(M::ErrorResponse),
        error_response().prop_map(M::NoticeResponse),
        vec(any::<u32>(), 0..5).prop_map(M::ParameterDescription),
        (any::<u32>(), vec(text(), 0..4)).prop_map(|(newest, unsupported)| M::NegotiateProtocolVersion {
            newest: ProtocolVersion(newest),
            unsupported
        }),
        (any::<i32>(), text(), text()).prop_map(|(pid, channel, payload)| M::NotificationResponse {
            pid,
            channel,
            payload
        }),
        option::of(bytes()).prop_map(M::FunctionCallResponse),
        without_body,
        copies,
    ]
}

pub(crate) fn startup_packet() -> impl Strategy<Value = StartupPacket> {
    prop_oneof![
        Just(StartupPacket::Ssl),
        Just(StartupPacket::GssEnc),
        (any::<i32>(), vec(any::<u8>(), 4..=startup::CANCEL_KEY_BYTES_MAX))
            .prop_map(|(pid, key)| StartupPacket::Cancel { pid, key: key.into() }),
        (0u32..0x1_0000, vec((text_of(1..20), text()), 0..5)).prop_map(|(minor, params)| {
            StartupPacket::Startup {
                version: ProtocolVersion(3 << 16 | minor),
                params: params.into_iter().collect(),
            }
        }),
    ]
}

pub(crate) fn from_primary() -> impl Strategy<Value = FromPrimary> {
    prop_oneof![
        (any::<u64>(), any::<u64>(), any::<i64>(), bytes()).prop_map(|(start, end, sent_at_micros, data)| {
            FromPrimary::XLogData(XLogData { start: Lsn(start), server_end: Lsn(end), sent_at_micros, data })
        }),
        (any::<u64>(), any::<i64>(), any::<bool>()).prop_map(|(end, sent_at_micros, reply_requested)| {
            FromPrimary::Keepalive(PrimaryKeepalive { server_end: Lsn(end), sent_at_micros, reply_requested })
        }),
    ]
}

pub(crate) fn from_standby() -> impl Strategy<Value = FromStandby> {
    prop_oneof![
        (any::<[u64; 3]>(), any::<i64>(), any::<bool>()).prop_map(|(at, sent_at_micros, reply_requested)| {
            let [write, flush, apply] = at.map(Lsn);
            FromStandby::StatusUpdate(StandbyStatusUpdate {
                write,
                flush,
                apply,
                sent_at_micros,
                reply_requested,
            })
        }),
        (any::<i64>(), any::<[u32; 4]>()).prop_map(
            |(sent_at_micros, [xmin, xmin_epoch, catalog_xmin, catalog_xmin_epoch])| {
                FromStandby::HotStandbyFeedback(HotStandbyFeedback {
                    sent_at_micros,
                    xmin,
                    xmin_epoch,
                    catalog_xmin,
                    catalog_xmin_epoch,
                })
            }
        ),
    ]
}
