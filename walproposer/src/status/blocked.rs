//! Reason for which commits are not acknowledged, or not as promised, in one sentence: for operators, and for `/readyz`.

use std::time::Duration;

use consensus::quorum::{self, majority};
use tokio::time::Instant;
use wal_types::NodeId;

use super::{LeadershipState, LinkState, SafekeeperView, SettingsView, StatusSnapshot};

/// A safekeeper that follows but leaves a message unanswered for this long counts as stalled; one that answers, and has
/// written nothing of what it was sent for this long, as one without room.
const STALL_AFTER: Duration = Duration::from_secs(3);

/// What to do when too many disks are gone.
const NO_MAJORITY_LEFT: &str =
    "if their disks are gone for good, see \"Two of three lost\" in docs/operations.md";

impl StatusSnapshot {
    /// The reason for which commits are not acknowledged now, or are acknowledged without the quorum or by a primary that
    /// may lose WAL; `None` when all is well.
    pub(crate) fn blocked(&self) -> Option<String> {
        self.unsafe_settings().or_else(|| self.waiting())
    }

    /// What is wrong with the primary's settings. While there is no connection to the primary nothing is known of them.
    fn unsafe_settings(&self) -> Option<String> {
        let is_connected = self.state != LeadershipState::WaitingForPrimary;
        self.settings.as_ref().filter(|_| is_connected).and_then(SettingsView::sentence)
    }

    /// The reason for which commits wait.
    fn waiting(&self) -> Option<String> {
        match self.state {
            LeadershipState::WaitingForPrimary => Some(match (&self.primary_error, &self.refusal) {
                (Some(error), _) => format!("primary is down: {error}"),
                (None, Some(refusal)) => match self.stays_away() {
                    Some(left) => format!(
                        "{refusal}; this walproposer stays away for {} s more, or until the primary was restarted",
                        left.as_secs()
                    ),
                    None => refusal.clone(),
                },
                (None, None) => "no connection to the primary yet".to_owned(),
            }),
            LeadershipState::Collecting | LeadershipState::Campaigning | LeadershipState::Checking => Some(
                self.quorum_missing()
                    .or_else(|| self.quorum_lost())
                    .or_else(|| self.refusal.clone())
                    .unwrap_or_else(|| self.stage_sentence().to_owned()),
            ),
            LeadershipState::Streaming => self.stream_blocked(),
        }
    }

    /// `Ok` when a quorum acknowledges all commits; else the reason of [`StatusSnapshot::blocked`].
    pub(crate) fn ready(&self) -> Result<(), String> {
        self.blocked().map_or(Ok(()), Err)
    }

    /// Time for which a primary with other WAL than the log still stays away.
    pub(super) fn stays_away(&self) -> Option<Duration> {
        self.away_until.map(|until| until.saturating_duration_since(Instant::now()))
    }

    /// The stage of an election, when nothing else blocks commits.
    const fn stage_sentence(&self) -> &'static str {
        match self.state {
            LeadershipState::WaitingForPrimary => "no connection to the primary yet",
            LeadershipState::Collecting => "the safekeepers are being asked for their positions",
            LeadershipState::Campaigning => "an election is under way",
            LeadershipState::Checking => "the primary's WAL is being compared with the safekeepers'",
            LeadershipState::Streaming => "WAL is being streamed",
        }
    }

    fn stream_blocked(&self) -> Option<String> {
        let following = |view: &SafekeeperView| {
            view.state == LinkState::Streaming && !view.is_stalled() && !view.has_no_room()
        };
        let is_settled = self.commit_lsn.is_valid();
        if is_settled && quorum::reached(&self.voters(), |node| self.view(node).is_some_and(following)) {
            return None;
        }
        let reason = self.quorum_missing().or_else(|| self.without_room()).or_else(|| self.reseed());
        Some(reason.or_else(|| self.stalled()).or_else(|| self.catching_up()).unwrap_or_else(|| {
            format!("a majority of the safekeepers has yet to write the log up to {}", self.term_start_lsn)
        }))
    }

    fn view(&self, node: NodeId) -> Option<&SafekeeperView> {
        self.safekeepers.iter().find(|view| view.address.id == node)
    }

    fn quorum_missing(&self) -> Option<String> {
        self.voters().into_iter().find_map(|set| self.missing_of_set(&set))
    }

    fn missing_of_set(&self, set: &[NodeId]) -> Option<String> {
        let away = |view: &SafekeeperView| matches!(view.state, LinkState::Offline | LinkState::Connecting);
        let missing: Vec<NodeId> =
            set.iter().copied().filter(|&node| self.view(node).is_none_or(away)).collect();
        let (all, present) = (set.len(), set.len() - missing.len());
        let needed = majority(all).checked_sub(present).filter(|&needed| needed > 0)?;

        let which = ids(missing.iter().copied());
        let needed = if needed == 1 { "one".to_owned() } else { needed.to_string() };
        let verb = if missing.len() == 1 { "is" } else { "are" };
        let mut sentence = format!(
            "{} of {all} safekeepers {verb} unreachable ({which}): commits wait for {needed} of them",
            missing.len()
        );

        if present == 0 || missing.len() > 1 {
            sentence.push_str(&format!("; {NO_MAJORITY_LEFT}"));
        }
        for node in missing {
            if let Some(error) = self.view(node).and_then(|view| view.last_error.as_ref()) {
                sentence.push_str(&format!("; {node}: {error}"));
            }
        }
        Some(sentence)
    }

    /// Without the members that lost acknowledged WAL no majority can elect.
    fn quorum_lost(&self) -> Option<String> {
        let voters = self.voters();
        let has_lost = |node: NodeId| self.view(node).is_some_and(|view| view.lost);
        if quorum::reached(&voters, |node| !has_lost(node)) {
            return None;
        }
        let lost: Vec<NodeId> =
            self.safekeepers.iter().filter(|view| view.lost).map(|view| view.address.id).collect();
        let (count, all) = (lost.len(), self.safekeepers.len());
        Some(format!(
            "{count} of {all} safekeepers have lost WAL that they acknowledged ({}) and do not vote: no leader can be elected, \
             commits wait; {NO_MAJORITY_LEFT}",
            ids(lost.into_iter())
        ))
    }

    /// Members that lack WAL which no other safekeeper has.
    pub(crate) fn needing_reseed(&self) -> Vec<NodeId> {
        let voters = self.voters();
        let is_member = |view: &&SafekeeperView| voters.iter().flatten().any(|&id| id == view.address.id);
        let members = self.safekeepers.iter().filter(is_member).filter(|view| view.needs_reseed);
        members.map(|view| view.address.id).collect()
    }

    fn reseed(&self) -> Option<String> {
        let which = ids(self.needing_reseed().into_iter());
        (!which.is_empty()).then(|| {
            format!(
                "safekeepers {which} must be re-seeded: commits wait until a majority of the members follows; replace them, \
                 see \"A member is away for long\" in docs/operations.md"
            )
        })
    }

    fn without_room(&self) -> Option<String> {
        let which: Vec<NodeId> =
            self.safekeepers.iter().filter(|view| view.has_no_room()).map(|view| view.address.id).collect();
        let (count, all) = (which.len(), self.safekeepers.len());
        let (verb, they) =
            if count == 1 { ("has", "it answers and writes") } else { ("have", "they answer and write") };
        (count > 0).then(|| {
            format!(
                "{count} of {all} safekeepers {verb} no room ({}): {they} nothing, commits wait until a majority writes; see \"A disk is full\" in docs/operations.md",
                ids(which.into_iter())
            )
        })
    }

    fn stalled(&self) -> Option<String> {
        let which = ids(self.safekeepers.iter().filter(|view| view.is_stalled()).map(|view| view.address.id));
        (!which.is_empty()).then(|| {
            format!(
                "safekeepers {which} have answered nothing for {} s: commits wait until a majority does",
                STALL_AFTER.as_secs()
            )
        })
    }

    fn catching_up(&self) -> Option<String> {
        let behind = self.safekeepers.iter().filter(|view| view.state == LinkState::CatchingUp);
        let which = ids(behind.map(|view| view.address.id));
        (!which.is_empty())
            .then(|| format!("safekeepers {which} are catching up: commits wait until a majority follows"))
    }
}

impl SafekeeperView {
    /// True when it answers and writes nothing: its disk is full.
    pub(super) fn has_no_room(&self) -> bool {
        !self.is_stalled() && self.stands_still_since.is_some_and(|since| since.elapsed() > STALL_AFTER)
    }

    /// True with a slow disk, or with a network that accepts bytes and returns none.
    fn is_stalled(&self) -> bool {
        self.unanswered_since.is_some_and(|since| since.elapsed() > STALL_AFTER)
    }
}

fn ids(nodes: impl Iterator<Item = NodeId>) -> String {
    nodes.map(|node| node.to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Cluster, SafekeeperAddress};
    use crate::primary_settings::{PrimarySettings, Setting};
    use crate::status::StatusBoard;
    use LinkState::{CatchingUp, Connecting, Greeted, Offline, Streaming, Voted};
    use tokio::time::Instant;
    use wal_types::Lsn;

    fn snapshot(state: LeadershipState, links: &[LinkState], commit: u64) -> StatusSnapshot {
        let address =
            |id| SafekeeperAddress { id: NodeId(id), host: "h".into(), port: u16::try_from(id).unwrap() };
        let cluster = Cluster {
            safekeepers: (1..=links.len() as u64).map(address).collect(),
            id: wal_types::TenantTimelineId::default(),
            token: None,
        };
        let mut snapshot = StatusBoard::new(&cluster).read();
        snapshot.state = state;
        snapshot.commit_lsn = Lsn(commit);
        snapshot.term_start_lsn = Lsn(0x100);
        for (view, &link) in snapshot.safekeepers.iter_mut().zip(links) {
            view.state = link;
        }
        snapshot
    }

    #[test]
    fn blocked_is_one_sentence() {
        let table: &[(LeadershipState, &[LinkState], u64, Option<&str>)] = &[
            (LeadershipState::Streaming, &[Streaming, Streaming, Streaming], 9, None),
            (LeadershipState::Streaming, &[Streaming, Offline, Streaming], 9, None),
            (LeadershipState::Streaming, &[Streaming, CatchingUp, Streaming], 9, None),
            (
                LeadershipState::Streaming,
                &[Streaming, Offline, Connecting],
                9,
                Some(
                    "2 of 3 safekeepers are unreachable (2, 3): commits wait for one of them; if their disks are gone for good, see \"Two of three lost\" in docs/operations.md",
                ),
            ),
            (
                LeadershipState::Streaming,
                &[Streaming, Offline, CatchingUp],
                9,
                Some("safekeepers 3 are catching up: commits wait until a majority follows"),
            ),
            (
                LeadershipState::Streaming,
                &[Streaming, Streaming, Streaming],
                0,
                Some("a majority of the safekeepers has yet to write the log up to 0/100"),
            ),
            (
                LeadershipState::Streaming,
                &[Offline],
                9,
                Some(
                    "1 of 1 safekeepers is unreachable (1): commits wait for one of them; if their disks are gone for good, see \"Two of three lost\" in docs/operations.md",
                ),
            ),
            (
                LeadershipState::Collecting,
                &[Offline, Offline, Offline],
                0,
                Some(
                    "3 of 3 safekeepers are unreachable (1, 2, 3): commits wait for 2 of them; if their disks are gone for good, see \"Two of three lost\" in docs/operations.md",
                ),
            ),
            (LeadershipState::Campaigning, &[Greeted, Voted, Offline], 0, Some("an election is under way")),
            (LeadershipState::WaitingForPrimary, &[Offline], 0, Some("no connection to the primary yet")),
        ];
        for &(state, links, commit, expected) in table {
            assert_eq!(snapshot(state, links, commit).blocked().as_deref(), expected, "{state:?} {links:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn blocked_names_stalled_safekeepers() {
        let mut stalled = snapshot(LeadershipState::Streaming, &[Streaming, Streaming, Streaming], 0x200);
        stalled.safekeepers[0].unanswered_since = Some(Instant::now());
        stalled.safekeepers[2].unanswered_since = Some(Instant::now());
        tokio::time::advance(STALL_AFTER).await;
        assert_eq!(stalled.blocked(), None);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(stalled.blocked().unwrap().starts_with("safekeepers 1, 3 have answered nothing for 3 s"));
        stalled.safekeepers[2].unanswered_since = None;
        assert_eq!(stalled.blocked(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn blocked_names_safekeepers_without_room() {
        let mut full = snapshot(LeadershipState::Streaming, &[Streaming, Streaming, Streaming], 0x200);
        full.safekeepers[0].stands_still_since = Some(Instant::now());
        tokio::time::advance(STALL_AFTER + Duration::from_millis(1)).await;
        assert_eq!(full.blocked(), None, "the two others are a majority");
        full.safekeepers[1].stands_still_since = full.safekeepers[0].stands_still_since;
        let sentence = full.blocked().unwrap();
        assert!(sentence.starts_with("2 of 3 safekeepers have no room (1, 2)"), "{sentence}");
        assert!(full.ready().is_err());
        // One that does not even answer is named for that.
        full.safekeepers[1].unanswered_since = full.safekeepers[1].stands_still_since;
        let sentence = full.blocked().unwrap();
        assert!(sentence.starts_with("1 of 3 safekeepers has no room (1)"), "{sentence}");
    }

    /// Commits do not wait for the safekeepers that are down: saying so would be wrong.
    #[test]
    fn blocked_names_unsafe_settings_first() {
        let setting = |value| Setting::new(value, None);
        let settings = PrimarySettings {
            synchronous_standby_names: setting("other"),
            synchronous_commit: Some(setting("on")),
            fsync: setting("off"),
            full_page_writes: setting("on"),
            overrides: None,
        };
        let mut blocked = snapshot(LeadershipState::Streaming, &[Streaming, Offline, Offline], 9);
        blocked.settings = Some(SettingsView::new(settings, "wp", None));
        for state in [LeadershipState::Streaming, LeadershipState::Collecting, LeadershipState::Campaigning] {
            blocked.state = state;
            let sentence = blocked.blocked().unwrap();
            assert!(sentence.starts_with("the primary acknowledges commits without"), "{sentence}");
            assert!(sentence.contains("; SELECT pg_reload_conf(); | fsync is off"), "{sentence}");
        }
        blocked.state = LeadershipState::WaitingForPrimary;
        assert_eq!(blocked.blocked().as_deref(), Some("no connection to the primary yet"));
        blocked.state = LeadershipState::Streaming;
        blocked.settings.as_mut().unwrap().problems.clear();
        assert!(blocked.blocked().unwrap().starts_with("2 of 3 safekeepers are unreachable"));
    }

    #[test]
    fn blocked_names_lost_majority() {
        let mut lost = snapshot(LeadershipState::Collecting, &[Greeted, Greeted, Greeted], 0);
        lost.safekeepers[1].lost = true;
        assert!(!lost.blocked().unwrap().contains("lost"), "two others vote");
        lost.safekeepers[2].lost = true;
        let blocked = lost.blocked().unwrap();
        assert!(
            blocked.starts_with("2 of 3 safekeepers have lost WAL that they acknowledged (2, 3)"),
            "{blocked}"
        );
        assert!(blocked.contains("Two of three lost"), "{blocked}");
    }

    #[test]
    fn blocked_shows_last_refusal() {
        let mut refused = snapshot(LeadershipState::Collecting, &[Greeted, Greeted], 0);
        refused.refusal = Some("fsync is off".into());
        assert_eq!(refused.blocked().as_deref(), Some("fsync is off"));
        refused.state = LeadershipState::WaitingForPrimary;
        assert_eq!(refused.blocked().as_deref(), Some("fsync is off"));
        refused.primary_error = Some("connection refused".into());
        assert_eq!(refused.blocked().as_deref(), Some("primary is down: connection refused"));
    }

    #[test]
    fn blocked_shows_last_error_of_unreachable_safekeeper() {
        let mut away = snapshot(LeadershipState::Collecting, &[Offline], 0);
        away.safekeepers[0].last_error = Some("no such timeline".into());
        assert!(away.blocked().unwrap().ends_with("in docs/operations.md; 1: no such timeline"));
    }
}
