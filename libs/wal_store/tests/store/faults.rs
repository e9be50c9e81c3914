//! A disk that fails once, and one that is full.

use std::time::Duration;

use wal_store::{Fault, Health, Input, ModelDisk, Rejection, StoreError};
use wal_types::Term;

use crate::common::{
    Proposer, SEGMENT_BYTES, START, all_survives, append_response_of, create, nothing_survives, open, run,
    send, try_open, vote_of,
};
use crate::world::read_log;

/// Room for the control file twice, which a start needs, and so many segments.
fn capacity_bytes(segments: u64) -> Option<u64> {
    Some(2 * 64 * 1024 + segments * (SEGMENT_BYTES + 4096))
}

#[test]
fn a_failed_sync_poisons_and_what_it_lost_is_not_acknowledged_as_if_it_were_there() {
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
    assert!(output.replies.is_empty(), "nothing of the batch is told: {output:?}");
    assert_eq!(output.refused.len(), 2, "everybody has to come back");
    assert!(output.refused.iter().all(|(_, why)| matches!(why, Rejection::Disk(_))));
    assert_eq!(replica.snapshot().health, Health::Failed);

    // The replica recovers by itself. Whatever it then says is on the disk, not only in the page cache.
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

#[test]
fn everybody_hears_of_a_failure_before_the_replica_recovers_from_it() {
    for second in 0..2 {
        let disk = ModelDisk::new();
        create(&disk);
        let mut replica = open(&disk);
        let mut proposer = Proposer::first(1);
        proposer.lead(&mut replica, START);
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
            replica.tick(Duration::from_secs(1))
        };
        assert!(output.replies.is_empty(), "{output:?}");
        assert_eq!(output.refused.len(), 3 - second, "{output:?}");
        send(&mut replica, vec![proposer.greet()]);
        assert_eq!(replica.snapshot().health, Health::Healthy);
    }
}

#[test]
fn a_recovery_that_fails_is_tried_again_later() {
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
    // Not at once: a broken disk must not be kept busy by everybody who asks.
    let output = replica.run(vec![proposer.greet()]);
    assert!(matches!(&output.refused[..], [(_, Rejection::Disk(_))]), "{output:?}");
    let _ = replica.tick(Duration::from_secs(5));
    assert_eq!(replica.snapshot().health, Health::Healthy);
    send(&mut replica, vec![proposer.greet()]);
}

#[test]
fn a_vote_that_only_the_page_cache_knows_survives_the_next_one() {
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

#[test]
fn a_full_disk_leaves_an_append_undecided_votes_pass_and_it_recovers_by_itself() {
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
fn an_undecided_message_of_a_connection_that_went_away_is_void() {
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
fn a_stranger_on_a_full_disk_is_refused_like_any_stranger() {
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

#[test]
fn a_cut_on_a_full_disk_waits_for_room_or_takes_the_spare_segment() {
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
            let _ = replica.tick(Duration::from_secs(1));
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
fn a_start_without_room_is_an_error_that_goes_away() {
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

#[test]
fn a_footer_that_only_the_page_cache_knows_and_a_torn_one_are_no_damage() {
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
