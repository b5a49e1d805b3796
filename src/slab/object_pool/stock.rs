//! Taking, giving back, making, waiting: the one place that counts objects.
//!
//! Two kinds of locks: one for each shelf, and the census. Whoever takes several takes shelves in the order of their
//! slots, and the census last. What a user does often, taking and giving back, needs the lock of one shelf.
//!
//! Nobody sleeps beside a kept object. A waiter raises `waiting`, and then looks at every shelf, under its lock. Whoever puts
//! an object on a shelf looks at `waiting` after that shelf's lock: either it held the lock first, and the waiter sees the
//! object; or the waiter did, and it sees `waiting`. Then it counts a change in the census, and the waiter sleeps
//! only while there was none since before it looked.

use super::ObjectPoolStats;
use super::census::Census;
use super::leaving::{Discarding, Leaving};
use super::shelf::{Kept, Shelf};
use super::waiting::Waiting;
use crate::slot::{self, PerSlot};
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Places that a shelf takes from the free ones at a time.
const PLACES_BATCH: usize = 16;

/// What is done to an object that is given back; false: it is not to be kept.
pub(super) type Reset<T> = Box<dyn Fn(&mut T) -> bool + Send + Sync>;

/// See the module.
pub(in crate::slab) struct Stock<T> {
    shelves: PerSlot<Mutex<Shelf<T>>>,
    pub(super) census: Mutex<Census>,
    /// Told of `changes`.
    pub(super) changed: Condvar,
    /// Threads that wait. Relaxed: the locks of the shelves order it, see the module.
    pub(super) waiting: AtomicUsize,
    /// Set once. Relaxed: `close` takes each shelf's lock after that, and whoever puts reads it under that lock.
    is_closed: AtomicBool,
    objects_max: usize,
    reset: Option<Reset<T>>,
}

/// Why there is no object.
#[derive(Debug)]
pub(in crate::slab) enum TakeError<E> {
    /// As many exist as may, and none is kept.
    Exhausted {
        objects_max: usize,
    },
    Closed,
    /// It could not be made.
    Make(E),
}

impl<T> Stock<T> {
    pub(in crate::slab) fn new(objects_max: usize, kept_max: usize, reset: Option<Reset<T>>) -> Stock<T> {
        Stock {
            shelves: PerSlot::new(|_| Mutex::default()),
            census: Mutex::new(Census::new(kept_max)),
            changed: Condvar::new(),
            waiting: AtomicUsize::new(0),
            is_closed: AtomicBool::new(false),
            objects_max,
            reset,
        }
    }

    /// An object that is kept: by this slot, else by another.
    #[inline]
    pub(in crate::slab) fn take_kept(&self) -> Option<T> {
        let mine = slot::current();
        let taken = self.shelves.of(mine).lock().take();
        taken.or_else(|| self.take_from_others(mine))
    }

    #[cold]
    fn take_from_others(&self, mine: usize) -> Option<T> {
        slot::near(mine).find_map(|slot| self.shelves.of(slot).lock().take())
    }

    /// An object that is made, after none was found; where that may not be, one that is kept by now.
    #[cold]
    pub(in crate::slab) fn take_or_make<E>(
        &self,
        make: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, TakeError<E>> {
        if self.enter(&mut self.census.lock())? {
            return self.make(make, 1);
        }
        // All shelves at one instant: else an object could be passed over for ever while others put it here and there.
        let mut shelves: Vec<MutexGuard<'_, Shelf<T>>> = self.shelves.iter().map(Mutex::lock).collect();
        if let Some(object) = shelves.iter_mut().find_map(|shelf| shelf.take()) {
            return Ok(object);
        }
        let entered = self.enter(&mut self.census.lock())?;
        drop(shelves);
        if entered { self.make(make, 1) } else { Err(TakeError::Exhausted { objects_max: self.objects_max }) }
    }

    /// Counts one object more; false where as many exist as may.
    fn enter<E>(&self, census: &mut Census) -> Result<bool, TakeError<E>> {
        if self.is_closed.load(Ordering::Relaxed) {
            return Err(TakeError::Closed);
        }
        let may_enter = census.existing < self.objects_max;
        census.existing += usize::from(may_enter);
        Ok(may_enter)
    }

    /// Makes an object that was counted before, for so many users. One that is not made is not counted.
    fn make<E>(&self, make: impl FnOnce() -> Result<T, E>, users: u64) -> Result<T, TakeError<E>> {
        let not_made = Leaving::new(self, |_| ()); // also where `make` panics
        let object = make().map_err(TakeError::Make)?;
        mem::forget(not_made);
        let mut census = self.census.lock();
        census.created += 1;
        census.acquired += users;
        Ok(object)
    }

    /// Makes objects until so many are kept, as far as may be; how many were made.
    pub(in crate::slab) fn fill<E>(
        &self,
        kept: usize,
        make: impl Fn() -> Result<T, E>,
    ) -> Result<usize, TakeError<E>> {
        let mut made = 0;
        while self.kept() < kept.min(self.census.lock().kept_max) {
            if !self.enter(&mut self.census.lock())? {
                break;
            }
            let object = self.make(&make, 0)?;
            if !self.put_slowly(object, false) {
                break;
            }
            made += 1;
            self.tell_waiters();
        }
        Ok(made)
    }

    /// Resets an object that its user gives back, and keeps it.
    #[inline]
    pub(super) fn reset_and_put(&self, object: T) {
        if std::thread::panicking() {
            return self.refuse(object); // what its user left half done is nobody else's
        }
        let Some(reset) = &self.reset else {
            self.put(object);
            return;
        };
        // Declared before the object, so that it counts as long as it lives: also where the hook panics.
        let refused = Leaving::new(self, Census::count_refused);
        let mut object = object;
        if !reset(&mut object) {
            drop(object);
            return drop(refused);
        }
        mem::forget(refused);
        self.put(object);
    }

    /// Keeps an object that was given back, if there is a place. How many were given back at this shelf so far, which
    /// tells the caller when to do what need not be done each time.
    #[inline]
    pub(in crate::slab) fn put(&self, object: T) -> u64 {
        let mut shelf = self.shelves.mine().lock();
        shelf.returned += 1;
        let returned = shelf.returned;
        if shelf.has_place() && !self.is_closed.load(Ordering::Relaxed) {
            shelf.put(object, true);
            drop(shelf);
            self.tell_waiters();
        } else {
            drop(shelf);
            if self.put_slowly(object, true) {
                self.tell_waiters();
            }
        }
        returned
    }

    /// Keeps an object where the slot's shelf is full; false where it had to be dropped.
    #[cold]
    fn put_slowly(&self, object: T, was_used: bool) -> bool {
        /// Others may take the places that were found; after so many times they have the object's.
        const ATTEMPTS: usize = 3;
        let mine = slot::current();
        for _ in 0..ATTEMPTS {
            let mut shelf = self.shelves.of(mine).lock();
            if self.is_closed.load(Ordering::Relaxed) {
                break;
            }
            if !shelf.has_place() {
                let mut census = self.census.lock();
                let places = census.places_free.min(PLACES_BATCH);
                census.places_free -= places;
                shelf.add_places(places);
            }
            if shelf.has_place() {
                shelf.put(object, was_used);
                return true;
            }
            drop(shelf);
            if !self.free_places_of_others(mine) {
                break;
            }
        }
        self.discard(object);
        false
    }

    /// Frees places of another slot's shelf that nothing lies in; false where there are none.
    fn free_places_of_others(&self, mine: usize) -> bool {
        slot::near(mine).any(|slot| {
            let mut shelf = self.shelves.of(slot).lock();
            let spare = shelf.places_to_spare();
            let given_up = shelf.give_up_places(spare);
            if given_up > 0 {
                self.census.lock().take_back_places(given_up);
            }
            given_up > 0
        })
    }

    /// Drops an object that is one too many.
    pub(in crate::slab) fn discard(&self, object: T) {
        Leaving::drop_counted(self, object, Census::count_dropped);
    }

    /// Drops an object that must not be used again.
    #[cold]
    fn refuse(&self, object: T) {
        Leaving::drop_counted(self, object, Census::count_refused);
    }

    /// An object was taken out for good.
    pub(super) fn forget_taken(&self) {
        drop(Leaving::new(self, Census::count_taken));
    }

    /// Tells whoever waits that an object was put on a shelf.
    #[inline]
    fn tell_waiters(&self) {
        if self.waiting.load(Ordering::Relaxed) > 0 {
            self.tell(&mut self.census.lock());
        }
    }

    pub(super) fn tell(&self, census: &mut Census) {
        census.changes += 1;
        self.changed.notify_one();
    }

    /// The caller waits for an object, until it drops this.
    pub(super) fn begin_waiting(&self) -> Waiting<'_, T> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting::new(self)
    }

    /// Objects kept.
    pub(in crate::slab) fn kept(&self) -> usize {
        self.shelves.iter().map(|shelf| shelf.lock().len()).sum()
    }

    /// Keeps at most so many from now on. Where more are kept, [`Stock::drop_surplus`] has to be called.
    pub(in crate::slab) fn set_kept_max(&self, kept_max: usize) {
        self.census.lock().set_kept_max(kept_max);
    }

    /// Drops objects that are kept beyond the bound, so many at most, oldest first. How many were dropped.
    pub(in crate::slab) fn drop_surplus(&self, objects_max: usize) -> usize {
        let mut surplus = Vec::new();
        // Places that nothing lies in first, wherever they are: an object is dropped only for want of them.
        for with_objects in [false, true] {
            for shelf in self.shelves.iter() {
                let mut shelf = shelf.lock();
                let mut census = self.census.lock();
                let objects_max = if with_objects { objects_max - surplus.len() } else { 0 };
                surplus.extend(shelf.take_oldest(census.places_owed.min(objects_max)));
                let given_up = shelf.give_up_places(census.places_owed);
                census.take_back_places(given_up);
            }
        }
        let dropped = surplus.len();
        self.discard_all(surplus);
        dropped
    }

    /// Drops objects that were taken off their shelves: all of them, also where one panics.
    fn discard_all(&self, objects: Vec<Kept<T>>) {
        Discarding::new(self, objects).go_on();
    }

    /// Drops one object that is kept, the oldest of its shelf; false where none is.
    pub(in crate::slab) fn give_up_one(&self) -> bool {
        let given_up = self.shelves.iter().find_map(|shelf| shelf.lock().take_oldest(1).pop());
        given_up.map(|Kept { object, .. }| self.discard(object)).is_some()
    }

    /// Whether nothing is kept in any of these, at one instant. Whoever locks shelves of several does it in the same order.
    pub(in crate::slab) fn are_empty<'a>(stocks: impl Iterator<Item = &'a Stock<T>>) -> bool
    where
        T: 'a,
    {
        let shelves: Vec<_> = stocks.flat_map(|stock| stock.shelves.iter()).map(Mutex::lock).collect();
        shelves.iter().all(|shelf| shelf.len() == 0)
    }

    /// See [`super::ObjectPool::close`].
    pub(in crate::slab) fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
        let kept = self.shelves.iter().flat_map(|shelf| shelf.lock().take_oldest(usize::MAX)).collect();
        // Before anything of the user's is called: who waits hears of the end, whatever dropping does.
        self.census.lock().changes += 1;
        self.changed.notify_all();
        self.discard_all(kept);
    }

    pub(in crate::slab) fn stats(&self) -> ObjectPoolStats {
        let mut stats = ObjectPoolStats { objects_max: self.objects_max, ..ObjectPoolStats::default() };
        for shelf in self.shelves.iter() {
            let shelf = shelf.lock();
            stats.kept += shelf.len();
            stats.acquired += shelf.acquired;
            stats.reused += shelf.reused;
            stats.returned += shelf.returned;
        }
        let census = self.census.lock();
        stats.kept_max = census.kept_max;
        stats.in_use = census.existing.saturating_sub(stats.kept);
        stats.waiting = self.waiting.load(Ordering::Relaxed);
        stats.acquired += census.acquired;
        stats.returned += census.refused; // they came back, but not to a shelf
        (stats.created, stats.dropped) = (census.created, census.dropped);
        (stats.refused, stats.taken) = (census.refused, census.taken);
        stats
    }

    /// Asserts what holds at every instant.
    #[cfg(all(test, not(feature = "loom")))]
    pub(in crate::slab) fn check(&self) {
        let shelves: Vec<_> = self.shelves.iter().map(Mutex::lock).collect();
        let census = self.census.lock();
        let (kept, places) = shelves
            .iter()
            .fold((0, 0), |(kept, places), shelf| (kept + shelf.len(), places + shelf.places()));
        assert!(shelves.iter().all(|shelf| shelf.len() <= shelf.places()), "an object without a place");
        assert_eq!(places + census.places_free, census.kept_max + census.places_owed, "places are lost");
        assert!(kept <= census.existing && census.existing <= self.objects_max, "{kept} kept, {census:?}");
        assert!(census.refused <= census.dropped, "{census:?}");
    }
}
