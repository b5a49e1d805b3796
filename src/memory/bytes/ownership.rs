//! How a free slab gets a holder, or is closed; and how it gets an owner, and loses it: the rules that make
//! [`super::Slabs::owned`] sound. There is one [`OwnedSlab`] of a slab, from here to here.

use super::Slabs;
use crate::memory::segment::Exclusive;
use crate::sync::Ordering;
use std::num::NonZeroU64;

/// A slab that is owned: whoever has this reads and writes it as plain memory. There is one of each, made by `own` and
/// ended by `disown`; one that is lost takes its slab along.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub(crate) struct OwnedSlab {
    /// Not zero, so that an option of it is two words, which calls pass in registers.
    serial: NonZeroU64,
    index: u64,
}

impl OwnedSlab {
    /// Its index in its class.
    pub(crate) fn index(&self) -> u64 {
        self.index
    }
}

impl Slabs {
    /// Gives a free slab to its first holder; false if it is not free. Where the slab was written since its pages came, it
    /// is looked at: what a stray write left makes it damaged, which its record says.
    ///
    /// # Panics
    /// If the slab was never committed.
    pub(in crate::memory) fn claim(&self, index: u64) -> bool {
        // Everything below relies on this: a slab that can have holders is readable and writable.
        let usable = self.usable_bytes.load(Ordering::Acquire); // pairs with the Release in `commit`
        assert!(self.span(index).end <= usable, "slab {index} was never committed");
        let record = self.record(index);
        if !self.canaries || !record.was_written() {
            return record.claim();
        }
        let Some(access) = record.close_free() else { return false };
        if !self.ends_are_zero(index, &access) {
            access.set_damaged();
        }
        access.end(0);
        true
    }

    /// Closes a free slab, which then lies in a magazine or a batch; false if it is not free.
    ///
    /// # Panics
    /// If the slab was never committed.
    pub(in crate::memory) fn close(&self, index: u64) -> bool {
        let usable = self.usable_bytes.load(Ordering::Acquire); // as in `claim`
        assert!(self.span(index).end <= usable, "slab {index} was never committed");
        self.record(index).close_free().map(Exclusive::stay_closed).is_some()
    }

    /// Makes the only holder the owner; none, and nothing changed, where there are others.
    #[inline]
    pub(in crate::memory) fn own(&self, index: u64) -> Option<OwnedSlab> {
        self.record(index).own().then_some(OwnedSlab { serial: self.serial, index })
    }

    /// As [`Slabs::open`], but its first holder is its owner.
    ///
    /// # Panics
    /// If it is not closed.
    #[inline]
    pub(in crate::memory) fn open_owned(&self, index: u64) -> Option<OwnedSlab> {
        let is_open = self.record(index).open_owned(|was_written| self.may_open(index, was_written));
        is_open.then_some(OwnedSlab { serial: self.serial, index })
    }

    /// The owner gives the slab back, and has exclusive access.
    ///
    /// # Panics
    /// If the slab is one of other slabs.
    #[inline]
    pub(in crate::memory) fn disown(&self, slab: OwnedSlab) -> Exclusive<'_> {
        self.record(self.index_of(&slab)).disown()
    }

    /// The index of an owned slab.
    #[inline]
    pub(super) fn index_of(&self, slab: &OwnedSlab) -> u64 {
        assert_eq!(slab.serial, self.serial, "a slab of another heap, or of another class");
        slab.index
    }
}
