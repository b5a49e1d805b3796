//! Arenas: many small pieces of memory that end together, in one step.
//!
//! ```text
//!   arena ─┬─ chunk │ piece │ piece │ … │ room │      whole pages, owned slabs of the heap
//!          ├─ chunk │ piece │ … │ room │
//!          └─ child ─── chunk │ piece │ … │           counts against its parent's limit, ends before it
//! ```
//!
//! A piece is cut off of the open chunk by moving one address ([`super::bytes::Bump`]); nothing is noted of it, so it cannot
//! be freed by itself. An arena is one thread's: it needs no lock and no atomic.
//!
//! **Limits.** Cutting off compares with one number, the room. Without kin the room is as much of the open chunk as the limit
//! leaves. With a parent or a child it is nothing, so that each piece takes the longer way and is counted in every arena above:
//! the limits are exact, and who has no kin does not pay for that.

mod nesting;

pub use nesting::{ChildArena, Kin, Nested};

use super::bytes::{Bump, OwnedSlab, PIECE_ALIGN_BYTES};
use super::{AllocateError, Heap, HeapRef, SizeClass, page_size};
use nesting::{Ancestor, DEPTH_MAX};
use std::cell::Cell;
use std::fmt;
use std::sync::Arc;

/// Bytes of a chunk at least.
const CHUNK_BYTES_MIN: u64 = 4 << 10;
/// Bytes of a chunk at most, unless the first is to be longer, or one piece is.
const CHUNK_BYTES_MAX: u64 = 4 << 20;
/// A further chunk is this part of the first one at least …
const INITIAL_SHARE: u64 = 8;
/// … and this part of what is used, so that at most so much of a large arena lies idle.
const USED_SHARE: u64 = 64;

/// How much memory an arena begins with, and how much it may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArenaConfig {
    /// Bytes that are taken when it is made, rounded up to pages: what is expected to be enough. 0: none before the first
    /// piece. Default: 32 KiB.
    pub initial_bytes: u64,
    /// Bytes of its pieces, and of its children's, at most; above 0. Default: no limit but the heap's.
    pub limit_bytes: u64,
}

impl Default for ArenaConfig {
    fn default() -> ArenaConfig {
        ArenaConfig { initial_bytes: 32 << 10, limit_bytes: u64::MAX }
    }
}

/// Why an arena, or a piece of one, cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArenaError {
    /// A limit of 0 leaves room for nothing.
    #[error("an arena with a limit of 0 bytes was to be made")]
    ZeroLimit,
    /// There are as many arenas inside each other as there may be.
    #[error("an arena was to be made inside of {depth_max} others")]
    TooDeep {
        /// How many there may be.
        depth_max: u32,
    },
    /// The arena's limit leaves no room, or that of one it lies in.
    #[error("{requested_bytes} bytes requested of an arena, {used_bytes} of {limit_bytes} are used")]
    Limit {
        /// Bytes of the piece that was asked for, as it counts.
        requested_bytes: u64,
        /// Bytes used of the arena whose limit it is.
        used_bytes: u64,
        /// Its limit.
        limit_bytes: u64,
    },
    /// The heap has no room for a chunk, or the system grants no memory.
    #[error(transparent)]
    Memory(#[from] AllocateError),
}

/// What an arena gave back when it ended, or was reset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ArenaFreed {
    /// Bytes of its pieces, as they counted.
    pub freed_bytes: u64,
    /// How many pieces there were.
    pub freed_allocations: u64,
}

/// Memory for many things that end together: each piece costs moving an address, and all of them go at once, with the
/// arena.
///
/// Pieces are zeros, aligned to 16 bytes, and count as multiples of 16. They live as long as the arena is borrowed:
///
/// ```
/// use maas::memory::{ArenaConfig, Config, Heap};
///
/// let heap = Heap::new(&Config::default())?;
/// let mut transaction = heap.arena(ArenaConfig { initial_bytes: 64 << 10, limit_bytes: 4 << 20 })?;
/// let row = transaction.allocate(100)?;
/// let key = transaction.allocate_copy(b"customer 7")?;
/// row[..10].copy_from_slice(key);
/// let total = transaction.allocate_value(0_u64)?;
/// *total += row.len() as u64;
/// assert_eq!((*total, transaction.used_bytes(), transaction.allocations()), (100, 144, 3));
///
/// let savepoint = transaction.child(ArenaConfig { initial_bytes: 0, ..ArenaConfig::default() })?;
/// savepoint.allocate(1000)?;
/// assert_eq!(transaction.used_bytes(), 144 + 1008);
/// drop(savepoint); // rolled back: what it had is free
/// assert_eq!((transaction.used_bytes(), transaction.chunk_bytes()), (144, 65_536));
///
/// assert_eq!(transaction.reset().freed_allocations, 3); // empty, with its first chunk at hand
/// transaction.allocate(1)?;
/// assert_eq!(transaction.commit().freed_bytes, 16);
/// assert_eq!(heap.in_use_bytes(), 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// A piece cannot outlive its arena, nor a reset of it:
///
/// ```compile_fail,E0505
/// # use maas::memory::{ArenaConfig, Config, Heap};
/// # let heap = Heap::new(&Config::default()).unwrap();
/// let arena = heap.arena(ArenaConfig::default()).unwrap();
/// let row = arena.allocate(100).unwrap();
/// arena.commit();
/// row[0] = 1;
/// ```
///
/// ```compile_fail,E0502
/// # use maas::memory::{ArenaConfig, Config, Heap};
/// # let heap = Heap::new(&Config::default()).unwrap();
/// let mut arena = heap.arena(ArenaConfig::default()).unwrap();
/// let row = arena.allocate(100).unwrap();
/// arena.reset();
/// row[0] = 1;
/// ```
///
/// nor a child its parent:
///
/// ```compile_fail,E0505
/// # use maas::memory::{ArenaConfig, Config, Heap};
/// # let heap = Heap::new(&Config::default()).unwrap();
/// let arena = heap.arena(ArenaConfig::default()).unwrap();
/// let child = arena.child(ArenaConfig::default()).unwrap();
/// drop(arena);
/// child.allocate(100).unwrap();
/// ```
///
/// An arena can be sent to another thread, but is for one thread at a time, and a child stays with its parent:
///
/// ```compile_fail,E0277
/// # use maas::memory::{ArenaConfig, Config, Heap};
/// # let heap = Heap::new(&Config::default()).unwrap();
/// let arena = heap.arena(ArenaConfig::default()).unwrap();
/// std::thread::scope(|scope| scope.spawn(|| arena.allocate(100).map(|_| ())).join());
/// ```
///
/// ```compile_fail,E0277
/// # use maas::memory::{ArenaConfig, Config, Heap};
/// # let heap = Heap::new(&Config::default()).unwrap();
/// let arena = heap.arena(ArenaConfig::default()).unwrap();
/// let child = arena.child(ArenaConfig::default()).unwrap();
/// std::thread::scope(|scope| scope.spawn(move || drop(child)).join());
/// ```
#[must_use = "an arena that is dropped is rolled back"]
pub struct Arena<'h, K: Kin = ()> {
    bump: Bump<'h>,
    allocations: Cell<u64>,
    config: ArenaConfig,
    /// Bytes that the arenas inside it use.
    inside_bytes: Cell<u64>,
    /// Arenas right inside it.
    children: Cell<u32>,
    kin: K,
}

impl Heap {
    /// An arena, for as long as the heap is borrowed.
    ///
    /// # Errors
    /// [`ArenaError`] where the limit is 0, and where its first chunk is refused.
    pub fn arena(&self, config: ArenaConfig) -> Result<Arena<'_>, ArenaError> {
        Arena::new(HeapRef::Borrowed(self), config, ())
    }

    /// As [`Heap::arena`], of an arena that keeps the heap alive: it can be sent anywhere.
    ///
    /// # Errors
    /// As [`Heap::arena`].
    pub fn shared_arena(self: &Arc<Self>, config: ArenaConfig) -> Result<Arena<'static>, ArenaError> {
        Arena::new(HeapRef::Shared(Arc::clone(self)), config, ())
    }

    /// So many bytes, whole pages, in one piece: a slab where there is a class of just that size, for that is nearer.
    fn take_chunk(&self, bytes: u64) -> Result<(SizeClass, OwnedSlab), AllocateError> {
        match self.class_for(bytes) {
            Some((class, class_bytes)) if class_bytes == bytes => Ok((class, self.take_owned(class)?)),
            _ => Ok((SizeClass::RUNS, self.take_owned_run(bytes)?)),
        }
    }
}

fn whole_pages(bytes: u64) -> u64 {
    bytes.div_ceil(page_size()).saturating_mul(page_size())
}

impl<'h, K: Kin> Arena<'h, K> {
    fn new(heap: HeapRef<'h>, config: ArenaConfig, kin: K) -> Result<Arena<'h, K>, ArenaError> {
        if config.limit_bytes == 0 {
            return Err(ArenaError::ZeroLimit);
        }
        if let Some(above) = kin.above() {
            if above.depth() >= DEPTH_MAX {
                return Err(ArenaError::TooDeep { depth_max: DEPTH_MAX });
            }
            above.begin_child();
        }
        let arena = Arena {
            bump: Bump::new(heap),
            allocations: Cell::new(0),
            config,
            inside_bytes: Cell::new(0),
            children: Cell::new(0),
            kin,
        };
        // From here on it ends as every arena does.
        let room_bytes = arena.room_bytes();
        let room_bytes = room_bytes - room_bytes % PIECE_ALIGN_BYTES as u64; // of less there is no piece
        let first = whole_pages(config.initial_bytes.min(room_bytes));
        if first > 0 {
            let (class, slab) = arena.bump.heap().take_chunk(first)?;
            arena.bump.add(class, slab);
            if !arena.has_kin() {
                arena.open_room();
            }
        }
        Ok(arena)
    }

    /// A piece of so many bytes, all zeros.
    ///
    /// # Errors
    /// [`ArenaError::Limit`] if, and only if, the arena's limit or that of one it lies in would be exceeded;
    /// [`ArenaError::Memory`] where the heap has no room for the pages that it takes.
    #[inline]
    pub fn allocate(&self, size_bytes: usize) -> Result<&mut [u8], ArenaError> {
        self.allocate_by(size_bytes, |bump| bump.take(size_bytes))
    }

    /// A piece with these bytes.
    ///
    /// # Errors
    /// As [`Arena::allocate`].
    #[inline]
    pub fn allocate_copy(&self, bytes: &[u8]) -> Result<&mut [u8], ArenaError> {
        self.allocate_slice(bytes)
    }

    /// A piece with these values. Their type must be aligned to 16 bytes at most, or it does not compile.
    ///
    /// # Errors
    /// As [`Arena::allocate`].
    #[inline]
    pub fn allocate_slice<T: Copy>(&self, values: &[T]) -> Result<&mut [T], ArenaError> {
        self.allocate_by(size_of_val(values), |bump| bump.put(values))
    }

    /// A piece with this value. Its type must be aligned to 16 bytes at most, or it does not compile.
    ///
    /// # Errors
    /// As [`Arena::allocate`].
    #[inline]
    pub fn allocate_value<T: Copy>(&self, value: T) -> Result<&mut T, ArenaError> {
        self.allocate_slice(&[value]).map(|values| &mut values[0])
    }

    /// What `take` cuts off, which is so many bytes.
    #[inline(always)]
    fn allocate_by<'a, T: ?Sized>(
        &'a self,
        size_bytes: usize,
        take: impl Fn(&'a Bump<'h>) -> Option<&'a mut T>,
    ) -> Result<&'a mut T, ArenaError> {
        let piece = match take(&self.bump) {
            Some(piece) => piece,
            None => {
                self.make_room(size_bytes)?;
                take(&self.bump).expect("there is room now")
            }
        };
        self.allocations.set(self.allocations.get() + 1);
        Ok(piece)
    }

    /// Makes room for a piece. Where there is kin, for it alone, and counts it in the arenas above.
    #[inline(never)]
    fn make_room(&self, size_bytes: usize) -> Result<(), ArenaError> {
        // Behind the last whole multiple is more than any heap has: refused below.
        let bytes = size_bytes.checked_next_multiple_of(PIECE_ALIGN_BYTES).unwrap_or(usize::MAX);
        if self.bump.rest() >= bytes && self.let_cut_off(bytes) {
            return Ok(());
        }
        self.check(bytes as u64)?;
        if self.bump.rest() < bytes && !self.bump.reopen(bytes) {
            self.add_chunk(bytes as u64)?;
        }
        assert!(self.let_cut_off(bytes), "the limits were looked at");
        Ok(())
    }

    /// Lets so many bytes of the open chunk be cut off; false where a limit is in the way.
    #[inline]
    fn let_cut_off(&self, bytes: usize) -> bool {
        if bytes as u64 > self.config.limit_bytes - self.used_bytes()
            || !self.kin.above().is_none_or(|above| above.try_add(bytes as u64))
        {
            return false;
        }
        match self.has_kin() {
            true => self.bump.open(bytes),
            false => self.open_room(),
        }
        true
    }

    fn has_kin(&self) -> bool {
        self.kin.above().is_some() || self.children.get() > 0
    }

    /// Without kin: lets pieces be cut off as far as the limit allows.
    fn open_room(&self) {
        self.bump.open(usize::try_from(self.room_bytes()).unwrap_or(usize::MAX));
    }

    /// A further chunk, for a piece that there is no room for.
    #[cold]
    fn add_chunk(&self, bytes: u64) -> Result<(), ArenaError> {
        let heap = self.bump.heap();
        let enough = whole_pages(bytes);
        let grown = (self.config.initial_bytes / INITIAL_SHARE)
            .max(self.bump.used_bytes() as u64 / USED_SHARE)
            .clamp(CHUNK_BYTES_MIN, CHUNK_BYTES_MAX);
        let wanted = whole_pages(grown.min(self.room_bytes())).max(enough);
        let (class, slab) = match heap.take_chunk(wanted) {
            Err(_) if wanted > enough => heap.take_chunk(enough)?, // the heap is nearly full
            taken => taken?,
        };
        self.bump.add(class, slab);
        Ok(())
    }

    /// An arena inside this one: what it uses counts here too, and it ends before. Dropped, it is rolled back, and what this
    /// one has stays: a savepoint.
    ///
    /// While there is one, a piece of either costs some nanoseconds more, for it is counted in all arenas that it lies in.
    ///
    /// # Errors
    /// As [`Heap::arena`]; and [`ArenaError::TooDeep`] inside of 16.
    pub fn child(&self, config: ArenaConfig) -> Result<ChildArena<'_>, ArenaError> {
        Arena::new(HeapRef::Borrowed(self.bump.heap()), config, Nested::inside(self))
    }

    /// Bytes of its pieces, and of the arenas inside it: what its limit bounds.
    pub fn used_bytes(&self) -> u64 {
        self.bump.used_bytes() as u64 + self.inside_bytes.get()
    }

    /// Bytes that it takes of the heap: whole chunks; those of arenas inside it are theirs.
    pub fn chunk_bytes(&self) -> u64 {
        self.bump.chunk_bytes() as u64
    }

    /// Pieces since it was made or reset.
    pub fn allocations(&self) -> u64 {
        self.allocations.get()
    }

    /// What [`ArenaConfig::limit_bytes`] said.
    pub fn limit_bytes(&self) -> u64 {
        self.config.limit_bytes
    }

    /// Frees all pieces. The arena goes on, with its first chunk: what was used of that is zeroed now.
    pub fn reset(&mut self) -> ArenaFreed {
        let freed = self.freed();
        self.bump.reset();
        self.allocations.set(0);
        match self.kin.above() {
            Some(above) => above.subtract(freed.freed_bytes),
            None if !self.has_kin() => self.open_room(),
            None => {} // a child was forgotten: it is never over
        }
        freed
    }

    /// Ends the arena, whose work is done: all that it has is free, and zeroed. For memory this, [`Arena::rollback`] and
    /// dropping it are the same.
    pub fn commit(self) -> ArenaFreed {
        self.freed()
    }

    /// Ends the arena, whose work is given up: all that it has is free, and zeroed.
    pub fn rollback(self) -> ArenaFreed {
        self.freed()
    }

    fn freed(&self) -> ArenaFreed {
        let freed_bytes = self.bump.used_bytes() as u64;
        ArenaFreed { freed_bytes, freed_allocations: self.allocations.get() }
    }
}

impl<K: Kin> Drop for Arena<'_, K> {
    fn drop(&mut self) {
        if let Some(above) = self.kin.above() {
            above.subtract(self.used_bytes());
            above.end_child();
        }
    }
}

/// Its figures; never its bytes, which are somebody's.
impl<K: Kin> fmt::Debug for Arena<'_, K> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Arena")
            .field("used_bytes", &self.used_bytes())
            .field("chunk_bytes", &self.chunk_bytes())
            .field("allocations", &self.allocations())
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests;
