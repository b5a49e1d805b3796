//! Uploads into a large object, piece by piece. See `object.rs` for the ways in which content is written.

use super::broken::Cleaning;
use super::{Object, Segments};
use crate::clock::Now;
use crate::memory::{self, Pin, Shape};
use crate::pool::content::{Placement, Precondition, WriteError, check_end};
use crate::pool::id::{AllocationId, Key};
use crate::pool::local::Local;
use crate::pool::place::{ObjectNumber, Place};
use crate::pool::plan::Room;
use crate::pool::table::LockedEntry;
use crate::pool::upload::UNLOCKED_FILLS_MAX;
use crate::pool::{NotFound, Written};
use std::ops::Range;
use std::sync::Arc;

/// A body on its way into a large object. Dropped before it is committed it leaves no trace.
#[derive(Debug)]
pub(in crate::pool) struct ObjectUpload<'a> {
    local: &'a Local,
    id: AllocationId,
    /// The entry, and the key that it must still have.
    target: (u32, Key),
    filled: Filled,
    placement: Placement,
    size_bytes: u64,
    received_bytes: u64,
    /// What its segments have to hold for the version that it is to replace by now, where that takes more than a slice of
    /// work.
    wanted: Option<Range<u64>>,
}

/// Times that an upload waits for memory when it is committed, because other writes came in between.
const FITS_MAX: u32 = 4;

/// What an upload fills.
#[derive(Debug)]
enum Filled {
    /// The allocation's own segments, which were never written.
    Lent(Arc<Object>),
    /// Segments of its own, in place of those that it touches.
    Private(Segments),
    /// Nothing any more: it was committed.
    Nothing,
}

/// What a write needs that has no segments yet.
enum Needed {
    Lent(Arc<Object>),
    /// Where the first segment begins, and what they are made of.
    Private(u64, Vec<Shape>),
}

/// The version that an upload is to replace.
struct Base {
    number: ObjectNumber,
    writes: u64,
    /// None where its segments are lent to another upload, or being discarded: then nothing can be shared, and it is all
    /// zeros.
    version: Option<Arc<Object>>,
}

/// A version that is to be the content.
struct Next {
    version: Object,
    /// What of it is not shared with the version before.
    replaced: Range<u64>,
}

impl Local {
    /// Begins an upload of a body of `length`, where that is known; into segments of its own where those of the allocation
    /// may not be lent.
    pub(in crate::pool) async fn upload_object(
        &self,
        id: AllocationId,
        (placement, length): (Placement, Option<u64>),
        precondition: Option<&Precondition>,
        room: Option<Room<'_>>,
        now: Now,
    ) -> Result<ObjectUpload<'_>, WriteError> {
        let (target, size_bytes, needed) = {
            let (index, entry, record) = self.look_up(id, now)?;
            entry.touch(now);
            let number = record.place.object().expect("an allocation stays what it is");
            check_end(placement, length.unwrap_or(0), record.size_bytes)?;
            let writes = self.objects().look(number, |object| object.writes());
            precondition.map_or(Ok(()), |precondition| precondition.check_early(writes))?;
            let may_lend = precondition.is_some() && writes == 0 && !entry.is_lent();
            let needed = self.objects().look(number, |object| {
                if may_lend && Arc::strong_count(object) == 1 {
                    entry.set_lent(true);
                    return Needed::Lent(Arc::clone(object));
                }
                let end = match (placement, length) {
                    (Placement::Patch { offset }, Some(length)) => offset + length,
                    _ => record.size_bytes,
                };
                let is_secret = object.reads_zero() && entry.is_lent();
                object.needed(placement, placement.offset()..end, is_secret, length.is_some())
            });
            ((index, record.key), record.size_bytes, needed)
        };
        let filled = match needed {
            Needed::Lent(own) => Filled::Lent(own),
            Needed::Private(start, shapes) => {
                let backed = self.private_memory(shapes, room, now).await.map_err(WriteError::NoRoom)?;
                Filled::Private(Segments::of(self.objects().upkeep(), start, size_bytes, backed))
            }
        };
        Ok(ObjectUpload {
            local: self,
            id,
            target,
            filled,
            placement,
            size_bytes,
            received_bytes: 0,
            wanted: None,
        })
    }
}

impl Object {
    /// What a write to `range` needs memory for: whole segments of this version. Where it is not known how long the write
    /// will be there is a run for each segment, so that those that it does not come to can be given back.
    fn needed(
        &self,
        placement: Placement,
        range: Range<u64>,
        is_secret: bool,
        is_length_known: bool,
    ) -> Needed {
        let span = self.replaced(placement, &range, is_secret);
        let is_one = is_length_known || placement == Placement::Replace;
        let shapes = match span.end - span.start {
            0 => Vec::new(),
            bytes if is_one => vec![Shape::Run(bytes)],
            _ => {
                let bytes = |part: super::segments::Part| Shape::Run(part.range.end - part.range.start);
                self.segments().parts(span.clone()).map(bytes).collect()
            }
        };
        Needed::Private(span.start, shapes)
    }

    /// What a write to `range` replaces, whole segments; `is_secret`: another upload fills the segments, so none of them can
    /// be shared.
    fn replaced(&self, placement: Placement, range: &Range<u64>, is_secret: bool) -> Range<u64> {
        if placement == Placement::Replace || is_secret && !range.is_empty() {
            self.segments().range()
        } else {
            self.segments().span(range)
        }
    }
}

impl<'a> ObjectUpload<'a> {
    pub(in crate::pool) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Where the body goes that came until now.
    fn range(&self) -> Range<u64> {
        let offset = self.placement.offset();
        offset..offset + self.received_bytes
    }

    /// As `Upload::push`.
    pub(in crate::pool) fn push(&mut self, piece: &[u8]) -> Result<(), WriteError> {
        let (index, key) = self.target;
        if !self.local.table().used(index).is_live(key) {
            return Err(NotFound(self.id).into());
        }
        let received = self.received_bytes + piece.len() as u64;
        let end_bytes = check_end(self.placement, received, self.size_bytes)?;
        match &self.filled {
            Filled::Lent(own) => own.segments().fill(self.range().end, piece),
            Filled::Private(segments) => {
                let room_end = segments.range().end;
                if end_bytes > room_end {
                    // Longer than was announced, and it has room for just that.
                    return Err(WriteError::PastEnd { end_bytes, size_bytes: room_end });
                }
                segments.fill(self.range().end, piece);
            }
            Filled::Nothing => unreachable!("an upload that was committed is gone"),
        }
        self.received_bytes = received;
        Ok(())
    }

    /// As `Upload::finish`.
    pub(in crate::pool) async fn finish(
        mut self,
        precondition: &Precondition,
        now: Now,
    ) -> Result<Written, WriteError> {
        for _ in 0..FITS_MAX {
            let outcome = self.commit(precondition, now);
            let Some(wanted) = self.wanted.take() else { return outcome };
            self.extend(wanted, now).await?;
        }
        self.commit(precondition, now)
    }

    /// Adds memory to its segments so that they hold `wanted`, however long that takes to be made.
    async fn extend(&mut self, wanted: Range<u64>, now: Now) -> Result<(), WriteError> {
        let Filled::Private(private) = &mut self.filled else { unreachable!("what is lent fits") };
        let held = private.range();
        for (start, bytes) in [(wanted.start, held.start - wanted.start), (held.end, wanted.end - held.end)] {
            if bytes == 0 {
                continue;
            }
            let made = self.local.private_memory(vec![Shape::Run(bytes)], None, now).await;
            let mut more =
                Segments::of(private.upkeep(), start, self.size_bytes, made.map_err(WriteError::NoRoom)?);
            if start < held.start {
                std::mem::swap(private, &mut more);
            }
            private.append(more);
        }
        Ok(())
    }

    /// As `Upload::commit`. Where it says what is wanted it may be tried again when that is there.
    pub(in crate::pool) fn commit(
        &mut self,
        precondition: &Precondition,
        now: Now,
    ) -> Result<Written, WriteError> {
        let is_all = self.placement == Placement::Replace;
        let whole = is_all && self.received_bytes == self.size_bytes;
        // Other writes may go on without end while edges are filled: the last fill keeps them out.
        let mut fills = 0;
        loop {
            let (entry, base) = self.base(precondition, now)?;
            if self.range().is_empty() && !is_all {
                return Ok(Written { version: base.writes, whole });
            }
            entry.touch(now);
            if let Filled::Lent(own) = &self.filled {
                if entry.is_lent() && self.local.objects().look(base.number, |now| Arc::ptr_eq(now, own)) {
                    // Still the only version, and its own segments: they become visible as they are.
                    own.set_writes(1);
                    entry.set_lent(false);
                    self.filled = Filled::Nothing;
                    drop(entry);
                    self.local.room_freed(); // a write may wait for just this upload
                    return Ok(Written { version: 1, whole });
                }
                self.take_lent();
            }
            let next = if is_all {
                let Filled::Private(segments) = std::mem::replace(&mut self.filled, Filled::Nothing) else {
                    unreachable!("lent segments were taken")
                };
                Next { replaced: segments.range(), version: Object::new(segments, base.writes + 1) }
            } else if fills < UNLOCKED_FILLS_MAX {
                fills += 1;
                drop(entry);
                let next = self.next_version(&base, true)?;
                let (entry, now_base) = self.base(precondition, now)?;
                let is_same = (now_base.number, now_base.writes) == (base.number, base.writes);
                drop(now_base); // another part in the version, which would pass for a reader
                if is_same {
                    return Ok(self.enter(entry, base, next, whole, now));
                }
                drop(entry);
                self.take_back(next);
                continue;
            } else {
                self.next_version(&base, false)?
            };
            return Ok(self.enter(entry, base, next, whole, now));
        }
    }

    /// The entry under its lock, and the version that it names, if that is one to be replaced.
    fn base(&self, precondition: &Precondition, now: Now) -> Result<(LockedEntry<'a>, Base), WriteError> {
        let (_, entry, record) = self.local.look_up(self.id, now)?;
        let number = record.place.object().expect("an allocation stays what it is");
        let is_lent = entry.is_lent();
        let (writes, version) = self.local.objects().look(number, |object| {
            let writes = object.writes();
            // What is lent is its upload's alone, or being discarded. And who replaces everything needs nothing of it.
            let is_wanted = self.placement != Placement::Replace && !(object.reads_zero() && is_lent);
            (writes, is_wanted.then(|| Arc::clone(object)))
        });
        precondition.check(writes)?;
        Ok((entry, Base { number, writes, version }))
    }

    /// Another write took the place of the segments that were lent: they are this upload's alone.
    fn take_lent(&mut self) {
        let Filled::Lent(own) = std::mem::replace(&mut self.filled, Filled::Nothing) else { return };
        let own = Arc::into_inner(own).expect("who replaces what is lent lets go of it under the lock");
        self.filled = Filled::Private(own.into_segments());
    }

    /// The content with this body in place of what `base` has there. New memory is taken only where that `may_take` a
    /// moment, which is not so under an entry's lock.
    fn next_version(&mut self, base: &Base, may_take: bool) -> Result<Next, WriteError> {
        let range = self.range();
        let Filled::Private(mut private) = std::mem::replace(&mut self.filled, Filled::Nothing) else {
            unreachable!("what is lent was taken or committed")
        };
        let all = 0..self.local.object_bytes(self.size_bytes);
        let outcome = match &base.version {
            None => self.fit(&mut private, all.clone(), may_take),
            Some(version) => {
                let segments = version.segments();
                let span = segments.span(&range);
                private.keep(&span);
                let held = private.range();
                let start = segments.border_before(span.start.min(held.start));
                let end = segments.border_after(span.end.max(held.end));
                self.fit(&mut private, start..end, may_take)
            }
        };
        let outcome = outcome.and_then(|()| {
            private.zero_outside(&range);
            let held = private.range();
            let Some(version) = &base.version else {
                return Ok((
                    Segments::none(private.upkeep(), 0, self.size_bytes),
                    Segments::none(private.upkeep(), held.end, self.size_bytes),
                ));
            };
            if base.writes > 0 {
                copy(version, &private, held.start..range.start)?;
                copy(version, &private, range.end..held.end)?;
            }
            let (before, behind) = (all.start..held.start, held.end..all.end);
            let segments = version.segments();
            segments.share(before).and_then(|before| Ok((before, segments.share(behind)?))).map_err(too_many)
        });
        match outcome {
            Ok((mut all, behind)) => {
                let replaced = private.range();
                all.append(private);
                all.append(behind);
                Ok(Next { version: Object::new(all, base.writes + 1), replaced })
            }
            Err(error) => {
                self.filled = Filled::Private(private);
                Err(error)
            }
        }
    }

    /// Adds memory to `private` so that it holds `wanted`, which it lies in.
    fn fit(&mut self, private: &mut Segments, wanted: Range<u64>, may_take: bool) -> Result<(), WriteError> {
        let held = private.range();
        let (before, behind) = (held.start - wanted.start, wanted.end - held.end);
        if before + behind == 0 {
            return Ok(());
        }
        // Another write came in between, and its segments begin elsewhere.
        let take = |bytes: u64, start: u64| {
            let backed = match bytes {
                0 => Ok(None),
                _ if may_take => self.local.memory_at_once(Shape::Run(bytes)).map_err(WriteError::NoRoom),
                _ => Ok(None),
            }?;
            if backed.is_none() && bytes > 0 {
                return Err(WriteError::Waited { waited_ms: 0 });
            }
            Ok(Segments::of(private.upkeep(), start, self.size_bytes, backed))
        };
        let taken = take(before, wanted.start).and_then(|first| Ok((first, take(behind, held.end)?)));
        if let Err(WriteError::Waited { .. }) = taken {
            self.wanted = Some(wanted);
        }
        let (mut first, last) = taken?;
        let none = Segments::none(private.upkeep(), held.end, self.size_bytes);
        first.append(std::mem::replace(private, none));
        first.append(last);
        *private = first;
        Ok(())
    }

    /// A version that came to nothing: of its segments only those that this upload filled are kept.
    fn take_back(&mut self, next: Next) {
        let range = self.range();
        let mut segments = next.version.into_segments();
        segments.keep(&range);
        self.filled = Filled::Private(segments);
    }

    /// Makes a version the content.
    fn enter(&mut self, entry: LockedEntry<'_>, base: Base, next: Next, whole: bool, now: Now) -> Written {
        let version = next.version.writes();
        let objects = self.local.objects();
        let number = objects.insert(Arc::new(next.version));
        entry.set_place(Place::of_object(number));
        let was_lent = entry.is_lent();
        entry.set_lent(false);
        let old = objects.remove(base.number);
        drop(base);
        if was_lent {
            // The upload that it is lent to may take it for its own as soon as it sees this. Where that broke off this is
            // the last part of it, which is freed without the lock.
            let old = Arc::into_inner(old);
            drop(entry);
            drop(old);
        } else {
            drop(entry);
            self.local.drains().retire(old, next.replaced, now);
        }
        Written { version, whole }
    }
}

/// Copies what a version has in `range` to the same place.
fn copy(version: &Arc<Object>, private: &Segments, range: Range<u64>) -> Result<(), WriteError> {
    let segments = version.segments();
    for part in segments.parts(range) {
        let pin = Pin::new(&segments.upkeep().heap, part.location).map_err(too_many)?;
        for (offset, bytes) in pin.written(part.within()) {
            private.fill(part.start + offset, bytes);
        }
    }
    Ok(())
}

/// A segment has as many holders as can be counted: those that read it have to go first.
fn too_many(_: memory::AccessError) -> WriteError {
    WriteError::Waited { waited_ms: 0 }
}

impl Drop for ObjectUpload<'_> {
    fn drop(&mut self) {
        match std::mem::replace(&mut self.filled, Filled::Nothing) {
            Filled::Lent(lent) => {
                lent.segments().check_slack();
                self.local.clean_up(self.target, lent, self.range(), Cleaning::Zero);
            }
            Filled::Private(segments) => segments.check_slack(),
            Filled::Nothing => {}
        }
    }
}
