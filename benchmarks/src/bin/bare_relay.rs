//! Bare relay: accepts PostgreSQL clients, does TLS with them if it has a certificate, and copies bytes both ways to one
//! server. The benchmarks of the proxy compare with it: it shows what the sockets and TLS cost when nothing else is done.
//!
//! It is what one writes with tokio and rustls without further thought. It routes, authenticates, limits, counts and logs
//! nothing. Its TLS is that of the proxy: same library, versions and ciphers, same record size. Everything that is not
//! set here is the libraries' default.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional_with_sizes};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// Bytes that one direction reads at once.
const BUFFER_BYTES: usize = 64 * 1024;
/// Longest TLS record, header included: the proxy's, which is PostgreSQL's.
const TLS_RECORD_BYTES_MAX: usize = 8192 + 5;
/// The packet with which a client asks for TLS.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
/// Pause after a failed accept, which usually means that there are no free descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Copies bytes between PostgreSQL clients and one server.
#[derive(Debug, Parser)]
struct Flags {
    /// Where clients connect; port 0 takes a free one
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:0")]
    listen: SocketAddr,

    /// The PostgreSQL server
    #[arg(long, value_name = "HOST:PORT")]
    target: SocketAddr,

    /// Certificate chain (PEM); clients must then use TLS
    #[arg(long, value_name = "PATH", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// Private key (PEM)
    #[arg(long, value_name = "PATH", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// TLS 1.3 tickets that a client gets; the default is that of rustls
    #[arg(long, value_name = "COUNT")]
    tls_tickets: Option<usize>,

    /// Written when the relay listens: the address
    #[arg(long, value_name = "PATH")]
    address_file: PathBuf,
}

#[tokio::main]
async fn main() -> Result<()> {
    let flags = Flags::parse();
    let tls = flags.acceptor()?;
    let listener = TcpListener::bind(flags.listen).await.context("cannot listen")?;
    utils::address_file::write(&flags.address_file, listener.local_addr()?.to_string().as_bytes())?;

    loop {
        match listener.accept().await {
            Ok((client, _)) => {
                tokio::spawn(relay(client, tls.clone(), flags.target));
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

impl Flags {
    fn acceptor(&self) -> Result<Option<TlsAcceptor>> {
        let (Some(certificate), Some(key)) = (&self.tls_cert, &self.tls_key) else { return Ok(None) };
        let chain = CertificateDer::pem_file_iter(certificate)?.collect::<Result<Vec<_>, _>>()?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, PrivateKeyDer::from_pem_file(key)?)?;
        config.max_fragment_size = Some(TLS_RECORD_BYTES_MAX);
        if let Some(tickets) = self.tls_tickets {
            config.send_tls13_tickets = tickets;
        }
        Ok(Some(TlsAcceptor::from(Arc::new(config))))
    }
}

/// Relays one connection. The error is of no interest: one of the two sides is gone.
async fn relay(mut client: TcpStream, tls: Option<TlsAcceptor>, target: SocketAddr) -> io::Result<()> {
    client.set_nodelay(true)?;
    let Some(tls) = tls else {
        let mut server = connect(target).await?;
        copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER_BYTES, BUFFER_BYTES).await?;
        return Ok(());
    };

    let mut request = [0; SSL_REQUEST.len()];
    client.read_exact(&mut request).await?;
    if request != SSL_REQUEST {
        return Err(io::Error::other("the client does not ask for TLS"));
    }
    client.write_all(b"S").await?;

    let mut client = tls.accept(client).await?;
    let mut server = connect(target).await?;
    copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER_BYTES, BUFFER_BYTES).await?;
    Ok(())
}

async fn connect(target: SocketAddr) -> io::Result<TcpStream> {
    let server = TcpStream::connect(target).await?;
    server.set_nodelay(true)?;
    Ok(server)
}
