//! The crash run in short: it passes on honest disks, goes on where it was interrupted, and finds disks that lie.

use std::path::Path;
use std::process::Output;

use anyhow::{Context, Result, ensure};
use test_runner::clients;
use test_runner::env::TestEnvironment;

async fn chaos(directory: &Path, arguments: &[&str]) -> Result<Output> {
    let directory = directory.to_str().context("a path is not UTF-8")?;
    let arguments = [&["--directory", directory], arguments].concat();
    clients::output(Path::new(env!("CARGO_BIN_EXE_chaos")), &arguments, &[]).await
}

fn lines(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes)).concat()
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_in_a_few_cycles_of_killing() -> Result<()> {
    let test = TestEnvironment::new("chaos")?;
    let directory = test.directory.join("run");
    let random = (getrandom::u64()? % 1000).to_string();
    let output = chaos(&directory, &["--cycles", "6", "--seed", &random]).await?;
    ensure!(output.status.success() && lines(&output).contains("6 cycles, 1 oracles"), "{}", lines(&output));

    // A run that came to its end is not taken up again by mistake, and no run is begun over an unfinished one.
    let file = directory.join("progress.json");
    let unfinished =
        std::fs::read_to_string(&file)?.replace("\"is_finished\": true", "\"is_finished\": false");
    std::fs::write(&file, unfinished)?;
    let output = chaos(&directory, &["--cycles", "8"]).await?;
    ensure!(!output.status.success() && lines(&output).contains("--resume"), "{}", lines(&output));
    let output = chaos(&directory, &["--cycles", "8", "--resume"]).await?;
    let said = lines(&output);
    ensure!(output.status.success() && said.contains("8 cycles, 2 oracles"), "{said}");
    ensure!(said.contains("cycle 7:") && !said.contains("cycle 6:"), "{said}");
    test.passed();
    Ok(())
}

#[tokio::test]
async fn a_safekeeper_that_acknowledges_what_it_did_not_sync_is_found_out() -> Result<()> {
    let test = TestEnvironment::new("chaos-lying")?;
    let directory = test.directory.join("run");
    // Which cycle is the first that forgets depends on the seed.
    let output = chaos(&directory, &["--cycles", "12", "--seed", "2", "--lying-disks"]).await?;
    let said = lines(&output);
    ensure!(!output.status.success() && said.contains("breaks its word"), "{said}");
    ensure!(said.contains("but it acknowledged"), "{said}");
    ensure!(directory.join("cluster/sk1").exists(), "nothing was kept");
    let again = lines(&chaos(&directory, &["--cycles", "12", "--resume"]).await?);
    ensure!(again.contains("breaks its word") && !again.contains("started;"), "{again}");
    test.passed();
    Ok(())
}
