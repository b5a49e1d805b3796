//! Advice at the door: hints are passed on piece by piece, so that no worker is busy with a large block for long; content
//! that is given up is zeros from one instant on, as after a write of nothing, with one version more.

use super::content::{Placement, Precondition, WriteError};
use super::id::AllocationId;
use super::local::Local;
use super::place::PlaceKind;
use super::{Engine, NotFound, Pool, Written};
use crate::clock::Now;
use crate::memory::{AccessError, Advice, AdviceOutcome};

/// Segments that are told the system in one slice, under the entry's lock: about 2 µs each, 0.1 ms.
const SLICE_SEGMENTS: usize = 64;
/// Bytes whose pages are made in one slice, under the entry's lock: 0.1 ms.
const SLICE_MADE_BYTES: u64 = 256 << 10;

/// Why an advice was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdviseError {
    /// There is no such allocation.
    #[error(transparent)]
    NotFound(#[from] NotFound),
    /// Pages are not merged here.
    #[error("the configuration does not allow pages to be merged")]
    MayNotMerge,
    /// The content cannot be given up: somebody reads it, and there is no room for another.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// What a slice of passing a hint on came to.
struct Told {
    outcome: AdviceOutcome,
    /// Where the next begins; none: it was the last.
    next: Option<u64>,
}

impl Pool {
    /// Takes an advice about a block: passes it on to the system, or gives the content up, and returns what was written
    /// then. The system need not know it: what became of it is counted.
    ///
    /// Content is given up whole or not at all, as one write more, which needs no memory where nobody reads; beside readers,
    /// who keep what they have, it needs as much as a write of all.
    ///
    /// # Errors
    /// [`AdviseError`] where the allocation is gone, the advice is not allowed here, or content that is read cannot be
    /// replaced; nothing was changed then.
    pub async fn advise(
        &self,
        id: AllocationId,
        advice: Advice,
        now: Now,
    ) -> Result<Option<Written>, AdviseError> {
        let Engine::Local(local) = &self.engine;
        if advice == Advice::Mergeable && !local.heap().may_merge() {
            local.get(id, now)?;
            return Err(AdviseError::MayNotMerge);
        }
        if advice.discards() {
            let written = match local.discard(id, now)? {
                Some(written) => written,
                None => self.write(id, Placement::Replace, &[], &Precondition::default(), now).await?,
            };
            local.heap().count_advice(advice, AdviceOutcome::Applied);
            return Ok(Some(written));
        }
        let mut told = local.tell(id, advice, 0, now)?;
        while let Some(next) = told.next {
            tokio::task::yield_now().await;
            // Where it ended meanwhile there is nothing left to be told.
            let Ok(more) = local.tell(id, advice, next, now) else { break };
            told = Told { outcome: told.outcome.max(more.outcome), ..more };
        }
        local.heap().count_advice(advice, told.outcome);
        Ok(None)
    }
}

impl Local {
    /// Makes content zeros in place, where nobody reads it, as one write more. None where that takes another version.
    fn discard(&self, id: AllocationId, now: Now) -> Result<Option<Written>, NotFound> {
        if id.is_member() {
            return Ok(None); // which is written in place, always
        }
        let (index, entry, record) = self.look_up(id, now)?;
        entry.touch(now);
        match record.place.kind() {
            PlaceKind::Slab(_) if entry.is_lent() => Ok(None),
            PlaceKind::Slab(location) => {
                let version = self.heap().writes(location) + 1;
                // The lock keeps new readers out; without old ones nobody can see the bytes change.
                match self.heap().discard(location, Some(version)) {
                    Ok(()) => Ok(Some(Written { version, whole: false })),
                    Err(AccessError::Shared) => Ok(None),
                    Err(error) => unreachable!("the segment of a live allocation: {error}"),
                }
            }
            PlaceKind::Object(number) => Ok(self.discard_object((index, record.key), entry, number)),
        }
    }

    /// Passes a slice of a hint on, of what lies from `from` on. The block keeps its place under the entry's lock.
    fn tell(&self, id: AllocationId, advice: Advice, from: u64, now: Now) -> Result<Told, NotFound> {
        if id.is_member() {
            self.get_member(id, now)?;
            return Ok(Told { outcome: AdviceOutcome::Nothing, next: None });
        }
        let (_, _entry, record) = self.look_up(id, now)?;
        let makes_pages = advice == Advice::WillNeed;
        let next_of = |end: u64, all: u64| (end < all).then_some(end);
        match record.place.kind() {
            PlaceKind::Slab(location) => {
                let all = self.heap().slab_bytes(location);
                let end = if makes_pages { all.min(from.saturating_add(SLICE_MADE_BYTES)) } else { all };
                let outcome = self.heap().advise(location, from..end, advice);
                Ok(Told { outcome, next: next_of(end, all) })
            }
            PlaceKind::Object(number) => {
                let bytes_max = if makes_pages { SLICE_MADE_BYTES } else { u64::MAX };
                let (parts, all) = self.objects().parts_from(number, from, bytes_max, SLICE_SEGMENTS);
                let mut told = Told { outcome: AdviceOutcome::Nothing, next: None };
                for part in parts {
                    told.outcome = told.outcome.max(self.heap().advise(part.location, part.within(), advice));
                    told.next = next_of(part.range.end, all);
                }
                Ok(told)
            }
        }
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests;
