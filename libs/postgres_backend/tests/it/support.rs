//! Test server with a few commands, and a raw client that sends messages and bytes.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use postgres_backend::authentication::Greeting;
use postgres_backend::{
    Accepted, AfterCopy, Answer, ClosedBy, Connection, CopyBoth, CopyEnd, CopyMessage, Handler,
    HandshakeConfig, HandshakeError, Io, QueryError, ResultSet, TlsMode, handshake, serve,
};
use pq_proto::{
    BackendMessage, Encode, ErrorResponse, FieldDescription, FramedError, FramedReader, FramedWriter,
    ProtocolVersion, SqlState, StartupPacket,
};
use tokio::io::{DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// A step of a test that takes this long hangs.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);
const PIPE_BYTES: usize = 64 * 1024;
pub(crate) const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// Commands with one kind of answer each. ECHO is a copy that sends back every payload.
pub(crate) struct TestHandler;

pub(crate) enum TestCopy {
    Echo,
    BothFail,
}

impl<S: Io> Handler<S> for TestHandler {
    type Copy = TestCopy;

    async fn query(
        &mut self,
        connection: &mut Connection<S>,
        query: &str,
    ) -> Result<Answer<TestCopy>, QueryError> {
        match query {
            "SHOW x" => Ok(Answer::row([FieldDescription::text("x")], [Some("16MB".to_owned())], "SHOW")),
            "NULLS" => {
                let columns = [FieldDescription::int4("a"), FieldDescription::int8("b")];
                Ok(Answer::row(columns, [None, Some("2".to_owned())], "NULLS"))
            }
            "FAIL" => Err(ErrorResponse::error(SqlState::UNDEFINED_OBJECT, "no such thing").into()),
            "DIE" => Err(ErrorResponse::fatal(SqlState::INTERNAL_ERROR, "that was all").into()),
            "WRITE" => {
                connection.writer.put(&BackendMessage::CommandComplete("WRITE".into()))?;
                Ok(Answer::Written)
            }
            "ECHO" => Ok(Answer::CopyBoth(TestCopy::Echo)),
            "BOTH FAIL" => Ok(Answer::CopyBoth(TestCopy::BothFail)),
            _ => Err(ErrorResponse::error(SqlState::SYNTAX_ERROR, format!("what is {query}?")).into()),
        }
    }

    fn describe(&mut self, query: &str) -> Result<Vec<FieldDescription>, ErrorResponse> {
        Ok(if query == "SHOW x" { vec![FieldDescription::text("x")] } else { Vec::new() })
    }

    async fn copy_both(&mut self, copy: TestCopy, mut stream: CopyBoth<S>) -> CopyEnd<S> {
        match copy {
            TestCopy::Echo => loop {
                match echo_one(&mut stream).await {
                    // Nothing is lost or repeated when the socket below changes in the middle of a copy.
                    Ok(None) => stream = stream.change_socket(|_| ()).0,
                    Ok(Some(after)) => return CopyEnd::new(stream, Ok(after)),
                    Err(error) => return CopyEnd::new(stream, Err(error)),
                }
            },
            TestCopy::BothFail => CopyEnd {
                stream,
                received: Err(ErrorResponse::error(SqlState::DATA_CORRUPTED, "receiving failed").into()),
                sent: Err(ErrorResponse::error(SqlState::IO_ERROR, "sending failed").into()),
            },
        }
    }
}

/// Sends back one payload. How the connection goes on when the client has ended the copy.
async fn echo_one<S: Io>(stream: &mut CopyBoth<S>) -> Result<Option<AfterCopy>, QueryError> {
    match stream.reader.next(MESSAGE_BYTES_MAX).await? {
        CopyMessage::Data(payload) => {
            stream.writer.send(&payload).await?;
            Ok(None)
        }
        CopyMessage::Done => {
            stream.writer.put_done()?;
            let results = vec![ResultSet::tag("START_STREAMING"), ResultSet::tag("ECHO")];
            Ok(Some(AfterCopy::Ready(results)))
        }
        CopyMessage::Fail(reason) => {
            let message = format!("client aborted the copy: {}", reason.to_str_lossy());
            Err(ErrorResponse::error(SqlState::QUERY_CANCELED, message).into())
        }
        CopyMessage::Terminate => Ok(Some(AfterCopy::Close)),
    }
}

/// End of a connection, as the test server saw it.
#[derive(Debug)]
pub(crate) enum SessionEnd {
    Served(Result<ClosedBy, FramedError>),
    Refused(HandshakeError),
    Cancelled(i32, Bytes),
    ClosedByClient,
}

/// One connection of a server, from its first byte to its end.
pub(crate) async fn serve_one<S: Io>(
    stream: S,
    config: HandshakeConfig,
    token: Option<&str>,
    stop: Arc<Notify>,
) -> SessionEnd {
    let mut session = match handshake::accept(stream, &config).await {
        Ok(Accepted::Session(session)) => session,
        Ok(Accepted::Cancel { pid, key }) => return SessionEnd::Cancelled(pid, key),
        Ok(Accepted::Closed) => return SessionEnd::ClosedByClient,
        Err(error) => return SessionEnd::Refused(error),
    };
    if let Some(token) = token {
        let authenticated = session.authenticate_cleartext(|given| {
            if given == token {
                Ok(())
            } else {
                Err(ErrorResponse::fatal(SqlState::INVALID_PASSWORD, "wrong token"))
            }
        });
        if let Err(error) = authenticated.await {
            return SessionEnd::Refused(error);
        }
    }
    let parameters = &[("server_version", "15.4"), ("client_encoding", "UTF8")];
    let greeting = Greeting { parameters, key: Some((7, Bytes::from_static(b"keys"))) };
    if let Err(error) = session.greet(&greeting).await {
        return SessionEnd::Refused(error);
    }
    SessionEnd::Served(
        serve(session.connection, &mut TestHandler, async move { stop.notified().await }).await,
    )
}

/// A client that speaks in messages, and the server at the other end of its pipe.
pub(crate) struct RawClient {
    pub(crate) reader: FramedReader<ReadHalf<DuplexStream>>,
    pub(crate) writer: FramedWriter<WriteHalf<DuplexStream>>,
    pub(crate) stop: Arc<Notify>,
    server: JoinHandle<SessionEnd>,
}

impl RawClient {
    /// Before its first byte.
    pub(crate) fn new(tls: TlsMode) -> Self {
        Self::with_config(HandshakeConfig::new(tls), None)
    }

    pub(crate) fn with_config(config: HandshakeConfig, token: Option<&'static str>) -> Self {
        let (client, server) = tokio::io::duplex(PIPE_BYTES);
        let stop = Arc::new(Notify::new());
        let server = tokio::spawn(serve_one(server, config, token, Arc::clone(&stop)));
        let (reader, writer) = tokio::io::split(client);
        Self { reader: FramedReader::new(reader), writer: FramedWriter::new(writer), stop, server }
    }

    /// Ready for a query.
    pub(crate) async fn ready() -> Self {
        let mut client = Self::new(TlsMode::Disabled);
        client.send(&startup(ProtocolVersion::V3_0, &[("user", "me")])).await;
        client.until_ready().await;
        client
    }

    pub(crate) async fn send(&mut self, message: &impl Encode) {
        self.writer.send(message).await.unwrap();
    }

    pub(crate) async fn send_all<M: Encode>(&mut self, messages: &[M]) {
        messages.iter().for_each(|message| self.writer.put(message).unwrap());
        self.writer.flush().await.unwrap();
    }

    pub(crate) async fn send_raw(&mut self, bytes: &[u8]) {
        self.writer.put_raw(bytes);
        self.writer.flush().await.unwrap();
    }

    /// The next message; `None` when the server closed the connection.
    pub(crate) async fn receive(&mut self) -> Option<BackendMessage> {
        let frame = in_time(self.reader.read_frame(MESSAGE_BYTES_MAX)).await.unwrap();
        frame.map(|frame| BackendMessage::decode(frame).unwrap())
    }

    /// Type bytes of all messages up to ReadyForQuery.
    pub(crate) async fn until_ready(&mut self) -> String {
        let mut tags = String::new();
        while !tags.ends_with('Z') {
            let message = self.receive().await.expect("the connection goes on");
            tags.push(char::from(message.tag()));
        }
        tags
    }

    /// The server's closing message, behind which it closes the connection.
    pub(crate) async fn last_error(&mut self) -> ErrorResponse {
        let Some(BackendMessage::ErrorResponse(response)) = self.receive().await else {
            panic!("no error came")
        };
        assert_eq!(self.receive().await, None);
        response
    }

    /// Closes the connection and returns the end that the server saw.
    pub(crate) async fn end(self) -> SessionEnd {
        drop((self.reader, self.writer));
        in_time(self.server).await.unwrap()
    }
}

pub(crate) fn startup(version: ProtocolVersion, params: &[(&str, &str)]) -> StartupPacket {
    StartupPacket::Startup { version, params: params.iter().copied().collect() }
}

pub(crate) fn encoded(messages: &[StartupPacket]) -> BytesMut {
    let mut out = BytesMut::new();
    messages.iter().for_each(|message| message.encode(&mut out).unwrap());
    out
}

pub(crate) async fn in_time<T>(step: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, step).await.expect("a step of the test hangs")
}
