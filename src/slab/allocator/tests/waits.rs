//! Who waits, and who is sent away by the breaker.

use super::*;

#[test]
fn who_waits_gets_what_is_given_back_and_else_is_told_when_its_time_is_over() {
    let allocator = small(1);
    let slab = allocator.allocate().expect("there is room");
    let began = Instant::now();
    let refused = error_of(allocator.allocate_timeout(Duration::from_millis(30)));
    assert!(matches!(refused, SlabError::Timeout { waited } if waited >= Duration::from_millis(30)));
    assert!(began.elapsed() < Duration::from_secs(5));
    assert!(matches!(error_of(allocator.allocate_until(Instant::now())), SlabError::Timeout { .. }));
    thread::scope(|scope| {
        let waiter = scope.spawn(|| allocator.allocate_timeout(Duration::MAX).map(|slab| slab.size()));
        while allocator.stats().waiting == 0 {
            thread::yield_now();
        }
        drop(slab);
        assert_eq!(waiter.join().expect("no panic"), Ok(100));
    });
    assert_eq!((allocator.stats().waiting, allocator.stats().allocation_errors), (0, 2));
}

#[test]
fn many_who_wait_for_few_slabs_are_all_served() {
    let allocator = small(2);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..200 {
                    let mut slab =
                        allocator.allocate_timeout(Duration::from_secs(60)).expect("somebody frees");
                    slab[0] = slab[0].wrapping_add(1);
                }
            });
        }
    });
    let stats = allocator.stats();
    assert_eq!((stats.total_allocations, stats.used_slabs), (1600, 0));
    assert!(stats.peak_used_slabs <= 2, "{}", stats.peak_used_slabs);
}

#[test]
fn the_breaker_opens_after_failures_in_a_row_and_a_free_closes_it() {
    let allocator = SlabAllocator::builder(64, 1)
        .circuit_breaker(3, Duration::from_secs(3600))
        .build()
        .expect("an allocator");
    let slab = allocator.allocate().expect("there is room");
    for _ in 0..3 {
        assert!(matches!(error_of(allocator.allocate()), SlabError::OutOfMemory { .. }));
    }
    assert!(matches!(error_of(allocator.allocate()), SlabError::CircuitOpen { .. }));
    assert!(matches!(allocator.allocate_batch(1), Err(SlabError::CircuitOpen { .. })));
    let waits = allocator.allocate_timeout(Duration::from_secs(60));
    assert!(matches!(error_of(waits), SlabError::CircuitOpen { .. }), "nobody waits before an open breaker");
    let health = allocator.health_check();
    assert!(health.circuit_breaker_open && health.health_score <= 0.5);
    drop(slab);
    assert!(allocator.allocate().is_ok());
    assert_eq!(allocator.stats().circuit_opened, 1);
    assert!(!allocator.health_check().circuit_breaker_open);
}

#[test]
fn who_waits_is_not_sent_away_by_others_failures_nor_by_its_own_first_look() {
    let allocator = SlabAllocator::builder(64, 1)
        .circuit_breaker(1, Duration::from_millis(20))
        .build()
        .expect("an allocator");
    let slab = allocator.allocate().expect("there is room");
    let _ = allocator.allocate(); // opens it
    thread::sleep(Duration::from_millis(30));
    thread::scope(|scope| {
        // Its time is over: this one tries for all, and waits.
        let waiter = scope.spawn(|| allocator.allocate_timeout(Duration::from_secs(60)).map(drop));
        while allocator.stats().waiting == 0 {
            thread::yield_now();
        }
        assert!(matches!(error_of(allocator.allocate()), SlabError::CircuitOpen { .. }));
        thread::sleep(Duration::from_millis(30));
        assert!(allocator.allocate().is_err());
        drop(slab);
        assert_eq!(waiter.join().expect("no panic"), Ok(()));
    });
}

#[test]
fn what_rusts_own_allocator_serves_is_a_failure_to_the_breaker_and_waiting_comes_first() {
    let allocator = SlabAllocator::builder(64, 1)
        .heap_fallback(true)
        .circuit_breaker(3, Duration::from_secs(60))
        .build()
        .expect("an allocator");
    let slab = allocator.allocate().expect("there is room");
    let began = Instant::now();
    let waited = allocator.allocate_timeout(Duration::from_millis(20)).expect("from elsewhere");
    assert!(waited.is_fallback() && began.elapsed() >= Duration::from_millis(20));
    let more = allocator.allocate_batch(1).expect("from elsewhere");
    let last = allocator.allocate().expect("from elsewhere");
    assert!(matches!(error_of(allocator.allocate()), SlabError::CircuitOpen { .. }));
    drop((waited, more, last));
    assert!(allocator.allocate().is_err(), "no slab came back");
    drop(slab);
    assert!(!allocator.allocate().expect("a slab").is_fallback());
}

#[test]
fn an_empty_batch_says_nothing_to_the_breaker() {
    let allocator = SlabAllocator::builder(64, 1)
        .circuit_breaker(2, Duration::from_secs(60))
        .build()
        .expect("an allocator");
    let _slab = allocator.allocate().expect("there is room");
    for _ in 0..2 {
        assert!(allocator.allocate().is_err());
        assert!(allocator.allocate_batch(0).expect("nothing is asked for").is_empty());
    }
    assert!(matches!(error_of(allocator.allocate()), SlabError::CircuitOpen { .. }));
}

#[test]
fn what_is_told_of_slabs_given_back_never_falls() {
    let allocator = small(100);
    let is_over = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    drop(allocator.allocate());
                }
            });
        }
        let mut before = 0;
        for _ in 0..20_000 {
            let now = allocator.stats().total_deallocations;
            assert!(now >= before);
            before = now;
        }
        is_over.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_reference_that_borrows_becomes_one_that_shares_and_only_of_its_own_allocator() {
    let (allocator, other) = (Arc::new(small(1)), Arc::new(small(1)));
    let mut slab = allocator.allocate().expect("there is room");
    slab[0] = 5;
    let shared = slab.into_shared(&allocator).expect("its own");
    assert_eq!((shared[0], allocator.stats().used_slabs), (5, 1));
    drop(shared);
    let slab = allocator.allocate().expect("there is room");
    assert_eq!(slab.into_shared(&other).map(drop), Err(SlabError::InvalidReference));
    assert_eq!(allocator.stats().used_slabs, 0);
}

#[test]
fn debug_tells_what_it_is_and_not_what_is_in_it() {
    let allocator = SlabAllocator::builder(64, 1_000_000).build().expect("an allocator");
    let mut slab = allocator.allocate().expect("there is room");
    slab.fill(0x41);
    let told = format!("{allocator:?} {slab:?}");
    assert!(told.len() < 300 && !told.contains("65, 65"), "{told}");
    assert!(
        told.starts_with("SlabAllocator { slab_bytes: 64, capacity: 1000000, in_use_bytes: 64"),
        "{told}"
    );
}

#[test]
fn waiting_in_vain_is_one_failure_however_often_it_looked() {
    let allocator = SlabAllocator::builder(64, 1)
        .circuit_breaker(2, Duration::from_secs(3600))
        .build()
        .expect("an allocator");
    let _slab = allocator.allocate().expect("there is room");
    let wait = || error_of(allocator.allocate_timeout(Duration::from_millis(40)));
    assert!(matches!(wait(), SlabError::Timeout { .. }));
    assert!(matches!(wait(), SlabError::Timeout { .. }));
    assert!(matches!(wait(), SlabError::CircuitOpen { .. }));
}
