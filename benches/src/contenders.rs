//! Who gives out blocks: MaaS's heap, and the peers it is compared with.

use crate::workloads::heap;
use maas::memory::{Config, Edit, Heap, SlabLocation};
use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr::NonNull;
use std::sync::{Mutex, PoisonError};

/// The largest block of any workload.
pub const BLOCK_BYTES_MAX: u64 = 4 << 20;

/// What happens to a block's bytes while it is held. Where they are touched, all of them are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touch {
    /// Nothing.
    Unwritten,
    /// Written whole: MaaS copies a body in, as it has no other way; a peer sets the bytes.
    Written,
    /// A body of that size is copied in, by all.
    Copied,
}

impl Touch {
    /// As it stands in the name of a case.
    pub fn name(self) -> &'static str {
        match self {
            Touch::Unwritten => "unwritten",
            Touch::Written => "written",
            Touch::Copied => "copied",
        }
    }
}

/// What every body is taken from.
pub static BODY: [u8; BLOCK_BYTES_MAX as usize] = [7; BLOCK_BYTES_MAX as usize];

fn body(size_bytes: u64) -> &'static [u8] {
    &BODY[..usize::try_from(size_bytes).expect("a block fits into memory")]
}

/// Gives out blocks, from any thread.
pub trait Blocks: Sync {
    /// A block in the caller's hands. It is given back to the one it is from.
    type Block: Send;
    /// As it stands in a table.
    fn name(&self) -> &'static str;
    /// A block of at least that size.
    fn allocate(&self, size_bytes: u64) -> Self::Block;
    /// Touches its first `size_bytes`, which are at most what was asked for.
    fn touch(&self, block: &mut Self::Block, size_bytes: u64, touch: Touch);
    /// Takes it back.
    fn free(&self, block: Self::Block);
}

/// One configuration of MaaS's heap: its name in the tables and what it sets.
pub type Variant = (&'static str, fn(&mut Config));

/// The configurations that are compared with the peers.
pub const VARIANTS: &[Variant] = &[("maas", |_| {})];

/// Switches of `memory::Config` that protect at a price: each is compared with the heap as it comes.
pub const SWITCHES: &[Variant] = &[
    ("maas, canaries off", |config| config.canaries = false),
    ("maas, guard pages on", |config| config.guard_pages = true),
];

/// MaaS's heap.
pub struct Ours {
    name: &'static str,
    heap: Heap,
}

impl Ours {
    /// A heap of 4 GiB with classes from 64 bytes to 4 MiB.
    pub fn new((name, set): &Variant) -> Ours {
        Ours { name, heap: heap(4 << 30, set) }
    }
}

impl Blocks for Ours {
    type Block = SlabLocation;

    fn name(&self) -> &'static str {
        self.name
    }

    #[inline]
    fn allocate(&self, size_bytes: u64) -> SlabLocation {
        let (class, _) = self.heap.class_for(size_bytes).expect("no block is larger than the largest class");
        self.heap.allocate(class).expect("the pool has room for every workload")
    }

    #[inline]
    fn touch(&self, block: &mut SlabLocation, size_bytes: u64, touch: Touch) {
        if touch != Touch::Unwritten {
            let edit = Edit { pieces: &[body(size_bytes)], ..Edit::default() };
            self.heap.edit(*block, &edit).expect("nobody else holds it");
        }
    }

    #[inline]
    fn free(&self, block: SlabLocation) {
        self.heap.free(block);
    }
}

/// A block of a peer. There is one of it, so that it can be given back only once.
pub struct RawBlock {
    address: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the block's bytes belong to whoever has the block, and all peers let any thread free it.
unsafe impl Send for RawBlock {}

impl RawBlock {
    #[inline]
    fn from(allocator: &impl GlobalAlloc, layout: Layout) -> RawBlock {
        assert!(layout.size() > 0);
        // SAFETY: the size is not zero, by the line before.
        let address = unsafe { allocator.alloc(layout) };
        RawBlock { address: NonNull::new(address).expect("the system has memory for every workload"), layout }
    }

    /// Gives it back to the allocator that it is from.
    ///
    /// # Safety
    /// - `allocator` is the one that was given to [`RawBlock::from`], or another value of that global allocator.
    #[inline]
    unsafe fn back_to(self, allocator: &impl GlobalAlloc) {
        // SAFETY: allocated there with this layout, says the caller; once only, as `self` ends here.
        unsafe { allocator.dealloc(self.address.as_ptr(), self.layout) }
    }

    #[inline]
    fn touch(&mut self, size_bytes: u64, touch: Touch) {
        let from = body(size_bytes);
        assert!(from.len() <= self.layout.size());
        match touch {
            Touch::Unwritten => {}
            // SAFETY: so many bytes are in the block, by the assertion, and it is ours alone.
            Touch::Written => unsafe { self.address.as_ptr().write_bytes(7, from.len()) },
            // SAFETY: so many bytes are in the block, by the assertion, and it is ours alone; the body is a static.
            Touch::Copied => unsafe {
                self.address.as_ptr().copy_from_nonoverlapping(from.as_ptr(), from.len())
            },
        }
    }
}

/// Blocks of 8-byte alignment, which is what MaaS's smallest classes promise.
#[inline]
fn layout(size_bytes: u64) -> Layout {
    let size = usize::try_from(size_bytes).expect("a block fits into memory");
    Layout::from_size_align(size, 8).expect("no block is near the largest size there can be")
}

/// A global allocator: all values of one type are the same allocator.
pub struct Peer<A> {
    name: &'static str,
    allocator: A,
}

impl<A: GlobalAlloc + Sync> Blocks for Peer<A> {
    type Block = RawBlock;

    fn name(&self) -> &'static str {
        self.name
    }

    #[inline]
    fn allocate(&self, size_bytes: u64) -> RawBlock {
        RawBlock::from(&self.allocator, layout(size_bytes))
    }

    #[inline]
    fn touch(&self, block: &mut RawBlock, size_bytes: u64, touch: Touch) {
        block.touch(size_bytes, touch);
    }

    #[inline]
    fn free(&self, block: RawBlock) {
        // SAFETY: a workload gives a block back to the one it is from, as the trait says.
        unsafe { block.back_to(&self.allocator) };
    }
}

impl<A> Peer<A> {
    /// Writes one byte in each page of a block.
    pub fn touch_pages(&self, block: &mut RawBlock, page_bytes: usize) {
        for at in (0..block.layout.size()).step_by(page_bytes) {
            // SAFETY: the offset is below the block's size, and the block is ours alone.
            let place = unsafe { block.address.add(at) };
            // SAFETY: as above.
            unsafe { place.write(1) };
        }
    }
}

/// mimalloc, of the generation that was built in.
pub const MIMALLOC: Peer<mimalloc::MiMalloc> = Peer {
    name: if cfg!(feature = "mimalloc-v2") { "mimalloc v2" } else { "mimalloc" },
    allocator: mimalloc::MiMalloc,
};

/// jemalloc.
pub const JEMALLOC: Peer<tikv_jemallocator::Jemalloc> =
    Peer { name: "jemalloc", allocator: tikv_jemallocator::Jemalloc };

/// What the C library gives.
pub const SYSTEM: Peer<System> = Peer { name: "system", allocator: System };

/// The simplest pool there is: free blocks of one size in a list under a mutex, one list for each power of two. It never
/// gives memory back while it lives.
#[derive(Default)]
pub struct FreeLists([Mutex<Vec<RawBlock>>; 23]);

impl Blocks for FreeLists {
    type Block = RawBlock;

    fn name(&self) -> &'static str {
        "free list"
    }

    #[inline]
    fn allocate(&self, size_bytes: u64) -> RawBlock {
        let size_bytes = size_bytes.next_power_of_two();
        let list = &self.0[size_bytes.trailing_zeros() as usize];
        let free = list.lock().unwrap_or_else(PoisonError::into_inner).pop();
        free.unwrap_or_else(|| RawBlock::from(&System, layout(size_bytes)))
    }

    #[inline]
    fn touch(&self, block: &mut RawBlock, size_bytes: u64, touch: Touch) {
        block.touch(size_bytes, touch);
    }

    #[inline]
    fn free(&self, block: RawBlock) {
        let list = &self.0[block.layout.size().trailing_zeros() as usize];
        list.lock().unwrap_or_else(PoisonError::into_inner).push(block);
    }
}

impl Drop for FreeLists {
    fn drop(&mut self) {
        for list in &mut self.0 {
            for block in list.get_mut().unwrap_or_else(PoisonError::into_inner).drain(..) {
                // SAFETY: what is in a list was given by a workload, which had it from `allocate`, which takes it there.
                unsafe { block.back_to(&System) };
            }
        }
    }
}
