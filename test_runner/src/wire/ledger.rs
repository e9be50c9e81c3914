//! [`Ledger`]: what one safekeeper owes, by its own words on the wire.
//!
//! A position that it told as flushed is a debt. The debt shrinks only when a proposer that won a newer term told it to
//! cut its log, for then it may do so, at a moment that nobody sees. So a cut counts from when it was sent, and an
//! answer counts in full only when it must have been given after the cut:
//! * an answer of a higher term was: after it the node ignores the cut;
//! * an answer to an append of the cut's own term was: the node appends only after the cut;
//! * of any other answer only what contradictions below the cut counts.
//!
//! Pure; `tap` calls it in the order in which it reads from both sides, before it passes anything on.

use serde::{Deserialize, Serialize};
use wal_types::{Lsn, ProposerId, Term};

/// Answers from so many terms ago cannot still be under way.
const TRUNCATIONS_MAX: usize = 16;

/// What a safekeeper owes. Plain numbers: it is written down as JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// Its log must reach here.
    acknowledged: u64,
    /// It told that it has this commit position on disk.
    commit: u64,
    /// The highest term that it told.
    term: u64,
    /// The last term that it promised, and to which campaign.
    vote: Option<(u64, [u8; 16])>,
    /// Cuts that it was told, oldest first.
    truncations: Vec<Truncation>,
    /// It certainly carried out the cut of this term: told again, it truncations nothing.
    adopted: u64,
    /// Bytes below here were not seen on the wire.
    base: Option<u64>,
    /// The end of what it was sent.
    sent: u64,
    /// The lowest cut since its log was last compared.
    lowest_truncation: Option<u64>,
    /// What it said that cannot be true.
    contradictions: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Truncation {
    term: u64,
    start: u64,
}

/// A position in an answer.
#[derive(Clone, Copy, Debug)]
pub struct PositionReply {
    /// The node's term.
    pub term: Term,
    /// What it says is on disk.
    pub flush: Lsn,
    /// The commit position that it says is on disk, when it says one.
    pub commit: Lsn,
    /// It answers an append of this very term on the same connection.
    pub is_append_reply: bool,
}

/// What a safekeeper shows when it was started alone.
#[derive(Clone, Copy, Debug)]
pub struct ReportedState {
    /// Its term.
    pub term: Term,
    /// The end of its log.
    pub flush: Lsn,
    /// What it knows as committed.
    pub commit: Lsn,
}

impl Ledger {
    /// The position that its log must reach.
    pub fn acknowledged(&self) -> Lsn {
        Lsn(self.acknowledged)
    }

    /// Where the bytes begin that are known, `None` when none are.
    pub fn base(&self) -> Option<Lsn> {
        self.base.map(Lsn)
    }

    /// What it said that cannot be true.
    pub fn contradictions(&self) -> &[String] {
        &self.contradictions
    }

    /// A proposer that won `term` tells it to go on at `start`. True when that may change anything.
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

    /// WAL is sent to it. True when the bytes count: those of a deposed proposer are not taken.
    pub fn record_append(&mut self, term: Term, end: Lsn) -> bool {
        let counts = self.truncations.last().is_some_and(|truncation| truncation.term == term.0);
        if counts {
            self.sent = self.sent.max(end.0);
        }
        counts
    }

    /// It promised a term to a campaign.
    pub fn record_vote(&mut self, term: Term, campaign: ProposerId) {
        match self.vote {
            Some((before, other)) if before == term.0 && other != campaign.0 => {
                self.contradictions.push(format!("promised term {term} to two campaigns"));
            }
            Some((before, _)) if before > term.0 => {
                self.contradictions.push(format!("promised term {term} after term {before}"));
            }
            _ => self.vote = Some((term.0, campaign.0)),
        }
    }

    /// It tells where it stands.
    pub fn record_reply(&mut self, answer: PositionReply) {
        let PositionReply { term, flush, commit, is_append_reply } = answer;
        self.term = self.term.max(term.0);
        self.commit = self.commit.max(commit.0);
        let is_newest =
            is_append_reply && self.truncations.last().is_some_and(|truncation| truncation.term == term.0);
        if is_newest && flush.0 > self.sent {
            self.contradictions
                .push(format!("told {flush} as flushed, but was sent WAL up to {} only", Lsn(self.sent)));
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

    /// What it shows less than it owes.
    pub fn violations(&self, shown: ReportedState) -> Vec<String> {
        let mut missing = self.contradictions.clone();
        if shown.flush.0 < self.acknowledged {
            let owed = self.acknowledged();
            missing.push(format!("its log ends at {}, but it acknowledged {owed}", shown.flush));
        }
        if shown.term.0 < self.term {
            missing.push(format!("it is at term {}, but it promised term {}", shown.term, self.term));
        }
        if shown.commit.0 < self.commit {
            let told = Lsn(self.commit);
            missing.push(format!("it knows {} as committed, but told {told}", shown.commit));
        }
        missing
    }

    /// From where on its bytes may have changed since it was compared up to `compared`.
    pub fn changed_from(&self, compared: Lsn) -> Lsn {
        Lsn(self.lowest_truncation.map_or(compared.0, |lowest| lowest.min(compared.0)))
    }

    /// Its bytes were compared.
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

    /// Elected in term 1 at 100, with 900 bytes sent and acknowledged.
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

    /// An answer from before the truncation does not undo it.
    #[test]
    fn ledger_counts_a_truncation_from_its_sending() {
        let cases = [
            // An answer that was under way when the cut came.
            (answer(1, 1000, true), 600),
            // A vote of the cut's own term came before the truncation.
            (answer(2, 1000, false), 600),
            (answer(2, 700, true), 700),
            // Who is at a higher term ignores the truncation.
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
            (ReportedState { flush: Lsn(999), ..shown }, "its log ends at 0/3E7"),
            (ReportedState { term: Term(3), ..shown }, "promised term 4"),
            (ReportedState { commit: Lsn(899), ..shown }, "told 0/384"),
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
