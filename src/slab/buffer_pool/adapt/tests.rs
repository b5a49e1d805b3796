//! How many buffers are kept: with use, with time, between bounds, or always the same.

use super::super::tests::{bucket, pool};
use super::super::{Bucket, BufferPool};
use super::*;

#[test]
fn a_pool_that_does_not_adapt_keeps_as_many_as_at_first() {
    for (initial, kept) in [(5, 10), (50, 50)] {
        let bucket_of = Bucket { initial, kept_min: 10, kept_max: 100, ..Bucket::of(4096) };
        let pool = pool(|builder| builder.buckets([bucket_of]).initial_buffer_bytes(1).adaptive(None));
        (1..=9).for_each(|interval| pool.adjust(Instant::now() + INTERVAL * interval));
        let used: Vec<_> = (0..200).map(|_| pool.buffer().expect("there is room")).collect();
        (10..=19).for_each(|interval| pool.adjust(Instant::now() + INTERVAL * interval));
        drop(used);
        assert_eq!((bucket(&pool, 0).kept_limit, bucket(&pool, 0).kept), (kept, kept), "{initial} at first");
    }
}

/// A pool of one bucket that keeps 10 to 100, and a time when it was made.
fn adaptive(initial: usize) -> (BufferPool, Instant) {
    let bucket = Bucket { initial, kept_min: 10, kept_max: 100, ..Bucket::of(16 << 10) };
    (pool(|builder| builder.buckets([bucket])), Instant::now())
}

const INTERVAL: Duration = Duration::from_secs(30);

#[test]
fn a_bucket_keeps_more_where_most_are_in_use_up_to_its_bound() {
    let (pool, begin) = adaptive(0);
    let used: Vec<_> = (0..9).map(|_| pool.buffer().expect("there is room")).collect();
    pool.adjust(begin); // all in use
    pool.adjust(begin + INTERVAL / 2);
    assert_eq!(bucket(&pool, 0).kept_limit, 10, "the interval is not over");
    let limits: Vec<usize> = (1..=15)
        .map(|interval| {
            pool.adjust(begin + INTERVAL * interval);
            bucket(&pool, 0).kept_limit
        })
        .collect();
    assert_eq!(limits, [12, 14, 16, 19, 22, 26, 31, 37, 44, 52, 62, 74, 88, 100, 100]);
    drop(used);
}

#[test]
fn a_bucket_keeps_fewer_where_most_lie_idle_down_to_its_bound_and_their_pages_go_back() {
    let (pool, begin) = adaptive(50);
    let limits: Vec<usize> = (1..=9)
        .map(|interval| {
            pool.adjust(begin + INTERVAL * interval);
            let stats = bucket(&pool, 0);
            assert_eq!(stats.kept, stats.kept_limit, "no more is kept");
            stats.kept_limit
        })
        .collect();
    assert_eq!(limits, [40, 32, 25, 20, 16, 12, 10, 10, 10]);
    (10..14).for_each(|interval| pool.adjust(begin + INTERVAL * interval));
    assert_eq!(pool.lines.mine().heap.stats().pool_size_bytes, 10 * (16 << 10), "the rest is the system's");
}

#[test]
fn use_is_averaged_over_the_interval_by_time() {
    let (pool, begin) = adaptive(0);
    let used: Vec<_> = (0..10).map(|_| pool.buffer().expect("there is room")).collect();
    pool.adjust(begin); // 1.0 for half of the time
    pool.adjust(begin + INTERVAL / 2);
    drop(used); // then 0.0
    pool.adjust(begin + INTERVAL / 2);
    pool.adjust(begin + INTERVAL);
    assert_eq!(bucket(&pool, 0).kept_limit, 10, "0.5 is neither much nor little");
}

#[test]
fn a_pool_adapts_by_itself_when_buffers_are_given_back() {
    let interval = Duration::from_millis(8);
    let adaptive = KeptAdaptation { interval, ..KeptAdaptation::default() };
    let bucket_of = Bucket { initial: 50, kept_min: 1, kept_max: 100, ..Bucket::of(16 << 10) };
    let pool = pool(|builder| builder.buckets([bucket_of]).adaptive(adaptive));
    let deadline = Instant::now() + Duration::from_secs(20);
    while bucket(&pool, 0).kept > 1 {
        assert!(Instant::now() < deadline, "it still keeps {:?}", bucket(&pool, 0));
        (0..16).for_each(|_| drop(pool.buffer().expect("there is room")));
        std::thread::sleep(interval / 8);
    }
}
