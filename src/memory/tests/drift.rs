//! Mixes of sizes that drift, in heaps of several shapes: every grant and every refusal is held against a twin that
//! adds up what is in use, and nothing else.
//!
//! A request must be refused if, and only if, what is in use and it exceed the limit. What was freed, in whatever
//! class, on whatever page, is never in the way; what a reader holds is. Nor is it what a reclaim under pressure, slices of
//! which stand between the requests, is about to give back. `MAAS_DRIFT_OPERATIONS` makes it longer.

use super::{allocate, write};
use crate::memory::{
    AllocateError, ClassConfig, Config, Heap, Pin, ReclaimDepth, SizeClass, SlabLocation, ZEROS,
};
use std::sync::Arc;

/// Operations of one walk.
fn operations() -> u64 {
    let given = std::env::var("MAAS_DRIFT_OPERATIONS").ok().and_then(|operations| operations.parse().ok());
    given.unwrap_or(if cfg!(debug_assertions) { 200_000 } else { 1_000_000 })
}

/// Operations between two looks at all of the heap.
const CHECK_EVERY: u64 = 10_000;

/// A block that is in use: its client has it, or readers do, or both.
struct Block {
    location: SlabLocation,
    bytes: u64,
    pins: Vec<Pin>,
}

/// Room that was granted and is no block yet: the classes that it is for.
struct Promise(Vec<(SizeClass, u64)>);

impl Promise {
    fn bytes(&self) -> u64 {
        self.0.iter().map(|(_, bytes)| bytes).sum()
    }
}

/// The heap and what the twin knows of it.
struct Walk {
    heap: Arc<Heap>,
    sizes: Vec<u64>,
    limit: u64,
    random: fastrand::Rng,
    live: Vec<Block>,
    /// Freed by their client; each has readers.
    read: Vec<Block>,
    promises: Vec<Promise>,
    /// Sum over all of these, kept along; `check` adds it up again.
    in_use: u64,
    grants: u64,
    refusals: u64,
    /// Reclaims that came to their end.
    passes: u64,
}

impl Walk {
    fn new(config: &Config) -> Walk {
        let mut sizes = config.slab_sizes.clone();
        sizes.retain(|size| *size <= config.max_pool_size);
        sizes.sort_unstable();
        Walk {
            heap: Arc::new(Heap::new(config).expect("the configuration is right")),
            sizes,
            limit: config.max_pool_size,
            random: fastrand::Rng::with_seed(4),
            live: Vec::new(),
            read: Vec::new(),
            promises: Vec::new(),
            in_use: 0,
            grants: 0,
            refusals: 0,
            passes: 0,
        }
    }

    /// A size of the mix at this point of the walk: about one class, which moves up and down through all of them, and
    /// one in 64 of any.
    fn size(&mut self, operation: u64) -> u64 {
        let classes = self.sizes.len();
        let at = if self.random.u8(..64) == 0 {
            self.random.usize(..classes)
        } else {
            let centre = triangle(operation, 37_000, classes);
            (centre + self.random.usize(..3)).saturating_sub(1).min(classes - 1)
        };
        self.sizes[at] - self.random.u64(..self.sizes[at].min(64))
    }

    /// Holds an answer against the twin.
    fn judge(&mut self, bytes: u64, answer: Result<(), AllocateError>) -> bool {
        let fits = self.in_use + bytes <= self.limit;
        let exhausted = AllocateError::Exhausted {
            requested_bytes: bytes,
            in_use_bytes: self.in_use,
            limit_bytes: self.limit,
        };
        let expected = if fits { Ok(()) } else { Err(exhausted) };
        assert_eq!(answer, expected, "after {} grants and {} refusals", self.grants, self.refusals);
        if fits {
            self.in_use += bytes;
            self.grants += 1;
        } else {
            self.refusals += 1;
        }
        fits
    }

    fn allocate(&mut self, size: u64) {
        let (_, bytes) = self.heap.class_for(size).expect("a class holds it");
        let answer = allocate(&self.heap, size);
        if self.judge(bytes, answer.map(drop)) {
            let location = answer.expect("it was granted");
            if self.random.u8(..8) == 0 {
                assert_zeros(&self.heap, location, bytes);
            }
            if self.random.u8(..4) == 0 {
                write(&self.heap, location, self.random.u64(..bytes), &[1]).expect("the only holder");
            }
            self.live.push(Block { location, bytes, pins: Vec::new() });
        }
    }

    /// Asks for room for several blocks at once, which is granted whole or not at all.
    fn promise(&mut self, operation: u64) {
        let sizes: Vec<u64> = (0..self.random.usize(1..5)).map(|_| self.size(operation)).collect();
        let class_for = |size: &u64| self.heap.class_for(*size).expect("a class holds it");
        let promise = Promise(sizes.iter().map(class_for).collect());
        let answer = self.heap.grant(promise.bytes());
        if self.judge(promise.bytes(), answer) {
            self.promises.push(promise);
        }
    }

    /// Turns a promise into blocks, all but what is given back of it.
    fn keep_promise(&mut self) {
        let Some(promise) = take_random(&mut self.promises, &mut self.random) else { return };
        for (class, bytes) in promise.0 {
            if self.random.u8(..4) == 0 {
                self.heap.give_back(bytes);
                self.in_use -= bytes;
            } else {
                let location = self.heap.back(class).expect("what was promised is never refused");
                self.live.push(Block { location, bytes, pins: Vec::new() });
            }
        }
    }

    fn pin(&mut self) {
        if self.live.is_empty() || self.read.len() > 50 {
            return;
        }
        let at = self.random.usize(..self.live.len());
        let block = &mut self.live[at];
        block.pins.push(Pin::new(&self.heap, block.location).expect("its client has it"));
    }

    fn free(&mut self) {
        if let Some(block) = take_random(&mut self.live, &mut self.random) {
            self.free_block(block);
        }
    }

    /// Its client frees a block; where it is read it stays in use.
    fn free_block(&mut self, block: Block) {
        self.heap.free(block.location);
        if block.pins.is_empty() {
            self.in_use -= block.bytes;
        } else {
            self.read.push(block);
        }
    }

    /// One reader of a freed block goes; with the last one the block does.
    fn unpin(&mut self) {
        let Some(mut block) = take_random(&mut self.read, &mut self.random) else { return };
        block.pins.pop();
        if block.pins.is_empty() {
            self.in_use -= block.bytes;
        } else {
            self.read.push(block);
        }
    }

    /// Frees three of every four blocks, so that what is free lies scattered.
    fn thin_out(&mut self) {
        self.live.sort_unstable_by_key(|block| block.location.word());
        for (at, block) in std::mem::take(&mut self.live).into_iter().enumerate() {
            if at % 4 == 0 {
                self.live.push(block);
            } else {
                self.free_block(block);
            }
        }
    }

    /// A slice of a reclaim under pressure, gentle for a while and then aggressive, or of emptying all magazines.
    fn press(&mut self, operation: u64) {
        let in_use_bytes = self.heap.in_use_bytes();
        let depth =
            if triangle(operation, 19_000, 2) == 0 { ReclaimDepth::Gentle } else { ReclaimDepth::Aggressive };
        let slice = match self.random.u8(..4) {
            0 => self.heap.shrink_magazines_slice(),
            _ => self.heap.reclaim_for_pressure_slice(depth),
        };
        self.passes += u64::from(slice.is_done);
        assert_eq!(self.heap.in_use_bytes(), in_use_bytes, "nothing in use is touched");
    }

    fn step(&mut self, operation: u64) {
        // How full it is to be drifts too, with another period: from a fifth of the limit to beyond it.
        let fullness = 20 + triangle(operation, 23_000, 110) as u64;
        let wants_more = u128::from(self.in_use) * 100 < u128::from(self.limit) * u128::from(fullness);
        if self.random.u8(..32) == 0 {
            self.press(operation);
        }
        match self.random.u8(..32) {
            0 => self.pin(),
            1 => self.unpin(),
            2 => self.promise(operation),
            3 => self.keep_promise(),
            4..12 => self.free(),
            12..18 => {
                let size = self.size(operation);
                self.allocate(size);
            }
            _ if wants_more => {
                let size = self.size(operation);
                self.allocate(size);
            }
            _ => self.free(),
        }
        assert_eq!(self.heap.in_use_bytes(), self.in_use, "bytes in use are exact");
    }

    /// Adds the twin's number up again, and looks at all of the heap.
    fn check(&self) {
        let bytes = |blocks: &[Block]| blocks.iter().map(|block| block.bytes).sum::<u64>();
        let promised: u64 = self.promises.iter().map(Promise::bytes).sum();
        assert_eq!(self.in_use, bytes(&self.live) + bytes(&self.read) + promised, "the twin itself");
        self.heap.check();
        let stats = self.heap.stats();
        assert_eq!((stats.in_use_bytes, stats.draining_bytes), (self.in_use, bytes(&self.read)));
        assert!(stats.pool_size_bytes <= self.limit, "{} bytes are held", stats.pool_size_bytes);
    }

    fn end(mut self) {
        while !self.live.is_empty() {
            self.free();
        }
        while !self.read.is_empty() {
            self.unpin();
        }
        for promise in std::mem::take(&mut self.promises) {
            self.heap.give_back(promise.bytes());
            self.in_use -= promise.bytes();
        }
        self.check();
        assert_eq!(self.heap.in_use_bytes(), 0);
        // All of it is free, so all of it can be had, whatever it was before.
        for size in self.sizes.clone() {
            let blocks: Vec<_> = (0..self.limit / size)
                .map(|_| allocate(&self.heap, size).expect("everything is free"))
                .collect();
            assert!(allocate(&self.heap, size).is_err(), "one more of {size} bytes is too much");
            blocks.into_iter().for_each(|block| self.heap.free(block));
        }
        self.heap.check();
    }
}

/// Goes from 0 up to, not including, `height` and down again in so many operations.
fn triangle(operation: u64, period: u64, height: usize) -> usize {
    let phase = operation % period;
    let rise = phase.min(period - 1 - phase) * 2;
    usize::try_from(rise * height as u64 / period).expect("below the height")
}

fn take_random<T>(from: &mut Vec<T>, random: &mut fastrand::Rng) -> Option<T> {
    (!from.is_empty()).then(|| from.swap_remove(random.usize(..from.len())))
}

fn assert_zeros(heap: &Arc<Heap>, location: SlabLocation, bytes: u64) {
    let pin = Arc::new(Pin::new(heap, location).expect("held"));
    for part in pin.read(0..bytes) {
        for piece in part.chunks(ZEROS.len()) {
            assert!(*piece == ZEROS[..piece.len()], "a fresh block is zeros");
        }
    }
}

/// Walks through a heap of this shape.
fn walk(config: &Config) {
    let mut walk = Walk::new(config);
    let all = operations();
    for operation in 0..all {
        walk.step(operation);
        if operation % CHECK_EVERY == 0 {
            walk.check();
        }
        if walk.random.u32(..40_000) == 0 {
            walk.thin_out();
        }
    }
    assert!(walk.grants > all / 20 && walk.refusals > all / 200, "{} {}", walk.grants, walk.refusals);
    assert!(walk.passes > all / 10_000, "{} reclaims came to an end", walk.passes);
    walk.end();
}

fn shape(limit: u64, sizes: &[u64]) -> Config {
    super::config(limit, sizes)
}

#[test]
fn powers_of_two_that_drift_are_refused_only_when_there_is_no_room() {
    walk(&Config { max_pool_size: 32 << 20, ..Config::default() });
}

#[test]
fn odd_sizes_that_drift_are_refused_only_when_there_is_no_room() {
    walk(&shape(10_000_008, &[1000, 5000, 12_344, 70_000, 1_000_000]));
}

#[test]
fn a_single_class_that_fills_and_empties_is_refused_only_when_there_is_no_room() {
    walk(&shape(1_000_000, &[1000]));
    walk(&shape((1 << 20) + 100, &[4096]));
}

#[test]
fn tiny_blocks_beside_one_that_takes_all_are_refused_only_when_there_is_no_room() {
    walk(&shape(1 << 20, &[64, 1 << 20]));
}

#[test]
fn classes_that_may_keep_few_free_slabs_are_refused_only_when_there_is_no_room() {
    let exception =
        |max_free| ClassConfig { initial: Some(0), max_free: Some(max_free), ..ClassConfig::default() };
    let classes = [(1024, exception(0)), (4096, exception(3)), (5000, exception(1))].into();
    walk(&Config { classes, ..shape(4 << 20, &[1024, 4096, 5000, 1 << 18]) });
}
