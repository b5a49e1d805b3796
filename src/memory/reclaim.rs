//! Reclaim: free slabs of a class are given back, their bytes to the budget and their pages to the system, in slices.
//!
//! A slice is at most about a millisecond of work, and holds the class's lock for one system call at a time. Classes
//! whose slabs share pages are compacted first, so that what leaves is whole pages.

use super::class::SHRINK_SLABS_MAX;
use super::compact::Sweep;
use super::{Heap, OsError, SizeClass};
use crate::latency::Stopwatch;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Runs given back in one slice: a page alone costs 2 µs, 17 µs while another CPU runs: 0.5 ms.
pub(super) const SLICE_RUNS_MAX: u64 = 32;
/// Bytes given back in one slice, unless it is one slab: 4 MiB in one call cost 0.25 ms.
pub(super) const SLICE_BYTES_MAX: u64 = 4 << 20;
/// Slabs given back in one slice: each is taken off the class's account, its pages and its record, under the class's lock.
/// As many as are forgotten at the top of the class under one hold of it.
const SLICE_SLABS_MAX: u64 = SHRINK_SLABS_MAX;

/// Slabs of a size given back in one slice at most.
pub(super) fn slabs_in_slice(slab_bytes: u64) -> u64 {
    (SLICE_BYTES_MAX / slab_bytes).clamp(1, SLICE_SLABS_MAX)
}

/// Why free slabs of a class are given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReclaimAction {
    /// A request that was granted needs the room in another class.
    Backing,
    /// The class has more free slabs than it may keep.
    Surplus,
    /// Nobody needed them for a while.
    Idle,
    /// The pool, or the system, gets full.
    Pressure,
}

impl ReclaimAction {
    /// All of them.
    pub const ALL: [ReclaimAction; 4] =
        [ReclaimAction::Backing, ReclaimAction::Surplus, ReclaimAction::Idle, ReclaimAction::Pressure];

    /// What users see.
    pub fn name(self) -> &'static str {
        match self {
            ReclaimAction::Backing => "backing",
            ReclaimAction::Surplus => "surplus",
            ReclaimAction::Idle => "idle",
            ReclaimAction::Pressure => "pressure",
        }
    }
}

/// What was reclaimed so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReclaimStats {
    /// Slices that gave something back, in the order of [`ReclaimAction::ALL`].
    pub slices: [u64; ReclaimAction::ALL.len()],
    /// Bytes given back.
    pub bytes: u64,
    /// How long the last of these slices took; none where there was none. A slice is what one who needs memory, or the
    /// janitor, does at one go: a reclaim of several lets others have their turn between them.
    pub last_slice: Option<Duration>,
}

/// Counts what is reclaimed.
#[derive(Debug, Default)]
pub(super) struct Reclaimed {
    slices: [AtomicU64; ReclaimAction::ALL.len()],
    bytes: AtomicU64,
    /// Nanoseconds of the last slice; 0: there was none.
    last_slice: AtomicU64,
}

impl Reclaimed {
    /// A slice gave something back.
    pub(super) fn count(&self, action: ReclaimAction, bytes: u64, began: Stopwatch) {
        self.slices[action as usize].fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.last_slice.store(began.nanoseconds().max(1), Ordering::Relaxed);
    }

    pub(super) fn stats(&self) -> ReclaimStats {
        ReclaimStats {
            slices: std::array::from_fn(|action| self.slices[action].load(Ordering::Relaxed)),
            bytes: self.bytes.load(Ordering::Relaxed),
            last_slice: match self.last_slice.load(Ordering::Relaxed) {
                0 => None,
                nanoseconds => Some(Duration::from_nanos(nanoseconds)),
            },
        }
    }
}

impl Heap {
    /// One slice of giving back the slabs that a sweep wants. Returns their bytes; none where the slice only moved
    /// slabs, and where the class has no free slab. The sweep then wants that much less.
    ///
    /// # Errors
    /// [`OsError`] where the system takes no pages back, and nothing was given back.
    pub(super) fn reclaim_slice(
        &self,
        class: SizeClass,
        sweep: &mut Sweep,
        action: ReclaimAction,
    ) -> Result<u64, OsError> {
        let began = Stopwatch::start();
        let room = self.class(class);
        let size = room.slab_bytes();
        // What lies in a magazine can be neither moved nor given back: left at the top it would hold pages of its own.
        let _closed = room.is_packed().then(|| self.close_magazines());
        let (mut floor, mut left) = (0, sweep.wanted);
        // Where nothing can be moved any more, gaps are left below what stays: no request fails for that.
        if room.is_packed() && self.clear_top(class, sweep) {
            (floor, left) = (sweep.below, sweep.cleared.min(sweep.wanted));
        }
        left = left.min(slabs_in_slice(size));
        let mut bytes = 0;
        for _ in 0..SLICE_RUNS_MAX {
            match room.reclaim_run(&mut room.lock(), floor, left) {
                Ok(0) => {
                    if left > 0 {
                        // What was cleared is somebody else's by now: the sweep goes on below, instead of waiting for it.
                        sweep.cleared = 0;
                    }
                    break;
                }
                Ok(slabs) => {
                    self.budget.give_back(slabs * size);
                    bytes += slabs * size;
                    left -= slabs;
                    sweep.wanted -= slabs;
                    sweep.cleared = sweep.cleared.saturating_sub(slabs);
                }
                Err(error) if bytes == 0 => return Err(error),
                Err(_) => break,
            }
        }
        if bytes > 0 {
            self.reclaimed.count(action, bytes, began);
        }
        Ok(bytes)
    }

    /// A free has left a class with so many free slabs more than it may keep: gives them back, at most a slice.
    #[cold]
    pub(super) fn reclaim_surplus(&self, class: SizeClass, slabs: u64) {
        // What the system does not take back stays free, and is looked at again at the next free.
        let _ = self.reclaim_slice(class, &mut Sweep::new(slabs), ReclaimAction::Surplus);
    }
}
