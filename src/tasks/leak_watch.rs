//! Looks for allocations that nobody seems to need any more, every `leaks.interval`, and says so when there are more of them
//! than before. What it found last is there for the metrics, and for whoever asks how the service is.

use super::LeaksConfig;
use crate::clock::Now;
use crate::pool::{LeakReport, Pool};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// See the module.
#[derive(Debug)]
pub(super) struct LeakWatch {
    pool: Arc<Pool>,
    config: LeaksConfig,
    told: Told,
}

/// The most that was told since there was nothing: allocations and bytes.
#[derive(Debug, Default)]
struct Told {
    count: u64,
    bytes: u64,
}

/// What there is to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    /// More than was told.
    Worse,
    /// Nothing is left of what was told.
    Cleared,
}

impl Told {
    /// Whether there is anything to tell that was not told.
    fn news(&mut self, report: &LeakReport) -> Option<News> {
        if report.count == 0 {
            let was_told = self.count > 0;
            *self = Told::default();
            return was_told.then_some(News::Cleared);
        }
        let is_worse = report.count > self.count || report.bytes > self.bytes;
        *self = Told { count: self.count.max(report.count), bytes: self.bytes.max(report.bytes) };
        is_worse.then_some(News::Worse)
    }
}

impl LeakWatch {
    pub(super) fn new(pool: Arc<Pool>, config: LeaksConfig) -> LeakWatch {
        LeakWatch { pool, config, told: Told::default() }
    }

    /// Looks at once, and then every interval, until told to stop.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        stop.run_until_cancelled(async {
            loop {
                self.step(Now::read()).await;
                tokio::time::sleep(self.config.interval).await;
            }
        })
        .await;
    }

    async fn step(&mut self, now: Now) -> Option<News> {
        let report = self.pool.leaks(self.config.older_than, now).await;
        let news = self.told.news(&report);
        match news {
            Some(News::Worse) => tell(&report),
            Some(News::Cleared) => info!("no allocation is old and without a lease any more"),
            None => {}
        }
        self.pool.publish_leaks(report);
        news
    }
}

fn tell(report: &LeakReport) {
    let Some(first) = report.tags.first() else { return };
    warn!(
        count = report.count,
        bytes = report.bytes,
        older_than_seconds = report.older_than.as_secs(),
        tag = first.by.name(),
        tag_bytes = first.bytes,
        untouched_seconds = report.at.since(first.touched).as_secs(),
        "allocations without a lease grow old; GET /stats/leaks shows them"
    );
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;
    use crate::memory::{self, Heap};
    use crate::pool::{AllocateRequest, AllocationId, Config};
    use std::time::Duration;

    const START: Now = Now(1 << 50);

    fn pool() -> Arc<Pool> {
        let heap = Heap::new(&memory::Config::default()).expect("the defaults are right");
        Arc::new(Pool::new(heap, &Config::default()))
    }

    async fn make(pool: &Pool, size_bytes: u64, now: Now) -> AllocationId {
        let made = pool.allocate(&AllocateRequest::new(size_bytes), Duration::ZERO, now).await;
        made.expect("there is room").id
    }

    #[tokio::test]
    async fn only_what_is_worse_than_was_told_is_told_and_that_it_is_over() {
        let pool = pool();
        let mut watch = LeakWatch::new(pool.clone(), LeaksConfig::default());
        let mut now = START;
        let mut look = async |watch: &mut LeakWatch| {
            now = now.after(Duration::from_secs(600));
            watch.step(now).await
        };
        assert_eq!(look(&mut watch).await, None);
        assert_eq!(pool.last_leaks().map(|report| report.count), Some(0), "it is published all the same");
        let first = make(&pool, 1000, START).await;
        let second = make(&pool, 1000, START).await;
        assert_eq!(look(&mut watch).await, Some(News::Worse));
        assert_eq!(look(&mut watch).await, None, "the same again");
        pool.free(first, START).await.expect("it is live");
        assert_eq!(look(&mut watch).await, None, "fewer");
        let third = make(&pool, 5000, START).await;
        assert_eq!(look(&mut watch).await, Some(News::Worse), "as many as before, and more bytes");
        assert_eq!(pool.last_leaks().map(|report| report.bytes), Some(1024 + 8192));
        for id in [second, third] {
            pool.free(id, START).await.expect("it is live");
        }
        assert_eq!(look(&mut watch).await, Some(News::Cleared));
        assert_eq!(look(&mut watch).await, None);
        make(&pool, 1, START).await;
        assert_eq!(look(&mut watch).await, Some(News::Worse), "it begins anew");
    }

    #[tokio::test(start_paused = true)]
    async fn it_looks_at_once_and_then_every_interval_until_it_is_stopped() {
        let pool = pool();
        let config = LeaksConfig { interval: Duration::from_secs(7), older_than: Duration::ZERO };
        let stop = CancellationToken::new();
        let watch = tokio::spawn(LeakWatch::new(pool.clone(), config).run(stop.clone()));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(pool.last_leaks().map(|report| report.count), Some(0));
        make(&pool, 1, Now::read()).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(pool.last_leaks().map(|report| report.count), Some(0));
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(pool.last_leaks().map(|report| report.count), Some(1));
        stop.cancel();
        watch.await.expect("it does not panic");
    }
}
