//! The safekeeper program: reads the flags, starts the log, opens the data directory and the ports, and serves.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use safekeeper::{Config, DataDir, Flags, Listeners, serve};
use serde_json::json;
use telemetry::LogLevel;
use utils::{DescriptorBudget, Shutdown, address_file};

fn main() -> ExitCode {
    match run(Flags::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        // The whole chain in one sentence, for the operator's terminal.
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
        let served = open_and_serve(&config, log_level).await;
        if let Err(error) = &served {
            tracing::debug!(?error, "safekeeper ended by an error");
        }
        served
    })
}

async fn open_and_serve(config: &Config, log_level: LogLevel) -> anyhow::Result<()> {
    let limit = utils::descriptors::raise_limit()?;
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
    let budget = DescriptorBudget::split(limit);
    let served = serve(config, data_dir, listeners, budget, log_level, shutdown).await;
    if let (Err(_), Some(path)) = (&served, &config.address_file) {
        // A server that could not start has no address. The first error is the one that is reported.
        let _ = std::fs::remove_file(path);
    }
    served
}
