//! [`Pusher`]: a proposer that only pushes: to one or several safekeepers, one append at a time or as fast as they take it.
//!
//! One thread serves all links, so that three safekeepers cost the generator three sends and three receives an append and
//! no hand-off between threads.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::{Bytes, BytesMut};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use wal_types::Lsn;

use super::link::{BenchTimeline, Link, put_append};
use super::source::WalPiece;

/// Longest wait for an answer of a safekeeper.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(30);
/// Frames are put together up to this size, so that small appends share a system call.
const BATCH_BYTES: usize = 128 * 1024;
/// WAL that is sent ahead of the slowest safekeeper.
const WINDOW_BYTES: u64 = 16 * 1024 * 1024;

/// A proposer that leads one timeline.
#[derive(Debug)]
pub(crate) struct Pusher {
    links: Vec<Link>,
    commit: Lsn,
    frame: BytesMut,
}

/// What of the batches a link has been sent.
#[derive(Clone, Copy, Debug, Default)]
struct Sent {
    /// Batches that are sent whole.
    batches: usize,
    /// Bytes of the next one.
    bytes: usize,
}

impl Pusher {
    /// Wins the timeline on the safekeepers with these PostgreSQL ports.
    pub(crate) fn elect(pg_ports: &[u16], timeline: &BenchTimeline) -> Result<Self> {
        let links = pg_ports.iter().map(|port| Link::elect(*port, timeline)).collect::<Result<Vec<_>>>()?;
        Ok(Self { links, commit: timeline.start, frame: BytesMut::new() })
    }

    /// Sends one append and waits until a majority has it on disk. Returns the time that passed.
    pub(crate) fn append(&mut self, piece: &WalPiece) -> Result<Duration> {
        let started = Instant::now();
        self.frame.clear();
        put_append(piece, self.commit, &mut self.frame)?;
        for link in &mut self.links {
            link.socket.send(&self.frame)?;
        }
        self.wait(piece.end(), self.links.len() / 2 + 1)?;
        self.commit = piece.end();
        Ok(started.elapsed())
    }

    /// Tells the safekeepers how far the WAL is committed, and waits until all of them have all of it.
    pub(crate) fn settle(&mut self) -> Result<()> {
        let end = WalPiece { begin: self.commit, bytes: Bytes::new() };
        self.frame.clear();
        put_append(&end, self.commit, &mut self.frame)?;
        for link in &mut self.links {
            link.socket.send(&self.frame)?;
        }
        self.wait(self.commit, self.links.len())
    }

    /// Waits until `count` safekeepers have acknowledged `position`.
    fn wait(&mut self, position: Lsn, count: usize) -> Result<()> {
        // One safekeeper needs no poll.
        if let [link] = self.links.as_mut_slice() {
            while link.flushed < position {
                link.socket.receive()?;
                link.take_answers()?;
            }
            return Ok(());
        }
        while self.links.iter().filter(|link| link.flushed >= position).count() < count {
            let ready = self.poll(|_| PollFlags::IN)?;
            for (link, _) in self.links.iter_mut().zip(ready).filter(|(_, flags)| !flags.is_empty()) {
                link.socket.receive()?;
                link.take_answers()?;
            }
        }
        Ok(())
    }

    /// Pushes `wal` in appends of `append_bytes`, and waits until all safekeepers have acknowledged all of it. Returns the
    /// time that passed.
    pub(crate) fn push(&mut self, wal: &WalPiece, append_bytes: usize) -> Result<Duration> {
        for link in &self.links {
            link.socket.stream().set_nonblocking(true)?;
        }
        let pushed = self.push_nonblocking(wal, append_bytes);
        for link in &self.links {
            link.socket.stream().set_nonblocking(false)?;
        }
        pushed
    }

    fn push_nonblocking(&mut self, wal: &WalPiece, append_bytes: usize) -> Result<Duration> {
        let started = Instant::now();
        let mut appends = wal.cut(append_bytes);
        let mut encoded_upto = wal.begin;
        let mut batches: VecDeque<Bytes> = VecDeque::new();
        // Number of the first batch in `batches`.
        let mut first = 0;
        let mut sent = vec![Sent::default(); self.links.len()];

        while self.links.iter().any(|link| link.flushed < wal.end()) {
            while encoded_upto < wal.end() && encoded_upto.bytes_since(self.slowest(wal.begin)) < WINDOW_BYTES
            {
                let (batch, upto) = next_batch(&mut appends, self.commit)?;
                batches.push_back(batch);
                encoded_upto = upto;
            }

            for (link, sent) in self.links.iter_mut().zip(&mut sent) {
                send_batches(link, sent, first, &batches)?;
            }
            while sent.iter().all(|sent| sent.batches > first) && batches.pop_front().is_some() {
                first += 1;
            }

            let last = first + batches.len();
            let wanted = |index: usize| match sent.get(index) {
                Some(sent) if sent.batches < last => PollFlags::IN | PollFlags::OUT,
                _ => PollFlags::IN,
            };
            let ready = self.poll(wanted)?;
            for (link, flags) in self.links.iter_mut().zip(ready) {
                if flags.intersects(PollFlags::IN | PollFlags::ERR | PollFlags::HUP)
                    && link.socket.receive()?
                {
                    link.take_answers()?;
                }
            }
            self.commit = self.commit.max(self.committed());
        }
        Ok(started.elapsed())
    }

    /// The position that the slowest safekeeper has acknowledged, `begin` at least.
    fn slowest(&self, begin: Lsn) -> Lsn {
        self.links.iter().map(|link| link.flushed).min().unwrap_or(begin).max(begin)
    }

    /// The position that a majority has acknowledged.
    fn committed(&self) -> Lsn {
        let mut flushed: Vec<Lsn> = self.links.iter().map(|link| link.flushed).collect();
        flushed.sort_unstable();
        flushed[(flushed.len() - 1) / 2]
    }

    /// Waits for events on the links; `wanted` gives those of each.
    fn poll(&self, wanted: impl Fn(usize) -> PollFlags) -> Result<Vec<PollFlags>> {
        let sockets = self.links.iter().enumerate();
        let mut fds: Vec<_> =
            sockets.map(|(index, link)| PollFd::new(link.socket.stream(), wanted(index))).collect();
        let wait = Timespec { tv_sec: ANSWER_WAIT_MAX.as_secs() as i64, tv_nsec: 0 };
        let ready = poll(&mut fds, Some(&wait)).context("poll failed")?;
        ensure!(ready > 0, "no safekeeper answered within {ANSWER_WAIT_MAX:?}");
        Ok(fds.iter().map(PollFd::revents).collect())
    }
}

/// Frames of the next appends, and the position behind them.
fn next_batch(appends: &mut impl Iterator<Item = WalPiece>, commit: Lsn) -> Result<(Bytes, Lsn)> {
    let mut batch = BytesMut::new();
    let mut upto = commit;
    while batch.len() < BATCH_BYTES {
        let Some(piece) = appends.next() else { break };
        put_append(&piece, commit, &mut batch)?;
        upto = piece.end();
    }
    Ok((batch.freeze(), upto))
}

/// Sends a link what it takes now. `first` is the number of the first batch in `batches`.
fn send_batches(link: &mut Link, sent: &mut Sent, first: usize, batches: &VecDeque<Bytes>) -> Result<()> {
    while let Some(batch) = batches.get(sent.batches - first) {
        let count = link.socket.try_send(&batch[sent.bytes..])?;
        if count == 0 {
            break;
        }
        sent.bytes += count;
        if sent.bytes == batch.len() {
            *sent = Sent { batches: sent.batches + 1, bytes: 0 };
        }
    }
    Ok(())
}
