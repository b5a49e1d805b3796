//! Atomics and locks of what threads share, so that model checkers can drive them: the standard atomics and parking_lot's
//! locks, or those of loom or shuttle.
//!
//! loom tries every order of a lock-free structure's few steps, as weak as its orderings allow
//! (`cargo test --features loom --lib loom_`). shuttle tries random orders of many steps of the whole heap, all of them
//! sequentially consistent (`cargo test --features shuttle --lib shuttle_`).
//!
//! Counters that only count use `std::sync::atomic` directly; whatever orders other memory comes from here and has
//! a loom test. Locks of `memory/` come from here too: shuttle runs all threads on one, where a lock that it does not
//! know would wait for ever.

#[cfg(feature = "shuttle")]
mod shuttle_locks;

#[cfg(all(feature = "loom", feature = "shuttle"))]
compile_error!("one model checker at a time: loom and shuttle both replace the atomics");

#[cfg(feature = "loom")]
pub(crate) use loom::{hint::spin_loop, sync::atomic::*, thread::yield_now};
#[cfg(not(feature = "shuttle"))]
pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard};
#[cfg(all(feature = "shuttle", not(feature = "loom")))]
pub(crate) use shuttle::{hint::spin_loop, sync::atomic::*, thread::yield_now};
#[cfg(feature = "shuttle")]
pub(crate) use shuttle_locks::{Condvar, Mutex, MutexGuard};
#[cfg(not(any(feature = "loom", feature = "shuttle")))]
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
        // A model checker decides who runs, and needs to be told each time that this one cannot.
        if self.spins < Backoff::SPINS && !cfg!(any(feature = "loom", feature = "shuttle")) {
            self.spins += 1;
            spin_loop();
        } else {
            yield_now();
        }
    }
}

/// Runs a model in every order in which a thread loses its CPU at most three times where it could have gone on; or as
/// often as `LOOM_MAX_PREEMPTIONS` says. Errors that need more are rare, and the orders grow with each.
#[cfg(all(test, feature = "loom"))]
pub(crate) fn model(check: impl Fn() + Send + Sync + 'static) {
    const PREEMPTIONS: usize = 3;
    let mut model = loom::model::Builder::new();
    model.preemption_bound = model.preemption_bound.or(Some(PREEMPTIONS));
    model.check(check);
}
