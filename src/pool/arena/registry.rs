//! What is known of all arenas: where each is, in what order they were made, which lease ends next, and what ended lately.
//!
//! Locks are taken in this order: a family's, the index, a cell or the directory. Nobody takes a family's lock who holds
//! an entry's, a slot's, or the index.

use super::directory::{Directory, RUN_MEMBERS, RUNS_MAX};
use super::kept::Kept;
use super::learned::Learned;
use super::leaving::Left;
use super::members::{Member, Run};
use super::tree::{Family, Node};
use super::{Arena, ArenaState, ArenaStats, Profile};
use crate::clock::Now;
use crate::memory::page_size;
use crate::pool::id::ArenaId;
use parking_lot::{Mutex, MutexGuard};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Arenas open at once, at most.
pub(super) const ARENAS_MAX: u32 = 16_384;
/// Numbers of arenas there are: of those that are open, and of those that left at least one run of members.
const NUMBERS_MAX: u32 = ARENAS_MAX + RUNS_MAX;
/// Cells that are made at a time.
const CHUNK_CELLS: u32 = 1024;
/// How long it is known how an arena ended, and of how many at most.
const ENDED_KEPT: Duration = Duration::from_secs(600);
const ENDED_MAX: usize = 65_536;

/// Where the arena of a number is, and for whoever lists when its members were made. The times are written under its
/// family's lock and read without: whoever lists finds what was made before.
#[derive(Debug)]
struct Cell {
    family: Mutex<Option<Arc<Family>>>,
    /// No member was made before this, and none after that; some of them may have ended.
    first_created: AtomicU64,
    last_created: AtomicU64,
}

impl Default for Cell {
    fn default() -> Cell {
        let (first_created, last_created) = (AtomicU64::new(u64::MAX), AtomicU64::new(0));
        Cell { family: Mutex::default(), first_created, last_created }
    }
}

/// See the module.
#[derive(Debug)]
pub(in crate::pool) struct Arenas {
    cells: Box<[OnceLock<Box<[Cell]>>]>,
    pub(super) directory: Directory,
    index: Mutex<Index>,
    pub(super) totals: Totals,
    /// What arenas had that have ended, left by those who ended them.
    pub(super) leaving: Mutex<Left>,
}

/// What changes with every member. Only counts: nobody decides by them.
#[derive(Debug, Default)]
pub(super) struct Totals {
    pub(super) live: AtomicU64,
    pub(super) live_bytes: AtomicU64,
    pub(super) requested_bytes: AtomicU64,
    /// Of these, those with blocks of their own.
    pub(super) attached: AtomicU64,
    pub(super) used_bytes: AtomicU64,
    pub(super) chunk_bytes: AtomicU64,
    pub(super) avoided_bytes: AtomicU64,
    /// What members and chunks cost beside their bytes.
    pub(super) record_bytes: AtomicU64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// Numbers that were used and are free, and the first that was never used.
    free: Vec<u32>,
    fresh: u32,
    last_created: u64,
    /// Open ones by (creation, number).
    pub(super) open: BTreeSet<(u64, u32)>,
    /// (Deadline, number) of open ones.
    pub(super) leases: BTreeSet<(u64, u32)>,
    pub(super) kept: Kept,
    pub(super) learned: Learned,
    ended: HashMap<ArenaId, Arena>,
    /// When, and which: in the order in which they ended.
    ended_order: VecDeque<(Now, ArenaId)>,
    pub(super) counts: Counts,
}

/// How often what happened.
#[derive(Debug, Default)]
pub(super) struct Counts {
    commits: u64,
    rollbacks: u64,
    expirations: u64,
    pub(super) resets: u64,
    created: [u64; Profile::ALL.len()],
}

impl Default for Arenas {
    fn default() -> Arenas {
        Arenas {
            cells: (0..NUMBERS_MAX.div_ceil(CHUNK_CELLS)).map(|_| OnceLock::new()).collect(),
            directory: Directory::default(),
            index: Mutex::default(),
            totals: Totals::default(),
            leaving: Mutex::default(),
        }
    }
}

impl Arenas {
    /// What all of this costs at most in a pool of that size, without members, of which each has an entry of the table.
    pub(in crate::pool) fn metadata_bytes_max(pool_bytes: u64) -> u64 {
        // One that is open has a page at least, and so has one of which something was kept.
        let most = u64::from(NUMBERS_MAX).min(pool_bytes / page_size());
        let of_arena = size_of::<Cell>() + size_of::<(u32, Node)>() + size_of::<Family>();
        let of_run = size_of::<Run>() + RUN_MEMBERS as usize * size_of::<Member>();
        let ended = 2 * ENDED_MAX * size_of::<(ArenaId, Arena, Now)>();
        // The last run of one that is open may have more room than members.
        let runs = most.min(u64::from(ARENAS_MAX)) * of_run as u64;
        Directory::BYTES_MAX + most * of_arena as u64 + runs + ended as u64 + Learned::BYTES_MAX
    }

    fn cell(&self, number: u32) -> Option<&Cell> {
        let cells = self.cells.get((number / CHUNK_CELLS) as usize)?.get()?;
        Some(&cells[(number % CHUNK_CELLS) as usize])
    }

    /// The family of the arena that has that number, or had it a moment ago.
    pub(super) fn family(&self, number: u32) -> Option<Arc<Family>> {
        self.cell(number)?.family.lock().clone()
    }

    /// A member was made then in the arena of that number, later than all before. Under its family's lock.
    pub(super) fn note_member(&self, number: u32, created: u64) {
        let cell = self.cell(number).expect("it was placed");
        if cell.last_created.load(Ordering::Relaxed) == 0 {
            cell.first_created.store(created, Ordering::Relaxed);
        }
        cell.last_created.store(created, Ordering::Relaxed);
    }

    /// When the first and the last member of the arena of that number were made; none where none was.
    pub(super) fn members_span(&self, number: u32) -> Option<(u64, u64)> {
        let cell = self.cell(number)?;
        let last = cell.last_created.load(Ordering::Relaxed);
        (last != 0).then(|| (cell.first_created.load(Ordering::Relaxed), last))
    }

    pub(super) fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock()
    }

    /// From now on the arena of that number, which is free, is in that family.
    pub(super) fn place(&self, number: u32, family: &Arc<Family>) {
        let cells = self.cells[(number / CHUNK_CELLS) as usize]
            .get_or_init(|| (0..CHUNK_CELLS).map(|_| Cell::default()).collect());
        let cell = &cells[(number % CHUNK_CELLS) as usize];
        cell.first_created.store(u64::MAX, Ordering::Relaxed);
        cell.last_created.store(0, Ordering::Relaxed);
        *cell.family.lock() = Some(Arc::clone(family));
    }

    /// Nothing is left of the arena of that number. Under its family's lock, so that nobody enters one there meanwhile.
    pub(super) fn vacate(&self, index: &mut Index, number: u32) {
        *self.cell(number).expect("it was placed").family.lock() = None;
        index.free.push(number);
    }

    /// Bytes of all records about arenas and their members.
    pub(in crate::pool) fn metadata_bytes(&self) -> u64 {
        let cells = self.cells.iter().filter(|cells| cells.get().is_some()).count();
        let index = self.index();
        let placed = index.fresh as usize - index.free.len();
        let lists = index.free.capacity() * size_of::<u32>()
            + cells * CHUNK_CELLS as usize * size_of::<Cell>()
            + self.cells.len() * size_of::<OnceLock<Box<[Cell]>>>()
            + placed * (size_of::<(u32, Node)>() + size_of::<Family>())
            + (index.open.len() + index.leases.len() + index.kept.len()) * size_of::<(u64, u32)>()
            + index.ended.capacity() * size_of::<(ArenaId, Arena)>()
            + index.ended_order.capacity() * size_of::<(Now, ArenaId)>();
        let records = self.totals.record_bytes.load(Ordering::Relaxed);
        records + lists as u64 + self.directory.metadata_bytes() + index.learned.metadata_bytes()
    }

    /// Live members in chunks, what they take, and what was asked for.
    pub(in crate::pool) fn live(&self) -> (u64, u64, u64) {
        let of = |total: &AtomicU64| total.load(Ordering::Relaxed);
        (of(&self.totals.live), of(&self.totals.live_bytes), of(&self.totals.requested_bytes))
    }

    pub(in crate::pool) fn stats(&self) -> ArenaStats {
        let of = |total: &AtomicU64| total.load(Ordering::Relaxed);
        let totals = &self.totals;
        let index = self.index();
        let counts = &index.counts;
        ArenaStats {
            active: index.open.len() as u64,
            created: counts.created.iter().sum(),
            commits: counts.commits,
            rollbacks: counts.rollbacks,
            expirations: counts.expirations,
            resets: counts.resets,
            chunk_bytes: of(&totals.chunk_bytes),
            used_bytes: of(&totals.used_bytes),
            allocations: of(&totals.live) + of(&totals.attached),
            requested_bytes: of(&totals.requested_bytes),
            per_profile: counts.created,
            learned: index.learned.stats(),
            fragmentation_avoided_bytes: of(&totals.avoided_bytes),
        }
    }
}

#[cfg(all(test, not(feature = "loom")))]
impl Arenas {
    /// Asserts that nothing is left of any arena but what is known of those that ended.
    pub(in crate::pool) fn check_empty(&self) {
        let index = self.index();
        assert!(index.open.is_empty() && index.leases.is_empty() && index.kept.len() == 0);
        assert_eq!(index.free.len(), index.fresh as usize, "a number is lost");
        assert!((0..index.fresh).all(|number| self.family(number).is_none()));
        assert_eq!(self.totals.record_bytes.load(Ordering::Relaxed), 0);
        assert_eq!(self.totals.attached.load(Ordering::Relaxed), 0);
        assert!(self.leaving.lock().is_empty());
        self.directory.check_empty();
    }
}

impl Index {
    /// A number and a creation time for an arena made at `now`; none where as many are open as can be.
    pub(super) fn enter(&mut self, profile: Profile, deadline: Option<Now>, now: Now) -> Option<(u32, Now)> {
        if self.open.len() >= ARENAS_MAX as usize {
            return None;
        }
        let number = self.free.pop().unwrap_or_else(|| {
            self.fresh += 1;
            self.fresh - 1
        });
        self.last_created = now.0.max(self.last_created + 1);
        self.open.insert((self.last_created, number));
        if let Some(deadline) = deadline {
            self.leases.insert((deadline.0, number));
        }
        self.counts.created[profile.number()] += 1;
        Some((number, Now(self.last_created)))
    }

    /// An open arena ended, as it is described.
    pub(super) fn close(&mut self, number: u32, ended: Arena, used_bytes_peak: u64, now: Now) {
        self.open.remove(&(ended.created.0, number));
        if let Some(deadline) = ended.deadline {
            self.leases.remove(&(deadline.0, number));
        }
        match ended.state {
            ArenaState::Open => unreachable!("it has ended"),
            ArenaState::Committed => self.counts.commits += 1,
            ArenaState::RolledBack => self.counts.rollbacks += 1,
            ArenaState::Expired => self.counts.expirations += 1,
        }
        self.learned.note(ended.tag.as_ref(), used_bytes_peak);
        self.forget_ended(now);
        self.ended_order.push_back((now, ended.id));
        self.ended.insert(ended.id, Arena { deadline: None, ..ended });
    }

    /// Forgets what ended too long ago, and the first of more than can be known.
    fn forget_ended(&mut self, now: Now) {
        while let Some((ended, id)) = self.ended_order.front()
            && (self.ended_order.len() >= ENDED_MAX || now.since(*ended) >= ENDED_KEPT)
        {
            self.ended.remove(id);
            self.ended_order.pop_front();
        }
    }

    /// An arena that ended lately.
    pub(super) fn ended(&mut self, id: ArenaId, now: Now) -> Option<&Arena> {
        self.forget_ended(now);
        self.ended.get(&id)
    }

    /// The number of an arena whose lease is over.
    pub(super) fn due(&self, now: Now) -> Option<u32> {
        self.leases.first().filter(|(deadline, _)| *deadline <= now.0).map(|(_, number)| *number)
    }
}
