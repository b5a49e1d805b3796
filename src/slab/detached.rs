//! Slabs that are known by an id alone: for foreign code, and for structures that hold numbers.

use super::allocator::SlabAllocator;
use super::error::SlabError;
use super::reference::{Memory, Owner, SlabRef};
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
#[derive(Default)]
pub(super) struct Detached(Mutex<Numbers>);

#[derive(Default)]
struct Numbers {
    next: u64,
    /// Those below are of before a reset.
    first: u64,
    kept: BTreeMap<u64, Kept>,
}

/// A slab as it was detached, and the key of the site where it was allocated.
pub(super) struct Kept {
    pub(super) memory: Memory,
    pub(super) site: Option<u64>,
}

/// Why there is no slab of a number.
pub(super) enum Missing {
    /// There was, once.
    Ended,
    /// There never was, or before a reset.
    Unknown,
}

impl Detached {
    pub(super) fn keep(&self, kept: Kept) -> u64 {
        let mut numbers = self.0.lock();
        let number = numbers.next;
        numbers.next += 1;
        numbers.kept.insert(number, kept);
        number
    }

    pub(super) fn take(&self, number: u64) -> Result<Kept, Missing> {
        let mut numbers = self.0.lock();
        let is_known = (numbers.first..numbers.next).contains(&number);
        numbers.kept.remove(&number).ok_or(if is_known { Missing::Ended } else { Missing::Unknown })
    }

    pub(super) fn take_all(&self) -> Vec<Kept> {
        let mut numbers = self.0.lock();
        numbers.first = numbers.next;
        std::mem::take(&mut numbers.kept).into_values().collect()
    }

    pub(super) fn len(&self) -> u64 {
        self.0.lock().kept.len() as u64
    }
}

impl SlabAllocator {
    /// Makes a reference of an id again; the id is good no more.
    ///
    /// # Errors
    /// [`SlabError::InvalidReference`] where no slab has the id, or none any more.
    pub fn attach(&self, id: SlabId) -> Result<SlabRef<'_>, SlabError> {
        let kept = self.kept(id).map_err(|_| SlabError::InvalidReference)?;
        Ok(SlabRef::new(Owner::Borrowed(self), kept.memory, kept.site))
    }

    /// Gives the slab of an id back.
    ///
    /// # Errors
    /// [`SlabError::DoubleFree`] where the id is good no more, [`SlabError::InvalidReference`] where it never was, or is of
    /// before a reset;
    /// [`SlabError::Corrupted`] as [`SlabRef::release`].
    pub fn deallocate_id(&self, id: SlabId) -> Result<(), SlabError> {
        let outcome = match self.kept(id) {
            Ok(kept) => self.take_back(kept.memory, kept.site),
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
