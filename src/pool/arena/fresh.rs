//! Chunks on their way into an arena: claimed, waited for and backed as any request is, before the family's lock is taken.

use super::space::Chunk;
use super::tree::Node;
use crate::clock::Now;
use crate::memory::{Backed, Shape};
use crate::pool::AllocateError;
use crate::pool::local::Local;
use crate::pool::plan::Room;
use crate::pool::queue::Need;
use crate::pool::tags::{TagNumber, TagShare};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Keeps a tag's number the name's, and what was taken of its budget. Dropped, both are given back.
#[derive(Debug)]
pub(super) struct TagHold<'a> {
    local: &'a Local,
    pub(super) tag: TagNumber,
    bytes: u64,
    /// It is an arena's, which ends the block when it ends.
    is_kept: bool,
}

impl<'a> TagHold<'a> {
    /// Of a block of the tag that was begun for the caller.
    pub(super) fn new(local: &'a Local, tag: TagNumber) -> TagHold<'a> {
        TagHold { local, tag, bytes: 0, is_kept: false }
    }

    /// Hands the block over to an arena.
    pub(super) fn keep(mut self) -> TagNumber {
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
    pub(super) fn bytes(&self) -> u64 {
        self.chunks.iter().map(Chunk::bytes).sum()
    }

    /// Puts them into an open arena.
    pub(super) fn put(mut self, node: &mut Node) {
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
pub(super) struct EntryClaim<'a> {
    local: &'a Local,
    pub(super) is_taken: bool,
}

impl<'a> EntryClaim<'a> {
    /// Of none yet.
    pub(super) fn new(local: &'a Local) -> EntryClaim<'a> {
        EntryClaim { local, is_taken: false }
    }
}

impl Drop for EntryClaim<'_> {
    fn drop(&mut self) {
        if self.is_taken {
            self.local.entries().give_back(1);
            self.local.room_freed();
        }
    }
}

/// Bytes claimed for chunks. Dropped, they are given back.
#[derive(Debug)]
pub(super) struct ChunkClaim<'a> {
    local: &'a Local,
    hold: Option<TagHold<'a>>,
    room: Room<'a>,
}

impl<'a> ChunkClaim<'a> {
    /// Of nothing yet.
    pub(super) fn new(local: &'a Local, hold: Option<TagHold<'a>>) -> ChunkClaim<'a> {
        ChunkClaim { local, hold, room: Room::granted(local.heap(), 0) }
    }

    /// What so many bytes take.
    pub(super) fn need(&self, bytes: u64) -> Need {
        let shares = self.hold.iter().map(|hold| TagShare { tag: hold.tag, bytes }).collect();
        Need { bytes, entries: 0, shares }
    }

    /// Claims so many bytes if they are there.
    pub(super) fn try_claim(&mut self, bytes: u64) -> bool {
        let is_there = self.local.claim(&self.need(bytes)).is_ok();
        if is_there {
            self.claimed(bytes);
        }
        is_there
    }

    /// So many bytes were claimed for it.
    pub(super) fn claimed(&mut self, bytes: u64) {
        if let Some(hold) = &mut self.hold {
            hold.bytes = bytes;
        }
        self.room = Room::granted(self.local.heap(), bytes);
        self.local.doorkeeper().served(bytes);
    }
}

impl Local {
    /// Takes chunks of `wish_bytes`, or where these cannot be had of `least_bytes`. Also returns the time by then.
    pub(super) async fn take_chunks<'a>(
        &'a self,
        least_bytes: u64,
        wish_bytes: u64,
        hold: Option<TagHold<'a>>,
        wait: Duration,
        now: Now,
    ) -> Result<(Fresh<'a>, Now), AllocateError> {
        let mut claim = ChunkClaim::new(self, hold);
        let mut now = now;
        if least_bytes >= wish_bytes || !claim.try_claim(wish_bytes) {
            now = self.claim_patiently(&claim.need(least_bytes), wait, now).await?;
            claim.claimed(least_bytes);
        }
        Ok((self.back_chunks(claim, now).await?, now))
    }

    /// Makes chunks of what was claimed.
    pub(super) async fn back_chunks<'a>(
        &'a self,
        claim: ChunkClaim<'a>,
        now: Now,
    ) -> Result<Fresh<'a>, AllocateError> {
        let ChunkClaim { hold, room, .. } = claim;
        // However many pieces it comes in: members lie across their ends.
        let made = self.private_memory(vec![Shape::Run(room.bytes())], Some(room), now).await?;
        let segments = made.iter().flat_map(Backed::locations);
        let chunks = segments.map(|segment| Chunk::new(self.heap(), *segment)).collect();
        Ok(Fresh { local: self, hold, chunks })
    }
}
