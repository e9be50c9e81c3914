//! Failures during a session: the compute is killed, or the proxy gets SIGTERM or SIGINT.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use test_runner::wait;
use tokio_postgres::error::SqlState;

use crate::installation::{DEADLINE, Installation};

/// The processes of a PostgreSQL: the postmaster and its children.
fn family(postmaster: Pid) -> Vec<Pid> {
    let children = std::fs::read_to_string(format!("/proc/{postmaster}/task/{postmaster}/children")).unwrap();
    let children = children.split_whitespace().map(|pid| Pid::from_raw(pid.parse().unwrap()));
    std::iter::once(postmaster).chain(children).collect()
}

#[tokio::test]
async fn killed_compute_fails_sessions_and_wakes_again() {
    let installation = Installation::new("killed").await;
    let (client, connection) = installation.connect(&installation.config()).await.unwrap();
    client.batch_execute("CREATE TABLE t AS SELECT 1 AS x").await.unwrap();
    let family = family(installation.postmaster().unwrap());
    let sleeping = tokio::spawn(async move { client.batch_execute("SELECT pg_sleep(1000)").await });
    wait::until("the query to run", DEADLINE, async || {
        let sessions = installation.http("/v1/sessions").await;
        Ok(sessions.contains("\"state\":\"passing\"").then_some(()))
    })
    .await
    .unwrap();

    for process in family {
        kill(process, Signal::SIGKILL).unwrap();
    }

    // Which process of PostgreSQL dies first is random. The client gets an error in any case.
    let error = sleeping.await.unwrap().err().or(connection.await.unwrap().err()).unwrap();
    let expected = [SqlState::CONNECTION_FAILURE, SqlState::CRASH_SHUTDOWN, SqlState::ADMIN_SHUTDOWN];
    assert!(error.code().is_some_and(|code| expected.contains(code)), "{error:?}");
    assert_eq!(installation.ask(&installation.uri(), &["TABLE t"]).await, "1");
    installation.passed();
}

#[tokio::test]
async fn sigterm_lets_work_finish_and_sigint_does_not() {
    let installation = Installation::new("shutdown").await;
    let (busy, _connection) = installation.connect(&installation.config()).await.unwrap();
    let (idle, idle_connection) = installation.connect(&installation.config()).await.unwrap();
    idle.batch_execute("SELECT 1").await.unwrap();
    busy.batch_execute("BEGIN").await.unwrap();
    installation.proxy.signal(Signal::SIGTERM).unwrap();
    let ended = idle_connection.await.unwrap().unwrap_err();
    assert_eq!(ended.code(), Some(&SqlState::ADMIN_SHUTDOWN));
    assert!(installation.connect(&installation.config()).await.is_err());
    let answer = busy.query_one("SELECT 42", &[]).await.unwrap();
    assert_eq!(answer.get::<_, i32>(0), 42);
    assert!(installation.proxy.is_alive());
    installation.proxy.signal(Signal::SIGINT).unwrap();
    let begin = Instant::now();
    installation.proxy.wait_gone(DEADLINE).await.unwrap();
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    assert!(busy.batch_execute("COMMIT").await.is_err());
    assert!(
        installation.log().contains("ended drained=Interrupted { tasks_left: 1 }"),
        "{}",
        installation.log()
    );
    installation.passed();
}
