//! What keeps something alive that all CPUs use, without one count that all of them write.

use crate::slot::PerSlot;
use crossbeam_utils::CachePadded;
use std::ops::Deref;
use std::sync::Arc;

/// Keeps its target alive, by a count that is mostly touched by the threads of one slot: a single count would be a line
/// that all CPUs write at each acquire.
#[derive(Debug)]
pub(super) struct Lifeline<C>(Arc<CachePadded<Arc<C>>>);

impl<C> Deref for Lifeline<C> {
    type Target = C;

    #[inline]
    fn deref(&self) -> &C {
        &self.0
    }
}

impl<C> Clone for Lifeline<C> {
    #[inline]
    fn clone(&self) -> Lifeline<C> {
        Lifeline(Arc::clone(&self.0))
    }
}

/// A lifeline for each slot; the target lives as long as any of them, or a clone of one.
#[derive(Debug)]
pub(super) struct Lifelines<C>(Arc<PerSlot<Lifeline<C>>>);

impl<C> Lifelines<C> {
    pub(super) fn new(target: C) -> Lifelines<C> {
        let target = Arc::new(target);
        Lifelines(Arc::new(PerSlot::new(|_| Lifeline(Arc::new(CachePadded::new(Arc::clone(&target)))))))
    }

    /// The lifeline of the calling thread's slot.
    #[inline]
    pub(super) fn mine(&self) -> &Lifeline<C> {
        self.0.mine()
    }
}

impl<C> Clone for Lifelines<C> {
    fn clone(&self) -> Lifelines<C> {
        Lifelines(Arc::clone(&self.0))
    }
}
