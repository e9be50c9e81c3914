//! [`Connection`]: an open connection after the handshake, of a server or a client. Used by handlers, `serve` and the
//! client.

use bytes::BytesMut;
use pq_proto::{BackendMessage, ErrorResponse, FramedError, FramedReader, FramedWriter};
use tokio::io::{ReadHalf, WriteHalf};

use crate::io::Io;
use crate::stream::Stream;

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

    /// Changes the socket below, for example to let another runtime wait for it. Bytes that were read ahead, and bytes that
    /// wait to be written, stay with the connection.
    pub fn change_socket<T>(self, change: impl FnOnce(&mut S) -> T) -> (Self, T) {
        let (reader, read_before) = self.reader.into_parts();
        let (writer, unsent) = self.writer.into_parts();
        let mut stream = reader.unsplit(writer);
        let changed = change(stream.socket_mut());

        let mut connection = Self::new(stream, read_before);
        connection.writer.put_raw(&unsent);
        (connection, changed)
    }

    /// Sends an error. Its severity says whether the connection goes on; closing it is left to the caller.
    pub async fn send_error(&mut self, response: ErrorResponse) -> Result<(), FramedError> {
        self.writer.send(&BackendMessage::ErrorResponse(response)).await
    }
}
