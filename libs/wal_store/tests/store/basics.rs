//! What a log does as long as nothing goes wrong, on both disks.

use std::time::Duration;

use wal_store::{Disk, Health, ModelDisk, Read, ReadMode, RealDisk};
use wal_types::{Lsn, Term};

use crate::common::{Proposer, START, append_response_of, create, open, run};

macro_rules! on_both_disks {
    ($($name:ident => $check:ident;)*) => {$(
        #[test]
        fn $name() {
            $check(ModelDisk::new());
            let directory = tempfile::tempdir().unwrap();
            $check(RealDisk::open(directory.path()).unwrap());
        }
    )*};
}

on_both_disks! {
    appended_records_are_there_after_a_restart => check_restart;
}

fn check_restart<D: Disk>(disk: D) {
    create(&disk);
    let mut replica = open(&disk);
    let mut proposer = Proposer::first(1);
    proposer.lead(&mut replica, START);
    for record in 0..200u8 {
        proposer.write(&vec![record; usize::from(record) * 7]);
    }
    let output = run(&mut replica, proposer.appends());
    assert_eq!(append_response_of(&output).unwrap().flush_lsn, proposer.end());
    drop(replica);

    let replica = open(&disk);
    let snapshot = replica.snapshot();
    assert_eq!((snapshot.flush_lsn, snapshot.write_lsn), (proposer.end(), proposer.end()));
    assert_eq!(snapshot.term, Term(1));
    assert_eq!(snapshot.health, Health::Healthy);
    let _ = (Duration::ZERO, Lsn(0), Read::Nothing, ReadMode::Committed);
}
