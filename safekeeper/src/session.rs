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
use wal_store::Retention;
use wal_types::TenantTimelineId;

use crate::auth::Token;
use crate::command::{Command, CommandError, CreateSlot, StartReplication, StartWalPush};
use crate::metrics::Metrics;
use crate::send_wal::{CheckedRequest, ReplicationStart};
use crate::slots::{NewSlot, SlotError, SlotUse, SlotView, TemporarySlot, TimelineSlots};
use crate::socket::Socket;
use crate::startup_options::timeline_of;
use crate::timeline::{NotServed, NotServedCause, Timeline, Timelines};
use crate::{receive_wal, replies, send_wal};

/// Longest time that DROP_REPLICATION_SLOT with WAIT waits for the reader that has the slot.
const DROP_SLOT_WAIT_MAX: std::time::Duration = std::time::Duration::from_secs(60);

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
    pub(crate) retention: Retention,
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

    // After a start the timeline may not be open yet.
    context.timelines.opened(id).await;
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
    let user = session.params.get("user").cloned().unwrap_or_default().to_str_lossy().into_owned();
    let handler = CommandHandler {
        id,
        user,
        application_name,
        temporary_slots: Vec::new(),
        context: Arc::clone(context),
    };
    Ok(Some((session.connection, handler)))
}

/// Answers the commands of one connection.
struct CommandHandler {
    id: TenantTimelineId,
    /// The user of the startup packet. It owns the slots that it creates.
    user: String,
    application_name: String,
    /// Slots that end with this connection.
    temporary_slots: Vec<TemporarySlot>,
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
            Command::StartReplication(request) => {
                let slot = self.acquire_slot(&request).await?;
                match CheckedRequest::check(&self.timeline()?, &request, slot)? {
                    ReplicationStart::Stream(request) => Answer::CopyBoth(PendingCopy::Send(request)),
                    ReplicationStart::TimelineEnded(switch) => {
                        Answer::Results(replies::next_timeline(&switch))
                    }
                }
            }
            Command::CreateReplicationSlot(create) => {
                let reply = replies::create_replication_slot(&create.slot);
                self.create_slot(create).await?;
                Answer::Results(vec![reply])
            }
            Command::DropReplicationSlot { slot, wait } => {
                self.drop_slot(slot, wait).await?;
                Answer::done("DROP_REPLICATION_SLOT")
            }
            simple => Answer::Results(vec![self.answer(&simple)?]),
        })
    }

    fn describe(&mut self, query: &str) -> Result<Vec<FieldDescription>, ErrorResponse> {
        match Command::parse(query).map_err(refuse)? {
            Command::CreateReplicationSlot(_) => Ok(replies::create_replication_slot_columns()),
            Command::StartWalPush(_) | Command::StartReplication(_) | Command::DropReplicationSlot { .. } => {
                Ok(Vec::new())
            }
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
        let timeline = self.timeline()?;
        let snapshot = timeline.snapshot();
        match command {
            Command::IdentifySystem => Ok(replies::identify_system(&snapshot, &timeline.start_history)),
            Command::Show(name) => replies::show(name, &snapshot),
            Command::SetDateStyle => Ok(ResultSet::tag("SET")),
            Command::ReadReplicationSlot(name) => {
                let slot = timeline.slots.find(name);
                Ok(replies::read_replication_slot(slot.as_ref(), &snapshot, &timeline.start_history))
            }
            Command::TimelineHistory(tli) => {
                replies::timeline_history(*tli, &snapshot, &timeline.start_history)
            }
            Command::TimelineStatus => Ok(replies::timeline_status(Some(&snapshot))),
            Command::StartReplication(_)
            | Command::StartWalPush(_)
            | Command::CreateReplicationSlot(_)
            | Command::DropReplicationSlot { .. } => {
                Err(ErrorResponse::error(SqlState::INTERNAL_ERROR, "command has no single answer"))
            }
        }
    }

    /// Takes the slot that the request names.
    async fn acquire_slot(&self, request: &StartReplication) -> Result<Option<SlotUse>, ErrorResponse> {
        let Some(name) = &request.slot else { return Ok(None) };
        let slots = Arc::clone(&self.timeline()?.slots);
        let acquired = SlotUse::acquire(&slots, name, &self.user, &self.application_name, request.start);
        Ok(Some(acquired.await?))
    }

    async fn create_slot(&mut self, create: CreateSlot) -> Result<(), ErrorResponse> {
        let CreateSlot { slot: name, is_temporary, reserve_wal } = create;
        let new = NewSlot { name, owner: self.user.clone(), reserve_wal };
        let (slots, keep) = (Arc::clone(&self.timeline()?.slots), self.context.retention.wal_keep_bytes);
        if is_temporary {
            self.temporary_slots.push(slots.create_temporary(&new, keep)?);
            return Ok(());
        }
        blocking(move || slots.create(&new, keep)).await
    }

    async fn drop_slot(&mut self, name: String, wait: bool) -> Result<(), ErrorResponse> {
        let before = self.temporary_slots.len();
        self.temporary_slots.retain(|slot| slot.name() != name);
        if self.temporary_slots.len() < before {
            return Ok(());
        }
        let (slots, user) = (Arc::clone(&self.timeline()?.slots), self.user.clone());
        if wait {
            // A slot that is still in use after that is refused as without WAIT.
            let _ = tokio::time::timeout(DROP_SLOT_WAIT_MAX, wait_unused(&slots, &name)).await;
        }
        blocking(move || slots.drop_slot(&name, &user)).await
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
            NotServedCause::Opening => {
                (SqlState::CANNOT_CONNECT_NOW, format!("timeline {id} is not open yet: {reason}"))
            }
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

/// Waits until no reader has the slot.
async fn wait_unused(slots: &TimelineSlots, name: &str) {
    loop {
        let released = slots.next_release();
        let is_active = |view: &SlotView| view.slot.name == name && view.active_by.is_some();
        if !slots.list().iter().any(is_active) {
            return;
        }
        released.await;
    }
}

/// Runs disk work off the runtime's threads.
async fn blocking(
    work: impl FnOnce() -> Result<(), SlotError> + Send + 'static,
) -> Result<(), ErrorResponse> {
    let done = tokio::task::spawn_blocking(work).await;
    Ok(done.unwrap_or(Err(SlotError::ShuttingDown))?)
}

fn refuse(error: CommandError) -> ErrorResponse {
    match error {
        CommandError::Syntax(message) => ErrorResponse::error(SqlState::SYNTAX_ERROR, message),
        CommandError::Unsupported { what, hint } => {
            ErrorResponse::error(SqlState::FEATURE_NOT_SUPPORTED, what).with_hint(hint)
        }
    }
}
