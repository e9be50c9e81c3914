//! One connection to the PostgreSQL port: handshake, authentication, commands.
//!
//! Which timeline a connection is for is told by the startup parameter `options`; a safekeeper that has one timeline
//! needs none. Called by `server`, one task a connection.

use std::sync::Arc;

use postgres_backend::authentication::Greeting;
use postgres_backend::{
    Accepted, Answer, Connection, CopyBoth, CopyEnd, Handler, HandshakeConfig, HandshakeError, Io,
    QueryError, ResultSet, handshake, serve,
};
use pq_proto::startup::option_words;
use pq_proto::{ErrorResponse, FieldDescription, SqlState, StartupParams};
use utils::Shutdown;
use wal_store::Health;
use wal_types::TenantTimelineId;

use crate::auth::Token;
use crate::command::{Command, CommandError, StartWalPush};
use crate::metrics::Metrics;
use crate::send_wal::{Prepared, Sending};
use crate::timeline::{NotServed, Timeline, Timelines};
use crate::{receive_wal, replies, send_wal};

/// What every connection shares.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) handshake: HandshakeConfig,
    pub(crate) token: Option<Arc<Token>>,
    pub(crate) timelines: Arc<Timelines>,
    pub(crate) metrics: Metrics,
    pub(crate) shutdown: Shutdown,
}

/// Serves a connection until it ends.
pub(crate) async fn run<S: Io>(stream: S, context: Arc<Context>) {
    let opened = tokio::select! {
        opened = Box::pin(open(stream, &context)) => opened,
        // Whoever is not greeted yet has nothing to lose, and may take its time.
        () = context.shutdown.draining() => return,
    };
    let (connection, mut commands) = match opened {
        Ok(Some(opened)) => opened,
        Ok(None) => return,
        Err(error) => {
            context.metrics.count_accepted("handshake_failed");
            tracing::info!(%error, "connection did not get as far as a command");
            return;
        }
    };
    context.metrics.count_accepted("served");
    tracing::Span::current().record("timeline", tracing::field::display(commands.id));
    if let Err(error) = serve(connection, &mut commands, context.shutdown.draining()).await {
        tracing::debug!(timeline = %commands.id, %error, "connection ended");
    }
}

/// Opens, authenticates, finds out what the connection is for, and greets. `None` when there is nothing to serve.
async fn open<S: Io>(
    stream: S,
    context: &Arc<Context>,
) -> Result<Option<(Connection<S>, Commands)>, HandshakeError> {
    let mut session = match handshake::accept(stream, &context.handshake).await? {
        Accepted::Session(session) => *session,
        // Nothing here takes so long that it would have to be cancelled.
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
    let pg_version = context.timelines.get(id).map_or(0, |timeline| timeline.snapshot().lineage.pg_version);
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
    Ok(Some((session.connection, Commands { id, context: Arc::clone(context) })))
}

/// The timeline that a connection names, which need not exist, or the only one that is here.
fn timeline_of(params: &StartupParams, timelines: &Timelines) -> Result<TenantTimelineId, ErrorResponse> {
    let refused = |message: String| {
        ErrorResponse::fatal(SqlState::INVALID_PARAMETER_VALUE, message).with_hint(
            "Name it in the connection string: options='-c tenant_id=<32 hex digits> -c timeline_id=<32 hex digits>'.",
        )
    };
    let options = params.get("options").map(|options| options.to_str_lossy()).unwrap_or_default();
    match parse_options(&options).map_err(refused)? {
        (Some(tenant), Some(timeline)) => Ok(TenantTimelineId { tenant, timeline }),
        (None, None) => match timelines.all().as_slice() {
            [(only, _)] => Ok(*only),
            [] => {
                Err(refused("this safekeeper has no timeline yet, and the connection names none".to_owned()))
            }
            several => Err(refused(format!(
                "this safekeeper has {} timelines, and the connection names none",
                several.len()
            ))),
        },
        _ => Err(refused("the connection names only one of tenant_id and timeline_id".to_owned())),
    }
}

type Named = (Option<wal_types::TenantId>, Option<wal_types::TimelineId>);

/// `-c tenant_id=…`, with the `-c` or without, and under the names that older clients use. Everything else is skipped,
/// because it is not for us: stock clients pass on settings of the primary.
fn parse_options(options: &str) -> Result<Named, String> {
    let mut named: Named = (None, None);
    for word in option_words(options) {
        let word = word.strip_prefix("-c").or(word.strip_prefix("--")).unwrap_or(&word);
        let Some((key, value)) = word.split_once('=') else { continue };
        let bad = |error: wal_types::ParseIdError| format!("{key}: {error}");
        match key {
            "tenant_id" | "ztenantid" => named.0 = Some(value.parse().map_err(bad)?),
            "timeline_id" | "ztimelineid" => named.1 = Some(value.parse().map_err(bad)?),
            _ => {}
        }
    }
    Ok(named)
}

/// The commands of one connection.
struct Commands {
    id: TenantTimelineId,
    context: Arc<Context>,
}

/// A copy that is about to begin.
enum Copy {
    Receive(Arc<Timeline>, StartWalPush),
    Send(Sending),
}

impl<S: Io> Handler<S> for Commands {
    type Copy = Copy;

    async fn query(&mut self, _: &mut Connection<S>, query: &str) -> Result<Answer<Copy>, QueryError> {
        let command = Command::parse(query).map_err(refuse)?;
        tracing::debug!(timeline = %self.id, ?command, "command");
        Ok(match command {
            Command::StartWalPush(push) => Answer::CopyBoth(Copy::Receive(self.for_push(push)?, push)),
            Command::StartReplication(request) => match send_wal::prepare(&self.timeline()?, request)? {
                Prepared::Stream(sending) => Answer::CopyBoth(Copy::Send(sending)),
                Prepared::Ended(switch) => Answer::Results(replies::next_timeline(&switch)),
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

    async fn copy_both(&mut self, copy: Copy, stream: CopyBoth<S>) -> CopyEnd<S> {
        let Context { metrics, shutdown, .. } = &*self.context;
        match copy {
            Copy::Receive(timeline, push) => {
                receive_wal::run(stream, &timeline, push.version, shutdown).await
            }
            Copy::Send(sending) => sending.run(stream, metrics, shutdown).await,
        }
    }
}

impl Commands {
    /// A command that only asks. Nothing changes by it, so it also tells the columns in advance.
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
                Err(ErrorResponse::error(SqlState::INTERNAL_ERROR, "not a command with a single answer"))
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
        let NotServed { health, reason } = why;
        let sqlstate = match health {
            Health::Full => SqlState::DISK_FULL,
            Health::Failed => SqlState::IO_ERROR,
            Health::Healthy | Health::Lost | Health::Corrupt => SqlState::DATA_CORRUPTED,
        };
        if why.is_retried() {
            let message = format!("timeline {} cannot be opened: {reason}", self.id);
            return ErrorResponse::fatal(sqlstate, message)
                .with_hint("This is tried again until it succeeds. Come back later.");
        }
        ErrorResponse::fatal(sqlstate, format!("timeline {} is quarantined: {reason}", self.id))
    }

    /// The timeline, if this proposer may write it. That a proposer would like it to be made on first contact does not
    /// count: a safekeeper whose disk was wiped would vote as if it had never promised anything.
    fn for_push(&self, push: StartWalPush) -> Result<Arc<Timeline>, ErrorResponse> {
        let timeline = self.timeline()?;
        let dialect = timeline.snapshot().lineage.dialect;
        if dialect == push.version.dialect() {
            return Ok(timeline);
        }
        let message = format!(
            "timeline {} was created for dialect {}, and proto_version '{}' is of dialect {}",
            self.id,
            crate::http::dialect_name(dialect),
            consensus::codec::version_name(push.version),
            crate::http::dialect_name(push.version.dialect()),
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

#[cfg(test)]
mod tests {
    use super::*;

    const TENANT: &str = "cf0480929707ee75372337efaa5ecf96";
    const TIMELINE: &str = "112ded66422aa5e953e5440fa5427ac4";

    #[test]
    fn a_timeline_is_named_in_every_way_that_clients_have() {
        for options in [
            format!("-c tenant_id={TENANT} -c timeline_id={TIMELINE}"),
            format!("-c timeline_id={TIMELINE} tenant_id={TENANT}"),
            format!("-ctenant_id={TENANT} -ctimeline_id={TIMELINE}"),
            format!("ztenantid={TENANT} ztimelineid={TIMELINE}"),
            format!("--tenant_id={TENANT} --timeline_id={TIMELINE} -c log_min_messages=info"),
        ] {
            let named = parse_options(&options);
            let expected = (Some(TENANT.parse().unwrap()), Some(TIMELINE.parse().unwrap()));
            assert_eq!(named, Ok(expected), "{options}");
        }
        assert_eq!(parse_options("-c work_mem=1GB"), Ok((None, None)));
        let error = parse_options("-c tenant_id=xyz").unwrap_err();
        assert!(error.contains("tenant_id: not an identifier"), "{error}");
    }
}
