//! Bootstrap: the operator tells a new copy who the first members of the log are.

use wal_types::{Digest, ReplicaId};

use super::{Acceptor, BootstrapRefused, Effect};
use crate::codec::birth_of;
use crate::configuration::{Configuration, Member};

impl Acceptor {
    /// Makes `members` the first ones. Until then this copy grants no vote: without a list of copies an empty disk under an
    /// old number would vote. Does nothing when they are the first members already.
    pub fn bootstrap(&mut self, members: Vec<Member>) -> Result<Vec<Effect>, BootstrapRefused> {
        if let Some(without) = members.iter().find(|member| member.replica == ReplicaId::default()) {
            return Err(BootstrapRefused::NoCopy(without.id));
        }
        if !members.iter().any(|member| member.copy() == self.copy) {
            return Err(BootstrapRefused::NotListed(self.copy));
        }
        let first = Configuration { members, ..Configuration::default() };
        first.validate()?;
        // A configuration that is valid has an encoding.
        let birth = birth_of(&first).unwrap_or(Digest([0; 32]));

        if !self.is_unconfigured() {
            let is_same = self.lineage.birth == Some(birth);
            return if is_same { Ok(Vec::new()) } else { Err(BootstrapRefused::Configured(self.lineage.id)) };
        }
        if let Some(own) = self.lineage.birth.filter(|&own| own != birth) {
            return Err(BootstrapRefused::OtherBirth { own, got: birth });
        }
        // The birth first: after a crash between the two the same call finishes, and any other one is refused.
        self.lineage.birth = Some(birth);
        self.state.configuration = first;
        Ok(vec![Effect::PersistLineage(self.lineage.clone()), self.persist()])
    }
}
