//! What can be set about the pool.

use super::{Admission, Tag};
use std::collections::BTreeMap;

/// Configuration of the pool. Sizes are in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Largest size a request may ask for. Default: none, which is the pool.
    pub max_allocation_size: Option<u64>,
    /// Live allocations at most, up to 2^24. Default: none, which is pool / smallest class, at most 2^24.
    pub max_allocations: Option<u32>,
    /// Bytes of request bodies held in memory at once, apart from the pool. Default: 64 MiB.
    pub max_inflight_bytes: u64,
    /// Milliseconds that a write waits for readers that hold the room it needs. Default: 5000.
    pub write_wait_ms: u64,
    /// Seconds that a reader may go on with a block that was freed or replaced, up to 3600; 1 second at most when the
    /// memory is needed. Default: 30.
    pub drain_seconds: u64,
    /// What tags may hold at most, in actual bytes. Default: none, which is as much as the pool has.
    pub budgets: BTreeMap<Tag, u64>,
    /// Who is turned away before the limit is reached.
    pub admission: Admission,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            max_allocation_size: None,
            max_allocations: None,
            max_inflight_bytes: 64 << 20,
            write_wait_ms: 5000,
            drain_seconds: 30,
            budgets: BTreeMap::new(),
            admission: Admission::default(),
        }
    }
}
