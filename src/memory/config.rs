//! What can be set about memory.

use crate::units::Factor;
use std::collections::BTreeMap;
use std::time::Duration;

/// Configuration of the memory below the pool. Every size is in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Size classes; unsorted is fine. Multiples of 8, no duplicates. Default: powers of two from 1 KiB to 4 MiB.
    pub slab_sizes: Vec<u64>,
    /// The hard limit on bytes held by all slabs. Default: 1 GiB.
    pub max_pool_size: u64,
    /// Slabs of each class made ready at start, smallest class first, at most 10 % of the pool in all. Default: 10.
    pub initial_slabs_per_size: u32,
    /// Touch the pages of the slabs made ready at start, so that their first write does not fault. Default: false.
    pub prefault: bool,
    /// Zero what the owner of a [`super::Block`] wrote when it is freed. Without it the next owner finds what the last one
    /// left, and nothing is known of a free slab, so stray writes are not looked for. Whatever clients of the service wrote
    /// is zeroed in any case. Default: true.
    pub zero_on_free: bool,
    /// Find stray writes: behind the end of a block's content when it is freed, and in free slabs before they are given
    /// out again and by a sweep. A slab that was damaged is retired. Default: true.
    pub canaries: bool,
    /// Put a guard page behind each slab of whole pages, and behind each 64 KiB of smaller ones: whoever touches it ends
    /// the process. Default: false.
    pub guard_pages: bool,
    /// Pages that the system is asked for. Default: off.
    pub huge_pages: HugePages,
    /// Whether the system may be asked to make one page of several with the same content. It tells whoever can measure how long
    /// a write takes what other processes hold. Default: false.
    pub allow_mergeable: bool,
    /// Which free run a block larger than the largest class gets. Default: the one that fits best.
    pub large_fit: Fit,
    /// Magazines of each class at most; threads share them where there are fewer than CPUs. Default: one for each CPU.
    pub shards_max: Option<u32>,
    /// How many slabs are kept ready.
    pub adaptive: Adaptive,
    /// Exceptions for single classes, by class size.
    pub classes: BTreeMap<u64, ClassConfig>,
}

/// What one class does differently.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassConfig {
    /// Slabs made ready at start, in place of `initial_slabs_per_size`.
    pub initial: Option<u32>,
    /// Free slabs kept ready at most; a slab freed beyond them gives its bytes back at once. Never bounds live slabs.
    pub max_free: Option<u32>,
    /// How many times as many slabs are held when nearly all are in use, 1 to 16; in place of the factor of all classes.
    pub growth_factor: Option<Factor>,
    /// Free slabs that each slot may keep in its magazine, at most 128; 0: none. Default: by the class's size, and by how
    /// much of the pool they are.
    pub magazine_capacity: Option<u32>,
}

/// How the number of slabs that a class of a heap keeps held follows its use. Of a pool of buffers that is
/// [`KeptAdaptation`](crate::slab::KeptAdaptation).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adaptive {
    /// Over which use is averaged; whoever knows the time keeps it. Default: 30 s.
    pub interval: Duration,
    /// Part of the held slabs above which more are held, if it was in use. Default: 0.8.
    pub grow_above: Factor,
    /// How many times as many, where the class says nothing else. Default: 1.2.
    pub grow_factor: Factor,
    /// Part of the held slabs below which fewer are kept. Default: 0.3.
    pub shrink_below: Factor,
    /// What part of them is kept then. Default: 0.8.
    pub shrink_factor: Factor,
}

impl Default for Adaptive {
    fn default() -> Adaptive {
        Adaptive {
            interval: Duration::from_secs(30),
            grow_above: Factor::thousandths(800),
            grow_factor: Factor::thousandths(1200),
            shrink_below: Factor::thousandths(300),
            shrink_factor: Factor::thousandths(800),
        }
    }
}

/// Which of the free runs that are long enough a large block gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fit {
    /// The shortest: long ones stay for those who need them.
    #[default]
    Best,
    /// The one at the lowest address, among the first 256; the shortest where none of those is long enough.
    First,
    /// The longest: what is left of it is long enough to be of use.
    Worst,
}

/// Pages that the system is asked for, for slabs of whole such pages, and for large blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HugePages {
    /// Ordinary ones, whatever the system does by itself: resident memory follows what is written.
    #[default]
    Off,
    /// Of 2 MiB, for slabs of whole multiples of that.
    TwoMebibytes,
    /// For slabs of whole multiples of 1 GiB. The system makes pages of 2 MiB of it at most.
    OneGibibyte,
}

impl HugePages {
    /// Bytes that a slab must be a multiple of to be asked for; none where none is.
    pub fn slab_multiple_bytes(self) -> Option<u64> {
        match self {
            HugePages::Off => None,
            HugePages::TwoMebibytes => Some(2 << 20),
            HugePages::OneGibibyte => Some(1 << 30),
        }
    }
}

impl Default for Config {
    fn default() -> Config {
        Config {
            slab_sizes: (10..=22).map(|power| 1 << power).collect(),
            max_pool_size: 1 << 30,
            initial_slabs_per_size: 10,
            prefault: false,
            zero_on_free: true,
            canaries: true,
            guard_pages: false,
            huge_pages: HugePages::Off,
            allow_mergeable: false,
            large_fit: Fit::default(),
            shards_max: None,
            adaptive: Adaptive::default(),
            classes: BTreeMap::new(),
        }
    }
}
