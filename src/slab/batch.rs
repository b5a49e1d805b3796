//! Several slabs at once: all or none, decided once.

use super::allocator::{SlabAllocator, count};
use super::error::SlabError;
use super::reference::{Memory, Owner, SlabRef};

/// What became of a batch that was given back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BatchFreed {
    /// Slabs that are free again.
    pub freed: usize,
    /// What was wrong with the others: their place in the batch, and why.
    pub errors: Vec<(usize, SlabError)>,
}

impl SlabAllocator {
    /// So many slabs, or none. Whether there are as many is decided once, for all; that is what it is for, it is no faster
    /// than so many calls. The list itself is one allocation of Rust's own allocator. More than the capacity is refused, also
    /// where Rust's own allocator would help.
    ///
    /// ```
    /// use maas::slab::{SlabAllocator, SlabError};
    ///
    /// let allocator = SlabAllocator::builder(64, 10).build()?;
    /// let eight = allocator.allocate_batch(8)?;
    /// let refused = allocator.allocate_batch(3);
    /// assert!(matches!(refused, Err(SlabError::OutOfMemory { requested: 3, in_use: 8, capacity: 10 })));
    /// assert_eq!(allocator.deallocate_batch(eight).freed, 8);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`SlabAllocator::allocate`].
    pub fn allocate_batch(&self, slabs: usize) -> Result<Vec<SlabRef<'_>>, SlabError> {
        count(&self.counts.batch_allocations);
        self.allocate_all(slabs).inspect_err(|error| self.not_served(error))
    }

    fn allocate_all(&self, slabs: usize) -> Result<Vec<SlabRef<'_>>, SlabError> {
        if slabs == 0 && !self.is_closed() {
            return Ok(Vec::new()); // nothing was tried, so it says nothing to the breaker
        }
        self.may_try()?;
        let wanted = slabs as u64;
        // However much Rust's own allocator has: more than all slabs there can be is a mistake.
        if wanted > self.fixed.capacity {
            return Err(self.out_of_memory(wanted, self.heap.in_use_bytes()));
        }
        let granted = self.heap.grant(wanted * self.fixed.stride_bytes);
        if let Err(error) = granted {
            return if self.heap_fallback {
                // As many as there are, and the rest from elsewhere; where that ends, what was made is given back.
                (0..slabs).map(|_| self.allocate_uncounted().map(|memory| self.reference(memory))).collect()
            } else {
                Err(self.refused(wanted, &error))
            };
        }
        let mut taken = Vec::with_capacity(slabs);
        while taken.len() < slabs {
            match self.heap.back_owned(self.class) {
                Ok(slab) => taken.push(self.reference(Memory::Slab(slab))),
                Err(error) => {
                    self.heap.give_back((slabs - taken.len()) as u64 * self.fixed.stride_bytes);
                    return Err(self.refused(wanted, &error));
                }
            }
        }
        self.succeeded();
        Ok(taken)
    }

    fn reference(&self, memory: Memory) -> SlabRef<'_> {
        let site = self.enter_site(&memory);
        SlabRef::new(Owner::Borrowed(self), memory, site)
    }

    /// Gives all of them back, whatever is wrong with some: each as [`SlabAllocator::deallocate`] does.
    pub fn deallocate_batch<'a>(&self, slabs: impl IntoIterator<Item = SlabRef<'a>>) -> BatchFreed {
        count(&self.counts.batch_deallocations);
        let mut outcome = BatchFreed::default();
        for (place, slab) in slabs.into_iter().enumerate() {
            match self.deallocate(slab) {
                Ok(()) => outcome.freed += 1,
                Err(error) => outcome.errors.push((place, error)),
            }
        }
        outcome
    }
}
