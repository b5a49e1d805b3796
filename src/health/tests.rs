//! Tests of the score, part by part, and of the monitor's windows.

use super::*;
use crate::latency::Latencies;

/// A thousand allocations, each timed, and all is well.
fn good() -> Reading {
    Reading {
        allocations: 1000,
        served: 1000,
        latency: timed(1000),
        fast_hits: 900,
        in_use_bytes: 500,
        limit_bytes: 1000,
        fragmentation_ratio: 0.2,
        ..Reading::default()
    }
}

/// So many allocations of 100 ns.
fn timed(count: u64) -> LatencySnapshot {
    let latencies = Latencies::default();
    latencies.record(100, count);
    latencies.snapshot()
}

fn health_of(reading: &Reading) -> Health {
    Health::between(&Reading::default(), reading, INTERVAL)
}

fn score_of(reading: &Reading) -> f64 {
    health_of(reading).health_score
}

#[track_caller]
fn assert_near(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-9, "{found}, not {expected}");
}

#[test]
fn all_good_is_one_and_so_is_an_allocator_that_nobody_used() {
    assert_near(score_of(&good()), 1.0);
    let unused = health_of(&Reading { limit_bytes: 1000, ..Reading::default() });
    assert_near(unused.health_score, 1.0);
    assert_eq!((unused.error_rate, unused.slow_rate, unused.cache_efficiency), (0.0, 0.0, 1.0));
    assert_eq!((unused.latency_p50, unused.latency_p99, unused.last_reclaim_duration), (None, None, None));
}

#[test]
fn all_bad_is_zero() {
    let bad = Reading {
        allocations: 100,
        served: 100,
        errors: 100,
        latency: timed(100),
        slow: 100,
        damaged: 1,
        in_use_bytes: 1000,
        limit_bytes: 1000,
        fragmentation_ratio: 1.0,
        ..Reading::default()
    };
    assert_near(score_of(&bad), 0.0);
}

#[test]
fn each_part_loses_its_weight_and_no_more() {
    let lost = |reading: Reading| 1.0 - score_of(&reading);
    // 1000 made and 111 refused are 10 % and a little more.
    assert_near(lost(Reading { errors: 112, ..good() }), 0.25);
    assert_near(lost(Reading { errors: 100_000, ..good() }), 0.25);
    assert_near(lost(Reading { slow: 50, ..good() }), 0.20);
    assert_near(lost(Reading { slow: 1000, ..good() }), 0.20);
    assert_near(lost(Reading { damaged: 1, ..good() }), 0.20);
    assert_near(lost(Reading { in_use_bytes: 1000, ..good() }), 0.15);
    assert_near(lost(Reading { fast_hits: 0, ..good() }), 0.10);
    assert_near(lost(Reading { fragmentation_ratio: 0.75, ..good() }), 0.10);
}

#[test]
fn half_way_costs_half() {
    let lost = |reading: Reading| 1.0 - score_of(&reading);
    // 50 of 1000 asked for.
    assert_near(lost(Reading { allocations: 950, errors: 50, ..good() }), 0.125);
    assert_near(lost(Reading { slow: 25, ..good() }), 0.10);
    assert_near(lost(Reading { in_use_bytes: 800, ..good() }), 0.075);
    assert_near(lost(Reading { fast_hits: 425, ..good() }), 0.05);
    assert_near(lost(Reading { fragmentation_ratio: 0.5, ..good() }), 0.05);
}

#[test]
fn what_is_usual_costs_nothing() {
    let usual = Reading { in_use_bytes: 600, fast_hits: 850, fragmentation_ratio: 0.25, ..good() };
    assert_near(score_of(&usual), 1.0);
    let health = health_of(&usual);
    assert_eq!((health.memory_pressure, health.fragmentation_score), (0.0, 0.0));
    assert_near(health.cache_efficiency, 0.85);
}

#[test]
fn a_full_pool_that_refuses_is_never_below_a_half() {
    let full = Reading { in_use_bytes: 1000, errors: 1_000_000, fast_hits: 0, ..good() };
    assert_near(score_of(&full), 0.5);
    assert_near(health_of(&full).memory_pressure, 1.0);
    assert_near(score_of(&Reading { fragmentation_ratio: 0.9, ..full }), 0.4);
}

#[test]
fn a_pool_that_serves_nobody_is_no_better_than_one_that_serves_few() {
    let few = Reading { in_use_bytes: 1000, errors: 1000, fast_hits: 0, allocations: 1, served: 1, ..good() };
    let nobody = Reading { allocations: 0, served: 0, latency: LatencySnapshot::default(), ..few.clone() };
    assert_near(score_of(&few), 0.5);
    assert_near(score_of(&nobody), 0.5);
    assert_near(health_of(&nobody).cache_efficiency, 0.0);
}

#[test]
fn slow_allocations_are_a_part_of_those_that_were_timed() {
    // Batches are many, and not timed: they hide no slow ones.
    let batches = Reading { allocations: 1_000_000, latency: timed(100), slow: 2, ..good() };
    assert_near(health_of(&batches).slow_rate, 0.02);
    let untimed = Reading { latency: LatencySnapshot::default(), slow: 2, ..good() };
    assert_near(health_of(&untimed).slow_rate, 0.0);
}

#[test]
fn new_versions_of_contents_are_slabs_and_no_allocations() {
    let writes = Reading { allocations: 100, errors: 10, served: 10_000, fast_hits: 9_000, ..good() };
    assert_near(health_of(&writes).cache_efficiency, 0.9);
    assert_near(health_of(&writes).error_rate, 10.0 / 110.0);
}

#[test]
fn an_open_circuit_caps_the_score_and_does_not_raise_a_lower_one() {
    let open = Reading { circuit_open: true, ..good() };
    assert_near(score_of(&open), 0.5);
    assert!(health_of(&open).circuit_breaker_open);
    let worse = Reading { errors: 1000, slow: 1000, damaged: 1, ..good() };
    assert_near(score_of(&worse), 0.35);
    assert_near(score_of(&Reading { circuit_open: true, ..worse }), 0.35);
}

#[test]
fn damage_of_before_the_window_costs_half_of_what_new_damage_does() {
    let earlier = Reading { damaged: 1, ..good() };
    let later = Reading { allocations: 2000, served: 2000, fast_hits: 1800, damaged: 1, ..good() };
    assert_near(Health::between(&earlier, &later, INTERVAL).health_score, 0.9);
    let again = Reading { damaged: 2, ..later };
    assert_near(Health::between(&earlier, &again, INTERVAL).health_score, 0.8);
}

#[test]
fn rates_are_those_of_the_window() {
    let earlier = Reading { errors: 5000, slow: 1000, fast_hits: 0, ..good() };
    let made = Reading { allocations: 1096, served: 1096, latency: timed(1096), ..good() };
    let later = Reading { errors: 5004, slow: 1012, fast_hits: 72, ..made };
    let health = Health::between(&earlier, &later, INTERVAL);
    assert_near(health.error_rate, 0.04);
    assert_near(health.slow_rate, 0.125);
    assert_near(health.cache_efficiency, 0.75);
}

#[test]
fn percentiles_are_recent_where_there_are_enough_and_of_the_lifetime_else() {
    let latencies = Latencies::default();
    latencies.record(1_000_000, 10_000);
    let earlier = Reading { latency: latencies.snapshot(), ..good() };
    latencies.record(100, PERCENTILES_FROM - 1);
    let few = Reading { latency: latencies.snapshot(), ..good() };
    let p50 =
        |later: &Reading| Health::between(&earlier, later, INTERVAL).latency_p50.expect("some were timed");
    assert_eq!(p50(&few), Duration::from_nanos(1_000_000));
    latencies.record(100, 1);
    let enough = Reading { latency: latencies.snapshot(), ..good() };
    assert!(p50(&enough) <= Duration::from_nanos(107), "{:?}", p50(&enough));
}

/// Seconds after the start.
fn second(seconds: u64) -> Now {
    Now(0).after(Duration::from_secs(seconds))
}

/// A monitor since second 0, with an interval of 10 s.
fn monitor() -> HealthMonitor {
    HealthMonitor::new(second(0), Duration::from_secs(10))
}

/// As many were made until then, and so many refused.
fn counted(allocations: u64, errors: u64) -> Reading {
    Reading { allocations, errors, served: allocations, fast_hits: allocations, ..Reading::default() }
}

#[test]
fn the_window_is_one_to_two_intervals_long_once_there_were_so_many() {
    let mut monitor = monitor();
    for at in 0..200 {
        let window = monitor.observe(second(at), counted(at, 0)).window.as_secs();
        let expected = if at < 10 { at } else { 10 + at % 10 };
        assert_eq!(window, expected, "second {at}");
    }
}

#[test]
fn what_happened_is_forgotten_after_two_intervals() {
    let mut monitor = monitor();
    // One asked for each second; all of the first ten are refused.
    for at in 0..40_u32 {
        let (errors, made) = (at.min(10), at.saturating_sub(10));
        let rate = monitor.observe(second(at.into()), counted(made.into(), errors.into())).error_rate;
        match at {
            1..=10 => assert_near(rate, 1.0),
            11..=19 => assert_near(rate, 10.0 / f64::from(at)),
            _ => assert_near(rate, 0.0),
        }
    }
}

#[test]
fn a_monitor_from_its_first_look_on_knows_nothing_of_before_however_early_that_is() {
    for first in [0, 5, 100_000] {
        let mut monitor = HealthMonitor::from_first_look(Duration::from_secs(10));
        let health = monitor.observe(second(first), counted(0, 10));
        assert_eq!(
            (health.window, health.error_rate, health.recent_trend),
            (Duration::ZERO, 0.0, Trend::Stable)
        );
        let health = monitor.observe(second(first + 5), counted(30, 20));
        assert_eq!(health.window, Duration::from_secs(5));
        assert_near(health.error_rate, 0.25);
    }
}

#[test]
fn the_longest_interval_there_is_ends_never() {
    let mut monitor = HealthMonitor::new(second(0), Duration::MAX);
    assert_near(monitor.observe(second(1 << 30), counted(1, 1)).error_rate, 0.5);
}

#[test]
fn one_who_looks_seldom_sees_all_since_the_last_time() {
    let mut monitor = monitor();
    assert_near(monitor.observe(second(60), counted(0, 100)).error_rate, 1.0);
    let health = monitor.observe(second(120), counted(90, 110));
    assert_eq!(health.window, Duration::from_secs(60));
    assert_near(health.error_rate, 0.1);
}

#[test]
fn a_reading_that_is_too_old_is_not_recent() {
    let mut monitor = monitor();
    let age_max = 10 * u64::from(AGE_INTERVALS_MAX);
    assert_near(monitor.observe(second(age_max), counted(0, 10)).error_rate, 1.0);
    let health = monitor.observe(second(2 * age_max + 1), counted(0, 20));
    assert_eq!((health.window, health.error_rate), (Duration::ZERO, 0.0));
    assert_eq!(health.recent_trend, Trend::Stable, "nothing is known of before");
    let health = monitor.observe(second(2 * age_max + 6), counted(30, 30));
    assert_near(health.error_rate, 0.25);
}

#[test]
fn the_trend_says_where_the_score_goes() {
    let mut monitor = monitor();
    let full = |in_use_bytes| Reading { in_use_bytes, limit_bytes: 1000, ..Reading::default() };
    let mut trend = |at, in_use_bytes| monitor.observe(second(at), full(in_use_bytes)).recent_trend;
    assert_eq!(trend(5, 1000), Trend::Stable, "nothing is known of before");
    assert_eq!(trend(10, 800), Trend::Stable);
    assert_eq!(trend(11, 853), Trend::Stable, "0.02 is not much");
    assert_eq!(trend(12, 854), Trend::Degrading);
    assert_eq!(trend(13, 746), Trend::Improving);
    assert_eq!(trend(20, 746), Trend::Improving);
    assert_eq!(trend(21, 746), Trend::Stable, "that is how it was when this interval began");
}

#[test]
fn a_reading_older_than_the_last_one_counts_as_nothing_new() {
    let mut monitor = monitor();
    monitor.observe(second(10), counted(100, 50));
    monitor.observe(second(20), counted(100, 50));
    let health = monitor.observe(second(19), counted(90, 40));
    assert_eq!((health.error_rate, health.cache_efficiency), (0.0, 1.0));
}
