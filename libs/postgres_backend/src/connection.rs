//! [`Connection`]: an open connection behind the handshake, on either side. Used by handlers, `serve` and the client.

use bytes::BytesMut;
use pq_proto::{BackendMessage, ErrorResponse, FramedError, FramedReader, FramedWriter};
use tokio::io::{ReadHalf, WriteHalf};

use crate::stream::{Io, Stream};

/// The receiving half.
pub type Reader<S> = FramedReader<ReadHalf<Stream<S>>>;
/// The sending half.
pub type Writer<S> = FramedWriter<WriteHalf<Stream<S>>>;

/// Two halves in two fields: taking it apart is a move, putting it together too.
#[derive(Debug)]
pub struct Connection<S> {
    /// What the peer sends.
    pub reader: Reader<S>,
    /// What the peer gets.
    pub writer: Writer<S>,
}

impl<S: Io> Connection<S> {
    /// Starts with bytes that were read from the stream before.
    pub fn new(stream: Stream<S>, read_before: BytesMut) -> Self {
        let (reader, writer) = tokio::io::split(stream);
        Self { reader: FramedReader::with_buffer(reader, read_before), writer: FramedWriter::new(writer) }
    }

    /// Sends an error. The connection goes on or not, as its severity says: that is the caller's to see to.
    pub async fn send_error(&mut self, response: ErrorResponse) -> Result<(), FramedError> {
        self.writer.send(&BackendMessage::ErrorResponse(response)).await
    }
}
