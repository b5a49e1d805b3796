//! Slabs that are known by an id alone: for foreign code, and for structures that hold numbers.

use super::allocator::SlabAllocator;
use super::error::SlabError;
use super::reference::{Memory, Owner, SlabRef};
use crate::memory::OwnedSlab;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt;

/// Names a slab that was detached from its reference; good once. Another allocator, or the same after a reset, does not
/// know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlabId {
    pub(super) allocator: u64,
    pub(super) number: u64,
}

impl fmt::Display for SlabId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}-{}", self.allocator, self.number)
    }
}

/// Detached slabs, by number. Numbers only grow: one below the next that is not here was here once.
#[derive(Debug, Default)]
pub(super) struct Detached(Mutex<Numbers>);

#[derive(Debug, Default)]
struct Numbers {
    next: u64,
    slabs: BTreeMap<u64, Kept>,
}

/// A slab as it was detached, and the key of the site where it was allocated.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) slab: OwnedSlab,
    pub(super) site: Option<u64>,
}

/// Why there is no slab of a number.
pub(super) enum Missing {
    /// There was, once.
    Ended,
    /// There never was.
    Unknown,
}

impl Detached {
    pub(super) fn keep(&self, kept: Kept) -> u64 {
        let mut numbers = self.0.lock();
        let number = numbers.next;
        numbers.next += 1;
        numbers.slabs.insert(number, kept);
        number
    }

    pub(super) fn take(&self, number: u64) -> Result<Kept, Missing> {
        let mut numbers = self.0.lock();
        let is_known = number < numbers.next;
        numbers.slabs.remove(&number).ok_or(if is_known { Missing::Ended } else { Missing::Unknown })
    }

    pub(super) fn take_all(&self) -> Vec<Kept> {
        std::mem::take(&mut self.0.lock().slabs).into_values().collect()
    }

    pub(super) fn len(&self) -> u64 {
        self.0.lock().slabs.len() as u64
    }
}

impl SlabAllocator {
    /// Makes a reference of an id again; the id is good no more.
    ///
    /// # Errors
    /// [`SlabError::InvalidReference`] where no slab has the id, or none any more.
    pub fn attach(&self, id: SlabId) -> Result<SlabRef<'_>, SlabError> {
        let kept = self.kept(id).map_err(|_| SlabError::InvalidReference)?;
        Ok(SlabRef::new(Owner::Borrowed(self), Memory::Slab(kept.slab), kept.site))
    }

    /// Gives the slab of an id back.
    ///
    /// # Errors
    /// [`SlabError::DoubleFree`] where the id is good no more, [`SlabError::InvalidReference`] where it never was;
    /// [`SlabError::Corrupted`] as [`SlabRef::release`].
    pub fn deallocate_id(&self, id: SlabId) -> Result<(), SlabError> {
        let outcome = match self.kept(id) {
            Ok(kept) => self.take_back(Memory::Slab(kept.slab), kept.site),
            Err(Missing::Ended) => Err(SlabError::DoubleFree),
            Err(Missing::Unknown) => Err(SlabError::InvalidReference),
        };
        self.given_back(outcome)
    }

    fn kept(&self, id: SlabId) -> Result<Kept, Missing> {
        if id.allocator == self.number { self.detached.take(id.number) } else { Err(Missing::Unknown) }
    }

    pub(super) fn keep(&self, kept: Kept) -> SlabId {
        SlabId { allocator: self.number, number: self.detached.keep(kept) }
    }
}
