//! A short soak.

use std::path::Path;

use anyhow::{Result, ensure};
use test_runner::clients;

#[tokio::test]
async fn soak_of_five_thousand_connections_leaks_nothing() -> Result<()> {
    let name = format!("tests/soak-{}", std::process::id());
    let arguments = ["--cycles", "5000", "--copy", "8", "--name", &name];
    let said = clients::run(Path::new(env!("CARGO_BIN_EXE_soak")), &arguments, &[]).await?;
    ensure!(said.contains("5000 connections in "), "{said}");
    Ok(())
}
