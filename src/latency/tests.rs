//! Tests of the histogram and of the sampler.

use super::*;

fn snapshot_of(values: impl IntoIterator<Item = u64>) -> LatencySnapshot {
    let latencies = Latencies::default();
    values.into_iter().for_each(|value| latencies.record(value, 1));
    latencies.snapshot()
}

#[test]
fn every_duration_lies_in_its_bucket_and_buckets_follow_each_other() {
    let mut start = 0;
    for bucket in 0..BUCKETS {
        let end = end_of(bucket);
        assert_eq!((bucket_of(start), bucket_of(end)), (bucket, bucket), "{start}..={end}");
        let width = end - start + 1;
        assert!(width == 1 || width * STEPS as u64 <= start, "{start}..={end} is a sixteenth at most");
        start = end + 1;
    }
    assert_eq!(start, 1 << RANGE_BITS);
    assert_eq!(bucket_of(u64::MAX), BUCKETS - 1, "what is longer goes with the longest");
}

#[test]
fn percentiles_are_those_of_the_values_to_within_a_sixteenth() {
    let mut values: Vec<u64> = (0..10_000).map(|at| 20 + at * at / 7).collect();
    let snapshot = snapshot_of(values.iter().copied());
    values.sort_unstable();
    for (percent, at) in [(0.0, 0), (50.0, 4999), (95.0, 9499), (99.0, 9899), (99.9, 9989), (100.0, 9999)] {
        let (found, exact) = (snapshot.percentile(percent).expect("there are values"), values[at]);
        assert!(found >= exact && found - exact <= exact / 16, "{percent} %: {found}, not {exact}");
    }
    assert_eq!(snapshot.count(), 10_000);
    assert_eq!(snapshot.sum(), values.iter().sum::<u64>());
    assert_eq!(snapshot.max(), *values.last().expect("there are values"));
    assert_eq!(snapshot.percentile(100.0), Some(snapshot.max()), "never more than the longest");
}

#[test]
fn nothing_recorded_has_no_percentile_and_no_mean() {
    let snapshot = LatencySnapshot::default();
    assert_eq!(
        (snapshot.count(), snapshot.max(), snapshot.percentile(50.0), snapshot.mean()),
        (0, 0, None, None)
    );
}

#[test]
fn a_value_counts_for_as_many_as_it_stands_for() {
    let latencies = Latencies::default();
    latencies.record(100, 99);
    latencies.record(10_000, 1);
    let snapshot = latencies.snapshot();
    assert_eq!((snapshot.count(), snapshot.sum()), (100, 19_900));
    assert_eq!(snapshot.mean(), Some(199.0));
    assert_eq!(snapshot.percentile(99.0), Some(end_of(bucket_of(100))));
    assert_eq!(snapshot.percentile(99.1), Some(10_000));
}

#[test]
fn a_window_has_what_was_recorded_in_it_and_nothing_else() {
    let latencies = Latencies::default();
    latencies.record(1_000_000, 3);
    latencies.record(200, 5);
    let earlier = latencies.snapshot();
    latencies.record(200, 2);
    latencies.record(300, 1);
    let window = latencies.snapshot().minus(&earlier);
    assert_eq!((window.count(), window.sum()), (3, 700));
    assert_eq!(window.max(), end_of(bucket_of(300)), "the longest of the window, not of all");
    assert_eq!(
        window.minus(&latencies.snapshot()).count(),
        0,
        "a snapshot that is not earlier leaves nothing"
    );
}

#[test]
fn counts_up_to_bounds_grow_and_leave_out_what_is_longer() {
    let snapshot = snapshot_of([0, 1, 15, 16, 90, 99, 110, 5_000, u64::MAX]);
    assert_eq!(snapshot.cumulative(&[0, 1, 15, 100, 1_000, 10_000]), [1, 2, 3, 6, 7, 8]);
    assert_eq!((snapshot.count_above(100), snapshot.count_above(1_000), snapshot.count()), (3, 2, 9));
    assert_eq!(snapshot.percentile(100.0), Some(u64::MAX), "of the longest there is, the longest is told");
    let all = snapshot_of(0..100_000);
    for bound in [100, 1_000, 33_333, 90_000] {
        let below = all.cumulative(&[bound])[0];
        assert!(below.abs_diff(bound) <= bound / 32 + 1, "{below} of {bound}");
    }
}

#[test]
fn threads_record_without_losing_anything() {
    let latencies = Latencies::default();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let latencies = &latencies;
            scope.spawn(move || (0..1000).for_each(|at| latencies.record(thread * 1000 + at, 2)));
        }
    });
    let snapshot = latencies.snapshot();
    assert_eq!((snapshot.count(), snapshot.sum()), (16_000, 7999 * 8000));
}

/// Weights of the operations that are timed, each with its number.
fn timed(operations: u64) -> Vec<(u64, u64)> {
    let sampler = Sampler::default();
    (0..operations).filter_map(|at| sampler.should_time().map(|weight| (at, weight))).collect()
}

#[test]
fn every_operation_is_stood_for_by_the_next_one_that_is_timed() {
    let mut next = 0;
    for (at, weight) in timed(100_000) {
        next += weight;
        assert_eq!(next, at + 1, "it stands for itself and those since the one before");
    }
    assert!(next > 100_000 - 2 * EVERY_MAX);
}

#[test]
fn few_are_timed_in_the_long_run_and_nearly_all_at_first() {
    let timed = timed(1_000_000);
    let up_to = |count: u64| timed.iter().filter(|(at, _)| *at < count).count() as u64;
    assert_eq!(up_to(8), 8);
    let early = up_to(1016);
    assert!((40..75).contains(&early), "{early} of the first 1016");
    let late = up_to(1_000_000) - early;
    assert!(late.abs_diff(1_000_000 / EVERY_MAX) < 1_000_000 / EVERY_MAX / 10, "{late} of the rest");
    assert!(timed.iter().all(|(_, weight)| (1..2 * EVERY_MAX).contains(weight)));
}

#[test]
fn a_sampler_times_as_many_as_it_is_told_to() {
    for every in [1, 32] {
        let sampler = Sampler::one_in(every);
        let weights: Vec<u64> = (0..100_000).filter_map(|_| sampler.should_time()).collect();
        let expected = 100_000 / every;
        assert!(
            (weights.len() as u64).abs_diff(expected) <= expected / 10,
            "{} of {expected}",
            weights.len()
        );
        assert!(weights.iter().all(|weight| *weight < 2 * every));
    }
}

#[test]
fn operations_in_a_pattern_are_all_sampled_alike() {
    for period in [2, 128, 256] {
        let mut weights = [0; 2];
        for (at, weight) in timed(2_000_000) {
            weights[usize::from(at % period < period / 2)] += weight;
        }
        let share = weights[0] * 100 / (weights[0] + weights[1]);
        assert!((45..=55).contains(&share), "{share} % of a half, period {period}");
    }
}

#[test]
fn the_estimate_with_slow_operations_counted_once_has_no_bias() {
    // Every seventh operation is slow: always timed, and counted once, also where it was sampled.
    let (sampler, latencies) = (Sampler::default(), Latencies::default());
    for at in 0..1_000_000_u64 {
        let weight = sampler.should_time();
        if at % 7 == 0 {
            latencies.record(10_000, 1);
        } else if let Some(weight) = weight {
            latencies.record(100, weight);
        }
    }
    let fast = latencies.snapshot().cumulative(&[1000])[0];
    assert!(fast.abs_diff(6_000_000 / 7) < 20_000, "{fast}");
}
