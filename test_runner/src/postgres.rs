//! [`Postgres`]: a stock PostgreSQL server: created, configured, started and queried. A primary and a standby differ
//! only in directory and settings. `cluster` decides when and in which order servers stop.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::process::Command;
use wal_types::Lsn;

use crate::env::Tools;
use crate::process::{KillOnDrop, ProcessId, Program};
use crate::{clients, ports, wait};

/// Time limit for a server to answer, crash recovery included.
const START_TIMEOUT: Duration = Duration::from_secs(120);
/// Time limit for one attempt to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Settings of every server. Port and synchronous standby are on the command line, which `ALTER SYSTEM` cannot
/// override. The walproposer compares the segment that holds the log's last byte with the one of the primary.
/// `wal_keep_size` keeps the primary from removing it.
pub const SETTINGS: &str = "
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
wal_level = replica
max_connections = 250
max_wal_senders = 10
max_replication_slots = 10
wal_keep_size = 1GB
wal_sender_timeout = 10s
hot_standby = on
password_encryption = 'scram-sha-256'
log_line_prefix = '%m [%p] '
";

/// `pg_hba.conf`: every role needs a password. `wp` sends its password in clear text, over loopback only.
const HOST_BASED_AUTHENTICATION: &str = "
host all         postgres 127.0.0.1/32 scram-sha-256
host replication postgres 127.0.0.1/32 scram-sha-256
host app         app      127.0.0.1/32 scram-sha-256
host replication wp       127.0.0.1/32 password
host postgres    wp       127.0.0.1/32 password
";

/// One server.
#[derive(Clone, Debug)]
pub struct Postgres {
    /// PostgreSQL's programs and account.
    pub tools: Tools,
    /// Name in messages.
    pub name: String,
    /// Its data directory.
    pub data_dir: PathBuf,
    /// Its log.
    pub log: PathBuf,
    /// Its port on 127.0.0.1.
    pub port: u16,
    /// The password of the role `postgres`.
    pub superuser_password: String,
    /// Whether the kernel kills it when the thread that started it ends.
    pub dies_with_parent: bool,
}

impl Postgres {
    /// Runs initdb with further arguments `more`, and writes the settings.
    pub async fn initdb(&self, more: &[String]) -> Result<()> {
        fs::create_dir(&self.data_dir).with_context(|| format!("cannot make {}", self.data_dir.display()))?;
        self.tools.give_to_postgres(&self.data_dir)?;
        let password_file = self.data_dir.with_extension("password");
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&password_file)?;
        writeln!(file, "{}", self.superuser_password)?;
        self.tools.give_to_postgres(&password_file)?;
        let (data_dir, password_path) = (text(&self.data_dir)?, text(&password_file)?);
        let usual = ["--pgdata", &data_dir, "--pwfile", &password_path, "--username=postgres"];
        let always = ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--data-checksums"];
        let arguments = usual.into_iter().chain(always).chain(more.iter().map(String::as_str));
        let made = self.run_tool("initdb", &arguments.collect::<Vec<_>>()).await;
        fs::remove_file(&password_file)?;
        made?;
        self.append("postgresql.conf", SETTINGS)?;
        fs::write(self.data_dir.join("pg_hba.conf"), HOST_BASED_AUTHENTICATION)?;
        Ok(())
    }

    /// Copies an existing data directory to this server's.
    pub async fn copy_from(&self, data_dir: &Path) -> Result<()> {
        let arguments = ["-a", "--reflink=auto", &text(data_dir)?, &text(&self.data_dir)?];
        clients::run(Path::new("cp"), &arguments, &[]).await?;
        Ok(())
    }

    /// Appends lines to a file of the data directory.
    pub fn append(&self, file: &str, lines: &str) -> Result<()> {
        let mut file = fs::OpenOptions::new().append(true).create(true).open(self.data_dir.join(file))?;
        file.write_all(lines.as_bytes())?;
        Ok(())
    }

    /// Makes the server a standby that streams with this connection string and has no other source of WAL.
    pub fn make_standby_of(&self, conninfo: &str) -> Result<()> {
        let quoted = conninfo.replace('\'', "''");
        self.append(
            "postgresql.conf",
            &format!("primary_conninfo = '{quoted}'\nwal_retrieve_retry_interval = 200ms\n"),
        )?;
        self.start_as_standby()
    }

    /// Lets the next start be one of a standby.
    pub fn start_as_standby(&self) -> Result<()> {
        fs::write(self.data_dir.join("standby.signal"), "")?;
        self.tools.give_to_postgres(&self.data_dir.join("standby.signal"))
    }

    /// Runs one of PostgreSQL's programs as PostgreSQL's account and returns its standard output.
    pub async fn run_tool(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(self.tools.postgres(program));
        command.args(arguments).current_dir("/").stdin(Stdio::null()).kill_on_drop(true);
        command.env("PGPASSWORD", &self.superuser_password).env("LC_ALL", "C");
        if let Some(account) = &self.tools.account {
            account.run_as(command.as_std_mut());
        }
        let output = command.output().await.with_context(|| format!("cannot run {program}"))?;
        if !output.status.success() {
            bail!("{program} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Takes a base backup without WAL into a directory that does not exist yet.
    pub async fn base_backup(&self, target: &Path) -> Result<()> {
        fs::create_dir(target)?;
        fs::set_permissions(target, fs::Permissions::from_mode(0o700))?;
        self.tools.give_to_postgres(target)?;
        let uri = self.superuser_uri("postgres");
        let arguments = ["-D", &text(target)?, "-d", &uri, "-X", "none", "-c", "fast", "--no-sync"];
        self.run_tool("pg_basebackup", &arguments).await?;
        Ok(())
    }

    /// Starts the server, with `settings` on its command line, and waits until it answers.
    pub async fn start(&self, settings: &[(&str, &str)]) -> Result<ProcessId> {
        self.check_version().await?;
        if !ports::is_free(self.port) {
            bail!("port {} is taken: stop what listens there (ss -ltnp), or choose another one", self.port);
        }
        let program = self.program(settings)?;
        let process = program.spawn()?;
        let starting = KillOnDrop::new(process);
        self.wait_ready(&program, process).await?;
        starting.keep();
        Ok(process)
    }

    /// Refuses a data directory of another major version. PostgreSQL would refuse it too, but without saying what to
    /// do.
    pub async fn check_version(&self) -> Result<()> {
        let file = self.data_dir.join("PG_VERSION");
        let data_version = fs::read_to_string(&file).with_context(|| {
            format!("{} is not a PostgreSQL data directory: it has no PG_VERSION", self.data_dir.display())
        })?;
        let program = self.tools.postgres("postgres");
        let version = clients::run(&program, &["--version"], &[]).await?;
        if !version.contains(&format!(") {}.", data_version.trim())) {
            bail!(
                "{} belongs to PostgreSQL {}, but {} is {}: set HOLDFAST_PG_BIN to the programs of that version \
                 and run ./dev setup, or move the directory away",
                self.data_dir.display(),
                data_version.trim(),
                program.display(),
                version.trim()
            );
        }
        Ok(())
    }

    fn program(&self, settings: &[(&str, &str)]) -> Result<Program> {
        let mut arguments = vec!["-D".into(), text(&self.data_dir)?, "-p".into(), self.port.to_string()];
        for (name, value) in settings {
            arguments.extend(["-c".into(), format!("{name}={value}")]);
        }
        Ok(Program {
            name: self.name.clone(),
            executable: self.tools.postgres("postgres"),
            arguments,
            environment: vec![("LC_ALL".into(), "C".into())],
            account: self.tools.account.clone(),
            log: self.log.clone(),
            dies_with_parent: self.dies_with_parent,
        })
    }

    async fn wait_ready(&self, program: &Program, process: ProcessId) -> Result<()> {
        let uri = self.superuser_uri("postgres");
        wait::until("PostgreSQL to answer", START_TIMEOUT, async || {
            if !process.is_alive() {
                return Err(program.early_end());
            }
            let attempt = tokio::time::timeout(CONNECT_TIMEOUT, clients::connect(&uri)).await;
            Ok(matches!(attempt, Ok(Ok(_))).then_some(()))
        })
        .await
    }

    /// Connection URI of the superuser.
    pub fn superuser_uri(&self, database: &str) -> String {
        format!("postgresql://postgres:{}@127.0.0.1:{}/{database}", self.superuser_password, self.port)
    }

    /// Connects as the superuser.
    pub async fn connect(&self, database: &str) -> Result<tokio_postgres::Client> {
        clients::connect(&self.superuser_uri(database)).await
    }

    /// Runs a query as the superuser and returns the first column of its first row as text.
    pub async fn ask(&self, database: &str, query: &str) -> Result<String> {
        let client = self.connect(database).await?;
        for message in client.simple_query(query).await? {
            if let tokio_postgres::SimpleQueryMessage::Row(row) = message {
                return Ok(row.get(0).unwrap_or_default().to_owned());
            }
        }
        bail!("no row: {query}")
    }

    /// True while the process that `postmaster.pid` names runs.
    pub fn is_locked(&self) -> bool {
        let text = fs::read_to_string(self.lock_file()).unwrap_or_default();
        let pid = text.lines().next().and_then(|line| line.trim().parse().ok());
        pid.and_then(ProcessId::find).is_some_and(ProcessId::is_alive)
    }

    /// Removes `postmaster.pid` of a server that does not run.
    pub fn remove_lock(&self) -> Result<()> {
        match fs::remove_file(self.lock_file()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn lock_file(&self) -> PathBuf {
        self.data_dir.join("postmaster.pid")
    }

    /// LSN at which the last checkpoint record of a stopped server begins.
    pub async fn last_checkpoint(&self) -> Result<Lsn> {
        self.control_data("Latest checkpoint location:").await?.parse().context("not an LSN")
    }

    /// System identifier of the data directory.
    pub async fn system_id(&self) -> Result<String> {
        self.control_data("Database system identifier:").await
    }

    async fn control_data(&self, label: &str) -> Result<String> {
        let printed = self.run_tool("pg_controldata", &[&text(&self.data_dir)?]).await?;
        let found = printed.lines().find_map(|line| line.strip_prefix(label));
        Ok(found.with_context(|| format!("pg_controldata printed no {label}"))?.trim().to_owned())
    }
}

fn text(path: &Path) -> Result<String> {
    Ok(path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?.to_owned())
}
