//! Threads that race for the last room of the memory, of a budget or of the table, with leases that end meanwhile.
//!
//! Each allocation and each refusal is noted with the ticks between which the call ran. Afterwards a refusal is held
//! against all that can have been in its way: what was granted before it was answered, not told to be freed before it
//! was asked for, and whose lease was not over by the request's own time. If all of that and the request fit, it was
//! refused without a reason.

use super::*;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

const THREADS: u64 = 4;
const CALLS: usize = if cfg!(debug_assertions) { 8_000 } else { 40_000 };
const SIZES: [u64; 3] = [1024, 3000, 16_384];
const TAG: &str = "cache";

/// An allocation that was made, and how it ended if a client ended it.
struct Made {
    id: AllocationId,
    ticks: RangeInclusive<usize>,
    bytes: u64,
    tagged: bool,
    deadline: Option<Now>,
    freed: Option<(RangeInclusive<usize>, Now)>,
}

struct Refused {
    ticks: RangeInclusive<usize>,
    now: Now,
    bytes: u64,
    by: AllocateError,
}

struct Race {
    pool: Pool,
    ticks: AtomicUsize,
    /// Time, as the calls are told it: it moves with each.
    time: AtomicU64,
}

#[derive(Default)]
struct Notes {
    made: Vec<Made>,
    refused: Vec<Refused>,
}

impl Race {
    fn tick(&self) -> usize {
        self.ticks.fetch_add(1, Ordering::SeqCst)
    }

    fn run(&self, seed: u64) -> Notes {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut notes = Notes::default();
        let mut live = Vec::new();
        for _ in 0..CALLS {
            let now = Now(self.time.fetch_add(1000, Ordering::SeqCst) + 1000);
            if random.u8(..16) < 9 || live.is_empty() {
                let bytes = SIZES[random.usize(..SIZES.len())];
                let tagged = random.u8(..4) == 0;
                let lease = (random.u8(..4) == 0).then(|| Duration::from_nanos(random.u64(1..500_000)));
                let request = AllocateRequest { lease, ..request(bytes, tagged.then_some(TAG)) };
                let began = self.tick();
                let outcome = at_once(self.pool.allocate(&request, Duration::ZERO, now));
                let ticks = began..=self.tick();
                match outcome {
                    Ok(Allocation { id, deadline, .. }) => {
                        live.push(notes.made.len());
                        notes.made.push(Made { id, ticks, bytes, tagged, deadline, freed: None });
                    }
                    Err(by) => notes.refused.push(Refused { ticks, now, bytes, by }),
                }
            } else {
                let made = &mut notes.made[live.swap_remove(random.usize(..live.len()))];
                self.free(made, now);
            }
        }
        let now = Now(self.time.load(Ordering::SeqCst));
        live.into_iter().for_each(|at| self.free(&mut notes.made[at], now));
        notes
    }

    fn free(&self, made: &mut Made, now: Now) {
        let began = self.tick();
        let freed = at_once(self.pool.free(made.id, now));
        made.freed = Some((began..=self.tick(), now));
        // Another call may have been told a later time than this one.
        let latest = Now(self.time.load(Ordering::SeqCst));
        let may_be_over = made.deadline.is_some_and(|deadline| deadline <= latest);
        assert!(freed.is_ok() || may_be_over, "it lives until its lease is over");
    }
}

/// Whether all that can have been in the way of a refused request leaves it room.
fn had_room(refused: &Refused, made: &[Made]) -> bool {
    let in_the_way = made.iter().filter(|made| {
        let (began, ended) = (refused.ticks.start(), refused.ticks.end());
        if made.freed.as_ref().is_some_and(|(freed, _)| freed.end() < began) {
            return false;
        }
        // Its lease may be over by the time of the one and not of the other, who is just making it or freeing it.
        let is_made = made.ticks.end() > began;
        let is_freed = |(freed, now): &(RangeInclusive<usize>, Now)| {
            freed.start() < ended && made.deadline.is_none_or(|deadline| deadline > *now)
        };
        made.deadline.is_none_or(|deadline| deadline > refused.now)
            || is_made
            || made.freed.as_ref().is_some_and(is_freed)
    });
    let taken = |counts: fn(&Made) -> u64| in_the_way.clone().map(counts).sum::<u64>();
    match &refused.by {
        AllocateError::Memory(memory::AllocateError::Exhausted { limit_bytes, .. }) => {
            taken(|made| made.bytes) + refused.bytes <= *limit_bytes
        }
        AllocateError::Budget { budget_bytes, .. } => {
            taken(|made| if made.tagged { made.bytes } else { 0 }) + refused.bytes <= *budget_bytes
        }
        AllocateError::TableFull { allocations_max } => taken(|_| 1) < u64::from(*allocations_max),
        error => panic!("nothing else can be wrong: {error}"),
    }
}

/// Runs a race in a pool with these limits, and says how many each of memory, budget and table refused.
fn race(limit: u64, budget: u64, entries: u32) -> [usize; 3] {
    let budgets = [(TAG.parse().expect("a tag"), budget)].into();
    let config = Config { max_allocations: Some(entries), budgets, ..Config::default() };
    let race =
        Race { pool: pool(limit, &SIZES, &config), ticks: AtomicUsize::new(0), time: AtomicU64::new(1) };
    let mut all = Notes::default();
    std::thread::scope(|scope| {
        let race = &race;
        let threads: Vec<_> = (0..THREADS).map(|seed| scope.spawn(move || race.run(seed))).collect();
        for thread in threads {
            let notes = thread.join().expect("no panic");
            all.made.extend(notes.made);
            all.refused.extend(notes.refused);
        }
    });
    all.made.sort_unstable_by_key(|made| *made.ticks.start());
    let mut refused_by = [0; 3];
    for refused in &all.refused {
        // What began after it was answered was not in its way.
        let until = all.made.partition_point(|made| made.ticks.start() < refused.ticks.end());
        assert!(!had_room(refused, &all.made[..until]), "refused without a reason: {}", refused.by);
        refused_by[match refused.by {
            AllocateError::Memory(_) => 0,
            AllocateError::Budget { .. } => 1,
            _ => 2,
        }] += 1;
    }
    let Engine::Local(local) = &race.pool.engine;
    while local.reap_due(Now(u64::MAX - 1)) > 0 {}
    check_quiet(&race.pool);
    let stats = at_once(race.pool.stats());
    assert_eq!((stats.active_allocations, stats.heap.in_use_bytes), (0, 0));
    refused_by
}

#[test]
fn of_threads_that_race_for_memory_with_leases_none_is_refused_without_a_reason() {
    let [memory, budget, table] = race(100_000, 30_000, 1000);
    assert!(memory > 100 && budget > 100 && table == 0, "{memory}, {budget} and {table} refusals");
}

#[test]
fn of_threads_that_race_for_entries_with_leases_none_is_refused_without_a_reason() {
    let [memory, _, table] = race(1 << 20, 1 << 20, 20);
    assert!(memory == 0 && table > 100, "{memory} and {table} refusals");
}
