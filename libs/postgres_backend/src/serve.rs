//! The query loop: reads commands, lets the [`Handler`] run them, and answers (PostgreSQL documentation, "Message
//! Flow"). Called by every server with a connection that has been greeted.

use std::future::Future;
use std::pin::pin;

use pq_proto::backend::CopyFormat;
use pq_proto::{
    BackendMessage, ErrorResponse, Frame, FramedError, FrontendMessage, ProtocolError, SqlState, Target,
    Text, TransactionStatus,
};

use crate::connection::Connection;
use crate::copy::CopyBoth;
use crate::error::QueryError;
use crate::extended::Extended;
use crate::handler::{AfterCopy, Answer, CopyEnd, Handler};
use crate::result_set::ResultSet;
use crate::stream::Io;

/// Longest message of a client outside a copy, in bytes.
pub const QUERY_BYTES_MAX: usize = 64 * 1024;

/// How a connection ended that ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClosedBy {
    /// The client ended it.
    Client,
    /// The server ended it: by a fatal error, after a copy, or at a shutdown.
    Server,
}

/// Serves a connection until one side ends it. When `shutdown` completes, a connection that waits for its next command
/// is told and closed; a command or a copy in progress is the handler's to end.
pub async fn serve<S: Io, H: Handler<S>>(
    connection: Connection<S>,
    handler: &mut H,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<ClosedBy, FramedError> {
    let mut shutdown = pin!(shutdown);
    let mut server = Server { connection, handler, extended: Extended::default(), skip_to_sync: false };
    server.ready().await?;
    loop {
        let frame = tokio::select! {
            biased;
            // Both may be dropped: a frame that has arrived in part stays in the reader's buffer.
            () = &mut shutdown => {
                let message = "terminating connection due to administrator command";
                return server.close(ErrorResponse::fatal(SqlState::ADMIN_SHUTDOWN, message)).await;
            }
            frame = server.connection.reader.read_frame(QUERY_BYTES_MAX) => frame,
        };
        let message = match frame.and_then(|frame| frame.map(decode).transpose()) {
            Ok(Some(FrontendMessage::Terminate) | None) => return Ok(ClosedBy::Client),
            Ok(Some(message)) => message,
            Err(FramedError::Protocol(error)) => {
                server.close(ErrorResponse::fatal(SqlState::PROTOCOL_VIOLATION, error.to_string())).await?;
                return Err(error.into());
            }
            Err(error) => return Err(error),
        };
        match server.message(message).await? {
            Next::Continue(next) => server = next,
            Next::Closed => return Ok(ClosedBy::Server),
        }
    }
}

fn decode(frame: Frame) -> Result<FrontendMessage, FramedError> {
    Ok(FrontendMessage::decode(frame)?)
}

/// A connection between two commands. Passed by value, because a copy takes the connection apart.
struct Server<'h, S, H> {
    connection: Connection<S>,
    handler: &'h mut H,
    extended: Extended,
    /// After an error in the extended protocol everything up to Sync is skipped.
    skip_to_sync: bool,
}

enum Next<T> {
    Continue(T),
    Closed,
}

/// How a command was asked for.
#[derive(Clone, Copy)]
enum Asked {
    Simple,
    Extended { columns_known: bool },
}

impl<S: Io, H: Handler<S>> Server<'_, S, H> {
    async fn message(mut self, message: FrontendMessage) -> Result<Next<Self>, FramedError> {
        match message {
            FrontendMessage::Query(query) => {
                self.skip_to_sync = false;
                let Next::Continue(mut server) = self.run(query, Asked::Simple).await? else {
                    return Ok(Next::Closed);
                };
                server.ready().await?;
                return Ok(Next::Continue(server));
            }
            FrontendMessage::Sync => {
                self.skip_to_sync = false;
                self.extended.sync();
                self.ready().await?;
            }
            // What a client still sends after a copy has failed (PostgreSQL documentation, "COPY Operations").
            FrontendMessage::CopyData(_) | FrontendMessage::CopyDone | FrontendMessage::CopyFail(_) => {}
            _ if self.skip_to_sync => {}
            FrontendMessage::Execute { portal, .. } => match self.extended.portal(&portal).cloned() {
                Ok(portal) => {
                    return self.run(portal.query, Asked::Extended { columns_known: portal.described }).await;
                }
                Err(error) => self.fail(error)?,
            },
            other => {
                if let Err(error) = self.prepare(other).await? {
                    self.fail(error)?;
                }
            }
        }
        self.connection.writer.flush_if_full().await?;
        Ok(Next::Continue(self))
    }

    /// The messages of the extended protocol that run nothing.
    async fn prepare(&mut self, message: FrontendMessage) -> Result<Result<(), ErrorResponse>, FramedError> {
        let writer = &mut self.connection.writer;
        let reply = match message {
            FrontendMessage::Parse(parse) => {
                self.extended.parse(parse).map(|()| BackendMessage::ParseComplete)
            }
            FrontendMessage::Bind(bind) => self.extended.bind(bind).map(|()| BackendMessage::BindComplete),
            FrontendMessage::Close(target) => {
                self.extended.close(&target);
                Ok(BackendMessage::CloseComplete)
            }
            FrontendMessage::Flush => {
                writer.flush().await?;
                return Ok(Ok(()));
            }
            FrontendMessage::Describe(target) => {
                let described = describe(&mut self.extended, self.handler, &target);
                if described.is_ok() && matches!(target, Target::Statement(_)) {
                    writer.put(&BackendMessage::ParameterDescription(Vec::new()))?;
                }
                described
            }
            other => {
                let message = format!("message type {:?} is not supported", char::from(other.tag()));
                Err(ErrorResponse::error(SqlState::FEATURE_NOT_SUPPORTED, message))
            }
        };
        Ok(match reply {
            Ok(reply) => Ok(writer.put(&reply)?),
            Err(error) => Err(error),
        })
    }

    /// Runs a command and answers it, up to but without ReadyForQuery.
    async fn run(mut self, query: Text, asked: Asked) -> Result<Next<Self>, FramedError> {
        let answer = match query.to_str() {
            Ok(text) if text.trim_end_matches(|c: char| c == ';' || c.is_ascii_whitespace()).is_empty() => {
                self.connection.writer.put(&BackendMessage::EmptyQueryResponse)?;
                return Ok(Next::Continue(self));
            }
            Ok(text) => self.handler.query(&mut self.connection, text).await,
            Err(error) => {
                Err(ErrorResponse::error(SqlState::CHARACTER_NOT_IN_REPERTOIRE, error.to_string()).into())
            }
        };
        match answer {
            Ok(Answer::Results(results)) => self.put_results(results, asked)?,
            Ok(Answer::Written) => {}
            Ok(Answer::CopyBoth(copy)) => return self.copy(copy, asked).await,
            Err(error) => return self.failed(error, asked).await,
        }
        Ok(Next::Continue(self))
    }

    async fn copy(mut self, copy: H::Copy, asked: Asked) -> Result<Next<Self>, FramedError> {
        let Self { mut connection, handler, extended, skip_to_sync } = self;
        connection.writer.send(&BackendMessage::CopyBothResponse(CopyFormat::default())).await?;
        let CopyEnd { stream, received, sent } = handler.copy_both(copy, CopyBoth::split(connection)).await;
        self = Self { connection: stream.join(), handler, extended, skip_to_sync };
        match (received, sent) {
            (Ok(()), Ok(AfterCopy::Ready(results))) => {
                self.put_results(results, asked)?;
                Ok(Next::Continue(self))
            }
            (Ok(()), Ok(AfterCopy::Close)) => {
                self.connection.writer.shutdown().await?;
                Ok(Next::Closed)
            }
            (Err(error), Ok(_)) | (Ok(()), Err(error)) => self.failed(error, asked).await,
            (Err(received), Err(sent)) => {
                // One is told to the client or returned; the other must not get lost.
                let (shown, other) = match sent {
                    QueryError::Response(_) => (received, sent),
                    QueryError::Connection(_) => (sent, received),
                };
                tracing::warn!(error = %other, "the other side of a copy failed too");
                self.failed(shown, asked).await
            }
        }
    }

    async fn failed(mut self, error: QueryError, asked: Asked) -> Result<Next<Self>, FramedError> {
        match error {
            QueryError::Connection(FramedError::Protocol(error)) => {
                self.close(ErrorResponse::fatal(SqlState::PROTOCOL_VIOLATION, error.to_string())).await?;
                Err(error.into())
            }
            QueryError::Connection(error) => Err(error),
            QueryError::Response(response) if response.is_fatal() => {
                self.close(response).await?;
                Ok(Next::Closed)
            }
            QueryError::Response(response) => {
                match asked {
                    Asked::Simple => self.connection.writer.put(&BackendMessage::ErrorResponse(response))?,
                    Asked::Extended { .. } => self.fail(response)?,
                }
                Ok(Next::Continue(self))
            }
        }
    }

    fn put_results(&mut self, results: Vec<ResultSet>, asked: Asked) -> Result<(), ProtocolError> {
        let columns_known = matches!(asked, Asked::Extended { columns_known: true });
        results.into_iter().try_for_each(|result| result.put(&mut self.connection.writer, columns_known))
    }

    fn fail(&mut self, response: ErrorResponse) -> Result<(), ProtocolError> {
        self.skip_to_sync = true;
        self.connection.writer.put(&BackendMessage::ErrorResponse(response))
    }

    async fn ready(&mut self) -> Result<(), FramedError> {
        self.connection.writer.send(&BackendMessage::ReadyForQuery(TransactionStatus::Idle)).await
    }

    async fn close(&mut self, response: ErrorResponse) -> Result<ClosedBy, FramedError> {
        self.connection.send_error(response).await?;
        self.connection.writer.shutdown().await?;
        Ok(ClosedBy::Server)
    }
}

fn describe<S: Io, H: Handler<S>>(
    extended: &mut Extended,
    handler: &mut H,
    target: &Target,
) -> Result<BackendMessage, ErrorResponse> {
    let prepared = extended.target(target)?;
    let query = prepared
        .query
        .to_str()
        .map_err(|error| ErrorResponse::error(SqlState::CHARACTER_NOT_IN_REPERTOIRE, error.to_string()))?;
    let columns = handler.describe(query)?;
    if columns.is_empty() {
        return Ok(BackendMessage::NoData);
    }
    prepared.described = true;
    Ok(BackendMessage::RowDescription(columns))
}
