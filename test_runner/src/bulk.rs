//! Bulk copy: copies many bytes into a table and out again through the proxy. The bytes are generated and checked on
//! the fly, so that memory does not bound their number.

use std::pin::pin;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::{BufMut as _, Bytes, BytesMut};
use futures::{SinkExt as _, StreamExt as _};

use crate::proxied_postgres::ProxiedPostgres;

/// One row, its line end included. Short enough that PostgreSQL keeps it in the table itself.
const ROW_BYTES: usize = 1024;
/// Rows in one CopyData message.
const ROWS_PER_MESSAGE: usize = 64;
/// Length of the text that rows are taken from, each at another offset.
const TEXT_BYTES: usize = 1 << 20;
/// Digits of the row's number, at the begin of the row.
const NUMBER_BYTES: usize = 16;

/// Size and times of one copy in both directions.
#[derive(Clone, Copy, Debug)]
pub struct Transfer {
    /// Bytes in each direction.
    pub bytes: u64,
    /// Time of the copy into the table.
    pub into_table: Duration,
    /// Time of the copy out of the table.
    pub out_of_table: Duration,
}

/// Length and CRC-32C of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sum {
    bytes: u64,
    crc: u32,
}

impl Sum {
    fn add(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.crc = crc32c::crc32c_append(self.crc, bytes);
    }
}

/// Copies at least `bytes` into an unlogged table and out again, and compares length and checksum. The table is dropped
/// afterwards.
pub async fn copy_both_ways(proxied: &ProxiedPostgres, bytes: u64) -> Result<Transfer> {
    let client = proxied.connect("app").await?;
    client.batch_execute("DROP TABLE IF EXISTS bulk; CREATE UNLOGGED TABLE bulk (line text)").await?;
    let begin = Instant::now();
    let sent = send(&client, bytes).await?;
    let into_table = begin.elapsed();

    let begin = Instant::now();
    let mut got = Sum::default();
    let mut stream = pin!(client.copy_out("COPY bulk TO STDOUT").await?);
    while let Some(chunk) = stream.next().await {
        got.add(&chunk?);
    }
    let out_of_table = begin.elapsed();
    ensure!(sent == got, "sent {sent:?}, got {got:?}");
    ensure!(sent.bytes >= bytes, "sent only {} bytes", sent.bytes);
    client.batch_execute("DROP TABLE bulk").await?;
    Ok(Transfer { bytes: sent.bytes, into_table, out_of_table })
}

async fn send(client: &tokio_postgres::Client, bytes: u64) -> Result<Sum> {
    let text = text();
    let mut sent = Sum::default();
    let mut rows = 0;
    let mut sink = pin!(client.copy_in::<_, Bytes>("COPY bulk FROM STDIN").await?);
    while sent.bytes < bytes {
        let mut message = BytesMut::with_capacity(ROWS_PER_MESSAGE * ROW_BYTES);
        for number in rows..rows + ROWS_PER_MESSAGE {
            put_row(&mut message, number, &text);
        }
        rows += ROWS_PER_MESSAGE;
        sent.add(&message);
        sink.send(message.freeze()).await?;
    }
    ensure!(sink.finish().await? == rows as u64, "PostgreSQL counts fewer rows than were sent");
    Ok(sent)
}

/// Appends a row. The same number gives the same row.
fn put_row(message: &mut BytesMut, number: usize, text: &[u8]) {
    let length = ROW_BYTES - NUMBER_BYTES - 1;
    let begin = number.wrapping_mul(7919) % (text.len() - length);
    message.put_slice(format!("{number:0NUMBER_BYTES$}").as_bytes());
    message.put_slice(&text[begin..begin + length]);
    message.put_u8(b'\n');
}

/// Pseudo-random letters and digits (xorshift). None of them has a meaning in COPY's text format.
fn text() -> Vec<u8> {
    let alphabet = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz+-";
    let mut state: u64 = 0x9E37_79B9_7F4A_7C15;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        alphabet[(state % 64) as usize]
    };
    (0..TEXT_BYTES).map(|_| next()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_one_length_and_differ() {
        let text = text();
        let mut rows = BytesMut::new();
        (0..100).for_each(|number| put_row(&mut rows, number, &text));
        let lines: std::collections::BTreeSet<&[u8]> = rows[..].split(|byte: &u8| *byte == b'\n').collect();
        assert_eq!((rows.len(), lines.len()), (100 * ROW_BYTES, 101));
    }
}
