//! Wakes: authenticated clients start a stopped compute once, however many connect.

use futures::future::join_all;
use nix::sys::signal::Signal;
use tokio_postgres::error::SqlState;

use crate::installation::{DEADLINE, Installation, Setup};

/// Concurrent clients.
const CROWD: usize = 1000;

/// All clients are served.
#[tokio::test(flavor = "multi_thread")]
async fn wake_by_a_crowd_happens_once() {
    // A thousand logins on one machine, without compiler optimisation, take longer than the default timeouts.
    let flags = &["--login-timeout", "120", "--connect-timeout", "120"];
    let installation = Installation::with("crowd", &Setup { flags, ..Setup::default() }).await;
    assert_eq!((installation.starts(), installation.postmaster()), (0, None));
    let config = installation.config();
    let clients = join_all((0..CROWD).map(|_| installation.connect(&config))).await;
    let clients: Vec<_> = clients.into_iter().map(|client| client.expect("served")).collect();
    let answers = join_all(clients.iter().map(|(client, _)| client.query_one("SELECT 1", &[]))).await;
    assert!(answers.into_iter().all(|answer| answer.unwrap().get::<_, i32>(0) == 1));
    assert_eq!(installation.starts(), 1);
    let metrics = installation.http("/metrics").await;
    for line in
        ["holdfast_proxy_wakes_total{result=\"woken\"} 1", &format!("holdfast_proxy_sessions {CROWD}")]
    {
        assert!(metrics.lines().any(|found| found == line), "{line}\n{metrics}");
    }

    drop(clients);
    installation.wait_no_sessions().await;
    installation.passed();
}

#[tokio::test]
async fn wrong_credentials_never_wake_a_compute() {
    let installation = Installation::new("uninvited").await;
    let mut config = installation.config();
    for (user, password) in [("app", "wrong"), ("nobody", "wrong"), ("postgres", "super")] {
        let refused = installation.connect(config.user(user).password(password)).await.err().unwrap();
        assert_eq!(refused.code(), Some(&SqlState::INVALID_PASSWORD), "{user}");
    }
    assert_eq!((installation.starts(), installation.postmaster()), (0, None));
    installation.passed();
}

#[tokio::test]
async fn first_commit_after_a_wake_needs_no_retry() {
    let installation = Installation::new("commit").await;
    let uri = installation.uri();
    installation.ask(&uri, &["CREATE TABLE t AS SELECT 1 AS x"]).await;
    let postmaster = installation.postmaster().unwrap();
    nix::sys::signal::kill(postmaster, Signal::SIGINT).unwrap();
    test_runner::wait::until("PostgreSQL to stop", DEADLINE, async || {
        Ok(installation.postmaster().is_none().then_some(()))
    })
    .await
    .unwrap();
    assert_eq!(installation.ask(&uri, &["UPDATE t SET x = 2", "TABLE t"]).await, "2");
    assert_eq!(installation.starts(), 2);
    installation.passed();
}
