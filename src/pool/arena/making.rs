//! How arenas are made, and allocations in them.
//!
//! What takes time is done outside of the family's lock: chunks are claimed and backed first, as any request is, and then
//! put into the arena if it is still open. Dropped on the way, they are given back.

use super::directory::RunPlace;
use super::members::{Member, Members, actual_bytes};
use super::registry::ARENAS_MAX;
use super::space::{Chunk, Space};
use super::tree::{DEPTH_MAX, Family, Node, Standing, Tree, whole_pages};
use super::{Arena, ArenaAllocateError, ArenaError, ArenaRequest, ArenaSize, ArenaState, Profile};
use crate::clock::Now;
use crate::memory::{self, Backed, Shape};
use crate::pool::id::{ArenaId, Key};
use crate::pool::local::Local;
use crate::pool::object::free_backed;
use crate::pool::plan::{ClaimError, Plan, Room};
use crate::pool::queue::Need;
use crate::pool::tags::{TAGS_MAX, TagNumber, TagShare};
use crate::pool::{AllocateError, AllocateRequest, Allocation, Unavailable};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The largest member that goes into chunks. Larger ones get blocks of their own.
pub(super) const MEMBER_BYTES_MAX: u64 = 16 << 10;

/// Keeps a tag's number the name's, and what was taken of its budget. Dropped, both are given back.
#[derive(Debug)]
pub(super) struct TagHold<'a> {
    local: &'a Local,
    tag: TagNumber,
    bytes: u64,
    /// It is an arena's, which ends the block when it ends.
    is_kept: bool,
}

impl<'a> TagHold<'a> {
    /// Of a block of the tag that was begun for the caller.
    fn new(local: &'a Local, tag: TagNumber) -> TagHold<'a> {
        TagHold { local, tag, bytes: 0, is_kept: false }
    }

    /// Hands the block over to an arena.
    fn keep(mut self) -> TagNumber {
        self.is_kept = true;
        self.tag
    }
}

impl Drop for TagHold<'_> {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        if self.bytes > 0 {
            self.local.tags().give_back(TagShare { tag: self.tag, bytes: self.bytes });
        }
        self.local.tags().end_block(self.tag);
    }
}

/// Chunks on their way into an arena. Dropped, they are given back.
#[derive(Debug)]
pub(super) struct Fresh<'a> {
    local: &'a Local,
    hold: Option<TagHold<'a>>,
    chunks: Vec<Chunk>,
}

impl Fresh<'_> {
    /// Puts them into an open arena.
    fn put(mut self, node: &mut Node) {
        let totals = &self.local.arenas().totals;
        let before = node.record_bytes();
        for chunk in self.chunks.drain(..) {
            totals.chunk_bytes.fetch_add(chunk.bytes(), Ordering::Relaxed);
            if let Some(hold) = &mut self.hold {
                self.local.tags().begin_chunk(TagShare { tag: hold.tag, bytes: chunk.bytes() });
                hold.bytes -= chunk.bytes(); // the arena's from here on
            }
            node.space.add(chunk);
        }
        totals.record_bytes.fetch_add(node.record_bytes() - before, Ordering::Relaxed);
    }
}

impl Drop for Fresh<'_> {
    fn drop(&mut self) {
        // The budget first: whoever is told of the memory finds that too.
        self.hold = None;
        self.local.free_chunks(std::mem::take(&mut self.chunks));
    }
}

/// An entry of the table's budget for a member. Dropped, it is given back.
#[derive(Debug)]
struct EntryClaim<'a> {
    local: &'a Local,
    is_taken: bool,
}

impl Drop for EntryClaim<'_> {
    fn drop(&mut self) {
        if self.is_taken {
            self.local.entries().give_back(1);
            self.local.room_freed();
        }
    }
}

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
            attached: BTreeMap::new(),
        };
        fresh.put(&mut node);
        tree.nodes.insert(number, node);
        Ok(self.describe_arena(tree, number))
    }

    pub(in crate::pool) async fn allocate_in_arena(
        &self,
        id: ArenaId,
        size_bytes: u64,
        wait: Duration,
        now: Now,
    ) -> Result<Allocation, ArenaAllocateError> {
        if self.is_closed() {
            return Err(AllocateError::from(Unavailable).into());
        }
        self.page_shape_for(size_bytes)?; // what can never be had is not waited for
        if size_bytes > MEMBER_BYTES_MAX {
            return self.allocate_attached(id, size_bytes, wait, now).await;
        }
        let (began, mut now) = (now, now);
        let mut entry = EntryClaim { local: self, is_taken: false };
        loop {
            let patience = wait.saturating_sub(now.since(began));
            match self.try_member(id, size_bytes, &mut entry, now)? {
                Step::Made(made) => return Ok(made),
                Step::NeedsEntry => {
                    let need = Need { entries: 1, ..Need::default() };
                    now = self.claim_patiently(&need, patience, now).await?;
                    entry.is_taken = true;
                }
                Step::NeedsChunk { least_bytes, wish_bytes, hold } => {
                    let (fresh, later) =
                        self.take_chunks(least_bytes, wish_bytes, hold, patience, now).await?;
                    now = later;
                    self.with_open(id, now, |_, tree, number| fresh.put(tree.node(number)))?;
                }
            }
        }
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
        size_bytes: u64,
        wait: Duration,
        now: Now,
    ) -> Result<Allocation, ArenaAllocateError> {
        let (_, actual_size_bytes) = self.page_shape_for(size_bytes)?;
        let (number, tag) = self.with_open(id, now, |_, tree, number| {
            tree.check_limits(number, actual_size_bytes)?;
            let tag = tree.node(number).tag.and_then(|tag| self.tags().name(tag));
            Ok::<_, ArenaAllocateError>((number, tag))
        })??;
        let request = AllocateRequest { size_bytes, lease: None, tag };
        let mut plan = Plan::in_arena(self, &request, number)?;
        let now = self.claim_patiently(plan.need(), wait, now).await?;
        plan.claimed();
        let mut made = plan.back().await?;
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
    async fn claim_patiently(&self, need: &Need, wait: Duration, now: Now) -> Result<Now, AllocateError> {
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

    /// Takes chunks of `wish_bytes`, or where these cannot be had of `least_bytes`. Also returns the time by then.
    async fn take_chunks<'a>(
        &'a self,
        least_bytes: u64,
        wish_bytes: u64,
        mut hold: Option<TagHold<'a>>,
        wait: Duration,
        now: Now,
    ) -> Result<(Fresh<'a>, Now), AllocateError> {
        let need = |bytes: u64| {
            let shares = hold.iter().map(|hold| TagShare { tag: hold.tag, bytes }).collect();
            Need { bytes, entries: 0, shares }
        };
        let mut bytes = wish_bytes;
        let mut now = now;
        if least_bytes >= wish_bytes || self.claim(&need(wish_bytes)).is_err() {
            bytes = least_bytes;
            now = self.claim_patiently(&need(bytes), wait, now).await?;
        }
        if let Some(hold) = &mut hold {
            hold.bytes = bytes;
        }
        // However many pieces it comes in: members lie across their ends.
        let room = Room::granted(self.heap(), bytes);
        let made = self.private_memory(vec![Shape::Run(bytes)], Some(room), now).await?;
        let segments = made.iter().flat_map(Backed::locations);
        let chunks = segments.map(|segment| Chunk::new(self.heap(), *segment)).collect();
        Ok((Fresh { local: self, hold, chunks }, now))
    }
}

fn check_depth(tree: &Tree, parent: u32) -> Result<(), ArenaAllocateError> {
    let is_deep = tree.nodes[&parent].depth + 1 >= DEPTH_MAX;
    if is_deep { Err(ArenaAllocateError::TooDeep { depth_max: DEPTH_MAX }) } else { Ok(()) }
}
