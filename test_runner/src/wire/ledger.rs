//! [`Ledger`]: the positions that one safekeeper acknowledged on the wire.
//!
//! The log of a safekeeper must reach the highest flush LSN that it acknowledged. That position moves back only when
//! the winner of a newer term orders a truncation: the safekeeper may then truncate, at a moment that the wire does not
//! show. So a truncation counts from when it was sent, and a reply counts in full only when the safekeeper must have
//! given it after the truncation:
//! * a reply of a higher term was given after it: such a safekeeper ignores the truncation;
//! * a reply to an append of the truncation's own term was: a safekeeper appends only after the truncation;
//! * of any other reply only the part below the truncation counts.
//!
//! Pure code; `tap` calls it in the order in which it reads from both sides, before it passes a message on.

use serde::{Deserialize, Serialize};
use wal_types::{Lsn, ProposerId, Term};

/// Truncations that are kept: a reply from more terms ago cannot still be on its way.
const TRUNCATIONS_MAX: usize = 16;

/// Acknowledgements of one safekeeper. Plain numbers, because it is saved as JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// The position that its log must reach.
    acknowledged: u64,
    /// The highest commit LSN that it reported as durable.
    commit: u64,
    /// The highest term that it reported.
    term: u64,
    /// The last term that it voted for, and the campaign that got the vote.
    vote: Option<(u64, [u8; 16])>,
    /// Ordered truncations, oldest first.
    truncations: Vec<Truncation>,
    /// The term whose truncation it has certainly carried out: the same order truncates nothing again.
    adopted: u64,
    /// The lowest position whose bytes were seen on the wire.
    base: Option<u64>,
    /// End of the WAL that it was sent.
    sent: u64,
    /// The lowest truncation since its log was last compared.
    lowest_truncation: Option<u64>,
    /// Statements of the safekeeper that contradict each other.
    contradictions: Vec<String>,
}

/// An order of an elected proposer to truncate the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Truncation {
    term: u64,
    start: u64,
}

/// Term and positions in a reply of the safekeeper.
#[derive(Clone, Copy, Debug)]
pub struct PositionReply {
    /// The safekeeper's term.
    pub term: Term,
    /// The flush LSN.
    pub flush: Lsn,
    /// The durable commit LSN; `Lsn::INVALID` when the reply has none.
    pub commit: Lsn,
    /// Whether it replies to an append of the same term on the same connection.
    pub is_append_reply: bool,
}

/// State that a safekeeper reports after a start without a proposer.
#[derive(Clone, Copy, Debug)]
pub struct ReportedState {
    /// Its term.
    pub term: Term,
    /// The end of its log.
    pub flush: Lsn,
    /// Its commit LSN.
    pub commit: Lsn,
}

impl Ledger {
    /// The position that its log must reach.
    pub fn acknowledged(&self) -> Lsn {
        Lsn(self.acknowledged)
    }

    /// The lowest position whose bytes are known; `None` when none are.
    pub fn base(&self) -> Option<Lsn> {
        self.base.map(Lsn)
    }

    /// Statements of the safekeeper that contradict each other, one sentence each.
    pub fn contradictions(&self) -> &[String] {
        &self.contradictions
    }

    /// Records that the winner of `term` orders a truncation to `start`. False when the order changes nothing.
    pub fn record_truncation(&mut self, term: Term, start: Lsn) -> bool {
        if term.0 < self.term || term.0 == self.adopted {
            return false;
        }
        self.truncations.push(Truncation { term: term.0, start: start.0 });
        if self.truncations.len() > TRUNCATIONS_MAX {
            self.truncations.remove(0);
        }
        self.acknowledged = self.acknowledged.min(start.0);
        self.sent = if self.base.is_some() { self.sent.min(start.0) } else { start.0 };
        self.base = Some(self.base.map_or(start.0, |base| base.min(start.0)));
        self.lowest_truncation = Some(self.lowest_truncation.map_or(start.0, |lowest| lowest.min(start.0)));
        true
    }

    /// Records WAL up to `end` that is sent to it. False for a deposed proposer, whose bytes the safekeeper refuses.
    pub fn record_append(&mut self, term: Term, end: Lsn) -> bool {
        let counts = self.truncations.last().is_some_and(|truncation| truncation.term == term.0);
        if counts {
            self.sent = self.sent.max(end.0);
        }
        counts
    }

    /// Records its vote for a campaign in a term.
    pub fn record_vote(&mut self, term: Term, campaign: ProposerId) {
        match self.vote {
            Some((before, other)) if before == term.0 && other != campaign.0 => {
                self.contradictions.push(format!("voted for two campaigns in term {term}"));
            }
            Some((before, _)) if before > term.0 => {
                self.contradictions.push(format!("voted in term {term} after term {before}"));
            }
            _ => self.vote = Some((term.0, campaign.0)),
        }
    }

    /// Records the positions of a reply.
    pub fn record_reply(&mut self, answer: PositionReply) {
        let PositionReply { term, flush, commit, is_append_reply } = answer;
        self.term = self.term.max(term.0);
        self.commit = self.commit.max(commit.0);
        let is_newest =
            is_append_reply && self.truncations.last().is_some_and(|truncation| truncation.term == term.0);
        if is_newest && flush.0 > self.sent {
            self.contradictions
                .push(format!("acknowledged {flush}, but was sent WAL up to {} only", Lsn(self.sent)));
        }

        let later = |truncation: &&Truncation| {
            truncation.term > term.0 || truncation.term == term.0 && !is_append_reply
        };
        let bound = self
            .truncations
            .iter()
            .filter(later)
            .map(|truncation| truncation.start)
            .min()
            .unwrap_or(u64::MAX);
        self.acknowledged = self.acknowledged.max(flush.0.min(bound));
        if is_newest {
            self.adopted = term.0;
        }
    }

    /// Compares a reported state with the ledger. Returns one sentence per violation.
    pub fn violations(&self, shown: ReportedState) -> Vec<String> {
        let mut missing = self.contradictions.clone();
        if shown.flush.0 < self.acknowledged {
            let owed = self.acknowledged();
            missing.push(format!("log ends at {}, but it acknowledged {owed}", shown.flush));
        }
        if shown.term.0 < self.term {
            missing.push(format!("term is {}, but it reported or voted for term {}", shown.term, self.term));
        }
        if shown.commit.0 < self.commit {
            let told = Lsn(self.commit);
            missing.push(format!("commit LSN is {}, but it reported {told}", shown.commit));
        }
        missing
    }

    /// Position from which its bytes may have changed since they were compared up to `compared`.
    pub fn changed_from(&self, compared: Lsn) -> Lsn {
        Lsn(self.lowest_truncation.map_or(compared.0, |lowest| lowest.min(compared.0)))
    }

    /// Records that its bytes were compared.
    pub fn mark_compared(&mut self) {
        self.lowest_truncation = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(term: u64, flush: u64, is_append_reply: bool) -> PositionReply {
        PositionReply { term: Term(term), flush: Lsn(flush), commit: Lsn(0), is_append_reply }
    }

    /// A ledger of term 1 with 900 bytes from 100 on, sent and acknowledged.
    fn at_1000() -> Ledger {
        let mut ledger = Ledger::default();
        ledger.record_truncation(Term(1), Lsn(100));
        assert!(ledger.record_append(Term(1), Lsn(1000)));
        ledger.record_reply(answer(1, 1000, true));
        assert_eq!(ledger.acknowledged(), Lsn(1000));
        ledger
    }

    #[test]
    fn ledger_keeps_acknowledgements_over_a_reconnect() {
        let mut ledger = at_1000();
        assert!(!ledger.record_truncation(Term(1), Lsn(500)));
        assert_eq!((ledger.acknowledged(), ledger.changed_from(Lsn(1000))), (Lsn(1000), Lsn(100)));
    }

    /// A reply from before the truncation does not undo it.
    #[test]
    fn ledger_counts_a_truncation_from_its_sending() {
        let cases = [
            // A reply that was on its way when the truncation was sent.
            (answer(1, 1000, true), 600),
            // A vote reply of the truncation's own term comes before the truncation.
            (answer(2, 1000, false), 600),
            (answer(2, 700, true), 700),
            // A safekeeper at a higher term ignores the truncation.
            (answer(3, 1000, false), 1000),
        ];

        for (late, owed) in cases {
            let mut ledger = at_1000();
            assert!(ledger.record_truncation(Term(2), Lsn(600)));
            assert!(ledger.record_append(Term(2), Lsn(700)));
            assert_eq!(ledger.acknowledged(), Lsn(600));
            ledger.record_reply(late);
            assert_eq!(ledger.acknowledged(), Lsn(owed), "{late:?}");
            assert_eq!(ledger.changed_from(Lsn(1000)), Lsn(100), "not compared yet");
            assert!(ledger.contradictions().is_empty());
        }
    }

    #[test]
    fn a_deposed_proposer_cuts_and_adds_nothing() {
        let mut ledger = at_1000();
        ledger.record_reply(answer(3, 1000, false));
        assert!(!ledger.record_truncation(Term(2), Lsn(600)));
        assert!(!ledger.record_append(Term(2), Lsn(2000)));
        assert_eq!(ledger.acknowledged(), Lsn(1000));
        ledger.record_truncation(Term(3), Lsn(1000));
        assert!(!ledger.record_append(Term(1), Lsn(2000)));
    }

    #[test]
    fn less_than_it_told_is_missing() {
        let mut ledger = at_1000();
        ledger.record_reply(PositionReply { commit: Lsn(900), ..answer(4, 1000, false) });
        let shown = ReportedState { term: Term(4), flush: Lsn(1000), commit: Lsn(900) };
        assert!(ledger.violations(shown).is_empty());
        let cases = [
            (ReportedState { flush: Lsn(999), ..shown }, "log ends at 0/3E7"),
            (ReportedState { term: Term(3), ..shown }, "voted for term 4"),
            (ReportedState { commit: Lsn(899), ..shown }, "reported 0/384"),
        ];
        for (shown, said) in cases {
            let missing = ledger.violations(shown);
            assert!(missing.len() == 1 && missing[0].contains(said), "{missing:?}");
        }
    }

    #[test]
    fn ledger_finds_double_votes_and_invented_acknowledgements() {
        let mut ledger = at_1000();
        ledger.record_vote(Term(2), ProposerId([1; 16]));
        ledger.record_vote(Term(2), ProposerId([1; 16]));
        assert!(ledger.contradictions().is_empty());
        ledger.record_vote(Term(2), ProposerId([2; 16]));
        ledger.record_vote(Term(1), ProposerId([1; 16]));
        ledger.record_reply(answer(1, 1001, true));
        assert_eq!(ledger.contradictions().len(), 3, "{:?}", ledger.contradictions());
    }
}
