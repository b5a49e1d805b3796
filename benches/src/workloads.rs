//! What is done with blocks and with the pool. Each operation is one call, so that whoever times it decides how often.

#[cfg(feature = "peers")]
use crate::contenders::{Blocks, FreeLists, JEMALLOC, MIMALLOC, Ours, SYSTEM, Touch};
#[cfg(feature = "peers")]
use crate::rounds::Contender;
use fastrand::Rng;
use maas::clock::Now;
use maas::memory::{Config, Heap};
use maas::pool::{self, AllocateRequest, AllocationId, Pool};
use std::hint::black_box;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// Every workload begins with it, so that all contenders see the same sizes and the same victims.
pub const SEED: u64 = 20_261_121;

/// A heap with classes of all powers of two from 64 bytes to 4 MiB.
///
/// # Panics
/// If the system gives no address space.
pub fn heap(max_pool_size: u64, set: &dyn Fn(&mut Config)) -> Heap {
    let slab_sizes = (6..=22).map(|power| 1 << power).collect();
    let mut config = Config { slab_sizes, max_pool_size, ..Config::default() };
    set(&mut config);
    Heap::new(&config).expect("there is address space")
}

/// Something that all who give out blocks can do.
#[cfg(feature = "peers")]
pub trait Workload {
    /// Somebody who does it with these blocks.
    fn with<'a, B: Blocks>(&self, blocks: &'a B) -> Contender<'a>;

    /// Everybody: ours first, then the peers.
    fn with_all<'a>(&self, ours: &'a Ours, lists: &'a FreeLists) -> Vec<Contender<'a>> {
        vec![
            self.with(ours),
            self.with(&MIMALLOC),
            self.with(&JEMALLOC),
            self.with(&SYSTEM),
            self.with(lists),
        ]
    }
}

/// Blocks of one size, each freed at once.
#[cfg(feature = "peers")]
pub struct FreedAtOnce(pub u64, pub Touch);

#[cfg(feature = "peers")]
impl Workload for FreedAtOnce {
    fn with<'a, B: Blocks>(&self, blocks: &'a B) -> Contender<'a> {
        let FreedAtOnce(size_bytes, touch) = *self;
        Contender::new(blocks.name(), move || freed_at_once(blocks, size_bytes, touch))
    }
}

/// See [`Churn`].
#[cfg(feature = "peers")]
pub struct Churned(pub Touch);

#[cfg(feature = "peers")]
impl Workload for Churned {
    fn with<'a, B: Blocks>(&self, blocks: &'a B) -> Contender<'a> {
        let mut churn = Churn::new(blocks, self.0);
        Contender::of_many(blocks.name(), CHURN_OPERATIONS, move || churn.drift())
    }
}

/// Sizes of blocks, by the names that they have in cases.
pub const SIZES: [(&str, u64); 6] = [
    ("64B", 64),
    ("1KiB", 1 << 10),
    ("16KiB", 16 << 10),
    ("64KiB", 64 << 10),
    ("1MiB", 1 << 20),
    ("4MiB", 4 << 20),
];

/// Live allocations of a pool, by the names that they have in cases.
pub const LIVE: [(&str, usize); 5] =
    [("10^3", 1_000), ("10^4", 10_000), ("10^5", 100_000), ("10^6", 1_000_000), ("10^7", 10_000_000)];

/// Allocates a block, touches it, and frees it at once.
#[cfg(feature = "peers")]
#[inline]
pub fn freed_at_once<B: Blocks>(blocks: &B, size_bytes: u64, touch: Touch) {
    let mut block = blocks.allocate(size_bytes);
    blocks.touch(&mut block, size_bytes, touch);
    blocks.free(black_box(block));
}

/// Operations in which the size drifts by a factor of two.
#[cfg(feature = "peers")]
const OPERATIONS_PER_STEP: u64 = 512;
/// Factors of two from one end to the other.
#[cfg(feature = "peers")]
const STEPS: u64 = 10;
/// Operations of one drift, there and back.
#[cfg(feature = "peers")]
const CHURN_OPERATIONS: u64 = 2 * STEPS * OPERATIONS_PER_STEP;

/// Replaces random blocks by others of random sizes, around a size that drifts: from 64 bytes to 64 KiB and back. An
/// allocator that hoards free blocks of sizes that are no longer asked for does badly here.
#[cfg(feature = "peers")]
pub struct Churn<'a, B: Blocks> {
    blocks: &'a B,
    touch: Touch,
    live: Vec<Option<B::Block>>,
    rng: Rng,
    operations: u64,
}

#[cfg(feature = "peers")]
impl<'a, B: Blocks> Churn<'a, B> {
    /// Blocks that live at a time.
    const LIVE: usize = 1024;
    /// With its first blocks allocated.
    pub fn new(blocks: &'a B, touch: Touch) -> Churn<'a, B> {
        let live = std::iter::repeat_with(|| None).take(Self::LIVE).collect();
        let mut churn = Churn { blocks, touch, live, rng: Rng::with_seed(SEED), operations: 0 };
        // Once through the whole drift: what is timed afterwards is no first time.
        churn.drift();
        churn
    }

    /// One whole drift, there and back. Only whole ones are timed: a part of one has sizes of its own.
    pub fn drift(&mut self) {
        for _ in 0..CHURN_OPERATIONS {
            self.replace();
        }
    }

    /// Frees a random block and allocates another.
    #[inline]
    fn replace(&mut self) {
        let step = self.operations / OPERATIONS_PER_STEP % (2 * STEPS);
        let power = 6 + if step < STEPS { step } else { 2 * STEPS - step };
        self.operations += 1;
        // Half as large to twice as large as the middle, in steps of 8 bytes.
        let size_bytes = self.rng.u64(1 << (power - 1)..=1 << (power + 1)) & !7;
        let victim = self.rng.usize(..Self::LIVE);
        if let Some(block) = self.live[victim].take() {
            self.blocks.free(block);
        }
        let mut block = self.blocks.allocate(size_bytes);
        self.blocks.touch(&mut block, size_bytes, self.touch);
        self.live[victim] = Some(block);
    }
}

#[cfg(feature = "peers")]
impl<B: Blocks> Drop for Churn<'_, B> {
    fn drop(&mut self) {
        for block in self.live.drain(..).flatten() {
            self.blocks.free(block);
        }
    }
}

/// The result of a future that is ready at the first poll, as the local engine's are.
///
/// # Panics
/// If it is not.
#[inline]
pub fn ready<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("a request that fits is served at once"),
    }
}

/// Any time will do: nothing here has a lease.
pub const NOW: Now = Now(1_000_000_000);

/// What is asked of the pool.
pub const REQUEST: AllocateRequest = AllocateRequest::new(1024);

/// A pool with room for 2^24 blocks of 1 KiB, as many as its table has entries, and some live ones.
pub struct Held {
    pool: Pool,
    ids: Vec<AllocationId>,
    rng: Rng,
}

impl Held {
    /// So many live, allocated one after the other.
    pub fn new(live: usize) -> Held {
        let pool = Pool::new(heap(16 << 30, &|_| {}), &pool::Config::default());
        let ids = (0..live).map(|_| allocate(&pool)).collect();
        Held { pool, ids, rng: Rng::with_seed(SEED) }
    }

    /// The pool.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// What lives in it.
    pub fn ids(&self) -> &[AllocationId] {
        &self.ids
    }

    /// Replaces at random as often as there are live ones, so that neighbours in the table have no longer anything to do
    /// with each other.
    #[must_use]
    pub fn shuffled(mut self) -> Held {
        for _ in 0..self.ids.len() {
            self.replace();
        }
        self
    }

    /// Makes one allocation and frees it at once.
    #[inline]
    pub fn freed_at_once(&self) {
        free(&self.pool, black_box(allocate(&self.pool)));
    }

    /// Frees a random one and makes another.
    #[inline]
    pub fn replace(&mut self) {
        let victim = self.rng.usize(..self.ids.len());
        free(&self.pool, self.ids[victim]);
        self.ids[victim] = allocate(&self.pool);
    }
}

/// One allocation through the door.
///
/// # Panics
/// If it is refused.
#[inline]
pub fn allocate(pool: &Pool) -> AllocationId {
    ready(pool.allocate(&REQUEST, Duration::ZERO, NOW)).expect("there is room").id
}

/// Ends one through the door.
///
/// # Panics
/// If it is not live.
#[inline]
pub fn free(pool: &Pool, id: AllocationId) {
    ready(pool.free(id, NOW)).expect("it is live");
}

/// One cache line, as an entry of the pool's table is one at least.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Entry([u64; 8]);

/// The least that any table of allocations must do: entries of one cache line in an array, with a stack of free ones.
///
/// The pattern is that of [`Held::replace`]: the same random victims, found through ids of 16 bytes that carry an index and
/// a key. To free one, its whole entry is read, compared with the key and cleared; the next allocation takes the entry that
/// was freed last, as the pool does, and writes it whole with a new key. So each replacement misses the cache at most
/// twice, at the id and at the entry, and no table can do with less.
pub struct BareArray {
    entries: Vec<Entry>,
    free: Vec<u32>,
    /// Key and index.
    ids: Vec<(u64, u64)>,
    rng: Rng,
    keys: Rng,
}

impl BareArray {
    /// So many live ones, in order.
    pub fn new(live: usize) -> BareArray {
        let mut keys = Rng::with_seed(SEED + 1);
        let ids: Vec<_> = (0..live as u64).map(|index| (keys.u64(..), index)).collect();
        let entries = ids.iter().map(|(key, _)| Entry([*key; 8])).collect();
        BareArray { entries, free: Vec::with_capacity(live), ids, rng: Rng::with_seed(SEED), keys }
    }

    /// Frees a random one and makes another.
    ///
    /// # Panics
    /// If an entry does not have the key of its id.
    #[inline]
    pub fn replace(&mut self) {
        let victim = self.rng.usize(..self.ids.len());
        let (key, index) = self.ids[victim];
        let entry = &mut self.entries[index as usize];
        assert!(black_box(&*entry).0.iter().all(|word| *word == key), "the id is live");
        *entry = Entry([0; 8]);
        black_box(entry);
        self.free.push(index as u32);

        let index = self.free.pop().expect("one was just freed");
        let key = self.keys.u64(..);
        self.entries[index as usize] = Entry([key; 8]);
        self.ids[victim] = (key, u64::from(index));
        black_box(&mut self.entries);
    }
}
