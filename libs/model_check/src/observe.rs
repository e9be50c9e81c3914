//! Observer of a step: records elections, commits and decided configurations in the ledger, and checks them.

use consensus::{Configuration, Election, WalBuffer};
use wal_types::{Lsn, Term};

use crate::coverage::Event;
use crate::invariant::Invariant;
use crate::ledger::Ledger;
use crate::names::{index, initial_configuration};
use crate::record::records_below;
use crate::step::Step;
use crate::writer::{self, Writer};

impl Step<'_> {
    /// Records that the step has broken an invariant.
    pub(crate) fn record_violation(&mut self, invariant: Invariant) {
        self.ledger(|ledger| ledger.violated = Some(invariant));
    }

    /// Changes the ledger.
    pub(crate) fn ledger<R>(&mut self, change: impl FnOnce(&mut Ledger) -> R) -> R {
        self.state.ledger.change(change)
    }

    /// Compares the primary's WAL with the chosen log, between the votes and the first message that truncates a log. A
    /// primary with the log's bytes continues; else a standby that replayed the log takes its place and leads without
    /// WAL below the start.
    pub(crate) fn handle_election(&mut self, acting: &mut Writer, election: &Election) {
        let Some(proposer) = &mut acting.campaign else { return };
        let term = election.term.0 as usize;
        self.coverage.count_election(election.term);

        let newest = self.state.ledger.elected.len() <= term;
        if self.state.ledger.elected.get(term).copied().unwrap_or(false) {
            return self.record_violation(Invariant::OneLeaderPerTerm);
        }
        self.ledger(|ledger| {
            let terms = ledger.elected.len().max(term + 1);
            ledger.elected.resize(terms, false);
            ledger.elected[term] = true;
        });

        let donor = &self.state.nodes[index(election.donor)];
        if donor.acceptor.state().term > election.term {
            // The donor no longer answers a checksum request of this term.
            acting.campaign = None;
            return;
        }

        let start = records_below(election.start);
        let Some(log) = donor.log().get(..start) else {
            return self.record_violation(Invariant::LogHasNoHoles);
        };
        if newest && !log.starts_with(&self.state.ledger.committed) {
            return self.record_violation(Invariant::CommittedBytesNeverChange);
        }

        if acting.wal.starts_with(log) {
            proposer.approve(writer::buffer(&acting.wal));
        } else {
            self.coverage.count(Event::Recovered);
            acting.wal = log.to_vec();
            proposer.approve(WalBuffer::new(election.start));
        }
    }

    /// Checks and records a commit.
    pub(crate) fn handle_commit(&mut self, acting: &mut Writer, commit: Lsn) {
        let Some(proposer) = &mut acting.campaign else { return };
        self.coverage.count_commit(proposer.term());
        if let Some(configuration) = proposer.configuration() {
            self.count_configuration(configuration, Event::CommittedJoint, Event::CommittedNext);
        }
        if self.bounds.heartbeats {
            proposer.announce_commit();
        }

        let decided = &acting.wal[..records_below(commit).min(acting.wal.len())];
        let known = &self.state.ledger.committed;
        if !known.starts_with(decided) && !decided.starts_with(known) {
            return self.record_violation(Invariant::CommittedBytesNeverChange);
        }

        if decided.len() > known.len() {
            let decided = decided.to_vec();
            self.ledger(|ledger| ledger.committed = decided);
        }
    }
}

/// Records of configurations.
impl Step<'_> {
    /// Records the configurations that nodes hold.
    pub(crate) fn record_configurations(&mut self) {
        let interleaved = self.bounds.interleaved;
        for node in 0..self.state.nodes.len() {
            let known = self.state.nodes[node].acceptor.state();
            let held = &self.state.ledger.configurations;
            let (term, configuration) = (known.configuration_term, &known.configuration);
            let is_known = |by: Term| by == term || (by > term && !interleaved);
            if held.iter().any(|(by, held)| is_known(*by) && held == configuration) {
                continue;
            }

            let configuration = configuration.clone();
            self.ledger(|ledger| {
                // No pre-vote of a later term needs the older entry.
                ledger.configurations.retain(|(_, same)| interleaved || *same != configuration);
                ledger.configurations.push((term, configuration));
                ledger.configurations.sort_by_key(|(term, configuration)| (*term, configuration.generation));
            });
        }
    }

    /// Counts `joint` for a joint configuration, and `next` for one after a change.
    fn count_configuration(&self, configuration: &Configuration, joint: Event, next: Event) {
        if !configuration.new_members.is_empty() {
            self.coverage.count(joint);
        } else if configuration.generation > initial_configuration().generation {
            self.coverage.count(next);
        }
    }

    /// Checks and records a decided configuration.
    pub(crate) fn handle_decided_configuration(&mut self, configuration: Configuration) {
        self.coverage.count(Event::Configured);
        self.count_configuration(&configuration, Event::DecidedJoint, Event::DecidedNext);

        let decided = &self.state.ledger.decided;
        let same = decided.iter().find(|known| known.generation == configuration.generation);
        if same.is_some_and(|same| *same != configuration) {
            return self.record_violation(Invariant::OneConfigurationPerGeneration);
        }

        let newest = decided.iter().all(|known| known.generation < configuration.generation);
        if same.is_some() || configuration.generation == initial_configuration().generation {
            return;
        }

        self.ledger(|ledger| {
            if newest {
                // After a joint configuration a leader continues with the next members alone.
                let sets = configuration.sets();
                ledger.voters = sets.iter().map(|set| set.iter().map(|id| index(*id)).collect()).collect();
            }
            ledger.decided.push(configuration);
            ledger.decided.sort_by_key(|configuration| configuration.generation);
        });
    }
}
