//! A few schedules in every test run; `./dev sim` runs thousands.

#[test]
fn a_seed_takes_the_same_course_twice() {
    for seed in 0..10 {
        let hashes: Vec<u64> = (0..2).map(|_| simulation::run(seed, false).trace_hash).collect();
        assert_eq!(hashes[0], hashes[1], "seed {seed}");
    }
}

#[test]
fn schedules_hold_every_invariant_and_are_rich() {
    let mut sum = simulation::Stats::default();
    for seed in 1_000_000..1_000_040 {
        let outcome = simulation::run(seed, false);
        assert_eq!(outcome.violation, None, "seed {seed}");
        sum += outcome.stats;
    }
    assert!(sum.elections >= 2 * sum.schedules && sum.crashes >= 3 * sum.schedules, "{sum}");
}

#[test]
fn a_run_without_trouble_is_called_poor() {
    let calm = simulation::Stats { schedules: simulation::COVERAGE_SCHEDULES_MIN, ..Default::default() };
    assert!(calm.coverage_gap().is_some_and(|coverage_gap| coverage_gap.contains("events")));
}
