//! [`Reader`]: receives WAL as a standby does, and throws it away.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use wal_types::Lsn;

use super::socket::{RawFrame, Socket};

/// Bytes before the WAL in a message with WAL: a tag, two positions and a time.
const WAL_HEADER_BYTES: usize = pq_proto::replication::XLOG_DATA_HEADER_BYTES;
/// Longest wait for WAL that the server has.
const WAL_WAIT_MAX: Duration = Duration::from_secs(30);

/// A reader in the middle of START_REPLICATION.
#[derive(Debug)]
pub(crate) struct Reader {
    socket: Socket,
    /// Position behind the WAL that was received.
    received: Lsn,
}

impl Reader {
    /// Asks for the WAL from `start` on. The socket must be that of a session for replication.
    pub(crate) fn start(mut socket: Socket, start: Lsn) -> Result<Self> {
        socket.copy_both(&format!("START_REPLICATION PHYSICAL {start} TIMELINE 1"))?;
        socket.stream().set_nonblocking(true)?;
        Ok(Self { socket, received: start })
    }

    fn take_frames(&mut self) -> Result<()> {
        while let Some(frame) = self.socket.frame() {
            self.received = received_upto(&frame, self.received)?;
        }
        Ok(())
    }
}

/// Position behind the WAL of a message that follows `received`.
fn received_upto(frame: &RawFrame<'_>, received: Lsn) -> Result<Lsn> {
    let payload = frame.copy_data()?;
    match payload.first() {
        Some(b'k') => Ok(received),
        Some(b'w') => {
            let begin =
                payload.get(1..9).and_then(|bytes| bytes.try_into().ok()).context("a short message")?;
            ensure!(u64::from_be_bytes(begin) == received.0, "WAL is missing behind {received}");
            Ok(received.advance(payload.len().saturating_sub(WAL_HEADER_BYTES) as u64))
        }
        _ => bail!("a message is neither WAL nor a keepalive"),
    }
}

/// Receives until every reader has the WAL below `end`. Returns the time that passed. One thread serves all readers.
pub(crate) fn receive_all(readers: &mut [Reader], end: Lsn) -> Result<Duration> {
    let started = Instant::now();
    while readers.iter().any(|reader| reader.received < end) {
        let mut behind: Vec<_> = readers.iter_mut().filter(|reader| reader.received < end).collect();
        let mut fds: Vec<_> =
            behind.iter().map(|reader| PollFd::new(reader.socket.stream(), PollFlags::IN)).collect();
        let wait = Timespec { tv_sec: WAL_WAIT_MAX.as_secs() as i64, tv_nsec: 0 };
        ensure!(poll(&mut fds, Some(&wait))? > 0, "no WAL came within {WAL_WAIT_MAX:?}");
        let ready: Vec<_> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();

        for (reader, _) in behind.iter_mut().zip(ready).filter(|(_, ready)| *ready) {
            if reader.socket.receive()? {
                reader.take_frames()?;
            }
        }
    }
    Ok(started.elapsed())
}
