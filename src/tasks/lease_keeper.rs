//! Ends allocations whose lease is over: looks every tick while there are leases, and sleeps while there are none.

use crate::clock::Now;
use crate::pool::Pool;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Between two looks: a tick of the pool's wheels.
const PERIOD: Duration = Duration::from_millis(10);

/// The task that expires leases.
#[derive(Debug)]
pub(super) struct LeaseKeeper {
    pool: Arc<Pool>,
}

impl LeaseKeeper {
    pub(super) fn new(pool: Arc<Pool>) -> LeaseKeeper {
        LeaseKeeper { pool }
    }

    /// Runs until told to stop.
    pub(super) async fn run(self, stop: CancellationToken) {
        let _ = stop.run_until_cancelled(self.keep()).await;
    }

    async fn keep(&self) {
        loop {
            if self.step().await {
                tokio::time::sleep(PERIOD).await;
            } else {
                self.pool.leases_begun().await;
            }
        }
    }

    /// Ends all that is due, slice by slice so that requests go on in between. Whether any lease is left.
    async fn step(&self) -> bool {
        loop {
            let expired = self.pool.expire(Now::read());
            if !expired.more {
                return expired.leases;
            }
            tokio::task::yield_now().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{self, Heap};
    use crate::pool::{AllocateRequest, Config};

    #[tokio::test]
    async fn leases_end_by_themselves_also_after_a_time_without_any() {
        let heap = Heap::new(&memory::Config::default()).expect("the defaults are right");
        let pool = Arc::new(Pool::new(heap, &Config::default()));
        let stop = CancellationToken::new();
        let keeper = tokio::spawn(LeaseKeeper::new(pool.clone()).run(stop.clone()));
        for round in 1..=2 {
            let lease = |millis| Some(Duration::from_millis(millis));
            for millis in [1, 30, 60_000] {
                let request = AllocateRequest {
                    size_bytes: 1,
                    lease: lease(millis),
                    tag: None,
                    ..AllocateRequest::new(1)
                };
                pool.allocate(&request, Duration::ZERO, Now::read()).await.expect("there is room");
            }
            let began = Now::read();
            while pool.stats().await.leases_expired < 2 * round {
                assert!(Now::read().since(began) < Duration::from_secs(10), "the leases never end");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            assert_eq!(pool.stats().await.active_allocations, 1);
            let left = pool.list(None, 10, None, Now::read()).await.allocations;
            pool.free(left[0].id, Now::read()).await.expect("it has a minute left");
        }
        stop.cancel();
        keeper.await.expect("the keeper stops when told");
    }
}
