//! Pools of objects: what is kept, what is counted, who waits, and what panics leave.

use super::*;
use proptest::prelude::*;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};

const SHORT: Duration = Duration::from_millis(20);
const LONG: Duration = Duration::from_secs(20);

/// A pool of numbers, made in order.
fn numbers(objects_max: usize) -> ObjectPoolBuilder<usize> {
    let next = AtomicUsize::new(0);
    ObjectPool::builder(objects_max, move || next.fetch_add(1, Ordering::Relaxed))
}

fn counts<T>(pool: &ObjectPool<T>) -> [u64; 6] {
    pool.lifelines.mine().check();
    let stats = pool.stats();
    [stats.created, stats.reused, stats.returned, stats.dropped, stats.kept as u64, stats.in_use as u64]
}

#[test]
fn an_object_is_made_once_and_used_again_the_last_one_first() {
    let pool = numbers(8).build();
    let (first, second) = (pool.acquire().expect("made"), pool.acquire().expect("made"));
    assert_eq!((*first, *second), (0, 1));
    drop(first);
    drop(second);
    assert_eq!(*pool.acquire().expect("kept"), 1);
    assert_eq!(counts(&pool), [2, 1, 3, 0, 2, 0]);
    assert!((pool.stats().reuse_rate() - 1.0 / 3.0).abs() < 1e-9);
}

#[test]
fn no_more_exist_than_may_and_none_are_kept_beyond_that_bound() {
    let pool = numbers(3).kept_max(1).build();
    let all: Vec<_> = (0..3).map(|_| pool.acquire().expect("made")).collect();
    assert!(matches!(pool.acquire(), Err(ObjectError::Exhausted { objects_max: 3 })));
    assert!(pool.try_acquire().is_none());
    drop(all);
    assert_eq!(counts(&pool), [3, 0, 3, 2, 1, 0]);
    pool.set_kept_max(0);
    assert_eq!(counts(&pool), [3, 0, 3, 3, 0, 0]);
    pool.set_kept_max(2);
    drop([pool.acquire().expect("made"), pool.acquire().expect("made")]);
    assert_eq!(counts(&pool), [5, 0, 5, 3, 2, 0]);
}

#[test]
fn what_is_made_in_advance_is_neither_made_again_nor_counted_as_reused_at_first() {
    let pool = numbers(10).kept_max(4).build();
    assert_eq!(pool.fill(3).expect("made"), 3);
    assert_eq!(pool.fill(100).expect("made"), 1, "no more than may be kept");
    drop(pool.acquire().expect("kept"));
    assert_eq!(counts(&pool), [4, 0, 1, 0, 4, 0]);
    drop(pool.try_acquire().expect("kept"));
    assert_eq!(counts(&pool), [4, 1, 2, 0, 4, 0]);
}

#[test]
fn an_object_that_the_hook_refuses_is_dropped_and_counted() {
    let pool = ObjectPool::builder(4, Vec::<u8>::new)
        .reset(|object| {
            object.clear();
            object.capacity() < 100
        })
        .build();
    pool.acquire().expect("made").push(1);
    let mut large = pool.acquire().expect("kept");
    assert!(large.is_empty());
    large.reserve(1000);
    drop(large);
    assert_eq!(counts(&pool), [1, 1, 2, 1, 0, 0]);
    assert_eq!(pool.stats().refused, 1);
}

#[test]
fn an_object_that_is_taken_out_makes_room_for_another() {
    let pool = numbers(1).build();
    assert_eq!(pool.acquire().expect("made").into_inner(), 0);
    assert_eq!(*pool.acquire().expect("made"), 1);
    assert_eq!((counts(&pool), pool.stats().taken), ([2, 0, 1, 0, 1, 0], 1));
}

#[test]
fn a_factory_that_fails_or_panics_takes_no_place() {
    let attempts = AtomicUsize::new(0);
    let pool = ObjectPool::fallible_builder(1, move || match attempts.fetch_add(1, Ordering::Relaxed) {
        0 => Err("no connection".into()),
        1 => panic!("of the factory"),
        number => Ok(number),
    })
    .build();
    let failed = pool.acquire().map(|_| ()).expect_err("it fails once");
    assert_eq!(failed.source().expect("the factory's").to_string(), "no connection");
    assert!(catch_unwind(AssertUnwindSafe(|| pool.acquire())).is_err());
    assert_eq!(counts(&pool), [0; 6]);
    assert_eq!(*pool.acquire().expect("made"), 2);
    assert_eq!(counts(&pool), [1, 0, 1, 0, 1, 0]);
}

/// Counts those that were dropped.
struct Dropped(Arc<AtomicUsize>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn an_object_whose_hook_or_user_panics_is_dropped_and_its_place_is_free() {
    let dropped = Arc::new(AtomicUsize::new(0));
    let made = Arc::clone(&dropped);
    let pool =
        ObjectPool::builder(1, move || Dropped(Arc::clone(&made))).reset(|_| panic!("of the hook")).build();
    let object = pool.acquire().expect("made");
    assert!(catch_unwind(AssertUnwindSafe(|| drop(object))).is_err());
    assert_eq!((counts(&pool), dropped.load(Ordering::Relaxed)), ([1, 0, 1, 1, 0, 0], 1));
    // The hook would panic a second time here, and end the process.
    let used = catch_unwind(AssertUnwindSafe(|| {
        let _object = pool.acquire().expect("made");
        panic!("of the user");
    }));
    assert!(used.is_err());
    assert_eq!((counts(&pool), dropped.load(Ordering::Relaxed)), ([2, 0, 2, 2, 0, 0], 2));
    assert_eq!(pool.stats().refused, 2);
}

#[test]
fn a_closed_pool_gives_out_nothing_and_drops_what_comes_back() {
    let dropped = Arc::new(AtomicUsize::new(0));
    let made = Arc::clone(&dropped);
    let pool = ObjectPool::builder(4, move || Dropped(Arc::clone(&made))).build();
    let (kept, used) = (pool.acquire().expect("made"), pool.acquire().expect("made"));
    drop(kept);
    pool.close();
    assert_eq!(dropped.load(Ordering::Relaxed), 1);
    assert!(matches!(pool.acquire(), Err(ObjectError::Closed)));
    assert!(matches!(pool.acquire_timeout(LONG), Err(ObjectError::Closed)));
    assert!(matches!(pool.fill(1), Err(ObjectError::Closed)));
    drop(used);
    assert_eq!((counts(&pool), dropped.load(Ordering::Relaxed)), ([2, 0, 2, 2, 0, 0], 2));
}

#[test]
fn an_object_outlives_its_pool_and_goes_to_other_threads() {
    let dropped = Arc::new(AtomicUsize::new(0));
    let made = Arc::clone(&dropped);
    let pool = ObjectPool::builder(4, move || Dropped(Arc::clone(&made))).build();
    let object = pool.acquire().expect("made");
    drop(pool);
    std::thread::spawn(move || drop(object)).join().expect("no panic");
    assert_eq!(dropped.load(Ordering::Relaxed), 1, "the last of its pool");
}

#[test]
fn who_waits_in_vain_is_told_when_the_time_is_over() {
    let pool = numbers(1).build();
    let _all = pool.acquire().expect("made");
    let begin = Instant::now();
    let Err(ObjectError::Timeout { objects_max: 1, waited }) = pool.acquire_timeout(SHORT) else {
        panic!("it is in use");
    };
    assert!(waited >= SHORT && begin.elapsed() >= waited);
    assert!(matches!(pool.acquire_until(begin), Err(ObjectError::Timeout { .. })), "the deadline is past");
    assert_eq!(pool.stats().waiting, 0);
}

/// What a waiter gets when `free` was called while it waits.
fn waits_until<T: Send>(pool: &ObjectPool<T>, free: impl FnOnce()) -> Result<Pooled<T>, ObjectError> {
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| pool.acquire_timeout(LONG));
        while pool.stats().waiting == 0 {
            std::thread::yield_now();
        }
        free();
        waiter.join().expect("no panic")
    })
}

#[test]
fn who_waits_gets_what_is_given_back_taken_out_or_refused_and_hears_of_the_end() {
    let begin = Instant::now();
    let pool = numbers(1).reset(|number| *number != 0).build();
    let refused = pool.acquire().expect("made");
    assert_eq!(*waits_until(&pool, || drop(refused)).expect("another is made"), 1);
    let given_back = pool.acquire().expect("kept");
    assert_eq!(*waits_until(&pool, || drop(given_back)).expect("the same"), 1);
    let taken = pool.acquire().expect("kept");
    assert_eq!(*waits_until(&pool, || assert_eq!(taken.into_inner(), 1)).expect("another is made"), 2);
    let used = pool.acquire().expect("kept");
    assert!(matches!(waits_until(&pool, || pool.close()), Err(ObjectError::Closed)));
    drop(used);
    assert!(begin.elapsed() < LONG, "somebody slept to the end");
}

#[test]
fn threads_share_few_objects_one_at_a_time_and_none_is_lost_or_sleeps_on() {
    const OBJECTS: usize = 3;
    const ROUNDS: usize = 2000;
    let users: [AtomicUsize; OBJECTS] = Default::default();
    let pool = numbers(OBJECTS).kept_max(2).reset(|number| *number < OBJECTS).build();
    let threads = 8;
    let start = Barrier::new(threads);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (pool, users, start) = (&pool, &users, &start);
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(thread as u64);
                start.wait();
                for _ in 0..ROUNDS {
                    let object = pool.acquire_timeout(LONG).expect("the others give theirs back");
                    if let Some(users) = users.get(*object) {
                        assert_eq!(users.fetch_add(1, Ordering::Relaxed), 0, "two users of one object");
                        if random.u8(..) < 32 {
                            std::thread::yield_now();
                        }
                        users.fetch_sub(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let stats = pool.stats();
    let [created, reused, returned, dropped, kept, in_use] = counts(&pool);
    assert_eq!((returned, in_use), ((threads * ROUNDS) as u64, 0));
    assert_eq!((created, created + reused), (dropped + kept, stats.acquired));
    assert!(kept <= 2 && stats.waiting == 0);
}

#[test]
fn objects_given_back_by_one_thread_are_found_by_another_and_places_follow() {
    let pool = numbers(100).kept_max(40).build();
    for round in 0..10 {
        let taken: Vec<_> = (0..40).map(|_| pool.acquire().expect("there are enough")).collect();
        std::thread::scope(|scope| {
            scope.spawn(|| drop(taken));
        });
        let [created, _, _, dropped, kept, _] = counts(&pool);
        assert_eq!((created, dropped, kept), (40, 0, 40), "round {round}");
    }
    std::thread::scope(|scope| {
        scope.spawn(|| pool.set_kept_max(10));
    });
    assert_eq!(pool.stats().kept, 10);
}

#[derive(Clone, Debug)]
enum Step {
    Acquire,
    TryAcquire,
    GiveBack(usize),
    GiveBackBroken(usize),
    TakeOut(usize),
    Fill(usize),
    KeptMax(usize),
    Close,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => Just(Step::Acquire),
        3 => Just(Step::TryAcquire),
        8 => any::<usize>().prop_map(Step::GiveBack),
        2 => any::<usize>().prop_map(Step::GiveBackBroken),
        1 => any::<usize>().prop_map(Step::TakeOut),
        1 => (0_usize..8).prop_map(Step::Fill),
        1 => (0_usize..8).prop_map(Step::KeptMax),
        1 => prop_oneof![9 => Just(Step::TryAcquire), 1 => Just(Step::Close)],
    ]
}

/// The same pool, naively.
#[derive(Default)]
struct Twin {
    kept: Vec<(usize, bool)>,
    next: usize,
    existing: usize,
    is_closed: bool,
    counts: [u64; 6],
}

proptest! {
    #[test]
    fn a_pool_does_what_a_plain_vector_would(
        objects_max in 1_usize..8, kept_max in 0_usize..8, steps in prop::collection::vec(step(), 0..80),
    ) {
        let pool = numbers(objects_max).kept_max(kept_max).reset(|number| *number != usize::MAX).build();
        let mut kept_max = kept_max;
        let mut twin = Twin::default();
        let mut used: Vec<Pooled<usize>> = Vec::new();
        for step in steps {
            let picked = |at: usize| (!used.is_empty()).then(|| at % used.len());
            match step {
                Step::Acquire | Step::TryAcquire => {
                    let expected = match twin.kept.pop() {
                        Some((number, was_used)) => {
                            twin.counts[1] += u64::from(was_used);
                            Some(number)
                        }
                        None if matches!(step, Step::TryAcquire) || twin.is_closed || twin.existing == objects_max => None,
                        None => {
                            (twin.next, twin.existing, twin.counts[0]) = (twin.next + 1, twin.existing + 1, twin.counts[0] + 1);
                            Some(twin.next - 1)
                        }
                    };
                    let got = if matches!(step, Step::Acquire) { pool.acquire().ok() } else { pool.try_acquire() };
                    prop_assert_eq!(got.as_deref().copied(), expected);
                    used.extend(got);
                }
                Step::GiveBack(at) | Step::GiveBackBroken(at) => {
                    let Some(at) = picked(at) else { continue };
                    let mut object = used.swap_remove(at);
                    let is_broken = matches!(step, Step::GiveBackBroken(_));
                    twin.counts[2] += 1;
                    if is_broken || twin.is_closed || twin.kept.len() >= kept_max {
                        (twin.existing, twin.counts[3]) = (twin.existing - 1, twin.counts[3] + 1);
                    } else {
                        twin.kept.push((*object, true));
                    }
                    if is_broken { *object = usize::MAX; }
                }
                Step::TakeOut(at) => {
                    let Some(at) = picked(at) else { continue };
                    used.swap_remove(at).into_inner();
                    twin.existing -= 1;
                }
                Step::Fill(count) => {
                    let wanted = if twin.is_closed { 0 } else { count.min(kept_max).saturating_sub(twin.kept.len()).min(objects_max - twin.existing) };
                    twin.kept.extend((0..wanted).map(|more| (twin.next + more, false)));
                    (twin.next, twin.existing, twin.counts[0]) = (twin.next + wanted, twin.existing + wanted, twin.counts[0] + wanted as u64);
                    prop_assert_eq!(pool.fill(count).unwrap_or(0), wanted);
                }
                Step::KeptMax(count) => {
                    pool.set_kept_max(count);
                    kept_max = count;
                    let surplus = twin.kept.len().saturating_sub(count);
                    twin.kept.drain(..surplus);
                    (twin.existing, twin.counts[3]) = (twin.existing - surplus, twin.counts[3] + surplus as u64);
                }
                Step::Close => {
                    pool.close();
                    twin.is_closed = true;
                    (twin.existing, twin.counts[3]) = (twin.existing - twin.kept.len(), twin.counts[3] + twin.kept.len() as u64);
                    twin.kept.clear();
                }
            }
            (twin.counts[4], twin.counts[5]) = (twin.kept.len() as u64, used.len() as u64);
            prop_assert_eq!(counts(&pool), twin.counts);
        }
    }
}
