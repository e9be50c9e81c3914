//! tokio-postgres as a client: COPY, pipelining, notifications, cancel requests and startup parameters.

use std::pin::pin;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::{join_all, poll_fn};
use test_runner::bulk;
use test_runner::wait::until;
use tokio::sync::mpsc;
use tokio_postgres::AsyncMessage;
use tokio_postgres::error::SqlState;

use super::Installation;

/// Time limit for every wait of a test.
const DEADLINE: Duration = Duration::from_secs(60);
/// Bytes of the COPY in each direction.
const COPY_BYTES: u64 = 128 << 20;
/// Queries that are sent before earlier answers.
const PIPELINED: i32 = 2_000;
/// Length limit of a payload of NOTIFY (PostgreSQL documentation, NOTIFY).
const PAYLOAD_BYTES: usize = 7_999;

#[tokio::test]
async fn copied_table_comes_back_with_the_same_checksum() -> Result<()> {
    let installation = Installation::new("copy").await?;
    let before = installation.proxied.metric("holdfast_proxy_from_clients_bytes_total").await?;
    bulk::copy_both_ways(&installation.proxied, COPY_BYTES).await?;
    let counted = installation.proxied.metric("holdfast_proxy_from_clients_bytes_total").await? - before;
    let sent = COPY_BYTES as f64;
    ensure!((sent..sent * 1.01).contains(&counted), "{counted} bytes counted");
    installation.passed().await
}

#[tokio::test]
async fn queries_are_pipelined_and_answers_keep_their_order() -> Result<()> {
    let installation = Installation::new("pipeline").await?;
    let client = installation.proxied.connect("app").await?;
    let statement = client.prepare("SELECT $1::int, repeat('x', $1), 1000 / ($1 - 1000)").await?;
    let answers = join_all((0..PIPELINED).map(|number| {
        let (client, statement) = (&client, &statement);
        async move { client.query_one(statement, &[&number]).await }
    }));
    for (number, answer) in answers.await.into_iter().enumerate() {
        match answer {
            Ok(row) => {
                ensure!(usize::try_from(row.get::<_, i32>(0))? == number && number != 1000, "{row:?}");
                ensure!(row.get::<_, String>(1).len() == number, "{number}");
            }
            // Each query is a transaction of its own, so the others do not fail.
            Err(error) => {
                ensure!(number == 1000 && error.code() == Some(&SqlState::DIVISION_BY_ZERO), "{error}");
            }
        }
    }
    installation.passed().await
}

#[tokio::test]
async fn notification_reaches_an_idle_session() -> Result<()> {
    let installation = Installation::new("notify").await?;
    let proxied = &installation.proxied;
    let (listener, mut connection) = proxied.config("app").connect(proxied.tls()?).await?;
    let (sender, mut received) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
            if let AsyncMessage::Notification(notification) = message {
                let _ = sender.send(notification.payload().to_owned());
            }
        }
    });

    listener.batch_execute("LISTEN news").await?;
    let speaker = proxied.connect("app").await?;
    for payload in [String::new(), "n\u{f6}tig".into(), "x".repeat(PAYLOAD_BYTES)] {
        speaker.execute("SELECT pg_notify('news', $1)", &[&payload]).await?;
        let came = tokio::time::timeout(DEADLINE, received.recv()).await.context("no notification")?;
        ensure!(came.as_deref() == Some(payload.as_str()), "{came:?}");
    }
    installation.passed().await
}

#[tokio::test]
async fn cancel_ends_its_query_and_late_one_nothing() -> Result<()> {
    let installation = Installation::new("cancel").await?;
    let proxied = &installation.proxied;
    let (one, other) = (proxied.connect("app").await?, proxied.connect("app").await?);
    let (token, superuser) = (one.cancel_token(), proxied.connect_directly("postgres").await?);
    let sleep = "SELECT pg_sleep(1000)";
    let (mut first, mut second) = (pin!(one.batch_execute(sleep)), pin!(other.batch_execute(sleep)));
    let asleep = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    let both_sleep = until("both to sleep", DEADLINE, async || {
        Ok((superuser.query_one(asleep, &[]).await?.get::<_, i64>(0) == 2).then_some(()))
    });
    tokio::select! {
        slept = both_sleep => slept?,
        ended = &mut first => ended.context("the first ended")?,
        ended = &mut second => ended.context("the second ended")?,
    }

    token.cancel_query(proxied.tls()?).await?;
    let ended = tokio::time::timeout(DEADLINE, first).await.context("nothing was cancelled")?;
    let code = ended.err().and_then(|error| error.code().cloned());
    ensure!(code == Some(SqlState::QUERY_CANCELED), "{code:?}");
    ensure!(futures::poll!(&mut second).is_pending(), "the other one was cancelled");
    token.cancel_query(proxied.tls()?).await?;
    ensure!(one.query_one("SELECT 42", &[]).await?.get::<_, i32>(0) == 42);
    installation.passed().await
}

#[tokio::test]
async fn every_startup_parameter_arrives() -> Result<()> {
    let installation = Installation::new("parameters").await?;
    let proxied = &installation.proxied;
    let mut config = proxied.config("app");
    config.application_name("a name with \u{fc} and 'quotes'");
    config.options(
        "-c statement_timeout=12345 -c search_path=a,b -c my.setting=with\\ space -c DateStyle=German",
    );

    let (client, connection) = config.connect(proxied.tls()?).await?;
    tokio::spawn(connection);
    for (setting, expected) in [
        // PostgreSQL replaces characters that are not ASCII in this setting by question marks.
        ("application_name", "a name with ?? and 'quotes'"),
        ("statement_timeout", "12345ms"),
        ("search_path", "a,b"),
        ("my.setting", "with space"),
        ("DateStyle", "German, DMY"),
        ("client_encoding", "UTF8"),
    ] {
        let shown: String = client.query_one(&format!("SHOW {setting}"), &[]).await?.get(0);
        ensure!(shown == expected, "{setting}: {shown}");
    }
    installation.passed().await
}
