//! [`Connection`]: an open connection after the handshake, of a server or a client. Used by handlers, `serve` and the
//! client.

use bytes::BytesMut;
use pq_proto::{BackendMessage, ErrorResponse, FramedError, FramedReader, FramedWriter};
use tokio::io::{ReadHalf, WriteHalf};

use crate::stream::{Io, Stream};

/// The receiving half.
pub type Reader<S> = FramedReader<ReadHalf<Stream<S>>>;
/// The sending half.
pub type Writer<S> = FramedWriter<WriteHalf<Stream<S>>>;

/// A connection as two halves in two fields: splitting and joining it are moves.
#[derive(Debug)]
pub struct Connection<S> {
    /// Receives from the peer.
    pub reader: Reader<S>,
    /// Sends to the peer.
    pub writer: Writer<S>,
}

impl<S: Io> Connection<S> {
    /// Makes a connection of a stream; `read_before` are bytes that were read from it before.
    pub fn new(stream: Stream<S>, read_before: BytesMut) -> Self {
        let (reader, writer) = tokio::io::split(stream);
        Self { reader: FramedReader::with_buffer(reader, read_before), writer: FramedWriter::new(writer) }
    }

    /// Sends an error. Its severity says whether the connection goes on; closing it is left to the caller.
    pub async fn send_error(&mut self, response: ErrorResponse) -> Result<(), FramedError> {
        self.writer.send(&BackendMessage::ErrorResponse(response)).await
    }
}
