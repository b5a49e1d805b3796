//! The library against the allocators that a Rust program has anyway: one slab of one size, and the objects of a database.
//! Rows of Markdown tables.
//!
//! `cargo bench --manifest-path benches/Cargo.toml --bench library [-- CASE] [--rounds N]`. What is resident is measured in a
//! process of its own for each who is compared.

use fastrand::Rng;
use maas::memory::{Block, Config, Heap};
use maas::slab::{SlabAllocator, SlabRef};
use maas_benches::contenders::{Blocks, JEMALLOC, MIMALLOC, SYSTEM, Touch};
use maas_benches::resident_bytes;
use maas_benches::rounds::{Contender, Outcome, Spread, digits};
use maas_benches::workloads::SEED;
use std::hint::black_box;
use std::process::Command;
use std::sync::Arc;

/// Rounds, if nothing else is said.
const ROUNDS: usize = 15;

/// What a database keeps in memory, and how many of a hundred are such: locks, page headers, versions of rows, transactions,
/// rows of three sizes, and nodes of indices of three.
const OBJECTS: [(u64, u32); 9] =
    [(64, 25), (128, 10), (192, 15), (256, 15), (384, 5), (512, 12), (1024, 10), (2048, 4), (4096, 4)];
/// Objects that live at a time where they are replaced.
const LIVE: usize = 10_000;
/// Objects of which is looked at how much is resident.
const RESIDENT: usize = 1_000_000;

/// Sizes as they come: each by its share.
fn sizes(rng: &mut Rng) -> u64 {
    let mut at = rng.u32(..100);
    for (size, share) in OBJECTS {
        if at < share {
            return size;
        }
        at -= share;
    }
    unreachable!("the shares are a hundred together")
}

/// A heap with classes of just these sizes, as the profile `database` has them.
fn database_heap() -> Heap {
    heap_of(OBJECTS.iter().map(|(size, _)| *size).collect())
}

fn heap_of(slab_sizes: Vec<u64>) -> Heap {
    let config = Config { slab_sizes, max_pool_size: 2 << 30, ..Config::default() };
    Heap::new(&config).expect("there is address space")
}

/// Blocks of a heap: what a program writes that embeds it.
struct OurBlocks {
    name: &'static str,
    heap: Arc<Heap>,
}

impl Blocks for OurBlocks {
    type Block = Block<'static>;

    fn name(&self) -> &'static str {
        self.name
    }

    fn allocate(&self, size_bytes: u64) -> Block<'static> {
        self.heap.shared_block(size_bytes).expect("there is room")
    }

    fn touch(&self, block: &mut Block<'static>, size_bytes: u64, touch: Touch) {
        if touch != Touch::Unwritten {
            block[..usize::try_from(size_bytes).expect("it is small")].fill(7);
        }
    }

    fn free(&self, block: Block<'static>) {
        drop(block);
    }
}

/// What the command line says.
struct Run {
    filter: String,
    rounds: usize,
}

fn rows(run: &Run, case: &str, contenders: &mut [Contender<'_>]) {
    if !case.contains(&run.filter) {
        return;
    }
    let outcome = Outcome::of(contenders, run.rounds);
    for peer in 1..contenders.len() {
        println!(
            "| `{case}` | {} | {} | {} | {} | {} | {} |",
            contenders[0].name,
            digits(outcome.ns(0).median),
            contenders[peer].name,
            digits(outcome.ns(peer).median),
            outcome.ratio(0, peer),
            outcome.against_itself(),
        );
    }
}

/// A slab is allocated and given back: with `write`, its first bytes are written between.
fn pair<'a>(name: &str, allocator: &'a SlabAllocator, touch: Touch) -> Contender<'a> {
    Contender::new(name, move || {
        let mut slab = allocator.allocate().expect("there is room");
        match touch {
            Touch::Unwritten => {}
            Touch::Written => slab.fill(7),
            // What a header takes: the rest of the slab stays as it is, and costs no zeroing.
            Touch::Copied => slab.part_mut(0..64).expect("it is valid").fill(7),
        }
        black_box(&slab);
    })
}

fn of_a_peer<'a, B: Blocks>(blocks: &'a B, size_bytes: u64, touch: Touch) -> Contender<'a> {
    let written = if touch == Touch::Copied { 64 } else { size_bytes };
    let touch = if touch == Touch::Copied { Touch::Written } else { touch };
    Contender::new(blocks.name(), move || {
        let mut block = blocks.allocate(size_bytes);
        blocks.touch(&mut block, written, touch);
        blocks.free(black_box(block));
    })
}

fn pairs(run: &Run) {
    println!(
        "\n| case | ours | its ns | peer | its ns | ours / peer (least–most) | ours / ours (least–most) |"
    );
    println!("|---|---|---|---|---|---|---|");
    for (name, size) in [("64B", 64), ("4KiB", 4096), ("64KiB", 65_536)] {
        let build = |builder: maas::slab::Builder| builder.build().expect("there is address space");
        let plain = build(SlabAllocator::builder(size, 1000));
        let watched = build(SlabAllocator::builder(size, 1000).health_checks(true));
        let balanced = build(SlabAllocator::balanced_security(size, 1000));
        for (how, touch) in
            [("unwritten", Touch::Unwritten), ("64 written", Touch::Copied), ("written", Touch::Written)]
        {
            let mut contenders = vec![
                pair("SlabAllocator", &plain, touch),
                pair("with health checks", &watched, touch),
                pair("balanced_security", &balanced, touch),
                of_a_peer(&SYSTEM, size, touch),
                of_a_peer(&MIMALLOC, size, touch),
                of_a_peer(&JEMALLOC, size, touch),
            ];
            rows(run, &format!("library/pair/{name}/{how}"), &mut contenders);
        }
    }
}

/// So many are allocated, held, and given back: each half by itself.
fn halves(run: &Run) {
    const HELD: usize = 64;
    let case = "library/held/4KiB";
    if !case.contains(&run.filter) {
        return;
    }
    let allocator = SlabAllocator::builder(4096, 1000).build().expect("there is address space");
    let mut held: Vec<SlabRef<'_>> = Vec::with_capacity(HELD);
    let (mut allocated, mut freed) = (Vec::new(), Vec::new());
    for _ in 0..run.rounds * 1000 {
        let began = std::time::Instant::now();
        held.extend((0..HELD).map(|_| allocator.allocate().expect("there is room")));
        let between = std::time::Instant::now();
        held.clear();
        freed.push(between.elapsed().as_nanos() as f64 / HELD as f64);
        allocated.push((between - began).as_nanos() as f64 / HELD as f64);
    }
    let stats = allocator.stats();
    let part = |part: Vec<f64>| digits(Spread::of(part).median);
    let hits = stats.magazine_hits as f64 / stats.total_allocations as f64 * 100.0;
    println!(
        "\n| case | ns to allocate, median | ns to give back, median | served by the magazine |\n|---|---|---|---|"
    );
    println!("| `{case}`, {HELD} at a time | {} | {} | {hits:.1} % |", part(allocated), part(freed));
}

/// Replaces random objects of a database by others.
struct Replaced<'a, B: Blocks> {
    blocks: &'a B,
    live: Vec<Option<(B::Block, u64)>>,
    rng: Rng,
}

impl<'a, B: Blocks> Replaced<'a, B> {
    fn new(blocks: &'a B, live: usize) -> Replaced<'a, B> {
        let mut rng = Rng::with_seed(SEED);
        let live = (0..live)
            .map(|_| {
                let size = sizes(&mut rng);
                Some((blocks.allocate(size), size))
            })
            .collect();
        Replaced { blocks, live, rng }
    }

    fn replace(&mut self) {
        let victim = self.rng.usize(..self.live.len());
        let (block, _) = self.live[victim].take().expect("it lives");
        self.blocks.free(block);
        let size = sizes(&mut self.rng);
        let mut block = self.blocks.allocate(size);
        self.blocks.touch(&mut block, size, Touch::Unwritten);
        self.live[victim] = Some((block, size));
    }
}

impl<B: Blocks> Drop for Replaced<'_, B> {
    fn drop(&mut self) {
        for (block, _) in self.live.drain(..).flatten() {
            self.blocks.free(block);
        }
    }
}

fn database(run: &Run) {
    let case = "library/database/replace";
    if !case.contains(&run.filter) {
        return;
    }
    println!(
        "\n| case | ours | its ns | peer | its ns | ours / peer (least–most) | ours / ours (least–most) |"
    );
    println!("|---|---|---|---|---|---|---|");
    let ours = OurBlocks { name: "Heap, classes of the profile", heap: Arc::new(database_heap()) };
    {
        let (mut own, mut system) = (Replaced::new(&ours, LIVE), Replaced::new(&SYSTEM, LIVE));
        let (mut mimalloc, mut jemalloc) = (Replaced::new(&MIMALLOC, LIVE), Replaced::new(&JEMALLOC, LIVE));
        let mut contenders = [
            Contender::new(ours.name, || own.replace()),
            Contender::new("system", || system.replace()),
            Contender::new("mimalloc", || mimalloc.replace()),
            Contender::new("jemalloc", || jemalloc.replace()),
        ];
        rows(run, case, &mut contenders);
    }
    let paths = ours.heap.stats().paths;
    let all = paths.magazine + paths.shared + paths.fresh + paths.reclaim;
    let part = |part: u64| part as f64 / all as f64 * 100.0;
    println!(
        "\nOf {all} allocations the magazines served {:.1} %, batches and free slabs that threads share {:.1} %, fresh memory {:.2} %.",
        part(paths.magazine),
        part(paths.shared),
        part(paths.fresh)
    );
}

/// What is resident beyond what was asked for, in per cent of that: all objects written whole.
fn overhead<B: Blocks>(blocks: &B) -> f64 {
    let mut rng = Rng::with_seed(SEED);
    let mut live: Vec<B::Block> = Vec::with_capacity(RESIDENT);
    // What a program has to remember of a block is no matter of its allocator here.
    let place = size_of::<B::Block>();
    let before = resident_bytes();
    let mut asked = 0;
    for _ in 0..RESIDENT {
        let size = sizes(&mut rng);
        let mut block = blocks.allocate(size);
        blocks.touch(&mut block, size, Touch::Written);
        asked += size;
        live.push(block);
    }
    let resident = resident_bytes() - before - (RESIDENT * place) as f64;
    for block in live {
        blocks.free(block);
    }
    (resident / asked as f64 - 1.0) * 100.0
}

/// Who is compared by what is resident.
type Resident = (&'static str, fn() -> f64);

const WHO: [Resident; 5] = [
    ("maas", || overhead(&OurBlocks { name: "maas", heap: Arc::new(database_heap()) })),
    ("maas, classes that double", || {
        let heap = heap_of((6..=12).map(|power| 1 << power).collect());
        overhead(&OurBlocks { name: "maas", heap: Arc::new(heap) })
    }),
    ("system", || overhead(&SYSTEM)),
    ("mimalloc", || overhead(&MIMALLOC)),
    ("jemalloc", || overhead(&JEMALLOC)),
];

fn residents(run: &Run) {
    let case = "library/database/resident";
    if !case.contains(&run.filter) {
        return;
    }
    let this = std::env::current_exe().expect("Linux knows");
    println!("\n| case | who | resident beyond what was asked for | ours less than its |\n|---|---|---|---|");
    let mut ours = 0.0;
    for (name, _) in WHO {
        let output = Command::new(&this).args(["--in-this-process", name]).output().expect("it ran before");
        let text = String::from_utf8(output.stdout).expect("it prints a number");
        let percent: f64 = text.trim().parse().expect("it prints a number");
        if name == "maas" {
            ours = percent;
            println!("| `{case}` | {name} | {percent:.1} % | |");
        } else {
            println!("| `{case}` | {name} | {percent:.1} % | {:.0} % |", (1.0 - ours / percent) * 100.0);
        }
    }
}

fn main() {
    let mut run = Run { filter: String::new(), rounds: ROUNDS };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--bench" => {} // cargo says so to every bench
            "--rounds" => {
                let rounds = arguments.next().and_then(|rounds| rounds.parse().ok());
                run.rounds = rounds.filter(|rounds| *rounds > 0).expect("--rounds takes a number above 0");
            }
            "--in-this-process" => {
                let wanted = arguments.next().expect("a name follows");
                let (_, measure) =
                    WHO.iter().find(|(name, _)| *name == wanted).expect("one of our own names");
                return println!("{}", measure());
            }
            _ => run.filter = argument,
        }
    }
    pairs(&run);
    halves(&run);
    database(&run);
    residents(&run);
}
