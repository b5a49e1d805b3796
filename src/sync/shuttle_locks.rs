//! shuttle's lock in the words of parking_lot, as far as the heap speaks them.
//!
//! A wait on the condition ends at any time, as it may: who waits looks again. So a signal that is forgotten is not
//! found here; that every wait has a time limit is what saves it.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::PoisonError;
use std::time::Duration;

/// A lock that is not poisoned.
#[derive(Default)]
pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

/// Holds the lock.
pub(crate) struct MutexGuard<'a, T> {
    mutex: &'a Mutex<T>,
    /// None only inside of [`Condvar::wait_for`].
    held: Option<shuttle::sync::MutexGuard<'a, T>>,
}

/// Something to wait for.
#[derive(Debug, Default)]
pub(crate) struct Condvar;

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Mutex<T> {
        Mutex(shuttle::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        MutexGuard { mutex: self, held: Some(held) }
    }

    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        let held = self.0.try_lock().ok()?; // nobody panics with a lock in its hands and goes on
        Some(MutexGuard { mutex: self, held: Some(held) })
    }
}

impl<T> fmt::Debug for Mutex<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Mutex")
    }
}

impl<T> fmt::Debug for MutexGuard<'_, T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("MutexGuard")
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.held.as_ref().expect("it is held but inside of a wait")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.held.as_mut().expect("it is held but inside of a wait")
    }
}

impl Condvar {
    /// Gives the lock up, lets others run, and takes it again.
    pub(crate) fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, _timeout: Duration) {
        guard.held = None;
        shuttle::thread::yield_now();
        guard.held = guard.mutex.lock().held;
    }

    /// Nobody sleeps; see the file.
    pub(crate) fn notify_all(&self) {}
}
