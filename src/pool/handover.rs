//! Handing over: what would take a request longer than a slice of work goes to the janitor thread, and is awaited.
//!
//! A request whose room is granted may find that its slabs take more than a millisecond to make: other classes have to
//! give memory back, live blocks have to be moved. Threads that serve requests do not do that. The request's claim goes
//! into a queue, as a [`Backing`], and the janitor works it off and sends the slabs back. Whoever hangs up meanwhile
//! drops the other end: then the slabs, or what is left of the claim, are given back by whoever holds the backing.
//!
//! Without a janitor (a pool that is embedded, most tests) the work is done where it arises.

use super::local::Local;
use super::object::{Broken, free_backed};
use crate::memory::{self, Backed, Heap, Shape};
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot};

/// Requests that are handed over at once, at most. Those beyond wait for a place, which takes no memory of the queue.
const HANDED_OVER_MAX: usize = 1024;

/// Granted bytes on their way to becoming blocks. Dropped, everything is given back.
#[derive(Debug)]
pub(super) struct Backing {
    heap: Arc<Heap>,
    /// Blocks that are there.
    made: Vec<Backed>,
    /// What is still to be made, the last one first.
    missing: Vec<Shape>,
    /// Bytes granted for those.
    granted_bytes: u64,
}

impl Backing {
    /// Of so many bytes that were granted to the caller, to become blocks of these shapes, in order, behind those that
    /// are there already.
    pub(super) fn new(
        heap: &Arc<Heap>,
        made: Vec<Backed>,
        mut missing: Vec<Shape>,
        granted_bytes: u64,
    ) -> Backing {
        missing.reverse();
        Backing { heap: Arc::clone(heap), made, missing, granted_bytes }
    }

    /// Makes what is missing, however long that takes.
    fn work(&mut self) -> Result<(), memory::AllocateError> {
        while let Some(shape) = self.missing.last() {
            let made = self.heap.back_shape(*shape)?;
            self.granted_bytes -= self.heap.shape_bytes(*shape);
            self.made.push(made);
            self.missing.pop();
        }
        Ok(())
    }

    /// All blocks: the caller's from here on.
    fn into_made(mut self) -> Vec<Backed> {
        debug_assert!(self.missing.is_empty(), "blocks are missing");
        std::mem::take(&mut self.made)
    }
}

impl Drop for Backing {
    fn drop(&mut self) {
        self.made.drain(..).for_each(|made| free_backed(&self.heap, &made));
        if self.granted_bytes > 0 {
            self.heap.give_back(self.granted_bytes);
        }
    }
}

/// What a request gets back: its blocks, or why the system grants none.
type Outcome = Result<Backing, memory::AllocateError>;

#[derive(Debug)]
struct Job {
    backing: Backing,
    done: oneshot::Sender<Outcome>,
}

impl Job {
    fn work(self) {
        let Job { mut backing, done } = self;
        if done.is_closed() {
            return; // nobody waits for it any more
        }
        let outcome = backing.work().map(|()| backing);
        // Where nobody waits any more, the backing comes back, and gives back what it has.
        drop(done.send(outcome));
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Handover {
    queue: Mutex<Queue>,
    /// Told when there is a job, and when the janitor is to end.
    told: Condvar,
    places: Semaphore,
}

#[derive(Debug, Default)]
struct Queue {
    jobs: VecDeque<Job>,
    /// What uploads left to zero. Each has an entry lent, or had; before the list grows it forgets those that had, so it is
    /// no longer than twice the number of entries.
    broken: VecDeque<Broken>,
    /// Something was freed that the heap may not have zeroed yet.
    wants_scrubs: bool,
    /// Free memory is to be given back, because it gets full.
    wants_relief: bool,
    /// There is a janitor, and it will look.
    is_served: bool,
}

impl Queue {
    fn has_scrubs(&self) -> bool {
        self.wants_scrubs || !self.broken.is_empty()
    }
}

/// What the janitor found to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chore {
    /// Something that a request waits for.
    Ready,
    /// Something that nobody waits for, to be done by [`Pool::scrub_slice`](super::Pool::scrub_slice).
    Scrub,
    /// Free memory is to be given back, by [`Pool::relieve_slice`](super::Pool::relieve_slice).
    Relief,
    /// There was nothing in all that time.
    Nothing,
    /// It is to end, and nothing is left.
    Ended,
}

impl Default for Handover {
    fn default() -> Handover {
        Handover { queue: Mutex::default(), told: Condvar::new(), places: Semaphore::new(HANDED_OVER_MAX) }
    }
}

impl Handover {
    /// Begins or ends the service of the queue. What is in it when the service ends is still done.
    pub(super) fn set_served(&self, is_served: bool) {
        self.queue.lock().is_served = is_served;
        self.told.notify_all();
    }

    /// Ends the service of the queue, and gives up what is left in it, if anything is.
    pub(super) fn abandon(&self) {
        let jobs = {
            let mut queue = self.queue.lock();
            queue.is_served = false;
            std::mem::take(&mut queue.jobs)
        };
        self.places.add_permits(jobs.len());
    }

    /// Something was freed that is still to be zeroed. False where nobody would do that.
    pub(super) fn wants_scrubs(&self) -> bool {
        let mut queue = self.queue.lock();
        let is_news = queue.is_served && !std::mem::replace(&mut queue.wants_scrubs, true);
        let is_served = queue.is_served;
        drop(queue);
        if is_news {
            self.told.notify_one();
        }
        is_served
    }

    /// Whether something may have been freed since the last call that is still to be zeroed.
    pub(super) fn take_scrubs(&self) -> bool {
        std::mem::take(&mut self.queue.lock().wants_scrubs)
    }

    /// Free memory is to be given back. False where nobody would do that.
    pub(super) fn want_relief(&self) -> bool {
        let mut queue = self.queue.lock();
        queue.wants_relief = queue.is_served;
        let is_served = queue.is_served;
        drop(queue);
        if is_served {
            self.told.notify_one();
        }
        is_served
    }

    /// Whoever takes this does a slice of it, and wants it again where there is more.
    pub(super) fn take_relief(&self) {
        self.queue.lock().wants_relief = false;
    }

    /// Takes in what an upload left; gives it back where nobody would zero it.
    pub(super) fn enter_broken(&self, broken: Broken) -> Option<Broken> {
        let mut queue = self.queue.lock();
        if !queue.is_served {
            return Some(broken);
        }
        if queue.broken.len() == queue.broken.capacity() {
            queue.broken.retain(Broken::is_wanted);
        }
        queue.broken.push_back(broken);
        drop(queue);
        self.told.notify_one();
        None
    }

    /// How much of it is kept.
    #[cfg(all(test, not(feature = "loom")))]
    pub(super) fn broken_count(&self) -> usize {
        self.queue.lock().broken.len()
    }

    /// What an upload left, to have a slice of it zeroed.
    pub(super) fn take_broken(&self) -> Option<Broken> {
        self.queue.lock().broken.pop_front()
    }

    /// There is more of it.
    pub(super) fn put_broken_back(&self, broken: Broken) {
        self.queue.lock().broken.push_front(broken);
    }

    /// Jobs that wait.
    pub(super) fn waiting(&self) -> usize {
        self.queue.lock().jobs.len()
    }

    /// Waits for a job, if there is none.
    pub(super) fn await_chore(&self, patience: Duration) -> Chore {
        let mut queue = self.queue.lock();
        if queue.jobs.is_empty() && !queue.has_scrubs() && !queue.wants_relief && queue.is_served {
            self.told.wait_for(&mut queue, patience);
        }
        match queue.jobs.is_empty() {
            false => Chore::Ready,
            // It ends after one pass, and what is freed in between never does: so that would keep it from its turn.
            true if queue.wants_relief && queue.is_served => Chore::Relief,
            true if queue.has_scrubs() => Chore::Scrub,
            true if queue.is_served => Chore::Nothing,
            true => Chore::Ended,
        }
    }

    /// Waits for a job alone, whatever else is to be done. May end before.
    pub(super) fn await_job(&self, patience: Duration) {
        let mut queue = self.queue.lock();
        if queue.jobs.is_empty() && queue.is_served {
            self.told.wait_for(&mut queue, patience);
        }
    }

    /// Does a job; false if there is none.
    pub(super) fn do_chore(&self) -> bool {
        let Some(job) = self.queue.lock().jobs.pop_front() else { return false };
        self.places.add_permits(1);
        job.work();
        true
    }

    /// Enters a job; gives it back where nobody would do it.
    fn enter(&self, job: Job) -> Result<(), Job> {
        let mut queue = self.queue.lock();
        if !queue.is_served {
            return Err(job);
        }
        queue.jobs.push_back(job);
        drop(queue);
        self.told.notify_one();
        Ok(())
    }
}

impl Local {
    /// Makes the slabs of a backing: has them made by the janitor where there is one.
    #[cold]
    pub(super) async fn finish(&self, mut backing: Backing) -> Result<Vec<Backed>, memory::AllocateError> {
        let handover = self.handover();
        if !handover.queue.lock().is_served {
            return backing.work().map(|()| backing.into_made());
        }
        handover.places.acquire().await.expect("the places are never closed").forget();
        let (done, outcome) = oneshot::channel();
        if let Err(job) = handover.enter(Job { backing, done }) {
            handover.places.add_permits(1);
            job.work();
        }
        outcome.await.expect("a job that somebody waits for is done").map(Backing::into_made)
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;
    use crate::memory::Config;
    use std::task::{Context, Waker};
    use std::{future::Future, pin::pin, task::Poll};

    const LARGE: u64 = 64 << 10;

    fn local() -> Arc<Local> {
        let memory = Config { slab_sizes: vec![1024, LARGE], max_pool_size: 1 << 20, ..Config::default() };
        Local::new(
            Arc::new(Heap::new(&memory).expect("the configuration is right")),
            &crate::pool::Config::default(),
            Arc::default(),
        )
    }

    /// A granted backing of one large slab.
    fn backing(local: &Local) -> Backing {
        let (shape, bytes) = local.heap().shape_for(LARGE).expect("a class");
        local.heap().grant(bytes).expect("there is room");
        Backing::new(local.heap(), Vec::new(), vec![shape], bytes)
    }

    fn poll_once<T>(call: std::pin::Pin<&mut impl Future<Output = T>>) -> Option<T> {
        match call.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => Some(value),
            Poll::Pending => None,
        }
    }

    #[test]
    fn without_a_janitor_the_work_is_done_at_once() {
        let local = local();
        let made = poll_once(pin!(local.finish(backing(&local)))).expect("at once").expect("it is granted");
        assert_eq!((made.len(), local.heap().in_use_bytes()), (1, LARGE));
        made.into_iter().for_each(|made| free_backed(local.heap(), &made));
        local.heap().check();
    }

    #[test]
    fn with_one_it_waits_for_it_and_who_hangs_up_at_any_point_leaves_nothing() {
        let local = local();
        local.handover().set_served(true);
        assert_eq!(local.handover().await_chore(Duration::ZERO), Chore::Nothing);
        {
            let mut served = pin!(local.finish(backing(&local)));
            assert!(poll_once(served.as_mut()).is_none());
            assert_eq!(local.handover().await_chore(Duration::ZERO), Chore::Ready);
            {
                let mut gone = pin!(local.finish(backing(&local)));
                assert!(poll_once(gone.as_mut()).is_none());
            }
            assert!(local.handover().do_chore());
            let made = poll_once(served.as_mut()).expect("it is done").expect("it is granted");
            made.into_iter().for_each(|made| free_backed(local.heap(), &made));
        }
        assert_eq!(local.heap().in_use_bytes(), LARGE, "the other one's claim, until its turn");
        assert!(local.handover().do_chore());
        {
            // Hung up when the work is done, and nobody has looked yet.
            let mut done = pin!(local.finish(backing(&local)));
            assert!(poll_once(done.as_mut()).is_none());
            assert!(local.handover().do_chore());
            assert_eq!(local.heap().in_use_bytes(), LARGE);
        }
        assert_eq!((local.heap().in_use_bytes(), local.handover().do_chore()), (0, false));
        local.handover().set_served(false);
        assert_eq!(local.handover().await_chore(Duration::from_secs(60)), Chore::Ended);
        local.heap().check();
    }

    #[test]
    fn a_pause_beside_other_work_ends_when_a_request_comes() {
        let local = local();
        local.handover().set_served(true);
        local.handover().want_relief();
        std::thread::scope(|scope| {
            let pause = scope.spawn(|| local.handover().await_job(Duration::from_secs(3600)));
            let mut call = pin!(local.finish(backing(&local)));
            assert!(poll_once(call.as_mut()).is_none());
            pause.join().expect("no panic");
            assert_eq!(local.handover().await_chore(Duration::ZERO), Chore::Ready);
        });
        assert!(local.handover().do_chore());
        local.handover().await_job(Duration::ZERO);
        assert_eq!(local.handover().await_chore(Duration::ZERO), Chore::Relief);
    }

    #[test]
    fn a_batch_does_one_slice_where_it_arises_and_hands_over_the_rest() {
        const BLOCKS: usize = 8;
        let memory = Config {
            slab_sizes: vec![4096, LARGE],
            max_pool_size: 1 << 20,
            initial_slabs_per_size: 0,
            ..Config::default()
        };
        let heap = Arc::new(Heap::new(&memory).expect("the configuration is right"));
        let local = Local::new(Arc::clone(&heap), &crate::pool::Config::default(), Arc::default());
        let (small, _) = heap.class_for(4096).expect("a class");
        let slabs: Vec<_> = (0..256).map(|_| heap.allocate(small).expect("there is room")).collect();
        slabs.into_iter().for_each(|slab| heap.free(slab));
        local.handover().set_served(true);
        let request = crate::pool::AllocateRequest::new(LARGE);
        let requests = vec![request; BLOCKS];
        let mut call = pin!(local.allocate_all(&requests, crate::clock::Now(0)));
        assert!(poll_once(call.as_mut()).is_none());
        assert!(heap.reclaim_count() <= 1, "{} slices", heap.reclaim_count());
        assert!(local.handover().do_chore());
        let made = poll_once(call.as_mut()).expect("it is done").expect("it is granted");
        assert_eq!(made.len(), BLOCKS);
        heap.check();
    }

    #[test]
    fn the_queue_is_bounded_and_those_beyond_it_come_in_as_others_leave() {
        let local = local();
        local.handover().set_served(true);
        let empty = || Backing::new(local.heap(), Vec::new(), Vec::new(), 0);
        let mut waiting: Vec<_> = (0..HANDED_OVER_MAX + 5).map(|_| Box::pin(local.finish(empty()))).collect();
        assert!(waiting.iter_mut().all(|call| poll_once(call.as_mut()).is_none()));
        assert_eq!(local.handover().waiting(), HANDED_OVER_MAX);
        while !waiting.is_empty() {
            assert!(local.handover().do_chore());
            waiting.retain_mut(|call| poll_once(call.as_mut()).is_none());
        }
        assert!(!local.handover().do_chore());
    }

    #[test]
    fn what_a_janitor_leaves_undone_is_given_back() {
        let local = local();
        local.handover().set_served(true);
        let mut call = Box::pin(local.finish(backing(&local)));
        assert!(poll_once(call.as_mut()).is_none());
        local.handover().abandon();
        assert_eq!(local.heap().in_use_bytes(), 0);
        let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| poll_once(call.as_mut())));
        assert!(failed.is_err(), "the request fails instead of waiting for ever");
    }
}
