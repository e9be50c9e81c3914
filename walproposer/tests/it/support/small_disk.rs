//! [`SmallDisk`]: a small file system in memory, which only root can mount.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A mounted file system. Unmounted when it is dropped.
pub(crate) struct SmallDisk {
    mounted_at: PathBuf,
}

impl SmallDisk {
    /// Mounts one at `path`, which is created. `None`, and a line of output, where mounting is not allowed.
    #[expect(clippy::print_stdout, reason = "a test that did nothing says so")]
    pub(crate) fn mount(path: &Path, bytes: u64) -> Option<Self> {
        fs::create_dir_all(path).unwrap();
        let options = format!("size={bytes},mode=700");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(path).output();
        match mount {
            Ok(mounted) if mounted.status.success() => Some(Self { mounted_at: path.to_owned() }),
            other => {
                println!("skipped: a small file system cannot be mounted here: {other:?}");
                None
            }
        }
    }

    fn ballast(&self) -> PathBuf {
        self.mounted_at.join("ballast")
    }

    /// Leaves no room at all.
    pub(crate) fn fill(&self) {
        let mut ballast = File::create(self.ballast()).unwrap();
        loop {
            match ballast.write_all(&[0; 4096]) {
                Ok(()) => {}
                Err(error) => return assert_eq!(error.kind(), ErrorKind::StorageFull),
            }
        }
    }

    /// Gives the room back.
    pub(crate) fn make_room(&self) {
        fs::remove_file(self.ballast()).unwrap();
    }

    /// Leaves bytes at the end of the last segment of a log, as a torn write may: a recovery has to write that segment anew, and
    /// needs room for it.
    pub(crate) fn leave_a_dead_tail(&self, log: &Path, segment_bytes: u64) {
        let names = fs::read_dir(self.mounted_at.join(log)).unwrap().map(|entry| entry.unwrap().path());
        let is_segment = |path: &PathBuf| path.file_name().is_some_and(|name| name.len() == 24);
        let last = names.filter(is_segment).max().unwrap();
        let last = OpenOptions::new().write(true).open(last).unwrap();
        last.write_all_at(b"dead", segment_bytes - 4).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the safekeeper may not have ended.
        let _ = Command::new("umount").arg("-l").arg(&self.mounted_at).status();
    }
}
