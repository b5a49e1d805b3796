//! The directory: from the number of a member to the arena that has it.
//!
//! Numbers are given out in runs of 64. What stands here of a run is where to look, and may be out of date: whoever looks
//! compares the member's key under the arena's lock.

use parking_lot::Mutex;
use std::sync::OnceLock;

/// Members of a run.
pub(super) const RUN_MEMBERS: u32 = 64;
/// Runs there can be: an id has 24 bits for the number of a member.
pub(super) const RUNS_MAX: u32 = (1 << crate::pool::id::INDEX_BITS) / RUN_MEMBERS;
/// Runs in a chunk of the directory.
const CHUNK_RUNS: u32 = 1024;
/// End of the list of free runs.
const NO_RUN: u32 = u32::MAX;

/// Where a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RunPlace {
    /// The number of the arena that has it.
    pub(super) arena: u32,
    /// When its first member was made: its key among the runs of the arena.
    pub(super) first_created: u64,
}

/// What stands for a run.
#[derive(Clone, Copy, Debug)]
enum Word {
    At(RunPlace),
    /// Nobody has it; the next free one.
    Free(u32),
}

/// Made when the first of its runs is.
type Chunk = OnceLock<Box<[Mutex<Word>]>>;

/// See the module.
#[derive(Debug)]
pub(super) struct Directory {
    chunks: Box<[Chunk]>,
    free: Mutex<FreeRuns>,
}

#[derive(Debug)]
struct FreeRuns {
    /// First of those that were used before.
    first: u32,
    /// Runs from here on were never used.
    fresh: u32,
}

impl Default for Directory {
    fn default() -> Directory {
        Directory {
            chunks: (0..RUNS_MAX / CHUNK_RUNS).map(|_| OnceLock::new()).collect(),
            free: Mutex::new(FreeRuns { first: NO_RUN, fresh: 0 }),
        }
    }
}

impl Directory {
    /// What the directory costs at most.
    pub(super) const BYTES_MAX: u64 = RUNS_MAX as u64 * size_of::<Mutex<Word>>() as u64
        + (RUNS_MAX / CHUNK_RUNS) as u64 * size_of::<Chunk>() as u64;

    fn word(&self, run: u32) -> Option<&Mutex<Word>> {
        let chunk = self.chunks.get((run / CHUNK_RUNS) as usize)?.get()?;
        Some(&chunk[(run % CHUNK_RUNS) as usize])
    }

    /// The number of a run that lies there from now on; none where all are in use.
    pub(super) fn enter(&self, place: RunPlace) -> Option<u32> {
        let mut free = self.free.lock();
        let run = match free.first {
            NO_RUN if free.fresh == RUNS_MAX => return None,
            NO_RUN => {
                let run = free.fresh;
                free.fresh += 1;
                self.chunks[(run / CHUNK_RUNS) as usize]
                    .get_or_init(|| (0..CHUNK_RUNS).map(|_| Mutex::new(Word::Free(NO_RUN))).collect());
                run
            }
            run => run,
        };
        let mut word = self.word(run).expect("it was made").lock();
        if let Word::Free(next) = *word
            && free.first == run
        {
            free.first = next;
        }
        *word = Word::At(place);
        Some(run)
    }

    /// Nobody has these runs any more.
    pub(super) fn leave(&self, runs: impl Iterator<Item = u32>) {
        let mut free = self.free.lock();
        for run in runs {
            *self.word(run).expect("it was entered").lock() = Word::Free(free.first);
            free.first = run;
        }
    }

    /// Where to look for a run.
    pub(super) fn find(&self, run: u32) -> Option<RunPlace> {
        match *self.word(run)?.lock() {
            Word::At(place) => Some(place),
            Word::Free(_) => None,
        }
    }

    /// Bytes of what was made so far.
    pub(super) fn metadata_bytes(&self) -> u64 {
        let chunks = self.chunks.iter().filter(|chunk| chunk.get().is_some()).count();
        let bytes =
            chunks * CHUNK_RUNS as usize * size_of::<Mutex<Word>>() + self.chunks.len() * size_of::<Chunk>();
        bytes as u64
    }
}

#[cfg(all(test, not(feature = "loom")))]
impl Directory {
    /// Asserts that nobody has a run.
    pub(super) fn check_empty(&self) {
        let fresh = self.free.lock().fresh;
        assert!((0..fresh).all(|run| self.find(run).is_none()));
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;

    #[test]
    fn every_run_is_given_out_once_and_again_when_it_was_left() {
        let directory = Directory::default();
        let place = |at: u32| RunPlace { arena: at, first_created: u64::from(at) };
        for at in 0..RUNS_MAX {
            assert_eq!(directory.enter(place(at)), Some(at));
        }
        assert_eq!(directory.enter(place(0)), None);
        assert_eq!(directory.find(RUNS_MAX - 1), Some(place(RUNS_MAX - 1)));
        directory.leave([7, 9].into_iter());
        assert_eq!((directory.find(7), directory.find(9), directory.find(8)), (None, None, Some(place(8))));
        assert_eq!([place(1); 3].map(|place| directory.enter(place)), [Some(9), Some(7), None]);
        assert!(directory.metadata_bytes() <= Directory::BYTES_MAX);
    }
}
