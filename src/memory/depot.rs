//! The depot of one class: batches of free slabs that slots hand to each other, without a lock.
//!
//! A batch is an array of slabs; full ones and empty ones stand in a stack each, linked by their numbers. Whoever takes
//! a batch from a stack has it alone until it is put on the other one. The head of a stack carries a tag that grows with
//! each change, so that a head that looks as before is as before (the ABA problem).
//!
//! The idea is that of the depot of full and empty magazines in Bonwick and Adams, "Magazines and Vmem" (USENIX 2001);
//! the stack is that of Treiber, "Systems Programming: Coping with Parallelism" (IBM, 1986).

use super::magazine::Round;
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use crossbeam_utils::CachePadded;

/// Slabs in a batch at most.
pub(super) const BATCH_ROUNDS: usize = 32;

/// No batch.
const NONE: u32 = u32::MAX;

/// A stack of batches, by their numbers. The links lie in the batches.
#[derive(Debug)]
struct Stack {
    /// Tag << 32 | number of the first batch, or `NONE`. Changed by compare-and-swap alone; every change adds to the tag.
    head: CachePadded<AtomicU64>,
}

impl Stack {
    fn new() -> Stack {
        Stack { head: CachePadded::new(AtomicU64::new(u64::from(NONE))) }
    }

    fn first(head: u64) -> u32 {
        u32::try_from(head & u64::from(u32::MAX)).expect("the lower half")
    }

    /// The head after `head`, with another first batch.
    fn next_head(head: u64, first: u32) -> u64 {
        (head >> 32).wrapping_add(1) << 32 | u64::from(first)
    }

    fn push(&self, batches: &[Batch], number: u32) {
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            batches[number as usize].next.store(Stack::first(head), Ordering::Relaxed);
            // Release pairs with the Acquire in `pop`: whoever takes the batch sees its rounds and its link.
            match self.head.compare_exchange_weak(
                head,
                Stack::next_head(head, number),
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    fn pop(&self, batches: &[Batch]) -> Option<u32> {
        // Acquire pairs with the Release in `push`, here and where the exchange fails: the link is that batch's.
        let mut head = self.head.load(Ordering::Acquire);
        loop {
            let first = Stack::first(head);
            if first == NONE {
                return None;
            }
            // The batch may be taken, and stand elsewhere, by now: then the tag has grown, and the exchange fails.
            let next = batches[first as usize].next.load(Ordering::Relaxed);
            match self.head.compare_exchange_weak(
                head,
                Stack::next_head(head, next),
                Ordering::Acquire,
                Ordering::Acquire,
            ) {
                Ok(_) => return Some(first),
                Err(now) => head = now,
            }
        }
    }
}

/// Some free slabs. Written by whoever took it from a stack, and by nobody else.
#[derive(Debug)]
struct Batch {
    /// The batch below this one in the stack where it stands.
    next: AtomicU32,
    len: AtomicU32,
    rounds: Box<[AtomicU64]>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Depot {
    batches: Box<[Batch]>,
    full: Stack,
    empty: Stack,
    /// Slabs in full batches; for numbers alone.
    slabs: AtomicU64,
}

impl Depot {
    /// A depot of so many batches, all of them empty.
    pub(super) fn new(batches: u32) -> Depot {
        let batch = |_| Batch {
            next: AtomicU32::new(NONE),
            len: AtomicU32::new(0),
            rounds: (0..BATCH_ROUNDS).map(|_| AtomicU64::new(0)).collect(),
        };
        let depot = Depot {
            batches: (0..batches).map(batch).collect(),
            full: Stack::new(),
            empty: Stack::new(),
            slabs: AtomicU64::new(0),
        };
        (0..batches).for_each(|number| depot.empty.push(&depot.batches, number));
        depot
    }

    /// Slabs that lie here, about.
    pub(super) fn slabs(&self) -> u64 {
        self.slabs.load(Ordering::Relaxed)
    }

    /// Leaves these slabs here, at most a batch of them; false, and nothing left, where no batch is empty.
    ///
    /// # Panics
    /// If they are more than [`BATCH_ROUNDS`].
    pub(super) fn put(&self, rounds: &[Round]) -> bool {
        assert!(rounds.len() <= BATCH_ROUNDS, "{} rounds do not fit a batch", rounds.len());
        let Some(number) = self.empty.pop(&self.batches) else { return false };
        let batch = &self.batches[number as usize];
        for (place, round) in batch.rounds.iter().zip(rounds) {
            place.store(round.word(), Ordering::Relaxed); // published by `push`
        }
        batch.len.store(u32::try_from(rounds.len()).expect("at most a batch"), Ordering::Relaxed);
        self.slabs.fetch_add(rounds.len() as u64, Ordering::Relaxed);
        self.full.push(&self.batches, number);
        true
    }

    /// Takes a batch that was left here, handing its slabs to `take`; how many there were. None where there is none.
    ///
    /// `may_take` is asked first, with the number of slabs; where it refuses, the batch stays.
    pub(super) fn take(
        &self,
        may_take: impl FnOnce(u64) -> bool,
        mut take: impl FnMut(Round),
    ) -> Option<u64> {
        let number = self.full.pop(&self.batches)?;
        let batch = &self.batches[number as usize];
        let len = batch.len.load(Ordering::Relaxed); // acquired by `pop`
        if !may_take(u64::from(len)) {
            self.full.push(&self.batches, number);
            return None;
        }
        for place in &batch.rounds[..len as usize] {
            take(Round::from_word(place.load(Ordering::Relaxed)));
        }
        self.slabs.fetch_sub(u64::from(len), Ordering::Relaxed);
        self.empty.push(&self.batches, number);
        Some(u64::from(len))
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::sync::Mutex;

    fn rounds(indices: impl IntoIterator<Item = u64>) -> Vec<Round> {
        indices.into_iter().map(|index| Round::new(index, index % 2 == 0)).collect()
    }

    fn take(depot: &Depot) -> Option<Vec<Round>> {
        let mut taken = Vec::new();
        depot.take(|_| true, |round| taken.push(round)).map(|_| taken)
    }

    #[test]
    fn what_was_left_last_is_taken_first_and_whole() {
        let depot = Depot::new(2);
        assert_eq!(take(&depot), None);
        assert!(depot.put(&rounds(0..32)) && depot.put(&rounds(40..43)));
        assert!(!depot.put(&rounds(50..51)), "both batches are full");
        assert_eq!(depot.slabs(), 35);
        assert_eq!(depot.take(|_| false, |_| panic!("it may not be taken")), None);
        assert_eq!((take(&depot), take(&depot)), (Some(rounds(40..43)), Some(rounds(0..32))));
        assert_eq!((take(&depot), depot.slabs()), (None, 0));
    }

    #[test]
    fn threads_that_exchange_batches_lose_none_and_double_none() {
        const SLABS: u64 = 64;
        let depot = Depot::new(16);
        let held = Mutex::new(BTreeSet::new());
        (0..SLABS / 4).for_each(|batch| assert!(depot.put(&rounds(batch * 4..batch * 4 + 4))));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        let Some(taken) = take(&depot) else { continue };
                        {
                            let mut held = held.lock().expect("no panic");
                            assert!(taken.iter().all(|round| held.insert(round.index())), "taken twice");
                        }
                        let mut held = held.lock().expect("no panic");
                        assert!(taken.iter().all(|round| held.remove(&round.index())));
                        drop(held);
                        assert!(depot.put(&taken), "it was just taken: there is an empty batch");
                    }
                });
            }
        });
        let all: BTreeSet<u64> = std::iter::from_fn(|| take(&depot)).flatten().map(Round::index).collect();
        assert_eq!(all, (0..SLABS).collect());
    }
}

#[cfg(all(test, feature = "loom"))]
mod loom_tests {
    use super::*;
    use loom::{sync::Arc, thread};

    fn batches(count: u32) -> Vec<Batch> {
        let batch = |_| Batch { next: AtomicU32::new(NONE), len: AtomicU32::new(0), rounds: Box::new([]) };
        (0..count).map(batch).collect()
    }

    /// One thread looks at the first batch and its link; meanwhile the other takes both batches and puts the first one
    /// back. The head's number is as before, but its link is not: without the tag the second batch, which is taken,
    /// would become the head.
    #[test]
    fn loom_aba_a_head_that_came_back_is_not_taken_for_the_one_that_was_seen() {
        crate::sync::model(|| {
            let shared = Arc::new((Stack::new(), batches(2)));
            let (stack, all) = (&shared.0, &shared.1);
            stack.push(all, 1);
            stack.push(all, 0);
            let other = {
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    let (stack, all) = (&shared.0, &shared.1);
                    let first = stack.pop(all);
                    let second = stack.pop(all);
                    if let Some(first) = first {
                        stack.push(all, first);
                    }
                    second
                })
            };
            let mine = stack.pop(all);
            let kept = other.join().expect("no panic");
            let left: Vec<u32> = std::iter::from_fn(|| stack.pop(all)).collect();
            let mut seen: Vec<u32> = mine.into_iter().chain(kept).chain(left).collect();
            seen.sort_unstable();
            assert_eq!(seen, [0, 1], "each batch is in one place");
        });
    }

    #[test]
    fn loom_whoever_takes_a_batch_sees_what_was_put_into_it() {
        crate::sync::model(|| {
            let depot = Arc::new(Depot::new(1));
            let putter = {
                let depot = Arc::clone(&depot);
                thread::spawn(move || assert!(depot.put(&[Round::new(7, true), Round::new(9, false)])))
            };
            let mut taken = Vec::new();
            if depot.take(|_| true, |round| taken.push(round)).is_some() {
                assert_eq!(taken, [Round::new(7, true), Round::new(9, false)]);
                assert!(depot.put(&[Round::new(1, true)]), "the batch is empty again");
            }
            putter.join().expect("no panic");
        });
    }
}
