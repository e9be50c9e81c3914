//! Invariants of elections: votes, leaders, starts of terms, PostgreSQL timelines.

use std::collections::BTreeSet;

use consensus::Election;
use wal_types::{Lsn, NodeId, ProposerId, Term};

use super::{Oracle, Violation, ensure, has_majorities, list_nodes, list_sets};
use crate::primary::{START, Timeline};

impl Oracle {
    /// S1, first half, excludes: a node votes for A in term 5, loses power before the vote is on disk, and votes for B
    /// in term 5.
    pub(crate) fn vote_is_granted_once_per_term(
        &mut self,
        node: NodeId,
        term: Term,
        to: ProposerId,
    ) -> Result<(), Violation> {
        let first = *self.votes.entry(term).or_default().entry(node).or_insert(to);
        ensure("vote_is_granted_once_per_term", first == to, || {
            format!("node {node} granted term {term} to {first} and to {to}")
        })
    }

    /// S1, second half, excludes: two proposers lead term 5, each with a majority by its own count: their bytes have
    /// equal names and cannot be told apart. The oracle counts majorities from the nodes' replies.
    pub(crate) fn one_leader_per_term(
        &mut self,
        term: Term,
        leader: ProposerId,
        sets: &[Vec<NodeId>],
    ) -> Result<BTreeSet<NodeId>, Violation> {
        let name = "one_leader_per_term";
        let first = *self.leaders.entry(term).or_insert(leader);
        ensure(name, first == leader, || format!("{first} and {leader} both lead term {term}"))?;
        let votes = self.votes.get(&term).into_iter().flatten();
        let voters: BTreeSet<NodeId> =
            votes.filter(|(_, to)| **to == leader).map(|(&node, _)| node).collect();
        ensure(name, has_majorities(sets, &voters), || {
            let (voters, sets) = (list_nodes(&voters), list_sets(sets));
            format!("{leader} leads term {term}: {voters} voted for it, no majority of {sets}")
        })?;
        Ok(voters)
    }

    /// Basis of S3; excludes: the votes of term 3 miss every node that holds what term 2 committed, or the shorter log
    /// of a higher term loses against a longer one: term 3 begins below that commit and overwrites it. Checked when a
    /// term begins and when one commits, because replies may be late.
    pub(crate) fn term_begins_above_all_commits(&self) -> Result<(), Violation> {
        let mut committed = Lsn::INVALID;
        for (term, &(start, commit)) in &self.terms {
            ensure("term_begins_above_all_commits", start >= committed, || {
                format!("term {term} begins at {start}, but an earlier one committed {committed}")
            })?;
            committed = committed.max(commit);
        }
        Ok(())
    }

    /// Records the start of a term.
    pub(crate) fn record_term_start(&mut self, election: &Election) {
        self.terms.insert(election.term, (election.start, Lsn::INVALID));
    }

    /// Records a commit of a term.
    pub(crate) fn record_term_commit(&mut self, term: Term, commit: Lsn) {
        self.terms.entry(term).and_modify(|(_, upto)| *upto = (*upto).max(commit));
    }

    /// S7 excludes: two failovers at once promote standbys to timeline 2 at different positions or with different WAL,
    /// and archives and backups cannot tell them apart. Or a standby is promoted below the commit position.
    pub(crate) fn timeline_number_begins_once(
        &mut self,
        timeline: Timeline,
        commit: Lsn,
    ) -> Result<(), Violation> {
        let name = "timeline_number_begins_once";
        let begins = timeline.fork.map_or(START, |(_, at)| at);
        if commit <= begins {
            return Ok(());
        }

        let known = self.timelines.len();
        let highest = self.highest_timeline();
        let first = *self.timelines.entry(timeline.tli).or_insert(timeline);
        ensure(name, first == timeline, || format!("{first:?} and {timeline:?} were both committed"))?;

        let is_new = self.timelines.len() > known && known > 0;
        ensure(name, !is_new || (timeline.tli > highest.tli && begins >= self.commit_lsn()), || {
            format!(
                "{timeline:?} begins where {} was committed on timeline {}",
                self.commit_lsn(),
                highest.tli
            )
        })
    }
}
