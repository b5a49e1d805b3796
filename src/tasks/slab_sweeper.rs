//! Looks for stray writes to free slabs, a slice a second, so that damage is found also where nobody asks for memory.

use crate::pool::Pool;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Time between two slices.
const PERIOD: Duration = Duration::from_secs(1);

/// Bytes looked at in one slice: well below a millisecond, and 1 GiB in 9 minutes.
const SLICE_BYTES: u64 = 2 << 20;

/// See the module.
pub(super) struct SlabSweeper {
    pool: Arc<Pool>,
}

impl SlabSweeper {
    pub(super) fn new(pool: Arc<Pool>) -> SlabSweeper {
        SlabSweeper { pool }
    }

    /// Sweeps until `stop`.
    pub(super) async fn run(self, stop: CancellationToken) {
        stop.run_until_cancelled(async {
            loop {
                tokio::time::sleep(PERIOD).await;
                self.pool.sweep_free_slabs(SLICE_BYTES);
            }
        })
        .await;
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;
    use crate::memory::{self, Edit, Heap};
    use crate::pool::Config;

    #[tokio::test(start_paused = true)]
    async fn damage_to_free_memory_is_found_although_nobody_asks_for_memory() {
        let config = memory::Config {
            slab_sizes: vec![4 << 20],
            max_pool_size: 16 << 20,
            ..memory::Config::default()
        };
        let heap = Heap::new(&config).expect("the configuration is right");
        let class = heap.class_for(1).expect("there is a class").0;
        let slab = heap.allocate(class).expect("there is room");
        heap.edit(slab, &Edit { pieces: &[b"content"], ..Edit::default() }).expect("the only holder");
        heap.free(slab);
        heap.poke(slab, 3 << 20);
        let pool = Arc::new(Pool::new(heap, &Config::default()));
        let stop = CancellationToken::new();
        let sweeper = tokio::spawn(SlabSweeper::new(pool.clone()).run(stop.clone()));
        tokio::time::sleep(PERIOD * 4).await;
        let stats = pool.stats().await.heap;
        assert_eq!((stats.guard_violations, stats.retired_bytes), ([0, 1], 4 << 20));
        stop.cancel();
        sweeper.await.expect("it does not panic");
    }
}
