//! Authentication: has a client prove its password before anything is woken for it.
//!
//! A role that does not exist takes the same path as a wrong password, with as many lookups at the control plane, so a client
//! cannot tell them apart. Called by the session between startup packet and compute.

mod cleartext;
mod error;
pub(crate) mod mock_secret;
mod sasl;

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use bytes::Bytes;
use postgres_backend::{Connection, Io};
use pq_proto::Text;
use rand::Rng;
use scram::server::VerifiedClient;
use scram::{ITERATIONS_DEFAULT, NONCE_BYTES, ScramError, Verifier};
use tokio::time::Instant;

use self::cleartext::Hashing;
pub(crate) use self::error::AuthError;
pub(crate) use self::mock_secret::MockSecret;
use crate::config::{ClientAuth, RateOptions};
use crate::control_plane::{Access, CachingControlPlane, KnownAccess, LookupContext};
use crate::limits::failed_logins::FailedLogins;
use crate::limits::rate_limit::Limit;
use crate::observe::activity::SessionId;
use crate::observe::metrics::Metrics;
use crate::observe::phases::{Phase, timed};
use crate::route::{EndpointName, Route, RouteError, StartupRoute};

/// Endpoints whose logins are counted, at most. Those that were quiet for longest are forgotten first.
const LOGIN_LIMITS_MAX: usize = 10_000;

/// Facts about a client that its startup packet does not contain.
#[derive(Debug)]
pub(crate) struct ClientInfo<'a> {
    pub(crate) session: SessionId,
    pub(crate) address: Option<IpAddr>,
    pub(crate) encrypted: bool,
    /// Hash of the server certificate that SCRAM may bind to (RFC 5929, tls-server-end-point).
    pub(crate) end_point_hash: Option<&'a [u8]>,
}

/// A client that proved its password, and its route.
#[derive(Debug)]
pub(crate) struct Authenticated {
    pub(crate) context: LookupContext,
    pub(crate) route: Route,
    pub(crate) proven: VerifiedClient,
}

/// Authenticates the clients of all sessions.
#[derive(Debug)]
pub(crate) struct Authenticator {
    control_plane: Arc<CachingControlPlane>,
    mock_secret: MockSecret,
    /// SCRAM iterations shown for roles that do not exist.
    mock_iterations: NonZeroU32,
    method: ClientAuth,
    failed_logins: FailedLogins,
    /// Limit of logins to each endpoint; failed ones count too.
    logins: Arc<Limit<EndpointName>>,
    hashing: Hashing,
    metrics: Metrics,
}

impl Authenticator {
    pub(crate) fn new(
        control_plane: Arc<CachingControlPlane>,
        mock_secret: MockSecret,
        method: ClientAuth,
        metrics: Metrics,
    ) -> Self {
        let (failed_logins, hashing) = Default::default();
        let mock_iterations = ITERATIONS_DEFAULT;
        let logins = Arc::new(Limit::new(RateOptions { rate: None }, LOGIN_LIMITS_MAX));
        Self { control_plane, mock_secret, mock_iterations, method, failed_logins, logins, hashing, metrics }
    }

    /// Limits the logins to one endpoint.
    pub(crate) fn with_limit(self, per_endpoint: RateOptions) -> Self {
        Self { logins: Arc::new(Limit::new(per_endpoint, LOGIN_LIMITS_MAX)), ..self }
    }

    /// The limit of logins, so that a reload can change it.
    pub(crate) fn logins(&self) -> Arc<Limit<EndpointName>> {
        Arc::clone(&self.logins)
    }

    /// Sets the iterations shown for unknown roles. Needed where the databases' `scram_iterations` is not
    /// PostgreSQL's default.
    pub(crate) fn with_iterations(self, mock_iterations: NonZeroU32) -> Self {
        Self { mock_iterations, ..self }
    }

    /// Authenticates a client.
    ///
    /// # Errors
    ///
    /// Why the client is refused. A failed guess delays the next login from the same address.
    pub(crate) async fn authenticate<S: Io>(
        &self,
        client: &mut Connection<S>,
        startup: StartupRoute,
        peer: &ClientInfo<'_>,
        random: &mut (impl Rng + Send),
    ) -> Result<Authenticated, AuthError> {
        self.slow_down(peer.address).await;
        let result = match startup {
            StartupRoute::Known(route) => self.on_known_way(client, route, peer, random).await,
            StartupRoute::InPassword(_) if !peer.encrypted => Err(RouteError::None.into()),
            StartupRoute::InPassword(in_password) => {
                let sent = cleartext::ask(client).await?;
                let (route, password) = in_password.with_password(&sent)?;
                let password = sent.slice_ref(password);
                let (context, accessed) = self.access(&route, peer).await?;
                self.by_password(context, route, accessed, password).await
            }
        };
        if let (Err(error), Some(address)) = (&result, peer.address)
            && error.is_a_guess()
        {
            self.failed_logins.failed(address, Instant::now().into_std());
        }
        result
    }

    async fn slow_down(&self, address: Option<IpAddr>) {
        let now = Instant::now().into_std();
        let delay = address.map(|address| self.failed_logins.delay(address, now)).unwrap_or_default();
        if !delay.is_zero() {
            self.metrics.slowed_logins.inc();
            tokio::time::sleep(delay).await;
        }
    }

    async fn on_known_way<S: Io>(
        &self,
        client: &mut Connection<S>,
        route: Route,
        peer: &ClientInfo<'_>,
        random: &mut (impl Rng + Send),
    ) -> Result<Authenticated, AuthError> {
        let (context, accessed) = self.access(&route, peer).await?;
        if self.method == ClientAuth::Password && peer.encrypted {
            let password = cleartext::ask(client).await?;
            return self.by_password(context, route, accessed, password).await;
        }
        let mut nonce = [0; NONCE_BYTES];
        random.fill_bytes(&mut nonce);
        let verifier = self.verifier(&accessed.access, &route);
        match sasl::exchange(client, verifier, &nonce, peer.end_point_hash).await {
            Ok(proven) => Ok(Authenticated { context, route, proven }),
            Err(AuthError::Scram(ScramError::WrongProof)) => {
                // This exchange cannot start over. The next login finds the current password.
                let asking = self.control_plane.access_again(&context, &route.role, &accessed);
                let _ = timed(Phase::ControlPlane, asking).await;
                Err(wrong_password(&route.role))
            }
            Err(error) => Err(error),
        }
    }

    /// Looks up the role and checks the client's address against the endpoint's allowlist, before anything else is done.
    async fn access(
        &self,
        route: &Route,
        peer: &ClientInfo<'_>,
    ) -> Result<(LookupContext, KnownAccess), AuthError> {
        self.logins.try_acquire(&route.endpoint).map_err(AuthError::TooManyLogins)?;
        let application = route.params.get("application_name").cloned();
        let context = LookupContext { endpoint: route.endpoint.clone(), session: peer.session, application };
        let asking = self.control_plane.access(&context, &route.role);
        let accessed = timed(Phase::ControlPlane, asking).await?;
        if accessed.access.allowlist.allows(peer.address) {
            return Ok((context, accessed));
        }
        Err(peer
            .address
            .map_or(AuthError::NoAddress, |address| AuthError::NotAllowed(address.to_canonical())))
    }

    async fn by_password(
        &self,
        context: LookupContext,
        route: Route,
        accessed: KnownAccess,
        password: Bytes,
    ) -> Result<Authenticated, AuthError> {
        let verifier = self.verifier(&accessed.access, &route);
        let mut keys = self.hashing.check(verifier, password.clone()).await?;
        if keys.is_none()
            && let Some(again) =
                timed(Phase::ControlPlane, self.control_plane.access_again(&context, &route.role, &accessed))
                    .await
        {
            keys = self.hashing.check(self.verifier(&again?.access, &route), password).await?;
        }
        let keys = keys.ok_or_else(|| wrong_password(&route.role))?;
        Ok(Authenticated { context, route, proven: VerifiedClient { keys, server_final: None } })
    }

    /// The role's verifier. A role without one gets a mock verifier that looks alike and that no password fits.
    fn verifier(&self, access: &Access, route: &Route) -> Verifier {
        let (secret, rounds) = (&self.mock_secret.0, self.mock_iterations);
        let stand_in = || Verifier::mock(secret, route.endpoint.as_str(), route.role.as_bytes(), rounds);
        access.verifier.clone().unwrap_or_else(stand_in)
    }
}

fn wrong_password(role: &Text) -> AuthError {
    AuthError::WrongPassword(role.to_str_lossy().into_owned())
}

#[cfg(test)]
mod tests;
