//! Stages of a login. Each is a value made from the one before: only an [`Authenticated`] client can be connected, so no
//! compute is woken for a client that has proven nothing.

use std::sync::Arc;

use postgres_backend::tls::TlsInfo;
use postgres_backend::{Connection, Io};
use pq_proto::{FramedError, StartupParams};
use rand::Rng;
use scram::Credentials;
use tokio::time::{Instant, timeout, timeout_at};

use super::context::Session;
use super::error::SessionError;
use crate::auth::{Authenticated, ClientInfo};
use crate::compute::handshake::{LoggedIn, Login};
use crate::compute::{self, ConnectError, Dial};
use crate::control_plane::{Compute, InUse};
use crate::link::{Linked, Links};
use crate::observe::activity::{Destination, Stage};
use crate::observe::phases::{Phase, timed};
use crate::route::{Route, StartupRoute};
use crate::tls::{Certificate, Certificates};

/// A client that has sent its startup packet.
#[derive(Debug)]
pub(super) struct Started<'c> {
    pub(super) params: StartupParams,
    pub(super) tls: Option<TlsInfo>,
    /// The certificates of the handshake, even if a reload has replaced them since.
    pub(super) certificates: Option<&'c Certificates>,
    /// Time by which the client must be authenticated.
    pub(super) deadline: Instant,
}

/// A client whose endpoint is known, as far as its startup packet names one.
#[derive(Debug)]
struct Routed<'c> {
    route: StartupRoute,
    encrypted: bool,
    /// Hash of the certificate, for SCRAM's channel binding.
    end_point_hash: Option<&'c [u8]>,
    deadline: Instant,
}

/// A client that is logged in at its compute.
#[derive(Debug)]
pub(super) struct Connected<C> {
    pub(super) logged_in: LoggedIn<C>,
    pub(super) compute: Arc<Compute>,
    pub(super) sent: SentSoFar,
    /// Keeps the compute from being suspended.
    pub(super) in_use: Option<InUse>,
}

/// What the client has received of its login.
#[derive(Debug)]
pub(super) enum SentSoFar {
    /// No end of the authentication yet. After SCRAM its final message is still to be sent, before AuthenticationOk.
    Nothing { server_final: Option<String> },
    /// AuthenticationOk.
    AuthenticationOk,
}

impl<D: Dial, R: Rng + Send> Session<'_, D, R> {
    /// Logs the client in, from its startup packet to a session at its compute.
    pub(super) async fn log_in<S: Io>(
        &mut self,
        started: Started<'_>,
        client: &mut Connection<S>,
    ) -> Result<Connected<D::Stream>, SessionError> {
        if self.services.drain.refuses_sessions() {
            return Err(SessionError::Draining);
        }
        if let Some(links) = &self.services.links {
            return self.log_in_by_link(links, started.params, client).await;
        }

        let routed = started.route()?;
        if let StartupRoute::Known(route) = &routed.route {
            self.activity.set_destination(Destination::of(route));
        }
        self.activity.reached(Stage::Authenticating);
        let authenticated = Box::pin(timed(Phase::Auth, self.authenticate(routed, client))).await?;

        self.activity.set_destination(Destination::of(&authenticated.route));
        self.activity.reached(Stage::Connecting);
        tokio::select! {
            connected = timed(Phase::Connect, self.connect(authenticated)) => connected,
            // A client that has left gets no compute woken. A wake that other clients wait for goes on.
            error = departure(client) => Err(SessionError::Client(error)),
        }
    }

    async fn authenticate<S: Io>(
        &mut self,
        routed: Routed<'_>,
        client: &mut Connection<S>,
    ) -> Result<Authenticated, SessionError> {
        let info = ClientInfo {
            session: self.activity.id,
            address: self.activity.address(),
            encrypted: routed.encrypted,
            end_point_hash: routed.end_point_hash,
        };
        let authenticating =
            Box::pin(self.services.auth.authenticate(client, routed.route, &info, &mut *self.random));
        Ok(timeout_at(routed.deadline, authenticating).await.map_err(|_| SessionError::Timeout)??)
    }

    async fn connect(&mut self, authenticated: Authenticated) -> Result<Connected<D::Stream>, SessionError> {
        let Self { services, random, .. } = self;
        let Authenticated { context, route, proven } = authenticated;
        let begin = Instant::now();
        let in_use = services.control_plane.in_use(&context.endpoint);
        let in_use =
            timeout(services.connect_timeout, in_use).await.map_err(|_| ConnectError::StillWaking)?;

        let login = Login { params: route.params, credentials: Credentials::Keys(proven.keys) };
        let connecting = compute::connect(
            &services.dial,
            &services.control_plane,
            &context,
            &login,
            services.connect_timeout,
            &mut **random,
        );
        let (logged_in, compute) = connecting.await?;
        services.metrics.connect_seconds.observe(begin.elapsed().as_secs_f64());
        let sent = SentSoFar::Nothing { server_final: proven.server_final };
        Ok(Connected { logged_in, compute, sent, in_use: Some(in_use) })
    }

    /// Logs a person in with a browser. In place of the login timeout, the time limit is `confirmation_seconds`.
    async fn log_in_by_link<S: Io>(
        &mut self,
        links: &Links,
        params: StartupParams,
        client: &mut Connection<S>,
    ) -> Result<Connected<D::Stream>, SessionError> {
        let Self { services, activity, random, .. } = self;
        activity.reached(Stage::Authenticating);
        let linking = Box::pin(timed(Phase::Auth, links.log_in(client, params, &mut **random)));
        let Linked { compute, login, role } = linking.await?;

        activity.set_destination(Destination { endpoint: compute.address.to_string(), role });
        activity.reached(Stage::Connecting);
        let connecting =
            compute::connect_once(&services.dial, &compute, &login, services.connect_timeout, &mut **random);
        Ok(Connected {
            logged_in: timed(Phase::Connect, connecting).await?,
            compute,
            sent: SentSoFar::AuthenticationOk,
            in_use: None,
        })
    }
}

impl<'c> Started<'c> {
    fn route(self) -> Result<Routed<'c>, SessionError> {
        let server_name = self.tls.as_ref().and_then(|tls| tls.server_name.as_deref());
        let certificate = self.certificates.filter(|_| self.tls.is_some()).map(|all| all.choose(server_name));
        let domains = certificate.map(Certificate::domains).unwrap_or_default();
        let route = Route::find(server_name, domains, self.params)?;
        let end_point_hash = certificate.and_then(Certificate::end_point_hash);
        Ok(Routed { route, encrypted: self.tls.is_some(), end_point_hash, deadline: self.deadline })
    }
}

impl Destination {
    fn of(route: &Route) -> Self {
        Self { endpoint: route.endpoint.to_string(), role: route.role.to_str_lossy().into_owned() }
    }
}

/// Returns when the client has left. A client that has sent bytes ahead is not watched any further: its end could
/// only be seen behind those bytes.
async fn departure<S: Io>(client: &mut Connection<S>) -> FramedError {
    match client.reader.peek_byte().await {
        Ok(Some(_)) => std::future::pending().await,
        Ok(None) => FramedError::Io(std::io::ErrorKind::UnexpectedEof.into()),
        Err(error) => error,
    }
}
