//! The allocator as a library: placeholder while it is split off.

mod buffer_pool;
mod lifeline;
mod object_pool;

pub use buffer_pool::{
    Adaptive, Bucket, BucketStats, Buffer, BufferChain, BufferError, BufferPool, BufferPoolBuilder,
    BufferPoolError, BufferPoolStats, Piece, PoolHome,
};
pub use object_pool::{FactoryError, ObjectError, ObjectPool, ObjectPoolBuilder, ObjectPoolStats, Pooled};
