//! Session: one connection to the PostgreSQL port, from its handshake through its commands to its end.
//!
//! The startup parameter `options` names the timeline of a connection; a safekeeper that has one timeline needs no name.
//! Called by `server`, one task per connection.

use std::sync::Arc;

use postgres_backend::authentication::Greeting;
use postgres_backend::{
    Accepted, Answer, Connection, CopyBoth, CopyEnd, Handler, HandshakeConfig, HandshakeError, QueryError,
    ResultSet, handshake, serve,
};
use pq_proto::{ErrorResponse, FieldDescription, SqlState};
use utils::handshakes::Handshake;
use utils::{Handshakes, Shutdown};
use wal_types::TenantTimelineId;

use crate::auth::Token;
use crate::command::{Command, CommandError, StartWalPush};
use crate::metrics::Metrics;
use crate::send_wal::{CheckedRequest, ReplicationStart};
use crate::socket::Socket;
use crate::startup_options::timeline_of;
use crate::timeline::{NotServed, NotServedCause, Timeline, Timelines};
use crate::{receive_wal, replies, send_wal};

/// What all sessions share.
#[derive(Debug)]
pub(crate) struct SessionContext {
    pub(crate) handshake: HandshakeConfig,
    /// The token that clients send as password; without one every client is trusted.
    pub(crate) token: Option<Arc<Token>>,
    pub(crate) timelines: Arc<Timelines>,
    pub(crate) metrics: Metrics,
    pub(crate) shutdown: Shutdown,
    /// Clients that have not authenticated.
    pub(crate) handshakes: Arc<Handshakes>,
    /// Connections at a time, handshakes included. A further one is closed at once: each takes descriptors, and may fill a
    /// lane in memory.
    pub(crate) connections_max: usize,
}

/// Serves a connection until it ends.
pub(crate) async fn run(stream: Socket, handshake: Handshake, context: Arc<SessionContext>) {
    let opened = tokio::select! {
        opened = Box::pin(open(stream, &context)) => opened,
        // The handshake may be cancelled: the client has not sent a command yet.
        () = context.shutdown.draining() => return,
    };
    let (connection, mut commands) = match opened {
        Ok(Some(opened)) => opened,
        Ok(None) => return,
        Err(error) => {
            context.metrics.count_connection("handshake_failed");
            tracing::info!(%error, "handshake failed");
            return;
        }
    };

    drop(handshake);
    context.metrics.count_connection("served");
    tracing::Span::current().record("timeline", tracing::field::display(commands.id));
    if let Err(error) = serve(connection, &mut commands, context.shutdown.draining()).await {
        tracing::debug!(timeline = %commands.id, %error, "connection ended");
    }
}

/// Does the handshake, authenticates, finds the timeline, and greets. `None` for a connection that asks for nothing.
async fn open(
    stream: Socket,
    context: &Arc<SessionContext>,
) -> Result<Option<(Connection<Socket>, CommandHandler)>, HandshakeError> {
    let mut session = match handshake::accept(stream, &context.handshake).await? {
        Accepted::Session(session) => *session,
        // No command runs long enough to be worth cancelling.
        Accepted::Cancel { .. } | Accepted::Closed => return Ok(None),
    };
    if let Some(token) = &context.token {
        session
            .authenticate_cleartext(|password| {
                let wrong = || ErrorResponse::fatal(SqlState::INVALID_PASSWORD, "wrong token");
                if token.matches(password.as_bytes()) { Ok(()) } else { Err(wrong()) }
            })
            .await?;
    }
    let id = match timeline_of(&session.params, &context.timelines) {
        Ok(id) => id,
        Err(response) => return Err(session.refuse(response).await),
    };

    let timeline = context.timelines.find_served(id);
    let pg_version = timeline.map_or(0, |timeline| timeline.snapshot().lineage.pg_version);
    let server_version = replies::server_version(pg_version);
    let application_name = session.params.get("application_name").cloned().unwrap_or_default();
    let application_name = application_name.to_str_lossy().into_owned();
    // pg_receivewal insists on the version and integer_datetimes, psycopg on the encoding.
    let parameters = [
        ("application_name", application_name.as_str()),
        ("client_encoding", "UTF8"),
        ("DateStyle", "ISO, MDY"),
        ("in_hot_standby", "off"),
        ("integer_datetimes", "on"),
        ("is_superuser", "off"),
        ("server_encoding", "UTF8"),
        ("server_version", server_version.as_str()),
        ("standard_conforming_strings", "on"),
        ("TimeZone", "UTC"),
    ];
    session.greet(&Greeting { parameters: &parameters, key: None }).await?;
    Ok(Some((session.connection, CommandHandler { id, context: Arc::clone(context) })))
}

/// Answers the commands of one connection.
struct CommandHandler {
    id: TenantTimelineId,
    context: Arc<SessionContext>,
}

/// A copy that begins when the client has received CopyBothResponse.
enum PendingCopy {
    Receive(Arc<Timeline>, StartWalPush),
    Send(CheckedRequest),
}

impl Handler<Socket> for CommandHandler {
    type Copy = PendingCopy;

    async fn query(
        &mut self,
        _: &mut Connection<Socket>,
        query: &str,
    ) -> Result<Answer<PendingCopy>, QueryError> {
        let command = Command::parse(query).map_err(refuse)?;
        tracing::debug!(timeline = %self.id, ?command, "command");
        Ok(match command {
            Command::StartWalPush(push) => {
                Answer::CopyBoth(PendingCopy::Receive(self.timeline_for_push(push)?, push))
            }
            Command::StartReplication(request) => match CheckedRequest::check(&self.timeline()?, request)? {
                ReplicationStart::Stream(request) => Answer::CopyBoth(PendingCopy::Send(request)),
                ReplicationStart::TimelineEnded(switch) => Answer::Results(replies::next_timeline(&switch)),
            },
            simple => Answer::Results(vec![self.answer(&simple)?]),
        })
    }

    fn describe(&mut self, query: &str) -> Result<Vec<FieldDescription>, ErrorResponse> {
        match Command::parse(query).map_err(refuse)? {
            Command::StartWalPush(_) | Command::StartReplication(_) => Ok(Vec::new()),
            simple => Ok(self.answer(&simple)?.columns),
        }
    }

    async fn copy_both(&mut self, copy: PendingCopy, stream: CopyBoth<Socket>) -> CopyEnd<Socket> {
        let SessionContext { metrics, shutdown, .. } = &*self.context;
        match copy {
            PendingCopy::Receive(timeline, push) => {
                receive_wal::run(stream, &timeline, push.version, shutdown).await
            }
            PendingCopy::Send(request) => send_wal::run(request, stream, metrics, shutdown).await,
        }
    }
}

impl CommandHandler {
    /// Answers a command that only reads. It changes nothing, so `describe` calls it as well, for the columns.
    fn answer(&self, command: &Command) -> Result<ResultSet, ErrorResponse> {
        if *command == Command::TimelineStatus && self.context.timelines.find(self.id).is_none() {
            return Ok(replies::timeline_status(None));
        }
        let snapshot = self.timeline()?.snapshot();
        match command {
            Command::IdentifySystem => Ok(replies::identify_system(&snapshot)),
            Command::Show(name) => replies::show(name, &snapshot),
            Command::SetDateStyle => Ok(ResultSet::tag("SET")),
            Command::ReadReplicationSlot(_) => Ok(replies::read_replication_slot()),
            Command::CreateReplicationSlot(slot) => Ok(replies::create_replication_slot(slot)),
            Command::DropReplicationSlot(_) => Ok(ResultSet::tag("DROP_REPLICATION_SLOT")),
            Command::TimelineHistory(tli) => replies::timeline_history(*tli, &snapshot),
            Command::TimelineStatus => Ok(replies::timeline_status(Some(&snapshot))),
            Command::StartReplication(_) | Command::StartWalPush(_) => {
                Err(ErrorResponse::error(SqlState::INTERNAL_ERROR, "command has no single answer"))
            }
        }
    }

    fn timeline(&self) -> Result<Arc<Timeline>, ErrorResponse> {
        match self.context.timelines.find(self.id) {
            Some(timeline) => timeline.map_err(|why| self.not_served(&why)),
            None => {
                let message = format!("timeline {} does not exist on this safekeeper", self.id);
                Err(ErrorResponse::fatal(SqlState::INVALID_CATALOG_NAME, message)
                    .with_hint("Create it with POST /v1/timelines on the HTTP port."))
            }
        }
    }

    fn not_served(&self, why: &NotServed) -> ErrorResponse {
        let (id, reason) = (self.id, &why.reason);
        let (sqlstate, message) = match why.cause {
            NotServedCause::DiskFull => {
                (SqlState::DISK_FULL, format!("timeline {id} cannot be opened: {reason}"))
            }
            NotServedCause::DiskFailed => {
                (SqlState::IO_ERROR, format!("timeline {id} cannot be opened: {reason}"))
            }
            NotServedCause::Quarantined => {
                (SqlState::DATA_CORRUPTED, format!("timeline {id} is quarantined: {reason}"))
            }
            NotServedCause::ShardEnded => {
                (SqlState::INTERNAL_ERROR, format!("timeline {id} is not served: {reason}"))
            }
        };
        let response = ErrorResponse::fatal(sqlstate, message);
        if why.is_retried() {
            return response
                .with_hint("The safekeeper tries again until the timeline opens. Connect again later.");
        }
        response
    }

    /// The timeline, if this proposer may write it. A proposer's request to create it on first contact is ignored: a
    /// safekeeper whose disk was wiped would vote as if it had never promised anything.
    fn timeline_for_push(&self, push: StartWalPush) -> Result<Arc<Timeline>, ErrorResponse> {
        let timeline = self.timeline()?;
        let dialect = timeline.snapshot().lineage.dialect;
        if dialect == push.version.dialect() {
            return Ok(timeline);
        }

        let message = format!(
            "timeline {} was created for dialect {}, and proto_version '{}' is of dialect {}",
            self.id,
            replies::dialect_name(dialect),
            consensus::codec::version_name(push.version),
            replies::dialect_name(push.version.dialect()),
        );
        Err(ErrorResponse::fatal(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, message)
            .with_hint("Create a timeline of its own for this proposer."))
    }
}

fn refuse(error: CommandError) -> ErrorResponse {
    match error {
        CommandError::Syntax(message) => ErrorResponse::error(SqlState::SYNTAX_ERROR, message),
        CommandError::Unsupported { what, hint } => {
            ErrorResponse::error(SqlState::FEATURE_NOT_SUPPORTED, what).with_hint(hint)
        }
    }
}
