//! Memory as a service: one bounded pool of memory that any process leases over plain HTTP.

pub mod cli;

pub mod app;
pub mod config;

pub mod clock;
pub mod limits;
pub mod link;
pub mod slot;
mod sync;
pub mod units;

pub mod memory;
pub mod metrics;
pub mod pool;

pub mod http;
pub mod tasks;
