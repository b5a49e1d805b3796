//! The edges of the door: what can never be, what is full, and what a pool that is closed still does.

use super::*;

fn allocate_batch(pool: &Pool, requests: &[AllocateRequest]) -> Result<Vec<Allocation>, AllocateError> {
    at_once(pool.allocate_batch(requests, Duration::ZERO, Now(1)))
}

#[test]
fn a_batch_that_no_pool_could_hold_is_refused_as_a_whole() {
    let pool = pool(10_240, &[1024], &Config::default());
    let refused = allocate_batch(&pool, &vec![request(1000, Some("bulk")); 11]);
    let expected = AllocateError::TooLargeTogether { blocks: 11, size_bytes: 11_000, limit_bytes: 10_240 };
    assert_eq!(refused, Err(expected));
    assert_eq!(allocate_batch(&pool, &vec![request(1000, Some("bulk")); 10]).map(|made| made.len()), Ok(10));
}

#[test]
fn a_size_is_rounded_to_its_class_however_full_the_pool_is() {
    let pool = pool(10_240, &[1024, 4096, 16_384], &Config::default());
    allocate_batch(&pool, &vec![request(1, None); 10]).expect("there is room");
    assert_eq!((pool.actual_size(1), pool.actual_size(1025)), (Ok(1024), Ok(4096)));
    assert!(matches!(pool.actual_size(5000), Err(AllocateError::TooLarge { .. })));
    assert_eq!(pool.in_use_and_limit_bytes(), (10_240, 10_240));
    let largest: Vec<Option<u64>> =
        [1023, 1024, 5000, 99_999].map(|free| pool.largest_block_within(free)).into();
    assert_eq!(largest, [None, Some(1024), Some(4096), Some(4096)], "no class is larger than the pool");
}

#[test]
fn as_many_tags_as_can_be_leave_room_for_others_once_they_have_nothing() {
    let budgets = [("kept".parse().expect("a tag"), 1024)].into();
    let pool = pool(16 << 20, &[1024], &Config { budgets, ..Config::default() });
    let tagged = |tag: &str| allocate_batch(&pool, &[request(1, Some(tag))]);
    let made: Vec<_> = (1..TAGS_MAX).map(|tag| tagged(&format!("t{tag}")).expect("there is room")).collect();
    let full = Err(AllocateError::TagsFull { tags_max: TAGS_MAX });
    assert_eq!((tagged("one-more"), tagged("t7").map(|made| made.len())), (full.clone(), Ok(1)));
    assert_eq!(at_once(pool.stats()).active_allocations, TAGS_MAX as u64, "what was refused took nothing");
    at_once(pool.free(made[41][0].id, Now(2))).expect("it is live");
    assert_eq!(tagged("one-more").map(|made| made.len()), Ok(1), "a tag without allocations is forgotten");
    assert_eq!(
        (tagged("another"), tagged("kept").map(|made| made.len())),
        (full, Ok(1)),
        "not one with a budget"
    );
    check_quiet(&pool);
}

#[test]
fn a_deposit_is_as_long_as_its_block_and_ends_with_the_pool() {
    let pool = pool(10_240, &[1024], &Config::default());
    let begin = || at_once(pool.deposit(&request(10, Some("post")), Duration::ZERO, Now(1)));
    let mut deposit = begin().expect("there is room");
    deposit.push(b"0123456").expect("it fits");
    let past_end = Err(WriteError::PastEnd { end_bytes: 11, size_bytes: 10 });
    assert_eq!(deposit.push(b"7890"), past_end);
    deposit.push(b"789").expect("what was refused took nothing");
    pool.close();
    assert_eq!(deposit.commit(Now(2)), Err(AllocateError::Unavailable(Unavailable)));
    assert!(matches!(begin(), Err(AllocateError::Unavailable(Unavailable))));
    assert_eq!(allocate_batch(&pool, &[request(1, None)]), Err(AllocateError::Unavailable(Unavailable)));
    check_quiet(&pool);
    assert_eq!(at_once(pool.stats()).heap.in_use_bytes, 0, "nothing of it is left");
}

#[test]
fn freeing_very_many_lets_others_have_their_turn() {
    let pool = pool(64 << 20, &[1024], &Config::default());
    let made = allocate_batch(&pool, &vec![request(1, None); 3000]).expect("there is room");
    let ids: Vec<AllocationId> = made.iter().map(|made| made.id).collect();
    let mut freeing = pin!(pool.free_batch(&ids, Now(2)));
    let mut context = Context::from_waker(Waker::noop());
    let mut turns = 1;
    let missing = loop {
        match freeing.as_mut().poll(&mut context) {
            Poll::Ready(missing) => break missing,
            Poll::Pending => turns += 1,
        }
    };
    assert_eq!((missing, turns), (Vec::new(), 3), "1024 at a turn");
    assert_eq!(at_once(pool.stats()).active_allocations, 0);
}

#[test]
fn a_charge_is_raised_by_what_it_lacks_or_left_as_it_is() {
    let pool = pool(10_240, &[1024], &Config { max_inflight_bytes: 100, ..Config::default() });
    let inflight = pool.inflight();
    let mut charge = None;
    assert!(inflight.raise(&mut charge, 0) && charge.is_none(), "nothing needs no charge");
    assert!(inflight.raise(&mut charge, 40) && inflight.raise(&mut charge, 70));
    assert_eq!(inflight.bytes(), 70);
    assert!(!inflight.raise(&mut charge, 101), "it cannot be had");
    assert!(inflight.raise(&mut charge, 30), "it is more already");
    assert_eq!((inflight.bytes(), inflight.bytes_max()), (70, 100));
    drop(charge);
    assert_eq!(inflight.bytes(), 0, "the bytes are given back once");
}

#[test]
fn the_first_lease_is_told_and_an_id_is_written_as_it_is_parsed() {
    let pool = pool(10_240, &[1024], &Config::default());
    {
        let mut begun = pin!(pool.leases_begun());
        let mut context = Context::from_waker(Waker::noop());
        assert!(begun.as_mut().poll(&mut context).is_pending());
        let request = AllocateRequest { lease: Some(Duration::from_secs(1)), ..request(1, None) };
        let made = at_once(pool.allocate(&request, Duration::ZERO, Now(1))).expect("there is room");
        assert!(begun.as_mut().poll(&mut context).is_ready());
        let mut buffer = [0; 36];
        let written = made.id.encode(&mut buffer);
        assert_eq!((written.parse(), written), (Ok(made.id), made.id.to_string().as_str()));
    }
}
