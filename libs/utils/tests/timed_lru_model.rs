//! `TimedLru` compared with a simple model over random operations: a list in order of use, and a virtual clock.

use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;
use utils::TimedLru;
use utils::timed_lru::{Generation, Lookup, Ttl};

const KEYS: u8 = 6;
const CAPACITY_MAX: usize = 5;

#[derive(Clone, Debug)]
enum Operation {
    Insert {
        key: u8,
        ttl: Ttl,
    },
    Get {
        key: u8,
    },
    /// With the generation that the n-th insert so far was given.
    Invalidate {
        key: u8,
        insert: prop::sample::Index,
    },
    Remove {
        key: u8,
    },
    Sweep,
    Pass(Duration),
}

struct ModelEntry {
    key: u8,
    value: usize,
    generation: Generation,
    age_end: Option<Instant>,
    idle: Duration,
    idle_end: Option<Instant>,
}

/// The entries, least recently used first.
#[derive(Default)]
struct Model(Vec<ModelEntry>);

impl Model {
    fn position(&self, key: u8) -> Option<usize> {
        self.0.iter().position(|entry| entry.key == key)
    }

    fn take(&mut self, key: u8) -> Option<ModelEntry> {
        self.position(key).map(|at| self.0.remove(at))
    }
}

impl ModelEntry {
    fn is_expired(&self, now: Instant) -> bool {
        [self.age_end, self.idle_end].into_iter().flatten().any(|end| end <= now)
    }
}

fn operation() -> impl Strategy<Value = Operation> {
    let key = 0..KEYS;
    let limit = prop_oneof![(0_u64..20).prop_map(Duration::from_secs), Just(Duration::MAX)];
    let ttl = (limit.clone(), limit).prop_map(|(absolute, idle)| Ttl { absolute, idle });
    prop_oneof![
        4 => (key.clone(), ttl).prop_map(|(key, ttl)| Operation::Insert { key, ttl }),
        6 => key.clone().prop_map(|key| Operation::Get { key }),
        2 => (key.clone(), any::<prop::sample::Index>())
            .prop_map(|(key, insert)| Operation::Invalidate { key, insert }),
        1 => key.prop_map(|key| Operation::Remove { key }),
        1 => Just(Operation::Sweep),
        4 => (0_u64..8).prop_map(|seconds| Operation::Pass(Duration::from_secs(seconds))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn cache_agrees_with_its_model(capacity in 0..=CAPACITY_MAX, operations in vec(operation(), 0..120)) {
        let mut cache = TimedLru::new(capacity);
        let mut model = Model::default();
        let mut now = Instant::now();
        let mut generations: Vec<Generation> = Vec::new();

        for operation in operations {
            match operation {
                Operation::Insert { key, ttl } => {
                    let value = generations.len();
                    let inserted = cache.insert(key, value, ttl, now);
                    prop_assert!(!generations.contains(&inserted.generation), "a generation came twice");
                    generations.push(inserted.generation);
                    let replaced = model.take(key);
                    prop_assert_eq!(inserted.replaced, replaced.map(|entry| entry.value));
                    model.0.push(ModelEntry {
                        key,
                        value,
                        generation: inserted.generation,
                        age_end: now.checked_add(ttl.absolute),
                        idle: ttl.idle,
                        idle_end: now.checked_add(ttl.idle),
                    });
                    if capacity == 0 {
                        model.0.clear();
                    }
                    let evicted = (model.0.len() > capacity).then(|| model.0.remove(0));
                    prop_assert_eq!(inserted.evicted, evicted.map(|entry| (entry.key, entry.value)));
                }
                Operation::Get { key } => match (cache.get(&key, now), model.take(key)) {
                    (Lookup::Miss, None) => {}
                    (Lookup::Expired, Some(entry)) => prop_assert!(entry.is_expired(now)),
                    (Lookup::Hit { value, generation, .. }, Some(mut entry)) => {
                        prop_assert!(!entry.is_expired(now), "an expired value was returned");
                        prop_assert_eq!((*value, generation), (entry.value, entry.generation));
                        entry.idle_end = now.checked_add(entry.idle);
                        model.0.push(entry);
                    }
                    (lookup, entry) => {
                        prop_assert!(false, "{:?} but the model has {:?}", lookup, entry.map(|entry| entry.value));
                    }
                },
                Operation::Invalidate { key, insert } => {
                    if generations.is_empty() {
                        continue;
                    }
                    let generation = generations[insert.index(generations.len())];
                    let seen = model.position(key).is_some_and(|at| model.0[at].generation == generation);
                    let expected = if seen { model.take(key) } else { None };
                    prop_assert_eq!(cache.invalidate(&key, generation), expected.map(|entry| entry.value));
                }
                Operation::Remove { key } => {
                    prop_assert_eq!(cache.remove(&key), model.take(key).map(|entry| entry.value));
                }
                Operation::Sweep => {
                    let before = model.0.len();
                    model.0.retain(|entry| !entry.is_expired(now));
                    prop_assert_eq!(cache.sweep(now), before - model.0.len());
                }
                Operation::Pass(time) => now += time,
            }
            prop_assert_eq!(cache.len(), model.0.len());
            prop_assert!(cache.len() <= capacity);
        }
    }
}
