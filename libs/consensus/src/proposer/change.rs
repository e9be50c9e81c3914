//! Membership change: the leader of a term proposes a configuration and replaces a joint one when it is decided.
//!
//! ```text
//! C0 --begin_change(Members)--> joint (C0 and C1) --decided, C1 holds what is committed--> C1 --decided--> done
//! ```
//!
//! `abandon` has the way back from a joint configuration.
//!
//! A configuration is decided when a quorum of each of its sets holds it under this term. A leader acts under a
//! configuration as soon as it has proposed it. A new leader first decides anew the configuration that the voters of
//! its election held.

use wal_types::{Generation, NodeId, ReplicaId};

use super::configuration_change::{ChangeRefused, ConfigurationChange};
use super::membership::Membership;
use super::{Action, CampaignPhase, LostTerm, Proposer};
use crate::configuration::{Configuration, Member, Primary};
use crate::message::{ConfigureRequest, ConfigureResponse, ProposerMessage};

impl Proposer {
    /// The configuration that this proposer acts under; `None` before the first greeting.
    pub const fn configuration(&self) -> Option<&Configuration> {
        self.membership.configuration()
    }

    /// Members that are no peers of this proposer yet: the driver should call [`Proposer::add_peer`] and connect.
    pub fn unknown_members(&self) -> Vec<Member> {
        let Some(configuration) = self.configuration() else { return Vec::new() };
        let listed = configuration.members.iter().chain(&configuration.new_members);
        let mut unknown: Vec<Member> =
            listed.filter(|member| !self.peers.contains_key(&member.id)).cloned().collect();
        unknown.sort_by_key(|member| member.id);
        unknown.dedup_by_key(|member| member.id);
        unknown
    }

    /// Adds a safekeeper to connect to. It votes only where the configuration lists it.
    pub fn add_peer(&mut self, node: NodeId) {
        self.peers.entry(node).or_default();
    }

    /// Begins a step to another configuration, and returns its generation. While members change, nothing is committed
    /// that the next members lack: the caller adds them as peers and lets them catch up first.
    pub fn begin_change(&mut self, change: ConfigurationChange) -> Result<Generation, ChangeRefused> {
        if self.phase != CampaignPhase::Leading {
            return Err(ChangeRefused::NotLeading);
        }
        let next = match change {
            ConfigurationChange::Members(members) => self.joint_with(members)?,
            ConfigurationChange::Primary(primary) => self.with_primary(primary)?,
            ConfigurationChange::Abandon => self.predecessor()?,
        };
        next.validate()?;
        let generation = next.generation;
        self.propose(next);
        Ok(generation)
    }

    /// The configuration that a new step starts from, under the next generation: one that is decided, and not joint.
    fn next_generation(&self) -> Result<Configuration, ChangeRefused> {
        let current = self.configuration().cloned().unwrap_or_default();
        if !self.membership.decided || !current.new_members.is_empty() {
            return Err(ChangeRefused::Undecided(current.generation));
        }
        let generation = Generation(current.generation.0.checked_add(1).ok_or(ChangeRefused::Exhausted)?);
        Ok(Configuration { generation, ..current })
    }

    fn joint_with(&self, members: Vec<Member>) -> Result<Configuration, ChangeRefused> {
        let next = self.next_generation()?;
        let new_members = self.with_copies(members, &next)?;
        if new_members == next.members {
            return Err(ChangeRefused::NoChange);
        }
        if new_members.is_empty() || next.members.is_empty() {
            return Err(ChangeRefused::NoMembers);
        }
        // The joint configuration needs a successor.
        next.generation.0.checked_add(1).ok_or(ChangeRefused::Exhausted)?;
        Ok(Configuration { new_members, ..next })
    }

    fn with_primary(&self, primary: Primary) -> Result<Configuration, ChangeRefused> {
        let next = self.next_generation()?;
        if next.primary == Some(primary) {
            return Err(ChangeRefused::NoChange);
        }
        Ok(Configuration { primary: Some(primary), ..next })
    }

    /// The members with the copies that are meant.
    fn with_copies(
        &self,
        mut members: Vec<Member>,
        current: &Configuration,
    ) -> Result<Vec<Member>, ChangeRefused> {
        for member in members.iter_mut().filter(|member| member.replica == ReplicaId::default()) {
            let listed = current.members.iter().find(|listed| listed.id == member.id);
            let greeted = || self.peers.get(&member.id).and_then(|peer| peer.replica);
            let copy = listed.map(|listed| listed.replica).or_else(greeted);
            member.replica = copy.ok_or(ChangeRefused::NoCopy(member.id))?;
        }
        Ok(members)
    }

    /// Acts under `next` from now on and sends it to every follower.
    pub(super) fn propose(&mut self, next: Configuration) {
        let floor = self.commit_lsn.max(self.term_start());
        self.membership.propose(self.term, next.clone(), floor);
        let request = ConfigureRequest { term: self.term, configuration: next };
        let followers = self.peers.values_mut().filter(|peer| peer.sent().is_some());
        followers.for_each(|peer| peer.outbox.push_back(ProposerMessage::Configure(request.clone())));
    }

    /// Records the newest generation that a follower accepted.
    pub(super) fn handle_configured(
        &mut self,
        from: NodeId,
        response: ConfigureResponse,
    ) -> Result<Vec<Action>, LostTerm> {
        self.check_term(from, response.term)?;
        let possible = response.term == self.term && response.generation <= self.membership.generation();
        let Some(peer) = self.peers.get_mut(&from).filter(|peer| possible && peer.sent().is_some()) else {
            return Ok(self.reset_connection(from));
        };
        peer.configured = peer.configured.max(Some(response.generation));
        Ok(self.advance())
    }

    /// True when a quorum of each voting set holds the current configuration under this term.
    pub(super) fn configuration_is_accepted(&self) -> bool {
        let generation = Some(self.membership.generation());
        self.has_quorum(|node| self.peers.get(&node).is_some_and(|peer| peer.configured == generation))
    }

    /// The configuration that follows a decided joint one: the next members alone. `None` until they hold everything
    /// that was ever committed, because from then on they decide alone.
    pub(super) fn successor(&self) -> Option<Configuration> {
        let Membership { decided, floor, .. } = self.membership;
        let current = self.configuration().filter(|_| decided && self.membership.is_joint())?;
        if self.acknowledged_by_quorum() < floor.max(self.term_start()) {
            return None;
        }
        let generation = Generation(current.generation.0.checked_add(1)?);
        let members = current.new_members.clone();
        Some(Configuration { generation, members, new_members: Vec::new(), ..current.clone() })
    }
}
