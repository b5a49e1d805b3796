//! The janitor: the one thread for work that takes longer than a request may keep a worker from others.
//!
//! Requests hand over what takes longer than a slice, and wait for it without a thread. In between the janitor zeroes
//! what is freed in large pieces, gives back what lay idle, and makes ready what busy classes are to keep, slice by
//! slice, and drops that whenever a request comes.

use crate::clock::Now;
use crate::pool::{Chore, Pool, ReliefSlice, Relieved};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tracing::{debug, info};

/// Between two looks at what was reclaimed, while nobody needs anything.
const LOOK: Duration = Duration::from_secs(1);
/// Slices in a row that gave nothing back, from which on there is a pause after each, which any request ends: others need
/// the memory first, or live blocks are moved.
const FRUITLESS_MAX: u32 = 16;
const PAUSE: Duration = Duration::from_millis(1);
/// How long free memory lies idle before it goes back.
const IDLE: Duration = Duration::from_secs(10);

/// The thread. Dropped, it is told to end and waited for: what requests wait for is done first.
#[derive(Debug)]
pub(super) struct Janitor {
    pool: Arc<Pool>,
    thread: Option<JoinHandle<()>>,
}

/// However the thread ends, nothing is handed over to it any more, and nobody waits for it. After a clean end nothing is
/// left; after a panic, which is a bug, those that wait fail, and their claims are given back.
struct Service<'a>(&'a Pool);

impl Drop for Service<'_> {
    fn drop(&mut self) {
        self.0.abandon_chores();
    }
}

impl Janitor {
    /// Starts the thread.
    ///
    /// # Errors
    /// Where the system grants no thread; work is then done where it arises, as before.
    pub(super) fn start(pool: Arc<Pool>, adaptive: Duration) -> std::io::Result<Janitor> {
        let its = Arc::clone(&pool);
        pool.begin_janitor();
        let thread = std::thread::Builder::new()
            .name("maas-janitor".to_owned())
            .spawn(move || {
                let _service = Service(&its);
                work(&its, LOOK, IDLE, adaptive);
            })
            .inspect_err(|_| pool.end_janitor())?;
        Ok(Janitor { pool, thread: Some(thread) })
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        self.pool.end_janitor();
        if let Some(thread) = self.thread.take() {
            // A panic there was logged as every panic is, and must not become a second one here.
            let _ = thread.join();
        }
    }
}

fn tell(relieved: &Relieved) {
    let Relieved { reclaimed_bytes, duration, .. } = *relieved;
    let (action, seconds) = (relieved.action.name(), duration.as_secs_f64());
    // Under lasting pressure the same is done again and again, which metrics tell.
    if relieved.is_news {
        info!(action, reclaimed_bytes, seconds, "free memory given back under pressure");
    } else {
        debug!(action, reclaimed_bytes, seconds, "free memory given back under pressure");
    }
}

/// What the thread does.
fn work(pool: &Pool, look: Duration, idle: Duration, adaptive: Duration) {
    let mut interval_began = Now::read();
    let (mut adaptive_began, mut last_sample) = (interval_began, interval_began);
    let (mut gives_back, mut makes_ready) = (false, false);
    let mut fruitless = 0;
    loop {
        if fruitless > FRUITLESS_MAX {
            pool.pause_for_requests(PAUSE);
        }
        let chore = pool.await_chore(if gives_back || makes_ready { Duration::ZERO } else { look });
        let began = Now::read();
        if chore == Chore::Ended {
            return;
        }
        // Whatever there is to do: it may never be nothing.
        if began.since(interval_began) >= idle {
            interval_began = began;
            pool.end_idle_interval();
            gives_back = true;
        }
        if began.since(last_sample) >= look {
            last_sample = began;
            pool.sample_use();
        }
        if began.since(adaptive_began) >= adaptive {
            adaptive_began = began;
            pool.end_adaptive_interval();
            makes_ready = true;
        }
        let has_worked = match chore {
            Chore::Ended => return,
            Chore::Ready => {
                pool.do_chore();
                fruitless = 0; // what it was done for may have needed the memory first
                true
            }
            Chore::Scrub => {
                pool.scrub_slice();
                true
            }
            Chore::Relief => {
                fruitless = match pool.relieve_slice(began) {
                    ReliefSlice::Going { reclaimed_bytes: 0 } => fruitless + 1,
                    ReliefSlice::Going { .. } | ReliefSlice::Nothing => 0,
                    ReliefSlice::Ended(relieved) => {
                        tell(&relieved);
                        0
                    }
                };
                true
            }
            Chore::Nothing => {
                gives_back = gives_back && pool.reclaim_idle_slice();
                makes_ready = makes_ready && pool.keep_ready_slice();
                gives_back || makes_ready
            }
        };
        let ended = Now::read();
        let busy = if has_worked { ended.since(began) } else { Duration::ZERO };
        pool.note_janitor(busy, ended);
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;
    use crate::memory::{self, Heap};
    use crate::pool::{AllocateRequest, Config};

    /// Longer than these tests take.
    const ADAPTIVE: Duration = Duration::from_secs(3600);

    fn pool() -> Arc<Pool> {
        let memory = memory::Config {
            slab_sizes: vec![1024, 4 << 20],
            max_pool_size: 32 << 20,
            initial_slabs_per_size: 1,
            ..memory::Config::default()
        };
        Arc::new(Pool::new(Heap::new(&memory).expect("the configuration is right"), &Config::default()))
    }

    fn request(size_bytes: u64) -> AllocateRequest {
        AllocateRequest::new(size_bytes)
    }

    async fn allocate(pool: &Pool, size_bytes: u64) -> crate::pool::AllocationId {
        pool.allocate(&request(size_bytes), Duration::ZERO, Now::read()).await.expect("there is room").id
    }

    /// Fills the pool with small blocks and frees three of four.
    async fn checkerboard(pool: &Pool) {
        let mut small = Vec::new();
        for _ in 0..32 << 10 {
            small.push(allocate(pool, 1024).await);
        }
        for (at, id) in small.into_iter().enumerate() {
            if at % 4 != 0 {
                pool.free(id, Now::read()).await.expect("live");
            }
        }
    }

    #[tokio::test]
    async fn what_takes_long_is_done_by_the_janitor_while_others_are_served() {
        let pool = pool();
        checkerboard(&pool).await;
        let janitor = Janitor::start(pool.clone(), ADAPTIVE).expect("a thread can be had");
        // One thread polls them all in turn, so none of them may block it.
        let large = futures_of(&pool, 5, 4 << 20);
        let small = futures_of(&pool, 20, 1024);
        for made in large.into_iter().chain(small) {
            made.await.expect("no panic");
        }
        let stats = pool.stats().await;
        assert!(stats.janitor.chores > 0 && stats.janitor.waiting == 0, "{:?}", stats.janitor);
        assert!(stats.janitor.busy > Duration::ZERO && stats.janitor.last_reclaim.is_some());
        assert!(stats.heap.compaction.moves > 0);
        drop(janitor);
        let freed = pool.list(None, 1, None, Now::read()).await.allocations[0].id;
        pool.free(freed, Now::read()).await.expect("live");
        allocate(&pool, 1024).await;
    }

    fn futures_of(pool: &Arc<Pool>, count: usize, size_bytes: u64) -> Vec<tokio::task::JoinHandle<()>> {
        (0..count)
            .map(|_| {
                let pool = pool.clone();
                tokio::spawn(async move {
                    allocate(&pool, size_bytes).await;
                })
            })
            .collect()
    }

    #[tokio::test]
    async fn what_is_handed_over_is_timed_with_its_wait_and_counts_once() {
        const WAIT: Duration = Duration::from_millis(30);
        let pool = pool();
        checkerboard(&pool).await;
        let slow = || async { pool.stats().await.calls.latency.count_above(25_000_000) };
        let before = slow().await;
        let tagged = AllocateRequest { tag: Some("cache".parse().expect("a tag")), ..request(4 << 20) };
        for (round, how) in (1..).zip(["plain", "tagged", "plain", "deposited"]) {
            pool.begin_janitor();
            let (its_pool, tagged) = (pool.clone(), tagged.clone());
            let large = tokio::spawn(async move {
                let pool = its_pool;
                match how {
                    "plain" => drop(allocate(&pool, 4 << 20).await),
                    "tagged" => pool
                        .allocate(&tagged, Duration::ZERO, Now::read())
                        .await
                        .map(drop)
                        .expect("there is room"),
                    _ => pool
                        .deposit(&tagged, Duration::ZERO, Now::read())
                        .await
                        .map(drop)
                        .expect("there is room"),
                }
            });
            while pool.stats().await.janitor.waiting == 0 {
                tokio::task::yield_now().await;
            }
            tokio::time::sleep(WAIT).await; // it was handed over, and nobody works yet
            let janitor =
                Janitor::start(pool.clone(), Duration::from_secs(3600)).expect("a thread can be had");
            large.await.expect("no panic");
            drop(janitor);
            assert_eq!(slow().await - before, round, "{how}");
        }
    }

    #[tokio::test]
    async fn requests_that_hang_up_while_the_janitor_works_for_them_leave_nothing() {
        let pool = pool();
        checkerboard(&pool).await;
        let in_use = pool.in_use_and_limit_bytes().0;
        // Nobody works yet: what is handed over waits.
        pool.begin_janitor();
        let given_up: Vec<_> = (0..3).map(|_| request(4 << 20)).collect();
        for requests in [&given_up[..1], &given_up[..2], &given_up[..]] {
            let call = pool.allocate_batch(requests, Duration::ZERO, Now::read());
            assert!(tokio::time::timeout(Duration::from_millis(1), call).await.is_err());
        }
        assert_eq!(pool.stats().await.janitor.waiting, 3);
        let janitor = Janitor::start(pool.clone(), ADAPTIVE).expect("a thread can be had");
        drop(janitor); // done before it ends
        let stats = pool.stats().await;
        assert_eq!((stats.heap.in_use_bytes, stats.janitor.waiting), (in_use, 0));
        allocate(&pool, 4 << 20).await;
    }

    #[test]
    fn what_lies_idle_for_an_interval_goes_back_and_the_thread_ends_when_told() {
        let pool = pool();
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(checkerboard(&pool));
        pool.begin_janitor();
        std::thread::scope(|scope| {
            let thread =
                scope.spawn(|| work(&pool, Duration::from_millis(1), Duration::from_millis(20), ADAPTIVE));
            let began = Now::read();
            while runtime.block_on(pool.stats()).heap.pool_size_bytes > (8 << 20) + (4 << 20) {
                assert!(Now::read().since(began) < Duration::from_secs(60), "idle memory never goes back");
                std::thread::sleep(Duration::from_millis(5));
            }
            pool.end_janitor();
            thread.join().expect("no panic");
        });
        let stats = runtime.block_on(pool.stats());
        assert_eq!(stats.heap.in_use_bytes, 8 << 20);
        assert!(stats.heap.committed_bytes <= stats.heap.pool_size_bytes + memory::page_size());
        assert!(stats.heap.reclaim.slices[memory::ReclaimAction::Idle as usize] > 0);
    }

    #[tokio::test]
    async fn intervals_end_although_there_is_always_something_to_do() {
        let pool = pool();
        checkerboard(&pool).await;
        pool.end_idle_interval();
        assert!(!pool.reclaim_idle_slice(), "all of it was needed in that interval");
        pool.begin_janitor();
        let large = [request(4 << 20)];
        let call = pool.allocate_batch(&large, Duration::ZERO, Now::read());
        assert!(tokio::time::timeout(Duration::from_millis(1), call).await.is_err());
        pool.end_janitor();
        // It does that one thing, and ends.
        work(&pool, ADAPTIVE, Duration::ZERO, ADAPTIVE);
        assert!(pool.reclaim_idle_slice());
    }

    #[test]
    fn a_busy_class_has_slabs_ready_after_an_interval() {
        const LOOKS: Duration = Duration::from_millis(1);
        const INTERVAL: Duration = Duration::from_millis(20);
        let pool = pool();
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        (0..100).for_each(|_| _ = runtime.block_on(allocate(&pool, 1024)));
        let held = || runtime.block_on(pool.stats()).heap.classes[0].total;
        let before = held();
        pool.begin_janitor();
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| work(&pool, LOOKS, ADAPTIVE, INTERVAL));
            let began = Now::read();
            while held() < before + before / 5 {
                assert!(Now::read().since(began) < Duration::from_secs(60), "no slabs are made ready");
                std::thread::sleep(Duration::from_millis(5));
            }
            pool.end_janitor();
            thread.join().expect("no panic");
        });
    }
}
