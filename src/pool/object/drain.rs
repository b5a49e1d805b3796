//! Versions of large objects that were freed or replaced while somebody reads them. See `pool/drain.rs`.

use super::Object;
use crate::clock::Now;
use crate::pool::drain::Sweep;
use parking_lot::Mutex;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Room in the list that is kept for the next time.
const VERSIONS_KEPT: usize = 64;

#[derive(Debug)]
struct Draining {
    version: Weak<Object>,
    since: Now,
    until: Now,
}

/// See the module. Before the list grows it forgets what has drained, so it is no longer than twice the number of readers.
#[derive(Debug, Default)]
pub(in crate::pool) struct DrainingObjects(Mutex<Vec<Draining>>);

impl DrainingObjects {
    /// Lets go of a version that no entry names any more. Its segments in `replaced` are in no later one. Whether somebody
    /// reads it still, who has until then from now on.
    pub(in crate::pool) fn retire(
        &self,
        version: Arc<Object>,
        replaced: Range<u64>,
        now: Now,
        until: Now,
    ) -> bool {
        let is_read = Arc::strong_count(&version) > 1;
        let segments = version.segments();
        let heap = &segments.upkeep().heap;
        let range = segments.range();
        let replaced = replaced.start.max(range.start)..replaced.end.min(range.end);
        if replaced.end == range.end {
            segments.check_slack();
        }
        for part in segments.parts(replaced) {
            // It stays in use for readers alone from here on: of this version, or of an older one.
            if is_read || heap.has_other_holders(part.location) {
                heap.begin_draining(part.location);
            }
        }
        if is_read {
            let mut list = self.0.lock();
            if list.len() == list.capacity() {
                list.retain(|draining| draining.version.strong_count() > 0);
            }
            list.push(Draining { version: Arc::downgrade(&version), since: now, until });
        }
        drop(version); // without the lock: whoever waits for memory is served by that
        is_read
    }

    /// Forgets what has drained, and marks what is overdue; who is needed has `time_when_needed` at most.
    pub(in crate::pool) fn sweep(&self, time_when_needed: Option<Duration>, now: Now) -> Sweep {
        let (mut list, mut looked_at, mut lingering) = (self.0.lock(), Vec::new(), 0);
        list.retain_mut(|draining| {
            let Some(version) = draining.version.upgrade() else { return false };
            if let Some(time) = time_when_needed {
                draining.until = draining.until.min(draining.since.after(time));
            }
            let is_overdue = draining.until <= now;
            lingering += usize::from(version.is_overdue.swap(is_overdue, Ordering::Relaxed));
            looked_at.push(version);
            true
        });
        if list.is_empty() {
            list.shrink_to(VERSIONS_KEPT);
        }
        let draining = list.len();
        drop(list);
        drop(looked_at); // this may be the last part of one, and free it: without the lock
        Sweep { draining, lingering }
    }
}
