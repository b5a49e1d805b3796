//! What a block is made of: a slab of a class, or runs of pages. How either is found for bytes that were granted.

use super::large::{Manner, Taker};
use super::{AllocateError, Heap, SizeClass, SlabLocation};

/// What a block is to be made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// A slab of that class.
    Slab(SizeClass),
    /// Segments of so many bytes in all, whole pages.
    Run(u64),
    /// One segment of so many bytes, whole pages.
    Span(u64),
}

/// What a block is made of. The caller is the only holder of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Backed {
    /// A slab.
    Slab(SlabLocation),
    /// Segments, in order.
    Run(Vec<SlabLocation>),
}

impl Backed {
    /// All that it is made of.
    pub(crate) fn locations(&self) -> &[SlabLocation] {
        match self {
            Backed::Slab(location) => std::slice::from_ref(location),
            Backed::Run(segments) => segments,
        }
    }

    /// The one slab or segment that it is made of.
    ///
    /// # Panics
    /// If there are several.
    pub(crate) fn only(self) -> SlabLocation {
        match self {
            Backed::Slab(location) => location,
            Backed::Run(segments) => {
                let [segment] = segments[..] else {
                    panic!("{} segments where one was wanted", segments.len())
                };
                segment
            }
        }
    }
}

impl Heap {
    /// What a block of `size_bytes` is made of, and its bytes then: a slab where a class holds it, else a run. None where no
    /// number says its bytes.
    #[inline]
    pub(crate) fn shape_for(&self, size_bytes: u64) -> Option<(Shape, u64)> {
        match self.class_for(size_bytes) {
            Some((class, slab_bytes)) => Some((Shape::Slab(class), slab_bytes)),
            None => Heap::run_shape(size_bytes),
        }
    }

    /// A run that holds `size_bytes`, and its bytes, whatever classes there are.
    pub(crate) fn run_shape(size_bytes: u64) -> Option<(Shape, u64)> {
        Heap::page_bytes_for(size_bytes).map(|bytes| (Shape::Run(bytes), bytes))
    }

    /// Bytes of a block of that shape.
    #[inline]
    pub(crate) fn shape_bytes(&self, shape: Shape) -> u64 {
        match shape {
            Shape::Slab(class) => self.class_bytes(class),
            Shape::Run(bytes) | Shape::Span(bytes) => bytes,
        }
    }

    /// Turns granted bytes into a block, however long that takes, all zeros, with the caller as its only holder.
    ///
    /// # Errors
    /// As [`Heap::back`].
    pub(crate) fn back_shape(&self, shape: Shape) -> Result<Backed, AllocateError> {
        match self.back_shape_unless_scarce(shape)? {
            Some(backed) => Ok(backed),
            None => self.back_shape_scarce(shape),
        }
    }

    /// As [`Heap::back_shape`], but none where that takes the scarce path, or longer than a slice of work.
    ///
    /// # Errors
    /// As [`Heap::back`].
    #[inline]
    pub(crate) fn back_shape_unless_scarce(&self, shape: Shape) -> Result<Option<Backed>, AllocateError> {
        match shape {
            Shape::Slab(class) => Ok(self.back_unless_scarce(class)?.map(Backed::Slab)),
            _ => self.take_run(shape, Taker { has_turn: false, in_slice: true }),
        }
    }

    /// Segments for a shape that is no slab.
    #[cold]
    pub(super) fn take_run(&self, shape: Shape, taker: Taker) -> Result<Option<Backed>, AllocateError> {
        let (bytes, manner) = match shape {
            Shape::Slab(_) => unreachable!("a slab is no run"),
            Shape::Run(bytes) => (bytes, Manner::Segments),
            Shape::Span(bytes) => (bytes, Manner::InOne),
        };
        Ok(self.take_segments(bytes, manner, taker)?.map(Backed::Run))
    }
}
