//! Whether a client is who it says, before anything is woken for it. A role that does not exist goes the same way as a
//! wrong password, and nobody can tell them apart. Called by the session between route and compute.

mod sasl;

use postgres_backend::{Connection, Io};
use pq_proto::{ErrorResponse, FramedError, SqlState};
use rand::Rng;

use crate::control_plane::{Cached, ControlPlaneError};
use crate::error::violation;
use crate::route::Route;
use crate::scram::server::Proven;
use crate::scram::{NONCE_BYTES, ScramError, Verifier};

/// From which the salts of roles that do not exist are made. To be kept over restarts: such a salt would change with it,
/// and a real one does not.
#[derive(Clone)]
pub(crate) struct MockSecret(pub(crate) [u8; 32]);

impl std::fmt::Debug for MockSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MockSecret(..)")
    }
}

/// The client is not let in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthError {
    #[error("password authentication failed for user \"{0}\"")]
    WrongPassword(String),
    #[error(transparent)]
    Scram(ScramError),
    #[error("{0}")]
    Protocol(String),
    #[error("the client closed the connection")]
    Closed,
    #[error(transparent)]
    Connection(#[from] FramedError),
    #[error(transparent)]
    ControlPlane(#[from] ControlPlaneError),
}

impl AuthError {
    pub(crate) const fn how(&self) -> &'static str {
        match self {
            Self::WrongPassword(_) => "wrong_password",
            Self::Scram(_) | Self::Protocol(_) => "bad_authentication",
            Self::Closed | Self::Connection(_) => "client_left",
            Self::ControlPlane(ControlPlaneError::UnknownEndpoint(_)) => "unknown_endpoint",
            Self::ControlPlane(_) => "control_plane_failed",
        }
    }

    /// What the client is told, when it is still there.
    pub(crate) fn response(&self) -> Option<ErrorResponse> {
        let with = |sqlstate| Some(ErrorResponse::fatal(sqlstate, self.to_string()));
        match self {
            Self::WrongPassword(_) => with(SqlState::INVALID_PASSWORD),
            Self::Scram(ScramError::ChannelBinding) => with(SqlState::INVALID_AUTHORIZATION),
            Self::Scram(ScramError::Unsupported(_)) => with(SqlState::FEATURE_NOT_SUPPORTED),
            Self::Scram(_) | Self::Protocol(_) | Self::Connection(FramedError::Protocol(_)) => {
                Some(violation(self.to_string()))
            }
            Self::ControlPlane(error) => Some(error.response()),
            Self::Closed | Self::Connection(_) => None,
        }
    }
}

/// Has the client prove that it knows its password. `end_point_hash` is what SCRAM may bind to.
pub(crate) async fn authenticate<S: Io>(
    client: &mut Connection<S>,
    route: &Route,
    control_plane: &Cached,
    secret: &MockSecret,
    end_point_hash: Option<&[u8]>,
    random: &mut (impl Rng + Send),
) -> Result<Proven, AuthError> {
    let verifier = control_plane.verifier(&route.endpoint, &route.role).await?;
    let stand_in = Verifier::mock(&secret.0, route.endpoint.as_str(), route.role.as_bytes());
    let mut nonce = [0; NONCE_BYTES];
    random.fill_bytes(&mut nonce);
    let proven = sasl::exchange(client, verifier.unwrap_or(stand_in), &nonce, end_point_hash).await;
    proven.map_err(|error| match error {
        AuthError::Scram(ScramError::WrongProof) => {
            AuthError::WrongPassword(route.role.to_str_lossy().into_owned())
        }
        error => error,
    })
}
