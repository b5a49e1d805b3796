//! Stray writes, found where an allocation ends however it ends, while the service goes on.

use super::place::PlaceKind;
use super::*;
use crate::memory::SlabLocation;

/// Where an allocation's content lies.
fn location(pool: &Pool, id: AllocationId) -> SlabLocation {
    let Engine::Local(local) = &pool.engine;
    let PlaceKind::Slab(location) = local.look_up(id, Now(1)).expect("it is live").2.place.kind() else {
        panic!("a slab")
    };
    location
}

/// A stray write to what lies behind an allocation's content.
fn overrun(pool: &Pool, made: &Allocation) {
    let Engine::Local(local) = &pool.engine;
    local.heap().poke(location(pool, made.id), made.size_bytes);
}

fn write(pool: &Pool, id: AllocationId, content: &'static [u8], now: Now) -> Result<Written, WriteError> {
    let pieces = [Bytes::from_static(content)];
    at_once(pool.write(id, Placement::Replace, &pieces, &Precondition::default(), now))
}

/// Violations and retired bytes.
fn found(pool: &Pool) -> ([u64; 2], u64) {
    check_quiet(pool);
    let stats = at_once(pool.stats()).heap;
    (stats.guard_violations, stats.retired_bytes)
}

#[test]
fn they_are_found_when_an_allocation_is_freed_or_its_lease_ends() {
    let pool = pool(10_240, &[1024], &Config::default());
    let freed = allocate(&pool, 100, Now(1)).expect("there is room");
    let leased = AllocateRequest {
        size_bytes: 100,
        lease: Some(Duration::from_nanos(10)),
        tag: Some("a".parse().expect("a tag")),
        ..AllocateRequest::new(100)
    };
    let leased = at_once(pool.allocate(&leased, Duration::ZERO, Now(1))).expect("there is room");
    let untouched = allocate(&pool, 100, Now(1)).expect("there is room");
    for made in [&freed, &leased] {
        write(&pool, made.id, &[7; 100], Now(1)).expect("it is live");
        overrun(&pool, made);
    }
    write(&pool, untouched.id, &[7; 100], Now(1)).expect("it is live");
    at_once(pool.free(freed.id, Now(2))).expect("it is live");
    assert_eq!(found(&pool), ([1, 0], 1024));
    assert_eq!(at_once(pool.get(leased.id, Now(100))), Err(NotFound(leased.id)));
    assert_eq!(found(&pool), ([2, 0], 2048));
    at_once(pool.free(untouched.id, Now(2))).expect("it is live");
    assert_eq!(found(&pool), ([2, 0], 2048));
    for _ in 0..8 {
        let made = allocate(&pool, 1024, Now(200)).expect("what is not retired is there");
        write(&pool, made.id, &[9; 1024], Now(200)).expect("it is live");
    }
    assert!(allocate(&pool, 1, Now(200)).is_err());
}

#[test]
fn they_are_found_in_content_that_is_replaced_and_its_readers_keep_it() {
    let pool = pool(10_240, &[1024], &Config::default());
    let made = allocate(&pool, 100, Now(1)).expect("there is room");
    write(&pool, made.id, &[7; 100], Now(1)).expect("it is live");
    let old = at_once(pool.read(made.id, Now(1))).expect("it is live");
    overrun(&pool, &made);
    write(&pool, made.id, &[8; 100], Now(1)).expect("beside its reader");
    assert_eq!(at_once(pool.stats()).heap.guard_violations, [1, 0]);
    assert_eq!(old.read(0..100).flatten().collect::<Vec<u8>>(), [7; 100]);
    assert_eq!(found(&pool), ([1, 0], 1024), "it goes when its last reader has left");
    let new = at_once(pool.read(made.id, Now(1))).expect("it is live");
    assert_eq!(new.read(0..100).flatten().collect::<Vec<u8>>(), [8; 100]);
}

#[test]
fn they_are_found_in_an_upload_and_in_a_deposit_that_break_off() {
    let pool = pool(10_240, &[1024], &Config::default());
    let Engine::Local(local) = &pool.engine;
    let made = allocate(&pool, 100, Now(1)).expect("there is room");
    write(&pool, made.id, &[7; 100], Now(1)).expect("it is live");
    let any = Precondition::default();
    let mut upload = at_once(pool.upload(made.id, Placement::Replace, &any, Now(1))).expect("there is room");
    upload.push(&[8; 100]).expect("it fits");
    let class = location(&pool, made.id).class();
    let next = local.heap().allocate(class).expect("there is room");
    let filled = SlabLocation::from_word(next.word() - 1);
    local.heap().free(next);
    local.heap().poke(filled, 100);
    drop(upload);
    assert_eq!(found(&pool), ([1, 0], 1024));
    let request = AllocateRequest::new(50);
    let mut deposit = at_once(pool.deposit(&request, Duration::ZERO, Now(1))).expect("there is room");
    deposit.push(&[9; 50]).expect("it fits");
    local.heap().poke(next, 50);
    drop(deposit);
    assert_eq!(found(&pool), ([2, 0], 2048));
}

#[test]
fn a_free_slab_that_was_damaged_is_given_to_nobody_who_allocates_writes_or_waits() {
    let pool = pool(3072, &[1024], &Config::default());
    let Engine::Local(local) = &pool.engine;
    let damage = |now| {
        let made = allocate(&pool, 100, now).expect("there is room");
        write(&pool, made.id, &[7; 100], now).expect("it is live");
        let slab = location(&pool, made.id);
        at_once(pool.free(made.id, now)).expect("it is live");
        local.heap().poke(slab, 0);
    };
    damage(Now(1));
    let made = allocate(&pool, 100, Now(2)).expect("two are left");
    write(&pool, made.id, &[1; 100], Now(2)).expect("it is live");
    assert_eq!(found(&pool), ([0, 1], 1024));
    damage(Now(3));
    // The other of the two is retired on the way, and the one that is left holds the first version.
    let any = Precondition::default();
    let refused = at_once(pool.upload(made.id, Placement::Replace, &any, Now(4))).err();
    assert!(
        matches!(refused, Some(WriteError::NoRoom(memory::AllocateError::Exhausted { .. }))),
        "{refused:?}"
    );
    assert_eq!(found(&pool), ([0, 2], 2048));
    let batch =
        at_once(pool.allocate_batch(&[request(1, None), request(1, Some("a"))], Duration::ZERO, Now(5)));
    assert!(matches!(batch, Err(AllocateError::Memory(memory::AllocateError::Exhausted { .. }))));
    at_once(pool.free(made.id, Now(6))).expect("it is live");
    let last = allocate(&pool, 1024, Now(7)).expect("one slab is left for good");
    at_once(pool.free(last.id, Now(8))).expect("it is live");
    assert_eq!((found(&pool), at_once(pool.stats()).heap.in_use_bytes), (([0, 2], 2048), 2048));
}
