//! Memory as a service: one bounded pool of memory that any process leases over plain HTTP.
//!
//! It never evicts: what it has granted stays, byte for byte, until it is freed, and what does not fit is refused at
//! once, with the reason.
//!
//! The tour, in reading order. [`app`] builds everything and stops it; [`pool`] is the door to all allocations, and
//! [`memory`] where their bytes lie; [`http`] is how clients reach them, and [`tasks`] what happens by itself.
//! [`metrics`] names what can be watched, [`config`] what can be set, and [`cli`] is the program.
//! `ARCHITECTURE.md` has the invariants and the life of a request.

#[cfg(feature = "server")]
pub mod app;

pub mod memory;
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
