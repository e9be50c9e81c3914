//! The life of the process: flags, log, data directory, ports, serve, end.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use safekeeper::{Config, DataDir, Flags, Listeners, serve};
use serde_json::json;
use telemetry::LogLevel;
use utils::{Shutdown, address_file};

fn main() -> ExitCode {
    match run(Flags::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        // The whole chain in one sentence: this is what somebody at a terminal gets to see.
        Err(error) => telemetry::process::report_failure("safekeeper", &error),
    }
}

fn run(flags: Flags) -> anyhow::Result<()> {
    let config = flags.validate()?;
    let options = telemetry::Options {
        service: "safekeeper",
        version: env!("CARGO_PKG_VERSION"),
        level: config.log_level.clone(),
        format: config.log_format,
        collector: None,
    };
    telemetry::run(&options, async |log_level| {
        let served = live(&config, log_level).await;
        if let Err(error) = &served {
            tracing::debug!(?error, "ended by an error");
        }
        served
    })
}

async fn live(config: &Config, log_level: LogLevel) -> anyhow::Result<()> {
    let shutdown = Shutdown::on_process_signals().context("cannot handle signals")?;
    let data_dir = DataDir::open(&config.data_dir, config.id)?;
    let listeners = Listeners::bind(config).await?;
    if let Some(path) = &config.address_file {
        let addresses = json!({
            "pid": std::process::id(),
            "id": config.id.0,
            "pg": listeners.pg.local_addr()?.to_string(),
            "http": listeners.http.local_addr()?.to_string(),
        });
        address_file::write(path, format!("{addresses}\n").as_bytes())
            .with_context(|| format!("--address-file {}: cannot write it", path.display()))?;
    }
    let served = serve(config, data_dir, listeners, log_level, shutdown).await;
    if let (Err(_), Some(path)) = (&served, &config.address_file) {
        // Nobody shall look for a server that could not start. The first error is the one worth reporting.
        let _ = std::fs::remove_file(path);
    }
    served
}
