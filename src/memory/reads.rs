//! Reads: what a pin's holder sees, piece by piece, without a copy. Parts never written come from a static buffer.

use super::bytes::{Pin, ZEROS, in_memory};
use super::dirty;
use super::{Heap, SlabLocation};
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;

impl Pin {
    /// The parts of `range` that may be other than zero, with their offsets in the slab. Nothing is copied.
    ///
    /// # Panics
    /// If `range` is not inside the slab.
    pub(crate) fn written(&self, range: Range<u64>) -> impl Iterator<Item = (u64, &[u8])> {
        let (slabs, index) = self.slabs();
        let slab_bytes = slabs.bytes_of(index);
        assert!(
            range.start <= range.end && range.end <= slab_bytes,
            "{range:?} is outside {slab_bytes} bytes"
        );
        dirty::parts(slab_bytes, slabs.record(index).dirty(), range)
            .filter(|(_, written)| *written)
            .map(move |(part, _)| (part.start, &self.as_ref()[in_memory(part.start)..in_memory(part.end)]))
    }

    /// The bytes of `range`, in order: parts that were written as slices of the slab, all others from a static
    /// buffer of zeros. Nothing is copied; the slab is held until the last part is dropped. The parts share the pin, so
    /// that a [`std::sync::Weak`] to it tells whether any is left.
    ///
    /// # Panics
    /// If `range` is not inside the slab.
    pub(crate) fn read(self: Arc<Self>, range: Range<u64>) -> impl Iterator<Item = Bytes> {
        let whole = Bytes::from_owner(Lent(Arc::clone(&self)));
        self.read_as(whole, range)
    }

    /// As [`Pin::read`], where `whole` is the slab's bytes, lent by somebody who keeps this pin.
    ///
    /// # Panics
    /// If `range` is not inside the slab.
    pub(crate) fn read_as(&self, whole: Bytes, range: Range<u64>) -> impl Iterator<Item = Bytes> + use<> {
        let (slabs, index) = self.slabs();
        let slab_bytes = slabs.bytes_of(index);
        assert!(
            range.start <= range.end && range.end <= slab_bytes,
            "{range:?} is outside {slab_bytes} bytes"
        );
        let written = slabs.record(index).dirty();
        dirty::parts(slab_bytes, written, range).flat_map(move |(part, written)| {
            // A written part leaves whole; zeros leave in pieces as long as the static buffer.
            let step = if written { slab_bytes } else { ZEROS.len() as u64 };
            let whole = whole.clone();
            let starts =
                (part.start..part.end).step_by(usize::try_from(step).expect("a slab fits in memory"));
            starts.map(move |start| {
                let end = (start + step).min(part.end);
                if written {
                    whole.slice(in_memory(start)..in_memory(end))
                } else {
                    Bytes::from_static(&ZEROS[..in_memory(end - start)])
                }
            })
        })
    }
}

impl Heap {
    /// Whether anything of a slab may be other than zero. For its holders.
    pub(crate) fn is_written(&self, location: SlabLocation) -> bool {
        let (slabs, index) = self.slabs(location);
        slabs.record(index).dirty() != 0
    }
}

/// A share of a pin, as the owner of bytes that are lent.
struct Lent(Arc<Pin>);

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        (*self.0).as_ref()
    }
}
