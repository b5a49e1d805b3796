//! Which bytes? Pages, size classes, slabs, slots: all memory of the pool, under one budget.
//!
//! The door is [`Heap`]: it gives out slabs by size class, lends their bytes to readers, and takes them back zeroed.
//! It knows no clients, no ids and no time.
//!
//! ```text
//!   mod.rs     Heap: which class, the fast path, how a slab comes back
//!   grant.rs   who is granted room: the one place that refuses
//!   scarce.rs  the path taken when fresh bytes cannot be had: finds the memory for what was granted
//!   class.rs   one size class: free, held and reclaimed slabs
//!   bytes.rs   the bytes of a class: copied in, lent, zeroed           (unsafe)
//!   reads.rs   what the holder of a slab reads
//!   segment.rs the record that says who may touch a slab's bytes       (lock-free, loom-tested)
//!   layout.rs  where slabs and guard pages lie: arithmetic
//!   dirty.rs   which 64ths of a slab were written
//!   hardening.rs  stray writes: how they are found, and what becomes of a damaged slab
//!   guard.rs   guard pages, and what is said of a hit
//!   drain.rs   slabs that were freed and are still read
//!   budget.rs  the hard limit                                          (lock-free, loom-tested)
//!   stats.rs   the heap's numbers
//!   os.rs      address space and pages                                 (unsafe)
//! ```
//!
//! Reading order: this file, then `class.rs`, `scarce.rs`, `segment.rs`, `bytes.rs`, `os.rs`.

mod budget;
mod bytes;
mod class;
pub mod config;
mod dirty;
mod drain;
mod grant;
mod guard;
mod hardening;
mod index_set;
mod layout;
mod os;
mod reads;
mod scarce;
mod segment;
mod stats;

pub use bytes::{Pin, ZEROS};
pub use class::ClassStats;
pub use config::{ClassConfig, Config, HugePages};
pub use hardening::{Swept, Violation};
pub use os::{OsError, page_size};
pub use segment::AccessError;
pub use stats::HeapStats;

pub(crate) use budget::Budget;
#[cfg(all(test, not(feature = "loom")))]
pub(crate) use os::faults;

use bytes::{Protection, Slabs};
use class::{Account, Class};
use grant::RoomFreed;
use hardening::Hardening;
use scarce::Scarce;
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// A size class by its number: 0 is the smallest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SizeClass(u8);

/// Where a slab lies: its class and its index in the class, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SlabLocation(u64);

impl SlabLocation {
    const INDEX_BITS: u32 = 56;

    fn new(class: SizeClass, index: u64) -> SlabLocation {
        debug_assert!(index >> SlabLocation::INDEX_BITS == 0);
        SlabLocation(u64::from(class.0) << SlabLocation::INDEX_BITS | index)
    }

    /// The class of the slab.
    pub fn class(self) -> SizeClass {
        SizeClass((self.0 >> SlabLocation::INDEX_BITS).to_le_bytes()[0])
    }

    fn index(self) -> u64 {
        self.0 & ((1 << SlabLocation::INDEX_BITS) - 1)
    }

    /// The location as a word that can be stored; [`SlabLocation::from_word`] reads it back.
    pub fn word(self) -> u64 {
        self.0
    }

    /// A location that was stored with [`SlabLocation::word`].
    pub fn from_word(word: u64) -> SlabLocation {
        SlabLocation(word)
    }
}

/// Why a heap cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum HeapError {
    /// The class sizes break a rule.
    #[error("size class {size_bytes}: {rule}")]
    Class {
        /// The offending size.
        size_bytes: u64,
        /// The rule it breaks.
        rule: &'static str,
    },
    /// There is not one class that fits into the pool.
    #[error("no size class fits into a pool of {limit_bytes} bytes")]
    NoClass {
        /// The pool's limit.
        limit_bytes: u64,
    },
    /// The system refused address space.
    #[error("reserving address space for the pool")]
    System(#[from] OsError),
}

/// Why a slab cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AllocateError {
    /// The limit leaves no room: at one instant, `in_use_bytes + requested_bytes > limit_bytes`.
    #[error("{requested_bytes} bytes requested, {in_use_bytes} of {limit_bytes} in use")]
    Exhausted {
        /// Size of the slab that was asked for.
        requested_bytes: u64,
        /// Bytes in use at that instant.
        in_use_bytes: u64,
        /// The pool's limit.
        limit_bytes: u64,
    },
    /// The limit leaves room, but the system grants no memory.
    #[error("the system grants no memory for {requested_bytes} bytes: {error}")]
    System {
        /// Size of the slab that was asked for.
        requested_bytes: u64,
        /// What failed.
        error: OsError,
    },
}

/// What to change about a slab's bytes, in one step.
#[derive(Clone, Debug, Default)]
pub struct Edit<'a> {
    /// Everything outside this range becomes zeros first.
    pub zero_outside: Option<Range<u64>>,
    /// Where the first piece goes; the others follow.
    pub offset: u64,
    /// What is copied.
    pub pieces: &'a [&'a [u8]],
    /// Writes counted on the slab from now on; none: as before.
    pub writes: Option<u64>,
}

/// All slabs of all classes under one limit.
///
/// Allocation and free are O(1) in the number of slabs. All methods may be called from any thread.
#[derive(Debug)]
pub struct Heap {
    /// Ascending by size.
    classes: Box<[Class]>,
    /// Bytes held by slabs, free ones included.
    budget: Budget,
    /// Bytes granted: in clients' hands, held by readers, or promised. Under the same limit: whoever takes from it has
    /// been granted its room, and whoever cannot is refused. Nothing else decides.
    in_use: Budget,
    scarce: Scarce,
    /// The most that was ever in use.
    peak_in_use_bytes: AtomicU64,
    /// Told when bytes in use or a hold on a slab went; see [`Heap::when_room_is_freed`].
    room_freed: OnceLock<RoomFreed>,
    /// Freed by their client, still held by a reader. Approximate only between the two halves of a free.
    draining_bytes: AtomicU64,
    /// What was found to be damaged.
    hardening: Hardening,
}

/// Share of the pool that may be made ready at start: one part in ten.
const PREWARM_SHARE: u64 = 10;

impl Heap {
    /// Reserves address space for every class and makes the first slabs ready. Uses no memory but for records,
    /// unless `prefault` is set.
    ///
    /// # Errors
    /// [`HeapError`] where a class breaks a rule or address space cannot be had.
    pub fn new(config: &Config) -> Result<Heap, HeapError> {
        let limit = config.max_pool_size;
        let mut sizes = config.slab_sizes.clone();
        sizes.sort_unstable();
        let refuse = |size_bytes, rule| Err(HeapError::Class { size_bytes, rule });
        if sizes.len() > 255 {
            return refuse(sizes[255], "there are more than 255 classes");
        }
        for (at, &size) in sizes.iter().enumerate() {
            if size == 0 || !size.is_multiple_of(8) {
                return refuse(size, "a class size is a multiple of 8 above 0");
            }
            if at > 0 && sizes[at - 1] == size {
                return refuse(size, "the class stands twice");
            }
        }
        if sizes.first().is_none_or(|smallest| *smallest > limit) {
            return Err(HeapError::NoClass { limit_bytes: limit });
        }
        let protection = Protection::new(config);
        let classes = sizes
            .iter()
            .map(|&size| {
                let max_free = config.classes.get(&size).and_then(|class| class.max_free);
                Class::reserve(size, limit / size, max_free, &protection)
            })
            .collect::<Result<_, OsError>>()?;
        let heap = Heap {
            classes,
            budget: Budget::new(limit),
            in_use: Budget::new(limit),
            scarce: Scarce::default(),
            peak_in_use_bytes: AtomicU64::new(0),
            room_freed: OnceLock::new(),
            draining_bytes: AtomicU64::new(0),
            hardening: Hardening::new(config.canaries),
        };
        heap.prewarm(config);
        Ok(heap)
    }

    /// Makes slabs ready, smallest class first, until a tenth of the pool is held. What cannot be had is left out:
    /// it is only a head start.
    fn prewarm(&self, config: &Config) {
        let bytes_max = self.budget.limit() / PREWARM_SHARE;
        for class in &self.classes {
            let exception = config.classes.get(&class.slab_bytes()).and_then(|class| class.initial);
            let wanted = u64::from(exception.unwrap_or(config.initial_slabs_per_size)).min(class.max_free());
            let mut account = class.lock();
            let mut is_enough = false;
            for _ in 0..wanted {
                is_enough = self.budget.held() + class.slab_bytes() > bytes_max
                    || !self.budget.take(class.slab_bytes());
                if is_enough {
                    break;
                }
                if class.add_fresh(&mut account).is_err() {
                    self.budget.give_back(class.slab_bytes());
                    is_enough = true;
                    break;
                }
            }
            if config.prefault {
                // Without its pages the slab works all the same: they come at the first write.
                let _ = class.slabs().populate(0..account.fresh());
            }
            if is_enough {
                return;
            }
        }
    }

    /// Bytes of records about slabs when every slab of every class was held at least once.
    pub fn metadata_bytes_max(&self) -> u64 {
        self.classes.iter().map(Class::metadata_bytes_max).sum()
    }

    /// The smallest class that holds `size_bytes`, with its slab size; none where the largest is too small.
    pub fn class_for(&self, size_bytes: u64) -> Option<(SizeClass, u64)> {
        let at = self.classes.partition_point(|class| class.slab_bytes() < size_bytes);
        let number = u8::try_from(at).expect("`new` allows at most 255 classes");
        self.classes.get(at).map(|class| (SizeClass(number), class.slab_bytes()))
    }

    /// Size of the largest class, in bytes.
    pub fn largest_class_bytes(&self) -> u64 {
        self.classes.last().expect("`new` requires a class").slab_bytes()
    }

    /// Size of the largest class that `bytes` leave room for, if any does.
    pub fn largest_class_within(&self, bytes: u64) -> Option<u64> {
        self.classes.iter().rev().map(Class::slab_bytes).find(|size| *size <= bytes)
    }

    /// Size of the smallest class, in bytes.
    pub fn smallest_class_bytes(&self) -> u64 {
        self.classes[0].slab_bytes()
    }

    /// The hard limit, in bytes.
    pub fn limit_bytes(&self) -> u64 {
        self.budget.limit()
    }

    /// Bytes in use now. Exact, and cheap: one load.
    pub fn in_use_bytes(&self) -> u64 {
        self.in_use.held()
    }

    /// Bytes that could be granted now.
    pub fn free_bytes(&self) -> u64 {
        self.limit_bytes() - self.in_use_bytes()
    }

    /// Bytes of freed blocks that a reader still holds.
    pub fn draining_bytes(&self) -> u64 {
        self.draining_bytes.load(Ordering::Relaxed)
    }

    /// Gives out a slab of `class`, all zeros, with the caller as its only holder.
    ///
    /// # Errors
    /// [`AllocateError::Exhausted`] if, and only if, at one instant during the call the bytes in use and the slab
    /// together exceeded the limit; free slabs of any class never stand in the way. [`AllocateError::System`] where
    /// the system grants no pages. Nothing changed in either case.
    #[inline]
    pub fn allocate(&self, class: SizeClass) -> Result<SlabLocation, AllocateError> {
        let bytes = self.classes[usize::from(class.0)].slab_bytes();
        self.grant(bytes)?;
        self.back(class).inspect_err(|_| self.give_back(bytes))
    }

    /// Turns granted bytes into a slab of `class`, all zeros unless it is damaged, with the caller as its only holder.
    #[inline]
    fn back_unseen(&self, class: SizeClass) -> Result<SlabLocation, AllocateError> {
        let room = &self.classes[usize::from(class.0)];
        let mut account = room.lock();
        // Read under the class's lock: see scarce.rs.
        if !self.scarce.is_raised()
            && let Some(index) = room.take_free(&mut account)
        {
            return Ok(SlabLocation::new(class, index));
        }
        drop(account);
        self.back_fresh(class)
    }

    /// The class has no free slab: takes fresh bytes from the budget, or goes the scarce path.
    #[cold]
    fn back_fresh(&self, class: SizeClass) -> Result<SlabLocation, AllocateError> {
        let room = &self.classes[usize::from(class.0)];
        let size = room.slab_bytes();
        {
            let mut account = room.lock();
            if !self.scarce.is_raised() && self.budget.take(size) {
                let taken = self.take_fresh(room, &mut account);
                return taken
                    .map(|index| SlabLocation::new(class, index))
                    .map_err(|error| AllocateError::System { requested_bytes: size, error });
            }
        }
        self.back_scarce(class)
    }

    /// Turns bytes just taken from the budget into a slab in the caller's hands; gives them back where that fails.
    fn take_fresh(&self, room: &Class, account: &mut Account) -> Result<u64, OsError> {
        match room.add_fresh(account) {
            // Not necessarily the slab just added: another may have become free, at a lower index.
            Ok(_) => Ok(room.take_free(account).expect("a slab was just added under this lock")),
            Err(error) => {
                self.budget.give_back(room.slab_bytes());
                Err(error)
            }
        }
    }

    /// The client that allocated the slab frees it: drops its hold. Where readers still hold the slab, its bytes stay
    /// in use, and are counted as draining, until the last of them is gone.
    ///
    /// # Panics
    /// If nobody holds the slab.
    pub fn free(&self, location: SlabLocation) {
        if self.has_readers(location) {
            self.begin_draining(location);
        }
        self.release(location);
    }

    /// Drops one hold on a slab. The last one scrubs it and makes it free.
    fn release(&self, location: SlabLocation) {
        let room = &self.classes[usize::from(location.class().0)];
        let (slabs, index) = (room.slabs(), location.index());
        let Some(access) = slabs.record(index).release() else {
            return self.tell_room_freed(); // a write may wait for just this reader
        };
        // From here on the slab is nobody's. It leaves `in_use` before it is zeroed: what is being scrubbed is free
        // memory, and a request that needs it waits for it instead of being refused.
        if access.is_damaged() {
            return self.retire_released(location, access);
        }
        let bytes = slabs.slab_bytes();
        if access.was_draining() {
            self.draining_bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        let mut account = room.lock();
        room.begin_scrub(&mut account);
        self.return_granted(bytes);
        if access.dirty() != 0 {
            drop(account); // zeroing up to 4 MiB is no work for a lock that others want
            slabs.scrub(index, &access);
            account = room.lock();
        }
        access.make_free();
        let surplus = room.end_scrub(&mut account, index);
        drop(account);
        if surplus > 0 {
            self.budget.give_back(surplus);
        }
        self.scarce.wake();
        self.tell_room_freed();
    }

    /// Size of the slab at `location`, in bytes.
    pub fn slab_bytes(&self, location: SlabLocation) -> u64 {
        self.slabs(location).0.slab_bytes()
    }

    /// Changes the bytes of a slab that nobody else holds: readers see all of `edit` or nothing of it.
    ///
    /// # Errors
    /// [`AccessError`] where the slab is free or others hold it; nothing was changed.
    ///
    /// # Panics
    /// If a piece does not fit into the slab.
    pub fn edit(&self, location: SlabLocation, edit: &Edit<'_>) -> Result<(), AccessError> {
        let (slabs, index) = self.slabs(location);
        let change = slabs.change(index)?;
        if let Some(kept) = &edit.zero_outside {
            change.zero_outside(kept.clone());
        }
        let mut offset = edit.offset;
        for piece in edit.pieces {
            change.copy(offset, piece);
            offset += piece.len() as u64;
        }
        let writes = edit.writes.unwrap_or_else(|| change.writes());
        change.end(writes);
        Ok(())
    }

    /// Writes counted on a slab since it was allocated.
    pub fn writes(&self, location: SlabLocation) -> u64 {
        let (slabs, index) = self.slabs(location);
        slabs.record(index).writes()
    }

    /// The class's slabs and the index in it that a location names.
    fn slabs(&self, location: SlabLocation) -> (&Slabs, u64) {
        (self.classes[usize::from(location.class().0)].slabs(), location.index())
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests;
