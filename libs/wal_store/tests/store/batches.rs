//! Batches of appends: shared syncs, several replicas on one disk, and the next segment in time.

use std::time::Duration;

use wal_store::{Disk, ModelDisk};

use crate::common::{Proposer, START, append_response_of, create, open, run, send};

/// The appends of a batch share one sync, and each connection gets one response.
#[test]
fn batch_of_appends_shares_one_sync() {
    let disk = ModelDisk::new();
    create(&disk);
    let mut replica = open(&disk);
    let mut proposer = Proposer::first(1);
    proposer.lead(&mut replica, START);
    proposer.write(b"opens the segment");
    send(&mut replica, proposer.appends());
    for _ in 0..100 {
        proposer.write(&[1; 60]);
    }
    let before = disk.operations();
    let batch = proposer.appends_of(101);
    let appends = batch.len() as u64;
    let output = run(&mut replica, batch);
    // Each append is a write; then the footer, and the sync.
    assert_eq!(disk.operations() - before, appends + 2);
    assert_eq!(output.replies.len(), 1);
    let before = disk.operations();
    let output = run(&mut replica, vec![proposer.heartbeat()]);
    assert_eq!((output.replies.len(), disk.operations() - before), (1, 0), "nothing to sync, but an answer");
}

/// Several replicas may write before the first one syncs: nothing is durable or acknowledged in between.
#[test]
fn replicas_write_before_the_first_syncs() {
    let disks = [ModelDisk::new(), ModelDisk::new(), ModelDisk::new()];
    let mut writers: Vec<_> = disks
        .iter()
        .map(|disk| {
            create(disk);
            let (mut replica, mut proposer) = (open(disk), Proposer::first(1));
            proposer.lead(&mut replica, START);
            proposer.write(b"opens the segment");
            send(&mut replica, proposer.appends());
            proposer.write(&[1; 600]);
            (replica, proposer)
        })
        .collect();
    for (replica, proposer) in &mut writers {
        replica.write(proposer.appends_of(100));
        // Neither durable nor told.
        assert_eq!(replica.snapshot().flush_lsn, proposer.ends[1]);
    }
    for (disk, (_, proposer)) in disks.iter().zip(&writers) {
        let disk = disk.fork().crash(&mut crate::common::nothing_survives);
        assert_eq!(open(&disk).snapshot().flush_lsn, proposer.ends[1]);
    }
    for (replica, proposer) in &mut writers {
        let output = replica.sync();
        assert_eq!((output.wal_syncs, output.replies.len()), (1, 1));
        assert_eq!(append_response_of(&output).unwrap().flush_lsn, proposer.end());
    }
}

#[test]
fn tick_preallocates_the_next_segment() {
    let disk = ModelDisk::new();
    create(&disk);
    let mut replica = open(&disk);
    let mut proposer = Proposer::first(1);
    proposer.lead(&mut replica, START);
    let segments = || disk.list().unwrap().len() - 1;
    proposer.write(&[1; 3000]);
    send(&mut replica, proposer.appends());
    let _ = replica.run_tick(Duration::from_secs(1));
    assert_eq!(segments(), 1, "node 1 begins at 30 %");
    proposer.write(&[1; 6000]);
    send(&mut replica, proposer.appends());
    assert!(!replica.snapshot().receives_wal || segments() == 1);
    let _ = replica.run_tick(Duration::from_millis(1100));
    assert_eq!(segments(), 2);
    assert!(replica.snapshot().receives_wal);
    let _ = replica.run_tick(Duration::from_secs(9));
    assert!(!replica.snapshot().receives_wal);
}
