//! Magazines: what one slot keeps ready of each class, so that most requests touch nothing that slots share.
//!
//! A slot has one rack, with a magazine for each class, under one lock of a byte: any thread can empty it, and whoever
//! finds it busy goes on to the next. What lies in a magazine is free, and *granted*: it counts in the heap's word of
//! granted bytes, so that giving it out and taking it back changes no word but the rack's. Bytes in use are those that
//! were granted, less what lies in magazines.
//!
//! How many slabs a magazine may hold follows its traffic: a miss doubles it, what lies unused makes it smaller.

use super::config::ClassConfig;
use crate::lock::{ByteGuard, ByteLock};
use crate::sync::{AtomicU64, Ordering};

/// Slabs in a magazine at most, where nobody asks for more.
const ROUNDS_MAX: u64 = 64;
/// Slabs in a magazine at most, where somebody does.
const ROUNDS_ASKED_MAX: u64 = 128;
/// Bytes in a magazine at most, where that is a slab or more.
const MAGAZINE_BYTES_MAX: u64 = 2 << 20;
/// A magazine holds at most this part of the pool, all slots together.
const POOL_SHARE: u64 = 64;
/// Of the slabs that a class may keep free, magazines hold at most this part, all slots together.
const MAX_FREE_SHARE: u64 = 4;
/// Slabs that a magazine may hold before it saw any traffic.
const ROUNDS_AT_FIRST: u64 = 4;

/// A free slab on its way through magazines: its index, and whether a client had it before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Round(u64);

impl Round {
    const SERVED: u64 = 1 << 63;

    pub(super) fn new(index: u64, served: bool) -> Round {
        debug_assert!(index & Round::SERVED == 0);
        Round(index | if served { Round::SERVED } else { 0 })
    }

    pub(super) fn index(self) -> u64 {
        self.0 & !Round::SERVED
    }

    /// Whether an earlier client had it: the next one reuses it.
    pub(super) fn served(self) -> bool {
        self.0 & Round::SERVED != 0
    }

    pub(super) fn word(self) -> u64 {
        self.0
    }

    pub(super) fn from_word(word: u64) -> Round {
        Round(word)
    }
}

/// Slabs that a magazine of this class may hold at most; 0: the class has none.
pub(super) fn rounds_max(slab_bytes: u64, pool_bytes: u64, slots: u64, class: &ClassConfig) -> u64 {
    let share = pool_bytes / POOL_SHARE / slots / slab_bytes;
    let by_size = share.min((MAGAZINE_BYTES_MAX / slab_bytes).clamp(1, ROUNDS_MAX));
    let wanted = class.magazine_capacity.map_or(by_size, u64::from).min(ROUNDS_ASKED_MAX);
    class.max_free.map_or(wanted, |max_free| wanted.min(u64::from(max_free) / MAX_FREE_SHARE / slots))
}

/// Words of a rack: written under its lock, read by anyone who only wants a number.
type Word = AtomicU64;

fn get(word: &Word) -> u64 {
    word.load(Ordering::Relaxed)
}

/// Under the rack's lock: a load and a store, no atomic step.
fn add(word: &Word, by: u64) {
    word.store(get(word).wrapping_add(by), Ordering::Relaxed);
}

/// One class's free slabs of one slot. A stack: what came last goes first, while its bytes are in the cache.
#[derive(Debug)]
#[repr(align(64))]
struct Magazine {
    slab_bytes: u64,
    len: Word,
    /// How many it may hold now, at most as many as there are places.
    capacity: Word,
    /// The least it held since it was last shrunk.
    low: Word,
    /// Slabs given out, and how many of them no client had before.
    allocations: Word,
    first_uses: Word,
    rounds: Box<[Word]>,
}

/// The magazines of one slot.
#[derive(Debug)]
pub(super) struct Rack {
    lock: ByteLock,
    /// Bytes of all slabs in its magazines.
    bytes: Word,
    /// Bytes granted when peak use was last looked at from here, and the least that `bytes` were since then.
    peak_granted: Word,
    peak_bytes: Word,
    /// Times that a request found its magazine empty and was served after it was filled, and how often by the depot.
    refills: Word,
    depot_refills: Word,
    magazines: Box<[Magazine]>,
}

impl Rack {
    /// A rack of empty magazines: of each class the size of a slab, and how many it may hold at most.
    pub(super) fn new(classes: impl Iterator<Item = (u64, u64)>) -> Rack {
        let magazine = |(slab_bytes, rounds_max): (u64, u64)| Magazine {
            slab_bytes,
            len: Word::new(0),
            capacity: Word::new(ROUNDS_AT_FIRST.min(rounds_max)),
            low: Word::new(0),
            allocations: Word::new(0),
            first_uses: Word::new(0),
            rounds: (0..rounds_max).map(|_| Word::new(0)).collect(),
        };
        Rack {
            lock: ByteLock::default(),
            bytes: Word::new(0),
            peak_granted: Word::new(0),
            peak_bytes: Word::new(0),
            refills: Word::new(0),
            depot_refills: Word::new(0),
            magazines: classes.map(magazine).collect(),
        }
    }

    /// Bytes in its magazines, as of a moment ago.
    #[inline]
    pub(super) fn bytes(&self) -> u64 {
        get(&self.bytes)
    }

    /// Slabs in the magazine of a class, as of a moment ago.
    pub(super) fn len(&self, class: usize) -> u64 {
        get(&self.magazines[class].len)
    }

    /// Slabs of a class given out, and how many of them had a client before.
    pub(super) fn allocations_and_reused(&self, class: usize) -> (u64, u64) {
        let magazine = &self.magazines[class];
        let allocations = get(&magazine.allocations);
        (allocations, allocations.saturating_sub(get(&magazine.first_uses)))
    }

    /// Times that a request was served after its magazine had been filled for it.
    pub(super) fn refills(&self) -> u64 {
        get(&self.refills)
    }

    /// How often of those by a batch of the depot.
    pub(super) fn depot_refills(&self) -> u64 {
        get(&self.depot_refills)
    }

    /// Opens it if nobody has it open.
    #[inline]
    pub(super) fn try_open(&self) -> Option<OpenRack<'_>> {
        self.lock.try_lock().map(|guard| OpenRack { rack: self, _guard: guard })
    }

    /// Opens it, waiting for whoever has it open.
    pub(super) fn open(&self) -> OpenRack<'_> {
        OpenRack { rack: self, _guard: self.lock.lock() }
    }
}

/// A rack under its lock.
#[derive(Debug)]
pub(super) struct OpenRack<'a> {
    rack: &'a Rack,
    _guard: ByteGuard<'a>,
}

impl OpenRack<'_> {
    /// Takes a slab out, without counting it as given out.
    #[inline]
    pub(super) fn take(&self, class: usize) -> Option<Round> {
        let magazine = &self.rack.magazines[class];
        let len = get(&magazine.len).checked_sub(1)?;
        magazine.len.store(len, Ordering::Relaxed);
        if len < get(&magazine.low) {
            magazine.low.store(len, Ordering::Relaxed);
        }
        self.rack.bytes.store(get(&self.rack.bytes) - magazine.slab_bytes, Ordering::Relaxed);
        let at = usize::try_from(len).expect("a magazine is small");
        Some(Round::from_word(get(&magazine.rounds[at])))
    }

    /// Whether peak use is to be looked at, of so many bytes granted: not where it was, with as many and when there were
    /// no more in here. To look takes what other slots just wrote.
    #[inline]
    pub(super) fn is_new_low(&self, granted: u64) -> bool {
        let rack = self.rack;
        if get(&rack.peak_granted) == granted && get(&rack.bytes) >= get(&rack.peak_bytes) {
            return false;
        }
        rack.peak_granted.store(granted, Ordering::Relaxed);
        rack.peak_bytes.store(get(&rack.bytes), Ordering::Relaxed);
        true
    }

    /// A slab that was taken is given out.
    #[inline]
    pub(super) fn count_given(&self, class: usize, round: Round) {
        let magazine = &self.rack.magazines[class];
        add(&magazine.allocations, 1);
        if !round.served() {
            add(&magazine.first_uses, 1);
        }
    }

    /// A request was served after its magazine had been filled for it, by the depot or else by the class.
    pub(super) fn count_refill(&self, by_depot: bool) {
        add(&self.rack.refills, 1);
        add(&self.rack.depot_refills, u64::from(by_depot));
    }

    /// Whether the magazine of a class has a place free.
    #[inline]
    pub(super) fn has_place(&self, class: usize) -> bool {
        let magazine = &self.rack.magazines[class];
        get(&magazine.len) < get(&magazine.capacity)
    }

    /// Places that are free in the magazine of a class.
    pub(super) fn places(&self, class: usize) -> u64 {
        let magazine = &self.rack.magazines[class];
        get(&magazine.capacity).saturating_sub(get(&magazine.len))
    }

    /// Slabs in the magazine of a class.
    pub(super) fn len(&self, class: usize) -> u64 {
        self.rack.len(class)
    }

    /// Puts a slab in.
    ///
    /// # Panics
    /// If there is no place at all.
    #[inline]
    pub(super) fn put(&self, class: usize, round: Round) {
        let magazine = &self.rack.magazines[class];
        let len = get(&magazine.len);
        let at = usize::try_from(len).expect("a magazine is small");
        magazine.rounds[at].store(round.word(), Ordering::Relaxed);
        magazine.len.store(len + 1, Ordering::Relaxed);
        self.rack.bytes.store(get(&self.rack.bytes) + magazine.slab_bytes, Ordering::Relaxed);
    }

    /// The magazine was empty when somebody wanted a slab: it may hold twice as many.
    pub(super) fn grow(&self, class: usize) {
        let magazine = &self.rack.magazines[class];
        let doubled = (get(&magazine.capacity) * 2).min(magazine.rounds.len() as u64);
        magazine.capacity.store(doubled, Ordering::Relaxed);
    }

    /// How many of its slabs were not wanted since the last call. It may hold so many fewer, but always a few.
    pub(super) fn shrink(&self, class: usize) -> u64 {
        let magazine = &self.rack.magazines[class];
        let unused = get(&magazine.low).min(get(&magazine.len));
        let floor = ROUNDS_AT_FIRST.min(magazine.rounds.len() as u64);
        let capacity = get(&magazine.capacity).saturating_sub(unused / 2).max(floor);
        magazine.capacity.store(capacity, Ordering::Relaxed);
        magazine.low.store(get(&magazine.len) - unused, Ordering::Relaxed);
        unused
    }

    /// A magazine may hold as few as before it saw any traffic, once the caller has taken out what it holds: so many.
    pub(super) fn reset(&self, class: usize) -> u64 {
        let magazine = &self.rack.magazines[class];
        let capacity = ROUNDS_AT_FIRST.min(magazine.rounds.len() as u64);
        magazine.capacity.store(capacity, Ordering::Relaxed);
        magazine.low.store(0, Ordering::Relaxed);
        get(&magazine.len)
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;

    #[test]
    fn it_gives_back_what_came_last_and_counts_bytes_and_reuse() {
        let rack = Rack::new([(1024, 8), (4096, 0)].into_iter());
        let open = rack.try_open().expect("nobody has it");
        assert!(rack.try_open().is_none(), "one at a time");
        assert!(open.take(0).is_none());
        open.put(0, Round::new(5, false));
        open.put(0, Round::new(6, true));
        assert_eq!((rack.bytes(), rack.len(0)), (2048, 2));
        for expected in [Round::new(6, true), Round::new(5, false)] {
            let round = open.take(0).expect("it was put in");
            assert_eq!(round, expected);
            open.count_given(0, round);
        }
        assert_eq!((rack.bytes(), rack.allocations_and_reused(0)), (0, (2, 1)));
        assert!(open.has_place(0) && !open.has_place(1), "a class may have no magazine");
    }

    #[test]
    fn it_grows_with_misses_and_shrinks_by_what_lay_unused() {
        let rack = Rack::new([(1024, 64)].into_iter());
        let open = rack.open();
        assert_eq!(open.places(0), 4);
        (0..9).for_each(|_| open.grow(0));
        assert_eq!(open.places(0), 64, "and no further");
        (0..40).for_each(|index| open.put(0, Round::new(index, false)));
        assert_eq!(open.shrink(0), 0, "it was empty just now");
        (0..10).for_each(|_| assert!(open.take(0).is_some()));
        (40..45).for_each(|index| open.put(0, Round::new(index, false)));
        assert_eq!(open.shrink(0), 30, "the least it held meanwhile");
        assert_eq!(open.places(0), 64 - 15 - 35);
    }

    #[test]
    fn a_magazine_is_bounded_by_slabs_by_bytes_and_by_its_share_of_the_pool() {
        let class = ClassConfig::default();
        let pool = 1 << 30;
        assert_eq!(rounds_max(64, pool, 2, &class), 64);
        assert_eq!(rounds_max(256 << 10, pool, 2, &class), 8);
        assert_eq!(rounds_max(4 << 20, pool, 2, &class), 1);
        assert_eq!(rounds_max(1024, 1 << 20, 2, &class), 8);
        assert_eq!(rounds_max(1024, 10_240, 2, &class), 0);
        let set = ClassConfig { magazine_capacity: Some(20), ..class };
        assert_eq!((rounds_max(1024, 10_240, 2, &set), rounds_max(4 << 20, pool, 2, &set)), (20, 20));
        let many = ClassConfig { magazine_capacity: Some(1000), ..class };
        assert_eq!(
            rounds_max(64, pool, 2, &many),
            128,
            "more than by itself only where somebody asks for it"
        );
        let few = ClassConfig { max_free: Some(26), ..set };
        assert_eq!(rounds_max(1024, pool, 2, &few), 3);
    }
}
