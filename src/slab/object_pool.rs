//! Objects that are costly to make, kept for the next user: [`ObjectPool`].
//!
//! Two bounds, each with its name: `objects_max` objects exist at a time, in use or kept; at most `kept_max` of them are
//! kept ready. What is given back beyond that is dropped.
//!
//! ```text
//!   shelf.rs   where kept objects lie: a stack for each CPU, and how many places it has
//!   stock.rs   taking, giving back, making, waiting: the one place that counts objects
//!   census.rs  what is counted rarely: when objects come into being and cease to be, and when places move
//!   leaving.rs how objects cease to be the pool's, whatever panics
//!   waiting.rs who waits
//!   builder.rs what can be set
//! ```
//!
//! What calls cost, with `n` objects: [`ObjectPool::acquire`] and giving back are O(1) in `n`, one lock of one byte
//! that threads of other CPUs do not touch. Where a CPU's stack is empty those of the others are looked at, in turn; where
//! all are, an object is made. Where no more may be made, all stacks are looked at once more, at one instant, before the
//! refusal. [`ObjectPool::stats`] takes each stack's lock in turn.
//!
//! What a panic leaves: a factory that panics has made nothing, and its place is free for others. An object is dropped,
//! counted, and never kept if its reset hook panics, or if it is given back because its user panics. An object that panics
//! when it is dropped is counted as dropped, and so are the others that were to be dropped with it.

mod builder;
mod census;
mod leaving;
mod shelf;
mod stock;
mod waiting;

pub use builder::ObjectPoolBuilder;

pub(super) use self::stock::{Stock, TakeError};

use super::lifeline::{Lifeline, Lifelines};
use super::waiting::deadline_after;
use std::error::Error;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Why a fallible factory made nothing.
pub type FactoryError = Box<dyn Error + Send + Sync>;

type Factory<T> = Box<dyn Fn() -> Result<T, FactoryError> + Send + Sync>;

/// A bounded pool of objects. Cloning it is cheap and gives the same pool.
///
/// ```
/// use maas::slab::ObjectPool;
///
/// let pool = ObjectPool::builder(8, || Vec::<u8>::with_capacity(4096))
///     .kept_max(4)
///     .reset(|scratch| {
///         scratch.clear();
///         scratch.capacity() <= 1 << 20 // one that grew too large is not kept
///     })
///     .build();
/// let mut scratch = pool.acquire()?;
/// scratch.extend_from_slice(b"hello");
/// drop(scratch); // back in the pool, and empty
/// assert!(pool.acquire()?.is_empty());
/// let stats = pool.stats();
/// assert_eq!((stats.created, stats.reused, stats.reuse_rate()), (1, 1, 0.5));
/// # Ok::<(), maas::slab::ObjectError>(())
/// ```
pub struct ObjectPool<T> {
    lifelines: Lifelines<Stock<T>>,
    make: Arc<Factory<T>>,
}

/// Why there is no object to be had.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// All objects that may exist are in use.
    #[error("all {objects_max} objects of the pool are in use")]
    Exhausted {
        /// The bound.
        objects_max: usize,
    },
    /// The same, and none came back in time.
    #[error("all {objects_max} objects of the pool were in use for {waited:?}")]
    Timeout {
        /// The bound.
        objects_max: usize,
        /// How long it took until the wait was given up.
        waited: Duration,
    },
    /// The factory failed.
    #[error("making an object for the pool")]
    Factory(#[source] FactoryError),
    /// The pool was closed.
    #[error("the pool of objects is closed")]
    Closed,
}

impl<T> ObjectPool<T> {
    /// A pool of at most `objects_max` objects, made by `make` when there is none to be used again.
    ///
    /// # Panics
    /// If `objects_max` is 0.
    pub fn builder(objects_max: usize, make: impl Fn() -> T + Send + Sync + 'static) -> ObjectPoolBuilder<T> {
        ObjectPool::fallible_builder(objects_max, move || Ok(make()))
    }

    /// As [`ObjectPool::builder`], where making an object may fail: whoever asked is told.
    ///
    /// # Panics
    /// If `objects_max` is 0.
    pub fn fallible_builder(
        objects_max: usize,
        make: impl Fn() -> Result<T, FactoryError> + Send + Sync + 'static,
    ) -> ObjectPoolBuilder<T> {
        ObjectPoolBuilder::new(objects_max, Box::new(make))
    }

    /// An object that is kept, else one that is made. Never waits for others to give one back.
    ///
    /// # Errors
    /// [`ObjectError::Exhausted`] if, and only if, at one instant during the call as many objects existed as may and
    /// none was kept; [`ObjectError::Factory`]; [`ObjectError::Closed`].
    #[inline]
    pub fn acquire(&self) -> Result<Pooled<T>, ObjectError> {
        let line = self.lifelines.mine();
        match line.take_kept() {
            Some(object) => Ok(Pooled { object: Some(object), line: line.clone() }),
            None => self.acquire_made(line),
        }
    }

    #[cold]
    fn acquire_made(&self, line: &Lifeline<Stock<T>>) -> Result<Pooled<T>, ObjectError> {
        let object = line.take_or_make(|| (self.make)()).map_err(|error| match error {
            TakeError::Exhausted { objects_max } => ObjectError::Exhausted { objects_max },
            TakeError::Closed => ObjectError::Closed,
            TakeError::Make(error) => ObjectError::Factory(error),
        })?;
        Ok(Pooled { object: Some(object), line: line.clone() })
    }

    /// An object that is kept; none where one would have to be made or waited for.
    #[inline]
    pub fn try_acquire(&self) -> Option<Pooled<T>> {
        let line = self.lifelines.mine();
        line.take_kept().map(|object| Pooled { object: Some(object), line: line.clone() })
    }

    /// As [`ObjectPool::acquire`], but waits for an object to be given back, at most for `timeout`. It blocks the
    /// thread: not for asynchronous tasks.
    ///
    /// # Errors
    /// [`ObjectError::Timeout`] where none came back in time; [`ObjectError::Factory`]; [`ObjectError::Closed`].
    pub fn acquire_timeout(&self, timeout: Duration) -> Result<Pooled<T>, ObjectError> {
        self.acquire_until(deadline_after(timeout))
    }

    /// As [`ObjectPool::acquire_timeout`], until `deadline`. Who waits is not served in order: whoever comes by when an
    /// object is given back may be faster.
    ///
    /// # Errors
    /// As [`ObjectPool::acquire_timeout`].
    pub fn acquire_until(&self, deadline: Instant) -> Result<Pooled<T>, ObjectError> {
        match self.acquire() {
            Err(ObjectError::Exhausted { .. }) => {}
            decided => return decided,
        }
        let begin = Instant::now();
        let stock = self.lifelines.mine();
        let waiting = stock.begin_waiting();
        loop {
            let seen = waiting.look();
            match self.acquire() {
                Err(ObjectError::Exhausted { objects_max }) => {
                    if !waiting.sleep(seen, deadline) {
                        return Err(ObjectError::Timeout { objects_max, waited: begin.elapsed() });
                    }
                }
                decided => return decided,
            }
        }
    }

    /// Makes objects in advance, until `kept` are kept. It stops before that where as many exist as may exist, or as many are
    /// kept as may be kept. Returns how many it made.
    ///
    /// # Errors
    /// [`ObjectError::Factory`], [`ObjectError::Closed`]; those made before are kept.
    pub fn fill(&self, kept: usize) -> Result<usize, ObjectError> {
        self.lifelines.mine().fill(kept, || (self.make)()).map_err(|error| match error {
            TakeError::Exhausted { objects_max } => ObjectError::Exhausted { objects_max },
            TakeError::Closed => ObjectError::Closed,
            TakeError::Make(error) => ObjectError::Factory(error),
        })
    }

    /// Keeps at most so many from now on. Those that are kept beyond it are dropped: all of them, also where one panics.
    pub fn set_kept_max(&self, kept_max: usize) {
        let stock = self.lifelines.mine();
        stock.set_kept_max(kept_max);
        stock.drop_surplus(usize::MAX);
    }

    /// Gives out nothing from now on, wakes whoever waits, and drops what is kept: all of it, also where an object panics.
    /// Objects in use are dropped when they are given back.
    pub fn close(&self) {
        self.lifelines.mine().close();
    }

    /// The pool's numbers: exact while no call is under way.
    pub fn stats(&self) -> ObjectPoolStats {
        self.lifelines.mine().stats()
    }
}

impl<T> Clone for ObjectPool<T> {
    fn clone(&self) -> ObjectPool<T> {
        ObjectPool { lifelines: self.lifelines.clone(), make: Arc::clone(&self.make) }
    }
}

impl<T> fmt::Debug for ObjectPool<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("ObjectPool").field(&self.stats()).finish()
    }
}

/// An object of a pool, until it is dropped: then it is reset and given back.
///
/// It keeps what the pool needs alive, so it can be sent to other threads and tasks and outlive the pool.
#[must_use = "an object that is dropped is given back"]
pub struct Pooled<T> {
    /// None once it is given back or taken out.
    object: Option<T>,
    line: Lifeline<Stock<T>>,
}

impl<T> Pooled<T> {
    /// Takes the object out of the pool for good: another may be made in its place.
    pub fn into_inner(mut self) -> T {
        let object = self.object.take().expect("it is here until it is dropped");
        self.line.forget_taken();
        object
    }
}

impl<T> Deref for Pooled<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        self.object.as_ref().expect("it is here until it is dropped")
    }
}

impl<T> DerefMut for Pooled<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        self.object.as_mut().expect("it is here until it is dropped")
    }
}

impl<T: fmt::Debug> fmt::Debug for Pooled<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("Pooled").field(&**self).finish()
    }
}

impl<T> Drop for Pooled<T> {
    #[inline]
    fn drop(&mut self) {
        if let Some(object) = self.object.take() {
            self.line.reset_and_put(object);
        }
    }
}

/// Numbers of a pool of objects.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ObjectPoolStats {
    /// Objects that may exist.
    pub objects_max: usize,
    /// Objects that may be kept, now.
    pub kept_max: usize,
    /// Objects that are kept.
    pub kept: usize,
    /// Objects in users' hands, or just being made, reset or dropped.
    pub in_use: usize,
    /// Threads that wait for an object.
    pub waiting: usize,
    /// Objects given to users.
    pub acquired: u64,
    /// Of these, objects that an earlier user had given back.
    pub reused: u64,
    /// Objects that users gave back.
    pub returned: u64,
    /// Objects that were made, those to be kept from the start included.
    pub created: u64,
    /// Objects that were dropped: more than may be kept, or refused, or left when the pool was closed.
    pub dropped: u64,
    /// Of these, objects that the reset hook refused, or whose user or hook panicked.
    pub refused: u64,
    /// Objects that were taken out for good.
    pub taken: u64,
}

impl ObjectPoolStats {
    /// Part of what users were given that an earlier user had given back; 0 where nothing was given out.
    pub fn reuse_rate(&self) -> f64 {
        if self.acquired == 0 { 0.0 } else { self.reused as f64 / self.acquired as f64 }
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests;
