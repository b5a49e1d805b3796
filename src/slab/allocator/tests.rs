//! The allocator as its users meet it, step by step.

use super::*;
use crate::health::Trend;
use crate::slab::{BatchFreed, SlabId};
use std::thread;
use std::time::Instant;

fn small(capacity: u32) -> SlabAllocator {
    SlabAllocator::builder(100, capacity).build().expect("an allocator")
}

fn error_of(outcome: Result<SlabRef<'_>, SlabError>) -> SlabError {
    outcome.map(drop).expect_err("it is refused")
}

#[test]
fn a_slab_is_bytes_and_free_when_it_is_dropped() {
    let allocator = small(3);
    let mut slab = allocator.allocate().expect("there is room");
    assert_eq!((slab.len(), slab.size(), slab.is_valid(), slab.is_fallback()), (100, 100, true, false));
    slab[99] = 1;
    assert_eq!(allocator.stats().used_slabs, 1);
    drop(slab);
    let stats = allocator.stats();
    assert_eq!((stats.used_slabs, stats.total_allocations, stats.total_deallocations), (0, 1, 1));
    assert_eq!((stats.total_slabs, stats.available_slabs, stats.peak_used_slabs), (3, 3, 1));
    assert_eq!((stats.slab_size_bytes, stats.slab_stride_bytes), (100, 104));
}

#[test]
fn all_slabs_can_be_had_and_not_one_more() {
    let allocator = small(1000);
    let mut all: Vec<_> = (0..1000).map(|_| allocator.allocate().expect("there is room")).collect();
    let refused = error_of(allocator.allocate());
    assert_eq!(refused, SlabError::OutOfMemory { requested: 1, in_use: 1000, capacity: 1000 });
    assert_eq!(refused.to_string(), "1 slabs requested, 1000 of 1000 in use");
    let ids: std::collections::BTreeSet<_> = all.iter().map(|slab| slab.id().expect("a slab")).collect();
    assert_eq!(ids.len(), 1000, "each has its own number");
    all.truncate(500);
    all.extend((0..500).map(|_| allocator.allocate().expect("there is room again")));
    assert_eq!(allocator.stats().allocation_errors, 1);
}

#[test]
fn secure_slabs_are_zeros_and_others_as_they_were_left() {
    for (secure, left) in [(true, 0), (false, 0xEE)] {
        let allocator = SlabAllocator::builder(4096, 1).secure(secure).build().expect("an allocator");
        allocator.allocate().expect("there is room").fill(0xEE);
        assert!(allocator.allocate().expect("it is free").iter().all(|byte| *byte == left));
    }
}

#[test]
fn a_reference_that_was_released_is_void_and_a_second_release_is_told() {
    let allocator = small(1);
    let mut slab = allocator.allocate().expect("there is room");
    assert_eq!((slab.release(), slab.release()), (Ok(()), Err(SlabError::DoubleFree)));
    assert_eq!((slab.is_valid(), slab.id(), slab.bytes()), (false, None, Err(SlabError::InvalidReference)));
    assert_eq!(slab.part_mut(0..1).map(drop), Err(SlabError::InvalidReference));
    assert_eq!(allocator.deallocate(slab), Err(SlabError::DoubleFree));
    assert_eq!(allocator.stats().deallocation_errors, 2);
    assert!(allocator.allocate().is_ok());
}

#[test]
fn a_reference_of_another_allocator_goes_home_and_is_told() {
    let (one, other) = (small(1), small(1));
    let slab = one.allocate().expect("there is room");
    assert_eq!(other.deallocate(slab), Err(SlabError::InvalidReference));
    assert_eq!((one.stats().used_slabs, other.stats().deallocation_errors), (0, 1));
}

#[test]
fn a_batch_is_all_or_nothing() {
    let allocator = small(10);
    let batch = allocator.allocate_batch(7).expect("there is room");
    let refused = allocator.allocate_batch(4).map(drop).expect_err("three are left");
    assert_eq!(refused, SlabError::OutOfMemory { requested: 4, in_use: 7, capacity: 10 });
    assert_eq!(allocator.stats().used_slabs, 7);
    let rest = allocator.allocate_batch(3).expect("they are");
    assert_eq!(allocator.deallocate_batch(batch), BatchFreed { freed: 7, errors: Vec::new() });
    let mut rest = rest;
    rest[1].release().expect("once");
    let outcome = allocator.deallocate_batch(rest);
    assert_eq!(outcome, BatchFreed { freed: 2, errors: vec![(1, SlabError::DoubleFree)] });
    assert_eq!(allocator.allocate_batch(0).expect("nothing is asked for").len(), 0);
    assert!(allocator.allocate_batch(usize::MAX).is_err());
    let stats = allocator.stats();
    assert_eq!((stats.used_slabs, stats.batch_allocations, stats.batch_deallocations), (0, 5, 2));
}

#[test]
fn ids_are_good_once() {
    let (allocator, other) = (small(2), small(2));
    let mut slab = allocator.allocate().expect("there is room");
    slab[0] = 42;
    let id = slab.detach().expect("a slab");
    assert_eq!((allocator.stats().used_slabs, allocator.stats().detached_slabs), (1, 1));
    assert_eq!(other.deallocate_id(id), Err(SlabError::InvalidReference), "it is of another allocator");
    let slab = allocator.attach(id).expect("it is there");
    assert_eq!(slab[0], 42);
    assert_eq!(error_of(allocator.attach(id)), SlabError::InvalidReference);
    let id = slab.detach().expect("a slab");
    assert_eq!(allocator.deallocate_id(id), Ok(()));
    assert_eq!(allocator.deallocate_id(id), Err(SlabError::DoubleFree));
    let unknown = SlabId { allocator: id.allocator, number: 99 };
    assert_eq!(allocator.deallocate_id(unknown), Err(SlabError::InvalidReference));
    assert_eq!(allocator.stats().used_slabs, 0);
}

#[test]
fn a_reset_frees_ids_and_voids_references() {
    let allocator = small(3);
    let id = allocator.allocate().expect("there is room").detach().expect("a slab");
    let mut held = allocator.allocate().expect("there is room");
    allocator.reset();
    assert_eq!(allocator.stats().used_slabs, 1, "the one whose owner may look at it");
    assert_eq!(allocator.deallocate_id(id), Err(SlabError::InvalidReference), "it is of before");
    assert_eq!((held.is_valid(), held.bytes()), (false, Err(SlabError::InvalidReference)));
    assert_eq!(held.release(), Err(SlabError::InvalidReference));
    assert_eq!(allocator.stats().used_slabs, 0);
    assert!(allocator.allocate().expect("it goes on").is_valid());
}

#[test]
fn where_all_slabs_are_in_use_rusts_own_allocator_helps_if_asked_for() {
    let allocator = SlabAllocator::builder(64, 1).heap_fallback(true).secure(true).build().expect("one");
    let slab = allocator.allocate().expect("a slab");
    let mut extra = allocator.allocate().expect("from elsewhere");
    extra[63] = 1;
    assert_eq!((extra.is_fallback(), extra.id(), extra.is_valid()), (true, None, true));
    let stats = allocator.stats();
    assert_eq!((stats.heap_fallbacks, stats.used_slabs, stats.current_allocations), (1, 1, 2));
    let id = extra.detach().expect("it is kept like any other");
    assert_eq!(allocator.attach(id).expect("it is there")[63], 1);
    assert!(allocator.allocate_batch(2).is_err(), "more than there can be slabs");
    let batch = allocator.allocate_batch(1).expect("from elsewhere");
    assert!(batch.iter().all(SlabRef::is_fallback));
    drop((slab, batch));
    assert_eq!((allocator.stats().current_allocations, allocator.stats().total_allocations), (0, 3));
}

#[test]
fn a_write_beyond_the_end_is_found_and_the_slab_retired() {
    // A size that leaves no room behind it by itself, and one of whole pages.
    for size in [64, 4096] {
        let allocator = SlabAllocator::builder(size, 4).bit_guard(true).build().expect("an allocator");
        let mut slab = allocator.allocate().expect("there is room");
        slab.fill(1);
        let id = slab.id().expect("a slab");
        allocator.heap.poke(crate::memory::SlabLocation::from_word(id), size);
        assert_eq!(allocator.deallocate(slab), Err(SlabError::Corrupted { id }));
        let stats = allocator.stats();
        assert_eq!((stats.guard_violations, stats.retired_slabs, stats.available_slabs), (1, 1, 3));
        assert!(allocator.health_check().health_score < 1.0);
        assert_eq!(allocator.allocate_batch(3).expect("the others").len(), 3);
        assert!(allocator.allocate_batch(4).is_err());
    }
}

#[test]
fn a_write_to_a_free_slab_is_found_before_it_is_given_out() {
    let allocator = SlabAllocator::builder(64, 4).bit_guard(true).build().expect("an allocator");
    let mut slab = allocator.allocate().expect("there is room");
    slab.fill(1);
    let id = slab.id().expect("a slab");
    drop(slab);
    allocator.heap.poke(crate::memory::SlabLocation::from_word(id), 3);
    let slabs = allocator.allocate_batch(3).expect("three are left");
    assert!(slabs.iter().all(|slab| slab.id() != Some(id) && slab.iter().all(|byte| *byte == 0)));
    assert_eq!(allocator.stats().guard_violations, 1);
}

#[test]
fn a_closed_allocator_allocates_no_more_tells_those_who_wait_and_takes_back() {
    let allocator = small(1);
    let slab = allocator.allocate().expect("there is room");
    thread::scope(|scope| {
        let waiter = scope.spawn(|| error_of(allocator.allocate_timeout(Duration::from_secs(60))));
        while allocator.stats().waiting == 0 {
            thread::yield_now();
        }
        let report = allocator.close().expect("the first time");
        assert_eq!((report.slabs, report.bytes, report.detached), (1, 100, 0));
        assert_eq!(waiter.join().expect("no panic"), SlabError::Closed);
    });
    assert_eq!(allocator.close().map(drop), Err(SlabError::Closed));
    assert_eq!(error_of(allocator.allocate()), SlabError::Closed);
    assert!(matches!(allocator.allocate_batch(1), Err(SlabError::Closed)));
    assert!(slab.is_valid() && allocator.is_closed());
    assert_eq!(allocator.deallocate(slab), Ok(()));
}

#[test]
fn debugging_tells_where_a_live_slab_was_allocated() {
    let allocator = SlabAllocator::builder(64, 10).debug(true).build().expect("an allocator");
    let leaked = allocator.allocate().expect("there is room").detach().expect("a slab");
    let batch = allocator.allocate_batch(2).expect("there is room");
    assert!(batch[0].allocation_backtrace().is_some());
    drop(batch);
    let report = allocator.leaks();
    assert_eq!((report.slabs, report.oldest.len(), report.detached), (1, 1, 1));
    assert!(report.to_string().contains("debugging_tells_where"), "{report}");
    assert!(report.oldest_age(Instant::now()).is_some());
    allocator.deallocate_id(leaked).expect("it is there");
    assert_eq!(allocator.leaks().oldest.len(), 0);
    assert!(small(1).allocate().expect("there is room").allocation_backtrace().is_none());
}

#[test]
fn a_latency_limit_that_nothing_keeps_is_counted_and_lowers_the_score() {
    let fine = SlabAllocator::builder(64, 100_000).health_checks(true).build().expect("an allocator");
    let slow =
        SlabAllocator::builder(64, 100_000).latency_limit(Duration::ZERO).build().expect("an allocator");
    for allocator in [&fine, &slow] {
        let held: Vec<_> = (0..5000).map(|_| allocator.allocate().expect("there is room")).collect();
        drop(held);
    }
    let stats = slow.stats();
    let share = stats.slow_allocations as f64 / stats.total_allocations as f64;
    assert!((0.8..1.2).contains(&share), "samples stand for all: {share}");
    assert!(stats.average_allocation_ns.is_some_and(|mean| mean > 0.0) && stats.max_allocation_ns > 0);
    let (fine, slow) = (fine.health_check(), slow.health_check());
    assert!(fine.health_score > slow.health_score + 0.1, "{} {}", fine.health_score, slow.health_score);
    assert!(slow.latency_p50 <= slow.latency_p99 && slow.latency_p99.is_some());
    assert_eq!(slow.recent_trend, Trend::Stable);
}

#[test]
fn without_health_checks_nothing_is_timed_and_the_rest_is_known() {
    let allocator = small(10);
    drop(allocator.allocate_batch(5));
    let health = allocator.health_check();
    assert_eq!((health.latency_p99, health.error_rate), (None, 0.0));
    assert_eq!(allocator.stats().average_allocation_ns, None);
}

#[test]
fn settings_that_break_a_rule_are_refused_by_name() {
    let cases = [
        (SlabAllocator::builder(0, 1), "slab_bytes is 0"),
        (SlabAllocator::builder(u64::MAX, 1), "slab_bytes is 18446744073709551615"),
        (SlabAllocator::builder(64, 0), "capacity is 0"),
        (SlabAllocator::builder(64, 1).cache_line(48), "cache_line is 48"),
        (SlabAllocator::builder(64, 1).cache_line(8192), "cache_line is 8192"),
        (SlabAllocator::builder(64, 1).shards(0), "shards is 0"),
        (SlabAllocator::builder(64, 1).circuit_breaker(0, Duration::ZERO), "circuit_breaker threshold is 0"),
    ];
    for (builder, message) in cases {
        let refused = builder.build().map(drop).expect_err(message);
        assert!(refused.to_string().starts_with(message), "{refused}");
    }
    assert!(SlabAllocator::builder(1 << 30, u32::MAX).build().is_err(), "no machine has that many addresses");
}

#[test]
fn presets_and_options_make_allocators_that_work() {
    let one = |builder: Builder| builder.build().expect("an allocator");
    for allocator in [
        one(SlabAllocator::production(4096, 1000)),
        one(SlabAllocator::balanced_security(1000, 100)),
        one(SlabAllocator::max_security(4096, 100)),
        one(SlabAllocator::builder(1, 1)),
        one(SlabAllocator::builder(100, 100).cpu_cache(false)),
        one(SlabAllocator::builder(100, 100).shards(1).prewarm(10)),
        one(SlabAllocator::builder(100, 100).cache_line(64)),
        one(SlabAllocator::builder(100, 100).cache_line(4096).guard_pages(true)),
    ] {
        let stats = allocator.stats();
        let mut held: Vec<_> = std::iter::from_fn(|| {
            let slab = allocator.allocate().expect("there is room");
            (!slab.is_fallback()).then_some(slab)
        })
        .take(usize::try_from(stats.total_slabs).expect("few"))
        .collect();
        assert_eq!(held.len() as u64, stats.total_slabs);
        for slab in &mut held {
            slab.fill(7);
            let line = stats.cache_line_bytes.max(1);
            assert!((slab.as_ptr() as u64).is_multiple_of(line), "{line}");
        }
        drop(held);
        assert_eq!(allocator.stats().used_slabs, 0);
        assert_eq!(allocator.stats().guard_violations, 0);
        allocator.heap.check();
    }
}

#[test]
fn shared_references_go_to_other_threads_and_keep_the_allocator() {
    let allocator = Arc::new(small(4));
    let mut slab = allocator.allocate_shared().expect("there is room");
    drop(allocator);
    thread::spawn(move || slab.fill(1)).join().expect("no panic");
}

#[test]
fn allocators_and_references_go_to_other_threads_and_are_shared() {
    fn goes_anywhere<T: Send + Sync>() {}
    goes_anywhere::<SlabAllocator>();
    goes_anywhere::<SlabRef<'_>>();
    goes_anywhere::<Heap>();
    goes_anywhere::<crate::memory::Block<'_>>();
}

/// What an allocator tells whoever logs: fields and messages, as text.
#[derive(Clone, Default)]
struct Told(Arc<parking_lot::Mutex<String>>);

impl tracing::Subscriber for Told {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        struct Fields<'a>(&'a mut String);
        impl tracing::field::Visit for Fields<'_> {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                use std::fmt::Write;
                write!(self.0, "{field}={value:?} ").expect("text takes anything");
            }
        }
        event.record(&mut Fields(&mut self.0.lock()));
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn its_own_logger_is_told_of_leaks_the_breaker_and_wrong_frees() {
    let told = Told::default();
    let allocator = SlabAllocator::builder(64, 2)
        .leak_report(true)
        .circuit_breaker(1, Duration::from_secs(60))
        .logger(Dispatch::new(told.clone()))
        .build()
        .expect("an allocator");
    let mut slabs = allocator.allocate_batch(2).expect("there is room");
    let _ = allocator.allocate();
    slabs[0].release().expect("once");
    let _ = slabs[0].release();
    slabs.into_iter().for_each(std::mem::forget);
    drop(allocator);
    let told = told.0.lock();
    for part in ["breaker opens", "breaker closes", "given back before", "slabs=1 bytes=64 detached=0"] {
        assert!(told.contains(part), "{part} is missing in {told}");
    }
}

mod twin;
mod waits;
