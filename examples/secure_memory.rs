//! What protects data: slabs are zeroed when they are given back, a write beyond a slab's end is found, and so is one to
//! a slab that was given back before.
//!
//! ```text
//! cargo run --no-default-features --example secure_memory
//! ```
//!
//! Safe Rust cannot write where it has no right to. So that there is something to find, this program writes its own
//! memory through `/proc/self/mem`, as a defect in foreign code would. Guard pages are on too, but not touched here: who
//! touches one is ended at once, with a line that says where.

use maas::slab::{SlabAllocator, SlabError};
use std::error::Error;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;

const SECRET: &[u8] = b"correct horse battery staple";
/// Not whole pages: behind each slab lies room that is the allocator's, which the bit guard looks at.
const SLAB_BYTES: u64 = 1000;

fn main() -> Result<(), Box<dyn Error>> {
    let plain = SlabAllocator::builder(SLAB_BYTES, 16).build()?;
    println!("plain: the next owner finds {}", what_the_next_owner_finds(&plain)?);
    let secure = SlabAllocator::max_security(SLAB_BYTES, 16).build()?;
    println!("secure: the next owner finds {}", what_the_next_owner_finds(&secure)?);

    let memory = ForeignCode::new()?;
    beyond_the_end(&secure, &memory)?;
    after_it_was_given_back(&secure, &memory)?;

    let stats = secure.stats();
    println!(
        "in all: {} stray writes found, {} slabs retired, {} of {} still to be had; guard pages {}",
        stats.guard_violations,
        stats.retired_slabs,
        stats.available_slabs,
        stats.total_slabs,
        if stats.guard_pages { "on" } else { "off" }
    );
    println!("in all: health score {:.2}", secure.health_check().health_score);
    Ok(())
}

/// Writes a secret, gives the slab back, and reads the same slab in its next owner's hands.
fn what_the_next_owner_finds(allocator: &SlabAllocator) -> Result<String, SlabError> {
    let mut slab = allocator.allocate()?;
    slab.part_mut(0..SECRET.len())?.copy_from_slice(SECRET);
    let id = slab.id();
    drop(slab);
    let next = allocator.allocate()?;
    assert_eq!(next.id(), id, "nothing else was allocated, so it is the same slab");
    let found = &next[..SECRET.len()];
    Ok(if found.iter().all(|byte| *byte == 0) {
        "zeros".to_owned()
    } else {
        format!("{:?}", String::from_utf8_lossy(found))
    })
}

/// A write beyond the end is found when the slab is given back: it is out of use from then on.
fn beyond_the_end(allocator: &SlabAllocator, memory: &ForeignCode) -> Result<(), Box<dyn Error>> {
    let mut slab = allocator.allocate()?;
    slab.fill(1);
    memory.write(slab.as_ptr_range().end.addr(), b"!")?;
    match allocator.deallocate(slab) {
        Err(error @ SlabError::Corrupted { .. }) => println!("beyond the end: {error}"),
        outcome => println!("beyond the end: not found: {outcome:?}"),
    }
    Ok(())
}

/// A write to a free slab is found before anybody else gets the slab.
fn after_it_was_given_back(allocator: &SlabAllocator, memory: &ForeignCode) -> Result<(), Box<dyn Error>> {
    let mut slab = allocator.allocate()?;
    slab.fill(1);
    let (id, address) = (slab.id(), slab.as_ptr().addr());
    drop(slab);
    memory.write(address, b"use after free")?;
    let next = allocator.allocate()?;
    let is_another = next.id() != id;
    let is_clean = next.iter().all(|byte| *byte == 0);
    println!(
        "after it was given back: the next owner gets another slab ({is_another}), all zeros ({is_clean})"
    );
    Ok(())
}

/// Writes to addresses of this process that it has no reference to.
struct ForeignCode(File);

impl ForeignCode {
    fn new() -> io::Result<ForeignCode> {
        OpenOptions::new().write(true).open("/proc/self/mem").map(ForeignCode)
    }

    fn write(&self, address: usize, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, address as u64)
    }
}
