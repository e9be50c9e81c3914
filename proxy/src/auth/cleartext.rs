//! Cleartext passwords: asks for a password and checks it against the role's verifier.
//!
//! For clients that cannot do SCRAM, or that can name their endpoint only before the password. Only inside TLS, and before
//! anything is woken. Hashing takes milliseconds, so it runs on blocking threads, few at a time. Called by `auth`.

use std::sync::Arc;

use bytes::Bytes;
use postgres_backend::{Connection, Io};
use pq_proto::Authentication;
use pq_proto::authentication::decode_password;
use scram::{ITERATIONS_MAX, ScramKeys, Verifier};
use tokio::sync::Semaphore;

use super::error::AuthError;
use super::sasl::{password_message, send};

/// Passwords that are hashed at the same time. More would only take processor time from other sessions.
const HASHINGS_MAX: usize = 4;

/// Bounds the passwords that are hashed at the same time.
#[derive(Debug)]
pub(super) struct Hashing(Arc<Semaphore>);

impl Default for Hashing {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(HASHINGS_MAX)))
    }
}

impl Hashing {
    /// The SCRAM keys of the password; `None` when it is wrong.
    ///
    /// # Errors
    ///
    /// When the verifier has more than [`ITERATIONS_MAX`] iterations.
    pub(super) async fn check(
        &self,
        verifier: Verifier,
        password: Bytes,
    ) -> Result<Option<ScramKeys>, AuthError> {
        if verifier.iterations() > ITERATIONS_MAX {
            return Err(AuthError::TooManyIterations);
        }
        // Acquiring and joining fail only when the program ends.
        let Ok(permit) = Arc::clone(&self.0).acquire_owned().await else { return Ok(None) };
        let hashing = tokio::task::spawn_blocking(move || {
            let keys = verifier.check_password(&password);
            drop(permit);
            keys
        });
        Ok(hashing.await.unwrap_or_default())
    }
}

/// Asks for the password and returns it, without the terminating zero byte.
pub(super) async fn ask<S: Io>(client: &mut Connection<S>) -> Result<Bytes, AuthError> {
    send(client, Authentication::CleartextPassword).await?;
    let message = password_message(client).await?;
    let malformed = |error| AuthError::Protocol(format!("malformed password message: {error}"));
    Ok(Bytes::copy_from_slice(decode_password(message).map_err(malformed)?.as_bytes()))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    #[tokio::test]
    async fn hashing_refuses_verifiers_with_too_many_iterations() {
        let text = Verifier::from_password("x", b"salt", NonZeroU32::MIN).to_string();
        let check = async |iterations: u32| {
            let verifier = text.replace("$1:", &format!("${iterations}:")).parse().unwrap();
            Hashing::default().check(verifier, Bytes::from_static(b"x")).await
        };
        assert!(check(1).await.unwrap().is_some());
        assert!(check(2).await.unwrap().is_none());
        assert!(matches!(check(i32::MAX as u32).await, Err(AuthError::TooManyIterations)));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn hashing_does_not_block_other_tasks() {
        let slow =
            Verifier::from_password("x", b"salt", NonZeroU32::MIN).to_string().replace("$1:", "$20000:");
        let hashing = Hashing::default();
        let mut check = Box::pin(hashing.check(slow.parse().unwrap(), Bytes::from_static(b"x")));
        let mut turns = 0;
        loop {
            tokio::select! {
                biased;
                keys = &mut check => break assert!(keys.unwrap().is_none()),
                () = tokio::task::yield_now() => turns += 1,
            }
        }
        assert!(turns > 10, "{turns}");
    }
}
