//! [`SettingsReader`]: a second connection to the primary that reads the settings which `primary_settings` judges.
//!
//! It runs SQL on a connection of the kind `replication=database`. The server counts it among its standbys and not among its
//! clients: a smart shutdown does not wait for it, and clients that fill `max_connections` do not keep it out. Where
//! `pg_hba.conf` or the role's privileges refuse that, a physical replication connection reads the settings of the server,
//! and no others. Called by `settings_watch`; [`read_by_show`] also by the connection that streams.

use postgres_backend::client::{Client, SimpleRow};
use tokio::time::timeout;

use super::commands::{connect_client, show, unexpected};
use super::error::{PRIMARY_ANSWER_TIMEOUT, PrimaryError, no_answer};
use crate::config::RunConfig;
use crate::primary_settings::{CommitOverride, PrimarySettings, Setting};

/// Name of the connection in `pg_stat_replication`. No standby should be called so.
const APPLICATION_NAME: &str = "holdfast settings";
/// All that is wanted, in one statement. Only values with which a commit does not wait are read of roles and databases, and
/// 64 of them at most: more are not shown. In a session the settings of its role and database win; `source` tells.
const QUERY: &str = "\
SELECT name, setting, source, NULL::text AS role, NULL::text AS database \
  FROM pg_catalog.pg_settings \
 WHERE name IN ('synchronous_standby_names', 'synchronous_commit', 'fsync', 'full_page_writes') \
UNION ALL \
(SELECT 'override', pg_catalog.split_part(item, '=', 2), NULL, \
        pg_catalog.quote_ident(r.rolname::text), pg_catalog.quote_ident(d.datname::text) \
   FROM pg_catalog.pg_db_role_setting s \
  CROSS JOIN LATERAL pg_catalog.unnest(s.setconfig) AS item \
   LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole \
   LEFT JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase \
  WHERE pg_catalog.split_part(item, '=', 1) = 'synchronous_commit' \
    AND pg_catalog.lower(pg_catalog.split_part(item, '=', 2)) IN ('off', 'local', 'false', 'no', '0') \
  ORDER BY s.setdatabase, s.setrole LIMIT 64)";
/// Sources of a value in `pg_settings` that hide the server's own.
const HIDING_SOURCES: [&str; 3] = ["database", "user", "database user"];

/// A connection that reads settings again and again.
#[derive(Debug)]
pub(crate) struct SettingsReader {
    client: Client,
    /// Why SQL is refused; then the settings of roles and databases are not read.
    refusal: Option<String>,
}

impl SettingsReader {
    /// Connects. Takes the lesser kind of connection when the primary refuses the better one.
    pub(crate) async fn connect(config: &RunConfig) -> Result<Self, PrimaryError> {
        let database = config.primary.database.as_str();
        let params = [
            ("replication", "database"),
            ("database", database),
            ("application_name", APPLICATION_NAME),
            ("search_path", "pg_catalog"),
        ];
        match connect_client(config, &params).await {
            Ok(client) => Ok(Self { client, refusal: None }),
            Err(PrimaryError::Refused(refusal)) => {
                let params = [("replication", "true"), ("application_name", APPLICATION_NAME)];
                let client = connect_client(config, &params).await?;
                Ok(Self { client, refusal: Some(refusal) })
            }
            Err(error) => Err(error),
        }
    }

    /// Why the settings of roles and databases are not read.
    pub(crate) fn refusal(&self) -> Option<&str> {
        self.refusal.as_deref()
    }

    /// Reads the present settings. After an error the reader must be dropped.
    pub(crate) async fn read(&mut self) -> Result<PrimarySettings, PrimaryError> {
        if self.refusal.is_some() {
            return read_by_show(&mut self.client).await;
        }
        let answered = timeout(PRIMARY_ANSWER_TIMEOUT, self.client.simple_query(QUERY)).await;
        let rows = answered.map_err(|_| no_answer("the question for its settings"))??;
        settings_of(&rows).ok_or_else(|| unexpected("the question for its settings"))
    }
}

/// Reads the settings of the server on a physical replication connection, which knows none of roles and databases.
pub(super) async fn read_by_show(client: &mut Client) -> Result<PrimarySettings, PrimaryError> {
    let mut setting = async |name| Ok::<_, PrimaryError>(Setting::new(&show(client, name).await?, None));
    Ok(PrimarySettings {
        synchronous_standby_names: setting("synchronous_standby_names").await?,
        synchronous_commit: Some(setting("synchronous_commit").await?),
        fsync: setting("fsync").await?,
        full_page_writes: setting("full_page_writes").await?,
        overrides: None,
    })
}

/// The settings in the rows of [`QUERY`]; `None` when one is missing.
fn settings_of(rows: &[SimpleRow]) -> Option<PrimarySettings> {
    let source = |row: &SimpleRow| row.get("source").map(str::to_owned);
    let row = |name| rows.iter().find(|row| row.get("name") == Some(name));
    let setting = |name| {
        let row = row(name)?;
        Some(Setting::new(row.get("setting")?, row.get("source")))
    };
    let is_hidden =
        source(row("synchronous_commit")?).is_some_and(|it| HIDING_SOURCES.contains(&it.as_str()));

    let overrides = rows.iter().filter(|row| row.get("name") == Some("override"));
    let overrides = overrides.map(|row| {
        Some(CommitOverride {
            role: row.get("role").map(str::to_owned),
            database: row.get("database").map(str::to_owned),
            value: row.get("setting")?.to_owned(),
        })
    });
    Some(PrimarySettings {
        synchronous_standby_names: setting("synchronous_standby_names")?,
        synchronous_commit: setting("synchronous_commit").filter(|_| !is_hidden),
        fsync: setting("fsync")?,
        full_page_writes: setting("full_page_writes")?,
        overrides: Some(overrides.collect::<Option<_>>()?),
    })
}
