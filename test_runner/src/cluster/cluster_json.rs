//! `cluster.json`: the cluster file of `holdfast` (its README has the format) for a running cluster. Under `local` it also
//! has addresses, process ids, passwords and files for the programs of its users.

use anyhow::Result;

use super::state::{Part, write_private};
use super::{Cluster, PartName};
use crate::proxy;

impl Cluster {
    /// Writes `cluster.json`, readable by its owner only.
    pub fn write_cluster_json(&self) -> Result<()> {
        let pid = |part: Part| part.process.map(|process| process.pid);
        let safekeepers: Result<Vec<_>> = self
            .safekeepers()?
            .iter()
            .map(|safekeeper| {
                Ok(serde_json::json!({
                    "id": safekeeper.id, "host": "127.0.0.1", "pg_port": safekeeper.pg_port,
                    "http": safekeeper.http(), "data_dir": safekeeper.data_dir,
                    "pid": pid(self.part(PartName::Safekeeper(safekeeper.id))?),
                }))
            })
            .collect();
        let (postgres, proxy) = (self.postgres(), self.proxy());
        let local = serde_json::json!({
            "postgres": {
                "host": "127.0.0.1", "port": postgres.port, "data_dir": postgres.data_dir,
                "pid": pid(self.state.postgres),
            },
            "walproposer": {"http": self.walproposer().http(), "pid": pid(self.state.walproposer)},
            "safekeepers": safekeepers?,
            "tenant_id": self.state.tenant_id,
            "timeline_id": self.state.timeline_id,
            "psql": self.psql_line(),
            "proxy": {
                "host": "127.0.0.1", "port": proxy.port, "endpoint": proxy::ENDPOINT,
                "server_name": proxy::SERVER_NAME, "user": "app", "password": proxy.password, "dbname": "app",
                "ca_cert": proxy.authority(), "http": proxy.http(), "pid": pid(self.state.proxy.part),
            },
        });
        let asked: Vec<_> = self
            .safekeepers()?
            .iter()
            .map(|safekeeper| serde_json::json!({"id": safekeeper.id, "http": safekeeper.http()}))
            .collect();
        let walproposers = [serde_json::json!({"name": "main", "http": self.walproposer().http()})];
        let proxies = match self.options.without_proxy {
            true => Vec::new(),
            false => vec![serde_json::json!({"name": "main", "http": proxy.http()})],
        };
        let document = serde_json::json!({
            "safekeepers": asked, "walproposers": walproposers, "proxies": proxies, "local": local,
        });

        write_private(&self.directory.join("cluster.json"), &serde_json::to_string_pretty(&document)?)
    }
}
