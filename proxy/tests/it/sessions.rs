//! Sessions of ordinary clients: logins and refusals, COPY, pipelining, notifications, cancel requests, TLS to the
//! compute.

use std::process::Command;

use futures::future::join_all;
use test_runner::{clients, wait};
use tokio_postgres::error::SqlState;
use tokio_postgres::{AsyncMessage, Client};

use crate::installation::{DEADLINE, Installation};
use crate::proxy_process::Proxy;

/// Bytes of a COPY in each direction.
const COPY_BYTES_MIN: u64 = 128 << 20;

#[tokio::test]
async fn login_works_by_every_route_and_refuses_clearly() {
    let installation = Installation::new("logins").await;
    let uri = installation.uri();
    let settings =
        format!("{uri}&application_name=it&options=-c%20work_mem%3D7MB%20-c%20my.words%3Da%5C%20b");
    let shown = [
        "SHOW application_name",
        "SHOW work_mem",
        "SHOW my.words",
        "SELECT current_user || current_database()",
    ];
    assert_eq!(installation.ask(&settings, &shown).await, "it\n7MB\na b\nappapp");
    let latin1 = format!("{uri}&client_encoding=LATIN1");
    assert_eq!(installation.ask(&latin1, &["SHOW client_encoding"]).await, "LATIN1");
    assert_eq!(installation.ask(&format!("{uri}&channel_binding=require"), &["SELECT 1"]).await, "1");
    for other_way in [
        uri.replace("main.db.test", "localhost").replace("/app?", "/app?options=project%3Dmain&"),
        uri.replace("main.db.test", "localhost").replace("app:", "app%40main:"),
    ] {
        assert_eq!(installation.ask(&other_way, &["SELECT current_user"]).await, "app", "{other_way}");
    }

    for (wrong, words) in [
        (uri.replace("p%C3%A4ss", "pass"), "FATAL:  password authentication failed for user \"app\""),
        (uri.replace("app:", "nobody:"), "FATAL:  password authentication failed for user \"nobody\""),
        (uri.replace("main.", "other."), "FATAL:  endpoint \"other\" is not known"),
        (uri.replace("main.db.test", "localhost"), "FATAL:  no endpoint is named"),
        (format!("{uri}&options=endpoint%3Dother"), "FATAL:  two different endpoints are named"),
        (
            uri.replace("verify-full", "disable"),
            "FATAL:  connection is insecure (try using `sslmode=require`)",
        ),
        (uri.replace("/app?", "/none?"), "FATAL:  database \"none\" does not exist"),
        (format!("{uri}&options=-c%20no_such_setting%3D1"), "FATAL:  unrecognized configuration parameter"),
        (uri.replace("main.db.test", "main.else.test"), "server certificate for"),
    ] {
        let output = installation.psql(&wrong, &["SELECT 1"]).await;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(words), "{wrong}\n{said}");
    }
    installation.passed();
}

/// The load is spread although one thread accepts all connections.
#[tokio::test]
async fn connections_are_spread_over_threads() {
    const THREADS: usize = 3;
    const EACH: usize = 4;
    let installation = Installation::new("threads").await;
    let proxy = Proxy::start(&installation, "threads", &["--threads", "3"], &[]).await;
    let mut clients = Vec::new();
    for _ in 0..THREADS * EACH {
        clients.push(installation.connect(&proxy.config()).await.unwrap());
    }
    let metrics = proxy.get("/metrics").await.unwrap().1;
    for thread in 0..THREADS {
        let line = format!("holdfast_proxy_thread_connections{{thread=\"{thread}\"}} {EACH}\n");
        assert!(metrics.contains(&line), "{line}{metrics}");
    }
    for (client, _) in &clients {
        client.simple_query("SELECT 1").await.unwrap();
    }
}

#[tokio::test]
async fn pgbench_and_copy_go_through_whole() {
    let installation = Installation::new("load").await;
    let (uri, tools) = (installation.uri(), installation.postgres.tools.clone());
    let pgbench = async |arguments: &[&str]| {
        let arguments = [arguments, &[&uri]].concat();
        clients::run(&tools.postgres("pgbench"), &arguments, &[]).await.unwrap()
    };
    pgbench(&["-i", "-q", "-s", "1"]).await;
    for mode in ["simple", "extended", "prepared"] {
        let report = pgbench(&["-M", mode, "-c", "4", "-t", "100"]).await;
        assert!(report.contains("number of transactions actually processed: 400/400"), "{report}");
    }

    let directory = installation.environment.as_ref().unwrap().directory.clone();
    let (first, second) = (directory.join("first.copy"), directory.join("second.copy"));
    let rows = "SELECT g, repeat(md5(g::text), 20) FROM generate_series(1, 210000) g";
    let out = format!("\\copy ({rows}) TO '{}'", first.display());
    let back = format!("\\copy t FROM '{}'", first.display());
    let again = format!("\\copy (TABLE t ORDER BY 1) TO '{}'", second.display());
    installation.ask(&uri, &[&out, "CREATE UNLOGGED TABLE t (a int, b text)", &back, &again]).await;
    let bytes = std::fs::metadata(&first).unwrap().len();
    assert!(bytes > COPY_BYTES_MIN, "{bytes} bytes");
    let same = Command::new("cmp").args([&first, &second]).status().unwrap();
    assert!(same.success(), "the copied table differs");
    let metrics = installation.http("/metrics").await;
    assert!(
        metrics.contains("holdfast_proxy_connections_closed_total{reason=\"client_closed\"}"),
        "{metrics}"
    );
    installation.passed();
}

/// Queries are sent before earlier answers; notices arrive without a query.
#[tokio::test]
async fn relay_does_not_wait_for_message_pairs() {
    let installation = Installation::new("pipeline").await;
    let (client, _connection) = installation.connect(&installation.config()).await.unwrap();
    let statement = client.prepare("SELECT $1::int4 / $2::int4").await.unwrap();
    let answers = join_all((0..300).map(|number| {
        let (client, statement) = (&client, &statement);
        // One query in a hundred fails, and the others do not.
        async move { client.query_one(statement, &[&number, &(number % 100)]).await }
    }));
    for (number, answer) in answers.await.into_iter().enumerate() {
        match answer {
            Ok(row) => assert_eq!(row.get::<_, i32>(0) as usize, number / (number % 100)),
            Err(error) => assert_eq!((error.code(), number % 100), (Some(&SqlState::DIVISION_BY_ZERO), 0)),
        }
    }

    let (listener, mut connection) = installation.config().connect(installation.tls()).await.unwrap();
    let (sender, mut received) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(std::future::poll_fn(move |cx| {
        loop {
            match std::task::ready!(connection.poll_message(cx)) {
                Some(Ok(AsyncMessage::Notification(note))) => sender.send(note.payload().to_owned()).unwrap(),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return std::task::Poll::Ready(()),
            }
        }
    }));
    listener.batch_execute("LISTEN news").await.unwrap();
    client.batch_execute("NOTIFY news, 'all is well'").await.unwrap();
    let heard = tokio::time::timeout(DEADLINE, received.recv()).await.unwrap();
    assert_eq!(heard.as_deref(), Some("all is well"));
    installation.passed();
}

/// A client that is killed leaves no running query on the compute either.
#[tokio::test]
async fn cancel_reaches_its_backend_only() {
    let installation = Installation::new("cancel").await;
    let (slow, _connection) = installation.connect(&installation.config()).await.unwrap();
    let (other, _connection) = installation.connect(&installation.config()).await.unwrap();
    let token = slow.cancel_token();

    let sleep = "SELECT pg_sleep(1000)";
    let sleeping = tokio::spawn(async move { slow.batch_execute(sleep).await.unwrap_err() });
    wait_running(&other, sleep, 1).await;
    token.cancel_query(installation.tls()).await.unwrap();
    assert_eq!(sleeping.await.unwrap().code(), Some(&SqlState::QUERY_CANCELED));
    assert_eq!(other.query_one("SELECT 1", &[]).await.unwrap().get::<_, i32>(0), 1);

    let long = "SELECT pg_sleep(2000)";
    let mut psql = Command::new(installation.postgres.tools.postgres("psql"))
        .args(["-X", "-c", long, "-d", &installation.uri()])
        .spawn()
        .unwrap();
    wait_running(&other, long, 1).await;
    psql.kill().unwrap();
    psql.wait().unwrap();
    wait_running(&other, long, 0).await;
    installation.passed();
}

/// Waits until `count` sessions run this query.
async fn wait_running(client: &Client, query: &str, count: i64) {
    let ask = format!("SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query = '{query}'");
    let what = format!("{count} times {query}");
    wait::until(&what, DEADLINE, async || {
        let running: i64 = client.query_one(&ask, &[]).await?.get(0);
        Ok((running == count).then_some(()))
    })
    .await
    .unwrap();
}

/// The compute must prove its name.
#[tokio::test]
async fn compute_tls_carries_sessions_and_cancels() {
    let right = "tls = { ca = \"ca.pem\", server_name = \"localhost\" }\n";
    let installation = Installation::with_endpoint("tls", right).await;
    let (client, _connection) = installation.connect(&installation.config()).await.unwrap();
    let encrypted = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    assert!(client.query_one(encrypted, &[]).await.unwrap().get::<_, bool>(0));
    let token = client.cancel_token();
    let sleeping =
        tokio::spawn(async move { client.batch_execute("SELECT pg_sleep(1000)").await.unwrap_err() });
    let (other, _connection) = installation.connect(&installation.config()).await.unwrap();
    wait_running(&other, "SELECT pg_sleep(1000)", 1).await;
    token.cancel_query(installation.tls()).await.unwrap();
    assert_eq!(sleeping.await.unwrap().code(), Some(&SqlState::QUERY_CANCELED));
    installation.passed();
}

#[tokio::test]
async fn compute_with_a_wrong_certificate_gets_no_session() {
    let wrong = "tls = { ca = \"ca.pem\", server_name = \"elsewhere.test\" }\n";
    let installation = Installation::with_endpoint("wrong-tls", wrong).await;
    let refused = installation.connect(&installation.config()).await.err().unwrap();
    assert_eq!(refused.code(), Some(&SqlState::CONNECTION_FAILURE), "{refused:?}");
    assert!(installation.log().contains("certificate not valid for name"), "{}", installation.log());
    installation.passed();
}
