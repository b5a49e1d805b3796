//! Memory as a service, and the allocator beneath it as a library.
//!
//! There are two doors to this crate:
//!
//! - **The service**: the program `maas` has one bounded pool of memory that any process leases over plain HTTP. It
//!   never evicts: what it has granted stays, byte for byte, until it is freed, and what does not fit is refused at
//!   once, with the reason. `README.md` and `docs/integration.md` are for those who call it.
//! - **The library**: the same allocator inside a Rust program. [`slab::SlabAllocator`] has slabs of one size, with a
//!   circuit breaker, waiting, health and leak reports; [`memory::Heap`] has blocks of many sizes under one limit. Both
//!   give out plain `&mut [u8]`, and take it back zeroed.
//!
//! # The library
//!
//! Without the service it depends on eight small crates, some two dozen with theirs, and needs no runtime:
//!
//! ```toml
//! [dependencies]
//! maas = { version = "2", default-features = false }
//! ```
//!
//! ```
//! use maas::slab::{SlabAllocator, SlabError};
//!
//! // At most 1000 slabs of 4 KiB, zeroed when they are given back.
//! let allocator = SlabAllocator::builder(4096, 1000).secure(true).build()?;
//!
//! let mut slab = allocator.allocate()?;
//! slab[..5].copy_from_slice(b"hello");
//! drop(slab); // free again, and zeros
//!
//! // The limit is hard, and a refusal says why.
//! let all = allocator.allocate_batch(1000)?;
//! assert!(matches!(allocator.allocate(), Err(SlabError::OutOfMemory { in_use: 1000, .. })));
//! drop(all);
//! assert_eq!(allocator.stats().used_slabs, 0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | wanted | take |
//! |---|---|
//! | many buffers of one size | [`slab::SlabAllocator`] |
//! | buffers of many sizes under one limit | [`memory::Heap::block`] |
//! | many small things that end together: a transaction, a request | [`memory::Heap::arena`] |
//! | bytes that outlive the scope, in tasks or as [`bytes::Bytes`] | [`slab::SlabAllocator::allocate_shared`], [`memory::Heap::shared_block`] |
//! | all or none of many | [`slab::SlabAllocator::allocate_batch`] |
//! | objects that are costly to make, used again | [`slab::ObjectPool`] |
//! | buffers of several sizes for sockets, which grow and chain | [`slab::BufferPool`], [`slab::BufferChain`] |
//! | to wait for a free one | [`slab::SlabAllocator::allocate_timeout`] |
//! | numbers for structures and foreign code in place of references | [`slab::SlabRef::detach`] |
//! | to find what was never given back | [`slab::Builder::debug`], [`slab::SlabAllocator::leaks`] |
//! | to know when memory will be full | [`pressure::Forecaster`] |
//! | one figure for how well it does | [`slab::SlabAllocator::health_check`], [`health`] |
//!
//! `examples/` has programs that run as they are: `quick_start`, `database_pages`, `transaction`, `network_buffers`,
//! `large_objects`, `secure_memory`, `leak_hunt`, and `proxy`, a TCP proxy on pooled buffers. [`slab`] and [`memory`] say what each call costs.
//!
//! # What an allocation never does
//!
//! Most allocations and frees take the fast path: a magazine of free slabs that the thread's CPU keeps for itself. On it
//! there is
//!
//! - **no system call**: pages are asked for once for each slab, and stay when it is freed;
//! - **no allocation** from Rust's own allocator: records about slabs lie in tables made at the start;
//! - **no lock that threads share**: the magazine's own is one byte, which a thread of another CPU takes only to empty
//!   it, or where its own is taken at that instant; nobody waits for it;
//! - **no log**;
//! - **no clock**, but for one allocation in about 128 that is timed, where health is watched.
//!
//! It does zero what was written, where that is wanted, when memory is freed: nothing else there takes longer for larger
//! blocks.
//!
//! # Cargo features
//!
//! | feature | |
//! |---|---|
//! | `server` (default) | the service, the program `maas`, and all that they need |
//! | `loom`, `shuttle` | for this crate's own model checking, one at a time; nothing else works with them |
//!
//! # The tour, for those who read the code
//!
//! `ARCHITECTURE.md` has the invariants and the life of a request; `CONTRIBUTING.md` says how to change something. In
//! reading order: [`memory`] is where bytes lie, and [`slab`] what the library puts in front of it. Beside them are
//! [`units`], [`clock`], [`topology`], [`slot`] (one for each CPU), [`latency`], [`health`] and [`pressure`].
#![cfg_attr(
    feature = "server",
    doc = "Of the service, [`app`] builds everything and stops it; [`pool`] is the door to all allocations; [`http`] is \
           how clients reach them, and [`tasks`] what happens by itself. [`metrics`] names what can be watched, \
           [`config`] what can be set, and [`cli`] is the program."
)]
//!
//! In `docs/`: `tuning.md` (which knob to turn, and what to look at), `pressure.md` (what happens when it gets full),
//! `integration.md` (calling the service, embedding the library), `doctor.md`, `profiles.md`, `recommendations.md` and
//! `benchmarks.md` (figures).

#[cfg(feature = "server")]
pub mod app;

#[cfg_attr(
    not(feature = "server"),
    allow(dead_code, reason = "much of it is called by the service's pool alone")
)]
pub mod memory;
pub mod pressure;
pub mod slab;

#[cfg(feature = "server")]
pub mod pool;

#[cfg(feature = "server")]
pub mod http;
#[cfg(feature = "server")]
pub mod tasks;

#[cfg(feature = "server")]
pub mod metrics;

#[cfg(feature = "server")]
pub mod cli;
#[cfg(feature = "server")]
pub mod config;

// Beside the rooms, for all of them.
pub mod clock;
#[cfg(feature = "server")]
pub mod doctor;
pub mod health;
pub mod latency;
#[cfg(feature = "server")]
pub mod limits;
#[cfg(feature = "server")]
pub mod link;
mod lock;
pub mod slot;
mod sync;
pub mod topology;
pub mod units;

/// The Rust of the README, compiled and run as it stands there.
#[cfg(all(doctest, feature = "server"))]
#[doc = include_str!("../README.md")]
struct Readme;

/// The Rust of the integration guide.
#[cfg(all(doctest, feature = "server"))]
#[doc = include_str!("../docs/integration.md")]
struct IntegrationGuide;
