//! HAProxy as a middle, in TCP mode.

use std::fs;

use anyhow::Result;
use test_runner::ports;

use super::{HAPROXY, Middle, Setting, server_program, start_listening};

/// Connections that it may have. It asks for as many descriptors at its start.
const CONNECTIONS_MAX: usize = 1_000;

impl Setting {
    /// HAProxy in TCP mode. `None` when it is not installed.
    pub(crate) async fn haproxy(&self) -> Result<Option<Middle>> {
        let Some(executable) = server_program("haproxy") else { return Ok(None) };
        let port = ports::pick()?;
        let configuration = format!(
            "global\n  maxconn {CONNECTIONS_MAX}\ndefaults\n  mode tcp\n  option splice-auto\n  timeout connect 5s\n  \
             timeout client 1h\n  timeout server 1h\nlisten postgres\n  bind 127.0.0.1:{port}\n  \
             server postgres 127.0.0.1:{}\n",
            self.database_port
        );
        let file = self.own_directory(HAPROXY)?.join("haproxy.cfg");
        fs::write(&file, configuration)?;
        let arguments = vec!["-db".into(), "-f".into(), file.display().to_string()];
        let process = start_listening(&self.program(HAPROXY, executable, arguments, None), port).await?;
        Ok(Some(self.middle(HAPROXY, vec![process], port)))
    }
}
