//! [`ModelDisk`]: a disk in memory that loses, tears, fills up, rots and fails on request.
//!
//! A power failure forgets what was not synced, each sector and each name on its own. A read, a write or a sync fails
//! when a test asks for it. The disk stops working after a number of operations, so that a test can crash a program at
//! every step. A failed sync leaves the written bytes readable and never on the disk.
//!
//! The same calls and the same random numbers give the same disk. For tests and the simulation only.

use std::io;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use super::interface::{Disk, DiskFile};
use super::medium::{Names, SharedInode};

/// An operation that fails once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A read fails.
    Read,
    /// A write fails after half of its bytes.
    Write,
    /// A sync of a file fails: the bytes that it should have made durable are lost, but can be read.
    Sync,
    /// A sync of the directory fails; its changes stay pending.
    SyncDir,
}

/// One directory on a disk in memory. A clone is the same directory. After a crash or a kill the earlier handles fail
/// every operation, and the returned one works.
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
    /// Faults to come, each with the number of operations of its kind that still succeed.
    faults: Vec<(Fault, u64)>,
    /// Every operation of this kind fails, over restarts too.
    failing: Option<Fault>,
    /// Faults wait while this is set.
    faults_paused: bool,
    /// Operations so far that changed something.
    operations: u64,
    crash_at: Option<u64>,
    capacity_bytes: Option<u64>,
    reserve: ModelReserve,
}

/// Room that is set aside beside the capacity.
#[derive(Clone, Copy, Debug, Default)]
struct ModelReserve {
    wanted: usize,
    present: usize,
    file_bytes: u64,
}

/// What files of the reserve hold: nobody may rely on zeros.
const RESERVED_BYTE: u8 = 0xAA;

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

    /// A power failure: what was not synced is kept or lost as `random` decides. Clears all faults, but not the capacity.
    #[must_use]
    pub fn crash(&self, random: &mut dyn FnMut() -> u64) -> Self {
        self.medium.lock().names.crash(random);
        self.kill()
    }

    /// The process ends, the machine does not: what was written stays readable, but does not become durable. Clears all
    /// faults, but not the capacity.
    #[must_use]
    pub fn kill(&self) -> Self {
        let mut medium = self.medium.lock();
        medium.incarnation += 1;
        medium.faults.clear();
        medium.crash_at = None;
        Self { medium: self.medium.clone(), incarnation: medium.incarnation }
    }

    /// An independent copy, without faults.
    #[must_use]
    pub fn fork(&self) -> Self {
        let medium = self.medium.lock();
        let (capacity_bytes, reserve) = (medium.capacity_bytes, medium.reserve);
        let copy = Medium { names: medium.names.fork(), capacity_bytes, reserve, ..Medium::default() };
        Self { medium: Arc::new(Mutex::new(copy)), incarnation: 0 }
    }

    /// Lets one operation fail, after `after` successful ones of the same kind.
    pub fn fail(&self, fault: Fault, after: u64) {
        self.medium.lock().faults.push((fault, after));
    }

    /// Lets every operation of this kind fail from now on, or none any more. Restarts do not end it.
    pub fn fail_for_good(&self, fault: Option<Fault>) {
        self.medium.lock().failing = fault;
    }

    /// Suspends the faults while set, for an oracle that reads the disk and is not part of the program under test.
    pub fn pause_faults(&self, faults_paused: bool) {
        self.medium.lock().faults_paused = faults_paused;
    }

    /// Lets every operation fail after `operations` more that change something.
    pub fn crash_after(&self, operations: u64) {
        let mut medium = self.medium.lock();
        medium.crash_at = Some(medium.operations + operations);
    }

    /// True once the number of operations of [`ModelDisk::crash_after`] is reached.
    pub fn has_crashed(&self) -> bool {
        let medium = self.medium.lock();
        medium.crash_at.is_some_and(|limit| medium.operations >= limit)
    }

    /// Number of operations so far that changed something.
    pub fn operations(&self) -> u64 {
        self.medium.lock().operations
    }

    /// Sets the capacity in bytes; `None` for no limit.
    pub fn set_capacity_bytes(&self, bytes: Option<u64>) {
        self.medium.lock().capacity_bytes = bytes;
    }

    /// Sets room aside for so many segment files, beside the capacity.
    pub fn set_reserve(&self, files: usize) {
        let mut medium = self.medium.lock();
        (medium.reserve.wanted, medium.reserve.present) = (files, files);
    }

    /// Sets room aside again for files of the reserve that were taken, as far as there is any.
    pub fn refill_reserve(&self) {
        let mut medium = self.medium.lock();
        let used = medium.names.bytes();
        let Medium { capacity_bytes, reserve, .. } = &mut *medium;
        while reserve.present < reserve.wanted {
            if let Some(capacity) = capacity_bytes {
                if used + reserve.file_bytes > *capacity {
                    return;
                }
                *capacity -= reserve.file_bytes;
            }
            reserve.present += 1;
        }
    }

    /// Bytes of all files in the directory.
    pub fn used_bytes(&self) -> u64 {
        self.medium.lock().names.bytes()
    }

    /// Flips one bit of a file, on the disk and for readers.
    pub fn flip_bit(&self, name: &str, bit: usize) -> io::Result<()> {
        let inode = self.medium.lock().names.get(name)?;
        inode.lock().flip_bit(bit);
        Ok(())
    }

    /// Replaces bytes of a file, on the disk and for readers: a lost or misdirected write.
    pub fn overwrite(&self, name: &str, offset: usize, bytes: &[u8]) -> io::Result<()> {
        let inode = self.medium.lock().names.get(name)?;
        inode.lock().overwrite(offset, bytes);
        Ok(())
    }

    /// Removes a file, on the disk and for readers. Open handles stay readable.
    pub fn lose_file(&self, name: &str) {
        self.medium.lock().names.lose(name);
    }

    /// Makes the sector that holds the byte at `offset` unreadable until it is written.
    pub fn spoil_sector(&self, name: &str, offset: usize) -> io::Result<()> {
        let inode = self.medium.lock().names.get(name)?;
        inode.lock().spoil(offset / super::interface::SECTOR_BYTES);
        Ok(())
    }

    /// The bytes of a file that a power failure certainly keeps, if it keeps the name.
    pub fn durable_bytes(&self, name: &str) -> io::Result<Vec<u8>> {
        let inode = self.medium.lock().names.get(name)?;
        let bytes = inode.lock().durable().to_vec();
        Ok(bytes)
    }

    /// Removes everything, as if the disk was replaced.
    pub fn wipe(&self) {
        self.medium.lock().names = Names::default();
    }

    /// Locks the medium for an operation that changes something, and counts it.
    fn change(&self) -> io::Result<MutexGuard<'_, Medium>> {
        let mut medium = self.alive()?;
        medium.operations += 1;
        Ok(medium)
    }

    /// Locks the medium, unless this handle has crashed.
    fn alive(&self) -> io::Result<MutexGuard<'_, Medium>> {
        let medium = self.medium.lock();
        let crashed = medium.crash_at.is_some_and(|limit| medium.operations >= limit);
        if crashed || medium.incarnation != self.incarnation {
            return Err(io::Error::other("the machine has crashed"));
        }
        Ok(medium)
    }
}

impl Medium {
    /// True when an operation of this kind has to fail now. Counts down the faults of the kind.
    fn fails(&mut self, kind: Fault) -> bool {
        if self.faults_paused {
            return false;
        }
        if self.failing == Some(kind) {
            return true;
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

/// The error of an injected fault.
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

    fn ensure_room(&self) -> io::Result<()> {
        let reserve = self.alive()?.reserve;
        if reserve.present < reserve.wanted { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn set_room_aside(&self, file_bytes: u64) {
        self.medium.lock().reserve.file_bytes = file_bytes;
        self.refill_reserve();
    }

    fn create_from_reserve(&self, name: &str, bytes: u64, leave: usize) -> io::Result<Option<ModelFile>> {
        let mut medium = self.change()?;
        if medium.reserve.present <= leave {
            return Ok(None);
        }
        medium.reserve.present -= 1;
        medium.capacity_bytes = medium.capacity_bytes.map(|capacity| capacity + bytes);
        match medium.names.unlink(name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let inode = medium.names.create(name)?;
        inode.lock().write(0, &vec![RESERVED_BYTE; bytes as usize]);
        Ok(Some(ModelFile { disk: self.clone(), inode }))
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
        self.inode.lock().read(offset as usize, buffer)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut medium = self.disk.change()?;
        let offset = offset as usize;
        let grows = (offset + bytes.len()).saturating_sub(self.inode.lock().len());
        if !medium.room_for(grows) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if medium.fails(Fault::Write) {
            self.inode.lock().write(offset, &bytes[..bytes.len() / 2]);
            return Err(input_output_error());
        }
        self.inode.lock().write(offset, bytes);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut medium = self.disk.change()?;
        let mut inode = self.inode.lock();
        if medium.fails(Fault::Sync) {
            inode.fail_to_sync();
            return Err(input_output_error());
        }
        inode.sync();
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        let _alive = self.disk.alive()?;
        Ok(self.inode.lock().len() as u64)
    }
}
