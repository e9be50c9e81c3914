//! Session: runs one connection, from its first byte to its last. The stages of its login are in [`login`], the first
//! bytes that a client gets from its compute in [`greeting`]. Generic over streams; randomness is an argument and
//! time is tokio's, so that `transcripts` can replay conversations byte for byte. Called by `server` for every
//! connection.

mod context;
mod error;
mod greeting;
mod login;
#[cfg(test)]
mod transcripts;

use std::sync::Arc;

use postgres_backend::handshake::{self, HandshakeConfig};
use postgres_backend::{Connection, HandshakeError, Io};
use rand::Rng;
use tokio::time::Instant;
use tracing::Instrument;

pub(crate) use self::context::{Services, Session};
pub(crate) use self::error::{SessionEnd, SessionError, closed};
use self::greeting::Cancellable;
use self::login::Started;
use crate::client_facing::ClientFacing;
use crate::closing::close;
use crate::compute::Dial;
use crate::control_plane::InUse;
use crate::limits::connections::TooMany;
use crate::observe::activity::Stage;
use crate::observe::phases::{Phase, timed};
use crate::relay::{self, RelayEnd};
use crate::tls::Tls;

/// Where the login of a connection has led.
enum Opened<C, S> {
    /// To a session at the compute.
    Session(Box<Open<C, S>>),
    /// To the end of the connection, in order.
    Ended(SessionEnd),
}

/// An open session: its client has been greeted, and bytes may pass.
struct Open<C, S> {
    client: Connection<C>,
    compute: Connection<S>,
    cancellable: Option<Cancellable>,
    /// Keeps the compute from being suspended.
    _in_use: Option<InUse>,
}

impl<D: Dial, R: Rng + Send> Session<'_, D, R> {
    /// Runs the connection. With `too_many` the client is over a limit: it may only send a cancel request.
    pub(crate) async fn run<S: Io>(
        mut self,
        stream: S,
        too_many: Option<TooMany>,
    ) -> Result<SessionEnd, SessionError> {
        let (begin, tls) = (Instant::now(), self.services.tls.current());
        // Only the login is inside the span and has clocks. They would cost something whenever bytes pass.
        let (phases, span) = (&self.activity.phases, self.span);
        // Each stage has memory of its own, and gives it back at its end.
        let shaking_hands = Arc::clone(phases).of(self.handshake(stream, &tls)).instrument(span.clone());
        let accepted = Box::pin(shaking_hands).await?;
        let opening = self.open(accepted, &tls, begin, too_many);
        let opening = Arc::clone(phases).of(opening).instrument(span.clone());
        match Box::pin(opening).await? {
            Opened::Ended(end) => Ok(end),
            Opened::Session(open) => Ok(SessionEnd::Relayed(Box::pin(self.relay(*open)).await)),
        }
    }

    /// Everything from the startup packet, or a cancel request, to the greeting.
    async fn open<S: Io>(
        &mut self,
        accepted: handshake::Accepted<S>,
        tls: &Tls,
        begin: Instant,
        too_many: Option<TooMany>,
    ) -> Result<Opened<S, D::Stream>, SessionError> {
        let started = match accepted {
            handshake::Accepted::Session(started) => *started,
            handshake::Accepted::Closed => return Ok(Opened::Ended(SessionEnd::NothingAsked)),
            handshake::Accepted::Cancel { pid, key } => {
                let Services { cancels, dial, .. } = self.services;
                cancels.pass_on(dial, self.activity.peer(), pid, &key).await;
                return Ok(Opened::Ended(SessionEnd::CancelRequest));
            }
        };
        let (mut client, version) = (started.connection, started.version);

        // Route, authentication, compute.
        let started = Started {
            params: started.params,
            tls: started.tls,
            certificates: tls.certificates.as_deref(),
            deadline: started.deadline,
        };
        let services = self.services;
        let connected = match too_many {
            Some(too_many) => Err(too_many.into()),
            None => tokio::select! {
                connected = Box::pin(self.log_in(started, &mut client)) => connected,
                // A login that is given up here holds nothing that others wait for.
                () = services.drain.deadline() => Err(SessionError::Draining),
            },
        };
        let mut connected = match connected {
            Ok(connected) => connected,
            Err(error) => {
                close(client, error.response().as_ref()).await;
                return Err(error);
            }
        };

        // The greeting.
        let in_use = connected.in_use.take();
        let greeting = timed(Phase::Connect, self.greet(connected, &mut client, version));
        let (compute, cancellable) = Box::pin(greeting).await?;
        self.services.metrics.login_seconds.observe(begin.elapsed().as_secs_f64());
        Ok(Opened::Session(Box::new(Open { client, compute, cancellable, _in_use: in_use })))
    }

    /// TLS and the startup packet, or a cancel request.
    async fn handshake<S: Io>(&self, stream: S, tls: &Tls) -> Result<handshake::Accepted<S>, HandshakeError> {
        let config = HandshakeConfig { tls: tls.mode.clone(), timeout: self.services.login_timeout };
        // Only the end of the handshake shows whether the client uses TLS.
        let accepted = timed(Phase::Tls, Box::pin(handshake::accept(stream, &config))).await?;
        if matches!(&accepted, handshake::Accepted::Session(session) if session.tls.is_none()) {
            self.activity.phases.rename(Phase::Tls, Phase::Startup);
        }
        Ok(accepted)
    }

    /// Passes bytes in both directions until the session ends.
    async fn relay<S: Io>(&self, open: Open<S, D::Stream>) -> RelayEnd {
        let Open { client, compute, cancellable, _in_use } = open;
        let Services { metrics, drain, dial, .. } = self.services;
        self.activity.reached(Stage::Passing);
        let counted = metrics.count_session();
        let drain_ends = relay::DrainEnds {
            begun: Box::pin(drain.begun()),
            when_idle: || drain.idle_sessions_end(),
            in_any_case: || drain.deadline(),
        };
        let end = relay::run(client, compute, self.activity, self.span, drain_ends).await;
        drop(counted);

        if let Some(Cancellable { target, registered }) = cancellable {
            drop(registered);
            // The client no longer waits for the answer, but the database would still work on it.
            use RelayEnd::{ClientVanished, CutOff};
            if matches!(end, ClientVanished { busy: true } | CutOff { busy: true })
                && let Err(error) = Box::pin(target.cancel(dial)).instrument(self.span.clone()).await
            {
                let _entered = self.span.enter();
                tracing::warn!(%error, "cannot cancel the query of a client that vanished");
            }
        }
        end
    }
}
