//! Bad input of `./dev`: refused with one sentence that says what to do and a failure status. No process is left, no
//! data is lost.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::dev_commands::DevCommands;

#[tokio::test]
async fn wrong_words_on_the_command_line_are_refused() -> Result<()> {
    let dev = DevCommands::new("words")?;
    for arguments in
        [&["up", "--detatch"][..], &["stop", "sk9"], &["start"], &["status", "--yaml"], &["restart"]]
    {
        let output = dev.run(arguments).await?;
        ensure!(output.status.code() == Some(2), "{arguments:?}: {:?}", output.status);
    }
    ensure!(dev.fail(&["start", "sk1"]).await?.contains("./dev up"));
    ensure!(dev.fail(&["status"]).await?.contains("./dev up"));
    dev.passed();
    Ok(())
}

#[tokio::test]
async fn up_names_a_taken_port_and_leaves_nothing() -> Result<()> {
    let dev = DevCommands::new("taken")?;
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port().to_string();
    let said = dev.fail(&["up", "--detach", "--port", &port]).await?;
    ensure!(said.contains(&port) && said.contains("taken"), "{said}");
    ensure!(dev.processes().is_empty() && !dev.directory.join("postgres").exists());
    dev.passed();
    Ok(())
}

#[tokio::test]
async fn up_refuses_damaged_and_foreign_directories_untouched() -> Result<()> {
    let dev = DevCommands::new("damaged")?;
    dev.succeed(&["up", "--detach"]).await?;
    dev.succeed(&["down"]).await?;

    let control = find(&dev.directory.join("sk2"), "control").context("sk2 has no control file")?;
    let whole = fs::read(&control)?;
    fs::write(&control, &whole[..100])?;
    refuses(&dev, "sk2").await?;
    ensure!(fs::read(&control)? == whole[..100], "a damaged control file was touched");
    fs::write(&control, &whole)?;

    let (one, other, aside) = ("sk1", "sk3", "aside");
    let path = |name: &str| dev.directory.join(name);
    let swap = || -> Result<()> {
        fs::rename(path(one), path(aside))?;
        fs::rename(path(other), path(one))?;
        Ok(fs::rename(path(aside), path(other))?)
    };
    swap()?;
    refuses(&dev, "sk1").await?;
    swap()?;

    let version = dev.directory.join("postgres/PG_VERSION");
    let right = fs::read(&version)?;
    fs::write(&version, "9\n")?;
    refuses(&dev, "PostgreSQL 9").await?;
    fs::write(&version, right)?;

    let state = dev.directory.join("state.json");
    let right = fs::read(&state)?;
    let system_id = "\"system_id\": \"";
    fs::write(&state, String::from_utf8(right.clone())?.replace(system_id, &format!("{system_id}9")))?;
    refuses(&dev, "another cluster").await?;
    fs::write(&state, &right[..right.len() / 2])?;
    refuses(&dev, "state.json").await?;
    fs::write(&state, right)?;

    dev.succeed(&["up", "--detach"]).await?;
    dev.succeed(&["down"]).await?;
    dev.passed();
    Ok(())
}

/// The start fails, names the culprit, and leaves nothing running.
async fn refuses(dev: &DevCommands, culprit: &str) -> Result<()> {
    let said = dev.fail(&["up", "--detach"]).await?;
    ensure!(said.starts_with("dev: ") && said.contains(culprit), "unexpected error: {said}");
    ensure!(dev.processes().is_empty(), "processes still run after: {said}");
    Ok(())
}

fn find(directory: &Path, name: &str) -> Option<PathBuf> {
    for entry in fs::read_dir(directory).ok()?.flatten() {
        let path = entry.path();
        if path.is_dir() {
            if let Some(found) = find(&path, name) {
                return Some(found);
            }
        } else if entry.file_name() == name {
            return Some(path);
        }
    }
    None
}
