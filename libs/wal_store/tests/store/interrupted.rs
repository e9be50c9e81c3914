//! [`Interrupted`]: a disk that lets a test act in the middle of a reader's or a writer's operation.

use std::io;
use std::sync::{Arc, Mutex};

use wal_store::{Disk, DiskFile, ModelDisk};

/// A model disk that runs a closure once, at a chosen moment of another operation.
#[derive(Clone)]
pub(crate) struct Interrupted {
    disk: ModelDisk,
    interruption: Arc<Mutex<Option<(Moment, Interruption)>>>,
}

type Interruption = Box<dyn FnOnce() + Send>;

/// When the closure runs.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Moment {
    BeforeOpen,
    AfterOpen,
    BeforeRead,
    AfterRead,
    /// Before a segment's file is renamed: during a truncation, or when it is set aside to be recycled.
    BeforeRename,
    AfterRename,
    BeforeUnlink,
}

pub(crate) struct InterruptedFile<F> {
    file: F,
    disk: Interrupted,
}

impl Interrupted {
    pub(crate) fn new() -> Self {
        Self { disk: ModelDisk::new(), interruption: Arc::default() }
    }

    /// Sets the closure.
    pub(crate) fn interrupt(&self, moment: Moment, act: impl FnOnce() + Send + 'static) {
        *self.interruption.lock().unwrap() = Some((moment, Box::new(act)));
    }

    fn at(&self, moment: Moment) {
        let mut interruption = self.interruption.lock().unwrap();
        let act = match interruption.take() {
            Some((at, act)) if at == moment => act,
            other => {
                *interruption = other;
                return;
            }
        };
        drop(interruption);
        act();
    }
}

impl Disk for Interrupted {
    type File = InterruptedFile<<ModelDisk as Disk>::File>;

    fn create(&self, name: &str) -> io::Result<Self::File> {
        Ok(InterruptedFile { file: self.disk.create(name)?, disk: self.clone() })
    }

    fn open(&self, name: &str) -> io::Result<Self::File> {
        self.at(Moment::BeforeOpen);
        let file = self.disk.open(name)?;
        self.at(Moment::AfterOpen);
        Ok(InterruptedFile { file, disk: self.clone() })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let is_segment = from.starts_with("cut") || to.starts_with("recycled");
        if is_segment {
            self.at(Moment::BeforeRename);
        }
        self.disk.rename(from, to)?;
        if is_segment {
            self.at(Moment::AfterRename);
        }
        Ok(())
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        self.at(Moment::BeforeUnlink);
        self.disk.unlink(name)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.disk.sync_dir()
    }
}

impl<F: DiskFile> DiskFile for InterruptedFile<F> {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.disk.at(Moment::BeforeRead);
        let result = self.file.read_at(offset, buffer);
        self.disk.at(Moment::AfterRead);
        result
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(offset, bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
}
