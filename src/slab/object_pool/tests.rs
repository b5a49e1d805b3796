//! Pools of objects: what is kept, what is counted, who waits, and what panics leave.

use super::*;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};

mod twin;

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

/// Panics when it is dropped, if it is told to.
struct Explosive(bool);

impl Drop for Explosive {
    fn drop(&mut self) {
        assert!(!self.0, "of the object");
    }
}

/// A pool that keeps four objects, given back by two threads, of which the third that was made panics when it is dropped.
fn explosive() -> ObjectPool<Explosive> {
    let next = AtomicUsize::new(1);
    let pool = ObjectPool::builder(4, move || Explosive(next.fetch_add(1, Ordering::Relaxed) == 3)).build();
    let mut four: Vec<_> = (0..4).map(|_| pool.acquire().expect("made")).collect();
    let two = four.split_off(2);
    std::thread::scope(|scope| {
        scope.spawn(|| drop(two));
    });
    drop(four);
    assert_eq!(counts(&pool), [4, 0, 4, 0, 4, 0]);
    pool
}

#[test]
fn an_object_that_panics_when_it_is_dropped_costs_no_place_and_keeps_no_other() {
    let pool = explosive();
    assert!(catch_unwind(AssertUnwindSafe(|| pool.set_kept_max(0))).is_err());
    assert_eq!(counts(&pool), [4, 0, 4, 4, 0, 0]);
    let all: Vec<_> = (0..4).map(|_| pool.acquire().expect("all places are free")).collect();
    drop(all);
    let pool = explosive();
    assert!(catch_unwind(AssertUnwindSafe(|| pool.close())).is_err());
    assert_eq!(counts(&pool), [4, 0, 4, 4, 0, 0]);
}

#[test]
fn who_waits_hears_of_the_end_of_a_pool_whose_object_panics_when_it_is_dropped() {
    let pool = ObjectPool::builder(1, || Explosive(true)).build();
    pool.fill(1).expect("made");
    assert_eq!(pool.lifelines.mine().begin_waiting().look(), 0, "nothing to hear of so far");
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let waiting = pool.lifelines.mine().begin_waiting();
                waiting.sleep(0, begin + LONG); // there was one that was kept: a user would have taken it
            });
        }
        while pool.stats().waiting < 2 {
            std::thread::yield_now();
        }
        std::thread::sleep(SHORT); // so that they sleep
        assert!(catch_unwind(AssertUnwindSafe(|| pool.close())).is_err());
    });
    assert!(begin.elapsed() < LONG, "somebody slept to the end");
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
