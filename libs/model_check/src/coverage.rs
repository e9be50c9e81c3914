//! [`Coverage`]: counters of events that a useful check must reach.

use std::sync::atomic::{AtomicU64, Ordering};

use wal_types::Term;

/// Terms below this number are counted separately.
const TERMS_MAX: usize = 8;

/// Events that are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A node truncated its log.
    Truncated,
    /// A node refused a message.
    Refused,
    /// A node crashed between two messages.
    Crashed,
    /// A node crashed between two effects.
    CrashedWithin,
    /// A campaign or a term ended because of a higher term or lost votes.
    Deposed,
    /// A term began whose primary had other WAL than the log.
    Recovered,
    /// A node received WAL from a donor.
    Fetched,
    /// A leader reconnected to a node that follows it.
    Reconnected,
    /// A configuration was decided.
    Configured,
    /// A joint configuration was decided.
    DecidedJoint,
    /// A configuration with one member list was decided after a change.
    DecidedNext,
    /// Something was committed under a joint configuration.
    CommittedJoint,
    /// Something was committed under a changed configuration with one member list.
    CommittedNext,
    /// A leader began a change of the configuration.
    Changing,
    /// A campaign ended because of a newer configuration, or because its primary is not designated.
    Reconfigured,
}

/// All events and their names in the output.
pub(crate) const EVENTS: [(Event, &str); 15] = [
    (Event::Truncated, "truncations"),
    (Event::Refused, "refusals"),
    (Event::Crashed, "crashes"),
    (Event::CrashedWithin, "crashes between effects"),
    (Event::Deposed, "depositions"),
    (Event::Recovered, "leaders with another log"),
    (Event::Fetched, "fetches"),
    (Event::Reconnected, "reconnects"),
    (Event::Configured, "decided configurations"),
    (Event::DecidedJoint, "of them joint"),
    (Event::DecidedNext, "of them changed"),
    (Event::CommittedJoint, "commits under a joint configuration"),
    (Event::CommittedNext, "commits under a changed configuration"),
    (Event::Changing, "begun changes"),
    (Event::Reconfigured, "campaigns ended by a configuration"),
];

/// Counters, shared by all threads of a check.
#[derive(Debug, Default)]
pub(crate) struct Coverage {
    events: [AtomicU64; EVENTS.len()],
    elections: [AtomicU64; TERMS_MAX],
    commits: [AtomicU64; TERMS_MAX],
}

impl Coverage {
    pub(crate) fn count(&self, event: Event) {
        self.events[event as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_of(&self, event: Event) -> u64 {
        self.events[event as usize].load(Ordering::Relaxed)
    }

    pub(crate) fn count_election(&self, term: Term) {
        count_term(&self.elections, term);
    }

    pub(crate) fn count_commit(&self, term: Term) {
        count_term(&self.commits, term);
    }

    /// Elections and commits of terms 1 to `terms`.
    pub(crate) fn terms(&self, terms: u64) -> Vec<(u64, u64)> {
        let read = |counters: &[AtomicU64], term: u64| {
            counters.get(term as usize).map_or(0, |counter| counter.load(Ordering::Relaxed))
        };
        (1..=terms).map(|term| (read(&self.elections, term), read(&self.commits, term))).collect()
    }
}

fn count_term(counters: &[AtomicU64], term: Term) {
    if let Some(counter) = counters.get(term.0 as usize) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
