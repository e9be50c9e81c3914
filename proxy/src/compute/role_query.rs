//! Asks a compute what it stores for a role, on a connection of its own. For control planes that keep no verifiers.

use std::io;
use std::time::Duration;

use pq_proto::{BackendMessage, Frame, FrontendMessage, StartupParams};
use rand::SeedableRng;
use rand::rngs::StdRng;
use scram::Credentials;
use tokio::time::timeout;

use super::dial::{Dial, encrypt};
use super::error::ComputeError;
use super::handshake::{self, LoggedIn, Login};
use crate::control_plane::Compute;
use crate::providers::{AskDatabase, AskError, Asked, Asker};

/// For all of it, on a compute that runs.
const QUERY_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest message of the answer in bytes.
const ANSWER_BYTES_MAX: usize = 16 * 1024;

/// Asks over connections of this kind.
#[derive(Debug)]
pub(crate) struct RoleQuery<D>(pub(crate) D);

impl<D: Dial + std::fmt::Debug> AskDatabase for RoleQuery<D> {
    fn rolpassword<'a>(&'a self, compute: &'a Compute, asker: &'a Asker, role: &'a str) -> Asked<'a> {
        Box::pin(async move {
            // A connection that is refused says that it sleeps; one that breaks later does not.
            let stream = self.0.dial(&compute.address).await.map_err(AskError::Asleep)?;
            let asking = Box::pin(ask(&self.0, stream, compute, asker, role));
            let late = |_| ComputeError::Lost(io::ErrorKind::TimedOut.into());
            let answer = timeout(QUERY_TIMEOUT, asking).await.map_err(late).flatten();
            answer.map_err(|error| match error {
                // It falls asleep or wakes up: what it said last counts until it can be asked.
                error if error.is_starting() => AskError::Asleep(io::Error::other(error)),
                error => AskError::Failed(error.to_string()),
            })
        })
    }
}

async fn ask<D: Dial>(
    dial: &D,
    stream: D::Stream,
    compute: &Compute,
    asker: &Asker,
    role: &str,
) -> Result<Option<String>, ComputeError> {
    let stream = encrypt(dial, stream, compute).await?;
    // Whatever the role or the database sets: quotes are to mean what the query below takes them to mean.
    let settings = "-c standard_conforming_strings=on -c search_path=pg_catalog -c client_encoding=UTF8";
    let params: StartupParams = [
        ("user", asker.user.clone()),
        ("database", asker.database.clone()),
        ("application_name", "proxy auth_query".into()),
        ("options", settings.into()),
    ]
    .into_iter()
    .collect();
    let login = Login { params, credentials: Credentials::Password(asker.password.clone()) };
    let mut random = StdRng::from_rng(&mut rand::rng());
    let LoggedIn { mut connection, .. } = handshake::log_in(stream, &login, None, &mut random).await?;
    let query = FrontendMessage::Query(query(role).into());
    connection.writer.send(&query).await.map_err(ComputeError::from_stream)?;
    let mut stored = None;
    loop {
        let frame =
            connection.reader.read_frame(ANSWER_BYTES_MAX).await.map_err(ComputeError::from_stream)?;
        let frame = frame.ok_or_else(|| ComputeError::Lost(io::ErrorKind::UnexpectedEof.into()))?;
        match decode(frame)? {
            BackendMessage::DataRow(values) => {
                stored = values
                    .into_iter()
                    .next()
                    .flatten()
                    .map(|value| String::from_utf8_lossy(&value).into_owned());
            }
            BackendMessage::ErrorResponse(error) => return Err(ComputeError::Protocol(error.to_string())),
            BackendMessage::ReadyForQuery(_) => break,
            _ => {}
        }
    }
    // The answer is there; whether the goodbye arrives does not matter.
    let _ = connection.writer.send(&FrontendMessage::Terminate).await;
    Ok(stored)
}

fn decode(frame: Frame) -> Result<BackendMessage, ComputeError> {
    BackendMessage::decode(frame).map_err(|error| ComputeError::Protocol(error.to_string()))
}

/// A role that cannot log in, or whose password has expired, has none. The name is a quoted constant in which a quote is
/// doubled, which is all that there is to escape in it (PostgreSQL documentation, "String Constants").
fn query(role: &str) -> String {
    format!(
        "SELECT rolpassword FROM pg_catalog.pg_authid WHERE rolname = '{}' AND rolcanlogin \
         AND (rolvaliduntil IS NULL OR rolvaliduntil > pg_catalog.now())",
        role.replace('\'', "''")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_name_cannot_leave_its_quotes() {
        let query = query("a' OR 'x' = 'x'; DROP ROLE b --\\");
        assert!(
            query.contains("rolname = 'a'' OR ''x'' = ''x''; DROP ROLE b --\\' AND rolcanlogin"),
            "{query}"
        );
    }
}
