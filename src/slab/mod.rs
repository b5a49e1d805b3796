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
//! # What calls cost
//!
//! With `n` slabs in use, or in the batch:
//!
//! | call | cost |
//! |---|---|
//! | [`SlabAllocator::allocate`], dropping a [`SlabRef`] | O(1); about 20 ns together, from the thread's magazine, with no lock that threads share, no system call, no clock |
//! | the same past the magazine | O(1); a lock that threads share: once for some tens of slabs. The first use of a slab also has the system make its pages usable |
//! | … of a small allocator, some tens of slabs a CPU | O(1); past the magazine more often: magazines hold a sixteenth of all slabs together, one slab each at least |
//! | … of one that has just refused somebody | O(1); always past the magazine, until a sixteenth is free again |
//! | zeroing, where `secure` | what was written, by 32nds of a slab: a plain `&mut slab[..]` counts as all of it, [`SlabRef::part_mut`] as what it says. More than 8 KiB are zeroed past the magazine, outside of any lock |
//! | looking for stray writes, with the bit guard | reads up to 64 bytes behind a slab that was written, and 128 of one that is given out: some nanoseconds |
//! | [`SlabAllocator::allocate_shared`] | as `allocate`, and a count that all threads share |
//! | [`SlabAllocator::allocate_batch`] | O(n); one decision for all of them, and one list |
//! | [`SlabAllocator::deallocate_batch`] | O(n); each as [`SlabAllocator::deallocate`] |
//! | [`SlabAllocator::allocate_timeout`], [`SlabAllocator::allocate_until`] | as the way past the magazine; in a full allocator a lock, and sleep. Those who free look at one word |
//! | an allocation that the circuit breaker refuses | O(1); reads the clock, tries nothing |
//! | [`SlabAllocator::stats`], [`SlabAllocator::health_check`], [`SlabAllocator::leaks`] | microseconds: all that CPUs count apart is summed |
//! | [`SlabRef::detach`], [`SlabAllocator::attach`], [`SlabAllocator::deallocate_id`] | O(log n) of those that are detached, under a lock |
//! | [`SlabAllocator::reset`] | O(n) of those that are detached |
//! | [`SlabAllocator::trim`] | O(pages given back), in slices; a system call for each run of pages |
//! | [`Builder::build`] | a few system calls; O(capacity) address space, and no memory but for what [`Builder::prewarm`] asks for |
//! | debugging with backtraces | some microseconds an allocation, and a lock |
//!
//! On the way of an allocation that a magazine serves nothing is logged, no clock is read but for one in about 128 where
//! health is watched, and no memory is asked of the system or of Rust's own allocator.
//!
//! # Which errors, and when
//!
//! | error | where from | what to do |
//! |---|---|---|
//! | [`SlabError::OutOfMemory`] | all slabs were in use at an instant of the call | wait with [`SlabAllocator::allocate_timeout`], shed load, or size it by [`sizing::capacity_for`] |
//! | [`SlabError::System`] | the limit leaves room, the system does not | give it less to hold, or the system more |
//! | [`SlabError::Timeout`] | nobody gave a slab back in time | as out of memory |
//! | [`SlabError::CircuitOpen`] | many failures in a row, [`Builder::circuit_breaker`] | come back in `retry_in` |
//! | [`SlabError::InvalidReference`], [`SlabError::DoubleFree`] | a reference or id that is good no more | correct the program: nothing else was harmed |
//! | [`SlabError::Corrupted`] | a stray write, [`Builder::bit_guard`] | look for it: [`Builder::guard_pages`] stops the writer in the act |
//! | [`SlabError::Closed`] | [`SlabAllocator::close`] was called | stop |
//!
//! # Files
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
    Bucket, BucketStats, Buffer, BufferChain, BufferError, BufferPool, BufferPoolBuilder, BufferPoolError,
    BufferPoolStats, KeptAdaptation, Piece, PoolHome,
};
pub use builder::Builder;
pub use detached::SlabId;
pub use error::{BuildError, SlabError};
pub use object_pool::{FactoryError, ObjectError, ObjectPool, ObjectPoolBuilder, ObjectPoolStats, Pooled};
pub use reference::SlabRef;
pub use sites::{LeakReport, Site};
pub use stats::AllocatorStats;

pub use crate::health::{Health, Trend};
