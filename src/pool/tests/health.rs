//! What is counted of the calls, what is timed, and what health is made of.

use super::place::PlaceKind;
use super::*;
use crate::health::{INTERVAL, Trend};
use crate::latency::EVERY_MAX;

/// The n-th second after the first look.
fn second(seconds: u64) -> Now {
    Now(1).after(Duration::from_secs(seconds))
}

fn stats(pool: &Pool) -> PoolStats {
    at_once(pool.stats())
}

fn free(pool: &Pool, allocation: &Allocation) {
    at_once(pool.free(allocation.id, Now(1))).expect("it is live");
}

#[test]
fn requested_bytes_are_those_of_live_blocks_whichever_way_they_came_and_went() {
    let pool = pool(1 << 20, &[1024, 4096], &Config::default());
    assert_eq!(stats(&pool).fragmentation_ratio(), 0.0, "an empty pool wastes nothing");
    let one = allocate(&pool, 1000, Now(1)).expect("there is room");
    let tagged = request(24, Some("cache"));
    let tagged = at_once(pool.allocate(&tagged, Duration::ZERO, Now(1))).expect("there is room");
    let batch = [request(2000, None), request(3000, None)];
    let batch = at_once(pool.allocate_batch(&batch, Duration::ZERO, Now(1))).expect("there is room");
    let mut deposit =
        at_once(pool.deposit(&request(512, None), Duration::ZERO, Now(1))).expect("there is room");
    deposit.push(&[7; 512]).expect("it fits");
    let kept = deposit.commit(Now(1)).expect("it is open");
    let now = stats(&pool);
    assert_eq!((now.requested_bytes, now.allocated_bytes), (1000 + 24 + 5000 + 512, 3 * 1024 + 2 * 4096));
    let expected = 1.0 - 6536.0 / 11_264.0;
    assert!((now.fragmentation_ratio() - expected).abs() < 1e-12);
    assert_eq!((now.allocations_made, now.active_allocations), (5, 5));
    [&one, &tagged, &batch[0]].into_iter().for_each(|allocation| free(&pool, allocation));
    assert!(at_once(pool.free_batch(&[batch[1].id], Now(1))).is_empty());
    assert_eq!(stats(&pool).requested_bytes, 512);
    free(&pool, &kept);
    let leased = AllocateRequest { lease: Some(Duration::from_secs(1)), ..request(10, None) };
    at_once(pool.allocate(&leased, Duration::ZERO, Now(1))).expect("there is room");
    pool.expire(second(5));
    let now = stats(&pool);
    assert_eq!((now.requested_bytes, now.active_allocations, now.allocations_made), (0, 0, 6));
    check_quiet(&pool);
}

#[test]
fn calls_and_their_errors_are_counted() {
    let config = Config { budgets: [("b".parse().expect("a tag"), 1024)].into(), ..Config::default() };
    let pool = pool(4096, &[1024], &config);
    let three = vec![request(1, None); 3];
    let made = at_once(pool.allocate_batch(&three, Duration::ZERO, Now(1))).expect("there is room");
    at_once(pool.allocate_batch(&three, Duration::ZERO, Now(1))).expect_err("two of them have no room");
    let counted = |pool: &Pool| {
        let calls = stats(pool).calls;
        (calls.batch_allocations, calls.batch_frees, calls.allocation_errors, calls.free_errors)
    };
    assert_eq!(counted(&pool), (2, 0, 3, 0));
    allocate(&pool, 1, Now(1)).expect("there is room");
    allocate(&pool, 1, Now(1)).expect_err("the pool is full");
    at_once(pool.deposit(&request(1, None), Duration::ZERO, Now(1))).map(drop).expect_err("the pool is full");
    assert_eq!(counted(&pool), (2, 0, 5, 0));
    // Neither what can never be had, nor what a budget refuses, says anything about the pool.
    allocate(&pool, 5000, Now(1)).expect_err("there is no such class");
    let ids: Vec<_> = made.iter().map(|allocation| allocation.id).chain([made[0].id]).collect();
    assert_eq!(at_once(pool.free_batch(&ids, Now(1))).len(), 1);
    let tagged = request(1, Some("b"));
    at_once(pool.allocate(&tagged, Duration::ZERO, Now(1))).expect("the budget holds one");
    at_once(pool.allocate(&tagged, Duration::ZERO, Now(1))).expect_err("and no more");
    assert_eq!(counted(&pool), (2, 1, 5, 1));
    at_once(pool.free(ids[0], Now(1))).expect_err("it was freed");
    assert_eq!(counted(&pool), (2, 1, 5, 2));
}

#[test]
fn what_is_timed_stands_for_all_single_allocations_and_for_no_refusal() {
    const ROUNDS: u64 = 20_000;
    let pool = pool(1 << 20, &[1024], &Config::default());
    for _ in 0..ROUNDS {
        free(&pool, &allocate(&pool, 1000, Now(1)).expect("there is room"));
    }
    let latency = stats(&pool).calls.latency;
    assert!(latency.count() <= ROUNDS + 2 * EVERY_MAX, "{}", latency.count());
    assert!(latency.count() + 2 * EVERY_MAX >= ROUNDS, "{}", latency.count());
    assert!(latency.percentile(50.0) > Some(0) && latency.sum() > 0);
    while allocate(&pool, 1000, Now(1)).is_ok() {}
    let full = stats(&pool).calls.latency.count();
    (0..1000).for_each(|_| assert!(allocate(&pool, 1000, Now(1)).is_err()));
    assert_eq!(stats(&pool).calls.latency.count(), full);
}

#[test]
fn what_no_magazine_serves_is_stood_for_as_well() {
    const ROUNDS: u64 = 5000;
    let class = memory::ClassConfig { magazine_capacity: Some(0), ..memory::ClassConfig::default() };
    let memory = memory::Config {
        slab_sizes: vec![1024],
        max_pool_size: 1 << 20,
        classes: [(1024, class)].into(),
        ..memory::Config::default()
    };
    let pool = Pool::new(Heap::new(&memory).expect("the configuration is right"), &Config::default());
    let tagged = request(1000, Some("cache"));
    for round in 0..ROUNDS {
        let made = match round % 3 {
            0 => at_once(pool.allocate(&tagged, Duration::ZERO, Now(1))),
            1 => allocate(&pool, 1000, Now(1)),
            _ => at_once(pool.deposit(&tagged, Duration::ZERO, Now(1)))
                .and_then(|deposit| deposit.commit(Now(1))),
        };
        free(&pool, &made.expect("there is room"));
    }
    let now = stats(&pool);
    let count = now.calls.latency.count();
    assert_eq!(now.heap.paths.magazine, 0);
    assert!(count <= ROUNDS && count + 64 >= ROUNDS, "{count} of {ROUNDS}");
}

#[test]
fn buckets_are_those_of_the_durations_and_end_with_the_rest() {
    let latencies = crate::latency::Latencies::default();
    for (nanoseconds, count) in [(40, 3), (70, 5), (2_000_000, 7), (3_000_000_000, 11)] {
        latencies.record(nanoseconds, count);
    }
    let stats = CallStats { latency: latencies.snapshot(), ..CallStats::default() };
    let buckets = stats.buckets();
    assert_eq!(buckets.len(), ALLOCATION_BUCKETS.len() + 1);
    assert_eq!(buckets, [3, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 11]);
    assert!(ALLOCATION_BUCKETS.is_sorted());
    assert_eq!((ALLOCATION_BUCKETS[0], ALLOCATION_BUCKETS[10]), (0.000_000_05, 0.001));
}

#[test]
fn a_pool_that_is_used_as_it_is_meant_to_is_well() {
    let pool = pool(1 << 20, &[1024], &Config::default());
    pool.health(&stats(&pool), second(0));
    for _ in 0..1000 {
        free(&pool, &allocate(&pool, 1000, Now(1)).expect("there is room"));
    }
    let health = pool.health(&stats(&pool), second(5));
    assert!(health.cache_efficiency > 0.9, "{health:?}");
    // A machine that is busy with other tests may hold one of them up; no more than that is lost.
    assert!(health.health_score > 0.75, "{health:?}");
    assert_eq!((health.error_rate, health.memory_pressure, health.circuit_breaker_open), (0.0, 0.0, false));
    assert!(health.latency_p50 <= health.latency_p99 && health.latency_p50 > Some(Duration::ZERO));
}

#[test]
fn a_full_pool_loses_a_half_at_most_and_gets_it_back_when_it_empties() {
    let pool = pool(64 << 10, &[1024], &Config::default());
    pool.health(&stats(&pool), second(0));
    let mut made = Vec::new();
    while let Ok(allocation) = allocate(&pool, 1000, Now(1)) {
        made.push(allocation);
    }
    (0..100).for_each(|_| assert!(allocate(&pool, 1000, Now(1)).is_err()));
    let full = pool.health(&stats(&pool), second(20));
    assert!((0.3..=0.7).contains(&full.health_score), "half of it, and what a busy machine costs: {full:?}");
    assert!(full.error_rate > 0.6 && full.memory_pressure == 1.0, "{full:?}");
    made.iter().for_each(|allocation| free(&pool, allocation));
    let interval = INTERVAL.as_secs();
    let later = pool.health(&stats(&pool), second(20 + interval));
    assert_eq!((later.error_rate, later.recent_trend), (0.0, Trend::Improving));
    assert!(later.health_score > 0.9, "{later:?}");
}

#[test]
fn a_damaged_slab_and_a_reclaim_are_seen() {
    let pool = pool(1 << 20, &[1024, 65_536], &Config::default());
    let made = allocate(&pool, 900, Now(1)).expect("there is room");
    let before = pool.health(&stats(&pool), Now(2));
    assert_eq!(before.last_reclaim_duration, None);
    let content = Bytes::from_static(&[7; 900]);
    at_once(pool.write(made.id, Placement::Replace, &[content], &Precondition::default(), Now(2)))
        .expect("nobody reads it");
    let Engine::Local(local) = &pool.engine;
    let (_, entry, record) = local.look_up(made.id, Now(2)).expect("it is live");
    drop(entry);
    let PlaceKind::Slab(location) = record.place.kind() else { panic!("a slab") };
    local.heap().poke(location, 901);
    free(&pool, &made);
    let damaged = pool.health(&stats(&pool), Now(3));
    assert!(before.health_score - damaged.health_score > 0.15, "{damaged:?}");
    // The small slabs take all of the pool, and then the large ones need it.
    let mut small = Vec::new();
    while let Ok(allocation) = allocate(&pool, 1000, Now(4)) {
        small.push(allocation);
    }
    small.iter().for_each(|allocation| free(&pool, allocation));
    allocate(&pool, 60_000, Now(5)).expect("there is room");
    let reclaimed = pool.health(&stats(&pool), Now(6)).last_reclaim_duration;
    assert!(reclaimed > Some(Duration::ZERO) && reclaimed < Some(Duration::from_secs(10)), "{reclaimed:?}");
}
