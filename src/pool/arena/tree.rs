//! A family of arenas: one that lies in no other, and all that lie in it, under one lock.
//!
//! So whatever ends an arena, or allocates in one, sees it, those above it and those in it as of one instant.

use super::Profile;
use super::error::ArenaAllocateError;
use super::making::MEMBER_BYTES_MAX;
use super::members::Members;
use super::space::{ALIGN_BYTES, Chunk, Space};
use crate::clock::Now;
use crate::memory;
use crate::pool::id::{ArenaId, Key};
use crate::pool::tags::TagNumber;
use parking_lot::{Mutex, MutexGuard};
use std::collections::{BTreeMap, BTreeSet};

/// Arenas that lie in each other at most.
pub(super) const DEPTH_MAX: usize = 16;
/// The largest chunk.
pub(super) const CHUNK_BYTES_MAX: u64 = 4 << 20;
/// A chunk beyond the first is at least this part of the first, …
const INITIAL_PARTS: u64 = 8;
/// … and of what is used already: so what lies free at the end is little of it.
const USED_PARTS: u64 = 64;
/// … and this.
const CHUNK_BYTES_MIN: u64 = 4 << 10;

/// One arena: open, or what is left of it.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) key: Key,
    pub(super) created: Now,
    pub(super) parent: Option<u32>,
    pub(super) children: BTreeSet<u32>,
    /// Arenas above it.
    pub(super) depth: usize,
    pub(super) profile: Profile,
    pub(super) initial_bytes: u64,
    pub(super) limit_bytes: u64,
    /// What its members used since it was made or reset, and with it what live ones in it did.
    pub(super) own_used_bytes: u64,
    pub(super) used_bytes: u64,
    /// The most of that.
    pub(super) used_bytes_peak: u64,
    pub(super) deadline: Option<Now>,
    pub(super) tag: Option<TagNumber>,
    /// When the kept members were made, the first and the last, once it has ended; none: it is open.
    pub(super) kept: Option<(u64, u64)>,
    pub(super) space: Space,
    pub(super) members: Members,
    /// When any member in chunks was last read or written; the beginning of time where none was. A time for each would
    /// make their records a fifth larger, and they end together.
    pub(super) touched: Now,
    /// Its members that have blocks of their own: entries of the table, what key they have, and what they take.
    pub(super) attached: BTreeMap<u32, (Key, u64)>,
}

impl Node {
    /// Its live members.
    pub(super) fn live(&self) -> u64 {
        self.members.live + self.attached.len() as u64
    }

    /// Bytes of the records of its members and chunks.
    pub(super) fn record_bytes(&self) -> u64 {
        let attached = self.attached.len() * size_of::<(u32, (Key, u64))>();
        let chunks = self.space.chunks_capacity() * size_of::<Chunk>();
        (attached + chunks) as u64 + self.members.metadata_bytes
    }

    /// How large the next chunk would best be, where so many bytes are missing.
    pub(super) fn chunk_wish(&self, missing_bytes: u64) -> u64 {
        let step = CHUNK_BYTES_MIN
            .max(self.initial_bytes / INITIAL_PARTS)
            .max(self.own_used_bytes / USED_PARTS)
            .min(CHUNK_BYTES_MAX);
        whole_pages(missing_bytes.max(step.min(self.usable_bytes())))
    }

    /// What its limit leaves beyond what lies free already: of more it can never use any.
    fn usable_bytes(&self) -> u64 {
        (self.limit_bytes - self.used_bytes).saturating_sub(self.space.free_bytes())
    }

    /// Whether a chunk of so many bytes is of use, that was claimed a while ago for a member that takes `needed_bytes`.
    pub(super) fn has_use_for(&self, chunk_bytes: u64, needed_bytes: u64) -> bool {
        let missing_bytes = needed_bytes.saturating_sub(self.space.free_bytes());
        missing_bytes > 0 && chunk_bytes <= whole_pages(missing_bytes.max(self.usable_bytes()))
    }
}

/// So many bytes, rounded up to whole pages.
pub(super) fn whole_pages(bytes: u64) -> u64 {
    bytes.next_multiple_of(memory::page_size())
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Family {
    tree: Mutex<Tree>,
}

/// All arenas of a family by number.
#[derive(Debug, Default)]
pub(super) struct Tree {
    pub(super) nodes: BTreeMap<u32, Node>,
}

/// How an arena stands at some instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Open,
    /// The lease of this one is over: it, or one above it.
    Over(u32),
    /// It has ended, or never was.
    Gone,
}

impl Family {
    pub(super) fn lock(&self) -> MutexGuard<'_, Tree> {
        self.tree.lock()
    }
}

impl Tree {
    /// How the arena of that number and key stands.
    pub(super) fn standing(&self, number: u32, key: Key, now: Now) -> Standing {
        match self.nodes.get(&number) {
            Some(node) if node.key == key && node.kept.is_none() => {
                self.over(number, now).map_or(Standing::Open, Standing::Over)
            }
            _ => Standing::Gone,
        }
    }

    /// The arena itself, or the first above it, whose lease is over.
    pub(super) fn over(&self, number: u32, now: Now) -> Option<u32> {
        let is_over = |number: &u32| self.nodes[number].deadline.is_some_and(|deadline| deadline <= now);
        self.upwards(number).filter(is_over).last()
    }

    /// The arena and those above it, from below.
    fn upwards(&self, number: u32) -> impl Iterator<Item = u32> {
        std::iter::successors(Some(number), |number| self.nodes[number].parent)
    }

    /// When the arena ends by itself: its own lease, or one above it, is over then.
    pub(super) fn deadline(&self, number: u32) -> Option<Now> {
        self.upwards(number).filter_map(|number| self.nodes[&number].deadline).min()
    }

    /// The largest member that the arena has room for, where the pool has so many bytes free.
    pub(super) fn largest_member(&self, number: u32, free_bytes: u64) -> u64 {
        let left = |number: u32| self.nodes[&number].limit_bytes - self.nodes[&number].used_bytes;
        let left_bytes = self.upwards(number).map(left).min().unwrap_or(0);
        let pages_of = |bytes: u64| bytes - bytes % memory::page_size();
        let in_pages = pages_of(free_bytes.min(left_bytes));
        if in_pages > MEMBER_BYTES_MAX {
            return in_pages;
        }
        let in_chunks = self.nodes[&number].space.free_bytes().saturating_add(pages_of(free_bytes));
        let in_chunks = in_chunks.min(left_bytes).min(MEMBER_BYTES_MAX);
        in_chunks - in_chunks % ALIGN_BYTES
    }

    pub(super) fn id(&self, number: u32) -> ArenaId {
        ArenaId::new(number, self.nodes[&number].key)
    }

    /// An open arena.
    pub(super) fn node(&mut self, number: u32) -> &mut Node {
        self.nodes.get_mut(&number).expect("the arena is open")
    }

    /// Refuses what the limit of the arena, or of one above it, leaves no room for.
    pub(super) fn check_limits(&self, number: u32, bytes: u64) -> Result<(), ArenaAllocateError> {
        for number in self.upwards(number) {
            let node = &self.nodes[&number];
            if bytes > node.limit_bytes - node.used_bytes {
                return Err(ArenaAllocateError::Exhausted {
                    id: self.id(number),
                    requested_bytes: bytes,
                    used_bytes: node.used_bytes,
                    limit_bytes: node.limit_bytes,
                });
            }
        }
        Ok(())
    }

    /// A new member uses so many bytes, for which there is room.
    pub(super) fn charge(&mut self, number: u32, bytes: u64) {
        self.node(number).own_used_bytes += bytes;
        let mut next = Some(number);
        while let Some(number) = next {
            let node = self.node(number);
            node.used_bytes += bytes;
            node.used_bytes_peak = node.used_bytes_peak.max(node.used_bytes);
            next = node.parent;
        }
    }

    /// Those above an arena use what it used no more.
    pub(super) fn discharge_above(&mut self, number: u32) {
        let (bytes, mut next) = (self.nodes[&number].used_bytes, self.nodes[&number].parent);
        while let Some(number) = next {
            let node = self.node(number);
            node.used_bytes -= bytes;
            next = node.parent;
        }
    }

    /// The arenas that lie in one, those in others before these.
    pub(super) fn descendants(&self, number: u32) -> Vec<u32> {
        let mut all = Vec::new();
        let mut next: Vec<u32> = self.nodes[&number].children.iter().copied().collect();
        while let Some(number) = next.pop() {
            all.push(number);
            next.extend(&self.nodes[&number].children);
        }
        all.reverse();
        all
    }
}
