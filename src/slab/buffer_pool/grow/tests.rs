//! Buffers that grow: when, how far, what it copies, and where the old one goes.

use super::super::tests::{bucket, filled, pool, raw};
use super::*;
use bytes::{Buf, BufMut};

#[test]
fn growing_takes_the_content_along_and_gives_the_old_one_back_zeroed() {
    let pool = pool(|builder| builder);
    let mut grown = pool.acquire(1).expect("there is room");
    grown.put_slice(&[1; 4096]);
    grown.advance(96);
    grown.reserve(1).expect("there is room");
    assert_eq!((grown.capacity(), grown.len()), (16 << 10, 4000));
    assert!(raw(&pool, 0).iter().all(|byte| *byte == 0));
    grown.grow(100_000).expect("there is room");
    grown.grow(5).expect("it has more");
    assert_eq!((grown.capacity(), &grown[..]), (256 << 10, &[1; 4000][..]));
    assert!(matches!(grown.reserve(300_000), Err(BufferError::TooLarge { size_bytes: 304_000, .. })));
    assert_eq!((grown.capacity(), grown.len()), (256 << 10, 4000), "as it was");
    let outgrown: Vec<u64> = pool.stats().buckets.iter().map(|bucket| bucket.outgrown).collect();
    assert_eq!((outgrown, bucket(&pool, 3).in_use), (vec![1, 1, 0, 0], 1));
}

/// So many times a byte is read and room asked for another: how often the content was moved.
fn moves(buffer: &mut Buffer, rounds: usize) -> usize {
    (0..rounds)
        .filter(|_| {
            buffer.advance(1);
            let place = buffer.as_ptr();
            buffer.reserve(1).expect("a byte was read");
            let is_moved = buffer.as_ptr() != place;
            buffer.put_u8(9);
            is_moved
        })
        .count()
}

#[test]
fn a_full_buffer_that_is_read_and_filled_byte_by_byte_is_not_moved_each_time() {
    let pool = pool(|builder| builder.buckets([4096, 16 << 10]).initial_buffer_bytes(4096));
    let mut full = filled(&pool, &[7; 4096]);
    assert_eq!(moves(&mut full, 12 << 10), 1, "it grew");
    assert_eq!((full.capacity(), full.len(), full.room()), (16 << 10, 4096, 1));
    assert_eq!(moves(&mut full, 12 << 10), 1, "it was moved to the beginning after 12 KiB");
    assert_eq!((full.capacity(), &full[..]), (16 << 10, &[9; 4096][..]));
    let mut half_read = filled(&pool, &[7; 4096]);
    half_read.advance(2048);
    half_read.reserve(2048).expect("it is there");
    assert_eq!((half_read.capacity(), half_read.room()), (4096, 2048), "moving it is enough");
}

#[test]
fn a_buffer_that_cannot_grow_has_the_room_that_was_read_all_the_same() {
    let pool =
        pool(|builder| builder.buckets([4096, 16 << 10]).initial_buffer_bytes(4096).limit_bytes(16 << 10));
    let mut small = filled(&pool, &[7; 4096]); // no 16 KiB are left
    assert_eq!((moves(&mut small, 10), small.capacity(), small.room()), (10, 4096, 0));
    assert_eq!(pool.stats().refused, 0, "nothing was refused");
    assert!(small.reserve(1).is_err());
    assert_eq!(pool.stats().refused, 1);
    drop(small);
    let mut largest = filled(&pool, &[7; 16 << 10]);
    assert_eq!((moves(&mut largest, 10), largest.len()), (10, 16 << 10));
}

#[test]
fn a_buffer_that_grows_doubles_at_least_up_to_the_largest() {
    let pool = pool(|builder| builder.buckets([1000, 1800, 3000]).initial_buffer_bytes(8));
    let mut grown = pool.buffer().expect("there is room");
    grown.put_slice(&[1; 1000]);
    grown.reserve(1).expect("there is room");
    assert_eq!(grown.capacity(), 3000, "twice 1000 is more than 1800");
    let mut largest = pool.acquire(1800).expect("there is room");
    largest.put_slice(&[1; 1800]);
    largest.reserve(1).expect("there is room");
    assert_eq!(largest.capacity(), 3000, "there is no twice 1800");
}
