//! Atomics for lock-free structures: the standard ones, or loom's where the model checker drives them.
//!
//! Counters that only count use `std::sync::atomic` directly; whatever orders other memory comes from here and has
//! a loom test (`cargo test --features loom --lib loom_`).

#[cfg(feature = "loom")]
pub(crate) use loom::{hint::spin_loop, sync::atomic::*, thread::yield_now};
#[cfg(not(feature = "loom"))]
pub(crate) use std::{hint::spin_loop, sync::atomic::*, thread::yield_now};

/// Waits a moment for another thread that holds something for a few instructions: spins first, then yields, so that
/// a holder that lost its CPU gets it back.
pub(crate) struct Backoff {
    spins: u32,
}

impl Backoff {
    /// Spins before the first yield: about the length of a 64 KiB copy.
    const SPINS: u32 = 64;

    pub(crate) fn new() -> Backoff {
        Backoff { spins: 0 }
    }

    pub(crate) fn wait(&mut self) {
        if self.spins < Backoff::SPINS && !cfg!(feature = "loom") {
            self.spins += 1;
            spin_loop();
        } else {
            yield_now();
        }
    }
}
