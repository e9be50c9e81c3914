//! [`Engine`]: TLS of one connection without IO: decrypts what has arrived and encrypts what is to be sent.
//!
//! It drives rustls' unbuffered interface, which keeps no bytes between two calls: only keys, and states of the handshake. The
//! caller keeps what is incomplete. Used by [`TlsStream`](super::TlsStream).

use std::io;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus, WriteTraffic};
use rustls::{CommonState, Error};

use super::scratch::Outgoing;

/// TLS of a connection, of either side.
pub(crate) enum Engine {
    Server(UnbufferedServerConnection),
    Client(UnbufferedClientConnection),
}

/// What a call of [`Engine::receive`] has done.
pub(super) struct Received {
    /// Bytes that were used up, from the front. The others must be in front of the bytes of the next call.
    pub(super) used: usize,
    /// The peer has sent close_notify: no more data follows.
    pub(super) closed: bool,
    /// The peer has broken the protocol. The alert for it is among the outgoing bytes. The engine must not be used any more.
    pub(super) failure: Option<Error>,
}

impl Engine {
    /// Facts about the connection, such as whether its handshake is over.
    pub(crate) fn state(&self) -> &CommonState {
        match self {
            Self::Server(connection) => connection,
            Self::Client(connection) => connection,
        }
    }

    /// Decrypts the complete records in `incoming`, in place. `plain` gets the data in order, `out` the answers of the handshake
    /// and alerts.
    pub(super) fn receive(
        &mut self,
        incoming: &mut [u8],
        plain: &mut dyn FnMut(&[u8]),
        out: &mut Outgoing,
    ) -> Received {
        match self {
            Self::Server(connection) => receive(connection, incoming, plain, out),
            Self::Client(connection) => receive(connection, incoming, plain, out),
        }
    }

    /// Encrypts data into `out`, behind messages that wait to be sent. `kept` are the bytes that [`receive`](Self::receive) left.
    pub(super) fn seal(&mut self, data: &[u8], kept: &mut [u8], out: &mut Outgoing) -> io::Result<()> {
        let message = Outbound::Data(data);
        match self {
            Self::Server(connection) => seal(connection, message, kept, out),
            Self::Client(connection) => seal(connection, message, kept, out),
        }
    }

    /// Puts close_notify into `out`. `kept` as for [`seal`](Self::seal).
    pub(super) fn seal_close(&mut self, kept: &mut [u8], out: &mut Outgoing) -> io::Result<()> {
        match self {
            Self::Server(connection) => seal(connection, Outbound::CloseNotify, kept, out),
            Self::Client(connection) => seal(connection, Outbound::CloseNotify, kept, out),
        }
    }
}

/// The part that rustls has twice.
trait Side: std::ops::Deref<Target: std::ops::Deref<Target = CommonState>> {
    type Data;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
}

impl Side for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }
}

impl Side for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }
}

/// What rustls waits for after a step.
enum Step<'c, Data> {
    /// The next call: there may be more in the same bytes.
    Call,
    /// More bytes of the peer. The handshake is not over.
    Bytes,
    /// Data in either direction.
    Traffic(WriteTraffic<'c, Data>),
    /// The next call. The peer has sent close_notify.
    CallAfterClose,
    /// Nothing: both sides have sent close_notify.
    Nothing,
}

fn receive<S: Side>(
    connection: &mut S,
    incoming: &mut [u8],
    plain: &mut dyn FnMut(&[u8]),
    out: &mut Outgoing,
) -> Received {
    let mut received = Received { used: 0, closed: false, failure: None };
    loop {
        let rest = incoming.get_mut(received.used..).unwrap_or_default();
        let (used, step) = step(connection.process(rest), plain, out);
        received.used += used;
        match step {
            Ok(Step::Call) => {}
            Ok(Step::CallAfterClose) => received.closed = true,
            Ok(Step::Bytes | Step::Traffic(_) | Step::Nothing) => return received,
            Err(failure) => {
                // The alert waits. A call without one would decrypt further.
                while connection.wants_write() {
                    if step_alert(connection, out).is_err() {
                        break;
                    }
                }
                return Received { failure: Some(failure), ..received };
            }
        }
    }
}

fn step_alert<S: Side>(connection: &mut S, out: &mut Outgoing) -> Result<(), Error> {
    step(connection.process(&mut []), &mut |_| {}, out).1.map(drop)
}

/// Handles what rustls reports. Returns the bytes that it has used.
fn step<'c, Data>(
    status: UnbufferedStatus<'c, '_, Data>,
    plain: &mut dyn FnMut(&[u8]),
    out: &mut Outgoing,
) -> (usize, Result<Step<'c, Data>, Error>) {
    let mut used = status.discard;
    let step = match status.state {
        Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
            match traffic.next_record() {
                Some(Ok(record)) => {
                    plain(record.payload);
                    used += record.discard;
                }
                Some(Err(error)) => break Err(error),
                None => break Ok(Step::Call),
            }
        },
        Ok(ConnectionState::EncodeTlsData(mut message)) => {
            out.append(|room| match message.encode(room) {
                Err(EncodeError::InsufficientSize(size)) => Err(size.required_size),
                encoded => Ok(encoded.unwrap_or_default()),
            });
            Ok(Step::Call)
        }
        Ok(ConnectionState::TransmitTlsData(sent)) => {
            sent.done();
            Ok(Step::Call)
        }
        Ok(ConnectionState::BlockedHandshake) => Ok(Step::Bytes),
        Ok(ConnectionState::WriteTraffic(traffic)) => Ok(Step::Traffic(traffic)),
        Ok(ConnectionState::PeerClosed) => Ok(Step::CallAfterClose),
        Ok(ConnectionState::Closed) => Ok(Step::Nothing),
        // Early data, which no configuration here allows.
        Ok(_) => Err(Error::General("unexpected state of the TLS connection".into())),
        Err(error) => Err(error),
    };
    (used, step)
}

#[derive(Clone, Copy)]
enum Outbound<'d> {
    Data(&'d [u8]),
    CloseNotify,
}

fn seal<S: Side>(
    connection: &mut S,
    message: Outbound<'_>,
    kept: &mut [u8],
    out: &mut Outgoing,
) -> io::Result<()> {
    loop {
        // `kept` holds no complete record, so nothing is used up. Without it rustls would miss the bytes that it remembers.
        let (_, step) = step(connection.process(kept), &mut |_| {}, out);
        match step.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))? {
            Step::Call | Step::CallAfterClose => {}
            Step::Traffic(mut traffic) => {
                let mut exhausted = false;
                out.append(|room| {
                    let sealed = match message {
                        Outbound::Data(data) => traffic.encrypt(data, room),
                        Outbound::CloseNotify => traffic.queue_close_notify(room),
                    };
                    sealed.or_else(|error| match error {
                        EncryptError::InsufficientSize(size) => Err(size.required_size),
                        EncryptError::EncryptExhausted => {
                            exhausted = true;
                            Ok(0)
                        }
                    })
                });
                return if exhausted { Err(io::Error::other("TLS keys are used up")) } else { Ok(()) };
            }
            Step::Bytes | Step::Nothing => return Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
}
