//! The second budget: bytes of requests on their way. Apart from the pool, so that clients who send slowly or much
//! can neither grow the process without bound nor eat what others lease.

use crate::memory::Budget;

/// How many bytes of request bodies are in memory, and how many may be.
#[derive(Debug)]
pub struct Inflight {
    budget: Budget,
}

/// A part of the in-flight budget, given back when dropped.
#[derive(Debug)]
pub struct InflightCharge<'a> {
    inflight: &'a Inflight,
    bytes: u64,
}

impl Inflight {
    pub(super) fn new(bytes_max: u64) -> Inflight {
        Inflight { budget: Budget::new(bytes_max) }
    }

    /// Takes `bytes` from the budget; none where they do not fit.
    pub fn charge(&self, bytes: u64) -> Option<InflightCharge<'_>> {
        // Lazily: a charge that was never granted must not be given back.
        self.budget.take(bytes).then(|| InflightCharge { inflight: self, bytes })
    }

    /// Bytes charged now.
    pub fn bytes(&self) -> u64 {
        self.budget.held()
    }

    /// Bytes that can be charged at most.
    pub fn bytes_max(&self) -> u64 {
        self.budget.limit()
    }
}

impl Drop for InflightCharge<'_> {
    fn drop(&mut self) {
        self.inflight.budget.give_back(self.bytes);
    }
}
