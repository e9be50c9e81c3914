//! Disks that fail once, and full disks.

use std::time::Duration;

use wal_store::{Fault, Health, Input, ModelDisk, ReadError, ReadMode, Rejection, StoreError};
use wal_types::Term;

use crate::common::{
    Proposer, SEGMENT_BYTES, START, all_survives, append_response_of, create, nothing_survives, open, run,
    send, try_open, vote_of,
};
use crate::log_checks::read_log;

/// Room for the control file twice, which a start needs, and so many segments.
fn capacity_bytes(segments: u64) -> Option<u64> {
    Some(2 * 64 * 1024 + segments * (SEGMENT_BYTES + 4096))
}

/// After a failed sync the replica recovers from the disk; what the sync lost is not acknowledged.
#[test]
fn failed_sync_acknowledges_nothing_from_memory() {
    let disk = ModelDisk::new();
    create(&disk);
    let mut replica = open(&disk);
    let mut proposer = Proposer::first(1);
    proposer.lead(&mut replica, START);
    proposer.write(&[1; 600]);
    send(&mut replica, proposer.appends());
    let acked = proposer.end();
    proposer.write(&[2; 600]);
    disk.fail(Fault::Sync, 0);
    let bystander = Proposer::first(9);
    let mut batch = vec![bystander.greet()];
    batch.extend(proposer.appends());
    let output = replica.run(batch);
    assert!(output.replies.is_empty(), "nothing of the batch is acknowledged: {output:?}");
    assert_eq!(output.refused.len(), 2, "every connection has to come back");
    assert!(output.refused.iter().all(|(_, why)| matches!(why, Rejection::Disk(_))));
    assert_eq!(replica.snapshot().health, Health::Failed);

    // The replica recovers. What it then reports is on the disk, not only in the page cache.
    let next = Proposer::first(2);
    let output = run(&mut replica, vec![next.greet(), next.vote()]);
    assert_eq!(replica.snapshot().health, Health::Healthy);
    let told = vote_of(&output).unwrap().flush_lsn;
    assert!(told >= acked);
    let disk = disk.crash(&mut nothing_survives);
    let replica = open(&disk);
    assert_eq!(replica.snapshot().flush_lsn, told);
    assert!(proposer.log.starts_with(&read_log(&replica)));
}

/// What the disk holds is unknown until a recovery has read it, so readers get nothing of it meanwhile, and read on afterwards.
#[test]
fn failed_log_serves_no_reader() {
    let disk = ModelDisk::new();
    create(&disk);
    let mut replica = open(&disk);
    let mut proposer = Proposer::first(1);
    proposer.lead(&mut replica, START);
    proposer.write(&[1; 600]);
    send(&mut replica, proposer.appends());
    let term = replica.snapshot().term;
    let mut readers = [ReadMode::Committed, ReadMode::Flushed(term)].map(|mode| replica.reader(mode));

    disk.fail(Fault::Sync, 0);
    proposer.write(&[2; 600]);
    let _ = replica.run(proposer.appends());
    assert_eq!(replica.snapshot().health, Health::Failed);
    for reader in &mut readers {
        let found = reader.read(START, &mut [0; 100]);
        assert!(matches!(found, Err(ReadError::Failed)), "{found:?}");
    }

    let _ = replica.run_tick(Duration::from_secs(1));
    assert_eq!(replica.snapshot().health, Health::Healthy);
    for reader in &mut readers {
        assert!(reader.read(START, &mut [0; 100]).is_ok());
    }
}

#[test]
fn failure_refuses_every_connection_before_recovery() {
    for second in 0..2 {
        let disk = ModelDisk::new();
        create(&disk);
        let mut replica = open(&disk);
        let mut proposer = Proposer::first(1);
        proposer.lead(&mut replica, START);
        proposer.write(b"opens the segment");
        send(&mut replica, proposer.appends());
        proposer.write(&[1; 600]);
        disk.fail(Fault::Write, 0);
        let bystander = Proposer::first(9);
        let mut batch = vec![bystander.greet()];
        batch.extend(proposer.appends());
        replica.write(batch);
        let output = if second == 0 {
            replica.write(vec![Proposer::first(10).greet()]);
            replica.sync()
        } else {
            replica.run_tick(Duration::from_secs(1))
        };
        assert!(output.replies.is_empty(), "{output:?}");
        assert_eq!(output.refused.len(), 3 - second, "{output:?}");
        send(&mut replica, vec![proposer.greet()]);
        assert_eq!(replica.snapshot().health, Health::Healthy);
    }
}

#[test]
fn failed_recovery_is_retried_later() {
    let disk = ModelDisk::new();
    create(&disk);
    let mut replica = open(&disk);
    let mut proposer = Proposer::first(1);
    proposer.lead(&mut replica, START);
    proposer.write(&[1; 600]);
    send(&mut replica, proposer.appends());
    proposer.write(&[1; 600]);
    disk.fail(Fault::Sync, 0);
    let _ = replica.run(proposer.appends());
    disk.fail(Fault::SyncDir, 0);
    let output = replica.run(vec![proposer.greet()]);
    assert!(matches!(&output.refused[..], [(_, Rejection::Disk(_))]), "{output:?}");
    // Not at once: reconnecting proposers must not keep a broken disk busy.
    let output = replica.run(vec![proposer.greet()]);
    assert!(matches!(&output.refused[..], [(_, Rejection::Disk(_))]), "{output:?}");
    let _ = replica.run_tick(Duration::from_secs(5));
    assert_eq!(replica.snapshot().health, Health::Healthy);
    send(&mut replica, vec![proposer.greet()]);
}

/// A vote that only the page cache holds survives a torn write of the next one.
#[test]
fn vote_in_page_cache_only_survives() {
    // The second slot of the control file is not on the disk, the replica recovers, and the next vote is torn.
    for sync in 0..2 {
        for torn in 0..8 {
            let disk = ModelDisk::new();
            create(&disk);
            let mut replica = open(&disk);
            disk.fail(Fault::Sync, sync);
            let five = Proposer::first(5);
            let _ = replica.run(vec![five.greet(), five.vote()]);
            let output = run(&mut replica, vec![five.greet(), five.vote()]);
            assert!(vote_of(&output).is_some_and(|vote| vote.vote_given));
            disk.crash_after(torn);
            let six = Proposer::first(6);
            let _ = replica.run(vec![six.greet(), six.vote()]);
            for survives in [nothing_survives, all_survives] {
                let disk = disk.fork().crash(&mut { survives });
                assert!(open(&disk).snapshot().term >= Term(5), "sync {sync}, step {torn}");
            }
        }
    }
}

/// A full disk leaves appends undecided, lets votes pass, and is left as soon as there is room.
#[test]
fn full_disk_defers_appends_and_grants_votes() {
    let disk = ModelDisk::new();
    create(&disk);
    let mut replica = open(&disk);
    let mut proposer = Proposer::first(1);
    proposer.lead(&mut replica, START);
    proposer.write(&[1; 10_000]);
    send(&mut replica, proposer.appends());
    let (acked, log) = (proposer.end(), proposer.log.clone());
    disk.set_capacity_bytes(Some(disk.used_bytes()));

    proposer.write(&[2; 10_000]);
    let append = proposer.appends().remove(0);
    let heartbeat = proposer.append_range(proposer.end(), proposer.end());
    let output = replica.run(vec![append.clone(), heartbeat.clone()]);
    assert_eq!(output.undecided, [append.clone(), heartbeat], "in order, and what comes behind it");
    assert!(output.refused.is_empty());
    assert_eq!(append_response_of(&output).unwrap().flush_lsn, acked, "an unchanged response");
    assert_eq!(output.replies.len(), 1);
    assert_eq!(replica.snapshot().health, Health::Full);
    assert_eq!(
        disk.used_bytes(),
        disk.used_bytes().min(capacity_bytes(1).unwrap()),
        "nothing is left behind"
    );

    // A vote passes, and says what is durable.
    let output = run(&mut replica, vec![Proposer::first(2).greet(), Proposer::first(2).vote()]);
    assert_eq!(vote_of(&output).unwrap().flush_lsn, acked);
    assert_eq!(replica.snapshot().health, Health::Full);
    // The append is now one of a proposer that was deposed: it learns that, room or not.
    let output = run(&mut replica, vec![append]);
    assert_eq!(append_response_of(&output).unwrap().term, Term(2));
    assert_eq!(read_log(&replica), log);

    let mut third = Proposer::after(&proposer, 3, 1);
    third.lead(&mut replica, acked);
    third.write(&[3; 10_000]);
    let append = third.appends().remove(0);
    let output = replica.run(vec![append.clone()]);
    assert_eq!(output.undecided, [append]);
    disk.set_capacity_bytes(None);
    send(&mut replica, output.undecided);
    assert_eq!(replica.snapshot().health, Health::Healthy);
    assert_eq!(replica.snapshot().flush_lsn, third.end());
    assert_eq!(read_log(&replica), third.log);
}

#[test]
fn disconnect_drops_undecided_messages() {
    let disk = ModelDisk::new();
    create(&disk);
    let mut replica = open(&disk);
    let mut proposer = Proposer::first(1);
    proposer.lead(&mut replica, START);
    proposer.write(&[1; 10_000]);
    disk.set_capacity_bytes(Some(disk.used_bytes()));
    let mut batch = proposer.appends();
    batch.push((proposer.connection, Input::Disconnected));
    let output = replica.run(batch);
    assert!(output.undecided.is_empty() && output.refused.is_empty(), "{output:?}");
}

#[test]
fn full_disk_refuses_strangers_as_ever() {
    let disk = ModelDisk::new();
    create(&disk);
    let mut replica = open(&disk);
    let mut proposer = Proposer::first(1);
    proposer.lead(&mut replica, START);
    proposer.write(&[1; 10_000]);
    disk.set_capacity_bytes(Some(disk.used_bytes()));
    let stranger = Proposer { connection: consensus::ConnectionId(77), ..proposer.clone() };
    let output = replica.run(vec![stranger.greet(), stranger.append_range(START, stranger.end())]);
    assert!(matches!(&output.refused[..], [(_, Rejection::Protocol(_))]), "{output:?}");
}

/// A truncation on a full disk waits for room, or takes the spare segment.
#[test]
fn truncation_on_full_disk_uses_the_spare() {
    for with_spare in [false, true] {
        let disk = ModelDisk::new();
        create(&disk);
        let mut replica = open(&disk);
        let mut proposer = Proposer::first(1);
        proposer.lead(&mut replica, START);
        for _ in 0..6 {
            proposer.write(&[1; 2000]);
        }
        send(&mut replica, proposer.appends());
        if with_spare {
            let _ = replica.run_tick(Duration::from_secs(1));
        }
        disk.set_capacity_bytes(Some(disk.used_bytes()));
        let next = Proposer::after(&proposer, 2, 3);
        send(&mut replica, vec![next.greet(), next.vote()]);
        let elected = next.elected(next.end());
        let output = replica.run(vec![elected.clone()]);
        if with_spare {
            assert!(output.undecided.is_empty() && output.refused.is_empty(), "{output:?}");
        } else {
            assert_eq!(output.undecided, [elected]);
            assert_eq!(read_log(&replica), proposer.log, "nothing was decided");
            disk.set_capacity_bytes(None);
            send(&mut replica, output.undecided);
        }
        assert_eq!(read_log(&replica), next.log);
        drop(replica);
        disk.set_capacity_bytes(None);
        assert_eq!(open(&disk).snapshot().flush_lsn, next.end());
    }
}

#[test]
fn open_on_full_disk_fails_temporarily() {
    let disk = ModelDisk::new();
    create(&disk);
    let mut replica = open(&disk);
    let mut proposer = Proposer::first(1);
    proposer.lead(&mut replica, START);
    proposer.write(&[1; 3000]);
    send(&mut replica, proposer.appends());
    drop(replica);
    disk.set_capacity_bytes(Some(disk.used_bytes()));
    assert!(matches!(try_open(&disk), Err(StoreError::Full { .. })));
    disk.set_capacity_bytes(None);
    assert_eq!(read_log(&open(&disk)), proposer.log);
}

/// Room that was set aside lets a log open on a full disk, and truncate, as often as it is killed. New segments wait until
/// the room is set aside again.
#[test]
fn reserve_opens_and_truncates_on_full_disk() {
    let disk = ModelDisk::new();
    create(&disk);
    disk.set_reserve(1);
    let mut replica = open(&disk);
    let mut proposer = Proposer::first(1);
    proposer.lead(&mut replica, START);
    proposer.write(&[1; 3000]);
    send(&mut replica, proposer.appends());
    disk.set_capacity_bytes(Some(disk.used_bytes()));
    let mut handle = disk.clone();
    for term in 2..5 {
        // Bytes that no footer covers, so that the recovery writes their segment to a new file.
        let next = Proposer::after(&proposer, term, proposer.ends.len() - 1);
        send(&mut replica, vec![next.greet(), next.vote(), next.elected(next.end())]);
        proposer = next;
        proposer.write(&[term as u8; 300]);
        send(&mut replica, proposer.appends());
        drop(replica);
        handle = handle.kill();
        replica = open(&handle);
        assert_eq!(read_log(&replica), proposer.log);
    }

    // A truncation inside of the log.
    let shorter = Proposer::after(&proposer, 9, 1);
    send(&mut replica, vec![shorter.greet(), shorter.vote(), shorter.elected(shorter.end())]);
    assert_eq!(read_log(&replica), shorter.log);
    let mut leader = shorter;
    leader.write(&[7; 2 * SEGMENT_BYTES as usize]);
    let output = replica.run(leader.appends());
    assert!(!output.undecided.is_empty(), "the room is for recoveries");
    handle.refill_reserve();
    handle.set_capacity_bytes(None);
    send(&mut replica, output.undecided);
    assert_eq!(read_log(&replica), leader.log);
}

/// A footer that only the page cache holds, and then a torn one, are no damage.
#[test]
fn footer_in_page_cache_only_is_rewritten() {
    for sync in 0..12 {
        for write in 0..12 {
            let disk = ModelDisk::new();
            create(&disk);
            let mut replica = open(&disk);
            let mut proposer = Proposer::first(1);
            proposer.lead(&mut replica, START);
            proposer.write(&[1; 600]);
            send(&mut replica, proposer.appends());
            drop(replica);
            // Two starts that fail, and then the power does.
            disk.fail(Fault::Sync, sync);
            let _ = try_open(&disk);
            disk.fail(Fault::Write, write);
            let _ = try_open(&disk);
            let disk = disk.crash(&mut all_survives);
            assert_eq!(open(&disk).snapshot().flush_lsn, proposer.end(), "sync {sync}, write {write}");
        }
    }
}
