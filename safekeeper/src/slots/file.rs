//! [`SlotFile`]: the file `slots` of a timeline: two frames, written one after the other, each synced.
//!
//! The file appears with the first slot. It is written whole under another name and renamed, so it never has another
//! length. Called on blocking threads only.

use std::io;

use thiserror::Error;
use wal_store::{Disk, DiskFile};

use super::codec::{FRAME_BYTES, Frames, decode_frames, encode_frame};
use super::slot_set::SlotSet;

const NAME: &str = "slots";
/// Name of a new file until it is whole. A recovery removes it.
const NEW: &str = "slots.unfinished";

/// Why the file cannot be used.
#[derive(Debug, Error)]
pub(super) enum SlotFileError {
    #[error("cannot read the file slots: {0}")]
    Io(#[from] io::Error),
    #[error("both frames of the file slots are damaged")]
    Damaged,
    #[error("the file slots has format {0}, which this release does not read")]
    OtherFormat(u32),
}

/// The file, which need not exist yet.
#[derive(Debug)]
pub(super) struct SlotFile<D> {
    disk: D,
    /// Sequence number of the newest frame; 0 without a file.
    sequence: u64,
}

impl<D: Disk> SlotFile<D> {
    /// The file of a timeline, and the slots in it.
    pub(super) fn load(disk: D) -> Result<(Self, SlotSet), SlotFileError> {
        let file = match disk.open(NAME) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok((Self { disk, sequence: 0 }, SlotSet::default()));
            }
            Err(error) => return Err(error.into()),
        };
        if file.len()? != 2 * FRAME_BYTES as u64 {
            return Err(SlotFileError::Damaged);
        }
        let mut bytes = vec![0; 2 * FRAME_BYTES];
        file.read_at(0, &mut bytes)?;
        match decode_frames(&bytes) {
            Frames::Damaged => Err(SlotFileError::Damaged),
            Frames::OtherFormat(format) => Err(SlotFileError::OtherFormat(format)),
            Frames::Newest { sequence, set, is_settled } => {
                let mut loaded = Self { disk, sequence };
                if !is_settled {
                    // A write was interrupted. What was read may be in the page cache only, so it is written again.
                    loaded.store(&set)?;
                }
                Ok((loaded, set))
            }
        }
    }

    /// Makes the slots durable. After an error the file holds the old or the new ones, and the next call writes all anew.
    pub(super) fn store(&mut self, set: &SlotSet) -> io::Result<()> {
        let is_first = self.sequence == 0;
        self.sequence += 1;
        let frame = encode_frame(self.sequence, set);
        let stored = if is_first { self.create(&frame) } else { self.rewrite(&frame) };
        if stored.is_err() && is_first {
            self.sequence = 0;
        }
        stored
    }

    /// One frame after the other: while one is written the other is whole.
    fn rewrite(&self, frame: &[u8]) -> io::Result<()> {
        let file = self.disk.open(NAME)?;
        for offset in [0, FRAME_BYTES as u64] {
            file.write_at(offset, frame)?;
            file.sync_data()?;
        }
        Ok(())
    }

    fn create(&self, frame: &[u8]) -> io::Result<()> {
        match self.disk.unlink(NEW) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut bytes = frame.to_vec();
        bytes.resize(FRAME_BYTES, 0);
        bytes.extend_from_within(..);
        let file = self.disk.create(NEW)?;
        file.write_at(0, &bytes)?;
        file.sync_data()?;
        self.disk.rename(NEW, NAME)?;
        self.disk.sync_dir()
    }
}

#[cfg(test)]
mod tests {
    use super::super::slot_set::example;
    use super::*;
    use wal_store::ModelDisk;

    fn set(restart_lsn: u64) -> SlotSet {
        let mut set = SlotSet::default();
        set.insert(example("standby", 1, restart_lsn));
        set
    }

    fn load(disk: &ModelDisk) -> SlotSet {
        SlotFile::load(disk.clone()).unwrap().1
    }

    /// Keeps some of what was not synced, another part for each seed.
    fn crash(disk: &ModelDisk, seed: u64) -> ModelDisk {
        let mut state = seed;
        disk.crash(&mut || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state >> 33
        })
    }

    #[test]
    fn stored_slots_survive_a_crash() {
        let mut disk = ModelDisk::new();
        assert_eq!(load(&disk), SlotSet::default());
        for restart_lsn in [100, 200, 300] {
            let (mut file, _) = SlotFile::load(disk.clone()).unwrap();
            file.store(&set(restart_lsn)).unwrap();
            disk = crash(&disk, restart_lsn);
            assert_eq!(load(&disk), set(restart_lsn));
        }
    }

    /// Wherever a crash interrupts it, the old slots or the new ones are left.
    #[test]
    fn interrupted_store_leaves_old_or_new() {
        for operations in 0..8 {
            for seed in 0..20 {
                let disk = ModelDisk::new();
                let (mut file, _) = SlotFile::load(disk.clone()).unwrap();
                file.store(&set(100)).unwrap();
                disk.crash_after(operations);
                let is_stored = file.store(&set(200)).is_ok();
                let disk = crash(&disk, seed);
                let found = load(&disk);
                assert!(found == set(200) || (found == set(100) && !is_stored), "{operations}: {found:?}");
                assert_eq!(load(&crash(&disk, seed + 1)), found, "what was read is durable");
            }
        }
    }
}
