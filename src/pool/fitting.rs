//! What a request of a size takes, and the largest that can be had: before anything is taken.

use super::AllocateError;
use super::local::Local;
use crate::memory::{self, Heap, Shape};

impl Local {
    /// What a block of that size is made of, and its actual bytes.
    pub(super) fn shape_for(&self, size_bytes: u64) -> Result<(Shape, u64), AllocateError> {
        self.if_it_can_be_had(size_bytes, self.heap().shape_for(size_bytes))
    }

    /// As [`Local::shape_for`], of whole pages, whatever classes there are.
    pub(super) fn page_shape_for(&self, size_bytes: u64) -> Result<(Shape, u64), AllocateError> {
        self.if_it_can_be_had(size_bytes, Heap::run_shape(size_bytes))
    }

    fn if_it_can_be_had(
        &self,
        size_bytes: u64,
        fitting: Option<(Shape, u64)>,
    ) -> Result<(Shape, u64), AllocateError> {
        let can_be_had = |(_, actual): &(Shape, u64)| {
            size_bytes <= self.allocation_size_max && *actual <= self.heap().limit_bytes()
        };
        match fitting.filter(can_be_had) {
            Some(shape) => Ok(shape),
            None => Err(self.too_large(size_bytes, fitting.map(|(_, actual)| actual))),
        }
    }

    /// The largest size that a request may ask for where so many bytes are free; none where even the smallest needs more.
    pub(super) fn largest_within(&self, free_bytes: u64) -> Option<u64> {
        let free_bytes = free_bytes.min(self.heap().limit_bytes());
        let run_bytes = free_bytes - free_bytes % memory::page_size();
        let is_run = run_bytes > self.heap().largest_class_bytes();
        let largest = if is_run { Some(run_bytes) } else { self.heap().largest_class_within(free_bytes) };
        largest.map(|bytes| bytes.min(self.allocation_size_max))
    }

    #[cold]
    fn too_large(&self, size_bytes: u64, actual_size_bytes: Option<u64>) -> AllocateError {
        let size_bytes_max = self.largest_within(self.heap().limit_bytes()).unwrap_or(0);
        AllocateError::TooLarge { size_bytes, actual_size_bytes, size_bytes_max }
    }
}
