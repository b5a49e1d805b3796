//! What can be set about a slab allocator, and settings for known needs.

use super::allocator::SlabAllocator;
use super::error::BuildError;
use super::sizing::CACHE_LINE_BYTES;
use super::stats::Fixed;
use crate::memory::{self, ClassConfig, Config};
use crate::slot;
use std::time::Duration;
use tracing::Dispatch;

/// Settings of a [`SlabAllocator`]; [`Builder::build`] makes it. Made by [`SlabAllocator::builder`] and the presets there.
///
/// ```
/// use maas::slab::{BuildError, SlabAllocator};
/// use std::time::Duration;
///
/// let allocator = SlabAllocator::production(4096, 10_000) // a preset is a place to begin
///     .heap_fallback(false) // … for one who wants the limit to be hard
///     .latency_limit(Duration::from_micros(50))
///     .prewarm(500)
///     .build()?;
/// # drop(allocator);
/// // What breaks a rule is refused by name.
/// let refused = SlabAllocator::builder(4096, 10_000).cache_line(48).build();
/// assert!(matches!(refused, Err(BuildError::Setting { setting: "cache_line", value: 48, .. })));
/// # Ok::<(), BuildError>(())
/// ```
///
/// | preset | secure | bit guard | guard pages | health checks | circuit breaker | heap fallback | latency limit | cache line | leak report |
/// |---|---|---|---|---|---|---|---|---|---|
/// | [`builder`](SlabAllocator::builder) | | | | | | | | | |
/// | [`balanced_security`](SlabAllocator::balanced_security) | on | on | | 15 s | | | | 64 | |
/// | [`max_security`](SlabAllocator::max_security) | on | on | on | 15 s | | | | 64 | on |
/// | [`production`](SlabAllocator::production) | on | on | | 15 s | 50 failures, 30 s | on | 100 µs | 64 | |
#[derive(Clone, Debug)]
#[must_use = "it makes nothing before `build`"]
pub struct Builder {
    pub(super) slab_bytes: u64,
    pub(super) capacity: u32,
    pub(super) secure: bool,
    pub(super) bit_guard: bool,
    pub(super) guard_pages: bool,
    pub(super) health_checks: bool,
    pub(super) health_interval: Duration,
    pub(super) latency_limit: Option<Duration>,
    pub(super) breaker: Option<(u64, Duration)>,
    pub(super) heap_fallback: bool,
    pub(super) shards: Option<u32>,
    pub(super) cpu_cache: bool,
    pub(super) cache_line_bytes: u64,
    pub(super) prewarm: u32,
    pub(super) logger: Option<Dispatch>,
    pub(super) debug: bool,
    pub(super) leak_report: bool,
}

impl SlabAllocator {
    /// Begins the settings of an allocator of at most `capacity` slabs of `slab_bytes` each. Nothing else is on.
    pub fn builder(slab_bytes: u64, capacity: u32) -> Builder {
        Builder {
            slab_bytes,
            capacity,
            secure: false,
            bit_guard: false,
            guard_pages: false,
            health_checks: false,
            health_interval: crate::health::INTERVAL,
            latency_limit: None,
            breaker: None,
            heap_fallback: false,
            shards: None,
            cpu_cache: true,
            cache_line_bytes: 0,
            prewarm: 0,
            logger: None,
            debug: false,
            leak_report: false,
        }
    }

    /// For production: secure, with the bit guard, health checks each 15 s, a circuit breaker (50 failures, 30 s), Rust's own
    /// allocator where all slabs are in use, and a latency limit of 100 µs.
    pub fn production(slab_bytes: u64, capacity: u32) -> Builder {
        SlabAllocator::balanced_security(slab_bytes, capacity)
            .circuit_breaker(50, Duration::from_secs(30))
            .heap_fallback(true)
            .latency_limit(Duration::from_micros(100))
    }

    /// What protects data at little cost: secure, with the bit guard and health checks.
    pub fn balanced_security(slab_bytes: u64, capacity: u32) -> Builder {
        SlabAllocator::builder(slab_bytes, capacity)
            .secure(true)
            .bit_guard(true)
            .health_checks(true)
            .cache_line(CACHE_LINE_BYTES)
    }

    /// All that protects, whatever it costs: secure, with the bit guard, guard pages, and a report of what leaked.
    pub fn max_security(slab_bytes: u64, capacity: u32) -> Builder {
        SlabAllocator::balanced_security(slab_bytes, capacity).guard_pages(true).leak_report(true)
    }
}

impl Builder {
    /// Zero what was written when a slab is given back. Without it the next owner finds what the last one left. Default:
    /// false.
    pub fn secure(mut self, on: bool) -> Builder {
        self.secure = on;
        self
    }

    /// Look for writes by those who have no right to: right behind a slab when it is given back, and to free slabs before
    /// they are given out again. A slab that was damaged is retired. Makes slabs [`Builder::secure`] too: a free slab is known
    /// to be zeros. Room for what is looked at makes each slab some bytes larger, unless a guard page follows it. Default:
    /// false.
    pub fn bit_guard(mut self, on: bool) -> Builder {
        self.bit_guard = on;
        self
    }

    /// A page that nobody may touch behind each slab of whole pages, and behind each 64 KiB of smaller ones: whoever does
    /// ends the process, with a line that says where. Default: false.
    pub fn guard_pages(mut self, on: bool) -> Builder {
        self.guard_pages = on;
        self
    }

    /// Time allocations: all that take more than the magazine, and a sample of the others. Default: false.
    pub fn health_checks(mut self, on: bool) -> Builder {
        self.health_checks = on;
        self
    }

    /// How long what is recent is recent, and how often slow allocations are told of. Default: 15 s.
    pub fn health_interval(mut self, interval: Duration) -> Builder {
        self.health_interval = interval;
        self
    }

    /// Allocations that take longer are counted, warned about once an interval, and lower the health score: single ones that do
    /// not wait. Those of a batch, and those that [`SlabAllocator::allocate_timeout`] waits for, are not timed. Turns on
    /// [`Builder::health_checks`]. Default: none.
    pub fn latency_limit(mut self, limit: Duration) -> Builder {
        self.latency_limit = Some(limit);
        self.health_checks(true)
    }

    /// After `threshold` failures in a row refuse at once, for so long; then one call tries again. A slab that is given back
    /// closes it too. Default: none.
    pub fn circuit_breaker(mut self, threshold: u64, open_for: Duration) -> Builder {
        self.breaker = Some((threshold, open_for));
        self
    }

    /// Where all slabs are in use, or the system grants no more, take memory from Rust's own allocator: beyond the limit, and
    /// aligned as that aligns bytes. Who waits for a slab gets it when the wait was in vain. Each is a failure to the
    /// [`Builder::circuit_breaker`], which so bounds how many there are in a row. Default: false.
    pub fn heap_fallback(mut self, on: bool) -> Builder {
        self.heap_fallback = on;
        self
    }

    /// Magazines at most. More than there are CPUs make no difference. Default: one for each CPU.
    pub fn shards(mut self, shards: u32) -> Builder {
        self.shards = Some(shards);
        self
    }

    /// Keep free slabs ready for each CPU, in magazines. Default: true.
    pub fn cpu_cache(mut self, on: bool) -> Builder {
        self.cpu_cache = on;
        self
    }

    /// Align slabs to lines of so many bytes, a power of two from 8 to 4096, so that no two share one. Slabs get as much
    /// larger. Memory of [`Builder::heap_fallback`] is not aligned. Default: 0, not aligned but to 8 bytes.
    pub fn cache_line(mut self, line_bytes: u64) -> Builder {
        self.cache_line_bytes = line_bytes;
        self
    }

    /// Slabs made ready at the start, a tenth of the capacity at most. Default: 0.
    pub fn prewarm(mut self, slabs: u32) -> Builder {
        self.prewarm = slabs;
        self
    }

    /// Where to log; without it to whatever the calling thread logs to. What the memory beneath says, of a damaged slab above
    /// all, goes to the calling thread's in any case. The subscriber behind it must not use an allocator that has a logger: it
    /// would be called while it is at work.
    pub fn logger(mut self, logger: Dispatch) -> Builder {
        self.logger = Some(logger);
        self
    }

    /// Remember where each live slab was allocated: [`super::SlabRef::allocation_backtrace`], and in leak reports. Costs
    /// microseconds an allocation. Default: false.
    pub fn debug(mut self, on: bool) -> Builder {
        self.debug = on;
        self
    }

    /// Log what was not given back when the allocator is closed or dropped. Default: false.
    pub fn leak_report(mut self, on: bool) -> Builder {
        self.leak_report = on;
        self
    }

    /// Makes the allocator. It reserves address space, and takes no memory but for what is to be ready.
    ///
    /// # Errors
    /// [`BuildError`] where a setting breaks a rule, or the system refuses address space.
    pub fn build(self) -> Result<SlabAllocator, BuildError> {
        let refuse = |setting, value, rule| Err(BuildError::Setting { setting, value, rule });
        if self.slab_bytes == 0 || self.slab_bytes > Builder::SLAB_BYTES_MAX {
            return refuse("slab_bytes", self.slab_bytes, "a slab has 1 byte to 1 GiB");
        }
        if self.capacity == 0 {
            return refuse("capacity", 0, "there is at least one slab");
        }
        let line = self.cache_line_bytes;
        if line != 0 && !(line.is_power_of_two() && (8..=4096).contains(&line)) {
            return refuse("cache_line", line, "a line is a power of two from 8 to 4096 bytes");
        }
        if self.shards == Some(0) {
            return refuse("shards", 0, "there is at least one magazine");
        }
        if self.breaker.is_some_and(|(threshold, _)| threshold == 0) {
            return refuse("circuit_breaker threshold", 0, "a breaker opens after at least one failure");
        }
        SlabAllocator::new(self)
    }

    /// How large slabs are with all that belongs to them, and the heap that has them.
    pub(super) fn layout(&self) -> (Fixed, Config) {
        /// All magazines together hold one slab of so many at most: what is in them is in nobody's way, but finding that out
        /// takes a look into all of them.
        const READY_SHARE: u64 = 16;
        /// Slabs that a magazine holds at most.
        const READY_MAX: u64 = 64;
        /// Room behind a slab that the bit guard looks at, at least.
        const GUARD_BYTES: u64 = 8;
        let is_followed_by_guard =
            self.guard_pages && self.slab_bytes.next_multiple_of(8).is_multiple_of(memory::page_size());
        let room = if self.bit_guard && !is_followed_by_guard { GUARD_BYTES } else { 0 };
        let stride_bytes = (self.slab_bytes + room).next_multiple_of(self.cache_line_bytes.max(8));
        let capacity = u64::from(self.capacity);
        let shards = self.shards.map_or(slot::count(), |shards| slot::count().min(shards as usize)) as u64;
        let ready = if self.cpu_cache { (capacity / READY_SHARE / shards).clamp(1, READY_MAX) } else { 0 };
        let class = ClassConfig {
            initial: Some(self.prewarm),
            magazine_capacity: Some(u32::try_from(ready).expect("it is at most `READY_MAX`")),
            ..ClassConfig::default()
        };
        let fixed = Fixed {
            slab_bytes: self.slab_bytes,
            stride_bytes,
            capacity,
            cache_line_bytes: self.cache_line_bytes,
            secure: self.secure || self.bit_guard,
            bit_guard: self.bit_guard,
            guard_pages: self.guard_pages,
        };
        let config = Config {
            slab_sizes: vec![stride_bytes],
            max_pool_size: stride_bytes * capacity,
            initial_slabs_per_size: self.prewarm,
            prefault: self.prewarm > 0,
            zero_on_free: fixed.secure,
            canaries: self.bit_guard,
            guard_pages: self.guard_pages,
            shards_max: self.shards,
            classes: [(stride_bytes, class)].into(),
            ..Config::default()
        };
        (fixed, config)
    }

    /// Bytes of a slab at most.
    pub const SLAB_BYTES_MAX: u64 = 1 << 30;
}
