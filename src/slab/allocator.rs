//! The allocator: slabs of one size, given out by a [`Heap`] of one class.
//!
//! The way of most allocations is [`SlabAllocator::allocate`] to the thread's magazine. One word says whether anything else
//! is to be thought of, [`SlabAllocator::attention`]; what is, is done by functions that are `#[cold]`.

use super::breaker::Breaker;
use super::builder::Builder;
use super::detached::Detached;
use super::error::{BuildError, SlabError};
use super::reference::{Memory, Owner, SlabRef};
use super::sites::{LeakReport, Sites};
use super::stats::Fixed;
use super::waiting::Waiting;
use super::watch::Watch;
use crate::clock::Now;
use crate::health::HealthMonitor;
use crate::latency::Stopwatch;
use crate::memory::{AllocateError, Heap, OwnedSlab, SizeClass};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;
use tracing::{Dispatch, error, warn};

/// Bits of [`SlabAllocator::attention`]: what makes an allocation take the cold way. It was closed.
const CLOSED: u32 = 1;
/// Allocations failed, and the breaker counts them.
pub(super) const FAILING: u32 = 2;
/// Sites are remembered.
const DEBUG: u32 = 4;

/// Numbers of all allocators of this process.
static NUMBERS: AtomicU64 = AtomicU64::new(1);

/// Slabs of one size, as many as were asked for, under a hard limit. Any thread may call it.
///
/// Made by [`SlabAllocator::builder`], or a preset: [`SlabAllocator::production`],
/// [`SlabAllocator::balanced_security`], [`SlabAllocator::max_security`].
///
/// It refuses with [`SlabError::OutOfMemory`] if, and only if, all slabs were in use at an instant of the call: free ones in
/// magazines are in nobody's way.
///
/// ```
/// use maas::slab::{SlabAllocator, SlabError};
///
/// let allocator = SlabAllocator::builder(1024, 2).build()?;
/// let (one, other) = (allocator.allocate()?, allocator.allocate()?);
/// assert!(matches!(allocator.allocate(), Err(SlabError::OutOfMemory { in_use: 2, capacity: 2, .. })));
/// drop(one);
/// assert!(allocator.allocate().is_ok());
/// # drop(other);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct SlabAllocator {
    pub(super) heap: Heap,
    pub(super) class: SizeClass,
    pub(super) fixed: Fixed,
    /// What makes an allocation more than a look into the magazine: bits of the constants above. Read by all, written when
    /// one of them changes; it orders nothing.
    attention: AtomicU32,
    /// How often it was reset: references of before are void. Written by `reset`, read by all; orders nothing.
    resets: AtomicU32,
    pub(super) number: u64,
    pub(super) breaker: Breaker,
    pub(super) waiting: Waiting,
    pub(super) monitor: Mutex<HealthMonitor>,
    /// The most that was given back so far, as told: what is told never falls.
    pub(super) deallocations_told: AtomicU64,
    /// None: nothing is timed.
    pub(super) watch: Option<Watch>,
    pub(super) detached: Detached,
    pub(super) sites: Sites,
    pub(super) heap_fallback: bool,
    pub(super) leak_report: bool,
    logger: Option<Dispatch>,
    pub(super) counts: Counts,
}

/// What is counted where it is rare.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) batch_allocations: AtomicU64,
    pub(super) batch_deallocations: AtomicU64,
    pub(super) allocation_errors: AtomicU64,
    pub(super) deallocation_errors: AtomicU64,
    pub(super) fallbacks: AtomicU64,
    pub(super) fallbacks_live: AtomicU64,
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl SlabAllocator {
    pub(super) fn new(builder: Builder) -> Result<SlabAllocator, BuildError> {
        let (fixed, config) = builder.layout();
        let heap = Heap::new(&config)?;
        let (class, _) = heap.class_for(fixed.stride_bytes).expect("it is the one class");
        let (threshold, open_for) = builder.breaker.unwrap_or((0, Duration::ZERO));
        let (interval, limit) = (builder.health_interval, builder.latency_limit);
        Ok(SlabAllocator {
            heap,
            class,
            fixed,
            attention: AtomicU32::new(if builder.debug { DEBUG } else { 0 }),
            resets: AtomicU32::new(0),
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            breaker: Breaker::new(threshold, open_for),
            waiting: Waiting::default(),
            monitor: Mutex::new(HealthMonitor::new(Now::read(), interval)),
            deallocations_told: AtomicU64::new(0),
            watch: builder.health_checks.then(|| Watch::new(interval, limit)),
            detached: Detached::default(),
            sites: Sites::default(),
            heap_fallback: builder.heap_fallback,
            leak_report: builder.leak_report,
            logger: builder.logger,
            counts: Counts::default(),
        })
    }

    /// A slab, all zeros where the allocator is secure, as long as the allocator is borrowed.
    ///
    /// # Errors
    /// [`SlabError::OutOfMemory`], [`SlabError::System`], [`SlabError::CircuitOpen`], [`SlabError::Closed`].
    #[inline(always)]
    pub fn allocate(&self) -> Result<SlabRef<'_>, SlabError> {
        self.allocate_for(Owner::Borrowed(self))
    }

    /// As [`SlabAllocator::allocate`], of a slab that keeps the allocator alive.
    ///
    /// # Errors
    /// As [`SlabAllocator::allocate`].
    #[inline(always)]
    pub fn allocate_shared(self: &Arc<Self>) -> Result<SlabRef<'static>, SlabError> {
        self.allocate_for(Owner::Shared(Arc::clone(self)))
    }

    // Inlined, so that the reference is made where it is wanted: to copy it takes longer than much of the rest.
    #[inline(always)]
    fn allocate_for<'a>(&self, owner: Owner<'a>) -> Result<SlabRef<'a>, SlabError> {
        let timed = self.watch.as_ref().and_then(Watch::should_time);
        if timed.is_none()
            && let Some(slab) = self.take_ready()
        {
            return Ok(SlabRef::new(owner, Memory::Slab(slab), None));
        }
        self.allocate_past_ready(owner, timed)
    }

    /// What the thread's magazine has, if nothing else is to be thought of.
    #[inline(never)] // all of it in registers
    fn take_ready(&self) -> Option<OwnedSlab> {
        if self.attention() == 0 { self.heap.take_owned_ready(self.class) } else { None }
    }

    #[cold]
    #[inline(never)]
    fn allocate_past_ready<'a>(
        &self,
        owner: Owner<'a>,
        timed: Option<u64>,
    ) -> Result<SlabRef<'a>, SlabError> {
        let memory = self.allocate_watched(timed).inspect_err(|error| self.not_served(error))?;
        let site = self.enter_site(&memory);
        Ok(SlabRef::new(owner, memory, site))
    }

    /// A slab, or a panic: for programs that cannot go on without one.
    ///
    /// # Panics
    /// Where [`SlabAllocator::allocate`] has an error.
    pub fn allocate_or_panic(&self) -> SlabRef<'_> {
        match self.allocate() {
            Ok(slab) => slab,
            Err(error) => panic!("allocating a slab of {} bytes: {error}", self.fixed.slab_bytes),
        }
    }

    /// Gives a slab back, and says whether all was well with it. Dropping the reference does the same without a word.
    ///
    /// # Errors
    /// As [`SlabRef::release`]; [`SlabError::InvalidReference`] where it is of another allocator, which has it back then.
    pub fn deallocate(&self, mut slab: SlabRef<'_>) -> Result<(), SlabError> {
        if !slab.is_of(self) {
            drop(slab);
            return self.given_back(Err(SlabError::InvalidReference));
        }
        slab.release()
    }

    /// Ends all that was given out at once, as at the end of a request or a test: ids are good no more, and their slabs free;
    /// references are void, and their slabs free when they are dropped, for their owners may be looking at them. The breaker
    /// is closed, and free memory goes back to the system when it lay idle for two calls of [`SlabAllocator::trim`]. What was
    /// counted stays.
    pub fn reset(&self) {
        self.resets.fetch_add(1, Ordering::Relaxed);
        for kept in self.detached.take_all() {
            let _ = self.take_back(kept.memory, kept.site); // a damaged one is logged
        }
        self.breaker.succeeded();
        self.attention.fetch_and(!FAILING, Ordering::Relaxed);
    }

    /// Gives memory back to the system that lay free since the last call. To be called every some seconds by whoever wants
    /// that; nothing does it by itself.
    pub fn trim(&self) {
        self.heap.end_idle_interval();
        while self.heap.reclaim_idle_slice() {}
    }

    /// Closes it: nothing is allocated any more, and those who wait are told. What is in use stays valid until it is given
    /// back. Says what that is, and logs it where a leak report was asked for.
    ///
    /// # Errors
    /// [`SlabError::Closed`] the second time.
    pub fn close(&self) -> Result<LeakReport, SlabError> {
        if self.attention.fetch_or(CLOSED, Ordering::Relaxed) & CLOSED != 0 {
            return Err(SlabError::Closed);
        }
        self.waiting.wake_all();
        let report = self.leaks();
        self.tell_leaks(&report);
        self.trim();
        self.trim();
        Ok(report)
    }

    /// Whether it was closed.
    pub fn is_closed(&self) -> bool {
        self.attention() & CLOSED != 0
    }

    // ---- what references ask ------------------------------------------------------------------------------------------

    pub(super) fn slab_size(&self) -> usize {
        usize::try_from(self.fixed.slab_bytes).expect("the builder bounds it")
    }

    #[inline]
    pub(super) fn resets(&self) -> u32 {
        self.resets.load(Ordering::Relaxed)
    }

    #[inline]
    pub(super) fn slab_bytes<'a>(&'a self, slab: &'a OwnedSlab) -> &'a [u8] {
        &self.heap.owned_bytes(self.class, slab)[..self.slab_size()]
    }

    #[inline]
    pub(super) fn slab_bytes_mut<'a>(
        &'a self,
        slab: &'a mut OwnedSlab,
        range: std::ops::Range<usize>,
    ) -> &'a mut [u8] {
        self.heap.owned_bytes_mut(self.class, slab, range.start as u64..range.end as u64)
    }

    pub(super) fn sites(&self) -> &Sites {
        &self.sites
    }

    /// Takes memory back, and wakes one who waits for it.
    pub(super) fn take_back(&self, memory: Memory, site: Option<u64>) -> Result<(), SlabError> {
        if let Some(site) = site {
            self.sites.leave(site);
        }
        match memory {
            Memory::Slab(slab) => self.take_slab_back(slab),
            Memory::Fallback(bytes) => {
                self.counts.fallbacks_live.fetch_sub(1, Ordering::Relaxed);
                zeroed(bytes, self.fixed.secure);
                Ok(())
            }
            Memory::None => Err(SlabError::DoubleFree),
        }
    }

    /// As [`SlabAllocator::take_back`], of a slab that no site is known of.
    #[inline(always)] // see `allocate_for`
    pub(super) fn take_slab_back(&self, slab: OwnedSlab) -> Result<(), SlabError> {
        let id = slab.index();
        if self.free(slab) { Ok(()) } else { Err(SlabError::Corrupted { id }) }
    }

    /// Whether the slab was undamaged.
    #[inline(never)] // all of it in registers
    fn free(&self, slab: OwnedSlab) -> bool {
        let is_undamaged = self.heap.free_owned(self.class, slab, self.fixed.slab_bytes);
        self.waiting.wake_one();
        if self.attention() & FAILING != 0 {
            self.succeeded();
        }
        is_undamaged
    }

    /// Counts and logs what was wrong with something that was given back.
    pub(super) fn given_back(&self, outcome: Result<(), SlabError>) -> Result<(), SlabError> {
        outcome.inspect_err(|error| {
            count(&self.counts.deallocation_errors);
            self.log(|| error!(allocator = self.number, %error, "a slab was given back wrongly"));
        })
    }

    // ---- the cold way -------------------------------------------------------------------------------------------------

    #[inline]
    pub(super) fn attention(&self) -> u32 {
        self.attention.load(Ordering::Relaxed)
    }

    /// An allocation that is timed: because its turn has come, or because the magazine does not serve it.
    #[cold]
    fn allocate_watched(&self, weight: Option<u64>) -> Result<Memory, SlabError> {
        let Some(watch) = &self.watch else { return self.allocate_uncounted() };
        let stopwatch = Stopwatch::start();
        let (memory, weight) = match self.take_ready() {
            Some(slab) => (Memory::Slab(slab), weight.unwrap_or(1)),
            None => (self.allocate_uncounted()?, 1),
        };
        if let Some(slow) = watch.took(stopwatch.nanoseconds(), weight) {
            let limit = watch.limit().unwrap_or_default();
            self.log(|| {
                warn!(allocator = self.number, slow, ?limit, "allocations take longer than the limit")
            });
        }
        Ok(memory)
    }

    /// An allocation with all that belongs to it, but for being timed and counted.
    #[cold]
    pub(super) fn allocate_uncounted(&self) -> Result<Memory, SlabError> {
        self.may_try()?;
        match self.heap.take_owned(self.class) {
            Ok(slab) => {
                if self.attention() & FAILING != 0 {
                    self.succeeded();
                }
                Ok(Memory::Slab(slab))
            }
            Err(error) => self.fall_back(self.refused(1, &error)),
        }
    }

    /// Whether an allocation may be tried at all.
    pub(super) fn may_try(&self) -> Result<(), SlabError> {
        let attention = self.attention();
        if attention & CLOSED != 0 {
            return Err(SlabError::Closed);
        }
        match attention & FAILING {
            0 => Ok(()),
            _ => self
                .breaker
                .open_for(Now::read())
                .map_or(Ok(()), |retry_in| Err(SlabError::CircuitOpen { retry_in })),
        }
    }

    /// Counts a call that served nobody. What was refused without a try is no failure to the breaker.
    #[cold]
    pub(super) fn not_served(&self, error: &SlabError) {
        count(&self.counts.allocation_errors);
        if !matches!(error, SlabError::OutOfMemory { .. } | SlabError::System(_) | SlabError::Timeout { .. })
        {
            return;
        }
        self.count_failure();
    }

    fn count_failure(&self) {
        let has_opened = self.breaker.failed(Now::read());
        if self.breaker.has_failed() {
            self.attention.fetch_or(FAILING, Ordering::Relaxed);
        }
        if has_opened {
            self.log(|| warn!(allocator = self.number, "the circuit breaker opens: allocations fail"));
        }
    }

    #[cold]
    pub(super) fn succeeded(&self) {
        self.attention.fetch_and(!FAILING, Ordering::Relaxed);
        if self.breaker.succeeded() {
            self.log(|| warn!(allocator = self.number, "the circuit breaker closes"));
        }
    }

    /// Memory of Rust's own allocator in place of a slab that cannot be had, where that is wanted: the error where it is not,
    /// or there is none either. To the breaker it is a failure all the same, so it bounds how much there can be in a row.
    pub(super) fn fall_back(&self, error: SlabError) -> Result<Memory, SlabError> {
        let mut bytes = Vec::new();
        if !self.heap_fallback || bytes.try_reserve_exact(self.slab_size()).is_err() {
            return Err(error);
        }
        bytes.resize(self.slab_size(), 0);
        count(&self.counts.fallbacks);
        count(&self.counts.fallbacks_live);
        self.count_failure();
        Ok(Memory::Fallback(bytes.into_boxed_slice()))
    }

    pub(super) fn refused(&self, requested: u64, error: &AllocateError) -> SlabError {
        match error {
            AllocateError::Exhausted { in_use_bytes, .. } => self.out_of_memory(requested, *in_use_bytes),
            AllocateError::System { error, .. } => SlabError::System(*error),
        }
    }

    pub(super) fn out_of_memory(&self, requested: u64, in_use_bytes: u64) -> SlabError {
        let in_use = in_use_bytes / self.fixed.stride_bytes;
        SlabError::OutOfMemory { requested, in_use, capacity: self.fixed.capacity }
    }

    pub(super) fn enter_site(&self, memory: &Memory) -> Option<u64> {
        let id = match memory {
            Memory::Slab(slab) => Some(slab.index()),
            _ => None,
        };
        (self.attention() & DEBUG != 0).then(|| self.sites.enter(id))
    }

    pub(super) fn log(&self, event: impl FnOnce()) {
        match &self.logger {
            Some(logger) => tracing::dispatcher::with_default(logger, event),
            None => event(),
        }
    }
}

/// Overwrites what was in memory that goes back to Rust's own allocator.
fn zeroed(mut bytes: Box<[u8]>, is_secure: bool) {
    if is_secure {
        bytes.fill(0);
        std::hint::black_box(&bytes); // or the compiler leaves out what nobody reads
    }
}

/// What it is and how it stands; not how.
impl std::fmt::Debug for SlabAllocator {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("SlabAllocator")
            .field("slab_bytes", &self.fixed.slab_bytes)
            .field("capacity", &self.fixed.capacity)
            .field("in_use_bytes", &self.heap.in_use_bytes())
            .field("is_closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}

impl Drop for SlabAllocator {
    fn drop(&mut self) {
        if !self.is_closed() {
            self.tell_leaks(&self.leaks());
        }
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests;
