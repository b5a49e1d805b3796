//! The monitor: looks how full memory is, says when it will be, and has free memory given back before and while it is.
//!
//! Every `pressure.interval` it makes a sample and a forecast, which the gauge shows to all, and orders what the forecast
//! recommends. When the level rises in between it orders at once what the level asks for. What is ordered is carried out by
//! the janitor; nobody is admitted or refused by a forecast.

use crate::clock::Now;
use crate::pool::Pool;
use crate::pressure::{Action, Config, Look, Steering, Watch, Watermarks};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// What time it is.
type Clock = fn() -> Now;

/// See the module.
pub(super) struct Monitor {
    pool: Arc<Pool>,
    watermarks: Watermarks,
    interval: Duration,
    clock: Clock,
    /// Told by the gauge, on whichever thread finds that the level rose.
    rises: Arc<Notify>,
    watch: Watch,
    steering: Steering,
}

impl Monitor {
    /// A monitor that the pool's gauge tells of each rise from now on.
    pub(super) fn new(pool: Arc<Pool>, config: &Config, clock: Clock) -> Monitor {
        let rises = Arc::new(Notify::new());
        let told = Arc::clone(&rises);
        pool.gauge().tell(Box::new(move |change| {
            if change.to > change.from {
                told.notify_one();
            }
        }));
        Monitor {
            pool,
            watermarks: config.watermarks,
            interval: config.interval,
            clock,
            rises,
            watch: Watch::new(config.watermarks),
            steering: Steering::new(config.cooldown),
        }
    }

    /// Looks until `stop`.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut beat = tokio::time::interval(self.interval);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let rises = Arc::clone(&self.rises);
        stop.run_until_cancelled(async {
            loop {
                tokio::select! {
                    _ = beat.tick() => self.step(Monitor::look),
                    () = rises.notified() => self.step(Monitor::react),
                }
            }
        })
        .await;
    }

    /// A step that panics is a bug, and logged as every panic is. The next one begins with what it sees then.
    fn step(&mut self, step: fn(&mut Monitor, Now)) {
        let now = (self.clock)();
        if catch_unwind(AssertUnwindSafe(|| step(self, now))).is_err() {
            self.watch = Watch::new(self.watermarks);
        }
    }

    /// A sample, a forecast, and what it recommends.
    fn look(&mut self, now: Now) {
        let reading = self.pool.pressure(now);
        let (used_bytes, limit_bytes) = self.pool.in_use_and_limit_bytes();
        let allocated_bytes = self.pool.given_out_bytes();
        let look = Look { at: now, reading, used_bytes, limit_bytes, allocated_bytes };
        let Some(outlook) = self.watch.observe(look) else { return };
        self.pool.gauge().publish(outlook);
        self.act(outlook.forecast.action, now);
    }

    /// The level rose: what it asks for needs no forecast.
    fn react(&mut self, now: Now) {
        let action = Action::of(self.pool.pressure(now).level, None);
        if action > Action::Monitor {
            self.act(action, now);
        }
    }

    fn act(&mut self, action: Action, now: Now) {
        if let Some(order) = self.steering.steer(action, now) {
            // Where there is no janitor, memory is given back where somebody needs it, and not before.
            self.pool.order_relief(order);
        }
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;
    use crate::memory::{self, Heap};
    use crate::pool::{AllocateRequest, AllocationId, Chore, ReliefSlice, ReliefStats};
    use crate::pressure::{Gauge, Level, Outlook, SystemReading};
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
    use tokio::task::JoinHandle;

    const SLAB: u64 = 1 << 20;
    const SLABS: u64 = 100;
    const INTERVAL: Duration = Duration::from_secs(5);

    /// The time that tokio's paused clock tells. Each test has a clock of its own, some of which began before this is called
    /// first.
    fn paused() -> Now {
        static BEGAN: OnceLock<std::time::Instant> = OnceLock::new();
        let began = *BEGAN.get_or_init(std::time::Instant::now);
        let now = tokio::time::Instant::now().into_std() + Duration::from_secs(3600);
        Now(0).after(now.duration_since(began))
    }

    /// A pool of 100 slabs, a monitor, and a janitor's work by hand.
    struct Place {
        pool: Arc<Pool>,
        held: Vec<AllocationId>,
        stop: CancellationToken,
        task: JoinHandle<()>,
    }

    impl Place {
        fn new(config: &Config) -> Place {
            let memory = memory::Config {
                slab_sizes: vec![SLAB],
                max_pool_size: SLABS * SLAB,
                initial_slabs_per_size: 2,
                ..memory::Config::default()
            };
            let heap = Heap::new(&memory).expect("the configuration is right");
            let gauge = Arc::new(Gauge::new(config.watermarks));
            let pool = Arc::new(Pool::with_gauge(heap, &crate::pool::Config::default(), gauge));
            pool.begin_janitor();
            let stop = CancellationToken::new();
            let task = tokio::spawn(Monitor::new(pool.clone(), config, paused).run(stop.clone()));
            Place { pool, held: Vec::new(), stop, task }
        }

        /// Allocates or frees until so many slabs are in use.
        async fn fill(&mut self, slabs: usize) {
            while self.held.len() < slabs {
                let request = AllocateRequest::new(SLAB);
                let made = self.pool.allocate(&request, Duration::ZERO, paused()).await;
                self.held.push(made.expect("there is room").id);
            }
            for id in self.held.drain(slabs..) {
                self.pool.free(id, paused()).await.expect("live");
            }
        }

        /// Lets the monitor run, and does what it orders.
        async fn wait(&self, time: Duration) -> ReliefStats {
            tokio::time::sleep(time).await;
            self.work().await
        }

        async fn work(&self) -> ReliefStats {
            while self.pool.await_chore(Duration::ZERO) != Chore::Nothing {
                assert!(!matches!(self.pool.relieve_slice(paused()), ReliefSlice::Nothing));
            }
            self.pool.stats().await.relief
        }

        fn outlook(&self) -> Arc<Outlook> {
            self.pool.gauge().outlook().expect("the monitor has looked")
        }

        async fn end(self) {
            self.stop.cancel();
            self.task.await.expect("it does not panic");
        }
    }

    fn runs(relief: &ReliefStats) -> [u64; 4] {
        Action::ALL.map(|action| relief.of(action).runs)
    }

    #[tokio::test(start_paused = true)]
    async fn it_looks_at_once_and_then_every_interval() {
        let mut place = Place::new(&Config::default());
        assert_eq!(place.pool.gauge().outlook(), None);
        place.wait(Duration::from_millis(1)).await;
        let first = place.outlook();
        place.fill(10).await;
        place.wait(INTERVAL - Duration::from_millis(2)).await;
        assert_eq!(place.outlook(), first);
        place.wait(Duration::from_millis(2)).await;
        let second = place.outlook();
        assert_eq!(second.at.since(first.at), INTERVAL);
        let expected = 10.0 * 1024.0 * 1024.0 / 5.0;
        assert!((second.allocation_bytes_per_second - expected).abs() < 1.0, "{second:?}");
        place.fill(0).await;
        place.wait(INTERVAL).await;
        assert!(place.outlook().free_bytes_per_second > expected / 2.0, "{:?}", place.outlook());
        place.end().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_climb_is_foretold_and_memory_given_back_before_the_level_asks_for_it() {
        let mut place = Place::new(&Config::default());
        place.fill(60).await;
        place.fill(10).await;
        let mut last = ReliefStats::default();
        for percent in (10..).step_by(5) {
            place.fill(percent).await;
            last = place.wait(INTERVAL).await;
            if last.last.is_some() {
                break;
            }
            assert!(place.pool.gauge().level() < Level::High, "the level asks for it by now: {percent}");
        }
        let outlook = place.outlook();
        assert!(outlook.forecast.ratio < 0.6 && outlook.forecast.predicted[2] >= 0.9, "{outlook:?}");
        let heap = place.pool.stats().await.heap;
        assert_eq!((runs(&last).iter().sum::<u64>(), heap.pool_size_bytes), (1, heap.in_use_bytes));
        place.end().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_level_that_rises_between_two_looks_is_acted_upon_at_once() {
        let mut place = Place::new(&Config { interval: Duration::from_secs(3600), ..Config::default() });
        assert_eq!(runs(&place.wait(Duration::from_secs(60)).await), [0; 4]);
        place.fill(92).await;
        place.fill(80).await;
        assert_eq!(runs(&place.wait(Duration::from_millis(1)).await), [0; 4], "nobody has looked");
        assert_eq!(place.pool.pressure(paused()).level, Level::High);
        assert_eq!(runs(&place.wait(Duration::from_millis(1)).await), [0, 1, 0, 0]);
        assert_eq!(place.pool.stats().await.heap.pool_size_bytes, 80 * SLAB);
        // More is asked for: no cooldown keeps it.
        place.fill(96).await;
        place.pool.pressure(paused());
        assert_eq!(runs(&place.wait(Duration::from_millis(1)).await), [0, 1, 0, 1]);
        // Less, and then as much again: that one does.
        place.fill(50).await;
        place.pool.pressure(paused());
        place.fill(96).await;
        place.pool.pressure(paused());
        assert_eq!(runs(&place.wait(Duration::from_millis(1)).await), [0, 1, 0, 1]);
        place.end().await;
    }

    #[tokio::test(start_paused = true)]
    async fn under_lasting_pressure_it_is_done_once_in_a_cooldown() {
        let config = Config { cooldown: Duration::from_secs(20), ..Config::default() };
        let mut place = Place::new(&config);
        place.wait(Duration::from_millis(1)).await;
        place.fill(80).await;
        let mut done = [0; 4];
        for _ in 0..24 {
            done = runs(&place.wait(INTERVAL).await);
        }
        // The forecaster has seen a step from 0 to 80, so there may be more than gentle ones at first.
        assert!((5..=8).contains(&done.iter().sum::<u64>()) && done[1] > 0, "{done:?} in two minutes");
        place.end().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_system_that_is_full_has_the_pool_give_back_what_is_free() {
        let mut place = Place::new(&Config::default());
        let percent = Arc::new(AtomicU64::new(10));
        let its = percent.clone();
        place.pool.gauge().read_system_by(Box::new(move || SystemReading {
            used_bytes: its.load(Ordering::Relaxed),
            limit_bytes: 100,
            psi_avg10: None,
        }));
        place.fill(50).await;
        place.fill(5).await;
        assert_eq!(runs(&place.wait(Duration::from_millis(1)).await), [0; 4]);
        percent.store(93, Ordering::Relaxed);
        let relief = place.wait(INTERVAL).await;
        assert!(relief.last.is_some_and(|last| last.action >= Action::AggressiveReclaim), "{relief:?}");
        assert_eq!(place.pool.stats().await.heap.pool_size_bytes, 5 * SLAB);
        place.end().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_that_panics_ends_nothing() {
        let place = Place::new(&Config::default());
        let calls = Arc::new(AtomicU32::new(0));
        let counts = calls.clone();
        place.pool.gauge().read_system_by(Box::new(move || {
            assert!(counts.fetch_add(1, Ordering::Relaxed) != 1, "a reading that panics, once");
            SystemReading::default()
        }));
        place.wait(INTERVAL * 4).await;
        assert!(calls.load(Ordering::Relaxed) >= 4);
        let outlook = place.outlook();
        assert!(paused().since(outlook.at) <= INTERVAL, "it goes on looking");
        place.end().await;
    }

    #[tokio::test(start_paused = true)]
    async fn each_change_of_level_is_told_once_whoever_looks() {
        let mut place = Place::new(&Config { interval: Duration::from_millis(100), ..Config::default() });
        let before: u64 = place.pool.gauge().transitions().iter().sum();
        for slabs in [60, 61, 75, 90, 95, 94, 20] {
            place.fill(slabs).await;
            for _ in 0..5 {
                place.wait(Duration::from_millis(100)).await;
                place.pool.pressure(paused());
            }
        }
        let transitions = place.pool.gauge().transitions();
        assert_eq!((before, transitions), (0, [1, 1, 1, 1, 1]));
        place.end().await;
    }
}
