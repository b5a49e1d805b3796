//! A database's page cache: frames of 4 KiB from a slab allocator, pinned while somebody works with them, and written
//! back before they are given up. Locks and row versions, small and many, are blocks of a heap with the size classes of
//! the service's profile `database`.
//!
//! ```text
//! cargo run --no-default-features --example database_pages
//! ```

use maas::memory::{Block, Config, Heap};
use maas::slab::{SlabAllocator, SlabRef};
use std::collections::{HashMap, VecDeque};
use std::error::Error;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

const PAGE_BYTES: u64 = 4096;
/// Pages of the table, and how many of them fit into the cache.
const PAGES: u64 = 2000;
const FRAMES: u32 = 400;
/// Pages that are read at once where somebody reads in order.
const READ_AHEAD: usize = 16;
const TRANSACTIONS: u32 = 20_000;

fn main() -> Result<(), Box<dyn Error>> {
    // Aligned to pages, as files that are opened for direct access want it.
    let allocator = SlabAllocator::builder(PAGE_BYTES, FRAMES).cache_line(PAGE_BYTES).build()?;
    let heap = Heap::new(&Config {
        slab_sizes: vec![64, 128, 192, 256, 384, 512, 1024, 2048, 4096],
        max_pool_size: 1 << 20,
        ..Config::default()
    })?;
    let mut cache = PageCache::new(&allocator, table()?);

    for page in (0..PAGES).step_by(READ_AHEAD) {
        cache.read_ahead(page..page + READ_AHEAD as u64)?;
    }
    println!("a scan: {}", cache.tell());

    let mut random = fastrand::Rng::with_seed(7);
    for transaction in 0..TRANSACTIONS {
        // Nine in ten work with the tenth of the pages that is hot.
        let page = if random.u8(0..10) < 9 { random.u64(0..PAGES / 10) } else { random.u64(0..PAGES) };
        let locks: Vec<Block<'_>> = (0..3).map(|_| heap.block(48)).collect::<Result<_, _>>()?;
        let frame = cache.pin(page)?;
        let mut version = heap.block(200)?; // the row as it was: other readers still want it
        version.write(0, &frame[..200]);
        frame.part_mut(8..12)?.copy_from_slice(&transaction.to_le_bytes());
        cache.unpin(page, true);
        drop(locks);
    }
    println!("transactions: {}", cache.tell());
    cache.flush()?;

    let stats = allocator.stats();
    println!(
        "frames: {} in use of {}, at most {} at once, {:.1} % of {} allocations reused one",
        stats.used_slabs,
        stats.total_slabs,
        stats.peak_used_slabs,
        100.0 * stats.reuse_rate,
        stats.total_allocations
    );
    for class in heap.stats().classes.iter().filter(|class| class.allocations > 0) {
        println!(
            "small objects of {} bytes: {} allocations in {} slabs",
            class.slab_size_bytes, class.allocations, class.total
        );
    }
    Ok(())
}

/// A file that is gone when it is closed, with each page's number at its beginning.
fn table() -> io::Result<File> {
    let path = std::env::temp_dir().join(format!("maas-pages-{}", std::process::id()));
    let file = File::options().read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    for page in 0..PAGES {
        file.write_all_at(&page.to_le_bytes(), page * PAGE_BYTES)?;
    }
    file.set_len(PAGES * PAGE_BYTES)?;
    Ok(file)
}

/// A page in memory.
struct Frame<'a> {
    bytes: SlabRef<'a>,
    pins: u32,
    is_dirty: bool,
    /// Since the hand of the clock last came by.
    was_used: bool,
}

/// Pages of a file, as many as the allocator has slabs.
struct PageCache<'a> {
    allocator: &'a SlabAllocator,
    file: File,
    frames: HashMap<u64, Frame<'a>>,
    /// The clock: pages in the order in which the hand comes to them.
    clock: VecDeque<u64>,
    hits: u64,
    misses: u64,
    written_back: u64,
}

impl<'a> PageCache<'a> {
    fn new(allocator: &'a SlabAllocator, file: File) -> PageCache<'a> {
        let (frames, clock) = (HashMap::new(), VecDeque::new());
        PageCache { allocator, file, frames, clock, hits: 0, misses: 0, written_back: 0 }
    }

    /// The page, which stays in memory until it is unpinned as often as it was pinned.
    fn pin(&mut self, page: u64) -> Result<&mut SlabRef<'a>, Box<dyn Error>> {
        if self.frames.contains_key(&page) {
            self.hits += 1;
        } else {
            self.misses += 1;
            self.make_room(1)?;
            let slab = self.allocator.allocate()?;
            self.load(page, slab)?;
        }
        let frame = self.frames.get_mut(&page).ok_or("the page was just loaded")?;
        (frame.pins, frame.was_used) = (frame.pins + 1, true);
        Ok(&mut frame.bytes)
    }

    fn unpin(&mut self, page: u64, is_dirty: bool) {
        if let Some(frame) = self.frames.get_mut(&page) {
            frame.pins -= 1;
            frame.is_dirty |= is_dirty;
        }
    }

    /// Loads pages that will soon be asked for, with frames that are allocated in one call, all or none.
    fn read_ahead(&mut self, pages: std::ops::Range<u64>) -> Result<(), Box<dyn Error>> {
        let missing: Vec<u64> = pages.filter(|page| !self.frames.contains_key(page)).collect();
        self.make_room(missing.len())?;
        let slabs = self.allocator.allocate_batch(missing.len())?;
        self.misses += missing.len() as u64;
        missing.into_iter().zip(slabs).try_for_each(|(page, slab)| self.load(page, slab))
    }

    fn load(&mut self, page: u64, mut bytes: SlabRef<'a>) -> Result<(), Box<dyn Error>> {
        self.file.read_exact_at(&mut bytes, page * PAGE_BYTES)?;
        if bytes[..8] != page.to_le_bytes() {
            return Err(format!("page {page} is damaged").into());
        }
        self.frames.insert(page, Frame { bytes, pins: 0, is_dirty: false, was_used: true });
        self.clock.push_back(page);
        Ok(())
    }

    /// Gives pages up until so many frames are free: those that nobody has pinned, nor used since the last round.
    fn make_room(&mut self, frames: usize) -> Result<(), Box<dyn Error>> {
        let mut looks = 2 * self.clock.len(); // a round to find them all used, and one more
        while FRAMES as usize - self.frames.len() < frames {
            let page = self.clock.pop_front().filter(|_| looks > 0).ok_or("all pages are pinned")?;
            looks -= 1;
            let frame = self.frames.get_mut(&page).ok_or("the clock has what there is")?;
            if frame.pins > 0 || std::mem::take(&mut frame.was_used) {
                self.clock.push_back(page);
                continue;
            }
            if frame.is_dirty {
                self.file.write_all_at(&frame.bytes, page * PAGE_BYTES)?;
                self.written_back += 1;
            }
            self.frames.remove(&page); // the slab is free again
        }
        Ok(())
    }

    /// Writes back what is dirty, and gives all frames up.
    fn flush(&mut self) -> Result<(), Box<dyn Error>> {
        for (page, frame) in self.frames.drain().filter(|(_, frame)| frame.is_dirty) {
            self.file.write_all_at(&frame.bytes, page * PAGE_BYTES)?;
            self.written_back += 1;
        }
        self.clock.clear();
        Ok(())
    }

    fn tell(&self) -> String {
        let looks = (self.hits + self.misses).max(1);
        format!(
            "{} of {} pages in memory, {} looks, {:.1} % hits, {} pages written back",
            self.frames.len(),
            PAGES,
            looks,
            100.0 * self.hits as f64 / looks as f64,
            self.written_back
        )
    }
}
