//! Large objects beside slabs: what is copied, what is shared, what is in use, and the content under a naive twin.

mod hunt;
mod twin;
mod uploads;
mod waits;

use super::segments::Segments;
use super::*;
use crate::clock::Now;
use crate::memory::{self, page_size};
use crate::pool::tests::at_once;
use crate::pool::{
    AllocateRequest, AllocationId, Chore, Config, Engine, Placement, Pool, Precondition, Upload, Versions,
    WriteError, Written,
};
use bytes::Bytes;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

const MEBIBYTE: u64 = 1 << 20;
const NOW: Now = Now(1);

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
    AllocateRequest::new(size_bytes)
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
