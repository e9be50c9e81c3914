//! Entry point of the walproposer: arguments, log, listener, address file, serve, exit code.

use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Parser;
use telemetry::LogLevel;
use tokio::net::TcpListener;
use utils::Shutdown;
use walproposer::config::{RecoverConfig, RunConfig};
use walproposer::flags::{Command, Flags, LogFlags, RecoverFlags, RunFlags};

fn main() -> ExitCode {
    let result = match Flags::parse().command {
        Command::Run(flags) => run(flags),
        Command::Recover(flags) => recover(flags),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => telemetry::process::report_failure("walproposer", &error),
    }
}

fn run(flags: RunFlags) -> anyhow::Result<()> {
    let options = telemetry_options(&flags.log);
    let config = flags.validate()?;
    telemetry::run_on_one_thread(&options, async |log_level| serve(config, log_level).await)
}

async fn serve(config: RunConfig, log_level: LogLevel) -> anyhow::Result<()> {
    utils::descriptors::raise_limit()?;
    let shutdown = Shutdown::on_process_signals().context("cannot handle signals")?;
    let address = config.listen_http;
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}: choose another --listen-http"))?;
    let http = listener.local_addr()?.to_string();
    tracing::info!(http, primary = %config.primary, "started");

    if let Some(path) = &config.address_file {
        let content = serde_json::json!({ "pid": std::process::id(), "http": http }).to_string();
        utils::address_file::write(path, content.as_bytes())
            .with_context(|| format!("cannot write --address-file {}", path.display()))?;
    }

    walproposer::serve(config, listener, shutdown, log_level).await;
    tracing::info!("stopped");
    Ok(())
}

fn recover(flags: RecoverFlags) -> anyhow::Result<()> {
    let options = telemetry_options(&flags.log);
    let config = flags.validate()?;
    let recovered = telemetry::run(&options, async |_| {
        let shutdown = Shutdown::on_process_signals().context("cannot handle signals")?;
        tokio::select! {
            recovered = walproposer::recover::run(&config) => recovered,
            // May be cancelled at any point: what was settled stays so, and the next recovery begins with a new term.
            () = shutdown.draining() => bail!("stopped by a signal before the end of the log was settled: run it again"),
        }
    });
    print(&config, &recovered?)
}

fn print(config: &RecoverConfig, recovered: &walproposer::recover::Recovered) -> anyhow::Result<()> {
    let line = if config.json { serde_json::to_string(recovered)? } else { recovered.end_lsn.clone() };
    #[expect(clippy::print_stdout, reason = "the result of the command")]
    {
        println!("{line}");
    }
    Ok(())
}

fn telemetry_options(flags: &LogFlags) -> telemetry::Options {
    telemetry::Options {
        service: "walproposer",
        version: env!("CARGO_PKG_VERSION"),
        level: flags.log_level.clone(),
        format: flags.log_format,
        ..telemetry::Options::default()
    }
}
