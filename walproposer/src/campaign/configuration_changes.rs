//! A change of the members, or of the primary that the log takes, asked for by an operator.
//!
//! New members are given the log first, as followers that do not vote; the change is proposed when they hold nearly
//! everything, because from then on commits need them. An empty safekeeper that voted at once would hold commits up until
//! it has copied the whole log.

use std::collections::BTreeMap;
use std::time::Duration;

use consensus::codec::HOST_BYTES_MAX;
use consensus::{CampaignPhase, ChangeRefused, Configuration, ConfigurationChange, Member, PeerState};
use tokio::time::Instant;
use wal_types::{Generation, Lsn, NodeId};

use super::Campaign;
use crate::config::SafekeeperAddress;
use crate::configuration_change::{ChangeAccepted, ChangeError, FOLLOWERS_MAX};
use crate::status::{ChangeState, ChangeView, ConfigurationView};

/// A new member that lacks no more than this is near enough: what is missing is in memory, and on its way.
const NEW_MEMBER_LAG_BYTES_MAX: u64 = 1024 * 1024;
/// A change is given up when no new member that it waits for has stored anything for this long.
const NEW_MEMBER_STALL_MAX: Duration = Duration::from_secs(60);
/// A change is given up when new members have not caught up after this long: they are slower than what is written.
const NEW_MEMBER_CATCH_UP_MAX: Duration = Duration::from_secs(6 * 3600);

/// What was asked for last.
#[derive(Debug)]
pub(super) struct Asked {
    /// Until it is proposed.
    waiting: Option<Waiting>,
    pub(super) view: ChangeView,
}

/// Members that get the log first.
#[derive(Debug)]
struct Waiting {
    members: Vec<Member>,
    since: Instant,
    /// The highest position that each had reached, and when one of them last stored something.
    reached: BTreeMap<NodeId, Lsn>,
    moved_at: Instant,
}

impl Asked {
    fn is_under_way(&self) -> bool {
        matches!(self.view.state, ChangeState::CatchingUp | ChangeState::Proposed)
    }
}

impl Campaign {
    /// Begins a change, or says why not.
    pub(crate) fn change(&mut self, change: ConfigurationChange) -> Result<ChangeAccepted, ChangeError> {
        if let Some(asked) = self.asked.as_ref().filter(|asked| asked.is_under_way()) {
            return Err(ChangeError::UnderWay(asked.view.generation));
        }
        let current = self.settled_configuration()?;
        let begun = match change {
            ConfigurationChange::Members(members) if same_members(&members, &current.members) => {
                return Ok(ChangeAccepted::Already(current.generation));
            }
            ConfigurationChange::Members(members) => self.begin_members(&current, members)?,
            ConfigurationChange::Primary(primary) if current.primary == Some(primary) => {
                return Ok(ChangeAccepted::Already(current.generation));
            }
            ConfigurationChange::Primary(_) => self.begin_primary(change)?,
        };
        self.publish();
        Ok(ChangeAccepted::Begun(begun))
    }

    /// The configuration, when a change may start from it.
    fn settled_configuration(&self) -> Result<Configuration, ChangeRefused> {
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
        tracing::info!(%generation, "the log is being given to another primary");
        let state = ChangeState::Proposed;
        let view = ChangeView { generation, state, waits_for: Vec::new(), error: None };
        self.asked = Some(Asked { waiting: None, view });
        Ok(generation)
    }

    /// Connects to those that are new; everything that could refuse the change later is looked at now.
    fn begin_members(
        &mut self,
        current: &Configuration,
        members: Vec<Member>,
    ) -> Result<Generation, ChangeError> {
        // By way of a joint configuration.
        let generation =
            current.generation.0.checked_add(2).map(Generation).ok_or(ChangeRefused::Exhausted)?;
        if members.is_empty() {
            return Err(ChangeRefused::NoMembers.into());
        }
        let wanted = Configuration { generation, members, ..Configuration::default() };
        wanted.validate().map_err(ChangeRefused::Invalid)?;
        let members = wanted.members;
        let usable = |member: &Member| {
            (1..=HOST_BYTES_MAX).contains(&member.host.len())
                && !member.host.contains('\0')
                && member.port != 0
        };
        if let Some(bad) = members.iter().find(|member| !usable(member)) {
            return Err(ChangeError::Address(bad.id));
        }
        let new: Vec<&Member> = members.iter().filter(|member| !lists(&current.members, member.id)).collect();
        if self.followers.len() + new.len() > FOLLOWERS_MAX {
            return Err(ChangeError::TooManyFollowers);
        }
        for member in new {
            let address = address_of(member);
            // One that was tried under another address before.
            if self.followers.get(&member.id).is_some_and(|follower| follower.address != address) {
                self.release(member.id);
            }
            self.dial(address);
        }
        tracing::info!(%generation, members = ?ids(&members), "members are being changed");
        let now = Instant::now();
        let waiting = Waiting { members, since: now, reached: BTreeMap::new(), moved_at: now };
        let state = ChangeState::CatchingUp;
        let view = ChangeView { generation, state, waits_for: Vec::new(), error: None };
        self.asked = Some(Asked { waiting: Some(waiting), view });
        self.advance_change();
        Ok(generation)
    }

    /// Proposes the change that waits, once nobody new lacks much; or gives it up.
    pub(super) fn advance_change(&mut self) {
        let Some(mut asked) = self.asked.take() else { return };
        if let Some(mut waiting) = asked.waiting.take() {
            let behind = self.behind(&waiting.members);
            let reached = |&(node, at, _): &(NodeId, Lsn, Option<u64>)| (node, at);
            let reached: BTreeMap<NodeId, Lsn> = behind.iter().map(reached).collect();
            if reached != waiting.reached {
                (waiting.reached, waiting.moved_at) = (reached, Instant::now());
            }
            asked.view.waits_for = behind.iter().map(|&(node, _, lag)| (node, lag)).collect();
            if behind.is_empty() {
                self.propose_members(waiting.members, &mut asked.view);
            } else if let Some(error) = waiting.gives_up(&asked.view) {
                fail(&mut asked.view, error);
            } else {
                asked.waiting = Some(waiting);
            }
        }
        self.asked = Some(asked);
    }

    fn propose_members(&mut self, members: Vec<Member>, view: &mut ChangeView) {
        match self.proposer.begin_change(ConfigurationChange::Members(members)) {
            Ok(_) => view.state = ChangeState::Proposed,
            Err(refused) => fail(view, refused.to_string()),
        }
    }

    /// Those of `members` that do not vote yet and are not near enough: each with its position and what it lacks.
    fn behind(&self, members: &[Member]) -> Vec<(NodeId, Lsn, Option<u64>)> {
        let current = self.proposer.configuration().map_or(&[][..], |current| &current.members);
        let peers = self.proposer.status();
        let commit = self.proposer.commit_lsn();
        let start = self.proposer.election().map_or(Lsn::MAX, |election| election.start);
        // What every member has may be removed everywhere: who lacks it might never get it.
        let at_members = peers.iter().filter(|peer| lists(current, peer.id)).map(|peer| peer.flush_lsn);
        let removable = at_members.min().unwrap_or_default().min(commit);
        let new = peers.iter().filter(|peer| lists(members, peer.id) && !lists(current, peer.id));
        let one = |peer: &consensus::PeerStatus| {
            let follows = matches!(peer.state, PeerState::Streaming { .. }) && !peer.catching_up;
            let lag = commit.bytes_since(peer.flush_lsn);
            let is_near = peer.flush_lsn >= start.max(removable) && lag <= NEW_MEMBER_LAG_BYTES_MAX;
            let known = matches!(peer.state, PeerState::Streaming { .. }).then_some(lag);
            (!follows || !is_near || !commit.is_valid()).then_some((peer.id, peer.flush_lsn, known))
        };
        new.filter_map(one).collect()
    }

    /// A quorum holds `configuration`.
    pub(super) fn configuration_decided(&mut self, configuration: &Configuration) {
        self.decided = Some(configuration.generation);
        let generation = configuration.generation;
        tracing::info!(%generation, members = ?ids(&configuration.members), joint = !configuration.new_members.is_empty(), "configuration decided");
        if let Some(asked) = self.asked.as_mut().filter(|asked| asked.view.generation == generation) {
            asked.view.state = ChangeState::Decided;
        }
    }

    /// Lets go of safekeepers that are no members, once nobody reads from them.
    pub(super) fn release_strangers(&mut self) {
        let reading = self.followers.values().any(|follower| follower.donor_stream.is_some());
        let under_way = self.asked.as_ref().is_some_and(Asked::is_under_way);
        let Ok(current) = self.settled_configuration() else { return };
        if !self.dials_members || reading || under_way {
            return;
        }
        let nodes: Vec<NodeId> = self.followers.keys().copied().collect();
        for node in nodes.into_iter().filter(|&node| !lists(&current.members, node)) {
            tracing::info!(safekeeper = %node, "no member of this log: connection closed");
            self.release(node);
        }
    }

    fn is_decided(&self) -> bool {
        let current = self.proposer.configuration().map(|configuration| configuration.generation);
        current.is_some() && self.decided == current
    }

    pub(super) fn configuration_view(&self) -> Option<ConfigurationView> {
        let configuration = self.proposer.configuration()?.clone();
        Some(ConfigurationView { configuration, decided: self.is_decided() })
    }
}

impl Waiting {
    fn gives_up(&self, view: &ChangeView) -> Option<String> {
        let which = view.waits_for.iter().map(|(node, _)| node.to_string()).collect::<Vec<_>>().join(", ");
        let stalled = self.moved_at.elapsed() > NEW_MEMBER_STALL_MAX;
        let late = self.since.elapsed() > NEW_MEMBER_CATCH_UP_MAX;
        (stalled || late).then(|| {
            let how = if stalled { "has stored nothing for" } else { "has not caught up after" };
            let long = if stalled { NEW_MEMBER_STALL_MAX } else { NEW_MEMBER_CATCH_UP_MAX };
            let long = humantime::format_duration(long);
            format!("new member {which} {how} {long}: is its log created, and its address right? nothing was changed")
        })
    }
}

fn fail(view: &mut ChangeView, error: String) {
    tracing::warn!(generation = %view.generation, error, "members are not changed");
    view.state = ChangeState::Failed;
    view.error = Some(error);
}

fn lists(members: &[Member], node: NodeId) -> bool {
    members.iter().any(|member| member.id == node)
}

fn same_members(one: &[Member], other: &[Member]) -> bool {
    one.len() == other.len() && one.iter().all(|member| other.contains(member))
}

fn ids(members: &[Member]) -> Vec<u64> {
    members.iter().map(|member| member.id.0).collect()
}

pub(super) fn address_of(member: &Member) -> SafekeeperAddress {
    SafekeeperAddress { id: member.id, host: member.host.clone(), port: member.port }
}
