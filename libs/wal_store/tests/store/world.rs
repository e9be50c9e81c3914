//! [`World`]: one replica on a model disk, a record of its promises, and checks of those promises.
//!
//! A test calls its steps one by one. A step fails when the disk does; the world then plays the next proposer, and
//! continues from the log that the replica has.

use std::time::Duration;

use consensus::{AcceptorMessage, ConnectionId};
use wal_store::{Health, Input, ModelDisk, Output, Replica, StoreError};
use wal_types::{Lsn, Term};

use crate::common::{Proposer, START, lineage, nothing_survives, random, try_open};
use crate::log_checks::{check_dead_tail, read_log};

/// Attempts before a step is given up: more than faults that are injected in one story.
const ATTEMPTS: usize = 20;

/// The machine is down: the story ends.
#[derive(Debug)]
pub(crate) struct Crashed;

/// One replica, its proposer, and what was promised to that.
pub(crate) struct World {
    pub(crate) disk: ModelDisk,
    replica: Option<Replica<ModelDisk>>,
    pub(crate) proposer: Proposer,
    /// The log before a truncation that may not be done.
    before_cut: Option<Proposer>,
    /// Acknowledged in a vote or an append response; lowered by a truncation that was requested.
    acked: Lsn,
    /// Highest term that was promised.
    promised: Term,
    created: bool,
    /// No reader and no member needs WAL below the commit position.
    removes: bool,
    now: Duration,
    /// Number of recoveries while the replica stayed open.
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

    /// A world whose old WAL is removed as soon as it is committed.
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
                // An injected fault.
                Err(_) => self.recoveries += 1,
            }
        }
        panic!("the replica never opens")
    }

    /// Lets a proposer lead from a record end `records_back` records below the replica's end; the log above is truncated.
    /// Repeated with a new proposer until it succeeds.
    pub(crate) fn lead(&mut self, records_back: usize) -> Result<(), Crashed> {
        let mut last = String::new();
        for _ in 0..ATTEMPTS {
            let term = self.promised.0.max(self.proposer.term.0) + 1;
            let have = self.wait_until_recovered()?;
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

    /// Sends what the proposer wrote. When that fails the next proposer leads, from whatever log the replica has. WAL that
    /// was not acknowledged is not sent again.
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
            let output = self.replica.as_mut().unwrap().run_tick(self.now);
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

    /// Records what the replies promise.
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

    /// Waits until the replica has recovered; returns a proposer with the log that it has.
    fn wait_until_recovered(&mut self) -> Result<Proposer, Crashed> {
        for attempt in 0.. {
            assert!(attempt < ATTEMPTS, "the replica never recovers");
            let replica = self.replica.as_mut().unwrap();
            if replica.snapshot().health != Health::Failed {
                break;
            }
            self.recoveries += 1;
            self.now += Duration::from_secs(2);
            let output = replica.run_tick(self.now);
            self.observe(&output)?;
        }
        let replica = self.replica.as_ref().unwrap();
        assert!(!matches!(replica.snapshot().health, Health::Corrupt | Health::Lost));
        Ok(self.check_replica(replica))
    }

    /// Checks that the replica has a possible log, and that this holds what was promised.
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
            .unwrap_or_else(|| panic!("the log up to {} was never written", snapshot.flush_lsn))
            .clone();
        let records = have.ends.iter().position(|&end| end == snapshot.flush_lsn).expect("a record end");
        have.ends.truncate(records + 1);
        have.log.truncate(skipped + log.len());
        have.history = snapshot.history.up_to(snapshot.flush_lsn);
        have
    }

    /// Fails the power, and checks: everything that was promised is there, nothing is behind the end, and all that the
    /// replica says after its start is durable.
    pub(crate) fn check_after_crash(&mut self, seed: u64) {
        let mut random = random(seed);
        self.replica = None;
        self.disk = self.disk.crash(&mut random);
        // The machine may go down again while it starts.
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

        // Once more, with nothing kept that was not synced.
        let snapshot = replica.snapshot();
        self.disk = self.disk.crash(&mut nothing_survives);
        let replica = try_open(&self.disk).unwrap();
        let again = replica.snapshot();
        assert_eq!((again.flush_lsn, again.term), (snapshot.flush_lsn, snapshot.term));
        self.check_replica(&replica);

        // The log can be continued.
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
        match Replica::create(disk, crate::common::COPY, [5; 16], lineage(), configuration) {
            Ok(()) | Err(StoreError::Exists) => return Ok(()),
            Err(_) if disk.has_crashed() => return Err(Crashed),
            Err(_) => {}
        }
    }
}
