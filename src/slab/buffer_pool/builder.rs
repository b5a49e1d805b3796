//! What can be set about a pool of buffers.

use super::{Adaptation, BucketStock, BufferPool, KeptAdaptation, Shared};
use crate::memory::{Config, Heap, HeapError};
use crate::slab::object_pool::Stock;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

/// Sizes of the buckets, if none are given: for headers; requests and answers; larger ones; bulk transfer.
const BUCKET_BYTES: [usize; 4] = [4 << 10, 16 << 10, 64 << 10, 256 << 10];

/// Buffers of all buckets take at most so many bytes, if nothing is said.
const LIMIT_BYTES: u64 = 256 << 20;

/// Buffers of new connections have so many bytes, if nothing is said.
const INITIAL_BUFFER_BYTES: usize = 16 << 10;

/// Bytes of buffers that each bucket keeps at least, and at most, if nothing is said.
const KEPT_BYTES: (usize, usize) = (4 << 20, 40 << 20);

/// One bucket: buffers of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Size of the buffers: a multiple of 8.
    pub size_bytes: usize,
    /// Buffers made in advance, at most `kept_max`; their pages come with the first write. Default: 0.
    pub initial: usize,
    /// Buffers that may be kept in any case. At first it is as many, or `initial` if that is more. Default: as many as are
    /// 4 MiB, at least one.
    pub kept_min: usize,
    /// Buffers that may be kept when most are in use. Default: as many as are 40 MiB, at least one.
    pub kept_max: usize,
    /// Buffers that may exist, in use or kept. Default: as the limit on bytes allows.
    pub buffers_max: usize,
}

impl Bucket {
    /// A bucket of buffers of that size, all else as by default.
    pub fn of(size_bytes: usize) -> Bucket {
        let kept = |bytes: usize| (bytes / size_bytes.max(1)).max(1);
        Bucket {
            size_bytes,
            initial: 0,
            kept_min: kept(KEPT_BYTES.0),
            kept_max: kept(KEPT_BYTES.1),
            buffers_max: usize::MAX,
        }
    }

    /// The rule that it breaks, if it breaks one.
    fn broken_rule(&self) -> Option<&'static str> {
        if self.size_bytes == 0 || !self.size_bytes.is_multiple_of(8) {
            return Some("the size is a multiple of 8 above 0");
        }
        if self.kept_min > self.kept_max {
            return Some("kept_min is at most kept_max");
        }
        if self.buffers_max == 0 {
            return Some("buffers_max is above 0");
        }
        (self.initial > self.kept_max.min(self.buffers_max))
            .then_some("initial is at most kept_max and buffers_max")
    }

    /// Buffers that may be kept before anything is adapted.
    fn kept_at_first(&self) -> usize {
        self.kept_min.max(self.initial)
    }
}

impl From<usize> for Bucket {
    fn from(size_bytes: usize) -> Bucket {
        Bucket::of(size_bytes)
    }
}

/// Why a pool of buffers cannot be made.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum BufferPoolError {
    /// A bucket breaks a rule.
    #[error("bucket of {size_bytes} bytes: {rule}")]
    Bucket {
        /// The offending size.
        size_bytes: usize,
        /// The rule that it breaks.
        rule: &'static str,
    },
    /// There are no buckets, or none holds the buffers of new connections.
    #[error("no bucket holds {size_bytes} bytes")]
    NoBucket {
        /// What it should hold.
        size_bytes: usize,
    },
    /// The numbers of the adaptation make no sense.
    #[error("{adaptive:?} is no adaptation: uses are from 0 to 1, and factors to either side of 1")]
    Adaptive {
        /// These.
        adaptive: KeptAdaptation,
    },
    /// The memory cannot be had.
    #[error(transparent)]
    Memory(#[from] HeapError),
}

/// Makes a [`BufferPool`].
///
/// ```
/// use maas::slab::{Bucket, BufferPool};
///
/// let pool = BufferPool::builder()
///     .buckets([Bucket { initial: 100, ..Bucket::of(2048) }, Bucket { kept_max: 8, kept_min: 2, ..Bucket::of(1 << 20) }])
///     .limit_bytes(64 << 20)
///     .initial_buffer_bytes(2048)
///     .build()?;
/// assert_eq!((pool.stats().buckets[0].kept, pool.buffer_bytes_max()), (100, 1 << 20));
/// # Ok::<(), maas::slab::BufferPoolError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is made before `build`"]
pub struct BufferPoolBuilder {
    buckets: Vec<Bucket>,
    limit_bytes: u64,
    initial_buffer_bytes: usize,
    zero_lent: bool,
    adaptive: Option<KeptAdaptation>,
    memory: Config,
}

impl Default for BufferPoolBuilder {
    fn default() -> BufferPoolBuilder {
        BufferPoolBuilder {
            buckets: BUCKET_BYTES.map(Bucket::of).to_vec(),
            limit_bytes: LIMIT_BYTES,
            initial_buffer_bytes: INITIAL_BUFFER_BYTES,
            zero_lent: false,
            adaptive: Some(KeptAdaptation::default()),
            memory: Config::default(),
        }
    }
}

impl BufferPoolBuilder {
    /// The buckets, ascending by size: sizes alone, or [`Bucket`]s. Default: 4, 16, 64 and 256 KiB.
    pub fn buckets<B: Into<Bucket>>(mut self, buckets: impl IntoIterator<Item = B>) -> BufferPoolBuilder {
        self.buckets = buckets.into_iter().map(Into::into).collect();
        self
    }

    /// The most that all buffers take together, in use or kept: at least one buffer of the largest bucket, and all that
    /// are made in advance. Default: 256 MiB.
    pub fn limit_bytes(mut self, limit_bytes: u64) -> BufferPoolBuilder {
        self.limit_bytes = limit_bytes;
        self
    }

    /// The least that [`BufferPool::buffer`] gives. Default: 16 KiB.
    pub fn initial_buffer_bytes(mut self, initial_buffer_bytes: usize) -> BufferPoolBuilder {
        self.initial_buffer_bytes = initial_buffer_bytes;
        self
    }

    /// Whether a buffer that is given back is zeroed as far as its room was lent to writers, not only as far as they declared
    /// it written: see [`BufferPool`]. Default: false.
    ///
    /// All room is lent to whoever writes, so any buffer that was filled at all is zeroed to its end: 300 bytes in a buffer
    /// of 64 KiB cost zeroing of 64 KiB, and the pages of all of it.
    pub fn zero_lent(mut self, zero_lent: bool) -> BufferPoolBuilder {
        self.zero_lent = zero_lent;
        self
    }

    /// When buckets keep more or fewer; none: each keeps as many as at first, see [`Bucket::kept_min`]. Default: see
    /// [`KeptAdaptation`].
    pub fn adaptive(mut self, adaptive: impl Into<Option<KeptAdaptation>>) -> BufferPoolBuilder {
        self.adaptive = adaptive.into();
        self
    }

    /// How the memory is protected: canaries, guard pages, huge pages. Size classes, limit and slabs made ready are the
    /// pool's to say.
    pub fn memory(mut self, memory: Config) -> BufferPoolBuilder {
        self.memory = memory;
        self
    }

    /// Whether each bucket obeys the rules, and all of them together.
    fn check_buckets(&self) -> Result<(), BufferPoolError> {
        let (mut smaller_bytes, mut initial_bytes) = (0, 0_u64);
        for bucket in &self.buckets {
            let size_bytes = bucket.size_bytes;
            initial_bytes =
                initial_bytes.saturating_add((bucket.initial as u64).saturating_mul(size_bytes as u64));
            let broken_rule = if let Some(rule) = bucket.broken_rule() {
                Some(rule)
            } else if size_bytes <= smaller_bytes {
                Some("buckets are ascending by size")
            } else if size_bytes as u64 > self.limit_bytes {
                Some("the limit on bytes of all buffers allows one at least")
            } else {
                (initial_bytes > self.limit_bytes)
                    .then_some("what is made in advance fits into the limit on bytes")
            };
            if let Some(rule) = broken_rule {
                return Err(BufferPoolError::Bucket { size_bytes, rule });
            }
            smaller_bytes = size_bytes;
        }
        Ok(())
    }

    /// The pool. Address space is reserved for all of it; memory is used as buffers are.
    ///
    /// # Errors
    /// [`BufferPoolError`].
    pub fn build(self) -> Result<BufferPool, BufferPoolError> {
        let size_bytes = self.initial_buffer_bytes;
        if self.buckets.last().is_none_or(|largest| largest.size_bytes < size_bytes) {
            return Err(BufferPoolError::NoBucket { size_bytes });
        }
        self.check_buckets()?;
        if let Some(adaptive) = self.adaptive.filter(|adaptive| !adaptive.is_valid()) {
            return Err(BufferPoolError::Adaptive { adaptive });
        }
        let memory = Config {
            slab_sizes: self.buckets.iter().map(|bucket| bucket.size_bytes as u64).collect(),
            max_pool_size: self.limit_bytes,
            initial_slabs_per_size: 0,
            ..self.memory
        };
        let stock = |bucket: &Bucket| BucketStock {
            size_bytes: bucket.size_bytes,
            kept_min: bucket.kept_min,
            kept_max: bucket.kept_max,
            stock: Stock::new(bucket.buffers_max, bucket.kept_at_first(), None),
            outgrown: AtomicU64::new(0),
        };
        let shared = Shared {
            heap: Arc::new(Heap::new(&memory)?),
            adaptation: Adaptation::new(self.adaptive, self.buckets.len(), Instant::now()).into(),
            buckets: self.buckets.iter().map(stock).collect(),
            initial_buffer_bytes: self.initial_buffer_bytes,
            zero_lent: self.zero_lent,
            giving_up: Mutex::new(()),
            refused: AtomicU64::new(0),
        };
        for (bucket, made) in self.buckets.iter().zip(&shared.buckets) {
            // The limit allows it. What the system does not grant is left out: it is only a head start.
            let _ = made.stock.fill(bucket.initial, || shared.heap.shared_block(bucket.size_bytes as u64));
        }
        Ok(BufferPool::new(shared))
    }
}
