//! Mixes of sizes that drift, through the door: every grant and every refusal is held against a twin that adds up what
//! is in use of the memory, of a budget and of the table.
//!
//! What a request takes must be refused if, and only if, one of them has no room for it. An allocation whose lease is
//! over is in nobody's way, whether it was ended or not; a version that a reader holds is, also when its allocation was
//! freed, ended or written anew. `MAAS_DRIFT_OPERATIONS` makes it longer.

use super::place::PlaceKind;
use super::*;
use std::cell::Cell;
use std::rc::Rc;

const LIMIT: u64 = 4_000_000;
/// The classes, and blocks of pages that none of them holds.
const SIZES: [u64; 7] = [1024, 3000, 16_384, 100_000, 400_000, 100 * 4096, 300 * 4096];
const CLASSES: usize = 5;
/// Binds while small blocks prevail.
const ENTRIES: u32 = 700;
/// Of the first two tags; the third may have all.
const BUDGETS: [u64; 3] = [1_500_000, 200_000, u64::MAX];
const TAGS: [&str; 3] = ["cache", "queue", "other"];
const MS: u64 = 1_000_000;

fn operations() -> u64 {
    let given = std::env::var("MAAS_DRIFT_OPERATIONS").ok().and_then(|operations| operations.parse().ok());
    given.unwrap_or(if cfg!(debug_assertions) { 200_000 } else { 1_000_000 })
}

/// Memory of one segment; in use while a version has it.
struct Piece {
    bytes: u64,
    in_use: Rc<Cell<u64>>,
}

impl Piece {
    fn new(bytes: u64, in_use: &Rc<Cell<u64>>) -> Rc<Piece> {
        in_use.set(in_use.get() + bytes);
        Rc::new(Piece { bytes, in_use: Rc::clone(in_use) })
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.in_use.set(self.in_use.get() - self.bytes);
    }
}

/// One version of an allocation's content, segment by segment. There while it is the current one, or has readers.
struct Version {
    pieces: Vec<Rc<Piece>>,
}

impl Version {
    /// With segments of these lengths; those behind the first `replaced_bytes` are shared with the version before.
    fn new(lengths: &[u64], before: Option<(&Version, u64)>, in_use: &Rc<Cell<u64>>) -> Rc<Version> {
        let (mut pieces, mut start) = (Vec::new(), 0);
        for bytes in lengths {
            let shared = before.filter(|(_, replaced_bytes)| start >= *replaced_bytes);
            let shared = shared.map(|(before, _)| before.piece_at(start));
            pieces.push(shared.unwrap_or_else(|| Piece::new(*bytes, in_use)));
            start += bytes;
        }
        Rc::new(Version { pieces })
    }

    fn piece_at(&self, start: u64) -> Rc<Piece> {
        let mut end = 0;
        let begins = |piece: &&Rc<Piece>| {
            end += piece.bytes;
            end - piece.bytes == start
        };
        Rc::clone(self.pieces.iter().find(begins).expect("what is shared begins where it did"))
    }
}

/// A live allocation.
struct Block {
    id: AllocationId,
    deadline: Option<Now>,
    tag: Option<usize>,
    is_written: bool,
    bytes: u64,
    version: Rc<Version>,
}

/// The pool and what the twin knows of it.
struct Walk {
    pool: Pool,
    random: fastrand::Rng,
    now: Now,
    live: Vec<Block>,
    readers: Vec<(Content, Rc<Version>)>,
    in_use: Rc<Cell<u64>>,
    tagged: [u64; TAGS.len()],
    centre: usize,
    granted: u64,
    refused_by: [u64; 3],
}

const MEMORY: usize = 0;
const BUDGET: usize = 1;
const TABLE: usize = 2;

impl Walk {
    fn new() -> Walk {
        let tags = TAGS[..2].iter().map(|tag| tag.parse().expect("a tag"));
        let config = Config {
            max_allocations: Some(ENTRIES),
            budgets: tags.zip(BUDGETS).collect(),
            ..Config::default()
        };
        Walk {
            pool: pool(LIMIT, &SIZES[..CLASSES], &config),
            random: fastrand::Rng::with_seed(4),
            now: Now(12_345_678),
            live: Vec::new(),
            readers: Vec::new(),
            in_use: Rc::default(),
            tagged: [0; TAGS.len()],
            centre: 0,
            granted: 0,
            refused_by: [0; 3],
        }
    }

    fn class_bytes(&mut self) -> u64 {
        let at = if self.random.u8(..64) == 0 {
            self.random.usize(..SIZES.len())
        } else {
            (self.centre + self.random.usize(..3)).saturating_sub(1).min(SIZES.len() - 1)
        };
        SIZES[at]
    }

    fn allocate(&mut self) {
        let blocks = if self.random.u8(..4) == 0 { self.random.usize(1..6) } else { 1 };
        let mut wanted: Vec<(AllocateRequest, u64, Option<usize>)> = Vec::new();
        for _ in 0..blocks {
            let bytes = self.class_bytes();
            let tag = self.random.bool().then(|| self.random.usize(..TAGS.len()));
            let lease = self.random.bool().then(|| Duration::from_nanos(self.random.u64(1..400 * MS)));
            let size_bytes = bytes - self.random.u64(..100);
            wanted.push((
                AllocateRequest { lease, ..request(size_bytes, tag.map(|tag| TAGS[tag])) },
                bytes,
                tag,
            ));
        }
        let requests: Vec<AllocateRequest> = wanted.iter().map(|(request, ..)| request.clone()).collect();
        let bytes: u64 = wanted.iter().map(|(_, bytes, _)| bytes).sum();
        let mut of_tags = [0; TAGS.len()];
        wanted.iter().for_each(|(_, bytes, tag)| {
            if let Some(tag) = tag {
                of_tags[*tag] += bytes
            }
        });
        let in_budget = |tag: usize| of_tags[tag] == 0 || self.tagged[tag] + of_tags[tag] <= BUDGETS[tag];
        let fits = [
            self.in_use.get() + bytes <= LIMIT,
            (0..TAGS.len()).all(in_budget),
            self.live.len() + blocks <= ENTRIES as usize,
        ];
        let is_deposit = blocks == 1 && self.random.u8(..4) == 0;
        let is_dropped = is_deposit && self.random.bool();
        let outcome = match requests.as_slice() {
            [one] if is_deposit => {
                at_once(self.pool.deposit(one, Duration::ZERO, self.now)).and_then(|mut deposit| {
                    deposit.push(&[7]).expect("a byte fits");
                    if is_dropped { Ok(Vec::new()) } else { deposit.commit(self.now).map(|made| vec![made]) }
                })
            }
            [one] => at_once(self.pool.allocate(one, Duration::ZERO, self.now)).map(|made| vec![made]),
            all => at_once(self.pool.allocate_batch(all, Duration::ZERO, self.now)),
        };
        let refused_by = match outcome {
            Ok(made) => {
                assert_eq!(
                    fits,
                    [true; 3],
                    "it was granted {bytes} bytes beside {} and {of_tags:?} beside {:?}",
                    self.in_use.get(),
                    self.tagged
                );
                self.granted += 1;
                for (made, (_, bytes, tag)) in made.into_iter().zip(wanted) {
                    assert_eq!(made.actual_size_bytes, bytes);
                    self.begin(&made, tag, is_deposit);
                }
                return;
            }
            Err(AllocateError::Memory(memory::AllocateError::Exhausted {
                requested_bytes,
                in_use_bytes,
                ..
            })) => {
                assert_eq!(
                    (requested_bytes, in_use_bytes),
                    (bytes, self.in_use.get()),
                    "the refusal says why"
                );
                MEMORY
            }
            Err(AllocateError::TooLargeTogether { .. }) => {
                assert!(bytes > LIMIT);
                MEMORY
            }
            Err(AllocateError::Budget { .. }) => BUDGET,
            Err(AllocateError::TableFull { .. }) => TABLE,
            Err(error) => panic!("nothing else can be wrong: {error}"),
        };
        assert!(!fits[refused_by], "{refused_by} has room: {bytes} bytes beside {}", self.in_use.get());
        self.refused_by[refused_by] += 1;
    }

    fn begin(&mut self, made: &Allocation, tag: Option<usize>, is_written: bool) {
        let bytes = made.actual_size_bytes;
        let version = Version::new(&self.lengths(made.id), None, &self.in_use);
        if let Some(tag) = tag {
            self.tagged[tag] += bytes;
        }
        self.live.push(Block { id: made.id, deadline: made.deadline, tag, is_written, bytes, version });
    }

    /// Lengths of the segments of an allocation's content.
    fn lengths(&self, id: AllocationId) -> Vec<u64> {
        let Engine::Local(local) = &self.pool.engine;
        let (_, _entry, record) = local.look_up(id, self.now).expect("it is live");
        match record.place.kind() {
            PlaceKind::Slab(location) => vec![local.heap().slab_bytes(location)],
            PlaceKind::Object(number) => local.objects().segment_lengths(number),
        }
    }

    /// An allocation has ended in whatever way.
    fn ended(&mut self, at: usize) {
        let block = self.live.swap_remove(at);
        if let Some(tag) = block.tag {
            self.tagged[tag] -= block.bytes;
        }
    }

    fn random_block(&mut self) -> Option<usize> {
        (!self.live.is_empty()).then(|| self.random.usize(..self.live.len()))
    }

    fn free(&mut self) {
        let Some(at) = self.random_block() else { return };
        assert_eq!(at_once(self.pool.free(self.live[at].id, self.now)), Ok(()));
        self.ended(at);
    }

    fn renew(&mut self) {
        let Some(at) = self.random_block() else { return };
        let lease = Duration::from_nanos(self.random.u64(1..400 * MS));
        let renewed = at_once(self.pool.renew(self.live[at].id, lease, self.now)).expect("it is live");
        self.live[at].deadline = renewed.deadline;
    }

    fn read(&mut self) {
        let Some(at) = self.random_block() else { return };
        let block = &self.live[at];
        // What was never written holds nothing when it is read.
        if block.is_written && self.readers.len() < 60 {
            let content = at_once(self.pool.read(block.id, self.now)).expect("it is live");
            self.readers.push((content, Rc::clone(&block.version)));
        }
    }

    fn end_read(&mut self) {
        if self.readers.is_empty() {
            return;
        }
        drop(self.readers.swap_remove(self.random.usize(..self.readers.len())));
    }

    /// Writes a few bytes: in place, or beside a reader as a new version, which takes room.
    fn write(&mut self) {
        let Some(at) = self.random_block() else { return };
        let block = &self.live[at];
        let lengths = self.lengths(block.id);
        let bytes = lengths[0];
        let first = &block.version.pieces[0];
        let takes_room = Rc::strong_count(&block.version) > 1 || Rc::strong_count(first) > 1;
        let body = [Bytes::from_static(b"drift")];
        let (placement, always) = (Placement::Patch { offset: 100 }, Precondition::default());
        // Below the door, which would wait for room by the real clock, and so come to a later time.
        let Engine::Local(local) = &self.pool.engine;
        let outcome = at_once(local.write(block.id, placement, &body, &always, None, self.now));
        match outcome {
            Ok(_) if takes_room => {
                assert!(self.in_use.get() + bytes <= LIMIT);
                let before = Some((&*block.version, bytes));
                self.live[at].version = Version::new(&self.lengths(block.id), before, &self.in_use);
            }
            Ok(_) => self.live[at].is_written = true,
            Err(WriteError::NoRoom(_)) => {
                let in_use = self.in_use.get();
                assert!(takes_room && in_use + bytes > LIMIT, "there is room beside {in_use}");
                self.refused_by[MEMORY] += 1;
            }
            Err(error) => panic!("nothing else can be wrong: {error}"),
        }
    }

    fn pass(&mut self) {
        self.now = Now(self.now.0 + self.random.u64(..20 * MS));
        for at in (0..self.live.len()).rev() {
            if self.live[at].deadline.is_some_and(|deadline| deadline <= self.now) {
                self.ended(at);
            }
        }
        if self.random.u8(..4) == 0 {
            while self.pool.expire(self.now).more {}
        }
    }

    /// Ends what is due, and looks whether pool and twin agree about all of it.
    fn check(&self) {
        let Engine::Local(local) = &self.pool.engine;
        while local.reap_due(self.now) > 0 {}
        check_quiet(&self.pool);
        let stats = at_once(self.pool.stats());
        let live_bytes: u64 = self.live.iter().map(|block| block.bytes).sum();
        assert_eq!((stats.active_allocations, stats.allocated_bytes), (self.live.len() as u64, live_bytes));
        assert_eq!(
            (stats.heap.in_use_bytes, stats.heap.draining_bytes),
            (self.in_use.get(), self.in_use.get() - live_bytes)
        );
        for (tag, bytes) in TAGS.iter().zip(self.tagged) {
            let seen = stats.tags.iter().find(|stats| stats.tag.as_str() == *tag);
            assert_eq!(seen.map_or(0, |stats| stats.allocated_bytes), bytes, "{tag}");
        }
    }

    fn step(&mut self, operation: u64) {
        if operation.is_multiple_of(2000) {
            self.centre = self.random.usize(..SIZES.len());
        }
        match self.random.u8(..64) {
            0..34 => self.allocate(),
            34..50 => self.free(),
            50 | 51 => self.renew(),
            52..56 => self.write(),
            56..59 => self.read(),
            59..62 => self.end_read(),
            _ => self.pass(),
        }
    }
}

#[test]
fn mixes_that_drift_with_leases_tags_and_readers_are_refused_only_when_there_is_no_room() {
    let mut walk = Walk::new();
    let all = operations();
    for operation in 0..all {
        walk.step(operation);
        if operation % 5000 == 0 {
            walk.check();
        }
    }
    assert!(walk.granted > all / 20, "{} were granted", walk.granted);
    // A short walk may meet too few mixes for all three to bind.
    let all_bind = walk.refused_by.iter().all(|refused| *refused > all / 2000);
    assert!(all < 100_000 || all_bind, "refused: {:?}", walk.refused_by);
    while !walk.live.is_empty() {
        walk.free();
    }
    while !walk.readers.is_empty() {
        walk.end_read();
    }
    assert_eq!((walk.in_use.get(), walk.tagged), (0, [0; TAGS.len()]), "the twin itself");
    walk.check();
}
