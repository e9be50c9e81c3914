//! Responder: a server that lets every client in and holds its session, at the price of two descriptors' worth of memory.
//! It stands behind a proxy in place of PostgreSQL, where thousands of backends would take the memory of the machine.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::{Bytes, BytesMut};
use clap::Args;
use pq_proto::{Authentication, BackendMessage, Encode as _, FramedError, FramedReader, TransactionStatus};
use pq_proto::{FrontendMessage, StartupPacket};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 4096;
/// Pause after a failed accept, which usually means that there are no free descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Longest message of a client, in bytes.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// The settings that PostgreSQL 15 reports at a login.
const SETTINGS: [(&str, &str); 13] = [
    ("application_name", ""),
    ("client_encoding", "UTF8"),
    ("DateStyle", "ISO, MDY"),
    ("default_transaction_read_only", "off"),
    ("in_hot_standby", "off"),
    ("integer_datetimes", "on"),
    ("IntervalStyle", "postgres"),
    ("is_superuser", "off"),
    ("server_encoding", "UTF8"),
    ("server_version", "15.0"),
    ("session_authorization", "app"),
    ("standard_conforming_strings", "on"),
    ("TimeZone", "Etc/UTC"),
];

/// Where it listens.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// Where clients connect; port 0 takes a free one
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:0")]
    listen: SocketAddr,

    /// Written when the responder listens: the address
    #[arg(long, value_name = "PATH")]
    address_file: PathBuf,
}

/// Serves until the process is killed.
pub(crate) async fn run(flags: Flags) -> Result<()> {
    let listener = listen(flags.listen).context("cannot listen")?;
    utils::address_file::write(&flags.address_file, listener.local_addr()?.to_string().as_bytes())?;
    let greeting = greeting()?;
    loop {
        match listener.accept().await {
            Ok((client, _)) => {
                tokio::spawn(serve(client, greeting.clone()));
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Everything that PostgreSQL sends after the startup packet of a client that needs no password.
fn greeting() -> Result<Bytes> {
    let mut bytes = BytesMut::new();
    BackendMessage::Authentication(Authentication::Ok).encode(&mut bytes)?;
    for (name, value) in SETTINGS {
        BackendMessage::ParameterStatus { name: name.into(), value: value.into() }.encode(&mut bytes)?;
    }
    BackendMessage::BackendKeyData { pid: 1, key: Bytes::from_static(b"key!") }.encode(&mut bytes)?;
    BackendMessage::ReadyForQuery(TransactionStatus::Idle).encode(&mut bytes)?;
    Ok(bytes.freeze())
}

/// Answers a login, and each query with an empty result: a pooler resets its connections with one.
async fn serve(client: TcpStream, greeting: Bytes) -> Result<(), FramedError> {
    client.set_nodelay(true)?;
    let mut reader = FramedReader::new(client);
    loop {
        match reader.read_startup_packet().await? {
            Some(StartupPacket::Ssl | StartupPacket::GssEnc) => reader.io_mut().write_all(b"N").await?,
            Some(StartupPacket::Startup { .. }) => break,
            Some(StartupPacket::Cancel { .. }) | None => return Ok(()),
        }
    }
    reader.io_mut().write_all(&greeting).await?;

    while let Some(frame) = reader.read_frame(MESSAGE_BYTES_MAX).await? {
        match FrontendMessage::decode(frame)? {
            FrontendMessage::Query(_) => {
                let mut answer = BytesMut::new();
                BackendMessage::EmptyQueryResponse.encode(&mut answer)?;
                BackendMessage::ReadyForQuery(TransactionStatus::Idle).encode(&mut answer)?;
                reader.io_mut().write_all(&answer).await?;
            }
            FrontendMessage::Terminate => break,
            _ => {}
        }
    }
    Ok(())
}
