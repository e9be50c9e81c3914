//! Control plane: answers what the proxy asks over HTTP, in the dialect `v1`: each endpoint has the same database, each role
//! the same verifier.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use axum::routing::get;
use axum::{Json, Router};
use clap::Args;
use serde_json::json;
use tokio::net::TcpListener;

/// What is answered, and where.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// Where the proxy asks; port 0 takes a free one
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:0")]
    listen: SocketAddr,

    /// Written when it listens: the address
    #[arg(long, value_name = "PATH")]
    address_file: PathBuf,

    /// The database
    #[arg(long, value_name = "HOST:PORT")]
    address: String,

    /// The role's verifier
    #[arg(long)]
    verifier: String,
}

/// Answers until the process is killed.
pub(crate) async fn run(flags: Flags) -> Result<()> {
    let access = json!({"role_secret": flags.verifier});
    let compute = json!({"address": flags.address, "aux": {}});
    let answers = Router::new()
        .route("/get_endpoint_access_control", get(async move || Json(access)))
        .route("/wake_compute", get(async move || Json(compute)));

    let listener = TcpListener::bind(flags.listen).await.context("cannot listen")?;
    utils::address_file::write(&flags.address_file, listener.local_addr()?.to_string().as_bytes())?;
    Ok(axum::serve(listener, answers).await?)
}
