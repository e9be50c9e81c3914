//! Damage to stored bytes: bits flip, sectors are misplaced or unreadable, files vanish.
//!
//! Bytes that no checksum covers are not damaged, because no reader could notice: the rest of a switched segment, the
//! partial record of an aborted record, some bytes of a page header. The lowest byte of a page's timeline number is not
//! damaged either: the changed number may be another timeline of this log, now or later, and pass where the pages
//! around it are not read.

use std::time::Duration;

use consensus::Dialect;
use rand::RngExt;
use wal_format::RecordScanner;
use wal_store::{Disk, ModelDisk, Replica, UNREADABLE_TRIES_MAX};
use wal_types::NodeId;

use super::Cluster;
use crate::invariants::Violation;
use crate::node::{Death, Node, read_log};
use crate::primary::{CONTEXT, START};

/// Bytes of a sector. A sector is lost or misplaced as a whole.
const SECTOR_BYTES: usize = 512;
/// Name of the control file.
const CONTROL: &str = "control";
/// Bytes of a WAL page.
const PAGE_BYTES: usize = 8192;
/// Offset of the lowest byte of the timeline number in a page header.
const TLI_LOW_OFFSET: usize = 4;
/// Bytes of a copy of the control file that are in use.
const CONTROL_BYTES: usize = 400;

/// One damage to stored bytes.
#[derive(Debug)]
enum Damage {
    /// A bit flips.
    Rot { name: String, bit: usize },
    /// An acknowledged write never reached the disk.
    Lost { name: String, sector: usize },
    /// A sector has the content of another place.
    Misdirected { name: String, from: usize, to: usize },
    /// A sector cannot be read.
    Unreadable { name: String, at: usize },
    /// A file is gone.
    Gone { name: String },
}

impl Damage {
    /// True when the damage may turn a page into a page of another timeline of the log.
    fn may_pass_unnoticed(&self) -> bool {
        matches!(self, Self::Rot { name, bit } if name != CONTROL && bit / 8 % PAGE_BYTES == TLI_LOW_OFFSET)
    }

    /// Damages the disk; `None` when there is nothing to damage.
    fn apply(&self, disk: &ModelDisk) -> Option<()> {
        match self {
            Self::Rot { name, bit } => disk.flip_bit(name, *bit).ok(),
            Self::Lost { name, sector } => disk.overwrite(name, *sector, &[0; SECTOR_BYTES]).ok(),
            Self::Misdirected { name, from, to } => {
                let image = disk.durable_bytes(name).ok()?;
                disk.overwrite(name, *to, image.get(*from..from + SECTOR_BYTES)?).ok()
            }
            Self::Unreadable { name, at } => disk.spoil_sector(name, *at).ok(),
            Self::Gone { name } => {
                disk.lose_file(name);
                Some(())
            }
        }
    }
}

impl Cluster {
    /// Damages durable bytes on a node's disk, if the fault budget allows it. The node finds the damage when it reads
    /// the bytes; most nodes are restarted at once.
    pub(crate) fn damage(&mut self, node: NodeId) -> Result<(), Violation> {
        let index = self.index(node);
        let is_eligible =
            self.dialect == Dialect::Holdfast && self.nodes[index].is_up() && !self.oracle.is_damaged(node);
        if !is_eligible || !self.budget_allows_loss(node) {
            return Ok(());
        }
        // Only bytes that a footer covers are damaged, so the log becomes idle first. Until then nothing but the last
        // batch itself shows that it was written, and its loss looks like the torn end that a crash leaves. The product
        // promises no more than that.
        for _ in 0..2 {
            self.tick(node, Duration::from_secs(2))?;
        }
        // A start cannot tell whether a record that is not complete yet is damaged.
        if self.nodes[index].serving().is_none_or(|at| at.write_lsn != at.flush_lsn) {
            return Ok(());
        }

        let Some(damage) = self
            .choose_damage(node)
            .filter(|damage| !damage.may_pass_unnoticed() && can_be_noticed(&self.nodes[index], damage))
        else {
            return Ok(());
        };
        if damage.apply(&self.nodes[index].disk).is_none() {
            return Ok(());
        }

        self.trace.line(format_args!("node {node}: {damage:?}"));
        self.stats.damages += 1;
        self.oracle.record_damage(node);
        if self.rng.random_range(0..4) != 0 {
            let death = if self.rng.random() { Death::Power } else { Death::Process };
            self.crash(node, death)?;
        }
        Ok(())
    }

    fn choose_damage(&mut self, node: NodeId) -> Option<Damage> {
        let index = self.index(node);
        let disk = &self.nodes[index].disk;
        let kind = self.rng.random_range(0..10);
        if kind == 0 {
            // One of the two copies; their content is at their beginning.
            let copy = self.rng.random_range(0..2) * disk.durable_bytes(CONTROL).ok()?.len() / 2;
            let at = copy + self.rng.random_range(0..CONTROL_BYTES);
            return Some(Damage::Rot { name: CONTROL.into(), bit: at * 8 });
        }

        let is_segment =
            |name: &String| name.len() == 24 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        let segments: Vec<String> = disk.list().ok()?.into_iter().filter(is_segment).collect();
        let name = segments.get(self.rng.random_range(0..segments.len().max(1)))?.clone();
        let bytes = disk.durable_bytes(&name).ok()?.len();
        if bytes == 0 {
            return None;
        }

        let at = self.rng.random_range(0..bytes);
        let sector = |at: usize| at - at % SECTOR_BYTES;

        Some(match kind {
            1 => Damage::Gone { name },
            2 => Damage::Lost { name, sector: sector(at) },
            3 => Damage::Misdirected { name, from: sector(self.rng.random_range(0..bytes)), to: sector(at) },
            4 => Damage::Unreadable { name, at },
            _ => Damage::Rot { name, bit: at * 8 + kind % 8 },
        })
    }

    /// Ends the damage of a node that holds everything: the damage was harmless, or a leader has repaired it.
    pub(super) fn check_repaired(&mut self, node: NodeId) {
        let index = self.index(node);
        let Some(seen) = self.nodes[index].serving().filter(|at| at.lost.is_none()) else { return };
        if !self.oracle.is_damaged(node) {
            return;
        }
        self.nodes[index].invalidate_mirror();
        if self.nodes[index].refresh_mirror().is_none() {
            return;
        }

        let log = &self.nodes[index].mirror;
        let (from, to) = (log.base().max(seen.oldest_lsn), log.end());
        let held = log.slice(from, to);
        let wrote = |one: &crate::primary::Primary| one.flush_lsn() >= to && one.slice(from, to) == held;
        if from >= to || self.primaries.iter().any(wrote) {
            self.trace.line(format_args!("node {node} is fully repaired"));
            self.stats.repairs += 1;
            self.oracle.record_repair(node);
            self.oracle.forget_comparison(node, START);
        }
    }
}

/// True when a start or a scan of all records finds the damage, or when it changes nothing that is read.
fn can_be_noticed(node: &Node, damage: &Damage) -> bool {
    let disk = node.disk.fork();
    if damage.apply(&disk).is_none() {
        return false;
    }
    let Ok(replica) = Replica::open_after_read_errors(disk, node.id, UNREADABLE_TRIES_MAX) else {
        return true;
    };
    let seen = replica.snapshot();
    let from = seen.oldest_lsn.max(node.mirror.base());
    let log = read_log(&replica, from, seen.flush_lsn);
    let is_same = log == node.mirror.slice(from, seen.flush_lsn);
    is_same || (seen.lost.is_none() && RecordScanner::at_segment_start(CONTEXT, from).feed(&log).is_err())
}
