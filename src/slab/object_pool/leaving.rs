//! How objects cease to be the pool's: counted one by one, whatever panics.

use super::census::Census;
use super::shelf::Kept;
use super::stock::Stock;
use std::vec::IntoIter;

/// An object ceases to be one of the pool's when this is dropped, whatever happened to it.
#[must_use]
pub(super) struct Leaving<'a, T> {
    stock: &'a Stock<T>,
    count: fn(&mut Census),
}

impl<'a, T> Leaving<'a, T> {
    pub(super) fn new(stock: &'a Stock<T>, count: fn(&mut Census)) -> Leaving<'a, T> {
        Leaving { stock, count }
    }

    /// Drops an object, which counts as long as it lives, and no longer: also where dropping it panics.
    pub(super) fn drop_counted(stock: &'a Stock<T>, object: T, count: fn(&mut Census)) {
        let leaving = Leaving::new(stock, count);
        drop(object);
        drop(leaving);
    }
}

impl<T> Drop for Leaving<'_, T> {
    fn drop(&mut self) {
        let mut census = self.stock.census.lock();
        census.existing -= 1;
        (self.count)(&mut census);
        self.stock.tell(&mut census); // another may be made in its place
    }
}

/// Objects on their way out of the pool. Where dropping one of them panics, the panic goes on to the caller, and the others
/// are dropped and counted all the same. Where a second one panics then, the process ends, as it does with a vector.
#[must_use]
pub(super) struct Discarding<'a, T> {
    stock: &'a Stock<T>,
    objects: IntoIter<Kept<T>>,
}

impl<'a, T> Discarding<'a, T> {
    pub(super) fn new(stock: &'a Stock<T>, objects: Vec<Kept<T>>) -> Discarding<'a, T> {
        Discarding { stock, objects: objects.into_iter() }
    }

    /// Drops what is left, the oldest first.
    pub(super) fn go_on(&mut self) {
        self.objects.by_ref().for_each(|Kept { object, .. }| self.stock.discard(object));
    }
}

/// What a panic left.
impl<T> Drop for Discarding<'_, T> {
    fn drop(&mut self) {
        self.go_on();
    }
}
