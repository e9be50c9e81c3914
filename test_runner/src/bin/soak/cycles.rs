//! Connections of the soak: a few at a time. Most clients log in, query and terminate; some leave in other ways.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use test_runner::proxied_postgres::{ProxiedPostgres, SERVER_NAME};
use test_runner::tls_client::VerifyFull;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Concurrent clients.
const CLIENTS: usize = 8;
/// SSLRequest (PostgreSQL documentation, "Message Formats"): length, and the code for it.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
/// CancelRequest with a process number and key that no session has.
const FOREIGN_CANCEL_REQUEST: [u8; 16] = [0, 0, 0, 16, 4, 210, 22, 46, 255, 255, 255, 255, 1, 2, 3, 4];

/// Behaviour of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Behaviour {
    /// Logs in, queries, terminates.
    Usual,
    /// Logs in, queries, and closes the socket without Terminate.
    Vanishes,
    /// Connects and closes the socket.
    Silent,
    /// Requests TLS and closes the socket.
    LeavesBeforeTls,
    /// Sends a cancel request with a foreign key.
    ForeignCancel,
}

impl Behaviour {
    const fn of(number: u64) -> Self {
        match number % 20 {
            3 => Self::Vanishes,
            7 => Self::Silent,
            11 => Self::LeavesBeforeTls,
            15 => Self::ForeignCancel,
            _ => Self::Usual,
        }
    }
}

/// Runs the connections with these numbers. The number of a connection decides its behaviour.
pub(crate) async fn run(proxied: &ProxiedPostgres, numbers: Range<u64>) -> Result<()> {
    let next = Arc::new(AtomicU64::new(numbers.start));
    let (config, tls, port) = (proxied.config("crowd"), proxied.tls()?, proxied.port);
    let clients = (0..CLIENTS).map(|_| {
        let (next, config, tls) = (Arc::clone(&next), config.clone(), tls.clone());
        tokio::spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= numbers.end {
                    return anyhow::Ok(());
                }
                let behaviour = Behaviour::of(number);
                let done = one(behaviour, &config, &tls, port).await;
                done.with_context(|| format!("connection {number} ({behaviour:?})"))?;
            }
        })
    });

    try_join_all(clients).await?.into_iter().collect()
}

async fn one(
    behaviour: Behaviour,
    config: &tokio_postgres::Config,
    tls: &VerifyFull,
    port: u16,
) -> Result<()> {
    match behaviour {
        Behaviour::Usual | Behaviour::Vanishes => log_in(behaviour, config, tls).await,
        Behaviour::Silent => {
            TcpStream::connect(("127.0.0.1", port)).await?;
            Ok(())
        }
        Behaviour::LeavesBeforeTls => {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
            stream.write_all(&SSL_REQUEST).await?;
            ensure!(stream.read_u8().await? == b'S', "{SERVER_NAME} does no TLS");
            Ok(())
        }
        Behaviour::ForeignCancel => {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
            stream.write_all(&FOREIGN_CANCEL_REQUEST).await?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await?;
            ensure!(answer.is_empty(), "a cancel request got a reply: {answer:?}");
            Ok(())
        }
    }
}

async fn log_in(behaviour: Behaviour, config: &tokio_postgres::Config, tls: &VerifyFull) -> Result<()> {
    let (client, connection) = config.connect(tls.clone()).await?;
    let connection = tokio::spawn(connection);
    let answer = client.simple_query("SELECT 42").await?;
    let is_right = answer.iter().any(
        |message| matches!(message, tokio_postgres::SimpleQueryMessage::Row(row) if row.get(0) == Some("42")),
    );
    ensure!(is_right, "the answer was {answer:?}");
    if behaviour == Behaviour::Vanishes {
        connection.abort();
        let _ = connection.await;
        return Ok(());
    }
    drop(client);
    connection.await??;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fifth_client_misbehaves() {
        let usual = (0..100).filter(|number| Behaviour::of(*number) == Behaviour::Usual).count();
        assert_eq!(usual, 80);
    }
}
