//! A full disk: the program on a small file system of its own, which only root can mount.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;

use consensus::{Dialect, ProtocolVersion};
use nix::sys::signal::Signal;
use postgres_backend::client::ClientError;
use pq_proto::SqlState;
use serde_json::Value;
use tempfile::TempDir;
use wal_types::{Lsn, TenantTimelineId};

use crate::process::{Program, reads_back, timeline_directory};
use crate::support::{Proposer, SEGMENT_BYTES, START, Wal, eventually, timeline, timeline_body};

/// Room for two control files and a dozen segments, one of which is set aside.
const DISK_OPTIONS: &str = "size=1m,mode=700";
const OWN: ProtocolVersion = ProtocolVersion::Holdfast2;

/// A file system under the data directory. Unmounted when it is dropped.
struct SmallDisk {
    directory: TempDir,
}

impl SmallDisk {
    /// `None`, and a line of output, where mounting is not allowed.
    #[expect(clippy::print_stdout, reason = "a test that did nothing says so")]
    fn mount() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data");
        fs::create_dir(&data).unwrap();
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", DISK_OPTIONS, "tmpfs"]).arg(&data).output();
        match mount {
            Ok(mounted) if mounted.status.success() => Some(Self { directory }),
            other => {
                println!("skipped: a small file system cannot be mounted here: {other:?}");
                None
            }
        }
    }

    fn ballast(&self) -> PathBuf {
        self.directory.path().join("data/ballast")
    }

    /// Leaves no room for another segment.
    fn fill(&self) {
        let mut ballast = File::create(self.ballast()).unwrap();
        loop {
            match ballast.write_all(&[0; 4096]) {
                Ok(()) => {}
                Err(error) => return assert_eq!(error.kind(), ErrorKind::StorageFull),
            }
        }
    }

    fn make_room(&self) {
        fs::remove_file(self.ballast()).unwrap();
    }

    /// Something took the room that was set aside.
    fn lose_reserve(&self) {
        fs::remove_dir_all(self.directory.path().join("data/reserve")).unwrap();
    }

    /// Leaves a dead tail, as a torn write may: bytes behind the end, in the last segment of the first timeline. A recovery
    /// has to write that segment anew, and needs room for it.
    fn leave_a_dead_tail(&self) {
        let names = fs::read_dir(timeline_directory(&self.directory, 1)).unwrap();
        let segments = names.map(|entry| entry.unwrap().path()).filter(|path| !path.ends_with("control"));
        // The log ends in the first one; behind it there may be a spare.
        let first = OpenOptions::new().write(true).open(segments.min().unwrap()).unwrap();
        first.write_all_at(b"dead", u64::from(SEGMENT_BYTES) - 4).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the program may not be gone yet.
        let _ = Command::new("umount").arg("-l").arg(self.directory.path().join("data")).status();
    }
}

pub(crate) async fn becomes(program: &Program, id: TenantTimelineId, health: &str) -> Value {
    eventually(health, async || {
        let status = program.at.status(id).await;
        (status["health"] == health).then_some(status)
    })
    .await
}

/// Sends more WAL than there is room for, and waits until the health is `full`.
pub(crate) async fn send_too_much(program: &Program, proposer: &mut Proposer, term: u64, wal: &mut Wal) {
    let mut at = wal.end();
    for piece in wal.grow(3 * SEGMENT_BYTES as usize).chunks(20_000) {
        proposer.send(&proposer.append(term, at, piece, START)).await;
        at = at.advance(piece.len() as u64);
    }
    let status = becomes(program, timeline(1), "full").await;
    assert!(lsn(&status, "flush_lsn") < wal.end(), "{status}");
}

fn lsn(status: &Value, field: &str) -> Lsn {
    status[field].as_str().unwrap().parse().unwrap()
}

/// Votes are granted on a full disk, and appends continue on the same connection when there is room.
#[tokio::test(flavor = "multi_thread")]
async fn full_disk_grants_votes_and_delays_appends() {
    let Some(disk) = SmallDisk::mount() else { return };
    let program = Program::start(disk.directory.path()).await;
    program.at.create(timeline(1), Dialect::Holdfast).await;
    let mut wal = Wal::new();
    let mut first = Proposer::elected(program.at, timeline(1), OWN, &[(1, START)]).await;
    first.push(1, START, &wal.grow(20_000), START).await;

    disk.fill();
    send_too_much(&program, &mut first, 1, &mut wal).await;
    disk.make_room();
    // On the same connection, without a reconnect.
    first.acknowledged(wal.end()).await;
    becomes(&program, timeline(1), "healthy").await;

    disk.fill();
    let acknowledged = wal.end();
    let mut lost = wal.fork(b"of term 1 only");
    first.send(&first.append(1, acknowledged, &lost.bytes[wal.bytes.len()..], START)).await;
    send_too_much(&program, &mut first, 1, &mut lost).await;
    let mut second = Proposer::greeted(program.at, timeline(1), OWN).await;
    let vote = second.vote(2).await;
    assert!(vote.vote_given && vote.flush_lsn >= acknowledged, "{vote:?}");
    let status = becomes(&program, timeline(1), "full").await;
    assert_eq!(status["term"], 2, "{status}");
    program.end(Signal::SIGKILL).await;

    // Whether the timeline opens before there is room depends on the last footers; with room it does.
    let program = Program::start(disk.directory.path()).await;
    disk.make_room();
    let status = becomes(&program, timeline(1), "healthy").await;
    assert_eq!(status["term"], 2, "{status}");
    let mut third = Proposer::elected(program.at, timeline(1), OWN, &[(1, START), (3, acknowledged)]).await;
    third.push(3, acknowledged, &wal.grow(SEGMENT_BYTES as usize), START).await;
    reads_back(&program, &wal).await;
}

/// A recovery that needs space waits for it, and the timeline opens by itself when there is some.
#[tokio::test(flavor = "multi_thread")]
async fn recovery_without_room_waits_for_room() {
    let Some(disk) = SmallDisk::mount() else { return };
    let program = Program::start(disk.directory.path()).await;
    let (waits, votes) = (timeline(1), timeline(2));
    for id in [waits, votes] {
        program.at.create(id, Dialect::Holdfast).await;
    }
    let mut wal = Wal::new();
    let mut proposer = Proposer::elected(program.at, waits, OWN, &[(1, START)]).await;
    // So little that no spare segment is prepared, whose room a recovery would get back.
    proposer.push(1, START, &wal.grow(10_000), START).await;
    has_reserve(&program).await;
    program.end(Signal::SIGKILL).await;
    disk.leave_a_dead_tail();
    disk.lose_reserve();
    disk.fill();

    let program = Program::start(disk.directory.path()).await;
    let status = program.at.status(waits).await;
    assert_eq!(status["health"], "full", "{status}");
    assert!(status["error"].as_str().unwrap().contains("no space left to"), "{status}");
    assert_refused(&program, waits).await;
    let mut other = Proposer::greeted(program.at, votes, OWN).await;
    assert!(other.vote(1).await.vote_given, "the other timeline needs no room");

    disk.make_room();
    let status = becomes(&program, waits, "healthy").await;
    assert_eq!((lsn(&status, "flush_lsn"), &status["term"]), (wal.end(), &Value::from(1)));
    let begin = wal.end();
    let mut proposer = Proposer::elected(program.at, waits, OWN, &[(1, START), (2, begin)]).await;
    proposer.push(2, begin, &wal.grow(SEGMENT_BYTES as usize), START).await;
    reads_back(&program, &wal).await;
    let (status, text) = program.at.post(&timeline_body(waits, Dialect::Holdfast)).await;
    assert_eq!(status, 200, "{text}");
    assert!(
        metrics(&program)
            .await
            .contains("holdfast_safekeeper_timelines_not_served{reason=\"disk_full\"} 0\n")
    );
}

/// A full disk and a crash: the recovery gets room that was set aside, so the safekeeper votes and serves, as often as that
/// happens. When there is room it is set aside again.
#[tokio::test(flavor = "multi_thread")]
async fn reserve_lets_full_safekeeper_vote_after_crash() {
    let Some(disk) = SmallDisk::mount() else { return };
    let mut program = Program::start(disk.directory.path()).await;
    program.at.create(timeline(1), Dialect::Holdfast).await;
    let mut wal = Wal::new();
    let mut proposer = Proposer::elected(program.at, timeline(1), OWN, &[(1, START)]).await;
    // So little that no spare segment is prepared, whose room a recovery would get back.
    let bytes = wal.grow(10_000);
    proposer.push(1, START, &bytes, wal.end()).await;
    has_reserve(&program).await;
    disk.fill();

    for term in 2..5 {
        program.end(Signal::SIGKILL).await;
        disk.leave_a_dead_tail();
        program = Program::start(disk.directory.path()).await;
        becomes(&program, timeline(1), "healthy").await;
        let vote = Proposer::greeted(program.at, timeline(1), OWN).await.vote(term).await;
        assert!(vote.vote_given && vote.flush_lsn == wal.end(), "{vote:?}");
        reads_back(&program, &wal).await;
        // The segment that was replaced has left its room.
        has_reserve(&program).await;
    }
}

/// Waits until the room of a segment is set aside.
async fn has_reserve(program: &Program) {
    eventually("room that is set aside", async || {
        let disk = program.at.get("/v1/status").await["disk"].take();
        (disk["reserve_files"] == 1 && disk["reserve_files_wanted"] == 1).then_some(())
    })
    .await;
}

/// Each request for the timeline is refused with the reason, and as temporary.
async fn assert_refused(program: &Program, id: TenantTimelineId) {
    let push = program.at.connect(id).await.copy_both("START_WAL_PUSH (proto_version 'holdfast-2')").await;
    let status = program.at.connect(id).await.simple_query("TIMELINE_STATUS").await;
    for error in [push.err(), status.err()] {
        let Some(ClientError::Server(response)) = error else { panic!("{error:?}") };
        assert_eq!(response.sqlstate, SqlState::DISK_FULL);
        assert!(response.message.contains("cannot be opened: no space left to"), "{response:?}");
    }
    let (status, text) = program.at.post(&timeline_body(id, Dialect::Holdfast)).await;
    assert_eq!(status, 503, "{text}");
    let metrics = metrics(program).await;
    for line in ["{reason=\"disk_full\"} 1\n", "{reason=\"quarantined\"} 0\n"] {
        let line = format!("holdfast_safekeeper_timelines_not_served{line}");
        assert!(metrics.contains(&line), "{metrics}");
    }
}

async fn metrics(program: &Program) -> String {
    reqwest::get(program.at.url("/metrics")).await.unwrap().text().await.unwrap()
}
