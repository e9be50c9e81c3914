//! Handshake of a server: negotiates TLS and reads the startup packet (PostgreSQL documentation, "Start-up" and "SSL
//! Session Encryption"). Used by every server. Authentication follows, on the [`Session`] that it makes.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use pq_proto::wire::Encode;
use pq_proto::{BackendMessage, FramedReader, ProtocolVersion, StartupPacket, StartupParams};
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout_at};

use crate::connection::Connection;
use crate::error::HandshakeError;
use crate::io::Io;
use crate::stream::Stream;
use crate::tls::{ServerTls, TlsInfo};

/// Longest time for everything before the first query, TLS and authentication included. It counts once for all reads.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest time to send the closing message to a client whose deadline has passed.
const CLOSING_MESSAGE_TIMEOUT: Duration = Duration::from_secs(1);

/// First byte of a TLS handshake record (RFC 8446, section 5.1).
const TLS_HANDSHAKE_RECORD: u8 = 0x16;

/// Settings of the handshake.
#[derive(Debug, Clone)]
pub struct HandshakeConfig {
    /// When sessions use TLS.
    pub tls: TlsMode,
    /// Longest time for everything before the first query.
    pub timeout: Duration,
}

impl HandshakeConfig {
    /// Settings with [`HANDSHAKE_TIMEOUT`].
    pub fn new(tls: TlsMode) -> Self {
        Self { tls, timeout: HANDSHAKE_TIMEOUT }
    }
}

/// When sessions use TLS.
#[derive(Debug, Clone)]
pub enum TlsMode {
    /// Never.
    Disabled,
    /// When the client asks for it.
    Offered(ServerTls),
    /// Always: a session without TLS is refused.
    Required(ServerTls),
}

impl TlsMode {
    fn server_tls(&self) -> Option<&ServerTls> {
        match self {
            Self::Disabled => None,
            Self::Offered(tls) | Self::Required(tls) => Some(tls),
        }
    }
}

/// Request of a client that has opened a connection.
#[derive(Debug)]
pub enum Accepted<S> {
    /// The client opens a session.
    Session(Box<Session<S>>),
    /// The client cancels the command of another connection. It expects no answer but the end of this one.
    Cancel {
        /// Process id from that connection's BackendKeyData.
        pid: i32,
        /// Secret from that connection's BackendKeyData.
        key: Bytes,
    },
    /// The client closed the connection without a request, as port scans and health checks do.
    Closed,
}

/// A connection that is open but not authenticated.
#[derive(Debug)]
pub struct Session<S> {
    /// The open connection.
    pub connection: Connection<S>,
    /// The version in use: the client's, or [`ProtocolVersion::NEWEST`] where that is older.
    pub version: ProtocolVersion,
    /// Startup parameters, without the protocol options (`_pq_.…`).
    pub params: StartupParams,
    /// Facts from the TLS handshake; `None` on a plain session.
    pub tls: Option<TlsInfo>,
    /// When authentication must be over.
    pub deadline: Instant,
}

/// Runs the handshake on a new stream. A client that makes a mistake gets an ErrorResponse before the error is returned.
pub async fn accept<S: Io>(stream: S, config: &HandshakeConfig) -> Result<Accepted<S>, HandshakeError> {
    let deadline = Instant::now() + config.timeout;
    let negotiation = Box::pin(negotiate(stream, &config.tls, deadline));
    // A client that stopped inside a packet gets a closing message at the deadline. The server waits only a moment for
    // the client to read it.
    timeout_at(deadline + CLOSING_MESSAGE_TIMEOUT, negotiation).await.map_err(|_| HandshakeError::Timeout)?
}

async fn negotiate<S: Io>(
    stream: S,
    mode: &TlsMode,
    deadline: Instant,
) -> Result<Accepted<S>, HandshakeError> {
    let mut plain = FramedReader::new(stream);
    let first = timeout_at(deadline, plain.peek_byte()).await.map_err(|_| HandshakeError::Timeout)?;

    let direct = first? == Some(TLS_HANDSHAKE_RECORD);
    let request = if direct {
        Request::StartTls(mode.server_tls().ok_or(HandshakeError::TlsNotConfigured)?)
    } else {
        // In a box: a connection that says nothing has no room for its requests.
        let asking = next_request(&mut plain, mode.server_tls(), RequestsLeft::at_first(), deadline);
        let request = Box::pin(asking).await.and_then(|request| match (request, mode) {
            (Request::Startup { .. }, TlsMode::Required(_)) => Err(HandshakeError::TlsRequired),
            (request, _) => Ok(request),
        });
        reply_on_error(request, plain.io_mut()).await?
    };

    let (io, read_before) = plain.into_parts();
    match request {
        Request::Closed => Ok(Accepted::Closed),
        Request::Cancel { pid, key } => Ok(Accepted::Cancel { pid, key }),
        Request::Startup { version, params } => {
            let connection = Connection::new(Stream::Plain(io), read_before);
            session(connection, version, params, None, deadline)
        }
        Request::StartTls(tls) => {
            let accepting = Box::pin(tls.accept(io, &read_before));
            let (stream, info) =
                timeout_at(deadline, accepting).await.map_err(|_| HandshakeError::Timeout)??;
            Box::pin(negotiate_inside_tls(stream, info, direct, deadline)).await
        }
    }
}

async fn negotiate_inside_tls<S: Io>(
    stream: Stream<S>,
    info: TlsInfo,
    direct: bool,
    deadline: Instant,
) -> Result<Accepted<S>, HandshakeError> {
    let mut reader = FramedReader::new(stream);
    // Without the ALPN protocol a browser could be made to send this port bytes that it reads as commands.
    let request = if direct && !info.alpn_agreed {
        Err(HandshakeError::DirectTlsWithoutAlpn)
    } else {
        next_request(&mut reader, None, RequestsLeft::none(), deadline).await
    };

    match reply_on_error(request, reader.io_mut()).await? {
        Request::Closed => Ok(Accepted::Closed),
        Request::Cancel { pid, key } => Ok(Accepted::Cancel { pid, key }),
        Request::StartTls(_) => Err(HandshakeError::UnexpectedRequest("SSLRequest")),
        Request::Startup { version, params } => {
            let (stream, read_before) = reader.into_parts();
            session(Connection::new(stream, read_before), version, params, Some(info), deadline)
        }
    }
}

/// The client's next request on a stream.
enum Request<'c> {
    Closed,
    StartTls(&'c ServerTls),
    Cancel { pid: i32, key: Bytes },
    Startup { version: ProtocolVersion, params: StartupParams },
}

/// Requests for encryption that the client may still send: each is answered once.
struct RequestsLeft {
    tls: bool,
    gss: bool,
}

impl RequestsLeft {
    const fn at_first() -> Self {
        Self { tls: true, gss: true }
    }

    const fn none() -> Self {
        Self { tls: false, gss: false }
    }
}

/// Reads packets, and declines encryption that is not offered, until a packet asks for anything else.
async fn next_request<'c, S: Io>(
    reader: &mut FramedReader<S>,
    tls: Option<&'c ServerTls>,
    mut left: RequestsLeft,
    deadline: Instant,
) -> Result<Request<'c>, HandshakeError> {
    loop {
        let packet = timeout_at(deadline, reader.read_startup_packet()).await;
        let (name, allowed, tls) = match packet.map_err(|_| HandshakeError::Timeout)?? {
            None => return Ok(Request::Closed),
            Some(StartupPacket::Cancel { pid, key }) => return Ok(Request::Cancel { pid, key }),
            Some(StartupPacket::Startup { version, params }) => {
                return Ok(Request::Startup { version, params });
            }
            Some(StartupPacket::Ssl) => ("SSLRequest", std::mem::take(&mut left.tls), tls),
            Some(StartupPacket::GssEnc) => ("GSSENCRequest", std::mem::take(&mut left.gss), None),
        };

        if !allowed {
            return Err(HandshakeError::UnexpectedRequest(name));
        }
        // A client waits for the answer. Bytes before it were put there by an attacker in the middle, and would count as
        // part of the encrypted session (CVE-2021-23214).
        if !reader.buffered().is_empty() {
            return Err(HandshakeError::UnencryptedData(name));
        }

        let io = reader.io_mut();
        io.write_all(if tls.is_some() { b"S" } else { b"N" }).await?;
        io.flush().await?;
        if let Some(tls) = tls {
            return Ok(Request::StartTls(tls));
        }
    }
}

/// Makes the session. Buffers NegotiateProtocolVersion when the client asked for a newer version or for protocol
/// options.
fn session<S: Io>(
    mut connection: Connection<S>,
    asked: ProtocolVersion,
    mut params: StartupParams,
    tls: Option<TlsInfo>,
    deadline: Instant,
) -> Result<Accepted<S>, HandshakeError> {
    let unsupported = params.remove_names(|name| name.as_bytes().starts_with(b"_pq_."));

    let newest = asked.min(ProtocolVersion::NEWEST);
    if asked > newest || !unsupported.is_empty() {
        // Goes out with the first message of the authentication.
        connection.writer.put(&BackendMessage::NegotiateProtocolVersion { newest, unsupported })?;
    }
    Ok(Accepted::Session(Box::new(Session { connection, version: newest, params, tls, deadline })))
}

/// Sends the client the response to an error, if there is one for it.
async fn reply_on_error<S: Io, T>(
    result: Result<T, HandshakeError>,
    io: &mut S,
) -> Result<T, HandshakeError> {
    let reply = result.as_ref().err().and_then(HandshakeError::response);
    if let Some(reply) = reply {
        let mut out = BytesMut::new();
        BackendMessage::ErrorResponse(reply).encode(&mut out)?;
        // The error that is returned matters more than a failure to send it. In a box: few connections need it.
        let sending = Box::pin(async {
            io.write_all(&out).await?;
            io.shutdown().await
        });
        let _ = sending.await;
    }
    result
}
