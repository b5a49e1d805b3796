//! Readers of what was freed or replaced: until when they may go on.
//!
//! Whoever reads holds the bytes as they were, so the memory of a block that is freed meanwhile stays in use. Here
//! stands since when. A sweep, every now and then, forgets what has drained and marks what is overdue:
//!
//! ```text
//!   freed ───── drain_seconds ─────▶ overdue ───── the next sweep ─────▶ lingering
//!     └── 1 s, if memory is needed ─────┘
//! ```
//!
//! A reader that moves looks at the mark when it asks for its next piece, and ends there. One that stands still has to
//! be ended from outside: that is what "lingering" says. All of it is the rare case: a segment that nobody reads is
//! freed past this file, at the cost of one look at its record.

use super::local::Local;
use super::object::{DrainingObjects, Object, Reading};
use crate::clock::Now;
use crate::memory::{Heap, Pin, SlabLocation};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::Notify;

/// What a reader of a freed block always has, also when its memory is needed.
const TIME_WHEN_NEEDED: Duration = Duration::from_secs(1);

/// Room in the list that is kept for the next time.
const SEGMENTS_KEPT: usize = 64;

/// Segments that were freed while readers hold them.
#[derive(Debug)]
pub(super) struct Drains {
    /// What readers have if nobody needs the memory.
    time: Duration,
    /// A segment stands here once, so there are never more than there are segments; and before the list grows it
    /// forgets what has drained, so that it is no longer than twice the number of readers.
    segments: Mutex<HashMap<SlabLocation, Draining>>,
    /// Versions of large objects.
    objects: DrainingObjects,
    /// An allocation or a write got no memory since the last sweep. Set by anyone, taken by the sweep.
    needed: AtomicBool,
    /// Told when the list is empty no more.
    begun: Notify,
}

#[derive(Debug)]
struct Draining {
    since: Now,
    until: Now,
    is_overdue: bool,
}

/// What a sweep has left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sweep {
    /// Freed segments that readers still hold. While there are any, somebody should sweep again.
    pub draining: usize,
    /// How many of them an earlier sweep found overdue: their readers did not end by themselves.
    pub lingering: usize,
}

impl Drains {
    pub(super) fn new(time: Duration) -> Drains {
        Drains {
            time,
            segments: Mutex::default(),
            objects: DrainingObjects::default(),
            needed: AtomicBool::new(false),
            begun: Notify::new(),
        }
    }

    /// Frees a segment with content of that size, which nobody can begin to read any more.
    #[inline]
    pub(super) fn free(&self, heap: &Heap, location: SlabLocation, size_bytes: u64, now: Now) {
        heap.check_slack(location, size_bytes);
        if !heap.free_unread(location) {
            self.free_while_read(heap, location, now);
        }
    }

    #[cold]
    fn free_while_read(&self, heap: &Heap, location: SlabLocation, now: Now) {
        {
            // It drains from the moment on that it stands here, under one lock, so that no sweep takes it for what stands
            // here of an earlier time. It is freed without the lock: whoever waits for memory is served by that.
            let mut segments = self.segments.lock();
            heap.begin_draining(location);
            self.enter(&mut segments, heap, location, now);
        }
        heap.free(location);
    }

    /// Lets go of a version of a large object that no entry names any more. Its segments in `replaced` are in no later one.
    pub(super) fn retire(&self, version: Arc<Object>, replaced: Range<u64>, now: Now) {
        if self.objects.retire(version, replaced, now, now.after(self.time)) {
            self.begun.notify_one();
        }
    }

    fn enter(
        &self,
        segments: &mut HashMap<SlabLocation, Draining>,
        heap: &Heap,
        location: SlabLocation,
        now: Now,
    ) {
        if segments.len() == segments.capacity() {
            segments.retain(|location, _| heap.is_draining(*location));
        }
        if segments.is_empty() {
            self.begun.notify_one();
        }
        segments.insert(location, Draining { since: now, until: now.after(self.time), is_overdue: false });
    }

    /// An allocation or a write got no memory: readers of what was freed have less time from now on.
    #[cold]
    pub(super) fn memory_is_needed(&self, heap: &Heap) {
        // Only where it helps: a need of long ago must not shorten the time of those who come later.
        if heap.draining_bytes() > 0 && !self.needed.load(Ordering::Relaxed) {
            self.needed.store(true, Ordering::Relaxed);
        }
    }

    /// Forgets what has drained, and marks what is overdue.
    pub(super) fn sweep(&self, heap: &Heap, now: Now) -> Sweep {
        let mut segments = self.segments.lock();
        let is_needed = self.needed.swap(false, Ordering::Relaxed);
        let objects = self.objects.sweep(is_needed.then_some(TIME_WHEN_NEEDED), now);
        let mut lingering = objects.lingering;
        segments.retain(|location, segment| {
            if segment.is_overdue {
                let lingers = heap.is_draining(*location);
                lingering += usize::from(lingers);
                return lingers;
            }
            if is_needed {
                segment.until = segment.until.min(segment.since.after(TIME_WHEN_NEEDED));
            }
            segment.is_overdue = segment.until <= now && heap.mark_overdue(*location);
            segment.is_overdue || heap.is_draining(*location)
        });
        if segments.is_empty() {
            segments.shrink_to(SEGMENTS_KEPT);
        }
        Sweep { draining: segments.len() + objects.draining, lingering }
    }

    /// Returns when the list was empty and is no more, be it since the last call.
    pub(super) async fn begun(&self) {
        self.begun.notified().await;
    }
}

impl Local {
    /// See [`super::Pool::sweep_readers`].
    pub(super) fn sweep_readers(&self, now: Now) -> Sweep {
        // Whoever was refused said so; whoever waits does not say it again.
        if self.queue().waits_for_memory(self.heap().free_bytes()) {
            self.drains().memory_is_needed(self.heap());
        }
        self.drains().sweep(self.heap(), now)
    }
}

/// A part in a read.
#[derive(Debug)]
pub(crate) enum ReaderHold {
    /// Of a slab.
    Slab(Arc<Pin>),
    /// Of a version of a large object.
    Object(Arc<Reading>),
}

impl ReaderHold {
    /// As [`ReaderWatch::is_overdue`].
    pub(crate) fn is_overdue(&self) -> bool {
        match self {
            ReaderHold::Slab(pin) => pin.is_overdue(),
            ReaderHold::Object(reading) => reading.is_overdue(),
        }
    }
}

/// Sees whether a read is still under way, anywhere, without taking part in it.
#[derive(Clone, Debug)]
pub struct ReaderWatch(Watched);

#[derive(Clone, Debug)]
enum Watched {
    Slab(Weak<Pin>),
    Object(Weak<Reading>),
}

impl ReaderWatch {
    pub(super) fn of_slab(pin: &Arc<Pin>) -> ReaderWatch {
        ReaderWatch(Watched::Slab(Arc::downgrade(pin)))
    }

    pub(super) fn of_object(reading: &Arc<Reading>) -> ReaderWatch {
        ReaderWatch(Watched::Object(Arc::downgrade(reading)))
    }

    /// Whether any piece of what is read is left.
    pub fn is_alive(&self) -> bool {
        match &self.0 {
            Watched::Slab(pin) => pin.strong_count() > 0,
            Watched::Object(reading) => reading.strong_count() > 0,
        }
    }

    /// Whether the read has to end: what it reads was freed or replaced, and its time is over.
    pub fn is_overdue(&self) -> bool {
        self.hold().is_some_and(|read| read.is_overdue())
    }

    /// Takes part in the read where anything of it is left. To be dropped where no lock is held: whoever is the last
    /// to do so scrubs what was read.
    pub(crate) fn hold(&self) -> Option<ReaderHold> {
        match &self.0 {
            Watched::Slab(pin) => pin.upgrade().map(ReaderHold::Slab),
            Watched::Object(reading) => reading.upgrade().map(ReaderHold::Object),
        }
    }

    /// Whether both watch the same read.
    pub fn is_of_same_read(&self, other: &ReaderWatch) -> bool {
        match (&self.0, &other.0) {
            (Watched::Slab(one), Watched::Slab(other)) => Weak::ptr_eq(one, other),
            (Watched::Object(one), Watched::Object(other)) => Weak::ptr_eq(one, other),
            _ => false,
        }
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;
    use crate::memory::{ClassConfig, Config, Edit};
    use crate::pool::{self, AllocateRequest, Placement, Pool, Precondition};
    use bytes::Bytes;
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Waker};

    const SLABS: u64 = 1000;

    fn heap() -> Arc<Heap> {
        // Without magazines: the slab that was freed last is the one given out next, also where a reader held it.
        let without = ClassConfig { magazine_capacity: Some(0), ..ClassConfig::default() };
        let config = Config {
            slab_sizes: vec![1024],
            max_pool_size: SLABS * 1024,
            classes: [(1024, without)].into(),
            ..Config::default()
        };
        Arc::new(Heap::new(&config).expect("the configuration is right"))
    }

    fn seconds(seconds: u64) -> Now {
        Now(0).after(Duration::from_secs(seconds))
    }

    fn milliseconds(milliseconds: u64) -> Now {
        Now(0).after(Duration::from_millis(milliseconds))
    }

    /// A segment that was written, and its reader.
    fn read_segment(heap: &Arc<Heap>) -> (SlabLocation, Arc<Pin>) {
        let location = heap.allocate(heap.class_for(1024).expect("a class").0).expect("there is room");
        let edit = Edit { pieces: &[b"content"], writes: Some(1), ..Edit::default() };
        heap.edit(location, &edit).expect("the only holder");
        (location, Arc::new(Pin::new(heap, location).expect("held")))
    }

    fn watch(pin: &Arc<Pin>) -> ReaderWatch {
        ReaderWatch::of_slab(pin)
    }

    fn has_begun(drains: &Drains) -> bool {
        pin!(drains.begun()).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    const NOTHING: Sweep = Sweep { draining: 0, lingering: 0 };
    const DRAINING: Sweep = Sweep { draining: 1, lingering: 0 };
    const LINGERING: Sweep = Sweep { draining: 1, lingering: 1 };

    #[test]
    fn a_reader_has_its_time_is_marked_then_and_lingers_from_the_next_sweep_on() {
        let (heap, drains) = (heap(), Drains::new(Duration::from_secs(30)));
        let (location, pin) = read_segment(&heap);
        assert!(!has_begun(&drains));
        drains.free(&heap, location, 1000, seconds(100));
        assert!(has_begun(&drains) && !has_begun(&drains));
        assert_eq!(drains.sweep(&heap, seconds(100)), DRAINING);
        assert_eq!(drains.sweep(&heap, milliseconds(129_999)), DRAINING);
        assert!(!watch(&pin).is_overdue());
        assert_eq!(drains.sweep(&heap, seconds(130)), DRAINING);
        assert!(watch(&pin).is_overdue() && watch(&pin).is_alive());
        for _ in 0..2 {
            assert_eq!(drains.sweep(&heap, seconds(130)), LINGERING, "until somebody ends it");
        }
        let watch = watch(&pin);
        drop(pin);
        assert!(!watch.is_overdue() && !watch.is_alive());
        assert_eq!(drains.sweep(&heap, seconds(131)), NOTHING);
        assert_eq!((heap.in_use_bytes(), heap.draining_bytes()), (0, 0));
    }

    #[test]
    fn a_read_that_ends_while_it_is_looked_at_is_scrubbed_where_the_look_is_dropped() {
        let (heap, drains) = (heap(), Drains::new(Duration::from_secs(30)));
        let (location, pin) = read_segment(&heap);
        drains.free(&heap, location, 1000, seconds(1));
        let held = watch(&pin).hold().expect("it is read");
        drop(pin);
        assert!(!held.is_overdue());
        assert_eq!(heap.draining_bytes(), 1024, "the look is the last part of it");
        drop(held);
        assert_eq!((heap.in_use_bytes(), heap.draining_bytes()), (0, 0));
    }

    #[test]
    fn what_nobody_reads_is_freed_past_the_list_and_what_drains_in_time_is_forgotten() {
        let (heap, drains) = (heap(), Drains::new(Duration::from_secs(30)));
        let (location, pin) = read_segment(&heap);
        drop(pin);
        drains.free(&heap, location, 1000, seconds(1));
        assert_eq!((heap.in_use_bytes(), has_begun(&drains)), (0, false));
        let (location, pin) = read_segment(&heap);
        drains.free(&heap, location, 1000, seconds(1));
        drop(pin);
        assert_eq!(drains.sweep(&heap, seconds(31)), NOTHING);
    }

    #[test]
    fn a_reader_has_one_second_when_memory_is_needed_and_never_less() {
        let (heap, drains) = (heap(), Drains::new(Duration::from_secs(30)));
        let (location, pin) = read_segment(&heap);
        drains.free(&heap, location, 1000, seconds(10));
        drains.memory_is_needed(&heap);
        assert_eq!(drains.sweep(&heap, milliseconds(10_100)), DRAINING);
        assert!(!watch(&pin).is_overdue());
        // The need is remembered: whoever was refused may come again, or not.
        assert_eq!(drains.sweep(&heap, milliseconds(10_999)), DRAINING);
        assert!(!watch(&pin).is_overdue());
        drains.sweep(&heap, seconds(11));
        assert!(watch(&pin).is_overdue());
        drop(pin);
        drains.sweep(&heap, seconds(11));
        // It was that one's; a later one has all its time.
        let (location, pin) = read_segment(&heap);
        drains.free(&heap, location, 1000, seconds(12));
        assert_eq!(drains.sweep(&heap, seconds(14)), DRAINING);
        assert!(!watch(&pin).is_overdue());
        drains.memory_is_needed(&heap);
        drains.sweep(&heap, seconds(14));
        assert!(watch(&pin).is_overdue(), "at once, when its second is over");
    }

    #[test]
    fn a_need_while_nothing_drains_shortens_nobodys_time() {
        let (heap, drains) = (heap(), Drains::new(Duration::from_secs(30)));
        drains.memory_is_needed(&heap);
        let (location, pin) = read_segment(&heap);
        drains.free(&heap, location, 1000, seconds(1));
        drains.sweep(&heap, seconds(20));
        assert!(!watch(&pin).is_overdue());
    }

    #[test]
    fn a_time_shorter_than_a_second_is_not_lengthened_by_a_need() {
        let (heap, drains) = (heap(), Drains::new(Duration::ZERO));
        let (location, pin) = read_segment(&heap);
        drains.free(&heap, location, 1000, seconds(1));
        drains.memory_is_needed(&heap);
        drains.sweep(&heap, seconds(1));
        assert!(watch(&pin).is_overdue());
    }

    #[test]
    fn readers_of_a_live_segment_are_never_overdue() {
        let (heap, drains) = (heap(), Drains::new(Duration::ZERO));
        let (live, live_pin) = read_segment(&heap);
        let (freed, freed_pin) = read_segment(&heap);
        drains.free(&heap, freed, 1000, seconds(1));
        drains.memory_is_needed(&heap);
        drains.sweep(&heap, seconds(1000));
        assert!(!watch(&live_pin).is_overdue() && watch(&freed_pin).is_overdue());
        drop(live_pin);
        heap.free(live);
    }

    /// A slab that drained and was given out again stands in the list from before until a sweep looks.
    #[test]
    fn the_readers_of_a_slabs_next_owner_have_a_time_of_their_own() {
        let (heap, drains) = (heap(), Drains::new(Duration::from_secs(30)));
        let (location, pin) = read_segment(&heap);
        drains.free(&heap, location, 1000, seconds(1));
        drop(pin);
        let (again, pin) = read_segment(&heap);
        assert_eq!(again, location, "the same slab");
        assert_eq!(drains.sweep(&heap, seconds(31)), NOTHING, "it is live");
        assert!(!watch(&pin).is_overdue());
        drains.free(&heap, again, 1000, seconds(31));
        drop(pin);
        let (again, pin) = read_segment(&heap);
        drains.free(&heap, again, 1000, seconds(40));
        assert_eq!(drains.sweep(&heap, seconds(61)), DRAINING, "it stands there once, with its last time");
        assert!(!watch(&pin).is_overdue());
        drains.sweep(&heap, seconds(70));
        assert!(watch(&pin).is_overdue());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_room_needs_what_drains_also_if_it_was_freed_later() {
        let memory = Config { slab_sizes: vec![1024], max_pool_size: 1024, ..Config::default() };
        let pool = Arc::new(Pool::new(Heap::new(&memory).expect("right"), &pool::Config::default()));
        let request = AllocateRequest::new(1);
        let id = pool.allocate(&request, Duration::ZERO, seconds(1)).await.expect("there is room").id;
        let (whole, any) = (Placement::Replace, Precondition::default());
        pool.write(id, whole, &[Bytes::from_static(b"x")], &any, seconds(1)).await.expect("live");
        let content = pool.read(id, seconds(1)).await.expect("live");
        let watch = content.watch().expect("it was written");
        let waiting = pool.clone();
        let waiter =
            tokio::spawn(
                async move { waiting.allocate(&request, Duration::from_secs(60), seconds(2)).await },
            );
        tokio::time::sleep(Duration::from_millis(1)).await; // it waits by now, and nothing drains
        assert_eq!(pool.stats().await.waiting_requests, 1);
        pool.free(id, seconds(10)).await.expect("live");
        assert_eq!(pool.sweep_readers(milliseconds(10_999)), DRAINING);
        assert!(!watch.is_overdue());
        assert_eq!(pool.sweep_readers(seconds(11)), DRAINING);
        assert!(watch.is_overdue());
        drop(content);
        waiter.await.expect("it does not panic").expect("there is room");
        assert_eq!(pool.sweep_readers(seconds(11)), NOTHING);
    }

    #[test]
    fn the_list_is_bounded_by_the_readers_even_if_nobody_sweeps() {
        let (heap, drains) = (heap(), Drains::new(Duration::from_secs(30)));
        let mut spare = Vec::new();
        for _ in 0..SLABS {
            // Each reader leaves, and each slab is another one: all the others are in use.
            let (location, pin) = read_segment(&heap);
            drains.free(&heap, location, 1000, seconds(1));
            drop(pin);
            spare.push(heap.allocate(heap.class_for(1024).expect("a class").0).expect("there is room"));
        }
        assert!(drains.segments.lock().len() <= 4, "{:?}", drains.segments.lock().len());
        spare.into_iter().for_each(|location| heap.free(location));
    }

    #[test]
    fn two_watches_of_one_read_are_known_for_that() {
        let heap = heap();
        let ((_, first), (_, second)) = (read_segment(&heap), read_segment(&heap));
        assert!(watch(&first).is_of_same_read(&watch(&first)));
        assert!(!watch(&first).is_of_same_read(&watch(&second)));
    }
}
