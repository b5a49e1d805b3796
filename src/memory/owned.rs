//! Slabs as plain memory: a [`Block`] is bytes that its owner reads and writes like any other, and that are freed when it
//! is dropped.
//!
//! While a slab is owned nobody else gets in: no reader, no move. So its bytes stay where they are, and a pointer to them
//! may be given to foreign code as long as the block lives.

use super::bytes::OwnedSlab;
use super::{AllocateError, Heap, SizeClass, SlabLocation, Violation, page_size};
use bytes::Bytes;
use std::fmt;
use std::ops::{Deref, DerefMut, Range};
use std::sync::Arc;

impl Heap {
    /// A block of `size_bytes`, for as long as the heap is borrowed: a slab of the smallest class that holds it, or above
    /// the largest class whole pages, in one piece.
    ///
    /// ```
    /// use maas::memory::{Config, Heap};
    ///
    /// let heap = Heap::new(&Config::default())?;
    /// let mut block = heap.block(3000)?;
    /// block[..5].copy_from_slice(b"hello");
    /// assert_eq!((block.len(), block.slab_bytes()), (3000, 4096));
    /// drop(block); // zeroed, and free for the next
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`BlockError`] where the limit is smaller than the block, and where [`Heap::allocate`] refuses. Above the largest class
    /// also [`AllocateError::System`] where no free range of addresses is as long; there are twice as many as the limit.
    #[inline(always)] // see `Block::new`
    pub fn block(&self, size_bytes: u64) -> Result<Block<'_>, BlockError> {
        Block::new(HeapRef::Borrowed(self), size_bytes)
    }

    /// As [`Heap::block`], of a block that keeps the heap alive: it can be sent anywhere, and stay as long as it likes. That
    /// is a count that all threads share, which costs some nanoseconds more where many allocate at once.
    ///
    /// ```
    /// use maas::memory::{Config, Heap};
    /// use std::sync::Arc;
    ///
    /// let heap = Arc::new(Heap::new(&Config::default())?);
    /// let mut block = heap.shared_block(100)?;
    /// block.write(0, b"sent without a copy");
    /// let length = std::thread::spawn(move || block.into_bytes().slice(5..12).len()).join();
    /// assert_eq!((length.ok(), heap.in_use_bytes()), (Some(7), 0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Heap::block`].
    #[inline(always)] // see `Block::new`
    pub fn shared_block(self: &Arc<Self>, size_bytes: u64) -> Result<Block<'static>, BlockError> {
        Block::new(HeapRef::Shared(Arc::clone(self)), size_bytes)
    }

    /// Gives out a slab as plain memory: all zeros, unless slabs are not zeroed when they are freed.
    #[inline]
    pub(crate) fn take_owned(&self, class: SizeClass) -> Result<OwnedSlab, AllocateError> {
        match self.take_owned_ready(class) {
            Some(owned) => Ok(owned),
            None => self.allocate(class).map(|location| self.own(location)),
        }
    }

    /// As [`Heap::take_owned`], of what the thread's magazine has; none where it has none, and nothing changed then.
    #[inline]
    pub(crate) fn take_owned_ready(&self, class: SizeClass) -> Option<OwnedSlab> {
        self.take_owned_from_magazine(class)
    }

    // This and the next: what `Block::new` and its drop call, with all of it in registers.
    #[inline(never)]
    fn ready_block(&self, class: SizeClass) -> Option<OwnedSlab> {
        self.take_owned_ready(class)
    }

    #[inline(never)]
    fn free_block(&self, class: SizeClass, slab: OwnedSlab, len: u64) -> bool {
        self.free_owned(class, slab, len)
    }

    /// Whole pages for a block that no class holds.
    #[cold]
    fn large_block(&self, size_bytes: u64) -> Result<OwnedSlab, BlockError> {
        let size_bytes_max = self.limit_bytes() - self.limit_bytes() % page_size();
        if size_bytes > size_bytes_max {
            let size_bytes_max =
                size_bytes_max.max(self.largest_class_within(self.limit_bytes()).unwrap_or(0));
            return Err(BlockError::TooLarge { size_bytes, size_bytes_max });
        }
        Ok(self.take_owned_run(size_bytes)?)
    }

    /// As [`Heap::take_owned`], of bytes that were granted before; they are still granted where this fails.
    pub(crate) fn back_owned(&self, class: SizeClass) -> Result<OwnedSlab, AllocateError> {
        self.back(class).map(|location| self.own(location))
    }

    /// Makes the caller, the only holder of a slab, its owner.
    #[inline]
    pub(crate) fn own(&self, location: SlabLocation) -> OwnedSlab {
        let (slabs, index) = self.slabs(location);
        // Only one who edits it by a guess of where it lies can be in the way, and only for the length of that.
        loop {
            if let Some(owned) = slabs.own(index) {
                return owned;
            }
            std::hint::spin_loop();
        }
    }

    /// The bytes of an owned slab of `class`.
    #[inline]
    pub(crate) fn owned_bytes<'a>(&'a self, class: SizeClass, slab: &'a OwnedSlab) -> &'a [u8] {
        self.slabs_of(class).owned(slab)
    }

    /// A part of the bytes of an owned slab of `class`, to be written.
    #[inline]
    pub(crate) fn owned_bytes_mut<'a>(
        &'a self,
        class: SizeClass,
        slab: &'a mut OwnedSlab,
        range: Range<u64>,
    ) -> &'a mut [u8] {
        self.slabs_of(class).owned_mut(slab, range)
    }

    /// Takes an owned slab of `class` back, of which so many bytes were its owner's. Whether what lies behind them was left
    /// alone; if not, the slab is retired.
    #[inline]
    pub(crate) fn free_owned(&self, class: SizeClass, slab: OwnedSlab, content_bytes: u64) -> bool {
        let (slabs, index) = (self.slabs_of(class), slab.index());
        let access = slabs.disown(slab);
        let is_undamaged = self.is_slack_zero(slabs, index, &access, content_bytes);
        if !is_undamaged {
            access.set_damaged();
            self.note_violation(Violation::Canary, SlabLocation::new(class, index));
            self.free_past_magazine(SlabLocation::new(class, index), access);
            return false;
        }
        if !self.zeroes_on_free {
            access.set_dirty(0); // what the last owner left is the next one's
        }
        match self.put_into_magazine(class, index, access) {
            None => self.tell_room_freed(),
            Some(access) => self.free_past_magazine(SlabLocation::new(class, index), access),
        }
        true
    }
}

/// Why a block cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// It can never be had, however empty the heap is.
    #[error("{size_bytes} bytes requested, the limit leaves room for {size_bytes_max} at most")]
    TooLarge {
        /// What was asked for.
        size_bytes: u64,
        /// Size of the largest block that there may be.
        size_bytes_max: u64,
    },
    /// There is no room now, or the system grants no memory.
    #[error(transparent)]
    Memory(#[from] AllocateError),
}

/// Who keeps the heap alive.
#[derive(Clone)]
pub(super) enum HeapRef<'h> {
    Borrowed(&'h Heap),
    Shared(Arc<Heap>),
}

impl Deref for HeapRef<'_> {
    type Target = Heap;

    #[inline]
    fn deref(&self) -> &Heap {
        match self {
            HeapRef::Borrowed(heap) => heap,
            HeapRef::Shared(heap) => heap,
        }
    }
}

/// Bytes of one slab, or of a run of pages, owned: `&[u8]` and `&mut [u8]` of the size that was asked for. Dropping it frees
/// them.
///
/// A block made by [`Heap::shared_block`] is `Block<'static>`: it can be sent to other threads and tasks, and made into
/// [`Bytes`] without a copy.
///
/// What is written costs zeroing when the block is freed. `&mut block[..]` counts as writing all of it, however little is;
/// [`Block::part_mut`] and [`Block::write`] count what they say, in 32nds of the slab. A large block is zeroed where it is
/// dropped, before that returns: 500 MiB that were written take some tens of milliseconds.
///
/// A block cannot outlive the heap that it borrows:
///
/// ```compile_fail,E0505
/// # use maas::memory::{Config, Heap};
/// let heap = Heap::new(&Config::default()).unwrap();
/// let block = heap.block(100).unwrap();
/// drop(heap);
/// println!("{}", block.len());
/// ```
///
/// nor be used when it was freed:
///
/// ```compile_fail,E0382
/// # use maas::memory::{Config, Heap};
/// let heap = Heap::new(&Config::default()).unwrap();
/// let block = heap.block(100).unwrap();
/// block.free().unwrap();
/// println!("{}", block.len());
/// ```
#[must_use = "a block that is dropped is free again"]
pub struct Block<'h> {
    heap: HeapRef<'h>,
    class: SizeClass,
    /// None once it is given back.
    slab: Option<OwnedSlab>,
    len: u64,
}

/// A slab was damaged by a write beyond its block's end: it is out of use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("something wrote beyond the end of a block of {size_bytes} bytes: its slab is retired")]
pub struct Damaged {
    /// The block's size.
    pub size_bytes: u64,
}

impl<'h> Block<'h> {
    // Inlined, so that the block is made where it is wanted: to copy it takes longer than much of the rest, which comes and
    // goes in registers.
    #[inline(always)]
    fn new(heap: HeapRef<'h>, size_bytes: u64) -> Result<Block<'h>, BlockError> {
        let Some((class, _)) = heap.class_for(size_bytes) else {
            let slab = Some(heap.large_block(size_bytes)?);
            return Ok(Block { heap, class: SizeClass::RUNS, slab, len: size_bytes });
        };
        let slab = match heap.ready_block(class) {
            Some(slab) => slab,
            None => heap.take_owned(class)?,
        };
        Ok(Block { heap, class, slab: Some(slab), len: size_bytes })
    }

    /// Bytes of the slab that it has, or of its pages: what it takes of the limit, at least as many as were asked for.
    pub fn slab_bytes(&self) -> u64 {
        self.heap.owned_len(self.class, self.slab.as_ref().expect("it lives"))
    }

    /// A part of the bytes, to be written; the rest does not count as written.
    ///
    /// # Panics
    /// If the range is outside of the block.
    #[inline]
    pub fn part_mut(&mut self, range: Range<usize>) -> &mut [u8] {
        let range = range.start as u64..range.end as u64;
        assert!(range.end <= self.len, "{range:?} is outside a block of {} bytes", self.len);
        self.heap.owned_bytes_mut(self.class, self.slab.as_mut().expect("it lives"), range)
    }

    /// Copies `bytes` to `offset`.
    ///
    /// # Panics
    /// If they do not fit.
    pub fn write(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset.checked_add(bytes.len()).expect("no slice ends there");
        self.part_mut(offset..end).copy_from_slice(bytes);
    }

    /// Frees the block, and says whether anything was written beyond its end. Dropping it does the same, and only logs it.
    ///
    /// # Errors
    /// [`Damaged`] where something was.
    pub fn free(mut self) -> Result<(), Damaged> {
        self.give_back()
    }

    #[inline]
    fn give_back(&mut self) -> Result<(), Damaged> {
        let Some(slab) = self.slab.take() else { return Ok(()) };
        let is_undamaged = self.heap.free_block(self.class, slab, self.len);
        if is_undamaged { Ok(()) } else { Err(Damaged { size_bytes: self.len }) }
    }
}

impl Block<'static> {
    /// The block as [`Bytes`], without a copy: it is freed with the last of them. Costs an allocation of Rust's own
    /// allocator, for the count of those who have it.
    pub fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl Deref for Block<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        let bytes = self.heap.owned_bytes(self.class, self.slab.as_ref().expect("it lives"));
        &bytes[..super::bytes::in_memory(self.len)]
    }
}

impl DerefMut for Block<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        self.part_mut(0..super::bytes::in_memory(self.len))
    }
}

impl AsRef<[u8]> for Block<'_> {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl AsMut<[u8]> for Block<'_> {
    fn as_mut(&mut self) -> &mut [u8] {
        self
    }
}

/// Its size and its slab; never its bytes, which may be secret.
impl fmt::Debug for Block<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Block").field("len", &self.len).field("slab", &self.slab).finish_non_exhaustive()
    }
}

impl Drop for Block<'_> {
    #[inline]
    fn drop(&mut self) {
        let _ = self.give_back(); // a damaged slab was logged where it was found
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests;
