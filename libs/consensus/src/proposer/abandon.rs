//! Leaving a joint configuration: the leader goes back to the old members alone, when the new ones do not come.
//!
//! ```text
//! C0 --begin_change(Members)--> joint (C0 and C1) --begin_change(Abandon), C0 holds what is committed--> C0
//! ```
//!
//! "Leaving a joint configuration" in `docs/consensus.md` argues the two conditions.

use wal_types::{CopyId, Generation};

use super::Proposer;
use super::configuration_change::ChangeRefused;
use crate::configuration::{Configuration, Member};
use crate::quorum;

impl Proposer {
    /// The configuration that ends a joint one without its new members: the old members alone, under the generation that
    /// the new members alone would have had.
    ///
    /// Fails when an earlier leader may have finished the change on the new members: nothing hides that from a later
    /// candidate. Fails as well while a majority of the old members lacks anything that may be committed, because from
    /// then on they elect alone.
    pub(super) fn predecessor(&self) -> Result<Configuration, ChangeRefused> {
        let current = self.configuration().filter(|_| self.membership.is_joint());
        let current = current.ok_or(ChangeRefused::NotJoint)?;
        let may_be_finished = !self.membership.begun_here && !self.membership.decided;
        if may_be_finished {
            return Err(ChangeRefused::MayBeFinished(current.generation));
        }

        // What was committed before this term lies below its start; what this leader commits, and the start itself, count
        // only as far as they are acknowledged in this term.
        let needed = self.commit_lsn.max(self.membership.floor).max(self.term_start());
        let old: Vec<CopyId> = current.members.iter().map(Member::copy).collect();
        let held = quorum::committed(&[old], self.term_start(), |copy| self.acked(copy));
        if held < needed {
            return Err(ChangeRefused::OldMembersLag { held, needed });
        }

        let generation = Generation(current.generation.0.checked_add(1).ok_or(ChangeRefused::Exhausted)?);
        Ok(Configuration { generation, new_members: Vec::new(), ..current.clone() })
    }
}
