//! Room in time: what nobody uses any more is free at once, and who waits for it is told when it can be had.

use super::*;
use parking_lot::Mutex;
use std::task::Wake;

/// A pool of that size in which writes wait for a minute.
fn patient_pool(limit: u64) -> Pool {
    let memory = memory::Config {
        slab_sizes: vec![1024],
        max_pool_size: limit,
        initial_slabs_per_size: 0,
        ..memory::Config::default()
    };
    let config = Config { write_wait_ms: 60_000, ..Config::default() };
    Pool::new(Heap::new(&memory).expect("the configuration is right"), &config)
}

/// An object whose first upload broke off, and left much to zero.
fn break_off(pool: &Pool, size: u64) -> AllocationId {
    let id = allocate(pool, size);
    let mut upload = begin(pool, id, Placement::Replace, None).expect("lent");
    let piece = vec![7; at(MEBIBYTE)];
    for _ in 0..size / MEBIBYTE {
        upload.push(&piece).expect("it fits");
    }
    id
}

#[test]
fn a_block_that_is_freed_after_its_first_upload_broke_off_makes_room_before_it_is_zeroed() {
    let pool = pool(128 * MEBIBYTE, &[1024]);
    pool.begin_janitor(); // which is busy elsewhere
    let id = break_off(&pool, 40 * MEBIBYTE);
    assert_eq!(in_use(&pool), 40 * MEBIBYTE);
    at_once(pool.free(id, NOW)).expect("live");
    assert_eq!(in_use(&pool), 0);
    // The other way round, and while the janitor is at it.
    let id = allocate(&pool, 20 * MEBIBYTE);
    let mut upload = begin(&pool, id, Placement::Replace, None).expect("lent");
    upload.push(&vec![7; at(18 * MEBIBYTE)]).expect("it fits");
    at_once(pool.free(id, NOW)).expect("live");
    drop(upload);
    assert_eq!(in_use(&pool), 0);
    while heap(&pool).scrub_slice() {}
    let id = break_off(&pool, 40 * MEBIBYTE);
    pool.scrub_slice();
    at_once(pool.free(id, NOW)).expect("live");
    assert_eq!(in_use(&pool), 0);
    pool.end_janitor();
    pool.abandon_chores();
    assert_empty(&pool);
}

#[test]
fn a_block_that_was_replaced_after_its_first_upload_broke_off_is_let_go_of_with_the_replacement() {
    let pool = pool(64 * MEBIBYTE, &[1024]);
    pool.begin_janitor();
    let id = break_off(&pool, 30 * MEBIBYTE);
    let content = pattern(30 * MEBIBYTE, 4);
    upload(&pool, id, Placement::Replace, &content, true).expect("there is room");
    assert_eq!(in_use(&pool), 30 * MEBIBYTE);
    pool.end_janitor();
    pool.abandon_chores();
    assert!(read(&pool, id) == (content, 1));
    at_once(pool.free(id, NOW)).expect("live");
    assert_empty(&pool);
}

#[test]
fn dead_leftovers_of_uploads_do_not_pile_up_while_the_janitor_is_busy() {
    let pool = pool(40 * MEBIBYTE, &[1024]);
    pool.begin_janitor();
    for _ in 0..20 {
        let id = break_off(&pool, 20 * MEBIBYTE);
        at_once(pool.free(id, NOW)).expect("live");
        while heap(&pool).scrub_slice() {}
        let Engine::Local(local) = &pool.engine;
        assert!(local.handover().broken_count() <= 8);
    }
}

/// Writes as soon as it is woken, and keeps what came of it.
struct WritesWhenWoken {
    pool: Arc<Pool>,
    id: AllocationId,
    outcomes: Mutex<Vec<bool>>,
}

impl Wake for WritesWhenWoken {
    fn wake(self: Arc<Self>) {
        let Engine::Local(local) = &self.pool.engine;
        let (any, pieces) = (Precondition::default(), [Bytes::from_static(b"x")]);
        let written = at_once(local.write(self.id, patch(1), &pieces, &any, None, NOW));
        self.outcomes.lock().push(written.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_what_a_broken_upload_left_finds_it_free_when_it_is_told() {
    for left in [MEBIBYTE, 40 * MEBIBYTE] {
        let pool = Arc::new(patient_pool(40 * MEBIBYTE));
        pool.begin_janitor();
        let id = allocate(&pool, 40 * MEBIBYTE);
        let mut upload = begin(&pool, id, Placement::Replace, None).expect("lent");
        upload.push(&vec![7; at(left)]).expect("it fits");
        let waiter = Arc::new(WritesWhenWoken { pool: Arc::clone(&pool), id, outcomes: Mutex::default() });
        let (any, pieces) = (Precondition::default(), [Bytes::from_static(b"y")]);
        let mut waits = pin!(pool.write(id, patch(0), &pieces, &any, NOW));
        let waker = Waker::from(Arc::clone(&waiter));
        assert!(waits.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        drop(upload);
        for _ in 0..3 {
            pool.scrub_slice();
        }
        assert_eq!(*waiter.outcomes.lock(), [true]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_that_waits_for_a_reader_is_done_as_soon_as_the_last_of_the_read_is_gone() {
    let pool = patient_pool(64 * MEBIBYTE);
    let id = allocate(&pool, 64 * MEBIBYTE);
    write(&pool, id, patch(0), b"x").expect("in place");
    for version in [2, 3] {
        let content = at_once(pool.read(id, NOW)).expect("live");
        let (any, pieces) = (Precondition::default(), [Bytes::from_static(b"y")]);
        let mut waits = pin!(pool.write(id, patch(1), &pieces, &any, NOW));
        let mut poll = || waits.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(poll().is_pending(), "the pool is full");
        if version == 2 {
            drop(content);
        } else {
            let mut pieces = content.read(0..5);
            let first = pieces.next();
            drop(pieces);
            assert!(poll().is_pending(), "a piece is left");
            drop(first);
        }
        let Poll::Ready(Ok(written)) = poll() else { panic!("it is not told") };
        assert_eq!(written, Written { version, whole: false });
    }
}

/// Pages of an object, each of which is a segment: more than are taken in a slice of work.
const PAGES: u64 = 300;

#[test]
fn a_patch_that_another_write_overtook_waits_for_the_memory_that_it_takes_by_now() {
    for is_impatient in [true, false] {
        let limit = (3 * PAGES + 1) * page_size();
        let pool = pool(limit, &[1024]);
        let pages: Vec<_> = (0..2 * PAGES).map(|_| allocate(&pool, page_size())).collect();
        let piece = allocate(&pool, PAGES * page_size());
        for id in pages.iter().step_by(2) {
            at_once(pool.free(*id, NOW)).expect("live");
        }
        let id = allocate(&pool, PAGES * page_size());
        write(&pool, id, patch(0), b"old").expect("in place");
        let mut slow = begin(&pool, id, patch(5), Some(3)).expect("there is a page");
        slow.push(b"abc").expect("it fits");
        at_once(pool.free(piece, NOW)).expect("live");
        let mut content = pattern(PAGES * page_size(), 6);
        upload(&pool, id, Placement::Replace, &content, true).expect("in one piece");
        pool.begin_janitor();
        let any = Precondition::default();
        if is_impatient {
            assert_eq!(slow.commit(&any, NOW), Err(WriteError::Waited { waited_ms: 0 }), "without waiting");
        } else {
            let mut finish = pin!(slow.finish(&any, NOW));
            let mut poll = || finish.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            assert!(poll().is_pending(), "it takes hundreds of runs");
            assert_eq!(pool.await_chore(Duration::ZERO), Chore::Ready);
            pool.do_chore();
            assert_eq!(poll(), Poll::Ready(Ok(Written { version: 3, whole: false })));
            content[5..8].copy_from_slice(b"abc");
        }
        pool.end_janitor();
        assert!(read(&pool, id).0 == content);
        heap(&pool).check();
    }
}
