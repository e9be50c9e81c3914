//! The life of the process: flags, log, signals, ports, and the way out.

use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use proxy::config::{Config, Flags};
use proxy::{Listeners, Server};
use serde_json::json;
use telemetry::{LogLevel, Telemetry};
use tokio::runtime::Runtime;
use utils::shutdown::Drained;
use utils::{Shutdown, address_file};

/// For tasks to notice that they are over, which ends their spans and writes their lines.
const TASKS_END_TIMEOUT: Duration = Duration::from_millis(300);
/// For the last spans to reach a collector. Both together stay below two seconds.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(1500);

fn main() -> ExitCode {
    let config = match Flags::parse().validate() {
        Ok(config) => config,
        Err(error) => return complain(&anyhow::Error::from(error)),
    };
    let options = telemetry::Options {
        service: "proxy",
        version: env!("CARGO_PKG_VERSION"),
        level: config.log_level.clone(),
        format: config.log_format,
        collector: None,
    };
    let telemetry = match telemetry::init(&options) {
        Ok(telemetry) => telemetry,
        Err(error) => return complain(&error.into()),
    };
    let log_level = telemetry.log_level().clone();
    let mut way_out = WayOut { runtime: None, telemetry: Some(telemetry) };
    let result = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => way_out.runtime.insert(runtime).block_on(run(&config, log_level)),
        Err(error) => Err(error.into()),
    };
    let code = match result {
        Ok(drained) => {
            tracing::info!(?drained, "ended");
            ExitCode::SUCCESS
        }
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "ended");
            complain(&error)
        }
    };
    drop(way_out);
    code
}

/// What is to be done in any case before the process ends, after a panic, too. Whoever does not answer is not waited for.
struct WayOut {
    runtime: Option<Runtime>,
    telemetry: Option<Telemetry>,
}

impl Drop for WayOut {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Sessions that are left are cut off here.
            runtime.shutdown_timeout(TASKS_END_TIMEOUT);
        }
        let Some(telemetry) = self.telemetry.take() else { return };
        let (flushed, wait) = mpsc::channel();
        thread::spawn(move || {
            drop(telemetry);
            let _ = flushed.send(());
        });
        let _ = wait.recv_timeout(FLUSH_TIMEOUT);
    }
}

async fn run(config: &Config, log_level: LogLevel) -> anyhow::Result<Drained> {
    raise_descriptor_limit();
    // Before anything tells the outside that we are up.
    let shutdown = Shutdown::on_process_signals()?;
    let server = Server::new(config, &shutdown)?;
    let listeners = Listeners::open(config).await?;
    let texts = |addresses: Vec<_>| addresses.iter().map(ToString::to_string).collect::<Vec<String>>();
    let pg = texts(listeners.pg_addresses()?);
    let http = listeners.http_address()?.to_string();
    let mgmt = listeners.mgmt_address()?;
    let running = server.start(listeners, log_level).await?;
    if let Some(path) = &config.address_file {
        let mut content = json!({"pid": std::process::id(), "pg": pg.first(), "pg_all": pg, "http": http});
        if let Some(mgmt) = mgmt {
            content["mgmt"] = mgmt.to_string().into();
        }
        address_file::write(path, content.to_string().as_bytes())
            .with_context(|| format!("--address-file {}", path.display()))?;
    }
    tracing::info!(pg = pg.join(", "), http, "listening");
    Ok(running.ended().await)
}

/// As many as this process may have: a session takes two, and the usual 1024 are meant for programs that use select(2).
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::RLIMIT_NOFILE);
    let raised = limit.and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map(|()| hard));
    match raised {
        Ok(descriptors) => tracing::info!(descriptors, "limit of open files and connections"),
        Err(error) => tracing::warn!(%error, "the limit of open files stays as it is"),
    }
}

#[expect(clippy::print_stderr, reason = "the last thing that a program says when it cannot start")]
fn complain(error: &anyhow::Error) -> ExitCode {
    eprintln!("proxy: {error:#}");
    ExitCode::FAILURE
}
