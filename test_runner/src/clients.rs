//! Clients: runs programs such as psql to their end, and opens SQL connections without TLS.

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::process::Command;
use tokio::time::timeout;
use tokio_postgres::NoTls;

/// Time limit for a program; one that takes longer hangs.
const PROGRAM_TIMEOUT: Duration = Duration::from_secs(300);

/// Connects without TLS. A task drives the connection and ends with it.
pub async fn connect(uri: &str) -> Result<tokio_postgres::Client> {
    let (client, connection) = tokio_postgres::connect(uri, NoTls).await?;
    tokio::spawn(async move {
        // The client's calls return this error too.
        let _ = connection.await;
    });
    Ok(client)
}

/// Runs a program to its end and returns its standard output. When it fails, the error holds its standard error.
pub async fn run(program: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Result<String> {
    let output = output(program, arguments, environment).await?;
    if !output.status.success() {
        bail!("{} failed: {}", program.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a program to its end. It is killed when the caller stops waiting, or after `PROGRAM_TIMEOUT`.
pub async fn output(program: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Result<Output> {
    let mut command = Command::new(program);
    command.args(arguments).envs(environment.iter().copied()).stdin(Stdio::null()).kill_on_drop(true);
    let Ok(output) = timeout(PROGRAM_TIMEOUT, command.output()).await else {
        bail!("{} hangs: killed after {PROGRAM_TIMEOUT:?}", program.display());
    };
    output.with_context(|| format!("cannot run {}", program.display()))
}
