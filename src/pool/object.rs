//! Large objects: blocks that no class holds. Their content lies in segments, whole pages each, wherever there are some.
//!
//! A version of the content is an [`Object`]; the entry of an allocation names the one that counts, by its number
//! (`place.rs`). Who reads shares the version, whatever its size, and so keeps it as it is. What is written goes one of
//! four ways:
//!
//! ```text
//!   small, nobody reads   in place, under the entry's lock, two segments at most
//!   a part                into private segments in place of those it touches; commit: fill their edges from the version
//!                         that is replaced, share all others with it, and if it still counts, store the new one's number
//!   all                   into private segments
//!   first upload          into the allocation's own segments, which are lent: readers see zeros until it commits
//! ```
//!
//! So to change a byte of what somebody reads takes the memory of one segment more.
//!
//! ```text
//!   segments.rs  some segments, and one hold on each
//!   list.rs      number → object
//!   read.rs      what readers see
//!   write.rs     small writes, in place
//!   upload.rs    all others
//!   drain.rs     versions that were freed or replaced, and are still read
//!   discard.rs   content that is given up: zeros from there on
//!   broken.rs    uploads that broke off, and left much to zero; and content that was discarded
//! ```

mod broken;
mod discard;
mod drain;
mod list;
mod read;
mod segments;
mod upload;
mod write;

pub(super) use broken::Broken;
pub(super) use drain::DrainingObjects;
pub use list::ObjectStats;
pub(super) use list::Objects;
pub(super) use read::Reading;
pub(super) use segments::Segments;
pub(super) use upload::ObjectUpload;

use super::handover::Handover;
use crate::memory::{Backed, Heap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What all segments need that are let go of, wherever that happens.
#[derive(Debug)]
pub(super) struct Upkeep {
    heap: Arc<Heap>,
    handover: Arc<Handover>,
    /// Versions that there are, replaced ones included.
    versions: AtomicU64,
    /// Segments in their lists.
    segments: AtomicU64,
}

/// One version of the content of a large object.
#[derive(Debug)]
pub(super) struct Object {
    segments: Segments,
    /// Writes counted. It changes under the entry's lock, where the content is changed in place; that is not done while
    /// anybody else has this version.
    writes: AtomicU64,
    /// Its content was discarded, and reads as zeros, whatever its segments hold still; they are lent to whoever gives their
    /// pages back. It changes under the entry's lock.
    is_blank: AtomicBool,
    /// It was freed or replaced, and its readers have had their time.
    is_overdue: AtomicBool,
}

impl Object {
    pub(super) fn new(segments: Segments, writes: u64) -> Object {
        segments.upkeep().begin_version(segments.count());
        Object { segments, writes: AtomicU64::new(writes), is_blank: false.into(), is_overdue: false.into() }
    }

    pub(super) fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }

    /// Under the entry's lock.
    fn set_writes(&self, writes: u64) {
        self.writes.store(writes, Ordering::Relaxed);
    }

    /// Whether it reads as zeros without a look at its segments: it was never written, or what was is discarded. Under the
    /// entry's lock.
    fn reads_zero(&self) -> bool {
        self.writes() == 0 || self.is_blank.load(Ordering::Relaxed)
    }

    /// Under the entry's lock.
    fn set_blank(&self, is_blank: bool) {
        self.is_blank.store(is_blank, Ordering::Relaxed);
    }

    fn segments(&self) -> &Segments {
        &self.segments
    }

    /// Its segments. It is no version any more.
    fn into_segments(mut self) -> Segments {
        let range = self.segments.range();
        let (upkeep, size_bytes) = (Arc::clone(self.segments.upkeep()), self.segments.size_bytes());
        let taken = std::mem::replace(&mut self.segments, Segments::none(&upkeep, range.start, size_bytes));
        upkeep.end_version(taken.count());
        upkeep.begin_version(0); // which ends when what is left is dropped
        taken
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        self.segments.upkeep().end_version(self.segments.count());
    }
}

/// Gives memory back that never was an allocation's.
pub(super) fn free_backed(heap: &Heap, backed: &Backed) {
    backed.locations().iter().for_each(|location| heap.free(*location));
}

#[cfg(all(test, not(feature = "loom")))]
mod tests;
