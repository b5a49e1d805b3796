//! Keeps the time of those who read what was freed or replaced, and has them ended who do not end by themselves.
//!
//! Sleeps until something drains; then looks a few times a second until nothing does.

use crate::clock::Now;
use crate::pool::Pool;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Time between two looks: how late a reader may be marked, and how long a marked one has to end by itself.
const PERIOD: Duration = Duration::from_millis(250);

/// Ends whatever serves readers whose time is over.
pub type CutReaders = Box<dyn Fn() + Send + Sync>;

/// See the module.
pub(super) struct DrainKeeper {
    pool: Arc<Pool>,
    cut: CutReaders,
}

impl DrainKeeper {
    pub(super) fn new(pool: Arc<Pool>, cut: CutReaders) -> DrainKeeper {
        DrainKeeper { pool, cut }
    }

    /// Keeps time until `stop`.
    pub(super) async fn run(self, stop: CancellationToken) {
        stop.run_until_cancelled(async {
            loop {
                self.pool.draining_begins().await;
                loop {
                    tokio::time::sleep(PERIOD).await;
                    if !self.step(Now::read()) {
                        break;
                    }
                }
            }
        })
        .await;
    }

    /// One look. Whether something drains still.
    fn step(&self, now: Now) -> bool {
        let sweep = self.pool.sweep_readers(now);
        if sweep.lingering > 0 {
            (self.cut)();
        }
        sweep.draining > 0
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;
    use crate::memory::{self, Heap};
    use crate::pool::{AllocateRequest, Config, Placement, Precondition};
    use bytes::Bytes;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[tokio::test(start_paused = true)]
    async fn readers_are_cut_from_the_second_look_after_their_time_until_they_are_gone() {
        let heap = Heap::new(&memory::Config::default()).expect("the configuration is right");
        let pool = Arc::new(Pool::new(heap, &Config { drain_seconds: 0, ..Config::default() }));
        let calls = Arc::new(AtomicU32::new(0));
        let counted = calls.clone();
        let cut = Box::new(move || {
            counted.fetch_add(1, Ordering::Relaxed);
        });
        let stop = CancellationToken::new();
        let keeper = tokio::spawn(DrainKeeper::new(pool.clone(), cut).run(stop.clone()));
        for _ in 0..2 {
            calls.store(0, Ordering::Relaxed);
            let request = AllocateRequest::new(1000);
            let id = pool.allocate(&request, Duration::ZERO, Now::read()).await.expect("there is room").id;
            let pieces = [Bytes::from_static(b"content")];
            let written = pool
                .write(id, Placement::Replace, &pieces, &Precondition::default(), Now::read())
                .await
                .expect("it is live");
            assert_eq!(written.version, 1);
            let content = pool.read(id, Now::read()).await.expect("it is live");
            let watch = content.watch().expect("it was written");
            tokio::time::sleep(PERIOD * 100).await;
            pool.free(id, Now::read()).await.expect("it is live");
            tokio::time::sleep(PERIOD / 2).await;
            assert!(!watch.is_overdue(), "nobody has looked yet");
            tokio::time::sleep(PERIOD).await;
            assert_eq!(
                (watch.is_overdue(), calls.load(Ordering::Relaxed)),
                (true, 0),
                "it may end by itself"
            );
            tokio::time::sleep(PERIOD * 2).await;
            assert_eq!(calls.load(Ordering::Relaxed), 2);
            drop(content);
            tokio::time::sleep(PERIOD * 100).await;
            assert_eq!(calls.load(Ordering::Relaxed), 2, "nobody is left");
        }
        stop.cancel();
        keeper.await.expect("it does not panic");
    }
}
