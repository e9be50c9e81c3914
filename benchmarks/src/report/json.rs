//! `--json`: one flat list of comparisons, for programs.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::goals::Goal;
use crate::results::{Results, Series};
use crate::stats::{median, ratio};

/// Our variant beside one peer, or beside a number.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Comparison {
    bench: String,
    /// Situation and quantity.
    what: String,
    unit: String,
    /// Our median.
    ours: Option<f64>,
    /// The peer's median; `None` when the goal is a number.
    peer: Option<f64>,
    peer_name: Option<String>,
    /// Estimate of ours : peer over the rounds.
    ratio: Option<f64>,
    /// The ratio, or the number, to reach.
    goal: Option<f64>,
    /// Whether the 95 % interval reaches the goal; `None` when there is no goal, or the run does not say.
    met: Option<bool>,
}

/// All comparisons of these results.
pub(crate) fn comparisons(results: &Results, goals: &[Goal]) -> Vec<Comparison> {
    let is_ours = |series: &&Series| {
        series.variant.starts_with("ours") || goals.iter().any(|goal| goal.is_about(series, goal.peer))
    };
    let mut all = Vec::new();
    for ours in results.series.iter().filter(is_ours) {
        all.extend(number_goal(results, ours, goals));
        let same = |series: &&Series| {
            series.what == ours.what && series.quantity == ours.quantity && series.variant != ours.variant
        };
        all.extend(results.series.iter().filter(same).map(|peer| beside(results, ours, peer, goals)));
    }

    let has_ours = |goal: &&Goal| results.find(&goal.what, goal.quantity.name, goal.ours).is_some();
    all.extend(goals.iter().filter(|goal| !has_ours(goal)).map(|goal| unmeasured(results, goal)));
    all
}

/// Writes the list.
pub(crate) fn write(file: &Path, comparisons: &[Comparison]) -> Result<()> {
    let text = serde_json::to_string(comparisons)?.replace("{\"bench\"", "\n{\"bench\"");
    fs::write(file, text + "\n").with_context(|| format!("cannot write {}", file.display()))
}

fn beside(results: &Results, ours: &Series, peer: &Series, goals: &[Goal]) -> Comparison {
    let goal = goals.iter().find(|goal| goal.is_about(ours, Some(&peer.variant)));
    Comparison {
        peer: median(&peer.values),
        peer_name: Some(peer.variant.clone()),
        ratio: ratio(&ours.values, &peer.values).map(|ratio| ratio.estimate),
        goal: goal.map(|goal| goal.bound),
        met: goal.and_then(|goal| goal.judge(results).verdict.met()),
        ..alone(results, ours)
    }
}

/// The comparison with a number: the one of a goal without peer, or none when no other variant measured this.
fn number_goal(results: &Results, ours: &Series, goals: &[Goal]) -> Option<Comparison> {
    let goal = goals.iter().find(|goal| goal.is_about(ours, None));
    let has_peer = results.series.iter().any(|series| {
        series.what == ours.what && series.quantity == ours.quantity && series.variant != ours.variant
    });
    match goal {
        Some(goal) => Some(Comparison {
            goal: Some(goal.bound),
            met: goal.judge(results).verdict.met(),
            ..alone(results, ours)
        }),
        None => (!has_peer).then(|| alone(results, ours)),
    }
}

fn alone(results: &Results, ours: &Series) -> Comparison {
    Comparison {
        bench: results.bench.clone(),
        what: format!("{}: {}", ours.what, ours.quantity),
        unit: ours.unit.clone(),
        ours: median(&ours.values),
        peer: None,
        peer_name: None,
        ratio: None,
        goal: None,
        met: None,
    }
}

fn unmeasured(results: &Results, goal: &Goal) -> Comparison {
    Comparison {
        bench: results.bench.clone(),
        what: format!("{}: {}", goal.what, goal.quantity.name),
        unit: goal.quantity.unit.into(),
        ours: None,
        peer: None,
        peer_name: goal.peer.map(Into::into),
        ratio: None,
        goal: Some(goal.bound),
        met: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::goals::tests::{goal, results};
    use crate::quantity::Quantity;

    #[test]
    fn comparison_has_every_field() {
        let cpu = Quantity::lower("CPU", "µs");
        let found = results(&[("ours", cpu, &[2.0; 7]), ("floor", cpu, &[1.0; 7])]);
        let list = comparisons(&found, &[goal(Some("floor"), 1.25)]);
        assert_eq!(
            serde_json::to_value(&list).unwrap(),
            serde_json::json!([{
                "bench": "b", "what": "w: CPU", "unit": "µs", "ours": 2.0, "peer": 1.0, "peer_name": "floor",
                "ratio": 2.0, "goal": 1.25, "met": false,
            }])
        );
    }

    #[test]
    fn goal_that_was_not_measured_is_listed() {
        let list = comparisons(&results(&[]), &[goal(None, 12.0)]);
        assert_eq!((list.len(), list[0].goal, list[0].met), (1, Some(12.0), None));
    }
}
