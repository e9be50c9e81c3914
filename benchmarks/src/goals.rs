//! Goals: what a variant must reach beside a peer, or beside a number. Each bench lists its own; this file judges them.

use crate::quantity::{Better, Quantity};
use crate::results::{Results, Series};
use crate::rounds::ROUNDS_MIN;
use crate::stats::{Ratio, location, ratio};

/// One goal.
#[derive(Clone, Debug)]
pub(crate) struct Goal {
    /// The situation, as in [`Results`].
    pub(crate) what: String,
    /// The compared quantity. Its direction says on which side of the bound good values lie.
    pub(crate) quantity: Quantity,
    /// The variant that must reach the goal.
    pub(crate) ours: &'static str,
    /// The peer; `None`: the bound is a number in the quantity's unit.
    pub(crate) peer: Option<&'static str>,
    /// The ratio (or number) to reach.
    pub(crate) bound: f64,
    /// A ratio of two other variants without which the comparison is void.
    pub(crate) requires: Option<Requirement>,
}

/// A ratio of the goal's quantity that has to be reached, or the run is void.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Requirement {
    /// The variant that is checked, by its better direction.
    pub(crate) variant: &'static str,
    /// The variant that it is compared with.
    pub(crate) against: &'static str,
    /// The ratio to reach.
    pub(crate) bound: f64,
}

/// What a run says about a goal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The whole 95 % interval is at the goal or better.
    Met,
    /// The 95 % interval reaches the goal, and a part of it does not.
    Reached,
    /// The whole 95 % interval is worse than the goal.
    Missed,
    /// The requirement was not met, so the comparison says nothing.
    Void,
    /// There are no values, or fewer rounds than a goal needs.
    Unknown,
}

/// A goal with the figures that decide it.
#[derive(Clone, Debug)]
pub(crate) struct Judgement {
    /// The ratio, or the location of our values when the goal has no peer.
    pub(crate) figure: Option<Ratio>,
    /// The verdict.
    pub(crate) verdict: Verdict,
}

impl Verdict {
    /// `Some(true)` when the interval reaches the goal; `None` when the run does not say.
    pub(crate) fn met(self) -> Option<bool> {
        match self {
            Self::Met | Self::Reached => Some(true),
            Self::Missed => Some(false),
            Self::Void | Self::Unknown => None,
        }
    }
}

impl Goal {
    /// Whether this goal is about that series and that peer.
    pub(crate) fn is_about(&self, ours: &Series, peer: Option<&str>) -> bool {
        self.what == ours.what
            && self.quantity.name == ours.quantity
            && self.ours == ours.variant
            && self.peer == peer
    }

    /// Judges the goal by these results.
    pub(crate) fn judge(&self, results: &Results) -> Judgement {
        let values = |variant: &str| {
            results.find(&self.what, self.quantity.name, variant).map(|series| series.values.as_slice())
        };
        let ours = values(self.ours).unwrap_or_default();
        let figure = match self.peer {
            None => location(ours),
            Some(peer) => values(peer).and_then(|peer| ratio(ours, peer)),
        };

        let void = self.requires.is_some_and(|requirement| {
            let pair = values(requirement.variant).zip(values(requirement.against));
            let found = pair.and_then(|(variant, against)| ratio(variant, against));
            found.is_some_and(|found| !reaches(self.quantity.better, found.estimate, requirement.bound))
        });
        let verdict = match figure.and_then(|figure| figure.interval) {
            _ if void => Verdict::Void,
            Some(interval) if ours.len() >= ROUNDS_MIN => self.verdict(interval),
            _ => Verdict::Unknown,
        };
        Judgement { figure, verdict }
    }

    fn verdict(&self, (low, high): (f64, f64)) -> Verdict {
        let reached = |value| reaches(self.quantity.better, value, self.bound);
        match (reached(low), reached(high)) {
            (true, true) => Verdict::Met,
            (false, false) => Verdict::Missed,
            _ => Verdict::Reached,
        }
    }
}

fn reaches(better: Better, value: f64, bound: f64) -> bool {
    match better {
        Better::Higher => value >= bound,
        Better::Lower => value <= bound,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::machine::{LoadSummary, Machine};
    use crate::results::Samples;

    const CPU: Quantity = Quantity::lower("CPU", "µs");

    pub(crate) fn results(series: &[(&str, Quantity, &[f64])]) -> Results {
        let mut samples = Samples::default();
        for (variant, quantity, values) in series {
            for value in *values {
                samples.push("w", *quantity, variant, *value);
            }
        }
        Results {
            bench: "b".into(),
            commit: "c".into(),
            finished: String::new(),
            quick: true,
            machine: Machine { cpu: "x".into(), cores: 2, memory_gib: 1, kernel: "k".into() },
            load: LoadSummary::default(),
            noise: Vec::new(),
            notes: Vec::new(),
            series: samples.0,
        }
    }

    pub(crate) fn goal(peer: Option<&'static str>, bound: f64) -> Goal {
        Goal { what: "w".into(), quantity: CPU, ours: "ours", peer, bound, requires: None }
    }

    #[test]
    fn verdict_follows_the_interval() {
        let found =
            results(&[("ours", CPU, &[1.1, 1.2, 1.3, 1.2, 1.2, 1.1, 1.3]), ("floor", CPU, &[1.0; 7])]);
        let verdicts = [1.4, 1.2, 1.0].map(|bound| goal(Some("floor"), bound).judge(&found).verdict);
        assert_eq!(verdicts, [Verdict::Met, Verdict::Reached, Verdict::Missed]);
    }

    #[test]
    fn too_few_rounds_decide_nothing() {
        let found = results(&[("ours", CPU, &[1.0; 6]), ("floor", CPU, &[1.0; 6])]);
        assert_eq!(goal(Some("floor"), 2.0).judge(&found).verdict.met(), None);
        assert_eq!(goal(Some("absent"), 2.0).judge(&found).verdict.met(), None);
    }

    #[test]
    fn number_is_a_goal_without_peer() {
        let found = results(&[("ours", CPU, &[10.0; 7])]);
        assert_eq!(goal(None, 12.0).judge(&found).verdict, Verdict::Met);
    }

    #[test]
    fn unmet_requirement_makes_it_void() {
        let requires = Some(Requirement { variant: "floor", against: "any2", bound: 1.0 });
        let found = results(&[("ours", CPU, &[1.0; 7]), ("floor", CPU, &[1.5; 7]), ("any2", CPU, &[1.0; 7])]);
        let judged = Goal { requires, ..goal(Some("floor"), 1.0) }.judge(&found);
        assert_eq!(judged.verdict, Verdict::Void);
    }
}
