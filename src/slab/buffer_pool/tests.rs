//! Pools of buffers: sizes, growth, zeros, limits, what is kept, and chains.

use super::*;
use bytes::{Buf, BufMut, Bytes};
use std::io::IoSlice;

pub(super) fn pool(change: impl FnOnce(BufferPoolBuilder) -> BufferPoolBuilder) -> BufferPool {
    change(BufferPool::builder().limit_bytes(8 << 20)).build().expect("a pool")
}

pub(super) fn bucket(pool: &BufferPool, number: usize) -> BucketStats {
    let shared = pool.lines.mine();
    shared.buckets[number].stock.check();
    shared.heap.check();
    shared.stats().buckets[number]
}

/// The whole block, as its next user could get it by lying about what was written.
pub(super) fn raw(pool: &BufferPool, bucket: usize) -> Vec<u8> {
    let shared = pool.lines.mine();
    let block = shared.take(bucket).expect("there is room");
    let bytes = block.to_vec();
    shared.take_back(bucket, block, 0);
    bytes
}

#[test]
fn what_was_written_but_not_declared_is_zeroed_where_the_pool_is_told_to() {
    for zero_lent in [false, true] {
        let pool = pool(|builder| builder.zero_lent(zero_lent));
        let left = |end: fn(Buffer)| {
            let mut first = pool.acquire(4096).expect("there is room");
            first.put_slice(b"declared");
            first.chunk_mut()[4000..4006].copy_from_slice(b"secret");
            end(first);
            raw(&pool, 0).into_iter().filter(|byte| *byte != 0).collect::<Vec<u8>>()
        };
        let expected: &[u8] = if zero_lent { b"" } else { b"secret" };
        assert_eq!(left(drop), expected);
        assert_eq!(left(|buffer| drop(buffer.freeze())), expected);
        assert_eq!(left(|mut buffer| buffer.grow(4097).expect("there is room")), expected);
    }
}

#[test]
fn the_smallest_bucket_that_fits_is_taken() {
    let pool = pool(|builder| builder);
    for (asked, given) in
        [(0, 4 << 10), (4096, 4 << 10), (4097, 16 << 10), (65_537, 256 << 10), (256 << 10, 256 << 10)]
    {
        assert_eq!(pool.acquire(asked).expect("it fits").capacity(), given, "{asked}");
    }
    assert_eq!(pool.buffer().expect("it fits").capacity(), 16 << 10);
    let refused = pool.acquire(262_145).expect_err("none is that large");
    assert_eq!(refused, BufferError::TooLarge { size_bytes: 262_145, size_bytes_max: 262_144 });
    assert_eq!(pool.stats().refused, 1);
}

#[test]
fn a_buffer_given_back_is_zeroed_as_far_as_it_was_written_and_used_again() {
    let pool = pool(|builder| builder);
    let mut first = pool.acquire(4096).expect("there is room");
    first.put_slice(&[7; 3000]);
    first.advance(2900);
    first.compact();
    first.put_slice(&[8; 100]); // less than was written before
    drop(first);
    assert!(raw(&pool, 0).iter().all(|byte| *byte == 0));
    drop(pool.acquire(4096).expect("kept").freeze());
    let stats = bucket(&pool, 0);
    assert_eq!((stats.created, stats.reused, stats.kept, stats.in_use), (1, 2, 1, 0));
    assert!((stats.reuse_rate() - 2.0 / 3.0).abs() < 1e-9);
}

#[test]
fn what_is_exhausted_is_told_with_its_numbers_and_the_buffer_stays_as_it_was() {
    let small = Bucket { buffers_max: 2, ..Bucket::of(4096) };
    let pool = pool(|builder| builder.buckets([small, Bucket::of(65_536)]).limit_bytes(2 * 65_536));
    let _two = [pool.acquire(1).expect("there is room"), pool.acquire(1).expect("there is room")];
    let refused = pool.acquire(1).expect_err("two may exist");
    assert_eq!(refused, BufferError::BucketExhausted { bucket_bytes: 4096, buffers_max: 2 });
    let mut one = pool.acquire(65_536).expect("there is room");
    one.put_slice(b"kept");
    let BufferError::Memory { bucket_bytes: 65_536, error } = pool.acquire(5000).expect_err("the limit")
    else {
        panic!("it is the limit on bytes");
    };
    let (requested_bytes, in_use_bytes, limit_bytes) = (65_536, 65_536 + 2 * 4096, 2 * 65_536);
    assert_eq!(error, AllocateError::Exhausted { requested_bytes, in_use_bytes, limit_bytes });
    assert_eq!((&one[..], pool.stats().refused), (&b"kept"[..], 2));
    pool.close();
    assert_eq!(pool.acquire(1).map(drop), Err(BufferError::Closed));
    drop(one);
    assert_eq!(pool.stats().kept_bytes, 0);
}

#[test]
fn buffers_that_are_kept_stand_in_nobodys_way() {
    let buckets =
        [Bucket { kept_min: 100, ..Bucket::of(4096) }, Bucket { kept_min: 100, ..Bucket::of(65_536) }];
    let pool = pool(|builder| builder.buckets(buckets).limit_bytes(4 * 65_536));
    let small: Vec<_> = (0..64).map(|_| pool.acquire(1).expect("there is room")).collect();
    drop(small);
    assert_eq!((bucket(&pool, 0).kept, pool.stats().kept_bytes), (64, 4 * 65_536));
    let large: Vec<_> = (0..4).map(|_| pool.acquire(65_536).expect("all of it is free")).collect();
    assert_eq!((bucket(&pool, 0).kept, bucket(&pool, 0).dropped), (0, 64));
    drop(large);
    let small: Vec<_> = (0..64).map(|_| pool.acquire(1).expect("all of it is free")).collect();
    assert!(pool.acquire(1).is_err());
    drop(small);
    assert_eq!(pool.stats().in_use_bytes, 0);
}

#[test]
fn nobody_is_refused_for_what_others_keep_or_just_give_up() {
    const SIZES: [usize; 3] = [4096, 8192, 16_384];
    const THREADS: usize = 3;
    const HELD: usize = 4;
    let kept = |size_bytes| Bucket { kept_min: 64, ..Bucket::of(size_bytes) };
    let pool =
        pool(|builder| builder.buckets(SIZES.map(kept)).limit_bytes((THREADS * HELD * SIZES[2]) as u64));
    let together = std::sync::Barrier::new(THREADS);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            let (pool, together) = (&pool, &together);
            // Each has so many at a time: there is room for all of them, whatever is kept.
            let mut held: [Option<Buffer>; HELD] = Default::default();
            scope.spawn(move || {
                for size_bytes in SIZES.into_iter().cycle().take(3000) {
                    together.wait();
                    for place in &mut held {
                        drop(place.take());
                        *place = pool.acquire(size_bytes).ok(); // refusals are counted below
                    }
                }
            });
        }
    });
    assert_eq!((pool.stats().in_use_bytes, pool.stats().refused), (0, 0));
    let dropped: u64 = (0..SIZES.len()).map(|number| bucket(&pool, number).dropped).sum();
    assert!(dropped > 100, "{dropped}: what was kept had to give way");
}

#[test]
fn a_builder_refuses_what_makes_no_sense() {
    let build =
        |change: fn(BufferPoolBuilder) -> BufferPoolBuilder| change(BufferPool::builder()).build().map(drop);
    let unsorted = build(|builder| builder.buckets([16_384, 4096, 65_536]));
    assert!(matches!(unsorted, Err(BufferPoolError::Bucket { size_bytes: 4096, .. })));
    assert!(build(|builder| builder.buckets([4096, 4096]).initial_buffer_bytes(1)).is_err());
    assert!(build(|builder| builder.buckets([4097]).initial_buffer_bytes(1)).is_err());
    assert!(build(|builder| builder.buckets([0; 0])).is_err());
    let bounds = Bucket { kept_min: 2, kept_max: 1, ..Bucket::of(65_536) };
    let refused = BufferPool::builder().buckets([bounds]).build().expect_err("the bounds are crossed");
    assert_eq!(refused.to_string(), "bucket of 65536 bytes: kept_min is at most kept_max");
    let never_served = build(|builder| builder.limit_bytes((256 << 10) - 8));
    assert!(matches!(never_served, Err(BufferPoolError::Bucket { size_bytes: 0x4_0000, .. })));
    assert!(build(|builder| builder.limit_bytes(256 << 10)).is_ok());
    let none = build(|builder| builder.initial_buffer_bytes(1 << 20));
    assert!(matches!(none, Err(BufferPoolError::NoBucket { size_bytes: 0x10_0000 })));
    let shrinks =
        build(|builder| builder.adaptive(KeptAdaptation { grow_factor: 0.5, ..KeptAdaptation::default() }));
    assert!(matches!(shrinks, Err(BufferPoolError::Adaptive { .. })));
}

#[test]
fn as_many_buffers_as_are_asked_for_are_made_in_advance_or_the_pool_is_not() {
    let build = |bucket| BufferPool::builder().buckets([bucket]).build();
    let too_many = Bucket { initial: 100, ..Bucket::of(1 << 20) };
    let refused = build(too_many).expect_err("40 may be kept");
    assert_eq!(refused.to_string(), "bucket of 1048576 bytes: initial is at most kept_max and buffers_max");
    assert!(build(Bucket { kept_max: 100, buffers_max: 99, ..too_many }).is_err());
    let made = build(Bucket { kept_max: 100, ..too_many }).expect("they may be kept");
    assert_eq!(bucket(&made, 0).kept, 100);
    let refused =
        build(Bucket { initial: 257, kept_max: 300, ..too_many }).expect_err("256 MiB are the limit");
    assert!(
        refused.to_string().ends_with("what is made in advance fits into the limit on bytes"),
        "{refused}"
    );
    let all = build(Bucket { initial: 256, kept_max: 300, ..too_many }).expect("it is just the limit");
    assert_eq!(bucket(&all, 0).kept, 256);
}

#[test]
fn threads_see_nobody_elses_bytes_and_leave_nothing_behind() {
    let pool = pool(|builder| builder.buckets([512, 4096, 16_384]).limit_bytes(1 << 20));
    std::thread::scope(|scope| {
        for thread in 1..=4_u8 {
            let pool = pool.clone();
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(u64::from(thread));
                let mut held: Vec<Buffer> = Vec::new();
                for _ in 0..3000 {
                    match random.u8(..4) {
                        0 if !held.is_empty() => {
                            let buffer = held.swap_remove(random.usize(..held.len()));
                            assert!(buffer.iter().all(|byte| *byte == thread), "somebody else wrote here");
                        }
                        1 if !held.is_empty() => {
                            let at = random.usize(..held.len());
                            let more = random.usize(..3000);
                            if held[at].reserve(more).is_ok() {
                                held[at].put_bytes(thread, more);
                            }
                        }
                        _ => {
                            let Ok(mut buffer) = pool.acquire(random.usize(1..9000)) else {
                                held.clear();
                                continue;
                            };
                            buffer.put_bytes(thread, random.usize(..512));
                            held.push(buffer);
                        }
                    }
                }
            });
        }
    });
    assert_eq!(pool.stats().in_use_bytes, 0);
    for number in 0..3 {
        let stats = bucket(&pool, number);
        assert_eq!(stats.created, stats.dropped + stats.kept as u64);
        (0..stats.kept).for_each(|_| {
            let block = pool.lines.mine().take(number).expect("kept");
            assert!(block.iter().all(|byte| *byte == 0), "it was zeroed");
        });
    }
}

pub(super) fn filled(pool: &BufferPool, content: &[u8]) -> Buffer {
    let mut buffer = pool.acquire(content.len()).expect("there is room");
    buffer.put_slice(content);
    buffer
}

#[test]
fn a_chain_reads_its_pieces_as_one_and_gives_each_back_when_it_is_read() {
    let pool = pool(|builder| builder);
    let mut chain = BufferChain::new();
    for content in [&b"one, "[..], b"two, ", b"", b"three"] {
        chain.push(filled(&pool, content));
        chain.push(Bytes::copy_from_slice(content));
    }
    assert_eq!(
        (chain.remaining(), chain.pieces(), bucket(&pool, 0).in_use),
        (30, 6, 3),
        "empty ones are gone"
    );
    let mut slices = [IoSlice::new(&[]); 4];
    assert_eq!(chain.chunks_vectored(&mut slices), 4);
    assert_eq!(slices.map(|slice| slice.to_vec()).concat(), b"one, one, two, two, ");
    chain.advance(7);
    assert_eq!((chain.chunk(), bucket(&pool, 0).in_use), (&b"e, "[..], 2));
    let mut rest = vec![0; 23];
    chain.copy_to_slice(&mut rest);
    assert_eq!((&rest[..], bucket(&pool, 0).in_use), (&b"e, two, two, threethree"[..], 0));
    let none = chain.chunks_vectored(&mut [IoSlice::new(&[])]);
    assert_eq!((chain.pieces(), chain.chunk(), none), (0, &b""[..], 0));
}

#[test]
fn bytes_out_of_a_chain_are_copied_only_where_they_lie_in_several_pieces() {
    let pool = pool(|builder| builder);
    let mut chain = BufferChain::from(filled(&pool, b"head body"));
    chain.push(Bytes::from_static(b" tail"));
    let place = chain.chunk().as_ptr();
    let head = chain.copy_to_bytes(4);
    assert_eq!((&head[..], head.as_ptr()), (&b"head"[..], place));
    assert_eq!((chain.copy_to_bytes(0).len(), chain.remaining()), (0, 10));
    let rest = chain.copy_to_bytes(8); // over the edge: a copy
    assert_eq!((&rest[..], chain.remaining(), bucket(&pool, 0).in_use), (&b" body ta"[..], 2, 1));
    drop(head);
    assert_eq!(bucket(&pool, 0).in_use, 0, "what was not copied held it");
    assert_eq!(chain.copy_to_bytes(2), "il");
}

#[test]
#[should_panic(expected = "4 bytes were read of 3")]
fn reading_more_of_a_chain_than_there_is_panics() {
    BufferChain::from(filled(&pool(|builder| builder), b"one")).advance(4);
}

#[test]
fn debug_tells_no_bytes() {
    let pool = pool(|builder| builder);
    let mut chain = BufferChain::from(filled(&pool, b"secret"));
    chain.push(Bytes::from_static(b"secret"));
    let piece = Piece::from(Bytes::from_static(b"secret"));
    for text in [
        format!("{chain:?}"),
        format!("{piece:?}"),
        format!("{:?}", filled(&pool, b"secret")),
        format!("{pool:?}"),
    ] {
        assert!(!text.contains("secret") && !text.contains("115"), "{text}");
    }
    assert_eq!(format!("{chain:?}"), "BufferChain { remaining: 12, pieces: 2 }");
}

#[tokio::test]
async fn tokio_reads_into_buffers_and_writes_chains() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let pool = pool(|builder| builder);
    let sent: Vec<u8> = (0..100_000_u32).map(|at| at.to_le_bytes()[0]).collect();
    let (mut near, mut far) = tokio::io::duplex(10_000);
    let content = sent.clone();
    let sender = tokio::spawn(async move {
        near.write_all(&content).await.expect("the other end reads");
        near.shutdown().await.expect("the other end reads");
        let mut echoed = Vec::new();
        near.read_to_end(&mut echoed).await.expect("the other end writes");
        echoed
    });
    let mut chain = BufferChain::new();
    loop {
        let mut buffer = pool.acquire(4096).expect("there is room");
        if far.read_buf(&mut buffer).await.expect("the other end writes") == 0 {
            break;
        }
        chain.push(buffer);
    }
    assert!(chain.pieces() > 20, "{chain:?}");
    far.write_all_buf(&mut chain).await.expect("the other end reads");
    drop(far);
    assert_eq!(sender.await.expect("no panic"), sent);
    assert_eq!(pool.stats().in_use_bytes, 0);
}
