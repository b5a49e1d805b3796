//! Content: what an allocation's bytes are, read as of one instant and written whole or not at all.
//!
//! A version of the content is a segment and its count of writes; the entry's location selects it. Whoever reads holds
//! the segment, so its bytes stay as they were, however long that takes. A write goes one of three ways:
//!
//! ```text
//!   small, nobody reads   in place, under the entry's lock
//!   anything else         into a private segment; commit: fill the edges from the version that is replaced, lock,
//!                         and if that version is still the one, store the new location; else fill again
//!   first upload          into the allocation's own segment, which is lent: readers see zeros until it commits
//! ```
//!
//! A write that breaks off leaves no trace: a private segment is scrubbed and freed, a lent one scrubbed before it is
//! an ordinary segment again.

use super::drain::ReaderWatch;
use super::id::{AllocationId, Key};
use super::local::Local;
use super::plan::Room;
use super::{NotFound, Written};
use crate::clock::Now;
use crate::memory::{self, AccessError, Edit, Heap, Pin, SlabLocation};
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;

/// Bodies up to this long are collected and written in one step.
pub const SMALL_WRITE_BYTES: u64 = 64 << 10;

/// Times that an upload fills its edges beside other writers, before it does so under the entry's lock.
const UNLOCKED_FILLS_MAX: u32 = 2;

/// The content of an allocation as of one instant.
#[derive(Debug)]
pub struct Content {
    /// All of it, in bytes.
    pub size_bytes: u64,
    /// Writes counted so far; 0 for content that was never written.
    pub version: u64,
    /// None for content that was never written: it is all zeros.
    pin: Option<Arc<Pin>>,
}

impl Content {
    /// Sees whether anything of this read is left, and whether it has to end. None for content that was never
    /// written: it holds nothing.
    pub fn watch(&self) -> Option<ReaderWatch> {
        self.pin.as_ref().map(|pin| ReaderWatch(Arc::downgrade(pin)))
    }

    /// The bytes of `range` in order, without a copy. The version is held until the last piece is dropped.
    ///
    /// # Panics
    /// If `range` is not inside the content.
    pub fn read(self, range: Range<u64>) -> Box<dyn Iterator<Item = Bytes> + Send> {
        assert!(range.end <= self.size_bytes, "{range:?} is outside {} bytes", self.size_bytes);
        match self.pin {
            Some(pin) => Box::new(pin.read(range)),
            None => Box::new(zeros(range.end - range.start)),
        }
    }
}

/// `bytes` zeros, in pieces of the static buffer.
fn zeros(bytes: u64) -> impl Iterator<Item = Bytes> {
    let step = memory::ZEROS.len() as u64;
    (0..bytes.div_ceil(step)).map(move |piece| {
        let length = usize::try_from((bytes - piece * step).min(step)).expect("at most the buffer's length");
        Bytes::from_static(&memory::ZEROS[..length])
    })
}

/// Where a body goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// It is all of the content; what it leaves over becomes zeros.
    Replace,
    /// It goes to this offset; everything else stays.
    Patch {
        /// The first byte that is written.
        offset: u64,
    },
}

impl Placement {
    fn offset(self) -> u64 {
        match self {
            Placement::Replace => 0,
            Placement::Patch { offset } => offset,
        }
    }
}

/// Versions that a client names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Versions {
    /// `*`: whatever it is.
    Any,
    /// One of these.
    OneOf(Vec<u64>),
}

impl Versions {
    /// Whether `version` is one of them.
    pub fn contain(&self, version: u64) -> bool {
        match self {
            Versions::Any => true,
            Versions::OneOf(versions) => versions.contains(&version),
        }
    }
}

/// What must be true of the content at the instant a write is applied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Precondition {
    /// The version is one of these.
    pub if_match: Option<Versions>,
    /// The version is none of these.
    pub if_none_match: Option<Versions>,
}

impl Precondition {
    /// Refuses what can never hold any more: versions only grow, so one that is named and past never comes back.
    fn check_early(&self, version: u64) -> Result<(), WriteError> {
        match &self.if_match {
            Some(Versions::OneOf(named)) if named.iter().all(|named| *named < version) => {
                Err(WriteError::PreconditionFailed { version })
            }
            _ => Ok(()),
        }
    }

    fn check(&self, version: u64) -> Result<(), WriteError> {
        let matches = self.if_match.as_ref().is_none_or(|versions| versions.contain(version))
            && self.if_none_match.as_ref().is_none_or(|versions| !versions.contain(version));
        if matches { Ok(()) } else { Err(WriteError::PreconditionFailed { version }) }
    }
}

/// Why content cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// There is no such allocation.
    #[error(transparent)]
    NotFound(#[from] NotFound),
    /// More readers than can be counted.
    #[error("the content has as many readers as can be counted")]
    TooManyReaders,
}

/// Why content cannot be written. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// There is no such allocation, or it ended while the body came.
    #[error(transparent)]
    NotFound(#[from] NotFound),
    /// The content is not what the client takes it to be.
    #[error("the content's version is {version}")]
    PreconditionFailed {
        /// The version it has.
        version: u64,
    },
    /// The body does not fit.
    #[error("the body ends at {end_bytes}, beyond the {size_bytes} bytes of the allocation")]
    PastEnd {
        /// Where the body ends, or would end at least.
        end_bytes: u64,
        /// Size of the allocation.
        size_bytes: u64,
    },
    /// There is no room for a second version, and no reader stands in the way of one.
    #[error("a write beside readers, or of more than 64 KiB, takes room for both versions: {0}")]
    NoRoom(memory::AllocateError),
    /// Readers, or other writers, held the room until the wait was over.
    #[error("readers or other writers held the room for a second version for {waited_ms} ms")]
    Waited {
        /// How long the write waited for them.
        waited_ms: u64,
    },
}

/// What a write has to find as it left it, to be the next version of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Base {
    location: SlabLocation,
    version: u64,
}

impl Local {
    pub(super) fn read(&self, id: AllocationId, now: Now) -> Result<Content, ReadError> {
        let (_, _entry, record) = self.look_up(id, now)?;
        let version = self.heap().writes(record.location);
        let pin = match version {
            // Its segment may be lent to an upload, whose bytes nobody sees before it commits.
            0 => None,
            _ => {
                let pin = Pin::new(self.heap(), record.location).map_err(|_| ReadError::TooManyReaders)?;
                Some(Arc::new(pin))
            }
        };
        Ok(Content { size_bytes: record.size_bytes, version, pin })
    }

    /// Writes a small body, all of which is there: in place if nobody reads, else as a new version.
    pub(super) fn write(
        &self,
        id: AllocationId,
        placement: Placement,
        pieces: &[Bytes],
        precondition: &Precondition,
        room: Option<Room<'_>>,
        now: Now,
    ) -> Result<Written, WriteError> {
        let length: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
        let slices: Vec<&[u8]> = pieces.iter().map(Bytes::as_ref).collect();
        {
            let (_, entry, record) = self.look_up(id, now)?;
            let end_bytes = check_end(placement, length, record.size_bytes)?;
            let version = self.heap().writes(record.location);
            precondition.check(version)?;
            let whole = placement == Placement::Replace && length == record.size_bytes;
            if length == 0 && placement != Placement::Replace {
                return Ok(Written { version, whole });
            }
            if !entry.is_lent() {
                let edit = Edit {
                    zero_outside: (placement == Placement::Replace).then_some(0..end_bytes),
                    offset: placement.offset(),
                    pieces: &slices,
                    writes: Some(version + 1),
                };
                // The lock keeps new readers out; without old ones nobody can see the bytes change.
                match self.heap().edit(record.location, &edit) {
                    Ok(()) => return Ok(Written { version: version + 1, whole }),
                    Err(AccessError::Shared) => {}
                    Err(error) => unreachable!("the segment of a live allocation: {error}"),
                }
            }
        }
        let mut upload = self.upload_private(id, placement, room, now)?;
        for piece in pieces {
            upload.push(piece)?;
        }
        upload.commit(precondition, now)
    }

    /// Begins an upload: into the allocation's own segment if it was never written and nobody else does, else into a
    /// private one.
    pub(super) fn upload(
        &self,
        id: AllocationId,
        placement: Placement,
        precondition: &Precondition,
        room: Option<Room<'_>>,
        now: Now,
    ) -> Result<Upload<'_>, WriteError> {
        {
            let (index, entry, record) = self.look_up(id, now)?;
            check_end(placement, 0, record.size_bytes)?;
            precondition.check_early(self.heap().writes(record.location))?;
            if self.heap().writes(record.location) == 0 && !entry.is_lent() {
                entry.set_lent(true);
                return Ok(Upload::new(
                    self,
                    id,
                    (index, record.key),
                    record.location,
                    true,
                    placement,
                    record.size_bytes,
                ));
            }
        }
        self.upload_private(id, placement, room, now)
    }

    /// Begins an upload into a segment of its own: from `room`, where that was granted already.
    fn upload_private(
        &self,
        id: AllocationId,
        placement: Placement,
        room: Option<Room<'_>>,
        now: Now,
    ) -> Result<Upload<'_>, WriteError> {
        let (index, key, size_bytes, class) = {
            let (index, _entry, record) = self.look_up(id, now)?;
            (index, record.key, record.size_bytes, record.location.class())
        };
        let location = match room {
            Some(mut room) => room.back(class),
            None => self.take_slab(class, now),
        };
        let location = location.map_err(WriteError::NoRoom)?;
        Ok(Upload::new(self, id, (index, key), location, false, placement, size_bytes))
    }
}

/// Where a body of `length` ends, if that is inside the allocation.
fn check_end(placement: Placement, length: u64, size_bytes: u64) -> Result<u64, WriteError> {
    let end_bytes = placement.offset().saturating_add(length);
    if end_bytes > size_bytes { Err(WriteError::PastEnd { end_bytes, size_bytes }) } else { Ok(end_bytes) }
}

/// A body on its way into an allocation. Nobody sees anything of it before [`Upload::commit`]; dropped before that, it
/// leaves no trace.
#[derive(Debug)]
pub struct Upload<'a> {
    local: &'a Local,
    id: AllocationId,
    /// The entry and the key it must still have.
    target: (u32, Key),
    /// The segment that is filled. Ours, or lent.
    location: SlabLocation,
    lent: bool,
    placement: Placement,
    size_bytes: u64,
    received_bytes: u64,
    /// The version that the edges were filled from; none: they are zeros.
    edges_from: Option<Base>,
    /// Nothing is left to clean up.
    committed: bool,
}

impl<'a> Upload<'a> {
    fn new(
        local: &'a Local,
        id: AllocationId,
        target: (u32, Key),
        location: SlabLocation,
        lent: bool,
        placement: Placement,
        size_bytes: u64,
    ) -> Upload<'a> {
        Upload {
            local,
            id,
            target,
            location,
            lent,
            placement,
            size_bytes,
            received_bytes: 0,
            edges_from: None,
            committed: false,
        }
    }

    fn heap(&self) -> &'a Heap {
        self.local.heap()
    }

    /// Size of the allocation, in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Takes the next piece of the body.
    ///
    /// # Errors
    /// [`WriteError`] where the allocation has ended, or the body is longer than fits.
    pub fn push(&mut self, piece: &[u8]) -> Result<(), WriteError> {
        let (index, key) = self.target;
        if !self.local.table().used(index).is_live(key) {
            return Err(NotFound(self.id).into());
        }
        let received = self.received_bytes + piece.len() as u64;
        check_end(self.placement, received, self.size_bytes)?;
        let offset = self.placement.offset() + self.received_bytes;
        self.fill(&Edit { offset, pieces: &[piece], ..Edit::default() });
        self.received_bytes = received;
        Ok(())
    }

    /// Changes the segment that is filled. Nobody else holds it: it is ours, or it is lent and reads as version 0.
    fn fill(&self, edit: &Edit<'_>) {
        self.heap().edit(self.location, edit).expect("nobody else holds a segment that is being filled");
    }

    /// Makes what was pushed the content.
    ///
    /// # Errors
    /// [`WriteError`] where the allocation has ended, or the precondition does not hold at that instant.
    pub fn commit(mut self, precondition: &Precondition, now: Now) -> Result<Written, WriteError> {
        let offset = self.placement.offset();
        let range = offset..offset + self.received_bytes;
        let whole = self.placement == Placement::Replace && self.received_bytes == self.size_bytes;
        // Small writes may go on without end while edges are filled: the last fill keeps them out.
        let (mut fills, mut kept_pins) = (0, Vec::new());
        let mut kept = None;
        loop {
            let (entry, record) = match kept.take() {
                Some(locked) => locked,
                None => {
                    let (_, entry, record) = self.local.look_up(self.id, now)?;
                    (entry, record)
                }
            };
            let version = self.heap().writes(record.location);
            precondition.check(version)?;
            if range.is_empty() && self.placement != Placement::Replace {
                return Ok(Written { version, whole });
            }
            let next = Edit { writes: Some(version + 1), ..Edit::default() };
            if self.lent && entry.is_lent() && record.location == self.location {
                // Still the only version, and its own segment: it becomes visible as it is.
                self.fill(&next);
                entry.set_lent(false);
                self.committed = true;
                drop(entry);
                self.local.room_freed(); // a write may wait for just this upload
                return Ok(Written { version: 1, whole });
            }
            let base = Base { location: record.location, version };
            let edges_are_right = match self.placement {
                Placement::Replace => true,
                // Version 0 is zeros, as are edges that were never filled.
                Placement::Patch { .. } => {
                    self.edges_from == Some(base) || version == 0 && self.edges_from.is_none()
                }
            };
            if edges_are_right {
                self.fill(&next);
                entry.set_location(self.location);
                // A segment that is lent to another upload is that one's to free from now on.
                let old_is_lent = entry.is_lent();
                entry.set_lent(false);
                self.committed = true;
                drop(entry);
                if !old_is_lent {
                    self.local.drains().free(self.heap(), base.location, now);
                }
                return Ok(Written { version: version + 1, whole });
            }
            let pin = (version > 0).then(|| Pin::new(self.local.heap(), base.location));
            fills += 1;
            if fills > UNLOCKED_FILLS_MAX {
                kept = Some((entry, record));
            } else {
                drop(entry);
            }
            self.fill(&Edit { zero_outside: Some(range.clone()), ..Edit::default() });
            // With more readers than can be counted there is no holding it: look again.
            if let Some(Ok(pin)) = pin {
                for (offset, bytes) in
                    pin.written(0..range.start).chain(pin.written(range.end..self.size_bytes))
                {
                    self.fill(&Edit { offset, pieces: &[bytes], ..Edit::default() });
                }
                self.edges_from = Some(base);
                if kept.is_some() {
                    kept_pins.push(pin); // the last holder scrubs: not under an entry's lock
                }
            } else {
                self.edges_from = (version == 0).then_some(base);
            }
        }
    }
}

impl Drop for Upload<'_> {
    fn drop(&mut self) {
        if self.committed {
            return;
        }
        if self.lent {
            let (index, key) = self.target;
            let entry = self.local.table().used(index);
            let is_ours = || {
                let locked = entry.lock();
                let live =
                    locked.read().is_some_and(|record| record.key == key && record.location == self.location);
                (live && locked.is_lent()).then_some(locked)
            };
            if is_ours().is_some() {
                // Still lent: nobody sees what is zeroed here, and nobody else writes there.
                self.fill(&Edit { zero_outside: Some(0..0), ..Edit::default() });
                if let Some(locked) = is_ours() {
                    locked.set_lent(false);
                    drop(locked);
                    return self.local.room_freed(); // a write may wait for just this upload
                }
            }
        }
        self.heap().free(self.location);
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests;
