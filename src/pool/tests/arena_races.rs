//! Threads end arenas, and their parents, while others allocate in them, read, write, keep and list: nothing is lost,
//! nothing is seen twice, nothing is left. `MAAS_HUNT_ROUNDS` makes it longer.

use super::arenas::{arena_request, check_empty};
use super::*;
use crate::pressure::{Action, Order};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

fn rounds() -> u64 {
    std::env::var("MAAS_HUNT_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(3000)
}

/// What all threads know.
#[derive(Default)]
struct Known {
    arenas: Mutex<Vec<ArenaId>>,
    members: Mutex<Vec<AllocationId>>,
    kept: Mutex<Vec<AllocationId>>,
    ended: AtomicU64,
}

fn pick<T: Copy>(random: &mut fastrand::Rng, from: &Mutex<Vec<T>>) -> Option<T> {
    let known = from.lock();
    (!known.is_empty()).then(|| known[random.usize(0..known.len())])
}

/// Every byte of a member says whose it is: a read that is torn, or of somebody else, is seen.
fn letter(id: AllocationId) -> u8 {
    id.to_string().bytes().fold(1, |sum: u8, byte| sum.wrapping_mul(31).wrapping_add(byte)) | 1
}

async fn step(pool: &Pool, known: &Known, random: &mut fastrand::Rng) {
    let now = Now::read();
    match random.u8(0..20) {
        0 | 1 => {
            let parent = pick(random, &known.arenas).filter(|_| random.bool());
            let lease = random.bool().then(|| Duration::from_micros(random.u64(100..5000)));
            let tag = random.bool().then(|| "cache".parse().expect("a tag"));
            let size = ArenaSize::Profile(Profile::Tiny);
            let wanted = ArenaRequest { size, parent, lease, tag, ..arena_request() };
            if let Ok(made) = pool.create_arena(&wanted, Duration::ZERO, now).await {
                let surplus = {
                    let mut arenas = known.arenas.lock();
                    arenas.push(made.id);
                    (arenas.len() > 12).then(|| arenas.swap_remove(random.usize(0..12)))
                };
                // Else it is forgotten: what it lies in ends it, or its lease.
                if let Some(surplus) = surplus.filter(|_| lease.is_none() || random.bool()) {
                    let _ = pool.rollback_arena(surplus, now).await;
                }
            }
        }
        2..=8 => {
            let Some(arena) = pick(random, &known.arenas) else { return };
            let size = if random.u8(0..10) == 0 { random.u64(16_385..40_000) } else { random.u64(1..3000) };
            let wait = Duration::from_micros(random.u64(0..300));
            if let Ok(made) = pool.allocate_in_arena(arena, size, Priority::Normal, wait, now).await {
                let body = Bytes::from(vec![letter(made.id); usize::try_from(size).expect("small")]);
                let any = Precondition::default();
                let _ = pool.write(made.id, Placement::Replace, &[body], &any, now).await;
                let mut members = known.members.lock();
                members.push(made.id);
                if members.len() > 200 {
                    members.swap_remove(random.usize(0..200));
                }
            }
        }
        9..=12 => {
            let Some(id) = pick(random, &known.members) else { return };
            if let Ok(read) = pool.read(id, now).await {
                let is_written = read.version > 0;
                let all = 0..read.size_bytes;
                let expected = if is_written { letter(id) } else { 0 };
                assert!(read.read(all).flatten().all(|byte| byte == expected), "somebody else's bytes");
            }
        }
        13 => {
            let Some(id) = pick(random, &known.members) else { return };
            let _ = pool.free(id, now).await;
        }
        14 => {
            let mut cursor = None;
            loop {
                let page = pool.list(cursor, 20, None, now).await;
                assert!(page.allocations.windows(2).all(|pair| pair[0].created <= pair[1].created));
                cursor = page.next;
                if cursor.is_none() {
                    return;
                }
            }
        }
        15 => {
            let Some(arena) = pick(random, &known.arenas) else { return };
            let members = known.members.lock().clone();
            let mut mine = Vec::new();
            for id in members {
                if pool.get(id, now).await.is_ok_and(|member| member.arena == Some(arena)) {
                    mine.push(id);
                }
            }
            let keep = if random.bool() { Keep::All } else { Keep::These(mine) };
            if let Ok(freed) = pool.commit_arena(arena, &keep, now).await {
                assert_eq!(freed.state, ArenaState::Committed);
                known.ended.fetch_add(1, Ordering::Relaxed);
                let page = pool.list(None, 1000, None, now).await;
                known
                    .kept
                    .lock()
                    .extend(page.allocations.iter().filter(|one| one.arena.is_none()).map(|one| one.id));
            }
        }
        16 => {
            let mut kept = std::mem::take(&mut *known.kept.lock());
            kept.truncate(100);
            pool.free_batch(&kept, now).await;
        }
        17 => {
            let Some(arena) = pick(random, &known.arenas) else { return };
            let _ = pool.reset_arena(arena, now).await;
        }
        18 => {
            pool.expire(now);
        }
        _ => {
            let Some(arena) = pick(random, &known.arenas) else { return };
            if pool.rollback_arena(arena, now).await.is_ok() {
                known.ended.fetch_add(1, Ordering::Relaxed);
                assert!(matches!(
                    pool.allocate_in_arena(arena, 1, Priority::Normal, Duration::ZERO, now).await,
                    Err(ArenaAllocateError::Arena(ArenaError::Ended { .. }))
                ));
            }
        }
    }
}

/// Ends whatever is left.
async fn clear(pool: &Pool) {
    let now = Now::read();
    loop {
        let page = pool.list_arenas(None, 100, now).await;
        let Some(arena) = page.arenas.first() else { break };
        let _ = pool.rollback_arena(arena.id, now).await;
    }
    loop {
        let page = pool.list(None, 1000, None, now).await;
        let left: Vec<_> = page.allocations.iter().map(|one| one.id).collect();
        pool.free_batch(&left, now).await;
        if page.next.is_none() {
            break;
        }
    }
    while pool.expire(Now::read()).more {}
}

fn racing_pool() -> Pool {
    let budgets = [("cache".parse().expect("a tag"), 200_000)].into();
    let config = Config { max_allocations: Some(600), budgets, write_wait_ms: 1, ..Config::default() };
    pool(600_000, &[1024, 8192], &config)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn arenas_that_end_while_others_use_them_leave_nothing_behind() {
    let pool = Arc::new(racing_pool());
    let known = Arc::new(Known::default());
    let threads: Vec<_> = (0..4)
        .map(|seed| {
            let (pool, known) = (Arc::clone(&pool), Arc::clone(&known));
            tokio::spawn(async move {
                let mut random = fastrand::Rng::with_seed(seed);
                for _ in 0..rounds() {
                    step(&pool, &known, &mut random).await;
                }
            })
        })
        .collect();
    for thread in threads {
        thread.await.expect("no thread panics");
    }
    let stats = at_once(pool.stats()).arenas;
    assert!(known.ended.load(Ordering::Relaxed) > 10, "{stats:?}");
    println!("{stats:?}");
    clear(&pool).await;
    check_empty(&pool);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn calls_about_arenas_that_are_dropped_anywhere_leave_nothing_behind() {
    let pool = Arc::new(racing_pool());
    let known = Arc::new(Known::default());
    pool.begin_janitor();
    let janitor = {
        let pool = Arc::clone(&pool);
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
    let threads: Vec<_> = (0..8)
        .map(|seed| {
            let (pool, known) = (Arc::clone(&pool), Arc::clone(&known));
            tokio::spawn(async move {
                let mut random = fastrand::Rng::with_seed(seed);
                for _ in 0..rounds() / 2 {
                    let patience = Duration::from_micros(random.u64(0..300));
                    let _ = tokio::time::timeout(patience, step(&pool, &known, &mut random)).await;
                }
            })
        })
        .collect();
    for thread in threads {
        thread.await.expect("no thread panics");
    }
    pool.end_janitor();
    janitor.join().expect("the janitor does not panic");
    clear(&pool).await;
    check_empty(&pool);
}
