//! How a slab gets an owner, and loses it: the rules that make [`super::Slabs::owned`] sound. There is one [`OwnedSlab`] of a
//! slab, from here to here.

use super::Slabs;
use crate::memory::segment::Exclusive;
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
