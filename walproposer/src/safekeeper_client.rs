//! Opens connections to safekeepers: for the proposer's messages, for reading WAL, and for SHOW.

use std::time::Duration;

use postgres_backend::client::{Client, ClientError, ConnectOptions};

use crate::config::{Cluster, SafekeeperAddress};

/// Time for TCP, startup and authentication together.
const SAFEKEEPER_CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Opens a replication connection for the log of `cluster`. The log is named in the startup parameter `options`.
pub(crate) async fn connect(cluster: &Cluster, address: &SafekeeperAddress) -> Result<Client, ClientError> {
    let options = format!("-c tenant_id={} timeline_id={}", cluster.id.tenant, cluster.id.timeline);
    let params = [("replication", "true"), ("application_name", "walproposer"), ("options", &options)];
    let options = ConnectOptions {
        host: address.host.clone(),
        port: address.port,
        user: "walproposer".to_owned(),
        params: params.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        password: cluster.token.clone(),
        tls: None,
    };
    Client::connect(&options, SAFEKEEPER_CONNECT_TIMEOUT).await
}
