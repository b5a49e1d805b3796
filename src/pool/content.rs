//! Content: what an allocation's bytes are, read as of one instant and written whole or not at all.
//!
//! A version of the content is a segment and its count of writes; the entry's place selects it. Whoever reads holds
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
//! an ordinary segment again. Large objects have many segments: `object.rs` says what is different there.

use super::drain::ReaderWatch;
use super::id::AllocationId;
use super::local::Local;
use super::object::Reading;
use super::place::PlaceKind;
use super::plan::Room;
use super::table::Record;
use super::{NotFound, Written};
use crate::clock::Now;
use crate::memory::{self, AccessError, Edit, Pin};
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;

/// Bodies up to this long are collected and written in one step.
pub const SMALL_WRITE_BYTES: u64 = 64 << 10;

/// The content of an allocation as of one instant.
#[derive(Debug)]
pub struct Content {
    /// All of it, in bytes.
    pub size_bytes: u64,
    /// Writes counted so far; 0 for content that was never written.
    pub version: u64,
    lent: Lent,
}

/// Where content is read from.
#[derive(Debug)]
enum Lent {
    /// It was never written, or was discarded: it is all zeros.
    Zeros,
    Slab(Arc<Pin>),
    Object(Arc<Reading>),
    Copy(Bytes),
}

impl Content {
    /// Content that was copied; none where it was never written.
    pub(super) fn copied(size_bytes: u64, version: u64, bytes: Option<Bytes>) -> Content {
        Content { size_bytes, version, lent: bytes.map_or(Lent::Zeros, Lent::Copy) }
    }

    /// Sees whether anything of this read is left, and whether it has to end. None for content that was never
    /// written, or is a copy: it holds no block.
    pub fn watch(&self) -> Option<ReaderWatch> {
        match &self.lent {
            Lent::Zeros | Lent::Copy(_) => None,
            Lent::Slab(pin) => Some(ReaderWatch::of_slab(pin)),
            Lent::Object(reading) => Some(ReaderWatch::of_object(reading)),
        }
    }

    /// The bytes of `range` in order, without a copy. The version is held until the last piece is dropped.
    ///
    /// # Panics
    /// If `range` is not inside the content.
    pub fn read(self, range: Range<u64>) -> Box<dyn Iterator<Item = Bytes> + Send> {
        assert!(range.end <= self.size_bytes, "{range:?} is outside {} bytes", self.size_bytes);
        match self.lent {
            Lent::Zeros => Box::new(zeros(range.end - range.start)),
            Lent::Slab(pin) => Box::new(pin.read(range)),
            Lent::Object(reading) => Box::new(reading.read(range)),
            Lent::Copy(bytes) => {
                let at = |place: u64| usize::try_from(place).expect("it lies in memory");
                Box::new(std::iter::once(bytes.slice(at(range.start)..at(range.end))))
            }
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
    pub(super) fn offset(self) -> u64 {
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
    pub(super) fn check_early(&self, version: u64) -> Result<(), WriteError> {
        match &self.if_match {
            Some(Versions::OneOf(named)) if named.iter().all(|named| *named < version) => {
                Err(WriteError::PreconditionFailed { version })
            }
            _ => Ok(()),
        }
    }

    pub(super) fn check(&self, version: u64) -> Result<(), WriteError> {
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
    /// The in-flight budget has no room for the body, which is collected before it is applied.
    #[error(
        "a body that has come to {received_bytes} bytes does not fit beside {held_bytes} of {bytes_max} bytes on their way"
    )]
    Inflight {
        /// Bytes of it that have come.
        received_bytes: u64,
        /// Bytes that others have on their way.
        held_bytes: u64,
        /// Bytes that may be.
        bytes_max: u64,
    },
}

impl Local {
    pub(super) fn read(&self, id: AllocationId, now: Now) -> Result<Content, ReadError> {
        if id.is_member() {
            return Ok(self.read_member(id, now)?);
        }
        let (_, entry, record) = self.look_up(id, now)?;
        entry.touch(now);
        // Before the first write the segments may be lent to an upload, whose bytes nobody sees before it commits.
        let (version, lent) = match record.place.kind() {
            PlaceKind::Slab(location) => match self.heap().writes(location) {
                0 => (0, Lent::Zeros),
                version => {
                    let pin = Pin::new(self.heap(), location).map_err(|_| ReadError::TooManyReaders)?;
                    (version, Lent::Slab(Arc::new(pin)))
                }
            },
            PlaceKind::Object(number) => {
                let (version, reading) = self.objects().read(number).ok_or(ReadError::TooManyReaders)?;
                (version, reading.map_or(Lent::Zeros, |reading| Lent::Object(Arc::new(reading))))
            }
        };
        Ok(Content { size_bytes: record.size_bytes, version, lent })
    }

    /// Writes a small body, all of which is there: in place if nobody reads, else as a new version.
    pub(super) async fn write(
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
        if id.is_member() {
            return self.write_member(id, placement, &slices, precondition, now);
        }
        {
            let (_, entry, record) = self.look_up(id, now)?;
            let end_bytes = check_end(placement, length, record.size_bytes)?;
            let version = self.writes(&record);
            precondition.check(version)?;
            let whole = placement == Placement::Replace && length == record.size_bytes;
            if length == 0 && placement != Placement::Replace {
                return Ok(Written { version, whole });
            }
            entry.touch(now);
            let slab = match record.place.kind() {
                _ if entry.is_lent() => None,
                PlaceKind::Slab(location) => Some(location),
                PlaceKind::Object(number) => {
                    if self.objects().write_in_place(number, placement, &slices) {
                        return Ok(Written { version: version + 1, whole });
                    }
                    None
                }
            };
            if let Some(location) = slab {
                let edit = Edit {
                    zero_outside: (placement == Placement::Replace).then_some(0..end_bytes),
                    offset: placement.offset(),
                    pieces: &slices,
                    writes: Some(version + 1),
                };
                // The lock keeps new readers out; without old ones nobody can see the bytes change.
                match self.heap().edit(location, &edit) {
                    Ok(()) => return Ok(Written { version: version + 1, whole }),
                    Err(AccessError::Shared) => {}
                    Err(error) => unreachable!("the segment of a live allocation: {error}"),
                }
            }
        }
        let mut upload = self.upload_private(id, (placement, Some(length)), room, now).await?;
        for piece in pieces {
            upload.push(piece)?;
        }
        upload.finish(precondition, now).await
    }
}

impl Local {
    /// Writes counted on the content of an allocation whose entry is locked.
    pub(super) fn writes(&self, record: &Record) -> u64 {
        match record.place.kind() {
            PlaceKind::Slab(location) => self.heap().writes(location),
            PlaceKind::Object(number) => self.objects().writes(number),
        }
    }
}

impl Local {
    /// Whether a small write that was not done in place may be when others are gone.
    pub(super) fn may_be_written_in_place(&self, id: AllocationId, now: Now) -> bool {
        let Ok((_, entry, record)) = self.look_up(id, now) else { return true };
        match record.place.kind() {
            PlaceKind::Slab(_) => true,
            PlaceKind::Object(number) => entry.is_lent() || self.objects().is_shared(number),
        }
    }
}

/// Where a body of `length` ends, if that is inside the allocation.
pub(super) fn check_end(placement: Placement, length: u64, size_bytes: u64) -> Result<u64, WriteError> {
    let end_bytes = placement.offset().saturating_add(length);
    if end_bytes > size_bytes { Err(WriteError::PastEnd { end_bytes, size_bytes }) } else { Ok(end_bytes) }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests;
