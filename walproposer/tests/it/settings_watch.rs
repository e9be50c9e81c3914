//! Settings of the primary that void the promise of a quorum: seen while WAL is streamed, and delaying nothing.

use crate::support::TestCluster;
use crate::support::primary::SettingsConnections::{Hung, Refused, Served};

#[tokio::test]
async fn unsafe_settings_are_shown_while_streaming() {
    let mut cluster = TestCluster::start(3).await;
    let walproposer = cluster.start_walproposer().await;
    let status = walproposer.until_leading().await;
    assert_eq!(status["primary_settings"]["commits_wait_for_quorum"], true);
    assert_eq!(walproposer.get("/readyz").await.0, 200);

    for (setting, value, reason, waits) in [
        ("synchronous_standby_names", "", "synchronous_standby_names", false),
        ("synchronous_standby_names", "ANY 1 (wp, other)", "synchronous_standby_names", false),
        ("synchronous_commit", "local", "synchronous_commit", false),
        ("fsync", "off", "fsync", true),
        ("full_page_writes", "off", "full_page_writes", true),
    ] {
        cluster.primary.change(|server| server.settings = vec![(setting, value)]);
        let status = walproposer.until_blocked(setting).await;
        assert_eq!(status["state"], "streaming");
        assert_eq!(status["primary_settings"]["commits_wait_for_quorum"], waits, "{status}");
        assert_eq!(status["primary_settings"]["problems"][0]["reason"], reason, "{status}");
        assert_eq!(walproposer.get("/readyz").await.0, 503);
        let metrics = walproposer.get("/metrics").await.1;
        let line = format!("holdfast_walproposer_primary_unsafe{{setting=\"{reason}\"}} 1");
        assert!(metrics.contains(&line), "no {line} in {metrics}");

        cluster.primary.change(|server| server.settings.clear());
        walproposer.until_leading().await;
    }

    cluster.primary.change(|server| server.commit_overrides = vec![("app", "off")]);
    walproposer.until_blocked("synchronous_commit is off for role app").await;
    // The primary's next connection does not know the settings of roles: what was seen stays.
    cluster.restart_primary(&walproposer).await;
    walproposer.until_blocked("synchronous_commit is off for role app").await;
    cluster.primary.change(|server| server.commit_overrides.clear());
    walproposer.until_leading().await;
    cluster.write_acknowledged(100).await;
    walproposer.stop().await;
}

/// Without SQL the settings of the server are still read, and the status says what is not.
#[tokio::test]
async fn refused_settings_connection_falls_back_to_show() {
    let cluster = TestCluster::start(1).await;
    cluster.primary.change(|server| server.settings_connections = Refused);
    let walproposer = cluster.start_walproposer().await;
    walproposer.until_leading().await;
    cluster.primary.change(|server| server.settings = vec![("synchronous_standby_names", "other")]);
    walproposer.until_blocked("synchronous_standby_names is 'other'").await;
    cluster.primary.change(|server| server.settings.clear());
    let status = walproposer.until_leading().await;
    let unchecked = status["primary_settings"]["unchecked"].as_str().unwrap_or_default();
    assert!(unchecked.contains("roles and databases was not read"), "{status}");
    assert!(unchecked.contains("no pg_hba.conf entry"), "{status}");
    walproposer.stop().await;
}

/// Commits go on, and so does the next leadership.
#[tokio::test]
async fn hung_settings_connection_delays_no_commit() {
    let mut cluster = TestCluster::start(3).await;
    cluster.primary.change(|server| server.settings_connections = Hung);
    let walproposer = cluster.start_walproposer().await;
    walproposer.until_leading().await;
    cluster.write_acknowledged(100).await;
    walproposer
        .until("the look to fail", |status| {
            status["primary_settings"]["unchecked"].as_str().is_some_and(|why| why.contains("timed out"))
        })
        .await;
    cluster.write_acknowledged(100).await;
    cluster.restart_primary(&walproposer).await;
    walproposer.until_leading().await;
    cluster.write_acknowledged(100).await;
    cluster.primary.change(|server| server.settings_connections = Served);
    walproposer.until("a complete look", |status| status["primary_settings"]["unchecked"].is_null()).await;
    walproposer.stop().await;
}
