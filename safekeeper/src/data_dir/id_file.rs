//! [`Identity`]: the id file of a data directory, its text and its checksum.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use wal_types::{NodeId, TimelineId};

/// Name of the id file.
pub(super) const ID_FILE: &str = "safekeeper.id";
/// Name of a new id file until it is whole.
pub(super) const ID_FILE_TEMPORARY: &str = "safekeeper.id.tmp";

/// Version of the layout of the directory that this program reads and writes.
pub(crate) const DATA_DIR_FORMAT: u32 = 1;

/// Files are for the safekeeper's user only.
pub(super) const FILE_MODE: u32 = 0o600;

/// Bytes that are read of an id file. A longer file is damaged, and its checksum fails.
const ID_FILE_BYTES_MAX: u64 = 4096;

/// The content of the id file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Number of the safekeeper.
    pub node: NodeId,
    /// Random id, drawn when the directory was created.
    pub disk: [u8; 16],
}

/// Why an id file cannot be used.
pub(super) enum IdFileError {
    /// Another version of this program wrote it.
    OtherFormat(u32),
    /// Incomplete or damaged, and how.
    Damaged(&'static str),
}

/// The bytes of the id file, at most [`ID_FILE_BYTES_MAX`].
pub(super) fn read(directory: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(directory.join(ID_FILE))?.take(ID_FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Creates the file whole or not at all, and durably before anything else is written: new file, fsync, rename, fsync of
/// the directory.
pub(super) fn create(directory: &Path, node: NodeId) -> io::Result<Identity> {
    let mut disk = [0; 16];
    getrandom::fill(&mut disk).map_err(io::Error::from)?;
    let identity = Identity { node, disk };

    let temporary = directory.join(ID_FILE_TEMPORARY);
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(FILE_MODE).open(&temporary)?;
    file.write_all(render(identity).as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, directory.join(ID_FILE))?;
    File::open(directory)?.sync_all()?;
    Ok(identity)
}

pub(super) fn render(identity: Identity) -> String {
    let disk: String = identity.disk.iter().map(|byte| format!("{byte:02x}")).collect();
    let body = format!("format {DATA_DIR_FORMAT}\nnode {}\ndisk {disk}\n", identity.node);
    format!("{body}crc32c {:08x}\n", crc32c::crc32c(body.as_bytes()))
}

pub(super) fn parse(bytes: &[u8]) -> Result<Identity, IdFileError> {
    let damaged = IdFileError::Damaged;
    let text = str::from_utf8(bytes).map_err(|_| damaged("the file is not text"))?;
    // The first line first: a later format may write everything else in another way.
    let format = text.lines().next().and_then(|line| line.strip_prefix("format ")?.parse().ok());
    match format.ok_or_else(|| damaged("the file does not begin with a format"))? {
        DATA_DIR_FORMAT => {}
        found => return Err(IdFileError::OtherFormat(found)),
    }

    let (body, sum) = text.split_once("crc32c ").ok_or_else(|| damaged("the file has no checksum"))?;
    if sum != format!("{:08x}\n", crc32c::crc32c(body.as_bytes())) {
        return Err(damaged("the checksum is wrong"));
    }
    let field = |name: &str| body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let node = field("node").and_then(|node| node.parse().ok());
    let node = node.ok_or_else(|| damaged("the file names no node"))?;
    let disk = field("disk").and_then(parse_disk).ok_or_else(|| damaged("the file names no disk"))?;
    Ok(Identity { node: NodeId(node), disk })
}

fn parse_disk(text: &str) -> Option<[u8; 16]> {
    // The same form as every other identifier of 16 bytes.
    text.parse::<TimelineId>().ok().map(|id| id.0)
}
