//! Drivers of other makers: psycopg, node-postgres and JDBC, each with a small program beside this file.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use test_runner::clients;

use super::{Installation, programs};

/// Runs a program against a new installation. It must print every step.
async fn run(
    name: &str,
    program: &Path,
    arguments: &[&str],
    variable: Option<(&str, &str)>,
    steps: &[&str],
) -> Result<()> {
    let installation = Installation::new(name).await?;
    let variables = installation.proxied.environment("app");
    let variables = variables.iter().map(|(name, value)| (*name, value.as_str()));
    let variables: Vec<(&str, &str)> = variables.chain(variable).collect();
    let said = clients::run(program, arguments, &variables).await?;
    ensure!(said.lines().eq(steps.iter().copied()), "{name} said {said}");
    installation.passed().await
}

#[tokio::test]
async fn psycopg_does_all_that_it_can() -> Result<()> {
    let Some(package) =
        programs::tool("psycopg/psycopg", "the Python package psycopg[binary] into .holdfast/tools/psycopg")?
    else {
        return Ok(());
    };
    let Some(python) = programs::program("python3", "python3")? else { return Ok(()) };
    let (parent, script) = (package.parent().context("no parent")?, programs::script("psycopg_client.py"));
    let steps =
        ["parameters", "transactions", "prepared", "pipeline", "copy", "notify", "cancel", "wrong password"];
    let path = parent.display().to_string();
    run("psycopg", &python, &["-B", &script], Some(("PYTHONPATH", &path)), &steps).await
}

#[tokio::test]
async fn node_postgres_does_all_that_it_can() -> Result<()> {
    let Some(package) =
        programs::tool("node/node_modules/pg", "the npm package pg into .holdfast/tools/node")?
    else {
        return Ok(());
    };
    let Some(node) = programs::program("node", "nodejs")? else { return Ok(()) };
    let modules = package.parent().context("no parent")?.display().to_string();
    let script = programs::script("node_pg.js");
    let steps = ["queries", "errors", "large", "notifications", "cancel", "pool"];
    run("node-postgres", &node, &[&script], Some(("NODE_PATH", &modules)), &steps).await
}

#[tokio::test]
async fn jdbc_does_all_that_it_can() -> Result<()> {
    let Some(driver) =
        programs::system_file("/usr/share/java/postgresql.jar", "Debian's libpostgresql-jdbc-java")?
    else {
        return Ok(());
    };
    let Some(java) = programs::program("java", "Debian's default-jre-headless")? else { return Ok(()) };
    let (class_path, script) = (driver.display().to_string(), programs::script("JdbcClient.java"));
    let arguments = ["-Xmx256m", "-cp", &class_path, &script];
    let steps = ["queries", "batch", "copy", "errors", "notifications", "cancel"];
    run("jdbc", &java, &arguments, Some(("LC_ALL", "C.UTF-8")), &steps).await
}
