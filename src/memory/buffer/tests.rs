//! Buffers without a pool: what is content, what is room, and that nothing else can be seen.

use super::*;
use crate::memory::{Config, Heap};
use bytes::BufMut;
use proptest::prelude::*;
use std::collections::VecDeque;
use std::sync::Arc;

fn heap() -> Arc<Heap> {
    let config = Config { slab_sizes: vec![64, 4096], max_pool_size: 1 << 20, ..Config::default() };
    Arc::new(Heap::new(&config).expect("a heap"))
}

fn buffer(heap: &Arc<Heap>, size_bytes: u64) -> Buffer {
    Buffer::from(heap.shared_block(size_bytes).expect("there is room"))
}

#[derive(Clone, Debug)]
enum Step {
    Put(Vec<u8>),
    Read(usize),
    Compact,
    Clear,
    Change(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..40).prop_map(Step::Put),
        4 => (0_usize..40).prop_map(Step::Read),
        1 => Just(Step::Compact),
        1 => Just(Step::Clear),
        1 => any::<u8>().prop_map(Step::Change),
    ]
}

proptest! {
    #[test]
    fn a_buffer_reads_what_a_queue_of_bytes_does(steps in prop::collection::vec(step(), 0..60)) {
        let mut ours = buffer(&heap(), 64);
        let mut twin: VecDeque<u8> = VecDeque::new();
        for step in steps {
            match step {
                Step::Put(bytes) => {
                    let fits = bytes.len().min(ours.remaining_mut());
                    ours.put_slice(&bytes[..fits]);
                    twin.extend(&bytes[..fits]);
                }
                Step::Read(count) => {
                    let count = count.min(twin.len());
                    ours.advance(count);
                    twin.drain(..count);
                    prop_assert!(!twin.is_empty() || ours.room() == 64 || count == 0, "all of it is room again");
                }
                Step::Compact => {
                    ours.compact();
                    prop_assert_eq!(ours.room(), 64 - twin.len());
                }
                Step::Clear => {
                    ours.clear();
                    twin.clear();
                }
                Step::Change(byte) => {
                    ours.fill(byte);
                    twin.iter_mut().for_each(|old| *old = byte);
                }
            }
            prop_assert_eq!(&*ours, &*twin.make_contiguous());
            prop_assert_eq!(ours.remaining(), twin.len());
        }
    }
}

#[test]
fn a_buffer_that_is_frozen_goes_back_with_the_last_of_its_bytes() {
    let heap = heap();
    let mut filled = buffer(&heap, 4096);
    filled.put_slice(b"head and body");
    filled.advance(5);
    let place = filled.as_ptr();
    let bytes = filled.freeze();
    let body = bytes.slice(4..);
    assert_eq!((&bytes[..], bytes.as_ptr()), (&b"and body"[..], place));
    drop(bytes);
    assert_eq!((&body[..], heap.in_use_bytes()), (&b"body"[..], 4096));
    drop(body);
    assert_eq!(heap.in_use_bytes(), 0);
    let empty = buffer(&heap, 4096).freeze();
    assert_eq!((empty.len(), heap.in_use_bytes()), (0, 0), "nothing is held for no bytes");
    heap.check();
}

#[test]
fn bytes_that_were_written_but_not_declared_are_neither_content_nor_left_in_the_heap() {
    let heap = heap();
    let mut first = buffer(&heap, 64);
    first.chunk_mut()[..6].copy_from_slice(b"secret");
    assert!(first.is_empty());
    drop(first);
    let again = heap.shared_block(64).expect("there is room");
    assert!(again.iter().all(|byte| *byte == 0));
    drop(again);
    heap.check();
}

#[test]
fn a_move_takes_the_unread_content_along_and_frees_the_old_block() {
    let heap = heap();
    let mut moved = buffer(&heap, 64);
    moved.put_slice(b"read, unread");
    moved.advance(6);
    moved.move_to(heap.shared_block(4096).expect("there is room"), ());
    assert_eq!((&moved[..], moved.room(), heap.in_use_bytes()), (&b"unread"[..], 4090, 4096));
}

#[test]
fn debug_tells_no_bytes() {
    let mut secret = buffer(&heap(), 64);
    secret.put_slice(b"secret");
    assert_eq!(format!("{secret:?}"), "Buffer { len: 6, capacity: 64, .. }");
}

#[test]
#[should_panic(expected = "5 bytes were read of 4")]
fn reading_more_than_there_is_panics() {
    let mut short = buffer(&heap(), 64);
    short.put_slice(b"four");
    short.advance(5);
}

#[test]
#[should_panic(expected = "advance out of bounds")]
fn putting_more_than_there_is_room_panics() {
    buffer(&heap(), 64).put_slice(&[0; 65]);
}
