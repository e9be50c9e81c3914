//! [`Scratch`]: the buffers of TLS, which all connections of a thread share: a connection that waits for bytes owns none.

use std::cell::Cell;

/// Room for one read, with the incomplete record before it. rustls accepts no longer message of a handshake.
pub(super) const INCOMING_BYTES: usize = 64 * 1024;
/// Room for one write, which grows when more is needed: 64 KiB of data, and headers and tags of its records.
const OUTGOING_BYTES: usize = 66 * 1024;

thread_local! {
    /// Taken during one poll, never held across two.
    static SCRATCH: Cell<Option<Box<Scratch>>> = const { Cell::new(None) };
}

/// The buffers of a thread.
pub(super) struct Scratch {
    /// Bytes as they arrive, decrypted in place.
    pub(super) incoming: Vec<u8>,
    pub(super) outgoing: Outgoing,
}

impl Scratch {
    /// Calls `work` with the thread's buffers.
    pub(super) fn with<T>(work: impl FnOnce(&mut Self) -> T) -> T {
        let mut scratch = SCRATCH.take().unwrap_or_else(|| {
            Box::new(Self {
                incoming: vec![0; INCOMING_BYTES],
                outgoing: Outgoing { buffer: vec![0; OUTGOING_BYTES], used: 0 },
            })
        });
        scratch.outgoing.used = 0;
        let done = work(&mut scratch);
        SCRATCH.set(Some(scratch));
        done
    }
}

/// Encrypted bytes that are to be sent.
pub(super) struct Outgoing {
    buffer: Vec<u8>,
    used: usize,
}

impl Outgoing {
    /// The bytes that were appended.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer[..self.used]
    }

    /// Appends what `write` puts into the free room. It returns the bytes that it wrote, or how many it needs; then it is called
    /// again.
    pub(super) fn append(&mut self, mut write: impl FnMut(&mut [u8]) -> Result<usize, usize>) {
        loop {
            match write(&mut self.buffer[self.used..]) {
                Ok(written) => {
                    self.used += written;
                    return;
                }
                Err(needed) => self.buffer.resize(self.buffer.len().max(self.used + needed), 0),
            }
        }
    }
}
