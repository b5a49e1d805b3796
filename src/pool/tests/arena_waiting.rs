//! Requests that wait for room in an arena: for what others have, and for what comes free in the arena itself.

use super::arenas::{arena_request, check_empty, create, member};
use super::*;

type Waiter<'a> = std::pin::Pin<Box<dyn Future<Output = Result<Allocation, ArenaAllocateError>> + Send + 'a>>;

const PAGE: u64 = 4096;
const LIMIT: u64 = 16 * PAGE;
const MINUTE: Duration = Duration::from_secs(60);

/// A full pool: an arena whose only page is given out, and blocks of a quarter of a page.
fn full() -> (Pool, Arena, Vec<AllocationId>) {
    let pool = pool(LIMIT, &[1024], &Config::default());
    let tiny = ArenaRequest { size: ArenaSize::Profile(Profile::Tiny), ..arena_request() };
    let arena = create(&pool, &tiny, Now(1)).expect("there is room");
    member(&pool, arena.id, PAGE, Now(1)).expect("there is room");
    let rest = LIMIT - at_once(pool.stats()).heap.in_use_bytes;
    let blocks = (0..rest / 1024).map(|_| allocate(&pool, 1024, Now(1)).expect("there is room").id).collect();
    assert_eq!(at_once(pool.stats()).heap.in_use_bytes, LIMIT);
    (pool, arena, blocks)
}

fn waiter(pool: &Pool, arena: ArenaId) -> Waiter<'_> {
    let mut waiter: Waiter<'_> =
        Box::pin(pool.allocate_in_arena(arena, 16, Priority::Normal, MINUTE, Now(2)));
    assert_eq!(poll(&mut waiter), None, "there is no room yet");
    waiter
}

fn poll(waiter: &mut Waiter<'_>) -> Option<Result<Allocation, ArenaAllocateError>> {
    match waiter.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(outcome) => Some(outcome),
        Poll::Pending => None,
    }
}

fn free(pool: &Pool, ids: &[AllocationId]) {
    ids.iter().for_each(|id| at_once(pool.free(*id, Now(3))).expect("it is live"));
}

fn end(pool: &Pool, arena: ArenaId, blocks: &[AllocationId]) {
    at_once(pool.rollback_arena(arena, Now(9))).expect("it is open");
    free(pool, blocks);
    check_empty(pool);
}

#[tokio::test(start_paused = true)]
async fn requests_that_wait_in_one_arena_share_the_chunk_that_the_first_of_them_gets() {
    let (pool, arena, blocks) = full();
    let (mut first, mut second) = (waiter(&pool, arena.id), waiter(&pool, arena.id));
    free(&pool, &blocks[..4]);
    assert!(matches!(poll(&mut first), Some(Ok(_))), "its page was freed");
    assert!(matches!(poll(&mut second), Some(Ok(_))), "that page has room for both");
    drop((first, second));
    assert_eq!(at_once(pool.stats()).arenas.chunk_bytes, 2 * PAGE);
    end(&pool, arena.id, &blocks[4..]);
}

#[tokio::test(start_paused = true)]
async fn chunks_that_several_were_granted_and_one_has_room_for_come_back() {
    let (pool, arena, blocks) = full();
    let mut waiters: Vec<_> = (0..4).map(|_| waiter(&pool, arena.id)).collect();
    free(&pool, &blocks[..16]);
    for waiter in &mut waiters {
        assert!(matches!(poll(waiter), Some(Ok(_))), "there is room for all");
    }
    drop(waiters);
    let stats = at_once(pool.stats());
    assert_eq!(stats.arenas.chunk_bytes, 2 * PAGE, "the page that was full, and one for all");
    assert_eq!(stats.heap.in_use_bytes, LIMIT - 3 * PAGE);
    end(&pool, arena.id, &blocks[16..]);
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_in_an_arena_finds_the_room_that_a_reset_leaves_and_hears_of_its_end() {
    let (pool, arena, blocks) = full();
    let mut waiting = waiter(&pool, arena.id);
    at_once(pool.reset_arena(arena.id, Now(3))).expect("it is open");
    assert!(matches!(poll(&mut waiting), Some(Ok(_))), "all of the arena is free");
    drop(waiting);
    member(&pool, arena.id, PAGE - 16, Now(4)).expect("there is room");
    let mut waiting = waiter(&pool, arena.id);
    at_once(pool.commit_arena(arena.id, &Keep::All, Now(5))).expect("it is open");
    let ended = ArenaError::Ended { id: arena.id, state: ArenaState::Committed };
    assert_eq!(poll(&mut waiting), Some(Err(ended.into())));
    drop(waiting);
    free(&pool, &list_all(&pool, 100, Now(6)));
    check_empty(&pool);
    assert!(!blocks.is_empty());
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_in_an_arena_is_sent_away_when_nobody_waits_any_more_and_when_its_time_is_over() {
    let (pool, arena, blocks) = full();
    let waited = waiter(&pool, arena.id).await;
    let Err(ArenaAllocateError::Allocate(AllocateError::Waited { waited_ms: 60_000, .. })) = waited else {
        panic!("{waited:?}")
    };
    let mut waiting = waiter(&pool, arena.id);
    pool.stop_waiting();
    let sent_away = AllocateError::from(Unavailable);
    assert_eq!(poll(&mut waiting), Some(Err(sent_away.into())));
    drop(waiting);
    end(&pool, arena.id, &blocks);
}
