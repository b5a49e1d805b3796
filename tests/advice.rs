//! What advice does to resident memory. In a process of its own, so that nothing else comes and goes; the steps follow each
//! other for the same reason.

use maas::clock::Now;
use maas::memory::{self, Advice, Heap, page_size};
use maas::pool::{AllocateRequest, AllocationId, Config, Placement, Pool, Precondition};
use std::time::Duration;

const MEBIBYTE: u64 = 1 << 20;
/// Larger than any class, so it lies in segments.
const OBJECT: u64 = 64 * MEBIBYTE;
const SLAB: u64 = 4 * MEBIBYTE;
/// What blocks are filled with: not on the heap, whose size would change with it.
static PIECE: [u8; 1 << 16] = [7; 1 << 16];
/// What else a process may touch meanwhile.
const SLACK: u64 = MEBIBYTE;

/// Bytes of this process that are resident.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux has it");
    let pages = statm.split(' ').nth(1).expect("it has seven numbers");
    pages.parse::<u64>().expect("a number") * page_size()
}

/// Bytes of this process that lie in huge pages.
fn huge_bytes() -> u64 {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").expect("Linux has it");
    let line = rollup.lines().find_map(|line| line.strip_prefix("AnonHugePages:")).expect("it has the line");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

/// Whether the system makes huge pages for those who ask.
fn has_huge_pages() -> bool {
    let enabled = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
    enabled.is_ok_and(|enabled| !enabled.contains("[never]"))
}

async fn allocate(pool: &Pool, size_bytes: u64) -> AllocationId {
    let made = pool.allocate(&AllocateRequest::new(size_bytes), Duration::ZERO, Now::read()).await;
    made.expect("there is room").id
}

async fn fill(pool: &Pool, id: AllocationId, size_bytes: u64) {
    let any = Precondition::default();
    let mut upload = pool.upload(id, Placement::Replace, &any, Now::read()).await.expect("there is room");
    for _ in 0..size_bytes / PIECE.len() as u64 {
        upload.push(&PIECE).expect("it fits");
    }
    upload.commit(&any, Now::read()).expect("live");
}

async fn advise(pool: &Pool, id: AllocationId, advice: Advice) {
    pool.advise(id, advice, Now::read()).await.expect("live");
}

async fn is_all(pool: &Pool, id: AllocationId, byte: u8) -> bool {
    let content = pool.read(id, Now::read()).await.expect("live");
    let all = content.size_bytes;
    content.read(0..all).all(|piece| piece.iter().all(|found| *found == byte))
}

#[track_caller]
fn assert_near(found: u64, expected: u64, what: &str) {
    assert!(found.abs_diff(expected) <= SLACK, "{what}: {found} bytes are resident, not about {expected}");
}

#[test]
fn advice_is_seen_in_resident_memory() {
    let memory = memory::Config {
        slab_sizes: vec![4096, SLAB],
        max_pool_size: 256 * MEBIBYTE,
        ..memory::Config::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let pool = Pool::new(Heap::new(&memory).expect("the configuration is right"), &Config::default());
        for size_bytes in [OBJECT, SLAB] {
            let id = allocate(&pool, size_bytes).await;
            // What the first write, and the first read, of all bring along.
            fill(&pool, id, size_bytes).await;
            assert!(is_all(&pool, id, 7).await);
            advise(&pool, id, Advice::DontNeed).await;
            assert!(is_all(&pool, id, 0).await);
            let empty = resident_bytes();

            for advice in [Advice::DontNeed, Advice::Free, Advice::Remove] {
                fill(&pool, id, size_bytes).await;
                assert_near(resident_bytes(), empty + size_bytes, "written");
                advise(&pool, id, advice).await;
                assert_near(resident_bytes(), empty, advice.name());
                assert!(is_all(&pool, id, 0).await);
                assert_near(resident_bytes(), empty, "and reading zeros brings none back");
            }

            advise(&pool, id, Advice::WillNeed).await;
            assert_near(resident_bytes(), empty + size_bytes, "wanted soon");
            assert!(is_all(&pool, id, 0).await);

            for advice in [Advice::Sequential, Advice::Random, Advice::NoHugePage, Advice::Unmergeable] {
                fill(&pool, id, size_bytes).await;
                let before = resident_bytes();
                advise(&pool, id, advice).await;
                assert_near(resident_bytes(), before, advice.name());
                assert!(is_all(&pool, id, 7).await, "{advice:?} changes no byte");
            }
            pool.free(id, Now::read()).await.expect("live");
            for _ in 0..2 {
                pool.end_idle_interval();
                while pool.reclaim_idle_slice() {}
            }
        }

        // Huge pages: asked for before anything is written, and gone with the block.
        if !has_huge_pages() {
            println!("this system makes no huge pages: what they do to memory was not looked at");
            return;
        }
        let id = allocate(&pool, OBJECT).await;
        assert_eq!(huge_bytes(), 0);
        advise(&pool, id, Advice::HugePage).await;
        fill(&pool, id, OBJECT).await;
        let huge = huge_bytes();
        assert!(huge >= OBJECT / 2, "{huge} bytes of {OBJECT} lie in huge pages");
        advise(&pool, id, Advice::DontNeed).await;
        assert_eq!(huge_bytes(), 0);
        advise(&pool, id, Advice::NoHugePage).await;
        fill(&pool, id, OBJECT).await;
        assert_eq!(huge_bytes(), 0, "and none where they are not wanted");
        advise(&pool, id, Advice::HugePage).await;
        pool.free(id, Now::read()).await.expect("live");
        while !pool.reclaim_for_pressure_slice(memory::ReclaimDepth::Aggressive).is_done {}
        let next = allocate(&pool, OBJECT).await;
        fill(&pool, next, OBJECT).await;
        assert_eq!(huge_bytes(), 0, "the next client did not ask for them");
    });
}
