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
pub type Buffer = memory::Buffer<PoolHome>;

/// The bucket that a buffer goes back to.
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
    fn take_back(&self, block: Block<'static>, written_bytes: usize) {
        self.line.take_back(self.bucket, block, written_bytes);
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
        let (line, old) = (self.home().line.clone(), self.home().bucket);
        let bucket = line.bucket_for(size_bytes)?;
        let block = line.take(bucket)?;
        line.buckets[old].outgrown.fetch_add(1, Ordering::Relaxed);
        self.move_to(block, PoolHome::new(line, bucket));
        Ok(())
    }

    /// Sees to it that there is room for `additional` bytes behind the content: by moving the content to the beginning if
    /// that is enough, else by growing, to twice the size if there are such buffers.
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
        if needed <= self.capacity() {
            self.compact();
            return Ok(());
        }
        let doubled = (GROWTH_FACTOR * self.capacity()).min(self.home().line.largest_bytes());
        self.grow(needed.max(doubled))
    }
}
