//! Bytes that no checksum covers, or not yet: the partial record of a crashed server, the rest of a switched segment, a
//! record that is not complete.

use consensus::{ConnectionId, Refusal};
use wal_store::{Health, Input, ModelDisk, Rejection, Replica};

use crate::common::{Proposer, SEGMENT_BYTES, START, create, nothing_survives, open, send};
use crate::damaged_log::{FOOTER_SLOT_BYTES, segment_name};

/// An empty log and its leader.
fn led() -> (ModelDisk, Replica<ModelDisk>, Proposer) {
    let disk = ModelDisk::new();
    create(&disk);
    let mut replica = open(&disk);
    let mut proposer = Proposer::first(1);
    proposer.lead(&mut replica, START);
    (disk, replica, proposer)
}

/// A partial record and the rest of a switched segment are under no checksum: only a footer says that they are complete,
/// and one of its two slots may rot.
#[test]
fn one_rotten_footer_hides_no_unchecked_wal() {
    for is_switch in [false, true] {
        let (disk, mut replica, mut proposer) = led();
        proposer.write(&[1; 2000]);
        if is_switch {
            proposer.switch()
        } else {
            proposer.abort()
        }
        for append in proposer.appends() {
            send(&mut replica, vec![append]);
        }
        assert_eq!(replica.snapshot().flush_lsn, proposer.end());
        drop(replica);
        let disk = disk.crash(&mut nothing_survives);
        let last = segment_name((proposer.end().0 - 1) / SEGMENT_BYTES);
        for slot in 0..2 {
            let disk = disk.fork();
            disk.flip_bit(&last, (SEGMENT_BYTES as usize + slot * FOOTER_SLOT_BYTES + 84) * 8).unwrap();
            let snapshot = open(&disk).snapshot();
            let seen = (snapshot.health, snapshot.flush_lsn);
            assert_eq!(seen, (Health::Healthy, proposer.end()), "switch {is_switch}, slot {slot}");
        }
    }
}

/// A switched segment is complete, and the record behind it is partial. That this record waits for more WAL must not
/// delay the footer that covers the switch.
#[test]
fn partial_record_behind_a_switch_delays_no_cover() {
    let (disk, mut replica, mut proposer) = led();
    proposer.write(&[1; 2000]);
    proposer.switch();
    proposer.write(&[2; 100]);
    let acknowledged = proposer.end();
    proposer.abort();
    let behind_page_header = acknowledged.align_up(8192).advance(24);
    send(&mut replica, vec![proposer.append_range(START, behind_page_header)]);
    assert_eq!(replica.snapshot().flush_lsn, acknowledged);
    drop(replica);
    let snapshot = open(&disk.crash(&mut nothing_survives)).snapshot();
    assert_eq!((snapshot.health, snapshot.flush_lsn), (Health::Healthy, acknowledged));
}

/// A donor's disk is rotten, and the leader passes on what it reads. The part of a record that was written before its
/// checksum arrived must not stay: the good bytes of another donor would be skipped, as if they were stored already.
#[test]
fn rotten_partial_record_is_replaced_on_reconnect() {
    let (disk, mut replica, mut proposer) = led();
    proposer.write(&[1; 500]);
    let good = proposer.end();
    for append in proposer.appends() {
        send(&mut replica, vec![append]);
    }
    proposer.write(&[2; 6000]);
    let partial_end = good.advance(3000);
    let mut rotten = proposer.clone();
    rotten.log[good.advance(1000).bytes_since(START) as usize] ^= 4;
    send(&mut replica, vec![rotten.append_range(good, partial_end)]);
    let output = replica.run(vec![proposer.append_range(partial_end, proposer.end())]);
    assert!(matches!(&output.refused[..], [(_, Rejection::Protocol(Refusal::NotWal(_)))]), "{output:?}");
    assert_eq!(replica.snapshot().flush_lsn, good);
    let _ = replica.run(vec![(proposer.connection, Input::Disconnected)]);

    proposer.connection = ConnectionId(2);
    send(&mut replica, vec![proposer.greet(), proposer.elected(good)]);
    assert_eq!(replica.snapshot().flush_lsn, good, "nothing that was acknowledged goes with it");
    send(&mut replica, vec![proposer.append_range(good, proposer.end())]);
    assert_eq!(replica.snapshot().flush_lsn, proposer.end());
    drop(replica);
    assert_eq!(open(&disk.crash(&mut nothing_survives)).snapshot().flush_lsn, proposer.end());
}
