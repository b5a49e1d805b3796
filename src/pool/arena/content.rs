//! Members in chunks, as the door knows allocations: looked up, read, written and freed by their id.
//!
//! A member is small, so what is read is a copy and what is written goes in place, both under the family's lock: there is
//! one version, and nobody ever sees half of a write.

use super::directory::{RUN_MEMBERS, RunPlace};
use super::members::Member;
use super::tree::Tree;
use crate::clock::Now;
use crate::pool::InflightCharge;
use crate::pool::content::{Content, Placement, Precondition, WriteError, check_end};
use crate::pool::id::{AllocationId, Key};
use crate::pool::local::Local;
use crate::pool::tags::TagShare;
use crate::pool::{Allocation, NotFound, RenewError, Written};
use bytes::Bytes;
use std::sync::atomic::Ordering;

/// Copies up to this long take no room of the in-flight budget: as much as any answer has beside its content.
const UNCHARGED_COPY_BYTES: u64 = 4 << 10;

/// What was read of a member. It is charged to the in-flight budget, where that has room, until the last of it is sent.
struct Copied {
    bytes: Vec<u8>,
    _charge: Option<InflightCharge>,
}

impl AsRef<[u8]> for Copied {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A live member that was found, under its family's lock.
struct Found<'a> {
    tree: &'a mut Tree,
    place: RunPlace,
    number: u32,
    key: Key,
}

impl Found<'_> {
    fn member(&mut self) -> &mut Member {
        let node = self.tree.node(self.place.arena);
        node.members
            .find(self.place.first_created, self.number, self.key)
            .expect("it was found under the lock")
    }

    fn touch(&mut self, now: Now) {
        self.tree.node(self.place.arena).touched = now;
    }
}

impl Local {
    /// Does something with a live member in chunks, under its family's lock.
    fn with_member<T>(
        &self,
        id: AllocationId,
        now: Now,
        act: impl FnOnce(Found<'_>) -> T,
    ) -> Result<T, NotFound> {
        let (number, key) = id.decode_member().ok_or(NotFound(id))?;
        loop {
            let place = self.arenas().directory.find(number / RUN_MEMBERS).ok_or(NotFound(id))?;
            let family = self.arenas().family(place.arena).ok_or(NotFound(id))?;
            let mut tree = family.lock();
            // What was looked up outside of the lock may be out of date: the key is not.
            let node = tree.nodes.get_mut(&place.arena).ok_or(NotFound(id))?;
            node.members.find(place.first_created, number, key).ok_or(NotFound(id))?;
            let is_kept = node.kept.is_some();
            match tree.over(place.arena, now).filter(|_| !is_kept) {
                None => return Ok(act(Found { tree: &mut tree, place, number, key })),
                Some(over) => {
                    drop(tree);
                    self.end_over(over, now); // and look again: it may just have been renewed
                }
            }
        }
    }

    pub(in crate::pool) fn get_member(&self, id: AllocationId, now: Now) -> Result<Allocation, NotFound> {
        self.with_member(id, now, |mut found| {
            let (arena, member) = (found.place.arena, found.member().clone());
            let node = &found.tree.nodes[&arena];
            Allocation {
                id,
                size_bytes: u64::from(member.size_bytes),
                actual_size_bytes: member.actual_bytes(),
                created: Now(member.created),
                deadline: found.tree.deadline(arena),
                tag: node.tag.and_then(|tag| self.tags().name(tag)),
                arena: node.kept.is_none().then(|| found.tree.id(arena)),
            }
        })
    }

    /// Why a live member gets no lease.
    pub(in crate::pool) fn renew_member(&self, id: AllocationId, now: Now) -> RenewError {
        match self.get_member(id, now) {
            Ok(Allocation { arena: Some(arena), .. }) => RenewError::InArena(arena),
            Ok(_) => RenewError::Kept(id),
            Err(error) => error.into(),
        }
    }

    pub(in crate::pool) fn read_member(&self, id: AllocationId, now: Now) -> Result<Content, NotFound> {
        self.with_member(id, now, |mut found| {
            let member = found.member().clone();
            let size_bytes = u64::from(member.size_bytes);
            found.touch(now);
            let bytes = (member.writes > 0).then(|| {
                let range = member.place..member.place + size_bytes;
                let bytes = found.tree.node(found.place.arena).space.read(self.heap(), range);
                if size_bytes <= UNCHARGED_COPY_BYTES {
                    return Bytes::from(bytes);
                }
                // A read is never refused. Where the budget is exhausted copies come on top of it: 16 KiB (the largest
                // member) for each connection at most, or of HTTP/2 for each of its streams.
                let charge = self.inflight().charge(size_bytes);
                Bytes::from_owner(Copied { bytes, _charge: charge })
            });
            Content::copied(size_bytes, member.writes, bytes)
        })
    }

    /// Writes a body that is all there.
    pub(in crate::pool) fn write_member(
        &self,
        id: AllocationId,
        placement: Placement,
        pieces: &[&[u8]],
        precondition: &Precondition,
        now: Now,
    ) -> Result<Written, WriteError> {
        let length: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
        self.with_member(id, now, |mut found| {
            let member = found.member();
            let size_bytes = u64::from(member.size_bytes);
            let end_bytes = check_end(placement, length, size_bytes)?;
            precondition.check(member.writes)?;
            let whole = placement == Placement::Replace && length == size_bytes;
            if length == 0 && placement != Placement::Replace {
                return Ok(Written { version: member.writes, whole });
            }
            let was_written = member.writes > 0;
            member.writes += 1;
            let (version, start) = (member.writes, member.place);
            found.touch(now);
            let space = &mut found.tree.node(found.place.arena).space;
            let mut place = start + placement.offset();
            for piece in pieces {
                space.write(self.heap(), place, piece);
                place += piece.len() as u64;
            }
            if placement == Placement::Replace && was_written {
                space.zero(self.heap(), start + end_bytes..start + size_bytes);
            }
            Ok(Written { version, whole })
        })?
    }

    /// Ends a member, and says how many bytes it had. They come back with its arena; where it was kept, with the last that
    /// keeps their chunk.
    pub(in crate::pool) fn free_member(&self, id: AllocationId, now: Now) -> Result<u64, NotFound> {
        let (bytes, tag, runs, chunks, is_last) = self.with_member(id, now, |mut found| {
            let (RunPlace { arena, first_created }, number) = (found.place, found.number);
            let member = found.member().clone();
            let node = found.tree.node(arena);
            let records = node.record_bytes();
            if member.writes > 0 {
                node.space.zero(self.heap(), member.range()); // what it held is nobody's any more
            }
            let mut runs: Vec<_> = node.members.end(first_created, number).into_iter().collect();
            let totals = &self.arenas().totals;
            totals.live.fetch_sub(1, Ordering::Relaxed);
            totals.live_bytes.fetch_sub(member.actual_bytes(), Ordering::Relaxed);
            totals.requested_bytes.fetch_sub(u64::from(member.size_bytes), Ordering::Relaxed);
            let (mut chunks, mut is_last) = (Vec::new(), false);
            if let Some(span) = node.kept {
                node.space.end_keeping(&member.range());
                chunks = node.space.take_unkept();
                is_last = node.members.live == 0;
                if is_last {
                    runs.extend(node.members.take_all());
                    let mut index = self.arenas().index();
                    index.kept.remove(arena, span);
                    self.arenas().vacate(&mut index, arena);
                }
            }
            let chunk_bytes: u64 = chunks.iter().map(super::space::Chunk::bytes).sum();
            totals.chunk_bytes.fetch_sub(chunk_bytes, Ordering::Relaxed);
            let left = if is_last { 0 } else { node.record_bytes() };
            totals.record_bytes.fetch_sub(records - left, Ordering::Relaxed);
            let tag = node.tag.map(|tag| TagShare { tag, bytes: chunk_bytes });
            if is_last {
                found.tree.nodes.remove(&arena);
            } else if let Some(share) = tag {
                self.tags().end_members(share.tag, 1); // while the arena still keeps the number
                self.tags().end_chunk(share);
            }
            (member.actual_bytes(), tag, runs, chunks, is_last)
        })?;
        if let Some(share) = tag.filter(|_| is_last) {
            self.tags().end_members(share.tag, 1);
            self.tags().end_chunk(share);
            self.tags().end_block(share.tag);
        }
        let is_something_free = !runs.is_empty() || !chunks.is_empty();
        self.leave_runs(&runs);
        self.free_chunks(chunks);
        if is_something_free {
            self.room_freed();
        }
        Ok(bytes)
    }

    /// Begins to write a body into a member, piece by piece, whose length may be known.
    pub(in crate::pool) fn upload_member(
        &self,
        id: AllocationId,
        (placement, length): (Placement, Option<u64>),
        precondition: &Precondition,
        now: Now,
    ) -> Result<MemberUpload<'_>, WriteError> {
        let size_bytes = self.with_member(id, now, |mut found| {
            let member = found.member();
            let size_bytes = u64::from(member.size_bytes);
            check_end(placement, length.unwrap_or(0), size_bytes)?;
            precondition.check_early(member.writes)?;
            Ok::<_, WriteError>(size_bytes)
        })??;
        Ok(MemberUpload { local: self, id, placement, size_bytes, body: Vec::new(), charge: None })
    }
}

/// A body on its way into a member: collected, and written as one when it is complete.
#[derive(Debug)]
pub(in crate::pool) struct MemberUpload<'a> {
    local: &'a Local,
    id: AllocationId,
    placement: Placement,
    size_bytes: u64,
    /// At most what fits into the member.
    body: Vec<u8>,
    /// Of the in-flight budget, for what the body takes.
    charge: Option<InflightCharge>,
}

impl MemberUpload<'_> {
    pub(in crate::pool) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    pub(in crate::pool) fn push(&mut self, piece: &[u8]) -> Result<(), WriteError> {
        let received_bytes = self.body.len() as u64 + piece.len() as u64;
        check_end(self.placement, received_bytes, self.size_bytes)?;
        let capacity = self.body.capacity();
        if self.body.len() + piece.len() > capacity {
            // As Rust's own vectors grow, but no further than the member: what is charged is what there is.
            let most = usize::try_from(self.size_bytes).expect("members in chunks are small");
            let grown = (2 * capacity).min(most).max(self.body.len() + piece.len());
            let inflight = self.local.inflight();
            if !inflight.raise(&mut self.charge, grown as u64) {
                let (held_bytes, bytes_max) = (inflight.bytes(), inflight.bytes_max());
                return Err(WriteError::Inflight { received_bytes, held_bytes, bytes_max });
            }
            self.body.reserve_exact(grown - self.body.len());
        }
        self.body.extend_from_slice(piece);
        Ok(())
    }

    pub(in crate::pool) fn commit(
        self,
        precondition: &Precondition,
        now: Now,
    ) -> Result<Written, WriteError> {
        self.local.write_member(self.id, self.placement, &[&self.body], precondition, now)
    }
}
