//! What readers of a large object see: one version, segment by segment, without a copy.

use super::Object;
use crate::memory::Pin;
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Readers of one version at most: far from what a segment's holders are counted to, of which each reader is one.
pub(super) const READERS_MAX: usize = 1 << 14;

/// One read of one version. Shared by its pieces, so that it is known when the last of them is gone.
#[derive(Debug)]
pub(crate) struct Reading {
    /// None only while it is dropped.
    object: Option<Arc<Object>>,
}

impl Reading {
    /// None where there are as many readers as can be counted.
    pub(in crate::pool) fn new(object: &Arc<Object>) -> Option<Reading> {
        (Arc::strong_count(object) <= READERS_MAX).then(|| Reading { object: Some(Arc::clone(object)) })
    }

    fn object(&self) -> &Arc<Object> {
        self.object.as_ref().expect("it is there until the read is dropped")
    }

    /// Whether what is read was freed or replaced, and its readers have had their time.
    pub(in crate::pool) fn is_overdue(&self) -> bool {
        self.object().is_overdue.load(Ordering::Relaxed)
    }

    /// The bytes of `range`, in order. Where a segment can have no more holders the read ends early, and whoever counts the
    /// bytes sees that.
    pub(in crate::pool) fn read(self: Arc<Self>, range: Range<u64>) -> impl Iterator<Item = Bytes> + Send {
        let numbers = self.object().segments().numbers(&range);
        let pieces = move |at: usize| {
            let segments = self.object().segments();
            let part = segments.part(at, &range);
            let pin = Arc::new(Pin::new(&segments.upkeep().heap, part.location).ok()?);
            let lent = Lent { pin: Arc::clone(&pin), _reading: Arc::clone(&self) };
            Some(pin.read_as(Bytes::from_owner(lent), part.within()))
        };
        numbers.map_while(pieces).flatten()
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let Some(object) = self.object.take() else { return };
        let upkeep = Arc::clone(object.segments().upkeep());
        drop(object);
        upkeep.heap.tell_room_freed(); // a write may wait for just this reader
    }
}

/// A share of a read, and a segment of it, as the owner of bytes that are lent.
struct Lent {
    /// Before the read: who finds nobody that reads finds the segment free of readers too.
    pin: Arc<Pin>,
    _reading: Arc<Reading>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        (*self.pin).as_ref()
    }
}
