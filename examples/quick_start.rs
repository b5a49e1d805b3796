//! The allocator as a library in one minute: slabs of one size, what a full allocator says, slabs that other threads
//! have, blocks of many sizes, and the numbers of both.
//!
//! ```text
//! cargo run --no-default-features --example quick_start
//! ```

use maas::memory::{Config, Heap};
use maas::slab::{SlabAllocator, SlabError};
use std::error::Error;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

fn main() -> Result<(), Box<dyn Error>> {
    one_size()?;
    a_full_one()?;
    other_threads()?;
    many_sizes()
}

/// A slab is bytes, free again when it is dropped, and zeroed then where the allocator is secure.
fn one_size() -> Result<(), Box<dyn Error>> {
    let allocator = SlabAllocator::builder(4096, 10_000).secure(true).health_checks(true).build()?;
    for round in 0..5000_u32 {
        let mut slab = allocator.allocate()?;
        // Only this part counts as written, so only this is zeroed afterwards.
        slab.part_mut(0..4)?.copy_from_slice(&round.to_le_bytes());
    }
    let stats = allocator.stats();
    println!(
        "one size: {} slabs of {} bytes given out, {} of them from a magazine; {} bytes resident",
        stats.total_allocations, stats.slab_size_bytes, stats.magazine_hits, stats.committed_bytes
    );
    let health = allocator.health_check();
    let (score, median) = (health.health_score, health.latency_p50.unwrap_or_default());
    println!("one size: health score {score:.2}, half of the allocations within {median:?}");
    Ok(())
}

/// The limit is hard. What does not fit is an error with the numbers, at once, or after as long as one likes.
fn a_full_one() -> Result<(), Box<dyn Error>> {
    let allocator = SlabAllocator::builder(1024, 2).build()?;
    let both = allocator.allocate_batch(2)?; // all or none
    match allocator.allocate() {
        Err(error @ SlabError::OutOfMemory { .. }) => println!("a full one: {error}"),
        outcome => println!("a full one: this was not to be expected: {outcome:?}"),
    }
    if let Err(error) = allocator.allocate_timeout(Duration::from_millis(20)) {
        println!("a full one: {error}");
    }
    drop(both);
    println!("a full one: when they are dropped there is room again: {}", allocator.allocate().is_ok());
    Ok(())
}

/// Any thread may allocate. A shared slab keeps its allocator, and can be sent away and freed elsewhere.
fn other_threads() -> Result<(), Box<dyn Error>> {
    let allocator = Arc::new(SlabAllocator::builder(256, 1000).build()?);
    let (sender, receiver) = std::sync::mpsc::channel();
    let maker = {
        let allocator = Arc::clone(&allocator);
        thread::spawn(move || -> Result<(), SlabError> {
            for number in 0..10 {
                let mut slab = allocator.allocate_shared()?;
                slab[0] = number;
                if sender.send(slab).is_err() {
                    break; // nobody listens any more: the slab is dropped, and free
                }
            }
            Ok(())
        })
    };
    let sum: u32 = receiver.iter().map(|slab| u32::from(slab[0])).sum();
    maker.join().map_err(|_| "the other thread panicked")??;
    let stats = allocator.stats();
    println!("other threads: ten slabs came with a sum of {sum}, {} are in use now", stats.used_slabs);
    Ok(())
}

/// A heap has many sizes under one limit: free memory of one size serves every other.
fn many_sizes() -> Result<(), Box<dyn Error>> {
    let config = Config { slab_sizes: vec![64, 1024, 65_536], max_pool_size: 131_072, ..Config::default() };
    let heap = Arc::new(Heap::new(&config)?);
    let small: Vec<_> = (0..100).map(|_| heap.block(50)).collect::<Result<_, _>>()?;
    println!("many sizes: {} blocks of {} bytes", small.len(), small[0].slab_bytes());
    drop(small);
    let mut large = heap.shared_block(60_000)?;
    large.write(0, b"kept, and handed on without a copy");
    let bytes = large.into_bytes().slice(10..34); // `bytes::Bytes`; the block is freed with the last of them
    println!("many sizes: {}", String::from_utf8_lossy(&bytes));
    println!("many sizes: {} of {} bytes in use", heap.in_use_bytes(), heap.limit_bytes());
    Ok(())
}
