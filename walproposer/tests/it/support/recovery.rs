//! `walproposer recover` inside the test's process.

use std::time::Duration;

use walproposer::config::{Cluster, RecoverConfig};
use walproposer::recover::Recovered;

use super::log::log_level;

/// One election without a primary.
pub(crate) async fn recover(cluster: &Cluster, timeout: Duration) -> anyhow::Result<Recovered> {
    fail_over(cluster, timeout, None).await
}

/// One election without a primary, after which the log is given to the primary of this name.
pub(crate) async fn fail_over(
    cluster: &Cluster,
    timeout: Duration,
    name: Option<&str>,
) -> anyhow::Result<Recovered> {
    log_level();
    let primary_name = name.map(|name| name.parse().unwrap());
    let config = RecoverConfig { cluster: cluster.clone(), timeout, primary_name, json: false };
    walproposer::recover::run(&config).await
}
