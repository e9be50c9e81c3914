//! Changes of the configuration that an operator requests: other members, or another primary that may write the log.
//!
//! New members first receive the log as followers that do not vote. The change is proposed when they hold nearly
//! everything, because commits need them from then on. An empty safekeeper that voted at once would block commits until
//! it has copied the whole log.

use consensus::codec::HOST_BYTES_MAX;
use consensus::{CampaignPhase, ChangeRefused, Configuration, ConfigurationChange, Member, PeerState};
use wal_types::{Generation, Lsn, NodeId};

use super::Campaign;
use super::requested_change::{BehindMember, CatchUp, RequestedChange};
use crate::change_result::{ChangeAccepted, ChangeError, FOLLOWERS_MAX};
use crate::config::SafekeeperAddress;
use crate::status::{ChangeState, ChangeView, ConfigurationView};

/// A new member may vote when it lacks at most this much: the rest is in memory and on its way.
const NEW_MEMBER_LAG_BYTES_MAX: u64 = 1024 * 1024;

impl Campaign {
    /// Begins a change of the configuration.
    pub(crate) fn begin_change(
        &mut self,
        change: ConfigurationChange,
    ) -> Result<ChangeAccepted, ChangeError> {
        if change == ConfigurationChange::Abandon {
            return self.abandon_change();
        }
        if let Some(requested) = self.requested_change.as_ref().filter(|requested| requested.is_under_way()) {
            return Err(ChangeError::UnderWay(requested.view.generation));
        }
        let current = self.decided_configuration()?;

        let generation = match change {
            ConfigurationChange::Members(members) if same_members(&members, &current.members) => {
                return Ok(ChangeAccepted::Already(current.generation));
            }
            ConfigurationChange::Members(members) => self.begin_members(&current, members)?,
            ConfigurationChange::Primary(primary) if current.primary == Some(primary) => {
                return Ok(ChangeAccepted::Already(current.generation));
            }
            ConfigurationChange::Primary(_) => self.begin_primary(change)?,
            ConfigurationChange::Abandon => return Err(ChangeRefused::NotJoint.into()),
        };

        self.publish_status();
        Ok(ChangeAccepted::Begun(generation))
    }

    /// Ends a change of the members without its new members: while they catch up it is forgotten, and afterwards the old
    /// members vote alone again. Works as well for a joint configuration that an earlier leader left behind.
    fn abandon_change(&mut self) -> Result<ChangeAccepted, ChangeError> {
        if self.proposer.phase() != CampaignPhase::Leading {
            return Err(ChangeRefused::NotLeading.into());
        }
        let waiting = self.requested_change.as_mut().filter(|requested| requested.catch_up.is_some());
        let accepted = if let Some(requested) = waiting {
            requested.catch_up = None;
            fail(&mut requested.view, "given up on request; nothing was changed".to_owned());
            ChangeAccepted::Already(self.proposer.configuration().map_or(Generation(0), |now| now.generation))
        } else {
            let generation = self.proposer.begin_change(ConfigurationChange::Abandon)?;
            tracing::info!(%generation, "leaving a change of the members: the old members vote alone again");
            if let Some(requested) = self.requested_change.as_mut() {
                fail(&mut requested.view, "given up on request; the old members vote alone again".to_owned());
            }
            ChangeAccepted::Begun(generation)
        };
        self.publish_status();
        Ok(accepted)
    }

    /// The configuration, when a change may start from it: decided under this term, and not joint.
    fn decided_configuration(&self) -> Result<Configuration, ChangeRefused> {
        if self.proposer.phase() != CampaignPhase::Leading {
            return Err(ChangeRefused::NotLeading);
        }
        let current = self.proposer.configuration().cloned().unwrap_or_default();
        if current.members.is_empty() {
            return Err(ChangeRefused::NoMembers);
        }
        if !self.is_decided() || !current.new_members.is_empty() {
            return Err(ChangeRefused::Undecided(current.generation));
        }
        Ok(current)
    }

    fn begin_primary(&mut self, change: ConfigurationChange) -> Result<Generation, ChangeError> {
        let generation = self.proposer.begin_change(change)?;
        tracing::info!(%generation, "giving the log to another primary");
        let state = ChangeState::Proposed;
        let view = ChangeView { generation, state, waits_for: Vec::new(), error: None };
        self.requested_change = Some(RequestedChange { catch_up: None, view });
        Ok(generation)
    }

    /// Connects to the new members. Everything that could refuse the change later is checked now.
    fn begin_members(
        &mut self,
        current: &Configuration,
        members: Vec<Member>,
    ) -> Result<Generation, ChangeError> {
        // Two steps: to the joint configuration, and from there to the new one.
        let generation =
            current.generation.0.checked_add(2).map(Generation).ok_or(ChangeRefused::Exhausted)?;
        if members.is_empty() {
            return Err(ChangeRefused::NoMembers.into());
        }
        let wanted = Configuration { generation, members, ..Configuration::default() };
        wanted.validate().map_err(ChangeRefused::Invalid)?;
        let members = wanted.members;
        if let Some(unusable) = members.iter().find(|member| !has_usable_address(member)) {
            return Err(ChangeError::Address(unusable.id));
        }
        let new: Vec<&Member> = members.iter().filter(|member| !lists(&current.members, member.id)).collect();
        if self.followers.len() + new.len() > FOLLOWERS_MAX {
            return Err(ChangeError::TooManyFollowers);
        }

        for member in new {
            let address = address_of(member);
            // An earlier change may have tried the same safekeeper under another address.
            if self.followers.get(&member.id).is_some_and(|follower| follower.address != address) {
                self.remove_follower(member.id);
            }
            self.dial(address);
        }

        tracing::info!(%generation, members = ?ids(&members), "changing the members");
        let state = ChangeState::CatchingUp;
        let view = ChangeView { generation, state, waits_for: Vec::new(), error: None };
        self.requested_change = Some(RequestedChange { catch_up: Some(CatchUp::start(members)), view });
        self.advance_change();
        Ok(generation)
    }

    /// Proposes a change that waits for its new members, when none of them lacks much. Fails it when that takes too long.
    pub(super) fn advance_change(&mut self) {
        let Some(mut requested) = self.requested_change.take() else { return };
        if let Some(mut catch_up) = requested.catch_up.take() {
            let behind = self.behind_members(&catch_up.members);
            catch_up.record_positions(&behind);
            requested.view.waits_for = behind.iter().map(|member| (member.id, member.lag_bytes)).collect();

            if let Some(hopeless) = behind.iter().find(|member| member.cannot_follow) {
                fail(&mut requested.view, cannot_follow(hopeless));
            } else if behind.is_empty() {
                self.propose_members(catch_up.members, &mut requested.view);
            } else if let Some(error) = catch_up.timeout_error(&requested.view) {
                fail(&mut requested.view, error);
            } else {
                requested.catch_up = Some(catch_up);
            }
        }
        self.requested_change = Some(requested);
    }

    fn propose_members(&mut self, members: Vec<Member>, view: &mut ChangeView) {
        match self.proposer.begin_change(ConfigurationChange::Members(members)) {
            Ok(_) => view.state = ChangeState::Proposed,
            Err(refused) => fail(view, refused.to_string()),
        }
    }

    /// The safekeepers in `members` that do not vote yet and still lack too much WAL to vote.
    fn behind_members(&self, members: &[Member]) -> Vec<BehindMember> {
        let current = self.proposer.configuration().map_or(&[][..], |current| &current.members);
        let peers = self.proposer.status();
        let commit = self.proposer.commit_lsn();
        let start = self.proposer.election().map_or(Lsn::MAX, |election| election.start);
        // WAL that every member has may be removed everywhere: a new member that lacks it might never receive it.
        let at_members = peers.iter().filter(|peer| lists(current, peer.id)).map(|peer| peer.flush_lsn);
        let removable = at_members.min().unwrap_or_default().min(commit);

        let new = peers.iter().filter(|peer| lists(members, peer.id) && !lists(current, peer.id));
        let behind = |peer: &consensus::PeerStatus| {
            let follows = matches!(peer.state, PeerState::Streaming { .. }) && !peer.catching_up;
            let lag = commit.bytes_since(peer.flush_lsn);
            let is_near = peer.flush_lsn >= start.max(removable) && lag <= NEW_MEMBER_LAG_BYTES_MAX;
            let lag_bytes = matches!(peer.state, PeerState::Streaming { .. }).then_some(lag);
            let cannot_follow = peer.needs_reseed;
            let member = BehindMember { id: peer.id, flush_lsn: peer.flush_lsn, lag_bytes, cannot_follow };
            (!follows || !is_near || !commit.is_valid()).then_some(member)
        };
        new.filter_map(behind).collect()
    }

    /// Records that a quorum holds `configuration` under this term.
    pub(super) fn record_decision(&mut self, configuration: &Configuration) {
        self.decided_generation = Some(configuration.generation);
        let generation = configuration.generation;
        tracing::info!(%generation, members = ?ids(&configuration.members), joint = !configuration.new_members.is_empty(), "configuration decided");
        let requested = self.requested_change.as_mut();
        // The end of a change that was left has the generation of its last step.
        let is_meant = |requested: &&mut RequestedChange| {
            requested.is_under_way() && requested.view.generation == generation
        };
        if let Some(requested) = requested.filter(is_meant) {
            requested.view.state = ChangeState::Decided;
        }
    }

    /// Disconnects safekeepers that are not members, once no safekeeper reads from a donor and no change is under way.
    pub(super) fn remove_non_members(&mut self) {
        let reading = self.followers.values().any(|follower| follower.donor_stream.is_some());
        let under_way = self.requested_change.as_ref().is_some_and(RequestedChange::is_under_way);
        let Ok(current) = self.decided_configuration() else { return };
        if !self.dials_unlisted_members || reading || under_way {
            return;
        }

        let nodes: Vec<NodeId> = self.followers.keys().copied().collect();
        for node in nodes.into_iter().filter(|&node| !lists(&current.members, node)) {
            tracing::info!(safekeeper = %node, "disconnecting a safekeeper that is not a member");
            self.remove_follower(node);
        }
    }

    fn is_decided(&self) -> bool {
        let current = self.proposer.configuration().map(|configuration| configuration.generation);
        current.is_some() && self.decided_generation == current
    }

    /// The configuration as the status shows it.
    pub(super) fn configuration_view(&self) -> Option<ConfigurationView> {
        let configuration = self.proposer.configuration()?.clone();
        Some(ConfigurationView { configuration, decided: self.is_decided() })
    }
}

fn fail(view: &mut ChangeView, error: String) {
    tracing::warn!(generation = %view.generation, error, "change of the members failed");
    view.state = ChangeState::Failed;
    view.error = Some(error);
}

/// Waiting would not help: the safekeeper says where its log is, and nobody has WAL that continues it.
fn cannot_follow(member: &BehindMember) -> String {
    format!(
        "new member {} cannot follow: its log ends at {}, and no safekeeper has the WAL that continues it; create its copy anew \
         with start_lsn at the oldest_lsn of a member; nothing was changed",
        member.id, member.flush_lsn
    )
}

fn lists(members: &[Member], node: NodeId) -> bool {
    members.iter().any(|member| member.id == node)
}

fn same_members(one: &[Member], other: &[Member]) -> bool {
    // A request names no copy: it means the one that is a member.
    let is_same = |member: &Member| {
        other
            .iter()
            .any(|other| (other.id, &other.host, other.port) == (member.id, &member.host, member.port))
    };
    one.len() == other.len() && one.iter().all(is_same)
}

fn has_usable_address(member: &Member) -> bool {
    (1..=HOST_BYTES_MAX).contains(&member.host.len()) && !member.host.contains('\0') && member.port != 0
}

fn ids(members: &[Member]) -> Vec<u64> {
    members.iter().map(|member| member.id.0).collect()
}

/// The address of a member, for its link.
pub(super) fn address_of(member: &Member) -> SafekeeperAddress {
    SafekeeperAddress { id: member.id, host: member.host.clone(), port: member.port }
}
