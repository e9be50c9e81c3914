//! [`Socket`]: a blocking connection to a PostgreSQL port, with as little between the caller and the kernel as possible.
//!
//! A load generator that costs as much as the server measures itself: frames are read in place, from one buffer that is
//! allocated once. Not for servers that ask for more than a password in clear text.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::ops::Range;

use anyhow::{Context as _, Result, bail};
use bytes::{Bytes, BytesMut};
use pq_proto::authentication::encode_password;
use pq_proto::{
    Authentication, BackendMessage, Encode, Frame, FrontendMessage, ProtocolVersion, StartupPacket, Text,
};

/// Bytes of the receive buffer; also the longest frame.
const BUFFER_BYTES: usize = 1024 * 1024;
/// Bytes of a frame before its body: the type and the length.
const FRAME_HEADER_BYTES: usize = 5;

/// One connection.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: TcpStream,
    buffer: Box<[u8]>,
    /// The received bytes that no call has returned yet.
    unread: Range<usize>,
}

/// Type and body of a frame that was received whole.
#[derive(Debug)]
pub(crate) struct RawFrame<'a> {
    pub(crate) tag: u8,
    pub(crate) body: &'a [u8],
}

impl Socket {
    /// Opens a session on a port of 127.0.0.1. `parameters` are those of the startup packet.
    pub(crate) fn open(port: u16, parameters: &[(&str, &str)], password: &str) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))
            .with_context(|| format!("cannot connect to 127.0.0.1:{port}"))?;
        stream.set_nodelay(true)?;
        let mut socket = Self { stream, buffer: vec![0; BUFFER_BYTES].into(), unread: 0..0 };

        let params = parameters.iter().copied().collect();
        socket.send_message(&StartupPacket::Startup { version: ProtocolVersion::V3_0, params })?;
        loop {
            match socket.next_message()? {
                BackendMessage::ReadyForQuery(_) => return Ok(socket),
                BackendMessage::Authentication(Authentication::CleartextPassword) => {
                    let password = encode_password(&Text::from(password));
                    socket.send_message(&FrontendMessage::PasswordMessage(password))?;
                }
                BackendMessage::Authentication(Authentication::Ok)
                | BackendMessage::BackendKeyData { .. }
                | BackendMessage::ParameterStatus { .. } => {}
                other => bail!("the server answered the startup packet with {other:?}"),
            }
        }
    }

    /// Runs a command that begins a copy in both directions.
    pub(crate) fn copy_both(&mut self, command: &str) -> Result<()> {
        self.send_message(&FrontendMessage::Query(command.into()))?;
        match self.next_message()? {
            BackendMessage::CopyBothResponse(_) => Ok(()),
            other => bail!("the server answered {command} with {other:?}"),
        }
    }

    /// The connection, for waiting and for switching it to non-blocking.
    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Sends all bytes.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends as many bytes as the connection takes now; 0 when it takes none.
    pub(crate) fn try_send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        none_when_blocked(self.stream.write(bytes)).map(|sent| sent.unwrap_or(0))
    }

    /// Receives once. False when nothing is there yet, on a non-blocking connection.
    pub(crate) fn receive(&mut self) -> Result<bool> {
        if self.unread.is_empty() {
            self.unread = 0..0;
        } else if self.buffer.len() - self.unread.end < self.buffer.len() / 2 {
            self.buffer.copy_within(self.unread.clone(), 0);
            self.unread = 0..self.unread.len();
        }

        match none_when_blocked(self.stream.read(&mut self.buffer[self.unread.end..]))? {
            None => Ok(false),
            Some(0) => bail!("the server closed the connection"),
            Some(count) => {
                self.unread.end += count;
                Ok(true)
            }
        }
    }

    /// The next frame, if it was received whole.
    pub(crate) fn frame(&mut self) -> Option<RawFrame<'_>> {
        let unread = &self.buffer[self.unread.clone()];
        let &[tag, a, b, c, d] = unread.first_chunk::<FRAME_HEADER_BYTES>()?;
        let end = 1 + u32::from_be_bytes([a, b, c, d]) as usize;
        if unread.len() < end {
            return None;
        }
        self.unread.start += end;
        let body = self.unread.start - end + FRAME_HEADER_BYTES..self.unread.start;
        Some(RawFrame { tag, body: &self.buffer[body] })
    }

    fn send_message(&mut self, message: &impl Encode) -> Result<()> {
        let mut bytes = BytesMut::new();
        message.encode(&mut bytes)?;
        Ok(self.send(&bytes)?)
    }

    fn next_message(&mut self) -> Result<BackendMessage> {
        loop {
            if let Some(frame) = self.frame() {
                let body = Bytes::copy_from_slice(frame.body);
                return Ok(BackendMessage::decode(Frame { tag: frame.tag, body })?);
            }
            self.receive()?;
        }
    }
}

impl RawFrame<'_> {
    /// The payload of a CopyData message. Any other message ends a measurement.
    pub(crate) fn copy_data(&self) -> Result<&[u8]> {
        if self.tag == b'd' {
            return Ok(self.body);
        }
        let body = Bytes::copy_from_slice(self.body);
        bail!("the server sent {:?} during a copy", BackendMessage::decode(Frame { tag: self.tag, body })?)
    }
}

fn none_when_blocked(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(count) => Ok(Some(count)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}
