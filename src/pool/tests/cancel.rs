//! The cancel hunt: requests of every kind are dropped at random points. What was acknowledged is there, nothing else
//! is, and nothing is held by nobody. `MAAS_HUNT_ROUNDS` makes it longer.

use super::*;
use crate::pressure::{Action, Order};
use std::sync::atomic::{AtomicU64, Ordering};

/// Steps of each thread.
fn rounds() -> u64 {
    std::env::var("MAAS_HUNT_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(2000)
}

/// Polls a call a few times, with pauses, and then drops it wherever it is.
async fn some_of<T>(random: &mut fastrand::Rng, call: impl Future<Output = T>) -> Option<T> {
    let patience = Duration::from_micros(random.u64(0..300));
    if random.u8(0..4) == 0 { Some(call.await) } else { tokio::time::timeout(patience, call).await.ok() }
}

async fn hunt(pool: &Pool, seed: u64, steps: &AtomicU64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut mine: Vec<AllocationId> = Vec::new();
    let tags = [None, Some("cache"), Some("loose")];
    for _ in 0..rounds() {
        steps.fetch_add(1, Ordering::Relaxed);
        let now = Now::read();
        let wait = Duration::from_micros(random.u64(0..2000));
        let wanted = request(random.u64(1..5000), tags[random.usize(0..tags.len())]);
        match random.u8(0..10) {
            0..=2 => {
                if let Some(Ok(made)) = some_of(&mut random, pool.allocate(&wanted, wait, now)).await {
                    mine.push(made.id);
                }
            }
            3 => {
                let batch = vec![wanted; random.usize(1..6)];
                if let Some(Ok(made)) = some_of(&mut random, pool.allocate_batch(&batch, wait, now)).await {
                    mine.extend(made.iter().map(|made| made.id));
                }
            }
            4 => {
                // Broken off while it waits, while it is filled, or not at all.
                if let Some(Ok(mut deposit)) = some_of(&mut random, pool.deposit(&wanted, wait, now)).await {
                    deposit
                        .push(&vec![9; usize::try_from(wanted.size_bytes).expect("small")])
                        .expect("it fits");
                    if random.bool()
                        && let Ok(made) = deposit.commit(now)
                    {
                        mine.push(made.id);
                    }
                }
            }
            5 | 6 if !mine.is_empty() => {
                let id = mine[random.usize(0..mine.len())];
                let precondition = Precondition::default();
                let pieces = [Bytes::from(vec![random.u8(..); random.usize(0..1000)])];
                if random.bool() {
                    let write = pool.write(id, Placement::Replace, &pieces, &precondition, now);
                    let _ = some_of(&mut random, write).await;
                } else {
                    let upload = pool.upload(id, Placement::Patch { offset: 0 }, &precondition, now);
                    if let Some(Ok(mut upload)) = some_of(&mut random, upload).await
                        && upload.push(&pieces[0]).is_ok()
                        && random.bool()
                    {
                        let _ = upload.commit(&precondition, now);
                    }
                }
            }
            7 if !mine.is_empty() => {
                if let Ok(content) = pool.read(mine[random.usize(0..mine.len())], now).await {
                    let held: Vec<Bytes> = content.read(0..1).collect();
                    tokio::task::yield_now().await;
                    drop(held);
                }
            }
            _ if !mine.is_empty() => {
                let id = mine.swap_remove(random.usize(0..mine.len()));
                pool.free(id, now).await.expect("what was acknowledged is there");
            }
            _ => {}
        }
    }
    for id in mine {
        pool.free(id, Now::read()).await.expect("what was acknowledged is there");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whatever_is_dropped_wherever_leaves_what_was_acknowledged_and_nothing_else() {
    let budgets = [("cache".parse().expect("a tag"), 10_000)].into();
    let config = Config { max_allocations: Some(40), budgets, write_wait_ms: 2, ..Config::default() };
    let pool = Arc::new(pool(32 * 1024, &[1024, 3000, 8192], &config));
    let steps = Arc::new(AtomicU64::new(0));
    // Some hang up while the janitor works for them, and what lies idle is taken away all the time.
    pool.begin_janitor();
    let janitor = {
        let pool = pool.clone();
        std::thread::spawn(move || {
            loop {
                match pool.await_chore(Duration::from_micros(200)) {
                    Chore::Ready => pool.do_chore(),
                    Chore::Scrub => pool.scrub_slice(),
                    Chore::Relief => _ = pool.relieve_slice(Now(1)),
                    Chore::Nothing => {
                        pool.end_idle_interval();
                        while pool.reclaim_idle_slice() {}
                        pool.order_relief(Order { action: Action::Emergency, is_news: false });
                    }
                    Chore::Ended => return,
                }
            }
        })
    };
    let hunters: Vec<_> = (0..8)
        .map(|seed| {
            let (pool, steps) = (pool.clone(), steps.clone());
            tokio::spawn(async move { hunt(&pool, seed, &steps).await })
        })
        .collect();
    for hunter in hunters {
        hunter.await.expect("no hunter panics");
    }
    pool.end_janitor();
    janitor.join().expect("the janitor does not panic");
    check_quiet(&pool);
    let stats = at_once(pool.stats());
    assert_eq!((stats.active_allocations, stats.heap.in_use_bytes, stats.heap.draining_bytes), (0, 0, 0));
    assert!(stats.tags.iter().all(|tag| tag.allocated_bytes == 0 && tag.allocations == 0));
    println!("{} steps, {:?}, {:?}", steps.load(Ordering::Relaxed), stats.janitor, stats.heap.compaction);
    assert!(stats.heap.compaction.moves > 0, "nothing was moved");
}
