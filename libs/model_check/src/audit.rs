//! Audit of the reduction by symmetry: states that count as one must have the same successors.
//!
//! A check explores one state of each fingerprint, and which one depends on the order of visits. That skips nothing when
//! two states with equal fingerprints always have successors with equal fingerprints: then each path from the one has
//! its like from the other, and the number of fingerprints is the same in each order. The audit computes the successors
//! of **every** state that a step leads to, known or not, and compares. So it takes as many times longer than a check as a
//! state has successors.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use stateright::Model;

use crate::action::Action;
use crate::bounds::Bounds;
use crate::cluster::Cluster;
use crate::coverage::Coverage;
use crate::seen::Seen;
use crate::state::ClusterState;
use crate::symmetry::hash;

/// Result of an audit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audit {
    /// Different fingerprints.
    pub unique: usize,
    /// States that were compared with the first one of their fingerprint.
    pub compared: usize,
    /// Of them, those with other successors.
    pub different: usize,
    /// Steps to the first two states with equal fingerprints and different successors, one line each.
    pub example: Option<[Vec<String>; 2]>,
}

/// The first state that was found with a fingerprint.
struct First {
    /// Fingerprint of the state before it, and the step.
    reached_by: Option<(u64, Action)>,
    /// Hash of the set of its successors' fingerprints.
    successors: u64,
}

/// Explores with one thread, breadth first, and compares. Takes some gigabytes of memory for the largest bounds.
pub fn audit(bounds: Bounds) -> Audit {
    let model = Cluster { bounds, coverage: Arc::new(Coverage::default()), seen: Arc::new(Seen::default()) };
    let mut known: HashMap<u64, First> = HashMap::new();
    let mut queue: VecDeque<(ClusterState, Option<(u64, Action)>)> =
        model.init_states().into_iter().map(|state| (state, None)).collect();
    let mut audit = Audit { unique: 0, compared: 0, different: 0, example: None };

    while let Some((state, reached_by)) = queue.pop_front() {
        let own = state.fingerprint();
        let next = successors(&model, &state);
        // A step that changes nothing that counts leads nowhere new.
        let fingerprints = next.iter().map(|(_, state)| state.fingerprint()).filter(|next| *next != own);
        let fingerprints: BTreeSet<u64> = fingerprints.collect();
        let fingerprints = hash(&fingerprints.into_iter().collect::<Vec<u64>>());

        let Some(first) = known.get(&own) else {
            known.insert(own, First { reached_by, successors: fingerprints });
            queue.extend(next.into_iter().map(|(action, state)| (state, Some((own, action)))));
            continue;
        };
        audit.compared += 1;
        if first.successors != fingerprints {
            audit.different += 1;
            if audit.example.is_none() {
                audit.example = Some([steps(&known, first.reached_by), steps(&known, reached_by)]);
            }
        }
    }
    audit.unique = known.len();
    audit
}

fn successors(model: &Cluster, state: &ClusterState) -> Vec<(Action, ClusterState)> {
    let mut actions = Vec::new();
    model.actions(state, &mut actions);
    actions.into_iter().filter_map(|action| Some((action, model.next_state(state, action)?))).collect()
}

/// The steps from the initial state up to and with the last one.
fn steps(known: &HashMap<u64, First>, last: Option<(u64, Action)>) -> Vec<String> {
    let mut steps = Vec::new();
    let mut at = last;
    while let Some((before, action)) = at {
        steps.push(format!("{action:?}"));
        at = known.get(&before).and_then(|first| first.reached_by);
    }
    steps.reverse();
    steps
}
