//! [`Receivers`]: threads that receive an append, write it, sync and answer, and do nothing else: the bound for safekeepers
//! that are reached over loopback.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rustix::event::{PollFd, PollFlags, poll};

use super::probe::SyncProbe;

/// Bytes of an answer: a frame with an append response.
const ANSWER_BYTES: usize = 58;

/// Connections to the threads. The threads end with them.
#[derive(Debug)]
pub(crate) struct Receivers {
    /// Each connection, and the bytes that were received on it.
    connections: Vec<(TcpStream, usize)>,
    append: Vec<u8>,
    sent: usize,
}

impl Receivers {
    /// Starts `count` threads for appends of `append_bytes`, each with a file of `file_bytes` in `directory`.
    pub(crate) fn start(
        directory: &Path,
        count: usize,
        append_bytes: usize,
        file_bytes: u64,
    ) -> Result<Self> {
        let start = |number| {
            let file = SyncProbe::create(&directory.join(format!("receiver-{count}-{number}")), file_bytes)?;
            let listener = TcpListener::bind("127.0.0.1:0")?;
            let stream = TcpStream::connect(listener.local_addr()?)?;
            stream.set_nodelay(true)?;
            let (peer, _) = listener.accept()?;
            peer.set_nodelay(true)?;
            // It ends with its connection; an error ends its connection, which the sender sees.
            thread::spawn(move || serve(peer, file, append_bytes));
            Ok((stream, 0))
        };
        let connections = (0..count).map(start).collect::<Result<Vec<_>>>()?;
        Ok(Self { connections, append: vec![0x5a; append_bytes], sent: 0 })
    }

    /// Sends one append and waits until a majority has answered. Returns the time that passed.
    pub(crate) fn append(&mut self) -> Result<Duration> {
        let started = Instant::now();
        for (stream, _) in &mut self.connections {
            stream.write_all(&self.append)?;
        }
        self.sent += 1;

        let quorum = self.connections.len() / 2 + 1;
        let expected = self.sent * ANSWER_BYTES;
        let mut buffer = [0; 64 * ANSWER_BYTES];
        while self.connections.iter().filter(|(_, received)| *received >= expected).count() < quorum {
            for index in self.readable()? {
                let (stream, received) = &mut self.connections[index];
                let count = stream.read(&mut buffer)?;
                ensure!(count > 0, "a receiver ended: its file cannot be written");
                *received += count;
            }
        }
        Ok(started.elapsed())
    }

    /// Connections with answers. One connection needs no poll.
    fn readable(&self) -> Result<Vec<usize>> {
        if self.connections.len() == 1 {
            return Ok(vec![0]);
        }
        let mut fds: Vec<_> =
            self.connections.iter().map(|(stream, _)| PollFd::new(stream, PollFlags::IN)).collect();
        poll(&mut fds, None)?;
        let ready = fds.iter().enumerate().filter(|(_, fd)| !fd.revents().is_empty());
        Ok(ready.map(|(index, _)| index).collect())
    }
}

fn serve(mut peer: TcpStream, mut file: SyncProbe, append_bytes: usize) {
    let mut append = vec![0; append_bytes];
    let answer = [0x5a; ANSWER_BYTES];
    while peer.read_exact(&mut append).is_ok()
        && file.write_and_sync(&append).is_ok()
        && peer.write_all(&answer).is_ok()
    {}
}
