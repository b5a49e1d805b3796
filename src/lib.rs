//! Memory as a service: one bounded pool of memory that any process leases over plain HTTP.

pub mod clock;
pub mod link;
pub mod slot;
mod sync;
pub mod units;

pub mod memory;
pub mod metrics;
pub mod pool;

pub mod http;
pub mod tasks;
