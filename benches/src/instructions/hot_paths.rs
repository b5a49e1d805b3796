//! The hot paths that are counted. Callgrind counts inside of the functions whose names begin with `hot_`, and only
//! there: they are never inlined, contain no closures (whose names contain theirs), and what they need was made before.
//!
//! All is warm: what is taken was used and freed before, so nothing is counted that happens once in a block's life.

use bytes::Bytes;
use maas::memory::{Config, Edit, Heap, SizeClass, SlabLocation};
use maas::pool::{self, AllocationId, Placement, Pool, Precondition};
use maas_benches::workloads::{NOW, REQUEST, allocate, free, heap, ready};
use std::hint::black_box;

/// How often each path is counted.
pub const OPERATIONS: usize = 1000;

/// Blocks that live meanwhile.
const LIVE: usize = 100;

/// Bytes of a small write.
const SMALL: [u8; 64] = [7; 64];

/// Room for what lives and more; callgrind has 128 GiB of addresses in all, and each class takes so much of them.
const POOL_BYTES: u64 = 64 << 20;

/// A path: its name in the file, the function in which callgrind counts, and what runs it.
pub struct HotPath {
    pub name: &'static str,
    pub function: &'static str,
    pub run: fn(),
}

pub const HOT_PATHS: [HotPath; 7] = [
    HotPath { name: "heap allocate", function: "hot_heap_allocate", run: heap_unwritten },
    HotPath { name: "heap free", function: "hot_heap_free", run: heap_unwritten },
    HotPath { name: "heap free, 64 bytes written", function: "hot_heap_free", run: heap_written },
    HotPath { name: "pool allocate", function: "hot_pool_allocate", run: pool_cycle },
    HotPath { name: "pool free", function: "hot_pool_free", run: pool_cycle },
    HotPath { name: "pool read, 1 KiB written", function: "hot_pool_read", run: pool_read },
    HotPath { name: "pool write, 64 bytes", function: "hot_pool_write", run: pool_write },
];

#[inline(never)]
fn hot_heap_allocate(heap: &Heap, class: SizeClass) -> SlabLocation {
    heap.allocate(class).expect("there is room")
}

#[inline(never)]
fn hot_heap_free(heap: &Heap, slab: SlabLocation) {
    heap.free(slab);
}

#[inline(never)]
fn hot_pool_allocate(pool: &Pool) -> AllocationId {
    allocate(pool)
}

#[inline(never)]
fn hot_pool_free(pool: &Pool, id: AllocationId) {
    free(pool, id);
}

/// A read as a handler does it: the content is pinned, handed out piece by piece, and let go.
#[inline(never)]
fn hot_pool_read(pool: &Pool, id: AllocationId) {
    let content = ready(pool.read(id, NOW)).expect("it is live");
    for piece in content.read(0..REQUEST.size_bytes) {
        black_box(piece);
    }
}

#[inline(never)]
fn hot_pool_write(pool: &Pool, id: AllocationId, pieces: &[Bytes], precondition: &Precondition) {
    let written = pool.write(id, Placement::Patch { offset: 0 }, pieces, precondition, NOW);
    black_box(ready(written).expect("nobody reads it"));
}

/// A heap whose blocks were all used before; some are live.
fn warm_heap() -> (Heap, SizeClass) {
    let heap = heap(POOL_BYTES, &|_: &mut Config| {});
    let (class, _) = heap.class_for(REQUEST.size_bytes).expect("there is a class for it");
    let taken: Vec<_> = (0..2 * LIVE).map(|_| heap.allocate(class).expect("there is room")).collect();
    taken.into_iter().skip(LIVE).for_each(|slab| heap.free(slab));
    (heap, class)
}

fn heap_unwritten() {
    let (heap, class) = warm_heap();
    for _ in 0..OPERATIONS {
        hot_heap_free(&heap, black_box(hot_heap_allocate(&heap, class)));
    }
}

fn heap_written() {
    let (heap, class) = warm_heap();
    for _ in 0..OPERATIONS {
        let slab = heap.allocate(class).expect("there is room");
        heap.edit(slab, &Edit { pieces: &[&SMALL], ..Edit::default() }).expect("nobody else holds it");
        hot_heap_free(&heap, black_box(slab));
    }
}

/// A pool whose blocks and entries were all used before; some are live.
fn warm_pool() -> (Pool, Vec<AllocationId>) {
    let pool = Pool::new(heap(POOL_BYTES, &|_: &mut Config| {}), &pool::Config::default());
    let mut ids: Vec<_> = (0..2 * LIVE).map(|_| allocate(&pool)).collect();
    ids.drain(LIVE..).for_each(|id| free(&pool, id));
    (pool, ids)
}

fn pool_cycle() {
    let (pool, _ids) = warm_pool();
    for _ in 0..OPERATIONS {
        hot_pool_free(&pool, black_box(hot_pool_allocate(&pool)));
    }
}

fn pool_read() {
    let (pool, ids) = warm_pool();
    let body = [Bytes::from(vec![7; 1024])];
    let precondition = Precondition::default();
    for id in &ids {
        let written = pool.write(*id, Placement::Replace, &body, &precondition, NOW);
        ready(written).expect("nobody reads it");
    }
    for at in 0..OPERATIONS {
        hot_pool_read(&pool, black_box(ids[at % LIVE]));
    }
}

fn pool_write() {
    let (pool, ids) = warm_pool();
    let pieces = [Bytes::from_static(&SMALL)];
    let precondition = Precondition::default();
    for id in &ids {
        let written = pool.write(*id, Placement::Patch { offset: 0 }, &pieces, &precondition, NOW);
        ready(written).expect("nobody reads it");
    }
    for at in 0..OPERATIONS {
        hot_pool_write(&pool, black_box(ids[at % LIVE]), &pieces, &precondition);
    }
}
