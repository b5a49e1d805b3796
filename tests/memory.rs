//! Resident memory: what a burst took goes back to the system once it lies idle. In a process of its own, so that
//! nothing else comes and goes.

use maas::clock::Now;
use maas::memory::{self, Heap, page_size};
use maas::pool::{AllocateRequest, AllocationId, Config, Placement, Pool, Precondition};
use std::time::Duration;

/// Bytes of this process that are resident.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux has it");
    let pages = statm.split(' ').nth(1).expect("it has seven numbers");
    pages.parse::<u64>().expect("a number") * page_size()
}

fn give_back_idle_memory(pool: &Pool) {
    // Everything has lain idle all through the second interval.
    for _ in 0..2 {
        pool.end_idle_interval();
        while pool.reclaim_idle_slice() {}
    }
}

/// Allocates blocks of these sizes by turns, and fills them, until the pool is full.
async fn burst(pool: &Pool, sizes: &[u64], made: &mut Vec<AllocationId>) {
    let body = vec![7; 4 << 20];
    for size_bytes in sizes.iter().copied().cycle() {
        let request = AllocateRequest::new(size_bytes);
        let Ok(block) = pool.allocate(&request, Duration::ZERO, Now::read()).await else { return };
        let any = Precondition::default();
        let mut upload =
            pool.upload(block.id, Placement::Replace, &any, Now::read()).await.expect("its own segment");
        upload.push(&body[..usize::try_from(size_bytes).expect("small")]).expect("it fits");
        upload.commit(&any, Now::read()).expect("live");
        made.push(block.id);
    }
}

#[test]
fn what_a_burst_took_goes_back_once_it_lies_idle() {
    const LIMIT: u64 = 96 << 20;
    let sizes = [1000, 1024, 3000, 5000, 64 << 10, 1 << 20, 4 << 20];
    let memory =
        memory::Config { slab_sizes: sizes.to_vec(), max_pool_size: LIMIT, ..memory::Config::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let pool = Pool::new(Heap::new(&memory).expect("the configuration is right"), &Config::default());
        let mut made: Vec<AllocationId> = Vec::with_capacity(100_000);
        // The first time brings what the process keeps: code, its allocator's own memory, stacks.
        for mix in [&sizes[..1], &sizes[..4], &sizes[..]] {
            burst(&pool, mix, &mut made).await;
            for id in made.drain(..) {
                pool.free(id, Now::read()).await.expect("live");
            }
        }
        give_back_idle_memory(&pool);
        let baseline = resident_bytes();
        for mix in [&sizes[..], &sizes[..1], &sizes[..4], &sizes[4..]] {
            burst(&pool, mix, &mut made).await;
            let full = resident_bytes();
            assert!(full > baseline + LIMIT * 3 / 4, "{full} of {baseline}");
            let committed = pool.stats().await.heap.committed_bytes;
            assert!(committed <= LIMIT + 4 * page_size(), "{committed}: one page a class that shares pages");
            // Scattered survivors go last.
            let survivors: Vec<AllocationId> = made.iter().copied().step_by(16).collect();
            for (at, id) in made.drain(..).enumerate() {
                if at % 16 != 0 {
                    pool.free(id, Now::read()).await.expect("live");
                }
            }
            give_back_idle_memory(&pool);
            let stats = pool.stats().await;
            // Slabs that a class keeps for ever, though their pages are gone, count as committed.
            let kept = 10 * sizes.iter().sum::<u64>();
            let (held, in_use) = (stats.heap.committed_bytes, stats.heap.in_use_bytes);
            assert!(held <= in_use + kept + 4 * page_size(), "{held} bytes for {in_use}");
            let few = resident_bytes();
            assert!(few <= (baseline + in_use) * 21 / 20 + stats.metadata_bytes, "{few} for {in_use}");
            for id in survivors {
                pool.free(id, Now::read()).await.expect("live");
            }
            give_back_idle_memory(&pool);
            let (after, metadata) = (resident_bytes(), pool.stats().await.metadata_bytes);
            println!("baseline {baseline}, full {full}, survivors {few}, after {after}, metadata {metadata}");
            assert!(after <= baseline * 21 / 20 + metadata, "{after} resident after {baseline}");
        }
    });
}
