//! Relief: free memory is given back because it gets full. The monitor says how much is to be done, and the janitor does it,
//! slice by slice: no thread that serves requests does any of it.
//!
//! | ordered | what is done |
//! |---|---|
//! | `gentle_reclaim` | free memory goes back, but for the slabs that each size had at start |
//! | `aggressive_reclaim` | all free memory goes back |
//! | `emergency` | what each CPU keeps for itself is called in first, then the same |
//!
//! One run goes on at a time. An order for more breaks it off, which is told as its end, and begins anew; one for as much or
//! less finds it done already.
//! Nothing is undone when pressure falls: what each CPU keeps grows again by misses.

use super::{Engine, Pool};
use crate::clock::Now;
use crate::memory::ReclaimDepth;
use crate::pressure::{Action, Order};
use parking_lot::Mutex;
use std::time::Duration;

/// A run that takes longer ends: requests need the memory first all that time, and the next order comes anyway.
const RUN_MAX: Duration = Duration::from_secs(10);

/// Orders, and what came of them.
#[derive(Debug, Default)]
pub(super) struct Relief(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    ordered: Option<Order>,
    run: Option<Run>,
    stats: ReliefStats,
}

/// An order that is being carried out.
#[derive(Clone, Copy, Debug)]
struct Run {
    order: Order,
    began: Now,
    stage: Stage,
    reclaimed_bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Shrinking,
    Reclaiming,
}

/// What runs of one action came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReliefCount {
    /// How many there were.
    pub runs: u64,
    /// Bytes that they gave back.
    pub reclaimed_bytes: u64,
    /// Time from the beginning of each to its end.
    pub time: Duration,
}

/// What was given back because it got full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReliefStats {
    counts: [ReliefCount; Action::ALL.len()],
    /// The last run that ended; none where there was none.
    pub last: Option<Relieved>,
}

/// A run that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relieved {
    /// What was ordered.
    pub action: Action,
    /// As the order said: it is not what was done before.
    pub is_news: bool,
    /// Bytes that it gave back.
    pub reclaimed_bytes: u64,
    /// How long it took, with all that was done for requests in between.
    pub duration: Duration,
    /// When it ended.
    pub ended: Now,
}

/// What a slice came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReliefSlice {
    /// There is nothing to do.
    Nothing,
    /// There may be more to come.
    Going {
        /// Bytes that went back.
        reclaimed_bytes: u64,
    },
    /// That was all.
    Ended(Relieved),
}

impl ReliefStats {
    /// What runs of that action came to.
    pub fn of(&self, action: Action) -> ReliefCount {
        self.counts[action as usize]
    }
}

impl Relief {
    pub(super) fn stats(&self) -> ReliefStats {
        self.0.lock().stats
    }
}

impl State {
    /// Takes an order in, before or after others that nobody began with.
    fn order(&mut self, order: Order) {
        let is_less = self.ordered.is_some_and(|ordered| ordered.action > order.action);
        match &mut self.ordered {
            // One that is never begun with is told with the one that takes its place.
            Some(ordered) if !is_less => {
                *ordered = Order { is_news: ordered.is_news || order.is_news, ..order };
            }
            Some(_) => {}
            None => self.ordered = Some(order),
        }
    }

    /// Begins what was ordered where that is more than what goes on, and returns what it broke off.
    fn begin(&mut self, now: Now) -> Option<Relieved> {
        let order = self.ordered.take()?;
        let broken_off = self.run.take_if(|run| run.order.action < order.action);
        let stage = if order.action == Action::Emergency { Stage::Shrinking } else { Stage::Reclaiming };
        let run = self.run.get_or_insert(Run { order, began: now, stage, reclaimed_bytes: 0 });
        if run.order.action == order.action {
            run.order.is_news |= order.is_news;
        }
        broken_off.map(|run| self.end(&run, now))
    }

    fn end(&mut self, run: &Run, now: Now) -> Relieved {
        let Order { action, is_news } = run.order;
        let duration = now.since(run.began);
        let relieved =
            Relieved { action, is_news, reclaimed_bytes: run.reclaimed_bytes, duration, ended: now };
        let count = &mut self.stats.counts[action as usize];
        count.runs += 1;
        count.reclaimed_bytes += run.reclaimed_bytes;
        count.time += duration;
        self.stats.last = Some(relieved);
        relieved
    }
}

impl Pool {
    /// Has free memory given back. False where nobody does that, because there is no janitor.
    pub fn order_relief(&self, order: Order) -> bool {
        let Engine::Local(local) = &self.engine;
        local.relief.0.lock().order(order);
        local.handover().want_relief()
    }

    /// Carries out a slice of what was ordered, at most about a millisecond. Wants to be called by the janitor while
    /// [`Pool::await_chore`] says so.
    pub fn relieve_slice(&self, now: Now) -> ReliefSlice {
        let Engine::Local(local) = &self.engine;
        local.handover().take_relief(); // before the look: an order that comes after it is asked for again
        let (broken_off, run) = {
            let mut state = local.relief.0.lock();
            (state.begin(now), state.run)
        };
        if let Some(relieved) = broken_off {
            local.handover().want_relief(); // what broke it off is begun with in the next slice
            return ReliefSlice::Ended(relieved);
        }
        let Some(run) = run else { return ReliefSlice::Nothing };
        // Without the lock: who orders does not wait for it.
        let slice = match (run.stage, run.order.action) {
            (Stage::Shrinking, _) => self.shrink_magazines_slice(),
            (Stage::Reclaiming, Action::Monitor | Action::GentleReclaim) => {
                self.reclaim_for_pressure_slice(ReclaimDepth::Gentle)
            }
            (Stage::Reclaiming, Action::AggressiveReclaim | Action::Emergency) => {
                self.reclaim_for_pressure_slice(ReclaimDepth::Aggressive)
            }
        };
        let mut state = local.relief.0.lock();
        let Some(run) = &mut state.run else { return ReliefSlice::Nothing };
        let mut reclaimed_bytes = 0;
        let is_over = match run.stage {
            Stage::Shrinking => {
                // What left the magazines is free in its sizes by now, and goes back with all the rest.
                run.stage = if slice.is_done { Stage::Reclaiming } else { Stage::Shrinking };
                false
            }
            Stage::Reclaiming => {
                reclaimed_bytes = slice.reclaimed_bytes;
                run.reclaimed_bytes += reclaimed_bytes;
                slice.is_done
            }
        };
        if !is_over && now.since(run.began) < RUN_MAX {
            drop(state);
            local.handover().want_relief();
            return ReliefSlice::Going { reclaimed_bytes };
        }
        let run = state.run.take().expect("it is there");
        ReliefSlice::Ended(state.end(&run, now))
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;
    use crate::memory::{self, Heap};
    use crate::pool::{AllocateRequest, Chore, Config};

    const SLAB: u64 = 64 << 10;
    const INITIAL: u64 = 10;

    /// A pool of 64 MiB with a janitor that is not there, and so many MiB in it that were freed.
    async fn pool(freed_mib: u64) -> Pool {
        let memory = memory::Config {
            slab_sizes: vec![SLAB],
            max_pool_size: 64 << 20,
            initial_slabs_per_size: 10,
            ..memory::Config::default()
        };
        let pool = Pool::new(Heap::new(&memory).expect("the configuration is right"), &Config::default());
        let mut ids = Vec::new();
        for _ in 0..(freed_mib << 20) / SLAB {
            let made = pool.allocate(&AllocateRequest::new(SLAB), Duration::ZERO, Now(1)).await;
            ids.push(made.expect("there is room").id);
        }
        for id in ids {
            pool.free(id, Now(1)).await.expect("live");
        }
        pool.begin_janitor();
        pool
    }

    fn order(action: Action) -> Order {
        Order { action, is_news: true }
    }

    fn chore(pool: &Pool) -> Chore {
        pool.await_chore(Duration::ZERO)
    }

    /// Works until a run has ended, a millisecond a slice.
    fn work(pool: &Pool, from: Now) -> Relieved {
        for millisecond in 0..10_000 {
            assert_eq!(chore(pool), Chore::Relief);
            match pool.relieve_slice(from.after(Duration::from_millis(millisecond))) {
                ReliefSlice::Going { .. } => {}
                ReliefSlice::Ended(relieved) => return relieved,
                ReliefSlice::Nothing => panic!("there was something"),
            }
        }
        panic!("it never ends");
    }

    #[tokio::test]
    async fn each_action_gives_back_what_it_says_in_slices_and_is_counted() {
        let pool = pool(32).await;
        let held = async || pool.stats().await.heap.pool_size_bytes;
        assert_eq!((chore(&pool), held().await), (Chore::Nothing, 32 << 20));
        assert!(pool.order_relief(order(Action::GentleReclaim)));
        let gentle = work(&pool, Now(1));
        assert_eq!(held().await, INITIAL * SLAB);
        assert_eq!(gentle.reclaimed_bytes, (32 << 20) - INITIAL * SLAB);
        assert!(gentle.duration > Duration::from_millis(4), "in slices: {gentle:?}");
        assert!(pool.order_relief(order(Action::AggressiveReclaim)));
        assert_eq!((work(&pool, Now(1)).reclaimed_bytes, held().await), (INITIAL * SLAB, 0));
        assert!(pool.order_relief(Order { action: Action::Emergency, is_news: false }));
        let last = work(&pool, Now(1));
        assert_eq!((last.action, last.is_news, last.reclaimed_bytes), (Action::Emergency, false, 0));
        let relief = pool.stats().await.relief;
        let counted = ReliefCount { runs: 1, reclaimed_bytes: gentle.reclaimed_bytes, time: gentle.duration };
        assert_eq!((relief.of(Action::GentleReclaim), relief.last), (counted, Some(last)));
        assert_eq!((relief.of(Action::Emergency).runs, relief.of(Action::Monitor).runs), (1, 0));
        assert_eq!((chore(&pool), pool.relieve_slice(Now(1))), (Chore::Nothing, ReliefSlice::Nothing));
    }

    #[tokio::test]
    async fn an_order_for_more_breaks_a_run_off_and_one_for_as_much_finds_it_going() {
        let pool = pool(32).await;
        pool.order_relief(order(Action::GentleReclaim));
        while !matches!(pool.relieve_slice(Now(1)), ReliefSlice::Going { reclaimed_bytes: 1.. }) {}
        pool.order_relief(order(Action::GentleReclaim));
        pool.order_relief(order(Action::Emergency));
        pool.order_relief(order(Action::AggressiveReclaim));
        let broken_off = work(&pool, Now(1));
        assert_eq!((broken_off.action, broken_off.is_news), (Action::GentleReclaim, true), "it is told");
        assert!((1..32 << 20).contains(&broken_off.reclaimed_bytes), "{broken_off:?}");
        assert_eq!(work(&pool, Now(1)).action, Action::Emergency);
        let stats = pool.stats().await;
        assert_eq!((stats.heap.pool_size_bytes, chore(&pool)), (0, Chore::Nothing));
        let counts = Action::ALL.map(|action| stats.relief.of(action));
        assert_eq!(counts.map(|count| count.runs), [0, 1, 0, 1]);
        assert_eq!(counts.map(|count| count.reclaimed_bytes).iter().sum::<u64>(), 32 << 20);
    }

    #[tokio::test]
    async fn news_is_told_although_an_order_is_never_begun_with_or_finds_it_going() {
        let pool = pool(32).await;
        let repeated = |action| Order { action, is_news: false };
        pool.order_relief(order(Action::GentleReclaim));
        pool.order_relief(repeated(Action::AggressiveReclaim));
        pool.order_relief(repeated(Action::GentleReclaim));
        let both = work(&pool, Now(1));
        assert_eq!((both.action, both.is_news), (Action::AggressiveReclaim, true));
        pool.order_relief(repeated(Action::Emergency));
        assert_eq!(pool.relieve_slice(Now(1)), ReliefSlice::Going { reclaimed_bytes: 0 });
        pool.order_relief(order(Action::Emergency));
        assert!(work(&pool, Now(1)).is_news);
    }

    #[tokio::test]
    async fn requests_come_first_and_a_run_that_gets_no_turn_ends() {
        let pool = pool(4).await;
        let Engine::Local(local) = &pool.engine;
        pool.order_relief(order(Action::Emergency));
        // One that waits for the janitor keeps every slice from doing anything.
        let (shape, bytes) = local.heap().shape_for(SLAB).expect("a class");
        local.heap().grant(bytes).expect("there is room");
        let backing = super::super::handover::Backing::new(local.heap(), Vec::new(), vec![shape], bytes);
        let mut waiting = Box::pin(local.finish(backing));
        assert!(futures_poll(waiting.as_mut()));
        assert_eq!(chore(&pool), Chore::Ready);
        let stands = ReliefSlice::Going { reclaimed_bytes: 0 };
        assert_eq!(pool.relieve_slice(Now(1)), stands);
        let ended = pool.relieve_slice(Now(1).after(RUN_MAX));
        assert!(matches!(ended, ReliefSlice::Ended(Relieved { reclaimed_bytes: 0, .. })), "{ended:?}");
        pool.do_chore();
        assert_eq!(chore(&pool), Chore::Nothing);
    }

    /// Whether it is still waited for after one look.
    fn futures_poll(call: std::pin::Pin<&mut impl Future>) -> bool {
        call.poll(&mut std::task::Context::from_waker(std::task::Waker::noop())).is_pending()
    }

    #[tokio::test]
    async fn without_a_janitor_nothing_is_ordered_and_with_its_end_nothing_is_left() {
        let pool = pool(4).await;
        pool.order_relief(order(Action::GentleReclaim));
        pool.end_janitor();
        assert_eq!(chore(&pool), Chore::Ended);
        assert!(!pool.order_relief(order(Action::Emergency)));
    }
}
