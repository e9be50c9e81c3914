//! Damage in page headers, which no checksum covers: a timeline number must be one of the term history, a magic number
//! that of the log's version.

use std::time::Duration;

use consensus::{TermHistory, TermStart};
use wal_format::{PageMagic, WalBuilder};
use wal_store::{Health, ModelDisk};
use wal_types::{Lsn, Term, Tli};

use crate::common::{Proposer, START, context, create, open, send};
use crate::damaged_log::{acknowledged_log, rot};
use crate::log_checks::read_log;

const PAGE_BYTES: u64 = 8192;
/// A byte of `xlp_tli` that is zero.
const TLI_OFFSET: u64 = 6;

/// Also the last page, behind which no other page would show the damage.
#[test]
fn rotten_page_timeline_is_lost_and_repaired() {
    let (disk, proposer) = acknowledged_log(true);
    let pages = (START.0..proposer.end().0).step_by(PAGE_BYTES as usize);
    let mut repaired = 0;
    for page in pages.filter(|&page| page >= proposer.commit_lsn.0) {
        let disk = disk.fork();
        rot(&disk, Lsn(page + TLI_OFFSET));
        let mut replica = open(&disk);
        let seen = replica.snapshot();
        let before = proposer.ends.partition_point(|end| end.0 <= page) - 1;
        assert_eq!((seen.health, seen.flush_lsn), (Health::Lost, proposer.ends[before]), "{page:X}");

        let mut next = Proposer::after(&proposer, 2, proposer.ends.len() - 1);
        let start = proposer.ends[before];
        send(&mut replica, vec![next.greet(), next.elected(start)]);
        next.start_from(start);
        send(&mut replica, next.appends());
        drop(replica);
        assert!(read_log(&open(&disk)) == next.log, "{page:X}");
        repaired += 1;
    }
    assert!(repaired >= 3, "{repaired}");
}

/// Refused until a term of the history has that timeline.
#[test]
fn page_of_unknown_timeline_is_refused() {
    let disk = ModelDisk::new();
    create(&disk);
    let mut replica = open(&disk);
    let mut first = Proposer::first(1);
    first.lead(&mut replica, START);
    first.write(&[1; 500]);
    send(&mut replica, first.appends());
    first.builder.set_tli(Tli(2));
    first.write(&[2; 9000]);
    let output = replica.run(first.appends());
    assert_eq!(output.refused.len(), 1, "{output:?}");
    assert_eq!(replica.snapshot().flush_lsn, first.ends[1]);

    let mut promoted = Proposer::after(&first, 2, 1);
    let start = promoted.end();
    let of = |term, start, tli| TermStart { term: Term(term), start, tli: Tli(tli) };
    promoted.history = TermHistory::new(vec![of(1, START, 1), of(2, start, 2)]).unwrap();
    promoted.builder.set_tli(Tli(2));
    promoted.write(&[2; 9000]);
    promoted.lead(&mut replica, start);
    send(&mut replica, promoted.appends());
    drop(replica);
    let replica = open(&disk);
    assert_eq!(replica.snapshot().health, Health::Healthy);
    assert!(read_log(&replica) == promoted.log);
}

/// One bit turns the magic number of PostgreSQL 15 into that of 18. There is no other page to compare with.
#[test]
fn rotten_magic_of_the_only_page_is_noticed() {
    let disk = ModelDisk::new();
    create(&disk);
    let mut replica = open(&disk);
    let mut proposer = Proposer::first(1);
    proposer.lead(&mut replica, START);
    proposer.write(&[1; 500]);
    send(&mut replica, proposer.appends());
    // Idle, so that the footer tells what was acknowledged.
    for seconds in [1, 9] {
        let _ = replica.run_tick(Duration::from_secs(seconds));
    }
    drop(replica);
    rot(&disk, START);
    let replica = open(&disk);
    assert_eq!((replica.snapshot().health, replica.snapshot().flush_lsn), (Health::Lost, START));
}

#[test]
fn append_of_another_version_is_refused() {
    for (magic, taken) in [(PageMagic::POSTGRES_15, true), (PageMagic::POSTGRES_18, false)] {
        let disk = ModelDisk::new();
        create(&disk);
        let mut replica = open(&disk);
        let mut proposer = Proposer::first(1);
        proposer.lead(&mut replica, START);
        proposer.builder = WalBuilder::new(context(), magic, Tli::FIRST, START, Lsn(0));
        proposer.write(&[1; 500]);
        let output = replica.run(proposer.appends());
        assert_eq!(output.refused.is_empty(), taken, "{output:?}");
        assert_eq!(replica.snapshot().flush_lsn, if taken { proposer.end() } else { START });
    }
}
