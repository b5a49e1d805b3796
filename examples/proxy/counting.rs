//! Counts what the program allocates.
#![allow(unsafe_code)] // an allocator is unsafe by its trait; it passes every call on as it is

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};

/// Allocations of so many bytes and more are told apart: in the proxy these are its buffers, and little else.
const LARGE_BYTES: usize = 4096;

#[global_allocator]
static ALLOCATOR: Counting = Counting {
    calls: AtomicU64::new(0),
    bytes: AtomicU64::new(0),
    large_calls: AtomicU64::new(0),
    large_bytes: AtomicU64::new(0),
};

struct Counting {
    calls: AtomicU64,
    bytes: AtomicU64,
    large_calls: AtomicU64,
    large_bytes: AtomicU64,
}

/// What was allocated since the start; what was freed is not taken off.
pub(super) struct Allocated {
    pub(super) calls: u64,
    pub(super) bytes: u64,
    pub(super) large_calls: u64,
    pub(super) large_bytes: u64,
}

pub(super) fn allocated() -> Allocated {
    Allocated {
        calls: ALLOCATOR.calls.load(Ordering::Relaxed),
        bytes: ALLOCATOR.bytes.load(Ordering::Relaxed),
        large_calls: ALLOCATOR.large_calls.load(Ordering::Relaxed),
        large_bytes: ALLOCATOR.large_bytes.load(Ordering::Relaxed),
    }
}

impl Counting {
    fn count(&self, bytes: usize) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        if bytes >= LARGE_BYTES {
            self.large_calls.fetch_add(1, Ordering::Relaxed);
            self.large_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }
}

// SAFETY: every call is the system allocator's, with the same arguments; counting touches no memory of a caller.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.count(layout.size());
        // SAFETY: the caller vouches for the layout.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.count(layout.size());
        // SAFETY: the caller vouches for the layout.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, address: *mut u8, layout: Layout) {
        // SAFETY: the caller vouches that `alloc` gave the address out for this layout: that was the system's.
        unsafe { System.dealloc(address, layout) }
    }

    unsafe fn realloc(&self, address: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        self.count(size);
        // SAFETY: as in `dealloc`; the caller vouches for the new size.
        unsafe { System.realloc(address, layout, size) }
    }
}
