//! Leases that end while somebody needs what they hold.

use super::*;

const TICK: u64 = 10_000_000;

/// Found by a reviewer: each lease that ended in the current tick was looked for from the beginning of its bucket.
#[test]
fn ending_many_leases_of_one_tick_is_quick() {
    const HALF: usize = 20_000;
    let pool = pool(2 * HALF as u64 * 1024, &[1024], &Config::default());
    let leased = |nanos| AllocateRequest { lease: Some(Duration::from_nanos(nanos)), ..request(1, None) };
    for length in [1000, 5_000_000] {
        let batch = vec![leased(length); HALF];
        at_once(pool.allocate_batch(&batch, Duration::ZERO, Now(TICK))).expect("there is room");
    }
    let began = std::time::Instant::now();
    let later = Now(TICK + 2000);
    let made = (0..HALF).take_while(|_| allocate(&pool, 1, later).is_ok()).count();
    assert_eq!(made, HALF, "what is over makes room, what is not does not");
    assert!(allocate(&pool, 1, later).is_err());
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    check_quiet(&pool);
}

/// Found by a reviewer: while one thread ended leases, another saw nothing left to end, and was refused.
#[test]
fn nobody_is_refused_for_what_another_thread_is_just_ending() {
    let pool = pool(64 << 20, &[1 << 20], &Config::default());
    for round in 0..20 {
        let now = Now(1 + round * 1000 * TICK);
        let leased = AllocateRequest { lease: Some(Duration::from_nanos(TICK)), ..request(1 << 20, None) };
        for _ in 0..64 {
            let mut deposit = at_once(pool.deposit(&leased, Duration::ZERO, now)).expect("all have ended");
            deposit.push(&[7; 1 << 16]).expect("it fits");
            deposit.commit(now).expect("it is open");
        }
        let later = Now(now.0 + 10 * TICK);
        std::thread::scope(|scope| {
            scope.spawn(|| while pool.expire(later).more {});
            for _ in 0..3 {
                let made =
                    allocate(&pool, 1 << 20, later).expect("nothing but leases that are over is in the way");
                at_once(pool.free(made.id, later)).expect("it is live");
            }
        });
    }
}

/// As above, where the other thread ends it because it looks for it.
#[test]
fn nobody_is_refused_for_what_another_threads_look_up_is_just_ending() {
    const ROUNDS: u64 = 5000;
    let pool = pool(1024, &[1024], &Config::default());
    let turn = std::sync::Barrier::new(2);
    let leased = AllocateRequest { lease: Some(Duration::from_nanos(TICK)), ..request(1, None) };
    let ids: Vec<std::sync::OnceLock<AllocationId>> = (0..ROUNDS).map(|_| Default::default()).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for (round, id) in (0..).zip(&ids) {
                turn.wait();
                let id = *id.get().expect("it was made before this turn");
                assert!(at_once(pool.get(id, Now(1 + round * 10 * TICK + TICK))).is_err(), "it is over");
                turn.wait();
            }
        });
        let mut refused = 0;
        for (round, id) in (0..).zip(&ids) {
            let now = Now(1 + round * 10 * TICK);
            let made = at_once(pool.allocate(&leased, Duration::ZERO, now)).expect("all have ended");
            id.set(made.id).expect("once");
            turn.wait();
            // A few hundred nanoseconds apart, each round a little more, so that one meets the other half-way.
            (0..round % 500).for_each(|_| std::hint::spin_loop());
            let later = Now(now.0 + TICK);
            match allocate(&pool, 1, later) {
                Ok(made) => at_once(pool.free(made.id, later)).expect("it is live"),
                Err(_) => refused += 1,
            }
            turn.wait();
        }
        assert_eq!(refused, 0, "nothing but a lease that is over was in the way");
    });
}

/// Found by a reviewer: a batch that found too few entries held those it found from others for a moment.
#[test]
fn a_batch_that_does_not_fit_the_table_takes_nothing_from_others() {
    let pool = pool(1 << 20, &[1024], &Config { max_allocations: Some(100), ..Config::default() });
    let _held: Vec<Allocation> =
        (0..50).map(|_| allocate(&pool, 1, Now(1)).expect("there is room")).collect();
    let batch = vec![request(1, None); 60];
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let refused = at_once(pool.allocate_batch(&batch, Duration::ZERO, Now(1)));
                assert!(matches!(refused, Err(AllocateError::TableFull { .. })), "{refused:?}");
            }
        });
        for _ in 0..10_000 {
            let made = allocate(&pool, 1, Now(1)).expect("half of the table is free");
            at_once(pool.free(made.id, Now(1))).expect("it is live");
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}
