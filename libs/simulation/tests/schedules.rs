//! A few schedules in every test run; `./dev sim` runs thousands.

#[test]
fn seed_gives_the_same_trace_twice() {
    for seed in 0..10 {
        let hashes: Vec<u64> = (0..2).map(|_| simulation::run(seed, false).trace_hash).collect();
        assert_eq!(hashes[0], hashes[1], "seed {seed}");
    }
}

#[test]
fn schedules_hold_invariants_and_cover_faults() {
    let mut sum = simulation::Stats::default();
    for seed in 1_000_000..1_000_040 {
        let outcome = simulation::run(seed, false);
        assert_eq!(outcome.violation, None, "seed {seed}");
        sum += outcome.stats;
    }
    assert!(sum.elections >= 2 * sum.schedules && sum.crashes >= 3 * sum.schedules, "{sum}");
}

#[test]
fn run_without_events_has_a_coverage_gap() {
    let calm = simulation::Stats { schedules: simulation::COVERAGE_SCHEDULES_MIN, ..Default::default() };
    assert!(calm.coverage_gap().is_some_and(|gap| gap.contains("events")));
}
