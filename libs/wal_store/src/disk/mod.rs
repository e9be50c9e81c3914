//! [`Disk`]: the operations that the store needs from a file system.
//!
//! A disk is a handle to **one directory**, that of one timeline; names have no path in them. There are two
//! implementations: [`RealDisk`], and behind the feature `model` `ModelDisk`, which forgets, tears, fills up and fails.
//!
//! The store relies on this and nothing more: a written byte is durable after `sync_data` of its file succeeded, a name
//! after `sync_dir` succeeded; a rename is atomic; a sector of 512 bytes is written whole or not at all.
//!
//! After a failed `sync_data` the bytes may be lost **and** reads may still show them (Rebello et al., "Can
//! Applications Recover from fsync Failures?", USENIX ATC 2020). So the store never trusts a second call after a failed
//! one.

mod handle_reserve;
#[cfg(feature = "model")]
mod image;
mod interface;
#[cfg(feature = "model")]
mod medium;
#[cfg(feature = "model")]
mod model;
mod real;
mod room;

pub use handle_reserve::{HANDLES_RESERVED, handle_shortages};
pub use interface::{Disk, DiskFile, OutOfHandles, SECTOR_BYTES};
pub(crate) use interface::{is_full, is_out_of_handles, unlink_if_there};
#[cfg(feature = "model")]
pub use model::{Fault, ModelDisk, ModelFile};
pub use real::{RealDisk, RealFile};
pub use room::RoomReserve;
