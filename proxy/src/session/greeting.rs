//! Greeting of a client that its compute has let in: everything up to ReadyForQuery, in one write. The cancel key in it is
//! the proxy's own.

use std::sync::Arc;
use std::time::Duration;

use postgres_backend::{Connection, Io};
use pq_proto::{Authentication, BackendMessage, FramedError, ProtocolVersion};
use rand::Rng;
use tokio::time::timeout;

use super::context::Session;
use super::error::SessionError;
use super::login::{Connected, SentSoFar};
use crate::cancel::{Registered, Target};
use crate::compute::Dial;
use crate::compute::handshake::LoggedIn;

/// Time limit for sending the greeting to the client.
const GREET_TIMEOUT: Duration = Duration::from_secs(10);

/// A backend that can be asked to cancel, and the key with which its client may ask.
#[derive(Debug)]
pub(super) struct Cancellable {
    pub(super) target: Arc<Target>,
    pub(super) registered: Registered,
}

impl<D: Dial, R: Rng + Send> Session<'_, D, R> {
    /// Registers a cancel key and sends the greeting. The client learns only here that it is let in.
    pub(super) async fn greet<S: Io>(
        &mut self,
        connected: Connected<D::Stream>,
        client: &mut Connection<S>,
        version: ProtocolVersion,
    ) -> Result<(Connection<D::Stream>, Option<Cancellable>), SessionError> {
        let Connected { logged_in, compute, sent, .. } = connected;
        let LoggedIn { connection, greeting, key, ready } = logged_in;
        let cancellable = key.map(|(pid, key)| {
            let target = Arc::new(Target { compute, pid, key });
            let registered = self.services.cancels.register(Arc::clone(&target), version, &mut *self.random);
            Cancellable { target, registered }
        });

        let writer = &mut client.writer;
        if let SentSoFar::Nothing { server_final } = sent {
            let server_final = server_final.map(|text| Authentication::SaslFinal(text.into()));
            for request in server_final.into_iter().chain([Authentication::Ok]) {
                writer.put(&BackendMessage::Authentication(request)).map_err(FramedError::from)?;
            }
        }
        writer.put_raw(&greeting);
        if let Some(Cancellable { registered, .. }) = &cancellable {
            let own = BackendMessage::BackendKeyData { pid: registered.pid, key: registered.key.clone() };
            writer.put(&own).map_err(FramedError::from)?;
        }
        writer.put(&ready).map_err(FramedError::from)?;

        let flushed = timeout(GREET_TIMEOUT, writer.flush()).await.map_err(|_| SessionError::Timeout)?;
        flushed.map_err(FramedError::from)?;
        Ok((connection, cancellable))
    }
}
