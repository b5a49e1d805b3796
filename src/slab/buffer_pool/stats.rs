//! The numbers of a pool of buffers.

use super::BucketStock;
use std::sync::atomic::Ordering;

/// Numbers of a pool of buffers.
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BufferPoolStats {
    /// The limit on bytes of all buffers, in use or kept.
    pub limit_bytes: u64,
    /// Bytes of buffers in use, at the size of their bucket.
    pub in_use_bytes: u64,
    /// Bytes of buffers that are kept.
    pub kept_bytes: u64,
    /// Requests that were refused.
    pub refused: u64,
    /// Each bucket, smallest first.
    pub buckets: Vec<BucketStats>,
}

/// Numbers of one bucket.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BucketStats {
    /// Size of its buffers.
    pub size_bytes: usize,
    /// Buffers that may exist.
    pub buffers_max: usize,
    /// The least that `kept_limit` can be.
    pub kept_min: usize,
    /// Buffers that may be kept, as adapted so far.
    pub kept_limit: usize,
    /// The most that `kept_limit` can be.
    pub kept_max: usize,
    /// Buffers that are kept.
    pub kept: usize,
    /// Buffers in use, those made into `Bytes` included.
    pub in_use: usize,
    /// Buffers given out.
    pub acquired: u64,
    /// Of these, buffers that had been used before.
    pub reused: u64,
    /// Buffers that were made, those made in advance included.
    pub created: u64,
    /// Buffers that came back.
    pub returned: u64,
    /// Buffers that were not kept: too many, or others needed their bytes.
    pub dropped: u64,
    /// Buffers that came back because they grew into a larger bucket's.
    pub outgrown: u64,
}

impl BucketStats {
    /// Part of the buffers given out that had been used before; 0 where none was given out.
    pub fn reuse_rate(&self) -> f64 {
        if self.acquired == 0 { 0.0 } else { self.reused as f64 / self.acquired as f64 }
    }
}

impl BucketStock {
    pub(super) fn stats(&self) -> BucketStats {
        let stock = self.stock.stats();
        BucketStats {
            size_bytes: self.size_bytes,
            buffers_max: stock.objects_max,
            kept_min: self.kept_min,
            kept_limit: stock.kept_max,
            kept_max: self.kept_max,
            kept: stock.kept,
            in_use: stock.in_use,
            acquired: stock.acquired,
            reused: stock.reused,
            created: stock.created,
            returned: stock.returned,
            dropped: stock.dropped,
            outgrown: self.outgrown.load(Ordering::Relaxed),
        }
    }
}
