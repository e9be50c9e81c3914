//! The life of the process: flags, log, signals, listeners, and its end.

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use proxy::config::{Config, Flags};
use proxy::{Listeners, Running, Server, Succession};
use serde_json::json;
use telemetry::LogLevel;
use utils::shutdown::Drained;
use utils::{Shutdown, address_file};

fn main() -> ExitCode {
    match run(Flags::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => telemetry::process::report_failure("proxy", &error),
    }
}

fn run(flags: Flags) -> anyhow::Result<()> {
    let config = flags.validate()?;
    let options = telemetry::Options {
        service: "proxy",
        version: env!("CARGO_PKG_VERSION"),
        level: config.log_level.clone(),
        format: config.log_format,
        collector: None,
    };
    telemetry::run(&options, async |log_level| {
        let ended = live(&config, log_level).await;
        match &ended {
            Ok(drained) => tracing::info!(?drained, "ended"),
            Err(error) => tracing::error!(error = format!("{error:#}"), "ended"),
        }
        ended.map(drop)
    })
}

async fn live(config: &Config, log_level: LogLevel) -> anyhow::Result<Drained> {
    // A session takes two descriptors, and the usual 1024 are meant for programs that use select(2).
    utils::descriptors::raise_limit()?;
    // Before other programs can see that this process is up.
    let shutdown = Shutdown::on_process_signals()?;
    let running = tokio::select! {
        running = start(config, log_level, &shutdown) => running?,
        // The start waits for the previous process, which may not answer.
        () = shutdown.immediate() => return Ok(Drained::Interrupted { tasks_left: shutdown.tasks() }),
    };
    Ok(running.ended().await)
}

async fn start(config: &Config, log_level: LogLevel, shutdown: &Shutdown) -> anyhow::Result<Running> {
    let server = Server::new(config, shutdown)?;
    let (succession, inherited) = Succession::begin(config).await?;
    let listeners = Listeners::open(config, inherited).await?;
    let texts = |addresses: Vec<_>| addresses.iter().map(ToString::to_string).collect::<Vec<String>>();
    let pg = texts(listeners.pg_addresses()?);
    let http = listeners.http_address()?.to_string();
    let mgmt = listeners.mgmt_address()?;
    let running = server.start(listeners, succession, log_level).await?;
    if let Some(path) = &config.address_file {
        let mut content = json!({"pid": std::process::id(), "pg": pg.first(), "pg_all": pg, "http": http});
        if let Some(mgmt) = mgmt {
            content["mgmt"] = mgmt.to_string().into();
        }
        address_file::write(path, content.to_string().as_bytes())
            .with_context(|| format!("--address-file {}", path.display()))?;
    }
    tracing::info!(pg = pg.join(", "), http, "listening");
    Ok(running)
}
