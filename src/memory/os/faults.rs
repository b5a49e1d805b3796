//! Makes the nth system call of this thread fail, so that every error path is walked.

use std::cell::Cell;

thread_local! {
    static FAIL_AT: Cell<Option<u64>> = const { Cell::new(None) };
    static FAIL_ON: Cell<bool> = const { Cell::new(false) };
    static REFUSE_MARKERS: Cell<bool> = const { Cell::new(false) };
}

/// Whether the system has no guard markers for this thread from now on.
#[cfg(not(feature = "loom"))]
pub(crate) fn refuse_markers(refused: bool) {
    REFUSE_MARKERS.set(refused);
}

pub(super) fn markers_are_refused() -> bool {
    REFUSE_MARKERS.get()
}

/// The call after `successes` more ones fails, once.
pub(crate) fn fail_after(successes: u64) {
    FAIL_AT.set(Some(successes));
    FAIL_ON.set(false);
}

/// Every call after `successes` more ones fails.
#[cfg(not(feature = "loom"))]
pub(crate) fn fail_on_after(successes: u64) {
    FAIL_AT.set(Some(successes));
    FAIL_ON.set(true);
}

/// No call fails any more; true if the planned failure was still to come.
pub(crate) fn disarm() -> bool {
    FAIL_ON.set(false);
    FAIL_AT.take().is_some_and(|successes| successes != FAILING)
}

/// In place of the successes that are left: calls fail on.
const FAILING: u64 = u64::MAX;

pub(super) fn gate() -> Result<(), rustix::io::Errno> {
    match FAIL_AT.get() {
        Some(0 | FAILING) => {
            FAIL_AT.set(FAIL_ON.get().then_some(FAILING));
            Err(rustix::io::Errno::NOMEM)
        }
        Some(successes) => {
            FAIL_AT.set(Some(successes - 1));
            Ok(())
        }
        None => Ok(()),
    }
}
