//! Where kept objects lie: each slot has a shelf, a stack that its threads take from and put back to.
//!
//! How many objects may be kept is a number of *places*. A shelf has some of them, the rest are free, with the census;
//! an object is put on a shelf only in a place. So the bound holds at every instant, and a thread that takes and puts back
//! changes nothing that other CPUs' threads look at.

use std::collections::VecDeque;

/// An object that is kept.
#[derive(Debug)]
pub(super) struct Kept<T> {
    pub(super) object: T,
    /// A user has had it before.
    pub(super) was_used: bool,
}

/// Objects kept by one slot. Its lock is held by whoever touches it; nobody makes, resets or drops an object under it.
#[derive(Debug)]
pub(super) struct Shelf<T> {
    objects: VecDeque<Kept<T>>,
    /// Objects that may lie here.
    places: usize,
    pub(super) acquired: u64,
    pub(super) reused: u64,
    pub(super) returned: u64,
}

impl<T> Default for Shelf<T> {
    fn default() -> Shelf<T> {
        Shelf { objects: VecDeque::new(), places: 0, acquired: 0, reused: 0, returned: 0 }
    }
}

impl<T> Shelf<T> {
    pub(super) fn len(&self) -> usize {
        self.objects.len()
    }

    #[cfg(all(test, not(feature = "loom")))]
    pub(super) fn places(&self) -> usize {
        self.places
    }

    pub(super) fn has_place(&self) -> bool {
        self.objects.len() < self.places
    }

    /// Keeps an object.
    ///
    /// # Panics
    /// If there is no place: that would be one more than may be kept.
    #[inline]
    pub(super) fn put(&mut self, object: T, was_used: bool) {
        assert!(self.has_place(), "an object was to be kept without a place");
        self.objects.push_back(Kept { object, was_used });
    }

    /// Takes the object put here last, for a user.
    #[inline]
    pub(super) fn take(&mut self) -> Option<T> {
        let Kept { object, was_used } = self.objects.pop_back()?;
        self.acquired += 1;
        self.reused += u64::from(was_used);
        Some(object)
    }

    /// Takes the oldest objects, so many at most, to be dropped.
    pub(super) fn take_oldest(&mut self, objects_max: usize) -> Vec<Kept<T>> {
        self.objects.drain(..objects_max.min(self.objects.len())).collect()
    }

    pub(super) fn add_places(&mut self, places: usize) {
        self.places += places;
    }

    /// Gives up places that nothing lies in, so many at most; how many they were.
    pub(super) fn give_up_places(&mut self, places_max: usize) -> usize {
        let given_up = (self.places - self.objects.len()).min(places_max);
        self.places -= given_up;
        given_up
    }

    /// Half of the places that nothing lies in, at least one of them.
    pub(super) fn places_to_spare(&self) -> usize {
        (self.places - self.objects.len()).div_ceil(2)
    }
}
