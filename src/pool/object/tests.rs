//! Large objects beside slabs: what is copied, what is shared, what is in use, and the content under a naive twin.

use super::broken::is_clean;
use super::segments::Segments;
use super::*;
use crate::clock::Now;
use crate::memory::{self, page_size};
use crate::pool::{
    AllocateRequest, AllocationId, Chore, Config, Engine, Placement, Pool, Precondition, Upload, Versions,
    WriteError, Written,
};
use bytes::Bytes;
use proptest::prelude::*;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

const MEBIBYTE: u64 = 1 << 20;
const NOW: Now = Now(1);

fn at_once<T>(call: impl Future<Output = T>) -> T {
    match pin!(call).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("a call of the local engine is ready at the first poll"),
    }
}

fn pool(limit: u64, sizes: &[u64]) -> Pool {
    let memory = memory::Config {
        slab_sizes: sizes.to_vec(),
        max_pool_size: limit,
        initial_slabs_per_size: 0,
        ..memory::Config::default()
    };
    let config = Config { write_wait_ms: 0, ..Config::default() };
    Pool::new(Heap::new(&memory).expect("the configuration is right"), &config)
}

fn request(size_bytes: u64) -> AllocateRequest {
    AllocateRequest { size_bytes, lease: None, tag: None }
}

fn allocate(pool: &Pool, size_bytes: u64) -> AllocationId {
    at_once(pool.allocate(&request(size_bytes), Duration::ZERO, NOW)).expect("there is room").id
}

fn heap(pool: &Pool) -> &Arc<Heap> {
    let Engine::Local(local) = &pool.engine;
    local.heap()
}

fn in_use(pool: &Pool) -> u64 {
    heap(pool).in_use_bytes()
}

/// Nothing is left of anything.
fn assert_empty(pool: &Pool) {
    assert_eq!((in_use(pool), heap(pool).draining_bytes()), (0, 0));
    let stats = at_once(pool.stats());
    assert_eq!((stats.objects, stats.heap.large.used_bytes), (ObjectStats::default(), 0));
    heap(pool).check();
}

fn read(pool: &Pool, id: AllocationId) -> (Vec<u8>, u64) {
    let content = at_once(pool.read(id, NOW)).expect("live");
    let (size, version) = (content.size_bytes, content.version);
    (joined(content.read(0..size)), version)
}

fn joined(pieces: impl Iterator<Item = Bytes>) -> Vec<u8> {
    let mut bytes = Vec::new();
    pieces.for_each(|piece| bytes.extend_from_slice(&piece));
    bytes
}

fn write(pool: &Pool, id: AllocationId, placement: Placement, bytes: &[u8]) -> Result<Written, WriteError> {
    let pieces = [Bytes::copy_from_slice(bytes)];
    at_once(pool.write(id, placement, &pieces, &Precondition::default(), NOW))
}

fn begin<'a>(
    pool: &'a Pool,
    id: AllocationId,
    placement: Placement,
    length: Option<u64>,
) -> Result<Upload<'a>, WriteError> {
    let any = Precondition::default();
    match length {
        Some(length) => at_once(pool.upload_exactly(id, placement, length, &any, NOW)),
        None => at_once(pool.upload(id, placement, &any, NOW)),
    }
}

/// Writes a body in pieces, whose length is told or not.
fn upload(
    pool: &Pool,
    id: AllocationId,
    placement: Placement,
    bytes: &[u8],
    is_told: bool,
) -> Result<Written, WriteError> {
    let mut upload = begin(pool, id, placement, is_told.then_some(bytes.len() as u64))?;
    for piece in bytes.chunks(100_000) {
        upload.push(piece)?;
    }
    upload.commit(&Precondition::default(), NOW)
}

/// Bytes that tell their place.
fn pattern(length: u64, seed: u8) -> Vec<u8> {
    (0..length).map(|at| (at ^ at >> 12).to_le_bytes()[0] ^ seed).collect()
}

/// An offset as an index.
fn at(offset: u64) -> usize {
    usize::try_from(offset).expect("it fits into memory")
}

fn patch(offset: u64) -> Placement {
    Placement::Patch { offset }
}

#[test]
fn a_block_that_no_class_holds_is_whole_pages_of_zeros_that_can_be_written_read_and_freed() {
    let pool = pool(64 * MEBIBYTE, &[1024, 65_536]);
    let size = 10 * MEBIBYTE + 7;
    let made = at_once(pool.allocate(&request(size), Duration::ZERO, NOW)).expect("there is room");
    let actual = size.next_multiple_of(page_size());
    assert_eq!((made.size_bytes, made.actual_size_bytes, in_use(&pool)), (size, actual, actual));
    let stats = at_once(pool.stats());
    assert_eq!(stats.objects, ObjectStats { objects: 1, bytes: actual, segments: 3 });
    assert_eq!((stats.active_allocations, stats.allocated_bytes, stats.allocations_made), (1, actual, 1));
    assert_eq!(read(&pool, made.id), (vec![0; at(size)], 0));
    let content = pattern(size, 3);
    assert_eq!(
        upload(&pool, made.id, Placement::Replace, &content, true),
        Ok(Written { version: 1, whole: true })
    );
    assert_eq!(in_use(&pool), actual, "the first upload is lent the block's own segments");
    assert!(read(&pool, made.id) == (content.clone(), 1));
    let border = 4 * MEBIBYTE;
    let reader = at_once(pool.read(made.id, NOW)).expect("live");
    let part = joined(reader.read(border - 5..border + 9));
    assert_eq!(part, content[at(border) - 5..at(border) + 9]);
    at_once(pool.free(made.id, NOW)).expect("live");
    assert!(at_once(pool.read(made.id, NOW)).is_err());
    assert_empty(&pool);
}

#[test]
fn a_patch_of_one_byte_beside_a_reader_takes_one_segment_and_the_reader_sees_what_it_began_with() {
    let pool = pool(64 * MEBIBYTE, &[1024]);
    let size = 16 * MEBIBYTE;
    let id = allocate(&pool, size);
    let mut content = pattern(size, 1);
    upload(&pool, id, Placement::Replace, &content, false).expect("it is lent");
    let reader = at_once(pool.read(id, NOW)).expect("live");
    let watch = reader.watch().expect("it was written");
    let mut pieces = reader.read(0..size);
    let first = pieces.next().expect("a piece");
    assert_eq!(write(&pool, id, patch(9 * MEBIBYTE), b"x").map(|written| written.version), Ok(2));
    assert_eq!(in_use(&pool), size + 4 * MEBIBYTE);
    assert_eq!(heap(&pool).draining_bytes(), 4 * MEBIBYTE, "of the old version only what was replaced");
    // Nobody reads the segments of the second version: the third has them in its own hands, but for one of the first.
    assert_eq!(write(&pool, id, patch(12 * MEBIBYTE - 1), b"yz").map(|written| written.version), Ok(3));
    assert_eq!(in_use(&pool), size + 8 * MEBIBYTE);
    let old = joined(std::iter::once(first.clone()).chain(pieces));
    assert!(old == content, "the reader sees its own version");
    drop(first);
    assert!(!watch.is_alive());
    assert_eq!((in_use(&pool), heap(&pool).draining_bytes()), (size, 0));
    content[9 << 20] = b'x';
    content[(12 << 20) - 1..(12 << 20) + 1].copy_from_slice(b"yz");
    assert!(read(&pool, id) == (content, 3));
    at_once(pool.free(id, NOW)).expect("live");
    assert_empty(&pool);
}

#[test]
fn a_small_write_that_nobody_sees_goes_in_place_also_across_a_border() {
    let pool = pool(16 * MEBIBYTE, &[1024]);
    let size = 16 * MEBIBYTE;
    let id = allocate(&pool, size);
    assert_eq!(write(&pool, id, patch(4 * MEBIBYTE - 2), b"abcd"), Ok(Written { version: 1, whole: false }));
    assert_eq!(write(&pool, id, patch(size - 1), b"z"), Ok(Written { version: 2, whole: false }));
    assert_eq!(in_use(&pool), size, "the pool is full, and there was room");
    let (content, _) = read(&pool, id);
    assert_eq!(&content[(4 << 20) - 3..(4 << 20) + 3], b"\0abcd\0");
    assert_eq!((content[(16 << 20) - 2], content[(16 << 20) - 1]), (0, b'z'));
    let past_end = WriteError::PastEnd { end_bytes: size + 1, size_bytes: size };
    assert_eq!(write(&pool, id, patch(size - 1), b"zz"), Err(past_end));
    // A replacement zeroes one segment beside those that it goes to, and no more under a lock: here there are two.
    write(&pool, id, patch(9 * MEBIBYTE), b"old").expect("in place");
    assert!(matches!(write(&pool, id, Placement::Replace, b"short"), Err(WriteError::NoRoom(_))));
    let other = allocate_in_full(&pool);
    assert!(other.is_none());
    at_once(pool.free(id, NOW)).expect("live");
    let id = allocate(&pool, size);
    write(&pool, id, patch(9 * MEBIBYTE), b"old").expect("in place");
    assert_eq!(write(&pool, id, Placement::Replace, b"short"), Ok(Written { version: 2, whole: false }));
    let (content, _) = read(&pool, id);
    assert_eq!(&content[..6], b"short\0");
    assert!(content[6..].iter().all(|byte| *byte == 0));
    at_once(pool.free(id, NOW)).expect("live");
    assert_empty(&pool);
}

/// A block of a pool that is full.
fn allocate_in_full(pool: &Pool) -> Option<AllocationId> {
    at_once(pool.allocate(&request(1), Duration::ZERO, NOW)).ok().map(|made| made.id)
}

#[test]
fn an_upload_takes_room_for_the_segments_that_it_touches_and_one_that_breaks_off_leaves_nothing() {
    let pool = pool(64 * MEBIBYTE, &[1024]);
    let size = 20 * MEBIBYTE;
    let id = allocate(&pool, size);
    let mut content = pattern(size, 9);
    upload(&pool, id, Placement::Replace, &content, true).expect("it is lent");
    let body = pattern(3 * MEBIBYTE, 77);
    let offset = 5 * MEBIBYTE + 100;
    {
        let mut broken = begin(&pool, id, patch(offset), Some(body.len() as u64)).expect("there is room");
        broken.push(&body[..1000]).expect("it fits");
        assert_eq!(in_use(&pool), size + 8 * MEBIBYTE, "the second segment, and the third");
    }
    assert_eq!((in_use(&pool), read(&pool, id).1), (size, 1));
    for (version, is_told) in [(2, true), (3, false)] {
        let written = upload(&pool, id, patch(offset), &body, is_told);
        assert_eq!(written, Ok(Written { version, whole: false }));
        assert_eq!(in_use(&pool), size, "the old ones are free");
    }
    content[at(offset)..at(offset) + body.len()].copy_from_slice(&body);
    assert!(read(&pool, id) == (content, 3));
    // Nothing to write: nothing changes.
    assert_eq!(upload(&pool, id, patch(size), &[], true), Ok(Written { version: 3, whole: false }));
    assert_eq!(upload(&pool, id, patch(7), &[], false), Ok(Written { version: 3, whole: false }));
    // A short replacement leaves zeros behind it.
    assert_eq!(upload(&pool, id, Placement::Replace, &body, false), Ok(Written { version: 4, whole: false }));
    let (replaced, _) = read(&pool, id);
    assert!(replaced[..body.len()] == body && replaced[body.len()..].iter().all(|byte| *byte == 0));
    at_once(pool.free(id, NOW)).expect("live");
    assert_empty(&pool);
}

#[test]
fn a_body_longer_than_was_announced_is_refused_and_one_that_ends_behind_the_content_too() {
    let pool = pool(64 * MEBIBYTE, &[1024]);
    let id = allocate(&pool, 12 * MEBIBYTE);
    upload(&pool, id, Placement::Replace, &[1], true).expect("there is room");
    assert!(matches!(begin(&pool, id, patch(12 * MEBIBYTE - 10), Some(11)), Err(WriteError::PastEnd { .. })));
    let mut longer = begin(&pool, id, patch(0), Some(100)).expect("there is room");
    longer.push(&vec![0; 4 << 20]).expect("as far as its segment goes");
    assert!(matches!(longer.push(&[0]), Err(WriteError::PastEnd { .. })));
}

#[test]
fn while_the_first_upload_is_under_way_others_read_zeros_and_write_beside_it() {
    let pool = pool(64 * MEBIBYTE, &[1024]);
    let size = 9 * MEBIBYTE;
    let id = allocate(&pool, size);
    let mut first = begin(&pool, id, patch(MEBIBYTE), None).expect("lent");
    first.push(&[7; 2000]).expect("it fits");
    assert!(read(&pool, id) == (vec![0; at(size)], 0));
    // What the first writes must not be seen, so another one shares nothing with it.
    assert_eq!(write(&pool, id, patch(10), b"second").map(|written| written.version), Ok(1));
    assert_eq!(in_use(&pool), 2 * size, "the first upload has its segments still");
    first.push(&[8; 1]).expect("it fits");
    assert_eq!(first.commit(&Precondition::default(), NOW).map(|written| written.version), Ok(2));
    assert_eq!(in_use(&pool), size);
    let mut expected = vec![0; at(size)];
    expected[10..16].copy_from_slice(b"second");
    expected[1 << 20..(1 << 20) + 2000].fill(7);
    expected[(1 << 20) + 2000] = 8;
    assert!(read(&pool, id) == (expected, 2));
    at_once(pool.free(id, NOW)).expect("live");
    assert_empty(&pool);
}

#[test]
fn a_first_upload_that_breaks_off_leaves_zeros_where_it_ends_or_when_the_janitor_has_been_there() {
    for has_janitor in [false, true] {
        let pool = pool(40 * MEBIBYTE, &[1024]);
        if has_janitor {
            pool.begin_janitor();
        }
        let size = 40 * MEBIBYTE;
        let id = allocate(&pool, size);
        let mut broken = begin(&pool, id, Placement::Replace, None).expect("lent");
        for piece in pattern(36 * MEBIBYTE, 5).chunks(1 << 20) {
            broken.push(piece).expect("it fits");
        }
        drop(broken);
        assert_eq!(read(&pool, id).1, 0);
        if has_janitor {
            assert!(matches!(begin(&pool, id, patch(0), Some(1)), Err(WriteError::NoRoom(_))), "still lent");
            for _ in 0..3 {
                assert_eq!(pool.await_chore(Duration::ZERO), Chore::Scrub);
                pool.scrub_slice();
            }
            assert_eq!(pool.await_chore(Duration::ZERO), Chore::Nothing);
        }
        let Engine::Local(local) = &pool.engine;
        let number = local.look_up(id, NOW).expect("live").2.place.object().expect("an object");
        assert!(local.objects().look(number, |object| is_clean(local.heap(), object)));
        assert_eq!(write(&pool, id, patch(1), b"x").map(|written| written.version), Ok(1));
        at_once(pool.free(id, NOW)).expect("live");
        pool.end_janitor();
        pool.abandon_chores();
        assert_empty(&pool);
    }
}

#[test]
fn an_upload_into_a_block_that_was_freed_ends_there_and_frees_what_it_has() {
    let pool = pool(64 * MEBIBYTE, &[1024]);
    for is_first in [true, false] {
        let id = allocate(&pool, 5 * MEBIBYTE);
        if !is_first {
            write(&pool, id, patch(0), b"x").expect("in place");
        }
        let mut upload = begin(&pool, id, Placement::Replace, None).expect("there is room");
        upload.push(&[1; 100]).expect("it fits");
        at_once(pool.free(id, NOW)).expect("live");
        assert!(matches!(upload.push(&[1]), Err(WriteError::NotFound(_))));
        assert!(matches!(upload.commit(&Precondition::default(), NOW), Err(WriteError::NotFound(_))));
        assert_empty(&pool);
    }
}

#[test]
fn of_two_writers_with_one_etag_one_is_refused() {
    let pool = pool(64 * MEBIBYTE, &[1024]);
    let id = allocate(&pool, 8 * MEBIBYTE);
    write(&pool, id, patch(0), b"x").expect("in place");
    let first = Precondition { if_match: Some(Versions::OneOf(vec![1])), ..Precondition::default() };
    let begin = || at_once(pool.upload_exactly(id, patch(3), 2, &first, NOW)).expect("it matches");
    let (mut one, mut other) = (begin(), begin());
    one.push(b"ab").expect("it fits");
    other.push(b"cd").expect("it fits");
    assert_eq!(other.commit(&first, NOW).map(|written| written.version), Ok(2));
    assert_eq!(one.commit(&first, NOW), Err(WriteError::PreconditionFailed { version: 2 }));
    assert_eq!(&read(&pool, id).0[..6], b"x\0\0cd\0");
    assert!(at_once(pool.upload(id, patch(3), &first, NOW)).is_err(), "it can never match again");
}

#[test]
fn an_upload_whose_neighbours_were_replaced_meanwhile_keeps_them() {
    let pool = pool(64 * MEBIBYTE, &[1024]);
    let id = allocate(&pool, 12 * MEBIBYTE);
    let mut content = pattern(12 * MEBIBYTE, 2);
    upload(&pool, id, Placement::Replace, &content, true).expect("lent");
    let body = pattern(5 * MEBIBYTE, 40);
    for is_told in [true, false] {
        let mut slow =
            begin(&pool, id, patch(3 * MEBIBYTE), is_told.then_some(body.len() as u64)).expect("room");
        slow.push(&body).expect("it fits");
        let other = pattern(12 * MEBIBYTE, 90);
        upload(&pool, id, Placement::Replace, &other, true).expect("there is room");
        write(&pool, id, patch(11 * MEBIBYTE), b"and this").expect("in place");
        slow.commit(&Precondition::default(), NOW).expect("the newer version is filled in");
        content = other;
        content[11 << 20..(11 << 20) + 8].copy_from_slice(b"and this");
        content[3 << 20..(3 << 20) + body.len()].copy_from_slice(&body);
        assert!(read(&pool, id).0 == content);
    }
    at_once(pool.free(id, NOW)).expect("live");
    assert_empty(&pool);
}

#[test]
fn readers_of_a_freed_object_are_marked_when_their_time_is_over_and_of_a_live_one_never() {
    let pool = pool(64 * MEBIBYTE, &[1024]);
    let seconds = |seconds| NOW.after(Duration::from_secs(seconds));
    let (freed, live) = (allocate(&pool, 5 * MEBIBYTE), allocate(&pool, 5 * MEBIBYTE));
    for id in [freed, live] {
        write(&pool, id, patch(0), b"x").expect("in place");
    }
    let watch = |id| {
        let content = at_once(pool.read(id, NOW)).expect("live");
        (content.watch().expect("it was written"), content)
    };
    let ((freed_watch, freed_content), (live_watch, _live_content)) = (watch(freed), watch(live));
    let (same, _same_content) = watch(live);
    assert!(live_watch.is_of_same_read(&live_watch) && !live_watch.is_of_same_read(&same));
    at_once(pool.free(freed, NOW)).expect("live");
    assert_eq!(heap(&pool).draining_bytes(), 5 * MEBIBYTE);
    assert_eq!(pool.sweep_readers(seconds(29)).draining, 1);
    assert!(!freed_watch.is_overdue());
    assert_eq!(pool.sweep_readers(seconds(31)).lingering, 0);
    assert!(freed_watch.is_overdue() && !live_watch.is_overdue());
    assert_eq!(pool.sweep_readers(seconds(31)).lingering, 1, "until somebody ends it");
    drop(freed_content);
    assert!(!freed_watch.is_alive() && !freed_watch.is_overdue());
    assert_eq!((pool.sweep_readers(seconds(32)).draining, heap(&pool).draining_bytes()), (0, 0));
    assert_eq!(in_use(&pool), 5 * MEBIBYTE);
}

#[test]
fn a_reader_of_an_old_version_has_a_second_when_its_memory_is_needed() {
    let pool = pool(16 * MEBIBYTE, &[1024]);
    let id = allocate(&pool, 12 * MEBIBYTE);
    write(&pool, id, patch(0), b"x").expect("in place");
    let content = at_once(pool.read(id, NOW)).expect("live");
    let watch = content.watch().expect("it was written");
    write(&pool, id, patch(0), b"y").expect("there is room for a segment");
    assert!(allocate_in_full(&pool).is_none());
    let soon = NOW.after(Duration::from_millis(1100));
    pool.sweep_readers(soon);
    assert!(watch.is_overdue());
    drop(content);
    assert!(allocate_in_full(&pool).is_some());
}

#[test]
fn what_is_deposited_is_there_whole_and_what_breaks_off_leaves_nothing() {
    let pool = pool(16 * MEBIBYTE, &[1024]);
    let size = 6 * MEBIBYTE + 1;
    let content = pattern(size, 8);
    let begin = || at_once(pool.deposit(&request(size), Duration::ZERO, NOW)).expect("there is room");
    let mut broken = begin();
    broken.push(&content[..5 << 20]).expect("it fits");
    drop(broken);
    assert_empty(&pool);
    let mut deposit = begin();
    content.chunks(70_000).for_each(|piece| deposit.push(piece).expect("it fits"));
    assert!(matches!(deposit.push(&[0]), Err(WriteError::PastEnd { .. })));
    let made = deposit.commit(NOW).expect("open");
    assert!(read(&pool, made.id) == (content, 1));
    at_once(pool.free(made.id, NOW)).expect("live");
    assert_empty(&pool);
}

#[test]
fn a_stray_write_behind_the_content_is_found_when_the_object_is_freed() {
    let pool = pool(32 * MEBIBYTE, &[1024]);
    let id = allocate(&pool, 5 * MEBIBYTE + 10);
    write(&pool, id, patch(5 * MEBIBYTE + 1), b"near it").expect("in place");
    let Engine::Local(local) = &pool.engine;
    let number = local.look_up(id, NOW).expect("live").2.place.object().expect("an object");
    let last = local.objects().look(number, |object| object.segments().all().last().expect("several"));
    heap(&pool).poke(last.location, 5 * MEBIBYTE + 12 - last.start);
    at_once(pool.free(id, NOW)).expect("live");
    assert_eq!(heap(&pool).stats().guard_violations.iter().sum::<u64>(), 1);
    assert_eq!(in_use(&pool), last.range.end - last.start, "it is out of use for good");
}

#[test]
fn sizes_that_can_never_be_had_are_told_apart_from_those_that_do_not_fit_now() {
    let pool = pool(10 * MEBIBYTE, &[1024, 3 * MEBIBYTE]);
    assert_eq!(pool.actual_size(10 * MEBIBYTE), Ok(10 * MEBIBYTE));
    assert!(matches!(
        pool.actual_size(10 * MEBIBYTE + 1),
        Err(crate::pool::AllocateError::TooLarge { size_bytes_max, .. }) if size_bytes_max == 10 * MEBIBYTE
    ));
    assert_eq!(pool.actual_size(3 * MEBIBYTE + 1), Ok(3 * MEBIBYTE + page_size()));
    let largest = [10 * MEBIBYTE, 5 * MEBIBYTE + 17, 3 * MEBIBYTE + 17, 2 * MEBIBYTE, 1023]
        .map(|free| pool.largest_block_within(free));
    let expected = [Some(10 * MEBIBYTE), Some(5 * MEBIBYTE), Some(3 * MEBIBYTE), Some(1024), None];
    assert_eq!(largest, expected);
    // A size that a class holds takes that class, also where the class is larger than the pool.
    let pool = self::pool(10_240, &[1024, 16_384]);
    assert!(pool.actual_size(9000).is_err() && pool.actual_size(17_000).is_err());
}

#[test]
fn leases_tags_budgets_listing_and_batches_know_large_objects() {
    let memory =
        memory::Config { slab_sizes: vec![1024], max_pool_size: 32 * MEBIBYTE, ..memory::Config::default() };
    let tag: crate::pool::Tag = "big".parse().expect("a tag");
    let config = Config { budgets: [(tag.clone(), 12 * MEBIBYTE)].into(), ..Config::default() };
    let pool = Pool::new(Heap::new(&memory).expect("right"), &config);
    let tagged = |size_bytes| AllocateRequest { tag: Some(tag.clone()), ..request(size_bytes) };
    let lease = Some(Duration::from_secs(1));
    let batch = [
        tagged(5 * MEBIBYTE),
        request(100),
        AllocateRequest { lease, ..tagged(7 * MEBIBYTE) },
        request(2 * MEBIBYTE),
    ];
    let made = at_once(pool.allocate_batch(&batch, Duration::ZERO, NOW)).expect("there is room");
    let actual: Vec<_> = made.iter().map(|made| made.actual_size_bytes).collect();
    assert_eq!(actual, [5 * MEBIBYTE, 1024, 7 * MEBIBYTE, 2 * MEBIBYTE]);
    let over = at_once(pool.allocate(&tagged(MEBIBYTE), Duration::ZERO, NOW));
    assert!(matches!(over, Err(crate::pool::AllocateError::Budget { .. })));
    let listed = at_once(pool.list(None, 10, None, NOW)).allocations;
    assert!(listed == made);
    let later = NOW.after(Duration::from_secs(2));
    assert!(at_once(pool.get(made[2].id, later)).is_err());
    let stats = at_once(pool.stats());
    assert_eq!((stats.tags[0].allocated_bytes, stats.leases_expired), (5 * MEBIBYTE, 1));
    assert_eq!((stats.objects.objects, stats.objects.bytes), (2, 7 * MEBIBYTE));
    let renewed = at_once(pool.renew(made[0].id, Duration::from_secs(5), later)).expect("live");
    assert_eq!(renewed.deadline, Some(later.after(Duration::from_secs(5))));
    let missing = at_once(pool.free_batch(&made.map_ids(), later));
    assert_eq!(missing, [made[2].id]);
    assert_eq!(in_use(&pool), 0);
}

/// The ids of some allocations.
trait Ids {
    fn map_ids(&self) -> Vec<AllocationId>;
}

impl Ids for Vec<crate::pool::Allocation> {
    fn map_ids(&self) -> Vec<AllocationId> {
        self.iter().map(|made| made.id).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn an_object_that_waits_for_room_is_served_when_slabs_and_objects_are_freed() {
    let pool = Arc::new(pool(16 * MEBIBYTE, &[1024]));
    let (first, small) = (allocate(&pool, 8 * MEBIBYTE), allocate(&pool, 1000));
    let waiting = pool.clone();
    let waiter =
        tokio::spawn(
            async move { waiting.allocate(&request(16 * MEBIBYTE), Duration::from_secs(60), NOW).await },
        );
    tokio::time::sleep(Duration::from_millis(1)).await;
    pool.free(first, NOW).await.expect("live");
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(pool.stats().await.waiting_requests, 1);
    pool.free(small, NOW).await.expect("live");
    let made = waiter.await.expect("it does not panic").expect("there is room now");
    assert_eq!((made.actual_size_bytes, in_use(&pool)), (16 * MEBIBYTE, 16 * MEBIBYTE));
}

/// Leaves memory in pieces: blocks of two pages, of which the first of each `of` stay.
fn scatter(pool: &Pool, of: usize) {
    let blocks: Vec<_> = std::iter::from_fn(|| {
        at_once(pool.allocate(&request(page_size() + 1), Duration::ZERO, NOW)).ok().map(|made| made.id)
    })
    .collect();
    for (at, id) in blocks.iter().enumerate() {
        if at % of != 0 {
            at_once(pool.free(*id, NOW)).expect("live");
        }
    }
}

#[test]
fn borders_of_segments_are_found_where_they_are() {
    let pool = pool(MEBIBYTE, &[1024]);
    let page = page_size();
    let Engine::Local(local) = &pool.engine;
    local.heap().grant(7 * page).expect("there is room");
    let shapes = [2, 1, 4].map(|pages| memory::Shape::Run(pages * page));
    let backed = shapes.map(|shape| local.heap().back_shape(shape).expect("granted"));
    let mut segments = Segments::of(local.objects().upkeep(), 10 * page, 20 * page, backed);
    assert_eq!((segments.range(), segments.count()), (10 * page..17 * page, 3));
    let before: Vec<_> = [10, 11, 12, 13, 14, 17].map(|at| segments.border_before(at * page) / page).into();
    let after: Vec<_> = [10, 11, 12, 13, 14, 17].map(|at| segments.border_after(at * page) / page).into();
    assert_eq!((before, after), (vec![10, 10, 12, 13, 13, 17], vec![10, 12, 12, 13, 17, 17]));
    assert_eq!(segments.span(&(11 * page..12 * page + 1)), 10 * page..13 * page);
    assert_eq!(segments.span(&(11 * page..11 * page)), 11 * page..11 * page);
    let shared = segments.share(12 * page..17 * page).expect("few holders");
    assert_eq!((shared.range(), shared.count()), (12 * page..17 * page, 2));
    segments.keep(&(12 * page + 1..12 * page + 2));
    assert_eq!((segments.range(), local.heap().in_use_bytes()), (12 * page..13 * page, 5 * page));
    drop(shared);
    assert_eq!(local.heap().in_use_bytes(), page);
    drop(segments);
    assert_empty(&pool);
}

/// What a client does with its one object.
#[derive(Clone, Debug)]
enum Step {
    Write {
        offset: u64,
        length: u64,
    },
    Replace {
        length: u64,
    },
    Upload {
        offset: u64,
        length: u64,
        is_told: bool,
    },
    ReplaceAll {
        length: u64,
    },
    BreakOff {
        offset: u64,
        length: u64,
        is_told: bool,
    },
    /// Begins to read, and keeps the pieces.
    Hold,
    /// Begins an upload that commits when another begins, or at the end.
    Linger {
        offset: u64,
        length: u64,
        is_told: bool,
    },
    Commit,
    LetGo,
    FreeAndAllocate,
}

const TWIN_SIZE: u64 = (160 << 10) + 123;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let place = || (0..TWIN_SIZE, 0..TWIN_SIZE).prop_map(|(a, b)| (a.min(b), a.max(b) - a.min(b)));
    let short = || (0..TWIN_SIZE, 0_u64..30_000).prop_map(|(at, length)| (at, length.min(TWIN_SIZE - at)));
    let step = prop_oneof![
        4 => short().prop_map(|(offset, length)| Step::Write { offset, length }),
        1 => (0_u64..30_000).prop_map(|length| Step::Replace { length }),
        3 => (place(), any::<bool>())
            .prop_map(|((offset, length), is_told)| Step::Upload { offset, length, is_told }),
        1 => (0..=TWIN_SIZE).prop_map(|length| Step::ReplaceAll { length }),
        1 => (place(), any::<bool>())
            .prop_map(|((offset, length), is_told)| Step::BreakOff { offset, length, is_told }),
        3 => Just(Step::Hold),
        3 => (place(), any::<bool>())
            .prop_map(|((offset, length), is_told)| Step::Linger { offset, length, is_told }),
        2 => Just(Step::Commit),
        2 => Just(Step::LetGo),
        1 => Just(Step::FreeAndAllocate),
    ];
    proptest::collection::vec(step, 1..25)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// Whatever is written however, in memory that is in one piece or scattered, each reader sees the bytes of its
    /// instant, each write all or nothing, and in the end nothing is left.
    #[test]
    fn an_objects_content_is_that_of_a_plain_vector(steps in steps(), pieces in 1_usize..5) {
        let pool = pool(4 * MEBIBYTE, &[1024, 4096]);
        if pieces > 1 {
            scatter(&pool, pieces);
        }
        let before = in_use(&pool);
        let mut id = allocate(&pool, TWIN_SIZE);
        let (mut twin, mut version, mut seed) = (vec![0_u8; at(TWIN_SIZE)], 0, 0_u8);
        let mut held = Vec::new();
        let mut lingering: Option<(Upload<'_>, u64, Vec<u8>)> = None;
        let put = |twin: &mut Vec<u8>, offset: u64, bytes: &[u8]| {
            let offset = at(offset);
            twin[offset..offset + bytes.len()].copy_from_slice(bytes);
        };
        for step in steps {
            seed = seed.wrapping_add(1);
            match step {
                Step::Write { offset, length } => {
                    let body = pattern(length, seed);
                    let written = write(&pool, id, patch(offset), &body).expect("there is room");
                    version += u64::from(length > 0);
                    prop_assert_eq!(written.version, version);
                    put(&mut twin, offset, &body);
                }
                Step::Replace { length } => {
                    let body = pattern(length, seed);
                    write(&pool, id, Placement::Replace, &body).expect("there is room");
                    version += 1;
                    twin.fill(0);
                    put(&mut twin, 0, &body);
                }
                Step::Upload { offset, length, is_told } => {
                    let body = pattern(length, seed);
                    upload(&pool, id, patch(offset), &body, is_told).expect("there is room");
                    version += u64::from(length > 0);
                    put(&mut twin, offset, &body);
                }
                Step::ReplaceAll { length } => {
                    let body = pattern(length, seed);
                    upload(&pool, id, Placement::Replace, &body, seed % 2 == 0).expect("there is room");
                    version += 1;
                    twin.fill(0);
                    put(&mut twin, 0, &body);
                }
                Step::BreakOff { offset, length, is_told } => {
                    let mut broken = begin(&pool, id, patch(offset), is_told.then_some(length)).expect("room");
                    broken.push(&pattern(length, seed)).expect("it fits");
                }
                Step::Hold => {
                    let content = at_once(pool.read(id, NOW)).expect("live");
                    prop_assert_eq!(content.version, version);
                    held.push((content.read(0..TWIN_SIZE), twin.clone()));
                }
                Step::Linger { offset, length, is_told } => {
                    let body = pattern(length, seed);
                    let mut upload = begin(&pool, id, patch(offset), is_told.then_some(length)).expect("room");
                    upload.push(&body).expect("it fits");
                    lingering = Some((upload, offset, body));
                }
                Step::Commit => {
                    if let Some((upload, offset, body)) = lingering.take() {
                        upload.commit(&Precondition::default(), NOW).expect("there is room");
                        version += u64::from(!body.is_empty());
                        put(&mut twin, offset, &body);
                    }
                }
                Step::LetGo => {
                    if let Some((pieces, expected)) = held.pop() {
                        prop_assert!(joined(pieces) == expected, "a reader sees another instant");
                    }
                }
                Step::FreeAndAllocate => {
                    at_once(pool.free(id, NOW)).expect("live");
                    if let Some((upload, _, body)) = lingering.take() {
                        let ended = upload.commit(&Precondition::default(), NOW);
                        prop_assert!(ended.is_err(), "{} bytes", body.len());
                    }
                    id = allocate(&pool, TWIN_SIZE);
                    version = 0;
                    twin.fill(0);
                }
            }
            prop_assert!(read(&pool, id) == (twin.clone(), version), "after a step");
            if held.len() > 3 {
                let (pieces, expected) = held.remove(0);
                prop_assert!(joined(pieces) == expected, "a reader sees another instant");
            }
        }
        for (pieces, expected) in held {
            prop_assert!(joined(pieces) == expected, "a reader sees another instant");
        }
        drop(lingering);
        at_once(pool.free(id, NOW)).expect("live");
        prop_assert_eq!((in_use(&pool), heap(&pool).draining_bytes()), (before, 0));
        heap(&pool).check();
    }
}
