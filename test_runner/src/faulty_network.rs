//! Faulty network: a TCP relay between two programs that a test can break.
//!
//! The faults are cut (connections end, new ones are refused), stall (nothing passes, connections stay) and drop (bytes
//! of one direction vanish).

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Buffer of one direction of a connection.
const RELAY_BUFFER_BYTES: usize = 64 * 1024;

/// State of the network between the two programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// All bytes pass.
    None,
    /// Open connections end, and every new one ends at once.
    Cut,
    /// Connections stay and no byte passes, as on a network without a route.
    Stall,
    /// Bytes of the server vanish; bytes of the client pass.
    DropAnswers,
}

/// A running relay; it ends when this value is dropped.
#[derive(Debug)]
pub struct Relay {
    /// Address for clients.
    pub address: SocketAddr,
    fault: Arc<watch::Sender<Fault>>,
    task: tokio::task::JoinHandle<()>,
}

impl Relay {
    /// Listens on a free port and relays each connection to `target`.
    pub async fn start(target: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (sender, fault) = watch::channel(Fault::None);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(relay(client, target, fault.clone()));
            }
        });
        Ok(Self { address, fault: Arc::new(sender), task })
    }

    /// Sets the fault; [`Fault::None`] repairs the network.
    pub fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
        self.set(Fault::Cut);
    }
}

async fn relay(client: TcpStream, target: SocketAddr, mut fault: watch::Receiver<Fault>) {
    if *fault.borrow() == Fault::Cut {
        return;
    }
    let Ok(server) = TcpStream::connect(target).await else { return };
    let (client_in, client_out) = client.into_split();
    let (server_in, server_out) = server.into_split();
    // Each arm may be dropped at any point: the connection ends with it.
    tokio::select! {
        () = pass(client_in, server_out, fault.clone(), false) => {}
        () = pass(server_in, client_out, fault.clone(), true) => {}
        _ = fault.wait_for(|fault| *fault == Fault::Cut) => {}
    }
}

async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut fault: watch::Receiver<Fault>,
    is_answer: bool,
) {
    let mut buffer = vec![0; RELAY_BUFFER_BYTES];
    loop {
        let Ok(count) = from.read(&mut buffer).await else { return };
        if count == 0 {
            return;
        }
        if fault.wait_for(|fault| *fault != Fault::Stall).await.is_err() {
            return;
        }
        let lost = is_answer && *fault.borrow() == Fault::DropAnswers;
        if !lost && to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut reader, mut writer) = stream.split();
                    let _ = tokio::io::copy(&mut reader, &mut writer).await;
                });
            }
        });
        address
    }

    async fn answer(stream: &mut TcpStream, within: Duration) -> Option<u8> {
        let _ = stream.write_all(b"x").await;
        tokio::time::timeout(within, stream.read_u8()).await.ok()?.ok()
    }

    #[tokio::test]
    async fn bytes_pass_stop_and_pass_again() {
        let relay = Relay::start(echo().await).await.unwrap();
        let mut stream = TcpStream::connect(relay.address).await.unwrap();
        assert_eq!(answer(&mut stream, Duration::from_secs(9)).await, Some(b'x'));
        relay.set(Fault::Stall);
        assert_eq!(answer(&mut stream, Duration::from_millis(50)).await, None);
        relay.set(Fault::None);
        assert_eq!(stream.read_u8().await.unwrap(), b'x');
        relay.set(Fault::DropAnswers);
        assert_eq!(answer(&mut stream, Duration::from_millis(50)).await, None);
    }

    #[tokio::test]
    async fn a_cut_ends_connections_and_refuses_new_ones() {
        let relay = Relay::start(echo().await).await.unwrap();
        let mut stream = TcpStream::connect(relay.address).await.unwrap();
        assert_eq!(answer(&mut stream, Duration::from_secs(9)).await, Some(b'x'));
        relay.set(Fault::Cut);
        assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0);
        let mut late = TcpStream::connect(relay.address).await.unwrap();
        assert_eq!(answer(&mut late, Duration::from_secs(9)).await, None);
    }
}
