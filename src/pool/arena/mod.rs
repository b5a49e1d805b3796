//! Arenas: groups of allocations that end together.
//!
//! An arena takes memory in chunks of whole pages and gives it out from their beginning to their end; what is freed of it
//! comes back when the arena ends, in one step however many members it has. Arenas lie in each other: what ends one ends
//! those in it.

mod attached;
mod content;
mod directory;
mod ending;
mod error;
mod fresh;
mod kept;
mod leaked;
mod learned;
mod leaving;
mod listing;
mod making;
mod members;
mod profile;
mod registry;
mod space;
mod tree;

pub use error::{ArenaAllocateError, ArenaError, RenewError};
pub use profile::Profile;

pub(super) use content::MemberUpload;
pub(super) use registry::Arenas;

use super::id::{AllocationId, ArenaId};
use super::tags::Tag;
use super::{Allocation, Cursor, Engine, Pool, Priority};
use crate::clock::Now;
use std::time::Duration;

/// What became of an arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ArenaState {
    /// It takes members.
    Open,
    /// It was ended by a commit.
    Committed,
    /// It was ended by a rollback, or with the arena that it lay in.
    RolledBack,
    /// Its lease ended it.
    Expired,
}

impl ArenaState {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            ArenaState::Open => "open",
            ArenaState::Committed => "committed",
            ArenaState::RolledBack => "rolled_back",
            ArenaState::Expired => "expired",
        }
    }
}

/// How large an arena is expected to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArenaSize {
    /// About so many bytes.
    Estimate(u64),
    /// As arenas of that profile.
    Profile(Profile),
    /// As most that carried its tag before.
    Learned,
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArenaRequest {
    /// How large it is expected to become.
    pub size: ArenaSize,
    /// The arena that it lies in.
    pub parent: Option<ArenaId>,
    /// What its members, and those of arenas in it, may use; at least 1. None: what its profile, or its estimate, says.
    pub limit_bytes: Option<u64>,
    /// How long it stays open if nobody ends it before; none: until somebody does.
    pub lease: Option<Duration>,
    /// Whose it will be; none: its parent's, if it has one.
    pub tag: Option<Tag>,
    /// How much it matters, where room is short.
    pub priority: Priority,
}

/// What is known of an arena.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arena {
    /// Its name.
    pub id: ArenaId,
    /// How large it is expected to become.
    pub profile: Profile,
    /// What its members, and those of arenas in it, may use.
    pub limit_bytes: u64,
    /// What they have used since it was made, or reset; none once it has ended.
    pub used_bytes: u64,
    /// Live members, its own.
    pub allocations: u64,
    /// The arena that it lies in.
    pub parent: Option<ArenaId>,
    /// What became of it.
    pub state: ArenaState,
    /// When it was made.
    pub created: Now,
    /// When it ends by itself, or with one that it lies in; none: it stays open until it is ended, or has ended.
    pub deadline: Option<Now>,
    /// Whose it is.
    pub tag: Option<Tag>,
}

/// What ending an arena, or a reset, freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArenaFreed {
    /// What it used, less what is kept.
    pub freed_bytes: u64,
    /// Members that ended, those of arenas in it included.
    pub freed_allocations: u64,
    /// What became of it.
    pub state: ArenaState,
}

/// What outlives an arena that is committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Nothing.
    Nothing,
    /// All its own members.
    All,
    /// These of its own members.
    These(Vec<AllocationId>),
}

/// One page of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArenaPage {
    /// Open arenas in creation order.
    pub arenas: Vec<Arena>,
    /// Where the next page starts; none after the last.
    pub next: Option<Cursor>,
}

/// Numbers of all arenas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ArenaStats {
    /// Open ones.
    pub active: u64,
    /// Ever made.
    pub created: u64,
    /// Ended by a commit.
    pub commits: u64,
    /// Ended by a rollback, or with the arena that they lay in.
    pub rollbacks: u64,
    /// Ended by their lease.
    pub expirations: u64,
    /// Times that one was reset.
    pub resets: u64,
    /// Bytes of the chunks of open ones, and of those of which something was kept.
    pub chunk_bytes: u64,
    /// What open ones use.
    pub used_bytes: u64,
    /// Live members, and what was kept.
    pub allocations: u64,
    /// Bytes that were asked for of these.
    pub requested_bytes: u64,
    /// Ever made, by [`Profile::number`].
    pub per_profile: [u64; Profile::ALL.len()],
    /// What was learned, by tag: of at most 64 tags.
    pub learned: Vec<(Option<Tag>, Profile)>,
    /// Bytes that blocks of their own would have taken beyond what members took, of all members ever made in chunks.
    pub fragmentation_avoided_bytes: u64,
}

impl Pool {
    /// Makes an arena, waiting for room for its first chunk up to `wait` where there is none.
    ///
    /// # Errors
    /// [`ArenaAllocateError`]; nothing was changed then.
    pub async fn create_arena(
        &self,
        request: &ArenaRequest,
        wait: Duration,
        now: Now,
    ) -> Result<Arena, ArenaAllocateError> {
        let Engine::Local(local) = &self.engine;
        let outcome = local.create_arena(request, wait, now).await;
        self.count_arena_refusal(outcome, now)
    }

    /// Counts what the pool refused of a request that came at `now`.
    fn count_arena_refusal<T>(
        &self,
        outcome: Result<T, ArenaAllocateError>,
        now: Now,
    ) -> Result<T, ArenaAllocateError> {
        outcome.map_err(|error| match error {
            ArenaAllocateError::Allocate(error) => self.refused(1, error, now).into(),
            other => other,
        })
    }

    /// Looks an arena up. One that has ended is known for a while.
    ///
    /// # Errors
    /// [`ArenaError::NotFound`].
    pub async fn arena(&self, id: ArenaId, now: Now) -> Result<Arena, ArenaError> {
        let Engine::Local(local) = &self.engine;
        local.arena(id, now)
    }

    /// Lists open arenas in creation order, from the beginning or after `cursor`, at most `limit` of them.
    pub async fn list_arenas(&self, cursor: Option<Cursor>, limit: usize, now: Now) -> ArenaPage {
        let Engine::Local(local) = &self.engine;
        local.list_arenas(cursor, limit, now)
    }

    /// Gives an arena a lease of that length from now on, whatever lease it had.
    ///
    /// # Errors
    /// [`ArenaError`] where it is not open.
    pub async fn renew_arena(&self, id: ArenaId, lease: Duration, now: Now) -> Result<Arena, ArenaError> {
        let Engine::Local(local) = &self.engine;
        local.renew_arena(id, now.after(lease), now)
    }

    /// Makes an allocation in an arena, waiting for room up to `wait` where there is none.
    ///
    /// # Errors
    /// [`ArenaAllocateError`]; nothing was changed then.
    pub async fn allocate_in_arena(
        &self,
        id: ArenaId,
        size_bytes: u64,
        priority: Priority,
        wait: Duration,
        now: Now,
    ) -> Result<Allocation, ArenaAllocateError> {
        let Engine::Local(local) = &self.engine;
        let outcome = local.allocate_in_arena(id, (size_bytes, priority), wait, now).await;
        self.count_arena_refusal(outcome, now)
    }

    /// Ends all members of an arena, and all arenas in it; it stays open.
    ///
    /// # Errors
    /// [`ArenaError`] where it is not open.
    pub async fn reset_arena(&self, id: ArenaId, now: Now) -> Result<ArenaFreed, ArenaError> {
        let Engine::Local(local) = &self.engine;
        local.reset_arena(id, now).await
    }

    /// Ends an arena with all its members, except for those that are kept, and all arenas in it.
    ///
    /// # Errors
    /// [`ArenaError`]; nothing was changed then.
    pub async fn commit_arena(&self, id: ArenaId, keep: &Keep, now: Now) -> Result<ArenaFreed, ArenaError> {
        let Engine::Local(local) = &self.engine;
        local.commit_arena(id, keep, now).await
    }

    /// Ends an arena with all its members, and all arenas in it.
    ///
    /// # Errors
    /// [`ArenaError`] where it is not open.
    pub async fn rollback_arena(&self, id: ArenaId, now: Now) -> Result<ArenaFreed, ArenaError> {
        let Engine::Local(local) = &self.engine;
        local.rollback_arena(id, now).await
    }

    /// The largest size that a request may ask for in an arena, where the pool has so many bytes free; none where even the
    /// smallest member needs more, or the arena has ended.
    pub fn largest_member_within(&self, id: ArenaId, free_bytes: u64, now: Now) -> Option<u64> {
        let Engine::Local(local) = &self.engine;
        let most = local.largest_within(u64::MAX).unwrap_or(0);
        let largest = local.with_open(id, now, |_, tree, number| tree.largest_member(number, free_bytes));
        largest.ok().map(|bytes| bytes.min(most)).filter(|bytes| *bytes > 0)
    }
}
