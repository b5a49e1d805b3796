//! The whole heap under shuttle: races of three threads, in random orders of their steps at its atomics and locks.
//!
//! All orders are sequentially consistent: what weaker orderings allow is loom's to find, in the structures one by one.
//! A step is an access through `crate::sync`; between two of them a thread runs alone, so counters that only count, and
//! the system calls, are not interleaved. Signals are not modelled: see `sync/shuttle_locks.rs`. A failure prints the
//! schedule that repeats it (`shuttle::replay`).

use super::race::{Call, Race};
use shuttle::rand::Rng;
use shuttle::thread;
use std::sync::Arc;

/// Threads in a race.
const THREADS: u64 = 3;
/// Calls of each in one schedule.
const CALLS: usize = 12;

/// Schedules tried; `MAAS_SHUTTLE_SCHEDULES` makes them more.
fn schedules() -> usize {
    let given = std::env::var("MAAS_SHUTTLE_SCHEDULES").ok().and_then(|schedules| schedules.parse().ok());
    given.unwrap_or(5000)
}

fn race(limit: u64, classes: &'static [u64], large: &'static [u64]) {
    let race = Arc::new(Race::new(limit, classes, large));
    let threads: Vec<_> = (1..=THREADS)
        .map(|thread| {
            let (race, seed) = (Arc::clone(&race), shuttle::rand::thread_rng().r#gen());
            thread::spawn(move || race.racer(thread, seed).run(CALLS))
        })
        .collect();
    let calls: Vec<Call> = threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect();
    race.judge(calls);
}

#[test]
fn shuttle_one_class_is_never_granted_beyond_its_limit_nor_refused_without_a_reason() {
    shuttle::check_random(|| race(3000, &[1000], &[]), schedules());
}

#[test]
fn shuttle_classes_that_take_from_each_other_lose_nothing_in_any_order() {
    shuttle::check_random(|| race(16 << 10, &[1024, 4096, 8192], &[]), schedules());
}

#[test]
fn shuttle_large_blocks_and_slabs_that_take_from_each_other_lose_nothing_in_any_order() {
    shuttle::check_random(|| race(32 << 10, &[1024], &[4096, 8192, 20 << 10]), schedules());
}

#[test]
fn shuttle_a_few_preemptions_at_the_worst_places_lose_nothing() {
    const PREEMPTIONS: usize = 3;
    shuttle::check_pct(|| race(8 << 10, &[1024, 4096], &[]), schedules(), PREEMPTIONS);
}
