//! Buffers for services that move bytes: [`BufferPool`] and its [`Buffer`]s.
//!
//! ```text
//!   mod        BufferPool: buckets of buffers of one size each, under one limit in bytes
//!   grow.rs    Buffer: how it grows into the next bucket, and goes back to its own
//!   chain.rs   BufferChain: many pieces read as one, each given back as soon as it is read
//!   adapt.rs   how many are kept: between bounds, by use
//!   builder.rs what can be set
//!   stats.rs   the pool's numbers
//! ```
//!
//! The bytes are slabs of a heap of the pool's own, so the limit holds at every instant. A bucket keeps blocks that were
//! used in an [`super::ObjectPool`]'s stock: they are not the heap's again before they are one too many, or another bucket
//! needs their bytes.
//!
//! What is zeroed when: a buffer that is given back, grown out of or dropped, from its beginning up to the last byte that
//! was ever declared written, before anybody else can have it. So 300 bytes in a buffer of 64 KiB cost zeroing of 300. What
//! a writer leaves behind what it declares is said at [`BufferPool`], and what [`BufferPoolBuilder::zero_lent`] does about it.
//!
//! What calls cost, with `n` buffers: [`BufferPool::acquire`] and giving back are O(1) in `n`, one lock that threads of other
//! CPUs rarely touch, and the zeroing. Each 16th buffer that a CPU's threads give back also reads the clock, and eight times
//! an interval one of them samples the use of each bucket: at most a millisecond of dropping and giving back pages.

mod adapt;
mod builder;
mod chain;
mod grow;
mod stats;

pub use adapt::KeptAdaptation;
pub use builder::{Bucket, BufferPoolBuilder, BufferPoolError};
pub use chain::{BufferChain, Piece};
pub use grow::{Buffer, PoolHome};
pub use stats::{BucketStats, BufferPoolStats};

use super::lifeline::{Lifeline, Lifelines};
use super::object_pool::{Stock, TakeError};
use crate::memory::{AllocateError, Block, BlockError, Heap};
use adapt::Adaptation;
use crossbeam_utils::CachePadded;
use parking_lot::Mutex;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Of so many buffers that are given back on one CPU, one looks whether it is time to adapt.
const RETURNS_PER_LOOK: u64 = 16;

/// Buffers of a few sizes, under one limit in bytes. Cloning it is cheap and gives the same pool.
///
/// What is zeroed: a buffer that is given back, as far as it was ever declared written, before anybody else can have it. Not
/// so what was written into [`chunk_mut`](bytes::BufMut::chunk_mut) and never declared by `advance_mut`, as by a decoder
/// that uses the room for scratch, or a read that failed half-way: that stays in memory until the block leaves the pool.
/// No safe code can read it through a later buffer, since only what was declared written is content; unsafe code that
/// declares what it did not write can, and so can whoever reads the memory of the process. Where that matters, for keys
/// and passwords, [`BufferPoolBuilder::zero_lent`] zeroes that too.
///
/// ```
/// use bytes::{Buf, BufMut};
/// use maas::slab::BufferPool;
///
/// let pool = BufferPool::builder().limit_bytes(16 << 20).build()?;
/// let mut buffer = pool.acquire(5000)?; // the smallest bucket that fits: 16 KiB
/// assert_eq!(buffer.capacity(), 16 << 10);
/// buffer.put_slice(b"GET / HTTP/1.1\r\n");
/// buffer.advance(4);
/// assert!(buffer.starts_with(b"/ HTTP"));
/// drop(buffer); // zeroed, and kept for the next
/// drop(pool.acquire(16 << 10)?);
/// assert_eq!(pool.stats().buckets[1].reuse_rate(), 0.5);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// With tokio a buffer is read into and written from as it is:
///
/// ```
/// use maas::slab::BufferPool;
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = BufferPool::builder().build()?;
/// let (mut from, mut to): (&[u8], Vec<u8>) = (b"some bytes", Vec::new());
/// let mut buffer = pool.buffer()?;
/// while from.read_buf(&mut buffer).await? > 0 {
///     to.write_all_buf(&mut buffer).await?;
/// }
/// assert_eq!(to, b"some bytes");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct BufferPool {
    lines: Lifelines<Shared>,
}

/// What the pool and its buffers share.
struct Shared {
    heap: Arc<Heap>,
    /// Ascending by size.
    buckets: Box<[BucketStock]>,
    initial_buffer_bytes: usize,
    /// See [`BufferPoolBuilder::zero_lent`].
    zero_lent: bool,
    /// Held by whoever drops what is kept: a block on its way to the heap must not look like one in use to another that
    /// would be refused for it.
    giving_up: Mutex<()>,
    /// On lines of its own: its lock is written now and then, what stands beside it is only read.
    adaptation: CachePadded<Adaptation>,
    /// Requests that were refused.
    refused: AtomicU64,
}

/// Buffers of one size.
struct BucketStock {
    size_bytes: usize,
    kept_min: usize,
    kept_max: usize,
    stock: Stock<Block<'static>>,
    /// Buffers that grew out of this bucket.
    outgrown: AtomicU64,
}

/// Why there is no buffer to be had.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BufferError {
    /// No bucket has buffers that large.
    #[error("a buffer of {size_bytes} bytes requested, the largest have {size_bytes_max}")]
    TooLarge {
        /// What was asked for.
        size_bytes: usize,
        /// Size of the largest bucket's.
        size_bytes_max: usize,
    },
    /// All buffers that the bucket may have are in use.
    #[error("all {buffers_max} buffers of {bucket_bytes} bytes are in use")]
    BucketExhausted {
        /// Size of the bucket's buffers.
        bucket_bytes: usize,
        /// The bucket's bound.
        buffers_max: usize,
    },
    /// The limit on bytes of all buffers leaves no room, or the system grants no memory.
    #[error("no buffer of {bucket_bytes} bytes: {error}")]
    Memory {
        /// Size of the bucket's buffers.
        bucket_bytes: usize,
        /// The numbers.
        error: AllocateError,
    },
    /// The pool was closed.
    #[error("the pool of buffers is closed")]
    Closed,
}

impl BufferPool {
    /// Buckets of 4, 16, 64 and 256 KiB and 256 MiB in all, unless it is told otherwise.
    pub fn builder() -> BufferPoolBuilder {
        BufferPoolBuilder::default()
    }

    fn new(shared: Shared) -> BufferPool {
        BufferPool { lines: Lifelines::new(shared) }
    }

    /// An empty buffer of the smallest bucket that holds `size_bytes`: one that is kept, else one that is made. Never waits.
    ///
    /// # Errors
    /// [`BufferError`], with the numbers. Buffers that are kept never stand in the way: they are given up, whatever
    /// their bucket, before a request is refused for the limit.
    #[inline]
    pub fn acquire(&self, size_bytes: usize) -> Result<Buffer, BufferError> {
        let line = self.lines.mine();
        let refused = |error| line.count_refused(error);
        let bucket = line.bucket_for(size_bytes).map_err(refused)?;
        let block = line.take(bucket).map_err(refused)?;
        Ok(Buffer::new(block, PoolHome::new(line.clone(), bucket)))
    }

    /// An empty buffer of the size that new connections begin with, 16 KiB unless the builder was told otherwise.
    ///
    /// # Errors
    /// As [`BufferPool::acquire`].
    #[inline]
    pub fn buffer(&self) -> Result<Buffer, BufferError> {
        self.acquire(self.lines.mine().initial_buffer_bytes)
    }

    /// Size of the largest bucket's buffers: no buffer grows beyond it.
    pub fn buffer_bytes_max(&self) -> usize {
        self.lines.mine().largest_bytes()
    }

    /// Looks how many buffers are in use, and where the interval is over by `now` adapts how many are kept. It is called by
    /// itself now and then when buffers are given back; a pool that lies idle adapts only if it is called.
    pub fn adjust(&self, now: Instant) {
        self.lines.mine().adjust(now);
    }

    /// Gives out nothing from now on, and gives up what is kept. Buffers in use work on, and are dropped when given back.
    pub fn close(&self) {
        let shared = self.lines.mine();
        let _giving_up = shared.giving_up.lock();
        shared.buckets.iter().for_each(|bucket| bucket.stock.close());
    }

    /// The pool's numbers: exact while no call is under way.
    pub fn stats(&self) -> BufferPoolStats {
        self.lines.mine().stats()
    }
}

impl fmt::Debug for BufferPool {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("BufferPool").field(&self.stats()).finish()
    }
}

impl Shared {
    #[inline]
    fn bucket_for(&self, size_bytes: usize) -> Result<usize, BufferError> {
        let found = self.buckets.iter().position(|bucket| bucket.size_bytes >= size_bytes);
        found.ok_or_else(|| self.too_large(size_bytes))
    }

    #[cold]
    fn too_large(&self, size_bytes: usize) -> BufferError {
        BufferError::TooLarge { size_bytes, size_bytes_max: self.largest_bytes() }
    }

    fn largest_bytes(&self) -> usize {
        self.buckets.last().expect("the builder requires a bucket").size_bytes
    }

    #[cold]
    fn count_refused(&self, error: BufferError) -> BufferError {
        self.refused.fetch_add(1, Ordering::Relaxed);
        error
    }

    /// A block of a bucket, all zeros as far as it was declared written.
    #[inline]
    fn take(&self, bucket: usize) -> Result<Block<'static>, BufferError> {
        match self.buckets[bucket].stock.take_kept() {
            Some(block) => Ok(block),
            None => self.take_or_make(bucket),
        }
    }

    #[cold]
    fn take_or_make(&self, bucket: usize) -> Result<Block<'static>, BufferError> {
        let (stock, bucket_bytes) = (&self.buckets[bucket].stock, self.buckets[bucket].size_bytes);
        stock.take_or_make(|| self.make_block(bucket)).map_err(|error| match error {
            TakeError::Exhausted { objects_max: buffers_max } => {
                BufferError::BucketExhausted { bucket_bytes, buffers_max }
            }
            TakeError::Closed => BufferError::Closed,
            TakeError::Make(error) => BufferError::Memory { bucket_bytes, error },
        })
    }

    /// A block fresh from the heap, for which others that are kept are given up if need be.
    fn make_block(&self, bucket: usize) -> Result<Block<'static>, AllocateError> {
        match self.fresh_block(bucket) {
            Err(AllocateError::Exhausted { .. }) => self.make_block_of_kept(bucket),
            decided => decided,
        }
    }

    #[cold]
    fn make_block_of_kept(&self, bucket: usize) -> Result<Block<'static>, AllocateError> {
        let _giving_up = self.giving_up.lock();
        loop {
            match self.fresh_block(bucket) {
                Err(AllocateError::Exhausted { .. }) if self.give_up_kept(bucket) => {}
                decided => return decided,
            }
        }
    }

    fn fresh_block(&self, bucket: usize) -> Result<Block<'static>, AllocateError> {
        self.heap.shared_block(self.buckets[bucket].size_bytes as u64).map_err(|error| match error {
            BlockError::Memory(error) => error,
            BlockError::TooLarge { .. } => unreachable!("the heap has a class for each bucket"),
        })
    }

    /// Gives up one buffer that is kept, for one of `bucket`: one that makes enough room by itself if there is any, else the
    /// largest. False where none is kept.
    fn give_up_kept(&self, bucket: usize) -> bool {
        let (smaller, others) = self.buckets.split_at(bucket);
        loop {
            if others.iter().chain(smaller.iter().rev()).any(|other| other.stock.give_up_one()) {
                return true;
            }
            // One may have been put where we had looked, and another been taken where we had not.
            if Stock::are_empty(self.buckets.iter().map(|bucket| &bucket.stock)) {
                return false;
            }
        }
    }

    /// Takes a block back, of which so many bytes are zeroed.
    #[inline]
    fn take_back(&self, bucket: usize, mut block: Block<'static>, zeroed_bytes: usize) {
        if zeroed_bytes > 0 {
            // Zeroing nothing is not free: on a page that was never touched it took 100 ns more, measured.
            block.part_mut(0..zeroed_bytes).fill(0);
        }
        let returned = self.buckets[bucket].stock.put(block);
        if returned.is_multiple_of(RETURNS_PER_LOOK) {
            self.adapt_if_due(Instant::now());
        }
    }

    fn stats(&self) -> BufferPoolStats {
        let buckets: Vec<BucketStats> = self.buckets.iter().map(BucketStock::stats).collect();
        let bytes = |count: fn(&BucketStats) -> usize| {
            buckets.iter().map(|bucket| bucket.size_bytes as u64 * count(bucket) as u64).sum()
        };
        BufferPoolStats {
            limit_bytes: self.heap.limit_bytes(),
            in_use_bytes: bytes(|bucket| bucket.in_use),
            kept_bytes: bytes(|bucket| bucket.kept),
            refused: self.refused.load(Ordering::Relaxed),
            buckets,
        }
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests;
