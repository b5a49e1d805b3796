//! Admission at the door: which calls are asked about, what a refusal leaves behind, and the breaker as calls meet it.

use super::arenas::arena_request;
use super::*;
use proptest::prelude::*;
use std::task::{Context, Waker};

const LIMIT: u64 = 100 * 1024;
const OPEN_FOR: Duration = Duration::from_secs(30);

/// A hundred blocks of 1 KiB, and larger ones; of whole pages, for arenas, 25.
fn pool_of(admission: Admission) -> Pool {
    pool(LIMIT, &[1024, 8192], &Config { admission, ..Config::default() })
}

fn of(size_bytes: u64, priority: Priority) -> AllocateRequest {
    AllocateRequest { priority, ..AllocateRequest::new(size_bytes) }
}

fn fill(pool: &Pool, blocks: usize) -> Vec<AllocationId> {
    let requests = vec![of(1024, Priority::High); blocks];
    let made = at_once(pool.allocate_batch(&requests, Duration::ZERO, Now(1))).expect("there is room");
    made.iter().map(|made| made.id).collect()
}

fn try_to(pool: &Pool, size_bytes: u64, priority: Priority, now: Now) -> Result<Allocation, AllocateError> {
    at_once(pool.allocate(&of(size_bytes, priority), Duration::ZERO, now))
}

fn is_deferred<T>(outcome: &Result<T, AllocateError>) -> bool {
    matches!(outcome, Err(AllocateError::AdmissionDeferred(_)))
}

#[test]
fn from_high_on_low_is_deferred_wherever_memory_is_taken_and_nowhere_else() {
    let pool = pool_of(Admission::default());
    let low_arena = ArenaRequest { priority: Priority::Low, ..arena_request() };
    let arena =
        at_once(pool.create_arena(&low_arena, Duration::ZERO, Now(1))).expect("a level below high").id;
    let chunk_bytes = at_once(pool.stats()).heap.in_use_bytes;
    let member = |size_bytes| {
        let made = pool.allocate_in_arena(arena, size_bytes, Priority::Low, Duration::ZERO, Now(2));
        at_once(made).map_err(|error| match error {
            ArenaAllocateError::Allocate(error) => error,
            other => panic!("{other}"),
        })
    };
    let held = fill(&pool, 75 - usize::try_from(chunk_bytes / 1024).expect("it is small"));
    let (in_use, _) = pool.in_use_and_limit_bytes();
    assert_eq!((in_use, pool.gauge().level()), (75 * 1024, Level::Normal), "nobody has looked yet");

    let wait = Duration::from_secs(30);
    assert!(is_deferred(&at_once(pool.allocate(&of(1, Priority::Low), wait, Now(2)))), "and does not wait");
    assert!(is_deferred(&at_once(pool.deposit(&of(1, Priority::Low), wait, Now(2))).map(|_| ())));
    let mixed = [of(1, Priority::High), of(1, Priority::Low)];
    assert!(is_deferred(&at_once(pool.allocate_batch(&mixed, wait, Now(2)))));
    let refused = at_once(pool.create_arena(&low_arena, wait, Now(2)));
    assert!(matches!(refused, Err(ArenaAllocateError::Allocate(AllocateError::AdmissionDeferred(_)))));
    assert!(is_deferred(&member(20 << 10)), "a block of its own");

    for _ in 0..chunk_bytes >> 14 {
        member(16 << 10).expect("it lies in the chunk that is there");
    }
    assert!(is_deferred(&member(100)), "it would need another one");
    assert_eq!(pool.in_use_and_limit_bytes().0, 75 * 1024);
    let stats = at_once(pool.stats());
    assert_eq!((stats.admission.deferred, stats.admission.rejected), ([6, 0, 0], [0; 3]));
    assert_eq!(stats.calls.allocation_errors, 0, "there was room");
    for priority in [Priority::Normal, Priority::High] {
        try_to(&pool, 1, priority, Now(2)).expect("only the limit stops it");
    }
    at_once(pool.renew(held[0], Duration::from_secs(1), Now(2))).expect("it lives");
    at_once(pool.write(
        held[0],
        Placement::Replace,
        &[Bytes::from_static(b"x")],
        &Precondition::default(),
        Now(2),
    ))
    .expect("blocks that are there are written");
    at_once(pool.free(held[0], Now(2))).expect("it lives");
}

#[test]
fn low_is_let_in_again_two_points_below_high() {
    let pool = pool_of(Admission::default());
    let mut held = fill(&pool, 75);
    for (blocks, is_let_in) in [(75, false), (74, false), (73, false), (72, true)] {
        while held.len() > blocks {
            at_once(pool.free(held.pop().expect("some are left"), Now(2))).expect("it lives");
        }
        let made = try_to(&pool, 1, Priority::Low, Now(2));
        assert_eq!(made.is_ok(), is_let_in, "{blocks}");
    }
}

#[test]
fn a_batch_is_one_draw_and_counts_as_one() {
    let pool = pool_of(Admission { policy: Policy::Graduated, ..Admission::default() });
    fill(&pool, 90);
    let batch = [of(1, Priority::High), of(1, Priority::Normal)];
    let mut deferred = 0;
    for _ in 0..100 {
        match at_once(pool.allocate_batch(&batch, Duration::ZERO, Now(1))) {
            Ok(made) => made.iter().for_each(|made| at_once(pool.free(made.id, Now(1))).expect("it lives")),
            Err(error) => {
                assert!(matches!(error, AllocateError::AdmissionDeferred(_)), "{error}");
                deferred += 1;
            }
        }
    }
    let stats = at_once(pool.stats()).admission;
    assert_eq!((deferred, stats.deferred, stats.rejected), (10, [0, 10, 0], [0; 3]));
}

#[test]
fn what_can_never_be_had_is_told_so_however_full_it_is() {
    let pool = pool_of(Admission { breaker_threshold: 1, ..Admission::default() });
    fill(&pool, 100);
    assert!(matches!(try_to(&pool, LIMIT + 1, Priority::Low, Now(1)), Err(AllocateError::TooLarge { .. })));
    let together = vec![of(1024, Priority::Low); 101];
    let refused = at_once(pool.allocate_batch(&together, Duration::ZERO, Now(1)));
    assert!(matches!(refused, Err(AllocateError::TooLargeTogether { .. })));
    pool.close();
    assert_eq!(try_to(&pool, 1, Priority::Low, Now(1)), Err(Unavailable.into()));
}

fn with_breaker() -> Pool {
    pool_of(Admission { breaker_threshold: 3, breaker_open: OPEN_FOR, ..Admission::default() })
}

fn is_open(pool: &Pool) -> bool {
    at_once(pool.stats()).admission.breaker.is_open
}

#[test]
fn refusals_in_a_row_open_the_breaker_for_their_size_and_a_free_of_as_much_closes_it() {
    let pool = with_breaker();
    let held = fill(&pool, 96);
    for _ in 0..3 {
        let refused = try_to(&pool, 8192, Priority::Normal, Now(1));
        assert!(matches!(refused, Err(AllocateError::Memory(memory::AllocateError::Exhausted { .. }))));
    }
    let later = Now(1).after(Duration::from_secs(10));
    let expected = AllocateError::CircuitOpen {
        requested_bytes: 8192,
        smallest_refused_bytes: 8192,
        left: Duration::from_secs(20),
    };
    assert_eq!(try_to(&pool, 5000, Priority::High, later), Err(expected.clone()));
    let waits = of(8192, Priority::Normal);
    let refused = at_once(pool.allocate(&waits, Duration::from_secs(30), later));
    assert_eq!(refused, Err(expected), "nor does it wait");
    try_to(&pool, 1024, Priority::Normal, later).expect("smaller ones are served, and close nothing");
    let stats = at_once(pool.stats());
    assert!(pool.health(&stats, later).circuit_breaker_open && is_open(&pool));
    // 97 of 100 are in use: eight fit when five are freed.
    for (at, id) in held.iter().take(5).enumerate() {
        assert!(is_open(&pool), "{at}");
        at_once(pool.free(*id, later)).expect("it lives");
    }
    assert!(!is_open(&pool));
    try_to(&pool, 8192, Priority::Normal, later).expect("there is room");
    assert_eq!(at_once(pool.stats()).admission.breaker.opened, 1);
}

#[test]
fn a_lease_that_ends_closes_the_breaker() {
    let pool = with_breaker();
    let leased = AllocateRequest { lease: Some(Duration::from_secs(5)), ..of(8192, Priority::Normal) };
    at_once(pool.allocate(&leased, Duration::ZERO, Now(1))).expect("there is room");
    fill(&pool, 92);
    (0..3).for_each(|_| _ = try_to(&pool, 8192, Priority::Normal, Now(1)));
    assert!(is_open(&pool));
    pool.expire(Now(1).after(Duration::from_secs(6)));
    assert!(!is_open(&pool));
}

#[test]
fn when_its_time_is_over_one_request_is_tried_for_all() {
    let pool = with_breaker();
    fill(&pool, 100);
    (0..3).for_each(|_| _ = try_to(&pool, 1, Priority::Normal, Now(1)));
    let over = Now(1).after(OPEN_FOR);
    let tried = try_to(&pool, 1, Priority::Normal, over);
    assert!(matches!(tried, Err(AllocateError::Memory(_))), "it is tried");
    let refused = try_to(&pool, 1, Priority::Normal, over);
    assert!(matches!(refused, Err(AllocateError::CircuitOpen { left: OPEN_FOR, .. })), "and was in vain");
}

#[tokio::test(start_paused = true)]
async fn one_that_is_tried_and_meets_its_budget_or_hangs_up_leaves_the_next_one_to_be_tried() {
    let budgets = [("small".parse().expect("a tag"), 1024)].into_iter().collect();
    let admission = Admission { breaker_threshold: 1, breaker_open: OPEN_FOR, ..Admission::default() };
    let pool = pool(LIMIT, &[1024, 8192], &Config { admission, budgets, ..Config::default() });
    fill(&pool, 100);
    let _ = try_to(&pool, 8192, Priority::Normal, Now(1));
    let over = Now(1).after(OPEN_FOR);
    let tagged = AllocateRequest { tag: Some("small".parse().expect("a tag")), ..of(8192, Priority::Normal) };
    let refused = at_once(pool.allocate(&tagged, Duration::ZERO, over));
    assert!(matches!(refused, Err(AllocateError::Budget { .. })), "{refused:?}");
    let waiting = of(8192, Priority::Normal);
    let mut hangs_up = Box::pin(pool.allocate(&waiting, Duration::from_secs(30), over));
    assert!(hangs_up.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    let meanwhile = try_to(&pool, 8192, Priority::Normal, over);
    assert!(matches!(meanwhile, Err(AllocateError::CircuitOpen { .. })), "{meanwhile:?}");
    drop(hangs_up);
    let tried = try_to(&pool, 8192, Priority::Normal, over);
    assert!(matches!(tried, Err(AllocateError::Memory(_))), "{tried:?}");
    let refused = try_to(&pool, 8192, Priority::Normal, over);
    assert!(matches!(refused, Err(AllocateError::CircuitOpen { .. })), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn who_waited_in_vain_counts_as_a_refusal_of_the_time_by_then() {
    let pool = pool_of(Admission { breaker_threshold: 1, breaker_open: OPEN_FOR, ..Admission::default() });
    fill(&pool, 100);
    let wait = Duration::from_secs(10);
    let refused = pool.allocate(&of(1, Priority::Normal), wait, Now(1)).await;
    assert!(matches!(refused, Err(AllocateError::Waited { .. })));
    let until = at_once(pool.stats()).admission.breaker.until.expect("it is open");
    assert!(until >= Now(1).after(wait + OPEN_FOR), "{until:?}");
}

#[test]
fn a_breaker_that_threads_open_and_close_is_never_left_open_beside_free_room() {
    let pool = pool_of(Admission {
        breaker_threshold: 1,
        breaker_open: Duration::from_secs(3600),
        ..Admission::default()
    });
    for _ in 0..200 {
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let held: Vec<_> =
                        (0..60).filter_map(|_| try_to(&pool, 1024, Priority::High, Now(1)).ok()).collect();
                    held.iter().for_each(|held| at_once(pool.free(held.id, Now(1))).expect("it lives"));
                });
            }
        });
        assert!(!is_open(&pool), "nothing is in use");
    }
    assert!(at_once(pool.stats()).admission.breaker.opened > 0, "it was opened at all");
    check_quiet(&pool);
}

/// What a breaker is held against: the same rules, told as a list of what happened.
#[derive(Default)]
struct Twin {
    row: Vec<u64>,
    until: Option<u64>,
}

proptest! {
    #[test]
    fn the_breaker_does_as_its_rules_say(
        steps in proptest::collection::vec((0..3_u8, 1..5_u64, 0..20_u64), 1..60)
    ) {
        let pool = with_breaker();
        let (mut held, mut seconds, mut twin) = (Vec::new(), 0, Twin::default());
        for (step, size, passed) in steps {
            seconds += passed;
            let now = Now(1).after(Duration::from_secs(seconds));
            // In pages, so that each size is one of its own.
            let bytes = size * 2 * 8192;
            if step == 0 {
                if let Some(id) = held.pop() {
                    at_once(pool.free(id, now)).expect("it lives");
                    let (in_use, limit) = pool.in_use_and_limit_bytes();
                    let smallest = twin.row.iter().min().copied().unwrap_or(u64::MAX);
                    if twin.until.is_some() && limit - in_use >= smallest {
                        twin = Twin::default();
                    }
                }
                continue;
            }
            let smallest = twin.row.iter().min().copied().unwrap_or(u64::MAX);
            let is_stopped = bytes >= smallest && twin.until.is_some_and(|until| seconds < until);
            if bytes >= smallest && twin.until.is_some_and(|until| seconds >= until) {
                twin.until = Some(seconds + 30);
            }
            let (in_use, limit) = pool.in_use_and_limit_bytes();
            match try_to(&pool, bytes, Priority::High, now) {
                Ok(made) => {
                    prop_assert!(!is_stopped);
                    held.push(made.id);
                    if bytes >= smallest {
                        twin = Twin::default();
                    }
                }
                Err(AllocateError::CircuitOpen { smallest_refused_bytes, .. }) => {
                    prop_assert!(is_stopped);
                    prop_assert_eq!(smallest_refused_bytes, smallest);
                }
                Err(AllocateError::Memory(_)) => {
                    prop_assert!(!is_stopped && in_use + bytes > limit);
                    twin.row.push(bytes);
                    if twin.until.is_none() && twin.row.len() >= 3 {
                        // Beside room for the smallest, it does not stay open.
                        let has_room = limit - in_use >= *twin.row.iter().min().expect("there are three");
                        twin = if has_room { Twin::default() } else { Twin { until: Some(seconds + 30), ..twin } };
                    }
                }
                Err(error) => prop_assert!(false, "{}", error),
            }
            prop_assert_eq!(is_open(&pool), twin.until.is_some());
        }
    }
}
