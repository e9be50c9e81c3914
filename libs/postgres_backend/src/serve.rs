//! Query loop: reads commands, lets the [`Handler`] run them, and sends the answers (PostgreSQL documentation, "Message
//! Flow"). Called by every server with a connection that has got its greeting.

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
use crate::io::Io;
use crate::result_set::ResultSet;

/// Longest body of a client's message outside a copy, in bytes.
pub const QUERY_BYTES_MAX: usize = 64 * 1024;

/// Which side ended a connection that ended without a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClosedBy {
    /// The client ended the connection.
    Client,
    /// The server ended the connection: with a fatal error, after a copy, or at a shutdown.
    Server,
}

/// Serves a connection until one side ends it. When `shutdown` completes, a connection that waits for its next command
/// gets ADMIN_SHUTDOWN and is closed; a command or a copy in progress is ended by its handler. An error is that of the
/// stream, or of bytes that are no valid message; the client has then got its response.
pub async fn serve<S: Io, H: Handler<S>>(
    connection: Connection<S>,
    handler: &mut H,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<ClosedBy, FramedError> {
    let mut shutdown = pin!(shutdown);
    let mut server = Server { connection, handler, extended: Extended::default(), skip_to_sync: false };

    server.send_ready().await?;
    loop {
        let frame = tokio::select! {
            biased;
            // Both futures may be dropped: a frame that has arrived in part stays in the reader's buffer.
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

        match server.handle(message).await? {
            Next::Continue(next) => server = next,
            Next::Closed => return Ok(ClosedBy::Server),
        }
    }
}

fn decode(frame: Frame) -> Result<FrontendMessage, FramedError> {
    Ok(FrontendMessage::decode(frame)?)
}

/// A connection between two commands. It is passed by value because a copy splits the connection.
struct Server<'h, S, H> {
    connection: Connection<S>,
    handler: &'h mut H,
    extended: Extended,
    /// An error in the extended protocol makes the server skip all messages up to Sync.
    skip_to_sync: bool,
}

/// Whether the query loop goes on after a command.
enum Next<T> {
    Continue(T),
    Closed,
}

/// The protocol by which a command came.
#[derive(Clone, Copy)]
enum QueryProtocol {
    Simple,
    Extended { columns_known: bool },
}

impl<S: Io, H: Handler<S>> Server<'_, S, H> {
    async fn handle(mut self, message: FrontendMessage) -> Result<Next<Self>, FramedError> {
        match message {
            FrontendMessage::Query(query) => {
                self.skip_to_sync = false;
                let Next::Continue(mut server) = self.run(query, QueryProtocol::Simple).await? else {
                    return Ok(Next::Closed);
                };
                server.send_ready().await?;
                return Ok(Next::Continue(server));
            }
            FrontendMessage::Sync => {
                self.skip_to_sync = false;
                self.extended.sync();
                self.send_ready().await?;
            }
            // A client may still send these after a copy has failed (PostgreSQL documentation, "COPY Operations").
            FrontendMessage::CopyData(_) | FrontendMessage::CopyDone | FrontendMessage::CopyFail(_) => {}
            _ if self.skip_to_sync => {}
            FrontendMessage::Execute { portal, .. } => match self.extended.portal(&portal).cloned() {
                Ok(portal) => {
                    return self
                        .run(portal.query, QueryProtocol::Extended { columns_known: portal.described })
                        .await;
                }
                Err(error) => self.put_extended_error(error)?,
            },
            other => {
                if let Err(error) = self.answer_extended(other).await? {
                    self.put_extended_error(error)?;
                }
            }
        }
        self.connection.writer.flush_if_full().await?;
        Ok(Next::Continue(self))
    }

    /// Answers the messages of the extended protocol that run no command.
    async fn answer_extended(
        &mut self,
        message: FrontendMessage,
    ) -> Result<Result<(), ErrorResponse>, FramedError> {
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

    /// Runs a command and buffers its answer, all but ReadyForQuery.
    async fn run(mut self, query: Text, protocol: QueryProtocol) -> Result<Next<Self>, FramedError> {
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
            Ok(Answer::Results(results)) => self.put_results(results, protocol)?,
            Ok(Answer::Written) => {}
            Ok(Answer::CopyBoth(copy)) => return self.copy(copy, protocol).await,
            Err(error) => return self.handle_error(error, protocol).await,
        }
        Ok(Next::Continue(self))
    }

    /// Runs a copy, and then continues or closes the connection as its end says.
    async fn copy(mut self, copy: H::Copy, protocol: QueryProtocol) -> Result<Next<Self>, FramedError> {
        let Self { mut connection, handler, extended, skip_to_sync } = self;
        connection.writer.send(&BackendMessage::CopyBothResponse(CopyFormat::default())).await?;

        let CopyEnd { stream, received, sent } = handler.copy_both(copy, CopyBoth::split(connection)).await;
        self = Self { connection: stream.join(), handler, extended, skip_to_sync };

        match (received, sent) {
            (Ok(()), Ok(AfterCopy::Ready(results))) => {
                self.put_results(results, protocol)?;
                Ok(Next::Continue(self))
            }
            (Ok(()), Ok(AfterCopy::Close)) => {
                self.connection.writer.shutdown().await?;
                Ok(Next::Closed)
            }
            (Err(error), Ok(_)) | (Ok(()), Err(error)) => self.handle_error(error, protocol).await,
            (Err(received), Err(sent)) => {
                // One error goes to the client or is returned; the other one is logged, so that it is not lost.
                let (shown, other) = match sent {
                    QueryError::Response(_) => (received, sent),
                    QueryError::Connection(_) => (sent, received),
                };
                tracing::warn!(error = %other, "other direction of a copy failed too");
                self.handle_error(shown, protocol).await
            }
        }
    }

    /// Reports a failed command, and closes the connection where the error demands it.
    async fn handle_error(
        mut self,
        error: QueryError,
        protocol: QueryProtocol,
    ) -> Result<Next<Self>, FramedError> {
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
                match protocol {
                    QueryProtocol::Simple => {
                        self.connection.writer.put(&BackendMessage::ErrorResponse(response))?
                    }
                    QueryProtocol::Extended { .. } => self.put_extended_error(response)?,
                }
                Ok(Next::Continue(self))
            }
        }
    }

    fn put_results(&mut self, results: Vec<ResultSet>, protocol: QueryProtocol) -> Result<(), ProtocolError> {
        let columns_known = matches!(protocol, QueryProtocol::Extended { columns_known: true });
        results.into_iter().try_for_each(|result| result.put(&mut self.connection.writer, columns_known))
    }

    /// Buffers an error of the extended protocol: messages up to Sync are skipped.
    fn put_extended_error(&mut self, response: ErrorResponse) -> Result<(), ProtocolError> {
        self.skip_to_sync = true;
        self.connection.writer.put(&BackendMessage::ErrorResponse(response))
    }

    /// Sends ReadyForQuery and everything buffered before it.
    async fn send_ready(&mut self) -> Result<(), FramedError> {
        self.connection.writer.send(&BackendMessage::ReadyForQuery(TransactionStatus::Idle)).await
    }

    /// Sends a fatal error and closes the sending direction.
    async fn close(&mut self, response: ErrorResponse) -> Result<ClosedBy, FramedError> {
        self.connection.send_error(response).await?;
        self.connection.writer.shutdown().await?;
        Ok(ClosedBy::Server)
    }
}

/// Answers Describe, and remembers that the client knows the columns.
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
