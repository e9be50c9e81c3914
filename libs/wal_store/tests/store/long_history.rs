//! Growth of the control file: a log of dialect `neon` keeps its whole term history, and a larger file replaces the one
//! that the history outgrew.

use consensus::{
    Dialect, Lineage, ProposerElected, ProposerGreeting, ProposerMessage, ProtocolVersion, VoteRequest,
};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use wal_store::{Disk, Health, Input, ModelDisk, Output, Replica};
use wal_types::{Generation, ProposerId, Term};

use crate::common::{
    NODE, START, all_survives, append_response_of, configuration, greeting, history, lineage,
    nothing_survives, open, random, vote_of,
};
use consensus::ConnectionId;

const CONNECTION: ConnectionId = ConnectionId(1);
/// Far more than a slot of the smallest control file takes.
const TERMS: u64 = 5000;

fn neon_log() -> (ModelDisk, Replica<ModelDisk>) {
    let disk = ModelDisk::new();
    let lineage = Lineage { dialect: Dialect::Neon, ..lineage() };
    Replica::create(&disk, crate::common::COPY, [5; 16], lineage, configuration()).unwrap();
    let replica = open(&disk);
    (disk, replica)
}

fn say(message: ProposerMessage) -> (ConnectionId, Input) {
    (CONNECTION, Input::Message(message))
}

fn greet() -> (ConnectionId, Input) {
    let ProposerMessage::Greeting(greeting) = greeting() else { panic!("a greeting") };
    say(ProposerMessage::Greeting(ProposerGreeting { version: ProtocolVersion::V3, ..greeting }))
}

fn vote(term: u64) -> (ConnectionId, Input) {
    let proposer_id = ProposerId::default();
    say(ProposerMessage::Vote(VoteRequest {
        replica: crate::common::COPY.replica,
        generation: Generation(1),
        term: Term(term),
        proposer_id,
    }))
}

/// The leader after so many terms, none of which wrote anything.
fn elected(terms: u64) -> (ConnectionId, Input) {
    let entries: Vec<_> = (1..=terms).map(|term| (term, START)).collect();
    say(ProposerMessage::Elected(ProposerElected {
        replica: crate::common::COPY.replica,
        rebase: None,
        generation: Generation(1),
        term: Term(terms),
        start_streaming_at: START,
        history: history(&entries),
        timeline_start_lsn: START,
        tli_switches: vec![],
        configuration: configuration(),
    }))
}

fn is_undecided(output: &Output) -> bool {
    output.refused.is_empty() && output.undecided.len() == 1
}

#[test]
fn control_file_grows_with_the_history() {
    let (disk, mut replica) = neon_log();
    let before = disk.used_bytes();
    let output = replica.run(vec![greet(), vote(TERMS), elected(TERMS)]);
    assert!(output.refused.is_empty() && output.undecided.is_empty(), "{:?}", output.refused);
    assert!(disk.used_bytes() > 2 * before);
    drop(replica);
    for survives in [nothing_survives, all_survives] {
        let disk = disk.fork().crash(&mut { survives });
        for _ in 0..2 {
            assert_eq!(open(&disk).snapshot().history.entries().len(), TERMS as usize);
        }
    }
}

/// Without room for a larger control file the election waits, and votes pass.
#[test]
fn control_file_growth_waits_for_room() {
    let (disk, mut replica) = neon_log();
    let used = disk.used_bytes();
    disk.set_capacity_bytes(Some(used));
    let output = replica.run(vec![greet(), vote(TERMS), elected(TERMS)]);
    assert!(is_undecided(&output));
    assert!(vote_of(&output).is_some_and(|vote| vote.vote_given));
    assert_eq!(replica.snapshot().health, Health::Full);
    assert_eq!(disk.used_bytes(), used, "nothing is left behind");
    let again = replica.run(output.undecided);
    assert!(is_undecided(&again) && append_response_of(&again).is_none());
    disk.set_capacity_bytes(None);
    let output = replica.run(again.undecided);
    assert!(output.refused.is_empty() && output.undecided.is_empty());
    assert_eq!((replica.snapshot().health, replica.snapshot().term), (Health::Healthy, Term(TERMS)));
    drop(replica);
    assert_eq!(open(&disk).snapshot().history.entries().len(), TERMS as usize);
}

/// A crash leaves the old control file or the new one, whole.
#[test]
fn control_file_growth_survives_a_crash() {
    for step in 0.. {
        let (disk, mut replica) = neon_log();
        let _ = replica.run(vec![greet(), vote(TERMS)]);
        disk.crash_after(step);
        let _ = replica.run(vec![elected(TERMS)]);
        let has_crashed = disk.has_crashed();
        for outcome in 0..4 {
            let disk = disk.fork().crash(&mut random(step * 10 + outcome));
            let snapshot = open(&disk).snapshot();
            assert_eq!(snapshot.term, Term(TERMS), "step {step}: a promise is lost");
            let entries = snapshot.history.entries().len();
            assert!(entries == 0 || entries == TERMS as usize, "step {step}: {entries}");
            assert!(has_crashed || entries > 0, "step {step}");
        }
        if !has_crashed {
            assert!(step > 8, "{step} steps");
            break;
        }
    }
}

/// A disk whose directory cannot be synced for want of room, as one that copies on write may say.
#[derive(Clone)]
struct FullDirectory {
    disk: ModelDisk,
    is_full: Arc<AtomicBool>,
}

impl Disk for FullDirectory {
    type File = <ModelDisk as Disk>::File;

    fn create(&self, name: &str) -> io::Result<Self::File> {
        self.disk.create(name)
    }

    fn open(&self, name: &str) -> io::Result<Self::File> {
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
        if self.is_full.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.disk.sync_dir()
    }
}

/// The larger file has the name already: a promise that is written to the old file would be forgotten.
#[test]
fn vote_after_failed_control_file_growth_is_kept() {
    let (disk, _) = neon_log();
    let is_full = Arc::new(AtomicBool::new(false));
    let full = FullDirectory { disk: disk.clone(), is_full: Arc::clone(&is_full) };
    let mut replica = Replica::open(full, NODE).unwrap();
    let _ = replica.run(vec![greet(), vote(TERMS)]);
    is_full.store(true, Ordering::Relaxed);
    let _ = replica.run(vec![elected(TERMS)]);
    is_full.store(false, Ordering::Relaxed);
    let _ = replica.run(vec![(CONNECTION, Input::Disconnected)]);
    let output = replica.run(vec![greet(), vote(TERMS + 1)]);
    let granted = vote_of(&output).is_some_and(|vote| vote.vote_given);
    drop(replica);
    let snapshot = open(&disk.crash(&mut { all_survives })).snapshot();
    assert!(
        !granted || snapshot.term == Term(TERMS + 1),
        "a vote was given, and the disk knows only {}",
        snapshot.term
    );
}
