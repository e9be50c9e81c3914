//! Too many open files: what cannot be opened waits, and nothing fails.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use wal_store::{Disk, Health, ModelDisk, OutOfHandles};

use crate::common::{Proposer, START, append_response_of, create, open, send, vote_of};

/// A disk of a process that cannot open files while `is_crowded` is set. Open files work.
#[derive(Clone)]
struct Crowded {
    disk: ModelDisk,
    is_crowded: Arc<AtomicBool>,
}

impl Crowded {
    fn set(&self, is_crowded: bool) {
        self.is_crowded.store(is_crowded, Ordering::Relaxed);
    }
}

impl Disk for Crowded {
    type File = <ModelDisk as Disk>::File;

    fn create(&self, name: &str) -> io::Result<Self::File> {
        self.ensure_handles()?;
        self.disk.create(name)
    }

    fn open(&self, name: &str) -> io::Result<Self::File> {
        self.ensure_handles()?;
        self.disk.open(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        self.disk.unlink(name)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.ensure_handles()?;
        self.disk.sync_dir()
    }

    fn ensure_handles(&self) -> io::Result<()> {
        match self.is_crowded.load(Ordering::Relaxed) {
            true => Err(OutOfHandles(io::Error::from_raw_os_error(24)).into_io()),
            false => Ok(()),
        }
    }
}

/// An append in an open segment goes on, one that needs another segment waits, and so does an election.
#[test]
fn want_of_handles_delays_and_fails_nothing() {
    let model = ModelDisk::new();
    create(&model);
    let disk = Crowded { disk: model, is_crowded: Arc::default() };
    let mut replica = open(&disk);
    let mut proposer = Proposer::first(1);
    proposer.lead(&mut replica, START);
    proposer.write(&[1; 600]);
    send(&mut replica, proposer.appends());

    disk.set(true);
    proposer.write(&[2; 600]);
    let output = replica.run(proposer.appends());
    assert_eq!(append_response_of(&output).unwrap().flush_lsn, proposer.end());
    let kept = proposer.end();
    proposer.write(&[3; 30_000]);
    let waiting = replica.run(proposer.appends());
    assert!(!waiting.undecided.is_empty() && waiting.refused.is_empty(), "{waiting:?}");
    assert_eq!(append_response_of(&waiting).unwrap().flush_lsn, kept);
    for seconds in 1..4 {
        assert!(replica.tick(Duration::from_secs(seconds)).refused.is_empty());
        assert_eq!(replica.snapshot().health, Health::Full);
    }

    disk.set(false);
    let output = replica.run(waiting.undecided);
    assert!(output.undecided.is_empty() && output.refused.is_empty(), "{output:?}");
    assert_eq!(append_response_of(&output).unwrap().flush_lsn, proposer.end());

    let next = Proposer::after(&proposer, 2, proposer.ends.len() - 1);
    let voted = replica.run(vec![next.greet(), next.vote()]);
    assert!(vote_of(&voted).unwrap().vote_given);
    disk.set(true);
    let waiting = replica.run(vec![next.elected(proposer.end())]);
    assert!(!waiting.undecided.is_empty() && waiting.refused.is_empty(), "{waiting:?}");
    disk.set(false);
    let output = replica.run(waiting.undecided);
    assert!(output.undecided.is_empty() && output.refused.is_empty(), "{output:?}");
    assert_eq!(replica.snapshot().health, Health::Healthy);
}
