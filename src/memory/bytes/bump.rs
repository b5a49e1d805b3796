//! Pieces of owned slabs, cut off from front to back: what an arena gives out.
//!
//! ```text
//!   start             at                 end           chunk_end
//!   │ pieces, each one's │ may be cut off │ not yet let │
//! ```
//!
//! Slabs come in as *chunks* and leave only through `&mut self` or when all of it is dropped, so as long as a piece is
//! borrowed its chunk is here. No byte is cut off twice before that. What was cut off counts as written, from the moment
//! its chunk is given back: nobody but the pieces' owners looks at the bytes of an owned slab, so nobody can miss it before.

use super::{OwnedSlab, Slabs, in_memory};
use crate::memory::{Heap, HeapRef, SizeClass};
use std::cell::{Cell, RefCell};
use std::ptr::NonNull;

/// Each piece begins at a multiple of this, and takes whole ones: as much as any type of Rust's own needs.
pub(in crate::memory) const PIECE_ALIGN_BYTES: usize = 16;

/// An address inside a chunk, or where there is none.
#[derive(Clone, Copy)]
struct Place(NonNull<u8>);

// SAFETY: an address says nothing by itself. What lies there is used only through the `Bump` that has the chunk, which is
// sent along with it, and through the pieces that it lends, which know nothing of the address.
unsafe impl Send for Place {}

#[repr(align(16))]
struct Aligned;
const _: () = assert!(align_of::<Aligned>() == PIECE_ALIGN_BYTES);

impl Place {
    /// Where nothing is: pieces of no bytes may lie there.
    const NOWHERE: Place = Place(NonNull::<Aligned>::dangling().cast());

    /// Bytes from `before` to here.
    #[inline(always)]
    fn since(self, before: Place) -> usize {
        self.0.addr().get() - before.0.addr().get()
    }
}

/// A slab of which pieces are cut off.
struct Chunk {
    class: SizeClass,
    slab: OwnedSlab,
    start: Place,
    len: usize,
    /// What is cut off of it; of the open one [`Bump::at`] says that.
    used: usize,
}

/// All chunks. One is open, unless there is none.
#[derive(Default)]
struct Chunks {
    all: Vec<Chunk>,
    open: usize,
    /// Of those that were open before, the one that most is left of: a long piece that it had no room for has a chunk of its
    /// own meanwhile.
    spare: Option<usize>,
}

impl Chunks {
    fn rest_of(&self, chunk: usize) -> usize {
        self.all[chunk].len - self.all[chunk].used
    }
}

/// Slabs, and the one place where the next piece begins.
pub(in crate::memory) struct Bump<'h> {
    /// The next piece's. From `at` to `end` lie bytes of the open chunk that no piece has, a multiple of
    /// [`PIECE_ALIGN_BYTES`]; and so from `end` to `chunk_end`, though not a multiple. Without a chunk all are nowhere.
    at: Cell<Place>,
    /// Pieces may be cut off up to here.
    end: Cell<Place>,
    start: Cell<Place>,
    chunk_end: Cell<Place>,
    /// Cut off of all chunks but the open one.
    closed_used: Cell<usize>,
    /// All chunks together.
    chunk_bytes: Cell<usize>,
    chunks: RefCell<Chunks>,
    /// Keeps the chunks' memory alive: they are its slabs.
    heap: HeapRef<'h>,
}

impl Slabs {
    /// Where the bytes of an owned slab lie, and how many there are.
    fn owned_place(&self, slab: &OwnedSlab) -> (Place, usize) {
        let span = self.span(self.index_of(slab));
        let start = NonNull::new(self.region.address(&span)).expect("nothing is mapped at zero");
        (Place(start), in_memory(span.end - span.start))
    }
}

impl<'h> Bump<'h> {
    /// Without a chunk.
    pub(in crate::memory) fn new(heap: HeapRef<'h>) -> Bump<'h> {
        let nowhere = || Cell::new(Place::NOWHERE);
        Bump {
            at: nowhere(),
            end: nowhere(),
            start: nowhere(),
            chunk_end: nowhere(),
            closed_used: Cell::new(0),
            chunk_bytes: Cell::new(0),
            chunks: RefCell::default(),
            heap,
        }
    }

    pub(in crate::memory) fn heap(&self) -> &Heap {
        &self.heap
    }

    /// The next so many bytes, which are zeros; none where fewer may be cut off.
    #[expect(clippy::mut_from_ref, reason = "each byte is lent once: see the SAFETY comments")]
    #[inline(always)]
    pub(in crate::memory) fn take(&self, bytes: usize) -> Option<&mut [u8]> {
        let at = self.at.get();
        let room = self.end.get().since(at);
        if bytes > room {
            return None;
        }
        let whole = bytes.next_multiple_of(PIECE_ALIGN_BYTES);
        debug_assert!(whole <= room, "the room is such a multiple too: see `at`");
        // SAFETY: so many bytes lie between `at` and `end`, by the lines above, and so in the open chunk; or it is none at
        // all.
        self.at.set(Place(unsafe { at.0.add(whole) }));
        // SAFETY: they belong to a slab that was claimed, and so committed, and that is initialised, all zeros. Its one
        // `OwnedSlab` is in `chunks` until somebody has `self` mutably or for good, and so longer than the slice; nobody else
        // has a way to its bytes. No piece before had these, for each begins where the one before it ended, and none after
        // gets them, by the line above.
        Some(unsafe { std::slice::from_raw_parts_mut(at.0.as_ptr(), bytes) })
    }

    /// Values in the next bytes; none where too few may be cut off.
    #[expect(clippy::mut_from_ref, reason = "as in `take`")]
    #[inline(always)]
    pub(in crate::memory) fn put<T: Copy>(&self, values: &[T]) -> Option<&mut [T]> {
        const { assert!(align_of::<T>() <= PIECE_ALIGN_BYTES, "no piece is aligned for that type") };
        let piece = self.take(size_of_val(values))?;
        assert_eq!(piece.len(), size_of_val(values));
        let place = piece.as_mut_ptr().cast::<T>();
        // SAFETY: the piece is as long as the values, by the line before, aligned for them, by the first, and lies in memory
        // that they do not: it is lent to us alone.
        unsafe { place.copy_from_nonoverlapping(values.as_ptr(), values.len()) };
        // SAFETY: as above; and so many values lie there now. They are Copy, so nothing is to be done when they end.
        Some(unsafe { std::slice::from_raw_parts_mut(place, values.len()) })
    }

    /// Bytes left of the open chunk, whether or not they may be cut off.
    #[inline]
    pub(in crate::memory) fn rest(&self) -> usize {
        self.chunk_end.get().since(self.at.get())
    }

    /// Lets so many bytes be cut off of the open chunk, or as many as it has; and whole pieces.
    #[inline]
    pub(in crate::memory) fn open(&self, bytes: usize) {
        let room = bytes.min(self.rest());
        let room = room - room % PIECE_ALIGN_BYTES;
        // SAFETY: no more than there is from `at` to the open chunk's end.
        self.end.set(Place(unsafe { self.at.get().0.add(room) }));
    }

    /// Cut off in all.
    #[inline]
    pub(in crate::memory) fn used_bytes(&self) -> usize {
        self.closed_used.get() + self.at.get().since(self.start.get())
    }

    /// Bytes of all chunks.
    pub(in crate::memory) fn chunk_bytes(&self) -> usize {
        self.chunk_bytes.get()
    }

    /// One chunk more, which is the open one now. Nothing may be cut off of it yet.
    ///
    /// # Panics
    /// If the slab is not the heap's, or not of that class.
    pub(in crate::memory) fn add(&self, class: SizeClass, mut slab: OwnedSlab) {
        if !self.heap.zeroes_on_free {
            let whole = 0..self.heap.owned_bytes(class, &slab).len() as u64;
            self.heap.owned_bytes_mut(class, &mut slab, whole).fill(0); // the last owner's, and nobody's business here
        }
        let (start, len) = self.heap.slabs_of(class).owned_place(&slab);
        assert!(start.0.addr().get().is_multiple_of(PIECE_ALIGN_BYTES), "chunks are whole pages");
        let mut chunks = self.chunks.borrow_mut();
        chunks.all.push(Chunk { class, slab, start, len, used: 0 });
        self.chunk_bytes.set(self.chunk_bytes.get() + len);
        let last = chunks.all.len() - 1;
        self.switch(&mut chunks, last);
    }

    /// Goes on in a chunk that was open before, if so many bytes are left there. Nothing may be cut off of it yet.
    pub(in crate::memory) fn reopen(&self, bytes: usize) -> bool {
        let mut chunks = self.chunks.borrow_mut();
        let spare = chunks.spare.filter(|spare| chunks.rest_of(*spare) >= bytes);
        if let Some(spare) = spare {
            chunks.spare = None;
            self.switch(&mut chunks, spare);
        }
        spare.is_some()
    }

    /// Makes another chunk the open one.
    fn switch(&self, chunks: &mut Chunks, next: usize) {
        let before = chunks.open;
        if before != next {
            chunks.all[before].used = self.at.get().since(self.start.get());
            let moved = self.closed_used.get() + chunks.all[before].used - chunks.all[next].used;
            self.closed_used.set(moved);
            let spares = [chunks.spare, Some(before)].into_iter().flatten();
            chunks.spare = spares.max_by_key(|chunk| chunks.rest_of(*chunk));
        }
        chunks.open = next;
        let Chunk { start, len, used, .. } = chunks.all[next];
        assert!(used <= len);
        // SAFETY: a chunk has `len` bytes from `start` on, and `used` of them, by the line above, are cut off: what is behind
        // them no piece has.
        let at = Place(unsafe { start.0.add(used) });
        // SAFETY: as above.
        let chunk_end = Place(unsafe { start.0.add(len) });
        self.start.set(start);
        self.at.set(at);
        self.end.set(at);
        self.chunk_end.set(chunk_end);
    }

    /// Gives all chunks back but the first, which reads as zeros again. Nothing may be cut off of it yet.
    pub(in crate::memory) fn reset(&mut self) {
        self.give_back_to(1);
        if let Some(mut first) = self.chunks.get_mut().all.pop() {
            // It counts as written from here on, and is zeroed once more when it is given back.
            self.heap.owned_bytes_mut(first.class, &mut first.slab, 0..first.used as u64).fill(0);
            self.add(first.class, first.slab);
        }
    }

    /// Gives chunks back until so many are left, the last one first: so who takes them again finds the first at hand. None
    /// is open then.
    fn give_back_to(&mut self, left: usize) {
        let Chunks { all, open, spare } = self.chunks.get_mut();
        if let Some(open) = all.get_mut(*open) {
            open.used = self.at.get().since(self.start.get());
        }
        (*open, *spare) = (0, None);
        for place in [&self.at, &self.end, &self.start, &self.chunk_end] {
            place.set(Place::NOWHERE);
        }
        self.closed_used.set(0);
        self.chunk_bytes.set(0);
        while all.len() > left
            && let Some(Chunk { class, mut slab, used, .. }) = all.pop()
        {
            let used = used as u64;
            let written = self.heap.owned_bytes_mut(class, &mut slab, 0..used); // counts as written from here on
            if !self.heap.zeroes_on_free {
                written.fill(0); // the padding of a value is no byte that the next owner may read
            }
            self.heap.free_owned(class, slab, used); // where something wrote behind it, that is counted and logged
        }
    }
}

impl Drop for Bump<'_> {
    fn drop(&mut self) {
        self.give_back_to(0);
    }
}
