//! Which bytes? Pages, size classes, slabs, slots: all memory of the pool, under one budget.
//!
//! The door is [`Heap`]: it gives out slabs by size class, lends their bytes to readers, and takes them back zeroed.
//! It knows no clients, no ids and no time, only how long a reclaim took.
//!
//! # For a program that embeds it
//!
//! [`Heap::block`] and [`Heap::shared_block`] give out [`Block`]s: plain bytes of the size that was asked for, freed when
//! they are dropped. [`Heap::arena`] gives out [`Arena`]s, whose many small pieces end together. [`Config`] says which sizes
//! there are and how much they may take together. Free memory of one size serves every other, so a block is refused only if
//! it and the bytes in use really exceed the limit.
//!
//! ```
//! use maas::memory::{BlockError, ClassConfig, Config, Heap};
//!
//! let heap = Heap::new(&Config {
//!     slab_sizes: vec![256, 4096, 65_536], // multiples of 8; a block takes the smallest that holds it
//!     max_pool_size: 1 << 20,              // the hard limit, in bytes, of all sizes together
//!     initial_slabs_per_size: 16,          // ready from the start, a tenth of the limit at most
//!     // One size that differs: no more than 8 free slabs of it are kept.
//!     classes: [(65_536, ClassConfig { max_free: Some(8), ..ClassConfig::default() })].into(),
//!     ..Config::default()                  // zeroed when freed, stray writes looked for, no guard pages
//! })?;
//!
//! let mut block = heap.block(3000)?;
//! assert!(block.iter().all(|byte| *byte == 0));
//! block.write(100, b"content"); // only a 32nd of the slab counts as written, and is zeroed later
//! block[..4].copy_from_slice(b"head"); // … and here all of it does: it was borrowed whole
//! assert_eq!((block.len(), block.slab_bytes(), heap.in_use_bytes()), (3000, 4096, 4096));
//! block.free()?; // as dropping it, but says whether anything wrote beyond its end
//!
//! assert_eq!(heap.block(500_000)?.slab_bytes(), 503_808); // larger than all sizes: whole pages, in one piece
//! assert!(matches!(heap.block(2 << 20), Err(BlockError::TooLarge { size_bytes_max: 0x10_0000, .. })));
//! let all: Vec<_> = (0..16).map(|_| heap.block(65_536)).collect::<Result<_, _>>()?;
//! assert!(matches!(heap.block(1), Err(BlockError::Memory(_))), "not a byte is left, whatever the size");
//! # drop(all);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | call | cost |
//! |---|---|
//! | [`Heap::new`] | address space for each class, and little memory: what it makes ready is touched only with `prefault` |
//! | [`Heap::block`], dropping a [`Block`] | O(1), from the thread's magazine: no system call, no clock, no log, no lock that threads share, no allocation of Rust's own allocator |
//! | the same past the magazine | O(1); the class's lock, once for some tens of blocks; fresh pages the first time |
//! | the same where only free slabs of other classes are left | takes their memory: milliseconds at worst, and it is not refused |
//! | [`Heap::block`] above the largest class | O(log n) in free runs of pages, under one lock; fresh pages the first time |
//! | [`Heap::arena`], and its end | a block for each of its chunks |
//! | [`Arena::allocate`] | moves an address; now and then takes a chunk |
//! | [`Heap::shared_block`], [`Heap::shared_arena`] | as [`Heap::block`], and a count that all threads share |
//! | zeroing when it is freed | what was written, by 32nds of the slab; more than 8 KiB past the magazine, outside of any lock |
//! | [`Block::into_bytes`] | one allocation of Rust's own allocator; each clone of the bytes a count |
//! | [`Heap::in_use_bytes`], [`Heap::free_bytes`] | a load for each CPU |
//! | [`Heap::stats`] | microseconds; each class's lock in turn |
//! | [`Heap::end_idle_interval`] and [`Heap::reclaim_idle_slice`] | give back to the system what lay free in between; nothing does that by itself |
//!
//! The other calls of [`Heap`] are the service's: they hand out places instead of bytes ([`SlabLocation`]), which readers
//! may share (`Pin`), and which grow and shrink with what was granted before.
//!
//! # For those who read the code
//!
//! ```text
//!   mod.rs     Heap: which class, and what there is
//!   allocate.rs  how a slab is given out
//!   free.rs    how it comes back
//!   grant.rs   who is granted room: the one place that refuses
//!   magazine.rs free slabs that one slot keeps ready
//!   depot.rs   batches of them on their way between slots            (lock-free, loom-tested)
//!   tiers.rs   how slabs move between magazines, depots and classes
//!   scarce.rs  the path taken when fresh bytes cannot be had: finds the memory for what was granted
//!   class.rs   one size class: free, held and reclaimed slabs
//!   reclaim.rs free slabs given back, to the budget and to the system
//!   compact.rs live slabs moved down, so that what is given back is whole pages
//!   adaptation.rs  how many slabs a class keeps held follows its use
//!   idle.rs    what nobody needed for a while is given back
//!   advice.rs  what clients say of how they use a block, passed on to the system
//!   pressure.rs  free memory that goes back at once, because the system or the pool gets full
//!   bytes.rs   the bytes of a class: copied in, lent, zeroed           (unsafe)
//!   owned.rs   slabs as plain memory: blocks of the library
//!   arena.rs   pieces that end together
//!   buffer.rs  blocks that are filled and read, for `bytes` and tokio
//!   reads.rs   what the holder of a slab reads
//!   large.rs   blocks larger than the largest class: segments of runs of pages
//!   runs.rs    free runs of pages, by address and by size: which of them a large block gets
//!   shape.rs   what a block is made of: a slab, or a run
//!   segment.rs the record that says who may touch a slab's bytes       (lock-free, loom-tested)
//!   location.rs  a slab's or a segment's place, in one word
//!   layout.rs  where slabs and guard pages lie: arithmetic
//!   dirty.rs   which 32nds of a slab were written
//!   hardening.rs  stray writes: how they are found, and what becomes of a damaged slab
//!   guard.rs   guard pages, and what is said of a hit
//!   drain.rs   slabs that were freed and are still read
//!   sizes.rs   the sizes that clients ask for, as a distribution
//!   size_table.rs  the class table that wastes least of them
//!   recommendation.rs  what they say about the configuration
//!   budget.rs  the hard limit                                          (lock-free, loom-tested)
//!   stats.rs   the heap's numbers
//!   os.rs      address space and pages                                 (unsafe)
//! ```
//!
//! Reading order: this file, then `class.rs`, `scarce.rs`, `segment.rs`, `bytes.rs`, `os.rs`.

mod adaptation;
mod advice;
mod allocate;
mod arena;
mod budget;
mod buffer;
mod bytes;
mod class;
mod compact;
pub mod config;
mod depot;
mod dirty;
mod drain;
mod free;
mod grant;
mod guard;
mod hardening;
mod idle;
mod index_set;
mod large;
mod layout;
mod location;
mod magazine;
mod os;
mod owned;
mod pressure;
mod reads;
mod reclaim;
mod recommendation;
mod runs;
mod scarce;
mod segment;
mod shape;
mod size_table;
mod sizes;
mod stats;
mod tiers;

pub use advice::{Advice, AdviceOutcome, AdviceStats};
pub use arena::{Arena, ArenaConfig, ArenaError, ArenaFreed, ChildArena, Kin, Nested};
pub use buffer::{Buffer, Home};
pub use class::ClassStats;
pub use compact::CompactionStats;
pub use config::{Adaptive, ClassConfig, Config, Fit, HugePages};
pub use hardening::{Swept, Violation};
pub use large::LargeStats;
pub use location::{SizeClass, SlabLocation};
pub use os::{OsError, page_size};
pub use owned::{Block, BlockError, Damaged};
pub use pressure::{ReclaimDepth, ReclaimSlice};
pub use reclaim::{ReclaimAction, ReclaimStats};
pub use recommendation::{Recommendation, Seen};
pub use segment::AccessError;
pub use size_table::{CLASSES_MAX, TableSearch, waste_ratio};
pub use sizes::{SIZE_BYTES_MAX, SizeCounts, SizeGroup};
pub use stats::{HeapStats, PathCounts};

pub(crate) use budget::Budget;
pub(crate) use bytes::OwnedSlab;
#[cfg(any(test, feature = "server"))]
pub(crate) use bytes::{Pin, ZEROS};
#[cfg(all(test, feature = "server", not(feature = "loom")))]
pub(crate) use os::faults;
pub(crate) use shape::{Backed, Shape};

use crate::slot::{self, PerSlot};
use adaptation::Keeping;
use advice::Advised;
use bytes::{Protection, Slabs};
use class::Class;
use compact::Compactor;
use grant::{Gate, RoomFreed};
use hardening::Hardening;
use large::Large;
use magazine::Rack;
use owned::HeapRef;
use pressure::Pressure;
use reclaim::Reclaimed;
use scarce::Scarce;
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

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
    /// Their slabs' sizes, side by side for the search.
    sizes: Box<[u64]>,
    /// Where the search begins: the smallest class for the smallest size of so many bits, less one.
    first_class: [u8; 65],
    /// Bytes held by slabs, free ones included.
    budget: Budget,
    /// Bytes granted: in clients' hands, held by readers, promised, or in a magazine. Under the same limit: whoever
    /// takes from it has been granted its room.
    in_use: Budget,
    /// Free slabs that each slot keeps ready.
    racks: PerSlot<Rack>,
    gate: Gate,
    scarce: Scarce,
    compactor: Compactor,
    reclaimed: Reclaimed,
    pressure: Pressure,
    advised: Advised,
    /// The most that was ever in use.
    peak_in_use_bytes: AtomicU64,
    /// Told when bytes in use or a hold on a slab went; see [`Heap::when_room_is_freed`].
    room_freed: OnceLock<RoomFreed>,
    /// Freed by their client, still held by a reader. Approximate only between the two halves of a free.
    draining_bytes: AtomicU64,
    /// Blocks larger than the largest class.
    large: Large,
    /// What was found to be damaged.
    hardening: Hardening,
    /// What owners wrote is zeroed when they give it back.
    zeroes_on_free: bool,
    adaptive: Adaptive,
}

impl Heap {
    /// Reserves address space for every class and makes the first slabs ready. Uses no memory but for records,
    /// unless `prefault` is set. The module has an example.
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
        let shards =
            config.shards_max.map_or(slot::count(), |shards| shards as usize).clamp(1, slot::count());
        let rounds_max = |size| {
            let class = config.classes.get(&size).copied().unwrap_or_default();
            magazine::rounds_max(size, limit, shards as u64, &class)
        };
        let protection = Protection::new(config);
        let classes = sizes
            .iter()
            .map(|&size| {
                let exception = config.classes.get(&size).copied().unwrap_or_default();
                let initial = exception.initial.unwrap_or(config.initial_slabs_per_size);
                let keeping = Keeping::new(size, limit, initial, &exception, &config.adaptive);
                Class::reserve(size, limit / size, exception.max_free, rounds_max(size), keeping, &protection)
            })
            .collect::<Result<_, OsError>>()?;
        let heap = Heap {
            classes,
            large: Large::new(config, &protection)?,
            budget: Budget::new(limit),
            in_use: Budget::new(limit),
            first_class: std::array::from_fn(|bits| {
                let least = if bits == 0 { 0 } else { 1 + (1_u64 << (bits - 1)) };
                let at = sizes.partition_point(|size| *size < least);
                u8::try_from(at).expect("there are at most 255 classes")
            }),
            sizes: sizes.clone().into(),
            racks: PerSlot::at_most(shards, |_| {
                Rack::new(sizes.iter().map(|&size| (size, rounds_max(size))))
            }),
            gate: Gate::default(),
            scarce: Scarce::default(),
            compactor: Compactor::default(),
            reclaimed: Reclaimed::default(),
            pressure: Pressure::default(),
            advised: Advised::new(config.allow_mergeable),
            peak_in_use_bytes: AtomicU64::new(0),
            room_freed: OnceLock::new(),
            draining_bytes: AtomicU64::new(0),
            hardening: Hardening::new(config.canaries && config.zero_on_free),
            zeroes_on_free: config.zero_on_free,
            adaptive: config.adaptive,
        };
        heap.prewarm(config);
        Ok(heap)
    }

    /// Bytes of records about slabs when every slab of every class was held at least once.
    pub fn metadata_bytes_max(&self) -> u64 {
        self.classes.iter().map(Class::metadata_bytes_max).sum::<u64>() + self.large.metadata_bytes_max()
    }

    /// The smallest class that holds `size_bytes`, with its slab size; none where the largest is too small.
    #[inline]
    pub fn class_for(&self, size_bytes: u64) -> Option<(SizeClass, u64)> {
        // One step where sizes are powers of two, and few more where they are not.
        let bits = u64::BITS - size_bytes.saturating_sub(1).leading_zeros();
        let mut number = self.first_class[bits as usize];
        loop {
            let slab_bytes = *self.sizes.get(usize::from(number))?;
            if slab_bytes >= size_bytes {
                return Some((SizeClass(number), slab_bytes));
            }
            number += 1;
        }
    }

    /// Sizes of the slabs of all classes, ascending.
    pub fn class_sizes(&self) -> &[u64] {
        &self.sizes
    }

    /// Size of the slabs of a class, in bytes.
    pub fn class_bytes(&self, class: SizeClass) -> u64 {
        self.sizes[usize::from(class.0)]
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

    /// Bytes in use now. Exact while no call is under way, and cheap: a load, and one for each slot.
    pub fn in_use_bytes(&self) -> u64 {
        let ready = self.magazine_bytes();
        self.in_use.held().saturating_sub(ready)
    }

    /// Bytes in use, and those that lie ready in magazines: never less than what is in use, and one load.
    pub(crate) fn granted_bytes(&self) -> u64 {
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

    /// Size of the slab at `location`, in bytes.
    #[inline]
    pub fn slab_bytes(&self, location: SlabLocation) -> u64 {
        match self.sizes.get(usize::from(location.class().0)) {
            Some(bytes) => *bytes,
            None => self.large.slabs().bytes_of(location.index()),
        }
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

    fn class(&self, class: SizeClass) -> &Class {
        &self.classes[usize::from(class.0)]
    }

    /// The class's slabs and the index in it that a location names.
    fn slabs(&self, location: SlabLocation) -> (&Slabs, u64) {
        (self.slabs_of(location.class()), location.index())
    }

    /// The slabs of a class, or the segments of runs.
    #[inline]
    fn slabs_of(&self, class: SizeClass) -> &Slabs {
        match self.classes.get(usize::from(class.0)) {
            Some(class) => class.slabs(),
            None => self.large.slabs(),
        }
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests;
