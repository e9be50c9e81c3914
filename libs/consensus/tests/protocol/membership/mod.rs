//! Changes of members and of the designated primary: decided under a term, completed by the leader of the next one.

mod abandon;
mod change;
mod copies;
mod new_member;

use consensus::{ChangeRefused, ConfigurationChange, LostTerm, PeerState};
use wal_types::{Generation, NodeId, PrimaryId, Term};

use crate::cluster::{Campaign, Cluster, START, configuration, members};

const OLD: &[u64] = &[1, 2, 3];
const ALL: &[u64] = &[1, 2, 3, 4, 5];

/// Nodes 1 to 3 vote, generation 1; 4 and 5 exist and are empty.
fn cluster() -> Cluster {
    let first = configuration(1, OLD, &[]);
    let mut cluster = Cluster::new(&first);
    cluster.create(4, &first, START);
    cluster.create(5, &first, START);
    cluster
}
