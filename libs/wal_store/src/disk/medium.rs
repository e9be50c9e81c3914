//! State of a model disk: file contents and names, each as a process reads them and as a power failure leaves them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::image::{Image, Sector, page_of};
use super::interface::SECTOR_BYTES;

/// Source of random numbers for a power failure.
pub(super) type Random<'a> = &'a mut dyn FnMut() -> u64;

/// True with a chance of `percent`.
pub(super) fn chance(random: Random<'_>, percent: u64) -> bool {
    random() % 100 < percent
}

/// Content of one file, in two versions.
#[derive(Clone, Debug, Default)]
pub(super) struct Inode {
    /// The content that a process reads.
    seen: Image,
    /// The content after a power failure. Dirty sectors may survive as well.
    durable: Image,
    /// Sectors that were written since the last sync.
    dirty: BTreeSet<usize>,
    /// Contents of dirty sectors between two writes, oldest first: these may have reached the disk, too.
    between: Vec<(usize, Sector)>,
    /// Sectors that a failed sync gave up: they read as written, are not on the disk, and no sync writes them unless
    /// they are written again.
    lost: BTreeSet<usize>,
    /// Sectors that cannot be read until they are written.
    unreadable: BTreeSet<usize>,
}

impl Inode {
    pub(super) fn len(&self) -> usize {
        self.seen.len()
    }

    pub(super) fn read(&self, offset: usize, buffer: &mut [u8]) -> io::Result<()> {
        let sectors = offset / SECTOR_BYTES..(offset + buffer.len()).div_ceil(SECTOR_BYTES);
        if self.unreadable.range(sectors).next().is_some() {
            return Err(io::Error::other("a sector cannot be read"));
        }
        if self.seen.read(offset, buffer) { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    pub(super) fn write(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        if self.seen.len() < end {
            self.seen.resize(end);
        }
        for sector in offset / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES) {
            if !self.dirty.insert(sector) {
                self.between.push((sector, self.seen.sector(sector)));
            }
            self.lost.remove(&sector);
            self.unreadable.remove(&sector);
        }
        self.seen.write(offset, bytes);
    }

    pub(super) fn sync(&mut self) {
        if self.durable.len() < self.seen.len() {
            self.durable.resize(self.seen.len());
        }
        let mut shared = None;
        for sector in std::mem::take(&mut self.dirty) {
            let page = page_of(sector);
            if shared == Some(page) {
                continue;
            }
            // Except for dirty and lost sectors the two images are equal.
            if self.lost.iter().any(|&lost| page_of(lost) == page) {
                self.durable.set_sector(sector, &self.seen.sector(sector));
            } else {
                self.durable.share_page(page, &self.seen);
                shared = Some(page);
            }
        }
        self.between.clear();
    }

    pub(super) fn fail_to_sync(&mut self) {
        self.lost.append(&mut self.dirty);
        self.between.clear();
    }

    /// A power failure. Each sector that was not synced survives with a chance of `survives` percent.
    fn crash(&mut self, survives: u64, random: Random<'_>) {
        for sector in std::mem::take(&mut self.dirty) {
            let older = self.between.iter().filter(|(of, _)| *of == sector).map(|(_, bytes)| *bytes);
            let kept = if chance(random, survives) {
                Some(self.seen.sector(sector))
            } else {
                let older: Vec<Sector> = older.collect();
                older.get(random() as usize % (older.len() + 1)).copied()
            };
            if let Some(bytes) = kept {
                let end = ((sector + 1) * SECTOR_BYTES).min(self.seen.len());
                if self.durable.len() < end {
                    self.durable.resize(end);
                }
                self.durable.set_sector(sector, &bytes);
            }
        }
        self.lost.clear();
        self.between.clear();
        self.seen = self.durable.clone();
    }

    pub(super) fn flip_bit(&mut self, bit: usize) {
        for image in [&mut self.seen, &mut self.durable] {
            let mut byte = [0];
            if image.read(bit / 8, &mut byte) {
                image.write(bit / 8, &[byte[0] ^ 1 << (bit % 8)]);
            }
        }
    }

    pub(super) fn spoil(&mut self, sector: usize) {
        self.unreadable.insert(sector);
    }

    pub(super) fn overwrite(&mut self, offset: usize, bytes: &[u8]) {
        for image in [&mut self.seen, &mut self.durable] {
            image.write(offset, bytes);
        }
    }

    pub(super) fn durable(&self) -> &Image {
        &self.durable
    }
}

/// A file, shared by its names and its open handles.
pub(super) type SharedInode = Arc<Mutex<Inode>>;

/// The names of the directory, in two versions.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// The names that a process reads.
    seen: BTreeMap<String, SharedInode>,
    /// The names after a power failure.
    durable: BTreeMap<String, SharedInode>,
    /// Changes that are not synced, in order.
    pending: Vec<Change>,
}

/// A change of the directory.
#[derive(Debug)]
enum Change {
    Link { name: String, inode: SharedInode },
    Unlink { name: String },
    Rename { from: String, to: String, inode: SharedInode },
}

impl Names {
    pub(super) fn list(&self) -> Vec<String> {
        self.seen.keys().cloned().collect()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.seen.values().map(|inode| inode.lock().len() as u64).sum()
    }

    pub(super) fn lose(&mut self, name: &str) {
        self.seen.remove(name);
        self.durable.remove(name);
    }

    pub(super) fn get(&self, name: &str) -> io::Result<SharedInode> {
        self.seen.get(name).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub(super) fn create(&mut self, name: &str) -> io::Result<SharedInode> {
        if self.seen.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = SharedInode::default();
        self.change(Change::Link { name: name.into(), inode: inode.clone() });
        Ok(inode)
    }

    pub(super) fn unlink(&mut self, name: &str) -> io::Result<()> {
        self.get(name)?;
        self.change(Change::Unlink { name: name.into() });
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let inode = self.get(from)?;
        self.change(Change::Rename { from: from.into(), to: to.into(), inode });
        Ok(())
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.seen);
        self.pending.push(change);
    }

    pub(super) fn sync(&mut self) {
        for change in self.pending.drain(..) {
            change.apply(&mut self.durable);
        }
    }

    /// A power failure. Of the changes that were not synced either a prefix or any subset survives.
    pub(super) fn crash(&mut self, random: Random<'_>) {
        let survives = random() % 101;
        let in_order = chance(random, 50);
        for change in std::mem::take(&mut self.pending) {
            if chance(random, survives) {
                change.apply(&mut self.durable);
            } else if in_order {
                break;
            }
        }
        self.seen = self.durable.clone();
        for inode in self.seen.values() {
            let survives = random() % 101;
            inode.lock().crash(survives, random);
        }
    }

    /// A deep copy: the same names and copies of the contents.
    pub(super) fn fork(&self) -> Self {
        let mut copies: Vec<(SharedInode, SharedInode)> = Vec::new();
        let mut copy = |inode: &SharedInode| {
            if let Some((_, copy)) = copies.iter().find(|(original, _)| Arc::ptr_eq(original, inode)) {
                return copy.clone();
            }
            let copy = Arc::new(Mutex::new(inode.lock().clone()));
            copies.push((inode.clone(), copy.clone()));
            copy
        };
        let mut copy_all = |names: &BTreeMap<String, SharedInode>| {
            names.iter().map(|(name, inode)| (name.clone(), copy(inode))).collect()
        };
        let (seen, durable) = (copy_all(&self.seen), copy_all(&self.durable));
        let pending = self.pending.iter().map(|change| change.with_inodes(&mut copy)).collect();
        Self { seen, durable, pending }
    }
}

impl Change {
    fn apply(&self, names: &mut BTreeMap<String, SharedInode>) {
        match self {
            Self::Link { name, inode } => {
                names.insert(name.clone(), inode.clone());
            }
            Self::Unlink { name } => {
                names.remove(name);
            }
            Self::Rename { from, to, inode } => {
                names.remove(from);
                names.insert(to.clone(), inode.clone());
            }
        }
    }

    fn with_inodes(&self, copy: &mut impl FnMut(&SharedInode) -> SharedInode) -> Self {
        match self {
            Self::Link { name, inode } => Self::Link { name: name.clone(), inode: copy(inode) },
            Self::Unlink { name } => Self::Unlink { name: name.clone() },
            Self::Rename { from, to, inode } => {
                Self::Rename { from: from.clone(), to: to.clone(), inode: copy(inode) }
            }
        }
    }
}
