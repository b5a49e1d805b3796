//! Large objects under one limit: an image is received into a block of whole pages, worked on in parts, and handed on
//! without a copy. Small and large blocks share the same memory.
//!
//! ```text
//! cargo run --no-default-features --example large_objects
//! ```

use bytes::Bytes;
use maas::memory::{BlockError, Config, Heap};
use std::error::Error;
use std::sync::Arc;
use std::thread;

/// 3840 × 2160 pixels of four bytes.
const IMAGE_BYTES: u64 = 3840 * 2160 * 4;
const ROW_BYTES: usize = 3840 * 4;

fn main() -> Result<(), Box<dyn Error>> {
    // Sizes up to 64 KiB are slabs; what is larger is made of pages.
    let heap = Arc::new(Heap::new(&Config {
        slab_sizes: vec![256, 4096, 65_536],
        max_pool_size: 100 << 20,
        ..Config::default()
    })?);

    let mut image = heap.shared_block(IMAGE_BYTES)?;
    println!("an image of {} bytes takes {}", image.len(), image.slab_bytes());
    assert!(image.iter().all(|byte| *byte == 0));
    // Its first rows are written: only these parts are zeroed when it is freed.
    for row in 0..100 {
        image.part_mut(row * ROW_BYTES..(row + 1) * ROW_BYTES).fill(row.to_le_bytes()[0]);
    }

    // Handed on to other threads, in parts that share the block.
    let image: Bytes = image.into_bytes();
    let workers: Vec<_> = (0..4)
        .map(|worker| {
            let part = image.slice(worker * 25 * ROW_BYTES..(worker + 1) * 25 * ROW_BYTES);
            thread::spawn(move || part.iter().map(|byte| u64::from(*byte)).sum::<u64>())
        })
        .collect();
    let sum = workers.into_iter().map(|worker| worker.join()).try_fold(0, |sum, part| Ok(sum + part?));
    let sum: u64 = sum.map_err(|_: Box<dyn std::any::Any + Send>| "a worker panicked")?;
    println!("four threads added up {sum}");
    drop(image);

    // Free memory is free for every size: what the image had, small blocks have now, and then another image.
    let small: Vec<_> = std::iter::from_fn(|| heap.block(4096).ok()).collect();
    println!("{} small blocks fill the heap", small.len());
    let refused = heap.block(IMAGE_BYTES).err().ok_or("there was room for another")?;
    assert!(matches!(refused, BlockError::Memory(_)));
    drop(small);
    let images: Vec<_> = std::iter::from_fn(|| heap.block(IMAGE_BYTES).ok()).collect();
    println!("{} images fit where they were", images.len());

    let refused = heap.block(1 << 30).err().ok_or("there is no room for that")?;
    println!("a larger one: {refused}");
    Ok(())
}
