//! Protocol between proxy processes: one line of JSON each way, and listening sockets sent with it (unix(7),
//! SCM_RIGHTS). Both ends are this program, perhaps in different versions: a process closes the connection when it
//! does not know the request, and the other process goes on without an answer.

use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::listeners::{LISTENERS_MAX, Label};

/// Longest line.
const LINE_BYTES_MAX: usize = 64 * 1024;
/// Longest answer that lists sessions: some hundred thousand of them.
const LONG_LINE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Time limit for one line. Both processes are on one machine and answer at once.
const LINE_TIMEOUT: Duration = Duration::from_secs(10);

/// Request of a peer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Request {
    /// Asks for the listening sockets. [`Serving`] follows when they are served.
    TakeOver {},
    /// Cancels the query of the client with this key.
    Cancel {
        pid: i32,
        /// In hexadecimal.
        key: String,
    },
    /// Passes on a report of the service behind a login page.
    Report(Confidential),
    /// Asks for the open connections.
    Sessions {},
    /// Asks for the endpoints that are or were in use.
    Uses {},
}

/// A text that may contain a password: it is not shown.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Confidential(pub(crate) String);

impl fmt::Debug for Confidential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(not shown)")
    }
}

/// Answer to a [`Request`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    /// Labels of the listening sockets, which are sent with this line, in this order.
    Listeners(Vec<Label>),
    /// Whether there was a client with this key.
    Cancelled(bool),
    /// Whether a client waited for the report.
    Reported(bool),
    /// The open connections, as `/v1/sessions` lists them.
    Sessions(Vec<serde_json::Value>),
    /// The endpoints in use.
    Uses(Vec<Used>),
    /// The request is refused, for this reason.
    Refused(String),
}

/// The sockets are served: the process that had them before may close them.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Serving {}

/// What one process tells another about an endpoint that is probably awake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Used {
    pub(crate) endpoint: String,
    /// Whether the process has a session there, or is stopping the compute.
    pub(crate) in_use: bool,
    /// Milliseconds since `in_use` was last true.
    pub(crate) idle_ms: u64,
}

/// Why there is no request or answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("unexpected message from peer: {0}")]
    Json(#[from] serde_json::Error),
    #[error("message from peer exceeds its limit")]
    TooLong,
    #[error("peer closed the connection")]
    Closed,
    #[error("peer did not answer in time")]
    Late,
}

pub(crate) async fn send(stream: &mut UnixStream, what: &impl Serialize) -> Result<(), WireError> {
    let line = line(what)?;
    Ok(timeout(LINE_TIMEOUT, stream.write_all(&line)).await.map_err(|_| WireError::Late)??)
}

/// Sends a line and sockets with its first byte.
pub(crate) async fn send_with(
    stream: &mut UnixStream,
    what: &impl Serialize,
    sockets: &[impl AsFd],
) -> Result<(), WireError> {
    let line = line(what)?;
    let borrowed: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
    let sending = stream.async_io(Interest::WRITABLE, || {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(LISTENERS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(&borrowed)) {
            return Err(io::Error::other("too many listening sockets"));
        }
        Ok(sendmsg(&*stream, &[IoSlice::new(&line)], &mut control, SendFlags::NOSIGNAL)?)
    });
    let sent = timeout(LINE_TIMEOUT, sending).await.map_err(|_| WireError::Late)??;
    Ok(timeout(LINE_TIMEOUT, stream.write_all(&line[sent..])).await.map_err(|_| WireError::Late)??)
}

pub(crate) async fn receive<T: DeserializeOwned>(stream: &mut UnixStream) -> Result<T, WireError> {
    Ok(serde_json::from_slice(&rest_of_line(stream, Vec::new(), LINE_TIMEOUT, LINE_BYTES_MAX).await?)?)
}

/// Receives a line that may be long.
pub(crate) async fn receive_long_line<T: DeserializeOwned>(stream: &mut UnixStream) -> Result<T, WireError> {
    Ok(serde_json::from_slice(&rest_of_line(stream, Vec::new(), LINE_TIMEOUT, LONG_LINE_BYTES_MAX).await?)?)
}

/// Receives a line within this time.
pub(crate) async fn receive_within<T: DeserializeOwned>(
    stream: &mut UnixStream,
    within: Duration,
) -> Result<T, WireError> {
    Ok(serde_json::from_slice(&rest_of_line(stream, Vec::new(), within, LINE_BYTES_MAX).await?)?)
}

/// Receives a line and the sockets that were sent with it.
pub(crate) async fn receive_with<T: DeserializeOwned>(
    stream: &mut UnixStream,
) -> Result<(T, Vec<OwnedFd>), WireError> {
    let receiving = stream.async_io(Interest::READABLE, || {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(LISTENERS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut bytes = [0; 4096];
        let received =
            recvmsg(&*stream, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
        let sockets = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(sockets) => Some(sockets),
            _ => None,
        });
        Ok((bytes[..received.bytes].to_vec(), sockets.flatten().collect()))
    });
    let (begin, sockets) = timeout(LINE_TIMEOUT, receiving).await.map_err(|_| WireError::Late)??;
    if begin.is_empty() {
        return Err(WireError::Closed);
    }
    Ok((serde_json::from_slice(&rest_of_line(stream, begin, LINE_TIMEOUT, LINE_BYTES_MAX).await?)?, sockets))
}

/// Waits for the peer to close the connection.
pub(crate) async fn closed(stream: &mut UnixStream) -> Result<(), WireError> {
    match rest_of_line(stream, Vec::new(), LINE_TIMEOUT, LINE_BYTES_MAX).await {
        Err(WireError::Closed) => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Err(WireError::TooLong),
    }
}

fn line(what: &impl Serialize) -> Result<Vec<u8>, WireError> {
    let mut line = serde_json::to_vec(what)?;
    line.push(b'\n');
    Ok(line)
}

/// Reads up to the end of a line. A peer sends nothing further before it has an answer, so the line is all there is.
async fn rest_of_line(
    stream: &mut UnixStream,
    mut line: Vec<u8>,
    within: Duration,
    bytes_max: usize,
) -> Result<Vec<u8>, WireError> {
    let reading = async {
        while !line.ends_with(b"\n") {
            if line.len() > bytes_max {
                return Err(WireError::TooLong);
            }
            if stream.read_buf(&mut line).await? == 0 {
                return Err(WireError::Closed);
            }
        }
        Ok(())
    };
    timeout(within, reading).await.map_err(|_| WireError::Late)??;
    Ok(line)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::listeners::{Listener, Purpose, watched};

    #[tokio::test]
    async fn sockets_arrive_with_their_labels() {
        let (mut one, mut other) = UnixStream::pair().unwrap();
        let (mut sockets, mut labels) = (Vec::new(), Vec::new());
        for number in 0..20 {
            sockets.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
            // Long enough for a line that does not come at once.
            labels.push(Label { purpose: Purpose::Pg, address: format!("{number:01000}:0") });
        }
        let addresses: Vec<_> = sockets.iter().map(|socket| socket.local_addr().unwrap()).collect();
        send_with(&mut one, &Answer::Listeners(labels.clone()), &sockets).await.unwrap();
        drop(sockets);
        let (answer, received) = receive_with(&mut other).await.unwrap();
        let Answer::Listeners(told) = answer else { panic!("{answer:?}") };
        assert_eq!(told, labels);
        assert_eq!(received.len(), addresses.len());
        for ((label, descriptor), address) in told.into_iter().zip(received).zip(addresses) {
            let listener = Listener::new(label, descriptor).unwrap();
            let listening = watched(&listener.socket).unwrap();
            let (accepted, connected) =
                tokio::join!(listening.accept(), tokio::net::TcpStream::connect(address));
            assert_eq!(accepted.unwrap().1, connected.unwrap().local_addr().unwrap());
        }
    }

    #[tokio::test]
    async fn receive_refuses_malformed_lines() {
        for (said, error) in [
            (&b"{\"take_over\":{}}"[..], "peer closed the connection"),
            (b"", "closed the connection"),
            (b"{\"take_over\":{\n", "unexpected message"),
            (b"{\"leave\":{}}\n", "unexpected message"),
            (&[b' '; 2 * LINE_BYTES_MAX], "exceeds its limit"),
        ] {
            let (mut one, mut other) = UnixStream::pair().unwrap();
            let saying = async {
                // The receiver closes the connection in the middle of a line that is too long.
                let _ = one.write_all(said).await;
                drop(one);
            };
            let hearing = async {
                let heard = receive::<Request>(&mut other).await;
                drop(other);
                heard
            };
            let (heard, ()) = tokio::join!(hearing, saying);
            let heard = heard.unwrap_err().to_string();
            assert!(heard.contains(error), "{heard}");
        }
    }
}
