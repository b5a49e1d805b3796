//! Arenas against bumpalo, against allocators that free each block by itself, and against blocks of our own heap. Rows of
//! Markdown tables.
//!
//! `cargo bench --manifest-path benches/Cargo.toml --bench arenas [-- CASE] [--rounds N]`. A *transaction* is so many pieces
//! that are allocated and then end together; both halves are timed by themselves.

use bumpalo::Bump;
use maas::memory::{Arena, ArenaConfig, Block, Config, Heap};
use maas_benches::contenders::{Blocks, JEMALLOC, MIMALLOC, Peer, SYSTEM, Touch};
use maas_benches::rounds::{Spread, digits};
use maas_benches::workloads::{SEED, heap};
use std::alloc::{GlobalAlloc, Layout};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Rounds, if nothing else is said.
const ROUNDS: usize = 15;
/// A contender works at least so long in each round.
const SLICE: Duration = Duration::from_millis(10);
/// Pieces of a transaction where it is about the time of one piece.
const PIECES: usize = 1000;
/// Bytes of a piece where it is about the end of many.
const PIECE_BYTES: usize = 100;
/// Transactions whose memory is looked at, in bytes: what the source of the claims has.
const TRANSACTIONS: [(&str, u64, &str); 3] =
    [("10 KB", 10_000, "20 %"), ("500 KB", 500_000, "5 %"), ("5 MB", 5_000_000, "3 %")];

/// How long one transaction took: all its pieces, and its end.
struct Took {
    allocate: Duration,
    end: Duration,
}

/// Times one transaction: `allocate` makes something that `end` ends.
#[inline(always)]
fn timed<T>(allocate: impl FnOnce() -> T, end: impl FnOnce(T)) -> Took {
    let began = Instant::now();
    let made = allocate();
    let between = Instant::now();
    end(made);
    Took { allocate: between - began, end: between.elapsed() }
}

/// Somebody who does transactions.
struct Contender<'a> {
    name: &'static str,
    transact: Box<dyn FnMut() -> Took + 'a>,
    /// Nanoseconds of each round's median transaction: to allocate, to end.
    rounds: Vec<(f64, f64)>,
}

impl<'a> Contender<'a> {
    fn new(name: &'static str, transact: impl FnMut() -> Took + 'a) -> Contender<'a> {
        Contender { name, transact: Box::new(transact), rounds: Vec::new() }
    }

    /// One round: the median of its transactions, which a thread that is put aside for a while does not move.
    fn round(&mut self) {
        (self.transact)(); // untimed: caches are its own again
        let began = Instant::now();
        let (mut allocate, mut end) = (Vec::new(), Vec::new());
        while began.elapsed() < SLICE || allocate.len() < 3 {
            let took = (self.transact)();
            allocate.push(took.allocate.as_nanos() as f64);
            end.push(took.end.as_nanos() as f64);
        }
        self.rounds.push((Spread::of(allocate).median, Spread::of(end).median));
    }

    fn allocate(&self) -> impl Iterator<Item = f64> {
        self.rounds.iter().map(|round| round.0)
    }

    fn end(&self) -> impl Iterator<Item = f64> {
        self.rounds.iter().map(|round| round.1)
    }
}

/// Lets all work by turns, the order rotating; the first stands at the end once more, as its own measure.
fn alternate(contenders: &mut [Contender<'_>], rounds: usize) {
    let others = contenders.len() - 1;
    for round in 0..rounds {
        contenders[0].round();
        for step in 0..others {
            contenders[1 + (round + step) % others].round();
        }
    }
}

fn ratio(ours: impl Iterator<Item = f64>, theirs: impl Iterator<Item = f64>) -> Spread {
    Spread::of(ours.zip(theirs).map(|(ours, theirs)| ours / theirs))
}

/// A transaction in an arena that is made for it.
fn ours<'a>(name: &'static str, heap: &'a Heap, pieces: usize, size: usize) -> Contender<'a> {
    let estimate = (pieces * size.next_multiple_of(16)) as u64;
    Contender::new(name, move || {
        let begin = || heap.arena(ArenaConfig { initial_bytes: estimate, limit_bytes: u64::MAX });
        let allocate = || {
            let arena = begin().expect("there is room");
            allocate_all(&arena, pieces, size);
            arena
        };
        timed(allocate, |arena| _ = black_box(arena).commit())
    })
}

#[inline(always)]
fn allocate_all(arena: &Arena<'_>, pieces: usize, size: usize) {
    for _ in 0..pieces {
        black_box(arena.allocate(black_box(size)).expect("there is room"));
    }
}

/// The same in one arena that is reset each time.
fn ours_reset<'a>(name: &'static str, heap: &'a Heap, pieces: usize, size: usize) -> Contender<'a> {
    let estimate = (pieces * size.next_multiple_of(16)) as u64;
    let config = ArenaConfig { initial_bytes: estimate, limit_bytes: u64::MAX };
    let mut arena = heap.arena(config).expect("there is room");
    Contender::new(name, move || {
        let began = Instant::now();
        allocate_all(&arena, pieces, size);
        let between = Instant::now();
        black_box(arena.reset());
        Took { allocate: between - began, end: between.elapsed() }
    })
}

/// The same in a child of an arena: a savepoint.
fn ours_nested<'a>(name: &'static str, heap: &'a Heap, pieces: usize, size: usize) -> Contender<'a> {
    let estimate = (pieces * size.next_multiple_of(16)) as u64;
    let config = ArenaConfig { initial_bytes: estimate, limit_bytes: u64::MAX };
    let parent = heap.arena(ArenaConfig::default()).expect("there is room");
    Contender::new(name, move || {
        let allocate = || {
            let child = parent.child(config).expect("there is room");
            for _ in 0..pieces {
                black_box(child.allocate(black_box(size)).expect("there is room"));
            }
            child
        };
        timed(allocate, |child| _ = black_box(child).rollback())
    })
}

/// bumpalo, whose pieces are not zeroed unless that is asked for, with as much memory at its beginning as we have.
fn bumpalo<'a>(
    name: &'static str,
    pieces: usize,
    size: usize,
    is_zeroed: bool,
    is_new: bool,
) -> Contender<'a> {
    let layout = Layout::from_size_align(size, 16).expect("small");
    let capacity = pieces * size.next_multiple_of(16);
    let allocate_all = move |bump: &Bump| {
        for _ in 0..pieces {
            let piece = bump.alloc_layout(black_box(layout));
            if is_zeroed {
                // SAFETY: the piece is as long as the layout says, and ours alone.
                unsafe { piece.write_bytes(0, size) };
            }
            black_box(piece);
        }
    };
    let mut kept = Bump::with_capacity(capacity);
    Contender::new(name, move || {
        if is_new {
            let allocate = || {
                let bump = Bump::with_capacity(capacity);
                allocate_all(&bump);
                bump
            };
            return timed(allocate, |bump| drop(black_box(bump)));
        }
        let began = Instant::now();
        allocate_all(&kept);
        let between = Instant::now();
        black_box(&mut kept).reset();
        Took { allocate: between - began, end: between.elapsed() }
    })
}

/// Each piece a block of an allocator, freed by itself, in the order in which they were made.
fn peer<'a, A: GlobalAlloc + Sync>(
    peer: &'a Peer<A>,
    pieces: usize,
    size: usize,
    is_zeroed: bool,
) -> Contender<'a> {
    let mut made = Vec::with_capacity(pieces);
    let name = peer.name();
    Contender::new(if is_zeroed { "mimalloc, zeroed" } else { name }, move || {
        let began = Instant::now();
        for _ in 0..pieces {
            let mut block = peer.allocate(black_box(size as u64));
            if is_zeroed {
                peer.touch(&mut block, size as u64, Touch::Written);
            }
            made.push(block);
        }
        let between = Instant::now();
        for block in made.drain(..) {
            peer.free(block);
        }
        Took { allocate: between - began, end: between.elapsed() }
    })
}

/// Each piece a block of our heap, freed by itself.
fn blocks<'a>(heap: &'a Heap, pieces: usize, size: usize) -> Contender<'a> {
    let mut made: Vec<Block<'a>> = Vec::with_capacity(pieces);
    Contender::new("Heap::block", move || {
        let began = Instant::now();
        made.extend((0..pieces).map(|_| heap.block(black_box(size as u64)).expect("there is room")));
        let between = Instant::now();
        made.clear();
        Took { allocate: between - began, end: between.elapsed() }
    })
}

/// What the command line says.
struct Run {
    filter: String,
    rounds: usize,
}

/// Times of one piece, its part of the end included or not.
fn pieces(run: &Run) {
    let heap = heap(1 << 30, &|_| {});
    println!(
        "\n| case | ours | ns to allocate | ns to end | peer | ns to allocate | ns to end | ours / peer, to allocate (least–most) | ours / peer, both |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for size in [16, 100, 1000] {
        let case = format!("arena/piece/{size}B");
        if !case.contains(&run.filter) {
            continue;
        }
        let mut contenders = [
            ours("arena", &heap, PIECES, size),
            ours_reset("arena, reset", &heap, PIECES, size),
            ours_nested("child of an arena", &heap, PIECES, size),
            bumpalo("bumpalo", PIECES, size, false, true),
            bumpalo("bumpalo, reset", PIECES, size, false, false),
            bumpalo("bumpalo, zeroed", PIECES, size, true, true),
            peer(&MIMALLOC, PIECES, size, false),
            peer(&MIMALLOC, PIECES, size, true),
            peer(&JEMALLOC, PIECES, size, false),
            peer(&SYSTEM, PIECES, size, false),
            blocks(&heap, PIECES, size),
        ];
        alternate(&mut contenders, run.rounds);
        let (ours, peers) = contenders.split_first().expect("there are some");
        let each = |spread: Spread| digits(spread.median / PIECES as f64);
        for peer in peers {
            let both =
                |who: &Contender<'_>| who.rounds.iter().map(|round| round.0 + round.1).collect::<Vec<_>>();
            println!(
                "| `{case}` | {} | {} | {} | {} | {} | {} | {} | {} |",
                ours.name,
                each(Spread::of(ours.allocate())),
                each(Spread::of(ours.end())),
                peer.name,
                each(Spread::of(peer.allocate())),
                each(Spread::of(peer.end())),
                ratio(ours.allocate(), peer.allocate()),
                ratio(both(ours).into_iter(), both(peer).into_iter()),
            );
        }
    }
}

/// Times of one end.
fn ends(run: &Run) {
    let heap = heap(1 << 30, &|_| {});
    println!(
        "\n| case | arena rolled back, µs | arena reset, µs | mimalloc, each freed, µs | Heap::block, each freed, µs | rolled back / mimalloc (least–most) | rolled back / blocks (least–most) |"
    );
    println!("|---|---|---|---|---|---|---|");
    for (name, pieces) in
        [("10^2", 100), ("10^3", 1000), ("10^4", 10_000), ("10^5", 100_000), ("10^6", 1_000_000)]
    {
        let case = format!("arena/end/{name}");
        if !case.contains(&run.filter) {
            continue;
        }
        let mut contenders = [
            ours("arena", &heap, pieces, PIECE_BYTES),
            ours_reset("arena, reset", &heap, pieces, PIECE_BYTES),
            peer(&MIMALLOC, pieces, PIECE_BYTES, false),
            blocks(&heap, pieces, PIECE_BYTES),
        ];
        alternate(&mut contenders, run.rounds);
        let [ours, reset, mimalloc, blocks] = &contenders;
        let us = |who: &Contender<'_>| digits(Spread::of(who.end()).median / 1000.0);
        println!(
            "| `{case}` | {} | {} | {} | {} | {} | {} |",
            us(ours),
            us(reset),
            us(mimalloc),
            us(blocks),
            ratio(ours.end(), mimalloc.end()),
            ratio(ours.end(), blocks.end()),
        );
    }
}

/// What an arena takes beyond what was asked of it, in per cent of that.
fn overhead(
    heap: &Heap,
    transaction_bytes: u64,
    initial_bytes: u64,
    size: impl Fn(&mut fastrand::Rng) -> usize,
) -> f64 {
    let arena = heap.arena(ArenaConfig { initial_bytes, limit_bytes: u64::MAX }).expect("there is room");
    let mut rng = fastrand::Rng::with_seed(SEED);
    let mut asked = 0;
    while asked < transaction_bytes {
        let size = size(&mut rng).min((transaction_bytes - asked) as usize);
        arena.allocate(size).expect("there is room");
        asked += size as u64;
    }
    (arena.chunk_bytes() as f64 / asked as f64 - 1.0) * 100.0
}

fn overheads(run: &Run) {
    let case = "arena/overhead";
    if !case.contains(&run.filter) {
        return;
    }
    let heap = Heap::new(&Config::default()).expect("there is address space");
    // Locks, headers, versions and rows, as in the bench of the library.
    let objects =
        |rng: &mut fastrand::Rng| rng.choice([64, 128, 192, 256, 512, 1024]).expect("there are some");
    println!(
        "\n| case | transaction | its claim | pieces | with an estimate | an estimate of half | begun with a page |"
    );
    println!("|---|---|---|---|---|---|---|");
    for (name, bytes, claim) in TRANSACTIONS {
        let row = |pieces: &str, size: &dyn Fn(&mut fastrand::Rng) -> usize| {
            let percent = |initial| format!("{:.1} %", overhead(&heap, bytes, initial, size));
            println!(
                "| `{case}` | {name} | {claim} | {pieces} | {} | {} | {} |",
                percent(bytes),
                percent(bytes / 2),
                percent(4096)
            );
        };
        row("100 bytes each", &|_| PIECE_BYTES);
        row("64 to 1024 bytes", &objects);
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
            _ => run.filter = argument,
        }
    }
    pieces(&run);
    ends(&run);
    overheads(&run);
}
