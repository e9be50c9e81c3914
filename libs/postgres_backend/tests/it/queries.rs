//! Query loop: simple and extended protocol, errors, shutdown.

use postgres_backend::{ClosedBy, QUERY_BYTES_MAX};
use pq_proto::frontend::{Bind, Parse};
use pq_proto::{BackendMessage, FrontendMessage as M, SqlState, Target, Text};

use crate::support::{RawClient, SessionEnd};

fn query(text: &str) -> M {
    M::Query(text.into())
}

fn parse(statement: &str, query: &str) -> M {
    M::Parse(Parse { statement: statement.into(), query: query.into(), parameter_types: Vec::new() })
}

fn bind(statement: &str) -> M {
    M::Bind(Bind {
        portal: Text::EMPTY,
        statement: statement.into(),
        parameter_formats: Vec::new(),
        parameters: Vec::new(),
        result_formats: Vec::new(),
    })
}

fn execute() -> M {
    M::Execute { portal: Text::EMPTY, rows_max: 0 }
}

#[tokio::test]
async fn simple_query_is_answered_and_followed_by_ready() {
    let mut client = RawClient::ready().await;
    for (text, tags) in [
        ("SHOW x", "TDCZ"),
        ("WRITE", "CZ"),
        ("", "IZ"),
        (" ;\n", "IZ"),
        ("FAIL", "EZ"),
        ("nonsense", "EZ"),
        ("SHOW x", "TDCZ"),
    ] {
        client.send(&query(text)).await;
        assert_eq!(client.until_ready().await, tags, "{text:?}");
    }
    client.send(&M::Terminate).await;
    assert!(matches!(client.end().await, SessionEnd::Served(Ok(ClosedBy::Client))));
}

#[tokio::test]
async fn query_that_is_not_utf8_fails_alone() {
    let mut client = RawClient::ready().await;
    client.send(&M::Query(Text::new(&b"SHOW \xff"[..]))).await;
    let Some(BackendMessage::ErrorResponse(error)) = client.receive().await else { panic!("no error") };
    assert_eq!(error.sqlstate, SqlState::CHARACTER_NOT_IN_REPERTOIRE);
    assert_eq!(client.until_ready().await, "Z");
}

#[tokio::test]
async fn fatal_error_closes_the_connection() {
    let mut client = RawClient::ready().await;
    client.send(&query("DIE")).await;
    assert_eq!(client.last_error().await.message, "that was all");
    assert!(matches!(client.end().await, SessionEnd::Served(Ok(ClosedBy::Server))));
}

#[tokio::test]
async fn extended_protocol_runs_the_same_commands() {
    let show = || [parse("", "SHOW x"), bind("")];
    let mut client = RawClient::ready().await;
    for (messages, tags) in [
        // As libpq does: the columns are sent once.
        ([&show()[..], &[M::Describe(Target::Portal(Text::EMPTY)), execute()]].concat(), "12TDCZ"),
        // Without Describe the columns come with the rows.
        ([&show()[..], &[execute()]].concat(), "12TDCZ"),
        // As drivers with prepared statements do.
        (vec![parse("s", "SHOW x"), M::Describe(Target::Statement("s".into()))], "1tTZ"),
        (vec![bind("s"), execute()], "2DCZ"),
        (vec![M::Close(Target::Statement("s".into())), bind("s")], "3EZ"),
        (
            vec![parse("", "WRITE"), M::Describe(Target::Statement(Text::EMPTY)), bind(""), execute()],
            "1tn2CZ",
        ),
        (vec![parse("", ""), bind(""), execute()], "12IZ"),
        // Portals end with the transaction.
        (vec![execute()], "EZ"),
    ] {
        let with_sync = [&messages[..], &[M::Sync]].concat();
        client.send_all(&with_sync).await;
        assert_eq!(client.until_ready().await, tags, "{messages:?}");
    }
}

#[tokio::test]
async fn error_skips_everything_up_to_sync() {
    let mut client = RawClient::ready().await;
    client
        .send_all(&[
            parse("", "FAIL"),
            bind(""),
            execute(),
            parse("", "SHOW x"),
            bind(""),
            execute(),
            M::Sync,
        ])
        .await;
    assert_eq!(client.until_ready().await, "12EZ");
    client.send_all(&[parse("", "SHOW x"), bind(""), execute(), M::Sync]).await;
    assert_eq!(client.until_ready().await, "12TDCZ");
}

#[tokio::test]
async fn flush_sends_answers_before_sync() {
    let mut client = RawClient::ready().await;
    client.send_all(&[parse("", "SHOW x"), M::Flush]).await;
    assert_eq!(client.receive().await, Some(BackendMessage::ParseComplete));
    client.send(&M::Sync).await;
    assert_eq!(client.until_ready().await, "Z");
}

#[tokio::test]
async fn unsupported_message_leaves_a_usable_connection() {
    let with_parameter = Parse { statement: Text::EMPTY, query: "SHOW x".into(), parameter_types: vec![25] };
    let binary = Bind {
        portal: Text::EMPTY,
        statement: Text::EMPTY,
        parameter_formats: Vec::new(),
        parameters: Vec::new(),
        result_formats: vec![1],
    };
    let mut client = RawClient::ready().await;
    for (messages, tags) in [
        (vec![M::Parse(with_parameter), M::Sync], "EZ"),
        (vec![parse("", "SHOW x"), M::Bind(binary), M::Sync], "1EZ"),
        (vec![M::PasswordMessage("late".into()), M::Sync], "EZ"),
    ] {
        client.send_all(&messages).await;
        assert_eq!(client.until_ready().await, tags, "{messages:?}");
    }
}

#[tokio::test]
async fn invalid_message_is_a_protocol_violation() {
    let too_long = u32::try_from(QUERY_BYTES_MAX + 5).unwrap().to_be_bytes();
    for bytes in [b"!\0\0\0\x04".to_vec(), b"Q\0\0\0\x05x".to_vec(), [b"Q", &too_long[..]].concat()] {
        let mut client = RawClient::ready().await;
        client.send_raw(&bytes).await;
        assert_eq!(client.last_error().await.sqlstate, SqlState::PROTOCOL_VIOLATION, "{bytes:?}");
        assert!(matches!(client.end().await, SessionEnd::Served(Err(_))));
    }
}

#[tokio::test]
async fn query_of_the_longest_length_is_served() {
    let mut client = RawClient::ready().await;
    client.send(&query(&"x".repeat(QUERY_BYTES_MAX - 1))).await;
    assert_eq!(client.until_ready().await, "EZ");
}

#[tokio::test]
async fn shutdown_sends_admin_shutdown_to_waiting_client() {
    let mut client = RawClient::ready().await;
    client.stop.notify_one();
    assert_eq!(client.last_error().await.sqlstate, SqlState::ADMIN_SHUTDOWN);
    assert!(matches!(client.end().await, SessionEnd::Served(Ok(ClosedBy::Server))));
}

#[tokio::test]
async fn client_that_vanishes_between_queries_is_no_error() {
    let client = RawClient::ready().await;
    assert!(matches!(client.end().await, SessionEnd::Served(Ok(ClosedBy::Client))));
}
