//! The pool as a whole: ids, deadlines, listing and accounts, and under threads.

mod admission;
mod arena_answers;
mod arena_costs;
mod arena_races;
mod arena_twin;
mod arena_waiting;
mod arenas;
mod cancel;
mod drift;
mod edges;
mod expiry;
mod failing_system;
mod health;
mod race;
mod stray_writes;
mod twin;
mod waiting;

use super::*;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

/// Polls once: a call that would make a request wait fails the test.
pub(super) fn at_once<T>(call: impl Future<Output = T>) -> T {
    match pin!(call).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("a call of the local engine is ready at the first poll"),
    }
}

fn pool(limit: u64, sizes: &[u64], config: &Config) -> Pool {
    let memory =
        memory::Config { slab_sizes: sizes.to_vec(), max_pool_size: limit, ..memory::Config::default() };
    Pool::new(Heap::new(&memory).expect("the configuration is right"), config)
}

fn allocate(pool: &Pool, size_bytes: u64, now: Now) -> Result<Allocation, AllocateError> {
    at_once(pool.allocate(&AllocateRequest::new(size_bytes), Duration::ZERO, now))
}

fn request(size_bytes: u64, tag: Option<&str>) -> AllocateRequest {
    let tag = tag.map(|tag| tag.parse().expect("a tag"));
    AllocateRequest { size_bytes, lease: None, tag, ..AllocateRequest::new(size_bytes) }
}

/// Asserts what must be true whenever no call is under way and no wait is left.
fn check_quiet(pool: &Pool) {
    let Engine::Local(local) = &pool.engine;
    local.heap().check();
    let stats = at_once(pool.stats());
    assert_eq!((stats.waiting_requests, stats.reserved_bytes), (0, 0));
    let lost = stats.heap.draining_bytes + stats.heap.retired_bytes;
    let (_, member_bytes, _) = local.arenas().live();
    let held = stats.allocated_bytes - member_bytes + stats.arenas.chunk_bytes;
    assert_eq!(stats.heap.in_use_bytes, held + lost);
    assert!(stats.requested_bytes <= stats.allocated_bytes);
    assert_eq!(stats.requested_bytes == 0, stats.active_allocations == 0);
    let tagged: u64 = stats.tags.iter().map(|tag| tag.allocated_bytes).sum();
    assert!(tagged <= held);
}

fn ids(page: &Page) -> Vec<AllocationId> {
    page.allocations.iter().map(|allocation| allocation.id).collect()
}

/// The whole listing, page by page.
fn list_all(pool: &Pool, limit: usize, now: Now) -> Vec<AllocationId> {
    let (mut all, mut cursor) = (Vec::new(), None);
    loop {
        let page = at_once(pool.list(cursor, limit, None, now));
        assert!(page.allocations.len() <= limit);
        all.extend(ids(&page));
        cursor = page.next.map(|next| Cursor::decode(&next.encode()).expect("a cursor survives as text"));
        if cursor.is_none() {
            return all;
        }
    }
}

#[test]
fn an_allocation_is_found_freed_and_then_gone_for_ever() {
    let pool = pool(10_240, &[1024], &Config::default());
    let made = allocate(&pool, 100, Now(5)).expect("there is room");
    assert_eq!((made.size_bytes, made.actual_size_bytes, made.created), (100, 1024, Now(5)));
    assert_eq!(at_once(pool.get(made.id, Now(6))), Ok(made.clone()));
    assert_eq!(at_once(pool.free(made.id, Now(7))), Ok(()));
    assert_eq!(at_once(pool.free(made.id, Now(7))), Err(NotFound(made.id)));
    let next = allocate(&pool, 100, Now(8)).expect("there is room");
    assert_ne!(next.id, made.id);
    assert_eq!(
        at_once(pool.get(made.id, Now(9))),
        Err(NotFound(made.id)),
        "the entry is used again, the id is not"
    );
    let stats = at_once(pool.stats());
    assert_eq!((stats.active_allocations, stats.allocated_bytes, stats.heap.classes[0].reused), (1, 1024, 1));
}

#[test]
fn what_can_never_fit_is_told_apart_from_what_does_not_fit_now() {
    let pool = pool(10_240, &[1024, 16_384], &Config::default());
    let refused = allocate(&pool, 9000, Now(1)).expect_err("9000 rounds to 16384");
    let expected =
        AllocateError::TooLarge { size_bytes: 9000, actual_size_bytes: Some(16_384), size_bytes_max: 1024 };
    assert_eq!(refused, expected);
    assert!(matches!(
        allocate(&pool, u64::MAX, Now(1)),
        Err(AllocateError::TooLarge { actual_size_bytes: None, .. })
    ));
    for _ in 0..10 {
        allocate(&pool, 1, Now(1)).expect("there is room");
    }
    assert!(matches!(
        allocate(&pool, 1, Now(1)),
        Err(AllocateError::Memory(memory::AllocateError::Exhausted { .. }))
    ));
}

#[test]
fn max_allocation_size_bounds_a_request() {
    let pool = pool(1 << 20, &[1024, 4096], &Config { max_allocation_size: Some(2000), ..Config::default() });
    assert!(allocate(&pool, 2000, Now(1)).is_ok());
    assert!(matches!(
        allocate(&pool, 2001, Now(1)),
        Err(AllocateError::TooLarge { size_bytes_max: 2000, .. })
    ));
}

#[test]
fn the_table_holds_exactly_as_many_as_it_may_and_a_refusal_takes_nothing() {
    let pool = pool(1 << 20, &[1024], &Config { max_allocations: Some(100), ..Config::default() });
    let made: Vec<_> = (0..100).map(|_| allocate(&pool, 1, Now(1)).expect("there is room")).collect();
    assert_eq!(allocate(&pool, 1, Now(1)), Err(AllocateError::TableFull { allocations_max: 100 }));
    assert_eq!(at_once(pool.stats()).heap.in_use_bytes, 100 * 1024);
    // Freed by another thread, so that the entry may lie in another slot's list.
    std::thread::scope(|scope| scope.spawn(|| at_once(pool.free(made[50].id, Now(2)))).join())
        .expect("no panic")
        .expect("it is live");
    allocate(&pool, 1, Now(3)).expect("one entry is free");
}

/// With as many entries as slabs, whoever gets a slab finds an entry: found by a user's stress, where a free gave the
/// slab back before the entry.
#[test]
fn a_table_of_as_many_entries_as_slabs_is_never_full_while_a_slab_is_free() {
    let pool = pool(4096, &[1024], &Config::default());
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                for _ in 0..20_000 {
                    match allocate(&pool, 1, Now(1)) {
                        Ok(made) => at_once(pool.free(made.id, Now(1))).expect("it is ours"),
                        Err(error) => assert!(matches!(error, AllocateError::Memory(_)), "{error}"),
                    }
                }
            });
        }
    });
}

#[test]
fn an_allocation_past_its_deadline_is_gone_at_the_next_look() {
    let pool = pool(10_240, &[1024], &Config::default());
    let request = AllocateRequest {
        size_bytes: 1,
        lease: Some(Duration::from_nanos(100)),
        tag: None,
        ..AllocateRequest::new(1)
    };
    let made = at_once(pool.allocate(&request, Duration::ZERO, Now(1000))).expect("there is room");
    assert_eq!(at_once(pool.get(made.id, Now(1099))).map(|found| found.deadline), Ok(Some(Now(1100))));
    assert_eq!(list_all(&pool, 10, Now(1099)), [made.id]);
    assert_eq!(list_all(&pool, 10, Now(1100)), []);
    assert_eq!(at_once(pool.get(made.id, Now(1100))), Err(NotFound(made.id)));
    assert_eq!(at_once(pool.stats()).heap.in_use_bytes, 0, "and its bytes are free");
}

#[test]
fn a_closed_pool_refuses_new_allocations_and_serves_the_rest() {
    let pool = pool(10_240, &[1024], &Config::default());
    let made = allocate(&pool, 1, Now(1)).expect("there is room");
    pool.close();
    assert_eq!(allocate(&pool, 1, Now(2)), Err(AllocateError::Unavailable(Unavailable)));
    assert!(at_once(pool.get(made.id, Now(2))).is_ok());
    assert!(at_once(pool.free(made.id, Now(2))).is_ok());
}

#[test]
fn a_listing_is_in_creation_order_though_entries_are_used_again() {
    let pool = pool(1 << 20, &[1024], &Config::default());
    let now = Now(7); // the same instant for all: the order must not depend on the clock's steps
    let first: Vec<_> = (0..5).map(|_| allocate(&pool, 1, now).expect("there is room").id).collect();
    at_once(pool.free(first[1], now)).expect("live");
    at_once(pool.free(first[3], now)).expect("live");
    let later: Vec<_> = (0..3).map(|_| allocate(&pool, 1, now).expect("there is room").id).collect();
    let expected = [first[0], first[2], first[4], later[0], later[1], later[2]];
    for limit in 1..8 {
        assert_eq!(list_all(&pool, limit, now), expected, "pages of {limit}");
    }
}

#[test]
fn what_lives_through_a_listing_appears_exactly_once_whatever_happens_around_it() {
    let pool = pool(64 << 20, &[1024], &Config::default());
    let mut random = fastrand::Rng::with_seed(42);
    let mut time = 1;
    let mut tick = move || {
        time += 1;
        Now(time)
    };
    let mut live: Vec<AllocationId> =
        (0..20_000).map(|_| allocate(&pool, 1, tick()).expect("room").id).collect();
    // Thin the order out, so that chunks merge.
    random.shuffle(&mut live);
    for id in live.drain(2500..) {
        at_once(pool.free(id, tick())).expect("live");
    }
    let through: Vec<AllocationId> = live[..1000].to_vec();
    let mut others = live.split_off(1000);
    let (mut seen, mut cursor) = (Vec::new(), None);
    loop {
        let page = at_once(pool.list(cursor, 100, None, tick()));
        seen.extend(ids(&page));
        let Some(next) = page.next else { break };
        cursor = Some(next);
        for _ in 0..50 {
            if !others.is_empty() {
                at_once(pool.free(others.swap_remove(random.usize(..others.len())), tick())).expect("live");
            }
            let fresh: Vec<_> = (0..20).map(|_| allocate(&pool, 1, tick()).expect("room").id).collect();
            fresh.into_iter().for_each(|id| at_once(pool.free(id, tick())).expect("live"));
            others.push(allocate(&pool, 1, tick()).expect("room").id);
        }
        assert!(seen.len() < 200_000, "the listing ends");
    }
    let mut counts = std::collections::HashMap::new();
    seen.iter().for_each(|id| *counts.entry(*id).or_insert(0) += 1);
    assert!(counts.values().all(|count| *count == 1));
    assert!(through.iter().all(|id| counts.contains_key(id)));
}

#[test]
fn metadata_stays_within_96_bytes_an_allocation() {
    let pool = pool(256 << 20, &[1024], &Config::default());
    let made: Vec<_> =
        (0..200_000).map(|_| allocate(&pool, 1000, Now(1)).expect("there is room").id).collect();
    let stats = at_once(pool.stats());
    let each = stats.metadata_bytes as f64 / stats.active_allocations as f64;
    assert!(each <= 96.0, "{each} bytes an allocation");
    // One in 300 survives: the order is compacted with them.
    for (at, id) in made.iter().enumerate() {
        if at % 300 != 0 {
            at_once(pool.free(*id, Now(2))).expect("live");
        }
    }
    let Engine::Local(local) = &pool.engine;
    let order: u64 = local.order_bytes();
    assert!(order <= 667 * 32 + 100_000, "{order} bytes of order for 667 allocations");
}

#[test]
fn threads_that_allocate_list_and_free_lose_nothing() {
    let pool = pool(64 << 20, &[1024, 4096], &Config::default());
    std::thread::scope(|scope| {
        for seed in 0..4 {
            let pool = &pool;
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed);
                let mut mine = Vec::new();
                for _ in 0..5000 {
                    if mine.len() < 100 || random.bool() {
                        mine.push(
                            allocate(pool, random.u64(1..4096), Now::read()).expect("there is room").id,
                        );
                    } else {
                        let id = mine.swap_remove(random.usize(..mine.len()));
                        at_once(pool.free(id, Now::read())).expect("it is mine");
                    }
                }
                let listed = list_all(pool, 1000, Now::read());
                assert!(mine.iter().all(|id| listed.contains(id)));
                mine.into_iter().for_each(|id| at_once(pool.free(id, Now::read())).expect("it is mine"));
            });
        }
    });
    let stats = at_once(pool.stats());
    assert_eq!((stats.active_allocations, stats.heap.in_use_bytes), (0, 0));
    assert_eq!(list_all(&pool, 10, Now::read()), []);
}

#[test]
fn the_inflight_budget_is_exact_and_returns() {
    let pool = pool(10_240, &[1024], &Config { max_inflight_bytes: 100, ..Config::default() });
    let charge = pool.inflight().charge(60).expect("there is room");
    assert!(pool.inflight().charge(41).is_none());
    assert_eq!(at_once(pool.stats()).inflight_bytes, 60);
    drop(charge);
    assert_eq!(pool.inflight().bytes(), 0);
}

#[test]
fn cursors_that_are_none_are_refused() {
    for text in ["", "0", "zz", "+000000000000000ffff", &"0".repeat(21), "00000000000000000é00"] {
        assert_eq!(Cursor::decode(text), None, "{text:?}");
    }
}
