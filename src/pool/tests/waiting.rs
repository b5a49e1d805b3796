//! Requests that wait for room: their order, what is set aside, and how they leave.

use super::*;
use crate::pool::queue::PASSES_MAX;

const SECOND: Duration = Duration::from_secs(1);

type Waiter<'a> = std::pin::Pin<Box<dyn Future<Output = Result<Vec<Allocation>, AllocateError>> + 'a>>;

/// A request that has begun to wait.
fn waiter<'a>(pool: &'a Pool, requests: &'a [AllocateRequest], wait: Duration) -> Waiter<'a> {
    let mut waiter: Waiter<'a> = Box::pin(pool.allocate_batch(requests, wait, Now(1)));
    assert!(poll(&mut waiter).is_none(), "there is room already");
    waiter
}

fn poll<T>(future: &mut std::pin::Pin<Box<dyn Future<Output = T> + '_>>) -> Option<T> {
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

fn granted(waiter: &mut Waiter<'_>) -> bool {
    poll(waiter).is_some_and(|outcome| outcome.is_ok())
}

/// A pool full of blocks of 1 KiB, and those.
fn full(limit: u64, config: &Config) -> (Pool, Vec<Allocation>) {
    let pool = pool(limit, &[1024, 4096], config);
    let mut made = Vec::new();
    while let Ok(allocation) = allocate(&pool, 1, Now(1)) {
        made.push(allocation);
    }
    (pool, made)
}

fn free(pool: &Pool, allocation: &Allocation) {
    at_once(pool.free(allocation.id, Now(1))).expect("it is live");
}

fn waiting(pool: &Pool) -> (u64, u64) {
    let stats = at_once(pool.stats());
    (stats.waiting_requests, stats.reserved_bytes)
}

#[tokio::test(start_paused = true)]
async fn a_request_that_fits_is_served_at_once_and_one_that_waits_when_room_is_freed() {
    let (pool, made) = full(4096, &Config::default());
    let one = [request(1000, None)];
    let mut first = waiter(&pool, &one, SECOND);
    let mut second = waiter(&pool, &one, SECOND);
    assert_eq!(waiting(&pool), (2, 0));
    free(&pool, &made[0]);
    assert_eq!(
        at_once(pool.stats()).heap.in_use_bytes,
        4096,
        "the room is the waiter's as soon as it is freed"
    );
    assert!(matches!(allocate(&pool, 1, Now(1)), Err(AllocateError::Memory(_))));
    assert!(poll(&mut second).is_none(), "first come, first served");
    assert!(granted(&mut first));
    free(&pool, &made[1]);
    assert!(granted(&mut second));
    drop((first, second));
    check_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn waiting_in_vain_ends_with_the_reason_and_leaves_nothing_behind() {
    let (pool, _made) = full(4096, &Config::default());
    let began = tokio::time::Instant::now();
    let refused = pool.allocate(&request(1, None), SECOND, Now(1)).await.expect_err("nothing is freed");
    assert_eq!(began.elapsed(), SECOND);
    let AllocateError::Waited { waited_ms: 1000, last } = refused else { panic!("{refused}") };
    assert!(matches!(*last, AllocateError::Memory(memory::AllocateError::Exhausted { .. })), "{last}");
    check_quiet(&pool);
    // What can never be is not waited for.
    let refused = at_once(pool.allocate(&request(5000, None), SECOND, Now(1)));
    assert!(matches!(refused, Err(AllocateError::TooLarge { .. })));
}

#[tokio::test(start_paused = true)]
async fn one_that_does_not_fit_is_passed_over_64_times_and_then_room_is_set_aside_for_it() {
    let (pool, mut made) = full(16 * 1024, &Config::default());
    let (large, small) = ([request(4096, None)], [request(1, None)]);
    let mut patient = waiter(&pool, &large, 1000 * SECOND);
    let mut passes = 0;
    // By turns one that waits and one that just comes goes past it.
    while waiting(&pool).1 == 0 {
        assert!(poll(&mut patient).is_none());
        if passes % 2 == 0 {
            let mut next = waiter(&pool, &small, SECOND);
            free(&pool, &made.remove(0));
            let outcome = poll(&mut next);
            match outcome {
                Some(allocations) => made.extend(allocations.expect("room was freed")),
                None => break,
            }
        } else {
            free(&pool, &made.remove(0));
            match allocate(&pool, 1, Now(1)) {
                Ok(allocation) => made.push(allocation),
                Err(_) => break,
            }
        }
        passes += 1;
    }
    assert_eq!(passes, 64);
    assert_eq!(waiting(&pool), (1, 1024), "the first room freed after that is set aside");
    let mut behind = waiter(&pool, &small, SECOND);
    for reserved in [2048, 3072] {
        free(&pool, &made.remove(0));
        assert_eq!(waiting(&pool).1, reserved);
        assert!(poll(&mut behind).is_none() && poll(&mut patient).is_none());
    }
    free(&pool, &made.remove(0));
    assert_eq!(waiting(&pool).1, 0);
    assert!(granted(&mut patient));
    free(&pool, &made.remove(0));
    assert!(granted(&mut behind));
    drop((patient, behind));
    check_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_hangs_up_hands_on_what_it_was_granted_or_had_set_aside() {
    let (pool, mut made) = full(8192, &Config::default());
    let (large, small) = ([request(4096, None)], [request(1, None)]);
    let leaver = waiter(&pool, &small, SECOND);
    let mut heir = waiter(&pool, &small, SECOND);
    free(&pool, &made.remove(0));
    drop(leaver); // granted, and never polled again
    assert!(granted(&mut heir));
    // The heir's block is dropped with its future's output; it lives on in the pool.
    let leaver = waiter(&pool, &large, 1000 * SECOND);
    for _ in 0..64 {
        free(&pool, &made.remove(0));
        made.push(allocate(&pool, 1, Now(1)).expect("room was freed"));
    }
    free(&pool, &made.remove(0));
    assert_eq!(waiting(&pool), (1, 1024));
    let mut heir = waiter(&pool, &small, SECOND);
    drop(leaver);
    assert!(granted(&mut heir));
    drop(heir);
    check_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn a_batch_waits_as_one_and_gets_all_or_nothing() {
    let (pool, mut made) = full(8192, &Config::default());
    let batch = [request(1, None), request(1, None), request(1, None)];
    let mut waiter = waiter(&pool, &batch, SECOND);
    for _ in 0..2 {
        free(&pool, &made.remove(0));
        assert!(poll(&mut waiter).is_none());
    }
    assert_eq!(at_once(pool.stats()).active_allocations, 6, "nothing of it before all of it");
    free(&pool, &made.remove(0));
    assert_eq!(poll(&mut waiter).expect("there is room").expect("it is granted").len(), 3);
    drop(waiter);
    check_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_for_its_tags_budget_lets_others_pass() {
    let budgets = [("cache".parse().expect("a tag"), 2048)].into();
    let pool = pool(8192, &[1024], &Config { budgets, ..Config::default() });
    let (cached, plain) = ([request(1, Some("cache"))], [request(1, None)]);
    let held: Vec<Allocation> = (0..2)
        .map(|_| at_once(pool.allocate(&cached[0], Duration::ZERO, Now(1))).expect("in budget"))
        .collect();
    let refused = at_once(pool.allocate(&cached[0], Duration::ZERO, Now(1)));
    assert!(matches!(refused, Err(AllocateError::Budget { in_use_bytes: 2048, budget_bytes: 2048, .. })));
    let mut waiter = waiter(&pool, &cached, 1000 * SECOND);
    // However many pass: room that its budget does not let it have is not set aside for it.
    for _ in 0..200 {
        let passing = at_once(pool.allocate(&plain[0], Duration::ZERO, Now(1))).expect("there is room");
        free(&pool, &passing);
        assert!(poll(&mut waiter).is_none());
        assert_eq!(waiting(&pool), (1, 0));
    }
    free(&pool, &held[0]);
    assert!(granted(&mut waiter));
    drop(waiter);
    let large = at_once(pool.allocate_batch(&vec![cached[0].clone(); 3], SECOND, Now(1)));
    assert!(matches!(large, Err(AllocateError::Budget { .. })), "more than the budget is refused at once");
    check_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn a_full_table_is_waited_for_as_well() {
    let (pool, made) = full(8192, &Config { max_allocations: Some(3), ..Config::default() });
    assert_eq!(made.len(), 3);
    let one = [request(1, None)];
    let mut waiter = waiter(&pool, &one, SECOND);
    free(&pool, &made[0]);
    assert!(granted(&mut waiter));
    drop(waiter);
    check_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_ends_makes_room_for_a_waiter_and_for_one_that_just_comes() {
    let pool = pool(1024, &[1024], &Config::default());
    let leased = AllocateRequest { lease: Some(Duration::from_nanos(10)), ..request(1, None) };
    at_once(pool.allocate(&leased, Duration::ZERO, Now(1))).expect("there is room");
    let one = [request(1, None)];
    let mut waiter = waiter(&pool, &one, SECOND);
    let tick_later = Now(50_000_000);
    assert_eq!(pool.expire(tick_later), Expired { ended: 1, more: false, leases: false });
    let made = poll(&mut waiter).expect("there is room").expect("it is granted");
    drop(waiter);
    free(&pool, &made[0]);
    // Due in this very tick: no sweep would end it yet, but a refusal would be wrong.
    at_once(pool.allocate(&leased, Duration::ZERO, Now(60_000_001))).expect("there is room");
    assert!(allocate(&pool, 1, Now(60_000_010)).is_err(), "one nanosecond is left");
    allocate(&pool, 1, Now(60_000_011)).expect("what a lease has ended is in nobody's way");
    check_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn a_small_write_waits_only_for_the_reader_of_its_own_block() {
    let (pool, made) = full(4096, &Config::default());
    let precondition = Precondition::default();
    let pieces = [Bytes::from_static(b"x")];
    at_once(pool.write(made[0].id, Placement::Replace, &pieces, &precondition, Now(1)))
        .expect("nobody reads it");
    let content = at_once(pool.read(made[0].id, Now(1))).expect("it is live");
    let second = pool.write(made[0].id, Placement::Replace, &pieces, &precondition, Now(1));
    let mut second: std::pin::Pin<Box<dyn Future<Output = _>>> = Box::pin(second);
    assert!(poll(&mut second).is_none(), "a reader holds the bytes and the pool has no room for others");
    drop(content);
    assert_eq!(poll(&mut second).expect("the reader is gone").expect("it is live").version, 2);
    drop(second);
    check_quiet(&pool);
}

/// Found by a reviewer: the budget was given back after the bell was rung.
#[tokio::test(start_paused = true)]
async fn a_deposit_that_breaks_off_wakes_a_waiter_for_its_budget() {
    let budgets = [("cache".parse().expect("a tag"), 1024)].into();
    let pool = pool(8192, &[1024], &Config { budgets, ..Config::default() });
    let cached = [request(1, Some("cache"))];
    let deposit = at_once(pool.deposit(&cached[0], Duration::ZERO, Now(1))).expect("in budget");
    let mut waiter = waiter(&pool, &cached, SECOND);
    drop(deposit);
    assert!(granted(&mut waiter));
    drop(waiter);
    check_quiet(&pool);
}

/// Found by a reviewer: neither a budget nor entries were ever set aside, so both were passed over without end.
#[tokio::test(start_paused = true)]
async fn budgets_and_entries_are_set_aside_as_memory_is() {
    let budgets = [("cache".parse().expect("a tag"), 4096)].into();
    let config = Config { budgets, max_allocations: Some(8), ..Config::default() };
    for tag in [Some("cache"), None] {
        let pool = pool(64 * 1024, &[1024], &config);
        let full = if tag.is_some() { 4 } else { 8 };
        let small = request(1, tag);
        let allocate = || at_once(pool.allocate(&small, Duration::ZERO, Now(1)));
        let mut made: Vec<Allocation> = (0..full).map(|_| allocate().expect("there is room")).collect();
        let large = [small.clone(), small.clone()];
        let mut patient = waiter(&pool, &large, SECOND);
        for _ in 0..PASSES_MAX {
            free(&pool, &made.remove(0));
            made.push(allocate().expect("it was freed"));
        }
        for at in 0..2 {
            assert!(poll(&mut patient).is_none());
            assert!(tag.is_none() || waiting(&pool) == (1, 0), "memory is not set aside before it is of use");
            free(&pool, &made.remove(0));
            assert!(allocate().is_err(), "what was freed is set aside: {at}");
        }
        assert!(granted(&mut patient));
        drop(patient);
        check_quiet(&pool);
    }
}

/// Found by a user: without a free in between, newcomers went past without end.
#[tokio::test(start_paused = true)]
async fn room_is_set_aside_even_if_nothing_is_freed() {
    let pool = pool(300 * 1024, &[1024], &Config::default());
    let batch = vec![request(1, None); 250];
    let held: Vec<Allocation> =
        (0..100).map(|_| allocate(&pool, 1, Now(1)).expect("there is room")).collect();
    let waiter = waiter(&pool, &batch, SECOND);
    let passed = (0..200).take_while(|_| allocate(&pool, 1, Now(1)).is_ok()).count();
    assert_eq!(passed as u64, PASSES_MAX);
    assert_eq!(waiting(&pool), (1, (200 - PASSES_MAX) * 1024));
    assert_eq!(at_once(pool.stats()).heap.peak_in_use_bytes, 300 * 1024, "what is set aside is in use");
    drop(waiter);
    free(&pool, &held[0]);
    check_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn whoever_waited_in_vain_is_told_what_stands_in_the_way_now() {
    let (pool, made) = full(8192, &Config::default());
    let batch = [request(4096, None), request(4096, None)];
    let wait = pool.allocate_batch(&batch, SECOND, Now(1));
    let mut wait: Waiter<'_> = Box::pin(wait);
    assert!(poll(&mut wait).is_none());
    free(&pool, &made[0]);
    let Err(AllocateError::Waited { last, .. }) = wait.await else { panic!("there was no room") };
    let exhausted =
        memory::AllocateError::Exhausted { requested_bytes: 8192, in_use_bytes: 7168, limit_bytes: 8192 };
    assert_eq!(*last, AllocateError::Memory(exhausted));
    check_quiet(&pool);
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_sent_away_when_nobody_waits_any_more() {
    let (pool, made) = full(4096, &Config::default());
    let one = [request(1, None)];
    let mut early = waiter(&pool, &one, 1000 * SECOND);
    pool.stop_waiting();
    let sent_away = Some(Err(AllocateError::Unavailable(Unavailable)));
    assert_eq!(poll(&mut early), sent_away);
    let mut late: Waiter<'_> = Box::pin(pool.allocate_batch(&one, SECOND, Now(1)));
    assert_eq!(poll(&mut late), sent_away);
    free(&pool, &made[0]);
    allocate(&pool, 1, Now(1)).expect("who fits at once is served");
    drop((early, late));
    check_quiet(&pool);
}

#[test]
fn a_batch_of_more_blocks_than_there_can_be_allocations_is_refused_for_good() {
    let pool = pool(64 * 1024, &[1024], &Config { max_allocations: Some(10), ..Config::default() });
    let refused = at_once(pool.allocate_batch(&vec![request(1, None); 11], SECOND, Now(1)));
    assert_eq!(refused, Err(AllocateError::TooMany { blocks: 11, allocations_max: 10 }));
}

/// Found by a reviewer: one free looked at all groups of waiters once for each of them.
#[tokio::test(start_paused = true)]
async fn a_free_beside_many_waiters_for_a_full_budget_is_quick() {
    let budgets = [("cache".parse().expect("a tag"), 1 << 20)].into();
    let pool = pool(64 << 20, &[1024], &Config { budgets, ..Config::default() });
    let cached = request(1, Some("cache"));
    let fill = vec![cached.clone(); 1024];
    let held = at_once(pool.allocate_batch(&fill, Duration::ZERO, Now(1))).expect("in budget");
    let batches: Vec<_> = (1..=800).map(|count| vec![cached.clone(); count]).collect();
    let waiters: Vec<_> = batches.iter().map(|batch| waiter(&pool, batch, SECOND)).collect();
    let plain = allocate(&pool, 1, Now(1)).expect("there is room");
    let began = std::time::Instant::now();
    free(&pool, &plain);
    assert!(began.elapsed() < Duration::from_millis(50), "{:?}", began.elapsed());
    drop(waiters);
    assert_eq!(held.len(), 1024);
    check_quiet(&pool);
}
