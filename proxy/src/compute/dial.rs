//! Dial: opens connections to computes, TCP and TLS.

use std::future::Future;
use std::io;
use std::time::Duration;

use postgres_backend::client::{ClientError, ClientTls};
use postgres_backend::{Io, Stream};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::error::ComputeError;
use crate::control_plane::{Address, Compute};
use crate::socket;

/// Time limit for a TCP connection to one address of a compute.
const DIAL_TIMEOUT: Duration = Duration::from_secs(2);

/// Opens connections to computes: TCP, or pipes in memory in tests.
pub(crate) trait Dial: Send + Sync + 'static {
    /// The type of a connection.
    type Stream: Io;

    /// The TLS settings for computes whose control plane sets none.
    fn default_tls(&self) -> Option<&ClientTls> {
        None
    }

    /// Connects to the first address of the host that accepts.
    fn dial(&self, address: &Address) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

/// Dials over TCP.
#[derive(Debug)]
pub(crate) struct TcpDial {
    pub(crate) tls: Option<ClientTls>,
}

impl Dial for TcpDial {
    type Stream = TcpStream;

    fn default_tls(&self) -> Option<&ClientTls> {
        self.tls.as_ref()
    }

    async fn dial(&self, address: &Address) -> io::Result<TcpStream> {
        let mut last = io::ErrorKind::NotFound.into();
        for address in tokio::net::lookup_host((address.host.as_str(), address.port)).await? {
            match timeout(DIAL_TIMEOUT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    socket::prepare(&stream)?;
                    return Ok(stream);
                }
                Ok(Err(error)) => last = error,
                Err(_) => last = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(last)
    }
}

/// Encrypts the connection when the compute is to be reached by TLS.
pub(crate) async fn encrypt<D: Dial>(
    dial: &D,
    stream: D::Stream,
    compute: &Compute,
) -> Result<Stream<D::Stream>, ComputeError> {
    let Some(tls) = compute.tls.as_ref().or(dial.default_tls()) else { return Ok(Stream::Plain(stream)) };
    Box::pin(tls.connect(stream, &compute.address.host)).await.map_err(|error| match error {
        ClientError::Connection(error) => ComputeError::from_stream(error),
        ClientError::Closed => ComputeError::Lost(io::ErrorKind::UnexpectedEof.into()),
        error => ComputeError::Tls(Box::new(error)),
    })
}
