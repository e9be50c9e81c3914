//! The closing message to a client, and the end of its connection.

use std::time::Duration;

use bytes::BytesMut;
use postgres_backend::{Connection, Io, Stream};
use pq_proto::Encode;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use crate::client_facing::Response;

/// Time limit for sending the closing message and for the client to close its side.
pub(crate) const CLOSING_TIMEOUT: Duration = Duration::from_secs(2);

/// Sends the closing message and closes the connection.
pub(crate) async fn close<C: Io>(client: Connection<C>, response: Option<&Response>) {
    let (mut client, _, unsent) = into_stream(client);
    send_closing_message(&mut client, unsent, response).await;
}

/// Sends the `unsent` bytes and the closing message, and closes. Bytes that the client still sends are read and
/// dropped: a close with unread bytes would reset the connection, and the client would lose the message (RFC 1122,
/// section 4.2.2.13).
pub(crate) async fn send_closing_message<C: Io>(
    client: &mut Stream<C>,
    mut unsent: BytesMut,
    response: Option<&Response>,
) {
    if let Some(Err(error)) = response.map(|response| response.encode(&mut unsent)) {
        tracing::warn!(%error, "cannot encode the closing message");
    }
    let closing = async {
        client.write_all(&unsent).await?;
        client.shutdown().await?;
        // Its buffer is on the heap, so that the future of an open session has no room for it.
        tokio::io::copy(client, &mut tokio::io::sink()).await
    };
    // A client that does not read is not waited for any longer.
    let _ = timeout(CLOSING_TIMEOUT, closing).await;
}

/// Joins reader and writer to one stream. Returns it with the bytes that were read and not used, and the bytes that
/// are still to be sent.
pub(crate) fn into_stream<S: Io>(connection: Connection<S>) -> (Stream<S>, BytesMut, BytesMut) {
    let (reader, read_before) = connection.reader.into_parts();
    let (writer, unsent) = connection.writer.into_parts();
    (reader.unsplit(writer), read_before, unsent)
}
