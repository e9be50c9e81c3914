//! [`BlankSegment`]: the next segment of a log, to be written by another thread; and when it is begun.

use wal_types::NodeId;

use crate::disk::Disk;
use crate::error::StoreError;
use crate::footer::Footer;
use crate::segment::Segments;

/// How full the segment is, in percent, when the next one is prepared: by number of the node, so that the nodes of a log
/// do not fill files with zeros at the same time. A quorum of others answers meanwhile.
const SPARE_AT_PERCENT: [u64; 3] = [10, 30, 50];

/// How full the segment is, in percent, when node `node` prepares the next one.
pub(crate) fn spare_at_percent(node: NodeId) -> u64 {
    SPARE_AT_PERCENT[(node.0 % SPARE_AT_PERCENT.len() as u64) as usize]
}

/// A blank file that is to be written under a name that does not count.
pub(crate) struct BlankSegment<D: Disk> {
    pub(crate) segments: Segments<D>,
    pub(crate) footer: Footer,
    /// The file of a removed segment waits to be written over.
    pub(crate) recycle: bool,
}

impl<D: Disk> BlankSegment<D> {
    /// Writes and syncs the file. Blocks.
    pub(crate) fn write(self) -> Result<(), StoreError> {
        self.segments.prepare(&self.footer, self.recycle)
    }
}
