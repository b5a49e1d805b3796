//! Large blocks against the system's own mappings and mimalloc; and what stays resident over a long random run, against
//! mimalloc and jemalloc. Rows of Markdown tables.
//!
//! `cargo bench --manifest-path benches/Cargo.toml --bench large [-- CASE] [--rounds N] [--short]`. The long run is 10^7
//! operations, each who is compared in a process of its own; `--short` makes it 10^6.

use fastrand::Rng;
use maas::memory::{Block, Config, Heap, page_size};
use maas_benches::contenders::{Blocks, JEMALLOC, MIMALLOC, Peer, SYSTEM, Touch};
use maas_benches::resident_bytes;
use maas_benches::rounds::{Contender, Outcome, digits};
use maas_benches::workloads::{SEED, heap};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use std::alloc::GlobalAlloc;
use std::f64::consts::TAU;
use std::hint::black_box;
use std::process::Command;
use std::ptr::null_mut;
use std::time::Instant;

/// Rounds, if nothing else is said; where one operation takes a good part of a second, a third of it.
const ROUNDS: usize = 15;
const LARGE: [(&str, usize); 2] = [("5MiB", 5 << 20), ("500MiB", 500 << 20)];

/// What the command line says.
struct Run {
    filter: String,
    rounds: usize,
    operations: u64,
}

/// A byte in each page.
fn touch_pages(bytes: &mut [u8]) {
    for page in bytes.chunks_mut(page_size() as usize) {
        page[0] = 1;
    }
}

fn ours<'a>(heap: &'a Heap, size: usize, is_touched: bool) -> Contender<'a> {
    Contender::new("Heap::block", move || {
        let mut block = heap.block(size as u64).expect("there is room");
        if is_touched {
            touch_pages(&mut block);
        }
        black_box(&block);
    })
}

fn mapping<'a>(size: usize, is_touched: bool) -> Contender<'a> {
    let access = ProtFlags::READ | ProtFlags::WRITE;
    Contender::new("mmap and munmap", move || {
        // SAFETY: a mapping of its own, wherever the system likes.
        let address = unsafe { mmap_anonymous(null_mut(), size, access, MapFlags::PRIVATE) };
        let address = address.expect("the system has memory");
        if is_touched {
            // SAFETY: so many bytes were just mapped, readable, writable and zero, and are ours alone.
            touch_pages(unsafe { std::slice::from_raw_parts_mut(address.cast(), size) });
        }
        // SAFETY: it was mapped above, and nothing refers to it any more.
        unsafe { munmap(black_box(address), size) }.expect("it was mapped");
    })
}

fn peer<'a, A: GlobalAlloc + Sync>(peer: &'a Peer<A>, size: usize, is_touched: bool) -> Contender<'a> {
    Contender::new(peer.name(), move || {
        let mut block = peer.allocate(size as u64);
        if is_touched {
            peer.touch_pages(&mut block, page_size() as usize);
        }
        peer.free(black_box(block));
    })
}

fn large(run: &Run) {
    println!("\n| case | ours, µs | peer | its µs | ours / peer (least–most) | ours / ours (least–most) |");
    println!("|---|---|---|---|---|---|");
    let heap = heap(1 << 30, &|_| {});
    for (name, size) in LARGE {
        for (how, is_touched) in [("untouched", false), ("each page touched", true)] {
            let case = format!("large/{name}/{how}");
            if !case.contains(&run.filter) {
                continue;
            }
            let mut contenders = [
                ours(&heap, size, is_touched),
                mapping(size, is_touched),
                peer(&MIMALLOC, size, is_touched),
                peer(&SYSTEM, size, is_touched),
            ];
            let is_long = is_touched && size > LARGE[0].1;
            let outcome =
                Outcome::of(&mut contenders, if is_long { run.rounds.div_ceil(3) } else { run.rounds });
            for (at, contender) in contenders.iter().enumerate().skip(1) {
                let us = |at| digits(outcome.ns(at).median / 1000.0);
                println!(
                    "| `{case}` | {} | {} | {} | {} | {} |",
                    us(0),
                    contender.name,
                    us(at),
                    outcome.ratio(0, at),
                    outcome.against_itself(),
                );
            }
        }
    }
}

/// Bytes that live at a time in the long run, and what one block has at least and at most.
const LIVE_BYTES: u64 = 200 << 20;
const BLOCK_BYTES: std::ops::RangeInclusive<u64> = 20..=64 << 10;
/// The median of the sizes drifts between these, there and back again so often.
const MEDIANS: (f64, f64) = (200.0, 6000.0);
const DRIFTS: f64 = 3.0;
/// Of the logarithm: of a hundred blocks of 1000 bytes in the median two have more than 13 KiB.
const SIGMA: f64 = 1.25;
/// Looks at what is resident.
const LOOKS: u64 = 200;
/// Blocks at most that live at a time, with room to spare.
const BLOCKS_MAX: usize = 1 << 21;

/// A size of the operation at that part of the run.
fn size(rng: &mut Rng, part: f64) -> u64 {
    let (low, high) = MEDIANS;
    let at = 0.5 - 0.5 * (part * DRIFTS * TAU).cos();
    let median = low * (high / low).powf(at);
    let normal = (-2.0 * (1.0 - rng.f64()).ln()).sqrt() * (TAU * rng.f64()).cos();
    let size = (median * (SIGMA * normal).exp()) as u64;
    size.clamp(*BLOCK_BYTES.start(), *BLOCK_BYTES.end())
}

/// What a heap says of its free runs of pages: how far they are from being one, how many large blocks found all of their
/// memory there, and how many that came back were joined with a free neighbour.
#[derive(Clone, Copy, Default)]
struct Runs {
    fragmentation: f64,
    hits: f64,
    coalesced: f64,
}

impl Runs {
    fn of(heap: &Heap) -> Runs {
        let large = heap.stats().large;
        Runs {
            fragmentation: large.fragmentation_ratio(),
            hits: large.free_list_hits as f64 / large.allocations.max(1) as f64,
            coalesced: large.coalesced_frees as f64 / large.frees.max(1) as f64,
        }
    }
}

/// What a run came to.
struct Drift {
    /// Resident over live bytes: at the end, in the mean of all looks, and at most, once the live set was full.
    end: f64,
    mean: f64,
    most: f64,
    ns: f64,
    /// Of our own heap: the fragmentation in the mean of all looks, the rest at the end.
    runs: Option<Runs>,
}

/// Allocates while too little lives, frees random blocks while too much does. All are written whole.
fn drift<B: Blocks>(blocks: &B, operations: u64, look: impl Fn() -> Option<Runs>) -> Drift {
    let mut rng = Rng::with_seed(SEED);
    // Our own list is in memory from the start, so that it is no part of what grows.
    let mut live: Vec<(Option<B::Block>, u32)> = Vec::with_capacity(BLOCKS_MAX);
    live.resize_with(BLOCKS_MAX, || (None, 1));
    live.clear();
    let before = resident_bytes();
    let (mut live_bytes, mut ratios, mut fragmentation, mut runs) = (0, Vec::new(), 0.0, None);
    let began = Instant::now();
    for operation in 0..operations {
        if live_bytes < LIVE_BYTES {
            let bytes = size(&mut rng, operation as f64 / operations as f64);
            let mut block = blocks.allocate(bytes);
            blocks.touch(&mut block, bytes, Touch::Written);
            live.push((Some(block), bytes as u32));
            live_bytes += bytes;
        } else {
            let (block, bytes) = live.swap_remove(rng.usize(..live.len()));
            blocks.free(block.expect("it lives"));
            live_bytes -= u64::from(bytes);
        }
        if operation % (operations / LOOKS) == operations / LOOKS - 1 {
            let looked = look();
            if live_bytes > LIVE_BYTES * 9 / 10 {
                runs = looked;
                fragmentation += looked.unwrap_or_default().fragmentation;
                ratios.push((resident_bytes() - before) / live_bytes as f64);
            }
        }
    }
    let ns = began.elapsed().as_nanos() as f64 / operations as f64;
    for (block, _) in live {
        blocks.free(block.expect("it lives"));
    }
    let end = *ratios.last().expect("the live set fills up");
    let mean = ratios.iter().sum::<f64>() / ratios.len() as f64;
    let runs = runs.map(|runs| Runs { fragmentation: fragmentation / ratios.len() as f64, ..runs });
    Drift { end, mean, most: ratios.into_iter().fold(0.0, f64::max), ns, runs }
}

/// Blocks of a heap as a program has them that embeds it.
struct OurBlocks(&'static Heap);

impl Blocks for OurBlocks {
    type Block = Block<'static>;

    fn name(&self) -> &'static str {
        "maas"
    }

    fn allocate(&self, size_bytes: u64) -> Block<'static> {
        self.0.block(size_bytes).expect("there is room")
    }

    fn touch(&self, block: &mut Block<'static>, _size_bytes: u64, _touch: Touch) {
        block.fill(7);
    }

    fn free(&self, block: Block<'static>) {
        drop(block);
    }
}

/// A heap whose classes end at 16 KiB: what is larger is runs of pages.
fn mixed_heap(slab_sizes: Vec<u64>) -> OurBlocks {
    let config = Config { slab_sizes, max_pool_size: 1 << 30, ..Config::default() };
    // For the whole process, which ends after the run.
    OurBlocks(Box::leak(Box::new(Heap::new(&config).expect("there is address space"))))
}

/// Four classes for each doubling, 32 bytes to 16 KiB.
fn fine_classes() -> Vec<u64> {
    let mut sizes: Vec<u64> =
        (5..14).flat_map(|power| (4..8).map(move |quarter| (quarter << power) / 4)).collect();
    sizes.push(16 << 10);
    sizes
}

/// What lay free in between goes back to the system, as a program does it every ten seconds or so.
fn trim(heap: &Heap) -> Option<Runs> {
    heap.end_idle_interval();
    while heap.reclaim_idle_slice() {}
    Some(Runs::of(heap))
}

type Resident = (&'static str, fn(u64) -> Drift);

const WHO: [Resident; 7] = [
    ("maas", |operations| {
        let blocks = mixed_heap(fine_classes());
        drift(&blocks, operations, || trim(blocks.0))
    }),
    ("maas, nothing given back", |operations| {
        let blocks = mixed_heap(fine_classes());
        drift(&blocks, operations, || Some(Runs::of(blocks.0)))
    }),
    ("maas, classes that double", |operations| {
        let blocks = mixed_heap((5..=14).map(|power| 1 << power).collect());
        drift(&blocks, operations, || trim(blocks.0))
    }),
    ("maas, all of it classes", |operations| {
        let mut sizes = fine_classes();
        sizes.extend([20, 24, 28, 32, 40, 48, 56, 64].map(|kibibytes| kibibytes << 10));
        let blocks = mixed_heap(sizes);
        drift(&blocks, operations, || trim(blocks.0))
    }),
    ("mimalloc", |operations| drift(&MIMALLOC, operations, || None)),
    ("jemalloc", |operations| drift(&JEMALLOC, operations, || None)),
    ("system", |operations| drift(&SYSTEM, operations, || None)),
];

fn residents(run: &Run) {
    let case = "large/drift";
    if !case.contains(&run.filter) {
        return;
    }
    let this = std::env::current_exe().expect("Linux knows");
    println!(
        "\n| case | operations | who | resident / live, mean | at the end | at most | ns an operation | free runs: fragmentation | found their memory there | joined when freed |\n|---|---|---|---|---|---|---|---|---|---|"
    );
    for (name, _) in WHO {
        let operations = run.operations.to_string();
        let output = Command::new(&this).args(["--in-this-process", name, &operations]).output();
        let output = output.expect("it ran before");
        let text = String::from_utf8(output.stdout).expect("it prints a row");
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        println!("| `{case}` | {operations} | {name} | {} |", text.trim());
    }
}

fn main() {
    let mut run = Run { filter: String::new(), rounds: ROUNDS, operations: 10_000_000 };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--bench" => {} // cargo says so to every bench
            "--short" => run.operations = 1_000_000,
            "--rounds" => {
                let rounds = arguments.next().and_then(|rounds| rounds.parse().ok());
                run.rounds = rounds.filter(|rounds| *rounds > 0).expect("--rounds takes a number above 0");
            }
            "--in-this-process" => {
                let wanted = arguments.next().expect("a name follows");
                let operations = arguments.next().and_then(|operations| operations.parse().ok());
                let (_, measure) =
                    WHO.iter().find(|(name, _)| *name == wanted).expect("one of our own names");
                let Drift { end, mean, most, ns, runs } = measure(operations.expect("a number follows"));
                let percent = |part: f64| format!("{:.0} %", part * 100.0);
                let runs = runs.map_or(["", "", ""].map(str::to_owned), |runs| {
                    [format!("{:.2}", runs.fragmentation), percent(runs.hits), percent(runs.coalesced)]
                });
                return println!("{mean:.3} | {end:.3} | {most:.3} | {} | {}", digits(ns), runs.join(" | "));
            }
            _ => run.filter = argument,
        }
    }
    large(&run);
    residents(&run);
}
