//! PgBouncer as a middle, with session pooling, which passes on everything that the proxy passes on.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use test_runner::ports;

use super::{Middle, Setting, server_program, start_listening};
use crate::peers::database::{DATABASE, ROLE};

/// Clients, and connections to PostgreSQL, that it may have.
const CONNECTIONS_MAX: usize = 10_100;

impl Setting {
    /// PgBouncer with session pooling: one process, or several on one port (SO_REUSEPORT). `None` when it is not
    /// installed.
    pub(crate) async fn pgbouncer(&self, name: &'static str, processes: usize) -> Result<Option<Middle>> {
        let Some(executable) = server_program("pgbouncer") else { return Ok(None) };
        let port = ports::pick()?;
        let directory = self.own_directory(name)?;
        let users = directory.join("users.txt");
        fs::write(&users, format!("\"{ROLE}\" \"{}\"\n", self.verifier))?;
        let mut tls = String::new();
        if self.tls {
            let (certificate, key) = self.copy_certificates(&directory)?;
            tls = format!(
                "client_tls_sslmode = require\nclient_tls_cert_file = {}\nclient_tls_key_file = {}\n",
                certificate.display(),
                key.display()
            );
        }

        // All that is not set here is the default, such as the sizes of buffers.
        let configuration = format!(
            "[databases]\n{DATABASE} = host=127.0.0.1 port={} dbname={DATABASE}\n[pgbouncer]\n\
             listen_addr = 127.0.0.1\nlisten_port = {port}\nlisten_backlog = 4096\nunix_socket_dir =\n\
             so_reuseport = {}\npool_mode = session\nauth_type = scram-sha-256\nauth_file = {}\n\
             max_client_conn = {CONNECTIONS_MAX}\ndefault_pool_size = {CONNECTIONS_MAX}\n\
             log_connections = 0\nlog_disconnections = 0\n{tls}",
            self.database_port,
            u8::from(processes > 1),
            users.display()
        );
        let file = directory.join("pgbouncer.ini");
        fs::write(&file, configuration)?;
        for path in [&users, &file] {
            self.tools.give_to_postgres(path)?;
        }

        let mut started = Vec::new();
        for _ in 0..processes {
            // It refuses to run as root.
            let account = self.tools.account.clone();
            let program = self.program(name, executable.clone(), vec![file.display().to_string()], account);
            started.push(start_listening(&program, port).await?);
        }
        Ok(Some(self.middle(name, started, port)))
    }

    /// Copies of certificate and key that PostgreSQL's account may read.
    fn copy_certificates(&self, directory: &Path) -> Result<(PathBuf, PathBuf)> {
        let (certificate, key) = (directory.join("server.crt"), directory.join("server.key"));
        for (from, to) in [(&self.certificates.certificate, &certificate), (&self.certificates.key, &key)] {
            fs::copy(from, to)?;
            self.tools.give_to_postgres(to)?;
        }
        Ok((certificate, key))
    }
}
