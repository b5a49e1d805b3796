//! How arenas are made, and allocations in them.
//!
//! What takes time is done outside of the family's lock: chunks are claimed and backed first, as any request is, and then
//! put into the arena if it is still open. Dropped on the way, they are given back.

use super::directory::RunPlace;
use super::fresh::{ChunkClaim, EntryClaim, Fresh, TagHold};
use super::members::{Member, Members, actual_bytes};
use super::registry::ARENAS_MAX;
use super::space::Space;
use super::tree::{DEPTH_MAX, Family, Node, Standing, Tree, whole_pages};
use super::{Arena, ArenaAllocateError, ArenaError, ArenaRequest, ArenaSize, ArenaState, Profile};
use crate::clock::Now;
use crate::memory;
use crate::pool::id::{ArenaId, Key};
use crate::pool::local::Local;
use crate::pool::object::free_backed;
use crate::pool::plan::{ClaimError, Plan};
use crate::pool::queue::Need;
use crate::pool::tags::{TAGS_MAX, TagNumber};
use crate::pool::turns::Claimed;
use crate::pool::{AllocateError, AllocateRequest, Allocation, Priority, Unavailable};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The largest member that goes into chunks. Larger ones get blocks of their own.
pub(super) const MEMBER_BYTES_MAX: u64 = 16 << 10;

/// What came of an attempt to make a member.
enum Step<'a> {
    Made(Allocation),
    /// The table's budget has to be asked exactly.
    NeedsEntry,
    NeedsChunk {
        least_bytes: u64,
        wish_bytes: u64,
        hold: Option<TagHold<'a>>,
    },
}

/// What a new arena is to be.
struct Draft {
    profile: Profile,
    initial_bytes: u64,
    limit_bytes: u64,
}

impl Local {
    /// Does something with an open arena, under its family's lock. One whose lease is over is ended on the way.
    pub(super) fn with_open<T>(
        &self,
        id: ArenaId,
        now: Now,
        act: impl FnOnce(&Arc<Family>, &mut Tree, u32) -> T,
    ) -> Result<T, ArenaError> {
        let (number, key) = id.decode().ok_or(ArenaError::NotFound(id))?;
        while let Some(family) = self.arenas().family(number) {
            let mut tree = family.lock();
            match tree.standing(number, key, now) {
                Standing::Open => return Ok(act(&family, &mut tree, number)),
                Standing::Gone => break,
                Standing::Over(over) => {
                    drop(tree);
                    self.end_over(over, now); // and look again: it may just have been renewed
                }
            }
        }
        let ended = self.arenas().index().ended(id, now).map(|arena| arena.state);
        Err(ended.map_or(ArenaError::NotFound(id), |state| ArenaError::Ended { id, state }))
    }

    /// What an open arena is.
    pub(super) fn describe_arena(&self, tree: &Tree, number: u32) -> Arena {
        let node = &tree.nodes[&number];
        Arena {
            id: tree.id(number),
            profile: node.profile,
            limit_bytes: node.limit_bytes,
            used_bytes: node.used_bytes,
            allocations: node.live(),
            parent: node.parent.map(|parent| tree.id(parent)),
            state: ArenaState::Open,
            created: node.created,
            deadline: tree.deadline(number),
            tag: node.tag.and_then(|tag| self.tags().name(tag)),
        }
    }

    /// Keeps the number of a tag that is in use.
    fn hold_tag(&self, tag: TagNumber) -> TagHold<'_> {
        self.tags().begin_another_block(tag);
        TagHold::new(self, tag)
    }

    pub(in crate::pool) async fn create_arena(
        &self,
        request: &ArenaRequest,
        wait: Duration,
        now: Now,
    ) -> Result<Arena, ArenaAllocateError> {
        if self.is_closed() {
            return Err(AllocateError::from(Unavailable).into());
        }
        let hold = match (&request.tag, request.parent) {
            (Some(tag), parent) => {
                if let Some(parent) = parent {
                    self.with_open(parent, now, |_, tree, number| check_depth(tree, number))??;
                }
                let full = AllocateError::TagsFull { tags_max: TAGS_MAX };
                let tag = self.tags().begin_block(tag).ok_or(full)?;
                Some(TagHold::new(self, tag))
            }
            (None, Some(parent)) => self.with_open(parent, now, |_, tree, number| {
                check_depth(tree, number)?;
                Ok::<_, ArenaAllocateError>(tree.node(number).tag.map(|tag| self.hold_tag(tag)))
            })??,
            (None, None) => None,
        };
        let draft = self.draft(request, hold.as_ref().map(|hold| hold.tag))?;
        let its_tag = hold.as_ref().map(|hold| self.hold_tag(hold.tag));
        let least_bytes = memory::page_size().min(draft.initial_bytes);
        let _trial = self.ask_about_bytes(request.priority, least_bytes, now)?;
        let (fresh, now) = self.take_chunks(least_bytes, draft.initial_bytes, hold, wait, now).await?;
        if self.arenas().index().open.len() >= ARENAS_MAX as usize {
            while self.end_one_due(now).is_some() {}
        }
        let lease = request.lease.map(|lease| now.after(lease));
        match request.parent {
            None => {
                let family = Arc::new(Family::default());
                let mut tree = family.lock();
                self.enter_arena(&family, &mut tree, None, &draft, lease, its_tag, fresh, now)
            }
            Some(parent) => self.with_open(parent, now, |family, tree, parent| {
                check_depth(tree, parent)?;
                self.enter_arena(family, tree, Some(parent), &draft, lease, its_tag, fresh, now)
            })?,
        }
    }

    /// What is to be made of a request.
    fn draft(&self, request: &ArenaRequest, tag: Option<TagNumber>) -> Result<Draft, ArenaAllocateError> {
        let (profile, estimate_bytes) = match request.size {
            ArenaSize::Profile(profile) => (profile, None),
            ArenaSize::Estimate(bytes) => (Profile::for_estimate(bytes), Some(bytes)),
            ArenaSize::Learned => {
                let tag = tag.and_then(|tag| self.tags().name(tag));
                (self.arenas().index().learned.profile(tag.as_ref()), None)
            }
        };
        let estimate = estimate_bytes.unwrap_or(profile.initial_bytes());
        let pool_bytes = self.heap().limit_bytes();
        if pool_bytes < memory::page_size() {
            let page_bytes = memory::page_size();
            return Err(ArenaAllocateError::PoolTooSmall { page_bytes, limit_bytes: pool_bytes });
        }
        if estimate_bytes.is_some_and(|estimate| estimate > pool_bytes) {
            return Err(ArenaAllocateError::EstimateTooLarge {
                estimate_bytes: estimate,
                limit_bytes: pool_bytes,
            });
        }
        let limit_bytes = request.limit_bytes.unwrap_or(profile.limit_bytes().max(estimate));
        let initial_bytes = whole_pages(profile.initial_bytes().min(estimate).min(limit_bytes).max(1));
        Ok(Draft { profile, initial_bytes, limit_bytes })
    }

    /// Enters an arena into a family, under its lock. A child's parent is open.
    #[expect(clippy::too_many_arguments, reason = "all that an arena is made of")]
    fn enter_arena(
        &self,
        family: &Arc<Family>,
        tree: &mut Tree,
        parent: Option<u32>,
        draft: &Draft,
        deadline: Option<Now>,
        its_tag: Option<TagHold<'_>>,
        fresh: Fresh<'_>,
        now: Now,
    ) -> Result<Arena, ArenaAllocateError> {
        let (number, created) = {
            let mut index = self.arenas().index();
            let begins_leases = deadline.is_some() && index.leases.is_empty();
            let entered = index.enter(draft.profile, deadline, now);
            let (number, created) =
                entered.ok_or(ArenaAllocateError::TooManyArenas { arenas_max: ARENAS_MAX as usize })?;
            // Before anybody finds it in the index, who then waits for the family's lock.
            self.arenas().place(number, family);
            if begins_leases {
                self.leases_begun.notify_one();
            }
            (number, created)
        };
        let depth = parent.map_or(0, |parent| {
            let parent = tree.node(parent);
            parent.children.insert(number);
            parent.depth + 1
        });
        let mut node = Node {
            key: Key::random(),
            created,
            parent,
            children: BTreeSet::new(),
            depth,
            profile: draft.profile,
            initial_bytes: draft.initial_bytes,
            limit_bytes: draft.limit_bytes,
            own_used_bytes: 0,
            used_bytes: 0,
            used_bytes_peak: 0,
            deadline,
            tag: its_tag.map(TagHold::keep),
            kept: None,
            space: Space::default(),
            members: Members::default(),
            touched: Now(0),
            attached: BTreeMap::new(),
        };
        fresh.put(&mut node);
        tree.nodes.insert(number, node);
        Ok(self.describe_arena(tree, number))
    }

    pub(in crate::pool) async fn allocate_in_arena(
        &self,
        id: ArenaId,
        (size_bytes, priority): (u64, Priority),
        wait: Duration,
        now: Now,
    ) -> Result<Allocation, ArenaAllocateError> {
        if self.is_closed() {
            return Err(AllocateError::from(Unavailable).into());
        }
        self.page_shape_for(size_bytes)?; // what can never be had is not waited for
        if size_bytes > MEMBER_BYTES_MAX {
            return self.allocate_attached(id, (size_bytes, priority), wait, now).await;
        }
        let (began, mut now) = (now, now);
        let (mut is_asked_about, mut _trial) = (false, None);
        let mut entry = EntryClaim::new(self);
        let mut step = self.try_member(id, size_bytes, &mut entry, now)?;
        loop {
            let patience = wait.saturating_sub(now.since(began));
            let (need, mut chunks) = match step {
                Step::Made(made) => return Ok(made),
                Step::NeedsEntry => (Need { entries: 1, ..Need::default() }, None),
                Step::NeedsChunk { least_bytes, wish_bytes, hold } => {
                    // What lies in a chunk that the arena has takes nothing of the pool: nobody is asked.
                    if !std::mem::replace(&mut is_asked_about, true) {
                        _trial = self.ask_about_bytes(priority, least_bytes, now)?;
                    }
                    let mut claim = ChunkClaim::new(self, hold);
                    if least_bytes < wish_bytes && claim.try_claim(wish_bytes) {
                        now = self.put_chunks(id, claim, size_bytes, now).await?;
                        step = self.try_member(id, size_bytes, &mut entry, now)?;
                        continue;
                    }
                    (claim.need(least_bytes), Some(claim))
                }
            };
            let needs_chunk = chunks.is_some();
            // Others may put a chunk there, or reset it, or end it.
            let look = |now| match self.try_member(id, size_bytes, &mut entry, now) {
                Ok(Step::NeedsChunk { .. }) if needs_chunk => None,
                Ok(Step::NeedsEntry) if !needs_chunk => None,
                found => Some(found),
            };
            let number = id.decode().map_or(0, |(number, _)| number);
            match self.claim_or_find(&need, number, patience, now, look).await? {
                Claimed::Found(found, later) => {
                    (step, now) = (found?, later);
                    continue;
                }
                Claimed::Need(later) => now = later,
            }
            match chunks.take() {
                Some(mut claim) => {
                    claim.claimed(need.bytes);
                    now = self.put_chunks(id, claim, size_bytes, now).await?;
                }
                None => entry.is_taken = true,
            }
            step = self.try_member(id, size_bytes, &mut entry, now)?;
        }
    }

    /// Puts chunks into an open arena that were claimed for a member of that size, if that still needs them.
    async fn put_chunks(
        &self,
        id: ArenaId,
        claim: ChunkClaim<'_>,
        size_bytes: u64,
        now: Now,
    ) -> Result<Now, ArenaAllocateError> {
        let fresh = self.back_chunks(claim, now).await?;
        // What is not needed is given back outside of the lock.
        let _surplus = self.with_open(id, now, |_, tree, number| {
            let node = tree.node(number);
            // Others that waited with this one may have been first.
            if !node.has_use_for(fresh.bytes(), actual_bytes(size_bytes)) {
                return Some(fresh);
            }
            fresh.put(node);
            None
        })?;
        if let Some((number, _)) = id.decode() {
            self.freed_in_arena(number);
        }
        Ok(now)
    }

    /// Makes a member of what the arena has.
    fn try_member<'a>(
        &'a self,
        id: ArenaId,
        size_bytes: u64,
        entry: &mut EntryClaim<'_>,
        now: Now,
    ) -> Result<Step<'a>, ArenaAllocateError> {
        let bytes = actual_bytes(size_bytes);
        self.with_open(id, now, |_, tree, number| {
            tree.check_limits(number, bytes)?;
            let node = tree.node(number);
            let free_bytes = node.space.free_bytes();
            if free_bytes < bytes {
                return Ok(Step::NeedsChunk {
                    least_bytes: whole_pages(bytes - free_bytes),
                    wish_bytes: node.chunk_wish(bytes - free_bytes),
                    hold: node.tag.map(|tag| self.hold_tag(tag)),
                });
            }
            if !entry.is_taken {
                entry.is_taken = self.entries().take(1);
            }
            if !entry.is_taken {
                return Ok(Step::NeedsEntry);
            }
            let before = node.record_bytes();
            let created = node.members.next_created(now.0);
            if node.members.needs_run() {
                let run = self.arenas().directory.enter(RunPlace { arena: number, first_created: created });
                let allocations_max = self.table().allocations_max();
                node.members.add_run(created, run.ok_or(AllocateError::TableFull { allocations_max })?);
            }
            entry.is_taken = false; // the member's from here on
            let place = node.space.take(bytes);
            let size = u32::try_from(size_bytes).expect("members in chunks are small");
            self.arenas().note_member(number, created);
            let made = node.members.add(Member::new(Key::random(), size, place, created));
            let tag = node.tag;
            let totals = &self.arenas().totals;
            totals.record_bytes.fetch_add(node.record_bytes() - before, Ordering::Relaxed);
            totals.live.fetch_add(1, Ordering::Relaxed);
            totals.live_bytes.fetch_add(bytes, Ordering::Relaxed);
            totals.requested_bytes.fetch_add(size_bytes, Ordering::Relaxed);
            totals.used_bytes.fetch_add(bytes, Ordering::Relaxed);
            if let Some((_, class_bytes)) = self.heap().class_for(size_bytes) {
                totals.avoided_bytes.fetch_add(class_bytes.saturating_sub(bytes), Ordering::Relaxed);
            }
            tree.charge(number, bytes);
            if let Some(tag) = tag {
                self.tags().begin_members(tag, 1);
            }
            self.with_slot(|slot| slot.classless_made += 1); // its size says nothing about classes
            Ok(Step::Made(Allocation {
                id: made,
                size_bytes,
                actual_size_bytes: bytes,
                created: Now(created),
                deadline: tree.deadline(number),
                tag: tag.and_then(|tag| self.tags().name(tag)),
                arena: Some(id),
            }))
        })?
    }

    /// Makes a member with a block of its own: an entry of the table that ends with the arena.
    async fn allocate_attached(
        &self,
        id: ArenaId,
        (size_bytes, priority): (u64, Priority),
        wait: Duration,
        now: Now,
    ) -> Result<Allocation, ArenaAllocateError> {
        let (_, actual_size_bytes) = self.page_shape_for(size_bytes)?;
        let (number, tag) = self.with_open(id, now, |_, tree, number| {
            tree.check_limits(number, actual_size_bytes)?;
            let tag = tree.node(number).tag.and_then(|tag| self.tags().name(tag));
            Ok::<_, ArenaAllocateError>((number, tag))
        })??;
        let request = AllocateRequest { size_bytes, lease: None, tag, ..AllocateRequest::new(size_bytes) };
        let _trial = self.ask_about_bytes(priority, actual_size_bytes, now)?;
        let mut plan = Plan::in_arena(self, &request, number)?;
        let now = self.claim_patiently(plan.need(), wait, now).await?;
        plan.claimed();
        let mut made = plan.back().await?;
        self.doorkeeper().served(actual_size_bytes);
        let outcome = self.with_open(id, now, |_, tree, number| {
            tree.check_limits(number, actual_size_bytes)?;
            let backed = made.pop().expect("a plan of one block makes one");
            let place = self.objects().place(backed, size_bytes, 0);
            let mut made = plan.publish(&[place], now).pop().expect("one block, one allocation");
            let (index, key) = made.id.decode().expect("it is an entry's");
            let node = tree.node(number);
            let before = node.record_bytes();
            node.attached.insert(index, (key, actual_size_bytes));
            let totals = &self.arenas().totals;
            totals.record_bytes.fetch_add(node.record_bytes() - before, Ordering::Relaxed);
            totals.attached.fetch_add(1, Ordering::Relaxed);
            totals.used_bytes.fetch_add(actual_size_bytes, Ordering::Relaxed);
            tree.charge(number, actual_size_bytes);
            (made.arena, made.deadline) = (Some(id), tree.deadline(number));
            Ok(made)
        });
        // What did not get there, because the arena has ended, or is full by now.
        made.iter().for_each(|backed| free_backed(self.heap(), backed));
        outcome?
    }

    /// Takes a need from the pool, waiting for it where it may come. Also returns the time by then.
    pub(super) async fn claim_patiently(
        &self,
        need: &Need,
        wait: Duration,
        now: Now,
    ) -> Result<Now, AllocateError> {
        let Err(error) = self.unless_due(now, || self.claim(need)) else { return Ok(now) };
        if let ClaimError::Memory(_) = error {
            self.drains().memory_is_needed(self.heap());
        }
        let refused = self.refused(error);
        if wait.is_zero() || !refused.may_pass() {
            return Err(refused);
        }
        Box::pin(self.claim_in_turn(need, wait, now)).await
    }
}

fn check_depth(tree: &Tree, parent: u32) -> Result<(), ArenaAllocateError> {
    let is_deep = tree.nodes[&parent].depth + 1 >= DEPTH_MAX;
    if is_deep { Err(ArenaAllocateError::TooDeep { depth_max: DEPTH_MAX }) } else { Ok(()) }
}
