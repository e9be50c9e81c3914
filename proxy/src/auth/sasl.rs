//! SASL exchange: carries SCRAM between a client and the proxy (PostgreSQL documentation, "SASL Authentication").
//!
//! The server's final message is not sent here: the client gets it when its compute has accepted the login too.

use bytes::Bytes;
use postgres_backend::authentication::PASSWORD_MESSAGE_BYTES_MAX;
use postgres_backend::{Connection, Io};
use pq_proto::authentication::SaslInitialResponse;
use pq_proto::{Authentication, BackendMessage};
use scram::server::{Challenge, ChannelBinding, VerifiedClient};
use scram::{SCRAM_SHA_256, SCRAM_SHA_256_PLUS, Verifier};

use super::error::AuthError;

/// Runs the exchange up to the client's proof.
pub(super) async fn exchange<S: Io>(
    client: &mut Connection<S>,
    verifier: Verifier,
    nonce: &[u8],
    end_point_hash: Option<&[u8]>,
) -> Result<VerifiedClient, AuthError> {
    let plus = end_point_hash.map(|_| SCRAM_SHA_256_PLUS.into());
    let mechanisms = plus.into_iter().chain([SCRAM_SHA_256.into()]).collect();
    send(client, Authentication::Sasl { mechanisms }).await?;

    let first = SaslInitialResponse::decode(password_message(client).await?)
        .map_err(|error| AuthError::Protocol(format!("malformed SASLInitialResponse: {error}")))?;
    let binding = match (first.mechanism.as_bytes(), end_point_hash) {
        (mechanism, None) if mechanism == SCRAM_SHA_256.as_bytes() => ChannelBinding::NotOffered,
        (mechanism, Some(_)) if mechanism == SCRAM_SHA_256.as_bytes() => ChannelBinding::Declined,
        (mechanism, Some(hash)) if mechanism == SCRAM_SHA_256_PLUS.as_bytes() => ChannelBinding::Chosen(hash),
        _ => {
            return Err(AuthError::Protocol(
                "client selected an invalid SASL authentication mechanism".into(),
            ));
        }
    };
    let first = first.data.ok_or_else(|| AuthError::Protocol("SASLInitialResponse without data".into()))?;
    let challenge = Challenge::new(verifier, text(&first)?, nonce, binding).map_err(AuthError::Scram)?;
    let message = Bytes::copy_from_slice(challenge.server_first().as_bytes());
    send(client, Authentication::SaslContinue(message)).await?;

    let last = password_message(client).await?;
    challenge.verify(text(&last)?).map_err(AuthError::Scram)
}

pub(super) async fn send<S: Io>(
    client: &mut Connection<S>,
    request: Authentication,
) -> Result<(), AuthError> {
    Ok(client.writer.send(&BackendMessage::Authentication(request)).await?)
}

pub(super) async fn password_message<S: Io>(client: &mut Connection<S>) -> Result<Bytes, AuthError> {
    match client.reader.read_frame(PASSWORD_MESSAGE_BYTES_MAX).await? {
        Some(frame) if frame.tag == b'p' => Ok(frame.body),
        Some(frame) if frame.tag != b'X' => Err(AuthError::Protocol(format!(
            "expected a SASL response, got message {:?}",
            char::from(frame.tag)
        ))),
        _ => Err(AuthError::Closed),
    }
}

fn text(message: &[u8]) -> Result<&str, AuthError> {
    str::from_utf8(message).map_err(|_| AuthError::Protocol("SASL message is not UTF-8".into()))
}
