//! Threads that race for the last room, and what one thread freed and another needs.
//!
//! Each call of a race is noted with two ticks of one clock, one before and one after it. Afterwards the notes are laid
//! beside each other: what was in use at each tick lies between what must have been (granted and told, not yet being
//! freed) and what can have been (being granted, or not yet told to be freed). No instant may need more than the limit,
//! and a refusal needs an instant at which there can have been no room. A request that was refused itself is never in
//! the way of another.

use super::{allocate, heap, write};
use crate::memory::{AllocateError, Heap, Pin, ReclaimDepth, Shape, SizeClass, SlabLocation};
use crate::slot;
use parking_lot::Mutex;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;

/// Calls of each thread in one race.
fn calls() -> usize {
    let given = std::env::var("MAAS_DRIFT_OPERATIONS").ok().and_then(|operations| operations.parse().ok());
    given.unwrap_or(if cfg!(debug_assertions) { 40_000 } else { 200_000 })
}

const THREADS: u64 = 4;

enum Outcome {
    Granted,
    Refused { in_use_bytes: u64 },
    Released,
}

/// One call, and the ticks between which it ran.
pub(super) struct Call {
    ticks: RangeInclusive<usize>,
    bytes: u64,
    outcome: Outcome,
}

/// A reader of a block that was freed, its size, and the mark that it carries.
type Read = (Pin, u64, u64);

/// What all threads of a race share.
pub(super) struct Race {
    heap: Arc<Heap>,
    sizes: Vec<u64>,
    clock: AtomicUsize,
    /// For whichever thread comes along.
    shelf: Mutex<Vec<Read>>,
}

/// One thread of a race.
pub(super) struct Racer<'a> {
    race: &'a Race,
    random: fastrand::Rng,
    mark: u64,
    /// What each block is made of, and the mark that its first bytes carry.
    live: Vec<(Vec<SlabLocation>, u64)>,
    promised: Vec<u64>,
    calls: Vec<Call>,
}

impl Racer<'_> {
    fn tick(&self) -> usize {
        // All ticks are in one order, and so the calls between them as far as they do not overlap.
        self.race.clock.fetch_add(1, Ordering::SeqCst)
    }

    fn note<T>(&mut self, bytes: u64, call: impl FnOnce() -> T, outcome: impl FnOnce(&T) -> Outcome) -> T {
        let began = self.tick();
        let answer = call();
        let ticks = began..=self.tick();
        self.calls.push(Call { ticks, bytes, outcome: outcome(&answer) });
        answer
    }

    fn allocate(&mut self) {
        let race = self.race;
        let bytes = race.sizes[self.random.usize(..race.sizes.len())];
        if let Ok(parts) = self.note(bytes, || allocate_parts(&race.heap, bytes), outcome_of) {
            self.mark += 1;
            for part in &parts {
                assert_eq!(mark_of(Pin::new(&race.heap, *part).expect("held")), 0, "a fresh block is zeros");
                write(&race.heap, *part, 0, &self.mark.to_le_bytes()).expect("the only holder");
            }
            self.live.push((parts, self.mark));
        }
    }

    /// Room for several blocks as one decision.
    fn promise(&mut self) {
        let race = self.race;
        let bytes = race.sizes[self.random.usize(..race.sizes.len())] * self.random.u64(1..4);
        if self.note(bytes, || race.heap.grant(bytes), outcome_of).is_ok() {
            self.promised.push(bytes);
        }
    }

    fn break_promise(&mut self) {
        if let Some(bytes) = self.promised.pop() {
            let heap = &self.race.heap;
            self.note(bytes, || heap.give_back(bytes), |()| Outcome::Released);
        }
    }

    /// Frees a block; one in four keeps a reader, with which it is freed later, by any thread.
    fn free(&mut self) {
        if self.live.is_empty() {
            return;
        }
        let (parts, mark) = self.live.swap_remove(self.random.usize(..self.live.len()));
        let heap = &self.race.heap;
        for part in parts {
            let (pin, bytes) = (Pin::new(heap, part).expect("its client has it"), heap.slab_bytes(part));
            if self.random.u8(..4) == 0 {
                heap.free(part);
                self.race.shelf.lock().push((pin, bytes, mark));
            } else {
                assert_eq!(mark_of(pin), mark, "nobody else wrote to it");
                let later = self.random.bool();
                let free = || if later { heap.free_unscrubbed(part) } else { heap.free(part) };
                self.note(bytes, free, |()| Outcome::Released);
            }
        }
    }

    fn unpin(&mut self) {
        let taken = self.race.shelf.lock().pop();
        if let Some((pin, bytes, mark)) = taken {
            let seen = self.note(bytes, || mark_of(pin), |_| Outcome::Released);
            assert_eq!(seen, mark, "it is as it was when it was freed");
        }
    }

    /// A slice of a reclaim under pressure, which all threads of a race share.
    fn press(&mut self) {
        let heap = &self.race.heap;
        let _ = match self.random.u8(..4) {
            0 => heap.shrink_magazines_slice(),
            1 => heap.reclaim_for_pressure_slice(ReclaimDepth::Gentle),
            _ => heap.reclaim_for_pressure_slice(ReclaimDepth::Aggressive),
        };
    }

    pub(super) fn run(mut self, calls: usize) -> Vec<Call> {
        for _ in 0..calls {
            if self.random.u8(..16) == 0 {
                self.press();
            }
            match self.random.u8(..16) {
                0..7 => self.allocate(),
                7 => self.promise(),
                8 => self.break_promise(),
                9 | 10 => self.unpin(),
                _ => self.free(),
            }
        }
        while !self.live.is_empty() {
            self.free();
        }
        while !self.promised.is_empty() {
            self.break_promise();
        }
        self.calls
    }
}

/// A slab, or the segments of a large block.
fn allocate_parts(heap: &Heap, bytes: u64) -> Result<Vec<SlabLocation>, AllocateError> {
    let (shape, _) = heap.shape_for(bytes).expect("a number says it");
    if let Shape::Slab(class) = shape {
        return heap.allocate(class).map(|slab| vec![slab]);
    }
    heap.grant(bytes)?;
    let backed = heap.back_shape(shape).inspect_err(|_| heap.give_back(bytes))?;
    assert!(backed.locations().iter().all(|part| part.class() == SizeClass::RUNS));
    Ok(backed.locations().to_vec())
}

/// The mark that a block carries; lets go of it.
fn mark_of(pin: Pin) -> u64 {
    let bytes: Vec<u8> = Arc::new(pin).read(0..8).flatten().collect();
    u64::from_le_bytes(bytes.try_into().expect("8 were read"))
}

fn outcome_of<T>(answer: &Result<T, AllocateError>) -> Outcome {
    match answer {
        Ok(_) => Outcome::Granted,
        Err(AllocateError::Exhausted { in_use_bytes, .. }) => {
            Outcome::Refused { in_use_bytes: *in_use_bytes }
        }
        Err(error) => panic!("the system has memory: {error}"),
    }
}

/// For each tick the least and the most that can have been in use.
fn bounds(calls: &[Call], ticks: usize) -> Vec<(u64, u64)> {
    let mut changes = vec![(0_i64, 0_i64); ticks + 1];
    for call in calls {
        let bytes = i64::try_from(call.bytes).expect("a block is small");
        match call.outcome {
            Outcome::Granted => {
                changes[*call.ticks.end()].0 += bytes;
                changes[*call.ticks.start()].1 += bytes;
            }
            Outcome::Released => {
                changes[*call.ticks.start()].0 -= bytes;
                // Until its last tick, that one included.
                changes[*call.ticks.end() + 1].1 -= bytes;
            }
            Outcome::Refused { .. } => {}
        }
    }
    let (mut least, mut most) = (0, 0);
    let sum = |(less, more): (i64, i64)| {
        least += less;
        most += more;
        (u64::try_from(least).expect("granted first"), u64::try_from(most).expect("granted first"))
    };
    changes.into_iter().map(sum).collect()
}

impl Race {
    /// Of these classes, and blocks of these sizes, which no class holds.
    pub(super) fn new(limit: u64, classes: &[u64], large: &[u64]) -> Race {
        Race {
            heap: heap(limit, classes),
            sizes: [classes, large].concat(),
            clock: AtomicUsize::new(0),
            shelf: Mutex::new(Vec::new()),
        }
    }

    pub(super) fn racer(&self, thread: u64, seed: u64) -> Racer<'_> {
        let random = fastrand::Rng::with_seed(seed);
        Racer {
            race: self,
            random,
            mark: thread << 32,
            live: Vec::new(),
            promised: Vec::new(),
            calls: Vec::new(),
        }
    }

    /// Holds all calls of a race that is over against each other, and says how many were granted and refused.
    pub(super) fn judge(&self, mut calls: Vec<Call>) -> (u64, u64) {
        let mut last = self.racer(0, 0);
        while !self.shelf.lock().is_empty() {
            last.unpin();
        }
        calls.append(&mut last.calls);
        let limit = self.heap.limit_bytes();
        let bounds = bounds(&calls, self.clock.load(Ordering::Relaxed));
        let beyond = bounds.iter().find(|(least, _)| *least > limit);
        assert!(beyond.is_none(), "{beyond:?} bytes were granted at one instant");
        let (mut grants, mut refusals) = (0, 0);
        for call in &calls {
            let meanwhile = &bounds[call.ticks.clone()];
            let least = meanwhile.iter().map(|(least, _)| *least).min().expect("a call has ticks");
            let most = meanwhile.iter().map(|(_, most)| *most).max().expect("a call has ticks");
            match call.outcome {
                Outcome::Granted => {
                    grants += 1;
                    assert!(least + call.bytes <= limit, "{} bytes were granted beside {least}", call.bytes);
                }
                Outcome::Refused { in_use_bytes } => {
                    refusals += 1;
                    assert!(most + call.bytes > limit, "{} bytes were refused beside {most}", call.bytes);
                    assert!((least..=most).contains(&in_use_bytes), "{in_use_bytes} in {least}..={most}");
                    assert!(in_use_bytes + call.bytes > limit, "the refusal's own number is its reason");
                }
                Outcome::Released => {}
            }
        }
        assert_eq!(bounds.last(), Some(&(0, 0)), "everything was freed");
        self.heap.check();
        assert_eq!((self.heap.in_use_bytes(), self.heap.stats().draining_bytes), (0, 0));
        (grants, refusals)
    }
}

fn race(limit: u64, classes: &[u64], large: &[u64]) {
    let race = Race::new(limit, classes, large);
    let start = Barrier::new(usize::try_from(THREADS).expect("a few"));
    let run = &|seed| {
        start.wait();
        race.racer(seed, seed).run(calls())
    };
    let calls: Vec<Call> = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|seed| scope.spawn(move || run(seed))).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
    });
    let (grants, refusals) = race.judge(calls);
    assert!(refusals > 100 && grants > 100, "{grants} grants and {refusals} refusals are no race");
}

#[test]
fn of_threads_that_race_for_the_last_of_a_few_slabs_none_is_refused_without_a_reason() {
    race(4096, &[1024], &[]);
    race(5000, &[1000], &[]);
}

#[test]
fn of_threads_that_race_with_different_sizes_none_is_refused_without_a_reason() {
    race(64 << 10, &[1024, 4096, 16 << 10], &[]);
    race(100_000, &[1000, 5000, 30_000], &[]);
}

#[test]
fn of_threads_that_race_with_large_blocks_and_slabs_none_is_refused_without_a_reason() {
    race(64 << 10, &[1024], &[4096, 12 << 10, 40 << 10]);
    race(100_000, &[1000, 5000], &[8192, 64 << 10]);
}

/// Runs on a thread of another slot than the caller's, where there is one.
fn elsewhere<T: Send>(run: impl Fn() -> T + Sync) -> T {
    let mine = slot::current();
    loop {
        let on_another = || (slot::count() == 1 || slot::current() != mine).then(&run);
        let done = thread::scope(|scope| scope.spawn(on_another).join().expect("no panic"));
        // Slots are given to threads in turn, so the next thread or the one after has another.
        if let Some(done) = done {
            return done;
        }
    }
}

/// Takes all there is, in blocks of this size.
fn take_all(heap: &Heap, size: u64) -> Vec<SlabLocation> {
    let blocks: Vec<_> = (0..heap.limit_bytes() / size)
        .map(|_| allocate(heap, size).expect("everything is free, wherever it lies"))
        .collect();
    let refused = allocate(heap, size).expect_err("and now nothing is");
    let in_use_bytes = blocks.len() as u64 * size;
    let limit_bytes = heap.limit_bytes();
    assert_eq!(refused, AllocateError::Exhausted { requested_bytes: size, in_use_bytes, limit_bytes });
    blocks
}

#[test]
fn what_one_thread_freed_another_gets_at_once() {
    const SIZES: [u64; 4] = [1024, 3000, 16 << 10, 256 << 10];
    let heap = heap(1 << 20, &SIZES);
    for (mine, theirs) in SIZES.iter().flat_map(|mine| SIZES.map(|theirs| (*mine, theirs))) {
        take_all(&heap, mine).into_iter().for_each(|block| heap.free(block));
        let blocks = elsewhere(|| take_all(&heap, theirs));
        // And back again: freed by this thread, though the other one allocated them.
        blocks.into_iter().for_each(|block| heap.free(block));
        elsewhere(|| take_all(&heap, mine).into_iter().for_each(|block| heap.free(block)));
        heap.check();
    }
    assert_eq!(heap.in_use_bytes(), 0);
}

#[test]
fn the_last_block_that_one_thread_freed_another_gets_at_once() {
    let heap = heap(64 << 10, &[1024, 4096]);
    let mut blocks = take_all(&heap, 1024);
    for turn in 0..2000 {
        let block = blocks.swap_remove(turn % blocks.len());
        heap.free(block);
        if turn % 10 == 0 {
            blocks.push(elsewhere(|| allocate(&heap, 1024).expect("a block is free")));
        } else {
            blocks.push(allocate(&heap, 1024).expect("a block is free"));
        }
        assert!(allocate(&heap, 1).is_err(), "it was the last");
    }
    assert_eq!(heap.in_use_bytes(), 64 << 10);
    heap.check();
}

#[test]
fn what_many_threads_hoarded_and_left_behind_is_there_for_one() {
    let heap = heap(1 << 20, &[1024, 64 << 10]);
    for size in [64 << 10, 1024] {
        thread::scope(|scope| {
            for seed in 0..8 {
                let heap = &heap;
                scope.spawn(move || {
                    let mut random = fastrand::Rng::with_seed(seed);
                    let mut mine = Vec::new();
                    for _ in 0..2000 {
                        if mine.len() < 100 && random.bool() {
                            mine.push(allocate(heap, 1024).expect("each has at most an eighth"));
                        } else if !mine.is_empty() {
                            heap.free(mine.swap_remove(random.usize(..mine.len())));
                        }
                    }
                    mine.into_iter().for_each(|block| heap.free(block));
                });
            }
        });
        assert_eq!(heap.in_use_bytes(), 0);
        take_all(&heap, size).into_iter().for_each(|block| heap.free(block));
        heap.check();
    }
}
