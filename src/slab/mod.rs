//! The allocator as a library: slabs of one size for a Rust program, and pools of objects and buffers on top.
//!
//! [`SlabAllocator`] has a fixed number of slabs of one size, under a hard limit, and says how well it does. What it gives
//! out is a [`SlabRef`]: plain bytes, free again when it is dropped. It is [`crate::memory::Heap`] beneath, the allocator
//! of the service; whoever wants many sizes takes that, and its [`Block`](crate::memory::Block)s.
//!
//! ```
//! use maas::slab::SlabAllocator;
//!
//! let allocator = SlabAllocator::builder(4096, 1000).secure(true).build()?;
//! let mut slab = allocator.allocate()?;
//! slab[..6].copy_from_slice(b"secret");
//! drop(slab); // zeroed, and free for the next
//! assert_eq!(allocator.stats().total_allocations, 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! ```text
//!   allocator.rs  SlabAllocator: how slabs are given out and taken back
//!   reference.rs  SlabRef: what one has of a slab
//!   batch.rs      several slabs at once
//!   builder.rs    what can be set, and presets
//!   error.rs      why the allocator says no
//!   breaker.rs    refusing at once where trying is in vain
//!   waiting.rs    who waits for a slab
//!   detached.rs   slabs that are known by an id alone
//!   report.rs     what it says of itself
//!   stats.rs      its numbers
//!   watch.rs      how long allocations take, and what follows from it
//!   sites.rs      where live slabs were allocated
//!   sizing.rs     how large a slab, and how many
//!   object_pool.rs  objects that are used again
//!   buffer_pool.rs  buffers of several sizes, on it
//!   lifeline.rs   what keeps a pool alive that all CPUs use
//! ```
//!
//! # What calls cost
//!
//! | call | cost |
//! |---|---|
//! | [`SlabAllocator::allocate`], dropping a [`SlabRef`] | O(1); about 20 ns together, from the thread's magazine, with no lock that threads share, no system call, no clock |
//! | the same past the magazine | O(1); a lock, or fresh pages from the system: once for some tens of slabs |
//! | zeroing, where `secure` | what was written: a plain `&mut slab[..]` counts as all of it, [`SlabRef::part_mut`] as what it says |
//! | [`SlabAllocator::allocate_batch`] | O(n); one decision for all of them |
//! | [`SlabAllocator::allocate_timeout`] in a full allocator | a lock, and sleep; those who free look at one word |
//! | [`SlabAllocator::stats`], [`SlabAllocator::health_check`] | microseconds: all that CPUs count apart is summed |
//! | [`SlabRef::detach`], [`SlabAllocator::attach`] | O(log n) under a lock |
//! | debugging with backtraces | some microseconds an allocation, and a lock |
//!
//! On the way of an allocation that a magazine serves nothing is logged, no clock is read but for one in about 128 where
//! health is watched, and no memory is asked of the system or of Rust's own allocator.

mod allocator;
mod batch;
mod breaker;
mod buffer_pool;
mod builder;
mod detached;
mod error;
mod lifeline;
mod object_pool;
mod reference;
mod report;
mod sites;
pub mod sizing;
mod stats;
mod waiting;
mod watch;

pub use allocator::SlabAllocator;
pub use batch::BatchFreed;
pub use buffer_pool::{
    Adaptive, Bucket, BucketStats, Buffer, BufferChain, BufferError, BufferPool, BufferPoolBuilder,
    BufferPoolError, BufferPoolStats, Piece, PoolHome,
};
pub use builder::Builder;
pub use detached::SlabId;
pub use error::{BuildError, SlabError};
pub use object_pool::{FactoryError, ObjectError, ObjectPool, ObjectPoolBuilder, ObjectPoolStats, Pooled};
pub use reference::SlabRef;
pub use sites::{LeakReport, Site};
pub use stats::AllocatorStats;

pub use crate::health::{Health, Trend};
