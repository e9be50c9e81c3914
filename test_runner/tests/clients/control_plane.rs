//! [`ControlPlane`]: an HTTP control plane with one endpoint, which counts the wakes that a proxy requests.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

/// The service. It ends with the runtime of its test.
#[derive(Clone)]
pub(crate) struct ControlPlane(Arc<Inner>);

/// State of the service.
struct Inner {
    verifiers: Vec<(String, String)>,
    /// Address of the compute.
    address: Mutex<String>,
    wakes: AtomicUsize,
    /// Receives each wake; the answer waits until the test has completed it. `None`: wakes are answered at once.
    at_wake: Option<mpsc::UnboundedSender<Wake>>,
}

/// A wake that the test completes by sending on it.
pub(crate) type Wake = tokio::sync::oneshot::Sender<()>;

/// Query parameters of a request.
#[derive(Deserialize)]
struct LookupQuery {
    endpointish: String,
    role: Option<String>,
}

impl ControlPlane {
    /// Starts the service and writes the configuration of the proxy. Returns the value of `--control-plane`.
    pub(crate) async fn start(
        directory: &Path,
        verifiers: Vec<(String, String)>,
        address: &str,
        at_wake: Option<mpsc::UnboundedSender<Wake>>,
    ) -> Result<(Self, String)> {
        let inner =
            Inner { verifiers, address: Mutex::new(address.into()), wakes: AtomicUsize::new(0), at_wake };
        let this = Self(Arc::new(inner));
        let router = Router::new()
            .route("/get_endpoint_access_control", get(access))
            .route("/wake_compute", get(wake))
            .with_state(this.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let file = directory.join("control-plane.toml");
        std::fs::write(&file, format!("url = \"http://{}\"\n", listener.local_addr()?))?;
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok((this, format!("http:{}", file.display())))
    }

    /// Number of wake requests.
    pub(crate) fn wakes(&self) -> usize {
        self.0.wakes.load(Ordering::SeqCst)
    }

    /// Changes the address of the compute.
    pub(crate) fn moved_to(&self, address: &str) -> Result<()> {
        let mut current = self.0.address.lock().ok().context("a holder of the lock panicked")?;
        address.clone_into(&mut current);
        Ok(())
    }
}

async fn access(
    State(this): State<ControlPlane>,
    Query(query): Query<LookupQuery>,
) -> Result<axum::Json<Value>, StatusCode> {
    if query.endpointish != "main" {
        return Err(StatusCode::NOT_FOUND);
    }
    let role = query.role.unwrap_or_default();
    let verifier =
        this.0.verifiers.iter().find(|(name, _)| *name == role).map_or("", |(_, verifier)| verifier);
    Ok(axum::Json(json!({"role_secret": verifier})))
}

async fn wake(
    State(this): State<ControlPlane>,
    Query(query): Query<LookupQuery>,
) -> Result<axum::Json<Value>, StatusCode> {
    if query.endpointish != "main" {
        return Err(StatusCode::NOT_FOUND);
    }
    this.0.wakes.fetch_add(1, Ordering::SeqCst);
    if let Some(at_wake) = &this.0.at_wake {
        let (done, waiting) = tokio::sync::oneshot::channel();
        at_wake.send(done).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
        waiting.await.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    }
    let address = this.0.address.lock().map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?.clone();
    Ok(axum::Json(json!({"address": address, "aux": {}})))
}
