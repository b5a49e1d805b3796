//! Buffers: a block that is filled at its end and read from its beginning, in the words of the `bytes` crate.
//!
//! ```text
//!   0          start             end               written          capacity
//!   │ was read │ unread content │ room, was written │ room, untouched │
//! ```
//!
//! [`Buf`] is the unread content, [`bytes::BufMut`] the room (its unsafe half stands in `bytes.rs`). When all is read, the
//! room is the whole block again. Where a buffer goes when it is dropped is its [`Home`]'s to say: back to the heap, or
//! to a pool.
//!
//! Only content can be read, and only what was declared to be written is content: nothing that an earlier owner left can
//! be seen through a buffer, whatever its home does about zeroing.

use super::Block;
use bytes::{Buf, Bytes};
use std::fmt;
use std::ops::{Deref, DerefMut};

/// Where a buffer's block goes when the buffer is dropped. Public only because [`Buffer`] names it; nobody else can make a
/// buffer with a home of its own, so the documentation leaves it out.
#[doc(hidden)]
pub trait Home {
    /// Takes the block back. Of its bytes the first `written_bytes` were declared written since the buffer was made. Where
    /// `was_lent`, a writer had all that lies behind them in its hands too, and may have written there undeclared.
    fn take_back(&self, block: Block<'static>, written_bytes: usize, was_lent: bool);
}

/// Back to the heap, which zeroes what was lent for writing.
impl Home for () {
    #[inline]
    fn take_back(&self, block: Block<'static>, _written_bytes: usize, _was_lent: bool) {
        drop(block);
    }
}

/// A block that is filled at its end and read from its beginning: a [`Buf`] of its unread content and a
/// [`BufMut`](bytes::BufMut) of its room.
///
/// This is the buffer of one [`Heap`](super::Heap)'s block, which is freed in the end and cannot grow. One of a pool, which
/// goes back to it and grows, is a [`slab::Buffer`](crate::slab::Buffer): the same type with another end.
///
/// ```
/// use bytes::{Buf, BufMut};
/// use maas::memory::{Buffer, Config, Heap};
/// use std::sync::Arc;
///
/// let heap = Arc::new(Heap::new(&Config::default())?);
/// let mut buffer = Buffer::from(heap.shared_block(4096)?);
/// buffer.put_slice(b"hello");
/// assert_eq!((&buffer[..], buffer.remaining_mut()), (&b"hello"[..], 4091));
/// buffer.advance(5);
/// assert_eq!((buffer.len(), buffer.remaining_mut()), (0, 4096));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a buffer that is dropped is given back"]
pub struct Buffer<H: Home = ()> {
    /// None once it went home.
    block: Option<Block<'static>>,
    home: H,
    capacity: usize,
    start: usize,
    end: usize,
    /// The most that `end` ever was.
    written: usize,
    /// Room was ever lent to a writer.
    was_lent: bool,
}

impl<H: Home> Buffer<H> {
    /// An empty buffer of a block, which goes to `home` in the end.
    #[inline]
    pub(crate) fn new(block: Block<'static>, home: H) -> Buffer<H> {
        let capacity = block.len();
        Buffer { block: Some(block), home, capacity, start: 0, end: 0, written: 0, was_lent: false }
    }

    #[inline]
    fn block(&self) -> &Block<'static> {
        self.block.as_ref().expect("it is here until it is dropped")
    }

    #[inline]
    fn block_mut(&mut self) -> &mut Block<'static> {
        self.block.as_mut().expect("it is here until it is dropped")
    }

    #[inline]
    pub(crate) fn home(&self) -> &H {
        &self.home
    }

    /// Bytes that it has in all: content, and room before and behind it.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes behind the content that can be filled.
    #[inline]
    pub fn room(&self) -> usize {
        self.capacity - self.end
    }

    /// Bytes before the content: they were read, and are room again once it is moved.
    #[inline]
    pub(crate) fn was_read(&self) -> usize {
        self.start
    }

    /// Forgets the content: all of it is room.
    pub fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
    }

    /// Moves the content to the beginning, so that all room is behind it: a copy of all content, where anything was read.
    pub fn compact(&mut self) {
        let (content, len) = (self.start..self.end, self.end - self.start);
        if content.start > 0 {
            self.block_mut().part_mut(0..content.end).copy_within(content, 0);
            (self.start, self.end) = (0, len);
        }
    }

    /// The content as [`Bytes`], without a copy: the buffer goes home with the last of them.
    ///
    /// The bytes' own Debug prints them.
    pub fn freeze(self) -> Bytes
    where
        H: Send + 'static,
    {
        match self.is_empty() {
            true => Bytes::new(),
            false => Bytes::from_owner(self),
        }
    }

    /// The room, to be filled.
    #[inline]
    pub(super) fn room_mut(&mut self) -> &mut [u8] {
        self.was_lent = true;
        let room = self.end..self.capacity;
        self.block_mut().part_mut(room)
    }

    /// The first bytes of the room, so many, are content from here on.
    ///
    /// # Panics
    /// If there is not as much room.
    #[inline]
    pub(super) fn add_filled(&mut self, count: usize) {
        let room = self.room();
        assert!(count <= room, "{count} bytes were filled into a room of {room}");
        self.end += count;
        self.written = self.written.max(self.end);
    }

    /// Goes on in another block that holds the content, with another home. The content is copied, and the block that it lay
    /// in goes home.
    ///
    /// # Panics
    /// If the content does not fit.
    pub(crate) fn move_to(&mut self, block: Block<'static>, home: H) {
        let mut larger = Buffer::new(block, home);
        let content: &[u8] = self;
        let len = content.len();
        larger.block_mut().part_mut(0..len).copy_from_slice(content);
        larger.add_filled(len);
        *self = larger;
    }
}

impl From<Block<'static>> for Buffer {
    fn from(block: Block<'static>) -> Buffer {
        Buffer::new(block, ())
    }
}

/// The unread content.
impl<H: Home> Deref for Buffer<H> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.block()[self.start..self.end]
    }
}

/// The unread content.
impl<H: Home> DerefMut for Buffer<H> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        let content = self.start..self.end;
        self.block_mut().part_mut(content)
    }
}

impl<H: Home> AsRef<[u8]> for Buffer<H> {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        self
    }
}

/// The unread content. When the last of it is read, all of the buffer is room again.
impl<H: Home> Buf for Buffer<H> {
    #[inline]
    fn remaining(&self) -> usize {
        self.end - self.start
    }

    #[inline]
    fn chunk(&self) -> &[u8] {
        self
    }

    #[inline]
    fn advance(&mut self, count: usize) {
        let len = self.remaining();
        assert!(count <= len, "{count} bytes were read of {len}");
        self.start += count;
        if self.start == self.end {
            self.clear();
        }
    }
}

/// Its sizes; never its bytes, which are somebody's.
impl<H: Home> fmt::Debug for Buffer<H> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Buffer")
            .field("len", &self.remaining())
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}

impl<H: Home> Drop for Buffer<H> {
    #[inline]
    fn drop(&mut self) {
        if let Some(block) = self.block.take() {
            self.home.take_back(block, self.written, self.was_lent);
        }
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests;
