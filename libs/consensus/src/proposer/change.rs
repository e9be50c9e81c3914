//! Changes of the configuration, by the leader of a term and nobody else.
//!
//! ```text
//! C0 --change(Members)--> joint (C0 and C1) --decided, C1 holds what is committed--> C1 --decided--> done
//! ```
//!
//! A configuration is decided when a quorum of its sets holds it under this term. A leader acts under it as soon as it
//! is proposed, and begins by deciding anew what it found: whatever a voter of its election held.

use wal_types::{Generation, Lsn, NodeId};

use super::membership::Membership;
use super::peer::PeerState;
use super::{Action, CampaignPhase, ChangeRefused, ConfigurationChange, LostTerm, Proposer};
use crate::configuration::{Configuration, Member};
use crate::message::{ConfigureRequest, ConfigureResponse, ProposerMessage};
use crate::quorum;

impl Proposer {
    /// The configuration that this proposer acts under; none before the first greeting.
    pub const fn configuration(&self) -> Option<&Configuration> {
        self.membership.configuration()
    }

    /// Members that this proposer has no connection to and was not told of: the driver should call
    /// [`Proposer::add_peer`] and connect.
    pub fn unknown_members(&self) -> Vec<Member> {
        let Some(configuration) = self.configuration() else { return Vec::new() };
        let listed = configuration.members.iter().chain(&configuration.new_members);
        let mut unknown: Vec<Member> =
            listed.filter(|member| !self.peers.contains_key(&member.id)).cloned().collect();
        unknown.sort_by_key(|member| member.id);
        unknown.dedup_by_key(|member| member.id);
        unknown
    }

    /// One more safekeeper to talk to. It votes only where the configuration lists it.
    pub fn add_peer(&mut self, node: NodeId) {
        self.peers.entry(node).or_default();
    }

    /// Begins a step to another configuration, and returns its generation. While members change nothing is committed
    /// that the next ones do not hold as well: add them as peers and let them catch up first.
    pub fn begin_change(&mut self, change: ConfigurationChange) -> Result<Generation, ChangeRefused> {
        if self.phase != CampaignPhase::Leading {
            return Err(ChangeRefused::NotLeading);
        }
        let current = self.configuration().cloned().unwrap_or_default();
        if !self.membership.decided || !current.new_members.is_empty() {
            return Err(ChangeRefused::Undecided(current.generation));
        }
        let generation = Generation(current.generation.0.checked_add(1).ok_or(ChangeRefused::Exhausted)?);
        let next = match change {
            ConfigurationChange::Members(members) if members == current.members => {
                return Err(ChangeRefused::NoChange);
            }
            ConfigurationChange::Primary(primary) if current.primary == Some(primary) => {
                return Err(ChangeRefused::NoChange);
            }
            ConfigurationChange::Members(members) if members.is_empty() || current.members.is_empty() => {
                return Err(ChangeRefused::NoMembers);
            }
            ConfigurationChange::Members(new_members) => {
                // The joint configuration needs a successor.
                generation.0.checked_add(1).ok_or(ChangeRefused::Exhausted)?;
                Configuration { generation, new_members, ..current }
            }
            ConfigurationChange::Primary(primary) => {
                Configuration { generation, primary: Some(primary), ..current }
            }
        };
        next.validate()?;
        self.propose(next);
        Ok(generation)
    }

    fn propose(&mut self, next: Configuration) {
        let floor = self.commit_lsn.max(self.term_start());
        self.membership.propose(self.term, next.clone(), floor);
        let request = ConfigureRequest { term: self.term, configuration: next };
        let followers = self.peers.values_mut().filter(|peer| peer.sent().is_some());
        followers.for_each(|peer| peer.outbox.push_back(ProposerMessage::Configure(request.clone())));
    }

    pub(super) fn configured(
        &mut self,
        from: NodeId,
        response: ConfigureResponse,
    ) -> Result<Vec<Action>, LostTerm> {
        self.check_term(from, response.term)?;
        let possible = response.term == self.term && response.generation <= self.membership.generation();
        let Some(peer) = self.peers.get_mut(&from).filter(|peer| possible && peer.sent().is_some()) else {
            return Ok(self.reset(from));
        };
        peer.configured = peer.configured.max(Some(response.generation));
        Ok(self.advance())
    }

    /// What follows from the newest acknowledgements: commits, decided configurations, and the step out of a joint one.
    pub(super) fn advance(&mut self) -> Vec<Action> {
        let mut actions = Vec::new();
        loop {
            actions.extend(self.advance_commit());
            if !self.membership.decided && self.is_accepted() {
                self.membership.decided = true;
                let listed = self.configuration().filter(|configuration| !configuration.members.is_empty());
                actions.extend(listed.cloned().map(Action::Configured));
            }
            let Some(last) = self.successor() else { break };
            self.propose(last);
        }
        // Perhaps it was for this that they wait.
        self.in_state(&PeerState::Voted).into_iter().for_each(|node| self.lead(node));
        actions
    }

    fn advance_commit(&mut self) -> Option<Action> {
        let commit = self.acknowledged_by_quorum();
        (commit > self.commit_lsn).then(|| {
            self.commit_lsn = commit;
            Action::Committed(commit)
        })
    }

    pub(super) fn acknowledged_by_quorum(&self) -> Lsn {
        let acked = |node: NodeId| self.peers.get(&node).map_or(Lsn::INVALID, |peer| peer.acked);
        quorum::committed(&self.sets(), self.term_start(), acked)
    }

    fn is_accepted(&self) -> bool {
        let generation = Some(self.membership.generation());
        self.has_quorum(|node| self.peers.get(&node).is_some_and(|peer| peer.configured == generation))
    }

    /// What comes after a joint configuration, once its next members hold everything that was ever committed: from then
    /// on they decide alone.
    fn successor(&self) -> Option<Configuration> {
        let Membership { decided, floor, .. } = self.membership;
        let current = self.configuration().filter(|_| decided && self.membership.is_joint())?;
        if self.acknowledged_by_quorum() < floor.max(self.term_start()) {
            return None;
        }
        let generation = Generation(current.generation.0.checked_add(1)?);
        Some(Configuration {
            generation,
            members: current.new_members.clone(),
            new_members: Vec::new(),
            primary: current.primary,
        })
    }

    /// A log that is reserved for a primary takes no other one's WAL. Who has no primary adds no WAL.
    pub(super) fn check_designated(&self) -> Result<(), LostTerm> {
        let brings_wal = self.options.primary.is_some() || self.options.tli.is_some();
        match self.membership.primary() {
            Some(designated) if brings_wal && self.options.primary != Some(designated) => {
                Err(LostTerm::NotDesignated { designated })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Where this term's own WAL begins; beyond everything before the election.
    pub(super) fn term_start(&self) -> Lsn {
        self.election.as_ref().map_or(Lsn::MAX, |election| election.start)
    }
}
