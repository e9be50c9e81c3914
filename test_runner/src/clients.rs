//! The clients that the tests use: PostgreSQL's own programs, and an SQL connection from Rust.

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::process::Command;
use tokio::time::timeout;
use tokio_postgres::NoTls;

/// No program that is run to its end takes this long unless it hangs.
const PROGRAM_TIMEOUT: Duration = Duration::from_secs(300);

/// Connects; the connection's work is done by a task that ends with it.
pub async fn connect(uri: &str) -> Result<tokio_postgres::Client> {
    let (client, connection) = tokio_postgres::connect(uri, NoTls).await?;
    tokio::spawn(async move {
        // An error here comes back from the client's calls too.
        let _ = connection.await;
    });
    Ok(client)
}

/// Runs a program to its end and returns its standard output; when it fails, the error holds what it wrote.
pub async fn run(program: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Result<String> {
    let output = output(program, arguments, environment).await?;
    if !output.status.success() {
        bail!("{} failed: {}", program.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a program to its end. It is killed when the caller stops waiting, or when it hangs.
pub async fn output(program: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Result<Output> {
    let mut command = Command::new(program);
    command.args(arguments).envs(environment.iter().copied()).stdin(Stdio::null()).kill_on_drop(true);
    let Ok(output) = timeout(PROGRAM_TIMEOUT, command.output()).await else {
        bail!("{} hangs: it was killed after {PROGRAM_TIMEOUT:?}", program.display());
    };
    output.with_context(|| format!("cannot run {}", program.display()))
}
