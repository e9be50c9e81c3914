//! One replica on a model disk, what was promised in its name, and the checks of those promises.
//!
//! A story is told to the world step by step. Steps go wrong when the disk does; the world then takes the part of the
//! next proposer and goes on from what the replica has.

use std::time::Duration;

use consensus::{AcceptorMessage, ConnectionId};
use wal_format::SegmentName;
use wal_store::{
    Disk, DiskFile, Health, Input, ModelDisk, Output, ReadMode, ReadOutcome, Replica, StoreError,
};
use wal_types::{Lsn, Term};

use crate::common::{Proposer, SEGMENT_BYTES, START, lineage, nothing_survives, random, try_open};

/// Attempts before a step is given up: more than faults that are injected in one story.
const ATTEMPTS: usize = 20;

/// The machine is down; the story is over.
#[derive(Debug)]
pub(crate) struct Crashed;

pub(crate) struct World {
    pub(crate) disk: ModelDisk,
    replica: Option<Replica<ModelDisk>>,
    pub(crate) proposer: Proposer,
    /// The log from before a cut that is not known to be done.
    before_cut: Option<Proposer>,
    /// Told in a vote or an append response; lowered by a cut that was asked for.
    acked: Lsn,
    promised: Term,
    created: bool,
    /// Nobody needs WAL below the commit position.
    removes: bool,
    now: Duration,
    /// Times that the disk failed and the replica stayed.
    pub(crate) recoveries: u32,
}

impl World {
    pub(crate) fn new(disk: ModelDisk) -> Self {
        Self {
            disk,
            replica: None,
            proposer: Proposer::first(1),
            before_cut: None,
            acked: START,
            promised: Term(0),
            created: false,
            removes: false,
            now: Duration::ZERO,
            recoveries: 0,
        }
    }

    /// One whose old WAL goes as soon as it is committed.
    pub(crate) fn removing(disk: ModelDisk) -> Self {
        Self { removes: true, ..Self::new(disk) }
    }

    pub(crate) fn create(&mut self) -> Result<(), Crashed> {
        create_or_crash(&self.disk)?;
        self.created = true;
        self.reopen()
    }

    /// Restarts the process.
    pub(crate) fn reopen(&mut self) -> Result<(), Crashed> {
        self.replica = None;
        for _ in 0..ATTEMPTS {
            match try_open(&self.disk) {
                _ if self.disk.has_crashed() => return Err(Crashed),
                Ok(mut replica) => {
                    if self.removes {
                        replica.set_keep_from(Lsn::MAX);
                    }
                    self.replica = Some(replica);
                    return Ok(());
                }
                Err(error @ StoreError::Corrupt(_)) => panic!("{error}"),
                // A fault that was injected.
                Err(_) => self.recoveries += 1,
            }
        }
        panic!("it never opens")
    }

    /// A proposer leads from the record end so many records below the replica's end; what is above is cut. Repeated
    /// with a new one until it succeeds.
    pub(crate) fn lead(&mut self, records_back: usize) -> Result<(), Crashed> {
        let mut last = String::new();
        for _ in 0..ATTEMPTS {
            let term = self.promised.0.max(self.proposer.term.0) + 1;
            let have = self.settle()?;
            let commit_lsn = self.replica.as_ref().unwrap().snapshot().commit_lsn;
            let committed = have.ends.iter().take_while(|&&end| end < commit_lsn).count();
            let keep = have.ends.len().saturating_sub(1 + records_back).max(committed);
            let mut next = Proposer::after(&have, term, keep);
            if have.term == Term(1) && self.promised == Term(0) {
                next = Proposer::first(1);
            }
            let start = next.end();
            let output = self.run(vec![next.greet(), next.vote()])?;
            last = format!("{output:?}");
            if !output.refused.is_empty() {
                continue;
            }
            self.acked = self.acked.min(start);
            self.before_cut = Some(have);
            self.proposer = next.clone();
            let output = self.run(vec![next.elected(start)])?;
            if output.refused.is_empty() && output.undecided.is_empty() {
                self.before_cut = None;
                next.start_from(start);
                self.proposer = next;
                return Ok(());
            }
            last = format!("{output:?}");
        }
        panic!("no proposer is accepted: {last}")
    }

    /// Sends what the proposer wrote. When that fails, the next proposer leads and what was not acknowledged is gone
    /// or not, as the replica has it; it is not sent again.
    pub(crate) fn send(&mut self, piece_bytes: u64) -> Result<(), Crashed> {
        for piece in self.proposer.appends_of(piece_bytes) {
            let output = self.run(vec![piece])?;
            if !output.refused.is_empty() {
                return self.lead(0);
            }
        }
        assert_eq!(self.acked, self.proposer.end(), "all of it is acknowledged");
        Ok(())
    }

    pub(crate) fn write(&mut self, records: usize, payload_bytes: usize) {
        for record in 0..records {
            let byte = (self.proposer.term.0 as u8) << 4 | (record as u8 & 15);
            self.proposer.write(&vec![byte; payload_bytes]);
        }
    }

    pub(crate) fn commit_all(&mut self) -> Result<(), Crashed> {
        self.proposer.commit_lsn = self.proposer.end();
        if self.removes {
            self.proposer.horizon_lsn = self.proposer.end();
        }
        let heartbeat = self.proposer.heartbeat();
        let output = self.run(vec![heartbeat])?;
        if output.refused.is_empty() { Ok(()) } else { self.lead(0) }
    }

    /// Time passes.
    pub(crate) fn idle(&mut self) -> Result<(), Crashed> {
        for _ in 0..3 {
            self.now += Duration::from_secs(1);
            let output = self.replica.as_mut().unwrap().tick(self.now);
            self.observe(&output)?;
            if !output.refused.is_empty() {
                self.lead(0)?;
            }
        }
        Ok(())
    }

    fn run(&mut self, batch: Vec<(ConnectionId, Input)>) -> Result<Output, Crashed> {
        let output = self.replica.as_mut().unwrap().run(batch);
        self.observe(&output)?;
        Ok(output)
    }

    /// Writes down what was promised.
    fn observe(&mut self, output: &Output) -> Result<(), Crashed> {
        for (_, reply) in &output.replies {
            match reply {
                AcceptorMessage::Vote(vote) => {
                    self.promised = self.promised.max(vote.term);
                    self.acked = self.acked.max(vote.flush_lsn);
                }
                AcceptorMessage::Append(response) => self.acked = self.acked.max(response.flush_lsn),
                _ => {}
            }
        }
        if self.disk.has_crashed() { Err(Crashed) } else { Ok(()) }
    }

    /// Waits until the replica has recovered, and says which log it has.
    fn settle(&mut self) -> Result<Proposer, Crashed> {
        for attempt in 0.. {
            assert!(attempt < ATTEMPTS, "it never recovers");
            let replica = self.replica.as_mut().unwrap();
            if replica.snapshot().health != Health::Failed {
                break;
            }
            self.recoveries += 1;
            self.now += Duration::from_secs(2);
            let output = replica.tick(self.now);
            self.observe(&output)?;
        }
        let replica = self.replica.as_ref().unwrap();
        assert!(!matches!(replica.snapshot().health, Health::Corrupt | Health::Lost));
        Ok(self.check_replica(replica))
    }

    /// The log that the replica has is one that it may have, and holds what was promised.
    fn check_replica(&self, replica: &Replica<ModelDisk>) -> Proposer {
        let snapshot = replica.snapshot();
        assert!(snapshot.term >= self.promised, "promised {}, has {}", self.promised, snapshot.term);
        assert!(snapshot.flush_lsn >= self.acked, "acknowledged {}, has {}", self.acked, snapshot.flush_lsn);
        assert!(snapshot.commit_lsn <= snapshot.flush_lsn);
        assert_eq!(snapshot.lost, None);
        assert!(snapshot.oldest_lsn == START || snapshot.oldest_lsn < self.proposer.horizon_lsn);
        let skipped = snapshot.oldest_lsn.bytes_since(START) as usize;
        let log = read_log(replica);
        let candidates = [Some(&self.proposer), self.before_cut.as_ref()];
        let mut have = candidates
            .into_iter()
            .flatten()
            .find(|candidate| candidate.log.get(skipped..).is_some_and(|left| left.starts_with(&log)))
            .unwrap_or_else(|| panic!("a log that nobody wrote, up to {}", snapshot.flush_lsn))
            .clone();
        let records = have.ends.iter().position(|&end| end == snapshot.flush_lsn).expect("a record end");
        have.ends.truncate(records + 1);
        have.log.truncate(skipped + log.len());
        have.history = snapshot.history.up_to(snapshot.flush_lsn);
        have
    }

    /// The machine has lost power: everything that was promised is there when it comes back, nothing is behind the
    /// end, and all that the replica then says is durable, whatever happens next.
    pub(crate) fn check_after_crash(&mut self, seed: u64) {
        let mut random = random(seed);
        self.replica = None;
        self.disk = self.disk.crash(&mut random);
        // A machine that comes up may go down again.
        if random().is_multiple_of(2) {
            self.disk.crash_after(random() % 24);
            let _ = try_open(&self.disk);
            self.disk = self.disk.crash(&mut random);
        }
        let replica = match try_open(&self.disk) {
            Ok(replica) => replica,
            Err(StoreError::Missing) if !self.created => return,
            Err(error) => panic!("{error}"),
        };
        let have = self.check_replica(&replica);
        check_dead_tail(&self.disk, have.end());

        // The same once more, with nothing kept that was not synced.
        let snapshot = replica.snapshot();
        self.disk = self.disk.crash(&mut nothing_survives);
        let replica = try_open(&self.disk).unwrap();
        let again = replica.snapshot();
        assert_eq!((again.flush_lsn, again.term), (snapshot.flush_lsn, snapshot.term));
        self.check_replica(&replica);

        // And it can be written on.
        self.replica = Some(replica);
        self.proposer = have;
        self.before_cut = None;
        self.lead(0).unwrap();
        self.write(3, 900);
        self.send(1000).unwrap();
        let end = self.proposer.end();
        self.replica = None;
        self.disk = self.disk.crash(&mut nothing_survives);
        let replica = try_open(&self.disk).unwrap();
        assert_eq!(replica.snapshot().flush_lsn, end);
        self.check_replica(&replica);
    }
}

fn create_or_crash(disk: &ModelDisk) -> Result<(), Crashed> {
    loop {
        let configuration = crate::common::configuration();
        match Replica::create(disk, crate::common::NODE, [5; 16], lineage(), configuration) {
            Ok(()) | Err(StoreError::Exists) => return Ok(()),
            Err(_) if disk.has_crashed() => return Err(Crashed),
            Err(_) => {}
        }
    }
}

/// Everything that the replica has, through its reader: from its oldest byte on.
pub(crate) fn read_log<D: Disk>(replica: &Replica<D>) -> Vec<u8> {
    let mut reader = replica.reader(ReadMode::Flushed(replica.snapshot().term));
    let (mut log, mut buffer) = (Vec::new(), [0; 5000]);
    let (mut failures, oldest) = (0, replica.snapshot().oldest_lsn);
    loop {
        match reader.read(oldest.advance(log.len() as u64), &mut buffer) {
            Ok(ReadOutcome::Bytes(count)) => log.extend_from_slice(&buffer[..count]),
            Ok(ReadOutcome::Nothing) => return log,
            Ok(ReadOutcome::Changed) => panic!("nobody changes it"),
            // A fault that was injected.
            Err(error) => {
                failures += 1;
                assert!(failures < ATTEMPTS, "{error}");
            }
        }
    }
}

/// Behind the end there are only zeros, in the files themselves, and a start has cleared away what was unfinished.
pub(crate) fn check_dead_tail<D: Disk>(disk: &D, end: Lsn) {
    for name in disk.list().unwrap() {
        assert!(!name.ends_with(".unfinished"), "{name} is left");
        let Ok(segment) = SegmentName::parse(&name, lineage().segment_size) else { continue };
        let start = lineage().segment_size.start_of(segment.segment);
        let mut wal = vec![0; SEGMENT_BYTES as usize];
        disk.open(&name).unwrap().read_at(0, &mut wal).unwrap();
        let dead = &wal[end.bytes_since(start).min(SEGMENT_BYTES) as usize..];
        assert!(dead.iter().all(|&byte| byte == 0), "bytes behind {end} in {name}");
    }
}

/// A log over several segments, cut in the middle of a segment, over a boundary, and restarted.
pub(crate) fn story(world: &mut World) -> Result<(), Crashed> {
    world.create()?;
    world.lead(0)?;
    world.write(6, 700);
    world.send(9000)?;
    world.write(20, 1500);
    world.send(3333)?;
    // Parts of the log that no checksum covers.
    world.proposer.abort();
    world.write(2, 200);
    world.proposer.switch();
    world.send(5000)?;
    world.commit_all()?;
    world.idle()?;
    world.write(9, 2500);
    world.send(20_000)?;
    // Cuts some of what was just written, in the segment where it is.
    world.lead(2)?;
    world.write(14, 2500);
    world.send(7777)?;
    // Cuts over a segment boundary.
    world.lead(10)?;
    world.write(1, 40_000);
    world.send(16_000)?;
    world.reopen()?;
    world.lead(0)?;
    world.write(2, 5000);
    world.proposer.switch();
    world.write(1, 300);
    world.send(2000)?;
    world.commit_all()?;
    world.idle()?;
    world.write(1, 100);
    world.send(2000)?;
    world.lead(1)?;
    world.write(2, 100);
    world.send(2000)
}
