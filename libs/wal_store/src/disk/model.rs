//! [`ModelDisk`]: a disk in memory that does what disks do to programs that trust them.
//!
//! It forgets what was not synced, in units of a sector and a name, each for itself; it fails a read, a write or a
//! sync when told to; it fills up; its bits rot; it stops working after a number of operations, so that a test can
//! crash a program at every step. A failed sync leaves the written bytes readable and never on the disk.
//!
//! The same calls and the same random numbers give the same disk. For tests and the simulation only.

use std::io;
use std::sync::{Arc, Mutex};

use super::medium::{Names, SharedInode, lock};
use super::{Disk, DiskFile};

/// What goes wrong once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A read fails.
    Read,
    /// A write fails in its middle.
    Write,
    /// A file's sync fails: what it should have made durable is lost, but can be read.
    Sync,
    /// A directory's sync fails; its changes stay to be synced.
    SyncDir,
}

/// One directory on a disk in memory. A clone is the same directory; after a crash or a kill the handles from before
/// are dead, and the one that was returned is alive.
#[derive(Clone, Debug)]
pub struct ModelDisk {
    medium: Arc<Mutex<Medium>>,
    incarnation: u64,
}

/// An open file of a [`ModelDisk`].
#[derive(Debug)]
pub struct ModelFile {
    disk: ModelDisk,
    inode: SharedInode,
}

#[derive(Debug, Default)]
struct Medium {
    incarnation: u64,
    names: Names,
    /// Each with the number of operations of its kind that still succeed.
    faults: Vec<(Fault, u64)>,
    /// Faults wait.
    faults_paused: bool,
    operations: u64,
    crash_at: Option<u64>,
    capacity_bytes: Option<u64>,
}

impl Default for ModelDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl ModelDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self { medium: Arc::default(), incarnation: 0 }
    }

    /// A power failure: what was not synced is kept or lost as `random` says. Ends all that was set to go wrong, but
    /// the capacity.
    #[must_use]
    pub fn crash(&self, random: &mut dyn FnMut() -> u64) -> Self {
        lock(&self.medium).names.crash(random);
        self.kill()
    }

    /// The process ends, the machine does not: what was written stays readable, and is not durable for that. Ends all
    /// that was set to go wrong, but the capacity.
    #[must_use]
    pub fn kill(&self) -> Self {
        let mut medium = lock(&self.medium);
        medium.incarnation += 1;
        medium.faults.clear();
        medium.crash_at = None;
        Self { medium: self.medium.clone(), incarnation: medium.incarnation }
    }

    /// A copy that goes its own way, with nothing set to go wrong.
    #[must_use]
    pub fn fork(&self) -> Self {
        let medium = lock(&self.medium);
        let capacity_bytes = medium.capacity_bytes;
        let copy = Medium { names: medium.names.fork(), capacity_bytes, ..Medium::default() };
        Self { medium: Arc::new(Mutex::new(copy)), incarnation: 0 }
    }

    /// Lets one operation fail, after so many of the same kind that succeed.
    pub fn fail(&self, fault: Fault, after: u64) {
        lock(&self.medium).faults.push((fault, after));
    }

    /// While it is set, what was set to fail waits: somebody looks on who is no part of the program.
    pub fn pause_faults(&self, faults_paused: bool) {
        lock(&self.medium).faults_paused = faults_paused;
    }

    /// Lets every operation fail once so many that change something have succeeded, counted from now.
    pub fn crash_after(&self, operations: u64) {
        let mut medium = lock(&self.medium);
        medium.crash_at = Some(medium.operations + operations);
    }

    /// True when [`ModelDisk::crash_after`] has come to pass.
    pub fn has_crashed(&self) -> bool {
        let medium = lock(&self.medium);
        medium.crash_at.is_some_and(|limit| medium.operations >= limit)
    }

    /// How many operations have changed something so far.
    pub fn operations(&self) -> u64 {
        lock(&self.medium).operations
    }

    /// Sets how many bytes there is room for; `None` for any number.
    pub fn set_capacity_bytes(&self, bytes: Option<u64>) {
        lock(&self.medium).capacity_bytes = bytes;
    }

    /// Bytes of all files that have a name.
    pub fn used_bytes(&self) -> u64 {
        lock(&self.medium).names.bytes()
    }

    /// Turns one bit of a file over, on the disk and for readers.
    pub fn flip_bit(&self, name: &str, bit: usize) -> io::Result<()> {
        let inode = lock(&self.medium).names.get(name)?;
        lock(&inode).flip_bit(bit);
        Ok(())
    }

    /// Puts other bytes where a file has some, on the disk and for readers: a write that was lost, or went astray.
    pub fn overwrite(&self, name: &str, offset: usize, bytes: &[u8]) -> io::Result<()> {
        let inode = lock(&self.medium).names.get(name)?;
        lock(&inode).overwrite(offset, bytes);
        Ok(())
    }

    /// Loses a file, on the disk and for readers. Who has it open keeps it.
    pub fn lose_file(&self, name: &str) {
        lock(&self.medium).names.lose(name);
    }

    /// Makes the sector of a file that holds the byte at `offset` unreadable until it is written.
    pub fn spoil_sector(&self, name: &str, offset: usize) -> io::Result<()> {
        let inode = lock(&self.medium).names.get(name)?;
        lock(&inode).spoil(offset / super::SECTOR_BYTES);
        Ok(())
    }

    /// What a power failure would certainly leave of a file that keeps its name.
    pub fn durable_bytes(&self, name: &str) -> io::Result<Vec<u8>> {
        let inode = lock(&self.medium).names.get(name)?;
        let bytes = lock(&inode).durable().to_vec();
        Ok(bytes)
    }

    /// Loses everything, as a disk does that was exchanged.
    pub fn wipe(&self) {
        lock(&self.medium).names = Names::default();
    }

    /// Counts an operation that changes something.
    fn change(&self) -> io::Result<std::sync::MutexGuard<'_, Medium>> {
        let mut medium = self.alive()?;
        medium.operations += 1;
        Ok(medium)
    }

    fn alive(&self) -> io::Result<std::sync::MutexGuard<'_, Medium>> {
        let medium = lock(&self.medium);
        let crashed = medium.crash_at.is_some_and(|limit| medium.operations >= limit);
        if crashed || medium.incarnation != self.incarnation {
            return Err(io::Error::other("the machine has crashed"));
        }
        Ok(medium)
    }
}

impl Medium {
    /// True when an operation of this kind has to fail now.
    fn fails(&mut self, kind: Fault) -> bool {
        if self.faults_paused {
            return false;
        }
        let mut fires = false;
        self.faults.retain_mut(|(fault, after)| {
            let due = *fault == kind && *after == 0;
            if *fault == kind {
                *after = after.saturating_sub(1);
            }
            fires |= due;
            !due
        });
        fires
    }

    fn room_for(&self, more: usize) -> bool {
        more == 0 || self.capacity_bytes.is_none_or(|capacity| self.names.bytes() + more as u64 <= capacity)
    }
}

fn input_output_error() -> io::Error {
    io::Error::other("injected input/output error")
}

impl Disk for ModelDisk {
    type File = ModelFile;

    fn create(&self, name: &str) -> io::Result<ModelFile> {
        let inode = self.change()?.names.create(name)?;
        Ok(ModelFile { disk: self.clone(), inode })
    }

    fn open(&self, name: &str) -> io::Result<ModelFile> {
        let inode = self.alive()?.names.get(name)?;
        Ok(ModelFile { disk: self.clone(), inode })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.change()?.names.rename(from, to)
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        self.change()?.names.unlink(name)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.alive()?.names.list())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut medium = self.change()?;
        if medium.fails(Fault::SyncDir) {
            return Err(input_output_error());
        }
        medium.names.sync();
        Ok(())
    }
}

impl DiskFile for ModelFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        if self.disk.alive()?.fails(Fault::Read) {
            return Err(input_output_error());
        }
        lock(&self.inode).read(offset as usize, buffer)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut medium = self.disk.change()?;
        let offset = offset as usize;
        let grows = (offset + bytes.len()).saturating_sub(lock(&self.inode).len());
        if !medium.room_for(grows) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if medium.fails(Fault::Write) {
            lock(&self.inode).write(offset, &bytes[..bytes.len() / 2]);
            return Err(input_output_error());
        }
        lock(&self.inode).write(offset, bytes);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut medium = self.disk.change()?;
        let mut inode = lock(&self.inode);
        if medium.fails(Fault::Sync) {
            inode.fail_to_sync();
            return Err(input_output_error());
        }
        inode.sync();
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        let _alive = self.disk.alive()?;
        Ok(lock(&self.inode).len() as u64)
    }
}
