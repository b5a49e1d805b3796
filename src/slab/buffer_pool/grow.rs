//! Buffers of a pool: how they grow, and where they go in the end.

use super::{BufferError, Lifeline, Shared};
use crate::memory::{self, Block, Home};
use std::fmt;
use std::sync::atomic::Ordering;

/// A buffer that grows has at least so many times the bytes it had.
const GROWTH_FACTOR: usize = 2;

/// A buffer of a [`super::BufferPool`]. Dropped it is zeroed as far as it was written, and kept for the next user.
///
/// It is a [`bytes::Buf`] of its unread content and a [`bytes::BufMut`] of its room, and never grows by itself: tokio's
/// `read_buf` reads nothing, and says 0, where there is no room. [`Buffer::reserve`] makes room.
///
/// Without a pool, a block of a heap becomes a [`memory::Buffer`], the same type with another end: freed instead of kept,
/// and with neither `grow` nor `reserve`.
pub type Buffer = memory::Buffer<PoolHome>;

/// The bucket that a buffer goes back to. Public only because [`Buffer`] names it, so the documentation leaves it out.
#[doc(hidden)]
pub struct PoolHome {
    line: Lifeline<Shared>,
    bucket: usize,
}

impl PoolHome {
    #[inline]
    pub(super) fn new(line: Lifeline<Shared>, bucket: usize) -> PoolHome {
        PoolHome { line, bucket }
    }
}

impl Home for PoolHome {
    #[inline]
    fn take_back(&self, block: Block<'static>, written_bytes: usize, was_lent: bool) {
        let zeroed_bytes = if was_lent && self.line.zero_lent { block.len() } else { written_bytes };
        self.line.take_back(self.bucket, block, zeroed_bytes);
    }
}

impl fmt::Debug for PoolHome {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("PoolHome").field("bucket", &self.bucket).finish_non_exhaustive()
    }
}

impl Buffer {
    /// Sees to it that the buffer has `size_bytes` in all. Where it has less, its content moves into one of the smallest
    /// bucket that fits; the old one is zeroed and given back.
    ///
    /// # Errors
    /// [`BufferError`]; the buffer is then as it was.
    pub fn grow(&mut self, size_bytes: usize) -> Result<(), BufferError> {
        if size_bytes <= self.capacity() {
            return Ok(());
        }
        self.grow_into(size_bytes).map_err(|error| self.home().line.count_refused(error))
    }

    /// As [`Buffer::grow`], of a buffer that has less; a refusal is the caller's to count.
    fn grow_into(&mut self, size_bytes: usize) -> Result<(), BufferError> {
        let (line, old) = (self.home().line.clone(), self.home().bucket);
        let bucket = line.bucket_for(size_bytes)?;
        let block = line.take(bucket)?;
        line.buckets[old].outgrown.fetch_add(1, Ordering::Relaxed);
        self.move_to(block, PoolHome::new(line, bucket));
        Ok(())
    }

    /// Sees to it that there is room for `additional` bytes behind the content: by moving the content to the beginning
    /// where that is enough and at least as much was read as is left, else by growing, to twice the size if there are such
    /// buffers.
    ///
    /// So what it copies is, over many calls, in proportion to what was read and written: O(1) for each byte. Only where no
    /// larger buffer is to be had, because there is none or the pool has no room, content is moved however little was
    /// read: then a call can cost a copy of all content. A reader that keeps the largest buffers nearly full should ask for
    /// more room at a time, or the pool be given larger ones.
    ///
    /// ```
    /// # use bytes::BufMut;
    /// # use maas::slab::BufferPool;
    /// let pool = BufferPool::builder().build()?;
    /// let mut buffer = pool.acquire(4096)?;
    /// buffer.put_slice(&[1; 4000]);
    /// buffer.reserve(4000)?;
    /// buffer.put_slice(&[2; 4000]);
    /// assert_eq!((buffer.len(), buffer.capacity()), (8000, 16 << 10));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`BufferError`]; the content is then as it was.
    pub fn reserve(&mut self, additional: usize) -> Result<(), BufferError> {
        if additional <= self.room() {
            return Ok(());
        }
        let needed = self.len().saturating_add(additional);
        let fits = needed <= self.capacity();
        if fits && self.was_read() >= self.len() {
            self.compact();
            return Ok(());
        }
        let largest_bytes = self.home().line.largest_bytes();
        let size_bytes = needed.max((GROWTH_FACTOR * self.capacity()).min(largest_bytes));
        if !fits {
            return self.grow(size_bytes);
        }
        if size_bytes <= self.capacity() || self.grow_into(size_bytes).is_err() {
            self.compact(); // dear, but nobody is refused what there is room for
        }
        Ok(())
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests;
