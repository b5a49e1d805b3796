//! What can be set about a pool of objects.

use super::stock::{Reset, Stock};
use super::{Factory, ObjectPool};
use crate::slab::lifeline::Lifelines;
use std::fmt;
use std::sync::Arc;

/// Makes an [`ObjectPool`].
#[must_use = "nothing is made before `build`"]
pub struct ObjectPoolBuilder<T> {
    objects_max: usize,
    kept_max: Option<usize>,
    make: Factory<T>,
    reset: Option<Reset<T>>,
}

impl<T> ObjectPoolBuilder<T> {
    pub(super) fn new(objects_max: usize, make: Factory<T>) -> ObjectPoolBuilder<T> {
        assert!(objects_max > 0, "a pool of no objects");
        ObjectPoolBuilder { objects_max, kept_max: None, make, reset: None }
    }

    /// Keeps at most so many ready. Default: all that may exist.
    pub fn kept_max(mut self, kept_max: usize) -> ObjectPoolBuilder<T> {
        self.kept_max = Some(kept_max);
        self
    }

    /// What is done to an object that is given back, in the thread that does it; where it returns false the object is
    /// dropped. Default: nothing, and all are kept.
    pub fn reset(mut self, reset: impl Fn(&mut T) -> bool + Send + Sync + 'static) -> ObjectPoolBuilder<T> {
        self.reset = Some(Box::new(reset));
        self
    }

    /// The pool, empty: [`ObjectPool::fill`] makes objects in advance.
    pub fn build(self) -> ObjectPool<T> {
        let kept_max = self.kept_max.unwrap_or(self.objects_max);
        let stock = Stock::new(self.objects_max, kept_max, self.reset);
        ObjectPool { lifelines: Lifelines::new(stock), make: Arc::new(self.make) }
    }
}

impl<T> fmt::Debug for ObjectPoolBuilder<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("ObjectPoolBuilder")
            .field("objects_max", &self.objects_max)
            .field("kept_max", &self.kept_max)
            .finish_non_exhaustive()
    }
}
