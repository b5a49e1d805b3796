//! Giving out: a slab of a class, from the first tier that has one. `tiers.rs` has the fast path, `scarce.rs` the last.

use super::class::{Account, Class, Source};
use super::os::OsError;
use super::{AllocateError, Heap, SizeClass, SlabLocation};

impl Heap {
    /// Gives out a slab of `class`, all zeros, with the caller as its only holder.
    ///
    /// # Errors
    /// [`AllocateError::Exhausted`] if, and only if, at one instant during the call the bytes in use and the slab
    /// together exceeded the limit; free slabs of any class never stand in the way. [`AllocateError::System`] where
    /// the system grants no pages. Nothing changed in either case.
    #[inline]
    pub fn allocate(&self, class: SizeClass) -> Result<SlabLocation, AllocateError> {
        match self.take_from_magazine(class) {
            Some(index) => Ok(SlabLocation::new(class, index)),
            None => self.allocate_past_magazine(class),
        }
    }

    /// As [`Heap::allocate`], of what the thread's magazine has; none where it has none, and nothing changed then.
    #[inline]
    pub(crate) fn allocate_ready(&self, class: SizeClass) -> Option<SlabLocation> {
        self.take_from_magazine(class).map(|index| SlabLocation::new(class, index))
    }

    /// The thread's magazine has no slab, or may not give one out.
    #[cold]
    fn allocate_past_magazine(&self, class: SizeClass) -> Result<SlabLocation, AllocateError> {
        if let Some(index) = self.refill(class, false) {
            return Ok(SlabLocation::new(class, index));
        }
        let bytes = self.class_bytes(class);
        self.grant(bytes)?;
        let backed = match self.back_one(class) {
            Ok(None) => self.back_scarce(class),
            Ok(Some(location)) => Ok(location),
            Err(error) => Err(error),
        };
        backed.inspect_err(|_| self.give_back(bytes))
    }

    /// Turns granted bytes into a slab of `class`, all zeros, with the caller as its only holder. A free slab that was
    /// damaged is retired on the way.
    ///
    /// # Errors
    /// [`AllocateError::System`] where the system grants no pages, [`AllocateError::Exhausted`] where a slab was retired
    /// that leaves no room for another; the bytes are then still granted.
    #[inline]
    pub(crate) fn back(&self, class: SizeClass) -> Result<SlabLocation, AllocateError> {
        match self.back_unless_scarce(class)? {
            Some(location) => Ok(location),
            None => self.back_scarce(class),
        }
    }

    /// As [`Heap::back`], but none where that takes the scarce path.
    ///
    /// # Errors
    /// As [`Heap::back`].
    #[inline]
    pub(crate) fn back_unless_scarce(&self, class: SizeClass) -> Result<Option<SlabLocation>, AllocateError> {
        let ready = self.take_granted_from_magazine(class).or_else(|| self.refill(class, true));
        match ready {
            Some(index) => Ok(Some(SlabLocation::new(class, index))),
            None => self.back_one(class),
        }
    }

    /// Backs past the magazines: by a free slab of the class, else by fresh bytes from the budget; else not.
    #[cold]
    pub(super) fn back_one(&self, class: SizeClass) -> Result<Option<SlabLocation>, AllocateError> {
        self.take_undamaged(|| {
            let room = self.class(class);
            let mut account = room.lock();
            // Read under the class's lock: see scarce.rs.
            if self.scarce.is_raised() {
                return Ok(None);
            }
            let taken = self.take_free_or_fresh(room, &mut account)?;
            Ok(taken.map(|(index, source)| {
                account.count_source(source);
                SlabLocation::new(class, index)
            }))
        })
    }

    /// A free slab of the class, or one that is fresh from the budget.
    pub(super) fn take_free_or_fresh(
        &self,
        room: &Class,
        account: &mut Account,
    ) -> Result<Option<(u64, Source)>, AllocateError> {
        if let Some(index) = room.take_free(account) {
            return Ok(Some((index, Source::Class)));
        }
        if !self.budget.take(room.slab_bytes()) {
            return Ok(None);
        }
        let taken = self.take_fresh(room, account);
        let system = |error| AllocateError::System { requested_bytes: room.slab_bytes(), error };
        taken.map(|index| Some((index, Source::Fresh))).map_err(system)
    }

    /// Turns bytes just taken from the budget into a slab in the caller's hands; gives them back where that fails.
    pub(super) fn take_fresh(&self, room: &Class, account: &mut Account) -> Result<u64, OsError> {
        match room.add_fresh(account) {
            // Not necessarily the slab just added: another may have become free, at a lower index.
            Ok(_) => Ok(room.take_free(account).expect("a slab was just added under this lock")),
            Err(error) => {
                self.budget.give_back(room.slab_bytes());
                Err(error)
            }
        }
    }
}
