//! A full ext4: a file system in a file, mounted by a loop device, which only root can do. `full_disk` has the same on a
//! file system in memory, where room is taken and given back at once.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

use consensus::{Dialect, ProtocolVersion};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::full_disk::{becomes, send_too_much};
use crate::process::{Program, reads_back};
use crate::support::{Proposer, SEGMENT_BYTES, START, Wal, timeline};

const IMAGE_BYTES: u64 = 8 << 20;
/// `-m 0`: no blocks that only root may use.
const MKFS_OPTIONS: [&str; 4] = ["-q", "-F", "-m", "0"];

/// A file system under the data directory. Unmounted when it is dropped.
struct LoopDisk {
    directory: TempDir,
}

impl LoopDisk {
    /// `None`, and a line of output, where mounting is not allowed.
    #[expect(clippy::print_stdout, reason = "a test that did nothing says so")]
    fn mount() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let (image, data) = (directory.path().join("image"), directory.path().join("data"));
        File::create(&image).unwrap().set_len(IMAGE_BYTES).unwrap();
        fs::create_dir(&data).unwrap();
        let made = Command::new("mkfs.ext4").args(MKFS_OPTIONS).arg(&image).output();
        let mounted = Command::new("mount").args(["-o", "loop"]).args([&image, &data]).output();
        match (made, mounted) {
            (Ok(made), Ok(mounted)) if made.status.success() && mounted.status.success() => {
                Some(Self { directory })
            }
            other => {
                println!("skipped: ext4 cannot be mounted from a file here: {other:?}");
                None
            }
        }
    }

    fn ballast(&self) -> PathBuf {
        self.directory.path().join("data/ballast")
    }

    /// Leaves no room for another segment. ext4 promises room when a file is written and takes it when the file is synced.
    fn fill(&self) {
        let mut ballast = File::create(self.ballast()).unwrap();
        while ballast.write_all(&[0; 1024]).is_ok() {}
        let _ = ballast.sync_all();
    }

    fn make_room(&self) {
        fs::remove_file(self.ballast()).unwrap();
        // The journal gives the blocks back when it is written.
        File::open(self.directory.path().join("data")).unwrap().sync_all().unwrap();
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        // Lazily: the program may not be gone yet.
        let _ = Command::new("umount").arg("-l").arg(self.directory.path().join("data")).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn full_ext4_delays_appends_and_loses_nothing() {
    let Some(disk) = LoopDisk::mount() else { return };
    let program = Program::start(disk.directory.path()).await;
    program.at.create(timeline(1), Dialect::Holdfast).await;
    let (own, mut wal) = (ProtocolVersion::Holdfast2, Wal::new());
    let mut proposer = Proposer::elected(program.at, timeline(1), own, &[(1, START)]).await;
    proposer.push(1, START, &wal.grow(20_000), START).await;

    for _ in 0..2 {
        disk.fill();
        send_too_much(&program, &mut proposer, 1, &mut wal).await;
        disk.make_room();
        // On the same connection, without a reconnect.
        proposer.acknowledged(wal.end()).await;
        becomes(&program, timeline(1), "healthy").await;
    }

    disk.fill();
    let acknowledged = wal.end();
    let mut lost = wal.fork(b"of term 1 only");
    proposer.send(&proposer.append(1, acknowledged, &lost.bytes[wal.bytes.len()..], START)).await;
    send_too_much(&program, &mut proposer, 1, &mut lost).await;
    program.end(Signal::SIGKILL).await;
    let program = Program::start(disk.directory.path()).await;
    disk.make_room();
    becomes(&program, timeline(1), "healthy").await;
    let mut next = Proposer::elected(program.at, timeline(1), own, &[(1, START), (2, acknowledged)]).await;
    next.push(2, acknowledged, &wal.grow(SEGMENT_BYTES as usize), START).await;
    reads_back(&program, &wal).await;
}
