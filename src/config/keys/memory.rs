//! What can be set about the memory that is leased: the section `memory`, classes included.

use super::{Access, GROWTH, Key, bytes, number, plain, sizes, text};
use crate::config::PoolSize;
use crate::config::checks::{self, SIZE_BYTES_MAX};
use crate::config::profile::{self, Profile};
use crate::memory::{Fit, HugePages};

/// Live allocations at most: the bits that an allocation's id has for its place in the table.
const ALLOCATIONS_MAX: u32 = 1 << 24;

/// In the order of `config.toml`.
pub(super) const KEYS: &[Key] = &[
    Key {
        name: "memory.profile",
        short: Some("MAAS_PROFILE"),
        meaning: "What the pool is for: \"database\", \"broker\", \"broker-high-throughput\", \"broker-constrained\", \
                  \"load-balancer-small\", \"load-balancer-medium\" (or \"load-balancer\"), \"load-balancer-large\". It \
                  sets other keys, more weakly than any source does; `maas config --profile NAME` prints them.",
        access: Access::Single {
            set: |draft, raw| Profile::chosen(raw).map(|profile| draft.config.profile = profile),
            show: |config| text(config.profile.unwrap_or(profile::NONE)),
        },
    },
    Key {
        name: "memory.slab_sizes",
        short: Some("SLAB_SIZES"),
        meaning: "Size classes in bytes, 1 to 64 of them in any order, no two alike, multiples of 8; a request \
                  takes the smallest that holds it.",
        access: Access::Single {
            set: |draft, raw| checks::slab_sizes(raw).map(|sizes| draft.config.memory.slab_sizes = sizes),
            show: |config| sizes(&config.memory.slab_sizes),
        },
    },
    Key {
        name: "memory.max_pool_size",
        short: Some("MAX_POOL_SIZE"),
        meaning: "The hard limit on bytes that all slabs hold, from the smallest class to 64 TiB. Without it: 1 GiB, \
                  or 75 % of the smallest memory limit above us (cgroup, RAM) where that is less. \"auto\" is that \
                  75 %.",
        access: Access::Single {
            set: |draft, raw| {
                draft.pool_size = match raw {
                    raw if raw.is_auto() => PoolSize::Auto,
                    raw => PoolSize::Bytes(raw.size(1..=SIZE_BYTES_MAX)?),
                };
                Ok(())
            },
            show: |config| bytes(config.memory.max_pool_size),
        },
    },
    Key {
        name: "memory.initial_slabs_per_size",
        short: Some("INITIAL_SLABS_PER_SIZE"),
        meaning: "Slabs of each class made ready at start, smallest class first, at most 10 % of the pool in all.",
        access: Access::Single {
            set: |draft, raw| {
                raw.number(0..=u32::MAX).map(|count| draft.config.memory.initial_slabs_per_size = count)
            },
            show: |config| number(config.memory.initial_slabs_per_size),
        },
    },
    Key {
        name: "memory.prefault",
        short: None,
        meaning: "Touch the pages of the slabs made ready at start, so that their first write does not fault.",
        access: Access::Single {
            set: |draft, raw| raw.boolean().map(|value| draft.config.memory.prefault = value),
            show: |config| plain(config.memory.prefault),
        },
    },
    Key {
        name: "memory.canaries",
        short: None,
        meaning: "Find stray writes behind the end of a block's content, and to free slabs; a slab that was damaged is \
                  retired, and the service goes on.",
        access: Access::Single {
            set: |draft, raw| raw.boolean().map(|value| draft.config.memory.canaries = value),
            show: |config| plain(config.memory.canaries),
        },
    },
    Key {
        name: "memory.guard_pages",
        short: None,
        meaning: "Put a page that nobody may touch behind each slab of whole pages, and behind each 64 KiB of smaller \
                  ones; whoever touches it ends the process.",
        access: Access::Single {
            set: |draft, raw| raw.boolean().map(|value| draft.config.memory.guard_pages = value),
            show: |config| plain(config.memory.guard_pages),
        },
    },
    Key {
        name: "memory.huge_pages",
        short: None,
        meaning: "Pages that the system is asked for: \"off\"; \"2MiB\" for slabs of whole multiples of 2 MiB; \"1GiB\" \
                  for those of 1 GiB; either for large objects too. Memory is then resident 2 MiB at a time.",
        access: Access::Single {
            set: |draft, raw| checks::huge_pages(raw).map(|value| draft.config.memory.huge_pages = value),
            show: |config| {
                text(match config.memory.huge_pages {
                    HugePages::Off => "off",
                    HugePages::TwoMebibytes => "2MiB",
                    HugePages::OneGibibyte => "1GiB",
                })
            },
        },
    },
    Key {
        name: "memory.allow_mergeable",
        short: None,
        meaning: "Take the advice \"mergeable\", with which the system may make one page of several with the same content. \
                  Whoever can measure how long a write takes then learns what other processes hold.",
        access: Access::Single {
            set: |draft, raw| raw.boolean().map(|value| draft.config.memory.allow_mergeable = value),
            show: |config| plain(config.memory.allow_mergeable),
        },
    },
    Key {
        name: "memory.large_fit",
        short: None,
        meaning: "Which free run of pages a block gets that is larger than the largest size class: the \"best\", which is \
                  the shortest that is long enough, the \"first\", or the \"worst\", which is the longest.",
        access: Access::Single {
            set: |draft, raw| checks::fit(raw).map(|fit| draft.config.memory.large_fit = fit),
            show: |config| {
                text(match config.memory.large_fit {
                    Fit::Best => "best",
                    Fit::First => "first",
                    Fit::Worst => "worst",
                })
            },
        },
    },
    Key {
        name: "memory.max_allocation_size",
        short: None,
        meaning: "Largest size in bytes that a request may ask for, at least 1; \"auto\" is the pool. What is larger than \
                  the largest size class is made of whole pages.",
        access: Access::Single {
            set: |draft, raw| {
                draft.config.pool.max_allocation_size = match raw {
                    raw if raw.is_auto() => None,
                    raw => Some(raw.size(1..=SIZE_BYTES_MAX)?),
                };
                Ok(())
            },
            show: |config| config.pool.max_allocation_size.map_or_else(|| text("auto"), bytes),
        },
    },
    Key {
        name: "memory.max_allocations",
        short: None,
        meaning: "Live allocations at most, 1 to 16777216; \"auto\" is max_pool_size / smallest class, up to that.",
        access: Access::Single {
            set: |draft, raw| {
                draft.config.pool.max_allocations = match raw {
                    raw if raw.is_auto() => None,
                    raw => Some(raw.number(1..=ALLOCATIONS_MAX)?),
                };
                Ok(())
            },
            show: |config| config.pool.max_allocations.map_or_else(|| text("auto"), number),
        },
    },
    Key {
        name: "memory.max_inflight_bytes",
        short: None,
        meaning: "Bytes of request bodies held in memory at once, apart from the pool; at least server.body_limit.",
        access: Access::Single {
            set: |draft, raw| {
                raw.size(1..=SIZE_BYTES_MAX).map(|bytes| draft.config.pool.max_inflight_bytes = bytes)
            },
            show: |config| bytes(config.pool.max_inflight_bytes),
        },
    },
    Key {
        name: "memory.write_wait_ms",
        short: None,
        meaning: "Milliseconds that a write waits for readers that hold the room it needs, 0 to 60000.",
        access: Access::Single {
            set: |draft, raw| raw.number(0..=60_000).map(|wait| draft.config.pool.write_wait_ms = wait),
            show: |config| number(config.pool.write_wait_ms),
        },
    },
    Key {
        name: "memory.drain_seconds",
        short: None,
        meaning: "Seconds that a reader may go on with a block that was freed or replaced, 0 to 3600; 1 at most when \
                  its memory is needed.",
        access: Access::Single {
            set: |draft, raw| raw.number(0..=3600).map(|time| draft.config.pool.drain_seconds = time),
            show: |config| number(config.pool.drain_seconds),
        },
    },
    Key {
        name: "memory.classes.SIZE.initial",
        short: None,
        meaning: "Slabs of this class made ready at start, in place of initial_slabs_per_size.",
        access: Access::Class {
            set: |class, raw| raw.number(0..=u32::MAX).map(|count| class.initial = Some(count)),
            show: |class| class.initial.map(number),
        },
    },
    Key {
        name: "memory.classes.SIZE.max_free",
        short: None,
        meaning: "Free slabs of this class kept ready at most; one more gives its bytes back at once. Never bounds \
                  live slabs. Without it: no bound.",
        access: Access::Class {
            set: |class, raw| raw.number(0..=u32::MAX).map(|count| class.max_free = Some(count)),
            show: |class| class.max_free.map(number),
        },
    },
    Key {
        name: "memory.classes.SIZE.growth_factor",
        short: None,
        meaning: "How many times as many slabs of this class are held when they are nearly all in use, 1.0 to 16.0, in \
                  place of adaptive.grow_factor.",
        access: Access::Class {
            set: |class, raw| raw.factor(GROWTH).map(|factor| class.growth_factor = Some(factor)),
            show: |class| class.growth_factor.map(plain),
        },
    },
    Key {
        name: "memory.classes.SIZE.magazine_capacity",
        short: None,
        meaning: "Free slabs of this class that each CPU may keep ready for itself at most, 0 to 128. Without it: by the \
                  class's size, 2 MiB at most, and a 64th of the pool for all CPUs together.",
        access: Access::Class {
            set: |class, raw| raw.number(0..=128).map(|count| class.magazine_capacity = Some(count)),
            show: |class| class.magazine_capacity.map(number),
        },
    },
];
