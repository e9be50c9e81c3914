//! Shared parts of the tests: the cluster, its programs, and waiting for a condition.

mod cluster;
mod log;
pub(crate) mod primary;
mod recovery;
pub(crate) mod relay;
pub(crate) mod safekeepers;
mod small_disk;
mod wait;
mod walproposer;

pub(crate) use self::cluster::TestCluster;
pub(crate) use self::primary::ScriptedPrimary;
pub(crate) use self::recovery::{fail_over, recover};
pub(crate) use self::relay::Relay;
pub(crate) use self::safekeepers::{LINEAGE_START, Safekeepers};
pub(crate) use self::small_disk::SmallDisk;
pub(crate) use self::wait::{DEADLINE, eventually};
pub(crate) use self::walproposer::Walproposer;
