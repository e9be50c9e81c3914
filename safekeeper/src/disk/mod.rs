//! Room on the file system of the data directory: how full it is, which old WAL is given up for it, and the reserve.
//!
//! | file | job |
//! |---|---|
//! | `level` | what a measurement means; limits; the state that others read |
//! | `choice` | which timelines give up which old WAL |
//! | `forecast` | when the disk will be full |
//! | `watch` | measures each second, carries the choice out, refills the reserve |

mod choice;
mod forecast;
mod level;
mod watch;

pub use level::DiskLimits;
pub(crate) use level::{DiskLevel, DiskState};
pub(crate) use watch::DiskWatch;
