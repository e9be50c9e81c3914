//! The life of the process: flags, log, signals, ports, and the way out.

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use proxy::config::{Config, ControlPlaneSource, Flags};
use proxy::{Listeners, Server};
use serde_json::json;
use tokio::net::TcpListener;
use utils::shutdown::Drained;
use utils::{Shutdown, address_file};

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
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&error.into()),
    };
    let result = runtime.block_on(run(&config, telemetry.log_level().clone()));
    // Sessions that are left are cut here.
    runtime.shutdown_background();
    telemetry.flush();
    match result {
        Ok(drained) => {
            tracing::info!(?drained, "ended");
            ExitCode::SUCCESS
        }
        Err(error) => complain(&error),
    }
}

async fn run(config: &Config, log_level: telemetry::LogLevel) -> anyhow::Result<Drained> {
    raise_descriptor_limit();
    // Before anything tells the outside that we are up.
    let shutdown = Shutdown::on_process_signals()?;
    let server = Server::new(config, &shutdown)?;
    let mut listeners =
        Listeners { pg: Vec::new(), http: bind("--listen-http", &config.listen_http).await?, mgmt: None };
    for address in &config.listen {
        listeners.pg.push(bind("--listen", address).await?);
    }
    if matches!(config.control_plane, ControlPlaneSource::Link(_)) {
        listeners.mgmt = Some(bind("--listen-mgmt", &config.listen_mgmt).await?);
    }
    let local = |listener: &TcpListener| Ok(listener.local_addr()?.to_string());
    let pg = listeners.pg.iter().map(local).collect::<anyhow::Result<Vec<_>>>()?;
    let http = local(&listeners.http)?;
    let mgmt = listeners.mgmt.as_ref().map(local).transpose()?;
    if let Some(path) = &config.address_file {
        let mut content = json!({"pid": std::process::id(), "pg": pg.first(), "pg_all": pg, "http": http});
        if let Some(mgmt) = mgmt {
            content["mgmt"] = mgmt.into();
        }
        address_file::write(path, content.to_string().as_bytes())
            .with_context(|| format!("--address-file {}", path.display()))?;
    }
    tracing::info!(pg = pg.join(", "), http, "listening");
    Ok(server.serve(listeners, log_level).await)
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

async fn bind(flag: &str, address: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("{flag} {address}"))
}

#[expect(clippy::print_stderr, reason = "the last thing that a program says when it cannot start")]
fn complain(error: &anyhow::Error) -> ExitCode {
    eprintln!("proxy: {error:#}");
    ExitCode::FAILURE
}
