//! Role query: reads a role's verifier from a compute, on a connection of its own. For providers that keep no verifiers.

use std::io;
use std::time::Duration;

use pq_proto::{BackendMessage, Frame, FrontendMessage, StartupParams};
use scram::Credentials;
use tokio::time::timeout;

use super::dial::{Dial, encrypt};
use super::error::ComputeError;
use super::handshake::{self, LoggedIn, Login};
use crate::control_plane::Compute;
use crate::providers::{QueryDatabase, QueryError, QueryReply, QueryUser};
use crate::thread_random::ThreadRandom;

/// Time limit for connection, login and query, on a running compute.
const QUERY_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest message of the answer, in bytes.
const ANSWER_BYTES_MAX: usize = 16 * 1024;

/// Queries over connections that `D` opens.
#[derive(Debug)]
pub(crate) struct RoleQuery<D>(pub(crate) D);

impl<D: Dial + std::fmt::Debug> QueryDatabase for RoleQuery<D> {
    fn rolpassword<'a>(&'a self, compute: &'a Compute, user: &'a QueryUser, role: &'a str) -> QueryReply<'a> {
        Box::pin(async move {
            // A refused connection means that the compute sleeps; one that breaks later does not.
            let stream = self.0.dial(&compute.address).await.map_err(QueryError::Suspended)?;
            let asking = Box::pin(ask(&self.0, stream, compute, user, role));
            let late = |_| ComputeError::Lost(io::ErrorKind::TimedOut.into());
            let answer = timeout(QUERY_TIMEOUT, asking).await.map_err(late).flatten();
            answer.map_err(|error| match error {
                // The compute is starting or stopping: its last answer counts until it can be asked.
                error if error.is_starting() => QueryError::Suspended(io::Error::other(error)),
                error => QueryError::Failed(error.to_string()),
            })
        })
    }
}

async fn ask<D: Dial>(
    dial: &D,
    stream: D::Stream,
    compute: &Compute,
    user: &QueryUser,
    role: &str,
) -> Result<Option<String>, ComputeError> {
    let stream = encrypt(dial, stream, compute).await?;
    // Role and database may set these otherwise. The query below relies on them.
    let settings = "-c standard_conforming_strings=on -c search_path=pg_catalog -c client_encoding=UTF8";
    let params: StartupParams = [
        ("user", user.name.clone()),
        ("database", user.database.clone()),
        ("application_name", "proxy auth_query".into()),
        ("options", settings.into()),
    ]
    .into_iter()
    .collect();
    let login = Login { params, credentials: Credentials::Password(user.password.clone()) };
    let mut random = ThreadRandom;
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
    // The answer is complete; a lost Terminate does not matter.
    let _ = connection.writer.send(&FrontendMessage::Terminate).await;
    Ok(stored)
}

fn decode(frame: Frame) -> Result<BackendMessage, ComputeError> {
    BackendMessage::decode(frame).map_err(|error| ComputeError::Protocol(error.to_string()))
}

/// The query for a role's verifier. A role that cannot log in, or whose password expired, has none.
///
/// The name is a quoted constant. Doubling its quotes is all the escaping that it needs (PostgreSQL documentation, "String
/// Constants").
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
